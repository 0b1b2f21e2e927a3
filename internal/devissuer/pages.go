package devissuer

import (
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
)

const style = `body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:40rem;padding:0 1rem;color:#1b1b1b;background:#fff}
.warn{border:3px solid #b00020;padding:.5rem 1rem;font-weight:600}
button{font:inherit;display:block;width:100%;text-align:left;margin:.4rem 0;padding:.6rem .8rem;border:1px solid #555;border-radius:4px;background:#f4f4f4;color:#1b1b1b;cursor:pointer}
button:disabled{color:#5a5a5a;cursor:default}
small{display:block;color:#444}
input{font:inherit;padding:.5rem;border:1px solid #555;border-radius:4px}`

// styleHash lets this style in, and no other, by the pages' content security policy.
var styleHash = func() string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

// view is what a page shows.
type view struct {
	Title, Note string
	Field, Key  string // the form's, and what it is the form of
	Accounts    []Account
	EnterCode   bool
	Style       template.CSS
}

var pages = template.Must(template.New("page").Funcs(template.FuncMap{"join": strings.Join}).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title><style>{{.Style}}</style></head>
<body><main>
<p class="warn">This is the demo's issuer, and NOT for production. It asks nobody for a password: whoever is on this machine may sign in as anybody.</p>
<h1>{{.Title}}</h1>
{{if .Note}}<p>{{.Note}}</p>{{end}}
{{if .EnterCode}}<form method="get"><label>Code that the device shows: <input name="user_code" autocomplete="off" autofocus></label> <button>Go on</button></form>{{end}}
{{if .Key}}<form method="post"><input type="hidden" name="{{.Field}}" value="{{.Key}}">
{{range .Accounts}}<button name="account" value="{{.Name}}"{{if .Disabled}} disabled{{end}}>{{.Name}}<small>{{if .Disabled}}disabled{{else}}{{if .Roles}}roles {{join .Roles ", "}}{{else}}no role{{end}}{{if .Groups}}; groups {{join .Groups ", "}}{{end}}{{end}}</small></button>
{{end}}<button name="account" value="">Cancel</button></form>{{end}}
</main></body></html>
`))

func (i *Issuer) page(w http.ResponseWriter, status int, v view) {
	v.Style = style
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = pages.Execute(w, v) // the caller has gone away: nobody is left to be told
}

func (i *Issuer) failure(w http.ResponseWriter, status int, what string) {
	i.page(w, status, view{Title: "Not signed in", Note: what})
}

// chooserLocked shows the accounts; field and key say what is chosen for.
func (i *Issuer) chooserLocked(w http.ResponseWriter, title, note, field, key string) {
	v := view{Title: title, Note: note, Field: field, Key: key}
	for _, a := range i.cfg.Accounts {
		v.Accounts = append(v.Accounts, i.accounts[a.Name])
	}
	i.page(w, http.StatusOK, v)
}

func (i *Issuer) enterCode(w http.ResponseWriter, note string) {
	status := http.StatusOK
	if note != "" {
		status = http.StatusNotFound
	}
	i.page(w, status, view{Title: "Sign in on a device", Note: note, EnterCode: true})
}

func (i *Issuer) front(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"what":      "the demo's OpenID Connect issuer, without passwords; not for production",
		"issuer":    i.issuer,
		"discovery": i.issuer + "/.well-known/openid-configuration",
		"control": map[string]string{
			"GET /_dev/accounts":  "who there is",
			"POST /_dev/accounts": `{"name":NAME} with "disabled":true|false, "groups":[…] or "roles":[…]: from now on`,
		},
	})
}

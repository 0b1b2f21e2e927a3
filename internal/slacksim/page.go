package slacksim

import (
	"context"
	"html"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
)

// The page shows the channel to one of its users, who may press buttons. It is plain on purpose: no script, a reload every few seconds.

type shownButton struct{ Action, Label, Style string }

// shownBlock is one block: a heading, a text, small print, or fields.
type shownBlock struct {
	Head, Text, Small template.HTML
	Fields            []template.HTML
}

type shownMessage struct {
	TS      string
	Blocks  []shownBlock
	Buttons []shownButton
	Edits   int
	Reply   bool
	Private []template.HTML // what only the user sees
}

type shown struct {
	Users    []string
	As       string
	Messages []shownMessage
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="4"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>A stand-in for Slack</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1d1c1d;background:#fff}
nav a{margin-right:.8rem}nav a[aria-current]{font-weight:700;text-decoration:none;color:inherit}
article{border:1px solid #ddd;border-radius:8px;padding:.6rem 1rem;margin:1rem 0}article.reply{margin-left:2rem}
h2{font-size:1rem;margin:.2rem 0}p,.fields div{margin:.3rem 0;white-space:pre-line}small{color:#616061}
.fields{display:grid;grid-template-columns:1fr 1fr;gap:0 1rem}
button{font:inherit;padding:.35rem .8rem;margin:.3rem .4rem 0 0;border:1px solid #868686;border-radius:6px;background:#fff;color:#1d1c1d}
button.primary{background:#007a5a;border-color:#007a5a;color:#fff}button.danger{background:#c0102f;border-color:#c0102f;color:#fff}
.private{border-left:3px solid #616061;padding-left:.7rem;margin-top:.5rem}
form{display:inline}
</style></head><body>
<h1>A stand-in for Slack</h1>
<p>It checks what Slack would check. You are <b>{{.As}}</b> here.</p>
<nav aria-label="User">{{range .Users}}<a href="?as={{.}}"{{if eq . $.As}} aria-current="page"{{end}}>{{.}}</a> {{end}}</nav>
{{range .Messages}}<article{{if .Reply}} class="reply"{{end}}>
{{range .Blocks}}{{if .Head}}<h2>{{.Head}}</h2>
{{end}}{{if .Text}}<p>{{.Text}}</p>
{{end}}{{if .Small}}<p><small>{{.Small}}</small></p>
{{end}}{{if .Fields}}<div class="fields">{{range .Fields}}<div>{{.}}</div>{{end}}</div>
{{end}}{{end}}{{$ts := .TS}}{{range .Buttons}}<form method="post" action="press"><input type="hidden" name="ts" value="{{$ts}}"><input type="hidden" name="as" value="{{$.As}}"><button name="action" value="{{.Action}}" class="{{.Style}}">{{.Label}}</button></form>{{end}}
{{if .Edits}}<p><small>(edited)</small></p>{{end}}
{{range .Private}}<div class="private"><small>Only visible to you</small><p>{{.}}</p></div>
{{end}}</article>
{{else}}<p>Nothing has been posted yet.</p>
{{end}}</body></html>
`))

var bold = regexp.MustCompile(`\*([^*\n]+)\*`)

// marked shows Slack's own markup, as far as a reader needs it: its entities, and bold.
func marked(s string) template.HTML {
	s = template.HTMLEscapeString(html.UnescapeString(s))
	return template.HTML(bold.ReplaceAllString(s, "<b>$1</b>")) //nolint:gosec // escaped above
}

// written shows a text object: in one of the type plain_text Slack reads no markup.
func written(v any) template.HTML {
	if t, _ := v.(map[string]any); text(t["type"]) == "plain_text" {
		return template.HTML(template.HTMLEscapeString(said(v))) //nolint:gosec // escaped
	}
	return marked(said(v))
}

// said is the text of a text object.
func said(v any) string {
	t, _ := v.(map[string]any)
	return text(t["text"])
}

func blockOf(b map[string]any) (out shownBlock) {
	switch text(b["type"]) {
	case "header":
		out.Head = written(b["text"])
	case "section":
		out.Text = written(b["text"])
		fields, _ := b["fields"].([]any)
		for _, f := range fields {
			out.Fields = append(out.Fields, written(f))
		}
	case "context":
		es, _ := b["elements"].([]any)
		for i, e := range es {
			if i > 0 {
				out.Small += "\n"
			}
			out.Small += written(e)
		}
	}
	return out
}

func (s *Slack) pages(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", s.show)
	mux.Handle("POST /press", http.NewCrossOriginProtection().Handler(http.HandlerFunc(s.pressed)))
}

func (s *Slack) user(name string) string {
	if slices.Contains(s.Users, name) {
		return name
	}
	if len(s.Users) > 0 {
		return s.Users[0]
	}
	return "somebody"
}

func (s *Slack) show(w http.ResponseWriter, r *http.Request) {
	v := shown{Users: s.Users, As: s.user(r.URL.Query().Get("as"))}
	answers := s.Answers()
	for _, m := range s.Messages() {
		x := shownMessage{TS: m.TS, Edits: m.Edits, Reply: m.Thread != ""}
		if len(m.Blocks) == 0 {
			x.Blocks = []shownBlock{{Text: marked(m.Text)}}
		}
		for _, b := range m.Blocks {
			x.Blocks = append(x.Blocks, blockOf(b))
			es, _ := b["elements"].([]any)
			for _, e := range es {
				if el, _ := e.(map[string]any); text(el["type"]) == "button" {
					x.Buttons = append(x.Buttons, shownButton{text(el["action_id"]), said(el["text"]), text(el["style"])})
				}
			}
		}
		for _, a := range answers {
			if a.TS == m.TS && a.Ephemeral && a.User == UserID(v.As) {
				x.Private = append(x.Private, marked(a.Text))
			}
		}
		v.Messages = append(v.Messages, x)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	_ = pageTemplate.Execute(w, v)
}

func (s *Slack) pressed(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	as, ts, action := s.user(r.PostFormValue("as")), r.PostFormValue("ts"), r.PostFormValue("action")
	for _, m := range s.Messages() {
		if m.TS != ts {
			continue
		}
		status, err := s.Press(context.WithoutCancel(r.Context()), s.Target, m, action, UserID(as), s.now())
		if err != nil || status != http.StatusOK {
			http.Error(w, "the app did not take the press", http.StatusBadGateway)
			return
		}
	}
	http.Redirect(w, r, "./?as="+url.QueryEscape(as), http.StatusSeeOther)
}

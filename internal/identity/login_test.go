package identity_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/identity"
)

func TestSignInThroughABrowser(t *testing.T) {
	w := open(t, nil)
	got := w.in(object{"roles": []string{"Curfew.Approver", "curfew.admin"}})
	if got.Name != "dora@example.com" || strings.Join(got.Roles, " ") != "requester approver" || strings.Join(got.Groups, " ") != "G-PLATFORM platform" ||
		!got.ExpiresAt.Equal(start.Add(12*time.Hour)) || !strings.HasPrefix(got.Token, identity.SessionPrefix) {
		t.Fatalf("got %+v", got)
	}
	c, err := w.bearer(got.Token)
	if err != nil || c.Name != got.Name || !slices.Equal(c.Roles, []access.Role{access.Requester, access.Approver}) || c.Kind != access.Person || c.Session == "" {
		t.Fatalf("got %+v, %v", c, err)
	}
	form := w.iss.asked[0]
	if form.Get("client_secret") != "s3cret" || form.Get("redirect_uri") != "https://curfew.example.com/login/callback" || form.Get("code") != "code-1" {
		t.Errorf("the issuer was asked %v", form)
	}
	es := w.entries("session.start", audit.Done)
	if len(es) != 1 || es[0].Actor != got.Name || es[0].Detail["from"] != here.String() {
		t.Errorf("the log: %+v", es)
	}
	for _, e := range es {
		if strings.Contains(fmt.Sprint(e), got.Token) || strings.Contains(fmt.Sprint(e), "rt-") {
			t.Errorf("a secret stands in the log: %+v", e)
		}
	}
	// In other words, the token is not in the database either.
	if _, err := w.bearer(got.Token + "x"); err == nil {
		t.Error("another token was taken")
	}
}

// Each token is as it must be, but for one thing.
func TestBadTokens(t *testing.T) {
	in := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for name, test := range map[string]struct {
		claims object
		sign   func(*testing.T, object) string
		words  string
	}{
		"expired":                  {claims: object{"exp": in(-2 * time.Minute)}, words: "it was over 2m0s ago when the issuer gave it"},
		"expired just now":         {claims: object{"exp": in(-time.Minute)}, words: "it was over"},
		"without an end":           {claims: object{"exp": nil}, words: "no end"},
		"not yet":                  {claims: object{"nbf": in(2 * time.Minute)}, words: "good only in 2m0s"},
		"the server an hour slow":  {claims: object{"iat": in(time.Hour), "nbf": in(time.Hour), "exp": in(2 * time.Hour)}, words: "one of the clocks is wrong"},
		"the server an hour fast":  {claims: object{"iat": in(-time.Hour), "nbf": in(-time.Hour), "exp": in(5 * time.Minute)}, words: "one of the clocks is wrong"},
		"without a beginning":      {claims: object{"iat": nil}, words: "does not say when"},
		"a time that is none":      {claims: object{"exp": "tomorrow"}, words: ""},
		"for another audience":     {claims: object{"aud": "other"}, words: "audience"},
		"for several":              {claims: object{"aud": []string{client, "other"}}, words: "several applications"},
		"made for another":         {claims: object{"aud": []string{client, "other"}, "azp": "other"}, words: "another application"},
		"of another issuer":        {claims: object{"iss": "https://evil.example/v2.0"}, words: "another issuer"},
		"of a like issuer":         {claims: object{"iss": "https://login.example.com.evil.example"}, words: "another issuer"},
		"of another tenant":        {claims: object{"tid": "22222222-0000-4000-8000-000000000002"}, words: "not among those"},
		"without a tenant":         {claims: object{"tid": nil}, words: "of which tenant"},
		"a tenant that is no text": {claims: object{"tid": []string{tenant}}, words: "no text"},
		"without an object id":     {claims: object{"oid": nil}, words: "oid"},
		"without a nonce":          {claims: object{"nonce": nil}, words: "nonce"},
		"with another nonce":       {claims: object{"nonce": "x"}, words: "nonce"},
		"about nobody":             {claims: object{"sub": nil}, words: "whom it is about"},
		"without a name":           {claims: object{"preferred_username": nil, "sub": " "}, words: "no claim"},
		"groups that are none":     {claims: object{"groups": object{"a": 1}}, words: "neither a text nor a list"},
		"roles that are none":      {claims: object{"roles": 7}, words: "neither a text nor a list"},
		"unsigned":                 {sign: func(_ *testing.T, c object) string { return unsigned(c) }, words: "cannot be believed"},
		"unsigned, the header as others write it": {sign: func(t *testing.T, c object) string {
			s := signed(t, jose.RS256, keys().rsa, "k1", c)
			return s[:strings.LastIndex(s, ".")+1]
		}, words: "cannot be believed"},
		"HS256 with the public key": {sign: func(t *testing.T, c object) string {
			pub, _ := (&jose.JSONWebKey{Key: keys().rsa.Public(), KeyID: "k1"}).MarshalJSON()
			return signed(t, jose.HS256, pub, "k1", c)
		}, words: "cannot be believed"},
		"RS512, which is not taken":     {sign: func(t *testing.T, c object) string { return signed(t, jose.RS512, keys().rsa, "k1", c) }, words: "cannot be believed"},
		"with another key of that name": {sign: func(t *testing.T, c object) string { return signed(t, jose.RS256, keys().other, "k1", c) }, words: "signature"},
		"with a key that is not known":  {sign: func(t *testing.T, c object) string { return signed(t, jose.RS256, keys().other, "k9", c) }, words: "key"},
		"with a key in its own header": {sign: func(t *testing.T, c object) string {
			s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: keys().other}, &jose.SignerOptions{EmbedJWK: true})
			if err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(c)
			sig, err := s.Sign(b)
			if err != nil {
				t.Fatal(err)
			}
			out, _ := sig.CompactSerialize()
			return out
		}, words: "cannot be believed"},
		"changed after it was signed": {sign: func(t *testing.T, c object) string {
			a := strings.Split(signed(t, jose.RS256, keys().rsa, "k1", c), ".")
			b := strings.Split(signed(t, jose.RS256, keys().rsa, "k1", with(c, object{"oid": "o-admin"})), ".")
			return a[0] + "." + b[1] + "." + a[2]
		}, words: "signature"},
		"no token at all": {sign: func(*testing.T, object) string { return "" }, words: "no id_token"},
		"rubbish":         {sign: func(*testing.T, object) string { return "a.b.c" }, words: "cannot be believed"},
		"huge":            {sign: func(*testing.T, object) string { return strings.Repeat("a", 5<<20) }, words: ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			w.iss.say(test.claims)
			if test.sign != nil {
				w.iss.set(func() { w.iss.sign = func(c object) string { return test.sign(t, c) } })
			}
			_, err := w.tryIn()
			if name == "huge" { // what is too large was not read: it may be anything
				wantCode(t, err, access.CodeUnavailable, "")
				return
			}
			wantCode(t, err, access.CodeUnauthenticated, test.words)
			if as, _ := w.s.Broker.Accounts(t.Context(), access.Caller{Name: "carol", Roles: []access.Role{access.Admin}}); len(as) != 0 {
				t.Errorf("an account was made: %+v", as)
			}
			if es := w.entries("session.start", audit.Refused); len(es) != 1 {
				t.Errorf("the log holds %d refusals: %v", len(es), es)
			}
		})
	}
	// The same with nothing wrong, so that each of these fails for what it says; and what is within the leeway.
	for name, c := range map[string]object{"good": {}, "ES256": {}, "PS256": {}, "half a minute off": {"iat": in(30 * time.Second), "nbf": in(30 * time.Second)},
		"dated back by five minutes, as Entra does": {"iat": in(-5 * time.Minute), "nbf": in(-5 * time.Minute)},
		"ended half a minute ago":                   {"exp": in(-30 * time.Second)}, "with azp": {"azp": client}, "several, made for us": {"aud": []string{client, "x"}, "azp": client},
		"groups as a text": {"groups": "g-platform"}, "tenant in another case": {"tid": strings.ToUpper(tenant)}} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			switch name {
			case "ES256":
				w.iss.set(func() { w.iss.sign = func(c object) string { return signed(t, jose.ES256, keys().ec, "k2", c) } })
			case "PS256":
				w.iss.set(func() { w.iss.sign = func(c object) string { return signed(t, jose.PS256, keys().rsa, "k1", c) } })
			}
			w.in(c)
		})
	}
}

func TestCodesAndStatesAreGoodOnce(t *testing.T) {
	w := open(t, nil)
	q := w.begin()
	land, err := w.come(q)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.come(q)
	wantCode(t, err, access.CodeUnauthenticated, "finished before")
	for _, state := range []string{"", "x", strings.Repeat("a", 43), strings.Repeat("a", 100_000)} {
		_, err := w.come(map[string][]string{"state": {state}})
		wantCode(t, err, access.CodeUnauthenticated, "not known here")
	}
	redeem := func(code, v string) error {
		_, err := w.m.Redeem(t.Context(), here, api.LoginTokenInput{Code: code, Verifier: v})
		return err
	}
	wantCode(t, redeem("another", verifier), access.CodeUnauthenticated, "not known")
	if err := redeem(land.Get("code"), verifier); err != nil {
		t.Fatal(err)
	}
	wantCode(t, redeem(land.Get("code"), verifier), access.CodeUnauthenticated, "used before")

	// Somebody who saw the code has not the verifier; trying uses the code up.
	land, err = w.come(w.begin())
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, redeem(land.Get("code"), strings.Repeat("x", 43)), access.CodeUnauthenticated, "somebody else began")
	wantCode(t, redeem(land.Get("code"), verifier), access.CodeUnauthenticated, "not known")

	// Too late, at either step.
	q = w.begin()
	w.clk.Advance(11 * time.Minute)
	_, err = w.come(q)
	wantCode(t, err, access.CodeUnauthenticated, "took too long")
	land, err = w.come(w.begin())
	if err != nil {
		t.Fatal(err)
	}
	w.clk.Advance(3 * time.Minute)
	wantCode(t, redeem(land.Get("code"), verifier), access.CodeUnauthenticated, "is over")
}

func TestOnlyTheCallersOwnMachineIsSentACode(t *testing.T) {
	w := open(t, nil)
	for _, bad := range []string{"", "https://evil.example/", "http://evil.example:80/", "http://127.0.0.1/", "http://127.0.0.1:0/", "http://localhost:80/", "http://127.0.0.1:80@evil.example/",
		"http://user@127.0.0.1:80/", "http://127.0.0.1.evil.example:80/", "http://127.0.0.2:80/", "https://127.0.0.1:80/", "http://127.0.0.1:80/#x", "http://127.0.0.1:80/?a=b",
		"http://[::1%25lo]:80/", "http://[::2]:80/", "//127.0.0.1:80/", "http:127.0.0.1:80", "http://127.0.0.1:80/\r\nX: y", `http://127.0.0.1:80\@evil.example/`, "http://0.0.0.0:80/",
		"http://2130706433:80/", "http://127.1:80/", "http://[::ffff:127.0.0.1]:80/", "http://127.0.0.1:99999/", "javascript:alert(1)//127.0.0.1:80"} {
		_, err := w.m.Start(t.Context(), api.LoginStartInput{RedirectURI: bad, Challenge: s256(verifier), State: "12345678"})
		wantCode(t, err, access.CodeInvalid, "caller's own machine")
	}
	for _, good := range []string{"http://127.0.0.1:1/", "http://[::1]:65535/x", "http://127.0.0.1:53124"} {
		if _, err := w.m.Start(t.Context(), api.LoginStartInput{RedirectURI: good, Challenge: s256(verifier), State: "12345678"}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, in := range []api.LoginStartInput{{Challenge: "x", State: "12345678"}, {Challenge: s256(verifier), State: "short"}, {Challenge: s256(verifier), State: "with a\r\nbreak"},
		{Challenge: strings.Repeat("*", 43), State: "12345678"}} {
		in.RedirectURI = back
		_, err := w.m.Start(t.Context(), in)
		wantCode(t, err, access.CodeInvalid, "")
	}
}

func TestNextStaysHere(t *testing.T) {
	for next, want := range map[string]string{"": "/", "/": "/", "/requests/r-1?tab=x#y": "/requests/r-1?tab=x#y", "//evil.example": "/", "/\\evil.example": "/", "\\\\evil.example": "/",
		"https://evil.example": "/", "https:evil.example": "/", "javascript:alert(1)": "/", "/\tevil": "/", "/a\r\nSet-Cookie: x": "/", "/%2f/evil.example": "/", "/%5cevil.example": "/", " /x": "/", "evil": "/", "///x": "/",
		"/login?next=/x": "/", "/login/callback?code=x": "/", "/logout": "/", "/" + strings.Repeat("a", 2000): "/", "/ä": "/", "/@evil.example": "/@evil.example", "/a//b": "/a//b"} {
		if got := identity.CheckNext(next); got != want {
			t.Errorf("%q: got %q, want %q", next, got, want)
		}
	}
}

func TestTheIssuerSaysNo(t *testing.T) {
	w := open(t, nil)
	q := w.begin()
	to, err := w.m.Callback(t.Context(), here, map[string][]string{"state": q["state"], "error": {"access_denied"}, "error_description": {"<script>no\r\nway</script>"}}, "")
	wantCode(t, err, access.CodeDenied, "access_denied")
	if !strings.HasPrefix(to.URL, back+"?") || !strings.Contains(to.URL, "error=access_denied") || strings.ContainsAny(to.URL, "\r\n<") {
		t.Errorf("landed at %q", to.URL)
	}
	w.iss.set(func() {
		w.iss.answer = func(url.Values) (int, object) {
			return 400, object{"error": "invalid_grant", "error_description": "AADSTS50057: The user account is disabled."}
		}
	})
	_, err = w.tryIn()
	wantCode(t, err, access.CodeDenied, "AADSTS50057")
}

// A key that is new is found at once, one that was withdrawn goes out within an hour, and what is no key for signing is none.
func TestKeysThatChange(t *testing.T) {
	w := open(t, nil)
	w.in(nil)
	key := func(k any, id, use string) any { return jose.JSONWebKey{Key: k, KeyID: id, Use: use} }
	by := func(k any, id string) {
		w.iss.set(func() { w.iss.sign = func(c object) string { return signed(t, jose.RS256, k, id, c) } })
	}
	w.clk.Advance(time.Minute)
	w.iss.set(func() {
		w.iss.jwks = []any{key(keys().other.Public(), "n1", "sig"), key(keys().rsa.Public(), "k1", "sig")}
	})
	by(keys().other, "n1")
	w.in(nil)
	w.iss.set(func() { w.iss.jwks = []any{key(keys().other.Public(), "n1", "sig")} })
	by(keys().rsa, "k1")
	w.in(nil) // it was read a moment ago
	w.clk.Advance(time.Hour)
	_, err := w.tryIn()
	wantCode(t, err, access.CodeUnauthenticated, "does not have")
	for name, k := range map[string]any{"for encryption": key(keys().rsa.Public(), "k1", "enc"), "a shared secret": key([]byte("0123456789012345678901234567890123456789"), "k1", "sig"),
		"private": key(keys().rsa, "k1", "sig")} {
		w.iss.set(func() { w.iss.jwks = []any{k} })
		if name == "a shared secret" {
			w.iss.set(func() {
				w.iss.sign = func(c object) string {
					return signed(t, jose.HS256, []byte("0123456789012345678901234567890123456789"), "k1", c)
				}
			})
		}
		w.clk.Advance(time.Hour)
		if _, err := w.tryIn(); access.CodeOf(err) != access.CodeUnauthenticated {
			t.Errorf("a key that is %s: %v", name, err)
		}
		by(keys().rsa, "k1")
	}
}

// Whatever next holds, a browser that follows it stays on this server.
func FuzzCheckNext(f *testing.F) {
	for _, s := range []string{"/", "//evil.example", "/\\evil.example", "/x?y=//z", "/%2f/evil", "/..//evil.example", "/./\\evil", "/a/../../evil", "/;//evil.example", "/:80/", "/?\x00"} {
		f.Add(s)
	}
	base := &url.URL{Scheme: "https", Host: "curfew.example.com", Path: "/login/callback"}
	f.Fuzz(func(t *testing.T, next string) {
		got := identity.CheckNext(next)
		u, err := url.Parse(got)
		if err != nil || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }) {
			t.Fatalf("%q became %q: %v", next, got, err)
		}
		to := base.ResolveReference(u)
		if to.Host != base.Host || to.Scheme != "https" || to.User != nil || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") {
			t.Fatalf("%q became %q, which leads to %s", next, got, to)
		}
	})
}

package identity_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/identity"
)

func (w *world) refreshes() (n int) {
	w.iss.set(func() {
		for _, f := range w.iss.asked {
			if f.Get("grant_type") == "refresh_token" {
				n++
			}
		}
	})
	return n
}

// Who loses their rights at the issuer is out within five minutes, whichever way they lose them.
func TestOutWithinFiveMinutes(t *testing.T) {
	for name, test := range map[string]struct {
		lose  func(*issuer)
		words string
	}{
		"out of the group":     {func(i *issuer) { i.claims = object{"groups": []string{"g-other"}} }, "no role here any more"},
		"no groups at all":     {func(i *issuer) { i.claims = object{"groups": nil} }, "no role here any more"},
		"account disabled":     {func(i *issuer) { i.answer = refuse("invalid_grant") }, "does not confirm"},
		"must do more":         {func(i *issuer) { i.answer = refuse("interaction_required") }, "does not confirm"},
		"somebody else":        {func(i *issuer) { i.claims = object{"oid": "o-other"} }, "somebody else"},
		"of another tenant":    {func(i *issuer) { i.claims = object{"tid": "22222222-0000-4000-8000-000000000002"} }, "not among those"},
		"a token that is old":  {func(i *issuer) { i.claims = object{"iat": start.Add(-time.Hour).Unix()} }, "clocks"},
		"an unsigned token":    {func(i *issuer) { i.sign = unsigned }, "cannot be believed"},
		"no token about them":  {func(i *issuer) { i.sign = func(object) string { return "" } }, "no id_token"},
		"groups past counting": {func(i *issuer) { i.claims = object{"groups": 3} }, "neither a text nor a list"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			token := w.in(nil).Token
			w.iss.set(func() { test.lose(w.iss) })
			w.clk.Advance(4*time.Minute - time.Second)
			if _, err := w.bearer(token); err != nil || w.refreshes() != 0 {
				t.Fatalf("before it is time: %v, asked %d times", err, w.refreshes())
			}
			w.clk.Advance(time.Second)
			_, err := w.bearer(token)
			wantCode(t, err, access.CodeUnauthenticated, test.words)
			if es := w.entries("session.end", audit.Done); len(es) != 1 || es[0].Actor != "curfew" {
				t.Errorf("the log: %v", es)
			}
			// It is over for good, whatever the issuer says next.
			w.iss.set(func() { w.iss.claims, w.iss.answer = nil, nil })
			n := w.refreshes()
			_, err = w.bearer(token)
			wantCode(t, err, access.CodeUnauthenticated, "over")
			if w.refreshes() != n {
				t.Error("the issuer was asked about a session that is over")
			}
		})
	}
}

func refuse(code string) func(url.Values) (int, object) {
	return func(url.Values) (int, object) { return 400, object{"error": code, "error_description": "no"} }
}

func TestRolesFollowTheIssuer(t *testing.T) {
	w := open(t, nil)
	token := w.in(object{"roles": []string{"Curfew.Approver"}}).Token
	w.iss.say(object{"groups": []string{"g-PLATFORM", "G-Admins"}})
	w.clk.Advance(4 * time.Minute)
	c, err := w.bearer(token)
	if err != nil || !slices.Equal(c.Roles, []access.Role{access.Requester, access.Admin}) || strings.Join(c.Groups, " ") != "g-PLATFORM platform G-Admins" {
		t.Fatalf("got %+v, %v", c, err)
	}
	if es := w.entries("session.change", audit.Done); len(es) != 1 || !strings.Contains(es[0].Message, "requester, admin; before: requester, approver") {
		t.Errorf("the log: %v", es)
	}
	// Each confirmation takes the newest refresh token; the one before is not good any more.
	for range 20 {
		w.clk.Advance(4 * time.Minute)
		if _, err := w.bearer(token); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.refreshes(); n != 21 {
		t.Errorf("asked %d times, want 21", n)
	}
	if es := w.entries("session.change", audit.Done); len(es) != 1 {
		t.Errorf("what stays the same is logged: %v", es)
	}
}

func TestManyCallsAskOnce(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	w.clk.Advance(4 * time.Minute)
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := w.bearer(token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := w.refreshes(); n != 1 {
		t.Errorf("asked %d times, want once: a second refresh token would be refused", n)
	}
}

// A caller who goes away does not take the only good refresh token along.
func TestACallerWhoGoesAway(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	w.clk.Advance(4 * time.Minute)
	hold, reached := make(chan struct{}), make(chan struct{})
	w.iss.set(func() {
		w.iss.answer = func(url.Values) (int, object) { close(reached); <-hold; return 0, nil }
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _, _ = w.m.Bearer(ctx, token) }()
	<-reached
	cancel()
	<-done
	close(hold)
	w.iss.set(func() { w.iss.answer = nil })
	for range 500 {
		s, err := w.s.Broker.SessionByHash(t.Context(), broker.HashSecret(token))
		if err != nil {
			t.Fatal(err)
		}
		if s.ConfirmedAt.Equal(w.clk.Now()) {
			w.clk.Advance(4 * time.Minute)
			if _, err := w.bearer(token); err != nil {
				t.Errorf("the next time: %v", err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the answer was lost")
}

// blocked is a way to an issuer that answers nothing at all.
type blocked struct {
	http.RoundTripper
	mu sync.Mutex
	on chan struct{} // closed when it is over
}

func (b *blocked) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	on := b.on
	b.mu.Unlock()
	if on == nil {
		return b.RoundTripper.RoundTrip(r)
	}
	select {
	case <-r.Context().Done():
	case <-on:
	}
	return nil, errors.New("nobody answered")
}

func TestAnIssuerThatIsDown(t *testing.T) {
	way := &blocked{RoundTripper: http.DefaultTransport}
	words := map[string]string{"dislikes us": "does not take this server for its application"}
	for name, down := range map[string]func(*issuer){
		"refuses connections": func(i *issuer) {
			i.down = func(w http.ResponseWriter) bool {
				c, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					c.Close()
				}
				return true
			}
		},
		"500":            func(i *issuer) { i.down = func(w http.ResponseWriter) bool { w.WriteHeader(500); return true } },
		"429":            func(i *issuer) { i.down = func(w http.ResponseWriter) bool { w.WriteHeader(429); return true } },
		"a page of HTML": func(i *issuer) { i.down = func(w http.ResponseWriter) bool { fmt.Fprint(w, "<html>"); return true } },
		"elsewhere": func(i *issuer) {
			i.down = func(w http.ResponseWriter) bool { w.Header().Set("Location", "/x"); w.WriteHeader(302); return true }
		},
		"dislikes us": func(i *issuer) { i.answer = refuse("invalid_client") },
		"half an answer": func(i *issuer) {
			i.down = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Length", "99")
				fmt.Fprint(w, "{")
				return true
			}
		},
		"without an end": func(i *issuer) {
			i.down = func(w http.ResponseWriter) bool { fmt.Fprint(w, strings.Repeat(" ", 5<<20)); return true }
		},
		"does not answer": nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, func(c *identity.Config) { c.Transport = way })
			token := w.in(nil).Token
			q := w.begin()
			set := func(on bool) {
				way.mu.Lock()
				if on && down == nil {
					way.on = make(chan struct{})
				} else if way.on != nil {
					close(way.on)
					way.on = nil
				}
				way.mu.Unlock()
				w.iss.set(func() {
					w.iss.down, w.iss.answer = nil, nil
					if on && down != nil {
						down(w.iss)
					}
				})
			}
			set(true)
			defer set(false)
			// Whoever waits for a silent issuer waits by the clock, which somebody has to move.
			moving := func(f func()) {
				if down != nil {
					f()
					return
				}
				done := make(chan struct{})
				go func() { defer close(done); f() }()
				for {
					select {
					case <-done:
						return
					case <-time.After(10 * time.Millisecond):
						w.clk.Advance(time.Second)
					}
				}
			}
			w.clk.Advance(4 * time.Minute)
			moving(func() {
				if c, err := w.bearer(token); err != nil || c.Name != "dora@example.com" {
					t.Errorf("a session that is open: %+v, %v", c, err)
				}
			})
			if s := w.s.Broker.Status(t.Context()); !strings.Contains(s.SignIn, cmp.Or(words[name], "does not answer")) {
				t.Errorf("the status says %q", s.SignIn)
			}
			// Others do not wait for it again.
			before := w.iss.calls()
			for range 10 {
				if _, err := w.bearer(token); err != nil {
					t.Error(err)
				}
			}
			if got := w.iss.calls(); got != before {
				t.Errorf("asked %d times more at once", got-before)
			}
			// Nobody new comes in, and is told why. It is the issuer's own time that this takes, so once.
			if down != nil {
				to, err := w.m.Callback(t.Context(), here, url.Values{"state": q["state"], "code": {"c"}}, "")
				wantCode(t, err, access.CodeUnavailable, cmp.Or(words[name], "does not answer"))
				if !strings.Contains(to.URL, "temporarily_unavailable") {
					t.Errorf("landed at %q", to.URL)
				}
				if es := w.entries("session.start", audit.Refused); len(es) != 0 {
					t.Errorf("it was recorded as a refusal: %v", es)
				}
			}
			// Acting elsewhere needs a confirmation.
			moving(func() {
				_, err := w.m.Current(t.Context(), "dora@example.com")
				wantCode(t, err, access.CodeUnavailable, cmp.Or(words[name], "does not answer"))
			})
			// The issuer is back, and so is what it says.
			set(false)
			w.clk.Advance(time.Minute)
			n := w.refreshes()
			for range 100 { // what was asked in vain may take a moment to end
				if _, err := w.bearer(token); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				if down != nil || w.refreshes() == n+1 {
					break
				}
				w.clk.Advance(20 * time.Second)
				time.Sleep(20 * time.Millisecond)
			}
			if w.refreshes() != n+1 {
				t.Errorf("afterwards: asked %d times", w.refreshes()-n)
			}
			if s := w.s.Broker.Status(t.Context()); s.SignIn != "" {
				t.Errorf("the status still says %q", s.SignIn)
			}
			// While it is away a session ends at its own end.
			set(true)
			w.clk.Advance(12 * time.Hour)
			_, err := w.bearer(token)
			wantCode(t, err, access.CodeUnauthenticated, "over")
		})
	}
}

// An issuer that points elsewhere is not followed: the form holds the secret, the code and the refresh token.
func TestNothingIsTakenElsewhere(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		t.Errorf("%s %s was taken to another host: %v", r.Method, r.URL, r.Form)
		writeJSON(rw, 200, object{})
	}))
	defer other.Close()
	w := open(t, nil)
	token := w.in(nil).Token
	for _, status := range []int{301, 302, 303, 307, 308} {
		w.iss.set(func() {
			w.iss.down = func(rw http.ResponseWriter) bool {
				rw.Header().Set("Location", other.URL+"/x")
				rw.WriteHeader(status)
				return true
			}
		})
		w.clk.Advance(4 * time.Minute)
		if _, err := w.bearer(token); err != nil {
			t.Error(err)
		}
		_, err := w.m.Device(t.Context())
		wantCode(t, err, access.CodeUnavailable, "does not answer")
		_, err = w.tryIn()
		wantCode(t, err, access.CodeUnavailable, "does not answer")
		w.restart()
		_, err = w.tryBegin()
		wantCode(t, err, access.CodeUnavailable, "does not answer")
		w.iss.set(func() { w.iss.down = nil })
		w.restart()
		if _, err := w.tryBegin(); err != nil {
			t.Error(err)
		}
	}
}

func (i *issuer) calls() (n int) {
	i.set(func() {
		for _, c := range i.counts {
			n += c
		}
	})
	return n
}

func TestAnIssuerThatIsDownAtTheStart(t *testing.T) {
	w := open(t, nil)
	w.iss.set(func() { w.iss.down = func(rw http.ResponseWriter) bool { rw.WriteHeader(503); return true } })
	w.restart() // no error
	_, err := w.tryBegin()
	wantCode(t, err, access.CodeUnavailable, "try again")
	n := w.iss.calls()
	for range 20 {
		_, err = w.tryBegin()
		wantCode(t, err, access.CodeUnavailable, "try again")
	}
	if w.iss.calls() != n {
		t.Errorf("an issuer that is down was asked for each of twenty callers")
	}
	w.iss.set(func() { w.iss.down = nil })
	w.clk.Advance(5 * time.Second)
	w.in(nil)
}

func TestADescriptionThatIsWrong(t *testing.T) {
	for name, doc := range map[string]func(object){
		"of somebody else":    func(d object) { d["issuer"] = "https://evil.example" },
		"without an issuer":   func(d object) { delete(d, "issuer") },
		"tokens in the clear": func(d object) { d["token_endpoint"] = "http://evil.example/token" },
		"keys in the clear":   func(d object) { d["jwks_uri"] = "http://evil.example/keys" },
		"without keys":        func(d object) { delete(d, "jwks_uri") },
		"a file":              func(d object) { d["jwks_uri"] = "file:///etc/passwd" },
		"for tenants":         func(d object) { d["issuer"] = "https://evil.example/{tenantid}/v2.0" },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			w.iss.set(func() { w.iss.doc = doc })
			_, err := w.tryBegin()
			wantCode(t, err, access.CodeUnavailable, "does not answer")
		})
	}
	t.Run("of several tenants", func(t *testing.T) {
		w := open(t, func(c *identity.Config) {
			c.Issuer.Tenants = append(c.Issuer.Tenants, "33333333-0000-4000-8000-000000000003")
		})
		w.iss.set(func() { w.iss.doc = func(d object) { d["issuer"] = w.iss.srv.URL + "/{tenantid}/v2.0" } })
		w.in(nil)
		w.iss.say(object{"tid": "33333333-0000-4000-8000-000000000003"}) // in the name of the first
		_, err := w.tryIn()
		wantCode(t, err, access.CodeUnauthenticated, "another issuer")
		w.iss.say(object{"tid": "44444444-0000-4000-8000-000000000004", "iss": w.iss.srv.URL + "/44444444-0000-4000-8000-000000000004/v2.0"})
		_, err = w.tryIn()
		wantCode(t, err, access.CodeUnauthenticated, "not among those")
	})
}

func TestWithoutARefreshTokenASessionIsShort(t *testing.T) {
	w := open(t, nil)
	w.iss.set(func() {
		w.iss.answer = func(url.Values) (int, object) {
			return 200, object{"access_token": "a", "id_token": w.iss.sign(w.iss.token())}
		}
	})
	got := w.in(nil)
	if !got.ExpiresAt.Equal(start.Add(5 * time.Minute)) {
		t.Errorf("it ends %v", got.ExpiresAt)
	}
	w.clk.Advance(5*time.Minute - time.Second)
	if _, err := w.bearer(got.Token); err != nil {
		t.Error(err)
	}
	w.clk.Advance(time.Second)
	_, err := w.bearer(got.Token)
	wantCode(t, err, access.CodeUnauthenticated, "over")
	if !strings.Contains(w.log.String(), "offline_access") {
		t.Errorf("the log does not say why: %s", w.log)
	}
}

func TestSessionsSurviveARestart(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	dir := t.TempDir()
	key, err := identity.LoadKey(dir + "/curfew.key")
	if err != nil {
		t.Fatal(err)
	}
	again, err := identity.LoadKey(dir + "/curfew.key")
	if err != nil || !slices.Equal(key, again) {
		t.Fatalf("the key is not kept: %v", err)
	}
	w.restart()
	w.clk.Advance(4 * time.Minute)
	if _, err := w.bearer(token); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	w.cfg.Key = key // the key was lost
	w.restart()
	if _, err := w.bearer(token); err != nil {
		t.Errorf("what need not be confirmed needs no key: %v", err)
	}
	w.clk.Advance(4 * time.Minute)
	_, err = w.bearer(token)
	wantCode(t, err, access.CodeUnauthenticated, "key has changed")
}

// Neither the token of a session nor the issuer's refresh token can be read from the database.
func TestNoSecretInTheDatabase(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	_, secret, err := w.s.Broker.CreateToken(t.Context(), access.Caller{Name: "admin", Roles: []access.Role{access.Admin}}, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = w.s.Store.View(t.Context(), func(tx broker.Tx) error {
		for _, kind := range []string{broker.RecordSession, broker.RecordToken, broker.RecordAccount} {
			rs, err := tx.Records(kind, "")
			if err != nil {
				return err
			}
			for _, r := range rs {
				n++
				for what, s := range map[string]string{"session": token, "API": secret, "refresh": w.iss.refreshToken()} {
					if strings.Contains(r.ID+r.Owner+string(r.Doc), s) {
						t.Errorf("the %s token stands in a %s", what, kind)
					}
				}
			}
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("looked at %d records: %v", n, err)
	}
	if strings.Contains(w.log.String(), token) || strings.Contains(w.log.String(), secret) {
		t.Error("a token stands in the log")
	}
}

func TestANameIsOnePersons(t *testing.T) {
	w := open(t, nil)
	w.in(nil)
	for _, c := range []object{{"oid": "o-2"}, {"oid": "o-2", "preferred_username": "DORA@example.com"}, {"oid": "o-2", "preferred_username": " dora@example.com "},
		{"oid": "o-2", "preferred_username": "dora@eXampLe.com"}} {
		w.iss.say(c)
		_, err := w.tryIn()
		wantCode(t, err, access.CodeDenied, "belongs to another account")
	}
	if es := w.entries("session.start", audit.Refused); len(es) != 4 {
		t.Errorf("%d refusals are recorded", len(es))
	}
	// Whoever has a name keeps it, whatever the issuer calls them later.
	if got := w.in(object{"preferred_username": "dora.new@example.com"}); got.Name != "dora@example.com" {
		t.Errorf("now called %q", got.Name)
	}
	if err := w.s.Broker.ReleaseAccount(t.Context(), bt.Admin, "Dora@Example.com", "left"); err != nil {
		t.Fatal(err)
	}
	if got := w.in(object{"oid": "o-2"}); got.Name != "dora@example.com" {
		t.Errorf("after the release: %+v", got)
	}
	w.iss.say(nil)
	_, err := w.tryIn()
	wantCode(t, err, access.CodeDenied, "belongs to another account")
}

func TestNamesThatNobodyGetsBySigningIn(t *testing.T) {
	w := open(t, nil)
	for name, words := range map[string]string{"carol": "somebody's of the configuration", "CAROL": "somebody's of the configuration", "Erin Given": "somebody's of the configuration",
		"ſ\u212aip": "", "curfew": "program's own", "Unknown": "program's own", "token:x": "programs and groups", "WORKLOAD:x": "programs and groups", "group:x": "programs and groups",
		"a\nb": "printable", "a\u202eb": "printable", "a\u200bb": "printable", "": "no claim", strings.Repeat("a", 101): "printable", "<script>": "", "日本": ""} {
		w.iss.say(object{"preferred_username": name, "oid": "o-" + name, "sub": nil, "upn": nil, "email": nil})
		w.iss.set(func() { w.iss.claims["sub"] = " " })
		_, err := w.tryIn()
		if words == "" {
			if err != nil {
				t.Errorf("%q: %v", name, err)
			}
			continue
		}
		if access.CodeOf(err) != access.CodeDenied && access.CodeOf(err) != access.CodeUnauthenticated || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", name, err, words)
		}
	}
	// Names that differ only as the Kelvin sign from K are one.
	w.iss.say(object{"preferred_username": "sKip", "oid": "o-new"})
	_, err := w.tryIn()
	wantCode(t, err, access.CodeDenied, "belongs to another account")
	// The subject that the configuration names has the name that it gives, and its roles.
	if got := w.in(object{"oid": "O-ERIN", "preferred_username": "whoever", "groups": nil}); got.Name != "Erin Given" || strings.Join(got.Roles, "") != "auditor" {
		t.Errorf("got %+v", got)
	}
	// Nobody without a role.
	w.iss.say(object{"oid": "o-3", "preferred_username": "zoe", "groups": []string{"none"}})
	_, err = w.tryIn()
	wantCode(t, err, access.CodeDenied, "zoe has no role here")
}

// A name that the configuration gives to somebody else later is theirs alone from then on.
func TestANameThatIsGivenAway(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	w.cfg.People = append(w.cfg.People, identity.Person{Name: "Dora@example.com", Roles: []access.Role{access.Approver}})
	w.restart()
	_, err := w.bearer(token)
	wantCode(t, err, access.CodeUnauthenticated, "now somebody's of the configuration")
	for _, name := range []string{"dora@example.com", "dora.new@example.com"} { // whatever the issuer calls them: they are bound to the old name
		w.iss.say(object{"preferred_username": name})
		_, err := w.tryIn()
		wantCode(t, err, access.CodeDenied, "somebody's of the configuration")
	}
	if c, err := w.m.Current(t.Context(), "dora@example.com"); err != nil || !c.Has(access.Approver) || c.Session != "" {
		t.Errorf("got %+v, %v", c, err)
	}
	// And back: the entry names their account, which keeps its name and gets its roles.
	w.cfg.People[len(w.cfg.People)-1].Subject = "o-dora"
	w.restart()
	if got := w.in(nil); got.Name != "Dora@example.com" || strings.Join(got.Roles, " ") != "requester approver" {
		t.Errorf("got %+v", got)
	}
}

// The name of a group in the configuration means that group, and not one that somebody called so.
func TestANameOfAGroupIsNotTakenFromTheIssuer(t *testing.T) {
	w := open(t, nil)
	w.iss.say(object{"groups": []string{"platform", "PLATFORM"}})
	_, err := w.tryIn()
	wantCode(t, err, access.CodeDenied, "no role")
}

func TestAnAdminEndsSessions(t *testing.T) {
	w := open(t, nil)
	first, second := w.in(nil).Token, w.in(nil).Token
	n, err := w.s.Broker.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: "dora@example.com", Comment: "lost laptop"})
	if err != nil || n != 2 {
		t.Fatalf("ended %d, %v", n, err)
	}
	for _, token := range []string{first, second} {
		_, err := w.bearer(token)
		wantCode(t, err, access.CodeUnauthenticated, "over")
	}
	third := w.in(nil).Token
	if _, err := w.s.Broker.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: "dora@example.com", Bar: true}); err != nil {
		t.Fatal(err)
	}
	_, err = w.bearer(third)
	wantCode(t, err, access.CodeUnauthenticated, "over")
	_, err = w.tryIn()
	wantCode(t, err, access.CodeDenied, "kept out by an admin")
	if err := w.s.Broker.ReleaseAccount(t.Context(), bt.Admin, "dora@example.com", ""); err != nil {
		t.Fatal(err)
	}
	w.in(nil)
}

// A session that an admin ends while the issuer is being asked about it stays over.
func TestEndedWhileItIsConfirmed(t *testing.T) {
	w := open(t, nil)
	token := w.in(nil).Token
	w.clk.Advance(4 * time.Minute)
	hold, reached := make(chan struct{}), make(chan struct{})
	w.iss.set(func() { w.iss.answer = func(url.Values) (int, object) { close(reached); <-hold; return 0, nil } })
	errs := make(chan error, 1)
	go func() { _, err := w.bearer(token); errs <- err }()
	<-reached
	if _, err := w.s.Broker.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: "dora@example.com"}); err != nil {
		t.Error(err)
	}
	close(hold)
	wantCode(t, <-errs, access.CodeUnauthenticated, "over")
	_, err := w.bearer(token)
	wantCode(t, err, access.CodeUnauthenticated, "over")
}

func TestLogout(t *testing.T) {
	w := open(t, nil)
	one, two := w.in(nil).Token, w.in(nil).Token
	c, err := w.bearer(one)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.m.Logout(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, err = w.bearer(one)
	wantCode(t, err, access.CodeUnauthenticated, "over")
	if _, err := w.bearer(two); err != nil {
		t.Errorf("another session of theirs: %v", err)
	}
	wantCode(t, w.m.Logout(t.Context(), access.Caller{Name: "carol"}), access.CodeConflict, "no session")
}

func TestCurrent(t *testing.T) {
	w := open(t, nil)
	_, err := w.m.Current(t.Context(), "dora@example.com")
	wantCode(t, err, access.CodeUnauthenticated, "curfew login")
	if c, err := w.m.Current(t.Context(), "Carol"); err != nil || c.Name != "carol" || !c.Has(access.Admin) {
		t.Errorf("somebody of the configuration: %+v, %v", c, err)
	}
	_, err = w.m.Current(t.Context(), "erin given") // who signs in
	wantCode(t, err, access.CodeUnauthenticated, "not signed in")
	w.in(nil)
	w.clk.Advance(29 * time.Second)
	if _, err := w.m.Current(t.Context(), "DORA@example.com"); err != nil || w.refreshes() != 0 {
		t.Errorf("confirmed a moment ago: %v, asked %d times", err, w.refreshes())
	}
	w.clk.Advance(time.Second)
	w.iss.say(object{"roles": []string{"Curfew.Approver"}})
	c, err := w.m.Current(t.Context(), "dora@example.com")
	if err != nil || !c.Has(access.Approver) || w.refreshes() != 1 {
		t.Errorf("got %+v, %v, asked %d times", c, err, w.refreshes())
	}
	w.clk.Advance(time.Minute)
	w.iss.set(func() { w.iss.answer = refuse("invalid_grant") })
	_, err = w.m.Current(t.Context(), "dora@example.com")
	wantCode(t, err, access.CodeUnauthenticated, "not signed in")
}

func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	w := open(t, nil)
	w.iss.say(object{"groups": nil})
	for range 40 {
		if _, err := w.tryIn(); err == nil {
			t.Fatal("let in")
		}
	}
	if es := w.entries("session.start", audit.Refused); len(es) != 30 {
		t.Errorf("%d refusals of one minute are recorded, want 30", len(es))
	}
	w.clk.Advance(time.Minute)
	if _, err := w.tryIn(); err == nil {
		t.Fatal("let in")
	}
	es := w.entries("session.start", audit.Refused)
	if len(es) != 31 || es[30].Detail["not_recorded"] != "10" {
		t.Errorf("%d entries, the last %+v", len(es), es[len(es)-1])
	}
}

package identity_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/identity"
)

// deploying is a world with a workload of the issuer's.
func deploying(t *testing.T, change func(*identity.Workload)) *world {
	w := open(t, nil)
	wl := identity.Workload{Name: "deploy", Issuer: w.iss.url(), Audience: "https://curfew.example.com", Subject: "repo:acme/infra:ref:refs/heads/main",
		Claims: map[string]string{"repository_owner": "acme"}, Roles: []access.Role{access.Requester}, Sponsor: "carol"}
	if change != nil {
		change(&wl)
	}
	w.cfg.Workloads = []identity.Workload{wl}
	w.restart()
	return w
}

func (w *world) federated(change object) object {
	now := w.clk.Now()
	c := object{"iss": w.iss.url(), "aud": "https://curfew.example.com", "sub": "repo:acme/infra:ref:refs/heads/main", "repository_owner": "acme", "iat": now.Unix(),
		"exp": now.Add(10 * time.Minute).Unix()}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func TestWorkloads(t *testing.T) {
	w := deploying(t, nil)
	sign := func(c object) string { return signed(t, jose.RS256, keys().rsa, "k1", c) }
	c, err := w.bearer(sign(w.federated(nil)))
	if err != nil || c.Name != "workload:deploy" || c.Kind != access.Workload || c.Sponsor != "carol" || !slices.Equal(c.Roles, []access.Role{access.Requester}) {
		t.Fatalf("got %+v, %v", c, err)
	}
	now := w.clk.Now()
	pub, _ := (&jose.JSONWebKey{Key: keys().rsa.Public(), KeyID: "k1"}).MarshalJSON()
	for name, test := range map[string]struct{ token, words string }{
		"over":                     {sign(w.federated(object{"exp": now.Add(-time.Minute).Unix()})), "over"},
		"without an end":           {sign(w.federated(object{"exp": nil})), "no end"},
		"not yet":                  {sign(w.federated(object{"nbf": now.Add(time.Hour).Unix()})), "clocks"},
		"for another audience":     {sign(w.federated(object{"aud": "https://other.example.com"})), "audience"},
		"for nobody":               {sign(w.federated(object{"aud": nil})), "audience"},
		"of another issuer":        {sign(w.federated(object{"iss": "https://evil.example"})), "issuer"},
		"about another":            {sign(w.federated(object{"sub": "repo:acme/infra:ref:refs/heads/evil"})), "subject"},
		"about one that begins so": {sign(w.federated(object{"sub": "repo:acme/infra:ref:refs/heads/main2"})), "subject"},
		"with another claim":       {sign(w.federated(object{"repository_owner": "evil"})), "subject and claims"},
		"without the claim":        {sign(w.federated(object{"repository_owner": nil})), "subject and claims"},
		"the claim in a list":      {sign(w.federated(object{"repository_owner": []string{"acme"}})), "subject and claims"},
		"unsigned":                 {unsigned(w.federated(nil)), ""},
		"HS256":                    {signed(t, jose.HS256, pub, "k1", w.federated(nil)), ""},
		"with another key":         {signed(t, jose.RS256, keys().other, "k1", w.federated(nil)), ""},
		"rubbish":                  {"eyJ.eyJ.x", ""},
		"without a payload":        {"eyJhbGciOiJSUzI1NiJ9..x", ""},
	} {
		c, err := w.bearer(test.token)
		if access.CodeOf(err) != access.CodeUnauthenticated || c.Name != "" || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
	_, err = w.bearer("eyJ" + strings.Repeat("a", 20<<10) + ".b.c")
	wantCode(t, err, access.CodeUnauthenticated, "larger than")
	// A sign-in's token of the same issuer is none of a workload.
	_, err = w.bearer(w.iss.sign(w.iss.token()))
	wantCode(t, err, access.CodeUnauthenticated, "audience")
}

func TestAWorkloadsIssuerThatIsDown(t *testing.T) {
	w := deploying(t, nil)
	sign := func(kid string, k any) string { return signed(t, jose.RS256, k, kid, w.federated(nil)) }
	down := func(on bool) {
		w.iss.set(func() {
			w.iss.down = nil
			if on {
				w.iss.down = func(rw http.ResponseWriter) bool { rw.WriteHeader(503); return true }
			}
		})
	}
	down(true)
	_, err := w.bearer(sign("k1", keys().rsa))
	wantCode(t, err, access.CodeUnavailable, "does not answer")
	down(false)
	w.clk.Advance(time.Minute)
	if _, err := w.bearer(sign("k1", keys().rsa)); err != nil {
		t.Fatal(err)
	}
	down(true)
	w.clk.Advance(5 * time.Hour)
	if _, err := w.bearer(sign("k1", keys().rsa)); err != nil {
		t.Errorf("the keys that are known do not go on: %v", err)
	}
	// Anybody can send a token with a key that nobody knows: it does not make the issuer be asked each time.
	down(false)
	w.clk.Advance(time.Minute)
	if _, err := w.bearer(sign("k1", keys().rsa)); err != nil {
		t.Fatal(err)
	}
	n := w.iss.calls()
	for range 50 {
		if _, err := w.bearer(sign("k9", keys().other)); err == nil {
			t.Fatal("taken")
		}
	}
	if got := w.iss.calls() - n; got > 1 {
		t.Errorf("fifty bad tokens made the issuer be asked %d times", got)
	}
}

func TestAWorkloadThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*identity.Workload){
		"approves":          func(w *identity.Workload) { w.Roles = append(w.Roles, access.Approver) },
		"may nothing":       func(w *identity.Workload) { w.Roles = nil },
		"has nobody":        func(w *identity.Workload) { w.Sponsor = "" },
		"is anybody":        func(w *identity.Workload) { w.Subject, w.Claims = "", nil },
		"for any audience":  func(w *identity.Workload) { w.Audience = "" },
		"over http":         func(w *identity.Workload) { w.Issuer = "http://issuer.example" },
		"without an issuer": func(w *identity.Workload) { w.Issuer = "" },
	} {
		w := open(t, nil)
		wl := identity.Workload{Name: "x", Issuer: "https://i.example", Audience: "a", Subject: "s", Roles: []access.Role{access.Requester}, Sponsor: "carol"}
		change(&wl)
		w.cfg.Workloads = []identity.Workload{wl}
		if _, err := identity.New(w.cfg); err == nil {
			t.Errorf("a workload that %s was taken", name)
		}
	}
}

func TestAPITokens(t *testing.T) {
	w := open(t, nil)
	b := w.s.Broker
	w.in(object{"groups": []string{"g-admins", "g-platform"}})
	dora, err := w.m.Current(t.Context(), "dora@example.com")
	if err != nil {
		t.Fatal(err)
	}
	make1 := func(c access.Caller, in broker.TokenInput) (broker.APIToken, string, error) {
		return b.CreateToken(t.Context(), c, in)
	}
	tok, secret, err := make1(dora, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Requester}})
	if err != nil || !strings.HasPrefix(secret, "curfew_") || tok.Sponsor != dora.Name || !tok.ExpiresAt.Equal(w.clk.Now().Add(30*24*time.Hour)) {
		t.Fatalf("got %+v, %v", tok, err)
	}
	c, err := w.bearer(secret)
	if err != nil || c.Name != "token:ci" || c.Kind != access.APIToken || c.Sponsor != dora.Name || !slices.Equal(c.Roles, []access.Role{access.Requester}) {
		t.Fatalf("got %+v, %v", c, err)
	}
	for range 3 {
		_, _ = w.bearer(secret)
	}
	if es := w.entries("token.use", audit.Done); len(es) != 1 || es[0].Object != tok.ID {
		t.Errorf("the first use is logged: %v", es)
	}
	for name, bad := range map[string]string{"cut": secret[:len(secret)-1], "longer": secret + "x", "another": broker.NewSecret("curfew_"), "empty": "curfew_", "the id": "curfew_" + tok.ID} {
		if _, err := w.bearer(bad); access.CodeOf(err) != access.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string]broker.TokenInput{
		"approver":      {Name: "a", Roles: []access.Role{access.Requester, access.Approver}},
		"no such role":  {Name: "a", Roles: []access.Role{"owner"}},
		"not theirs":    {Name: "a", Roles: []access.Role{access.Auditor}},
		"no role":       {Name: "a"},
		"too long":      {Name: "a", Roles: []access.Role{access.Requester}, Life: 366 * 24 * time.Hour},
		"backwards":     {Name: "a", Roles: []access.Role{access.Requester}, Life: -time.Hour},
		"a name taken":  {Name: "ci", Roles: []access.Role{access.Requester}},
		"a bad name":    {Name: "CI\n", Roles: []access.Role{access.Requester}},
		"no name":       {Roles: []access.Role{access.Requester}},
		"a prefix name": {Name: "token:ci", Roles: []access.Role{access.Requester}},
	} {
		if _, s, err := make1(dora, in); err == nil || s != "" {
			t.Errorf("%s: was made", name)
		}
	}
	program := dora
	program.Kind, program.Session = access.APIToken, ""
	if _, _, err := make1(program, broker.TokenInput{Name: "b", Roles: []access.Role{access.Requester}}); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("a program makes a token: %v", err)
	}

	// The sponsor loses a role, and then everything; a token has no more than they have.
	_, second, err := make1(dora, broker.TokenInput{Name: "ops", Roles: []access.Role{access.Requester, access.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	w.iss.say(object{"groups": []string{"g-platform"}})
	w.clk.Advance(5 * time.Minute)
	if _, err := w.m.Current(t.Context(), dora.Name); err != nil {
		t.Fatal(err)
	}
	if c, err := w.bearer(second); err != nil || !slices.Equal(c.Roles, []access.Role{access.Requester}) {
		t.Errorf("after the sponsor lost admin: %+v, %v", c, err)
	}
	if _, err := b.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: dora.Name, Bar: true}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secret, second} {
		_, err := w.bearer(s)
		wantCode(t, err, access.CodeUnauthenticated, "worth nothing")
	}
	// Nor does it come back to life for whoever has the name next.
	if err := b.ReleaseAccount(t.Context(), bt.Admin, dora.Name, ""); err != nil {
		t.Fatal(err)
	}
	w.in(object{"oid": "o-2", "groups": []string{"g-admins", "g-platform"}})
	_, err = w.bearer(secret)
	wantCode(t, err, access.CodeUnauthenticated, "worth nothing")
}

func TestATokenEnds(t *testing.T) {
	w := open(t, nil)
	b := w.s.Broker
	tok, secret, err := b.CreateToken(t.Context(), bt.Admin, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Admin}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.clk.Advance(time.Hour - time.Second)
	if _, err := w.bearer(secret); err != nil {
		t.Error(err)
	}
	w.clk.Advance(time.Second)
	_, err = w.bearer(secret)
	wantCode(t, err, access.CodeUnauthenticated, "is over")
	if ts, err := b.Tokens(t.Context(), bt.Admin); err != nil || len(ts) != 0 {
		t.Errorf("still listed: %v, %v", ts, err)
	}
	tok, secret, err = b.CreateToken(t.Context(), bt.Admin, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Admin}})
	if err != nil {
		t.Fatalf("the name of one that is over: %v", err)
	}
	if err := b.RevokeToken(t.Context(), bt.Admin, tok.ID, "leaked"); err != nil {
		t.Fatal(err)
	}
	_, err = w.bearer(secret)
	wantCode(t, err, access.CodeUnauthenticated, "revoked")
	if err := b.RevokeToken(t.Context(), bt.Admin, tok.ID, ""); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("again: %v", err)
	}
	stranger := bt.Admin
	stranger.Name = "nobody-of-the-configuration"
	_, secret, err = b.CreateToken(t.Context(), stranger, broker.TokenInput{Name: "x", Roles: []access.Role{access.Admin}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.bearer(secret)
	wantCode(t, err, access.CodeUnauthenticated, "worth nothing")
}

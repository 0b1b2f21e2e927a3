package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/identity"
)

const (
	tenant = "11111111-0000-4000-8000-000000000001"
	client = "curfew-client"
	back   = "http://127.0.0.1:53124/done"
)

var (
	start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	here  = netip.MustParseAddr("198.51.100.20")

	keys = sync.OnceValue(func() (out struct {
		rsa, other *rsa.PrivateKey
		ec         *ecdsa.PrivateKey
	}) {
		out.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
		out.other, _ = rsa.GenerateKey(rand.Reader, 2048)
		out.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return out
	})
)

type object = map[string]any

// issuer is an issuer that says what a test wants. It answers whoever comes with its client's name; the devissuer and an issuer that
// nobody here wrote are for the other side of the protocol.
type issuer struct {
	t   *testing.T
	srv *httptest.Server
	clk *clock.Manual

	mu       sync.Mutex
	claims   object                             // of the next id_token, besides those that it must have
	sign     func(object) string                // how it is signed
	answer   func(url.Values) (int, object)     // instead of tokens; nil: tokens
	graph    http.HandlerFunc                   // of Microsoft Graph
	down     func(http.ResponseWriter) bool     // answers in place of everything
	jwks     []any                              // in place of its keys
	doc      func(object)                       // changes the description
	asked    []url.Values                       // forms that came to the token endpoint
	counts   map[string]int                     // of calls, by path
	nonce    string                             // that came with the last authorization
	verifier func(challenge, given string) bool // nil: it must fit
	chal     string
	gen      int // of refresh tokens, each good once
}

func newIssuer(t *testing.T, clk *clock.Manual) *issuer {
	i := &issuer{t: t, clk: clk, counts: map[string]int{}}
	i.sign = func(c object) string { return signed(t, jose.RS256, keys().rsa, "k1", c) }
	i.srv = httptest.NewServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.srv.Close)
	return i
}

func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, c object) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		o = o.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unsigned is a token with alg none.
func unsigned(c object) string {
	b, _ := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(b) + "."
}

func (i *issuer) url() string { return i.srv.URL + "/" + tenant + "/v2.0" }

func (i *issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts[r.URL.Path]++
	if i.down != nil && i.down(w) {
		return
	}
	tell := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
		d := object{"issuer": i.url(), "authorization_endpoint": i.srv.URL + "/authorize", "token_endpoint": i.srv.URL + "/token", "jwks_uri": i.srv.URL + "/keys",
			"device_authorization_endpoint": i.srv.URL + "/device", "token_endpoint_auth_methods_supported": []string{"client_secret_post"}}
		if i.doc != nil {
			i.doc(d)
		}
		tell(200, d)
	case r.URL.Path == "/keys":
		if i.jwks != nil {
			tell(200, object{"keys": i.jwks})
			return
		}
		tell(200, object{"keys": []any{object{"kty": "weird", "kid": "k0"}, jose.JSONWebKey{Key: keys().rsa.Public(), KeyID: "k1", Use: "sig"},
			jose.JSONWebKey{Key: keys().ec.Public(), KeyID: "k2", Use: "sig"}}})
	case r.URL.Path == "/token":
		_ = r.ParseForm()
		i.asked = append(i.asked, r.PostForm)
		if i.answer != nil {
			if status, v := i.answer(r.PostForm); status != 0 {
				tell(status, v)
				return
			}
		}
		if r.PostForm.Get("grant_type") == "authorization_code" {
			h := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
			if base64.RawURLEncoding.EncodeToString(h[:]) != i.chal {
				tell(400, object{"error": "invalid_grant", "error_description": "PKCE"})
				return
			}
		}
		if g := r.PostForm.Get("grant_type"); g == "refresh_token" && r.PostForm.Get("refresh_token") != i.refreshToken() {
			tell(400, object{"error": "invalid_grant", "error_description": "this refresh token was used before"})
			return
		}
		i.gen++
		tell(200, object{"access_token": "at-1", "token_type": "Bearer", "id_token": i.sign(i.token()), "refresh_token": i.refreshToken()})
	case r.URL.Path == "/device":
		tell(200, object{"device_code": "dc-1", "user_code": "ABCD-EFGH", "verification_uri": i.srv.URL + "/d", "interval": 5, "expires_in": 900})
	case strings.HasPrefix(r.URL.Path, "/v1.0/me/") && i.graph != nil:
		i.graph(w, r)
	default:
		tell(404, object{})
	}
}

func (i *issuer) refreshToken() string { return "rt-" + string(rune('a'+i.gen)) }

// token is the claims of the next id_token.
func (i *issuer) token() object {
	now := i.clk.Now()
	c := object{"iss": i.url(), "aud": client, "sub": "s-dora", "oid": "O-dora", "tid": tenant, "preferred_username": "dora@example.com", "iat": now.Unix(),
		"nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "groups": []string{"G-PLATFORM"}, "nonce": i.nonce}
	for k, v := range i.claims {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func (i *issuer) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *issuer) say(c object) { i.set(func() { i.claims = c }) }

// world is a broker, an issuer, and what stands between them.
type world struct {
	t   *testing.T
	clk *clock.Manual
	iss *issuer
	s   *bt.Stack
	m   *identity.Manager
	cfg identity.Config
	log *strings.Builder
}

func open(t *testing.T, change func(*identity.Config)) *world {
	t.Helper()
	clk := clock.NewManual(start)
	w := &world{t: t, clk: clk, iss: newIssuer(t, clk), log: &strings.Builder{}}
	w.s = bt.New(t, bt.Options{Clock: clk, NoStart: true, Dir: t.TempDir()})
	w.cfg = identity.Config{Accounts: w.s.Broker, Clock: clk, Key: make([]byte, 32), Log: slog.New(slog.NewTextHandler(w.log, nil)),
		People: []identity.Person{{Name: "carol", Roles: []access.Role{access.Admin}}, {Name: "Erin Given", Roles: []access.Role{access.Auditor}, Subject: "o-erin"}},
		Issuer: &identity.Issuer{URL: w.iss.url(), ClientID: client, ClientSecret: "s3cret", Tenants: []string{tenant}, PublicURL: "https://curfew.example.com/", Graph: w.iss.srv.URL,
			GroupNames: map[string]string{"g-platform": "platform"},
			Roles: []identity.RoleRule{{Role: access.Requester, Groups: []string{"Platform"}}, {Role: access.Approver, AppRoles: []string{"Curfew.Approver"}},
				{Role: access.Admin, Groups: []string{"g-admins"}}}}}
	if change != nil {
		change(&w.cfg)
	}
	w.restart()
	return w
}

// restart makes a new manager over the same broker, as a restart of the server would.
func (w *world) restart() {
	w.t.Helper()
	m, err := identity.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.m = m
}

const verifier = "0123456789012345678901234567890123456789abc"

func s256(v string) string {
	h := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// begin begins a sign-in of the command line and returns what the browser would bring to the issuer.
func (w *world) begin() url.Values {
	w.t.Helper()
	st, err := w.m.Start(w.t.Context(), api.LoginStartInput{RedirectURI: back, Challenge: s256(verifier), State: "state-of-the-cli"})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.authorized(st.URL)
}

func (w *world) authorized(to string) url.Values {
	u, err := url.Parse(to)
	if err != nil {
		w.t.Fatal(err)
	}
	q := u.Query()
	w.iss.set(func() { w.iss.nonce, w.iss.chal = q.Get("nonce"), q.Get("code_challenge") })
	return q
}

// come brings the browser back from the issuer, and returns where it lands.
func (w *world) come(q url.Values) (url.Values, error) {
	w.t.Helper()
	to, err := w.m.Callback(w.t.Context(), here, url.Values{"state": q["state"], "code": {"code-1"}}, "")
	if to.URL == "" {
		return nil, err
	}
	u, perr := url.Parse(to.URL)
	if perr != nil || !strings.HasPrefix(to.URL, back+"?") || u.Query().Get("state") != "state-of-the-cli" {
		w.t.Fatalf("landed at %q", to.URL)
	}
	return u.Query(), err
}

func (w *world) tryIn() (api.SignedIn, error) {
	w.t.Helper()
	q, err := w.come(w.begin())
	if err != nil {
		return api.SignedIn{}, err
	}
	return w.m.Redeem(w.t.Context(), here, api.LoginTokenInput{Code: q.Get("code"), Verifier: verifier})
}

// in signs somebody in.
func (w *world) in(c object) api.SignedIn {
	w.t.Helper()
	w.iss.say(c)
	out, err := w.tryIn()
	if err != nil {
		w.t.Fatalf("signing in: %v (%v)", err, errors.Unwrap(err))
	}
	return out
}

func (w *world) bearer(token string) (access.Caller, error) {
	return w.m.Bearer(w.t.Context(), token)
}

func (w *world) entries(action string, o audit.Outcome) (out []audit.Entry) {
	w.t.Helper()
	err := w.s.Store.View(w.t.Context(), func(tx broker.Tx) error {
		es, err := tx.Entries(broker.AuditFilter{Action: action, Ascending: true, After: -1, Limit: 500})
		for _, e := range es {
			if e.Outcome == o {
				out = append(out, e)
			}
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func wantCode(t *testing.T, err error, want access.Code, words string) {
	t.Helper()
	var e *access.Error
	if access.CodeOf(err) != want || !errors.As(err, &e) || e.Hint == "" || !strings.Contains(e.Message+" "+e.Hint, words) {
		t.Errorf("got %q %v, want %s with %q and a hint", access.CodeOf(err), err, want, words)
	}
}

func with(a, b object) object {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func (w *world) tryBegin() (api.LoginStart, error) {
	return w.m.Start(w.t.Context(), api.LoginStartInput{RedirectURI: back, Challenge: s256(verifier), State: "state-of-the-cli"})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

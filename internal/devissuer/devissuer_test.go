package devissuer_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/devissuer"
)

const (
	tenant = "5f8b2c1e-0000-4000-8000-000000000001"
	back   = "http://127.0.0.1:9/login/callback"
)

// world is an issuer and a client that is not ours: go-oidc and oauth2.
type world struct {
	t     *testing.T
	clk   *clock.Manual
	iss   *devissuer.Issuer
	url   string
	oauth oauth2.Config
	id    *oidc.IDTokenVerifier
	http  *http.Client
}

func open(t *testing.T, file, listen string) *world {
	t.Helper()
	clk := clock.NewManual(time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC))
	var iss *devissuer.Issuer
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { iss.Handler().ServeHTTP(w, r) }))
	srv.Start()
	t.Cleanup(srv.Close)
	if listen == "" {
		listen = srv.URL
	}
	iss, err := devissuer.New(devissuer.Config{URL: listen, Tenant: tenant, Clock: clk, File: file,
		Clients: []devissuer.Client{{ID: "curfew", Secret: "s3cret+/%", Redirects: []string{back}}, {ID: "other", Secret: "x", Redirects: []string{back}}},
		Accounts: []devissuer.Account{{Name: "asker", Groups: []string{"sre"}, Roles: []string{"Curfew.Requester"}},
			{Name: "dba", Groups: []string{"sre", "dba"}}, {Name: "nobody"}}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, clk: clk, iss: iss, url: srv.URL, http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if listen != srv.URL {
		return w
	}
	p, err := oidc.NewProvider(t.Context(), iss.URL())
	if err != nil {
		t.Fatal(err)
	}
	w.oauth = oauth2.Config{ClientID: "curfew", ClientSecret: "s3cret+/%", Endpoint: p.Endpoint(), RedirectURL: back, Scopes: []string{"openid", "profile", "offline_access"}}
	w.id = p.Verifier(&oidc.Config{ClientID: "curfew", SupportedSigningAlgs: []string{"RS256"}, Now: clk.Now})
	return w
}

func (w *world) get(address string) (int, string, http.Header) {
	w.t.Helper()
	res, err := w.http.Get(address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header
}

func (w *world) post(address string, form url.Values) (int, string, http.Header) {
	w.t.Helper()
	res, err := w.http.PostForm(address, form)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header
}

var hidden = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]+)">`)

// code drives the page as somebody who chooses an account, and returns what the browser is sent back with.
func (w *world) code(verifier, nonce, account string) url.Values {
	w.t.Helper()
	address := w.oauth.AuthCodeURL("st ate", oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce))
	status, page, _ := w.get(address)
	m := hidden.FindStringSubmatch(page)
	if status != http.StatusOK || m == nil || !strings.Contains(page, "NOT for production") || !strings.Contains(page, `value="dba"`) {
		w.t.Fatalf("the page of accounts: %d %s", status, page)
	}
	status, body, h := w.post(address, url.Values{m[1]: {m[2]}, "account": {account}})
	to, err := url.Parse(h.Get("Location"))
	if err != nil || status != http.StatusSeeOther || !strings.HasPrefix(to.String(), back+"?") {
		w.t.Fatalf("after the choice: %d %s %s", status, h.Get("Location"), body)
	}
	if to.Query().Get("state") != "st ate" {
		w.t.Errorf("the state did not come back: %s", to)
	}
	return to.Query()
}

func (w *world) signIn(account string) *oauth2.Token {
	w.t.Helper()
	v := oauth2.GenerateVerifier()
	tok, err := w.oauth.Exchange(w.t.Context(), w.code(v, "n", account).Get("code"), oauth2.VerifierOption(v))
	if err != nil {
		w.t.Fatal(err)
	}
	return tok
}

type claims struct {
	Tid, Oid, Nonce string
	Username        string `json:"preferred_username"`
	Groups, Roles   []string
	Sub             string
}

func (w *world) claims(tok *oauth2.Token) claims {
	w.t.Helper()
	raw, _ := tok.Extra("id_token").(string)
	id, err := w.id.Verify(w.t.Context(), raw)
	if err != nil {
		w.t.Fatal(err)
	}
	var c claims
	if err := id.Claims(&c); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// refresh asks with a refresh token, as oauth2 does once an access token is old.
func (w *world) refresh(refreshToken string) (*oauth2.Token, error) {
	return w.oauth.TokenSource(w.t.Context(), &oauth2.Token{RefreshToken: refreshToken}).Token()
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var re *oauth2.RetrieveError
	if !errors.As(err, &re) || re.ErrorCode != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestCode(t *testing.T) {
	w := open(t, "", "")
	v := oauth2.GenerateVerifier()
	q := w.code(v, "the nonce", "dba")
	_, err := w.oauth.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier()))
	wantCode(t, err, "invalid_grant") // and that was the code's only use
	_, err = w.oauth.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(v))
	wantCode(t, err, "invalid_grant")

	q = w.code(v, "the nonce", "dba")
	tok, err := w.oauth.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(v))
	if err != nil {
		t.Fatal(err)
	}
	c := w.claims(tok)
	if c.Tid != tenant || !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(c.Oid) || c.Nonce != "the nonce" || c.Username != "dba" ||
		!slices.Equal(c.Groups, []string{"sre", "dba"}) || c.Roles != nil {
		t.Errorf("claims %+v", c)
	}
	if again := w.claims(w.signIn("dba")); again.Oid != c.Oid || again.Sub != c.Sub {
		t.Error("the same person has another oid or sub at the second sign-in")
	}
	if other := w.claims(w.signIn("asker")); other.Oid == c.Oid || other.Sub == c.Sub || !slices.Equal(other.Roles, []string{"Curfew.Requester"}) {
		t.Errorf("somebody else: %+v", other)
	}
	// A second use of the code ends what the first one gave.
	_, err = w.oauth.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(v))
	wantCode(t, err, "invalid_grant")
	_, err = w.refresh(tok.RefreshToken)
	wantCode(t, err, "invalid_grant")

	q = w.code(v, "n", "")
	if q.Get("error") != "access_denied" || q.Get("code") != "" {
		t.Errorf("cancelled: %v", q)
	}
	q = w.code(v, "n", "asker")
	w.clk.Advance(61 * time.Second)
	_, err = w.oauth.Exchange(t.Context(), q.Get("code"), oauth2.VerifierOption(v))
	wantCode(t, err, "invalid_grant")

	// Without offline_access there is no refresh token.
	w.oauth.Scopes = []string{"openid"}
	if tok := w.signIn("asker"); tok.RefreshToken != "" {
		t.Error("a refresh token that nobody asked for")
	}
}

func TestRefresh(t *testing.T) {
	w := open(t, "", "")
	first := w.signIn("asker")
	second, err := w.refresh(first.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if second.RefreshToken == first.RefreshToken {
		t.Fatal("the refresh token did not change")
	}
	if ok, err := w.iss.Change(devissuer.Account{Name: "asker", Groups: []string{"dba"}, Roles: []string{"Curfew.Admin"}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	third, err := w.refresh(second.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if c := w.claims(third); !slices.Equal(c.Groups, []string{"dba"}) || !slices.Equal(c.Roles, []string{"Curfew.Admin"}) || c.Nonce != "" {
		t.Errorf("after the change: %+v", c)
	}
	// An account that is disabled is out, and in again when it is not.
	w.control(`{"name":"asker","disabled":true}`, http.StatusOK)
	_, err = w.refresh(third.RefreshToken)
	wantCode(t, err, "invalid_grant")
	if !strings.Contains(err.Error(), "AADSTS50057") {
		t.Errorf("the reason is not told: %v", err)
	}
	if q := w.code(oauth2.GenerateVerifier(), "n", "asker"); q.Get("error") != "access_denied" {
		t.Errorf("somebody disabled signs in: %v", q)
	}
	w.control(`{"name":"asker","disabled":false}`, http.StatusOK)
	fourth, err := w.refresh(third.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if c := w.claims(fourth); !slices.Equal(c.Groups, []string{"dba"}) {
		t.Errorf("fields that were not named have changed: %+v", c)
	}
	// An old one: somebody else has it, so that nobody goes on.
	_, err = w.refresh(second.RefreshToken)
	wantCode(t, err, "invalid_grant")
	_, err = w.refresh(fourth.RefreshToken)
	wantCode(t, err, "invalid_grant")
	// Of another client.
	tok := w.signIn("asker")
	mine := w.oauth
	w.oauth.ClientID, w.oauth.ClientSecret = "other", "x"
	_, err = w.refresh(tok.RefreshToken)
	wantCode(t, err, "invalid_grant")
	w.oauth = mine
	if _, err = w.refresh(tok.RefreshToken); err != nil {
		t.Errorf("another client's attempt ended it: %v", err)
	}

	w.control(`{"name":"who"}`, http.StatusNotFound)
	w.control(`{"name":"asker","admin":true}`, http.StatusBadRequest)
	if _, body, _ := w.get(w.url + "/_dev/accounts"); !strings.Contains(body, `"name":"nobody"`) {
		t.Errorf("accounts: %s", body)
	}
}

func (w *world) control(body string, want int) {
	w.t.Helper()
	res, err := w.http.Post(w.url+"/_dev/accounts", "application/json", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != want {
		w.t.Fatalf("%s: %d %s", body, res.StatusCode, b)
	}
}

// poll asks once for a device's token; oauth2's own loop would wait on the machine's clock.
func (w *world) poll(d *oauth2.DeviceAuthResponse) (*oauth2.Token, string) {
	w.t.Helper()
	status, body, _ := w.post(w.oauth.Endpoint.TokenURL, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {d.DeviceCode},
		"client_id": {"curfew"}, "client_secret": {"s3cret+/%"}})
	var a struct {
		Error, RefreshToken string
		IDToken             string `json:"id_token"`
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		w.t.Fatalf("%d %s: %v", status, body, err)
	}
	if (status == http.StatusOK) != (a.Error == "") {
		w.t.Fatalf("%d %s", status, body)
	}
	return (&oauth2.Token{}).WithExtra(map[string]any{"id_token": a.IDToken}), a.Error
}

func (w *world) device() *oauth2.DeviceAuthResponse {
	w.t.Helper()
	// oauth2 sends the secret with a device's request only when it is told to.
	d, err := w.oauth.DeviceAuth(context.WithValue(w.t.Context(), oauth2.HTTPClient, w.http), oauth2.SetAuthURLParam("client_secret", w.oauth.ClientSecret))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func TestDevice(t *testing.T) {
	w := open(t, "", "")
	d := w.device()
	if d.Interval != 5 || !regexp.MustCompile(`^[B-Z]{4}-[B-Z]{4}$`).MatchString(d.UserCode) {
		t.Fatalf("%+v", d)
	}
	choose := func(page, account string) (int, string) {
		status, body, _ := w.get(page)
		m := hidden.FindStringSubmatch(body)
		if m == nil {
			return status, body
		}
		status, body, _ = w.post(page, url.Values{m[1]: {m[2]}, "account": {account}})
		return status, body
	}
	if _, code := w.poll(d); code != "authorization_pending" {
		t.Errorf("at first: %s", code)
	}
	w.clk.Advance(time.Second)
	if _, code := w.poll(d); code != "slow_down" {
		t.Errorf("asked after a second: %s", code)
	}
	w.clk.Advance(5 * time.Second) // ten since it was told to slow down
	if _, code := w.poll(d); code != "slow_down" {
		t.Errorf("not slowed down: %s", code)
	}
	w.clk.Advance(15 * time.Second)
	if _, code := w.poll(d); code != "authorization_pending" {
		t.Errorf("after waiting: %s", code)
	}
	if status, body, _ := w.get(d.VerificationURI); status != http.StatusOK || !strings.Contains(body, `name="user_code"`) {
		t.Errorf("the page without a code: %d %s", status, body)
	}
	if status, body := choose(d.VerificationURI+"?user_code=XXXX-XXXX", "dba"); status != http.StatusNotFound || !strings.Contains(body, "No device waits") {
		t.Errorf("a code that nobody has: %d", status)
	}
	typed := strings.ToLower(strings.ReplaceAll(d.UserCode, "-", " "))
	if status, body := choose(d.VerificationURI+"?user_code="+url.QueryEscape(typed), "dba"); status != http.StatusOK || !strings.Contains(body, "signed in as dba") {
		t.Fatalf("%d %s", status, body)
	}
	w.clk.Advance(15 * time.Second)
	tok, code := w.poll(d)
	if code != "" {
		t.Fatal(code)
	}
	if c := w.claims(tok); c.Username != "dba" || c.Nonce != "" {
		t.Errorf("%+v", c)
	}
	if _, code := w.poll(d); code != "invalid_grant" {
		t.Errorf("a second time: %s", code)
	}

	d = w.device()
	choose(d.VerificationURIComplete, "")
	if _, code := w.poll(d); code != "access_denied" {
		t.Errorf("cancelled: %s", code)
	}
	d = w.device()
	w.clk.Advance(11 * time.Minute)
	if _, code := w.poll(d); code != "expired_token" {
		t.Errorf("too late: %s", code)
	}
	if status, _ := choose(d.VerificationURIComplete, "dba"); status != http.StatusNotFound {
		t.Errorf("a choice that comes too late: %d", status)
	}
	w.oauth.ClientSecret = "wrong"
	_, err := w.oauth.DeviceAuth(t.Context())
	wantCode(t, err, "invalid_client")
}

func TestRefusals(t *testing.T) {
	w := open(t, "", "")
	v := oauth2.GenerateVerifier()
	good := w.oauth.AuthCodeURL("s", oauth2.S256ChallengeOption(v))
	for what, c := range map[string]struct {
		change func(url.Values)
		status int
		says   string
	}{
		"no such client":   {func(q url.Values) { q.Set("client_id", "nobody") }, 400, "no application"},
		"another address":  {func(q url.Values) { q.Set("redirect_uri", back+"/more") }, 400, "may not ask"},
		"no PKCE":          {func(q url.Values) { q.Del("code_challenge") }, 303, "error=invalid_request"},
		"plain PKCE":       {func(q url.Values) { q.Set("code_challenge_method", "plain") }, 303, "error=invalid_request"},
		"no openid":        {func(q url.Values) { q.Set("scope", "profile") }, 303, "error=invalid_scope"},
		"an implicit flow": {func(q url.Values) { q.Set("response_type", "id_token") }, 303, "error=unsupported_response_type"},
		"without a page":   {func(q url.Values) { q.Set("prompt", "none") }, 303, "error=interaction_required"},
	} {
		u, _ := url.Parse(good)
		q := u.Query()
		c.change(q)
		u.RawQuery = q.Encode()
		status, body, h := w.get(u.String())
		if status != c.status || !strings.Contains(body+h.Get("Location"), c.says) {
			t.Errorf("%s: %d %s %s", what, status, h.Get("Location"), body)
		}
		if c.status == 400 && h.Get("Location") != "" {
			t.Errorf("%s: sent on to an address that is not the client's", what)
		}
	}
	w.oauth.ClientSecret = "wrong"
	_, err := w.oauth.Exchange(t.Context(), "code", oauth2.VerifierOption(v))
	wantCode(t, err, "invalid_client")
	if status, _, _ := w.post(w.url+"/"+tenant+"/oauth2/v2.0/authorize", url.Values{"page": {"x"}, "account": {"dba"}}); status != http.StatusBadRequest {
		t.Errorf("a choice for nothing: %d", status)
	}
}

// Without passwords the only wall is that nobody else reaches it: not by a name that points here, and not from another site's page.
func TestOnlyFromThisMachine(t *testing.T) {
	w := open(t, "", "")
	ask := func(change func(*http.Request)) int {
		r, err := http.NewRequest(http.MethodPost, w.url+"/_dev/accounts", strings.NewReader(`{"name":"dba","disabled":true}`))
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		res, err := w.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for what, change := range map[string]func(*http.Request){
		"another name": func(r *http.Request) { r.Host = "evil.example" },
		"a name alike": func(r *http.Request) { r.Host = "127.0.0.1.evil.example:80" },
		"a foreign site": func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		},
		"a foreign origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
	} {
		if got := ask(change); got != http.StatusForbidden {
			t.Errorf("%s: %d", what, got)
		}
	}
	if got := ask(func(r *http.Request) { r.Host = "localhost:80" }); got != http.StatusOK {
		t.Errorf("localhost: %d", got)
	}
	r := httptest.NewRequest(http.MethodGet, w.url+"/", nil)
	r.RemoteAddr = "203.0.113.9:1000"
	rec := httptest.NewRecorder()
	w.iss.Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusForbidden {
		t.Errorf("from another machine: %d", rec.Code)
	}
}

// A demo that goes on where it was keeps its sign-ins.
func TestKeptOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "issuer.json")
	w := open(t, file, "")
	tok := w.signIn("asker")
	w.control(`{"name":"dba","disabled":true}`, http.StatusOK)
	st, err := os.Stat(file)
	if err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if b, _ := os.ReadFile(file); strings.Contains(string(b), tok.RefreshToken) {
		t.Error("the file holds a refresh token, and its hash would do")
	}
	again := open(t, file, w.url) // says that it is at the same address
	again.oauth, again.id = w.oauth, w.id
	again.oauth.Endpoint.TokenURL = again.url + "/" + tenant + "/oauth2/v2.0/token"
	next, err := again.refresh(tok.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	again.claims(next) // by the key that the first one told
	for _, a := range again.iss.Accounts() {
		if a.Disabled != (a.Name == "dba") {
			t.Errorf("%+v", a)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := devissuer.New(devissuer.Config{URL: "http://127.0.0.1:1", Tenant: tenant, Clock: w.clk, File: file}); err == nil {
		t.Error("a broken file is taken for none")
	}
}

// Package oidc_test signs in to a real server through the OpenID-certified oidc-provider, unmodified, as a person with a browser does.
package oidc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

func TestMain(m *testing.M) { simtest.Main(m) }

// confirmed is the shortest time that the configuration takes, after which a session that is used is confirmed by the issuer.
const confirmed = 10 * time.Second

// server is "curfew serve" on a simulated Azure, configured to an issuer, and a person's command line in front of it.
type server struct {
	t    *testing.T
	URL  string
	dir  string // of the person's configuration
	data string
}

// freeURL is an address where nobody listens now: the server's, which has to be registered at the issuer before it runs.
func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func serve(t *testing.T, url string, i *issuer, more string) *server {
	t.Helper()
	dir := t.TempDir()
	simtest.Start(t, "sim", "--listen", "127.0.0.1:0", "--dir", dir, "--json")
	conf, err := os.ReadFile(filepath.Join(dir, "serve.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "issuer-secret")
	file := filepath.Join(dir, "with-issuer.yaml")
	conf = append(conf, fmt.Sprintf(`
sign_in:
  issuer: %s
  client_id: %s
  client_secret_file: %s
  public_url: %s
  confirm_after: %s
  scopes: [profile, offline_access]
  group_names: [{id: 4d2f-the-sre-group, name: sre}]
  roles:
    - {role: requester, groups: [sre]}
    - {role: approver, groups: [dba]}
    - {role: auditor, app_roles: [Curfew.Auditor]}
%s`, i.URL, client, key, url, confirmed, more)...)
	for name, b := range map[string][]byte{key: []byte(secret + "\n"), file: conf} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{t: t, URL: url, dir: t.TempDir(), data: dir}
	cmd := exec.Command(simtest.Program(t), "serve", "--config", file, "--listen", strings.TrimPrefix(url, "http://"))
	var log safe
	cmd.Stderr, cmd.Stdout = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			t.Error("the server did not end when it was interrupted")
		}
		if t.Failed() {
			t.Logf("the server said:\n%s", log.String())
		}
		for _, word := range []string{"eyJ", "curfews_", secret} { // tokens and the secret
			if strings.Contains(log.String(), word) {
				t.Errorf("the server's log holds %q", word)
			}
		}
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if res, err := i.hc.Get(url + "/v1/login"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, log.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not serve:\n%s", log.String())
		}
	}
}

type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// result is what a command did.
type result struct {
	code     int
	out, err string
}

func (s *server) command(ctx context.Context, args ...string) (*exec.Cmd, *safe, *safe) {
	cmd := exec.CommandContext(ctx, simtest.Program(s.t), append([]string{"--server", s.URL}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "XDG_CONFIG_HOME=" + filepath.Join(s.dir, "config"), "CURFEW_KEYRING=off", "NO_PROXY=*", "TZ=UTC"}
	out, errs := new(safe), new(safe)
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

func (s *server) run(args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd, out, errs := s.command(ctx, args...)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// want requires an exit code and words in what was printed.
func (r result) want(t *testing.T, code int, words ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.out+r.err, w) {
			t.Errorf("it does not say %q:\n%s%s", w, r.out, r.err)
		}
	}
	return r
}

var shown = regexp.MustCompile(`(?m)^  (http://\S+)$`)
var both = regexp.MustCompile(`(?m)^or both in one: (http://\S+)$`)

// login signs in as a person who opens the address that is shown and fills in what they are asked. A sign-in that begins with a refusal
// shows no address.
func (s *server) login(b *browser, how string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd, out, errs := s.command(ctx, "login", how, "--json")
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	pattern := shown
	if how == "--device" {
		pattern = both
	}
	for {
		if m := pattern.FindStringSubmatch(errs.String()); m != nil {
			if p := b.walk(m[1]); p.status != http.StatusOK {
				s.t.Logf("the browser ended at %s: %d %s", p.at, p.status, p.text)
			}
			<-done
			break
		}
		select {
		case <-done:
		case <-time.After(10 * time.Millisecond):
			continue
		}
		break
	}
	r := result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	if strings.Contains(r.out+r.err, "curfews_") {
		s.t.Errorf("the token is shown:\n%s%s", r.out, r.err)
	}
	return r
}

// me is what whoami tells.
type me struct {
	Name          string
	Roles, Groups []string
	SignedIn      string `json:"signed_in"`
	Session       *struct {
		ID, Via     string
		ConfirmedAt time.Time `json:"confirmed_at"`
	} `json:"current_session"`
}

func (s *server) whoami() me {
	s.t.Helper()
	var m me
	if err := json.Unmarshal([]byte(s.run("whoami", "--json").want(s.t, 0).out), &m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

func people() map[string]claims {
	return map[string]claims{
		"asker":        person("asker", "4d2f-the-sre-group", "everybody"),
		"sam.approver": person("sam.approver", "dba"),
		"outsider":     person("outsider", "everybody"),
		"lee.auditor":  merge(person("lee.auditor"), claims{"roles": []string{"Curfew.Auditor"}}),
	}
}

func merge(a, b claims) claims {
	for k, v := range b {
		a[k] = v
	}
	return a
}

func objectID(name string) string {
	sum := sha256.Sum256([]byte(name))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func start(t *testing.T, more string) (*issuer, *server) {
	t.Helper()
	url := freeURL(t)
	i := startIssuer(t, people(), url+"/login/callback")
	return i, serve(t, url, i, more)
}

// Code with PKCE and device code; whom groups and application roles let in, and with which roles.
func TestSignIn(t *testing.T) {
	t.Parallel()
	i, s := start(t, "")
	s.run("whoami").want(t, 4, "nobody is signed in", " --server "+s.URL+" login")
	for _, c := range []struct {
		who, how string
		roles    []string
		groups   []string
	}{
		{"asker", "--no-browser", []string{"requester"}, []string{"4d2f-the-sre-group", "sre", "everybody"}},
		{"asker", "--device", []string{"requester"}, []string{"4d2f-the-sre-group", "sre", "everybody"}},
		{"sam.approver", "--no-browser", []string{"approver"}, []string{"dba"}},
		{"lee.auditor", "--device", []string{"auditor"}, nil},
	} {
		s.login(newBrowser(t, c.who), c.how).want(t, 0, `"name": "`+c.who+`"`)
		m := s.whoami()
		via := map[string]string{"--no-browser": "browser", "--device": "device"}[c.how]
		if m.Name != c.who || !slices.Equal(m.Roles, c.roles) || !slices.Equal(m.Groups, c.groups) || m.SignedIn != "session" || m.Session == nil || m.Session.Via != via {
			t.Errorf("%s by %s: %+v %+v", c.who, c.how, m, m.Session)
		}
	}
	// In no group that gives a role: told why, on the command line, by either way.
	s.login(newBrowser(t, "outsider"), "--no-browser").want(t, 4, "outsider has no role here")
	s.login(newBrowser(t, "outsider"), "--device").want(t, 4, "outsider has no role here")
	if m := s.whoami(); m.Name != "lee.auditor" {
		t.Errorf("a sign-in that was refused has changed who is signed in: %+v", m)
	}
	// The file has the token, for its user alone; and it ends with logout, here and at the server.
	files, err := filepath.Glob(filepath.Join(s.dir, "config", "curfew", "sessions", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	kept, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	s.run("logout").want(t, 0, "signed out: lee.auditor")
	s.run("whoami").want(t, 4, "nobody is signed in")
	if err := os.WriteFile(files[0], kept, 0o600); err != nil { // somebody has kept a copy
		t.Fatal(err)
	}
	s.run("whoami").want(t, 4, " --server "+s.URL+" login")
	t.Log(i.do(map[string]any{"do": "events"}))
}

// Refresh tokens rotate, and one that was used before ends the grant at this issuer: a session that is confirmed again and again uses
// each of them once, also when many calls come at the same time.
func TestRefresh(t *testing.T) {
	t.Parallel()
	i, s := start(t, "")
	s.login(newBrowser(t, "asker"), "--no-browser").want(t, 0)
	first := s.whoami()
	i.do(map[string]any{"do": "events"})
	for round := range 2 {
		time.Sleep(confirmed + time.Second)
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() { s.run("whoami").want(t, 0, "asker") })
		}
		all.Wait()
		events := fmt.Sprint(i.do(map[string]any{"do": "events"}))
		if !strings.Contains(events, "granted refresh_token") || strings.Contains(events, "refused") {
			t.Fatalf("round %d: the issuer saw %s", round, events)
		}
	}
	if m := s.whoami(); m.Session == nil || m.Session.ID != first.Session.ID || !m.Session.ConfirmedAt.After(first.Session.ConfirmedAt) {
		t.Errorf("it is another session, or was not confirmed: %+v, %+v", first.Session, m.Session)
	}
	// What the issuer tells of groups counts from the next time.
	i.do(map[string]any{"do": "account", "name": "asker", "claims": person("asker", "dba")})
	time.Sleep(confirmed + time.Second)
	if m := s.whoami(); !slices.Equal(m.Roles, []string{"approver"}) || !slices.Equal(m.Groups, []string{"dba"}) {
		t.Errorf("after the change of groups: %+v", m)
	}
	i.do(map[string]any{"do": "account", "name": "asker", "claims": person("asker")})
	time.Sleep(confirmed + time.Second)
	s.run("whoami").want(t, 4, "login")
}

// Whoever loses the grant, or the account, at the issuer is out within the configured time, which is five minutes at most.
func TestRevokedAtTheIssuer(t *testing.T) {
	t.Parallel()
	i, s := start(t, "")
	for what, take := range map[string]func(){
		"grant":   func() { i.do(map[string]any{"do": "revoke", "name": "asker"}) },
		"account": func() { i.do(map[string]any{"do": "disable", "name": "asker"}) },
	} {
		i.do(map[string]any{"do": "account", "name": "asker", "claims": person("asker", "4d2f-the-sre-group")})
		s.login(newBrowser(t, "asker"), "--no-browser").want(t, 0)
		s.run("vm", "list").want(t, 0, "web-01")
		take()
		time.Sleep(confirmed + time.Second)
		s.run("vm", "list").want(t, 4, "login")
		s.run("vm", "list").want(t, 4, "login")
		t.Logf("%s: %v", what, i.do(map[string]any{"do": "events"}))
	}
}

// idToken takes the id_token of another sign-in, for the same person, as whoever runs another application there can.
func (i *issuer) idToken(clientID, clientSecret, callback, who string) string {
	i.t.Helper()
	b := newBrowser(i.t, who)
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM" // of RFC 7636
	q := url.Values{"client_id": {clientID}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid profile"}, "state": {"s"}, "nonce": {"n"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	p := b.walk(i.URL+"/auth?"+q.Encode(), callback)
	form := url.Values{"grant_type": {"authorization_code"}, "code": {p.at.Query().Get("code")}, "code_verifier": {verifier}, "redirect_uri": {callback}}
	to, err := url.Parse(i.URL + "/token")
	if err != nil {
		i.t.Fatal(err)
	}
	req := b.request(http.MethodPost, to, form.Encode())
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(clientSecret))
	res, err := i.hc.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	defer res.Body.Close()
	var a struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil || a.IDToken == "" {
		i.t.Fatalf("%s: no token for %s: %v", res.Status, clientID, err)
	}
	return a.IDToken
}

// swap puts another id_token into the answers of the token endpoint.
func swap(idToken string) func(*http.Response) error {
	return func(res *http.Response) error {
		if res.Request.URL.Path != "/token" || res.StatusCode != http.StatusOK {
			return nil
		}
		var a map[string]any
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
			return err
		}
		a["id_token"] = idToken
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		res.Body = io.NopCloser(bytes.NewReader(b))
		res.ContentLength = int64(len(b))
		res.Header.Set("Content-Length", fmt.Sprint(len(b)))
		return nil
	}
}

// A token that the same issuer signed for another application, for another sign-in, or that was changed on the way signs nobody in.
func TestTokensOfAnother(t *testing.T) {
	t.Parallel()
	i, s := start(t, "")
	other := i.idToken("another", "x", "http://127.0.0.1:9/another", "asker")
	mine := i.idToken(client, secret, s.URL+"/login/callback", "asker")
	head, sig, _ := strings.Cut(mine, ".")
	for what, c := range map[string]struct{ token, says string }{
		"another application's": {other, "audience"},
		"another sign-in's":     {mine, "nonce"},
		"changed":               {head + "." + strings.Replace(sig, sig[:4], "eyJx", 1), "believed"},
		"unsigned":              {"eyJhbGciOiJub25lIn0." + strings.Split(mine, ".")[1] + ".", "none"},
	} {
		i.onTheLine(swap(c.token))
		r := s.login(newBrowser(t, "asker"), "--no-browser")
		if r.code != 4 || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: exit code %d\n%s", what, r.code, r.err)
		}
		s.run("whoami").want(t, 4, "nobody is signed in")
	}
	// By device code there is no nonce: the audience alone keeps the other application's token out.
	i.onTheLine(swap(other))
	s.login(newBrowser(t, "asker"), "--device").want(t, 4, "audience")
	i.onTheLine(nil)
	s.login(newBrowser(t, "asker"), "--no-browser").want(t, 0) // and the way itself is open
}

// Of another tenant, or of none.
func TestTenant(t *testing.T) {
	t.Parallel()
	i, s := start(t, "  tenants: ["+tenant+"]\n")
	s.login(newBrowser(t, "asker"), "--no-browser").want(t, 0)
	s.run("logout").want(t, 0)
	for what, tid := range map[string]any{"another": "8a2f0e0c-0000-4000-8000-0000000bad00", "none": nil} {
		i.do(map[string]any{"do": "account", "name": "asker", "claims": merge(person("asker", "4d2f-the-sre-group"), claims{"tid": tid})})
		for _, how := range []string{"--no-browser", "--device"} {
			r := s.login(newBrowser(t, "asker"), how)
			if r.code != 4 || !strings.Contains(r.err, "tenant") {
				t.Errorf("%s tenant, %s: exit code %d\n%s", what, how, r.code, r.err)
			}
		}
		s.run("whoami").want(t, 4, "nobody is signed in")
	}
}

// The issuer is away when the server starts, and later: what runs goes on, and who would sign in is told what is wrong.
func TestIssuerAway(t *testing.T) {
	t.Parallel()
	url := freeURL(t)
	i := startIssuer(t, people(), url+"/login/callback")
	i.cut()
	s := serve(t, url, i, "")
	admin := filepath.Join(s.data, "tokens", "admin")
	s.run("--token-file", admin, "vm", "list").want(t, 0, "web-01")
	s.login(newBrowser(t, "asker"), "--no-browser").want(t, 1, "the issuer "+i.URL+" does not answer")
	s.login(newBrowser(t, "asker"), "--device").want(t, 1, "the issuer "+i.URL+" does not answer")

	i.connect(nil)
	time.Sleep(4 * time.Second) // it is asked again after three
	s.login(newBrowser(t, "asker"), "--no-browser").want(t, 0)
	before := s.whoami()

	i.cut()
	time.Sleep(confirmed + time.Second)
	for range 3 {
		if m := s.whoami(); m.Name != "asker" || !m.Session.ConfirmedAt.Equal(before.Session.ConfirmedAt) {
			t.Errorf("while the issuer is away: %+v", m)
		}
	}
	asker := s.dir
	s.dir = t.TempDir() // somebody new
	r := s.login(newBrowser(t, "sam.approver"), "--device").want(t, 1, "does not answer")
	if strings.Contains(r.err, "panic") {
		t.Error(r.err)
	}
	s.run("whoami").want(t, 4)
	s.dir = asker
	status := s.run("--token-file", admin, "reconcile", "--json").want(t, 0)
	t.Log(status.out)

	i.connect(nil)
	time.Sleep(16 * time.Second) // it is asked about sessions again after fifteen
	if m := s.whoami(); !m.Session.ConfirmedAt.After(before.Session.ConfirmedAt) {
		t.Errorf("the issuer is back, and the session is not confirmed: %+v", m.Session)
	}
}

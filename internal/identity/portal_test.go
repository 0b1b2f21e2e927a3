package identity_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/identity"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/server"
)

// site is a server on a real listener with TLS, and browsers.
type site struct {
	*world
	url string
	ca  http.RoundTripper
	log *lines
}

type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, limits server.Limits) *site {
	t.Helper()
	s := &site{log: &lines{}}
	s.world = open(t, func(c *identity.Config) { c.Log = slog.New(slog.NewTextHandler(s.log, nil)) })
	srv, err := server.New(server.Options{Service: s.s.Broker, SignIn: s.m, Limits: limits, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewTLSServer(srv)
	t.Cleanup(ts.Close)
	t.Cleanup(srv.Stop)
	s.url, s.ca = ts.URL, ts.Client().Transport
	return s
}

// browser keeps cookies and follows nothing.
type browser struct {
	*site
	c *http.Client
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &browser{site: s, c: &http.Client{Transport: s.ca, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *browser) do(method, path, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := b.c.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res, string(out)
}

// login goes to the issuer and returns the path that the issuer sends the browser back to.
func (b *browser) login(next string) string {
	b.t.Helper()
	res, body := b.do("GET", "/login?next="+url.QueryEscape(next), "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	if res.StatusCode != 303 {
		b.t.Fatalf("login: %d %s", res.StatusCode, body)
	}
	q := b.authorized(res.Header.Get("Location"))
	return identity.CallbackPath + "?" + url.Values{"state": q["state"], "code": {"code-1"}}.Encode()
}

func (b *browser) signIn(next string) *http.Response {
	b.t.Helper()
	res, body := b.do("GET", b.login(next), "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
	if res.StatusCode != 303 {
		b.t.Fatalf("callback: %d %s", res.StatusCode, body)
	}
	return res
}

func (b *browser) cookie(name string) string {
	u, _ := url.Parse(b.url)
	for _, c := range b.c.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func (b *browser) whoami() (out api.Me) {
	b.t.Helper()
	res, body := b.do("GET", "/v1/whoami", "", "Sec-Fetch-Site", "same-origin")
	if res.StatusCode == 200 {
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			b.t.Fatal(err)
		}
	}
	return out
}

func TestPortalSignIn(t *testing.T) {
	b := serve(t, server.Limits{}).browser()
	res := b.signIn("/requests?tab=mine")
	if to := res.Header.Get("Location"); to != "/requests?tab=mine" {
		t.Errorf("goes on at %q", to)
	}
	found := 0
	for _, c := range res.Cookies() {
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || !strings.HasPrefix(c.Name, "__Host-") {
			t.Errorf("the cookie %+v", c)
		}
		if c.Name == "__Host-curfew" && c.Value != "" {
			found++
		}
	}
	if found != 1 || b.cookie("__Host-curfew-login") != "" {
		t.Errorf("cookies: %v", res.Cookies())
	}
	if me := b.whoami(); me.Name != "dora@example.com" || !me.Session || strings.Join(me.Groups, " ") != "G-PLATFORM platform" {
		t.Errorf("got %+v", me)
	}
	if res, _ := b.do("POST", "/logout", "", "Sec-Fetch-Site", "same-origin"); res.StatusCode != 303 || b.cookie("__Host-curfew") != "" {
		t.Errorf("logout: %d", res.StatusCode)
	}
	if me := b.whoami(); me.Name != "" {
		t.Errorf("afterwards: %+v", me)
	}
}

// Whoever put a session into somebody's browser before they signed in does not share the one that they get.
func TestSessionFixation(t *testing.T) {
	s := serve(t, server.Limits{})
	b := s.browser()
	u, _ := url.Parse(s.url)
	planted := broker.NewSecret(identity.SessionPrefix)
	b.c.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-curfew", Value: planted, Path: "/", Secure: true}})
	b.signIn("/")
	if got := b.cookie("__Host-curfew"); got == planted || got == "" {
		t.Errorf("the planted session was kept: %q", got)
	}
	if _, err := s.bearer(planted); err == nil {
		t.Error("the planted session is one")
	}
	// A real one of the attacker's does not become the victim's, and ends.
	s.iss.say(object{"oid": "o-eve", "preferred_username": "eve"})
	eve := s.browser()
	eve.signIn("/")
	hers := eve.cookie("__Host-curfew")
	s.iss.say(nil)
	b.c.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-curfew", Value: hers, Path: "/", Secure: true}})
	b.signIn("/")
	if me := b.whoami(); me.Name != "dora@example.com" {
		t.Errorf("got %+v", me)
	}
	if c, err := s.bearer(hers); err == nil {
		t.Errorf("the session from before goes on as %s", c.Name)
	}
	// Each sign-in is a new session.
	first := b.cookie("__Host-curfew")
	b.signIn("/")
	if b.cookie("__Host-curfew") == first {
		t.Error("the same session after another sign-in")
	}
	if _, err := s.bearer(first); err == nil {
		t.Error("the session before goes on")
	}
}

// A sign-in that was begun in one browser is not finished in another: somebody would be signed in as somebody else without noticing.
func TestASignInStaysInItsBrowser(t *testing.T) {
	s := serve(t, server.Limits{})
	attacker, victim := s.browser(), s.browser()
	path := attacker.login("/")
	res, body := victim.do("GET", path, "", "Sec-Fetch-Site", "cross-site")
	if res.StatusCode != 401 || len(res.Cookies()) != 0 || !strings.Contains(body, "begun in another browser") {
		t.Errorf("got %d %v %s", res.StatusCode, res.Cookies(), body)
	}
	victim.login("/") // has a cookie of its own sign-in
	if res, _ := victim.do("GET", attacker.login("/"), "", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 401 {
		t.Errorf("with a sign-in of their own: %d", res.StatusCode)
	}
	// It was used up by the attempt.
	if res, _ := attacker.do("GET", path, ""); res.StatusCode != 401 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
}

func TestOpenRedirects(t *testing.T) {
	s := serve(t, server.Limits{SignIns: 100})
	for _, next := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "/\t/evil.example", "javascript:alert(1)", "/a\r\nX-Evil: 1", "///evil.example", "/%2f%2fevil.example/", ""} {
		res := s.browser().signIn(next)
		if to := res.Header.Get("Location"); to != "/" {
			t.Errorf("%q goes on at %q", next, to)
		}
		if res.Header.Get("X-Evil") != "" {
			t.Errorf("%q made a header", next)
		}
	}
}

func TestCookiesAreForPagesOfThisServer(t *testing.T) {
	s := serve(t, server.Limits{})
	b := s.browser()
	b.signIn("/")
	for name, test := range map[string]struct {
		headers []string
		want    int
	}{
		"a browser that says nothing": {nil, 403},
		"another site":                {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"a neighbour":                 {[]string{"Sec-Fetch-Site", "same-site"}, 403},
		"typed":                       {[]string{"Sec-Fetch-Site", "none"}, 403},
		"another origin":              {[]string{"Origin", "https://evil.example"}, 403},
		"no origin":                   {[]string{"Origin", "null"}, 403},
		"both, of which one lies":     {[]string{"Sec-Fetch-Site", "cross-site", "Origin", s.url}, 403},
		"this origin":                 {[]string{"Origin", s.url}, 201},
		"this server's page":          {[]string{"Sec-Fetch-Site", "same-origin", "Origin", s.url}, 201},
	} {
		body := fmt.Sprintf(`{"vm":%q}`, name) // not what is asked for: 422 tells that the call came through
		want := test.want
		if want == 201 {
			want = 422
		}
		if res, out := b.do("POST", "/v1/requests", body, test.headers...); res.StatusCode != want {
			t.Errorf("%s: got %d, want %d: %s", name, res.StatusCode, want, out)
		}
	}
	if res, _ := b.do("POST", "/logout", "", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 403 {
		t.Errorf("a foreign logout: %d", res.StatusCode)
	}
	if res, _ := b.do("GET", "/v1/whoami", "", "Sec-Fetch-Site", "cross-site"); res.StatusCode != 403 {
		t.Errorf("a foreign read: %d", res.StatusCode)
	}
	if b.whoami().Name == "" {
		t.Error("the session was lost to what was refused")
	}
	// A token in a header is nothing that a page can send for somebody, so that programs need say nothing of where they come from.
	token := b.cookie("__Host-curfew")
	if res, _ := s.browser().do("POST", "/v1/requests", `{"vm":"x"}`, "Authorization", "Bearer "+token); res.StatusCode != 422 {
		t.Errorf("a program: %d", res.StatusCode)
	}
	// A cookie of another name, or none with the prefix, signs nobody in.
	if res, _ := s.browser().do("GET", "/v1/whoami", "", "Cookie", "curfew="+token); res.StatusCode != 401 {
		t.Errorf("another cookie: %d", res.StatusCode)
	}
}

func TestNothingOfACallGetsIntoHeadersPagesOrLines(t *testing.T) {
	s := serve(t, server.Limits{FailedSignIns: 1000, SignIns: 1000})
	b := s.browser()
	evil := "x\r\nSet-Cookie: evil=1\r\n\r\n<script>alert(1)</script>\u2028level=ERROR"
	for _, q := range []url.Values{{"state": {evil}}, {"state": {strings.Repeat("a", 43)}, "code": {evil}}, {"error": {evil}}} {
		res, body := b.do("GET", identity.CallbackPath+"?"+q.Encode(), "")
		if res.StatusCode != 401 || len(res.Cookies()) != 0 || strings.Contains(body, "<script>") || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") ||
			!strings.Contains(res.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("got %d %v %s", res.StatusCode, res.Header, body)
		}
	}
	// What the issuer passes on is shown as text.
	path := b.login("/")
	state := path[strings.Index(path, "state="):]
	res, body := b.do("GET", identity.CallbackPath+"?"+state+"&error="+url.QueryEscape(evil)+"&error_description="+url.QueryEscape(evil), "")
	if strings.Contains(body, "<script>") || len(res.Header["Set-Cookie"]) != 0 {
		t.Errorf("got %v %s", res.Header, body)
	}
	// A name with a line of its own.
	s.iss.say(object{"preferred_username": "eve\nlevel=ERROR msg=\"dora did it\"", "oid": "o-eve"})
	if res, _ := b.do("GET", b.login("/"), ""); res.StatusCode != 403 {
		t.Errorf("got %d", res.StatusCode)
	}
	for line := range strings.Lines(s.log.String()) {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("a line of the log that nobody wrote: %q", line)
		}
	}
	for _, e := range s.entries("session.start", "refused") {
		if strings.ContainsAny(e.Message+e.Actor, "\r\n\u2028") {
			t.Errorf("an entry with a line break: %q", e.Message)
		}
	}
	if strings.Contains(s.log.String(), "code-1") {
		t.Error("a code stands in the log")
	}
}

func TestOversized(t *testing.T) {
	s := serve(t, server.Limits{FailedSignIns: 1000})
	b := s.browser()
	if res, _ := b.do("POST", "/v1/login/start", `{"redirect_uri":"`+strings.Repeat("a", 300<<10)+`"}`); res.StatusCode != 413 {
		t.Errorf("a body of 300 KiB: %d", res.StatusCode)
	}
	for _, path := range []string{"/v1/login/token", "/v1/login/device/token"} {
		for _, body := range []string{`{"code":"` + strings.Repeat("a", 10<<10) + `","verifier":"` + verifier + `","handle":"` + strings.Repeat("a", 10<<10) + `"}`, `{}`, `[]`, ``, `{"code":1}`,
			`{"code":"a","code":"b"}`, strings.Repeat("[", 10_000)} {
			if res, out := b.do("POST", path, body); res.StatusCode/100 != 4 {
				t.Errorf("%s %.40s: %d %s", path, body, res.StatusCode, out)
			}
		}
	}
	path := b.login("/")
	if res, _ := b.do("GET", path+strings.Repeat("a", 20<<10), ""); res.StatusCode != 401 {
		t.Errorf("a long code: %d", res.StatusCode)
	}
	if res, _ := b.do("GET", "/v1/whoami", "", "Authorization", "Bearer eyJ"+strings.Repeat("a", 20<<10)+".b.c"); res.StatusCode != 401 {
		t.Errorf("a long token: %d", res.StatusCode)
	}
}

func TestLimitsOfSignIns(t *testing.T) {
	t.Run("begun", func(t *testing.T) {
		b := serve(t, server.Limits{SignIns: 0.001}).browser() // in bursts: of one here
		if res, body := b.do("POST", "/v1/login/device", ""); res.StatusCode != 200 {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
		for _, at := range []string{"POST /v1/login/device", "GET /login"} {
			method, path, _ := strings.Cut(at, " ")
			if res, _ := b.do(method, path, ""); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %d", at, res.StatusCode)
			}
		}
		if res, _ := b.do("GET", "/v1/login", ""); res.StatusCode != 200 {
			t.Errorf("asking how: %d", res.StatusCode)
		}
	})
	t.Run("failed", func(t *testing.T) {
		for name, call := range map[string]func(*browser) *http.Response{
			"codes": func(b *browser) *http.Response {
				res, _ := b.do("POST", "/v1/login/token", `{"code":"guess","verifier":"`+verifier+`"}`)
				return res
			},
			"handles": func(b *browser) *http.Response {
				res, _ := b.do("POST", "/v1/login/device/token", `{"handle":"guess"}`)
				return res
			},
			"callbacks": func(b *browser) *http.Response {
				res, _ := b.do("GET", identity.CallbackPath+"?state=guess", "")
				return res
			},
			"sessions": func(b *browser) *http.Response {
				res, _ := b.do("GET", "/v1/whoami", "", "Authorization", "Bearer "+broker.NewSecret(identity.SessionPrefix))
				return res
			},
			"API tokens": func(b *browser) *http.Response {
				res, _ := b.do("GET", "/v1/whoami", "", "Authorization", "Bearer "+broker.NewSecret(broker.SecretPrefix))
				return res
			},
		} {
			b := serve(t, server.Limits{FailedSignIns: 0.5}).browser() // bursts of five
			limited := 0
			for range 10 {
				if res := call(b); res.StatusCode == 429 {
					limited++
				} else if res.StatusCode != 401 {
					t.Errorf("%s: %d", name, res.StatusCode)
				}
			}
			if limited < 4 || limited > 6 {
				t.Errorf("%s: %d of ten guesses were turned away, want five", name, limited)
			}
		}
	})
}

// An event stream does not outlive the rights of who reads it.
func TestAStreamEndsWithItsSession(t *testing.T) {
	for name, lose := range map[string]func(*site){
		"an admin ends it": func(s *site) {
			if _, err := s.s.Broker.EndSessions(s.t.Context(), bt.Admin, broker.EndSessionsInput{Person: "dora@example.com"}); err != nil {
				s.t.Error(err)
			}
		},
		"another role": func(s *site) {
			s.iss.say(object{"groups": []string{"g-platform", "g-admins"}})
			s.clk.Advance(4 * time.Minute)
		},
		"no role": func(s *site) {
			s.iss.say(object{"groups": nil})
			s.clk.Advance(4 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, server.Limits{Recheck: 20 * time.Millisecond})
			token := s.in(nil).Token
			req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := (&http.Client{Transport: s.ca}).Do(req)
			if err != nil || res.StatusCode != 200 {
				t.Fatalf("%v, %v", res, err)
			}
			defer res.Body.Close()
			ended := make(chan string, 1)
			go func() {
				last := ""
				for sc := bufio.NewScanner(res.Body); sc.Scan(); {
					if sc.Text() != "" {
						last = sc.Text()
					}
				}
				ended <- last
			}()
			select {
			case last := <-ended:
				t.Fatalf("it ended before: %q", last)
			case <-time.After(200 * time.Millisecond):
			}
			lose(s)
			select {
			case last := <-ended:
				if !strings.Contains(last, "your rights have changed") {
					t.Errorf("it ended with %q", last)
				}
			case <-time.After(10 * time.Second):
				t.Error("it goes on")
			}
		})
	}
}

func TestSignInOverHTTP(t *testing.T) {
	s := serve(t, server.Limits{})
	b := s.browser()
	post := func(path, body string, into any) int {
		t.Helper()
		res, out := b.do("POST", path, body)
		if res.StatusCode < 300 {
			if err := json.Unmarshal([]byte(out), into); err != nil {
				t.Fatal(err)
			}
		}
		return res.StatusCode
	}
	var methods api.LoginMethods
	_, out := b.do("GET", "/v1/login", "")
	if err := json.Unmarshal([]byte(out), &methods); err != nil || !methods.Browser || !methods.Device || methods.Token || methods.Demo || methods.Issuer != s.iss.url() {
		t.Errorf("got %+v, %v", methods, err)
	}
	var st api.LoginStart
	if code := post("/v1/login/start", `{"redirect_uri":"`+back+`","challenge":"`+s256(verifier)+`","state":"state-of-the-cli"}`, &st); code != 200 {
		t.Fatal(code)
	}
	q := s.authorized(st.URL)
	if q.Get("scope") != "openid profile offline_access" || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == s256(verifier) ||
		q.Get("redirect_uri") != "https://curfew.example.com/login/callback" || len(q.Get("nonce")) < 40 || q.Get("state") == "state-of-the-cli" {
		t.Errorf("the issuer is asked %v", q)
	}
	res, _ := b.do("GET", identity.CallbackPath+"?"+url.Values{"state": q["state"], "code": {"c"}}.Encode(), "")
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != 303 || len(res.Cookies()) != 0 {
		t.Fatalf("%d, %v, %v", res.StatusCode, res.Cookies(), err)
	}
	var in api.SignedIn
	if code := post("/v1/login/token", `{"code":"`+u.Query().Get("code")+`","verifier":"`+verifier+`"}`, &in); code != 200 || in.Name != "dora@example.com" {
		t.Fatalf("%d %+v", code, in)
	}
	// The other operations of the API, with it.
	auth := []string{"Authorization", "Bearer " + in.Token}
	var list api.List[api.Session]
	_, out = b.do("GET", "/v1/sessions", "", auth...)
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) != 1 || !list.Items[0].Current || strings.Contains(out, "refresh") {
		t.Errorf("sessions: %s", out)
	}
	if res, out := b.do("GET", "/v1/accounts", "", auth...); res.StatusCode != 403 {
		t.Errorf("accounts: %d %s", res.StatusCode, out)
	}
	if res, out := b.do("POST", "/v1/logout", "", auth...); res.StatusCode != 200 {
		t.Errorf("logout: %d %s", res.StatusCode, out)
	}
	res, out = b.do("GET", "/v1/whoami", "", auth...)
	if res.StatusCode != 401 || !strings.Contains(out, "curfew login") || !strings.Contains(res.Header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("afterwards: %d %s", res.StatusCode, out)
	}
	// An admin of the issuer's makes a token, and it works.
	s.iss.say(object{"oid": "o-ada", "preferred_username": "ada", "groups": []string{"g-admins"}})
	ada := s.browser()
	ada.signIn("/")
	res, out = ada.do("POST", "/v1/tokens", `{"name":"ci","roles":["admin"],"life":"1h"}`, "Sec-Fetch-Site", "same-origin")
	var tok api.NewToken
	if err := json.Unmarshal([]byte(out), &tok); err != nil || res.StatusCode != 201 || tok.Caller != "token:ci" || tok.Sponsor != "ada" {
		t.Fatalf("%d %s %v", res.StatusCode, out, err)
	}
	_, out = b.do("GET", "/v1/whoami", "", "Authorization", "Bearer "+tok.Secret)
	var me api.Me
	if err := json.Unmarshal([]byte(out), &me); err != nil || me.Name != "token:ci" || me.Kind != string(access.APIToken) || me.Sponsor != "ada" {
		t.Errorf("got %s, %v", out, err)
	}
	if res, out := ada.do("POST", "/v1/accounts/ada/end", `{"bar":true,"comment":"gone"}`, "Sec-Fetch-Site", "same-origin"); res.StatusCode != 200 || !strings.Contains(out, `"sessions":1`) {
		t.Errorf("end: %d %s", res.StatusCode, out)
	}
	for what, c := range map[string]*http.Response{"the session": first(ada.do("GET", "/v1/whoami", "", "Sec-Fetch-Site", "same-origin")), "the token": first(b.do("GET", "/v1/whoami", "", "Authorization", "Bearer "+tok.Secret))} {
		if c.StatusCode != 401 {
			t.Errorf("%s goes on: %d", what, c.StatusCode)
		}
	}
}

func first(res *http.Response, _ string) *http.Response { return res }

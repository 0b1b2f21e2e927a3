package cli

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

func fetch(t *testing.T, method, address, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	if h := res.Header.Get("Content-Security-Policy"); !strings.Contains(h, "default-src 'none'") || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %s: headers %v", method, address, res.Header)
	}
	return res.StatusCode, string(b)
}

// What does not belong to the sign-in changes nothing, whoever on this machine sends it; and what belongs to it counts once.
func TestLanding(t *testing.T) {
	state := unguessable()
	at, err := listenForCode(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer at.close()
	u, err := url.Parse(at.URL)
	if err != nil || u.Hostname() != "127.0.0.1" || u.Port() == "" || u.Port() == "0" {
		t.Fatalf("it listens at %s", at.URL)
	}
	good := at.URL + "?code=the-code&state=" + state
	for what, c := range map[string]struct {
		method, url, host string
		status            int
	}{
		"no state":          {"GET", at.URL + "?code=evil", "", 400},
		"another state":     {"GET", at.URL + "?code=evil&state=" + unguessable(), "", 400},
		"part of the state": {"GET", at.URL + "?code=evil&state=" + state[:42], "", 400},
		"the state first":   {"GET", at.URL + "?code=evil&state=x&state=" + state, "", 400},
		"another name":      {"GET", good, "evil.example:" + u.Port(), 404},
		"localhost":         {"GET", good, "localhost:" + u.Port(), 404},
		"another path":      {"GET", strings.Replace(good, landingPath, "/", 1), "", 404},
		"a form":            {"POST", good, "", 405},
	} {
		if status, body := fetch(t, c.method, c.url, c.host); status != c.status || strings.Contains(body, "evil") {
			t.Errorf("%s: %d, want %d\n%s", what, status, c.status, body)
		}
	}
	select {
	case a := <-at.landed:
		t.Fatalf("it took %+v", a)
	default:
	}
	// Many at once: one counts.
	var all sync.WaitGroup
	counts := make(chan int, 20)
	for range 20 {
		all.Go(func() {
			status, body := fetch(t, "GET", good, "")
			if status == 200 && !strings.Contains(body, "You may close this window") {
				t.Errorf("the page: %s", body)
			}
			counts <- status
		})
	}
	all.Wait()
	close(counts)
	n := map[int]int{}
	for s := range counts {
		n[s]++
	}
	if n[200] != 1 || n[410] != 19 {
		t.Errorf("statuses %v", n)
	}
	if a := <-at.landed; a.code != "the-code" || a.err != nil {
		t.Errorf("landed: %+v", a)
	}
	at.close()
	if _, err := http.Get(good); err == nil {
		t.Error("it listens on")
	}
}

func TestLandingOfARefusal(t *testing.T) {
	for query, want := range map[string]struct {
		code       access.Code
		says, hint string
	}{
		"error=access_denied&error_description=no+role&hint=ask": {access.CodeDenied, "no role", "ask"},
		"error=temporarily_unavailable&error_description=away":   {access.CodeUnavailable, "away", ""},
		"error=access_denied": {access.CodeDenied, "refused: access_denied", ""},
		"":                    {access.CodeDenied, "without a code", "curfew login --device"},
	} {
		at, err := listenForCode(t.Context(), "a state")
		if err != nil {
			t.Fatal(err)
		}
		if status, body := fetch(t, "GET", at.URL+"?state=a+state&"+query, ""); status != 200 || !strings.Contains(body, "Not signed in") {
			t.Errorf("%s: %d %s", query, status, body)
		}
		a := <-at.landed
		var e *access.Error
		if !errors.As(a.err, &e) || e.Code != want.code || !strings.Contains(e.Message, want.says) || !strings.Contains(e.Hint, want.hint) {
			t.Errorf("%s: %v", query, a.err)
		}
		at.close()
	}
}

func TestBrowsers(t *testing.T) {
	const page = "https://login.example/a?b=c&d=e"
	for what, c := range map[string]struct {
		system string
		env    map[string]string
		have   []string
		want   []string // the first
	}{
		"nothing":                   {"linux", nil, []string{"xdg-open", "open"}, nil},
		"a screen":                  {"linux", map[string]string{"DISPLAY": ":0"}, []string{"xdg-open"}, []string{"/bin/xdg-open", page}},
		"wayland":                   {"", map[string]string{"WAYLAND_DISPLAY": "wayland-0"}, []string{"xdg-open"}, []string{"/bin/xdg-open", page}},
		"a screen, nothing to open": {"linux", map[string]string{"DISPLAY": ":0"}, nil, nil},
		"macOS":                     {"darwin", nil, []string{"open"}, []string{"/bin/open", page}},
		"Windows":                   {"windows", nil, []string{"rundll32"}, []string{"/bin/rundll32", "url.dll,FileProtocolHandler", page}},
		"BROWSER":                   {"linux", map[string]string{"BROWSER": "nosuch:w3m -N"}, []string{"w3m", "xdg-open"}, []string{"/bin/w3m", "-N", page}},
		"BROWSER with a place":      {"darwin", map[string]string{"BROWSER": "ff --url=%s --new"}, []string{"ff", "open"}, []string{"/bin/ff", "--url=" + page, "--new"}},
		"BROWSER that is not there": {"darwin", map[string]string{"BROWSER": "nosuch"}, []string{"open"}, []string{"/bin/open", page}},
	} {
		cl := &cli{Env: Env{System: c.system, Getenv: func(k string) string { return c.env[k] }, Find: func(p string) (string, error) {
			if slices.Contains(c.have, p) {
				return "/bin/" + p, nil
			}
			return "", errors.New("not found")
		}}}
		var got []string
		if all := cl.browsers(page); len(all) > 0 {
			got = all[0]
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// An address comes from a server, and goes to a program that opens whatever it is given.
func TestWebPage(t *testing.T) {
	for address, want := range map[string]bool{
		"https://login.example/x?y=z%20a": true, "http://127.0.0.1:7449/t/oauth2": true, "HTTPS://login.example": true,
		"": false, "file:///etc/passwd": false, "javascript:alert(1)": false, "ms-settings:": false, "-x": false, "https:login.example": false,
		"https://user@login.example": false, "https://login.example/a b": false, "https://login.example/\n": false, "https://login.example/\"&calc": false,
		`\\host\share`: false, "https://": false, "login.example": false,
	} {
		if err := webPage(address); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestUnguessable(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		s := unguessable()
		if len(s) != 43 || seen[s] || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Fatalf("%q", s)
		}
		seen[s] = true
	}
}

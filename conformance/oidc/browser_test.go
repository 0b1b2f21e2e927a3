package oidc_test

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser is somebody in front of pages that they do not know: it keeps cookies, follows redirects one by one, and fills in the form
// that a page has.
type browser struct {
	t     *testing.T
	hc    *http.Client
	login string // what is typed where a page asks for a name
	seen  []string
}

func newBrowser(t *testing.T, login string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t: t, login: login, hc: &http.Client{Jar: jar, Timeout: 15 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

var (
	formTag  = regexp.MustCompile(`(?is)<form\b([^>]*)>(.*?)</form>`)
	inputTag = regexp.MustCompile(`(?is)<(?:input|button)\b([^>]*)>`)
	attr     = regexp.MustCompile(`(?is)([a-z-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))`)
)

func attributes(tag string) map[string]string {
	out := map[string]string{}
	for _, m := range attr.FindAllStringSubmatch(tag, -1) {
		out[strings.ToLower(m[1])] = html.UnescapeString(m[2] + m[3] + m[4])
	}
	return out
}

// page is where a walk ended.
type page struct {
	at     *url.URL
	status int
	text   string
}

// walk goes to an address and on, through forms and redirects, until a page has no form that it has not sent, or until the address begins
// with one of the ends, which is then not fetched.
func (b *browser) walk(address string, ends ...string) page {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	sent := map[string]bool{}
	for step := 0; step < 30; step++ {
		b.seen = append(b.seen, req.Method+" "+req.URL.Redacted())
		for _, end := range ends {
			if strings.HasPrefix(req.URL.String(), end) {
				return page{at: req.URL}
			}
		}
		res, err := b.hc.Do(req)
		if err != nil {
			b.t.Fatalf("%v\nthe way: %s", err, strings.Join(b.seen, "\n"))
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		res.Body.Close()
		if err != nil {
			b.t.Fatal(err)
		}
		here := page{at: req.URL, status: res.StatusCode, text: string(body)}
		if to := res.Header.Get("Location"); to != "" && res.StatusCode/100 == 3 {
			next, err := req.URL.Parse(to)
			if err != nil {
				b.t.Fatal(err)
			}
			if req, err = http.NewRequestWithContext(b.t.Context(), http.MethodGet, next.String(), nil); err != nil {
				b.t.Fatal(err)
			}
			continue
		}
		m := formTag.FindStringSubmatch(here.text)
		if m == nil || sent[req.URL.String()+m[0]] {
			return here
		}
		sent[req.URL.String()+m[0]] = true
		next := b.fill(req.URL, attributes(m[1]), m[2])
		if next == nil {
			return here
		}
		req = next
	}
	b.t.Fatalf("the way has no end:\n%s", strings.Join(b.seen, "\n"))
	return page{}
}

// fill makes the request that sending a form would make.
func (b *browser) fill(at *url.URL, form map[string]string, inside string) *http.Request {
	b.t.Helper()
	to, err := at.Parse(form["action"])
	if err != nil {
		b.t.Fatal(err)
	}
	v := url.Values{}
	for _, m := range inputTag.FindAllStringSubmatch(inside, -1) {
		a := attributes(m[1])
		switch {
		case a["name"] == "":
		case a["name"] == "login":
			v.Set("login", b.login)
		case a["type"] == "password":
			v.Set(a["name"], "any")
		case a["type"] == "submit" && a["name"] == "abort", a["name"] == "abort":
		default:
			v.Set(a["name"], a["value"])
		}
	}
	if !strings.EqualFold(form["method"], "post") {
		to.RawQuery = v.Encode()
		return b.request(http.MethodGet, to, "")
	}
	return b.request(http.MethodPost, to, v.Encode())
}

func (b *browser) request(method string, to *url.URL, body string) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, to.String(), strings.NewReader(body))
	if err != nil {
		b.t.Fatal(fmt.Errorf("%s %s: %w", method, to, err))
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req
}

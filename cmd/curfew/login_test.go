package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/credential"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// someone is a person with a configuration directory and perhaps a browser.
type someone struct {
	r      *running
	env    map[string]string
	store  *credential.Store
	browse func(address string) // nil: there is no browser
	opened int
}

func (r *running) someone(browse func(string)) *someone {
	return &someone{r: r, env: map[string]string{}, browse: browse,
		store: &credential.Store{Dir: filepath.Join(r.t.TempDir(), "curfew", "sessions"), Clock: r.clk}}
}

// chooses returns a browser in which this account is chosen.
func (r *running) chooses(account string) func(string) {
	return func(address string) {
		if _, err := choose(context.Background(), address, account); err != nil {
			r.t.Errorf("the browser: %v", err)
		}
	}
}

func (p *someone) run(ctx context.Context, args ...string) (int, string, string) {
	e := cli.Env{Getenv: func(k string) string { return p.env[k] }, Sessions: p.store, System: "darwin", Find: func(name string) (string, error) {
		if p.browse != nil && name == "open" {
			return "/usr/bin/open", nil
		}
		return "", errors.New("not found")
	}}
	e.Open = func(argv []string) error {
		p.opened++
		go p.browse(argv[len(argv)-1])
		return nil
	}
	return p.r.with(ctx, e, "", args...)
}

// must requires the exit code, and that no token is shown.
func (p *someone) must(want int, args ...string) string {
	p.r.t.Helper()
	code, out, errs := p.run(p.r.t.Context(), args...)
	if code != want {
		p.r.t.Fatalf("curfew %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	if strings.Contains(out+errs, "curfews_") {
		p.r.t.Errorf("curfew %s shows a token:\n%s%s", strings.Join(args, " "), out, errs)
	}
	return out + errs
}

// byCode signs in with a device code, at which somebody chooses the account.
func (p *someone) byCode(account string, args ...string) (int, string, string) {
	p.r.t.Helper()
	var all sync.WaitGroup
	defer all.Wait()
	pr, pw := io.Pipe()
	defer pw.Close()
	all.Go(func() {
		b, found := "", false
		buf := make([]byte, 4096)
		for {
			n, err := pr.Read(buf)
			b += string(buf[:n])
			if m := regexp.MustCompile(`or both in one: (\S+)\n`).FindStringSubmatch(b); m != nil && !found {
				found = true
				if _, err := choose(context.Background(), m[1], account); err != nil {
					p.r.t.Errorf("the browser: %v", err)
				}
			}
			if err != nil {
				return
			}
		}
	})
	var out, errs strings.Builder
	e := cli.Env{Getenv: func(k string) string {
		if k == "CURFEW_SERVER" {
			return p.r.server
		}
		return p.env[k]
	}, Sessions: p.store, System: "linux", Find: func(string) (string, error) { return "", errors.New("not found") },
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.MultiWriter(&errs, pw), Clock: p.r.clk, Location: time.UTC, Program: "curfew", Version: "test"}
	done := make(chan int, 1)
	go func() { done <- cli.Main(p.r.t.Context(), append([]string{"login"}, args...), e) }()
	for {
		select {
		case code := <-done:
			return code, out.String(), errs.String()
		case <-time.After(2 * time.Millisecond):
			p.r.clk.Advance(20 * time.Millisecond)
		}
	}
}

func (r *running) atTheIssuer(body string) {
	r.t.Helper()
	res, err := http.Post(r.issuer+"/_dev/accounts", "application/json", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		r.t.Fatalf("%s: %s %s", body, res.Status, b)
	}
}

// One person asks and another decides, each signed in as people are; nobody decides on their own, however they sign in (P6).
func TestStoryOfPeopleWhoSignIn(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	asker, approver, admin := r.someone(r.chooses("requester")), r.someone(r.chooses("approver")), r.someone(r.chooses("admin"))
	for _, p := range []*someone{asker, approver, admin} {
		if out := p.must(0, "login"); p.opened != 1 || !strings.Contains(out, "signed in") {
			t.Errorf("a browser was opened %d times: %s", p.opened, out)
		}
	}
	var me struct {
		Name    string
		Groups  []string
		Address string
	}
	if err := json.Unmarshal([]byte(asker.must(0, "whoami", "--json")), &me); err != nil || me.Name != "requester" || me.Address != "203.0.113.9" || len(me.Groups) != 1 || me.Groups[0] != "sre" {
		t.Errorf("whoami: %+v, %v", me, err)
	}
	admin.must(0, "protect", "web-01", "--yes")
	id := r.find(asker.must(0, "request", "create", "web-01", "--for", "5m", "--reason", "INC-1", "--no-wait"), `r-[0-9a-z]{10}`)
	asker.must(4, "approve", id)
	r.must(4, "--as", "requester", "approve", id)
	approver.must(0, "approve", id)
	asker.must(0, "request", "show", id, "--wait")
	if !strings.Contains(r.estate(), "curfew-allow-demo-") {
		t.Error("nothing was opened")
	}
	// --as goes before the session, for scripts.
	if out := asker.must(0, "--as", "auditor", "whoami"); !strings.Contains(out, "auditor") {
		t.Error(out)
	}
	// The group of the issuer decides who may approve for the database, which takes two.
	admin.must(0, "protect", "db-01", "--yes")
	id = r.find(asker.must(0, "request", "create", "db-01", "--for", "5m", "--reason", "INC-2", "--no-wait"), `r-[0-9a-z]{10}`)
	r.atTheIssuer(`{"name":"approver-2","groups":["web"]}`)
	second := r.someone(r.chooses("approver-2"))
	second.must(0, "login")
	approver.must(0, "approve", id)
	second.must(4, "approve", id)
	r.atTheIssuer(`{"name":"approver-2","groups":["dba"]}`)
	second.must(0, "login")
	second.must(0, "approve", id)
	if out := asker.must(0, "request", "show", id); !strings.Contains(out, "approved") {
		t.Error(out)
	}
}

// Out within five minutes: who is disabled at the issuer, or has lost their role there, while the session is in use.
func TestOutWithinFiveMinutes(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	for what, change := range map[string][2]string{
		"disabled": {`{"name":"requester","disabled":true}`, `{"name":"requester","disabled":false}`},
		"no role":  {`{"name":"requester","roles":[]}`, `{"name":"requester","roles":["Curfew.Requester"]}`},
	} {
		p := r.someone(r.chooses("requester"))
		p.must(0, "login")
		for range 3 { // it is confirmed again and again, and goes on
			r.clk.Advance(5 * time.Minute)
			p.must(0, "vm", "list")
		}
		r.atTheIssuer(change[0])
		r.clk.Advance(5 * time.Minute)
		out := p.must(4, "vm", "list")
		if !strings.Contains(out, "hint: sign in again with: curfew login") {
			t.Errorf("%s: it does not say what to do: %s", what, out)
		}
		r.atTheIssuer(change[1])
		p.must(4, "vm", "list") // the session is over, whatever the issuer says later
		p.must(0, "login")
		p.must(0, "vm", "list")
	}
	if out := r.must(0, "--as", "admin", "session", "list", "--all"); strings.Count(out, "requester") < 2 {
		t.Errorf("sessions: %s", out)
	}
	// An admin ends what is left, at once; and keeps somebody out until they are released.
	p := r.someone(r.chooses("requester"))
	p.must(0, "login")
	r.must(0, "--as", "admin", "session", "end", "requester", "--bar", "--comment", "laptop stolen")
	p.must(4, "vm", "list")
	if out := p.must(4, "login"); !strings.Contains(out, "laptop stolen") && !strings.Contains(out, "admin") {
		t.Errorf("kept out: %s", out)
	}
	if out := r.must(0, "--as", "auditor", "account", "list"); !strings.Contains(out, "laptop stolen") {
		t.Errorf("accounts: %s", out)
	}
	r.must(2, "--as", "admin", "account", "release", "requester")
	r.must(0, "--as", "admin", "account", "release", "requester", "--yes")
	p.must(0, "login")
}

// A demo that goes on where it was, on the same addresses: its people are still signed in, and can still lose that.
func TestSessionsGoOnAfterARestart(t *testing.T) {
	clk, dir := clock.NewManual(now()), t.TempDir()
	r := startDemo(t, clk, dir)
	p := r.someone(r.chooses("requester"))
	p.must(0, "login")
	r.stop()
	again := startDemoAt(t, clk, dir, strings.TrimPrefix(r.server, "http://"), strings.TrimPrefix(r.issuer, "http://"))
	p.r = again
	p.must(0, "vm", "list")
	clk.Advance(5 * time.Minute) // so that it has to be confirmed, with the token of before
	p.must(0, "vm", "list")
	again.atTheIssuer(`{"name":"requester","disabled":true}`)
	clk.Advance(5 * time.Minute)
	p.must(4, "vm", "list")
	again.stop()
	p.r = startDemoAt(t, clk, dir, strings.TrimPrefix(r.server, "http://"), strings.TrimPrefix(r.issuer, "http://"))
	if out := p.must(4, "login"); !strings.Contains(out, "disabled") && !strings.Contains(out, "access_denied") {
		t.Errorf("what was changed at the issuer is forgotten: %s", out)
	}
}

func TestLogout(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	p := r.someone(r.chooses("requester"))
	if out := p.must(0, "logout"); !strings.Contains(out, "nobody is signed in") {
		t.Error(out)
	}
	p.must(0, "login")
	file := filepath.Join(p.store.Dir, onlyFile(t, p.store.Dir))
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out := p.must(0, "logout"); !strings.Contains(out, "signed out: requester") {
		t.Error(out)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is still there")
	}
	if err := os.WriteFile(file, kept, 0o600); err != nil { // a copy that somebody has made
		t.Fatal(err)
	}
	p.must(4, "vm", "list")
	p.must(0, "logout") // over already: nothing to complain about

	// The server is away: forgotten all the same, and said so.
	p.must(0, "login")
	r.stop()
	out := p.must(1, "logout")
	if _, err := os.Stat(file); err == nil || !strings.Contains(out, "forgotten here") || !strings.Contains(out, "not ended at the server") {
		t.Errorf("%v\n%s", err, out)
	}
}

func onlyFile(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d files, %v", len(list), err)
	}
	return list[0].Name()
}

// Over SSH and without a browser a code is shown; whoever began it and gives up, or waits too long, is told.
func TestLoginWithoutABrowser(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	p := r.someone(func(string) { t.Error("a browser was opened") })
	for what, c := range map[string]struct {
		env  map[string]string
		args []string
		says string
	}{
		"over SSH":   {map[string]string{"SSH_CONNECTION": "a b", "DISPLAY": ":0"}, nil, "over SSH"},
		"no browser": {nil, nil, "no browser here"},
		"asked for":  {map[string]string{"DISPLAY": ":0"}, []string{"--device"}, "enter the code"},
	} {
		p.env = c.env
		code, out, errs := p.byCode("requester", c.args...)
		if code != 0 || !strings.Contains(errs, c.says) || !strings.Contains(out, "requester") {
			t.Errorf("%s: exit code %d\n%s%s", what, code, out, errs)
		}
	}
	p.env = nil
	if out := p.must(0, "whoami"); !strings.Contains(out, "by device") {
		t.Error(out)
	}
	// Cancelled in the browser, by either way.
	if code, _, errs := p.byCode("", "--device"); code != 4 {
		t.Errorf("cancelled: exit code %d\n%s", code, errs)
	}
	q := r.someone(r.chooses(""))
	if out := q.must(4, "login"); !strings.Contains(out, "access_denied") {
		t.Error(out)
	}
	// Who has no role is told so, and nothing is kept.
	q = r.someone(r.chooses("stranger"))
	if out := q.must(4, "login"); !strings.Contains(out, "stranger has no role here") {
		t.Error(out)
	}
	if _, err := os.Stat(q.store.Dir); err == nil {
		t.Error("something was kept of a sign-in that failed")
	}
	// Nobody comes.
	q = r.someone(func(string) {})
	if out := q.must(7, "login", "--timeout", "30s"); !strings.Contains(out, "within 30s") {
		t.Error(out)
	}
	q.must(7, "login", "--device", "--timeout", "30s")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if code, out, errs := q.run(ctx, "login", "--no-browser"); code == 0 || out != "" || !strings.Contains(errs, "interrupted") && !strings.Contains(errs, "deadline") {
		t.Errorf("Ctrl-C: exit code %d\n%s%s", code, out, errs)
	}
}

// A real browser, on a server and an issuer that listen: what its pages may load, and where its forms may lead, is the browser's to say.
func TestLoginInChromium(t *testing.T) {
	chromium := "/usr/bin/chromium"
	_, err := os.Stat(chromium)
	testkit.Require(t, "chromium", err == nil)
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	actx, stop := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.Headless, chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-background-networking", true))
	defer stop()
	tab, cancel := chromedp.NewContext(actx)
	defer cancel()
	if err := chromedp.Do(tab, chromedp.Navigate("about:blank")); err != nil { // starts the browser
		t.Fatal(err)
	}
	eval := func(js string) string {
		v, err := chromedp.Run(tab, chromedp.Evaluate[string]("String("+js+")"))
		if err != nil {
			t.Errorf("%s: %v", js, err)
		}
		return v
	}
	ended := make(chan string, 1)
	p := r.someone(func(address string) {
		if err := chromedp.Do(tab, chromedp.Navigate(address)); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if got := eval(`getComputedStyle(document.querySelector(".warn")).borderTopWidth`); got != "3px" {
			t.Errorf("the page's style is not let in by its own policy: %s", got)
		}
		if got := eval(`[...document.querySelectorAll("button")].map(b=>b.value).join()`); got != "requester,requester-2,approver,approver-2,admin,auditor,stranger," {
			t.Errorf("to choose from: %s", got)
		}
		eval(`document.querySelector("button[value=approver]").click()`)
		for range 100 {
			if strings.Contains(eval(`document.title`), "Signed in") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		ended <- eval(`document.body.innerText + location.origin`)
	})
	p.must(0, "login")
	if got := <-ended; !strings.Contains(got, "You may close this window") || !strings.Contains(got, "http://127.0.0.1:") {
		t.Errorf("the browser ended at: %s", got)
	}
	if out := p.must(0, "whoami"); !strings.Contains(out, "approver") {
		t.Error(out)
	}
	// The device's page, in the same browser.
	var all sync.WaitGroup
	defer all.Wait()
	pr, pw := io.Pipe()
	defer pw.Close()
	all.Go(func() {
		b, _ := io.ReadAll(io.LimitReader(pr, 1)) // until something is said
		buf := make([]byte, 4096)
		said := string(b)
		for !strings.Contains(said, "Ctrl-C") {
			n, err := pr.Read(buf)
			said += string(buf[:n])
			if err != nil {
				return
			}
		}
		go func() { _, _ = io.Copy(io.Discard, pr) }()
		m := regexp.MustCompile(`(?s)open this address.*?(http\S+).*?enter the code:\s+(\S+)`).FindStringSubmatch(said)
		if m == nil {
			t.Errorf("no address and code in %s", said)
			return
		}
		if err := chromedp.Do(tab, chromedp.Navigate(m[1])); err != nil {
			t.Error(err)
		}
		eval(`document.querySelector("input[name=user_code]").value="` + strings.ToLower(m[2]) + `"`)
		eval(`document.querySelector("button").click()`)
		for range 100 {
			if eval(`!!document.querySelector("button[value=auditor]")`) == "true" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		eval(`document.querySelector("button[value=auditor]").click()`)
	})
	var out strings.Builder
	e := cli.Env{Getenv: func(k string) string { return map[string]string{"CURFEW_SERVER": r.server}[k] }, Sessions: p.store, Stdin: strings.NewReader(""), Stdout: &out,
		Stderr: pw, Clock: r.clk, Location: time.UTC, Program: "curfew", Version: "test"}
	done := make(chan int, 1)
	go func() { done <- cli.Main(t.Context(), []string{"login", "--device"}, e) }()
	for {
		select {
		case code := <-done:
			if code != 0 || !strings.Contains(out.String(), "auditor") {
				t.Errorf("exit code %d\n%s", code, out.String())
			}
			return
		case <-time.After(2 * time.Millisecond):
			r.clk.Advance(4 * time.Millisecond)
		}
	}
}

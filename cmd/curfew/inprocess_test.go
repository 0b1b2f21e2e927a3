package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/demo"
)

// running is a demo on a clock of the test's, and a command line in front of it.
type running struct {
	t      *testing.T
	clk    *clock.Manual
	dir    string
	server string
	issuer string
	cancel context.CancelFunc
	ended  chan error
}

func startDemo(t *testing.T, clk *clock.Manual, dir string) *running {
	t.Helper()
	return startDemoAt(t, clk, dir, "127.0.0.1:0", "")
}

// startDemoAt starts it where one was that has ended.
func startDemoAt(t *testing.T, clk *clock.Manual, dir, listen, issuer string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, clk: clk, dir: dir, cancel: cancel, ended: make(chan error, 1)}
	out, w := io.Pipe()
	go func() {
		r.ended <- demo.Run(ctx, demo.Options{Listen: listen, AzureListen: "127.0.0.1:0", IssuerListen: issuer, Dir: dir, JSON: true, Program: "curfew", Version: "test",
			Out: w, Err: io.Discard, Clock: clk})
		_ = w.Close()
	}()
	var line struct{ Server, Issuer string }
	ready := make(chan error, 1)
	go func() { ready <- json.NewDecoder(out).Decode(&line) }()
	for {
		select {
		case err := <-ready:
			if err != nil {
				cancel()
				t.Fatalf("the demo did not start: %v, %v", err, <-r.ended)
			}
			r.server, r.issuer = line.Server, line.Issuer
			t.Cleanup(r.stop)
			return r
		case <-time.After(5 * time.Millisecond):
			clk.Advance(50 * time.Millisecond)
		}
	}
}

func (r *running) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	for {
		select {
		case err := <-r.ended:
			if err != nil {
				r.t.Errorf("the demo ended with %v", err)
			}
			return
		case <-time.After(5 * time.Millisecond):
			r.clk.Advance(50 * time.Millisecond)
		}
	}
}

// main runs one command line, with the clock moving on, on a terminal if there is something to type.
func (r *running) main(ctx context.Context, typed string, args ...string) (code int, stdout, stderr string) {
	return r.with(ctx, cli.Env{}, typed, args...)
}

// with is main with more of an environment.
func (r *running) with(ctx context.Context, e cli.Env, typed string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	getenv := e.Getenv
	e.Getenv = func(k string) string {
		if k == "CURFEW_SERVER" {
			return r.server
		}
		return getenv(k)
	}
	e.Stdin, e.Stdout, e.Stderr, e.Clock, e.Location, e.Program, e.Version = strings.NewReader(typed), &out, &errs, r.clk, time.UTC, "curfew", "test"
	e.Terminal.In, e.Terminal.Err = typed != "", typed != ""
	done := make(chan struct{})
	go func() {
		code = cli.Main(ctx, args, e)
		close(done)
	}()
	for {
		select {
		case <-done:
			return code, out.String(), errs.String()
		case <-time.After(2 * time.Millisecond):
			r.clk.Advance(20 * time.Millisecond)
		}
	}
}

func (r *running) must(want int, args ...string) string {
	r.t.Helper()
	code, out, errs := r.main(r.t.Context(), "", args...)
	if code != want {
		r.t.Fatalf("curfew %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errs)
	}
	return out + errs
}

func (r *running) find(text, pattern string) string {
	r.t.Helper()
	m := regexp.MustCompile(pattern).FindString(text)
	if m == "" {
		r.t.Fatalf("no %s in:\n%s", pattern, text)
	}
	return m
}

// estate is what the simulated Azure holds, as its file tells.
func (r *running) estate() string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "azure.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *running) waitFor(what string, limit time.Duration, ok func() bool) {
	r.t.Helper()
	real := time.Now().Add(30 * time.Second)
	for end := r.clk.Now().Add(limit); !ok(); {
		if r.clk.Now().After(end) || time.Now().After(real) {
			r.t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
		r.clk.Advance(50 * time.Millisecond)
	}
}

// open protects web-01 and opens it for five minutes.
func (r *running) open() (grant string, ends time.Time) {
	r.t.Helper()
	r.must(0, "--as", "admin", "protect", "web-01", "--yes")
	id := r.find(r.must(0, "--as", "requester", "request", "create", "web-01", "--for", "5m", "--reason", "INC-1", "--no-wait"), `r-[0-9a-z]{10}`)
	r.must(0, "--as", "approver", "approve", id)
	out := r.must(0, "--as", "requester", "request", "show", id, "--wait", "--json")
	grant = r.find(out, `g-[0-9a-z]{10}`)
	var g struct {
		EndsAt time.Time `json:"ends_at"`
		Ready  bool
	}
	if err := json.Unmarshal([]byte(r.must(0, "--as", "requester", "grant", "show", grant, "--json")), &g); err != nil || !g.Ready {
		r.t.Fatalf("not open and verified: %+v, %v", g, err)
	}
	if !strings.Contains(r.estate(), "curfew-allow-demo-") {
		r.t.Fatal("the simulated Azure holds no opening")
	}
	return grant, g.EndsAt
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// P1, P2: the window is over, and nobody has to do anything for the port to shut.
func TestWindowEndsByItself(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	grant, ends := r.open()
	r.clk.Set(ends.Add(-2 * time.Second))
	time.Sleep(50 * time.Millisecond)
	if !strings.Contains(r.estate(), "curfew-allow-demo-") {
		t.Error("shut before its end")
	}
	r.clk.Set(ends)
	r.waitFor("the opening is removed", 30*time.Second, func() bool { return !strings.Contains(r.estate(), "curfew-allow-demo-") })
	if out := r.must(0, "--as", "requester", "request", "list", "--json"); !strings.Contains(out, `"approved"`) {
		t.Errorf("the request is gone: %s", out)
	}
	r.waitFor("the grant has ended", 30*time.Second, func() bool {
		return strings.Contains(r.must(0, "--as", "requester", "grant", "show", grant), "state     ended")
	})
}

// P2: the end passes while no server runs; within a sweep of the restart the port is shut.
func TestEndPassesWhileTheServerIsDown(t *testing.T) {
	clk, dir := clock.NewManual(now()), t.TempDir()
	r := startDemo(t, clk, dir)
	grant, ends := r.open()
	r.stop()
	if !strings.Contains(r.estate(), "curfew-allow-demo-") {
		t.Fatal("the opening went with the server: there is nothing to test")
	}
	clk.Set(ends.Add(time.Hour))
	r = startDemo(t, clk, dir)
	r.waitFor("the opening is removed", 30*time.Second, func() bool { return !strings.Contains(r.estate(), "curfew-allow-demo-") })
	r.waitFor("the grant has ended", 30*time.Second, func() bool {
		return strings.Contains(r.must(0, "--as", "requester", "grant", "show", grant), "state     ended")
	})
	r.must(0, "--as", "auditor", "audit", "verify")
}

// A plan is asked about on a terminal, and only yes is yes.
func TestQuestionsOnATerminal(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	for _, typed := range []string{"n\n", "\n", "yess\n", " "} {
		code, _, errs := r.main(t.Context(), typed, "--as", "admin", "protect", "web-01")
		if code != 6 || !strings.Contains(errs, "protect web-01? [y/N]") || !strings.Contains(errs, "nothing was changed") {
			t.Errorf("%q: exit code %d\n%s", typed, code, errs)
		}
	}
	if strings.Contains(r.estate(), "curfew-deny-demo-") {
		t.Fatal("something was written without consent")
	}
	if code, _, errs := r.main(t.Context(), "y\n", "--as", "admin", "protect", "web-01"); code != 0 {
		t.Fatalf("exit code %d\n%s", code, errs)
	}
	grant, _ := r.open()
	// ssh asks afterwards, and says what stays open.
	code, out, errs := r.main(t.Context(), "n\n", "--as", "requester", "ssh", "web-01", "--for", "5m", "--reason", "x")
	if code != 0 || !strings.Contains(errs, "Close it now? [Y/n]") || !strings.Contains(errs, "curfew --as requester grant close "+grant) {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	code, out, errs = r.main(t.Context(), "\n", "--as", "requester", "ssh", "web-01", "--for", "5m", "--reason", "x")
	if code != 0 || !strings.Contains(errs, "shut: web-01 port 22/tcp") || strings.Contains(r.estate(), "curfew-allow-") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

// Ctrl-C leaves the request, and says how to take it back.
func TestInterruptLeavesTheRequest(t *testing.T) {
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	r.must(0, "--as", "admin", "protect", "web-01", "--yes")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	code, out, errs := r.main(ctx, "", "--as", "requester", "request", "create", "web-01", "--reason", "x")
	if code == 0 || out != "" || !strings.Contains(errs, "interrupted: request r-") {
		t.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	cmd := r.find(errs, `curfew --as requester request cancel r-[0-9a-z]{10}`)
	r.must(0, strings.Fields(cmd)[1:]...) // as it is shown
}

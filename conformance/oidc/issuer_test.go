package oidc_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/conformance/simtest"
	"github.com/curfew-jit/curfew/internal/testkit"
)

const (
	tenant = "8a2f0e0c-0000-4000-8000-00000000c0de"
	client = "curfew"
	secret = "a secret with + and % and / in it"
)

// claims are what an issuer vouches for.
type claims map[string]any

// person shapes them as Entra does.
func person(name string, groups ...string) claims {
	return claims{"preferred_username": name, "name": name, "tid": tenant, "oid": objectID(name), "groups": groups}
}

// issuer is oidc-provider in a process of its own, behind a line that can be cut and that can change what passes.
type issuer struct {
	t    *testing.T
	URL  string // its name, and where the line ends
	hc   *http.Client
	port string // where it listens itself

	mu     sync.Mutex // of in and out
	in     io.Writer
	out    *bufio.Reader
	line   *http.Server
	tamper func(*http.Response) error
}

// startIssuer registers the servers' callbacks, which need not exist yet.
func startIssuer(t *testing.T, people map[string]claims, callbacks ...string) *issuer {
	t.Helper()
	dir := simtest.Folder(t, "js")
	_, err := exec.LookPath("node")
	testkit.Require(t, "node", err == nil)
	_, err = os.Stat(filepath.Join(dir, "node_modules", "oidc-provider"))
	testkit.Require(t, "the JavaScript packages (npm ci in conformance/js)", err == nil)

	i := &issuer{t: t, hc: &http.Client{Timeout: 10 * time.Second}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i.URL = "http://" + l.Addr().String()
	grants := []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}
	settings, err := json.Marshal(map[string]any{"issuer": i.URL, "port": 0, "accounts": people, "clients": []map[string]any{
		{"client_id": client, "client_secret": secret, "redirect_uris": callbacks, "grant_types": grants, "response_types": []string{"code"}},
		{"client_id": "another", "client_secret": "x", "redirect_uris": []string{"http://127.0.0.1:9/another"}, "grant_types": grants, "response_types": []string{"code"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "issuer.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ISSUER_SETTINGS="+string(settings), "NODE_NO_WARNINGS=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := os.Create(filepath.Join(t.TempDir(), "issuer.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
			t.Error("the issuer did not end")
		}
		if b, _ := os.ReadFile(said.Name()); t.Failed() {
			t.Logf("the issuer said:\n%s", b)
		}
	})
	i.in, i.out = stdin, bufio.NewReader(stdout)
	var first struct{ URL string }
	i.answer(&first)
	u, err := url.Parse(first.URL)
	if err != nil || u.Port() == "" {
		t.Fatalf("the issuer listens at %q", first.URL)
	}
	i.port = u.Port()
	i.connect(l)
	t.Cleanup(i.cut)
	return i
}

func (i *issuer) answer(v any) {
	i.t.Helper()
	got := make(chan string, 1)
	go func() {
		for {
			s, err := i.out.ReadString('\n')
			if strings.HasPrefix(s, "{") || err != nil { // it also gives notices
				got <- s
				return
			}
		}
	}()
	select {
	case s := <-got:
		if err := json.Unmarshal([]byte(s), v); err != nil {
			i.t.Fatalf("the issuer said %q: %v", s, err)
		}
	case <-time.After(30 * time.Second):
		i.t.Fatal("the issuer says nothing")
	}
}

// do gives an order to the issuer itself, past the line.
func (i *issuer) do(order map[string]any) any {
	i.t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	b, err := json.Marshal(order)
	if err != nil {
		i.t.Fatal(err)
	}
	if _, err := i.in.Write(append(b, '\n')); err != nil {
		i.t.Fatal(err)
	}
	var a struct {
		OK    any
		Error string
	}
	i.answer(&a)
	if a.Error != "" {
		i.t.Fatalf("%v: %s", order, a.Error)
	}
	return a.OK
}

// connect opens the line, at the address that the issuer is named after.
func (i *issuer) connect(l net.Listener) {
	i.t.Helper()
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", strings.TrimPrefix(i.URL, "http://")); err != nil {
			i.t.Fatal(err)
		}
	}
	to := &url.URL{Scheme: "http", Host: "127.0.0.1:" + i.port}
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // so that it writes its addresses as they are seen from outside
		},
		ModifyResponse: func(res *http.Response) error {
			i.mu.Lock()
			f := i.tamper
			i.mu.Unlock()
			if f == nil {
				return nil
			}
			return f(res)
		},
	}
	i.line = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	go func(s *http.Server) { _ = s.Serve(l) }(i.line)
}

// cut ends the line: nobody listens at the issuer's address any more.
func (i *issuer) cut() { _ = i.line.Close() }

// onTheLine changes answers as they pass; nil leaves them as they are.
func (i *issuer) onTheLine(f func(*http.Response) error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tamper = f
}

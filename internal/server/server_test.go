package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/server"
)

// lines is a log that tests read.
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

// tokens of the people of the tests.
var tokens = map[string]string{"alice": "tok-alice-7f3a9c", "bob": "tok-bob-1b22e8", "root": "tok-root-90aa01"}

func hash(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

// running is a server on a real listener.
type running struct {
	t    *testing.T
	svc  *fake
	srv  *server.Server
	url  string
	log  *lines
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, change func(*server.Options)) *running {
	t.Helper()
	r := &running{t: t, svc: newFake(clock.System{}), log: &lines{}, done: make(chan error, 1)}
	o := server.Options{Service: r.svc, Installation: "test", Version: "v0", Log: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		People: []server.Person{
			{Name: "alice", Roles: []access.Role{access.Requester}, TokenSHA256: hash(tokens["alice"])},
			{Name: "bob", Roles: []access.Role{access.Approver}, TokenSHA256: hash(tokens["bob"])},
			{Name: "root", Roles: []access.Role{access.Admin, access.Auditor}, TokenSHA256: hash(tokens["root"])},
			{Name: "silent", Roles: []access.Role{access.Admin}},
		}}
	if change != nil {
		change(&o)
	}
	var err error
	if r.srv, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(t.Context(), "127.0.0.1:0", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + l.Addr().String()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.srv.Run(ctx, l) }()
	t.Cleanup(func() {
		r.stop()
		select {
		case <-r.done:
		case <-time.After(15 * time.Second):
			t.Error("the server did not stop")
		}
	})
	return r
}

func (r *running) as(name string) *client.Client {
	r.t.Helper()
	c, err := client.New(client.Options{Server: r.url, Token: tokens[name]})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// raw sends a request that no client of ours would send.
func (r *running) raw(method, path, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tokens["alice"])
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			req.Host = header[i+1]
		case header[i+1] == "":
			req.Header.Del(header[i])
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(b)
}

func code(t *testing.T, err error, want access.Code) *access.Error {
	t.Helper()
	var e *access.Error
	if err == nil || access.CodeOf(err) != want {
		t.Fatalf("got error %v (code %s), want code %s", err, access.CodeOf(err), want)
	}
	e, _ = err.(*access.Error)
	return e
}

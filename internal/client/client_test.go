package client_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func want(t *testing.T, err error, c access.Code) *access.Error {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) || e.Code != c {
		t.Fatalf("got error %v (code %s), want code %s", err, access.CodeOf(err), c)
	}
	return e
}

func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []client.Options{
		{Server: "curfew.example.com"}, {Server: "ftp://x"}, {Server: "https://"}, {Server: "https://u:p@x"}, {Server: "https://x?y"},
		{Server: "http://curfew.example.com", Token: "t"}, // it would travel in the clear
		{Server: "https://x", Token: "a\nb"}, {Server: "https://x", As: "a\r\nEvil: 1"}, {Server: "https://x", CA: filepath.Join(t.TempDir(), "absent")},
	} {
		if _, err := client.New(o); access.CodeOf(err) != access.CodeInvalid {
			t.Errorf("%+v: got %v", o, err)
		}
	}
	for _, o := range []client.Options{{}, {Server: "http://localhost:1", Token: "t"}, {Server: "http://[::1]:1", Token: "t"}, {Server: "https://x/", Token: "t"}, {Server: "http://x"}} {
		if _, err := client.New(o); err != nil {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := dial(t, client.Options{Server: "http://" + l.Addr().String()})
	_, err = c.Whoami(t.Context())
	if e := want(t, err, access.CodeUnavailable); !strings.Contains(e.Hint, "curfew demo") || !strings.Contains(e.Message, l.Addr().String()) || strings.Contains(e.Message, "dial") {
		t.Errorf("got %q, hint %q", e.Message, e.Hint)
	}
	late, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	_, err = c.Whoami(late)
	want(t, err, access.CodeTimeout)
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err = c.Whoami(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What answers may be anything: a proxy, a login page, another program.
func TestAnswersThatAreNotOurs(t *testing.T) {
	for name, c := range map[string]struct {
		status      int
		contentType string
		body        string
		code        access.Code
	}{
		"a page":              {200, "text/html", "<html>login</html>", access.CodeInternal},
		"truncated":           {200, "application/json", `{"name":"al`, access.CodeInternal},
		"another kind":        {200, "application/json", `[1,2]`, access.CodeInternal},
		"gateway":             {502, "text/html", "bad gateway", access.CodeUnavailable},
		"not found":           {404, "text/plain", "404 page not found", access.CodeNotFound},
		"refused":             {403, "text/html", "blocked", access.CodeDenied},
		"redirect":            {302, "text/html", "", access.CodeInternal},
		"teapot":              {418, "application/json", `{"detail":"x"}`, access.CodeInvalid},
		"a problem of others": {409, api.ProblemType, `{"title":"x","status":409}`, access.CodeConflict},
		"half a problem":      {409, api.ProblemType, `{"code":"conf`, access.CodeConflict},
		"of a newer server":   {409, api.ProblemType, `{"code":"quantum","detail":"no","status":409,"hint":"h"}`, access.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			var elsewhere atomic.Int32
			other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
			defer other.Close()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.Header().Set("Location", other.URL)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer srv.Close()
			_, err := dial(t, client.Options{Server: srv.URL, Token: "secret"}).Whoami(t.Context())
			if e := want(t, err, c.code); e.Hint == "" || strings.Contains(e.Message, "secret") {
				t.Errorf("got %q, hint %q", e.Message, e.Hint)
			}
			if elsewhere.Load() > 0 {
				t.Error("the token was carried elsewhere")
			}
		})
	}
}

// cutter breaks the first n connections after it has read the request.
func cutter(t *testing.T, n int32, calls *atomic.Int32) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= n {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"r-1","state":"pending","reason":%q}`, r.Header.Get(client.KeyHeader))
	}))
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	return srv
}

// Only what does no harm twice is sent twice.
func TestLostAnswers(t *testing.T) {
	var calls atomic.Int32
	c := dial(t, client.Options{Server: cutter(t, 2, &calls).URL})
	if r, err := c.Request(t.Context(), "r-1"); err != nil || r.ID != "r-1" || calls.Load() != 3 {
		t.Errorf("a read: %+v, %v after %d calls", r, err, calls.Load())
	}
	calls.Store(0)
	if r, err := c.CreateRequest(t.Context(), api.RequestInput{VMs: []string{"a"}}, "k1"); err != nil || r.Reason != "k1" || calls.Load() != 3 {
		t.Errorf("a creation with a key: %+v, %v after %d calls", r, err, calls.Load())
	}
	for name, f := range map[string]func() error{
		"a creation without a key": func() error { _, err := c.CreateRequest(t.Context(), api.RequestInput{}, ""); return err },
		"an approval":              func() error { _, err := c.Approve(t.Context(), "r-1", api.ReviewInput{}); return err },
		"a closing":                func() error { _, err := c.Close(t.Context(), "g-1"); return err },
	} {
		calls.Store(0)
		if err := f(); access.CodeOf(err) != access.CodeUnavailable || calls.Load() != 1 {
			t.Errorf("%s: %v after %d calls", name, err, calls.Load())
		}
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"name":"alice"}`)
	}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	_, err := dial(t, client.Options{Server: srv.URL, Token: "t"}).Whoami(t.Context())
	if e := want(t, err, access.CodeUnavailable); !strings.Contains(e.Message, "not trusted") || !strings.Contains(e.Hint, "--ca") {
		t.Errorf("got %q, hint %q", e.Message, e.Hint)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if me, err := dial(t, client.Options{Server: srv.URL, Token: "t", CA: ca}).Whoami(t.Context()); err != nil || me.Name != "alice" {
		t.Errorf("got %+v, %v", me, err)
	}
	_, err = dial(t, client.Options{Server: strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), CA: ca}).Whoami(t.Context())
	if e := want(t, err, access.CodeUnavailable); !strings.Contains(e.Message, "another name") {
		t.Errorf("got %q", e.Message)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	_, err = dial(t, client.Options{Server: strings.Replace(plain.URL, "http:", "https:", 1)}).Whoami(t.Context())
	if e := want(t, err, access.CodeUnavailable); !strings.Contains(e.Message, "does not speak TLS") {
		t.Errorf("got %q", e.Message)
	}
	if err := os.WriteFile(ca, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = client.New(client.Options{Server: srv.URL, CA: ca})
	want(t, err, access.CodeInvalid)
}

// Server-sent events are read as the standard says, whatever way they are written.
func TestEventsAreReadAsTheStandardSays(t *testing.T) {
	const stream = "\ufeff: hello\n\nretry: 10\n\nid: 5\nevent: entry\ndata: {\"index\":5,\ndata: \"message\":\"two lines\"}\n\n" +
		"data:{\"index\":6,\"message\":\"no blank\"}\r\nid:6\r\n\r\nid: 6\ndata: {\"index\":6,\"message\":\"again\"}\n\nunknown: x\nlonely\n\ndata: {\"index\":7,\"message\":\"cut off\"}"
	var n atomic.Int32
	var last atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if n.Add(1) == 1 {
			_, _ = io.WriteString(w, stream)
			return
		}
		last.Store(r.Header.Get("Last-Event-ID"))
		_, _ = io.WriteString(w, "data: {\"index\":8,\"message\":\"end\"}\n\n")
	}))
	defer srv.Close()
	var got []string
	for e, err := range dial(t, client.Options{Server: srv.URL}).Events(t.Context(), 4) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Message); e.Message == "end" {
			break
		}
	}
	if s := strings.Join(got, "|"); s != "two lines|no blank|end" || last.Load() != "6" {
		t.Errorf("got %s, and went on after %v", s, last.Load())
	}
}

func TestEventsThatAreNotUnderstood(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: not json\n\n")
	}))
	defer srv.Close()
	n := 0
	for _, err := range dial(t, client.Options{Server: srv.URL}).Events(t.Context(), -1) {
		want(t, err, access.CodeInternal)
		n++
	}
	if n != 1 {
		t.Errorf("%d errors came", n)
	}
}

func TestEventsEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer srv.Close()
	for e, err := range dial(t, client.Options{Server: srv.URL}).Events(ctx, -1) {
		t.Errorf("got %+v, %v", e, err)
	}
}

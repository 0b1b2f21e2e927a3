package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/server"
)

func newRequest(method, url string) *http.Request { return httptest.NewRequest(method, url, nil) }

func newRecorder() *httptest.ResponseRecorder { return httptest.NewRecorder() }

// open starts an event stream and returns its lines.
func (r *running) events(ctx context.Context, lastID string) (*http.Response, <-chan string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", r.url+"/v1/events", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tokens["root"])
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	out := make(chan string, 100)
	go func() {
		defer close(out)
		defer res.Body.Close()
		for sc := bufio.NewScanner(res.Body); sc.Scan(); {
			out <- sc.Text()
		}
	}()
	return res, out
}

func next(t *testing.T, lines <-chan string, prefix string) string {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				t.Fatalf("the stream ended before %q", prefix)
			}
			if strings.HasPrefix(l, prefix) {
				return l
			}
		case <-late:
			t.Fatalf("no %q came", prefix)
		}
	}
}

func TestEventsAsTheyAreOnTheWire(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{Heartbeat: 50 * time.Millisecond} })
	r.svc.note("before")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, lines := r.events(ctx, "")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	next(t, lines, ": still here")
	r.svc.note("line\nbreak")
	if l := next(t, lines, "id: "); l != "id: 1" {
		t.Errorf("got %q", l) // what was there before does not come
	}
	if l := next(t, lines, "data: "); !strings.Contains(l, `"message":"line\nbreak"`) {
		t.Errorf("got %q", l)
	}
	_, lines = r.events(ctx, "0")
	if l := next(t, lines, "id: "); l != "id: 1" {
		t.Errorf("resumed: got %q", l)
	}
	// When the reader goes, so does what was made for it.
	cancel()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, body := r.raw("GET", "/metrics", "")
		if strings.Contains(body, "curfew_http_event_streams 0") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the streams are still open")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStreamsOfOnePersonAreBounded(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{Streams: 2} })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		r.events(ctx, "")
	}
	if res, _ := r.events(ctx, ""); res.StatusCode != 429 {
		t.Errorf("got %d", res.StatusCode)
	}
}

// The client goes on where it was when the server comes back, and misses nothing.
func TestTheClientResumesEvents(t *testing.T) {
	r := start(t, nil)
	r.svc.note("0")
	// A door in front of the server that can be slammed.
	var mu sync.Mutex
	var open []context.CancelFunc
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		ctx, cancel := context.WithCancel(q.Context())
		mu.Lock()
		open = append(open, cancel)
		mu.Unlock()
		q = q.WithContext(ctx)
		q.RemoteAddr = "127.0.0.1:1"
		r.srv.ServeHTTP(w, q)
	}))
	defer proxy.Close()
	c, err := client.New(client.Options{Server: proxy.URL, Token: tokens["root"]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	want := 1
	r.svc.note("1")
	for e, err := range c.Events(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != int64(want) || e.Message != fmt.Sprint(want) {
			t.Fatalf("got %+v, want %d", e, want)
		}
		if want++; want > 6 {
			return
		}
		if want%2 == 0 {
			mu.Lock()
			for _, cut := range open {
				cut()
			}
			mu.Unlock()
		}
		r.svc.note(fmt.Sprint(want))
	}
	t.Fatal("the events ended")
}

func TestEventsEndWhereTryingAgainIsNoUse(t *testing.T) {
	r := start(t, nil)
	c, err := client.New(client.Options{Server: r.url, Token: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range c.Events(t.Context(), -1) {
		code(t, err, access.CodeUnauthenticated)
		return
	}
	t.Fatal("no error came")
}

func TestShutdownEndsStreamsAndWaitsForCalls(t *testing.T) {
	r := start(t, nil)
	_, lines := r.events(t.Context(), "")
	next(t, lines, ": curfew events")
	inside, release := make(chan struct{}), make(chan struct{})
	r.svc.hook["Reconcile"] = func(context.Context, access.Caller, any) { close(inside); <-release }
	answered := make(chan error, 1)
	go func() { _, err := r.as("root").Reconcile(t.Context()); answered <- err }()
	<-inside
	r.stop()
	for l := range lines { // it ends
		_ = l
	}
	select {
	case err := <-r.done:
		t.Fatalf("the server did not wait for the call: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if c, err := client.New(client.Options{Server: r.url, Token: tokens["root"]}); err != nil {
		t.Fatal(err)
	} else if _, err = c.Cancel(t.Context(), "r-1"); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("a new call was taken: %v", err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.done <- nil
	rec := newRecorder()
	if r.srv.ServeHTTP(rec, newRequest("GET", "http://127.0.0.1/readyz")); rec.Code != 503 || !strings.Contains(rec.Body.String(), "shutting down") {
		t.Errorf("readyz: got %d %s", rec.Code, rec.Body)
	}
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{Shutdown: 100 * time.Millisecond} })
	inside := make(chan struct{})
	r.svc.hook["Reconcile"] = func(ctx context.Context, _ access.Caller, _ any) { close(inside); <-ctx.Done() }
	answered := make(chan error, 1)
	go func() { _, err := r.as("root").Reconcile(t.Context()); answered <- err }()
	<-inside
	r.stop()
	if err := <-r.done; err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("got %v", err)
	}
	r.done <- nil
	code(t, <-answered, access.CodeUnavailable)
}

func TestWaiting(t *testing.T) {
	r := start(t, nil)
	alice := r.as("alice")
	req, err := alice.CreateRequest(t.Context(), ask(), "")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := alice.WaitRequest(short, req.ID, nil)
	if e := code(t, err, access.CodeTimeout); got.State != access.Pending || !strings.Contains(e.Hint, req.ID) || api.ExitOf(err) != api.ExitTimeout {
		t.Errorf("got %+v, %v", got, err)
	}
	done := make(chan api.Request, 1)
	seen := make(chan access.RequestState, 100)
	go func() {
		q, err := alice.WaitRequest(t.Context(), req.ID, func(q api.Request) { seen <- q.State })
		if err != nil {
			t.Error(err)
		}
		done <- q
	}()
	if s := <-seen; s != access.Pending {
		t.Errorf("saw %s", s)
	}
	r.svc.set("Request", access.Errorf(access.CodeUnavailable, "down for a moment")) // waited out
	time.Sleep(300 * time.Millisecond)
	r.svc.set("Request", nil)
	if _, err := r.as("bob").Deny(t.Context(), req.ID, "no"); err != nil {
		t.Fatal(err)
	}
	if q := <-done; q.State != access.Denied {
		t.Errorf("got %+v", q)
	}
	_, err = alice.WaitRequest(t.Context(), "r-0", nil)
	code(t, err, access.CodeNotFound)
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err = alice.WaitGrant(gone, "g-0", nil); err != context.Canceled { //nolint:errorlint // this very value
		t.Errorf("got %v", err)
	}
}

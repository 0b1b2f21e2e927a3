package notify_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// key1 and key2 are the bytes behind secret1 and secret2.
var (
	key1    = []byte("0123456789abcdef0123456789abcdef")
	key2    = []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	secret1 = "whsec_" + base64.StdEncoding.EncodeToString(key1)
	secret2 = "whsec_" + base64.StdEncoding.EncodeToString(key2)
)

func secretFile(t testing.TB, text string) notify.SecretFile {
	t.Helper()
	f := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return notify.SecretFile(f)
}

func webhook(t testing.TB, url string) *notify.Webhook {
	t.Helper()
	w, err := notify.NewWebhook(notify.WebhookOptions{Name: "ops", URL: url, Secret: secretFile(t, secret1+"\n"+secret2+"\n"), Guard: notify.Guard{Allow: loopback}, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The example of the specification, whose signature others have computed: a secret, a message, and what they make.
func TestTheSignatureIsThatOfTheSpecification(t *testing.T) {
	key, _ := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	h := notify.SignWebhook([][]byte{key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got, want := h.Get("webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
	if h.Get("webhook-timestamp") != "1614265330" || h.Get("webhook-id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" {
		t.Errorf("headers %v", h)
	}
}

func TestAWebhookIsSignedWithEverySecret(t *testing.T) {
	var got *http.Request
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(r.Context())
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer srv.Close()
	n := storetest.Notice("n-1", "ops", "r-1", storetest.Epoch)
	if _, err := webhook(t, srv.URL+"/hook?x=1").Send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got.Method != http.MethodPost || got.URL.String() != "/hook?x=1" || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("webhook-id") != "n-1" {
		t.Errorf("%s %s %v", got.Method, got.URL, got.Header)
	}
	sigs := strings.Split(got.Header.Get("webhook-signature"), " ")
	if len(sigs) != 2 {
		t.Fatalf("signatures %v, want one of each secret", sigs)
	}
	for i, key := range [][]byte{key1, key2} {
		m := hmac.New(sha256.New, key)
		fmt.Fprintf(m, "n-1.%s.%s", got.Header.Get("webhook-timestamp"), body)
		if want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)); sigs[i] != want {
			t.Errorf("signature %d is %s, want %s", i, sigs[i], want)
		}
	}
	var p notify.Payload
	if err := json.Unmarshal(body, &p); err != nil || p.Type != notify.RequestCreated || p.Data.Request == nil || p.Data.Request.ID != "r-1" || len(p.Data.Request.Targets) == 0 {
		t.Errorf("payload %s: %v", body, err)
	}
}

func TestWhatAWebhookSaysOfTheOtherEnd(t *testing.T) {
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
		final  bool
		after  time.Duration
	}{
		{"accepted", status(202), "", false, 0},
		{"a redirect", status(301, "Location", other.URL), "it answered 301", false, 0},
		{"a redirect that keeps the method", status(308, "Location", other.URL), "it answered 308", false, 0},
		{"not changed", status(304), "it answered 304", false, 0},
		{"its own fault", status(500), "it answered 500", false, 0},
		{"too much", status(429, "Retry-After", "120"), "it answered 429", false, 2 * time.Minute},
		{"not now", status(503, "Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)), "it answered 503", false, time.Hour},
		{"nonsense in Retry-After", status(503, "Retry-After", "-5"), "it answered 503", false, 0},
		{"gone", status(410), "it answered 410", true, 0},
		{"not understood", status(400), "it answered 400", true, 0},
		{"not allowed, which may be put right", status(403), "it answered 403", false, 0},
		{"a body without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}, "", false, 0},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}, "the connection was cut", false, 0},
		{"headers without end", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 400 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 200))
			}
		}, "the call failed", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			_, err := webhook(t, srv.URL+"/secret-path").Send(t.Context(), storetest.Notice("n-1", "ops", "r-1", storetest.Epoch))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var f *notify.Failure
			if !errors.As(err, &f) {
				t.Fatalf("error %v, want a failure", err)
			}
			if !strings.HasPrefix(f.Message, c.want) || f.Final != c.final || (f.After-c.after).Abs() > 2*time.Second {
				t.Errorf("got %q, final %v, after %s; want %q, %v, %s", f.Message, f.Final, f.After, c.want, c.final, c.after)
			}
			if strings.Contains(f.Error(), "secret-path") {
				t.Errorf("the error holds the URL: %v", f)
			}
		})
	}
	if elsewhere > 0 {
		t.Errorf("redirects were followed %d times", elsewhere)
	}
}

func TestWhatIsWrongWithAWebhooksOptions(t *testing.T) {
	good := secretFile(t, secret1)
	for _, c := range []struct {
		url    string
		secret notify.SecretFile
	}{
		{"http://hooks.example.com/", good}, {"https://10.0.0.1/", good}, {"https://example.com/", "/nowhere"}, {"https://example.com/", ""},
		{"https://example.com/", secretFile(t, "\n\n")}, {"https://example.com/", secretFile(t, "hunter2hunter2hunter2hunter2")},
		{"https://example.com/", secretFile(t, "whsec_!!!")}, {"https://example.com/", secretFile(t, "whsec_"+base64.StdEncoding.EncodeToString(key1[:23]))},
		{"https://example.com/", secretFile(t, strings.Repeat(secret1+"\n", 6))}, {"https://example.com/", secretFile(t, strings.Repeat("x", 20<<10))},
	} {
		if _, err := notify.NewWebhook(notify.WebhookOptions{Name: "ops", URL: c.url, Secret: c.secret, Clock: clock.System{}}); err == nil {
			t.Errorf("%s with %s is taken", c.url, c.secret)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

func TestTargetsThatHangOrAnswerSlowly(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	wait := func(r *http.Request, d time.Duration) {
		select {
		case <-over:
		case <-r.Context().Done():
		case <-time.After(d):
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"no answer", func(_ http.ResponseWriter, r *http.Request) { wait(r, time.Minute) }, "no answer in time"},
		{"a late answer", func(_ http.ResponseWriter, r *http.Request) { wait(r, 100*time.Millisecond) }, ""},
		{"taken, and then a body that drips", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "x"); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				wait(r, 50*time.Millisecond)
			}
		}, ""},
		{"a failure with a body that drips", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			for r.Context().Err() == nil && http.NewResponseController(w).Flush() == nil {
				_, _ = io.WriteString(w, "x")
				wait(r, 50*time.Millisecond)
			}
		}, "it answered 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.CloseClientConnections()
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			began := clock.System{}.Now()
			_, err := webhook(t, srv.URL).Send(ctx, storetest.Notice("n-1", "ops", "r-1", storetest.Epoch))
			var f *notify.Failure
			if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &f) || !strings.HasPrefix(f.Message, c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if took := (clock.System{}).Now().Sub(began); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

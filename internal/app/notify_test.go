package app_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

func secretFile(t *testing.T, text string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func startServer(t *testing.T, n config.Notify) (*app.App, error) {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	az, err := bt.NewAzure(s.Transport(), clock.System{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.Start(t.Context(), app.Config{Installation: "test01", Database: filepath.Join(t.TempDir(), "curfew.db"), Policy: bt.AnyPolicy,
		Demo: map[string][]access.Role{"admin": {access.Admin, access.Auditor}, "requester": {access.Requester}, "both": {access.Requester, access.Approver}}, Notify: n}, app.Deps{Azure: az, Listener: l})
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	t.Cleanup(func() { a.Stop(); _ = a.Wait() })
	return a, nil
}

// call calls a server as its admin and reads the answer into out.
func call(t *testing.T, method, url string, out any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Curfew-As", "admin")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	if s, ok := out.(*string); ok {
		*s = string(b)
	} else if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("%s %s: %d %s", method, url, res.StatusCode, b)
	}
	return res.StatusCode
}

func TestAServerTellsItsWebhooks(t *testing.T) {
	got := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("webhook-id") + " " + string(b)
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
	}))
	defer hook.Close()
	secret := secretFile(t, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	a, err := startServer(t, config.Notify{Channels: []config.NotifyChannel{
		{Name: "siem", Type: "webhook", URL: hook.URL, SecretFile: secret, AllowPrivate: loopback},
		{Name: "old", Type: "webhook", URL: hook.URL + "/gone", SecretFile: secret, AllowPrivate: loopback}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ channel, state, why string }{{"siem", "sent", ""}, {"old", "dead", "it answered 410 Gone"}} {
		var n struct {
			ID, State string
			LastError string `json:"last_error"`
		}
		if code := call(t, "POST", a.URL+"/v1/channels/"+c.channel+"/test", &n); code != 200 {
			t.Fatalf("%s: %d", c.channel, code)
		}
		select {
		case s := <-got:
			if !strings.HasPrefix(s, n.ID+" ") || !strings.Contains(s, `"type":"test"`) || !strings.Contains(s, "admin tries whether channel "+c.channel) {
				t.Errorf("%s was told %s", c.channel, s)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s hears nothing", c.channel)
		}
		for range 100 {
			if call(t, "GET", a.URL+"/v1/notices/"+n.ID, &n); n.State != "waiting" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if n.State != c.state || n.LastError != c.why {
			t.Errorf("%s: the notice is %+v", c.channel, n)
		}
	}
	var metrics string
	call(t, "GET", a.URL+"/metrics", &metrics)
	for _, want := range []string{`curfew_notify_attempts_total{channel="siem",result="sent"} 1`, `curfew_notify_attempts_total{channel="old",result="dead"} 1`,
		`curfew_notify_dead{channel="old"} 1`, `curfew_notify_waiting{channel="siem"} 0`, `curfew_notify_oldest_seconds{channel="siem"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	var schema map[string]any
	if code := call(t, "GET", a.URL+"/schema/event.json", &schema); code != 200 || schema["$defs"] == nil {
		t.Errorf("the schema: %d %v", code, schema)
	}
	var entries string
	if call(t, "GET", a.URL+"/v1/audit?action=notify.dead", &entries); !strings.Contains(entries, "old was not told of test: it answered 410 Gone") {
		t.Errorf("the audit log: %s", entries)
	}
}

func TestAServerWithAChannelThatCannotWork(t *testing.T) {
	good := secretFile(t, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	for _, c := range []config.NotifyChannel{
		{Type: "webhook", URL: "https://example.com/", SecretFile: "/nowhere"}, {Type: "webhook", URL: "https://example.com/", SecretFile: secretFile(t, "hunter2")},
		{Type: "webhook", URL: "https://169.254.169.254/", SecretFile: good}, {Type: "webhook", URL: "https://example.com/", SecretFile: good, CA: good}, {Type: "pigeon"},
	} {
		c.Name = "ops"
		_, err := startServer(t, config.Notify{Channels: []config.NotifyChannel{c}})
		var e *access.Error
		if !errors.As(err, &e) || e.Code != access.CodeInvalid || !strings.Contains(e.Message, "channel ops") || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

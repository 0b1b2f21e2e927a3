package sim_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/sim"
)

func (a *az) fault(f sim.Fault) string {
	a.t.Helper()
	id, err := a.s.Fault(f)
	if err != nil {
		a.t.Fatal(err)
	}
	return id
}

func (a *az) rules() string {
	a.t.Helper()
	var names []string
	for _, r := range list(a.do(200, "GET", nsgID+"/securityRules", nil).body["value"]) {
		names = append(names, at(r, "name").(string))
	}
	return strings.Join(names, " ")
}

func withNSG(t *testing.T, cfg sim.Config) *az {
	a := newAz(t, cfg)
	a.do(201, "PUT", nsgID, nsgBody(rule("old", 200)))
	a.s.Advance(time.Hour)
	return a
}

func TestFaultErrors(t *testing.T) {
	a := withNSG(t, sim.Config{})
	for status, code := range map[int]string{400: "BadRequest", 401: "InvalidAuthenticationToken", 403: "AuthorizationFailed", 404: "ResourceNotFound",
		409: "Conflict", 412: "PreconditionFailed", 429: "SubscriptionRequestsThrottled", 500: "InternalServerError", 503: "ServerUnavailable"} {
		a.fault(sim.Fault{Kind: "error", Status: status, Method: "PUT", PathPattern: "/networksecuritygroups/", Count: 1, RetryAfter: 3 * time.Second})
		r := a.fails(status, code, "PUT", nsgID, nsgBody())
		if got := r.header.Get("Retry-After"); status != 401 && got != "3" {
			t.Errorf("%d: got Retry-After %q, want 3", status, got)
		}
	}
	a.fault(sim.Fault{Kind: "error", Status: 409, Code: "AnotherOperationInProgress", Message: "Busy.", Count: 1})
	a.fails(409, "AnotherOperationInProgress", "PUT", nsgID, nsgBody())
	a.fault(sim.Fault{Kind: "throttle", Count: 1, RetryAfter: 1500 * time.Millisecond})
	if got := a.fails(429, "SubscriptionRequestsThrottled", "GET", nsgID, nil).header.Get("Retry-After"); got != "2" {
		t.Errorf("got Retry-After %q, want 2", got)
	}
	a.fault(sim.Fault{Kind: "throttle", Count: 1})
	if got := a.fails(429, "SubscriptionRequestsThrottled", "GET", nsgID, nil).header.Get("Retry-After"); got != "" {
		t.Errorf("got Retry-After %q, want none", got)
	}
	a.fault(sim.Fault{Kind: "another-operation", Count: 1})
	if got := a.fails(429, "RetryableError", "PUT", nsgID, nsgBody()); at(got.body, "error", "details", 0, "code") != "RetryableErrorDueToAnotherOperation" {
		t.Errorf("got %s", got.raw)
	}
	if got := a.rules(); got != "old" {
		t.Errorf("got rules %q: a refused write was applied", got)
	}
	a.fault(sim.Fault{Kind: "error", Status: 503, Applied: true, BodyPattern: `"new"`})
	a.do(200, "PUT", nsgID, nsgBody(rule("else", 200)))
	a.fails(503, "ServerUnavailable", "PUT", nsgID, nsgBody(rule("new", 200)))
	if got := a.rules(); got != "new" {
		t.Errorf("got rules %q, want the write applied in spite of its answer", got)
	}
}

func TestFaultSkipAndCount(t *testing.T) {
	a := withNSG(t, sim.Config{})
	id := a.fault(sim.Fault{Kind: "error", Status: 500, Method: "GET, PUT", PathPattern: "WEB-NSG$", Skip: 1, Count: 2})
	var got []int
	for range 4 {
		r, err := a.try("GET", nsgID, nil)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.status)
	}
	if got[0] != 200 || got[1] != 500 || got[2] != 500 || got[3] != 200 {
		t.Errorf("got %v, want 200 500 500 200", got)
	}
	if f := a.s.Faults(); len(f) != 1 || f[0].Struck != 2 || f[0].ID != id {
		t.Errorf("got %+v", f)
	}
	a.fault(sim.Fault{Kind: "error", Status: 500})
	a.s.ClearFaults()
	a.do(200, "GET", nsgID, nil)
	for _, bad := range []sim.Fault{{Kind: "nonsense"}, {Kind: "error"}, {Kind: "edit"}, {Kind: "slow", PathPattern: "("}, {Kind: "slow", Count: -1}} {
		if _, err := a.s.Fault(bad); err == nil {
			t.Errorf("fault %+v was accepted", bad)
		}
	}
}

func TestFaultOutcomes(t *testing.T) {
	for _, c := range []struct {
		fault  sim.Fault
		status string
		code   string
		rules  string
		writes int
	}{
		{sim.Fault{Kind: "superseded"}, "Canceled", "Canceled", "old", 1},
		{sim.Fault{Kind: "superseded", Applied: true}, "Canceled", "Canceled", "new", 2},
		{sim.Fault{Kind: "operation-failed"}, "Failed", "InternalServerError", "old", 1},
		{sim.Fault{Kind: "operation-failed", Applied: true, Code: "Odd"}, "Failed", "Odd", "new", 2},
	} {
		a := withNSG(t, sim.Config{OperationDelay: time.Second})
		c.fault.Method, c.fault.Count = "PUT", 1
		a.fault(c.fault)
		r := a.do(200, "PUT", nsgID, nsgBody(rule("new", 200)))
		poll := a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil)
		if poll.body["status"] != "InProgress" {
			t.Errorf("%+v: got %s, want InProgress", c.fault, poll.raw)
		}
		a.s.Advance(time.Second)
		poll = a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil)
		if poll.body["status"] != c.status || at(poll.body, "error", "code") != c.code {
			t.Errorf("%+v: got %s, want %s %s", c.fault, poll.raw, c.status, c.code)
		}
		if got := a.rules(); got != c.rules {
			t.Errorf("%+v: got rules %q, want %q", c.fault, got, c.rules)
		}
		if got := a.s.Writes(nsgID); got != c.writes {
			t.Errorf("%+v: got %d writes, want %d", c.fault, got, c.writes)
		}
		a.do(200, "PUT", nsgID, nsgBody(rule("newer", 200)))
	}
}

func TestFaultStuck(t *testing.T) {
	a := withNSG(t, sim.Config{})
	a.fault(sim.Fault{Kind: "operation-stuck", Method: "PUT", Count: 1})
	r := a.do(200, "PUT", nsgID, nsgBody(rule("new", 200)))
	a.s.Advance(24 * time.Hour)
	status := func() any { return a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil).body["status"] }
	if got := status(); got != "InProgress" {
		t.Errorf("got %v, want InProgress", got)
	}
	a.fails(429, "RetryableError", "PUT", nsgID, nsgBody())
	a.s.ClearFaults()
	if got := status(); got != "Succeeded" {
		t.Errorf("got %v, want Succeeded", got)
	}
	a.fault(sim.Fault{Kind: "operation-stuck", Method: "PUT", Count: 1, Delay: time.Minute})
	r = a.do(200, "PUT", nsgID, nsgBody(rule("newer", 200)))
	a.s.Advance(59 * time.Second)
	if got := status(); got != "InProgress" {
		t.Errorf("got %v, want InProgress", got)
	}
	a.s.Advance(time.Second)
	if got := status(); got != "Succeeded" {
		t.Errorf("got %v, want Succeeded", got)
	}
}

func TestFaultLostAndLate(t *testing.T) {
	a := withNSG(t, sim.Config{})
	lost := func(err error) {
		t.Helper()
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v, want the connection reset", err)
		}
	}
	a.fault(sim.Fault{Kind: "lost-request", Method: "PUT", Count: 1})
	_, err := a.try("PUT", nsgID, nsgBody(rule("one", 200)))
	lost(err)
	if got := a.rules(); got != "old" {
		t.Errorf("got %q, want the write lost", got)
	}
	a.fault(sim.Fault{Kind: "lost-reply", Method: "PUT", Count: 1})
	_, err = a.try("PUT", nsgID, nsgBody(rule("two", 200)))
	lost(err)
	if got := a.rules(); got != "two" {
		t.Errorf("got %q, want the write applied", got)
	}
	a.fault(sim.Fault{Kind: "late", Method: "PUT", Count: 1, Delay: time.Minute})
	_, err = a.try("PUT", nsgID, nsgBody(rule("three", 200)))
	lost(err)
	a.s.Advance(59 * time.Second)
	if got := a.rules(); got != "two" {
		t.Errorf("got %q, want the write still on its way", got)
	}
	a.s.Advance(time.Second)
	if got := a.rules(); got != "three" {
		t.Errorf("got %q, want the late write applied", got)
	}
	// A conditional late write meets the etag that it finds on arrival.
	etag := a.do(200, "GET", nsgID, nil).body["etag"].(string)
	a.fault(sim.Fault{Kind: "late", Method: "PUT", Count: 1, Delay: time.Minute})
	_, err = a.try("PUT", nsgID, nsgBody(rule("four", 200)), "If-Match", etag)
	lost(err)
	a.do(200, "PUT", nsgID, nsgBody(rule("five", 200)))
	a.s.Advance(time.Minute)
	if got := a.rules(); got != "five" {
		t.Errorf("got %q, want the late write refused by its etag", got)
	}
}

func TestFaultBodies(t *testing.T) {
	a := withNSG(t, sim.Config{})
	a.fault(sim.Fault{Kind: "truncated", Count: 1})
	if _, err := a.try("GET", nsgID, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want a body that breaks off", err)
	}
	a.fault(sim.Fault{Kind: "not-json", Count: 1, Status: 200})
	if r := a.do(200, "GET", nsgID, nil); r.body != nil || !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
		t.Errorf("got %s", r.raw)
	}
}

func TestFaultStaleRead(t *testing.T) {
	a := withNSG(t, sim.Config{})
	a.do(200, "PUT", nsgID, nsgBody(rule("new", 200)))
	a.do(200, "PUT", nsgID, nsgBody(rule("newer", 200)))
	names := func(versions int, path string) string {
		a.fault(sim.Fault{Kind: "stale-read", Count: 1, Versions: versions})
		r := a.do(200, "GET", path, nil)
		if l := list(r.body["value"]); l != nil {
			if len(l) == 0 {
				return "none"
			}
			r.body = l[0].(map[string]any)
		}
		return at(r.body, "properties", "securityRules", 0, "name").(string)
	}
	collection := group + "/providers/Microsoft.Network/networkSecurityGroups"
	if got := names(1, nsgID) + names(2, nsgID) + names(1, collection); got != "newoldnew" {
		t.Errorf("got %q", got)
	}
	query := map[string]any{"query": "Resources | project name = properties.securityRules[0].name"}
	a.fault(sim.Fault{Kind: "stale-read", PathPattern: "resourcegraph", Count: 1, Versions: 2})
	if old, fresh := a.do(200, "POST", graphPath, query), a.do(200, "POST", graphPath, query); at(old.body, "data", 0, "name") != "old" || at(fresh.body, "data", 0, "name") != "newer" {
		t.Errorf("got %s, then %s", old.raw, fresh.raw)
	}
	a.fault(sim.Fault{Kind: "stale-read", Count: 1, Versions: 3})
	a.fails(404, "ResourceNotFound", "GET", nsgID, nil)
	if got := a.rules(); got != "newer" {
		t.Errorf("got %q, want the truth again", got)
	}
}

func TestFaultEdit(t *testing.T) {
	a := withNSG(t, sim.Config{})
	etag := a.do(200, "GET", nsgID, nil).body["etag"].(string)
	a.fault(sim.Fault{Kind: "edit", Method: "PUT", Count: 1, Edit: &sim.Edit{RemoveRules: "^old$", AddRules: []map[string]any{rule("theirs", 300)}}})
	a.fails(412, "PreconditionFailed", "PUT", nsgID, nsgBody(), "If-Match", etag)
	if got := a.rules(); got != "theirs" {
		t.Errorf("got %q", got)
	}
	a.fault(sim.Fault{Kind: "edit", Method: "DELETE", Count: 1, Edit: &sim.Edit{Delete: true}})
	a.do(204, "DELETE", nsgID+"/securityRules/theirs", nil)
	if _, ok := a.s.Get(nsgID); ok {
		t.Error("the NSG is still there")
	}
}

// Waiting is by timers alone, so the simulator lives in a synctest bubble.
func TestSlowInSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := withNSG(t, sim.Config{OperationDelay: 5 * time.Second})
		a.fault(sim.Fault{Kind: "slow", Method: "PUT", Delay: 10 * time.Second})
		start := time.Now()
		r := a.do(200, "PUT", nsgID, nsgBody(rule("new", 200)))
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("got an answer after %v, want 10s", d)
		}
		if got := a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil).body["status"]; got != "Succeeded" {
			t.Errorf("got %v: the operation runs on the bubble's clock from the start of the request", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "PUT", "https://management.azure.com"+nsgID+"?api-version=2024-03-01", strings.NewReader(`{"location":"westeurope"}`))
		req.Header.Set("Authorization", "Bearer "+a.tok)
		if _, err := a.hc.Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the client's deadline", err)
		}
		a.s.ClearFaults()
		if got := a.rules(); got != "" {
			t.Errorf("got %q, want the slow write applied although its client gave up", got)
		}
		a.fault(sim.Fault{Kind: "late", Hang: true, Count: 1, Delay: time.Minute})
		req2 := req.Clone(t.Context())
		ctx2, cancel2 := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel2()
		req2.Body = io.NopCloser(strings.NewReader(`{"location":"westeurope"}`))
		if _, err := a.hc.Do(req2.WithContext(ctx2)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want silence until the client's deadline", err)
		}
	})
}

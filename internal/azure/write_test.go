package azure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

// P3: whatever we do not know goes back as it was read.
func TestPutNSGKeepsWhatItDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{})
		var sent []byte
		rt := transport(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				sent, _ = io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(sent))
			}
			return s.Transport().RoundTrip(r)
		})
		c := newClient(t, s.Token(), rt)
		n := readNSG(t, c)
		if !n.FlushConnection || len(n.Rules) != 2 {
			t.Fatalf("read %+v", n)
		}
		after, err := c.PutNSG(t.Context(), plus(n, "curfew-x", 200), nil)
		if err != nil {
			t.Fatal(err)
		}
		if after.Etag == n.Etag || after.ProvisioningState != "Succeeded" {
			t.Errorf("after the write: etag %s (was %s), state %s", after.Etag, n.Etag, after.ProvisioningState)
		}
		for _, want := range []string{`"futureSetting":{"a":[1,2.50,"x"],"b":null}`, `"futureRuleField":"kept"`, `<4711> & more`, `"flushConnection":true`} {
			if !bytes.Contains(sent, []byte(want)) {
				t.Errorf("what was sent lacks %s: %s", want, sent)
			}
		}
		for _, computed := range []string{"defaultSecurityRules\":", `"networkInterfaces":`, "DenyAllInBound"} {
			if bytes.Contains(sent, []byte(computed)) {
				t.Errorf("what was sent holds %s, which Azure computes", computed)
			}
		}
		for _, r := range n.Rules {
			if !bytes.Contains(sent, r.Raw) {
				t.Errorf("rule %s did not go back byte for byte", r.Name)
			}
		}
		body, _ := s.Get(nsgID)
		var tree map[string]any
		if err := json.Unmarshal(body, &tree); err != nil {
			t.Fatal(err)
		}
		props := tree["properties"].(map[string]any)
		if props["futureSetting"] == nil || props["flushConnection"] != true || tree["tags"].(map[string]any)["cost center"] != "<4711> & more" {
			t.Errorf("Azure lost members: %s", body)
		}
		if got := ruleNames(t, s); got != "AllowWeb AllowOffice curfew-x" {
			t.Errorf("rules are %s", got)
		}
	})
}

func TestPutNSGRefusesWhatWasNotRead(t *testing.T) {
	s := newSim(t, sim.Config{})
	c := simClient(t, s)
	_, err := c.PutNSG(t.Context(), azure.NSG{Resource: azure.Resource{ID: nsgID}, Rules: []azure.SecurityRule{allow("x", 200)}}, nil)
	wantClass(t, err, azure.Invalid)
	bad := readNSG(t, c)
	bad.Rules = append(bad.Rules, azure.SecurityRule{Name: "half", Priority: 200, Direction: "Inbound", Access: "Allow", Protocol: "Tcp",
		DestinationPorts: []string{"22"}, DestinationPrefixes: []string{"10.0.0.4"}}) // P1: no source is not "any source"
	_, err = c.PutNSG(t.Context(), bad, nil)
	wantClass(t, err, azure.Invalid)
	if n := s.Writes(nsgID); n != 0 {
		t.Errorf("%d writes reached Azure", n)
	}
}

func TestPutNSGPrecondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{})
		var left attempts
		c := simClient(t, s, func(o *azure.Options) { o.BeforeWrite = left.add })
		n := readNSG(t, c)
		if _, err := c.PutNSG(t.Context(), plus(n, "other", 201), nil); err != nil {
			t.Fatal(err)
		}
		_, err := c.PutNSG(t.Context(), plus(n, "ours", 202), nil)
		wantClass(t, err, azure.Precondition)
		wantIn(t, "writes", &left, "PUT web-nsg, PUT web-nsg")
		if got := ruleNames(t, s); strings.Contains(got, "ours") {
			t.Errorf("rules are %s", got)
		}
	})
}

// P1: the guard is asked before each attempt, and its refusal sends nothing.
func TestGuardRunsBeforeEachAttempt(t *testing.T) {
	for _, kind := range []string{"another-operation", "throttle", "error"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, sim.Config{})
				var left attempts
				c := simClient(t, s, func(o *azure.Options) { o.BeforeWrite = left.add })
				n := readNSG(t, c)
				fault(t, s, sim.Fault{Kind: kind, Method: "PUT", Status: 503, Count: 2, RetryAfter: 3 * time.Second})
				start := time.Now()
				over := errors.New("the grant is over")
				asked := 0
				_, err := c.PutNSG(t.Context(), plus(n, "late", 200), func() error {
					asked++
					if time.Since(start) > time.Second/2 { // the first attempt is in time, the second is not
						return over
					}
					return nil
				})
				if !errors.Is(err, over) {
					t.Fatalf("got %v, want the guard's error", err)
				}
				want := azure.Aborted
				if kind == "error" {
					want = azure.UnknownOutcome // a 503 may have been carried out
				}
				wantClass(t, err, want)
				wantIn(t, "writes that left", &left, "PUT web-nsg")
				if asked < 2 {
					t.Errorf("the guard was asked %d times", asked)
				}
				if got := ruleNames(t, s); strings.Contains(got, "late") {
					t.Errorf("rules are %s", got)
				}
			})
		})
	}
}

// P1: between the guard and the wire the transport may wait, for a connection for example. The guard is asked again when the
// body is wanted.
func TestGuardRunsAgainWhenTheBodyLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{})
		rt := transport(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				if r.GetBody != nil {
					t.Error("the transport could send the request again by itself")
				}
				time.Sleep(time.Minute / 2)
				if b, err := io.ReadAll(r.Body); err != nil {
					return nil, err
				} else {
					r.Body = io.NopCloser(bytes.NewReader(b))
				}
			}
			return s.Transport().RoundTrip(r)
		})
		c := newClient(t, s.Token(), rt)
		n := readNSG(t, c)
		over, end := errors.New("the grant is over"), time.Now().Add(10*time.Second)
		_, err := c.PutNSG(t.Context(), plus(n, "late", 200), func() error {
			if time.Now().Before(end) {
				return nil
			}
			return over
		})
		if !errors.Is(err, over) {
			t.Fatalf("got %v, want the guard's error", err)
		}
		wantClass(t, err, azure.Aborted)
		if s.Writes(nsgID) != 0 {
			t.Error("the write was carried out")
		}
	})
}

func TestWritesRetryWhatAzureDidNotTake(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault sim.Fault
		after time.Duration // least time that must pass
	}{
		{"busy, not throttled", sim.Fault{Kind: "another-operation", Method: "PUT", Count: 3}, 3 * time.Second},
		{"throttled", sim.Fault{Kind: "throttle", Method: "PUT", Count: 2, RetryAfter: 17 * time.Second}, 34 * time.Second},
		{"throttled without a time", sim.Fault{Kind: "throttle", Method: "PUT", Count: 1}, time.Second},
		{"unavailable", sim.Fault{Kind: "error", Status: 503, Method: "PUT", Count: 2}, 2 * time.Second},
		{"poll fails", sim.Fault{Kind: "error", Status: 500, Method: "GET", PathPattern: "/operations/", Count: 6}, time.Second},
		{"poll is cut off", sim.Fault{Kind: "truncated", Method: "GET", PathPattern: "/operations/", Count: 2}, time.Second},
		{"read after the write fails", sim.Fault{Kind: "not-json", Method: "GET", PathPattern: "web-nsg$", Skip: 1, Count: 2}, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, sim.Config{OperationDelay: 2 * time.Second})
				cl := simClient(t, s)
				fault(t, s, c.fault)
				n := readNSG(t, cl)
				start := time.Now()
				after, err := cl.PutNSG(t.Context(), plus(n, "ours", 200), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := after.Rule("OURS"); !ok {
					t.Errorf("the rule is not there")
				}
				if took := time.Since(start); took < c.after {
					t.Errorf("took %s, want at least %s", took, c.after)
				}
			})
		})
	}
}

// P8: a write whose reply was lost, and the 412 that a repeat of it meets, are an outcome that is not known.
func TestLostReplies(t *testing.T) {
	apply := func(s *sim.Sim, fail func(*http.Request, *http.Response) (*http.Response, error)) transport {
		done := false
		return func(r *http.Request) (*http.Response, error) {
			resp, err := s.Transport().RoundTrip(r)
			if r.Method == http.MethodPut && err == nil && !done {
				done = true
				return fail(r, resp)
			}
			return resp, err
		}
	}
	for name, c := range map[string]struct {
		rt   func(s *sim.Sim) http.RoundTripper
		f    sim.Fault
		left string
	}{
		"reply lost":   {f: sim.Fault{Kind: "lost-reply", Method: "PUT", Count: 1}, left: "PUT web-nsg"},
		"request lost": {f: sim.Fault{Kind: "lost-request", Method: "PUT", Count: 1}, left: "PUT web-nsg"},
		"not json":     {f: sim.Fault{Kind: "not-json", Method: "PUT", Count: 1}, left: "PUT web-nsg"},
		"truncated":    {f: sim.Fault{Kind: "truncated", Method: "PUT", Count: 1}, left: "PUT web-nsg"},
		"silence":      {f: sim.Fault{Kind: "late", Hang: true, Delay: time.Hour, Method: "PUT", Count: 1}, left: "PUT web-nsg"},
		"500 then 412": {rt: func(s *sim.Sim) http.RoundTripper {
			return apply(s, func(_ *http.Request, resp *http.Response) (*http.Response, error) {
				return &http.Response{StatusCode: 500, Status: "500", Header: http.Header{}, Request: resp.Request,
					Body: io.NopCloser(strings.NewReader(`{"error":{"code":"InternalServerError","message":"no"}}`))}, nil
			})
		}, left: "PUT web-nsg, PUT web-nsg"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, sim.Config{OperationDelay: time.Millisecond})
				rt := s.Transport()
				if c.rt != nil {
					rt = c.rt(s)
				}
				var left attempts
				cl := newClient(t, s.Token(), rt, func(o *azure.Options) { o.BeforeWrite = left.add })
				n := readNSG(t, cl)
				if c.f.Kind != "" {
					fault(t, s, c.f)
				}
				_, err := cl.PutNSG(t.Context(), plus(n, "ours", 200), func() error { return nil })
				wantClass(t, err, azure.UnknownOutcome)
				wantIn(t, "writes that left", &left, c.left)
				if e := azure.UserError(err); e.Hint == "" || e.Code != "azure_unavailable" {
					t.Errorf("shown as %+v", e)
				}
			})
		})
	}
}

func TestOperationsThatDoNotSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{OperationDelay: time.Second})
		c := simClient(t, s)
		try := func(f sim.Fault) error {
			t.Helper()
			n := readNSG(t, c)
			fault(t, s, f)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := c.PutNSG(ctx, plus(n, "ours", 200), nil)
			s.ClearFaults()
			return err
		}
		wantClass(t, try(sim.Fault{Kind: "superseded", Method: "PUT", Count: 1}), azure.Superseded)
		wantClass(t, try(sim.Fault{Kind: "operation-failed", Method: "PUT", Count: 1}), azure.Transient)
		wantClass(t, try(sim.Fault{Kind: "operation-failed", Code: "NetworkSecurityGroupBroken", Method: "PUT", Count: 1}), azure.Permanent)
		start := time.Now()
		err := try(sim.Fault{Kind: "operation-stuck", Method: "PUT", Count: 1})
		wantClass(t, err, azure.UnknownOutcome)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Minute+slack {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

// The two failures of concurrent writes, FACTS 2.5: the second writer waits, or the first is superseded.
func TestConcurrentWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{OperationDelay: 4 * time.Second, Concurrency: sim.Retry})
		c := simClient(t, s)
		n := readNSG(t, c)
		first := make(chan error, 1)
		go func() {
			_, err := c.PutNSG(t.Context(), plus(n, "first", 201), nil)
			first <- err
		}()
		time.Sleep(time.Second)
		if err := c.DeleteRule(t.Context(), nsgID, "AllowOffice"); err != nil {
			t.Fatal(err)
		}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if got := ruleNames(t, s); got != "AllowWeb first" {
			t.Errorf("rules are %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{OperationDelay: 4 * time.Second, Concurrency: sim.Supersede})
		c := simClient(t, s)
		n := readNSG(t, c)
		first := make(chan error, 1)
		go func() {
			_, err := c.PutNSG(t.Context(), plus(n, "first", 201), nil)
			first <- err
		}()
		time.Sleep(time.Second)
		if err := c.DeleteRule(t.Context(), nsgID, "AllowOffice"); err != nil {
			t.Fatal(err)
		}
		wantClass(t, <-first, azure.Superseded)
	})
}

func TestDeleteRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{OperationDelay: time.Second})
		var left attempts
		c := simClient(t, s, func(o *azure.Options) { o.BeforeWrite = left.add })
		fault(t, s, sim.Fault{Kind: "lost-reply", Method: "DELETE", Count: 1})
		if err := c.DeleteRule(t.Context(), nsgID, "AllowWeb"); err != nil { // repeated, and gone by then
			t.Fatal(err)
		}
		if err := c.DeleteRule(t.Context(), nsgID, "AllowWeb"); err != nil {
			t.Fatal("gone already:", err)
		}
		if err := c.DeleteRule(t.Context(), strings.Replace(nsgID, "Shop", "nowhere", 1), "AllowWeb"); err != nil {
			t.Fatal("no such group:", err)
		}
		if got := ruleNames(t, s); got != "AllowOffice" {
			t.Errorf("rules are %s", got)
		}
		for _, name := range []string{"", "a/b", "a?b", ".."} {
			wantClass(t, c.DeleteRule(t.Context(), nsgID, name), azure.Invalid)
		}
		fault(t, s, sim.Fault{Kind: "error", Status: 409, Code: "ScopeLocked", Method: "DELETE"})
		err := c.DeleteRule(t.Context(), nsgID, "AllowOffice")
		wantClass(t, err, azure.Locked)
		if e := azure.UserError(err); e.Code != "azure_forbidden" || !strings.Contains(e.Hint, "lock") {
			t.Errorf("shown as %+v", e)
		}
	})
}

func TestCreateNSGAndPutItOnANIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{OperationDelay: time.Second})
		c := simClient(t, s)
		id := strings.Replace(nsgID, "web-nsg", "curfew-nsg", 1)
		made, err := c.CreateNSG(t.Context(), azure.NSG{Resource: azure.Resource{ID: id, Location: "westeurope", Tags: map[string]string{"curfew": "x"}},
			Rules: []azure.SecurityRule{allow("a", 200)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !azure.EqualID(made.ID, id) || len(made.Rules) != 1 || made.Etag == "" {
			t.Fatalf("made %+v", made)
		}
		nic, err := c.NIC(t.Context(), nicID)
		if err != nil {
			t.Fatal(err)
		}
		after, err := c.SetNICNSG(t.Context(), nic, made.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		if g := after.Properties.NetworkSecurityGroup; g == nil || !azure.EqualID(g.ID, id) {
			t.Fatalf("the interface has %+v", g)
		}
		body, _ := s.Get(nicID)
		for _, want := range []string{"futureNIC", "enableAcceleratedNetworking", "10.0.0.4"} {
			if !bytes.Contains(body, []byte(want)) {
				t.Errorf("the interface lost %s: %s", want, body)
			}
		}
		if off, err := c.SetNICNSG(t.Context(), after, "", nil); err != nil || off.Properties.NetworkSecurityGroup != nil {
			t.Fatalf("taken off: %+v, %v", off.Properties.NetworkSecurityGroup, err)
		}
		if err := c.DeleteNSG(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := c.NSG(t.Context(), id); azure.Classify(err) != azure.NotFound {
			t.Fatalf("after delete: %v", err)
		}
	})
}

func TestEditedRuleKeepsWhatItDoesNotKnow(t *testing.T) {
	s := newSim(t, sim.Config{})
	n := readNSG(t, simClient(t, s))
	r, _ := n.Rule("AllowWeb")
	r.Name, r.Priority, r.DestinationPorts = "AllowWeb2", 333, []string{"443"}
	e, err := r.Edited()
	if err != nil {
		t.Fatal(err)
	}
	var back azure.SecurityRule
	if err := json.Unmarshal(e.Raw, &back); err != nil {
		t.Fatal(err)
	}
	back.Raw, r.Raw = nil, nil
	if !reflect.DeepEqual(back, r) {
		t.Errorf("got %+v, want %+v", back, r)
	}
	if !bytes.Contains(e.Raw, []byte(`"futureRuleField":"kept"`)) || !bytes.Contains(e.Raw, []byte(`"destinationPortRange":"443"`)) ||
		bytes.Contains(e.Raw, []byte("destinationPortRanges")) {
		t.Errorf("raw is %s", e.Raw)
	}
}

package broker_test

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/policy"
)

// bubble runs a test on simulated time.
func bubble(t *testing.T, o bt.Options, fn func(t *testing.T, s *bt.Stack)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, o)
		defer s.Stop()
		defer func() {
			if t.Failed() {
				t.Log("\n" + s.Dump())
			}
		}()
		fn(t, s)
	})
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// named says in which case something failed; there are no subtests inside a bubble.
type named struct {
	testing.TB
	name string
}

func (n named) Errorf(format string, args ...any) {
	n.Helper()
	n.TB.Errorf(n.name+": "+format, args...)
}

// wants checks that an error has a code, says the words, and has a next step (P8).
func wants(t testing.TB, err error, code access.Code, words ...string) {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v (%s), want %s", err, access.CodeOf(err), code)
		return
	}
	if e.Hint == "" && code != access.CodeInternal {
		t.Errorf("%q has no next step", e.Message)
	}
	for _, w := range words {
		if !strings.Contains(e.Message+" "+e.Hint, w) {
			t.Errorf("%q, hint %q, does not say %q", e.Message, e.Hint, w)
		}
	}
}

// Bad input: each gets a clear error with the next step, and nothing is stored.
func TestBadRequests(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "default", MaxDuration: access.Duration(4 * time.Hour), Reason: &policy.Text{Required: true}}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		s.Protect("search-01")
		good := broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "INC-4711"}
		for _, c := range []struct {
			name  string
			edit  func(*broker.RequestInput)
			code  access.Code
			words []string
		}{
			{"no machine", func(in *broker.RequestInput) { in.VMs = nil }, access.CodeInvalid, []string{"machine"}},
			{"unknown machine", func(in *broker.RequestInput) { in.VMs = []string{"web-1"} }, access.CodeNotFound, []string{"web-1", "web-01"}},
			{"ambiguous name", func(in *broker.RequestInput) { in.VMs = []string{"build-01"} }, access.CodeAmbiguous, []string{"back-office/build-01", "lab/build-01"}},
			{"named twice", func(in *broker.RequestInput) { in.VMs = []string{"web-01", "shop-web/WEB-01"} }, access.CodeInvalid, []string{"twice"}},
			{"too many machines", func(in *broker.RequestInput) { in.VMs = make([]string, 51) }, access.CodeInvalid, []string{"at most 50"}},
			{"managed machine", func(in *broker.RequestInput) { in.VMs = []string{"aks-system-31582749-0"} }, access.CodeUnprotectable, []string{"field"}},
			{"no group", func(in *broker.RequestInput) { in.VMs = []string{"fax-gateway"} }, access.CodeUnprotectable, []string{"network security group"}},
			{"port zero", func(in *broker.RequestInput) { in.Ports = []access.Ports{{}} }, access.CodeInvalid, []string{"1 to 65535"}},
			{"range backwards", func(in *broker.RequestInput) { in.Ports = []access.Ports{{First: 23, Last: 22}} }, access.CodeInvalid, []string{"1 to 65535"}},
			{"port twice", func(in *broker.RequestInput) { in.Ports = []access.Ports{access.Port(22), access.Port(22)} }, access.CodeInvalid, []string{"twice"}},
			{"unprotected port", func(in *broker.RequestInput) { in.Ports = []access.Ports{access.Port(443)} }, access.CodeNotProtected, []string{"443", "curfew protect"}},
			{"half protected range", func(in *broker.RequestInput) { in.Ports = []access.Ports{{First: 22, Last: 23}} }, access.CodeNotProtected, []string{"22-23"}},
			{"other protocol", func(in *broker.RequestInput) { in.Protocol = access.UDP }, access.CodeNotProtected, []string{"22/udp"}},
			{"no protocol", func(in *broker.RequestInput) { in.Protocol = "icmp" }, access.CodeInvalid, []string{"icmp"}},
			{"unprotected machine", func(in *broker.RequestInput) { in.VMs = []string{"payroll"} }, access.CodeNotProtected, []string{"curfew protect payroll"}},
			{"below five minutes", func(in *broker.RequestInput) { in.Duration = 5*time.Minute - time.Second }, access.CodeInvalid, []string{"5m"}},
			{"above the limit", func(in *broker.RequestInput) { in.Duration = 5 * time.Hour }, access.CodeDenied, []string{"4h", "default"}},
			{"negative", func(in *broker.RequestInput) { in.Duration = -time.Hour }, access.CodeInvalid, nil},
			{"wide source", func(in *broker.RequestInput) { in.Source = "203.0.113.0/24" }, access.CodeDenied, []string{"203.0.113.0/24", "/32"}},
			{"everybody", func(in *broker.RequestInput) { in.Source = "0.0.0.0/0" }, access.CodeDenied, []string{"/32"}},
			{"not an address", func(in *broker.RequestInput) { in.Source = "home" }, access.CodeInvalid, []string{"home"}},
			{"bits behind the prefix", func(in *broker.RequestInput) { in.Source = "203.0.113.9/24" }, access.CodeInvalid, []string{"203.0.113.0/24"}},
			{"loopback", func(in *broker.RequestInput) { in.Source = "127.0.0.1" }, access.CodeInvalid, nil},
			{"tag", func(in *broker.RequestInput) { in.Source = "Internet" }, access.CodeInvalid, nil},
			{"IPv6 where there is none", func(in *broker.RequestInput) { in.Source = "2001:db8::9" }, access.CodeInvalid, []string{"IPv6", "--from"}},
			{"start in the past", func(in *broker.RequestInput) { in.StartAt = s.Clock.Now().Add(-time.Hour) }, access.CodeInvalid, []string{"past"}},
			{"start too far ahead", func(in *broker.RequestInput) { in.StartAt = s.Clock.Now().Add(365 * 24 * time.Hour) }, access.CodeDenied, []string{"ahead"}},
			{"empty reason", func(in *broker.RequestInput) { in.Reason = "  \t" }, access.CodeInvalid, []string{"--reason"}},
			{"endless reason", func(in *broker.RequestInput) { in.Reason = strings.Repeat("x", 501) }, access.CodeInvalid, []string{"500"}},
			{"reason that hides", func(in *broker.RequestInput) { in.Reason = "ok \u202e gnol" }, access.CodeInvalid, []string{"control"}},
			{"endless key", func(in *broker.RequestInput) { in.Key = strings.Repeat("k", 201) }, access.CodeInvalid, []string{"key"}},
		} {
			in := good
			c.edit(&in)
			t := named{t, c.name}
			_, err := s.Broker.CreateRequest(t.Context(), bt.Requester, in)
			wants(t, err, c.code, c.words...)
			if _, perr := s.Broker.PlanRequest(t.Context(), bt.Requester, in); access.CodeOf(perr) != c.code && c.name != "endless key" {
				t.Errorf("the dry run says %v, the request %v", perr, err)
			}
			if refused := s.Has("request.create", audit.Refused, strings.Join(in.VMs, ",")); c.code == access.CodeDenied && !refused {
				t.Errorf("the refusal is not recorded")
			}
		}
		lost := bt.Requester
		lost.Address = netip.MustParseAddr("127.0.0.1")
		_, err := s.Broker.CreateRequest(t.Context(), lost, good)
		wants(t, err, access.CodeInvalid, "--from")
		list, _, err := s.Broker.Requests(t.Context(), bt.Auditor, broker.RequestFilter{})
		if err != nil || len(list) != 0 {
			t.Errorf("something was stored: %v %v", list, err)
		}
		six := good
		six.VMs, six.Source = []string{"search-01"}, "2001:db8::9"
		if _, err := s.Broker.CreateRequest(t.Context(), bt.Requester, six); err != nil {
			t.Errorf("IPv6 where the machine has it: %v", err)
		}
	})
}

// Twice the same request is a conflict that names the first; a key makes it one call.
func TestTwiceTheSame(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		in := broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "first", Key: "k-1"}
		first := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, in))
		again := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, in))
		if again.ID != first.ID {
			t.Errorf("the same key made %s and %s", first.ID, again.ID)
		}
		other := in
		other.Key = "k-2"
		_, err := s.Broker.CreateRequest(t.Context(), bt.Requester, other)
		wants(t, err, access.CodeConflict, string(first.ID))
		other.Duration = 2 * time.Hour
		other.Key = "k-1"
		_, err = s.Broker.CreateRequest(t.Context(), bt.Requester, other)
		wants(t, err, access.CodeConflict, "k-1", string(first.ID))
		// A key is its caller's own.
		if r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester2, in)); r.ID == first.ID {
			t.Error("another person's key was answered with the first one's request")
		}
		// After it was answered, the same may be asked again, and the key still means the first.
		must[access.Request](t)(s.Broker.Deny(t.Context(), bt.Approver, first.ID, "not now"))
		if r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, in)); r.ID != first.ID || r.State != access.Denied {
			t.Errorf("the key now means %s (%s)", r.ID, r.State)
		}
		other.Key, other.Duration = "", time.Hour
		if r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, other)); r.ID == first.ID {
			t.Error("no new request after the first was denied")
		}
	})
}

// Twenty calls with one key at the same instant make one request; so do twenty extensions.
func TestOneKeyAtOnce(t *testing.T) {
	s := bt.New(t, bt.Options{}) // on the machine's clock: real concurrency
	s.Protect("web-01")
	g := s.Open(bt.Requester, "web-01", time.Hour)
	for name, call := range map[string]func() (access.Request, error){
		"create": func() (access.Request, error) {
			return s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: 2 * time.Hour, Reason: "at once", Key: "create"})
		},
		"extend": func() (access.Request, error) {
			return s.Broker.Extend(t.Context(), bt.Requester, g.ID, 20*time.Minute, "at once", "extend")
		},
	} {
		ids := atOnce(20, call)
		for _, r := range ids {
			if r.err != nil || r.v.ID != ids[0].v.ID {
				t.Errorf("%s: %v %v, want %s for all", name, r.v.ID, r.err, ids[0].v.ID)
			}
		}
	}
}

type result[T any] struct {
	v   T
	err error
}

// atOnce calls n times at the same instant.
func atOnce[T any](n int, call func() (T, error)) []result[T] {
	out := make([]result[T], n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			out[i].v, out[i].err = call()
		})
	}
	close(start)
	wg.Wait()
	return out
}

// P6: approval of one's own request, approval after expiry, after cancelling, twice by one person, and by someone who is not named.
func TestBadReviews(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "all"}, {Name: "two", VMs: []string{"web-01"}, Approvals: 2, Approvers: []string{"approver", "approver-2", "both"}}}}
	bubble(t, bt.Options{Policy: &rules, Expiry: 20 * time.Minute}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		approve := func(c access.Caller, id access.RequestID) (access.Request, error) {
			return s.Broker.Approve(t.Context(), c, id, broker.ReviewInput{})
		}
		r := s.Ask(bt.Both, "web-01", time.Hour)
		if n := access.Approvals(r.Needs); n != 2 {
			t.Fatalf("needs %d approvals, want the strictest, 2", n)
		}
		_, err := approve(bt.Both, r.ID)
		wants(t, err, access.CodeDenied, "yourself")
		stray := bt.Approver
		stray.Name = "approver-3"
		_, err = approve(stray, r.ID)
		wants(t, err, access.CodeDenied, "two", "approver-2")
		_, err = s.Broker.Deny(t.Context(), stray, r.ID, "")
		wants(t, err, access.CodeDenied, "two")
		r = must[access.Request](t)(approve(bt.Approver, r.ID))
		if r.State != access.Pending || len(r.Grants) != 0 {
			t.Errorf("after one of two: %s %v", r.State, r.Grants)
		}
		_, err = approve(bt.Approver, r.ID)
		wants(t, err, access.CodeConflict, "already")
		r = must[access.Request](t)(approve(bt.Approver2, r.ID))
		if r.State != access.Approved || len(r.Grants) != 1 {
			t.Errorf("after two of two: %s %v", r.State, r.Grants)
		}
		_, err = approve(bt.Both, r.ID)
		wants(t, err, access.CodeConflict, "approved")

		r = s.Ask(bt.Requester, "web-01", time.Hour)
		must[access.Request](t)(s.Broker.Cancel(t.Context(), bt.Requester, r.ID))
		_, err = approve(bt.Approver, r.ID)
		wants(t, err, access.CodeConflict, "cancelled")
		_, err = s.Broker.Cancel(t.Context(), bt.Requester, r.ID)
		wants(t, err, access.CodeConflict, "cancelled")

		r = s.Ask(bt.Requester, "web-01", time.Hour)
		time.Sleep(20*time.Minute + 2*time.Second)
		_, err = approve(bt.Approver, r.ID)
		wants(t, err, access.CodeConflict, "expired")
		if r = must[access.Request](t)(s.Broker.Request(t.Context(), bt.Requester, r.ID)); r.State != access.Expired || !s.Has("request.expire", audit.Done, string(r.ID)) {
			t.Errorf("after its time it is %s", r.State)
		}
		_, err = s.Broker.Deny(t.Context(), bt.Approver, r.ID, strings.Repeat("x", 501))
		wants(t, err, access.CodeInvalid, "500")
	})
}

// The policy and the protection are asked again when it is approved: what became stricter since counts.
func TestApprovalAsksAgain(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "default"}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		a, b, c := s.Ask(bt.Requester, "web-01", time.Hour), s.Ask(bt.Requester, "web-01", 3*time.Hour), s.Ask(bt.Requester, "web-01", 2*time.Hour)
		rules.Rules = append(rules.Rules, policy.Rule{Name: "strict", Approvals: 2, MaxDuration: access.Duration(2 * time.Hour)})
		a = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, a.ID, broker.ReviewInput{}))
		if a.State != access.Pending || access.Approvals(a.Needs) != 2 {
			t.Errorf("approved by one (%s, needs %d) although two are needed now", a.State, access.Approvals(a.Needs))
		}
		_, err := s.Broker.Approve(t.Context(), bt.Approver, b.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "strict", "2h")
		rules.Rules = append(rules.Rules, policy.Rule{Name: "never", Deny: true})
		_, err = s.Broker.Approve(t.Context(), bt.Approver, c.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "never")
		rules.Rules = rules.Rules[:1]
		must[broker.ProtectPlan](t)(s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Off: true}))
		_, err = s.Broker.Approve(t.Context(), bt.Approver, c.ID, broker.ReviewInput{})
		wants(t, err, access.CodeNotProtected, "curfew protect")
	})
}

// An approver may narrow time, ports and source, and never widen them.
func TestNarrowing(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "default", WidestIPv4: 24}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		must[broker.ProtectPlan](t)(s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(22)}, {Ports: access.Ports{First: 8000, Last: 8010}}}}))
		r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "narrow", Source: "203.0.113.0/24",
			Ports: []access.Ports{access.Port(22), {First: 8000, Last: 8010}}}))
		for name, c := range map[string]struct {
			in   broker.ReviewInput
			code access.Code
		}{
			"longer":          {broker.ReviewInput{Duration: 2 * time.Hour}, access.CodeInvalid},
			"too short":       {broker.ReviewInput{Duration: time.Minute}, access.CodeInvalid},
			"negative":        {broker.ReviewInput{Duration: -time.Hour}, access.CodeInvalid},
			"wider source":    {broker.ReviewInput{Source: "203.0.112.0/23"}, access.CodeInvalid},
			"another source":  {broker.ReviewInput{Source: "198.51.100.1"}, access.CodeInvalid},
			"no source":       {broker.ReviewInput{Source: "home"}, access.CodeInvalid},
			"another port":    {broker.ReviewInput{Ports: []access.Ports{access.Port(22), access.Port(443)}}, access.CodeInvalid},
			"wider ports":     {broker.ReviewInput{Ports: []access.Ports{{First: 8000, Last: 8011}}}, access.CodeInvalid},
			"the same twice":  {broker.ReviewInput{Ports: []access.Ports{access.Port(22), access.Port(22)}}, access.CodeInvalid},
			"endless comment": {broker.ReviewInput{Comment: strings.Repeat("x", 501)}, access.CodeInvalid},
		} {
			if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, c.in); access.CodeOf(err) != c.code {
				t.Errorf("%s: got %v, want %s", name, err, c.code)
			} else {
				wants(t, err, c.code)
			}
		}
		out := must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{Duration: 20 * time.Minute, Source: "203.0.113.9", Ports: []access.Ports{access.Port(8005)}, Comment: "less"}))
		if len(out.Grants) != 1 {
			t.Fatalf("grants %v, want one", out.Grants)
		}
		g := s.WaitGrant(out.Grants[0], func(g access.Grant) bool { return g.Ready() })
		if g.Duration != 20*time.Minute || g.Source.String() != "203.0.113.9/32" || g.Target.Ports != access.Port(8005) {
			t.Errorf("granted %+v", g)
		}
		if out.Asked.Duration != time.Hour || len(out.Reviews) != 1 || out.Reviews[0].Narrowed == nil {
			t.Errorf("what was asked for, and how it was narrowed, is not kept: %+v", out)
		}
		// An extension lengthens the grant as it stands: what cannot be done is not said to be approved.
		x := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 20*time.Minute, "", ""))
		_, err := s.Broker.Approve(t.Context(), bt.Approver, x.ID, broker.ReviewInput{Source: "203.0.113.9"})
		wants(t, err, access.CodeInvalid, "extends")
		must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, x.ID, broker.ReviewInput{Duration: 5 * time.Minute}))
		if got := s.Grant(g.ID).Duration; got != 25*time.Minute {
			t.Errorf("after an extension that was narrowed to 5m it lasts %s, want 25m", got)
		}
	})
}

// Extensions: within the longest time in total also when several were asked for side by side, with the ticket of the first request.
func TestExtensions(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "ticketed", Ticket: &policy.Text{Required: true}, MaxDuration: access.Duration(4 * time.Hour), MaxTotal: access.Duration(6 * time.Hour)}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		must[broker.ProtectPlan](t)(s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(22), Max: 2 * time.Hour}}}))
		r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "first", Ticket: "INC-1"}))
		r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}))
		g := s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
		for d, code := range map[time.Duration]access.Code{0: access.CodeInvalid, -time.Hour: access.CodeInvalid, time.Minute: access.CodeInvalid, 61 * time.Minute: access.CodeDenied, 6 * time.Hour: access.CodeDenied} {
			if _, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, d, "", ""); access.CodeOf(err) != code {
				t.Errorf("by %s: got %v, want %s", d, err, code)
			}
		}
		a := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 40*time.Minute, "", ""))
		if a.Ticket != "INC-1" || a.Reason != "first" {
			t.Errorf("the extension has ticket %q and reason %q", a.Ticket, a.Reason)
		}
		b := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 50*time.Minute, "more", ""))
		must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, a.ID, broker.ReviewInput{}))
		_, err := s.Broker.Approve(t.Context(), bt.Approver, b.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "2h") // together they would pass what the protection allows
		if got := s.Grant(g.ID).Duration; got != 100*time.Minute {
			t.Errorf("it lasts %s, want 1h40m", got)
		}
		must[access.Grant](t)(s.Broker.Close(t.Context(), bt.Requester, g.ID))
		_, err = s.Broker.Extend(t.Context(), bt.Requester, g.ID, 10*time.Minute, "", "")
		wants(t, err, access.CodeConflict)
	})
}

// P6, P1: two approvers at the same instant. One approval where one is needed; each counts where two are; never a grant too many.
func TestTwoApproversAtOnce(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "default"}}}
	s := bt.New(t, bt.Options{Policy: &rules}) // on the machine's clock
	s.Protect("web-01")
	for i := range 20 {
		rules.Rules[0].Approvals = 1 + i%2
		r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "race",
			StartAt: time.Now().Add(time.Duration(i+1) * time.Hour)}))
		var n sync.Mutex
		next := []access.Caller{bt.Approver, bt.Approver2}
		both := atOnce(2, func() (access.Request, error) {
			n.Lock()
			c := next[0]
			next = next[1:]
			n.Unlock()
			return s.Broker.Approve(t.Context(), c, r.ID, broker.ReviewInput{})
		})
		failed := 0
		for _, x := range both {
			if x.err != nil {
				failed++
				wants(t, x.err, access.CodeConflict, "approved")
			}
		}
		if want := 1 - i%2; failed != want {
			t.Errorf("%d approvals needed: %d of two at once failed, want %d", 1+i%2, failed, want)
		}
		gs, _, err := s.Broker.Grants(t.Context(), bt.Auditor, broker.GrantFilter{Request: r.ID})
		if err != nil || len(gs) != 1 {
			t.Errorf("%d grants, %v; want one", len(gs), err)
		}
	}
}

package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

// stepPolicy gives the limits of a plain policy with needs of its own, and puts people into groups.
type stepPolicy struct {
	*policy.Set
	needs  []access.Need
	auto   []string
	change func(*access.Limits)
	groups map[string][]string // by person
	glass  []string            // who may break it
}

func (p *stepPolicy) Decide(a access.Ask, now time.Time) (access.Limits, error) {
	glass := a.BreakGlass
	a.BreakGlass = false
	l, err := p.Set.Decide(a, now)
	if glass && err == nil && !slices.Contains(p.glass, a.Requester) {
		return l, access.Errorf(access.CodeDenied, "no rule lists %s for breaking the glass", a.Requester).WithHint("ask in the ordinary way")
	}
	l.Needs, l.Auto = p.needs, p.auto
	if glass {
		l.Needs = nil
	}
	l.Notify = []string{"ops"}
	if p.change != nil {
		p.change(&l)
	}
	return l, err
}

func (p *stepPolicy) GroupsOf(c access.Caller) []string { return p.groups[c.Name] }

func steps(p *stepPolicy) bt.Options {
	if p.Set == nil {
		p.Set, _ = policy.New(policy.Document{Rules: []policy.Rule{{Name: "rule"}}}) // without one every test fails
	}
	return bt.Options{Rules: func() broker.Policy { return p }, Routes: []notify.Route{{Name: "ops"}, {Name: "siem", All: true}, {Name: "other"}}}
}

// told returns what a channel is told, oldest first, as kinds.
func told(s *bt.Stack, channel string) (kinds []notify.Kind, all []notify.Notice) {
	s.T.Helper()
	err := s.Store.View(s.T.Context(), func(tx broker.Tx) error {
		ns, _, err := tx.Notices(broker.NoticeFilter{Channel: channel, Page: broker.Page{Limit: 500}})
		slices.Reverse(ns)
		for _, n := range ns {
			kinds = append(kinds, n.Event.Kind)
		}
		all = ns
		return err
	})
	if err != nil {
		s.T.Fatal(err)
	}
	return kinds, all
}

func approve(t *testing.T, s *bt.Stack, c access.Caller, r access.Request) (access.Request, error) {
	t.Helper()
	return s.Broker.Approve(t.Context(), c, r.ID, broker.ReviewInput{Digest: r.Digest()})
}

// P6: two steps of two groups: each needs its own people, one person serves one of them, and a stranger none.
func TestSteps(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Name: "on call", Approvers: []string{"group:sre"}, Count: 1}, {Name: "data", Approvers: []string{"group:dba"}, Count: 1}}}},
		groups: map[string][]string{"approver": {"SRE"}, "approver-2": {"dba"}, "both": {"sre", "dba"}}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		stray := bt.Approver
		stray.Name = "approver-9"
		_, err := approve(t, s, stray, r)
		wants(t, err, access.CodeDenied, "not among")
		_, err = s.Broker.Deny(t.Context(), stray, r.ID, "")
		wants(t, err, access.CodeDenied, "not among")
		r = must[access.Request](t)(approve(t, s, bt.Both, r)) // in both groups, and one of the two
		if r.State != access.Pending || r.Missing() != 1 {
			t.Fatalf("one person in both groups: %s, %d missing", r.State, r.Missing())
		}
		_, err = approve(t, s, bt.Both, r)
		wants(t, err, access.CodeConflict, "answered")
		r = must[access.Request](t)(approve(t, s, bt.Approver, r))
		if r.State != access.Approved || len(r.Grants) != 1 {
			t.Fatalf("sre answered as well, and both fills the other step: %s", r.State)
		}
		inOrder(t, s, string(r.ID), "request.create", "request.approve", "request.approve", "grant.create")
		kinds, all := told(s, "ops")
		if !slices.Equal(kinds[:3], []notify.Kind{notify.RequestCreated, notify.RequestReviewed, notify.RequestApproved}) {
			t.Errorf("told %v", kinds)
		}
		if !slices.Equal(all[0].Event.To, []string{"group:sre", "group:dba"}) || !slices.Equal(all[2].Event.To, []string{"requester"}) || all[0].Subject != string(r.ID) {
			t.Errorf("told to %v, then %v", all[0].Event.To, all[2].Event.To)
		}
		if other, _ := told(s, "other"); len(other) != 0 {
			t.Errorf("a channel that no rule names is told %v", other)
		}
		if siem, _ := told(s, "siem"); len(siem) < 3 {
			t.Errorf("a channel for everything is told %v", siem)
		}
	})
}

// Steps in order: the second is not answered before the first.
func TestStepsInOrder(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", InOrder: true, Steps: []access.Step{{Name: "lead", Approvers: []string{"approver"}}, {Name: "owner", Approvers: []string{"approver-2"}}}}}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		_, err := approve(t, s, bt.Approver2, r)
		wants(t, err, access.CodeDenied, "would not count")
		if e := asError(err); !strings.Contains(e.Hint, "lead") || strings.Contains(e.Hint, "owner") {
			t.Errorf("the hint names %q, want the step whose turn it is", e.Hint)
		}
		r = must[access.Request](t)(approve(t, s, bt.Approver, r))
		if r = must[access.Request](t)(approve(t, s, bt.Approver2, r)); r.State != access.Approved {
			t.Errorf("%s", r.State)
		}
	})
}

// P6: a delegate answers in another's place, until the end of it, never on what that person asked for; it is shown.
func TestDelegation(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Approvers: []string{"group:sre"}}}}}, groups: map[string][]string{"both": {"sre"}}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		b := s.Broker
		for want, in := range map[string]broker.DelegateInput{
			"yourself": {To: "BOTH", Until: s.Clock.Now().Add(time.Hour)}, "future": {To: "approver", Until: s.Clock.Now()}, "more than": {To: "approver", Until: s.Clock.Now().Add(100 * 24 * time.Hour)},
			"nobody was named": {Until: s.Clock.Now().Add(time.Hour)}, "a group": {To: "group:dba", Until: s.Clock.Now().Add(time.Hour)},
		} {
			_, err := b.Delegate(t.Context(), bt.Both, in)
			wants(t, err, access.CodeInvalid, want)
		}
		_, err := b.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: "requester", Until: s.Clock.Now().Add(time.Hour)})
		wants(t, err, access.CodeNotFound, "not known here as an approver")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		_, err = approve(t, s, bt.Approver, r)
		wants(t, err, access.CodeDenied)
		d := must[broker.Delegation](t)(b.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: "Approver", Until: s.Clock.Now().Add(time.Hour), Reason: "leave"}))
		_, err = b.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: "approver", Until: s.Clock.Now().Add(2 * time.Hour)})
		wants(t, err, access.CodeConflict, d.ID)
		r = must[access.Request](t)(approve(t, s, bt.Approver, r))
		if r.State != access.Approved || len(r.Reviews[0].Authorities) != 2 || r.Reviews[0].Authorities[1].Name != "both" {
			t.Fatalf("%s by %+v", r.State, r.Reviews)
		}
		if es := s.Log(); !slices.ContainsFunc(es, func(e audit.Entry) bool { return e.Action == "request.approve" && e.Detail["in_place_of"] == "both" }) {
			t.Error("the log does not say in whose place it was answered")
		}
		own := must[access.Request](t)(b.CreateRequest(t.Context(), bt.Both, broker.RequestInput{VMs: []string{"web-01"}, Duration: 2 * time.Hour, Reason: "mine"}))
		_, err = approve(t, s, bt.Approver, own)
		wants(t, err, access.CodeDenied) // it is both's right that would decide on both's request
		r = must[access.Request](t)(b.CreateRequest(t.Context(), bt.Requester2, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "later"}))
		s.Sleep(time.Hour)
		_, err = approve(t, s, bt.Approver, r)
		wants(t, err, access.CodeDenied)
		if ds := must[[]broker.Delegation](t)(b.Delegations(t.Context(), bt.Auditor)); len(ds) != 0 {
			t.Errorf("over, and listed: %+v", ds)
		}
		d = must[broker.Delegation](t)(b.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: "approver", Until: s.Clock.Now().Add(time.Hour)}))
		wants(t, b.EndDelegation(t.Context(), bt.Approver2, d.ID), access.CodeDenied)
		if err := b.EndDelegation(t.Context(), bt.Approver, d.ID); err != nil { // whoever got it may give it back
			t.Error(err)
		}
		_, err = approve(t, s, bt.Approver, r)
		wants(t, err, access.CodeDenied)
	})
}

// P6, P7: breaking the glass opens at once for those listed, loudly, and somebody else looks back at it.
func TestBreakGlass(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Approvers: []string{"group:sre"}, EscalateTo: []string{"both"}}}}}, glass: []string{"requester"}}
	o := steps(p)
	o.SweepEvery = 20 * time.Minute // a whole day goes by
	bubble(t, o, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		b, in := s.Broker, broker.RequestInput{VMs: []string{"web-01"}, Duration: 30 * time.Minute, Reason: "orders are down"}
		_, err := b.BreakGlass(t.Context(), bt.Requester2, in)
		wants(t, err, access.CodeDenied, "lists")
		_, err = b.BreakGlass(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour})
		wants(t, err, access.CodeInvalid, "reason")
		in.Key = "once"
		r := must[access.Request](t)(b.BreakGlass(t.Context(), bt.Requester, in))
		if again := must[access.Request](t)(b.BreakGlass(t.Context(), bt.Requester, in)); again.ID != r.ID {
			t.Errorf("the same key broke the glass twice: %s and %s", r.ID, again.ID)
		}
		g := s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
		if !g.BreakGlass || !r.BreakGlass || r.State != access.Approved || len(r.Reviews) != 0 || !r.Aftermath.Open() {
			t.Fatalf("%+v", r)
		}
		inOrder(t, s, string(r.ID), "request.break_glass", "grant.create")
		if !s.Has("request.break_glass", audit.Done, string(r.ID)) {
			t.Error("no entry of its own")
		}
		for _, e := range s.Log() {
			if e.Request == string(r.ID) && e.Outcome != audit.Refused && (e.Detail["break_glass"] != "true" || !strings.Contains(strings.ToLower(e.Message), "glass")) {
				t.Errorf("entry %s does not say that the glass was broken: %s %v", e.Action, e.Message, e.Detail)
			}
		}
		kinds, all := told(s, "ops")
		if len(kinds) < 1 || kinds[0] != notify.BreakGlass || !slices.Equal(all[0].Event.To, []string{"group:sre", "role:admin"}) {
			t.Errorf("told %v, to %v; want everybody who was skipped", kinds, all[0].Event.To)
		}
		s.Sleep(25 * time.Hour)
		s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Ended })
		if kinds, _ = told(s, "ops"); !slices.Contains(kinds, notify.BreakGlassOpen) {
			t.Errorf("nobody is told that nobody has looked: %v", kinds)
		}
		if open := must[[]access.Request](t)(b.Aftermath(t.Context(), bt.Auditor)); len(open) != 1 || open[0].ID != r.ID {
			t.Errorf("open: %+v", open)
		}
		self := bt.Requester
		self.Roles = append(self.Roles, access.Approver, access.Admin)
		_, err = b.CloseAftermath(t.Context(), self, r.ID, "all fine")
		wants(t, err, access.CodeDenied, "yourself")
		_, err = b.CloseAftermath(t.Context(), bt.Approver, r.ID, " ")
		wants(t, err, access.CodeInvalid)
		if r = must[access.Request](t)(b.CloseAftermath(t.Context(), bt.Approver, r.ID, "needed")); r.Aftermath.Open() || r.Aftermath.ClosedBy != "approver" {
			t.Errorf("%+v", r.Aftermath)
		}
		if open := must[[]access.Request](t)(b.Aftermath(t.Context(), bt.Auditor)); len(open) != 0 {
			t.Errorf("still open: %+v", open)
		}
		if kinds, all = told(s, "ops"); kinds[len(kinds)-1] != notify.BreakGlassSeen || !strings.HasSuffix(all[len(all)-1].Event.Message, ": needed") {
			t.Errorf("told %v; want what was found at last", kinds)
		}
	})
}

// What the policy approves by itself opens without a review, and says by which rule; somebody else's need keeps it waiting.
func TestAutomaticApproval(t *testing.T) {
	p := &stepPolicy{auto: []string{"lab"}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		if r.State != access.Approved || len(r.Grants) != 1 {
			t.Fatalf("%+v", r)
		}
		s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
		if !slices.ContainsFunc(s.Log(), func(e audit.Entry) bool {
			return e.Action == "request.approve" && e.Actor == "curfew" && e.Detail["auto"] == "lab" && e.Object == string(r.ID)
		}) {
			t.Errorf("the log does not say by which rule:\n%s", s.Dump())
		}
		p.needs = []access.Need{{Rule: "prod", Steps: []access.Step{{Count: 1}}}}
		if r := s.Ask(bt.Requester2, "web-01", time.Hour); r.State != access.Pending {
			t.Errorf("%s although a rule needs somebody", r.State)
		}
		p.needs = nil
		if err := s.Broker.PutOnHold(t.Context(), "a test"); err != nil {
			t.Fatal(err)
		}
		_, err := s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: 2 * time.Hour, Reason: "x"})
		wants(t, err, access.CodeHeld)
	})
}

// Approvers are told again, and those behind them may answer once they are: by the times of the policy, and when somebody asks for it.
func TestRemindAndEscalate(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Approvers: []string{"approver"}, RemindAfter: 10 * time.Minute, EscalateAfter: 25 * time.Minute, EscalateTo: []string{"approver-2"}}}}}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		_, err := approve(t, s, bt.Approver2, r)
		wants(t, err, access.CodeDenied)
		s.Sleep(9 * time.Minute)
		if kinds, _ := told(s, "ops"); len(kinds) != 1 {
			t.Fatalf("before its time: %v", kinds)
		}
		s.Sleep(2 * time.Minute)
		if kinds, _ := told(s, "ops"); !slices.Equal(kinds, []notify.Kind{notify.RequestCreated, notify.RequestReminder}) {
			t.Fatalf("after ten minutes: %v", kinds)
		}
		_, err = s.Broker.Remind(t.Context(), bt.Requester, r.ID)
		wants(t, err, access.CodeRateLimited)
		s.Sleep(6 * time.Minute)
		must[access.Request](t)(s.Broker.Remind(t.Context(), bt.Requester, r.ID))
		s.Sleep(10 * time.Minute)
		kinds, all := told(s, "ops")
		if i := slices.Index(kinds, notify.RequestEscalated); i < 0 || !slices.Equal(all[i].Event.To, []string{"approver", "approver-2"}) {
			t.Fatalf("after half an hour: %v", kinds)
		}
		if n := slices.DeleteFunc(kinds, func(k notify.Kind) bool { return k != notify.RequestEscalated }); len(n) != 1 {
			t.Errorf("escalated %d times", len(n))
		}
		r = must[access.Request](t)(s.Broker.Request(t.Context(), bt.Approver2, r.ID))
		if r = must[access.Request](t)(approve(t, s, bt.Approver2, r)); r.State != access.Approved {
			t.Errorf("%s", r.State)
		}
		_, err = s.Broker.Remind(t.Context(), bt.Requester, r.ID)
		wants(t, err, access.CodeConflict)
	})
}

// The requester is told before the end, once, and again before the end of an extension.
func TestWarning(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Count: 1}}}}, change: func(l *access.Limits) { l.WarnBefore = 15 * time.Minute }}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		g := s.Open(bt.Requester, "web-01", time.Hour)
		warned := func() int {
			kinds, _ := told(s, "ops")
			return len(slices.DeleteFunc(kinds, func(k notify.Kind) bool { return k != notify.GrantEnding }))
		}
		s.Sleep(40 * time.Minute)
		if warned() != 0 {
			t.Error("told too early")
		}
		s.Sleep(6 * time.Minute)
		if g = s.Grant(g.ID); warned() != 1 || g.WarnedAt.IsZero() {
			t.Errorf("told %d times", warned())
		}
		x := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 30*time.Minute, "more", ""))
		must[access.Request](t)(approve(t, s, bt.Approver, x))
		if g = s.Grant(g.ID); g.Extensions != 1 || !g.WarnedAt.IsZero() {
			t.Errorf("extended %d times, warned at %s", g.Extensions, g.WarnedAt)
		}
		s.Sleep(31 * time.Minute)
		if warned() != 2 {
			t.Errorf("told %d times, want again before the new end", warned())
		}
		s.Sleep(20 * time.Minute)
		kinds, all := told(s, "ops")
		if i := slices.Index(kinds, notify.GrantOver); i < 0 || all[i].Event.Grant.State != access.Ended || !slices.Contains(kinds, notify.GrantReady) {
			t.Errorf("told %v", kinds)
		}
	})
}

// A comment decides nothing, is seen by both sides, and is bounded.
func TestComments(t *testing.T) {
	bubble(t, steps(&stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Count: 1}}}}}), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		shown := r.Digest()
		r = must[access.Request](t)(s.Broker.Comment(t.Context(), bt.Approver, r.ID, "which disk?\x1b[2J\u202e"))
		r = must[access.Request](t)(s.Broker.Comment(t.Context(), bt.Requester, r.ID, "the second"))
		if len(r.Comments) != 2 || r.State != access.Pending || r.Digest() != shown || strings.ContainsAny(r.Comments[0].Text, "\x1b\u202e") {
			t.Errorf("%+v", r)
		}
		for _, c := range []string{"", " \t", strings.Repeat("x", 501)} {
			_, err := s.Broker.Comment(t.Context(), bt.Approver, r.ID, c)
			wants(t, err, access.CodeInvalid)
		}
	})
}

// inOrder requires that what was done about a request begins so: what brings something about stands before it.
func inOrder(t *testing.T, s *bt.Stack, request string, actions ...string) {
	t.Helper()
	var got []string
	for _, e := range s.Log() {
		if e.Request == request && e.Outcome == audit.Done {
			got = append(got, e.Action)
		}
	}
	if len(got) < len(actions) || !slices.Equal(got[:len(actions)], actions) {
		t.Errorf("the log has %v, want it to begin with %v", got, actions)
	}
}

func asError(err error) *access.Error {
	var e *access.Error
	if errors.As(err, &e) {
		return e
	}
	return &access.Error{Message: "no error of ours"}
}

// Where no time is asked for it is the policy's own, and never longer than it allows.
func TestDefaultDuration(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "all", DefaultDuration: access.Duration(2 * time.Hour)}, {Name: "web", VMs: []string{"web-*"}, DefaultDuration: access.Duration(20 * time.Minute)},
		{Name: "search", VMs: []string{"search-*"}, MaxDuration: access.Duration(30 * time.Minute)}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		for vm, want := range map[string]time.Duration{"web-01": 20 * time.Minute, "db-01": 2 * time.Hour, "search-01": 30 * time.Minute} {
			s.Protect(vm)
			r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{vm}, Reason: "x"}))
			if r.Terms.Duration != want {
				t.Errorf("%s: %s, want %s", vm, r.Terms.Duration, want)
			}
		}
	})
}

// P3, P2: where a rule asks for it, the end of an access ends its connections: flushConnection is on from the opening until it is seen
// to be shut, and then as it was. The plan says whom it concerns.
func TestHardClose(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Count: 1}}}}, change: func(l *access.Limits) { l.HardClose = true }}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		flushes := func() bool {
			n, err := s.Azure.NSG(t.Context(), group)
			if err != nil {
				t.Fatal(err)
			}
			return n.FlushConnection
		}
		plan := must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "x"}))
		if !slices.ContainsFunc(plan.Changes, func(c enforce.Change) bool {
			return c.Kind == enforce.Connect && strings.Contains(c.Summary, "1 interfaces and 0 subnets")
		}) || flushes() {
			t.Errorf("the plan: %+v, written: %v", plan.Changes, flushes())
		}
		g := s.Open(bt.Requester, "web-01", 30*time.Minute)
		if !flushes() || !g.HardClose {
			t.Error("it is open, and its end would leave connections alone")
		}
		p.change = nil
		soft := s.Open(bt.Requester2, "web-01", time.Hour)
		s.Sleep(31 * time.Minute)
		s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Ended })
		s.Sleep(time.Minute)
		if flushes() {
			t.Error("it is shut, and the group goes on ending connections")
		}
		must[access.Grant](t)(s.Broker.Close(t.Context(), bt.Requester2, soft.ID))
		entries := 0
		for _, e := range s.Log() {
			if e.Action == "nsg.flush" {
				entries++
			}
		}
		if entries != 2 {
			t.Errorf("%d entries of it in the log, want that it was switched on, and back", entries)
		}
		// Its owner's own wish stays.
		owner := func(flush bool) {
			for {
				n := must[azure.NSG](t)(s.Azure.NSG(t.Context(), group))
				n.FlushConnection = flush
				if _, err := s.Azure.PutNSG(t.Context(), n, nil); err == nil {
					return
				} else if azure.Classify(err) != azure.Precondition { // a write of ours came between
					t.Fatal(err)
				}
			}
		}
		owner(true)
		p.change = func(l *access.Limits) { l.HardClose = true }
		g = s.Open(bt.Requester, "web-01", 20*time.Minute)
		s.Sleep(25 * time.Minute)
		if s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Ended }); !flushes() {
			t.Error("what its owner had switched on was switched off")
		}
		// Unprotected while it is open: it is put back all the same.
		owner(false)
		g = s.Open(bt.Requester, "web-01", 20*time.Minute)
		must[broker.ProtectPlan](t)(s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Off: true}))
		s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Revoked })
		if s.Sleep(time.Minute); flushes() {
			t.Error("unprotected, and the group goes on ending connections")
		}
	})
}

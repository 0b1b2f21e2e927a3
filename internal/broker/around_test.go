package broker_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

// What somebody tries who wants an opening without the approvals that the policy asks for.

// P6: what an approver makes of a request is judged as what it then is: for less, a stricter rule may hold, or one that allows it at all.
func TestNarrowedIsJudged(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "usual", Windows: []policy.Window{{From: "00:00", To: "02:00"}}},
		{Name: "short", When: "request.duration <= duration('15m')", Approvals: 2}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{Duration: 10 * time.Minute}))
		if r.State != access.Pending || r.Missing() != 1 {
			t.Errorf("%s, %d missing: two are asked for what is as short", r.State, r.Missing())
		}
		es := s.Log()
		if i := slices.IndexFunc(es, func(e audit.Entry) bool { return e.Action == "request.approve" }); i < 0 || es[i].Detail["rules"] != "usual,short" {
			t.Errorf("the entry does not name the rules by which it was decided")
		}
		if r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver2, r.ID, broker.ReviewInput{})); r.State != access.Approved {
			t.Errorf("%s", r.State)
		}
		r = s.Ask(bt.Requester2, "web-01", time.Hour)
		s.Sleep(time.Hour + 10*time.Minute) // what was asked for would run out of the rule's hours by now
		_, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "within")
		if r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{Duration: 30 * time.Minute})); r.State != access.Approved {
			t.Errorf("for less: %s", r.State)
		}
	})
}

// meanwhile does something once, after the policy was asked and before its answer is used.
type meanwhile struct {
	broker.Policy
	then func(access.Ask)
}

func (p *meanwhile) Decide(a access.Ask, now time.Time) (access.Limits, error) {
	l, err := p.Policy.Decide(a, now)
	if then := p.then; then != nil && a.Extension {
		p.then = nil
		then(a)
	}
	return l, err
}

// P6: two extensions side by side that the policy approves by itself do not pass its cap together.
func TestExtensionsAtOnce(t *testing.T) {
	for name, rule := range map[string]policy.Rule{
		"the cap":   {MaxDuration: access.Duration(time.Hour), MaxTotal: access.Duration(4 * time.Hour), AutoApprove: &policy.AutoApprove{MaxDuration: access.Duration(time.Hour)}},
		"the total": {MaxDuration: access.Duration(time.Hour), AutoApprove: &policy.AutoApprove{MaxDuration: access.Duration(4 * time.Hour)}},
		"how often": {MaxDuration: access.Duration(4 * time.Hour), Extensions: &policy.Extensions{Allowed: true, Max: 1}, AutoApprove: &policy.AutoApprove{MaxDuration: access.Duration(4 * time.Hour)}},
	} {
		rule.Name = "auto"
		p := &meanwhile{}
		bubble(t, bt.Options{Rules: func() broker.Policy { return p }}, func(t *testing.T, s *bt.Stack) {
			p.Policy = bt.Compile(t, policy.Document{Rules: []policy.Rule{rule}})
			s.Protect("web-01")
			r := s.Ask(bt.Requester, "web-01", 30*time.Minute)
			g := s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
			p.then = func(access.Ask) {
				if x := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 30*time.Minute, "first", "")); x.State != access.Approved {
					t.Errorf("%s: the first: %s", name, x.State)
				}
			}
			x, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, 25*time.Minute, "second", "")
			if err == nil && x.State != access.Pending {
				t.Errorf("%s: the second was approved by itself as well", name)
			}
			if got := s.Grant(g.ID).Duration; got != time.Hour {
				t.Errorf("%s: it lasts %s, want 1h", name, access.Duration(got))
			}
		})
	}
}

// P6: an access behind broken glass is as long as a rule lets an emergency be, and no extension makes it longer; and nobody stays in by
// breaking it again and again while nobody looks.
func TestBrokenGlassHasAnEnd(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "prod", AutoApprove: &policy.AutoApprove{MaxDuration: access.Duration(8 * time.Hour)},
		BreakGlass: &policy.BreakGlass{Requesters: []string{"requester", "requester-2"}, MaxDuration: access.Duration(time.Hour)}}}}
	o := steps(&stepPolicy{})
	o.Rules, o.Policy = nil, &rules
	bubble(t, o, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		in := broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "orders are down"}
		r := must[access.Request](t)(s.Broker.BreakGlass(t.Context(), bt.Requester, in))
		g := s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
		_, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, time.Hour, "more", "")
		wants(t, err, access.CodeDenied, "breaking the glass", "curfew request create")
		if !s.Has("grant.extend", audit.Refused, string(g.ID)) {
			t.Error("the refusal is not recorded")
		}
		n := 1
		for ; n < 100; n++ {
			if _, err = s.Broker.BreakGlass(t.Context(), bt.Requester, in); err != nil {
				break
			}
		}
		wants(t, err, access.CodeRateLimited, "looked back", "curfew break-glass list")
		if n != 20 {
			t.Errorf("refused after %d", n)
		}
		must[access.Request](t)(s.Broker.BreakGlass(t.Context(), bt.Requester2, in)) // who is somebody else
		must[access.Request](t)(s.Broker.CloseAftermath(t.Context(), bt.Approver, r.ID, "needed"))
		must[access.Request](t)(s.Broker.BreakGlass(t.Context(), bt.Requester, in))
	})
}

// signIn makes the account of somebody whom the stack's configuration does not know.
func signIn(t *testing.T, s *bt.Stack, c access.Caller) access.Caller {
	t.Helper()
	ses := broker.Session{Name: c.Name, Key: "key of " + c.Name, Roles: c.Roles, Groups: c.Groups, Via: "browser", EndsAt: s.Clock.Now().Add(100 * time.Hour)}
	must[broker.Session](t)(s.Broker.OpenSession(t.Context(), broker.HashSecret(broker.NewSecret("s")), ses, func(string) bool { return false }))
	c.Address = bt.Requester.Address
	return c
}

// P6: rights count as they are when it is decided: of who asked, of who answers for it, and of who lends theirs.
func TestRightsThatEnded(t *testing.T) {
	rules := policy.Document{Groups: map[string]policy.Group{"sre": {Claims: []string{"c-sre"}}, "dba": {Claims: []string{"c-dba"}}},
		Rules: []policy.Rule{{Name: "prod", Requesters: []string{"group:dba"}, Approvers: []string{"group:sre"}}, {Name: "ci", Requesters: []string{"token:ci"}}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		b := s.Broker
		dora := access.Caller{Name: "dora", Roles: []access.Role{access.Requester}, Groups: []string{"c-dba"}}
		sam := access.Caller{Name: "sam", Roles: []access.Role{access.Approver}, Groups: []string{"c-sre"}}
		dora, sam = signIn(t, s, dora), signIn(t, s, sam)
		bar := func(who string) {
			must[int](t)(b.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: who, Bar: true, Comment: "gone"}))
		}
		n := 0
		ask := func(c access.Caller) access.Request {
			n++
			return must[access.Request](t)(b.CreateRequest(t.Context(), c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour + time.Duration(n)*time.Minute, Reason: "x", Source: "198.51.100.1"}))
		}
		// Left the group for which the rule is.
		r := ask(dora)
		gone := dora
		gone.Groups = nil
		signIn(t, s, gone)
		_, err := b.Approve(t.Context(), sam, r.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "no policy rule")
		signIn(t, s, dora)
		must[access.Request](t)(b.Approve(t.Context(), sam, r.ID, broker.ReviewInput{}))
		// Kept out.
		r = ask(dora)
		bar("dora")
		_, err = b.Approve(t.Context(), sam, r.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "dora", "any more", "curfew deny")
		must[access.Request](t)(b.Deny(t.Context(), sam, r.ID, "gone"))
		// Who answers for a program is kept out.
		root := signIn(t, s, access.Caller{Name: "root", Roles: []access.Role{access.Requester, access.Admin}})
		tok := access.Caller{Name: "token:ci", Kind: access.APIToken, Sponsor: root.Name, Roles: []access.Role{access.Requester}}
		r = ask(tok)
		bar("root")
		_, err = b.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		wants(t, err, access.CodeDenied, "root", "any more")
		// Who lends a place has none any more: left the group, lost the role, kept out.
		erin := signIn(t, s, access.Caller{Name: "erin", Roles: []access.Role{access.Requester}, Groups: []string{"c-dba"}})
		must[broker.Delegation](t)(b.Delegate(t.Context(), sam, broker.DelegateInput{To: "approver", Until: s.Clock.Now().Add(50 * time.Hour)}))
		approves := func() error {
			_, err := b.Approve(t.Context(), bt.Approver, ask(erin).ID, broker.ReviewInput{})
			return err
		}
		if err := approves(); err != nil {
			t.Error(err)
		}
		less := sam
		less.Groups = nil
		signIn(t, s, less)
		wants(t, approves(), access.CodeDenied, "not among")
		less = sam
		less.Roles = []access.Role{access.Requester}
		signIn(t, s, less)
		wants(t, approves(), access.CodeDenied, "not among")
		signIn(t, s, sam)
		if err := approves(); err != nil {
			t.Error(err)
		}
		bar("sam")
		wants(t, approves(), access.CodeDenied, "not among")
	})
}

// P6: who asks, or answers for the program that asks, lends nobody a denial either.
func TestNobodyDeniesByTheRequestersRight(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "prod", Approvers: []string{"both", "approver-2"}}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		must[broker.Delegation](t)(s.Broker.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: "approver", Until: s.Clock.Now().Add(time.Hour)}))
		robot := access.Caller{Name: "token:ci", Kind: access.APIToken, Sponsor: "BOTH", Roles: []access.Role{access.Requester}, Address: bt.Both.Address}
		for _, c := range []access.Caller{bt.Both, robot} {
			r := s.Ask(c, "web-01", time.Hour)
			_, err := s.Broker.Deny(t.Context(), bt.Approver, r.ID, "no")
			wants(t, err, access.CodeDenied, "not among")
			_, err = s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
			wants(t, err, access.CodeDenied)
			must[access.Request](t)(s.Broker.Deny(t.Context(), bt.Approver2, r.ID, "no"))
		}
	})
}

// Those are told who can answer: in order those whose turn it is, and behind each step those to whom it has escalated, when it has.
func TestToldInTurn(t *testing.T) {
	p := &stepPolicy{needs: []access.Need{{Rule: "prod", InOrder: true, Steps: []access.Step{
		{Approvers: []string{"approver"}, EscalateAfter: 10 * time.Minute, EscalateTo: []string{"both"}},
		{Approvers: []string{"approver-2"}, EscalateAfter: 40 * time.Minute, EscalateTo: []string{"both-3"}, RemindAfter: time.Minute}}}}}
	bubble(t, steps(p), func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		to := func(k notify.Kind) (out [][]string) {
			_, all := told(s, "ops")
			for _, n := range all {
				if n.Event.Kind == k {
					out = append(out, n.Event.To)
				}
			}
			return out
		}
		want := func(k notify.Kind, lists ...[]string) {
			t.Helper()
			if got := to(k); !slices.EqualFunc(got, lists, slices.Equal) {
				t.Errorf("%s is told to %v, want %v", k, got, lists)
			}
		}
		want(notify.RequestCreated, []string{"approver"})
		s.Sleep(11 * time.Minute)
		want(notify.RequestEscalated, []string{"approver", "both"})
		want(notify.RequestReminder) // only the second step has anybody reminded, and its turn has not come
		must[access.Request](t)(approve(t, s, bt.Both, r))
		want(notify.RequestReviewed, []string{"approver-2"})
		s.Sleep(30 * time.Minute)
		want(notify.RequestEscalated, []string{"approver", "both"}, []string{"approver-2", "both-3"})
		must[access.Request](t)(approve(t, s, bt.Both3, r))
	})
}

// A rule that ends connections holds for what was asked for before it did.
func TestHardCloseFromNowOn(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "prod"}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		soft := s.Open(bt.Requester2, "web-01", time.Hour)
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		x := must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester2, soft.ID, time.Hour, "more", ""))
		rules.Rules[0].HardClose = true
		r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}))
		must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, x.ID, broker.ReviewInput{}))
		if !s.Grant(r.Grants[0]).HardClose || !s.Grant(soft.ID).HardClose {
			t.Error("its end would leave connections alone")
		}
	})
}

// P2: people are told of thousands of requests a few at a time, because closings wait for it; each is told of once, and none is left out.
func TestRemindingDoesNotHoldUpClosings(t *testing.T) {
	c := clock.NewManual(time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC))
	o := steps(&stepPolicy{})
	o.NoStart, o.Clock, o.Routes = true, c, []notify.Route{{Name: "ops", All: true}}
	s := bt.New(t, o)
	const n, batch = 500, 20
	now := s.Broker.Now()
	target := access.Target{VM: access.VM{ID: "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/x", Name: "x"}, Ports: access.Port(22), Protocol: access.TCP}
	needs := []access.Need{{Rule: "prod", Steps: []access.Step{{Approvers: []string{"approver"}, RemindAfter: 10 * time.Minute}}}}
	if err := s.Store.Update(t.Context(), func(tx broker.Tx) error {
		for i := range n {
			r := access.Request{ID: access.RequestID(fmt.Sprintf("r-%010d", i)), Requester: "requester", State: access.Pending, CreatedAt: now, ExpiresAt: now.Add(24 * time.Hour), Needs: needs, Reason: "x",
				Asked: access.Terms{Targets: []access.Target{target}, Source: netip.MustParsePrefix("203.0.113.9/32"), Duration: time.Hour}}
			if r.Terms = r.Asked; i%2 == 1 {
				r.Needs = []access.Need{{Rule: "other", Steps: []access.Step{{Count: 1}}}} // of whose approvers nobody is reminded
			}
			if err := tx.InsertRequest(r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	count := func() (waiting int) {
		for _, ct := range must[[]notify.Count](t)(s.Broker.Outbox().Counts(t.Context())) {
			waiting += ct.Waiting
		}
		return waiting
	}
	c.Advance(11 * time.Minute)
	told := 0
	for range 40 {
		c.Advance(time.Second)
		s.Broker.Tick(t.Context())
		if now := count(); now-told > batch {
			t.Fatalf("%d are told of in one step", now-told)
		} else {
			told = now
		}
	}
	if told != n/2 {
		t.Errorf("%d notices, want one for each of %d", told, n/2)
	}
}

// P2: whoever is kept out has nothing open any more, nor have programs for which they answer; others have.
func TestKeptOutHasNothingOpen(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		dora := signIn(t, s, access.Caller{Name: "dora", Roles: []access.Role{access.Requester}})
		tok := access.Caller{Name: "token:ci", Kind: access.APIToken, Sponsor: "Dora", Roles: []access.Role{access.Requester}, Address: bt.Requester2.Address}
		own, program, other := s.Open(dora, "web-01", time.Hour), s.Open(tok, "web-01", time.Hour), s.Open(bt.Requester, "web-01", 2*time.Hour)
		ahead := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), dora, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "x", StartAt: s.Clock.Now().Add(10 * time.Hour)}))
		ahead = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, ahead.ID, broker.ReviewInput{}))
		must[int](t)(s.Broker.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: "DORA", Bar: true, Comment: "laptop stolen"}))
		for _, id := range []access.GrantID{own.ID, program.ID, ahead.Grants[0]} {
			g := s.WaitGrant(id, func(g access.Grant) bool { return g.State.Final() })
			if g.State != access.Revoked || g.EndedBy != bt.Admin.Name {
				t.Errorf("%s is %s by %q", id, g.State, g.EndedBy)
			}
		}
		if g := s.Grant(other.ID); !g.Ready() {
			t.Errorf("somebody else's is %s", g.State)
		}
	})
}

package broker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// ailing is a store that fails at one operation while it is told to.
type ailing struct {
	op    string
	fault sqlite.Fault
	on    atomic.Bool
}

func (a *ailing) hooks() sqlite.Hooks {
	return sqlite.Hooks{Fault: func(op string) error {
		if a.on.Load() && op == a.op {
			return a.fault
		}
		return nil
	}}
}

// P2, P7: the disk is full, the database locked or broken: asking and approving are refused in words, closing by a person and by
// time goes on in Azure, and what happened stands in the log afterwards, late, exactly once.
func TestStoreFails(t *testing.T) {
	for name, a := range map[string]*ailing{
		"disk full on commit": {op: "commit", fault: sqlite.FaultFull},
		"disk full on write":  {op: "write", fault: sqlite.FaultFull},
		"locked":              {op: "begin", fault: sqlite.FaultBusy},
		"disk broken":         {op: "begin", fault: sqlite.FaultIO},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, bt.Options{StoreHooks: a.hooks()}, func(t *testing.T, s *bt.Stack) {
				for _, vm := range []string{"web-01", "payroll", "app-01"} {
					s.Protect(vm)
				}
				closed, revoked, ending := s.Open(bt.Requester, "web-01", time.Hour), s.Open(bt.Requester, "payroll", time.Hour), s.Open(bt.Requester, "app-01", 5*time.Minute)
				waiting := s.Ask(bt.Requester2, "web-01", time.Hour)
				allows := func(vm string) (out []string) {
					for _, id := range s.Machine(vm).NSGs() {
						out = append(out, s.Allows(id)...)
					}
					return out
				}
				ctx := t.Context()
				a.on.Store(true)
				_, err := s.Broker.CreateRequest(ctx, bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: 2 * time.Hour, Reason: "x"})
				wants(t, err, access.CodeUnavailable, "database")
				_, err = s.Broker.Approve(ctx, bt.Approver, waiting.ID, broker.ReviewInput{})
				wants(t, err, access.CodeUnavailable, "database")
				_, err = s.Broker.Protect(ctx, bt.Admin, broker.ProtectInput{VMs: []string{"web-02"}})
				wants(t, err, access.CodeUnavailable, "database")
				if n := len(ruleNames(s, s.Machine("web-02").NSGs()[0], "curfew-")); n != 0 {
					t.Errorf("%d rules were written without an entry", n)
				}
				// Closing does not wait. Others may not do it, and it is not there for them.
				if _, err = s.Broker.Close(ctx, bt.Requester2, closed.ID); access.CodeOf(err) != access.CodeUnavailable { // nothing could be read
					wants(t, err, access.CodeNotFound, "not yours to see")
				}
				_, err = s.Broker.Close(ctx, bt.Approver, closed.ID)
				wants(t, err, access.CodeDenied, "revoke")
				_, err = s.Broker.Revoke(ctx, bt.Requester2, closed.ID, "")
				wants(t, err, access.CodeDenied)
				if g, err := s.Broker.Close(ctx, bt.Requester, closed.ID); err != nil || g.State != access.Closing {
					t.Errorf("close: %s %v", g.State, err)
				}
				if g, err := s.Broker.Revoke(ctx, bt.Approver, revoked.ID, "enough"); err != nil || g.State != access.Closing {
					t.Errorf("revoke: %s %v", g.State, err)
				}
				_, err = s.Broker.Close(ctx, bt.Requester, closed.ID) // twice
				wants(t, err, access.CodeConflict, "closing already")
				time.Sleep(3 * time.Second)
				if left := append(allows("web-01"), allows("payroll")...); len(left) != 0 {
					t.Errorf("P7: closing waited for the store: %v", left)
				}
				if st := s.Broker.Status(ctx); st.Ready || st.Store == "" || st.Spooled != 2 {
					t.Errorf("status %+v, want not ready, the reason, and two entries that wait", st)
				}
				time.Sleep(time.Until(ending.EndsAt) + 2*time.Second)
				if left := allows("app-01"); len(left) != 0 {
					t.Errorf("P2: the end waited for the store: %v", left)
				}
				a.on.Store(false)
				time.Sleep(5 * time.Second)
				for id, want := range map[access.GrantID]access.GrantState{closed.ID: access.Closed, revoked.ID: access.Revoked, ending.ID: access.Ended} {
					if g := s.Grant(id); g.State != want {
						t.Errorf("%s is %s (%s), want %s", id, g.State, g.LastError, want)
					}
				}
				entries := func(action string, id access.GrantID) (out []audit.Entry) {
					for _, e := range s.Log() {
						if e.Action == action && e.Object == string(id) && e.Outcome == audit.Done {
							out = append(out, e)
						}
					}
					return out
				}
				if es := entries("grant.close", closed.ID); len(es) != 1 || !es[0].Late || es[0].Actor != bt.Requester.Name {
					t.Errorf("P7: entries of the close: %+v, want one, late", es)
				}
				if es := entries("grant.revoke", revoked.ID); len(es) != 1 || !es[0].Late || es[0].Detail["comment"] != "enough" {
					t.Errorf("P7: entries of the revocation: %+v, want one, late", es)
				}
				if st := s.Broker.Status(ctx); !st.Ready || st.Store != "" || st.Spooled != 0 {
					t.Errorf("afterwards: %+v", st)
				}
				// And everything works again.
				r := must[access.Request](t)(s.Broker.Approve(ctx, bt.Approver, waiting.ID, broker.ReviewInput{}))
				s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
			})
		})
	}
}

// A caller who hangs up says nothing about the store.
func TestHangUp(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		time.Sleep(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Broker.Request(ctx, bt.Auditor, "r-0000000000"); err == nil {
			t.Error("a call whose caller is gone succeeded")
		}
		if s.Broker.StoreDown() {
			t.Error("the store counts as down because a caller hung up")
		}
	})
}

func copyDB(t testing.TB, from, to string) {
	t.Helper()
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(filepath.Join(to, "curfew.db"+suffix))
	}
	b, err := os.ReadFile(filepath.Join(from, "curfew.db"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "curfew.db"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The database is restored from a backup: nothing opens, by no way, until an admin confirms; closing goes on.
func TestRestored(t *testing.T) {
	dir, backup := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		az := must[*sim.Sim](t)(sim.New(sim.Config{Estate: estates.Demo()}))
		ctx := t.Context()
		start := func() *bt.Stack { return bt.New(t, bt.Options{Sim: az, Dir: dir}) }

		s := start()
		web, payroll := s.Machine("web-01").NSGs()[0], s.Machine("payroll").NSGs()[0]
		s.Protect("web-01")
		s.Protect("orders-01")
		a, b := s.Open(bt.Requester, "web-01", 2*time.Hour), s.Open(bt.Requester2, "web-01", 10*time.Minute)
		pending := s.Ask(bt.Requester, "web-01", time.Hour)
		s.Stop()
		copyDB(t, dir, backup)

		s = start() // what the backup does not know
		if h := s.Broker.Hold(); h != "" {
			t.Fatalf("on hold after a plain restart: %s", h)
		}
		must[access.Grant](t)(s.Broker.Revoke(ctx, bt.Approver, a.ID, "leaves the team"))
		s.WaitGrant(a.ID, func(g access.Grant) bool { return g.State.Final() })
		s.Protect("payroll")
		s.Protect("orders-02")
		s.Open(bt.Requester, "payroll", 2*time.Hour)
		denies := func() []string {
			return slices.Concat(ruleNames(s, web, "curfew-deny-"), ruleNames(s, payroll, "curfew-deny-"))
		}
		had := denies()
		shared := s.Machine("orders-01").NSGs()[0]
		destinations := func() string {
			var all []string
			for _, name := range ruleNames(s, shared, "curfew-deny-") {
				all = append(all, fmt.Sprint(s.Rules(shared)[name].Properties["destinationAddressPrefixes"]))
			}
			return strings.Join(all, " ")
		}
		sharedDeny := destinations()
		if !strings.Contains(sharedDeny, "10.10.1.21") || !strings.Contains(sharedDeny, "10.10.1.22") {
			t.Fatalf("the shared deny names %s", sharedDeny)
		}
		s.Stop()
		copyDB(t, backup, dir)

		for range 2 { // it is still on hold after a restart
			s = start()
			time.Sleep(time.Minute)
			if h := s.Broker.Hold(); !strings.Contains(h, "restored from a backup") {
				t.Fatalf("hold %q", h)
			}
			if got := s.Allows(web); len(got) != 1 || !strings.Contains(got[0], strings.TrimPrefix(string(b.ID), "g-")) {
				t.Errorf("allows on web-01 %v, want that of %s alone: it stood", got, b.ID)
			}
			if got := s.Allows(payroll); len(got) != 0 {
				t.Errorf("a grant that the store does not know stands: %v", got)
			}
			if !slices.Equal(denies(), had) {
				t.Errorf("denies %v, had %v: something was opened", denies(), had)
			}
			if now := destinations(); now != sharedDeny {
				t.Errorf("the deny of two machines names %s, and named %s", now, sharedDeny)
			}
			if st := s.Broker.Status(ctx); st.Hold == "" {
				t.Errorf("status %+v", st)
			}
			s.Stop()
		}
		s = start()
		defer s.Stop()
		_, err := s.Broker.Approve(ctx, bt.Approver, pending.ID, broker.ReviewInput{})
		wants(t, err, access.CodeHeld, "restored", "curfew reconcile --resume")
		_, err = s.Broker.Protect(ctx, bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Off: true})
		wants(t, err, access.CodeHeld, "restored")
		plan := must[broker.RequestPlan](t)(s.Broker.PlanRequest(ctx, bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "x"}))
		if plan.WillGetIn || !strings.Contains(plan.Why, "restored") {
			t.Errorf("the dry run says %t, %q", plan.WillGetIn, plan.Why)
		}
		if !s.Has("request.approve", audit.Refused, "") || !s.Has("system.hold", audit.Done, "") {
			t.Error("the hold, or a refusal by it, is not in the log")
		}
		// The admin looks, protects what is known to have been, revokes, and confirms.
		for _, vm := range []string{"payroll", "orders-02"} {
			if p := protect(t, s, broker.ProtectInput{VMs: []string{vm}}); p.VMs[0].State != string(access.ProtectionOn) {
				t.Errorf("%s under hold: %+v", vm, p.VMs[0])
			}
		}
		must[access.Grant](t)(s.Broker.Revoke(ctx, bt.Admin, a.ID, "was revoked"))
		wants(t, s.Broker.Resume(ctx, bt.Approver, "looks fine"), access.CodeDenied)
		time.Sleep(10 * time.Minute)
		if got := s.Allows(web); len(got) != 0 || s.Grant(b.ID).State != access.Ended {
			t.Errorf("P2: closing did not go on: %v %s", got, s.Grant(b.ID).State)
		}
		if err := s.Broker.Resume(ctx, bt.Admin, "looked at every grant"); err != nil {
			t.Fatal(err)
		}
		if s.Broker.Hold() != "" || !s.Has("system.resume", audit.Done, "") {
			t.Errorf("hold %q", s.Broker.Hold())
		}
		time.Sleep(2 * time.Minute)
		if !slices.Equal(denies(), had) || len(s.Allows(web))+len(s.Allows(payroll)) != 0 {
			t.Errorf("denies %v, allows %v %v", denies(), s.Allows(web), s.Allows(payroll))
		}
		if g := s.Open(bt.Requester, "web-01", 10*time.Minute); !g.Ready() {
			t.Error("nothing opens after the confirmation")
		}
	})
}

// jumping is the bubble's clock with an offset that jumps.
type jumping struct{ offset atomic.Int64 }

func (j *jumping) Now() time.Time {
	return time.Now().UTC().Add(time.Duration(j.offset.Load())).Round(0)
}
func (j *jumping) After(d time.Duration) <-chan time.Time { return time.After(d) }

// The clock went back while the server was down: openings wait, also across a restart; what is live ends when it should have; an
// admin's word ends the hold.
func TestClockWentBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		az := must[*sim.Sim](t)(sim.New(sim.Config{Estate: estates.Demo()}))
		clk := &jumping{}
		s := bt.New(t, bt.Options{Sim: az, Dir: dir, Clock: clk})
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g := s.Open(bt.Requester, "web-01", 20*time.Minute)
		s.Stop()
		clk.offset.Store(int64(-time.Hour))
		s = bt.New(t, bt.Options{Sim: az, Dir: dir, Clock: clk})
		defer s.Stop()
		if h := s.Broker.Hold(); !strings.Contains(h, "clock went back") {
			t.Fatalf("hold %q", h)
		}
		r := s.Ask(bt.Requester2, "web-01", 20*time.Minute)
		_, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		wants(t, err, access.CodeHeld, "clock")
		time.Sleep(20*time.Minute + 5*time.Second)
		if got := s.Grant(g.ID); got.State != access.Ended || len(s.Allows(group)) != 0 {
			t.Errorf("P2: the clock that went back lengthened it: %s %v", got.State, s.Allows(group))
		}
		if err := s.Broker.Resume(t.Context(), bt.Admin, "it was an hour ahead"); err != nil {
			t.Fatal(err)
		}
		if h := s.Broker.Hold(); h != "" {
			t.Errorf("still on hold: %s", h)
		}
		r = s.Ask(bt.Requester2, "web-01", 10*time.Minute)
		r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}))
		s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
	})
}

// The clock far ahead: requests expire, grants end, nothing opens that was due long ago; and the way back is a hold.
func TestClockFarAhead(t *testing.T) {
	clk := &jumping{}
	bubble(t, bt.Options{Clock: clk}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g, r := s.Open(bt.Requester, "web-01", time.Hour), s.Ask(bt.Requester2, "web-01", time.Hour)
		later := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester2, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "later", StartAt: s.Clock.Now().Add(2 * time.Hour)}))
		later = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, later.ID, broker.ReviewInput{}))
		clk.offset.Store(int64(10 * 365 * 24 * time.Hour))
		time.Sleep(10 * time.Second)
		if got := s.Grant(g.ID); got.State != access.Ended || len(s.Allows(group)) != 0 {
			t.Errorf("%s %v", got.State, s.Allows(group))
		}
		if got := s.Grant(later.Grants[0]); got.State != access.ActivationFailed {
			t.Errorf("what was due years ago is %s", got.State)
		}
		if got := must[access.Request](t)(s.Broker.Request(t.Context(), bt.Auditor, r.ID)); got.State != access.Expired {
			t.Errorf("the request is %s", got.State)
		}
		clk.offset.Store(0)
		time.Sleep(time.Second)
		if s.Broker.Hold() == "" {
			t.Error("no hold after the clock came back from ten years ahead")
		}
		if err := s.Broker.Resume(t.Context(), bt.Admin, "the clock was wrong"); err != nil {
			t.Fatal(err)
		}
		s.Open(bt.Requester, "web-01", 10*time.Minute)
	})
}

// late is a store whose callers hear of a commit some time after it, each at another.
type late struct{ broker.Store }

func (l late) Update(ctx context.Context, fn func(broker.Tx) error) error {
	err := l.Store.Update(ctx, fn)
	time.Sleep(rand.N(2 * time.Millisecond))
	return err
}

// The index is what the store holds, whatever happens at once and whoever hears of it first: a grant that was shut never comes back
// to life in it (P1, P2).
func TestIndexFollowsStore(t *testing.T) {
	s := bt.New(t, bt.Options{NoStart: true}) // on the machine's clock: real concurrency
	ctx := t.Context()
	place := s.Machine("web-01").NSGs()[0]
	b := must[*broker.Broker](t)(broker.New(ctx, broker.Config{Installation: bt.Installation, Store: late{s.Store}, Spool: s.Spool, Clock: s.Clock, Inventory: s.Inventory, Backend: s.Backend,
		Policy: func() broker.Policy { return bt.Compile(t, bt.AnyPolicy) }}))
	if _, err := b.Protect(ctx, bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}}); err == nil {
		t.Fatal("protected without a reconciler")
	}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			r, err := b.CreateRequest(ctx, bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour + time.Duration(i)*time.Second, Reason: "index"})
			if err == nil {
				r, err = b.Approve(ctx, bt.Approver, r.ID, broker.ReviewInput{})
			}
			if err != nil {
				t.Error(err)
				return
			}
			id := r.Grants[0]
			if err := b.Begin(ctx, map[access.GrantID][]access.Place{id: {{ID: place}}}); err != nil {
				t.Error(err)
			}
			x, err := b.Extend(ctx, bt.Requester, id, 10*time.Minute, "", "")
			if err != nil {
				t.Error(err)
				return
			}
			var in sync.WaitGroup
			in.Go(func() { _, _ = b.Approve(ctx, bt.Approver, x.ID, broker.ReviewInput{}) })
			in.Go(func() { _, _ = b.Close(ctx, bt.Requester, id) })
			in.Go(func() { _, _ = b.Apply(ctx, []broker.Move{{ID: id, Event: access.OpenedEvent{}}}) })
			in.Go(func() { _, _ = b.Apply(ctx, []broker.Move{{ID: id, Event: access.ShutDoneEvent{}}}) })
			in.Go(func() { _ = b.Reload(ctx) })
			in.Wait()
		})
	}
	wg.Wait()
	err := s.Store.View(ctx, func(tx broker.Tx) error {
		gs, _, err := tx.Grants(broker.GrantFilter{Page: broker.Page{Limit: 500}})
		if len(gs) != 24 {
			t.Errorf("%d grants", len(gs))
		}
		for _, g := range gs {
			have, live := b.LiveGrant(g.ID)
			if live == g.State.Final() || live && have.Version != g.Version {
				t.Errorf("%s is %s (version %d) in the store; in the index: %t, %s (version %d)", g.ID, g.State, g.Version, live, have.State, have.Version)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A database that is new, where this installation has shields already (the old one was lost): nothing is taken for nobody's, and so
// opened, until an admin has looked.
func TestNewDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		az := must[*sim.Sim](t)(sim.New(sim.Config{Estate: estates.Demo()}))
		s := bt.New(t, bt.Options{Sim: az})
		time.Sleep(time.Minute)
		if h := s.Broker.Hold(); h != "" {
			t.Errorf("a first start is on hold: %s", h)
		}
		web, payroll := s.Machine("web-01").NSGs()[0], s.Machine("payroll").NSGs()[0]
		s.Protect("web-01")
		s.Protect("payroll")
		s.Open(bt.Requester, "web-01", time.Hour)
		s.Stop()
		s = bt.New(t, bt.Options{Sim: az}) // a new one in memory
		defer s.Stop()
		time.Sleep(2 * time.Minute)
		if h := s.Broker.Hold(); !strings.Contains(h, "database is new") || !strings.Contains(h, "2 network security groups") {
			t.Errorf("hold %q", h)
		}
		if len(ruleNames(s, web, "curfew-deny-")) == 0 || len(ruleNames(s, payroll, "curfew-deny-")) == 0 {
			t.Error("shields were taken away")
		}
		if n := s.Allows(web); len(n) != 0 {
			t.Errorf("P2: a grant that nobody knows stands: %v", n)
		}
		s.Protect("web-01")
		if err := s.Broker.Resume(t.Context(), bt.Admin, "payroll is not ours any more"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if h := s.Broker.Hold(); h != "" {
			t.Errorf("on hold again: %s", h)
		}
		if len(ruleNames(s, web, "curfew-deny-")) == 0 || len(ruleNames(s, payroll, "curfew-")) != 0 {
			t.Errorf("after the confirmation: %v %v", ruleNames(s, web, "curfew-"), ruleNames(s, payroll, "curfew-"))
		}
	})
}

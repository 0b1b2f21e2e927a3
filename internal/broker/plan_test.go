package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// The dry run says whether one will get in, who may approve, and what is written; it changes nothing.
func TestPlanRequest(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "default"}, {Name: "web", VMs: []string{"web-*"}, Approvers: []string{"approver-2", "both"}, MaxDuration: access.Duration(2 * time.Hour)}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		writes, size := s.Sim.Writes(group), len(s.Log())
		in := broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "plan"}
		p := must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, in))
		if !p.WillGetIn || p.Why != "" || len(p.Changes) != 1 || !strings.Contains(p.Changes[0].Summary, "203.0.113.9") || len(p.Also) != 0 {
			t.Errorf("%+v", p)
		}
		if !slices.Equal(p.Approvers, []string{"approver-2", "both"}) || p.Limits.MaxDuration != 2*time.Hour || !slices.Equal(p.Limits.Rules, []string{"default", "web"}) {
			t.Errorf("approvers %v, limits %+v", p.Approvers, p.Limits)
		}
		if p = must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Both, in)); !slices.Equal(p.Approvers, []string{"approver-2"}) { // P6
			t.Errorf("both may have %v approve, want approver-2 alone", p.Approvers)
		}
		if s.Sim.Writes(group) != writes || len(s.Log()) != size {
			t.Error("a dry run wrote something")
		}
		// It is what then happens.
		r := must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver2, s.Ask(bt.Requester2, "web-01", time.Hour).ID, broker.ReviewInput{}))
		s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
	})
}

// P5: a deny of somebody else's that comes first is named, by the dry run and by the grant; so is an admin rule.
func TestPlanRequestDenied(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("web-nsg", estates.Deny("blocklist", 100, "*", "203.0.113.0/28"), estates.Allow("allow-ssh", 1000, "22", "Internet"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	e.VM("web", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4", NSG: group})
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web")
		p := must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web"}, Duration: time.Hour, Reason: "x"}))
		if p.WillGetIn || !strings.Contains(p.Why, "blocklist") {
			t.Errorf("%t %q, want the deny named", p.WillGetIn, p.Why)
		}
		p = must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web"}, Duration: time.Hour, Reason: "x", Source: "198.51.100.99"}))
		if !p.WillGetIn {
			t.Errorf("another source: %q", p.Why)
		}
		r := s.Ask(bt.Requester, "web", time.Hour)
		r = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}))
		g := s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.NotReady != "" || g.LastError != "" })
		if g.Ready() || !strings.Contains(g.NotReady+g.LastError, "blocklist") {
			t.Errorf("P5: %s, ready %t, %q %q", g.State, g.Ready(), g.NotReady, g.LastError)
		}
	})
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("batch-01")
		p := must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"batch-01"}, Duration: time.Hour, Reason: "x"}))
		if p.WillGetIn || !strings.Contains(p.Why, "deny-ssh-from-internet") {
			t.Errorf("%t %q, want the admin rule named", p.WillGetIn, p.Why)
		}
	})
}

// Two networks that do not know of one another share a group and an address: the dry run says who is opened too.
func TestPlanRequestAlso(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("shared-nsg", estates.Allow("allow-ssh", 1000, "22", "Internet"))
	for _, n := range []string{"a", "b"} {
		vnet := e.VNet("net-"+n, []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
		e.VM("vm-"+n, estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4" + map[string]string{"a": "1", "b": "2"}[n], NSG: group})
	}
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		s.Protect("vm-a")
		p := must[broker.RequestPlan](t)(s.Broker.PlanRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"vm-a"}, Duration: time.Hour, Reason: "x"}))
		if len(p.Also) != 1 || !strings.Contains(p.Also[0], "vm-b") {
			t.Errorf("also: %v, want vm-b", p.Also)
		}
	})
}

// collect reads entries until n came, or nothing does any more.
func collect(t testing.TB, ch <-chan audit.Entry, n int) (out []audit.Entry) {
	t.Helper()
	for len(out) < n {
		select {
		case e, open := <-ch:
			if !open {
				return out
			}
			out = append(out, e)
		case <-time.After(time.Minute):
			return out
		}
	}
	return out
}

// Watch tells everything once and in order, from where one left off, and to each what concerns them; it ends with its context.
func TestWatch(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		s.Protect("payroll")
		ctx, cancel := context.WithCancel(t.Context())
		watch := func(c access.Caller, after int64) <-chan audit.Entry {
			return must[<-chan audit.Entry](t)(s.Broker.Watch(ctx, c, after))
		}
		now, mine, stalled := watch(bt.Auditor, -1), watch(bt.Requester, -1), watch(bt.Approver, -1)
		size := int64(len(s.Log()))
		g := s.Open(bt.Requester, "web-01", 10*time.Minute)
		other := s.Open(bt.Requester2, "payroll", 10*time.Minute)
		must[access.Grant](t)(s.Broker.Revoke(t.Context(), bt.Approver, g.ID, "enough"))
		must[access.Grant](t)(s.Broker.Close(t.Context(), bt.Requester2, other.ID))
		time.Sleep(5 * time.Second)
		log := s.Log()[size:]
		got := collect(t, now, len(log))
		if fmt.Sprint(got) != fmt.Sprint(log) {
			t.Errorf("an auditor saw %d entries from now on, want the log's %d:\n%v\n%v", len(got), len(log), got, log)
		}
		var concern []audit.Entry
		for _, e := range log {
			if e.Actor == bt.Requester.Name || e.Detail["requester"] == bt.Requester.Name {
				concern = append(concern, e)
			}
		}
		if got := collect(t, mine, len(concern)+1); fmt.Sprint(got) != fmt.Sprint(concern) || len(got) < 6 {
			t.Errorf("a requester saw\n%v\nwant\n%v", got, concern)
		}
		// From an index on, and from before the beginning.
		if got := collect(t, watch(bt.Admin, log[2].Index), len(log)-3); fmt.Sprint(got) != fmt.Sprint(log[3:]) {
			t.Errorf("from %d on: %v", log[2].Index, got)
		}
		if got := collect(t, watch(bt.Admin, 0), 1); len(got) != 1 || got[0].Index != 1 {
			t.Errorf("after the first: %v", got)
		}
		// From beyond the end: from now on.
		beyond := watch(bt.Auditor, 1_000_000)
		must[broker.SweepReport](t)(s.Broker.Reconcile(t.Context(), bt.Admin))
		if got := collect(t, beyond, 1); len(got) != 1 || got[0].Action != "system.reconcile" {
			t.Errorf("from beyond the end: %v", got)
		}
		cancel()
		synctest.Wait()
		for _, ch := range []<-chan audit.Entry{now, mine, stalled, beyond} {
			for range ch { // whatever was on its way; it ends
			}
		}
	})
}

// Whoever is called as the program is does not see what the program does for others.
func TestWatchNamesake(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		namesake := bt.Requester2
		namesake.Name = "Curfew"
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ch := must[<-chan audit.Entry](t)(s.Broker.Watch(ctx, namesake, -1))
		s.Open(bt.Requester, "web-01", 10*time.Minute)
		if got := collect(t, ch, 1); len(got) != 0 {
			t.Errorf("saw %v", got)
		}
	})
}

// What a confirmed machine's group means counts every network that the group serves, not the machine's alone.
func TestEnvOfConfirmed(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("shared-nsg", estates.Allow("allow-ssh", 1000, "22", "VirtualNetwork"))
	for i, n := range []string{"a", "b"} {
		vnet := e.VNet("net-"+n, []string{fmt.Sprintf("10.%d.0.0/16", i+1)}, estates.Subnet{Name: "front", Prefix: fmt.Sprintf("10.%d.0.0/24", i+1)})
		e.VM("vm-"+n, estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.%d.0.4", i+1), NSG: group})
	}
	bubble(t, bt.Options{Estate: e.JSON(), NoStart: true}, func(t *testing.T, s *bt.Stack) {
		m := s.Machine("vm-a")
		snap := must[*inventory.Snapshot](t)(s.Inventory.Confirm(t.Context(), m.ID))
		if got := fmt.Sprint(snap.EnvOf(group).VirtualNetwork); got != "[10.1.0.0/16 10.2.0.0/16]" {
			t.Errorf("with what was read of everything: %s", got)
		}
		alone := must[*inventory.Snapshot](t)(inventory.Confirm(t.Context(), s.Azure, m.ID, nil, s.Clock.Now()))
		if got := alone.EnvOf(group).VirtualNetwork; got != nil { // the other network is not known: the tag may be anything
			t.Errorf("without it: %v", got)
		}
	})
}

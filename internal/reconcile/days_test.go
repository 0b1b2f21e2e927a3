package reconcile_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
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

// shared is two machines behind one NIC-less subnet group, one of them with a group of its own too.
func shared() ([]byte, string, string) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	sub := e.NSG("subnet-nsg", estates.Allow("allow-https", 200, "443", "Internet"))
	nic := e.NSG("b-nsg", estates.Allow("allow-ssh", 1000, "22", "Internet"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24", NSG: sub})
	e.VM("a", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4"})
	e.VM("b", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.5", PublicIP: "198.51.100.5", NSG: nic})
	e.VM("c", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.6", PublicIP: "198.51.100.6"})
	return e.JSON(), sub, nic
}

// P3, P5: both groups in the path are opened, for the granted machine alone.
func TestSubnetAndNICGroups(t *testing.T) {
	estate, sub, nic := shared()
	bubble(t, bt.Options{Estate: estate}, func(t *testing.T, s *bt.Stack) {
		for _, vm := range []string{"a", "b", "c"} {
			s.Protect(vm)
		}
		g := s.Open(bt.Requester, "b", time.Hour)
		if len(g.Places) != 2 || len(s.Allows(sub)) != 1 || len(s.Allows(nic)) != 1 {
			t.Errorf("places %v, allows %v and %v; want one in each group", g.Places, s.Allows(sub), s.Allows(nic))
		}
		for _, name := range s.Allows(sub) {
			if d := fmt.Sprint(s.Rules(sub)[name].Properties["destinationAddressPrefix"]); !strings.HasPrefix(d, "10.1.0.5") {
				t.Errorf("the allow in the shared group names %s, want the granted machine alone", d)
			}
		}
		if _, err := s.Broker.Close(t.Context(), bt.Requester, g.ID); err != nil {
			t.Fatal(err)
		}
		g = s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		if g.State != access.Closed || len(s.Allows(sub))+len(s.Allows(nic)) != 0 {
			t.Errorf("after close: %s, %v %v", g.State, s.Allows(sub), s.Allows(nic))
		}
	})
}

// P2: overlapping grants never cancel one another.
func TestOverlappingGrants(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g1 := s.Open(bt.Requester, "web-01", 10*time.Minute)
		g2 := s.Open(bt.Requester, "web-01", 30*time.Minute)
		g1 = s.WaitGrant(g1.ID, func(g access.Grant) bool {
			time.Sleep(time.Second * 10)
			return g.State.Final()
		})
		if len(s.Allows(group)) != 1 || !s.Grant(g2.ID).Ready() {
			t.Errorf("after the first ended: allows %v, second %+v", s.Allows(group), s.Grant(g2.ID))
		}
	})
}

// An extension lengthens a live grant without a gap, after its own review; the longest time in total holds.
func TestExtend(t *testing.T) {
	p := policy.Document{Rules: []policy.Rule{{Name: "short", MaxDuration: access.Duration(time.Hour), MaxTotal: access.Duration(90 * time.Minute)}}}
	bubble(t, bt.Options{Policy: &p}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g := s.Open(bt.Requester, "web-01", time.Hour)
		if _, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, time.Hour, "", ""); access.CodeOf(err) != access.CodeDenied {
			t.Errorf("extending past the total: got %v, want denied", err)
		}
		r, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, 30*time.Minute, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Broker.Approve(t.Context(), bt.Requester, r.ID, broker.ReviewInput{}); access.CodeOf(err) != access.CodeDenied {
			t.Errorf("own approval (P6): got %v", err)
		}
		if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
			t.Fatal(err)
		}
		if got := s.Grant(g.ID).EndsAt; !got.Equal(g.EndsAt.Add(30 * time.Minute)) {
			t.Errorf("end %s, want %s", got, g.EndsAt.Add(30*time.Minute))
		}
		time.Sleep(time.Until(g.EndsAt) + 5*time.Second)
		if len(s.Allows(group)) != 1 {
			t.Error("shut at the old end")
		}
		if e := s.Grant(g.ID); e.State != access.Active || e.Drifted {
			t.Errorf("after the old end: %+v", e)
		}
		time.Sleep(30*time.Minute + 5*time.Second)
		if len(s.Allows(group)) != 0 || s.Grant(g.ID).State != access.Ended {
			t.Errorf("after the new end: %v %s", s.Allows(group), s.Grant(g.ID).State)
		}
	})
}

// An extension is written at once, not with the next sweep: until it is, the rule's name carries the old end, and a sweep without a
// database would shut it there.
func TestExtendAtOnce(t *testing.T) {
	bubble(t, bt.Options{SweepEvery: time.Hour}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g := s.Open(bt.Requester, "web-01", time.Hour)
		r, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, 30*time.Minute, "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if n := s.Allows(group); len(n) != 1 || !strings.Contains(n[0], s.Grant(g.ID).EndsAt.UTC().Format("20060102T150405Z")) {
			t.Errorf("extended to %s, and three seconds later the rules are %v", s.Grant(g.ID).EndsAt, n)
		}
	})
}

// Drift: a deny of ours comes back at once; an allow is put back once, and revoked when it is removed again.
func TestDrift(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g := s.Open(bt.Requester, "web-01", 2*time.Hour)
		drop := func(prefix string) {
			t.Helper()
			n := 0
			for name := range s.Rules(group) {
				if strings.HasPrefix(name, prefix) {
					n++
					if err := s.Sim.Delete(group + "/securityRules/" + name); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n == 0 {
				t.Fatalf("no rule %s to remove", prefix)
			}
		}
		drop("curfew-deny-")
		time.Sleep(40 * time.Second)
		denies := 0
		for name := range s.Rules(group) {
			if strings.HasPrefix(name, "curfew-deny-") {
				denies++
			}
		}
		if denies == 0 || !s.Has("drift.repair", audit.Done, "") {
			t.Errorf("the deny did not come back: %v", s.Rules(group))
		}
		drop("curfew-allow-")
		time.Sleep(40 * time.Second)
		if d := s.Grant(g.ID); len(s.Allows(group)) != 1 || !d.Drifted || d.Restored != 1 {
			t.Errorf("first removal: allows %v, drifted %t, restored %d; want it put back", s.Allows(group), d.Drifted, d.Restored)
		}
		drop("curfew-allow-")
		time.Sleep(40 * time.Second)
		if d := s.Grant(g.ID); len(s.Allows(group)) != 0 || d.State != access.Revoked || d.EndReason != access.ReasonTampered {
			t.Errorf("second removal: allows %v, %s %s; want it revoked", s.Allows(group), d.State, d.EndReason)
		}
	})
}

// What the reconciler does at a place for nobody's sake is said in the log as it was: a rule in our name without a grant is removed, not
// "written again", and a deny that has to stand before somebody's new rule is seen to move.
func TestStraysAreRecorded(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		add := func(name string, priority int) {
			if err := s.Sim.Edit(group, func(m map[string]any) error {
				p := m["properties"].(map[string]any)
				p["securityRules"] = append(p["securityRules"].([]any), map[string]any{"name": name, "properties": map[string]any{"priority": priority,
					"direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22",
					"sourceAddressPrefix": "*", "destinationAddressPrefix": "*"}})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		add("curfew-allow-test01-zzzz-20990101T000000Z", 310)
		add("hand", 200)
		time.Sleep(40 * time.Second)
		if n := s.Allows(group); len(n) != 0 {
			t.Errorf("left %v", n)
		}
		var said []string
		for _, e := range s.Log() {
			if e.Object == group {
				said = append(said, e.Action+": "+e.Message)
			}
		}
		all := strings.Join(said, "\n")
		if !strings.Contains(all, "drift.repair: curfew-allow-test01-zzzz-20990101T000000Z stood in web-01-nsg and belongs to no grant") ||
			!strings.Contains(all, "rule.rewrite: curfew-deny-test01-tcp-22 in web-01-nsg was written again at priority 199") || strings.Contains(all, "zzzz-20990101T000000Z in web-01-nsg; it was written again") {
			t.Errorf("the log says\n%s", all)
		}
	})
}

// P1, P2: each fault of Azure on opening and on closing. Whatever happens, the port is shut soon after its end.
func TestFaults(t *testing.T) {
	faults := map[string]sim.Fault{
		"500":               {Kind: "error", Status: 500, Count: 3},
		"503":               {Kind: "error", Status: 503, Count: 3},
		"409":               {Kind: "error", Status: 409, Count: 2},
		"401":               {Kind: "error", Status: 401, Count: 2},
		"403":               {Kind: "error", Status: 403, Count: 2},
		"412":               {Kind: "error", Status: 412, Count: 5},
		"throttled":         {Kind: "throttle", RetryAfter: 7 * time.Second, Count: 2},
		"another-operation": {Kind: "another-operation", Count: 3},
		"superseded":        {Kind: "superseded", Count: 1},
		"operation-failed":  {Kind: "operation-failed", Count: 2},
		"lost-reply":        {Kind: "lost-reply", Count: 1},
		"lost-request":      {Kind: "lost-request", Count: 2},
		"truncated":         {Kind: "truncated", Count: 2},
		"not-json":          {Kind: "not-json", Count: 2},
		"operation-stuck":   {Kind: "operation-stuck", Delay: 40 * time.Second, Count: 1},
		"slow":              {Kind: "slow", Delay: 20 * time.Second, Count: 1},
		"late":              {Kind: "late", Delay: 15 * time.Second, Count: 1},
		"stale-read":        {Kind: "stale-read", Count: 3},
	}
	for name, f := range faults {
		f.PathPattern = "/networkSecurityGroups/[^/]+$"
		f.Method = "PUT"
		if f.Kind == "stale-read" {
			f.Method = "GET"
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, bt.Options{OpDelay: 500 * time.Millisecond}, func(t *testing.T, s *bt.Stack) {
				s.Protect("web-01")
				group := s.Machine("web-01").NSGs()[0]
				if _, err := s.Sim.Fault(f); err != nil {
					t.Fatal(err)
				}
				g := s.Open(bt.Requester, "web-01", 5*time.Minute)
				if !g.EndsAt.Equal(g.StartsAt.Add(5 * time.Minute)) {
					t.Errorf("a retry moved the window: %s to %s", g.StartsAt, g.EndsAt)
				}
				s.Sim.ClearFaults()
				if _, err := s.Sim.Fault(f); err != nil {
					t.Fatal(err)
				}
				old := g.EndsAt
				r, err := s.Broker.Extend(t.Context(), bt.Requester, g.ID, 5*time.Minute, "", "")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(old) + time.Second)
				g = s.Grant(g.ID)
				if n := s.Allows(group); len(n) != 1 || !g.Ready() || g.Drifted || !strings.Contains(n[0], g.EndsAt.Format("20060102T150405Z")) {
					t.Errorf("extended to %s: allows %v, ready %t, drifted %t", g.EndsAt, n, g.Ready(), g.Drifted)
				}
				s.Sim.ClearFaults()
				time.Sleep(time.Until(g.EndsAt) - time.Second)
				if _, err := s.Sim.Fault(f); err != nil {
					t.Fatal(err)
				}
				g = s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
				if n := s.Allows(group); len(n) != 0 || g.State != access.Ended {
					t.Errorf("after the end: %s, allows %v", g.State, n)
				}
				time.Sleep(35 * time.Second) // what was delivered late is gone within a sweep (P1)
				if n := s.Allows(group); len(n) != 0 {
					t.Errorf("a sweep later there is %v", n)
				}
			})
		})
	}
}

// A locked group alerts and is retried; closing falls back to single deletes; after the lock is gone it is shut.
func TestLockedGroup(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		g := s.Open(bt.Requester, "web-01", 5*time.Minute)
		lock := group + "/providers/Microsoft.Authorization/locks/freeze"
		err := s.Sim.Edit(lock, func(m map[string]any) error {
			m["properties"] = map[string]any{"level": "ReadOnly"}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(g.EndsAt) + time.Minute)
		g = s.Grant(g.ID)
		if g.State != access.CloseFailed && g.State != access.Closing || g.LastError == "" || !s.Has("grant.shut", audit.Failed, string(g.ID)) {
			t.Errorf("under a lock: %s %q; want close_failed with the reason, and an entry", g.State, g.LastError)
		}
		if err := s.Sim.Delete(lock); err != nil {
			t.Fatal(err)
		}
		g = s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		if g.State != access.Ended || len(s.Allows(group)) != 0 {
			t.Errorf("after the lock: %s %v", g.State, s.Allows(group))
		}
	})
}

// The machine under a live grant goes, is re-created, loses its address to another, or has its group swapped or taken away.
func TestTargetChanges(t *testing.T) {
	t.Run("deleted", func(t *testing.T) {
		bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
			s.Protect("web-01")
			m := s.Machine("web-01")
			g := s.Open(bt.Requester, "web-01", time.Hour)
			if err := s.Sim.Delete(m.ID); err != nil {
				t.Fatal(err)
			}
			time.Sleep(45 * time.Second)
			if g = s.Grant(g.ID); g.State != access.Revoked || g.EndReason != access.ReasonTargetGone || len(s.Allows(m.NSGs()[0])) != 0 {
				t.Errorf("got %s %s, allows %v", g.State, g.EndReason, s.Allows(m.NSGs()[0]))
			}
		})
	})
	t.Run("re-created", func(t *testing.T) {
		bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
			s.Protect("web-01")
			m := s.Machine("web-01")
			g := s.Open(bt.Requester, "web-01", time.Hour)
			err := s.Sim.Edit(m.ID, func(b map[string]any) error {
				b["properties"].(map[string]any)["vmId"] = "99999999-9999-9999-9999-999999999999"
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(45 * time.Second)
			if g = s.Grant(g.ID); g.State != access.Revoked || g.EndReason != access.ReasonTargetChanged || len(s.Allows(m.NSGs()[0])) != 0 {
				t.Errorf("got %s %s, allows %v", g.State, g.EndReason, s.Allows(m.NSGs()[0]))
			}
		})
	})
	t.Run("address moved", func(t *testing.T) {
		bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
			s.Protect("web-01")
			m := s.Machine("web-01")
			old := m.Endpoints[0].Addrs[0].String()
			g := s.Open(bt.Requester, "web-01", time.Hour)
			err := s.Sim.Edit(m.Endpoints[0].NIC, func(b map[string]any) error {
				c := b["properties"].(map[string]any)["ipConfigurations"].([]any)[0].(map[string]any)
				c["properties"].(map[string]any)["privateIPAddress"] = "10.10.1.99"
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(45 * time.Second)
			for name, r := range s.Rules(m.NSGs()[0]) {
				if strings.HasPrefix(name, "curfew-") {
					if txt := fmt.Sprint(r.Properties); strings.Contains(txt, old+" ") || strings.Contains(txt, old+"/") || !strings.Contains(txt, "10.10.1.99") {
						t.Errorf("%s still names %s: %v", name, old, r.Properties)
					}
				}
			}
			if g = s.Grant(g.ID); g.State != access.Active {
				t.Errorf("got %s", g.State)
			}
		})
	})
	t.Run("group swapped", func(t *testing.T) {
		estate, _, nic := shared()
		bubble(t, bt.Options{Estate: estate}, func(t *testing.T, s *bt.Stack) {
			s.Protect("b")
			g := s.Open(bt.Requester, "b", time.Hour)
			other := strings.Replace(nic, "b-nsg", "other-nsg", 1)
			err := s.Sim.Edit(other, func(b map[string]any) error {
				b["location"] = "westeurope"
				b["properties"] = map[string]any{"securityRules": []any{}}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			err = s.Sim.Edit(s.Machine("b").Endpoints[0].NIC, func(b map[string]any) error {
				b["properties"].(map[string]any)["networkSecurityGroup"] = map[string]any{"id": other}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(70 * time.Second)
			if g = s.Grant(g.ID); g.State != access.Active || !g.Ready() || len(s.Allows(other)) != 1 || len(s.Allows(nic)) != 0 {
				t.Errorf("got %s ready %t, allows in the new group %v, in the old one %v", g.State, g.Ready(), s.Allows(other), s.Allows(nic))
			}
		})
	})
	t.Run("group gone", func(t *testing.T) {
		bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
			s.Protect("web-01")
			m := s.Machine("web-01")
			g := s.Open(bt.Requester, "web-01", 10*time.Minute)
			err := s.Sim.Edit(m.Endpoints[0].NIC, func(b map[string]any) error {
				delete(b["properties"].(map[string]any), "networkSecurityGroup")
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Sim.Delete(m.NSGs()[0]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(70 * time.Second)
			if p := s.Broker.Protections(); len(p) != 1 || p[0].State != access.ProtectionFailed {
				t.Errorf("protections %+v, want it said that nothing keeps the port shut (P4)", p)
			}
			time.Sleep(10 * time.Minute)
			if g = s.Grant(g.ID); g.State != access.Ended {
				t.Errorf("got %s %s", g.State, g.LastError)
			}
		})
	})
}

// A future start opens then, not before; what was due while nobody was there to open it, and is long past, fails and opens nothing.
func TestScheduled(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		at := time.Now().Add(time.Hour)
		r, err := s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: 10 * time.Minute, Reason: "later", StartAt: at})
		if err != nil {
			t.Fatal(err)
		}
		if r, err = s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		if len(s.Allows(group)) != 0 || s.Grant(r.Grants[0]).State != access.Scheduled {
			t.Error("open before its start")
		}
		time.Sleep(2 * time.Minute)
		if g := s.Grant(r.Grants[0]); !g.Ready() || g.StartsAt.Before(at) || g.StartsAt.Sub(at) > 2*time.Second {
			t.Errorf("at its start: %+v", g)
		}
	})
}

// An opening that cannot be done for ten minutes has failed, and leaves nothing open even though the group can be written later.
func TestActivationFails(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		if _, err := s.Sim.Fault(sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", Method: "PUT", PathPattern: "networkSecurityGroups"}); err != nil {
			t.Fatal(err)
		}
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		r, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Minute)
		g := s.Grant(r.Grants[0])
		if g.State != access.ActivationFailed || g.LastError == "" {
			t.Errorf("got %s %q, want activation_failed with the reason", g.State, g.LastError)
		}
		s.Sim.ClearFaults()
		time.Sleep(2 * time.Minute)
		if n := s.Allows(group); len(n) != 0 {
			t.Errorf("open after it failed: %v", n)
		}
	})
}

// The clock moved back: nothing is lengthened, nothing new opens; moved far forward: what is over is shut.
func TestClockMoves(t *testing.T) {
	for _, c := range []struct {
		name string
		jump time.Duration
	}{{"forward", 48 * time.Hour}, {"back", -48 * time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			clk := &jumping{}
			bubble(t, bt.Options{Clock: clk}, func(t *testing.T, s *bt.Stack) {
				s.Protect("web-01")
				group := s.Machine("web-01").NSGs()[0]
				g := s.Open(bt.Requester, "web-01", 30*time.Minute)
				clk.offset.Store(int64(c.jump))
				time.Sleep(10 * time.Second)
				if c.jump > 0 {
					if len(s.Allows(group)) != 0 || s.Grant(g.ID).State != access.Ended {
						t.Errorf("got %s %v", s.Grant(g.ID).State, s.Allows(group))
					}
					return
				}
				r := s.Ask(bt.Requester2, "web-01", 30*time.Minute)
				if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); access.CodeOf(err) != access.CodeHeld {
					t.Errorf("approved while the clock is back: got %v, want held", err)
				}
				time.Sleep(time.Minute)
				if n := s.Allows(group); len(n) != 1 || s.Broker.Hold() == "" {
					t.Errorf("hold %q, allows %v; want nothing new to open while the clock is back", s.Broker.Hold(), n)
				}
				time.Sleep(30 * time.Minute)
				if len(s.Allows(group)) != 0 || s.Grant(g.ID).State != access.Ended {
					t.Errorf("the clock that went back lengthened the grant: %s %v", s.Grant(g.ID).State, s.Allows(group))
				}
			})
		})
	}
}

// jumping is the bubble's clock with an offset that jumps.
type jumping struct{ offset atomic.Int64 }

func (j *jumping) Now() time.Time {
	return time.Now().UTC().Add(time.Duration(j.offset.Load())).Round(0)
}
func (j *jumping) After(d time.Duration) <-chan time.Time { return time.After(d) }

// 500 grants approved together on one group need few writes, and nobody gets what was not approved.
func TestGathered(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("nsg", estates.Allow("allow-https", 200, "443", "Internet"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24", NSG: group})
	var vms []string
	for i := range 10 {
		vms = append(vms, fmt.Sprintf("vm-%02d", i))
		e.VM(vms[i], estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.1.0.%d", 10+i)})
	}
	bubble(t, bt.Options{Estate: e.JSON(), OpDelay: 2 * time.Second}, func(t *testing.T, s *bt.Stack) {
		if _, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: vms}); err != nil {
			t.Fatal(err)
		}
		var ids []access.RequestID
		for i := range 50 {
			r, err := s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: vms, Duration: time.Hour, Reason: "together", Source: fmt.Sprintf("203.0.113.%d", 20+i)})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.ID)
		}
		before := s.Sim.Writes(group)
		var grants []access.GrantID
		for _, id := range ids {
			r, err := s.Broker.Approve(t.Context(), bt.Approver, id, broker.ReviewInput{})
			if err != nil {
				t.Fatal(err)
			}
			grants = append(grants, r.Grants...)
		}
		for _, id := range grants {
			s.WaitGrant(id, func(g access.Grant) bool { return g.Ready() })
		}
		if n := s.Sim.Writes(group) - before; n > 5 || len(grants) != 500 {
			t.Errorf("%d grants took %d writes, want at most 5", len(grants), n)
		}
		time.Sleep(time.Hour + 10*time.Second)
		if n := s.Allows(group); len(n) != 0 {
			t.Errorf("%d rules are left after the end", len(n))
		}
		if !slices.ContainsFunc(s.Log(), func(e audit.Entry) bool { return e.Action == "grant.shut" && e.Outcome == audit.Done }) {
			t.Error("no closing in the log")
		}
	})
}

// P1: an opening that waits, here because Azure is throttling, is not sent for a grant that was revoked meanwhile.
func TestRevokedWhileWaiting(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		group := s.Machine("web-01").NSGs()[0]
		if _, err := s.Sim.Fault(sim.Fault{Kind: "throttle", RetryAfter: 20 * time.Second, Count: 1, Method: "PUT", PathPattern: "networkSecurityGroups"}); err != nil {
			t.Fatal(err)
		}
		r := s.Ask(bt.Requester, "web-01", time.Hour)
		r, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		before := s.Sim.Writes(group)
		if _, err := s.Broker.Revoke(t.Context(), bt.Admin, r.Grants[0], "changed my mind"); err != nil {
			t.Fatal(err)
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if n := s.Allows(group); len(n) > 0 {
				t.Fatalf("it was opened after it was revoked: %v", n)
			}
		}
		if g := s.Grant(r.Grants[0]); g.State != access.Revoked {
			t.Errorf("got %s", g.State)
		}
		if n := s.Sim.Writes(group) - before; n != 0 {
			t.Errorf("%d writes for a grant that was never open", n)
		}
	})
}

// P9: an opening that takes long on one group, and others that wait for their turn, do not hold up a closing.
func TestClosingPassesOpenings(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	groups := map[string]string{}
	for i, vm := range []string{"a", "b", "c"} {
		groups[vm] = e.NSG(vm + "-nsg")
		e.VM(vm, estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.1.0.%d", 4+i), NSG: groups[vm]})
	}
	bubble(t, bt.Options{Estate: e.JSON(), Openers: 1}, func(t *testing.T, s *bt.Stack) {
		for vm := range groups {
			s.Protect(vm)
		}
		g := s.Open(bt.Requester, "b", time.Hour)
		s.Sim.SetOperationDelay(40 * time.Second)
		for _, vm := range []string{"a", "c"} {
			r := s.Ask(bt.Requester, vm, time.Hour)
			if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		if n := s.Sim.Writes(groups["a"]) + s.Sim.Writes(groups["c"]); n != 3 {
			t.Fatalf("%d writes to the two groups, want their protections and one opening under way", n)
		}
		before := s.Sim.Writes(groups["b"])
		if _, err := s.Broker.Close(t.Context(), bt.Requester, g.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s.Sim.Writes(groups["b"]) == before {
			t.Error("the closing waits behind openings")
		}
	})
}

// A data directory that was put back whole, its head file with it, carries no mark of that; Azure tells. Nothing opens and no shield
// goes until an admin confirms; closing goes on.
func TestWholeDirectoryRestored(t *testing.T) {
	cases := map[string]func(t *testing.T, s *bt.Stack, g access.Grant){
		"grant revoked since": func(t *testing.T, s *bt.Stack, g access.Grant) {
			if _, err := s.Broker.Revoke(t.Context(), bt.Admin, g.ID, ""); err != nil {
				t.Fatal(err)
			}
			s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		},
		"grant opened since": func(t *testing.T, s *bt.Stack, _ access.Grant) { s.Open(bt.Requester2, "b", time.Hour) },
		"machine protected since": func(t *testing.T, s *bt.Stack, _ access.Grant) {
			s.Protect("a")
		},
	}
	for name, since := range cases {
		t.Run(name, func(t *testing.T) {
			estate, sub, nic := shared()
			dir, backup := t.TempDir(), t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				az, err := sim.New(sim.Config{Estate: estate})
				if err != nil {
					t.Fatal(err)
				}
				s := bt.New(t, bt.Options{Sim: az, Dir: dir})
				s.Protect("b")
				g := s.Open(bt.Requester, "b", 30*time.Minute)
				s.Stop()
				if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				s = bt.New(t, bt.Options{Sim: az, Dir: dir})
				time.Sleep(5 * time.Second)
				if h := s.Broker.Hold(); h != "" {
					t.Fatalf("an ordinary restart is on hold: %s", h)
				}
				since(t, s, g)
				s.Stop()
				allows, denies := len(s.Allows(sub))+len(s.Allows(nic)), denyText(s, sub)
				s = bt.New(t, bt.Options{Sim: az, Dir: backup})
				defer s.Stop()
				time.Sleep(2 * time.Minute)
				if s.Broker.Hold() == "" {
					t.Error("no hold")
				}
				if n := len(s.Allows(sub)) + len(s.Allows(nic)); n > allows {
					t.Errorf("%d allows stand, there were %d before the backup was put back", n, allows)
				}
				if d := denyText(s, sub); d != denies {
					t.Errorf("the shields became %s, they were %s", d, denies)
				}
				time.Sleep(30 * time.Minute)
				if s.Grant(g.ID).State != access.Ended {
					t.Errorf("closing does not go on under hold: %s", s.Grant(g.ID).State)
				}
				if err := s.Broker.Resume(t.Context(), bt.Admin, "looked"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if h := s.Broker.Hold(); h != "" {
					t.Errorf("after resume: %s", h)
				}
				if t.Failed() {
					t.Log("\n" + s.Dump())
				}
			})
		})
	}
}

func denyText(s *bt.Stack, group string) string {
	var out []string
	for name, r := range s.Rules(group) {
		if strings.HasPrefix(name, "curfew-deny-") {
			out = append(out, fmt.Sprint(name, r.Properties["destinationAddressPrefix"], r.Properties["destinationAddressPrefixes"]))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

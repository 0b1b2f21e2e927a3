package reconcile_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// cramped is a machine whose deny must come before a rule at priority 104: three priorities are left for its grants, which therefore
// share rules.
func cramped() []byte {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	id := e.NSG("b-nsg", estates.Allow("allow-ssh", 104, "22", "Internet"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	e.VM("b", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.5", PublicIP: "198.51.100.5", NSG: id})
	return e.JSON()
}

// lets tells, for each source, whether an allow of ours in the group names it, and until when its name says so.
func lets(s *bt.Stack, group string, source string) (until time.Time) {
	for name, r := range s.Rules(group) {
		if !strings.HasPrefix(name, "curfew-allow-") {
			continue
		}
		from := fmt.Sprint(r.Properties["sourceAddressPrefix"], r.Properties["sourceAddressPrefixes"])
		if end, err := time.Parse("20060102T150405Z", name[strings.LastIndex(name, "-")+1:]); err == nil && strings.Contains(strings.NewReplacer("[", " ", "]", " ").Replace(" "+from+" "), " "+source+" ") && end.After(until) {
			until = end
		}
	}
	return until
}

// P2, P5: a server dies after an extension was stored and before it was written. What stands with the earlier end is neither drift nor the
// sign of a restored backup: it is kept until that end, or until the new one is written.
func TestKilledBeforeExtensionIsWritten(t *testing.T) {
	twoGroups, _, _ := shared()
	type third struct {
		name   string
		estate []byte
		others []access.Caller // have grants with the same end beside the one that is extended
		down   time.Duration   // no server runs for so long
		hold   bool            // openings are on hold when it starts again
	}
	var cases []third
	for _, hold := range []bool{false, true} {
		for _, down := range []time.Duration{5 * time.Second, 40 * time.Minute} {
			word := fmt.Sprintf("%s down", access.Duration(down))
			if hold {
				word += ", on hold"
			}
			cases = append(cases, third{"a rule of its own, " + word, twoGroups, nil, down, hold})
			cases = append(cases, third{"a shared rule, " + word, cramped(), []access.Caller{bt.Requester2, bt.Both, bt.Both3}, down, hold})
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				az, err := sim.New(sim.Config{Estate: c.estate, OperationDelay: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				s := bt.New(t, bt.Options{Sim: az, Dir: dir})
				s.Protect("b")
				groups := s.Machine("b").NSGs()
				var reqs []access.RequestID
				for _, who := range append([]access.Caller{bt.Requester}, c.others...) {
					who.Roles = append(slices.Clone(who.Roles), access.Requester)
					reqs = append(reqs, s.Ask(who, "b", 30*time.Minute).ID)
				}
				var ids []access.GrantID
				for _, id := range reqs {
					r, err := s.Broker.Approve(t.Context(), bt.Approver, id, broker.ReviewInput{})
					if err != nil {
						t.Fatal(err)
					}
					ids = append(ids, r.Grants...)
				}
				for _, id := range ids {
					s.WaitGrant(id, func(g access.Grant) bool { return g.Ready() })
				}
				time.Sleep(10 * time.Second)
				if n := len(s.Allows(groups[0])); n != 1 {
					t.Fatalf("%d rules stand for %d grants, the test wants one", n, len(ids))
				}
				// The one that the shared rule is not named by.
				slices.Sort(ids)
				id := ids[len(ids)-1]
				was := s.Grant(id)
				source := was.Source.Addr().String()
				s.Stop()

				s = bt.New(t, bt.Options{Sim: az, Dir: dir, NoStart: true}) // nothing of this one reaches Azure
				owner := access.Caller{Name: was.Requester, Roles: []access.Role{access.Requester}, Address: was.Source.Addr()}
				r, err := s.Broker.Extend(t.Context(), owner, id, 2*time.Hour, "", "")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
					t.Fatal(err)
				}
				if c.hold {
					if err := s.Broker.PutOnHold(context.Background(), "the test says so"); err != nil {
						t.Fatal(err)
					}
				}
				s.Stop()
				time.Sleep(c.down)

				before := az.Writes(groups[0])
				s = bt.New(t, bt.Options{Sim: az, Dir: dir})
				defer s.Stop()
				defer func() {
					if t.Failed() {
						t.Log("\n" + s.Dump())
					}
				}()
				now := s.Grant(id)
				if want := was.EndsAt.Add(2 * time.Hour); !now.EndsAt.Equal(want) {
					t.Fatalf("the grant ends at %s, want %s", now.EndsAt, want)
				}
				// While its first end is not over, it stands in every group, whatever else happens.
				for time.Until(was.EndsAt) > 2*time.Minute {
					for _, g := range groups {
						if lets(s, g, source).IsZero() {
							t.Fatalf("P5: %s into the new server's life %s has no rule of %s", time.Since(was.EndsAt), g, id)
						}
					}
					time.Sleep(500 * time.Millisecond)
				}
				h := s.Broker.Hold()
				if !c.hold && h != "" {
					t.Errorf("on hold: %s", h)
				}
				if c.hold {
					if time.Now().Before(was.EndsAt) {
						if n := az.Writes(groups[0]); n != before {
							t.Errorf("%d writes while nothing may open and nothing is over", n-before)
						}
						time.Sleep(time.Until(was.EndsAt))
					}
					time.Sleep(40 * time.Second)
					for _, g := range groups {
						if n := s.Allows(g); len(n) > 0 {
							t.Errorf("P1, P2: on hold, and past the end that was written, there stands %v", n)
						}
					}
					if err := s.Broker.Resume(t.Context(), bt.Admin, ""); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(40 * time.Second)
				for _, g := range groups {
					if got := lets(s, g, source); !got.Equal(now.EndsAt) {
						t.Errorf("the rule in %s stands until %s, want %s", g, got, now.EndsAt)
					}
				}
				if g := s.Grant(id); g.State != access.Active || !g.Ready() || g.Drifted {
					t.Errorf("the grant is %+v", g)
				}
				time.Sleep(time.Until(now.EndsAt) + 10*time.Second)
				for _, g := range groups {
					if n := s.Allows(g); len(n) > 0 {
						t.Errorf("P2: after the end there is %v", n)
					}
				}
			})
		})
	}
}

// P2, P5: on hold, one of several grants in one rule is revoked: it goes, and the others go on.
func TestRevokedFromSharedRuleOnHold(t *testing.T) {
	bubble(t, bt.Options{Estate: cramped()}, func(t *testing.T, s *bt.Stack) {
		s.Protect("b")
		group := s.Machine("b").NSGs()[0]
		var reqs []access.RequestID
		people := []access.Caller{bt.Requester, bt.Requester2, bt.Both, bt.Both3}
		for _, who := range people {
			who.Roles = append(slices.Clone(who.Roles), access.Requester)
			reqs = append(reqs, s.Ask(who, "b", 30*time.Minute).ID)
		}
		var ids []access.GrantID
		for _, id := range reqs {
			r, err := s.Broker.Approve(t.Context(), bt.Approver, id, broker.ReviewInput{})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.Grants...)
		}
		for _, id := range ids {
			s.WaitGrant(id, func(g access.Grant) bool { return g.Ready() })
		}
		if err := s.Broker.PutOnHold(t.Context(), "the test says so"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Broker.Revoke(t.Context(), bt.Admin, ids[1], ""); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(time.Second)
			for i, who := range people {
				if stands := !lets(s, group, who.Address.String()).IsZero(); i != 1 && !stands {
					t.Fatalf("the rule of %s is gone", who.Name)
				} else if i == 1 && stands && s.Grant(ids[1]).State.Final() {
					t.Fatal("the one that was revoked stands")
				}
			}
		}
		if g := s.Grant(ids[1]); g.State != access.Revoked {
			t.Errorf("the one that was revoked is %s", g.State)
		}
	})
}

package reconcile_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// P9: a group whose opening waits behind many others is worked on at once when something there has to go.
func TestClosingPassesTheWaitingOpening(t *testing.T) {
	const machines = 120 // more than may be opened at once, so that some wait for long
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/16"})
	groups := map[string]string{}
	var vms []string
	for i := range machines {
		name := fmt.Sprintf("vm-%03d", i)
		groups[name] = e.NSG(name + "-nsg")
		e.VM(name, estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.1.1.%d", 4+i), NSG: groups[name]})
		vms = append(vms, name)
	}
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		for _, vm := range vms {
			s.Protect(vm)
		}
		ends := map[access.GrantID]time.Time{}
		for _, vm := range vms[machines-20:] {
			g := s.Open(bt.Requester, vm, 10*time.Minute)
			ends[g.ID] = g.EndsAt
		}
		var first time.Time
		for _, end := range ends {
			if first.IsZero() || end.Before(first) {
				first = end
			}
		}
		time.Sleep(time.Until(first) - 3*time.Second)
		s.Sim.SetOperationDelay(40 * time.Second) // every slot is taken for long
		if _, err := s.Sim.Fault(sim.Fault{Kind: "slow", PathPattern: "/networkSecurityGroups/", Method: "GET", Delay: 300 * time.Millisecond, Count: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		for _, vm := range vms {
			r := s.Ask(bt.Requester2, vm, time.Hour)
			if _, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5*time.Minute + time.Until(first))
		for id, end := range ends {
			g := s.Grant(id)
			if g.State != access.Ended {
				t.Errorf("%s is %s five minutes after its end", id, g.State)
			} else if d := g.EndedAt.Sub(end); d > 100*time.Second { // two writes of 40 s at the most
				t.Errorf("%s was seen shut %s after its end", id, d)
			}
		}
	})
}

package benchmarks_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// estate is machines behind groups of their own, spread over subscriptions. Every group has twenty rules of somebody else's.
type estate struct {
	body   []byte
	groups []string   // ids
	vms    [][]string // ids, by group
}

func newEstate(subscriptions, groups, vmsPerGroup int) estate {
	e := estates.New()
	out := estate{groups: make([]string, groups), vms: make([][]string, groups)}
	for s := range subscriptions {
		e.Subscription(fmt.Sprintf("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e%02d", s), fmt.Sprintf("sub-%d", s))
		e.Group("app", "westeurope")
		vnet := e.VNet("net", []string{"10.0.0.0/8"}, estates.Subnet{Name: "front", Prefix: "10.0.0.0/8"})
		for n := s; n < groups; n += subscriptions {
			var rules []estates.Rule
			for i := range 20 {
				rules = append(rules, estates.Rule{Name: fmt.Sprintf("app-%02d", i), Priority: 2000 + 10*i, Port: fmt.Sprint(8000 + i), Source: fmt.Sprintf("10.%d.0.0/16", i)})
			}
			id := e.NSG(fmt.Sprintf("nsg-%04d", n), rules...)
			out.groups[n] = id // neighbours are of different subscriptions, so that what comes in order loads them evenly
			var vms []string
			for k := range vmsPerGroup {
				vms = append(vms, e.VM(fmt.Sprintf("vm-%04d-%02d", n, k), estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.%d.%d.%d", 1+n/250, n%250, 4+k), NSG: id}))
			}
			out.vms[n] = vms
		}
	}
	out.body = e.JSON()
	return out
}

func (e estate) all() (vms []string) {
	for _, g := range e.vms {
		vms = append(vms, g...)
	}
	return vms
}

// person is a requester with an address of their own.
func person(n int) access.Caller {
	net := [2]string{"203.0.113", "198.51.100"}[n/250%2]
	return access.Caller{Name: fmt.Sprintf("person-%03d", n), Roles: []access.Role{access.Requester}, Address: netip.MustParseAddr(fmt.Sprintf("%s.%d", net, 1+n%250))}
}

// protect switches the protection of all machines on, for up to eight hours.
func protect(tb testing.TB, s *bt.Stack, vms []string) {
	tb.Helper()
	for len(vms) > 0 {
		n := min(50, len(vms))
		plan, err := s.Broker.Protect(tb.Context(), bt.Admin, broker.ProtectInput{VMs: vms[:n]})
		if err != nil || !plan.Applied {
			tb.Fatalf("protecting: %v %+v", err, plan.Problems)
		}
		vms = vms[n:]
	}
}

// ask makes a request; the caller approves it.
func ask(tb testing.TB, s *bt.Stack, who access.Caller, d time.Duration, vms ...string) access.RequestID {
	tb.Helper()
	r, err := s.Broker.CreateRequest(tb.Context(), who, broker.RequestInput{VMs: vms, Duration: d, Reason: "benchmark"})
	if err != nil {
		tb.Fatal(err)
	}
	return r.ID
}

func approve(tb testing.TB, s *bt.Stack, id access.RequestID) []access.GrantID {
	tb.Helper()
	r, err := s.Broker.Approve(tb.Context(), bt.Approver, id, broker.ReviewInput{})
	if err != nil {
		tb.Fatal(err)
	}
	return r.Grants
}

// until waits, on the stack's clock, until what is live is as asked.
func until(tb testing.TB, s *bt.Stack, limit time.Duration, what string, ok func([]access.Grant) bool) {
	tb.Helper()
	for start := time.Now(); !ok(s.Broker.Live()); time.Sleep(200 * time.Millisecond) {
		if time.Since(start) > limit {
			states := map[string]int{}
			for _, g := range s.Broker.Live() {
				states[fmt.Sprintf("%s ready=%t %s", g.State, g.Ready(), g.LastError)]++
			}
			tb.Fatalf("%s: not so after %s: %v", what, limit, states)
		}
	}
}

func allReady(n int) func([]access.Grant) bool {
	return func(gs []access.Grant) bool {
		if len(gs) != n {
			return false
		}
		for _, g := range gs {
			if !g.Ready() {
				return false
			}
		}
		return true
	}
}

// bubble runs fn on simulated time, inside a benchmark: waiting costs nothing there, and computing takes no time. synctest wants
// a test, and RunTests is how one is had without a second process, which the profiler would not see.
func bubble(b *testing.B, fn func(t *testing.T)) {
	b.Helper()
	ok := testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: b.Name(), F: func(t *testing.T) { synctest.Test(t, fn) }}})
	if !ok {
		b.FailNow()
	}
}

package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// P4: a rule's name proves nothing. An allow of somebody else's that is called like one of ours, and one of ours that lets in more
// than its grant, are exposures; a live grant and a named exemption are none.
func TestLookalikes(t *testing.T) {
	for _, c := range []struct{ name, source string }{
		{"curfew-allow-test01-hand", "*"},
		{"curfew-exempt-test01-Hand", "203.0.113.0/24"},
		{"curfew-allow-test01-zzzz-20990101T000000Z", "*"},
		{"curfew-exempt-test01-hand-tcp-22", "*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, bt.Options{NoStart: true}, func(t *testing.T, s *bt.Stack) {
				look := func() broker.VMInfo { return must[broker.VMInfo](t)(s.Broker.VM(t.Context(), bt.Admin, "web-01")) }
				reached := func(v broker.VMInfo) (out []string) {
					for _, e := range v.Exposures {
						if e.Ports == access.Port(22) {
							out = append(out, e.Rule)
						}
					}
					return out
				}
				group := s.Machine("web-01").NSGs()[0]
				if err := s.Sim.Edit(group, func(m map[string]any) error {
					p := m["properties"].(map[string]any)
					p["securityRules"] = append(p["securityRules"].([]any), map[string]any{"name": c.name, "properties": map[string]any{"priority": 100,
						"direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22",
						"sourceAddressPrefix": c.source, "destinationAddressPrefix": "*"}})
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if v := look(); !strings.Contains(strings.Join(reached(v), " "), c.name) {
					t.Errorf("not shown: %v", reached(v))
				}
			})
		})
	}
}

// P4: while a grant is open, and just after it was shut, the machine is protected all the same; once somebody widens the grant's rule
// it is not.
func TestGrantIsNoExposure(t *testing.T) {
	bubble(t, bt.Options{SweepEvery: time.Hour}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		state := func() string {
			v := must[broker.VMInfo](t)(s.Broker.VM(t.Context(), bt.Admin, "web-01"))
			return v.State
		}
		g := s.Open(bt.Requester, "web-01", time.Hour)
		if got := state(); got != "protected" {
			t.Errorf("while a grant is open: %s", got)
		}
		group := s.Machine("web-01").NSGs()[0]
		if err := s.Sim.Edit(group, func(m map[string]any) error {
			for _, r := range m["properties"].(map[string]any)["securityRules"].([]any) {
				if r := r.(map[string]any); strings.HasPrefix(r["name"].(string), "curfew-allow-") {
					r["properties"].(map[string]any)["sourceAddressPrefix"] = "*"
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != "ineffective" {
			t.Errorf("with the grant's rule open to everybody: %s", got)
		}
		if _, err := s.Broker.Close(t.Context(), bt.Requester, g.ID); err != nil {
			t.Fatal(err)
		}
		s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		synctest.Wait()
		for _, v := range must[[]broker.VMInfo](t)(s.Broker.VMs(t.Context(), bt.Admin, "web-01")) {
			if v.State != "protected" {
				t.Errorf("after it: %s %s", v.State, v.Why)
			}
		}
	})
}

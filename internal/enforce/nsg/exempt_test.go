package nsg_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
)

// An exemption that has no place before its deny is a problem of each machine that has it, by name and with the next step; with
// consent to the rule in the way every exemption stands (P8).
func TestExemptionWithoutPlace(t *testing.T) {
	vnet, bastion := access.Exemption{Name: "virtual-network", Source: "10.0.0.0/16"}, access.Exemption{Name: "bastion", Source: "10.1.250.0/26"}
	for early := 101; early < 105; early++ {
		for _, ex := range [][]access.Exemption{{vnet}, {vnet, bastion}} {
			rules := []azure.SecurityRule{foreign("ssh", early, "Allow", "Tcp", "*", "*", "22")}
			w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22", ex...), shield("web-02", "10.0.0.5", "22", ex...)}}
			lost := max(0, len(ex)-(early-101)) // one priority goes to the deny
			p := nsg.NewPlan(input(rules, w))
			for _, vm := range []string{"web-01", "web-02"} {
				var named []string
				for _, x := range p.Problems {
					if x.Exempt == "" || !strings.HasSuffix(x.VM, "/"+vm) {
						continue
					}
					named = append(named, x.Exempt)
					if x.Hint != "--replace-rule web-nsg/ssh" || !strings.Contains(x.Message, x.Exempt) {
						t.Errorf("rule at %d: problem %+v", early, x)
					}
				}
				if len(named) != lost {
					t.Errorf("rule at %d, %d exemptions: %s is told of %v, want %d\n%s", early, len(ex), vm, named, lost, dump(p.Rules))
				}
			}
			w.Consents = []string{"ssh"}
			p = nsg.NewPlan(input(rules, w))
			exempts := 0
			for _, r := range p.Rules {
				if h, ok := nsg.Parse(r.Name); ok && h.Kind == enforce.KindExempt && !strings.Contains(r.Name, "-rest-") {
					exempts++
				}
			}
			if len(p.Problems) > 0 || exempts != len(ex) || slices.ContainsFunc(p.Keep, func(k access.Replacement) bool { return k.Rule != "ssh" }) {
				t.Errorf("with consent, rule at %d: %d of %d exemptions, problems %+v\n%s", early, exempts, len(ex), p.Problems, dump(p.Rules))
			}
		}
	}
}

// A deny of curfew fix stops the rules of others, not a window: that stands before it, wherever it came to stand (P5). The deny of
// somebody else stays before.
func TestWindowsPassTheDenyOfFix(t *testing.T) {
	for name, before := range map[string]bool{"curfew-fix-deny-tcp-22": true, "curfew-fix-deny-tcp-22-n2": true, "their-deny": false} {
		rules := []azure.SecurityRule{foreign("https", 300, "Allow", "Tcp", "Internet", "*", "443"), foreign(name, 996, "Deny", "Tcp", "Internet", "*", "22"),
			foreign("ssh", 1000, "Allow", "Tcp", "Internet", "*", "22")}
		w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22", access.Exemption{Name: "virtual-network", Source: "10.0.0.0/16"}, access.Exemption{Name: "bastion", Source: "10.1.250.0/26"})}}
		p := nsg.NewPlan(input(rules, w)) // from 997 to 999: nothing is left behind the deny at 996
		for i := range 5 {
			w.Windows = append(w.Windows, window(fmt.Sprintf("aaaaaaaaa%d", i), "web-01", "10.0.0.4", "22", fmt.Sprintf("203.0.113.%d", 7+i), time.Duration(i+1)*time.Hour))
		}
		p = nsg.NewPlan(input(roundTrip(p.Rules), w))
		stand := 0
		for _, r := range p.Rules {
			if h, ok := nsg.Parse(r.Name); ok && h.Kind == enforce.KindAllow {
				if stand++; r.Priority < 996 != before {
					t.Errorf("%s: the window stands at %d", name, r.Priority)
				}
			}
		}
		if (stand == 5 && len(p.Problems) == 0) != before {
			t.Errorf("%s: %d of 5 windows stand, problems %+v\n%s", name, stand, p.Problems, dump(p.Rules))
		}
	}
}

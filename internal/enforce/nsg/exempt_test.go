package nsg_test

import (
	"slices"
	"strings"
	"testing"

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

// Package compliance says which controls of which frameworks a rule of the scanner speaks for. Azure's built-in policies carry the
// mapping: a rule names the policies that ask for the same (scan.Rule.Policies), and Azure's regulatory initiatives put each policy
// under controls. Nothing is claimed beyond that, so that a rule without a policy has no controls.
package compliance

import (
	"slices"
	"sync"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Framework is one built-in initiative of the public cloud.
type Framework struct {
	Name string // as findings name it
	Set  string // id of the policy set definition

	prefix   string // what the set puts before a control's number
	controls map[string][]string
}

// Frameworks lists all that are known, those too that map none of the rules. The slice is the caller's.
func Frameworks() []Framework { return slices.Clone(facts) }

// Group returns the name by which the policy set itself knows a control: what a compliance report of Azure shows.
func (f Framework) Group(control string) string { return f.prefix + control }

// Controls returns the controls of a policy definition, in the order of their numbers, nil where the framework does not map it.
func (f Framework) Controls(policy string) []string { return slices.Clone(f.controls[policy]) }

var byRule = sync.OnceValue(func() map[scan.RuleID][]scan.Control {
	out := map[scan.RuleID][]scan.Control{}
	for _, r := range scan.Rules {
		for _, f := range facts {
			has := map[string]bool{}
			for _, p := range r.Policies {
				for _, c := range f.controls[p] {
					if !has[c] {
						out[r.ID] = append(out[r.ID], scan.Control{Framework: f.Name, Control: c, Policy: p})
						has[c] = true
					}
				}
			}
		}
	}
	return out
})

// Of returns the controls of a rule, by framework and policy, each control once: with the first policy that carries it. It is nil for a
// rule that no policy asks for. The slice is shared by all findings: do not change it.
func Of(rule scan.RuleID) []scan.Control { return byRule()[rule] }

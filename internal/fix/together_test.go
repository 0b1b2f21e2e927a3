package fix_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/enforce"
	planner "github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// opens tells whether a window for a machine and an address of the Internet would stand in a group as it is now.
func (w *world) opens(group, ip string) bool {
	w.t.Helper()
	n, err := w.client().NSG(w.t.Context(), group)
	if err != nil {
		w.t.Fatal(err)
	}
	src, _ := access.ParseSource("203.0.113.7")
	vm := access.VM{ID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm", Name: "vm"}
	dst := prefixes(ip + "/32")[0].Addr()
	p := planner.NewPlan(planner.Input{Place: group, Rules: n.Rules, Installation: "local", Now: w.sim.Now(), Wanted: enforce.Wanted{Consents: []string{"early"}, KeepShields: true, Windows: []enforce.Window{{
		Grant: "g-aaaaaaaaaa", VM: vm, Destinations: []netip.Addr{dst}, Ports: access.Port(22), Protocol: access.TCP, Source: src, End: w.sim.Now().Add(time.Hour)}}}})
	return p.After.Windows["g-aaaaaaaaaa"]
}

// One rule that protect and the deny of a whole group both need narrowed, or that leaves too little room for both: one run with consent
// ends clean, a second writes nothing, a window can open afterwards, and all is given back (P3, P5, P8).
func TestProtectionAndGroupTogether(t *testing.T) {
	for _, early := range []int{100, 101, 103, 106} {
		for _, r := range []estates.Rule{{Source: "Internet", Ports: []string{"22", "443"}}, {Source: "*", Port: "22"}, {Source: "*", Port: "*"}} {
			e := shop()
			r.Name, r.Priority = "early", early
			g := e.NSG("web-nsg", r, estates.Allow("later", early+1, "8080", "10.0.0.0/8"))
			e.Bastion("bastion", subnet(e, "AzureBastionSubnet"), "198.51.100.250")
			for i, ip := range []string{"10.0.1.4", "10.0.1.5"} {
				e.VM([]string{"one", "two"}[i], estates.VM{Subnet: subnet(e, "web"), PrivateIP: ip, PublicIP: "198.51.100." + ip[7:], NSG: g})
			}
			w := newWorld(t, e.JSON())
			before := w.plain()
			rules := []scan.RuleID{scan.VMJITMissing, scan.VMPortExposed, scan.NSGRuleBroad}
			fs := w.scan(rules...)
			o := fix.Options{ReplaceRules: []string{"web-nsg/early"}}
			p, out := w.fix(fs, o)
			if !out.Complete() || len(p.Left) > 0 {
				t.Errorf("%d %v: plan %s\noutcome %s\nrules %s", early, r, show(p), show(out), w.rules(g))
				continue
			}
			if left := w.scan(append(rules, scan.VMJITIneffective)...); len(left) > 0 {
				t.Errorf("%d %v: afterwards %s", early, r, show(left))
			}
			if !w.opens(g, "10.0.1.4") {
				t.Errorf("%d %v: no window can open: %s", early, r, w.rules(g))
			}
			for _, s := range p.Steps { // what was said is what was written
				for _, line := range s.Writes {
					if name := named(line); name != "" && !strings.Contains(w.rules(g), name) && !strings.Contains(line, "set aside") {
						t.Errorf("%d %v: the plan says %q, rules are %s", early, r, line, w.rules(g))
					}
				}
			}
			if p, again := w.fix(fs, o); len(p.Steps) != 0 || again.Writes != 0 {
				t.Errorf("%d %v: a second run: %s", early, r, show(p))
			}
			if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Failed)+len(u.Kept) > 0 || w.plain() != before {
				t.Errorf("%d %v: undo: %v, %s\nrules %s", early, r, err, show(u), w.rules(g))
			}
		}
	}
}

// named is the rule that a line of a plan is about.
func named(line string) string {
	words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })
	if i := slices.Index(words, "rule"); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// The demo: with consent to one machine's rule, the others are not asked for it, and everything that can be put right is in one run.
func TestDemoWithConsent(t *testing.T) {
	w := newWorld(t, estates.Demo())
	fs := w.scan()
	o := fix.Options{ReplaceRules: []string{"web-03-nsg/allow-all-admin"}, Upgrade: true}
	p, out := w.fix(fs, o)
	for _, s := range out.Steps {
		if s.State != fix.StepDone {
			t.Errorf("%s: %s %s (%s)", s.Title, s.State, s.Error, s.Hint)
		}
	}
	left := map[string]bool{}
	for _, l := range p.Left {
		left[l.Finding] = true
		if strings.Contains(l.Why, "web-03") {
			t.Errorf("left: %+v", l)
		}
	}
	for _, l := range out.Open {
		if !left[l.Finding] {
			t.Errorf("open, and not said before: %+v", l)
		}
	}
	if p, again := w.fix(fs, o); again.Writes != 0 {
		t.Errorf("a second run writes: %s", show(p.Steps))
	}
}

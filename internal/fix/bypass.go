package fix

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// window is a rule that holds a port open for a time, or has done so and stands past its end. Protect cannot put its deny behind it, and
// before it would shut the window.
type window struct {
	nsg, rule string
	end       time.Time
	over      bool
}

// windows are the windows at a port of a machine.
func (b *builder) windows(vmID string, p scan.PortEvidence) []window {
	vm, ok := b.e.VM(vmID)
	if !ok {
		return nil
	}
	var addrs []netip.Prefix
	for _, ep := range vm.Endpoints {
		for _, a := range ep.Addrs {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	var out []window
	for _, id := range b.pathGroups(vmID) {
		n, ok := b.e.NSG(id)
		if !ok {
			continue
		}
		for i := range n.Rules {
			r := &n.Rules[i]
			if h := slices.IndexFunc(p.Open, func(h scan.Hold) bool { return strings.EqualFold(h.Rule, r.Name) }); h >= 0 {
				out = append(out, window{nsg: n.ID, rule: r.Name, end: p.Open[h].End})
			} else if b.overdue[azure.Key(n.ID)+"/"+strings.ToLower(r.Name)] && r.Overlaps(addrs, netsec.TCP, netsec.Port(p.Port), netsec.Env{}) {
				out = append(out, window{nsg: n.ID, rule: r.Name, over: true})
			}
		}
	}
	slices.SortStableFunc(out, func(x, y window) int { // what can be helped now comes last, and is what is said
		return slices.Index([]bool{false, true}, x.over) - slices.Index([]bool{false, true}, y.over)
	})
	return out
}

// overdueRules are the rules of Defender's that stand past their end, by group and name: findings say so.
func overdueRules(fresh map[string]scan.Finding) map[string]bool {
	out := map[string]bool{}
	for _, x := range fresh {
		if x.Rule != scan.RuleOverdue || x.Status != scan.Fail {
			continue
		}
		for _, r := range x.Evidence.Rules {
			if _, ours := enforce.ParseName(r.Rule); !ours {
				out[azure.Key(r.NSG)+"/"+strings.ToLower(r.Rule)] = true
			}
		}
	}
	return out
}

// bypass plans what shuts a port whose just-in-time access is bypassed, where protect is not to be asked: a deny to the Internet, behind the
// windows that are open. What it does not shut is left, by the rule that lets it in, and not by the window.
func (b *builder) bypass(ctx context.Context, x scan.Finding) {
	groups := b.pathGroups(x.Resource)
	for _, id := range groups {
		_, _, _ = b.group(ctx, id) // one that cannot be read is told by machine
	}
	told := len(b.plan.Left)
	b.machine(ctx, x)
	if len(b.plan.Left) > told {
		return
	}
	for _, p := range x.Evidence.Ports {
		by := b.letIn(x.Resource, p.Port)
		if len(by) == 0 {
			continue
		}
		why := fmt.Sprintf("%s, before the deny of just-in-time access", strings.Join(by, "; "))
		next := fmt.Sprintf("curfew protect %s --port %d", x.Resource, p.Port)
		if b.o.Backend == Defender {
			next = "narrow that rule, or let Curfew protect the machine: leave --backend defender out"
		}
		for _, w := range b.windows(x.Resource, p) {
			name := b.names.of(w.nsg) + "/" + w.rule
			switch s := b.steps[azure.Key(w.nsg)]; {
			case !w.over:
				why += fmt.Sprintf("; a deny for that would shut the window that %s holds open", name)
				next = "run fix again when that window is over, at " + w.end.UTC().Format("2006-01-02 15:04 UTC")
			case s != nil && s.removing[strings.ToLower(w.rule)]:
				next = fmt.Sprintf("run fix again: there is room for a deny when %s is removed", name)
			default:
				why += fmt.Sprintf("; %s, which is past its end, takes the place of a deny for that", name)
				next = fmt.Sprintf("first curfew fix --rule %s --remove-defender-rule %s, then run fix again", scan.RuleOverdue, name)
			}
		}
		b.left(x, next, "%s", why)
		return
	}
	for _, id := range groups { // nothing more than what is removed there let anybody in
		if s := b.steps[azure.Key(id)]; s != nil && len(s.removing) > 0 {
			s.finding(x.ID)
		}
	}
}

// letIn says who would still reach a port of a machine with all groups as they are to be, windows and exemptions aside, and by which rules.
func (b *builder) letIn(vmID string, port uint16) (out []string) {
	vm, ok := b.e.VM(vmID)
	if !ok {
		return nil
	}
	for _, w := range b.e.Ways(vm, netsec.TCP, port) {
		p := b.groups.path(w.Path)
		reach := p.Reachable(w.Dest, netsec.TCP, netsec.Port(port)).Except(func(pp *netsec.PathPiece) bool { return b.groups.passing(pp, true) })
		zone, from := &reach.Internet, ""
		if w.Kind == estate.VirtualNetwork {
			zone, from = &reach.VirtualNetwork, "the virtual network"
		}
		var by, narrow []string
		for _, pp := range zone.Open {
			for _, h := range pp.Hops {
				if pp.Access != netsec.Allow || h.Rule == nil || h.Rule.Default || h.GroupID == "" {
					continue
				}
				by = appendNew(by, fmt.Sprintf("%s/%s (priority %d)", b.groups.name(h.GroupID), h.Rule.Name, h.Rule.Priority))
				if g := b.groups[azure.Key(h.GroupID)]; g != nil {
					for _, r := range g.rules {
						if strings.EqualFold(r.Name, h.Rule.Name) {
							narrow = appendNew(narrow, sources(r))
						}
					}
				}
			}
		}
		if len(by) == 0 {
			continue
		}
		switch {
		case from != "":
		case reach.Exposed():
			from = "the Internet"
		default:
			from = strings.Join(narrow, " and ")
		}
		if from == "" { // an admin rule's, whose own words are not here
			for _, x := range zone.Allowed.Prefixes() {
				narrow = append(narrow, x.String())
			}
			from = list(append(narrow, zone.Tags...), 4)
		}
		lets := "lets"
		if len(by) > 1 {
			lets = "let"
		}
		out = appendNew(out, fmt.Sprintf("%s %s %s in to port %d of %s", strings.Join(by, " and "), lets, from, port, b.names.of(vmID)))
	}
	return out
}

// passing tells whether somebody gets in by a window that is open, or with exempt, by an exemption of a protection.
func (gs groups) passing(pp *netsec.PathPiece, exempt bool) bool {
	for _, h := range pp.Hops {
		if h.Rule == nil || h.Rule.Default {
			continue
		}
		g := gs[azure.Key(h.GroupID)]
		if g == nil {
			continue
		}
		for _, r := range g.rules {
			if strings.EqualFold(r.Name, h.Rule.Name) && (g.live(r) || exempt && exempts(r)) {
				return true
			}
		}
	}
	return false
}

// exempts tells whether a rule is an exemption of somebody, and not of everybody.
func exempts(r azure.SecurityRule) bool {
	h, ok := enforce.ParseName(r.Name)
	return ok && h.Kind == enforce.KindExempt && !slices.ContainsFunc(r.SourcePrefixes, func(s string) bool {
		p, ok := netsec.ParsePrefix(s)
		return strings.EqualFold(s, "Internet") || ok && p.Bits() == 0
	})
}

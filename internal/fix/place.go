package fix

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// obstacle is why a need cannot be met in a group.
type obstacle struct {
	why  string
	next string
}

// place adds to group key what shuts the need: a deny as late as it may stand, so that narrower allows before it go on. Nothing of
// others is renumbered or changed but what was consented to by name (P3), and no live window is put behind it.
func (gs groups) place(key string, n need) *obstacle {
	g := gs[key]
	if open, _, _ := gs.exposed(n); !open {
		return nil
	}
	if ok := gs.fit(key, n); ok {
		return nil
	}
	why := gs.why(key, n)
	before, spare := g.clone(), g.spare
	for _, g.spare = range g.spares() {
		narrowed, err := g.narrow(n)
		if err != nil {
			why = err
			continue
		}
		if narrowed == nil {
			break
		}
		g.become(narrowed)
		if gs.fit(key, n) {
			return nil
		}
		why = gs.why(key, n)
		g.become(before)
	}
	g.spare = spare
	return why
}

// fit looks for the latest priority at which a deny shuts the need, and takes it.
func (gs groups) fit(key string, n need) bool {
	g := gs[key]
	env := g.env(n)
	in := g.inbound()
	if len(g.rules) >= maxRules && !slices.ContainsFunc(g.rules, n.extendable) {
		return false
	}
	last := 0 // of the live windows at the address
	for _, r := range in {
		if g.live(r) && inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), env) {
			last = r.Priority
		}
	}
	for i := len(in) - 1; i >= 0; i-- {
		r := in[i]
		if !strings.EqualFold(r.Access, "Allow") || g.live(r) || !inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), env) {
			continue
		}
		at := 0 // the latest place between this rule and the allow before it: an own deny there, else a free priority
		used := map[int]bool{}
		low := minPriority - 1
		for j := i - 1; j >= 0; j-- {
			if at == 0 && n.extendable(in[j]) {
				at = in[j].Priority
			}
			used[in[j].Priority] = true
			if strings.EqualFold(in[j].Access, "Allow") && inventory.Rule(in[j]).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), env) {
				low = in[j].Priority
				break
			}
		}
		extends := at > 0
		for p := r.Priority - 1; at == 0 && p > low && p >= minPriority; p-- {
			if !used[p] && !g.reserved(p) {
				at = p
			}
		}
		if at == 0 || at <= last || !extends && !g.windowed(at) {
			continue
		}
		next, err := g.with(n, at)
		if err != nil {
			continue
		}
		before := g.clone()
		g.become(next)
		if open, _, _ := gs.exposed(n); open {
			g.become(before)
			continue
		}
		g.lose(n, in[i:], env)
		return true
	}
	return false
}

// windowed tells whether a deny may take a priority without taking the last one at which a window could ever open: where machines behind
// the group have just-in-time access, their windows stand before it (P5).
func (g *group) windowed(at int) bool {
	used, opens := map[int]bool{at: true}, g.spare > 0
	for _, r := range g.inbound() {
		used[r.Priority] = true
		h, ok := enforce.ParseName(r.Name)
		opens = opens || ok && h.Kind == enforce.KindDeny && r.Priority > at
	}
	for p, deny := range g.taken {
		used[p] = true
		opens = opens || deny && p > at
	}
	for p := minPriority; opens && p < at; p++ {
		if !used[p] {
			return true
		}
	}
	return !opens
}

func (g *group) reserved(p int) bool {
	_, ok := g.taken[p]
	return ok
}

// spares are the rooms that narrowing tries to leave before what it carries on, the least first.
func (g *group) spares() []int {
	if g.spare > 0 || len(g.taken) == 0 && !slices.ContainsFunc(g.rules, func(r azure.SecurityRule) bool {
		h, ok := enforce.ParseName(r.Name)
		return ok && h.Kind == enforce.KindDeny
	}) {
		return []int{g.spare}
	}
	n := len(g.taken)
	return []int{0, n + 20, n + 8, n + 1}
}

// lose notes who loses access to the need by a deny before these rules.
func (g *group) lose(n need, behind []azure.SecurityRule, env netsec.Env) {
	for _, r := range behind {
		if !strings.EqualFold(r.Access, "Allow") || !inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), env) || !fromOutside(r) {
			continue
		}
		by := fmt.Sprintf("%s (priority %d, from %s)", r.Name, r.Priority, sources(r))
		if carriesOn(r) { // what was narrowed is known by its own name
			by = fmt.Sprintf("%s (from %s)", r.Name[len(restPrefix):], sources(r))
		}
		words := fmt.Sprintf("whoever comes from the Internet to %s by rule %s", n.what, by)
		if !slices.Contains(g.gone, words) {
			g.gone = append(g.gone, words)
		}
	}
}

// fromOutside tells whether a rule may let in a public address.
func fromOutside(r azure.SecurityRule) bool {
	for _, s := range r.SourcePrefixes {
		p, ok := netsec.ParsePrefix(s)
		switch {
		case !ok && (strings.EqualFold(s, "VirtualNetwork") || strings.EqualFold(s, "AzureLoadBalancer")):
		case !ok, p.Bits() == 0, netsec.PublicSpace().OverlapsPrefix(p):
			return true
		}
	}
	return false
}

func (g *group) env(n need) netsec.Env {
	for _, c := range n.checks {
		for _, l := range []*netsec.Compiled{c.path.Subnet, c.path.NIC} {
			if l != nil && azure.EqualID(l.ID, g.read.ID) {
				return l.Env()
			}
		}
	}
	return netsec.Env{}
}

// offenders are the rules of the group by which the Internet gets in to the need.
func (gs groups) offenders(key string, n need) []azure.SecurityRule {
	g := gs[key]
	_, by, _ := gs.exposed(n)
	var out []azure.SecurityRule
	for _, ref := range by {
		for _, r := range g.rules {
			if azure.EqualID(ref.GroupID, g.read.ID) && strings.EqualFold(ref.Name, r.Name) && !ref.Default && strings.EqualFold(r.Access, "Allow") {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b azure.SecurityRule) int { return a.Priority - b.Priority })
	return out
}

// name is what a group is called, or the collection of a security admin rule.
func (gs groups) name(id string) string {
	if g := gs[azure.Key(id)]; g != nil {
		return g.name
	}
	return azure.IDName(id)
}

// why says what is in the way of shutting the need in the group.
func (gs groups) why(key string, n need) *obstacle {
	g := gs[key]
	nsg := g.name
	if len(g.rules) >= maxRules {
		return &obstacle{fmt.Sprintf("%s is full: it holds %d rules", nsg, len(g.rules)), "take out rules that are no longer needed"}
	}
	off := gs.offenders(key, n)
	if len(off) == 0 {
		_, by, way := gs.exposed(n)
		names := []string{}
		for _, r := range by {
			names = append(names, fmt.Sprintf("%s/%s (priority %d)", gs.name(r.GroupID), r.Name, r.Priority))
		}
		if len(names) == 0 {
			return &obstacle{fmt.Sprintf("%s is reached by %s, on which no rule of %s decides", n.what, way, nsg), "look at it with: curfew scan explain"}
		}
		return &obstacle{fmt.Sprintf("%s is let in by %s, which no rule of %s can overrule", n.what, strings.Join(names, ", "), nsg),
			"change that rule where it is kept: a security admin rule that always allows is asked before any network security group"}
	}
	for _, r := range g.inbound() {
		if g.live(r) && r.Priority > off[0].Priority && inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), g.env(n)) {
			again := "run fix again when its request is over"
			if h, ok := enforce.ParseName(r.Name); ok {
				again = "run fix again when it is over, at " + h.End.UTC().Format("2006-01-02 15:04 UTC")
			}
			return &obstacle{fmt.Sprintf("rule %s (priority %d) of %s holds a window open for a time, and a deny before %s (priority %d) would shut it", r.Name, r.Priority, nsg, off[0].Name, off[0].Priority), again}
		}
	}
	var names, flags []string
	for _, r := range off {
		if !g.consents[strings.ToLower(r.Name)] && !carriesOn(r) {
			names = append(names, fmt.Sprintf("%s (priority %d)", r.Name, r.Priority))
			flags = append(flags, fmt.Sprintf("--replace-rule %s/%s", nsg, r.Name))
		}
	}
	if len(names) == 0 {
		return &obstacle{fmt.Sprintf("%s lets the Internet in to %s, and there is no room behind it for what it also lets in", off[0].Name, n.what), "move the rules of " + nsg + " apart by hand, and run fix again"}
	}
	return &obstacle{fmt.Sprintf("in %s no priority from %d on is free before %s, which lets the Internet in to %s", nsg, minPriority, strings.Join(names, ", "), n.what),
		"consent to narrowing it: " + strings.Join(flags, " ") + " (what else it lets in goes on, and the original is kept in the undo file)"}
}

// narrow makes room before rules that were consented to: each gives up the port under its own priority, and goes on with all that it
// let in at a later one, before which a deny has room. It returns nil where nothing was consented to.
func (g *group) narrow(n need) (*group, *obstacle) {
	env, out, did := g.env(n), g.clone(), false
	for _, r := range g.inbound() {
		own := carriesOn(r)
		if !own && !g.consents[strings.ToLower(r.Name)] || !strings.EqualFold(r.Access, "Allow") || g.live(r) ||
			!inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), env) {
			continue
		}
		ports, err := without(r.DestinationPorts, n.port)
		if err != nil {
			return nil, &obstacle{fmt.Sprintf("rule %s cannot be narrowed: %v", r.Name, err), "change it by hand"}
		}
		carried := !own && slices.ContainsFunc(out.rules, func(x azure.SecurityRule) bool { return x.Description == restText && sameReach(x, r) })
		at, why := out.later(r, n)
		if why != nil && !carried {
			return nil, why
		}
		i := slices.IndexFunc(out.rules, func(x azure.SecurityRule) bool { return strings.EqualFold(x.Name, r.Name) })
		moved := r
		if own || len(ports) == 0 { // ours, or nothing is left under its priority: the rule itself stands later
			moved.Priority = at
		} else {
			moved.DestinationPorts = ports
			if !carried {
				rest := r
				rest.Name, rest.Priority, rest.Description, rest.Raw = g.freeName(restPrefix+r.Name), at, restText, nil
				out.rules = append(out.rules, rest)
			}
		}
		edited, err := moved.Edited()
		if err != nil {
			return nil, &obstacle{fmt.Sprintf("rule %s cannot be narrowed: %v", r.Name, err), "change it by hand"}
		}
		out.rules[i] = edited
		out.cache, did = nil, true
	}
	if !did {
		return nil, nil
	}
	return out, nil
}

// sameReach tells whether two rules let in the same sources to the same destinations.
func sameReach(a, b azure.SecurityRule) bool {
	return slices.Equal(a.SourcePrefixes, b.SourcePrefixes) && slices.Equal(a.DestinationPrefixes, b.DestinationPrefixes) && slices.Equal(a.SourceASGs, b.SourceASGs) &&
		slices.Equal(a.DestinationASGs, b.DestinationASGs) && strings.EqualFold(a.Protocol, b.Protocol)
}

// carriesOn tells whether a rule is one of ours that carries on a narrowed one: it is moved without anybody's consent.
func carriesOn(r azure.SecurityRule) bool {
	return strings.HasPrefix(strings.ToLower(r.Name), restPrefix) && r.Description == restText
}

// later finds the first free priority after a rule that has another free one before it, and as many as are to be spare, with no deny in between that would take
// something from it.
func (g *group) later(r azure.SecurityRule, n need) (int, *obstacle) {
	by := map[int]azure.SecurityRule{}
	for _, x := range g.inbound() {
		by[x.Priority] = x
	}
	free := 0
	for p := r.Priority + 1; p <= maxPriority; p++ {
		x, taken := by[p]
		if !taken && g.reserved(p) {
			continue
		}
		if !taken {
			if free++; free == 2+g.spare {
				return p, nil
			}
			continue
		}
		if !strings.EqualFold(x.Access, "Allow") && !strings.HasPrefix(strings.ToLower(x.Name), denyPrefix) && g.takes(x, r, n) {
			return 0, &obstacle{fmt.Sprintf("rule %s cannot be narrowed without loss: %s (priority %d) stands behind it, and would take from it what it lets in", r.Name, x.Name, x.Priority),
				"move the rules of " + g.name + " apart by hand, and run fix again"}
		}
	}
	return 0, &obstacle{fmt.Sprintf("no priority is free behind rule %s", r.Name), "move the rules of " + g.name + " apart by hand, and run fix again"}
}

// takes tells whether a deny would take something from a rule that is put behind it: the port, or of a rule that carries on another,
// anything that it holds.
func (g *group) takes(x, r azure.SecurityRule, n need) bool {
	ports := []string{strconv.Itoa(int(n.port))}
	if carriesOn(r) {
		ports = r.DestinationPorts
	}
	return slices.ContainsFunc(ports, func(t string) bool {
		p, err := netsec.ParsePortRange(t)
		return err != nil || inventory.Rule(x).Overlaps(everywhere, netsec.Any, p, g.env(n))
	})
}

// without takes a port out of port ranges.
func without(ranges []string, port uint16) ([]string, error) {
	var out []string
	for _, t := range ranges {
		r, err := netsec.ParsePortRange(t)
		if err != nil {
			return nil, err
		}
		if !r.Contains(port) {
			out = append(out, t)
			continue
		}
		if r.First < port {
			out = append(out, netsec.PortRange{First: r.First, Last: port - 1}.String())
		}
		if r.Last > port {
			out = append(out, netsec.PortRange{First: port + 1, Last: r.Last}.String())
		}
	}
	return out, nil
}

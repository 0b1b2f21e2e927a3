package fix

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// The names of rules that fix writes. They are outside the grammar of enforcement (curfew-allow-, -deny-, -exempt-), because nothing
// grants by them: no sweep, reconciler or unprotect takes them for its own.
const (
	denyPrefix = enforce.FixDenyPrefix
	restPrefix = "curfew-fix-rest-"

	denyText = "Written by curfew fix: the Internet does not reach this management port. The virtual network does."
	restText = "Written by curfew fix: carries on what a rule that was narrowed let in before, behind the deny."
)

// The least and greatest priority (FACTS 2.1), and how many addresses one side of a rule may hold (FACTS 2.4).
const (
	minPriority = 100
	maxPriority = 4096
	maxPrefixes = 4000
	maxRules    = 1000
)

// defenderAllow begins the names of rules that Defender writes for a request, now and before June 2023. FACTS 1.4.
var defenderAllow = []string{"microsoftdefenderforcloud-jitrule-", "securitycenter-jitrule-"}

func isDefenderAllow(r azure.SecurityRule) bool {
	name := strings.ToLower(r.Name)
	return strings.EqualFold(r.Access, "Allow") && slices.ContainsFunc(defenderAllow, func(p string) bool { return strings.HasPrefix(name, p) })
}

// need is a port that the Internet must not reach any more: at one address, or at everything behind a group.
type need struct {
	findings []string
	what     string     // in words: "port 22 of web-01 (10.0.0.4)"
	dest     netip.Addr // not valid: the whole group
	port     uint16
	checks   []check
}

// check is one way that must end up shut.
type check struct {
	dest netip.Addr
	path netsec.Path
	name string // of the way, for words
}

func (n need) family() string {
	switch {
	case !n.dest.IsValid():
		return "any"
	case n.dest.Is4():
		return "v4"
	}
	return "v6"
}

func (n need) prefixes() []netip.Prefix {
	if n.dest.IsValid() {
		return []netip.Prefix{netip.PrefixFrom(n.dest, n.dest.BitLen())}
	}
	return everywhere
}

var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// group is one network security group as it is read and as it is to be. It is pure; a copy is cheap.
type group struct {
	read     azure.NSG
	rules    []azure.SecurityRule
	now      time.Time
	removing map[string]bool // lower-case names of rules that are to go
	consents map[string]bool // lower-case names of rules of others that may be narrowed
	taken    map[int]bool    // inbound priorities that protect takes in the same plan; true: for a deny
	spare    int             // how many priorities stay free before a rule that carries on a narrowed one, for protect to use
	gone     []string        // who loses access, in words
	cache    map[*netsec.Compiled]*netsec.Compiled
}

func newGroup(n azure.NSG, removing, consents map[string]bool, now time.Time) *group {
	g := &group{read: n, now: now, removing: removing, consents: consents}
	for _, r := range n.Rules {
		if !removing[strings.ToLower(r.Name)] {
			g.rules = append(g.rules, r)
		}
	}
	return g
}

func (g *group) clone() *group {
	c := *g
	c.rules, c.gone, c.cache = slices.Clone(g.rules), slices.Clone(g.gone), nil
	return &c
}

func (g *group) become(o *group) { g.rules, g.gone, g.cache = o.rules, o.gone, nil }

// over returns a layer of a path with the rules as they are to be.
func (g *group) over(c *netsec.Compiled) *netsec.Compiled {
	if out, ok := g.cache[c]; ok {
		return out
	}
	rs := make([]netsec.Rule, 0, len(g.rules))
	for _, r := range g.rules {
		rs = append(rs, inventory.Rule(r))
	}
	if g.cache == nil {
		g.cache = map[*netsec.Compiled]*netsec.Compiled{}
	}
	g.cache[c] = c.With(rs)
	return g.cache[c]
}

// live tells whether a rule holds a window open that must survive: an allow of an installation before its end, or one of Defender's
// that nobody has said is past its end.
func (g *group) live(r azure.SecurityRule) bool {
	if h, ok := enforce.ParseName(r.Name); ok {
		return h.Kind == enforce.KindAllow && g.now.Before(h.End)
	}
	return isDefenderAllow(r)
}

func (g *group) liveName(name string) bool {
	for _, r := range g.rules {
		if strings.EqualFold(r.Name, name) {
			return g.live(r)
		}
	}
	return false
}

// groups are the groups of a plan by key.
type groups map[string]*group

// path returns a path with every group as it is to be.
func (gs groups) path(p netsec.Path) netsec.Path {
	for _, c := range []**netsec.Compiled{&p.Subnet, &p.NIC} {
		if *c == nil {
			continue
		}
		if g := gs[azure.Key((*c).ID)]; g != nil {
			*c = g.over(*c)
		}
	}
	return p
}

// exposed tells whether the Internet at large still gets in somewhere, live windows aside, and by which rules.
func (gs groups) exposed(n need) (open bool, by []*netsec.RuleRef, way string) {
	for _, c := range n.checks {
		p := gs.path(c.path)
		reach := p.Reachable(c.dest, netsec.TCP, netsec.Port(n.port)).Except(func(pp *netsec.PathPiece) bool {
			for _, h := range pp.Hops {
				if h.Rule != nil && !h.Rule.Default {
					if g := gs[azure.Key(h.GroupID)]; g != nil && g.liveName(h.Rule.Name) {
						return true
					}
				}
			}
			return false
		})
		if !reach.Exposed() {
			continue
		}
		open, way = true, c.name
		for _, pp := range reach.Internet.Open {
			for _, h := range pp.Hops {
				if pp.Access == netsec.Allow && h.Rule != nil && !slices.ContainsFunc(by, func(r *netsec.RuleRef) bool { return r.Name == h.Rule.Name && azure.EqualID(r.GroupID, h.Rule.GroupID) }) {
					by = append(by, h.Rule)
				}
			}
		}
	}
	return open, by, way
}

// inbound returns the inbound rules by priority.
func (g *group) inbound() []azure.SecurityRule {
	var out []azure.SecurityRule
	for _, r := range g.rules {
		if r.Inbound() {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b azure.SecurityRule) int { return a.Priority - b.Priority })
	return out
}

func (n need) ownName(r azure.SecurityRule) bool {
	base := denyPrefix + strconv.Itoa(int(n.port))
	return strings.EqualFold(r.Name, base) || strings.HasPrefix(strings.ToLower(r.Name), base+"-n")
}

// extendable tells whether a rule is one of ours for the port, unchanged in kind, to which the address may be added.
func (n need) extendable(r azure.SecurityRule) bool {
	if !n.ownName(r) || !r.Inbound() || !strings.EqualFold(r.Access, "Deny") || !strings.EqualFold(r.Protocol, "Tcp") || !n.dest.IsValid() ||
		!slices.Equal(r.DestinationPorts, []string{strconv.Itoa(int(n.port))}) || len(r.SourcePrefixes) != 1 || !strings.EqualFold(r.SourcePrefixes[0], "Internet") ||
		len(r.DestinationASGs) > 0 || len(r.DestinationPrefixes) >= maxPrefixes {
		return false
	}
	for _, d := range r.DestinationPrefixes {
		p, ok := netsec.ParsePrefix(d)
		if !ok || p.Addr().Is4() != n.dest.Is4() {
			return false
		}
	}
	return true
}

func (g *group) freeName(base string) string {
	taken := map[string]bool{}
	for _, r := range slices.Concat(g.rules, g.read.Rules) {
		taken[strings.ToLower(r.Name)] = true
	}
	if len(base) > 76 {
		base = strings.TrimRight(base[:76], ".-")
	}
	for i := 1; ; i++ {
		name := base
		if i > 1 {
			name = fmt.Sprintf("%s-n%d", base, i)
		}
		if !taken[strings.ToLower(name)] {
			return name
		}
	}
}

// with returns the group with a deny for the need at a priority: an own rule that stands there is extended.
func (g *group) with(n need, priority int) (*group, error) {
	out := g.clone()
	for i, r := range out.rules {
		if r.Inbound() && r.Priority == priority {
			r.DestinationPrefixes = append(slices.Clone(r.DestinationPrefixes), n.dest.String())
			slices.Sort(r.DestinationPrefixes)
			edited, err := r.Edited()
			out.rules[i] = edited
			return out, err
		}
	}
	dest := "*"
	if n.dest.IsValid() {
		dest = n.dest.String()
	}
	out.rules = append(out.rules, azure.SecurityRule{Name: g.freeName(denyPrefix + strconv.Itoa(int(n.port))), Priority: priority, Direction: "Inbound", Access: "Deny",
		Protocol: "Tcp", Description: denyText, SourcePorts: []string{"*"}, SourcePrefixes: []string{"Internet"}, DestinationPrefixes: []string{dest}, DestinationPorts: []string{strconv.Itoa(int(n.port))}})
	return out, nil
}

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
		words := fmt.Sprintf("whoever comes from the Internet to %s by rule %s (priority %d, from %s)", n.what, r.Name, r.Priority, list(r.SourcePrefixes, 4))
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

// why says what is in the way of shutting the need in the group.
func (gs groups) why(key string, n need) *obstacle {
	g := gs[key]
	nsg := azure.IDName(g.read.ID)
	if len(g.rules) >= maxRules {
		return &obstacle{fmt.Sprintf("%s is full: it holds %d rules", nsg, len(g.rules)), "take out rules that are no longer needed"}
	}
	off := gs.offenders(key, n)
	if len(off) == 0 {
		_, by, way := gs.exposed(n)
		names := []string{}
		for _, r := range by {
			names = append(names, r.String())
		}
		if len(names) == 0 {
			return &obstacle{fmt.Sprintf("%s is reached by %s, on which no rule of %s decides", n.what, way, nsg), "look at it with: curfew scan explain"}
		}
		return &obstacle{fmt.Sprintf("%s is let in by %s, which no rule of %s can overrule", n.what, strings.Join(names, ", "), nsg),
			"change that rule where it is kept: a security admin rule that always allows is asked before any network security group"}
	}
	for _, r := range g.inbound() {
		if g.live(r) && r.Priority > off[0].Priority && inventory.Rule(r).Overlaps(n.prefixes(), netsec.TCP, netsec.Port(n.port), g.env(n)) {
			end := "its request is over"
			if h, ok := enforce.ParseName(r.Name); ok {
				end = h.End.UTC().Format("2006-01-02 15:04 UTC")
			}
			return &obstacle{fmt.Sprintf("rule %s (priority %d) of %s holds a window open for a time, and a deny before %s (priority %d) would shut it", r.Name, r.Priority, nsg, off[0].Name, off[0].Priority),
				"run fix again when " + end}
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
				"move the rules of " + azure.IDName(g.read.ID) + " apart by hand, and run fix again"}
		}
	}
	return 0, &obstacle{fmt.Sprintf("no priority is free behind rule %s", r.Name), "move the rules of " + azure.IDName(g.read.ID) + " apart by hand, and run fix again"}
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

// Change is one rule of a group that is written, changed or taken out.
type Change struct {
	Kind     string `json:"kind"` // add, extend, narrow, move, remove, restore
	Rule     string `json:"rule"`
	Priority int    `json:"priority"`
	Access   string `json:"access"`
	Summary  string `json:"summary"` // what the rule says, in words
	Why      string `json:"why,omitempty"`

	before, after json.RawMessage
}

// changes compares what was read with what is to be.
func (g *group) changes() []Change {
	have := map[string]azure.SecurityRule{}
	for _, r := range g.read.Rules {
		have[strings.ToLower(r.Name)] = r
	}
	var out []Change
	for _, r := range g.rules {
		was, ok := have[strings.ToLower(r.Name)]
		delete(have, strings.ToLower(r.Name))
		c := Change{Rule: r.Name, Priority: r.Priority, Access: r.Access, Summary: words(r), before: was.Raw, after: text(r)}
		switch {
		case !ok && r.Description == restText:
			c.Kind, c.Why = "add", "carries on what the narrowed rule let in, behind the deny"
		case !ok:
			c.Kind, c.Why = "add", "stands before the rule that lets the Internet in"
		case string(was.Raw) == string(r.Raw):
			continue
		case strings.HasPrefix(strings.ToLower(r.Name), denyPrefix):
			c.Kind, c.Why = "extend", "more addresses in a rule of ours"
		case was.Priority != r.Priority:
			c.Kind, c.Why = "move", fmt.Sprintf("with consent: from priority %d, where nothing was free before it", was.Priority)
		default:
			c.Kind, c.Why = "narrow", "with consent: nothing was free before it; the original is kept"
		}
		out = append(out, c)
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		r := have[name]
		out = append(out, Change{Kind: "remove", Rule: r.Name, Priority: r.Priority, Access: r.Access, Summary: words(r), before: r.Raw})
	}
	slices.SortStableFunc(out, func(a, b Change) int { return a.Priority - b.Priority })
	return out
}

func text(r azure.SecurityRule) json.RawMessage {
	b, err := r.MarshalJSON()
	if err != nil {
		return nil // MarshalJSON of the whole group says so
	}
	return b
}

func words(r azure.SecurityRule) string {
	src, dst := list(append(slices.Clone(r.SourcePrefixes), names(r.SourceASGs)...), 4), list(append(slices.Clone(r.DestinationPrefixes), names(r.DestinationASGs)...), 4)
	return fmt.Sprintf("%s %s %s to %s from %s", strings.ToLower(r.Access), strings.ToLower(r.Protocol), list(r.DestinationPorts, 4), dst, src)
}

func names(ids []string) (out []string) {
	for _, id := range ids {
		out = append(out, azure.IDName(id))
	}
	return out
}

// list joins the first words of a list and counts the others.
func list(s []string, most int) string {
	switch {
	case len(s) == 0:
		return "nothing"
	case len(s) <= most:
		return strings.Join(s, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(s[:most], ", "), len(s)-most)
}

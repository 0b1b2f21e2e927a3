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
	name     string // in words
	rules    []azure.SecurityRule
	now      time.Time
	removing map[string]bool // lower-case names of rules that are to go
	consents map[string]bool // lower-case names of rules of others that may be narrowed
	taken    map[int]bool    // inbound priorities that protect takes in the same plan; true: for a deny
	spare    int             // how many priorities stay free before a rule that carries on a narrowed one, for protect to use
	gone     []string        // who loses access, in words
	cache    map[*netsec.Compiled]*netsec.Compiled
}

func newGroup(n azure.NSG, name string, removing, consents map[string]bool, now time.Time) *group {
	g := &group{read: n, name: name, now: now, removing: removing, consents: consents}
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
		reach := p.Reachable(c.dest, netsec.TCP, netsec.Port(n.port)).Except(func(pp *netsec.PathPiece) bool { return gs.passing(pp, false) })
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

// words says what a rule does.
func words(r azure.SecurityRule) string {
	any := func(l []string) bool { return slices.Equal(l, []string{"*"}) }
	ports := list(r.DestinationPorts, 4)
	what := strings.ToLower(r.Protocol) + " " + ports
	switch {
	case r.Protocol == "*" && any(r.DestinationPorts):
		what = "everything"
	case r.Protocol == "*":
		what = "any protocol on port " + ports
	case any(r.DestinationPorts):
		what = strings.ToLower(r.Protocol) + " on all ports"
	}
	dst := list(append(slices.Clone(r.DestinationPrefixes), idNames(r.DestinationASGs)...), 4)
	if any(r.DestinationPrefixes) {
		dst = "any address"
	}
	return fmt.Sprintf("%s %s to %s from %s", strings.ToLower(r.Access), what, dst, sources(r))
}

// sources says whom a rule is about.
func sources(r azure.SecurityRule) string {
	var out []string
	for _, s := range append(slices.Clone(r.SourcePrefixes), idNames(r.SourceASGs)...) {
		switch {
		case s == "*":
			s = "anywhere"
		case strings.EqualFold(s, "Internet"):
			s = "the Internet"
		case strings.EqualFold(s, "VirtualNetwork"):
			s = "the virtual network"
		}
		out = append(out, s)
	}
	return list(out, 4)
}

func idNames(ids []string) (out []string) {
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

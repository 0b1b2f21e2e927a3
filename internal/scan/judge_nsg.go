package scan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// nsgFacts is what rules of ours and of Defender's in a group mean.
type nsgFacts struct {
	nsg     *estate.NSG
	deny    []ownDeny
	special map[string]*specialRule // by lower-case name; nil where the group holds none
}

// specialRule is a rule that is not simply somebody's.
type specialRule struct {
	ruleName
	rule *estate.NSGRule
}

// ownDeny is a deny rule of ours, by what it says and not by its name.
type ownDeny struct {
	name  string
	of    string // the installation
	proto netsec.Protocol
	ports []netsec.PortRange
	every bool // every destination
	addrs *netipx.IPSet
}

func (f *nsgFacts) denies() []ownDeny {
	if f == nil {
		return nil
	}
	return f.deny
}

// doubtful tells whether it is not certain what the group says.
func (f *nsgFacts) doubtful() bool { return f != nil && len(f.nsg.Problems) > 0 }

// facts returns what is known of a group. The second result is false where the group is not there to be known.
func (j *judge) facts(id string) (*nsgFacts, bool) {
	if id == "" {
		return nil, true
	}
	if f := j.nsgs[id]; f != nil {
		return f, true
	}
	f := j.nsgs[strings.ToLower(id)]
	return f, f != nil
}

func (j *judge) indexNSGs() {
	all := j.e.NSGs()
	j.nsgs = make(map[string]*nsgFacts, 2*len(all))
	for _, n := range all {
		f := &nsgFacts{nsg: n}
		for i := range n.Rules {
			r := &n.Rules[i]
			name := parseRuleName(r.Name)
			if name.kind == foreign {
				continue
			}
			if f.special == nil {
				f.special = map[string]*specialRule{}
			}
			f.special[strings.ToLower(r.Name)] = &specialRule{name, r}
			if name.kind == ourDeny {
				if d, ok := denyOf(r, name.udp); ok {
					d.of = name.installation
					f.deny = append(f.deny, d)
				}
			}
		}
		slices.SortStableFunc(f.deny, func(a, b ownDeny) int { return cmp.Compare(a.name, b.name) })
		j.nsgs[n.ID], j.nsgs[strings.ToLower(n.ID)] = f, f
	}
}

// denyOf reads a deny rule that shuts everybody out of what its name says it is for, TCP or UDP. One that somebody has narrowed or turned round protects nothing.
func denyOf(r *estate.NSGRule, udp bool) (ownDeny, bool) {
	d := ownDeny{name: r.Name}
	if !r.Inbound || r.Access != netsec.Deny {
		return d, false
	}
	proto, err := netsec.ParseProtocol(r.Protocol)
	if err != nil {
		return d, false
	}
	if d.proto = netsec.TCP; udp {
		d.proto = netsec.UDP
	}
	if proto != netsec.Any && proto != d.proto {
		return d, false
	}
	for _, t := range r.DestinationPorts {
		if p, err := netsec.ParsePortRange(t); err == nil {
			d.ports = append(d.ports, p)
		}
	}
	dests, every := prefixesOf(r.Destinations)
	d.every = every
	probe := dests
	if every {
		probe = []netip.Prefix{netip.PrefixFrom(genericV4, 32)}
	}
	if len(d.ports) == 0 || len(probe) == 0 || !r.Covers(nil, probe[:1], proto, d.ports[0], netsec.Env{}) {
		return d, false
	}
	var b netipx.IPSetBuilder
	for _, p := range dests {
		b.AddPrefix(p)
	}
	d.addrs, err = b.IPSet()
	return d, err == nil
}

// prefixesOf reads the addresses among sources or destinations; every is true with "*".
func prefixesOf(texts []string) (out []netip.Prefix, every bool) {
	for _, t := range texts {
		switch t = strings.TrimSpace(t); {
		case t == "*" || strings.EqualFold(t, "any"):
			every = true
		default:
			if p, ok := netsec.ParsePrefix(t); ok {
				out = append(out, p)
			}
		}
	}
	return out, every
}

// nsg judges a group by itself.
func (j *judge) nsg(b *batch, n *estate.NSG) {
	if len(n.Problems) > 0 { // which of its rules hold is not known
		for _, r := range []RuleID{NSGRuleBroad, RuleOverdue, RuleOrphaned} {
			j.found(b, r, &n.Meta, typeNSG, verdict{status: Unknown, reason: say(n.Problems[0].What)})
		}
		return
	}
	if j.want[NSGRuleBroad] {
		j.broad(b, n)
	}
	if j.want[RuleOverdue] {
		j.overdue(b, n)
	}
	if j.want[RuleOrphaned] {
		j.orphaned(b, n)
	}
}

// Addresses that stand for a machine whose address no rule names.
var (
	genericV4 = netip.MustParseAddr("10.255.255.254")
	genericV6 = netip.MustParseAddr("fdff:ffff:ffff::fffe")
)

// privateSpace stands for the virtual network that a group might be put in.
var privateSpace = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7")}

// broad judges what the group lets in by its own rules, for every destination that they tell apart: one address of each range between
// the borders of their destinations, and one for each application security group.
func (j *judge) broad(b *batch, n *estate.NSG) {
	if why := managed(&n.Meta); why != "" {
		j.found(b, NSGRuleBroad, &n.Meta, typeNSG, verdict{status: NotApplicable, reason: say(why)})
		return
	}
	var fails, unclear []string
	var rules []RuleEvidence
	ports := j.mightOpen(n)
	if len(ports) > 0 {
		env := netsec.Env{VirtualNetwork: privateSpace, ASGs: map[string][]netip.Addr{}}
		g := netsec.Group{ID: n.ID, Name: n.Name, Rules: make([]netsec.Rule, len(n.Rules))}
		for i := range n.Rules {
			r := n.Rules[i].Rule
			g.Rules[i] = r
			for _, ids := range [2][]string{r.SourceASGs, r.DestinationASGs} {
				for _, id := range ids {
					if k := strings.ToLower(id); env.ASGs[k] == nil {
						// 240.0.0.0/4 is in use nowhere: a machine of the group whose address nobody names.
						m := len(env.ASGs) + 1
						env.ASGs[k] = []netip.Addr{netip.AddrFrom4([4]byte{240, byte(m >> 16), byte(m >> 8), byte(m)})}
					}
				}
			}
		}
		path := netsec.Path{NIC: netsec.Compile(g, env)}
		dests := destinationsOf(n, env)
		seen := map[string]bool{}
		for _, port := range ports {
			open, maybe := "", ""
			for _, d := range dests {
				zone := path.Reachable(d, netsec.TCP, netsec.Port(port)).Internet
				if zone.Exposed() {
					names := []string{}
					for i := range zone.Open {
						if x := &zone.Open[i]; x.Access == netsec.Allow && x.Rule != nil {
							names = append(names, x.Rule.Name)
							if !seen[x.Rule.Name] {
								seen[x.Rule.Name] = true
								rules = append(rules, j.ruleEvidence(n, x.Rule.Name, ""))
							}
						}
					}
					if open == "" {
						open = fmt.Sprintf("port %d is open to the Internet by its own rules: %s", port, j.letsIn(n, names))
					}
					break
				}
				if maybe == "" && couldBeExposed(&zone) {
					maybe = fmt.Sprintf("port %d may be open to the Internet by its own rules: %s", port, j.whyUnknown(&zone))
				}
			}
			if open != "" {
				fails = append(fails, open)
			} else if maybe != "" {
				unclear = append(unclear, maybe)
			}
		}
	}
	v := verdict{}
	switch {
	case len(fails) > 0:
		v.status, v.reason = Fail, say(withMore(fails))
		v.evidence = func() Evidence { return Evidence{Rules: rules, Facts: attached(n)} }
	case len(unclear) > 0:
		v.status, v.reason = Unknown, say(withMore(unclear))
		v.evidence = func() Evidence { return Evidence{Facts: attached(n)} }
	default:
		v.status, v.reason = Pass, say("by its own rules it lets no more than named addresses at a management port")
	}
	j.found(b, NSGRuleBroad, &n.Meta, typeNSG, v)
}

func attached(n *estate.NSG) []Fact {
	var fs []Fact
	for _, s := range n.Subnets {
		fs = append(fs, Fact{"subnet", s})
	}
	for _, s := range n.NICs {
		fs = append(fs, Fact{"network interface", s})
	}
	if len(fs) > 10 {
		fs = append(fs[:10:10], Fact{"more", strconv.Itoa(len(fs) - 10)})
	}
	if len(fs) == 0 {
		fs = []Fact{{"attached to", "nothing"}}
	}
	return fs
}

// mightOpen returns the management ports that some rule might let somebody public at. Most groups are done with that.
func (j *judge) mightOpen(n *estate.NSG) []uint16 {
	var out []uint16
	for _, port := range j.o.Ports {
		for i := range n.Rules {
			r := &n.Rules[i]
			if r.Inbound && r.Access != netsec.Deny && perhapsPublic(r.Sources) && perhapsPort(r.DestinationPorts, port) {
				out = append(out, port)
				break
			}
		}
	}
	return out
}

func perhapsPort(texts []string, port uint16) bool {
	if len(texts) == 0 {
		return true
	}
	for _, t := range texts {
		if r, err := netsec.ParsePortRange(t); err != nil || r.Contains(port) {
			return true
		}
	}
	return false
}

// perhapsPublic tells whether sources may hold public addresses.
func perhapsPublic(texts []string) bool {
	for _, t := range texts {
		p, ok := netsec.ParsePrefix(t)
		switch {
		case !ok && !strings.EqualFold(t, "VirtualNetwork") && !strings.EqualFold(t, "AzureLoadBalancer"):
			return true
		case ok && !slices.ContainsFunc(privateSpace, func(x netip.Prefix) bool { return x.Bits() <= p.Bits() && x.Contains(p.Addr()) }):
			return true
		}
	}
	return false
}

// destinationsOf returns an address for every part of the space of destinations that the rules tell apart.
func destinationsOf(n *estate.NSG, env netsec.Env) []netip.Addr {
	out := []netip.Addr{genericV4, genericV6}
	for _, k := range sortedKeys(env.ASGs) {
		out = append(out, env.ASGs[k][0])
	}
	var marks []netip.Addr
	for i := range n.Rules {
		if !n.Rules[i].Inbound {
			continue
		}
		ps, _ := prefixesOf(n.Rules[i].Destinations)
		for _, p := range ps {
			marks = append(marks, p.Addr())
			if next := netipx.PrefixLastIP(p).Next(); next.IsValid() {
				marks = append(marks, next)
			}
		}
	}
	slices.SortFunc(marks, netip.Addr.Compare)
	return append(out, slices.Compact(marks)...)
}

// letsIn says what the first of the named rules lets in, and how many help it.
func (j *judge) letsIn(n *estate.NSG, names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	best := ""
	prio := 1 << 30
	for _, name := range names {
		if r := ruleNamed(n, name); r != nil && r.Priority < prio {
			best, prio = name, r.Priority
		}
	}
	s := "rule " + best + " lets the Internet in"
	if r := ruleNamed(n, best); r != nil {
		s = fmt.Sprintf("rule %s (priority %d) lets %s in", r.Name, r.Priority, whoText(few(r.Sources, 3)))
	}
	s += moreRules(len(names) - 1)
	return s
}

func moreRules(n int) string {
	switch {
	case n == 1:
		return ", with 1 more rule"
	case n > 1:
		return fmt.Sprintf(", with %d more rules", n)
	}
	return ""
}

func ruleNamed(n *estate.NSG, name string) *estate.NSGRule {
	if n == nil {
		return nil
	}
	for i := range n.Rules {
		if strings.EqualFold(n.Rules[i].Name, name) {
			return &n.Rules[i]
		}
	}
	return nil
}

func (j *judge) ruleEvidence(n *estate.NSG, name, why string) RuleEvidence {
	e := RuleEvidence{NSG: n.ID, Rule: name, Why: why}
	if r := ruleNamed(n, name); r != nil {
		e.Rule, e.Priority, e.Access, e.Protocol, e.Sources, e.Ports = r.Name, r.Priority, strings.ToLower(r.Access.String()), r.Protocol, r.Sources, r.DestinationPorts
		if len(e.Sources) == 0 {
			e.Sources = r.SourceASGs
		}
	}
	return e
}

// specials lists the special rules of a group in the order in which they are evaluated.
func (f *nsgFacts) specials() []*specialRule {
	if f == nil {
		return nil
	}
	out := make([]*specialRule, 0, len(f.special))
	for _, s := range f.special {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *specialRule) int {
		return cmp.Or(cmp.Compare(a.rule.Priority, b.rule.Priority), cmp.Compare(a.rule.Name, b.rule.Name))
	})
	return out
}

// overdue judges the temporary allows of a group: ours by the end in their name, Defender's by whether a request still runs for them.
func (j *judge) overdue(b *batch, n *estate.NSG) {
	var fails, unclear []string
	var rules []RuleEvidence
	f, _ := j.facts(n.ID)
	live := 0
	for _, s := range f.specials() {
		if s.rule.Access == netsec.Deny {
			continue
		}
		why, sure := "", true
		switch s.kind {
		case ourAllow:
			if j.endless(s.ruleName) {
				why = fmt.Sprintf("rule %s (priority %d) bears a name of Curfew's and ends %s from now, longer than a grant can last: it is not one of Curfew's, or its name was changed",
					s.rule.Name, s.rule.Priority, spanText(s.end.Sub(j.o.Now)))
				sure = false
				break
			}
			if s.end.After(j.o.Now) {
				live++
				continue
			}
			why = fmt.Sprintf("rule %s (priority %d) of Curfew still stands, %s after its end %s", s.rule.Name, s.rule.Priority, spanText(j.o.Now.Sub(s.end)), s.end.Format("2006-01-02 15:04:05Z"))
		case defenderAllow:
			var running bool
			if running, sure = j.running(n, s.rule); running {
				live++
				continue
			}
			why = fmt.Sprintf("rule %s (priority %d) of Defender still stands, and no request of any policy runs for it", s.rule.Name, s.rule.Priority)
			if !sure {
				why = fmt.Sprintf("it is not known whether a request still runs for rule %s (priority %d) of Defender", s.rule.Name, s.rule.Priority)
			}
		default:
			continue
		}
		rules = append(rules, j.ruleEvidence(n, s.rule.Name, why))
		if sure {
			fails = append(fails, why)
		} else {
			unclear = append(unclear, why)
		}
	}
	v := verdict{evidence: func() Evidence { return Evidence{Rules: rules} }}
	switch {
	case len(fails) > 0:
		v.status, v.reason = Fail, say(withMore(fails))
	case len(unclear) > 0:
		v.status, v.reason = Unknown, say(withMore(unclear))
	case live > 0:
		v.status, v.reason = Pass, say(fmt.Sprintf("every temporary rule (%d) is within its time", live))
	default:
		v.status, v.reason = Pass, say("it holds no temporary rule of Curfew or Defender")
	}
	j.found(b, RuleOverdue, &n.Meta, typeNSG, v)
}

// longestGrant is how far ahead the end of a grant can be, extensions included, and an hour for clocks that differ.
const longestGrant = access.AbsoluteMax + time.Hour

// endless tells whether a name of ours claims an end that no grant can have. Anybody who may write rules can give a name, so that it excuses
// nothing then.
func (j *judge) endless(n ruleName) bool { return n.end.Sub(j.o.Now) > longestGrant }

// running tells whether a request of Defender runs that an allow of its stands for: for a machine that the rule leads to, on its port, from
// its source. FACTS 1.4.
func (j *judge) running(n *estate.NSG, r *estate.NSGRule) (running, sure bool) {
	if _, hidden := j.e.Incomplete(n.Subscription, typePolicy); hidden {
		return false, false
	}
	sure = true
	dests, _ := prefixesOf(r.Destinations)
	owners := 0
	for _, d := range dests {
		if d.Bits() != d.Addr().BitLen() {
			continue
		}
		for _, v := range j.e.Owners(d.Addr(), n.ID) {
			owners++
			id := strings.ToLower(v.ID)
			for _, q := range j.live[id] {
				if q.port >= 0 && q.port <= 65535 && perhapsPort(r.DestinationPorts, uint16(q.port)) && meet(q.sources, r.Sources) {
					return true, true
				}
			}
			sure = sure && !j.murky[id]
		}
	}
	if owners == 0 && j.machinesHidden(n.Subscription) != "" {
		sure = false
	}
	return false, sure
}

// meet tells whether two lists of sources have something in common. An empty list says nothing, and what is no address may be anything.
func meet(a, b []string) bool {
	pa, everyA := prefixesOf(a)
	pb, everyB := prefixesOf(b)
	if everyA || everyB || len(pa) < len(a) || len(pb) < len(b) || len(pa) == 0 || len(pb) == 0 {
		return true
	}
	for _, x := range pa {
		if slices.ContainsFunc(pb, x.Overlaps) {
			return true
		}
	}
	return false
}

// machinesHidden says why it is not known which machines there are, "" when it is.
func (j *judge) machinesHidden(subscription string) string {
	for _, t := range []string{typeVM, typeNIC} {
		if g, hidden := j.e.Incomplete(subscription, t); hidden {
			return cmp.Or(g.Source, t) + " could not be read: " + g.Reason
		}
	}
	return ""
}

// orphaned judges the rules of ours in a group by their destinations: addresses that belong to no machine behind the group.
func (j *judge) orphaned(b *batch, n *estate.NSG) {
	var gone []string
	var rules []RuleEvidence
	f, _ := j.facts(n.ID)
	ours := 0
	for _, s := range f.specials() {
		if !s.ours() {
			continue
		}
		ours++
		dests, every := prefixesOf(s.rule.Destinations)
		if every || len(dests) == 0 || len(dests) < len(s.rule.Destinations) || len(s.rule.DestinationASGs) > 0 {
			continue // not about addresses: nobody's in particular
		}
		if slices.ContainsFunc(dests, func(p netip.Prefix) bool {
			return p.Bits() != p.Addr().BitLen() || len(j.e.Owners(p.Addr(), n.ID)) > 0
		}) {
			continue
		}
		why := fmt.Sprintf("rule %s (priority %d) of Curfew leads to %s, which belongs to no machine behind the group", s.rule.Name, s.rule.Priority, few(s.rule.Destinations, 3))
		gone = append(gone, why)
		rules = append(rules, j.ruleEvidence(n, s.rule.Name, why))
	}
	v := verdict{}
	if len(gone) > 0 {
		v.evidence = func() Evidence { return Evidence{Rules: rules, Facts: attached(n)} }
	}
	hidden := ""
	if len(gone) > 0 {
		hidden = j.machinesHidden(n.Subscription)
	}
	switch {
	case hidden != "":
		v.status, v.reason = Unknown, say("it is not known whose the addresses of its rules are: "+hidden)
	case len(gone) > 0:
		v.status, v.reason = Fail, say(withMore(gone))
	case ours > 0:
		v.status, v.reason = Pass, say("the rules of Curfew in it lead to machines that are there")
	default:
		v.status, v.reason = Pass, say("it holds no rule of Curfew")
	}
	j.found(b, RuleOrphaned, &n.Meta, typeNSG, v)
}

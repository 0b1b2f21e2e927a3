package netsec

import (
	"cmp"
	"fmt"
	mathbits "math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go4.org/netipx"
)

// outcome is a set of possible results of a rule list.
type outcome uint8

const (
	outAllow outcome = 1 << iota // let in; for a security admin rule AlwaysAllow
	outDeny
	outPass // go on to the NSGs: Allow of a security admin rule, or none matched
)

func (o outcome) single() bool { return o&(o-1) == 0 }

func (o outcome) access() Access {
	switch o {
	case outAllow:
		return Allow
	case outDeny:
		return Deny
	}
	return Unknown
}

// atom is a part of a rule's source or destination that holds for an unknown part of scope.
type atom struct {
	// bit stands for "the address belongs to it" among the atoms of one rule list, so that two rules that name the same
	// tag are judged together; 0 if there are more than 64. lowers are the bits that fall with it (Storage.WestEurope with
	// Storage).
	bit, lowers uint64
	scope       *addrs
	id          string // lower-case; empty for what cannot be the same in two rules
	name        string
	tag         bool   // a service tag; otherwise something that was not read or not understood
	why         string // why it is not known, where that goes without saying for neither
}

type side struct {
	every bool // every address of both families
	yes   *addrs
	atoms []atom
}

// crule is a rule, ready to be matched.
type crule struct {
	protos         uint8
	out            outcome
	opaque         bool // protocol or priority was not understood: never certain
	unplaced       bool // its priority was not understood: it may stand anywhere
	tied           bool // shares its priority with a neighbour
	allDports      bool
	allSports      bool
	dportsDim      bool // a destination port range was not understood
	sportsDim      bool
	dports, sports []PortRange
	src, dst       *side // perhaps those of other rules too, where they have no atoms
	prio           int
	ref            *RuleRef
	why            string
}

// ruleList is a compiled list of rules of one direction, in the order of evaluation.
type ruleList struct {
	rules []crule
	end   outcome  // when no rule matches
	ids   []string // of the atoms, by the index of their bit
}

// Compiled is an NSG with its default rules, ready for questions.
type Compiled struct {
	ID, Name string
	in, out  ruleList
	place    *place
}

// place is Env in compiled form.
type place struct {
	env      Env
	vnet     *addrs // as given, with the host's address
	internet *addrs
	// byRoute are addresses that belong to the virtual network only by a default route, if at all, and maybeInternet the public ones
	// of them: the documentation does not say which of the two tags holds them (FACTS 2.1). surely is the rest of the network.
	byRoute, maybeInternet, surely *addrs
	unknownVnet                    bool
	zones                          [4]ranges // Internet, virtual network, platform, other: where Reachable counts sources
	zoneSets                       [4]func() *netipx.IPSet
	tags                           map[string]*addrs // the known ones that were met

	// Groups of a network say the same things over and over: what is sure is compiled once and shared. Nil where nothing is shared.
	sides map[string]*sharedSide // by what sideKey says
	ports map[string]sharedPorts // by the texts, joined
	key   []byte                 // room for keys
}

// sharedSide is a side without atoms, which are numbered in each list anew.
type sharedSide struct {
	side
	width *width
}

// sharedPorts are ports that are all understood.
type sharedPorts struct {
	ranges []PortRange
	all    bool
}

func newPlace(env Env) *place {
	p := &place{env: env, unknownVnet: true, tags: map[string]*addrs{}}
	var narrow []netip.Prefix
	for _, x := range env.VirtualNetwork {
		if x = plainPrefix(x); x.IsValid() {
			p.unknownVnet = false
			if x.Bits() > 0 {
				narrow = append(narrow, x)
			}
		}
	}
	narrowly, widely := prefixRanges(narrow...), prefixRanges(env.VirtualNetwork...)
	p.vnet = newAddrs(union(widely, prefixRanges(netip.PrefixFrom(platformV4, 32))))
	p.internet = newAddrs(public.minus(widely))
	p.byRoute = newAddrs(widely.minus(narrowly))
	p.maybeInternet, p.surely = newAddrs(public.and(p.byRoute.rs)), newAddrs(p.vnet.rs.minus(p.byRoute.rs.minus(platform)))
	// A default route does not make the Internet a part of the network.
	zone := narrowly
	if p.unknownVnet {
		zone = private
	}
	zone = zone.minus(platform)
	p.zones = [4]ranges{public.minus(zone), zone, platform, private.minus(zone)}
	for i := range p.zones {
		p.zoneSets[i] = sync.OnceValue(func() *netipx.IPSet { return p.zones[i].set() })
	}
	return p
}

// zoneSet is one of the zones in the form that callers see.
func (p *place) zoneSet(i int) *netipx.IPSet { return p.zoneSets[i]() }

// Place is an Env that is prepared once for the groups of a network, so that each need not hold its own copy of what tags mean. It is
// safe for concurrent use. Env must not be changed afterwards.
type Place struct {
	mu sync.Mutex // known tags are entered as they are met
	p  *place
}

// NewPlace prepares an Env.
func NewPlace(env Env) *Place {
	p := newPlace(env)
	p.sides, p.ports = map[string]*sharedSide{}, map[string]sharedPorts{}
	return &Place{p: p}
}

// Compile is Compile in this place.
func (p *Place) Compile(g Group) *Compiled {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.p.compile(g)
}

// Compile prepares an NSG for questions. It never fails and drops nothing: a rule that is wrong or cannot be parsed makes
// the verdict Unknown where it could match and where that would change the verdict. Env and the rules must not be changed
// afterwards.
func Compile(g Group, env Env) *Compiled { return newPlace(env).compile(g) }

func (p *place) compile(g Group) *Compiled {
	c := &Compiled{ID: g.ID, Name: g.Name, place: p}
	group := cmp.Or(g.ID, g.Name)
	for _, inbound := range []bool{true, false} {
		n := len(defaultRules) / 2
		for i := range g.Rules {
			if g.Rules[i].Inbound == inbound {
				n++
			}
		}
		rs, refs := make([]crule, 0, n), make([]RuleRef, n)
		add := func(r *Rule, implied bool) {
			ref := &refs[len(rs)]
			*ref = RuleRef{Name: r.Name, Priority: r.Priority, GroupID: group, Default: implied}
			rs = append(rs, p.compileRule(r, ref))
		}
		for i := range g.Rules {
			if r := &g.Rules[i]; r.Inbound == inbound {
				add(r, false)
			}
		}
		order(rs)
		for i := range defaultRules {
			if d := &defaultRules[i]; d.Inbound == inbound {
				add(d, true)
			}
		}
		if l := finish(rs, outDeny); inbound {
			c.in = l
		} else {
			c.out = l
		}
	}
	return c
}

// defaultRules stand in every NSG and cannot be removed (FACTS 2.2).
var defaultRules = []Rule{
	defaultRule("AllowVnetInBound", 65000, true, Allow, "VirtualNetwork", "VirtualNetwork"),
	defaultRule("AllowAzureLoadBalancerInBound", 65001, true, Allow, "AzureLoadBalancer", "*"),
	defaultRule("DenyAllInBound", 65500, true, Deny, "*", "*"),
	defaultRule("AllowVnetOutBound", 65000, false, Allow, "VirtualNetwork", "VirtualNetwork"),
	defaultRule("AllowInternetOutBound", 65001, false, Allow, "*", "Internet"),
	defaultRule("DenyAllOutBound", 65500, false, Deny, "*", "*"),
}

func defaultRule(name string, prio int, in bool, a Access, src, dst string) Rule {
	return Rule{Name: name, Priority: prio, Inbound: in, Access: a, Protocol: "*", Sources: []string{src},
		Destinations: []string{dst}, SourcePorts: []string{"*"}, DestinationPorts: []string{"*"}}
}

// order sorts by priority; rules whose priority is not understood come first, where "perhaps" covers every place.
func order(rs []crule) {
	slices.SortStableFunc(rs, func(a, b crule) int {
		if a.unplaced != b.unplaced {
			if a.unplaced {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.prio, b.prio)
	})
	for i := 1; i < len(rs); i++ {
		if rs[i].prio == rs[i-1].prio && !rs[i].unplaced && !rs[i-1].unplaced {
			rs[i].tied, rs[i-1].tied = true, true
		}
	}
}

// finish numbers the atoms of the list.
func finish(rs []crule, end outcome) ruleList {
	if !slices.ContainsFunc(rs, func(r crule) bool { return len(r.src.atoms)+len(r.dst.atoms) > 0 }) {
		return ruleList{rules: rs, end: end}
	}
	bits := map[string]uint64{}
	visit := func(f func(a *atom)) {
		for i := range rs {
			for _, s := range []*side{rs[i].src, rs[i].dst} {
				for j := range s.atoms {
					f(&s.atoms[j])
				}
			}
		}
	}
	visit(func(a *atom) {
		if _, ok := bits[a.id]; !ok && a.id != "" && len(bits) < 64 {
			bits[a.id] = 1 << len(bits)
		}
	})
	visit(func(a *atom) {
		a.bit = bits[a.id]
		a.lowers = a.bit
		for id, b := range bits {
			if a.tag && within(id, a.id) {
				a.lowers |= b
			}
		}
	})
	l := ruleList{rules: rs, end: end, ids: make([]string, len(bits))}
	for id, b := range bits {
		l.ids[mathbits.TrailingZeros64(b)] = id
	}
	return l
}

func (p *place) compileRule(r *Rule, ref *RuleRef) crule {
	c := crule{prio: r.Priority, ref: ref}
	var faults []string
	switch r.Access {
	case Allow:
		c.out = outAllow
	case Deny:
		c.out = outDeny
	default:
		c.out = outAllow | outDeny
		faults = append(faults, "its access is not known")
	}
	if !ref.Default && (r.Priority < 100 || r.Priority > 4096) {
		c.opaque, c.unplaced = true, true
		faults = append(faults, fmt.Sprintf("its priority %d is not from 100 to 4096", r.Priority))
	}
	var srcFaults, dstFaults []string
	c.src, c.ref.width, srcFaults = p.sideOf(r.Sources, r.SourceASGs, "source", r.Inbound)
	c.dst, _, dstFaults = p.sideOf(r.Destinations, r.DestinationASGs, "destination", !r.Inbound)
	faults = append(append(faults, srcFaults...), dstFaults...)
	faults = append(faults, c.compilePorts(p, r.Protocol, r.SourcePorts, r.DestinationPorts)...)
	c.why = uncertainty(&c, faults)
	return c
}

// sideOf compiles a side, and says how much of the Internet it takes in; once for all rules of the place that say the same, where it is
// certain.
func (p *place) sideOf(texts, asgs []string, what string, far bool) (*side, *width, []string) {
	share := len(asgs) == 0 && p.sides != nil
	if share {
		p.key = append(p.key[:0], "near"...)
		if far {
			p.key = append(p.key[:0], "far"...)
		}
		p.key = joined(p.key, texts)
		if x := p.sides[string(p.key)]; x != nil {
			return &x.side, x.width, nil
		}
	}
	s, faults := p.compileSide(texts, asgs, what, far)
	x := &sharedSide{s, p.widthOf(texts, &s)}
	if share && len(s.atoms) == 0 && len(faults) == 0 {
		p.sides[string(p.key)] = x
	}
	return &x.side, x.width, faults
}

// joined appends texts to a key, so that no two lists have the same.
func joined(key []byte, texts []string) []byte {
	for _, t := range texts {
		key = strconv.AppendInt(append(key, ' '), int64(len(t)), 10)
		key = append(append(key, ':'), t...)
	}
	return key
}

// compilePorts sets protocol and ports and returns what is not understood. What is understood is shared where the place shares.
func (c *crule) compilePorts(p *place, protocol string, sports, dports []string) []string {
	var faults []string
	if proto, err := ParseProtocol(protocol); err != nil {
		c.protos, c.opaque = allProtocols, true
		faults = append(faults, fmt.Sprintf("its protocol %q is not understood", protocol))
	} else {
		c.protos = proto.bits()
	}
	parse := func(ss []string, what string) (rs []PortRange, all, dim bool) {
		if p.ports != nil {
			p.key = joined(p.key[:0], ss)
			if x, ok := p.ports[string(p.key)]; ok {
				return x.ranges, x.all, false
			}
			defer func() {
				if !dim && len(faults) == 0 {
					p.ports[string(p.key)] = sharedPorts{rs, all}
				}
			}()
		}
		for _, s := range ss {
			r, err := ParsePortRange(s)
			if err != nil {
				dim = true
				faults = append(faults, fmt.Sprintf("its %s port %q is not understood", what, s))
				continue
			}
			all = all || r == AllPorts
			rs = append(rs, r)
		}
		if len(ss) == 0 {
			dim = true
			faults = append(faults, "it names no "+what+" port")
		}
		return rs, all, dim && !all
	}
	c.sports, c.allSports, c.sportsDim = parse(sports, "source")
	c.dports, c.allDports, c.dportsDim = parse(dports, "destination")
	return faults
}

// uncertainty is the text of Decision.Why for the rule, made beforehand so that judging allocates nothing.
func uncertainty(c *crule, faults []string) string {
	for _, s := range []*side{c.src, c.dst} {
		for _, a := range s.atoms {
			if a.why != "" {
				faults = append(faults, a.why)
			} else if a.tag {
				faults = append(faults, "the addresses of the service tag "+a.name+" are not known")
			}
		}
	}
	if len(faults) == 0 {
		return ""
	}
	return c.ref.String() + ": " + strings.Join(faults, "; ")
}

// compileSide compiles the sources or destinations of a rule. far is true for the side of the other party, whose address
// may lie anywhere; the near side is in the virtual network itself.
func (p *place) compileSide(texts, asgs []string, what string, far bool) (side, []string) {
	var (
		s      side
		sets   []ranges
		faults []string
		last   *addrs // if there is but one set
		lone   ranges // addresses and CIDR ranges
	)
	for _, text := range texts {
		t := strings.TrimSpace(text)
		lower := strings.ToLower(t)
		if lower == "*" || lower == "any" {
			s.every = true
			continue
		}
		if x, ok := ParsePrefix(lower); ok {
			lone = append(lone, netipx.RangeOfPrefix(x))
			continue
		}
		if !isTagName(t) {
			s.atoms = append(s.atoms, atom{scope: every, id: "?" + lower, name: t})
			faults = append(faults, fmt.Sprintf("its %s %q is not understood", what, text))
			continue
		}
		a, at := p.tag(lower, t, far)
		if a != nil {
			sets, last = append(sets, a.rs), a
		}
		if at != nil {
			s.atoms = append(s.atoms, *at)
		}
	}
	for _, id := range asgs {
		lower := strings.ToLower(id)
		if members, ok := p.env.ASGs[lower]; ok {
			sets, last = append(sets, addrRanges(members)), nil
			continue
		}
		// Members are private addresses of one virtual network; only with floating IP is the destination another address.
		scope := every
		if far && !p.unknownVnet {
			scope = newAddrs(union(p.vnet.rs, private))
		}
		s.atoms = append(s.atoms, atom{scope: scope, id: "asg:" + lower, name: id})
		faults = append(faults, "the members of its "+what+" application security group "+id+" are not known")
	}
	if len(texts)+len(asgs) == 0 {
		s.atoms = append(s.atoms, atom{scope: every, name: "none"})
		faults = append(faults, "it names no "+what)
	}
	if len(lone) > 0 {
		sets, last = append(sets, lone), nil
	}
	switch {
	case s.every:
		s.yes, s.atoms, faults = every, nil, nil
	case len(sets) == 0:
		s.yes = nowhere
	case len(sets) == 1 && last != nil:
		s.yes = last
	default:
		s.yes = newAddrs(union(sets...))
	}
	return s, faults
}

// ParsePrefix reads an address or CIDR range as NSG rules hold them; an address is a range of one. Bits below the mask are
// cleared. Service tags and "*" are not prefixes.
func ParsePrefix(s string) (netip.Prefix, bool) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, false
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	x, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	return plainPrefix(x), true
}

// isTagName reports whether s has the form of a service tag: AzureCloud.westeurope, Storage, VIRTUAL_NETWORK.
func isTagName(s string) bool {
	if s == "" || s[len(s)-1] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || !(s[i] >= '0' && s[i] <= '9' || s[i] == '.' || s[i] == '_' || s[i] == '-')) {
			return false
		}
	}
	return true
}

// tag returns the addresses that surely belong to a service tag, and an atom for those that may.
func (p *place) tag(lower, name string, far bool) (*addrs, *atom) {
	switch lower {
	case "virtualnetwork", "virtual_network": // the second is the spelling of classic deployments
		switch {
		case p.unknownVnet:
		case far && len(p.byRoute.rs) > 0:
			return p.surely, &atom{scope: p.byRoute, id: "virtualnetwork", name: "VirtualNetwork",
				why: "whether the tag VirtualNetwork holds everything that a route for all addresses leads to is not documented"}
		default:
			return p.vnet, nil
		}
		if !far { // the machine itself is surely in its network
			return newAddrs(union(private, p.vnet.rs)), nil
		}
		return p.vnet, &atom{scope: privateAddrs, id: "virtualnetwork", name: "VirtualNetwork", tag: true}
	case "internet":
		if len(p.maybeInternet.v4)+len(p.maybeInternet.v6) > 0 {
			// No tag that one sender is in and another is not: of all of them the same is not known, and no source is surely outside.
			return p.internet, &atom{scope: p.maybeInternet, id: "internet", name: "Internet",
				why: "whether the tag Internet holds what a route for all addresses leads to is not documented"}
		}
		return p.internet, nil
	case "azureloadbalancer", "azure_loadbalancer":
		return newAddrs(platform), nil
	}
	if prefixes, ok := p.env.Tags[lower]; ok {
		if p.tags[lower] == nil {
			p.tags[lower] = newAddrs(prefixRanges(prefixes...))
		}
		return p.tags[lower], nil
	}
	// Service tags hold public addresses, but for those of the platform itself (DNS, IMDS, licensing).
	scope := publicAddrs
	if strings.HasPrefix(lower, "azureplatform") {
		scope = platformAddrs
	}
	return nil, &atom{scope: scope, id: lower, name: name, tag: true}
}

// With returns the group with other custom rules, in the same place: what tags and application security groups mean there stays.
func (c *Compiled) With(rules []Rule) *Compiled {
	return Compile(Group{ID: c.ID, Name: c.Name, Rules: rules}, c.place.env)
}

// Env returns what tags and application security groups mean where the group stands. It must not be changed.
func (c *Compiled) Env() Env { return c.place.env }

package estate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// Azure Firewall's destination NAT. What it brings comes to a machine from an address of the firewall's own subnet, not from the
// client (FACTS 1.1, an observation: the machine sees the firewall's address), so groups judge it as traffic from the virtual network,
// and the firewall's rule alone says which clients there are.

type rawFirewall struct {
	common
	subnets []key
	policy  key
	hub     bool // in a virtual hub: which networks it leads to stands elsewhere
	pips    []key
	rules   []rawDNAT
	denies  []rawDeny // they may stop what NAT lets in
}

// rawDNAT is one NAT rule, of a firewall or of a policy.
type rawDNAT struct {
	collection string // id of the collection, or its name under the firewall
	name       string
	sources    []string
	groups     []key // IP groups
	dests      []string
	ports      []string // at the firewall
	protocols  []string
	to         netip.Addr
	toName     string // a name, or what is no address
	toPort     uint16
	badPort    string // what stands in place of a port
}

// rawDeny is a network rule that denies. A NAT rule lets in what it translates, unless such a rule stops that.
type rawDeny struct {
	sources, dests           []string
	sourceGroups, destGroups bool // IP groups or names: anybody may be in them
	ports, protocols         []string
}

// stops tells whether the rule may stop what a NAT rule has translated.
func (d *rawDeny) stops(r *rawDNAT, clients *netipx.IPSet) bool {
	if !d.sourceGroups && !slices.ContainsFunc(d.sources, func(t string) bool {
		s, ok := addresses(t)
		return !ok || s.Overlaps(clients)
	}) {
		return false
	}
	if r.to.IsValid() && !d.destGroups && !slices.ContainsFunc(d.dests, func(t string) bool {
		s, ok := addresses(t)
		return !ok || s.Contains(r.to)
	}) {
		return false
	}
	if r.toPort != 0 && !slices.ContainsFunc(d.ports, func(t string) bool {
		p, err := netsec.ParsePortRange(t)
		return err != nil || p.Contains(r.toPort)
	}) {
		return false
	}
	return slices.ContainsFunc(d.protocols, func(t string) bool {
		p, err := netsec.ParseProtocol(t)
		return err != nil || p == netsec.Any || len(r.protocols) == 0 || slices.ContainsFunc(r.protocols, func(u string) bool {
			q, err := netsec.ParseProtocol(u)
			return err != nil || q == netsec.Any || q == p
		})
	})
}

// addresses reads an address, a range of either spelling, or what stands for everybody.
func addresses(t string) (*netipx.IPSet, bool) {
	var b netipx.IPSetBuilder
	t = strings.TrimSpace(t)
	if t == "*" || strings.EqualFold(t, "Any") {
		b.AddPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
		b.AddPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	} else if p, ok := netsec.ParsePrefix(t); ok {
		b.AddPrefix(p)
	} else if x, err := netipx.ParseIPRange(t); err == nil && x.IsValid() {
		b.AddRange(x)
	} else {
		return nil, false
	}
	s, err := b.IPSet()
	return s, err == nil
}

// rawPolicy is a firewall policy; its rules stand in groups of collections, which are resources of their own.
type rawPolicy struct {
	common
	base   key
	groups []key
}

type rawCollections struct {
	common
	policy key
	rules  []rawDNAT
	denies []rawDeny
}

type rawIPGroup struct {
	common
	addrs []string
}

const (
	typeFirewall    = "microsoft.network/azurefirewalls"
	typePolicy      = "microsoft.network/firewallpolicies"
	typeCollections = "microsoft.network/firewallpolicies/rulecollectiongroups"
	typeIPGroup     = "microsoft.network/ipgroups"
)

// dnatWay is a NAT rule that leads to an address from a firewall.
type dnatWay struct {
	fw      *rawFirewall
	rule    *rawDNAT
	unknown string
}

// forwards holds what firewalls lead where.
type forwards struct {
	to map[netip.Addr][]dnatWay
	// blind are firewalls whose rules were not all read.
	blind []dnatWay
	// gone are what firewalls and their rules name and is not there.
	gone []dnatWay
}

func (e *Estate) joinFirewalls() {
	e.forwards.to = map[netip.Addr][]dnatWay{}
	groups := map[key][]*rawCollections{}
	for _, g := range sorted(e.b.collections.m) {
		groups[g.policy] = append(groups[g.policy], g)
	}
	for _, f := range sorted(e.b.firewalls.m) {
		why := ""
		if f.twice {
			why = "the firewall stands twice with different content"
		}
		rules, denies := f.rules, slices.Clone(f.denies)
		all := make([]*rawDNAT, 0, len(rules))
		for i := range rules {
			all = append(all, &rules[i])
		}
		seen := map[key]bool{}
		for p := f.policy; p != 0 && !seen[p]; {
			seen[p] = true
			policy := e.b.policies.get(p)
			if policy == nil || policy.twice {
				e.forwards.blind = append(e.forwards.blind, dnatWay{fw: f, unknown: "firewall policy " + e.id(p) + " was not read" + e.Unread(e.id(p))})
				break
			}
			known := map[key]bool{}
			for _, g := range groups[p] {
				known[g.key] = true
				denies = append(denies, g.denies...)
				if g.twice {
					why = "the rules of firewall policy " + e.id(p) + " stand twice with different content"
				}
				for i := range g.rules {
					all = append(all, &g.rules[i])
				}
			}
			for _, g := range policy.groups {
				if !known[g] {
					e.forwards.blind = append(e.forwards.blind, dnatWay{fw: f, unknown: "rule collection group " + e.id(g) + " was not read"})
					break
				}
			}
			if broken := e.b.spoiltUnder(kindCollections, e.id(p)); broken != "" {
				e.forwards.blind = append(e.forwards.blind, dnatWay{fw: f, unknown: "rule collection group " + broken})
			} else if len(known) == 0 && e.hides(e.id(p), typeCollections) {
				e.forwards.blind = append(e.forwards.blind, dnatWay{fw: f, unknown: "the rules of firewall policy " + e.id(p) + " could not be read"})
			}
			p = policy.base
		}
		for _, r := range all {
			for _, k := range r.groups {
				if e.b.ipGroups.get(k) == nil {
					e.forwards.gone = append(e.forwards.gone, dnatWay{fw: f, rule: r, unknown: "IP group " + e.id(k) + " was not read" + e.Unread(e.id(k))})
				}
			}
			if r.to.IsValid() {
				why := why
				if why == "" && r.badPort != "" {
					why = "the translated port " + strconv.Quote(clip([]byte(r.badPort))) + " of the NAT rule is not understood"
				}
				if clients, _ := e.clients(r); why == "" && slices.ContainsFunc(denies, func(d rawDeny) bool { return d.stops(r, clients) }) {
					why = "a network rule of the firewall that denies may stop what its NAT rule lets in"
				}
				e.forwards.to[r.to] = append(e.forwards.to[r.to], dnatWay{f, r, why})
			} else {
				e.forwards.blind = append(e.forwards.blind, dnatWay{f, r, "it is not known to which address the NAT rule leads"})
			}
		}
	}
}

// unforwarded says what is missing of firewalls that may lead to an endpoint.
func (e *Estate) unforwarded(j *joining, p *Endpoint) {
	for _, x := range slices.Concat(e.forwards.blind, e.forwards.gone) {
		if x.rule != nil && (!x.rule.to.IsValid() || !slices.Contains(p.Addrs, x.rule.to)) {
			continue
		}
		if yes, _ := e.serves(x.fw, p.in.path.vnet); yes {
			j.problem(x.unknown, x.fw.id, false)
		}
	}
}

// serves tells whether a firewall stands in a network or in one that is connected with it; in a virtual hub that is not known.
func (e *Estate) serves(f *rawFirewall, vnet key) (yes, known bool) {
	if f.hub || len(f.subnets) == 0 {
		return true, false
	}
	for _, s := range f.subnets {
		at := e.b.ids.look(parent(e.id(s)))
		if at == vnet || e.peered(vnet, at) || e.peered(at, vnet) {
			return true, true
		}
	}
	return false, true
}

func (e *Estate) peered(a, b key) bool {
	v := e.b.vnets.get(a)
	return v != nil && slices.ContainsFunc(v.peers, func(p rawPeer) bool { return p.remote == b && p.connected && !p.noAccess })
}

// forwarded adds the ways of firewalls to an address: the machine's own, or the frontend of a load balancer inside the network that
// leads to it (then front is the port there).
func (w *wayfinder) forwarded(to, dst netip.Addr, front uint16) {
	for i := range w.e.forwards.to[to] {
		x := &w.e.forwards.to[to][i]
		if x.rule.toPort != 0 && x.rule.toPort != front {
			continue
		}
		yes, known := w.e.serves(x.fw, w.p.in.path.vnet)
		if !yes {
			continue
		}
		if ok, sure := w.carries(x.rule.protocols); ok {
			why := x.unknown
			switch {
			case why != "":
			case !known:
				why = "it is not known whether the firewall's virtual hub leads to the machine's network"
			case !sure:
				why = "the protocols of the NAT rule are not understood"
			}
			w.dnat(x, dst, why)
		}
	}
}

func (w *wayfinder) blindFirewalls(dst netip.Addr) {
	for i := range w.e.forwards.blind {
		x := &w.e.forwards.blind[i]
		if yes, _ := w.e.serves(x.fw, w.p.in.path.vnet); !yes {
			continue
		}
		if x.rule != nil {
			if ok, _ := w.carries(x.rule.protocols); !ok || x.rule.toPort != 0 && x.rule.toPort != w.port {
				continue
			}
		}
		w.dnat(x, dst, x.unknown)
	}
}

func (w *wayfinder) carries(protocols []string) (yes, sure bool) {
	sure = true
	for _, t := range protocols {
		p, err := netsec.ParseProtocol(t)
		if err != nil {
			yes, sure = true, false
			continue
		}
		if p == netsec.Any || w.proto == netsec.Any || p == w.proto {
			return true, true
		}
	}
	return yes || len(protocols) == 0, sure && len(protocols) > 0
}

func (w *wayfinder) dnat(f *dnatWay, dst netip.Addr, why string) {
	x := w.way(FirewallDNAT, f.fw.id)
	x.Unknown = why
	clients := netsec.PublicSpace()
	if r := f.rule; r != nil {
		x.Via = r.collection
		x.Rule = r.name
		if len(r.dests) > 0 {
			x.Address = parseAddr(r.dests[0])
		}
		if len(r.ports) > 0 {
			if p, err := netsec.ParsePortRange(r.ports[0]); err == nil {
				x.FrontendPort = p.First
				if p.Last != p.First {
					x.FrontendLast = p.Last
				}
			}
		}
		var understood bool
		if clients, understood = w.e.clients(r); !understood && x.Unknown == "" {
			x.Unknown = "the sources of the NAT rule are not all known"
			for _, k := range r.groups {
				if w.e.b.ipGroups.get(k) == nil {
					x.Unknown = "IP group " + w.e.id(k) + ", which the NAT rule names, was not read" + w.e.Unread(w.e.id(k))
					break
				}
			}
		}
		x.Clients = clients
	}
	p := w.p.in.path
	x.Path = p.netsec()
	x.Path.PublicWithoutNSG = netsec.Closed
	if x.Dest = dst; dst.IsValid() {
		inside := p.reachable(dst, w.proto, w.port, netsec.Closed)
		from, known := w.e.firewallSpace(f.fw)
		if !known && x.Unknown == "" {
			x.Unknown = "the addresses of the firewall's subnet are not known"
		}
		x.From = from
		x.Reach.VirtualNetwork = inside.VirtualNetwork
		x.Reach.Internet = throughFirewall(*inside, from, clients)
	} else if x.Unknown == "" {
		x.Unknown = "the private address behind it is not known"
	}
	w.ways = append(w.ways, x)
}

// firewallSpace returns the ranges of a firewall's subnets.
func (e *Estate) firewallSpace(f *rawFirewall) (out []netip.Prefix, known bool) {
	for _, s := range f.subnets {
		if x := e.subnets[s]; x != nil {
			out = append(out, x.prefixes...)
		}
	}
	return out, len(out) > 0
}

// clients returns the public addresses that a NAT rule lets in, and whether all its sources are known.
func (e *Estate) clients(r *rawDNAT) (*netipx.IPSet, bool) {
	var b netipx.IPSetBuilder
	known := len(r.sources)+len(r.groups) > 0
	add := func(t string) {
		t = strings.TrimSpace(t)
		if t == "*" || strings.EqualFold(t, "Any") || strings.EqualFold(t, "Internet") {
			b.AddSet(netsec.PublicSpace())
			return
		}
		if p, ok := netsec.ParsePrefix(t); ok {
			b.AddPrefix(p)
			return
		}
		if x, err := netipx.ParseIPRange(t); err == nil && x.IsValid() {
			b.AddRange(x)
			return
		}
		known = false
	}
	for _, t := range r.sources {
		add(t)
	}
	for _, k := range r.groups {
		g := e.b.ipGroups.get(k)
		if g == nil || g.twice {
			known = false
			continue
		}
		for _, t := range g.addrs {
			add(t)
		}
	}
	b.Intersect(netsec.PublicSpace())
	set, err := b.IPSet()
	if err != nil {
		return netsec.PublicSpace(), false
	}
	if !known { // it may be anybody
		return netsec.PublicSpace(), false
	}
	return set, true
}

// throughFirewall says which clients get in when rules see the firewall's addresses in their place. What rules let in from a part of
// those alone is not certain: any of them may be taken.
func throughFirewall(inside netsec.Reach, from []netip.Prefix, clients *netipx.IPSet) netsec.Zone {
	var b netipx.IPSetBuilder
	for _, p := range from {
		b.AddPrefix(p)
	}
	own, err := b.IPSet()
	if err != nil || len(clients.Ranges()) == 0 {
		return netsec.ZoneOf(nil)
	}
	var open []netsec.PathPiece
	var in netipx.IPSetBuilder
	for _, z := range []*netsec.Zone{&inside.VirtualNetwork, &inside.Internet, &inside.Other} {
		for _, p := range z.Open {
			if p.Tag != "" || len(from) > 0 && !overlap(p.IPs, own) {
				continue
			}
			if p.Access == netsec.Allow {
				in.AddSet(p.IPs)
			}
			p.IPs = clients
			open = append(open, p)
		}
	}
	allowed, err := in.IPSet()
	sure := err == nil && len(from) > 0
	for _, p := range from {
		sure = sure && allowed.ContainsPrefix(p)
	}
	if !sure {
		for i := range open {
			if open[i].Access == netsec.Allow {
				open[i].Access, open[i].Why = netsec.Unknown, "rules let in a part of the firewall's addresses, and which one it uses is not known"
			}
		}
	}
	return netsec.ZoneOf(open)
}

func overlap(a, b *netipx.IPSet) bool { return a.Overlaps(b) }

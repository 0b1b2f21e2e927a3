package estate

import (
	"net/netip"
	"slices"
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
	denies  bool // it has a network rule that denies: it may stop what NAT lets in
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
	denies bool
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

func (v *rawFirewall) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "firewallpolicy":
			v.policy = d.ref("firewallPolicy")
		case "virtualhub":
			v.hub = d.ref("virtualHub") != 0
		case "ipconfigurations":
			d.list("ipConfigurations", func() {
				d.part("an ip configuration", v.id, "azureFirewallIpConfigurations", func(k []byte) {
					switch string(k) {
					case "subnet":
						if s := d.ref("subnet"); s != 0 {
							v.subnets = append(v.subnets, s)
						}
					case "publicipaddress":
						if p := d.ref("publicIPAddress"); p != 0 {
							v.pips = append(v.pips, p)
						}
					default:
						d.skip()
					}
				})
			})
		case "natrulecollections":
			d.list("natRuleCollections", func() { d.natCollection(v.id, &v.rules) })
		case "networkrulecollections":
			d.list("networkRuleCollections", func() {
				d.part("a collection of network rules", v.id, "networkRuleCollections", d.only("action", func() {
					v.denies = strings.EqualFold(d.action(), "Deny") || v.denies
				}))
			})
		default:
			d.skip()
		}
	}
}

// action takes {"type": …}.
func (d *decoder) action() (typ string) {
	d.object("action", d.only("type", func() { typ = d.word("type") }))
	return typ
}

// natCollection reads a collection of NAT rules of a firewall itself.
func (d *decoder) natCollection(firewall string, into *[]rawDNAT) {
	var rules []rawDNAT
	action := ""
	id, name := d.part("a collection of NAT rules", firewall, "natRuleCollections", func(k []byte) {
		switch string(k) {
		case "action":
			action = d.action()
		case "rules":
			d.list("rules", func() { rules = append(rules, d.dnat("")) })
		default:
			d.skip()
		}
	})
	if strings.EqualFold(action, "Snat") {
		return
	}
	for i := range rules {
		if rules[i].collection = d.ids.text(id); id == 0 {
			rules[i].collection = firewall + "/natRuleCollections/" + name
		}
	}
	*into = append(*into, rules...)
}

// dnat reads one NAT rule. The fields are those of both kinds: protocols of a firewall's are ipProtocols of a policy's.
func (d *decoder) dnat(collection string) (r rawDNAT) {
	r.collection = collection
	d.object("a NAT rule", func(k []byte) {
		switch string(k) {
		case "name":
			r.name = d.word("name")
		case "sourceaddresses":
			d.texts("sourceAddresses", &r.sources)
		case "sourceipgroups":
			d.list("sourceIpGroups", func() {
				if g := d.ids.of(d.bytes("an id")); g != 0 {
					r.groups = append(r.groups, g)
				}
			})
		case "destinationaddresses":
			d.texts("destinationAddresses", &r.dests)
		case "destinationports":
			d.texts("destinationPorts", &r.ports)
		case "protocols", "ipprotocols":
			d.texts("protocols", &r.protocols)
		case "translatedaddress":
			if b := d.bytes("translatedAddress"); len(b) > 0 {
				if r.to = parseAddr(string(b)); !r.to.IsValid() {
					r.toName = string(b)
				}
			}
		case "translatedfqdn":
			r.toName = d.text("translatedFqdn")
		case "translatedport":
			d.port("translatedPort", &r.toPort)
		default:
			d.skip()
		}
	})
	return r
}

func (v *rawIPGroup) field(d *decoder) func([]byte) {
	return d.only("ipaddresses", func() { d.texts("ipAddresses", &v.addrs) })
}

func (v *rawPolicy) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "basepolicy":
			v.base = d.ref("basePolicy")
		case "rulecollectiongroups":
			d.refs("ruleCollectionGroups", &v.groups)
		default:
			d.skip()
		}
	}
}

func (v *rawCollections) field(d *decoder) func([]byte) {
	return func(k []byte) {
		if string(k) != "rulecollections" {
			d.skip()
			return
		}
		d.list("ruleCollections", func() {
			name, action := "", ""
			var rules []rawDNAT
			network := false
			d.object("a collection", func(k []byte) {
				switch string(k) {
				case "name":
					name = d.word("name")
				case "action":
					action = d.action()
				case "rulecollectiontype":
					network = strings.EqualFold(d.word("ruleCollectionType"), "FirewallPolicyFilterRuleCollection")
				case "rules":
					d.list("rules", func() { rules = append(rules, d.dnat("")) })
				default:
					d.skip()
				}
			})
			switch {
			case strings.EqualFold(action, "Deny"):
				v.denies = true
			case network || strings.EqualFold(action, "Snat"):
			default:
				for i := range rules {
					rules[i].collection = v.id + "/ruleCollections/" + name
				}
				v.rules = append(v.rules, rules...)
			}
		})
	}
}

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
		rules, denies := f.rules, f.denies
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
				denies = denies || g.denies
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
		if denies && why == "" {
			why = "a network rule of the firewall that denies may stop what its NAT rule lets in"
		}
		for _, r := range all {
			if r.to.IsValid() {
				e.forwards.to[r.to] = append(e.forwards.to[r.to], dnatWay{f, r, why})
			} else {
				e.forwards.blind = append(e.forwards.blind, dnatWay{f, r, "it is not known to which address the NAT rule leads"})
			}
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

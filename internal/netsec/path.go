package netsec

import "net/netip"

// PublicDefault says what a public address or load balancer lets in where no NSG applies.
type PublicDefault uint8

// A Standard SKU lets nothing in from the Internet without an NSG, a Basic one everything (FACTS 2.3, doubt).
const (
	PublicUnknown PublicDefault = iota // not stated: the verdict for traffic from the Internet is Unknown
	Closed                             // Standard SKU, or no public path at all
	Open                               // Basic SKU
)

// Layer is a place where rules act.
type Layer uint8

// The layers. LayerNone stands for "no NSG applies".
const (
	LayerNone Layer = iota
	LayerAdmin
	LayerSubnet
	LayerNIC
)

var layerNames = [...]string{"none", "admin", "subnet", "nic"}

// String returns none, admin, subnet or nic.
func (l Layer) String() string {
	if int(l) < len(layerNames) {
		return layerNames[l]
	}
	return "none"
}

// Path is what traffic passes to or from one ipConfiguration: security admin rules, then the NSG of the subnet, then that
// of the NIC; outward the NIC comes before the subnet (FACTS 2.3). A nil layer is absent.
type Path struct {
	Admin       *CompiledAdmin
	Subnet, NIC *Compiled
	// PublicWithoutNSG matters only where Subnet and NIC are nil.
	PublicWithoutNSG PublicDefault
	// VirtualNetwork is needed only where no layer is there to take it from: it tells the Internet from the network.
	VirtualNetwork []netip.Prefix
}

// Hop is the verdict of one layer. Rule is nil at LayerNone and where no security admin rule matched.
type Hop struct {
	Layer   Layer
	GroupID string
	Rule    *RuleRef
	// Access is Allow where traffic goes on.
	Access Access
	// Final is true for an AlwaysAllow of a security admin rule: later layers are not asked.
	Final bool
	Why   string
}

// Verdict is the judgement of a whole path. Hops are in the order of evaluation and end with a Deny or a final Allow.
type Verdict struct {
	Access Access
	Hops   []Hop
	// Decider is the index of the hop that decided: the one that denies, the last that allows, the first that is unknown.
	Decider int
	Why     string
}

// Rule returns the deciding rule, nil if none decided.
func (v Verdict) Rule() *RuleRef {
	if v.Decider < 0 || v.Decider >= len(v.Hops) {
		return nil
	}
	return v.Hops[v.Decider].Rule
}

// layers returns the rule lists in the order of evaluation. n counts them.
func (p *Path) layers(inbound bool) (ls [3]*ruleList, names [3]Layer, n int) {
	add := func(l *ruleList, name Layer) {
		ls[n], names[n] = l, name
		n++
	}
	if p.Admin != nil {
		if inbound {
			add(&p.Admin.in, LayerAdmin)
		} else {
			add(&p.Admin.out, LayerAdmin)
		}
	}
	if inbound && p.Subnet != nil {
		add(&p.Subnet.in, LayerSubnet)
	}
	if p.NIC != nil {
		add(p.NIC.list(inbound), LayerNIC)
	}
	if !inbound && p.Subnet != nil {
		add(&p.Subnet.out, LayerSubnet)
	}
	return ls, names, n
}

func (p *Path) place() *place {
	switch {
	case p.Subnet != nil:
		return p.Subnet.place
	case p.NIC != nil:
		return p.NIC.place
	case p.Admin != nil && len(p.VirtualNetwork) == 0:
		return p.Admin.place
	}
	return newPlace(Env{VirtualNetwork: p.VirtualNetwork})
}

const (
	whyNoNSG       = "no NSG applies, and it is not known whether the public address lets traffic in without one"
	whyAlwaysNoNSG = "a security admin rule always allows, no NSG applies, and no document says whether a Standard public address then lets traffic in"
)

// bare judges traffic that no NSG sees. always is set after an AlwaysAllow.
func (p *Path) bare(fromInternet, always bool) (Access, string) {
	switch {
	case !fromInternet || p.PublicWithoutNSG == Open:
		return Allow, ""
	case p.PublicWithoutNSG == Closed && always:
		return Unknown, whyAlwaysNoNSG
	case p.PublicWithoutNSG == Closed:
		return Deny, ""
	}
	return Unknown, whyNoNSG
}

// fromInternet reports whether the packet comes in through a public address.
func (p *Path) fromInternet(pk *Packet) bool {
	if !pk.Inbound || !publicSet.Contains(pk.Src.Unmap()) {
		return false
	}
	vnet := p.VirtualNetwork
	if p.Admin != nil && len(vnet) == 0 {
		vnet = p.Admin.place.env.VirtualNetwork
	}
	for _, x := range vnet {
		if x = plainPrefix(x); x.IsValid() && x.Bits() > 0 && x.Contains(pk.Src.Unmap()) {
			return false
		}
	}
	return true
}

// DecideAccess is Decide without the hops, for hot use: it allocates nothing. Rule is the deciding rule, nil where none
// decided.
func (p Path) DecideAccess(pk Packet) (Access, *RuleRef) {
	if pk.Protocol == Any {
		pk.Protocol = TCP
		a, r := p.DecideAccess(pk)
		pk.Protocol = UDP
		if b, _ := p.DecideAccess(pk); a != b {
			return Unknown, r
		}
		return a, r
	}
	q, why := newQuery(&pk)
	if why != "" {
		return Unknown, nil
	}
	ls, names, n := p.layers(pk.Inbound)
	var rs [3]result
	for i := range n {
		rs[i] = ls[i].decide(&q)
	}
	a, d, _ := p.combine(&q, &pk, &ls, &names, &rs, n)
	if d < 0 {
		return a, nil
	}
	return a, rs[d].ref
}

// combine joins the results of the layers. The index is that of the deciding layer, -1 if none decided.
func (p *Path) combine(q *query, pk *Packet, ls *[3]*ruleList, names *[3]Layer, rs *[3]result, n int) (Access, int, string) {
	unknown, nsgs, last := -1, 0, -1
	for i := range n {
		r := &rs[i]
		switch {
		case r.out == outDeny:
			return Deny, i, ""
		case r.out == outAllow && names[i] == LayerAdmin:
			if p.Subnet == nil && p.NIC == nil {
				if a, why := p.bare(p.fromInternet(pk), true); a != Allow {
					return a, i, why
				}
			}
			return Allow, i, ""
		case !r.out.single():
			if unknown < 0 {
				unknown = i
			}
		}
		if names[i] != LayerAdmin {
			nsgs++
			last = i
		}
	}
	bareAccess, why := Allow, ""
	if nsgs == 0 {
		if bareAccess, why = p.bare(p.fromInternet(pk), false); bareAccess != Allow && unknown < 0 {
			return bareAccess, -1, why
		}
	}
	if unknown < 0 {
		return Allow, last, ""
	}
	if nsgs == 0 && rs[unknown].out&outAllow == 0 && bareAccess == Deny {
		return Deny, -1, "" // pass or deny: closed either way
	}
	return Unknown, unknown, rs[unknown].why
}

// Decide judges one packet over all layers.
func (p Path) Decide(pk Packet) Verdict {
	if pk.Protocol == Any {
		pk.Protocol = TCP
		t := p.Decide(pk)
		pk.Protocol = UDP
		if u := p.Decide(pk); u.Access != t.Access {
			t.Access, t.Why = Unknown, whyProtocols
		}
		return t
	}
	q, why := newQuery(&pk)
	if why != "" {
		return Verdict{Why: why, Decider: -1}
	}
	ls, names, n := p.layers(pk.Inbound)
	var rs [3]result
	v := Verdict{Decider: -1}
	for i := range n {
		rs[i] = ls[i].decide(&q)
	}
	a, d, why := p.combine(&q, &pk, &ls, &names, &rs, n)
	v.Access, v.Why = a, why
	for i := range n {
		h := p.hop(names[i], rs[i])
		v.Hops = append(v.Hops, h)
		if h.Access == Deny || h.Final {
			break
		}
	}
	if p.Subnet == nil && p.NIC == nil && (len(v.Hops) == 0 || v.Hops[0].Access == Allow) {
		ba, bwhy := p.bare(p.fromInternet(&pk), len(v.Hops) > 0 && v.Hops[0].Final)
		v.Hops = append(v.Hops, Hop{Layer: LayerNone, Access: ba, Why: bwhy})
		if d < 0 || ba != Allow {
			d = len(v.Hops) - 1
		}
	}
	v.Decider = d
	return v
}

func (p *Path) hop(l Layer, r result) Hop {
	h := Hop{Layer: l, Rule: r.ref, Why: r.why}
	switch {
	case l == LayerSubnet:
		h.GroupID = groupID(p.Subnet)
	case l == LayerNIC:
		h.GroupID = groupID(p.NIC)
	case r.ref != nil:
		h.GroupID = r.ref.GroupID
	}
	switch r.out {
	case outDeny:
		h.Access = Deny
	case outPass:
		h.Access = Allow
	case outAllow:
		h.Access, h.Final = Allow, l == LayerAdmin
	}
	return h
}

func groupID(c *Compiled) string {
	if c.ID != "" {
		return c.ID
	}
	return c.Name
}

// Endpoint is one ipConfiguration of a machine with the addresses that packets to it carry when the rules see them: the
// private addresses, IPv6 included, and frontend addresses with floating IP.
type Endpoint struct {
	NIC, IPConfig string
	Addrs         []netip.Addr
	Path          Path
}

// Machine is every way to a machine.
type Machine []Endpoint

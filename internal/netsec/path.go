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
	whyEither      = "it is not known which layer denies, but one of them does"
)

// bare judges traffic that no NSG sees. always is set after an AlwaysAllow.
func (p *Path) bare(fromInternet, always bool) (outcome, string) {
	switch {
	case !fromInternet || p.PublicWithoutNSG == Open:
		return outAllow, ""
	case p.PublicWithoutNSG == Closed && always:
		return outAllow | outDeny, whyAlwaysNoNSG
	case p.PublicWithoutNSG == Closed:
		return outDeny, ""
	}
	return outAllow | outDeny, whyNoNSG
}

// fromInternet reports whether a packet from the address comes in through a public address. It is asked only where no NSG
// applies.
func (p *Path) fromInternet(src netip.Addr) bool {
	src = src.Unmap()
	if !publicSet.Contains(src) {
		return false
	}
	vnet := p.VirtualNetwork
	if p.Admin != nil && len(vnet) == 0 {
		vnet = p.Admin.place.env.VirtualNetwork
	}
	for _, x := range vnet {
		if x = plainPrefix(x); x.IsValid() && x.Bits() > 0 && x.Contains(src) {
			return false
		}
	}
	return true
}

// judge holds one judgement of a path on its way.
type judge struct {
	path  Path
	ls    [3]*ruleList
	names [3]Layer
	n     int
	rs    [3]result
	// bare and always are what happens where no NSG applies, after Allow (or no rule) and after AlwaysAllow of the admin
	// rules; both are outAllow where an NSG applies.
	noNSG              bool
	bare, always       outcome
	bareWhy, alwaysWhy string
	q                  query
	fixed              map[string]bool // tags the source belongs to, if useFixed
	useFixed           bool
}

func (j *judge) start(p *Path, inbound bool) {
	j.path = *p
	j.ls, j.names, j.n = p.layers(inbound)
	j.noNSG = p.Subnet == nil && p.NIC == nil
	j.bare, j.always = outAllow, outAllow
}

func (j *judge) source(src netip.Addr, inbound bool) {
	if j.noNSG {
		from := inbound && j.path.fromInternet(src)
		j.bare, j.bareWhy = j.path.bare(from, false)
		j.always, j.alwaysWhy = j.path.bare(from, true)
	}
}

// conclude joins the results of the layers: the access, the index of the deciding layer (-1 where none decided), and why
// it is unknown.
func (j *judge) conclude() (Access, int, string) {
	outs, multi, firstMulti := outcome(0), 0, -1
	on := outPass // what can arrive at the next layer
	for i := 0; i < j.n && on&outPass != 0; i++ {
		o := j.rs[i].out
		if !o.single() {
			if multi++; firstMulti < 0 {
				firstMulti = i
			}
		}
		outs |= o & outDeny
		if j.names[i] == LayerAdmin {
			if o&outAllow != 0 {
				outs |= j.always
			}
			on = o & outPass
			continue
		}
		if o&outAllow == 0 {
			on = 0
		}
	}
	if on != 0 {
		outs |= j.bare
	}
	if !outs.single() && multi > 1 {
		e := explorer{j: j, budget: 100_000}
		if e.layer(0); e.budget > 0 {
			outs = e.outs
		}
	}
	switch outs {
	case outDeny:
		for i := range j.n {
			if j.rs[i].out == outDeny {
				return Deny, i, ""
			}
		}
		if multi > 0 && !j.noNSG {
			return Deny, firstMulti, whyEither
		}
		return Deny, -1, ""
	case outAllow:
		if j.n > 0 && j.names[0] == LayerAdmin && j.rs[0].out == outAllow {
			return Allow, 0, ""
		}
		if j.noNSG {
			return Allow, -1, ""
		}
		return Allow, j.n - 1, ""
	}
	if firstMulti >= 0 {
		return Unknown, firstMulti, j.rs[firstMulti].why
	}
	if j.bareWhy != "" && on != 0 {
		return Unknown, -1, j.bareWhy
	}
	return Unknown, -1, j.alwaysWhy
}

// verdict spells out the hops.
func (j *judge) verdict() Verdict {
	var v Verdict
	v.Access, v.Decider, v.Why = j.conclude()
	on := true
	for i := 0; i < j.n && on; i++ {
		h := j.path.hop(j.names[i], j.rs[i])
		v.Hops = append(v.Hops, h)
		on = h.Access != Deny && !h.Final
	}
	if j.noNSG && (on || j.n > 0 && v.Hops[0].Final) {
		h := Hop{Layer: LayerNone, Access: j.bare.access(), Why: j.bareWhy}
		if !on {
			h.Access, h.Why = j.always.access(), j.alwaysWhy
		}
		v.Hops = append(v.Hops, h)
	}
	if v.Decider < 0 {
		v.Decider = len(v.Hops) - 1
	}
	return v
}

// DecideAccess is Decide without the hops, for hot use: it allocates nothing. The rule is the deciding one, nil where none
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
	j := judge{q: q}
	j.start(&p, pk.Inbound)
	for i := range j.n {
		j.rs[i] = j.ls[i].decide(&q)
		if j.rs[i].out == outDeny && (i == 0 || j.rs[0].out&outAllow == 0 || j.names[0] != LayerAdmin) {
			return Deny, j.rs[i].ref // no later layer can change it
		}
	}
	j.source(pk.Src, pk.Inbound)
	a, d, _ := j.conclude()
	if d < 0 {
		return a, nil
	}
	return a, j.rs[d].ref
}

// Decide judges one packet over all layers. Unknown is given only where the layers together leave it open; a service tag
// with unknown addresses is the same set at each of them.
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
	j := judge{q: q}
	j.start(&p, pk.Inbound)
	for i := range j.n {
		j.rs[i] = j.ls[i].decide(&q)
	}
	j.source(pk.Src, pk.Inbound)
	return j.verdict()
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

package estate

import (
	"net/netip"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// Gap is something that could not be read, and what it hides.
type Gap struct {
	Source        string `json:"source"`                   // for example "network security groups"
	Subscription  string `json:"subscription,omitempty"`   // where it is missing; "" is everywhere
	Resource      string `json:"resource,omitempty"`       // the one resource that it is about
	Type          string `json:"type,omitempty"`           // full type of what is hidden, lower case; "" is every type
	Reason        string `json:"reason"`                   // why, for people
	NotAuthorized bool   `json:"not_authorized,omitempty"` // Azure refused it (401 or 403)
}

// WayKind says how traffic comes to a machine.
type WayKind string

// The kinds of ways.
const (
	PublicIP       WayKind = "public_ip"       // a public address on the ipConfiguration
	LBRule         WayKind = "lb_rule"         // a load balancer's rule
	NATRule        WayKind = "nat_rule"        // a load balancer's inbound NAT rule
	FirewallDNAT   WayKind = "firewall_dnat"   // a NAT rule of an Azure Firewall
	VirtualNetwork WayKind = "virtual_network" // from the network itself and what is connected to it
)

// Way is one path by which traffic comes to a port of an ipConfiguration, and who gets in on it.
type Way struct {
	Kind         WayKind
	Via          string     // id of the public address, the balancer's rule, the firewall's rule collection
	Address      netip.Addr // public address; invalid where none is assigned or it was not read
	FrontendPort uint16     // what a client connects to; the machine's port where nothing translates
	FrontendLast uint16     // last of a range of ports of which one leads to the machine, which one is not told; else 0
	NIC          string
	IPConfig     string
	Dest         netip.Addr // the address that the rules see
	Port         uint16     // the machine's port
	// Reach says who gets in through the rules. Of a way from outside the Internet zone counts, cut to what a firewall's DNAT rule
	// lets through; of VirtualNetwork the virtual network's zone. Its pieces are those of all ports that the rules do not tell from Port.
	Reach netsec.Reach
	// Path is what traffic passes, to explain a verdict.
	Path netsec.Path
	// Rule is the name of the firewall's NAT rule, Clients the public addresses that it lets in, and From the addresses that traffic
	// through the firewall comes from when rules see it: all of FirewallDNAT alone. Clients is nil where there is no rule.
	Rule    string
	Clients *netipx.IPSet
	From    []netip.Prefix
	// Unknown says why the way itself is not certain, "" when it is.
	Unknown string
}

// Ways returns every path by which traffic comes to a port of a machine, in a fixed order: for each address first that from the
// virtual network, then those from outside. Any as protocol stands for TCP and UDP together. A machine whose addresses are not
// known has no ways and a Problem. The answer is the same each time; the parts of a Reach are shared and must not be changed.
//
// Azure's Application Gateway, Front Door, Bastion and VPN are no ways: they end connections and sign people in themselves, and what
// they then open comes from the virtual network.
func (e *Estate) Ways(vm *VM, proto netsec.Protocol, port uint16) []Way {
	return e.AppendWays(make([]Way, 0, 2*len(vm.Endpoints)), vm, proto, port)
}

// AppendWays is Ways into room that the caller has: a way is large, and who judges many machines needs those of one at a time.
func (e *Estate) AppendWays(room []Way, vm *VM, proto netsec.Protocol, port uint16) []Way {
	w := wayfinder{e: e, proto: proto, port: port, ways: room}
	for i := range vm.Endpoints {
		if w.p = &vm.Endpoints[i]; w.p.in.path != nil {
			w.find()
		}
	}
	return w.ways
}

// nobody is the reach of an address that is not known: the way's Unknown says so.
var nobody = netsec.Reach{Internet: netsec.ZoneOf(nil), VirtualNetwork: netsec.ZoneOf(nil), Platform: netsec.ZoneOf(nil), Other: netsec.ZoneOf(nil)}

// wayfinder finds the ways to one endpoint.
type wayfinder struct {
	e     *Estate
	p     *Endpoint
	proto netsec.Protocol
	port  uint16
	ways  []Way
}

func (w *wayfinder) way(kind WayKind, via string) Way {
	return Way{Reach: nobody, Kind: kind, Via: via, FrontendPort: w.port, NIC: w.p.NIC, IPConfig: w.p.IPConfig, Port: w.port}
}

// add judges a way to dst and keeps it.
func (w *wayfinder) add(x Way, dst netip.Addr, public netsec.PublicDefault) {
	x.Path = w.p.in.path.netsec()
	x.Path.PublicWithoutNSG = public
	if x.Dest = dst; dst.IsValid() {
		x.Reach = *w.p.in.path.reachable(dst, w.proto, x.Port, public)
	}
	w.ways = append(w.ways, x)
}

func (w *wayfinder) find() {
	in := &w.p.in
	for _, a := range w.p.Addrs {
		w.add(w.way(VirtualNetwork, ""), a, netsec.Closed)
	}
	var dst netip.Addr
	if len(w.p.Addrs) > 0 {
		dst = w.p.Addrs[0]
	}
	if in.pip != 0 {
		x := w.way(PublicIP, w.e.id(in.pip))
		public := netsec.PublicUnknown
		if pip := w.e.b.pips.get(in.pip); pip == nil {
			x.Unknown = "the public address was not read" + w.e.Unread(x.Via)
		} else {
			x.Address, public = pip.addr, publicDefault(pip.sku)
			if pip.twice {
				x.Unknown = "the public address stands twice with different content"
			}
		}
		if !dst.IsValid() {
			x.Unknown = "the private address behind it is not known"
		}
		w.add(x, dst, public)
	}
	if dst.IsValid() && len(w.e.forwards.to) > 0 {
		w.forwarded(dst, dst, w.port)
	}
	if len(w.e.forwards.blind) > 0 {
		w.blindFirewalls(dst)
	}
	if in.more == nil {
		return
	}
	for i := range in.more.fronts {
		w.balanced(&in.more.fronts[i], dst)
	}
	for _, m := range in.more.doubts {
		x := w.way(m.kind, "")
		x.Unknown = m.why
		w.add(x, dst, netsec.PublicUnknown)
		if m.kind == FirewallDNAT && dst.IsValid() { // rules see an address of the firewall, wherever it is
			last := &w.ways[len(w.ways)-1]
			last.Reach.Internet = throughFirewall(last.Reach, nil, netsec.PublicSpace())
		}
	}
}

// publicDefault is what a public address or load balancer lets in where there is no group. FACTS 2.3. Bodies without a SKU come from
// API versions that knew Basic alone and from callers that left it out, which Azure took for Basic until that was retired.
func publicDefault(sku string) netsec.PublicDefault {
	switch {
	case strings.EqualFold(sku, "Standard") || strings.EqualFold(sku, "StandardV2"):
		return netsec.Closed
	case strings.EqualFold(sku, "Basic"):
		return netsec.Open
	}
	return netsec.PublicUnknown
}

// balanced adds the way of a load balancer's rule, if it leads to the port.
func (w *wayfinder) balanced(b *binding, dst netip.Addr) {
	if b.gone != 0 {
		x := w.way(LBRule, w.e.id(b.gone))
		x.Unknown = "the load balancer was not read" + w.e.Unread(parent(w.e.id(b.gone)))
		w.add(x, dst, netsec.PublicUnknown)
		return
	}
	r := b.rule
	if w.proto != netsec.Any && r.proto != netsec.Any && r.proto != w.proto || r.backend != 0 && r.backend != w.port {
		return
	}
	kind := LBRule
	if r.nat {
		kind = NATRule
	}
	x := w.way(kind, w.e.id(r.id))
	if r.first != 0 {
		x.FrontendPort = r.first
		if r.ranged && r.last != r.first {
			x.FrontendLast = r.last
		}
	}
	doubt := func(why string) {
		if x.Unknown == "" {
			x.Unknown = why
		}
	}
	if b.lb.absent {
		doubt("the load balancer " + b.lb.id + " was not read, only parts of it" + w.e.Unread(b.lb.id))
	}
	if b.lb.twice {
		doubt("the load balancer stands twice with different content")
	}
	if r.badProto != "" {
		doubt("the rule's protocol is not understood")
	}
	f := b.lb.frontOf(r)
	if f == nil {
		doubt("the rule's frontend is not at the load balancer")
		w.add(x, dst, netsec.PublicUnknown)
		return
	}
	front := f.addr
	if f.pip != 0 {
		if pip := w.e.b.pips.get(f.pip); pip == nil {
			doubt("the frontend's public address was not read" + w.e.Unread(w.e.id(f.pip)))
		} else {
			front = pip.addr
			if pip.twice {
				doubt("the frontend's public address stands twice with different content")
			}
		}
		x.Address = front
	}
	if front.IsValid() && dst.IsValid() && front.Is4() != dst.Is4() {
		return // a balancer does not translate between address families
	}
	if r.floating {
		// The machine answers for the frontend's address itself, and rules see that one.
		if dst = front; !front.IsValid() {
			doubt("the rule uses floating IP, and the frontend's address is not known")
		}
	} else if !dst.IsValid() {
		doubt("the private address behind it is not known")
	}
	if f.pip == 0 {
		if front.IsValid() && x.Unknown == "" && r.last == r.first {
			w.forwarded(front, dst, x.FrontendPort)
		}
		// From inside the network the machine's own address leads to the same port; only floating IP shows rules another one.
		if r.floating {
			x.Kind = VirtualNetwork
			w.add(x, dst, netsec.Closed)
		}
		return
	}
	sku := b.lb.sku
	if sku == "" {
		sku = "Basic" // what Azure takes a balancer without one for: SPEC-LB
	}
	w.add(x, dst, publicDefault(sku))
}

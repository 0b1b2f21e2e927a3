package scan

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Question is what Explain answers: does this source get to this port?
type Question struct {
	Protocol netsec.Protocol // TCP, UDP or another; Any stands for TCP and UDP together
	Port     uint16
	From     From
	// SourcePort is the port that the source sends from. 0: whichever gets it in.
	SourcePort uint16
}

// From is a source of traffic: one address, or a part of the world. The zero value is the Internet.
type From struct {
	Addr           netip.Addr // valid: this address alone
	VirtualNetwork bool       // everything in the virtual network and what is connected to it
}

// ParseFrom reads an address, "internet" or "virtual-network", in any case.
func ParseFrom(s string) (From, error) {
	switch t := strings.ToLower(strings.TrimSpace(s)); t {
	case "internet", "":
		return From{}, nil
	case "virtual-network", "virtualnetwork", "virtual_network", "vnet":
		return From{VirtualNetwork: true}, nil
	default:
		a, err := netip.ParseAddr(t)
		if err != nil || a.Zone() != "" {
			return From{}, fmt.Errorf("source %q is no address, and neither internet nor virtual-network", s)
		}
		return From{Addr: a.Unmap()}, nil
	}
}

// String returns the address, internet or virtual-network.
func (f From) String() string {
	switch {
	case f.Addr.IsValid():
		return f.Addr.String()
	case f.VirtualNetwork:
		return "virtual-network"
	}
	return "internet"
}

func (f From) words() string {
	switch {
	case f.Addr.IsValid():
		return f.Addr.String()
	case f.VirtualNetwork:
		return "the virtual network"
	}
	return "the Internet"
}

// Explanation is the answer to a Question: every way by which the source could come to the port, hop by hop, and which of them
// decides. Access is allow where any way lets the source in, or a part of it; unknown where one might and none surely does; else deny.
type Explanation struct {
	VM       string   `json:"vm"` // id
	Name     string   `json:"name"`
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port"`
	Source   string   `json:"source"`
	FromPort uint16   `json:"source_port,omitempty"` // that was asked for
	Access   string   `json:"access"`                // allow, deny or unknown
	Summary  string   `json:"summary"`
	Ways     []Way    `json:"ways"`               // those that the source can take
	Problems []string `json:"problems,omitempty"` // what could not be read of the machine
}

// Explain says whether a source gets to a port of a machine, and why. It is pure; the same question gets the same answer. What could
// not be read makes the answer unknown, never deny (promise P10).
func Explain(e *estate.Estate, vm *estate.VM, q Question) Explanation {
	x := Explanation{VM: vm.ID, Name: vm.Name, Protocol: protocolWord(q.Protocol), Port: q.Port, Source: q.From.String(), FromPort: q.SourcePort, Ways: []Way{}}
	for _, p := range vm.Problems {
		x.Problems = append(x.Problems, p.What)
	}
	t := tracer{e: e, q: q}
	for _, w := range e.Ways(vm, q.Protocol, q.Port) {
		if !t.takes(&w) {
			continue
		}
		if q.SourcePort != 0 {
			w.Reach = w.Reach.FromPort(q.SourcePort)
		}
		x.Ways = append(x.Ways, t.trace(&w))
		t.whole = append(t.whole, t.q.From.Addr.IsValid() || t.everybody(&w))
	}
	x.conclude(q, t.whole, missing(vm))
	return x
}

func protocolWord(p netsec.Protocol) string {
	if p == netsec.Any {
		return "tcp+udp"
	}
	return strings.ToLower(p.String())
}

// conclude sums the ways up. A part of the machine that is missing may have ways that nobody sees; anything else that could not be read
// stands in the ways, and a way that is shut all the same is shut.
func (x *Explanation) conclude(q Question, whole []bool, missing string) {
	best := -1
	for i := range x.Ways {
		if best < 0 || accessRank(x.Ways[i].Access) > accessRank(x.Ways[best].Access) {
			best = i
		}
	}
	to := fmt.Sprintf("%s port %d of %s", strings.ToUpper(x.Protocol), x.Port, x.Name)
	if q.Protocol != netsec.Any && q.Protocol != netsec.TCP && q.Protocol != netsec.UDP {
		to = fmt.Sprintf("%s to %s", x.Protocol, x.Name)
	}
	from := q.From.words()
	if q.SourcePort != 0 {
		from += fmt.Sprintf(" (from source port %d)", q.SourcePort)
	}
	switch {
	case best >= 0 && x.Ways[best].Access == "allow":
		x.Access = "allow"
		some := ""
		if !whole[best] {
			some = " (some addresses)"
		}
		if p := x.Ways[best].SourcePorts; p != "" && q.SourcePort == 0 {
			some += ", sending from source port " + p + " alone,"
		}
		x.Summary = fmt.Sprintf("%s%s gets to %s: %s", from, some, to, x.Ways[best].Why)
	case best >= 0 && x.Ways[best].Access == "unknown":
		x.Access = "unknown"
		x.Summary = fmt.Sprintf("whether %s gets to %s is not known: %s", from, to, x.Ways[best].Why)
	case missing != "":
		x.Access = "unknown"
		x.Summary = fmt.Sprintf("whether %s gets to %s is not known: %s", from, to, missing)
	case best >= 0:
		x.Access = "deny"
		x.Summary = fmt.Sprintf("%s does not get to %s: %s", from, to, x.Ways[best].Why)
	default:
		x.Access = "deny"
		x.Summary = fmt.Sprintf("%s does not get to %s: no way leads from there to the machine", from, to)
		if !q.From.VirtualNetwork {
			family := ""
			if a := q.From.Addr; a.IsValid() {
				family = " for IPv4"
				if a.Is6() {
					family = " for IPv6"
				}
			}
			x.Summary = fmt.Sprintf("%s does not get to %s: it has no public address%s, and no load balancer or firewall leads to that port", from, to, family)
		}
	}
	x.Summary = strings.ToUpper(x.Summary[:1]) + x.Summary[1:] + "."
}

func accessRank(a string) int {
	switch a {
	case "allow":
		return 2
	case "unknown":
		return 1
	}
	return 0
}

// tracer follows one question along the ways of a machine.
type tracer struct {
	e     *estate.Estate
	q     Question
	whole []bool // by way: all of the part of the world that was asked about gets in
}

// hostAddr is the virtual address of the host, where health probes come from.
var hostAddr = netip.MustParseAddr("168.63.129.16")

// inside tells whether an address belongs to the virtual network or to other private space, and not to the Internet.
func inside(a netip.Addr, vnet []netip.Prefix) bool {
	if !netsec.PublicSpace().Contains(a) {
		return true
	}
	for _, p := range vnet {
		if p.Bits() > 0 && p.Contains(a) {
			return true
		}
	}
	return false
}

// takes tells whether the source can come this way at all. A public address comes by a public address; from the network and from other
// private space traffic comes to the machine's own address.
func (t *tracer) takes(w *estate.Way) bool {
	within := w.Kind == estate.VirtualNetwork
	if !t.q.From.Addr.IsValid() {
		return within == t.q.From.VirtualNetwork
	}
	if a := t.q.From.Addr; w.Dest.IsValid() && a.Is4() != w.Dest.Is4() && w.Unknown == "" && (within || w.Kind != estate.FirewallDNAT) {
		return false
	}
	return within == inside(t.q.From.Addr, w.Path.VirtualNetwork)
}

// trace judges one way.
func (t *tracer) trace(w *estate.Way) Way {
	x := Way{Kind: string(w.Kind), Via: w.Via, NIC: w.NIC, IPConfig: w.IPConfig, Zone: "internet"}
	if w.Kind == estate.VirtualNetwork {
		x.Zone = "virtual_network"
	}
	if w.Address.IsValid() {
		x.Address = w.Address.String()
	}
	if w.FrontendPort != w.Port {
		x.FrontendPort = w.FrontendPort
	}
	if w.Dest.IsValid() {
		x.Destination = w.Dest.String()
	}
	t.entry(w, &x)
	switch {
	case !w.Dest.IsValid():
	case t.q.From.Addr.IsValid():
		t.address(w, &x)
	default:
		t.zone(w, &x)
	}
	t.decide(w, &x)
	return x
}

// entry is the hop where traffic comes in from outside.
func (t *tracer) entry(w *estate.Way, x *Way) {
	h := Hop{Group: w.Via, Access: "allow"}
	to := fmt.Sprintf("port %d of %s", w.Port, dash(x.Destination))
	front := ""
	if x.Address != "" {
		front = x.Address + " "
	}
	switch w.Kind {
	case estate.PublicIP:
		h.Layer, h.Why = "public_ip", fmt.Sprintf("public address %s leads to %s", dash(strings.TrimSpace(front)), dash(x.Destination))
	case estate.LBRule, estate.NATRule:
		h.Layer, h.Rule = "load_balancer", lastPart(w.Via)
		h.Why = fmt.Sprintf("%s leads from %sport %s to %s", kindWords[w.Kind], front, frontPorts(w), to)
	case estate.FirewallDNAT:
		h.Layer, h.Rule = "firewall", w.Rule
		h.Why = fmt.Sprintf("the firewall's %s leads from %sport %s to %s", natText(w), front, frontPorts(w), to)
		if a := t.q.From.Addr; a.IsValid() && w.Clients != nil && !w.Clients.Contains(a) {
			h.Access, h.Why = "deny", fmt.Sprintf("the firewall's %s does not let %s in", natText(w), a)
		}
	default:
		if w.Via == "" {
			return
		}
		h.Layer, h.Rule = "load_balancer", lastPart(w.Via)
		h.Why = fmt.Sprintf("a rule with floating IP leads from port %s to %s, under its own address", frontPorts(w), to)
	}
	if w.Unknown != "" && h.Access == "allow" {
		h.Access, h.Why = "unknown", w.Unknown
	}
	x.Hops = append(x.Hops, h)
}

var kindWords = map[estate.WayKind]string{estate.LBRule: "the load balancer's rule", estate.NATRule: "the inbound NAT rule"}

func frontPorts(w *estate.Way) string {
	if w.FrontendLast != 0 {
		return fmt.Sprintf("%d to %d (one of them)", w.FrontendPort, w.FrontendLast)
	}
	return fmt.Sprint(w.FrontendPort)
}

// address judges one source address.
func (t *tracer) address(w *estate.Way, x *Way) {
	src := t.q.From.Addr
	x.Sources = []string{src.String()}
	if w.Kind == estate.FirewallDNAT {
		if x.Hops[0].Access != "deny" {
			t.behindFirewall(w, x)
		}
		return
	}
	t.hops(x, t.verdict(w, x, src))
}

// usual is a source port as clients use it.
const usual = 50000

// verdict judges a packet of the source from the source port that was asked for, else from the one that gets furthest: who wants in
// chooses it. Where the usual one does not do, x says which does.
func (t *tracer) verdict(w *estate.Way, x *Way, src netip.Addr) netsec.Verdict {
	from := func(port uint16) netsec.Verdict {
		return w.Path.Decide(netsec.Packet{Src: src, Dst: w.Dest, SrcPort: port, DstPort: w.Port, Protocol: t.q.Protocol, Inbound: true})
	}
	if t.q.SourcePort != 0 {
		return from(t.q.SourcePort)
	}
	best := from(usual)
	for _, z := range []*netsec.Zone{&w.Reach.Internet, &w.Reach.VirtualNetwork, &w.Reach.Platform, &w.Reach.Other} {
		for i := range z.Open {
			p := z.Open[i].SourcePorts
			if p == netsec.AllPorts || p.Contains(usual) || best.Access == netsec.Allow {
				continue
			}
			if v := from(p.First); v.Access == netsec.Allow || v.Access == netsec.Unknown && best.Access == netsec.Deny {
				best, x.SourcePorts = v, p.String()
			}
		}
	}
	return best
}

// behindFirewall judges traffic that comes from the firewall's own subnet.
func (t *tracer) behindFirewall(w *estate.Way, x *Way) {
	z := &w.Reach.Internet
	for _, p := range w.From {
		if a := p.Addr().Next().Next().Next().Next(); p.Contains(a) && a.Is4() == w.Dest.Is4() { // Azure keeps the first four of a subnet
			v := t.verdict(w, x, a)
			t.hops(x, v)
			if z.Access() == netsec.Unknown && v.Access != netsec.Unknown {
				last := &x.Hops[len(x.Hops)-1]
				last.Access, last.Why = "unknown", "rules let in a part of the firewall's addresses, and which one it uses is not known"
				x.Access, x.Decider = "unknown", len(x.Hops)-1
			}
			return
		}
	}
}

// zone judges a part of the world: the most open piece of it is shown.
func (t *tracer) zone(w *estate.Way, x *Way) {
	z := &w.Reach.Internet
	if w.Kind == estate.VirtualNetwork {
		z = &w.Reach.VirtualNetwork
	}
	x.Sources, x.MoreSources = sourcesOf(z)
	if w.Kind == estate.FirewallDNAT {
		if z.Access() == netsec.Deny && w.Clients != nil && len(w.Clients.Ranges()) == 0 {
			x.Hops[0].Access, x.Hops[0].Why = "deny", "the firewall's "+natText(w)+" lets no public address in"
			return
		}
		t.behindFirewall(w, x)
		return
	}
	if p := widest(z); p != nil {
		v := netsec.Verdict{Access: p.Access, Hops: p.Hops, Decider: p.Decider, Why: p.Why}
		x.SourcePorts = sourcePorts(p)
		t.hops(x, v)
		return
	}
	// All of it is denied: one address stands for the rest.
	if src := t.sample(w); src.IsValid() {
		t.hops(x, t.verdict(w, x, src))
	}
}

// sourcePorts are the ports that a client must send from, "" where any will do.
func sourcePorts(p *netsec.PathPiece) string {
	if p.SourcePorts == netsec.AllPorts {
		return ""
	}
	return p.SourcePorts.String()
}

// everybody tells whether a whole part of the world gets in, or of the Internet so much that it counts as all.
func (t *tracer) everybody(w *estate.Way) bool {
	if w.Kind != estate.VirtualNetwork {
		return w.Reach.Internet.Exposed()
	}
	for _, p := range w.Path.VirtualNetwork {
		if p.Bits() > 0 && p.Addr().Is4() == w.Dest.Is4() && !w.Reach.VirtualNetwork.Allowed.ContainsPrefix(p) {
			return false
		}
	}
	return true
}

// widest returns the piece that lets in most, one that might where none does, nil where all is denied.
func widest(z *netsec.Zone) *netsec.PathPiece {
	var best *netsec.PathPiece
	for i := range z.Open {
		p := &z.Open[i]
		switch {
		case best == nil, p.Access == netsec.Allow && best.Access != netsec.Allow:
			best = p
		case p.Access != best.Access:
		case breadth(p) > breadth(best):
			best = p
		}
	}
	return best
}

// breadth orders pieces by how many addresses they hold: by their widest prefix.
func breadth(p *netsec.PathPiece) int {
	if p.Tag != "" {
		return 0
	}
	n := 0
	if p.SourcePorts == netsec.AllPorts {
		n++ // of two that are as wide the one that asks for nothing more
	}
	most := 1
	for _, x := range p.IPs.Prefixes() {
		most = max(most, 1+x.Addr().BitLen()-x.Bits())
	}
	return 2*most + n
}

// sample is an address of the part of the world that is asked about.
func (t *tracer) sample(w *estate.Way) netip.Addr {
	if w.Kind == estate.VirtualNetwork {
		for _, p := range w.Path.VirtualNetwork {
			if a := p.Addr().Next().Next().Next().Next(); p.Bits() > 0 && p.Addr().Is4() == w.Dest.Is4() {
				if a == w.Dest {
					a = a.Next()
				}
				return a
			}
		}
		return netip.Addr{}
	}
	for _, p := range netsec.PublicSpace().Prefixes() {
		if a := p.Addr().Next(); a.Is4() == w.Dest.Is4() && !inside(a, w.Path.VirtualNetwork) {
			return a
		}
	}
	return netip.Addr{}
}

// decide says how the way ends, and why: rules decide, unless it ends before them or the way itself is not certain.
func (t *tracer) decide(w *estate.Way, x *Way) {
	entry := -1
	if len(x.Hops) > 0 && (x.Hops[0].Access == "deny" || x.Hops[0].Access == "unknown") && x.Hops[0].Layer != "none" && x.Hops[0].Group == w.Via {
		entry = 0
	}
	switch {
	case entry == 0 && x.Hops[0].Access == "deny":
		x.Access, x.Decider, x.Why = "deny", 0, x.Hops[0].Why
	case x.Access == "": // rules were not asked
		x.Access, x.Decider, x.Why = "unknown", max(entry, 0), w.Unknown
		if x.Why == "" {
			x.Why = "the address that rules see is not known"
		}
	case x.Access == "allow" && w.Unknown != "":
		x.Access, x.Decider, x.Why = "unknown", max(entry, 0), w.Unknown
	default:
		x.Why = x.Hops[x.Decider].Why
	}
}

func dash(s string) string {
	if s == "" {
		return "(not known)"
	}
	return s
}

func lastPart(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

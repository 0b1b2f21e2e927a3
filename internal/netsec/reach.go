package netsec

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Zone is what reaches a destination from one part of the world.
type Zone struct {
	// Allowed are the sources that get in on at least one of the ports asked for, and Unknown those that might.
	Allowed, Unknown *netipx.IPSet
	// Tags are the service tags with unknown addresses from which traffic gets in; UnknownTags those from which it might.
	// Several that a source must belong to at once are joined by "+".
	Tags, UnknownTags []string
	// Open holds every piece that is not denied, cut to the zone, with its deciding rules.
	Open []PathPiece
}

// Access is Allow if anything gets in, Unknown if something might, else Deny.
func (z Zone) Access() Access {
	a := Deny
	for i := range z.Open {
		if z.Open[i].Access == Allow {
			return Allow
		}
		a = Unknown
	}
	return a
}

// Exposed reports whether what gets in counts as the Internet at large (see the function Exposed).
func (z Zone) Exposed() bool {
	if exposed(setRanges(z.Allowed), nil) {
		return true
	}
	for i := range z.Open {
		p := &z.Open[i]
		if p.Access != Allow {
			continue
		}
		if len(p.Tags) > 0 {
			if !slices.ContainsFunc(p.Tags, func(t string) bool { return !AnyTenant(t) }) && exposed(p.rs, nil) {
				return true
			}
			continue
		}
		if p.fromAnyTenant() {
			return true
		}
	}
	return false
}

// fromAnyTenant reports whether the piece gets in by a tag with known addresses that any tenant can send from, and no hop
// narrows it to less.
func (p *PathPiece) fromAnyTenant() bool {
	tenant := false
	for _, h := range p.Hops {
		if h.Rule == nil || h.Rule.width == nil {
			continue
		}
		if !h.Rule.width.broad() {
			return false
		}
		tenant = tenant || p.rs.overlaps(h.Rule.width.anyTenant)
	}
	return tenant
}

// Reach says who reaches a destination. Every source lies in exactly one zone.
type Reach struct {
	// Internet is public space outside the virtual network.
	Internet Zone
	// VirtualNetwork is what the tag of that name holds, but for the host's address and default routes. Where the
	// prefixes of the network are not known it is all private space.
	VirtualNetwork Zone
	// Platform is the host's address 168.63.129.16, where health probes come from.
	Platform Zone
	// Other is private space outside the virtual network.
	Other Zone
}

// Exposed reports whether the Internet at large gets in.
func (r Reach) Exposed() bool { return r.Internet.Exposed() }

// Closed reports whether both the Internet and the virtual network are surely denied (promise P4).
func (r Reach) Closed() bool { return r.Internet.Access() == Deny && r.VirtualNetwork.Access() == Deny }

// Except returns the reach without the allowed pieces that skip names: what exemptions and live grants hold open.
func (r Reach) Except(skip func(*PathPiece) bool) Reach {
	return Reach{r.Internet.except(skip), r.VirtualNetwork.except(skip), r.Platform.except(skip), r.Other.except(skip)}
}

// FromPort is what is left for clients that send from one source port.
func (r Reach) FromPort(port uint16) Reach {
	of := func(z Zone) Zone {
		return newZone(slices.DeleteFunc(slices.Clone(z.Open), func(p PathPiece) bool { return !p.SourcePorts.Contains(port) }))
	}
	return Reach{of(r.Internet), of(r.VirtualNetwork), of(r.Platform), of(r.Other)}
}

func (z Zone) except(skip func(*PathPiece) bool) Zone {
	return newZone(slices.DeleteFunc(slices.Clone(z.Open), func(p PathPiece) bool {
		return p.Access == Allow && p.Rule != nil && skip(&p)
	}))
}

func newZone(open []PathPiece) Zone {
	z := Zone{Open: open}
	var allowed, unknown []ranges
	for i := range open {
		p := &open[i]
		switch {
		case p.Tag != "" && p.Access == Allow:
			z.Tags = appendNew(z.Tags, p.Tag)
		case p.Tag != "":
			z.UnknownTags = appendNew(z.UnknownTags, p.Tag)
		case p.Access == Allow:
			allowed = append(allowed, p.rs)
		default:
			unknown = append(unknown, p.rs)
		}
	}
	in := union(allowed...)
	z.Allowed, z.Unknown = z.known(in), z.known(union(unknown...).minus(in))
	return z
}

// known is a set, which one of the zone's pieces may have already.
func (z *Zone) known(rs ranges) *netipx.IPSet {
	if len(rs) == 0 {
		return emptySet
	}
	for i := range z.Open {
		if x := &z.Open[i]; x.IPs != nil && slices.Equal(x.rs, rs) {
			return x.IPs
		}
	}
	return rs.set()
}

// ZoneOf returns the zone of pieces that a caller has changed: what IPs and Tag say counts, and pieces that are denied are left out. It
// serves what translates addresses on the way, so that the sources are others than those that the rules saw.
func ZoneOf(open []PathPiece) Zone {
	var kept []PathPiece
	for _, p := range open {
		if p.Access != Deny {
			p.rs = setRanges(p.IPs)
			kept = append(kept, p)
		}
	}
	return newZone(kept)
}

func appendNew(ss []string, s string) []string {
	if slices.Contains(ss, s) {
		return ss
	}
	return append(ss, s)
}

// AlikePorts returns the ports around one that no inbound rule of the path tells apart, for any protocol: for all of them the answer of
// Reachable is the same, but for the ports in its pieces.
func (p Path) AlikePorts(port uint16) PortRange {
	out := AllPorts
	ls, _, n := p.layers(true)
	for _, l := range ls[:n] {
		for i := range l.rules {
			for _, r := range l.rules[i].dports {
				switch {
				case r.Last < port:
					out.First = max(out.First, r.Last+1)
				case r.First > port:
					out.Last = min(out.Last, r.First-1)
				default:
					out.First, out.Last = max(out.First, r.First), min(out.Last, r.Last)
				}
			}
		}
	}
	return out
}

// Reachable says from where traffic to dst gets in on at least one of the ports.
func (p Path) Reachable(dst netip.Addr, proto Protocol, ports PortRange) Reach {
	place := p.place()
	zones := place.zones
	var in [4][]PathPiece
	for _, x := range p.sources(dst, proto, ports) {
		if x.Access == Deny {
			continue
		}
		for i := range zones {
			y := x
			if y.rs = x.rs.and(zones[i]); len(y.rs) > 0 {
				// Most of what is open is open to a whole zone: those of a network are kept once.
				if slices.Equal(y.rs, zones[i]) {
					y.rs, y.IPs = zones[i], place.zoneSet(i)
				} else {
					y.IPs = y.rs.set()
				}
				in[i] = append(in[i], y)
			}
		}
	}
	return Reach{newZone(in[0]), newZone(in[1]), newZone(in[2]), newZone(in[3])}
}

// Decide judges a packet to the machine: it goes to the endpoint that has its destination (Src, if outbound). An address
// that no endpoint has is Unknown. Of several endpoints with the address the most open verdict counts.
func (m Machine) Decide(pk Packet) Verdict {
	own := pk.Dst
	if !pk.Inbound {
		own = pk.Src
	}
	best := Verdict{Decider: -1, Why: "no network interface of the machine has the address"}
	found := false
	for i := range m {
		if !m[i].has(own) {
			continue
		}
		if v := m[i].Path.Decide(pk); !found || openness(v.Access) > openness(best.Access) {
			best, found = v, true
		}
	}
	return best
}

func openness(a Access) int {
	switch a {
	case Allow:
		return 2
	case Unknown:
		return 1
	}
	return 0
}

func (e *Endpoint) has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(e.Addrs, func(x netip.Addr) bool { return x.Unmap().WithZone("") == a })
}

// EndpointReach is the reach of one address of one endpoint.
type EndpointReach struct {
	NIC, IPConfig string
	Addr          netip.Addr
	Reach         Reach
}

// Reachable answers for every address of every endpoint, and in sum: the machine is reachable where any endpoint is.
func (m Machine) Reachable(proto Protocol, ports PortRange) (Reach, []EndpointReach) {
	var all [4][]PathPiece
	var each []EndpointReach
	for i := range m {
		for _, a := range m[i].Addrs {
			r := m[i].Path.Reachable(a, proto, ports)
			each = append(each, EndpointReach{NIC: m[i].NIC, IPConfig: m[i].IPConfig, Addr: a, Reach: r})
			for j, z := range []*Zone{&r.Internet, &r.VirtualNetwork, &r.Platform, &r.Other} {
				all[j] = append(all[j], z.Open...)
			}
		}
	}
	return Reach{newZone(all[0]), newZone(all[1]), newZone(all[2]), newZone(all[3])}, each
}

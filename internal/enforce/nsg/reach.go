package nsg

import (
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/netsec"
)

var (
	allAddrs = setOf(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	// hostAddrs are where health probes come from: the tag AzureLoadBalancer. FACTS 2.3, recorded tagMap.
	hostAddrs = []netip.Prefix{netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("fe80::1234:5678:9abc/128")}
)

func setOf(ps ...netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range ps {
		if p.IsValid() {
			b.AddPrefix(p.Masked())
		}
	}
	s, _ := b.IPSet() // fails on invalid prefixes only
	return s
}

// reach is what an inbound rule of somebody else's may match. What is not understood or not known matches everything, because
// an allow that could bypass a deny is taken for one that does, and a deny that could stop somebody for one that does.
type reach struct {
	name        string
	prio        int
	allow, deny bool // both when its access is not understood
	tcp, udp    bool
	src, dst    *netipx.IPSet
	ports       []netsec.PortRange
	sources     []string // as they stand in the rule
	exactSource bool     // src is exactly what the rule matches
}

func reachOf(r azure.SecurityRule, env netsec.Env) reach {
	x := reach{name: r.Name, prio: r.Priority, sources: r.SourcePrefixes}
	switch a, err := netsec.ParseAccess(r.Access); {
	case err != nil:
		x.allow, x.deny = true, true
	case a == netsec.Allow:
		x.allow = true
	default:
		x.deny = true
	}
	switch p, err := netsec.ParseProtocol(r.Protocol); {
	case err != nil, p == netsec.Any:
		x.tcp, x.udp = true, true
	case p == netsec.TCP:
		x.tcp = true
	case p == netsec.UDP:
		x.udp = true
	}
	for _, t := range r.DestinationPorts {
		p, err := netsec.ParsePortRange(t)
		if err != nil {
			p = netsec.AllPorts
		}
		x.ports = append(x.ports, p)
	}
	if len(r.DestinationPorts) == 0 {
		x.ports = []netsec.PortRange{netsec.AllPorts}
	}
	x.src, x.exactSource = addresses(r.SourcePrefixes, r.SourceASGs, env)
	x.dst, _ = addresses(r.DestinationPrefixes, r.DestinationASGs, env)
	return x
}

// addresses returns the addresses that one side of a rule may match, and whether that is exact.
func addresses(texts, asgs []string, env netsec.Env) (*netipx.IPSet, bool) {
	if len(texts)+len(asgs) == 0 {
		return allAddrs, false
	}
	var b netipx.IPSetBuilder
	exact := true
	for _, t := range texts {
		lower := strings.ToLower(strings.TrimSpace(t))
		if p, ok := netsec.ParsePrefix(t); ok {
			b.AddPrefix(p)
			continue
		}
		known, ok := env.Tags[lower]
		switch {
		case lower == "*", lower == "any":
			return allAddrs, true
		case lower == "azureloadbalancer", lower == "azure_loadbalancer":
			known, ok = hostAddrs, true
		case lower == "virtualnetwork" || lower == "virtual_network":
			known, ok = append(slices.Clone(env.VirtualNetwork), hostAddrs...), len(env.VirtualNetwork) > 0
		case lower == "internet":
			b.AddSet(netsec.PublicSpace()) // at most: less the network's own ranges
			exact = false
			continue
		}
		if !ok {
			return allAddrs, false
		}
		for _, p := range known {
			if p.IsValid() {
				b.AddPrefix(p.Masked())
			}
		}
	}
	for _, id := range asgs {
		members, ok := env.ASGs[strings.ToLower(id)]
		if !ok {
			return allAddrs, false
		}
		for _, a := range members {
			if a.IsValid() {
				b.Add(a.Unmap().WithZone(""))
			}
		}
	}
	s, err := b.IPSet()
	if err != nil {
		return allAddrs, false
	}
	return s, exact
}

// touches tells whether the rule may match a packet to the port and protocol at all.
func (x *reach) touches(ports access.Ports, proto access.Protocol) bool {
	if proto == access.TCP && !x.tcp || proto == access.UDP && !x.udp {
		return false
	}
	p := netsec.PortRange{First: ports.First, Last: ports.Last}
	return slices.ContainsFunc(x.ports, p.Overlaps)
}

func (x *reach) reaches(dst netip.Addr) bool { return x.dst.Contains(dst) }

// excused tells whether an allow lets in only what exemptions let in anyway, for the family of dst.
func (x *reach) excused(exempt *netipx.IPSet, dst netip.Addr) bool {
	if len(x.sources) == 1 && strings.EqualFold(x.sources[0], "AzureLoadBalancer") {
		return exempt.Contains(hostAddrs[0].Addr())
	}
	for _, r := range x.src.Ranges() {
		if r.From().Is4() == dst.Is4() && !exempt.ContainsRange(r) {
			return false
		}
	}
	return true
}

// sourcePrefixes returns what the source of an exemption stands for: a prefix, or the tag AzureLoadBalancer.
func sourcePrefixes(source string) ([]netip.Prefix, bool) {
	if strings.EqualFold(source, "AzureLoadBalancer") {
		return hostAddrs, true
	}
	p, ok := netsec.ParsePrefix(source)
	return []netip.Prefix{p}, ok
}

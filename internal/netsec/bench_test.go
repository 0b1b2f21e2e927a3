package netsec_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// fifty is an NSG with 50 rules of the kinds that are found in the field: grants, addresses, ranges, tags, ASGs.
func fifty() (netsec.Group, netsec.Env) {
	env := netsec.Env{
		VirtualNetwork: prefixes("10.0.0.0/16", "10.1.0.0/16", "fd00::/48"),
		Tags:           map[string][]netip.Prefix{"sql": prefixes("20.1.2.0/24", "8.8.8.8/32")},
		ASGs:           map[string][]netip.Addr{"/asg/web": addrs("10.0.0.4", "10.0.0.5", "10.0.0.6")},
	}
	g := netsec.Group{ID: "/nsg/web"}
	for i := range 50 {
		r := netsec.Rule{Name: fmt.Sprintf("r%d", i), Priority: 100 + 10*i, Inbound: true, Access: netsec.Allow, Protocol: "Tcp",
			Sources: []string{fmt.Sprintf("203.0.113.%d", i)}, Destinations: []string{"10.0.0.4"}, SourcePorts: star, DestinationPorts: []string{"22"}}
		switch i % 5 {
		case 1:
			r.Sources, r.DestinationPorts = []string{"198.51.100.0/24", "203.0.113.128/25"}, []string{"443", "8000-8100"}
		case 2:
			r.Sources, r.Protocol = []string{"Sql"}, "*"
		case 3:
			r.Destinations, r.DestinationASGs = nil, []string{"/asg/web"}
		case 4:
			r.Destinations, r.DestinationPorts = []string{"10.0.1.0/24"}, star
		}
		g.Rules = append(g.Rules, r)
	}
	return g, env
}

// lastPacket passes all 50 rules and ends at the default rules.
var lastPacket = netsec.Packet{Src: netip.MustParseAddr("9.9.9.9"), Dst: netip.MustParseAddr("10.0.0.4"), SrcPort: 40000, DstPort: 22,
	Protocol: netsec.TCP, Inbound: true}

func BenchmarkDecide50Rules(b *testing.B) {
	g, env := fifty()
	c := netsec.Compile(g, env)
	b.ReportAllocs()
	for b.Loop() {
		if d := c.Decide(lastPacket); d.Access != netsec.Deny {
			b.Fatal(d)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verdicts/s")
}

func BenchmarkDecidePath(b *testing.B) {
	g, env := fifty()
	p := netsec.Path{Admin: netsec.CompileAdmin(nil, env), Subnet: netsec.Compile(g, env), NIC: netsec.Compile(g, env)}
	b.ReportAllocs()
	for b.Loop() {
		if a, _ := p.DecideAccess(lastPacket); a != netsec.Deny {
			b.Fatal(a)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verdicts/s")
}

func BenchmarkCompile50Rules(b *testing.B) {
	g, env := fifty()
	b.ReportAllocs()
	for b.Loop() {
		netsec.Compile(g, env)
	}
}

func BenchmarkReachable50Rules(b *testing.B) {
	g, env := fifty()
	p := netsec.Path{Subnet: netsec.Compile(g, env), NIC: netsec.Compile(g, env)}
	b.ReportAllocs()
	for b.Loop() {
		if p.Reachable(lastPacket.Dst, netsec.TCP, netsec.Port(22)).Closed() {
			b.Fatal("closed")
		}
	}
}

// BenchmarkReachable1000Rules is an NSG full of grants (FACTS 2.4), 50 sources each.
func BenchmarkReachable1000Rules(b *testing.B) {
	_, env := fifty()
	g := netsec.Group{ID: "/nsg/full"}
	for i := range 1000 {
		r := netsec.Rule{Name: fmt.Sprint("g", i), Priority: 100 + i, Inbound: true, Access: netsec.Allow, Protocol: "Tcp",
			Destinations: []string{fmt.Sprintf("10.0.%d.4", i%40)}, SourcePorts: star, DestinationPorts: []string{"22"}}
		for s := range 50 {
			r.Sources = append(r.Sources, fmt.Sprintf("203.%d.%d.%d", i/250, i%250, s))
		}
		g.Rules = append(g.Rules, r)
	}
	b.ReportAllocs()
	for b.Loop() {
		p := netsec.Path{NIC: netsec.Compile(g, env)}
		p.Reachable(lastPacket.Dst, netsec.TCP, netsec.Port(22))
	}
}

// BenchmarkReachableAllPorts asks about every port of an NSG of 1,000 rules with a port each.
func BenchmarkReachableAllPorts(b *testing.B) {
	_, env := fifty()
	g := netsec.Group{ID: "/nsg/full"}
	for i := range 1000 {
		g.Rules = append(g.Rules, rule(fmt.Sprint("g", i), 100+i, allow, fmt.Sprintf("203.0.%d.%d", i/250, i%250), vm, fmt.Sprint(1000+3*i)))
	}
	p := netsec.Path{NIC: netsec.Compile(g, env)}
	b.ReportAllocs()
	for b.Loop() {
		p.Reachable(lastPacket.Dst, netsec.TCP, netsec.AllPorts)
	}
}

// TestDecideAllocatesNothing guards the speed that the scanner and the reconciler count on, also where the verdict is
// Unknown and the possibilities of several layers are followed.
func TestDecideAllocatesNothing(t *testing.T) {
	g, env := fifty()
	for _, s := range []string{"Storage", "AzureCloud.westeurope"} {
		g.Rules = append(g.Rules, netsec.Rule{Name: s, Priority: 2000 + len(s), Inbound: true, Access: netsec.Allow, Protocol: "*",
			Sources: []string{s}, Destinations: star, SourcePorts: star, DestinationPorts: star})
	}
	c := netsec.Compile(g, env)
	p := netsec.Path{Admin: netsec.CompileAdmin(nil, env), Subnet: c, NIC: c}
	bare := netsec.Path{VirtualNetwork: env.VirtualNetwork, PublicWithoutNSG: netsec.Closed}
	v6 := lastPacket
	v6.Src, v6.Dst, v6.Protocol = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fd00::4"), netsec.Any
	for _, pk := range []netsec.Packet{lastPacket, v6} {
		if d := c.Decide(pk); d.Access != netsec.Unknown {
			t.Fatal(d)
		}
		if n := testing.AllocsPerRun(100, func() { c.Decide(pk); p.DecideAccess(pk); bare.DecideAccess(pk) }); n != 0 {
			t.Errorf("%v: %v allocations", pk, n)
		}
	}
}

package netsec_test

import (
	"net/netip"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
)

func TestSmoke(t *testing.T) {
	env := netsec.Env{VirtualNetwork: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}
	c := netsec.Compile(netsec.Group{ID: "g", Rules: []netsec.Rule{
		{Name: "a", Priority: 100, Inbound: true, Access: netsec.Allow, Protocol: "Tcp", Sources: []string{"203.0.113.7"}, Destinations: []string{"10.0.0.4"}, SourcePorts: []string{"*"}, DestinationPorts: []string{"22"}},
		{Name: "s", Priority: 110, Inbound: true, Access: netsec.Allow, Protocol: "Tcp", Sources: []string{"Storage"}, Destinations: []string{"10.0.0.4"}, SourcePorts: []string{"*"}, DestinationPorts: []string{"22"}},
		{Name: "d", Priority: 200, Inbound: true, Access: netsec.Deny, Protocol: "*", Sources: []string{"*"}, Destinations: []string{"10.0.0.4"}, SourcePorts: []string{"*"}, DestinationPorts: []string{"22"}},
	}}, env)
	p := netsec.Path{NIC: c}
	dst := netip.MustParseAddr("10.0.0.4")
	for _, x := range p.Sources(dst, netsec.TCP, netsec.PortRange{First: 20, Last: 23}) {
		t.Log(x.IPs.Ranges()[0], len(x.IPs.Ranges()), x.Tag, x.Ports, x.Access, x.Rule, x.Why)
	}
	t.Log(c.Decide(netsec.Packet{Src: netip.MustParseAddr("8.8.8.8"), Dst: dst, DstPort: 22, Protocol: netsec.TCP, Inbound: true}))
	r := p.Reachable(dst, netsec.TCP, netsec.Port(22))
	t.Log(r.Closed(), r.Internet.Allowed.Prefixes(), r.Internet.Tags, r.VirtualNetwork.Access(), r.Exposed())
}

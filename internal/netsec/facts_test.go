package netsec_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
)

var vnetEnv = netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "fd00::/48")}

func rule(name string, prio int, a netsec.Access, source, dst, port string) netsec.Rule {
	return netsec.Rule{Name: name, Priority: prio, Inbound: true, Access: a, Protocol: "Tcp", Sources: []string{source},
		Destinations: []string{dst}, SourcePorts: star, DestinationPorts: []string{port}}
}

func group(rs ...netsec.Rule) netsec.Group {
	return netsec.Group{ID: "/nsg/web", Name: "web", Rules: rs}
}

func packet(src, dst string, port uint16) netsec.Packet {
	return netsec.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), SrcPort: 40000, DstPort: port, Protocol: netsec.TCP, Inbound: true}
}

func outbound(p netsec.Packet) netsec.Packet { p.Inbound = false; return p }

func with(r netsec.Rule, f func(*netsec.Rule)) netsec.Rule { f(&r); return r }

const (
	allow, deny = netsec.Allow, netsec.Deny
	vm          = "10.0.0.4"
	client      = "203.0.113.7"
)

// TestDocumentedCases are the cases that the documents describe, one NSG each.
func TestDocumentedCases(t *testing.T) {
	for _, c := range []struct {
		fact   string
		rules  []netsec.Rule
		env    netsec.Env
		packet netsec.Packet
		want   netsec.Access
		by     string
	}{
		{"2.2 the virtual network gets in without a rule", nil, vnetEnv, packet("10.0.9.9", vm, 22), allow, "AllowVnetInBound"},
		{"2.2 health probes get in without a rule", nil, netsec.Env{VirtualNetwork: prefixes("10.9.0.0/16")}, packet("168.63.129.16", vm, 80), allow, "AllowAzureLoadBalancerInBound"},
		{"2.2 the host's address is in VirtualNetwork too", nil, vnetEnv, packet("168.63.129.16", vm, 80), allow, "AllowVnetInBound"},
		{"2.2 the Internet does not get in without a rule", nil, vnetEnv, packet(client, vm, 22), deny, "DenyAllInBound"},
		{"2.2 IPv6 likewise", nil, vnetEnv, packet("2001:db8::7", "fd00::4", 22), deny, "DenyAllInBound"},
		{"2.2 IPv6 in the virtual network", nil, vnetEnv, packet("fd00::9", "fd00::4", 22), allow, "AllowVnetInBound"},
		{"2.2 outward to the Internet", nil, vnetEnv, outbound(packet(vm, client, 443)), allow, "AllowInternetOutBound"},
		{"2.2 outward within the network", nil, vnetEnv, outbound(packet(vm, "10.0.9.9", 443)), allow, "AllowVnetOutBound"},
		{"2.2 outward to private space elsewhere", nil, vnetEnv, outbound(packet(vm, "192.168.7.7", 443)), deny, "DenyAllOutBound"},
		{"2.1 the lower number goes first", []netsec.Rule{rule("late", 300, allow, "*", "*", "22"), rule("early", 200, deny, "*", "*", "22")},
			vnetEnv, packet(client, vm, 22), deny, "early"},
		{"2.1 the first match ends it", []netsec.Rule{rule("a", 100, allow, client, "*", "22"), rule("d", 101, deny, "*", "*", "*")},
			vnetEnv, packet(client, vm, 22), allow, "a"},
		{"2.1 priorities count for one direction", []netsec.Rule{with(rule("out", 100, deny, "*", "*", "*"), func(r *netsec.Rule) { r.Inbound = false }), rule("in", 100, allow, "*", "*", "22")},
			vnetEnv, packet(client, vm, 22), allow, "in"},
		{"2.1 plural fields", []netsec.Rule{with(rule("a", 100, allow, client, "*", "22"), func(r *netsec.Rule) {
			r.Sources, r.DestinationPorts = []string{"198.51.100.0/24", client + "/32"}, []string{"80", "8000-8100", "22"}
		})}, vnetEnv, packet(client, vm, 22), allow, "a"},
		{"2.1 a range", []netsec.Rule{rule("a", 100, allow, "*", "*", "20-30")}, vnetEnv, packet(client, vm, 30), allow, "a"},
		{"2.1 past the range", []netsec.Rule{rule("a", 100, allow, "*", "*", "20-30")}, vnetEnv, packet(client, vm, 31), deny, "DenyAllInBound"},
		{"2.1 protocol", []netsec.Rule{with(rule("a", 100, allow, "*", "*", "22"), func(r *netsec.Rule) { r.Protocol = "UDP" })}, vnetEnv, packet(client, vm, 22), deny, "DenyAllInBound"},
		{"2.1 tags in any case", []netsec.Rule{rule("a", 100, allow, "INTERNET", "*", "22")}, vnetEnv, packet(client, vm, 22), allow, "a"},
		{"2.1 Internet is not the virtual network", []netsec.Rule{rule("d", 100, deny, "Internet", "*", "22")}, vnetEnv, packet("10.0.9.9", vm, 22), allow, "AllowVnetInBound"},
		{"2.1 Internet is not private space", []netsec.Rule{rule("a", 100, allow, "Internet", "*", "22")}, vnetEnv, packet("192.168.1.1", vm, 22), deny, "DenyAllInBound"},
		{"2.1 Internet leaves out a public range of the network", []netsec.Rule{rule("d", 100, deny, "Internet", "*", "22")},
			netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "40.1.0.0/16")}, packet("40.1.2.3", vm, 22), allow, "AllowVnetInBound"},
		{"2.1 whether a default route lets the world in is in doubt", nil, netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "0.0.0.0/0")}, packet(client, vm, 22), netsec.Unknown, "AllowVnetInBound"},
		{"2.1 … the network itself gets in", nil, netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "0.0.0.0/0")}, packet("10.0.9.9", vm, 22), allow, "AllowVnetInBound"},
		{"2.1 … and it does not matter where the rest agrees", []netsec.Rule{rule("d", 100, deny, "*", "*", "22")},
			netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "0.0.0.0/0")}, packet(client, vm, 22), deny, "d"},
		{"2.1 with a default route a deny of Internet is in doubt", []netsec.Rule{rule("d", 100, deny, "Internet", "*", "22")},
			netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "0.0.0.0/0")}, packet(client, vm, 22), netsec.Unknown, "d"},
		{"2.1 0.0.0.0/0 is not IPv6", []netsec.Rule{rule("a", 100, allow, "0.0.0.0/0", "*", "22")}, vnetEnv, packet("2001:db8::7", "fd00::4", 22), deny, "DenyAllInBound"},
		{"2.1 * is both families", []netsec.Rule{rule("a", 100, allow, "*", "*", "22")}, vnetEnv, packet("2001:db8::7", "fd00::4", 22), allow, "a"},
		{"2.1 a known tag", []netsec.Rule{rule("a", 100, allow, "Sql.WestEurope", "*", "22")},
			netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, Tags: map[string][]netip.Prefix{"sql.westeurope": prefixes("20.1.0.0/16")}}, packet("20.1.2.3", vm, 22), allow, "a"},
		{"2.1 a tag with unknown addresses", []netsec.Rule{rule("a", 100, allow, "Storage", "*", "22")}, vnetEnv, packet("20.1.2.3", vm, 22), netsec.Unknown, "a"},
		{"2.1 … does not matter where the rest agrees", []netsec.Rule{rule("d", 100, deny, "Storage", "*", "22")}, vnetEnv, packet("20.1.2.3", vm, 22), deny, "DenyAllInBound"},
		{"2.1 … nor where an earlier rule has taken it", []netsec.Rule{rule("d", 100, deny, "Storage", "*", "22"), rule("a", 200, allow, "Storage", "*", "22")}, vnetEnv, packet("20.1.2.3", vm, 22), deny, "DenyAllInBound"},
		{"2.1 … nor its region", []netsec.Rule{rule("d", 100, deny, "Storage", "*", "22"), rule("a", 200, allow, "storage.westeurope", "*", "22")}, vnetEnv, packet("20.1.2.3", vm, 22), deny, "DenyAllInBound"},
		{"2.1 … and holds no private address", []netsec.Rule{rule("d", 100, deny, "Storage", "*", "22")}, vnetEnv, packet("10.0.9.9", vm, 22), allow, "AllowVnetInBound"},
		{"2.1 members of a group", []netsec.Rule{with(rule("a", 100, allow, "*", "*", "22"), func(r *netsec.Rule) { r.Destinations, r.DestinationASGs = nil, []string{"/ASG/Web"} })},
			netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, ASGs: map[string][]netip.Addr{"/asg/web": addrs(vm)}}, packet(client, vm, 22), allow, "a"},
		{"2.1 a group that was not read", []netsec.Rule{with(rule("a", 100, allow, "*", "*", "22"), func(r *netsec.Rule) { r.Destinations, r.DestinationASGs = nil, []string{"/ASG/Web"} })},
			vnetEnv, packet(client, vm, 22), netsec.Unknown, "a"},
		{"2.1 the destination is the private address", []netsec.Rule{rule("a", 100, allow, "*", "20.9.9.9", "22")}, vnetEnv, packet(client, vm, 22), deny, "DenyAllInBound"},
		{"2.6 with floating IP it is the frontend's", []netsec.Rule{rule("a", 100, allow, "*", "20.9.9.9", "22")}, vnetEnv, packet(client, "20.9.9.9", 22), allow, "a"},
		{"2.1 the source port counts", []netsec.Rule{with(rule("a", 100, allow, "*", "*", "22"), func(r *netsec.Rule) { r.SourcePorts = []string{"53"} })}, vnetEnv, packet(client, vm, 22), deny, "DenyAllInBound"},
		{"1.4 a Defender deny behind an earlier allow does nothing", []netsec.Rule{rule("old", 1002, allow, "*", "*", "3389"), rule("jit", 4096, deny, "*", vm, "3389")}, vnetEnv, packet(client, vm, 3389), allow, "old"},
		{"2.6 a deny from everywhere shuts out Bastion", []netsec.Rule{rule("jit", 4096, deny, "*", vm, "22")}, vnetEnv, packet("10.0.200.4", vm, 22), deny, "jit"},
	} {
		d := netsec.Compile(group(c.rules...), c.env).Decide(c.packet)
		if d.Access != c.want || d.Rule == nil || d.Rule.Name != c.by {
			t.Errorf("FACTS %s: %v by %v (%s), want %v by %s", c.fact, d.Access, d.Rule, d.Why, c.want, c.by)
		}
		if (d.Access == netsec.Unknown) != (d.Why != "") {
			t.Errorf("FACTS %s: %v with reason %q", c.fact, d.Access, d.Why)
		}
	}
}

// TestWrongRules: what cannot be read makes the verdict Unknown where it could match, and only there (P1: unparsable never
// grants; P10: it is never silently dropped).
func TestWrongRules(t *testing.T) {
	for name, f := range map[string]func(*netsec.Rule){
		"source":      func(r *netsec.Rule) { r.Sources = []string{"300.1.2.3"} },
		"destination": func(r *netsec.Rule) { r.Destinations = []string{"10.0.0.0/40"} },
		"no source":   func(r *netsec.Rule) { r.Sources = nil },
		"port":        func(r *netsec.Rule) { r.DestinationPorts = []string{"ssh"} },
		"no port":     func(r *netsec.Rule) { r.DestinationPorts = nil },
		"source port": func(r *netsec.Rule) { r.SourcePorts = []string{"70000"} },
		"protocol":    func(r *netsec.Rule) { r.Protocol = "Gre" },
		"no protocol": func(r *netsec.Rule) { r.Protocol = "" },
		"access":      func(r *netsec.Rule) { r.Access = netsec.Unknown },
		"priority":    func(r *netsec.Rule) { r.Priority = 0 },
	} {
		wrong := with(rule("wrong", 200, allow, "*", "*", "22"), f)
		if wrong.Validate() == nil {
			t.Errorf("%s: Validate finds nothing", name)
		}
		c := netsec.Compile(group(wrong), vnetEnv)
		if d := c.Decide(packet(client, vm, 22)); d.Access != netsec.Unknown || d.Rule.Name != "wrong" || !strings.Contains(d.Why, "wrong") {
			t.Errorf("%s: %+v", name, d)
		}
		if name == "access" {
			continue // both outcomes are open wherever it matches
		}
		if d := c.Decide(packet("10.0.9.9", vm, 22)); d.Access != allow {
			t.Errorf("%s: outcome is the same either way, yet %+v", name, d)
		}
		if d := c.Decide(packet(client, vm, 23)); name != "port" && name != "no port" && d.Access != deny {
			t.Errorf("%s: cannot match port 23, yet %+v", name, d)
		}
		first := netsec.Compile(group(wrong, rule("first", 100, deny, "*", "*", "*")), vnetEnv)
		if d := first.Decide(packet(client, vm, 22)); name != "priority" && d.Access != deny {
			t.Errorf("%s: an earlier rule decides, yet %+v", name, d)
		}
	}
	tie := netsec.Compile(group(rule("a", 100, allow, client, "*", "22"), rule("b", 100, deny, "*", "*", "22")), vnetEnv)
	if d := tie.Decide(packet(client, vm, 22)); d.Access != netsec.Unknown || !strings.Contains(d.Why, "same priority") {
		t.Errorf("tie: %+v", d)
	}
	if d := tie.Decide(packet("8.8.8.8", vm, 22)); d.Access != deny {
		t.Errorf("tie where one matches: %+v", d)
	}
	for _, p := range []netsec.Packet{{}, packet(client, "fd00::4", 22), {Src: netip.MustParseAddr(client), Dst: netip.MustParseAddr(vm), Protocol: 99}} {
		if d := tie.Decide(p); d.Access != netsec.Unknown || d.Why == "" {
			t.Errorf("%v: %+v", p, d)
		}
	}
	mapped := packet("::ffff:"+client, vm, 22)
	if d := netsec.Compile(group(rule("a", 100, allow, client, "*", "22")), vnetEnv).Decide(mapped); d.Access != allow {
		t.Errorf("IPv4 in IPv6 form: %+v", d)
	}
}

func admin(prio int, a netsec.AdminAccess, source, port string) netsec.AdminRule {
	return netsec.AdminRule{Name: "adm", Collection: "/col", Priority: prio, Inbound: true, Access: a, Protocol: "Tcp",
		Sources: []netsec.AdminAddress{{Prefix: source}}, DestinationPorts: []string{port}}
}

// TestLayers are the documented cases of several layers (FACTS 2.3, 2.6).
func TestLayers(t *testing.T) {
	open := netsec.Compile(netsec.Group{ID: "/nsg/open", Rules: []netsec.Rule{rule("open", 100, allow, "*", "*", "22")}}, vnetEnv)
	shut := netsec.Compile(netsec.Group{ID: "/nsg/shut", Rules: []netsec.Rule{rule("shut", 100, deny, "*", "*", "22")}}, vnetEnv)
	adm := func(a netsec.AdminAccess) *netsec.CompiledAdmin {
		return netsec.CompileAdmin([]netsec.AdminRule{admin(10, a, "*", "22")}, vnetEnv)
	}
	for _, c := range []struct {
		fact string
		path netsec.Path
		src  string
		want netsec.Access
		hops string
	}{
		{"both must allow", netsec.Path{Subnet: open, NIC: open}, client, allow, "subnet:open:Allow nic:open:Allow!"},
		{"the subnet denies", netsec.Path{Subnet: shut, NIC: open}, client, deny, "subnet:shut:Deny!"},
		{"the NIC denies", netsec.Path{Subnet: open, NIC: shut}, client, deny, "subnet:open:Allow nic:shut:Deny!"},
		{"subnet alone", netsec.Path{Subnet: open}, client, allow, "subnet:open:Allow!"},
		{"traffic within the subnet is judged too", netsec.Path{Subnet: shut}, "10.0.0.9", deny, "subnet:shut:Deny!"},
		{"admin Allow goes on", netsec.Path{Admin: adm(netsec.AdminAllow), NIC: shut}, client, deny, "admin:adm:Allow nic:shut:Deny!"},
		{"admin AlwaysAllow ends it", netsec.Path{Admin: adm(netsec.AdminAlwaysAllow), Subnet: shut, NIC: shut}, client, allow, "admin:adm:Allow!"},
		{"admin Deny ends it", netsec.Path{Admin: adm(netsec.AdminDeny), Subnet: open, NIC: open}, client, deny, "admin:adm:Deny!"},
		{"admin Deny without NSG", netsec.Path{Admin: adm(netsec.AdminDeny)}, "10.0.9.9", deny, "admin:adm:Deny!"},
		{"no admin rule matches", netsec.Path{Admin: netsec.CompileAdmin(nil, vnetEnv), NIC: open}, client, allow, "admin::Allow nic:open:Allow!"},
		{"no NSG, Standard", netsec.Path{PublicWithoutNSG: netsec.Closed}, client, deny, "none::Deny!"},
		{"no NSG, Basic", netsec.Path{PublicWithoutNSG: netsec.Open}, client, allow, "none::Allow!"},
		{"no NSG, not stated", netsec.Path{}, client, netsec.Unknown, "none::Unknown!"},
		{"no NSG, from the network", netsec.Path{PublicWithoutNSG: netsec.Closed}, "10.0.9.9", allow, "none::Allow!"},
		{"no NSG, from a public range of the network", netsec.Path{PublicWithoutNSG: netsec.Closed, VirtualNetwork: prefixes("203.0.113.0/24")}, client, allow, "none::Allow!"},
		{"no NSG, AlwaysAllow, Standard: in doubt", netsec.Path{Admin: adm(netsec.AdminAlwaysAllow), PublicWithoutNSG: netsec.Closed}, client, netsec.Unknown, "admin:adm:Allow none::Unknown!"},
	} {
		v := c.path.Decide(packet(c.src, vm, 22))
		var hops []string
		for i, h := range v.Hops {
			name, mark := "", ""
			if h.Rule != nil {
				name = h.Rule.Name
			}
			if i == v.Decider {
				mark = "!"
			}
			hops = append(hops, h.Layer.String()+":"+name+":"+h.Access.String()+mark)
		}
		if got := strings.Join(hops, " "); v.Access != c.want || got != c.hops {
			t.Errorf("%s: %v %s (%s), want %v %s", c.fact, v.Access, got, v.Why, c.want, c.hops)
		}
	}
	out := netsec.Path{Subnet: shut, NIC: open}.Decide(outbound(packet(vm, client, 443)))
	if out.Hops[0].Layer != netsec.LayerNIC || out.Hops[1].Layer != netsec.LayerSubnet || out.Access != allow {
		t.Errorf("outward the NIC comes first: %+v", out)
	}
}

// TestAdminRules: priorities count over all collections; the shape differs from NSG rules (FACTS 2.3, SPEC-AVNM).
func TestAdminRules(t *testing.T) {
	path := func(rs ...netsec.AdminRule) netsec.Path {
		return netsec.Path{Admin: netsec.CompileAdmin(rs, vnetEnv), NIC: netsec.Compile(group(), vnetEnv)}
	}
	other := func(r netsec.AdminRule) netsec.AdminRule { r.Collection = "/other"; return r }
	pk := packet(client, vm, 22)
	if v := path(admin(20, netsec.AdminDeny, "*", "22"), other(admin(10, netsec.AdminAlwaysAllow, "*", "22"))).Decide(pk); v.Access != allow || v.Rule().GroupID != "/other" {
		t.Errorf("two collections: %+v", v)
	}
	if v := path(admin(10, netsec.AdminDeny, "*", "22"), other(admin(10, netsec.AdminAlwaysAllow, "*", "22"))).Decide(pk); v.Access != netsec.Unknown {
		t.Errorf("equal priorities that disagree: %+v", v)
	}
	typed := func(prefix, kind string) netsec.AdminRule {
		r := admin(10, netsec.AdminAlwaysAllow, "*", "22")
		r.Sources = []netsec.AdminAddress{{Prefix: prefix, Type: kind}}
		return r
	}
	for _, c := range []struct {
		prefix, kind string
		want         netsec.Access
	}{
		{"203.0.113.0/24", "IPPrefix", allow}, {"Internet", "ServiceTag", allow}, {"10.0.0.0/8", "IPPrefix", deny},
		{"VirtualNetwork", "servicetag", deny}, {"*", "IPPrefix", allow}, {"Internet", "IPPrefix", netsec.Unknown},
		{"/networkGroups/prod", "NetworkGroup", netsec.Unknown}, {"Storage", "ServiceTag", netsec.Unknown},
	} {
		if v := path(typed(c.prefix, c.kind)).Decide(pk); v.Access != c.want {
			t.Errorf("%s as %s: %v (%s), want %v", c.prefix, c.kind, v.Access, v.Why, c.want)
		}
	}
	bare := netsec.AdminRule{Name: "adm", Priority: 1, Inbound: true, Access: netsec.AdminDeny, Protocol: "Any"}
	if v := path(bare).Decide(packet("10.0.9.9", vm, 9)); v.Access != deny {
		t.Errorf("empty lists mean any: %+v", v)
	}
}

// Where the rules of a network were not read, that is what is said, and not what is wrong with a rule.
func TestAdminRulesUnread(t *testing.T) {
	const unread = "the security admin rules of net were not read"
	r := netsec.AdminRule{Name: "(security admin rules were not read)", Priority: 1, Inbound: true, Protocol: "Any", Unread: unread}
	v := netsec.Path{Admin: netsec.CompileAdmin([]netsec.AdminRule{r}, vnetEnv), NIC: netsec.Compile(group(), vnetEnv)}.Decide(packet(client, vm, 22))
	if v.Access != deny && v.Access != netsec.Unknown || v.Why != unread {
		t.Errorf("%v, %q, want %q", v.Access, v.Why, unread)
	}
}

// TestSharedUncertainty: a source that Storage holds at the subnet is held by it at the NIC.
func TestSharedUncertainty(t *testing.T) {
	subnet := netsec.Compile(group(rule("s", 100, allow, "Storage", "*", "22")), vnetEnv)
	nic := netsec.Compile(group(rule("d", 100, deny, "Storage", "*", "22"), rule("a", 200, allow, "*", "*", "22")), vnetEnv)
	p := netsec.Path{Subnet: subnet, NIC: nic}
	v := p.Decide(packet("20.1.2.3", vm, 22))
	if v.Access != deny || v.Why == "" {
		t.Errorf("Storage is stopped at the NIC, all others at the subnet: %+v", v)
	}
	if r := p.Reachable(netip.MustParseAddr(vm), netsec.TCP, netsec.Port(22)); r.Internet.Access() != deny {
		t.Errorf("%+v", r.Internet)
	}
}

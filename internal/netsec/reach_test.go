package netsec_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/netsec"
)

func reach(p netsec.Path, port string) netsec.Reach {
	pr, err := netsec.ParsePortRange(port)
	if err != nil {
		panic(err)
	}
	return p.Reachable(netip.MustParseAddr(vm), netsec.TCP, pr)
}

func nic(rs ...netsec.Rule) netsec.Path {
	return netsec.Path{NIC: netsec.Compile(group(rs...), vnetEnv)}
}

// TestReachable: P4 asks of every protected port whether the Internet and the virtual network are denied.
func TestReachable(t *testing.T) {
	r := reach(nic(), "22")
	if r.Closed() || r.Internet.Access() != deny || r.VirtualNetwork.Access() != allow || r.Other.Access() != deny || r.Platform.Access() != allow {
		t.Errorf("default rules: %+v", r)
	}
	shut := rule("curfew-deny", 1000, deny, "*", vm, "22")
	if r = reach(nic(shut), "22"); !r.Closed() || r.Exposed() {
		t.Errorf("deny: %+v", r)
	}
	if r = reach(nic(shut), "20-30"); r.Closed() {
		t.Error("ports 20-30 are open but for 22")
	}
	grant := rule("curfew-allow", 500, allow, client, vm, "22")
	r = reach(nic(shut, grant), "22")
	if r.Closed() || r.Exposed() || r.Internet.Access() != allow || len(r.Internet.Open) != 1 || r.Internet.Open[0].Rule.Name != "curfew-allow" {
		t.Errorf("grant: %+v", r)
	}
	if p := r.Internet.Allowed.Prefixes(); len(p) != 1 || p[0] != netip.MustParsePrefix(client+"/32") {
		t.Errorf("allowed %v", p)
	}
	if r = r.Except(func(x *netsec.PathPiece) bool { return x.Rule.Name == "curfew-allow" }); !r.Closed() {
		t.Errorf("without the grant: %+v", r)
	}
	r = reach(nic(shut, rule("tag", 400, allow, "Storage", "*", "22")), "22")
	if r.Closed() || r.Exposed() || !slices.Equal(r.Internet.Tags, []string{"Storage"}) || !r.Internet.Allowed.Equal(&netSet) {
		t.Errorf("tag: %+v", r)
	}
	r = reach(nic(shut, with(rule("asg", 400, allow, "*", "*", "22"), func(r *netsec.Rule) { r.Sources, r.SourceASGs = nil, []string{"/unread"} })), "22")
	if r.VirtualNetwork.Access() != netsec.Unknown || r.Internet.Access() != deny || r.Closed() {
		t.Errorf("a group that was not read: %+v", r)
	}
	r = reach(nic(shut, with(rule("sport", 400, allow, "*", "*", "22"), func(r *netsec.Rule) { r.SourcePorts = []string{"53"} })), "22")
	if r.Closed() || !r.Exposed() || r.Internet.Open[0].SourcePorts != netsec.Port(53) {
		t.Errorf("an allow for one source port is reachable: %+v", r)
	}
	r = reach(netsec.Path{PublicWithoutNSG: netsec.Closed, VirtualNetwork: vnetEnv.VirtualNetwork}, "22")
	if r.Internet.Access() != deny || r.VirtualNetwork.Access() != allow {
		t.Errorf("no NSG, Standard: %+v", r)
	}
	if r = reach(netsec.Path{PublicWithoutNSG: netsec.Open}, "22"); !r.Exposed() {
		t.Errorf("no NSG, Basic: %+v", r)
	}
	// Whether Internet holds what a default route leads to is not known: of nobody, and so nobody surely gets in past its deny.
	routed := netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16", "0.0.0.0/0")}
	r = reach(netsec.Path{NIC: netsec.Compile(group(rule("d", 100, deny, "Internet", "*", "22")), routed), VirtualNetwork: routed.VirtualNetwork}, "22")
	if r.Internet.Access() != netsec.Unknown || r.VirtualNetwork.Access() != allow {
		t.Errorf("a default route, and a deny of Internet: %+v", r)
	}
	if r = reach(netsec.Path{NIC: netsec.Compile(group(), routed), VirtualNetwork: routed.VirtualNetwork}, "22"); r.Internet.Access() != netsec.Unknown || r.VirtualNetwork.Access() != allow || !strings.Contains(r.Internet.Open[0].Why, "not documented") {
		t.Errorf("a default route, and no rule: %+v", r)
	}
	always := nic(shut)
	always.Admin = netsec.CompileAdmin([]netsec.AdminRule{admin(10, netsec.AdminAlwaysAllow, "Internet", "22")}, vnetEnv)
	if r = reach(always, "22"); r.Closed() || !r.Exposed() || r.Internet.Open[0].Rule.Name != "adm" {
		t.Errorf("AlwaysAllow makes the deny useless: %+v", r)
	}
	udp := nic(with(rule("u", 100, deny, "*", "*", "22"), func(r *netsec.Rule) { r.Protocol = "Udp" }))
	if r = udp.Reachable(netip.MustParseAddr(vm), netsec.Any, netsec.Port(22)); r.VirtualNetwork.Access() != allow || r.VirtualNetwork.Open[0].Protocol != netsec.TCP {
		t.Errorf("Any asks for TCP and UDP apart: %+v", r)
	}
}

// TestExposed: the threshold of DESIGN 6.
func TestExposed(t *testing.T) {
	tags := map[string][]netip.Prefix{"azurecloud.westeurope": prefixes("20.1.0.0/16"), "sql": prefixes("20.2.0.0/16")}
	env := netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, Tags: tags}
	for _, c := range []struct {
		sources []string
		known   bool
		want    bool
	}{
		{[]string{"*"}, false, true}, {[]string{"Internet"}, false, true}, {[]string{"0.0.0.0/0"}, false, true},
		{[]string{"10.0.0.0/8", "192.168.0.0/16"}, false, false}, {[]string{"8.0.0.0/8"}, false, false},
		{[]string{"8.0.0.0/8", "9.0.0.0/32"}, false, true}, {[]string{"8.0.0.0/9", "8.128.0.0/9"}, false, false},
		{[]string{"8.0.0.0/9", "12.0.0.0/9", "13.0.0.0/16"}, false, true}, {[]string{"AzureCloud"}, false, true},
		{[]string{"AzureCloud.westeurope"}, false, true}, {[]string{"Storage"}, false, false},
		{[]string{"AzureCloud.westeurope"}, true, true}, {[]string{"Sql"}, true, false}, {[]string{"20.1.0.0/16"}, true, false},
	} {
		e := vnetEnv
		if c.known {
			e = env
		}
		r := rule("a", 100, allow, "*", "*", "22")
		r.Sources = c.sources
		p := netsec.Path{Subnet: netsec.Compile(group(r), e), NIC: netsec.Compile(group(rule("any", 100, allow, "*", "*", "22")), e)}
		if got := reach(p, "22").Exposed(); got != c.want {
			t.Errorf("%v known %v: exposed %v", c.sources, c.known, got)
		}
		// One layer that narrows is enough.
		p.NIC = netsec.Compile(group(rule("one", 100, allow, "20.1.2.3", "*", "22")), e)
		if reach(p, "22").Exposed() {
			t.Errorf("%v narrowed to one address: exposed", c.sources)
		}
	}
	v6 := func(s ...string) bool {
		r := rule("a", 100, allow, "*", "*", "22")
		r.Sources = s
		return nic(r).Reachable(netip.MustParseAddr("fd00::4"), netsec.TCP, netsec.Port(22)).Exposed()
	}
	if v6("2603::/16") || !v6("2603::/16", "2604::/64") || !v6("::/0") || v6("fc00::/7") {
		t.Error("IPv6 threshold of a /16")
	}
	if netsec.Exposed(nil, nil) || !netsec.Exposed(nil, []string{"internet"}) || netsec.Exposed(nil, []string{"AzureCloudX"}) {
		t.Error("Exposed without addresses")
	}
}

var netSet = *netsec.Path{NIC: netsec.Compile(group(), vnetEnv)}.Reachable(netip.MustParseAddr(vm), netsec.TCP, netsec.Port(22)).Other.Allowed

// TestMachine: every ipConfiguration, IPv6 and floating IP counts; the machine is reachable where any of them is.
func TestMachine(t *testing.T) {
	shut := netsec.Compile(group(rule("d", 100, deny, "*", "*", "22")), vnetEnv)
	open := netsec.Compile(group(rule("d", 200, deny, "*", "*", "22"), rule("v6", 100, allow, "*", "fd00::4", "22"), rule("front", 101, allow, client, "20.9.9.9", "22")), vnetEnv)
	m := netsec.Machine{
		{NIC: "a", IPConfig: "one", Addrs: addrs(vm), Path: netsec.Path{NIC: shut}},
		{NIC: "b", IPConfig: "two", Addrs: addrs("10.0.0.5", "fd00::4", "20.9.9.9"), Path: netsec.Path{NIC: open}},
	}
	for _, c := range []struct {
		src, dst string
		want     netsec.Access
	}{
		{client, vm, deny}, {client, "10.0.0.5", deny}, {"2001:db8::7", "fd00::4", allow}, {client, "20.9.9.9", allow},
		{"8.8.8.8", "20.9.9.9", deny}, {client, "10.0.0.99", netsec.Unknown},
	} {
		if v := m.Decide(packet(c.src, c.dst, 22)); v.Access != c.want {
			t.Errorf("%s to %s: %+v", c.src, c.dst, v)
		}
	}
	sum, each := m.Reachable(netsec.TCP, netsec.Port(22))
	if len(each) != 4 || !sum.Exposed() || sum.Closed() || each[0].Reach.Internet.Access() != deny || !each[2].Reach.Exposed() || each[3].Reach.Exposed() {
		t.Errorf("%+v", each)
	}
	if v := m.Decide(outbound(packet(vm, client, 443))); v.Access != allow {
		t.Errorf("outward: %+v", v)
	}
}

func TestOverlapsAndCovers(t *testing.T) {
	env := netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, ASGs: map[string][]netip.Addr{"/asg/web": addrs(vm)}}
	dst := prefixes(vm + "/32")
	for _, c := range []struct {
		name             string
		rule             netsec.Rule
		ports            netsec.PortRange
		overlaps, covers bool
	}{
		{"same", rule("r", 100, allow, "*", vm, "22"), netsec.Port(22), true, true},
		{"any", with(rule("r", 100, allow, "*", "*", "*"), func(r *netsec.Rule) { r.Protocol = "*" }), netsec.Port(22), true, true},
		{"network", rule("r", 100, allow, "*", "VirtualNetwork", "20-30"), netsec.Port(22), true, true},
		{"other port", rule("r", 100, allow, "*", vm, "23-30"), netsec.Port(22), false, false},
		{"part of the ports", rule("r", 100, allow, "*", vm, "22"), netsec.PortRange{First: 22, Last: 23}, true, false},
		{"ports in two pieces", with(rule("r", 100, allow, "*", vm, "20-25"), func(r *netsec.Rule) { r.DestinationPorts = []string{"20-24", "25-30"} }), netsec.PortRange{First: 22, Last: 28}, true, true},
		{"other machine", rule("r", 100, allow, "*", "10.0.0.5", "22"), netsec.Port(22), false, false},
		{"other family", rule("r", 100, allow, "*", "::/0", "22"), netsec.Port(22), false, false},
		{"protocol", with(rule("r", 100, allow, "*", vm, "22"), func(r *netsec.Rule) { r.Protocol = "Udp" }), netsec.Port(22), false, false},
		{"group", with(rule("r", 100, allow, "*", vm, "22"), func(r *netsec.Rule) { r.Destinations, r.DestinationASGs = nil, []string{"/ASG/web"} }), netsec.Port(22), true, true},
		{"unread group", with(rule("r", 100, allow, "*", vm, "22"), func(r *netsec.Rule) { r.Destinations, r.DestinationASGs = nil, []string{"/ASG/x"} }), netsec.Port(22), true, false},
		{"some sources", rule("r", 100, allow, "Internet", vm, "22"), netsec.Port(22), true, false},
		{"not understood", rule("r", 100, allow, "*", "1.2.3.4.5", "22"), netsec.Port(22), true, false},
	} {
		if got := c.rule.Overlaps(dst, netsec.TCP, c.ports, env); got != c.overlaps {
			t.Errorf("%s: overlaps %v", c.name, got)
		}
		if got := c.rule.Covers(nil, dst, netsec.TCP, c.ports, env); got != c.covers {
			t.Errorf("%s: covers %v", c.name, got)
		}
	}
	some := rule("r", 100, allow, "10.0.0.0/8", vm, "22")
	if !some.Covers(prefixes("10.1.0.0/16"), dst, netsec.TCP, netsec.Port(22), env) {
		t.Error("covers its own sources")
	}
}

// TestDiff: a plan says who loses access and by which rule they had it.
func TestDiff(t *testing.T) {
	before := nic(rule("old", 1000, allow, "8.0.0.0/8", "*", "20-30"), rule("tag", 1100, allow, "Storage", "*", "22"))
	after := nic(rule("old", 1000, allow, "8.0.0.0/8", "*", "20-30"), rule("tag", 1100, allow, "Storage", "*", "22"),
		rule("grant", 500, allow, client, vm, "22"), rule("curfew", 501, deny, "*", vm, "22"))
	got := map[string]string{}
	for _, c := range netsec.Diff(before, after, netip.MustParseAddr(vm), netsec.TCP, netsec.AllPorts) {
		if c.Ports != netsec.Port(22) {
			t.Errorf("%v changes", c.Ports)
		}
		for _, r := range c.IPs.Ranges() {
			if c.Lost() != c.Gained() && c.IPs.Contains(r.From()) {
				got[c.Tag+" "+c.Before.Rule.Name+" "+c.After.Rule.Name] = c.Before.Access.String()
			}
		}
	}
	want := map[string]string{" old curfew": "Allow", " AllowVnetInBound curfew": "Allow", "Storage tag curfew": "Allow",
		" DenyAllInBound grant": "Deny"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%q: %q, want %q", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("changes %v", got)
	}
}

// TestAny: a question about any protocol is answered for TCP and UDP together.
func TestAny(t *testing.T) {
	p := nic(rule("tcp", 100, allow, "*", "*", "22"))
	pk := packet(client, vm, 22)
	pk.Protocol = netsec.Any
	if v := p.Decide(pk); v.Access != netsec.Unknown || v.Why == "" {
		t.Errorf("TCP alone is allowed: %+v", v)
	}
	if a, _ := p.DecideAccess(pk); a != netsec.Unknown {
		t.Error("DecideAccess", a)
	}
	pk.DstPort = 23
	if v := p.Decide(pk); v.Access != deny {
		t.Errorf("neither is allowed: %+v", v)
	}
}

func TestNames(t *testing.T) {
	for _, a := range []netsec.AdminAccess{netsec.AdminAllow, netsec.AdminAlwaysAllow, netsec.AdminDeny} {
		if got, err := netsec.ParseAdminAccess(a.String()); err != nil || got != a {
			t.Errorf("%v: %v %v", a, got, err)
		}
	}
	for _, a := range []netsec.Access{allow, deny} {
		if got, err := netsec.ParseAccess(a.String()); err != nil || got != a {
			t.Errorf("%v: %v %v", a, got, err)
		}
	}
	if a, err := netsec.ParseAccess("allowed"); err == nil || a != netsec.Unknown {
		t.Error("an unknown access grants")
	}
	if a, err := netsec.ParseAdminAccess("Unknown"); err == nil || a != netsec.AdminUnknown {
		t.Error("an unknown access of an admin rule grants")
	}
	if !netsec.PublicSpace().Contains(netip.MustParseAddr(client)) || netsec.PublicSpace().Contains(netip.MustParseAddr("168.63.129.16")) {
		t.Error("public space")
	}
}

// TestDiffBySourcePort: only the source ports that the tag had no rule for change.
func TestDiffBySourcePort(t *testing.T) {
	tag := rule("tag", 1000, allow, "Storage", "*", "22")
	narrow := with(tag, func(r *netsec.Rule) { r.SourcePorts = []string{"53"} })
	seen := map[netsec.PortRange]bool{}
	for _, c := range netsec.Diff(nic(narrow), nic(tag), netip.MustParseAddr(vm), netsec.TCP, netsec.Port(22)) {
		if c.Tag != "Storage" || !c.Gained() || c.Lost() {
			t.Errorf("%+v", c)
		}
		seen[c.SourcePorts] = true
	}
	if len(seen) != 2 || !seen[netsec.PortRange{First: 0, Last: 52}] || !seen[netsec.PortRange{First: 54, Last: 65535}] {
		t.Errorf("source ports %v", seen)
	}
}

// AlikePorts promises that the ports it names are reached alike, and that it names the port itself.
func TestAlikePortsAreReachedAlike(t *testing.T) {
	wide := 0
	rapid.Check(t, func(t *rapid.T) {
		p := drawPath(t, mode{unknownSources: true, chaos: rapid.Bool().Draw(t, "chaos")}).compile()
		dst, proto := drawPacket(t).Dst, rapid.SampledFrom([]netsec.Protocol{netsec.TCP, netsec.UDP, netsec.Any}).Draw(t, "protocol")
		port := uint16(rapid.SampledFrom([]int{0, 21, 22, 23, 80, 443, 3389, 65535}).Draw(t, "port"))
		alike := p.AlikePorts(port)
		if !alike.Contains(port) {
			t.Fatalf("%d is not among %v", port, alike)
		}
		if alike.First != alike.Last {
			wide++
		}
		want := portless(p.Reachable(dst, proto, netsec.Port(port)))
		for _, x := range []netsec.PortRange{alike, netsec.Port(alike.First), netsec.Port(alike.Last)} {
			if got := portless(p.Reachable(dst, proto, x)); got != want {
				t.Fatalf("port %d, alike %v:\n%s\nports %v:\n%s", port, alike, want, x, got)
			}
		}
	})
	if wide == 0 {
		t.Error("no range was wider than its port")
	}
}

// portless is a reach without the ports of its pieces.
func portless(r netsec.Reach) string {
	var b strings.Builder
	for _, z := range []netsec.Zone{r.Internet, r.VirtualNetwork, r.Platform, r.Other} {
		fmt.Fprintln(&b, z.Allowed.Prefixes(), z.Unknown.Prefixes(), z.Tags, z.UnknownTags)
		for _, x := range z.Open {
			fmt.Fprintln(&b, " ", x.IPs.Prefixes(), x.Tag, x.Protocol, x.SourcePorts, x.Access, x.Rule, x.Why, x.Decider, len(x.Hops))
		}
	}
	return b.String()
}

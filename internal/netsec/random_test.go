package netsec_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"pgregory.net/rapid"
)

var (
	v4Pool = addrs("203.0.113.7", "203.0.113.8", "8.8.8.8", "20.1.2.3", "10.0.0.4", "10.0.0.5", "10.0.1.9", "10.1.0.4",
		"192.168.1.1", "168.63.129.16", "100.64.0.1", "40.1.0.1", "0.0.0.0", "255.255.255.255")
	v6Pool = addrs("2001:db8::7", "2603:1000::5", "fd00::4", "fd00:1::9", "fe80::1234:5678:9abc", "::1")

	prefixPool = []string{"203.0.113.7", "203.0.113.0/24", "8.0.0.0/8", "20.1.0.0/16", "10.0.0.4", "10.0.0.4/31", "10.0.0.0/16",
		"10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "2603:1000::5/128", "fd00::/16", "128.0.0.0/1", "40.1.0.0/16"}
	knownTags   = []string{"VirtualNetwork", "internet", "AzureLoadBalancer", "Sql", "*"}
	unknownTags = []string{"Storage", "Storage.WestEurope", "AZURECLOUD", "AzureCloud.westeurope"}
	portPool    = []string{"22", "3389", "20-25", "22-3389", "1000-2000", "*", "0-65535", "65535"}
)

func addrs(ss ...string) (as []netip.Addr) {
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// mode says what the generator may use.
type mode struct {
	unknownSources bool // service tags with unknown addresses as the source: the answer must be exact
	chaos          bool // everything else that is wrong or missing: the answer must be sound
}

func drawTexts(t *rapid.T, m mode, source bool) []string {
	// Kinds of fields are drawn first, so that most rules come near most packets and the interesting ones are common.
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case kind < 4 && source && m.unknownSources:
		return rapid.SliceOfN(rapid.SampledFrom(unknownTags), 1, 2).Draw(t, "tags")
	case kind < 5 && !source:
		return star
	case kind == 5:
		return star
	case kind == 6 && m.chaos:
		return rapid.SliceOfN(rapid.SampledFrom([]string{"not an address!", "10.0.0.4/99", "Storage", "8.8.8.8"}), 1, 2).Draw(t, "wrong")
	case kind == 7:
		return rapid.SliceOfN(rapid.SampledFrom(knownTags), 1, 2).Draw(t, "known")
	}
	pool := prefixPool
	if source && m.unknownSources {
		pool = append(append([]string{}, pool...), unknownTags...)
	}
	return rapid.SliceOfN(rapid.SampledFrom(pool), 1, 3).Draw(t, "texts")
}

func drawPorts(t *rapid.T, m mode, mostlyAny bool) []string {
	if n := rapid.IntRange(0, 9).Draw(t, "anyport"); n < 4 || mostlyAny && n < 8 {
		return star
	}
	pool := portPool
	if m.chaos {
		pool = append(append([]string{}, pool...), "ssh", "25-20")
	}
	return rapid.SliceOfN(rapid.SampledFrom(pool), 1, 2).Draw(t, "ports")
}

func drawProtocol(t *rapid.T, m mode) string {
	if rapid.IntRange(0, 2).Draw(t, "anyproto") > 0 {
		return "*"
	}
	pool := []string{"Tcp", "TCP", "TCP", "udp", "Icmp", "Esp", "Ah"}
	if m.chaos {
		pool = append(pool, "Gre")
	}
	return rapid.SampledFrom(pool).Draw(t, "protocol")
}

func drawPriority(t *rapid.T, m mode, used map[string]bool, in bool) int {
	p := rapid.IntRange(100, 110).Draw(t, "priority")
	if m.chaos {
		if rapid.IntRange(0, 9).Draw(t, "stray") == 9 && !used["stray"] {
			used["stray"] = true
			return 0
		}
		if rapid.IntRange(0, 5).Draw(t, "tie") > 2 {
			return p
		}
	}
	for used[fmt.Sprint(in, p)] {
		p++
	}
	used[fmt.Sprint(in, p)] = true
	return p
}

func drawGroup(t *rapid.T, m mode, name string) *netsec.Group {
	g := &netsec.Group{ID: "/nsg/" + name, Name: name}
	used := map[string]bool{}
	for i := range rapid.SampledFrom([]int{5, 4, 3, 2, 1, 0, 6}).Draw(t, "rules") {
		r := netsec.Rule{Name: fmt.Sprintf("%s-r%d", name, i), Inbound: rapid.IntRange(0, 9).Draw(t, "in") < 8,
			Access: rapid.SampledFrom([]netsec.Access{netsec.Allow, netsec.Deny}).Draw(t, "access")}
		if m.chaos && rapid.IntRange(0, 9).Draw(t, "noaccess") == 9 {
			r.Access = netsec.Unknown
		}
		r.Priority = drawPriority(t, m, used, r.Inbound)
		r.Protocol = drawProtocol(t, m)
		r.Sources, r.Destinations = drawTexts(t, m, r.Inbound), drawTexts(t, m, !r.Inbound)
		r.SourcePorts, r.DestinationPorts = drawPorts(t, m, true), drawPorts(t, m, false)
		asgs := []string{"/ASG/web", "/asg/DB"}
		if m.chaos {
			asgs = append(asgs, "/asg/unread")
		}
		if rapid.IntRange(0, 9).Draw(t, "sasg") == 9 {
			r.Sources, r.SourceASGs = nil, rapid.SliceOfN(rapid.SampledFrom(asgs), 1, 2).Draw(t, "asgs")
		}
		if rapid.IntRange(0, 9).Draw(t, "dasg") == 9 {
			r.Destinations, r.DestinationASGs = nil, rapid.SliceOfN(rapid.SampledFrom(asgs), 1, 2).Draw(t, "asgs")
		}
		if m.chaos && rapid.IntRange(0, 15).Draw(t, "nosource") == 15 {
			r.Sources, r.SourceASGs = nil, nil
		}
		g.Rules = append(g.Rules, r)
	}
	return g
}

func drawAdmin(t *rapid.T, m mode) []netsec.AdminRule {
	rs := []netsec.AdminRule{}
	used := map[string]bool{}
	for i := range rapid.IntRange(0, 3).Draw(t, "admins") {
		r := netsec.AdminRule{Name: fmt.Sprintf("a%d", i), Collection: "col", Inbound: rapid.IntRange(0, 9).Draw(t, "in") < 8,
			Access: rapid.SampledFrom([]netsec.AdminAccess{netsec.AdminAllow, netsec.AdminAlwaysAllow, netsec.AdminDeny}).Draw(t, "access")}
		if m.chaos && rapid.IntRange(0, 9).Draw(t, "noaccess") == 9 {
			r.Access = netsec.AdminUnknown
		}
		r.Priority = drawPriority(t, m, used, r.Inbound)
		r.Protocol = drawProtocol(t, m)
		for _, s := range drawTexts(t, m, r.Inbound) {
			r.Sources = append(r.Sources, netsec.AdminAddress{Prefix: s})
		}
		for _, s := range drawTexts(t, m, !r.Inbound) {
			r.Destinations = append(r.Destinations, netsec.AdminAddress{Prefix: s})
		}
		r.SourcePorts, r.DestinationPorts = drawPorts(t, m, true), drawPorts(t, m, false)
		rs = append(rs, r)
	}
	return rs
}

func drawPath(t *rapid.T, m mode) refPath {
	p := refPath{public: rapid.SampledFrom([]netsec.PublicDefault{netsec.PublicUnknown, netsec.Closed, netsec.Open}).Draw(t, "public")}
	p.env = netsec.Env{
		VirtualNetwork: rapid.SampledFrom([][]netip.Prefix{
			prefixes("10.0.0.0/16", "10.1.0.0/16", "fd00::/48"), prefixes("10.0.0.0/16", "40.1.0.0/16", "fd00::/48", "2001:db8::/64"),
			prefixes("10.0.0.0/16", "fd00::/48", "0.0.0.0/0"), nil,
		}).Draw(t, "vnet"),
		Tags: map[string][]netip.Prefix{"sql": prefixes("20.1.2.0/24", "8.8.8.8/32", "2603:1000::/32")},
		ASGs: map[string][]netip.Addr{"/asg/web": addrs("10.0.0.4", "fd00::4"), "/asg/db": {}},
	}
	if rapid.Bool().Draw(t, "admin") {
		p.admin = drawAdmin(t, m)
	}
	if rapid.IntRange(0, 9).Draw(t, "subnet") < 8 {
		p.subnet = drawGroup(t, m, "subnet")
	}
	if rapid.IntRange(0, 9).Draw(t, "nic") < 8 {
		p.nic = drawGroup(t, m, "nic")
	}
	return p
}

func drawPacket(t *rapid.T) netsec.Packet {
	pool := v4Pool
	near := addrs("10.0.0.4", "10.0.0.5")
	if rapid.IntRange(0, 9).Draw(t, "v6") > 7 {
		pool, near = v6Pool, addrs("fd00::4")
	}
	p := netsec.Packet{
		Src: rapid.SampledFrom(pool).Draw(t, "src"), Dst: rapid.SampledFrom(near).Draw(t, "dst"),
		SrcPort:  rapid.SampledFrom([]uint16{40000, 22, 22, 0, 1024, 65535}).Draw(t, "sport"),
		DstPort:  rapid.SampledFrom([]uint16{22, 22, 22, 25, 20, 3389, 0, 19, 26, 1000, 65535}).Draw(t, "dport"),
		Protocol: rapid.SampledFrom([]netsec.Protocol{netsec.TCP, netsec.TCP, netsec.UDP, netsec.ICMP, netsec.ESP, netsec.AH}).Draw(t, "proto"),
		Inbound:  rapid.IntRange(0, 9).Draw(t, "inbound") < 8,
	}
	if !p.Inbound {
		p.Src, p.Dst = p.Dst, p.Src
	}
	return p
}

// TestMain sets the number of random cases, more for the long campaign, unless the command line does.
func TestMain(m *testing.M) {
	n := "400"
	if os.Getenv("CURFEW_LONG") != "" {
		n = "12000"
	}
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{"rapid.checks": n, "rapid.nofailfile": "true"} {
		if !given[name] {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}

func names(outcomes map[string]bool) netsec.Access {
	switch {
	case len(outcomes) != 1:
		return netsec.Unknown
	case outcomes["allow"]:
		return netsec.Allow
	}
	return netsec.Deny
}

// TestDecideExact compares with the reference where only tags of the far side are unknown: the verdict must be the very
// same, over all layers, and the deciding rule too.
func TestDecideExact(t *testing.T) {
	open, total := 0, 0
	defer func() { t.Logf("%d of %d packets with more than one possible verdict", open, total) }()
	rapid.Check(t, func(t *rapid.T) {
		m := mode{unknownSources: true}
		r := drawPath(t, m)
		p := r.compile()
		for range 8 {
			pk := drawPacket(t)
			want := r.decide(pk, nil)
			got := p.Decide(pk)
			if total++; len(want) > 1 {
				open++
			}
			if !pk.Inbound {
				// Outward the far side is the destination, of which the package keeps no account from rule to rule.
				if got.Access != netsec.Unknown && got.Access != names(want) {
					t.Fatalf("%v: %v, want %v\n%v", pk, got, want, r)
				}
				continue
			}
			if got.Access != names(want) {
				t.Fatalf("%v: %v, want %v\n%v", pk, got, want, r)
			}
			a, rule := p.DecideAccess(pk)
			if a != got.Access || rule != got.Rule() {
				t.Fatalf("DecideAccess %v %v, Decide %v", a, rule, got)
			}
			asked := false
			_, decider := r.world(pk, func(string) bool { asked = true; return false })
			if !asked && got.Access != netsec.Unknown {
				h := got.Hops[got.Decider]
				name := ""
				if h.Rule != nil {
					name = h.Rule.Name
				}
				if h.Layer.String()+"/"+name != decider {
					t.Fatalf("%v: decided by %v/%v, want %v\n%v", pk, h.Layer, name, decider, r)
				}
			}
		}
	})
}

// TestDecideSound compares with the reference where anything may be wrong or missing: what is certain must be so in every
// world. Nothing that is not understood is dropped.
func TestDecideSound(t *testing.T) {
	unknown, total := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m := mode{unknownSources: true, chaos: true}
		r := drawPath(t, m)
		p := r.compile()
		for range 8 {
			pk := drawPacket(t)
			got := p.Decide(pk)
			want := names(r.decide(pk, nil))
			total++
			if got.Access == netsec.Unknown {
				if got.Why == "" {
					t.Fatalf("%v: Unknown without a reason: %+v\n%v", pk, got, r)
				}
				if want != netsec.Unknown {
					unknown++
				}
				continue
			}
			if got.Access != want {
				t.Fatalf("%v: %v, want %v\n%v", pk, got, want, r)
			}
			if a, _ := p.DecideAccess(pk); a != got.Access {
				t.Fatalf("DecideAccess %v, Decide %v", a, got)
			}
		}
	})
	t.Logf("%d of %d verdicts more cautious than need be", unknown, total)
	if unknown*20 > total {
		t.Errorf("%d of %d verdicts are Unknown without need", unknown, total)
	}
}

// TestSourcesAgree compares the set form with the reference at points of every piece and at random points.
func TestSourcesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := mode{unknownSources: true, chaos: rapid.IntRange(0, 2).Draw(t, "chaos") == 0}
		r := drawPath(t, m)
		p := r.compile()
		pk := drawPacket(t)
		if !pk.Inbound {
			pk.Src, pk.Dst, pk.Inbound = pk.Dst, pk.Src, true
		}
		ports := rapid.SampledFrom([]netsec.PortRange{netsec.Port(22), {First: 20, Last: 3389}, netsec.AllPorts}).Draw(t, "range")
		pieces := p.Sources(pk.Dst, pk.Protocol, ports)
		ported := pk.Protocol == netsec.TCP || pk.Protocol == netsec.UDP
		var points []netsec.Packet
		for range 6 {
			x := drawPacket(t)
			if !x.Inbound {
				x.Src = x.Dst
			}
			x.Dst, x.Protocol, x.Inbound = pk.Dst, pk.Protocol, true
			if x.Src.Is4() == x.Dst.Is4() && (!ported || ports.Contains(x.DstPort)) {
				points = append(points, x)
			}
		}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(pieces)-1), 0, 6).Draw(t, "pieces") {
			pc := pieces[i]
			rg := rapid.SampledFrom(pc.IPs.Ranges()).Draw(t, "range")
			points = append(points,
				netsec.Packet{Src: rg.From(), Dst: pk.Dst, SrcPort: pc.SourcePorts.First, DstPort: pc.Ports.First, Protocol: pk.Protocol, Inbound: true},
				netsec.Packet{Src: rg.To(), Dst: pk.Dst, SrcPort: pc.SourcePorts.Last, DstPort: pc.Ports.Last, Protocol: pk.Protocol, Inbound: true})
		}
		for _, x := range points {
			var base []netsec.PathPiece
			union := map[string]bool{}
			for _, pc := range pieces {
				if !pc.IPs.Contains(x.Src) || ported && (!pc.Ports.Contains(x.DstPort) || !pc.SourcePorts.Contains(x.SrcPort)) {
					continue
				}
				if pc.Tag == "" {
					base = append(base, pc)
				}
				if pc.Access != netsec.Deny {
					union["allow"] = true
				}
				if pc.Access != netsec.Allow {
					union["deny"] = true
				}
			}
			if len(base) != 1 {
				t.Fatalf("%v lies in %d pieces without a tag\n%v\n%v", x, len(base), pieces, r)
			}
			// Without any tag. Whether Internet holds what a default route leads to is the same for every source, and no such tag.
			none := map[string]bool{}
			for _, tag := range []string{"storage", "storage.westeurope", "azurecloud", "azurecloud.westeurope", "virtualnetwork"} {
				none["srctag:"+tag] = false
			}
			want := names(r.decide(x, none))
			if got := base[0].Access; got != want && !(m.chaos && got == netsec.Unknown) {
				t.Fatalf("%v without tags: %v, want %v\n%v", x, base[0], want, r)
			}
			// With any: the pieces over a point are what may happen to it.
			all := r.decide(x, nil)
			for o := range all {
				if !union[o] {
					t.Fatalf("%v: may end with %v, the pieces say %v\n%v\n%v", x, o, union, pieces, r)
				}
			}
			if !m.chaos {
				if len(all) != len(union) {
					t.Fatalf("%v: may end with %v, the pieces say %v\n%v\n%v", x, all, union, pieces, r)
				}
				if a := p.Decide(x).Access; a != names(union) {
					t.Fatalf("%v: point %v, set %v\n%v", x, a, union, r)
				}
			}
		}
	})
}

// TestDiffAgrees compares Diff with the reference at random points that no tag is needed for.
func TestDiffAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r1 := drawPath(t, mode{unknownSources: true})
		r2 := drawPath(t, mode{unknownSources: true})
		r2.env, r2.admin = r1.env, r1.admin
		pk := drawPacket(t)
		if !pk.Inbound {
			pk.Src, pk.Dst, pk.Inbound = pk.Dst, pk.Src, true
		}
		changes := netsec.Diff(r1.compile(), r2.compile(), pk.Dst, pk.Protocol, netsec.AllPorts)
		for range 5 {
			x := drawPacket(t)
			if !x.Inbound {
				x.Src = x.Dst
			}
			x.Dst, x.Protocol, x.Inbound = pk.Dst, pk.Protocol, true
			if x.Src.Is4() != x.Dst.Is4() {
				continue
			}
			ported := x.Protocol == netsec.TCP || x.Protocol == netsec.UDP
			for _, tag := range []string{"", "storage", "azurecloud"} {
				world := map[string]bool{}
				for _, k := range []string{"storage", "storage.westeurope", "azurecloud", "azurecloud.westeurope", "virtualnetwork"} {
					world["srctag:"+k] = k == tag
				}
				if tag != "" && !refPublic(x.Src) {
					continue
				}
				a, b := names(r1.decide(x, world)), names(r2.decide(x, world))
				var plain, tagged *netsec.Change
				for i := range changes {
					c := &changes[i]
					if !c.IPs.Contains(x.Src) || ported && (!c.Ports.Contains(x.DstPort) || !c.SourcePorts.Contains(x.SrcPort)) {
						continue
					}
					switch {
					case c.Tag == "" && plain == nil:
						plain = c
					case tag != "" && strings.EqualFold(c.Tag, tag) && tagged == nil:
						tagged = c
					case c.Tag == "" || tag != "" && strings.EqualFold(c.Tag, tag):
						t.Fatalf("%v lies in two changes of %q: %v\n%v\n%v", x, tag, changes, r1, r2)
					}
				}
				if tag == "" && (a != b) != (plain != nil) || plain != nil && tag == "" && (plain.Before.Access != a || plain.After.Access != b) {
					t.Fatalf("%v: from %v to %v, change %v\n%v\n%v", x, a, b, plain, r1, r2)
				}
				if tagged != nil && (tagged.Before.Access != a || tagged.After.Access != b) {
					t.Fatalf("%v of %s: from %v to %v, change %v\n%v\n%v", x, tag, a, b, tagged, r1, r2)
				}
				if tag != "" && a != b && tagged == nil && plain == nil {
					t.Fatalf("%v of %s: from %v to %v, no change\n%v\n%v", x, tag, a, b, r1, r2)
				}
			}
		}
	})
}

package netsec_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
)

func FuzzParsePortRange(f *testing.F) {
	for _, s := range []string{"22", "1000-2000", "*", "0-65535", "-1", "1-", "65536", "20-10", " 22 ", "+1", "1_0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := netsec.ParsePortRange(s)
		if err != nil {
			return
		}
		again, err := netsec.ParsePortRange(r.String())
		if err != nil || again != r || r.First > r.Last || !r.Contains(r.First) || !r.Contains(r.Last) || !r.Overlaps(r) || !r.Covers(r) {
			t.Errorf("%q gives %v, and that %v, %v", s, r, again, err)
		}
	})
}

func FuzzParseProtocol(f *testing.F) {
	for _, s := range []string{"tcp", "*", "All", "ICMP", "", "6"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := netsec.ParseProtocol(s); err == nil {
			if again, err := netsec.ParseProtocol(p.String()); err != nil || again != p {
				t.Errorf("%q gives %v, and that %v, %v", s, p, again, err)
			}
		}
	})
}

// FuzzCompile: no text of a rule makes the package fail, lets an Unknown pass for a grant, or makes the forms disagree.
func FuzzCompile(f *testing.F) {
	f.Add("*", "10.0.0.4", "*", "22", "Tcp", "", 100, "203.0.113.7", uint16(22))
	f.Add("Internet,Storage", "VirtualNetwork", "53", "20-30,80", "*", "", 0, "2001:db8::1", uint16(80))
	f.Add("::ffff:1.2.3.0/120,fe80::1%eth0", "0.0.0.0/0", "", "x", "gre", "/asg/x", 5000, "10.0.0.9", uint16(1))
	f.Add("1.2.3.4/33,.,AzureCloud.", "*", "65536", "1-0", "Esp", "/asg/web", 4096, "168.63.129.16", uint16(0))
	f.Fuzz(func(t *testing.T, sources, dests, sports, dports, proto, asg string, prio int, src string, port uint16) {
		list := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, ",")
		}
		a, err := netip.ParseAddr(src)
		if err != nil {
			return
		}
		r := netsec.Rule{Name: "r", Priority: prio, Inbound: true, Access: allow, Protocol: proto, Sources: list(sources),
			Destinations: list(dests), SourcePorts: list(sports), DestinationPorts: list(dports), SourceASGs: list(asg)}
		valid := r.Validate() == nil
		env := netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, ASGs: map[string][]netip.Addr{"/asg/web": addrs("10.0.0.9")}}
		p := netsec.Path{NIC: netsec.Compile(group(r), env), Admin: netsec.CompileAdmin([]netsec.AdminRule{{Name: "a", Priority: prio, Inbound: true,
			Access: netsec.AdminDeny, Protocol: proto, Sources: []netsec.AdminAddress{{Prefix: sources}}, SourcePorts: list(sports)}}, env)}
		dst := "10.0.0.4"
		if a.Is6() && !a.Is4In6() {
			dst = "fd00::4"
		}
		pk := packet(dst, dst, port)
		pk.Src = a
		one := netsec.Path{NIC: p.NIC}
		d := p.NIC.Decide(pk)
		if v := one.Decide(pk); v.Access != d.Access {
			t.Fatalf("one layer: %v, path %v", d, v)
		}
		if d.Access == netsec.Unknown && d.Why == "" {
			t.Fatalf("Unknown without a reason: %+v", d)
		}
		if _, isTag := netsec.ParsePrefix(sources); valid && isTag && d.Access == netsec.Unknown && asg == "" {
			if _, ok := netsec.ParsePrefix(dests); ok {
				t.Fatalf("a valid rule of addresses gives %+v", d)
			}
		}
		union := map[netsec.Access]bool{}
		base := 0
		for _, pc := range one.Sources(pk.Dst, netsec.TCP, netsec.Port(port)) {
			if pc.IPs.Contains(a.Unmap().WithZone("")) && pc.SourcePorts.Contains(pk.SrcPort) {
				union[pc.Access] = true
				if pc.Tag == "" {
					base++
				}
			}
		}
		if base != 1 {
			t.Fatalf("%v lies in %d pieces", a, base)
		}
		if d.Access != netsec.Unknown && (len(union) != 1 || !union[d.Access]) {
			t.Fatalf("point %v, set %v", d, union)
		}
		p.Decide(pk)
		p.Reachable(pk.Dst, netsec.Any, netsec.AllPorts)
	})
}

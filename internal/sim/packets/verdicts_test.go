//go:build linux

package packets_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/sim/packets"
	"github.com/curfew-jit/curfew/internal/sim/packets/frame"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// secRule is a rule before it is told to anybody: the simulator gets it as a body, netsec as its own type, and the reference looks at it.
type secRule struct {
	Name           string
	Priority       int
	Inbound        bool
	Access         string // Allow, Deny; of an admin rule also AlwaysAllow
	Protocol       string
	Src, Dst       []string
	SrcASG, DstASG []string
	SPorts, DPorts []string
}

// place is one machine's surroundings: an NSG pair, admin rules, the network.
type place struct {
	n           int
	admin       []secRule
	subnet, nic []secRule // nil: no NSG
	peered      bool
	public      bool // the network has public addresses of its own
	asgs        map[string][]netip.Addr
	nicID       string
}

type probe struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        netsec.Protocol
	inbound      bool
}

var (
	near4, near6 = addr("10.0.0.4"), addr("fd00::4")
	sqlTag       = []netip.Prefix{netip.MustParsePrefix("20.1.2.0/24"), netip.MustParsePrefix("8.8.8.8/32"), netip.MustParsePrefix("2603:1000::/32")}
	far4         = addrs("40.1.0.9 40.1.0.9 40.1.0.9 40.1.1.9 203.0.113.7 203.0.113.8 203.0.113.200 8.8.8.8 20.1.2.3 20.1.3.3 10.0.0.5 10.0.1.9 10.1.0.4 10.2.0.4 192.168.1.1 168.63.129.16 100.64.0.1 169.254.1.1 198.18.0.1 172.16.0.1 0.0.0.1 255.255.255.255 240.0.0.1 127.0.0.1")
	far6         = addrs("2001:db8::7 2603:1000::5 2603:1001::5 fd00::5 fd00:1::9 fd01::1 fe80::1234:5678:9abc fe80::1 3fff::1 4000::1")
	prefixes4    = strings.Fields("40.0.0.0/8 203.0.113.7 203.0.113.0/24 203.0.113.0/25 8.0.0.0/8 20.1.0.0/16 20.1.2.0/23 10.0.0.4 10.0.0.4/31 10.0.0.0/16 10.0.0.0/8 10.1.0.0/16 0.0.0.0/0 128.0.0.0/1 168.63.129.16 100.64.0.0/10")
	prefixes6    = strings.Fields("::/0 2001:db8::/32 2603:1000::5/128 2000::/3 fd00::/16 fd00::4 fd00::/64 fe80::/10")
	tags         = strings.Fields("VirtualNetwork Internet AzureLoadBalancer Sql virtualnetwork INTERNET")
	portRanges   = strings.Fields("22 3389 20-25 22-3389 1000-2000 26-30 * 0-65535 65535 0 0-21 23-65535")
)

func addrs(s string) (out []netip.Addr) {
	for f := range strings.FieldsSeq(s) {
		out = append(out, addr(f))
	}
	return out
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func some(r *rand.Rand, most int, list []string) (out []string) {
	for range 1 + r.IntN(most) {
		if x := pick(r, list); !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	if len(out) > 1 {
		out = slices.DeleteFunc(out, func(s string) bool { return s == "*" })
	}
	return out
}

// sides draws both sides of a rule: the far one often by tag, the near one often anything; one family in a rule, as Azure has it.
func sides(r *rand.Rand, asgs []string, admin bool) (far, near, farASG, nearASG []string) {
	pool := prefixes4
	if r.IntN(4) == 0 {
		pool = prefixes6
	}
	one := func(anything int) ([]string, []string) {
		switch n := r.IntN(10); {
		case n < anything:
			return []string{"*"}, nil
		case n == 8:
			return []string{pick(r, tags)}, nil
		case n == 9 && !admin:
			return nil, some(r, 2, asgs)
		}
		return some(r, 3, pool), nil
	}
	far, farASG = one(1)
	near, nearASG = one(5)
	if r.IntN(3) == 0 {
		far, farASG = []string{pick(r, tags)}, nil
	}
	return far, near, farASG, nearASG
}

func rules(r *rand.Rand, name string, asgs []string, admin bool) []secRule {
	out := []secRule{}
	used := map[string]bool{}
	for i := range r.IntN(6) {
		x := secRule{Name: fmt.Sprintf("%s-%d", name, i), Inbound: r.IntN(10) < 7, Priority: 100 + r.IntN(20), Access: pick(r, []string{"Allow", "Deny"}),
			Protocol: pick(r, strings.Fields("* * * Tcp Tcp Tcp Udp Icmp Esp Ah")), SPorts: []string{"*"}, DPorts: []string{"*"}}
		if admin {
			x.Access = pick(r, []string{"Allow", "Deny", "AlwaysAllow"})
		}
		for used[fmt.Sprint(x.Inbound, x.Priority)] {
			x.Priority++
		}
		used[fmt.Sprint(x.Inbound, x.Priority)] = true
		if r.IntN(10) < 6 {
			x.DPorts = some(r, 3, portRanges)
		}
		if r.IntN(10) < 2 {
			x.SPorts = some(r, 2, portRanges)
		}
		far, near, farASG, nearASG := sides(r, asgs, admin)
		if x.Inbound {
			x.Src, x.SrcASG, x.Dst, x.DstASG = far, farASG, near, nearASG
		} else {
			x.Src, x.SrcASG, x.Dst, x.DstASG = near, nearASG, far, farASG
		}
		out = append(out, x)
	}
	return out
}

func newPlace(r *rand.Rand, n int) *place {
	p := &place{n: n, peered: r.IntN(2) == 0, public: r.IntN(3) == 0, asgs: map[string][]netip.Addr{}}
	names := []string{"web", "db", "empty"}
	for _, a := range names {
		p.asgs[a] = nil
	}
	if r.IntN(4) > 0 {
		p.asgs["web"] = append(p.asgs["web"], near4, near6)
	}
	p.asgs["db"] = append(p.asgs["db"], addr("10.0.0.5"), addr("fd00::5"))
	if r.IntN(3) == 0 {
		p.asgs["db"] = append(p.asgs["db"], near4, near6)
	}
	if r.IntN(3) == 0 {
		p.admin = rules(r, "admin", names, true)
	}
	if r.IntN(5) > 0 {
		p.subnet = rules(r, "subnet", names, false)
	}
	if r.IntN(5) > 0 {
		p.nic = rules(r, "nic", names, false)
	}
	return p
}

func draw(r *rand.Rand) probe {
	far, near := pick(r, far4), near4
	if r.IntN(4) == 0 {
		far, near = pick(r, far6), near6
	}
	p := probe{src: far, dst: near, inbound: r.IntN(10) < 7, sport: pick(r, []uint16{40000, 22, 0, 1024, 65535}),
		dport: pick(r, []uint16{22, 22, 22, 25, 20, 3389, 0, 19, 26, 30, 31, 1000, 65535}), proto: pick(r, []netsec.Protocol{netsec.TCP, netsec.TCP, netsec.TCP, netsec.UDP, netsec.ICMP, netsec.ESP, netsec.AH})}
	if !p.inbound {
		p.src, p.dst = p.dst, p.src
	}
	return p
}

// estate puts the place into an estate, as bodies of ARM.
func (p *place) estate(e *estates.Estate) {
	e.Group(fmt.Sprintf("g%d", p.n), "westeurope")
	asgID := map[string]string{}
	for _, a := range []string{"web", "db", "empty"} {
		asgID[a] = e.ASG(fmt.Sprintf("%s-%d", a, p.n))
	}
	nsg := func(name string, rules []secRule) string {
		if rules == nil {
			return ""
		}
		var list []any
		for _, x := range rules {
			b := map[string]any{"priority": x.Priority, "direction": map[bool]string{true: "Inbound", false: "Outbound"}[x.Inbound], "access": x.Access, "protocol": x.Protocol}
			field := func(one, many string, v []string) {
				if len(v) == 1 {
					b[one] = v[0]
				} else if len(v) > 1 {
					b[many] = v
				}
			}
			ids := func(v []string) (out []map[string]any) {
				for _, a := range v {
					out = append(out, map[string]any{"id": asgID[a]})
				}
				return out
			}
			field("sourceAddressPrefix", "sourceAddressPrefixes", x.Src)
			field("destinationAddressPrefix", "destinationAddressPrefixes", x.Dst)
			field("sourcePortRange", "sourcePortRanges", x.SPorts)
			field("destinationPortRange", "destinationPortRanges", x.DPorts)
			if len(x.SrcASG) > 0 {
				b["sourceApplicationSecurityGroups"] = ids(x.SrcASG)
			}
			if len(x.DstASG) > 0 {
				b["destinationApplicationSecurityGroups"] = ids(x.DstASG)
			}
			list = append(list, map[string]any{"name": x.Name, "properties": b})
		}
		id := e.ID("Microsoft.Network/networkSecurityGroups", fmt.Sprintf("%s-%d", name, p.n))
		e.Add(map[string]any{"id": id, "name": fmt.Sprintf("%s-%d", name, p.n), "type": "Microsoft.Network/networkSecurityGroups", "location": "westeurope", "properties": map[string]any{"securityRules": list}})
		return id
	}
	space := []string{"10.0.0.0/16", "fd00::/48"}
	if p.public {
		space = append(space, "40.1.0.0/16", "2001:db8::/64")
	}
	vnet := e.VNet(fmt.Sprintf("net-%d", p.n), space, estates.Subnet{Name: "s", Prefix: "10.0.0.0/16", Prefix6: "fd00::/64", NSG: nsg("subnet", p.subnet)})
	if p.peered {
		e.Peer(vnet, e.VNet(fmt.Sprintf("peer-%d", p.n), []string{"10.1.0.0/16", "fd00:1::/48"}))
	}
	machine := func(name, nsg, v4, v6 string) {
		var asgs []any
		for _, a := range []string{"web", "db", "empty"} {
			if slices.Contains(p.asgs[a], addr(v4)) {
				asgs = append(asgs, map[string]any{"id": asgID[a]})
			}
		}
		config := func(n, a, version string, primary bool) map[string]any {
			return map[string]any{"name": n, "properties": map[string]any{"privateIPAddress": a, "privateIPAddressVersion": version, "privateIPAllocationMethod": "Static", "primary": primary,
				"subnet": map[string]any{"id": vnet + "/subnets/s"}, "applicationSecurityGroups": asgs}}
		}
		id := e.ID("Microsoft.Network/networkInterfaces", fmt.Sprintf("%s-%d", name, p.n))
		props := map[string]any{"ipConfigurations": []any{config("four", v4, "IPv4", true), config("six", v6, "IPv6", false)}}
		if nsg != "" {
			props["networkSecurityGroup"] = map[string]any{"id": nsg}
		}
		e.Add(map[string]any{"id": id, "name": fmt.Sprintf("%s-%d", name, p.n), "type": "Microsoft.Network/networkInterfaces", "location": "westeurope", "properties": props})
	}
	machine("this", nsg("nic", p.nic), near4.String(), near6.String())
	machine("other", "", "10.0.0.5", "fd00::5")
	p.nicID = e.ID("Microsoft.Network/networkInterfaces", fmt.Sprintf("this-%d", p.n))
	if p.admin != nil {
		var value []any
		for _, x := range p.admin {
			as := func(texts []string) (out []any) {
				for _, t := range texts {
					kind := "IPPrefix"
					if !strings.ContainsAny(t, "./:*") {
						kind = "ServiceTag"
					}
					out = append(out, map[string]any{"addressPrefix": t, "addressPrefixType": kind})
				}
				return out
			}
			value = append(value, map[string]any{"kind": "Custom", "id": "/rules/" + x.Name, "properties": map[string]any{"access": x.Access, "priority": x.Priority, "protocol": x.Protocol,
				"direction": map[bool]string{true: "Inbound", false: "Outbound"}[x.Inbound], "sources": as(x.Src), "destinations": as(x.Dst), "sourcePortRanges": x.SPorts, "destinationPortRanges": x.DPorts}})
		}
		e.Add(map[string]any{"id": vnet + "/networkManagerEffectiveSecurityAdminRules/default", "name": "default",
			"type": "Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules", "properties": map[string]any{"value": value}})
	}
}

func (p *place) network() []netip.Prefix {
	out := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/48")}
	if p.public {
		out = append(out, netip.MustParsePrefix("40.1.0.0/16"), netip.MustParsePrefix("2001:db8::/64"))
	}
	if p.peered {
		out = append(out, netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/48"))
	}
	return out
}

// path is the place as netsec takes it.
func (p *place) path(t *testing.T) netsec.Path {
	env := netsec.Env{VirtualNetwork: p.network(), Tags: map[string][]netip.Prefix{"sql": sqlTag}, ASGs: p.asgs}
	group := func(name string, rules []secRule) *netsec.Compiled {
		if rules == nil {
			return nil
		}
		g := netsec.Group{ID: name, Name: name}
		for _, x := range rules {
			g.Rules = append(g.Rules, netsec.Rule{Name: x.Name, Priority: x.Priority, Inbound: x.Inbound, Access: must(netsec.ParseAccess(x.Access))(t), Protocol: x.Protocol,
				Sources: x.Src, Destinations: x.Dst, SourceASGs: x.SrcASG, DestinationASGs: x.DstASG, SourcePorts: x.SPorts, DestinationPorts: x.DPorts})
		}
		return netsec.Compile(g, env)
	}
	out := netsec.Path{Subnet: group("subnet", p.subnet), NIC: group("nic", p.nic), PublicWithoutNSG: netsec.Open, VirtualNetwork: p.network()}
	if p.admin != nil {
		var list []netsec.AdminRule
		as := func(texts []string) (out []netsec.AdminAddress) {
			for _, t := range texts {
				out = append(out, netsec.AdminAddress{Prefix: t})
			}
			return out
		}
		for _, x := range p.admin {
			list = append(list, netsec.AdminRule{Name: x.Name, Collection: "c", Priority: x.Priority, Inbound: x.Inbound, Access: must(netsec.ParseAdminAccess(x.Access))(t), Protocol: x.Protocol,
				Sources: as(x.Src), Destinations: as(x.Dst), SourcePorts: x.SPorts, DestinationPorts: x.DPorts})
		}
		out.Admin = netsec.CompileAdmin(list, env)
	}
	return out
}

// holds is the dumb reference for one side of a rule.
func (p *place) holds(texts, asgs []string, a netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(x netip.Prefix) bool { return x.Contains(a) })
	}
	for _, g := range asgs {
		if slices.Contains(p.asgs[g], a) {
			return true
		}
	}
	for _, t := range texts {
		ok := false
		switch strings.ToLower(t) {
		case "*":
			ok = true
		case "virtualnetwork":
			ok = in(p.network()) || a == addr("168.63.129.16")
		case "azureloadbalancer":
			ok = a == addr("168.63.129.16") || a == addr("fe80::1234:5678:9abc")
		case "sql":
			ok = in(sqlTag)
		case "internet":
			ok = netip.MustParsePrefix("2000::/3").Contains(a)
			if a.Is4() {
				b := a.As4()
				first := b[0]
				ok = !(first == 0 || first == 10 || first == 127 || first >= 224 || first == 100 && b[1] >= 64 && b[1] < 128 || first == 169 && b[1] == 254 || first == 172 && b[1]>>4 == 1 ||
					first == 192 && b[1] == 168 || first == 192 && b[1] == 0 && b[2] == 2 || first == 198 && b[1]>>1 == 9 || a == addr("168.63.129.16"))
			}
			ok = ok && !in(p.network())
		default:
			if x, err := netip.ParsePrefix(t); err == nil {
				ok = x.Contains(a)
			} else {
				ok = addr(t) == a
			}
		}
		if ok {
			return true
		}
	}
	return false
}

func (p *place) decide(list []secRule, q probe) string {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b secRule) int { return a.Priority - b.Priority })
	ported := q.proto == netsec.TCP || q.proto == netsec.UDP
	ports := func(ranges []string, port uint16) bool {
		for _, r := range ranges {
			var lo, hi int
			switch n, _ := fmt.Sscanf(r, "%d-%d", &lo, &hi); {
			case r == "*" || r == "0-65535":
				return true
			case n == 1:
				hi = lo
			}
			if ported && lo <= int(port) && int(port) <= hi {
				return true
			}
		}
		return false
	}
	for _, x := range list {
		if x.Inbound == q.inbound && (x.Protocol == "*" || strings.EqualFold(x.Protocol, q.proto.String())) && ports(x.SPorts, q.sport) && ports(x.DPorts, q.dport) &&
			p.holds(x.Src, x.SrcASG, q.src) && p.holds(x.Dst, x.DstASG, q.dst) {
			return x.Access
		}
	}
	return ""
}

// reference judges a probe in the plainest way.
func (p *place) reference(q probe) bool {
	switch p.decide(p.admin, q) {
	case "Deny":
		return false
	case "AlwaysAllow":
		return true
	}
	for _, list := range [][]secRule{p.subnet, p.nic} {
		if list == nil {
			continue
		}
		access := p.decide(list, q)
		if access == "" {
			net := p.holds([]string{"VirtualNetwork"}, nil, q.src) && p.holds([]string{"VirtualNetwork"}, nil, q.dst)
			special := q.inbound && p.holds([]string{"AzureLoadBalancer"}, nil, q.src) || !q.inbound && p.holds([]string{"Internet"}, nil, q.dst)
			if !net && !special {
				return false
			}
		}
		if access == "Deny" {
			return false
		}
	}
	return true
}

func (p *place) String() string {
	b, _ := json.MarshalIndent(map[string]any{"admin": p.admin, "subnet": p.subnet, "nic": p.nic, "network": p.network(), "asgs": p.asgs}, "", " ")
	return string(b)
}

// bench is a pair of namespaces with a wire between them: frames go in at one end, rules stand at the other.
type bench struct {
	t      *testing.T
	judge  string
	socket *frame.Socket
	to     [6]byte
}

func command(t *testing.T, stdin string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.Output()
	if err != nil {
		said := ""
		if x, ok := err.(*exec.ExitError); ok {
			said = string(x.Stderr)
		}
		t.Fatalf("%v: %v: %.3000s", argv, err, said)
	}
	return string(out)
}

func newBench(t *testing.T) *bench {
	id := fmt.Sprintf("curfewtest-%d-%d", os.Getpid(), time.Now().UnixNano()%1e6)
	b := &bench{t: t, judge: id + "-judge"}
	ask := id + "-ask"
	for _, ns := range []string{b.judge, ask} {
		command(t, "", "ip", "netns", "add", ns)
		t.Cleanup(func() { command(t, "", "ip", "netns", "del", ns) })
	}
	command(t, "link add wire type veth peer name wire netns "+b.judge+"\nlink set dev wire up\n", "ip", "-n", ask, "-batch", "-")
	command(t, "link set dev wire up\n", "ip", "-n", b.judge, "-batch", "-")
	b.socket = must(frame.Open(ask, "wire"))(t)
	t.Cleanup(func() { _ = b.socket.Close() })
	if err := frame.In(b.judge, func() error {
		i, err := net.InterfaceByName("wire")
		if err == nil {
			copy(b.to[:], i.HardwareAddr)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

var macText = regexp.MustCompile(`\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`)

func (b *bench) set(name string) map[string]bool {
	out := map[string]bool{}
	for _, m := range macText.FindAllString(command(b.t, "", "ip", "netns", "exec", b.judge, "nft", "list", "set", "inet", "judges", name), -1) {
		out[m] = true
	}
	return out
}

// ask puts probes to places, the i-th list to the i-th, and returns which passed.
func (b *bench) ask(table string, probes [][]probe) [][]bool {
	b.t.Helper()
	command(b.t, table, "ip", "netns", "exec", b.judge, "nft", "-f", "-")
	protocols := map[netsec.Protocol]uint8{netsec.TCP: frame.TCP, netsec.UDP: frame.UDP, netsec.ICMP: frame.ICMP, netsec.ESP: frame.ESP, netsec.AH: frame.AH}
	from := func(i, k int) [6]byte {
		m := [6]byte{2, 0, byte(i >> 8), byte(i), byte(k >> 8), byte(k)}
		if !probes[i][k].inbound {
			m[4] |= 0x80
		}
		return m
	}
	text := func(m [6]byte) string { return net.HardwareAddr(m[:]).String() }
	arrived := map[string]bool{}
	for range 20 { // a full queue drops frames
		missing := 0
		for i, list := range probes {
			for k, q := range list {
				if arrived[text(from(i, k))] {
					continue
				}
				missing++
				p := frame.Packet{From: from(i, k), To: b.to, Src: q.src, Dst: q.dst, SrcPort: q.sport, DstPort: q.dport, Protocol: protocols[q.proto], Flags: frame.SYN}
				if q.proto == netsec.ICMP && q.src.Is6() {
					p.Protocol = frame.ICMPv6
				}
				if err := b.socket.Send(p); err != nil {
					b.t.Fatal(err)
				}
			}
		}
		if missing == 0 {
			passed := b.set("passed")
			out := make([][]bool, len(probes))
			for i, list := range probes {
				for k := range list {
					out[i] = append(out[i], passed[text(from(i, k))])
				}
			}
			return out
		}
		arrived = b.set("arrived")
	}
	b.t.Fatal("frames are lost on their way")
	return nil
}

// TestVerdicts (P4, P5): netsec, the nftables of the namespaces and a dumb reference give one verdict for random NSG pairs, sources and ports.
func TestVerdicts(t *testing.T) {
	require(t)
	b := newBench(t)
	const batch, each = 200, 16
	pairs := testkit.Count(2*batch, 10_000)
	allowed, total := 0, 0
	seed := uint64(20261122)
	began := time.Now()
	for first := 0; first < pairs; first += batch {
		r := rand.New(rand.NewPCG(seed, uint64(first)))
		e := estates.New()
		e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "Witness")
		var places []*place
		var nics []string
		var probes [][]probe
		for n := range batch {
			p := newPlace(r, n)
			p.estate(e)
			places, nics = append(places, p), append(nics, p.nicID)
			var list []probe
			for range each {
				list = append(list, draw(r))
			}
			probes = append(probes, list)
		}
		table := must(packets.Judges(e.JSON(), map[string][]netip.Prefix{"sql": sqlTag}, nics))(t)
		got := b.ask(table, probes)
		for i, p := range places {
			path := p.path(t)
			for k, q := range probes[i] {
				want := p.reference(q)
				judged := path.Decide(netsec.Packet{Src: q.src, Dst: q.dst, SrcPort: q.sport, DstPort: q.dport, Protocol: q.proto, Inbound: q.inbound})
				if total++; want {
					allowed++
				}
				if judged.Access == netsec.Unknown || (judged.Access == netsec.Allow) != want || got[i][k] != want {
					t.Fatalf("batch %d, place %d: %v %v:%d to %v:%d, inbound %v\nreference lets it pass: %v, the kernel: %v, netsec: %v %v\n%v", first, i, q.proto, q.src, q.sport, q.dst, q.dport, q.inbound, want, got[i][k], judged.Access, judged.Why, p)
				}
			}
		}
	}
	t.Logf("%d pairs, %d packets, %d let through, %v", pairs, total, allowed, time.Since(began).Round(time.Millisecond))
	if allowed*10 < total || allowed*10 > total*9 {
		t.Errorf("%d of %d packets pass: the cases say little", allowed, total)
	}
}

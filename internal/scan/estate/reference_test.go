package estate_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// A dumb reference: small random estates, whose packets are followed one by one from the front to the machine by code that knows
// nothing of Ways and netsec. What gets in, and by which front, must be the same.

type refRule struct {
	prio             int
	access           string // Allow, Deny, AlwaysAllow
	proto            string // Tcp, Udp, *
	src, dst         string
	asg              int // destination group, -1 is none
	portFrom, portTo int
}

type refConfig struct {
	addr, pub netip.Addr // pub is invalid where there is none
	basic     bool
	asgs      []int
	pool      bool
	v6        bool
}

type refNIC struct {
	nsg, subnet int // nsg -1 is none
	configs     []refConfig
}

type refLB struct {
	kind           string // rule, nat, range
	proto          string // Tcp, Udp, All
	front, backend int
	last           int
	floating       bool
	vm, nic, cfg   int // of nat
}

type refWorld struct {
	nsgs    [][]refRule
	subnets []int // nsg of each, -1 is none
	vms     [][]refNIC
	rules   []refLB
	lbBasic bool
	lbAddr  netip.Addr
	admin   []refRule
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (w *refWorld) rule(r *rand.Rand, prio int, admin bool) refRule {
	x := refRule{prio: prio, access: pick(r, "Allow", "Deny"), proto: pick(r, "Tcp", "*", "Udp"), asg: -1,
		src: pick(r, "*", "Internet", "20.0.0.0/8", "30.0.0.1", "VirtualNetwork", "0.0.0.0/0", "::/0", "2600::/16"),
		dst: pick(r, "*", "*", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.4", "10.0.1.5", "52.0.0.1", "VirtualNetwork", "fd00::4")}
	if admin {
		x.access = pick(r, "Allow", "Deny", "AlwaysAllow")
	} else if r.IntN(4) == 0 {
		x.asg = r.IntN(2)
	}
	x.portFrom, x.portTo = pick(r, 22, 0, 20, 80), 0
	switch x.portFrom {
	case 0:
		x.portTo = 65535
	case 20:
		x.portTo = 25
	default:
		x.portTo = x.portFrom
	}
	return x
}

func randomWorld(r *rand.Rand) *refWorld {
	w := &refWorld{lbBasic: r.IntN(3) == 0, lbAddr: netip.MustParseAddr("52.0.0.1")}
	for range 3 {
		var rules []refRule
		for i := range r.IntN(5) {
			rules = append(rules, w.rule(r, 100+10*i, false))
		}
		w.nsgs = append(w.nsgs, rules)
	}
	for i := range r.IntN(3) {
		w.admin = append(w.admin, w.rule(r, 10+i, true))
	}
	w.subnets = []int{r.IntN(4) - 1, r.IntN(4) - 1}
	host, pub := 4, byte(1)
	for range 1 + r.IntN(3) {
		var vm []refNIC
		for range 1 + r.IntN(2) {
			n := refNIC{nsg: r.IntN(4) - 1, subnet: r.IntN(2)}
			for c := range 1 + r.IntN(2) {
				x := refConfig{addr: netip.AddrFrom4([4]byte{10, 0, byte(n.subnet), byte(host)}), pool: r.IntN(2) == 0}
				if x.v6 = c == 1 && r.IntN(2) == 0; x.v6 {
					x.addr, x.pool = netip.MustParseAddr(fmt.Sprintf("fd00::%d", host)), false
				}
				host++
				if r.IntN(2) == 0 {
					x.pub, x.basic = netip.AddrFrom4([4]byte{51, 0, 0, pub}), r.IntN(3) == 0
					if x.v6 {
						x.pub = netip.MustParseAddr(fmt.Sprintf("2a00::%d", pub))
					}
					pub++
				}
				for g := range 2 {
					if r.IntN(3) == 0 {
						x.asgs = append(x.asgs, g)
					}
				}
				n.configs = append(n.configs, x)
			}
			vm = append(vm, n)
		}
		w.vms = append(w.vms, vm)
	}
	for range r.IntN(4) {
		x := refLB{kind: pick(r, "rule", "nat", "range"), proto: pick(r, "Tcp", "Udp", "All"), front: 1000 + r.IntN(3), backend: pick(r, 22, 80), floating: r.IntN(4) == 0}
		x.last = x.front
		if x.kind == "range" {
			x.last = x.front + 50
		}
		if x.kind == "rule" && r.IntN(3) == 0 {
			x.proto, x.front, x.last, x.backend = "All", 0, 0, 0
		}
		if x.kind == "nat" {
			x.vm = r.IntN(len(w.vms))
			x.nic = r.IntN(len(w.vms[x.vm]))
			if w.vms[x.vm][x.nic].configs[0].v6 {
				continue
			}
		}
		w.rules = append(w.rules, x)
	}
	return w
}

func (w *refWorld) file(r *rand.Rand) []byte {
	wild := func(s string) string { return pick(r, s, s, strings.ToUpper(s), strings.ToLower(s)) }
	out := &world{}
	nsg := func(i int) m { return ref(wild(net + "networkSecurityGroups/g" + strconv.Itoa(i))) }
	side := func(p m, x refRule) {
		if x.asg >= 0 {
			p["destinationApplicationSecurityGroups"] = l{ref(wild(net + "applicationSecurityGroups/a" + strconv.Itoa(x.asg)))}
		} else if r.IntN(2) == 0 {
			p["destinationAddressPrefixes"] = l{x.dst}
		} else {
			p["destinationAddressPrefix"] = x.dst
		}
	}
	port := func(x refRule) string {
		switch {
		case x.portTo == 65535:
			return "*"
		case x.portFrom == x.portTo:
			return strconv.Itoa(x.portFrom)
		}
		return fmt.Sprintf("%d-%d", x.portFrom, x.portTo)
	}
	for i, rules := range w.nsgs {
		list := l{}
		for n, x := range rules {
			p := m{"priority": x.prio, "direction": "Inbound", "access": x.access, "protocol": x.proto, "sourceAddressPrefix": x.src, "sourcePortRange": "*", "destinationPortRange": port(x)}
			side(p, x)
			if r.IntN(6) == 0 {
				out.add(wild(fmt.Sprintf("%snetworkSecurityGroups/g%d/securityRules/r%d", net, i, n)), p)
				continue
			}
			list = append(list, m{"name": fmt.Sprintf("r%d", n), "properties": p})
		}
		out.add(net+"networkSecurityGroups/g"+strconv.Itoa(i), m{"securityRules": list})
	}
	subnets := l{}
	for i, g := range w.subnets {
		p := m{"addressPrefix": fmt.Sprintf("10.0.%d.0/24", i)}
		if g >= 0 {
			p["networkSecurityGroup"] = nsg(g)
		}
		subnets = append(subnets, m{"name": "s" + strconv.Itoa(i), "properties": p})
	}
	out.add(net+"virtualNetworks/v", m{"addressSpace": m{"addressPrefixes": l{"10.0.0.0/16", "fd00::/48"}}, "subnets": subnets})
	if len(w.admin) > 0 {
		value := l{}
		for i, x := range w.admin {
			value = append(value, m{"id": fmt.Sprintf("/m/ruleCollections/c/rules/r%d", i), "properties": m{"access": x.access, "direction": "Inbound", "priority": x.prio, "protocol": strings.Replace(x.proto, "*", "Any", 1),
				"sources": l{m{"addressPrefix": x.src}}, "destinations": l{m{"addressPrefix": x.dst}}, "destinationPortRanges": l{port(x)}}})
		}
		out.add(net+"virtualNetworks/v/networkManagerEffectiveSecurityAdminRules/default", m{"value": value})
	}
	sku := func(basic bool) m {
		if basic {
			return m{"sku": m{"name": "Basic"}}
		}
		return m{"sku": m{"name": "Standard"}}
	}
	var members l
	pips := 0
	for v, vm := range w.vms {
		nics := l{}
		for n, nic := range vm {
			id := fmt.Sprintf("%snetworkInterfaces/n%d-%d", net, v, n)
			configs := l{}
			for c, x := range nic.configs {
				p := m{"privateIPAddress": x.addr.String(), "subnet": ref(wild(fmt.Sprintf("%svirtualNetworks/v/subnets/s%d", net, nic.subnet)))}
				if x.pub.IsValid() {
					pip := fmt.Sprintf("%spublicIPAddresses/p%d", net, pips)
					pips++
					out.add(pip, m{"ipAddress": x.pub.String()}, sku(x.basic))
					p["publicIPAddress"] = ref(wild(pip))
				}
				var asgs l
				for _, g := range x.asgs {
					asgs = append(asgs, ref(wild(net+"applicationSecurityGroups/a"+strconv.Itoa(g))))
				}
				p["applicationSecurityGroups"] = asgs
				if x.pool {
					switch r.IntN(3) { // three ways to say it, and all of them at once
					case 0:
						p["loadBalancerBackendAddressPools"] = l{ref(wild(net + "loadBalancers/b/backendAddressPools/p"))}
					case 1:
						members = append(members, m{"name": "x", "properties": m{"ipAddress": x.addr.String(), "virtualNetwork": ref(wild(net + "virtualNetworks/v"))}})
					default:
						p["loadBalancerBackendAddressPools"] = l{ref(wild(net + "loadBalancers/b/backendAddressPools/p"))}
						members = append(members, m{"name": "x", "properties": m{"networkInterfaceIPConfiguration": ref(wild(fmt.Sprintf("%s/ipConfigurations/c%d", id, c)))}})
					}
				}
				configs = append(configs, m{"name": "c" + strconv.Itoa(c), "properties": p})
			}
			p := m{"ipConfigurations": configs}
			if nic.nsg >= 0 {
				p["networkSecurityGroup"] = nsg(nic.nsg)
			}
			out.add(id, p)
			nics = append(nics, ref(wild(id)))
		}
		out.add(cmp+"vm"+strconv.Itoa(v), m{"networkProfile": m{"networkInterfaces": nics}})
	}
	var rules, nats l
	for i, x := range w.rules {
		p := m{"frontendIPConfiguration": ref(wild(net + "loadBalancers/b/frontendIPConfigurations/f")), "protocol": x.proto, "backendPort": x.backend, "frontendPort": x.front, "enableFloatingIP": x.floating}
		body := m{"name": "r" + strconv.Itoa(i), "properties": p}
		switch x.kind {
		case "rule":
			p["backendAddressPool"] = ref(wild(net + "loadBalancers/b/backendAddressPools/p"))
			rules = append(rules, body)
		case "nat":
			p["backendIPConfiguration"] = ref(wild(fmt.Sprintf("%snetworkInterfaces/n%d-%d/ipConfigurations/c0", net, x.vm, x.nic)))
			nats = append(nats, body)
		case "range":
			delete(p, "frontendPort")
			p["backendAddressPool"], p["frontendPortRangeStart"], p["frontendPortRangeEnd"] = ref(wild(net+"loadBalancers/b/backendAddressPools/p")), x.front, x.last
			nats = append(nats, body)
		}
	}
	out.add(net+"publicIPAddresses/lb", m{"ipAddress": w.lbAddr.String()}, sku(w.lbBasic))
	out.add(net+"loadBalancers/b", m{"frontendIPConfigurations": l{m{"name": "f", "properties": m{"publicIPAddress": ref(wild(net + "publicIPAddresses/lb"))}}},
		"backendAddressPools": l{m{"name": "p", "properties": m{"loadBalancerBackendAddresses": members}}}, "loadBalancingRules": rules, "inboundNatRules": nats}, sku(w.lbBasic))
	r.Shuffle(len(out.bodies), func(i, j int) { out.bodies[i], out.bodies[j] = out.bodies[j], out.bodies[i] })
	return out.apart(r).file()
}

// refIn tells whether an address is what a text of a rule says.
func refIn(a netip.Addr, text string) bool {
	vnet := strings.HasPrefix(a.String(), "10.0.") || strings.HasPrefix(a.String(), "fd00:")
	switch text {
	case "*":
		return true
	case "VirtualNetwork":
		return vnet || a.String() == "168.63.129.16"
	case "Internet":
		return !vnet && !strings.HasPrefix(a.String(), "172.16.")
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains(a)
	}
	return a.String() == text
}

func (w *refWorld) matches(x refRule, src, dst netip.Addr, port int) bool {
	if x.proto == "Udp" || port < x.portFrom || port > x.portTo || !refIn(src, x.src) {
		return false
	}
	if x.asg < 0 {
		return refIn(dst, x.dst)
	}
	for _, vm := range w.vms {
		for _, n := range vm {
			for _, c := range n.configs {
				if c.addr == dst && slices.Contains(c.asgs, x.asg) {
					return true
				}
			}
		}
	}
	return false
}

// gets follows one TCP packet through admin rules and groups: yes, no, or not known.
func (w *refWorld) gets(n refNIC, src, dst netip.Addr, port int, outside, basic bool) string {
	always := false
	for _, x := range w.admin {
		if w.matches(x, src, dst, port) {
			switch x.access {
			case "Deny":
				return "no"
			case "AlwaysAllow":
				always = true
			}
			break
		}
	}
	groups := 0
	for _, g := range []int{w.subnets[n.subnet], n.nsg} {
		if g < 0 {
			continue
		}
		groups++
		if always {
			continue
		}
		in := refIn(src, "VirtualNetwork") && refIn(dst, "VirtualNetwork") || src.String() == "168.63.129.16"
		for _, x := range w.nsgs[g] {
			if w.matches(x, src, dst, port) {
				in = x.access == "Allow"
				break
			}
		}
		if !in {
			return "no"
		}
	}
	if groups == 0 && outside && !basic {
		if always {
			return "?"
		}
		return "no"
	}
	return "yes"
}

// fronts lists where a client connects to get to a port of a machine, with what comes of it.
func (w *refWorld) fronts(vm int, src netip.Addr, port int, outside bool) []string {
	set := map[string]bool{}
	for ni, n := range w.vms[vm] {
		for ci, c := range n.configs {
			say := func(how, front string, dst netip.Addr, basic bool) {
				if src.Is4() == dst.Is4() {
					set[fmt.Sprintf("%s %s to %s: %s", how, front, dst, w.gets(n, src, dst, port, outside, basic))] = true
				}
			}
			if !outside {
				say("virtual_network", "", c.addr, false)
				continue
			}
			if c.pub.IsValid() {
				say("public_ip", fmt.Sprintf("%s:%d", c.pub, port), c.addr, c.basic)
			}
			for _, x := range w.rules {
				mine := x.kind == "nat" && x.vm == vm && x.nic == ni && ci == 0 || x.kind != "nat" && c.pool
				if !mine || x.proto == "Udp" || x.backend != 0 && x.backend != port || c.v6 {
					continue
				}
				front, dst, how := x.front, c.addr, "nat_rule"
				if x.kind == "rule" {
					how = "lb_rule"
				}
				if x.backend == 0 {
					front = port
				}
				if x.floating {
					dst = w.lbAddr
				}
				say(how, fmt.Sprintf("%s:%d", w.lbAddr, front), dst, w.lbBasic)
			}
		}
	}
	var out []string
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func TestWaysAgainstReference(t *testing.T) {
	n := 200
	if os.Getenv("CURFEW_LONG") != "" {
		n = 20_000
	}
	asked, in := 0, 0
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), 4))
		w := randomWorld(r)
		file := w.file(r)
		e := read(t, file)
		for v := range w.vms {
			vm := find(t, e, "vm"+strconv.Itoa(v))
			if len(vm.Problems) > 0 {
				t.Fatalf("seed %d: %v", seed, vm.Problems)
			}
			for _, port := range []int{22, 80} {
				ways := e.Ways(vm, netsec.TCP, uint16(port))
				for _, s := range []string{"20.1.1.1", "30.0.0.1", "40.0.0.1", "2600::1", "2a01::1", "10.0.0.200", "fd00::999"} {
					src := netip.MustParseAddr(s)
					outside := !strings.HasPrefix(s, "10.") && !strings.HasPrefix(s, "fd00:")
					var got []string
					for _, x := range ways {
						if x.Unknown != "" {
							t.Fatalf("seed %d: %s", seed, x.Unknown)
						}
						if outside == (x.Kind == estate.VirtualNetwork) || src.Is4() != x.Dest.Is4() {
							continue
						}
						z, front := x.Reach.Internet, fmt.Sprintf("%s:%d", x.Address, x.FrontendPort)
						if !outside {
							z, front = x.Reach.VirtualNetwork, ""
						}
						answer := "no"
						if z.Allowed.Contains(src) {
							answer = "yes"
							in++
						} else if z.Unknown.Contains(src) {
							answer = "?"
						}
						p := netsec.Packet{Src: src, Dst: x.Dest, SrcPort: 50000, DstPort: x.Port, Protocol: netsec.TCP, Inbound: true}
						if a := x.Path.Decide(p).Access; (a == netsec.Allow) != (answer == "yes") || (a == netsec.Deny) != (answer == "no") {
							t.Fatalf("seed %d: Reach says %s, Path says %s", seed, answer, a)
						}
						got = append(got, fmt.Sprintf("%s %s to %s: %s", x.Kind, front, x.Dest, answer))
					}
					slices.Sort(got)
					got = slices.Compact(got)
					asked++
					if want := w.fronts(v, src, port, outside); !slices.Equal(got, want) {
						t.Fatalf("seed %d, machine %d, port %d from %s:\ngot  %q\nwant %q\n%s", seed, v, port, src, got, want, file)
					}
				}
			}
		}
	}
	if in < asked/20 {
		t.Errorf("of %d questions only %d got in: the estates show nothing", asked, in)
	}
}

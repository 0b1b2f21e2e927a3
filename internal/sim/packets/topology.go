package packets

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// plan is everything that should be there: namespaces, links between them, and what is in each.
type plan struct {
	spaces   []*space
	byName   map[string]*space
	links    []link
	machines []Machine
	unknown  []string // service tags without addresses
	problems []string
}

// space is one namespace. Lines are commands of ip that may be repeated; taking one back is the same with "del".
type space struct {
	name  string
	lines []string
	rules string // for nft -f
	sshd  *login // nil: nobody signs in here
	flush bool   // established connections are judged anew when rules change
	ports []port // of a machine
}

// login is an sshd in a machine.
type login struct {
	host  string
	names []string // as ssh looks its key up
}

// port is a machine's interface, and the other end of it.
type port struct {
	dev, router, peer string
	addrs             []netip.Addr
}

// link is a pair of interfaces.
type link struct{ a, devA, b, devB string }

// Names and numbers that outlive changes.
type numbers struct {
	run  string
	next int
	of   map[string]int
}

func (n *numbers) get(key string) int {
	i, ok := n.of[key]
	if !ok {
		n.next++
		i = n.next
		n.of[key] = i
	}
	return i
}

func (n *numbers) space(what string) string { return "curfew-" + n.run + "-" + what }

// The Internet's own address towards its links. Routers have others of 100.64.0.0/10, which no estate and no client uses.
var internetAddr = netip.MustParseAddr("100.64.0.1")

func routerAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 64, byte(1 + i/250), byte(1 + i%250)})
}

func host(a netip.Addr) string { return fmt.Sprintf("%s/%d", a, a.BitLen()) }

// maker builds a plan.
type maker struct {
	e   *estate
	n   *numbers
	cfg Config
	p   *plan

	internet *space
	routers  map[string]*router // by virtual network
	taken    map[netip.Addr]bool
	unknown  map[string]bool
}

// router of a virtual network, with what its ruleset is made of.
type router struct {
	*space
	n           int
	vnet        vnet
	nat, source []string // nft rules: inward, outward
	marks       []string
	behind      map[netip.Addr]string // private address → device
	outbound    netip.Addr
}

func makePlan(e *estate, n *numbers, cfg Config, clients []netip.Addr) *plan {
	m := &maker{e: e, n: n, cfg: cfg, p: &plan{byName: map[string]*space{}}, routers: map[string]*router{}, taken: map[netip.Addr]bool{}, unknown: map[string]bool{}}
	m.internet = m.add(n.space("internet"))
	m.internet.lines = append(m.internet.lines, "addr replace "+host(internetAddr)+" dev lo", "route replace blackhole 0.0.0.0/0", "route replace blackhole ::/0")
	for _, p := range e.publics {
		m.taken[p.addr] = true
	}
	for _, c := range clients {
		m.taken[c] = true
	}
	ids := make([]string, 0, len(e.vnets))
	for id := range e.vnets {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		m.router(id)
	}
	for _, id := range ids {
		m.peers(m.routers[id])
	}
	for _, c := range clients {
		m.client(c, ids)
	}
	for _, x := range e.machines {
		m.machine(x)
	}
	for _, b := range e.balancer {
		m.balance(b)
	}
	for _, id := range ids {
		m.routers[id].finish()
	}
	for t := range m.unknown {
		m.p.unknown = append(m.p.unknown, t)
	}
	slices.Sort(m.p.unknown)
	slices.Sort(e.problems)
	m.p.problems = slices.Compact(e.problems)
	return m.p
}

func (m *maker) add(name string) *space {
	s := &space{name: name}
	m.p.spaces = append(m.p.spaces, s)
	m.p.byName[name] = s
	return s
}

func clientSpace(n *numbers, a netip.Addr) string {
	return n.space("client-" + strings.ReplaceAll(a.String(), ":", "-"))
}

// client makes a namespace for an address: on the Internet, or within the first virtual network that holds it.
func (m *maker) client(a netip.Addr, vnets []string) {
	s := m.add(clientSpace(m.n, a))
	dev := fmt.Sprintf("c%d", m.n.get("client "+a.String()))
	at, gateway := m.internet, internetAddr
	for _, id := range vnets {
		if r := m.routers[id]; slices.ContainsFunc(r.vnet.space, func(p netip.Prefix) bool { return p.Contains(a) }) {
			at, gateway = r.space, routerAddr(r.n)
			break
		}
	}
	m.p.links = append(m.p.links, link{at.name, dev, s.name, "eth0"})
	if a.Is4() {
		s.lines = append(s.lines, "addr replace "+host(a)+" dev eth0", "route replace 0.0.0.0/0 via "+gateway.String()+" dev eth0 onlink")
	} else {
		s.lines = append(s.lines, "addr replace "+host(a)+" dev eth0 nodad", "addr replace fe80::2/64 dev eth0 nodad", "route replace ::/0 via fe80::1 dev eth0")
	}
	at.lines = append(at.lines, "addr replace fe80::1/64 dev "+dev+" nodad", "route replace "+host(a)+" dev "+dev)
}

func (m *maker) router(id string) {
	i := m.n.get("vnet " + id)
	r := &router{space: m.add(m.n.space(fmt.Sprintf("vnet-%d", i))), n: i, vnet: m.e.vnets[id], behind: map[netip.Addr]string{}}
	up := fmt.Sprintf("v%d", i)
	m.p.links = append(m.p.links, link{m.internet.name, up, r.name, "wan"})
	r.lines = append(r.lines, "addr replace "+host(routerAddr(i))+" dev lo", "addr replace "+host(hostAddr)+" dev lo", "addr replace fe80::2/64 dev wan nodad",
		"route replace 0.0.0.0/0 via "+internetAddr.String()+" dev wan onlink", "route replace ::/0 via fe80::1 dev wan")
	m.internet.lines = append(m.internet.lines, "addr replace fe80::1/64 dev "+up+" nodad")
	// Machines without a public address go out by one that Azure owns. It is taken from documentation space that nobody uses here.
	for last := 199; last >= 100 && !r.outbound.IsValid(); last-- {
		if a := netip.AddrFrom4([4]byte{203, 0, 113, byte(last)}); !m.taken[a] {
			m.taken[a], r.outbound = true, a
		}
	}
	if r.outbound.IsValid() {
		m.lead(r, r.outbound)
	} else {
		m.e.problem("%s: no address is left for its outbound traffic", id)
	}
	m.routers[id] = r
}

// lead routes a public address to the router.
func (m *maker) lead(r *router, a netip.Addr) {
	line := fmt.Sprintf("route replace %s via %s dev v%d onlink", host(a), routerAddr(r.n), r.n)
	if a.Is6() {
		line = fmt.Sprintf("route replace %s via fe80::2 dev v%d", host(a), r.n)
	}
	if !slices.Contains(m.internet.lines, line) {
		m.internet.lines = append(m.internet.lines, line)
	}
}

// peers links a router to those of its connected peers, as far as they are here.
func (m *maker) peers(r *router) {
	for _, p := range r.vnet.peers {
		other := m.routers[p.id]
		if other == nil || other == r {
			continue
		}
		mine, theirs := fmt.Sprintf("p%d", other.n), fmt.Sprintf("p%d", r.n)
		end := "fe80::1"
		if r.n > other.n {
			end = "fe80::2"
		}
		l := link{r.name, mine, other.name, theirs}
		if !slices.Contains(m.p.links, l) && !slices.Contains(m.p.links, link{l.b, l.devB, l.a, l.devA}) {
			m.p.links = append(m.p.links, l)
			r.lines = append(r.lines, "addr replace "+end+"/64 dev "+mine+" nodad")
			other.lines = append(other.lines, "addr replace "+map[string]string{"fe80::1": "fe80::2", "fe80::2": "fe80::1"}[end]+"/64 dev "+theirs+" nodad")
		}
		for _, x := range other.vnet.space {
			if x.Addr().Is4() {
				r.lines = append(r.lines, fmt.Sprintf("route replace %s via %s dev %s onlink", x, routerAddr(other.n), mine))
			} else {
				r.lines = append(r.lines, fmt.Sprintf("route replace %s via %s dev %s", x, map[string]string{"fe80::1": "fe80::2", "fe80::2": "fe80::1"}[end], mine))
			}
		}
	}
}

// machine makes the namespace of a machine, with an interface for each NIC.
func (m *maker) machine(x machine) {
	s := m.add(m.n.space(fmt.Sprintf("vm-%d", m.n.get("vm "+x.id))))
	rs := newRuleset(m.e, m.cfg.Tags)
	var entries []entry
	out := Machine{ID: x.id, Name: x.name, Namespace: s.name, Running: x.running}
	var names []string
	for i, id := range x.nics {
		n, ok := m.e.nics[id]
		if !ok || len(n.configs) == 0 {
			m.e.problem("%s: its interface %s is not there, or has no address", x.id, id)
			continue
		}
		sub := m.e.subnets[n.configs[0].subnet]
		r := m.routers[sub.vnet]
		if r == nil {
			m.e.problem("%s: the virtual network of its interface %s is not there", x.id, id)
			continue
		}
		dev, peer := fmt.Sprintf("eth%d", i), fmt.Sprintf("n%d", m.n.get("nic "+id))
		m.p.links = append(m.p.links, link{r.name, peer, s.name, dev})
		pt := port{dev: dev, router: r.name, peer: peer}
		out.Router = r.name
		out.Ports = append(out.Ports, peer)
		r.lines = append(r.lines, "addr replace fe80::1/64 dev "+peer+" nodad")
		if !x.running {
			continue
		}
		s.lines = append(s.lines, "addr replace fe80::2/64 dev "+dev+" nodad")
		for _, c := range n.configs {
			sub := m.e.subnets[c.subnet]
			l := layers{vnet: sub.vnet, subnet: sub.nsg, nic: n.nsg}
			if l.vnet != r.vnet.id {
				m.e.problem("%s is in another virtual network than its interface", c.id)
				continue
			}
			s.flush = s.flush || m.e.nsgs[l.subnet].flush || m.e.nsgs[l.nic].flush
			addrs := append([]netip.Addr{c.addr}, m.floating(c)...)
			entries = append(entries, entry{addrs: addrs, layers: l})
			pt.addrs = append(pt.addrs, c.addr)
			out.Addresses = append(out.Addresses, c.addr)
			names = append(names, c.addr.String())
			r.behind[c.addr] = peer
			r.lines = append(r.lines, "route replace "+host(c.addr)+" dev "+peer)
			m.wire(s, r, c.addr, dev, i)
			for _, a := range addrs[1:] {
				s.lines = append(s.lines, "addr replace "+host(a)+" dev lo"+nodad(a))
			}
			if p, ok := m.e.publics[c.public]; ok && p.addr.Is4() == c.addr.Is4() {
				m.lead(r, p.addr)
				names = append(names, p.addr.String())
				r.snat(c.addr, p.addr)
				if m.lets(p.standard, l) {
					r.nat = append(r.nat, fmt.Sprintf("%s daddr %s dnat %s to %s", ipWord(p.addr), p.addr, ipWord(p.addr), c.addr))
				}
			}
		}
		s.ports = append(s.ports, pt)
	}
	s.rules = rs.machineTable(entries, s.flush)
	for t := range rs.unknown {
		m.unknown[t] = true
	}
	if x.running && len(entries) > 0 {
		s.sshd = &login{host: x.host, names: names}
	}
	m.p.machines = append(m.p.machines, out)
}

func nodad(a netip.Addr) string {
	if a.Is6() {
		return " nodad"
	}
	return ""
}

// wire gives an interface an address. What is sent from the address of a further interface leaves by that one.
func (m *maker) wire(s *space, r *router, a netip.Addr, dev string, i int) {
	gateway, all, onlink := routerAddr(r.n).String(), "0.0.0.0/0", " onlink"
	if a.Is6() {
		gateway, all, onlink = "fe80::1", "::/0", ""
	}
	s.lines = append(s.lines, "addr replace "+host(a)+" dev "+dev+nodad(a))
	route := fmt.Sprintf("route replace %s via %s dev %s%s", all, gateway, dev, onlink)
	if i == 0 {
		if !slices.Contains(s.lines, route) {
			s.lines = append(s.lines, route)
		}
		return
	}
	table := fmt.Sprint(100 + i)
	s.lines = append(s.lines, route+" table "+table, "rule add from "+host(a)+" lookup "+table)
}

func ipWord(a netip.Addr) string {
	if a.Is4() {
		return "ip"
	}
	return "ip6"
}

// snat makes traffic leave with a public address, also when it goes to a public address of its own network.
func (r *router) snat(private fmt.Stringer, public netip.Addr) {
	f := ipWord(public)
	r.source = append(r.source, fmt.Sprintf("oifname wan %s saddr %s snat %s to %s", f, private, f, public))
	var space []string
	for _, p := range widest(r.vnet.space) {
		if p.Addr().Is4() == public.Is4() {
			space = append(space, p.String())
		}
	}
	if len(space) > 0 {
		r.source = append(r.source, fmt.Sprintf("ct status dnat ct original %s daddr != %s %s saddr %s snat %s to %s", f, braces(space), f, private, f, public))
	}
}

// lets tells whether a public way leads in: a Standard address or load balancer lets nothing in where no NSG applies (FACTS 2.3).
func (m *maker) lets(standard bool, l layers) bool { return !standard || l.subnet != "" || l.nic != "" }

// leads tells whether a rule of a load balancer leads to a configuration.
func (x natRule) leads(c ipConfig) bool {
	return slices.Contains(c.nat, x.id) || x.target != "" && x.target == c.id || slices.ContainsFunc(x.pools, func(p string) bool { return slices.Contains(c.pools, p) })
}

// floating are the frontends that a machine itself sees as the destination.
func (m *maker) floating(c ipConfig) []netip.Addr {
	var out []netip.Addr
	for _, b := range m.e.balancer {
		for _, x := range slices.Concat(b.nat, b.rules) {
			if f, ok := m.e.front(b, x.front); ok && x.floating && x.leads(c) && f.addr.Is4() == c.addr.Is4() && !slices.Contains(out, f.addr) {
				out = append(out, f.addr)
			}
		}
	}
	return out
}

// member is an ipConfiguration behind a load balancer.
type member struct {
	c  ipConfig
	r  *router
	ls layers
	s  *space
}

func (m *maker) membersOf(x natRule, front public, six bool) []member {
	var out []member
	for _, vm := range m.e.machines {
		if !vm.running {
			continue // a health probe would have taken it out
		}
		s := m.p.byName[m.n.space(fmt.Sprintf("vm-%d", m.n.get("vm "+vm.id)))]
		for _, id := range vm.nics {
			n := m.e.nics[id]
			for _, c := range n.configs {
				sub := m.e.subnets[c.subnet]
				r := m.routers[sub.vnet]
				ls := layers{vnet: sub.vnet, subnet: sub.nsg, nic: n.nsg}
				if x.leads(c) && r != nil && c.addr.Is6() == six && m.lets(front.standard, ls) {
					out = append(out, member{c, r, ls, s})
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b member) int { return strings.Compare(a.c.id, b.c.id) })
	return out
}

// balance translates what a load balancer does.
func (m *maker) balance(b balancer) {
	for i, x := range slices.Concat(b.nat, b.rules) {
		f, ok := m.e.front(b, x.front)
		if !ok {
			m.e.problem("%s: its frontend has no address", x.id)
			continue
		}
		ms := m.membersOf(x, f, f.addr.Is6())
		if len(ms) == 0 {
			continue
		}
		r := ms[0].r
		if m.e.outside(b, x.front) {
			m.lead(r, f.addr)
		}
		protocols := []string{"tcp", "udp"}
		if x.protocol == "tcp" || x.protocol == "udp" {
			protocols = []string{x.protocol}
		}
		nat := i < len(b.nat)
		for _, proto := range protocols {
			at := fmt.Sprintf("%s daddr %s %s dport ", ipWord(f.addr), f.addr, proto)
			switch {
			case nat && len(x.pools) > 0 && x.last > 0: // a port of the range for each member
				for k, mb := range ms {
					if p := x.port + k; p <= x.last {
						r.forward(at+fmt.Sprint(p), f.addr, []member{mb}, x, p)
					}
				}
			case nat:
				r.forward(at+fmt.Sprint(x.port), f.addr, ms[:1], x, x.port)
			case x.port == 0: // HA ports
				r.forward(strings.TrimSuffix(at, proto+" dport ")+"meta l4proto "+proto, f.addr, ms, x, 0)
			default:
				r.forward(at+fmt.Sprint(x.port), f.addr, ms, x, x.port)
			}
		}
	}
}

// outside tells whether a frontend is on the Internet.
func (e *estate) outside(b balancer, id string) bool { return b.inside[id] != "" }

// forward leads what matches to one of the members.
func (r *router) forward(match string, front netip.Addr, ms []member, x natRule, port int) {
	ms = slices.DeleteFunc(slices.Clone(ms), func(mb member) bool { return mb.r != r })
	if len(ms) == 0 {
		return
	}
	f := ipWord(front)
	for _, mb := range ms {
		name := front.String()
		if port != 0 && port != 22 {
			name = fmt.Sprintf("[%s]:%d", front, port)
		}
		if mb.s != nil && mb.s.sshd != nil && len(ms) == 1 && (x.backend == 22 || x.floating && port == 22) {
			mb.s.sshd.names = append(mb.s.sshd.names, name)
		}
	}
	pick := func(value func(member) string) string {
		if len(ms) == 1 {
			return value(ms[0])
		}
		var list []string
		for i, mb := range ms {
			list = append(list, fmt.Sprintf("%d : %s", i, value(mb)))
		}
		return fmt.Sprintf("jhash %s saddr . th sport mod %d map { %s }", f, len(ms), strings.Join(list, ", "))
	}
	switch {
	case x.floating: // the destination stays; a mark says to whom it goes
		for _, mb := range ms {
			dev := r.behind[mb.c.addr]
			n := strings.TrimPrefix(dev, "n")
			line := "route replace 0.0.0.0/0 dev " + dev + " table 1" + n
			rule := "rule add fwmark 1" + n + " lookup 1" + n
			if front.Is6() {
				line, rule = "route replace ::/0 dev "+dev+" table 1"+n, "rule add from ::/0 fwmark 1"+n+" lookup 1"+n
			}
			for _, l := range []string{line, rule} {
				if !slices.Contains(r.lines, l) {
					r.lines = append(r.lines, l)
				}
			}
		}
		r.marks = append(r.marks, match+" meta mark set "+pick(func(mb member) string { return "1" + strings.TrimPrefix(r.behind[mb.c.addr], "n") })+" ct mark set meta mark")
	case port == 0 || x.backend == 0:
		r.nat = append(r.nat, match+" dnat "+f+" to "+pick(func(mb member) string { return mb.c.addr.String() }))
	case len(ms) == 1:
		to := netip.AddrPortFrom(ms[0].c.addr, uint16(x.backend)).String()
		r.nat = append(r.nat, match+" dnat "+f+" to "+to)
	default:
		r.nat = append(r.nat, match+" dnat "+f+" addr . port to "+pick(func(mb member) string { return fmt.Sprintf("%s . %d", mb.c.addr, x.backend) }))
	}
}

// finish writes the router's ruleset.
func (r *router) finish() {
	var b strings.Builder
	chain := func(head string, rules ...string) {
		b.WriteString("\tchain " + head + "\n")
		for _, x := range rules {
			b.WriteString("\t\t" + x + "\n")
		}
		b.WriteString("\t}\n")
	}
	chain("marks {\n\t\ttype filter hook prerouting priority mangle; policy accept;", append([]string{"ct state established,related ct direction original meta mark set ct mark accept", "ct state established,related accept"}, r.marks...)...)
	// NAT rules and load-balancing rules name a port, and stand before the addresses that lead everything to one machine.
	slices.SortStableFunc(r.nat, func(a, b string) int { return specific(b) - specific(a) })
	chain("inward {\n\t\ttype nat hook prerouting priority dstnat; policy accept;", r.nat...)
	if r.outbound.IsValid() {
		for _, p := range r.vnet.space {
			if p.Addr().Is4() {
				r.snat(p, r.outbound)
			}
		}
	}
	chain("outward {\n\t\ttype nat hook postrouting priority srcnat; policy accept;", r.source...)
	// What no translation took has no way in, and must not wander back and forth.
	chain("through {\n\t\ttype filter hook forward priority filter; policy accept;", "iifname wan oifname wan counter drop")
	r.rules = table("vnet", b.String())
}

// specific is 1 for a rule that names a port or a protocol.
func specific(rule string) int {
	if strings.Contains(rule, " dport ") || strings.Contains(rule, "l4proto") {
		return 1
	}
	return 0
}

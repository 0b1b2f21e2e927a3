package estate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// env is what tags mean in a network.
type env struct {
	once     sync.Once
	prefixes []netip.Prefix // of the tag VirtualNetwork
	problems []Problem

	placed sync.Once
	at     *netsec.Place
}

// place prepares what tags mean, once.
func (x *env) place() *netsec.Place {
	x.placed.Do(func() { x.at = netsec.NewPlace(netsec.Env{VirtualNetwork: x.prefixes}) })
	return x.at
}

type envKey struct{ vnet, routes key }

// envOf returns what the tag VirtualNetwork means at a subnet: the network's address space, that of connected peers, ranges behind
// gateways and prefixes of the subnet's routes (FACTS 2.1). Ranges that gateways learn by BGP are nowhere in bodies and not known.
func (e *Estate) envOf(k envKey) *env {
	e.mu.Lock()
	x := e.envs[k]
	if x == nil {
		x = &env{}
		e.envs[k] = x
	}
	e.mu.Unlock()
	x.once.Do(func() {
		v := e.b.vnets.get(k.vnet)
		if v == nil {
			return
		}
		if v.twice {
			x.problems = append(x.problems, Problem{What: "virtual network " + v.id + " stands twice with different content", Resource: v.id})
		}
		x.prefixes = append(slices.Clone(v.prefixes), e.gateways[k.vnet]...)
		if k.routes != 0 {
			if r := e.b.routes.get(k.routes); r == nil || r.twice {
				id := e.id(k.routes)
				x.problems = append(x.problems, Problem{What: fmt.Sprintf("route table %s is not known, and may add to the tag VirtualNetwork%s", id, e.Unread(id)), Resource: id, Hidden: e.hides(id, typeRoutes)})
			} else {
				x.prefixes = append(x.prefixes, r.prefixes...)
			}
		}
		for _, p := range v.peers {
			if !p.connected || p.noAccess {
				continue
			}
			remote := e.b.vnets.get(p.remote)
			x.prefixes = append(x.prefixes, p.prefixes...)
			if remote != nil {
				x.prefixes = append(x.prefixes, remote.prefixes...)
				if p.useGateway {
					x.prefixes = append(x.prefixes, e.gateways[p.remote]...)
				}
			} else if len(p.prefixes) == 0 {
				id := e.id(p.remote)
				x.problems = append(x.problems, Problem{What: fmt.Sprintf("the address space of peered virtual network %s is not known", id), Resource: id, Hidden: e.hides(id, typeVNet)})
			}
		}
		sortPrefixes(x.prefixes)
		x.prefixes = slices.Compact(x.prefixes)
	})
	return x
}

// pathKey names what traffic to an endpoint passes.
type pathKey struct {
	subnet, nicNSG key
	doubt          bool // the interface stands twice with different content
}

// path is what traffic to endpoints passes, and what was found of it.
type path struct {
	e                 *Estate
	key               pathKey
	vnet              key
	subnetNSG, nicNSG key
	once              sync.Once
	p                 netsec.Path
	dests             destinations

	mu    sync.Mutex
	reach []reached
}

func (e *Estate) pathOf(k pathKey) *path {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.paths[k]
	if p == nil {
		p = &path{e: e, key: k, nicNSG: k.nicNSG}
		if s := e.subnets[k.subnet]; s != nil {
			p.vnet, p.subnetNSG = s.vnet, s.nsg
		} else if k.subnet != 0 {
			p.vnet = e.b.ids.look(parent(e.b.ids.text(k.subnet)))
		}
		e.paths[k] = p
	}
	return p
}

func (p *path) env() *env {
	k := envKey{vnet: p.vnet}
	if s := p.e.subnets[p.key.subnet]; s != nil {
		k.routes = s.routes
	}
	return p.e.envOf(k)
}

func (p *path) vnetProblems() []Problem { return p.env().problems }

// netsec compiles the path when it is first asked for.
func (p *path) netsec() netsec.Path {
	p.once.Do(func() {
		e, env := p.e, p.env()
		k := compKey{vnet: p.vnet}
		s := e.subnets[p.key.subnet]
		if s != nil {
			k.routes = s.routes
		}
		p.p = netsec.Path{VirtualNetwork: env.prefixes, Admin: e.admin(k)}
		p.dests.add(e, nil, env.prefixes)
		switch {
		case s == nil || s.contested: // it may have a group that is not known
			p.p.Subnet = unread("the subnet " + e.id(p.key.subnet))
		case s.nsg != 0:
			p.p.Subnet = e.compiled(compKey{s.nsg, k.vnet, k.routes}, &p.dests)
		}
		switch {
		case p.key.doubt:
			p.p.NIC = unread("the network interface")
		case p.nicNSG != 0:
			p.p.NIC = e.compiled(compKey{p.nicNSG, k.vnet, k.routes}, &p.dests)
		}
		p.dests.admin(e.b.admins.get(p.vnet))
		p.dests.done()
	})
	return p.p
}

type compKey struct{ nsg, vnet, routes key }

// compiled is a group that is prepared once for all machines of a network.
type compiled struct {
	once sync.Once
	c    *netsec.Compiled
	a    *netsec.CompiledAdmin
}

func (e *Estate) comp(k compKey) *compiled {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.comps[k]
	if c == nil {
		c = &compiled{}
		e.comps[k] = c
	}
	return c
}

func (e *Estate) compiled(k compKey, dests *destinations) *netsec.Compiled {
	n := e.byNSG[k.nsg]
	if n == nil || len(n.Problems) > 0 {
		return unread(e.id(k.nsg))
	}
	dests.add(e, n.Rules, nil)
	c := e.comp(k)
	c.once.Do(func() {
		g := netsec.Group{ID: n.ID, Name: n.Name, Rules: make([]netsec.Rule, len(n.Rules))}
		at := e.envOf(envKey{k.vnet, k.routes})
		asgs := map[string][]netip.Addr(nil)
		for i := range n.Rules {
			g.Rules[i] = n.Rules[i].Rule
			for _, list := range [2][]string{g.Rules[i].SourceASGs, g.Rules[i].DestinationASGs} {
				for _, id := range list {
					if asgs == nil {
						asgs = map[string][]netip.Addr{}
					}
					if m, known := e.membersOf(id); known {
						asgs[strings.ToLower(id)] = m
					}
				}
			}
		}
		if asgs == nil { // what the network means is prepared once
			c.c = at.place().Compile(g)
			return
		}
		c.c = netsec.Compile(g, netsec.Env{VirtualNetwork: at.prefixes, ASGs: asgs})
	})
	return c.c
}

// membersOf returns the addresses of an application security group, known when no interface of its subscription is hidden.
func (e *Estate) membersOf(id string) ([]netip.Addr, bool) {
	sub := metaOf(id).Subscription
	for _, g := range e.gaps {
		of := g.Subscription
		if g.Resource != "" {
			of = metaOf(g.Resource).Subscription
		}
		if (of == "" || strings.EqualFold(of, sub)) && (g.Type == "" || g.Type == typeNIC) {
			return nil, false
		}
	}
	return e.members[e.b.ids.look(id)], true
}

// unread stands for a group that is or may be in the path and was not read: whatever it would say is unknown.
func unread(id string) *netsec.Compiled {
	star := []string{"*"}
	rule := netsec.Rule{Name: "(not read)", Priority: 100, Inbound: true, Protocol: "*", Sources: star, Destinations: star, SourcePorts: star, DestinationPorts: star}
	out := rule
	out.Inbound = false
	return netsec.Compile(netsec.Group{ID: id, Name: lastName(id), Rules: []netsec.Rule{rule, out}}, netsec.Env{})
}

// admin returns the security admin rules on a network, nil when there are none.
func (e *Estate) admin(k compKey) *netsec.CompiledAdmin {
	a := e.b.admins.get(k.vnet)
	id := e.id(k.vnet)
	hidden := a == nil && e.hides(id, typeAdmin)
	if a == nil && !hidden || a != nil && len(a.rules) == 0 && !a.twice && !a.partial {
		return nil
	}
	c := e.comp(k)
	c.once.Do(func() {
		rules := []netsec.AdminRule(nil)
		if a != nil {
			rules = a.rules
		}
		if hidden || a.twice || a.partial {
			unknown := netsec.AdminRule{Name: "(security admin rules were not read)", Collection: id, Priority: 1, Inbound: true, Protocol: "Any",
				Unread: "the security admin rules of " + metaOf(id).Name + " were not read" + e.b.adminSpoilt(id)}
			rules = append(slices.Clone(rules), unknown)
		}
		c.a = netsec.CompileAdmin(rules, netsec.Env{VirtualNetwork: e.envOf(envKey{k.vnet, k.routes}).prefixes})
	})
	return c.a
}

// destinations are what the rules of a path tell addresses apart by. Addresses that they do not tell apart are reached alike, so that
// one answer serves all machines of a group.
type destinations struct {
	prefixes []netip.Prefix
	members  [][]netip.Addr
	each     bool // every address is judged by itself
}

func (d *destinations) add(e *Estate, rules []NSGRule, prefixes []netip.Prefix) {
	d.prefixes = append(d.prefixes, prefixes...)
	for i := range rules {
		r := &rules[i]
		if !r.Inbound {
			continue
		}
		d.texts(r.Destinations)
		for _, id := range r.DestinationASGs {
			if m, known := e.membersOf(id); known {
				d.members = append(d.members, m)
			}
		}
	}
}

func (d *destinations) admin(a *rawAdmin) {
	if a == nil {
		return
	}
	for i := range a.rules {
		for _, x := range a.rules[i].Destinations {
			d.texts([]string{x.Prefix})
		}
	}
}

func (d *destinations) texts(list []string) {
	for _, t := range list {
		if t == "*" || strings.EqualFold(t, "VirtualNetwork") {
			continue // the network's prefixes are there
		}
		if p, ok := netsec.ParsePrefix(t); ok {
			d.prefixes = append(d.prefixes, p)
			continue
		}
		d.each = true
	}
}

func (d *destinations) done() {
	set := map[netip.Prefix]bool{}
	for _, p := range d.prefixes {
		set[p] = true
	}
	d.prefixes = slices.Collect(maps.Keys(set))
	sortPrefixes(d.prefixes)
	d.each = d.each || len(d.prefixes)+len(d.members) > 63 || len(d.prefixes) == 0
}

// class is the same for addresses that no rule tells apart.
func (d *destinations) class(a netip.Addr) (bits uint64) {
	if a.Is4() {
		bits = 1
	}
	for _, p := range d.prefixes {
		bits <<= 1
		if p.Contains(a) {
			bits |= 1
		}
	}
	for _, m := range d.members {
		bits <<= 1
		if _, found := slices.BinarySearchFunc(m, a, netip.Addr.Compare); found {
			bits |= 1
		}
	}
	return bits
}

type reachKey struct {
	class  uint64
	each   netip.Addr
	proto  netsec.Protocol
	ports  netsec.PortRange // that the rules do not tell apart
	public netsec.PublicDefault
}

// reached is what a path remembers.
type reached struct {
	reachKey
	to *netsec.Reach
}

// maxReach bounds what a path remembers.
const maxReach = 64

// reachable says who reaches an address. The answer is shared, also by ports that the rules do not tell apart: its pieces name them all.
func (p *path) reachable(dst netip.Addr, proto netsec.Protocol, port uint16, public netsec.PublicDefault) *netsec.Reach {
	np := p.netsec()
	if np.Subnet != nil || np.NIC != nil {
		public = netsec.Closed // it matters only where no group applies
	}
	np.PublicWithoutNSG = public
	k := reachKey{proto: proto, ports: np.AlikePorts(port), public: public}
	if p.dests.each {
		k.each = dst
	} else {
		k.class = p.dests.class(dst)
	}
	if r := p.recall(k); r != nil {
		return r
	}
	r := new(netsec.Reach)
	*r = np.Reachable(dst, proto, k.ports)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.reach) >= maxReach {
		p.reach = nil
	}
	p.reach = append(p.reach, reached{k, r})
	return r
}

func (p *path) recall(k reachKey) *netsec.Reach {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.reach {
		if p.reach[i].reachKey == k {
			return p.reach[i].to
		}
	}
	return nil
}

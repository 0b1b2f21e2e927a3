package estate

import (
	"net/netip"
	"slices"
	"strings"
)

func (e *Estate) joinBalancers() {
	x := balancing{ofPool: map[key][]binding{}, ofNAT: map[key]binding{}, pools: map[key][]key{}, byAddr: map[poolAddr][]key{},
		nats: map[key][]key{}, anyVNet: map[netip.Addr][]key{}}
	for _, lb := range e.balancers() {
		for i := range lb.pools {
			p := &lb.pools[i]
			for _, c := range p.configs {
				x.pools[c] = append(x.pools[c], p.id)
			}
			for _, a := range p.addrs {
				if a.vnet == 0 {
					x.anyVNet[a.addr] = append(x.anyVNet[a.addr], p.id)
					continue
				}
				x.byAddr[a] = append(x.byAddr[a], p.id)
			}
		}
		for i := range lb.rules {
			r := &lb.rules[i]
			b := binding{lb: lb, rule: r}
			if r.nat {
				x.ofNAT[r.id] = b
				if r.config != 0 {
					x.nats[r.config] = append(x.nats[r.config], r.id)
				}
			}
			for n, p := range r.pools {
				if !slices.Contains(r.pools[:n], p) {
					x.ofPool[p] = append(x.ofPool[p], b)
				}
			}
		}
	}
	e.balancer = x
}

// balanced finds what load balancers lead to an endpoint: by what the interface says and by what the balancers say, because either
// may be older than the other.
func (e *Estate) balanced(c *rawConfig, vnet string, j *joining) *inletMore {
	x, in := &e.balancer, &inletMore{}
	in.doubts = e.doubts(j.vm.ID, vnet)
	if len(x.ofPool) == 0 && len(x.ofNAT) == 0 && len(c.pools) == 0 && len(c.nats) == 0 {
		return in.orNil()
	}
	pools := slices.Concat(c.pools, x.pools[c.id])
	if c.addr.IsValid() {
		pools = append(pools, x.anyVNet[c.addr]...)
		if k := e.b.ids.look(vnet); k != 0 {
			pools = append(pools, x.byAddr[poolAddr{k, c.addr}]...)
		}
	}
	nats := slices.Concat(c.nats, x.nats[c.id])
	gone := func(k key) {
		lb := parent(e.id(k))
		if !strings.EqualFold(lastName(parentType(lb)), "loadBalancers") {
			return // an application gateway: it ends connections itself
		}
		b := e.b.lbs.get(e.b.ids.look(lb))
		if b == nil {
			j.missing("load balancer", lb, typeLB)
			in.fronts = append(in.fronts, binding{gone: k})
		}
	}
	for _, k := range unique(pools) {
		in.fronts = append(in.fronts, x.ofPool[k]...)
		gone(k)
	}
	for _, k := range unique(nats) {
		if b, ok := x.ofNAT[k]; ok {
			in.fronts = append(in.fronts, b)
			continue
		}
		gone(k)
		if lb := e.b.lbs.get(e.b.ids.look(parent(e.id(k)))); lb != nil {
			j.problem("inbound NAT rule "+e.id(k)+" is not at its load balancer", e.id(k), false)
			in.fronts = append(in.fronts, binding{gone: k})
		}
	}
	for _, b := range in.fronts {
		if b.lb != nil && b.lb.absent {
			j.missing("load balancer", b.lb.id, typeLB)
		}
		if b.lb != nil && b.lb.twice {
			j.twice("load balancer", b.lb.id)
		}
	}
	// A rule may be found by more than one way.
	var out []binding
	for _, b := range in.fronts {
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	in.fronts = out
	return in.orNil()
}

func (m *inletMore) orNil() *inletMore {
	if len(m.doubts) == 0 && len(m.fronts) == 0 {
		return nil
	}
	return m
}

// parentType returns an id without its last name, so that lastName of it is the last type.
func parentType(id string) string {
	if i := strings.LastIndexByte(id, '/'); i > 0 {
		return id[:i]
	}
	return ""
}

func unique(ks []key) []key {
	ks = slices.Clone(ks)
	slices.Sort(ks)
	return slices.Compact(ks)
}

// frontOf returns the frontend of a rule.
func (lb *rawLB) frontOf(r *rawLBRule) *rawFront {
	for i := range lb.fronts {
		if lb.fronts[i].id == r.front {
			return &lb.fronts[i]
		}
	}
	return nil
}

// doubts says which kinds of ways may be there and were not read. A load balancer names members by address alone too, so one that is
// hidden may lead to any machine of its subscription; a firewall may stand in a network that is connected.
func (e *Estate) doubts(vm, vnet string) (out []doubt) {
	if len(e.gaps) == 0 {
		return nil
	}
	for _, x := range []struct {
		typ, what string
		kind      WayKind
	}{{typeLB, "load balancers", LBRule}, {typeFirewall, "Azure Firewalls", FirewallDNAT}} {
		scopes := []string{vm, vnet}
		if x.kind == FirewallDNAT {
			if v := e.b.vnets.get(e.b.ids.look(vnet)); v != nil {
				for _, p := range v.peers {
					scopes = append(scopes, e.id(p.remote))
				}
			}
		}
		for _, s := range scopes {
			if g, hidden := e.Incomplete(metaOf(s).Subscription, x.typ); s != "" && hidden {
				out = append(out, doubt{x.kind, x.what + " could not be read: " + g.Reason})
				break
			}
		}
	}
	return out
}

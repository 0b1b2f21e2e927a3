package estate

import (
	"reflect"
	"slices"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// Parts of load balancers may stand within them or be resources of their own type.

const (
	typeLBPool  = typeLB + "/backendaddresspools"
	typeLBFront = typeLB + "/frontendipconfigurations"
	typeLBRule  = typeLB + "/loadbalancingrules"
	typeLBNAT   = typeLB + "/inboundnatrules"
)

// rawLBPart is a part that was read apart: one of the three.
type rawLBPart struct {
	common
	lb    key
	pool  *rawPool
	front *rawFront
	rule  *rawLBRule
}

// lbPart returns an empty part of a type, and what reads its properties.
func (d *decoder) lbPart(c common, typ string) (*rawLBPart, func(k []byte)) {
	v := &rawLBPart{common: c, lb: d.ids.of([]byte(parent(c.id)))}
	switch typ {
	case typeLBPool:
		v.pool = &rawPool{id: c.key}
		return v, v.pool.field(d, parent(c.id))
	case typeLBFront:
		v.front = &rawFront{id: c.key}
		return v, v.front.field(d)
	}
	v.rule = &rawLBRule{id: c.key, nat: typ == typeLBNAT}
	return v, v.rule.field(d)
}

// finish fills in what is known when all has been read.
func (v *rawLBPart) finish() {
	switch {
	case v.pool != nil:
		v.pool.finish()
	case v.rule != nil:
		v.rule.finish()
	}
}

// put joins a part to its balancer. One that stands there already must say the same.
func (v *rawLBPart) put(lb *rawLB) {
	same := true
	switch {
	case v.pool != nil:
		lb.pools, same = joined(lb.pools, *v.pool, func(p rawPool) key { return p.id }, func(p rawPool) any {
			p.configs, p.addrs = unique(p.configs), slices.Clone(p.addrs)
			slices.SortFunc(p.addrs, func(a, b poolAddr) int { return a.addr.Compare(b.addr) })
			return p
		})
	case v.front != nil:
		lb.fronts, same = joined(lb.fronts, *v.front, func(f rawFront) key { return f.id }, func(f rawFront) any { return f })
	default:
		lb.rules, same = joined(lb.rules, *v.rule, func(r rawLBRule) key { return r.id }, func(r rawLBRule) any {
			r.pools = unique(r.pools)
			return r
		})
	}
	lb.twice = lb.twice || v.twice || !same
}

func joined[T any](list []T, x T, id func(T) key, content func(T) any) ([]T, bool) {
	if i := slices.IndexFunc(list, func(y T) bool { return id(y) == id(x) }); i >= 0 {
		return list, reflect.DeepEqual(content(list[i]), content(x))
	}
	return append(list, x), true
}

// balancers returns the load balancers with their parts. Parts of one that was not read stand at one that says no more of itself: who is
// led to by them finds it missing.
func (e *Estate) balancers() []*rawLB {
	all := sorted(e.b.lbs.m)
	missing := map[key]*rawLB{}
	for _, p := range sorted(e.b.lbParts.m) {
		lb := e.b.lbs.get(p.lb)
		if lb == nil {
			if lb = missing[p.lb]; lb == nil {
				lb = &rawLB{common: common{id: e.id(p.lb), key: p.lb}, absent: true}
				missing[p.lb] = lb
				all = append(all, lb)
			}
		}
		p.put(lb)
	}
	return all
}

func (f *rawFront) field(d *decoder) func(k []byte) {
	return func(k []byte) {
		switch string(k) {
		case "publicipaddress":
			f.pip = d.ref("publicIPAddress")
		case "privateipaddress":
			d.address("privateIPAddress", &f.addr)
		case "subnet":
			f.subnet = d.ref("subnet")
		default:
			d.skip()
		}
	}
}

func (p *rawPool) field(d *decoder, lb string) func(k []byte) {
	return func(k []byte) {
		switch string(k) {
		case "backendipconfigurations":
			d.refs("backendIPConfigurations", &p.configs)
		case "virtualnetwork":
			p.vnet = d.ref("virtualNetwork")
		case "loadbalancerbackendaddresses":
			d.list("loadBalancerBackendAddresses", func() {
				var a poolAddr
				var config, subnet key
				d.part("a backend address", lb, "addresses", func(k []byte) {
					switch string(k) {
					case "ipaddress":
						d.address("ipAddress", &a.addr)
					case "virtualnetwork":
						a.vnet = d.ref("virtualNetwork")
					case "subnet":
						subnet = d.ref("subnet")
					case "networkinterfaceipconfiguration":
						config = d.ref("networkInterfaceIPConfiguration")
					default:
						d.skip()
					}
				})
				if a.vnet == 0 && subnet != 0 {
					a.vnet = d.ids.of([]byte(parent(d.ids.text(subnet))))
				}
				switch {
				case config != 0:
					p.configs = append(p.configs, config)
				case a.addr.IsValid():
					p.addrs = append(p.addrs, a)
				}
			})
		default:
			d.skip()
		}
	}
}

func (p *rawPool) finish() {
	for i := range p.addrs {
		if p.addrs[i].vnet == 0 {
			p.addrs[i].vnet = p.vnet
		}
	}
}

func (r *rawLBRule) field(d *decoder) func(k []byte) {
	return func(k []byte) {
		switch string(k) {
		case "frontendipconfiguration":
			r.front = d.ref("frontendIPConfiguration")
		case "backendaddresspool":
			if p := d.ref("backendAddressPool"); p != 0 {
				r.pools = append(r.pools, p)
			}
		case "backendaddresspools":
			d.refs("backendAddressPools", &r.pools)
		case "backendipconfiguration":
			r.config = d.ref("backendIPConfiguration")
		case "protocol":
			// A balancer knows Tcp, Udp and All; what is none of them may be any.
			if b := d.bytes("protocol"); len(b) > 0 {
				p, err := netsec.ParseProtocol(string(b))
				if r.proto = p; err != nil {
					r.badProto = string(b)
				}
			}
		case "frontendport":
			d.port("frontendPort", &r.first)
			r.last = r.first
		case "backendport":
			d.port("backendPort", &r.backend)
		case "frontendportrangestart":
			d.port("frontendPortRangeStart", &r.from)
		case "frontendportrangeend":
			d.port("frontendPortRangeEnd", &r.to)
		case "enablefloatingip":
			d.boolean("enableFloatingIP", &r.floating)
		default:
			d.skip()
		}
	}
}

func (r *rawLBRule) finish() {
	if r.from != 0 || r.to != 0 {
		r.first, r.last, r.ranged = r.from, r.to, true
	}
}

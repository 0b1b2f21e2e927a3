package estate

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// inlet is what leads to an endpoint.
type inlet struct {
	path *path
	pip  key // of its own public address, 0 is none
	more *inletMore
}

// inletMore is what most endpoints have not.
type inletMore struct {
	fronts []binding
	doubts []doubt
}

// doubt says why there may be more ways to an endpoint than are known.
type doubt struct {
	kind WayKind
	why  string
}

// binding is a rule of a load balancer that leads to an endpoint.
type binding struct {
	lb   *rawLB
	rule *rawLBRule
	gone key // of a balancer or a rule that was not read, in place of the two
}

// balancing holds what load balancers lead where.
type balancing struct {
	ofPool  map[key][]binding
	ofNAT   map[key]binding
	pools   map[key][]key      // by ip configuration
	byAddr  map[poolAddr][]key // pools by network and address
	nats    map[key][]key      // NAT rules by ip configuration
	anyVNet map[netip.Addr][]key
}

func (e *Estate) join() {
	b := e.b
	e.joinSubnets()
	e.joinRules()
	e.joinMembers()
	e.joinBalancers()
	e.joinFirewalls()
	e.joinGateways()
	e.joinSets()
	e.joinBastions()
	for _, j := range b.jits.m {
		p := j.policy
		if j.twice {
			// Which of the two holds is not known: neither protects.
			p.ProvisioningState = "contradictory"
		}
		e.policies = append(e.policies, p)
	}
	slices.SortFunc(e.policies, func(x, y *JITPolicy) int { return compareIDs(x.ID, y.ID) })

	raws := sorted(b.vms.m)
	e.vms = make([]*VM, len(raws))
	e.byVM = make(map[key]*VM, len(raws))
	e.paths = map[pathKey]*path{}
	e.envs, e.comps = map[envKey]*env{}, map[compKey]*compiled{}
	var wg sync.WaitGroup
	workers := max(1, min(runtime.GOMAXPROCS(0), len(raws)/1000))
	for w := range workers {
		wg.Go(func() {
			from, to := w*len(raws)/workers, (w+1)*len(raws)/workers
			for i := from; i < to; i++ {
				e.vms[i] = e.joinVM(raws[i])
			}
		})
	}
	wg.Wait()
	e.byAddr = make(map[netip.Addr][]*VM, len(raws))
	for i, v := range e.vms {
		e.byVM[raws[i].key] = v
		for n := range v.Endpoints {
			for _, a := range v.Endpoints[n].Addrs {
				if !slices.Contains(e.byAddr[a], v) {
					e.byAddr[a] = append(e.byAddr[a], v)
				}
			}
		}
	}
	e.attach()
	b.vms.m, b.nics.m, b.rules.m, b.nsgs.m, b.sets.m, b.instances.m, b.jits.m = nil, nil, nil, nil, nil, nil, nil // joined
}

// sorted returns the values of a table in order of ids.
func sorted[T any](m map[key]*T) []*T {
	out := make([]*T, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, func(x, y *T) int { return compareIDs(any(x).(headed).head().id, any(y).(headed).head().id) })
	return out
}

// joinSubnets takes subnets from networks and from bodies of their own. Two that differ are contradictory.
func (e *Estate) joinSubnets() {
	e.subnets = map[key]*rawSubnet{}
	put := func(s *rawSubnet, twice bool) {
		old := e.subnets[s.id]
		if old == nil {
			e.subnets[s.id] = s
			s.contested = twice
			return
		}
		a, c := *old, *s
		sortPrefixes(a.prefixes)
		sortPrefixes(c.prefixes)
		old.contested = old.contested || twice || a.nsg != c.nsg || a.routes != c.routes || a.vnet != c.vnet || !slices.Equal(a.prefixes, c.prefixes)
	}
	for _, v := range sorted(e.b.vnets.m) {
		for i := range v.subnets {
			put(&v.subnets[i], v.twice)
		}
	}
	for _, s := range sorted(e.b.subnets.m) {
		put(&s.rawSubnet, s.common.twice)
	}
	for k, x := range e.b.spoilt {
		if x.kind == kindSubnet {
			delete(e.subnets, k)
		}
	}
}

func sortPrefixes(ps []netip.Prefix) {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
}

// joinRules gives groups the rules that were read apart. A rule that is told twice in different ways may be either.
func (e *Estate) joinRules() {
	e.byNSG = make(map[key]*NSG, len(e.b.nsgs.m))
	apart := map[key][]*rawRuleBody{}
	for _, r := range sorted(e.b.rules.m) {
		apart[r.nsg] = append(apart[r.nsg], r)
	}
	for k, n := range e.b.nsgs.m {
		g, own := n.nsg, len(n.nsg.Rules)
		for _, x := range apart[k] {
			at := slices.IndexFunc(g.Rules[:own], func(r NSGRule) bool { return strings.EqualFold(r.Name, x.rule.Name) })
			r := x.rule
			if at >= 0 && !x.twice && sameRule(&r, &g.Rules[at]) {
				continue
			}
			if at >= 0 {
				g.Rules[at].Access, r.Access = netsec.Unknown, netsec.Unknown
			}
			if x.twice {
				r.Access = netsec.Unknown
			}
			g.Rules = append(g.Rules, r)
		}
		if n.twice {
			g.Problems = append(g.Problems, Problem{What: "network security group " + n.id + " stands twice with different content", Resource: n.id})
		}
		if why := e.b.spoiltUnder(kindRule, n.id); why != "" {
			g.Problems = append(g.Problems, Problem{What: "a rule of network security group " + n.id + ", " + why, Resource: n.id, Hidden: true})
		}
		if n.bare {
			g.Problems = append(g.Problems, Problem{What: "network security group " + n.id + withoutProperties, Resource: n.id})
		}
		e.byNSG[k] = g
		e.nsgs = append(e.nsgs, g)
	}
	slices.SortFunc(e.nsgs, func(x, y *NSG) int { return compareIDs(x.ID, y.ID) })
}

func sameRule(a, b *NSGRule) bool {
	return a.Priority == b.Priority && a.Inbound == b.Inbound && a.Access == b.Access && strings.EqualFold(a.Protocol, b.Protocol) &&
		sameTexts(a.Sources, b.Sources) && sameTexts(a.Destinations, b.Destinations) && sameTexts(a.SourcePorts, b.SourcePorts) &&
		sameTexts(a.DestinationPorts, b.DestinationPorts) && sameTexts(a.SourceASGs, b.SourceASGs) && sameTexts(a.DestinationASGs, b.DestinationASGs)
}

func sameTexts(a, b []string) bool {
	return slices.EqualFunc(a, b, strings.EqualFold)
}

// joinMembers finds who is in which application security group. FACTS 2.4: membership stands at interfaces.
func (e *Estate) joinMembers() {
	e.members = map[key][]netip.Addr{}
	for _, n := range e.b.nics.m {
		for i := range n.configs {
			c := &n.configs[i]
			for _, g := range c.asgs {
				if c.addr.IsValid() {
					e.members[g] = append(e.members[g], c.addr)
				}
			}
		}
	}
	for g, m := range e.members {
		slices.SortFunc(m, netip.Addr.Compare)
		e.members[g] = slices.Compact(m)
	}
}

func (e *Estate) joinBastions() {
	hosts := map[key]bool{}
	for _, x := range e.b.bastions.m {
		for _, s := range x.subnets {
			hosts[s] = true
		}
	}
	e.bastions = map[key][]netip.Prefix{}
	for _, s := range e.subnets {
		if hosts[s.id] || strings.EqualFold(lastName(e.id(s.id)), "AzureBastionSubnet") {
			e.bastions[s.vnet] = append(e.bastions[s.vnet], s.prefixes...)
		}
	}
}

func (e *Estate) joinSets() {
	byKey := map[key]*ScaleSet{}
	for _, s := range sorted(e.b.sets.m) {
		set := s.set
		set.InstancesRead = !e.hides(s.id, typeInstance)
		if s.twice {
			set.Problems = append(set.Problems, Problem{What: "scale set " + s.id + " stands twice with different content", Resource: s.id})
		}
		if why := e.b.spoiltUnder(kindInstance, s.id); why != "" {
			set.InstancesRead = false
			set.Problems = append(set.Problems, Problem{What: "instance " + why, Resource: s.id + "/virtualMachines", Hidden: true})
		}
		if s.bare {
			set.Problems = append(set.Problems, Problem{What: "scale set " + s.id + withoutProperties, Resource: s.id})
		}
		e.sets = append(e.sets, set)
		byKey[s.key] = set
	}
	for _, i := range sorted(e.b.instances.m) {
		set := byKey[i.set]
		if set == nil {
			continue
		}
		x := i.Instance
		x.ID = i.id
		if i.twice {
			x.Latest = nil
			set.Problems = append(set.Problems, Problem{What: "instance " + x.ID + " stands twice with different content", Resource: x.ID})
		}
		set.Instances = append(set.Instances, x)
	}
}

// joinVM follows the references of a machine. What they name and is not there becomes a problem of the machine.
func (e *Estate) joinVM(r *rawVM) *VM {
	v := r.vm
	v.ScaleSet = e.id(r.scaleSet)
	j := joining{e: e, vm: v}
	if r.twice {
		j.twice("virtual machine", r.id)
	}
	if r.bare {
		j.problem("virtual machine "+r.id+withoutProperties, r.id, false)
	}
	switch {
	case len(r.nics) == 0 && e.hides(r.id, typeNIC):
		j.problem("network interfaces were not read", "", true)
	case !r.listed && !r.bare: // every machine has one: a body that names none is cut
		j.problem("virtual machine "+r.id+" came without its list of network interfaces", "", false)
	}
	v.Endpoints = make([]Endpoint, 0, len(r.nics))
	seen := map[key]bool{}
	for _, k := range r.nics {
		if seen[k] {
			continue
		}
		if len(r.nics) > 1 {
			seen[k] = true
		}
		nic := e.b.nics.get(k)
		if nic == nil {
			j.missing("network interface", e.id(k), typeNIC)
			continue
		}
		if nic.twice {
			j.twice("network interface", nic.id)
		}
		if len(nic.configs) == 0 {
			j.problem(fmt.Sprintf("network interface %s has no ip configuration", nic.id), nic.id, false)
		}
		for i := range nic.configs {
			v.Endpoints = append(v.Endpoints, j.endpoint(nic, &nic.configs[i]))
		}
	}
	return v
}

// withoutProperties is said of a body that told no more than its id.
const withoutProperties = " came without its properties, so nothing of it was read"

// joining is a machine that is being joined.
type joining struct {
	e  *Estate
	vm *VM
}

func (j *joining) problem(what, resource string, hidden bool) {
	if !slices.ContainsFunc(j.vm.Problems, func(p Problem) bool { return p.What == what }) {
		j.vm.Problems = append(j.vm.Problems, Problem{what, resource, hidden})
	}
}

func (j *joining) missing(what, id, typ string) {
	if j.e.hides(id, typ) {
		why := j.e.Unread(id)
		if why == "" {
			why = j.e.Unread(parent(id)) // a subnet of a network
		}
		j.problem(fmt.Sprintf("%s %s could not be read%s", what, id, why), id, true)
		return
	}
	j.problem(fmt.Sprintf("%s %s does not exist, or was not read", what, id), id, false)
}

func (j *joining) twice(what, id string) {
	j.problem(fmt.Sprintf("%s %s stands twice with different content", what, id), id, false)
}

func (j *joining) endpoint(nic *rawNIC, c *rawConfig) Endpoint {
	e := j.e
	p := Endpoint{NIC: nic.id, IPConfig: e.id(c.id), Addrs: validAddr(c.addr)}
	if p.IPConfig == "" {
		p.IPConfig = nic.id
	}
	switch {
	case c.badAddr != "":
		j.problem(fmt.Sprintf("ip configuration %s: %q is no address", p.IPConfig, clip([]byte(c.badAddr))), p.IPConfig, false)
	case !c.addr.IsValid():
		j.problem(fmt.Sprintf("ip configuration %s has no private address", p.IPConfig), p.IPConfig, false)
	}
	k := pathKey{subnet: c.subnet, nicNSG: nic.nsg}
	if c.subnet == 0 {
		j.problem(fmt.Sprintf("ip configuration %s names no subnet", p.IPConfig), p.IPConfig, false)
	} else {
		p.Subnet = e.id(c.subnet)
		p.VNet = parent(p.Subnet)
		if s := e.subnets[c.subnet]; s == nil {
			j.missing("subnet", p.Subnet, typeVNet)
		} else {
			p.VNet, p.SubnetNSG = e.id(s.vnet), e.id(s.nsg)
			if s.contested {
				j.twice("subnet", p.Subnet)
			}
			j.group(s.nsg)
		}
	}
	p.NICNSG = e.id(nic.nsg)
	j.group(nic.nsg)
	in := inlet{path: e.pathOf(k), pip: c.pip}
	if nic.twice {
		in.path = e.pathOf(pathKey{subnet: c.subnet, nicNSG: nic.nsg, doubt: true})
	}
	for _, what := range in.path.vnetProblems() {
		j.problem(what.What, what.Resource, what.Hidden)
	}
	if c.pip != 0 {
		if pip := e.b.pips.get(c.pip); pip == nil {
			j.missing("public address", e.id(c.pip), typePIP)
		} else if pip.twice {
			j.twice("public address", pip.id)
		}
	}
	in.more = e.balanced(c, p.VNet, j)
	p.in = in
	if len(e.forwards.blind)+len(e.forwards.gone) > 0 {
		e.unforwarded(j, &p)
	}
	return p
}

func (j *joining) group(k key) {
	if k == 0 {
		return
	}
	switch n := j.e.byNSG[k]; {
	case n == nil:
		j.missing("network security group", j.e.id(k), typeNSG)
	case len(n.Problems) > 0:
		j.problem(n.Problems[0].What, n.ID, false)
	}
}

// attach tells groups what they stand on.
func (e *Estate) attach() {
	type ends struct{ nics, subnets map[key]bool }
	on := map[key]*ends{}
	of := func(k key) *ends {
		if on[k] == nil {
			on[k] = &ends{map[key]bool{}, map[key]bool{}}
		}
		return on[k]
	}
	for k, n := range e.b.nics.m {
		if n.nsg != 0 {
			of(n.nsg).nics[k] = true
		}
	}
	for k, s := range e.subnets {
		if s.nsg != 0 {
			of(s.nsg).subnets[k] = true
		}
	}
	for k, n := range e.b.nsgs.m {
		for _, x := range n.nics {
			of(k).nics[x] = true
		}
		for _, x := range n.subnets {
			of(k).subnets[x] = true
		}
	}
	list := func(m map[key]bool) []string {
		out := make([]string, 0, len(m))
		for k := range m {
			out = append(out, e.id(k))
		}
		slices.SortFunc(out, compareIDs)
		return out
	}
	for k, x := range on {
		if g := e.byNSG[k]; g != nil {
			g.NICs, g.Subnets = list(x.nics), list(x.subnets)
		}
	}
}

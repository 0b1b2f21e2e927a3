// Package inventory reads machines and all that decides who reaches them, and joins it: machine, network interfaces, subnets,
// security groups, security admin rules, load balancers, public addresses. It reads through a Reader and judges nothing.
//
// What it holds is as old as the reading, and not complete by itself: what could not be read is recorded, with the source
// (Snapshot.Problems) and at each machine that it concerns (Machine.Problems), and is judged as unknown and never as absent
// (promise P10). Resource Graph is a cache: Confirm reads one machine from the resource providers before anything is changed.
package inventory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
)

// Machine is a virtual machine with every way to it.
type Machine struct {
	ID           string // as Azure spells it
	Name         string
	Group        string
	Subscription string
	Location     string
	OS           string // linux, windows, or "" when Azure does not say
	VMID         string // changes when a machine is re-created under its id
	Power        string // running, deallocated…; "" when it was not read
	ManagedBy    string
	ScaleSet     string // id of the scale set that it is an instance of
	Tags         map[string]string
	Endpoints    []Endpoint
	Problems     []string // what could not be read about it
}

// Endpoint is one ipConfiguration of a machine.
type Endpoint struct {
	NIC, IPConfig             string // ids
	VNet, Subnet              string // ids, "" when the ipConfiguration has none
	SubnetNSG, NICNSG         string // ids, "" is none
	Addrs                     []netip.Addr
	Floating                  []Frontend
	Public                    []PublicAddr
	ASGs                      []string // ids
	publicUnknown, vnetUnread bool
}

// Frontend is an address of a load balancer that the machine itself sees as the destination: enableFloatingIP.
type Frontend struct {
	Addr         netip.Addr
	Port         uint16 // 0 is every port
	Protocol     access.Protocol
	AnyProtocol  bool
	LoadBalancer string
}

// PublicAddr is a public address from which traffic comes to an endpoint.
type PublicAddr struct {
	Addr         netip.Addr // not valid when Azure has assigned none, or it could not be read
	SKU          string     // Basic or Standard: without any NSG a Basic one is open and a Standard one closed. FACTS 2.3
	Via          string     // "nic", "lb rule NAME" or "nat rule NAME"
	FrontendPort uint16     // first; 0 is every port
	FrontendLast uint16     // last of a range of ports, of which the machine has one; else as FrontendPort
	BackendPort  uint16     // at the machine; 0 is every port
	Protocol     string     // tcp, udp, or "" for both
	LoadBalancer string     // id; "" with "nic"
}

// NSGs returns the ids of the groups in the machine's path, each once: those of subnets before those of interfaces.
func (m Machine) NSGs() []string {
	var out []string
	add := func(id string) {
		if id != "" && !slices.ContainsFunc(out, func(o string) bool { return azure.EqualID(o, id) }) {
			out = append(out, id)
		}
	}
	for _, e := range m.Endpoints {
		add(e.SubnetNSG)
	}
	for _, e := range m.Endpoints {
		add(e.NICNSG)
	}
	return out
}

// Destinations returns the addresses that a rule in a group must name to hold for a port of this machine: its private addresses
// behind that group, and the frontends with floating IP that bring that port. In order, each once.
func (m Machine) Destinations(nsgID string, ports access.Ports, proto access.Protocol) []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, e := range m.Endpoints {
		if !azure.EqualID(e.SubnetNSG, nsgID) && !azure.EqualID(e.NICNSG, nsgID) {
			continue
		}
		for _, a := range e.Addrs {
			seen[a] = true
		}
		for _, f := range e.Floating {
			if f.brings(ports, proto) {
				seen[f.Addr] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

func (f Frontend) brings(ports access.Ports, proto access.Protocol) bool {
	return (f.AnyProtocol || f.Protocol == proto) && (f.Port == 0 || ports.Overlaps(access.Port(f.Port)))
}

// Addrs returns the machine's private addresses, in order, each once.
func (m Machine) Addrs() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, e := range m.Endpoints {
		for _, a := range e.Addrs {
			seen[a] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

// Problem is a source that could not be read.
type Problem struct {
	Source string // for example "load balancers of subscription 1111…"
	Err    error
}

// String names the source and why it could not be read.
func (p Problem) String() string { return fmt.Sprintf("%s could not be read: %v", p.Source, p.Err) }

// Snapshot is what was read at one time. It is immutable and may be used concurrently.
type Snapshot struct {
	Taken    time.Time
	Problems []Problem

	*index
	base  *Snapshot            // what one machine's reading does not hold: other machines, ASG members, Bastions
	over  map[string]azure.NSG // by key: groups that were replaced by With
	cache *compiled            // of groups in over
}

// index is the joined content that copies of a snapshot share.
type index struct {
	raw      resources
	machines []Machine
	byID     map[string]int
	byName   map[string][]int
	byAddr   map[netip.Addr][]int
	subnets  map[string]subnetRef
	asgs     map[string][]netip.Addr
	pools    map[string][]poolRule // rules by backend pool
	poolsOf  map[string][]string   // pools by ip configuration, as the load balancer tells
	poolAddr map[string][]string   // pools by VNet and address
	natsOf   map[string][]string
	nats     map[string]natRef
	beyond   map[string][]string // what is behind the gateways of a VNet
	shared   *compiled
}

type subnetRef struct {
	vnet   string
	subnet *azure.Subnet
}

type poolRule struct {
	lb   *azure.LoadBalancer
	rule int
}

type natRef struct {
	lb  *azure.LoadBalancer
	nat int
}

// resources is what was read, by key of the id.
type resources struct {
	vms      map[string]*azure.VM
	nics     map[string]*azure.NIC
	vnets    map[string]*azure.VNet
	pips     map[string]*azure.PublicIP
	lbs      map[string]*azure.LoadBalancer
	nsgs     map[string]azure.NSG
	bastions map[string]*azure.Bastion
	admin    map[string][]azure.AdminRule // by VNet; absent is not read
	sets     map[string]string            // ids of scale sets, by key, as far as Resource Graph told: only to say what a name is
	read     map[string]bool              // subscription|type of what was read as a whole
	gates    gateways
}

func newResources() resources {
	return resources{vms: map[string]*azure.VM{}, nics: map[string]*azure.NIC{}, vnets: map[string]*azure.VNet{},
		pips: map[string]*azure.PublicIP{}, lbs: map[string]*azure.LoadBalancer{}, nsgs: map[string]azure.NSG{},
		bastions: map[string]*azure.Bastion{}, admin: map[string][]azure.AdminRule{}, sets: map[string]string{}, read: map[string]bool{}, gates: newGateways()}
}

// The kinds of resources that are read as a whole.
const (
	kindVM      = "virtual machines"
	kindNIC     = "network interfaces"
	kindVNet    = "virtual networks"
	kindPIP     = "public addresses"
	kindLB      = "load balancers"
	kindNSG     = "network security groups"
	kindBastion = "bastion hosts"
	kindSet     = "scale sets" // not among kinds: nothing is concluded from its absence
)

var kinds = []string{kindVM, kindNIC, kindVNet, kindPIP, kindLB, kindNSG, kindBastion}

func whole(subscription, kind string) string { return strings.ToLower(subscription) + "|" + kind }

// compiled caches what is expensive to prepare: one group serves many machines.
type compiled struct {
	mu sync.Mutex
	m  map[string]any
}

func newCompiled() *compiled { return &compiled{m: map[string]any{}} }

// newSnapshot joins what was read.
func newSnapshot(raw resources, taken time.Time, problems []Problem, base *Snapshot) *Snapshot {
	x := &index{raw: raw, byID: map[string]int{}, byName: map[string][]int{}, byAddr: map[netip.Addr][]int{},
		subnets: map[string]subnetRef{}, asgs: map[string][]netip.Addr{}, pools: map[string][]poolRule{},
		poolsOf: map[string][]string{}, poolAddr: map[string][]string{}, natsOf: map[string][]string{}, nats: map[string]natRef{},
		beyond: raw.behind(), shared: newCompiled()}
	for _, v := range raw.vnets {
		for i := range v.Properties.Subnets {
			x.subnets[azure.Key(v.Properties.Subnets[i].ID)] = subnetRef{v.ID, &v.Properties.Subnets[i]}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(raw.lbs)) {
		x.indexLoadBalancer(raw.lbs[k])
	}
	for _, n := range raw.nics {
		for _, c := range n.Properties.IPConfigurations {
			for _, g := range c.Properties.ApplicationSecurityGroups {
				if a, err := netip.ParseAddr(c.Properties.PrivateIPAddress); err == nil {
					x.asgs[azure.Key(g.ID)] = append(x.asgs[azure.Key(g.ID)], a)
				}
			}
		}
	}
	for _, a := range x.asgs {
		slices.SortFunc(a, netip.Addr.Compare)
	}
	s := &Snapshot{Taken: taken, Problems: problems, index: x, base: base}
	for _, k := range slices.Sorted(maps.Keys(raw.vms)) {
		m := s.join(raw.vms[k])
		at := len(x.machines)
		x.machines = append(x.machines, m)
		x.byID[k] = at
		name := strings.ToLower(m.Name)
		x.byName[name] = append(x.byName[name], at)
		for _, a := range m.Addrs() {
			x.byAddr[a] = append(x.byAddr[a], at)
		}
	}
	return s
}

func (x *index) indexLoadBalancer(lb *azure.LoadBalancer) {
	p := &lb.Properties
	for _, pool := range p.BackendAddressPools {
		key := azure.Key(pool.ID)
		for _, c := range pool.Properties.BackendIPConfigurations {
			x.poolsOf[azure.Key(c.ID)] = append(x.poolsOf[azure.Key(c.ID)], key)
		}
		for _, a := range pool.Properties.LoadBalancerBackendAddresses {
			b := a.Properties
			if b.NetworkInterfaceIPConfiguration != nil {
				c := azure.Key(b.NetworkInterfaceIPConfiguration.ID)
				x.poolsOf[c] = append(x.poolsOf[c], key)
				continue
			}
			vnet := ""
			if b.VirtualNetwork != nil {
				vnet = b.VirtualNetwork.ID
			} else if b.Subnet != nil {
				vnet = azure.ParentID(b.Subnet.ID)
			}
			if addr, err := netip.ParseAddr(b.IPAddress); err == nil && vnet != "" {
				at := azure.Key(vnet) + "|" + addr.String()
				x.poolAddr[at] = append(x.poolAddr[at], key)
			}
		}
	}
	for i, r := range p.LoadBalancingRules {
		pools := r.Properties.BackendAddressPools
		if r.Properties.BackendAddressPool != nil {
			pools = append([]azure.SubResource{*r.Properties.BackendAddressPool}, pools...)
		}
		seen := map[string]bool{}
		for _, pool := range pools {
			if key := azure.Key(pool.ID); !seen[key] {
				seen[key] = true
				x.pools[key] = append(x.pools[key], poolRule{lb, i})
			}
		}
	}
	for i, r := range p.InboundNatRules {
		key := azure.Key(r.ID)
		x.nats[key] = natRef{lb, i}
		if c := r.Properties.BackendIPConfiguration; c != nil {
			x.natsOf[azure.Key(c.ID)] = append(x.natsOf[azure.Key(c.ID)], key)
		}
		if pool := r.Properties.BackendAddressPool; pool != nil {
			at := "pool|" + azure.Key(pool.ID)
			x.natsOf[at] = append(x.natsOf[at], key)
		}
	}
}

// join follows the references of a machine. What they name and was not read becomes a problem of the machine.
func (s *Snapshot) join(vm *azure.VM) Machine {
	id, err := azure.ParseID(vm.ID)
	m := Machine{ID: vm.ID, Name: vm.Name, Group: id.Group, Subscription: id.Subscription, Location: vm.Location,
		OS: strings.ToLower(vm.Properties.StorageProfile.OSDisk.OSType), VMID: vm.Properties.VMID, Power: vm.PowerState(),
		ManagedBy: vm.ManagedBy, Tags: vm.Tags}
	if err != nil {
		m.Problems = append(m.Problems, err.Error())
	}
	if m.Name == "" {
		m.Name = id.Name()
	}
	if set := vm.Properties.VirtualMachineScaleSet; set != nil {
		m.ScaleSet = set.ID
	}
	problem := func(format string, args ...any) {
		if p := fmt.Sprintf(format, args...); !slices.Contains(m.Problems, p) {
			m.Problems = append(m.Problems, p)
		}
	}
	for _, ref := range vm.Properties.NetworkProfile.NetworkInterfaces {
		nic := s.raw.nics[azure.Key(ref.ID)]
		if nic == nil {
			problem("network interface %s was not read", ref.ID)
			continue
		}
		group := ""
		if g := nic.Properties.NetworkSecurityGroup; g != nil {
			group = g.ID
		}
		byConfig := len(m.Endpoints)
		for i := range nic.Properties.IPConfigurations {
			e := s.endpoint(nic, &nic.Properties.IPConfigurations[i], problem)
			e.NICNSG = group
			m.Endpoints = append(m.Endpoints, e)
		}
		if byConfig == len(m.Endpoints) {
			problem("network interface %s has no ip configuration", nic.ID)
		}
	}
	for _, g := range m.NSGs() {
		if _, ok := s.raw.nsgs[azure.Key(g)]; !ok {
			problem("network security group %s was not read", g)
		}
	}
	return m
}

func (s *Snapshot) endpoint(nic *azure.NIC, c *azure.IPConfiguration, problem func(string, ...any)) Endpoint {
	e := Endpoint{NIC: nic.ID, IPConfig: c.ID}
	if c.Properties.PrivateIPAddress != "" {
		if a, err := netip.ParseAddr(c.Properties.PrivateIPAddress); err == nil {
			e.Addrs = append(e.Addrs, a)
		} else {
			problem("ip configuration %s: %q is not an address", c.ID, c.Properties.PrivateIPAddress)
		}
	} else {
		problem("ip configuration %s has no private address yet", c.ID)
	}
	if c.Properties.Subnet != nil {
		e.Subnet = c.Properties.Subnet.ID
		e.VNet = azure.ParentID(e.Subnet)
		if ref, ok := s.subnets[azure.Key(e.Subnet)]; ok {
			e.VNet = ref.vnet
			if g := ref.subnet.Properties.NetworkSecurityGroup; g != nil {
				e.SubnetNSG = g.ID
			}
		} else {
			e.vnetUnread = true
			problem("subnet %s was not read", e.Subnet)
		}
	} else {
		e.vnetUnread = true
		problem("ip configuration %s names no subnet", c.ID)
	}
	for _, g := range c.Properties.ApplicationSecurityGroups {
		e.ASGs = append(e.ASGs, g.ID)
	}
	if p := c.Properties.PublicIPAddress; p != nil {
		pa := PublicAddr{Via: "nic"}
		s.publicAddress(&pa, p.ID, &e, problem)
		e.Public = append(e.Public, pa)
	}
	s.balanced(&e, c, problem)
	return e
}

// publicAddress fills address and SKU of a public address by id.
func (s *Snapshot) publicAddress(pa *PublicAddr, id string, e *Endpoint, problem func(string, ...any)) {
	pip := s.raw.pips[azure.Key(id)]
	if pip == nil && s.base != nil {
		pip = s.base.raw.pips[azure.Key(id)]
	}
	if pip == nil {
		problem("public address %s was not read", id)
		e.publicUnknown = e.publicUnknown || pa.SKU == ""
		return
	}
	if a, err := netip.ParseAddr(pip.Properties.IPAddress); err == nil {
		pa.Addr = a
	}
	if pa.SKU == "" {
		if pa.SKU = pip.SKU.Name; pa.SKU == "" {
			e.publicUnknown = true
		}
	}
}

// balanced finds what load balancers bring to an endpoint: by what the interface names and by what the balancers name, because
// either may be older than the other.
func (s *Snapshot) balanced(e *Endpoint, c *azure.IPConfiguration, problem func(string, ...any)) {
	var pools, nats []string
	for _, p := range c.Properties.LoadBalancerBackendAddressPools {
		pools = append(pools, azure.Key(p.ID))
	}
	for _, n := range c.Properties.LoadBalancerInboundNatRules {
		nats = append(nats, azure.Key(n.ID))
	}
	for _, id := range slices.Concat(pools, nats) {
		if lb := azure.ParentID(id); s.raw.lbs[lb] == nil && strings.Contains(lb, "/loadbalancers/") {
			e.publicUnknown = true
			problem("load balancer %s was not read", lb)
		}
	}
	key := azure.Key(c.ID)
	pools = append(pools, s.poolsOf[key]...)
	nats = append(nats, s.natsOf[key]...)
	for _, a := range e.Addrs {
		pools = append(pools, s.poolAddr[azure.Key(e.VNet)+"|"+a.String()]...)
	}
	slices.Sort(pools)
	pools = slices.Compact(pools)
	for _, p := range pools {
		nats = append(nats, s.natsOf["pool|"+p]...)
	}
	slices.Sort(nats)
	for _, p := range pools {
		for _, r := range s.pools[p] {
			rule := &r.lb.Properties.LoadBalancingRules[r.rule]
			b := rule.Properties
			s.frontend(e, r.lb, b.FrontendIPConfiguration, "lb rule "+rule.Name, b.Protocol, b.FrontendPort, b.FrontendPort,
				b.BackendPort, b.EnableFloatingIP, problem)
		}
	}
	for _, n := range slices.Compact(nats) {
		ref, ok := s.nats[n]
		if !ok {
			continue
		}
		rule := &ref.lb.Properties.InboundNatRules[ref.nat]
		b := rule.Properties
		first, last := b.FrontendPort, b.FrontendPort
		if b.FrontendPortRangeStart != 0 {
			first, last = b.FrontendPortRangeStart, b.FrontendPortRangeEnd
		}
		s.frontend(e, ref.lb, b.FrontendIPConfiguration, "nat rule "+rule.Name, b.Protocol, first, last, b.BackendPort,
			b.EnableFloatingIP, problem)
	}
	if !s.readWhole(e.NIC, kindLB) {
		e.publicUnknown = true
	}
}

func (s *Snapshot) frontend(e *Endpoint, lb *azure.LoadBalancer, ref *azure.SubResource, via, protocol string, first, last, backend int,
	floating bool, problem func(string, ...any)) {
	if ref == nil {
		problem("%s of load balancer %s names no frontend", via, lb.ID)
		return
	}
	var proto access.Protocol
	switch strings.ToLower(protocol) {
	case "tcp":
		proto = access.TCP
	case "udp":
		proto = access.UDP
	}
	found := false
	for _, f := range lb.Properties.FrontendIPConfigurations {
		if !azure.EqualID(f.ID, ref.ID) {
			continue
		}
		found = true
		var addr netip.Addr
		if f.Properties.PublicIPAddress != nil {
			sku := lb.SKU.Name
			if sku == "" {
				sku = "Basic" // what Azure takes a balancer without one for: SPEC-LB
			}
			pa := PublicAddr{SKU: sku, Via: via, FrontendPort: uint16(first), FrontendLast: uint16(last),
				BackendPort: uint16(backend), Protocol: string(proto), LoadBalancer: lb.ID}
			s.publicAddress(&pa, f.Properties.PublicIPAddress.ID, e, problem)
			e.Public = append(e.Public, pa)
			addr = pa.Addr
		} else if a, err := netip.ParseAddr(f.Properties.PrivateIPAddress); err == nil {
			addr = a
		}
		if !floating {
			continue
		}
		if !addr.IsValid() {
			problem("the frontend address of %s of load balancer %s is not known", via, lb.ID)
			continue
		}
		fe := Frontend{Addr: addr, Port: uint16(backend), Protocol: proto, AnyProtocol: proto == "", LoadBalancer: lb.ID}
		if !slices.Contains(e.Floating, fe) {
			e.Floating = append(e.Floating, fe)
		}
	}
	if !found {
		problem("the frontend of %s of load balancer %s was not read", via, lb.ID)
	}
}

// readWhole tells whether all resources of a kind were read in the subscription of an id.
func (s *Snapshot) readWhole(id, kind string) bool {
	p, err := azure.ParseID(id)
	if err != nil {
		return false
	}
	return s.raw.read[whole(p.Subscription, kind)] || s.base != nil && s.base.raw.read[whole(p.Subscription, kind)]
}

// Machines returns all machines, in order of their ids. The slice must not be changed.
func (s *Snapshot) Machines() []Machine { return s.machines }

// NSG returns a group as it was read, or as With put it.
func (s *Snapshot) NSG(id string) (azure.NSG, bool) {
	k := azure.Key(id)
	if n, ok := s.over[k]; ok {
		return n, true
	}
	if n, ok := s.raw.nsgs[k]; ok {
		return n, true
	}
	if s.base != nil {
		return s.base.NSG(id)
	}
	return azure.NSG{}, false
}

// NSGs returns every group that was read, by With replaced ones included, in order of their ids.
func (s *Snapshot) NSGs() []azure.NSG {
	all := maps.Clone(s.raw.nsgs)
	maps.Copy(all, s.over)
	out := make([]azure.NSG, 0, len(all))
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[k])
	}
	return out
}

// With returns a copy with one group replaced, to judge a plan before it is written or a read after it. Everything else is
// shared.
func (s *Snapshot) With(n azure.NSG) *Snapshot {
	c := *s
	c.over = maps.Clone(s.over)
	if c.over == nil {
		c.over = map[string]azure.NSG{}
	}
	c.over[azure.Key(n.ID)] = n
	c.cache = newCompiled()
	return &c
}

// OwnersOf returns the machines that have a private address now. within may be the id of a VNet or of a security group, and
// narrows the answer to endpoints there: the same address may exist in two networks that do not know of one another.
func (s *Snapshot) OwnersOf(addr netip.Addr, within string) []Machine {
	var out []Machine
	add := func(x *index, skip *index) {
		for _, at := range x.byAddr[addr] {
			m := x.machines[at]
			if skip != nil {
				if _, fresh := skip.byID[azure.Key(m.ID)]; fresh {
					continue
				}
			}
			if slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool {
				return slices.Contains(e.Addrs, addr) && (within == "" || azure.EqualID(e.VNet, within) ||
					azure.EqualID(e.SubnetNSG, within) || azure.EqualID(e.NICNSG, within))
			}) {
				out = append(out, m)
			}
		}
	}
	add(s.index, nil)
	if s.base != nil {
		add(s.base.index, s.index)
	}
	return out
}

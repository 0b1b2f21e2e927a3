package packets

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// estate is what the simulator holds, as far as packets are concerned. Ids are lower-case.
type estate struct {
	machines []machine
	nics     map[string]nic
	nsgs     map[string]nsg
	vnets    map[string]vnet
	subnets  map[string]subnet
	publics  map[string]public
	balancer []balancer
	admin    map[string][]rule // by virtual network
	problems []string
}

type machine struct {
	id, name, host string
	running        bool
	nics           []string // ids, the primary one first
}

type nic struct {
	id, nsg string
	configs []ipConfig
}

type ipConfig struct {
	id      string
	addr    netip.Addr
	subnet  string
	public  string
	asgs    []string
	nat     []string // inbound NAT rules that it is the target of
	pools   []string
	primary bool
}

type vnet struct {
	id, name string
	space    []netip.Prefix
	peers    []peering
}

type peering struct {
	id    string
	space []netip.Prefix
}

type subnet struct{ vnet, nsg string }

type public struct {
	addr     netip.Addr
	standard bool
}

type balancer struct {
	fronts map[string]public // by frontend's id; an internal one has a private address
	inside map[string]string // frontend's id → virtual network, for internal ones
	nat    []natRule
	rules  []natRule
}

// natRule is an inbound NAT rule or a load-balancing rule.
type natRule struct {
	id, front, protocol string
	port, last          int // frontend ports; last is that of the range over a pool
	backend             int
	floating            bool
	pools               []string
	target              string // ipConfiguration that an inbound NAT rule names
}

type nsg struct {
	id, name string
	flush    bool   // flushConnection
	rules    []rule // as they are listed: custom ones by priority, then the default ones
}

// verdict of a rule.
type verdict int

const (
	deny   verdict = iota
	goOn           // Allow of an NSG or of a security admin rule: what comes after is asked
	always         // AlwaysAllow of a security admin rule: nothing else is asked
)

type rule struct {
	name           string
	priority       int
	inbound        bool
	verdict        verdict
	protocol       string
	src, dst       []string // prefixes, addresses, tags, *
	srcASG, dstASG []string
	sports, dports []string
}

type ref struct {
	ID string `json:"id"`
}

func (r *ref) key() string {
	if r == nil {
		return ""
	}
	return strings.ToLower(r.ID)
}

func keys(rs []ref) []string {
	out := make([]string, 0, len(rs))
	for i := range rs {
		out = append(out, rs[i].key())
	}
	return out
}

// ruleBody is a security rule as the simulator lists it.
type ruleBody struct {
	Name       string `json:"name"`
	Properties struct {
		Priority       int      `json:"priority"`
		Direction      string   `json:"direction"`
		Access         string   `json:"access"`
		Protocol       string   `json:"protocol"`
		Source         string   `json:"sourceAddressPrefix"`
		Sources        []string `json:"sourceAddressPrefixes"`
		SourceASGs     []ref    `json:"sourceApplicationSecurityGroups"`
		Destination    string   `json:"destinationAddressPrefix"`
		Destinations   []string `json:"destinationAddressPrefixes"`
		DestASGs       []ref    `json:"destinationApplicationSecurityGroups"`
		SourcePort     string   `json:"sourcePortRange"`
		SourcePorts    []string `json:"sourcePortRanges"`
		DestinationPrt string   `json:"destinationPortRange"`
		DestinationPts []string `json:"destinationPortRanges"`
	} `json:"properties"`
}

func both(one string, many []string) []string {
	if one != "" {
		return append([]string{one}, many...)
	}
	return many
}

func (b ruleBody) rule() (rule, error) {
	p := b.Properties
	r := rule{name: b.Name, priority: p.Priority, inbound: strings.EqualFold(p.Direction, "Inbound"), protocol: p.Protocol,
		src: both(p.Source, p.Sources), dst: both(p.Destination, p.Destinations), srcASG: keys(p.SourceASGs), dstASG: keys(p.DestASGs),
		sports: both(p.SourcePort, p.SourcePorts), dports: both(p.DestinationPrt, p.DestinationPts)}
	switch {
	case strings.EqualFold(p.Access, "Allow"):
		r.verdict = goOn
	case strings.EqualFold(p.Access, "Deny"):
		r.verdict = deny
	default:
		return r, fmt.Errorf("rule %s: access %q", b.Name, p.Access)
	}
	return r, nil
}

// readEstate reads a dump of the simulator.
func readEstate(dump []byte) (*estate, error) {
	var file struct {
		Resources []json.RawMessage `json:"resources"`
	}
	if err := json.Unmarshal(dump, &file); err != nil {
		return nil, fmt.Errorf("reading the simulator's estate: %w", err)
	}
	e := &estate{nics: map[string]nic{}, nsgs: map[string]nsg{}, vnets: map[string]vnet{}, subnets: map[string]subnet{}, publics: map[string]public{}, admin: map[string][]rule{}}
	for _, raw := range file.Resources {
		var head struct{ ID, Name, Type string }
		if err := json.Unmarshal(raw, &head); err != nil {
			return nil, fmt.Errorf("reading the simulator's estate: %w", err)
		}
		read := map[string]func(id, name string, raw []byte) error{
			"microsoft.compute/virtualmachines":                                           e.readMachine,
			"microsoft.compute/virtualmachinescalesets/virtualmachines":                   e.readMachine,
			"microsoft.network/networkinterfaces":                                         e.readNIC,
			"microsoft.compute/virtualmachinescalesets/virtualmachines/networkinterfaces": e.readNIC,
			"microsoft.network/networksecuritygroups":                                     e.readNSG,
			"microsoft.network/virtualnetworks":                                           e.readVNet,
			"microsoft.network/publicipaddresses":                                         e.readPublic,
			"microsoft.network/loadbalancers":                                             e.readBalancer,
			"microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules": e.readAdmin,
		}[strings.ToLower(head.Type)]
		if read == nil {
			continue
		}
		if err := read(strings.ToLower(head.ID), head.Name, raw); err != nil {
			return nil, fmt.Errorf("reading %s: %w", head.ID, err)
		}
	}
	for id, rules := range e.admin {
		slices.SortStableFunc(rules, func(a, b rule) int { return a.priority - b.priority })
		e.admin[id] = rules
	}
	slices.SortStableFunc(e.machines, func(a, b machine) int { return strings.Compare(a.id, b.id) })
	return e, nil
}

func (e *estate) problem(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

func (e *estate) readMachine(id, name string, raw []byte) error {
	var b struct {
		Properties struct {
			OSProfile      struct{ ComputerName string }
			NetworkProfile struct {
				NetworkInterfaces []struct {
					ID         string
					Properties struct{ Primary bool }
				}
			}
			InstanceView struct{ Statuses []struct{ Code string } }
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	m := machine{id: id, name: name, host: b.Properties.OSProfile.ComputerName, running: true}
	if m.host == "" {
		m.host = name
	}
	for _, s := range b.Properties.InstanceView.Statuses {
		if power, ok := strings.CutPrefix(s.Code, "PowerState/"); ok {
			m.running = power == "running"
		}
	}
	for _, n := range b.Properties.NetworkProfile.NetworkInterfaces {
		if n.Properties.Primary {
			m.nics = append([]string{strings.ToLower(n.ID)}, m.nics...)
		} else {
			m.nics = append(m.nics, strings.ToLower(n.ID))
		}
	}
	e.machines = append(e.machines, m)
	return nil
}

func (e *estate) readNIC(id, _ string, raw []byte) error {
	var b struct {
		Properties struct {
			NetworkSecurityGroup *ref
			IPConfigurations     []struct {
				Name       string
				Properties struct {
					PrivateIPAddress                string
					Primary                         bool
					Subnet, PublicIPAddress         *ref
					ApplicationSecurityGroups       []ref
					LoadBalancerInboundNatRules     []ref
					LoadBalancerBackendAddressPools []ref
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	n := nic{id: id, nsg: b.Properties.NetworkSecurityGroup.key()}
	for _, c := range b.Properties.IPConfigurations {
		p := c.Properties
		addr, err := netip.ParseAddr(p.PrivateIPAddress)
		if err != nil {
			e.problem("%s: ipConfiguration %s has no private address", id, c.Name)
			continue
		}
		n.configs = append(n.configs, ipConfig{id: id + "/ipconfigurations/" + strings.ToLower(c.Name), addr: addr.Unmap(), subnet: p.Subnet.key(), public: p.PublicIPAddress.key(),
			asgs: keys(p.ApplicationSecurityGroups), nat: keys(p.LoadBalancerInboundNatRules), pools: keys(p.LoadBalancerBackendAddressPools), primary: p.Primary})
	}
	e.nics[id] = n
	return nil
}

func (e *estate) readNSG(id, name string, raw []byte) error {
	var b struct {
		Properties struct {
			FlushConnection                     bool
			SecurityRules, DefaultSecurityRules []ruleBody
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	g := nsg{id: id, name: name, flush: b.Properties.FlushConnection}
	for _, x := range append(b.Properties.SecurityRules, b.Properties.DefaultSecurityRules...) {
		r, err := x.rule()
		if err != nil {
			return err
		}
		g.rules = append(g.rules, r)
	}
	slices.SortStableFunc(g.rules, func(a, b rule) int { return a.priority - b.priority })
	e.nsgs[id] = g
	return nil
}

func (e *estate) prefixes(id string, texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			e.problem("%s: the address space %q is not understood", id, t)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func (e *estate) readVNet(id, name string, raw []byte) error {
	type space struct{ AddressPrefixes []string }
	var b struct {
		Properties struct {
			AddressSpace space
			Subnets      []struct {
				Name       string
				Properties struct{ NetworkSecurityGroup *ref }
			}
			VirtualNetworkPeerings []struct {
				Properties struct {
					PeeringState                                         string
					AllowVirtualNetworkAccess                            *bool
					RemoteVirtualNetwork                                 *ref
					RemoteAddressSpace, RemoteVirtualNetworkAddressSpace space
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	v := vnet{id: id, name: name, space: e.prefixes(id, b.Properties.AddressSpace.AddressPrefixes)}
	for _, s := range b.Properties.Subnets {
		e.subnets[id+"/subnets/"+strings.ToLower(s.Name)] = subnet{vnet: id, nsg: s.Properties.NetworkSecurityGroup.key()}
	}
	for _, p := range b.Properties.VirtualNetworkPeerings {
		x := p.Properties
		if strings.EqualFold(x.PeeringState, "Connected") && (x.AllowVirtualNetworkAccess == nil || *x.AllowVirtualNetworkAccess) && x.RemoteVirtualNetwork.key() != "" {
			v.peers = append(v.peers, peering{id: x.RemoteVirtualNetwork.key(),
				space: e.prefixes(id, slices.Concat(x.RemoteAddressSpace.AddressPrefixes, x.RemoteVirtualNetworkAddressSpace.AddressPrefixes))})
		}
	}
	e.vnets[id] = v
	return nil
}

func (e *estate) readPublic(id, _ string, raw []byte) error {
	var b struct {
		SKU        struct{ Name string }
		Properties struct{ IPAddress string }
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	if a, err := netip.ParseAddr(b.Properties.IPAddress); err == nil {
		e.publics[id] = public{addr: a.Unmap(), standard: !strings.EqualFold(b.SKU.Name, "Basic")}
	}
	return nil
}

func (e *estate) readBalancer(id, _ string, raw []byte) error {
	type natBody struct {
		Name       string
		Properties struct {
			FrontendIPConfiguration, BackendIPConfiguration, BackendAddressPool *ref
			BackendAddressPools                                                 []ref
			Protocol                                                            string
			FrontendPort, BackendPort                                           int
			FrontendPortRangeStart, FrontendPortRangeEnd                        int
			EnableFloatingIP                                                    bool
		}
	}
	var b struct {
		SKU        struct{ Name string }
		Properties struct {
			FrontendIPConfigurations []struct {
				Name       string
				Properties struct {
					PublicIPAddress, Subnet *ref
					PrivateIPAddress        string
				}
			}
			InboundNatRules, LoadBalancingRules []natBody
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	// Addresses of frontends are looked up when everything is read.
	x := balancer{fronts: map[string]public{}, inside: map[string]string{}}
	for _, f := range b.Properties.FrontendIPConfigurations {
		front := id + "/frontendipconfigurations/" + strings.ToLower(f.Name)
		x.inside[front] = f.Properties.PublicIPAddress.key()
		x.fronts[front] = public{standard: !strings.EqualFold(b.SKU.Name, "Basic")}
		if a, err := netip.ParseAddr(f.Properties.PrivateIPAddress); err == nil {
			x.fronts[front] = public{addr: a.Unmap()}
		}
	}
	for i, list := range [][]natBody{b.Properties.InboundNatRules, b.Properties.LoadBalancingRules} {
		for _, n := range list {
			p := n.Properties
			r := natRule{id: id + "/" + [2]string{"inboundnatrules", "loadbalancingrules"}[i] + "/" + strings.ToLower(n.Name), front: p.FrontendIPConfiguration.key(),
				protocol: strings.ToLower(p.Protocol), port: p.FrontendPort, backend: p.BackendPort, floating: p.EnableFloatingIP, target: p.BackendIPConfiguration.key(), pools: keys(p.BackendAddressPools)}
			if k := p.BackendAddressPool.key(); k != "" && !slices.Contains(r.pools, k) {
				r.pools = append(r.pools, k)
			}
			if i == 0 && len(r.pools) > 0 {
				r.port, r.last = p.FrontendPortRangeStart, p.FrontendPortRangeEnd
			}
			if i == 0 {
				x.nat = append(x.nat, r)
			} else {
				x.rules = append(x.rules, r)
			}
		}
	}
	e.balancer = append(e.balancer, x)
	return nil
}

func (e *estate) readAdmin(id, _ string, raw []byte) error {
	var b struct {
		Properties struct {
			Value []struct {
				ID         string
				Properties struct {
					Access, Direction, Protocol             string
					Priority                                int
					Sources, Destinations                   []struct{ AddressPrefix string }
					SourcePortRanges, DestinationPortRanges []string
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	net, _, _ := strings.Cut(id, "/networkmanagereffectivesecurityadminrules/")
	for _, v := range b.Properties.Value {
		p := v.Properties
		r := rule{name: v.ID[strings.LastIndexByte(v.ID, '/')+1:], priority: p.Priority, inbound: strings.EqualFold(p.Direction, "Inbound"), protocol: p.Protocol,
			sports: p.SourcePortRanges, dports: p.DestinationPortRanges}
		for _, s := range p.Sources {
			r.src = append(r.src, s.AddressPrefix)
		}
		for _, d := range p.Destinations {
			r.dst = append(r.dst, d.AddressPrefix)
		}
		for _, list := range []*[]string{&r.src, &r.dst, &r.sports, &r.dports} { // the API requires none of them
			if len(*list) == 0 {
				*list = []string{"*"}
			}
		}
		switch strings.ToLower(p.Access) {
		case "allow":
			r.verdict = goOn
		case "alwaysallow":
			r.verdict = always
		case "deny":
			r.verdict = deny
		default:
			return fmt.Errorf("security admin rule %s: access %q", r.name, p.Access)
		}
		e.admin[net] = append(e.admin[net], r)
	}
	return nil
}

// tagVNet is what VirtualNetwork means in a network: its own ranges, those of connected peers, and the host's address (FACTS 2.1).
func (e *estate) tagVNet(id string) []netip.Prefix {
	v := e.vnets[id]
	out := slices.Clone(v.space)
	for _, p := range v.peers {
		out = append(append(out, p.space...), e.vnets[p.id].space...)
	}
	return append(out, netip.PrefixFrom(hostAddr, 32))
}

// members of an application security group.
func (e *estate) members(asg string) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range e.nics {
		for _, c := range n.configs {
			if slices.Contains(c.asgs, asg) {
				out = append(out, netip.PrefixFrom(c.addr, c.addr.BitLen()))
			}
		}
	}
	return out
}

// front is a frontend of a load balancer: its address, and the network of an internal one.
func (e *estate) front(b balancer, id string) (public, bool) {
	f, ok := b.fronts[id]
	if pip := b.inside[id]; pip != "" {
		p, known := e.publics[pip]
		f.addr = p.addr
		ok = ok && known
	}
	return f, ok && f.addr.IsValid()
}

// address reads what stands in a rule as an address: an address, a range, or an integer, which Azure takes as an IPv4 address
// (recorded: "1234").
func address(s string) (netip.Prefix, bool) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 32), true
	}
	return netip.Prefix{}, false
}

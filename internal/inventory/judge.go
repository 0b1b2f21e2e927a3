package inventory

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// vnet returns a virtual network that was read.
func (s *Snapshot) vnet(id string) *azure.VNet {
	if v := s.raw.vnets[azure.Key(id)]; v != nil {
		return v
	}
	if s.base != nil {
		return s.base.vnet(id)
	}
	return nil
}

// peers returns the networks that a network is peered with, connected and allowed to reach: id and address space.
func (s *Snapshot) peers(v *azure.VNet) map[string][]string {
	out := map[string][]string{}
	for _, p := range v.Properties.Peerings {
		if !strings.EqualFold(p.Properties.PeeringState, "Connected") || p.Properties.RemoteVirtualNetwork == nil {
			continue
		}
		if allow := p.Properties.AllowVirtualNetworkAccess; allow != nil && !*allow {
			continue
		}
		id := p.Properties.RemoteVirtualNetwork.ID
		space := slices.Concat(p.Properties.RemoteAddressSpace.AddressPrefixes,
			p.Properties.RemoteVirtualNetworkAddressSpace.AddressPrefixes)
		if remote := s.vnet(id); remote != nil {
			space = append(space, remote.Properties.AddressSpace.AddressPrefixes...)
		}
		out[id] = space
	}
	return out
}

// VNetPrefixes returns what the tag VirtualNetwork means in a network: its own address space and that of connected peers, in
// order, each once, and what is behind its gateways, where Resource Graph told of them. Ranges of user-defined routes, which may belong to
// the tag too (FACTS 2.1, not verified), are left out. Nil when the network was not read.
func (s *Snapshot) VNetPrefixes(vnetID string) []netip.Prefix {
	v := s.vnet(vnetID)
	if v == nil {
		return nil
	}
	all := slices.Clone(v.Properties.AddressSpace.AddressPrefixes)
	for _, space := range s.peers(v) {
		all = append(all, space...)
	}
	all = append(all, s.onPremises(v)...)
	return prefixes(all)
}

func prefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		if p, ok := netsec.ParsePrefix(t); ok {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// Env returns what tags and application security groups mean at an endpoint, for the groups in its path.
func (s *Snapshot) Env(e Endpoint) netsec.Env { return s.env(e.VNet, e.SubnetNSG, e.NICNSG) }

func (s *Snapshot) env(vnetID string, nsgs ...string) netsec.Env {
	env := netsec.Env{VirtualNetwork: s.VNetPrefixes(vnetID), ASGs: map[string][]netip.Addr{}}
	for _, id := range nsgs {
		n, ok := s.NSG(id)
		if !ok {
			continue
		}
		for _, r := range n.Rules {
			for _, asg := range slices.Concat(r.SourceASGs, r.DestinationASGs) {
				if members, known := s.members(asg); known {
					env.ASGs[azure.Key(asg)] = members
				}
			}
		}
	}
	return env
}

// members returns the addresses of an application security group, known only when every interface of its subscription was read.
func (s *Snapshot) members(asg string) ([]netip.Addr, bool) {
	p, err := azure.ParseID(asg)
	if err != nil {
		return nil, false
	}
	if s.raw.read[whole(p.Subscription, kindNIC)] {
		return s.asgs[azure.Key(asg)], true
	}
	if s.base != nil {
		return s.base.members(asg)
	}
	return nil, false
}

// Group returns a security group as netsec judges it.
func Group(n azure.NSG) netsec.Group {
	g := netsec.Group{ID: n.ID, Name: n.Name, Rules: make([]netsec.Rule, 0, len(n.Rules))}
	for _, r := range n.Rules {
		g.Rules = append(g.Rules, Rule(r))
	}
	return g
}

// Rule returns one rule as netsec judges it. An access that is neither Allow nor Deny stays unknown.
func Rule(r azure.SecurityRule) netsec.Rule {
	a, _ := netsec.ParseAccess(r.Access)
	return netsec.Rule{Name: r.Name, Priority: r.Priority, Inbound: r.Inbound(), Access: a, Protocol: r.Protocol,
		Sources: r.SourcePrefixes, Destinations: r.DestinationPrefixes, SourcePorts: r.SourcePorts,
		DestinationPorts: r.DestinationPorts, SourceASGs: r.SourceASGs, DestinationASGs: r.DestinationASGs}
}

// unread stands for a group that is in the path and was not read: whatever it would say is unknown.
func unread(id string) netsec.Group {
	any := []string{"*"}
	rule := netsec.Rule{Name: "(not read)", Priority: 100, Inbound: true, Protocol: "*", Sources: any, Destinations: any,
		SourcePorts: any, DestinationPorts: any}
	out := rule
	out.Inbound = false
	return netsec.Group{ID: id, Name: azure.IDName(id), Rules: []netsec.Rule{rule, out}}
}

// compiledNSG prepares a group for one network; one that was replaced by With is prepared apart.
func (s *Snapshot) compiledNSG(id, vnetID string) *netsec.Compiled {
	if id == "" {
		return nil
	}
	cache := s.shared
	if _, replaced := s.over[azure.Key(id)]; replaced {
		cache = s.cache
	}
	key := "nsg|" + azure.Key(id) + "|" + azure.Key(vnetID)
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if c, ok := cache.m[key]; ok {
		return c.(*netsec.Compiled)
	}
	var c *netsec.Compiled
	if n, ok := s.NSG(id); ok {
		c = netsec.Compile(Group(n), s.env(vnetID, id))
	} else {
		c = netsec.Compile(unread(id), netsec.Env{})
	}
	cache.m[key] = c
	return c
}

func (s *Snapshot) compiledAdmin(vnetID string) *netsec.CompiledAdmin {
	key := "admin|" + azure.Key(vnetID)
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	if c, ok := s.shared.m[key]; ok {
		return c.(*netsec.CompiledAdmin)
	}
	rules, known := s.adminRules(vnetID)
	var c *netsec.CompiledAdmin
	if !known {
		rule := netsec.AdminRule{Name: "(security admin rules were not read)", Collection: vnetID, Priority: 1, Inbound: true, Protocol: "Any",
			Unread: "the security admin rules of " + azure.IDName(vnetID) + " were not read"}
		out := rule
		out.Inbound = false
		c = netsec.CompileAdmin([]netsec.AdminRule{rule, out}, netsec.Env{})
	} else if len(rules) > 0 {
		c = netsec.CompileAdmin(rules, s.env(vnetID))
	}
	s.shared.m[key] = c
	return c
}

// adminRules returns the security admin rules on a network, and whether they were read.
func (s *Snapshot) adminRules(vnetID string) ([]netsec.AdminRule, bool) {
	rules, ok := s.raw.admin[azure.Key(vnetID)]
	if !ok {
		if s.base != nil {
			return s.base.adminRules(vnetID)
		}
		return nil, false
	}
	out := make([]netsec.AdminRule, 0, len(rules))
	for _, r := range rules {
		p := r.Properties
		a, _ := netsec.ParseAdminAccess(p.Access)
		n := netsec.AdminRule{Name: azure.IDName(r.ID), Collection: azure.ParentID(r.ID), Priority: p.Priority,
			Inbound: strings.EqualFold(p.Direction, "Inbound"), Access: a, Protocol: p.Protocol,
			SourcePorts: p.SourcePortRanges, DestinationPorts: p.DestinationPortRanges}
		for _, x := range p.Sources {
			n.Sources = append(n.Sources, netsec.AdminAddress{Prefix: x.AddressPrefix, Type: x.AddressPrefixType})
		}
		for _, x := range p.Destinations {
			n.Destinations = append(n.Destinations, netsec.AdminAddress{Prefix: x.AddressPrefix, Type: x.AddressPrefixType})
		}
		out = append(out, n)
	}
	return out, true
}

// Path returns what traffic to an endpoint passes. A layer that exists and was not read is judged as unknown.
func (s *Snapshot) Path(e Endpoint) netsec.Path {
	p := netsec.Path{Admin: s.compiledAdmin(e.VNet), NIC: s.compiledNSG(e.NICNSG, e.VNet), Subnet: s.compiledNSG(e.SubnetNSG, e.VNet),
		VirtualNetwork: s.VNetPrefixes(e.VNet), PublicWithoutNSG: netsec.Closed}
	if e.vnetUnread { // its subnet may have a group that we do not know of
		p.Subnet = netsec.Compile(unread(e.Subnet), netsec.Env{})
	}
	if e.publicUnknown {
		p.PublicWithoutNSG = netsec.PublicUnknown
	}
	for _, a := range e.Public {
		if strings.EqualFold(a.SKU, "Basic") {
			p.PublicWithoutNSG = netsec.Open
		}
	}
	return p
}

// Netsec returns every way to a machine, ready to be judged. Frontends with floating IP are among the addresses.
func (s *Snapshot) Netsec(m Machine) netsec.Machine {
	out := make(netsec.Machine, 0, len(m.Endpoints))
	for _, e := range m.Endpoints {
		addrs := slices.Clone(e.Addrs)
		for _, f := range e.Floating {
			if !slices.Contains(addrs, f.Addr) {
				addrs = append(addrs, f.Addr)
			}
		}
		out = append(out, netsec.Endpoint{NIC: e.NIC, IPConfig: e.IPConfig, Addrs: addrs, Path: s.Path(e)})
	}
	return out
}

// Bastions returns the ranges from which Bastion hosts reach a machine: the AzureBastionSubnet of its networks and of their
// connected peers, and the subnets of Bastion hosts that were read. FACTS 2.6.
func (s *Snapshot) Bastions(m Machine) []netip.Prefix {
	var texts []string
	seen := map[string]bool{}
	visit := func(id string) {
		v := s.vnet(id)
		if v == nil || seen[azure.Key(id)] {
			return
		}
		seen[azure.Key(id)] = true
		for _, sn := range v.Properties.Subnets {
			if strings.EqualFold(sn.Name, "AzureBastionSubnet") || s.bastionIn(sn.ID) {
				texts = append(texts, sn.Properties.AddressPrefix)
				texts = append(texts, sn.Properties.AddressPrefixes...)
			}
		}
	}
	for _, e := range m.Endpoints {
		visit(e.VNet)
		if v := s.vnet(e.VNet); v != nil {
			for peer := range s.peers(v) {
				visit(peer)
			}
		}
	}
	return prefixes(texts)
}

func (s *Snapshot) bastionIn(subnetID string) bool {
	for _, b := range s.raw.bastions {
		for _, c := range b.Properties.IPConfigurations {
			if c.Properties.Subnet != nil && azure.EqualID(c.Properties.Subnet.ID, subnetID) {
				return true
			}
		}
	}
	return s.base != nil && s.base.bastionIn(subnetID)
}

// Probed tells whether a load balancer probes a port of the machine, so that closing it to the balancer would take the machine
// out of service.
func (s *Snapshot) Probed(m Machine, port uint16) bool {
	for _, e := range m.Endpoints {
		for _, pool := range s.poolsFor(e) {
			for _, r := range s.pools[pool] {
				probe := r.lb.Properties.LoadBalancingRules[r.rule].Properties.Probe
				if probe == nil {
					continue
				}
				for _, p := range r.lb.Properties.Probes {
					if azure.EqualID(p.ID, probe.ID) && p.Properties.Port == int(port) {
						return true
					}
				}
			}
		}
	}
	return false
}

// poolsFor returns the keys of the backend pools that an endpoint is in.
func (s *Snapshot) poolsFor(e Endpoint) []string {
	pools := slices.Clone(s.poolsOf[azure.Key(e.IPConfig)])
	if nic := s.raw.nics[azure.Key(e.NIC)]; nic != nil {
		for _, c := range nic.Properties.IPConfigurations {
			if azure.EqualID(c.ID, e.IPConfig) {
				for _, p := range c.Properties.LoadBalancerBackendAddressPools {
					pools = append(pools, azure.Key(p.ID))
				}
			}
		}
	}
	for _, a := range e.Addrs {
		pools = append(pools, s.poolAddr[azure.Key(e.VNet)+"|"+a.String()]...)
	}
	slices.Sort(pools)
	return slices.Compact(pools)
}

// UnprotectableReason says why a machine cannot be protected as it stands, "" when it can be.
func (s *Snapshot) UnprotectableReason(m Machine) string {
	switch {
	case m.ScaleSet != "":
		return fmt.Sprintf("it is an instance of scale set %s, which Curfew does not handle yet", azure.IDName(m.ScaleSet))
	case m.ManagedBy != "":
		return fmt.Sprintf("it is managed by %s, which would undo changes", azure.IDName(m.ManagedBy))
	case aksGroup(m.Group):
		return fmt.Sprintf("it lies in resource group %s, which AKS manages and would set back", m.Group)
	case len(m.Endpoints) == 0 && len(m.Problems) > 0:
		return "its network interfaces could not be read: " + m.Problems[0]
	case len(m.Endpoints) == 0:
		return "it has no network interface with an address"
	}
	for _, e := range m.Endpoints {
		if e.SubnetNSG == "" && e.NICNSG == "" {
			if e.vnetUnread {
				return fmt.Sprintf("the subnet of network interface %s could not be read", azure.IDName(e.NIC))
			}
			return fmt.Sprintf("neither network interface %s nor its subnet has a network security group", azure.IDName(e.NIC))
		}
	}
	return ""
}

// aksGroup tells AKS's node resource groups, MC_group_cluster_region, from groups of people who like the letters.
func aksGroup(group string) bool {
	return len(group) > 3 && strings.EqualFold(group[:3], "MC_") && strings.Count(group, "_") >= 3
}

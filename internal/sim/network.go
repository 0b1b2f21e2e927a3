package sim

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

const (
	typeRT       = "microsoft.network/routetables"
	typeFirewall = "microsoft.network/azurefirewalls"
	typeGateway  = "microsoft.network/virtualnetworkgateways"
	typeLocalGW  = "microsoft.network/localnetworkgateways"
	typeConn     = "microsoft.network/connections"
)

// cidr reads a prefix as the network provider wants it: without bits beyond its length.
func cidr(where, v string) (netip.Prefix, *armError) {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return p, badRequest("InvalidAddressPrefixFormat", "Address prefix %s of resource %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", v, where)
	}
	if p != p.Masked() {
		return p, badRequest("InvalidCIDRNotation", "The address prefix %s in resource %s has an invalid CIDR notation. For the given prefix length, the address prefix should be %s.", v, where, p.Masked())
	}
	return p, nil
}

func prefixesOf(p map[string]any) []string {
	list := stringList(p, "addressPrefixes")
	if one := text(p, "addressPrefix"); one != "" {
		list = append(list, one)
	}
	return list
}

// validateVNet checks prefixes: those of subnets lie in those of the network and do not overlap.
func (s *Sim) validateVNet(r *resource, props map[string]any) *armError {
	var space []netip.Prefix
	list := stringList(object(props, "addressSpace"), "addressPrefixes")
	if len(list) == 0 {
		return badRequest("InvalidRequestFormat", "Cannot parse the request: virtual network %s has no addressSpace.addressPrefixes.", r.id)
	}
	for _, v := range list {
		p, ae := cidr(r.id, v)
		if ae != nil {
			return ae
		}
		space = append(space, p)
	}
	type used struct {
		name string
		p    netip.Prefix
	}
	var taken []used
	names := map[string]bool{}
	for _, sub := range objects(props, "subnets") {
		name := text(sub, "name")
		id := r.id + "/subnets/" + name
		if !resourceName.MatchString(name) {
			return badRequest("InvalidResourceName", "Resource name %s is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.", name)
		}
		if names[strings.ToLower(name)] {
			return badRequest("InvalidRequestFormat", "Cannot parse the request: subnet %s appears twice in %s.", name, r.id)
		}
		names[strings.ToLower(name)] = true
		for _, v := range prefixesOf(object(sub, "properties")) {
			p, ae := cidr(id, v)
			if ae != nil {
				return ae
			}
			if !slices.ContainsFunc(space, func(s netip.Prefix) bool { return s.Overlaps(p) && s.Bits() <= p.Bits() }) {
				return badRequest("NetcfgInvalidSubnet", "Subnet '%s' is not valid in virtual network '%s'.", name, r.t.name())
			}
			for _, o := range taken {
				if o.p.Overlaps(p) {
					return badRequest("NetcfgSubnetRangesOverlap", "Subnet '%s' is not valid because its IP address range overlaps with that of an existing subnet in virtual network '%s'.", name, r.t.name())
				}
			}
			taken = append(taken, used{name, p})
		}
	}
	for _, peer := range objects(props, "virtualNetworkPeerings") {
		remoteID := refID(object(peer, "properties"), "remoteVirtualNetwork")
		if remoteID == "" {
			return badRequest("InvalidRequestFormat", "Cannot parse the request: virtual network peering %s names no remoteVirtualNetwork.", text(peer, "name"))
		}
		remote := s.all[strings.ToLower(remoteID)]
		if remote == nil || remote.key == r.key {
			continue // an earlier peering keeps its place when the other side has gone; a new one is refused with the references
		}
		for _, v := range stringList(object(object(remote.doc(), "properties"), "addressSpace"), "addressPrefixes") {
			if p, err := netip.ParsePrefix(v); err == nil && slices.ContainsFunc(space, p.Overlaps) {
				return badRequest("VnetAddressSpacesOverlap", "Cannot create or update peering %s/virtualNetworkPeerings/%s. Virtual networks %s and %s cannot be peered because their address spaces overlap.", r.id, text(peer, "name"), r.id, remote.id)
			}
		}
	}
	return nil
}

var nextHops = []string{"VirtualNetworkGateway", "VnetLocal", "Internet", "VirtualAppliance", "None"}

func validateRoutes(r *resource, props map[string]any) *armError {
	seen := map[string]string{}
	for _, route := range objects(props, "routes") {
		p := object(route, "properties")
		id := r.id + "/routes/" + text(route, "name")
		hop := text(p, "nextHopType")
		if oneOf("nextHopType", &hop, nextHops...) != nil {
			return badRequest("InvalidRequestFormat", "Cannot parse the request: route %s has the nextHopType '%s'. Allowed values: %s.", id, hop, strings.Join(nextHops, ", "))
		}
		p["nextHopType"] = hop
		prefix := text(p, "addressPrefix")
		if _, err := netip.ParsePrefix(prefix); err != nil {
			if !serviceTag.MatchString(prefix) {
				return badRequest("InvalidAddressPrefixFormat", "Address prefix %s of resource %s is not formatted correctly. It should follow CIDR notation, for example 10.0.0.0/24.", prefix, id)
			}
		} else if _, ae := cidr(id, prefix); ae != nil {
			return ae
		}
		if other, twice := seen[strings.ToLower(prefix)]; twice {
			return badRequest("RouteConflict", "Route %s conflicts with route %s: routes of one table cannot have the same address prefix.", text(route, "name"), other)
		}
		seen[strings.ToLower(prefix)] = text(route, "name")
		_, err := netip.ParseAddr(text(p, "nextHopIpAddress"))
		if hop == "VirtualAppliance" && err != nil {
			return badRequest("InvalidNextHopIpAddress", "Route %s needs a nextHopIpAddress for the next hop VirtualAppliance.", id)
		}
		if hop != "VirtualAppliance" && text(p, "nextHopIpAddress") != "" {
			return badRequest("RouteNextHopIpAddressNotAllowed", "Route %s cannot have a nextHopIpAddress for the next hop %s.", id, hop)
		}
		fill(p, "hasBgpOverride", false)
	}
	return nil
}

// validateAddresses checks the private addresses that a NIC asks for.
func (s *Sim) validateAddresses(r *resource, props map[string]any) *armError {
	for _, c := range objects(props, "ipConfigurations") {
		p := object(c, "properties")
		want := text(p, "privateIPAddress")
		if want == "" || !strings.EqualFold(text(p, "privateIPAllocationMethod"), "Static") {
			continue
		}
		id := refID(p, "subnet")
		sub := s.subnetOfLocked(id)
		if sub == nil {
			continue // refused with the references
		}
		a, err := netip.ParseAddr(want)
		if err != nil {
			return badRequest("InvalidIPAddress", "Private static IP address %s of %s is not an IP address.", want, r.id)
		}
		list := prefixesOf(object(sub, "properties"))
		var in netip.Prefix
		for _, v := range list {
			if n, err := netip.ParsePrefix(v); err == nil && n.Contains(a) {
				in = n.Masked()
			}
		}
		if !in.IsValid() {
			return badRequest("PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix %s.", want, strings.Join(list, ","))
		}
		reserved := in.Addr()
		for range 4 {
			if reserved == a {
				return badRequest("PrivateIPAddressInReservedRange", "Private static IP address %s falls within reserved IP range of subnet prefix %s.", want, in)
			}
			reserved = reserved.Next()
		}
		for o := range s.refs[strings.ToLower(id)] {
			owner, config, _ := strings.Cut(strings.ToLower(o.id), "/ipconfigurations/")
			other := s.all[owner]
			if other == nil || other.key == r.key {
				continue
			}
			for _, oc := range objects(object(other.doc(), "properties"), "ipConfigurations") {
				if strings.EqualFold(text(oc, "name"), config) && text(object(oc, "properties"), "privateIPAddress") == want {
					return badRequest("PrivateIPAddressInUse", "IP configuration %s/ipConfigurations/%s is using the private IP address %s which is already allocated to resource %s.", r.id, text(c, "name"), want, o.id)
				}
			}
		}
	}
	return nil
}

// validateFirewall: the subnet of a firewall and of a gateway has a fixed name; rule collections have priorities of their own.
func validateFirewall(r *resource, props map[string]any) *armError {
	want := "AzureFirewallSubnet"
	if r.typeKey == typeGateway {
		want = "GatewaySubnet"
	}
	for _, c := range objects(props, "ipConfigurations") {
		id := refID(object(c, "properties"), "subnet")
		if id != "" && !strings.EqualFold(id[strings.LastIndex(id, "/")+1:], want) {
			return badRequest("SubnetNameNotValid", "%s must be in a subnet with the name %s, not %s.", r.id, want, id)
		}
	}
	for _, f := range []string{"natRuleCollections", "networkRuleCollections", "applicationRuleCollections"} {
		seen := map[string]bool{}
		for _, c := range objects(props, f) {
			p := object(c, "properties")
			n := str(p["priority"])
			if i, ok := toInt(p["priority"]).(int); !ok || i < 100 || i > 65000 {
				return badRequest("AzureFirewallRuleCollectionInvalidPriority", "Rule collection %s of %s has the priority '%s'. Allowed range 100-65000.", text(c, "name"), r.id, n)
			}
			if seen[n] {
				return badRequest("AzureFirewallRuleCollectionsWithSamePriority", "Rule collections of %s cannot have the same priority: %s.", r.id, n)
			}
			seen[n] = true
		}
	}
	return nil
}

func peerings(vnet *resource) []map[string]any {
	return objects(object(vnet.doc(), "properties"), "virtualNetworkPeerings")
}

func peersWith(a, b *resource) bool {
	return slices.ContainsFunc(peerings(a), func(p map[string]any) bool {
		return strings.EqualFold(refID(object(p, "properties"), "remoteVirtualNetwork"), b.id)
	})
}

// fillPeerings gives the peerings of a network that is being written what Azure knows of the other side.
func (s *Sim) fillPeerings(probe *resource, props map[string]any) {
	for _, peer := range objects(props, "virtualNetworkPeerings") {
		p := object(peer, "properties")
		if p == nil {
			continue
		}
		for f, v := range map[string]any{"allowVirtualNetworkAccess": true, "allowForwardedTraffic": false, "allowGatewayTransit": false, "useRemoteGateways": false, "doNotVerifyRemoteGateways": false} {
			fill(p, f, v)
		}
		fill(p, "peeringSyncLevel", "FullyInSync")
		remote := s.all[strings.ToLower(refID(p, "remoteVirtualNetwork"))]
		switch {
		case remote == nil:
			p["peeringState"] = "Disconnected"
			continue
		case peersWith(remote, probe):
			p["peeringState"] = "Connected"
		default:
			p["peeringState"] = "Initiated"
		}
		space := cloneJSON(object(object(remote.doc(), "properties"), "addressSpace"))
		p["remoteAddressSpace"], p["remoteVirtualNetworkAddressSpace"] = space, cloneJSON(space)
	}
}

// peersChangedLocked tells the other sides of a network's peerings that one has come or gone.
func (s *Sim) peersChangedLocked(vnet *resource, before map[string]any) {
	ids := map[string]bool{}
	for _, list := range [][]map[string]any{objects(object(before, "properties"), "virtualNetworkPeerings"), peerings(vnet)} {
		for _, p := range list {
			ids[strings.ToLower(refID(object(p, "properties"), "remoteVirtualNetwork"))] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(ids)) {
		remote := s.all[key]
		if remote == nil || remote == vnet || !peersWith(remote, vnet) {
			continue
		}
		state := "Disconnected"
		if !vnet.gone && peersWith(vnet, remote) {
			state = "Connected"
		}
		body, _ := cloneJSON(remote.doc()).(map[string]any)
		changed := false
		for _, p := range objects(object(body, "properties"), "virtualNetworkPeerings") {
			props := object(p, "properties")
			if strings.EqualFold(refID(props, "remoteVirtualNetwork"), vnet.id) && text(props, "peeringState") != state {
				props["peeringState"] = state
				changed = true
			}
		}
		if changed {
			s.remember(remote)
			s.setBodyLocked(remote, body, nil, remote.kept)
			remote.etag = s.nextEtagLocked(remote)
		}
	}
}

// virtualNetworkTagLocked are the prefixes that the tag VirtualNetwork stands for in a network (FACTS 2.1): its own, those of connected
// peers, those on premises behind its gateway or a peer's that it uses, and the platform's address (recorded).
func (s *Sim) virtualNetworkTagLocked(vnet *resource) []string {
	var out []string
	add := func(list []string) {
		for _, v := range list {
			if !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	space := func(v *resource) []string {
		return stringList(object(object(v.doc(), "properties"), "addressSpace"), "addressPrefixes")
	}
	add(space(vnet))
	add(s.onPremisesLocked(vnet))
	for _, peer := range peerings(vnet) {
		p := object(peer, "properties")
		remote := s.all[strings.ToLower(refID(p, "remoteVirtualNetwork"))]
		if remote == nil || text(p, "peeringState") != "Connected" || p["allowVirtualNetworkAccess"] == false {
			continue
		}
		add(space(remote))
		if truth(p["useRemoteGateways"]) {
			add(s.onPremisesLocked(remote))
		}
	}
	return append(out, "168.63.129.16/32")
}

// onPremisesLocked are the prefixes behind the connections of the gateways in a network.
func (s *Sim) onPremisesLocked(vnet *resource) (out []string) {
	for _, gw := range s.byType[typeGateway] {
		if gw.gone || !slices.ContainsFunc(objects(object(gw.doc(), "properties"), "ipConfigurations"), func(c map[string]any) bool {
			return strings.HasPrefix(strings.ToLower(refID(object(c, "properties"), "subnet")), vnet.key+"/subnets/")
		}) {
			continue
		}
		for _, conn := range s.byType[typeConn] {
			p := object(conn.doc(), "properties")
			if conn.gone {
				continue
			}
			for _, pair := range [][2]string{{"virtualNetworkGateway1", "virtualNetworkGateway2"}, {"virtualNetworkGateway2", "virtualNetworkGateway1"}} {
				if other := s.all[strings.ToLower(refID(p, pair[1]))]; other != nil && other != gw && strings.EqualFold(refID(p, pair[0]), gw.id) {
					out = append(out, s.spaceOfGatewayLocked(other)...)
				}
			}
			if !strings.EqualFold(refID(p, "virtualNetworkGateway1"), gw.id) {
				continue
			}
			if local := s.all[strings.ToLower(refID(p, "localNetworkGateway2"))]; local != nil {
				out = append(out, stringList(object(object(local.doc(), "properties"), "localNetworkAddressSpace"), "addressPrefixes")...)
			}
		}
		p := object(object(object(gw.doc(), "properties"), "vpnClientConfiguration"), "vpnClientAddressPool")
		out = append(out, stringList(p, "addressPrefixes")...)
	}
	return out
}

// spaceOfGatewayLocked is the address space of the network that a gateway is in.
func (s *Sim) spaceOfGatewayLocked(gw *resource) (out []string) {
	for _, c := range objects(object(gw.doc(), "properties"), "ipConfigurations") {
		vnet, _, _ := strings.Cut(strings.ToLower(refID(object(c, "properties"), "subnet")), "/subnets/")
		if v := s.all[vnet]; v != nil {
			return stringList(object(object(v.doc(), "properties"), "addressSpace"), "addressPrefixes")
		}
	}
	return nil
}

// notInternet is what the tag Internet leaves out beside the virtual network: what is not routed in public.
var notInternet = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("224.0.0.0/3"),
}

// internet is the tag Internet as prefixes: everything but what is left out. Azure's own list leaves out more of Microsoft's ranges.
func internet(out []string) []string {
	holes := slices.Clone(notInternet)
	for _, v := range out {
		if p, err := netip.ParsePrefix(v); err == nil && p.Addr().Is4() {
			holes = append(holes, p.Masked())
		}
	}
	var list []string
	var split func(p netip.Prefix)
	split = func(p netip.Prefix) {
		hit := false
		for _, h := range holes {
			if h.Bits() <= p.Bits() && h.Contains(p.Addr()) {
				return
			}
			hit = hit || p.Contains(h.Addr())
		}
		if !hit {
			list = append(list, p.String())
			return
		}
		low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
		b := p.Addr().As4()
		b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
		split(low)
		split(netip.PrefixFrom(netip.AddrFrom4(b), p.Bits()+1))
	}
	split(netip.MustParsePrefix("0.0.0.0/0"))
	return list
}

// effectiveLocked is effectiveNetworkSecurityGroups: 202, then the groups of the NIC and of its subnets with their rules in the spelling
// of that call and with the tags expanded that follow from the estate (FACTS 2.3, recorded). Other tags stand without prefixes, because
// their lists are Azure's.
func (s *Sim) effectiveLocked(r *request, nic *resource) *answer {
	props := object(nic.doc(), "properties")
	var vm *resource
	for o := range s.refs[nic.key] {
		if o.field == "virtualMachine" {
			vm = s.all[strings.ToLower(o.id)]
		}
	}
	if vm == nil || powerCode(s.instanceViewLocked(vm)) != "PowerState/running" {
		return badRequest("NetworkInterfaceNotAttachedToRunningVirtualMachine", "Network interface %s must be attached to a running virtual machine to compute its effective network security groups.", nic.id).answer()
	}
	var value []any
	tags := map[string][]string{"AzureLoadBalancer": {"168.63.129.16/32", "fe80::1234:5678:9abc/128"}}
	add := func(id string, association map[string]any) {
		nsg := s.all[strings.ToLower(id)]
		if id == "" || nsg == nil {
			return
		}
		list, used := make([]any, 0, len(nsg.rules)+len(defaultRules)), map[string]any{}
		for _, x := range nsg.rules {
			list = append(list, effectiveRule("securityRules/"+x.name, x.props, tags, used))
		}
		for _, x := range defaultRules {
			list = append(list, effectiveRule("defaultSecurityRules/"+x.name, x.props, tags, used))
		}
		value = append(value, map[string]any{"networkSecurityGroup": map[string]any{"id": nsg.id}, "association": association, "effectiveSecurityRules": list, "tagMap": used})
	}
	type via struct{ nsg, subnet string }
	var subnets []via
	for _, c := range objects(props, "ipConfigurations") {
		id := refID(object(c, "properties"), "subnet")
		sub := s.subnetOfLocked(id)
		if sub == nil || slices.ContainsFunc(subnets, func(v via) bool { return strings.EqualFold(v.subnet, id) }) {
			continue
		}
		if t, err := parsePath(id); err == nil && tags["VirtualNetwork"] == nil {
			tags["VirtualNetwork"] = s.virtualNetworkTagLocked(s.all[t.top().key()])
			tags["Internet"] = internet(tags["VirtualNetwork"])
		}
		subnets = append(subnets, via{refID(object(sub, "properties"), "networkSecurityGroup"), id})
	}
	for _, v := range subnets {
		add(v.nsg, map[string]any{"subnet": map[string]any{"id": v.subnet}})
	}
	add(refID(props, "networkSecurityGroup"), map[string]any{"networkInterface": map[string]any{"id": nic.id}})
	if value == nil {
		value = []any{}
	}
	op := s.newOperationLocked(r, nic, nic.t, "GetEffective")
	op.result = mustJSON(map[string]any{"value": value})
	s.atLocked(s.nowLocked().Add(s.cfg.OperationDelay), func() { s.endLocked(op, "Succeeded", nil) })
	a := ok(202, nil)
	s.opHeaders(op, r, a.header, false, true)
	return a
}

func effectiveRule(name string, p map[string]any, tags map[string][]string, used map[string]any) map[string]any {
	out := map[string]any{"name": name, "access": p["access"], "priority": p["priority"], "direction": p["direction"], "protocol": p["protocol"]}
	if p["protocol"] == "*" {
		out["protocol"] = "All"
	}
	for _, side := range []string{"source", "destination"} {
		ports := stringList(p, side+"PortRanges")
		if one := text(p, side+"PortRange"); one != "" {
			ports = []string{one}
		}
		for i, v := range ports {
			switch {
			case v == "*":
				ports[i] = "0-65535"
			case !strings.Contains(v, "-"):
				ports[i] = v + "-" + v
			}
		}
		out[side+"PortRanges"] = ports
		if len(ports) == 1 {
			out[side+"PortRange"] = ports[0]
		}
		addrs := stringList(p, side+"AddressPrefixes")
		one := text(p, side+"AddressPrefix")
		if one != "" {
			addrs = []string{one}
		}
		if one == "*" {
			one, addrs = "0.0.0.0/0", []string{"0.0.0.0/0", "0.0.0.0/0"} // twice, as recorded
		}
		if len(addrs) > 0 {
			out[side+"AddressPrefixes"] = addrs
			if one == "" && len(addrs) == 1 {
				one = addrs[0]
			}
			if one != "" {
				out[side+"AddressPrefix"] = one
			}
			var expanded []string
			for _, v := range addrs {
				for tag, list := range tags {
					if strings.EqualFold(tag, v) {
						expanded = append(expanded, list...)
						used[tag] = list
					}
				}
			}
			if expanded != nil {
				out["expanded"+strings.ToUpper(side[:1])+side[1:]+"AddressPrefix"] = expanded
			}
		}
		if asgs, ok := p[side+"ApplicationSecurityGroups"]; ok {
			out[side+"ApplicationSecurityGroups"] = asgs
		}
	}
	return out
}

// vnetInUseLocked names what keeps a network from being deleted.
func (s *Sim) vnetInUseLocked(vnet *resource) *armError {
	for _, sub := range objects(object(vnet.doc(), "properties"), "subnets") {
		key := vnet.key + "/subnets/" + strings.ToLower(text(sub, "name"))
		for o := range s.refs[key] {
			return badRequest("InUseSubnetCannotBeDeleted", "Subnet %s is in use by %s and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.", text(sub, "name"), o.id)
		}
	}
	return nil
}

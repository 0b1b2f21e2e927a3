// Package estates composes Azure estates for tests and the demo: ARM bodies as Azure would return them, in the file format that the
// simulator and the scanner read. Builders panic on what no estate can be (an unknown subnet, an invalid rule): estates are written by
// programmers, and a mistake in one is a mistake in the program.
package estates

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/curfew-jit/curfew/internal/sim"
)

// Estate collects resources. Subscription and Group say where the following ones go.
type Estate struct {
	resources []map[string]any
	byID      map[string]map[string]any
	sub       string
	group     string
	location  string
}

// New is an empty estate.
func New() *Estate { return &Estate{byID: map[string]map[string]any{}} }

// Subscription begins a subscription (a GUID) and returns its id.
func (e *Estate) Subscription(id, name string) string {
	e.sub, e.group = "/subscriptions/"+id, ""
	e.put(map[string]any{"id": e.sub, "displayName": name, "type": "Microsoft.Resources/subscriptions", "state": "Enabled"})
	return e.sub
}

// Group begins a resource group (or goes back to one) in the current subscription and returns its id.
func (e *Estate) Group(name, location string) string {
	e.group, e.location = e.sub+"/resourceGroups/"+name, location
	if e.byID[strings.ToLower(e.group)] == nil {
		e.put(map[string]any{"id": e.group, "location": location, "type": "Microsoft.Resources/resourceGroups"})
	}
	return e.group
}

// ID is the id that a resource of the type ("Microsoft.Network/loadBalancers") has in the current group.
func (e *Estate) ID(typ, name string) string {
	if e.group == "" {
		panic("estates: no group begun before " + name)
	}
	return e.group + "/providers/" + typ + "/" + name
}

// Add puts any ARM body into the estate. Its id decides where it belongs.
func (e *Estate) Add(body map[string]any) { e.put(body) }

func (e *Estate) put(body map[string]any) {
	id, _ := body["id"].(string)
	if e.byID[strings.ToLower(id)] != nil {
		panic("estates: " + id + " appears twice")
	}
	e.byID[strings.ToLower(id)] = body
	e.resources = append(e.resources, body)
}

func (e *Estate) resource(typ, name string, properties map[string]any, more ...map[string]any) string {
	id := e.ID(typ, name)
	body := map[string]any{"id": id, "name": name, "type": typ, "location": e.location, "properties": properties}
	for _, m := range more {
		maps.Copy(body, m)
	}
	e.put(body)
	return id
}

func guid(of string) string {
	b := sha256.Sum256([]byte(of))
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// Rule of an NSG. Empty fields mean: Inbound, Allow, Tcp, source *, destination *, any port.
type Rule struct {
	Name                string
	Priority            int
	Direction           string
	Access              string
	Protocol            string
	Source, Destination string
	Sources             []string // instead of Source
	Destinations        []string // instead of Destination
	SourceASGs          []string // ids, instead of Source
	DestinationASGs     []string // ids, instead of Destination
	Port                string   // destination port or range
	Ports               []string // instead of Port
	Description         string
}

// Allow is an inbound TCP rule.
func Allow(name string, priority int, port, source string) Rule {
	return Rule{Name: name, Priority: priority, Port: port, Source: source}
}

// Deny is an inbound TCP rule.
func Deny(name string, priority int, port, source string) Rule {
	return Rule{Name: name, Priority: priority, Port: port, Source: source, Access: "Deny"}
}

func or(v, def string) string {
	if v == "" {
		return def
	}
	return v
}

func idList(ids []string) []any {
	out := make([]any, len(ids))
	for i, id := range ids {
		out[i] = map[string]any{"id": id}
	}
	return out
}

func anyList(v []string) []any {
	out := make([]any, len(v))
	for i, s := range v {
		out[i] = s
	}
	return out
}

func (r Rule) body() map[string]any {
	p := map[string]any{"priority": r.Priority, "direction": or(r.Direction, "Inbound"), "access": or(r.Access, "Allow"),
		"protocol": or(r.Protocol, "Tcp"), "sourcePortRange": "*", "sourcePortRanges": []any{}}
	if r.Description != "" {
		p["description"] = r.Description
	}
	side := func(field, one string, many, asgs []string) {
		switch {
		case len(asgs) > 0:
			p[field+"ApplicationSecurityGroups"] = idList(asgs)
		case len(many) > 0:
			p[field+"AddressPrefixes"] = anyList(many)
		default:
			p[field+"AddressPrefix"] = or(one, "*")
		}
	}
	side("source", r.Source, r.Sources, r.SourceASGs)
	side("destination", r.Destination, r.Destinations, r.DestinationASGs)
	if len(r.Ports) > 0 {
		p["destinationPortRanges"] = anyList(r.Ports)
	} else {
		p["destinationPortRange"] = or(r.Port, "*")
	}
	return map[string]any{"name": r.Name, "properties": p}
}

// NSG adds a network security group and returns its id.
func (e *Estate) NSG(name string, rules ...Rule) string {
	list := make([]any, len(rules))
	for i, r := range rules {
		list[i] = r.body()
	}
	return e.resource("Microsoft.Network/networkSecurityGroups", name, map[string]any{"securityRules": list})
}

// ASG adds an application security group and returns its id.
func (e *Estate) ASG(name string) string {
	return e.resource("Microsoft.Network/applicationSecurityGroups", name, map[string]any{})
}

// Subnet of a virtual network.
type Subnet struct {
	Name       string
	Prefix     string
	Prefix6    string
	NSG        string // id
	RouteTable string // id
	NATGateway string // id
}

// VNet adds a virtual network and returns its id; subnets are id + "/subnets/" + name.
func (e *Estate) VNet(name string, prefixes []string, subnets ...Subnet) string {
	list := make([]any, len(subnets))
	for i, s := range subnets {
		p := map[string]any{"addressPrefix": s.Prefix, "privateEndpointNetworkPolicies": "Disabled", "privateLinkServiceNetworkPolicies": "Enabled", "delegations": []any{}}
		if s.Prefix6 != "" {
			delete(p, "addressPrefix")
			p["addressPrefixes"] = []any{s.Prefix, s.Prefix6}
		}
		for field, id := range map[string]string{"networkSecurityGroup": s.NSG, "routeTable": s.RouteTable, "natGateway": s.NATGateway} {
			if id != "" {
				p[field] = map[string]any{"id": id}
			}
		}
		list[i] = map[string]any{"name": s.Name, "properties": p}
	}
	return e.resource("Microsoft.Network/virtualNetworks", name, map[string]any{"addressSpace": map[string]any{"addressPrefixes": anyList(prefixes)},
		"subnets": list, "virtualNetworkPeerings": []any{}, "enableDdosProtection": false})
}

// Peer joins two virtual networks in both directions.
func (e *Estate) Peer(a, b string) {
	for _, p := range [][2]string{{a, b}, {b, a}} {
		from, to := e.must(p[0]), e.must(p[1])
		props := from["properties"].(map[string]any)
		list, _ := props["virtualNetworkPeerings"].([]any)
		props["virtualNetworkPeerings"] = append(list, map[string]any{"name": "to-" + to["name"].(string), "properties": map[string]any{
			"peeringState": "Connected", "peeringSyncLevel": "FullyInSync", "remoteVirtualNetwork": map[string]any{"id": p[1]},
			"allowVirtualNetworkAccess": true, "allowForwardedTraffic": false, "allowGatewayTransit": false, "useRemoteGateways": false,
			"remoteAddressSpace": to["properties"].(map[string]any)["addressSpace"]}})
	}
}

func (e *Estate) must(id string) map[string]any {
	b := e.byID[strings.ToLower(id)]
	if b == nil {
		panic("estates: no resource " + id)
	}
	return b
}

// PublicIP adds a static public address and returns its id; sku "" is Standard.
func (e *Estate) PublicIP(name, address, sku string) string {
	version := "IPv4"
	if strings.Contains(address, ":") {
		version = "IPv6"
	}
	return e.resource("Microsoft.Network/publicIPAddresses", name, map[string]any{"ipAddress": address, "publicIPAddressVersion": version,
		"publicIPAllocationMethod": "Static", "idleTimeoutInMinutes": 4, "ipTags": []any{}}, map[string]any{"sku": map[string]any{"name": or(sku, "Standard"), "tier": "Regional"}})
}

// VM is what distinguishes a machine; the rest is made up.
type VM struct {
	OS          string // Linux (default) or Windows
	Size        string
	Subnet      string // id; required
	PrivateIP   string // required
	PrivateIPv6 string // adds a second ipConfiguration
	PublicIP    string // address; adds a public IP resource
	PublicSKU   string // Standard (default) or Basic
	NSG         string // id of the NIC's NSG
	ASGs        []string
	NATRules    []string // ids of inbound NAT rules that end here
	Pools       []string // ids of load-balancer backend pools that this machine is in
	ManagedBy   string
	Tags        map[string]string
	Zones       []string
	Power       string // running (default), deallocated, stopped
}

// NIC is the id of the network interface that VM adds for a machine of the current group.
func (e *Estate) NIC(vm string) string { return e.ID("Microsoft.Network/networkInterfaces", vm+"-nic") }

// VM adds a machine with its NIC (and public IP) and returns its id.
func (e *Estate) VM(name string, v VM) string {
	vnet, _, ok := strings.Cut(v.Subnet, "/subnets/")
	if !ok {
		panic("estates: VM " + name + " needs the id of a subnet, got " + v.Subnet)
	}
	e.must(vnet)
	ipc := map[string]any{"privateIPAddress": v.PrivateIP, "privateIPAllocationMethod": "Static", "privateIPAddressVersion": "IPv4", "primary": true,
		"subnet": map[string]any{"id": v.Subnet}}
	if v.PublicIP != "" {
		ipc["publicIPAddress"] = map[string]any{"id": e.PublicIP(name+"-ip", v.PublicIP, v.PublicSKU)}
	}
	for field, ids := range map[string][]string{"applicationSecurityGroups": v.ASGs, "loadBalancerInboundNatRules": v.NATRules, "loadBalancerBackendAddressPools": v.Pools} {
		if len(ids) > 0 {
			ipc[field] = idList(ids)
		}
	}
	configs := []any{map[string]any{"name": "ipconfig1", "properties": ipc}}
	if v.PrivateIPv6 != "" {
		configs = append(configs, map[string]any{"name": "ipconfig-v6", "properties": map[string]any{"privateIPAddress": v.PrivateIPv6,
			"privateIPAllocationMethod": "Static", "privateIPAddressVersion": "IPv6", "primary": false, "subnet": map[string]any{"id": v.Subnet}}})
	}
	id := e.ID("Microsoft.Compute/virtualMachines", name)
	nic := map[string]any{"ipConfigurations": configs, "dnsSettings": map[string]any{"dnsServers": []any{}, "appliedDnsServers": []any{}},
		"macAddress": mac(id), "enableAcceleratedNetworking": false, "enableIPForwarding": false, "primary": true, "hostedWorkloads": []any{}, "nicType": "Standard", "auxiliaryMode": "None"}
	if v.NSG != "" {
		nic["networkSecurityGroup"] = map[string]any{"id": v.NSG}
	}
	nicID := e.resource("Microsoft.Network/networkInterfaces", name+"-nic", nic)
	osName := or(v.OS, "Linux")
	props := map[string]any{
		"vmId": guid(id), "timeCreated": "2026-03-02T08:15:27.4821930+00:00",
		"hardwareProfile": map[string]any{"vmSize": or(v.Size, "Standard_D2s_v5")},
		"storageProfile":  storage(name, osName),
		"osProfile":       osProfile(name, osName),
		"networkProfile":  map[string]any{"networkInterfaces": []any{map[string]any{"id": nicID, "properties": map[string]any{"primary": true}}}},
		"instanceView": map[string]any{"computerName": name, "osName": osName, "statuses": []any{
			map[string]any{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded"},
			map[string]any{"code": "PowerState/" + or(v.Power, "running"), "level": "Info", "displayStatus": "VM " + or(v.Power, "running")}}},
	}
	more := map[string]any{}
	if v.ManagedBy != "" {
		more["managedBy"] = v.ManagedBy
	}
	if len(v.Zones) > 0 {
		more["zones"] = anyList(v.Zones)
	}
	if len(v.Tags) > 0 {
		tags := map[string]any{}
		for k, t := range v.Tags {
			tags[k] = t
		}
		more["tags"] = tags
	}
	return e.resource("Microsoft.Compute/virtualMachines", name, props, more)
}

func mac(id string) string {
	b := sha256.Sum256([]byte(id))
	return fmt.Sprintf("00-0D-3A-%02X-%02X-%02X", b[0], b[1], b[2])
}

func storage(name, osName string) map[string]any {
	image := map[string]any{"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest", "exactVersion": "24.04.202602110"}
	if osName == "Windows" {
		image = map[string]any{"publisher": "MicrosoftWindowsServer", "offer": "WindowsServer", "sku": "2022-datacenter-azure-edition", "version": "latest", "exactVersion": "20348.3207.250210"}
	}
	return map[string]any{"imageReference": image, "dataDisks": []any{}, "osDisk": map[string]any{"osType": osName, "name": name + "_OsDisk", "createOption": "FromImage",
		"caching": "ReadWrite", "deleteOption": "Detach", "managedDisk": map[string]any{"storageAccountType": "Premium_LRS"}}}
}

func osProfile(name, osName string) map[string]any {
	p := map[string]any{"computerName": name, "adminUsername": "operator", "secrets": []any{}, "allowExtensionOperations": true, "requireGuestProvisionSignal": true}
	if osName == "Windows" {
		p["windowsConfiguration"] = map[string]any{"provisionVMAgent": true, "enableAutomaticUpdates": true}
	} else {
		p["linuxConfiguration"] = map[string]any{"disablePasswordAuthentication": true, "provisionVMAgent": true}
	}
	return p
}

// NATRule of a load balancer: FrontendPort on its address leads to BackendPort on the machine that names the rule.
type NATRule struct {
	Name         string
	FrontendPort int
	BackendPort  int
	FloatingIP   bool
}

// LBRule balances FrontendPort over the backend pool "pool".
type LBRule struct {
	Name         string
	FrontendPort int
	BackendPort  int
	ProbePort    int
	FloatingIP   bool
}

// LB adds a load balancer with one public address, the frontend "front" and the backend pool "pool", and returns its id. Its parts are
// id + "/inboundNatRules/" + name and id + "/backendAddressPools/pool".
func (e *Estate) LB(name, publicIP, sku string, nat []NATRule, rules ...LBRule) string {
	pip := e.PublicIP(name+"-ip", publicIP, sku)
	id := e.ID("Microsoft.Network/loadBalancers", name)
	front := map[string]any{"id": id + "/frontendIPConfigurations/front"}
	props := map[string]any{
		"frontendIPConfigurations": []any{map[string]any{"name": "front", "properties": map[string]any{"privateIPAllocationMethod": "Dynamic", "publicIPAddress": map[string]any{"id": pip}}}},
		"backendAddressPools":      []any{map[string]any{"name": "pool", "properties": map[string]any{}}},
		"outboundRules":            []any{}, "inboundNatPools": []any{},
	}
	var natList, ruleList, probes []any
	for _, n := range nat {
		natList = append(natList, map[string]any{"name": n.Name, "properties": map[string]any{"frontendIPConfiguration": front, "frontendPort": n.FrontendPort,
			"backendPort": n.BackendPort, "protocol": "Tcp", "enableFloatingIP": n.FloatingIP, "enableTcpReset": false, "idleTimeoutInMinutes": 4}})
	}
	for _, r := range rules {
		p := map[string]any{"frontendIPConfiguration": front, "frontendPort": r.FrontendPort, "backendPort": r.BackendPort, "protocol": "Tcp",
			"enableFloatingIP": r.FloatingIP, "idleTimeoutInMinutes": 4, "loadDistribution": "Default", "disableOutboundSnat": true,
			"backendAddressPool": map[string]any{"id": id + "/backendAddressPools/pool"}, "backendAddressPools": []any{map[string]any{"id": id + "/backendAddressPools/pool"}}}
		if r.ProbePort > 0 {
			probe := fmt.Sprintf("tcp-%d", r.ProbePort)
			probes = append(probes, map[string]any{"name": probe, "properties": map[string]any{"protocol": "Tcp", "port": r.ProbePort, "intervalInSeconds": 15, "numberOfProbes": 2, "probeThreshold": 1}})
			p["probe"] = map[string]any{"id": id + "/probes/" + probe}
		}
		ruleList = append(ruleList, map[string]any{"name": r.Name, "properties": p})
	}
	for field, l := range map[string][]any{"inboundNatRules": natList, "loadBalancingRules": ruleList, "probes": probes} {
		if l == nil {
			l = []any{}
		}
		props[field] = l
	}
	return e.resource("Microsoft.Network/loadBalancers", name, props, map[string]any{"sku": map[string]any{"name": or(sku, "Standard"), "tier": "Regional"}})
}

// Bastion adds a Bastion host in a subnet (id), which must be called AzureBastionSubnet.
func (e *Estate) Bastion(name, subnet, publicIP string) string {
	if !strings.HasSuffix(subnet, "/AzureBastionSubnet") {
		panic("estates: Bastion " + name + " needs a subnet called AzureBastionSubnet, got " + subnet)
	}
	pip := e.PublicIP(name+"-ip", publicIP, "")
	return e.resource("Microsoft.Network/bastionHosts", name, map[string]any{"dnsName": "bst-" + guid(name)[:8] + ".bastion.azure.com", "scaleUnits": 2,
		"enableTunneling": true, "ipConfigurations": []any{map[string]any{"name": "ipconf", "properties": map[string]any{
			"privateIPAllocationMethod": "Dynamic", "subnet": map[string]any{"id": subnet}, "publicIPAddress": map[string]any{"id": pip}}}}},
		map[string]any{"sku": map[string]any{"name": "Standard"}})
}

// ScaleSet is a uniform scale set.
type ScaleSet struct {
	OS         string
	Size       string
	Subnet     string
	NSG        string
	PrivateIPs []string // one instance for each
	Terminate  string   // notBeforeTimeout of the terminate notification, "PT5M"; empty: off
	ManagedBy  string
	Spot       bool
	Mode       string // upgrade policy: Manual (default), Automatic, Rolling
}

// ScaleSet adds a scale set with its instances and their NICs, and returns its id.
func (e *Estate) ScaleSet(name string, v ScaleSet) string {
	osName := or(v.OS, "Linux")
	ipc := map[string]any{"name": "ipconfig1", "properties": map[string]any{"primary": true, "subnet": map[string]any{"id": v.Subnet}, "privateIPAddressVersion": "IPv4"}}
	nicModel := map[string]any{"name": "nic", "properties": map[string]any{"primary": true, "enableIPForwarding": false, "dnsSettings": map[string]any{"dnsServers": []any{}}, "ipConfigurations": []any{ipc}}}
	if v.NSG != "" {
		nicModel["properties"].(map[string]any)["networkSecurityGroup"] = map[string]any{"id": v.NSG}
	}
	profile := map[string]any{"osProfile": map[string]any{"computerNamePrefix": name, "adminUsername": "operator"}, "storageProfile": storage(name, osName),
		"networkProfile": map[string]any{"networkInterfaceConfigurations": []any{nicModel}}}
	if v.Terminate != "" {
		profile["scheduledEventsProfile"] = map[string]any{"terminateNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": v.Terminate}}
	}
	if v.Spot {
		profile["priority"], profile["evictionPolicy"] = "Spot", "Deallocate"
	}
	sku := map[string]any{"name": or(v.Size, "Standard_D2s_v5"), "tier": "Standard", "capacity": len(v.PrivateIPs)}
	more := map[string]any{"sku": sku}
	if v.ManagedBy != "" {
		more["managedBy"] = v.ManagedBy
	}
	id := e.ID("Microsoft.Compute/virtualMachineScaleSets", name)
	e.resource("Microsoft.Compute/virtualMachineScaleSets", name, map[string]any{"orchestrationMode": "Uniform", "uniqueId": guid(id), "overprovision": false,
		"singlePlacementGroup": true, "timeCreated": "2026-03-02T08:15:27.4821930+00:00", "upgradePolicy": map[string]any{"mode": or(v.Mode, "Manual")},
		"virtualMachineProfile": profile}, more)
	for i, ip := range v.PrivateIPs {
		vm := fmt.Sprintf("%s/virtualMachines/%d", id, i)
		nic := vm + "/networkInterfaces/nic"
		props := map[string]any{"latestModelApplied": true, "vmId": guid(vm), "hardwareProfile": map[string]any{}, "storageProfile": storage(fmt.Sprintf("%s_%d", name, i), osName),
			"osProfile": osProfile(fmt.Sprintf("%s%06d", name, i), osName), "networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": nic}}},
			"networkProfileConfiguration": map[string]any{"networkInterfaceConfigurations": []any{nicModel}}}
		if p := profile["scheduledEventsProfile"]; p != nil {
			props["scheduledEventsProfile"] = p
		}
		e.put(map[string]any{"id": vm, "name": fmt.Sprintf("%s_%d", name, i), "instanceId": fmt.Sprint(i), "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
			"location": e.location, "sku": sku, "properties": props})
		nicProps := map[string]any{"primary": true, "enableIPForwarding": false, "virtualMachine": map[string]any{"id": vm}, "ipConfigurations": []any{map[string]any{
			"name": "ipconfig1", "id": nic + "/ipConfigurations/ipconfig1", "properties": map[string]any{"primary": true, "privateIPAddress": ip, "privateIPAllocationMethod": "Dynamic",
				"privateIPAddressVersion": "IPv4", "subnet": map[string]any{"id": v.Subnet}}}}}
		if v.NSG != "" {
			nicProps["networkSecurityGroup"] = map[string]any{"id": v.NSG}
		}
		e.put(map[string]any{"id": nic, "name": "nic", "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces", "properties": nicProps})
	}
	return id
}

// AdminRule is a security admin rule of Virtual Network Manager: inbound TCP.
type AdminRule struct {
	Name     string
	Priority int
	Access   string // Allow, AlwaysAllow or Deny
	Source   string // prefix or service tag
	Port     string
}

// AdminRules makes admin rules effective on a virtual network.
func (e *Estate) AdminRules(vnet string, rules ...AdminRule) {
	e.must(vnet)
	manager := e.ID("Microsoft.Network/networkManagers", "estate-manager")
	collection := manager + "/securityAdminConfigurations/baseline/ruleCollections/management-ports"
	var value []any
	for _, r := range rules {
		kind := "IPPrefix"
		if !strings.ContainsAny(r.Source, "./:*") {
			kind = "ServiceTag"
		}
		value = append(value, map[string]any{"kind": "Custom", "id": collection + "/rules/" + r.Name,
			"configurationDescription": "Baseline of the platform team", "ruleCollectionDescription": "Management ports",
			"ruleCollectionAppliesToGroups": []any{map[string]any{"networkGroupId": manager + "/networkGroups/all"}},
			"ruleGroups":                    []any{map[string]any{"id": manager + "/networkGroups/all", "properties": map[string]any{"description": "All networks", "memberType": "VirtualNetwork", "provisioningState": "Succeeded"}}},
			"properties": map[string]any{"access": r.Access, "direction": "Inbound", "priority": r.Priority, "protocol": "Tcp", "sourcePortRanges": []any{"0-65535"},
				"destinationPortRanges": []any{r.Port}, "sources": []any{map[string]any{"addressPrefix": r.Source, "addressPrefixType": kind}},
				"destinations": []any{map[string]any{"addressPrefix": "*", "addressPrefixType": "IPPrefix"}}, "provisioningState": "Succeeded", "resourceGuid": guid(r.Name)}})
	}
	e.put(map[string]any{"id": vnet + "/networkManagerEffectiveSecurityAdminRules/default", "name": "default",
		"type": "Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules", "properties": map[string]any{"value": value}})
}

// JITPort is a port that a just-in-time policy protects.
type JITPort struct {
	VM      string // id
	Number  int
	Source  string // who may ask
	Longest string // for how long, ISO 8601
}

// JITPolicy adds a just-in-time policy of Defender in the current group and location. It writes no rules: those stand in the groups.
func (e *Estate) JITPolicy(name string, ports ...JITPort) string {
	var vms []any
	for _, p := range ports {
		vms = append(vms, map[string]any{"id": p.VM, "ports": []any{map[string]any{"number": p.Number, "protocol": "*", "allowedSourceAddressPrefix": p.Source,
			"maxRequestAccessDuration": p.Longest}}})
	}
	typ := "Microsoft.Security/locations/" + e.location + "/jitNetworkAccessPolicies"
	id := e.ID(typ, name)
	e.put(map[string]any{"id": id, "name": name, "type": "Microsoft.Security/locations/jitNetworkAccessPolicies", "kind": "Basic", "location": e.location,
		"properties": map[string]any{"virtualMachines": vms, "requests": []any{}, "provisioningState": "Succeeded"}})
	return id
}

// Lock puts a management lock (CanNotDelete or ReadOnly) on any id.
func (e *Estate) Lock(scope, name, level string) {
	e.put(map[string]any{"id": scope + "/providers/Microsoft.Authorization/locks/" + name, "name": name, "type": "Microsoft.Authorization/locks",
		"properties": map[string]any{"level": level, "notes": "set by the estate"}})
}

// JSON is the estate as the simulator would dump it: complete bodies, with default rules, ids, etags and back-references. It is the same
// for the same calls.
func (e *Estate) JSON() []byte {
	data, err := json.Marshal(map[string]any{"resources": e.resources})
	if err != nil {
		panic("estates: " + err.Error())
	}
	s, err := sim.New(sim.Config{Estate: data, Seed: 1})
	if err != nil {
		panic("estates: " + err.Error())
	}
	return s.Dump()
}

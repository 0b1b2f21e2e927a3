package sim_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/testkit"
)

const netProvider = group + "/providers/Microsoft.Network/"

func vnetBody(prefix string, subnets ...string) map[string]any {
	list := []any{}
	for _, s := range subnets {
		name, p, _ := strings.Cut(s, "=")
		list = append(list, map[string]any{"name": name, "properties": map[string]any{"addressPrefix": p}})
	}
	return map[string]any{"location": "westeurope", "properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{prefix}}, "subnets": list}}
}

func TestSubnetValidation(t *testing.T) {
	a := newAz(t, sim.Config{})
	v := netProvider + "virtualNetworks/v"
	a.fails(400, "NetcfgInvalidSubnet", "PUT", v, vnetBody("10.0.0.0/16", "a=10.1.0.0/24"))
	a.fails(400, "NetcfgInvalidSubnet", "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.0/15"))
	a.fails(400, "NetcfgSubnetRangesOverlap", "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.0/24", "b=10.0.0.128/25"))
	a.fails(400, "InvalidCIDRNotation", "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.1/24"))
	a.fails(400, "InvalidAddressPrefixFormat", "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.0"))
	a.fails(400, "InvalidAddressPrefixFormat", "PUT", v, vnetBody("ten", "a=10.0.0.0/24"))
	a.fails(400, "InvalidRequestFormat", "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.0/24", "A=10.0.1.0/24"))
	a.do(201, "PUT", v, vnetBody("10.0.0.0/16", "a=10.0.0.0/24"))
	a.fails(400, "NetcfgSubnetRangesOverlap", "PUT", v+"/subnets/b", map[string]any{"properties": map[string]any{"addressPrefix": "10.0.0.0/25"}})

	nic := func(address string) map[string]any {
		return map[string]any{"location": "westeurope", "properties": map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{
			"subnet": map[string]any{"id": v + "/subnets/a"}, "privateIPAllocationMethod": "Static", "privateIPAddress": address}}}}}
	}
	n := netProvider + "networkInterfaces/"
	a.fails(400, "PrivateIPAddressNotInSubnet", "PUT", n+"one", nic("10.0.1.4"))
	a.fails(400, "PrivateIPAddressInReservedRange", "PUT", n+"one", nic("10.0.0.3"))
	a.do(201, "PUT", n+"one", nic("10.0.0.9"))
	a.do(200, "PUT", n+"one", nic("10.0.0.9"))
	a.fails(400, "PrivateIPAddressInUse", "PUT", n+"two", nic("10.0.0.9"))
	a.fails(400, "InUseSubnetCannotBeDeleted", "DELETE", v, nil)
	a.fails(400, "InUseSubnetCannotBeDeleted", "DELETE", v+"/subnets/a", nil)
}

func TestPeerings(t *testing.T) {
	a := newAz(t, sim.Config{})
	v := netProvider + "virtualNetworks/"
	a.do(201, "PUT", v+"a", vnetBody("10.0.0.0/16", "s=10.0.0.0/24"))
	a.do(201, "PUT", v+"b", vnetBody("10.1.0.0/16"))
	a.do(201, "PUT", v+"c", vnetBody("10.0.128.0/17"))
	to := func(name string) map[string]any {
		return map[string]any{"properties": map[string]any{"remoteVirtualNetwork": map[string]any{"id": v + name}, "useRemoteGateways": false}}
	}
	state := func(path string) any {
		a.t.Helper()
		return at(a.do(200, "GET", v+path, nil).body, "properties", "peeringState")
	}
	a.fails(400, "InvalidResourceReference", "PUT", v+"a/virtualNetworkPeerings/x", to("none"))
	a.fails(400, "VnetAddressSpacesOverlap", "PUT", v+"a/virtualNetworkPeerings/c", to("c"))
	r := a.do(201, "PUT", v+"a/virtualNetworkPeerings/b", to("b"))
	if at(r.body, "properties", "peeringState") != "Initiated" || at(r.body, "properties", "remoteAddressSpace", "addressPrefixes", 0) != "10.1.0.0/16" || at(r.body, "properties", "allowVirtualNetworkAccess") != true {
		t.Errorf("got %s", r.raw)
	}
	a.do(201, "PUT", v+"b/virtualNetworkPeerings/a", to("a"))
	if state("a/virtualNetworkPeerings/b") != "Connected" || state("b/virtualNetworkPeerings/a") != "Connected" {
		t.Error("two sides do not make a connection")
	}
	a.do(202, "DELETE", v+"b/virtualNetworkPeerings/a", nil)
	if got := state("a/virtualNetworkPeerings/b"); got != "Disconnected" {
		t.Errorf("got %v after the other side went", got)
	}
	// Writing the network again keeps the peering with a network that has gone.
	a.do(202, "DELETE", v+"b", nil)
	whole := a.do(200, "GET", v+"a", nil)
	a.do(200, "PUT", v+"a", whole.body)
	a.do(202, "DELETE", v+"a/virtualNetworkPeerings/b", nil)
	a.do(204, "DELETE", v+"a/virtualNetworkPeerings/b", nil)
}

func TestRoutesAndFirewalls(t *testing.T) {
	a := newAz(t, sim.Config{})
	rt := netProvider + "routeTables/rt"
	route := func(prefix, hop, address string) map[string]any {
		p := map[string]any{"addressPrefix": prefix, "nextHopType": hop}
		if address != "" {
			p["nextHopIpAddress"] = address
		}
		return map[string]any{"properties": p}
	}
	a.do(201, "PUT", rt, map[string]any{"location": "westeurope", "properties": map[string]any{}})
	a.fails(400, "InvalidNextHopIpAddress", "PUT", rt+"/routes/x", route("0.0.0.0/0", "VirtualAppliance", ""))
	a.fails(400, "RouteNextHopIpAddressNotAllowed", "PUT", rt+"/routes/x", route("0.0.0.0/0", "Internet", "10.0.0.4"))
	a.fails(400, "InvalidRequestFormat", "PUT", rt+"/routes/x", route("0.0.0.0/0", "Teleport", ""))
	a.fails(400, "InvalidCIDRNotation", "PUT", rt+"/routes/x", route("10.0.0.1/8", "None", ""))
	r := a.do(201, "PUT", rt+"/routes/x", route("0.0.0.0/0", "virtualappliance", "10.0.0.4"))
	if at(r.body, "properties", "nextHopType") != "VirtualAppliance" {
		t.Errorf("got %s", r.raw)
	}
	a.fails(400, "RouteConflict", "PUT", rt+"/routes/y", route("0.0.0.0/0", "None", ""))
	a.do(201, "PUT", rt+"/routes/tag", route("AzureCloud", "Internet", ""))
	a.do(202, "DELETE", rt+"/routes/x", nil)

	v := netProvider + "virtualNetworks/v"
	a.do(201, "PUT", v, vnetBody("10.0.0.0/16", "AzureFirewallSubnet=10.0.0.0/26", "other=10.0.1.0/24"))
	fw := func(subnet string, priorities ...int) map[string]any {
		nat := []any{}
		for i, p := range priorities {
			nat = append(nat, map[string]any{"name": fmt.Sprint("c", i), "properties": map[string]any{"priority": p, "action": map[string]any{"type": "Dnat"}, "rules": []any{}}})
		}
		return map[string]any{"location": "westeurope", "properties": map[string]any{"natRuleCollections": nat, "ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": v + "/subnets/" + subnet}}}}}}
	}
	f := netProvider + "azureFirewalls/f"
	a.fails(400, "SubnetNameNotValid", "PUT", f, fw("other"))
	a.fails(400, "AzureFirewallRuleCollectionInvalidPriority", "PUT", f, fw("AzureFirewallSubnet", 99))
	a.fails(400, "AzureFirewallRuleCollectionsWithSamePriority", "PUT", f, fw("AzureFirewallSubnet", 200, 200))
	a.do(201, "PUT", f, fw("AzureFirewallSubnet", 200, 201))
	a.do(202, "DELETE", f, nil)
}

// The tag VirtualNetwork holds the network, its connected peers, and what lies behind gateways (FACTS 2.1).
func TestVirtualNetworkTag(t *testing.T) {
	a := newAz(t, sim.Config{})
	v := netProvider + "virtualNetworks/"
	a.do(201, "PUT", v+"spoke", vnetBody("10.0.0.0/16", "s=10.0.0.0/24"))
	a.do(201, "PUT", v+"hub", vnetBody("10.1.0.0/16", "GatewaySubnet=10.1.255.0/27"))
	a.do(201, "PUT", netProvider+"localNetworkGateways/hq", map[string]any{"location": "westeurope", "properties": map[string]any{"gatewayIpAddress": "203.0.113.1", "localNetworkAddressSpace": map[string]any{"addressPrefixes": []string{"172.20.0.0/16"}}}})
	gw := netProvider + "virtualNetworkGateways/gw"
	a.do(201, "PUT", gw, map[string]any{"location": "westeurope", "properties": map[string]any{"gatewayType": "Vpn", "ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": v + "hub/subnets/GatewaySubnet"}}}}}})
	a.do(201, "PUT", netProvider+"connections/c", map[string]any{"location": "westeurope", "properties": map[string]any{"connectionType": "IPsec", "virtualNetworkGateway1": map[string]any{"id": gw}, "localNetworkGateway2": map[string]any{"id": netProvider + "localNetworkGateways/hq"}}})
	nsg := nsgBody(rule("in", 200, "sourceAddressPrefix", "Internet"), rule("sql", 210, "sourceAddressPrefix", "Sql"))
	a.do(201, "PUT", nsgID, nsg)
	nic := netProvider + "networkInterfaces/n"
	a.do(201, "PUT", nic, map[string]any{"location": "westeurope", "properties": map[string]any{"networkSecurityGroup": map[string]any{"id": nsgID},
		"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": v + "spoke/subnets/s"}}}}}})
	a.fails(400, "NetworkInterfaceNotAttachedToRunningVirtualMachine", "POST", nic+"/effectiveNetworkSecurityGroups", nil)
	a.do(201, "PUT", group+"/providers/Microsoft.Compute/virtualMachines/m", map[string]any{"location": "westeurope", "properties": map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": nic}}}}})
	tags := func() (map[string]any, []any) {
		a.t.Helper()
		r := a.do(202, "POST", nic+"/effectiveNetworkSecurityGroups", nil)
		b := a.do(200, "GET", r.header.Get("Location"), nil).body
		m, _ := at(b, "value", 0, "tagMap").(map[string]any)
		return m, list(at(b, "value", 0, "effectiveSecurityRules"))
	}
	m, rules := tags()
	if got := fmt.Sprint(m["VirtualNetwork"]); got != "[10.0.0.0/16 168.63.129.16/32]" {
		t.Errorf("alone: got %s", got)
	}
	if at(rules[0], "expandedSourceAddressPrefix") == nil || at(rules[1], "expandedSourceAddressPrefix") != nil || m["Sql"] != nil {
		t.Errorf("got %v, want Internet expanded, and Sql, whose prefixes nobody here knows, not", rules[:2])
	}
	a.do(201, "PUT", v+"spoke/virtualNetworkPeerings/hub", map[string]any{"properties": map[string]any{"remoteVirtualNetwork": map[string]any{"id": v + "hub"}, "useRemoteGateways": true}})
	m, _ = tags()
	if got := fmt.Sprint(m["VirtualNetwork"]); got != "[10.0.0.0/16 168.63.129.16/32]" {
		t.Errorf("a peering with one side: got %s", got)
	}
	a.do(201, "PUT", v+"hub/virtualNetworkPeerings/spoke", map[string]any{"properties": map[string]any{"remoteVirtualNetwork": map[string]any{"id": v + "spoke"}, "allowGatewayTransit": true}})
	m, _ = tags()
	if got := fmt.Sprint(m["VirtualNetwork"]); got != "[10.0.0.0/16 10.1.0.0/16 172.20.0.0/16 168.63.129.16/32]" {
		t.Errorf("peered, with the peer's gateway: got %s", got)
	}
	for _, probe := range []struct {
		address string
		in      bool
	}{{"1.1.1.1", true}, {"203.0.113.9", true}, {"10.200.0.1", false}, {"172.20.1.1", false}, {"192.168.1.1", false}, {"168.63.129.16", false}, {"168.63.129.17", true}, {"224.0.0.1", false}, {"0.0.0.1", false}} {
		n := 0
		for _, p := range list(m["Internet"]) {
			if netip.MustParsePrefix(p.(string)).Contains(netip.MustParseAddr(probe.address)) {
				n++
			}
		}
		if (n == 1) != probe.in || n > 1 {
			t.Errorf("%s is in %d prefixes of Internet", probe.address, n)
		}
	}
}

// effectiveNetworkSecurityGroups against the recorded answer.
func TestEffectiveRulesRecording(t *testing.T) {
	data, err := os.ReadFile(testkit.Shared(t, "azure", "recordings", "network", "test_network_nic_convenience_commands.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var c cassette
	if err := yaml.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	for _, x := range c.Interactions {
		if b := bodyText(x.Response.Body); strings.Contains(b, "effectiveSecurityRules") {
			if err := json.Unmarshal([]byte(b), &want); err != nil {
				t.Fatal(err)
			}
		}
	}
	nsg, _ := at(want, "value", 0, "networkSecurityGroup", "id").(string)
	nic, _ := at(want, "value", 0, "association", "networkInterface", "id").(string)
	if nsg == "" || nic == "" {
		t.Fatalf("nothing recorded: %v", want)
	}
	base := nic[:strings.Index(nic, "/providers/")]
	a := newAz(t, sim.Config{Estate: []byte(`{"resources":[{"id":"` + base + `","location":"westus"}]}`)})
	v := base + "/providers/Microsoft.Network/virtualNetworks/v"
	a.do(201, "PUT", nsg, nsgBody())
	a.do(201, "PUT", v, vnetBody("10.0.0.0/16", "s=10.0.0.0/24"))
	a.do(201, "PUT", nic, map[string]any{"location": "westeurope", "properties": map[string]any{"networkSecurityGroup": map[string]any{"id": nsg},
		"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": v + "/subnets/s"}}}}}})
	a.do(201, "PUT", base+"/providers/Microsoft.Compute/virtualMachines/m", map[string]any{"location": "westeurope", "properties": map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": nic}}}}})
	r := a.do(202, "POST", nic+"/effectiveNetworkSecurityGroups", nil)
	got := a.do(200, "GET", r.header.Get("Location"), nil).body
	// The prefixes of Internet are Azure's own list of the day; ours is all public space.
	cut := func(b map[string]any) {
		value := at(b, "value", 0).(map[string]any)
		delete(value["tagMap"].(map[string]any), "Internet")
		for _, x := range list(value["effectiveSecurityRules"]) {
			if at(x, "destinationAddressPrefix") == "Internet" {
				delete(x.(map[string]any), "expandedDestinationAddressPrefix")
			}
		}
	}
	cut(want)
	cut(got)
	diff(func(where, format string, args ...any) { t.Errorf("%s: %s", where, fmt.Sprintf(format, args...)) }, "", want, got)
	if names := list(at(got, "value", 0, "effectiveSecurityRules")); len(names) != 6 || !slices.ContainsFunc(names, func(x any) bool { return at(x, "name") == "defaultSecurityRules/DenyAllInBound" }) {
		t.Errorf("got %v", names)
	}
}

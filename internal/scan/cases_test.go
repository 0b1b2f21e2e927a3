package scan_test

import (
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

const (
	jitDeny  = "MicrosoftDefenderForCloud-JITRule_-1151891693_545C5DBC675443D3BF179EFD1EF8254D"
	jitAllow = "MicrosoftDefenderForCloud-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C370"
	oldAllow = "SecurityCenter-JITRule--70687618-8C18BF8921F041989344B4F1E3A0C370"
	liveName = "curfew-allow-demo-abc-20261126T130000Z"
	longName = "curfew-allow-demo-abc-20271126T130000Z"
	pastName = "curfew-allow-demo-abc-20261126T110000Z"
)

func single(nsg, public string, rules ...string) func(w *world) {
	return func(w *world) {
		id := ""
		if nsg != "" {
			id = w.nsg(nsg, rules...)
		}
		w.vm("web", 4, id, public)
	}
}

func set(profile obj, more ...obj) func(w *world) {
	return func(w *world) {
		s := w.scaleSet("set", profile, more...)
		s["sku"] = obj{"capacity": 1}
	}
}

func withInstance(profile obj, latest any) func(w *world) {
	return func(w *world) {
		w.scaleSet("set", profile)
		w.instance("set", "0", true)
		w.instance("set", "7", latest)
	}
}

func flexible(profile, vm obj) func(w *world) {
	return func(w *world) {
		props(w.scaleSet("set", profile))["orchestrationMode"] = "Flexible"
		m := w.vm("set_1", 4, "", "")
		props(m)["virtualMachineScaleSet"] = obj{"id": root + "microsoft.compute/virtualmachinescalesets/SET"}
		for k, v := range vm {
			props(m)[k] = v
		}
	}
}

func guarded(state string, ports []obj, rules ...string) func(w *world) {
	return func(w *world) {
		w.vm("web", 4, w.nsg("web-nsg", rules...), "20.1.2.3")
		w.policy("default", vmID("web"), state, ports...)
	}
}

// routed is a machine with a public address, in a subnet whose traffic a route leads elsewhere.
func routed(prefix string, rules ...string) func(w *world) {
	return func(w *world) {
		single("web-nsg", "20.1.2.3", rules...)(w)
		w.put("Microsoft.Network/routeTables/way-out", obj{"routes": []obj{{"name": "out", "properties": obj{"addressPrefix": prefix, "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.9.4"}}}})
		subnet := props(w.at["Microsoft.Network/virtualNetworks/net"])["subnets"].([]obj)[0]
		props(subnet)["routeTable"] = obj{"id": root + "Microsoft.Network/routeTables/way-out"}
	}
}

func lone(rules ...string) func(w *world) {
	return func(w *world) { w.nsg("lone", rules...) }
}

// bareOf takes the properties from a body of an open machine.
func bareOf(path string) func(w *world) {
	return func(w *world) {
		w.vm("web", 4, w.nsg("web-nsg", "allow-ssh 300 Allow Tcp * * 22"), "20.1.2.3")
		delete(w.at[path], "properties")
	}
}

var (
	hourly = []obj{jitPort(22, "203.0.113.0/24", "PT1H")}
	broken = obj{"networkProfile": obj{"networkInterfaces": []obj{{"id": root + "Microsoft.Network/networkInterfaces/gone"}}}}
)

var cases = map[scan.RuleID][]jcase{
	scan.VMPortExposed: {
		{"open to everybody", single("web-nsg", "20.1.2.3", "allow-ssh 300 Allow Tcp 0.0.0.0/0 * 22"), scan.Options{}},
		{"by tag, by range, protocol in any case", single("web-nsg", "20.1.2.3", "allow-admin 300 Allow TCP internet * 3000-6000"), scan.Options{}},
		{"two halves of the Internet", single("web-nsg", "20.1.2.3", "low 300 Allow * 0.0.0.0/1 * 22", "high 310 Allow * 128.0.0.0/1 * 22"), scan.Options{}},
		{"more than a /8 by several rules", single("web-nsg", "20.1.2.3", "a 300 Allow Tcp 20.0.0.0/9 * 22", "b 310 Allow Tcp 52.0.0.0/9 * 22", "c 320 Allow Tcp 104.0.0.0/9 * 22"), scan.Options{}},
		{"more than a /8 in union", single("web-nsg", "20.1.2.3", "ranges 300 Allow Tcp 20.0.0.0/9,52.0.0.0/9,104.0.0.0/9 * 22"), scan.Options{}},
		{"a /8 is tolerated", single("web-nsg", "20.1.2.3", "range 300 Allow Tcp 20.0.0.0/8 * 22"), scan.Options{}},
		{"AzureCloud is anybody's", single("web-nsg", "20.1.2.3", "cloud 300 Allow Tcp AzureCloud.westeurope * 22"), scan.Options{}},
		{"a tag that only its service sends from", single("web-nsg", "20.1.2.3", "devops 300 Allow Tcp AzureDevOps * 22"), scan.Options{}},
		{"denied before", single("web-nsg", "20.1.2.3", "no 200 Deny * * * 22", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"denied after", single("web-nsg", "20.1.2.3", "allow-ssh 300 Allow Tcp * * 22", "no 400 Deny * * * 22"), scan.Options{}},
		{"UDP alone", single("web-nsg", "20.1.2.3", "udp 300 Allow Udp * * 22"), scan.Options{}},
		{"another machine's address", single("web-nsg", "20.1.2.3", "allow-ssh 300 Allow Tcp * 10.0.0.99 22"), scan.Options{}},
		{"no public path", single("web-nsg", "", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"Standard without a group is shut", single("", "20.1.2.3"), scan.Options{}},
		{"a NAT rule of a firewall", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg"), "")
			net := props(w.at["Microsoft.Network/virtualNetworks/net"])
			net["subnets"] = append(net["subnets"].([]obj), obj{"name": "AzureFirewallSubnet", "properties": obj{"addressPrefix": "10.0.9.0/26"}})
			w.put("Microsoft.Network/azureFirewalls/edge", obj{
				"ipConfigurations": []obj{{"name": "ip", "properties": obj{"subnet": obj{"id": root + "Microsoft.Network/virtualNetworks/net/subnets/AzureFirewallSubnet"}}}},
				"natRuleCollections": []obj{{"name": "nc", "properties": obj{"priority": 100, "action": obj{"type": "Dnat"}, "rules": []obj{{"name": "ssh-web", "protocols": []string{"TCP"},
					"sourceAddresses": []string{"*"}, "destinationAddresses": []string{"20.9.9.9"}, "destinationPorts": []string{"2222"}, "translatedAddress": "10.0.0.4", "translatedPort": "22"}}}}}})
		}, scan.Options{}},
		{"a route for all addresses", routed("0.0.0.0/0"), scan.Options{}},
		{"a route for all addresses, and a rule that denies them", routed("0.0.0.0/0", "no 400 Deny * * * *"), scan.Options{}},
		{"a route for all addresses, and a rule that allows them", routed("0.0.0.0/0", "ssh 400 Allow Tcp Internet * 22", "all 410 Allow Tcp * * 22"), scan.Options{}},
		{"a route for named public addresses", routed("20.0.0.0/8"), scan.Options{}},
		{"Basic without a group is open", single("", "basic:20.1.2.3"), scan.Options{}},
		{"ports of one's own", single("web-nsg", "20.1.2.3", "allow 300 Allow Tcp * * 2222"), scan.Options{Ports: []uint16{2222}}},
		{"a live grant is no exposure", single("web-nsg", "20.1.2.3", liveName+" 100 Allow Tcp * 10.0.0.4 22", deny22), scan.Options{}},
		{"a live grant of an installation that does not protect the port", single("web-nsg", "20.1.2.3", "curfew-allow-other-abc-20261126T130000Z 100 Allow Tcp * 10.0.0.4 22", deny22), scan.Options{}},
		{"a live grant of another port's protection", single("web-nsg", "20.1.2.3", liveName+" 100 Allow Tcp * 10.0.0.4 22", "curfew-deny-demo-tcp-3389 200 Deny * * 10.0.0.4 3389"), scan.Options{}},
		{"a live grant of another machine's protection", single("web-nsg", "20.1.2.3", liveName+" 100 Allow Tcp * 10.0.0.4 22", "curfew-deny-demo-tcp-22 200 Deny * * 10.0.0.5 22"), scan.Options{}},
		{"a grant's name and nothing else", single("web-nsg", "20.1.2.3", liveName+" 100 Allow Tcp * 10.0.0.4 22"), scan.Options{}},
		{"a grant past its end is one", single("web-nsg", "20.1.2.3", pastName+" 100 Allow Tcp * 10.0.0.4 22", deny22), scan.Options{}},
		{"a live request of Defender", func(w *world) {
			guarded("Succeeded", hourly, jitAllow+" 100 Allow * * 10.0.0.4 22", jitDeny+" 1000 Deny * * 10.0.0.4 22")(w)
			props(w.at["Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"])["requests"] = request(vmID("WEB"), 22, "*", day(11, 30), day(12, 30), "Initiated")
		}, scan.Options{}},
		{"a revoked request of Defender", func(w *world) {
			guarded("Succeeded", hourly, jitAllow+" 100 Allow * * 10.0.0.4 22", jitDeny+" 1000 Deny * * 10.0.0.4 22")(w)
			props(w.at["Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"])["requests"] = request(vmID("web"), 22, "*", day(11, 30), day(12, 30), "Revoked")
		}, scan.Options{}},
		{"a foreign allow behind a live grant", single("web-nsg", "20.1.2.3", liveName+" 100 Allow Tcp 203.0.113.9 10.0.0.4 22", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"owned by AKS", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg", "allow-ssh 300 Allow Tcp * * 22"), "20.1.2.3", obj{"managedBy": "/subscriptions/x/resourceGroups/y/providers/Microsoft.ContainerService/managedClusters/z"})
		}, scan.Options{}},
		{"a group that is not there", single("web-nsg", "20.1.2.3"), scan.Options{}},
		{"a dangling group", func(w *world) { w.vm("web", 4, root+"Microsoft.Network/networkSecurityGroups/gone", "20.1.2.3") }, scan.Options{}},
		{"a dangling interface", func(w *world) {
			m := w.vm("web", 4, w.nsg("web-nsg"), "")
			props(m)["networkProfile"] = broken["networkProfile"]
		}, scan.Options{}},
		{"a dangling public address", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg", "allow-ssh 300 Allow Tcp * * 22"), "")
			w.config("web")["publicIPAddress"] = obj{"id": root + "Microsoft.Network/publicIPAddresses/gone"}
		}, scan.Options{}},
		{"a dangling public address behind a shut group", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg"), "")
			w.config("web")["publicIPAddress"] = obj{"id": root + "Microsoft.Network/publicIPAddresses/gone"}
		}, scan.Options{}},
		{"a machine without properties", func(w *world) { delete(w.vm("web", 4, w.nsg("web-nsg"), ""), "properties") }, scan.Options{}},
		{"a machine without a list of interfaces", func(w *world) { delete(props(w.vm("web", 4, w.nsg("web-nsg"), "")), "networkProfile") }, scan.Options{}},
		{"an interface without properties", bareOf("Microsoft.Network/networkInterfaces/web-nic"), scan.Options{}},
		{"a group without properties", bareOf("Microsoft.Network/networkSecurityGroups/web-nsg"), scan.Options{}},
		{"a live request of Defender, for less than its rule lets in", func(w *world) {
			guarded("Succeeded", hourly, jitAllow+" 100 Allow * * 10.0.0.4 22", jitDeny+" 1000 Deny * * 10.0.0.4 22")(w)
			props(w.at["Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"])["requests"] = request(vmID("WEB"), 22, "203.0.113.9", day(11, 30), day(12, 30), "Initiated")
		}, scan.Options{}},
		{"a grant that ends later than any grant can", single("web-nsg", "20.1.2.3", longName+" 100 Allow Tcp * 10.0.0.4 22", deny22), scan.Options{}},
	},
	scan.VMJITMissing: {
		{"nothing protects SSH on Linux", single("web-nsg", "20.1.2.3", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"a private machine is judged", single("web-nsg", ""), scan.Options{}},
		{"shut, but for good", single("web-nsg", "20.1.2.3", "no 200 Deny * * * *"), scan.Options{}},
		{"RDP on Windows", func(w *world) { w.windows(w.vm("web", 4, w.nsg("web-nsg"), "")) }, scan.Options{}},
		{"Defender protects it, in another case", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg"), "")
			w.policy("other-group", "/SUBSCRIPTIONS/11111111-2222-3333-4444-555555555555/RESOURCEGROUPS/SHOP/providers/MICROSOFT.COMPUTE/virtualmachines/WEB", "Succeeded", hourly...)
		}, scan.Options{}},
		{"Defender protects another port", guarded("Succeeded", []obj{jitPort(3389, "10.1.2.3", "PT1H")}), scan.Options{}},
		{"Defender protects SSH, and RDP is open", guarded("Succeeded", hourly, "allow-rdp 300 Allow Tcp * * 3389"), scan.Options{}},
		{"a policy that failed to provision", guarded("Failed", hourly), scan.Options{}},
		{"a policy that is being changed", guarded("Updating", hourly), scan.Options{}},
		{"a policy that is being changed, and a rule of ours", guarded("Updating", hourly, deny22), scan.Options{}},
		{"a policy that is being changed, and another", func(w *world) {
			guarded("Updating", hourly)(w)
			w.policy("second", vmID("web"), "Succeeded", hourly...)
		}, scan.Options{}},
		{"a policy without ports", guarded("Succeeded", nil), scan.Options{}},
		{"a policy of UDP", guarded("Succeeded", []obj{{"number": 22, "protocol": "UDP", "allowedSourceAddressPrefix": "*", "maxRequestAccessDuration": "PT1H"}}), scan.Options{}},
		{"a policy with protocol *", guarded("Succeeded", []obj{{"number": 22, "protocol": "*", "allowedSourceAddressPrefix": "*", "maxRequestAccessDuration": "PT1H"}}), scan.Options{}},
		{"the policy of a machine that is gone", func(w *world) { single("web-nsg", "")(w); w.policy("default", vmID("gone"), "Succeeded", hourly...) }, scan.Options{}},
		{"null lists", func(w *world) {
			single("web-nsg", "")(w)
			p := props(w.policy("default", vmID("web"), "Succeeded"))
			p["virtualMachines"], p["requests"] = nil, nil
		}, scan.Options{}},
		{"our protection", single("web-nsg", "20.1.2.3", deny22, "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"our protection of another machine", single("web-nsg", "", "curfew-deny-demo-tcp-22 200 Deny * * 10.0.0.5 22"), scan.Options{}},
		{"our protection of another port", single("web-nsg", "", "curfew-deny-demo-tcp-3389 200 Deny * * 10.0.0.4 3389"), scan.Options{}},
		{"a rule that only bears our name", single("web-nsg", "", "curfew-deny-demo-tcp-22 200 Allow * * 10.0.0.4 22"), scan.Options{}},
		{"our deny, narrowed by somebody", single("web-nsg", "", "curfew-deny-demo-tcp-22 200 Deny * 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"several installations", single("web-nsg", "", "curfew-deny-other-tcp-22 200 Deny * * 10.0.0.9 22", "curfew-deny-third-tcp-22 210 Deny Tcp * 10.0.0.4,10.0.0.5 22"), scan.Options{}},
		{"one of two addresses is protected", func(w *world) {
			single("web-nsg", "", deny22)(w)
			nic := props(w.at["Microsoft.Network/networkInterfaces/web-nic"])
			nic["ipConfigurations"] = append(nic["ipConfigurations"].([]obj), obj{"name": "two", "properties": obj{"privateIPAddress": "10.0.0.44", "subnet": obj{"id": root + "Microsoft.Network/virtualNetworks/net/subnets/a"}}})
		}, scan.Options{}},
		{"neither group nor firewall", single("", "20.1.2.3"), scan.Options{}},
		{"owned by AKS", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg"), "", obj{"id": "/subscriptions/s/resourceGroups/mc_shop_cluster_westeurope/providers/Microsoft.Compute/virtualMachines/web"})
		}, scan.Options{}},
		{"managed by a scale set", func(w *world) {
			w.vm("web", 4, w.nsg("web-nsg"), "", obj{"managedBy": root + "Microsoft.Compute/virtualMachineScaleSets/set"})
		}, scan.Options{}},
		{"no operating system", func(w *world) { props(w.vm("web", 4, w.nsg("web-nsg"), ""))["storageProfile"] = nil }, scan.Options{}},
		{"no operating system, both protected", func(w *world) {
			props(w.vm("web", 4, w.nsg("web-nsg", deny22, "curfew-deny-demo-tcp-3389 210 Deny * * 10.0.0.4 3389"), ""))["storageProfile"] = nil
		}, scan.Options{}},
		{"a dangling group", func(w *world) { w.vm("web", 4, root+"Microsoft.Network/networkSecurityGroups/gone", "") }, scan.Options{}},
		{"SSH is in use also where it is no port of the options", single("web-nsg", ""), scan.Options{Ports: []uint16{5985}}},
	},
	scan.VMJITIneffective: {
		{"not switched on", single("web-nsg", "20.1.2.3"), scan.Options{}},
		{"Defender's deny comes first", guarded("Succeeded", hourly, jitDeny+" 1000 Deny * * 10.0.0.4 22", "allow-ssh 1001 Allow Tcp * * 22"), scan.Options{}},
		{"Defender's deny comes last", guarded("Succeeded", hourly, "allow-ssh 300 Allow Tcp * * 22", jitDeny+" 4096 Deny * * 10.0.0.4 22"), scan.Options{}},
		{"a policy without a deny", guarded("Succeeded", hourly, "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"a policy without a deny, and nobody let in but the network", guarded("Succeeded", hourly), scan.Options{}},
		{"a policy that failed to provision", guarded("Failed", hourly), scan.Options{}},
		{"a policy that is being changed", guarded("Updating", hourly), scan.Options{}},
		{"a policy that is being changed, and a rule of ours", guarded("Updating", hourly, deny22), scan.Options{}},
		{"a policy that is being changed, and another", func(w *world) {
			guarded("Updating", hourly)(w)
			w.policy("second", vmID("web"), "Succeeded", hourly...)
		}, scan.Options{}},
		{"a policy and somebody's own deny", guarded("Succeeded", hourly, "no 200 Deny * * * 22"), scan.Options{}},
		{"a port that is no management port", guarded("Succeeded", []obj{jitPort(8443, "*", "PT1H")}, "web 300 Allow Tcp Internet * 8443"), scan.Options{}},
		{"our deny holds", single("web-nsg", "20.1.2.3", deny22, "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"our deny is bypassed from the network", single("web-nsg", "20.1.2.3", "jump 150 Allow Tcp 10.0.9.0/24 * 22", deny22), scan.Options{}},
		{"our deny is bypassed by a partner", single("web-nsg", "20.1.2.3", "partner 150 Allow Tcp 203.0.113.0/25 * 22", deny22), scan.Options{}},
		{"a named exemption for everybody", single("web-nsg", "20.1.2.3", "curfew-exempt-demo-bastion-tcp-22 150 Allow Tcp Internet 10.0.0.4 22", deny22), scan.Options{}},
		{"a named exemption", single("web-nsg", "20.1.2.3", "curfew-exempt-demo-bastion-tcp-22 150 Allow Tcp 10.0.9.0/24 10.0.0.4 22", deny22), scan.Options{}},
		{"a live grant", single("web-nsg", "20.1.2.3", liveName+" 150 Allow Tcp 203.0.113.9 10.0.0.4 22", deny22), scan.Options{}},
		{"a grant past its end", single("web-nsg", "20.1.2.3", pastName+" 150 Allow Tcp 203.0.113.9 10.0.0.4 22", deny22), scan.Options{}},
		{"an admin rule always allows", func(w *world) {
			guarded("Succeeded", hourly, jitDeny+" 1000 Deny * * 10.0.0.4 22")(w)
			w.admin("always", "AlwaysAllow", "203.0.113.128/25", "22")
		}, scan.Options{}},
		{"an admin rule allows, and the group denies", func(w *world) {
			guarded("Succeeded", hourly, jitDeny+" 1000 Deny * * 10.0.0.4 22")(w)
			w.admin("allow", "Allow", "*", "22")
		}, scan.Options{}},
		{"a range of ours, open at its end", single("web-nsg", "20.1.2.3", "last 150 Allow Tcp 10.0.9.0/24 * 8010", "curfew-deny-demo-tcp-8000-8010 200 Deny Tcp * 10.0.0.4 8000-8010"), scan.Options{}},
		{"a wide range of ours", single("web-nsg", "20.1.2.3", "curfew-deny-demo-tcp-1-65535 200 Deny Tcp * 10.0.0.4 1-65535"), scan.Options{}},
		{"an allow that is not understood", single("web-nsg", "20.1.2.3", "odd 150 Allow Tcp 10.0.9.0-10.0.9.9 * 22", deny22), scan.Options{}},
		{"no group at all", func(w *world) { single("", "20.1.2.3")(w); w.policy("default", vmID("web"), "Succeeded", hourly...) }, scan.Options{}},
	},
	scan.VMNoNSG: {
		{"a group on the interface", single("web-nsg", "20.1.2.3"), scan.Options{}},
		{"a group on the subnet", func(w *world) {
			single("", "20.1.2.3")(w)
			net := props(w.at["Microsoft.Network/virtualNetworks/net"])
			net["subnets"].([]obj)[0]["properties"].(obj)["networkSecurityGroup"] = obj{"id": w.nsg("subnet-nsg")}
		}, scan.Options{}},
		{"none, no public path", single("", ""), scan.Options{}},
		{"none, Standard address", single("", "20.1.2.3"), scan.Options{}},
		{"none, Basic address", single("", "basic:20.1.2.3"), scan.Options{}},
		{"none, Basic address, denied by an admin rule", func(w *world) { single("", "basic:20.1.2.3")(w); w.admin("deny", "Deny", "*", "0-65535") }, scan.Options{}},
		{"a dangling subnet", func(w *world) {
			single("", "20.1.2.3")(w)
			w.config("web")["subnet"] = obj{"id": root + "Microsoft.Network/virtualNetworks/gone/subnets/a"}
		}, scan.Options{}},
		{"a dangling interface", func(w *world) { props(w.vm("web", 4, "", ""))["networkProfile"] = broken["networkProfile"] }, scan.Options{}},
		{"a dangling subnet, and a group on the interface", func(w *world) {
			single("web-nsg", "20.1.2.3")(w)
			w.config("web")["subnet"] = obj{"id": root + "Microsoft.Network/virtualNetworks/gone/subnets/a"}
		}, scan.Options{}},
		{"no interface", func(w *world) { props(w.vm("web", 4, "", ""))["networkProfile"] = obj{"networkInterfaces": []obj{}} }, scan.Options{}},
		{"owned by AKS", func(w *world) { w.vm("web", 4, "", "", obj{"managedBy": "/x/y"}) }, scan.Options{}},
	},
	scan.VMSSTerminateOff: {
		{"no scheduledEventsProfile", set(obj{}), scan.Options{}},
		{"no profile", set(nil), scan.Options{}},
		{"switched off reads back as {}", set(obj{"scheduledEventsProfile": obj{}}), scan.Options{}},
		{"null", set(obj{"scheduledEventsProfile": nil}), scan.Options{}},
		{"enable: false", set(terminate(false, "PT5M")), scan.Options{}},
		{"enable is missing", set(terminate(nil, "PT5M")), scan.Options{}},
		{"the sibling alone", set(obj{"scheduledEventsProfile": obj{"osImageNotificationProfile": obj{"enable": true, "notBeforeTimeout": "PT15M"}}}), scan.Options{}},
		{"on without a time", set(terminate(true, "")), scan.Options{}},
		{"PT300S", set(terminate(true, "PT300S")), scan.Options{}},
		{"PT0H5M", set(terminate(true, "PT0H5M")), scan.Options{}},
		{"P0DT5M", set(terminate(true, "P0DT5M")), scan.Options{}},
		{"lower case", set(terminate(true, "pt15m")), scan.Options{}},
		{"too short", set(terminate(true, "PT4M59S")), scan.Options{}},
		{"too long", set(terminate(true, "PT15M1S")), scan.Options{}},
		{"hours", set(terminate(true, "P1D")), scan.Options{}},
		{"no duration", set(terminate(true, "5 minutes")), scan.Options{}},
		{"overflow", set(terminate(true, "PT9999999999999H")), scan.Options{}},
		{"instances on the model", withInstance(terminate(true, "PT10M"), true), scan.Options{}},
		{"an instance behind the model", withInstance(terminate(true, "PT10M"), false), scan.Options{}},
		{"an instance that does not say", withInstance(terminate(true, "PT10M"), nil), scan.Options{}},
		{"a set without properties", func(w *world) { delete(w.scaleSet("set", obj{}), "properties") }, scan.Options{}},
		{"a single machine without properties, asked for", func(w *world) { delete(w.vm("web", 4, "", ""), "properties") }, scan.Options{SingleVMs: true}},
		{"Spot", set(obj{"priority": "Spot"}), scan.Options{}},
		{"owned by AKS", set(obj{}, obj{"managedBy": "/subscriptions/x/resourceGroups/y/providers/Microsoft.ContainerService/managedClusters/z"}), scan.Options{}},
		{"Flexible, without a profile", flexible(nil, obj{}), scan.Options{}},
		{"Flexible, without a profile, its machine announces", flexible(nil, terminate(true, "PT5M")), scan.Options{}},
		{"Flexible, with a profile, its machine does not", flexible(terminate(true, "PT5M"), obj{"scheduledEventsProfile": obj{}}), scan.Options{}},
		{"Flexible, Spot machine", flexible(nil, obj{"priority": "Spot"}), scan.Options{}},
		{"a single machine, not asked for", single("", ""), scan.Options{}},
		{"a single machine, asked for", single("", ""), scan.Options{SingleVMs: true}},
	},
	scan.VMSSTerminateShort: {
		{"five minutes, and five are asked for", set(terminate(true, "PT5M")), scan.Options{}},
		{"five minutes, and ten are asked for", set(terminate(true, "PT5M")), scan.Options{LeastDelay: 10 * time.Minute}},
		{"Azure's default, and ten are asked for", set(terminate(true, "")), scan.Options{LeastDelay: 10 * time.Minute}},
		{"ten minutes in seconds", set(terminate(true, "PT600S")), scan.Options{LeastDelay: 10 * time.Minute}},
		{"three minutes", set(terminate(true, "PT3M")), scan.Options{}},
		{"not announced", set(obj{}), scan.Options{}},
		{"no duration", set(terminate(true, "P1Y")), scan.Options{}},
		{"Spot", set(obj{"priority": "spot"}), scan.Options{}},
		{"Flexible machine", flexible(nil, terminate(true, "PT5M")), scan.Options{LeastDelay: 6 * time.Minute}},
	},
	scan.JITPolicyBroad: {
		{"narrow", guarded("Succeeded", hourly), scan.Options{}},
		{"any source", guarded("Succeeded", []obj{jitPort(22, "*", "PT1H")}), scan.Options{}},
		{"0.0.0.0/0", guarded("Succeeded", []obj{jitPort(22, "0.0.0.0/0", "PT1H")}), scan.Options{}},
		{"::/0", guarded("Succeeded", []obj{jitPort(22, "::/0", "PT1H")}), scan.Options{}},
		{"Internet", guarded("Succeeded", []obj{jitPort(22, "internet", "PT1H")}), scan.Options{}},
		{"two halves", guarded("Succeeded", []obj{{"number": 22, "protocol": "*", "allowedSourceAddressPrefixes": []string{"0.0.0.0/1", "128.0.0.0/1"}, "maxRequestAccessDuration": "PT1H"}}), scan.Options{}},
		{"three hours are Defender's own", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "PT180M")}), scan.Options{}},
		{"a second more", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "PT3H1S")}), scan.Options{}},
		{"a day, and a day is the limit", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "P1D")}), scan.Options{LongestJIT: 24 * time.Hour}},
		{"an hour is the limit", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "PT2H")}), scan.Options{LongestJIT: time.Hour}},
		{"no duration", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "3 hours")}), scan.Options{}},
		{"no duration, and any source at another port", guarded("Succeeded", []obj{jitPort(22, "203.0.113.9", "3 hours"), jitPort(3389, "*", "PT1H")}), scan.Options{}},
		{"no source", guarded("Succeeded", []obj{{"number": 22, "protocol": "TCP", "maxRequestAccessDuration": "PT1H"}}), scan.Options{}},
		{"no ports", guarded("Succeeded", nil), scan.Options{}},
		{"a machine that is gone", func(w *world) {
			w.policy("default", vmID("gone"), "Succeeded", jitPort(22, "*", "PT1H"), jitPort(3389, "*", "P1D"))
		}, scan.Options{}},
	},
	scan.NSGRuleBroad: {
		{"of a cluster of AKS", func(w *world) {
			w.nsg("lone", "allow-ssh 300 Allow Tcp * * 22")
			g := w.at["Microsoft.Network/networkSecurityGroups/lone"]
			g["id"] = strings.Replace(g["id"].(string), "/resourceGroups/", "/resourceGroups/mc_", 1)
		}, scan.Options{}},
		{"not attached", lone("allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"attached to a private machine", single("web-nsg", "", "allow-ssh 300 Allow Tcp Internet * 20-30"), scan.Options{}},
		{"no rules", lone(), scan.Options{}},
		{"denied before", lone("no 200 Deny Tcp * * 22", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"denied before, but for one machine", lone("curfew-deny-demo-tcp-22 200 Deny * * 10.0.0.4 22", "allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"one machine, denied before", lone("no 200 Deny Tcp * 10.0.0.0/24 22", "allow-ssh 300 Allow Tcp * 10.0.0.4 22"), scan.Options{}},
		{"one network, denied in a part", lone("no 200 Deny Tcp * 10.0.0.0/25 22", "allow-ssh 300 Allow Tcp * 10.0.0.0/24 22"), scan.Options{}},
		{"by an application security group", lone("allow-ssh 300 Allow Tcp * asg:api 22"), scan.Options{}},
		{"from an application security group", lone("allow-ssh 300 Allow Tcp asg:api * 22"), scan.Options{}},
		{"ten rules together", lone("a 300 Allow Tcp 20.0.0.0/9,52.0.0.0/9 * 22", "b 310 Allow Tcp 104.0.0.0/9 * 22"), scan.Options{}},
		{"named addresses", lone("office 300 Allow Tcp 203.0.113.0/24,198.51.100.7 * 22"), scan.Options{}},
		{"the network", lone("inside 300 Allow * VirtualNetwork * *"), scan.Options{}},
		{"another port", lone("web 300 Allow Tcp * * 80,443"), scan.Options{}},
		{"a port that is not understood", lone("odd 300 Allow Tcp * * ssh"), scan.Options{}},
		{"twice with other rules", func(w *world) {
			w.nsg("lone")
			w.bodies = append(w.bodies, obj{"id": root + "microsoft.network/networksecuritygroups/LONE", "properties": obj{"securityRules": []obj{{"name": "x", "properties": obj{"priority": 100, "direction": "Inbound", "access": "Deny",
				"protocol": "*", "sourceAddressPrefix": "*", "destinationAddressPrefix": "*", "sourcePortRange": "*", "destinationPortRange": "*"}}}}})
		}, scan.Options{}},
	},
	scan.RuleOverdue: {
		{"no temporary rule", lone("allow-ssh 300 Allow Tcp * * 22"), scan.Options{}},
		{"live", lone(liveName + " 100 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"past its end", lone(pastName + " 100 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"at its end", lone("curfew-allow-demo-abc-20261126T120000Z 100 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"an end later than any grant can have", lone(longName + " 100 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"no end that is one", lone("curfew-allow-demo-abc-20269926T120000Z 100 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"two, of two installations", lone(pastName+" 100 Allow Tcp 203.0.113.9 10.0.0.4 22", "CURFEW-allow-other-xyz-20251126t110000z 101 Allow Tcp 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"Defender's, no request", single("web-nsg", "", jitAllow+" 100 Allow * 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"Defender's of old, no machine", lone(oldAllow + " 100 Allow * 203.0.113.9 10.0.0.4 22"), scan.Options{}},
		{"Defender's deny is no allow", lone(jitDeny + " 100 Deny * * 10.0.0.4 22"), scan.Options{}},
		{"Defender's, a request runs", defender("203.0.113.9", day(11, 0), day(12, 30), "Initiated"), scan.Options{}},
		{"Defender's, a request is being started", defender("203.0.113.9/32", day(11, 0), day(12, 30), "Initiating"), scan.Options{}},
		{"Defender's, the request is over", defender("203.0.113.9", day(10, 0), day(11, 0), "Initiated"), scan.Options{}},
		{"Defender's, the request was revoked", defender("203.0.113.9", day(11, 0), day(12, 30), "Revoked"), scan.Options{}},
		{"Defender's, the request is from elsewhere", defender("198.51.100.7", day(11, 0), day(12, 30), "Initiated"), scan.Options{}},
		{"Defender's, the request has no end", defender("203.0.113.9", day(11, 0), "soon", "Initiated"), scan.Options{}},
	},
	scan.RuleOrphaned: {
		{"no rule of ours", lone("allow-ssh 300 Allow Tcp * 10.0.0.4 22"), scan.Options{}},
		{"a machine that is there", single("web-nsg", "", deny22), scan.Options{}},
		{"a machine that is gone", lone(deny22), scan.Options{}},
		{"a machine behind another group", func(w *world) { w.nsg("old-nsg", deny22); w.vm("web", 4, w.nsg("new-nsg"), "") }, scan.Options{}},
		{"one of two is there", single("web-nsg", "", "curfew-deny-demo-tcp-22 200 Deny * * 10.0.0.4,10.0.0.5 22"), scan.Options{}},
		{"a grant and an exemption of a machine that is gone", lone(liveName+" 100 Allow Tcp 203.0.113.9 10.0.0.4 22", "curfew-exempt-demo-bastion-tcp-22 110 Allow Tcp 10.0.9.0/24 10.0.0.4 22"), scan.Options{}},
		{"Defender's rules are not ours", lone(jitDeny + " 200 Deny * * 10.0.0.4 22"), scan.Options{}},
	},
}

func defender(source, start, end, status string) func(w *world) {
	return func(w *world) {
		guarded("Succeeded", hourly, jitAllow+" 100 Allow * 203.0.113.9 10.0.0.4 22")(w)
		props(w.at["Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"])["requests"] = request(vmID("Web"), 22, source, start, end, status)
	}
}

// admin makes a security admin rule effective on the network.
func (w *world) admin(name, access, source, port string) {
	w.put("Microsoft.Network/virtualNetworks/net/networkManagerEffectiveSecurityAdminRules/default", obj{"value": []obj{{"kind": "Custom", "id": "/x/" + name,
		"properties": obj{"access": access, "direction": "Inbound", "priority": 10, "protocol": "Tcp", "sourcePortRanges": []string{"0-65535"}, "destinationPortRanges": []string{port},
			"sources": []obj{{"addressPrefix": source, "addressPrefixType": "IPPrefix"}}, "destinations": []obj{{"addressPrefix": "*", "addressPrefixType": "IPPrefix"}}}}}},
		obj{"type": "Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules"})
}

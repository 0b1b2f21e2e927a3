package scan_test

import (
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
)

// A value of a wrong kind in one body makes unknown what depends on that resource, with a reason that names the field, and the scan
// incomplete: never a pass (P10), and never an export that is not read at all.
func TestSpoiltIsUnknown(t *testing.T) {
	const shut, open = "no 200 Deny * * * *", "ssh 300 Allow Tcp * * 22"
	machine := func(public string, rules ...string) func(w *world) {
		return func(w *world) { w.vm("web", 4, w.nsg("web-nsg", rules...), public) }
	}
	firewall := func(w *world) {
		machine("", "in 300 Allow Tcp VirtualNetwork * 22")(w)
		props(w.at["Microsoft.Network/virtualNetworks/net"])["subnets"] = append(props(w.at["Microsoft.Network/virtualNetworks/net"])["subnets"].([]obj),
			obj{"name": "AzureFirewallSubnet", "properties": obj{"addressPrefix": "10.0.9.0/26"}})
		w.put("Microsoft.Network/firewallPolicies/rules", obj{"ruleCollectionGroups": []obj{}})
		w.put("Microsoft.Network/firewallPolicies/rules/ruleCollectionGroups/dnat", obj{"priority": 100, "ruleCollections": []obj{{"name": "in", "ruleCollectionType": "FirewallPolicyNatRuleCollection",
			"action": obj{"type": "DNAT"}, "rules": []obj{{"ruleType": "NatRule", "name": "ssh", "ipProtocols": []string{"TCP"}, "sourceIpGroups": []string{root + "Microsoft.Network/ipGroups/office"},
				"destinationAddresses": []string{"20.9.9.9"}, "destinationPorts": []string{"2222"}, "translatedAddress": "10.0.0.4", "translatedPort": "22"}}}}})
		w.put("Microsoft.Network/ipGroups/office", obj{"ipAddresses": []string{"203.0.113.9"}})
		w.put("Microsoft.Network/azureFirewalls/edge", obj{"firewallPolicy": obj{"id": root + "Microsoft.Network/firewallPolicies/rules"},
			"ipConfigurations": []obj{{"name": "ip", "properties": obj{"subnet": obj{"id": root + "Microsoft.Network/virtualNetworks/net/subnets/AzureFirewallSubnet"}}}}})
	}
	balanced := func(w *world) {
		machine("", open)(w)
		w.put("Microsoft.Network/loadBalancers/lb", obj{})
		w.config("web")["loadBalancerBackendAddressPools"] = []obj{{"id": root + "Microsoft.Network/loadBalancers/lb/backendAddressPools/all"}}
	}
	for _, c := range []struct {
		name  string
		make  func(w *world)
		path  string // of the body that is spoilt
		spoil func(p obj)
		rule  scan.RuleID
		of    string // the resource of the verdict
		says  string
	}{
		{"machine", machine("20.1.2.3", shut), "Microsoft.Compute/virtualMachines/web", func(p obj) { p["networkProfile"] = "x" }, scan.VMPortExposed, "web", "networkProfile is a text"},
		{"machine", machine("20.1.2.3", shut), "Microsoft.Compute/virtualMachines/web", func(p obj) { p["networkProfile"] = "x" }, scan.VMNoNSG, "web", "networkProfile is a text"},
		{"interface", machine("", shut), "Microsoft.Network/networkInterfaces/web-nic", func(p obj) { p["networkSecurityGroup"] = 5 }, scan.VMPortExposed, "web", "networkSecurityGroup is a number"},
		{"interface", machine("", shut), "Microsoft.Network/networkInterfaces/web-nic", func(p obj) { p["networkSecurityGroup"] = 5 }, scan.VMNoNSG, "web", "networkSecurityGroup is a number"},
		{"public address", machine("20.1.2.3", open), "Microsoft.Network/publicIPAddresses/web-ip", func(p obj) { p["ipAddress"] = 7 }, scan.VMPortExposed, "web", "ipAddress is a number"},
		{"group", machine("20.1.2.3", shut), "Microsoft.Network/networkSecurityGroups/web-nsg", func(p obj) { p["securityRules"] = obj{} }, scan.VMPortExposed, "web", "securityRules is an object"},
		{"group", machine("20.1.2.3", shut), "Microsoft.Network/networkSecurityGroups/web-nsg", func(p obj) { p["securityRules"] = obj{} }, scan.NSGRuleBroad, "web-nsg", "securityRules is an object"},
		{"rule apart", func(w *world) {
			machine("20.1.2.3")(w)
			w.put("Microsoft.Network/networkSecurityGroups/web-nsg/securityRules/ssh", obj{})
		}, "Microsoft.Network/networkSecurityGroups/web-nsg/securityRules/ssh", func(p obj) { p["access"] = true }, scan.VMPortExposed, "web", "access is true or false"},
		{"network", func(w *world) { w.vm("web", 4, "", "") }, "Microsoft.Network/virtualNetworks/net", func(p obj) { p["addressSpace"] = []string{} }, scan.VMNoNSG, "web", "addressSpace is a list"},
		{"balancer", balanced, "Microsoft.Network/loadBalancers/lb", func(p obj) { p["loadBalancingRules"] = "all" }, scan.VMPortExposed, "web", "loadBalancingRules is a text"},
		{"balancer that names addresses", machine("", open, "x 310 Allow Udp * * 22"), "Microsoft.Network/networkSecurityGroups/other", nil, scan.VMPortExposed, "web", "backendAddressPools is a number"},
		{"policy", func(w *world) { machine("", shut)(w); w.policy("default", vmID("web"), "Succeeded", hourly...) }, "Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default",
			func(p obj) { p["virtualMachines"] = obj{} }, scan.VMJITMissing, "web", "virtualMachines is an object"},
		{"policy", func(w *world) { machine("", shut)(w); w.policy("default", vmID("web"), "Succeeded", hourly...) }, "Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default",
			func(p obj) { p["virtualMachines"] = obj{} }, scan.JITPolicyBroad, "default", "virtualMachines is an object"},
		{"scale set, a number of minutes", func(w *world) { w.scaleSet("set", terminate(true, "PT5M")) }, "Microsoft.Compute/virtualMachineScaleSets/set", func(p obj) {
			p["virtualMachineProfile"].(obj)["scheduledEventsProfile"].(obj)["terminateNotificationProfile"].(obj)["notBeforeTimeout"] = 10
		}, scan.VMSSTerminateShort, "set", "notBeforeTimeout is a number, not a text"},
		{"instance", func(w *world) { w.scaleSet("set", terminate(true, "PT5M")); w.instance("set", "0", true) }, "Microsoft.Compute/virtualMachineScaleSets/set/virtualMachines/0",
			func(p obj) { p["latestModelApplied"] = "maybe" }, scan.VMSSTerminateOff, "set", `latestModelApplied is "maybe"`},
		{"admin rules", func(w *world) {
			machine("20.1.2.3", open)(w)
			w.put("Microsoft.Network/virtualNetworks/net/networkManagerEffectiveSecurityAdminRules/default", obj{"value": []obj{}})
		}, "Microsoft.Network/virtualNetworks/net/networkManagerEffectiveSecurityAdminRules/default", func(p obj) { p["value"] = 3 }, scan.VMPortExposed, "web", "value is a number"},
		{"firewall", firewall, "Microsoft.Network/azureFirewalls/edge", func(p obj) { p["natRuleCollections"] = 3 }, scan.VMPortExposed, "web", "natRuleCollections is a number"},
		{"firewall policy", firewall, "Microsoft.Network/firewallPolicies/rules", func(p obj) { p["basePolicy"] = 3 }, scan.VMPortExposed, "web", "basePolicy is a number"},
		{"rule collection group", firewall, "Microsoft.Network/firewallPolicies/rules/ruleCollectionGroups/dnat", func(p obj) { p["ruleCollections"] = 3 }, scan.VMPortExposed, "web", "ruleCollections is a number"},
		{"IP group", firewall, "Microsoft.Network/ipGroups/office", func(p obj) { p["ipAddresses"] = 3 }, scan.VMPortExposed, "web", "ipAddresses is a number"},
	} {
		t.Run(c.name+" "+string(c.rule), func(t *testing.T) {
			w := newWorld()
			c.make(w)
			if c.spoil == nil {
				w.put("Microsoft.Network/loadBalancers/lb", obj{"backendAddressPools": 5})
			} else {
				c.spoil(props(w.at[c.path]))
			}
			e := w.estate(t)
			r := scan.Scan(e, scan.Options{Now: noon, All: true})
			if r.Summary.Complete || len(r.Gaps) == 0 {
				t.Errorf("complete: %t, gaps %+v", r.Summary.Complete, r.Gaps)
			}
			found := false
			for i := range r.Findings {
				f := &r.Findings[i]
				if f.Rule != c.rule || f.Name != c.of {
					continue
				}
				found = true
				if f.Status != scan.Unknown || !strings.Contains(f.Reason, c.says) {
					t.Errorf("%s: %s", f.Status, f.Reason)
				}
			}
			if !found {
				t.Errorf("nothing is said of %s", c.of)
			}
		})
	}
}

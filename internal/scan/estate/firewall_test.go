package estate_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/testkit"
)

const policy = net + "firewallPolicies/policy1"

// walled is a machine without a public address in a network with room for a firewall, whose group lets the network in.
func walled() *world {
	w := basic()
	w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{config("10.0.0.4", "")}
	w.props(net + "networkSecurityGroups/g")["securityRules"] = l{}
	v := w.props(net + "virtualNetworks/v")
	v["subnets"] = append(v["subnets"].(l), m{"name": "AzureFirewallSubnet", "properties": m{"addressPrefix": "10.0.9.0/26"}})
	return w
}

// edge adds a firewall that goes by the policy.
func (w *world) edge() *world {
	return w.add(net+"azureFirewalls/fw", m{"sku": m{"name": "AZFW_VNet", "tier": "Standard"}, "firewallPolicy": ref(policy),
		"ipConfigurations": l{m{"name": "ip", "properties": m{"privateIPAddress": "10.0.9.4", "subnet": ref(net + "virtualNetworks/v/subnets/AzureFirewallSubnet")}}}})
}

// collected adds a group of collections to a policy.
func (w *world) collected(policy string, collections ...any) *world {
	return w.add(policy+"/ruleCollectionGroups/ruleCollectionGroup1", m{"priority": 100, "ruleCollections": l(collections)})
}

func natRule(name, to, port string, more m) m {
	r := m{"ruleType": "NatRule", "name": name, "ipProtocols": l{"TCP"}, "sourceAddresses": l{"*"}, "sourceIpGroups": l{}, "destinationAddresses": l{"152.23.32.23"},
		"destinationPorts": l{"2222"}, "translatedAddress": to, "translatedPort": port}
	for k, v := range more {
		if r[k] = v; v == nil {
			delete(r, k)
		}
	}
	return r
}

func natCollection(action string, rules ...any) m {
	return m{"ruleCollectionType": "FirewallPolicyNatRuleCollection", "name": "nat", "priority": 100, "action": m{"type": action}, "rules": l(rules)}
}

func filter(action string, rules ...any) m {
	return m{"ruleCollectionType": "FirewallPolicyFilterRuleCollection", "name": "filter", "priority": 200, "action": m{"type": action}, "rules": l(rules)}
}

func netRule(protocol, source, dest, port string) m {
	return m{"ruleType": "NetworkRule", "name": "net", "ipProtocols": l{protocol}, "sourceAddresses": l{source}, "destinationAddresses": l{dest}, "destinationPorts": l{port}}
}

// What rule collection groups, parent policies, IP groups and virtual hubs come to.
func TestFirewallPolicy(t *testing.T) {
	with := func(collections ...any) *world {
		return walled().edge().add(policy, m{"ruleCollectionGroups": l{ref(policy + "/ruleCollectionGroups/ruleCollectionGroup1")}}).collected(policy, collections...)
	}
	rule := func(more m) *world { return with(natCollection("DNAT", natRule("ssh", "10.0.0.4", "22", more))) }
	filtered := func(f m) *world { return with(natCollection("DNAT", natRule("ssh", "10.0.0.4", "22", nil)), f) }
	fromGroup := func(addrs ...any) *world {
		w := rule(m{"sourceAddresses": l{}, "sourceIpGroups": l{net + "ipGroups/IPGROUPS1"}})
		if len(addrs) > 0 {
			w.add(net+"ipGroups/ipGroups1", m{"ipAddresses": l(addrs)})
		}
		return w
	}
	base := net + "firewallPolicies/base"
	const way = "firewall_dnat 152.23.32.23:2222 10.0.0.4:22 "
	const blind = "firewall_dnat invalid IP:22 10.0.0.4:22 allow ? "
	const mayStop = way + "allow ? a network rule of the firewall that denies may stop what its NAT rule lets in"
	for name, c := range map[string]struct {
		w    *world
		want string // of the ways of the firewall, "" for none
	}{
		"a rule":                {rule(nil), way + "allow"},
		"another port":          {rule(m{"translatedPort": "3389"}), ""},
		"another machine":       {rule(m{"translatedAddress": "10.0.0.99"}), ""},
		"UDP":                   {rule(m{"ipProtocols": l{"UDP"}}), ""},
		"both protocols":        {rule(m{"ipProtocols": l{"UDP", "TCP"}}), way + "allow"},
		"any protocol":          {rule(m{"ipProtocols": l{"Any"}}), way + "allow"},
		"a number for the port": {rule(m{"translatedPort": 22}), way + "allow"},
		"the port stays":        {rule(m{"translatedPort": nil}), way + "allow"},
		"no port":               {rule(m{"translatedPort": "ssh"}), way + `allow ? the translated port "ssh" of the NAT rule is not understood`},
		"sources translated":    {with(natCollection("SNAT", natRule("ssh", "10.0.0.4", "22", nil))), ""},
		"a name":                {rule(m{"translatedAddress": nil, "translatedFqdn": "internalhttp.server.net"}), way + "allow ? it is not known to which address the NAT rule leads"},
		"a name, another port":  {rule(m{"translatedAddress": nil, "translatedFqdn": "internalhttp.server.net", "translatedPort": "8080"}), ""},
		"sources within":        {rule(m{"sourceAddresses": l{"10.0.0.0/8"}}), way + "deny"},
		"no source":             {rule(m{"sourceAddresses": l{}}), way + "allow ? the sources of the NAT rule are not all known"},
		"an IP group":           {fromGroup("13.64.39.16/32", "40.74.146.80-40.74.146.90"), way + "allow"},
		"an IP group within":    {fromGroup("10.0.0.0/24"), way + "deny"},
		"an IP group gone":      {fromGroup(), way + "allow ? IP group " + net + "ipGroups/IPGROUPS1, which the NAT rule names, was not read"},
		"a parent":              {walled().edge().add(policy, m{"basePolicy": ref(base)}).add(base, m{}).collected(base, natCollection("DNAT", natRule("ssh", "10.0.0.4", "22", nil))), way + "allow"},
		"a parent gone":         {walled().edge().add(policy, m{"basePolicy": ref(base)}), blind + "firewall policy " + base + " was not read"},
		"its own parent":        {walled().edge().add(policy, m{"basePolicy": ref(policy)}).collected(policy, natCollection("DNAT", natRule("ssh", "10.0.0.4", "22", nil))), way + "allow"},
		"a policy gone":         {walled().edge(), blind + "firewall policy " + policy + " was not read"},
		"a group gone":          {with().drop(policy + "/ruleCollectionGroups/ruleCollectionGroup1"), blind + "rule collection group " + policy + "/ruleCollectionGroups/ruleCollectionGroup1 was not read"},
		"filters let through":   {filtered(filter("Allow", netRule("TCP", "*", "*", "*"))), way + "allow"},
		"a deny of it":          {filtered(filter("Deny", netRule("TCP", "*", "10.0.0.0/24", "20-30"))), mayStop},
		"a deny, another port":  {filtered(filter("Deny", netRule("Any", "*", "*", "443-444"))), way + "allow"},
		"a deny, elsewhere":     {filtered(filter("Deny", netRule("Any", "*", "10.0.3.0/24", "*"))), way + "allow"},
		"a deny, from within":   {filtered(filter("Deny", netRule("Any", "192.168.1.1-192.168.1.12", "*", "*"))), way + "allow"},
		"a deny of UDP":         {filtered(filter("Deny", netRule("UDP", "*", "*", "*"))), way + "allow"},
		"a deny by an IP group": {filtered(filter("Deny", m{"ruleType": "NetworkRule", "ipProtocols": l{"Any"}, "sourceIpGroups": l{net + "ipGroups/x"}, "destinationAddresses": l{"*"}, "destinationPorts": l{"*"}})), mayStop},
		"an application rule": {filtered(filter("Deny", m{"ruleType": "ApplicationRule", "name": "app", "protocols": l{m{"protocolType": "Https", "port": 443}},
			"sourceAddresses": l{"*"}, "targetFqdns": l{"*"}})), way + "allow"},
		"in a virtual hub": {walled().add(net+"azureFirewalls/fw", m{"sku": m{"name": "AZFW_Hub"}, "virtualHub": ref(net + "virtualHubs/hub1"), "firewallPolicy": ref(policy),
			"hubIPAddresses": m{"publicIPs": m{"addresses": l{m{"address": "13.73.240.12"}}, "count": 1}, "privateIPAddress": "10.9.0.4"}}).add(policy, m{}).
			collected(policy, natCollection("DNAT", natRule("ssh", "10.0.0.4", "22", nil))), way + "unknown ? it is not known whether the firewall's virtual hub leads to the machine's network"},
	} {
		t.Run(name, func(t *testing.T) {
			e := read(t, c.w.file())
			if len(e.Gaps()) > 0 {
				t.Fatalf("gaps: %+v", e.Gaps())
			}
			got, missing, _ := strings.Cut(strings.Join(told(e, 22), "; "), "; ! ")
			if got != c.want || (missing != "") != strings.HasSuffix(got, "was not read") {
				t.Errorf("got  %s\nwant %s\nand the machine misses %q", got, c.want, missing)
			}
		})
	}
}

// The official examples of the API are read whole, and what their NAT rules lead to is found. Their firewalls are put into the
// machine's network, whose address is the one that they lead to.
func TestFirewallExamples(t *testing.T) {
	const way = "firewall_dnat 1.2.3.4:443 1.2.3.5:8443 allow"
	const mayStop = way + " ? a network rule of the firewall that denies may stop what its NAT rule lets in"
	for name, want := range map[string]string{
		"AzureFirewallPut": way, "AzureFirewallGet": way, "AzureFirewallPutWithZones": way, "AzureFirewallGetWithMgmtSubnet": way, "AzureFirewallGetWithAdditionalProperties": way,
		"AzureFirewallGetWithIpGroups": mayStop, // by a group of addresses that is not among them
		"AzureFirewallPutInHub":        "firewall_dnat invalid IP:8443 1.2.3.5:8443 unknown ? firewall policy /subscriptions/subid/resourceGroups/rg1/providers/Microsoft.Network/firewallPolicies/policy1 was not read",
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(testkit.Shared(t, "azure", "specs", "network", "resource-manager", "Microsoft.Network", "stable", "2024-03-01", "examples", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			var x struct{ Responses map[string]struct{ Body m } }
			if err := json.Unmarshal(data, &x); err != nil || x.Responses["200"].Body == nil {
				t.Fatalf("no example: %v", err)
			}
			b := x.Responses["200"].Body
			if ips, ok := b["properties"].(m)["ipConfigurations"].(l); ok {
				ips[0].(m)["properties"].(m)["subnet"] = ref(net + "virtualNetworks/v/subnets/AzureFirewallSubnet")
			}
			w := walled()
			w.props(net + "virtualNetworks/v")["addressSpace"] = m{"addressPrefixes": l{"10.0.0.0/16", "1.2.3.0/24"}}
			w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{config("1.2.3.5", "")}
			w.bodies = append(w.bodies, b)
			e := read(t, w.file())
			if len(e.Gaps()) > 0 {
				t.Fatalf("gaps: %+v", e.Gaps())
			}
			got, missing, _ := strings.Cut(strings.Join(told(e, 8443), "; "), "; ! ")
			if got != want || (missing != "") != strings.HasSuffix(got, "was not read") {
				t.Errorf("got  %s\nwant %s\nand the machine misses %q", got, want, missing)
			}
		})
	}
}

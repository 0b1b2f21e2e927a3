package report_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

const (
	shop = "11111111-1111-4111-8111-111111111111"
	data = "22222222-2222-4222-8222-222222222222"
)

func vm(sub, group, name string) string {
	return "/subscriptions/" + sub + "/resourceGroups/" + group + "/providers/Microsoft.Compute/virtualMachines/" + name
}

func network(sub, group, kind, name string) string {
	return "/subscriptions/" + sub + "/resourceGroups/" + group + "/providers/Microsoft.Network/" + kind + "/" + name
}

// fixture holds every status, severity, exposure, kind of evidence, way and layer, a suppression, a known finding, and gaps.
func fixture() *scan.Report {
	at := time.Date(2026, 11, 26, 9, 30, 0, 0, time.UTC)
	finding := func(id string, rule scan.RuleID, st scan.Status, sev scan.Severity, sub, group, name, reason string) scan.Finding {
		return scan.Finding{ID: id, Rule: rule, Resource: vm(sub, group, name), Status: st, Severity: sev, Reason: reason, Name: name,
			Type: "Microsoft.Compute/virtualMachines", Subscription: sub, Group: group, Location: "westeurope"}
	}
	exposed := finding("f-01a2b3c4", scan.VMPortExposed, scan.Fail, scan.High, shop, "shop-web", "web-01", "port 22 is reachable from any address of the Internet through 203.0.113.7")
	exposed.Exposure, exposed.Tags = scan.ExposedInternet, map[string]string{"team": "web", "cost": "4711", "owner": "shop@example.com"}
	exposed.Evidence = scan.Evidence{Ports: []scan.PortEvidence{{Port: 22, Protocol: "tcp", Exposure: scan.ExposedInternet, ProtectedBy: "curfew", Policy: "curfew-deny-web-01-22",
		Ways: []scan.Way{
			{Kind: "public_ip", Via: network(shop, "shop-web", "publicIPAddresses", "pip-web-01"), Address: "203.0.113.7", NIC: network(shop, "shop-web", "networkInterfaces", "nic-web-01"),
				IPConfig: "ipconfig1", Destination: "10.0.1.4", Zone: "internet", Access: "allow", Sources: []string{"0.0.0.0/0"}, MoreSources: 3, Decider: 2,
				Hops: []scan.Hop{{Layer: "public_ip", Access: "allow", Group: network(shop, "shop-web", "publicIPAddresses", "pip-web-01")}, {Layer: "admin", Access: "allow", Group: network(shop, "shop-net", "networkManagers", "nm-1"), Rule: "AllowOps", Priority: 10},
					{Layer: "subnet", Access: "allow", Group: network(shop, "shop-net", "networkSecurityGroups", "nsg-web"), Rule: "allow-ops-any", Priority: 300}, {Layer: "nic", Access: "allow", Group: network(shop, "shop-web", "networkSecurityGroups", "nsg-web"), Rule: "allow-ssh", Priority: 310}}},
			{Kind: "nat_rule", Via: network(shop, "shop-web", "loadBalancers", "lb-web") + "/inboundNatRules/ssh-0", Address: "203.0.113.9", FrontendPort: 50022, NIC: network(shop, "shop-web", "networkInterfaces", "nic-web-01"),
				IPConfig: "ipconfig1", Destination: "10.0.1.4", Zone: "internet", Access: "deny", Hops: []scan.Hop{{Layer: "load_balancer", Access: "allow"}, {Layer: "subnet", Access: "deny", Group: network(shop, "shop-net", "networkSecurityGroups", "nsg-web"), Rule: "deny-nat", Priority: 200}}, Decider: 1},
			{Kind: "firewall_dnat", Via: network(shop, "shop-net", "azureFirewalls", "fw"), NIC: network(shop, "shop-web", "networkInterfaces", "nic-web-01"), IPConfig: "ipconfig1", Destination: "10.0.1.4", Zone: "internet", Access: "unknown",
				Hops: []scan.Hop{{Layer: "firewall", Access: "unknown", Why: "the firewall policy could not be read"}}, Why: "the firewall's rules are hidden"},
		}, Open: []scan.Hold{{By: "curfew", Rule: "curfew-a1-g42-22", Sources: []string{"198.51.100.7/32"}, End: at.Add(35 * time.Minute)}, {By: "defender", Rule: "SecurityCenter-JITRule-1", Sources: []string{"198.51.100.8"}, End: at.Add(time.Hour)}}}}}
	exposed.Remediation = &scan.Remediation{Summary: "Narrow allow-ops-any of nsg-web to the addresses that need it, or let Curfew deny the port.",
		Curfew:    "curfew protect " + exposed.Resource + " --port 22 --max 3h",
		AzureCLI:  "az network nsg rule update \\\n  --nsg-name nsg-web --resource-group shop-net \\\n  --name allow-ops-any --source-address-prefixes 198.51.100.0/24",
		Bicep:     "resource rule 'Microsoft.Network/networkSecurityGroups/securityRules@2024-05-01' = {\n  name: 'nsg-web/allow-ops-any'\n}",
		Terraform: "resource \"azurerm_network_security_rule\" \"allow_ops_any\" {\n  name = \"allow-ops-any\"\n}",
		Portal:    "Open nsg-web.\nChoose Inbound security rules.\nNarrow the source of allow-ops-any."}
	exposed.Compliance = []scan.Control{{Framework: "CIS Azure 2.0.0", Control: "6.1", Policy: "22730e10-96f6-4aac-ad84-9383d35b5917"}, {Framework: "NIST SP 800-53 Rev. 5", Control: "AC-17", Policy: "22730e10-96f6-4aac-ad84-9383d35b5917"}}

	overdue := finding("f-0overdue", scan.RuleOverdue, scan.Fail, scan.Critical, data, "data", "nsg-db", "curfew-a1-g17-5432 still stands 6 min after its end")
	overdue.Resource, overdue.Type = network(data, "data", "networkSecurityGroups", "nsg-db"), "Microsoft.Network/networkSecurityGroups"
	overdue.Evidence = scan.Evidence{Rules: []scan.RuleEvidence{{NSG: overdue.Resource, Rule: "curfew-a1-g17-5432", Priority: 310, Access: "allow", Protocol: "Tcp", Sources: []string{"198.51.100.7/32"}, Ports: []string{"5432"}, Why: "ended 2026-11-26 09:24:00 UTC"}}}
	overdue.Remediation = &scan.Remediation{Summary: "Remove the rule.", Curfew: "curfew sweep"}

	terminate := finding("f-vmss", scan.VMSSTerminateOff, scan.Fail, scan.Medium, data, "batch", "batch-ss", "the scale set does not announce termination")
	terminate.Resource, terminate.Type = "/subscriptions/"+data+"/resourceGroups/batch/providers/Microsoft.Compute/virtualMachineScaleSets/batch-ss", "Microsoft.Compute/virtualMachineScaleSets"
	terminate.Evidence.Facts = []scan.Fact{{Name: "terminateNotificationProfile", Value: "absent"}, {Name: "instances not on the latest model", Value: "2 of 5"}}

	broad := finding("f-broad", scan.NSGRuleBroad, scan.Fail, scan.Low, shop, "shop-net", "nsg-old", "allow-rdp lets any address at 3389; nothing is attached")
	broad.Resource, broad.Type = network(shop, "shop-net", "networkSecurityGroups", "nsg-old"), "Microsoft.Network/networkSecurityGroups"
	broad.Suppressed = &scan.Suppression{Owner: "alice@example.com", Reason: "goes with the old shop in December", Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)} // the end of the last day that was written

	known := finding("f-known", scan.JITPolicyBroad, scan.Fail, scan.Medium, shop, "shop-web", "jit-default", "the policy lets any source ask, for up to 24 h")
	known.Known = true

	hidden := finding("f-hidden", scan.VMJITMissing, scan.Unknown, scan.High, data, "lab", "lab-legacy-01", "its network interface may not be read")
	hidden.Exposure = scan.ExposureUnknown
	some := finding("f-some", scan.VMPortExposed, scan.Pass, scan.High, shop, "shop-web", "web-02", "port 22 is reachable from 198.51.100.0/24 alone")
	some.Exposure = scan.ExposedSome
	some.Evidence.Ports = []scan.PortEvidence{{Port: 22, Protocol: "tcp", Exposure: scan.ExposedSome, ProtectedBy: "defender", Policy: "/subscriptions/" + shop + "/resourceGroups/shop-web/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default",
		Ways: []scan.Way{{Kind: "lb_rule", Address: "203.0.113.9", NIC: "nic-web-02", IPConfig: "ipconfig1", Destination: "10.0.1.5", Zone: "internet", Access: "allow", Sources: []string{"198.51.100.0/24", "::/0"}, Hops: []scan.Hop{{Layer: "none", Access: "allow", Why: "a Basic address without a group is open"}}}}}}
	private := finding("f-private", scan.VMNoNSG, scan.Pass, scan.Medium, data, "data", "db-01", "its subnet has nsg-db")
	private.Exposure = scan.ExposedVirtualNetwork
	private.Evidence.Ports = []scan.PortEvidence{{Port: 5986, Protocol: "tcp", Exposure: scan.ExposedVirtualNetwork, Ways: []scan.Way{{Kind: "virtual_network", NIC: "nic-db-01", IPConfig: "ipconfig1", Destination: "10.1.0.4", Zone: "virtual_network", Access: "allow", Hops: []scan.Hop{{Layer: "subnet", Access: "allow", Rule: "AllowVnetInBound", Priority: 65000}}}}}}
	closed := finding("f-closed", scan.VMJITIneffective, scan.Pass, scan.High, shop, "shop-web", "web-03", "no port that is protected is reachable")
	closed.Exposure = scan.ExposedNothing
	na := finding("f-na", scan.VMSSTerminateShort, scan.NotApplicable, scan.Low, data, "batch", "spot-ss", "a Spot set announces eviction, not termination")

	r := &scan.Report{ID: "scan-0007", At: at, Source: scan.Source{Kind: "graph", Cloud: "AzureCloud", Subscriptions: []string{shop, data}, ManagementGroups: []string{"mg-all"}},
		Findings: []scan.Finding{overdue, exposed, terminate, hidden, some, closed, private, na, known, broad},
		Gaps: []scan.Gap{{Source: "network interfaces", Subscription: data, Resource: network(data, "lab", "networkInterfaces", "nic-lab-legacy-01"), Type: "microsoft.network/networkinterfaces", Reason: "AuthorizationFailed (403)", NotAuthorized: true},
			{Source: "just-in-time policies", Subscription: data, Type: "microsoft.security/locations/jitnetworkaccesspolicies", Reason: "the service answered 500 after 5 tries"}, {Source: "effective security admin rules", Reason: "not asked for"}}}
	summarise(r)
	r.Summary.Subscriptions, r.Summary.Resources, r.Summary.VMs, r.Summary.ScaleSets, r.Summary.NSGs, r.Summary.Exposed = 2, 61, 12, 2, 7, 1
	return r
}

// summarise counts what a judge would have counted.
func summarise(r *scan.Report) {
	s := &r.Summary
	s.Statuses, s.Severities, s.Rules = map[scan.Status]int{}, map[scan.Severity]int{}, map[scan.RuleID]map[scan.Status]int{}
	for _, f := range r.Findings {
		switch {
		case f.Suppressed != nil:
			s.Suppressed++
			continue
		case f.Known:
			s.Known++
			continue
		}
		s.Statuses[f.Status]++
		if f.Status == scan.Fail {
			s.Severities[f.Severity]++
		}
		if s.Rules[f.Rule] == nil {
			s.Rules[f.Rule] = map[scan.Status]int{}
		}
		s.Rules[f.Rule][f.Status]++
	}
	s.Complete = len(r.Gaps) == 0
}

// clean is a report in which everything was read and nothing fails.
func clean() *scan.Report {
	r := &scan.Report{At: time.Date(2026, 11, 26, 9, 30, 0, 0, time.UTC), Source: scan.Source{Kind: "file", File: "estate.json"}}
	summarise(r)
	r.Summary.VMs, r.Summary.Subscriptions = 4, 1
	return r
}

// hostile are names that try to be more than text.
var hostile = []string{
	`<script>alert(1)</script>`, `"onmouseover="alert(1)" x="`, `' autofocus onfocus=alert(1) '`, `</style></script><img src=x onerror=alert(1)>`, `javascript:alert(1)`,
	`=cmd|' /C calc'!A0`, `+1+1`, `-1`, `@SUM(1)`, "\t=1", "\r=1", ` =1`, `'=1`, "＝1", "\u202egnp.exe", "\x1b[31mred\x1b]0;x\x07", "a\nb\r\nc\x00d", "\xff\xfe", "\ufffe\uffff\ue000",
	`a|b\|c`, "`tick``s", "@octocat #12 GH-7 https://evil.example www.evil.example", `[x](javascript:1) ![y](z) <b>`, `]]>`, `&lt;&amp;`, `{{.}} ${x} $(id)`, `%2e%2e/../..`, `..`, `C:\x`, `"findings": []`, "日本語のサーバー", "é", "",
	strings.Repeat("n", 10000),
}

// poisoned is a report in which every text is s.
func poisoned(s string) *scan.Report {
	r := fixture()
	for i := range r.Findings {
		f := &r.Findings[i]
		f.ID = fmt.Sprintf("f-%d", i)
		f.Name, f.Reason, f.Type, f.Subscription, f.Group, f.Location, f.Resource = s, s, s, s, s, s, "/subscriptions/x/"+s
		f.Tags = map[string]string{s: s, "n": s}
		for j := range f.Evidence.Ports {
			p := &f.Evidence.Ports[j]
			p.Protocol, p.Policy = s, s
			for k := range p.Ways {
				w := &p.Ways[k]
				w.Via, w.Address, w.NIC, w.IPConfig, w.Destination, w.Sources, w.Why = s, s, s, s, s, []string{s}, s
				for l := range w.Hops {
					w.Hops[l].Group, w.Hops[l].Rule, w.Hops[l].Why = s, s, s
				}
			}
			for k := range p.Open {
				p.Open[k].Rule, p.Open[k].Sources = s, []string{s}
			}
		}
		for j := range f.Evidence.Rules {
			e := &f.Evidence.Rules[j]
			e.NSG, e.Rule, e.Sources, e.Ports, e.Why = s, s, []string{s}, []string{s}, s
		}
		f.Evidence.Facts = append(f.Evidence.Facts, scan.Fact{Name: s, Value: s})
		f.Remediation = &scan.Remediation{Summary: s, Curfew: s, AzureCLI: s, Bicep: s, Terraform: s, Portal: s}
		f.Compliance = []scan.Control{{Framework: s, Control: s, Policy: s}}
		if f.Suppressed != nil {
			f.Suppressed.Owner, f.Suppressed.Reason = s, s
		}
	}
	for i := range r.Gaps {
		g := &r.Gaps[i]
		g.Source, g.Reason, g.Type = s, s, s
	}
	r.ID, r.Source.File, r.Source.Cloud, r.Source.Kind, r.Source.Subscriptions = s, s, s, "file", []string{s}
	return r
}

// many is a report of n failures.
func many(n int) *scan.Report {
	r := fixture()
	one := r.Findings[1]
	r.Findings, r.Gaps = nil, nil
	for i := range n {
		f := one
		f.ID, f.Name = fmt.Sprintf("f-%06d", i), fmt.Sprintf("web-%05d", i)
		f.Subscription = fmt.Sprintf("%08d-1111-4111-8111-111111111111", i%12)
		f.Resource = vm(f.Subscription, "shop-web", f.Name)
		f.Rule = scan.Rules[i%len(scan.Rules)].ID
		f.Severity = scan.Severities[i%4]
		f.Reason = fmt.Sprintf("port 22 is reachable from any address of the Internet through 203.0.113.%d", i%250)
		r.Findings = append(r.Findings, f)
	}
	summarise(r)
	r.Summary.VMs, r.Summary.Exposed = n, n
	return r
}

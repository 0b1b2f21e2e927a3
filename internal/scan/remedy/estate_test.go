package remedy_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const (
	sub     = "5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01"
	hostile = "x'; touch pwned; `id` $(id) ${a} %{b} \\ \"q\" #\u2028*"
	stand   = "oddname" // becomes hostile: the simulator takes no name that Azure would not
	grant   = "curfew-allow-test-01k-20271126T120000Z"
)

// world is an estate with what each remedy meets. more goes into the group web-nsg.
func world(t testing.TB, more ...estates.Rule) *estate.Estate {
	t.Helper()
	e := estates.New()
	e.Subscription(sub, "Shop")
	e.Group("shop", "westeurope")
	web := e.NSG("web-nsg", append([]estates.Rule{estates.Allow("office", 150, "22", "203.0.113.0/28"), estates.Allow(grant, 160, "22", "198.51.100.9/32"), estates.Allow("ssh", 300, "22", "*"),
		estates.Allow("https", 310, "443", "Internet"), estates.Allow("old-ssh", 400, "20-30", "Internet")}, more...)...)
	full := e.NSG("full-nsg", estates.Allow("any", 100, "22", "Internet"))
	live := e.NSG("live-nsg", estates.Allow("MicrosoftDefenderForCloud-JITRule-1-0123456789abcdef0123456789abcdef", 100, "3389", "198.51.100.9"), estates.Allow("rdp", 101, "3389", "0.0.0.0/0"))
	tight := e.NSG("tight-nsg", estates.Allow("partner", 299, "22", "198.51.100.128/25"), estates.Allow("ssh", 300, "22", "*"))
	odd := e.NSG(stand, estates.Allow(stand, 200, "22", "*"))
	e.NSG("spare-nsg", estates.Allow("office", 100, "22", "203.0.113.0/28"), estates.Allow("all", 200, "*", "Internet"), estates.Allow("curfew-allow-test-9-20260101T000000Z", 120, "22", "198.51.100.1"))
	subnet := e.NSG("subnet-nsg", estates.Allow("all", 1000, "*", "*"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "app", Prefix: "10.1.0.0/24"}, estates.Subnet{Name: "guarded", Prefix: "10.1.1.0/24", NSG: subnet})
	app := vnet + "/subnets/app"
	e.VM("web-01", estates.VM{Subnet: app, PrivateIP: "10.1.0.4", PublicIP: "198.51.100.11", NSG: web})
	e.VM("web-02", estates.VM{Subnet: app, PrivateIP: "10.1.0.5", PublicIP: "198.51.100.12", NSG: web})
	e.VM("full", estates.VM{Subnet: app, PrivateIP: "10.1.0.6", PublicIP: "198.51.100.13", NSG: full})
	e.VM("live", estates.VM{OS: "Windows", Subnet: app, PrivateIP: "10.1.0.7", PublicIP: "198.51.100.14", NSG: live})
	e.VM("tight", estates.VM{Subnet: app, PrivateIP: "10.1.0.8", PublicIP: "198.51.100.15", NSG: tight})
	e.VM("bare", estates.VM{Subnet: app, PrivateIP: "10.1.0.9", PublicIP: "198.51.100.16", PublicSKU: "Basic"})
	e.VM(stand, estates.VM{Subnet: app, PrivateIP: "10.1.0.10", PublicIP: "198.51.100.17", NSG: odd})
	e.VM("guarded", estates.VM{Subnet: vnet + "/subnets/guarded", PrivateIP: "10.1.1.4", PublicIP: "198.51.100.18"})
	e.VM("db", estates.VM{Subnet: app, PrivateIP: "10.1.0.11", NSG: web})
	e.ScaleSet("farm", estates.ScaleSet{Subnet: app, PrivateIPs: []string{"10.1.0.100", "10.1.0.101"}})
	e.ScaleSet("auto", estates.ScaleSet{Subnet: app, PrivateIPs: []string{"10.1.0.102"}, Mode: "Automatic", Terminate: "PT5M"})
	e.ScaleSet("stale", estates.ScaleSet{Subnet: app, PrivateIPs: []string{"10.1.0.110", "10.1.0.111"}, Terminate: "PT10M"})
	policy := func(name string, machines ...any) {
		e.Add(map[string]any{"id": e.ID("Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies", name), "type": "Microsoft.Security/locations/jitNetworkAccessPolicies", "name": name,
			"location": "westeurope", "kind": "Basic", "properties": map[string]any{"provisioningState": "Succeeded", "requests": []any{}, "virtualMachines": machines}})
	}
	port := func(n int, source, longest string) map[string]any {
		return map[string]any{"number": n, "protocol": "*", "allowedSourceAddressPrefix": source, "maxRequestAccessDuration": longest}
	}
	policy("default", map[string]any{"id": strings.ToUpper(e.ID("Microsoft.Compute/virtualMachines", "web-02")), "ports": []any{port(3389, "203.0.113.7", "PT1H")}},
		map[string]any{"id": e.ID("Microsoft.Compute/virtualMachines", "full"), "ports": []any{port(22, "*", "PT24H"), port(5985, "*", "PT1H"), port(5986, "203.0.113.0/24", "P1D")}})
	out, err := estate.Read(bytes.NewReader(behind(t, e.JSON(), "/stale/virtualMachines/1")))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// behind says of an instance that it is not on the latest model, and gives the hostile name to what stands for it.
func behind(t testing.TB, file []byte, id string) []byte {
	t.Helper()
	var doc struct {
		Resources []map[string]any `json:"resources"`
	}
	if err := json.Unmarshal(file, &doc); err != nil {
		t.Fatal(err)
	}
	var rename func(v any) any
	rename = func(v any) any {
		switch v := v.(type) {
		case string:
			return strings.ReplaceAll(v, stand, hostile)
		case []any:
			for i := range v {
				v[i] = rename(v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = rename(v[k])
			}
		}
		return v
	}
	for _, r := range doc.Resources {
		rename(r)
	}
	for _, r := range doc.Resources {
		if s, _ := r["id"].(string); strings.HasSuffix(s, id) {
			r["properties"].(map[string]any)["latestModelApplied"] = false
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func failing(e *estate.Estate, r scan.RuleID, name string, ports ...scan.PortEvidence) scan.Finding {
	f := scan.Finding{ID: "f-0123456789", Rule: r, Status: scan.Fail, Name: name, Evidence: scan.Evidence{Ports: ports}}
	for _, v := range e.VMs() {
		if v.Name == name {
			f.Resource, f.Type, f.Subscription, f.Group = v.ID, "Microsoft.Compute/virtualMachines", v.Subscription, v.Group
		}
	}
	for _, v := range e.ScaleSets() {
		if v.Name == name {
			f.Resource, f.Type = v.ID, "Microsoft.Compute/virtualMachineScaleSets"
		}
	}
	for _, v := range e.NSGs() {
		if v.Name == name && f.Resource == "" {
			f.Resource, f.Type = v.ID, "Microsoft.Network/networkSecurityGroups"
		}
	}
	for _, v := range e.Policies() {
		if v.Name == name {
			f.Resource, f.Type = v.ID, "Microsoft.Security/locations/jitNetworkAccessPolicies"
		}
	}
	return f
}

func group(e *estate.Estate, r scan.RuleID, name string) scan.Finding {
	f := failing(e, r, "")
	for _, n := range e.NSGs() {
		if n.Name == name {
			f.Resource, f.Name = n.ID, n.Name
		}
	}
	return f
}

func internet(port uint16) scan.PortEvidence {
	return scan.PortEvidence{Port: port, Protocol: "tcp", Exposure: scan.ExposedInternet}
}

func withRules(f scan.Finding, e *estate.Estate, rules ...string) scan.Finding {
	n, _ := e.NSG(f.Resource)
	for _, name := range rules {
		for _, r := range n.Rules {
			if r.Name == name {
				f.Evidence.Rules = append(f.Evidence.Rules, scan.RuleEvidence{NSG: n.ID, Rule: name, Priority: r.Priority, Access: "allow", Sources: r.Sources, Ports: r.DestinationPorts})
			}
		}
	}
	return f
}

// findings are a failure of each rule, and of each turn that a remedy can take.
func findings(e *estate.Estate) map[string]scan.Finding {
	protected := func(x scan.Exposure, ways ...scan.Way) scan.PortEvidence {
		return scan.PortEvidence{Port: 22, Protocol: "tcp", Exposure: x, ProtectedBy: "defender", Ways: ways}
	}
	held := func(p scan.PortEvidence, rule string) scan.PortEvidence {
		p.Open = []scan.Hold{{By: "defender", Rule: rule}}
		return p
	}
	return map[string]scan.Finding{
		"exposed":                failing(e, scan.VMPortExposed, "web-01", internet(22)),
		"exposed-full":           failing(e, scan.VMPortExposed, "full", internet(22)),
		"exposed-live":           failing(e, scan.VMPortExposed, "live", held(internet(3389), "MicrosoftDefenderForCloud-JITRule-1-0123456789abcdef0123456789abcdef")),
		"exposed-tight":          failing(e, scan.VMPortExposed, "tight", internet(22)),
		"exposed-bare":           failing(e, scan.VMPortExposed, "bare", internet(22), internet(3389)),
		"exposed-subnet":         failing(e, scan.VMPortExposed, "guarded", internet(22), internet(3389)),
		"exposed-hostile":        failing(e, scan.VMPortExposed, hostile, internet(22)),
		"jit-missing":            failing(e, scan.VMJITMissing, "web-01", internet(22)),
		"jit-missing-in-policy":  failing(e, scan.VMJITMissing, "web-02", internet(22), scan.PortEvidence{Port: 3389, ProtectedBy: "defender"}),
		"jit-missing-hostile":    failing(e, scan.VMJITMissing, hostile, internet(22)),
		"jit-ineffective":        failing(e, scan.VMJITIneffective, "web-01", protected(scan.ExposedInternet)),
		"jit-ineffective-inside": failing(e, scan.VMJITIneffective, "db", protected(scan.ExposedVirtualNetwork)),
		"no-nsg":                 failing(e, scan.VMNoNSG, "bare"),
		"terminate-off":          failing(e, scan.VMSSTerminateOff, "farm"),
		"terminate-behind":       failing(e, scan.VMSSTerminateOff, "stale"),
		"terminate-machine":      failing(e, scan.VMSSTerminateOff, "web-01"),
		"terminate-short":        failing(e, scan.VMSSTerminateShort, "auto"),
		"jit-broad":              failing(e, scan.JITPolicyBroad, "default"),
		"nsg-broad":              withRules(failing(e, scan.NSGRuleBroad, "spare-nsg"), e, "office", "all"),
		"nsg-broad-full":         withRules(failing(e, scan.NSGRuleBroad, "full-nsg"), e, "any"),
		"overdue":                withRules(failing(e, scan.RuleOverdue, "spare-nsg"), e, "curfew-allow-test-9-20260101T000000Z"),
		"overdue-defender":       withRules(failing(e, scan.RuleOverdue, "live-nsg"), e, "MicrosoftDefenderForCloud-JITRule-1-0123456789abcdef0123456789abcdef"),
		"nsg-broad-port":         withRules(failing(e, scan.NSGRuleBroad, "web-nsg"), e, "ssh"),
		"orphaned":               withRules(failing(e, scan.RuleOrphaned, "web-nsg"), e, grant),
		"orphaned-hostile":       withRules(group(e, scan.RuleOrphaned, hostile), e, hostile),
	}
}

package fix_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// events is a machine's scheduledEventsProfile, with its tags.
func (w *world) events(id string) string {
	w.t.Helper()
	raw, ok := w.sim.Get(id)
	var body struct {
		Tags       map[string]any
		Properties struct{ ScheduledEventsProfile any }
	}
	if err := json.Unmarshal(raw, &body); err != nil || !ok {
		w.t.Fatalf("%s: %v", id, err)
	}
	b, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// Machines of a Flexible scale set have each its own scheduled events: each that lacks the notice is written by itself and alone, what
// stands beside the notice goes back as it was read, the set's model is not touched, and the undo file gives it back.
func TestMachinesOfFlexibleSets(t *testing.T) {
	e := shop()
	set := e.ScaleSet("flex", estates.ScaleSet{Subnet: subnet(e, "web"), Terminate: "PT5M"})
	var vms []string
	for i, name := range []string{"flex_bare", "flex_beside", "flex_short", "flex_good", "alone"} {
		vms = append(vms, e.VM(name, estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1." + string(rune('1'+i)) + "0", Tags: map[string]string{"owner": "ops"}}))
	}
	w := newWorld(t, e.JSON())
	w.flexible(set, vms[:4]...)
	profiles := map[string]map[string]any{
		vms[1]: {"osImageNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": "PT15M"}, "scheduledEventsAdditionalPublishingTargets": map[string]any{"eventGridAndResourceGraph": map[string]any{"enable": true}}},
		vms[2]: {"terminateNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": "PT6M"}},
		vms[3]: {"terminateNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": "PT12M"}},
	}
	for id, profile := range profiles {
		if err := w.sim.Edit(id, func(body map[string]any) error {
			body["properties"].(map[string]any)["scheduledEventsProfile"] = profile
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	before, model := map[string]string{}, w.events(set)
	for _, id := range vms {
		before[id] = w.events(id)
	}
	w.least = 10 * time.Minute
	fs := w.scan(scan.VMSSTerminateOff, scan.VMSSTerminateShort)
	if len(fs) != 4 { // the model's is short too
		t.Fatalf("findings: %s", show(fs))
	}
	fs = slices.DeleteFunc(fs, func(f scan.Finding) bool { return f.Resource == set })
	o := fix.Options{Delay: w.least, LeastDelay: w.least}
	p, out := w.fix(fs, o)
	var written []string
	for _, s := range p.Steps {
		if s.Kind != fix.MachineStep || len(s.Keeps) == 0 {
			t.Errorf("step %s", show(s))
		}
		written = append(written, s.Resource)
	}
	slices.Sort(written)
	want := slices.Sorted(slices.Values(vms[:3]))
	if !slices.Equal(written, want) || out.Writes != 3 || len(out.Fixed) != len(fs) {
		t.Fatalf("%d writes, to %v, want %v\n%s", out.Writes, written, want, show(out))
	}
	for i, texts := range [][]string{{`"PT10M"`}, {`"PT10M"`, `"osImageNotificationProfile"`, `"PT15M"`, `"eventGridAndResourceGraph"`}, {`"PT10M"`}, {`"PT12M"`}} {
		got := w.events(vms[i])
		for _, text := range append(texts, `"owner":"ops"`) {
			if !strings.Contains(got, text) {
				t.Errorf("%s lacks %s: %s", vms[i], text, got)
			}
		}
	}
	if got := w.events(vms[3]); got != before[vms[3]] {
		t.Errorf("one that was right is %s, was %s", got, before[vms[3]])
	}
	if got := w.events(vms[4]); got != before[vms[4]] || w.events(set) != model || w.sim.Writes(set) != 0 {
		t.Errorf("a machine of no set is %s, the model %s", got, w.events(set))
	}
	if p, again := w.fix(fs, o); len(p.Steps) != 0 || again.Writes != 0 {
		t.Errorf("a second run: %s", show(p))
	}
	u, err := w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Done) != 3 || len(u.Kept)+len(u.Failed) > 0 || u.Writes != 3 {
		t.Fatalf("%v, %s", err, show(u))
	}
	for _, id := range vms {
		if got := strings.ReplaceAll(w.events(id), "{}", "null"); got != before[id] { // an empty profile is none
			t.Errorf("%s is %s, was %s", id, got, before[id])
		}
	}
}

// An Azure Firewall's DNAT rule is left, with the reason and where to change it; what reaches the machine besides it is shut all the same.
func TestFirewallDNATIsLeft(t *testing.T) {
	e := shop()
	hub := e.VNet("hub", []string{"10.1.0.0/16"}, estates.Subnet{Name: "AzureFirewallSubnet", Prefix: "10.1.0.0/26"})
	spoke := e.VNet("spoke", []string{"10.2.0.0/16"}, estates.Subnet{Name: "apps", Prefix: "10.2.0.0/24"})
	e.Peer(hub, spoke)
	g := e.NSG("app-nsg", estates.Allow("ssh", 300, "22", "*"))
	e.VM("hidden", estates.VM{Subnet: spoke + "/subnets/apps", PrivateIP: "10.2.0.4", NSG: g})
	e.VM("both", estates.VM{Subnet: spoke + "/subnets/apps", PrivateIP: "10.2.0.5", PublicIP: "198.51.100.5", NSG: g})
	nat := func(name, to, port string) map[string]any {
		return map[string]any{"name": name, "protocols": []any{"TCP"}, "sourceAddresses": []any{"*"}, "destinationAddresses": []any{"198.51.100.30"},
			"destinationPorts": []any{port}, "translatedAddress": to, "translatedPort": "22"}
	}
	e.Add(map[string]any{"id": e.ID("Microsoft.Network/azureFirewalls", "edge"), "name": "edge", "type": "Microsoft.Network/azureFirewalls", "properties": map[string]any{
		"ipConfigurations": []any{map[string]any{"name": "ip", "properties": map[string]any{"privateIPAddress": "10.1.0.4", "subnet": map[string]any{"id": hub + "/subnets/AzureFirewallSubnet"}}}},
		"natRuleCollections": []any{map[string]any{"name": "admin", "properties": map[string]any{"priority": 100, "action": map[string]any{"type": "Dnat"},
			"rules": []any{nat("ssh-hidden", "10.2.0.4", "2222"), nat("ssh-both", "10.2.0.5", "2223")}}}}}})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	if len(fs) != 2 {
		t.Fatalf("findings: %s", show(fs))
	}
	firewall, _ := w.sim.Get(w.sim.IDs("Microsoft.Network/azureFirewalls")[0])
	p, out := w.fix(fs, fix.Options{})
	if len(p.Left) != 2 || len(out.Open) != 2 || len(out.Fixed) != 0 {
		t.Fatalf("left %s\n%s", show(p.Left), show(out))
	}
	for _, l := range append(p.Left, out.Open...) {
		if !strings.HasPrefix(l.Why, "port 22 of "+l.Name+" is reached through a DNAT rule of Azure Firewall") || !strings.Contains(l.Next, "natRuleCollections/admin") && !strings.Contains(l.Next, "edge") {
			t.Errorf("%+v", l)
		}
	}
	if got, want := w.rules(g), "299 curfew-fix-deny-tcp-22, 300 ssh"; got != want || out.Writes != 1 {
		t.Errorf("rules: %s, want %s", got, want)
	}
	e2, err := w.read(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range e2.VMs() {
		for _, way := range e2.Ways(vm, netsec.TCP, 22) {
			if way.Kind != "firewall_dnat" && way.Kind != "virtual_network" && way.Reach.Exposed() {
				t.Errorf("%s is still reached by %s", vm.Name, way.Kind)
			}
		}
	}
	if now, _ := w.sim.Get(w.sim.IDs("Microsoft.Network/azureFirewalls")[0]); string(now) != string(firewall) {
		t.Error("the firewall was changed")
	}
}

// A security admin rule that always allows is asked before any group: it is left by its name, with what would help, whichever way the
// machine was to be shut, and nothing is written for it.
func TestAlwaysAllowIsLeft(t *testing.T) {
	for _, c := range []struct {
		source string
		rules  []scan.RuleID
	}{{"Internet", []scan.RuleID{scan.VMPortExposed, scan.VMJITMissing}}, {"203.0.113.128/25", []scan.RuleID{scan.VMJITMissing}}} {
		for _, o := range []fix.Options{{}, {ShutVirtualNetwork: true}} {
			e := shop()
			e.AdminRules(strings.TrimSuffix(subnet(e, "web"), "/subnets/web"), estates.AdminRule{Name: "partner", Priority: 20, Access: "AlwaysAllow", Source: c.source, Port: "22"})
			g := e.NSG("web-nsg", estates.Allow("https", 300, "443", "*"))
			e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
			w := newWorld(t, e.JSON())
			fs := w.scan(c.rules...)
			if len(fs) != len(c.rules) {
				t.Fatalf("findings: %s", show(fs))
			}
			before := w.plain()
			p, out := w.fix(fs, o)
			if len(p.Left) != len(fs) || out.Writes != 0 || out.Undo != "" || w.plain() != before {
				t.Errorf("%s: %s\n%s", c.source, show(p), show(out))
			}
			for _, l := range p.Left {
				if !strings.Contains(l.Why, "partner") || !strings.Contains(l.Next, "security admin") {
					t.Errorf("%s: %+v", c.source, l)
				}
			}
		}
	}
}

// What is exempt gets in by a rule behind which somebody else's deny would shut it out: where protect's exemption would come to stand behind
// that deny it is an exemption in name alone. The machine is left as it is, with both ways on; with room before the deny the exemption keeps.
func TestExemptionBehindTheirDeny(t *testing.T) {
	estate := func(open, deny int, source string) (w *world, group string) {
		e := shop()
		group = e.NSG("web-nsg", estates.Rule{Name: "open", Priority: open, Source: "*", Destination: "10.0.1.4", Port: "22"}, estates.Rule{Name: "no-network", Priority: deny, Access: "Deny", Protocol: "Tcp", Source: source, Destination: "*", Port: "22"})
		e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: group})
		return newWorld(t, e.JSON()), group
	}
	network := func(w *world) bool {
		e, err := w.read(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		in := inside(e)["vm 10.0.1.4:22"]
		return in != nil && in.ContainsPrefix(netip.MustParsePrefix("10.0.0.0/16"))
	}
	consent := fix.Options{ReplaceRules: []string{"web-nsg/open"}}
	w, group := estate(100, 101, "10.0.1.0/24")
	fs := w.scan(scan.VMJITMissing)
	before := w.plain()
	p, out := w.fix(fs, consent)
	if len(p.Left) != 1 || out.Writes != 0 || w.plain() != before ||
		p.Left[0].Why != "protect cannot do it: exemption virtual-network (10.0.0.0/16) of port 22 would not keep its way in: it gets in by web-nsg/open, and behind that another rule denies it" ||
		!strings.Contains(p.Left[0].Next, "move the rule that denies it") || !strings.Contains(p.Left[0].Next, "--shut-virtual-network") {
		t.Fatalf("left %s, rules %s", show(p.Left), w.rules(group))
	}
	consent.ShutVirtualNetwork = true
	if _, out := w.fix(fs, consent); !out.Complete() || network(w) {
		t.Errorf("without the exemption: %s\nrules %s", show(out), w.rules(group))
	}
	w, _ = estate(100, 101, "10.0.250.0/24") // Bastion's way in is no part of that choice
	before = w.plain()
	if p, out := w.fix(w.scan(scan.VMJITMissing), consent); len(p.Left) != 1 || out.Writes != 0 || w.plain() != before || !strings.Contains(p.Left[0].Why, "exemption bastion (10.0.250.0/26)") ||
		strings.Contains(p.Left[0].Next, "--shut-virtual-network") {
		t.Errorf("left %s", show(p.Left))
	}
	// Where what others are let in by has no place behind the deny, consent does not help, and is not asked for again.
	w, _ = estate(100, 101, "10.0.0.0/16")
	if err := w.sim.Edit(w.sim.IDs("Microsoft.Network/networkSecurityGroups")[0], func(body map[string]any) error {
		for _, r := range body["properties"].(map[string]any)["securityRules"].([]any) {
			if r := r.(map[string]any); r["name"] == "open" {
				r["properties"].(map[string]any)["destinationAddressPrefix"] = "*"
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if p, _ := w.fix(w.scan(scan.VMJITMissing), consent); len(p.Left) != 1 || strings.Contains(p.Left[0].Next, "--replace-rule") || !strings.Contains(p.Left[0].Next, "narrow the rule by hand") {
		t.Errorf("left %s", show(p.Left))
	}
	w, group = estate(300, 301, "10.0.0.0/16")
	if _, out := w.fix(w.scan(scan.VMJITMissing), fix.Options{}); !out.Complete() || !network(w) {
		t.Errorf("with room: %s\nrules %s", show(out), w.rules(group))
	}
}

// Protecting one machine does not push the exemption of another, which is protected already, behind somebody else's deny: it is refused, by
// the name of the one that would lose, before anything is sent.
func TestExemptionOfANeighbour(t *testing.T) {
	e := shop()
	e.Bastion("bastion", subnet(e, "AzureBastionSubnet"), "198.51.100.250")
	g := e.NSG("web-nsg", estates.Rule{Name: "https", Priority: 103, Protocol: "*", Source: "10.0.0.0/8", Port: "443"},
		estates.Rule{Name: "office", Priority: 106, Source: "203.0.113.0/24", Destination: "10.0.1.0/24", Port: "22"}, estates.Allow("open", 107, "3389", "*"),
		estates.Rule{Name: "private", Priority: 109, Protocol: "*", Source: "10.0.0.0/8", Destination: "VirtualNetwork", Port: "20-30"},
		estates.Rule{Name: "no-network", Priority: 1200, Access: "Deny", Protocol: "*", Source: "VirtualNetwork", Port: "3389"})
	first := e.VM("first", estates.VM{OS: "Windows", Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", NSG: g})
	e.VM("second", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.5", NSG: g})
	e.VM("third", estates.VM{Subnet: subnet(e, "AzureBastionSubnet"), PrivateIP: "10.0.250.9", NSG: g})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMJITMissing)
	one := slices.DeleteFunc(slices.Clone(fs), func(f scan.Finding) bool { return f.Resource != first })
	two := slices.DeleteFunc(slices.Clone(fs), func(f scan.Finding) bool { return f.Resource == first })
	if _, out := w.fix(one, fix.Options{}); !out.Complete() {
		t.Fatalf("the first: %s", show(out))
	}
	before := w.plain()
	p, out := w.fix(two, fix.Options{ReplaceRules: []string{"web-nsg/open"}})
	if out.Writes != 0 || w.plain() != before || len(p.Left) != 2 || !slices.ContainsFunc(p.Left, func(l fix.Left) bool {
		return l.Name == "third" && strings.HasPrefix(l.Why, "protect cannot do it: it would take from first, which is protected already: exemption virtual-network (10.0.0.0/16) of port 3389 would not keep its way in") &&
			strings.HasPrefix(l.Next, "move the rule that denies it") && !strings.Contains(l.Next, "--shut-virtual-network")
	}) {
		t.Errorf("left %s, %d writes, rules %s", show(p.Left), out.Writes, w.rules(g))
	}
	// What can be done otherwise leaves the first as it is reached.
	reached := func() string {
		e, err := w.read(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(inside(e)["first 10.0.1.4:3389"].Prefixes())
	}
	was := reached()
	if _, out = w.fix(two, fix.Options{ReplaceRules: []string{"web-nsg/open", "web-nsg/office"}, ShutVirtualNetwork: true}); out.Writes == 0 || reached() != was || !strings.Contains(was, "10.0.0.0/16") {
		t.Errorf("%s, was %s: %s\nrules %s", reached(), was, show(out), w.rules(g))
	}
}

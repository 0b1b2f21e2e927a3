package fix_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// plan2 is Defender for Servers Plan 2 on the subscription.
var plan2 = map[string]any{"id": "/subscriptions/" + estates.DemoShop + "/providers/Microsoft.Security/pricings/VirtualMachines", "name": "VirtualMachines",
	"type": "Microsoft.Security/pricings", "properties": map[string]any{"pricingTier": "Standard", "subPlan": "P2"}}

// profile is what may change of a set, on one line.
func (w *world) profile(id string) string {
	w.t.Helper()
	set, err := w.client().ScaleSet(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	var body struct {
		Tags       map[string]any
		Properties struct {
			VirtualMachineProfile struct{ ScheduledEventsProfile any }
		}
	}
	if err := json.Unmarshal(set.Raw, &body); err != nil {
		w.t.Fatal(err)
	}
	b, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// withSibling puts a setting beside the termination notice of a set's model.
func (w *world) withSibling(id string) {
	w.t.Helper()
	if err := w.sim.Edit(id, func(body map[string]any) error {
		body["tags"] = map[string]any{"owner": "ops"}
		profile := body["properties"].(map[string]any)["virtualMachineProfile"].(map[string]any)
		profile["scheduledEventsProfile"] = map[string]any{"osImageNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": "PT15M"}}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// The model first, and nothing else of it; then the instances, by the set's own upgrade policy.
func TestScaleSets(t *testing.T) {
	ips := []string{"10.0.1.10", "10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14"}
	for _, mode := range []string{"Automatic", "Rolling", "Manual"} {
		t.Run(mode, func(t *testing.T) {
			e := shop()
			id := e.ScaleSet("workers", estates.ScaleSet{Subnet: subnet(e, "web"), PrivateIPs: ips, Mode: mode})
			w := newWorld(t, e.JSON())
			w.withSibling(id)
			before := w.profile(id)
			fs := w.scan(scan.VMSSTerminateOff)
			p, out := w.fix(fs, fix.Options{Delay: 10 * time.Minute})
			if len(p.Steps) != 1 || p.Steps[0].Kind != fix.ScaleSetStep {
				t.Fatalf("plan: %s", show(p))
			}
			body, _ := w.sim.Get(id)
			for _, want := range []string{`"PT10M"`, `"osImageNotificationProfile"`, `"PT15M"`, `"owner"`} {
				if !strings.Contains(string(body), want) {
					t.Errorf("%s is missing in %s", want, body)
				}
			}
			if mode != "Manual" {
				if !out.Complete() {
					t.Errorf("%s", show(out))
				}
			} else {
				if out.Complete() || len(out.Open) != 1 || !strings.Contains(out.Open[0].Why, "--upgrade-instances") {
					t.Errorf("%s", show(out))
				}
				writes := w.sim.Writes(id)
				if _, out = w.fix(fs, fix.Options{Delay: 10 * time.Minute, Upgrade: true, Unavailable: 40}); !out.Complete() {
					t.Errorf("%s", show(out))
				}
				if n := w.sim.Writes(id) - writes; n != 3 {
					t.Errorf("5 instances, 2 at a time, took %d writes, want 3", n)
				}
			}
			if p, out := w.fix(fs, fix.Options{Upgrade: true}); len(p.Steps) != 0 || out.Writes != 0 {
				t.Errorf("a second run: %s", show(p))
			}
			u, err := w.fixer().Undo(t.Context(), false)
			if err != nil || len(u.Done) != 1 {
				t.Fatalf("%v, %s", err, show(u))
			}
			if got := w.profile(id); got != before {
				t.Errorf("the model is %s, was %s", got, before)
			}
		})
	}
}

// The upgrade stops at the batch that fails, says how far it came, and the next run goes on from there (P8).
func TestUpgradeStopsOnFailure(t *testing.T) {
	e := shop()
	id := e.ScaleSet("workers", estates.ScaleSet{Subnet: subnet(e, "web"), PrivateIPs: []string{"10.0.1.10", "10.0.1.11", "10.0.1.12", "10.0.1.13"}})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMSSTerminateOff)
	if _, err := w.sim.Fault(sim.Fault{Kind: "operation-failed", Method: "POST", PathPattern: "/manualupgrade$", Skip: 1, Count: 1, Code: "VMExtensionProvisioningError", Message: "the extension failed"}); err != nil {
		t.Fatal(err)
	}
	_, out := w.fix(fs, fix.Options{Upgrade: true})
	if out.Complete() || out.Steps[0].State != fix.StepPartly || !strings.HasPrefix(out.Steps[0].Error, "1 of 4 instances are on the model; then instance 1 failed") {
		t.Fatalf("%s", show(out))
	}
	if n := w.sim.Writes(id); n != 2 { // the model, one batch; the one that failed was not applied
		t.Logf("%d writes", n)
	}
	if _, out = w.fix(fs, fix.Options{Upgrade: true}); !out.Complete() {
		t.Errorf("the next run: %s", show(out))
	}
}

// Two writers of one set: read again, decide again, and theirs stays.
func TestScaleSetWrittenBySomebodyElse(t *testing.T) {
	e := shop()
	id := e.ScaleSet("workers", estates.ScaleSet{Subnet: subnet(e, "web"), PrivateIPs: []string{"10.0.1.10"}, Mode: "Automatic"})
	w := newWorld(t, e.JSON())
	if _, err := w.sim.Fault(sim.Fault{Kind: "edit", Method: "PATCH", PathPattern: "/workers$", Count: 1, Edit: &sim.Edit{Merge: map[string]any{"tags": map[string]any{"by": "them"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, out := w.fix(w.scan(scan.VMSSTerminateOff), fix.Options{}); !out.Complete() {
		t.Errorf("%s", show(out))
	}
	if body, _ := w.sim.Get(id); !strings.Contains(string(body), "them") {
		t.Errorf("their tag is gone: %s", body)
	}
}

// Ours past its end goes by its name, Defender's with consent alone (P2, P3); in one write with what else is to be done there.
func TestOverdueAndOrphaned(t *testing.T) {
	e := shop()
	stamp := time.Now().Add(-2 * time.Hour).UTC().Format("20060102T150405Z")
	later := time.Now().Add(2 * time.Hour).UTC().Format("20060102T150405Z")
	over, live := "curfew-allow-prod-aaaa1111-"+stamp, "curfew-allow-prod-bbbb2222-"+later
	jit := "MicrosoftDefenderForCloud-JITRule-77-0123456789ABCDEF0123456789ABCDEF"
	g := e.NSG("web-nsg",
		estates.Rule{Name: jit, Priority: 100, Source: "203.0.113.9", Destination: "10.0.1.4", Port: "22", Description: "MDC JIT Network Access rule created by an initiation request for policy 'default' of VM 'vm'."},
		estates.Rule{Name: over, Priority: 150, Source: "203.0.113.7", Destination: "10.0.1.4", Port: "22"},
		estates.Rule{Name: live, Priority: 151, Source: "203.0.113.8", Destination: "10.0.1.4", Port: "22"},
		estates.Rule{Name: "curfew-deny-prod-tcp-22", Priority: 200, Destination: "10.0.1.99", Port: "22", Access: "Deny"},
		estates.Allow("ssh", 300, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.RuleOverdue, scan.RuleOrphaned, scan.VMPortExposed)
	if len(fs) != 3 {
		t.Fatalf("findings: %s", show(fs))
	}
	p, out := w.fix(fs, fix.Options{})
	if len(p.Left) != 1 || p.Left[0].Next != "consent to it: --remove-defender-rule web-nsg/"+jit || out.Writes != 1 {
		t.Errorf("%d writes, left %s", out.Writes, show(p.Left))
	}
	if got, want := w.rules(g), "100 "+jit+", 151 "+live+", 299 curfew-fix-deny-tcp-22, 300 ssh"; got != want {
		t.Errorf("rules: %s\nwant: %s", got, want)
	}
	if _, out = w.fix(fs, fix.Options{RemoveDefender: []string{"web-nsg/" + jit}}); !out.Complete() {
		t.Errorf("with consent: %s", show(out))
	}
	// What let somebody in for a time that is over does not come back (P1).
	u, err := w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Kept) != 2 {
		t.Errorf("%v, %s", err, show(u))
	}
	if got, want := w.rules(g), "151 "+live+", 200 curfew-deny-prod-tcp-22, 300 ssh"; got != want {
		t.Errorf("after undo: %s\nwant: %s", got, want)
	}
}

// Under somebody else's endless writing what is past its end goes rule by rule (P2).
func TestOverdueUnderRefusals(t *testing.T) {
	e := shop()
	over := "curfew-allow-prod-aaaa1111-" + time.Now().Add(-2*time.Hour).UTC().Format("20060102T150405Z")
	g := e.NSG("web-nsg", estates.Rule{Name: over, Priority: 150, Source: "203.0.113.7", Destination: "10.0.1.4", Port: "22"})
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", NSG: g})
	w := newWorld(t, e.JSON())
	if _, err := w.sim.Fault(sim.Fault{Kind: "error", Status: 412, Method: "PUT", PathPattern: "/web-nsg$"}); err != nil {
		t.Fatal(err)
	}
	if _, out := w.fix(w.scan(scan.RuleOverdue), fix.Options{}); !out.Complete() || w.rules(g) != "" {
		t.Errorf("%s, rules %s", show(out), w.rules(g))
	}
}

// An open window of Defender survives, and the machine is shut around it (P3).
func TestOpenWindowSurvives(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("ssh", 300, "22", "*"))
	vm := e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
	jit := "MicrosoftDefenderForCloud-JITRule-77-0123456789ABCDEF0123456789ABCDEF"
	e.Add(plan2)
	policy := e.ID("Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies", "default")
	end := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	e.Add(map[string]any{"id": policy, "name": "default", "type": "Microsoft.Security/locations/jitNetworkAccessPolicies", "kind": "Basic", "location": "westeurope", "properties": map[string]any{
		"provisioningState": "Succeeded", "virtualMachines": []any{map[string]any{"id": vm, "ports": []any{map[string]any{"number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "*", "maxRequestAccessDuration": "PT3H"}}}},
		"requests": []any{map[string]any{"requestor": "ann", "startTimeUtc": time.Now().UTC().Format(time.RFC3339), "virtualMachines": []any{map[string]any{"id": vm, "ports": []any{map[string]any{
			"number": 22, "allowedSourceAddressPrefix": "203.0.113.9", "endTimeUtc": end, "status": "Initiated", "statusReason": "UserRequested"}}}}}}}})
	w := newWorld(t, e.JSON())
	if err := w.sim.Edit(g, func(body map[string]any) error {
		props := body["properties"].(map[string]any)
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": jit, "properties": map[string]any{"description": "MDC JIT Network Access rule created by an initiation request for policy 'default' of VM 'vm'.",
			"priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22", "sourceAddressPrefix": "203.0.113.9", "destinationAddressPrefix": "10.0.1.4"}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	p, out := w.fix(w.scan(scan.VMPortExposed), fix.Options{})
	if !out.Complete() {
		t.Fatalf("%s", show(out))
	}
	if got, want := w.rules(g), "100 "+jit+", 299 curfew-fix-deny-tcp-22, 300 ssh"; got != want {
		t.Errorf("rules: %s, want %s", got, want)
	}
	if !slices.Contains(p.Steps[0].Keeps, "the window that "+jit+" holds open") {
		t.Errorf("the plan does not say that it stays open: %s", show(p.Steps[0]))
	}
	// The policy lets anybody ask: narrowed only to what a person chose, its request kept.
	fs := w.scan(scan.JITPolicyBroad)
	if p, _ := w.fix(fs, fix.Options{}); len(p.Steps) != 0 || len(p.Left) != 1 || !strings.Contains(p.Left[0].Next, "--max") {
		t.Errorf("%s", show(p))
	}
	p, out = w.fix(fs, fix.Options{JITFrom: prefixes("203.0.113.0/24"), JITMax: time.Hour})
	if !out.Complete() {
		t.Errorf("%s", show(out))
	}
	if len(p.Steps) != 1 || !slices.Contains(p.Steps[0].Notes, "Defender for Servers Plan 2 is needed on the subscription") {
		t.Errorf("the plan does not say what the write needs: %s", show(p))
	}
	if body, _ := w.sim.Get(policy); !strings.Contains(string(body), `"PT1H"`) || !strings.Contains(string(body), "203.0.113.0/24") || !strings.Contains(string(body), `"ann"`) {
		t.Errorf("policy: %s", body)
	}
	if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Done) != 2 || len(u.Kept) > 0 {
		t.Errorf("%v, %s", err, show(u))
	}
}

// Just-in-time access is switched on by protect, Bastion and the virtual network keep their way, and the undo file ends it.
func TestProtection(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("https", 200, "443", "*"), estates.Allow("ssh", 1000, "22", "*"))
	var vms []string
	for i := range 5 {
		vms = append(vms, e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: g}))
	}
	w := newWorld(t, e.JSON())
	before := w.plain()
	fs := w.scan(scan.VMJITMissing, scan.VMPortExposed)
	if len(fs) != 2*len(vms) {
		t.Fatalf("findings: %s", show(fs))
	}
	writes := w.sim.Writes(g)
	p, out := w.fix(fs, fix.Options{})
	if !out.Complete() || len(out.Fixed) != len(fs) {
		t.Fatalf("plan %s\noutcome %s", show(p), show(out))
	}
	if n := w.sim.Writes(g) - writes; n != 1 {
		t.Errorf("%d machines took %d writes", len(vms), n)
	}
	if ineffective := w.scan(scan.VMJITIneffective); len(ineffective) > 0 {
		t.Errorf("%s", show(ineffective))
	}
	if p, out := w.fix(fs, fix.Options{}); len(p.Steps) != 0 || out.Writes != 0 {
		t.Errorf("a second run: %s", show(p))
	}
	u, err := w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Done) != len(vms) {
		t.Fatalf("%v, %s", err, show(u))
	}
	if got := w.plain(); got != before {
		t.Errorf("the estate is not as it was: %s", w.rules(g))
	}
}

// A machine without any group gets one, and the plan says so.
func TestNoGroup(t *testing.T) {
	e := shop()
	e.VM("bare", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", PublicSKU: "Basic"})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMNoNSG)
	if len(fs) != 1 {
		t.Fatalf("findings: %s", show(fs))
	}
	p, out := w.fix(fs, fix.Options{})
	if !out.Complete() || !strings.Contains(show(p), "new network security group") {
		t.Errorf("plan %s\noutcome %s", show(p), show(out))
	}
	// What somebody has put into the group that was made keeps it; else it goes, and everything is as it was.
	made := w.sim.IDs("Microsoft.Network/networkSecurityGroups")[0]
	edit := func(change func(props map[string]any)) {
		if err := w.sim.Edit(made, func(body map[string]any) error { change(body["properties"].(map[string]any)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(props map[string]any) {
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": "theirs", "properties": map[string]any{"priority": 4000, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
			"sourcePortRange": "*", "sourceAddressPrefix": "10.0.9.0/24", "destinationAddressPrefix": "*", "destinationPortRange": "8080"}})
	})
	u, err := w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Kept) != 1 || !strings.Contains(u.Kept[0].Why, "theirs") || len(u.Done) != 1 {
		t.Errorf("with a rule of others: %v, %s", err, show(u))
	}
	edit(func(props map[string]any) { props["securityRules"] = []any{} })
	dry, err := w.fixer().Undo(t.Context(), true)
	if err != nil || len(dry.Done) != 1 || len(w.sim.IDs("Microsoft.Network/networkSecurityGroups")) != 1 {
		t.Errorf("a dry run: %v, %s", err, show(dry))
	}
	if u, err = w.fixer().Undo(t.Context(), false); err != nil || len(u.Done) != 1 || len(u.Kept)+len(u.Failed) > 0 {
		t.Errorf("undo: %v, %s", err, show(u))
	}
	if nic, _ := w.sim.Get(w.sim.IDs("Microsoft.Network/networkInterfaces")[0]); strings.Contains(string(nic), "networkSecurityGroup") || len(w.sim.IDs("Microsoft.Network/networkSecurityGroups")) > 0 {
		t.Errorf("the group is still there: %s", nic)
	}
	if again := w.scan(scan.VMNoNSG); len(again) != 1 || again[0].Severity != fs[0].Severity {
		t.Errorf("afterwards: %s", show(again))
	}
}

// Defender's own policies: one for a group and region, merged, and its name rule is known beforehand. FACTS 1.1.
func TestDefenderBackend(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("https", 200, "443", "*"))
	long := "a-machine-with-a-name-that-is-as-long-as-a-name-may-be-12345"
	for i, name := range []string{"one", "two", long} {
		e.VM(name, estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 4+i), NSG: g})
	}
	e.Add(plan2)
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMJITMissing)
	p, out := w.fix(fs, fix.Options{Backend: fix.Defender, JITFrom: prefixes("203.0.113.0/24")})
	if len(out.Fixed) != 2 || len(p.Left) != 1 || !strings.Contains(p.Left[0].Why, "56 at most") {
		t.Fatalf("plan %s\noutcome %s", show(p), show(out))
	}
	if n := len(w.sim.IDs("Microsoft.Security/locations/jitNetworkAccessPolicies")); n != 1 {
		t.Errorf("%d policies", n)
	}
	if p, out := w.fix(fs, fix.Options{Backend: fix.Defender, JITFrom: prefixes("203.0.113.0/24")}); len(p.Steps) != 0 || out.Writes != 0 {
		t.Errorf("a second run: %s", show(p))
	}
	if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Done) != 2 || len(w.sim.IDs("Microsoft.Security/locations/jitNetworkAccessPolicies")) != 0 {
		t.Errorf("%v, %s", err, show(u))
	}
}

// A group that is open by its own rules is shut for whatever may be behind it, the virtual network aside.
func TestWholeGroup(t *testing.T) {
	e := shop()
	g := e.NSG("idle-nsg", estates.Allow("office", 200, "22", "203.0.113.0/24"), estates.Allow("all", 300, "*", "Internet"))
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.NSGRuleBroad)
	if len(fs) != 1 {
		t.Fatalf("findings: %s", show(fs))
	}
	if _, out := w.fix(fs, fix.Options{}); !out.Complete() {
		t.Errorf("%s", show(out))
	}
	if got, want := w.rules(g), "200 office, 296 curfew-fix-deny-tcp-5986, 297 curfew-fix-deny-tcp-5985, 298 curfew-fix-deny-tcp-3389, 299 curfew-fix-deny-tcp-22, 300 all"; got != want {
		t.Errorf("rules: %s\nwant: %s", got, want)
	}
}

// What a person asks for and could not put the finding right is refused before anything is read.
func TestOptionsAreRefused(t *testing.T) {
	w := newWorld(t, shop().JSON())
	for text, o := range map[string]fix.Options{
		"longer than the 3h that the scan tolerates": {JITMax: 4 * time.Hour},
		"longer than the 2h that the scan tolerates": {JITMax: 3 * time.Hour, JITLimit: 2 * time.Hour},
		"shorter than the least":                     {Delay: 5 * time.Minute, LeastDelay: 10 * time.Minute},
		"a notice of termination of 20m0s":           {Delay: 20 * time.Minute},
		"101 percent":                                {Unavailable: 101},
		"does not name a rule":                       {RemoveDefender: []string{"rule"}},
		"is not known":                               {Backend: "magic"},
	} {
		if _, err := w.fixer().Plan(t.Context(), nil, o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v, want %q", o, err, text)
		}
	}
	if _, err := w.fixer().Plan(t.Context(), nil, fix.Options{JITMax: 8 * time.Hour, JITLimit: 8 * time.Hour}); err != nil {
		t.Error(err)
	}
}

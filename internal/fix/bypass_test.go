package fix_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const (
	jitAllow = "MicrosoftDefenderForCloud-JITRule-77-0123456789ABCDEF0123456789ABCDEF"
	jitDeny  = "MicrosoftDefenderForCloud-JITRule_78_0123456789ABCDEF0123456789ABCDEF"
)

// defended is a machine behind web-nsg with Defender's deny, an allow of a request of ann's from 203.0.113.9 that ends at end, and a rule of
// somebody else's that lets sources in before the deny.
func defended(t *testing.T, window int, sources string, end time.Time) (w *world, group string) {
	t.Helper()
	e := shop()
	group = e.NSG("web-nsg", estates.Allow("theirs", 300, "22", sources), estates.Rule{Name: jitDeny, Priority: 4096, Access: "Deny", Protocol: "*", Source: "*", Destination: "10.0.1.4", Port: "22",
		Description: "MDC JIT Network Access rule for policy 'default' of VM 'vm'."})
	vm := e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: group})
	e.Add(plan2)
	policy := e.ID("Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies", "default")
	e.Add(map[string]any{"id": policy, "name": "default", "type": "Microsoft.Security/locations/jitNetworkAccessPolicies", "kind": "Basic", "location": "westeurope", "properties": map[string]any{
		"provisioningState": "Succeeded", "virtualMachines": []any{map[string]any{"id": vm, "ports": []any{map[string]any{"number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "203.0.113.0/24", "maxRequestAccessDuration": "PT3H"}}}},
		"requests": []any{map[string]any{"requestor": "ann", "startTimeUtc": end.Add(-2 * time.Hour).Format(time.RFC3339), "virtualMachines": []any{map[string]any{"id": vm, "ports": []any{map[string]any{
			"number": 22, "allowedSourceAddressPrefix": "203.0.113.9", "endTimeUtc": end.Format(time.RFC3339), "status": "Initiated", "statusReason": "UserRequested"}}}}}}}})
	w = newWorld(t, e.JSON())
	if err := w.sim.Edit(group, func(body map[string]any) error { // as it was left, or is: the simulator carries out requests of its own
		props := body["properties"].(map[string]any)
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": jitAllow, "properties": map[string]any{"description": "MDC JIT Network Access rule created by an initiation request for policy 'default' of VM 'vm'.",
			"priority": window, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22", "sourceAddressPrefix": "203.0.113.9", "destinationAddressPrefix": "10.0.1.4"}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return w, group
}

// A rule of somebody else's before Defender's deny is what bypasses it, not the window that is open for a time: the plan names it, shuts what
// it can behind the window, and asks for no consent to the window's rule, which stays where it is (P3).
func TestBypassBesideAnOpenWindow(t *testing.T) {
	end := time.Now().Add(time.Hour).UTC()
	for _, window := range []int{100, 150} {
		for _, c := range []struct {
			sources string
			rules   string // after the run, behind the window
			open    string // what is left of it
		}{
			{"Internet", "299 curfew-fix-deny-tcp-22, 300 theirs", ""},
			{"*", "299 curfew-fix-deny-tcp-22, 300 theirs", "web-nsg/theirs (priority 300) lets the virtual network in to port 22 of vm, before"},
			{"203.0.113.0/24", "300 theirs", "web-nsg/theirs (priority 300) lets 203.0.113.0/24 in to port 22 of vm, before"},
			{"VirtualNetwork", "300 theirs", "web-nsg/theirs (priority 300) lets the virtual network in to port 22 of vm, before"},
		} {
			w, group := defended(t, window, c.sources, end)
			fs := w.scan(scan.VMJITIneffective)
			if len(fs) != 1 {
				t.Fatalf("%s: findings: %s", c.sources, show(fs))
			}
			for _, o := range []fix.Options{{}, {Backend: fix.Defender}, {ShutVirtualNetwork: true}, {ReplaceRules: []string{"web-nsg/" + jitAllow}}} {
				w, group := w, group
				if o.Backend != "" || o.ShutVirtualNetwork || o.ReplaceRules != nil {
					w, group = defended(t, window, c.sources, end)
				}
				before := "JITRule-77 at " + strings.Fields(w.rules(group))[0]
				p, out := w.fix(fs, o)
				if text := show(p); strings.Contains(text, "--replace-rule web-nsg/"+jitAllow) || !strings.Contains(text, "theirs") {
					t.Errorf("%d, %s, %+v: the plan is %s", window, c.sources, o, text)
				}
				if got, want := w.rules(group), strings.TrimPrefix(before, "JITRule-77 at ")+" "+jitAllow+", "+c.rules+", 4096 "+jitDeny; got != want {
					t.Errorf("%d, %s, %+v: rules %s\nwant %s", window, c.sources, o, got, want)
				}
				if c.open == "" {
					if !out.Complete() {
						t.Errorf("%d, %s, %+v: %s", window, c.sources, o, show(out))
					}
					continue
				}
				if len(p.Left) != 1 || !strings.HasPrefix(p.Left[0].Why, c.open) || !strings.Contains(p.Left[0].Next, end.Format("2006-01-02 15:04 UTC")) || len(out.Open) != 1 {
					t.Errorf("%d, %s, %+v: left %s", window, c.sources, o, show(p.Left))
				}
			}
			// When it is over and Defender has taken its rule away, the rest is shut.
			w.sim.Advance(2 * time.Hour)
			if err := w.sim.Edit(group, func(body map[string]any) error {
				props := body["properties"].(map[string]any)
				props["securityRules"] = slices.DeleteFunc(props["securityRules"].([]any), func(r any) bool { return r.(map[string]any)["name"] == jitAllow })
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if p, out := w.fix(w.scan(scan.VMJITIneffective), fix.Options{}); !out.Complete() || len(w.scan(scan.VMJITIneffective)) > 0 {
				t.Errorf("%d, %s: afterwards %s\n%s", window, c.sources, show(p), show(out))
			}
		}
	}
}

// A rule of Defender's that is past its end, before which nothing is free: the bypass is named, and what is to be done about that rule
// first; in a run with consent it goes, and the next one shuts the rest.
func TestBypassBehindAnOverdueRule(t *testing.T) {
	for _, sources := range []string{"VirtualNetwork", "*"} {
		w, group := defended(t, 100, sources, time.Now().Add(-time.Hour).UTC())
		fs := w.scan(scan.VMJITIneffective)
		p, _ := w.fix(fs, fix.Options{})
		if len(p.Left) != 1 || !strings.HasPrefix(p.Left[0].Why, "web-nsg/theirs (priority 300) lets the virtual network in to port 22 of vm") ||
			!strings.Contains(p.Left[0].Next, "--remove-defender-rule web-nsg/"+jitAllow) || strings.Contains(show(p), "--replace-rule") {
			t.Errorf("%s: left %s", sources, show(p.Left))
		}
		o := fix.Options{RemoveDefender: []string{"web-nsg/" + jitAllow}}
		all := w.scan(scan.VMJITIneffective, scan.RuleOverdue)
		if p, _ := w.fix(all, o); strings.Contains(w.rules(group), jitAllow) || len(p.Left) != 1 || !strings.Contains(p.Left[0].Next, "run fix again") {
			t.Errorf("%s: rules %s, left %s", sources, w.rules(group), show(p.Left))
		}
		if p, out := w.fix(w.scan(scan.VMJITIneffective), o); !out.Complete() || len(w.scan(scan.VMJITIneffective)) > 0 {
			t.Errorf("%s: the next run %s\n%s", sources, show(p), show(out))
		}
	}
	// Where that rule is all that bypasses, its end is enough.
	w, _ := defended(t, 100, "10.77.0.0/16", time.Now().Add(-time.Hour).UTC())
	if err := w.sim.Edit(w.sim.IDs("Microsoft.Network/networkSecurityGroups")[0], func(body map[string]any) error {
		props := body["properties"].(map[string]any)
		props["securityRules"] = slices.DeleteFunc(props["securityRules"].([]any), func(r any) bool { return r.(map[string]any)["name"] == "theirs" })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	fs := w.scan(scan.VMJITIneffective, scan.RuleOverdue)
	if len(fs) != 2 {
		t.Fatalf("findings: %s", show(fs))
	}
	if p, out := w.fix(fs, fix.Options{RemoveDefender: []string{"web-nsg/" + jitAllow}}); !out.Complete() || len(p.Left) > 0 || len(p.Steps) != 1 || len(p.Steps[0].Findings) != 2 {
		t.Errorf("%s\n%s", show(p), show(out))
	}
}

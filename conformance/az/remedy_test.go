package az_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/conformance/simtest"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/scan/remedy"
)

// What a finding proposes as az is run as it stands, by a shell, with az; then the finding is no more. One at a time, each on what the
// one before has left.
func TestRemedies(t *testing.T) {
	log := newTranscript(t, "az-remedies")
	a := simtest.Sim(t)
	a.Settle("0s")
	c := newCLI(t, a, log)
	c.signIn(a)

	judge := func() (*estate.Estate, map[string]scan.Finding) {
		t.Helper()
		e, err := estate.Read(bytes.NewReader(a.Control("GET", "estate", "")))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]scan.Finding{}
		scan.Judge(e, scan.Options{Now: time.Now(), All: true}, func(f scan.Finding) { out[string(f.Rule)+" "+f.Name] = f })
		return e, out
	}
	fix := func(name string) {
		t.Helper()
		e, before := judge()
		f, ok := before[name]
		if !ok || f.Status != scan.Fail {
			t.Errorf("%s does not fail before: %s (%s)", name, f.Status, f.Reason)
			return
		}
		r := remedy.For(f, e)
		if r.AzureCLI == "" {
			t.Errorf("%s has no az: %s", name, r.Summary)
			return
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", r.AzureCLI)
		cmd.Env, cmd.Dir = append(c.env, "NETWORK=203.0.113.0/28"), t.TempDir()
		out, err := cmd.CombinedOutput()
		log.add("# %s: %s\n%s%s\n\n", name, r.Summary, r.AzureCLI, out)
		if err != nil {
			t.Errorf("%s: %v\n%s\n%s", name, err, r.AzureCLI, out)
			return
		}
		e, after := judge()
		if g, ok := after[name]; ok && g.Status != scan.Pass && g.Status != scan.NotApplicable {
			t.Errorf("%s is %s afterwards: %s\n%s", name, g.Status, g.Reason, r.AzureCLI)
		}
		for k, g := range after {
			if was, ok := before[k]; g.Status == scan.Fail && (!ok || was.Status != scan.Fail) && k != name && g.Rule != scan.VMJITIneffective {
				t.Errorf("%s made %s fail: %s", name, k, g.Reason)
			}
		}
		if f.Type == "Microsoft.Compute/virtualMachines" && (f.Rule == scan.VMPortExposed || f.Rule == scan.VMNoNSG) {
			vm, _ := e.VM(f.Resource)
			for _, w := range e.Ways(vm, netsec.TCP, f.Evidence.Ports[0].Port) {
				if w.Kind == estate.VirtualNetwork && w.Reach.VirtualNetwork.Access() == netsec.Deny {
					t.Errorf("%s: the virtual network is out", name)
				}
			}
		}
	}

	// A sibling of the notification, which must stay.
	set := "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-orders/providers/Microsoft.Compute/virtualMachineScaleSets/render"
	sibling := `{"properties":{"virtualMachineProfile":{"scheduledEventsProfile":{"osImageNotificationProfile":{"enable":true,"notBeforeTimeout":"PT15M"}}}}}`
	c.ok("rest", "--method", "patch", "--url", set+"?api-version=2024-07-01", "--body", sibling)
	fix("vmss-terminate-notification-off render")
	if got := fmt.Sprint(at(c.ok("rest", "--method", "get", "--url", set+"?api-version=2024-07-01"), "properties", "virtualMachineProfile", "scheduledEventsProfile")); !strings.Contains(got, "osImageNotificationProfile") || !strings.Contains(got, "PT10M") {
		t.Errorf("the profile is now %s", got)
	}

	fix("vm-management-port-exposed payroll")
	fix("vm-management-port-exposed reports-01") // by a NAT rule of a balancer
	fix("vm-management-port-exposed app-01")     // two groups in the way
	fix("vm-management-port-exposed web-02")     // between a foreign rule and its neighbours
	fix("nsg-rule-broad search-01-nsg")
	// az network nic update (vm-no-nsg) and az network nsg rule update (no priority is free) end in an import error with Debian's az, before
	// they look at their arguments: docs/conformance.md.

	// A policy for a machine, one that is bypassed, one that is too broad.
	c.ok("rest", "--method", "put", "--url", "/subscriptions/"+simtest.Shop+"/providers/Microsoft.Security/pricings/VirtualMachines?api-version=2024-01-01",
		"--body", `{"properties":{"pricingTier":"Standard","subPlan":"P2"}}`)
	fix("vm-jit-missing orders-01")
	policy := "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-web/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/web?api-version=2020-01-01"
	vm := func(name string) string {
		return "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines/" + name
	}
	port := func(number int, source, longest string) string {
		return fmt.Sprintf(`{"number":%d,"protocol":"*","allowedSourceAddressPrefix":"%s","maxRequestAccessDuration":"%s"}`, number, source, longest)
	}
	c.ok("rest", "--method", "put", "--url", policy, "--body", `{"kind":"Basic","properties":{"virtualMachines":[{"id":"`+strings.ToUpper(vm("web-01"))+`","ports":[`+port(3389, "203.0.113.7", "PT1H")+
		`]},{"id":"`+vm("web-02")+`","ports":[`+port(22, "*", "PT24H")+`,`+port(5986, "203.0.113.9", "PT1H")+`]}]}}`)
	fix("jit-policy-broad web")  // the demo has another by the name of default
	fix("vm-jit-missing web-01") // into the policy that names it already
	machines, _ := at(c.ok("rest", "--method", "get", "--url", policy), "properties", "virtualMachines").([]any)
	var ports []string
	for _, m := range machines {
		list, _ := at(m, "ports").([]any)
		for _, p := range list {
			id, _ := at(m, "id").(string)
			ports = append(ports, fmt.Sprintf("%s %v %v %v", strings.ToLower(id[strings.LastIndex(id, "/")+1:]), at(p, "number"), at(p, "allowedSourceAddressPrefix"), at(p, "maxRequestAccessDuration")))
		}
	}
	for _, want := range []string{"web-01 3389 203.0.113.7 PT1H", "web-01 22 203.0.113.0/28 PT3H", "web-02 22 203.0.113.0/28 PT3H", "web-02 5986 203.0.113.9 PT1H"} {
		if !has(ports, want) || len(ports) != 4 {
			t.Errorf("%q is missing in the policy: %q", want, ports)
		}
	}
	if _, now := judge(); now["vm-jit-ineffective web-02"].Status == scan.Fail {
		fix("vm-jit-ineffective web-02")
	} else {
		t.Errorf("web-02 is protected: %s", now["vm-jit-ineffective web-02"].Reason)
	}

	// A rule past its end.
	c.ok("network", "nsg", "rule", "create", "-g", "shop-orders", "--nsg-name", "orders-nsg", "-n", "curfew-allow-demo-01jabc-20260101T000000Z", "--priority", "120", "--direction", "Inbound",
		"--access", "Allow", "--protocol", "Tcp", "--source-address-prefixes", "203.0.113.5", "--destination-address-prefixes", "10.10.1.21", "--destination-port-ranges", "22")
	fix("rule-overdue orders-nsg")
	c.ok("network", "nsg", "rule", "create", "-g", "shop-orders", "--nsg-name", "orders-nsg", "-n", "curfew-deny-demo-tcp-22", "--priority", "121", "--direction", "Inbound",
		"--access", "Deny", "--protocol", "Tcp", "--source-address-prefixes", "*", "--destination-address-prefixes", "10.10.1.250", "--destination-port-ranges", "22")
	fix("rule-orphaned orders-nsg")
}

package sim_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const (
	jitSub  = "/subscriptions/00000000-0000-0000-0000-00000000000b"
	pricing = jitSub + "/providers/Microsoft.Security/pricings/VirtualMachines"
)

type jitEstate struct {
	*az
	vm, other, nicNSG, subNSG, policy string
}

func newJIT(t *testing.T, clk *clock.Manual) jitEstate {
	e := estates.New()
	e.Subscription(strings.TrimPrefix(jitSub, "/subscriptions/"), "jit")
	g := e.Group("apps", "westeurope")
	nic := e.NSG("nic-nsg", estates.Allow("web", 200, "443", "*"))
	sn := e.NSG("sub-nsg")
	v := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "a", Prefix: "10.1.0.0/24", NSG: sn}, estates.Subnet{Name: "bare", Prefix: "10.1.1.0/24"})
	vm := e.VM("web-01", estates.VM{Subnet: v + "/subnets/a", PrivateIP: "10.1.0.4", NSG: nic})
	other := e.VM("bare-01", estates.VM{Subnet: v + "/subnets/bare", PrivateIP: "10.1.1.4"})
	return jitEstate{newAz(t, sim.Config{Estate: e.JSON(), Now: clk.Now}), vm, other, nic, sn, g + "/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"}
}

func jitBody(vm string, ports ...map[string]any) map[string]any {
	return map[string]any{"kind": "Basic", "properties": map[string]any{"virtualMachines": []any{map[string]any{"id": vm, "ports": ports}}}}
}

func jitPort(n int, source string) map[string]any {
	return map[string]any{"number": n, "protocol": "*", "allowedSourceAddressPrefix": source, "maxRequestAccessDuration": "PT3H"}
}

// rules of an NSG that Defender wrote: name, access, priority, destination, port, source, description.
func (j jitEstate) rules(nsg string) (out []string) {
	raw, _ := j.s.Get(nsg)
	var b map[string]any
	if err := json.Unmarshal(raw, &b); err != nil {
		j.t.Fatal(err)
	}
	for _, r := range list(at(b, "properties", "securityRules")) {
		p := at(r, "properties").(map[string]any)
		if name := at(r, "name").(string); strings.HasPrefix(name, "MicrosoftDefenderForCloud-JITRule") {
			out = append(out, fmt.Sprint(p["access"], " ", p["priority"], " ", p["sourceAddressPrefix"], " -> ", p["destinationAddressPrefix"], ":", p["destinationPortRange"], " ", p["protocol"], " ", p["description"]))
		}
	}
	return out
}

func (j jitEstate) initiate(status int, port map[string]any) map[string]any {
	j.t.Helper()
	return j.do(status, "POST", j.policy+"/initiate", map[string]any{"virtualMachines": []any{map[string]any{"id": strings.ToUpper(j.vm), "ports": []any{port}}}, "justification": "INC-1"}).body
}

func TestJITPolicies(t *testing.T) {
	clk := clock.NewManual(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC))
	j := newJIT(t, clk)
	j.fails(400, "SubscriptionNotInStandardTier", "PUT", j.policy, jitBody(j.vm, jitPort(22, "*")))
	if got := at(j.do(200, "PUT", pricing, map[string]any{"properties": map[string]any{"pricingTier": "standard", "subPlan": "P1"}}).body, "properties", "subPlan"); got != "P1" {
		t.Errorf("got sub plan %v", got)
	}
	j.fails(400, "SubscriptionNotInStandardTier", "PUT", j.policy, jitBody(j.vm, jitPort(22, "*")))
	if got := at(j.do(200, "PUT", pricing, map[string]any{"properties": map[string]any{"pricingTier": "standard"}}).body, "properties", "subPlan"); got != "P2" {
		t.Errorf("got sub plan %v, want P2 where none is named (recorded)", got)
	}

	for name, bad := range map[string]map[string]any{
		"a number too large": {"number": 65536}, "no number": {"number": nil}, "a protocol": {"protocol": "Icmp"}, "4 minutes": {"maxRequestAccessDuration": "PT4M"}, "25 hours": {"maxRequestAccessDuration": "PT25H"},
		"no duration": {"maxRequestAccessDuration": "3h"}, "both sources": {"allowedSourceAddressPrefixes": []string{"10.0.0.1"}}, "a tag": {"allowedSourceAddressPrefix": "Internet"},
	} {
		p := jitPort(22, "*")
		for k, v := range bad {
			p[k] = v
		}
		t.Log(name)
		j.fails(400, "InvalidInputJson", "PUT", j.policy, jitBody(j.vm, p))
	}
	j.fails(400, "VirtualMachineNotFound", "PUT", j.policy, jitBody(j.vm+"x", jitPort(22, "*")))
	j.fails(400, "VirtualMachineNotSupported", "PUT", j.policy, jitBody(j.other, jitPort(22, "*")))
	j.fails(400, "InvalidInputJson", "PUT", strings.Replace(j.policy, "westeurope", "eastus", 1), jitBody(j.vm, jitPort(22, "*")))
	j.fails(400, "InvalidInputJson", "PUT", strings.Replace(j.policy, "/default", "/"+strings.Repeat("p", 52), 1), jitBody(j.vm, jitPort(22, "*")))
	j.fails(400, "InvalidInputJson", "PUT", j.policy, jitBody(j.vm))
	if got := j.rules(j.nicNSG); got != nil {
		t.Fatalf("refused policies wrote %v", got)
	}

	r := j.do(200, "PUT", j.policy, jitBody(j.vm, jitPort(22, "*"), jitPort(3389, "203.0.113.0/24")))
	if r.body["etag"] != nil || at(r.body, "properties", "provisioningState") != "Succeeded" || at(r.body, "properties", "appendMode") != false ||
		r.body["location"] != "westeurope" || r.body["type"] != "Microsoft.Security/locations/jitNetworkAccessPolicies" || list(at(r.body, "properties", "requests")) == nil {
		t.Errorf("got %s", r.raw)
	}
	want := []string{"Deny 4096 * -> 10.1.0.4:22 * MDC JIT Network Access rule for policy 'default' of VM 'web-01'.",
		"Deny 4095 * -> 10.1.0.4:3389 * MDC JIT Network Access rule for policy 'default' of VM 'web-01'."}
	for _, g := range []string{j.nicNSG, j.subNSG} {
		if got := j.rules(g); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got rules %q, want %q", got, want)
		}
	}
	raw, _ := j.s.Get(j.nicNSG)
	if !regexp.MustCompile(`"MicrosoftDefenderForCloud-JITRule_-?\d+_[0-9A-F]{32}"`).Match(raw) {
		t.Errorf("no rule is named as Defender names them: %s", raw)
	}
	for _, path := range []string{jitSub + "/providers/Microsoft.Security/jitNetworkAccessPolicies", jitSub + "/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies",
		jitSub + "/resourceGroups/apps/providers/Microsoft.Security/jitNetworkAccessPolicies", jitSub + "/resourceGroups/apps/providers/Microsoft.Security/locations/WestEurope/jitNetworkAccessPolicies"} {
		if got := list(j.do(200, "GET", path, nil).body["value"]); len(got) != 1 {
			t.Errorf("%s: got %v", path, got)
		}
	}
	if got := list(j.do(200, "GET", jitSub+"/providers/Microsoft.Security/locations/eastus/jitNetworkAccessPolicies", nil).body["value"]); len(got) != 0 {
		t.Errorf("got %v in another region", got)
	}

	// PUT replaces: the port that is left out loses its rule, the other keeps it.
	j.do(200, "PUT", j.policy, jitBody(j.vm, jitPort(22, "*")))
	if got := j.rules(j.subNSG); len(got) != 1 || got[0] != want[0] {
		t.Errorf("got rules %q", got)
	}
	j.do(200, "DELETE", j.policy, nil)
	if got := append(j.rules(j.subNSG), j.rules(j.nicNSG)...); got != nil {
		t.Errorf("the policy left %q", got)
	}
	j.do(204, "DELETE", j.policy, nil)
	j.fails(404, "ResourceNotFound", "GET", j.policy, nil)
	j.fails(404, "ResourceNotFound", "POST", j.policy+"/initiate", map[string]any{})
}

func TestJITRequests(t *testing.T) {
	start := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	clk := clock.NewManual(start)
	j := newJIT(t, clk)
	j.do(200, "PUT", pricing, map[string]any{"properties": map[string]any{"pricingTier": "Standard"}})
	j.do(200, "PUT", j.policy, jitBody(j.vm, jitPort(22, "*"), jitPort(3389, "203.0.113.0/24")))
	port := func(n int, source string, d time.Duration) map[string]any {
		return map[string]any{"number": n, "allowedSourceAddressPrefix": source, "endTimeUtc": start.Add(d).Format(time.RFC3339)}
	}
	for code, p := range map[string]map[string]any{
		"RequestedDurationTooLong": port(22, "203.0.113.9", 4*time.Hour),
		"InvalidEndTime":           port(22, "203.0.113.9", -time.Hour),
		"InvalidInputJson":         {"number": 22, "duration": "PT1H"},
		"PortNotInPolicy":          port(5985, "203.0.113.9", time.Hour),
		"SourceAddressNotAllowed":  port(3389, "203.0.113.9", time.Hour), // inside the range, FACTS 1.1
	} {
		if got := at(j.initiate(400, p), "error", "code"); got != code {
			t.Errorf("got %v, want %s", got, code)
		}
	}
	b := j.initiate(202, port(22, "203.0.113.9", time.Hour))
	if at(b, "virtualMachines", 0, "ports", 0, "status") != "Initiated" || at(b, "virtualMachines", 0, "ports", 0, "statusReason") != "UserRequested" || b["justification"] != "INC-1" || b["requestor"] != sim.ClientID {
		t.Errorf("got %v", b)
	}
	j.initiate(202, port(3389, "203.0.113.0/24", 30*time.Minute))
	want := "Allow 100 203.0.113.9 -> 10.1.0.4:22 * MDC JIT Network Access rule created by an initiation request for policy 'default' of VM 'web-01'."
	if got := j.rules(j.subNSG); len(got) != 4 || got[2] != want || !strings.HasPrefix(got[3], "Allow 101 203.0.113.0/24 -> 10.1.0.4:3389") {
		t.Fatalf("got rules %q", got)
	}
	// A newer request for the same supersedes the older one.
	j.initiate(202, port(22, "203.0.113.9", 2*time.Hour))
	reasons := func() (out []any) {
		for _, q := range list(at(j.do(200, "GET", j.policy, nil).body, "properties", "requests")) {
			p := at(q, "virtualMachines", 0, "ports", 0)
			out = append(out, fmt.Sprint(at(p, "status"), " ", at(p, "statusReason")))
		}
		return out
	}
	if got := fmt.Sprint(reasons()); got != "[Revoked NewerRequestInitiated Initiated UserRequested Initiated UserRequested]" {
		t.Errorf("got %s", got)
	}
	// Loading a dump keeps what is to end; a lock keeps a rule past its end, until it is gone.
	dump := j.s.Dump()
	if err := j.s.Load(dump); err != nil {
		t.Fatal(err)
	}
	lock := j.nicNSG + "/providers/Microsoft.Authorization/locks/l"
	j.do(201, "PUT", lock, map[string]any{"properties": map[string]any{"level": "ReadOnly"}})
	clk.Advance(31 * time.Minute)
	if got := j.rules(j.subNSG); len(got) != 3 {
		t.Errorf("half an hour later: %q", got)
	}
	if got := j.rules(j.nicNSG); len(got) != 4 {
		t.Errorf("behind the lock: %q", got)
	}
	if got := fmt.Sprint(reasons()); got != "[Revoked NewerRequestInitiated Initiated UserRequested Initiated UserRequested]" {
		t.Errorf("behind the lock: %s", got)
	}
	j.do(200, "DELETE", lock, nil)
	clk.Advance(2 * time.Minute)
	if got := fmt.Sprint(reasons()); got != "[Revoked NewerRequestInitiated Revoked Expired Initiated UserRequested]" {
		t.Errorf("got %s", got)
	}
	clk.Advance(2 * time.Hour)
	for _, g := range []string{j.nicNSG, j.subNSG} {
		for _, r := range j.rules(g) {
			if strings.HasPrefix(r, "Allow") {
				t.Errorf("still there: %s", r)
			}
		}
	}
}

func TestDefenderPlans(t *testing.T) {
	j := newJIT(t, clock.NewManual(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)))
	all := list(j.do(200, "GET", jitSub+"/providers/Microsoft.Security/pricings", nil).body["value"])
	if len(all) != 15 || at(all[0], "name") != "VirtualMachines" || at(all[0], "properties", "pricingTier") != "Free" {
		t.Errorf("got %v", all)
	}
	if got := list(j.do(200, "GET", jitSub+"/providers/Microsoft.Security/pricings?$filter=name%20in%20(VirtualMachines,KeyVaults)", nil).body["value"]); len(got) != 2 {
		t.Errorf("got %v", got)
	}
	j.do(200, "PUT", pricing, map[string]any{"properties": map[string]any{"pricingTier": "Standard", "subPlan": "P2"}})
	onVM := j.vm + "/providers/Microsoft.Security/pricings/virtualMachines"
	if got := j.do(200, "GET", onVM, nil).body; at(got, "properties", "inherited") != "True" || at(got, "properties", "subPlan") != "P2" {
		t.Errorf("got %v", got)
	}
	j.fails(400, "InvalidParameter", "PUT", onVM, map[string]any{"properties": map[string]any{"pricingTier": "Standard", "subPlan": "P2"}})
	j.do(200, "PUT", onVM, map[string]any{"properties": map[string]any{"pricingTier": "Standard", "subPlan": "P1"}})
	if got := j.do(200, "GET", onVM, nil).body; at(got, "properties", "inherited") != "False" || at(got, "properties", "subPlan") != "P1" {
		t.Errorf("got %v", got)
	}
	j.do(200, "DELETE", onVM, nil)
	j.do(204, "DELETE", onVM, nil)
	j.fails(400, "InvalidParameter", "PUT", pricing, map[string]any{"properties": map[string]any{"pricingTier": "Gold"}})
	if got := list(j.do(200, "GET", jitSub+"/providers/Microsoft.Security/locations", nil).body["value"]); len(got) != 1 || at(got[0], "name") != "westeurope" {
		t.Errorf("got %v", got)
	}
	j.do(200, "GET", jitSub+"/providers/Microsoft.Security/locations/westeurope", nil)
	j.fails(404, "ResourceNotFound", "GET", jitSub+"/providers/Microsoft.Security/locations/mars", nil)
}

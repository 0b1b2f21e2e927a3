package broker_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// ruleBody returns a rule as the simulated Azure stores it, but for its etag.
func ruleBody(t testing.TB, s *bt.Stack, group, rule string) string {
	t.Helper()
	body, _ := s.Sim.Get(group)
	var n struct {
		Properties struct {
			SecurityRules []map[string]any `json:"securityRules"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(body, &n); err != nil {
		t.Fatal(err)
	}
	for _, r := range n.Properties.SecurityRules {
		if r["name"] == rule {
			delete(r, "etag")
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	return ""
}

func ruleNames(s *bt.Stack, group, prefix string) (out []string) {
	for name := range s.Rules(group) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func protect(t testing.TB, s *bt.Stack, in broker.ProtectInput) broker.ProtectPlan {
	t.Helper()
	return must[broker.ProtectPlan](t)(s.Broker.Protect(t.Context(), bt.Admin, in))
}

func protection(t testing.TB, s *bt.Stack, vm string) access.Protection {
	t.Helper()
	v := must[broker.VMInfo](t)(s.Broker.VM(t.Context(), bt.Admin, vm))
	if v.Protection == nil {
		return access.Protection{}
	}
	return *v.Protection
}

// Bad input to protect: nothing is planned and nothing written.
func TestBadProtect(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		web := s.Machine("web-01").NSGs()[0]
		writes := s.Sim.Writes(web)
		for _, c := range []struct {
			name  string
			in    broker.ProtectInput
			code  access.Code
			words []string
		}{
			{"none", broker.ProtectInput{}, access.CodeInvalid, []string{"machine"}},
			{"unknown", broker.ProtectInput{VMs: []string{"web-9"}}, access.CodeNotFound, []string{"web-9"}},
			{"ambiguous", broker.ProtectInput{VMs: []string{"build-01"}}, access.CodeAmbiguous, []string{"lab/build-01"}},
			{"twice", broker.ProtectInput{VMs: []string{"web-01", "shop-web/web-01"}}, access.CodeInvalid, []string{"twice"}},
			{"port", broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{}}}, access.CodeInvalid, []string{"65535"}},
			{"protocol", broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(22), Protocol: "icmp"}}}, access.CodeInvalid, []string{"icmp"}},
			{"max", broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(22), Max: 48 * time.Hour}}}, access.CodeInvalid, []string{"24h"}},
			{"exemption", broker.ProtectInput{VMs: []string{"web-01"}, Exemptions: []access.Exemption{{Name: "all", Source: "0.0.0.0/0"}}}, access.CodeInvalid, []string{"wide"}},
			{"exempt tag", broker.ProtectInput{VMs: []string{"web-01"}, Exemptions: []access.Exemption{{Name: "all", Source: "Internet"}}}, access.CodeInvalid, []string{"Internet"}},
			{"exempt nameless", broker.ProtectInput{VMs: []string{"web-01"}, Exemptions: []access.Exemption{{Source: "10.0.0.0/24"}}}, access.CodeInvalid, []string{"name"}},
			{"consent to nothing", broker.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"allow-all-admin"}}, access.CodeInvalid, []string{"NSG/RULE"}},
			{"another group", broker.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-01-nsg/allow-ssh"}}, access.CodeNotFound, []string{"web-03-nsg"}},
			{"no such rule", broker.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/allow-al-admin"}}, access.CodeNotFound, []string{"allow-all-admin"}},
			{"no group", broker.ProtectInput{VMs: []string{"fax-gateway"}}, access.CodeUnprotectable, []string{"--create-nsg"}},
			{"AKS", broker.ProtectInput{VMs: []string{"aks-system-31582749-0"}, CreateNSG: true}, access.CodeUnprotectable, []string{"managed"}},
			{"not protected", broker.ProtectInput{VMs: []string{"web-01"}, Off: true}, access.CodeNotProtected, []string{"web-01"}},
		} {
			t := named{t, c.name}
			_, err := s.Broker.Protect(t.Context(), bt.Admin, c.in)
			wants(t, err, c.code, c.words...)
			if _, perr := s.Broker.PlanProtect(t.Context(), bt.Admin, c.in); access.CodeOf(perr) != c.code {
				t.Errorf("the plan says %v", perr)
			}
		}
		if s.Sim.Writes(web) != writes || len(s.Broker.Protections()) != 0 {
			t.Errorf("something was written: %d, %v", s.Sim.Writes(web)-writes, s.Broker.Protections())
		}
	})
}

// P4: a machine that something bypasses is not said to be protected; nothing is changed, and it is said by what.
func TestBypassed(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		for vm, words := range map[string][]string{
			"sensor-hub": {"always-allow-partner", "nothing was changed"},
			"web-03":     {"allow-all-admin", "--replace-rule web-03-nsg/allow-all-admin"},
		} {
			group := s.Machine(vm).NSGs()[0]
			n := s.Sim.Writes(group)
			_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{vm}})
			wants(t, err, access.CodeConflict, words...)
			if s.Sim.Writes(group) != n || len(s.Broker.Protections()) != 0 {
				t.Errorf("%s: something was written", vm)
			}
		}
		// One of several that cannot be protected: nothing is done to the others either.
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01", "sensor-hub"}})
		wants(t, err, access.CodeConflict, "sensor-hub")
		if len(s.Broker.Protections()) != 0 {
			t.Error("web-01 was protected although the plan as a whole was refused")
		}
	})
}

// A machine whose exemption has no place before the deny is not protected without it: nothing is changed, and it is said what would
// help (P8). The deny alone would shut out the network that the plan shows as exempt.
func TestExemptionWithoutPlace(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("early-nsg", estates.Rule{Name: "early", Priority: 102, Source: "*", Port: "22"})
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"}, estates.Subnet{Name: "AzureBastionSubnet", Prefix: "10.1.250.0/26"})
	e.Bastion("bastion", vnet+"/subnets/AzureBastionSubnet", "198.51.100.250")
	e.VM("a", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4", NSG: group})
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		in := broker.ProtectInput{VMs: []string{"a"}, Exemptions: []access.Exemption{{Name: "virtual-network", Source: "10.1.0.0/17"}}}
		writes := s.Sim.Writes(group)
		plan := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, in))
		if v := plan.VMs[0]; !strings.Contains(v.Error, "exemption bastion") || v.Hint != "--replace-rule early-nsg/early" {
			t.Errorf("the plan says %q, %q", v.Error, v.Hint)
		}
		_, err := s.Broker.Protect(t.Context(), bt.Admin, in)
		wants(t, err, access.CodeConflict, "exemption bastion", "nothing was changed", "--replace-rule early-nsg/early")
		if s.Sim.Writes(group) != writes || len(s.Broker.Protections()) != 0 {
			t.Error("something was written")
		}
		in.Replace = []string{"early-nsg/early"}
		if v := protect(t, s, in).VMs[0]; v.Error != "" || v.State != string(access.ProtectionOn) {
			t.Errorf("with consent: %+v", v)
		}
		if n := len(ruleNames(s, group, "curfew-exempt-")); n < 2 {
			t.Errorf("%d exemptions stand", n)
		}
	})
}

// P4: every situation of the estate that can be protected is shut afterwards, on every address; the rest is said why.
func TestEverySituation(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		in := broker.ProtectInput{VMs: []string{"web-01", "web-02", "orders-01", "orders-02", "db-01", "app-01", "reports-01", "payroll", "search-01", "api-01", "batch-01", "lab/build-01"}}
		for _, v := range protect(t, s, in).VMs {
			if v.State != string(access.ProtectionOn) || len(v.After) != 0 {
				t.Errorf("%s: %s, still reached by %v", v.VM.Name, v.State, v.After)
			}
		}
		for _, vm := range in.VMs {
			if v := must[broker.VMInfo](t)(s.Broker.VM(t.Context(), bt.Requester, vm)); v.State != "protected" {
				t.Errorf("%s: %s %s", vm, v.State, v.Why)
			}
		}
	})
}

// A confirmation is for what was shown: the same plan has the same digest, and another one is refused.
func TestDigest(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		in := broker.ProtectInput{VMs: []string{"web-01", "orders-01"}}
		a := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, in))
		time.Sleep(time.Minute)
		b := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, in))
		if a.Digest == "" || a.Digest != b.Digest {
			t.Errorf("the same plan has digests %q and %q", a.Digest, b.Digest)
		}
		group := s.Machine("web-01").NSGs()[0]
		if err := s.Sim.Edit(group, func(m map[string]any) error {
			p := m["properties"].(map[string]any)
			p["securityRules"] = append(p["securityRules"].([]any), map[string]any{"name": "vendor", "properties": map[string]any{"priority": 150, "direction": "Inbound", "access": "Allow",
				"protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22", "sourceAddressPrefix": "198.51.100.77", "destinationAddressPrefix": "*"}})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		in.Digest = a.Digest
		now, err := s.Broker.Protect(t.Context(), bt.Admin, in)
		wants(t, err, access.CodePlanChanged)
		if now.Digest == a.Digest || now.Applied || len(ruleNames(s, group, "curfew-")) != 0 {
			t.Errorf("digest %q, applied %t, rules %v", now.Digest, now.Applied, ruleNames(s, group, "curfew-"))
		}
		in.Digest = now.Digest
		if got := protect(t, s, in); !got.Applied || got.Digest != now.Digest {
			t.Errorf("the new plan was confirmed: applied %t, digest %q, want %q", got.Applied, got.Digest, now.Digest)
		}
	})
}

// P3: a rule is replaced with consent by name alone; its other ports go on; its original is in the log; unprotect restores it byte
// for byte.
func TestReplaceAndRestore(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		group := s.Machine("web-03").NSGs()[0]
		original := ruleBody(t, s, group, "allow-all-admin")
		plan := protect(t, s, broker.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/ALLOW-all-admin"}})
		if plan.VMs[0].State != string(access.ProtectionOn) {
			t.Fatalf("%+v", plan.VMs[0])
		}
		if now := ruleBody(t, s, group, "allow-all-admin"); now == original || now == "" {
			t.Errorf("the rule was not narrowed: %s", now)
		}
		var kept audit.Entry
		for _, e := range s.Log() {
			if e.Action == "rule.replace" {
				kept = e
			}
		}
		if kept.Actor != bt.Admin.Name || !strings.Contains(kept.Detail["original"], "allow-all-admin") {
			t.Errorf("the original is not in the log: %+v", kept)
		}
		off := protect(t, s, broker.ProtectInput{VMs: []string{"web-03"}, Off: true})
		if off.VMs[0].State != string(access.ProtectionRemoved) {
			t.Errorf("%+v", off.VMs[0])
		}
		if now := ruleBody(t, s, group, "allow-all-admin"); now != original {
			t.Errorf("P3: the rule is\n%s\nand was\n%s", now, original)
		}
		if left := ruleNames(s, group, "curfew-"); len(left) != 0 {
			t.Errorf("rules of ours are left: %v", left)
		}
	})
}

// sharedEarly is two machines behind one group with an allow of both at priority 100.
func sharedEarly() ([]byte, string) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("both-nsg", estates.Rule{Name: "early", Priority: 100, Source: "Internet", Ports: []string{"22", "443"}})
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	e.VM("a", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4", NSG: group})
	e.VM("b", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.5", PublicIP: "198.51.100.5", NSG: group})
	return e.JSON(), group
}

// P3: a rule that two machines need aside comes back when the last of them is unprotected, whichever that is.
func TestReplacedForTwo(t *testing.T) {
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		estate, group := sharedEarly()
		bubble(t, bt.Options{Estate: estate}, func(t *testing.T, s *bt.Stack) {
			original := ruleBody(t, s, group, "early")
			for _, vm := range []string{"a", "b"} {
				s.Protect(vm, "both-nsg/early")
			}
			protect(t, s, broker.ProtectInput{VMs: order[:1], Off: true})
			if now := ruleBody(t, s, group, "early"); now == original {
				t.Errorf("%v: the rule is back although %s is still protected", order, order[1])
			}
			if p := protection(t, s, order[1]); p.State != access.ProtectionOn || len(p.Replaced) != 1 {
				t.Errorf("%v: %s is %s and keeps %d originals, want one", order, order[1], p.State, len(p.Replaced))
			}
			time.Sleep(2 * time.Minute) // sweeps change nothing of that
			protect(t, s, broker.ProtectInput{VMs: order[1:], Off: true})
			if now := ruleBody(t, s, group, "early"); now != original {
				t.Errorf("P3 %v: the rule is\n%s\nand was\n%s", order, now, original)
			}
		})
	}
	estate, group := sharedEarly()
	bubble(t, bt.Options{Estate: estate}, func(t *testing.T, s *bt.Stack) { // both at once
		original := ruleBody(t, s, group, "early")
		protect(t, s, broker.ProtectInput{VMs: []string{"a", "b"}, Replace: []string{"both-nsg/early"}})
		protect(t, s, broker.ProtectInput{VMs: []string{"a", "b"}, Off: true})
		if now := ruleBody(t, s, group, "early"); now != original {
			t.Errorf("P3: the rule is\n%s\nand was\n%s", now, original)
		}
	})
}

// P3: the original is kept before anything is written; where it cannot be, nothing is.
func TestKeptBeforeWrite(t *testing.T) {
	var full atomic.Bool
	var n atomic.Int32
	hooks := sqlite.Hooks{Fault: func(op string) error {
		if op == "commit" && full.Load() && n.Add(1) > 1 { // the intent is stored, the original is not
			return sqlite.FaultFull
		}
		return nil
	}}
	bubble(t, bt.Options{StoreHooks: hooks}, func(t *testing.T, s *bt.Stack) {
		group := s.Machine("web-03").NSGs()[0]
		original := ruleBody(t, s, group, "allow-all-admin")
		full.Store(true)
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/allow-all-admin"}})
		wants(t, err, access.CodeUnavailable, "disk is full")
		if now := ruleBody(t, s, group, "allow-all-admin"); now != original {
			t.Errorf("P3: written although the original could not be kept: %s", now)
		}
		full.Store(false)
		time.Sleep(2 * time.Minute) // the reconciler finishes what was intended, P8
		if p := protection(t, s, "web-03"); p.State != access.ProtectionOn || len(p.Replaced) != 1 {
			t.Errorf("two minutes later: %s %s, %d originals", p.State, p.Why, len(p.Replaced))
		}
	})
}

// P3: the machine has another group by now; what was set aside in the old one is restored all the same.
func TestRestoreInGroupLeftBehind(t *testing.T) {
	estate, group := sharedEarly()
	bubble(t, bt.Options{Estate: estate}, func(t *testing.T, s *bt.Stack) {
		original := ruleBody(t, s, group, "early")
		s.Protect("a", "both-nsg/early")
		next := strings.Replace(group, "both-nsg", "next-nsg", 1)
		if err := s.Sim.Edit(next, func(b map[string]any) error {
			b["location"], b["properties"] = "westeurope", map[string]any{"securityRules": []any{}}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Sim.Edit(s.Machine("a").Endpoints[0].NIC, func(b map[string]any) error {
			b["properties"].(map[string]any)["networkSecurityGroup"] = map[string]any{"id": next}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if p := protection(t, s, "a"); p.State != access.ProtectionOn || len(ruleNames(s, next, "curfew-deny-")) == 0 {
			t.Errorf("the shield did not follow: %s %s", p.State, p.Why)
		}
		protect(t, s, broker.ProtectInput{VMs: []string{"a"}, Off: true})
		if now := ruleBody(t, s, group, "early"); now != original {
			t.Errorf("P3: the rule is\n%s\nand was\n%s", now, original)
		}
		if left := append(ruleNames(s, group, "curfew-"), ruleNames(s, next, "curfew-")...); len(left) != 0 {
			t.Errorf("rules of ours are left: %v", left)
		}
	})
}

// P3, P8: a rule that was wholly set aside cannot come back while its priority is taken; its original is kept, that is said, and it
// comes back once the way is clear.
func TestRestoreBlocked(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("one-nsg", estates.Rule{Name: "early", Priority: 100, Source: "Internet", Destination: "10.1.0.4", Port: "22"})
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	e.VM("a", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4", NSG: group})
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		original := ruleBody(t, s, group, "early")
		s.Protect("a", "one-nsg/early")
		if now := ruleBody(t, s, group, "early"); now != "" {
			t.Fatalf("something is left of it: %s", now)
		}
		taken := map[string]any{"name": "squatter", "properties": map[string]any{"priority": 100, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
			"sourcePortRange": "*", "destinationPortRange": "8080", "sourceAddressPrefix": "10.0.0.0/8", "destinationAddressPrefix": "*"}}
		if err := s.Sim.Edit(group, func(m map[string]any) error {
			p := m["properties"].(map[string]any)
			p["securityRules"] = append(p["securityRules"].([]any), taken)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"a"}, Off: true})
		wants(t, err, access.CodeConflict, "early", "priority 100", "unprotect again", "nothing was changed")
		if p := protection(t, s, "a"); p.State != access.ProtectionOn || len(p.Replaced) != 1 {
			t.Errorf("%s, keeps %d originals", p.State, len(p.Replaced))
		}
		if err := s.Sim.Delete(group + "/securityRules/squatter"); err != nil {
			t.Fatal(err)
		}
		// Somebody takes the priority between the plan and the write.
		if _, err := s.Sim.Fault(sim.Fault{Kind: "edit", Method: "PUT", PathPattern: "one-nsg$", Count: 1, Edit: &sim.Edit{AddRules: []map[string]any{taken}}}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"a"}, Off: true})
		wants(t, err, access.CodeConflict, "not unprotected yet", "early", "priority 100")
		time.Sleep(3 * time.Minute)
		if p := protection(t, s, "a"); p.State != access.ProtectionRemoving || len(p.Replaced) != 1 || !strings.Contains(p.Why, "priority 100") {
			t.Errorf("P3: %s %q, keeps %d originals", p.State, p.Why, len(p.Replaced))
		}
		if err := s.Sim.Delete(group + "/securityRules/squatter"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // the reconciler finishes it
		if now := ruleBody(t, s, group, "early"); now != original {
			t.Errorf("P3: the rule is\n%s\nand was\n%s", now, original)
		}
		if left := ruleNames(s, group, "curfew-"); len(left) != 0 || len(s.Broker.Protections()) != 0 {
			t.Errorf("left %v, protections %v", left, s.Broker.Protections())
		}
	})
}

// P3: a rule that somebody has changed since is theirs: it is left, its original goes to the log, and the protection ends.
func TestRestoreOfWhatIsTheirs(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-03", "web-03-nsg/allow-all-admin")
		group := s.Machine("web-03").NSGs()[0]
		if err := s.Sim.Edit(group, func(m map[string]any) error {
			for _, r := range m["properties"].(map[string]any)["securityRules"].([]any) {
				if r := r.(map[string]any); r["name"] == "allow-all-admin" {
					r["properties"].(map[string]any)["sourceAddressPrefix"] = "198.51.100.0/24"
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		theirs := ruleBody(t, s, group, "allow-all-admin")
		plan := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-03"}, Off: true}))
		if len(plan.Problems) == 0 || !strings.Contains(plan.Problems[0].Message, "changed by somebody") {
			t.Errorf("the plan does not say it: %+v", plan.Problems)
		}
		protect(t, s, broker.ProtectInput{VMs: []string{"web-03"}, Off: true, Digest: plan.Digest})
		if now := ruleBody(t, s, group, "allow-all-admin"); now != theirs {
			t.Errorf("P3: somebody's rule was changed to %s", now)
		}
		found := false
		for _, e := range s.Log() {
			found = found || e.Action == "rule.restore" && e.Outcome == audit.Failed && strings.Contains(e.Detail["original"], `"443"`)
		}
		if !found || protection(t, s, "web-03").State != "" {
			t.Errorf("entry with the original: %t; protection %s", found, protection(t, s, "web-03").State)
		}
	})
}

// unprotect revokes what is open and what is to be, and nothing of it opens again.
func TestUnprotectWithGrants(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		s.Protect("payroll")
		group := s.Machine("web-01").NSGs()[0]
		before := ruleNames(s, group, "allow-")
		open := s.Open(bt.Requester, "web-01", time.Hour)
		elsewhere := s.Open(bt.Requester, "payroll", time.Hour)
		later := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), bt.Requester2, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "later", StartAt: s.Clock.Now().Add(10 * time.Minute)}))
		later = must[access.Request](t)(s.Broker.Approve(t.Context(), bt.Approver, later.ID, broker.ReviewInput{}))
		pending := s.Ask(bt.Requester2, "web-01", 2*time.Hour)
		plan := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Off: true}))
		if len(plan.VMs[0].Grants) != 2 || len(plan.VMs[0].After) == 0 {
			t.Errorf("the plan names grants %v and what gets in then as %v", plan.VMs[0].Grants, plan.VMs[0].After)
		}
		protect(t, s, broker.ProtectInput{VMs: []string{"web-01"}, Off: true})
		for _, id := range []access.GrantID{open.ID, later.Grants[0]} {
			g := s.WaitGrant(id, func(g access.Grant) bool { return g.State.Final() })
			if g.State != access.Revoked || g.EndReason != access.ReasonUnprotected || g.EndedBy != bt.Admin.Name || !s.Has("grant.revoke", audit.Done, string(id)) {
				t.Errorf("%s: %s %s by %q", id, g.State, g.EndReason, g.EndedBy)
			}
		}
		_, err := s.Broker.Approve(t.Context(), bt.Approver, pending.ID, broker.ReviewInput{})
		wants(t, err, access.CodeNotProtected)
		time.Sleep(15 * time.Minute)
		if left := ruleNames(s, group, "curfew-"); len(left) != 0 || !slices.Equal(ruleNames(s, group, "allow-"), before) {
			t.Errorf("left: %v, others' %v", left, ruleNames(s, group, "allow-"))
		}
		if g := s.Grant(elsewhere.ID); g.State != access.Active {
			t.Errorf("a neighbour's grant is %s", g.State)
		}
	})
}

// More ports of a protected machine: what is protected stays so, with its limits and exemptions.
func TestMorePorts(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		protect(t, s, broker.ProtectInput{VMs: []string{"reports-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(22), Max: 2 * time.Hour}, {Ports: access.Ports{First: 8000, Last: 8010}}},
			Exemptions: []access.Exemption{{Name: "monitoring", Source: "10.10.9.0/28"}}})
		p := protection(t, s, "reports-01")
		if len(p.Exemptions) != 2 || p.Exemptions[0].Name != "monitoring" || p.Exemptions[1].Source != "10.10.250.0/26" {
			t.Errorf("exemptions %v, want the named one and the Bastion subnet", p.Exemptions)
		}
		protect(t, s, broker.ProtectInput{VMs: []string{"reports-01"}}) // once more changes nothing
		if q := protection(t, s, "reports-01"); len(q.Ports) != 2 || q.Ports[0].Max != 2*time.Hour || len(q.Exemptions) != 2 {
			t.Errorf("protecting again loosened it: %+v", q)
		}
		// 443 is probed by its load balancer: shutting the probe out would take the machine out of service.
		plan := protect(t, s, broker.ProtectInput{VMs: []string{"reports-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(443)}, {Ports: access.Port(8005), Max: time.Hour}}})
		q := protection(t, s, "reports-01")
		if len(q.Exemptions) != 3 || q.Exemptions[2].Source != "AzureLoadBalancer" || q.State != access.ProtectionOn {
			t.Errorf("exemptions %v, state %s %s", q.Exemptions, q.State, q.Why)
		}
		for _, port := range []uint16{22, 443, 8000, 8005, 8010} {
			if _, ok := q.Covers(access.Port(port), access.TCP); !ok {
				t.Errorf("port %d is not protected any more: %+v", port, plan.VMs[0].Ports)
			}
		}
		if len(ruleNames(s, s.Machine("reports-01").NSGs()[0], "curfew-exempt-")) == 0 {
			t.Error("no exemption stands")
		}
		protect(t, s, broker.ProtectInput{VMs: []string{"reports-01"}, NoExempt: true})
		if q := protection(t, s, "reports-01"); len(q.Exemptions) != 0 || len(ruleNames(s, s.Machine("reports-01").NSGs()[0], "curfew-exempt-")) != 0 {
			t.Errorf("exemptions that were called off are left: %v", q.Exemptions)
		}
	})
}

// The protection of a machine that is gone can be ended, by any of its names.
func TestUnprotectWhatIsGone(t *testing.T) {
	for _, ref := range []string{"web-01", "shop-web/web-01"} {
		bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
			s.Protect("web-01")
			m := s.Machine("web-01")
			if err := s.Sim.Delete(m.ID); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if p := s.Broker.Protections(); len(p) != 1 || p[0].State != access.ProtectionFailed || !strings.Contains(p[0].Why, "does not exist") {
				t.Errorf("%+v", p)
			}
			protect(t, s, broker.ProtectInput{VMs: []string{ref}, Off: true})
			if left := ruleNames(s, m.NSGs()[0], "curfew-"); len(left) != 0 || len(s.Broker.Protections()) != 0 {
				t.Errorf("left %v, protections %v", left, s.Broker.Protections())
			}
		})
	}
}

// P8: one of several that is not protected refuses the whole, before anything is changed.
func TestUnprotectSeveral(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01", "web-02"}, Off: true})
		wants(t, err, access.CodeNotProtected, "web-02", "nothing was changed")
		if p := protection(t, s, "web-01"); p.State != access.ProtectionOn {
			t.Errorf("web-01 is %s", p.State)
		}
	})
}

// --create-nsg: shown first, with who loses access; then made, tagged, put on the interface; the virtual network still gets in.
func TestCreateNSG(t *testing.T) {
	bubble(t, bt.Options{OpDelay: 300 * time.Millisecond}, func(t *testing.T, s *bt.Stack) {
		in := broker.ProtectInput{VMs: []string{"fax-gateway"}, CreateNSG: true}
		plan := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, in))
		if len(plan.Changes) < 3 || !strings.Contains(plan.Changes[0].Summary, "new network security group") || !strings.Contains(plan.Changes[1].Summary, "fax-gateway") {
			t.Errorf("the plan begins with %+v", plan.Changes)
		}
		v := plan.VMs[0]
		if v.Error != "" || len(v.After) != 0 || len(v.Before) == 0 {
			t.Errorf("%+v", v)
		}
		all := false
		for _, x := range v.Loses {
			all = all || x.Ports == access.Ports{First: 1, Last: 65535} && x.From == "the Internet"
		}
		if !all {
			t.Errorf("the plan does not say that the Internet loses every port: %+v", v.Loses)
		}
		m := s.Machine("fax-gateway")
		group := strings.Replace(m.ID, "Microsoft.Compute/virtualMachines/fax-gateway", "Microsoft.Network/networkSecurityGroups/curfew-fax-gateway-nsg", 1)
		if _, ok := s.Sim.Get(group); ok {
			t.Fatal("a plan made the group")
		}
		in.Digest = plan.Digest
		done := protect(t, s, in)
		if done.VMs[0].State != string(access.ProtectionOn) {
			t.Errorf("%+v", done.VMs[0])
		}
		if got := s.Machine("fax-gateway").NSGs(); len(got) != 1 || !strings.EqualFold(got[0], group) {
			t.Errorf("its groups are %v, want %s", got, group)
		}
		if body, _ := s.Sim.Get(group); !strings.Contains(string(body), `"curfew-installation"`) {
			t.Errorf("the group is not tagged: %s", body)
		}
		for _, o := range []audit.Outcome{audit.Intent, audit.Done} {
			if !s.Has("nsg.create", o, "") {
				t.Errorf("the log has no nsg.create %s", o)
			}
		}
		g := s.Open(bt.Requester, "fax-gateway", 10*time.Minute)
		time.Sleep(10 * time.Minute)
		g = s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		if g.State != access.Ended || len(s.Allows(group)) != 0 {
			t.Errorf("%s %v", g.State, s.Allows(group))
		}
		// Once more, with a group in place: nothing to create.
		again := protect(t, s, broker.ProtectInput{VMs: []string{"fax-gateway"}, CreateNSG: true})
		if len(again.Changes) != 0 {
			t.Errorf("again: %+v", again.Changes)
		}
	})
}

// P8: creating a group that fails half-way is finished by the next run; a group of that name that is somebody else's is not used.
func TestCreateNSGAgain(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		if _, err := s.Sim.Fault(sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", Method: "PUT", PathPattern: "networkInterfaces/"}); err != nil {
			t.Fatal(err)
		}
		in := broker.ProtectInput{VMs: []string{"fax-gateway"}, CreateNSG: true}
		_, err := s.Broker.Protect(t.Context(), bt.Admin, in)
		wants(t, err, access.CodeAzureForbidden)
		if !s.Has("nsg.create", audit.Failed, "") || len(s.Broker.Protections()) != 0 {
			t.Errorf("entry %t, protections %v", s.Has("nsg.create", audit.Failed, ""), s.Broker.Protections())
		}
		s.Sim.ClearFaults()
		if p := protect(t, s, in); p.VMs[0].State != string(access.ProtectionOn) {
			t.Errorf("%+v", p.VMs[0])
		}
	})
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		m := s.Machine("fax-gateway")
		group := strings.Replace(m.ID, "Microsoft.Compute/virtualMachines/fax-gateway", "Microsoft.Network/networkSecurityGroups/curfew-fax-gateway-nsg", 1)
		if err := s.Sim.Edit(group, func(b map[string]any) error {
			b["location"], b["properties"] = "westeurope", map[string]any{"securityRules": []any{}}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"fax-gateway"}, CreateNSG: true})
		wants(t, err, access.CodeConflict, "did not make it")
		if len(s.Machine("fax-gateway").NSGs()) != 0 {
			t.Error("it was put on the machine all the same")
		}
	})
}

// Floating IP: the machine is reached by the balancer's frontend, which shields and windows name too.
func TestFloatingIP(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	group := e.NSG("sql-nsg", estates.Allow("allow-ssh", 1000, "22", "Internet"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"})
	lb := e.LB("sql-lb", "198.51.100.50", "Standard", nil, estates.LBRule{Name: "ssh", FrontendPort: 22, BackendPort: 22, FloatingIP: true})
	e.VM("sql-01", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", NSG: group, Pools: []string{lb + "/backendAddressPools/pool"}})
	bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
		s.Protect("sql-01")
		s.Open(bt.Requester, "sql-01", time.Hour)
		for name, r := range s.Rules(group) {
			if !strings.HasPrefix(name, "curfew-deny-") && !strings.HasPrefix(name, "curfew-allow-") {
				continue
			}
			if txt := fmt.Sprint(r.Properties); !strings.Contains(txt, "10.1.0.4") || !strings.Contains(txt, "198.51.100.50") {
				t.Errorf("%s names %v, want the machine and the frontend", name, r.Properties)
			}
		}
	})
}

// Azure's refusals while a plan is made or carried out are said in words, and leave nothing half-made that is not taken up again (P8).
func TestProtectRefusedByAzure(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		group := s.Machine("web-01").NSGs()[0]
		if _, err := s.Sim.Fault(sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", Method: "PUT", PathPattern: "networkSecurityGroups"}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}})
		wants(t, err, access.CodeAzureForbidden, "web-01-nsg", "role")
		if v := must[broker.VMInfo](t)(s.Broker.VM(t.Context(), bt.Admin, "web-01")); v.State == "protected" {
			t.Errorf("P4: said to be %s", v.State)
		}
		s.Sim.ClearFaults()
		time.Sleep(3 * time.Minute)
		if p := protection(t, s, "web-01"); p.State != access.ProtectionOn || len(ruleNames(s, group, "curfew-deny-")) == 0 {
			t.Errorf("three minutes after Azure agrees: %s %s", p.State, p.Why)
		}
		if _, err := s.Sim.Fault(sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", Method: "GET", PathPattern: "networkSecurityGroups"}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Broker.PlanProtect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-02"}})
		wants(t, err, access.CodeAzureForbidden)
	})
}

// Several admins protect and unprotect one machine at once: each call ends in a state that is true.
func TestProtectAtOnce(t *testing.T) {
	bubble(t, bt.Options{OpDelay: 2 * time.Second}, func(t *testing.T, s *bt.Stack) {
		ports := make(chan uint16, 4)
		for _, p := range []uint16{22, 3389, 5985, 5986} {
			ports <- p
		}
		for _, r := range atOnce(4, func() (broker.ProtectPlan, error) {
			return s.Broker.Protect(t.Context(), bt.Admin, broker.ProtectInput{VMs: []string{"web-01"}, Ports: []access.ProtectedPort{{Ports: access.Port(<-ports)}}})
		}) {
			if r.err != nil {
				t.Error(r.err)
			}
		}
		if p := protection(t, s, "web-01"); len(p.Ports) != 4 || p.State != access.ProtectionOn {
			t.Errorf("%d ports, %s %s; want four", len(p.Ports), p.State, p.Why)
		}
	})
}

// P4: a list that was read before a machine was protected does not say that the protection is in vain; one that is read after somebody
// bypasses it does.
func TestListAfterProtect(t *testing.T) {
	bubble(t, bt.Options{}, func(t *testing.T, s *bt.Stack) {
		state := func() string {
			for _, v := range must[[]broker.VMInfo](t)(s.Broker.VMs(t.Context(), bt.Requester, "web-01")) {
				return v.State + " " + v.Why
			}
			return "not listed"
		}
		if got := state(); !strings.HasPrefix(got, "exposed") { // and the snapshot is kept for minutes
			t.Fatal(got)
		}
		s.Protect("web-01")
		if got := state(); got != "protected " {
			t.Errorf("right after it: %q", got)
		}
		group := s.Machine("web-01").NSGs()[0]
		n := must[azure.NSG](t)(s.Azure.NSG(t.Context(), group))
		n.Rules = append(n.Rules, azure.SecurityRule{Name: "bypass", Priority: 100, Direction: "Inbound", Access: "Allow", Protocol: "Tcp", SourcePrefixes: []string{"*"},
			SourcePorts: []string{"*"}, DestinationPrefixes: []string{"*"}, DestinationPorts: []string{"22"}})
		must[azure.NSG](t)(s.Azure.PutNSG(t.Context(), n, nil))
		s.Sleep(time.Second)
		s.Machine("web-01") // reads everything again
		if got := state(); !strings.HasPrefix(got, "ineffective") || !strings.Contains(got, "bypass") {
			t.Errorf("bypassed: %q", got)
		}
	})
}

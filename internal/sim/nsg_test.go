package sim_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
)

func TestRuleValidation(t *testing.T) {
	a := newAz(t, sim.Config{})
	many := func(n int, f func(i int) any) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = f(i)
		}
		return out
	}
	with := func(field string, v any, drop ...string) map[string]any {
		r := rule("r", 200)
		p := r["properties"].(map[string]any)
		for _, d := range drop {
			delete(p, d)
		}
		p[field] = v
		return r
	}
	named := func(name string) map[string]any { return rule(name, 200) }
	for _, c := range []struct {
		what string
		rule map[string]any
		code string // "" is accepted
	}{
		{"lower case", rule("r", 200, "access", "allow", "direction", "inbound", "protocol", "tcp"), ""},
		{"unknown field", with("tomorrowsField", map[string]any{"deep": 12345678901234567}), ""},
		{"priority 100", rule("r", 100), ""},
		{"priority 4096", rule("r", 4096), ""},
		{"priority 99", rule("r", 99), "SecurityRuleInvalidPriority"},
		{"priority 4097", rule("r", 4097), "SecurityRuleInvalidPriority"},
		{"no priority", with("x", 1, "priority"), "SecurityRuleInvalidPriority"},
		{"name of 80", named(strings.Repeat("a", 80)), ""},
		{"name of 81", named(strings.Repeat("a", 81)), "InvalidResourceName"},
		{"name with a space", named("a b"), "InvalidResourceName"},
		{"name ending with a dot", named("a."), "InvalidResourceName"},
		{"name ending with _", named("a_"), ""},
		{"unknown access", rule("r", 200, "access", "Maybe"), "InvalidRequestFormat"},
		{"unknown protocol", rule("r", 200, "protocol", "Gre"), "InvalidRequestFormat"},
		{"description of 140", with("description", strings.Repeat("ä", 140)), ""},
		{"description of 141", with("description", strings.Repeat("a", 141)), "SecurityRuleDescriptionTooLong"},
		{"port range", rule("r", 200, "destinationPortRange", "1000-2000"), ""},
		{"port 65536", rule("r", 200, "destinationPortRange", "65536"), "SecurityRuleInvalidPortRange"},
		{"port range backwards", rule("r", 200, "destinationPortRange", "90-80"), "SecurityRuleInvalidPortRange"},
		{"ports", with("destinationPortRanges", []any{"22", "80-90"}, "destinationPortRange"), ""},
		{"port and ports", with("destinationPortRanges", []any{"22"}), "SecurityRuleParameterConflict"},
		{"no port", rule("r", 200, "destinationPortRange", ""), "SecurityRuleMissingDestinationPortRange"},
		{"IPv6", rule("r", 200, "sourceAddressPrefix", "fd00::/8"), ""},
		{"both families", rule("r", 200, "sourceAddressPrefix", "fd00::/8", "destinationAddressPrefix", "10.0.0.4"), "ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies"},
		{"service tag", rule("r", 200, "sourceAddressPrefix", "AzureCloud.westeurope"), ""},
		{"old spelling of a tag", rule("r", 200, "sourceAddressPrefix", "VIRTUAL_NETWORK"), "SecurityRuleInvalidAddressPrefix"},
		{"no address", rule("r", 200, "sourceAddressPrefix", "10.0.0.300"), "SecurityRuleInvalidAddressPrefix"},
		{"tag among addresses", with("sourceAddressPrefixes", []any{"10.0.0.0/8", "Internet"}, "sourceAddressPrefix"), "SecurityRuleParameterContainsUnsupportedValue"},
		{"4000 addresses", with("sourceAddressPrefixes", many(4000, func(i int) any { return fmt.Sprintf("10.1.%d.%d", i/250, i%250) }), "sourceAddressPrefix"), ""},
		{"4001 addresses", with("sourceAddressPrefixes", many(4001, func(i int) any { return fmt.Sprintf("10.1.%d.%d", i/250, i%250) }), "sourceAddressPrefix"), "SecurityRuleMaxAddressPrefixes"},
		{"unknown ASG", with("sourceApplicationSecurityGroups", []any{map[string]any{"id": group + "/providers/Microsoft.Network/applicationSecurityGroups/no"}}, "sourceAddressPrefix"), "InvalidResourceReference"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a.t = t
			for _, path := range []string{nsgID, nsgID + "-r/securityRules/" + strings.ReplaceAll(c.rule["name"].(string), " ", "%20")} {
				var body any = nsgBody(c.rule)
				if path != nsgID {
					a.do2xx("PUT", nsgID+"-r", nsgBody())
					body = c.rule
				}
				if c.code == "" {
					a.do2xx("PUT", path, body)
				} else {
					a.fails(400, c.code, "PUT", path, body)
				}
			}
		})
	}
	a.t = t
	r := a.do(200, "PUT", nsgID, nsgBody(rule("a", 200), rule("b", 200, "direction", "Outbound")))
	p := at(r.body, "properties", "securityRules", 0, "properties").(map[string]any)
	if _, ok := p["sourcePortRanges"].([]any); !ok {
		t.Errorf("got %v, want unused plural fields as []", p)
	}
	a.fails(400, "SecurityRuleConflict", "PUT", nsgID, nsgBody(rule("a", 200), rule("b", 200)))
	a.fails(400, "SecurityRuleConflict", "PUT", nsgID+"/securityRules/c", rule("c", 200))
	var full []map[string]any
	for i := range 1001 {
		full = append(full, rule(fmt.Sprint("r", i), 100+i))
	}
	a.do(200, "PUT", nsgID, nsgBody(full[:1000]...))
	a.fails(400, "MaxSecurityRulesPerNetworkSecurityGroupReached", "PUT", nsgID, nsgBody(full...))
	a.fails(400, "MaxSecurityRulesPerNetworkSecurityGroupReached", "PUT", nsgID+"/securityRules/more", rule("more", 4000))
}

func TestUnknownFieldsAreKept(t *testing.T) {
	a := newAz(t, sim.Config{})
	body := `{"location":"westeurope","tags":{"a":"b"},"tomorrow":{"n":12345678901234567890},"properties":{"flushConnection":true,"newThing":[1.50],
		"securityRules":[{"name":"r","properties":{"priority":200,"direction":"Inbound","access":"Allow","protocol":"*","sourceAddressPrefix":"*","sourcePortRange":"*",
		"destinationAddressPrefix":"*","destinationPortRange":"*","ruleNovelty":{"x":null}}}]}}`
	a.do(201, "PUT", nsgID, body)
	raw := string(a.do(200, "GET", nsgID, nil).raw)
	for _, want := range []string{`"tomorrow":{"n":12345678901234567890}`, `"flushConnection":true`, `"newThing":[1.50]`, `"ruleNovelty":{"x":null}`, `"tags":{"a":"b"}`} {
		if !strings.Contains(raw, want) {
			t.Errorf("%s is lost in %s", want, raw)
		}
	}
}

func TestRulesOneByOne(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.fails(404, "ParentResourceNotFound", "PUT", nsgID+"/securityRules/ssh", rule("ssh", 200))
	a.do(201, "PUT", nsgID, nsgBody(rule("keep", 150)))
	a.do(201, "PUT", nsgID+"/securityRules/ssh", rule("ssh", 200))
	a.do(200, "PUT", nsgID+"/securityRules/SSH", rule("SSH", 210))
	if got := a.do(200, "GET", nsgID+"/securityRules/ssh", nil).body["name"]; got != "ssh" {
		t.Errorf("got name %v, want the case of the first write", got)
	}
	if n := len(list(a.do(200, "GET", nsgID+"/securityRules", nil).body["value"])); n != 2 {
		t.Errorf("got %d rules, want 2", n)
	}
	if n := len(list(a.do(200, "GET", nsgID+"/defaultSecurityRules", nil).body["value"])); n != 6 {
		t.Errorf("got %d default rules, want 6", n)
	}
	a.do(405, "DELETE", nsgID+"/defaultSecurityRules/DenyAllInBound", nil)
	r := a.do(202, "DELETE", nsgID+"/securityRules/ssh", nil)
	if op := a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil); op.body["status"] != "Succeeded" {
		t.Errorf("got %s", op.raw)
	}
	a.do(204, "GET", r.header.Get("Location"), nil)
	a.fails(404, "NotFound", "GET", nsgID+"/securityRules/ssh", nil)
	a.do(204, "DELETE", nsgID+"/securityRules/ssh", nil)
	a.do(200, "GET", nsgID+"/securityRules/keep", nil)
	if n, m := a.s.Writes(nsgID), a.s.Writes(nsgID+"/securityRules/ssh"); n != 4 || m != 3 {
		t.Errorf("got %d writes to the NSG and %d to the rule, want 4 and 3", n, m)
	}
}

func TestIfMatch(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.fails(412, "PreconditionFailed", "PUT", nsgID, nsgBody(), "If-Match", `W/"x"`)
	a.do(201, "PUT", nsgID, nsgBody())
	etag := a.do(200, "GET", nsgID, nil).body["etag"].(string)
	r := a.fails(412, "PreconditionFailed", "PUT", nsgID, nsgBody(rule("a", 200)), "If-Match", "invalid")
	if got := at(r.body, "error", "details", 0, "code"); got != "PreconditionFailedEtagMismatch" {
		t.Errorf("got detail %v", got)
	}
	if got, _ := at(r.body, "error", "details", 0, "message").(string); !strings.Contains(got, `W/"invalid" does not match etag `+etag) {
		t.Errorf("got %q", got)
	}
	a.do(200, "PUT", nsgID, nsgBody(rule("a", 200)), "If-Match", "*")
	a.fails(412, "PreconditionFailed", "PUT", nsgID, nsgBody(), "If-Match", etag)
	// A rule's own PUT changes the NSG's etag too; whether Azure looks at If-Match there nobody has verified, so it does not here.
	a.do(201, "PUT", nsgID+"/securityRules/b", rule("b", 300), "If-Match", etag)
	strict := newAz(t, sim.Config{RuleIfMatch: true})
	strict.do(201, "PUT", nsgID, nsgBody())
	strict.fails(412, "PreconditionFailed", "PUT", nsgID+"/securityRules/b", rule("b", 300), "If-Match", etag)
}

// The two concurrent-write failures of FACTS 2.5.
func TestConcurrentWrites(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	a := newAz(t, sim.Config{Now: now.Now, OperationDelay: 2 * time.Second})
	first := a.do(201, "PUT", nsgID, nsgBody(rule("a", 200)))
	status := func(r reply) any { return a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil).body["status"] }
	r := a.fails(429, "RetryableError", "PUT", nsgID, nsgBody(rule("b", 200)))
	if got := at(r.body, "error", "details", 0, "code"); got != "RetryableErrorDueToAnotherOperation" || r.header.Get("Retry-After") != "" {
		t.Errorf("got %v, Retry-After %q", got, r.header.Get("Retry-After"))
	}
	a.fails(429, "RetryableError", "DELETE", nsgID+"/securityRules/a", nil)
	if got := status(first); got != "InProgress" {
		t.Errorf("got %v, want InProgress", got)
	}
	a.s.Advance(2 * time.Second)
	if got := status(first); got != "Succeeded" {
		t.Errorf("got %v, want Succeeded", got)
	}
	if err := a.s.SetConcurrency(sim.Supersede); err != nil {
		t.Fatal(err)
	}
	first = a.do(200, "PUT", nsgID, nsgBody(rule("b", 200)))
	second := a.do(200, "PUT", nsgID, nsgBody(rule("c", 200)))
	poll := a.do(200, "GET", first.header.Get("Azure-AsyncOperation"), nil)
	if poll.body["status"] != "Canceled" || at(poll.body, "error", "details", 0, "code") != "CanceledAndSupersededDueToAnotherOperation" {
		t.Errorf("got %s", poll.raw)
	}
	if got := status(second); got != "InProgress" {
		t.Errorf("got %v, want InProgress", got)
	}
	a.s.Advance(2 * time.Second)
	if got := status(second); got != "Succeeded" {
		t.Errorf("got %v, want Succeeded", got)
	}
	a.do(200, "GET", nsgID+"/securityRules/c", nil)
}

func TestReferences(t *testing.T) {
	a := newAz(t, sim.Config{})
	net := group + "/providers/Microsoft.Network"
	vnet := net + "/virtualNetworks/v"
	nic := net + "/networkInterfaces/n"
	subnet := func(nsg string) map[string]any {
		p := map[string]any{"addressPrefix": "10.0.0.0/24"}
		if nsg != "" {
			p["networkSecurityGroup"] = map[string]any{"id": nsg}
		}
		return map[string]any{"location": "westeurope", "properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{"10.0.0.0/16"}},
			"subnets": []any{map[string]any{"name": "s", "properties": p}}}}
	}
	nicBody := func(nsg string) map[string]any {
		p := map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": vnet + "/subnets/s"}}}}}
		if nsg != "" {
			p["networkSecurityGroup"] = map[string]any{"id": nsg}
		}
		return map[string]any{"location": "westeurope", "properties": p}
	}
	a.fails(400, "InvalidResourceReference", "PUT", vnet, subnet(nsgID))
	a.do(201, "PUT", nsgID, nsgBody())
	a.do(201, "PUT", vnet, subnet(strings.ToUpper(nsgID)))
	a.fails(400, "InvalidResourceReference", "PUT", nic, nicBody(nsgID+"-missing"))
	r := a.do(201, "PUT", nic, nicBody(nsgID))
	if got := at(r.body, "properties", "ipConfigurations", 0, "properties", "privateIPAddress"); got != "10.0.0.4" {
		t.Errorf("got address %v, want 10.0.0.4", got)
	}
	r = a.do(200, "GET", nsgID, nil)
	if got := at(r.body, "properties", "networkInterfaces", 0, "id"); got != nic {
		t.Errorf("got back-reference %v, want %s", got, nic)
	}
	if got := at(r.body, "properties", "subnets", 0, "id"); got != vnet+"/subnets/s" {
		t.Errorf("got back-reference %v, want the subnet", got)
	}
	if got := at(a.do(200, "GET", vnet+"/subnets/s", nil).body, "properties", "ipConfigurations", 0, "id"); got != nic+"/ipConfigurations/c" {
		t.Errorf("got %v, want the NIC's configuration in the subnet", got)
	}
	a.fails(400, "InUseNetworkSecurityGroupCannotBeDeleted", "DELETE", nsgID, nil)
	a.fails(400, "InUseSubnetCannotBeDeleted", "DELETE", vnet+"/subnets/s", nil)
	// A PUT of the NSG sends the back-references along; they are read-only.
	r.body["properties"].(map[string]any)["networkInterfaces"] = []any{}
	a.do(200, "PUT", nsgID, r.body)
	if got := at(a.do(200, "GET", nsgID, nil).body, "properties", "networkInterfaces", 0, "id"); got != nic {
		t.Errorf("got %v: a PUT of the NSG took the NIC away", got)
	}
	a.do(200, "PUT", nic, nicBody(""))
	a.do(200, "PUT", vnet, subnet(""))
	if got := at(a.do(200, "GET", nsgID, nil).body, "properties", "networkInterfaces"); got != nil {
		t.Errorf("got %v, want no NICs", got)
	}
	a.do(202, "DELETE", nsgID, nil)
	a.fails(404, "ResourceNotFound", "GET", nsgID, nil)
}

func TestLocks(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.do(201, "PUT", nsgID, nsgBody(rule("a", 200), rule("b", 300)))
	lock := func(scope, level string) string {
		id := scope + "/providers/Microsoft.Authorization/locks/l"
		a.do2xx("PUT", id, map[string]any{"properties": map[string]any{"level": level}})
		return id
	}
	for _, scope := range []string{nsgID, group, sub} {
		id := lock(scope, "CanNotDelete")
		r := a.fails(409, "ScopeLocked", "DELETE", nsgID+"/securityRules/a", nil)
		if msg, _ := at(r.body, "error", "message").(string); !strings.Contains(msg, "'"+scope+"'") {
			t.Errorf("got %q, want it to name %s", msg, scope)
		}
		a.fails(409, "ScopeLocked", "DELETE", nsgID, nil)
		a.do(200, "PUT", nsgID, nsgBody(rule("a", 200))) // leaving a rule out passes a delete lock, FACTS 2.5
		a.do(200, "PUT", nsgID, nsgBody(rule("a", 200), rule("b", 300)))
		a.do(200, "DELETE", id, nil)
		id = lock(scope, "ReadOnly")
		a.fails(409, "ScopeLocked", "PUT", nsgID, nsgBody())
		a.fails(409, "ScopeLocked", "PUT", nsgID+"/securityRules/c", rule("c", 400))
		a.do(200, "GET", nsgID, nil)
		if n := len(list(a.do(200, "GET", scope+"/providers/Microsoft.Authorization/locks", nil).body["value"])); n != 1 {
			t.Errorf("got %d locks listed at %s, want 1", n, scope)
		}
		a.do(200, "DELETE", id, nil)
	}
	a.do(202, "DELETE", nsgID+"/securityRules/a", nil)
}

func TestOutsideHand(t *testing.T) {
	a := newAz(t, sim.Config{})
	if err := a.s.Edit(nsgID, func(b map[string]any) error {
		var body map[string]any
		data, _ := json.Marshal(nsgBody(rule("a", 200)))
		_ = json.Unmarshal(data, &body)
		for k, v := range body {
			b[k] = v
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	before := a.do(200, "GET", nsgID, nil).body["etag"]
	if err := a.s.Edit(nsgID, func(b map[string]any) error {
		at(b, "properties").(map[string]any)["securityRules"] = []any{}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r := a.do(200, "GET", nsgID, nil)
	if len(list(at(r.body, "properties", "securityRules"))) != 0 || r.body["etag"] == before {
		t.Errorf("got %s, want no rules and a new etag", r.raw)
	}
	if err := a.s.Edit(nsgID, func(b map[string]any) error {
		at(b, "properties").(map[string]any)["securityRules"] = []any{rule("bad", 5)}
		return nil
	}); err == nil {
		t.Error("an invalid edit was stored")
	}
	if a.s.Writes(nsgID) != 0 {
		t.Error("edits count as writes")
	}
	if err := a.s.Delete(nsgID); err != nil {
		t.Fatal(err)
	}
	if err := a.s.Delete(nsgID); err == nil {
		t.Error("deleting what is not there succeeded")
	}
	if _, ok := a.s.Get(nsgID); ok {
		t.Error("the NSG is still there")
	}
}

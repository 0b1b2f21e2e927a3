package sim_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
)

const (
	reader  = "aaaaaaaa-0000-0000-0000-000000000001"
	network = "aaaaaaaa-0000-0000-0000-000000000002"
	custom  = "aaaaaaaa-0000-0000-0000-000000000003"
	roleID  = "/providers/Microsoft.Authorization/roleDefinitions/"
)

// as returns a client with the token of another principal.
func (a *az) as(id string) *az {
	a.t.Helper()
	resp, err := a.hc.PostForm("https://login.microsoftonline.com/"+sim.TenantID+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {id},
		"client_secret": {sim.ClientSecret}, "scope": {"https://management.azure.com/.default"}})
	if err != nil {
		a.t.Fatal(err)
	}
	tok, _ := at(decode(a.t, resp), "access_token").(string)
	if tok == "" {
		a.t.Fatalf("no token for %s", id)
	}
	b := *a
	b.tok = tok
	return &b
}

func decode(t *testing.T, resp *http.Response) map[string]any {
	t.Helper()
	defer resp.Body.Close()
	var m map[string]any
	if err := jsonInto(resp.Body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (a *az) assign(scope, principal, role string) string {
	a.t.Helper()
	id := scope + "/providers/Microsoft.Authorization/roleAssignments/" + fmt.Sprintf("%08x-0000-0000-0000-%012x", len(scope), len(a.s.IDs("Microsoft.Authorization/roleAssignments")))
	a.do(201, "PUT", id, map[string]any{"properties": map[string]any{"principalId": principal, "roleDefinitionId": sub + roleID + role}})
	return id
}

func TestRoles(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	a.do(201, "PUT", nsgID, nsgBody())
	resp, err := a.hc.PostForm("https://login.microsoftonline.com/"+sim.TenantID+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {reader}, "client_secret": {sim.ClientSecret}})
	if err != nil || at(decode(t, resp), "error") != "unauthorized_client" {
		t.Errorf("a principal that nobody knows got a token: %v", err)
	}
	def := func(id string, actions ...string) {
		a.do(201, "PUT", sub+roleID+id, map[string]any{"properties": map[string]any{"roleName": "Rule writer", "permissions": []any{map[string]any{"actions": actions, "notActions": []string{"*/delete"}}}}})
	}
	def("cccccccc-0000-0000-0000-000000000001", "Microsoft.Network/networkSecurityGroups/securityRules/*", "*/read")
	a.assign(sub, reader, "acdd72a7-3385-48ef-bd42-f606fba81ae7")
	a.assign(group, network, "4d97b98b-1d4f-4787-a291-c67834d212e7")
	a.assign(nsgID, custom, "cccccccc-0000-0000-0000-000000000001")
	a.do(200, "GET", nsgID, nil) // the fixed client has no role of its own, and is not locked out

	r := a.as(reader)
	r.do(200, "GET", nsgID, nil)
	got := r.fails(403, "AuthorizationFailed", "PUT", nsgID, nsgBody())
	want := fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action 'Microsoft.Network/networkSecurityGroups/write' over scope '%s' or the scope is invalid.", reader, reader, nsgID)
	if m := at(got.body, "error", "message").(string); !strings.HasPrefix(m, want) {
		t.Errorf("got %s", m)
	}
	r.fails(403, "AuthorizationFailed", "DELETE", nsgID+"x", nil) // before anybody looks whether it exists
	r.fails(403, "AuthorizationFailed", "POST", vnetID+"/listNetworkManagerEffectiveSecurityAdminRules", nil)

	n := a.as(network)
	n.do(200, "PUT", nsgID, nsgBody(rule("ssh", 200)))
	n.do(200, "GET", group, nil)
	n.fails(403, "AuthorizationFailed", "GET", sub+"/providers/Microsoft.Network/networkSecurityGroups", nil)
	n.fails(403, "AuthorizationFailed", "GET", group+"/providers/Microsoft.Compute/virtualMachines", nil)
	n.fails(403, "AuthorizationFailed", "PUT", sub+"/resourceGroups/Other", map[string]any{"location": "westeurope"})
	if got := list(n.do(200, "GET", "/subscriptions", nil).body["value"]); len(got) != 1 {
		t.Errorf("got %v", got)
	}

	// Rules alone, on one NSG, and nothing may be deleted. Joining what a rule refers to is a permission of its own.
	c := a.as(custom)
	r1 := c.do(201, "PUT", nsgID+"/securityRules/one", rule("one", 300))
	c.do(200, "GET", r1.header.Get("Azure-AsyncOperation"), nil)
	c.fails(403, "AuthorizationFailed", "DELETE", nsgID+"/securityRules/one", nil)
	c.fails(403, "AuthorizationFailed", "PUT", nsgID, nsgBody())
	asg := group + "/providers/Microsoft.Network/applicationSecurityGroups/a"
	a.do(201, "PUT", asg, map[string]any{"location": "westeurope"})
	x := rule("two", 310, "sourceAddressPrefix", "")
	x["properties"].(map[string]any)["sourceApplicationSecurityGroups"] = []any{map[string]any{"id": asg}}
	got = c.fails(403, "LinkedAuthorizationFailed", "PUT", nsgID+"/securityRules/two", x)
	if m := fmt.Sprint(at(got.body, "error", "message")); !strings.Contains(m, "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action") || !strings.Contains(m, asg) {
		t.Errorf("got %s", m)
	}
	// Resource Graph shows what may be read.
	q := map[string]any{"query": "resources | project id"}
	if n := len(list(c.do(200, "POST", graphPath, q).body["data"])); n != 1 {
		t.Errorf("Resource Graph shows %d resources", n)
	}
	if n := len(list(a.do(200, "POST", graphPath, q).body["data"])); n < 3 {
		t.Errorf("Resource Graph shows the owner %d resources", n)
	}
	if got := list(c.do(200, "GET", sub+"/resourcegroups", nil).body["value"]); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	other := "/subscriptions/00000000-0000-0000-0000-00000000000f"
	if err := a.s.Edit(other+"/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n", func(b map[string]any) error { b["location"] = "westeurope"; return nil }); err != nil {
		t.Fatal(err)
	}
	c.fails(404, "SubscriptionNotFound", "GET", other, nil)
}

func TestRoleAdministration(t *testing.T) {
	a := newAz(t, sim.Config{})
	all := list(a.do(200, "GET", sub+"/providers/Microsoft.Authorization/roleDefinitions", nil).body["value"])
	if len(all) < 5 || at(all, 0, "properties", "roleName") != "Owner" {
		t.Errorf("got %v", all)
	}
	one := list(a.do(200, "GET", sub+"/providers/Microsoft.Authorization/roleDefinitions?$filter="+url.QueryEscape("roleName eq 'Network Contributor'"), nil).body["value"])
	if len(one) != 1 || at(one, 0, "name") != "4d97b98b-1d4f-4787-a291-c67834d212e7" {
		t.Errorf("got %v", one)
	}
	a.fails(400, "UnsupportedQuery", "GET", sub+"/providers/Microsoft.Authorization/roleDefinitions?$filter=colour", nil)
	a.fails(403, "RoleDefinitionUpdateNotAllowed", "PUT", sub+roleID+"acdd72a7-3385-48ef-bd42-f606fba81ae7", map[string]any{})
	a.fails(404, "RoleDefinitionDoesNotExist", "GET", sub+roleID+"cccccccc-0000-0000-0000-000000000009", nil)
	a.fails(400, "RoleDefinitionDoesNotExist", "PUT", sub+"/providers/Microsoft.Authorization/roleAssignments/x", map[string]any{"properties": map[string]any{"principalId": reader, "roleDefinitionId": "/x"}})
	id := a.assign(group, reader, "acdd72a7-3385-48ef-bd42-f606fba81ae7")
	a.fails(409, "RoleAssignmentUpdateNotPermitted", "PUT", id, map[string]any{"properties": map[string]any{"principalId": reader, "roleDefinitionId": sub + roleID + "acdd72a7-3385-48ef-bd42-f606fba81ae7"}})
	a.fails(409, "RoleAssignmentExists", "PUT", id+"0", map[string]any{"properties": map[string]any{"principalId": reader, "roleDefinitionId": sub + roleID + "acdd72a7-3385-48ef-bd42-f606fba81ae7"}})
	count := func(scope, filter string) int {
		a.t.Helper()
		return len(list(a.do(200, "GET", scope+"/providers/Microsoft.Authorization/roleAssignments?$filter="+url.QueryEscape(filter), nil).body["value"]))
	}
	if count(sub, "atScope()") != 0 || count(sub, "") != 1 || count(nsgID, "atScope()") != 1 || count(group, "principalId eq '"+network+"'") != 0 || count(group, "assignedTo('"+reader+"')") != 1 {
		t.Error("role assignments are not listed as their scopes say")
	}
	a.do(200, "GET", id, nil)
	a.do(200, "DELETE", id, nil)
	a.do(204, "DELETE", id, nil)
	a.fails(404, "RoleAssignmentNotFound", "GET", id, nil)
}

// What a principal is told that it may do is what its roles say, at the scope and above it.
func TestPermissions(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	actions := func(a *az, scope string) []string {
		var out []string
		list, _ := a.do(200, "GET", scope+"/providers/Microsoft.Authorization/permissions", nil).body["value"].([]any)
		for _, p := range list {
			for _, x := range p.(map[string]any)["actions"].([]any) {
				out = append(out, x.(string))
			}
		}
		return out
	}
	if got := actions(a, group); len(got) != 1 || got[0] != "*" {
		t.Errorf("without any assignment: %v", got)
	}
	a.assign(sub, reader, "acdd72a7-3385-48ef-bd42-f606fba81ae7")
	a.assign(group, reader, "4d97b98b-1d4f-4787-a291-c67834d212e7")
	r := a.as(reader)
	if got := actions(r, sub); len(got) != 1 || got[0] != "*/read" {
		t.Errorf("at the subscription: %v", got)
	}
	if got := strings.Join(actions(r, group), " "); !strings.Contains(got, "*/read") || !strings.Contains(got, "Microsoft.Network/*") {
		t.Errorf("in the group: %v", got)
	}
	a.fails(405, "MethodNotAllowed", "POST", group+"/providers/Microsoft.Authorization/permissions", nil)
}

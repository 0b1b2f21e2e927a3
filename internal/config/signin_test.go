package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

const entra = `sign_in:
  issuer: https://login.microsoftonline.com/5f8b2c1e-0000-4000-8000-000000000001/v2.0
  client_id: abc
  public_url: https://curfew.example.com
  roles:
    - role: approver
      app_roles: [Curfew.Approver]
`

func TestSignIn(t *testing.T) {
	c, err := load(least + entra)
	if err != nil {
		t.Fatal(err)
	}
	s := c.SignIn
	if !slices.Equal(s.Tenanted(), []string{"5f8b2c1e-0000-4000-8000-000000000001"}) || !s.Device || s.SessionLife != access.Duration(12*time.Hour) ||
		s.ConfirmAfter != access.Duration(4*time.Minute) || s.GroupsClaim != "groups" || s.Graph != "https://graph.microsoft.com" {
		t.Errorf("got %+v", s)
	}
	for _, w := range c.Warnings {
		if strings.Contains(w, "sign_in") {
			t.Errorf("a warning: %s", w)
		}
	}
	c, err = load(least + strings.Replace(entra, "  client_id", "  scopes: [profile]\n  client_id", 1))
	if err != nil || !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "offline_access") }) {
		t.Errorf("without offline_access: %v, %v", c.Warnings, err)
	}
	for graph, warned := range map[string]bool{"https://graph.microsoft.com": true, "https://graph.microsoft.us": false} {
		c, err = load(least + strings.NewReplacer("microsoftonline.com", "microsoftonline.us", "  client_id", "  graph: "+graph+"\n  client_id").Replace(entra))
		if err != nil || warned != slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "sign_in.graph is") }) {
			t.Errorf("another cloud with %s: %v, %v", graph, c.Warnings, err)
		}
	}
	c, err = load(least + "people:\n  - {name: erin, roles: [auditor], subject: o-erin}\n" + entra)
	if err != nil || c.People[0].Subject != "o-erin" {
		t.Errorf("somebody with an account at the issuer alone: %+v, %v", c.People, err)
	}
}

// Each fault alone, in a configuration that is right otherwise.
func TestSignInFaults(t *testing.T) {
	rep := func(old, text string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("nothing to change: %s", old)
			}
			return strings.Replace(s, old, text, 1)
		}
	}
	add := func(text string) func(string) string { return func(s string) string { return s + text } }
	const tenant = "5f8b2c1e-0000-4000-8000-000000000001"
	workload := "workloads:\n  - name: deploy\n    issuer: https://i.example\n    audience: a\n    subject: s\n    roles: [requester]\n    sponsor: carol\n"
	for want, change := range map[string]func(string) string{
		"sign_in.issuer is missing":                      rep("  issuer: https://login.microsoftonline.com/"+tenant+"/v2.0\n", ""),
		"it must begin with https":                       rep("https://login.microsoftonline.com", "http://login.example.com"),
		"sign_in.client_id is missing":                   rep("  client_id: abc\n", ""),
		"sign_in.public_url is missing":                  rep("  public_url: https://curfew.example.com\n", ""),
		"answers at the root":                            rep("curfew.example.com", "example.com/curfew"),
		"sign_in.tenants is missing":                     rep(tenant, "organizations"),
		"end in /v2.0":                                   rep("/v2.0", ""),
		"sign_in.tenants[0] is":                          rep("  client_id", "  tenants: [contoso]\n  client_id"),
		"sign_in.roles[0].role is":                       rep("approver", "owner"),
		"needs app_roles or groups":                      rep("      app_roles: [Curfew.Approver]\n", ""),
		"none of them empty":                             rep("[Curfew.Approver]", `[""]`),
		"sign_in.session_life is":                        rep("  client_id", "  session_life: 30d\n  client_id"),
		"sign_in.confirm_after is":                       rep("  client_id", "  confirm_after: 6m\n  client_id"),
		"sign_in.group_names[0] needs":                   rep("  client_id", "  group_names: [{id: x}]\n  client_id"),
		"has a name already":                             rep("  client_id", "  group_names: [{id: x, name: a}, {id: X, name: b}]\n  client_id"),
		"is approver: a program never approves":          add(strings.Replace(workload, "[requester]", "[requester, approver]", 1)),
		"workloads[0] needs subject or claims":           add(strings.Replace(workload, "    subject: s\n", "", 1)),
		"workloads[0].sponsor is missing":                add(strings.Replace(workload, "    sponsor: carol\n", "", 1)),
		"workloads[0].audience is missing":               add(strings.Replace(workload, "    audience: a\n", "", 1)),
		"workloads[0].roles is missing":                  add(strings.Replace(workload, "    roles: [requester]\n", "", 1)),
		"workloads[0].issuer is":                         add(strings.Replace(workload, "https://i", "http://i", 1)),
		"which another workload is called already":       add(workload + strings.TrimPrefix(strings.Replace(workload, "deploy", "DEPLOY", 1), "workloads:\n")),
		"people[1].subject is another person's too":      add("people:\n  - {name: a, roles: [admin], subject: X}\n  - {name: b, roles: [admin], subject: x}\n"),
		"people[0].token_sha256 is missing, and subject": add("people:\n  - {name: a, roles: [admin]}\n"),
	} {
		_, err := load(change(least + entra))
		if err == nil {
			t.Errorf("%s: no fault", want)
			continue
		}
		if m := message(t, err); !strings.Contains(m, want) {
			t.Errorf("got %s, want %q", m, want)
		}
	}
	if _, err := load(least + entra + workload); err != nil {
		t.Errorf("with nothing wrong: %v", err)
	}
	_, err := load(least + "people:\n  - {name: a, roles: [admin], subject: x}\n")
	if m := message(t, err); !strings.Contains(m, "sign_in names none") {
		t.Errorf("got %s", m)
	}
}

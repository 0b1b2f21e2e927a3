package roles_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/roles"
	"github.com/curfew-jit/curfew/internal/standalone"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func TestScopes(t *testing.T) {
	const id = "00000000-0000-0000-0000-00000000000A"
	for in, want := range map[string]string{
		id: "/subscriptions/" + id, "/subscriptions/" + id: "/subscriptions/" + id, "/subscriptions/" + id + "/": "/subscriptions/" + id,
		"/SUBSCRIPTIONS/" + id + "/resourcegroups/my-rg_(1).x":  "/SUBSCRIPTIONS/" + id + "/resourcegroups/my-rg_(1).x",
		"/providers/Microsoft.Management/managementGroups/mg-1": "/providers/Microsoft.Management/managementGroups/mg-1",
	} {
		if got, err := roles.ParseScope(in); err != nil || got != want {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "/", "*", "/subscriptions/*", "/subscriptions/x", "/subscriptions/" + id + "/resourceGroups/", "/subscriptions/" + id + "/resourceGroups/a.",
		"/subscriptions/" + id + "/resourceGroups/a/providers/Microsoft.Compute/virtualMachines/x", "/providers/Microsoft.Management/managementGroups/", id + "\n" + id,
		"/subscriptions/" + id + "/resourceGroups/a\"b", "subscriptions/" + id} {
		if got, err := roles.ParseScope(bad); err == nil {
			t.Errorf("%q was taken as %s", bad, got)
		}
	}
}

func TestNew(t *testing.T) {
	const s = "/subscriptions/00000000-0000-0000-0000-000000000001"
	all, err := roles.New("", nil, []string{s, strings.ToUpper(s[:14]) + s[14:]})
	if err != nil || all.Name != "Curfew" || len(all.Scopes) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	seen := map[string]bool{}
	for _, a := range all.Actions {
		if k := strings.ToLower(a.Name); seen[k] {
			t.Errorf("%s stands twice", a.Name)
		} else {
			seen[k] = true
		}
		if strings.Contains(a.Name, "*") || !regexp.MustCompile(`^Microsoft\.[A-Za-z]+(/[A-Za-z]+)+/(read|write|delete|action)$`).MatchString(a.Name) {
			t.Errorf("%s is no single action", a.Name)
		}
	}
	for _, a := range roles.Actions {
		if !seen[strings.ToLower(a.Name)] || !slices.Contains(roles.Duties, a.Duty) {
			t.Errorf("%s of %s is not in the whole role", a.Name, a.Duty)
		}
	}
	r, err := roles.New("", []roles.Duty{roles.NSG, roles.Read, roles.NSG}, []string{s})
	if err != nil || r.Name != "Curfew read-only, nsg" || r.Actions[0].Duty != roles.Read {
		t.Errorf("%+v, %v", r, err)
	}
	for _, a := range r.Actions {
		if a.Duty == roles.Read && !strings.HasSuffix(a.Name, "/read") && !strings.HasSuffix(a.Name, "listNetworkManagerEffectiveSecurityAdminRules/action") {
			t.Errorf("%s is to read and may change something", a.Name)
		}
	}
	const mg = "/providers/Microsoft.Management/managementGroups/"
	for name, f := range map[string]func() (roles.Role, error){
		"no scope":              func() (roles.Role, error) { return roles.New("", nil, nil) },
		"a bad scope":           func() (roles.Role, error) { return roles.New("", nil, []string{"/"}) },
		"two management groups": func() (roles.Role, error) { return roles.New("", nil, []string{mg + "a", mg + "b"}) },
		"a bad name":            func() (roles.Role, error) { return roles.New("a/b", nil, []string{s}) },
		"no such duty":          func() (roles.Role, error) { return roles.New("", []roles.Duty{"all"}, []string{s}) },
	} {
		if r, err := f(); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := roles.ParseDuty("everything"); err == nil || !strings.Contains(err.Error(), "read-only, nsg, defender, scale-sets") {
		t.Errorf("got %v", err)
	}
}

// Each form holds the same actions and scopes, and no name breaks out of its quotes.
func TestForms(t *testing.T) {
	const s = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/web"
	r, err := roles.New(`it's "${here}" 'x`, []roles.Duty{roles.Read, roles.ScaleSets}, []string{s})
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Name                      string
		IsCustom                  bool
		Actions, AssignableScopes []string
	}
	if err := json.Unmarshal(b, &d); err != nil || d.Name != r.Name || !d.IsCustom || len(d.Actions) != len(r.Actions) || !slices.Equal(d.AssignableScopes, []string{s}) {
		t.Errorf("%v: %s", err, b)
	}
	tf := r.Terraform()
	f, diags := hclparse.NewParser().ParseHCL([]byte(tf), "role.tf")
	if diags.HasErrors() {
		t.Fatalf("%v in %s", diags, tf)
	}
	attrs, _ := f.Body.JustAttributes()
	if len(attrs) != 0 {
		t.Errorf("%v stand outside of the resource", attrs)
	}
	bicep := r.Bicep()
	for _, a := range r.Actions {
		if !strings.Contains(tf, `      "`+a.Name+`", # `) || !strings.Contains(bicep, "          '"+a.Name+"' // ") {
			t.Errorf("%s is missing", a.Name)
		}
	}
	if !strings.HasPrefix(bicep, "targetScope = 'subscription'\n") || !strings.Contains(bicep, `roleName: 'it\'s "\${here}" `) || !strings.Contains(bicep, "      '"+s+"'\n") {
		t.Error(bicep)
	}
	if !strings.Contains(tf, `"it's \"$${here}\" `) {
		t.Error(tf)
	}
	r.Scopes = []string{"/providers/Microsoft.Management/managementGroups/mg"}
	if !strings.Contains(r.Bicep(), "targetScope = 'managementGroup'\n") {
		t.Error(r.Bicep())
	}
}

// Whoever holds the role to read changes nothing: the calls of another duty are refused, and nothing is written.
func TestReadOnlyChangesNothing(t *testing.T) {
	w := newWorld(t, roles.Read)
	before := string(w.sim.Dump())
	session, err := standalone.Open(t.Context(), standalone.Config{Azure: w.client(), Undo: filepath.Join(w.dir, "protect.undo")})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Protect(t.Context(), api.ProtectInput{VMs: []string{"web-01"}}); err == nil {
		t.Error("it was protected")
	}
	refused := false
	for _, r := range w.sim.Requests() {
		refused = refused || r.Method == "PUT" && r.Status == 403
	}
	if !refused || string(w.sim.Dump()) != before {
		t.Errorf("refused: %t, unchanged: %t", refused, string(w.sim.Dump()) == before)
	}
}

// The table in docs/azure.md is the program's. CURFEW_UPDATE=1 writes it.
func TestDocumentation(t *testing.T) {
	file := filepath.Join(testkit.Module(t), "docs", "azure.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- actions -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(b), from)
	_, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatal("docs/azure.md has no place for the table")
	}
	want := before + from + roles.Reference() + to + after
	if os.Getenv("CURFEW_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Error("the table in docs/azure.md is not the program's: CURFEW_UPDATE=1 go test ./internal/roles")
	}
}

package roles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// definition is a role as az role definition create --role-definition reads it.
type definition struct {
	Name             string
	IsCustom         bool
	Description      string
	Actions          []string
	NotActions       []string
	DataActions      []string
	NotDataActions   []string
	AssignableScopes []string
}

func (r Role) names() []string {
	out := make([]string, len(r.Actions))
	for i, a := range r.Actions {
		out[i] = a.Name
	}
	return out
}

// JSON is the role for: az role definition create --role-definition FILE.
func (r Role) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(definition{Name: r.Name, IsCustom: true, Description: r.Description, Actions: r.names(), NotActions: []string{}, DataActions: []string{},
		NotDataActions: []string{}, AssignableScopes: r.Scopes})
	return b.Bytes(), err
}

// managementGroup tells whether the role is defined in a management group.
func (r Role) managementGroup() bool {
	for _, s := range r.Scopes {
		if strings.HasPrefix(strings.ToLower(s), "/providers/") {
			return true
		}
	}
	return false
}

// Bicep is the role as a Bicep file for the subscription or management group of its scope.
func (r Role) Bicep() string {
	q := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, `${`, `\${`).Replace(s) + "'"
	}
	target, at := "subscription", "subscription().id"
	if r.managementGroup() {
		target, at = "managementGroup", "managementGroup().id"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "targetScope = '%s'\n\nresource role 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {\n  name: guid(%s, %s)\n  properties: {\n", target, at, q(r.Name))
	fmt.Fprintf(&b, "    roleName: %s\n    description: %s\n    type: 'CustomRole'\n    permissions: [\n      {\n        actions: [\n", q(r.Name), q(r.Description))
	for _, a := range r.Actions {
		fmt.Fprintf(&b, "          %s // %s\n", q(a.Name), a.For)
	}
	b.WriteString("        ]\n        notActions: []\n      }\n    ]\n    assignableScopes: [\n")
	for _, s := range r.Scopes {
		fmt.Fprintf(&b, "      %s\n", q(s))
	}
	b.WriteString("    ]\n  }\n}\n\noutput id string = role.id\n")
	return b.String()
}

// Terraform is the role as a resource of the azurerm provider.
func (r Role) Terraform() string {
	q := func(s string) string {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `$${`, `%{`, `%%{`).Replace(s) + `"`
	}
	var b strings.Builder
	fmt.Fprintf(&b, "resource \"azurerm_role_definition\" \"curfew\" {\n  name        = %s\n  scope       = %s\n  description = %s\n\n  permissions {\n    actions = [\n",
		q(r.Name), q(r.Scopes[0]), q(r.Description))
	for _, a := range r.Actions {
		fmt.Fprintf(&b, "      %s, # %s\n", q(a.Name), a.For)
	}
	b.WriteString("    ]\n    not_actions = []\n  }\n\n  assignable_scopes = [\n")
	for _, s := range r.Scopes {
		fmt.Fprintf(&b, "    %s,\n", q(s))
	}
	b.WriteString("  ]\n}\n")
	return b.String()
}

// Reference is the table of actions for documentation.
func Reference() string {
	var b strings.Builder
	b.WriteString("| duty | action | what needs it |\n| --- | --- | --- |\n")
	for _, a := range Actions {
		why := a.For
		if a.Unseen != "" {
			why += " (" + a.Unseen + ")"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", a.Duty, a.Name, why)
	}
	return b.String()
}

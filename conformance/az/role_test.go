package az_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

// az takes a role as the program prints it, for each duty and for all, and what it made has the same actions and scopes.
func TestRoles(t *testing.T) {
	a := simtest.Sim(t)
	c := newCLI(t, a, newTranscript(t, "az-roles"))
	c.signIn(a)
	for i, duty := range []string{"read-only", "nsg", "defender", "scale-sets", ""} {
		name := fmt.Sprint("Curfew test ", i)
		args := []string{"azure", "role", "--name", name, "--scope", simtest.Shop, "--scope", "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-web"}
		if duty != "" {
			args = append(args, "--duty", duty)
		}
		printed, err := exec.CommandContext(t.Context(), simtest.Program(t), args...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		file := filepath.Join(t.TempDir(), "role.json")
		if err := os.WriteFile(file, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		made := c.ok("role", "definition", "create", "--role-definition", "@"+file)
		if at(made, "roleName") != name || at(made, "roleType") != "CustomRole" && at(made, "type") != "CustomRole" {
			t.Errorf("%s: made %v", duty, made)
		}
		want := strs(decoded(t, printed, "Actions"))
		got := strs(at(made, "permissions", 0, "actions"))
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: az shows the actions %v, printed were %v", duty, got, want)
		}
		if scopes := strs(at(made, "assignableScopes")); len(scopes) != 2 {
			t.Errorf("%s: scopes %v", duty, scopes)
		}
	}
}

func strs(v any) (out []string) {
	list, _ := v.([]any)
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return out
}

func decoded(t *testing.T, text []byte, field string) any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m[field]
}

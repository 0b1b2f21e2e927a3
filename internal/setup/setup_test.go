package setup_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/roles"
	"github.com/curfew-jit/curfew/internal/setup"
)

// fake is an Azure that answers as it is told.
type fake struct {
	permissions map[string][]azure.Permission // by scope; none: forbidden
	providers   map[string]string
	plan        azure.ServersPlan
	err         error
}

var errForbidden = &azure.Error{Op: "list permissions at", Class: azure.Forbidden, Status: 403, Err: errors.New("no")}

func (f fake) Subscriptions(context.Context) ([]azure.Subscription, error) {
	return []azure.Subscription{{SubscriptionID: "s1", State: "Enabled"}, {SubscriptionID: "s2", State: "Disabled"}}, f.err
}

func (f fake) Permissions(_ context.Context, scope string) ([]azure.Permission, error) {
	if p, ok := f.permissions[scope]; ok {
		return p, nil
	}
	return nil, errForbidden
}

func (f fake) ProviderState(_ context.Context, _, ns string) (string, error) {
	if s, ok := f.providers[ns]; ok {
		return s, nil
	}
	return "", errForbidden
}

func (f fake) DefenderForServers(context.Context, string) (azure.ServersPlan, error) {
	if f.plan.Tier == "" {
		return f.plan, errForbidden
	}
	return f.plan, nil
}

func find(t *testing.T, items []setup.Item, check string) setup.Item {
	t.Helper()
	for _, it := range items {
		if it.Check == check {
			return it
		}
	}
	t.Fatalf("nothing says %s: %+v", check, items)
	return setup.Item{}
}

func TestCheck(t *testing.T) {
	owner := []azure.Permission{{Actions: []string{"*"}}}
	good := fake{permissions: map[string][]azure.Permission{"/subscriptions/s1": owner}, providers: map[string]string{"Microsoft.Compute": "Registered", "Microsoft.Network": "registered",
		"Microsoft.Security": "Registered"}, plan: azure.ServersPlan{Tier: "Standard", SubPlan: "P2"}}
	items, err := setup.Check(t.Context(), good, nil, nil)
	if err != nil || len(items) != len(roles.Duties)+4 {
		t.Fatalf("%d items, %v: %+v", len(items), err, items)
	}
	for _, it := range items {
		if it.State != setup.Right || it.Scope != "/subscriptions/s1" || it.Next != "" {
			t.Errorf("%+v", it)
		}
	}

	// One action that a role takes away again, one provider, one plan.
	bad := good
	bad.permissions = map[string][]azure.Permission{"/subscriptions/s1": {{Actions: []string{"*"}, NotActions: []string{"Microsoft.Network/networkSecurityGroups/WRITE"}}, {Actions: []string{"*/read"}}}}
	bad.providers = map[string]string{"Microsoft.Compute": "Registered", "Microsoft.Network": "NotRegistered"}
	bad.plan = azure.ServersPlan{Tier: "Standard", SubPlan: "P1"}
	if items, err = setup.Check(t.Context(), bad, nil, nil); err != nil {
		t.Fatal(err)
	}
	if it := find(t, items, "role nsg"); it.State != setup.Missing || len(it.Lacks) != 1 || it.Lacks[0] != "Microsoft.Network/networkSecurityGroups/write" || !strings.Contains(it.Next, "--duty nsg --scope /subscriptions/s1") {
		t.Errorf("%+v", it)
	}
	if it := find(t, items, "role read-only"); it.State != setup.Right {
		t.Errorf("%+v", it)
	}
	if it := find(t, items, "provider Microsoft.Network"); it.State != setup.Missing || !strings.Contains(it.Detail, "NotRegistered") {
		t.Errorf("%+v", it)
	}
	if it := find(t, items, "provider Microsoft.Security"); it.State != setup.Unknown {
		t.Errorf("%+v", it)
	}
	if it := find(t, items, "Defender for Servers"); it.State != setup.Missing || !strings.Contains(it.Detail, "Standard P1") {
		t.Errorf("%+v", it)
	}
	for plan, want := range map[azure.ServersPlan]setup.State{{Tier: "Standard"}: setup.Right, {Tier: "Free"}: setup.Missing, {}: setup.Unknown} {
		bad.plan = plan
		items, _ = setup.Check(t.Context(), bad, nil, []roles.Duty{roles.Defender})
		if it := find(t, items, "Defender for Servers"); it.State != want {
			t.Errorf("%+v: %+v", plan, it)
		}
	}

	// What cannot be read is unknown, and nothing that was not asked for is looked at.
	if items, err = setup.Check(t.Context(), good, []string{"/subscriptions/s1/resourceGroups/a", "/subscriptions/s1"}, []roles.Duty{roles.NSG}); err != nil || len(items) != 6 {
		t.Fatalf("%+v, %v", items, err)
	}
	if items[0].State != setup.Unknown || items[1].State != setup.Unknown || items[0].Check != "role read-only" || find(t, items[2:], "role nsg").State != setup.Right {
		t.Errorf("%+v", items)
	}
	if _, err := setup.Check(t.Context(), fake{err: errForbidden}, nil, nil); err == nil {
		t.Error("subscriptions that cannot be listed are no error")
	}
}

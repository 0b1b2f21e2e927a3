package compliance_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/compliance"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func TestControlsOfRules(t *testing.T) {
	of := func(r scan.RuleID, framework string) (out []string) {
		for _, c := range compliance.Of(r) {
			if c.Framework == framework {
				out = append(out, c.Control)
			}
		}
		return out
	}
	for _, c := range []struct {
		rule      scan.RuleID
		framework string
		want      []string
	}{
		{scan.VMJITMissing, "Microsoft cloud security benchmark v1", []string{"NS-3", "PA-2"}},
		{scan.VMPortExposed, "Microsoft cloud security benchmark v1", []string{"NS-3"}},
		{scan.VMJITIneffective, "Microsoft cloud security benchmark v1", []string{"NS-3", "PA-2"}}, // of two policies, each control once
		{scan.VMNoNSG, "Microsoft cloud security benchmark v1", []string{"NS-1"}},
		{scan.VMJITMissing, "CIS Azure Foundations 1.1.0", []string{"2.12"}},
		{scan.VMJITMissing, "CIS Azure Foundations 2.0.0", nil}, // FACTS 1.7: not mapped
		{scan.VMPortExposed, "CIS Azure Foundations 2.0.0", []string{"6.1", "6.2"}},
		{scan.VMJITMissing, "NIST SP 800-53 R5", []string{"AC-2(12)", "AC-4", "AC-4(3)", "SC-7", "SC-7(3)"}},
		{scan.VMJITMissing, "PCI DSS 4.0.1", nil},
		{scan.VMPortExposed, "PCI DSS 4.0.1", []string{"1.2.5", "2.2.4", "7.2.3", "7.2.4", "7.2.5.1"}},
		{scan.VMJITMissing, "ISO/IEC 27001:2013", nil},
	} {
		if got := of(c.rule, c.framework); !slices.Equal(got, c.want) {
			t.Errorf("%s, %s: got %v, want %v", c.rule, c.framework, got, c.want)
		}
	}
	for _, r := range scan.Rules {
		got := compliance.Of(r.ID)
		if (len(got) == 0) != (len(r.Policies) == 0) {
			t.Errorf("%s has %d policies and %d controls", r.ID, len(r.Policies), len(got))
		}
		for i, c := range got {
			if !slices.Contains(r.Policies, c.Policy) {
				t.Errorf("%s claims %s for the policy %s, which is not its own", r.ID, c.Control, c.Policy)
			}
			if slices.ContainsFunc(got[:i], func(d scan.Control) bool { return d.Framework == c.Framework && d.Control == c.Control }) {
				t.Errorf("%s claims %s %s twice", r.ID, c.Framework, c.Control)
			}
		}
	}
	if compliance.Of("no-such-rule") != nil {
		t.Error("a rule that is not there has controls")
	}
}

// Every control is in Azure's own mapping, and none of a framework that is listed is left out.
func TestNoneIsClaimedThatIsNotMapped(t *testing.T) {
	data, err := os.ReadFile(testkit.Shared(t, "azure", "policies", "compliance-mapping.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Policies map[string]struct {
			ID string `json:"policyDefinitionId"`
		} `json:"policies"`
		Sets []struct {
			Name     string              `json:"name"`
			Gov      bool                `json:"azureGovernment"`
			Controls map[string][]string `json:"controls"`
		} `json:"policySets"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, r := range scan.Rules {
		for _, p := range r.Policies {
			if !slices.Contains(used, p) {
				used = append(used, p)
			}
		}
	}
	checked := 0
	for _, f := range compliance.Frameworks() {
		found := 0
		for _, s := range m.Sets {
			if s.Name != f.Set || s.Gov {
				continue
			}
			found++
			for name, p := range m.Policies {
				if !slices.Contains(used, p.ID) {
					if got := f.Controls(p.ID); got != nil {
						t.Errorf("%s claims %v for the policy %s, which no rule names", f.Name, got, p.ID)
					}
					continue
				}
				var got []string
				for _, c := range f.Controls(p.ID) {
					got = append(got, f.Group(c))
				}
				want := slices.Clone(s.Controls[name])
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, slices.Compact(want)) {
					t.Errorf("%s, %s: got %v, want %v", f.Name, name, got, want)
				}
				checked += len(got)
			}
		}
		if found != 1 {
			t.Errorf("%s: the mapping holds %d sets %s of the public cloud", f.Name, found, f.Set)
		}
	}
	if len(used) != 4 || checked < 100 {
		t.Errorf("checked %d controls of %d policies: the test does not see what it should", checked, len(used))
	}
	t.Logf("%d frameworks, %d controls", len(compliance.Frameworks()), checked)
}

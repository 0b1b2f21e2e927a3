package scan_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// jcase is one estate and what a rule says of it: every finding of the rule, with its reason, in the golden file.
type jcase struct {
	name string
	make func(w *world)
	o    scan.Options
}

const (
	deny22 = "curfew-deny-demo-tcp-22 200 Deny * * 10.0.0.4 22"
)

// Each rule and each trap, with the reason. What was not read is unknown and never a pass (P10).
func TestRules(t *testing.T) {
	for rule, cases := range cases {
		t.Run(string(rule), func(t *testing.T) {
			var out bytes.Buffer
			for _, c := range cases {
				w := newWorld()
				c.make(w)
				o := c.o
				o.Now, o.All, o.Rules = noon, true, []scan.RuleID{rule}
				e := w.estate(t)
				r := scan.Scan(e, o)
				completes(t, e, o)
				fmt.Fprintf(&out, "# %s\n", c.name)
				for i := range r.Findings {
					f := &r.Findings[i]
					if f.Rule != rule {
						t.Errorf("%s: a finding of %s", c.name, f.Rule)
					}
					fmt.Fprintln(&out, told(f))
				}
				out.WriteByte('\n')
			}
			golden(t, string(rule), out.Bytes())
		})
	}
	for _, r := range scan.Rules {
		if len(cases[r.ID]) < 3 {
			t.Errorf("%s has %d cases", r.ID, len(cases[r.ID]))
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	section := ""
	for i := range max(len(g), len(w)) {
		a, b := at(g, i), at(w, i)
		if strings.HasPrefix(a, "# ") {
			section = a
		}
		if a != b {
			t.Fatalf("%s, line %d, under %s\n got  %s\n want %s", file, i+1, section, a, b)
		}
	}
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "(end)"
}

// The order of findings, their ids and the sums do not depend on the order of the bodies or on how many judge at once.
func TestSameReportEveryTime(t *testing.T) {
	build := func(backwards bool) *estate.Estate {
		w := newWorld()
		for i := range 40 {
			w.vm(fmt.Sprintf("web-%02d", i), i+4, w.nsg(fmt.Sprintf("nsg-%02d", i), "ssh 300 Allow Tcp * * 22", deny22), fmt.Sprintf("20.1.2.%d", i))
		}
		if backwards {
			slices.Reverse(w.bodies)
		}
		return w.estate(t)
	}
	want := scan.Scan(build(false), scan.Options{Now: noon, All: true})
	for i := range 4 {
		got := scan.Scan(build(i%2 == 1), scan.Options{Now: noon, All: true})
		a, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(want); !bytes.Equal(a, b) {
			t.Fatalf("run %d differs", i)
		}
	}
	ids := map[string]bool{}
	for _, f := range want.Findings {
		if ids[f.ID] || len(f.ID) != 12 || f.ID != scan.FindingID(f.Rule, strings.ToUpper(f.Resource)) {
			t.Errorf("the id %s of %s on %s is not its own", f.ID, f.Rule, f.Resource)
		}
		ids[f.ID] = true
	}
	if !slices.IsSortedFunc(want.Findings, func(a, b scan.Finding) int {
		return slices.Index(scan.Statuses, a.Status) - slices.Index(scan.Statuses, b.Status)
	}) {
		t.Error("what fails does not come first")
	}
}

// Without All only what fails and what is unknown is listed, and everything is counted.
func TestListedAndCounted(t *testing.T) {
	w := newWorld()
	w.vm("open", 4, w.nsg("open-nsg", "ssh 300 Allow Tcp * * 22"), "20.1.2.3")
	w.vm("shut", 5, w.nsg("shut-nsg"), "20.1.2.4")
	e := w.estate(t)
	few, all := scan.Scan(e, scan.Options{Now: noon}), scan.Scan(e, scan.Options{Now: noon, All: true})
	if fmt.Sprint(few.Summary) != fmt.Sprint(all.Summary) {
		t.Errorf("the sums differ: %+v and %+v", few.Summary, all.Summary)
	}
	n := map[scan.Status]int{}
	for _, f := range all.Findings {
		n[f.Status]++
	}
	for s, want := range n {
		if few.Summary.Statuses[s] != want {
			t.Errorf("%s: counted %d, listed %d", s, few.Summary.Statuses[s], want)
		}
	}
	for _, f := range few.Findings {
		if f.Status != scan.Fail && f.Status != scan.Unknown {
			t.Errorf("%s on %s is listed: %s", f.Rule, f.Name, f.Status)
		}
	}
	if few.Summary.Exposed != 1 || few.Summary.VMs != 2 || few.Summary.NSGs != 2 || !few.Summary.Complete || len(few.Findings) == 0 {
		t.Errorf("got %+v", few.Summary)
	}
}

// P10: whatever is hidden, no rule passes or is silent about what it hides.
func TestHiddenIsNeverClean(t *testing.T) {
	const sub = "11111111-2222-3333-4444-555555555555"
	for _, c := range []struct {
		typ   string
		drop  string // the bodies that the gap hides
		rules []scan.RuleID
	}{
		{"Microsoft.Compute/virtualMachines", "/virtualMachines/", []scan.RuleID{scan.VMPortExposed, scan.VMJITMissing, scan.VMJITIneffective, scan.VMNoNSG}},
		{"Microsoft.Network/networkInterfaces", "/networkInterfaces/", []scan.RuleID{scan.VMPortExposed, scan.VMJITMissing, scan.VMJITIneffective, scan.VMNoNSG}},
		{"Microsoft.Network/networkSecurityGroups", "/networkSecurityGroups/", []scan.RuleID{scan.VMPortExposed, scan.VMJITMissing, scan.NSGRuleBroad, scan.RuleOverdue, scan.RuleOrphaned}},
		{"Microsoft.Network/virtualNetworks", "/virtualNetworks/", nil},
		{"Microsoft.Network/publicIPAddresses", "/publicIPAddresses/", nil},
		{"Microsoft.Network/loadBalancers", "/loadBalancers/", nil},
		{"Microsoft.Compute/virtualMachineScaleSets", "/virtualMachineScaleSets/", []scan.RuleID{scan.VMSSTerminateOff, scan.VMSSTerminateShort}},
		{"Microsoft.Security/locations/jitNetworkAccessPolicies", "/jitNetworkAccessPolicies/", []scan.RuleID{scan.VMJITMissing, scan.VMJITIneffective, scan.JITPolicyBroad}},
		{"", "/", []scan.RuleID{scan.VMPortExposed, scan.VMJITMissing, scan.VMJITIneffective, scan.VMNoNSG, scan.NSGRuleBroad, scan.RuleOverdue, scan.RuleOrphaned, scan.VMSSTerminateOff, scan.VMSSTerminateShort, scan.JITPolicyBroad}},
	} {
		t.Run(c.typ, func(t *testing.T) {
			w := newWorld()
			w.vm("web", 4, w.nsg("web-nsg", "no-ssh 200 Deny * * * 22"), "20.1.2.3")
			w.policy("default", vmID("web"), "Succeeded", jitPort(22, "203.0.113.9", "PT1H"))
			w.scaleSet("set", terminate(true, "PT5M"))
			w.bodies = slices.DeleteFunc(w.bodies, func(b map[string]any) bool { return strings.Contains(b["id"].(string), c.drop) })
			w.gaps = []estate.Gap{{Source: "test", Subscription: sub, Type: c.typ, Reason: "403 AuthorizationFailed"}}
			e := w.estate(t)
			r := scan.Scan(e, scan.Options{Now: noon, All: true})
			completes(t, e, scan.Options{Now: noon, All: true})
			if r.Summary.Complete || len(r.Gaps) != 1 {
				t.Errorf("the report does not say that it is incomplete: %+v", r.Summary)
			}
			if t.Logf("%d findings", len(r.Findings)); len(r.Findings) < 6 {
				t.Error("rules are silent")
			}
			for _, rule := range c.rules {
				unknown, clean := 0, 0
				for _, f := range r.Findings {
					if f.Rule == rule && f.Status == scan.Unknown {
						unknown++
					} else if f.Rule == rule && (f.Status == scan.Pass || f.Status == scan.NotApplicable) {
						clean++
						t.Logf("%s", told(&f))
					}
				}
				if unknown == 0 || clean > 0 {
					t.Errorf("%s: %d unknown, %d clean", rule, unknown, clean)
				}
			}
		})
	}
}

func day(h, m int) string { return time.Date(2026, 11, 26, h, m, 0, 0, time.UTC).Format(time.RFC3339) }

package scan_test

import (
	"slices"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
)

func finding(id string, s scan.Status, e scan.Exposure) scan.Finding {
	return scan.Finding{ID: id, Rule: scan.VMPortExposed, Status: s, Severity: scan.High, Exposure: e, Subscription: "sub-a",
		Resource: "/subscriptions/sub-a/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/" + id}
}

func ids(fs []scan.Finding) []string {
	out := []string{}
	for _, f := range fs {
		out = append(out, f.ID)
	}
	return out
}

// P10: what a later scan could not see is not called gone.
func TestDiff(t *testing.T) {
	before := scan.Report{Findings: []scan.Finding{finding("stays", scan.Fail, scan.ExposedInternet), finding("shut", scan.Fail, scan.ExposedInternet),
		finding("worse", scan.Unknown, scan.ExposureUnknown), finding("passed", scan.Pass, scan.ExposedNothing)}}
	later := func() scan.Report {
		return scan.Report{Findings: []scan.Finding{finding("new", scan.Fail, scan.ExposedInternet), finding("stays", scan.Fail, scan.ExposedInternet),
			finding("worse", scan.Fail, scan.ExposedInternet), finding("shut", scan.Pass, scan.ExposedNothing)}}
	}
	for _, c := range []struct {
		name                             string
		after                            func() scan.Report
		appeared, gone, doubtful, change []string
	}{
		{"complete", later, []string{"new"}, []string{"shut"}, []string{}, []string{"worse"}},
		{"the subscription was hidden", func() scan.Report {
			r := later()
			r.Gaps = []scan.Gap{{Source: "network interfaces", Subscription: "SUB-A", Reason: "403"}}
			return r
		}, []string{"new"}, []string{}, []string{"shut"}, []string{"worse"}},
		{"another subscription was hidden", func() scan.Report {
			r := later()
			r.Gaps = []scan.Gap{{Source: "network interfaces", Subscription: "sub-b", Reason: "403"}}
			return r
		}, []string{"new"}, []string{"shut"}, []string{}, []string{"worse"}},
		{"other subscriptions were asked about", func() scan.Report {
			return scan.Report{Source: scan.Source{Subscriptions: []string{"sub-b"}}}
		}, []string{}, []string{}, []string{"stays", "shut", "worse"}, []string{}},
		{"nothing is left", func() scan.Report { return scan.Report{} }, []string{}, []string{"stays", "shut", "worse"}, []string{}, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := scan.Diff(before, c.after())
			var changed []scan.Finding
			for _, ch := range d.Changed {
				changed = append(changed, ch.After)
			}
			for what, p := range map[string][2][]string{"appeared": {ids(d.Appeared), c.appeared}, "gone": {ids(d.Gone), c.gone},
				"doubtful": {ids(d.Doubtful), c.doubtful}, "changed": {ids(changed), c.change}} {
				if !slices.Equal(p[0], p[1]) {
					t.Errorf("%s: got %v, want %v", what, p[0], p[1])
				}
			}
		})
	}
	if d := scan.Diff(before, before); !d.Empty() {
		t.Errorf("a report differs from itself: %+v", d)
	}
}

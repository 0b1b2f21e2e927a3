package posture_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/posture"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/scan/triage"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func demo(t *testing.T) *estate.Estate {
	t.Helper()
	e, err := estate.Read(strings.NewReader(string(estates.Demo())))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func judged(t *testing.T, o posture.Options) posture.Outcome {
	t.Helper()
	o.Judge.Now = now
	out, err := posture.Judge(demo(t), scan.Source{Kind: "file"}, o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The sums say the same as the list, however much of it is marked or picked.
func TestSums(t *testing.T) {
	all := judged(t, posture.Options{Judge: scan.Options{All: true}})
	base, _ := all.UpdateBaseline(triage.Baseline{}, now)
	sup, err := triage.ParseSuppressions("s.yaml", []byte("suppressions:\n- {rule: vm-management-port-exposed, owner: a, reason: b, until: 2999-01-01}\n"))
	if err != nil {
		t.Fatal(err)
	}
	half := triage.Baseline{Made: base.Made, Entries: base.Entries[:len(base.Entries)/2]}
	for name, o := range map[string]posture.Options{
		"plain": {}, "all": {Judge: scan.Options{All: true}}, "suppressed": {Suppressions: sup}, "known": {Baseline: &base}, "half known": {Baseline: &half},
		"both": {Baseline: &half, Suppressions: sup}, "a rule": {Filter: triage.Options{Rules: []string{"vm-jit-missing"}}},
		"a rule, both": {Filter: triage.Options{Rules: []string{"vm-management-port-exposed"}}, Suppressions: sup, Baseline: &half},
		"worst":        {Filter: triage.Options{Severities: []string{"critical"}}}, "a group": {Filter: triage.Options{Groups: []string{"shop-web"}}, Judge: scan.Options{All: true}},
	} {
		t.Run(name, func(t *testing.T) {
			out := judged(t, o)
			s := out.Report.Summary
			status, severity, suppressed, known := map[scan.Status]int{}, map[scan.Severity]int{}, 0, 0
			for _, f := range out.Report.Findings {
				switch {
				case f.Suppressed != nil:
					suppressed++
				case f.Known:
					known++
				default:
					status[f.Status]++
					if f.Status == scan.Fail {
						severity[f.Severity]++
					}
				}
				if f.Status == scan.Fail && f.Rule == scan.VMJITMissing && len(f.Compliance) == 0 {
					t.Errorf("%s of %s has no controls", f.Rule, f.Name)
				}
			}
			for _, st := range []scan.Status{scan.Fail, scan.Unknown} { // the others are listed only when all are asked for
				if s.Statuses[st] != status[st] {
					t.Errorf("%d are %s, the sum says %d", status[st], st, s.Statuses[st])
				}
				n := 0
				for _, r := range s.Rules {
					n += r[st]
				}
				if n != status[st] {
					t.Errorf("%d are %s, the sums of rules say %d", status[st], st, n)
				}
			}
			for _, sv := range scan.Severities {
				if s.Severities[sv] != severity[sv] {
					t.Errorf("%d are %s, the sum says %d", severity[sv], sv, s.Severities[sv])
				}
			}
			if s.Suppressed != suppressed || s.Known != known {
				t.Errorf("%d suppressed and %d known, the sums say %d and %d", suppressed, known, s.Suppressed, s.Known)
			}
			if o.Judge.All && status[scan.Pass] != s.Statuses[scan.Pass] {
				t.Errorf("%d pass, the sum says %d", status[scan.Pass], s.Statuses[scan.Pass])
			}
			lean := o
			lean.Judge.Lean = true
			sameFilled(t, judged(t, o), judged(t, lean))
			again, err := posture.Again(judged(t, posture.Options{}).Report, posture.Options{Filter: o.Filter, Suppressions: o.Suppressions})
			if o.Baseline == nil && !o.Judge.All && (err != nil || fmt.Sprint(again.Report.Summary.Severities) != fmt.Sprint(s.Severities)) {
				t.Errorf("a report made elsewhere says %v, %v; want %v", again.Report.Summary.Severities, err, s.Severities)
			}
		})
	}
	if out := judged(t, posture.Options{Baseline: &base}); out.Report.Summary.Statuses[scan.Fail] != 0 || out.Report.Summary.Known == 0 {
		t.Errorf("everything is known, and the sums are %+v", out.Report.Summary)
	}
}

// sameFilled holds a lean outcome against the full one: the same notes, the same marks, and, filled, the same findings. A baseline knows
// and writes the same of both.
func sameFilled(t *testing.T, full, lean posture.Outcome) {
	t.Helper()
	for _, f := range lean.Report.Findings {
		for _, p := range f.Evidence.Ports {
			if len(p.Ways) > 0 {
				t.Fatalf("%s of %s is not lean", f.Rule, f.Name)
			}
		}
	}
	a, said := full.UpdateBaseline(triage.Baseline{}, now)
	b, saidLean := lean.UpdateBaseline(triage.Baseline{}, now)
	if fmt.Sprint(a) != fmt.Sprint(b) || said != saidLean {
		t.Errorf("the baselines differ: %s; %s", said, saidLean)
	}
	fill, complete := posture.Fill(demo(t), scan.Options{Now: now}), posture.Fill(demo(t), scan.Options{Now: now, Lean: true})
	for i := range lean.Report.Findings {
		fill(&full.Report.Findings[i])
		complete(&lean.Report.Findings[i])
	}
	x, err := json.Marshal([]any{full.Report, full.Notes})
	if err != nil {
		t.Fatal(err)
	}
	if y, _ := json.Marshal([]any{lean.Report, lean.Notes}); string(x) != string(y) {
		t.Errorf("full:\n%.4000s\nlean:\n%.4000s", x, y)
	}
}

func TestFind(t *testing.T) {
	e := demo(t)
	for ref, want := range map[string]access.Code{"web-01": "", "WEB-01": "", "shop-web/web-01": "", e.VMs()[0].ID: "", strings.ToUpper(e.VMs()[0].ID): "",
		"build-01": access.CodeAmbiguous, "lab/build-01": "", "web": access.CodeNotFound, "other/web-01": access.CodeNotFound, "/subscriptions/x": access.CodeNotFound} {
		v, err := posture.Find(e, ref)
		if want == "" && (err != nil || v == nil) || want != "" && access.CodeOf(err) != want {
			t.Errorf("%s: got %v, want code %q", ref, err, want)
		}
	}
}

// P10: a filter by a place that is not there would hide everything, and look clean.
func TestFilterAstray(t *testing.T) {
	e := demo(t)
	for _, f := range []triage.Options{{Subscriptions: []string{"nope"}}, {Groups: []string{"shop-wbe"}}, {Groups: []string{"shop-web", "nope"}},
		{Tags: []string{"no-such-tag"}}, {Resources: []string{"wbe-*"}}} {
		out, err := posture.Judge(e, scan.Source{Kind: "file"}, posture.Options{Judge: scan.Options{Now: now}, Filter: f})
		if err == nil || !strings.Contains(err.Error(), "fits nothing that was judged") {
			t.Errorf("%+v: %v, %d findings", f, err, len(out.Report.Findings))
		}
	}
	// What passes is there all the same.
	if out := judged(t, posture.Options{Filter: triage.Options{Resources: []string{"web-01"}, Severities: []string{"critical"}}}); len(out.Report.Findings) != 0 {
		t.Errorf("%d critical findings", len(out.Report.Findings))
	}
	// A report made elsewhere knows its subscriptions, and holds no passes.
	rep := judged(t, posture.Options{}).Report
	rep.Source.Subscriptions = []string{"5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01"}
	if _, err := posture.Again(rep, posture.Options{Filter: triage.Options{Subscriptions: []string{"nope"}}}); err == nil {
		t.Error("a subscription that was not scanned is taken")
	}
	out, err := posture.Again(rep, posture.Options{Filter: triage.Options{Groups: []string{"shop-wbe"}}})
	if err != nil || len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "misspelt") {
		t.Errorf("%v, %q", err, out.Notes)
	}
}

// P10: a report that a filter emptied says by what, and never that nothing fails.
func TestPickedIsTold(t *testing.T) {
	for _, c := range []struct {
		filter triage.Options
		want   string
	}{
		{triage.Options{Statuses: []string{"unknown"}}, "only status unknown"},
		{triage.Options{Severities: []string{"critical", "medium"}, Rules: []string{"rule-overdue"}}, "only rule rule-overdue, severity critical or medium"},
	} {
		out, err := posture.Judge(demo(t), scan.Source{Kind: "file"}, posture.Options{Judge: scan.Options{Now: now}, Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		again, err := posture.Again(out.Report, posture.Options{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*scan.Report{&out.Report, &again.Report} {
			for _, f := range []report.Format{report.Table, report.HTML, report.Markdown} {
				var b strings.Builder
				if err := report.Write(&b, f, r, report.Options{}); err != nil {
					t.Fatal(err)
				}
				if got := b.String(); !strings.Contains(got, c.want) || strings.Contains(got, "nothing of it fails") {
					t.Errorf("%s does not say %q, or says that nothing fails:\n%.600s", f, c.want, got)
				}
			}
		}
	}
	out, err := posture.Judge(demo(t), scan.Source{Kind: "file"}, posture.Options{Judge: scan.Options{Now: now}})
	if err != nil || out.Report.Source.Picked != "" {
		t.Errorf("without a filter: %q, %v", out.Report.Source.Picked, err)
	}
}

package report_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/testkit/ocsftest"
)

const complianceFinding = "events/findings/compliance_finding.json"

// Every event is a Compliance Finding of OCSF 1.8.0: its attributes, types, lists of values, required ones and constraints.
func TestOCSF(t *testing.T) {
	o := ocsftest.New(t)
	var version struct{ Version string }
	o.Read(&version, "version.json")
	var categories struct{ Attributes map[string]struct{ UID int } }
	o.Read(&categories, "categories.json")
	var class struct {
		UID     int
		Caption string
	}
	o.Read(&class, strings.Split(complianceFinding, "/")...)
	category := categories.Attributes["findings"].UID
	for name, r := range samples() {
		lines := strings.Split(strings.TrimSuffix(write(t, report.OCSF, r, report.Options{Version: "1.2.3"}), "\n"), "\n")
		if len(r.Findings)+len(r.Gaps) == 0 {
			continue
		}
		if len(lines) != len(r.Findings)+len(r.Gaps) {
			t.Errorf("%s: %d events of %d findings and %d gaps", name, len(lines), len(r.Findings), len(r.Gaps))
		}
		uids := map[any]bool{}
		for i, line := range lines {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			meta := e["metadata"].(map[string]any)
			if uids[meta["uid"]] {
				t.Errorf("%s: two events are called %v", name, meta["uid"])
			}
			if uids[meta["uid"]] = true; strings.HasPrefix(name, "hostile") && i >= len(r.Findings) {
				uids = map[any]bool{} // hostile gaps may be equal
			}
			// class_uid, type_uid and category_uid are derived from where the class stands.
			uid := category*1000 + class.UID
			for k, want := range map[string]any{"class_uid": uid, "class_name": class.Caption, "category_uid": category, "time": r.At.UnixMilli(),
				"type_uid": uid*100 + int(e["activity_id"].(float64))} {
				if got := e[k]; fmt.Sprint(got) != fmt.Sprint(want) && got != toFloat(want) {
					t.Errorf("%s: %s is %v, want %v", name, k, got, want)
				}
			}
			if meta["version"] != version.Version {
				t.Errorf("%s: of version %v", name, meta["version"])
			}
			delete(e, "class_uid") // the schema's own list for these three is filled in by its compiler
			delete(e, "type_uid")
			delete(e, "category_uid")
			for _, w := range o.Check("event", e, complianceFinding, []string{"cloud"}) {
				if strings.HasSuffix(w, "event.class_uid is required") || strings.HasSuffix(w, "event.type_uid is required") || strings.HasSuffix(w, "event.category_uid is required") {
					continue
				}
				t.Errorf("%s: %.300s", name, w)
			}
		}
		if t.Failed() {
			t.Log(lines[0])
			break
		}
	}
}

func toFloat(v any) any {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	}
	return v
}

// The checker finds what is wrong.
func TestOCSFCheckerFinds(t *testing.T) {
	o := ocsftest.New(t)
	line, _, _ := strings.Cut(write(t, report.OCSF, fixture(), report.Options{}), "\n")
	for _, c := range []struct {
		want  string
		spoil func(e map[string]any)
	}{
		{"event.finding_info is required", func(e map[string]any) { delete(e, "finding_info") }},
		{"event.severity_id: 7 is not in its list", func(e map[string]any) { e["severity_id"] = 7.0 }},
		{"status says Fine", func(e map[string]any) { e["compliance"].(map[string]any)["status"] = "Fine" }},
		{"event.message: 3 is no string_t", func(e map[string]any) { e["message"] = 3.0 }},
		{"event.verdict is no attribute", func(e map[string]any) { e["verdict"] = "x" }},
		{"event.resource is deprecated", func(e map[string]any) { e["resource"] = map[string]any{"uid": "x"} }},
		{"event.cloud is required", func(e map[string]any) { delete(e, "cloud") }},
		{"(at_least_one)", func(e map[string]any) { e["resources"] = []any{map[string]any{"role_id": 3.0}} }},
		{"event.resources is no list", func(e map[string]any) { e["resources"] = map[string]any{} }},
	} {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		c.spoil(e)
		got := o.Check("event", e, complianceFinding, []string{"cloud"})
		found := slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, c.want) })
		if !found {
			t.Errorf("%q is not found in %q", c.want, got)
		}
	}
}

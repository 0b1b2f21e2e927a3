package scan_test

import (
	"bytes"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// The demo shows every rule failing and passing, by the defaults, and nothing of it is unknown. The golden file is what a scan of it tells.
func TestDemoShowsEveryRule(t *testing.T) {
	e, err := estate.Read(bytes.NewReader(estates.Demo()))
	if err != nil {
		t.Fatal(err)
	}
	r := scan.Scan(e, scan.Options{Now: noon})
	for _, rule := range scan.Rules {
		n := r.Summary.Rules[rule.ID]
		if n[scan.Fail] == 0 || n[scan.Pass] == 0 || n[scan.Unknown] != 0 {
			t.Errorf("%s: %v", rule.ID, n)
		}
	}
	var out bytes.Buffer
	for i := range r.Findings {
		f := &r.Findings[i]
		out.WriteString(string(f.Rule) + " " + told(f) + "\n")
	}
	golden(t, "demo", out.Bytes())
}

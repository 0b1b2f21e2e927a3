package scan_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// 100,000 machines, one group of ten rules for every ten of them, in 200 subscriptions.
func BenchmarkScan(b *testing.B) {
	var file bytes.Buffer
	if err := estates.WriteLarge(&file, estates.LargeOptions{VMs: 100_000, NSGs: 10_000, Rules: 10, Subscriptions: 200}); err != nil {
		b.Fatal(err)
	}
	e, err := estate.Read(&file)
	if err != nil {
		b.Fatal(err)
	}
	file = bytes.Buffer{}
	b.ReportAllocs()
	for b.Loop() {
		r := scan.Scan(e, scan.Options{Now: noon})
		b.ReportMetric(float64(len(r.Findings)), "findings")
	}
}

package storetest

import (
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Scan returns a kept scan.
func Scan(id string, at time.Time) broker.ScanRecord {
	r := broker.ScanRecord{Head: scan.Head{ID: id, At: at, By: "curfew", Took: 1.25, Summary: scan.Summary{VMs: 3, Complete: true,
		Statuses: map[scan.Status]int{scan.Fail: 1}, Severities: map[scan.Severity]int{scan.High: 1},
		Rules: map[scan.RuleID]map[scan.Status]int{scan.VMPortExposed: {scan.Fail: 1}}}}}
	r.Report = scan.Report{ID: id, At: at, Source: scan.Source{Kind: "graph"}, Summary: r.Summary, Findings: []scan.Finding{{ID: "f-1", Rule: scan.VMPortExposed,
		Resource: VM("web-01").ID, Status: scan.Fail, Severity: scan.High, Reason: "port 22 is open „to all“ <script>", Evidence: scan.Evidence{Facts: []scan.Fact{{Name: "a", Value: "b"}}}}},
		Gaps: []scan.Gap{{Source: "network interfaces", Reason: "403"}}}
	return r
}

func testScans(t *testing.T, s broker.Store) {
	scans := func(p broker.Page) (out []string, next string) {
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			list, n, err := tx.Scans(p)
			out, next = ids(list, func(h scan.Head) string { return h.ID }), n
			return err
		}))
		return out, next
	}
	if got, _ := scans(broker.Page{}); len(got) != 0 {
		t.Errorf("an empty store lists %v", got)
	}
	for i, id := range []string{"s-1", "s-2", "s-3", "s-4"} {
		do(t, s, func(tx broker.Tx) error { return tx.InsertScan(Scan(id, Epoch.Add(time.Duration(i)*time.Hour))) })
	}
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.InsertScan(Scan("s-2", Epoch)) }), access.CodeConflict)
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		got, err := tx.Scan("s-2")
		equal(t, "scan", got, Scan("s-2", Epoch.Add(time.Hour)))
		if err != nil {
			return err
		}
		_, err = tx.Scan("s-9")
		wantCode(t, err, access.CodeNotFound)
		return nil
	}))
	page, next := scans(broker.Page{Limit: 3})
	equal(t, "first page", page, []string{"s-4", "s-3", "s-2"})
	page, next = scans(broker.Page{Limit: 3, After: next})
	equal(t, "second page", page, []string{"s-1"})
	equal(t, "the end", next, "")

	do(t, s, func(tx broker.Tx) error { return tx.ForgetScans(3, Epoch.Add(30*time.Hour)) })
	page, _ = scans(broker.Page{})
	equal(t, "kept, however old", page, []string{"s-4", "s-3", "s-2"})
	do(t, s, func(tx broker.Tx) error { return tx.ForgetScans(0, Epoch.Add(2*time.Hour)) })
	page, _ = scans(broker.Page{})
	equal(t, "kept, not old", page, []string{"s-4", "s-3"})
}

package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

func write(t testing.TB, f report.Format, r *scan.Report, o report.Options) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Write(&b, f, r, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The golden files hold one report in each format, with every status, severity, suppression, gap and kind of evidence.
func TestGolden(t *testing.T) {
	cases := map[string]struct {
		format report.Format
		o      report.Options
	}{}
	for _, f := range report.Formats {
		cases["report"+f.Extension()] = struct {
			format report.Format
			o      report.Options
		}{f, report.Options{Version: "1.2.3"}}
	}
	for name, o := range map[string]report.Options{"wide.txt": {Width: 160}, "narrow.txt": {Width: 60}, "colour.txt": {Width: 100, Color: true},
		"resource.txt": {Width: 120, GroupBy: report.ByResource}, "subscription.txt": {Width: 120, GroupBy: report.BySubscription}} {
		cases[name] = struct {
			format report.Format
			o      report.Options
		}{report.Table, o}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := write(t, c.format, fixture(), c.o)
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("differs from %s (go test -update writes it anew):\n%s", path, firstDifference(got, string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + strings.Join(w[min(i, len(w)):min(i+1, len(w))], "")
		}
	}
	return "got ends early"
}

// The same report gives the same bytes, and is left as it was.
func TestSameBytes(t *testing.T) {
	for _, f := range report.Formats {
		r := fixture()
		first := write(t, f, r, report.Options{Width: 80})
		for range 5 {
			if write(t, f, r, report.Options{Width: 80}) != first {
				t.Fatalf("%s differs from run to run", f)
			}
		}
		if !reflect.DeepEqual(r, fixture()) {
			t.Errorf("%s changed the report", f)
		}
	}
}

func TestRefused(t *testing.T) {
	var b bytes.Buffer
	for _, c := range []struct {
		f    report.Format
		o    report.Options
		want string
	}{{"pdf", report.Options{}, `no report format "pdf"; there are table, json`}, {report.Table, report.Options{GroupBy: "colour"}, "choose from rule, resource, subscription"}} {
		err := report.Write(&b, c.f, fixture(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || b.Len() > 0 {
			t.Errorf("%s %v: %v, %d bytes written", c.f, c.o, err, b.Len())
		}
	}
}

var errFull = errors.New("no space left")

// full is a writer that fails after n bytes.
type full struct{ n int }

func (w *full) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// An error of the writer is never lost, wherever it comes.
func TestWriterFails(t *testing.T) {
	r := many(400)
	for _, f := range report.Formats {
		size := len(write(t, f, r, report.Options{}))
		for _, n := range []int{0, 1, 70 << 10, size - 1} {
			if n >= size {
				continue
			}
			if err := report.Write(&full{n}, f, r, report.Options{}); !errors.Is(err, errFull) {
				t.Errorf("%s, full after %d of %d bytes: %v", f, n, size, err)
			}
		}
	}
}

// Promise P10: what could not be read is told in every format, and a report that is not complete never reads as clean.
func TestNotCompleteIsTold(t *testing.T) {
	silent := clean()
	silent.Summary.Complete = false // without a word what is hidden
	gapped := clean()
	gapped.Gaps, gapped.Summary.Complete = fixture().Gaps[1:2], true // the gap counts, whatever the summary says
	for _, f := range report.Formats {
		for name, r := range map[string]*scan.Report{"fixture": fixture(), "silent": silent, "gapped": gapped} {
			got := strings.ToLower(write(t, f, r, report.Options{}))
			want := "not complete"
			if f == report.JSON {
				if want = `"complete": false`; name == "gapped" {
					want = `"gaps": [`
				}
			}
			if !strings.Contains(got, want) {
				t.Errorf("%s of %s does not say %q", f, name, want)
			}
			for _, lie := range []string{"nothing fails.\n", "everything that was asked for was read"} {
				if strings.Contains(got, lie) {
					t.Errorf("%s of %s says %q", f, name, lie)
				}
			}
		}
		if got := write(t, f, clean(), report.Options{}); strings.Contains(strings.ToLower(strings.ReplaceAll(got, `"not-complete"`, "")), "not complete") && f != report.SARIF {
			t.Errorf("%s of a clean report says that it is not complete:\n%s", f, got)
		}
	}
}

// JSON is what the types marshal, with findings that are never null.
func TestJSONIsTheTypes(t *testing.T) {
	for name, r := range map[string]*scan.Report{"fixture": fixture(), "clean": clean(), "many": many(300), "hostile": poisoned(`"findings": [] "` + "\n  \"findings\": []")} {
		got := write(t, report.JSON, r, report.Options{})
		frame := *r
		if frame.Findings == nil {
			frame.Findings = []scan.Finding{}
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(frame); err != nil {
			t.Fatal(err)
		}
		if got != b.String() {
			t.Errorf("%s: %s", name, firstDifference(got, b.String()))
		}
		var back scan.Report
		if err := json.Unmarshal([]byte(got), &back); err != nil || !reflect.DeepEqual(back, frame) {
			t.Errorf("%s is not the same after reading it back: %v", name, err)
		}
		if !strings.Contains(got, `"findings": [`) || strings.Contains(got, `"findings": null`) {
			t.Errorf("%s: findings", name)
		}
	}
}

package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

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

// What a verdict needs and is not there is no gap of a source: the first verdict that is unknown for it says what. A report that lists none of
// these, because they were filtered away, says that.
func TestMissingIsNamed(t *testing.T) {
	r := clean()
	r.Summary.Complete = false
	r.Findings = []scan.Finding{{ID: "f-1", Rule: scan.VMPortExposed, Status: scan.Unknown, Name: "web01", Reason: "network interface web01nic does not exist",
		Resource: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/web01", Type: "Microsoft.Compute/virtualMachines"}}
	const want = "what a verdict about web01 needs could not be read: network interface web01nic does not exist"
	for _, f := range report.Formats {
		if f == report.JSON {
			continue // it has the finding and "complete": false
		}
		if got := write(t, f, r, report.Options{}); !strings.Contains(got, want) {
			t.Errorf("%s does not say %q:\n%s", f, want, got)
		}
	}
	r.Findings = nil
	if got, want := write(t, report.Table, r, report.Options{}), "NOT complete: what a verdict needs could not be read: no verdict that is unknown for it is among those listed."; !strings.Contains(got, want) {
		t.Errorf("not %q:\n%s", want, got)
	}
}

// inLines gives each member of a control and of a fact a line of its own, as encoding/json does. Where these stand in a line each is all
// in which the report differs from it.
func inLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		text := strings.TrimLeft(line, " ")
		if strings.HasPrefix(text, `{"framework": `) || strings.HasPrefix(text, `{"name": `) {
			var wide bytes.Buffer
			end := text[strings.LastIndex(text, "}")+1:]
			prefix := strings.Repeat(" ", len(line)-len(text))
			if err := json.Indent(&wide, []byte(strings.TrimSuffix(text, end)), prefix, "  "); err != nil {
				return err.Error()
			}
			line = prefix + wide.String() + end
		}
		b.WriteString(line)
	}
	return b.String()
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
		if got, want := inLines(got), inLines(b.String()); got != want {
			t.Errorf("%s: %s", name, firstDifference(got, want))
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

// A finding is what its type marshals, whatever its fields hold: each alone, all, none, and texts that have to be escaped.
func TestFindingIsWhatItMarshals(t *testing.T) {
	check := func(t *testing.T, f scan.Finding) {
		t.Helper()
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(f); err != nil {
			t.Fatal(err)
		}
		got, err := report.Finding(&f)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if compact.String() != strings.TrimSuffix(want.String(), "\n") {
			t.Fatalf("got  %s\nwant %s", compact.String(), want.String())
		}
	}
	full := filled(reflect.TypeFor[scan.Finding](), "x", 2).Interface().(scan.Finding)
	check(t, scan.Finding{})
	check(t, full)
	// Each field of each struct as its zero value, in turn.
	for i := 0; ; i++ {
		f := filled(reflect.TypeFor[scan.Finding](), "y", 1)
		n := i
		if !zeroNth(f, &n) {
			if i < 60 {
				t.Fatalf("only %d fields", i)
			}
			break
		}
		check(t, f.Interface().(scan.Finding))
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.SampledFrom(hostile), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(rt, "text")
		check(t, filled(reflect.TypeFor[scan.Finding](), s, rapid.IntRange(0, 3).Draw(rt, "length")).Interface().(scan.Finding))
	})
	late := full
	late.Suppressed = &scan.Suppression{Until: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := report.Finding(&late); err == nil {
		t.Error("a time that JSON has no form for is written")
	}
}

// filled is a value with every field set: texts to s, lists with n elements.
func filled(t reflect.Type, s string, n int) reflect.Value {
	v := reflect.New(t).Elem()
	switch {
	case t == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2026, 11, 26, 12, 30, 5, 1000*n, time.FixedZone("", 3600*n))))
		return v
	case t == reflect.TypeFor[map[string]string]():
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(s, i)] = s
		}
		v.Set(reflect.ValueOf(m))
		return v
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(int64(3*n) - 1)
	case reflect.Uint16:
		v.SetUint(65535)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(filled(t.Elem(), s, n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, n, n))
		for i := range n {
			v.Index(i).Set(filled(t.Elem(), s, n))
		}
	case reflect.Struct:
		for i := range t.NumField() {
			v.Field(i).Set(filled(t.Field(i).Type, s, n))
		}
	default:
		panic("no value for a " + t.String())
	}
	return v
}

// zeroNth sets the n-th field within a value to zero, and tells whether there is one.
func zeroNth(v reflect.Value, n *int) bool {
	switch v.Kind() {
	case reflect.Pointer:
		return zeroNth(v.Elem(), n)
	case reflect.Slice:
		for i := range v.Len() {
			if zeroNth(v.Index(i), n) {
				return true
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return false
		}
		for i := range v.NumField() {
			if *n == 0 {
				v.Field(i).SetZero()
				return true
			}
			*n--
			if zeroNth(v.Field(i), n) {
				return true
			}
		}
	}
	return false
}

// YAML holds what JSON holds, in the same order, however the findings come to it.
func TestYAML(t *testing.T) {
	for name, r := range map[string]*scan.Report{"fixture": fixture(), "clean": clean(), "many": many(100), "hostile": poisoned("\nfindings: []\n")} {
		var got bytes.Buffer
		if err := report.WriteYAML(&got, r, report.Options{}, blockYAML); err != nil {
			t.Fatal(err)
		}
		want, err := blockYAML([]byte(write(t, report.JSON, r, report.Options{})))
		if err != nil {
			t.Fatal(err)
		}
		// Long texts are folded where they stand, and mean the same.
		if g, w := tree(t, got.Bytes()), tree(t, want); g != w {
			t.Errorf("%s: %s", name, firstDifference(g, w))
		}
	}
	if err := report.WriteYAML(&full{1000}, many(400), report.Options{}, blockYAML); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
	odd := errors.New("odd")
	if err := report.WriteYAML(io.Discard, many(400), report.Options{}, func(b []byte) ([]byte, error) {
		if bytes.Contains(b, []byte(`"findings": []`)) {
			return blockYAML(b)
		}
		return nil, odd
	}); !errors.Is(err, odd) {
		t.Errorf("what cannot be converted: %v", err)
	}
}

// tree is what a YAML text means, one value a line.
func tree(t *testing.T, b []byte) string {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var out strings.Builder
	var walk func(n *yaml.Node, depth int)
	walk = func(n *yaml.Node, depth int) {
		fmt.Fprintf(&out, "%d %d %s %q\n", depth, n.Kind, n.Tag, n.Value)
		for _, c := range n.Content {
			walk(c, depth+1)
		}
	}
	walk(&n, 0)
	return out.String()
}

func blockYAML(b []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, err
	}
	var block func(n *yaml.Node)
	block = func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode && len(n.Content) > 0 {
			n.Style = 0
		}
		for i, c := range n.Content {
			if block(c); n.Kind == yaml.MappingNode && i%2 == 0 {
				c.Style = 0
			}
		}
	}
	block(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err := errors.Join(e.Encode(&n), e.Close())
	return out.Bytes(), err
}

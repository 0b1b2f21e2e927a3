package report_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/scan/report"
)

// indented promises the bytes of json.Indent.
func TestIndentedIsIndent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var value func(depth int) any
		value = func(depth int) any {
			kind := rapid.IntRange(0, 6).Draw(t, "kind")
			if depth == 0 {
				kind %= 4
			}
			switch kind {
			case 0:
				return rapid.Int().Draw(t, "n")
			case 1:
				return rapid.SampledFrom([]any{nil, true, 1.5, "", `"`, `\`, `a\"b{[,:]}`, "ü\n\u2028<>&", []any{}, map[string]any{}}).Draw(t, "leaf")
			case 2, 3:
				return rapid.String().Draw(t, "text")
			case 4, 5:
				list := []any{}
				for range rapid.IntRange(0, 3).Draw(t, "len") {
					list = append(list, value(depth-1))
				}
				return list
			}
			m := map[string]any{}
			for range rapid.IntRange(0, 3).Draw(t, "len") {
				m[rapid.String().Draw(t, "key")] = value(depth - 1)
			}
			return m
		}
		v := value(4)
		compact, err := report.Encode(v, "", "")
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Indent(&want, compact, "    ", "  "); err != nil {
			t.Fatal(err)
		}
		if got, err := report.Encode(v, "    ", "  "); err != nil || string(got) != want.String() {
			t.Fatalf("%v: %q, want %q", err, got, want.String())
		}
	})
}

// However many make the parts, they stand in their order, and the first fault in that order is the one that is told.
func TestPartsStandInOrder(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2, 4} {
		runtime.GOMAXPROCS(procs)
		for _, n := range []int{0, 1, report.Together, report.Together + 1, 20*report.Together + 7} {
			var got bytes.Buffer
			w := bufio.NewWriter(&got)
			if err := report.Parts(w, n, func(i int) (string, error) { return fmt.Sprint(i, " "), nil }); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			var want strings.Builder
			for i := range n {
				want.WriteString(fmt.Sprint(i, " "))
			}
			if got.String() != want.String() {
				t.Errorf("%d processors, %d parts: %s", procs, n, got.String())
			}
		}
		w := bufio.NewWriter(&bytes.Buffer{})
		err := report.Parts(w, 50*report.Together, func(i int) (string, error) {
			if i == 3*report.Together || i == 3*report.Together+1 || i == 40*report.Together {
				return "", fmt.Errorf("part %d", i)
			}
			return "", nil
		})
		if want := fmt.Sprintf("part %d", 3*report.Together); err == nil || err.Error() != want {
			t.Errorf("%d processors: %v, want %s", procs, err, want)
		}
		full := errors.New("disk full")
		err = report.Parts(bufio.NewWriterSize(broken{full}, 16), 50*report.Together, func(int) (string, error) { return "some text", nil })
		if !errors.Is(err, full) {
			t.Errorf("%d processors: %v, want %v", procs, err, full)
		}
	}
}

type broken struct{ err error }

func (b broken) Write([]byte) (int, error) { return 0, b.err }

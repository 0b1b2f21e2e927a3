package model_test

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/model"
	"github.com/curfew-jit/curfew/internal/testkit"
)

var update = flag.Bool("update", false, "write the traces in testdata anew")

// most bounds the memory that a check takes: about 200 bytes a state.
const most = 15_000_000

var (
	chosen = model.Design{NewRead: true, IfMatch: true, Recheck: true, Sweep: true, Fallback: true}
	// pauses: nothing goes wrong but that somebody is slow.
	pauses = model.Bounds{Ends: []int{1}, Periods: 2, Refusals: 1}
	// everything: one grant that ends after the first period, watched for two more, with all that can go wrong.
	everything = model.Bounds{Ends: []int{1}, Periods: 3, Refusals: 1, Late: 1, Foreign: true, Revoke: true, Crashes: true}
)

func byName(d model.Design) model.Design {
	d.ByName = true
	return d
}

// The designs that leave something out break a promise. Each does so by a shortest trace, kept in testdata to be read; -update
// writes them anew.
func TestDesignsThatDoNotHold(t *testing.T) {
	const forEver = "P2: every grant is over"
	late := pauses
	late.Crashes, late.Late = true, 1
	foreign := pauses
	foreign.Foreign = true
	for _, c := range []struct {
		name    string
		design  model.Design
		bounds  model.Bounds
		promise string
	}{
		{"unconditional", model.Design{NewRead: true}, pauses, forEver},
		{"unconditional-with-recheck-and-sweep", model.Design{NewRead: true, Recheck: true, Sweep: true, Fallback: true}, foreign, "P3"},
		{"if-match", model.Design{NewRead: true, IfMatch: true, Fallback: true}, pauses, forEver},
		{"if-match-and-recheck", model.Design{NewRead: true, IfMatch: true, Recheck: true, Fallback: true}, pauses, forEver},
		{"if-match-and-recheck-late-write", model.Design{NewRead: true, IfMatch: true, Recheck: true, Fallback: true}, late, forEver},
		{"if-match-and-recheck-old-read", model.Design{IfMatch: true, Recheck: true, Fallback: true}, pauses, forEver},
		{"no-fallback", model.Design{NewRead: true, IfMatch: true, Recheck: true, Sweep: true}, foreign, "P2: a closing is refused again and again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := model.Check(c.design, c.bounds, most)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d states", v.States)
			if !strings.HasPrefix(v.Broken, c.promise) {
				t.Fatalf("breaks %q, want %s\n%s", v.Broken, c.promise, strings.Join(v.Trace, "\n"))
			}
			got := strings.Join(v.Trace, "\n") + "\n" + v.Broken + "\n"
			file := filepath.Join("testdata", c.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || got != string(want) {
				t.Errorf("%v; got\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

// P1, P2, P3: in every state that the chosen design can reach, one sweep removes each opening that has no live grant, none
// outlives the sweep after it came, and no rule of somebody else's is overwritten.
func TestChosenDesignHolds(t *testing.T) {
	holds(t, "server", chosen, everything)
	noRevoke := everything // of which a sweep without a store hears nothing
	noRevoke.Revoke = false
	holds(t, "sweep without a store", byName(chosen), noRevoke)
}

// The same with larger bounds: two grants with different ends, the three refusals of the product, two writes under way late.
func TestChosenDesignHoldsLong(t *testing.T) {
	testkit.RequireLong(t)
	three := everything
	three.Refusals = 3
	holds(t, "three refusals", chosen, three)
	twoLate := everything
	twoLate.Late = 2
	holds(t, "two late writes", chosen, twoLate)
	two := everything
	two.Ends, two.Foreign = []int{1, 2}, false
	holds(t, "two grants", chosen, two)
	holds(t, "a revoked grant, sweep without a store", byName(chosen), everything)
	holds(t, "two grants, sweep without a store", byName(chosen), two)
}

func holds(t *testing.T, name string, d model.Design, b model.Bounds) {
	t.Run(name, func(t *testing.T) {
		v, err := model.Check(d, b, most)
		if err != nil {
			t.Fatal(err)
		}
		if v.Broken != "" {
			t.Fatalf("breaks %q\n%s", v.Broken, strings.Join(v.Trace, "\n"))
		}
		t.Logf("%d states; in %d a port stood open without a live grant, in %d since the period before; a DELETE under way in %d",
			v.States, v.Excess, v.Overslept, v.Deletes)
		// The design record names the number; it would be a different model otherwise.
		digits := strconv.Itoa(v.States)
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		doc, err := os.ReadFile(filepath.Join(testkit.Module(t), "docs", "design", "0002-writers-and-time.md"))
		if err != nil || !strings.Contains(string(doc), "| "+digits+" |") {
			t.Errorf("%s states stand nowhere in docs/design/0002-writers-and-time.md (%v)", digits, err)
		}
		if v.Excess == 0 || v.Overslept == 0 || v.Deletes == 0 && b.Foreign || v.Healed != v.States {
			t.Errorf("nothing went wrong in the whole model: it shows nothing (%+v)", v)
		}
	})
}

// A part of the whole proves nothing, and is no verdict.
func TestCheckSaysWhenItGivesUp(t *testing.T) {
	if v, err := model.Check(chosen, everything, 1000); err == nil {
		t.Errorf("%+v after 1000 states", v)
	}
	if v, err := model.Check(chosen, model.Bounds{}, 1000); err == nil {
		t.Errorf("%+v without a grant", v)
	}
}

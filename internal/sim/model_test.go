package sim_test

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
)

// Random histories of NSG writes, with operations that take time, against the dumbest model: what the last accepted write said. After
// each history the dump must survive a round trip.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		mode := rapid.SampledFrom([]sim.Concurrency{sim.Retry, sim.Supersede}).Draw(rt, "concurrency")
		a := newAz(t, sim.Config{Now: now.Now, OperationDelay: 2 * time.Second, Concurrency: mode})
		model := map[string]map[string]int{} // NSG -> rule -> priority
		busy := map[string]time.Time{}       // end of the running write
		deleting := map[string]bool{}
		etag := map[string]string{}
		settle := func() {
			for id, end := range busy {
				if !now.Now().Before(end) {
					if deleting[id] {
						delete(model, id)
						delete(deleting, id)
					}
					delete(busy, id)
				}
			}
		}
		ids := []string{nsgID + "-a", nsgID + "-b"}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			settle()
			id := rapid.SampledFrom(ids).Draw(rt, "nsg")
			_, exists := model[id]
			_, running := busy[id]
			blocked := running && (mode == sim.Retry || deleting[id])
			expect := func(r reply, err error, want int) bool {
				if err != nil {
					rt.Fatal(err)
				}
				if blocked && exists {
					want = 429
				}
				if r.status != want {
					rt.Fatalf("got %d, want %d: %s", r.status, want, r.raw)
				}
				return want < 300
			}
			switch op := rapid.SampledFrom([]string{"put", "put", "rule", "unrule", "delete", "wait", "read", "stale etag"}).Draw(rt, "op"); op {
			case "put":
				want := map[string]int{}
				var rules []map[string]any
				for i := range rapid.IntRange(0, 3).Draw(rt, "rules") {
					name := fmt.Sprintf("r%d", i)
					want[name] = 100 + rapid.IntRange(0, 9).Draw(rt, "priority")*10 + i
					rules = append(rules, rule(name, want[name]))
				}
				r, err := a.try("PUT", id, nsgBody(rules...))
				status := 201
				if exists {
					status = 200
				}
				same := exists && fmt.Sprint(model[id]) == fmt.Sprint(want)
				if expect(r, err, status) {
					if !same || running {
						busy[id] = now.Now().Add(2 * time.Second)
					}
					model[id] = want
				}
			case "rule":
				p := 500 + rapid.IntRange(0, 3).Draw(rt, "priority")
				r, err := a.try("PUT", id+"/securityRules/extra", rule("extra", p))
				status := 201
				old, had := model[id]["extra"]
				if had {
					status = 200
				}
				if !exists {
					status = 404
				}
				if expect(r, err, status) {
					if old != p || running {
						busy[id] = now.Now().Add(2 * time.Second)
					}
					model[id]["extra"] = p
				}
			case "unrule":
				r, err := a.try("DELETE", id+"/securityRules/extra", nil)
				if _, had := model[id]["extra"]; !had {
					if err != nil || r.status != 204 {
						rt.Fatalf("got %d %v, want 204", r.status, err)
					}
				} else if expect(r, err, 202) {
					busy[id] = now.Now().Add(2 * time.Second)
					delete(model[id], "extra")
				}
			case "delete":
				r, err := a.try("DELETE", id, nil)
				if !exists {
					if err != nil || r.status != 204 {
						rt.Fatalf("got %d %v, want 204", r.status, err)
					}
				} else if expect(r, err, 202) {
					busy[id], deleting[id] = now.Now().Add(2*time.Second), true
				}
			case "wait":
				now.Advance(time.Duration(rapid.IntRange(0, 3).Draw(rt, "seconds")) * time.Second)
			case "stale etag":
				if old := etag[id]; exists && old != "" {
					r, err := a.try("GET", id, nil)
					if err != nil || r.status != 200 {
						rt.Fatal(r.status, err)
					}
					if fresh := r.body["etag"].(string); fresh != old {
						if r, err = a.try("PUT", id, nsgBody(), "If-Match", old); err != nil || r.status != 412 {
							rt.Fatalf("got %d %v, want 412", r.status, err)
						}
					}
				}
			}
			settle()
			for _, id := range ids {
				r, err := a.try("GET", id, nil)
				if err != nil {
					rt.Fatal(err)
				}
				want, exists := model[id]
				if !exists {
					if r.status != 404 {
						rt.Fatalf("got %d for what does not exist", r.status)
					}
					continue
				}
				got := map[string]int{}
				for _, x := range list(at(r.body, "properties", "securityRules")) {
					got[at(x, "name").(string)] = int(at(x, "properties", "priority").(float64))
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					rt.Fatalf("%s: got rules %v, want %v", id, got, want)
				}
				state := at(r.body, "properties", "provisioningState")
				if _, running := busy[id]; running == (state == "Succeeded") {
					rt.Fatalf("%s: got state %v, running: %v", id, state, running)
				}
				etag[id] = r.body["etag"].(string)
			}
		}
		now.Advance(time.Minute)
		dump := a.s.Dump()
		b, err := sim.New(sim.Config{Estate: dump})
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(b.Dump(), dump) {
			rt.Fatal("the dump does not survive a round trip")
		}
	})
}

// A witness does not share our judgement (DESIGN 8).
func TestImports(t *testing.T) {
	files, err := filepath.Glob("*.go")
	more, err2 := filepath.Glob("estates/*.go")
	if err != nil || err2 != nil || len(files) < 10 {
		t.Fatal(files, err, err2)
	}
	var bad []string
	for _, f := range append(files, more...) {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			rest, ours := strings.CutPrefix(path, "github.com/curfew-jit/curfew/internal/")
			switch {
			case !ours, rest == "clock", rest == "testkit", rest == "sim", rest == "sim/estates":
			default:
				bad = append(bad, f+" imports "+rest)
			}
		}
	}
	sort.Strings(bad)
	if len(bad) > 0 {
		t.Error(strings.Join(bad, "\n"))
	}
}

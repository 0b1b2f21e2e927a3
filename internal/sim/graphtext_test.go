package sim_test

import (
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// What Resource Graph shows of a body's text is what it would show of the tree, for every field of every resource, before and after
// the body was looked at and changed.
func TestGraphTextIsWhatTheTreeSays(t *testing.T) {
	s, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		compared, differ := s.CompareGraphText()
		if compared < 500 {
			t.Errorf("%s: %d fields were compared, want many more", when, compared)
		}
		if len(differ) > 0 {
			t.Errorf("%s: %d fields differ:\n%s", when, len(differ), strings.Join(differ[:min(10, len(differ))], "\n"))
		}
	}
	check("as loaded")
	for _, id := range s.IDs("Microsoft.Network/networkInterfaces") {
		if err := s.Edit(id, func(body map[string]any) error {
			body["tags"] = map[string]any{"a": `quote " and \ and <é>`, "name": "x"}
			delete(body["properties"].(map[string]any), "networkSecurityGroup")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range s.IDs("Microsoft.Compute/virtualMachines")[:3] {
		if err := s.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	check("after changes")
	if err := s.Load(s.Dump()); err != nil {
		t.Fatal(err)
	}
	check("loaded again")
}

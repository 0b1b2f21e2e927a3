package sim_test

import (
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// TestWatch: each way to change a resource is told, reading is not.
func TestWatch(t *testing.T) {
	c := newAz(t, sim.Config{Estate: estates.Demo()})
	s := c.s
	changed, stop := s.Watch()
	told := func(what string, want bool) {
		t.Helper()
		select {
		case <-changed:
			if !want {
				t.Errorf("%s was told as a change", what)
			}
		default:
			if want {
				t.Errorf("%s was not told", what)
			}
		}
	}
	nsg := s.IDs("Microsoft.Network/networkSecurityGroups")[0]
	rev := s.Revision()
	s.Get(nsg)
	s.Dump()
	told("reading", false)
	if s.Revision() != rev {
		t.Error("reading changed the revision")
	}
	if err := s.Edit(nsg, func(b map[string]any) error { b["tags"] = map[string]any{"a": "b"}; return nil }); err != nil {
		t.Fatal(err)
	}
	told("an edit", true)
	extra := nsg + "/securityRules/extra"
	c.do(201, "PUT", extra, rule("extra", 150))
	told("a rule's PUT", true)
	s.Advance(time.Minute)
	c.do(202, "DELETE", extra, nil)
	told("a rule's DELETE", true)
	if err := s.Load(estates.Demo()); err != nil {
		t.Fatal(err)
	}
	told("a load", true)
	if err := s.Delete(s.IDs("Microsoft.Network/networkSecurityGroups")[0]); err != nil {
		t.Fatal(err)
	}
	told("a deletion", true)
	if s.Revision() < rev+5 {
		t.Errorf("revision %d after five changes on %d", s.Revision(), rev)
	}
	stop()
	if err := s.Load(estates.Demo()); err != nil {
		t.Fatal(err)
	}
	told("a change after the end", false)
}

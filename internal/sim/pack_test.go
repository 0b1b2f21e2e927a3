package sim_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// What lies packed is as what is kept as a tree: the stories of other tests, with room for two of everything.
func TestPackedResources(t *testing.T) {
	sim.SmallCaches(t.Cleanup)
	for name, test := range map[string]func(*testing.T){"NSG": TestNSGLifeCycle, "uniform sets": TestUniformScaleSet, "flexible sets": TestFlexibleScaleSet, "policies": TestJITPolicies, "requests": TestJITRequests,
		"peerings": TestPeerings, "queries": TestGraphQueries, "language": TestGraphLanguage, "roles": TestRoles, "recordings": TestRecordings, "schedule": TestSchedule, "machines": TestMachineActions} {
		t.Run(name, test)
	}
	small, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	dump := small.Dump()
	if err := small.Load(dump); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dump, small.Dump()) {
		t.Error("a packed estate is dumped otherwise than it was loaded")
	}
}

func TestWriteLarge(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(estates.WriteLarge(w, estates.LargeOptions{VMs: 450, NSGs: 3, Rules: 350, Subscriptions: 2}))
	}()
	s, err := sim.New(sim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.LoadFrom(r); err != nil {
		t.Fatal(err)
	}
	if n := len(s.IDs("Microsoft.Compute/virtualMachines")); n != 450 {
		t.Errorf("got %d machines", n)
	}
	if n := len(s.IDs("Microsoft.Network/networkSecurityGroups")); n != 3 {
		t.Errorf("got %d NSGs", n)
	}
	raw, ok := s.Get(s.IDs("Microsoft.Compute/virtualMachines")[449])
	if !ok || !strings.Contains(string(raw), "vm-00449-nic") {
		t.Errorf("got %s", raw)
	}
	before := s.Revision()
	for _, bad := range []string{`{"resources":[{"id":"/x"}]}`, `{"resources":{}}`, `[]`, `{"resources":[`, ``, `{"resources":[{"id":"/subscriptions/a"},{"id":"/subscriptions/a"}]}`} {
		if err := s.LoadFrom(strings.NewReader(bad)); err == nil {
			t.Errorf("%s was loaded", bad)
		}
	}
	if s.Revision() != before || len(s.IDs("Microsoft.Compute/virtualMachines")) != 450 {
		t.Error("a refused estate has changed something")
	}
}

package collect_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// told is all that an estate tells, as text.
func told(t *testing.T, e *estate.Estate) map[string]string {
	t.Helper()
	out := map[string]string{}
	put := func(id string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out[id] = string(b)
	}
	for _, vm := range e.VMs() {
		c := *vm
		c.Power = "" // lists do not tell it, and ask no machine for it
		put(c.ID, c)
		for _, port := range []uint16{22, 3389} {
			put(c.ID+" ways", e.Ways(vm, netsec.TCP, port))
		}
	}
	for _, s := range e.ScaleSets() {
		put(s.ID, s)
	}
	for _, n := range e.NSGs() {
		put(n.ID, n)
	}
	for _, p := range e.Policies() {
		put(p.ID, p)
	}
	return out
}

// What is cut from the bodies that Resource Graph is asked for decides nothing: the estate says the same as one of whole bodies.
func TestEstateIsTheSameBothWays(t *testing.T) {
	collected := func(c collect.Config) *estate.Estate {
		c.Client = newSim(t, sim.Config{Estate: estates.Demo()}).client(t, nil)
		e, _, err := collect.Collect(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Gaps()) > 0 {
			t.Fatal(e.Gaps())
		}
		return e
	}
	graph, arm := told(t, collected(collect.Config{})), told(t, collected(collect.Config{ViaARM: true}))
	file, err := estate.Read(strings.NewReader(string(estates.Demo())))
	if err != nil {
		t.Fatal(err)
	}
	if len(graph) < 30 || len(graph) != len(arm) {
		t.Errorf("%d things are told by way of Resource Graph, %d by lists", len(graph), len(arm))
	}
	for id, v := range arm {
		if graph[id] != v {
			t.Errorf("%s:\nResource Graph: %s\nlists:          %s", id, graph[id], v)
		}
	}
	if n := len(file.VMs()); n == 0 || n != len(collected(collect.Config{}).VMs()) {
		t.Errorf("the file has %d machines", n)
	}
	if !slices.ContainsFunc(collected(collect.Config{}).VMs(), func(v *estate.VM) bool { return v.Power == "deallocated" }) {
		t.Error("Resource Graph tells of no machine that is deallocated")
	}
}

package estate_test

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

func read(t testing.TB, file []byte) *estate.Estate {
	t.Helper()
	e, err := estate.Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func find(t testing.TB, e *estate.Estate, name string) *estate.VM {
	t.Helper()
	for _, v := range e.VMs() {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no machine %s", name)
	return nil
}

// The estate of the demo: what the Internet reaches there on ports 22 and 3389, by which way.
func TestDemo(t *testing.T) {
	e := read(t, estates.Demo())
	got := map[string]string{}
	for _, v := range e.VMs() {
		for _, p := range v.Problems {
			t.Errorf("%s: %s", v.Name, p.What)
		}
		for _, port := range []uint16{22, 3389} {
			for _, w := range e.Ways(v, netsec.TCP, port) {
				if w.Kind != estate.VirtualNetwork && w.Reach.Internet.Access() != netsec.Deny {
					got[fmt.Sprint(v.Name, " ", port)] = fmt.Sprintf("%s %s:%d exposed=%t", w.Kind, w.Address, w.FrontendPort, w.Reach.Exposed())
				}
			}
		}
	}
	want := map[string]string{
		"api-01 22":        "public_ip 198.51.100.41:22 exposed=false",
		"app-01 22":        "public_ip 198.51.100.31:22 exposed=true",
		"fax-gateway 22":   "public_ip 198.51.100.61:22 exposed=true",
		"fax-gateway 3389": "public_ip 198.51.100.61:3389 exposed=true",
		"orders-01 22":     "public_ip 198.51.100.21:22 exposed=true",
		"payroll 3389":     "public_ip 198.51.100.51:3389 exposed=true",
		"reports-01 22":    "nat_rule 198.51.100.50:50001 exposed=true",
		"search-01 22":     "public_ip 198.51.100.32:22 exposed=true",
		"sensor-hub 22":    "public_ip 203.0.113.31:22 exposed=false",
		"web-01 22":        "public_ip 198.51.100.11:22 exposed=true",
		"web-02 22":        "public_ip 198.51.100.12:22 exposed=true",
		"web-03 22":        "public_ip 198.51.100.13:22 exposed=true",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if n := len(e.VMs()); n < 15 {
		t.Errorf("got %d machines", n)
	}
}

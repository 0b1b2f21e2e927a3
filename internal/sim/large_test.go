package sim_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// A hundred thousand machines: what they take in memory, and how fast simple requests are. The bounds leave room for a busy machine.
func TestHundredThousandMachines(t *testing.T) {
	testkit.RequireLong(t)
	a := newAz(t, sim.Config{})
	r, w := io.Pipe()
	go func() { w.CloseWithError(estates.WriteLarge(w, estates.LargeOptions{VMs: 100000})) }()
	begin := time.Now()
	if err := a.s.LoadFrom(r); err != nil {
		t.Fatal(err)
	}
	loaded := time.Since(begin)
	ids := a.s.IDs("Microsoft.Compute/virtualMachines")
	if len(ids) != 100000 {
		t.Fatalf("got %d machines", len(ids))
	}
	var mu sync.Mutex
	bad, n := 0, 0
	begin = time.Now()
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := worker; i < 20000; i += 4 {
				got, err := a.try("GET", ids[i*7919%len(ids)], nil)
				mu.Lock()
				if n++; err != nil || got.status != 200 {
					bad++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	rate := float64(n) / time.Since(begin).Seconds()
	listed, next := 0, strings.Split(ids[0], "/resourceGroups/")[0]+"/providers/Microsoft.Compute/virtualMachines"
	for next != "" {
		page := a.do(200, "GET", next, nil)
		listed += len(list(page.body["value"]))
		next, _ = page.body["nextLink"].(string)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	runtime.KeepAlive(a.s)
	t.Logf("loaded in %v, %.0f requests a second, heap %d MB", loaded.Round(time.Millisecond), rate, m.HeapAlloc>>20)
	if bad > 0 || listed != 20000 {
		t.Errorf("%d of %d requests failed; %d machines listed in a subscription of 20000", bad, n, listed)
	}
	if m.HeapAlloc > 1000<<20 || loaded > 2*time.Minute || rate < 500 {
		t.Error(fmt.Sprint("a large estate takes too much: heap ", m.HeapAlloc>>20, " MB, loaded in ", loaded, ", ", int(rate), " requests a second"))
	}
}

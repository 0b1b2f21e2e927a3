package benchmarks_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// BenchmarkApprovalToWrite is the time from the call of Approve until the write that opens leaves for Azure, with 1,000 grants
// active, on the machine's own clock and with the database on disk. Approvals come five a second (more would use up what Azure lets a subscription read), each for a group without a
// write in flight; a write takes Azure two seconds, and its answers come at once. Beside all samples, those are reported during which
// the machine let this process run. CURFEW_BENCH_DIR says where the database lies; in memory (/dev/shm) the disk has no part in it.
func BenchmarkApprovalToWrite(b *testing.B) {
	const groups, perVM, rate = 250, 2, 200 * time.Millisecond
	e := newEstate(5, groups, 2)
	samples := size("CURFEW_BENCH_SAMPLES", 600)
	for range b.N {
		b.StopTimer()
		var mu sync.Mutex
		waiting := map[string]chan time.Time{}
		w := newWire(0)
		w.onPut = func(group string, p put) {
			mu.Lock()
			defer mu.Unlock()
			if ch := waiting[group]; ch != nil && p.allows > 0 {
				select {
				case ch <- p.at:
				default:
				}
			}
		}
		s := bt.New(b, bt.Options{Estate: e.body, Dir: directory(b), Transport: w.wrap})
		protect(b, s, e.all())
		n := 0
		for k := range perVM { // four to a group, five hundred machines
			vms := e.all()
			for len(vms) > 0 {
				approve(b, s, ask(b, s, person(k), time.Hour+time.Duration(len(vms))*time.Second, vms[:50]...))
				n, vms = n+50, vms[50:]
			}
		}
		until(b, s, 5*time.Minute, "all grants open", allReady(n))
		s.Sim.SetOperationDelay(2 * time.Second)
		time.Sleep(20 * time.Second) // what Azure lets a subscription read is full again
		w.real(true)

		var toWrite, toReturn, undisturbed []time.Duration
		calm := watchCalm()
		defer calm.close()
		ids := make([]access.RequestID, samples)
		for i := range samples {
			vms := e.vms[i%groups]
			ids[i] = ask(b, s, person(100+i/90), time.Hour, vms[0])
		}
		busy := map[string]time.Time{}
		b.StartTimer()
		cpu0, start := cpu(), time.Now()
		machine0, known := machine()
		for i := range samples {
			group := strings.ToLower(e.groups[i%groups])
			if d := time.Until(busy[group]); d > 0 { // its last write may still be in flight
				time.Sleep(d)
			}
			ch := make(chan time.Time, 1)
			mu.Lock()
			waiting[group] = ch
			mu.Unlock()
			began := time.Now()
			approve(b, s, ids[i])
			toReturn = append(toReturn, time.Since(began))
			select {
			case at := <-ch:
				toWrite = append(toWrite, at.Sub(began))
				if calm.during(began, at) {
					undisturbed = append(undisturbed, at.Sub(began))
				}
			case <-time.After(30 * time.Second):
				b.Fatalf("no write 30 s after the approval of %s", ids[i])
			}
			mu.Lock()
			delete(waiting, group)
			mu.Unlock()
			busy[group] = time.Now().Add(6 * time.Second)
			time.Sleep(time.Until(began.Add(rate)))
		}
		used, took := cpu()-cpu0, time.Since(start)
		all, _ := machine()
		all -= machine0
		b.StopTimer()
		until(b, s, time.Minute, "all grants open", allReady(n+samples))
		spread(b, "write", toWrite)
		spread(b, "calm-write", undisturbed)
		spread(b, "approve", toReturn)
		b.ReportMetric(used.Seconds()/took.Seconds(), "cpus")
		if known {
			b.ReportMetric(max(all-used, 0).Seconds()/took.Seconds(), "others-cpus") // what the rest of the machine took meanwhile
		}
		s.Stop()
	}
}

func directory(b *testing.B) string {
	if at := os.Getenv("CURFEW_BENCH_DIR"); at != "" {
		dir, err := os.MkdirTemp(at, "curfew-bench")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	return b.TempDir()
}

package benchmarks_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// size reads a number from the environment, so that a profile can be taken on less.
func size(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

// BenchmarkCloseHour is an hour in which 10,000 grants on 500 groups in five subscriptions end, one by one, while one more opens
// every second. A write takes Azure two seconds, and each call 100 ms of network. It runs on simulated time: what is reported of
// lateness is what waiting costs, and what is reported of the processor says how much of a real hour the machine was busy.
func BenchmarkCloseHour(b *testing.B) {
	const opTime, latency = 2 * time.Second, 100 * time.Millisecond
	groups, perVM := size("CURFEW_BENCH_GROUPS", 500), 5
	e := newEstate(5, groups, 4)
	for range b.N {
		bubble(b, func(t *testing.T) {
			w := newWire(latency)
			s := bt.New(t, bt.Options{Estate: e.body, OpDelay: 0, Transport: w.wrap})
			cpu0 := cpu()
			protect(t, s, e.all())
			cpuProtect := cpu() - cpu0
			s.Sim.SetOperationDelay(opTime)

			rng := rand.New(rand.NewPCG(1, 2))
			ended := map[access.GrantID]access.Grant{} // the last that was seen of each grant while it was live
			n := 0
			cpu0 = cpu()
			for k := range perVM {
				for _, vms := range e.vms {
					for _, vm := range vms {
						approve(t, s, ask(t, s, person(k), 10*time.Minute+time.Duration(rng.IntN(3600))*time.Second, vm))
						n++
					}
				}
			}
			until(t, s, 10*time.Minute, "all grants open", allReady(n))
			b.ReportMetric((cpu()-cpu0).Seconds()*1000/float64(n), "cpu-ms/opening")
			time.Sleep(time.Minute) // what Azure lets a subscription read is full again
			measured := time.Now()
			w.forget()
			w.real(true)
			note := func() {
				for _, g := range s.Broker.Live() {
					if !g.EndsAt.IsZero() {
						ended[g.ID] = g
					}
				}
			}
			note()

			cpu0 = cpu()
			last := measured.Add(71 * time.Minute)
			more := 0
			for i := 0; time.Now().Before(last); i++ {
				if time.Until(last) > 8*time.Minute {
					vms := e.vms[rng.IntN(len(e.vms))]
					approve(t, s, ask(t, s, person(100+i%300), 5*time.Minute+time.Duration(rng.IntN(60))*time.Second, vms[rng.IntN(len(vms))]))
					more++
				}
				if i%20 == 0 {
					note()
				}
				time.Sleep(time.Second)
			}
			used := cpu() - cpu0
			hours := time.Since(measured).Hours()
			time.Sleep(time.Minute)

			var idle, busy []time.Duration
			skipped, lost := 0, 0
			for _, g := range ended {
				for _, p := range g.Places {
					late, inFlight, ok := lateness(w.of(p.ID), g.EndsAt, latency+opTime)
					switch {
					case !ok:
						skipped++
					case inFlight:
						busy = append(busy, late)
					default:
						idle = append(idle, late)
					}
				}
				if now := s.Grant(g.ID); now.State != access.Ended {
					t.Errorf("%s is %s", g.ID, now.State)
				} else if now.EndedAt.Sub(now.EndsAt) > 15*time.Second {
					lost++
				}
			}
			open := 0
			for _, id := range e.groups {
				open += len(s.Allows(id))
			}
			if live := s.Broker.Live(); open > 0 || len(live) > 0 {
				t.Errorf("at the end %d rules stand open and %d grants live", open, len(live))
			}
			if skipped > 0 {
				t.Errorf("%d writes after an end did not close what was over", skipped)
			}
			if lost > 0 {
				t.Errorf("%d grants were seen shut more than 15 s after their end", lost)
			}
			if len(ended) != n+more {
				t.Errorf("%d grants were followed, want %d", len(ended), n+more)
			}
			spread(b, "idle", idle)
			spread(b, "busy", busy)
			b.ReportMetric(used.Seconds()/hours, "cpu-s/hour")
			b.ReportMetric(cpuProtect.Seconds()*1000/float64(len(e.all())), "cpu-ms/protect")
			b.ReportMetric(float64(w.count("PUT"))/hours, "writes/hour")
			b.ReportMetric(float64(w.count("GET")+w.count("POST"))/hours, "reads/hour")
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
			b.ReportMetric(float64(m.Sys)/1e6, "sys-MB")
			s.Stop()
		})
	}
}

// lateness returns how long after end the first write left that holds nothing which is over. inFlight: another write was under way
// at the end, and the time counts from when Azure was through with it. ok is false when a write between was none that closes.
func lateness(puts []put, end time.Time, flight time.Duration) (late time.Duration, inFlight, ok bool) {
	from := end
	for _, p := range puts {
		if p.at.Before(end) {
			if done := p.at.Add(flight); done.After(end) {
				from, inFlight = done, true
			}
			continue
		}
		closes := p.first.IsZero() || p.first.After(end)
		return max(p.at.Sub(from), 0), inFlight, closes
	}
	return 0, inFlight, false
}

package benchmarks_test

import (
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// BenchmarkCrowd500 approves 500 requests for one group at once, from sixteen approvers' sessions, on the machine's own clock and
// with the database on disk, and counts the writes until every grant is ready. A write takes Azure two seconds.
func BenchmarkCrowd500(b *testing.B) {
	e := newEstate(1, 1, 40)
	for range b.N {
		b.StopTimer()
		w := newWire(0)
		s := bt.New(b, bt.Options{Estate: e.body, Dir: b.TempDir(), Transport: w.wrap})
		protect(b, s, e.all())
		s.Sim.SetOperationDelay(2 * time.Second)
		var ids []access.RequestID
		for i := range 500 {
			ids = append(ids, ask(b, s, person(i), time.Hour, e.vms[0][i%40]))
		}
		time.Sleep(12 * time.Second) // what Azure lets a subscription read is full again
		w.forget()
		w.real(true)
		work := make(chan access.RequestID, len(ids))
		for _, id := range ids {
			work <- id
		}
		close(work)
		b.StartTimer()
		start := time.Now()
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for id := range work {
					if _, err := s.Broker.Approve(b.Context(), bt.Approver, id, broker.ReviewInput{}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		approved := time.Since(start)
		until(b, s, 2*time.Minute, "all grants ready", allReady(500))
		ready := time.Since(start)
		b.StopTimer()
		writes := w.of(e.groups[0])
		b.ReportMetric(float64(len(writes)), "writes")
		b.ReportMetric(approved.Seconds(), "s-approving")
		b.ReportMetric(ready.Seconds(), "s-until-ready")
		b.ReportMetric(float64(writes[len(writes)-1].rules), "rules")
		s.Stop()
	}
}

// BenchmarkCrowd2000 opens 2,000 grants at once on one group: 40 machines, 50 sources, ten distinct ends. Every one of them must
// become ready, and be shut at its end. Simulated time.
func BenchmarkCrowd2000(b *testing.B) {
	e := newEstate(1, 1, 40)
	for range b.N {
		bubble(b, func(t *testing.T) {
			w := newWire(100 * time.Millisecond)
			s := bt.New(t, bt.Options{Estate: e.body, Transport: w.wrap})
			protect(t, s, e.all())
			s.Sim.SetOperationDelay(2 * time.Second)
			time.Sleep(time.Minute) // what Azure lets a subscription read is full again
			w.real(true)
			w.forget()
			var ids []access.RequestID
			for i := range 50 {
				ids = append(ids, ask(t, s, person(i), 30*time.Minute+time.Duration(i%10)*5*time.Minute, e.vms[0]...))
			}
			start, cpu0 := time.Now(), cpu()
			for _, id := range ids {
				approve(t, s, id)
			}
			until(t, s, 5*time.Minute, "all grants ready", allReady(2000))
			ready, used := time.Since(start), cpu()-cpu0
			opening := w.of(e.groups[0])
			rules, ends := 0, map[time.Time]bool{}
			for _, p := range opening {
				rules = max(rules, p.rules)
			}
			live := s.Broker.Live()
			for _, g := range live {
				ends[g.EndsAt] = true
			}
			w.forget()
			time.Sleep(80 * time.Minute)
			for _, g := range live {
				if now := s.Grant(g.ID); now.State != access.Ended || now.EndedAt.Sub(now.EndsAt) > 15*time.Second {
					t.Errorf("%s is %s, seen shut at %s, its end was %s", g.ID, now.State, now.EndedAt, now.EndsAt)
				}
			}
			if open := s.Allows(e.groups[0]); len(open) > 0 {
				t.Errorf("%d rules stand open at the end", len(open))
			}
			b.ReportMetric(float64(len(opening)), "opening-writes")
			b.ReportMetric(float64(len(w.of(e.groups[0]))), "closing-writes")
			b.ReportMetric(float64(rules), "rules")
			b.ReportMetric(float64(len(ends)), "ends")
			b.ReportMetric(ready.Seconds(), "s-until-ready")
			b.ReportMetric(used.Seconds(), "cpu-s-until-ready")
			s.Stop()
		})
	}
}

package notify_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/store/storetest"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// TestTenThousandNoticesHoldUpNoGrant opens grants on a database file, first alone and then while thousands of notices are drained to two
// webhooks beside a third one that hangs. It logs how long everything took; docs/performance.md has the figures of a long run.
func TestTenThousandNoticesHoldUpNoGrant(t *testing.T) {
	pending, before := 4000, 2
	if testkit.Long() {
		pending, before = 10_000, 10
	}
	s := bt.New(t, bt.Options{Dir: t.TempDir()})
	defer s.Stop()
	s.Protect("web-01")
	n := 0
	open := func() (decided, ready time.Duration) {
		n++
		began := clock.System{}.Now()
		r, err := s.Broker.CreateRequest(t.Context(), bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "drain",
			Source: netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}).String()})
		if err == nil {
			r, err = s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		}
		if err != nil {
			t.Fatal(err)
		}
		decided = clock.System{}.Now().Sub(began)
		for {
			g, err := s.Broker.Grant(t.Context(), bt.Admin, r.Grants[0])
			if err != nil {
				t.Fatal(err)
			}
			if g.State == access.Active && g.Ready() {
				return decided, clock.System{}.Now().Sub(began)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	open() // the first one of all
	type figures struct{ decided, ready []time.Duration }
	var alone, during figures
	add := func(f *figures) {
		d, r := open()
		f.decided, f.ready = append(f.decided, d), append(f.ready, r)
	}
	for range before {
		add(&alone)
	}
	var got atomic.Int64
	var mu sync.Mutex
	seen, order := map[string]int{}, map[string]int{}
	well := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got.Add(1)
		mu.Lock()
		id := r.Header.Get("webhook-id")
		seen[id]++
		order[id] = len(order)
		mu.Unlock()
	}))
	defer well.Close()
	release := make(chan struct{})
	sick := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer sick.Close()
	defer close(release)
	var chs []notify.Channel
	for name, url := range map[string]string{"one": well.URL, "two": well.URL, "sick": sick.URL} {
		w, err := notify.NewWebhook(notify.WebhookOptions{Name: name, URL: url, Secret: secretFile(t, secret1), Guard: notify.Guard{Allow: loopback}, Clock: clock.System{}})
		if err != nil {
			t.Fatal(err)
		}
		chs = append(chs, w)
	}
	for part := range slices.Chunk(slices.Collect(func(yield func(int) bool) {
		for i := range pending + 100 {
			if !yield(i) {
				return
			}
		}
	}), 1000) {
		err := s.Store.Update(t.Context(), func(tx broker.Tx) error {
			for _, i := range part {
				channel := []string{"one", "two"}[i%2]
				if i >= pending {
					channel = "sick"
				}
				if err := tx.InsertNotice(storetest.Notice(fmt.Sprintf("n-%d", i), channel, fmt.Sprintf("r-%d", i/4), s.Broker.Now())); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := notify.New(notify.Config{Outbox: s.Broker.Outbox(), Channels: chs, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	began := clock.System{}.Now()
	go func() { defer close(done); d.Run(ctx) }()
	for got.Load() < int64(pending) && n < 250 {
		if d, r := open(); got.Load() < int64(pending) {
			during.decided, during.ready = append(during.decided, d), append(during.ready, r)
		}
	}
	for got.Load() < int64(pending) && (clock.System{}).Now().Sub(began) < 10*time.Minute {
		time.Sleep(10 * time.Millisecond)
	}
	took := clock.System{}.Now().Sub(began)
	cancel()
	<-done
	mu.Lock()
	defer mu.Unlock()
	for id, times := range seen {
		if times > 1 {
			t.Errorf("%s was sent %d times, and nothing had died", id, times)
		}
	}
	if len(seen) != pending {
		t.Fatalf("%d of %d were delivered within %s", len(seen), pending, took)
	}
	for i := range pending - 2 { // i and i+2 are of one request and channel, if they are of one four
		if i/4 == (i+2)/4 && order[fmt.Sprintf("n-%d", i)] > order[fmt.Sprintf("n-%d", i+2)] {
			t.Errorf("n-%d came before n-%d", i+2, i)
		}
	}
	q := func(d []time.Duration, p int) time.Duration {
		d = slices.Sorted(slices.Values(d))
		return d[(len(d)-1)*p/100].Round(time.Millisecond)
	}
	line := func(d []time.Duration) string {
		return fmt.Sprintf("median %s, 95 of 100 within %s, worst %s", q(d, 50), q(d, 95), q(d, 100))
	}
	t.Logf("%d notices drained in %s, %d openings meanwhile", pending, took.Round(100*time.Millisecond), len(during.ready))
	t.Logf("asked and approved: alone %s; meanwhile %s", line(alone.decided), line(during.decided))
	t.Logf("from asking to ready: alone %s; meanwhile %s", line(alone.ready), line(during.ready))
	if len(during.ready) == 0 { // one that had waited for the queue would have become ready after its end
		t.Error("no grant opened while the notices were drained")
	}
}

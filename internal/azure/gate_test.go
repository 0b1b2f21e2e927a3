package azure_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
)

// bucketAzure answers DELETEs from a bucket of tokens that refills, as ARM does, and records who was let in when.
type bucketAzure struct {
	mu       sync.Mutex
	tokens   int
	every    time.Duration // a token comes back
	last     time.Time
	wait     string // Retry-After of a refusal
	headers  bool   // tell what remains
	served   []string
	refused  int
	tooEarly int
	not      time.Time // before which a request is not processed
}

func (b *bucketAzure) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for b.last.Add(b.every).Compare(now) <= 0 {
		b.last = b.last.Add(b.every)
		b.tokens = min(b.tokens+1, 200)
	}
	if now.Before(b.not) {
		b.tooEarly++
	}
	if b.tokens == 0 || now.Before(b.not) {
		b.refused++
		var h []string
		if b.wait != "" {
			var n int
			fmt.Sscan(b.wait, &n)
			b.not = now.Add(time.Duration(n) * time.Second)
			h = []string{"Retry-After", b.wait}
		}
		return answer(429, `{"error":{"code":"SubscriptionRequestsThrottled","message":"slow down"}}`, h...)(r)
	}
	b.tokens--
	b.served = append(b.served, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	var h []string
	if b.headers {
		h = []string{"x-ms-ratelimit-remaining-subscription-deletes", fmt.Sprint(b.tokens)}
	}
	return answer(204, "", h...)(r)
}

// P9: when Azure has had enough, closings that wait leave before openings that have waited longer.
func TestClosingsLeaveFirstUnderThrottling(t *testing.T) {
	for _, wait := range []string{"10", ""} {
		synctest.Test(t, func(t *testing.T) {
			az := &bucketAzure{every: time.Second, last: time.Now().Add(9 * time.Second), wait: wait}
			c := newClient(t, "t", az)
			var wg sync.WaitGroup
			run := func(p azure.Priority, name string) {
				wg.Go(func() {
					if err := c.DeleteRule(azure.WithPriority(t.Context(), p), nsgID, name); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			for i := range 10 {
				run(azure.Opening, fmt.Sprint("opening-", i))
				run(azure.Background, fmt.Sprint("background-", i))
			}
			time.Sleep(2 * time.Second)
			for i := range 10 {
				run(azure.Closing, fmt.Sprint("closing-", i))
			}
			wg.Wait()
			if len(az.served) != 30 {
				t.Fatalf("served %v", az.served)
			}
			for i, name := range az.served[:10] {
				if !strings.HasPrefix(name, "closing-") {
					t.Errorf("Retry-After %q: place %d went to %s: %v", wait, i, name, az.served)
					break
				}
			}
			if last := slices.IndexFunc(az.served, func(s string) bool { return strings.HasPrefix(s, "background") }); last < 20 {
				t.Errorf("Retry-After %q: background work went before openings: %v", wait, az.served)
			}
			// Requests that were in flight when the first refusal came cannot know of it; afterwards nobody comes early, and few are
			// sent in vain.
			if az.refused > 60 {
				t.Errorf("Retry-After %q: %d requests were refused", wait, az.refused)
			}
		})
	}
}

// P9: the last requests of a bucket are for closings, before Azure refuses anything.
func TestReserveIsForClosings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		az := &bucketAzure{tokens: 30, every: 100 * time.Millisecond, last: time.Now(), headers: true, wait: "1"}
		c := newClient(t, "t", az)
		ctx := azure.WithPriority(t.Context(), azure.Opening)
		for i := range 40 { // one after the other, slower as the bucket runs down
			if err := c.DeleteRule(ctx, nsgID, fmt.Sprint("opening-", i)); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		for i := range 15 {
			if err := c.DeleteRule(azure.WithPriority(t.Context(), azure.Closing), nsgID, fmt.Sprint("closing-", i)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > slack {
			t.Errorf("closings waited %s", took)
		}
		if az.refused > 0 {
			t.Errorf("%d requests were refused", az.refused)
		}
	})
}

// One subscription's throttling does not hold another's closings, nor do writes hold deletes: Azure counts them apart.
func TestBucketsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, "t", transport(func(r *http.Request) (*http.Response, error) {
			if strings.Contains(r.URL.Path, subID) && r.Method == http.MethodDelete {
				return answer(429, `{}`, "Retry-After", "3600")(r)
			}
			return answer(204, "")(r)
		}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan struct{})
		go func() {
			wantErr := c.DeleteRule(ctx, nsgID, "x")
			if azure.Classify(wantErr) != azure.Throttled {
				t.Errorf("got %v", wantErr)
			}
			close(done)
		}()
		synctest.Wait()
		start := time.Now()
		if err := c.DeleteRule(t.Context(), strings.Replace(nsgID, subID, "other", 1), "x"); err != nil {
			t.Error(err)
		}
		if time.Since(start) > slack {
			t.Error("another subscription waited")
		}
		<-done
	})
}

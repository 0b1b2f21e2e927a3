package azure

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Priority orders requests that wait for Azure. Closing outranks opening (promise P9).
type Priority int8

// The priorities, first served first. Opening is what a context without one has.
const (
	Closing Priority = iota
	Opening
	Background
	priorities
)

type priorityKey struct{}

// WithPriority returns a context whose calls queue with p when Azure has had enough.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

func priorityOf(ctx context.Context) Priority {
	if p, ok := ctx.Value(priorityKey{}).(Priority); ok && p >= Closing && p < priorities {
		return p
	}
	return Opening
}

const (
	reserve         = 20               // tokens of a bucket of 200 that closings have to themselves
	slowStep        = time.Second      // how long others wait once the reserve is reached; ten tokens are refilled in it
	unsaidWait      = 5 * time.Second  // a 429 of ARM's without Retry-After; a refill of half the reserve
	recoverClosings = 8                // requests in flight while a bucket recovers, if closings
	recoverOthers   = 4                // and if not
	calmAfter       = 30 * time.Second // without a refusal; every bucket is full again by then, or nearly
	remainingHeader = "X-Ms-Ratelimit-Remaining-"
)

// gate lets requests of one subscription and kind (read, write, delete: Azure counts them apart) go, and holds them back when
// Azure said so. While it recovers from throttling, and when few requests are left, closings leave first and others wait.
type gate struct {
	clock clock.Clock

	mu         sync.Mutex
	until      time.Time       // nobody leaves before: Azure does not process what comes earlier
	slow       time.Time       // openings and background do not leave before
	recovering bool            // throttled not long ago, and never idle since
	waiting    [priorities]int // by priority
	inFlight   [priorities]int
	changed    chan struct{} // closed when something changed for those who wait
}

func newGate(c clock.Clock) *gate { return &gate{clock: c, changed: make(chan struct{})} }

// enter waits until a request of priority p may leave, or ctx is over. Each success must be followed by leave.
func (g *gate) enter(ctx context.Context, p Priority) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting[p]++
	defer func() {
		g.waiting[p]--
		if g.waiting[p] == 0 {
			g.wakeLocked()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		wait, free := g.mayLocked(p)
		if free {
			g.inFlight[p]++
			return nil
		}
		changed := g.changed
		g.mu.Unlock()
		var timer <-chan time.Time
		if wait > 0 {
			timer = g.clock.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		}
		g.mu.Lock()
	}
}

// mayLocked tells whether a request may leave now, else after which time to look again; 0 is when something changes.
func (g *gate) mayLocked(p Priority) (time.Duration, bool) {
	now := g.clock.Now()
	if d := g.until.Sub(now); d > 0 {
		return d, false
	}
	if now.Sub(g.until) > calmAfter {
		g.recovering = false
	}
	if p == Closing {
		return 0, !g.recovering || g.inFlight[Closing] < recoverClosings
	}
	for better := Closing; better < p; better++ {
		// What is in flight may be refused and come back: while the bucket recovers, its tokens are not taken away from it.
		if g.waiting[better] > 0 || g.recovering && g.inFlight[better] > 0 {
			return 0, false
		}
	}
	if g.recovering && g.inFlight[p] >= recoverOthers {
		return 0, false
	}
	if d := g.slow.Sub(now); d > 0 {
		return d, false
	}
	return 0, true
}

// leave records what the request met: throttled with the wait that was asked for, or answered with headers (nil: no answer).
func (g *gate) leave(p Priority, throttled bool, after time.Duration, h http.Header) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight[p]--
	now := g.clock.Now()
	switch {
	case throttled:
		if after <= 0 {
			after = unsaidWait
		}
		if at := now.Add(after); at.After(g.until) {
			g.until = at
		}
		g.recovering = true
	case h != nil:
		if g.inFlight == [priorities]int{} && g.waiting == [priorities]int{} {
			g.recovering = false
		}
		if remaining(h) < reserve {
			g.slow = now.Add(slowStep)
		}
	}
	g.wakeLocked()
}

func (g *gate) wakeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// remaining returns the smallest of the counts of requests left that ARM sends along (FACTS 3), a large number when there is
// none.
func remaining(h http.Header) int {
	least := 1 << 30
	for name, values := range h {
		if !strings.HasPrefix(name, remainingHeader) || strings.HasSuffix(name, "-Resource") {
			continue
		}
		for _, v := range values {
			if n, err := strconv.Atoi(v); err == nil {
				least = min(least, n)
			}
		}
	}
	return least
}

type gateKey struct {
	subscription string
	kind         kind
}

type gates struct {
	clock clock.Clock
	mu    sync.Mutex
	all   map[gateKey]*gate
}

func (gs *gates) of(subscription string, k kind) *gate {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	key := gateKey{strings.ToLower(subscription), k}
	g := gs.all[key]
	if g == nil {
		g = newGate(gs.clock)
		gs.all[key] = g
	}
	return g
}

package broker

import (
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

// backTolerance is how far the clock may step back, as time synchronisation does, before openings are put on hold.
const backTolerance = 5 * time.Second

// timekeeper gives the instants by which the broker decides. They never go back: a clock that is set back must not lengthen a
// grant (P2), so time goes on from the latest instant that was ever seen, and openings wait until the clock has caught up or an
// admin confirms it. A clock that jumps ahead is believed: it can only close too early.
type timekeeper struct {
	clock       clock.Clock
	mu          sync.Mutex
	last        time.Time // the clock as read last, with its monotonic part
	eff         time.Time // the latest instant given out
	marked      time.Time // when the mark was stored last
	expiry      time.Time // when the next request expires unanswered; zero: none is known to
	expiryKnown bool
	hold        bool
}

func newTimekeeper(c clock.Clock, mark time.Time) *timekeeper {
	now := c.Now()
	t := &timekeeper{clock: c, last: now, eff: now.Round(0)}
	if mark.After(t.eff) {
		t.hold = mark.Sub(t.eff) > backTolerance
		t.eff = mark
	}
	return t
}

func (t *timekeeper) now() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	elapsed := now.Sub(t.last) // by the monotonic clock where there is one
	wall := now.Round(0)
	t.last = now
	if elapsed > 0 {
		t.eff = t.eff.Add(elapsed)
	}
	if back := t.eff.Sub(wall); back <= 0 {
		t.eff, t.hold = wall, false
	} else if back > backTolerance {
		t.hold = true
	} else if !t.hold {
		// within what time synchronisation does
	} else if back < backTolerance/2 {
		t.hold = false
	}
	return t.eff.UTC()
}

func (t *timekeeper) held() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.hold {
		return ""
	}
	return "the clock went back: it says " + access.Clock(t.last) + ", and " + access.Clock(t.eff) + " was reached before"
}

// accept believes the clock as it stands.
func (t *timekeeper) accept() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = t.clock.Now()
	t.eff, t.hold = t.last.Round(0), false
}

// due tells what housekeeping has to do at now.
func (t *timekeeper) due(now time.Time) (mark, expire bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mark = now.Sub(t.marked) >= markEvery || now.Before(t.marked)
	expire = !t.expiryKnown || !t.expiry.IsZero() && !now.Before(t.expiry)
	return mark, expire
}

func (t *timekeeper) done(now time.Time, mark bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mark {
		t.marked = now
	}
}

// expireAt notes when the next request expires, as the store says.
func (t *timekeeper) expireAt(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expiry, t.expiryKnown = at, true
}

// expires notes a new request.
func (t *timekeeper) expires(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expiryKnown && (t.expiry.IsZero() || at.Before(t.expiry)) {
		t.expiry = at
	}
}

package notify

import (
	"sync"
	"time"
)

// tripAfter is how many failures in a row open a circuit.
const tripAfter = 3

// breaker keeps a channel that is down from being called for every notice. After tripAfter failures in a row it is open: nothing is
// tried for a while. Then one notice probes; each probe that fails doubles the pause.
type breaker struct {
	first, longest time.Duration

	mu    sync.Mutex
	row   int // failures since the channel worked last
	pause time.Duration
	until time.Time
}

// state returns until when nothing may be tried, and whether the next attempt is to be a probe.
func (b *breaker) state() (until time.Time, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until, b.row >= tripAfter
}

func (b *breaker) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row, b.pause, b.until = 0, 0, time.Time{}
}

// failed notes a failure. An end that asks to be left alone is left alone at once, for no longer than the breaker's longest pause:
// the notice itself may wait longer.
func (b *breaker) failed(now time.Time, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row++
	pause := min(after, b.longest)
	if b.row >= tripAfter && !b.until.After(now) { // attempts that were under way when it opened do not count twice
		b.pause = min(max(2*b.pause, b.first), b.longest)
		pause = max(pause, b.pause)
	}
	if t := now.Add(pause); pause > 0 && t.After(b.until) {
		b.until = t
	}
}

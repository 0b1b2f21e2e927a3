package server

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiters is one token bucket for each key, of which only so many are remembered: a flood of keys costs memory once, and
// makes room by forgetting those that were quiet the longest.
type limiters struct {
	mu    sync.Mutex
	rate  rate.Limit
	burst int
	most  int
	by    map[string]*bucket
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

func newLimiters(perSecond float64, burst float64, most int) *limiters {
	return &limiters{rate: rate.Limit(perSecond), burst: max(1, int(perSecond*burst)), most: most, by: map[string]*bucket{}}
}

// allow takes one token of the key.
func (l *limiters) allow(key string, now time.Time) bool { return l.get(key, now).AllowN(now, 1) }

// spent tells whether the key has no token left, without taking one.
func (l *limiters) spent(key string, now time.Time) bool {
	l.mu.Lock()
	b := l.by[key]
	l.mu.Unlock()
	return b != nil && b.TokensAt(now) < 1
}

func (l *limiters) get(key string, now time.Time) *bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.by[key]
	if b == nil {
		if len(l.by) >= l.most {
			l.forget(now)
		}
		b = &bucket{Limiter: rate.NewLimiter(l.rate, l.burst)}
		l.by[key] = b
	}
	b.used = now
	return b
}

// forget drops buckets that have filled up again, whose loss changes nothing; failing that, the one that was quiet the longest.
func (l *limiters) forget(now time.Time) {
	var oldest string
	for k, b := range l.by {
		if b.TokensAt(now) >= float64(l.burst) {
			delete(l.by, k)
		} else if oldest == "" || b.used.Before(l.by[oldest].used) {
			oldest = k
		}
	}
	if len(l.by) >= l.most {
		delete(l.by, oldest)
	}
}

// addressKey is what a limit by address counts: an IPv4 address, or the /64 that an IPv6 client can choose freely from.
func addressKey(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// streamCount counts the event streams of each person.
type streamCount struct {
	mu sync.Mutex
	by map[string]int
}

func (c *streamCount) open(who string, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[who] >= most {
		return false
	}
	c.by[who]++
	return true
}

func (c *streamCount) close(who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[who]--; c.by[who] <= 0 {
		delete(c.by, who)
	}
}

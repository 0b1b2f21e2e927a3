package benchmarks_test

import (
	"sync"
	"time"
)

// calm watches how late the machine lets this process run. A shared machine may not do so for half a second at a time, and what
// was measured then says nothing about the program.
type calm struct {
	mu    sync.Mutex
	lost  [][2]time.Time // times in which a timer of 5 ms came 15 ms late or more, and this process was not itself at work
	stop  chan struct{}
	ended sync.WaitGroup
}

func watchCalm() *calm {
	c := &calm{stop: make(chan struct{})}
	c.ended.Go(func() {
		for {
			from, used := time.Now(), cpu()
			select {
			case <-time.After(5 * time.Millisecond):
			case <-c.stop:
				return
			}
			if took := time.Since(from); took > 20*time.Millisecond && cpu()-used < took/2 {
				c.mu.Lock()
				c.lost = append(c.lost, [2]time.Time{from, from.Add(took)})
				c.mu.Unlock()
			}
		}
	})
	return c
}

func (c *calm) close() {
	close(c.stop)
	c.ended.Wait()
}

// during tells whether nothing was lost in a time.
func (c *calm) during(from, to time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lost {
		if l[0].Before(to) && l[1].After(from) {
			return false
		}
	}
	return true
}

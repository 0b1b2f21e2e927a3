package report

import (
	"bufio"
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
)

// together is how many findings are written as one piece of work. Each may be some ten kilobytes.
const together = 32

// parts writes n parts in their order. They are made by as many goroutines as there are processors, because to complete a finding and to
// encode it is most of the work of a report; what waits for its turn is bounded. part must write to the writer that it gets, and to
// nothing else.
func parts(w *out, n int, part func(w *out, i int) error) error {
	workers := min(runtime.GOMAXPROCS(0), (n+together-1)/together)
	if workers < 2 {
		for i := range n {
			if err := part(w, i); err != nil {
				return err
			}
		}
		return w.err()
	}
	type piece struct {
		text *bytes.Buffer
		err  error
	}
	type job struct {
		from, to int
		done     chan piece
	}
	jobs, order := make(chan job), make(chan chan piece, 2*workers)
	room := sync.Pool{New: func() any { return new(bytes.Buffer) }}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			b := bufio.NewWriter(nil)
			for k := range jobs {
				p := piece{text: room.Get().(*bytes.Buffer)}
				p.text.Reset()
				b.Reset(p.text)
				o := &out{Writer: b}
				for i := k.from; i < k.to && p.err == nil && !stop.Load(); i++ {
					p.err = part(o, i)
				}
				if p.err == nil {
					p.err = b.Flush()
				}
				k.done <- p
			}
		})
	}
	go func() {
		for from := 0; from < n && !stop.Load(); from += together {
			k := job{from, min(from+together, n), make(chan piece, 1)}
			order <- k.done
			jobs <- k
		}
		close(jobs)
		close(order)
	}()
	var err error
	for done := range order {
		p := <-done
		if err == nil {
			if err = p.err; err == nil {
				_, err = w.Write(p.text.Bytes())
			}
			stop.Store(err != nil)
		}
		room.Put(p.text)
	}
	wg.Wait()
	return err
}

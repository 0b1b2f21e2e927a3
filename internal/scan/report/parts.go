package report

import (
	"bufio"
	"runtime"
	"sync"
	"sync/atomic"
)

// together is how many findings are written as one piece of work. Each may be some ten kilobytes.
const together = 32

// parts writes n parts in their order, as appended does, by a function that writes: to the writer that it gets, and to nothing else.
func parts(w *out, n int, part func(w *out, i int) error) error {
	type room struct {
		b   *bufio.Writer
		end tail
	}
	rooms := sync.Pool{New: func() any {
		r := &room{}
		r.b = bufio.NewWriter(&r.end)
		return r
	}}
	return appended(w, n, func(b []byte, i int) ([]byte, error) {
		r := rooms.Get().(*room)
		defer rooms.Put(r)
		r.end = b
		r.b.Reset(&r.end)
		if err := part(&out{Writer: r.b}, i); err != nil {
			return nil, err
		}
		err := r.b.Flush()
		return r.end, err
	})
}

// tail takes what is written to the end of a text.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	return len(p), nil
}

// appended writes n parts in their order. They are made by as many goroutines as there are processors, because to complete a finding and
// to encode it is most of the work of a report; what waits for its turn is bounded. part appends to what it gets.
func appended(w *out, n int, part func(b []byte, i int) ([]byte, error)) error {
	workers := min(runtime.GOMAXPROCS(0), (n+together-1)/together)
	if workers < 2 {
		var b []byte
		for i := range n {
			var err error
			if b, err = part(b[:0], i); err != nil {
				return err
			}
			_, _ = w.Write(b) // bufio keeps the error
		}
		return w.err()
	}
	type piece struct {
		text []byte
		err  error
	}
	type job struct {
		from, to int
		done     chan piece
	}
	waiting := 2 * workers
	jobs, order := make(chan job), make(chan chan piece, waiting)
	rooms := make(chan []byte, waiting+workers+1) // what is written is room for the next
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for k := range jobs {
				var p piece
				select {
				case p.text = <-rooms:
				default:
				}
				p.text = p.text[:0]
				for i := k.from; i < k.to && p.err == nil && !stop.Load(); i++ {
					p.text, p.err = part(p.text, i)
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
				_, err = w.Write(p.text)
			}
			stop.Store(err != nil)
		}
		select {
		case rooms <- p.text:
		default:
		}
	}
	wg.Wait()
	return err
}

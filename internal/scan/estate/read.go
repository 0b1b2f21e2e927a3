package estate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Bounds of a file. A body of ARM is at most a few megabytes.
const (
	maxBody   = 256 << 20
	batchSize = 1 << 20
)

// Read reads the file format of DESIGN 6, a JSON object {"resources":[…]} of ARM bodies, as a stream: it keeps of it what an Estate
// needs. Anything that is wrong with the file is an error that says which resource, by its number from 0, and where in the file,
// in bytes from 0: no JSON, another shape, a body that is wrong (see Builder.Add), text after the object, an end before its time.
// A file is complete: what is absent in it does not exist.
func Read(r io.Reader) (*Estate, error) {
	b := NewBuilder()
	if err := b.AddFile(r); err != nil {
		return nil, err
	}
	return b.Build(), nil
}

// AddFile adds what stands in a file, as Read describes. After an error some of its resources may have been added.
func (b *Builder) AddFile(r io.Reader) error {
	s := &splitter{r: r, out: make(chan batch, 2), stop: make(chan struct{})}
	workers := max(1, min(4, runtime.GOMAXPROCS(0)))
	s.free = make(chan *batch, workers+4)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		bad  error
		at   int
		once sync.Once
	)
	for range workers {
		wg.Go(func() {
			d := b.pool.Get().(*decoder)
			defer b.pool.Put(d)
			for t := range s.out {
				for i, body := range t.bodies {
					err := b.add(d, t.buf[body.from:body.to])
					if err == nil {
						continue
					}
					mu.Lock()
					if n := t.first + i; bad == nil || n < at {
						bad, at = fmt.Errorf("resource number %d, which starts at byte %d of the file: %w", n, body.at, err), n
					}
					mu.Unlock()
					once.Do(func() { close(s.stop) })
					break
				}
				s.giveBack(t)
			}
		})
	}
	err := s.run()
	close(s.out)
	wg.Wait()
	if bad != nil {
		return bad
	}
	return err
}

type span struct {
	from, to int   // in the batch
	at       int64 // in the file
}

// batch is a piece of the file that holds whole bodies.
type batch struct {
	buf    []byte
	bodies []span
	first  int // number of the first body
}

// splitter finds where bodies begin and end. It looks at brackets and quotation marks alone; decoders check the rest.
type splitter struct {
	r    io.Reader
	buf  []byte // the current piece
	i    int
	base int64 // where buf begins in the file
	eof  bool
	rerr error

	out   chan batch
	free  chan *batch
	stop  chan struct{}
	count int
}

var errStopped = errors.New("stopped")

func (s *splitter) giveBack(t batch) {
	select {
	case s.free <- &t:
	default:
	}
}

// fill reads on behind buf.
func (s *splitter) fill() bool {
	if s.eof {
		return false
	}
	if cap(s.buf)-len(s.buf) < 4096 {
		grown := make([]byte, len(s.buf), 2*cap(s.buf)+batchSize)
		copy(grown, s.buf)
		s.buf = grown
	}
	for range 100 {
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		if err != nil {
			s.eof = true
			if err != io.EOF {
				s.rerr = err
			}
		}
		if n > 0 || err != nil {
			return n > 0
		}
	}
	s.eof, s.rerr = true, io.ErrNoProgress
	return false
}

// next passes over white space and returns the byte that follows, 0 at the end.
func (s *splitter) next() byte {
	for {
		for s.i < len(s.buf) {
			switch c := s.buf[s.i]; c {
			case ' ', '\t', '\n', '\r':
				s.i++
			default:
				return c
			}
		}
		if !s.fill() {
			return 0
		}
	}
}

func (s *splitter) fail(format string, args ...any) error {
	if s.rerr != nil {
		return fmt.Errorf("reading stopped at byte %d: %w", s.base+int64(len(s.buf)), s.rerr)
	}
	return fmt.Errorf("at byte %d: %s", s.base+int64(s.i), fmt.Sprintf(format, args...))
}

func (s *splitter) ended() bool { return s.eof && s.i >= len(s.buf) }

// here says what stands where something else was expected.
func (s *splitter) here() string {
	if s.ended() {
		return "the end of the file"
	}
	for len(s.buf)-s.i < 32 && s.rerr == nil && s.fill() { // enough to tell it by
	}
	d := decoder{b: s.buf, i: s.i}
	return d.kind()
}

func (s *splitter) run() error {
	s.buf = make([]byte, 0, batchSize+batchSize/4)
	c := s.next()
	for c == 0xEF && len(s.buf)-s.i < 3 && s.fill() {
	}
	if bytes.HasPrefix(s.buf[s.i:], []byte("\xEF\xBB\xBF")) { // a byte order mark of UTF-8 changes nothing
		s.i += 3
		c = s.next()
	}
	switch {
	case c == 0 && s.ended():
		return s.fail("the file is empty")
	case c >= 0xFE || c == 0:
		return s.fail("the file is not UTF-8 text (it may be UTF-16: save it as UTF-8)")
	case c != '{':
		return s.fail("the file must be an object {\"resources\": […]}, and starts with %s", s.here())
	}
	s.i++
	found := false
	for first := true; ; first = false {
		c := s.next()
		if c == '}' && first {
			s.i++
			break
		}
		if c != '"' {
			return s.fail("a name was expected, here is %s", s.here())
		}
		name, err := s.value()
		if err != nil {
			return err
		}
		key := string(name)
		if s.next() != ':' {
			return s.fail("a colon was expected after %s, here is %s", clip(name), s.here())
		}
		s.i++
		if key == `"resources"` {
			if found {
				return s.fail("resources stands twice in the file")
			}
			found = true
			if err := s.resources(); err != nil {
				return err
			}
		} else {
			v, err := s.value()
			if err != nil {
				return err
			}
			d := decoder{b: v}
			if d.skip(); d.err != nil {
				return s.fail("the value of %s is wrong %v", clip(name), d.err)
			}
		}
		c = s.next()
		if c == ',' {
			s.i++
			continue
		}
		if c != '}' {
			return s.fail("a comma or the end of the file's object was expected, here is %s", s.here())
		}
		s.i++
		break
	}
	if s.next(); !s.ended() || s.rerr != nil {
		return s.fail("something follows after the end of the file's object: %s", s.here())
	}
	if !found {
		return s.fail("the file has no list called resources")
	}
	return nil
}

func (s *splitter) resources() error {
	if c := s.next(); c != '[' {
		return s.fail("resources is %s, not a list", s.here())
	}
	s.i++
	if s.next() == ']' {
		s.i++
		return nil
	}
	t := s.fresh()
	err := s.bodies(&t)
	if err != nil && len(t.bodies) > 0 {
		// A body that is wrong within may be why the file does not go on as it should: decoders find that.
		_, _ = s.send(t)
	}
	return err
}

// bodies hands on bodies until the end of the list. What it leaves in t has not been handed on.
func (s *splitter) bodies(t *batch) error {
	for {
		if c := s.next(); c != '{' {
			if s.ended() {
				return s.fail("the file ends before resource number %d", s.count+len(t.bodies))
			}
			return s.fail("resource number %d is %s, not an object", s.count+len(t.bodies), s.here())
		}
		from := s.i
		at := s.base + int64(from)
		if err := s.pass(); err != nil {
			if s.ended() && s.rerr == nil {
				return fmt.Errorf("the file ends in the middle of resource number %d, which starts at byte %d%s", s.count+len(t.bodies), at, idIn(s.buf[from:]))
			}
			return err
		}
		t.bodies = append(t.bodies, span{from, s.i, at})
		c := s.next()
		if c != ',' && c != ']' {
			return s.fail("a comma or the end of resources was expected after resource number %d, here is %s", s.count+len(t.bodies)-1, s.here())
		}
		s.i++
		if c == ']' || s.i >= batchSize {
			n, err := s.send(*t)
			if *t = n; err != nil {
				return err
			}
		}
		if c == ']' {
			return nil
		}
	}
}

// idIn finds the id of a body that is cut off.
func idIn(b []byte) string {
	if i := bytes.Index(b, []byte(`"id"`)); i >= 0 {
		d := decoder{b: b, i: i + 4}
		if d.next() == ':' {
			d.i++
			if id := d.text("id"); d.err == nil && id != "" {
				return " (" + clip2(id) + ")"
			}
		}
	}
	return ""
}

func clip2(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

func (s *splitter) fresh() batch {
	select {
	case t := <-s.free:
		return batch{buf: t.buf[:0], bodies: t.bodies[:0]}
	default:
		return batch{}
	}
}

// send hands the bodies to a decoder, and goes on with what is behind them in another buffer.
func (s *splitter) send(t batch) (batch, error) {
	n := s.fresh()
	rest := s.buf[s.i:]
	if cap(n.buf) < len(rest)+batchSize {
		n.buf = make([]byte, 0, len(rest)+batchSize+batchSize/4)
	}
	n.buf = append(n.buf[:0], rest...)
	t.buf, t.first = s.buf, s.count
	s.count += len(t.bodies)
	s.base += int64(s.i)
	s.buf, s.i = n.buf, 0
	select {
	case s.out <- t:
	case <-s.stop:
		return batch{}, errStopped
	}
	return batch{bodies: n.bodies}, nil
}

// value takes a value outside of resources and returns its text.
func (s *splitter) value() ([]byte, error) {
	s.next()
	from := s.i
	if err := s.pass(); err != nil {
		return nil, err
	}
	return s.buf[from:s.i], nil
}

// marks are the bytes that pass stops at.
var marks = func() (m [256]bool) {
	for _, c := range `"{}[]` {
		m[c] = true
	}
	return m
}()

// pass goes to the end of a value. What is in it is checked by its decoder.
func (s *splitter) pass() error {
	depth, start := 0, s.i
	if c := s.next(); c != '"' && c != '{' && c != '[' {
		for {
			switch c := s.at(); c {
			case ',', '}', ']', ' ', '\t', '\n', '\r', 0:
				if s.i == start {
					return s.fail("a value was expected, here is %s", s.here())
				}
				return nil
			}
			s.i++
		}
	}
	for {
		for s.i < len(s.buf) && !marks[s.buf[s.i]] {
			s.i++
		}
		if s.i-start > maxBody {
			return s.fail("a value is longer than %d megabytes", maxBody>>20)
		}
		if s.i >= len(s.buf) {
			if !s.fill() {
				return s.fail("the file ends in the middle of a value that starts at byte %d", s.base+int64(start))
			}
			continue
		}
		switch s.buf[s.i] {
		case '"':
			if err := s.quoted(start); err != nil {
				return err
			}
		case '{', '[':
			s.i++
			if depth++; depth > maxDepth {
				return s.fail("values are nested deeper than %d", maxDepth)
			}
		default:
			s.i++
			depth--
		}
		if depth <= 0 {
			return nil
		}
	}
}

func (s *splitter) at() byte {
	if s.i >= len(s.buf) && !s.fill() {
		return 0
	}
	return s.buf[s.i]
}

// quoted goes behind the end of a text.
func (s *splitter) quoted(start int) error {
	s.i++
	for {
		for s.i < len(s.buf) {
			n := bytes.IndexByte(s.buf[s.i:], '"')
			if n < 0 {
				n = len(s.buf) - s.i
			}
			if k := bytes.IndexByte(s.buf[s.i:s.i+n], '\\'); k >= 0 {
				if s.i+k+1 >= len(s.buf) {
					s.i += k
					break // the byte that is escaped is not there yet
				}
				s.i += k + 2
				continue
			}
			s.i += n
			if s.i < len(s.buf) {
				s.i++
				return nil
			}
		}
		if s.i-start > maxBody {
			return s.fail("a value is longer than %d megabytes", maxBody>>20)
		}
		if !s.fill() {
			s.i = len(s.buf)
			return s.fail("the file ends in the middle of a text")
		}
	}
}

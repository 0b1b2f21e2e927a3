package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Outbox is where notices wait. What it says outlives the process.
type Outbox interface {
	// Due returns up to limit waiting notices of a channel whose time has come, oldest first: of each subject only the first.
	Due(ctx context.Context, channel string, limit int) ([]Notice, error)
	// Settle stores what became of notices that Due returned, all of them or none; one that somebody else has changed since is left
	// as it is. A notice that dies gets an entry in the audit log in the same transaction.
	Settle(ctx context.Context, ns []Notice) error
	// Counts tells how many notices there are.
	Counts(ctx context.Context) ([]Count, error)
}

// Channel delivers notices to one place.
type Channel interface {
	// Name is what the configuration calls it.
	Name() string
	// Send returns once the other end has taken the notice. It may have taken it even if Send fails, and then gets it again with the
	// same id. The note says what went through only in part: it is kept with the notice and holds no secret. Errors are *Failure; the
	// text of any other is logged and not shown.
	Send(ctx context.Context, n Notice) (note string, err error)
}

// Failure is why a notice was not delivered.
type Failure struct {
	Message string        // for people: what and why, without any secret
	Final   bool          // trying again is of no use
	Mine    bool          // it is about this notice: the other end works
	After   time.Duration // the other end asks to be left alone for so long
	Err     error         // for the log
}

// Error implements error.
func (f *Failure) Error() string {
	if f.Err != nil {
		return f.Message + ": " + f.Err.Error()
	}
	return f.Message
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Limits bound what a dispatcher does. Zero fields have the defaults.
type Limits struct {
	Workers  int           // attempts at a time for each channel; default 8
	Timeout  time.Duration // of one attempt; default 10 s
	First    time.Duration // pause after a first failure, doubled each time; default 5 s
	Longest  time.Duration // longest pause, and the longest that another end may ask for; default 15 min
	MaxAge   time.Duration // how long a notice is tried; default 24 h
	Attempts int           // how often at most; default 50
	Idle     time.Duration // time between looks into the outbox when nobody wakes the dispatcher; default 15 s
	Grace    time.Duration // how long attempts may go on after the end; default 5 s
	Batch    int           // notices settled in one transaction; default 25
}

func (l Limits) withDefaults() Limits {
	dur := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	num := func(v *int, n int) {
		if *v <= 0 {
			*v = n
		}
	}
	num(&l.Workers, 8)
	num(&l.Attempts, 50)
	num(&l.Batch, 25)
	dur(&l.Timeout, 10*time.Second)
	dur(&l.First, 5*time.Second)
	dur(&l.Longest, 15*time.Minute)
	dur(&l.MaxAge, 24*time.Hour)
	dur(&l.Idle, 15*time.Second)
	dur(&l.Grace, 5*time.Second)
	return l
}

// Config is what a dispatcher needs.
type Config struct {
	Outbox   Outbox
	Channels []Channel
	Clock    clock.Clock
	Log      *slog.Logger // nil: none
	Metrics  *Metrics     // nil: none
	Limits   Limits
}

// Dispatcher takes notices out of the outbox and delivers them: each at least once, those of one channel and subject in order. A
// channel has workers, pauses and a circuit of its own, so that one that hangs holds up no other.
type Dispatcher struct {
	cfg     Config
	log     *slog.Logger
	clock   clock.Clock
	lanes   []*lane
	settled chan settlement
	started time.Time
}

// New makes a dispatcher; nothing is sent before Run.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Outbox == nil || cfg.Clock == nil {
		return nil, errors.New("a dispatcher needs an outbox and a clock")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil, nil, cfg.Clock)
	}
	d := &Dispatcher{cfg: cfg, log: cfg.Log, clock: cfg.Clock, settled: make(chan settlement)}
	seen := map[string]bool{}
	for _, c := range cfg.Channels {
		if seen[c.Name()] {
			return nil, fmt.Errorf("two channels are called %q", c.Name())
		}
		seen[c.Name()] = true
		d.lanes = append(d.lanes, &lane{d: d, ch: c, wake: make(chan struct{}, 1), breaker: breaker{first: cfg.Limits.First, longest: 2 * time.Minute}})
	}
	return d, nil
}

// Wake tells that a notice may have been put into the outbox. It never blocks.
func (d *Dispatcher) Wake() {
	for _, l := range d.lanes {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Run delivers until ctx ends. Attempts that are under way then have Limits.Grace to end; what is not known to have been taken by
// then is sent again by the next Run, with the same id.
func (d *Dispatcher) Run(ctx context.Context) {
	d.started = d.clock.Now()
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	over := make(chan struct{})
	var guard, lanes, settler sync.WaitGroup
	guard.Go(func() {
		select {
		case <-ctx.Done():
		case <-over:
			return
		}
		select {
		case <-d.clock.After(d.cfg.Limits.Grace):
			cut()
		case <-over:
		}
	})
	settler.Go(func() { d.settle(work) })
	for _, l := range d.lanes {
		lanes.Go(func() { l.run(ctx, work) })
	}
	lanes.Go(func() { d.clear(ctx, work) })
	lanes.Wait()
	close(d.settled)
	settler.Wait()
	close(over)
	guard.Wait()
	d.settled = make(chan settlement)
}

// gone stands for a channel that is not there any more.
type gone string

func (g gone) Name() string { return string(g) }

func (gone) Send(context.Context, Notice) (string, error) {
	return "", &Failure{Message: "the configuration names no such channel any more", Final: true}
}

// clear gives up what waits for channels that are not there any more: nobody would ever look at it.
func (d *Dispatcher) clear(ctx, work context.Context) {
	counts, err := d.cfg.Outbox.Counts(ctx)
	if err != nil {
		d.log.Warn("reading the outbox", "error", err)
		return
	}
	for _, c := range counts {
		if c.Waiting == 0 || slices.ContainsFunc(d.lanes, func(l *lane) bool { return l.ch.Name() == c.Channel }) {
			continue
		}
		l := &lane{d: d, ch: gone(c.Channel), breaker: breaker{first: d.cfg.Limits.First, longest: d.cfg.Limits.First}}
		for ctx.Err() == nil && l.round(ctx, work) <= 0 {
			continue
		}
	}
}

// lane is one channel's own queue.
type lane struct {
	d       *Dispatcher
	ch      Channel
	wake    chan struct{}
	breaker breaker

	mu    sync.Mutex
	retry time.Time // when the next of those that failed is due
}

func (l *lane) run(ctx, work context.Context) {
	for ctx.Err() == nil {
		pause := l.round(ctx, work)
		if pause <= 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-l.d.clock.After(pause):
		}
	}
}

// round takes what is due and tries it; it returns how long to wait before the next.
func (l *lane) round(ctx, work context.Context) time.Duration {
	lim := l.d.cfg.Limits
	now := l.d.clock.Now()
	until, probe := l.breaker.state()
	l.d.cfg.Metrics.circuit(l.ch.Name(), until.After(now))
	if until.After(now) {
		if l.bury(ctx, work, now) {
			return 0
		}
		return until.Sub(now)
	}
	take := 8 * lim.Workers
	if probe {
		take = 1 // the channel was down: one notice finds out whether it still is
	}
	due, err := l.d.cfg.Outbox.Due(ctx, l.ch.Name(), take)
	if err != nil {
		if ctx.Err() == nil {
			l.d.log.Warn("reading the outbox", "channel", l.ch.Name(), "error", err)
		}
		return time.Second
	}
	if len(due) == 0 {
		return l.idle(now)
	}
	l.mu.Lock()
	l.retry = time.Time{} // whoever is due is in hand, or will be in the next round
	l.mu.Unlock()
	next := make(chan Notice)
	var workers, waiting sync.WaitGroup
	for range min(lim.Workers, len(due)) {
		workers.Go(func() {
			for n := range next {
				if out, ok := l.attempt(work, n); ok {
					waiting.Add(1)
					l.d.settled <- settlement{out, waiting.Done}
				}
			}
		})
	}
	for _, n := range due {
		if until, _ := l.breaker.state(); ctx.Err() != nil || until.After(l.d.clock.Now()) {
			break // the rest stays as it is, without an attempt against it
		}
		next <- n
	}
	close(next)
	workers.Wait()
	waiting.Wait()
	if work.Err() != nil {
		return time.Second
	}
	return 0
}

// idle returns how long there is nothing to do, as far as is known here.
func (l *lane) idle(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	pause := l.d.cfg.Limits.Idle
	if !l.retry.IsZero() {
		pause = min(pause, max(l.retry.Sub(now), time.Millisecond))
	}
	return pause
}

// attempt sends a notice once, and returns it as it is to be stored; not at all if it was cut off and nobody knows.
func (l *lane) attempt(work context.Context, n Notice) (Notice, bool) {
	began := l.d.clock.Now()
	ctx, cancel := context.WithTimeout(work, l.d.cfg.Limits.Timeout)
	note, err := l.send(ctx, n)
	cancel()
	if work.Err() != nil && err != nil {
		return n, false
	}
	now := l.d.clock.Now()
	n.Attempts++
	m := l.d.cfg.Metrics
	if err == nil {
		l.breaker.worked()
		n.State, n.SentAt, n.LastError = Sent, now, note
		m.attempt(l.ch.Name(), "sent", now.Sub(began))
		return n, true
	}
	var f *Failure
	if !errors.As(err, &f) {
		f = &Failure{Message: "an internal error; the server's log says more", Err: err}
		if errors.Is(err, context.DeadlineExceeded) {
			f.Message = fmt.Sprintf("no answer within %s", l.d.cfg.Limits.Timeout)
		}
	}
	if f.Mine || f.Final {
		l.breaker.worked()
	} else {
		l.breaker.failed(now, f.After)
	}
	n.LastError = f.Message
	l.d.log.Warn("a notice was not delivered", "notice", n.ID, "channel", l.ch.Name(), "kind", n.Event.Kind, "attempt", n.Attempts, "error", f)
	old := now.Sub(l.since(n)) >= l.d.cfg.Limits.MaxAge
	if f.Final || old || n.Attempts >= l.d.cfg.Limits.Attempts {
		n.State = Dead
		m.attempt(l.ch.Name(), "dead", now.Sub(began))
		return n, true
	}
	m.attempt(l.ch.Name(), "failed", now.Sub(began))
	n.NextAt = now.Add(l.pause(n.Attempts, f.After))
	l.mu.Lock()
	if l.retry.IsZero() || n.NextAt.Before(l.retry) {
		l.retry = n.NextAt
	}
	l.mu.Unlock()
	return n, true
}

// send calls the channel; a panic in it is an error.
func (l *lane) send(ctx context.Context, n Notice) (note string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Failure{Message: "an internal error; the server's log says more", Final: true, Err: fmt.Errorf("panic while sending: %v", v)}
		}
	}()
	return l.ch.Send(ctx, n)
}

// pause grows with the attempts, is spread so that not all come at once, and is no shorter than the other end asks for.
func (l *lane) pause(attempts int, after time.Duration) time.Duration {
	lim := l.d.cfg.Limits
	p := lim.Longest
	if shift := attempts - 1; shift < 30 && lim.First<<shift < p {
		p = lim.First << shift
	}
	p = p*3/4 + rand.N(p/2+1) //nolint:gosec // nothing hangs on its being unguessable
	return max(p, min(after, lim.Longest))
}

// since is from when a notice's age counts: not from before somebody had it tried again, nor from before this process could send.
func (l *lane) since(n Notice) time.Time {
	t := n.CreatedAt
	for _, o := range []time.Time{n.RetriedAt, l.d.started} {
		if o.After(t) {
			t = o
		}
	}
	return t
}

// bury gives up what waited too long behind a channel that is down, without an attempt, and tells whether there was any.
func (l *lane) bury(ctx, work context.Context, now time.Time) bool {
	if now.Sub(l.d.started) < l.d.cfg.Limits.MaxAge {
		return false
	}
	due, err := l.d.cfg.Outbox.Due(ctx, l.ch.Name(), l.d.cfg.Limits.Batch)
	if err != nil {
		return false
	}
	var waiting sync.WaitGroup
	found := false
	for _, n := range due {
		if now.Sub(l.since(n)) < l.d.cfg.Limits.MaxAge {
			continue
		}
		found = true
		n.State = Dead
		if n.LastError == "" {
			n.LastError = "the channel did not work for " + l.d.cfg.Limits.MaxAge.String()
		}
		waiting.Add(1)
		l.d.settled <- settlement{n, waiting.Done}
		l.d.cfg.Metrics.attempt(l.ch.Name(), "dead", 0)
	}
	waiting.Wait()
	return found && work.Err() == nil
}

// settlement is a notice that is to be stored; done is called when it is, or cannot be.
type settlement struct {
	n    Notice
	done func()
}

// settle stores what becomes of notices, some at a time. The store has one writer, and grants come first: each transaction is small,
// only one of ours waits at a time, and as long as one took nothing of ours is written.
func (d *Dispatcher) settle(work context.Context) {
	for s := range d.settled {
		batch := []settlement{s}
	gather:
		for len(batch) < d.cfg.Limits.Batch {
			select {
			case s, ok := <-d.settled:
				if !ok {
					break gather
				}
				batch = append(batch, s)
			default:
				break gather
			}
		}
		ns := make([]Notice, len(batch))
		for i, s := range batch {
			ns[i] = s.n
		}
		took := d.store(work, ns)
		for _, s := range batch {
			s.done()
		}
		if took > 0 {
			select {
			case <-d.clock.After(min(took, 100*time.Millisecond)):
			case <-work.Done():
			}
		}
	}
}

// store tries until it succeeds or the dispatcher is cut off: what was sent must not be sent again only because the store was busy.
func (d *Dispatcher) store(work context.Context, ns []Notice) time.Duration {
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		began := d.clock.Now()
		err := d.cfg.Outbox.Settle(work, ns)
		if err == nil {
			return d.clock.Now().Sub(began)
		}
		d.log.Error("what became of notices could not be stored", "count", len(ns), "error", err)
		select {
		case <-d.clock.After(pause):
		case <-work.Done():
			return 0
		}
	}
}

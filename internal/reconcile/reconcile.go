// Package reconcile makes what stands in Azure equal to what the broker wants there, for ever. It works by place (an NSG), reads
// everything again each time, and may run twice; closings go before openings (P9). It decides nothing about who may have access.
//
// What it trusts: the broker's answers, and the end that a rule's own name carries. What it does not: that a write that was sent
// stands, that one that failed does not, that what stood a moment ago still does.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// Broker is what the reconciler asks and tells. *broker.Broker implements it.
type Broker interface {
	Now() time.Time
	Hold() string
	StoreDown() bool
	// Flush says whether a place should end open connections when its rules change; NoteFlush remembers that we have it do so, and
	// DropFlush that it does not any more.
	Flush(place string) enforce.Flush
	NoteFlush(ctx context.Context, place string) error
	DropFlush(ctx context.Context, place string)
	Tick(ctx context.Context) broker.Work
	Begin(ctx context.Context, places map[access.GrantID][]access.Place) error
	WantedAt(place string) (open, over []access.Grant, shields []access.Protection)
	Apply(ctx context.Context, moves []broker.Move) ([]access.Grant, error)
	Keep(ctx context.Context, place string, originals []access.Replacement) error
	Live() []access.Grant
	LiveGrant(id access.GrantID) (access.Grant, bool)
	Forced(id access.GrantID) bool
	Places() map[string]string
	Protections() []access.Protection
	UpdateProtection(ctx context.Context, vmID string, fn func(access.Protection) (access.Protection, string)) error
	Verify(ctx context.Context, p access.Protection) (access.Protection, error)
	Locate(m inventory.Machine, p access.Protection) (access.Protection, error)
	Exposed(s *inventory.Snapshot, m inventory.Machine, p access.Protection) bool
	LetIn(s *inventory.Snapshot, m inventory.Machine, t access.Target, source netip.Prefix) string
	Record(ctx context.Context, e audit.Entry)
	Reload(ctx context.Context) error
	NoteSweep(at time.Time)
	NoteAzure(err error)
	NoteShields(ctx context.Context, places int) error
	Knows(ctx context.Context, id access.GrantID) (bool, error)
	PutOnHold(ctx context.Context, why string) error
}

// Config is what a reconciler needs.
type Config struct {
	Installation  string
	Broker        Broker
	Backend       enforce.Backend
	Inventory     broker.Inventory
	Subscriptions func(ctx context.Context) ([]string, error)
	Clock         clock.Clock
	SweepEvery    time.Duration // default 30 s: P1, P2
	Openers       int           // places written to at once for openings; default 32
	Log           *slog.Logger
	Metrics       *Metrics
	OnSend        func(place string, opening bool) // called when a write is about to leave; may be nil
}

// Reconciler runs until its context ends.
type Reconciler struct {
	cfg   Config
	log   *slog.Logger
	wake  chan struct{}
	slots chan struct{} // bounds openings; closings do not wait for one
	read  singleflight.Group

	mu       sync.Mutex
	ctx      context.Context
	places   map[string]*place
	standing map[access.GrantID]map[string]string   // grant -> place key -> what of it was read there after a write
	absent   map[access.GrantID]map[string]bool     // grant -> place key: nothing of it is left there
	opening  map[access.GrantID]*opening            // confirmed, and about to be sent
	known    map[string]map[string]enforce.HeldRule // place key -> what of ours was read there last
	report   *broker.SweepReport                    // of the sweep under way
	compared bool                                   // Azure was held against the store since the start
	seen     map[string]map[access.GrantID]bool     // place key -> live grants that stood there, with whatever end, at some time since the start; until compared
	strange  map[string]string                      // rules of grants that the store does not know, found before that, with their group
	said     map[string]said                        // what was logged of troubles that go on
	sweeping chan struct{}                          // held by the sweep under way
	wg       sync.WaitGroup
}

// said is a trouble that was logged, and when.
type said struct {
	what string
	at   time.Time
}

// opening is a grant on its way: where it will stand.
type opening struct {
	places  []access.Place
	nextTry time.Time
	tries   int
	busy    bool
}

// place is one place's queue: at most one run at a time, and what comes meanwhile is gathered into the next.
type place struct {
	id      string
	dirty   bool
	shut    bool          // something has to go
	hurry   chan struct{} // of a run that waits for a slot: closed when shut is set
	running bool
	waiters []chan error
	fails   int
	retry   time.Time
}

// New returns a reconciler; Run starts it.
func New(cfg Config) *Reconciler {
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = 30 * time.Second
	}
	if cfg.Openers <= 0 {
		cfg.Openers = 32
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	live := func() ([]access.Grant, time.Time) { return cfg.Broker.Live(), cfg.Broker.Now() }
	cfg.Metrics.grants.from.Store(&live)
	return &Reconciler{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), sweeping: make(chan struct{}, 1), slots: make(chan struct{}, cfg.Openers), places: map[string]*place{}, said: map[string]said{},
		standing: map[access.GrantID]map[string]string{}, absent: map[access.GrantID]map[string]bool{}, opening: map[access.GrantID]*opening{}, known: map[string]map[string]enforce.HeldRule{}}
}

// Wake implements broker.Enforcer.
func (r *Reconciler) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then waits for what is under way. The first thing it does is a sweep: after a crash nobody knows what stands.
func (r *Reconciler) Run(ctx context.Context) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	for _, id := range r.cfg.Broker.Places() {
		r.mark(id, true, nil) // closings that a crash held up do not wait for the sweep
	}
	nextSweep := r.cfg.Clock.Now()
	for ctx.Err() == nil {
		wait := r.step(ctx)
		if now := r.cfg.Clock.Now(); !now.Before(nextSweep) || nextSweep.Sub(now) > r.cfg.SweepEvery {
			nextSweep = now.Add(r.cfg.SweepEvery)
			r.wg.Go(func() {
				if len(r.sweeping) > 0 {
					return // one is under way
				}
				if _, err := r.Sweep(ctx); err != nil && ctx.Err() == nil {
					r.log.Error("sweep", "error", err)
				}
			})
		}
		wait = min(wait, nextSweep.Sub(r.cfg.Clock.Now()))
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-r.cfg.Clock.After(max(wait, time.Millisecond)):
		}
	}
	r.wg.Wait()
	return nil
}

// step does what is due now and returns how long nothing else will be.
func (r *Reconciler) step(ctx context.Context) (wait time.Duration) {
	defer r.recover("step")
	w := r.cfg.Broker.Tick(ctx)
	now := r.cfg.Broker.Now()
	wait = time.Second // the clock may jump, and retries may come due: look at least this often
	if !w.Next.IsZero() {
		wait = min(wait, w.Next.Sub(now))
	}
	for _, id := range w.Shut {
		r.mark(id, true, nil)
	}
	for _, id := range w.Renew {
		r.mark(id, false, nil)
	}
	together := inventory.Together(ctx)
	for _, g := range w.Open {
		r.open(together, g, now)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.places {
		if p.dirty && !p.running {
			if p.retry.IsZero() || !r.cfg.Clock.Now().Before(p.retry) {
				r.start(p)
			} else {
				wait = min(wait, p.retry.Sub(r.cfg.Clock.Now()))
			}
		}
	}
	return wait
}

func (r *Reconciler) recover(what string) {
	if v := recover(); v != nil {
		r.cfg.Metrics.Panics.Inc()
		r.log.Error("panic", "in", what, "value", v, "stack", string(debug.Stack()))
	}
}

// mark notes that a place has to be looked at. waiter, if not nil, gets the outcome of a run that began after now.
func (r *Reconciler) mark(id string, shut bool, waiter chan error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := key(id)
	p := r.places[k]
	if p == nil {
		p = &place{id: id}
		r.places[k] = p
	}
	p.dirty = true
	p.shut = p.shut || shut
	if shut && p.hurry != nil {
		close(p.hurry)
		p.hurry = nil
	}
	if waiter != nil {
		p.waiters = append(p.waiters, waiter)
		p.retry = time.Time{} // a person waits: try at once
	}
	if !p.running && (p.retry.IsZero() || !r.cfg.Clock.Now().Before(p.retry)) {
		r.start(p)
	}
}

// start begins a run; r.mu is held.
func (r *Reconciler) start(p *place) {
	ctx := r.ctx
	if ctx == nil {
		return // not yet: Run begins with what waits
	}
	if ctx.Err() != nil {
		for _, w := range p.waiters {
			w <- errors.New("the reconciler is not running")
		}
		p.waiters = nil
		return
	}
	p.running = true
	r.wg.Go(func() { r.work(ctx, p) })
}

// work runs a place until it is clean.
func (r *Reconciler) work(ctx context.Context, p *place) {
	for {
		release := r.slot(ctx, p)
		r.mu.Lock()
		waiters, shut := p.waiters, p.shut
		p.waiters, p.dirty, p.shut = nil, false, false
		r.mu.Unlock()
		again, err := r.run(ctx, p, shut)
		release()
		for _, w := range waiters {
			w <- err
		}
		r.mu.Lock()
		switch {
		case err != nil || again:
			p.dirty = true
			p.fails++
			p.retry = r.cfg.Clock.Now().Add(backoff(p.fails))
		default:
			p.fails, p.retry = 0, time.Time{}
		}
		if !p.dirty || ctx.Err() != nil || !p.retry.IsZero() && len(p.waiters) == 0 {
			p.running = false
			if p.dirty {
				r.Wake() // so that step learns when to try again
			} else if len(p.waiters) == 0 {
				delete(r.places, key(p.id))
			}
			for _, w := range p.waiters {
				w <- context.Cause(ctx)
			}
			p.waiters = nil
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
}

// slot waits until a place may be worked on, and returns what must be called afterwards. An opening waits for one of a few slots;
// what must be shut never does, not even where an opening is waiting already (P9).
func (r *Reconciler) slot(ctx context.Context, p *place) (release func()) {
	r.mu.Lock()
	if p.shut {
		r.mu.Unlock()
		return func() {}
	}
	hurry := make(chan struct{})
	p.hurry = hurry
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		p.hurry = nil
		r.mu.Unlock()
	}()
	select {
	case r.slots <- struct{}{}:
		return func() { <-r.slots }
	case <-hurry:
	case <-ctx.Done():
	}
	return func() {}
}

// backoff is how long to wait after n failures: closings are tried for ever, at least every 15 s (P2).
func backoff(n int) time.Duration {
	return min(time.Duration(1<<min(n-1, 5))*500*time.Millisecond, 15*time.Second)
}

func key(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

// SyncNow implements broker.Enforcer.
func (r *Reconciler) SyncNow(ctx context.Context, places []string) map[string]error {
	waits := map[string]chan error{}
	for _, id := range places {
		if _, ok := waits[key(id)]; ok {
			continue
		}
		ch := make(chan error, 1)
		waits[key(id)] = ch
		r.mark(id, true, ch)
	}
	out := map[string]error{}
	for k, ch := range waits {
		select {
		case out[k] = <-ch:
		case <-ctx.Done():
			out[k] = ctx.Err()
		}
	}
	return out
}

// open confirms the machine of a due grant and hands the grant to its places.
func (r *Reconciler) open(ctx context.Context, g access.Grant, now time.Time) {
	r.mu.Lock()
	o := r.opening[g.ID]
	if o == nil {
		o = &opening{}
		r.opening[g.ID] = o
	}
	if o.busy || o.places != nil || now.Before(o.nextTry) {
		r.mu.Unlock()
		return
	}
	o.busy = true
	r.mu.Unlock()
	r.wg.Go(func() {
		defer r.recover("opening " + string(g.ID))
		places, err := r.confirm(ctx, g)
		r.mu.Lock()
		o.busy = false
		if err != nil {
			o.tries++
			o.nextTry = r.cfg.Broker.Now().Add(backoff(o.tries))
		} else {
			o.places = places
		}
		r.mu.Unlock()
		if err != nil {
			r.openFailed(ctx, g, err)
			return
		}
		for _, p := range places {
			r.mark(p.ID, false, nil)
		}
	})
}

func (r *Reconciler) openFailed(ctx context.Context, g access.Grant, err error) {
	if ctx.Err() != nil {
		return
	}
	msg := words(err)
	var move broker.Move
	switch access.CodeOf(err) {
	case access.CodeNotFound:
		move = broker.Move{Event: access.ShutEvent{Reason: access.ReasonTargetGone}, Message: fmt.Sprintf("%s is not opened: %s", g.ID, msg)}
	case access.CodeConflict:
		move = broker.Move{Event: access.ShutEvent{Reason: access.ReasonTargetChanged}, Message: fmt.Sprintf("%s is not opened: %s", g.ID, msg)}
	case access.CodeNotProtected:
		move = broker.Move{Event: access.ShutEvent{Reason: access.ReasonUnprotected}, Message: fmt.Sprintf("%s is not opened: %s", g.ID, msg)}
	default:
		move = broker.Move{Event: access.FailedEvent{Error: msg}, Message: fmt.Sprintf("%s could not be opened yet: %s", g.ID, msg)}
		if g.LastError == msg {
			return // said already
		}
	}
	move.ID, move.Action, move.Outcome = g.ID, "grant.open", audit.Failed
	if _, aerr := r.cfg.Broker.Apply(ctx, []broker.Move{move}); aerr != nil {
		r.log.Error("storing a failed opening", "grant", g.ID, "error", aerr)
	}
}

// words returns what a person may read of an error.
func words(err error) string {
	var ae *access.Error
	if errors.As(err, &ae) {
		return ae.Message
	}
	var az *azure.Error
	if errors.As(err, &az) {
		if ue := azure.UserError(az); ue.Hint != "" {
			return strings.TrimRight(ue.Message, ".") + "; " + ue.Hint
		}
	}
	return err.Error()
}

// confirm reads the machine from Azure and returns where the grant will stand. The machine must be the one that was asked for.
func (r *Reconciler) confirm(ctx context.Context, g access.Grant) ([]access.Place, error) {
	v, err, _ := r.read.Do(key(g.Target.VM.ID), func() (any, error) { return r.cfg.Inventory.Confirm(ctx, g.Target.VM.ID) })
	if err != nil {
		r.noteAzure(err)
		return nil, err
	}
	r.noteAzure(nil)
	s := v.(*inventory.Snapshot)
	m, err := s.Find(g.Target.VM.ID)
	if err != nil {
		return nil, err
	}
	if g.Target.VM.VMID != "" && m.VMID != "" && !strings.EqualFold(g.Target.VM.VMID, m.VMID) {
		return nil, access.Errorf(access.CodeConflict, "%s was re-created since the request: another machine stands under its id now", m.Name).
			WithHint("ask again with: curfew request create %s", m.Name)
	}
	for _, p := range r.cfg.Broker.Protections() {
		if access.SameVM(p.VM.ID, m.ID) {
			if _, ok := p.Covers(g.Target.Ports, g.Target.Protocol); ok {
				return r.cfg.Backend.Locate(m, g.Target.Ports, g.Target.Protocol)
			}
		}
	}
	return nil, access.Errorf(access.CodeNotProtected, "port %s of %s is not protected any more", g.Target.Ports, m.Name)
}

func (r *Reconciler) noteAzure(err error) {
	switch access.CodeOf(err) {
	case "", access.CodeAzureUnavailable, access.CodeAzureForbidden:
		r.cfg.Broker.NoteAzure(err)
	}
}

// ready tells which grants on their way are to stand at a place too.
func (r *Reconciler) ready(placeID string) map[access.GrantID][]access.Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[access.GrantID][]access.Place{}
	for id, o := range r.opening {
		if slices.ContainsFunc(o.places, func(p access.Place) bool { return key(p.ID) == key(placeID) }) {
			out[id] = o.places
		}
	}
	return out
}

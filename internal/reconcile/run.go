package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// runLimit bounds one run of a place; what is not done by then is tried again.
const runLimit = 5 * time.Minute

// errOvertaken stops a write that would open what is not wanted any more; it is decided again at once.
var errOvertaken = errors.New("a grant is not wanted any more")

// run brings one place up to what is wanted, and tells the broker what became of it. again asks for another run although nothing failed.
// shut says that something has to go.
func (r *Reconciler) run(ctx context.Context, p *place, shut bool) (again bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.cfg.Metrics.Panics.Inc()
			again, err = true, fmt.Errorf("panic while working on %s: %v", p.id, v)
			r.log.Error("panic", "place", p.id, "value", v)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	b := r.cfg.Broker
	var open, over []access.Grant
	var prots []access.Protection
	sync := enforce.Sync{
		Urgent: shut,
		Decide: func(ctx context.Context, held enforce.Held) (enforce.Wanted, error) {
			// Azure was read before this is asked: what is granted meanwhile is not taken for an orphan.
			if !r.begun() {
				if err := r.strangers(ctx, held); err != nil {
					r.log.Warn("rules could not be held against the store", "place", p.id, "error", err)
				}
			}
			if prep := r.ready(p.id); len(prep) > 0 && r.begun() {
				if err := b.Begin(ctx, prep); err != nil {
					r.log.Warn("openings wait", "place", p.id, "error", err)
				}
			}
			open, over, prots = b.WantedAt(p.id)
			var err error
			if open, err = r.narrow(ctx, p.id, open); err != nil {
				return enforce.Wanted{}, err
			}
			w := broker.Wanted(p.id, open, prots)
			w.Env, w.KeepShields = r.env(ctx, p.id), r.closing() // P7: to take a shield away is to open
			w.Flush = b.Flush(p.id)
			return w, nil
		},
		KeepFlush: func(ctx context.Context) error { return b.NoteFlush(ctx, p.id) },
		Keep:      func(ctx context.Context, originals []access.Replacement) error { return b.Keep(ctx, p.id, originals) },
		Sending: func(opening bool) error {
			// Asked again just before the write leaves: somebody may have revoked a grant while it waited (docs/design/0002).
			for _, g := range open {
				if cur, ok := b.LiveGrant(g.ID); !ok || !cur.Wanted(b.Now()) || b.Forced(g.ID) {
					return fmt.Errorf("%w: %s", errOvertaken, g.ID)
				}
			}
			r.sending(p.id, opening)
			return nil
		},
		Expected: func(name string) bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			_, ok := r.known[key(p.id)][name]
			return ok
		},
	}
	res, err := r.cfg.Backend.Sync(ctx, p.id, sync)
	for n := 0; errors.Is(err, errOvertaken) && n < 5; n++ {
		res, err = r.cfg.Backend.Sync(ctx, p.id, sync)
	}
	r.noteResult(p.id, res, err)
	r.noteAzure(err)
	if err == nil && !res.Flushes && b.Flush(p.id) == enforce.FlushBack {
		b.DropFlush(ctx, p.id)
	}
	again = r.settle(ctx, p.id, res, err, open, over)
	return again, err
}

// closing tells whether nothing may open or widen now.
func (r *Reconciler) closing() bool {
	return r.cfg.Broker.Hold() != "" || r.cfg.Broker.StoreDown() || !r.begun()
}

// sayAgain is after how long a trouble that goes on is logged again.
const sayAgain = 5 * time.Minute

// say tells whether a trouble about something is to be logged now: it is another one than before, or that was long ago. No trouble
// ("") makes the next one news.
func (r *Reconciler) say(about, what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.cfg.Clock.Now()
	was, ok := r.said[about]
	switch {
	case what == "":
		delete(r.said, about)
		return false
	case ok && was.what == what && now.Sub(was.at) < sayAgain:
		return false
	}
	r.said[about] = said{what, now}
	return true
}

// narrow takes out of what is wanted everything that would have to be written, while nothing may open; and revokes a grant whose
// rule was put back once already and is gone again. What stands for a live grant with an earlier end than its own, because it was
// lengthened and that is not written yet, is kept until that end: it is neither drift nor too much. Nor does a grant go because
// another one of the rule that they share is over: the rule is written again without that one, which opens nothing.
func (r *Reconciler) narrow(ctx context.Context, placeID string, open []access.Grant) ([]access.Grant, error) {
	b := r.cfg.Broker
	closing := r.closing()
	restored := func(g access.Grant) bool { return g.Restored > 0 && r.stood(g, placeID) }
	if !closing && !slices.ContainsFunc(open, restored) {
		return open, nil
	}
	res, err := r.cfg.Backend.Sync(ctx, placeID, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
		_, _, prots := b.WantedAt(placeID)
		w := broker.Wanted(placeID, open, prots)
		w.Env = r.env(ctx, placeID)
		return w, nil
	}})
	if err != nil {
		return nil, err
	}
	r.noteSeen(placeID, res)
	var keep []access.Grant
	var moves []broker.Move
	for _, g := range open {
		switch {
		case res.Before[g.ID]:
			keep = append(keep, g)
		case closing && b.Now().Before(res.Until[g.ID]):
			if end := res.Until[g.ID]; end.Before(g.EndsAt) {
				g.EndsAt = end
			}
			keep = append(keep, g)
		case closing: // it stays as it is in the store, and is not written
		case restored(g):
			moves = append(moves, broker.Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonTampered}, Action: "grant.revoke", Outcome: audit.Done,
				Message: fmt.Sprintf("the rule of %s was put back once and was removed again by somebody else: it is revoked", g.ID)})
		default:
			keep = append(keep, g)
		}
	}
	if len(moves) > 0 {
		r.cfg.Metrics.Drift.WithLabelValues("removed_again").Add(float64(len(moves)))
		gs, err := b.Apply(ctx, moves)
		if err != nil {
			return nil, err
		}
		for _, g := range gs {
			for _, pl := range g.Places {
				if key(pl.ID) != key(placeID) {
					r.mark(pl.ID, true, nil)
				}
			}
		}
		r.Wake()
	}
	return keep, nil
}

// signature is what was written for a grant at a place.
func signature(g access.Grant, placeID string) string {
	for _, p := range g.Places {
		if key(p.ID) == key(placeID) {
			return fmt.Sprintf("%d|%v", g.EndsAt.Unix(), p.Addresses)
		}
	}
	return ""
}

// stood tells whether exactly what is wanted for the grant was seen standing at the place after our last write.
func (r *Reconciler) stood(g access.Grant, placeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.standing[g.ID][key(placeID)] == signature(g, placeID)
}

// settle tells the broker what became of a place.
func (r *Reconciler) settle(ctx context.Context, placeID string, res enforce.Result, err error, open, over []access.Grant) (again bool) {
	// What was done is told even when time has run out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	b := r.cfg.Broker
	problems := map[access.GrantID]string{}
	for _, pr := range res.Problems {
		for _, id := range pr.Grants {
			problems[id] = pr.Message
		}
	}
	var moves []broker.Move
	var opened []access.GrantID
	for _, g := range open {
		drift := g.State == access.Active && err == nil && !res.Before[g.ID] && res.Wrote && r.stood(g, placeID)
		if drift {
			r.cfg.Metrics.Drift.WithLabelValues("allow_removed").Inc()
			moves = append(moves, broker.Move{ID: g.ID, Event: access.DriftEvent{Removed: true}, Action: "drift.repair", Outcome: audit.Done,
				Message: fmt.Sprintf("somebody removed or changed the rule of %s; it was put back", g.ID)})
		}
		switch {
		case res.After[g.ID]:
			if r.stands(g, placeID) {
				if g.State == access.Activating {
					moves = append(moves, broker.Move{ID: g.ID, Event: access.OpenedEvent{}, Action: "grant.open", Outcome: audit.Done,
						Message: fmt.Sprintf("%s is open to %s until %s", g.Target, g.Source, access.Clock(g.EndsAt))})
				}
				if !g.Ready() {
					opened = append(opened, g.ID)
				}
			}
		default:
			msg := problems[g.ID]
			if msg == "" && err != nil {
				msg = words(err)
			}
			if msg == "" {
				again = true // overtaken, for example by its own end
				continue
			}
			if err == nil {
				again = true
			}
			if msg != g.LastError {
				moves = append(moves, broker.Move{ID: g.ID, Event: access.FailedEvent{Error: msg}, Action: "grant.open", Outcome: audit.Failed, Message: fmt.Sprintf("%s could not be opened yet: %s", g.ID, msg)})
			}
		}
	}
	for _, g := range over {
		gone := (err == nil || res.Clean) && res.Leftover[g.ID] == nil // Clean: taken out rule by rule, although the group could not be written
		if gone {
			if !r.gone(g, placeID) {
				continue
			}
			if g.State == access.CloseFailed {
				moves = append(moves, broker.Move{ID: g.ID, Event: access.RetryShutEvent{}})
			}
			if g.State == access.Active || g.State == access.Activating && g.EndReason == "" {
				continue // its end is not stored yet: Tick does that, and asks again
			}
			late := ""
			if !g.EndsAt.IsZero() {
				if d := b.Now().Sub(g.EndsAt); d > 0 {
					r.cfg.Metrics.Lateness.Observe(d.Seconds())
					if d > 2*time.Second && g.EndReason == access.ReasonTimeOver {
						late = fmt.Sprintf(", %s after its end", access.Duration(d.Round(time.Second)))
					}
				}
			}
			out := audit.Done
			moves = append(moves, broker.Move{ID: g.ID, Event: access.ShutDoneEvent{}, Action: "grant.shut", Outcome: out, Message: fmt.Sprintf("%s is shut to %s%s", g.Target, g.Source, late)})
			continue
		}
		why := err
		if res.Leftover[g.ID] != nil {
			why = res.Leftover[g.ID]
		}
		if g.State == access.Closing || g.State == access.CloseFailed || g.EndReason == access.ReasonNotOpened {
			msg := words(why)
			action := "grant.shut"
			if g.LastError == msg {
				action = "" // said already
			} else if r.say("shut "+string(g.ID), msg) { // its LastError may not have been stored
				r.log.Error("closing failed; it is tried again", "grant", g.ID, "vm", g.Target.VM.Name, "error", why)
			}
			moves = append(moves, broker.Move{ID: g.ID, Event: access.ShutFailedEvent{Error: msg}, Action: action, Outcome: audit.Failed,
				Message: fmt.Sprintf("%s could not be shut yet, and is tried again: %s", g.ID, msg)})
		}
		again = again || err == nil
	}
	changed, aerr := b.Apply(ctx, moves)
	if aerr != nil {
		if r.say("store "+placeID, words(aerr)) {
			r.log.Error("what became of a place could not be stored", "place", placeID, "error", aerr)
		}
		again = true
	} else {
		r.say("store "+placeID, "")
	}
	for _, g := range changed {
		if g.State.Final() {
			r.forget(g.ID)
		}
	}
	for _, name := range res.Missing {
		r.cfg.Metrics.Drift.WithLabelValues("deny_removed").Inc()
		b.Record(ctx, audit.Entry{Action: "drift.repair", Outcome: outcome(err), Object: placeID, Message: fmt.Sprintf("somebody removed %s from %s; it was put back", name, lastPart(placeID))})
	}
	for _, name := range res.Altered {
		r.cfg.Metrics.Drift.WithLabelValues("altered").Inc()
		if slices.ContainsFunc(res.Changes, func(c enforce.Change) bool { return c.Kind == enforce.Remove && c.Rule == name }) {
			continue // below
		}
		b.Record(ctx, audit.Entry{Action: "drift.repair", Outcome: outcome(err), Object: placeID, Message: fmt.Sprintf("somebody changed %s in %s; it was written again", name, lastPart(placeID))})
	}
	r.recordStrays(ctx, placeID, res, err, open, over)
	if len(opened) > 0 {
		r.wg.Go(func() { r.verify(r.background(), opened) })
	}
	if again || err != nil {
		r.cfg.Metrics.Retries.Inc()
	}
	return again
}

// recordStrays records what was done at a place that follows from nobody's grant or protection: an opening of ours that belonged to no
// grant there (one that came late, or that somebody wrote in our name) was removed, and a deny of ours was moved before a rule that
// would bypass it.
func (r *Reconciler) recordStrays(ctx context.Context, placeID string, res enforce.Result, err error, open, over []access.Grant) {
	if !res.Wrote {
		return
	}
	for _, c := range res.Changes {
		h, ours := enforce.ParseName(c.Rule)
		if !ours {
			continue
		}
		known := func(g access.Grant) bool { return strings.EqualFold(string(g.ID), string(h.Grant)) }
		switch {
		case c.Kind == enforce.Remove && h.Kind == enforce.KindAllow && !slices.ContainsFunc(open, known) && !slices.ContainsFunc(over, known):
			r.cfg.Metrics.Drift.WithLabelValues("stray").Inc()
			r.cfg.Broker.Record(ctx, audit.Entry{Action: "drift.repair", Outcome: outcome(err), Object: placeID,
				Message: fmt.Sprintf("%s stood in %s and belongs to no grant that may be open there (%s); it was removed", c.Rule, lastPart(placeID), c.Summary)})
		case c.Kind == enforce.Rewrite && h.Kind == enforce.KindDeny && !slices.Contains(res.Altered, c.Rule):
			r.cfg.Broker.Record(ctx, audit.Entry{Action: "rule.rewrite", Outcome: outcome(err), Object: placeID,
				Message: fmt.Sprintf("%s in %s was written again at priority %d: %s (%s)", c.Rule, lastPart(placeID), c.Priority, c.Why, c.Summary)})
		}
	}
}

func outcome(err error) audit.Outcome {
	if err != nil {
		return audit.Failed
	}
	return audit.Done
}

func lastPart(id string) string { return id[strings.LastIndex(id, "/")+1:] }

func (r *Reconciler) background() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ctx
}

// stands notes that a grant's rules were read at a place, and tells whether that is so at all of its places.
func (r *Reconciler) stands(g access.Grant, placeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.standing[g.ID]
	if m == nil {
		m = map[string]string{}
		r.standing[g.ID] = m
	}
	m[key(placeID)] = signature(g, placeID)
	for _, p := range g.Places {
		if m[key(p.ID)] != signature(g, p.ID) {
			return false
		}
	}
	delete(r.opening, g.ID)
	return true
}

// gone notes that a grant has nothing left at a place, and tells whether that is so at all of its places.
func (r *Reconciler) gone(g access.Grant, placeID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.absent[g.ID]
	if m == nil {
		m = map[string]bool{}
		r.absent[g.ID] = m
	}
	m[key(placeID)] = true
	for _, p := range g.Places {
		if !m[key(p.ID)] {
			return false
		}
	}
	return true
}

func (r *Reconciler) forget(id access.GrantID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.standing, id)
	delete(r.absent, id)
	delete(r.opening, id)
	delete(r.said, "shut "+string(id))
}

func (r *Reconciler) noteResult(placeID string, res enforce.Result, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || len(res.Held.Rules) > 0 {
		m := map[string]enforce.HeldRule{}
		for _, h := range res.Held.Rules {
			if h.Installation == r.cfg.Installation {
				m[h.Name] = h
			}
		}
		if len(m) == 0 {
			delete(r.known, key(placeID))
		} else {
			r.known[key(placeID)] = m
		}
	}
	if rep := r.report; rep != nil {
		for _, c := range res.Changes {
			if !res.Wrote {
				break
			}
			line := lastPart(c.Place) + "/" + c.Rule
			if c.Kind == enforce.Remove {
				rep.Closed = append(rep.Closed, line)
			} else if c.Kind == enforce.Rewrite || c.Kind == enforce.Add {
				rep.Repaired = append(rep.Repaired, line)
			}
		}
		if err != nil {
			rep.Failed = append(rep.Failed, lastPart(placeID)+": "+words(err))
		}
		for _, pr := range res.Problems {
			rep.Failed = append(rep.Failed, lastPart(placeID)+": "+pr.Message)
		}
	}
}

func (r *Reconciler) sending(placeID string, opening bool) {
	kind := "closing"
	if opening {
		kind = "opening"
	}
	r.cfg.Metrics.Writes.WithLabelValues(kind, "sent").Inc()
	if r.cfg.OnSend != nil {
		r.cfg.OnSend(placeID, opening)
	}
}

// env is what tags and application security groups mean for an NSG, as far as the last snapshot tells.
func (r *Reconciler) env(ctx context.Context, placeID string) netsec.Env {
	s, err := r.cfg.Inventory.Snapshot(ctx)
	if err != nil {
		return netsec.Env{} // unknown tags and groups count as overlapping: the cautious side
	}
	return s.EnvOf(placeID)
}

// verify reads the machines of grants again and records whether the effective rules let their sources in (P5).
func (r *Reconciler) verify(ctx context.Context, ids []access.GrantID) {
	defer r.recover("verify")
	b := r.cfg.Broker
	byVM := map[string][]access.Grant{}
	for _, id := range ids {
		if g, ok := b.LiveGrant(id); ok && g.State == access.Active {
			byVM[key(g.Target.VM.ID)] = append(byVM[key(g.Target.VM.ID)], g)
		}
	}
	type found struct {
		g   access.Grant
		why string
	}
	var g errgroup.Group
	g.SetLimit(16)
	ctx = inventory.Together(ctx)
	out := make(chan found, len(ids))
	for _, gs := range byVM {
		g.Go(func() error {
			defer r.recover("verify")
			s, err := r.cfg.Inventory.Confirm(ctx, gs[0].Target.VM.ID)
			var m inventory.Machine
			if err == nil {
				m, err = s.Find(gs[0].Target.VM.ID)
			}
			for _, g := range gs {
				why := ""
				if err != nil {
					why = "the effective rules could not be read: " + words(err)
				} else {
					why = b.LetIn(s, m, g.Target, g.Source)
				}
				out <- found{g, why}
			}
			return nil
		})
	}
	_ = g.Wait()
	close(out)
	var moves []broker.Move
	for f := range out {
		if f.why == "" {
			r.cfg.Metrics.OpenDelay.Observe(b.Now().Sub(f.g.StartsAt).Seconds())
			moves = append(moves, broker.Move{ID: f.g.ID, Event: access.ReadyEvent{}, Action: "grant.ready", Outcome: audit.Done, Message: fmt.Sprintf("the effective rules let %s in to %s", f.g.Source, f.g.Target)})
		} else if f.why != f.g.NotReady {
			moves = append(moves, broker.Move{ID: f.g.ID, Event: access.ReadyEvent{Why: f.why}, Action: "grant.ready", Outcome: audit.Failed, Message: fmt.Sprintf("the rule of %s stands, yet %s would not get in to %s: %s", f.g.ID, f.g.Source, f.g.Target, f.why)})
		}
	}
	if _, err := b.Apply(ctx, moves); err != nil && !errors.Is(err, context.Canceled) {
		r.log.Error("storing what was verified", "error", err)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/notify"
)

// Grant implements Service.
func (b *Broker) Grant(ctx context.Context, c access.Caller, id access.GrantID) (g access.Grant, err error) {
	if err := b.need(ctx, c, "grant.read", string(id), anyRole...); err != nil {
		return g, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { g, err = b.visibleGrant(tx, c, id); return err })
	return g, err
}

func (b *Broker) visibleGrant(tx Tx, c access.Caller, id access.GrantID) (access.Grant, error) {
	g, err := tx.Grant(id)
	if access.CodeOf(err) == access.CodeNotFound || err == nil && !isPrivileged(c) && !access.SamePerson(g.Requester, c.Name) {
		return access.Grant{}, notFound("grant", string(id))
	}
	return g, err
}

// Grants implements Service.
func (b *Broker) Grants(ctx context.Context, c access.Caller, f GrantFilter) (out []access.Grant, next string, err error) {
	if err := b.need(ctx, c, "grant.read", "", anyRole...); err != nil {
		return nil, "", err
	}
	if !isPrivileged(c) {
		f.Requester = c.Name
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, next, err = tx.Grants(f); return err })
	return out, next, err
}

// Close implements Service.
func (b *Broker) Close(ctx context.Context, c access.Caller, id access.GrantID) (access.Grant, error) {
	return b.end(ctx, c, id, "grant.close", access.ReasonDone, "")
}

// Revoke implements Service.
func (b *Broker) Revoke(ctx context.Context, c access.Caller, id access.GrantID, comment string) (access.Grant, error) {
	return b.end(ctx, c, id, "grant.revoke", access.ReasonRevoked, comment)
}

func (b *Broker) end(ctx context.Context, c access.Caller, id access.GrantID, action string, why access.EndReason, comment string) (access.Grant, error) {
	roles := anyRole
	if why == access.ReasonRevoked {
		roles = []access.Role{access.Approver, access.Admin}
	}
	if err := b.need(ctx, c, action, string(id), roles...); err != nil {
		return access.Grant{}, err
	}
	own := func(g access.Grant) error {
		mine := access.SamePerson(g.Requester, c.Name)
		switch {
		case why == access.ReasonDone && !mine:
			return access.Errorf(access.CodeDenied, "grant %s is %s's", id, g.Requester).WithHint("shut somebody else's grant with: curfew grant revoke %s", id)
		case why == access.ReasonRevoked && mine:
			return access.Errorf(access.CodeInvalid, "grant %s is your own", id).WithHint("shut it with: curfew grant close %s", id)
		}
		return nil
	}
	comment, err := checkComment(comment)
	if err != nil {
		return access.Grant{}, err
	}
	ev := access.ShutEvent{Reason: why, By: c.Name}
	words := func(g access.Grant) audit.Entry {
		verb := "closes"
		if why == access.ReasonRevoked {
			verb = "revokes"
		}
		e := b.entry(c, action, audit.Done, "", "%s %s %s of %s to %s", c.Name, verb, g.ID, g.Requester, g.Target)
		return detail(grantEntry(e, g), "comment", comment)
	}
	var out access.Grant
	err = b.change(ctx, func(tx Tx) ([]access.Grant, []access.Protection, error) {
		g, err := b.visibleGrant(tx, c, id)
		if err != nil {
			return nil, nil, err
		}
		if err := own(g); err != nil {
			return nil, nil, err
		}
		if out, err = g.Step(ev, b.Now()); err != nil {
			return nil, nil, err
		}
		if err := b.putGrant(tx, g, out, words(out)); err != nil {
			return nil, nil, err
		}
		out.Version++
		_, err = tx.Append(words(out))
		return []access.Grant{out}, nil, err
	})
	if access.CodeOf(err) == access.CodeUnavailable {
		out, err = b.force(c, id, ev, own, words, err)
	}
	if err != nil {
		return access.Grant{}, b.refuse(ctx, c, action, string(id), err)
	}
	b.enf.Wake()
	return out, nil
}

// force shuts a grant although that cannot be stored: closing never waits for the log (P7). It is remembered here, spooled, and
// stored when the store can be written again. cause is returned where nothing is known of such a grant.
func (b *Broker) force(c access.Caller, id access.GrantID, ev access.ShutEvent, own func(access.Grant) error, words func(access.Grant) audit.Entry, cause error) (access.Grant, error) {
	b.index.order.Lock() // two at once: the second hears that the first was first
	defer b.index.order.Unlock()
	g, ok := b.index.grant(id)
	if !ok || !isPrivileged(c) && !access.SamePerson(g.Requester, c.Name) {
		return access.Grant{}, cause
	}
	if err := own(g); err != nil {
		return access.Grant{}, err
	}
	now := b.Now()
	if earlier, ok := b.index.forcedBy(id); ok {
		if stepped, err := g.Step(earlier, now); err == nil {
			g = stepped
		}
	}
	out, err := g.Step(ev, now)
	if err != nil {
		return access.Grant{}, err
	}
	b.index.force(id, ev)
	b.spool(words(out))
	return out, nil
}

// spool keeps an entry that could not be recorded in time.
func (b *Broker) spool(e audit.Entry) {
	e.Late = true
	if b.cfg.Spool == nil {
		b.log.Error("an entry could not be recorded", "action", e.Action, "object", e.Object, "message", e.Message)
		return
	}
	if err := b.cfg.Spool.Add(e); err != nil {
		b.log.Error("an entry is kept in memory alone", "action", e.Action, "object", e.Object, "error", err)
	}
}

// Work is what has to be done now.
type Work struct {
	Open   []access.Grant // due to be opened
	Shut   []string       // places that hold something that must go
	Renew  []string       // places where a grant was lengthened
	Next   time.Time      // when to look again at the latest; zero: nothing is known to come
	NoOpen string         // why nothing may open
}

// Tick moves what time moves: requests expire, grants whose time is over begin to close, openings that came too late fail. It
// goes on as far as it can when the store cannot be written: what must be shut is returned all the same.
func (b *Broker) Tick(ctx context.Context) Work {
	now := b.Now()
	due, over, late, retry, forced, next := b.index.plan(now)
	w := Work{Next: next, NoOpen: b.Hold()}
	b.mu.Lock()
	w.Renew, b.renewed = b.renewed, nil
	b.mu.Unlock()
	var moves []Move
	for id, ev := range forced { // first: what a person did before the end is not taken for the end
		moves = append(moves, Move{ID: id, Event: ev})
	}
	for _, g := range over {
		moves = append(moves, Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonTimeOver}, Action: "grant.shut", Outcome: audit.Intent, Message: fmt.Sprintf("the time of %s is over: shutting %s to %s", g.ID, g.Target, g.Source)})
	}
	for _, g := range late {
		moves = append(moves, Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonNotOpened}, Action: "grant.open", Outcome: audit.Failed,
			Message: fmt.Sprintf("%s was not open %s after its start: given up. %s", g.ID, access.Duration(access.ActivationLimit), g.LastError)})
	}
	touched := append(append(over, late...), retry...)
	if len(moves) > 0 {
		gs, err := b.Apply(ctx, moves)
		if err != nil {
			if b.say(&b.saidOver, words(err), now) {
				b.log.Error("what is over could not be stored; it is shut all the same", "error", err, "grants", len(moves))
			}
		} else {
			b.say(&b.saidOver, "", now)
		}
		touched = append(touched, gs...)
	}
	for id := range forced {
		if g, ok := b.index.grant(id); ok {
			touched = append(touched, g)
		}
	}
	seen := map[string]bool{}
	for _, g := range touched {
		for _, p := range g.Places {
			if !seen[key(p.ID)] {
				seen[key(p.ID)] = true
				w.Shut = append(w.Shut, p.ID)
			}
		}
	}
	if w.NoOpen == "" {
		w.Open = due
	}
	if warn := b.ending(now); len(warn) > 0 && !b.StoreDown() {
		if _, err := b.Apply(ctx, warn); err != nil && ctx.Err() == nil {
			b.log.Warn("telling people that their time is nearly over", "error", err)
		}
	}
	b.housekeeping(ctx, now)
	b.remind(ctx, now)
	return w
}

// said is a trouble that was logged, and when. A trouble that goes on is logged again only now and then.
type said struct {
	what string
	at   time.Time
}

const sayAgain = 5 * time.Minute

// say tells whether a trouble is to be logged now: it is another one than before, or that was long ago. No trouble ("") is never
// logged, and makes the next one news.
func (b *Broker) say(s *said, what string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if what == s.what && (what == "" || now.Sub(s.at) < sayAgain) {
		return false
	}
	*s = said{what, now}
	return what != ""
}

// markEvery is how often the clock's mark is stored; between two marks the log's newest entry tells how late it has been.
const markEvery = time.Minute

// noticeRetention is how long notices that were delivered are kept, for those who ask whether they were.
const noticeRetention = 7 * 24 * time.Hour

// housekeeping does what is not urgent: unanswered requests expire, spooled entries are recorded, and the clock's mark is moved.
// It touches the store only when one of them is due.
func (b *Broker) housekeeping(ctx context.Context, now time.Time) {
	mark, expire := b.time.due(now)
	mark = mark || b.StoreDown() // try it: it may be back, and nothing opens until that is known
	drain := b.cfg.Spool != nil && b.cfg.Spool.Len() > 0
	if !mark && !expire && !drain {
		return
	}
	err := b.update(ctx, func(tx Tx) error {
		if mark && b.time.held() == "" {
			if err := tx.SetMeta(metaClock, now.Format(time.RFC3339Nano)); err != nil {
				return err
			}
			if err := tx.Forget(now.Add(-b.cfg.KeyRetention)); err != nil {
				return err
			}
			if err := tx.ForgetRecords(now); err != nil {
				return err
			}
			if err := tx.ForgetNotices(now.Add(-noticeRetention)); err != nil {
				return err
			}
		}
		if !expire {
			return nil
		}
		expired, err := tx.PendingExpired(now, 100)
		if err != nil {
			return err
		}
		for _, r := range expired {
			out, _, err := r.Step(access.ExpireEvent{}, now)
			if access.CodeOf(err) == access.CodeConflict {
				continue
			}
			if err != nil {
				return err
			}
			if err := tx.UpdateRequest(out); err != nil {
				return err
			}
			e, err := tx.Append(requestEntry(b.entry(system, "request.expire", audit.Done, "", "nobody answered %s of %s in time", out.ID, out.Requester), out))
			if err == nil {
				err = b.tellRequest(tx, notify.RequestExpired, e, out)
			}
			if err != nil {
				return err
			}
		}
		if len(expired) == 100 {
			b.time.expireAt(now)
			return nil
		}
		d, err := tx.Due()
		if err == nil {
			b.time.expireAt(d.Expiry)
		}
		return err
	})
	if err == nil {
		b.time.done(now, mark)
	}
	if err == nil && drain {
		err = b.cfg.Spool.Drain(func(es []audit.Entry) error {
			return b.update(ctx, func(tx Tx) error { return audit.RecordSpooled(tx, es) })
		})
	}
	if err == nil {
		b.say(&b.saidHousekeeping, "", now)
	} else if ctx.Err() == nil && b.say(&b.saidHousekeeping, err.Error(), now) { // not once a second
		b.log.Warn("housekeeping", "error", err)
	}
}

// Move is one event of one grant, with the words for the log; without an Action nothing is logged.
type Move struct {
	ID      access.GrantID
	Event   access.GrantEvent
	Action  string
	Outcome audit.Outcome
	Message string
	By      *access.Caller // who moves it; nil: the program itself
}

func (m Move) by() access.Caller {
	if m.By != nil {
		return *m.By
	}
	return system
}

// Apply stores moves of grants with their entries in one transaction, and returns the grants that changed. A move that the state
// does not allow any more is left out: whoever was first has decided.
func (b *Broker) Apply(ctx context.Context, moves []Move) ([]access.Grant, error) {
	if len(moves) == 0 {
		return nil, nil
	}
	var changed []access.Grant
	err := b.change(ctx, func(tx Tx) (_ []access.Grant, _ []access.Protection, err error) {
		changed, err = b.apply(tx, moves)
		return changed, nil, err
	})
	if err != nil {
		return nil, err
	}
	for _, m := range moves {
		if _, ok := m.Event.(access.ShutEvent); ok {
			b.index.unforce(m.ID) // it stands in the store now
		}
	}
	return changed, nil
}

// apply makes the moves in a transaction.
func (b *Broker) apply(tx Tx, moves []Move) (changed []access.Grant, err error) {
	now := b.Now()
	for _, m := range moves {
		g, err := tx.Grant(m.ID)
		if access.CodeOf(err) == access.CodeNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		next, err := g.Step(m.Event, now)
		if err != nil && access.CodeOf(err) != access.CodeConflict {
			return nil, err
		}
		if err != nil || reflect.DeepEqual(next, g) {
			changed = append(changed, g) // as it stands: the index may be behind
			continue
		}
		if err := b.putGrant(tx, g, next, audit.Entry{Actor: m.by().Name, Message: m.Message}); err != nil {
			return nil, err
		}
		next.Version++
		if m.Action != "" {
			if _, err := tx.Append(grantEntry(b.entry(m.by(), m.Action, m.Outcome, "", "%s", m.Message), next)); err != nil {
				return nil, err
			}
		}
		changed = append(changed, next)
	}
	return changed, nil
}

// ErrHeld stops an opening that must not be sent.
var ErrHeld = errors.New("openings are on hold")

// Begin fixes the windows of grants whose opening is about to be sent for the first time, with the places where it will stand,
// and records the intent. Nothing may be sent for a grant that it did not return as activating.
func (b *Broker) Begin(ctx context.Context, places map[access.GrantID][]access.Place) error {
	if h := b.Hold(); h != "" {
		return fmt.Errorf("%w: %s", ErrHeld, h)
	}
	var moves []Move
	for id, ps := range places {
		g, ok := b.index.grant(id)
		if !ok || g.State != access.Scheduled {
			continue
		}
		prot, _ := b.index.protection(g.Target.VM.ID)
		if _, ok := prot.Covers(g.Target.Ports, g.Target.Protocol); !ok { // switched off since the machine was confirmed
			moves = append(moves, Move{ID: id, Event: access.ShutEvent{Reason: access.ReasonUnprotected}, Action: "grant.open", Outcome: audit.Failed,
				Message: fmt.Sprintf("%s is not opened: port %s of %s is not protected any more", id, g.Target.Ports, g.Target.VM.Name)})
			continue
		}
		moves = append(moves, Move{ID: id, Event: access.OpeningEvent{Places: ps}, Action: "grant.open", Outcome: audit.Intent,
			Message: fmt.Sprintf("opening %s to %s for %s", g.Target, g.Source, g.Requester)})
	}
	_, err := b.Apply(ctx, moves)
	return err
}

// WantedAt returns the grants that should stand open at a place now, the protections with a part there, and the grants that
// have something there and should not.
func (b *Broker) WantedAt(place string) (open []access.Grant, over []access.Grant, shields []access.Protection) {
	now := b.Now()
	gs, ps := b.index.at(place)
	if b.Hold() != "" {
		for i := range ps {
			if ps[i].State == access.ProtectionRemoving { // a restored store may not know that it was switched on again
				ps[i].State = access.ProtectionPending
			}
		}
	}
	for _, g := range gs {
		if g.Wanted(now) && !b.index.isForced(g.ID) {
			open = append(open, g)
		} else if g.State != access.Scheduled {
			over = append(over, g)
		}
	}
	return open, over, ps
}

// Windows turns wanted grants into windows at one place.
func Windows(gs []access.Grant, place string) []enforce.Window {
	var out []enforce.Window
	for _, g := range gs {
		for _, p := range g.Places {
			if key(p.ID) == key(place) {
				out = append(out, enforce.Window{Grant: g.ID, VM: g.Target.VM, Destinations: p.Addresses, Ports: g.Target.Ports, Protocol: g.Target.Protocol, Source: g.Source, End: g.EndsAt.Truncate(time.Second)})
			}
		}
	}
	return out
}

// Live returns every grant that is not over.
func (b *Broker) Live() []access.Grant {
	var out []access.Grant
	b.index.each(func(g access.Grant) { out = append(out, g) })
	return out
}

// LiveGrant returns a grant that is not over.
func (b *Broker) LiveGrant(id access.GrantID) (access.Grant, bool) { return b.index.grant(id) }

// Forced tells whether a grant is to be shut although that could not be stored yet.
func (b *Broker) Forced(id access.GrantID) bool { return b.index.isForced(id) }

// Places returns every place that should hold something, by key.
func (b *Broker) Places() map[string]string {
	out := b.index.places()
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, id := range b.flushed {
		out[k] = id
	}
	return out
}

// Record adds an entry of the program itself; if the log cannot be written it is spooled.
func (b *Broker) Record(ctx context.Context, e audit.Entry) {
	if e.At.IsZero() {
		e.At = b.Now()
	}
	if e.Actor == "" {
		e.Actor = "curfew"
	}
	b.record(ctx, e)
}

func (b *Broker) record(ctx context.Context, e audit.Entry) {
	if err := b.update(ctx, func(tx Tx) error { _, err := tx.Append(e); return err }); err != nil {
		b.spool(e)
	}
}

// NoteSweep records when the last whole sweep ended.
func (b *Broker) NoteSweep(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastSweep = at
}

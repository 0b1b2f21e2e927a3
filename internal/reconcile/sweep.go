package reconcile

import (
	"context"
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
)

// sweepers is how many places a sweep looks at at once, of those where nothing has to be shut.
const sweepers = 8

// Sweep implements broker.Enforcer: it looks in all of Azure for rules of ours by name, not by the list of open grants, at every
// place where something should stand, and at every machine that is protected or open; and puts right what it finds. It is safe to
// run at any time; two at once follow one another.
func (r *Reconciler) Sweep(ctx context.Context) (broker.SweepReport, error) {
	select {
	case r.sweeping <- struct{}{}:
		defer func() { <-r.sweeping }()
	case <-ctx.Done():
		return broker.SweepReport{}, ctx.Err()
	}
	defer r.recover("sweep")
	b := r.cfg.Broker
	rep := broker.SweepReport{}
	held, unread, err := r.survey(ctx) // Azure first, the store after it
	if err != nil {
		r.noteAzure(err)
		rep.Unread = append(rep.Unread, words(err))
	}
	rep.Unread = append(rep.Unread, unread...)
	if rerr := b.Reload(ctx); rerr != nil {
		r.log.Error("reading what is live", "error", rerr)
	}
	denies, installation := 0, r.cfg.Installation
	for _, h := range held {
		if slices.ContainsFunc(h.Rules, func(r enforce.HeldRule) bool { return r.Kind == enforce.KindDeny && r.Installation == installation }) {
			denies++
		}
	}
	now := b.Now()
	isOver := func(rule enforce.HeldRule) bool {
		return rule.Kind == enforce.KindAllow && !rule.End.IsZero() && !now.Before(rule.End)
	}
	nerr := b.NoteShields(ctx, denies)
	if nerr == nil && err == nil {
		nerr = r.compare(ctx, held)
	}
	if nerr != nil {
		// Nothing that may be somebody's is removed on the word of a store that cannot be asked whose it is. What its own name says to
		// be over is (P2).
		for _, h := range held {
			if slices.ContainsFunc(h.Rules, isOver) {
				r.mark(h.Place, true, nil)
			}
		}
		return rep, nerr
	}
	places := b.Places()
	shut := map[string]bool{}
	for _, h := range held {
		k := key(h.Place)
		for _, rule := range h.Rules {
			over := isOver(rule)
			if rule.Installation == r.cfg.Installation || over {
				if places[k] == "" {
					shut[k] = true // nothing of ours should stand there at all
				}
				places[k] = h.Place
				shut[k] = shut[k] || over
			}
		}
	}
	r.mu.Lock()
	r.report = &rep
	r.mu.Unlock()
	// A place that takes long must not keep the sweep from the others, nor the next sweep from coming.
	patient, give := context.WithCancel(ctx)
	defer give()
	r.wg.Go(func() {
		select {
		case <-r.cfg.Clock.After(r.cfg.SweepEvery * 2 / 3):
			give()
		case <-patient.Done():
		}
	})
	look := func(k, id string) {
		ch := make(chan error, 1)
		r.mark(id, shut[k], ch)
		select {
		case <-ch: // what failed is in the report, and is tried again
		case <-patient.Done():
			r.mu.Lock()
			rep.Failed = append(rep.Failed, lastPart(id)+": still being worked on")
			r.mu.Unlock()
		}
	}
	// What has to be shut is begun at once. The others are looked at a few at a time, so that an opening does not find every slot taken.
	var few, all errgroup.Group
	few.SetLimit(sweepers)
	for k, id := range places {
		if shut[k] {
			all.Go(func() error { look(k, id); return nil })
		}
	}
	for k, id := range places {
		if !shut[k] {
			few.Go(func() error { look(k, id); return nil })
		}
	}
	_ = all.Wait()
	_ = few.Wait()
	give()
	r.mu.Lock()
	r.report = nil
	r.mu.Unlock()
	r.machines(ctx, &rep)
	rep.At, rep.Places = b.Now(), len(places)
	for _, g := range b.Live() {
		if g.State == access.Active || g.State == access.Activating {
			rep.Live++
		}
	}
	r.cfg.Metrics.Sweeps.Inc()
	if ctx.Err() == nil {
		b.NoteSweep(rep.At)
	}
	slices.Sort(rep.Closed)
	slices.Sort(rep.Repaired)
	return rep, ctx.Err()
}

// survey reads what of ours stands anywhere. A subscription that cannot be read is named, never taken for empty (P10).
func (r *Reconciler) survey(ctx context.Context) (held []enforce.Held, unread []string, err error) {
	subs, err := r.cfg.Subscriptions(ctx)
	if err != nil {
		return nil, nil, err
	}
	results := make([][]enforce.Held, len(subs))
	errs := make([]error, len(subs))
	var g errgroup.Group
	g.SetLimit(8)
	for i, sub := range subs {
		g.Go(func() error {
			results[i], errs[i] = r.cfg.Backend.Survey(ctx, sub)
			return nil
		})
	}
	_ = g.Wait()
	for i := range subs {
		held = append(held, results[i]...)
		if errs[i] != nil {
			unread = append(unread, "subscription "+subs[i]+": "+words(errs[i]))
			err = errs[i]
		}
	}
	if len(unread) < len(subs) || err == nil {
		r.noteAzure(nil)
	}
	return held, unread, nil
}

// machines looks at every machine that is protected or open: gone, re-created, moved to other groups or addresses, or let
// through by a rule of somebody else's.
func (r *Reconciler) machines(ctx context.Context, rep *broker.SweepReport) {
	b := r.cfg.Broker
	live, prots := b.Live(), b.Protections()
	if len(live) == 0 && len(prots) == 0 {
		if _, err := r.cfg.Inventory.Refresh(ctx); err != nil && ctx.Err() == nil {
			rep.Unread = append(rep.Unread, words(err))
		}
		return
	}
	s, err := r.cfg.Inventory.Refresh(ctx)
	if err != nil {
		r.noteAzure(err)
		rep.Unread = append(rep.Unread, words(err))
		return // nothing is concluded from what was not read
	}
	// The snapshot may be stale: whatever looks wrong in it is confirmed with the resource provider before anything follows.
	confirmed := map[string]*inventory.Snapshot{}
	look := func(id string, wrong func(*inventory.Snapshot, inventory.Machine, error) bool) (*inventory.Snapshot, inventory.Machine, error) {
		m, err := s.Find(id)
		if !wrong(s, m, err) {
			return s, m, err
		}
		c := confirmed[key(id)]
		if c == nil {
			fresh, cerr := r.cfg.Inventory.Confirm(ctx, id)
			if cerr != nil {
				return nil, inventory.Machine{}, cerr
			}
			c = fresh
			confirmed[key(id)] = c
		}
		m, err = c.Find(id)
		return c, m, err
	}
	for _, p := range prots {
		r.protection(ctx, p, look, rep)
	}
	var moves []broker.Move
	var again []access.GrantID
	touched := map[string]string{}
	for _, g := range live {
		if !g.State.Live() {
			continue
		}
		if g.State == access.Active && !g.Ready() {
			again = append(again, g.ID)
		}
		if g.EndReason != "" {
			continue
		}
		_, m, err := look(g.Target.VM.ID, func(_ *inventory.Snapshot, m inventory.Machine, err error) bool {
			return err != nil || recreated(g.Target.VM, m) || r.moved(m, g) != nil
		})
		switch {
		case access.CodeOf(err) == access.CodeNotFound:
			moves = append(moves, broker.Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonTargetGone}, Action: "grant.revoke", Outcome: audit.Done,
				Message: fmt.Sprintf("%s does not exist any more: %s is revoked", g.Target.VM.Name, g.ID)})
		case err != nil:
			rep.Unread = append(rep.Unread, g.Target.VM.Name+": "+words(err))
			continue
		case recreated(g.Target.VM, m):
			moves = append(moves, broker.Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonTargetChanged}, Action: "grant.revoke", Outcome: audit.Done,
				Message: fmt.Sprintf("%s was re-created under its id: %s is revoked", g.Target.VM.Name, g.ID)})
		default:
			places := r.moved(m, g)
			if places == nil {
				continue
			}
			moves = append(moves, broker.Move{ID: g.ID, Event: access.MovedEvent{Places: places}, Action: "grant.move", Outcome: audit.Intent,
				Message: fmt.Sprintf("the addresses or network security groups of %s changed: the rules of %s follow", g.Target.VM.Name, g.ID)})
			for _, p := range places {
				touched[key(p.ID)] = p.ID
			}
		}
		for _, p := range g.Places {
			touched[key(p.ID)] = p.ID
		}
	}
	if _, err := b.Apply(ctx, moves); err != nil {
		r.log.Error("storing what was found of machines", "error", err)
		return
	}
	for _, id := range touched {
		r.mark(id, true, nil)
	}
	if len(again) > 0 {
		r.verify(ctx, again)
	}
}

func recreated(was access.VM, m inventory.Machine) bool {
	return was.VMID != "" && m.VMID != "" && !strings.EqualFold(was.VMID, m.VMID)
}

// moved returns where a grant has to stand now, or nil if that is where it stands.
func (r *Reconciler) moved(m inventory.Machine, g access.Grant) []access.Place {
	places, err := r.cfg.Backend.Locate(m, g.Target.Ports, g.Target.Protocol)
	if err != nil || samePlaces(places, g.Places) {
		return nil // without any place there is nothing to follow; the protection's check says so
	}
	return places
}

func samePlaces(a, b []access.Place) bool {
	if len(a) != len(b) {
		return false
	}
	for _, p := range a {
		if !slices.ContainsFunc(b, func(q access.Place) bool {
			if key(p.ID) != key(q.ID) || len(p.Addresses) != len(q.Addresses) {
				return false
			}
			for _, x := range p.Addresses {
				if !slices.Contains(q.Addresses, x) {
					return false
				}
			}
			return true
		}) {
			return false
		}
	}
	return true
}

type looker func(id string, wrong func(*inventory.Snapshot, inventory.Machine, error) bool) (*inventory.Snapshot, inventory.Machine, error)

// pendingLimit is how long a protection may be on its way before the reconciler takes it up: its caller may have crashed.
const pendingLimit = time.Minute

func (r *Reconciler) protection(ctx context.Context, p access.Protection, look looker, rep *broker.SweepReport) {
	b := r.cfg.Broker
	if p.State == access.ProtectionRemoving {
		r.remove(ctx, p)
		return
	}
	if p.State == access.ProtectionPending && b.Now().Sub(p.At) < pendingLimit && b.Now().After(p.At) {
		return
	}
	relocate := func(m inventory.Machine) (access.Protection, bool) {
		q, err := b.Locate(m, p)
		if err != nil {
			return p, false
		}
		same := samePlaces(q.Places, p.Places)
		for i := range q.Ports {
			same = same && samePlaces(q.Ports[i].Places, p.Ports[i].Places)
		}
		return q, !same
	}
	_, m, err := look(p.VM.ID, func(s *inventory.Snapshot, m inventory.Machine, err error) bool {
		if err != nil || recreated(p.VM, m) || p.State != access.ProtectionOn || len(m.NSGs()) == 0 {
			return true
		}
		if _, moved := relocate(m); moved {
			return true
		}
		return b.Exposed(s, m, p)
	})
	set := func(state access.ProtectionState, why, msg string) {
		if p.State == state && p.Why == why {
			return
		}
		uerr := b.UpdateProtection(ctx, p.VM.ID, func(cur access.Protection) (access.Protection, string) {
			if !cur.Shields() || cur.Version != p.Version {
				return cur, "" // somebody changed it meanwhile
			}
			cur.State, cur.Why, cur.CheckedAt = state, why, b.Now()
			return cur, msg
		})
		if uerr != nil {
			r.log.Error("storing what was found of a protection", "vm", p.VM.Name, "error", uerr)
		}
	}
	switch {
	case access.CodeOf(err) == access.CodeNotFound:
		set(access.ProtectionFailed, "the machine does not exist any more", fmt.Sprintf("%s is protected, and does not exist any more", p.VM.Name))
		return
	case err != nil:
		rep.Unread = append(rep.Unread, p.VM.Name+": "+words(err))
		return
	case len(m.NSGs()) == 0:
		set(access.ProtectionFailed, "it has no network security group any more", fmt.Sprintf("%s has no network security group any more: nothing keeps its ports shut", p.VM.Name))
		return
	}
	if q, moved := relocate(m); moved || recreated(p.VM, m) {
		msg := fmt.Sprintf("the addresses or network security groups of %s changed: its shields follow", p.VM.Name)
		if recreated(p.VM, m) {
			msg = fmt.Sprintf("%s was re-created under its id: its shields stay", p.VM.Name)
		}
		old := p.Places
		uerr := b.UpdateProtection(ctx, p.VM.ID, func(cur access.Protection) (access.Protection, string) {
			if !cur.Shields() || cur.Version != p.Version {
				return cur, ""
			}
			cur.Ports, cur.Places, cur.VM.VMID = q.Ports, q.Places, m.VMID
			p = cur
			p.Version++
			return cur, msg
		})
		if uerr != nil {
			r.log.Error("storing where a protection stands", "vm", p.VM.Name, "error", uerr)
			return
		}
		var ids []string
		for _, pl := range slices.Concat(old, q.Places) {
			ids = append(ids, pl.ID)
		}
		r.SyncNow(ctx, ids)
	} else if p.State == access.ProtectionOn {
		if s, m, err := look(p.VM.ID, func(*inventory.Snapshot, inventory.Machine, error) bool { return false }); err == nil && !b.Exposed(s, m, p) {
			return
		}
	}
	checked, err := b.Verify(ctx, p)
	if err != nil {
		rep.Unread = append(rep.Unread, p.VM.Name+": "+words(err))
		return
	}
	msg := fmt.Sprintf("%s is shut again", p.VM.Name)
	if checked.State == access.ProtectionFailed {
		msg = fmt.Sprintf("%s is not shut: %s", p.VM.Name, checked.Why)
		rep.Failed = append(rep.Failed, msg)
	}
	set(checked.State, checked.Why, msg)
}

// remove finishes switching a protection off that a crash interrupted.
func (r *Reconciler) remove(ctx context.Context, p access.Protection) {
	b := r.cfg.Broker
	if b.Hold() != "" || b.Now().Sub(p.At) < pendingLimit && b.Now().After(p.At) {
		return
	}
	var ids []string
	for _, pl := range p.Places {
		ids = append(ids, pl.ID)
	}
	for _, err := range r.SyncNow(ctx, ids) {
		if err != nil {
			return // tried again in the next sweep
		}
	}
	err := b.UpdateProtection(ctx, p.VM.ID, func(cur access.Protection) (access.Protection, string) {
		if cur.State != access.ProtectionRemoving {
			return cur, ""
		}
		cur.State, cur.Why = access.ProtectionRemoved, ""
		return cur, fmt.Sprintf("%s is not protected any more", p.VM.Name)
	})
	if err != nil {
		r.log.Error("storing that a protection is off", "vm", p.VM.Name, "error", err)
	}
}

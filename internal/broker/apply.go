package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// Protect implements Service.
func (b *Broker) Protect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error) {
	action := protectAction(in)
	if err := b.need(ctx, c, action, strings.Join(in.VMs, ","), access.Admin); err != nil {
		return ProtectPlan{}, err
	}
	unlock, err := b.lockVMs(ctx, in)
	if err != nil {
		return ProtectPlan{}, err
	}
	defer unlock()
	ch, err := b.planChange(ctx, c, in)
	if err != nil {
		return ch.plan, b.refuse(ctx, c, action, strings.Join(in.VMs, ","), err)
	}
	if in.Digest != "" && in.Digest != ch.plan.Digest {
		return ch.plan, access.Errorf(access.CodePlanChanged, "what would be done now is not what was shown: something changed in Azure meanwhile").
			WithHint("look at the new plan and confirm it")
	}
	if in.Off && b.Hold() != "" { // what shuts a port would be taken away on the word of a store that may be wrong
		return ch.plan, b.refuse(ctx, c, action, strings.Join(in.VMs, ","), b.heldError())
	}
	for _, vp := range ch.plan.VMs {
		if vp.Error != "" { // P4: better nothing than a protection that something bypasses
			code := vp.code
			if code == "" {
				code = access.CodeConflict
			}
			return ch.plan, access.Errorf(code, "%s: %s; nothing was changed", vp.VM.Name, vp.Error).WithHint("%s", vp.Hint)
		}
	}
	ctx = context.WithoutCancel(ctx) // half a protection is worse than a late answer
	if len(ch.create) > 0 {
		if err := b.createPlaces(ctx, c, &ch); err != nil {
			return ch.plan, err
		}
	}
	if err := b.intend(ctx, c, action, &ch); err != nil {
		return ch.plan, err
	}
	return b.settle(ctx, c, action, ch, b.enf.SyncNow(ctx, ch.places))
}

// lockVMs keeps two changes of one machine's protection from crossing.
func (b *Broker) lockVMs(ctx context.Context, in ProtectInput) (func(), error) {
	ids := map[string]string{}
	for _, ref := range in.VMs {
		m, err := b.machine(ctx, ref, in.Off)
		if err != nil {
			return nil, err
		}
		ids[key(m.ID)] = m.Name
	}
	var held []chan struct{}
	unlock := func() {
		for _, ch := range held {
			<-ch
		}
	}
	for _, k := range sortedKeys(ids) { // always in the same order
		v, _ := b.locks.LoadOrStore(k, make(chan struct{}, 1))
		ch := v.(chan struct{})
		select {
		case ch <- struct{}{}:
			held = append(held, ch)
		case <-ctx.Done():
			unlock()
			return nil, access.Errorf(access.CodeTimeout, "another change of the protection of %s is still under way", ids[k]).WithHint("try again when it is done").Wrap(ctx.Err())
		}
	}
	return unlock, nil
}

// createPlaces makes the groups that were planned. The machines are read again: where their rules stand is known only now.
func (b *Broker) createPlaces(ctx context.Context, c access.Caller, ch *change) error {
	cr := b.cfg.Backend.(creator) // it has planned them
	for _, m := range ch.create {
		note := func(o audit.Outcome, format string, args ...any) error {
			e := b.entry(c, "nsg.create", o, m.ID, format, args...)
			e.VM = m.Name
			return b.update(ctx, func(tx Tx) error { _, err := tx.Append(e); return err })
		}
		if err := note(audit.Intent, "creating a network security group for %s", m.Name); err != nil {
			return err
		}
		id, err := cr.CreatePlace(ctx, m)
		if err != nil {
			_ = note(audit.Failed, "no network security group was created for %s: %s", m.Name, words(err))
			return b.explain(err)
		}
		if err := note(audit.Done, "%s is on %s, made for it", lastPart(id), m.Name); err != nil {
			return err
		}
		s, err := b.cfg.Inventory.Confirm(ctx, m.ID)
		if err != nil {
			return err
		}
		fresh, err := s.Find(m.ID)
		if err != nil {
			return err
		}
		for i := range ch.prots {
			p := &ch.prots[i]
			if !access.SameVM(p.VM.ID, m.ID) {
				continue
			}
			if err := b.locate(fresh, p); err != nil {
				return err
			}
			for _, pl := range p.Places {
				if !slices.ContainsFunc(ch.places, func(id string) bool { return key(id) == key(pl.ID) }) {
					ch.places = append(ch.places, pl.ID)
				}
			}
		}
	}
	// What was read of everything before knows nothing of the groups; what they mean there is asked while rules are placed.
	_, err := b.cfg.Inventory.Refresh(ctx)
	return err
}

// intend stores what shall be, with its entries; switching off also revokes what is open, in the same transaction. Nothing is
// written to Azure before.
func (b *Broker) intend(ctx context.Context, c access.Caller, action string, ch *change) error {
	return b.change(ctx, func(tx Tx) (grants []access.Grant, stored []access.Protection, err error) {
		for _, p := range ch.prots {
			cur, err := tx.Protection(p.VM.ID)
			switch {
			case err == nil:
				p.Version, p.Replaced = cur.Version, nil
				if cur.State != access.ProtectionRemoved {
					p.Replaced = cur.Replaced // Keep may have added originals since the plan was made (P3)
				}
			case access.CodeOf(err) == access.CodeNotFound:
				p.Version, p.Replaced = 0, nil
			default:
				return nil, nil, err
			}
			if err := tx.PutProtection(p); err != nil {
				return nil, nil, err
			}
			p.Version++
			stored = append(stored, p)
			if err := b.noteProtection(tx, c, action, audit.Intent, p); err != nil {
				return nil, nil, err
			}
			if p.State != access.ProtectionRemoving {
				continue
			}
			var moves []Move
			b.index.each(func(g access.Grant) {
				if access.SameVM(g.Target.VM.ID, p.VM.ID) && g.EndReason == "" {
					moves = append(moves, Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonUnprotected, By: c.Name}, Action: "grant.revoke", Outcome: audit.Done, By: &c,
						Message: fmt.Sprintf("%s switches the protection of %s off: %s is revoked", c.Name, p.VM.Name, g.ID)})
					for _, pl := range g.Places {
						if !slices.ContainsFunc(ch.places, func(id string) bool { return key(id) == key(pl.ID) }) {
							ch.places = append(ch.places, pl.ID)
						}
					}
				}
			})
			slices.SortFunc(moves, func(a, b Move) int { return strings.Compare(string(a.ID), string(b.ID)) })
			changed, err := b.apply(tx, moves)
			if err != nil {
				return nil, nil, err
			}
			grants = append(grants, changed...)
		}
		return grants, stored, nil
	})
}

// noteProtection appends the entry of a change of protection.
func (b *Broker) noteProtection(tx Tx, c access.Caller, action string, o audit.Outcome, p access.Protection) error {
	var ports []string
	for _, q := range p.Ports {
		ports = append(ports, q.Ports.String()+"/"+string(q.Protocol))
	}
	verb := "protecting"
	if action == "protection.off" {
		verb = "unprotecting"
	}
	msg := fmt.Sprintf("%s %s on %s", verb, p.VM.Name, strings.Join(ports, ", "))
	if o != audit.Intent {
		msg += ": " + string(p.State)
		if p.Why != "" {
			msg += ", " + p.Why
		}
	}
	e := b.entry(c, action, o, p.VM.ID, "%s", msg)
	e.VM = p.VM.Name
	for _, r := range p.Consents {
		e = detail(e, "consent:"+lastPart(r.NSG)+"/"+r.Rule, "yes")
	}
	for _, x := range p.Exemptions {
		e = detail(e, "exempt:"+x.Source, x.Name)
	}
	_, err := tx.Append(e)
	return err
}

// settle reads the machines again after the writes and stores what became of their protection (P4).
func (b *Broker) settle(ctx context.Context, c access.Caller, action string, ch change, errs map[string]error) (ProtectPlan, error) {
	var firstErr error
	fail := func(err error) {
		if firstErr == nil && err != nil {
			firstErr = err
		}
	}
	for i := range ch.prots {
		p := &ch.prots[i]
		var syncErr error
		for _, pl := range p.Places {
			if err := errs[key(pl.ID)]; err != nil {
				syncErr = b.explain(err)
			}
		}
		if p.State == access.ProtectionRemoving {
			if syncErr != nil {
				p.Why = words(syncErr)
				fail(access.Errorf(access.CodeAzureUnavailable, "the rules for %s could not be removed yet: %s", p.VM.Name, p.Why).
					WithHint("the server goes on trying; see how far it is with: curfew vm show %s", p.VM.Name).Wrap(syncErr))
			} else if err := b.unrestored(ctx, *p); err != nil {
				p.Why = words(err)
				fail(err)
			} else {
				p.State = access.ProtectionRemoved
			}
		} else {
			verr := b.verify(ctx, p)
			if p.State != access.ProtectionOn && syncErr != nil {
				p.Why = words(syncErr)
				fail(syncErr)
			}
			fail(verr)
			if p.State != access.ProtectionOn {
				fail(access.Errorf(access.CodeConflict, "%s is not shut: %s", p.VM.Name, p.Why).WithHint("see what decides with: curfew vm show %s", p.VM.Name))
			}
		}
		if vp := b.planOf(&ch.plan, p.VM.ID); vp != nil {
			vp.State = string(p.State)
			if p.State != access.ProtectionOn && p.State != access.ProtectionRemoved {
				vp.Error = p.Why
			}
		}
	}
	o := audit.Done
	if firstErr != nil {
		o = audit.Failed
	}
	err := b.change(ctx, func(tx Tx) (_ []access.Grant, stored []access.Protection, err error) {
		for _, p := range ch.prots {
			cur, err := tx.Protection(p.VM.ID)
			if err != nil {
				return nil, nil, err
			}
			if p.State == access.ProtectionRemoved {
				heirs, err := b.bequeath(tx, cur)
				if err != nil {
					return nil, nil, err
				}
				stored = append(stored, heirs...)
				cur.Replaced = nil
			}
			// The rest may have been brought up to date meanwhile: places that moved, originals that are kept.
			cur.VM, cur.State, cur.Why, cur.CheckedAt = p.VM, p.State, p.Why, p.CheckedAt
			if err := tx.PutProtection(cur); err != nil {
				return nil, nil, err
			}
			cur.Version++
			stored = append(stored, cur)
			if err := b.noteProtection(tx, c, action, o, cur); err != nil {
				return nil, nil, err
			}
		}
		return nil, stored, nil
	})
	fail(err)
	ch.plan.Applied = true
	return ch.plan, firstErr
}

func (b *Broker) planOf(p *ProtectPlan, vmID string) *VMPlan {
	for i := range p.VMs {
		if access.SameVM(p.VMs[i].VM.ID, vmID) {
			return &p.VMs[i]
		}
	}
	return nil
}

// bequeath hands the originals that a protection keeps to others that still need those rules out of the way.
func (b *Broker) bequeath(tx Tx, p access.Protection) (heirs []access.Protection, err error) {
	for _, r := range p.Replaced {
		others, err := tx.ProtectionsAt(r.NSG)
		if err != nil {
			return nil, err
		}
		for _, q := range others {
			if access.SameVM(q.VM.ID, p.VM.ID) || !q.Shields() || !consents(q, r) || keeps(q, r) {
				continue
			}
			q.Replaced = append(slices.Clone(q.Replaced), r)
			if err := tx.PutProtection(q); err != nil {
				return nil, err
			}
			q.Version++
			heirs = append(heirs, q)
			break
		}
	}
	return heirs, nil
}

func consents(p access.Protection, r access.Replacement) bool {
	return slices.ContainsFunc(p.Consents, func(c access.RuleRef) bool { return sameRule(c, access.RuleRef{NSG: r.NSG, Rule: r.Rule}) })
}

func keeps(p access.Protection, r access.Replacement) bool {
	return slices.ContainsFunc(p.Replaced, func(o access.Replacement) bool {
		return sameRule(access.RuleRef{NSG: o.NSG, Rule: o.Rule}, access.RuleRef{NSG: r.NSG, Rule: r.Rule})
	})
}

// unrestored tells why a rule that a protection keeps aside could not be put back, and can be once somebody has cleared the way:
// its original is kept until then (P3). What somebody else has decided about the rule since is theirs: it is recorded with the
// original, and left.
func (b *Broker) unrestored(ctx context.Context, p access.Protection) error {
	seen := map[string]bool{}
	for _, r := range p.Replaced {
		if seen[key(r.NSG)] {
			continue
		}
		seen[key(r.NSG)] = true
		res, err := b.cfg.Backend.Sync(ctx, r.NSG, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			return b.wantedWith(r.NSG, map[string]access.Protection{key(p.VM.ID): p}, nil), nil
		}})
		if err != nil {
			return b.explain(err)
		}
		for _, pr := range res.Problems {
			o, ok := keptAside(p, pr)
			if !ok {
				continue
			}
			if !pr.Theirs {
				return access.Errorf(access.CodeConflict, "%s is not unprotected yet: %s", p.VM.Name, pr.Message).WithHint("%s", pr.Hint)
			}
			e := audit.Entry{At: b.Now(), Actor: system.Name, Action: "rule.restore", Outcome: audit.Failed, Object: o.NSG + "/" + o.Rule, VM: p.VM.Name, Message: pr.Message}
			b.record(ctx, detail(e, "original", string(o.Original)))
		}
	}
	return nil
}

// verify reads a machine again and sets the protection's state by the effective verdict (P4). It stores nothing.
func (b *Broker) verify(ctx context.Context, p *access.Protection) error {
	s, err := b.cfg.Inventory.Confirm(ctx, p.VM.ID)
	if err != nil {
		p.State, p.Why = access.ProtectionFailed, "it could not be read again: "+words(err)
		return err
	}
	m, err := s.Find(p.VM.ID)
	if err != nil {
		p.State, p.Why = access.ProtectionFailed, words(err)
		return err
	}
	p.VM, p.CheckedAt = vmOf(m), b.Now()
	if left := b.exposures(s, m, p.Ports, p.Exemptions); len(left) > 0 {
		p.State, p.Why = access.ProtectionFailed, stillReachable(left[0])
		return nil
	}
	p.State, p.Why = access.ProtectionOn, ""
	return nil
}

// Keep stores the originals of foreign rules that are about to be set aside, before that is written (P3).
func (b *Broker) Keep(ctx context.Context, place string, originals []access.Replacement) error {
	return b.change(ctx, func(tx Tx) (_ []access.Grant, stored []access.Protection, err error) {
		prots, err := tx.ProtectionsAt(place)
		if err != nil {
			return nil, nil, err
		}
		for _, o := range originals {
			i := slices.IndexFunc(prots, func(p access.Protection) bool { return p.Shields() && consents(p, o) })
			if i < 0 {
				return nil, nil, access.Errorf(access.CodeDenied, "nobody consented to replace rule %s of %s", o.Rule, lastPart(o.NSG)).
					WithHint("consent with: curfew protect VM --replace-rule %s/%s", lastPart(o.NSG), o.Rule)
			}
			p := &prots[i]
			if keeps(*p, o) {
				continue // the first original is the one to go back to
			}
			o.By = p.By
			p.Replaced = append(p.Replaced, o)
			if err := tx.PutProtection(*p); err != nil {
				return nil, nil, err
			}
			p.Version++
			stored = append(stored, *p)
			e := audit.Entry{At: b.Now(), Actor: p.By, Action: "rule.replace", Outcome: audit.Intent, Object: o.NSG + "/" + o.Rule, VM: p.VM.Name,
				Message: fmt.Sprintf("%s consented to replace %s/%s; the original is kept", p.By, lastPart(o.NSG), o.Rule)}
			if _, err := tx.Append(detail(e, "original", string(o.Original))); err != nil {
				return nil, nil, err
			}
		}
		return nil, stored, nil
	})
}

// Protections returns every protection that is not off.
func (b *Broker) Protections() []access.Protection { return b.index.protections() }

// UpdateProtection stores what the reconciler found out about a protection: a new verdict, new places, or that it is off. It is
// not off before everything that was set aside for it is back.
func (b *Broker) UpdateProtection(ctx context.Context, vmID string, fn func(access.Protection) (access.Protection, string)) error {
	why := ""
	if p, ok := b.index.protection(vmID); ok && p.State == access.ProtectionRemoving {
		if err := b.unrestored(ctx, p); err != nil {
			why = words(err)
		}
	}
	return b.change(ctx, func(tx Tx) (_ []access.Grant, stored []access.Protection, err error) {
		p, err := tx.Protection(vmID)
		if err != nil {
			return nil, nil, err
		}
		next, msg := fn(p)
		if next.State == access.ProtectionRemoved && why != "" {
			if next, msg = p, why; p.Why == why {
				msg = "" // said already
			}
			next.Why = why
		}
		if msg == "" && next.State == p.State {
			return nil, nil, nil
		}
		next.Version = p.Version
		if next.State == access.ProtectionRemoved {
			if stored, err = b.bequeath(tx, p); err != nil {
				return nil, nil, err
			}
			next.Replaced = nil
		}
		if err := tx.PutProtection(next); err != nil {
			return nil, nil, err
		}
		next.Version++
		stored = append(stored, next)
		if msg == "" {
			return nil, stored, nil
		}
		e := b.entry(system, "protection.check", audit.Done, p.VM.ID, "%s", msg)
		e.VM = p.VM.Name
		_, err = tx.Append(detail(e, "state", string(next.State)))
		return nil, stored, err
	})
}

// Verify judges a protection as Azure stands now; the reconciler calls it after writes and in sweeps.
func (b *Broker) Verify(ctx context.Context, p access.Protection) (access.Protection, error) {
	err := b.verify(ctx, &p)
	return p, err
}

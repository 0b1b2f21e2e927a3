package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// creator is what a back end can that makes a place where there is none.
type creator interface {
	// PlanPlace says what CreatePlace would do for the machine.
	PlanPlace(m inventory.Machine) (enforce.Change, error)
	CreatePlace(ctx context.Context, m inventory.Machine) (string, error)
}

// change is a protection change that has been planned.
type change struct {
	plan   ProtectPlan
	prots  []access.Protection // as they shall be stored
	places []string
	create []inventory.Machine
	snaps  map[string]*inventory.Snapshot // by VM key, as confirmed
}

// PlanProtect implements Service.
func (b *Broker) PlanProtect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error) {
	if err := b.need(ctx, c, protectAction(in), strings.Join(in.VMs, ","), access.Admin); err != nil {
		return ProtectPlan{}, err
	}
	ch, err := b.planChange(ctx, c, in)
	return ch.plan, err
}

func protectAction(in ProtectInput) string {
	if in.Off {
		return "protection.off"
	}
	return "protection.on"
}

func (b *Broker) planChange(ctx context.Context, c access.Caller, in ProtectInput) (change, error) {
	ch := change{snaps: map[string]*inventory.Snapshot{}}
	if len(in.VMs) == 0 {
		return ch, access.Errorf(access.CodeInvalid, "no machine was named")
	}
	for i := range in.Ports {
		p := &in.Ports[i]
		if p.Protocol == "" {
			p.Protocol = access.TCP
		}
		if !p.Ports.Valid() {
			return ch, &access.Error{Code: access.CodeInvalid, Field: "port", Message: "a port is missing or out of range: ports run from 1 to 65535"}
		}
		if p.Max != 0 && (p.Max < access.MinDuration || p.Max > access.AbsoluteMax) {
			return ch, &access.Error{Code: access.CodeInvalid, Field: "max", Message: fmt.Sprintf("longest access time %s is not between %s and %s",
				access.Duration(p.Max), access.Duration(access.MinDuration), access.Duration(access.AbsoluteMax))}
		}
	}
	type item struct {
		m    inventory.Machine
		snap *inventory.Snapshot
	}
	items := make([]item, len(in.VMs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, ref := range in.VMs {
		_, m, err := b.find(ctx, ref)
		if err != nil {
			return ch, err
		}
		for j := range i {
			if access.SameVM(items[j].m.ID, m.ID) {
				return ch, access.Errorf(access.CodeInvalid, "%s is named twice", m.Name)
			}
		}
		items[i].m = m
		g.Go(func() error { // confirmed with the resource provider before anything is planned
			s, err := b.cfg.Inventory.Confirm(gctx, m.ID)
			if err != nil {
				if in.Off && access.CodeOf(err) == access.CodeNotFound {
					return nil
				}
				return err
			}
			fresh, err := s.Find(m.ID)
			if err != nil {
				return err
			}
			items[i].m, items[i].snap = fresh, s
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return ch, err
	}
	wanted := map[string]access.Protection{} // VM key -> as it would be
	places := map[string]string{}
	envs := map[string]*inventory.Snapshot{}
	for _, it := range items {
		vp := VMPlan{VM: vmOf(it.m), Group: it.m.Group}
		old, have := b.index.protection(it.m.ID)
		var p access.Protection
		var err error
		if in.Off {
			p, err = b.planOff(it.m, old, have, &vp)
		} else {
			p, err = b.planOn(it.m, it.snap, old, in, &vp, &ch)
		}
		if err != nil {
			var ae *access.Error
			if !errors.As(err, &ae) {
				return ch, err
			}
			vp.Error, vp.Hint = ae.Message, ae.Hint
			ch.plan.VMs = append(ch.plan.VMs, vp)
			if len(items) == 1 {
				return ch, err
			}
			continue
		}
		p.By, p.At, p.VM = c.Name, b.Now(), vmOf(it.m)
		if in.Off && it.snap == nil {
			p.VM = old.VM
		}
		wanted[key(it.m.ID)] = p
		ch.prots = append(ch.prots, p)
		for _, pl := range slices.Concat(p.Places, old.Places) {
			places[key(pl.ID)] = pl.ID
		}
		if it.snap != nil {
			ch.snaps[key(it.m.ID)] = it.snap
			for _, id := range it.m.NSGs() {
				envs[key(id)] = it.snap
			}
		}
		ch.plan.VMs = append(ch.plan.VMs, vp)
	}
	results := map[string]enforce.Result{}
	for _, k := range sortedKeys(places) {
		id := places[k]
		ch.places = append(ch.places, id)
		res, err := b.cfg.Backend.Sync(ctx, id, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			return b.wantedWith(id, wanted, envs[k]), nil
		}})
		if err != nil {
			return ch, err
		}
		results[k] = res
		ch.plan.Changes = append(ch.plan.Changes, res.Changes...)
		ch.plan.Problems = append(ch.plan.Problems, res.Problems...)
	}
	for i := range ch.plan.VMs {
		vp := &ch.plan.VMs[i]
		s := ch.snaps[key(vp.VM.ID)]
		if s == nil || vp.Error != "" {
			continue
		}
		m, err := s.Find(vp.VM.ID)
		if err != nil {
			return ch, err
		}
		after := s
		for _, id := range m.NSGs() {
			if r, ok := results[key(id)]; ok && r.Snapshot != nil {
				after = r.Snapshot(after)
			}
		}
		vp.Before = b.exposures(s, m, vp.Ports)
		am, err := after.Find(vp.VM.ID)
		if err != nil {
			return ch, err
		}
		vp.After = b.exposures(after, am, vp.Ports)
		vp.Loses = loses(vp.Before, vp.After)
		if !in.Off {
			for _, e := range vp.After {
				vp.Error = fmt.Sprintf("port %s would still be reachable from %s by %s", e.Ports, e.From, e.Rule)
				if e.Unknown != "" {
					vp.Error = fmt.Sprintf("port %s could not be judged from %s: %s", e.Ports, e.From, e.Unknown)
				}
				for _, pr := range ch.plan.Problems {
					if pr.VM == "" || access.SameVM(pr.VM, vp.VM.ID) {
						vp.Hint = pr.Hint
					}
				}
				if vp.Hint == "" {
					vp.Hint = "change that rule, or its security admin configuration, and protect again"
				}
				break
			}
		}
	}
	// The digest binds a confirmation to what was shown: machines, changes and what stays reachable, not when it was computed.
	raw, err := json.Marshal(struct {
		Off bool
		V   []VMPlan
		C   []enforce.Change
		P   []enforce.Problem
	}{in.Off, ch.plan.VMs, ch.plan.Changes, ch.plan.Problems})
	if err != nil {
		return ch, err
	}
	sum := sha256.Sum256(raw)
	ch.plan.Digest = hex.EncodeToString(sum[:8])
	return ch, nil
}

func (b *Broker) planOff(m inventory.Machine, old access.Protection, have bool, vp *VMPlan) (access.Protection, error) {
	if !have || old.State == access.ProtectionRemoving {
		return old, access.Errorf(access.CodeNotProtected, "%s is not protected", m.Name).WithHint("see what is with: curfew vm list")
	}
	vp.Ports, vp.Exemptions = old.Ports, old.Exemptions
	b.index.each(func(g access.Grant) {
		if access.SameVM(g.Target.VM.ID, m.ID) {
			vp.Grants = append(vp.Grants, g.ID)
		}
	})
	slices.Sort(vp.Grants)
	p := old
	p.State = access.ProtectionRemoving
	return p, nil
}

func (b *Broker) planOn(m inventory.Machine, s *inventory.Snapshot, old access.Protection, in ProtectInput, vp *VMPlan, ch *change) (access.Protection, error) {
	why := s.UnprotectableReason(m)
	if why != "" && len(m.NSGs()) == 0 && in.CreateNSG {
		if cr, ok := b.cfg.Backend.(creator); ok {
			line, err := cr.PlanPlace(m)
			if err != nil {
				return old, err
			}
			ch.create = append(ch.create, m)
			ch.plan.Changes = append(ch.plan.Changes, line)
			why = ""
		}
	}
	if why != "" {
		e := access.Errorf(access.CodeUnprotectable, "%s cannot be protected as it stands: %s", m.Name, why)
		if len(m.NSGs()) == 0 && m.ManagedBy == "" {
			e = e.WithHint("add --create-nsg to make a network security group for it; the plan shows it first")
		}
		return old, e
	}
	ports := in.Ports
	if len(ports) == 0 {
		ports = []access.ProtectedPort{{Ports: DefaultPorts(m.OS), Protocol: access.TCP}}
	}
	p := access.Protection{Ports: slices.Clone(ports), State: access.ProtectionPending, Consents: slices.Clone(old.Consents), Replaced: old.Replaced, Version: old.Version}
	if old.Shields() { // protecting more ports adds to what is protected
		for _, q := range old.Ports {
			if !slices.ContainsFunc(p.Ports, func(n access.ProtectedPort) bool { return n.Protocol == q.Protocol && n.Ports.Overlaps(q.Ports) }) {
				p.Ports = append(p.Ports, q)
			}
		}
		p.Exemptions = old.Exemptions
	}
	if len(in.Exemptions) > 0 {
		p.Exemptions = in.Exemptions
	} else if !old.Shields() && !in.NoExempt {
		for _, bastion := range s.Bastions(m) {
			p.Exemptions = append(p.Exemptions, access.Exemption{Name: "bastion", Source: bastion.String()})
		}
		for _, q := range p.Ports {
			if s.Probed(m, q.Ports.First) {
				p.Exemptions = append(p.Exemptions, access.Exemption{Name: "probe", Source: "AzureLoadBalancer"})
				break
			}
		}
	}
	for _, e := range p.Exemptions {
		if _, err := access.ParseSource(e.Source); err != nil && !strings.EqualFold(e.Source, "AzureLoadBalancer") {
			return old, access.Errorf(access.CodeInvalid, "exemption %q: source %q is neither an address, a prefix nor AzureLoadBalancer", e.Name, e.Source)
		}
	}
	for _, ref := range in.Replace {
		nsg, rule, ok := strings.Cut(ref, "/")
		if i := strings.LastIndex(ref, "/"); ok && strings.HasPrefix(ref, "/") {
			nsg, rule = ref[:i], ref[i+1:]
		}
		if !ok || nsg == "" || rule == "" {
			return old, access.Errorf(access.CodeInvalid, "%q does not name a rule", ref).WithHint("write it as NSG/RULE, for example --replace-rule web-nsg/allow-ssh")
		}
		var ids []string
		for _, id := range m.NSGs() {
			if strings.EqualFold(id, nsg) || strings.EqualFold(lastPart(id), nsg) {
				ids = append(ids, id)
			}
		}
		if len(ids) != 1 {
			if len(in.VMs) > 1 && len(ids) == 0 {
				continue // it concerns another of the machines
			}
			return old, access.Errorf(access.CodeNotFound, "%s has no network security group %q in its path", m.Name, nsg).WithHint("its groups are: %s", strings.Join(m.NSGs(), ", "))
		}
		r := access.RuleRef{NSG: ids[0], Rule: rule}
		if !slices.ContainsFunc(p.Consents, func(o access.RuleRef) bool {
			return strings.EqualFold(o.NSG, r.NSG) && strings.EqualFold(o.Rule, r.Rule)
		}) {
			p.Consents = append(p.Consents, r)
		}
	}
	if err := b.locate(m, &p); err != nil && len(ch.create) == 0 {
		return old, err
	}
	vp.Ports, vp.Exemptions = p.Ports, p.Exemptions
	return p, nil
}

// locate fills in where a protection stands.
func (b *Broker) locate(m inventory.Machine, p *access.Protection) error {
	union := map[string]string{}
	p.Ports = slices.Clone(p.Ports)
	for i := range p.Ports {
		pls, err := b.cfg.Backend.Locate(m, p.Ports[i].Ports, p.Ports[i].Protocol)
		if err != nil {
			return err
		}
		p.Ports[i].Places = pls
		for _, pl := range pls {
			union[key(pl.ID)] = pl.ID
		}
	}
	p.Places = nil
	for _, k := range sortedKeys(union) {
		p.Places = append(p.Places, access.Place{ID: union[k]})
	}
	return nil
}

func lastPart(id string) string { return id[strings.LastIndex(id, "/")+1:] }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// wantedWith is what a place should hold, with some protections as they would be.
func (b *Broker) wantedWith(place string, with map[string]access.Protection, env *inventory.Snapshot) enforce.Wanted {
	open, _, prots := b.WantedAt(place)
	for i, p := range prots {
		if q, ok := with[key(p.VM.ID)]; ok {
			prots[i] = q
		}
	}
	for k, q := range with {
		if !slices.ContainsFunc(prots, func(p access.Protection) bool { return key(p.VM.ID) == k }) {
			prots = append(prots, q)
		}
	}
	open = slices.DeleteFunc(open, func(g access.Grant) bool {
		p, ok := with[key(g.Target.VM.ID)]
		return ok && !p.Shields()
	})
	w := Wanted(place, open, prots)
	if env != nil {
		w.Env = env.EnvOf(place)
	}
	return w
}

// Wanted is what one place should hold for these grants and protections.
func Wanted(place string, open []access.Grant, prots []access.Protection) enforce.Wanted {
	w := enforce.Wanted{Windows: Windows(open, place)}
	slices.SortFunc(w.Windows, func(a, b enforce.Window) int { return strings.Compare(string(a.Grant), string(b.Grant)) })
	slices.SortFunc(prots, func(a, b access.Protection) int { return strings.Compare(key(a.VM.ID), key(b.VM.ID)) })
	at := func(id string) bool { return key(id) == key(place) }
	consented := func(rule string) bool {
		return slices.ContainsFunc(prots, func(p access.Protection) bool {
			return p.Shields() && slices.ContainsFunc(p.Consents, func(r access.RuleRef) bool { return at(r.NSG) && strings.EqualFold(r.Rule, rule) })
		})
	}
	for _, p := range prots {
		if p.Shields() {
			for _, q := range p.Ports {
				for _, pl := range q.Places {
					if at(pl.ID) && len(pl.Addresses) > 0 {
						w.Shields = append(w.Shields, enforce.Shield{VM: p.VM, Destinations: pl.Addresses, Ports: q.Ports, Protocol: q.Protocol, Exemptions: p.Exemptions})
					}
				}
			}
			for _, r := range p.Consents {
				if at(r.NSG) && !slices.Contains(w.Consents, r.Rule) {
					w.Consents = append(w.Consents, r.Rule)
				}
			}
		}
		for _, r := range p.Replaced {
			if !at(r.NSG) {
				continue
			}
			// A rule that another machine's protection still needs out of the way stays aside; its original goes on being kept.
			if p.Shields() || consented(r.Rule) {
				w.Replaced = append(w.Replaced, r)
			} else {
				w.Restore = append(w.Restore, r)
			}
		}
	}
	return w
}

// Protect implements Service.
func (b *Broker) Protect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error) {
	action := protectAction(in)
	if err := b.need(ctx, c, action, strings.Join(in.VMs, ","), access.Admin); err != nil {
		return ProtectPlan{}, err
	}
	unlock, err := b.lockVMs(ctx, in.VMs)
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
	if !in.Off {
		for _, vp := range ch.plan.VMs {
			if vp.Error != "" { // P4: better nothing than a protection that something bypasses
				code := access.CodeUnprotectable
				if vp.After != nil {
					code = access.CodeConflict
				}
				return ch.plan, access.Errorf(code, "%s: %s; nothing was changed", vp.VM.Name, vp.Error).WithHint("%s", vp.Hint)
			}
		}
	}
	ctx = context.WithoutCancel(ctx) // half a protection is worse than a late answer
	if len(ch.create) > 0 {
		if err := b.createPlaces(ctx, c, &ch); err != nil {
			return ch.plan, err
		}
	}
	if err := b.storeProtections(ctx, c, action, audit.Intent, ch.prots); err != nil {
		return ch.plan, err
	}
	if in.Off {
		var moves []Move
		for _, vp := range ch.plan.VMs {
			for _, id := range vp.Grants {
				moves = append(moves, Move{ID: id, Event: access.ShutEvent{Reason: access.ReasonUnprotected, By: c.Name}, Action: "grant.revoke", Outcome: audit.Done,
					Message: fmt.Sprintf("%s switches the protection of %s off: %s is revoked", c.Name, vp.VM.Name, id)})
			}
		}
		if _, err := b.Apply(ctx, moves); err != nil {
			return ch.plan, err
		}
	}
	errs := b.enf.SyncNow(ctx, ch.places)
	return b.settle(ctx, c, action, ch, errs)
}

// lockVMs keeps two changes of one machine's protection from crossing.
func (b *Broker) lockVMs(ctx context.Context, refs []string) (func(), error) {
	ids := map[string]string{}
	for _, ref := range refs {
		_, m, err := b.find(ctx, ref)
		if err != nil {
			return nil, err
		}
		ids[key(m.ID)] = m.ID
	}
	var held []*sync.Mutex
	for _, k := range sortedKeys(ids) { // always in the same order
		v, _ := b.locks.LoadOrStore(k, &sync.Mutex{})
		mu := v.(*sync.Mutex)
		mu.Lock()
		held = append(held, mu)
	}
	return func() {
		for _, mu := range held {
			mu.Unlock()
		}
	}, nil
}

func (b *Broker) createPlaces(ctx context.Context, c access.Caller, ch *change) error {
	cr, ok := b.cfg.Backend.(creator)
	if !ok {
		return access.Errorf(access.CodeUnprotectable, "this back end cannot create a network security group")
	}
	for _, m := range ch.create {
		err := b.update(ctx, func(tx Tx) error {
			e := b.entry(c, "nsg.create", audit.Intent, m.ID, "creating a network security group for %s", m.Name)
			e.VM = m.Name
			_, err := tx.Append(e)
			return err
		})
		if err != nil {
			return err
		}
		if _, err := cr.CreatePlace(ctx, m); err != nil {
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
		ch.snaps[key(m.ID)] = s
		for i := range ch.prots {
			if access.SameVM(ch.prots[i].VM.ID, m.ID) {
				if err := b.locate(fresh, &ch.prots[i]); err != nil {
					return err
				}
				for _, pl := range ch.prots[i].Places {
					ch.places = append(ch.places, pl.ID)
				}
			}
		}
	}
	return nil
}

func (b *Broker) storeProtections(ctx context.Context, c access.Caller, action string, o audit.Outcome, prots []access.Protection) error {
	b.index.reloading.RLock()
	defer b.index.reloading.RUnlock()
	var stored []access.Protection
	err := b.update(ctx, func(tx Tx) error {
		stored = nil
		for _, p := range prots {
			cur, err := tx.Protection(p.VM.ID)
			switch {
			case err == nil:
				p.Version = cur.Version
				if o != audit.Intent {
					p.Replaced = cur.Replaced // Keep may have added originals meanwhile
					if p.State == access.ProtectionRemoved {
						p.Replaced = nil
					}
				}
			case access.CodeOf(err) == access.CodeNotFound:
				p.Version = 0
			default:
				return err
			}
			if p.State == access.ProtectionRemoved {
				heirs, err := b.bequeath(tx, cur)
				if err != nil {
					return err
				}
				stored = append(stored, heirs...)
			}
			if err := tx.PutProtection(p); err != nil {
				return err
			}
			p.Version++
			stored = append(stored, p)
			var ports []string
			for _, q := range p.Ports {
				ports = append(ports, q.Ports.String()+"/"+string(q.Protocol))
			}
			verb := map[bool]string{true: "protecting", false: "unprotecting"}[action == "protection.on"]
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
			if _, err := tx.Append(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		b.index.apply(nil, stored)
	}
	return err
}

// bequeath hands the originals that a protection keeps to others that still need those rules out of the way.
func (b *Broker) bequeath(tx Tx, p access.Protection) (heirs []access.Protection, err error) {
	for _, r := range p.Replaced {
		others, err := tx.ProtectionsAt(r.NSG)
		if err != nil {
			return nil, err
		}
		for _, q := range others {
			if access.SameVM(q.VM.ID, p.VM.ID) || !q.Shields() ||
				!slices.ContainsFunc(q.Consents, func(c access.RuleRef) bool { return key(c.NSG) == key(r.NSG) && strings.EqualFold(c.Rule, r.Rule) }) {
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
				syncErr = err
			}
		}
		vp := b.planOf(&ch.plan, p.VM.ID)
		if p.State == access.ProtectionRemoving {
			if syncErr == nil {
				p.State = access.ProtectionRemoved
			} else {
				p.Why = syncErr.Error()
				fail(access.Errorf(access.CodeAzureUnavailable, "the rules for %s could not be removed yet; the server goes on trying", p.VM.Name).Wrap(syncErr))
			}
		} else {
			verr := b.verify(ctx, p)
			if syncErr != nil && p.State != access.ProtectionOn {
				p.Why = syncErr.Error()
				var ae *access.Error
				if errors.As(syncErr, &ae) {
					fail(ae)
				}
			}
			fail(verr)
			if p.State != access.ProtectionOn {
				fail(access.Errorf(access.CodeConflict, "%s is not shut: %s", p.VM.Name, p.Why).WithHint("see what decides with: curfew vm show %s", p.VM.Name))
			}
		}
		if vp != nil {
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
	if err := b.storeProtections(ctx, c, action, o, ch.prots); err != nil {
		fail(err)
	}
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

// verify reads a machine again and sets the protection's state by the effective verdict (P4). It stores nothing.
func (b *Broker) verify(ctx context.Context, p *access.Protection) error {
	s, err := b.cfg.Inventory.Confirm(ctx, p.VM.ID)
	if err != nil {
		p.State, p.Why = access.ProtectionFailed, "it could not be read again: "+err.Error()
		return err
	}
	m, err := s.Find(p.VM.ID)
	if err != nil {
		return err
	}
	p.VM, p.CheckedAt = vmOf(m), b.Now()
	if left := b.exposures(s, m, p.Ports); len(left) > 0 {
		p.State = access.ProtectionFailed
		p.Why = fmt.Sprintf("port %s is reachable from %s by %s", left[0].Ports, left[0].From, left[0].Rule)
		if left[0].Unknown != "" {
			p.Why = fmt.Sprintf("port %s could not be judged from %s: %s", left[0].Ports, left[0].From, left[0].Unknown)
		}
		return nil
	}
	p.State, p.Why = access.ProtectionOn, ""
	return nil
}

// Keep stores the originals of foreign rules that are about to be set aside, before that is written (P3).
func (b *Broker) Keep(ctx context.Context, place string, originals []access.Replacement) error {
	b.index.reloading.RLock()
	defer b.index.reloading.RUnlock()
	var stored []access.Protection
	err := b.update(ctx, func(tx Tx) error {
		stored = nil
		prots, err := tx.ProtectionsAt(place)
		if err != nil {
			return err
		}
		for _, o := range originals {
			kept := false
			for i := range prots {
				p := &prots[i]
				if !slices.ContainsFunc(p.Consents, func(r access.RuleRef) bool { return key(r.NSG) == key(place) && strings.EqualFold(r.Rule, o.Rule) }) {
					continue
				}
				kept = true
				if slices.ContainsFunc(p.Replaced, func(r access.Replacement) bool { return key(r.NSG) == key(o.NSG) && strings.EqualFold(r.Rule, o.Rule) }) {
					break // the first original is the one to go back to
				}
				o.By = p.By
				p.Replaced = append(p.Replaced, o)
				if err := tx.PutProtection(*p); err != nil {
					return err
				}
				p.Version++
				stored = append(stored, *p)
				e := audit.Entry{At: b.Now(), Actor: p.By, Action: "rule.replace", Outcome: audit.Intent, Object: o.NSG + "/" + o.Rule, VM: p.VM.Name,
					Message: fmt.Sprintf("%s consented to replace %s/%s; the original is kept", p.By, lastPart(o.NSG), o.Rule)}
				if _, err := tx.Append(detail(e, "original", string(o.Original))); err != nil {
					return err
				}
				break
			}
			if !kept {
				return access.Errorf(access.CodeDenied, "nobody consented to replace rule %s of %s", o.Rule, lastPart(o.NSG))
			}
		}
		return nil
	})
	if err == nil {
		b.index.apply(nil, stored)
	}
	return err
}

// Protections returns every protection that is not off.
func (b *Broker) Protections() []access.Protection { return b.index.protections() }

// UpdateProtection stores what the reconciler found out about a protection: a new verdict, new places, or that it is off.
func (b *Broker) UpdateProtection(ctx context.Context, vmID string, fn func(access.Protection) (access.Protection, string)) error {
	b.index.reloading.RLock()
	defer b.index.reloading.RUnlock()
	var out access.Protection
	var heirs []access.Protection
	changed := false
	err := b.update(ctx, func(tx Tx) error {
		changed = false
		p, err := tx.Protection(vmID)
		if err != nil {
			return err
		}
		next, msg := fn(p)
		if msg == "" && next.State == p.State {
			return nil
		}
		next.Version = p.Version
		if next.State == access.ProtectionRemoved {
			if heirs, err = b.bequeath(tx, p); err != nil {
				return err
			}
			next.Replaced = nil
		}
		if err := tx.PutProtection(next); err != nil {
			return err
		}
		next.Version++
		out, changed = next, true
		if msg == "" {
			return nil
		}
		e := b.entry(system, "protection.check", audit.Done, p.VM.ID, "%s", msg)
		e.VM = p.VM.Name
		_, err = tx.Append(detail(e, "state", string(next.State)))
		return err
	})
	if err == nil && changed {
		b.index.apply(nil, append(heirs, out))
	}
	return err
}

// Verify judges a protection as Azure stands now; the reconciler calls it after writes and in sweeps.
func (b *Broker) Verify(ctx context.Context, p access.Protection) (access.Protection, error) {
	err := b.verify(ctx, &p)
	return p, err
}

// Exposed tells whether something other than our own rules lets anybody in to a protected port, or that could not be judged.
func (b *Broker) Exposed(s *inventory.Snapshot, m inventory.Machine, p access.Protection) bool {
	return len(b.exposures(s, m, p.Ports)) > 0
}

// Locate fills in where a protection has to stand for a machine as it is now.
func (b *Broker) Locate(m inventory.Machine, p access.Protection) (access.Protection, error) {
	err := b.locate(m, &p)
	return p, err
}

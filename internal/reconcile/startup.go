package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// begun tells whether Azure was held against the store since the start. Until then only what stands is kept: nothing opens, and no
// shield is taken away, on the word of a store that may be an old copy.
func (r *Reconciler) begun() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.compared
}

// compare holds Azure against the store, once after a start. A data directory that was restored as a whole carries no mark of it;
// but Azure then holds grants or shields that the store has never heard of, or lacks what the store says is open: openings are put
// on hold until an admin has looked. A crash leaves none of these behind: every write is stored before it is sent, and what is
// stored as done was seen.
func (r *Reconciler) compare(ctx context.Context, held []enforce.Held) error {
	if r.begun() {
		return nil
	}
	b := r.cfg.Broker
	var signs []string
	for _, h := range held {
		if err := r.strangers(ctx, h); err != nil {
			return err
		}
		denies := false
		for _, rule := range h.Rules {
			if rule.Installation != r.cfg.Installation {
				continue
			}
			denies = denies || rule.Kind == enforce.KindDeny
			if rule.Kind == enforce.KindAllow {
				r.sawGrant(h.Place, rule.Grant)
			}
		}
		open, _, prots := b.WantedAt(h.Place)
		lacks := slices.ContainsFunc(open, func(g access.Grant) bool { return g.State == access.Active && !r.saw(h.Place, g.ID) })
		if !denies && !lacks {
			continue
		}
		res, err := r.cfg.Backend.Sync(ctx, h.Place, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			w := broker.Wanted(h.Place, open, prots)
			w.Env = r.env(ctx, h.Place)
			return w, nil
		}})
		if err != nil {
			r.log.Warn("a group could not be held against the store", "place", h.Place, "error", err)
			continue
		}
		r.noteSeen(h.Place, res)
		for _, g := range open {
			if g.State == access.Active && !r.saw(h.Place, g.ID) {
				signs = append(signs, fmt.Sprintf("the database says that %s is open to %s, and %s holds no rule of it", g.Target, g.Source, lastPart(h.Place)))
			}
		}
		if !slices.ContainsFunc(prots, func(p access.Protection) bool { return p.State == access.ProtectionRemoving }) {
			for _, addr := range r.unshielded(ctx, h.Place, res) {
				signs = append(signs, fmt.Sprintf("%s keeps ports of %s shut, which the database does not know to be protected", lastPart(h.Place), addr))
			}
		}
	}
	// A place that should hold an open grant and holds nothing of ours at all was not among those that were found.
	for k, id := range b.Places() {
		open, _, prots := b.WantedAt(id)
		if slices.ContainsFunc(held, func(h enforce.Held) bool { return key(h.Place) == k }) ||
			!slices.ContainsFunc(open, func(g access.Grant) bool { return g.State == access.Active }) {
			continue
		}
		res, err := r.cfg.Backend.Sync(ctx, id, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			return broker.Wanted(id, open, prots), nil
		}})
		if err != nil {
			continue // it could not be read; what could not be read proves nothing
		}
		r.noteSeen(id, res)
		for _, g := range open {
			if g.State == access.Active && !r.saw(id, g.ID) {
				signs = append(signs, fmt.Sprintf("the database says that %s is open to %s, and %s holds no rule of ours", g.Target, g.Source, lastPart(id)))
			}
		}
	}
	r.mu.Lock()
	for name, where := range r.strange {
		signs = append(signs, fmt.Sprintf("rule %s of %s belongs to no grant that the database knows", name, where))
	}
	r.mu.Unlock()
	slices.Sort(signs)
	if len(signs) > 0 {
		n := len(signs)
		if n > 3 {
			signs = append(signs[:3], fmt.Sprintf("and %d more", n-3))
		}
		if err := b.PutOnHold(ctx, "Azure does not hold what the database says, as after a backup was put back, or somebody changed our rules while no server ran: "+strings.Join(signs, "; ")); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.compared, r.seen = true, nil
	var waiting []string
	for _, o := range r.opening {
		for _, p := range o.places {
			waiting = append(waiting, p.ID)
		}
	}
	r.mu.Unlock()
	for _, id := range waiting {
		r.mark(id, false, nil)
	}
	r.Wake()
	return nil
}

// noteSeen notes for which live grants rules stood at a place, with whatever end: one that was lengthened may stand with its earlier
// end, and a run at the same place may since have taken that away because it was over. Either is no sign of an old copy.
func (r *Reconciler) noteSeen(placeID string, res enforce.Result) {
	for id := range res.Until {
		r.sawGrant(placeID, id)
	}
}

func (r *Reconciler) sawGrant(placeID string, id access.GrantID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.compared {
		return
	}
	k := key(placeID)
	if r.seen == nil {
		r.seen = map[string]map[access.GrantID]bool{}
	}
	if r.seen[k] == nil {
		r.seen[k] = map[access.GrantID]bool{}
	}
	r.seen[k][id] = true
}

// saw tells whether a rule of the grant stood at the place at some time since the start.
func (r *Reconciler) saw(placeID string, id access.GrantID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[key(placeID)][id]
}

// strangers notes allow rules of ours, not over yet, of grants that the store has never heard of. They are removed like any rule
// that nobody wants, and remembered until Azure was held against the store.
func (r *Reconciler) strangers(ctx context.Context, h enforce.Held) error {
	now := r.cfg.Broker.Now()
	for _, rule := range h.Rules {
		if rule.Installation != r.cfg.Installation || rule.Kind != enforce.KindAllow || !now.Before(rule.End) {
			continue
		}
		known, err := r.cfg.Broker.Knows(ctx, rule.Grant)
		if err != nil {
			return err
		}
		if !known {
			r.mu.Lock()
			if r.strange == nil {
				r.strange = map[string]string{}
			}
			r.strange[rule.Name] = lastPart(h.Place)
			r.mu.Unlock()
		}
	}
	return nil
}

// unshielded returns the addresses that denies of ours name at a place, and would not after the plan.
func (r *Reconciler) unshielded(ctx context.Context, place string, res enforce.Result) []string {
	s, err := r.cfg.Inventory.Snapshot(ctx)
	if err != nil || res.Snapshot == nil {
		return nil
	}
	denied := func(n azure.NSG) map[string]bool {
		out := map[string]bool{}
		for _, rule := range n.Rules {
			if h, ok := enforce.ParseName(rule.Name); ok && h.Kind == enforce.KindDeny && h.Installation == r.cfg.Installation {
				for _, p := range rule.DestinationPrefixes {
					for _, port := range rule.DestinationPorts {
						out[strings.TrimSuffix(strings.TrimSuffix(p, "/32"), "/128")+":"+port] = true
					}
				}
			}
		}
		return out
	}
	now, ok := s.NSG(place)
	after, ok2 := res.Snapshot(s).NSG(place)
	if !ok || !ok2 {
		return nil
	}
	stays := denied(after)
	var out []string
	for a := range denied(now) {
		if !stays[a] {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return out
}

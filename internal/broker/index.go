package broker

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// index holds every grant that is not over, and every protection, as the store has them. The broker is the only writer and
// changes it after each commit; it is what closings go by when the store cannot be read (P7), and is read anew in each sweep.
type index struct {
	order     sync.Mutex // held from before a commit until it is applied here: the index changes in the store's order
	reloading sync.Mutex // one reload at a time

	mu      sync.RWMutex
	grants  map[access.GrantID]access.Grant
	byPlace map[string]map[access.GrantID]struct{}
	byVM    map[string]map[access.GrantID]struct{}
	prots   map[string]access.Protection        // by VM key
	protAt  map[string]map[string]struct{}      // place key -> VM keys
	forced  map[access.GrantID]access.ShutEvent // to be shut although that could not be stored yet
	ended   map[string][]access.Grant           // by VM key: over since a moment ago, a snapshot may still show their rules
	newest  time.Time                           // when the last of them was over
	since   *[]applied                          // what was applied since a reload began; nil when none is under way
}

type applied struct {
	grants []access.Grant
	prots  []access.Protection
}

func newIndex() *index {
	i := &index{forced: map[access.GrantID]access.ShutEvent{}, ended: map[string][]access.Grant{}}
	i.reset()
	return i
}

func (i *index) reset() {
	i.grants, i.byPlace = map[access.GrantID]access.Grant{}, map[string]map[access.GrantID]struct{}{}
	i.byVM = map[string]map[access.GrantID]struct{}{}
	i.prots, i.protAt = map[string]access.Protection{}, map[string]map[string]struct{}{}
}

func key(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

// reload replaces everything by what read returns. Commits go on while it reads, because reading ten thousand grants takes longer
// than a closing may wait; what they change is changed again in what was read, which ends with the newest whether or not the
// reading saw it.
func (i *index) reload(read func() ([]access.Grant, []access.Protection, error)) error {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	var since []applied
	watch := func(c *[]applied) {
		i.order.Lock() // no commit is half applied
		defer i.order.Unlock()
		i.mu.Lock()
		defer i.mu.Unlock()
		i.since = c
	}
	watch(&since)
	gs, ps, err := read()
	if err != nil {
		watch(nil)
		return err
	}
	i.order.Lock()
	defer i.order.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.since = nil
	ended := map[string][]access.Grant{}
	for vm, gs := range i.ended {
		if gs = i.recent(gs); len(gs) > 0 {
			ended[vm] = gs
		}
	}
	i.reset()
	i.ended = map[string][]access.Grant{}
	i.putAll(gs, ps)
	for _, c := range since {
		i.putAll(c.grants, c.prots)
	}
	i.ended = ended // they were noted when they were applied first
	return nil
}

// recent drops those that were over long before the last.
func (i *index) recent(gs []access.Grant) []access.Grant {
	return slices.DeleteFunc(gs, func(g access.Grant) bool { return i.newest.Sub(g.EndedAt) > staleLimit })
}

func (i *index) putAll(gs []access.Grant, ps []access.Protection) {
	for _, g := range gs {
		i.putGrant(g)
	}
	for _, p := range ps {
		i.putProtection(p)
	}
}

func (i *index) putGrant(g access.Grant) {
	if old, ok := i.grants[g.ID]; ok {
		for _, p := range old.Places {
			delete(i.byPlace[key(p.ID)], g.ID)
		}
	}
	if g.State.Final() {
		vm := key(g.Target.VM.ID)
		if _, ok := i.grants[g.ID]; ok && !g.EndedAt.IsZero() {
			if g.EndedAt.After(i.newest) {
				i.newest = g.EndedAt
			}
			i.ended[vm] = append(i.recent(i.ended[vm]), g)
		}
		if delete(i.byVM[vm], g.ID); len(i.byVM[vm]) == 0 {
			delete(i.byVM, vm)
		}
		delete(i.grants, g.ID)
		delete(i.forced, g.ID)
		return
	}
	i.grants[g.ID] = g
	vm := key(g.Target.VM.ID) // it never changes
	if i.byVM[vm] == nil {
		i.byVM[vm] = map[access.GrantID]struct{}{}
	}
	i.byVM[vm][g.ID] = struct{}{}
	for _, p := range g.Places {
		k := key(p.ID)
		if i.byPlace[k] == nil {
			i.byPlace[k] = map[access.GrantID]struct{}{}
		}
		i.byPlace[k][g.ID] = struct{}{}
	}
}

func (i *index) putProtection(p access.Protection) {
	vk := key(p.VM.ID)
	if old, ok := i.prots[vk]; ok {
		for _, pl := range old.Places {
			delete(i.protAt[key(pl.ID)], vk)
		}
	}
	if p.State == access.ProtectionRemoved {
		delete(i.prots, vk)
		return
	}
	i.prots[vk] = p
	for _, pl := range p.Places {
		k := key(pl.ID)
		if i.protAt[k] == nil {
			i.protAt[k] = map[string]struct{}{}
		}
		i.protAt[k][vk] = struct{}{}
	}
}

func (i *index) apply(gs []access.Grant, ps []access.Protection) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.putAll(gs, ps)
	if i.since != nil {
		*i.since = append(*i.since, applied{gs, ps})
	}
}

func (i *index) grant(id access.GrantID) (access.Grant, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	g, ok := i.grants[id]
	return g, ok
}

func (i *index) each(fn func(access.Grant)) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, g := range i.grants {
		fn(g)
	}
}

// staleLimit is how old a snapshot may be at most: two sweeps, with time to read.
const staleLimit = 90 * time.Second

// holding calls fn for every grant on a machine whose rules may stand in a snapshot of now: those that are not over, and those
// that were a moment ago.
func (i *index) holding(vmID string, now time.Time, fn func(access.Grant)) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	vm := key(vmID)
	for id := range i.byVM[vm] {
		if g := i.grants[id]; g.State.Live() {
			fn(g)
		}
	}
	for _, g := range i.ended[vm] {
		if now.Sub(g.EndedAt) <= staleLimit {
			fn(g)
		}
	}
}

func (i *index) at(place string) (gs []access.Grant, ps []access.Protection) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for id := range i.byPlace[key(place)] {
		gs = append(gs, i.grants[id])
	}
	for vk := range i.protAt[key(place)] {
		ps = append(ps, i.prots[vk])
	}
	return gs, ps
}

func (i *index) places() map[string]string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	out := map[string]string{}
	for _, g := range i.grants {
		for _, p := range g.Places {
			out[key(p.ID)] = p.ID
		}
	}
	for _, p := range i.prots {
		for _, pl := range p.Places {
			out[key(pl.ID)] = pl.ID
		}
	}
	return out
}

func (i *index) protection(vmID string) (access.Protection, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	p, ok := i.prots[key(vmID)]
	return p, ok
}

func (i *index) protections() []access.Protection {
	i.mu.RLock()
	defer i.mu.RUnlock()
	out := make([]access.Protection, 0, len(i.prots))
	for _, p := range i.prots {
		out = append(out, p)
	}
	return out
}

func (i *index) force(id access.GrantID, ev access.ShutEvent) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.forced[id] = ev
}

func (i *index) isForced(id access.GrantID) bool {
	_, ok := i.forcedBy(id)
	return ok
}

// forcedBy returns what is to shut a grant as soon as it can be stored.
func (i *index) forcedBy(id access.GrantID) (access.ShutEvent, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	ev, ok := i.forced[id]
	return ev, ok
}

// unforce forgets what has been stored, or can never be because the store does not know the grant.
func (i *index) unforce(id access.GrantID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.forced, id)
}

// plan returns what has to be done at now, and when to look again.
func (i *index) plan(now time.Time) (due, over, late []access.Grant, retry []access.Grant, forced map[access.GrantID]access.ShutEvent, next time.Time) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	soon := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, g := range i.grants {
		switch {
		case g.Late(now):
			late = append(late, g)
		case g.Due(now):
			due = append(due, g)
			soon(g.NotBefore.Add(access.ActivationLimit))
		case g.State == access.Scheduled:
			soon(g.NotBefore)
		case (g.State == access.Activating || g.State == access.Active) && g.EndReason == "":
			if !now.Before(g.EndsAt) {
				over = append(over, g)
				continue
			}
			soon(g.EndsAt)
			if g.State == access.Activating {
				soon(g.StartsAt.Add(access.ActivationLimit))
			}
		default: // closing, or failing
			retry = append(retry, g)
		}
	}
	if len(i.forced) > 0 {
		forced = make(map[access.GrantID]access.ShutEvent, len(i.forced))
		for k, v := range i.forced {
			forced[k] = v
		}
	}
	return due, over, late, retry, forced, next
}

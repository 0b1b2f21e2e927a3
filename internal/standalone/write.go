package standalone

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
)

// backend is the NSG back end, asked to leave everything that this run was not asked about.
type backend struct {
	*nsg.Backend
	s *Session
}

// Sync implements enforce.Backend.
func (b *backend) Sync(ctx context.Context, place string, sy enforce.Sync) (enforce.Result, error) {
	res, said, err := b.sync(ctx, place, sy)
	b.s.noteAll(said)
	return res, err
}

// sync is Sync that returns what has to be said, and says nothing.
func (b *backend) sync(ctx context.Context, place string, sy enforce.Sync) (enforce.Result, []string, error) {
	var said []string
	inner := sy.Decide
	sy.Decide = func(ctx context.Context, held enforce.Held) (enforce.Wanted, error) {
		w, err := inner(ctx, held)
		if err != nil {
			return w, err
		}
		return b.s.decide(ctx, place, held, w, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	}
	res, err := b.Backend.Sync(ctx, place, sy)
	if err != nil {
		return res, said, azure.UserError(err)
	}
	return res, said, nil
}

// decide adds to what is wanted at a place what stands there and this run was not asked about.
func (s *Session) decide(ctx context.Context, place string, held enforce.Held, w enforce.Wanted, note func(string, ...any)) (enforce.Wanted, error) {
	n := s.az.seen(place)
	if n.ID == "" {
		return w, nil // the group is gone
	}
	known, mine := map[netip.Addr]bool{}, map[string][]netip.Addr{}
	for _, p := range s.record.at(place) {
		for _, a := range addressesOf(p, place) {
			known[a] = true
		}
	}
	for k, m := range s.named {
		mine[k] = m.addrs
		for _, a := range m.addrs {
			known[a] = true
		}
	}
	var foreign []string
	for _, o := range openAt(s.cfg.Installation, n, s.cfg.Clock.Now(), mine) {
		if !s.off || o.vms == nil {
			foreign = append(foreign, o.String())
			continue
		}
		note("live: %s lets a source in to %s; it is removed too", o, s.names(o.vms))
	}
	if len(foreign) > 0 {
		return w, access.Errorf(access.CodeConflict, "a server writes rules as installation %s, and they are in use: %s", s.cfg.Installation, strings.Join(foreign, "; ")).
			WithHint("ask that server, or choose another name with --installation")
	}
	others := map[string]int{}
	for _, h := range held.Rules {
		if h.Installation != s.cfg.Installation {
			others[h.Installation]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		note("%s also holds %d of the rules of installation %s: they are left alone, and what they shut stays shut", lastPart(place), others[name], name)
	}
	for _, r := range n.Rules {
		if name, ok := strings.CutPrefix(r.Name, unrecorded); ok {
			note("%s/%s goes on for a rule that was replaced; its original is in the undo file of that time, and without that file the rule cannot be put back", lastPart(place), name)
		}
	}
	snap, err := s.inv.Snapshot(ctx)
	if err != nil {
		snap = nil
	}
	w.Shields = append(w.Shields, adopted(s.cfg.Installation, snap, n, known)...)
	return w, nil
}

func (s *Session) names(keys []string) string {
	var out []string
	for _, k := range keys {
		out = append(out, s.named[k].vm.Name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// writers is how many places are written at once: as many requests as the client has in flight of one kind while Azure recovers from
// throttling, and far below what Microsoft.Network takes.
const writers = 8

// SyncNow implements broker.Enforcer: it writes the places at the same time, each once and by one writer, and waits for them all. What is
// told afterwards is in the order of the places, whichever was done first. All of one call shut, or all of it opens (Off): within it
// nothing that closes waits behind what opens (P9), and between calls the client sees to it.
func (s *Session) SyncNow(ctx context.Context, places []string) map[string]error {
	type written struct {
		id     string
		res    enforce.Result
		said   []string
		err    error
		failed any // a panic: it is the caller's, who gives the undo file back
	}
	var all []*written
	for _, id := range places {
		if !slices.ContainsFunc(all, func(w *written) bool { return key(w.id) == key(id) }) {
			all = append(all, &written{id: id})
		}
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, w := range all {
		g.Go(func() error {
			defer func() { w.failed = recover() }()
			w.res, w.said, w.err = s.backend.sync(ctx, w.id, enforce.Sync{
				Decide: func(ctx context.Context, _ enforce.Held) (enforce.Wanted, error) {
					open, _, prots := s.broker.WantedAt(w.id)
					wanted := broker.Wanted(w.id, open, prots)
					wanted.Env = s.inv.env(ctx, w.id)
					return wanted, nil
				},
				Keep: func(ctx context.Context, originals []access.Replacement) error {
					return s.broker.Keep(ctx, w.id, originals)
				},
			})
			return nil // where one fails, the others are written all the same
		})
	}
	_ = g.Wait()
	out := map[string]error{}
	for _, w := range all {
		if w.failed != nil {
			panic(w.failed)
		}
		s.noteAll(w.said)
		out[key(w.id)] = w.err
		s.problems = append(s.problems, w.res.Problems...)
		if w.err != nil {
			s.failed[key(w.id)] = w.err
		} else {
			s.synced[key(w.id)] = true
		}
	}
	return out
}

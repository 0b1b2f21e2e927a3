package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/curfew-jit/curfew/internal/azure"
)

// listRows is how many resources of a list are kept as one page of a state: less than a list may have, so that no list is held whole.
// Tests have smaller lists.
var listRows = 500

// everyList reads everything from the resource providers. With a state each list that was read to its end is kept, and is not asked for
// again when the scan goes on; one that was broken off is.
func (r *run) everyList(ctx context.Context) error {
	var parts []part
	for _, kind := range types { // types outside, as in lists
		for _, s := range r.visible {
			parts = append(parts, part{Subscriptions: []string{s}, Types: []string{kind}})
		}
	}
	if r.State == nil {
		r.lists(ctx, r.visible, types, nil)
		return nil
	}
	old, err := r.State.open(r.question(), r.Clock.Now())
	switch {
	case err != nil:
		return err
	case old != nil:
		parts = old
		r.note("resuming the scan of %s: %d pages are at hand", r.State.started.Format("15:04:05 MST"), r.State.pages())
	default:
		if err := r.State.begin(r.question(), parts, r.Clock.Now()); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var failed error
	numbers := make([]int, len(parts))
	for i := range numbers {
		numbers[i] = i
	}
	each(ctx, r, numbers, func(i int) {
		if err := r.keptList(ctx, i, parts[i].Subscriptions[0], parts[i].Types[0]); err != nil {
			mu.Lock()
			defer mu.Unlock()
			if failed == nil {
				failed = err
			}
		}
	})
	return failed
}

// keptList reads one list, from the state where it is whole there. It fails with the state alone: a list that fails is a gap.
func (r *run) keptList(ctx context.Context, number int, subscription, kind string) error {
	n := 0
	if kept := r.State.of(number); kept.whole {
		err := r.State.read(number, func(rows []byte) error {
			return azure.Elements(rows, func(row []byte) error {
				r.add(row, kind, subscription)
				n++
				return ctx.Err()
			})
		})
		r.count(func(p *Progress) { p.Rows += n; p.Resumed += n })
		if ctx.Err() != nil {
			return nil // the collection fails as a whole
		}
		return err
	} else if kept.pages > 0 {
		r.State.forget(number)
	}
	var rows []json.RawMessage
	keep := func(next string) error {
		err := r.State.append(number, rows, next, next == "")
		rows = rows[:0]
		return err
	}
	err := r.Client.ListBodies(ctx, subscription, kind, func(b []byte) error {
		n++
		r.add(b, kind, subscription)
		if rows = append(rows, bytes.Clone(b)); len(rows) < listRows {
			return nil
		}
		return keep("more")
	})
	r.count(func(p *Progress) { p.Rows += n })
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return keep("")
	case errors.As(err, new(*stateError)):
		return err
	}
	r.sink.Hide(r.gap(azure.Plural(kind), subscription, "", kind, err))
	return nil
}

// lists reads types in subscriptions from their resource providers, apart from those resources that skip knows. A list that fails
// hides its type in its subscription: what was handed over before the failing page is only a part.
func (r *run) lists(ctx context.Context, subscriptions, kinds []string, skip seen) {
	type list struct{ subscription, kind string }
	var all []list
	for _, kind := range kinds { // types outside, so that neighbours are of different subscriptions, which Azure counts apart
		for _, s := range subscriptions {
			all = append(all, list{s, kind})
		}
	}
	each(ctx, r, all, func(l list) {
		n := 0
		err := r.Client.ListBodies(ctx, l.subscription, l.kind, func(b []byte) error {
			if !skip.has(b) {
				n++
				r.add(b, l.kind, l.subscription)
			}
			return nil
		})
		if err != nil && ctx.Err() == nil {
			r.sink.Hide(r.gap(azure.Plural(l.kind), l.subscription, "", l.kind, err))
		}
		r.count(func(p *Progress) { p.Rows += n })
	})
}

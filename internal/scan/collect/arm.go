package collect

import (
	"context"

	"github.com/curfew-jit/curfew/internal/azure"
)

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

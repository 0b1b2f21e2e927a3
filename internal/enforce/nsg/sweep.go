package nsg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// Swept is a rule that a sweep found past its end.
type Swept struct {
	Place        string         `json:"place"`
	Rule         string         `json:"rule"`
	Installation string         `json:"installation"`
	Grant        access.GrantID `json:"grant"`
	End          time.Time      `json:"end"`
	Err          error          `json:"-"` // why it could not be removed; nil: it is gone
}

// Sweep removes, in the subscriptions, every allow rule of this installation whose end, as its name tells, has come, whatever
// else was changed in it; with others, also those of other installations that are half a minute past theirs. It needs no store
// (P2) and may be repeated and run beside a server. It returns what it found also with an error, which tells of what could not
// be read or removed.
func (b *Backend) Sweep(ctx context.Context, subscriptions []string, others bool) ([]Swept, error) {
	ctx = azure.WithPriority(ctx, azure.Closing)
	var out []Swept
	var errs []error
	for _, s := range subscriptions {
		groups, err := b.c.Client.ListNSGs(ctx, s)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading the network security groups of subscription %s: %w", s, err))
			continue
		}
		for _, n := range groups {
			found := b.overdue(n.ID, n.Rules, others)
			if len(found) == 0 {
				continue
			}
			b.sweep(ctx, n.ID, found, others)
			for _, f := range found {
				if f.Err != nil {
					errs = append(errs, fmt.Errorf("removing rule %s of %s: %w", f.Rule, azure.IDName(f.Place), f.Err))
				}
			}
			out = append(out, found...)
		}
	}
	return out, errors.Join(errs...)
}

func (b *Backend) overdue(place string, rules []azure.SecurityRule, others bool) []Swept {
	now := b.clock.Now()
	var out []Swept
	for _, r := range rules {
		h, ok := Parse(r.Name)
		if !ok || h.Kind != enforce.KindAllow {
			continue
		}
		if h.Installation == b.c.Installation && !now.Before(h.End) || others && !now.Before(h.End.Add(otherGrace)) {
			out = append(out, Swept{Place: place, Rule: r.Name, Installation: h.Installation, Grant: h.Grant, End: h.End})
		}
	}
	return out
}

// sweep takes the rules out of one group: in one conditional write, which also passes a lock against deletion (FACTS 2.5), else
// one by one.
func (b *Backend) sweep(ctx context.Context, place string, found []Swept, others bool) {
	for range refusals {
		n, err := b.c.Client.NSG(ctx, place)
		if azure.Classify(err) == azure.NotFound {
			return
		}
		if err != nil {
			break
		}
		rules := slices.DeleteFunc(slices.Clone(n.Rules), func(r azure.SecurityRule) bool {
			return slices.ContainsFunc(found, func(f Swept) bool { return strings.EqualFold(f.Rule, r.Name) })
		})
		if len(rules) == len(n.Rules) {
			return
		}
		guard := func() error { // other windows that stand in the body may have ended while this waited (P1)
			if late := b.overdue(place, rules, others); len(late) > 0 {
				return fmt.Errorf("%w: %s", errOver, late[0].Rule)
			}
			return nil
		}
		if _, err = b.c.Client.PutNSG(ctx, n.WithRules(rules), guard); err == nil {
			return
		}
		class := azure.Classify(err)
		if class != azure.Precondition && class != azure.Superseded && class != azure.Busy && class != azure.UnknownOutcome {
			break
		}
	}
	for i := range found {
		if failed := b.shut(ctx, place, []string{found[i].Rule}); len(failed) > 0 {
			found[i].Err = failed[found[i].Rule]
		}
	}
}

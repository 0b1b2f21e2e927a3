package broker

import (
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
)

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
	w.KeepShields = b.Hold() != ""
	if env != nil {
		w.Env = env.EnvOf(place)
	}
	return w
}

// Locate fills in where a protection has to stand for a machine as it is now.
func (b *Broker) Locate(m inventory.Machine, p access.Protection) (access.Protection, error) {
	err := b.locate(m, &p)
	return p, err
}

// Exposed tells whether something other than our own rules lets anybody in to a protected port, or that could not be judged.
func (b *Broker) Exposed(s *inventory.Snapshot, m inventory.Machine, p access.Protection) bool {
	return len(b.exposures(s, m, p.Ports, p.Exemptions)) > 0
}

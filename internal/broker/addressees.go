package broker

import (
	"context"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// Addressees returns the names of the people whom a list means: names as they are, "group:NAME" the people of that group of the
// policy, "role:NAME" those with the role, of everybody who is known here. Somebody who is named and not known stays in the list:
// whoever delivers says that they could not be reached.
func (b *Broker) Addressees(ctx context.Context, to []string) []string {
	var out []string
	add := func(name string) {
		if !slices.ContainsFunc(out, func(o string) bool { return access.SamePerson(o, name) }) {
			out = append(out, name)
		}
	}
	known := b.people(ctx)
	for _, t := range to {
		group, isGroup := strings.CutPrefix(t, access.GroupPrefix)
		role, isRole := strings.CutPrefix(t, "role:")
		if !isGroup && !isRole {
			add(t)
			continue
		}
		for _, p := range known {
			switch {
			case isRole && p.Has(access.Role(role)),
				isGroup && slices.ContainsFunc(b.cfg.Policy().GroupsOf(p), func(g string) bool { return access.SamePerson(g, group) }):
				add(p.Name)
			}
		}
	}
	return out
}

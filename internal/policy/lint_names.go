package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

func (l *linter) outside(a *rule) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool { return !inNetworks(a.sources, p) }
}

// names looks for names that nothing and nobody has: machines, resource groups, tags and people, as far as they are known.
func (l *linter) names() {
	for i := range l.rules {
		r := &l.rules[i]
		if l.estate.Machines != nil {
			l.machines(r)
		}
		if l.estate.People != nil {
			l.people(r)
		}
	}
}

func (l *linter) machines(r *rule) {
	has := func(f func(Machine) bool) bool { return slices.ContainsFunc(l.estate.Machines, f) }
	const hint = "a spelling, most likely; curfew vm list shows what there is"
	for _, c := range []struct {
		key, what string
		written   []string
		of        func(Machine) string
	}{
		{"vms", "machine", r.doc.VMs, func(m Machine) string { return m.Name }},
		{"groups", "resource group", r.doc.Groups, func(m Machine) string { return m.Group }},
		{"subscriptions", "subscription", r.doc.Subscriptions, func(m Machine) string { return m.Subscription }},
	} {
		for _, p := range c.written {
			g, err := newGlob(p)
			if c.key == "subscriptions" {
				g, err = glob{globExact, fold(p)}, nil
			}
			if err == nil && !has(func(m Machine) bool { return g.match(fold(c.of(m))) }) {
				l.say(Warning, "unknown-"+strings.ReplaceAll(c.what, " ", "-"), r, c.key, hint, "no %s matches %s", c.what, clip(p))
			}
		}
	}
	for _, t := range l.scopes[r.at].tags {
		tagged := func(m Machine) (string, bool) {
			for k, v := range m.Tags {
				if fold(k) == t.key {
					return v, true
				}
			}
			return "", false
		}
		if !has(func(m Machine) bool { _, ok := tagged(m); return ok }) {
			l.say(Warning, "unknown-tag", r, "tags", hint, "no machine has the tag %s", t.key)
			continue
		}
		for j, g := range t.values {
			if !has(func(m Machine) bool {
				v, ok := tagged(m)
				return ok && g.match(strings.ReplaceAll(fold(v), "/", separator))
			}) {
				l.say(Warning, "unknown-tag", r, "tags", hint, "no machine has the tag %s=%s", t.key, clip(l.tagValue(r, t.key, j)))
			}
		}
	}
}

func (l *linter) tagValue(r *rule, key string, i int) string {
	for k, v := range r.doc.Tags {
		if fold(k) == key && i < len(v) {
			return v[i]
		}
	}
	return ""
}

func (l *linter) people(r *rule) {
	check := func(key string, list []string, role access.Role) {
		for _, n := range list {
			if isGroup(n) {
				continue
			}
			i := slices.IndexFunc(l.estate.People, func(p access.Caller) bool { return access.SamePerson(p.Name, n) })
			switch {
			case i < 0:
				l.say(Warning, "unknown-person", r, key, "a spelling, most likely", "nobody is called %s", clip(n))
			case !l.estate.People[i].Has(role):
				l.say(Warning, "role-missing", r, key, "give them the role, or name others", "%s has not the role %s", clip(n), role)
			}
		}
	}
	check("requesters", r.doc.Requesters, access.Requester)
	check("approvers", r.doc.Approvers, access.Approver)
	for _, s := range r.doc.Steps {
		check("steps", append(slices.Clone(s.Approvers), s.EscalateTo...), access.Approver)
	}
	if r.doc.BreakGlass != nil {
		check("break_glass", r.doc.BreakGlass.Requesters, access.Requester)
	}
}

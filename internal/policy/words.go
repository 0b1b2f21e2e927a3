package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// scopeWords says which machines a rule is about, what it inherits included.
func scopeWords(r *Rule, around []*Rule) string {
	var parts []string
	for _, x := range append(slices.Clone(around), r) {
		if len(x.VMs) > 0 {
			parts = append(parts, "machines "+strings.Join(x.VMs, ", "))
		}
		if len(x.Groups) > 0 {
			parts = append(parts, "resource groups "+strings.Join(x.Groups, ", "))
		}
		if len(x.Subscriptions) > 0 {
			parts = append(parts, "subscriptions "+strings.Join(x.Subscriptions, ", "))
		}
		for _, k := range sortedKeys(x.Tags) {
			parts = append(parts, "tag "+k+"="+strings.Join(x.Tags[k], "|"))
		}
	}
	if len(parts) == 0 {
		return "every machine"
	}
	return strings.Join(parts, " with ")
}

func whoWords(list []string, nobody string) string {
	if len(list) == 0 {
		return nobody
	}
	var out []string
	for _, n := range list {
		if isGroup(n) {
			n = "group " + n[len(access.GroupPrefix):]
		}
		out = append(out, n)
	}
	return strings.Join(out, ", ")
}

func portWords(r *Rule) string {
	what := "every port"
	if len(r.Ports) > 0 {
		what = "port " + joined(r.Ports)
	}
	if r.Protocol != "" {
		what += "/" + string(r.Protocol)
	}
	return what
}

func windowWords(ws []Window) string {
	var out []string
	for _, w := range ws {
		out = append(out, w.String())
	}
	return strings.Join(out, "; ")
}

func textWords(t *Text, otherwise bool) string {
	switch {
	case t == nil && otherwise, t != nil && t.Required && t.Pattern == "":
		return "needed"
	case t == nil, !t.Required && t.Pattern == "":
		return "not needed"
	case t.Required:
		return "needed, of the form " + t.Pattern
	}
	return "of the form " + t.Pattern + ", if given"
}

// stepWords says who must agree.
func stepWords(r *Rule) string {
	steps := r.Steps
	if len(steps) == 0 {
		steps = []Step{{Approvers: r.Approvers, Count: r.Approvals}}
	}
	var out []string
	for _, s := range steps {
		n := max(s.Count, 1)
		w := fmt.Sprintf("%d of %s", n, whoWords(s.Approvers, "everybody who may approve"))
		if s.Name != "" {
			w = s.Name + ": " + w
		}
		if s.EscalateAfter > 0 {
			w += fmt.Sprintf(" (after %s also %s)", s.EscalateAfter, whoWords(s.EscalateTo, "nobody"))
		}
		out = append(out, w)
	}
	sep := " and "
	if r.InOrder {
		sep = ", then "
	}
	return strings.Join(out, sep)
}

func autoWords(a *AutoApprove) string {
	if a == nil {
		return "never"
	}
	out := "up to " + a.MaxDuration.String()
	if len(a.Sources) > 0 {
		out += " from " + joined(a.Sources)
	}
	if a.When != "" {
		out += " when " + oneLine(a.When)
	}
	return out
}

func glassWords(b *BreakGlass) string {
	if b == nil {
		return "nobody"
	}
	return whoWords(b.Requesters, "nobody") + " up to " + b.MaxDuration.String()
}

func dur(d time.Duration) string { return access.Duration(d).String() }

// Machine is what a policy may know of a machine. Tags nil: not known.
type Machine struct {
	Name         string            `yaml:"name" json:"name"`
	Group        string            `yaml:"group,omitempty" json:"group,omitempty"`
	Subscription string            `yaml:"subscription,omitempty" json:"subscription,omitempty"`
	Tags         map[string]string `yaml:"tags,omitempty" json:"tags,omitempty"`
	OS           string            `yaml:"os,omitempty" json:"os,omitempty"`
	Location     string            `yaml:"location,omitempty" json:"location,omitempty"`
}

// RuleView is what one rule says about a machine.
type RuleView struct {
	Rule       string     `json:"rule"`
	Deny       bool       `json:"deny,omitempty"`
	Unknown    bool       `json:"unknown,omitempty"` // whether the machine is in its scope is not known: a tag, for one
	Message    string     `json:"message,omitempty"`
	Requesters []string   `json:"requesters,omitempty"` // empty: everybody with the role
	People     []string   `json:"people,omitempty"`     // those of Requesters whom the policy itself names
	Ports      string     `json:"ports"`
	Sources    []string   `json:"sources,omitempty"`
	Windows    []string   `json:"windows,omitempty"`
	When       string     `json:"when,omitempty"`
	Limits     RuleBounds `json:"limits"`
	Needs      string     `json:"needs,omitempty"` // who must agree
	Auto       string     `json:"auto,omitempty"`
	BreakGlass string     `json:"break_glass,omitempty"`
}

// RuleBounds are a rule's limits, as people write them.
type RuleBounds struct {
	MaxDuration string `json:"max_duration,omitempty"`
	MaxTotal    string `json:"max_total,omitempty"`
	Extensions  string `json:"extensions,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Ticket      string `json:"ticket,omitempty"`
}

// Who lists the rules that are about a machine, those that deny first: who may ask for it, within what, and who must agree.
func (s *Set) Who(m Machine) []RuleView {
	a := access.Ask{Subscription: m.Subscription, Group: m.Group, Tags: m.Tags, OS: m.OS, Location: m.Location}
	q := s.ask(&a, time.Time{})
	q.aim(access.Target{VM: access.VM{Name: m.Name}})
	var out []RuleView
	unknownTo := 0
	for i := 0; i < len(s.rules); {
		v := s.scopes[i].matches(q)
		if v == no {
			i = s.scopes[i].end
			continue
		}
		if v == unknown {
			unknownTo = max(unknownTo, s.scopes[i].end)
		}
		out = append(out, s.way(&s.rules[i], i < unknownTo))
		i++
	}
	slices.SortStableFunc(out, func(a, b RuleView) int {
		if a.Deny == b.Deny {
			return 0
		}
		if a.Deny {
			return -1
		}
		return 1
	})
	return out
}

func (s *Set) way(r *rule, uncertain bool) RuleView {
	d := r.doc
	w := RuleView{Rule: r.name, Deny: r.deny, Unknown: uncertain, Message: d.Message, Requesters: d.Requesters, People: s.peopleIn(d.Requesters), Ports: portWords(d), When: oneLine(d.When)}
	for _, p := range d.Sources {
		w.Sources = append(w.Sources, p.String())
	}
	for _, x := range d.Windows {
		w.Windows = append(w.Windows, x.String())
	}
	if r.deny {
		return w
	}
	w.Limits = RuleBounds{MaxDuration: dur(r.limits.MaxDuration), MaxTotal: dur(r.limits.MaxTotal), Extensions: extensionWords(d),
		Reason: textWords(d.Reason, true), Ticket: textWords(d.Ticket, false)}
	w.Needs = stepWords(d)
	if d.AutoApprove != nil {
		w.Auto = autoWords(d.AutoApprove)
	}
	if d.BreakGlass != nil {
		w.BreakGlass = glassWords(d.BreakGlass)
	}
	return w
}

func extensionWords(r *Rule) string {
	e := r.Extensions
	switch {
	case e == nil:
		return ""
	case !e.Allowed:
		return "none"
	}
	var out []string
	if e.Max > 0 {
		out = append(out, fmt.Sprintf("%d times", e.Max))
	}
	if e.Each > 0 {
		out = append(out, e.Each.String()+" at a time")
	}
	return strings.Join(out, ", ")
}

// peopleIn returns those whom a list of people and groups names, as far as the policy itself says who is in a group, sorted.
func (s *Set) peopleIn(list []string) []string {
	seen := map[string]string{}
	for _, n := range list {
		if !isGroup(n) {
			seen[fold(n)] = strings.TrimSpace(n)
			continue
		}
		i, ok := s.groupByName[fold(n[len(access.GroupPrefix):])]
		if !ok {
			continue
		}
		for j := range s.groups {
			if slices.Contains(s.groups[j].belongs, i) {
				for _, m := range s.groups[j].direct {
					seen[fold(m)] = strings.TrimSpace(m)
				}
			}
		}
	}
	var out []string
	for _, k := range sortedKeys(seen) {
		out = append(out, seen[k])
	}
	return out
}

// closed tells whether who is in a list is known beforehand: no group in it takes people by what their token says.
func (s *Set) closed(list []string) bool {
	return !slices.ContainsFunc(list, func(n string) bool {
		if !isGroup(n) {
			return false
		}
		i, ok := s.groupByName[fold(n[len(access.GroupPrefix):])]
		return !ok || s.groups[i].open
	})
}

package triage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Options are filters as a person gives them. Values of one kind are alternatives, except tags: of several keys each must be there.
// Different kinds must all hold. An empty kind filters nothing.
type Options struct {
	Subscriptions []string // id or name, without case
	Groups        []string // without case
	Tags          []string // key, or key=value; keys are compared without case, as Azure does, values with
	Rules         []string
	Severities    []string // high is exactly that, high+ is that or worse
	Statuses      []string
	Resources     []string // see Glob
}

// Filter picks findings. The zero value picks all.
type Filter struct {
	subscriptions, groups map[string]bool
	tags                  map[string][]*string // by lower-case key; nil stands for any value
	rules                 map[scan.RuleID]bool
	severities            map[scan.Severity]bool
	statuses              map[scan.Status]bool
	resources             []Glob
}

// NewFilter checks the options and reports all that is wrong with them at once. The names are those of the subscriptions, by id in
// any case; a name that several have picks all of them. When ids is true every subscription that is named must be among names: the
// caller has seen all there are, so that another one is a slip that would hide everything.
func NewFilter(o Options, names map[string]string, ids bool) (Filter, error) {
	var f Filter
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	byName, known := map[string][]string{}, map[string]bool{}
	for id, name := range names {
		low := strings.ToLower(id)
		known[low] = true
		if name != "" {
			byName[strings.ToLower(name)] = append(byName[strings.ToLower(name)], low)
		}
	}
	for _, s := range o.Subscriptions {
		low := strings.ToLower(strings.TrimSpace(s))
		named, isName := byName[low]
		switch {
		case low == "":
			bad("a subscription without id or name was given")
		case isName || known[low] || !ids:
			if f.subscriptions == nil {
				f.subscriptions = map[string]bool{}
			}
			f.subscriptions[low] = true
			for _, id := range named {
				f.subscriptions[id] = true
			}
		default:
			bad("there is no subscription %q in what was scanned", s)
		}
	}
	for _, g := range o.Groups {
		if strings.TrimSpace(g) == "" {
			bad("a resource group without a name was given")
			continue
		}
		f.groups = set(f.groups, strings.ToLower(g))
	}
	for _, t := range o.Tags {
		key, value, has := strings.Cut(t, "=")
		if key = strings.ToLower(strings.TrimSpace(key)); key == "" {
			bad("the tag %q has no key: a tag is given as key or key=value", t)
			continue
		}
		if f.tags == nil {
			f.tags = map[string][]*string{}
		}
		if has {
			f.tags[key] = append(f.tags[key], &value)
		} else {
			f.tags[key] = append(f.tags[key], nil)
		}
	}
	for _, r := range o.Rules {
		if _, ok := scan.RuleOf(scan.RuleID(r)); !ok {
			bad("there is no rule %q: there are %s", r, join(ruleIDs()))
			continue
		}
		f.rules = set(f.rules, scan.RuleID(r))
	}
	for _, s := range o.Severities {
		v, least := strings.CutSuffix(s, "+")
		i := slices.Index(scan.Severities, scan.Severity(v))
		if i < 0 {
			bad("there is no severity %q: there are %s, each also with a + behind it for that or worse", s, join(scan.Severities))
			continue
		}
		f.severities = set(f.severities, scan.Severities[i])
		if least {
			for _, w := range scan.Severities[:i] {
				f.severities[w] = true
			}
		}
	}
	for _, s := range o.Statuses {
		if !slices.Contains(scan.Statuses, scan.Status(s)) {
			bad("there is no status %q: there are %s", s, join(scan.Statuses))
			continue
		}
		f.statuses = set(f.statuses, scan.Status(s))
	}
	for _, r := range o.Resources {
		if r == "" {
			bad("an empty resource was given: it is an id or a name, with * for any characters")
			continue
		}
		f.resources = append(f.resources, NewGlob(r))
	}
	if len(faults) > 0 {
		return Filter{}, errors.Join(faults...)
	}
	return f, nil
}

func set[T comparable](m map[T]bool, v T) map[T]bool {
	if m == nil {
		m = map[T]bool{}
	}
	m[v] = true
	return m
}

// Match tells whether the filter picks a finding. Of one that is unknown, what was not read counts as fitting: a machine whose tags
// nobody could read may carry the tag, and what is hidden of a whole subscription may lie in the group.
func (f Filter) Match(x scan.Finding) bool {
	open := x.Status == scan.Unknown
	if f.subscriptions != nil && !f.subscriptions[strings.ToLower(x.Subscription)] && !(open && x.Subscription == "") {
		return false
	}
	if f.groups != nil && !f.groups[strings.ToLower(x.Group)] && !(open && x.Group == "") {
		return false
	}
	if f.rules != nil && !f.rules[x.Rule] || f.severities != nil && !f.severities[x.Severity] || f.statuses != nil && !f.statuses[x.Status] {
		return false
	}
	if f.tags != nil && !(open && x.Tags == nil) && !f.matchTags(x.Tags) {
		return false
	}
	if f.resources != nil && !(open && x.Group == "") && !slices.ContainsFunc(f.resources, func(g Glob) bool { return g.Match(x.Resource, x.Name) }) {
		return false
	}
	return true
}

func (f Filter) matchTags(tags map[string]string) bool {
	fits := map[string]bool{}
	for k, v := range tags {
		key := strings.ToLower(k)
		if slices.ContainsFunc(f.tags[key], func(want *string) bool { return want == nil || *want == v }) {
			fits[key] = true
		}
	}
	return len(fits) == len(f.tags)
}

// Apply returns what the filter picks, in the same order, in a slice of its own.
func (f Filter) Apply(findings []scan.Finding) []scan.Finding {
	var out []scan.Finding
	for _, x := range findings {
		if f.Match(x) {
			out = append(out, x)
		}
	}
	return out
}

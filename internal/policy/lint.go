package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Severity says how bad a finding is.
type Severity string

// An error cannot work; a warning probably does not what is meant.
const (
	Wrong   Severity = "error"
	Warning Severity = "warning"
)

// Finding is something that is wrong with a policy, or looks so.
type Finding struct {
	Severity Severity `json:"severity"`
	ID       string   `json:"id"`
	Fault
	Hint string `json:"hint,omitempty"`
}

// Estate is what is known beside the policy, for the check of names. A nil list is not known.
type Estate struct {
	Machines []Machine
	People   []access.Caller
}

// Lint says what cannot work in a policy, and what is probably not meant, in the order of the text. What New refuses comes as errors;
// the rest is looked at only where New takes it.
func Lint(d Document, e Estate) []Finding {
	s, faults := build(d)
	var out []Finding
	for _, f := range faults {
		out = append(out, Finding{Wrong, "fault", f, "docs/policy.md describes every key"})
	}
	if len(faults) == 0 {
		l := &linter{Set: s, estate: e}
		l.all()
		out = l.out
	}
	seen := map[string]bool{}
	out = slices.DeleteFunc(out, func(f Finding) bool {
		k := f.ID + f.String()
		defer func() { seen[k] = true }()
		return seen[k]
	})
	slices.SortStableFunc(out, func(a, b Finding) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return out
}

type linter struct {
	*Set
	estate Estate
	out    []Finding
}

func (l *linter) say(s Severity, id string, r *rule, key, hint, format string, args ...any) {
	l.out = append(l.out, Finding{s, id, r.doc.marks.fault(key, r.name, format, args...), hint})
}

func (l *linter) all() {
	if len(l.rules) == 0 {
		l.out = append(l.out, Finding{Warning, "no-rules", l.doc.marks.fault("rules", "", "the policy has no rules: every request is denied"), "write a rule"})
	}
	for i := range l.rules {
		r := &l.rules[i]
		l.reachable(r)
		if r.deny {
			l.ignored(r)
			continue
		}
		l.approvable(r)
		l.automatic(r)
		l.parent(r)
	}
	l.hidden()
	l.unused()
	l.names()
}

// reachable finds rules that match nothing.
func (l *linter) reachable(r *rule) {
	if !r.everybody && len(l.peopleIn(r.doc.Requesters)) == 0 && l.closed(r.doc.Requesters) {
		l.say(Wrong, "never-matches", r, "requesters", "put somebody into the group, or name others", "its requesters are groups without people, so that it is for nobody")
	}
	if b := r.doc.BreakGlass; b != nil && len(l.peopleIn(b.Requesters)) == 0 && l.closed(b.Requesters) {
		l.say(Wrong, "never-matches", r, "break_glass", "put somebody into the group, or name others", "its break_glass lists groups without people, so that nobody can use it")
	}
	if len(r.windows) > 0 && !r.deny && !slices.ContainsFunc(r.windows, func(w window) bool { return w.length() >= access.MinDuration }) {
		l.say(Wrong, "never-matches", r, "windows", "make a window longer", "no window is as long as the least access, %s", dur(access.MinDuration))
	}
	for p := r.parent; p >= 0; p = l.rules[p].parent {
		a, b := &l.scopes[p], &l.scopes[r.at]
		for _, c := range []struct {
			key          string
			outer, inner []glob
		}{{"vms", a.vms, b.vms}, {"groups", a.groups, b.groups}} {
			if apart(c.outer, c.inner) {
				l.say(Wrong, "never-matches", r, c.key, "a rule within another is about a part of its machines alone", "its %s lie outside those of rule %s around it", c.key, l.rules[p].name)
			}
		}
		if len(a.subs) > 0 && len(b.subs) > 0 && !slices.ContainsFunc(b.subs, func(s string) bool { return slices.Contains(a.subs, s) }) {
			l.say(Wrong, "never-matches", r, "subscriptions", "a rule within another is about a part of its machines alone", "its subscriptions are none of those of rule %s around it", l.rules[p].name)
		}
	}
}

// apart tells whether no name can match both lists, as far as that can be said.
func apart(a, b []glob) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	for _, x := range a {
		for _, y := range b {
			switch {
			case x.kind == globExact && y.match(x.text), y.kind == globExact && x.match(y.text):
				return false
			case x.kind == globExact || y.kind == globExact:
			case x.kind == globPrefix && y.kind == globPrefix:
				if strings.HasPrefix(x.text, y.text) || strings.HasPrefix(y.text, x.text) {
					return false
				}
			case x.kind == globSuffix && y.kind == globSuffix:
				if strings.HasSuffix(x.text, y.text) || strings.HasSuffix(y.text, x.text) {
					return false
				}
			default:
				return false
			}
		}
	}
	return true
}

// ignored finds keys that mean nothing in a rule that denies.
func (l *linter) ignored(r *rule) {
	d := r.doc
	for _, k := range []struct {
		key string
		set bool
	}{{"max_duration", d.MaxDuration != 0}, {"default_duration", d.DefaultDuration != 0}, {"max_total", d.MaxTotal != 0}, {"max_ahead", d.MaxAhead != 0},
		{"widest_ipv4", d.WidestIPv4 != 0}, {"widest_ipv6", d.WidestIPv6 != 0}, {"extensions", d.Extensions != nil}, {"reason", d.Reason != nil}, {"ticket", d.Ticket != nil},
		{"approvals", d.Approvals != 0}, {"approvers", len(d.Approvers) > 0}, {"steps", len(d.Steps) > 0}, {"hard_close", d.HardClose}, {"warn_before", d.WarnBefore != 0}} {
		if k.set {
			l.say(Warning, "ignored", r, k.key, "take it out", "a rule that denies has no use for %s", k.key)
		}
	}
}

// approvable finds rules under which a request can never be approved.
func (l *linter) approvable(r *rule) {
	need := r.limits.Needs[0]
	requesters := l.peopleIn(r.doc.Requesters)
	if r.everybody {
		for _, p := range l.estate.People {
			if p.Has(access.Requester) {
				requesters = append(requesters, p.Name)
			}
		}
	}
	key := "steps"
	if len(r.doc.Steps) == 0 {
		key = "approvers"
	}
	var stuck []string
	for _, who := range append(requesters, "\x00somebody") {
		if who == "\x00somebody" && (len(stuck) > 0 || len(requesters) > 0 && l.closed(r.doc.Requesters) && !r.everybody) {
			continue
		}
		if missing := l.missing(need, who); missing != "" {
			if who == "\x00somebody" {
				l.say(Wrong, "no-approver", r, key, "name more approvers, or ask for fewer", "nobody can approve: %s", missing)
				continue
			}
			stuck = append(stuck, who)
		}
	}
	if len(stuck) > 0 {
		l.say(Wrong, "no-approver", r, key, "name others beside the requesters: nobody approves their own request", "when %s asks, nobody can approve: %s",
			strings.Join(stuck, " or "), l.missing(need, stuck[0]))
	}
}

// missing says which steps would lack approvals if everybody but the requester had agreed, after every escalation; "" for none.
func (l *linter) missing(need access.Need, requester string) string {
	var asked time.Time
	late := asked.AddDate(1, 0, 0)
	groups := map[string][]string{} // by folded name
	spelled := map[string]string{}
	var reviews []access.Review
	for _, st := range need.Steps {
		for _, list := range [][]string{st.Approvers, st.EscalateTo} {
			for _, p := range l.peopleIn(list) {
				spelled[fold(p)] = p
			}
			if len(list) > 0 && l.closed(list) || list == nil && len(st.Approvers) > 0 {
				continue
			}
			if len(list) == 0 && l.estate.People != nil { // everybody with the role, and they are known
				for _, p := range l.estate.People {
					if p.Has(access.Approver) {
						spelled[fold(p.Name)] = p.Name
					}
				}
				continue
			}
			var in []string
			for _, n := range list {
				if isGroup(n) {
					in = append(in, n[len(access.GroupPrefix):])
				}
			}
			for i := range max(st.Count, 1) { // people whom the policy does not name
				name := fmt.Sprintf("\x00%s %d of %v", st.Name, i, list)
				reviews = append(reviews, access.Review{Reviewer: name, Decision: access.Approve, At: late, Authorities: []access.Authority{{Name: name, Groups: in}}})
			}
		}
	}
	for _, k := range sortedKeys(spelled) {
		if access.SamePerson(spelled[k], requester) || !l.mayApprove(spelled[k]) {
			continue
		}
		for i, in := range l.members(k, nil) {
			if in {
				groups[k] = append(groups[k], l.groups[i].name)
			}
		}
		reviews = append(reviews, access.Review{Reviewer: spelled[k], Decision: access.Approve, At: late, Authorities: []access.Authority{{Name: spelled[k], Groups: groups[k]}}})
	}
	need.InOrder = false // somebody decides in which order they are asked; whether there are enough does not depend on it
	var out []string
	for _, w := range access.Outstanding([]access.Need{need}, reviews, asked) {
		out = append(out, fmt.Sprintf("%s lacks %d", w.Step.Words(), w.Missing))
	}
	return strings.Join(out, "; ")
}

// mayApprove tells whether somebody has the role; of people who are not known it is taken to be so.
func (l *linter) mayApprove(name string) bool {
	if l.estate.People == nil {
		return true
	}
	i := slices.IndexFunc(l.estate.People, func(p access.Caller) bool { return access.SamePerson(p.Name, name) })
	return i >= 0 && l.estate.People[i].Has(access.Approver)
}

// automatic finds automatic approval without bounds, and such that cannot come about.
func (l *linter) automatic(r *rule) {
	if r.auto == nil {
		return
	}
	if r.auto.when == nil && len(r.auto.sources) == 0 && r.when == nil && r.auto.max >= r.limits.MaxDuration {
		l.say(Warning, "auto-uncapped", r, "auto_approve", "set a condition, or a cap below max_duration", "auto_approve has no condition, and its cap is all that the rule allows: nobody is ever asked")
	}
	for _, o := range l.broad(false) {
		if o != r && o.auto == nil && l.covers(o, r) {
			l.say(Warning, "auto-without-effect", r, "auto_approve", "narrow the other rule, or let it approve by itself too",
				"nothing is approved automatically: rule %s matches wherever this one does, and needs %s", o.name, stepWords(o.doc))
			return
		}
	}
}

// parent finds rules that were meant as a frame for others and let people in themselves.
func (l *linter) parent(r *rule) {
	if !r.everybody {
		return
	}
	for i := r.at + 1; i < l.scopes[r.at].end; i++ {
		if c := &l.rules[i]; c.parent == r.at && !c.deny && !c.everybody {
			l.say(Warning, "parent-permits", r, "requesters", "name its requesters, or write the inner rules with their own scope", "it permits by itself, to everybody with the role: rule %s within it does not keep others out", c.name)
			return
		}
	}
}

// maxPairwise is up to how many rules each is compared with each. In a larger policy they are compared with those about every machine.
const maxPairwise = 2000

// broad returns the rules that may make others useless.
func (l *linter) broad(deny bool) (out []*rule) {
	for i := range l.rules {
		r, sc := &l.rules[i], &l.scopes[i]
		everywhere := r.parent < 0 && len(sc.vms)+len(sc.groups)+len(sc.subs)+len(sc.tags) == 0
		if r.deny == deny && (everywhere || len(l.rules) <= maxPairwise) {
			out = append(out, r)
		}
	}
	return out
}

// hidden finds rules that another one makes useless.
func (l *linter) hidden() {
	denies, others := l.broad(true), l.broad(false)
	for i := range l.rules {
		r := &l.rules[i]
		if j := slices.IndexFunc(denies, func(d *rule) bool { return d != r && l.covers(d, r) && (!r.deny || !l.covers(r, d) || d.at < r.at) }); j >= 0 {
			if r.deny {
				l.say(Warning, "hidden", r, "", "take one of them out", "rule %s denies all that this one denies", denies[j].name)
			} else {
				l.say(Wrong, "hidden", r, "", "narrow the rule that denies, or take this one out", "rule %s denies all that this one permits", denies[j].name)
			}
			continue
		}
		if r.deny || r.glass != nil {
			continue
		}
		for _, o := range others {
			if o == r || o.auto != nil || !l.covers(o, r) || !o.limitsHold(r) || l.covers(r, o) && r.limitsHold(o) && o.at > r.at {
				continue
			}
			l.say(Warning, "hidden", r, "", "take it out, or make it stricter", "it changes nothing: rule %s matches wherever this one does, and is as strict in everything", o.name)
			break
		}
	}
}

// limitsHold tells whether another rule asks for nothing that this one does not ask for.
func (r *rule) limitsHold(o *rule) bool {
	a, b := r.limits, o.limits
	if a.MaxDuration > b.MaxDuration || a.MaxTotal > b.MaxTotal || a.MaxAhead > b.MaxAhead || a.WidestIPv4 < b.WidestIPv4 || a.WidestIPv6 < b.WidestIPv6 ||
		b.HardClose && !a.HardClose || a.WarnBefore < b.WarnBefore || b.NoExtensions && !a.NoExtensions || o.doc.DefaultDuration != 0 && o.doc.DefaultDuration != r.doc.DefaultDuration {
		return false
	}
	if b.MaxExtensions > 0 && (a.MaxExtensions == 0 || a.MaxExtensions > b.MaxExtensions) || b.MaxExtension > 0 && (a.MaxExtension == 0 || a.MaxExtension > b.MaxExtension) {
		return false
	}
	for _, n := range b.Notify {
		if !slices.Contains(a.Notify, n) {
			return false
		}
	}
	for _, t := range [][2]text{{r.reason, o.reason}, {r.ticket, o.ticket}} {
		if t[1].required && !t[0].required || t[1].written != "" && t[0].written != t[1].written {
			return false
		}
	}
	joint := access.Needs(a.Needs, b.Needs) // what is implied is left out
	return len(joint) == 1 && joint[0].Rule == r.name || stepWords(r.doc) == stepWords(o.doc)
}

// covers tells whether a matches whatever b matches, as far as that can be said from how they are written.
func (l *linter) covers(a, b *rule) bool {
	for at := a.at; at >= 0; at = l.rules[at].parent {
		if !l.scopeCovered(&l.scopes[at], b) { // what tells most rules apart
			return false
		}
	}
	if a.when != nil && (b.when == nil || a.when.text != b.when.text) {
		return false
	}
	if len(a.windows) > 0 && windowWords(a.doc.Windows) != windowWords(b.doc.Windows) {
		return false
	}
	if a.protocol != "" && a.protocol != b.protocol {
		return false
	}
	if len(a.ports) > 0 && (len(b.ports) == 0 || slices.ContainsFunc(b.ports, func(p access.Ports) bool {
		return !slices.ContainsFunc(a.ports, func(q access.Ports) bool { return q.Contains(p) })
	})) {
		return false
	}
	if len(a.sources) > 0 && (len(b.sources) == 0 || slices.ContainsFunc(b.sources, l.outside(a))) {
		return false
	}
	return a.everybody || !b.everybody && l.includes(a.doc.Requesters, b.doc.Requesters)
}

// includes tells whether everybody in inner is in outer.
func (l *linter) includes(outer, inner []string) bool {
	p := l.compilePeople(outer, func(string, ...any) {})
	for _, n := range inner {
		if isGroup(n) {
			i := l.groupByName[fold(n[len(access.GroupPrefix):])]
			if !slices.ContainsFunc(p.groups, func(g int) bool { return slices.Contains(l.groups[i].belongs, g) }) {
				return false
			}
			continue
		}
		if !p.lists(fold(n), l.members(fold(n), nil)) {
			return false
		}
	}
	return true
}

// scopeCovered tells whether some scope of b, its own or one around it, lies within each part of a scope.
func (l *linter) scopeCovered(a *scope, b *rule) bool {
	inSome := func(f func(*scope) bool) bool {
		for at := b.at; at >= 0; at = l.rules[at].parent {
			if f(&l.scopes[at]) {
				return true
			}
		}
		return false
	}
	if len(a.vms) > 0 && !inSome(func(s *scope) bool { return globsCover(a.vms, s.vms) }) {
		return false
	}
	if len(a.groups) > 0 && !inSome(func(s *scope) bool { return globsCover(a.groups, s.groups) }) {
		return false
	}
	if len(a.subs) > 0 && !inSome(func(s *scope) bool {
		return len(s.subs) > 0 && !slices.ContainsFunc(s.subs, func(x string) bool { return !slices.Contains(a.subs, x) })
	}) {
		return false
	}
	for i := range a.tags {
		t := &a.tags[i]
		if !inSome(func(s *scope) bool {
			return slices.ContainsFunc(s.tags, func(o tag) bool { return o.key == t.key && globsCover(t.values, o.values) })
		}) {
			return false
		}
	}
	return true
}

// globsCover tells whether every pattern of inner lies within one of outer.
func globsCover(outer, inner []glob) bool {
	return len(inner) > 0 && !slices.ContainsFunc(inner, func(g glob) bool {
		return !slices.ContainsFunc(outer, func(o glob) bool {
			switch {
			case o == g || o.kind == globAny:
				return true
			case g.kind == globExact:
				return o.match(g.text)
			case o.kind == globPrefix && g.kind == globPrefix:
				return strings.HasPrefix(g.text, o.text)
			case o.kind == globSuffix && g.kind == globSuffix:
				return strings.HasSuffix(g.text, o.text)
			}
			return false
		})
	})
}

// unused finds groups of people that no rule names.
func (l *linter) unused() {
	used := make([]bool, len(l.groups))
	note := func(lists ...[]string) {
		for _, list := range lists {
			for _, n := range list {
				if isGroup(n) {
					if i, ok := l.groupByName[fold(n[len(access.GroupPrefix):])]; ok {
						used[i] = true
					}
				}
			}
		}
	}
	conditions := ""
	for i := range l.rules {
		d := l.rules[i].doc
		note(d.Requesters, d.Approvers)
		for _, s := range d.Steps {
			note(s.Approvers, s.EscalateTo)
		}
		conditions += d.When + "\n"
		if d.BreakGlass != nil {
			note(d.BreakGlass.Requesters)
		}
		if d.AutoApprove != nil {
			conditions += d.AutoApprove.When + "\n"
		}
	}
	conditions = fold(conditions)
	for i, g := range l.groups {
		by := slices.ContainsFunc(g.belongs, func(j int) bool { return used[j] })
		if !by && !strings.Contains(conditions, fold(g.name)) {
			doc := l.doc.Groups[g.name]
			l.out = append(l.out, Finding{Warning, "unused-group", doc.marks.fault("", "", "group %s is named by no rule", g.name), "take it out, or write it as group:" + g.name})
		}
		if !g.open && len(l.peopleIn([]string{access.GroupPrefix + l.groups[i].name})) == 0 {
			doc := l.doc.Groups[g.name]
			l.out = append(l.out, Finding{Warning, "empty-group", doc.marks.fault("", "", "group %s has nobody in it", g.name), "name its members, or the claims that put people into it"})
		}
	}
}

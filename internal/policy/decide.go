package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// verdict is what is known of whether something matches.
type verdict uint8

const (
	no      verdict = iota
	unknown         // not known, or true of a part of what is asked
	yes
)

// ask prepares what is asked, for one target after the other.
func (s *Set) ask(a *access.Ask, now time.Time) *query {
	q := &query{set: s, ask: a, now: now, source: a.Terms.Source, who: fold(a.Requester)}
	q.member = s.members(q.who, a.Groups)
	q.start = a.StartAt
	switch {
	case a.Extension && q.start.IsZero(): // where its end is not known it is not before: all of what was held may lie ahead
		q.start = now.Add(a.Held)
	case q.start.Before(now):
		q.start = now
	}
	q.end = q.start.Add(a.Terms.Duration)
	q.in.q = q
	return q
}

// aim turns the query to a target.
func (q *query) aim(t access.Target) {
	q.target = t
	clear(q.unsure)
	sub, group := t.VM.Scope()
	if sub == "" {
		sub, group = q.ask.Subscription, q.ask.Group
	}
	q.vm, q.group, q.sub = fold(t.VM.Name), fold(group), fold(sub)
	q.in = input{q: q, groups: q.in.groups, roles: q.in.roles, tags: q.in.tags}
}

// matches tells whether the machine is in the scope; what is not known of it is unknown.
func (sc *scope) matches(q *query) verdict {
	v := yes
	if len(sc.vms) > 0 {
		if q.vm == "" {
			v = unknown
		} else if !anyGlob(sc.vms, q.vm) {
			return no
		}
	}
	if len(sc.groups) > 0 {
		if q.group == "" {
			v = unknown
		} else if !anyGlob(sc.groups, q.group) {
			return no
		}
	}
	if len(sc.subs) > 0 {
		if q.sub == "" {
			v = unknown
		} else if !slices.Contains(sc.subs, q.sub) {
			return no
		}
	}
	if len(sc.tags) > 0 {
		if q.ask.Tags == nil {
			return unknown
		}
		m := q.tagMap()
		for i := range sc.tags {
			have, ok := m[sc.tags[i].key]
			if !ok || !anyGlob(sc.tags[i].values, strings.ReplaceAll(fold(have), "/", separator)) {
				return no
			}
		}
	}
	return v
}

// A rule that holds for a part of what is asked (some of the ports, of the addresses, of the time) permits nothing, and what it asks for
// holds all the same: else who wants a stricter rule out of the way would ask for a little more than it is about (P6).

// covers tells whether the rule's ports and protocol hold the target.
func (r *rule) covers(t access.Target) verdict {
	if r.protocol != "" && r.protocol != t.Protocol {
		return no
	}
	if len(r.ports) == 0 {
		return yes
	}
	v := no
	for _, p := range r.ports {
		if p.Contains(t.Ports) {
			return yes
		}
		if p.Overlaps(t.Ports) {
			v = unknown
		}
	}
	return v
}

// from tells whether the source lies in the networks.
func (r *rule) from(src netip.Prefix) verdict {
	switch {
	case len(r.sources) == 0 || inNetworks(r.sources, src):
		return yes
	case slices.ContainsFunc(r.sources, src.Overlaps):
		return unknown
	}
	return no
}

func inNetworks(list []netip.Prefix, src netip.Prefix) bool {
	for _, s := range list {
		if access.PrefixWithin(src, s) {
			return true
		}
	}
	return false
}

// open tells whether the access lies in the rule's windows. An emergency keeps no hours, but for those of rules that deny.
func (r *rule) open(q *query) verdict {
	switch {
	case len(r.windows) == 0 || q.ask.BreakGlass && !r.deny || within(r.windows, q.start, q.end):
		return yes
	case touches(r.windows, q.start, q.end):
		return unknown
	}
	return no
}

// conditionHolds judges the condition. What cannot be judged is noted, and holds for a rule that denies alone.
func (r *rule) conditionHolds(q *query) bool {
	if r.when == nil {
		return true
	}
	if q.assume {
		return !r.deny
	}
	ok, err := r.when.holds(&q.in)
	if err != nil {
		if q.judged == nil {
			q.judged = map[*rule]error{}
		}
		q.judged[r] = err
		return r.deny
	}
	return ok
}

// asks tells whether the rule is about this requester. In an emergency it is those whom break_glass lists.
func (r *rule) asks(q *query) bool {
	if q.ask.BreakGlass && !r.deny {
		return r.glass != nil && r.glass.requesters.lists(q.who, q.member)
	}
	return r.everybody || r.requesters.lists(q.who, q.member)
}

// bears tells how all but the rule's scope bears on what is asked, what costs least first: yes where it is about all of it, unknown where
// it is about a part of it or its condition could not be judged.
func (r *rule) bears(q *query) verdict {
	v := r.covers(q.target)
	if v == no || !r.asks(q) {
		return no
	}
	if v = min(v, r.from(q.source)); v == no {
		return no
	}
	if v = min(v, r.open(q)); v == no {
		return no
	}
	delete(q.judged, r) // of another target
	switch {
	case r.conditionHolds(q):
		return v
	case q.judged[r] != nil:
		return unknown
	}
	return no
}

// judge appends the rules that bear on the target where one of them permits it, and returns the first that denies it.
func (s *Set) judge(q *query, out []*rule) ([]*rule, *rule) {
	unknownTo := 0 // rules before it are in a scope that is not known
	permitted, n := false, len(out)
	for i := 0; i < len(s.rules); {
		v := s.scopes[i].matches(q)
		if v == no {
			i = s.scopes[i].end
			continue
		}
		if v == unknown {
			unknownTo = max(unknownTo, s.scopes[i].end)
		}
		r := &s.rules[i]
		if v := r.bears(q); v != no {
			if r.deny {
				return out[:n], r
			}
			if v == yes && i >= unknownTo {
				permitted = true
			} else { // of what it is not sure of it approves nothing by itself
				if q.unsure == nil {
					q.unsure = map[*rule]bool{}
				}
				q.unsure[r] = true
			}
			out = append(out, r)
		}
		i++
	}
	if !permitted {
		out = out[:n]
	}
	return out, nil
}

// limitsFor returns what the rule allows this ask, and whom it needs for it: nobody where it approves by itself.
func (r *rule) limitsFor(q *query) access.Limits {
	if q.ask.BreakGlass {
		return r.glass.limits
	}
	l := r.limits
	if r.auto != nil && !q.unsure[r] && r.auto.approves(q) {
		l.Needs, l.Auto = nil, l.Rules
	}
	return l
}

// approves tells whether the ask is approved without a person: within the cap, extensions included, and where the condition holds. One
// that cannot be judged approves nothing.
func (a *auto) approves(q *query) bool {
	d := q.ask.Terms.Duration
	if d <= 0 || d > a.max || q.ask.Extension && q.ask.Held > a.max-d {
		return false
	}
	if len(a.sources) > 0 && !inNetworks(a.sources, q.source) {
		return false
	}
	if a.when == nil || q.assume {
		return true
	}
	ok, err := a.when.holds(&q.in)
	return err == nil && ok
}

// Decide returns the limits within which the ask is allowed, or why it is not. Each target is judged by all rules that bear on it; one of
// them must hold for all that is asked, and the limits of all of them are combined so that the strictest wins (P6). The limits come with the error where it is the limits
// that refuse. With BreakGlass only rules whose break_glass lists the requester allow, and no approval is needed.
func (s *Set) Decide(a access.Ask, now time.Time) (access.Limits, error) {
	if strings.TrimSpace(a.Requester) == "" {
		return access.Limits{}, access.Errorf(access.CodeUnauthenticated, "nobody is asking").WithHint("sign in first: curfew login")
	}
	if err := a.Terms.Check(); err != nil {
		return access.Limits{}, err
	}
	q := s.ask(&a, now)
	var buf [8]*rule
	matched := buf[:0]
	var l access.Limits
	for _, t := range a.Terms.Targets {
		q.aim(t)
		n := len(matched)
		var deny *rule
		if matched, deny = s.judge(q, matched); deny != nil {
			return access.Limits{}, deny.forbids(q)
		}
		if len(matched) == n {
			return access.Limits{}, s.nothing(q)
		}
		for i, r := range matched[n:] {
			if o := r.limitsFor(q); n+i == 0 {
				l = o
			} else {
				l = l.Strictest(o)
			}
		}
	}
	return l, check(l, matched, &a, now)
}

// UsualDuration is how long an access lasts where neither who asks nor the policy says.
const UsualDuration = time.Hour

// DefaultDuration returns how long an access lasts where none was asked for: the shortest default of the rules that match, or else the
// usual time, and no longer than they allow; 0 where no rule matches.
func (s *Set) DefaultDuration(a access.Ask, now time.Time) time.Duration {
	var matched []*rule
	a.Terms.Duration = access.MinDuration
	if a.Terms.Check() != nil {
		return 0
	}
	q := s.ask(&a, now)
	for _, t := range a.Terms.Targets {
		q.aim(t)
		var deny *rule
		if matched, deny = s.judge(q, matched); deny != nil {
			return 0
		}
	}
	var d, most time.Duration
	for _, r := range matched {
		l := r.limitsFor(q)
		if most == 0 || l.MaxDuration < most {
			most = l.MaxDuration
		}
		if v := time.Duration(r.doc.DefaultDuration); v > 0 && (d == 0 || v < d) {
			d = v
		}
	}
	if d == 0 {
		d = UsualDuration
	}
	return min(d, most)
}

// names lists the rules that something holds for, or all where it holds for none.
func names(rules []*rule, f func(*rule) bool) string {
	var out, all []string
	for _, r := range rules {
		if !slices.Contains(all, r.name) {
			all = append(all, r.name)
			if f(r) {
				out = append(out, r.name)
			}
		}
	}
	if len(out) == 0 {
		out = all
	}
	return strings.Join(out, ", ")
}

func invalid(field, format string, args ...any) *access.Error {
	return &access.Error{Code: access.CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// check holds the ask against the strictest limits, and names the rules that are the reason.
func check(l access.Limits, matched []*rule, a *access.Ask, now time.Time) error {
	d := a.Terms.Duration
	limits := func(r *rule) *access.Limits {
		if a.BreakGlass {
			return &r.glass.limits
		}
		return &r.limits
	}
	the := func(f func(*access.Limits) bool) string {
		return names(matched, func(r *rule) bool { return f(limits(r)) })
	}
	switch {
	case d < access.MinDuration:
		return invalid("duration", "%s is shorter than the least duration, %s", access.Duration(d), access.Duration(access.MinDuration)).
			WithHint("ask for %s", access.Duration(access.MinDuration))
	case a.Extension && a.BreakGlass:
		return access.Errorf(access.CodeDenied, "an access by break-glass is not extended").WithHint("ask for a new grant when this one is over")
	case a.Extension && l.NoExtensions:
		return access.Errorf(access.CodeDenied, "rule %s lets no grant be extended", the(func(o *access.Limits) bool { return o.NoExtensions })).
			WithHint("ask for a new grant when this one is over")
	case a.Extension && l.MaxExtensions > 0 && a.Extensions >= l.MaxExtensions:
		return access.Errorf(access.CodeDenied, "the grant was extended %d times, which is as often as rule %s allows", a.Extensions,
			the(func(o *access.Limits) bool { return o.MaxExtensions > 0 && o.MaxExtensions <= a.Extensions })).
			WithHint("ask for a new grant when this one is over")
	case a.Extension && d > l.MaxTotal-a.Held: // so written that nothing overflows
		hint := "ask for a new grant when this one is over"
		if rest := l.MaxTotal - a.Held; rest >= access.MinDuration {
			hint = fmt.Sprintf("ask for %s instead", access.Duration(rest))
		}
		return access.Errorf(access.CodeDenied, "the grant lasts %s; with %s more it would be longer than the %s in total that rule %s allows",
			access.Duration(a.Held), access.Duration(d), access.Duration(l.MaxTotal), the(func(o *access.Limits) bool { return d > o.MaxTotal-a.Held })).WithHint("%s", hint)
	case a.Extension && l.MaxExtension > 0 && d > l.MaxExtension:
		return access.Errorf(access.CodeDenied, "%s is over the limit: rule %s allows %s at a time", access.Duration(d),
			the(func(o *access.Limits) bool { return o.MaxExtension > 0 && d > o.MaxExtension }), access.Duration(l.MaxExtension)).
			WithHint("ask for %s instead", access.Duration(l.MaxExtension))
	case !a.Extension && d > l.MaxDuration:
		return access.Errorf(access.CodeDenied, "%s is over the limit: rule %s allows %s", access.Duration(d),
			the(func(o *access.Limits) bool { return d > o.MaxDuration }), access.Duration(l.MaxDuration)).
			WithHint("ask for %s instead", access.Duration(l.MaxDuration))
	}
	if err := texts(matched, a); err != nil {
		return err
	}
	widest, of := l.WidestIPv4, func(o *access.Limits) int { return o.WidestIPv4 }
	if a.Terms.Source.Addr().Is6() {
		widest, of = l.WidestIPv6, func(o *access.Limits) int { return o.WidestIPv6 }
	}
	if bits := a.Terms.Source.Bits(); bits < widest {
		return access.Errorf(access.CodeDenied, "source %s is wider than rule %s allows: /%d at most", a.Terms.Source,
			the(func(o *access.Limits) bool { return bits < of(o) }), widest).
			WithHint("ask from your own address: leave --from out, or name a narrower prefix")
	}
	if a.Extension || a.StartAt.IsZero() {
		return nil
	}
	if a.StartAt.Before(now.Add(-time.Minute)) {
		return invalid("start", "start %s is in the past; it is %s now", access.Clock(a.StartAt), access.Clock(now)).WithHint("leave --at out to start as soon as it is approved")
	}
	if a.BreakGlass && a.StartAt.After(now.Add(time.Minute)) {
		return invalid("start", "break-glass opens at once, and start %s lies ahead", access.Clock(a.StartAt)).WithHint("leave --at out, or ask in the usual way")
	}
	if a.StartAt.Sub(now) > l.MaxAhead {
		return access.Errorf(access.CodeDenied, "start %s is too far ahead: rule %s allows %s", access.Clock(a.StartAt),
			the(func(o *access.Limits) bool { return a.StartAt.Sub(now) > o.MaxAhead }), access.Duration(l.MaxAhead)).
			WithHint("ask for a start before %s", access.Clock(now.Add(l.MaxAhead)))
	}
	return nil
}

// texts checks reason and ticket, by each rule that asks for them.
func texts(matched []*rule, a *access.Ask) error {
	fields := []struct {
		name, value, flag string
		most              int
		of                func(*rule) *text
	}{
		{"reason", a.Reason, `add --reason, for example --reason "INC-4711 disk full"`, 500, func(r *rule) *text {
			if a.BreakGlass {
				return &r.glass.reason
			}
			return &r.reason
		}},
		{"ticket", a.Ticket, "add --ticket", 100, func(r *rule) *text {
			if a.BreakGlass {
				return &r.glass.ticket
			}
			return &r.ticket
		}},
	}
	for i := range fields {
		f := &fields[i]
		if strings.TrimSpace(f.value) != "" {
			continue
		}
		missing := func(r *rule) bool { return f.of(r).required }
		if j := slices.IndexFunc(matched, missing); j >= 0 {
			hint := f.flag
			if k := slices.IndexFunc(matched, func(r *rule) bool { return missing(r) && f.of(r).message != "" }); k >= 0 {
				hint = f.of(matched[k]).message
			}
			return invalid(f.name, "rule %s asks for a %s, and none was given", names(matched, missing), f.name).WithHint("%s", hint)
		}
	}
	for i := range fields {
		f := &fields[i]
		switch {
		case len(f.value) > f.most && f.name == "reason":
			return invalid(f.name, "the reason is longer than %d bytes", f.most).WithHint("say it shorter, and name a ticket for the rest")
		case len(f.value) > f.most:
			return invalid(f.name, "the ticket is longer than %d bytes", f.most).WithHint("name its number alone")
		case !plain(f.value) && f.name == "reason":
			return invalid(f.name, "the reason holds control characters, which could hide what an approver reads").WithHint("write it as plain text")
		case !plain(f.value):
			return invalid(f.name, "the ticket holds control characters").WithHint("write it as plain text")
		}
		value := strings.TrimSpace(f.value)
		if value == "" {
			continue
		}
		for _, r := range matched {
			if t := f.of(r); t.pattern != nil && !t.pattern.MatchString(value) {
				hint := fmt.Sprintf("it must have the form %s", t.written)
				if t.message != "" {
					hint = t.message
				}
				return invalid(f.name, "the %s %q has not the form that rule %s asks for", f.name, value, r.name).WithHint("%s", hint)
			}
		}
	}
	return nil
}

// plain tells whether a terminal shows s as it is: valid UTF-8 without control characters, line ends and tabs aside, and without
// those that turn the direction of writing.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) || unicode.Is(unicode.Bidi_Control, r)
	})
}

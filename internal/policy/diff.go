package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Effect says which way a change goes, for those who ask.
type Effect string

// The effects.
const (
	Gains   Effect = "gains"
	Loses   Effect = "loses"
	Changes Effect = "changes"
)

// Change is one difference between two policies, in words.
type Change struct {
	Effect Effect `json:"effect"`
	About  string `json:"about"` // "people", "group NAME", "rule NAME"
	Text   string `json:"text"`
}

// String returns the change in one line.
func (c Change) String() string { return string(c.Effect) + ": " + c.About + ": " + c.Text }

// Diff says in words how one policy differs from another: first who gains and loses what, as far as the rules' own examples show it
// (conditions taken to hold), then what was changed in the text. Equal policies have no difference.
func Diff(old, now *Set, at time.Time) []Change {
	if old.digest == now.digest {
		return nil
	}
	var out []Change
	out = append(out, comparePeople(old, now, at)...)
	out = append(out, diffGroups(old, now)...)
	return append(out, diffRules(old, now)...)
}

func diffGroups(old, now *Set) (out []Change) {
	names := map[string]string{}
	for _, g := range slices.Concat(old.groups, now.groups) {
		names[fold(g.name)] = g.name
	}
	for _, k := range sortedKeys(names) {
		a, was := old.groupByName[k]
		b, is := now.groupByName[k]
		about := "group " + names[k]
		entry := access.GroupPrefix + names[k]
		switch {
		case !was:
			out = append(out, Change{Changes, about, "is new, with " + whoWords(now.peopleIn([]string{entry}), "nobody by name")})
		case !is:
			out = append(out, Change{Changes, about, "is gone"})
		default:
			p, q := old.peopleIn([]string{entry}), now.peopleIn([]string{entry})
			if in := without(q, p); len(in) > 0 {
				out = append(out, Change{Gains, about, strings.Join(in, ", ") + " belongs to it"})
			}
			if gone := without(p, q); len(gone) > 0 {
				out = append(out, Change{Loses, about, strings.Join(gone, ", ") + " does not belong to it any more"})
			}
			c, d := old.doc.Groups[old.groups[a].name].Claims, now.doc.Groups[now.groups[b].name].Claims
			if in := without(d, c); len(in) > 0 {
				out = append(out, Change{Gains, about, "people with the claim " + strings.Join(in, ", ") + " belong to it"})
			}
			if gone := without(c, d); len(gone) > 0 {
				out = append(out, Change{Loses, about, "people with the claim " + strings.Join(gone, ", ") + " do not belong to it any more"})
			}
		}
	}
	return out
}

// without returns what of a is not in b, compared without case.
func without(a, b []string) (out []string) {
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y string) bool { return fold(x) == fold(y) }) {
			out = append(out, x)
		}
	}
	return out
}

func (s *Set) around(r *rule) (out []*Rule) {
	for p := r.parent; p >= 0; p = s.rules[p].parent {
		out = append([]*Rule{s.rules[p].doc}, out...)
	}
	return out
}

func (s *Set) byName() map[string]*rule {
	m := map[string]*rule{}
	for i := range s.rules {
		m[fold(s.rules[i].name)] = &s.rules[i]
	}
	return m
}

func diffRules(old, now *Set) (out []Change) {
	was, is := old.byName(), now.byName()
	for i := range old.rules {
		r := &old.rules[i]
		if is[fold(r.name)] == nil {
			text, effect := "is gone: "+old.sentence(r), Loses
			if r.deny {
				effect = Gains
			}
			out = append(out, Change{effect, "rule " + r.name, text})
		}
	}
	for i := range now.rules {
		r := &now.rules[i]
		o := was[fold(r.name)]
		if o == nil {
			text, effect := "is new: "+now.sentence(r), Gains
			if r.deny {
				effect = Loses
			}
			out = append(out, Change{effect, "rule " + r.name, text})
			continue
		}
		out = append(out, compareRule(old, o, now, r)...)
	}
	return out
}

// sentence says a rule in one line.
func (s *Set) sentence(r *rule) string {
	d := r.doc
	who := whoWords(d.Requesters, "everybody with the role")
	what := portWords(d) + " of " + scopeWords(d, s.around(r))
	var more []string
	if len(d.Sources) > 0 {
		more = append(more, "from "+joined(d.Sources))
	}
	if len(d.Windows) > 0 {
		more = append(more, windowWords(d.Windows))
	}
	if d.When != "" {
		more = append(more, "when "+oneLine(d.When))
	}
	tail := ""
	if len(more) > 0 {
		tail = ", " + strings.Join(more, ", ")
	}
	if r.deny {
		return fmt.Sprintf("%s is denied %s%s", who, what, tail)
	}
	out := fmt.Sprintf("%s may ask for %s%s, for up to %s; %s must agree", who, what, tail, dur(r.limits.MaxDuration), stepWords(d))
	if d.AutoApprove != nil {
		out += "; approved by itself " + autoWords(d.AutoApprove)
	}
	if d.BreakGlass != nil {
		out += "; break-glass: " + glassWords(d.BreakGlass)
	}
	return out
}

// compareRule says how a rule was changed. What lets more through gains, where the rule permits; the other way round where it denies.
func compareRule(old *Set, o *rule, now *Set, r *rule) (out []Change) {
	about := "rule " + r.name
	say := func(e Effect, format string, args ...any) {
		if o.deny && r.deny && e != Changes {
			e = map[Effect]Effect{Gains: Loses, Loses: Gains}[e]
		}
		out = append(out, Change{e, about, fmt.Sprintf(format, args...)})
	}
	a, b := o.doc, r.doc
	if o.deny != r.deny {
		if r.deny {
			return []Change{{Loses, about, "denies now: " + now.sentence(r)}}
		}
		return []Change{{Gains, about, "permits now: " + now.sentence(r)}}
	}
	words := func(key, x, y string, e Effect) {
		if x != y {
			say(e, "%s: %s, was %s", key, y, x)
		}
	}
	words("machines", scopeWords(a, old.around(o)), scopeWords(b, now.around(r)), Changes)
	list := func(key, all string, x, y []string, wider Effect) {
		in, gone := without(y, x), without(x, y)
		switch {
		case len(x) > 0 && len(y) == 0:
			say(wider, "%s: %s now, was %s", key, all, whoWords(x, ""))
		case len(x) == 0 && len(y) > 0:
			say(opposite(wider), "%s: only %s now, was %s", key, whoWords(y, ""), all)
		default:
			if len(in) > 0 {
				say(wider, "%s: %s comes in", key, whoWords(in, ""))
			}
			if len(gone) > 0 {
				say(opposite(wider), "%s: %s is out", key, whoWords(gone, ""))
			}
		}
	}
	list("requesters", "everybody with the role", a.Requesters, b.Requesters, Gains)
	list("ports", "every port", texted(a.Ports), texted(b.Ports), Gains)
	list("sources", "anywhere", texted(a.Sources), texted(b.Sources), Gains)
	words("protocol", orWord(string(a.Protocol), "any"), orWord(string(b.Protocol), "any"), Changes)
	words("windows", orWord(windowWords(a.Windows), "any time"), orWord(windowWords(b.Windows), "any time"), Changes)
	words("condition", orWord(oneLine(a.When), "none"), orWord(oneLine(b.When), "none"), Changes)
	if r.deny {
		words("message", orWord(a.Message, "none"), orWord(b.Message, "none"), Changes)
		return out
	}
	l, m := o.limits, r.limits
	amount := func(key string, x, y time.Duration) {
		if x != y {
			e := Gains
			if y < x {
				e = Loses
			}
			say(e, "%s: %s, was %s", key, dur(y), dur(x))
		}
	}
	amount("longest access", l.MaxDuration, m.MaxDuration)
	amount("longest with extensions", l.MaxTotal, m.MaxTotal)
	amount("how far ahead", l.MaxAhead, m.MaxAhead)
	bits := func(key string, x, y int) {
		if x != y {
			e := Gains
			if y > x {
				e = Loses
			}
			say(e, "%s: /%d, was /%d", key, y, x)
		}
	}
	bits("widest IPv4 source", l.WidestIPv4, m.WidestIPv4)
	bits("widest IPv6 source", l.WidestIPv6, m.WidestIPv6)
	words("default duration", orWord(durOr(a.DefaultDuration), "none"), orWord(durOr(b.DefaultDuration), "none"), Changes)
	words("extensions", orWord(extensionWords(a), "as the total allows"), orWord(extensionWords(b), "as the total allows"), Changes)
	words("reason", textWords(a.Reason, true), textWords(b.Reason, true), Changes)
	words("ticket", textWords(a.Ticket, false), textWords(b.Ticket, false), Changes)
	if x, y := stepWords(a), stepWords(b); x != y {
		e := Changes
		if p, q := access.Approvals(l.Needs), access.Approvals(m.Needs); q > p {
			e = Loses
		} else if q < p {
			e = Gains
		}
		say(e, "who must agree: %s, was %s", y, x)
	}
	words("automatic approval", autoWords(a.AutoApprove), autoWords(b.AutoApprove), either(a.AutoApprove == nil, b.AutoApprove == nil))
	words("break-glass", glassWords(a.BreakGlass), glassWords(b.BreakGlass), either(a.BreakGlass == nil, b.BreakGlass == nil))
	words("hard close", fmt.Sprint(a.HardClose), fmt.Sprint(b.HardClose), Changes)
	words("warning before the end", orWord(durOr(a.WarnBefore), "the default"), orWord(durOr(b.WarnBefore), "the default"), Changes)
	words("notified", whoWords(a.Notify, "nobody"), whoWords(b.Notify, "nobody"), Changes)
	return out
}

// either tells the effect of something that was, or is, not there.
func either(wasNot, isNot bool) Effect {
	switch {
	case wasNot && !isNot:
		return Gains
	case isNot && !wasNot:
		return Loses
	}
	return Changes
}

func opposite(e Effect) Effect {
	if e == Gains {
		return Loses
	}
	return Gains
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func durOr(d access.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func texted[T fmt.Stringer](list []T) (out []string) {
	for _, x := range list {
		out = append(out, x.String())
	}
	return out
}

// example is an ask for a machine that a rule is about.
type example struct {
	what string // in words
	ask  access.Ask
	at   time.Time
}

// example makes one, if the rule's patterns allow it.
func (s *Set) example(r *rule, at time.Time) (example, bool) {
	a := access.Ask{Reason: "an example", Ticket: "an example", Tags: map[string]string{}, OS: "linux"}
	name, group := "example", "example"
	for _, d := range append(s.around(r), r.doc) {
		if len(d.VMs) > 0 {
			name = sample(d.VMs[0])
		}
		if len(d.Groups) > 0 {
			group = sample(d.Groups[0])
		}
		if len(d.Subscriptions) > 0 {
			a.Subscription = d.Subscriptions[0]
		}
		for k, v := range d.Tags {
			if len(v) > 0 {
				a.Tags[k] = sample(v[0])
			}
		}
	}
	if a.Subscription == "" {
		a.Subscription = "example"
	}
	a.Group = group
	t := access.Target{VM: access.VM{Name: name}, Ports: access.Port(22), Protocol: access.TCP}
	if len(r.ports) > 0 {
		t.Ports = access.Port(r.ports[0].First)
	}
	if r.protocol != "" {
		t.Protocol = r.protocol
	}
	src := netip.MustParsePrefix("203.0.113.7/32")
	if len(r.sources) > 0 {
		p := r.sources[0].Addr()
		src = netip.PrefixFrom(p, p.BitLen())
	}
	a.Terms = access.Terms{Targets: []access.Target{t}, Source: src, Duration: access.MinDuration}
	if len(r.windows) > 0 {
		if open, ok := next(r.windows, at, access.MinDuration); ok {
			a.StartAt = open
		}
	}
	q := s.ask(&a, at)
	q.aim(t)
	for i := r.at; i >= 0; i = s.rules[i].parent {
		if s.scopes[i].matches(q) != yes {
			return example{}, false
		}
	}
	return example{portWords(r.doc) + " of " + scopeWords(r.doc, s.around(r)), a, at}, true
}

// sample returns a name that a pattern matches, for simple ones.
func sample(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; c {
		case '*', '?':
			b.WriteByte('1')
		case '[':
			if j := strings.IndexByte(pattern[i:], ']'); j > 1 {
				b.WriteByte(pattern[i+1])
				i += j
			}
		case '\\':
			if i+1 < len(pattern) {
				i++
				b.WriteByte(pattern[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// person is somebody whose rights are compared.
type person struct {
	name   string // as shown
	as     string // as asked
	groups []string
}

// persons lists those whom either policy names, one for each group that tokens put people into, and one who is nowhere named.
func persons(sets ...*Set) (out []person) {
	seen := map[string]bool{}
	add := func(p person) {
		if k := fold(p.as) + "\x00" + strings.Join(p.groups, "\x00"); !seen[k] {
			seen[k] = true
			out = append(out, p)
		}
	}
	for _, s := range sets {
		for i := range s.rules {
			d := s.rules[i].doc
			for _, list := range [][]string{d.Requesters, glassList(d)} {
				for _, n := range s.peopleIn(list) {
					add(person{name: n, as: n})
				}
			}
		}
		for _, g := range s.groups {
			for _, m := range g.direct {
				add(person{name: m, as: m})
			}
			if g.open {
				add(person{name: "group " + g.name, as: "\x01somebody of a group", groups: []string{g.name}})
			}
		}
	}
	slices.SortFunc(out, func(a, b person) int { return strings.Compare(fold(a.name), fold(b.name)) })
	return append(out, person{name: "everybody else", as: "\x01somebody else"})
}

func glassList(d *Rule) []string {
	if d.BreakGlass == nil {
		return nil
	}
	return d.BreakGlass.Requesters
}

// standing is what somebody may, in an example.
type standing struct {
	may    bool
	limits access.Limits
	words  string
}

// stands judges an example for a person, conditions taken to hold, and texts to be right.
func (s *Set) stands(e example, p person, glass bool) standing {
	a := e.ask
	a.Requester, a.Groups, a.BreakGlass = p.as, p.groups, glass
	q := s.ask(&a, e.at)
	q.assume = true
	q.aim(a.Terms.Targets[0])
	matched, deny := s.judge(q, nil)
	if deny != nil {
		return standing{words: "denied by rule " + deny.name}
	}
	if len(matched) == 0 {
		return standing{words: "denied"}
	}
	var l access.Limits
	for i, r := range matched {
		if o := r.limitsFor(q); i == 0 {
			l = o
		} else {
			l = l.Strictest(o)
		}
	}
	st := standing{may: true, limits: l}
	if glass {
		st.words = fmt.Sprintf("at once by break-glass, up to %s (rule %s)", dur(l.MaxDuration), strings.Join(l.Rules, ", "))
		return st
	}
	st.words = fmt.Sprintf("up to %s, %s (rule %s)", dur(l.MaxDuration), needWords(l), strings.Join(l.Rules, ", "))
	return st
}

// needWords says whom limits need.
func needWords(l access.Limits) string {
	if len(l.Needs) == 0 && len(l.Auto) > 0 {
		return "approved by itself where its cap and condition allow"
	}
	var out []string
	for _, n := range l.Needs {
		for _, s := range n.Steps {
			out = append(out, s.Words())
		}
	}
	return "after approval by " + strings.Join(out, " and ")
}

// effect compares two standings.
func (a standing) effect(b standing) Effect {
	switch {
	case !a.may && b.may:
		return Gains
	case a.may && !b.may:
		return Loses
	}
	more := b.limits.MaxDuration > a.limits.MaxDuration || b.limits.MaxTotal > a.limits.MaxTotal || access.Approvals(b.limits.Needs) < access.Approvals(a.limits.Needs)
	less := b.limits.MaxDuration < a.limits.MaxDuration || b.limits.MaxTotal < a.limits.MaxTotal || access.Approvals(b.limits.Needs) > access.Approvals(a.limits.Needs)
	switch {
	case more && !less:
		return Gains
	case less && !more:
		return Loses
	}
	return Changes
}

// maxCompared bounds how many rules are looked at when people and examples are compared: about a second of work.
const maxCompared = 20_000_000

// comparePeople compares what each person may, in an example of each rule of both policies.
func comparePeople(old, now *Set, at time.Time) (out []Change) {
	all := persons(old, now)
	var examples []example
	seen := map[string]bool{}
	for _, s := range []*Set{old, now} {
		for i := range s.rules {
			if e, ok := s.example(&s.rules[i], at); ok && !seen[e.what] {
				seen[e.what] = true
				examples = append(examples, e)
			}
		}
	}
	type key struct {
		effect Effect
		text   string
	}
	who := map[key][]string{}
	var order []key
	n := 0
	for _, e := range examples {
		for _, glass := range []bool{false, true} {
			for _, p := range all {
				if n += 2 + len(old.rules) + len(now.rules); n > maxCompared {
					return append(out, Change{Changes, "people", "there are too many people and rules to compare each with each; the rest is in the changes of the rules"})
				}
				a, b := old.stands(e, p, glass), now.stands(e, p, glass)
				if a.may == b.may && (!a.may || a.words == b.words) {
					continue
				}
				k := key{a.effect(b), fmt.Sprintf("%s: %s; was %s", e.what, b.words, a.words)}
				if who[k] == nil {
					order = append(order, k)
				}
				who[k] = append(who[k], p.name)
			}
		}
	}
	for _, k := range order {
		names := who[k]
		if len(names) == len(all) {
			names = []string{"everybody"}
		}
		out = append(out, Change{k.effect, "people", strings.Join(names, ", ") + ": " + k.text})
	}
	return out
}

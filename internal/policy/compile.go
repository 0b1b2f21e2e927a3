package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Set is a compiled policy. It is never changed, and may be asked by many at once. The zero value denies everything.
type Set struct {
	doc         Document
	digest      string
	scopes      []scope // beside rules, so that going through them touches little memory
	rules       []rule
	groups      []group
	groupByName map[string]int
	byPerson    map[string][]int
	byClaim     map[string][]int
}

// scope says which machines a rule is about. What a nested rule inherits stands in the rules around it, which are judged before.
type scope struct {
	vms    []glob
	groups []glob
	subs   []string
	tags   []tag
	end    int // behind the last rule within this one
}

type tag struct {
	key    string
	values []glob
}

// rule is a compiled Rule.
type rule struct {
	doc        *Rule
	name       string
	at         int // index
	parent     int // -1: none
	everybody  bool
	requesters people
	ports      []access.Ports
	protocol   access.Protocol
	sources    []netip.Prefix
	deny       bool
	windows    []window
	when       *condition
	limits     access.Limits
	reason     text
	ticket     text
	auto       *auto
	glass      *glass
}

type auto struct {
	when    *condition
	max     time.Duration
	sources []netip.Prefix
}

type glass struct {
	requesters people
	limits     access.Limits
	reason     text
	ticket     text
}

// text is a compiled Text.
type text struct {
	required bool
	pattern  *regexp.Regexp
	written  string
	message  string
}

// MaxBreakGlass is the longest that a rule may let somebody in without review.
const MaxBreakGlass = 4 * time.Hour

const (
	maxPattern = 500
	maxNesting = 10
)

// New compiles a policy. Its error names every fault with its place, and wraps Faults.
func New(d Document) (*Set, error) {
	s, faults := build(d)
	if err := faults.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// Load reads and compiles a policy: Parse and New in one, with the faults of both.
func Load(text []byte, name string) (*Set, error) { return New(parse(text, name)) }

// Check reports what New would refuse.
func (d Document) Check() Faults {
	_, faults := build(d)
	return faults
}

// Validate reports every fault of the policy at once.
func (d Document) Validate() error { return d.Check().err() }

// Merge joins policies into one, for a folder of files. A group that two of them define is a fault, and so is a rule's name.
func Merge(docs ...Document) Document {
	out := Document{Version: 1}
	for i, d := range docs {
		out.faults, out.broken = append(out.faults, d.faults...), out.broken || d.broken
		if i == 0 {
			out.marks = d.marks
		}
		if d.Version > out.Version {
			out.Version = d.Version
		}
		for name, g := range d.Groups {
			if have, ok := out.Groups[name]; ok {
				out.faults = append(out.faults, g.marks.fault("", "", "group %s stands in %s too", name, have.marks.file))
				continue
			}
			if out.Groups == nil {
				out.Groups = map[string]Group{}
			}
			out.Groups[name] = g
		}
		out.Rules = append(out.Rules, d.Rules...)
	}
	return out
}

// Document returns the policy as it was written. It must not be changed.
func (s *Set) Document() Document { return s.doc }

// Rules returns the rules for display, nested as they are written. They must not be changed.
func (s *Set) Rules() []Rule { return s.doc.Rules }

// Count returns the number of rules, nested ones included.
func (s *Set) Count() int { return len(s.rules) }

// Digest returns a name for what the policy says: two that say the same have the same, however they are laid out.
func (s *Set) Digest() string { return s.digest }

// compiler holds what is shared while a policy is compiled.
type compiler struct {
	set        *Set
	faults     Faults
	names      map[string]bool
	conditions map[string]*condition
	failed     map[string]error
}

func build(d Document) (*Set, Faults) {
	if d.Rules == nil {
		d.Rules = []Rule{} // as it is printed, so that both have one digest
	}
	s := &Set{doc: d}
	if d.broken {
		return s, d.faults
	}
	c := &compiler{set: s, faults: slices.Clone(d.faults), names: map[string]bool{}, conditions: map[string]*condition{}, failed: map[string]error{}}
	if d.Version < 0 || d.Version > 1 {
		c.faults = append(c.faults, d.marks.fault("version", "", "version %d of this format is not known; this program reads version 1", d.Version))
	}
	c.faults = append(c.faults, s.compileGroups(d)...)
	n := d.Count()
	s.scopes, s.rules = make([]scope, 0, n), make([]rule, 0, n)
	c.tree(d.Rules, -1, 0)
	b, err := json.Marshal(d)
	if err != nil {
		c.faults = append(c.faults, Fault{Text: fmt.Sprintf("it cannot be written as JSON: %v", err)})
	}
	sum := sha256.Sum256(b)
	s.digest = hex.EncodeToString(sum[:])
	return s, c.faults
}

func (c *compiler) tree(rules []Rule, parent, depth int) {
	for i := range rules {
		r := &rules[i]
		at := len(c.set.rules)
		c.set.rules = append(c.set.rules, rule{})
		c.set.scopes = append(c.set.scopes, scope{})
		if r.Name == "" {
			c.faults = append(c.faults, r.marks.fault("", "", "rule %d has no name", at+1))
		}
		if depth > maxNesting {
			c.faults = append(c.faults, r.marks.fault("", r.Name, "it is nested deeper than %d levels", maxNesting))
			continue
		}
		c.rule(r, at, parent)
		c.tree(r.Rules, at, depth+1)
		c.set.scopes[at].end = len(c.set.rules)
	}
}

// at notes faults of one rule.
type at struct {
	c     *compiler
	marks *marks
	rule  string
}

func (a at) bad(key, format string, args ...any) {
	a.c.faults = append(a.c.faults, a.marks.fault(key, a.rule, format, args...))
}

// list returns a function for faults of a list.
func (a at) list(key string) func(string, ...any) {
	return func(format string, args ...any) { a.bad(key, key+" "+format, args...) }
}

func (a at) globs(key string, patterns []string) []glob {
	var out []glob
	for _, p := range patterns {
		g, err := newGlob(p)
		switch {
		case fold(p) == "":
			a.bad(key, "%s holds an empty entry, which would match nothing", key)
		case err != nil:
			a.bad(key, "pattern %q is malformed", p)
		default:
			out = append(out, g)
		}
	}
	return out
}

func (a at) duration(key string, d access.Duration, low, high time.Duration) {
	if v := time.Duration(d); v != 0 && (v < low || v > high) {
		a.bad(key, "duration %s is not between %s and %s", d, access.Duration(low), access.Duration(high))
	}
}

func (a at) number(key string, n, low, high int) {
	if n < low || n > high {
		a.bad(key, "%s %d is out of range: %d to %d", key, n, low, high)
	}
}

func (a at) networks(key string, list []netip.Prefix) {
	for _, s := range list {
		if !s.IsValid() || s.Masked() != s || s.Addr().Is4In6() {
			a.bad(key, "source %s is not a prefix: an address and how many bits of it count, the rest zero", s)
		}
	}
}

func (a at) when(key, expr string) *condition {
	if expr == "" {
		return nil
	}
	if err, ok := a.c.failed[expr]; ok {
		a.bad(key, "%s", err)
		return nil
	}
	if c := a.c.conditions[expr]; c != nil {
		return c
	}
	c, err := compile(expr)
	if err != nil {
		a.c.failed[expr] = err
		a.bad(key, "%s", err)
		return nil
	}
	a.c.conditions[expr] = c
	return c
}

// text compiles what a reason or ticket must be.
func (a at) text(key string, t *Text, otherwise bool) text {
	if t == nil {
		return text{required: otherwise}
	}
	in := at{a.c, &t.marks, a.rule}
	out := text{required: t.Required, message: t.Message, written: t.Pattern}
	in.message(t.Message)
	if t.Pattern != "" {
		re, err := regexp.Compile("^(?:" + t.Pattern + ")$")
		var syntax interface{ Error() string }
		switch {
		case len(t.Pattern) > maxPattern:
			in.bad("pattern", "the pattern of %s is longer than %d bytes", key, maxPattern)
		case errors.As(err, &syntax):
			in.bad("pattern", "the pattern of %s is not understood: %s", key, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
		out.pattern = re
	}
	return out
}

func (a at) message(s string) {
	if len(s) > 500 || !plain(s) {
		a.bad("message", "the message is longer than 500 bytes, or holds control characters")
	}
}

func (c *compiler) rule(r *Rule, index, parent int) {
	s := c.set
	a := at{c, &r.marks, r.Name}
	if r.Name != "" {
		if c.names[fold(r.Name)] {
			a.bad("name", "the name is used twice")
		}
		c.names[fold(r.Name)] = true
		if len(r.Name) > 100 || !plain(r.Name) || strings.ContainsAny(r.Name, "\n\r\t") || strings.TrimSpace(r.Name) != r.Name {
			a.bad("name", "the name must be up to 100 printable bytes without blanks around it")
		}
	}
	out := &s.rules[index]
	sc := &s.scopes[index]
	*out = rule{doc: r, name: r.Name, at: index, parent: parent, ports: r.Ports, protocol: r.Protocol, sources: r.Sources, deny: r.Deny}
	sc.vms, sc.groups = a.globs("vms", r.VMs), a.globs("groups", r.Groups)
	for _, id := range r.Subscriptions {
		if fold(id) == "" {
			a.bad("subscriptions", "subscriptions holds an empty entry, which would match nothing")
		}
		sc.subs = append(sc.subs, fold(id))
	}
	seen := map[string]bool{}
	for _, k := range sortedKeys(r.Tags) {
		if fold(k) == "" {
			a.bad("tags", "tags holds an empty name")
		}
		if seen[fold(k)] {
			a.bad("tags", "tag %s stands there twice: names of tags are compared without case", clip(k))
		}
		seen[fold(k)] = true
		if len(r.Tags[k]) == 0 {
			a.bad("tags", "tag %s has no pattern, which would match nothing; write \"*\" for any value", clip(k))
		}
		sc.tags = append(sc.tags, tag{fold(k), a.tagGlobs(k, r.Tags[k])})
	}
	out.everybody = len(r.Requesters) == 0
	out.requesters = s.compilePeople(r.Requesters, a.list("requesters"))
	for _, p := range r.Ports {
		if !p.Valid() {
			a.bad("ports", "port %s is not a port", p)
		}
	}
	if r.Protocol != "" {
		p, err := access.ParseProtocol(string(r.Protocol))
		if err != nil {
			a.bad("protocol", "protocol %q is neither tcp nor udp", clip(string(r.Protocol)))
		}
		out.protocol = p
	}
	a.networks("sources", r.Sources)
	a.message(r.Message)
	for _, w := range r.Windows {
		cw, faults := w.compile(r.Name)
		c.faults = append(c.faults, faults...)
		out.windows = append(out.windows, cw)
	}
	out.when = a.when("when", r.When)
	out.reason, out.ticket = a.text("reason", r.Reason, true), a.text("ticket", r.Ticket, false)
	a.durations(r)
	a.number("widest_ipv4", r.WidestIPv4, 0, 32)
	a.number("widest_ipv6", r.WidestIPv6, 0, 128)
	for _, n := range r.Notify {
		if fold(n) == "" {
			a.bad("notify", "notify holds an empty entry")
		}
	}
	out.limits = r.limits()
	out.limits.Needs = []access.Need{{Rule: r.Name, Steps: a.steps(r), InOrder: r.InOrder}}
	if e := r.Extensions; e != nil {
		in := at{c, &e.marks, r.Name}
		in.number("max", e.Max, 0, 100)
		in.duration("each", e.Each, access.MinDuration, access.AbsoluteMax)
		out.limits.NoExtensions, out.limits.MaxExtensions, out.limits.MaxExtension = !e.Allowed, e.Max, time.Duration(e.Each)
	}
	if r.AutoApprove != nil {
		out.auto = a.auto(r)
	}
	if r.BreakGlass != nil {
		out.glass = a.glass(r)
	}
}

func (a at) tagGlobs(name string, patterns []string) []glob {
	var out []glob
	for _, p := range patterns {
		g, err := newGlob(p)
		if err != nil {
			a.bad("tags", "pattern %q of tag %s is malformed", clip(p), clip(name))
			continue
		}
		out = append(out, g)
	}
	return out
}

func (a at) durations(r *Rule) {
	a.duration("max_duration", r.MaxDuration, access.MinDuration, access.AbsoluteMax)
	a.duration("max_total", r.MaxTotal, access.MinDuration, access.AbsoluteMax)
	a.duration("default_duration", r.DefaultDuration, access.MinDuration, access.AbsoluteMax)
	a.duration("warn_before", r.WarnBefore, time.Minute, access.AbsoluteMax)
	if r.MaxAhead < 0 {
		a.bad("max_ahead", "max_ahead is out of range")
	}
	if r.MaxDuration != 0 && r.MaxTotal != 0 && r.MaxTotal < r.MaxDuration {
		a.bad("max_total", "max_total %s is less than max_duration %s", r.MaxTotal, r.MaxDuration)
	}
	if l := r.limits().MaxDuration; time.Duration(r.DefaultDuration) > l {
		a.bad("default_duration", "default_duration %s is more than the %s that the rule allows", r.DefaultDuration, access.Duration(l))
	}
}

// steps checks the steps of a rule and returns them as they are judged.
func (a at) steps(r *Rule) []access.Step {
	if len(r.Steps) == 0 {
		p := a.c.set.compilePeople(r.Approvers, a.list("approvers"))
		a.number("approvals", r.Approvals, 0, 10)
		if n := distinct(p.names); n > 0 && len(p.groups) == 0 && n < r.Approvals {
			a.bad("approvals", "%d approvals of %d approvers can never be had", r.Approvals, n)
		}
		if r.InOrder {
			a.bad("in_order", "in_order is for a rule with steps")
		}
		return []access.Step{{Approvers: r.Approvers, Count: max(r.Approvals, 1)}}
	}
	if r.Approvals != 0 || len(r.Approvers) > 0 {
		a.bad("steps", "approvals and approvers are the short form of one step: leave them out, or the steps")
	}
	a.number("steps", len(r.Steps), 1, 10)
	var out []access.Step
	for i := range r.Steps {
		st := &r.Steps[i]
		in := at{a.c, &st.marks, a.rule}
		name := fmt.Sprintf("step %d", i+1)
		if st.Name != "" {
			name = "step " + st.Name
		}
		p := a.c.set.compilePeople(st.Approvers, func(f string, args ...any) { in.bad("approvers", name+": approvers "+f, args...) })
		a.c.set.compilePeople(st.EscalateTo, func(f string, args ...any) { in.bad("escalate_to", name+": escalate_to "+f, args...) })
		in.number("count", st.Count, 0, 10)
		if n := distinct(p.names); n > 0 && len(p.groups) == 0 && n < st.Count && len(st.EscalateTo) == 0 {
			in.bad("count", "%s: %d approvals of %d approvers can never be had", name, st.Count, n)
		}
		in.duration("remind_after", st.RemindAfter, time.Minute, 30*24*time.Hour)
		in.duration("escalate_after", st.EscalateAfter, time.Minute, 30*24*time.Hour)
		if (st.EscalateAfter == 0) != (len(st.EscalateTo) == 0) {
			in.bad("escalate_after", "%s: escalate_after says when, and escalate_to to whom: it takes both", name)
		}
		if len(st.Approvers) == 0 && len(st.EscalateTo) > 0 {
			in.bad("escalate_to", "%s: everybody with the role may answer it, so that there is nobody to escalate to; name approvers", name)
		}
		out = append(out, access.Step{Name: st.Name, Approvers: st.Approvers, Count: max(st.Count, 1), RemindAfter: time.Duration(st.RemindAfter),
			EscalateAfter: time.Duration(st.EscalateAfter), EscalateTo: st.EscalateTo})
	}
	return out
}

func (a at) auto(r *Rule) *auto {
	u := r.AutoApprove
	in := at{a.c, &u.marks, a.rule}
	if u.MaxDuration == 0 {
		in.bad("max_duration", "auto_approve has no cap: set its max_duration, the longest access that is approved without a person")
	}
	in.duration("max_duration", u.MaxDuration, access.MinDuration, access.AbsoluteMax)
	in.networks("sources", u.Sources)
	if r.Deny {
		in.bad("", "a rule that denies approves nothing")
	}
	return &auto{when: in.when("when", u.When), max: time.Duration(u.MaxDuration), sources: u.Sources}
}

func (a at) glass(r *Rule) *glass {
	b := r.BreakGlass
	in := at{a.c, &b.marks, a.rule}
	if len(b.Requesters) == 0 {
		in.bad("requesters", "break_glass names nobody: list those who may, by name or as group:NAME")
	}
	if b.MaxDuration == 0 {
		in.bad("max_duration", "break_glass has no max_duration: set the longest access without review, %s at most", access.Duration(MaxBreakGlass))
	}
	in.duration("max_duration", b.MaxDuration, access.MinDuration, MaxBreakGlass)
	if r.Deny {
		in.bad("", "a rule that denies lets nobody in")
	}
	out := &glass{requesters: a.c.set.compilePeople(b.Requesters, in.list("requesters")), limits: r.limits(),
		reason: in.text("reason", b.Reason, true), ticket: in.text("ticket", b.Ticket, false)}
	out.limits.MaxDuration, out.limits.MaxTotal, out.limits.NoExtensions = time.Duration(b.MaxDuration), time.Duration(b.MaxDuration), true
	out.limits.Reason, out.limits.Ticket = out.reason.required, out.ticket.required
	return out
}

// limits returns what the rule allows, without whom it needs.
func (r *Rule) limits() access.Limits {
	l := access.Limits{Rules: []string{r.Name}, MaxDuration: time.Duration(r.MaxDuration), MaxTotal: time.Duration(r.MaxTotal), MaxAhead: time.Duration(r.MaxAhead),
		WidestIPv4: r.WidestIPv4, WidestIPv6: r.WidestIPv6, Reason: r.Reason == nil || r.Reason.Required, Ticket: r.Ticket != nil && r.Ticket.Required,
		WarnBefore: time.Duration(r.WarnBefore), HardClose: r.HardClose, Notify: r.Notify}
	if l.MaxDuration == 0 {
		l.MaxDuration = access.DefaultMaxDuration
	}
	if l.MaxTotal == 0 {
		l.MaxTotal = l.MaxDuration
	}
	l.MaxTotal = min(l.MaxTotal, access.AbsoluteMax)
	l.MaxDuration = min(l.MaxDuration, l.MaxTotal)
	if l.MaxAhead == 0 {
		l.MaxAhead = access.DefaultMaxAhead
	}
	if l.WidestIPv4 == 0 {
		l.WidestIPv4 = access.DefaultWidestIPv4
	}
	if l.WidestIPv6 == 0 {
		l.WidestIPv6 = access.DefaultWidestIPv6
	}
	return l
}

func distinct(folded []string) int {
	return len(slices.Compact(slices.Sorted(slices.Values(folded))))
}

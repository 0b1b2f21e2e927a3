package nsg

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// Limits of Azure. FACTS 2.1 and 2.4.
const (
	minPriority  = 100
	maxPriority  = 4096
	maxRules     = 1000 // in one group
	maxAddresses = 4000 // in one rule, sources and destinations separately
)

// otherGrace is how long past its end the allow rule of another installation is left to that installation. DESIGN 5.
const otherGrace = 30 * time.Second

// Band is the range of priorities that Curfew uses where no earlier rule of somebody else's forces it out of it.
type Band struct{ Start, End int }

// DefaultBand leaves room before it for rules that must come first, and after it for ordinary ones.
var DefaultBand = Band{300, 1299}

// Check refuses a band in which a deny and an allow do not fit.
func (b Band) Check() error {
	if b.Start < minPriority || b.End > maxPriority || b.End <= b.Start {
		return access.Errorf(access.CodeInvalid, "priority band %d-%d is not a range of at least two priorities from %d to %d", b.Start,
			b.End, minPriority, maxPriority)
	}
	return nil
}

// Input is everything that a plan depends on. Nothing in it is changed.
type Input struct {
	Place        string // resource id of the group
	Rules        []azure.SecurityRule
	Wanted       enforce.Wanted
	Installation string
	Band         Band // zero: DefaultBand
	Now          time.Time
}

// Plan is what a group should hold, and how that differs from what it holds.
type Plan struct {
	// Rules is the complete list of custom rules to write. Rules of others stand in it as they were read, byte for byte, except
	// those that are set aside or restored.
	Rules    []azure.SecurityRule
	Changes  []enforce.Change // empty: nothing to write
	Problems []enforce.Problem
	Keep     []access.Replacement // originals that must be kept before Rules is written (P3)
	Altered  []string             // rules of ours that somebody had changed
	Absent   []string             // denies and exemptions of ours that should stand and do not
	Before   Standing             // of what was read
	After    Standing             // of Rules
}

// Opening tells whether an allow of this installation stands in Rules, so that the write must be guarded (P1).
func (p Plan) Opening(installation string) bool {
	return slices.ContainsFunc(p.Rules, func(r azure.SecurityRule) bool {
		h, ok := Parse(r.Name)
		return ok && h.Kind == enforce.KindAllow && h.Installation == installation
	})
}

// Over returns the first of this installation's allow rules in Rules whose end has come at now.
func (p Plan) Over(installation string, now time.Time) (string, bool) {
	for _, r := range p.Rules {
		h, ok := Parse(r.Name)
		if ok && h.Kind == enforce.KindAllow && h.Installation == installation && !now.Before(h.End) {
			return r.Name, true
		}
	}
	return "", false
}

// NewPlan computes what the group should hold. It is pure and deterministic, and a plan of its own result changes nothing.
func NewPlan(in Input) Plan {
	if in.Band == (Band{}) {
		in.Band = DefaultBand
	}
	p, settled := plan(in)
	if settled {
		return p
	}
	// A layout is kept where it still fits, and made anew where it does not; the second look makes sure that what was made anew
	// is what the next run will keep.
	for range 4 {
		again := in
		again.Rules = p.Rules
		again.Wanted.Replaced = append(slices.Clone(in.Wanted.Replaced), p.Keep...)
		q, _ := plan(again)
		if len(q.Changes) == 0 {
			break
		}
		keep := p.Keep
		p = finish(in, q.Rules, p, append(keep, q.Keep...), q.Problems)
	}
	return p
}

// plan decides, step by step, which foreign rules with consent are set aside: those only that leave no place before them.
func plan(in Input) (p Plan, settled bool) {
	pl := newPlanner(in)
	for {
		best := pl.attempt(layout{keep: true})
		settled = best.failures == 0
		for _, l := range []layout{{}, {share: true}, {share: true, tight: true}} {
			if best.failures == 0 {
				break
			}
			if next := pl.attempt(l); next.refuse == "" && next.failures < best.failures {
				best = next
			}
		}
		if best.refuse != "" {
			pl.refuse(best.refuse, errors.New("what is left of it has no place"))
			continue
		}
		if pl.setAside(best.blockers) {
			continue
		}
		return finish(in, best.rules(), Plan{Altered: pl.altered, Absent: best.absent()}, pl.keep(), append(pl.problems, best.problems...)), settled
	}
}

// layout is a way to place rules; they are tried in turn until everything fits.
type layout struct {
	keep  bool // rules of ours that stand keep their priorities where these are still valid
	share bool // windows share rules wherever they may
	tight bool // places are given by need alone, without regard for where they lie
}

type planner struct {
	in       Input
	ours     map[string]azure.SecurityRule // this installation's, by lower-case name
	gone     map[string]string             // lower-case name: why it is removed
	restored map[string]azure.SecurityRule
	returned []azure.SecurityRule // restored rules that do not stand at present
	aside    map[string]*aside
	refused  map[string]bool
	consents map[string]bool
	units    []unit
	altered  []string
	problems []enforce.Problem
}

func newPlanner(in Input) *planner {
	pl := &planner{in: in, ours: map[string]azure.SecurityRule{}, gone: map[string]string{}, restored: map[string]azure.SecurityRule{},
		aside: map[string]*aside{}, refused: map[string]bool{}, consents: map[string]bool{}}
	for _, r := range in.Rules {
		h, ok := parseRule(r)
		switch {
		case !ok && likeOurs.MatchString(r.Name):
			pl.problem(enforce.Problem{Rule: r.Name, Message: fmt.Sprintf("rule %s begins like one of Curfew's but its name cannot be read, so that it is left alone", r.Name),
				Hint: "remove it by hand if nobody needs it"})
		case ok && h.Installation == in.Installation:
			pl.ours[strings.ToLower(r.Name)] = r
			if !intact(r) {
				pl.altered = append(pl.altered, r.Name)
			}
		case ok && h.Kind == enforce.KindAllow && !in.Now.Before(h.End.Add(otherGrace)):
			pl.gone[strings.ToLower(r.Name)] = "past its end, and its installation " + h.Installation + " has not removed it"
		}
	}
	for _, name := range in.Wanted.Consents {
		pl.consents[strings.ToLower(name)] = true
	}
	if in.Wanted.KeepShields {
		pl.keepShields()
	}
	pl.units = unitsOf(pl.in.Wanted.Shields)
	if blocked := pl.restore(); len(blocked) > 0 {
		// What cannot come back yet stays aside as it is, behind the denies by which it is known what was left of it.
		pl.keepShields()
		pl.units = unitsOf(pl.in.Wanted.Shields)
		for _, r := range blocked {
			pl.resume(r)
		}
	}
	for _, r := range in.Wanted.Replaced {
		if _, ok := pl.restored[strings.ToLower(r.Rule)]; !ok {
			pl.resume(r)
		}
	}
	return pl
}

func (pl *planner) problem(p enforce.Problem) {
	p.Place = pl.in.Place
	pl.problems = append(pl.problems, p)
}

func (pl *planner) present(name string) (azure.SecurityRule, bool) {
	i := slices.IndexFunc(pl.in.Rules, func(r azure.SecurityRule) bool { return strings.EqualFold(r.Name, name) })
	if i < 0 {
		return azure.SecurityRule{}, false
	}
	return pl.in.Rules[i], true
}

// foreign returns the rules that are not this installation's as they are to stand, in their order.
func (pl *planner) foreign() []azure.SecurityRule {
	var out []azure.SecurityRule
	for _, r := range pl.in.Rules {
		key := strings.ToLower(r.Name)
		if _, ok := pl.ours[key]; ok || pl.gone[key] != "" {
			continue
		}
		if a := pl.aside[key]; a != nil {
			if first, ok := a.first(); ok {
				out = append(out, first)
			}
			continue
		}
		if o, ok := pl.restored[key]; ok {
			r = o
		}
		out = append(out, r)
	}
	out = append(out, pl.returned...)
	for _, key := range slices.Sorted(maps.Keys(pl.aside)) { // of some nothing was left, and now something is again
		head, ok := pl.aside[key].first()
		if _, stands := pl.present(key); !ok || stands {
			continue
		}
		if slices.ContainsFunc(out, func(r azure.SecurityRule) bool {
			return r.Priority == head.Priority && strings.EqualFold(r.Direction, head.Direction)
		}) {
			if !pl.refused[key] {
				pl.refused[key] = true
				pl.problem(enforce.Problem{Rule: head.Name, Message: fmt.Sprintf("rule %s cannot be put back: its priority %d is taken", head.Name, head.Priority),
					Hint: "free that priority; the rule's original is kept"})
			}
			continue
		}
		out = append(out, head)
	}
	return out
}

// finish makes the list in its order: what stood keeps its position, what is new follows by priority. It then compares it with
// what was read.
func finish(in Input, rules []azure.SecurityRule, p Plan, keep []access.Replacement, problems []enforce.Problem) Plan {
	want := map[string]azure.SecurityRule{}
	for _, r := range rules {
		want[strings.ToLower(r.Name)] = r
	}
	p.Rules, p.Changes, p.Keep, p.Problems = nil, nil, keep, problems
	change := func(kind enforce.ChangeKind, r azure.SecurityRule, why string) {
		p.Changes = append(p.Changes, enforce.Change{Place: in.Place, Kind: kind, Rule: r.Name, Priority: r.Priority, Access: r.Access,
			Summary: summary(r), Why: why})
	}
	restore := map[string]bool{}
	for _, r := range in.Wanted.Restore {
		restore[strings.ToLower(r.Rule)] = true
	}
	for _, old := range in.Rules {
		key := strings.ToLower(old.Name)
		h, curfew := Parse(old.Name)
		mine := curfew && h.Installation == in.Installation
		now, ok := want[key]
		delete(want, key)
		switch {
		case !ok && mine && h.Kind == enforce.KindExempt && in.Wanted.KeepShields:
			p.Rules = append(p.Rules, old)
		case !ok && mine:
			change(enforce.Remove, old, removal(h, in.Now))
		case !ok && curfew:
			change(enforce.Remove, old, "past its end, and its installation "+h.Installation+" has not removed it")
		case !ok:
			change(enforce.SetAside, old, "it would bypass a protected port, and its replacement was consented to; nothing else is left of it")
		case mine && same(old, now):
			p.Rules = append(p.Rules, old)
		case mine:
			p.Rules = append(p.Rules, now)
			change(enforce.Rewrite, now, rewriting(old, now))
		case bytes.Equal(old.Raw, now.Raw):
			p.Rules = append(p.Rules, old)
		case restore[key]:
			p.Rules = append(p.Rules, now)
			change(enforce.Restore, now, "nothing that needed it aside is protected any more")
		default:
			p.Rules = append(p.Rules, now)
			change(enforce.SetAside, now, "it would bypass a protected port, and its replacement was consented to; it goes on for what is not protected")
		}
	}
	added := slices.SortedFunc(maps.Values(want), func(a, b azure.SecurityRule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Name, b.Name))
	})
	for _, r := range added {
		p.Rules = append(p.Rules, r)
		h, curfew := Parse(r.Name)
		switch {
		case !curfew:
			change(enforce.Restore, r, "nothing that needed it aside is protected any more")
		case h.Kind == enforce.KindAllow:
			change(enforce.Add, r, fmt.Sprintf("granted until %s", h.End.Format("2006-01-02 15:04:05Z")))
		case h.Kind == enforce.KindDeny:
			change(enforce.Add, r, "protected: shut unless granted")
		default:
			change(enforce.Add, r, "stays open beside the protection")
		}
	}
	p.Before = standing(in, in.Rules)
	p.After = standing(in, p.Rules)
	// A grant without a place of its own may stand all the same, within what another one opens.
	p.Problems = nil
	for _, x := range problems {
		if len(x.Grants) > 0 {
			x.Grants = slices.DeleteFunc(slices.Clone(x.Grants), func(g access.GrantID) bool { return p.After.Windows[g] })
			if len(x.Grants) == 0 {
				continue
			}
		}
		p.Problems = append(p.Problems, x)
	}
	return p
}

func removal(h enforce.HeldRule, now time.Time) string {
	switch {
	case h.Kind != enforce.KindAllow:
		return "not wanted any more"
	case !now.Before(h.End):
		return "past its end"
	}
	return "its grant is over, or stands in another rule"
}

func rewriting(old, now azure.SecurityRule) string {
	switch {
	case !intact(old):
		return "somebody changed it"
	case old.Priority != now.Priority:
		return fmt.Sprintf("its place is now %d instead of %d", now.Priority, old.Priority)
	}
	return "what it holds has changed"
}

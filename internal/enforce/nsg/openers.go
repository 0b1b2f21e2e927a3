package nsg

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
)

const sayTime = "2006-01-02 15:04:05Z"

// bounds sets where an opening may stand: before every deny of ours that it is to pass, and behind every deny of somebody else
// that comes before ours and would stop some of it: that is somebody's decision. A deny of curfew fix is none: it says that rules
// of others are not to let the Internet in, and a window is granted to one source for a time.
func (t *attempt) bounds(o *opener) {
	o.lo, o.hi, o.blocker = minPriority-1, t.pl.in.Band.End+1, ""
	for _, a := range o.dsts {
		for _, s := range t.at[a] {
			if s.proto == o.proto && s.ports.Overlaps(o.ports) && s.prio < o.hi {
				o.hi, o.blocker = s.prio, s.blocker
			}
		}
	}
	for i := range t.reaches {
		x := &t.reaches[i]
		if x.prio > t.pl.in.Band.End {
			break
		}
		if !x.deny || !x.touches(o.ports, o.proto) || !slices.ContainsFunc(o.prefixes, x.src.OverlapsPrefix) {
			continue
		}
		if slices.ContainsFunc(o.dsts, func(a netip.Addr) bool { return x.reaches(a) && t.precedes(x, o, a) }) {
			if enforce.ShutByFix(x.name) {
				o.hi, o.blocker = x.prio, x.name
				break // what comes behind it comes behind the opening
			}
			o.lo, o.stopper = x.prio, x.name
		}
	}
}

// precedes tells whether a deny of somebody else's comes before ours for some port of an opening. Where protected ranges of one
// machine overlap, it is the first of our denies that decides on a port.
func (t *attempt) precedes(x *reach, o *opener, a netip.Addr) bool {
	left := []netsec.PortRange{{First: o.ports.First, Last: o.ports.Last}}
	for _, s := range t.at[a] {
		if s.proto != o.proto || s.prio > x.prio {
			continue
		}
		left = minusRanges(left, netsec.PortRange{First: s.ports.First, Last: s.ports.Last})
	}
	return slices.ContainsFunc(left, func(p netsec.PortRange) bool { return slices.ContainsFunc(x.ports, p.Overlaps) })
}

// exemptions makes the exempt rules: one for each exemption, protected port and place of its deny.
func (t *attempt) exemptions() {
	type key struct {
		what   access.Exemption
		ports  access.Ports
		proto  access.Protocol
		v4     bool
		lo, hi int
	}
	groups := map[key]*opener{}
	var order []*opener
	for _, u := range t.pl.units {
		for _, e := range u.exempt {
			prefixes, ok := sourcePrefixes(e.Source)
			if !ok {
				t.problem(enforce.Problem{VM: u.vms[0].ID, Message: fmt.Sprintf("exemption %q has a source %q that is neither a prefix nor AzureLoadBalancer", e.Name, e.Source),
					Hint: "name the prefix of the subnet that must reach the port"})
				continue
			}
			tag := len(prefixes) > 1
			if !tag && prefixes[0].Addr().Is4() != u.addr.Is4() {
				continue
			}
			o := &opener{kind: enforce.KindExempt, ports: u.ports, proto: u.proto, prefixes: prefixes, source: []string{"AzureLoadBalancer"}}
			if !tag {
				o.source = []string{prefixText(prefixes[0])}
			}
			o.dsts = []netip.Addr{u.addr}
			t.bounds(o)
			k := key{e, u.ports, u.proto, u.addr.Is4(), o.lo, o.hi}
			if g := groups[k]; g != nil && len(g.dsts) < maxAddresses {
				g.dsts = append(g.dsts, u.addr)
				o = g
			} else {
				what := slug(e.Name)
				if strings.HasPrefix(what, restSlug) { // remainders are named so
					what = "x-" + what
				}
				o.exempts = e.Name
				o.base = exemptName(t.pl.in.Installation, what, string(u.proto), u.ports.String())
				o.lead = fmt.Sprintf("Curfew %s: exempt from protection, %s %s, %s", t.pl.in.Installation, u.proto, u.ports, slug(e.Name))
				groups[k] = o
				order = append(order, o)
			}
			for _, v := range u.vms {
				o.machines = append(o.machines, v.Name)
				o.vms = append(o.vms, v)
			}
		}
	}
	var bs []*bundle
	for _, o := range order {
		bs = append(bs, &o.bundle)
	}
	t.number(bs, enforce.KindExempt)
	t.place(order)
}

// windows makes the allow rules.
func (t *attempt) windows() {
	now := t.pl.in.Now
	var all []*opener
	for _, w := range t.mergedWindows() {
		end := w.End.UTC().Truncate(time.Second)
		if !now.Before(end) {
			continue
		}
		if !grantName.MatchString(string(w.Grant)) || !w.Ports.Valid() || !w.Source.IsValid() {
			t.problem(enforce.Problem{VM: w.VM.ID, Grants: []access.GrantID{w.Grant}, Message: fmt.Sprintf("grant %q cannot be written into a rule", w.Grant),
				Hint: "report this"})
			continue
		}
		dsts := family(w.Destinations, w.Source.Addr().Is4())
		if len(dsts) == 0 {
			t.problem(enforce.Problem{VM: w.VM.ID, Grants: []access.GrantID{w.Grant},
				Message: fmt.Sprintf("source %s cannot reach %s: it has no address of that family", w.Source, w.VM.Name), Hint: "ask from an address of the other family, with --from"})
			continue
		}
		o := &opener{kind: enforce.KindAllow, ports: w.Ports, proto: w.Protocol, prefixes: []netip.Prefix{w.Source.Masked()},
			source: []string{prefixText(w.Source.Masked())}, grants: []access.GrantID{w.Grant}, vm: w.VM.ID}
		o.dsts, o.machines = dsts, []string{w.VM.Name}
		t.bounds(o)
		o.name = allowName(t.pl.in.Installation, w.Grant, end)
		o.lead = fmt.Sprintf("Curfew %s: grant %s until %s", t.pl.in.Installation, w.Grant, end.Format(sayTime))
		all = append(all, o)
	}
	t.place(t.shareWhereNeeded(all))
}

// mergedWindows joins what names one grant several times, and sorts.
func (t *attempt) mergedWindows() []enforce.Window {
	at := map[access.GrantID]int{}
	var out []enforce.Window
	for _, w := range t.pl.in.Wanted.Windows {
		i, ok := at[w.Grant]
		if !ok {
			at[w.Grant] = len(out)
			w.Destinations = slices.Clone(w.Destinations)
			out = append(out, w)
			continue
		}
		g := &out[i]
		if g.Ports != w.Ports || g.Protocol != w.Protocol || g.Source != w.Source || !g.End.Equal(w.End) {
			t.problem(enforce.Problem{VM: w.VM.ID, Grants: []access.GrantID{w.Grant}, Message: fmt.Sprintf("grant %s was given twice with different content", w.Grant),
				Hint: "report this"})
			continue
		}
		g.Destinations = append(g.Destinations, w.Destinations...)
	}
	slices.SortFunc(out, func(a, b enforce.Window) int {
		return cmp.Or(a.End.Compare(b.End), strings.Compare(string(a.Grant), string(b.Grant)))
	})
	return out
}

func family(as []netip.Addr, v4 bool) []netip.Addr {
	var out []netip.Addr
	for _, a := range as {
		if a = a.Unmap().WithZone(""); a.IsValid() && a.Is4() == v4 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// ampleRules is the number of rules in a group up to which each grant has one of its own.
const ampleRules = maxRules * 9 / 10

// shareWhereNeeded lets grants share rules where priorities or rules are scarce.
func (t *attempt) shareWhereNeeded(all []*opener) []*opener {
	type class struct {
		lo, hi int
		moved  bool
	}
	classes := map[class][]*opener{}
	for _, o := range all {
		c := class{o.lo, o.hi, o.blocker != ""}
		classes[c] = append(classes[c], o)
	}
	rules := len(t.others) + len(t.shields) + len(t.openers) + len(all)
	free := 0
	for p := t.pl.in.Band.Start; p <= t.pl.in.Band.End; p++ {
		if !t.taken[p] {
			free++
		}
	}
	var out []*opener
	for _, c := range slices.SortedFunc(maps.Keys(classes), func(a, b class) int { return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)) }) {
		windows := classes[c]
		here := 0
		for _, p := range t.candidates(windows[0]) {
			if !t.taken[p] {
				here++
			}
		}
		if t.layout.share || rules > ampleRules || len(all)*2 > free && !c.moved || len(windows)*2 > here {
			windows = t.stars(windows)
		}
		out = append(out, windows...)
	}
	return t.withinLimit(out)
}

// withinLimit leaves out what Azure would refuse the whole write for. What stands goes before what does not yet.
func (t *attempt) withinLimit(windows []*opener) []*opener {
	room := maxRules - len(t.others) - len(t.shields) - len(t.openers)
	if len(windows) <= max(room, 0) {
		return windows
	}
	slices.SortStableFunc(windows, func(a, b *opener) int {
		stands := func(o *opener) int {
			if _, ok := t.pl.ours[strings.ToLower(o.name)]; ok {
				return 0
			}
			return 1
		}
		return cmp.Compare(stands(a), stands(b))
	})
	for _, o := range windows[max(room, 0):] {
		t.fail(enforce.Problem{VM: o.vm, Grants: o.grants, Message: fmt.Sprintf("the group would hold more than the %d rules that Azure allows", maxRules),
			Hint: "wait until other grants end, or take rules out of the group"})
	}
	return windows[:max(room, 0)]
}

// candidates are the priorities that an opening may take, best first: allows from the start of the band upwards, exemptions
// from their deny downwards; before the band only where a foreign rule has forced the deny there.
func (t *attempt) candidates(o *opener) []int {
	band := t.pl.in.Band
	var out []int
	for p := max(o.lo+1, band.Start); p < min(o.hi, band.End+1); p++ {
		out = append(out, p)
	}
	if o.kind == enforce.KindExempt {
		slices.Reverse(out)
	}
	if o.blocker != "" || o.hi <= band.Start {
		for p := min(o.hi, band.Start) - 1; p > o.lo && p >= minPriority; p-- {
			out = append(out, p)
		}
	}
	if t.layout.tight {
		slices.Sort(out)
	}
	return out
}

// place gives priorities, to the one with the nearest upper bound first: with places tried upwards that finds room for all
// wherever there is (an exchange argument shows it); other orders of places are kinder to the eye, and tried before.
func (t *attempt) place(openers []*opener) {
	slices.SortStableFunc(openers, func(a, b *opener) int {
		return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(b.lo, a.lo))
	})
	for _, o := range openers {
		if p := t.kept(o.name); p > o.lo && p < o.hi && slices.Contains(t.candidates(o), p) {
			o.prio = p
			t.taken[p] = true
		}
	}
	next := map[string]int{} // how far a list of candidates is used up
	lists := map[string][]int{}
	for _, o := range openers {
		if o.prio > 0 {
			t.openers = append(t.openers, o)
			continue
		}
		k := fmt.Sprint(o.kind, o.lo, o.hi, o.blocker == "")
		list, ok := lists[k]
		if !ok {
			list = t.candidates(o)
			lists[k] = list
		}
		i := next[k]
		for i < len(list) && t.taken[list[i]] {
			i++
		}
		next[k] = i
		if i == len(list) {
			t.noPlace(o)
			continue
		}
		o.prio = list[i]
		t.taken[o.prio] = true
		t.openers = append(t.openers, o)
	}
}

func (t *attempt) noPlace(o *opener) {
	what := fmt.Sprintf("exemption %s of port %s/%s", o.exempts, o.ports, o.proto)
	if o.kind == enforce.KindAllow {
		what = fmt.Sprintf("port %s/%s of %s", o.ports, o.proto, strings.Join(o.machines, ", "))
	}
	p := enforce.Problem{VM: o.vm, Grants: o.grants, Exempt: o.exempts}
	switch {
	case enforce.ShutByFix(o.blocker):
		p.Rule, p.Message = o.blocker, fmt.Sprintf("%s cannot be opened: no priority is free before rule %s of curfew fix, which shuts the port to the Internet", what, o.blocker)
		p.Hint = "free a priority before it, or take that rule out: the machine's own deny shuts the port too"
	case o.blocker != "":
		t.blockers[strings.ToLower(o.blocker)] = true
		p.Rule, p.Hint = o.blocker, t.replaceHint(o.blocker)
		p.Message = fmt.Sprintf("%s cannot be opened: no priority is free before the deny that must come before rule %s", what, o.blocker)
		if o.stopper != "" {
			p.Message += fmt.Sprintf(", and behind rule %s, which denies", o.stopper)
		}
	case o.stopper != "":
		p.Rule, p.Message = o.stopper, fmt.Sprintf("%s cannot be opened: rule %s (priority %d) denies it, and between it and our deny no priority is free", what, o.stopper, o.lo)
		p.Hint = "ask whoever owns that rule to narrow it, or set a later end for the priority band"
	default:
		p.Message = fmt.Sprintf("%s cannot be opened: no priority of the band %d-%d is free", what, t.pl.in.Band.Start, t.pl.in.Band.End)
		p.Hint = "wait until other grants end, or set a wider priority band"
	}
	if len(o.vms) > 0 { // each machine that would lose it is told
		p.VM = o.vms[0].ID
	}
	t.fail(p)
	for i := 1; i < len(o.vms); i++ {
		if p.VM = o.vms[i].ID; !slices.ContainsFunc(o.vms[:i], func(v access.VM) bool { return access.SameVM(v.ID, p.VM) }) {
			t.problem(p)
		}
	}
}

package nsg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// stars joins windows into as few shared rules as there can be without letting in anybody who was not approved. A rule lets
// every one of its sources at every one of its destinations, so only a star is safe: one machine with many sources, or one
// source with many machines, all with the same port, protocol, and end in the same minute. With machines and sources as the
// two sides of a graph and windows as its edges, the fewest stars that hold every edge are a smallest vertex cover, which in
// a graph of two sides follows from a largest matching (König).
func (t *attempt) stars(windows []*opener) []*opener {
	type key struct {
		ports  access.Ports
		proto  access.Protocol
		v4     bool
		minute time.Time
		lo, hi int
	}
	groups := map[key][]*opener{}
	var order []key
	for _, o := range windows {
		h, _ := Parse(o.name)
		k := key{o.ports, o.proto, o.dsts[0].Is4(), h.End.Truncate(time.Minute), o.lo, o.hi}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], o)
	}
	var out []*opener
	for _, k := range order {
		for _, star := range cover(groups[k]) {
			for len(star) > 0 {
				var rule *opener
				rule, star = t.join(star)
				out = append(out, rule)
			}
		}
	}
	return out
}

// cover divides windows into the fewest stars. Windows arrive sorted by end and grant, so that the result is always the same.
func cover(windows []*opener) [][]*opener {
	var left, right []string
	leftAt, rightAt := map[string]int{}, map[string]int{}
	var edges [][]int // of each left node, its right ones
	l, r := make([]int, len(windows)), make([]int, len(windows))
	number := func(at map[string]int, names *[]string, k string) int {
		i, ok := at[k]
		if !ok {
			i = len(*names)
			at[k] = i
			*names = append(*names, k)
		}
		return i
	}
	for i, w := range windows {
		l[i] = number(leftAt, &left, strings.Join(addrTexts(w.dsts), " "))
		r[i] = number(rightAt, &right, w.prefixes[0].String())
		if l[i] == len(edges) {
			edges = append(edges, nil)
		}
		if !slices.Contains(edges[l[i]], r[i]) {
			edges[l[i]] = append(edges[l[i]], r[i])
		}
	}
	mate := make([]int, len(right)) // of each right node, its left one
	for i := range mate {
		mate[i] = -1
	}
	matched := make([]bool, len(left))
	var seen []bool
	var augment func(u int) bool
	augment = func(u int) bool {
		for _, v := range edges[u] {
			if seen[v] {
				continue
			}
			seen[v] = true
			if mate[v] < 0 || augment(mate[v]) {
				mate[v] = u
				return true
			}
		}
		return false
	}
	for u := range left {
		seen = make([]bool, len(right))
		matched[u] = augment(u)
	}
	// What can be reached from unmatched left nodes by alternating paths; the cover is the rest of the left and what was
	// reached of the right.
	reachedL, reachedR := make([]bool, len(left)), make([]bool, len(right))
	var walk func(u int)
	walk = func(u int) {
		if reachedL[u] {
			return
		}
		reachedL[u] = true
		for _, v := range edges[u] {
			if !reachedR[v] {
				reachedR[v] = true
				if mate[v] >= 0 {
					walk(mate[v])
				}
			}
		}
	}
	for u := range left {
		if !matched[u] {
			walk(u)
		}
	}
	byLeft, byRight := make([][]*opener, len(left)), make([][]*opener, len(right))
	for i, w := range windows {
		if !reachedL[l[i]] {
			byLeft[l[i]] = append(byLeft[l[i]], w)
		} else {
			byRight[r[i]] = append(byRight[r[i]], w)
		}
	}
	var out [][]*opener
	for _, s := range append(byLeft, byRight...) {
		if len(s) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// join makes one rule of as many windows of a star as Azure lets one rule hold, and returns the rest. The rule carries the end
// that comes first, so that a sweep that knows nothing but names errs on the early side.
func (t *attempt) join(star []*opener) (rule *opener, rest []*opener) {
	first := star[0]
	if len(star) == 1 {
		return first, nil
	}
	for _, w := range star { // of those with the same end the one whose name stands already: a name that stays costs no write
		if ours, _ := Parse(w.name); !ours.End.Equal(ended(first)) {
			break
		}
		if _, stands := t.pl.ours[strings.ToLower(w.name)]; stands {
			first = w
			break
		}
	}
	o := *first
	o.dsts, o.prefixes, o.grants, o.machines, o.source = nil, nil, nil, nil, nil
	dsts, sources := map[netip.Addr]bool{}, map[netip.Prefix]bool{}
	n := 0
	for _, w := range star {
		newDsts := 0
		for _, d := range w.dsts {
			if !dsts[d] {
				newDsts++
			}
		}
		if len(dsts)+newDsts > maxAddresses || len(sources)+1 > maxAddresses && !sources[w.prefixes[0]] {
			break
		}
		for _, d := range w.dsts {
			dsts[d] = true
		}
		sources[w.prefixes[0]] = true
		o.grants = append(o.grants, w.grants...)
		o.machines = append(o.machines, w.machines...)
		n++
	}
	for d := range dsts {
		o.dsts = append(o.dsts, d)
	}
	slices.SortFunc(o.dsts, netip.Addr.Compare)
	for p := range sources {
		// A range within another one of the same rule adds nothing, and Azure may refuse overlapping prefixes in one rule.
		if !within(p, sources) {
			o.prefixes = append(o.prefixes, p)
		}
	}
	slices.SortFunc(o.prefixes, netip.Prefix.Compare)
	for _, p := range o.prefixes {
		o.source = append(o.source, prefixText(p))
	}
	if n > 1 {
		h, _ := Parse(first.name)
		o.lead = fmt.Sprintf("Curfew %s: %d grants from %s until %s", t.pl.in.Installation, n, h.Grant, h.End.Format(sayTime))
	}
	return &o, star[n:]
}

// ended is the end in the name of an opening.
func ended(o *opener) time.Time {
	h, _ := Parse(o.name)
	return h.End
}

func within(p netip.Prefix, set map[netip.Prefix]bool) bool {
	for bits := p.Bits() - 1; bits >= 0; bits-- {
		if set[netip.PrefixFrom(p.Addr(), bits).Masked()] {
			return true
		}
	}
	return false
}

package netsec

import (
	"math/bits"
	"strings"
)

// explorer follows every possibility through all layers at once, where more than one layer is uncertain: what a packet's
// source belongs to at the subnet, it belongs to at the NIC. It is exact where only sources are uncertain, and otherwise
// finds too many outcomes rather than too few.
type explorer struct {
	j       *judge
	outs    outcome
	budget  int
	assumed [3]*atom  // what the source is assumed to belong to, from the layers passed
	gone    [3]uint64 // what it is assumed not to belong to, in the bits of each layer
}

// layer explores layer i and those after it.
func (e *explorer) layer(i int) {
	j := e.j
	if i == j.n {
		e.outs |= j.bare
		return
	}
	e.gone[i] = 0
	l, q := j.ls[i], &j.q
	tied, decided := 0, false
	for k := range l.rules {
		if e.budget--; e.budget <= 0 || e.outs == outAllow|outDeny {
			break
		}
		r := &l.rules[k]
		if decided && (r.prio != tied || !r.tied) {
			break
		}
		if r.protos&q.proto == 0 {
			continue
		}
		possible, certain := r.portsMatch(q)
		if !possible || !r.dst.can(&q.dst, 0) {
			continue
		}
		certain = certain && !r.opaque && (r.dst.every || r.dst.yes.contains(&q.dst))
		if r.src.every || r.src.yes.contains(&q.src) || e.holds(i, r.src) {
			e.then(i, r.out)
			if certain && !r.tied {
				e.assumed[i], e.gone[i] = nil, 0
				return
			}
			if certain {
				decided, tied = true, r.prio
			}
			continue
		}
		for m := range r.src.atoms {
			if a := &r.src.atoms[m]; e.open(i, a) {
				e.assumed[i] = a
				e.then(i, r.out)
				e.assumed[i] = nil
			}
		}
		if certain && !r.tied {
			e.gone[i] |= r.src.fallen(&q.src)
		}
	}
	if !decided {
		e.then(i, l.end)
	}
	e.gone[i] = 0
}

// then goes on after layer i decided one of outs.
func (e *explorer) then(i int, outs outcome) {
	e.outs |= outs & outDeny
	admin := e.j.names[i] == LayerAdmin
	if outs&outAllow != 0 && admin {
		e.outs |= e.j.always
	}
	if outs&outPass != 0 || outs&outAllow != 0 && !admin {
		e.layer(i + 1)
	}
}

// holds reports whether the source is already assumed to belong to the side.
func (e *explorer) holds(i int, s *side) bool {
	for m := range s.atoms {
		a := &s.atoms[m]
		if a.tag && e.j.useFixed && e.j.fixed[a.id] && a.scope.contains(&e.j.q.src) {
			return true
		}
		for _, b := range e.assumed[:i] {
			if b != nil && (a.id == b.id && a.id != "" || a.tag && b.tag && within(b.id, a.id)) {
				return true
			}
		}
	}
	return false
}

// open reports whether the source may belong to the atom, by all that is assumed so far.
func (e *explorer) open(i int, a *atom) bool {
	if a.tag && e.j.useFixed || a.bit&e.gone[i] != 0 || !a.scope.contains(&e.j.q.src) {
		return false
	}
	for k := range i {
		for g := e.gone[k]; g != 0; g &= g - 1 {
			id := e.j.ls[k].ids[bits.TrailingZeros64(g)]
			if id == a.id || a.tag && within(a.id, id) {
				return false
			}
		}
	}
	return true
}

// within reports whether the service tag is a part of the other, as Storage.WestEurope is of Storage.
func within(tag, other string) bool {
	return len(tag) > len(other) && tag[len(other)] == '.' && strings.HasPrefix(tag, other)
}

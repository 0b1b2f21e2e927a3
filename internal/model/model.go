// Package model is a small model of what happens at one network security group: two replicas that open and close, a sweep that
// removes by name, and Azure with its etag; and a checker that looks at every state which they can reach, whoever is paused,
// crashes, loses a reply or has a write delivered late. It shows why the design is as it is (docs/design/0002): the designs that
// leave something out break a promise, by a trace that can be read, and the one that was chosen does not, within the bounds.
//
// It is a model of the protocol, not of the code: the code is held to the promises by its own tests.
package model

import (
	"fmt"
	"slices"
	"strings"
)

// Design is what the writers do. The zero value is the simplest thing: read, decide, write the whole group unconditionally.
type Design struct {
	NewRead  bool // a grant is recorded as shut only by a read that was made after it was over
	IfMatch  bool // a PUT carries the etag of the read; Azure refuses it when the group has changed since
	Recheck  bool // just before a write that leaves an allow of ours standing, the clock and the store are asked once more
	Sweep    bool // rules of ours are looked for by name, for ever, once in each period, by somebody who is alive
	ByName   bool // the sweep knows only what a rule's name says, its end: it has no store
	Fallback bool // after some refusals a closing deletes the single rule, unconditionally
}

// Bounds limit the model.
type Bounds struct {
	Ends     []int // the period in which each grant ends; a grant starts in period 0
	Periods  int   // the last period; a period is the time between two sweeps, 30 s
	Refusals int   // how many refusals it takes until a closing deletes: three in the product, fewer to keep the model small
	Late     int   // how many writes may be under way at once whose sender has gone
	Foreign  bool  // somebody else may change a rule of theirs in the group at any time
	Revoke   bool  // a grant may be revoked at any time
	Crashes  bool  // replicas and sweep may crash between any two steps, and lose replies
}

// Verdict is what the checker found.
type Verdict struct {
	States int      // different states that were looked at
	Broken string   // the promise that the last state of Trace breaks; "" if none does
	Trace  []string // the shortest way there, one line a step
	// What was met on the way, so that a design that holds is known to have been put to the test.
	Excess    int // states in which a port stood open without a live grant
	Overslept int // states in which one had done so since the period before: what a late write costs
	Deletes   int // states in which a DELETE was under way
	Healed    int // states from which the sweep was followed by itself
}

// The places where a replica or the sweep can stand; between any two it may be paused for as long as one likes.
const (
	idle    = iota
	read    // holds what the group held
	decided // knows what the group should hold
	checked // has asked clock and store once more
	sent    // waits for Azure
	refused // Azure said 412
	done    // knows that the group held what it should
)

type write struct {
	kind   uint8 // 0: none, 1: PUT of the group, 2: DELETE of one rule
	rules  uint8 // of a PUT: our rules in it; of a DELETE: the rule
	fresh  bool  // the etag that it carries is still the group's
	behind bool  // the foreign rules that it carries are not what the group holds
}

type proc struct {
	at            uint8
	held, target  uint8
	gone          uint8 // the grants that were over when it read
	refusals      uint8
	fresh, behind bool // of what it read, as of a write
	out           write
}

// state is all there is. Sets of grants are bits.
type state struct {
	now     uint8
	rules   uint8 // allows of ours in the group
	revoked uint8 // in the store
	open    uint8 // in the store: seen open
	over    uint8 // in the store: final, so that no replica looks at it again
	age     [2]uint8
	swept   bool // in this period
	lost    bool // a foreign change was overwritten
	stuck   bool // a closing was refused once more than Refusals
	p       [3]proc
	late    [2]write
}

const sweep = 2 // the index of the sweep among the processes; the others are replicas

var names = [3]string{"replica 1", "replica 2", "sweep"}

type machine struct {
	d Design
	b Bounds
}

func (m machine) all() uint8 { return 1<<len(m.b.Ends) - 1 }

// wanted is what the store says should stand now.
func (m machine) wanted(s *state) uint8 { return m.running(s) &^ s.revoked &^ s.over }

// running is what has not reached its end.
func (m machine) running(s *state) uint8 {
	var w uint8
	for i, end := range m.b.Ends {
		if int(s.now) < end {
			w |= 1 << i
		}
	}
	return w
}

// may is what a process believes may stand now.
func (m machine) may(s *state, i int) uint8 {
	if i == sweep && m.d.ByName {
		return m.running(s)
	}
	return m.wanted(s)
}

// excess is what stands and should not; as far as the sweep can know it.
func (m machine) excess(s *state) uint8 {
	return s.rules &^ m.may(s, sweep)
}

// broken names the promise that a state breaks.
func (m machine) broken(s *state) string {
	switch {
	case s.lost:
		return "P3: a rule of somebody else's was overwritten with what it was before"
	case s.stuck:
		return "P2: a closing is refused again and again, and nothing else is tried"
	case m.d.Sweep && !m.heals(*s):
		return "P2: the sweep, left to itself, does not remove every opening that has no live grant"
	}
	if m.d.Sweep {
		for i := range m.b.Ends {
			if s.age[i] > 1 {
				return "P1: an opening without a live grant has outlived a sweep"
			}
		}
		return ""
	}
	if s.over == m.all() && s.rules != 0 && s.p[0].at == idle && s.p[1].at == idle && s.late == [2]write{} {
		return "P2: every grant is over, nobody looks any more, and the port is open for ever"
	}
	return ""
}

// set names a set of grants.
func set(r uint8) string {
	if r == 0 {
		return "nothing"
	}
	var out []string
	for i := range 8 {
		if r>>i&1 == 1 {
			out = append(out, string(rune('A'+i)))
		}
	}
	return strings.Join(out, " and ")
}

// next calls yield for every step that can be taken from s, in a fixed order. label is called only when a trace is told.
func (m machine) next(s state, yield func(n state, label func() string)) {
	for i := range s.p {
		if i == sweep && !m.d.Sweep {
			continue
		}
		m.step(s, i, yield)
	}
	for i, w := range s.late {
		if w.kind == 0 {
			continue
		}
		n := s
		n.late[i] = write{}
		ok := m.land(&n, w)
		n.sortLate()
		yield(n, func() string { return "the network delivers a write whose sender has gone: " + m.said(w, ok) })
	}
	if m.b.Foreign {
		n := s
		n.touch(true) // every read is behind from now on
		if n != s {
			yield(n, func() string { return "somebody else changes a rule of theirs in the group" })
		}
	}
	if m.b.Revoke {
		for i := range m.b.Ends {
			if bit := uint8(1) << i; (s.revoked|s.over)&bit == 0 {
				n := s
				n.revoked |= bit
				yield(n, func() string { return "grant " + set(bit) + " is revoked in the store" })
			}
		}
	}
	if int(s.now) < m.b.Periods && (s.swept || !m.d.Sweep) {
		n := s
		for i := range m.b.Ends {
			if m.d.Sweep && m.excess(&s)>>i&1 == 1 {
				n.age[i] = min(n.age[i]+1, 2)
			}
		}
		n.now++
		n.swept = false
		yield(n, func() string {
			ended := m.running(&s) &^ m.running(&n)
			if ended == 0 {
				return "30 s pass"
			}
			return "30 s pass; the time of " + set(ended) + " is over"
		})
	}
}

// step is what process i can do next, and its crash.
func (m machine) step(s state, i int, yield func(state, func() string)) {
	p := s.p[i]
	who := names[i]
	go2 := func(label string, args []any, f func(n *state, p *proc)) {
		n := s
		f(&n, &n.p[i])
		yield(n, func() string { return who + " " + fmt.Sprintf(label, args...) })
	}
	removing := p.held &^ p.target
	switch p.at {
	case idle, refused:
		if p.at == idle && !m.work(&s, i) {
			return
		}
		go2("reads the group: it holds %s", []any{set(s.rules)}, func(n *state, p *proc) {
			*p = proc{at: read, held: s.rules, fresh: m.d.IfMatch, refusals: p.refusals}
			if m.d.NewRead && i != sweep {
				p.gone = m.all() &^ m.wanted(&s)
			}
		})
	case read:
		target := m.may(&s, i)
		if i == sweep { // which opens nothing
			target &= p.held
		}
		if target == p.held {
			go2("decides that it should hold %s: nothing to write", []any{set(target)}, func(n *state, p *proc) { m.finish(n, i, p.held) })
			break
		}
		go2("decides that it should hold %s", []any{set(target)}, func(n *state, p *proc) { p.at, p.target = decided, target })
	case decided:
		if m.d.Fallback && p.refusals >= uint8(m.b.Refusals) && removing != 0 {
			one := removing & -removing
			go2("was refused %d times, and sends the DELETE of %s", []any{m.b.Refusals, set(one)}, func(n *state, p *proc) {
				p.at, p.out = sent, write{kind: 2, rules: one}
			})
			break
		}
		if m.d.Recheck && p.target != 0 {
			if stale := p.target &^ m.may(&s, i); stale != 0 {
				go2("asks clock and store once more: %s is over, and it begins again", []any{set(stale)}, func(n *state, p *proc) { *p = proc{} })
			} else {
				go2("asks clock and store once more: %s may be open", []any{set(p.target)}, func(n *state, p *proc) { p.at = checked })
			}
			break
		}
		m.send(s, i, yield)
	case checked:
		m.send(s, i, yield)
	case sent:
		n := s
		n.p[i].out = write{}
		ok := m.land(&n, p.out)
		q := &n.p[i]
		switch {
		case ok && p.out.kind == 2:
			*q = proc{} // and looks again
		case ok:
			q.at, q.held = done, p.target
			q.fresh, q.behind = false, false
		default:
			if q.refusals >= uint8(m.b.Refusals) && removing != 0 && !m.d.Fallback {
				n.stuck = true
			}
			*q = proc{at: refused, refusals: min(q.refusals+1, uint8(m.b.Refusals))}
		}
		yield(n, func() string { return "Azure gets it from " + who + ": " + m.said(p.out, ok) })
	case done:
		go2("hears that it was done, and records it", nil, func(n *state, p *proc) { m.finish(n, i, p.held) })
	}
	if m.b.Crashes && p.at != idle {
		n := s
		n.p[i] = proc{}
		if p.out.kind != 0 && !n.addLate(p.out, m.b.Late) {
			return
		}
		yield(n, func() string {
			if p.out.kind != 0 {
				return who + " crashes or gives up waiting; its write is still under way"
			}
			return who + " crashes, or its reply is lost"
		})
	}
}

func (m machine) send(s state, i int, yield func(state, func() string)) {
	n := s
	p := &n.p[i]
	p.out = write{kind: 1, rules: p.target, fresh: p.fresh, behind: p.behind}
	p.at, p.fresh, p.behind = sent, false, false
	yield(n, func() string { return fmt.Sprintf("%s sends the group with %s in it", names[i], set(p.target)) })
}

// work tells whether an idle process has something to do: the sweep once in a period; a replica as long as the store has a grant
// that is to be opened and was not seen open, or that is over and was not seen shut.
func (m machine) work(s *state, i int) bool {
	if i == sweep {
		return !s.swept
	}
	w := m.wanted(s)
	return w&^s.open != 0 || m.all()&^w&^s.over != 0
}

// finish records what a process knows the group to have held.
func (m machine) finish(s *state, i int, held uint8) {
	gone := s.p[i].gone
	s.p[i] = proc{}
	if i == sweep {
		s.swept = true
		return
	}
	w := m.wanted(s)
	if !m.d.NewRead {
		gone = m.all() &^ w
	}
	s.open |= held & w
	s.over |= gone &^ held // seen without its rule: final
}

// land applies a write to the group, unless Azure refuses it, and tells whether it did not.
func (m machine) land(s *state, w write) bool {
	switch {
	case w.kind == 2:
		if s.rules&w.rules != 0 {
			s.put(s.rules &^ w.rules)
			s.touch(false)
		}
		return true
	case m.d.IfMatch && !w.fresh:
		return false
	}
	s.lost = s.lost || w.behind
	s.put(w.rules)
	s.touch(false)
	return true
}

func (s *state) put(rules uint8) {
	for i := range s.age {
		if rules>>i&1 == 0 {
			s.age[i] = 0
		}
	}
	s.rules = rules
}

// touch gives the group a new etag: no read that was made before is fresh any more. foreign: its foreign rules changed.
func (s *state) touch(foreign bool) {
	for i := range s.p {
		p := &s.p[i]
		p.fresh = false
		if foreign && (p.at == read || p.at == decided || p.at == checked) {
			p.behind = true
		}
		p.out.touch(foreign)
	}
	for i := range s.late {
		s.late[i].touch(foreign)
	}
	s.sortLate()
}

func (w *write) touch(foreign bool) {
	w.fresh = false
	w.behind = w.behind || foreign && w.kind == 1
}

func (s *state) addLate(w write, most int) bool {
	for i := range min(most, len(s.late)) {
		if s.late[i].kind == 0 {
			s.late[i] = w
			s.sortLate()
			return true
		}
	}
	return false
}

// sortLate makes states equal that differ only in the order of writes under way.
func (s *state) sortLate() {
	if s.late[0].rank() < s.late[1].rank() {
		s.late[0], s.late[1] = s.late[1], s.late[0]
	}
}

func (w write) rank() int {
	r := int(w.kind)<<10 | int(w.rules)<<2
	if w.fresh {
		r |= 2
	}
	if w.behind {
		r |= 1
	}
	return r
}

func (p proc) rank() int {
	r := int(p.gone)<<28 | int(p.at)<<24 | int(p.held)<<20 | int(p.target)<<16 | int(p.refusals)<<14
	if p.fresh {
		r |= 1 << 13
	}
	if p.behind {
		r |= 1 << 12
	}
	return r | p.out.rank()
}

// swapped is the state with the replicas' parts exchanged.
func swapped(s state) state {
	s.p[0], s.p[1] = s.p[1], s.p[0]
	return s
}

func (m machine) said(w write, ok bool) string {
	switch {
	case !ok:
		return "412, the group has changed since it was read"
	case w.kind == 2:
		return "without " + set(w.rules) + " from now on"
	}
	return "the group holds " + set(w.rules) + " from now on"
}

// Check looks at every state that the design can reach within the bounds, the nearest first, and stops at the first that breaks
// a promise. most bounds the number of states: beyond it Check gives up with an error, because a part of the whole proves nothing.
func Check(d Design, b Bounds, most int) (Verdict, error) {
	if len(b.Ends) == 0 || len(b.Ends) > 2 || b.Late < 0 || b.Late > 2 {
		return Verdict{}, fmt.Errorf("bounds %+v: one or two grants, and at most two late writes", b)
	}
	m := machine{d, b}
	var start state
	states := []state{start}
	from := []int32{-1}
	seen := map[state]struct{}{start: {}}
	var v Verdict
	for i := 0; i < len(states); i++ {
		v.meet(m, &states[i])
		if why := m.broken(&states[i]); why != "" {
			v.States, v.Broken, v.Trace = len(states), why, m.trace(states, from, i)
			return v, nil
		}
		if len(states) > most {
			return Verdict{States: len(states)}, fmt.Errorf("more than %d states", most)
		}
		m.next(states[i], func(n state, _ func() string) {
			// The replicas are alike: states that differ only in which is which count once.
			if n.p[0].rank() < n.p[1].rank() {
				n = swapped(n)
			}
			if _, old := seen[n]; !old {
				seen[n] = struct{}{}
				states = append(states, n)
				from = append(from, int32(i))
			}
		})
	}
	v.States = len(states)
	return v, nil
}

func (v *Verdict) meet(m machine, s *state) {
	if m.excess(s) != 0 {
		v.Excess++
	}
	if s.age[0]|s.age[1] != 0 {
		v.Overslept++
	}
	if s.late[0].kind == 2 || s.p[0].out.kind == 2 || s.p[1].out.kind == 2 || s.p[sweep].out.kind == 2 {
		v.Deletes++
	}
	if m.d.Sweep {
		v.Healed++
	}
}

// heals tells whether one whole sweep removes every excess opening while everybody else stands still, and whether the next one
// does once all that was under way has been delivered.
func (m machine) heals(s state) bool {
	m.alone(&s)
	if m.excess(&s) != 0 {
		return false
	}
	for i := range s.p {
		w := s.p[i].out
		s.p[i].out = write{}
		if w.kind != 0 {
			m.land(&s, w)
		}
	}
	for _, w := range s.late {
		if w.kind != 0 {
			m.land(&s, w)
		}
	}
	s.late = [2]write{}
	m.alone(&s)
	return m.excess(&s) == 0
}

// alone runs one sweep from its beginning to its end.
func (m machine) alone(s *state) {
	s.p[sweep], s.swept = proc{}, false
	for range 100 {
		if s.swept {
			return
		}
		first := true
		m.step(*s, sweep, func(n state, _ func() string) {
			if first {
				*s, first = n, false
			}
		})
	}
}

// trace tells the way to a state. Replicas keep their names along it, although the states that were kept do not tell them apart.
func (m machine) trace(states []state, from []int32, to int) []string {
	var path []int
	for i := to; i >= 0; i = int(from[i]) {
		path = append(path, i)
	}
	slices.Reverse(path)
	var out []string
	now := states[path[0]]
	for k, i := range path[1:] {
		var then state
		m.next(now, func(n state, label func() string) {
			if len(out) == k && (n == states[i] || swapped(n) == states[i]) {
				then, out = n, append(out, fmt.Sprintf("%2d. %s", k+1, label()))
			}
		})
		now = then
	}
	return out
}

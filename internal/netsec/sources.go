package netsec

import (
	"net/netip"
	"slices"
	"sort"
	"strings"

	"go4.org/netipx"
)

// Piece is a part of the possible sources of traffic to one destination, judged alike by one NSG.
//
// Pieces without a tag are disjoint in addresses, ports, source ports and protocol, and together hold every source of the
// destination's address family. They say what happens to sources that are in no service tag with unknown addresses. A
// piece with a Tag says what happens instead to those sources among IPs that belong to the tag.
type Piece struct {
	IPs *netipx.IPSet
	// Tag is the service tag, several joined by "+" where a source must be in all of them; Tags are the same in a list.
	Tag  string
	Tags []string
	// Protocol is TCP or UDP where the question was Any.
	Protocol Protocol
	Ports    PortRange
	// SourcePorts is AllPorts but where a rule is restricted by source port.
	SourcePorts PortRange
	Access      Access
	Rule        *RuleRef
	Why         string

	rs ranges // IPs, to compute with
}

// PathPiece is a Piece judged over all layers of a path.
type PathPiece struct {
	Piece
	Hops    []Hop
	Decider int // as in Verdict
}

// Sources divides all possible sources of inbound traffic to dst into pieces. ports are ignored for protocols without
// ports. Any is answered for TCP and UDP apart. An invalid dst gives nil.
func (c *Compiled) Sources(dst netip.Addr, proto Protocol, ports PortRange) []Piece {
	p := Path{NIC: c}
	var out []Piece
	for _, pp := range p.Sources(dst, proto, ports) {
		out = append(out, pp.Piece)
	}
	return out
}

// Sources divides all possible sources of inbound traffic to dst into pieces, judged over all layers.
func (p Path) Sources(dst netip.Addr, proto Protocol, ports PortRange) []PathPiece {
	pieces := p.sources(dst, proto, ports)
	for i := range pieces {
		pieces[i].IPs = pieces[i].rs.set()
	}
	return pieces
}

// sources leaves IPs empty.
func (p Path) sources(dst netip.Addr, proto Protocol, ports PortRange) []PathPiece {
	dst = dst.Unmap().WithZone("")
	if !dst.IsValid() || proto > AH {
		return nil
	}
	protos := []Protocol{proto}
	if proto == Any {
		protos = []Protocol{TCP, UDP}
	}
	if ports.Last < ports.First {
		return nil
	}
	var out []PathPiece
	for _, pr := range protos {
		s := newSweep(&p, dst, pr, ports)
		out = append(out, s.run()...)
	}
	return out
}

// sweep answers one Sources call for one protocol.
type sweep struct {
	path  *Path
	dst   netip.Addr
	proto Protocol
	ports PortRange
	ls    [3]*ruleList
	names [3]Layer
	n     int
	rules [3][]*crule // those that may match destination, protocol and ports
	// internet is public space outside the virtual network, where no NSG applies.
	internet ranges
}

func newSweep(p *Path, dst netip.Addr, proto Protocol, ports PortRange) *sweep {
	s := &sweep{path: p, dst: dst, proto: proto, ports: ports}
	if !proto.hasPorts() {
		s.ports = AllPorts
	}
	s.ls, s.names, s.n = p.layers(true)
	k := keyOf(dst)
	for i := range s.n {
		for j := range s.ls[i].rules {
			r := &s.ls[i].rules[j]
			if r.protos&proto.bits() != 0 && r.dst.can(&k, 0) && (r.allDports || r.dportsDim || overlaps(r.dports, s.ports)) {
				s.rules[i] = append(s.rules[i], r)
			}
		}
	}
	if s.path.Subnet == nil && s.path.NIC == nil {
		s.internet = p.place().zones[0]
	}
	return s
}

func overlaps(rs []PortRange, p PortRange) bool {
	return slices.ContainsFunc(rs, func(r PortRange) bool { return r.Overlaps(p) })
}

// cuts divides within into the intervals in which no rule changes its mind.
func (s *sweep) cuts(within PortRange, of func(*crule) []PortRange) []PortRange {
	starts := map[int]bool{int(within.First): true}
	if s.proto.hasPorts() {
		for i := range s.n {
			for _, r := range s.rules[i] {
				for _, p := range of(r) {
					if p.First > within.First && p.First <= within.Last {
						starts[int(p.First)] = true
					}
					if p.Last >= within.First && p.Last < within.Last {
						starts[int(p.Last)+1] = true
					}
				}
			}
		}
	}
	var at []int
	for x := range starts {
		at = append(at, x)
	}
	sort.Ints(at)
	var out []PortRange
	for i, x := range at {
		last := int(within.Last)
		if i+1 < len(at) {
			last = at[i+1] - 1
		}
		out = append(out, PortRange{uint16(x), uint16(last)})
	}
	return out
}

// region is a set of sources on its way through the layers.
type region struct {
	ips  ranges
	rs   [3]result
	via  bool // a tag that is assumed made the difference
	done bool
}

func (s *sweep) run() []PathPiece {
	all, assumptions := family(s.dst), s.assumptions()
	var out []PathPiece
	for _, sp := range s.cuts(AllPorts, func(r *crule) []PortRange { return r.sports }) {
		for _, dp := range s.cuts(s.ports, func(r *crule) []PortRange { return r.dports }) {
			q := query{dst: keyOf(s.dst), sport: sp.First, dport: dp.First, proto: s.proto.bits(), ports: s.proto.hasPorts()}
			for _, g := range s.through(q, all, nil) {
				out = append(out, s.pieces(g, nil, dp, sp, q)...)
			}
			for _, a := range assumptions {
				for _, g := range s.through(q, all.and(a.scope), a.ids) {
					if g.via {
						out = append(out, s.pieces(g, &a, dp, sp, q)...)
					}
				}
			}
		}
	}
	return merge(out)
}

// assumption is a tag, or one tag of each of several layers, that a source is taken to belong to.
type assumption struct {
	ids   map[string]bool // with the tags that hold it: who is in Storage.WestEurope is in Storage
	names []string
	scope ranges
}

// assumptions returns every combination of tags that can make a difference: within one layer the first matching rule is
// the first of any single tag, so one tag a layer is enough.
func (s *sweep) assumptions() []assumption {
	perLayer := make([]map[string]*atom, 0, 3)
	every := map[string]*atom{}
	for i := range s.n {
		m := map[string]*atom{}
		for _, r := range s.rules[i] {
			for j := range r.src.atoms {
				if a := &r.src.atoms[j]; a.tag {
					m[a.id], every[a.id] = a, a
				}
			}
		}
		if len(m) > 0 {
			perLayer = append(perLayer, m)
		}
	}
	combos := map[string][]*atom{}
	var add func(i int, picked []*atom)
	add = func(i int, picked []*atom) {
		if i == len(perLayer) {
			if len(picked) > 0 {
				ids := map[string]*atom{}
				for _, a := range picked {
					ids[a.id] = a
				}
				var names []string
				for id := range ids {
					names = append(names, id)
				}
				sort.Strings(names)
				var as []*atom
				for _, id := range names {
					as = append(as, ids[id])
				}
				combos[strings.Join(names, "+")] = as
			}
			return
		}
		add(i+1, picked)
		for _, a := range perLayer[i] {
			add(i+1, append(slices.Clone(picked), a))
		}
	}
	add(0, nil)
	var keys []string
	for k := range combos {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var out []assumption
	for _, k := range keys {
		as := combos[k]
		x := assumption{ids: map[string]bool{}, scope: everyRange}
		for _, a := range as {
			x.names = append(x.names, a.name)
			x.scope = x.scope.and(a.scope.rs)
			x.ids[a.id] = true
			for id := range every {
				if within(a.id, id) {
					x.ids[id] = true
				}
			}
		}
		if len(x.scope) > 0 {
			out = append(out, x)
		}
	}
	return out
}

// through sends a set of sources through the layers. assumed holds the tags that the sources are taken to belong to.
func (s *sweep) through(q query, ips ranges, assumed map[string]bool) []region {
	regions := []region{{ips: ips}}
	for i := range s.n {
		var next []region
		for _, g := range regions {
			if g.done {
				next = append(next, g)
				continue
			}
			for _, part := range s.layer(i, &q, g.ips, assumed) {
				h := g
				h.ips, h.via = part.ips, g.via || part.via
				h.rs[i] = part.result
				h.done = part.out == outDeny || part.out == outAllow && s.names[i] == LayerAdmin
				next = append(next, h)
			}
		}
		regions = next
	}
	return regions
}

// part is a set of sources that one layer judges alike.
type part struct {
	ips ranges
	result
	via   bool
	first *crule
	gone  uint64
	tied  int // the priority whose rules may still join in, once one has matched
}

func (p part) finish() part {
	if !p.out.single() && p.first != nil {
		p.ref, p.why = p.first.ref, p.first.reason()
	}
	return p
}

// layer judges sources by the rules of one layer.
func (s *sweep) layer(i int, q *query, ips ranges, assumed map[string]bool) []part {
	open := []part{{ips: ips, tied: -1}}
	var closed []part
	for _, r := range s.rules[i] {
		possible, certain := r.portsMatch(q)
		if !possible {
			continue
		}
		certain = certain && !r.opaque && (r.dst.every || r.dst.yes.contains(&q.dst))
		var next []part
		for _, st := range open {
			if st.tied >= 0 && st.tied != r.prio {
				closed = append(closed, st)
				continue
			}
			next = append(next, st.split(r, certain, assumed)...)
		}
		open = open[:0]
		for _, st := range next {
			if st.tied == -2 {
				st.tied = -1
				closed = append(closed, st)
				continue
			}
			open = append(open, st)
		}
	}
	for _, st := range open {
		if st.tied < 0 {
			st.out |= s.ls[i].end
			st.ref = nil
		}
		closed = append(closed, st)
	}
	for j := range closed {
		closed[j] = closed[j].finish()
	}
	return closed
}

// split divides the part by what the rule does to it: surely matched (tied -2: closed), perhaps matched, not matched.
func (p part) split(r *crule, certain bool, assumed map[string]bool) []part {
	yes := r.src.yes.rs
	if r.src.every {
		yes = everyRange
	}
	var viaTag, dim ranges // in an assumed tag; in something that was not read
	for j := range r.src.atoms {
		a := &r.src.atoms[j]
		switch {
		case a.tag && assumed[a.id]:
			viaTag = union(viaTag, a.scope.rs)
		case !a.tag && a.bit&p.gone == 0:
			dim = union(dim, a.scope.rs)
		}
	}
	rest := p.ips
	var out []part
	take := func(set ranges, sure, via bool) {
		ips := rest.and(set)
		if len(ips) == 0 {
			return
		}
		rest = rest.minus(ips)
		n := p
		n.ips = ips
		n.out |= r.out
		n.via = n.via || via
		if p.tied >= 0 { // already decided by a rule of the same priority
			if n.first == nil {
				n.first = r
			}
			out = append(out, n)
			return
		}
		if !sure || !r.out.single() {
			if n.first == nil {
				n.first = r
			}
		}
		if !sure {
			if certain && !r.tied {
				n.gone |= r.src.unread()
			}
			out = append(out, n)
			return
		}
		n.ref, n.tied = r.ref, -2
		if r.tied {
			n.tied = r.prio
		}
		if n.first == nil && !n.out.single() {
			n.first = r
		}
		out = append(out, n)
	}
	take(yes, certain, false)
	take(viaTag, certain, true)
	take(dim, false, false)
	if len(rest) > 0 {
		n := p
		n.ips = rest
		out = append(out, n)
	}
	return out
}

// unread returns the bits of the atoms that are not tags.
func (s *side) unread() (bits uint64) {
	for i := range s.atoms {
		if !s.atoms[i].tag {
			bits |= s.atoms[i].lowers
		}
	}
	return bits
}

// pieces turns a region into pieces: where no NSG applies, the Internet is judged apart.
func (s *sweep) pieces(g region, x *assumption, dp, sp PortRange, q query) []PathPiece {
	parts := []ranges{g.ips}
	if s.path.Subnet == nil && s.path.NIC == nil {
		parts = []ranges{g.ips.and(s.internet), g.ips.minus(s.internet)}
	}
	var out []PathPiece
	for _, ips := range parts {
		if len(ips) == 0 {
			continue
		}
		sample := ips[0].From()
		q.src = keyOf(sample)
		j := judge{q: q, useFixed: true}
		j.start(s.path, true)
		j.rs = g.rs
		p := Piece{rs: ips, Protocol: s.proto, Ports: dp, SourcePorts: sp}
		if x != nil {
			j.fixed, p.Tags, p.Tag = x.ids, x.names, strings.Join(x.names, "+")
		}
		j.source(sample, true)
		v := j.verdict()
		p.Access, p.Why, p.Rule = v.Access, v.Why, v.Rule()
		out = append(out, PathPiece{Piece: p, Hops: v.Hops, Decider: v.Decider})
	}
	return out
}

// merge joins pieces that differ only in adjacent ports or source ports.
func merge(ps []PathPiece) []PathPiece {
	for again := true; again; {
		again = false
		var out []PathPiece
		ends := map[end][]int{}
		enter := func(i int) {
			byPorts, bySource := out[i].ends()
			ends[byPorts], ends[bySource] = append(ends[byPorts], i), append(ends[bySource], i)
		}
	next:
		for _, p := range ps {
			for _, e := range [2]end{{true, p.Ports.First - 1, p.SourcePorts}, {false, p.SourcePorts.First - 1, p.Ports}} {
				if e.last == 65535 { // nothing lies before port 0
					continue
				}
				for n, i := range ends[e] {
					o := &out[i]
					if byPorts, bySource := o.ends(); byPorts != e && bySource != e || !o.like(&p) {
						continue // it may have grown since it was entered
					}
					ends[e] = slices.Delete(ends[e], n, n+1)
					if e.ports {
						o.Ports.Last = p.Ports.Last
					} else {
						o.SourcePorts.Last = p.SourcePorts.Last
					}
					enter(i)
					again = true
					continue next
				}
			}
			out = append(out, p)
			enter(len(out) - 1)
		}
		ps = out
	}
	return ps
}

// end is where a piece could be continued: by ports, with the same source ports, or the other way round.
type end struct {
	ports bool
	last  uint16
	other PortRange
}

func (p *PathPiece) ends() (byPorts, bySource end) {
	return end{true, p.Ports.Last, p.SourcePorts}, end{false, p.SourcePorts.Last, p.Ports}
}

// like reports whether two pieces have the same sources and the same way through the layers.
func (p *PathPiece) like(o *PathPiece) bool {
	if p.Access != o.Access || p.Tag != o.Tag || p.Protocol != o.Protocol || p.Decider != o.Decider || len(p.Hops) != len(o.Hops) || p.Why != o.Why {
		return false
	}
	for i := range p.Hops {
		if p.Hops[i].Rule != o.Hops[i].Rule || p.Hops[i].Access != o.Hops[i].Access {
			return false
		}
	}
	return slices.Equal(p.rs, o.rs)
}

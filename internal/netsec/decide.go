package netsec

// query is a packet in the form in which rules look at it.
type query struct {
	src, dst     key
	sport, dport uint16
	proto        uint8
	ports        bool
}

const (
	whyNoAddress = "the packet has no valid source and destination address"
	whyFamilies  = "source and destination are of different address families"
	whyProtocols = "TCP and UDP are judged differently"
	whyProtocol  = "the packet's protocol is not known"
)

// newQuery returns the reason why the packet cannot be judged, or "".
func newQuery(p *Packet) (q query, why string) {
	src, dst := p.Src.Unmap(), p.Dst.Unmap()
	if !src.IsValid() || !dst.IsValid() {
		return q, whyNoAddress
	}
	if src.Is4() != dst.Is4() {
		return q, whyFamilies
	}
	if p.Protocol > AH {
		return q, whyProtocol
	}
	return query{src: keyOf(src), dst: keyOf(dst), sport: p.SrcPort, dport: p.DstPort, proto: p.Protocol.bits(),
		ports: p.Protocol.hasPorts()}, ""
}

// result of a rule list.
type result struct {
	out outcome
	ref *RuleRef
	why string
}

func inPorts(rs []PortRange, p uint16) bool {
	for i := range rs {
		if rs[i].First <= p && p <= rs[i].Last {
			return true
		}
	}
	return false
}

// portsMatch reports whether the rule can match by its ports, and whether for certain. A range that does not name all
// ports matches no packet of a protocol without ports.
func (r *crule) portsMatch(q *query) (possible, certain bool) {
	certain = true
	if !r.allDports && (!q.ports || !inPorts(r.dports, q.dport)) {
		if !r.dportsDim {
			return false, false
		}
		certain = false
	}
	if !r.allSports && (!q.ports || !inPorts(r.sports, q.sport)) {
		if !r.sportsDim {
			return false, false
		}
		certain = false
	}
	return true, certain
}

// decide walks the rules; the first match wins. A rule that may match is one possibility, and the walk goes on with the
// other; what the other implies for the source (it is not of that tag) is kept in the bits of gone.
func (l *ruleList) decide(q *query) result {
	var (
		outs  outcome
		gone  uint64
		first *crule // the first rule that is not certain
	)
	for i := range l.rules {
		r := &l.rules[i]
		if r.protos&q.proto == 0 {
			continue
		}
		certain := !r.opaque
		if !r.allDports || !r.allSports {
			possible, sure := r.portsMatch(q)
			if !possible {
				continue
			}
			certain = certain && sure
		}
		if !r.dst.every && !r.dst.yes.contains(&q.dst) {
			if len(r.dst.atoms) == 0 || !r.dst.may(&q.dst, 0) {
				continue
			}
			certain = false
		}
		if !r.src.every && !r.src.yes.contains(&q.src) {
			if len(r.src.atoms) == 0 || !r.src.may(&q.src, gone) {
				continue
			}
			if certain && !r.tied { // if it does not match, then because of the source alone
				gone |= r.src.fallen(&q.src)
			}
			certain = false
		}
		outs |= r.out
		if !certain {
			if first == nil {
				first = r
			}
			continue
		}
		if r.tied {
			if f := l.ties(i, q, gone, &outs); f != nil && first == nil {
				first = r
			}
		}
		if outs.single() {
			return result{out: outs, ref: r.ref}
		}
		if first == nil {
			first = r
		}
		return result{out: outs, ref: first.ref, why: first.reason()}
	}
	outs |= l.end
	if outs.single() || first == nil {
		return result{out: outs}
	}
	return result{out: outs, ref: first.ref, why: first.reason()}
}

func (r *crule) reason() string {
	switch {
	case r.why != "":
		return r.why
	case r.tied:
		return "several rules have the same priority"
	}
	return "another rule that may match decides otherwise"
}

// ties adds the outcomes of the later rules that have the priority of rule i, and returns the last that may match: Azure
// refuses equal priorities within one NSG, so their order is not known.
func (l *ruleList) ties(i int, q *query, gone uint64, outs *outcome) (last *crule) {
	for j := i + 1; j < len(l.rules) && l.rules[j].prio == l.rules[i].prio; j++ {
		r := &l.rules[j]
		if r.protos&q.proto == 0 {
			continue
		}
		if possible, _ := r.portsMatch(q); !possible {
			continue
		}
		if r.dst.can(&q.dst, 0) && r.src.can(&q.src, gone) {
			*outs |= r.out
			last = r
		}
	}
	return last
}

// may reports whether the address may belong to one of the atoms that are not yet excluded.
func (s *side) may(k *key, gone uint64) bool {
	for i := range s.atoms {
		if a := &s.atoms[i]; a.bit&gone == 0 && a.scope.contains(k) {
			return true
		}
	}
	return false
}

func (s *side) can(k *key, gone uint64) bool { return s.every || s.yes.contains(k) || s.may(k, gone) }

// fallen returns the bits of the atoms that do not hold the address if the side does not match it.
func (s *side) fallen(k *key) (bits uint64) {
	for i := range s.atoms {
		if a := &s.atoms[i]; a.scope.contains(k) {
			bits |= a.lowers
		}
	}
	return bits
}

func (c *Compiled) list(inbound bool) *ruleList {
	if inbound {
		return &c.in
	}
	return &c.out
}

// Decide judges one packet: the first rule that matches wins (FACTS 2.1). It allocates nothing. The same packet always
// gets the same answer.
func (c *Compiled) Decide(p Packet) Decision {
	q, why := newQuery(&p)
	if why != "" {
		return Decision{Why: why}
	}
	l := c.list(p.Inbound)
	if p.Protocol != Any {
		r := l.decide(&q)
		return Decision{Access: r.out.access(), Rule: r.ref, Why: r.why}
	}
	q.ports, q.proto = true, TCP.bits()
	t := l.decide(&q)
	q.proto = UDP.bits()
	u := l.decide(&q)
	if t.out != u.out {
		return Decision{Rule: t.ref, Why: whyProtocols}
	}
	return Decision{Access: t.out.access(), Rule: t.ref, Why: t.why}
}

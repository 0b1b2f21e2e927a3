package scan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// inUse tells whether a port is one that the machine is administered through: by its operating system, or because the Internet reaches
// it. Where the system is not told, it may be either of two.
func (m *machine) inUse(p *portView) (use, maybe bool) {
	if p.exposure == ExposedInternet {
		return true, false
	}
	switch m.OS {
	case "linux":
		return p.port == 22, false
	case "windows":
		return p.port == 3389, false
	}
	return false, p.port == 22 || p.port == 3389
}

func (m *machine) system() string {
	switch m.OS {
	case "linux":
		return "Linux"
	case "windows":
		return "Windows"
	}
	return ""
}

// jitMissing judges vm-jit-missing: per machine and port in use.
func (j *judge) jitMissing(b *batch, m *machine) {
	if !j.want[VMJITMissing] {
		return
	}
	type port struct {
		*portView
		protection
	}
	v := verdict{}
	switch {
	case m.owned != "":
		v.status, v.reason = NotApplicable, say(m.owned)
		j.found(b, VMJITMissing, &m.Meta, typeVM, v)
		return
	case !m.grouped && !m.firewall && m.unsure == "":
		v.status, v.reason = NotApplicable, say("neither a network security group nor a firewall stands before it, so nothing could open and shut its ports")
		j.found(b, VMJITMissing, &m.Meta, typeVM, v)
		return
	}
	var bad, dim, good []port
	for _, p := range j.portsInUse(m) {
		use, maybe := m.inUse(p)
		if !use && !maybe {
			if p.exposure == ExposureUnknown {
				if x := j.protectionOf(m.VM, m.id, netsec.TCP, p.port); x.by == "" {
					dim = append(dim, port{p, protection{unread: fmt.Sprintf("port %d is not protected, and it is not known whether the Internet reaches it: %s", p.port, p.unknown)}})
				}
			}
			continue
		}
		x := j.protectionOf(m.VM, m.id, netsec.TCP, p.port)
		switch {
		case x.by != "":
			good = append(good, port{p, x})
		case x.unread != "":
			dim = append(dim, port{p, x})
		case maybe:
			x.unread = fmt.Sprintf("port %d is not protected, and the operating system, which says whether it is in use, is not told", p.port)
			dim = append(dim, port{p, x})
		default:
			bad = append(bad, port{p, x})
		}
	}
	for _, ps := range [][]port{bad, dim, good} {
		for _, p := range ps {
			if p.exposure == ExposedNothing && p.vnetDim != "" {
				v.exposure = ExposureUnknown
			} else if v.exposure == "" || rank(exposures, p.exposure) < rank(exposures, v.exposure) {
				v.exposure = p.exposure
			}
		}
		if len(ps) > 0 {
			break
		}
	}
	told := good
	switch {
	case len(bad) > 0 && !m.grouped && !m.firewall: // only because a part of it was not read
		v.status, v.reason = Unknown, say("it is not known whether it could be protected: "+m.unsure)
	case len(bad) > 0:
		v.status, told = Fail, bad
		v.reason = func() string {
			p := bad[0]
			for _, q := range bad { // the worst first
				if rank(exposures, q.exposure) < rank(exposures, p.exposure) {
					p = q
				}
			}
			s := "neither Defender nor Curfew protects port " + strconv.Itoa(int(p.port))
			if use := m.system(); use != "" && p.exposure != ExposedInternet {
				s += " of this " + use + " machine"
			}
			if p.near != "" {
				s += " (" + p.near + ")"
			}
			s += ", which " + j.reachText(m, p.portView)
			for _, q := range bad {
				if q.port != p.port {
					s += fmt.Sprintf("; nor port %d", q.port)
				}
			}
			return s
		}
	case len(dim) > 0:
		v.status, told = Unknown, dim
		v.reason = func() string { return dim[0].unread }
	case m.unsure != "" && !m.grouped:
		v.status, v.reason = Unknown, say("it is not known whether it could be protected: "+m.unsure)
	case len(good) == 0:
		v.status, v.reason = Unknown, say("no port of it is known to be in use")
	default:
		v.status = Pass
		v.reason = func() string {
			var s []string
			for _, p := range good {
				by := "a just-in-time policy of Defender, " + nameOf(p.policy)
				if p.by == "curfew" {
					by = "rule " + p.policy + " of " + nameOf(p.nsg)
				}
				s = append(s, fmt.Sprintf("port %d is protected by %s", p.port, by))
			}
			return strings.Join(s, "; ")
		}
	}
	v.evidence = func() Evidence {
		e := Evidence{Facts: j.portFacts(m)}
		for _, p := range told {
			e.Ports = append(e.Ports, j.portEvidence(m, p.portView, p.protection))
		}
		return e
	}
	j.found(b, VMJITMissing, &m.Meta, typeVM, v)
}

// portsInUse are the views of the management ports, and of the one that the operating system is administered through where the options
// leave it out.
func (j *judge) portsInUse(m *machine) []*portView {
	out := make([]*portView, 0, len(m.views)+2)
	for i := range m.views {
		out = append(out, &m.views[i])
	}
	for _, port := range [2]uint16{22, 3389} {
		p := portView{port: port}
		if use, maybe := m.inUse(&p); (use || maybe) && !slices.Contains(j.o.Ports, port) {
			p = j.view(m.VM, m.id, netsec.TCP, port, false)
			out = append(out, &p)
		}
	}
	return out
}

// reachText says who reaches a port, after "which".
func (j *judge) reachText(m *machine, p *portView) string {
	switch p.exposure {
	case ExposedInternet:
		return "is open to the Internet: " + j.deciderText(m, p, p.worst)
	case ExposureUnknown:
		return "the Internet may reach: " + p.unknown
	case ExposedSome:
		s, more := j.sourcesOf(&p.ways[p.worst].Reach.Internet)
		return "is open to " + listText(s, more) + ": " + j.deciderText(m, p, p.worst)
	case ExposedVirtualNetwork:
		return "is open to the virtual network: " + j.deciderText(m, p, p.worst)
	}
	if p.vnetDim != "" {
		return "the virtual network may reach: " + p.vnetDim
	}
	return "is shut to everybody, but by no temporary protection"
}

// jitIneffective judges vm-jit-ineffective: whether what is protected is shut, whatever protects it.
func (j *judge) jitIneffective(b *batch, m *machine) {
	if !j.want[VMJITIneffective] {
		return
	}
	v := verdict{}
	if m.owned != "" {
		v.status, v.reason = NotApplicable, say(m.owned)
		j.found(b, VMJITIneffective, &m.Meta, typeVM, v)
		return
	}
	guards := j.guardedPorts(m.VM, m.id)
	_, hidden := j.e.Incomplete(m.Subscription, typePolicy)
	type open struct {
		guarded
		portView
	}
	var bad, dim []open
	looks := 0
	v.exposure = ExposedNothing
	for _, g := range guards {
		p := j.without(m, g, &looks)
		switch p.exposure {
		case ExposedInternet, ExposedSome, ExposedVirtualNetwork:
			if g.unread != "" {
				p.unknown = g.unread
				dim = append(dim, open{g, p})
				continue
			}
			bad = append(bad, open{g, p})
			if rank(exposures, p.exposure) < rank(exposures, v.exposure) {
				v.exposure = p.exposure
			}
		case ExposureUnknown:
			dim = append(dim, open{g, p})
		default:
			if p.vnetDim != "" {
				p.unknown = p.vnetDim
				dim = append(dim, open{g, p})
			}
		}
	}
	told := bad
	switch {
	case len(bad) > 0:
		v.status = Fail
		v.reason = func() string {
			x := &bad[0]
			for i := range bad {
				if rank(exposures, bad[i].exposure) < rank(exposures, x.exposure) {
					x = &bad[i]
				}
			}
			s := fmt.Sprintf("port %d%s is protected by %s, and yet it %s", x.port, protoText(x.portView.proto), guardText(x.protection), j.reachText(m, &x.portView))
			s += j.whyNoDeny(m, x.guarded, &x.portView)
			if n := len(bad) - 1; n > 0 {
				s += fmt.Sprintf("; the same holds for %d more of its ports", n)
			}
			return s
		}
	case len(dim) > 0:
		v.status, v.exposure, told = Unknown, ExposureUnknown, dim
		v.reason = func() string {
			if dim[0].unread != "" {
				return fmt.Sprintf("port %d is open, and it is not known whether just-in-time access is on for it: %s", dim[0].port, dim[0].unread)
			}
			return fmt.Sprintf("port %d is protected by %s, but it is not known whether it is shut: %s", dim[0].port, guardText(dim[0].protection), dim[0].unknown)
		}
	case hidden:
		v.status, v.exposure, v.reason = Unknown, ExposureUnknown, say("it is not known whether just-in-time access is on: just-in-time policies could not be read")
	case len(guards) == 0 && m.missing != "":
		v.status, v.exposure, v.reason = Unknown, ExposureUnknown, say("it is not known whether just-in-time access is on: "+m.missing)
	case len(guards) == 0:
		v.status, v.exposure, v.reason = NotApplicable, "", say("just-in-time access is not switched on for a port of it")
	case m.missing != "":
		v.status, v.exposure, v.reason = Unknown, ExposureUnknown, say("it is not known whether its protected ports are shut: "+m.missing)
	default:
		v.status, v.reason = Pass, say("every protected port is shut to the Internet and the virtual network until somebody asks for it")
	}
	v.evidence = func() Evidence {
		e := Evidence{Facts: j.portFacts(m)}
		for i := range told {
			if i == 20 {
				break
			}
			e.Ports = append(e.Ports, j.portEvidence(m, &told[i].portView, told[i].protection))
		}
		return e
	}
	j.found(b, VMJITIneffective, &m.Meta, typeVM, v)
}

func protoText(p netsec.Protocol) string {
	if p == netsec.UDP {
		return " (UDP)"
	}
	return ""
}

func guardText(p protection) string {
	if p.by == "curfew" {
		return "rule " + p.policy + " of " + nameOf(p.nsg)
	}
	return "the just-in-time policy " + nameOf(p.policy)
}

// maxLooks bounds the ports of one machine that are looked at one by one.
const maxLooks = 4096

// without returns the view of what a guard protects, exemptions aside. A range of ports is looked at as a whole first; where it is not
// shut as a whole, its ports are looked at one by one until one is open. looks counts these.
func (j *judge) without(m *machine, g guarded, looks *int) portView {
	p := j.view(m.VM, m.id, g.proto, g.ports.First, true)
	if g.ports.First == g.ports.Last || j.rangeShut(m, &p, g) {
		return p
	}
	for port := int(g.ports.First) + 1; port <= int(g.ports.Last) && p.exposure == ExposedNothing && p.vnetDim == ""; port++ {
		if *looks++; *looks > maxLooks {
			p.vnetDim = fmt.Sprintf("more than %d ports of it are protected and not shut as a whole, too many to look at each", maxLooks)
			break
		}
		p = j.view(m.VM, m.id, g.proto, uint16(port), true)
	}
	return p
}

// rangeShut tells whether the rules shut a whole range on every address of the machine.
func (j *judge) rangeShut(m *machine, first *portView, g guarded) bool {
	done := 0
	for i := range first.ways {
		w := &first.ways[i]
		if w.Kind != estate.VirtualNetwork {
			continue
		}
		r := w.Path.Reachable(w.Dest, g.proto, g.ports).Except(func(x *netsec.PathPiece) bool { return j.passing(first, w, x, m.id, true) })
		if !r.Closed() {
			return false
		}
		done++
	}
	addrs := 0
	for i := range m.Endpoints {
		addrs += len(m.Endpoints[i].Addrs)
	}
	return done >= addrs && done > 0
}

// whyNoDeny says where the deny is that should have shut the port.
func (j *judge) whyNoDeny(m *machine, g guarded, p *portView) string {
	if p.worst < 0 {
		return ""
	}
	w := &p.ways[p.worst]
	if g.by == "curfew" {
		f, _ := j.facts(g.nsg)
		if f == nil {
			return ""
		}
		if r := ruleNamed(f.nsg, g.policy); r != nil {
			return fmt.Sprintf(", before the deny (priority %d)", r.Priority)
		}
		return ""
	}
	var best *estate.NSGRule
	where := ""
	for _, c := range [2]*netsec.Compiled{w.Path.Subnet, w.Path.NIC} {
		if c == nil {
			continue
		}
		f, _ := j.facts(c.ID)
		for _, s := range f.specials() {
			if s.kind != defenderDeny || s.rule.Access != netsec.Deny || !perhapsPort(s.rule.DestinationPorts, p.port) {
				continue
			}
			ps, every := prefixesOf(s.rule.Destinations)
			if every || slices.ContainsFunc(ps, func(x netip.Prefix) bool { return x.Contains(w.Dest) }) {
				if best == nil {
					best, where = s.rule, f.nsg.Name
				}
			}
		}
	}
	if best == nil {
		return "; no deny rule of Defender's stands before it"
	}
	return fmt.Sprintf("; Defender's deny (priority %d of %s) does not come before", best.Priority, where)
}

// portEvidence is what a verdict about a port rests on.
func (j *judge) portEvidence(m *machine, p *portView, by protection) PortEvidence {
	e := PortEvidence{Port: p.port, Protocol: strings.ToLower(cmp.Or(p.proto, netsec.TCP).String()), Exposure: p.exposure, ProtectedBy: by.by}
	if by.by != "" {
		e.Policy = by.policy
	}
	if !j.o.Lean {
		j.portWays(m, p, &e)
	}
	return e
}

// portWays adds the ways to a port, and what holds it open.
func (j *judge) portWays(m *machine, p *portView, e *PortEvidence) {
	e.Ways = make([]Way, 0, min(len(p.ways), maxWays))
	for i := range p.ways {
		if w := &p.ways[i]; w.Kind == estate.VirtualNetwork || len(e.Ways) < maxWays {
			e.Ways = append(e.Ways, j.wayEvidence(m, p, i))
		}
	}
	if e.Open = nil; len(e.Ways) == 0 {
		e.Ways = nil
	}
	for _, ref := range p.held {
		e.Open = append(e.Open, j.holdOf(m, p, ref))
	}
}

// maxWays bounds the public ways that are told of one port.
const maxWays = 16

func (j *judge) holdOf(m *machine, p *portView, ref *netsec.RuleRef) Hold {
	h := Hold{Rule: ref.Name}
	f, _ := j.facts(ref.GroupID)
	if f == nil {
		return h
	}
	s := f.special[strings.ToLower(ref.Name)]
	if s == nil {
		return h
	}
	h.Sources = s.rule.Sources
	if s.kind == ourAllow {
		h.By, h.End, h.Installation, h.Grant, h.ByName = "curfew", s.end, s.installation, "g-"+s.grant, true
		return h
	}
	h.By = "defender"
	for _, q := range j.live[m.id] {
		if q.port == int(p.port) && meet(q.sources, s.rule.Sources) && q.end.After(h.End) {
			h.End = q.end
		}
	}
	return h
}

package scan

import (
	"fmt"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// portView is who reaches one port of a machine, live grants and requests aside.
type portView struct {
	proto    netsec.Protocol
	port     uint16
	ways     []estate.Way // their Reach without what is held open for a time
	exposure Exposure
	worst    int    // the way that the exposure comes from, -1 where none does
	unknown  string // why it is not known, where the exposure is unknown
	vnetDim  string // why it is not known who of the virtual network reaches it, "" when it is
	held     []*netsec.RuleRef
}

// view computes who reaches a port. With exempt, named exemptions from a protection do not count either.
func (j *judge) view(v *estate.VM, vmID string, proto netsec.Protocol, port uint16, exempt bool) portView {
	return j.viewInto(nil, v, vmID, proto, port, exempt)
}

// viewInto is view with room for the ways.
func (j *judge) viewInto(room []estate.Way, v *estate.VM, vmID string, proto netsec.Protocol, port uint16, exempt bool) portView {
	p := portView{proto: proto, port: port, exposure: ExposedNothing, worst: -1}
	p.ways = j.e.AppendWays(room, v, proto, port)
	var narrow *netipx.IPSetBuilder
	narrows := 0
	set := func(e Exposure, i int) {
		if rank(exposures, e) < rank(exposures, p.exposure) {
			p.exposure, p.worst = e, i
		}
	}
	for i := range p.ways {
		w := &p.ways[i]
		if j.hasSpecial(&w.Path) {
			w.Reach = w.Reach.Except(func(x *netsec.PathPiece) bool { return j.passing(&p, w, x, vmID, exempt) })
		}
		if w.Kind == estate.VirtualNetwork {
			switch z := &w.Reach.VirtualNetwork; {
			case z.Access() == netsec.Allow && w.Unknown == "":
				set(ExposedVirtualNetwork, i)
			case p.vnetDim != "":
			case z.Access() == netsec.Allow:
				p.vnetDim = w.Unknown
			case z.Access() == netsec.Unknown:
				p.vnetDim = j.whyUnknown(z)
			case w.Reach.Other.Access() != netsec.Deny:
				// A peer whose addresses are not known may be among the private ranges that get in.
				p.vnetDim = networkProblem(v)
			}
			continue
		}
		z := &w.Reach.Internet
		if len(z.Open) == 0 {
			continue
		}
		switch exposed := z.Exposed(); {
		case exposed && w.Unknown == "":
			set(ExposedInternet, i)
		case exposed || couldBeExposed(z):
			if rank(exposures, ExposureUnknown) < rank(exposures, p.exposure) {
				p.unknown = w.Unknown
				if p.unknown == "" {
					p.unknown = j.whyUnknown(z)
				}
			}
			set(ExposureUnknown, i)
		default:
			set(ExposedSome, i)
			if narrow == nil {
				narrow = &netipx.IPSetBuilder{}
			}
			narrows++
			narrow.AddSet(z.Allowed)
		}
	}
	// Several ways that are narrow each may be the Internet together.
	if narrows > 1 && p.exposure != ExposedInternet {
		if u, err := narrow.IPSet(); err == nil && netsec.Exposed(u, nil) {
			p.exposure = ExposedInternet
		}
	}
	return p
}

// couldBeExposed tells whether what gets in would be the Internet at large if everything that is not known got in too.
func couldBeExposed(z *netsec.Zone) bool {
	for i := range z.Open {
		if z.Open[i].Access == netsec.Unknown {
			var b netipx.IPSetBuilder
			b.AddSet(z.Allowed)
			b.AddSet(z.Unknown)
			u, err := b.IPSet()
			if err != nil || netsec.Exposed(u, nil) {
				return true
			}
			// A tag is as wide as its tenants; what several tags leave of the Internet is no tenant's.
			for k := range z.Open {
				if x := &z.Open[k]; x.Access == netsec.Unknown && len(x.Tags) > 0 &&
					!slices.ContainsFunc(x.Tags, func(t string) bool { return !netsec.AnyTenant(t) }) && netsec.Exposed(x.IPs, nil) {
					return true
				}
			}
			return false
		}
	}
	return false
}

func (j *judge) whyUnknown(z *netsec.Zone) string {
	for i := range z.Open {
		if x := &z.Open[i]; x.Access == netsec.Unknown {
			if x.Rule != nil && x.Rule.Name == "(not read)" {
				if n, ok := j.e.NSG(x.Rule.GroupID); ok && len(n.Problems) > 0 {
					return n.Problems[0].What
				}
				return nameOf(x.Rule.GroupID) + " was not read" + j.e.Unread(x.Rule.GroupID)
			}
			if x.Why != "" {
				return x.Why
			}
			if x.Decider >= 0 && x.Decider < len(x.Hops) && x.Hops[x.Decider].Why != "" {
				return x.Hops[x.Decider].Why
			}
			return "what was read does not settle it"
		}
	}
	return "what was read does not settle it"
}

// hasSpecial tells whether a group on the path holds rules of ours or Defender's.
func (j *judge) hasSpecial(p *netsec.Path) bool {
	for _, c := range [2]*netsec.Compiled{p.Subnet, p.NIC} {
		if c != nil {
			if f, _ := j.facts(c.ID); f != nil && f.special != nil {
				return true
			}
		}
	}
	return false
}

// passing tells whether a piece gets in by a rule that holds a port open for a time: at any layer, for where two groups apply, both are
// opened. With exempt, named exemptions from a protection count as well.
func (j *judge) passing(p *portView, w *estate.Way, x *netsec.PathPiece, vmID string, exempt bool) bool {
	for i := range x.Hops {
		ref := x.Hops[i].Rule
		if ref == nil || ref.Default {
			continue
		}
		f, _ := j.facts(ref.GroupID)
		if f == nil || f.special == nil {
			continue
		}
		s := f.special[strings.ToLower(ref.Name)]
		if s == nil {
			continue
		}
		switch s.kind {
		case ourExempt:
			// What exempts the Internet is no exemption from a protection against it, whatever its name.
			if _, every := anySource(s.rule.Sources); exempt && !every {
				return true
			}
		case ourAllow:
			if s.end.After(j.o.Now) && !j.endless(s.ruleName) && j.guards(w, s.installation, p.proto, p.port) {
				p.hold(ref)
				return true
			}
		case defenderAllow:
			if j.askedFor(vmID, p.port, s.rule.Sources) {
				p.hold(ref)
				return true
			}
		}
	}
	return false
}

// guards tells whether an installation protects a port of a way's address. Anybody who may write rules can give one a grant's name: it is
// believed for as long as the name says, and only of an installation that shuts the port otherwise, since nobody else has grants there.
func (j *judge) guards(w *estate.Way, installation string, proto netsec.Protocol, port uint16) bool {
	for _, c := range [2]*netsec.Compiled{w.Path.Subnet, w.Path.NIC} {
		if c == nil {
			continue
		}
		f, _ := j.facts(c.ID)
		if rule, _ := denyOver(f, w.Dest, proto, port, installation); rule != "" {
			return true
		}
	}
	return false
}

func (p *portView) hold(r *netsec.RuleRef) {
	if !slices.Contains(p.held, r) {
		p.held = append(p.held, r)
	}
}

// vm judges one machine by every rule about machines.
func (j *judge) vm(b *batch, v *estate.VM) {
	owned := managed(&v.Meta)
	j.terminateVM(b, v, owned)
	if !j.want[VMPortExposed] && !j.want[VMJITMissing] && !j.want[VMJITIneffective] && !j.want[VMNoNSG] {
		return
	}
	m := machine{VM: v, id: strings.ToLower(v.ID), owned: owned}
	for i := range v.Endpoints {
		switch ep := &v.Endpoints[i]; {
		case ep.SubnetNSG != "" || ep.NICNSG != "":
			m.grouped = true
		case surely(v, ep):
			m.bare = append(m.bare, ep)
		case m.unsure == "":
			m.unsure = "subnet " + ep.Subnet + " was not read for certain"
			if i := slices.IndexFunc(v.Problems, func(p estate.Problem) bool { return p.Resource != "" && about(p.Resource, ep.Subnet) }); i >= 0 {
				m.unsure = v.Problems[i].What
			}
		}
	}
	room := j.rooms.Get().(*room)
	defer j.rooms.Put(room)
	m.views = room.of(len(j.o.Ports))
	m.exposure = ExposedNothing
	for i, port := range j.o.Ports {
		m.views[i] = j.viewInto(m.views[i].ways[:0], v, m.id, netsec.TCP, port, false)
		if rank(exposures, m.views[i].exposure) < rank(exposures, m.exposure) {
			m.exposure = m.views[i].exposure
		}
		for k := range m.views[i].ways {
			m.firewall = m.firewall || m.views[i].ways[k].Kind == estate.FirewallDNAT
		}
	}
	if m.missing = missing(v); m.unsure == "" {
		m.unsure = m.missing
	}
	if m.missing != "" && rank(exposures, m.exposure) > rank(exposures, ExposureUnknown) {
		m.exposure = ExposureUnknown
	}
	if m.exposure == ExposedInternet {
		b.exposed++
	}
	j.portExposed(b, &m)
	j.jitMissing(b, &m)
	j.jitIneffective(b, &m)
	j.noNSG(b, &m)
}

// room is where the views of a machine lie while it is judged. Ways are large, and nothing of a verdict points to them.
type room struct{ views []portView }

// of returns room for n views, with what was in them before.
func (r *room) of(n int) []portView {
	if len(r.views) < n {
		r.views = append(r.views, make([]portView, n-len(r.views))...)
	}
	return r.views[:n]
}

// machine is a VM while it is judged.
type machine struct {
	*estate.VM
	id       string // lower case
	owned    string // whose it is, "" for its owner's own
	views    []portView
	exposure Exposure           // the worst of views
	bare     []*estate.Endpoint // those that surely have no group
	grouped  bool               // some endpoint has a group
	firewall bool               // a firewall leads to it
	unsure   string             // why it is not known of every endpoint whether a group applies
	missing  string             // a part of the machine that was not read, so that there may be ways that nobody sees
}

// missing says which part of a machine is not there to be judged: the machine itself, an interface, a private address. What else could
// not be read (a group, a subnet, a public address, a balancer) is told by the ways, which are uncertain only where it matters.
func missing(v *estate.VM) string {
	for i := range v.Problems {
		if p := &v.Problems[i]; p.Resource == "" || resourceIs(p.Resource, typeNIC) || resourceIs(p.Resource, typeVM) || resourceIs(p.Resource, typeScaleSet) {
			return p.What
		}
	}
	return ""
}

// networkProblem says what is not known of the machine's virtual network.
func networkProblem(v *estate.VM) string {
	for i := range v.Problems {
		if p := &v.Problems[i]; resourceIs(p.Resource, typeVNet) {
			return p.What
		}
	}
	return ""
}

// resourceIs tells whether an id is of a type, or of a part of one.
func resourceIs(id, typ string) bool {
	return strings.Contains(strings.ToLower(id), strings.ToLower("/providers/"+typ+"/"))
}

func (j *judge) portFacts(m *machine) []Fact {
	if j.o.Lean {
		return nil
	}
	var fs []Fact
	if m.OS != "" {
		fs = append(fs, Fact{"operating system", m.OS})
	}
	if m.Power != "" {
		fs = append(fs, Fact{"power state", m.Power})
	}
	for i, p := range m.Problems {
		if i == 5 {
			break
		}
		fs = append(fs, Fact{"not read", p.What})
	}
	return fs
}

// portExposed judges vm-management-port-exposed.
func (j *judge) portExposed(b *batch, m *machine) {
	if !j.want[VMPortExposed] {
		return
	}
	v := verdict{exposure: m.exposure}
	var bad, dim, some []*portView
	ways := 0
	for i := range m.views {
		p := &m.views[i]
		switch p.exposure {
		case ExposedInternet:
			bad = append(bad, p)
		case ExposureUnknown:
			dim = append(dim, p)
		case ExposedSome:
			some = append(some, p)
		}
		for k := range p.ways {
			if p.ways[k].Kind != estate.VirtualNetwork {
				ways++
			}
		}
	}
	told := bad
	switch {
	case m.owned != "":
		v.status = NotApplicable
		v.reason = func() string {
			if len(bad) > 0 {
				return m.owned + "; " + j.openText(m, bad[0])
			}
			return m.owned
		}
	case len(bad) > 0:
		v.status = Fail
		v.reason = func() string { return j.openText(m, bad[0]) + morePorts(bad[1:]) }
	case len(dim) > 0:
		v.status, told = Unknown, dim
		v.reason = func() string {
			return fmt.Sprintf("it is not known whether port %d is open to the Internet: %s", dim[0].port, dim[0].unknown) + morePorts(dim[1:])
		}
	case m.missing != "":
		v.status, v.exposure = Unknown, ExposureUnknown
		v.reason = say("it is not known whether the Internet reaches a management port: " + m.missing)
	case len(some) > 0:
		v.status, told = Pass, some
		v.reason = func() string {
			p := some[0]
			s, more := j.sourcesOf(&p.ways[p.worst].Reach.Internet)
			return fmt.Sprintf("port %d is open to %s alone, which is narrower than the Internet: %s", p.port, listText(s, more), j.deciderText(m, p, p.worst)) + morePorts(some[1:])
		}
	case ways == 0:
		v.status, v.reason = Pass, say("no public path leads to a management port of it")
	default:
		v.status = Pass
		v.reason = func() string {
			for i := range m.views {
				if len(m.views[i].held) > 0 {
					return fmt.Sprintf("port %d is open for a live grant alone, through rule %s%s", m.views[i].port, m.views[i].held[0].Name, believedText(m.views[i].held[0].Name))
				}
			}
			return "no management port is open to the Internet"
		}
	}
	v.evidence = func() Evidence {
		e := Evidence{Facts: j.portFacts(m)}
		if v.status == Pass || v.status == NotApplicable {
			told = nil
			for i := range m.views {
				told = append(told, &m.views[i])
			}
		}
		for _, p := range told {
			e.Ports = append(e.Ports, j.portEvidence(m, p, protection{}))
		}
		return e
	}
	j.found(b, VMPortExposed, &m.Meta, typeVM, v)
}

// believedText says of a grant of ours that its rule's name is all that speaks for it.
func believedText(rule string) string {
	if parseRuleName(rule).kind == ourAllow {
		return ", which is believed by its name"
	}
	return ""
}

func morePorts(ps []*portView) string {
	if len(ps) == 0 {
		return ""
	}
	var s []string
	for _, p := range ps {
		s = append(s, fmt.Sprint(p.port))
	}
	if len(s) == 1 {
		return "; port " + s[0] + " too"
	}
	return "; ports " + strings.Join(s[:len(s)-1], ", ") + " and " + s[len(s)-1] + " too"
}

// noNSG judges vm-no-nsg.
func (j *judge) noNSG(b *batch, m *machine) {
	if !j.want[VMNoNSG] {
		return
	}
	v := verdict{exposure: m.exposure}
	switch {
	case m.owned != "":
		v.status, v.reason = NotApplicable, say(m.owned)
	case len(m.bare) > 0:
		v.status = Fail
		open := j.openWithout(m)
		if open != nil {
			v.severity = Critical
		}
		v.reason = func() string {
			s := fmt.Sprintf("neither network interface %s nor its subnet has a network security group", nameOf(m.bare[0].NIC))
			if len(m.bare) > 1 {
				s += fmt.Sprintf(" (the same holds for %d more IP configurations)", len(m.bare)-1)
			}
			if open != nil {
				return s + ", and " + j.openText(m, open)
			}
			return s
		}
		v.evidence = func() Evidence {
			e := Evidence{}
			for i, ep := range m.bare {
				if i == 10 {
					break
				}
				e.Facts = append(e.Facts, Fact{"network interface", ep.NIC}, Fact{"subnet", ep.Subnet})
			}
			if open != nil {
				e.Ports = []PortEvidence{j.portEvidence(m, open, protection{})}
			}
			return e
		}
	case m.unsure != "":
		v.status, v.reason = Unknown, say("it is not known whether a network security group applies everywhere: "+m.unsure)
	case len(m.Endpoints) == 0:
		v.status, v.reason = NotApplicable, say("it has no network interface")
	default:
		v.status, v.reason = Pass, say("a network security group applies to every network interface")
	}
	j.found(b, VMNoNSG, &m.Meta, typeVM, v)
}

// surely tells whether an endpoint was read whole: its interface and its subnet, once and without contradiction.
func surely(v *estate.VM, ep *estate.Endpoint) bool {
	return ep.Subnet != "" && !slices.ContainsFunc(v.Problems, func(p estate.Problem) bool {
		return p.Resource == "" || about(p.Resource, ep.NIC) || about(p.Resource, ep.Subnet)
	})
}

// about tells whether a resource is the other, or the other is a part of it.
func about(id, of string) bool {
	return len(of) >= len(id) && strings.EqualFold(of[:len(id)], id) && (len(of) == len(id) || of[len(id)] == '/')
}

// openWithout returns a port that the Internet reaches on an endpoint without a group.
func (j *judge) openWithout(m *machine) *portView {
	for i := range m.views {
		p := &m.views[i]
		if p.exposure != ExposedInternet || p.worst < 0 {
			continue
		}
		for _, ep := range m.bare {
			if strings.EqualFold(ep.NIC, p.ways[p.worst].NIC) {
				return p
			}
		}
	}
	return nil
}

package nsg

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// Standing is what a list of rules really holds of what is wanted.
type Standing struct {
	Windows map[access.GrantID]bool
	// Until is the end that the rules' names give to those windows that rules of ours let in, whether or not it is the wanted end, and
	// whatever else is in those rules: a grant that was lengthened stands with its earlier end until that is written, and one that
	// shares a rule goes on when another one of the rule is over. It may be past.
	Until   map[access.GrantID]time.Time
	Shields bool     // every protected port is denied, exemptions and windows aside
	Stray   []string // allow rules of ours that let in anybody or anything that is not wanted, or are past their end
}

// standing judges a list of rules as it was read, without regard for how it came about.
func standing(in Input, rules []azure.SecurityRule) Standing {
	s := Standing{Windows: map[access.GrantID]bool{}, Until: map[access.GrantID]time.Time{}, Shields: true}
	type port struct {
		ports access.Ports
		proto access.Protocol
	}
	type pair struct {
		port
		src netip.Prefix
		dst netip.Addr
	}
	approved := map[pair]bool{}
	for _, w := range in.Wanted.Windows {
		s.Windows[w.Grant] = false
		if in.Now.Before(w.End) && w.Source.IsValid() {
			for _, d := range family(w.Destinations, w.Source.Addr().Is4()) {
				approved[pair{port{w.Ports, w.Protocol}, w.Source.Masked(), d}] = true
			}
		}
	}
	type allow struct {
		port
		end     time.Time
		prio    int
		sources []netip.Prefix
		good    bool // nobody is let in who is not wanted
	}
	allows, denies := map[netip.Addr][]allow{}, map[netip.Addr][]allow{}
	var foreign []reach
	for _, r := range rules {
		if !r.Inbound() {
			continue
		}
		h, ours := Parse(r.Name)
		if !ours || h.Installation != in.Installation {
			foreign = append(foreign, reachOf(r, in.Wanted.Env))
			continue
		}
		if h.Kind == enforce.KindAllow && !strings.EqualFold(r.Access, "Deny") {
			s.Stray = append(s.Stray, r.Name) // until it is seen to be good
		}
		dsts, ok := exactAddrs(r)
		p, ok2 := exactPort(r)
		if !ok || !ok2 {
			continue
		}
		a := allow{port: port{p, protocolOf(r)}, end: h.End, prio: r.Priority}
		switch {
		case h.Kind == enforce.KindDeny && strings.EqualFold(r.Access, "Deny") && slices.Equal(r.SourcePrefixes, []string{"*"}) && allSourcePorts(r):
			for _, d := range dsts {
				denies[d] = append(denies[d], a)
			}
		case h.Kind == enforce.KindAllow && strings.EqualFold(r.Access, "Allow") && allSourcePorts(r):
			exact := len(r.SourceASGs)+len(r.DestinationASGs) == 0
			good := exact && in.Now.Before(h.End)
			for _, t := range r.SourcePrefixes {
				src, ok := netsec.ParsePrefix(t)
				exact = exact && ok
				a.sources = append(a.sources, src)
				for _, d := range dsts {
					good = good && approved[pair{a.port, src, d}]
				}
			}
			if a.good = exact && good; a.good {
				s.Stray = slices.DeleteFunc(s.Stray, func(n string) bool { return n == r.Name })
			}
			if exact {
				for _, d := range dsts {
					allows[d] = append(allows[d], a)
				}
			}
		}
	}
	before := func(d netip.Addr, ports access.Ports, proto access.Protocol, prio int) bool {
		return !slices.ContainsFunc(denies[d], func(x allow) bool { return x.proto == proto && x.ports.Overlaps(ports) && x.prio < prio })
	}
	for _, w := range in.Wanted.Windows {
		dsts := []netip.Addr{}
		if w.Source.IsValid() {
			dsts = family(w.Destinations, w.Source.Addr().Is4())
		}
		stands := len(dsts) > 0 && in.Now.Before(w.End)
		end := w.End.UTC().Truncate(time.Second)
		var until time.Time // the earliest of all destinations, of each the latest
		for i, d := range dsts {
			var latest time.Time
			here := false
			for _, a := range allows[d] {
				if (a.port != port{w.Ports, w.Protocol}) || !slices.ContainsFunc(a.sources, func(p netip.Prefix) bool { return access.PrefixWithin(w.Source, p) }) ||
					!before(d, w.Ports, w.Protocol, a.prio) {
					continue
				}
				if a.end.After(latest) {
					latest = a.end
				}
				here = here || a.good && !a.end.After(end) && a.end.Truncate(time.Minute).Equal(end.Truncate(time.Minute))
			}
			stands = stands && here
			if i == 0 || latest.Before(until) {
				until = latest
			}
		}
		s.Windows[w.Grant] = stands
		if !until.IsZero() {
			s.Until[w.Grant] = until
		}
	}
	for _, u := range unitsOf(in.Wanted.Shields) {
		i := slices.IndexFunc(denies[u.addr], func(a allow) bool { return a.proto == u.proto && a.ports.Contains(u.ports) })
		if i < 0 {
			s.Shields = false
			break
		}
		exempt := u.exemptSet()
		prio := denies[u.addr][i].prio
		for j := range foreign {
			x := &foreign[j]
			if x.allow && x.prio < prio && x.touches(u.ports, u.proto) && x.reaches(u.addr) && !x.excused(exempt, u.addr) {
				s.Shields = false
			}
		}
	}
	return s
}

func exactAddrs(r azure.SecurityRule) ([]netip.Addr, bool) {
	var out []netip.Addr
	for _, t := range r.DestinationPrefixes {
		p, ok := netsec.ParsePrefix(t)
		if !ok || p.Bits() != p.Addr().BitLen() {
			return nil, false
		}
		out = append(out, p.Addr())
	}
	return out, len(out) > 0 && len(r.DestinationASGs) == 0
}

func exactPort(r azure.SecurityRule) (access.Ports, bool) {
	if len(r.DestinationPorts) != 1 {
		return access.Ports{}, false
	}
	p, err := access.ParsePorts(r.DestinationPorts[0])
	return p, err == nil
}

func protocolOf(r azure.SecurityRule) access.Protocol {
	p, err := access.ParseProtocol(r.Protocol)
	if err != nil || r.Protocol == "" {
		return ""
	}
	return p
}

func allSourcePorts(r azure.SecurityRule) bool {
	return len(r.SourcePorts) == 0 || slices.Equal(r.SourcePorts, []string{"*"})
}

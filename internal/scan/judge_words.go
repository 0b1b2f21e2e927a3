package scan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// maxSources bounds the sources that are told of one way.
const maxSources = 8

// zoneOf is the zone of a way that counts, and its name.
func zoneOf(w *estate.Way) (*netsec.Zone, string) {
	if w.Kind == estate.VirtualNetwork {
		return &w.Reach.VirtualNetwork, "virtual_network"
	}
	return &w.Reach.Internet, "internet"
}

// told is a list that is cut.
type told struct {
	texts []string
	more  int
}

// sourcesOf lists who gets in: tags, and the ranges of addresses. All of the Internet is told in one word.
func (j *judge) sourcesOf(z *netsec.Zone) (texts []string, more int) {
	if len(z.Tags) > 0 {
		t := rangesOf(z.Allowed)
		texts, more = append(slices.Clone(z.Tags), t.texts...), t.more
		if len(texts) > maxSources {
			more += len(texts) - maxSources
			texts = texts[:maxSources]
		}
		return texts, more
	}
	if z.Allowed == nil {
		return nil, 0
	}
	if c, ok := j.sources.Load(z.Allowed); ok {
		t := c.(told)
		return t.texts, t.more
	}
	t := rangesOf(z.Allowed)
	j.sources.Store(z.Allowed, t)
	return t.texts, t.more
}

var publicSpace = netsec.PublicSpace()

func rangesOf(s *netipx.IPSet) told {
	var t told
	if s == nil {
		return t
	}
	ps := s.Prefixes()
	if netsec.Exposed(s, nil) {
		for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
			var b netipx.IPSetBuilder
			b.AddPrefix(all)
			b.Intersect(publicSpace)
			b.RemoveSet(s)
			left, err := b.IPSet()
			if err != nil || netsec.Exposed(left, nil) {
				continue
			}
			// Nearly all of it: what is missing is the network itself, named addresses, a grant's source.
			t.texts = []string{"Internet"}
			ps = slices.DeleteFunc(ps, func(p netip.Prefix) bool { return p.Addr().Is4() == all.Addr().Is4() })
		}
	}
	for i, p := range ps {
		if len(t.texts) == maxSources {
			t.more = len(ps) - i
			break
		}
		if p.IsSingleIP() {
			t.texts = append(t.texts, p.Addr().String())
			continue
		}
		t.texts = append(t.texts, p.String())
	}
	return t
}

func listText(texts []string, more int) string {
	if len(texts) == 0 {
		return "somebody"
	}
	if len(texts) > 3 {
		more += len(texts) - 3
		texts = texts[:3]
	}
	if more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts, ", "), more)
	}
	return strings.Join(texts, ", ")
}

// openText says that a port is open to the Internet, by which way and rule.
func (j *judge) openText(m *machine, p *portView) string {
	return fmt.Sprintf("port %d is open to the Internet: ", p.port) + j.deciderText(m, p, p.worst)
}

// deciderText says which rules let whom in on a way, and where to.
func (j *judge) deciderText(m *machine, p *portView, i int) string {
	if i < 0 || i >= len(p.ways) {
		return fmt.Sprintf("%d narrow ways to it let in more together than a /8", len(p.ways))
	}
	w := &p.ways[i]
	z, _ := zoneOf(w)
	x := decidingPiece(z)
	if x == nil {
		return "by " + whereText(w)
	}
	var rules []string
	var one *netsec.RuleRef
	final := false
	for k := range x.Hops {
		h := &x.Hops[k]
		if h.Rule == nil {
			continue
		}
		if h.Layer == netsec.LayerAdmin {
			if !h.Final {
				continue // it leaves the verdict to the groups
			}
			final = true
			rules = append(rules, fmt.Sprintf("security admin rule %s (priority %d)", h.Rule.Name, h.Rule.Priority))
			continue
		}
		one = h.Rule
		if h.Rule.Default {
			rules = append(rules, "default rule "+h.Rule.Name+" of "+nameOf(h.Rule.GroupID))
			continue
		}
		rules = append(rules, "rule "+h.Rule.Name+" (priority "+strconv.Itoa(h.Rule.Priority)+") of "+nameOf(h.Rule.GroupID))
	}
	texts, more := j.sourcesOf(z)
	who := whoText(listText(texts, more))
	switch {
	case len(rules) == 0 && w.Kind == estate.FirewallDNAT:
		return fmt.Sprintf("no network security group applies, and the firewall lets %s in", who) + toText(w)
	case len(rules) == 0:
		return fmt.Sprintf("no network security group applies, and %s lets %s in", publicText(w), who) + toText(w)
	case len(rules) == 1 && !final && one != nil:
		if s := j.ruleSources(one); s != "" {
			who = whoText(s)
		}
		return rules[0] + " lets " + who + " in" + fromText(x) + toText(w) + moreRules(helpers(z, x))
	case len(rules) == 1:
		return rules[0] + " always lets " + who + " in" + fromText(x) + toText(w)
	}
	return strings.Join(rules, " and ") + " let " + who + " in" + fromText(x) + toText(w)
}

// fromText says which port a client must send from, where not any will do.
func fromText(x *netsec.PathPiece) string {
	if p := sourcePorts(x); p != "" {
		return " from source port " + p
	}
	return ""
}

// whoText says who a source is that Azure has a word for.
func whoText(s string) string {
	switch strings.ToLower(s) {
	case "internet":
		return "the Internet"
	case "virtualnetwork":
		return "the virtual network"
	case "*":
		return "everybody (*)"
	}
	return s
}

// helpers counts the rules without which a piece is not the Internet at large.
func helpers(z *netsec.Zone, x *netsec.PathPiece) int {
	if !z.Exposed() || netsec.Exposed(x.IPs, nil) || len(x.Tags) > 0 {
		return 0
	}
	seen := map[*netsec.RuleRef]bool{x.Rule: true}
	for i := range z.Open {
		if o := &z.Open[i]; o.Access == netsec.Allow && len(o.Tags) == 0 {
			seen[o.Rule] = true
		}
	}
	return len(seen) - 1
}

// ruleSources are the sources of a rule as it spells them.
func (j *judge) ruleSources(ref *netsec.RuleRef) string {
	if ref.Default {
		switch ref.Name {
		case "AllowVnetInBound":
			return "VirtualNetwork"
		case "AllowAzureLoadBalancerInBound":
			return "AzureLoadBalancer"
		}
		return ""
	}
	f, _ := j.facts(ref.GroupID)
	if f == nil {
		return ""
	}
	r := ruleNamed(f.nsg, ref.Name)
	switch {
	case r == nil:
		return ""
	case len(r.Sources) > 0:
		return few(r.Sources, 3)
	case len(r.SourceASGs) > 0:
		names := make([]string, len(r.SourceASGs))
		for i, id := range r.SourceASGs {
			names[i] = nameOf(id)
		}
		return "application security group " + few(names, 3)
	}
	return ""
}

func publicText(w *estate.Way) string {
	switch w.Kind {
	case estate.VirtualNetwork:
		return "the virtual network"
	case estate.PublicIP:
		return "the Basic public address"
	}
	return "the Basic load balancer"
}

// toText says where a way leads, as a client sees it.
func toText(w *estate.Way) string {
	if w.Kind == estate.VirtualNetwork {
		return " to " + w.Dest.String()
	}
	return " to " + whereText(w)
}

func whereText(w *estate.Way) string {
	addr := "a public address that is not known"
	if w.Address.IsValid() {
		addr = w.Address.String()
		if w.FrontendPort != w.Port {
			addr = netip.AddrPortFrom(w.Address, w.FrontendPort).String()
		}
	}
	switch w.Kind {
	case estate.PublicIP:
		if !w.Address.IsValid() {
			return "its public address " + nameOf(w.Via)
		}
		return addr
	case estate.LBRule:
		return addr + " (load-balancing rule " + nameOf(w.Via) + ")"
	case estate.NATRule:
		return addr + " (inbound NAT rule " + nameOf(w.Via) + ")"
	case estate.FirewallDNAT:
		return addr + " (" + natText(w) + ")"
	}
	return w.Dest.String()
}

// natText names the NAT rule of a firewall, and the collection that it stands in; a firewall alone where its rules were not read.
func natText(w *estate.Way) string {
	if w.Rule == "" {
		return "a DNAT rule of " + nameOf(w.Via)
	}
	return "DNAT rule " + w.Rule + " of collection " + nameOf(w.Via)
}

// decidingPiece is the part of a zone that a verdict is explained by: what lets in most, else what may.
func decidingPiece(z *netsec.Zone) *netsec.PathPiece {
	var best *netsec.PathPiece
	for i := range z.Open {
		x := &z.Open[i]
		if x.Access != netsec.Allow {
			if best == nil {
				best = x
			}
			continue
		}
		if best == nil || best.Access != netsec.Allow || !netsec.Exposed(best.IPs, nil) && netsec.Exposed(x.IPs, nil) {
			best = x
		}
	}
	return best
}

// wayEvidence is one way as it is told.
func (j *judge) wayEvidence(m *machine, p *portView, i int) Way {
	w := &p.ways[i]
	z, zone := zoneOf(w)
	out := Way{Kind: string(w.Kind), Via: w.Via, NIC: w.NIC, IPConfig: w.IPConfig, Zone: zone, Access: strings.ToLower(z.Access().String()), Why: w.Unknown}
	if w.Dest.IsValid() {
		out.Destination = w.Dest.String()
	}
	if w.Address.IsValid() {
		out.Address = w.Address.String()
	}
	if w.FrontendPort != w.Port {
		out.FrontendPort = w.FrontendPort
	}
	if w.Unknown != "" && out.Access != "deny" {
		out.Access = "unknown"
	}
	out.Sources, out.MoreSources = j.sourcesOf(z)
	before := w.Kind == estate.LBRule || w.Kind == estate.NATRule || w.Kind == estate.PublicIP || w.Kind == estate.FirewallDNAT
	var hops []netsec.Hop
	if x := decidingPiece(z); x != nil {
		hops, out.Decider, out.SourcePorts = x.Hops, x.Decider, sourcePorts(x)
		if out.Why == "" && x.Access == netsec.Unknown {
			out.Why = x.Why
		}
	} else if w.Dest.IsValid() {
		v := w.Path.Decide(netsec.Packet{Src: sampleOf(w), Dst: w.Dest, SrcPort: 50000, DstPort: w.Port, Protocol: p.proto, Inbound: true})
		hops, out.Decider = v.Hops, v.Decider
	}
	out.Hops = make([]Hop, 0, len(hops)+1)
	if before {
		layer, rule := "load_balancer", ""
		switch w.Kind {
		case estate.PublicIP:
			layer = "public_ip"
		case estate.FirewallDNAT:
			layer, rule = "firewall", w.Rule
		}
		out.Hops = append(out.Hops, Hop{Layer: layer, Group: w.Via, Rule: rule, Access: "allow", Why: w.Unknown})
		if w.Unknown != "" {
			out.Hops[0].Access = "unknown"
		}
		out.Decider++
	}
	for k := range hops {
		h := &hops[k]
		o := Hop{Layer: h.Layer.String(), Group: h.GroupID, Access: strings.ToLower(h.Access.String()), Why: h.Why}
		if h.Rule != nil {
			o.Rule, o.Priority = h.Rule.Name, h.Rule.Priority
		}
		out.Hops = append(out.Hops, o)
	}
	out.Decider = min(max(out.Decider, 0), max(len(out.Hops)-1, 0))
	return out
}

// sampleOf is an address that stands for the zone of a way whose every source fares alike.
func sampleOf(w *estate.Way) netip.Addr {
	six := w.Dest.Is6()
	if w.Kind == estate.VirtualNetwork {
		for _, p := range w.Path.VirtualNetwork {
			if p.Bits() > 0 && p.Addr().Is6() == six {
				return p.Addr().Next()
			}
		}
		return w.Dest
	}
	if six {
		return netip.MustParseAddr("2600::1")
	}
	return netip.MustParseAddr("8.8.8.8")
}

// spanText says how long something lasts, in its largest whole unit.
func spanText(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := d / u.unit; n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a minute"
}

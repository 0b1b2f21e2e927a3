package scan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// hops puts the verdict of rules into words.
func (t *tracer) hops(x *Way, v netsec.Verdict) {
	first := len(x.Hops)
	for i, h := range v.Hops {
		out := Hop{Layer: h.Layer.String(), Group: h.GroupID, Access: accessWord(h.Access)}
		if h.Rule != nil {
			out.Rule, out.Priority = h.Rule.Name, h.Rule.Priority
		}
		out.Why = t.hopWords(h)
		if i == v.Decider && v.Access == netsec.Unknown && out.Access != "unknown" {
			// The layers together leave it open.
			out.Access, out.Why = "unknown", v.Why
		}
		x.Hops = append(x.Hops, out)
	}
	x.Access, x.Decider = accessWord(v.Access), first+max(v.Decider, 0)
	if len(v.Hops) == 0 {
		x.Hops = append(x.Hops, Hop{Layer: netsec.LayerNone.String(), Access: accessWord(v.Access), Why: v.Why})
	}
}

func accessWord(a netsec.Access) string { return strings.ToLower(a.String()) }

func (t *tracer) hopWords(h netsec.Hop) string {
	if h.Access == netsec.Unknown && h.Why != "" {
		return h.Why
	}
	does := "lets it in"
	if h.Access == netsec.Deny {
		does = "denies it"
	}
	switch {
	case h.Layer == netsec.LayerNone && h.Access == netsec.Deny:
		return "no network security group applies, and a Standard public address or load balancer lets nothing in without one"
	case h.Layer == netsec.LayerNone:
		return "no network security group applies, and nothing else stops it"
	case h.Layer == netsec.LayerAdmin && h.Rule == nil:
		return "no security admin rule matches: it goes on"
	case h.Layer == netsec.LayerAdmin && h.Final:
		return fmt.Sprintf("security admin rule %s (priority %d) always allows: groups are not asked", h.Rule.Name, h.Rule.Priority)
	case h.Layer == netsec.LayerAdmin && h.Access == netsec.Allow:
		return fmt.Sprintf("security admin rule %s (priority %d) lets it go on", h.Rule.Name, h.Rule.Priority)
	case h.Layer == netsec.LayerAdmin:
		return fmt.Sprintf("security admin rule %s (priority %d) denies it: groups are not asked", h.Rule.Name, h.Rule.Priority)
	case h.Rule == nil:
		return "the group " + does
	}
	what := t.ruleWords(h)
	if what != "" {
		what = ": " + what
	}
	kind := "rule"
	if h.Rule.Default {
		kind = "default rule"
	}
	return fmt.Sprintf("%s %s (priority %d) %s%s", kind, h.Rule.Name, h.Rule.Priority, does, what)
}

// ruleWords says what a rule of a group is about.
func (t *tracer) ruleWords(h netsec.Hop) string {
	if h.Rule.Default {
		switch h.Rule.Name {
		case "AllowVnetInBound":
			return "everything from VirtualNetwork to VirtualNetwork"
		case "AllowAzureLoadBalancerInBound":
			return "everything from AzureLoadBalancer"
		case "DenyAllInBound":
			return "everything that no rule before it lets in"
		}
		return ""
	}
	g, ok := t.e.NSG(h.GroupID)
	if !ok {
		return ""
	}
	for i := range g.Rules {
		r := &g.Rules[i]
		if r.Name == h.Rule.Name && r.Priority == h.Rule.Priority && r.Inbound {
			proto := r.Protocol
			if proto == "*" {
				proto = "any protocol"
			}
			from := ""
			if !slices.Contains(r.SourcePorts, "*") {
				from = ", source port " + textsOf(r.SourcePorts, nil)
			}
			return fmt.Sprintf("%s from %s%s to %s, port %s", proto, textsOf(r.Sources, r.SourceASGs), from, textsOf(r.Destinations, r.DestinationASGs), textsOf(r.DestinationPorts, nil))
		}
	}
	return ""
}

const maxTexts = 3

func textsOf(texts, groups []string) string {
	var out []string
	for _, s := range texts {
		if s == "*" {
			s = "any"
		}
		out = append(out, s)
	}
	for _, g := range groups {
		out = append(out, "group "+lastPart(g))
	}
	if len(out) == 0 {
		return "(nothing)"
	}
	if n := len(out); n > maxTexts {
		out = append(out[:maxTexts], fmt.Sprintf("%d more", n-maxTexts))
	}
	return strings.Join(out, ", ")
}

// sourcesOf lists who gets in, the widest first, and how many more there are.
func sourcesOf(z *netsec.Zone) (out []string, more int) {
	out = append(out, z.Tags...)
	all := z.Allowed.Prefixes()
	// What is left of the Internet when reserved ranges are taken out is a hundred prefixes, and says nothing.
	if z.Exposed() && len(all) > 8 {
		return append(out, "the Internet"), 0
	}
	const most = 8
	for i, p := range all {
		if i >= most {
			return out, len(all) - most
		}
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
			continue
		}
		out = append(out, p.String())
	}
	return out, 0
}

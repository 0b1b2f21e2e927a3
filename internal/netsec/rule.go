package netsec

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
)

var ruleName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$`)

// Validate reports everything that makes Azure refuse the rule or that cannot be judged: name, priority, access, protocol,
// addresses and ports (FACTS 2.1). All faults are joined in one error.
func (r Rule) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !ruleName.MatchString(r.Name) {
		bad("name %q is not up to 80 letters, digits, '.', '-' and '_', starting and ending with a letter, digit or '_'", r.Name)
	}
	if r.Priority < 100 || r.Priority > 4096 {
		bad("priority %d is not from 100 to 4096", r.Priority)
	}
	if r.Access != Allow && r.Access != Deny {
		bad("access is neither Allow nor Deny")
	}
	if _, err := ParseProtocol(r.Protocol); err != nil {
		errs = append(errs, err)
	}
	v4, v6 := false, false
	for _, side := range []struct {
		what        string
		texts, asgs []string
	}{{"source", r.Sources, r.SourceASGs}, {"destination", r.Destinations, r.DestinationASGs}} {
		if len(side.texts)+len(side.asgs) == 0 {
			bad("no %s", side.what)
		}
		if len(side.texts) > 0 && len(side.asgs) > 0 {
			bad("both addresses and application security groups as %s", side.what)
		}
		if len(side.asgs) > 10 {
			bad("%d application security groups as %s, at most 10 are allowed", len(side.asgs), side.what)
		}
		if len(side.texts) > 4000 {
			bad("%d addresses as %s, at most 4000 are allowed", len(side.texts), side.what)
		}
		for _, t := range side.texts {
			if x, ok := ParsePrefix(t); ok {
				v4, v6 = v4 || x.Addr().Is4(), v6 || !x.Addr().Is4()
			} else if t != "*" && !isTagName(t) {
				bad("%s %q is no address, range, service tag or *", side.what, t)
			}
		}
	}
	if v4 && v6 {
		bad("IPv4 and IPv6 addresses in one rule")
	}
	for _, ps := range []struct {
		what  string
		texts []string
	}{{"source", r.SourcePorts}, {"destination", r.DestinationPorts}} {
		if len(ps.texts) == 0 {
			bad("no %s port", ps.what)
		}
		for _, t := range ps.texts {
			if _, err := ParsePortRange(t); err != nil {
				bad("%s %w", ps.what, err)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("rule %q: %w", r.Name, errors.Join(errs...))
}

// Overlaps reports whether the rule could match a packet of its direction to one of the destinations on one of the ports;
// the source is not looked at. What is not understood or not known counts as a match. Any overlaps every protocol.
func (r Rule) Overlaps(dst []netip.Prefix, proto Protocol, ports PortRange, env Env) bool {
	p := newPlace(env)
	c := p.compileRule(&r, &RuleRef{Name: r.Name, Priority: r.Priority})
	protos := proto.bits()
	if c.protos&protos == 0 {
		return false
	}
	if !c.allDports && !c.dportsDim && (protos&(TCP.bits()|UDP.bits()) == 0 || !overlaps(c.dports, ports)) {
		return false
	}
	want := prefixRanges(dst...)
	if c.dst.every {
		return len(want) > 0
	}
	if c.dst.yes.rs.overlaps(want) {
		return true
	}
	for i := range c.dst.atoms {
		if c.dst.atoms[i].scope.rs.overlaps(want) {
			return true
		}
	}
	return false
}

// Covers reports whether the rule surely matches every packet of its direction to the destinations on all the ports, from
// every source in from (nil: any source at all).
func (r Rule) Covers(from, dst []netip.Prefix, proto Protocol, ports PortRange, env Env) bool {
	p := newPlace(env)
	c := p.compileRule(&r, &RuleRef{Name: r.Name, Priority: r.Priority})
	if c.opaque || c.out == outAllow|outDeny || c.protos&proto.bits() != proto.bits() || !c.allSports {
		return false
	}
	if !c.allDports {
		left := []PortRange{ports}
		for _, d := range c.dports {
			var next []PortRange
			for _, l := range left {
				if !l.Overlaps(d) {
					next = append(next, l)
					continue
				}
				next = append(next, l.minus(d)...)
			}
			left = next
		}
		if len(left) > 0 {
			return false
		}
	}
	sources := everyRange
	if from != nil {
		sources = prefixRanges(from...)
	}
	return len(prefixRanges(dst...).minus(c.dst.yes.rs)) == 0 && len(sources.minus(c.src.yes.rs)) == 0
}

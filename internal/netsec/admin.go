package netsec

import (
	"cmp"
	"fmt"
	"strings"
)

// AdminAccess is what a security admin rule does. The zero value is unknown.
type AdminAccess uint8

// The accesses of security admin rules (FACTS 2.3).
const (
	AdminUnknown     AdminAccess = iota
	AdminAllow                   // go on to the NSGs
	AdminAlwaysAllow             // deliver, the NSGs are not asked
	AdminDeny                    // drop, the NSGs are not asked
)

var adminNames = [...]string{"Unknown", "Allow", "AlwaysAllow", "Deny"}

// String returns Azure's spelling.
func (a AdminAccess) String() string {
	if int(a) < len(adminNames) {
		return adminNames[a]
	}
	return adminNames[0]
}

// ParseAdminAccess reads Allow, AlwaysAllow or Deny in any case; anything else is AdminUnknown and an error.
func ParseAdminAccess(s string) (AdminAccess, error) {
	for i, n := range adminNames[1:] {
		if strings.EqualFold(s, n) {
			return AdminAccess(i + 1), nil
		}
	}
	return AdminUnknown, fmt.Errorf("unknown access %q of a security admin rule, want Allow, AlwaysAllow or Deny", s)
}

// AdminAddress is one source or destination of a security admin rule. Type is IPPrefix or ServiceTag; empty is judged by
// the form of the prefix. Another type (network groups of later API versions) makes the rule uncertain.
type AdminAddress struct{ Prefix, Type string }

// AdminRule is one security admin rule as listNetworkManagerEffectiveSecurityAdminRules gives it. Empty lists of sources,
// destinations and ports mean any: the API does not require them.
type AdminRule struct {
	Name       string
	Collection string // id or name of the rule collection
	Priority   int    // 1..4096, unique within the collection only
	Inbound    bool
	Access     AdminAccess
	Protocol   string

	Sources, Destinations         []AdminAddress
	SourcePorts, DestinationPorts []string

	// Unread is what is said of a rule without Access that stands for rules that nobody could read; "" is what is wrong with the rule.
	Unread string
}

// CompiledAdmin holds the security admin rules that act on one virtual network.
type CompiledAdmin struct {
	in, out ruleList
	place   *place
}

// CompileAdmin prepares security admin rules for questions. Priorities count over all collections; where two collections
// use the same priority and disagree, the verdict is Unknown (no document says which goes first). Like Compile it never
// fails and drops nothing.
func CompileAdmin(rules []AdminRule, env Env) *CompiledAdmin {
	p := newPlace(env)
	c := &CompiledAdmin{place: p}
	for _, inbound := range []bool{true, false} {
		var rs []crule
		for i := range rules {
			if r := &rules[i]; r.Inbound == inbound {
				rs = append(rs, p.compileAdmin(r))
			}
		}
		order(rs)
		if l := finish(rs, outPass); inbound {
			c.in = l
		} else {
			c.out = l
		}
	}
	return c
}

func (p *place) compileAdmin(r *AdminRule) crule {
	c := crule{prio: r.Priority, ref: &RuleRef{Name: r.Name, Priority: r.Priority, GroupID: r.Collection}}
	var faults []string
	switch r.Access {
	case AdminAllow:
		c.out = outPass
	case AdminAlwaysAllow:
		c.out = outAllow
	case AdminDeny:
		c.out = outDeny
	default:
		c.out = outAllow | outDeny | outPass
		faults = append(faults, "its access is not known")
	}
	if r.Priority < 1 || r.Priority > 4096 {
		c.opaque, c.unplaced = true, true
		faults = append(faults, fmt.Sprintf("its priority %d is not from 1 to 4096", r.Priority))
	}
	sources := adminTexts(r.Sources)
	var srcFaults, dstFaults []string
	c.src, c.ref.width, srcFaults = p.sideOf(sources, nil, "source", r.Inbound)
	c.dst, _, dstFaults = p.sideOf(adminTexts(r.Destinations), nil, "destination", !r.Inbound)
	faults = append(append(faults, srcFaults...), dstFaults...)
	faults = append(faults, c.compilePorts(p, cmp.Or(r.Protocol, "missing"), orAny(r.SourcePorts), orAny(r.DestinationPorts))...)
	if c.why = uncertainty(&c, faults); r.Unread != "" {
		c.why = r.Unread
	}
	return c
}

func orAny(ss []string) []string {
	if len(ss) == 0 {
		return []string{"*"}
	}
	return ss
}

// adminTexts returns the addresses in the form of NSG rules. What does not fit its type gets a form that nothing reads.
func adminTexts(as []AdminAddress) []string {
	if len(as) == 0 {
		return []string{"*"}
	}
	var ss []string
	for _, a := range as {
		s := strings.TrimSpace(a.Prefix)
		_, isPrefix := ParsePrefix(s)
		switch {
		case a.Type == "", s == "*",
			strings.EqualFold(a.Type, "IPPrefix") && isPrefix,
			strings.EqualFold(a.Type, "ServiceTag") && isTagName(s):
			ss = append(ss, s)
		default:
			ss = append(ss, "?"+a.Type+" "+s)
		}
	}
	return ss
}

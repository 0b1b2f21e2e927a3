// Package netsec decides what network security rules let through: network security groups (NSGs) with their default
// rules, service tags and application security groups, security admin rules of Virtual Network Manager, and the path
// through several of them to a machine.
//
// It is pure: no I/O, no clock, no other package of ours. Compiled values are immutable and safe for concurrent use.
//
// Three answers exist: Allow, Deny and Unknown. Unknown means that what was given does not settle the question (a service
// tag whose addresses are not known, an application security group that was not read, a field that cannot be parsed), and
// it is given only where the possibilities really lead to different outcomes. Nothing is ever dropped because it was not
// understood.
//
// There are two forms of each question. The point form (Decide) judges one packet. The set form (Sources, Reachable)
// divides every possible source of traffic to a destination into pieces with one verdict and one deciding rule each.
//
// Facts about Azure are cited as "FACTS x.y"; what could not be verified is marked "doubt" where it matters.
package netsec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol of a rule or packet. The zero value is Any. In a rule, Any matches everything; in a question (Packet, Sources)
// Any stands for TCP and UDP together, and is answered with Unknown where the two differ.
type Protocol uint8

// The protocols of NSG rules (FACTS 2.1).
const (
	Any Protocol = iota
	TCP
	UDP
	ICMP
	ESP
	AH
)

var protocolNames = [...]string{"*", "Tcp", "Udp", "Icmp", "Esp", "Ah"}

// String returns Azure's spelling: Tcp, Udp, Icmp, Esp, Ah or *.
func (p Protocol) String() string {
	if int(p) < len(protocolNames) {
		return protocolNames[p]
	}
	return "Protocol(" + strconv.Itoa(int(p)) + ")"
}

// ParseProtocol reads a protocol in any case. "*", "Any" and "All" (effective rules, FACTS 2.3) are Any. The empty string
// is an error: ARM requires the field.
func ParseProtocol(s string) (Protocol, error) {
	t := strings.TrimSpace(s)
	if strings.EqualFold(t, "any") || strings.EqualFold(t, "all") {
		return Any, nil
	}
	for i, n := range protocolNames {
		if strings.EqualFold(t, n) {
			return Protocol(i), nil
		}
	}
	return Any, fmt.Errorf("unknown protocol %q, want Tcp, Udp, Icmp, Esp, Ah or *", s)
}

// bits of a protocol as a set.
const allProtocols = 1<<TCP | 1<<UDP | 1<<ICMP | 1<<ESP | 1<<AH

func (p Protocol) bits() uint8 {
	if p == Any {
		return allProtocols
	}
	return 1 << p & allProtocols
}

// hasPorts reports whether packets of the protocol carry ports.
func (p Protocol) hasPorts() bool { return p == TCP || p == UDP }

// Access is a verdict. The zero value is Unknown, which grants nothing.
type Access uint8

// The verdicts.
const (
	Unknown Access = iota
	Deny
	Allow
)

// String returns Unknown, Deny or Allow.
func (a Access) String() string {
	switch a {
	case Deny:
		return "Deny"
	case Allow:
		return "Allow"
	}
	return "Unknown"
}

// ParseAccess reads the access of an NSG rule in any case. Anything but Allow and Deny is Unknown and an error.
func ParseAccess(s string) (Access, error) {
	switch {
	case strings.EqualFold(s, "allow"):
		return Allow, nil
	case strings.EqualFold(s, "deny"):
		return Deny, nil
	}
	return Unknown, fmt.Errorf("unknown access %q, want Allow or Deny", s)
}

// PortRange is an inclusive range of ports. The zero value is port 0 alone.
type PortRange struct{ First, Last uint16 }

// AllPorts is what "*" stands for.
var AllPorts = PortRange{0, 65535}

// Port returns the range that holds one port.
func Port(p uint16) PortRange { return PortRange{p, p} }

// ParsePortRange reads "22", "1000-2000" or "*" (FACTS 2.1).
func ParsePortRange(s string) (PortRange, error) {
	t := strings.TrimSpace(s)
	if t == "*" || strings.EqualFold(t, "any") {
		return AllPorts, nil
	}
	first, last, isRange := strings.Cut(t, "-")
	a, err := parsePort(first)
	if err != nil {
		return PortRange{}, fmt.Errorf("port range %q: %w", s, err)
	}
	if !isRange {
		return PortRange{a, a}, nil
	}
	b, err := parsePort(last)
	if err != nil {
		return PortRange{}, fmt.Errorf("port range %q: %w", s, err)
	}
	if b < a {
		return PortRange{}, fmt.Errorf("port range %q: the end is before the start", s)
	}
	return PortRange{a, b}, nil
}

func parsePort(s string) (uint16, error) {
	s = strings.TrimSpace(s)
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%q is not a port from 0 to 65535", s)
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port from 0 to 65535", s)
	}
	return uint16(n), nil
}

// Contains reports whether the port lies in the range.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// Overlaps reports whether the ranges share a port.
func (r PortRange) Overlaps(o PortRange) bool { return r.First <= o.Last && o.First <= r.Last }

// Covers reports whether o lies within the range.
func (r PortRange) Covers(o PortRange) bool { return r.First <= o.First && o.Last <= r.Last }

// String returns "22", "1000-2000" or "*".
func (r PortRange) String() string {
	switch {
	case r == AllPorts:
		return "*"
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// Rule is one custom rule of an NSG as ARM gives it. The caller merges singular and plural fields into the slices
// (FACTS 2.1); the strings stay as they were read.
type Rule struct {
	Name     string
	Priority int
	Inbound  bool
	Access   Access
	Protocol string
	// Sources and Destinations hold addresses, CIDR ranges, "*" or service tags, in any case.
	Sources, Destinations         []string
	SourcePorts, DestinationPorts []string
	// SourceASGs and DestinationASGs are resource ids of application security groups, in any case.
	SourceASGs, DestinationASGs []string
}

// Group is an NSG: its custom rules. The default rules (FACTS 2.2) are implied.
type Group struct {
	ID, Name string
	Rules    []Rule
}

// Env is what service tags and application security groups mean at one place.
type Env struct {
	// VirtualNetwork holds the prefixes of the tag of that name: the network's own ranges, peered networks, ranges behind
	// gateways and of user-defined routes, possibly 0.0.0.0/0 (FACTS 2.1). The host's address 168.63.129.16 belongs to the
	// tag and is added (documented, and seen in the tagMap of effective rules). Empty means not known.
	VirtualNetwork []netip.Prefix
	// Tags holds the service tags whose prefixes are known, by lower-case name. Others are judged as unknown sets.
	Tags map[string][]netip.Prefix
	// ASGs holds the addresses of the members by lower-case id. An id that is absent has unknown members; an empty list
	// is a group without members.
	ASGs map[string][]netip.Addr
}

// Packet is one packet that opens a flow, as the rules see it: after translation of public addresses and of load-balancer
// ports (FACTS 2.1), so Dst is the private address of the machine, or the frontend address with floating IP.
type Packet struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Protocol         Protocol
	Inbound          bool
}

// RuleRef names a rule. Values are shared: do not change them.
type RuleRef struct {
	// Name is the rule's name; default rules are called AllowVnetInBound, AllowAzureLoadBalancerInBound, DenyAllInBound
	// and so on (FACTS 2.2).
	Name     string
	Priority int
	// GroupID is the id of the NSG, or for a security admin rule the id or name of its collection.
	GroupID string
	// Default is true for a rule that Azure implies.
	Default bool

	width *width
}

// String returns for example "rule ssh (priority 300) of /subscriptions/…/web-nsg".
func (r *RuleRef) String() string {
	if r == nil {
		return "no rule"
	}
	return fmt.Sprintf("rule %s (priority %d) of %s", r.Name, r.Priority, r.GroupID)
}

// Decision is the verdict of one NSG. Rule is the deciding rule; with Unknown it is the first rule whose match is not
// certain, and Why says what is not known. With a certain verdict that several uncertain rules share, Rule is the last of
// them, which matches for certain.
type Decision struct {
	Access Access
	Rule   *RuleRef
	Why    string
}

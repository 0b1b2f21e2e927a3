package access

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is the transport protocol of a target.
type Protocol string

// The protocols that a port can have.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// ParseProtocol reads a protocol in any case; empty means TCP.
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToLower(s) {
	case "", "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	}
	return "", invalid("protocol", "protocol %q is neither tcp nor udp", s)
}

// Ports is a range of ports, both ends included. The zero value is no port.
type Ports struct{ First, Last uint16 }

// Port returns the range of one port.
func Port(p uint16) Ports { return Ports{p, p} }

// ParsePorts reads "22" or "8000-8010". Port 0 and ranges that run backwards are refused.
func ParsePorts(s string) (Ports, error) {
	lo, hi, ranged := strings.Cut(strings.TrimSpace(s), "-")
	a, err := parsePort(lo)
	if err != nil {
		return Ports{}, err
	}
	b := a
	if ranged {
		if b, err = parsePort(hi); err != nil {
			return Ports{}, err
		}
	}
	if b < a {
		return Ports{}, invalid("port", "port range %q runs backwards", s)
	}
	return Ports{a, b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return 0, invalid("port", "port %q is not a number", s)
	}
	if n < 1 || n > 65535 {
		return 0, invalid("port", "port %s is out of range: ports run from 1 to 65535", s)
	}
	return uint16(n), nil
}

// Valid tells whether the range holds at least one real port.
func (p Ports) Valid() bool { return p.First > 0 && p.First <= p.Last }

// Contains tells whether every port of q is in p.
func (p Ports) Contains(q Ports) bool { return p.Valid() && p.First <= q.First && q.Last <= p.Last }

// Overlaps tells whether p and q share a port.
func (p Ports) Overlaps(q Ports) bool { return p.First <= q.Last && q.First <= p.Last }

// Count returns the number of ports in the range.
func (p Ports) Count() int { return int(p.Last) - int(p.First) + 1 }

// String returns "22" or "8000-8010".
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// MarshalText implements encoding.TextMarshaler.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Ports) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePorts(string(b))
	return err
}

// VM names a machine: its resource id as Azure spells it (compared without case), and the vmId that Azure gave it when it was
// created, which another machine under the same resource id does not have.
type VM struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	VMID string `json:"vm_id,omitempty"`
}

// SameVM compares resource ids as ARM does.
func SameVM(a, b string) bool { return strings.EqualFold(a, b) }

// Target is a machine with a port, or range of ports, and a protocol.
type Target struct {
	VM       VM       `json:"vm"`
	Ports    Ports    `json:"port"`
	Protocol Protocol `json:"protocol"`
}

// String returns for example "web-01:22/tcp".
func (t Target) String() string { return fmt.Sprintf("%s:%s/%s", t.VM.Name, t.Ports, t.Protocol) }

// ParseSource reads an address or a prefix. A single address becomes a prefix of full length; bits behind the prefix must be
// zero, an IPv4 address in IPv6 form is unmapped, zones are refused.
func ParseSource(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return netip.Prefix{}, invalid("source", "no source address was given")
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, invalid("source", "source %q is not an IP address or a CIDR prefix", s)
		}
		a = a.Unmap()
		return CheckSource(netip.PrefixFrom(a, a.BitLen()))
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, invalid("source", "source %q is not an IP address or a CIDR prefix", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, invalid("source", "source %s has bits set behind its prefix; did you mean %s?", s, p.Masked())
	}
	return CheckSource(p)
}

// CheckSource refuses sources that can never be a client: unspecified, loopback, link-local, multicast.
func CheckSource(p netip.Prefix) (netip.Prefix, error) {
	a := p.Addr()
	switch {
	case !p.IsValid() || a.Is4In6():
		return p, invalid("source", "source %s is not a usable prefix", p)
	case p.Bits() == a.BitLen() && a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast():
		return p, invalid("source", "source %s is not an address that a client can have", p)
	}
	return p, nil
}

package access

import (
	"errors"
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
	return "", invalid("protocol", "protocol %.80q is neither tcp nor udp", s).WithHint("leave it out for tcp")
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
		return Ports{}, invalid("port", "port range %.80q runs backwards", s).WithHint("write it as %d-%d", b, a)
	}
	return Ports{a, b}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n == 0:
		return 0, invalid("port", "port %.80q is out of range: ports run from 1 to 65535", s).WithHint("name a port like 22, or a range like 8000-8010")
	case err != nil:
		return 0, invalid("port", "port %.80q is not a number", s).WithHint("name a port like 22, or a range like 8000-8010")
	}
	return uint16(n), nil
}

// Valid tells whether the range holds at least one real port.
func (p Ports) Valid() bool { return p.First > 0 && p.First <= p.Last }

// Contains tells whether both are ranges and every port of q is in p.
func (p Ports) Contains(q Ports) bool {
	return p.Valid() && q.Valid() && p.First <= q.First && q.Last <= p.Last
}

// Overlaps tells whether p and q share a port.
func (p Ports) Overlaps(q Ports) bool {
	return p.Valid() && q.Valid() && p.First <= q.Last && q.First <= p.Last
}

// Count returns the number of ports in the range, 0 if it is none.
func (p Ports) Count() int {
	if !p.Valid() {
		return 0
	}
	return int(p.Last) - int(p.First) + 1
}

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

// SameVM compares resource ids as ARM does, without case. No id is no machine: two empty ids are not the same one.
func SameVM(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// Scope returns the subscription and the resource group in the machine's id, "" for what does not stand there.
func (v VM) Scope() (subscription, group string) {
	parts := strings.Split(strings.Trim(v.ID, "/"), "/")
	if len(parts) < 4 || !strings.EqualFold(parts[0], "subscriptions") || !strings.EqualFold(parts[2], "resourceGroups") {
		return "", ""
	}
	return parts[1], parts[3]
}

// Target is a machine with a port, or range of ports, and a protocol.
type Target struct {
	VM       VM       `json:"vm"`
	Ports    Ports    `json:"port"`
	Protocol Protocol `json:"protocol"`
}

// String returns for example "web-01:22/tcp".
func (t Target) String() string { return fmt.Sprintf("%s:%s/%s", t.VM.Name, t.Ports, t.Protocol) }

// ParseSource reads an address or a prefix. A single address becomes a prefix of full length, unmapped if it is an IPv4 address
// in IPv6 form; bits behind a prefix must be zero; zones are refused.
func ParseSource(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	bad := invalid("source", "source %.80q is not an IP address or a CIDR prefix", s).WithHint(sourceHint)
	if s == "" {
		return netip.Prefix{}, invalid("source", "no source address was given").WithHint(sourceHint)
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, bad
		}
		a = a.Unmap()
		return CheckSource(netip.PrefixFrom(a, a.BitLen()))
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, bad
	}
	if p.Masked() != p {
		return netip.Prefix{}, invalid("source", "source %s has bits set behind its prefix", p).WithHint("did you mean %s?", p.Masked())
	}
	return CheckSource(p)
}

const sourceHint = "name your address or network, like 198.51.100.7 or 203.0.113.0/24, or leave --from out for your own"

// CheckSource refuses sources that can never be a client: none at all, unspecified, loopback, link-local, multicast, broadcast.
func CheckSource(p netip.Prefix) (netip.Prefix, error) {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return p, invalid("source", "the source is not a prefix").WithHint(sourceHint)
	case a.Is4In6():
		return p, invalid("source", "source %s is IPv4 in the form of IPv6", p).WithHint("write it as an IPv4 prefix")
	case p.Bits() == a.BitLen() && a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast(), a == broadcast:
		return p, invalid("source", "source %s is not an address that a client can have", p).WithHint(sourceHint)
	}
	return p, nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

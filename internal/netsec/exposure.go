package netsec

import (
	"encoding/binary"
	"strings"

	"go4.org/netipx"
)

// width says how much of the Internet a rule's own sources take in.
type width struct {
	sources   ranges
	tags      []string // with unknown addresses
	anyTenant ranges   // known addresses of tags that any tenant can send from
}

func (p *place) widthOf(sources []string, s *side) *width {
	w := &width{sources: s.yes.rs}
	for _, t := range sources {
		t = strings.ToLower(strings.TrimSpace(t))
		if known, ok := p.env.Tags[t]; ok && AnyTenant(t) {
			w.anyTenant = union(w.anyTenant, prefixRanges(known...))
		}
	}
	for i := range s.atoms {
		w.tags = append(w.tags, s.atoms[i].name)
	}
	return w
}

func (w *width) broad() bool { return len(w.anyTenant) > 0 || exposed(w.sources, w.tags) }

// AnyTenant reports whether any Azure customer can send from the service tag: Internet, AzureCloud and its regions (the
// documentation of service tags warns of the latter).
func AnyTenant(tag string) bool {
	t := strings.ToLower(tag)
	return t == "internet" || t == "azurecloud" || strings.HasPrefix(t, "azurecloud.")
}

// Exposed reports whether a set of sources counts as the Internet at large: more than a /8 of public IPv4 or a /16 of
// public IPv6 in union, or a tag that any tenant can send from. Private addresses do not count.
func Exposed(ips *netipx.IPSet, tags []string) bool { return exposed(setRanges(ips), tags) }

func exposed(rs ranges, tags []string) bool {
	for _, t := range tags {
		if AnyTenant(t) {
			return true
		}
	}
	var v4, v6 uint64 // addresses, and /64 networks
	for _, r := range rs.and(public) {
		a, b := r.From(), r.To()
		if a.Is4() {
			x, y := a.As4(), b.As4()
			v4 += uint64(binary.BigEndian.Uint32(y[:])) - uint64(binary.BigEndian.Uint32(x[:])) + 1
			continue
		}
		// Public IPv6 is 2000::/3, so the sum cannot overflow. A part of a /64 counts as a whole one.
		x, y := a.As16(), b.As16()
		v6 += binary.BigEndian.Uint64(y[:8]) - binary.BigEndian.Uint64(x[:8]) + 1
	}
	return v4 > 1<<24 || v6 > 1<<48
}

package netsec

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// platform is the virtual address of the host, where health probes, DNS and DHCP come from. The link-local address stands
// in the AzureLoadBalancer entry of a recorded tagMap (FACTS 2.3).
var (
	platformV4 = netip.MustParseAddr("168.63.129.16")
	platformV6 = netip.MustParseAddr("fe80::1234:5678:9abc")
)

// notInternet is what the tag Internet does not hold although it is outside the virtual network. The documentation calls
// the tag "outside the virtual network and reachable by the public internet, including Azure-owned public addresses"
// (service tags overview); a recorded expansion leaves out exactly these reserved ranges, and 198.51.100.0/24 and
// 203.0.113.0/24 are in it. Doubts: the recording also leaves out some sixty ranges that belong to Microsoft (22.0.0.0/8,
// 25.x, 52.132.0.0/14, …), which differ by time and region and are judged as Internet here; it contains 168.63.129.16,
// which the documentation puts into VirtualNetwork; and it has no IPv6 ranges, for which global unicast is taken.
var notInternet = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

var (
	v4All = netip.MustParsePrefix("0.0.0.0/0")
	v6All = netip.MustParsePrefix("::/0")

	everyRange   = prefixRanges(v4All, v6All)
	every        = newAddrs(everyRange)
	nowhere      = newAddrs(nil)
	platform     = prefixRanges(netip.PrefixFrom(platformV4, 32), netip.PrefixFrom(platformV6, 128))
	public       = prefixRanges(v4All, netip.MustParsePrefix("2000::/3")).minus(prefixRanges(notInternet...)).minus(platform)
	private      = everyRange.minus(public).minus(platform)
	linkLocal    = prefixRanges(netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"))
	publicSet    = public.set()
	emptySet     = new(netipx.IPSet)
	publicAddrs  = newAddrs(public)
	privateAddrs = newAddrs(private)
	// platformAddrs is where tags of the platform's own services (DNS, IMDS, licensing) may lie.
	platformAddrs = newAddrs(union(public, platform, linkLocal))
)

// PublicSpace returns the addresses that the Internet can send from: everything but reserved and private ranges and the
// host's own address; of IPv6, global unicast.
func PublicSpace() *netipx.IPSet { return publicSet }

// ranges is an address set: sorted, disjoint, IPv4 before IPv6. nil is empty. The set form computes with it because
// netipx sorts anew at every step.
type ranges []netipx.IPRange

// prefixRanges skips invalid prefixes; those of IPv4 in IPv6 form are taken as IPv4.
func prefixRanges(ps ...netip.Prefix) ranges {
	var rs ranges
	for _, p := range ps {
		if p = plainPrefix(p); p.IsValid() {
			rs = append(rs, netipx.RangeOfPrefix(p))
		}
	}
	return rs.normal()
}

func addrRanges(as []netip.Addr) ranges {
	var rs ranges
	for _, a := range as {
		if a.IsValid() {
			a = a.Unmap().WithZone("")
			rs = append(rs, netipx.IPRangeFrom(a, a))
		}
	}
	return rs.normal()
}

// normal sorts and joins in place.
func (rs ranges) normal() ranges {
	slices.SortFunc(rs, func(a, b netipx.IPRange) int { return a.From().Compare(b.From()) })
	out := rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && out[n-1].From().Is4() == r.From().Is4() {
			last := out[n-1]
			if next := last.To().Next(); !next.IsValid() || r.From().Compare(next) <= 0 {
				if r.To().Compare(last.To()) > 0 {
					out[n-1] = netipx.IPRangeFrom(last.From(), r.To())
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

func union(sets ...ranges) ranges { return ranges(slices.Concat(sets...)).normal() }

func (rs ranges) and(o ranges) ranges {
	var out ranges
	for i, j := 0, 0; i < len(rs) && j < len(o); {
		from, to := rs[i].From(), rs[i].To()
		if o[j].From().Compare(from) > 0 {
			from = o[j].From()
		}
		if o[j].To().Compare(to) < 0 {
			to = o[j].To()
		}
		if from.Compare(to) <= 0 {
			out = append(out, netipx.IPRangeFrom(from, to))
		}
		if rs[i].To().Compare(o[j].To()) < 0 {
			i++
		} else {
			j++
		}
	}
	return out
}

func (rs ranges) minus(o ranges) ranges {
	var out ranges
	j := 0
	for _, r := range rs {
		from := r.From()
		for j < len(o) && o[j].To().Compare(from) < 0 {
			j++
		}
		for k := j; from.IsValid() && k < len(o) && o[k].From().Compare(r.To()) <= 0; k++ {
			if o[k].From().Compare(from) > 0 {
				out = append(out, netipx.IPRangeFrom(from, o[k].From().Prev()))
			}
			if from = o[k].To().Next(); from.IsValid() && from.Compare(r.To()) > 0 {
				from = netip.Addr{}
			}
		}
		if from.IsValid() {
			out = append(out, netipx.IPRangeFrom(from, r.To()))
		}
	}
	return out
}

func (rs ranges) overlaps(o ranges) bool {
	for i, j := 0, 0; i < len(rs) && j < len(o); {
		if rs[i].Overlaps(o[j]) {
			return true
		}
		if rs[i].To().Compare(o[j].To()) < 0 {
			i++
		} else {
			j++
		}
	}
	return false
}

// set returns the form that callers see.
func (rs ranges) set() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, r := range rs {
		b.AddRange(r)
	}
	s, err := b.IPSet()
	if err != nil { // only for invalid ranges, of which there are none
		panic("netsec: invalid address in a set: " + err.Error())
	}
	return s
}

// setRanges is the reverse of set.
func setRanges(s *netipx.IPSet) ranges {
	if s == nil {
		return nil
	}
	return s.Ranges()
}

func plainPrefix(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return netip.Prefix{}
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// family returns all addresses of the family of a.
func family(a netip.Addr) ranges {
	if a.Is4() {
		return everyRange[:1]
	}
	return everyRange[1:]
}

// key is an address in the form in which it is looked up.
type key struct {
	v4     uint32
	is4    bool
	hi, lo uint64
}

// keyOf takes an unmapped address.
func keyOf(a netip.Addr) key {
	if a.Is4() {
		b := a.As4()
		return key{v4: binary.BigEndian.Uint32(b[:]), is4: true}
	}
	b := a.As16()
	return key{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
}

type span4 struct{ first, last uint32 }

type span6 struct{ firstHi, firstLo, lastHi, lastLo uint64 }

// addrs is an address set in the form in which packets look themselves up, and as ranges for the set form.
type addrs struct {
	v4 []span4
	v6 []span6
	rs ranges
}

func newAddrs(rs ranges) *addrs {
	a := &addrs{rs: rs}
	for _, r := range rs {
		from, to := keyOf(r.From()), keyOf(r.To())
		if from.is4 {
			a.v4 = append(a.v4, span4{from.v4, to.v4})
		} else {
			a.v6 = append(a.v6, span6{from.hi, from.lo, to.hi, to.lo})
		}
	}
	return a
}

func (a *addrs) contains(k *key) bool {
	if k.is4 {
		if len(a.v4) == 1 {
			return k.v4-a.v4[0].first <= a.v4[0].last-a.v4[0].first
		}
		v, lo, hi := k.v4, 0, len(a.v4)
		for lo < hi { // the first range that ends at or after v
			m := int(uint(lo+hi) >> 1)
			if a.v4[m].last < v {
				lo = m + 1
			} else {
				hi = m
			}
		}
		return lo < len(a.v4) && a.v4[lo].first <= v
	}
	lo, hi := 0, len(a.v6)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if r := &a.v6[m]; r.lastHi < k.hi || r.lastHi == k.hi && r.lastLo < k.lo {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == len(a.v6) {
		return false
	}
	r := &a.v6[lo]
	return r.firstHi < k.hi || r.firstHi == k.hi && r.firstLo <= k.lo
}

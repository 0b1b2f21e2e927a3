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

	everySet    = prefixSet(v4All, v6All)
	every       = newAddrs(everySet)
	nowhere     = newAddrs(&netipx.IPSet{})
	platformSet = prefixSet(netip.PrefixFrom(platformV4, 32), netip.PrefixFrom(platformV6, 128))
	publicSet   = publicSpace()
	privateSet  = minus(minus(everySet, publicSet), platformSet)
	linkLocal   = prefixSet(netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"))
)

// PublicSpace returns the addresses that the Internet can send from: everything but reserved and private ranges and the
// host's own address; of IPv6, global unicast.
func PublicSpace() *netipx.IPSet { return publicSet }

func publicSpace() *netipx.IPSet {
	var b netipx.IPSetBuilder
	b.AddPrefix(v4All)
	b.AddPrefix(netip.MustParsePrefix("2000::/3"))
	for _, p := range notInternet {
		b.RemovePrefix(p)
	}
	b.Remove(platformV4)
	return built(&b)
}

// built returns the set. Builders fail only on invalid prefixes and addresses, which the callers have excluded.
func built(b *netipx.IPSetBuilder) *netipx.IPSet {
	s, err := b.IPSet()
	if err != nil {
		panic("netsec: invalid address in a set: " + err.Error())
	}
	return s
}

// prefixSet skips invalid prefixes; those of IPv4 in IPv6 form are taken as IPv4.
func prefixSet(ps ...netip.Prefix) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range ps {
		if p = plainPrefix(p); p.IsValid() {
			b.AddPrefix(p)
		}
	}
	return built(&b)
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

func addrSet(as []netip.Addr) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, a := range as {
		if a.IsValid() {
			b.Add(a.Unmap().WithZone(""))
		}
	}
	return built(&b)
}

func minus(a, b *netipx.IPSet) *netipx.IPSet {
	var sb netipx.IPSetBuilder
	sb.AddSet(a)
	sb.RemoveSet(b)
	return built(&sb)
}

func and(a, b *netipx.IPSet) *netipx.IPSet {
	var sb netipx.IPSetBuilder
	sb.AddSet(a)
	sb.Intersect(b)
	return built(&sb)
}

func or(sets ...*netipx.IPSet) *netipx.IPSet {
	var sb netipx.IPSetBuilder
	for _, s := range sets {
		if s != nil {
			sb.AddSet(s)
		}
	}
	return built(&sb)
}

func isEmpty(s *netipx.IPSet) bool { return s == nil || len(s.Ranges()) == 0 }

// family returns all addresses of the family of a.
func family(a netip.Addr) *netipx.IPSet {
	if a.Is4() {
		return prefixSet(v4All)
	}
	return prefixSet(v6All)
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

// addrs is an address set, as sorted disjoint ranges for the point form, and as a set for the set form.
type addrs struct {
	v4  []span4
	v6  []span6
	set *netipx.IPSet
}

func newAddrs(set *netipx.IPSet) *addrs {
	a := &addrs{set: set}
	for _, r := range set.Ranges() {
		from, to := keyOf(r.From()), keyOf(r.To())
		if from.is4 {
			a.v4 = append(a.v4, span4{from.v4, to.v4})
		} else {
			a.v6 = append(a.v6, span6{from.hi, from.lo, to.hi, to.lo})
		}
	}
	slices.SortFunc(a.v4, func(x, y span4) int {
		if x.first < y.first {
			return -1
		}
		return 1
	})
	slices.SortFunc(a.v6, func(x, y span6) int {
		if x.firstHi < y.firstHi || x.firstHi == y.firstHi && x.firstLo < y.firstLo {
			return -1
		}
		return 1
	})
	return a
}

func (a *addrs) contains(k *key) bool {
	if k.is4 {
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

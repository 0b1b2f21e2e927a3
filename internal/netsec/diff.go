package netsec

import (
	"net/netip"
	"slices"

	"go4.org/netipx"
)

// Change is a part of the sources for which two paths come to different verdicts.
type Change struct {
	IPs                *netipx.IPSet
	Tag                string // as in Piece
	Protocol           Protocol
	Ports, SourcePorts PortRange
	Before, After      PathPiece // the pieces that IPs lie in, with their deciding rules
}

// Lost reports whether the sources had access for certain and no longer do.
func (c Change) Lost() bool { return c.Before.Access == Allow && c.After.Access != Allow }

// Gained reports whether the sources have access, or may have, that they were denied before.
func (c Change) Gained() bool { return c.Before.Access == Deny && c.After.Access != Deny }

// Diff says for whom the verdict changes from before to after, for traffic to dst. Like pieces, changes without a tag speak
// of sources in no service tag with unknown addresses.
func Diff(before, after Path, dst netip.Addr, proto Protocol, ports PortRange) []Change {
	var out []Change
	old, now := before.sources(dst, proto, ports), after.sources(dst, proto, ports)
	emit := func(b, a *PathPiece, ips ranges, pr, sp PortRange) {
		if len(ips) == 0 || b.Access == a.Access {
			return
		}
		c := Change{IPs: ips.set(), Tag: b.Tag, Protocol: b.Protocol, Ports: pr, SourcePorts: sp, Before: *b, After: *a}
		if c.Tag == "" {
			c.Tag = a.Tag
		}
		c.Before.IPs, c.After.IPs = b.rs.set(), a.rs.set()
		out = append(out, c)
	}
	for i := range old {
		b := &old[i]
		for j := range now {
			a := &now[j]
			if b.Protocol != a.Protocol || b.Tag != a.Tag && b.Tag != "" && a.Tag != "" || !b.Ports.Overlaps(a.Ports) || !b.SourcePorts.Overlaps(a.SourcePorts) {
				continue
			}
			ips := b.rs.and(a.rs)
			if len(ips) == 0 {
				continue
			}
			// Where only one side has a piece of its own for the tag, the other judges the tag as it does everybody.
			own, tag := now, b.Tag
			if b.Tag == "" {
				own, tag = old, a.Tag
			}
			if b.Tag == a.Tag {
				emit(b, a, ips, b.Ports.and(a.Ports), b.SourcePorts.and(a.SourcePorts))
				continue
			}
			for _, c := range without(own, tag, a.Protocol, cell{ips, b.Ports.and(a.Ports), b.SourcePorts.and(a.SourcePorts)}) {
				emit(b, a, c.ips, c.ports, c.sports)
			}
		}
	}
	return out
}

// Lost says who had access to dst for certain by before and has it no longer by after, as a reach of before: its pieces carry the rules
// by which they got in. Who keeps access in another way is in none of them, nor is a family of addresses that dst is not of.
func Lost(before, after Path, dst netip.Addr, proto Protocol, ports PortRange) Reach {
	zones := before.place().zones
	var in [4][]PathPiece
	for _, c := range Diff(before, after, dst, proto, ports) {
		if !c.Lost() {
			continue
		}
		for i := range zones {
			x := c.Before
			if x.rs = setRanges(c.IPs).and(zones[i]); len(x.rs) == 0 {
				continue
			}
			x.IPs, x.Tag, x.Ports, x.SourcePorts = x.rs.set(), c.Tag, c.Ports, c.SourcePorts
			in[i] = append(in[i], x)
		}
	}
	return Reach{newZone(in[0]), newZone(in[1]), newZone(in[2]), newZone(in[3])}
}

func (r PortRange) and(o PortRange) PortRange {
	return PortRange{max(r.First, o.First), min(r.Last, o.Last)}
}

// minus returns what of r lies before and after o, which overlaps it.
func (r PortRange) minus(o PortRange) (out []PortRange) {
	if r.First < o.First {
		out = append(out, PortRange{r.First, o.First - 1})
	}
	if r.Last > o.Last {
		out = append(out, PortRange{o.Last + 1, r.Last})
	}
	return out
}

type cell struct {
	ips           ranges
	ports, sports PortRange
}

// without takes from the cell what the pieces of the tag hold.
func without(pieces []PathPiece, tag string, proto Protocol, c cell) []cell {
	cells := []cell{c}
	for i := range pieces {
		p := &pieces[i]
		if p.Tag != tag || p.Protocol != proto {
			continue
		}
		var next []cell
		for _, c := range cells {
			if !p.Ports.Overlaps(c.ports) || !p.SourcePorts.Overlaps(c.sports) {
				next = append(next, c)
				continue
			}
			for _, r := range c.ports.minus(p.Ports) {
				next = append(next, cell{c.ips, r, c.sports})
			}
			ports := c.ports.and(p.Ports)
			for _, r := range c.sports.minus(p.SourcePorts) {
				next = append(next, cell{c.ips, ports, r})
			}
			next = append(next, cell{c.ips.minus(p.rs), ports, c.sports.and(p.SourcePorts)})
		}
		cells = slices.DeleteFunc(next, func(c cell) bool { return len(c.ips) == 0 })
	}
	return cells
}

package nsg_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// The dumb reference: rules in order, one packet, first match. It shares nothing with the planner and little with netsec.

type packet struct {
	src, dst netip.Addr
	port     int
	proto    string // tcp, udp, icmp
}

func (p packet) String() string { return fmt.Sprintf("%s %s->%s:%d", p.proto, p.src, p.dst, p.port) }

// matchAddr answers for one text; unknown tags match or not as the world has it.
func matchAddr(text string, a netip.Addr, unknown bool) bool {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains(a)
	}
	if x, err := netip.ParseAddr(text); err == nil {
		return x == a
	}
	vnet := netip.MustParsePrefix("10.0.0.0/16").Contains(a) || netip.MustParsePrefix("fd00::/16").Contains(a) || a == addr("168.63.129.16")
	switch text {
	case "*":
		return true
	case "VirtualNetwork":
		return vnet
	case "Internet":
		return !vnet
	case "AzureLoadBalancer":
		return a == addr("168.63.129.16")
	}
	return unknown
}

func matches(r azure.SecurityRule, p packet, unknown bool) bool {
	one := func(texts []string, a netip.Addr) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return matchAddr(t, a, unknown) })
	}
	if r.Direction != "Inbound" || r.Protocol != "*" && !strings.EqualFold(r.Protocol, p.proto) || !one(r.SourcePrefixes, p.src) || !one(r.DestinationPrefixes, p.dst) {
		return false
	}
	return slices.ContainsFunc(r.DestinationPorts, func(t string) bool {
		if t == "*" {
			return true
		}
		lo, hi, _ := strings.Cut(t, "-")
		a, _ := strconv.Atoi(lo)
		b, _ := strconv.Atoi(cmp.Or(hi, lo))
		return p.proto != "icmp" && a <= p.port && p.port <= b
	})
}

func verdict(rules []azure.SecurityRule, p packet, unknown bool) (allowed bool, by azure.SecurityRule) {
	sorted := slices.Clone(rules)
	slices.SortFunc(sorted, func(a, b azure.SecurityRule) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range sorted {
		if matches(r, p, unknown) {
			return r.Access == "Allow", r
		}
	}
	inVnet := func(a netip.Addr) bool { return matchAddr("VirtualNetwork", a, false) }
	return inVnet(p.src) && inVnet(p.dst) || p.src == addr("168.63.129.16"), azure.SecurityRule{Name: "default"}
}

var (
	machines4 = []string{"10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"}
	machines6 = []string{"fd00::4", "fd00::5"}
	sources4  = []string{"203.0.113.7", "203.0.113.200", "198.51.100.7", "10.0.9.5", "10.0.5.5", "168.63.129.16"}
	sources6  = []string{"2001:db8::7", "fd00:0:9::5"}
	portsOf   = []int{22, 23, 443, 3389}
)

func packets() []packet {
	var out []packet
	add := func(src, dst []string) {
		for _, s := range src {
			for _, d := range dst {
				for _, proto := range []string{"tcp", "udp"} {
					for _, p := range portsOf {
						out = append(out, packet{addr(s), addr(d), p, proto})
					}
				}
				out = append(out, packet{addr(s), addr(d), 0, "icmp"})
			}
		}
	}
	add(sources4, append(slices.Clone(machines4), "10.0.0.9"))
	add(sources6, machines6)
	return out
}

var allPackets = packets()

func genForeign(t *rapid.T, n int, used map[int]bool) azure.SecurityRule {
	prio := rapid.OneOf(rapid.IntRange(100, 106), rapid.IntRange(296, 304), rapid.IntRange(1296, 1302), rapid.IntRange(100, 4096)).
		Filter(func(p int) bool { return !used[p] }).Draw(t, "prio")
	used[prio] = true
	src := rapid.SampledFrom([]string{"*", "*", "Internet", "VirtualNetwork", "AzureLoadBalancer", "203.0.113.0/24", "203.0.113.7", "10.0.9.0/26", "10.0.0.0/16", "Storage"}).Draw(t, "src")
	dst := rapid.SampledFrom([]string{"*", "*", "*", "VirtualNetwork", "10.0.0.0/24", "10.0.0.4", "10.0.0.5", "10.0.0.4/31"}).Draw(t, "dst")
	if rapid.IntRange(0, 9).Draw(t, "v6") == 0 {
		src, dst = rapid.SampledFrom([]string{"*", "2001:db8::/32"}).Draw(t, "src6"), rapid.SampledFrom([]string{"fd00::/16", "fd00::4"}).Draw(t, "dst6")
	}
	return foreign(fmt.Sprintf("theirs-%d", n), prio, rapid.SampledFrom([]string{"Allow", "Allow", "Deny"}).Draw(t, "access"),
		rapid.SampledFrom([]string{"*", "Tcp", "Udp", "Icmp"}).Draw(t, "proto"), src, dst,
		rapid.SampledFrom([]string{"*", "22", "22-23", "443", "20-4000", "3389"}).Draw(t, "port"))
}

func genShields(t *rapid.T) []enforce.Shield {
	var out []enforce.Shield
	for i, ip := range machines4 {
		if !rapid.Bool().Draw(t, "protected") {
			continue
		}
		for _, port := range rapid.SampledFrom([][]string{{"22"}, {"3389"}, {"22", "3389"}, {"22-23"}, {"22", "20-30"}}).Draw(t, "ports") {
			s := shield(fmt.Sprintf("vm-%d", i), ip, port)
			if i < len(machines6) && rapid.Bool().Draw(t, "dual") {
				s.Destinations = append(s.Destinations, addr(machines6[i]))
			}
			if rapid.IntRange(0, 3).Draw(t, "udp") == 0 {
				s.Protocol = access.UDP
			}
			for _, e := range []access.Exemption{{Name: "AzureBastionSubnet", Source: "10.0.9.0/26"}, {Name: "probe", Source: "AzureLoadBalancer"}} {
				if rapid.IntRange(0, 2).Draw(t, "exempt") == 0 {
					s.Exemptions = append(s.Exemptions, e)
				}
			}
			out = append(out, s)
		}
	}
	return out
}

func genWindows(t *rapid.T, shields []enforce.Shield, at time.Time, serial *int) []enforce.Window {
	var out []enforce.Window
	if len(shields) == 0 {
		return nil
	}
	n := rapid.OneOf(rapid.IntRange(0, 4), rapid.IntRange(0, 4), rapid.IntRange(5, 40)).Draw(t, "windows")
	for range n {
		s := rapid.SampledFrom(shields).Draw(t, "shield")
		src := rapid.SampledFrom([]string{"203.0.113.7", "203.0.113.0/24", "198.51.100.7", "10.0.5.5", "0.0.0.0/0"}).Draw(t, "source")
		if len(s.Destinations) > 1 && rapid.Bool().Draw(t, "six") {
			src = "2001:db8::7"
		}
		*serial++
		ports := s.Ports
		if ports.Count() > 1 && rapid.Bool().Draw(t, "one port") {
			ports = access.Port(ports.First)
		}
		p, _ := access.ParseSource(src)
		out = append(out, enforce.Window{Grant: access.GrantID(fmt.Sprintf("g-%010d", *serial)), VM: s.VM, Destinations: s.Destinations, Ports: ports, Protocol: s.Protocol,
			Source: p, End: at.Add(time.Duration(rapid.SampledFrom([]int{-5, 0, 60, 61, 90, 3600}).Draw(t, "end")) * time.Second)})
	}
	return out
}

func ofWindow(w enforce.Window, p packet, at time.Time) bool {
	return at.Before(w.End) && w.Source.Contains(p.src) && slices.Contains(w.Destinations, p.dst) && int(w.Ports.First) <= p.port && p.port <= int(w.Ports.Last) && string(w.Protocol) == p.proto
}

func ofShield(s enforce.Shield, p packet) bool {
	return slices.Contains(s.Destinations, p.dst) && int(s.Ports.First) <= p.port && p.port <= int(s.Ports.Last) && string(s.Protocol) == p.proto
}

func exempted(s enforce.Shield, p packet) bool {
	return ofShield(s, p) && slices.ContainsFunc(s.Exemptions, func(e access.Exemption) bool { return matchAddr(e.Source, p.src, false) })
}

// check holds a plan against the reference. baseline are the rules of others as they were before Curfew came.
func check(t *rapid.T, baseline []azure.SecurityRule, in nsg.Input, p nsg.Plan) {
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nbefore:\n%safter:\n%sproblems: %+v\nwindows: %+v", fmt.Sprintf(format, args...), dump(in.Rules), dump(p.Rules), p.Problems, in.Wanted.Windows)
	}
	w := in.Wanted
	told := func(rule string) bool {
		return slices.ContainsFunc(p.Problems, func(x enforce.Problem) bool { return strings.EqualFold(x.Rule, rule) })
	}
	// (f), (g), and what Azure accepts
	prios := map[int]bool{}
	if len(p.Rules) > 1000 {
		fail("(g) %d rules", len(p.Rules))
	}
	for _, r := range p.Rules {
		if prios[r.Priority] || r.Priority < 100 || r.Priority > 4096 {
			fail("(f) priority %d of %s", r.Priority, r.Name)
		}
		prios[r.Priority] = true
		if err := inventory.Rule(r).Validate(); err != nil {
			fail("%s: %v", r.Name, err)
		}
		if len(r.Description) > 140 {
			fail("description of %s has %d characters", r.Name, len(r.Description))
		}
		if h, ok := nsg.Parse(r.Name); ok && h.Kind == enforce.KindAllow && !in.Now.Before(h.End) {
			fail("P1: %s is past its end", r.Name)
		}
	}
	// (e) P3
	aside := map[string]bool{}
	for _, k := range append(slices.Clone(p.Keep), w.Replaced...) {
		aside[k.Rule] = true
		if !slices.Contains(w.Consents, k.Rule) {
			fail("(e) %s was set aside without consent", k.Rule)
		}
	}
	i := 0
	for _, b := range baseline {
		if aside[b.Name] {
			continue
		}
		for i < len(p.Rules) && p.Rules[i].Name != b.Name {
			i++
		}
		if i == len(p.Rules) {
			fail("(e) %s is gone, or not in its place", b.Name)
		}
		if !bytes.Equal(p.Rules[i].Raw, b.Raw) {
			fail("(e) %s was changed", b.Name)
		}
	}
	for _, unknown := range []bool{false, true} {
		for _, x := range allPackets {
			was, _ := verdict(baseline, x, unknown)
			is, by := verdict(p.Rules, x, unknown)
			window := slices.ContainsFunc(w.Windows, func(g enforce.Window) bool { return ofWindow(g, x, in.Now) })
			exempt := slices.ContainsFunc(w.Shields, func(s enforce.Shield) bool { return exempted(s, x) })
			protected := slices.ContainsFunc(w.Shields, func(s enforce.Shield) bool { return ofShield(s, x) })
			switch { // (b)
			case is && !was && !window && !exempt:
				fail("(b) %v is let in by %s", x, by.Name)
			case !is && was && !protected:
				fail("(b) %v is stopped by %s, and nobody protects it", x, by.Name)
			}
			if protected && is && !window && !exempt && !told(by.Name) { // (a) P4
				fail("(a) %v is let in by %s, and no problem says so", x, by.Name)
			}
			if _, ours := nsg.Parse(by.Name); is && ours && !slices.ContainsFunc(w.Shields, func(s enforce.Shield) bool { return exempted(s, x) }) {
				for _, d := range p.Rules { // a deny of somebody else's that stood before ours is not stepped over
					h, _ := nsg.Parse(d.Name)
					if h.Kind != "" || d.Access != "Deny" || !matches(d, x, unknown) {
						continue
					}
					first := azure.SecurityRule{Priority: 5000} // of our denies for this packet: its place is the one that counts
					for _, o := range p.Rules {
						if k, _ := nsg.Parse(o.Name); k.Kind == enforce.KindDeny && matches(o, x, unknown) && o.Priority < first.Priority {
							first = o
						}
					}
					if first.Name != "" && d.Priority < first.Priority && by.Priority < d.Priority {
						fail("%v: %s steps over %s, which stands before %s", x, by.Name, d.Name, first.Name)
					}
				}
			}
		}
		for _, g := range w.Windows { // (c)
			excused := slices.ContainsFunc(p.Problems, func(x enforce.Problem) bool { return slices.Contains(x.Grants, g.Grant) })
			if want := in.Now.Before(g.End) && !excused; p.After.Windows[g.Grant] != want {
				fail("(c) window %s stands: %v, want %v", g.Grant, p.After.Windows[g.Grant], want)
			}
			for _, x := range allPackets {
				if excused || !ofWindow(g, x, in.Now) {
					continue
				}
				if is, by := verdict(p.Rules, x, unknown); !is {
					if _, ours := nsg.Parse(by.Name); ours || by.Name == "default" {
						fail("(c) %v of %s is stopped by %s", x, g.Grant, by.Name)
					}
				}
			}
		}
	}
	if len(p.Problems) == 0 && !p.After.Shields {
		fail("shields do not stand, and no problem says so")
	}
	if len(p.After.Stray) > 0 {
		fail("stray: %v", p.After.Stray)
	}
	// (d)
	again := in
	again.Rules = roundTrip(p.Rules)
	again.Wanted.Replaced = append(slices.Clone(w.Replaced), p.Keep...)
	if q := nsg.NewPlan(again); len(q.Changes)+len(q.Keep)+len(q.Altered)+len(q.Absent) > 0 {
		fail("(d) a second plan changes %v, keeps %d, altered %v, absent %v\n%s", q.Changes, len(q.Keep), q.Altered, q.Absent, dump(q.Rules))
	}
	if q := nsg.NewPlan(in); dump(q.Rules) != dump(p.Rules) {
		fail("not deterministic")
	}
}

// P1, P3, P4: whatever others' rules are, and however what is wanted changes.
func TestPlanAgainstReference(t *testing.T) {
	if os.Getenv("CURFEW_LONG") != "" {
		if err := flag.Set("rapid.checks", "2500"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		used := map[int]bool{}
		var baseline []azure.SecurityRule
		crowd := rapid.IntRange(0, 6).Draw(t, "crowd") // the first priorities are all taken
		for i := range crowd * rapid.IntRange(0, 1).Draw(t, "crowded") {
			used[100+i] = true
			baseline = append(baseline, foreign(fmt.Sprintf("crowd-%d", i), 100+i, "Allow", "Tcp", "10.0.0.0/16", "*", "443"))
		}
		for i := range rapid.IntRange(0, 6).Draw(t, "foreign") {
			baseline = append(baseline, genForeign(t, i, used))
		}
		band := nsg.DefaultBand
		if rapid.IntRange(0, 2).Draw(t, "band") == 0 {
			band = nsg.Band{Start: 300, End: 300 + rapid.IntRange(4, 30).Draw(t, "width")}
		}
		rules := baseline
		var w enforce.Wanted
		at, serial := now, 0
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			if w.Shields == nil || rapid.IntRange(0, 3).Draw(t, "protect") == 0 {
				w.Shields = genShields(t)
				w.Windows = slices.DeleteFunc(w.Windows, func(g enforce.Window) bool {
					return !slices.ContainsFunc(w.Shields, func(s enforce.Shield) bool {
						return s.VM == g.VM && s.Protocol == g.Protocol && s.Ports.Contains(g.Ports) && slices.Equal(s.Destinations, g.Destinations)
					})
				})
			}
			w.Windows = append(slices.DeleteFunc(slices.Clone(w.Windows), func(enforce.Window) bool { return rapid.IntRange(0, 2).Draw(t, "close") == 0 }), genWindows(t, w.Shields, at, &serial)...)
			for i := range w.Windows {
				if rapid.IntRange(0, 5).Draw(t, "extend") == 0 {
					w.Windows[i].End = w.Windows[i].End.Add(10 * time.Minute)
				}
			}
			for _, b := range baseline {
				if rapid.IntRange(0, 3).Draw(t, "consent") == 0 && !slices.Contains(w.Consents, b.Name) {
					w.Consents = append(w.Consents, b.Name)
				}
			}
			in := input(rules, w)
			in.Band, in.Now = band, at
			in.Wanted.Env.VirtualNetwork = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/16")}
			p := nsg.NewPlan(in)
			check(t, baseline, in, p)
			w.Replaced = append(w.Replaced, p.Keep...)
			rules = roundTrip(p.Rules)
			for i := range rules { // drift: somebody meddles with a rule of ours
				if _, ours := nsg.Parse(rules[i].Name); ours && rapid.IntRange(0, 19).Draw(t, "drift") == 0 {
					rules[i].Raw = nil
					switch rapid.IntRange(0, 2).Draw(t, "how") {
					case 0:
						rules[i].SourcePrefixes = []string{"*"}
						rules[i].SourceASGs = nil
					case 1:
						rules[i].Access = "Allow"
					case 2:
						rules[i].DestinationPorts = []string{"443"}
					}
					rules = roundTrip(rules)
				}
			}
			at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 30, 61, 4000}).Draw(t, "pass")) * time.Second)
		}
	})
}

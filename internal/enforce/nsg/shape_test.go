package nsg_test

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
)

func TestParse(t *testing.T) {
	for name, kind := range map[string]enforce.Kind{
		"curfew-allow-acme-aaaaaaaaaa-20260301T130000Z":   enforce.KindAllow,
		"Curfew-Allow-ACME-aaaaaaaaaa-20260301t130000z":   enforce.KindAllow, // ARM compares names without case
		"curfew-deny-acme-tcp-22":                         enforce.KindDeny,
		"curfew-deny-acme-udp-20-30-n12":                  enforce.KindDeny,
		"curfew-exempt-acme-azurebastionsubnet-tcp-22":    enforce.KindExempt,
		"curfew-exempt-acme-rest-all-ssh-any-some-n2":     enforce.KindExempt,
		"curfew-exempt-acme-a-b-c-udp-20-30":              enforce.KindExempt,
		"curfew-allow-acme-aaaaaaaaaa-20261301T130000Z":   "", // there is no thirteenth month
		"curfew-allow-acme-aaaaaaaaaa-20260301T130000":    "",
		"curfew-allow-acme-aaaaaaaaaa-20260301T130000Z-x": "",
		"curfew-allow-abc-aaaaaaaaaa-20260301T130000Z":    "", // an installation has four characters at least
		"curfew-deny-acme-icmp-22":                        "",
		"curfew-deny-acme-tcp":                            "",
		"xcurfew-deny-acme-tcp-22":                        "",
		"curfew-ssh":                                      "",
		"":                                                "",
	} {
		h, ok := nsg.Parse(name)
		if ok != (kind != "") || h.Kind != kind || ok && h.Installation != "acme" {
			t.Errorf("%s: got %+v, %v", name, h, ok)
		}
	}
}

// What only begins like one of ours is somebody else's: left alone, and said. P3.
func TestLookalike(t *testing.T) {
	r := foreign("curfew-deny-acme-ssh", 500, "Deny", "Tcp", "*", "*", "22")
	p := nsg.NewPlan(input([]azure.SecurityRule{r}, enforce.Wanted{}))
	if len(p.Changes) > 0 || len(p.Problems) != 1 || p.Problems[0].Rule != r.Name {
		t.Errorf("changes %v, problems %v", p.Changes, p.Problems)
	}
}

// An allow that lets in only who is exempt bypasses nothing, and moves no deny.
func TestExemptedAllowIsNoBypass(t *testing.T) {
	rules := []azure.SecurityRule{foreign("bastion", 100, "Allow", "Tcp", "10.0.9.0/26", "*", "22"), foreign("probes", 101, "Allow", "*", "AzureLoadBalancer", "*", "*")}
	w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22", access.Exemption{Name: "AzureBastionSubnet", Source: "10.0.9.0/26"}, access.Exemption{Name: "probe", Source: "AzureLoadBalancer"})}}
	p := nsg.NewPlan(input(rules, w))
	if d := find(t, p.Rules, "curfew-deny-acme-tcp-22"); d.Priority != 1299 || len(p.Problems) > 0 || !p.After.Shields {
		t.Errorf("deny at %d, want 1299; problems %v", d.Priority, p.Problems)
	}
	w.Shields[0].Exemptions = w.Shields[0].Exemptions[:1]
	if p = nsg.NewPlan(input(rules, w)); len(p.Problems) == 0 || p.Problems[0].Rule != "probes" || p.After.Shields {
		t.Errorf("problems %v", p.Problems)
	}
}

// A live window of another installation's is not closed by a deny of ours, and not hidden either.
func TestGuest(t *testing.T) {
	rules := []azure.SecurityRule{foreign("curfew-allow-other-aaaaaaaaaa-20260301T130000Z", 300, "Allow", "Tcp", "203.0.113.9", "10.0.0.4", "22")}
	p := nsg.NewPlan(input(rules, enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22")}}))
	if d := find(t, p.Rules, "curfew-deny-acme-tcp-22"); d.Priority != 1299 || len(p.Problems) != 1 || p.Problems[0].Rule != rules[0].Name || p.After.Shields {
		t.Errorf("deny at %d, problems %v, after %+v", d.Priority, p.Problems, p.After)
	}
}

// Azure takes 4,000 addresses in a rule and 1,000 rules in a group. FACTS 2.4.
func TestLimits(t *testing.T) {
	var w enforce.Wanted
	s := shield("big", "10.0.0.4", "22")
	s.Destinations = nil
	for i := range 9000 {
		s.Destinations = append(s.Destinations, netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}))
	}
	w.Shields = []enforce.Shield{s}
	p := nsg.NewPlan(input(nil, w))
	if len(p.Rules) != 3 || len(p.Problems) > 0 || !p.After.Shields {
		t.Errorf("%d rules, problems %v", len(p.Rules), p.Problems)
	}
	for _, r := range p.Rules {
		if len(r.DestinationPrefixes) > 4000 {
			t.Errorf("%s has %d destinations", r.Name, len(r.DestinationPrefixes))
		}
	}
	// 1,500 grants of which no two can share: what has no place is named, and what stands stays.
	w.Shields = []enforce.Shield{shield("web-01", "10.0.0.4", "22")}
	for i := range 1500 {
		w.Windows = append(w.Windows, window(fmt.Sprintf("%010d", i), "web-01", "10.0.0.4", "22", fmt.Sprintf("203.%d.%d.7", i/250, i%250), time.Duration(i+5)*time.Minute))
	}
	p = nsg.NewPlan(input(nil, w))
	missing := 0
	for _, x := range p.Problems {
		missing += len(x.Grants)
	}
	stands := 0
	for _, ok := range p.After.Windows {
		if ok {
			stands++
		}
	}
	if len(p.Rules) > 1000 || stands+missing != 1500 || stands < 990 {
		t.Errorf("%d rules, %d stand, %d have problems", len(p.Rules), stands, missing)
	}
	again := nsg.NewPlan(input(roundTrip(p.Rules), w))
	if len(again.Changes) > 0 {
		t.Errorf("a second plan changes %d", len(again.Changes))
	}
}

// Shared rules: as few as a smallest vertex cover, found by trying all, and never a pair that nobody approved.
func TestStarsAreFewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w enforce.Wanted
		edges := map[[2]int]bool{}
		for m := range 5 {
			w.Shields = append(w.Shields, shield(fmt.Sprintf("vm-%d", m), fmt.Sprintf("10.0.0.%d", m+4), "22"))
			for s := range 5 {
				if rapid.IntRange(0, 2).Draw(t, "edge") == 0 {
					edges[[2]int{m, s}] = true
					w.Windows = append(w.Windows, window(fmt.Sprintf("%010d", m*5+s), fmt.Sprintf("vm-%d", m), fmt.Sprintf("10.0.0.%d", m+4), "22", fmt.Sprintf("203.0.113.%d", s+1),
						time.Hour+time.Duration((m+s)%3)*time.Second))
				}
			}
		}
		in := input(nil, w)
		in.Band = nsg.Band{Start: 300, End: 306} // seven places: more than three windows share
		p := nsg.NewPlan(in)
		if len(p.Problems) > 0 {
			t.Fatalf("problems %v", p.Problems)
		}
		got := 0
		for _, r := range p.Rules {
			if strings.HasPrefix(r.Name, "curfew-allow-") {
				got++
			}
			if h, _ := nsg.Parse(r.Name); h.Kind == enforce.KindAllow {
				for _, s := range r.SourcePrefixes {
					for _, d := range r.DestinationPrefixes {
						var m, n int
						fmt.Sscanf(d, "10.0.0.%d", &m)
						fmt.Sscanf(s, "203.0.113.%d", &n)
						if !edges[[2]int{m - 4, n - 1}] {
							t.Fatalf("%s lets %s at %s, which nobody approved", r.Name, s, d)
						}
					}
				}
			}
		}
		fewest := len(edges)
		for set := range 1 << 10 {
			covers := true
			for e := range edges {
				covers = covers && (set>>e[0]&1 == 1 || set>>(5+e[1])&1 == 1)
			}
			if covers {
				fewest = min(fewest, bits.OnesCount(uint(set)))
			}
		}
		if len(edges) > 3 && got != fewest || len(edges) <= 3 && got != len(edges) {
			t.Fatalf("%d rules for %d windows, want %d", got, len(edges), fewest)
		}
	})
}

// A rule of which nothing was left comes back byte for byte, unless somebody took its priority. P3.
func TestWhollySetAside(t *testing.T) {
	rule := foreign("ssh", 100, "Allow", "Tcp", "*", "10.0.0.4", "22")
	w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22")}, Consents: []string{"ssh"}}
	p := nsg.NewPlan(input([]azure.SecurityRule{rule}, w))
	if len(p.Rules) != 1 || len(p.Keep) != 1 || !p.After.Shields || len(p.Problems) > 0 {
		t.Fatalf("problems %v\n%s", p.Problems, dump(p.Rules))
	}
	stood := roundTrip(p.Rules)
	for what, later := range map[string]enforce.Wanted{"restore": {Restore: p.Keep}, "nothing needs it aside": {Replaced: p.Keep}} {
		back := nsg.NewPlan(input(stood, later))
		if len(back.Rules) != 1 || string(back.Rules[0].Raw) != string(rule.Raw) || len(back.Problems) > 0 {
			t.Errorf("%s: problems %v\n%s", what, back.Problems, dump(back.Rules))
		}
		taken := append(roundTrip(stood), foreign("other", 100, "Allow", "Tcp", "*", "*", "443"))
		back = nsg.NewPlan(input(taken, later))
		left := 1
		if len(later.Restore) > 0 {
			left = 2 // the deny stays: by it alone it is known that nothing was left of the rule, and not that somebody removed it
		}
		other := slices.ContainsFunc(back.Rules, func(r azure.SecurityRule) bool { return r.Name == "other" })
		if !other || len(back.Rules) != left || len(back.Problems) != 1 || back.Problems[0].Rule != "ssh" || back.Problems[0].Theirs {
			t.Errorf("%s, priority taken: problems %v\n%s", what, back.Problems, dump(back.Rules))
		}
		if len(later.Restore) > 0 {
			freed := slices.DeleteFunc(roundTrip(back.Rules), func(r azure.SecurityRule) bool { return r.Name == "other" })
			if again := nsg.NewPlan(input(freed, later)); len(again.Rules) != 1 || string(again.Rules[0].Raw) != string(rule.Raw) || len(again.Problems) > 0 {
				t.Errorf("priority free again: problems %v\n%s", again.Problems, dump(again.Rules))
			}
		}
	}
}

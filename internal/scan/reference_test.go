package scan_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// A dumb reference: the space of sources is cut into a few parts beforehand, one packet of each is sent through the rules one by one,
// and sizes are added up. It shares no code with the judge or with netsec.

// parts of the space of sources: which of the rules' sources hold them, whether they are public, and how many addresses they have.
var parts = []struct {
	in     []string
	public bool
	size   uint64
}{
	{[]string{"*", "0.0.0.0/0", "Internet", "20.0.0.0/8"}, true, 1 << 24},
	{[]string{"*", "0.0.0.0/0", "Internet", "52.0.0.0/9"}, true, 1 << 23},
	{[]string{"*", "0.0.0.0/0", "Internet", "104.0.0.0/9"}, true, 1 << 23},
	{[]string{"*", "0.0.0.0/0", "Internet", "198.18.7.0/24"}, true, 0}, // reserved for measurements: nobody's
	{[]string{"*", "0.0.0.0/0", "Internet", "8.8.8.0/24"}, true, 1 << 8},
	{[]string{"*", "0.0.0.0/0", "Internet"}, true, 1 << 31},
	{[]string{"*", "0.0.0.0/0", "VirtualNetwork", "10.0.9.0/24"}, false, 1 << 8},
	{[]string{"*", "0.0.0.0/0", "VirtualNetwork"}, false, 1 << 15},
}

type refRule struct {
	name, access, proto, source, dest string
	prio, from, to                    int
}

func (r refRule) text() string {
	ports := fmt.Sprint(r.from)
	if r.to != r.from {
		ports = fmt.Sprintf("%d-%d", r.from, r.to)
	}
	return fmt.Sprintf("%s %d %s %s %s %s %s", r.name, r.prio, r.access, r.proto, r.source, r.dest, ports)
}

// through sends TCP from a part to a port of 10.0.0.4: whether it gets in, and whether by a live grant or an exemption.
func through(rules []refRule, part []string, port int) (in, grant, exempt bool) {
	best := refRule{prio: 1 << 20}
	for _, r := range rules {
		holds := false
		for _, s := range part {
			holds = holds || s == r.source
		}
		if holds && r.prio < best.prio && r.proto != "Udp" && (r.dest == "*" || r.dest == "10.0.0.4") && port >= r.from && port <= r.to {
			best = r
		}
	}
	if best.name == "" {
		return strings.Contains(strings.Join(part, " "), "VirtualNetwork"), false, false
	}
	return best.access == "Allow", best.name == liveName, strings.HasPrefix(best.name, "curfew-exempt-") && best.source != "*"
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func TestJudgeAgainstReference(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	seen := map[string]int{}
	for n := range testkit.Count(300, 100_000) {
		var groups [2][]refRule // of the interface and of the subnet
		has := [2]bool{r.IntN(5) > 0, r.IntN(3) == 0}
		ours := [4]bool{} // by port: our deny stands in some group
		ports := []int{22, 3389, 5985, 5986}
		for g := range groups {
			if !has[g] {
				continue
			}
			for i := range r.IntN(5) {
				from := pick(r, 22, 22, 3389, 5985, 80, 1)
				to := from
				if from == 1 {
					to = pick(r, 100, 65535)
				}
				groups[g] = append(groups[g], refRule{fmt.Sprint("rule", i), pick(r, "Allow", "Allow", "Deny"), pick(r, "Tcp", "*", "Udp"),
					pick(r, "*", "0.0.0.0/0", "Internet", "VirtualNetwork", "20.0.0.0/8", "52.0.0.0/9", "104.0.0.0/9", "8.8.8.0/24", "10.0.9.0/24"),
					pick(r, "*", "*", "10.0.0.4", "10.0.0.99"), 200 + 10*i + r.IntN(5), from, to})
			}
			if r.IntN(3) == 0 {
				i := r.IntN(2)
				groups[g] = append(groups[g], refRule{fmt.Sprintf("curfew-deny-demo-tcp-%d", ports[i]), "Deny", "*", "*", "10.0.0.4", pick(r, 195, 215, 400), ports[i], ports[i]})
				ours[i] = true
			}
			if r.IntN(4) == 0 {
				groups[g] = append(groups[g], refRule{pick(r, liveName, pastName, "curfew-exempt-demo-x-tcp-22"), "Allow", "Tcp", pick(r, "8.8.8.0/24", "10.0.9.0/24", "*"), "10.0.0.4", 100 + r.IntN(9), 22, 22})
			}
		}
		public := pick(r, "", "20.1.2.3", "20.1.2.3", "basic:20.1.2.3")
		policy := pick(r, "", "", "Succeeded", "Failed")

		w := newWorld()
		ids := [2]string{}
		for g := range groups {
			if has[g] {
				var texts []string
				for _, x := range groups[g] {
					texts = append(texts, x.text())
				}
				ids[g] = w.nsg(fmt.Sprint("nsg", g), texts...)
			}
		}
		w.vm("web", 4, ids[0], public)
		if has[1] {
			props(w.at["Microsoft.Network/virtualNetworks/net"])["subnets"].([]obj)[0]["properties"].(obj)["networkSecurityGroup"] = obj{"id": ids[1]}
		}
		if policy != "" {
			w.policy("default", vmID("web"), policy, jitPort(22, "8.8.8.0/24", "PT1H"))
		}

		// reach adds up who gets in on a port, grants and perhaps exemptions aside.
		reach := func(port int, exemptToo bool) (fromInternet uint64, any, fromNetwork bool) {
			for _, p := range parts {
				in, aside := true, false
				for g := range groups {
					if has[g] {
						ok, grant, exempt := through(groups[g], p.in, port)
						in, aside = in && ok, aside || grant && ours[0] || exempt && exemptToo // a grant is of port 22, and nobody else protects it
					}
				}
				if !has[0] && !has[1] && p.public {
					in = strings.HasPrefix(public, "basic:")
				}
				if !in || aside {
					continue
				}
				if !p.public {
					fromNetwork = true
				} else if public != "" {
					fromInternet += p.size
					any = any || p.size > 0
				}
			}
			return fromInternet, any, fromNetwork
		}
		want := map[scan.RuleID]scan.Status{scan.VMPortExposed: scan.Pass, scan.VMJITMissing: scan.Pass, scan.VMNoNSG: scan.Pass, scan.VMJITIneffective: scan.NotApplicable}
		for i, port := range ports {
			size, _, _ := reach(port, false)
			if size > 1<<24 {
				want[scan.VMPortExposed] = scan.Fail
			}
			protected := ours[i] || port == 22 && policy == "Succeeded"
			if (size > 1<<24 || port == 22) && !protected {
				want[scan.VMJITMissing] = scan.Fail
			}
			if !protected {
				continue
			}
			if _, any, net := reach(port, true); any || net {
				want[scan.VMJITIneffective] = scan.Fail
			} else if want[scan.VMJITIneffective] != scan.Fail {
				want[scan.VMJITIneffective] = scan.Pass
			}
		}
		if !has[0] && !has[1] {
			want[scan.VMNoNSG], want[scan.VMJITMissing] = scan.Fail, scan.NotApplicable
		}
		e := w.estate(t)
		report := scan.Scan(e, scan.Options{Now: noon, All: true})
		if n%8 == 0 {
			completes(t, e, scan.Options{Now: noon, All: true})
		}
		for _, f := range report.Findings {
			if s, ok := want[f.Rule]; ok {
				if seen[string(f.Rule)+" "+string(s)]++; f.Status != s {
					t.Fatalf("seed %d, estate %d: the reference says %s of %s, the judge %s\ngroups %v %+v, public %q, policy %q", seed, n, s, f.Rule, told(&f), has, groups, public, policy)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("too little was met: %v", seen)
	}
}

// Whatever parses is judged: no crash, at most one finding of a rule on a resource, each with a reason, and the sums add up.
func FuzzJudge(f *testing.F) {
	n := 0
	for _, cs := range cases {
		for _, c := range cs {
			if n++; n%7 == 0 {
				w := newWorld()
				c.make(w)
				f.Add(w.file(f))
			}
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := estate.Read(bytes.NewReader(file))
		if err != nil {
			return
		}
		r := scan.Scan(e, scan.Options{Now: noon, All: true, SingleVMs: true})
		ids, sum := map[string]bool{}, 0
		for i := range r.Findings {
			x := &r.Findings[i]
			if ids[x.ID] || x.Reason == "" || x.Resource == "" || x.Severity == "" {
				t.Fatalf("a finding twice, or without reason, resource or severity: %+v", x)
			}
			ids[x.ID] = true
			for _, p := range x.Evidence.Ports {
				for _, w := range p.Ways {
					if w.Decider < 0 || len(w.Hops) > 0 && w.Decider >= len(w.Hops) {
						t.Fatalf("a way is decided by hop %d of %d", w.Decider, len(w.Hops))
					}
				}
			}
		}
		for _, s := range r.Summary.Statuses {
			sum += s
		}
		if sum != len(r.Findings) {
			t.Fatalf("%d findings, %d counted", len(r.Findings), sum)
		}
		completes(t, e, scan.Options{Now: noon, All: true, SingleVMs: true})
	})
}

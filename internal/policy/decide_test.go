package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

func no() *policy.Text { return &policy.Text{} }

func required() *policy.Text { return &policy.Text{Required: true} }

// ask is what everybody may ask for under one permissive rule.
func ask(f func(*access.Ask)) access.Ask {
	a := access.Ask{Requester: "alice", Terms: terms(time.Hour), Reason: "INC-1"}
	if f != nil {
		f(&a)
	}
	return a
}

// compiled makes a Set, and fails the test where the document is wrong.
func compiled(t interface{ Fatal(...any) }, d policy.Document) *policy.Set {
	s, err := policy.New(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func policyOf(rules ...policy.Rule) policy.Document {
	for i := range rules {
		if rules[i].Name == "" {
			rules[i].Name = string(rune('a' + i))
		}
	}
	return policy.Document{Rules: rules}
}

func TestPolicyDecide(t *testing.T) {
	all := policy.Rule{}
	for _, c := range []struct {
		name   string
		policy policy.Document
		ask    access.Ask
		code   access.Code // "" is allowed
	}{
		{"one rule for all", policyOf(all), ask(nil), ""},
		{"no policy", policy.Document{}, ask(nil), access.CodeDenied},
		{"nothing matches", policyOf(policy.Rule{VMs: []string{"db-*"}}), ask(nil), access.CodeDenied},
		{"zero ask", policyOf(all), access.Ask{}, access.CodeUnauthenticated},
		{"nobody", policyOf(all), ask(func(a *access.Ask) { a.Requester = " " }), access.CodeUnauthenticated},
		{"no target", policyOf(all), ask(func(a *access.Ask) { a.Terms.Targets = nil }), access.CodeInvalid},
		{"zero port", policyOf(all), ask(func(a *access.Ask) { a.Terms.Targets = []access.Target{{VM: web.VM, Protocol: access.TCP}} }), access.CodeInvalid},
		{"no protocol", policyOf(all), ask(func(a *access.Ask) { a.Terms.Targets = []access.Target{{VM: web.VM, Ports: web.Ports}} }), access.CodeInvalid},
		{"no source", policyOf(all), ask(func(a *access.Ask) { a.Terms.Source = netip.Prefix{} }), access.CodeInvalid},
		{"source in IPv6 form", policyOf(all), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("::ffff:198.51.100.7/128") }), access.CodeInvalid},
		{"deny beats all", policyOf(all, policy.Rule{Deny: true, Ports: []access.Ports{access.Port(22)}}, all), ask(nil), access.CodeDenied},
		{"deny touches by overlap", policyOf(all, policy.Rule{Deny: true, Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}}),
			ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("198.51.100.0/24") }), access.CodeDenied},
		{"deny elsewhere", policyOf(all, policy.Rule{Deny: true, Ports: []access.Ports{access.Port(23)}}), ask(nil), ""},
		{"group of the id counts", policyOf(policy.Rule{Groups: []string{"rg-test"}}), ask(func(a *access.Ask) { a.Group = "rg-test" }), access.CodeDenied},
		{"group of the id", policyOf(policy.Rule{Groups: []string{"RG-*"}, Subscriptions: []string{"S1"}}), ask(nil), ""},
		{"unknown group permits nothing", policyOf(policy.Rule{Groups: []string{"*"}}), ask(func(a *access.Ask) { a.Terms.Targets = []access.Target{bare()} }), access.CodeDenied},
		{"unknown group forbids", policyOf(all, policy.Rule{Deny: true, Groups: []string{"rg-db"}}), ask(func(a *access.Ask) { a.Terms.Targets = []access.Target{bare()} }), access.CodeDenied},
		{"unknown subscription forbids", policyOf(all, policy.Rule{Deny: true, Subscriptions: []string{"s9"}}), ask(func(a *access.Ask) { a.Terms.Targets = []access.Target{bare()} }), access.CodeDenied},
		{"group given", policyOf(policy.Rule{Groups: []string{"rg-db"}, Subscriptions: []string{"s9"}}),
			ask(func(a *access.Ask) {
				a.Terms.Targets, a.Group, a.Subscription = []access.Target{bare()}, "rg-db", "S9"
			}), ""},
		{"person in other case", policyOf(policy.Rule{Requesters: []string{"ALICE"}}), ask(nil), ""},
		{"another person", policyOf(policy.Rule{Requesters: []string{"bob"}}), ask(nil), access.CodeDenied},
		{"one of two targets", policyOf(policy.Rule{VMs: []string{"web-*"}}), ask(func(a *access.Ask) {
			a.Terms.Targets = []access.Target{web, {VM: otherVM, Ports: access.Port(22), Protocol: access.TCP}}
		}), access.CodeDenied},
		{"four minutes", policyOf(all), ask(func(a *access.Ask) { a.Terms.Duration = access.MinDuration - 1 }), access.CodeInvalid},
		{"five minutes", policyOf(all), ask(func(a *access.Ask) { a.Terms.Duration = access.MinDuration }), ""},
		{"the default limit", policyOf(all), ask(func(a *access.Ask) { a.Terms.Duration = access.DefaultMaxDuration }), ""},
		{"over it", policyOf(all), ask(func(a *access.Ask) { a.Terms.Duration = access.DefaultMaxDuration + 1 }), access.CodeDenied},
		{"a total limits a first ask too", policyOf(policy.Rule{MaxTotal: access.Duration(2 * time.Hour)}), ask(func(a *access.Ask) { a.Terms.Duration = 3 * time.Hour }), access.CodeDenied},
		{"extension", policyOf(policy.Rule{MaxTotal: access.Duration(3 * time.Hour)}), ask(func(a *access.Ask) { a.Extension, a.Held = true, 2*time.Hour }), ""},
		{"extension too far", policyOf(policy.Rule{MaxTotal: access.Duration(3 * time.Hour)}), ask(func(a *access.Ask) { a.Extension, a.Held = true, 2*time.Hour+1 }), access.CodeDenied},
		{"extension by a wrap", policyOf(all), ask(func(a *access.Ask) { a.Extension, a.Held, a.Terms.Duration = true, time.Hour, 1<<63-1 }), access.CodeDenied},
		{"no reason", policyOf(all), ask(func(a *access.Ask) { a.Reason = "  " }), access.CodeInvalid},
		{"no reason needed", policyOf(policy.Rule{Reason: no()}), ask(func(a *access.Ask) { a.Reason = "" }), ""},
		{"long reason", policyOf(all), ask(func(a *access.Ask) { a.Reason = strings.Repeat("x", 501) }), access.CodeInvalid},
		{"reason that moves the cursor", policyOf(all), ask(func(a *access.Ask) { a.Reason = "INC-1\x1b[2Aapproved" }), access.CodeInvalid},
		{"reason written backwards", policyOf(all), ask(func(a *access.Ask) { a.Reason = "INC-1 \u202egnp.exe" }), access.CodeInvalid},
		{"reason that is no text", policyOf(all), ask(func(a *access.Ask) { a.Reason = "\xff" }), access.CodeInvalid},
		{"reason in two lines", policyOf(all), ask(func(a *access.Ask) { a.Reason = "INC-1:\r\nÜberlauf → disk" }), ""},
		{"no ticket", policyOf(policy.Rule{Ticket: required()}), ask(nil), access.CodeInvalid},
		{"ticket", policyOf(policy.Rule{Ticket: required()}), ask(func(a *access.Ask) { a.Ticket = "INC-1" }), ""},
		{"long ticket", policyOf(all), ask(func(a *access.Ask) { a.Ticket = strings.Repeat("x", 101) }), access.CodeInvalid},
		{"ticket with an escape", policyOf(all), ask(func(a *access.Ask) { a.Ticket = "\x1b" }), access.CodeInvalid},
		{"wide source", policyOf(all), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("198.51.100.0/31") }), access.CodeDenied},
		{"wide source allowed", policyOf(policy.Rule{WidestIPv4: 24}), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("198.51.100.0/24") }), ""},
		{"any source", policyOf(policy.Rule{WidestIPv4: 1}), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("0.0.0.0/0") }), access.CodeDenied},
		{"a network of IPv6", policyOf(all), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("2001:db8::/64") }), ""},
		{"a wider one", policyOf(all), ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("2001:db8::/63") }), access.CodeDenied},
		{"start an hour ago", policyOf(all), ask(func(a *access.Ask) { a.StartAt = t0.Add(-time.Hour) }), access.CodeInvalid},
		{"start now, by a slow clock", policyOf(all), ask(func(a *access.Ask) { a.StartAt = t0.Add(-time.Minute) }), ""},
		{"start in a month", policyOf(all), ask(func(a *access.Ask) { a.StartAt = t0.Add(access.DefaultMaxAhead) }), ""},
		{"start later", policyOf(all), ask(func(a *access.Ask) { a.StartAt = t0.Add(access.DefaultMaxAhead + 1) }), access.CodeDenied},
		{"start in the year 9999", policyOf(all), ask(func(a *access.Ask) { a.StartAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }), access.CodeDenied},
	} {
		_, err := compiled(t, c.policy).Decide(c.ask, t0)
		if access.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s), want %q", c.name, err, access.CodeOf(err), c.code)
		}
		if err != nil {
			wellSaid(t, err)
		}
	}
}

// bare is a target whose id does not say where it is.
func bare() access.Target {
	b := web
	b.VM.ID = "web-01"
	return b
}

func TestPolicyValidate(t *testing.T) {
	good := policy.Rule{Name: "a", VMs: []string{"web-*"}, Ports: []access.Ports{access.Port(22)}, Sources: []netip.Prefix{home}, MaxDuration: access.Duration(time.Hour),
		MaxTotal: access.Duration(2 * time.Hour), Approvals: 2, Approvers: []string{"bob", "carol"}}
	if err := policyOf(good, policy.Rule{}).Validate(); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]func(*policy.Rule){
		"has no name":                  func(r *policy.Rule) { r.Name = "" },
		"used twice":                   func(r *policy.Rule) { r.Name = "other" },
		"pattern \"[\" is malformed":   func(r *policy.Rule) { r.VMs = []string{"["} },
		"pattern \"a[\" is malformed":  func(r *policy.Rule) { r.Groups = []string{"a["} },
		"empty entry":                  func(r *policy.Rule) { r.Requesters = []string{"bob", " "} },
		"port 0 is not a port":         func(r *policy.Rule) { r.Ports = []access.Ports{{}} },
		"is not a prefix":              func(r *policy.Rule) { r.Sources = []netip.Prefix{{}} },
		"198.51.100.7/24 is not":       func(r *policy.Rule) { r.Sources = []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24")} },
		"duration 4m is not between":   func(r *policy.Rule) { r.MaxDuration = access.Duration(4 * time.Minute) },
		"duration 25h is not between":  func(r *policy.Rule) { r.MaxTotal = access.Duration(25 * time.Hour) },
		"max_total 30m is less":        func(r *policy.Rule) { r.MaxTotal = access.Duration(30 * time.Minute) },
		"can never be had":             func(r *policy.Rule) { r.Approvers = []string{"bob", "Bob "} },
		"33 is out of range":           func(r *policy.Rule) { r.WidestIPv4 = 33 },
		"out of range":                 func(r *policy.Rule) { r.MaxAhead = -1 },
		"approvals 11 is out of range": func(r *policy.Rule) { r.Approvers, r.Approvals = nil, 11 },
	} {
		r := good
		f(&r)
		err := (policy.Document{Rules: []policy.Rule{{Name: "other"}, r}}).Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		} else {
			wellSaid(t, err)
		}
	}
	err := policyOf(policy.Rule{WidestIPv6: 129, Ports: []access.Ports{{}}}, policy.Rule{Name: "b", VMs: []string{""}}).Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("%v: three faults should be reported at once", err)
	}
}

// The universe of the dumb evaluator is small enough to be looked at point by point.
var (
	uVMs      = []access.VM{web.VM, otherVM, {ID: "/subscriptions/s2/resourceGroups/rg-web/providers/Microsoft.Compute/virtualMachines/web-02", Name: "Web-02", VMID: "v3"}}
	uPeople   = []string{"alice", "bob", "carol", "dora"}
	uGlobs    = map[string][]string{"*": {"web-01", "db-01", "Web-02"}, "web-*": {"web-01", "Web-02"}, "DB-0?": {"db-01"}, "web-[1-9]1": nil, "web-01": {"web-01"}}
	uGroups   = map[string][]string{"rg-*": {"rg-web", "rg-db"}, "RG-WEB": {"rg-web"}, "rg-db": {"rg-db"}}
	uPrefixes = []string{"198.51.100.0/28", "198.51.100.0/29", "198.51.100.4/30", "198.51.100.6/31", "198.51.100.7/32", "198.51.100.8/29", "0.0.0.0/0"}
)

func someOf[T any](t *rapid.T, label string, from []T) []T {
	if rapid.IntRange(0, 4).Draw(t, label+"?") != 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.SampledFrom(from), 1, 2).Draw(t, label)
}

func keys(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func drawRule(t *rapid.T) policy.Rule {
	r := policy.Rule{Deny: rapid.IntRange(0, 9).Draw(t, "deny") == 0,
		VMs: someOf(t, "vms", keys(uGlobs)), Groups: someOf(t, "groups", keys(uGroups)), Subscriptions: someOf(t, "subscriptions", []string{"S1", "s2"}),
		Requesters: someOf(t, "requesters", uPeople), Approvers: someOf(t, "approvers", uPeople),
		Ports:       someOf(t, "ports", []access.Ports{access.Port(22), access.Port(23), {First: 22, Last: 24}, {First: 20, Last: 22}}),
		MaxDuration: access.Duration(rapid.SampledFrom([]time.Duration{0, time.Hour, 2 * time.Hour, 12 * time.Hour}).Draw(t, "max")),
		MaxTotal:    access.Duration(rapid.SampledFrom([]time.Duration{0, 2 * time.Hour, 24 * time.Hour}).Draw(t, "total")),
		MaxAhead:    access.Duration(rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "ahead")),
		WidestIPv4:  rapid.SampledFrom([]int{0, 28, 30}).Draw(t, "widest"), Approvals: rapid.IntRange(0, 3).Draw(t, "approvals"),
		Ticket: &policy.Text{Required: rapid.IntRange(0, 6).Draw(t, "ticket") == 0}}
	distinct := len(slices.Compact(slices.Sorted(slices.Values(r.Approvers))))
	if distinct > 0 { // more can never be had, and New refuses it
		r.Approvals = min(r.Approvals, distinct)
	}
	if r.MaxTotal != 0 {
		r.MaxTotal = max(r.MaxTotal, r.MaxDuration)
	}
	for _, s := range someOf(t, "sources", uPrefixes) {
		r.Sources = append(r.Sources, netip.MustParsePrefix(s))
	}
	if rapid.Bool().Draw(t, "reason is free") {
		r.Reason = no()
	}
	return r
}

// addresses lists the addresses of a prefix that the universe has: those of 198.51.100.0/28, and one that stands for the rest.
func addresses(p netip.Prefix) map[netip.Addr]bool {
	m := map[netip.Addr]bool{}
	for i := range byte(16) {
		if a := netip.AddrFrom4([4]byte{198, 51, 100, i}); p.Contains(a) {
			m[a] = true
		}
	}
	if rest := netip.MustParseAddr("203.0.113.1"); p.Contains(rest) {
		m[rest] = true
	}
	return m
}

// dumbMatch looks at the rule point by point, every address, every port: whether it holds for all of what is asked, and for any.
func dumbMatch(r policy.Rule, a access.Ask, tg access.Target) (allOf, anyOf bool) {
	listed := func(list []string, m map[string][]string, s string) bool {
		ok := len(list) == 0
		for _, g := range list {
			ok = ok || slices.Contains(m[g], s)
		}
		return ok
	}
	group, sub := "rg-web", "s1"
	if tg.VM.Name == "db-01" {
		group = "rg-db"
	}
	if tg.VM.Name == "Web-02" {
		sub = "s2"
	}
	subOK := len(r.Subscriptions) == 0
	for _, s := range r.Subscriptions {
		subOK = subOK || strings.ToLower(s) == sub
	}
	if !listed(r.VMs, uGlobs, tg.VM.Name) || !listed(r.Groups, uGroups, group) || !subOK ||
		len(r.Requesters) > 0 && !slices.Contains(r.Requesters, a.Requester) {
		return false, false
	}
	one := func(in func(i int) (all, any bool), n int) (whole, part bool) { // some entry holds all of it, or any of it
		whole, part = n == 0, n == 0
		for i := range n {
			all, any := in(i)
			whole, part = whole || all, part || any
		}
		return whole, part
	}
	allPorts, anyPort := one(func(i int) (bool, bool) {
		all, any := true, false
		for p := tg.Ports.First; p <= tg.Ports.Last; p++ {
			in := p >= r.Ports[i].First && p <= r.Ports[i].Last
			all, any = all && in, any || in
		}
		return all, any
	}, len(r.Ports))
	allSources, anySource := one(func(i int) (bool, bool) {
		all, any := true, false
		in := addresses(r.Sources[i])
		for x := range addresses(a.Terms.Source) {
			all, any = all && in[x], any || in[x]
		}
		return all, any
	}, len(r.Sources))
	return allPorts && allSources, anyPort && anySource
}

// dumbAllows says whether one rule, were it the only one that matches, would allow the ask.
func dumbAllows(r policy.Rule, a access.Ask, now time.Time) bool {
	or := func(d access.Duration, def time.Duration) time.Duration {
		if d == 0 {
			return def
		}
		return time.Duration(d)
	}
	first := or(r.MaxDuration, 8*time.Hour)
	total := or(r.MaxTotal, first)
	widest := r.WidestIPv4
	if widest == 0 {
		widest = 32
	}
	switch {
	case a.Extension && a.Held+a.Terms.Duration > total, !a.Extension && a.Terms.Duration > min(first, total),
		a.Terms.Duration < 5*time.Minute, a.Terms.Source.Bits() < widest,
		(r.Reason == nil || r.Reason.Required) && a.Reason == "", r.Ticket.Required && a.Ticket == "",
		!a.StartAt.IsZero() && a.StartAt.Sub(now) > or(r.MaxAhead, 30*24*time.Hour):
		return false
	}
	return true
}

// P6: of several matching rules the strictest wins, a prohibition beats all, nothing is denied: random policies against an
// evaluator that asks each matching rule by itself.
func TestPolicyAgainstDumb(t *testing.T) {
	allowed, denied := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := policyOf(rapid.SliceOfN(rapid.Custom(drawRule), 0, 6).Draw(t, "rules")...)
		a := access.Ask{Requester: rapid.SampledFrom(uPeople).Draw(t, "requester"), Reason: rapid.SampledFrom([]string{"INC-1", "INC-2", ""}).Draw(t, "reason"),
			Ticket: rapid.SampledFrom([]string{"INC-1", "INC-2", ""}).Draw(t, "ticket")}
		a.Terms.Source = netip.MustParsePrefix(rapid.SampledFrom([]string{"198.51.100.7/32", "198.51.100.9/32", "198.51.100.5/32", "198.51.100.6/31", "198.51.100.0/29"}).Draw(t, "source"))
		a.Terms.Duration = time.Duration(rapid.SampledFrom([]int{5, 60, 60, 61, 120, 180, 480, 481, 4, 1441}).Draw(t, "minutes")) * time.Minute
		for _, vm := range rapid.SliceOfNDistinct(rapid.SampledFrom(uVMs), 1, 2, func(v access.VM) string { return v.ID }).Draw(t, "vms") {
			first := rapid.Uint16Range(20, 25).Draw(t, "port")
			a.Terms.Targets = append(a.Terms.Targets, access.Target{VM: vm, Ports: access.Ports{First: first, Last: first + rapid.Uint16Range(0, 2).Draw(t, "more")}, Protocol: access.TCP})
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			a.Extension, a.Held = true, time.Duration(rapid.SampledFrom([]int{5, 60, 1380}).Draw(t, "held"))*time.Minute
		case 1:
			a.StartAt = t0.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "ahead")) * time.Minute)
		}

		ok, approvals := true, 1
		approvers := map[string]bool{}
		var names []string
		var needs []policy.Rule
		for _, tg := range a.Terms.Targets {
			n := 0
			for _, r := range p.Rules {
				whole, part := dumbMatch(r, a, tg)
				if !part {
					continue
				}
				if whole && !r.Deny {
					n++
				}
				ok = ok && !r.Deny && dumbAllows(r, a, t0)
				approvals = max(approvals, r.Approvals)
				needs = append(needs, r)
				if !slices.Contains(names, r.Name) {
					names = append(names, r.Name)
				}
			}
			ok = ok && n > 0
		}
		l, err := compiled(t, p).Decide(a, t0)
		if (err == nil) != ok {
			t.Fatalf("%v; by the dumb evaluator it is allowed: %v", err, ok)
		}
		if err != nil {
			denied++
			return
		}
		allowed++
		slices.Sort(names)
		got := slices.Sorted(slices.Values(l.Rules))
		if l.Approvals() != approvals || !slices.Equal(got, names) {
			t.Fatalf("%d approvals by rules %v, want %d by %v", l.Approvals(), l.Rules, approvals, names)
		}
		for _, r := range needs { // whom a rule names serves it; whom none names does where no list asks for as many
			for _, who := range uPeople {
				approvers[who] = approvers[who] || slices.Contains(r.Approvers, who) || len(r.Approvers) == 0 && !slices.ContainsFunc(needs, func(o policy.Rule) bool {
					return len(o.Approvers) > 0 && max(o.Approvals, 1) >= max(r.Approvals, 1)
				})
			}
		}
		for _, who := range uPeople {
			if got := l.MayApprove(access.Authority{Name: who}, t0, t0); got != approvers[who] {
				t.Fatalf("%s may approve: %v, want %v (%v)", who, got, approvers[who], l.Needs)
			}
		}
		// One rule more never allows more.
		more := policyOf(append(slices.Clone(p.Rules), rapid.Custom(drawRule).Draw(t, "one more"))...)
		if l2, err := compiled(t, more).Decide(a, t0); err == nil && (l2.MaxDuration > l.MaxDuration || l2.MaxTotal > l.MaxTotal || l2.MaxAhead > l.MaxAhead || l2.WidestIPv4 < l.WidestIPv4 ||
			l2.Approvals() < l.Approvals() || l.Reason && !l2.Reason || l.Ticket && !l2.Ticket) {
			t.Fatalf("one rule more loosens %+v to %+v", l, l2)
		}
	})
	if allowed == 0 || denied == 0 {
		t.Errorf("%d allowed, %d denied: the generator shows only one side", allowed, denied)
	}
	t.Logf("%d allowed, %d denied", allowed, denied)
}

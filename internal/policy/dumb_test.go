package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// The whole of a rule against an evaluator that looks at every port and every minute, and knows three answers.

type answer int

const (
	never answer = iota
	partly
	entire
)

// conditions are texts with what they mean.
var conditions = map[string]func(access.Ask, access.Target, time.Time) answer{
	"": nil,
	"request.duration <= duration('30m')": func(a access.Ask, _ access.Target, _ time.Time) answer {
		return truth(a.Terms.Duration <= 30*time.Minute)
	},
	"'dba' in requester.groups": func(a access.Ask, _ access.Target, _ time.Time) answer { return truth(inGroup(a, "dba")) },
	"22 in request.ports": func(_ access.Ask, t access.Target, _ time.Time) answer {
		return truth(t.Ports.First <= 22 && 22 <= t.Ports.Last)
	},
	"request.break_glass || !request.extension": func(a access.Ask, _ access.Target, _ time.Time) answer { return truth(a.BreakGlass || !a.Extension) },
	"target.tags['env'] == 'prod'": func(a access.Ask, _ access.Target, _ time.Time) answer {
		if v, ok := a.Tags["env"]; ok {
			return truth(v == "prod")
		}
		return partly // cannot be judged
	},
	"now.getHours() < 12": func(_ access.Ask, _ access.Target, now time.Time) answer { return truth(now.UTC().Hour() < 12) },
}

func truth(b bool) answer {
	if b {
		return entire
	}
	return never
}

// dumbGroups are who is in which group, whatever else a request says.
var dumbGroups = map[string][]string{"dba": {"bob", "carol"}, "leads": {"carol"}, "all": {"bob", "carol", "dora"}}

var dumbGroupDocs = map[string]policy.Group{"dba": {Members: []string{"Bob"}, Includes: []string{"leads"}}, "leads": {Members: []string{"carol"}}, "all": {Members: []string{"dora"}, Includes: []string{"DBA"}}}

func inGroup(a access.Ask, g string) bool {
	if slices.Contains(dumbGroups[g], a.Requester) {
		return true
	}
	for _, said := range a.Groups { // what is in dba or leads is in what includes them
		switch strings.ToLower(said) {
		case g:
			return true
		case "dba":
			return g == "all" || g == "dba"
		case "leads":
			return g != "none"
		}
	}
	return false
}

func dumbListed(a access.Ask, list []string) bool {
	for _, n := range list {
		if g, ok := strings.CutPrefix(n, "group:"); ok && inGroup(a, g) || strings.EqualFold(n, a.Requester) {
			return true
		}
	}
	return false
}

// dumbScope judges one scope.
func dumbScope(r policy.Rule, a access.Ask, t access.Target) answer {
	if len(r.VMs) > 0 && !slices.ContainsFunc(r.VMs, func(g string) bool { return slices.Contains(uGlobs[g], t.VM.Name) }) {
		return never
	}
	if len(r.Tags) == 0 {
		return entire
	}
	if a.Tags == nil {
		return partly
	}
	for k, vs := range r.Tags {
		if have, ok := a.Tags[k]; !ok || !slices.ContainsFunc(vs, func(v string) bool { return v == "*" || v == have }) {
			return never
		}
	}
	return entire
}

// dumbTime looks at every minute.
func dumbTime(r policy.Rule, start, end time.Time) answer {
	if len(r.Windows) == 0 {
		return entire
	}
	all, some := true, false
	for at := start; at.Before(end); at = at.Add(time.Minute) {
		in := slices.ContainsFunc(r.Windows, func(w policy.Window) bool { return dumbWindow(w, at) })
		all, some = all && in, some || in
	}
	if some && !all {
		return partly
	}
	return truth(all)
}

// dumbWindow tells by the clock on the wall whether a minute is in a window.
func dumbWindow(w policy.Window, at time.Time) bool {
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		return false
	}
	local := at.In(zone)
	wall := local.Format("15:04")
	days := w.Days
	on := func(t time.Time) bool {
		return len(days) == 0 || slices.Contains(days, strings.ToLower(t.Weekday().String()[:3]))
	}
	y, m, d := local.Date()
	today, yesterday := time.Date(y, m, d, 12, 0, 0, 0, time.UTC), time.Date(y, m, d-1, 12, 0, 0, 0, time.UTC)
	if w.From < w.To {
		return on(today) && w.From <= wall && wall < w.To
	}
	return on(today) && wall >= w.From || on(yesterday) && wall < w.To
}

// dumbBears judges a rule without its scope.
func dumbBears(r policy.Rule, a access.Ask, t access.Target, now time.Time) answer {
	glass := a.BreakGlass && !r.Deny
	switch {
	case r.Protocol != "" && r.Protocol != t.Protocol:
		return never
	case glass && (r.BreakGlass == nil || !dumbListed(a, r.BreakGlass.Requesters)), !glass && len(r.Requesters) > 0 && !dumbListed(a, r.Requesters):
		return never
	}
	v := entire
	if len(r.Ports) > 0 {
		best := never
		for _, q := range r.Ports {
			all, some := true, false
			for p := t.Ports.First; p <= t.Ports.Last; p++ {
				in := p >= q.First && p <= q.Last
				all, some = all && in, some || in
			}
			if all {
				best = entire
			} else if some {
				best = max(best, partly)
			}
		}
		v = min(v, best)
	}
	if !glass {
		start := a.StartAt
		if start.Before(now) {
			start = now
		}
		v = min(v, dumbTime(r, start, start.Add(a.Terms.Duration)))
	}
	if f := conditions[r.When]; f != nil && v > never {
		v = min(v, f(a, t, now))
	}
	return v
}

// dumbVerdict is what the rules say of a target: denied, or which bear on it, and which of those approve by themselves.
func dumbVerdict(rules []policy.Rule, a access.Ask, t access.Target, now time.Time) (ok bool, bears []policy.Rule, auto map[string]bool) {
	denied, permitted := false, false
	auto = map[string]bool{}
	var walk func(rules []policy.Rule, around answer)
	walk = func(rules []policy.Rule, around answer) {
		for _, r := range rules {
			scope := min(around, dumbScope(r, a, t))
			if scope == never {
				continue
			}
			if b := dumbBears(r, a, t, now); b > never {
				all := b == entire && scope == entire
				if r.Deny {
					denied = true
				} else {
					permitted = permitted || all
					bears = append(bears, r)
					if u := r.AutoApprove; u != nil && all && !a.BreakGlass && a.Terms.Duration <= time.Duration(u.MaxDuration) &&
						(conditions[u.When] == nil || conditions[u.When](a, t, now) == entire) {
						auto[r.Name] = true
					}
				}
			}
			walk(r.Rules, scope)
		}
	}
	walk(rules, entire)
	return permitted && !denied, bears, auto
}

func conditionText(t *rapid.T, label string) string {
	if rapid.IntRange(0, 2).Draw(t, label+"?") != 0 {
		return ""
	}
	var all []string
	for k := range conditions {
		all = append(all, k)
	}
	slices.Sort(all)
	return rapid.SampledFrom(all).Draw(t, label)
}

var dumbWindows = []policy.Window{{From: "08:00", To: "12:00", Zone: "UTC"}, {From: "12:00", To: "13:30", Zone: "UTC"}, {Days: []string{"wed"}, From: "09:00", To: "23:00", Zone: "Asia/Kathmandu"},
	{Days: []string{"tue"}, From: "22:00", To: "10:00", Zone: "America/New_York"}, {From: "00:00", To: "24:00", Zone: "Europe/Berlin", Days: []string{"wed"}}}

func drawWhole(t *rapid.T, name string, depth int) policy.Rule {
	draw := func(label string, n int) bool { return rapid.IntRange(0, n).Draw(t, label) == 0 }
	who := []string{"alice", "BOB", "group:dba", "group:all", "group:leads"}
	r := policy.Rule{Name: name, Deny: draw("deny", 7), VMs: someOf(t, "vms", keys(uGlobs)), Requesters: someOf(t, "requesters", who), When: conditionText(t, "when"),
		Ports: someOf(t, "ports", []access.Ports{access.Port(22), {First: 22, Last: 24}, {First: 20, Last: 22}}), Reason: no()}
	if draw("tags", 3) {
		r.Tags = map[string]policy.List{"env": rapid.SampledFrom([]policy.List{{"prod"}, {"*"}, {"test", "prod"}}).Draw(t, "env")}
	}
	if draw("protocol", 5) {
		r.Protocol = rapid.SampledFrom([]access.Protocol{access.TCP, access.UDP}).Draw(t, "which")
	}
	for _, i := range someOf(t, "windows", []int{0, 1, 2, 3, 4}) {
		r.Windows = append(r.Windows, dumbWindows[i])
	}
	if !r.Deny {
		r.MaxDuration = access.Duration(rapid.SampledFrom([]time.Duration{0, time.Hour, 4 * time.Hour}).Draw(t, "max"))
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 0:
			r.Steps = []policy.Step{{Approvers: []string{"group:leads"}}, {Approvers: []string{"bob", "dora"}, Count: rapid.IntRange(1, 2).Draw(t, "count")}}
			r.InOrder = rapid.Bool().Draw(t, "in order")
		case 1:
			r.Approvals = rapid.IntRange(1, 3).Draw(t, "approvals")
		}
		if draw("auto", 3) {
			r.AutoApprove = &policy.AutoApprove{When: conditionText(t, "auto when"), MaxDuration: access.Duration(rapid.SampledFrom([]time.Duration{30 * time.Minute, 2 * time.Hour}).Draw(t, "cap"))}
		}
		if draw("glass", 2) {
			r.BreakGlass = &policy.BreakGlass{Requesters: rapid.SliceOfN(rapid.SampledFrom(who), 1, 2).Draw(t, "breaks"), Reason: no(),
				MaxDuration: access.Duration(rapid.SampledFrom([]time.Duration{30 * time.Minute, 2 * time.Hour}).Draw(t, "glass for"))}
		}
	}
	if depth < 2 && draw("nested", 3) {
		for i := range rapid.IntRange(1, 2).Draw(t, "inner") {
			r.Rules = append(r.Rules, drawWhole(t, fmt.Sprintf("%s.%d", name, i), depth+1))
		}
	}
	return r
}

func drawRules(t *rapid.T, prefix string, n int) (out []policy.Rule) {
	for i := range n {
		out = append(out, drawWhole(t, fmt.Sprint(prefix, i), 0))
	}
	return out
}

func drawAsk(t *rapid.T) (access.Ask, time.Time) {
	now := time.Date(2026, 6, 10, rapid.IntRange(0, 23).Draw(t, "hour"), 10*rapid.IntRange(0, 5).Draw(t, "minute"), 0, 0, time.UTC) // a Wednesday
	a := access.Ask{Requester: rapid.SampledFrom(uPeople).Draw(t, "requester"), BreakGlass: rapid.IntRange(0, 3).Draw(t, "glass") == 0}
	a.Groups = rapid.SampledFrom([][]string{nil, nil, {"DBA"}, {"leads"}, {"nonsense"}}).Draw(t, "groups")
	a.Tags = rapid.SampledFrom([]map[string]string{nil, {}, {"env": "prod"}, {"env": "test"}, {"env": "lab"}}).Draw(t, "tags")
	first := rapid.Uint16Range(20, 25).Draw(t, "port")
	a.Terms = access.Terms{Source: home, Duration: time.Duration(rapid.SampledFrom([]int{10, 30, 40, 60, 120, 180}).Draw(t, "minutes")) * time.Minute,
		Targets: []access.Target{{VM: rapid.SampledFrom(uVMs).Draw(t, "vm"), Ports: access.Ports{First: first, Last: first + rapid.Uint16Range(0, 2).Draw(t, "more")}, Protocol: access.TCP}}}
	if !a.BreakGlass && rapid.IntRange(0, 3).Draw(t, "later") == 0 {
		a.StartAt = now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "in")) * 10 * time.Minute)
	}
	return a, now
}

// P6: every feature of a rule against the dumb evaluator; and one rule more never loosens.
func TestWholeRulesAgainstDumb(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		d := policy.Document{Groups: dumbGroupDocs, Rules: drawRules(t, "r", rapid.IntRange(1, 4).Draw(t, "n"))}
		s := compiled(t, d)
		a, now := drawAsk(t)
		target := a.Terms.Targets[0]
		ok, bears, auto := dumbVerdict(d.Rules, a, target, now)
		longest := 24 * time.Hour
		names := []string{}
		people := 0
		for _, r := range bears {
			names = append(names, r.Name)
			limit := time.Duration(r.MaxDuration)
			if limit == 0 {
				limit = access.DefaultMaxDuration
			}
			if a.BreakGlass {
				limit = time.Duration(r.BreakGlass.MaxDuration)
			}
			longest = min(longest, limit)
			n := max(r.Approvals, 1)
			if len(r.Steps) > 0 {
				n = 0
				for _, st := range r.Steps {
					n += max(st.Count, 1)
				}
			}
			if !auto[r.Name] && !a.BreakGlass {
				people = max(people, n)
			}
		}
		ok = ok && a.Terms.Duration <= longest
		l, err := s.Decide(a, now)
		if (err == nil) != ok {
			t.Fatalf("%v; by the dumb evaluator it is allowed: %v (%v)", err, ok, names)
		}
		if err != nil {
			seen["denied"]++
			return
		}
		if got := slices.Clone(l.Rules); !equalSets(got, names) {
			t.Fatalf("rules %v, want %v", got, names)
		}
		if l.MaxDuration != longest || l.Approvals() != people || len(l.Needs) == 0 && people > 0 {
			t.Fatalf("%s and %d people, want %s and %d", l.MaxDuration, l.Approvals(), longest, people)
		}
		for name := range auto {
			if !slices.Contains(l.Auto, name) {
				t.Fatalf("%s approves by itself, and is not named: %v", name, l.Auto)
			}
		}
		switch {
		case a.BreakGlass && (len(l.Needs) > 0 || len(l.Auto) > 0):
			t.Fatalf("break-glass needs somebody: %+v", l)
		case len(l.Auto) != len(auto):
			t.Fatalf("%v approve by themselves, want %v", l.Auto, auto)
		case a.BreakGlass:
			seen["break-glass"]++
		case len(l.Needs) == 0:
			seen["auto"]++
		default:
			seen["allowed"]++
		}
		more := d
		more.Rules = append(slices.Clone(d.Rules), drawWhole(t, "more", 0))
		if l2, err := compiled(t, more).Decide(a, now); err == nil && (l2.MaxDuration > l.MaxDuration || l2.Approvals() < l.Approvals() || len(l.Needs) > 0 && len(l2.Needs) == 0) {
			t.Fatalf("one rule more loosens %+v to %+v", l, l2)
		}
	})
	for _, k := range []string{"denied", "allowed"} {
		if seen[k] == 0 {
			t.Errorf("never %s: %v", k, seen)
		}
	}
	t.Log(seen)
}

func equalSets(a, b []string) bool {
	return len(without(a, b)) == 0 && len(without(b, a)) == 0
}

func without(a, b []string) (out []string) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}

// Windows against the clock on the wall, minute by minute, over days on which clocks change: a window that permits never holds a minute
// that the wall does not, and one that denies holds every minute that the wall does; on other days both are the wall's.
func TestWindowsAgainstTheWall(t *testing.T) {
	times := []string{"00:00", "01:30", "02:00", "02:15", "02:30", "03:00", "03:30", "08:00", "23:30"}
	rapid.Check(t, func(t *rapid.T) {
		w := policy.Window{Zone: rapid.SampledFrom([]string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "UTC"}).Draw(t, "zone"),
			From: rapid.SampledFrom(times).Draw(t, "from"), To: rapid.SampledFrom(append(times[1:], "24:00")).Draw(t, "to")}
		if rapid.Bool().Draw(t, "days?") {
			w.Days = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"mon", "sat", "sun", "fri", "thu"}), 1, 3, rapid.ID[string]).Draw(t, "days")
		}
		zone, err := time.LoadLocation(w.Zone)
		if err != nil {
			t.Fatal(err)
		}
		day := rapid.SampledFrom([]time.Time{time.Date(2026, 3, 29, 0, 0, 0, 0, zone), time.Date(2026, 10, 25, 0, 0, 0, 0, zone), time.Date(2026, 3, 8, 0, 0, 0, 0, zone),
			time.Date(2026, 11, 1, 0, 0, 0, 0, zone), time.Date(2026, 4, 5, 0, 0, 0, 0, zone), time.Date(2026, 10, 4, 0, 0, 0, 0, zone), time.Date(2026, 4, 24, 0, 0, 0, 0, zone),
			time.Date(2026, 6, 10, 0, 0, 0, 0, zone)}).Draw(t, "day")
		start := day.Add(time.Duration(rapid.IntRange(-8*12, 30*12).Draw(t, "start")) * 5 * time.Minute)
		end := start.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "for")) * 5 * time.Minute)
		wall := dumbTime(policy.Rule{Windows: []policy.Window{w}}, start, end)
		a := ask(func(a *access.Ask) { a.Terms.Duration = end.Sub(start) })
		_, err = compiled(t, policyOf(policy.Rule{Windows: []policy.Window{w}})).Decide(a, start)
		permits := err == nil
		_, err = compiled(t, policyOf(policy.Rule{}, policy.Rule{Deny: true, Windows: []policy.Window{w}})).Decide(a, start)
		denies := err != nil
		if permits && wall != entire || wall != never && !denies {
			t.Fatalf("%s: %s to %s: permits %v, denies %v, by the wall %d", w, start.In(zone), end.In(zone), permits, denies, wall)
		}
		_, first := start.Add(-30 * time.Hour).In(zone).Zone()
		_, last := end.Add(30 * time.Hour).In(zone).Zone()
		if first == last && (permits != (wall == entire) || denies != (wall != never)) {
			t.Fatalf("%s: %s to %s: permits %v, denies %v, by the wall %d, and no clock changes", w, start.In(zone), end.In(zone), permits, denies, wall)
		}
	})
}

// Ten thousand rules are loaded and decided by in reasonable time, and so is what costs most: all in scope with a condition each.
func TestTenThousandRules(t *testing.T) {
	d := large(10_000)
	text, err := d.Print()
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.Load(text, "large.yaml")
	if err != nil || s.Count() != 10_000 {
		t.Fatal(err)
	}
	if l, err := s.Decide(largeAsk(), t0); err != nil || len(l.Rules) != 5 {
		t.Errorf("%+v, %v", l, err)
	}
	policy.Lint(d, policy.Estate{})
	d.Rules = slices.Clone(d.Rules)
	d.Rules[7].MaxDuration = access.Duration(time.Hour)
	changes := policy.Diff(s, compiled(t, d), t0)
	if !slices.ContainsFunc(changes, func(c policy.Change) bool { return c.About == "rule team-7" && c.Text == "longest access: 1h, was 2h" }) {
		t.Errorf("the change is not among %d", len(changes))
	}
	a := largeAsk()
	a.Requester, a.Terms.Source = "nobody", netip.MustParsePrefix("203.0.113.1/32")
	if _, err := s.Decide(a, t0); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("%v", err)
	}
}

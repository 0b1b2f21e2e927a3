package triage_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/triage"
)

const (
	subA = "5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01"
	subB = "c2d94b77-83a5-4f7e-a0d6-2e9a5b8f4c02"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// vm is a failure of vm-management-port-exposed; options change it.
func vm(sub, group, name string, options ...func(*scan.Finding)) scan.Finding {
	f := scan.Finding{Rule: scan.VMPortExposed, Status: scan.Fail, Severity: scan.High, Exposure: scan.ExposedInternet, Name: name, Subscription: sub, Group: group,
		Resource: "/subscriptions/" + sub + "/resourceGroups/" + group + "/providers/Microsoft.Compute/virtualMachines/" + name, Tags: map[string]string{},
		Evidence: scan.Evidence{Ports: []scan.PortEvidence{{Port: 22, Protocol: "Tcp", Exposure: scan.ExposedInternet}}}}
	for _, o := range options {
		o(&f)
	}
	return f
}

func rule(r scan.RuleID) func(*scan.Finding)      { return func(f *scan.Finding) { f.Rule = r } }
func status(s scan.Status) func(*scan.Finding)    { return func(f *scan.Finding) { f.Status = s } }
func severe(s scan.Severity) func(*scan.Finding)  { return func(f *scan.Finding) { f.Severity = s } }
func exposed(e scan.Exposure) func(*scan.Finding) { return func(f *scan.Finding) { f.Exposure = e } }
func tags(kv ...string) func(*scan.Finding) {
	return func(f *scan.Finding) {
		for i := 0; i < len(kv); i += 2 {
			f.Tags[kv[i]] = kv[i+1]
		}
	}
}
func unread(f *scan.Finding) { f.Status, f.Tags = scan.Unknown, nil }
func ports(p ...scan.PortEvidence) func(*scan.Finding) {
	return func(f *scan.Finding) { f.Evidence.Ports = p }
}
func groupRules(names ...string) func(*scan.Finding) {
	return func(f *scan.Finding) {
		for _, n := range names {
			f.Evidence.Rules = append(f.Evidence.Rules, scan.RuleEvidence{NSG: "/nsg", Rule: n})
		}
	}
}

func TestGlob(t *testing.T) {
	const id = "/subscriptions/s/resourceGroups/Lab/providers/Microsoft.Compute/virtualMachines/web-01"
	for _, c := range []struct {
		pattern string
		want    bool
	}{
		{id, true},
		{strings.ToUpper(id), true},
		{id + "x", false},
		{"/subscriptions/s", false},
		{"/subscriptions/s/*", true},
		{"*/resourcegroups/lab/*", true},
		{"*/resourceGroups/la/*", false},
		{"*/resourceGroups/*/virtualMachines/web-*", true}, // over segments
		{"/subscriptions/*/web-0*", true},
		{"/*/*/*/*/*/*/*/*/*", false}, // one slash too many
		{"web-01", true},
		{"WEB-*", true},
		{"web-", false},
		{"*01", true},
		{"w*b*0*1", true},
		{"w*b*1*0*", false},
		{"**web**", true},
		{"web-01*web-01", false}, // the two ends must not overlap
		{"*", true},
		{"", false},
		{"web-??", false},
		{"web-[0-9]1", false},
	} {
		if got := triage.NewGlob(c.pattern).Match(id, "web-01"); got != c.want {
			t.Errorf("%q: got %t, want %t", c.pattern, got, c.want)
		}
	}
	// A pattern made to send a matcher back and forth ends at once.
	if triage.NewGlob(strings.Repeat("a*", 20000)+"b").Match("", strings.Repeat("a", 200000)) {
		t.Error("matched")
	}
}

func TestThreshold(t *testing.T) {
	unknownLow := vm(subA, "g", "u", status(scan.Unknown), severe(scan.Low))
	suppressed := vm(subA, "g", "s", severe(scan.Critical), func(f *scan.Finding) { f.Suppressed = &scan.Suppression{} })
	known := vm(subA, "g", "k", severe(scan.Critical), func(f *scan.Finding) { f.Known = true })
	for _, c := range []struct {
		name, at string
		findings []scan.Finding
		want     bool
	}{
		{"nothing", "low", nil, false},
		{"equal", "high", []scan.Finding{vm(subA, "g", "a")}, true},
		{"worse", "medium", []scan.Finding{vm(subA, "g", "a")}, true},
		{"less", "critical", []scan.Finding{vm(subA, "g", "a")}, false},
		{"none never", "none", []scan.Finding{vm(subA, "g", "a", severe(scan.Critical))}, false},
		{"a pass has a severity and does not count", "low", []scan.Finding{vm(subA, "g", "a", status(scan.Pass)), vm(subA, "g", "b", status(scan.NotApplicable))}, false},
		{"P10 unknown counts", "low", []scan.Finding{unknownLow}, true},
		{"unknown below", "medium", []scan.Finding{unknownLow}, false},
		{"suppressed and known", "low", []scan.Finding{suppressed, known}, false},
		{"a severity of another version counts", "critical", []scan.Finding{vm(subA, "g", "a", severe("catastrophic"))}, true},
	} {
		th, err := triage.ParseThreshold(c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := th.Fails(c.findings); got != c.want || th.String() != c.at {
			t.Errorf("%s: got %t at %s, want %t at %s", c.name, got, th, c.want, c.at)
		}
	}
	for _, bad := range []string{"", "HIGH", "any", "high+", "3"} {
		if _, err := triage.ParseThreshold(bad); err == nil || !strings.Contains(err.Error(), "critical, high, medium, low or none") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if (triage.Threshold{}).Fails([]scan.Finding{vm(subA, "g", "a")}) {
		t.Error("the zero threshold fails a run")
	}
}

func TestFilter(t *testing.T) {
	all := []scan.Finding{
		vm(subA, "Shop", "web-01", tags("Env", "prod", "team", "a")),
		vm(subA, "shop", "web-02", tags("env", "test"), severe(scan.Critical)),
		vm(subB, "lab", "db-01", rule(scan.VMNoNSG), severe(scan.Medium), status(scan.Pass)),
		vm(subB, "lab", "db-02", unread, severe(scan.Low)),
		vm(subB, "", "all", unread), // something hidden of a whole subscription
		vm(subB, "lab", "db-03", status(scan.Unknown), tags("env", "test")),
	}
	names := map[string]string{strings.ToUpper(subA): "Shop Production", subB: "Lab"}
	for _, c := range []struct {
		name string
		o    triage.Options
		want string
	}{
		{"nothing", triage.Options{}, "web-01 web-02 db-01 db-02 all db-03"},
		{"subscription by id", triage.Options{Subscriptions: []string{strings.ToUpper(subA)}}, "web-01 web-02"},
		{"subscription by name", triage.Options{Subscriptions: []string{"lab"}}, "db-01 db-02 all db-03"},
		{"either", triage.Options{Subscriptions: []string{"lab", subA}}, "web-01 web-02 db-01 db-02 all db-03"},
		{"group without case; P10 what is hidden of the subscription may lie in it", triage.Options{Groups: []string{"SHOP"}}, "web-01 web-02 all"},
		{"tag key; P10 unread tags may hold it", triage.Options{Tags: []string{"ENV"}}, "web-01 web-02 db-02 all db-03"},
		{"tag value", triage.Options{Tags: []string{"env=prod"}}, "web-01 db-02 all"},
		{"tag value has case", triage.Options{Tags: []string{"env=PROD"}}, "db-02 all"},
		{"tag values of one key", triage.Options{Tags: []string{"env=prod", "env=test"}}, "web-01 web-02 db-02 all db-03"},
		{"two keys", triage.Options{Tags: []string{"env", "team=a"}}, "web-01 db-02 all"},
		{"rule", triage.Options{Rules: []string{"vm-no-nsg"}}, "db-01"},
		{"severity", triage.Options{Severities: []string{"high"}}, "web-01 all db-03"},
		{"severity or worse", triage.Options{Severities: []string{"high+"}}, "web-01 web-02 all db-03"},
		{"two severities", triage.Options{Severities: []string{"low", "critical+"}}, "web-02 db-02"},
		{"status", triage.Options{Statuses: []string{"unknown"}}, "db-02 all db-03"},
		{"resource by name", triage.Options{Resources: []string{"db-*"}}, "db-01 db-02 all db-03"},
		{"resource by id", triage.Options{Resources: []string{"*/resourcegroups/shop/*-02"}}, "web-02 all"},
		{"all must hold", triage.Options{Subscriptions: []string{subA}, Severities: []string{"critical"}, Tags: []string{"env"}}, "web-02"},
	} {
		f, err := triage.NewFilter(c.o, names, true)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, x := range f.Apply(all) {
			got = append(got, x.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
	_, err := triage.NewFilter(triage.Options{Subscriptions: []string{"nobody's", ""}, Groups: []string{" "}, Tags: []string{"=x", ""}, Rules: []string{"vm-jit"},
		Severities: []string{"bad", "+"}, Statuses: []string{"open"}, Resources: []string{""}}, names, true)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`no subscription "nobody's"`, "without id or name", "resource group without", `tag "=x" has no key`, `no rule "vm-jit": there are vm-management-port-exposed,`,
		`no severity "bad"`, `no severity "+"`, `no status "open": there are fail, unknown`, "empty resource"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if _, err := triage.NewFilter(triage.Options{Subscriptions: []string{subB}}, nil, false); err != nil {
		t.Errorf("a subscription that is not known yet: %v", err)
	}
}

const wholeID = "/subscriptions/" + subB + "/resourceGroups/lab/providers/Microsoft.Compute/virtualMachines/db-02"

func suppressions(t *testing.T, entries ...string) triage.Suppressions {
	t.Helper()
	text := "suppressions:\n"
	for _, e := range entries {
		text += "  - {owner: dana, reason: known, " + e + "}\n"
	}
	l, err := triage.ParseSuppressions("s.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func marked(findings []scan.Finding, is func(scan.Finding) bool) string {
	var out []string
	for _, f := range findings {
		if is(f) {
			out = append(out, f.Name)
		}
	}
	return strings.Join(out, " ")
}

func lines(l []triage.Suppression) string {
	var out []string
	for _, s := range l {
		out = append(out, fmt.Sprint(s.Line))
	}
	return strings.Join(out, " ")
}

func TestSuppressions(t *testing.T) {
	for _, c := range []struct {
		name                                       string
		entries                                    []string
		want, expired, unused, refused, wantReason string
	}{
		{name: "by name", entries: []string{`resource: web-01, until: 2027-01-01`}, want: "web-01"},
		{name: "by group", entries: []string{`resource: "*/resourceGroups/SHOP/*", until: 2027-01-01`}, want: "web-01 web-02"},
		{name: "by rule", entries: []string{`rule: vm-management-port-exposed, until: 2027-01-01`}, want: "web-01 web-02", refused: "2"},
		{name: "rule and resource", entries: []string{`rule: vm-no-nsg, resource: web-01, until: 2027-01-01`}, unused: "2"},
		{name: "its last day", entries: []string{`resource: web-01, until: 2026-11-26`}, want: "web-01"},
		{name: "the day before", entries: []string{`resource: web-01, until: 2026-11-25`}, expired: "2"},
		{name: "a pass is nothing to suppress", entries: []string{`resource: fine, until: 2027-01-01`}, unused: "2"},
		{name: "P10 unknown by pattern", entries: []string{`rule: vm-management-port-exposed, resource: "*/lab/*", until: 2027-01-01`}, refused: "2"},
		{name: "P10 unknown by name", entries: []string{`rule: vm-management-port-exposed, resource: db-02, until: 2027-01-01`}, refused: "2"},
		{name: "P10 unknown without a rule", entries: []string{`resource: ` + wholeID + `, until: 2027-01-01`}, refused: "2"},
		{name: "P10 unknown explicitly", entries: []string{`rule: vm-management-port-exposed, resource: ` + strings.ToUpper(wholeID) + `, until: 2027-01-01`}, want: "db-02"},
		{name: "P10 unknown explicitly, over", entries: []string{`rule: vm-management-port-exposed, resource: ` + wholeID + `, until: 2026-01-01`}, expired: "2"},
		{name: "the longest is told", entries: []string{`resource: web-01, until: 2027-01-01`, `resource: web-0*, until: 2027-02-01`, `rule: vm-management-port-exposed, resource: web-01, until: 2026-02-01`},
			want: "web-01 web-02", expired: "4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := []scan.Finding{vm(subA, "Shop", "web-01"), vm(subA, "shop", "web-02"), vm(subB, "lab", "db-02", unread), vm(subB, "lab", "fine", status(scan.Pass))}
			out := suppressions(t, c.entries...).Apply(all, now)
			if got := marked(all, func(f scan.Finding) bool { return f.Suppressed != nil }); got != c.want || out.Suppressed != len(strings.Fields(c.want)) {
				t.Errorf("suppressed %q (%d), want %q", got, out.Suppressed, c.want)
			}
			if e, u, r := lines(out.Expired), lines(out.Unused), lines(out.Refused); e != c.expired || u != c.unused || r != c.refused {
				t.Errorf("lines expired %q, unused %q, refused %q; want %q, %q, %q", e, u, r, c.expired, c.unused, c.refused)
			}
		})
	}
	all := []scan.Finding{vm(subA, "Shop", "web-01")}
	l := suppressions(t, `resource: web-01, until: 2027-01-01`, `resource: web-0*, until: 2027-02-01`)
	l.Apply(all, now)
	if got, want := *all[0].Suppressed, (scan.Suppression{Owner: "dana", Reason: "known", Until: time.Date(2027, 2, 2, 0, 0, 0, 0, time.UTC)}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	l.Apply(all, now.AddDate(1, 0, 0))
	if all[0].Suppressed != nil {
		t.Error("the mark of an earlier call stays when nothing holds any more")
	}
}

func TestSuppressionFileFaults(t *testing.T) {
	const ok = "owner: a, reason: b, until: 2027-01-01"
	for _, c := range []struct {
		name, text string
		want       []string // line: text
	}{
		{"empty", "", []string{"0: it is empty"}},
		{"only a comment", "# nothing\n", []string{"it is empty"}},
		{"no mapping", "- a\n", []string{"1: the file is not a mapping"}},
		{"text", "hello", []string{"1: the file is not a mapping"}},
		{"no YAML", "suppressions: [\n", []string{": it is no YAML"}},
		{"tab", "suppressions:\n\t- a\n", []string{"2: it is no YAML"}},
		{"second document", "suppressions: []\n---\nsuppressions: []\n", []string{"a second document"}},
		{"other key", "suppression: []\n", []string{`1: there is no key "suppression": there are suppressions`}},
		{"no list", "suppressions: {}\n", []string{"1: suppressions is no list"}},
		{"null", "suppressions:\n", []string{"1: suppressions is no list"}},
		{"entry is text", "suppressions: [a]\n", []string{"1: an entry is not a mapping"}},
		{"all at once", "suppressions:\n- {rule: x}\n- {owner: a}\n- {rule: vm-no-nsg, " + ok + ", expires: 1}\n", []string{
			"2: the entry has no owner", "2: the entry has no reason", "2: the entry has no until", `2: there is no rule "x"`,
			"3: the entry has neither rule nor resource", `4: there is no key "expires"`}},
		{"twice", "suppressions:\n- {rule: vm-no-nsg, rule: vm-no-nsg, " + ok + "}\n", []string{"2: "}},
		{"the same again", "suppressions:\n- {resource: a, " + ok + "}\n- {resource: A, " + ok + "}\n", []string{"3: A is suppressed in line 2 already"}},
		{"everything", `suppressions: [{resource: "*", ` + ok + "}]", []string{"1: the resource \"*\" without a rule would hide everything"}},
		{"everything in other words", `suppressions: [{resource: "/sub*/resourceGroups/*/prov*", ` + ok + "}]", []string{"would hide everything"}},
		{"blank owner", "suppressions: [{resource: a, owner: ' ', reason: b, until: 2027-01-01}]", []string{"1: owner is empty"}},
		{"null reason", "suppressions: [{resource: a, owner: a, reason: ~, until: 2027-01-01}]", []string{"1: reason is empty"}},
		{"list for a text", "suppressions: [{resource: [a], " + ok + "}]", []string{"1: resource is no text"}},
		{"no date", "suppressions: [{resource: a, owner: a, reason: b, until: never}]", []string{`1: until is "never", and no date`}},
		{"no such day", "suppressions: [{resource: a, owner: a, reason: b, until: 2027-02-30}]", []string{`1: until is "2027-02-30"`}},
		{"control characters", `suppressions: [{resource: a, owner: "a\e[2J", reason: b, until: 2027-01-01}]`, []string{"1: owner holds characters that do not print"}},
		{"merge key", "suppressions:\n- &a {resource: a, " + ok + "}\n- <<: *a\n", []string{"3: there is no key"}},
		{"too large", "suppressions: []\n#" + strings.Repeat("x", triage.MaxSuppressions), []string{"it is larger than"}},
	} {
		_, err := triage.ParseSuppressions("s.yaml", []byte(c.text))
		var fe *triage.FileError
		if !errors.As(err, &fe) || fe.Hint == "" {
			t.Errorf("%s: got %v", c.name, err)
			continue
		}
		var all []string
		for _, f := range fe.Faults {
			all = append(all, fmt.Sprintf("%d: %s", f.Line, f.Text))
		}
		for _, want := range c.want {
			if !strings.Contains(strings.Join(all, "\n"), want) {
				t.Errorf("%s: %q is missing in:\n%s", c.name, want, strings.Join(all, "\n"))
			}
		}
		if !strings.HasPrefix(err.Error(), "the suppressions file is wrong:\ns.yaml") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if l, err := triage.ParseSuppressions("", []byte("suppressions: []")); err != nil || len(l) != 0 {
		t.Errorf("a list of nothing: %v, %v", l, err)
	}
	// An alias for a whole entry's value is YAML like any other.
	l, err := triage.ParseSuppressions("", []byte("suppressions:\n- {resource: a, owner: &o dana, reason: 4711, until: 2027-01-01}\n- {resource: b, owner: *o, reason: x, until: \"2027-01-01\"}\n"))
	if err != nil || l[1].Owner != "dana" || l[0].Reason != "4711" || l[0].Until != l[1].Until {
		t.Errorf("%+v, %v", l, err)
	}
	// Somebody who sees thousands of faults has the wrong file.
	var many strings.Builder
	for range 2000 {
		many.WriteString("- x\n")
	}
	_, err = triage.ParseSuppressions("", []byte("suppressions:\n"+many.String()))
	if err == nil || strings.Count(err.Error(), "\n") > 60 || !strings.Contains(err.Error(), "and 1950 more") {
		t.Errorf("%v", err)
	}
}

func TestSuppressionsAreQuick(t *testing.T) {
	var entries []string
	for i := range 500 {
		entries = append(entries, fmt.Sprintf("resource: \"*/resourceGroups/g%d/*\", until: 2027-01-01", i), fmt.Sprintf("resource: vm%d, until: 2027-01-01", i))
	}
	l := suppressions(t, entries...)
	findings := make([]scan.Finding, 20000)
	for i := range findings {
		findings[i] = vm(subA, fmt.Sprintf("g%d", i%1000), fmt.Sprintf("vm%d", i))
	}
	if out := l.Apply(findings, now); out.Suppressed != 10000 || len(out.Unused) != 0 {
		t.Errorf("suppressed %d, unused %d", out.Suppressed, len(out.Unused))
	}
}

func FuzzParseSuppressions(f *testing.F) {
	for _, s := range []string{"suppressions: []", "suppressions:\n- {rule: vm-no-nsg, resource: \"*\", owner: a, reason: b, until: 2027-01-01}", "a: &a [*a]", "suppressions: &a [*a, *a]",
		"suppressions:\n- &x {resource: a, owner: *x}", "%YAML 9.9\n---\n", "? [a]\n: b", "suppressions: !!binary aGk="} {
		f.Add([]byte(s))
	}
	findings := []scan.Finding{vm(subA, "g", "a"), vm(subA, "g", "u", unread), vm(subA, "g", "p", status(scan.Pass))}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := triage.ParseSuppressions("f", data)
		if err != nil {
			if l != nil || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%v with %q", l, err)
			}
			return
		}
		for _, s := range l {
			if s.Owner == "" || s.Reason == "" || s.Until.IsZero() || s.Rule == "" && s.Resource.String() == "" {
				t.Errorf("accepted %+v", s)
			}
		}
		all := slices.Clone(findings)
		l.Apply(all, now)
		for i, x := range all {
			if x.Suppressed != nil && (x.Status == scan.Pass || !now.Before(x.Suppressed.Until)) {
				t.Errorf("finding %d is suppressed by %+v", i, x.Suppressed)
			}
			if x.Suppressed != nil && x.Status == scan.Unknown && !slices.ContainsFunc(l, triage.Suppression.Explicit) {
				t.Errorf("P10: unknown is suppressed by a pattern: %+v", l)
			}
		}
	})
}

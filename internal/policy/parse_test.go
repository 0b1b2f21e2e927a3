package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// whole uses every key that a policy has.
const whole = `version: 1
groups:
  dba: {members: [carol, Dora], claims: [8f1c], includes: [leads]}
  leads: {members: [erin]}
rules:
  - name: data
    vms: [db-*]
    groups: [rg-data, "rg-data-?"]
    subscriptions: [s1]
    tags: {env: prod, team: [payroll, "fin*"]}
    requesters: [alice, "group:dba"]
    ports: [22, 8000-8010]
    protocol: tcp
    sources: [198.51.100.0/24, 2001:db8::/48]
    max_duration: 2h
    default_duration: 30m
    max_total: 4h
    max_ahead: 7d
    widest_ipv4: 28
    widest_ipv6: 56
    extensions: {allowed: true, max: 2, each: 30m}
    windows:
      - {days: [mon-fri], from: "08:00", to: "18:00", zone: Europe/Berlin}
      - {days: [sat, sun]}
    reason: {pattern: "INC-[0-9]+.*", message: "begin with the incident"}
    ticket: {required: true}
    when: "'dba' in requester.groups || request.duration <= duration('1h')"
    in_order: true
    steps:
      - {name: owner, approvers: ["group:leads"], count: 1, remind_after: 10m}
      - {name: second, approvers: [bob], escalate_after: 1h, escalate_to: [frank]}
    auto_approve: {when: "request.duration <= duration('15m')", max_duration: 15m, sources: [198.51.100.0/28]}
    break_glass: {requesters: ["group:leads"], max_duration: 1h, reason: true, ticket: false}
    hard_close: true
    warn_before: 10m
    notify: [ops, security]
    rules:
      - {name: backups, vms: ["*-backup"], deny: true, message: "use the vault"}
  - name: short
    approvals: 2
    approvers: [bob, carol]
    extensions: false
`

func parsed(t testing.TB, text string) policy.Document {
	t.Helper()
	d, err := policy.Parse([]byte(text), "p.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every key is read, printed and read again as the same, and has a name in the schema's words.
func TestEveryKeyIsReadAndPrinted(t *testing.T) {
	d := parsed(t, whole)
	s, err := policy.New(d)
	if err != nil {
		t.Fatal(err)
	}
	text, err := d.Print()
	if err != nil {
		t.Fatal(err)
	}
	again, err := policy.Load(text, "p.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if s.Digest() != again.Digest() || s.Count() != 3 {
		t.Errorf("printed and read again it is another policy:\n%s", text)
	}
	var unset func(v reflect.Value, path string)
	unset = func(v reflect.Value, path string) { // every key of the format stands in the example
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" {
				continue
			}
			if f.Tag.Get("doc") == "" {
				t.Errorf("%s.%s has no description", path, name)
			}
			if !regexp.MustCompile(`(?m)[{, ^]` + name + `:|^` + name + `:`).MatchString(whole) {
				t.Errorf("the example does not name %s.%s", path, name)
			}
		}
	}
	for _, x := range []any{policy.Document{}, policy.Group{}, policy.Rule{}, policy.Extensions{}, policy.Window{}, policy.Text{}, policy.Step{}, policy.AutoApprove{}, policy.BreakGlass{}} {
		v := reflect.ValueOf(x)
		unset(v, v.Type().Name())
	}
}

// Bad input: what is not understood in full is refused, with the line and column of each fault, all at once.
func TestFaultsOfTheText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":           {"rules:\n  - nam: x\n", "p.yaml:2:5: there is no key nam in rules; is name meant?"},
		"unknown key on top":    {"rulez: []\n", "p.yaml:1:1: there is no key rulez; is rules meant?"},
		"unknown key within":    {"rules:\n  - name: x\n    windows: [{day: [mon]}]\n", "p.yaml:3:16: there is no key day in windows; is days meant?"},
		"key twice":             {"rules:\n  - name: x\n    name: y\n", "p.yaml:3:5: the key name stands here for the second time; first in line 2"},
		"second document":       {"rules: []\n---\nrules: []\n", "a second document begins here"},
		"empty":                 {"", "the file is empty"},
		"a list":                {"- name: x\n", "p.yaml:1:1: a policy is a mapping with the key rules"},
		"broken":                {"rules: [x\n", "p.yaml:2:"},
		"tab":                   {"rules:\n\t- name: x\n", "p.yaml:2:"},
		"text for a list":       {"rules:\n  - name: x\n    vms: db-*\n", "p.yaml:3:10: vms is a list: write [db-*]"},
		"list for a text":       {"rules:\n  - name: [x]\n", "p.yaml:2:11: name is a single value"},
		"text for a number":     {"rules:\n  - {name: x, approvals: two}\n", `p.yaml:2:26: approvals is "two", and must be a number`},
		"text for a truth":      {"rules:\n  - {name: x, deny: maybe}\n", `deny is "maybe", and must be true or false`},
		"bad duration":          {"rules:\n  - {name: x, max_duration: soon}\n", `p.yaml:2:29: max_duration: duration "soon" is not understood`},
		"bad network":           {"rules:\n  - {name: x, sources: [ten]}\n", `sources: "ten" is not a network`},
		"bits behind a prefix":  {"rules:\n  - {name: x, sources: [10.0.0.1/8]}\n", "p.yaml:2:15: rule x: source 10.0.0.1/8 is not a prefix"},
		"bad port":              {"rules:\n  - {name: x, ports: [70000]}\n", "port \"70000\" is out of range"},
		"alias bomb":            {"x: &a [1,1,1,1,1,1,1,1,1,1]\ny: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nrules: [*b]\n", "there is no key x"},
		"aliases within rules":  {"rules:\n - &a {name: x, vms: &l [" + strings.Repeat("v,", 1000) + "]}\n" + strings.Repeat(" - *a\n", 200), "aliases repeat more than"},
		"alias of itself":       {"rules: &a [*a]\n", "p.yaml:"},
		"rule of itself":        {"rules: [&a {name: x, rules: [*a]}]\n", "p.yaml:"},
		"merge of itself":       {"rules: [&a {name: x, <<: *a}]\n", "p.yaml:"},
		"no name":               {"rules:\n  - vms: [x]\n", "p.yaml:2:5: rule 1 has no name"},
		"same name, other case": {"rules: [{name: X}, {name: x}]\n", "the name is used twice"},
		"version":               {"version: 2\nrules: []\n", "p.yaml:1:1: version 2 of this format is not known"},
		"unknown group":         {"groups: {dba: {}}\nrules: [{name: x, requesters: ['group:dbas']}]\n", "requesters names group:dbas, and there is no such group under groups; is dba meant?"},
		"unknown approvers":     {"rules: [{name: x, steps: [{name: s, approvers: ['group:x']}]}]\n", "step s: approvers names group:x"},
		"groups in a ring":      {"groups:\n  a: {includes: [b]}\n  b: {includes: [c]}\n  c: {includes: [a]}\nrules: []\n", "groups include one another in a ring: a includes b includes c includes a"},
		"group of itself":       {"groups: {a: {includes: [A]}}\nrules: []\n", "in a ring: a includes a"},
		"groups in other case":  {"groups: {dba: {}, DBA: {}}\nrules: []\n", "it is another spelling of group"},
		"includes nothing":      {"groups: {a: {includes: [x]}}\nrules: []\n", "group a includes x, and there is no such group"},
		"group as a member":     {"groups: {a: {members: ['group:b']}, b: {}}\nrules: []\n", "members are people; name group:b under includes"},
		"pattern":               {"rules: [{name: x, ticket: {pattern: 'INC-('}}]\n", "the pattern of ticket is not understood"},
		"zone":                  {"rules: [{name: x, windows: [{zone: Berlin}]}]\n", `there is no time zone "Berlin"`},
		"the machine's zone":    {"rules: [{name: x, windows: [{zone: Local}]}]\n", `there is no time zone "Local"`},
		"day":                   {"rules: [{name: x, windows: [{days: [mo]}]}]\n", `day "mo" is not one of mon`},
		"time of day":           {"rules: [{name: x, windows: [{from: '8 am'}]}]\n", `from "8 am" is not a time of day`},
		"both forms":            {"rules: [{name: x, approvals: 1, steps: [{count: 1}]}]\n", "short form of one step"},
		"escalates to nobody":   {"rules: [{name: x, steps: [{approvers: [a], escalate_after: 1h}]}]\n", "it takes both"},
		"more than there are":   {"rules: [{name: x, approvals: 3, approvers: [a, A, b]}]\n", "3 approvals of 2 approvers can never be had"},
		"auto without a cap":    {"rules: [{name: x, auto_approve: {when: 'true'}}]\n", "auto_approve has no cap"},
		"glass without people":  {"rules: [{name: x, break_glass: {max_duration: 1h}}]\n", "break_glass names nobody"},
		"glass without an end":  {"rules: [{name: x, break_glass: {requesters: [a]}}]\n", "break_glass has no max_duration"},
		"glass for a day":       {"rules: [{name: x, break_glass: {requesters: [a], max_duration: 24h}}]\n", "duration 24h is not between 5m and 4h"},
		"default over the most": {"rules: [{name: x, max_duration: 1h, default_duration: 2h}]\n", "default_duration 2h is more than the 1h"},
		"tag twice":             {"rules: [{name: x, tags: {Env: a, env: b}}]\n", "tag env stands there twice"},
		"CEL: syntax":           {"rules:\n  - name: x\n    when: 'request.duration <'\n", "p.yaml:3:5: rule x: the condition is not understood, at 1:"},
		"CEL: unknown name":     {"rules: [{name: x, when: 'request.port == 22'}]\n", "there is no request.port; known are request.ports, request.protocol"},
		"CEL: wrong type":       {"rules: [{name: x, when: 'request.duration > 3'}]\n", "no matching overload"},
		"CEL: not a truth":      {"rules: [{name: x, when: 'request.ticket'}]\n", "is of type string, and must be true or false"},
		"CEL: bad pattern":      {"rules: [{name: x, when: \"request.ticket.matches('(')\"}]\n", "invalid"},
		"CEL: too long":         {"rules: [{name: x, when: '" + strings.Repeat("true && ", 400) + "true'}]\n", "longer than 2000 bytes"},
		"CEL: costs too much": {"rules: [{name: x, when: 'request.ports.all(a, request.ports.all(b, request.ports.all(c, a + b + c > 0)))'}]\n",
			"steps, and 10000 are allowed"},
		"CEL: nested deep": {"rules: [{name: x, when: '" + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + "'}]\n", "rule x: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Load([]byte(c.text), "p.yaml")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if err != nil {
				wellSaid(t, err)
			}
		})
	}
	_, err := policy.Load([]byte("rulez: 1\nrules:\n  - name: x\n    deny: 3\n    when: '1'\n  - vms: [\"[\"]\n"), "p.yaml")
	var fs policy.Faults
	if !errors.As(err, &fs) || len(fs) != 5 {
		t.Errorf("%v: five faults should be reported at once", err)
	}
}

// A present configuration's policy, without version and groups, stays valid; so do aliases and merges within reason.
func TestEarlierPoliciesStayValid(t *testing.T) {
	s, err := policy.Load([]byte("rules:\n  - &base\n    name: everywhere\n    max_duration: 4h\n    reason: false\n  - <<: *base\n    name: production\n    groups: [rg-prod-*]\n    ticket: true\n  - {name: never, deny: true, max_duration: 1h}\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	r := s.Rules()[1]
	if r.MaxDuration != access.Duration(4*3600e9) || r.Reason == nil || r.Reason.Required || !r.Ticket.Required {
		t.Errorf("the merge gives %+v", r)
	}
}

func TestMerge(t *testing.T) {
	a, b := parsed(t, "groups: {dba: {members: [a]}}\nrules: [{name: x}]\n"), parsed(t, "groups: {sre: {members: [b]}}\nrules: [{name: y, requesters: ['group:dba']}]\n")
	s, err := policy.New(policy.Merge(a, b))
	if err != nil || s.Count() != 2 {
		t.Fatalf("%v", err)
	}
	if err := policy.Merge(a, a).Validate(); err == nil || !strings.Contains(err.Error(), "group dba stands in p.yaml too") || !strings.Contains(err.Error(), "the name is used twice") {
		t.Errorf("%v", err)
	}
}

// What is read is printed so that the same is read again; what is refused is refused with words. Whatever is accepted decides.
func FuzzLoad(f *testing.F) {
	f.Add(whole)
	f.Add("rules: []\n")
	f.Add("rules: [&a {name: x, rules: [*a]}]\n")
	f.Add("rules:\n  - <<: {name: x}\n    reason: {pattern: '(?i)x'}\n")
	f.Add("groups: {a: {includes: [b]}, b: {}}\nrules: [{name: '#', requesters: ['group:A'], windows: [{days: [fri-mon], from: '23:30', to: '01:00', zone: Australia/Lord_Howe}]}]\n")
	files, err := filepath.Glob(filepath.Join(testkit.Module(f), "internal", "policy", "testdata", "*.yaml"))
	if err != nil || len(files) == 0 {
		f.Fatal("no policies among the test data")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 8<<10 {
			return
		}
		s, err := policy.Load([]byte(text), "f.yaml")
		if err != nil {
			var e *access.Error
			if !errors.As(err, &e) || len(e.Message) < 10 {
				t.Fatalf("%v", err)
			}
			return
		}
		out, err := s.Document().Print()
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Load(out, "f.yaml")
		if err != nil || again.Digest() != s.Digest() {
			t.Fatalf("%v; printed:\n%s", err, out)
		}
		if l, err := s.Decide(ask(nil), t0); err == nil && (len(l.Rules) == 0 || len(l.Needs)+len(l.Auto) == 0) {
			t.Errorf("allowed by nothing: %+v", l)
		}
		policy.Lint(s.Document(), policy.Estate{})
		policy.Diff(&policy.Set{}, s, t0)
	})
}

package policy_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is otherwise; got:\n%s", name, got)
	}
}

func read(t testing.TB, name string) policy.Document {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(b, name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What cannot work is found, with its reason.
func TestLintGolden(t *testing.T) {
	var b strings.Builder
	for _, f := range policy.Lint(read(t, "lint.yaml"), policy.Estate{}) {
		fmt.Fprintf(&b, "%s [%s] %s\n    %s\n", f.Severity, f.ID, f, f.Hint)
	}
	b.WriteString("\nwith what is known of machines and people:\n")
	e := policy.Estate{Machines: []policy.Machine{{Name: "db-1", Group: "rg-lab", Tags: map[string]string{"Env": "test"}}, {Name: "web-1", Group: "rg-web"}},
		People: []access.Caller{{Name: "Carol", Roles: []access.Role{access.Requester}}, {Name: "dan", Roles: []access.Role{access.Requester, access.Approver}}, {Name: "a", Roles: []access.Role{access.Approver}}}}
	d := read(t, "lint.yaml")
	d.Rules = append(d.Rules, policy.Rule{Name: "tagged", Tags: map[string]policy.List{"env": {"prod"}, "app": {"x"}}, Subscriptions: []string{"s9"}, Requesters: []string{"dan"}})
	before := map[string]bool{}
	for _, f := range policy.Lint(d, policy.Estate{}) {
		before[f.String()] = true
	}
	for _, f := range policy.Lint(d, e) {
		if !before[f.String()] {
			fmt.Fprintf(&b, "%s [%s] %s\n    %s\n", f.Severity, f.ID, f, f.Hint)
		}
	}
	golden(t, "lint.golden", b.String())
	if found := policy.Lint(read(t, "example.yaml"), policy.Estate{}); len(found) > 0 {
		t.Errorf("the example has findings: %v", found)
	}
	if found := policy.Lint(policy.Document{}, policy.Estate{}); len(found) != 1 || found[0].ID != "no-rules" {
		t.Errorf("%v", found)
	}
}

// Who gains and loses what, in words.
func TestDiffGolden(t *testing.T) {
	a, b := compiled(t, read(t, "old.yaml")), compiled(t, read(t, "new.yaml"))
	var out strings.Builder
	for _, c := range policy.Diff(a, b, t0) {
		fmt.Fprintln(&out, c)
	}
	golden(t, "diff.golden", out.String())
	if same := policy.Diff(a, compiled(t, read(t, "old.yaml")), t0); len(same) > 0 {
		t.Errorf("a policy differs from itself: %v", same)
	}
	back := policy.Diff(b, a, t0)
	if len(back) != strings.Count(out.String(), "\n") {
		t.Errorf("%d changes one way, %d the other", strings.Count(out.String(), "\n"), len(back))
	}
}

func TestWhoGolden(t *testing.T) {
	s := compiled(t, read(t, "example.yaml"))
	b, err := yaml.Dump(map[string]any{
		"shop-9": s.Who(policy.Machine{Name: "shop-9", Tags: map[string]string{"app": "shop", "env": "prod"}}),
		"db-1":   s.Who(policy.Machine{Name: "db-1", Group: "RG-Data", Tags: map[string]string{}}),
		"x":      s.Who(policy.Machine{Name: "x", Group: "rg-x"}), // whose tags are not known
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "who.golden", string(b))
}

// The worked example comes out as its file of examples says; a wrong expectation fails, and says how.
func TestExamples(t *testing.T) {
	s := compiled(t, read(t, "example.yaml"))
	text, err := os.ReadFile("testdata/example_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := policy.ParseTests(text, "example_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tests.Run(s) {
		if !r.OK {
			t.Errorf("%s: %s: %v", r.Name, r.Got, r.Wrong)
		}
	}
	var out strings.Builder
	for i, c := range tests.Cases { // each turned into something else
		switch i % 3 {
		case 0:
			c.Expect = map[string]string{"allow": "deny", "deny": "allow", "auto": "allow", "break_glass": "auto"}[c.Expect]
		case 1:
			c.Rules = []string{"other"}
		case 2:
			c.Message, c.Needs, c.Limits = "something else", []string{"3 of nobody"}, &policy.CaseLimits{MaxDuration: access.Duration(7 * time.Hour), WidestIPv4: 9}
		}
		r := policy.Tests{Time: tests.Time, Cases: []policy.Case{c}}.Run(s)[0]
		if r.OK {
			t.Errorf("%s: passes whatever is expected", r.Name)
		}
		fmt.Fprintf(&out, "%s: %s\n", r.Name, r.Got)
		for _, w := range r.Wrong {
			fmt.Fprintf(&out, "    %s\n", w)
		}
	}
	golden(t, "test.golden", out.String())
	for name, c := range map[string]struct{ text, want string }{
		"unknown key": {"policy: x\ncases: [{name: a, persn: b}]\n", "there is no key persn in cases; is person meant?"},
		"no cases":    {"policy: x\n", "there are no cases"},
		"expect":      {"cases: [{person: a, expect: maybe}]\n", `expect is "maybe": it may be allow, deny, auto, break_glass`},
		"person":      {"cases: [{expect: deny}]\n", "person is missing"},
		"source":      {"cases: [{person: a, expect: deny, request: {source: x}}]\n", "source \"x\" is not"},
		"empty":       {"", "the file is empty"},
	} {
		if _, err := policy.ParseTests([]byte(c.text), "t.yaml"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// compiledSchema is the schema that is published.
func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(policy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("policy.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return s.Validate(jsonable(v))
}

// jsonable turns the values of YAML into those of JSON.
func jsonable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = jsonable(v[k])
		}
	case map[any]any:
		out := map[string]any{}
		for k := range v {
			out[fmt.Sprint(k)] = jsonable(v[k])
		}
		return out
	case []any:
		for i := range v {
			v[i] = jsonable(v[i])
		}
	case int:
		return float64(v)
	}
	return v
}

// Every example policy, in the documentation too, is valid by the published schema, compiles, and is printed in a form that is valid.
func TestSchema(t *testing.T) {
	s := compiledSchema(t)
	texts := map[string]string{"whole": whole}
	for _, name := range []string{"example.yaml", "lint.yaml", "old.yaml", "new.yaml"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(b)
	}
	doc, err := os.ReadFile(filepath.Join(testkit.Module(t), "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, part := range strings.Split(string(doc), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(part, "```")
		if strings.Contains(text, "rules:") && !strings.Contains(text, "cases:") {
			texts[fmt.Sprintf("docs/policy.md, example %d", i+1)] = text
			n++
		}
	}
	if n < 3 {
		t.Errorf("docs/policy.md holds %d policies", n)
	}
	for name, text := range texts {
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		set, err := policy.Load([]byte(text), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		out, err := set.Document().Print()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, string(out)); err != nil {
			t.Errorf("%s, printed: %v", name, err)
		}
	}
	for _, bad := range []string{"rules: [{nam: x}]", "rules: [{name: x, vms: db}]", "rulez: []", "rules: [{name: x, max_duration: soon}]", "rules: [{name: x, auto_approve: {when: 'true'}}]",
		"rules: [{name: x, rules: [{deny: true}]}]", "rules: [{name: x, widest_ipv4: 33}]", "version: 2\nrules: []", "rules: [{name: x, windows: [{day: mon}]}]"} {
		if validate(t, s, bad) == nil {
			t.Errorf("the schema takes %s", bad)
		}
	}
	golden(t, "schema.golden", string(policy.Schema()))
}

// The documentation's worked example is the one that is tested, and its parts are those of the file.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(testkit.Module(t), "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"example.yaml", "example_test.yaml"} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(b), "\n") // the first line says what it is
		if file == "example_test.yaml" {
			text = string(b)
		}
		if !strings.Contains(string(doc), text) {
			t.Errorf("docs/policy.md does not hold %s as it is", file)
		}
	}
	for _, v := range policy.Variables() {
		if !strings.Contains(string(doc), "`"+v.Name+"`") {
			t.Errorf("docs/policy.md does not describe %s", v.Name)
		}
	}
}

// What would have become of past requests.
func TestReplay(t *testing.T) {
	old, s := load(t, "rules: [{name: all}]"), load(t, `rules:
  - {name: all, auto_approve: {max_duration: 30m}}
  - {name: two, vms: [web-01], ports: [443], approvals: 2}
  - {name: no, deny: true, requesters: [bob]}
`)
	past := func(id string, f func(*access.Ask)) policy.Past {
		a := ask(f)
		l, err := old.Decide(a, t0)
		if err != nil {
			t.Fatal(err)
		}
		return policy.Past{ID: id, Asks: []access.Ask{a}, At: t0, Needs: l.Needs, State: "approved"}
	}
	var got []string
	for _, r := range s.Replay([]policy.Past{past("same", nil), past("short", func(a *access.Ask) { a.Terms.Duration = 30 * time.Minute }), past("refused", func(a *access.Ask) { a.Requester = "Bob" }),
		past("two", func(a *access.Ask) { a.Terms.Targets[0].Ports = access.Port(443) }), {ID: "nothing", At: t0},
		{ID: "was-auto", Asks: []access.Ask{ask(nil)}, At: t0, Auto: []string{"x"}}}) {
		got = append(got, fmt.Sprintf("%s %s: %s", r.ID, r.Outcome, r.Text))
	}
	want := `same same: as before
short by_itself: approved by itself by rule all
refused refused: rule no forbids web-01:22/tcp
two others: after approval by 2 of anybody who may approve; was after approval by anybody who may approve
nothing refused: it names no target
was-auto not_itself: after approval by anybody who may approve`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

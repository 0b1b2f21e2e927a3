package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/access"
)

// Tests is a file of examples: given this person and this request, expect this, because of that rule.
type Tests struct {
	Policy string    `yaml:"policy" doc:"File or folder of the policy, from the folder of this file"`
	Time   time.Time `yaml:"time" doc:"When it is asked, where a case does not say"`
	Cases  []Case    `yaml:"cases" doc:"The examples"`
}

// Case is one example.
type Case struct {
	Name    string        `yaml:"name" json:"name"`
	Person  string        `yaml:"person" json:"person"`
	Groups  []string      `yaml:"groups" json:"groups,omitempty"` // of the policy, beside those that list the person
	Claims  []string      `yaml:"claims" json:"claims,omitempty"` // as the issuer of a token says them
	Roles   []access.Role `yaml:"roles" json:"roles,omitempty"`
	Machine Machine       `yaml:"machine" json:"machine"`
	Request CaseRequest   `yaml:"request" json:"request"`
	Time    time.Time     `yaml:"time" json:"time,omitzero"`
	Expect  string        `yaml:"expect" json:"expect"` // allow, deny, auto, break_glass
	Rules   []string      `yaml:"rules" json:"rules,omitempty"`
	Needs   []string      `yaml:"needs" json:"needs,omitempty"` // in words: "2 of bob, carol"
	Count   *int          `yaml:"approvals" json:"approvals,omitempty"`
	Limits  *CaseLimits   `yaml:"limits" json:"limits,omitempty"`
	Message string        `yaml:"message" json:"message,omitempty"` // a part of the refusal or of its hint
}

// CaseRequest is what a case asks for. What is left out is a common request: port 22 over TCP, from 203.0.113.7, with a reason, for as
// long as the policy gives by default, or an hour.
type CaseRequest struct {
	Port       access.Ports    `yaml:"port" json:"port,omitzero"`
	Protocol   string          `yaml:"protocol" json:"protocol,omitempty"`
	Source     string          `yaml:"source" json:"source,omitempty"`
	Duration   access.Duration `yaml:"duration" json:"duration,omitempty"`
	Start      time.Time       `yaml:"start" json:"start,omitzero"`
	Reason     *string         `yaml:"reason" json:"reason,omitempty"`
	Ticket     string          `yaml:"ticket" json:"ticket,omitempty"`
	BreakGlass bool            `yaml:"break_glass" json:"break_glass,omitempty"`
	Extension  *CaseExtension  `yaml:"extension" json:"extension,omitempty"`
}

// CaseExtension says what is extended.
type CaseExtension struct {
	Held  access.Duration `yaml:"held" json:"held"`   // how long the grant lasts so far
	Count int             `yaml:"count" json:"count"` // how often it was extended
}

// CaseLimits are limits that a case expects.
type CaseLimits struct {
	MaxDuration access.Duration `yaml:"max_duration" json:"max_duration,omitempty"`
	MaxTotal    access.Duration `yaml:"max_total" json:"max_total,omitempty"`
	WidestIPv4  int             `yaml:"widest_ipv4" json:"widest_ipv4,omitempty"`
	WidestIPv6  int             `yaml:"widest_ipv6" json:"widest_ipv6,omitempty"`
}

// expectations lists what a case may expect.
var expectations = []string{"allow", "deny", "auto", "break_glass"}

// usualTime is when cases are asked that do not say: a Wednesday at noon, UTC.
var usualTime = time.Date(2026, 1, 7, 12, 0, 0, 0, time.UTC)

// ParseTests reads a file of examples, with every fault at once.
func ParseTests(text []byte, name string) (Tests, error) {
	var t Tests
	l, err := yaml.NewLoader(bytes.NewReader(text))
	var doc, second yaml.Node
	if err == nil {
		err = l.Load(&doc)
	}
	switch {
	case errors.Is(err, io.EOF):
		return t, Faults{{File: name, Line: 1, Column: 1, Text: "the file is empty"}}.err()
	case err != nil:
		return t, syntax(err, name).err()
	}
	r := &reader{file: name}
	if l.Load(&second) == nil {
		r.bad(&second, "a second document begins here, and it would not be read")
	}
	n := &doc
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	r.value(n, reflect.ValueOf(&t).Elem(), "", 0)
	at := func(format string, args ...any) {
		r.faults = append(r.faults, Fault{File: name, Line: n.Line, Column: n.Column, Text: fmt.Sprintf(format, args...)})
	}
	if len(r.faults) == 0 && len(t.Cases) == 0 {
		at("there are no cases")
	}
	for i := range t.Cases {
		c := &t.Cases[i]
		if c.Name == "" {
			c.Name = fmt.Sprintf("case %d", i+1)
		}
		if !slices.Contains(expectations, c.Expect) {
			at("%s: expect is %q: it may be %s", c.Name, clip(c.Expect), strings.Join(expectations, ", "))
		}
		if fold(c.Person) == "" {
			at("%s: person is missing", c.Name)
		}
		if c.Request.Source != "" {
			if _, err := access.ParseSource(c.Request.Source); err != nil {
				at("%s: %v", c.Name, err)
			}
		}
		if _, err := access.ParseProtocol(c.Request.Protocol); err != nil {
			at("%s: %v", c.Name, err)
		}
	}
	if err := r.faults.err(); err != nil {
		var e *access.Error
		if errors.As(err, &e) {
			e.Message = strings.Replace(e.Message, "the policy is wrong", "the policy is wrong, or its tests are", 1)
		}
		return t, err
	}
	return t, nil
}

// Result is what became of a case.
type Result struct {
	Name  string   `json:"name"`
	OK    bool     `json:"ok"`
	Got   string   `json:"got"`             // what the policy decided, in words
	Wrong []string `json:"wrong,omitempty"` // what was expected otherwise
}

// Run tries every case against a policy.
func (t Tests) Run(s *Set) []Result {
	var out []Result
	for i := range t.Cases {
		out = append(out, t.Cases[i].run(s, t.Time))
	}
	return out
}

// ask makes the ask of a case.
func (c *Case) ask(s *Set, usual time.Time) (access.Ask, time.Time) {
	now := c.Time
	if now.IsZero() {
		now = usual
	}
	if now.IsZero() {
		now = usualTime
	}
	q := c.Request
	src, _ := access.ParseSource("203.0.113.7")
	if q.Source != "" {
		src, _ = access.ParseSource(q.Source)
	}
	proto, _ := access.ParseProtocol(q.Protocol)
	ports := q.Port
	if !ports.Valid() {
		ports = access.Port(22)
		if strings.EqualFold(c.Machine.OS, "windows") {
			ports = access.Port(3389)
		}
	}
	reason := "an example"
	if q.Reason != nil {
		reason = *q.Reason
	}
	tags := c.Machine.Tags
	if tags == nil {
		tags = map[string]string{}
	}
	groups := slices.Concat(c.Groups, s.GroupsOf(access.Caller{Name: c.Person, Groups: c.Claims}))
	a := access.Ask{Requester: c.Person, Groups: groups, Roles: c.Roles, Subscription: c.Machine.Subscription, Group: c.Machine.Group, Tags: tags,
		OS: c.Machine.OS, Location: c.Machine.Location, StartAt: q.Start, Reason: reason, Ticket: q.Ticket, BreakGlass: q.BreakGlass || c.Expect == "break_glass",
		Terms: access.Terms{Targets: []access.Target{{VM: access.VM{ID: c.Machine.Name, Name: c.Machine.Name}, Ports: ports, Protocol: proto}}, Source: src, Duration: time.Duration(q.Duration)}}
	if q.Extension != nil {
		a.Extension, a.Held, a.Extensions = true, time.Duration(q.Extension.Held), q.Extension.Count
	}
	if a.Terms.Duration == 0 {
		if a.Terms.Duration = s.DefaultDuration(a, now); a.Terms.Duration == 0 {
			a.Terms.Duration = time.Hour
		}
	}
	return a, now
}

func (c *Case) run(s *Set, usual time.Time) Result {
	a, now := c.ask(s, usual)
	l, err := s.Decide(a, now)
	r := Result{Name: c.Name}
	bad := func(format string, args ...any) { r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...)) }
	got := "allow"
	said := ""
	var e *access.Error
	switch {
	case errors.As(err, &e):
		got, said = "deny", e.Message+" ("+e.Hint+")"
		r.Got = "denied: " + said
	case err != nil:
		got, said = "deny", err.Error()
		r.Got = "denied: " + said
	case a.BreakGlass:
		got = "break_glass"
		r.Got = fmt.Sprintf("opened at once by break-glass, up to %s, by rule %s", dur(l.MaxDuration), strings.Join(l.Rules, ", "))
	case len(l.Needs) == 0 && len(l.Auto) > 0:
		got = "auto"
		r.Got = fmt.Sprintf("approved by itself, up to %s, by rule %s", dur(l.MaxDuration), strings.Join(l.Auto, ", "))
	default:
		r.Got = fmt.Sprintf("allowed up to %s %s, by rule %s", dur(l.MaxDuration), needWords(l), strings.Join(l.Rules, ", "))
	}
	if got != c.Expect {
		bad("expected %s", c.Expect)
	}
	if got == "deny" {
		for _, name := range c.Rules {
			if !strings.Contains(said, "rule "+name) && !strings.Contains(said, ", "+name) {
				bad("expected the refusal to be by rule %s", name)
			}
		}
	} else if c.Rules != nil {
		if missing := without(c.Rules, l.Rules); len(missing) > 0 {
			bad("expected rule %s to match", strings.Join(missing, ", "))
		}
		if more := without(l.Rules, c.Rules); len(more) > 0 {
			bad("expected rule %s not to match", strings.Join(more, ", "))
		}
	}
	if c.Message != "" && !strings.Contains(said, c.Message) {
		bad("expected the refusal to say %q", c.Message)
	}
	if c.Count != nil && access.Approvals(l.Needs) != *c.Count {
		bad("expected %d approvals, and it takes %d", *c.Count, access.Approvals(l.Needs))
	}
	if c.Needs != nil {
		var have []string
		for _, n := range l.Needs {
			for _, st := range n.Steps {
				have = append(have, st.Words())
			}
		}
		if len(without(c.Needs, have))+len(without(have, c.Needs)) > 0 {
			bad("expected it to need %s, and it needs %s", orWord(strings.Join(c.Needs, "; "), "nobody"), orWord(strings.Join(have, "; "), "nobody"))
		}
	}
	if x := c.Limits; x != nil {
		for _, d := range []struct {
			key        string
			want, have time.Duration
		}{{"max_duration", time.Duration(x.MaxDuration), l.MaxDuration}, {"max_total", time.Duration(x.MaxTotal), l.MaxTotal}} {
			if d.want != 0 && d.want != d.have {
				bad("expected %s %s, and it is %s", d.key, dur(d.want), dur(d.have))
			}
		}
		for _, d := range []struct {
			key        string
			want, have int
		}{{"widest_ipv4", x.WidestIPv4, l.WidestIPv4}, {"widest_ipv6", x.WidestIPv6, l.WidestIPv6}} {
			if d.want != 0 && d.want != d.have {
				bad("expected %s %d, and it is %d", d.key, d.want, d.have)
			}
		}
	}
	r.OK = len(r.Wrong) == 0
	return r
}

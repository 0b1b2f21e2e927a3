package triage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/scan"
)

// MaxSuppressions bounds a suppressions file in bytes.
const MaxSuppressions = 4 << 20

const suppressionsHint = "an entry needs rule or resource (or both), and owner, reason and until: a date as 2027-03-31, the last day on which it holds"

// Suppression is one entry: somebody's decision to live with what it matches until a day is over.
type Suppression struct {
	Line     int
	Rule     scan.RuleID // "" is every rule
	Resource Glob        // of an entry without one, the empty glob: every resource
	Owner    string
	Reason   string
	Until    time.Time // the first instant at which it holds no more: the end of the day that was written, in UTC

	hasResource bool
}

// String names the entry for people: rule and resource as written.
func (s Suppression) String() string {
	switch {
	case s.Rule == "":
		return s.Resource.String()
	case !s.hasResource:
		return string(s.Rule)
	}
	return string(s.Rule) + " of " + s.Resource.String()
}

// Explicit tells whether the entry names one rule of one resource. Only then it covers a finding that is unknown: a pattern was
// written for what its author had seen, and nobody has seen this (promise P10).
func (s Suppression) Explicit() bool { return s.Rule != "" && s.hasResource && s.Resource.WholeID() }

// matches tells whether a finding of a rule is meant, of a resource whose id and name are given in lower case.
func (s *Suppression) matches(rule scan.RuleID, id, name string) bool {
	return (s.Rule == "" || s.Rule == rule) && (!s.hasResource || s.Resource.matchLower(id, name))
}

// Suppressions are the entries of one file, in its order.
type Suppressions []Suppression

// Suppressed is what a file did to a scan. The lists are in the order of the file, and hold no entry twice.
type Suppressed struct {
	Suppressed int           // findings that were marked
	Expired    []Suppression // over; what they match counts again
	Unused     []Suppression // still holding, and no finding that fails or is unknown is meant by them
	// Refused still hold and match an unknown finding that they do not cover, because they do not name its rule and its very resource.
	Refused []Suppression
}

// Apply marks what is suppressed among the findings, in place. Only failures, and unknown findings that are named explicitly, are
// marked. Of several entries for one finding the one that holds longest is told.
func (l Suppressions) Apply(findings []scan.Finding, now time.Time) Suppressed {
	var out Suppressed
	byID, byName := map[string][]int{}, map[string][]int{}
	var rest []int // patterns, and entries without a resource
	used, refused := make([]bool, len(l)), make([]bool, len(l))
	for i, s := range l {
		switch text := strings.ToLower(s.Resource.String()); {
		case !s.hasResource || !s.Resource.Literal():
			rest = append(rest, i)
		case strings.Contains(text, "/"):
			byID[text] = append(byID[text], i)
		default:
			byName[text] = append(byName[text], i)
		}
	}
	for i := range findings {
		f := &findings[i]
		f.Suppressed = nil
		if f.Status != scan.Fail && f.Status != scan.Unknown {
			continue
		}
		id, name := strings.ToLower(f.Resource), strings.ToLower(f.Name)
		best := -1
		for _, list := range [][]int{byID[id], byName[name], rest} {
			for _, j := range list {
				s := &l[j]
				if !now.Before(s.Until) || !s.matches(f.Rule, id, name) {
					continue
				}
				used[j] = true
				if f.Status == scan.Unknown && !s.Explicit() {
					refused[j] = true
					continue
				}
				if best < 0 || s.Until.After(l[best].Until) || s.Until.Equal(l[best].Until) && j < best {
					best = j
				}
			}
		}
		if best >= 0 {
			f.Suppressed = &scan.Suppression{Owner: l[best].Owner, Reason: l[best].Reason, Until: l[best].Until}
			out.Suppressed++
		}
	}
	for j, s := range l {
		switch {
		case !now.Before(s.Until):
			out.Expired = append(out.Expired, s)
		case !used[j]:
			out.Unused = append(out.Unused, s)
		case refused[j]:
			out.Refused = append(out.Refused, s)
		}
	}
	return out
}

// ParseSuppressions reads a suppressions file. Its error is a *FileError that names every fault with its line; then none of the
// entries is used. A file with a list of nothing is right, an empty one is not.
//
//	suppressions:
//	  - rule: vm-jit-missing
//	    resource: "*/resourceGroups/lab/*"
//	    owner: dana@example.org
//	    reason: a lab without data, torn down in spring
//	    until: 2027-03-31
func ParseSuppressions(file string, data []byte) (Suppressions, error) {
	p := suppressionParser{}
	p.parse(data)
	if len(p.faults) > 0 {
		return nil, fileError("suppressions file", file, suppressionsHint, p.faults)
	}
	return p.entries, nil
}

type suppressionParser struct {
	faults  []Fault
	entries Suppressions
}

func (p *suppressionParser) bad(line int, format string, args ...any) {
	p.faults = append(p.faults, Fault{line, fmt.Sprintf(format, args...)})
}

func (p *suppressionParser) parse(data []byte) {
	if len(data) > MaxSuppressions {
		p.bad(0, "it is larger than %d bytes", MaxSuppressions)
		return
	}
	l, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		p.syntax(err)
		return
	}
	var doc, second yaml.Node
	switch err := l.Load(&doc); {
	case errors.Is(err, io.EOF):
		p.bad(0, "it is empty: a file without entries reads suppressions: []")
		return
	case err != nil:
		p.syntax(err)
		return
	}
	if err := l.Load(&second); err == nil {
		p.bad(second.Line, "a second document begins here, and it would not be read")
		return
	} else if !errors.Is(err, io.EOF) {
		p.syntax(err)
		return
	}
	if len(doc.Content) != 1 {
		p.bad(1, "it is not a mapping with the key suppressions")
		return
	}
	top := p.mapping(doc.Content[0], "the file", "suppressions")
	list := top["suppressions"]
	if list == nil {
		if len(p.faults) == 0 {
			p.bad(1, "the key suppressions is missing")
		}
		return
	}
	list = followed(list)
	if list.Kind != yaml.SequenceNode {
		p.bad(list.Line, "suppressions is no list")
		return
	}
	first := map[string]int{}
	for _, n := range list.Content {
		before := len(p.faults)
		s := p.entry(n)
		if len(p.faults) > before {
			continue
		}
		id := string(s.Rule) + "\n" + strings.ToLower(s.Resource.String())
		if line := first[id]; line > 0 {
			p.bad(s.Line, "%s is suppressed in line %d already", s, line)
			continue
		}
		first[id] = s.Line
		p.entries = append(p.entries, s)
	}
}

// followed returns what an alias stands for.
func followed(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// mapping returns the values of a mapping by key. Unknown and repeated keys are faults.
func (p *suppressionParser) mapping(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	line := n.Line
	if n = followed(n); n.Kind != yaml.MappingNode {
		p.bad(line, "%s is not a mapping with the keys %s", what, strings.Join(known, ", "))
		return nil
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || !slices.Contains(known, k.Value):
			p.bad(k.Line, "there is no key %q: there are %s", short(k.Value), strings.Join(known, ", "))
		case out[k.Value] != nil:
			p.bad(k.Line, "the key %s stands there twice", k.Value)
		default:
			out[k.Value] = n.Content[i+1]
		}
	}
	return out
}

func (p *suppressionParser) entry(n *yaml.Node) Suppression {
	s := Suppression{Line: n.Line}
	values := p.mapping(n, "an entry", "rule", "resource", "owner", "reason", "until")
	if values == nil {
		return s
	}
	text := func(name string) string {
		v := values[name]
		if v == nil {
			return ""
		}
		line := v.Line
		v = followed(v)
		switch {
		case v.Kind != yaml.ScalarNode:
			p.bad(line, "%s is no text", name)
		case v.Tag == "!!null" || strings.TrimSpace(v.Value) == "":
			p.bad(line, "%s is empty", name)
		case len(v.Value) > 2000:
			p.bad(line, "%s is longer than 2000 bytes", name)
		case strings.ContainsFunc(v.Value, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }):
			p.bad(line, "%s holds characters that do not print", name)
		default:
			return strings.TrimSpace(v.Value)
		}
		return ""
	}
	for _, name := range []string{"owner", "reason", "until"} {
		if values[name] == nil {
			p.bad(n.Line, "the entry has no %s", name)
		}
	}
	if values["rule"] == nil && values["resource"] == nil {
		p.bad(n.Line, "the entry has neither rule nor resource: it would hide everything")
	}
	s.Owner, s.Reason = text("owner"), text("reason")
	if r := text("rule"); r != "" {
		s.Rule = scan.RuleID(r)
		if _, ok := scan.RuleOf(s.Rule); !ok {
			p.bad(values["rule"].Line, "there is no rule %q: there are %s", short(r), join(ruleIDs()))
		}
	}
	if r := text("resource"); r != "" {
		s.Resource, s.hasResource = NewGlob(r), true
		if values["rule"] == nil && s.Resource.everything() {
			p.bad(values["resource"].Line, "the resource %q without a rule would hide everything: name a group, a resource or a rule", short(r))
		}
	}
	if u := text("until"); u != "" {
		day, err := time.Parse(time.DateOnly, u)
		if err != nil {
			p.bad(values["until"].Line, "until is %q, and no date as 2027-03-31", short(u))
		}
		s.Until = day.AddDate(0, 0, 1)
	}
	return s
}

func short(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return s
}

func (p *suppressionParser) syntax(err error) {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		for _, e := range many.Errors {
			p.bad(e.Mark.Line, "it is no YAML: %s", e.Message)
		}
		return
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		p.bad(one.Mark.Line, "it is no YAML: %s", one.Message)
		return
	}
	p.bad(0, "it is no YAML: %v", err)
}

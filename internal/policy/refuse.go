package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// forbids is the refusal of a rule that denies, in its own words where it has some.
func (r *rule) forbids(q *query) error {
	e := access.Errorf(access.CodeDenied, "rule %s forbids %s", r.name, q.target)
	if err := q.judged[r]; err != nil {
		e = access.Errorf(access.CodeDenied, "rule %s forbids %s: its condition could not be judged (%v), and what cannot be judged is refused", r.name, q.target, err)
	}
	if r.doc.Message != "" {
		e.Message += ": " + r.doc.Message
	}
	if len(r.windows) > 0 {
		return e.WithHint("it holds %s; ask for another time, or ask an admin why", r.windowText())
	}
	return e.WithHint("ask an admin why")
}

func (r *rule) windowText() string {
	var out []string
	for _, w := range r.windows {
		out = append(out, w.text)
	}
	return strings.Join(out, "; ")
}

// nothing is the refusal where no rule matches: it names the rule that came nearest, and what kept it from matching. Of rules that are
// about other machines or other people it says nothing.
func (s *Set) nothing(q *query) error {
	verb := "ask for"
	if q.ask.BreakGlass {
		verb = "break the glass for"
	}
	e := access.Errorf(access.CodeDenied, "no policy rule lets %s %s %s from %s", q.ask.Requester, verb, q.target, q.source)
	hint := "an admin can add a rule to the policy"
	var best []string
	var nearest *rule
	unknownTo := 0
	for i := 0; i < len(s.rules); {
		v := s.scopes[i].matches(q)
		if v == no {
			i = s.scopes[i].end
			continue
		}
		if v == unknown {
			unknownTo = max(unknownTo, s.scopes[i].end)
		}
		r := &s.rules[i]
		if r.deny || i < unknownTo || !r.asks(q) {
			i++
			continue
		}
		if why := r.against(q); nearest == nil || len(why) < len(best) {
			best, nearest = why, r
		}
		i++
	}
	if nearest == nil {
		if q.ask.BreakGlass {
			hint = "ask in the usual way: curfew request create"
		}
		return e.WithHint("%s", hint)
	}
	e.Message += fmt.Sprintf("; rule %s comes nearest: %s", nearest.name, strings.Join(best, "; "))
	if len(best) == 1 {
		hint = nearest.instead(q)
	}
	return e.WithHint("%s", hint)
}

// against says what keeps the rule from matching, scope and requester aside.
func (r *rule) against(q *query) []string {
	var out []string
	if r.protocol != "" && r.protocol != q.target.Protocol {
		out = append(out, fmt.Sprintf("it is for %s, not %s", r.protocol, q.target.Protocol))
	} else if r.covers(q.target) != yes {
		out = append(out, fmt.Sprintf("it is for port %s, not %s", joined(r.ports), q.target.Ports))
	}
	if r.from(q.source) != yes {
		out = append(out, fmt.Sprintf("source %s does not lie in %s", q.source, joined(r.sources)))
	}
	if r.open(q) != yes {
		out = append(out, fmt.Sprintf("the access from %s to %s does not lie within %s", access.Clock(q.start), access.Clock(q.end), r.windowText()))
	}
	if len(out) == 0 && r.when != nil { // what is not about it at all need not be judged
		if _, err := r.when.holds(&q.in); err != nil {
			out = append(out, fmt.Sprintf("its condition could not be judged: %v", err))
		} else {
			out = append(out, fmt.Sprintf("its condition does not hold: %s", oneLine(r.when.text)))
		}
	}
	return out
}

// instead says what to do where one thing alone is in the way.
func (r *rule) instead(q *query) string {
	switch {
	case r.protocol != "" && r.protocol != q.target.Protocol:
		return fmt.Sprintf("ask for %s", r.protocol)
	case r.covers(q.target) != yes:
		return fmt.Sprintf("ask for port %s, one range at a time", joined(r.ports))
	case r.from(q.source) != yes:
		return fmt.Sprintf("ask from an address in %s", joined(r.sources))
	case r.open(q) != yes:
		if at, ok := next(r.windows, q.start, q.ask.Terms.Duration); ok && !q.ask.Extension {
			return fmt.Sprintf("ask with --at %s", at.UTC().Format("2006-01-02T15:04Z"))
		}
		return "ask for less time, within one of the rule's windows"
	case r.doc.Message != "":
		return r.doc.Message
	}
	return "an admin can add a rule to the policy"
}

func joined[T fmt.Stringer](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, x.String())
	}
	if len(out) > 10 {
		out = append(slices.Clip(out[:10]), "…")
	}
	return strings.Join(out, ", ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

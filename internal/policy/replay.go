package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Past is a request that was really made, with what is known now of its machines.
type Past struct {
	ID    string
	Asks  []access.Ask // one for each target
	At    time.Time    // when it was asked
	Needs []access.Need
	Auto  []string
	State string
}

// Outcome is what would become of a past request under another policy.
type Outcome string

// The outcomes.
const (
	Same      Outcome = "same"
	Refused   Outcome = "refused"    // it would be refused
	Others    Outcome = "others"     // others would have to agree, or more, or fewer
	ByItself  Outcome = "by_itself"  // nobody would be asked
	NotByself Outcome = "not_itself" // somebody would be asked, where nobody was
)

// Replayed is one past request under another policy.
type Replayed struct {
	ID        string    `json:"id"`
	At        time.Time `json:"at"`
	Requester string    `json:"requester"`
	What      string    `json:"what"`
	State     string    `json:"state"`
	Outcome   Outcome   `json:"outcome"`
	Text      string    `json:"text"`
	Rules     []string  `json:"rules,omitempty"`
}

// Replay decides past requests again, each at the instant at which it was asked.
func (s *Set) Replay(list []Past) []Replayed {
	var out []Replayed
	for _, p := range list {
		out = append(out, s.replay(p))
	}
	return out
}

func (s *Set) replay(p Past) Replayed {
	r := Replayed{ID: p.ID, At: p.At, State: p.State, Outcome: Same}
	var l access.Limits
	var what []string
	for i, a := range p.Asks {
		r.Requester = a.Requester
		for _, t := range a.Terms.Targets {
			what = append(what, t.String())
		}
		o, err := s.Decide(a, p.At)
		if err != nil {
			r.What = strings.Join(what, ", ")
			r.Outcome, r.Text = Refused, err.Error()
			var e *access.Error
			if errors.As(err, &e) {
				r.Text = e.Message
			}
			return r
		}
		if i == 0 {
			l = o
		} else {
			l = l.Strictest(o)
		}
	}
	r.What, r.Rules = strings.Join(what, ", "), l.Rules
	glass := len(p.Asks) > 0 && p.Asks[0].BreakGlass
	switch {
	case len(p.Asks) == 0:
		r.Outcome, r.Text = Refused, "it names no target"
	case glass:
		r.Text = "opened at once by break-glass, as before"
	case len(l.Needs) == 0 && len(p.Needs) > 0:
		r.Outcome, r.Text = ByItself, "approved by itself by rule "+strings.Join(l.Auto, ", ")
	case len(l.Needs) > 0 && len(p.Needs) == 0 && len(p.Auto) > 0:
		r.Outcome, r.Text = NotByself, needWords(l)
	case askedOf(l.Needs) != askedOf(p.Needs):
		r.Outcome, r.Text = Others, needWords(l)+"; was "+needWords(access.Limits{Needs: p.Needs})
	default:
		r.Text = "as before"
	}
	return r
}

// askedOf says who must agree, whatever the rules are called.
func askedOf(needs []access.Need) string {
	var out []string
	for _, n := range needs {
		one := fmt.Sprint(n.InOrder)
		for _, s := range n.Steps {
			list := slices.Clone(s.Approvers)
			for i := range list {
				list[i] = fold(list[i])
			}
			slices.Sort(list)
			one += fmt.Sprintf("; %d of %v then %v after %s", max(s.Count, 1), list, s.EscalateTo, s.EscalateAfter)
		}
		out = append(out, one)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "\n")
}

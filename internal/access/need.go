package access

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Step is who must approve, and how many (DESIGN 2).
type Step struct {
	Name string `json:"name,omitempty"`
	// Approvers are people, and groups of them written "group:NAME"; empty: everybody with the role. Names are compared without case.
	Approvers []string `json:"approvers,omitempty"`
	Count     int      `json:"count"` // how many people; never less than one
	// RemindAfter and EscalateAfter count from the asking; zero: never. From then on EscalateTo may answer in place of Approvers.
	RemindAfter   time.Duration `json:"remind_after,omitempty"`
	EscalateAfter time.Duration `json:"escalate_after,omitempty"`
	EscalateTo    []string      `json:"escalate_to,omitempty"`
}

// Need is what one policy rule asks of the people who approve. All needs of a request must be met; one approval may serve several
// rules, and within a rule each person serves one step only.
type Need struct {
	Rule    string `json:"rule"`
	Steps   []Step `json:"steps"`
	InOrder bool   `json:"in_order,omitempty"` // a step is answered once those before it are
}

// Authority is a person in whose right a review is given: the reviewer's own, or that of somebody who delegated.
type Authority struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"` // as the policy names them
}

// GroupPrefix marks a group in a list of people.
const GroupPrefix = "group:"

// Listed tells whether the person, or a group of theirs, stands in the list.
func (a Authority) Listed(list []string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		if len(s) > len(GroupPrefix) && strings.EqualFold(s[:len(GroupPrefix)], GroupPrefix) {
			return slices.ContainsFunc(a.Groups, func(g string) bool { return SamePerson(g, s[len(GroupPrefix):]) })
		}
		return SamePerson(s, a.Name)
	})
}

func (s Step) count() int { return max(s.Count, 1) }

// may tells whether the authority may answer the step at an instant.
func (s Step) may(a Authority, asked, at time.Time) bool {
	if len(s.Approvers) == 0 || a.Listed(s.Approvers) {
		return true
	}
	return s.Escalated(asked, at) && a.Listed(s.EscalateTo)
}

// Escalated tells whether those whom the step escalates to may answer by now.
func (s Step) Escalated(asked, now time.Time) bool {
	return s.EscalateAfter > 0 && len(s.EscalateTo) > 0 && !now.Before(asked.Add(s.EscalateAfter))
}

// Words says whom the step waits for.
func (s Step) Words() string {
	who := "anybody who may approve"
	if len(s.Approvers) > 0 {
		who = strings.Join(s.Approvers, ", ")
	}
	if n := s.count(); n > 1 {
		who = fmt.Sprintf("%d of %s", n, who)
	}
	if s.Name != "" {
		who = s.Name + ": " + who
	}
	return who
}

// Waiting is a step that still lacks approvals.
type Waiting struct {
	Rule    string `json:"rule"`
	Step    Step   `json:"step"`
	Missing int    `json:"missing"`
}

// Outstanding returns the steps that lack approvals, in the order of the rules; with InOrder only the first of a rule can be
// answered now, and the later ones are returned all the same. No need at all, or a need without steps, was never judged and is not
// met: it returns a step that nobody can answer (P1).
func Outstanding(needs []Need, reviews []Review, asked time.Time) []Waiting {
	return slices.Concat(outstanding(needs, reviews, asked)...)
}

// Answerable returns those of the outstanding steps whose turn it is.
func Answerable(needs []Need, reviews []Review, asked time.Time) []Waiting {
	var out []Waiting
	for i, ws := range outstanding(needs, reviews, asked) {
		if len(ws) > 1 && needs[i].InOrder {
			ws = ws[:1]
		}
		out = append(out, ws...)
	}
	return out
}

// outstanding returns what each need lacks.
func outstanding(needs []Need, reviews []Review, asked time.Time) [][]Waiting {
	if len(needs) == 0 {
		return [][]Waiting{{{Step: Step{Count: 1}, Missing: 1}}}
	}
	out := make([][]Waiting, len(needs))
	given := approvals(reviews)
	for k, n := range needs {
		if len(n.Steps) == 0 {
			out[k] = []Waiting{{Rule: n.Rule, Step: Step{Count: 1}, Missing: 1}}
			continue
		}
		for i, missing := range n.missing(given, asked) {
			if missing > 0 {
				out[k] = append(out[k], Waiting{Rule: n.Rule, Step: n.Steps[i], Missing: missing})
			}
		}
	}
	return out
}

// MissingOf returns how many approvals are missing at least: one may serve several rules, so that it is the most that one rule lacks.
func MissingOf(needs []Need, reviews []Review, asked time.Time) int {
	most := 0
	for _, ws := range outstanding(needs, reviews, asked) {
		sum := 0
		for _, w := range ws {
			sum += w.Missing
		}
		most = max(most, sum)
	}
	return most
}

// Serves tells whether an approval by these authorities, given now, would bring the request nearer to what it needs.
func Serves(needs []Need, reviews []Review, by string, as []Authority, asked, now time.Time) bool {
	before := total(needs, reviews, asked)
	with := append(slices.Clone(reviews), Review{Reviewer: by, Decision: Approve, Authorities: as, At: now})
	return total(needs, with, asked) < before
}

// Concerned tells whether the authorities are among those who may answer any step, now or later: enough to deny.
func Concerned(needs []Need, as []Authority) bool {
	return slices.ContainsFunc(needs, func(n Need) bool {
		return slices.ContainsFunc(n.Steps, func(s Step) bool {
			return len(s.Approvers) == 0 || slices.ContainsFunc(as, func(a Authority) bool { return a.Listed(s.Approvers) || a.Listed(s.EscalateTo) })
		})
	})
}

func total(needs []Need, reviews []Review, asked time.Time) int {
	n := 0
	for _, w := range Outstanding(needs, reviews, asked) {
		n += w.Missing
	}
	return n
}

// approvals returns the approvals with the authorities that count: somebody who answered themself is not answered for by a
// delegate as well, and of two delegates of one person the first counts.
func approvals(reviews []Review) []Review {
	var out []Review
	used := map[string]bool{}
	for _, v := range reviews {
		used[fold(v.Reviewer)] = true
	}
	for _, v := range reviews {
		if v.Decision != Approve {
			continue
		}
		as := v.Authorities
		if len(as) == 0 {
			as = []Authority{{Name: v.Reviewer}}
		}
		var keep []Authority
		for _, a := range as {
			own := SamePerson(a.Name, v.Reviewer)
			if !own && used[fold(a.Name)] {
				continue
			}
			used[fold(a.Name)] = true
			keep = append(keep, a)
		}
		v.Authorities = keep
		out = append(out, v)
	}
	return out
}

// fold gives one spelling to names that SamePerson takes for the same.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, strings.TrimSpace(s))
}

// missing returns for each step how many approvals it lacks, with the approvals spread so that as few as possible are missing.
func (n Need) missing(given []Review, asked time.Time) []int {
	lack := make([]int, len(n.Steps))
	for i, s := range n.Steps {
		lack[i] = s.count()
	}
	if n.InOrder {
		at := 0
		for _, v := range given { // in the order in which they were given
			for at < len(lack) && lack[at] == 0 {
				at++
			}
			if at < len(lack) && n.Steps[at].serves(v, asked) {
				lack[at]--
			}
		}
		return lack
	}
	// Each approval takes a place in a step; one that is full makes room by moving an approval of its own elsewhere (an augmenting
	// path), so that the order in which people answered does not decide whether it is enough.
	taken := make([][]int, len(n.Steps)) // step -> approvals
	var place func(v int, seen []bool) bool
	place = func(v int, seen []bool) bool {
		for i, s := range n.Steps {
			if seen[i] || !s.serves(given[v], asked) {
				continue
			}
			seen[i] = true
			if len(taken[i]) < s.count() {
				taken[i] = append(taken[i], v)
				return true
			}
			for k, o := range taken[i] {
				if place(o, seen) {
					taken[i][k] = v
					return true
				}
			}
		}
		return false
	}
	for v := range given {
		place(v, make([]bool, len(n.Steps)))
	}
	for i := range lack {
		lack[i] -= len(taken[i])
	}
	return lack
}

func (s Step) serves(v Review, asked time.Time) bool {
	return slices.ContainsFunc(v.Authorities, func(a Authority) bool { return s.may(a, asked, v.At) })
}

// Approvals returns how many people must approve at least.
func Approvals(needs []Need) int {
	most := 0
	for _, n := range needs {
		most = max(most, n.people())
	}
	return most
}

// Needs joins what two rules need, or what was needed at first with what is needed now: both count, so that one rule more, or a
// change of the policy while a request waits, makes nothing easier. A need that anybody can meet is left out where another asks for
// as many people: meeting that one meets it as well.
func Needs(a, b []Need) []Need {
	all := slices.Clone(a)
	for _, n := range b {
		if !slices.ContainsFunc(all, n.equal) {
			all = append(all, n)
		}
	}
	var out []Need
	for i, n := range all {
		if !slices.ContainsFunc(all, func(o Need) bool { return o.people() > n.people() || o.people() == n.people() && !o.anybody() }) &&
			!slices.ContainsFunc(all[:i], func(o Need) bool { return o.people() == n.people() }) || !n.anybody() {
			out = append(out, n)
		}
	}
	return out
}

// anybody tells whether everybody with the role can answer every step.
func (n Need) anybody() bool {
	return len(n.Steps) > 0 && !slices.ContainsFunc(n.Steps, func(s Step) bool { return len(s.Approvers) > 0 })
}

// people returns how many people it takes.
func (n Need) people() int {
	sum := 0
	for _, s := range n.Steps {
		sum += s.count()
	}
	return sum
}

func (n Need) equal(o Need) bool {
	return n.Rule == o.Rule && n.InOrder == o.InOrder && slices.EqualFunc(n.Steps, o.Steps, func(a, b Step) bool {
		return a.Name == b.Name && a.Count == b.Count && a.RemindAfter == b.RemindAfter && a.EscalateAfter == b.EscalateAfter &&
			slices.Equal(a.Approvers, b.Approvers) && slices.Equal(a.EscalateTo, b.EscalateTo)
	})
}

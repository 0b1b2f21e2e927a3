package access_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
)

var needPeople = []string{"ann", "bob", "cyd", "dan"}
var needGroups = []string{"sre", "dba"}

func drawList(t *rapid.T, label string) []string {
	all := []string{"ann", "BOB", "cyd", "group:sre", "Group:DBA"}
	return rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 3, rapid.ID).Draw(t, label)
}

func drawNeeds(t *rapid.T) []access.Need {
	var out []access.Need
	for i := range rapid.IntRange(1, 3).Draw(t, "rules") {
		n := access.Need{Rule: fmt.Sprint("rule-", i), InOrder: rapid.Bool().Draw(t, "in order")}
		for range rapid.IntRange(1, 3).Draw(t, "steps") {
			s := access.Step{Approvers: drawList(t, "approvers"), Count: rapid.IntRange(0, 2).Draw(t, "count")}
			if rapid.Bool().Draw(t, "escalates") {
				s.EscalateAfter, s.EscalateTo = time.Hour, drawList(t, "escalate to")
			}
			n.Steps = append(n.Steps, s)
		}
		out = append(out, n)
	}
	return out
}

func drawReviews(t *rapid.T) []access.Review {
	var out []access.Review
	at := t0
	for _, who := range rapid.SliceOfNDistinct(rapid.SampledFrom(needPeople), 0, 4, rapid.ID).Draw(t, "reviewers") {
		at = at.Add(rapid.SampledFrom([]time.Duration{time.Minute, 45 * time.Minute}).Draw(t, "later"))
		v := access.Review{Reviewer: who, Decision: access.Approve, At: at, Authorities: []access.Authority{{Name: who,
			Groups: rapid.SliceOfDistinct(rapid.SampledFrom(needGroups), rapid.ID).Draw(t, "groups")}}}
		if rapid.IntRange(0, 3).Draw(t, "delegate") == 0 {
			others := slices.DeleteFunc(slices.Clone(needPeople), func(p string) bool { return p == who })
			v.Authorities = append(v.Authorities, access.Authority{Name: rapid.SampledFrom(others).Draw(t, "for"),
				Groups: rapid.SliceOfDistinct(rapid.SampledFrom(needGroups), rapid.ID).Draw(t, "their groups")})
		}
		out = append(out, v)
	}
	return out
}

// dumbMay says whether a review may stand in a step, from first words.
func dumbMay(s access.Step, v access.Review, all []access.Review) bool {
	for i, a := range v.Authorities {
		if i > 0 { // lent: not if that person answered themself, nor if an earlier delegate used it
			used := false
			for _, o := range all {
				if strings.EqualFold(o.Reviewer, a.Name) {
					used = true
				}
				if o.At.Before(v.At) && slices.ContainsFunc(o.Authorities[1:], func(b access.Authority) bool { return strings.EqualFold(a.Name, b.Name) }) {
					used = true
				}
			}
			if used {
				continue
			}
		}
		in := func(list []string) bool {
			for _, l := range list {
				l = strings.ToLower(l)
				if l == a.Name || strings.HasPrefix(l, "group:") && slices.Contains(a.Groups, l[6:]) {
					return true
				}
			}
			return false
		}
		if len(s.Approvers) == 0 || in(s.Approvers) || s.EscalateAfter > 0 && !v.At.Before(t0.Add(s.EscalateAfter)) && in(s.EscalateTo) {
			return true
		}
	}
	return false
}

// dumbMost tries every way to give each review a step of the need, or none, and returns the most places that can be filled. In order,
// a review goes to the first step that is not full, or nowhere.
func dumbMost(n access.Need, vs []access.Review) int {
	free := make([]int, len(n.Steps))
	for i, s := range n.Steps {
		free[i] = max(s.Count, 1)
	}
	if n.InOrder {
		filled := 0
		for _, v := range vs {
			i := slices.IndexFunc(free, func(f int) bool { return f > 0 })
			if i >= 0 && dumbMay(n.Steps[i], v, vs) {
				free[i]--
				filled++
			}
		}
		return filled
	}
	var best func(i int) int
	best = func(i int) int {
		if i == len(vs) {
			return 0
		}
		most := best(i + 1)
		for k := range free {
			if free[k] > 0 && dumbMay(n.Steps[k], vs[i], vs) {
				free[k]--
				most = max(most, 1+best(i+1))
				free[k]++
			}
		}
		return most
	}
	return best(0)
}

// P6: what is outstanding is what no spreading of the approvals over the steps can fill; whoever serves brings it nearer.
func TestOutstandingAgainstEverySpreading(t *testing.T) {
	met, unmet := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		needs, reviews := drawNeeds(t), drawReviews(t)
		lack := map[string]int{}
		for _, w := range access.Outstanding(needs, reviews, t0) {
			lack[w.Rule] += w.Missing
		}
		all := true
		for _, n := range needs {
			people := 0
			for _, s := range n.Steps {
				people += max(s.Count, 1)
			}
			if want := people - dumbMost(n, reviews); lack[n.Rule] != want {
				t.Fatalf("%s lacks %d, want %d\n%+v\n%+v", n.Rule, lack[n.Rule], want, n, reviews)
			}
			all = all && lack[n.Rule] == 0
		}
		if all {
			met++
		} else {
			unmet++
		}
		// An approval more never makes more outstanding.
		if len(reviews) > 0 {
			before := reviews[:len(reviews)-1]
			last := reviews[len(reviews)-1]
			was, is := 0, 0
			for _, w := range access.Outstanding(needs, before, t0) {
				was += w.Missing
			}
			for _, w := range access.Outstanding(needs, reviews, t0) {
				is += w.Missing
			}
			if lent := len(last.Authorities) > 1; !lent && is > was && !slices.ContainsFunc(before, func(v access.Review) bool { return len(v.Authorities) > 1 }) {
				t.Fatalf("%d outstanding before the last approval, %d after", was, is)
			}
			if got := access.Serves(needs, before, last.Reviewer, last.Authorities, t0, last.At); got != (is < was) {
				t.Fatalf("serves %v, and %d outstanding became %d", got, was, is)
			}
		}
	})
	if met == 0 || unmet == 0 {
		t.Errorf("%d met, %d unmet: the generator shows only one side", met, unmet)
	}
}

// P1: what was never judged is never met.
func TestNoNeedIsNotMet(t *testing.T) {
	reviews := []access.Review{{Reviewer: "ann", Decision: access.Approve, At: t0}, {Reviewer: "bob", Decision: access.Approve, At: t0}}
	for name, needs := range map[string][]access.Need{"none": nil, "without steps": {{Rule: "r"}}} {
		if len(access.Outstanding(needs, reviews, t0)) == 0 || access.Serves(needs, nil, "ann", nil, t0, t0) {
			t.Errorf("%s: it is met, or an approval serves it", name)
		}
	}
}

// Joining needs makes nothing easier: whoever met both meets the joined, and whoever meets the joined met both.
func TestNeedsJoined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, reviews := drawNeeds(t), drawNeeds(t), drawReviews(t)
		both := len(access.Outstanding(a, reviews, t0)) == 0 && len(access.Outstanding(b, reviews, t0)) == 0
		if joined := len(access.Outstanding(access.Needs(a, b), reviews, t0)) == 0; joined != both {
			t.Fatalf("joined is met: %v, each is met: %v\n%+v\n%+v\n%+v", joined, both, a, b, reviews)
		}
	})
}

// P6: nobody lends their right to decide on what they asked for, and nobody decides on what a program asked for which they answer.
func TestNobodyDecidesOnTheirOwn(t *testing.T) {
	r := requestIn(access.Pending)
	r.Sponsor = "sam"
	r.Needs = []access.Need{{Rule: "r", Steps: []access.Step{{Approvers: []string{"alice", "sam"}, Count: 1}}}}
	for name, ev := range map[string]access.ReviewEvent{
		"the requester's right, lent":     {By: "bob", As: []access.Authority{{Name: "bob"}, {Name: "Alice "}}},
		"the sponsor's right, lent":       {By: "bob", As: []access.Authority{{Name: "bob"}, {Name: "sam"}}},
		"the sponsor":                     {By: "SAM", As: []access.Authority{{Name: "SAM"}}},
		"the requester":                   {By: "alice", As: []access.Authority{{Name: "alice"}}},
		"somebody who calls himself both": {By: "bob", As: []access.Authority{{Name: "alice"}, {Name: "sam"}}},
	} {
		ev.Decision = access.Approve
		if out, effects, err := r.Step(ev, t0); access.CodeOf(err) != access.CodeDenied || len(effects) > 0 || out.State != access.Pending {
			t.Errorf("%s: %v, %v, %s", name, err, effects, out.State)
		}
	}
}

// An approval is for what was shown: a request that was narrowed since is shown again.
func TestDigest(t *testing.T) {
	r := requestIn(access.Pending)
	shown := r.Digest()
	n := r.Terms
	n.Duration /= 2
	r2, _, err := r.Step(access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: &n, Digest: shown}, t0)
	if err != nil || r2.State != access.Pending || r2.Digest() == shown {
		t.Fatalf("%v, %s, digest changed: %v", err, r2.State, r2.Digest() != shown)
	}
	if _, _, err := r2.Step(access.ReviewEvent{By: "cyd", Decision: access.Approve, Digest: shown}, t0); access.CodeOf(err) != access.CodePlanChanged {
		t.Errorf("approved by somebody who saw more: %v", err)
	}
	if _, _, err := r2.Step(access.ReviewEvent{By: "cyd", Decision: access.Approve, Digest: r2.Digest()}, t0); err != nil {
		t.Errorf("approved as it stands: %v", err)
	}
	seen := map[string]string{shown: "as it was"}
	for name, change := range map[string]func(*access.Request){
		"requester": func(r *access.Request) { r.Requester = "mallory" }, "reason": func(r *access.Request) { r.Reason += "." }, "ticket": func(r *access.Request) { r.Ticket = "x" },
		"start": func(r *access.Request) { r.StartAt = t0.Add(time.Hour) }, "extends": func(r *access.Request) { r.Extends = "g-1" }, "glass": func(r *access.Request) { r.BreakGlass = true },
		"sponsor": func(r *access.Request) { r.Sponsor = "sam" }, "duration": func(r *access.Request) { r.Terms.Duration++ }, "id": func(r *access.Request) { r.ID = "r-x" },
	} {
		q := requestIn(access.Pending)
		change(&q)
		if was, ok := seen[q.Digest()]; ok {
			t.Errorf("%s has the digest of %s", name, was)
		}
		seen[q.Digest()] = name
	}
}

// What the policy approves by itself, and what breaks the glass, opens without anybody; nothing else does.
func TestOpenedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*access.Request)
		ev     access.Event
		ok     bool
	}{
		"automatic":                      {func(r *access.Request) { r.Needs, r.Auto = nil, []string{"auto"} }, access.AutoEvent{}, true},
		"automatic, and somebody needed": {func(r *access.Request) { r.Auto = []string{"auto"} }, access.AutoEvent{}, false},
		"no rule approves by itself":     {func(r *access.Request) { r.Needs = nil }, access.AutoEvent{}, false},
		"glass":                          {func(r *access.Request) { r.BreakGlass = true }, access.BreakGlassEvent{}, true},
		"no glass":                       {func(r *access.Request) {}, access.BreakGlassEvent{}, false},
		"glass is not automatic":         {func(r *access.Request) { r.BreakGlass, r.Needs, r.Auto = true, nil, []string{"auto"} }, access.AutoEvent{}, false},
	} {
		r := requestIn(access.Pending)
		c.change(&r)
		out, effects, err := r.Step(c.ev, t0)
		if (err == nil) != c.ok || (len(effects) == 1) != c.ok || (out.State == access.Approved) != c.ok {
			t.Errorf("%s: %v, %d effects, %s", name, err, len(effects), out.State)
		}
		if c.ok && (out.Aftermath != nil) != out.BreakGlass {
			t.Errorf("%s: aftermath %v", name, out.Aftermath)
		}
	}
}

func TestLookBack(t *testing.T) {
	r := requestIn(access.Pending)
	if _, err := r.LookBack("bob", "fine", t0); access.CodeOf(err) != access.CodeConflict {
		t.Errorf("nothing was broken: %v", err)
	}
	r.BreakGlass = true
	r, _, err := r.Step(access.BreakGlassEvent{}, t0)
	if err != nil || !r.Aftermath.Open() {
		t.Fatal(err)
	}
	r.Sponsor = "sam"
	for who, code := range map[string]access.Code{"ALICE": access.CodeDenied, "sam": access.CodeDenied, " ": access.CodeUnauthenticated} {
		if _, err := r.LookBack(who, "fine", t0); access.CodeOf(err) != code {
			t.Errorf("%q: %v, want %s", who, err, code)
		}
	}
	out, err := r.LookBack("bob", "it was needed", t0)
	if err != nil || out.Aftermath.Open() || out.Aftermath.ClosedBy != "bob" || !r.Aftermath.Open() {
		t.Errorf("%+v, %v", out.Aftermath, err)
	}
	if _, err := out.LookBack("cyd", "me too", t0); access.CodeOf(err) != access.CodeConflict {
		t.Errorf("twice: %v", err)
	}
}

// P6: names that SamePerson takes for one person are one in the counting as well, whichever letters they are written with.
func TestOnePersonInAnySpelling(t *testing.T) {
	needs := []access.Need{{Rule: "two", Steps: []access.Step{{Approvers: []string{"kim", "bob"}, Count: 2}}}}
	inPlaceOfKim := access.Review{Reviewer: "cyd", Decision: access.Approve, At: t0, Authorities: []access.Authority{{Name: "cyd"}, {Name: "kim"}}}
	kim := access.Review{Reviewer: "\u212aIM", Decision: access.Approve, At: t0} // the sign for Kelvin
	if !access.SamePerson(kim.Reviewer, "kim") {
		t.Fatal("they are not one person")
	}
	if n := access.MissingOf(needs, []access.Review{inPlaceOfKim, kim}, t0); n != 1 {
		t.Errorf("%d missing, want 1: kim, and somebody in their place", n)
	}
}

// What a rule asked for then and what it asks for now are two needs of one name: one approval may meet both, and a step of one of them
// says nothing about whose turn it is in the other.
func TestTwoNeedsOfOneRule(t *testing.T) {
	a, b := access.Step{Approvers: []string{"ann"}, Count: 1}, access.Step{Approvers: []string{"bob"}, Count: 1}
	needs := []access.Need{{Rule: "prod", Steps: []access.Step{{Approvers: []string{"group:sre"}, Count: 1}}}, {Rule: "prod", InOrder: true, Steps: []access.Step{a, b}}}
	if n := access.MissingOf(needs, nil, t0); n != 2 {
		t.Errorf("%d missing at least, want 2", n)
	}
	var who []string
	for _, w := range access.Answerable(needs, nil, t0) {
		who = append(who, w.Step.Approvers...)
	}
	if !slices.Equal(who, []string{"group:sre", "ann"}) {
		t.Errorf("it waits for %v", who)
	}
}

package broker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// right is in whose right an approval was given, as the model saw it at that moment.
type right struct {
	name   string
	groups []string
}

type approval struct {
	by     string
	at     time.Time
	rights []right // their own first
}

// modelled is what the model remembers of a request.
type modelled struct {
	r         access.Request
	sponsor   string
	asked     []policy.Rule // that were about it when it was asked
	approvals []approval
}

// reviews is a dumb model of who may decide, beside a broker: random policies, requests, delegations, approvals for less, and policies
// that change meanwhile. It knows rules as they are written, and nothing of how the broker joins or counts them.
type reviews struct {
	t     *testing.T
	s     *bt.Stack
	rng   *rand.Rand
	doc   policy.Document
	lent  map[string][]string // delegate -> those who lent
	known []*modelled
	n     int
	log   []string
	seen  map[string]int // how often something of interest came about
}

var deciders = []access.Caller{bt.Approver, bt.Approver2, bt.Both, bt.Both3}

func pick[T any](h *reviews, of ...T) T { return of[h.rng.IntN(len(of))] }

func (h *reviews) some(of ...string) (out []string) {
	for _, s := range of {
		if h.rng.IntN(2) == 0 {
			out = append(out, s)
		}
	}
	return out
}

func (h *reviews) say(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

var names = []string{"approver", "APPROVER-2", "both", "both-3"}

func (h *reviews) rule(i int) policy.Rule {
	r := policy.Rule{Name: fmt.Sprintf("rule-%d", i), InOrder: h.rng.IntN(3) == 0}
	if h.rng.IntN(3) == 0 {
		r.Requesters = append(h.some("requester", "Both", "token:ci"), "requester-2")
	}
	if h.rng.IntN(3) == 0 {
		r.When = fmt.Sprintf("request.duration %s duration('%dm')", pick(h, "<=", ">"), pick(h, 30, 45, 60))
	}
	for range 1 + h.rng.IntN(2) {
		st := policy.Step{Count: 1 + h.rng.IntN(4)/3}
		if h.rng.IntN(4) > 0 {
			st.Approvers = append(h.some(append([]string{"group:sre", "group:dba"}, names...)...), pick(h, "group:sre", "group:dba"))
			if h.rng.IntN(3) == 0 {
				st.EscalateAfter, st.EscalateTo = access.Duration(10*time.Minute), []string{pick(h, names...)}
			}
		}
		r.Steps = append(r.Steps, st)
	}
	if h.rng.IntN(4) == 0 {
		r.AutoApprove = &policy.AutoApprove{MaxDuration: access.Duration(pick(h, 30, 60) * int(time.Minute))}
	}
	return r
}

func (h *reviews) newPolicy() {
	h.doc = policy.Document{Groups: map[string]policy.Group{"sre": {Members: h.some(names...)}, "dba": {Members: h.some(names...)}}}
	for i := range 1 + h.rng.IntN(3) {
		h.doc.Rules = append(h.doc.Rules, h.rule(i))
	}
	text, _ := h.doc.Print()
	h.say("policy:\n%s", text)
}

// about returns the rules that are about a request for so long.
func (h *reviews) about(requester string, d time.Duration) (out []policy.Rule) {
	for _, r := range h.doc.Rules {
		ok := len(r.Requesters) == 0 || slices.ContainsFunc(r.Requesters, func(s string) bool { return strings.EqualFold(s, requester) })
		if r.When != "" {
			var op string
			var m int
			if _, err := fmt.Sscanf(strings.NewReplacer("duration('", "", "m')", "").Replace(r.When), "request.duration %s %d", &op, &m); err != nil {
				h.t.Fatal(err)
			}
			ok = ok && (d <= time.Duration(m)*time.Minute) == (op == "<=")
		}
		if ok {
			out = append(out, r)
		}
	}
	return out
}

func byItself(r policy.Rule, d time.Duration) bool {
	return r.AutoApprove != nil && d <= time.Duration(r.AutoApprove.MaxDuration)
}

func (h *reviews) groupsOf(name string) (out []string) {
	for g, v := range h.doc.Groups {
		if slices.ContainsFunc(v.Members, func(m string) bool { return strings.EqualFold(m, name) }) {
			out = append(out, g)
		}
	}
	return out
}

func (h *reviews) ask() {
	h.n++
	c := pick(h, bt.Requester, bt.Requester2, bt.Both, access.Caller{Name: "token:ci", Kind: access.APIToken, Sponsor: pick(h, "Both", "approver"), Roles: []access.Role{access.Requester}})
	d := time.Duration(pick(h, 20, 40, 50, 90)) * time.Minute
	r, err := h.s.Broker.CreateRequest(h.t.Context(), c, broker.RequestInput{VMs: []string{"web-01"}, Duration: d, Reason: "x", Source: "198.51.100.1",
		StartAt: h.s.Clock.Now().Add(20*time.Hour + time.Duration(h.n)*time.Second)})
	h.say("%s (of %q) asks for %s: %s %v", c.Name, c.Sponsor, access.Duration(d), r.State, err)
	if err != nil {
		if rules := h.about(c.Name, d); len(rules) > 0 {
			h.t.Fatalf("refused although %d rules are about it: %v", len(rules), err)
		}
		return
	}
	m := &modelled{r: r, sponsor: c.Sponsor, asked: h.about(c.Name, d)}
	h.known = append(h.known, m)
	if r.State == access.Approved {
		h.judge(m)
	}
}

func (h *reviews) review() {
	if len(h.known) == 0 {
		return
	}
	m := pick(h, h.known...)
	c := pick(h, deciders...)
	var in broker.ReviewInput
	if h.rng.IntN(3) == 0 {
		in.Duration = time.Duration(pick(h, 15, 35, 50)) * time.Minute
	}
	was := m.r.State
	r, err := h.s.Broker.Approve(h.t.Context(), c, m.r.ID, in)
	h.say("%s approves %s for %s: %s %v", c.Name, m.r.ID, access.Duration(in.Duration), r.State, err)
	if err != nil {
		return
	}
	if was != access.Pending {
		h.t.Fatalf("%s was %s and took an approval", r.ID, was)
	}
	a := approval{by: c.Name, at: h.s.Clock.Now(), rights: []right{{c.Name, h.groupsOf(c.Name)}}}
	for _, from := range h.lent[c.Name] {
		a.rights = append(a.rights, right{from, h.groupsOf(from)})
	}
	m.r, m.approvals = r, append(m.approvals, a)
	if r.State == access.Approved {
		h.judge(m)
	}
}

// judge holds an approved request against every rule that was or is about it.
func (h *reviews) judge(m *modelled) {
	t, d := h.t, m.r.Terms.Duration
	if len(m.r.Grants) != 1 || d > m.r.Asked.Duration {
		t.Fatalf("approved: %+v", m.r)
	}
	now := h.about(m.r.Requester, d)
	if len(now) == 0 {
		t.Fatal("approved although no rule is about it")
	}
	for i, a := range m.approvals {
		if same(a.by, m.r.Requester) || same(a.by, m.sponsor) {
			t.Fatalf("%s decided on what they asked for", a.by)
		}
		if slices.ContainsFunc(m.approvals[:i], func(o approval) bool { return same(o.by, a.by) }) {
			t.Fatalf("%s answered twice", a.by)
		}
	}
	check := func(rules []policy.Rule, d time.Duration) {
		for _, r := range rules {
			if byItself(r, d) {
				h.seen["by itself"]++
				continue
			}
			if !h.met(r, m) {
				t.Fatalf("%s is approved, and rule %s is not met by %+v", m.r.ID, r.Name, m.approvals)
			}
			h.seen["by people"]++
		}
	}
	check(m.asked, m.r.Asked.Duration)
	check(now, d)
	if d < m.r.Asked.Duration {
		h.seen["for less"]++
	}
	if len(m.approvals) > 1 {
		h.seen["by several"]++
	}
	if m.sponsor != "" && len(m.approvals) > 0 {
		h.seen["of a program"]++
	}
}

func same(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// met tries every way of giving each place in the rule's steps to another person; each who lends their right is answered for once.
func (h *reviews) met(r policy.Rule, m *modelled) bool {
	type place struct{ step policy.Step }
	var places []place
	for _, st := range r.Steps {
		for range max(st.Count, 1) {
			places = append(places, place{st})
		}
	}
	listed := func(list []string, x right) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			if g, ok := strings.CutPrefix(s, "group:"); ok {
				return slices.ContainsFunc(x.groups, func(o string) bool { return strings.EqualFold(o, g) })
			}
			return strings.EqualFold(s, x.name)
		})
	}
	fits := func(st policy.Step, a approval, x right, lent map[string]bool) bool {
		own := same(x.name, a.by)
		if !own && (same(x.name, m.r.Requester) || same(x.name, m.sponsor) || lent[strings.ToLower(x.name)] ||
			slices.ContainsFunc(m.approvals, func(o approval) bool { return same(o.by, x.name) })) {
			return false
		}
		late := st.EscalateAfter > 0 && !a.at.Before(m.r.CreatedAt.Add(time.Duration(st.EscalateAfter)))
		return len(st.Approvers) == 0 || listed(st.Approvers, x) || late && listed(st.EscalateTo, x)
	}
	var try func(i, after int, used map[int]bool, lent map[string]bool) bool
	try = func(i, after int, used map[int]bool, lent map[string]bool) bool {
		if i == len(places) {
			return true
		}
		for k, a := range m.approvals {
			if used[k] || r.InOrder && k < after {
				continue
			}
			for _, x := range a.rights {
				if !fits(places[i].step, a, x, lent) {
					continue
				}
				in := strings.ToLower(x.name)
				used[k], lent[in] = true, true
				if try(i+1, k, used, lent) {
					return true
				}
				delete(used, k)
				delete(lent, in)
			}
		}
		return false
	}
	return try(0, 0, map[int]bool{}, map[string]bool{})
}

func (h *reviews) delegate() {
	from, to := pick(h, deciders...), pick(h, deciders...)
	_, err := h.s.Broker.Delegate(h.t.Context(), from, broker.DelegateInput{To: to.Name, Until: h.s.Clock.Now().Add(50 * time.Hour)})
	h.say("%s lends to %s: %v", from.Name, to.Name, err)
	if err == nil {
		h.lent[to.Name] = append(h.lent[to.Name], from.Name)
	}
}

// clear takes back what a history has left.
func (h *reviews) clear() {
	for _, m := range h.known {
		c := access.Caller{Name: m.r.Requester, Roles: []access.Role{access.Requester}}
		if m.r.State == access.Pending {
			must[access.Request](h.t)(h.s.Broker.Cancel(h.t.Context(), c, m.r.ID))
		}
		for _, g := range m.r.Grants {
			must[access.Grant](h.t)(h.s.Broker.Close(h.t.Context(), c, g))
		}
	}
	for _, d := range must[[]broker.Delegation](h.t)(h.s.Broker.Delegations(h.t.Context(), bt.Admin)) {
		if err := h.s.Broker.EndDelegation(h.t.Context(), bt.Admin, d.ID); err != nil {
			h.t.Fatal(err)
		}
	}
}

// P1, P6: whatever people try, every grant is covered by approvals of different people, none of them who asked or answers for it, that meet
// every rule that was about it when it was asked and every one that is when it is granted; or rules approve it by themselves.
func TestReviewHistories(t *testing.T) {
	histories, seen := 150, map[string]int{}
	if testkit.Long() {
		histories = 5000
	}
	var h *reviews
	o := bt.Options{SweepEvery: 10 * time.Hour, Rules: func() broker.Policy { return bt.Compile(t, h.doc) }}
	h = &reviews{doc: bt.AnyPolicy}
	bubble(t, o, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		for seed := range uint64(histories) {
			h = &reviews{t: t, s: s, rng: rand.New(rand.NewPCG(seed, 1)), lent: map[string][]string{}, seen: seen, n: int(seed) * 100}
			func() {
				defer func() {
					if t.Failed() {
						t.Logf("history %d:\n%s", seed, strings.Join(h.log, "\n"))
					}
				}()
				h.newPolicy()
				for range 25 {
					switch h.rng.IntN(14) {
					case 0:
						h.newPolicy()
					case 1:
						s.Sleep(time.Duration(pick(h, 1, 11)) * time.Minute)
					case 2, 3:
						h.delegate()
					case 4, 5, 6:
						h.ask()
					default:
						h.review()
					}
				}
				h.clear()
			}()
		}
	})
	for _, what := range []string{"by itself", "by people", "for less", "by several", "of a program"} {
		if seen[what] == 0 {
			t.Errorf("nothing was approved %s: the histories show too little", what)
		}
	}
	t.Logf("%v", seen)
}

package access_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

func terms(d time.Duration) access.Terms {
	return access.Terms{Targets: []access.Target{web}, Source: home, Duration: d}
}

func requestIn(s access.RequestState) access.Request {
	r := access.Request{ID: "r-0123456789", Requester: "alice", Asked: terms(time.Hour), Terms: terms(time.Hour), Reason: "INC-1", Needs: need(2),
		State: s, CreatedAt: t0, ExpiresAt: t0.Add(time.Hour)}
	if s != access.Pending {
		r.DecidedAt = t0.Add(time.Minute)
	}
	return r
}

func narrowed(f func(*access.Terms)) *access.Terms {
	n := terms(time.Hour)
	n.Targets = slices.Clone(n.Targets)
	f(&n)
	return &n
}

// The events of a pending request, which needs two approvals and has one of "dora", with what they lead to; "" is refused.
var requestEvents = []struct {
	name string
	ev   access.Event
	at   time.Duration
	want access.RequestState
	code access.Code
}{
	{"approve", access.ReviewEvent{By: "bob", Decision: access.Approve}, time.Minute, access.Approved, ""},
	{"approve, clock back", access.ReviewEvent{By: "bob", Decision: access.Approve}, -time.Hour, access.Approved, ""},
	{"deny", access.ReviewEvent{By: "bob", Decision: access.Deny}, time.Minute, access.Denied, ""},
	{"approve for less", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Duration = 10 * time.Minute })},
		time.Minute, access.Approved, ""},
	{"approve for more", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Duration++ })},
		time.Minute, "", access.CodeInvalid},
	{"approve for nothing", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: &access.Terms{}}, time.Minute, "", access.CodeInvalid},
	{"approve for too little", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Duration = access.MinDuration - 1 })},
		time.Minute, "", access.CodeInvalid},
	{"approve another port", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Targets[0].Ports = access.Port(23) })},
		time.Minute, "", access.CodeInvalid},
	{"approve a wider source", access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Source = netip.MustParsePrefix("198.51.100.0/24") })},
		time.Minute, "", access.CodeInvalid},
	// P6, in every spelling.
	{"approve one's own", access.ReviewEvent{By: "alice", Decision: access.Approve}, time.Minute, "", access.CodeDenied},
	{"approve one's own, spelt otherwise", access.ReviewEvent{By: "ALICE", Decision: access.Approve}, time.Minute, "", access.CodeDenied},
	{"approve one's own, with a blank", access.ReviewEvent{By: " Alice\t", Decision: access.Approve}, time.Minute, "", access.CodeDenied},
	{"deny one's own", access.ReviewEvent{By: "alice", Decision: access.Deny}, time.Minute, "", access.CodeDenied},
	{"approve twice", access.ReviewEvent{By: "Dora", Decision: access.Approve}, time.Minute, "", access.CodeConflict},
	{"deny after approving", access.ReviewEvent{By: "dora", Decision: access.Deny}, time.Minute, "", access.CodeConflict},
	{"approve as nobody", access.ReviewEvent{Decision: access.Approve}, time.Minute, "", access.CodeUnauthenticated},
	{"approve as a blank", access.ReviewEvent{By: "  ", Decision: access.Approve}, time.Minute, "", access.CodeUnauthenticated},
	{"no decision", access.ReviewEvent{By: "bob"}, time.Minute, "", access.CodeInvalid},
	{"reject", access.ReviewEvent{By: "bob", Decision: "reject"}, time.Minute, "", access.CodeInvalid},
	{"approve at expiry", access.ReviewEvent{By: "bob", Decision: access.Approve}, time.Hour, "", access.CodeConflict},
	{"deny at expiry", access.ReviewEvent{By: "bob", Decision: access.Deny}, time.Hour, "", access.CodeConflict},
	{"cancel", access.CancelEvent{By: "Alice"}, time.Minute, access.Cancelled, ""},
	{"cancel another's", access.CancelEvent{By: "bob"}, time.Minute, "", access.CodeDenied},
	{"cancel as nobody", access.CancelEvent{}, time.Minute, "", access.CodeDenied},
	{"cancel at expiry", access.CancelEvent{By: "alice"}, time.Hour, "", access.CodeConflict},
	{"expire", access.ExpireEvent{}, time.Hour, access.Expired, ""},
	{"expire early", access.ExpireEvent{}, time.Hour - 1, "", access.CodeConflict},
	{"nil", nil, time.Minute, "", access.CodeInternal},
}

// P1, P6, P8: every state by every event.
func TestRequestTable(t *testing.T) {
	for _, s := range append(slices.Clone(access.RequestStates), "", "open") {
		for _, e := range requestEvents {
			t.Run(string(s)+"/"+e.name, func(t *testing.T) {
				r := requestIn(s)
				r.Reviews = []access.Review{{Reviewer: "dora", Decision: access.Approve, At: t0}}
				before := fmt.Sprintf("%+v", r)
				got, effects, err := r.Step(e.ev, t0.Add(e.at))
				if fmt.Sprintf("%+v", r) != before {
					t.Fatalf("the request itself was changed:\n%s\n%+v", before, r)
				}
				want, code := e.want, e.code
				if s != access.Pending {
					want, code = "", access.CodeConflict
				}
				if want == "" {
					if access.CodeOf(err) != code || !reflect.DeepEqual(got, r) || effects != nil {
						t.Fatalf("%v (%s), %d effects, want %s and no change:\n%+v", err, access.CodeOf(err), len(effects), code, got)
					}
					if s != "" {
						wellSaid(t, err)
					}
					return
				}
				if err != nil || got.State != want || !got.DecidedAt.Equal(t0.Add(e.at)) {
					t.Fatalf("%v, %s at %v, want %s", err, got.State, got.DecidedAt, want)
				}
				if (len(effects) == 1) != (want == access.Approved) || len(effects) > 1 {
					t.Fatalf("%s has the effects %v", want, effects)
				}
				if _, again, err := got.Step(e.ev, t0.Add(e.at)); err == nil || again != nil {
					t.Fatal("a second answer is accepted, or acts again")
				}
			})
		}
	}
}

// need is one rule that asks for so many people.
func need(n int) []access.Need {
	return []access.Need{{Rule: "rule", Steps: []access.Step{{Count: n}}}}
}

func TestRequestApprovals(t *testing.T) {
	for needed := -1; needed < 4; needed++ {
		r := requestIn(access.Pending)
		r.Needs = need(needed)
		for i := range max(needed, 1) {
			if got := r.Missing(); got != max(needed, 1)-i {
				t.Fatalf("needed %d, after %d: %d are missing", needed, i, got)
			}
			if r.State != access.Pending {
				t.Fatalf("needed %d: %s after %d", needed, r.State, i)
			}
			var err error
			if r, _, err = r.Step(access.ReviewEvent{By: fmt.Sprint("approver ", i), Decision: access.Approve}, t0); err != nil {
				t.Fatal(err)
			}
		}
		if r.State != access.Approved || r.Missing() != 0 {
			t.Errorf("needed %d: %s, %d missing", needed, r.State, r.Missing())
		}
	}
}

// A second approver narrows what the first has left, and does not give back what the first took away.
func TestRequestNarrowingAddsUp(t *testing.T) {
	r := requestIn(access.Pending)
	r, _, err := r.Step(access.ReviewEvent{By: "bob", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Duration = 20 * time.Minute })}, t0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Step(access.ReviewEvent{By: "carol", Decision: access.Approve, Narrowed: narrowed(func(n *access.Terms) { n.Duration = 30 * time.Minute })}, t0); access.CodeOf(err) != access.CodeInvalid {
		t.Errorf("half an hour after twenty minutes: %v", err)
	}
	r, effects, err := r.Step(access.ReviewEvent{By: "carol", Decision: access.Approve}, t0)
	if err != nil || !reflect.DeepEqual(effects, []access.Effect{access.CreateGrants{Terms: terms(20 * time.Minute), StartAt: t0}}) {
		t.Errorf("%v, %+v", err, effects)
	}
}

func TestRequestEffects(t *testing.T) {
	for _, c := range []struct {
		name    string
		start   time.Time
		extends access.GrantID
		want    access.Effect
	}{
		{"at once", time.Time{}, "", access.CreateGrants{Terms: terms(time.Hour), StartAt: t0.Add(time.Minute)}},
		{"the start has passed meanwhile", t0, "", access.CreateGrants{Terms: terms(time.Hour), StartAt: t0.Add(time.Minute)}},
		{"later", t0.Add(time.Hour), "", access.CreateGrants{Terms: terms(time.Hour), StartAt: t0.Add(time.Hour)}},
		{"extension", time.Time{}, "g-1", access.ExtendGrant{Grant: "g-1", By: time.Hour}},
	} {
		r := requestIn(access.Pending)
		r.Needs, r.StartAt, r.Extends = need(1), c.start, c.extends
		_, effects, err := r.Step(access.ReviewEvent{By: "bob", Decision: access.Approve}, t0.Add(time.Minute))
		if err != nil || !reflect.DeepEqual(effects, []access.Effect{c.want}) {
			t.Errorf("%s: %v, %+v, want %+v", c.name, err, effects, c.want)
		}
	}
}

// P1: an approval of a request whose terms were lost, spoilt, or grew past what was asked for, grants nothing.
func TestRequestDamagedTermsGrantNothing(t *testing.T) {
	for name, spoil := range map[string]func(*access.Request){
		"no terms":       func(r *access.Request) { r.Terms = access.Terms{} },
		"nothing asked":  func(r *access.Request) { r.Asked = access.Terms{} },
		"no source":      func(r *access.Request) { r.Terms.Source = netip.Prefix{}; r.Asked.Source = netip.Prefix{} },
		"no duration":    func(r *access.Request) { r.Terms.Duration = 0 },
		"no target":      func(r *access.Request) { r.Terms.Targets = nil },
		"no machine":     func(r *access.Request) { r.Terms.Targets = []access.Target{{Ports: web.Ports, Protocol: web.Protocol}} },
		"no port":        func(r *access.Request) { r.Terms.Targets = []access.Target{{VM: web.VM, Protocol: web.Protocol}} },
		"no protocol":    func(r *access.Request) { r.Terms.Targets = []access.Target{{VM: web.VM, Ports: web.Ports}} },
		"longer":         func(r *access.Request) { r.Terms.Duration++ },
		"wider":          func(r *access.Request) { r.Terms.Source = netip.MustParsePrefix("198.51.100.0/24") },
		"another source": func(r *access.Request) { r.Terms.Source = netip.MustParsePrefix("203.0.113.9/32") },
	} {
		r := requestIn(access.Pending)
		r.Needs = need(1)
		spoil(&r)
		if got, effects, err := r.Step(access.ReviewEvent{By: "bob", Decision: access.Approve}, t0); err == nil || effects != nil || got.State != access.Pending {
			t.Errorf("%s: approved as %+v", name, effects)
		}
	}
}

func TestTermsWithin(t *testing.T) {
	wide := access.Terms{Targets: []access.Target{{VM: web.VM, Ports: access.Ports{First: 8000, Last: 8010}, Protocol: access.TCP}, web},
		Source: netip.MustParsePrefix("198.51.100.0/24"), Duration: time.Hour}
	for _, c := range []struct {
		name string
		f    func(*access.Terms)
		want bool
	}{
		{"the same", func(*access.Terms) {}, true},
		{"one target", func(n *access.Terms) { n.Targets = n.Targets[:1] }, true},
		{"part of the ports", func(n *access.Terms) { n.Targets[0].Ports = access.Ports{First: 8003, Last: 8004} }, true},
		{"ports beyond", func(n *access.Terms) { n.Targets[0].Ports.Last++ }, false},
		{"no port", func(n *access.Terms) { n.Targets[0].Ports = access.Ports{} }, false},
		{"ports backwards", func(n *access.Terms) { n.Targets[0].Ports = access.Ports{First: 8005, Last: 8001} }, false},
		{"another protocol", func(n *access.Terms) { n.Targets[0].Protocol = access.UDP }, false},
		{"another machine", func(n *access.Terms) { n.Targets[0].VM.ID += "x" }, false},
		{"the machine in other case", func(n *access.Terms) { n.Targets[0].VM.ID = "/SUBSCRIPTIONS" + n.Targets[0].VM.ID[14:] }, true},
		{"a re-created machine", func(n *access.Terms) { n.Targets[0].VM.VMID = "v2" }, false},
		{"under another name", func(n *access.Terms) { n.Targets[0].VM.Name = "test-01" }, false},
		{"no target", func(n *access.Terms) { n.Targets = nil }, false},
		{"one address", func(n *access.Terms) { n.Source = home }, true},
		{"any address", func(n *access.Terms) { n.Source = netip.MustParsePrefix("0.0.0.0/0") }, false},
		{"an IPv6 address", func(n *access.Terms) { n.Source = netip.MustParsePrefix("::ffff:198.51.100.7/128") }, false},
		{"no source", func(n *access.Terms) { n.Source = netip.Prefix{} }, false},
		{"shorter", func(n *access.Terms) { n.Duration-- }, true},
		{"longer", func(n *access.Terms) { n.Duration++ }, false},
		{"no time", func(n *access.Terms) { n.Duration = 0 }, false},
		{"negative time", func(n *access.Terms) { n.Duration = -time.Hour }, false},
	} {
		n := wide
		n.Targets = slices.Clone(wide.Targets)
		c.f(&n)
		if got := n.Within(wide); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if (access.Terms{}).Within(access.Terms{}) {
		t.Error("nothing lies within nothing")
	}
	twice := wide
	twice.Targets = append(slices.Clone(wide.Targets), access.Target{VM: web.VM, Ports: access.Ports{First: 20, Last: 30}, Protocol: access.TCP})
	if err := twice.Check(); access.CodeOf(err) != access.CodeInvalid {
		t.Errorf("targets that overlap: %v", err)
	} else {
		wellSaid(t, err)
	}
	if err := wide.Check(); err != nil {
		t.Error(err)
	}
}

func TestSamePerson(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"alice", "Alice", true}, {"alice", " alice ", true}, {"", "", false}, {" ", " ", false}, {"alice", "bob", false},
		{"a@example.org", "A@EXAMPLE.ORG", true}, {"alice", "", false}} {
		if access.SamePerson(c.a, c.b) != c.want || access.SamePerson(c.b, c.a) != c.want {
			t.Errorf("%q, %q: want %v", c.a, c.b, c.want)
		}
	}
	if access.SameVM("", "") || !access.SameVM("/a", "/A") {
		t.Error("SameVM")
	}
}

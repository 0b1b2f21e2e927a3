package access_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func TestMain(m *testing.M) {
	// The command line is parsed later, and wins.
	if err := flag.Set("rapid.checks", strconv.Itoa(testkit.Count(500, 15_000))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// reviewModel is the dumb reference of a request: a list of who said what, and nothing clever.
type reviewModel struct {
	requester string
	needed    int
	said      map[string]bool // by lower-case name
	approved  int
	state     access.RequestState
	terms     access.Terms
	expires   time.Time
}

func plainName(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// answer returns whether an answer counts, and what becomes of the request.
func (m *reviewModel) answer(by string, d access.Decision, n *access.Terms, now time.Time) bool {
	who := plainName(by)
	if m.state != access.Pending || !now.Before(m.expires) || who == "" || who == plainName(m.requester) || m.said[who] {
		return false
	}
	if d == access.Deny {
		m.said[who], m.state = true, access.Denied
		return true
	}
	if n != nil {
		if n.Duration < access.MinDuration || n.Duration > m.terms.Duration || n.Source.Bits() < m.terms.Source.Bits() || !m.terms.Source.Contains(n.Source.Addr()) {
			return false
		}
		for _, a := range n.Targets {
			in := false
			for _, b := range m.terms.Targets {
				for p := b.Ports.First; p <= b.Ports.Last; p++ {
					in = in || a.VM == b.VM && p == a.Ports.First && a.Ports.Last <= b.Ports.Last
				}
			}
			if !in {
				return false
			}
		}
		if len(n.Targets) == 0 {
			return false
		}
		m.terms = *n
	}
	m.said[who] = true
	if m.approved++; m.approved >= max(m.needed, 1) {
		m.state = access.Approved
	}
	return true
}

var (
	otherVM  = access.VM{ID: "/subscriptions/s1/resourceGroups/rg-db/providers/Microsoft.Compute/virtualMachines/db-01", Name: "db-01", VMID: "v2"}
	sources  = []string{"0.0.0.0/0", "198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/24", "203.0.113.9/32"}
	speakers = []string{"bob", "carol", "dora", "erin", "Bob", "alice", "ALICE", " alice", "aLiCe\t", "", " "}
)

func drawTerms(t *rapid.T) access.Terms {
	var ts []access.Target
	for _, vm := range []access.VM{web.VM, otherVM} {
		if rapid.Bool().Draw(t, vm.Name) {
			first := rapid.Uint16Range(20, 24).Draw(t, "first port")
			ts = append(ts, access.Target{VM: vm, Ports: access.Ports{First: first, Last: first + rapid.Uint16Range(0, 3).Draw(t, "more ports")}, Protocol: access.TCP})
		}
	}
	return access.Terms{Targets: ts, Source: netip.MustParsePrefix(rapid.SampledFrom(sources).Draw(t, "source")),
		Duration: time.Duration(rapid.IntRange(-1, 12).Draw(t, "ten minutes")) * 10 * time.Minute}
}

// P1, P6: random histories of reviews against the dumb model: the same answers count, terms never widen, final stays final, and
// grants come out once, of a request that enough people other than its requester approved.
func TestRequestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		asked := drawTerms(t)
		if asked.Check() != nil || asked.Duration < access.MinDuration {
			t.Skip("the ask is refused before it is a request")
		}
		m := &reviewModel{requester: rapid.SampledFrom([]string{"alice", "Alice"}).Draw(t, "requester"), needed: rapid.IntRange(0, 3).Draw(t, "needed"),
			said: map[string]bool{}, state: access.Pending, terms: asked, expires: t0.Add(time.Hour)}
		r := access.Request{ID: "r-1", Requester: m.requester, Asked: asked, Terms: asked, Needs: need(m.needed), State: access.Pending, CreatedAt: t0, ExpiresAt: m.expires}
		if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
			r.Extends = "g-1"
		}
		now, granted := t0, 0
		// step takes the request through one event and holds it to what the model says.
		step := func(t *rapid.T, ev access.Event, counts bool) {
			before := r
			got, effects, err := r.Step(ev, now)
			if (err == nil) != counts {
				t.Fatalf("%+v at %v: %v; by the model it counts: %v", ev, now, err, counts)
			}
			if err != nil && (!reflect.DeepEqual(got, before) || effects != nil) {
				t.Fatalf("refused and yet changed: %+v", got)
			}
			if before.State.Final() && !reflect.DeepEqual(got, before) {
				t.Fatalf("final and yet changed: %+v, %+v", before, got)
			}
			if !got.Terms.Within(before.Terms) {
				t.Fatalf("the terms widened: %+v to %+v", before.Terms, got.Terms)
			}
			for _, e := range effects {
				granted++
				switch e := e.(type) {
				case access.CreateGrants:
					if r.Extends != "" || !e.Terms.Within(asked) || e.StartAt.Before(now) {
						t.Fatalf("created %+v", e)
					}
				case access.ExtendGrant:
					if e.Grant != r.Extends || e.By > asked.Duration || e.By <= 0 {
						t.Fatalf("extended %+v", e)
					}
				}
			}
			r = got
		}
		t.Repeat(map[string]func(*rapid.T){
			"review": func(t *rapid.T) {
				ev := access.ReviewEvent{By: rapid.SampledFrom(speakers).Draw(t, "by"), Decision: access.Approve}
				if rapid.IntRange(0, 9).Draw(t, "decision") == 0 {
					ev.Decision = access.Deny
				}
				if rapid.Bool().Draw(t, "narrow") {
					n := drawTerms(t)
					if rapid.Bool().Draw(t, "near") { // a narrowing that mostly fits
						n.Targets, n.Source = slices.Clone(r.Terms.Targets), r.Terms.Source
						n.Duration = asked.Duration * time.Duration(rapid.IntRange(1, 5).Draw(t, "quarters")) / 4
					}
					ev.Narrowed = &n
				}
				n := ev.Narrowed
				step(t, ev, m.answer(ev.By, ev.Decision, n, now))
			},
			"cancel": func(t *rapid.T) {
				by := rapid.SampledFrom(speakers).Draw(t, "by")
				counts := m.state == access.Pending && now.Before(m.expires) && plainName(by) == plainName(m.requester) && rapid.IntRange(0, 4).Draw(t, "really") == 0
				if plainName(by) == plainName(m.requester) && m.state == access.Pending && now.Before(m.expires) && !counts {
					return // most histories go on
				}
				if counts {
					m.state = access.Cancelled
				}
				step(t, access.CancelEvent{By: by}, counts)
			},
			"expire": func(t *rapid.T) {
				counts := m.state == access.Pending && !now.Before(m.expires)
				if counts {
					m.state = access.Expired
				}
				step(t, access.ExpireEvent{}, counts)
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(-20, 20).Draw(t, "minutes")) * time.Minute)
			},
			"": func(t *rapid.T) {
				if r.State != m.state || !reflect.DeepEqual(r.Terms, m.terms) {
					t.Fatalf("%s %+v, by the model %s %+v", r.State, r.Terms, m.state, m.terms)
				}
				people := map[string]bool{}
				for _, v := range r.Reviews {
					if people[plainName(v.Reviewer)] || plainName(v.Reviewer) == plainName(m.requester) || plainName(v.Reviewer) == "" {
						t.Fatalf("P6: %q among %+v", v.Reviewer, r.Reviews)
					}
					people[plainName(v.Reviewer)] = true
				}
				want := 0
				if r.State == access.Approved {
					want = 1
					if len(people) < max(m.needed, 1) {
						t.Fatalf("P6: approved by %d, %d needed", len(people), m.needed)
					}
				}
				if granted != want {
					t.Fatalf("P1: %s has granted %d times", r.State, granted)
				}
				if r.Asked.Within(asked) != asked.Within(r.Asked) || r.Asked.Duration != asked.Duration {
					t.Fatal("what was asked for has changed")
				}
			},
		})
	})
}

// grantModel is the dumb reference of a grant: when its opening was first sent, for how long it was approved in all, and whether
// anybody has asked to shut it.
type grantModel struct {
	sent    bool
	start   time.Time
	total   time.Duration
	shut    bool
	gone    bool // Azure was seen without it, after it was to be shut
	longest time.Duration
	drifts  int
}

func (m *grantModel) wanted(now time.Time) bool {
	return m.sent && !m.shut && !now.Before(m.start) && now.Before(m.start.Add(m.total))
}

// P1, P2: random histories of a grant, with a clock that moves both ways, against the dumb model.
func TestGrantHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := t0.Add(time.Duration(rapid.IntRange(0, 999).Draw(t, "ms")) * time.Millisecond)
		g := access.Grant{ID: "g-1", Request: "r-1", Requester: "alice", Target: web, Source: home, State: access.Scheduled,
			Duration: time.Duration(rapid.IntRange(5, 90).Draw(t, "minutes")) * time.Minute, NotBefore: now.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "due in")) * time.Minute)}
		due := g.NotBefore
		m := &grantModel{total: g.Duration, longest: time.Duration(rapid.IntRange(30, 30*60).Draw(t, "longest in total")) * time.Minute}
		limit := max(min(m.longest, access.AbsoluteMax), g.Duration)
		step := func(t *rapid.T, ev access.GrantEvent) error {
			before := g
			got, err := g.Step(ev, now)
			if err != nil && !reflect.DeepEqual(got, before) {
				t.Fatalf("%T refused (%v) and yet changed:\n%+v\n%+v", ev, err, before, got)
			}
			if before.State.Final() && !reflect.DeepEqual(got, before) {
				t.Fatalf("%T: final and yet changed:\n%+v\n%+v", ev, before, got)
			}
			if before.State != got.State && !before.State.CanMove(got.State) {
				t.Fatalf("%T: %s to %s stands in no table", ev, before.State, got.State)
			}
			if !before.StartsAt.IsZero() && !got.StartsAt.Equal(before.StartsAt) {
				t.Fatalf("%T moved the start from %v to %v", ev, before.StartsAt, got.StartsAt)
			}
			if _, ok := ev.(access.ExtendEvent); !ok && !before.EndsAt.IsZero() && !got.EndsAt.Equal(before.EndsAt) {
				t.Fatalf("%T moved the end from %v to %v", ev, before.EndsAt, got.EndsAt)
			}
			if before.EndReason != "" && got.EndReason != before.EndReason {
				t.Fatalf("%T changed the reason from %s to %s", ev, before.EndReason, got.EndReason)
			}
			// The same again, at the same instant, is no news.
			switch ev.(type) {
			case access.ExtendEvent, access.DriftEvent:
			default:
				if again, _ := got.Step(ev, now); err == nil && !reflect.DeepEqual(again, got) {
					t.Fatalf("%T repeated:\n%+v\n%+v", ev, got, again)
				}
			}
			g = got
			return err
		}
		accepted := func(t *rapid.T, err error, want bool, what string) {
			if (err == nil) != want {
				t.Fatalf("%s at %v: %v; by the model it is accepted: %v\n%+v", what, now, err, want, g)
			}
		}
		shut := func(t *rapid.T, why access.EndReason) {
			over := m.sent && !now.Before(m.start.Add(m.total))
			first := !m.shut
			opened := g.State == access.Active
			err := step(t, access.ShutEvent{Reason: why, By: "bob"})
			switch {
			case first && why == access.ReasonTimeOver:
				accepted(t, err, over, "the time is over")
			case first && why == access.ReasonNotOpened:
				accepted(t, err, !opened, "not opened")
			case first:
				accepted(t, err, true, string(why))
			default:
				accepted(t, err, why != access.ReasonDone && why != access.ReasonRevoked, "shut again")
			}
			if first && err == nil {
				m.shut, m.gone = true, !m.sent
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"send opening": func(t *rapid.T) {
				err := step(t, access.OpeningEvent{Places: []access.Place{{ID: fmt.Sprint("/nsg/", rapid.IntRange(0, 2).Draw(t, "place"))}}})
				want := !m.shut && g.State != access.Active
				if !m.sent {
					want = want && !now.Before(due) && now.Before(due.Add(access.ActivationLimit))
				} else {
					want = want && now.Before(m.start.Add(access.ActivationLimit)) && now.Before(m.start.Add(m.total))
				}
				accepted(t, err, want, "opening")
				if err == nil && !m.sent {
					m.sent, m.start = true, g.StartsAt
					if g.StartsAt.After(now) || now.Sub(g.StartsAt) >= time.Second {
						t.Fatalf("opened at %v, starts at %v", now, g.StartsAt)
					}
				}
			},
			"opened": func(t *rapid.T) {
				was := g.State
				err := step(t, access.OpenedEvent{})
				accepted(t, err, m.sent && !m.shut && (was == access.Active || now.Before(m.start.Add(m.total))), "opened")
			},
			"ready": func(t *rapid.T) {
				_ = step(t, access.ReadyEvent{Why: rapid.SampledFrom([]string{"", "denied"}).Draw(t, "why")})
			},
			"failed":  func(t *rapid.T) { _ = step(t, access.FailedEvent{Error: "429"}) },
			"over":    func(t *rapid.T) { shut(t, access.ReasonTimeOver) },
			"close":   func(t *rapid.T) { shut(t, rapid.SampledFrom(access.EndReasons).Draw(t, "why")) },
			"give up": func(t *rapid.T) { shut(t, access.ReasonNotOpened) },
			"shut done": func(t *rapid.T) {
				failed := g.State == access.CloseFailed
				err := step(t, access.ShutDoneEvent{})
				accepted(t, err, m.shut && !failed, "shut done")
				m.gone = m.gone || err == nil
			},
			"shut failed": func(t *rapid.T) {
				err := step(t, access.ShutFailedEvent{Error: "lock"})
				accepted(t, err, m.shut && !m.gone, "shut failed")
			},
			"retry shut": func(t *rapid.T) {
				err := step(t, access.RetryShutEvent{})
				accepted(t, err, m.shut && !m.gone, "retry")
			},
			"extend": func(t *rapid.T) {
				by := time.Duration(rapid.OneOf(rapid.Int64Range(-5, 25*60), rapid.Int64Range(1<<20, 150_000_000)).Draw(t, "by")) * time.Minute
				err := step(t, access.ExtendEvent{By: by, Max: m.longest})
				accepted(t, err, by > 0 && m.sent && !m.shut && now.Before(m.start.Add(m.total)) && m.total+by <= min(m.longest, access.AbsoluteMax), "extend")
				if err == nil {
					m.total += by
				}
			},
			"drift": func(t *rapid.T) {
				removed := rapid.Bool().Draw(t, "removed")
				err := step(t, access.DriftEvent{Removed: removed})
				accepted(t, err, m.sent && !m.shut, "drift")
				if err == nil && removed {
					m.drifts++
				}
			},
			"moved": func(t *rapid.T) {
				err := step(t, access.MovedEvent{Places: []access.Place{{ID: fmt.Sprint("/nsg/", rapid.IntRange(0, 2).Draw(t, "place"))}}})
				accepted(t, err, m.sent && !m.gone, "moved")
			},
			"a little time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 300_000).Draw(t, "ms")) * time.Millisecond)
			},
			"much time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(-120, 240).Draw(t, "minutes")) * time.Minute)
			},
			"": func(t *rapid.T) {
				if g.Wanted(now) != m.wanted(now) {
					t.Fatalf("P1: wanted %v at %v, by the model %v\n%+v\n%+v", g.Wanted(now), now, m.wanted(now), g, m)
				}
				if g.Wanted(now) && (now.Before(g.StartsAt) || !now.Before(g.EndsAt) || g.StartsAt.Add(time.Second).Before(due)) {
					t.Fatalf("P1: wanted outside its window: %+v", g)
				}
				if m.sent && (g.EndsAt.Sub(g.StartsAt) != m.total || m.total > limit) {
					t.Fatalf("lasts %v, by the model %v of %v at most", g.EndsAt.Sub(g.StartsAt), m.total, limit)
				}
				if g.Restored != m.drifts || m.drifts > 0 && !g.Drifted {
					t.Fatalf("restored %d times, by the model %d", g.Restored, m.drifts)
				}
				if g.State.Final() != m.gone {
					t.Fatalf("%s, by the model gone: %v", g.State, m.gone)
				}
				// P2: nothing that may stand in Azure is forgotten: it is final only when it was seen gone, or never written.
				if m.sent && !m.gone && !g.State.Live() {
					t.Fatalf("P2: %s, and not seen gone", g.State)
				}
				if g.Ready() && g.NotReady != "" {
					t.Fatalf("P5: ready and not: %+v", g)
				}
			},
		})
	})
}

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

var t0 = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

var web = access.Target{VM: access.VM{ID: "/subscriptions/s1/resourceGroups/rg-web/providers/Microsoft.Compute/virtualMachines/web-01",
	Name: "web-01", VMID: "v1"}, Ports: access.Port(22), Protocol: access.TCP}

var home = netip.MustParsePrefix("198.51.100.7/32")

// grantIn returns a grant in a state as histories leave it: due at t0, opened at t0, an hour long.
func grantIn(s access.GrantState, why access.EndReason) access.Grant {
	g := access.Grant{ID: "g-0123456789", Request: "r-0123456789", Requester: "alice", Target: web, Source: home, Duration: time.Hour,
		NotBefore: t0, State: s, EndReason: why, CreatedAt: t0}
	if s != access.Scheduled {
		g.StartsAt, g.EndsAt = t0, t0.Add(time.Hour)
		g.Places = []access.Place{{ID: "/nsg/a", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4")}}}
	}
	if s.Final() {
		g.EndedAt, g.Places = t0.Add(time.Minute), nil
	}
	return g
}

// grantCases are the states with what they carry. Activating with a reason is an opening that was given up.
var grantCases = map[string]access.Grant{
	"scheduled":         grantIn(access.Scheduled, ""),
	"activating":        grantIn(access.Activating, ""),
	"given up":          grantIn(access.Activating, access.ReasonNotOpened),
	"active":            grantIn(access.Active, ""),
	"closing":           grantIn(access.Closing, access.ReasonRevoked),
	"close_failed":      grantIn(access.CloseFailed, access.ReasonRevoked),
	"ended":             grantIn(access.Ended, access.ReasonTimeOver),
	"closed":            grantIn(access.Closed, access.ReasonDone),
	"revoked":           grantIn(access.Revoked, access.ReasonRevoked),
	"activation_failed": grantIn(access.ActivationFailed, access.ReasonNotOpened),
	"no state":          grantIn("", ""),
	"unknown state":     grantIn("open", ""),
}

const (
	inWindow = time.Minute
	tooLate  = 11 * time.Minute // for an opening
	afterEnd = 2 * time.Hour
)

// grantEvents names each kind of event, with the instant at which it comes.
var grantEvents = []struct {
	name string
	ev   access.GrantEvent
	at   time.Duration
}{
	{"opening", access.OpeningEvent{}, inWindow},
	{"opening too late", access.OpeningEvent{}, tooLate},
	{"opening early", access.OpeningEvent{}, -time.Second},
	{"opened", access.OpenedEvent{}, inWindow},
	{"opened after end", access.OpenedEvent{}, afterEnd},
	{"ready", access.ReadyEvent{}, inWindow},
	{"not ready", access.ReadyEvent{Why: "an admin rule denies"}, inWindow},
	{"failed", access.FailedEvent{Error: "429"}, inWindow},
	{"time over", access.ShutEvent{Reason: access.ReasonTimeOver}, afterEnd},
	{"time over early", access.ShutEvent{Reason: access.ReasonTimeOver}, inWindow},
	{"close", access.ShutEvent{Reason: access.ReasonDone, By: "alice"}, inWindow},
	{"revoke", access.ShutEvent{Reason: access.ReasonRevoked, By: "bob"}, inWindow},
	{"target gone", access.ShutEvent{Reason: access.ReasonTargetGone}, inWindow},
	{"target changed", access.ShutEvent{Reason: access.ReasonTargetChanged}, inWindow},
	{"tampered", access.ShutEvent{Reason: access.ReasonTampered}, inWindow},
	{"unprotected", access.ShutEvent{Reason: access.ReasonUnprotected}, inWindow},
	{"not opened", access.ShutEvent{Reason: access.ReasonNotOpened}, tooLate},
	{"no reason", access.ShutEvent{}, inWindow},
	{"unknown reason", access.ShutEvent{Reason: "boredom"}, inWindow},
	{"shut done", access.ShutDoneEvent{}, afterEnd},
	{"shut failed", access.ShutFailedEvent{Error: "lock"}, afterEnd},
	{"retry shut", access.RetryShutEvent{}, afterEnd},
	{"extend", access.ExtendEvent{By: time.Hour}, inWindow},
	{"extend after end", access.ExtendEvent{By: time.Hour}, afterEnd},
	{"extend too far", access.ExtendEvent{By: time.Hour, Max: 90 * time.Minute}, inWindow},
	{"extend by a wrap", access.ExtendEvent{By: 1<<63 - 1}, inWindow},
	{"extend by nothing", access.ExtendEvent{}, inWindow},
	{"drift", access.DriftEvent{Removed: true}, inWindow},
	{"moved", access.MovedEvent{Places: []access.Place{{ID: "/nsg/b"}}}, inWindow},
	{"nil", nil, inWindow},
}

// grantTable says to which state an event leads. What is absent is refused and changes nothing.
var grantTable = map[string]map[string]access.GrantState{
	"opening": {"scheduled": access.Activating, "activating": access.Activating},
	// The clock was moved back between two tries: the window stands, and the grant is not wanted before it (P1).
	"opening early": {"activating": access.Activating},
	"opened":        {"activating": access.Active, "active": access.Active},
	// Repeated for an open grant it is no news, whenever it comes.
	"opened after end": {"active": access.Active},
	"ready":            {"active": access.Active},
	"not ready":        {"active": access.Active},
	"failed":           {"scheduled": access.Scheduled, "activating": access.Activating, "given up": access.Activating, "active": access.Active},
	"time over":        shutTable(access.Revoked, "scheduled"),
	"time over early":  shutTable(access.Revoked, "scheduled", "activating", "active"),
	"close":            {"scheduled": access.Closed, "activating": access.Closing, "active": access.Closing},
	"revoke":           {"scheduled": access.Revoked, "activating": access.Closing, "active": access.Closing},
	"target gone":      shutTable(access.Revoked),
	"target changed":   shutTable(access.Revoked),
	"tampered":         shutTable(access.Revoked),
	"unprotected":      shutTable(access.Revoked),
	"not opened":       with(shutTable(access.ActivationFailed, "active"), "activating", access.Activating),
	"shut done": {"given up": access.ActivationFailed, "closing": access.Revoked, "ended": access.Ended, "closed": access.Closed,
		"revoked": access.Revoked, "activation_failed": access.ActivationFailed},
	"shut failed": {"given up": access.Activating, "closing": access.CloseFailed, "close_failed": access.CloseFailed},
	"retry shut":  {"given up": access.Activating, "closing": access.Closing, "close_failed": access.Closing},
	"extend":      {"activating": access.Activating, "active": access.Active},
	"drift":       {"activating": access.Activating, "active": access.Active},
	"moved": {"activating": access.Activating, "given up": access.Activating, "active": access.Active, "closing": access.Closing,
		"close_failed": access.CloseFailed},
}

// shutTable is what a reason to shut does: a scheduled grant is over as final says, an opening or open one is closing, what was
// shut before stays as it is. except lists where it is refused.
func shutTable(final access.GrantState, except ...string) map[string]access.GrantState {
	m := map[string]access.GrantState{"scheduled": final, "activating": access.Closing, "active": access.Closing,
		"given up": access.Activating, "closing": access.Closing, "close_failed": access.CloseFailed, "ended": access.Ended,
		"closed": access.Closed, "revoked": access.Revoked, "activation_failed": access.ActivationFailed}
	for _, e := range except {
		delete(m, e)
	}
	return m
}

func with(m map[string]access.GrantState, k string, v access.GrantState) map[string]access.GrantState {
	m[k] = v
	return m
}

// P1, P8: every state by every event; what the table does not name is refused, and leaves the grant as it was.
func TestGrantTable(t *testing.T) {
	covered := map[access.GrantState]bool{}
	for state, g := range grantCases {
		covered[g.State] = true
		for _, e := range grantEvents {
			t.Run(state+"/"+e.name, func(t *testing.T) {
				now := t0.Add(e.at)
				before := fmt.Sprintf("%+v", g)
				got, err := g.Step(e.ev, now)
				want, ok := grantTable[e.name][state]
				if fmt.Sprintf("%+v", g) != before {
					t.Fatalf("the grant itself was changed:\n%s\n%+v", before, g)
				}
				if !ok {
					if err == nil {
						t.Fatalf("accepted, and leads to %s", got.State)
					}
					if !reflect.DeepEqual(got, g) {
						t.Fatalf("refused, and yet changed:\n%+v\n%+v", g, got)
					}
					wellSaid(t, err)
					return
				}
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				if got.State != want {
					t.Fatalf("leads to %s, want %s", got.State, want)
				}
				if got.State != g.State && !g.State.CanMove(got.State) {
					t.Fatalf("%s to %s stands in no table", g.State, got.State)
				}
				if got.State.Final() && (got.EndedAt.IsZero() || got.EndReason == "" || got.Places != nil) {
					t.Fatalf("final without an end: %+v", got)
				}
				again, err := got.Step(e.ev, now)
				switch e.ev.(type) {
				case access.ExtendEvent, access.DriftEvent: // these mean more each time
				default:
					// P8: the same once more brings nothing new, or is refused because it is over.
					if !reflect.DeepEqual(again, got) {
						t.Fatalf("repeated, it changes again (%v):\n%+v\n%+v", err, got, again)
					}
				}
			})
		}
	}
	for _, s := range access.GrantStates {
		if !covered[s] {
			t.Errorf("state %s is in no case", s)
		}
	}
}

// The moves as DESIGN 3 has them, and no other.
func TestGrantMoves(t *testing.T) {
	const design = `scheduled>activating activating>active active>closing closing>ended closing>closed closing>revoked
		scheduled>closing scheduled>closed scheduled>revoked activating>closing activating>closed activating>revoked
		activating>activation_failed scheduled>activation_failed closing>close_failed close_failed>closing`
	checkMoves(t, design, access.GrantStates, access.GrantState.CanMove, access.GrantState.Final)
}

func TestRequestMoves(t *testing.T) {
	const design = `pending>approved pending>denied pending>cancelled pending>expired`
	checkMoves(t, design, access.RequestStates, access.RequestState.CanMove, access.RequestState.Final)
}

func checkMoves[S ~string](t *testing.T, design string, states []S, can func(S, S) bool, final func(S) bool) {
	t.Helper()
	want := map[string]bool{}
	for _, m := range fields(design) {
		want[m] = true
	}
	for _, a := range append(slices.Clone(states), "", "nonsense") {
		leads := false
		for _, b := range append(slices.Clone(states), "", "nonsense") {
			m := string(a) + ">" + string(b)
			if can(a, b) != want[m] {
				t.Errorf("%s: %v, want %v", m, can(a, b), want[m])
			}
			leads = leads || want[m]
		}
		if known := slices.Contains(states, a); final(a) != (known && !leads) {
			t.Errorf("%q final: %v", a, final(a))
		}
	}
}

// P1: the zero grant, and one that misses any part of its window, is wanted never.
func TestGrantZeroValueNeverGrants(t *testing.T) {
	whole := grantIn(access.Active, "")
	if !whole.Wanted(t0.Add(time.Minute)) {
		t.Fatal("an open grant inside its window is not wanted: the rest of this test would show nothing")
	}
	for name, spoil := range map[string]func(*access.Grant){
		"zero":       func(g *access.Grant) { *g = access.Grant{} },
		"no state":   func(g *access.Grant) { g.State = "" },
		"no start":   func(g *access.Grant) { g.StartsAt = time.Time{} },
		"no end":     func(g *access.Grant) { g.EndsAt = time.Time{} },
		"a reason":   func(g *access.Grant) { g.EndReason = access.ReasonDone },
		"over":       func(g *access.Grant) { g.EndsAt = t0.Add(time.Minute) },
		"not begun":  func(g *access.Grant) { g.StartsAt = t0.Add(time.Minute + 1) },
		"wrong case": func(g *access.Grant) { g.State = "Active" },
	} {
		g := whole
		spoil(&g)
		if g.Wanted(t0.Add(time.Minute)) {
			t.Errorf("%s: wanted", name)
		}
	}
	for _, s := range access.GrantStates {
		if g := grantIn(s, ""); g.Wanted(t0.Add(time.Minute)) != (s == access.Activating || s == access.Active) {
			t.Errorf("%s: wanted %v", s, g.Wanted(t0.Add(time.Minute)))
		}
	}
	if _, err := (access.Grant{State: access.Scheduled, NotBefore: t0}).Step(access.OpeningEvent{}, t0); err == nil {
		t.Error("a grant without a duration opens")
	}
	if _, err := (access.Grant{State: access.Scheduled, Duration: time.Hour}).Step(access.OpeningEvent{}, t0); err == nil {
		t.Error("a grant that is due at no time opens")
	}
}

func TestGrantQuestions(t *testing.T) {
	const limit = access.ActivationLimit
	for _, c := range []struct {
		name               string
		at                 time.Duration
		due, late, overdue bool
		status             string
	}{
		{"scheduled", -1, false, false, false, "scheduled"},
		{"scheduled", 0, true, false, false, "scheduled"},
		{"scheduled", limit - 1, true, false, false, "scheduled"},
		{"scheduled", limit, false, true, false, "scheduled"},
		{"activating", limit - 1, false, false, false, "activating"},
		{"activating", limit, false, true, false, "activating"},
		{"activating", time.Hour, false, true, true, "activating (overdue)"},
		{"given up", limit, false, false, false, "activating (given up, being cleared away)"},
		{"active", time.Hour - 1, false, false, false, "active"},
		{"active", time.Hour, false, false, true, "active (overdue)"},
		{"closing", time.Minute, false, false, false, "closing"},
		{"closing", time.Hour, false, false, true, "closing (overdue)"},
		{"close_failed", time.Minute, false, false, true, "close_failed (overdue)"},
		{"ended", 5 * time.Hour, false, false, false, "ended"},
		{"activation_failed", 5 * time.Hour, false, false, false, "activation_failed"},
	} {
		g, now := grantCases[c.name], t0.Add(c.at)
		if g.Due(now) != c.due || g.Late(now) != c.late || g.Overdue(now) != c.overdue || g.Status(now) != c.status {
			t.Errorf("%s at %v: due %v late %v overdue %v %q", c.name, c.at, g.Due(now), g.Late(now), g.Overdue(now), g.Status(now))
		}
	}
}

// P5: ready is what was verified, where the rules stand now; otherwise the reason is shown.
func TestGrantReady(t *testing.T) {
	g := grantIn(access.Active, "")
	step := func(ev access.GrantEvent, at time.Duration) {
		t.Helper()
		var err error
		if g, err = g.Step(ev, t0.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	step(access.ReadyEvent{}, time.Minute)
	step(access.ReadyEvent{}, 2*time.Minute)
	if !g.Ready() || !g.ReadyAt.Equal(t0.Add(time.Minute)) {
		t.Fatalf("ready %v since %v", g.Ready(), g.ReadyAt)
	}
	step(access.MovedEvent{Places: g.Places}, 3*time.Minute)
	if !g.Ready() {
		t.Fatal("a move to where it stood made it unready")
	}
	step(access.MovedEvent{Places: []access.Place{{ID: "/nsg/b"}}}, 4*time.Minute)
	if g.Ready() || g.NotReady == "" {
		t.Fatalf("moved: ready %v, %q", g.Ready(), g.NotReady)
	}
	step(access.ReadyEvent{Why: "an admin rule denies"}, 5*time.Minute)
	if g.Ready() || g.NotReady != "an admin rule denies" {
		t.Fatalf("not ready: %v, %q", g.Ready(), g.NotReady)
	}
	step(access.ReadyEvent{}, 6*time.Minute)
	if !g.Ready() || g.NotReady != "" {
		t.Fatalf("ready again: %v, %q", g.Ready(), g.NotReady)
	}
	step(access.ShutEvent{Reason: access.ReasonDone, By: "alice"}, 7*time.Minute)
	if g.Ready() {
		t.Fatal("ready while closing")
	}
}

// The reason of the end and the way to it, for each reason.
func TestGrantEnds(t *testing.T) {
	for _, why := range access.EndReasons {
		want := access.Revoked
		switch why {
		case access.ReasonTimeOver:
			want = access.Ended
		case access.ReasonDone:
			want = access.Closed
		case access.ReasonNotOpened:
			want = access.ActivationFailed
		}
		g := grantIn(access.Active, "")
		if why == access.ReasonNotOpened {
			g = grantIn(access.Activating, "")
		}
		now := t0.Add(2 * time.Hour)
		for _, ev := range []access.GrantEvent{access.ShutEvent{Reason: why, By: "carol"}, access.ShutFailedEvent{Error: "lock"},
			access.RetryShutEvent{}, access.ShutDoneEvent{}} {
			var err error
			if g, err = g.Step(ev, now); err != nil {
				t.Fatalf("%s: %T: %v", why, ev, err)
			}
			if g.Wanted(t0.Add(time.Minute)) {
				t.Fatalf("%s: wanted after %T", why, ev)
			}
		}
		if g.State != want || g.EndReason != why || g.EndedBy != "carol" || !g.EndedAt.Equal(now) {
			t.Errorf("%s: %+v, want %s", why, g, want)
		}
	}
}

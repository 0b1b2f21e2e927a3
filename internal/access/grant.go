package access

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// GrantID identifies a grant: "g-" and ten characters from [0-9a-z], so that a rule's name can carry it.
type GrantID string

// GrantState is the state of a grant.
type GrantState string

// The states of a grant (DESIGN 3).
const (
	Scheduled        GrantState = "scheduled"
	Activating       GrantState = "activating"
	Active           GrantState = "active"
	Closing          GrantState = "closing"
	CloseFailed      GrantState = "close_failed"
	Ended            GrantState = "ended"
	Closed           GrantState = "closed"
	Revoked          GrantState = "revoked"
	ActivationFailed GrantState = "activation_failed"
)

// GrantStates lists every state.
var GrantStates = []GrantState{Scheduled, Activating, Active, Closing, CloseFailed, Ended, Closed, Revoked, ActivationFailed}

// grantMoves is the whole table: what is absent is forbidden. The store repeats it as a constraint.
var grantMoves = map[GrantState][]GrantState{
	// Straight to activation_failed when its time to open went by before anything was sent: by way of activating, in one step.
	Scheduled:   {Activating, Closing, Closed, Revoked, ActivationFailed},
	Activating:  {Active, ActivationFailed, Closing, Closed, Revoked},
	Active:      {Closing},
	Closing:     {Ended, Closed, Revoked, CloseFailed},
	CloseFailed: {Closing}, // without end, until Azure is seen without its rules
}

// CanMove tells whether a grant may go from s to next.
func (s GrantState) CanMove(next GrantState) bool { return slices.Contains(grantMoves[s], next) }

// Final tells whether s is a state that no move leads on from. What is no state at all is not final, and moves nowhere.
func (s GrantState) Final() bool { return slices.Contains(GrantStates, s) && len(grantMoves[s]) == 0 }

// Live tells whether something of a grant in this state may stand in Azure, or is about to.
func (s GrantState) Live() bool {
	return s == Activating || s == Active || s == Closing || s == CloseFailed
}

// EndReason says why a grant is over, or is being shut.
type EndReason string

// The reasons.
const (
	ReasonTimeOver      EndReason = "time_over"
	ReasonDone          EndReason = "done"              // its requester closed it early
	ReasonRevoked       EndReason = "revoked"           // somebody else did
	ReasonTargetGone    EndReason = "target_gone"       // the machine does not exist any more
	ReasonTargetChanged EndReason = "target_changed"    // another machine stands under its id or its address
	ReasonTampered      EndReason = "removed_by_others" // its rule was put back once and removed again
	ReasonUnprotected   EndReason = "unprotected"       // the port's protection was switched off
	ReasonNotOpened     EndReason = "not_opened"        // the opening was not done in time, or given up before
)

// EndReasons lists every reason.
var EndReasons = []EndReason{ReasonTimeOver, ReasonDone, ReasonRevoked, ReasonTargetGone, ReasonTargetChanged, ReasonTampered,
	ReasonUnprotected, ReasonNotOpened}

// final returns the state in which a grant that was shut for this reason ends.
func (r EndReason) final() GrantState {
	switch r {
	case ReasonTimeOver:
		return Ended
	case ReasonDone:
		return Closed
	case ReasonNotOpened:
		return ActivationFailed
	default:
		return Revoked
	}
}

// ActivationLimit is how long after its start an opening may still be tried (DESIGN 3).
const ActivationLimit = 10 * time.Minute

// MinDuration is the shortest time that can be asked for, as in Defender's JIT (FACTS 1.1).
const MinDuration = 5 * time.Minute

// Grant is one target opened for one source for one window.
type Grant struct {
	ID         GrantID       `json:"id"`
	Request    RequestID     `json:"request"`
	Requester  string        `json:"requester"`
	Target     Target        `json:"target"`
	Source     netip.Prefix  `json:"source"`
	Duration   time.Duration `json:"duration"`
	NotBefore  time.Time     `json:"not_before"` // when the opening is due
	StartsAt   time.Time     `json:"starts_at"`  // to the second; fixed when the opening is first sent; zero before
	EndsAt     time.Time     `json:"ends_at"`    // fixed with StartsAt, Duration later; only an extension moves it
	State      GrantState    `json:"state"`
	ReadyAt    time.Time     `json:"ready_at"`    // the effective rules were seen to let the source in
	NotReady   string        `json:"not_ready"`   // while open but not ready: why
	Drifted    bool          `json:"drifted"`     // somebody else changed what was written for it
	Restored   int           `json:"restored"`    // how often its removed rule was put back
	BreakGlass bool          `json:"break_glass"` // opened without approval
	EndReason  EndReason     `json:"end_reason"`
	EndedBy    string        `json:"ended_by"` // the person who closed or revoked it
	EndedAt    time.Time     `json:"ended_at"` // when it was seen to be shut
	CreatedAt  time.Time     `json:"created_at"`
	LastError  string        `json:"last_error"`           // of the last attempt to open or shut it
	Places     []Place       `json:"places"`               // where its rules stand, as last confirmed
	Extensions int           `json:"extensions,omitempty"` // how often it was lengthened
	HardClose  bool          `json:"hard_close,omitempty"` // connections that are open at its end are ended too
	WarnBefore time.Duration `json:"warn_before,omitempty"`
	WarnedAt   time.Time     `json:"warned_at"` // when its requester was told that the end is near; zero after an extension
	Notify     []string      `json:"notify,omitempty"`
	Version    int64         `json:"version"`
}

// Place is where a back end writes for a grant, and the addresses that stand for its machine there.
type Place struct {
	ID        string       `json:"id"` // for example the resource id of an NSG
	Addresses []netip.Addr `json:"addresses"`
}

// GrantEvent is something that happens to a grant.
type GrantEvent interface{ grantEvent() }

// The events of a grant.
type (
	// OpeningEvent fixes the window: the opening is about to be sent for the first time. A retry moves neither start nor end,
	// and is refused when the opening may not be tried any more.
	OpeningEvent struct{ Places []Place }
	// OpenedEvent is a write that holds the grant's rules everywhere they must stand, inside the grant's window.
	OpenedEvent struct{}
	// ReadyEvent is the effective rules letting the source in, or the reason why they do not.
	ReadyEvent struct{ Why string }
	// ShutEvent asks to shut the grant. From scheduled, nothing was ever written and it is over at once. The first reason stays;
	// repeating it is an error only for people (ReasonDone, ReasonRevoked), who are to hear that it was over already.
	ShutEvent struct {
		Reason EndReason
		By     string
	}
	// ShutDoneEvent is Azure seen without the grant's rules. A failed closing is taken up by RetryShutEvent first.
	ShutDoneEvent struct{}
	// ShutFailedEvent is a closing that did not succeed; it is tried again for ever.
	ShutFailedEvent struct{ Error string }
	// RetryShutEvent takes a failed closing up again.
	RetryShutEvent struct{}
	// FailedEvent notes a failed attempt to open; the grant goes on trying until ActivationLimit.
	FailedEvent struct{ Error string }
	// ExtendEvent lengthens a live grant by By, if it then lasts no longer than Max in all. Max is the policy's longest time in
	// total at this moment, because several extensions may have been asked for side by side; without one it is AbsoluteMax.
	// It is the one event that means more each time that it comes: the request that it answers is approved but once.
	ExtendEvent struct{ By, Max time.Duration }
	// DriftEvent is our rule seen removed or changed by somebody else, and written again. Each removal counts.
	DriftEvent struct{ Removed bool }
	// WarnedEvent is the requester told that the end is near.
	WarnedEvent struct{}
	// MovedEvent is the machine's place or addresses found changed in a way that keeps the grant's meaning. What was verified
	// before means nothing at the new place.
	MovedEvent struct{ Places []Place }
)

func (OpeningEvent) grantEvent()    {}
func (OpenedEvent) grantEvent()     {}
func (ReadyEvent) grantEvent()      {}
func (ShutEvent) grantEvent()       {}
func (ShutDoneEvent) grantEvent()   {}
func (ShutFailedEvent) grantEvent() {}
func (RetryShutEvent) grantEvent()  {}
func (FailedEvent) grantEvent()     {}
func (ExtendEvent) grantEvent()     {}
func (DriftEvent) grantEvent()      {}
func (MovedEvent) grantEvent()      {}
func (WarnedEvent) grantEvent()     {}

// Step returns the grant after ev. It changes nothing when it returns an error. An event that brings nothing new returns the
// grant as it is, so that a reconciler may repeat itself.
func (g Grant) Step(ev GrantEvent, now time.Time) (Grant, error) {
	out, err := g.step(ev, now)
	if err != nil {
		return g, err
	}
	return out, nil
}

func (g Grant) step(ev GrantEvent, now time.Time) (Grant, error) {
	switch ev := ev.(type) {
	case OpeningEvent:
		return g.opening(ev, now)
	case OpenedEvent:
		switch {
		case g.State == Active:
			return g, nil
		case g.State != Activating || g.EndReason != "":
			return g, g.refuse(Active, now)
		case !now.Before(g.EndsAt): // it came too late to be an opening, and is removed (P1)
			return g, Errorf(CodeConflict, "grant %s was opened after its end, %s", g.ID, Clock(g.EndsAt)).
				WithHint("it is being shut; ask again with: curfew request create")
		}
		g.LastError = ""
		return g.move(Active, now)
	case ReadyEvent:
		switch {
		case g.State != Active:
			return g, g.refuse(Active, now)
		case ev.Why != "":
			g.ReadyAt = time.Time{}
		case g.ReadyAt.IsZero():
			g.ReadyAt = now
		}
		g.NotReady = ev.Why
		return g, nil
	case FailedEvent:
		if g.State != Activating && g.State != Scheduled && g.State != Active {
			return g, g.refuse(Activating, now)
		}
		g.LastError = ev.Error
		return g, nil
	case ShutEvent:
		return g.shut(ev, now)
	case ShutDoneEvent:
		switch {
		case g.State.Final():
			return g, nil
		case g.givenUp():
			return g.over(ActivationFailed, now)
		case g.State == Closing:
			g.LastError = ""
			return g.over(g.EndReason.final(), now)
		}
		return g, g.refuse(Ended, now)
	case ShutFailedEvent:
		g.LastError = ev.Error
		if g.State == CloseFailed || g.givenUp() {
			return g, nil
		}
		return g.move(CloseFailed, now)
	case RetryShutEvent:
		if g.State == Closing || g.givenUp() {
			return g, nil
		}
		if g.State != CloseFailed {
			return g, g.refuse(Closing, now)
		}
		return g.move(Closing, now)
	case ExtendEvent:
		return g.extend(ev, now)
	case DriftEvent:
		if g.State != Active && g.State != Activating || g.EndReason != "" {
			return g, g.refuse(Active, now)
		}
		g.Drifted = true
		if ev.Removed {
			g.Restored++
		}
		return g, nil
	case WarnedEvent:
		if g.State != Active || g.EndReason != "" {
			return g, g.refuse(Active, now)
		}
		if g.WarnedAt.IsZero() {
			g.WarnedAt = now
		}
		return g, nil
	case MovedEvent:
		if !g.State.Live() {
			return g, g.refuse(Active, now)
		}
		if slices.EqualFunc(g.Places, ev.Places, Place.equal) {
			return g, nil
		}
		g.Places, g.ReadyAt = ev.Places, time.Time{}
		if g.State == Active {
			g.NotReady = "the machine's addresses have changed; not verified again yet"
		}
		return g, nil
	}
	return g, Errorf(CodeInternal, "unknown event %T for grant %s", ev, g.ID)
}

func (g Grant) opening(ev OpeningEvent, now time.Time) (Grant, error) {
	retry := g.State == Activating && g.EndReason == ""
	switch {
	case !retry && g.State != Scheduled:
		return g, g.refuse(Activating, now)
	case !retry && now.Before(g.NotBefore):
		return g, Errorf(CodeConflict, "grant %s does not start before %s", g.ID, Clock(g.NotBefore)).WithHint("wait until then")
	case g.Late(now), retry && !now.Before(g.EndsAt):
		return g, Errorf(CodeConflict, "grant %s was due at %s, too long ago to open it now", g.ID, Clock(g.NotBefore)).
			WithHint("ask again with: curfew request create")
	case g.Duration <= 0:
		return g, Errorf(CodeInternal, "grant %s has no duration", g.ID)
	}
	g.Places = ev.Places
	if retry {
		return g, nil
	}
	// To the second, as a rule's name carries the end.
	g.StartsAt = now.Truncate(time.Second)
	g.EndsAt = g.StartsAt.Add(g.Duration)
	return g.move(Activating, now)
}

func (g Grant) extend(ev ExtendEvent, now time.Time) (Grant, error) {
	limit := AbsoluteMax
	if ev.Max > 0 {
		limit = min(limit, ev.Max)
	}
	switch {
	case ev.By <= 0:
		return g, invalid("duration", "an extension must be longer than nothing").WithHint("say by how much, like 45m or 1h30m")
	case g.BreakGlass: // its limit is that of an emergency, whatever others may have longer
		return g, Errorf(CodeDenied, "grant %s was opened by breaking the glass, and is not extended", g.ID).WithHint("ask for a new grant in the usual way: curfew request create")
	case g.State != Active && g.State != Activating || g.EndReason != "" || !now.Before(g.EndsAt):
		return g, Errorf(CodeConflict, "grant %s is %s and cannot be extended", g.ID, g.Status(now)).
			WithHint("ask again with: curfew request create")
	case ev.By > limit-g.Duration: // so written that nothing overflows
		return g, Errorf(CodeDenied, "grant %s lasts %s; with %s more it would be longer than %s, the longest time in total",
			g.ID, Duration(g.Duration), Duration(ev.By), Duration(limit)).WithHint("ask for less, or for a new grant when this one is over")
	}
	g.EndsAt, g.Duration = g.EndsAt.Add(ev.By), g.Duration+ev.By
	g.Extensions, g.WarnedAt = g.Extensions+1, time.Time{}
	return g, nil
}

func (g Grant) shut(ev ShutEvent, now time.Time) (Grant, error) {
	switch {
	case !slices.Contains(EndReasons, ev.Reason):
		return g, Errorf(CodeInternal, "grant %s cannot be shut: %q is not a reason", g.ID, ev.Reason)
	case g.State.Final() || g.EndReason != "":
		if ev.Reason == ReasonDone || ev.Reason == ReasonRevoked {
			return g, Errorf(CodeConflict, "grant %s is %s already", g.ID, g.Status(now)).
				WithHint("nothing was changed; see it with: curfew grant show %s", g.ID)
		}
		return g, nil
	case ev.Reason == ReasonTimeOver && g.EndsAt.IsZero():
		return g, Errorf(CodeConflict, "grant %s has not begun, so that its time cannot be over", g.ID).
			WithHint("close it with: curfew grant close %s", g.ID)
	case ev.Reason == ReasonTimeOver && now.Before(g.EndsAt):
		return g, Errorf(CodeConflict, "grant %s is not over before %s", g.ID, Clock(g.EndsAt)).
			WithHint("close it early with: curfew grant close %s", g.ID)
	case ev.Reason == ReasonNotOpened && g.State == Active:
		return g, g.refuse(ActivationFailed, now)
	}
	g.EndReason, g.EndedBy = ev.Reason, ev.By
	switch {
	case g.State == Scheduled: // nothing was ever written
		return g.over(ev.Reason.final(), now)
	case g.givenUp():
		// It stays activating, without being wanted, until Azure is seen without its rules: the failure leaves nothing open.
		return g, nil
	}
	return g.move(Closing, now)
}

// givenUp tells whether the opening was given up and Azure has not yet been seen without its rules.
func (g Grant) givenUp() bool { return g.State == Activating && g.EndReason == ReasonNotOpened }

// move takes the grant to a state, if the table has that move.
func (g Grant) move(next GrantState, now time.Time) (Grant, error) {
	if !g.State.CanMove(next) {
		return g, g.refuse(next, now)
	}
	g.State = next
	return g, nil
}

// over takes the grant to a final state.
func (g Grant) over(next GrantState, now time.Time) (Grant, error) {
	g, err := g.move(next, now)
	if err == nil {
		g.EndedAt, g.Places = now, nil
	}
	return g, err
}

// Wanted tells whether the grant's port should be open at now. Everything but an opening or open grant inside its window says
// no (P1).
func (g Grant) Wanted(now time.Time) bool {
	return (g.State == Activating || g.State == Active) && g.EndReason == "" && !g.StartsAt.IsZero() &&
		!now.Before(g.StartsAt) && now.Before(g.EndsAt)
}

// Due tells whether the opening of a scheduled grant should be sent at now.
func (g Grant) Due(now time.Time) bool {
	return g.State == Scheduled && !now.Before(g.NotBefore) && !g.Late(now)
}

// Late tells whether the opening is past the time in which it may still be tried.
func (g Grant) Late(now time.Time) bool {
	switch {
	case g.State == Scheduled:
		return !now.Before(g.NotBefore.Add(ActivationLimit))
	case g.State == Activating && g.EndReason == "":
		return !now.Before(g.StartsAt.Add(ActivationLimit))
	}
	return false
}

// Overdue tells whether the grant should be shut by now and is not seen to be: its end is past, or a closing failed.
func (g Grant) Overdue(now time.Time) bool {
	return g.State == CloseFailed || g.State.Live() && !g.EndsAt.IsZero() && !now.Before(g.EndsAt)
}

// Ready tells whether the effective rules were seen to let the source in (P5).
func (g Grant) Ready() bool { return g.State == Active && !g.ReadyAt.IsZero() }

// Status is the state in words for messages.
func (g Grant) Status(now time.Time) string {
	switch {
	case g.Overdue(now):
		return string(g.State) + " (overdue)"
	case g.givenUp():
		return string(g.State) + " (given up, being cleared away)"
	}
	return string(g.State)
}

func (g Grant) refuse(next GrantState, now time.Time) *Error {
	return Errorf(CodeConflict, "grant %s is %s and cannot become %s", g.ID, g.Status(now), next).
		WithHint("see it with: curfew grant show %s", g.ID)
}

func (p Place) equal(q Place) bool {
	return strings.EqualFold(p.ID, q.ID) && slices.Equal(p.Addresses, q.Addresses)
}

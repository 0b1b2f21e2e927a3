package access

import (
	"net/netip"
	"slices"
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
	CloseFailed: {Closing},
}

// CanMove tells whether a grant may go from s to next.
func (s GrantState) CanMove(next GrantState) bool { return slices.Contains(grantMoves[s], next) }

// Final tells whether no move leads on from s.
func (s GrantState) Final() bool {
	return s == Ended || s == Closed || s == Revoked || s == ActivationFailed
}

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
	ReasonNotOpened     EndReason = "not_opened"        // the opening was not done in time
)

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
	StartsAt   time.Time     `json:"starts_at"`  // fixed when the opening is first sent; zero before
	EndsAt     time.Time     `json:"ends_at"`    // fixed with StartsAt; only an extension moves it
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
	LastError  string        `json:"last_error"` // of the last attempt to open or shut it
	Places     []Place       `json:"places"`     // where its rules stand, as last confirmed
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
	// OpeningEvent fixes the window: the opening is about to be sent for the first time.
	OpeningEvent struct{ Places []Place }
	// OpenedEvent is a write that holds the grant's rules everywhere they must stand. Idempotent.
	OpenedEvent struct{}
	// ReadyEvent is the effective rules letting the source in, or the reason why they do not.
	ReadyEvent struct{ Why string }
	// ShutEvent asks to shut the grant. From scheduled, nothing was ever written and it is over at once.
	ShutEvent struct {
		Reason EndReason
		By     string
	}
	// ShutDoneEvent is Azure seen without the grant's rules.
	ShutDoneEvent struct{}
	// ShutFailedEvent is a closing that did not succeed; it is tried again for ever.
	ShutFailedEvent struct{ Error string }
	// RetryShutEvent takes a failed closing up again.
	RetryShutEvent struct{}
	// FailedEvent notes a failed attempt to open; the grant goes on trying until ActivationLimit.
	FailedEvent struct{ Error string }
	// ExtendEvent lengthens a live grant by By.
	ExtendEvent struct{ By time.Duration }
	// DriftEvent is our rule seen removed or changed by somebody else, and written again.
	DriftEvent struct{ Removed bool }
	// MovedEvent is the machine's place or addresses found changed in a way that keeps the grant's meaning.
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

// Step returns the grant after ev. It changes nothing when it returns an error. An event that brings nothing new returns the
// grant as it is, so that a reconciler may repeat itself.
func (g Grant) Step(ev GrantEvent, now time.Time) (Grant, error) {
	switch ev := ev.(type) {
	case OpeningEvent:
		switch {
		case g.State == Activating && g.EndReason == "":
			g.Places = ev.Places // a retry: it moves neither start nor end
			return g, nil
		case g.State != Scheduled:
			return g, g.refuse(Activating)
		case now.Before(g.NotBefore):
			return g, Errorf(CodeConflict, "grant %s does not start before %s", g.ID, Clock(g.NotBefore))
		case !now.Before(g.NotBefore.Add(ActivationLimit)):
			return g, Errorf(CodeConflict, "grant %s was due at %s, too long ago to open it now", g.ID, Clock(g.NotBefore))
		}
		g.State, g.StartsAt, g.EndsAt, g.Places = Activating, now, now.Add(g.Duration), ev.Places
		return g, nil
	case OpenedEvent:
		if g.State == Active {
			return g, nil
		}
		if g.State != Activating || g.EndReason != "" {
			return g, g.refuse(Active)
		}
		g.State, g.LastError = Active, ""
		return g, nil
	case ReadyEvent:
		if g.State != Active {
			return g, g.refuse(Active)
		}
		if ev.Why != "" {
			g.NotReady, g.ReadyAt = ev.Why, time.Time{}
			return g, nil
		}
		g.NotReady = ""
		if g.ReadyAt.IsZero() {
			g.ReadyAt = now
		}
		return g, nil
	case FailedEvent:
		if g.State != Activating && g.State != Scheduled && g.State != Active {
			return g, g.refuse(Activating)
		}
		g.LastError = ev.Error
		return g, nil
	case ShutEvent:
		return g.shut(ev, now)
	case ShutDoneEvent:
		switch {
		case g.State.Final():
			return g, nil
		case g.State == Activating && g.EndReason == ReasonNotOpened:
			g.State = ActivationFailed
		case g.State == Closing:
			g.State = g.EndReason.final()
		default:
			return g, g.refuse(Ended)
		}
		g.EndedAt, g.Places = now, nil
		return g, nil
	case ShutFailedEvent:
		if g.State == Activating && g.EndReason == ReasonNotOpened {
			g.LastError = ev.Error
			return g, nil
		}
		if g.State == CloseFailed {
			g.LastError = ev.Error
			return g, nil
		}
		if g.State != Closing {
			return g, g.refuse(CloseFailed)
		}
		g.State, g.LastError = CloseFailed, ev.Error
		return g, nil
	case RetryShutEvent:
		if g.State == Closing || g.State == Activating && g.EndReason == ReasonNotOpened {
			return g, nil
		}
		if g.State != CloseFailed {
			return g, g.refuse(Closing)
		}
		g.State = Closing
		return g, nil
	case ExtendEvent:
		if ev.By <= 0 {
			return g, invalid("duration", "an extension must be longer than nothing")
		}
		if g.State != Active && g.State != Activating || g.EndReason != "" || !now.Before(g.EndsAt) {
			return g, Errorf(CodeConflict, "grant %s is %s and cannot be extended", g.ID, g.Status(now)).
				WithHint("ask again with: curfew request create")
		}
		g.EndsAt, g.Duration = g.EndsAt.Add(ev.By), g.Duration+ev.By
		return g, nil
	case DriftEvent:
		if g.State != Active && g.State != Activating {
			return g, g.refuse(Active)
		}
		g.Drifted = true
		if ev.Removed {
			g.Restored++
		}
		return g, nil
	case MovedEvent:
		if !g.State.Live() {
			return g, g.refuse(Active)
		}
		g.Places, g.ReadyAt = ev.Places, time.Time{}
		return g, nil
	}
	return g, Errorf(CodeInternal, "unknown event %T for grant %s", ev, g.ID)
}

func (g Grant) shut(ev ShutEvent, now time.Time) (Grant, error) {
	if ev.Reason == "" {
		return g, Errorf(CodeInternal, "grant %s cannot be shut without a reason", g.ID)
	}
	if g.State.Final() || g.State == Closing || g.State == CloseFailed || g.EndReason != "" {
		if ev.Reason == ReasonDone || ev.Reason == ReasonRevoked {
			return g, Errorf(CodeConflict, "grant %s is %s already", g.ID, g.Status(now))
		}
		return g, nil
	}
	if ev.Reason == ReasonTimeOver && (g.EndsAt.IsZero() || now.Before(g.EndsAt)) {
		return g, Errorf(CodeConflict, "grant %s is not over before %s", g.ID, Clock(g.EndsAt))
	}
	g.EndReason, g.EndedBy = ev.Reason, ev.By
	switch {
	case g.State == Scheduled && ev.Reason == ReasonNotOpened:
		g.State, g.EndedAt = ActivationFailed, now
	case g.State == Scheduled:
		g.State, g.EndedAt = ev.Reason.final(), now
		if g.State == Ended { // a scheduled grant has no window that could be over
			g.State = Revoked
		}
	case g.State == Activating && ev.Reason == ReasonNotOpened:
		// It stays activating, without being wanted, until Azure is seen without its rules: the failure leaves nothing open.
	default:
		g.State = Closing
	}
	return g, nil
}

// Wanted tells whether the grant's port should be open at now. Everything but an opening or open grant inside its window says no (P1).
func (g Grant) Wanted(now time.Time) bool {
	return (g.State == Activating || g.State == Active) && g.EndReason == "" && !g.StartsAt.IsZero() &&
		!now.Before(g.StartsAt) && now.Before(g.EndsAt)
}

// Due tells whether the opening of a scheduled grant should be sent at now.
func (g Grant) Due(now time.Time) bool { return g.State == Scheduled && !now.Before(g.NotBefore) }

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

// Overdue tells whether the grant should be shut by now and is not seen to be.
func (g Grant) Overdue(now time.Time) bool {
	return g.State.Live() && !g.EndsAt.IsZero() && !now.Before(g.EndsAt)
}

// Ready tells whether the effective rules were seen to let the source in (P5).
func (g Grant) Ready() bool { return g.State == Active && !g.ReadyAt.IsZero() }

// Status is the state in words for messages.
func (g Grant) Status(now time.Time) string {
	if g.Overdue(now) && !g.State.Final() {
		return string(g.State) + " (overdue)"
	}
	return string(g.State)
}

func (g Grant) refuse(next GrantState) *Error {
	return Errorf(CodeConflict, "grant %s is %s and cannot become %s", g.ID, g.State, next)
}

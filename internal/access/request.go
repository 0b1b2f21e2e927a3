package access

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// RequestID identifies a request: "r-" and ten characters.
type RequestID string

// RequestState is the state of a request; approved, denied, cancelled and expired are final.
type RequestState string

// The states of a request (DESIGN 3).
const (
	Pending   RequestState = "pending"
	Approved  RequestState = "approved"
	Denied    RequestState = "denied"
	Cancelled RequestState = "cancelled"
	Expired   RequestState = "expired"
)

// RequestStates lists every state.
var RequestStates = []RequestState{Pending, Approved, Denied, Cancelled, Expired}

// requestMoves is the whole table: what is absent is forbidden. The store repeats it as a constraint.
var requestMoves = map[RequestState][]RequestState{Pending: {Approved, Denied, Cancelled, Expired}}

// CanMove tells whether a request may go from s to next.
func (s RequestState) CanMove(next RequestState) bool { return slices.Contains(requestMoves[s], next) }

// Final tells whether no move leads on from s.
func (s RequestState) Final() bool { return s != "" && len(requestMoves[s]) == 0 }

// Terms is what is asked for, or granted: review may narrow them, never widen.
type Terms struct {
	Targets  []Target      `json:"targets"`
	Source   netip.Prefix  `json:"source"`
	Duration time.Duration `json:"duration"`
}

// Within tells whether t grants nothing that o does not: each target in one of o's, the source inside o's, no longer than o.
func (t Terms) Within(o Terms) bool {
	if t.Duration <= 0 || t.Duration > o.Duration || !PrefixWithin(t.Source, o.Source) || len(t.Targets) == 0 {
		return false
	}
	for _, a := range t.Targets {
		if !slices.ContainsFunc(o.Targets, func(b Target) bool {
			return SameVM(a.VM.ID, b.VM.ID) && a.VM.VMID == b.VM.VMID && a.Protocol == b.Protocol && b.Ports.Contains(a.Ports) && a.Ports.Valid()
		}) {
			return false
		}
	}
	return true
}

// PrefixWithin tells whether every address of a is in b.
func PrefixWithin(a, b netip.Prefix) bool {
	return a.IsValid() && b.IsValid() && a.Addr().Is4() == b.Addr().Is4() && b.Bits() <= a.Bits() && b.Contains(a.Addr())
}

// Decision is one approver's answer.
type Decision string

// The answers that a review can hold.
const (
	Approve Decision = "approve"
	Deny    Decision = "deny"
)

// Review is one approver's decision. Narrowed is nil when the request was approved as it stood.
type Review struct {
	Reviewer string    `json:"reviewer"`
	Decision Decision  `json:"decision"`
	Comment  string    `json:"comment,omitempty"`
	Narrowed *Terms    `json:"narrowed,omitempty"`
	At       time.Time `json:"at"`
}

// Request is an ask. Asked never changes; Terms is what would be granted now, after reviews have narrowed it.
type Request struct {
	ID        RequestID    `json:"id"`
	Requester string       `json:"requester"`
	Asked     Terms        `json:"asked"`
	Terms     Terms        `json:"terms"`
	StartAt   time.Time    `json:"start_at"` // zero: as soon as it is approved
	Reason    string       `json:"reason"`
	Ticket    string       `json:"ticket,omitempty"`
	Extends   GrantID      `json:"extends,omitempty"` // the grant that it would lengthen by Terms.Duration
	Needed    int          `json:"needed"`            // approvals that the policy asks for; never less than one
	Rules     []string     `json:"rules"`             // the policy rules that matched
	State     RequestState `json:"state"`
	CreatedAt time.Time    `json:"created_at"`
	ExpiresAt time.Time    `json:"expires_at"` // unanswered until then: expired
	DecidedAt time.Time    `json:"decided_at"`
	Reviews   []Review     `json:"reviews"`
	Grants    []GrantID    `json:"grants"`
	Version   int64        `json:"version"`
}

// Event is something that happens to a request.
type Event interface{ event() }

// The events of a request.
type (
	// ReviewEvent is an approver's answer. Narrowed, if not nil, replaces the terms and must lie within them.
	ReviewEvent struct {
		By       string
		Decision Decision
		Comment  string
		Narrowed *Terms
	}
	// CancelEvent is the requester taking the request back.
	CancelEvent struct{ By string }
	// ExpireEvent is the passing of time; it moves nothing before ExpiresAt.
	ExpireEvent struct{}
)

func (ReviewEvent) event() {}
func (CancelEvent) event() {}
func (ExpireEvent) event() {}

// Effect is what must be done because a request moved.
type Effect interface{ effect() }

// The effects of a request's moves.
type (
	// CreateGrants asks for one grant a target, by these terms, not before StartAt.
	CreateGrants struct {
		Terms   Terms
		StartAt time.Time
	}
	// ExtendGrant asks to lengthen a live grant.
	ExtendGrant struct {
		Grant GrantID
		By    time.Duration
	}
)

func (CreateGrants) effect() {}
func (ExtendGrant) effect()  {}

// Step returns the request after ev, and what must now be done. It changes nothing when it returns an error.
func (r Request) Step(ev Event, now time.Time) (Request, []Effect, error) {
	if r.State == Pending && !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt) {
		if _, ok := ev.(ExpireEvent); !ok {
			return r, nil, Errorf(CodeConflict, "request %s expired at %s without an answer", r.ID, Clock(r.ExpiresAt)).
				WithHint("ask again with: curfew request create")
		}
	}
	if r.State != Pending {
		return r, nil, r.decidedError()
	}
	switch ev := ev.(type) {
	case ReviewEvent:
		return r.review(ev, now)
	case CancelEvent:
		if !SamePerson(ev.By, r.Requester) {
			return r, nil, Errorf(CodeDenied, "request %s is not yours: only its requester cancels it", r.ID).
				WithHint("an approver answers it with: curfew deny %s", r.ID)
		}
		return r.move(Cancelled, now), nil, nil
	case ExpireEvent:
		if r.ExpiresAt.IsZero() || now.Before(r.ExpiresAt) {
			return r, nil, Errorf(CodeConflict, "request %s is not over before %s", r.ID, Clock(r.ExpiresAt))
		}
		return r.move(Expired, now), nil, nil
	}
	return r, nil, Errorf(CodeInternal, "unknown event %T for request %s", ev, r.ID)
}

func (r Request) review(ev ReviewEvent, now time.Time) (Request, []Effect, error) {
	if ev.By == "" {
		return r, nil, Errorf(CodeUnauthenticated, "a review needs a reviewer")
	}
	if SamePerson(ev.By, r.Requester) { // P6
		return r, nil, Errorf(CodeDenied, "you asked for %s yourself: nobody decides on their own request", r.ID).
			WithHint("another approver can, with: curfew approve %s", r.ID)
	}
	if slices.ContainsFunc(r.Reviews, func(v Review) bool { return SamePerson(v.Reviewer, ev.By) }) {
		return r, nil, Errorf(CodeConflict, "you have answered request %s already; it needs %d more", r.ID, r.Needed-r.approvals()).
			WithHint("somebody else has to agree as well")
	}
	rev := Review{Reviewer: ev.By, Decision: ev.Decision, Comment: ev.Comment, At: now}
	out := r
	switch ev.Decision {
	case Deny:
		out.Reviews = append(slices.Clone(r.Reviews), rev)
		return out.move(Denied, now), nil, nil
	case Approve:
	default:
		return r, nil, invalid("decision", "decision %q is neither approve nor deny", ev.Decision)
	}
	if ev.Narrowed != nil {
		if !ev.Narrowed.Within(r.Terms) {
			return r, nil, invalid("narrow", "an approval may narrow time, ports or source of request %s, never widen them", r.ID).
				WithHint("approve it as it stands, for less, or deny it and let them ask again")
		}
		if ev.Narrowed.Duration < MinDuration {
			return r, nil, invalid("duration", "%s is shorter than the least duration, %s", ev.Narrowed.Duration, MinDuration)
		}
		n := *ev.Narrowed
		rev.Narrowed = &n
		out.Terms = n
	}
	out.Reviews = append(slices.Clone(r.Reviews), rev)
	if out.approvals() < max(r.Needed, 1) {
		return out, nil, nil
	}
	out = out.move(Approved, now)
	if out.Extends != "" {
		return out, []Effect{ExtendGrant{Grant: out.Extends, By: out.Terms.Duration}}, nil
	}
	return out, []Effect{CreateGrants{Terms: out.Terms, StartAt: out.StartAt}}, nil
}

func (r Request) approvals() int {
	n := 0
	for _, v := range r.Reviews {
		if v.Decision == Approve {
			n++
		}
	}
	return n
}

// Missing returns how many approvals a pending request still needs.
func (r Request) Missing() int {
	if r.State != Pending {
		return 0
	}
	return max(r.Needed, 1) - r.approvals()
}

func (r Request) move(s RequestState, now time.Time) Request {
	r.State, r.DecidedAt = s, now
	return r
}

func (r Request) decidedError() *Error {
	by := ""
	if n := len(r.Reviews); n > 0 && r.State != Cancelled && r.State != Expired {
		by = " by " + r.Reviews[n-1].Reviewer
	}
	e := Errorf(CodeConflict, "request %s is %s already%s, since %s", r.ID, r.State, by, Clock(r.DecidedAt))
	return e.WithHint("your answer was not needed and changed nothing; see it with: curfew request show %s", r.ID)
}

// SamePerson compares names of people without case, so that an approver does not become another one by spelling.
func SamePerson(a, b string) bool { return a != "" && strings.EqualFold(a, b) }

// Clock formats an instant for messages: UTC, to the second.
func Clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

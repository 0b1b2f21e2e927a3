package access

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

// Final tells whether s is a state that no move leads on from. What is no state at all is not final, and moves nowhere.
func (s RequestState) Final() bool {
	return slices.Contains(RequestStates, s) && len(requestMoves[s]) == 0
}

// Terms is what is asked for, or granted: review may narrow them, never widen.
type Terms struct {
	Targets  []Target      `json:"targets"`
	Source   netip.Prefix  `json:"source"`
	Duration time.Duration `json:"duration"`
}

// Check refuses terms that are not whole: no target, a target without machine, port or protocol, one that overlaps another, a
// source that no client can have, no time. Limits are the policy's affair.
func (t Terms) Check() error {
	if len(t.Targets) == 0 {
		return invalid("port", "no port was asked for").WithHint("name at least one machine and port")
	}
	for i, a := range t.Targets {
		switch {
		case a.VM.ID == "":
			return invalid("vm", "no machine was named for port %s", a.Ports).WithHint("name it by name, group/name or resource id")
		case !a.Ports.Valid():
			return invalid("port", "port %s of %s is not a port", a.Ports, a.VM.Name).WithHint("ports run from 1 to 65535")
		case a.Protocol != TCP && a.Protocol != UDP:
			return invalid("protocol", "protocol %q of port %s is neither tcp nor udp", a.Protocol, a.Ports).WithHint("name one of them")
		}
		for _, b := range t.Targets[:i] {
			if SameVM(a.VM.ID, b.VM.ID) && a.Protocol == b.Protocol && a.Ports.Overlaps(b.Ports) {
				return invalid("port", "%s and %s are asked for at once and overlap", b, a).WithHint("name each port once")
			}
		}
	}
	if _, err := CheckSource(t.Source); err != nil {
		return err
	}
	if t.Duration <= 0 {
		return invalid("duration", "no duration was given").WithHint("say for how long, like 45m or 1h30m")
	}
	return nil
}

// Within tells whether t grants nothing that o does not: each target in one of o's, the source inside o's, no longer than o.
func (t Terms) Within(o Terms) bool {
	if t.Duration <= 0 || t.Duration > o.Duration || !PrefixWithin(t.Source, o.Source) || len(t.Targets) == 0 {
		return false
	}
	return !slices.ContainsFunc(t.Targets, func(a Target) bool {
		return !slices.ContainsFunc(o.Targets, func(b Target) bool {
			return SameVM(a.VM.ID, b.VM.ID) && strings.EqualFold(a.VM.Name, b.VM.Name) && a.VM.VMID == b.VM.VMID &&
				a.Protocol == b.Protocol && b.Ports.Contains(a.Ports)
		})
	})
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
	// Authorities are the rights in which it was given: the reviewer's own first, then those of people who delegated to them.
	Authorities []Authority `json:"authorities,omitempty"`
	// Via is where it was given if not through the API: "slack", for example.
	Via string `json:"via,omitempty"`
}

// Comment is what somebody said about a request without deciding on it.
type Comment struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Aftermath is the look back at a break-glass access. It stays open until somebody other than the user closes it.
type Aftermath struct {
	ClosedBy string    `json:"closed_by,omitempty"`
	ClosedAt time.Time `json:"closed_at"`
	Comment  string    `json:"comment,omitempty"`
}

// Open tells whether nobody has looked yet.
func (a Aftermath) Open() bool { return a.ClosedBy == "" }

// Request is an ask. Asked never changes; Terms is what would be granted now, after reviews have narrowed it.
type Request struct {
	ID        RequestID `json:"id"`
	Requester string    `json:"requester"`
	Asked     Terms     `json:"asked"`
	Terms     Terms     `json:"terms"`
	StartAt   time.Time `json:"start_at"` // zero: as soon as it is approved
	Reason    string    `json:"reason"`
	Ticket    string    `json:"ticket,omitempty"`
	Extends   GrantID   `json:"extends,omitempty"` // the grant that it would lengthen by Terms.Duration
	Needs     []Need    `json:"needs"`             // who must approve; none was never judged, and is never approved
	Rules     []string  `json:"rules"`             // the policy rules that matched
	Auto      []string  `json:"auto,omitempty"`    // the rules that approved it by themselves, if it was they
	Groups    []string  `json:"groups,omitempty"`  // of the requester when asking, as the policy names them
	Roles     []Role    `json:"roles,omitempty"`   // likewise
	Kind      Kind      `json:"kind,omitempty"`    // of the requester's account
	Sponsor   string    `json:"sponsor,omitempty"` // who answers for a program that asks
	// BreakGlass marks access that was opened before anybody agreed; Aftermath is then the review that follows.
	BreakGlass bool          `json:"break_glass,omitempty"`
	Aftermath  *Aftermath    `json:"aftermath,omitempty"`
	Comments   []Comment     `json:"comments,omitempty"`
	Notify     []string      `json:"notify,omitempty"`     // the channels that hear of it
	HardClose  bool          `json:"hard_close,omitempty"` // its grants end open connections too
	WarnBefore time.Duration `json:"warn_before,omitempty"`
	// RemindedAt and EscalatedAt are when the approvers were told again, and when those behind them were told.
	RemindedAt  time.Time    `json:"reminded_at"`
	EscalatedAt time.Time    `json:"escalated_at"`
	State       RequestState `json:"state"`
	CreatedAt   time.Time    `json:"created_at"`
	ExpiresAt   time.Time    `json:"expires_at"` // unanswered until then: expired
	DecidedAt   time.Time    `json:"decided_at"`
	Reviews     []Review     `json:"reviews"`
	Grants      []GrantID    `json:"grants"`
	Version     int64        `json:"version"`
}

// Event is something that happens to a request.
type Event interface{ event() }

// The events of a request.
type (
	// ReviewEvent is an approver's answer. Narrowed, if not nil, replaces the terms and must lie within them.
	ReviewEvent struct {
		By       string
		As       []Authority // in whose right; By's own name first. Empty: By's name alone
		Decision Decision
		Comment  string
		Narrowed *Terms
		Digest   string // of the request as it was shown; empty: not compared
		Via      string
	}
	// AutoEvent is the policy approving by itself: nothing that any rule needs is outstanding, because none needs anybody.
	AutoEvent struct{}
	// BreakGlassEvent opens at once, for somebody whom a rule lists.
	BreakGlassEvent struct{}
	// CancelEvent is the requester taking the request back.
	CancelEvent struct{ By string }
	// ExpireEvent is the passing of time; it moves nothing before ExpiresAt.
	ExpireEvent struct{}
)

func (ReviewEvent) event()     {}
func (AutoEvent) event()       {}
func (BreakGlassEvent) event() {}
func (CancelEvent) event()     {}
func (ExpireEvent) event()     {}

// Effect is what must be done because a request moved.
type Effect interface{ effect() }

// The effects of a request's moves.
type (
	// CreateGrants asks for one grant a target, by these terms, to be opened from StartAt on: the instant of the last approval,
	// or the start that was asked for if that is later.
	CreateGrants struct {
		Terms   Terms
		StartAt time.Time
	}
	// ExtendGrant asks to lengthen a live grant. Other extensions may have been approved since it was asked for, so that the
	// longest time in total is decided again when it is done: ExtendEvent.Max.
	ExtendGrant struct {
		Grant GrantID
		By    time.Duration
	}
)

func (CreateGrants) effect() {}
func (ExtendGrant) effect()  {}

// Step returns the request after ev, and what must now be done. It changes nothing when it returns an error. A second answer of
// any kind to a request that was decided is an error that says who was first, so that nobody believes that theirs counted.
func (r Request) Step(ev Event, now time.Time) (Request, []Effect, error) {
	if r.State != Pending {
		return r, nil, r.decidedError()
	}
	over := !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt)
	if _, ok := ev.(ExpireEvent); over && !ok {
		return r, nil, Errorf(CodeConflict, "request %s expired at %s without an answer", r.ID, Clock(r.ExpiresAt)).
			WithHint("ask again with: curfew request create")
	}
	switch ev := ev.(type) {
	case ReviewEvent:
		return r.review(ev, now)
	case AutoEvent:
		if len(r.Auto) == 0 || len(r.Needs) > 0 || r.BreakGlass {
			return r, nil, Errorf(CodeInternal, "no rule approves request %s by itself", r.ID)
		}
		return r.approve(now)
	case BreakGlassEvent:
		if !r.BreakGlass {
			return r, nil, Errorf(CodeInternal, "request %s is none that breaks the glass", r.ID)
		}
		r.Aftermath = &Aftermath{}
		return r.approve(now)
	case CancelEvent:
		if !SamePerson(ev.By, r.Requester) {
			return r, nil, Errorf(CodeDenied, "request %s is not yours: only its requester cancels it", r.ID).
				WithHint("an approver answers it with: curfew deny %s", r.ID)
		}
		return r.move(Cancelled, now), nil, nil
	case ExpireEvent:
		if !over {
			return r, nil, Errorf(CodeConflict, "request %s does not expire before %s", r.ID, Clock(r.ExpiresAt)).
				WithHint("answer it, or wait")
		}
		return r.move(Expired, now), nil, nil
	}
	return r, nil, Errorf(CodeInternal, "unknown event %T for request %s", ev, r.ID)
}

func (r Request) review(ev ReviewEvent, now time.Time) (Request, []Effect, error) {
	if strings.TrimSpace(ev.By) == "" {
		return r, nil, Errorf(CodeUnauthenticated, "a review needs a reviewer, and nobody is signed in").WithHint("sign in first: curfew login")
	}
	if SamePerson(ev.By, r.Requester) { // P6
		return r, nil, Errorf(CodeDenied, "you asked for %s yourself: nobody decides on their own request", r.ID).
			WithHint("another approver can, with: curfew approve %s; you can take it back with: curfew request cancel %s", r.ID, r.ID)
	}
	if SamePerson(ev.By, r.Sponsor) {
		return r, nil, Errorf(CodeDenied, "%s asked for %s and you answer for it: nobody decides on their own request", r.Requester, r.ID).
			WithHint("another approver can, with: curfew approve %s", r.ID)
	}
	if ev.Digest != "" && ev.Digest != r.Digest() {
		return r, nil, Errorf(CodePlanChanged, "request %s is not what you were shown: it has changed since", r.ID).
			WithHint("look at it again and decide then: curfew request show %s", r.ID)
	}
	as := ev.As
	if len(as) == 0 {
		as = []Authority{{Name: ev.By}}
	}
	// Whoever asks, or answers for who asks, lends nobody their right to decide on it (P6).
	as = slices.DeleteFunc(slices.Clone(as), func(a Authority) bool { return SamePerson(a.Name, r.Requester) || SamePerson(a.Name, r.Sponsor) })
	if slices.ContainsFunc(r.Reviews, func(v Review) bool { return SamePerson(v.Reviewer, ev.By) }) {
		return r, nil, Errorf(CodeConflict, "you have answered request %s already; it needs %d more", r.ID, r.Missing()).
			WithHint("somebody else has to agree as well")
	}
	rev := Review{Reviewer: ev.By, Decision: ev.Decision, Comment: ev.Comment, At: now, Authorities: as, Via: ev.Via}
	out := r
	switch ev.Decision {
	case Deny:
		out.Reviews = append(slices.Clone(r.Reviews), rev)
		return out.move(Denied, now), nil, nil
	case Approve:
	default:
		return r, nil, invalid("decision", "decision %q is neither approve nor deny", ev.Decision).WithHint("say approve or deny")
	}
	if ev.Narrowed != nil {
		if !ev.Narrowed.Within(r.Terms) {
			return r, nil, invalid("narrow", "an approval may narrow time, ports or source of request %s, never widen them", r.ID).
				WithHint("approve it as it stands, for less, or deny it and let them ask again")
		}
		if ev.Narrowed.Duration < MinDuration {
			return r, nil, tooShort(ev.Narrowed.Duration)
		}
		n := *ev.Narrowed
		n.Targets = slices.Clone(n.Targets)
		rev.Narrowed = &n
		out.Terms = n
	}
	// What was stored is checked as well: terms that were lost, or that grew past what was asked for, approve nothing (P1).
	if err := out.Terms.Check(); err != nil {
		return r, nil, err
	}
	if !out.Terms.Within(out.Asked) {
		return r, nil, Errorf(CodeInternal, "the terms of request %s go beyond what was asked for", r.ID)
	}
	if !Serves(r.Needs, r.Reviews, ev.By, as, r.CreatedAt, now) {
		return r, nil, r.notAsked(as)
	}
	out.Reviews = append(slices.Clone(r.Reviews), rev)
	if len(Outstanding(out.Needs, out.Reviews, out.CreatedAt)) > 0 {
		return out, nil, nil
	}
	return out.approve(now)
}

// LookBack closes the review that follows an access behind broken glass. Its user never does.
func (r Request) LookBack(by, comment string, now time.Time) (Request, error) {
	switch {
	case r.Aftermath == nil:
		return r, Errorf(CodeConflict, "request %s broke no glass: there is nothing to look back at", r.ID).WithHint("list those that did with: curfew break-glass list")
	case !r.Aftermath.Open():
		return r, Errorf(CodeConflict, "%s looked back at %s already, at %s", r.Aftermath.ClosedBy, r.ID, Clock(r.Aftermath.ClosedAt)).WithHint("nothing was changed")
	case strings.TrimSpace(by) == "":
		return r, Errorf(CodeUnauthenticated, "nobody is signed in").WithHint("sign in first: curfew login")
	case SamePerson(by, r.Requester) || SamePerson(by, r.Sponsor):
		return r, Errorf(CodeDenied, "you broke the glass yourself: somebody else looks back at %s", r.ID).WithHint("ask an approver or an admin")
	}
	r.Aftermath = &Aftermath{ClosedBy: by, ClosedAt: now, Comment: comment}
	return r, nil
}

// notAsked says whose answer the request waits for, to somebody whose approval would not count.
func (r Request) notAsked(as []Authority) *Error {
	var names []string
	for _, w := range Answerable(r.Needs, r.Reviews, r.CreatedAt) {
		names = append(names, "rule "+w.Rule+" waits for "+w.Step.Words())
	}
	why := "you are not among the approvers that it waits for"
	if Concerned(r.Needs, as) {
		why = "it does not wait for you, or not yet"
	}
	return Errorf(CodeDenied, "your approval would not count for request %s: %s", r.ID, why).
		WithHint("%s", strings.Join(names, "; "))
}

// approve moves the request on, and says what must now be done.
func (r Request) approve(now time.Time) (Request, []Effect, error) {
	if err := r.Terms.Check(); err != nil {
		return r, nil, err
	}
	out := r.move(Approved, now)
	if out.Extends != "" {
		return out, []Effect{ExtendGrant{Grant: out.Extends, By: out.Terms.Duration}}, nil
	}
	start := now
	if out.StartAt.After(now) {
		start = out.StartAt
	}
	return out, []Effect{CreateGrants{Terms: out.Terms, StartAt: start}}, nil
}

// Missing returns how many approvals a pending request still needs at least.
func (r Request) Missing() int {
	if r.State != Pending {
		return 0
	}
	return MissingOf(r.Needs, r.Reviews, r.CreatedAt)
}

// Digest stands for what an approver is shown: who asks, for what, from where, for how long, from when, and why. An approval is for
// exactly that.
func (r Request) Digest() string {
	b, err := json.Marshal([]any{r.ID, r.Requester, r.Sponsor, r.Terms, r.StartAt.UnixNano(), r.Reason, r.Ticket, r.Extends, r.BreakGlass})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
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
	return Errorf(CodeConflict, "request %s is %s already%s, since %s", r.ID, r.State, by, Clock(r.DecidedAt)).
		WithHint("nothing was changed; see it with: curfew request show %s", r.ID)
}

// SamePerson compares names of people without case and without the blanks around them, so that an approver does not become
// another one by spelling. No name is nobody: two empty names are not the same person.
func SamePerson(a, b string) bool {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	return a != "" && strings.EqualFold(a, b)
}

// Clock formats an instant for messages: UTC, to the second.
func Clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

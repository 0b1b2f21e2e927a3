// Package notify tells people and programs what happened: signed webhooks, e-mail, Slack, Microsoft Teams. What is to be told stands
// in an outbox in the store, written in the same transaction as what happened; it is delivered at least once, in order for each
// request and channel, tried again with growing pauses, and kept as a dead letter, for everybody to see, when that has no end.
//
// Not trusted: the other end. It may hang, lie, redirect to the inside of the network, or send back what we never sent.
package notify

import (
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Kind says what happened.
type Kind string

// The kinds of event.
const (
	RequestCreated   Kind = "request.created"   // somebody asks; approvers are to answer
	RequestReviewed  Kind = "request.reviewed"  // one approver agreed, others must as well
	RequestNarrowed  Kind = "request.narrowed"  // likewise, for less; those who were shown it before are shown it again
	RequestCommented Kind = "request.commented" //
	RequestReminder  Kind = "request.reminder"  // nobody has answered yet
	RequestEscalated Kind = "request.escalated" // nobody has answered; those behind them may now
	RequestApproved  Kind = "request.approved"
	RequestDenied    Kind = "request.denied"
	RequestCancelled Kind = "request.cancelled"
	RequestExpired   Kind = "request.expired"
	GrantReady       Kind = "grant.ready"     // it is open, and the source gets in
	GrantFailed      Kind = "grant.failed"    // it was not opened
	GrantEnding      Kind = "grant.ending"    // its end is near
	GrantOver        Kind = "grant.over"      // it is shut
	GrantRevoked     Kind = "grant.revoked"   // somebody shut it
	GrantOverdue     Kind = "grant.overdue"   // it should be shut, and is not seen to be
	BreakGlass       Kind = "break_glass"     // opened before anybody agreed
	BreakGlassOpen   Kind = "break_glass.due" // nobody has looked at one yet
	BreakGlassSeen   Kind = "break_glass.closed"
	ScanChanged      Kind = "scan.changed" // findings appeared or went
	SystemHold       Kind = "system.hold"
	Test             Kind = "test" // somebody tries whether a channel works; every channel takes it
)

// Kinds lists every kind that a channel can be told to leave out.
var Kinds = []Kind{RequestCreated, RequestReviewed, RequestNarrowed, RequestCommented, RequestReminder, RequestEscalated, RequestApproved, RequestDenied,
	RequestCancelled, RequestExpired, GrantReady, GrantFailed, GrantEnding, GrantOver, GrantRevoked, GrantOverdue, BreakGlass, BreakGlassOpen,
	BreakGlassSeen, ScanChanged, SystemHold}

// Event is something that people are told. It holds nothing that is secret: no token, no key.
type Event struct {
	Kind         Kind            `json:"kind"`
	At           time.Time       `json:"at"`
	Installation string          `json:"installation"`
	Actor        string          `json:"actor"`        // a person, or "curfew"
	Message      string          `json:"message"`      // one line in words, as in the audit log
	To           []string        `json:"to,omitempty"` // the people and groups whom it concerns: who may answer, or whose it is
	Request      *access.Request `json:"request,omitempty"`
	Grant        *access.Grant   `json:"grant,omitempty"`
}

// State is what became of a notice.
type State string

// The states of a notice: waiting → sent | dead, and dead → waiting when somebody has it tried again.
const (
	Waiting State = "waiting"
	Sent    State = "sent"
	Dead    State = "dead" // given up after Attempts attempts; LastError says why
)

// Notice is an event on its way to one channel.
type Notice struct {
	ID        string    `json:"id"` // "n-" and ten characters; receivers use it to tell a repetition
	Channel   string    `json:"channel"`
	Subject   string    `json:"subject"` // id of the request; notices of one subject go to a channel one after another
	Event     Event     `json:"event"`
	State     State     `json:"state"`
	Attempts  int       `json:"attempts"`
	NextAt    time.Time `json:"next_at"` // not tried before
	CreatedAt time.Time `json:"created_at"`
	SentAt    time.Time `json:"sent_at"`
	RetriedAt time.Time `json:"retried_at"`           // when somebody had it tried again; zero: nobody did
	LastError string    `json:"last_error,omitempty"` // without any secret
	Version   int64     `json:"version"`
}

// Count says how many notices of a channel there are.
type Count struct {
	Channel string    `json:"channel"`
	Waiting int       `json:"waiting"`
	Sent    int       `json:"sent"` // of those that are kept
	Dead    int       `json:"dead"`
	Oldest  time.Time `json:"oldest"` // when the first of those that wait was made; zero where none waits
}

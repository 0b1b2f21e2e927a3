package api

import (
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// RequestState is pending, approved, denied, cancelled or expired.
type RequestState = access.RequestState

// GrantState is scheduled, activating, active, closing, close_failed, ended, closed, revoked or activation_failed.
type GrantState = access.GrantState

// Target is a machine with a port, or range of ports, and a protocol.
type Target struct {
	VM       VMRef    `json:"vm"`
	Port     Ports    `json:"port"`
	Protocol Protocol `json:"protocol"`
}

// Terms is what is asked for, or granted.
type Terms struct {
	Targets  []Target     `json:"targets"`
	Source   netip.Prefix `json:"source"`
	Duration Duration     `json:"duration"`
}

// Review is one approver's decision. Narrowed is absent when the request was approved as it stood.
type Review struct {
	Reviewer string    `json:"reviewer"`
	Decision string    `json:"decision" doc:"approve or deny"`
	Comment  string    `json:"comment,omitempty"`
	Narrowed *Terms    `json:"narrowed,omitempty"`
	At       time.Time `json:"at,omitzero"`
	// InPlaceOf names those who had delegated to the reviewer.
	InPlaceOf []string `json:"in_place_of,omitempty"`
	Via       string   `json:"via,omitempty" doc:"Where it was given if not through the API: slack, for example"`
}

// Comment is what somebody said about a request without deciding on it.
type Comment struct {
	By   string    `json:"by"`
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"text"`
}

// Waiting is a step of a policy rule that still lacks approvals.
type Waiting struct {
	Rule      string   `json:"rule"`
	Step      string   `json:"step,omitempty"`
	Approvers []string `json:"approvers,omitempty" doc:"People, and groups as group:NAME; absent: everybody with the role"`
	Missing   int      `json:"missing"`
}

// Aftermath is the look back at an access behind broken glass.
type Aftermath struct {
	Open     bool      `json:"open"`
	ClosedBy string    `json:"closed_by,omitempty"`
	ClosedAt time.Time `json:"closed_at,omitzero"`
	Comment  string    `json:"comment,omitempty"`
}

// Request is an ask. Asked never changes; Terms is what would be granted now, after reviews have narrowed it.
type Request struct {
	ID         string       `json:"id"`
	State      RequestState `json:"state" doc:"pending, approved, denied, cancelled or expired"`
	Requester  string       `json:"requester"`
	Asked      Terms        `json:"asked"`
	Terms      Terms        `json:"terms"`
	Reason     string       `json:"reason"`
	Ticket     string       `json:"ticket,omitempty"`
	Extends    string       `json:"extends,omitempty" doc:"The grant that it would lengthen by the duration"`
	Needed     int          `json:"needed" doc:"Approvals that the policy asks for"`
	Missing    int          `json:"missing" doc:"Approvals that are still missing"`
	Rules      []string     `json:"rules" doc:"The policy rules that matched"`
	Waiting    []Waiting    `json:"waiting,omitempty" doc:"While it is pending: whose answers it waits for"`
	Digest     string       `json:"digest" doc:"Of what stands here to be decided; an approval names it, so that it is for exactly what was shown"`
	Auto       []string     `json:"auto,omitempty" doc:"The rules that approved it by themselves"`
	Comments   []Comment    `json:"comments,omitempty"`
	Sponsor    string       `json:"sponsor,omitempty" doc:"Who answers for a program that asks"`
	BreakGlass bool         `json:"break_glass,omitempty" doc:"Opened before anybody agreed"`
	Aftermath  *Aftermath   `json:"aftermath,omitempty" doc:"Of broken glass: the look back at it"`
	Reviews    []Review     `json:"reviews"`
	Grants     []string     `json:"grants" doc:"Ids of the grants that its approval made"`
	StartAt    time.Time    `json:"start_at,omitzero" doc:"Absent: as soon as it is approved"`
	CreatedAt  time.Time    `json:"created_at,omitzero"`
	ExpiresAt  time.Time    `json:"expires_at,omitzero" doc:"Unanswered until then: expired"`
	DecidedAt  time.Time    `json:"decided_at,omitzero"`
}

// RequestInput asks for access. The idempotency key travels in the header Idempotency-Key.
type RequestInput struct {
	VMs      []string  `json:"vms" doc:"Names, group/name, or resource ids"`
	Ports    []Ports   `json:"ports,omitempty" doc:"Absent: 22 on Linux, 3389 on Windows"`
	Protocol Protocol  `json:"protocol,omitempty" doc:"tcp if absent"`
	Source   string    `json:"source,omitempty" doc:"An address, a prefix, or my-ip; absent: my-ip, the address that the call comes from"`
	Duration Duration  `json:"duration,omitempty"`
	StartAt  time.Time `json:"start_at,omitzero" doc:"Absent: as soon as it is approved"`
	Reason   string    `json:"reason,omitempty"`
	Ticket   string    `json:"ticket,omitempty"`
}

// Limits is the strictest of what the matching policy rules allow.
type Limits struct {
	Rules       []string `json:"rules"`
	MaxDuration Duration `json:"max_duration"`
	MaxTotal    Duration `json:"max_total"`
	MaxAhead    Duration `json:"max_ahead"`
	WidestIPv4  int      `json:"widest_ipv4"`
	WidestIPv6  int      `json:"widest_ipv6"`
	Approvals   int      `json:"approvals"`
	Reason      bool     `json:"reason"`
	Ticket      bool     `json:"ticket"`
}

// RequestPlan is the answer to a dry run of a request.
type RequestPlan struct {
	Terms     Terms    `json:"terms"`
	Limits    Limits   `json:"limits"`
	Approvers []string `json:"approvers" doc:"Who may approve, of those known"`
	WillGetIn bool     `json:"will_get_in"`
	Why       string   `json:"why"`
	Changes   []Change `json:"changes"`
	Also      []string `json:"also" doc:"What else the opening touches"`
}

// ReviewInput is an approver's answer; what is set narrows the request, and never widens it.
type ReviewInput struct {
	Digest   string   `json:"digest,omitempty" doc:"The digest of the request as it was shown. An approval needs it"`
	Comment  string   `json:"comment,omitempty"`
	Duration Duration `json:"duration,omitempty"`
	Source   string   `json:"source,omitempty"`
	Ports    []Ports  `json:"ports,omitempty"`
}

// CommentInput is a decision that needs no more than words.
type CommentInput struct {
	Comment string `json:"comment,omitempty"`
}

// DelegationInput has another approver answer in the caller's place.
type DelegationInput struct {
	To     string    `json:"to"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

// Delegation lets an approver answer in another one's place. It lends the place in the steps of a policy, not the role.
type Delegation struct {
	ID        string    `json:"id"`
	From      string    `json:"from"`
	Groups    []string  `json:"groups,omitempty"`
	To        string    `json:"to"`
	Until     time.Time `json:"until"`
	Reason    string    `json:"reason,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// ExtendInput asks for more time on a live grant: a request that needs its own review.
type ExtendInput struct {
	Duration Duration `json:"duration" doc:"How much more time"`
	Reason   string   `json:"reason,omitempty"`
}

// Grant is one target opened for one source for one window. It is open only when it is active and Ready: the effective rules
// were seen to let the source in.
type Grant struct {
	ID         string       `json:"id"`
	State      GrantState   `json:"state" doc:"scheduled, activating, active, closing, close_failed, ended, closed, revoked or activation_failed"`
	Request    string       `json:"request"`
	Requester  string       `json:"requester"`
	VM         VMRef        `json:"vm"`
	Port       Ports        `json:"port"`
	Protocol   Protocol     `json:"protocol"`
	Source     netip.Prefix `json:"source"`
	Duration   Duration     `json:"duration"`
	Ready      bool         `json:"ready" doc:"Active, and the effective rules were seen to let the source in"`
	Overdue    bool         `json:"overdue" doc:"Past its end and not yet seen to be shut"`
	Drifted    bool         `json:"drifted" doc:"Somebody else changed what was written for it"`
	BreakGlass bool         `json:"break_glass,omitempty"`
	Extensions int          `json:"extensions,omitempty" doc:"How often it was lengthened"`
	HardClose  bool         `json:"hard_close,omitempty" doc:"Connections that are open at its end are ended too"`
	NotBefore  time.Time    `json:"not_before,omitzero" doc:"When the opening is due"`
	StartsAt   time.Time    `json:"starts_at,omitzero" doc:"Fixed when the opening is first sent"`
	EndsAt     time.Time    `json:"ends_at,omitzero" doc:"Fixed with starts_at; only an extension moves it"`
	ReadyAt    time.Time    `json:"ready_at,omitzero" doc:"When the effective rules were first seen to let the source in"`
	NotReady   string       `json:"not_ready,omitempty" doc:"While it is open but not ready: why"`
	EndReason  string       `json:"end_reason,omitempty"`
	EndedBy    string       `json:"ended_by,omitempty"`
	EndedAt    time.Time    `json:"ended_at,omitzero" doc:"When it was seen to be shut"`
	CreatedAt  time.Time    `json:"created_at,omitzero"`
	LastError  string       `json:"last_error,omitempty" doc:"Of the last attempt to open or shut it"`
	Restored   int          `json:"restored,omitempty" doc:"How often its removed rule was put back"`
	NSGs       []string     `json:"nsgs,omitempty" doc:"Where its rules stand"`
	Connect    []string     `json:"connect,omitempty" doc:"Where a client connects to, for example 203.0.113.5:22; only when one grant is read"`
}

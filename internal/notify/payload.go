package notify

import (
	_ "embed" // the schema
	"encoding/json"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Schema is the JSON Schema of what webhooks send. It is only ever added to.
//
//go:embed event.schema.json
var Schema []byte

// Payload is what a webhook sends. Its form is a promise, and so apart from the types of the store.
type Payload struct {
	Type      Kind        `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      PayloadData `json:"data"`
}

// PayloadData says what happened.
type PayloadData struct {
	Installation string          `json:"installation"`
	Actor        string          `json:"actor"`
	Message      string          `json:"message"`
	To           []string        `json:"to"`
	Request      *PayloadRequest `json:"request,omitempty"`
	Grant        *PayloadGrant   `json:"grant,omitempty"`
}

// PayloadTarget is a port of a machine.
type PayloadTarget struct {
	VM       string `json:"vm"`
	VMID     string `json:"vm_resource_id"`
	Ports    string `json:"ports"`
	Protocol string `json:"protocol"`
}

// PayloadReview is one approver's answer.
type PayloadReview struct {
	Reviewer string    `json:"reviewer"`
	Decision string    `json:"decision"`
	Comment  string    `json:"comment,omitempty"`
	Narrowed bool      `json:"narrowed"`
	Via      string    `json:"via,omitempty"`
	At       time.Time `json:"at"`
}

// PayloadRequest is a request as it stood when it happened.
type PayloadRequest struct {
	ID         string          `json:"id"`
	State      string          `json:"state"`
	Requester  string          `json:"requester"`
	Sponsor    string          `json:"sponsor,omitempty"`
	Targets    []PayloadTarget `json:"targets"`
	Source     string          `json:"source"`
	Seconds    int64           `json:"duration_seconds"`
	StartAt    *time.Time      `json:"start_at,omitempty"`
	Reason     string          `json:"reason"`
	Ticket     string          `json:"ticket,omitempty"`
	Extends    string          `json:"extends,omitempty"`
	BreakGlass bool            `json:"break_glass"`
	Missing    int             `json:"approvals_missing"`
	Rules      []string        `json:"rules"`
	Reviews    []PayloadReview `json:"reviews"`
	CreatedAt  time.Time       `json:"created_at"`
	ExpiresAt  *time.Time      `json:"expires_at,omitempty"`
}

// PayloadGrant is a grant as it stood when it happened.
type PayloadGrant struct {
	ID        string        `json:"id"`
	Request   string        `json:"request"`
	State     string        `json:"state"`
	Requester string        `json:"requester"`
	Target    PayloadTarget `json:"target"`
	Source    string        `json:"source"`
	Seconds   int64         `json:"duration_seconds"`
	StartsAt  *time.Time    `json:"starts_at,omitempty"`
	EndsAt    *time.Time    `json:"ends_at,omitempty"`
	ReadyAt   *time.Time    `json:"ready_at,omitempty"`
	EndReason string        `json:"end_reason,omitempty"`
	EndedBy   string        `json:"ended_by,omitempty"`
	LastError string        `json:"last_error,omitempty"`
}

func target(t access.Target) PayloadTarget {
	return PayloadTarget{VM: t.VM.Name, VMID: t.VM.ID, Ports: t.Ports.String(), Protocol: string(t.Protocol)}
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func some[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// NewPayload returns what a webhook sends of an event.
func NewPayload(e Event) Payload {
	out := Payload{Type: e.Kind, Timestamp: e.At.UTC(), Data: PayloadData{Installation: e.Installation, Actor: e.Actor, Message: e.Message, To: some(e.To)}}
	if r := e.Request; r != nil {
		p := PayloadRequest{ID: string(r.ID), State: string(r.State), Requester: r.Requester, Sponsor: r.Sponsor, Source: r.Terms.Source.String(),
			Seconds: int64(r.Terms.Duration / time.Second), StartAt: instant(r.StartAt), Reason: r.Reason, Ticket: r.Ticket, Extends: string(r.Extends),
			BreakGlass: r.BreakGlass, Missing: r.Missing(), Rules: some(r.Rules), Targets: []PayloadTarget{}, Reviews: []PayloadReview{},
			CreatedAt: r.CreatedAt.UTC(), ExpiresAt: instant(r.ExpiresAt)}
		for _, t := range r.Terms.Targets {
			p.Targets = append(p.Targets, target(t))
		}
		for _, v := range r.Reviews {
			p.Reviews = append(p.Reviews, PayloadReview{Reviewer: v.Reviewer, Decision: string(v.Decision), Comment: v.Comment, Narrowed: v.Narrowed != nil,
				Via: v.Via, At: v.At.UTC()})
		}
		out.Data.Request = &p
	}
	if g := e.Grant; g != nil {
		out.Data.Grant = &PayloadGrant{ID: string(g.ID), Request: string(g.Request), State: string(g.State), Requester: g.Requester, Target: target(g.Target),
			Source: g.Source.String(), Seconds: int64(g.Duration / time.Second), StartsAt: instant(g.StartsAt), EndsAt: instant(g.EndsAt),
			ReadyAt: instant(g.ReadyAt), EndReason: string(g.EndReason), EndedBy: g.EndedBy, LastError: g.LastError}
	}
	return out
}

// Encode returns the payload's bytes, the same for every attempt.
func (p Payload) Encode() ([]byte, error) { return json.Marshal(p) }

package broker

import (
	"slices"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
)

// What people are told is put into the outbox in the transaction that stores what happened, so that it is neither lost nor told of
// something that did not happen. Delivering it is somebody else's affair, and holds up nothing here.

// tell queues an event for every channel that takes it.
func (b *Broker) tell(tx Tx, ev notify.Event, subject string, named []string) error {
	ev.Installation = b.cfg.Installation
	for _, r := range b.cfg.Routes {
		if !r.Takes(ev.Kind, named) {
			continue
		}
		n := notify.Notice{ID: "n-" + newID(), Channel: r.Name, Subject: subject, Event: ev, State: notify.Waiting, NextAt: ev.At, CreatedAt: ev.At}
		if err := tx.InsertNotice(n); err != nil {
			return err
		}
	}
	return nil
}

// tellRequest tells of a request, after its entry e: who may answer it, or its requester where it is decided.
func (b *Broker) tellRequest(tx Tx, kind notify.Kind, e audit.Entry, r access.Request) error {
	if len(b.cfg.Routes) == 0 {
		return nil
	}
	ev := notify.Event{Kind: kind, At: e.At, Actor: e.Actor, Message: e.Message, Request: &r, To: []string{r.Requester}}
	switch {
	case r.State == access.Pending:
		ev.To = waitingFor(r, e.At)
	case kind == notify.BreakGlass || kind == notify.BreakGlassOpen:
		ev.To = append(waitingFor(r, e.At), "role:admin")
	}
	return b.tell(tx, ev, string(r.ID), r.Notify)
}

// waitingFor lists those who may answer a request at an instant: people, and groups as "group:NAME"; "role:approver" is everybody with the role.
func waitingFor(r access.Request, at time.Time) []string {
	var out []string
	add := func(names []string) {
		for _, n := range names {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	for _, w := range access.Answerable(r.Needs, r.Reviews, r.CreatedAt) { // without any need: whoever may approve
		if len(w.Step.Approvers) == 0 {
			add([]string{"role:approver"})
		}
		add(w.Step.Approvers)
		if w.Step.Escalated(r.CreatedAt, at) {
			add(w.Step.EscalateTo)
		}
	}
	return out
}

// putGrant stores what became of a grant, and tells of what people want to know.
func (b *Broker) putGrant(tx Tx, old, g access.Grant, e audit.Entry) error {
	if err := tx.UpdateGrant(g); err != nil {
		return err
	}
	if len(b.cfg.Routes) == 0 {
		return nil
	}
	kind := notify.Kind("")
	switch {
	case g.State == access.ActivationFailed && old.State != g.State:
		kind = notify.GrantFailed
	case g.State == access.Revoked && old.State != g.State:
		kind = notify.GrantRevoked
	case g.State.Final() && old.State != g.State:
		kind = notify.GrantOver
	case g.State == access.CloseFailed && old.State != g.State:
		kind = notify.GrantOverdue
	case g.Ready() && !old.Ready():
		kind = notify.GrantReady
	case !g.WarnedAt.IsZero() && old.WarnedAt.IsZero():
		kind = notify.GrantEnding
	default:
		return nil
	}
	ev := notify.Event{Kind: kind, At: b.Now(), Actor: e.Actor, Message: e.Message, Grant: &g, To: []string{g.Requester}}
	if ev.Actor == "" {
		ev.Actor = system.Name
	}
	if ev.Message == "" {
		ev.Message = string(g.ID) + ": " + g.Target.String() + " is " + g.Status(b.Now())
	}
	return b.tell(tx, ev, string(g.Request), g.Notify)
}

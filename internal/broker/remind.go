package broker

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
)

// WarnBefore is how long before its end the requester of a grant is told, where the policy says nothing.
const WarnBefore = 10 * time.Minute

const (
	remindEvery = 15 * time.Second // how long after a search of the store for people to remind the next one begins
	remindPage  = 100              // how many requests are looked at in one step
	remindBatch = 20               // how many are told of in one step
	remindGap   = 5 * time.Minute  // how long two calls to remind lie apart at least
)

// Comment implements Service.
func (b *Broker) Comment(ctx context.Context, c access.Caller, id access.RequestID, text string) (out access.Request, err error) {
	const action = "request.comment"
	if err := b.need(ctx, c, action, string(id), anyRole...); err != nil {
		return out, err
	}
	if text, err = checkComment(text); err != nil {
		return out, err
	}
	if text == "" {
		return out, invalid("comment", "the comment is empty").WithHint("say something")
	}
	err = b.update(ctx, func(tx Tx) error {
		r, err := b.visibleRequest(tx, c, id)
		if err != nil {
			return err
		}
		if len(r.Comments) >= 100 {
			return access.Errorf(access.CodeRateLimited, "request %s has %d comments, which is as many as there may be", id, len(r.Comments)).WithHint("decide on it")
		}
		out = r
		out.Comments = append(slices.Clone(r.Comments), access.Comment{By: c.Name, At: b.Now(), Text: text})
		if err := tx.UpdateRequest(out); err != nil {
			return err
		}
		out.Version++
		e, err := tx.Append(detail(requestEntry(b.entry(c, action, audit.Done, "", "%s says about %s: %s", c.Name, out.ID, text), out), "comment", text))
		if err != nil {
			return err
		}
		return b.tellRequest(tx, notify.RequestCommented, e, out)
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	return out, nil
}

// Remind implements Service.
func (b *Broker) Remind(ctx context.Context, c access.Caller, id access.RequestID) (out access.Request, err error) {
	const action = "request.remind"
	if err := b.need(ctx, c, action, string(id), anyRole...); err != nil {
		return out, err
	}
	err = b.update(ctx, func(tx Tx) error {
		r, err := b.visibleRequest(tx, c, id)
		if err != nil {
			return err
		}
		now := b.Now()
		if r.State != access.Pending || !now.Before(r.ExpiresAt) {
			return access.Errorf(access.CodeConflict, "request %s is %s: it waits for nobody", id, r.State).WithHint("see it with: curfew request show %s", id)
		}
		if wait := remindGap - now.Sub(r.RemindedAt); !r.RemindedAt.IsZero() && wait > 0 {
			return access.Errorf(access.CodeRateLimited, "the approvers of %s were told again at %s", id, access.Clock(r.RemindedAt)).
				WithHint("wait %s before you have them told once more", access.Duration(wait.Round(time.Second)))
		}
		out = r
		return b.remindOf(tx, c, &out, notify.RequestReminder, now)
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	return out, nil
}

// remindOf stores and tells that a request still waits.
func (b *Broker) remindOf(tx Tx, c access.Caller, r *access.Request, kind notify.Kind, now time.Time) error {
	action, words := "request.remind", "%s of %s still waits for an answer"
	r.RemindedAt = now
	if kind == notify.RequestEscalated {
		r.EscalatedAt = now
		action, words = "request.escalate", "%s of %s was not answered in time: those behind the approvers may answer now"
	}
	if err := tx.UpdateRequest(*r); err != nil {
		return err
	}
	r.Version++
	e, err := tx.Append(requestEntry(b.entry(c, action, audit.Done, "", words, r.ID, r.Requester), *r))
	if err != nil {
		return err
	}
	return b.tellRequest(tx, kind, e, *r)
}

// remind tells approvers of what waits for them, by the policy's own times, and people of what nobody has looked back at. It runs between
// closings, and so does a little at a time: it looks at a page of what is pending, and tells of a few.
func (b *Broker) remind(ctx context.Context, now time.Time) {
	b.mu.Lock()
	after := b.reminding
	due := after != "" || now.Sub(b.reminded) >= remindEvery || now.Before(b.reminded)
	if due && after == "" {
		b.reminded = now
	}
	b.mu.Unlock()
	if !due || b.StoreDown() {
		return
	}
	var waiting []access.RequestID
	var looks []Record
	next := ""
	err := b.view(ctx, func(tx Tx) error {
		page, n, err := tx.Requests(RequestFilter{States: []access.RequestState{access.Pending}, Page: Page{After: after, Limit: remindPage}})
		if err != nil {
			return err
		}
		next = n
		for _, r := range page {
			if kind, _ := reminder(r, now); kind != "" {
				waiting = append(waiting, r.ID)
			}
		}
		if after == "" { // once a round
			looks, err = tx.Records(RecordAftermath, "")
		}
		return err
	})
	more := len(waiting) > remindBatch
	if more {
		waiting = waiting[:remindBatch]
	}
	if err == nil && len(waiting) > 0 {
		err = b.update(ctx, func(tx Tx) error {
			for _, id := range waiting {
				r, err := tx.Request(id)
				if err != nil {
					return err
				}
				kind, _ := reminder(r, now)
				if kind == "" {
					continue
				}
				if err := b.remindOf(tx, system, &r, kind, now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.mu.Lock()
	switch {
	case err != nil: // what comes after it is not to wait for what cannot be done
		b.reminding = next
	case more && after == "":
		b.reminded = time.Time{}
	case !more:
		b.reminding = next
	}
	b.mu.Unlock()
	if err == nil {
		err = b.lookBacks(ctx, looks, now)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Warn("reminding", "error", err)
	}
}

// reminder says whether the approvers of a request are to be told again now, or those behind them; the times count from the asking.
func reminder(r access.Request, now time.Time) (notify.Kind, time.Time) {
	if r.State != access.Pending || !now.Before(r.ExpiresAt) {
		return "", time.Time{}
	}
	kind := notify.Kind("")
	for _, w := range access.Answerable(r.Needs, r.Reviews, r.CreatedAt) {
		switch s := w.Step; {
		case s.Escalated(r.CreatedAt, now) && r.EscalatedAt.Before(r.CreatedAt.Add(s.EscalateAfter)): // each step has its own
			return notify.RequestEscalated, now
		case s.RemindAfter > 0 && !now.Before(r.CreatedAt.Add(s.RemindAfter)) && (r.RemindedAt.IsZero() || now.Sub(r.RemindedAt) >= s.RemindAfter):
			kind = notify.RequestReminder
		}
	}
	return kind, now
}

// lookBacks tells once a day that nobody has looked back at accesses behind broken glass, of a few at a time.
func (b *Broker) lookBacks(ctx context.Context, looks []Record, now time.Time) error {
	looks = slices.DeleteFunc(looks, func(rec Record) bool {
		var doc struct {
			ToldAt time.Time `json:"told_at"`
		}
		return json.Unmarshal(rec.Doc, &doc) == nil && now.Sub(doc.ToldAt) < lookBackEvery
	})
	if len(looks) == 0 {
		return nil
	}
	return b.update(ctx, func(tx Tx) error {
		for _, rec := range looks[:min(len(looks), remindBatch)] {
			if err := b.lookBack(tx, rec, now); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *Broker) lookBack(tx Tx, rec Record, now time.Time) error {
	r, err := tx.Request(access.RequestID(rec.ID))
	if err != nil {
		return err
	}
	if r.Aftermath == nil || !r.Aftermath.Open() {
		return tx.DropRecord(RecordAftermath, rec.ID)
	}
	if err := putAftermath(tx, r, now); err != nil {
		return err
	}
	e, err := tx.Append(requestEntry(b.entry(system, "break_glass.due", audit.Done, "", "nobody has looked back yet at %s, behind broken glass, of %s", r.ID, r.Requester), r))
	if err != nil {
		return err
	}
	return b.tellRequest(tx, notify.BreakGlassOpen, e, r)
}

// ending returns the moves that tell requesters that their grants end soon.
func (b *Broker) ending(now time.Time) []Move {
	var out []Move
	b.index.each(func(g access.Grant) {
		before := g.WarnBefore
		if before <= 0 {
			before = WarnBefore
		}
		// One that is as short as its warning needs none.
		if g.State == access.Active && g.EndReason == "" && g.WarnedAt.IsZero() && g.Duration > before && now.Before(g.EndsAt) && !now.Before(g.EndsAt.Add(-before)) {
			out = append(out, Move{ID: g.ID, Event: access.WarnedEvent{}, Action: "grant.warn", Outcome: audit.Done,
				Message: string(g.ID) + " of " + g.Requester + " to " + g.Target.String() + " ends at " + access.Clock(g.EndsAt)})
		}
	})
	return out
}

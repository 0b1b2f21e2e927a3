package broker

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
)

// RecordAftermath is an access behind broken glass at which nobody has looked back yet; its id is the request's.
const RecordAftermath = "aftermath"

// maxUnseen is at how many accesses of one person behind broken glass nobody may have looked back yet: enough for the worst night, and an
// end for whoever would stay in that way.
const maxUnseen = 20

// lookBackEvery is how often people are told again that nobody has looked back at an access behind broken glass.
const lookBackEvery = 24 * time.Hour

// BreakGlass implements Service.
func (b *Broker) BreakGlass(ctx context.Context, c access.Caller, in RequestInput) (access.Request, error) {
	const action = "request.break_glass"
	object := strings.Join(in.VMs, ",")
	if err := b.needPerson(ctx, c, action, object, access.Requester); err != nil {
		return access.Request{}, err
	}
	if !in.StartAt.IsZero() {
		return access.Request{}, invalid("start", "the glass is broken now or not at all").WithHint("ask for a later start with: curfew request create --at")
	}
	if strings.TrimSpace(in.Reason) == "" {
		return access.Request{}, invalid("reason", "breaking the glass needs a reason, whatever the policy says").WithHint("add --reason")
	}
	hash := bodyHash([]any{"break-glass", in})
	if r, ok, err := b.remembered(ctx, c, in.Key, hash); ok || err != nil {
		return r, err
	}
	d, err := b.draft(ctx, c, in, true)
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, object, err)
	}
	r := newRequest(c, d.ask, d.limits, b.Now())
	r.ExpiresAt = r.CreatedAt.Add(access.ActivationLimit)
	// Those who would have been asked are told that they were not.
	ordinary := d.ask
	ordinary.BreakGlass = false
	r.Needs = nil
	if l, err := b.decide(ordinary, d.snapshot); err == nil || len(l.Needs) > 0 {
		r.Needs = l.Needs
	}
	return b.insertRequest(ctx, c, r, d.snapshot, in.Key, hash)
}

// Aftermath implements Service.
func (b *Broker) Aftermath(ctx context.Context, c access.Caller) (out []access.Request, err error) {
	if err := b.need(ctx, c, "break_glass.read", "", access.Approver, access.Auditor, access.Admin); err != nil {
		return nil, err
	}
	out = []access.Request{}
	err = b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordAftermath, "")
		for _, rec := range rs {
			r, err := tx.Request(access.RequestID(rec.ID))
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return err
	})
	return out, err
}

// CloseAftermath implements Service.
func (b *Broker) CloseAftermath(ctx context.Context, c access.Caller, id access.RequestID, comment string) (out access.Request, err error) {
	const action = "break_glass.close"
	if err := b.needPerson(ctx, c, action, string(id), access.Approver, access.Admin); err != nil {
		return out, err
	}
	comment, err = checkComment(comment)
	if err != nil {
		return out, err
	}
	if comment == "" {
		return out, invalid("comment", "what was found is missing").WithHint("say it with --comment: whether it was needed, and what follows from it")
	}
	err = b.update(ctx, func(tx Tx) error {
		r, err := b.visibleRequest(tx, c, id)
		if err != nil {
			return err
		}
		if out, err = r.LookBack(c.Name, comment, b.Now()); err != nil {
			return err
		}
		if err := tx.UpdateRequest(out); err != nil {
			return err
		}
		out.Version++
		if err := tx.DropRecord(RecordAftermath, string(id)); err != nil {
			return err
		}
		e, err := tx.Append(detail(requestEntry(b.entry(c, action, audit.Done, "", "%s has looked back at %s, behind broken glass, of %s: %s", c.Name, out.ID, out.Requester, comment), out), "comment", comment))
		if err != nil {
			return err
		}
		return b.tellRequest(tx, notify.BreakGlassSeen, e, out)
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	return out, nil
}

// putAftermath notes that somebody has to look back at a request.
func putAftermath(tx Tx, r access.Request, told time.Time) error {
	doc, err := json.Marshal(map[string]time.Time{"told_at": told})
	if err != nil {
		return err
	}
	rec := Record{Kind: RecordAftermath, ID: string(r.ID), Owner: r.Requester, Doc: doc}
	if old, err := tx.Record(RecordAftermath, string(r.ID)); err == nil {
		rec.Version = old.Version
	}
	return tx.PutRecord(rec)
}

package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
)

// noticesKept is how long a notice that was delivered can be looked at. Dead letters stay.
const noticesKept = 7 * 24 * time.Hour

// Outbox is the outbox as whoever delivers sees it. It is the program's own, and asks nobody for a role.
func (b *Broker) Outbox() *Outbox { return &Outbox{b: b} }

// Outbox implements notify.Outbox.
type Outbox struct {
	b *Broker

	mu     sync.Mutex
	forgot time.Time
}

// Due implements notify.Outbox.
func (o *Outbox) Due(ctx context.Context, channel string, limit int) (out []notify.Notice, err error) {
	now := o.b.Now()
	err = o.b.view(ctx, func(tx Tx) (err error) { out, err = tx.DueNotices(channel, now, limit); return err })
	return out, err
}

// Counts implements notify.Outbox.
func (o *Outbox) Counts(ctx context.Context) (out []notify.Count, err error) {
	err = o.b.view(ctx, func(tx Tx) (err error) { out, err = tx.NoticeCounts(); return err })
	return out, err
}

// Settle implements notify.Outbox. It takes the store's only writer, and so is to be called with few notices at a time.
func (o *Outbox) Settle(ctx context.Context, ns []notify.Notice) error {
	now := o.b.Now()
	forget := o.forgetDue(now)
	logged := false
	err := o.b.commit(ctx, func(tx Tx) error {
		logged = false
		for _, n := range ns {
			switch err := tx.UpdateNotice(n); access.CodeOf(err) {
			case "":
			case access.CodeConflict, access.CodeNotFound: // somebody decided otherwise meanwhile, or it was forgotten
				continue
			default:
				return err
			}
			if n.State != notify.Dead {
				continue
			}
			logged = true
			e := o.b.entry(system, "notify.dead", audit.Failed, n.ID, "%s was not told of %s: %s", n.Channel, n.Event.Kind, short(n.LastError))
			if _, err := tx.Append(detail(noticeEntry(e, n), "attempts", fmt.Sprint(n.Attempts))); err != nil {
				return err
			}
		}
		if forget {
			return tx.ForgetNotices(now.Add(-noticesKept))
		}
		return nil
	})
	if err == nil && logged {
		o.b.hub.notify()
	}
	return err
}

func (o *Outbox) forgetDue(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.forgot) < time.Hour {
		return false
	}
	o.forgot = now
	return true
}

// Changed returns a channel that is closed when something has been written: there may be notices to deliver.
func (o *Outbox) Changed() <-chan struct{} { return o.b.hub.wait() }

func noticeEntry(e audit.Entry, n notify.Notice) audit.Entry {
	if strings.HasPrefix(n.Subject, "r-") {
		e.Request = n.Subject
	}
	return detail(e, "channel", n.Channel, "kind", string(n.Event.Kind))
}

// Notices implements Service.
func (b *Broker) Notices(ctx context.Context, c access.Caller, f NoticeFilter) (out []notify.Notice, next string, err error) {
	if err := b.need(ctx, c, "notice.read", "", access.Auditor, access.Admin); err != nil {
		return nil, "", err
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, next, err = tx.Notices(f); return err })
	return out, next, err
}

// Notice implements Service.
func (b *Broker) Notice(ctx context.Context, c access.Caller, id string) (n notify.Notice, err error) {
	if err := b.need(ctx, c, "notice.read", id, access.Auditor, access.Admin); err != nil {
		return n, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { n, err = tx.Notice(id); return err })
	return n, noNotice(id, err)
}

func noNotice(id string, err error) error {
	if access.CodeOf(err) != access.CodeNotFound {
		return err
	}
	return access.Errorf(access.CodeNotFound, "there is no notice %q", short(id)).WithHint("those that were delivered are forgotten after %s; list the others with: curfew notify list",
		access.Duration(noticesKept))
}

// RetryNotice implements Service.
func (b *Broker) RetryNotice(ctx context.Context, c access.Caller, id string) (n notify.Notice, err error) {
	const action = "notify.retry"
	if err := b.need(ctx, c, action, id, access.Admin); err != nil {
		return n, err
	}
	err = b.update(ctx, func(tx Tx) error {
		var err error
		if n, err = tx.Notice(id); err != nil {
			return noNotice(id, err)
		}
		if n.State != notify.Dead {
			return access.Errorf(access.CodeConflict, "notice %s is %s, and only a dead letter can be sent again", n.ID, n.State).
				WithHint("list dead letters with: curfew notify list --state dead")
		}
		if !slices.ContainsFunc(b.cfg.Routes, func(r notify.Route) bool { return r.Name == n.Channel }) {
			return noChannel(n.Channel)
		}
		now := b.Now()
		n.State, n.Attempts, n.NextAt, n.RetriedAt = notify.Waiting, 0, now, now
		if err := tx.UpdateNotice(n); err != nil {
			return err
		}
		n.Version++
		_, err = tx.Append(noticeEntry(b.entry(c, action, audit.Done, n.ID, "%s has %s told of %s again", c.Name, n.Channel, n.Event.Kind), n))
		return err
	})
	return n, err
}

func noChannel(name string) *access.Error {
	return access.Errorf(access.CodeNotFound, "there is no channel %q", short(name)).WithHint("the configuration names the channels, under notify.channels")
}

// TestChannel implements Service.
func (b *Broker) TestChannel(ctx context.Context, c access.Caller, channel string) (n notify.Notice, err error) {
	const action = "notify.test"
	if err := b.need(ctx, c, action, channel, access.Admin); err != nil {
		return n, err
	}
	if !slices.ContainsFunc(b.cfg.Routes, func(r notify.Route) bool { return r.Name == channel }) {
		return n, noChannel(channel)
	}
	now := b.Now()
	id := newID()
	n = notify.Notice{ID: "n-" + id, Channel: channel, Subject: "test-" + id, State: notify.Waiting, NextAt: now, CreatedAt: now, Version: 1,
		Event: notify.Event{Kind: notify.Test, At: now, Installation: b.cfg.Installation, Actor: c.Name, To: []string{c.Name},
			Message: fmt.Sprintf("%s tries whether channel %s of installation %s works", c.Name, channel, b.cfg.Installation)}}
	err = b.update(ctx, func(tx Tx) error {
		if err := tx.InsertNotice(n); err != nil {
			return err
		}
		_, err := tx.Append(noticeEntry(b.entry(c, action, audit.Done, n.ID, "%s tries whether channel %s works", c.Name, channel), n))
		return err
	})
	return n, err
}

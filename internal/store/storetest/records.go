package storetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

func testRecords(t *testing.T, s broker.Store) {
	rec := func(kind, id, owner string, expires time.Time) broker.Record {
		return broker.Record{Kind: kind, ID: id, Owner: owner, Expires: expires, Doc: json.RawMessage(fmt.Sprintf(`{"id":%q}`, id))}
	}
	for _, r := range []broker.Record{rec("session", "b", "Alice", Epoch.Add(time.Hour)), rec("session", "a", "bob", time.Time{}), rec("token", "a", "alice", Epoch)} {
		do(t, s, func(tx broker.Tx) error { return tx.PutRecord(r) })
		wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.PutRecord(r) }), access.CodeConflict)
	}
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error {
		return tx.PutRecord(broker.Record{Kind: "x", ID: "y", Doc: json.RawMessage("{")})
	}), access.CodeInternal)
	list := func(kind, owner string) (out []string) {
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			rs, err := tx.Records(kind, owner)
			out = ids(rs, func(r broker.Record) string { return r.ID })
			return err
		}))
		return out
	}
	equal(t, "in the order in which they were made", list("session", ""), []string{"b", "a"})
	equal(t, "of an owner in other case", list("session", "ALICE"), []string{"b"})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		r, err := tx.Record("session", "b")
		want := rec("session", "b", "alice", Epoch.Add(time.Hour))
		want.Version = 1
		equal(t, "record", r, want)
		wantCode(t, second(tx.Record("session", "c")), access.CodeNotFound)
		return err
	}))
	change := rec("session", "b", "alice", Epoch.Add(2*time.Hour))
	change.Version = 1
	do(t, s, func(tx broker.Tx) error { return tx.PutRecord(change) })
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.PutRecord(change) }), access.CodeConflict)
	change.ID = "none"
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.PutRecord(change) }), access.CodeNotFound)
	do(t, s, func(tx broker.Tx) error { return tx.ForgetRecords(Epoch.Add(time.Hour)) })
	equal(t, "expired", list("token", ""), []string{})
	equal(t, "not expired, and never expiring", list("session", ""), []string{"b", "a"})
	do(t, s, func(tx broker.Tx) error { return tx.DropRecord("session", "b") })
	do(t, s, func(tx broker.Tx) error { return tx.DropRecord("session", "b") })
	equal(t, "dropped", list("session", ""), []string{"a"})
}

func second[T any](_ T, err error) error { return err }

// Notice returns a notice that waits.
func Notice(id, channel, subject string, next time.Time) notify.Notice {
	r := Request("r-1")
	return notify.Notice{ID: id, Channel: channel, Subject: subject, State: notify.Waiting, NextAt: next, CreatedAt: Epoch,
		Event: notify.Event{Kind: notify.RequestCreated, At: Epoch, Actor: "alice", Message: "„asks“ <b>", Request: &r}}
}

func testNotices(t *testing.T, s broker.Store) {
	for _, n := range []notify.Notice{Notice("n-1", "ops", "r-1", Epoch), Notice("n-2", "ops", "r-1", Epoch), Notice("n-3", "ops", "r-2", Epoch.Add(-time.Second)),
		Notice("n-4", "mail", "r-1", Epoch), Notice("n-5", "mail", "r-2", Epoch.Add(time.Hour)), Notice("n-6", "mail", "r-2", Epoch)} {
		do(t, s, func(tx broker.Tx) error { return tx.InsertNotice(n) })
	}
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.InsertNotice(Notice("n-1", "x", "y", Epoch)) }), access.CodeConflict)
	due := func(channel string, now time.Time, limit int) (out []string) {
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			ns, err := tx.DueNotices(channel, now, limit)
			out = ids(ns, func(n notify.Notice) string { return n.ID })
			return err
		}))
		return out
	}
	equal(t, "due: the first of each subject", due("ops", Epoch, 10), []string{"n-3", "n-1"})
	equal(t, "one that waits for its time holds back those after it", due("mail", Epoch, 10), []string{"n-4"})
	equal(t, "at most so many", due("ops", Epoch, 1), []string{"n-3"})
	equal(t, "of a channel that has none", due("none", Epoch, 1), []string{})
	set := func(id string, f func(*notify.Notice)) {
		do(t, s, func(tx broker.Tx) error {
			n, err := tx.Notice(id)
			if err != nil {
				return err
			}
			f(&n)
			return tx.UpdateNotice(n)
		})
	}
	set("n-1", func(n *notify.Notice) { n.State, n.SentAt = notify.Sent, Epoch })
	set("n-3", func(n *notify.Notice) { n.State, n.LastError = notify.Dead, "gone" })
	set("n-5", func(n *notify.Notice) { n.State = notify.Dead })
	equal(t, "those behind what was sent or given up", append(due("ops", Epoch, 10), due("mail", Epoch, 10)...), []string{"n-2", "n-4", "n-6"})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		got, err := tx.NoticeCounts()
		equal(t, "counts", got, []notify.Count{{Channel: "mail", Waiting: 2, Dead: 1, Oldest: Epoch}, {Channel: "ops", Waiting: 1, Sent: 1, Dead: 1, Oldest: Epoch}})
		return err
	}))
	stale := Notice("n-2", "ops", "r-1", Epoch)
	stale.Version = 9
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateNotice(stale) }), access.CodeConflict)
	stale.ID = "n-9"
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateNotice(stale) }), access.CodeNotFound)
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		got, next, err := tx.Notices(broker.NoticeFilter{States: []notify.State{notify.Dead}, Page: broker.Page{Limit: 1}})
		if err != nil {
			return err
		}
		equal(t, "the newest dead letter", ids(got, func(n notify.Notice) string { return n.ID }), []string{"n-5"})
		got, next, err = tx.Notices(broker.NoticeFilter{States: []notify.State{notify.Dead}, Page: broker.Page{Limit: 1, After: next}})
		equal(t, "the next one", ids(got, func(n notify.Notice) string { return n.ID + n.LastError }), []string{"n-3gone"})
		equal(t, "the end", next, "")
		if err != nil {
			return err
		}
		got, _, err = tx.Notices(broker.NoticeFilter{Channel: "mail", Subject: "r-1"})
		equal(t, "by channel and subject", ids(got, func(n notify.Notice) string { return n.ID }), []string{"n-4"})
		d, derr := tx.Due()
		equal(t, "when the next is due", d.Notice, Epoch)
		if err == nil {
			err = derr
		}
		return err
	}))
	do(t, s, func(tx broker.Tx) error { return tx.ForgetNotices(Epoch.Add(time.Minute)) })
	wantCode(t, s.View(t.Context(), func(tx broker.Tx) error { return second(tx.Notice("n-1")) }), access.CodeNotFound)
	must(t, s.View(t.Context(), func(tx broker.Tx) error { return second(tx.Notice("n-3")) })) // dead letters stay
}

package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

// PutRecord implements broker.Tx. An insert is stored as version 1, a change as the next one.
func (t *tx) PutRecord(r broker.Record) error {
	if r.Kind == "" || r.ID == "" || !json.Valid(r.Doc) {
		return access.Errorf(access.CodeInternal, "a record without kind, id or document cannot be stored")
	}
	expires, err := instant(r.Expires)
	if err != nil {
		return err
	}
	if r.Version == 0 {
		if _, err := t.exec(qInsertRecord, r.Kind, r.ID, fold(r.Owner), expires, int64(1), string(r.Doc)); isUnique(err) {
			return exists(r.Kind, r.ID)
		} else if err != nil {
			return t.unexpected(err)
		}
		return nil
	}
	_, err = t.returning(qUpdateRecord, fold(r.Owner), expires, r.Version+1, string(r.Doc), r.Kind, r.ID, r.Version)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err := t.Record(r.Kind, r.ID); err != nil {
			return err
		}
		return access.Errorf(access.CodeConflict, "this %s was changed by somebody else in the meantime", r.Kind).
			WithHint("look at it again, and repeat what you wanted if it still applies")
	}
	return t.unexpected(err)
}

func scanRecord(row scanner) (broker.Record, error) {
	var r broker.Record
	var expires sql.NullInt64
	var doc string
	if err := row.Scan(&r.Kind, &r.ID, &r.Owner, &expires, &r.Version, &doc); err != nil {
		return broker.Record{}, err
	}
	if expires.Valid {
		r.Expires = time.Unix(0, expires.Int64).UTC()
	}
	r.Doc = json.RawMessage(doc)
	return r, nil
}

// Record implements broker.Tx. The owner comes back folded to one case.
func (t *tx) Record(kind, id string) (broker.Record, error) {
	r, err := scanRecord(t.row(qRecord, kind, id))
	if errors.Is(err, sql.ErrNoRows) {
		return broker.Record{}, access.Errorf(access.CodeNotFound, "there is no such %s", kind) // an id may be the hash of a secret
	}
	return r, t.driver(err)
}

// Records implements broker.Tx.
func (t *tx) Records(kind, owner string) ([]broker.Record, error) {
	if owner == "" {
		return collect(t, qRecords, []any{kind}, scanRecord)
	}
	return collect(t, qRecordsOf, []any{kind, fold(owner)}, scanRecord)
}

// DropRecord implements broker.Tx.
func (t *tx) DropRecord(kind, id string) error {
	_, err := t.exec(qDropRecord, kind, id)
	return t.unexpected(err)
}

// ForgetRecords implements broker.Tx.
func (t *tx) ForgetRecords(now time.Time) error {
	at, err := instant(now)
	if err != nil {
		return err
	}
	_, err = t.exec(qForgetRecords, at)
	return t.unexpected(err)
}

// InsertNotice implements broker.Tx.
func (t *tx) InsertNotice(n notify.Notice) error {
	if n.ID == "" || n.NextAt.IsZero() {
		return access.Errorf(access.CodeInternal, "a notice without id or time cannot be stored")
	}
	n.Version = 1
	next, sent, doc, err := noticeRow(n)
	if err != nil {
		return err
	}
	if _, err := t.exec(qInsertNotice, n.ID, n.Channel, n.Subject, string(n.State), next, sent, n.Version, doc); isUnique(err) {
		return exists("notice", n.ID)
	} else if err != nil {
		return t.unexpected(err)
	}
	return nil
}

func noticeRow(n notify.Notice) (next, sent sql.NullInt64, doc string, err error) {
	if next, err = instant(n.NextAt); err == nil {
		if sent, err = instant(n.SentAt); err == nil {
			doc, err = encode("notice", n.ID, n)
		}
	}
	return next, sent, doc, err
}

// UpdateNotice implements broker.Tx.
func (t *tx) UpdateNotice(n notify.Notice) error {
	version := n.Version
	n.Version++
	next, sent, doc, err := noticeRow(n)
	if err != nil {
		return err
	}
	_, err = t.returning(qUpdateNotice, string(n.State), next, sent, n.Version, doc, n.ID, version)
	if errors.Is(err, sql.ErrNoRows) {
		return t.refusal("notice", n.ID, qNoticeState, version, string(n.State), nil)
	}
	return t.unexpected(err)
}

func scanNotice(row scanner) (notify.Notice, error) {
	var id, state, doc string
	var version int64
	var next sql.NullInt64
	if err := row.Scan(&id, &state, &version, &next, &doc); err != nil {
		return notify.Notice{}, err
	}
	var n notify.Notice
	if err := json.Unmarshal([]byte(doc), &n); err != nil {
		return n, damaged("notice", id, "its document is not readable", err)
	}
	if n.ID != id || string(n.State) != state || n.Version != version || !sameInstant(next, n.NextAt) {
		return n, damaged("notice", id, "its columns and its document differ", nil)
	}
	return n, nil
}

// Notice implements broker.Tx.
func (t *tx) Notice(id string) (notify.Notice, error) {
	n, err := scanNotice(t.row(qNotice, id))
	if errors.Is(err, sql.ErrNoRows) {
		return n, notFound("notice", id)
	}
	return n, t.driver(err)
}

// Notices implements broker.Tx.
func (t *tx) Notices(f broker.NoticeFilter) ([]notify.Notice, string, error) {
	n, err := limit(f.Page.Limit, 500)
	if err != nil {
		return nil, "", err
	}
	var w where
	if len(f.States) > 0 {
		var args []any
		for _, s := range f.States {
			args = append(args, string(s))
		}
		w.in("n.state", args...)
	}
	if f.Channel != "" {
		w.and("n.channel = %s", f.Channel)
	}
	if f.Subject != "" {
		w.and("n.subject = %s", f.Subject)
	}
	if err := t.after(&w, "n.seq", qNoticeSeq, f.Page.After); err != nil {
		return nil, "", err
	}
	q, args := w.query(qNoticeColumns, "n.seq DESC", n+1)
	list, err := collect(t, q, args, scanNotice)
	if err != nil || len(list) <= n {
		return list, "", err
	}
	return list[:n], list[n-1].ID, nil
}

// DueNotices implements broker.Tx.
func (t *tx) DueNotices(channel string, now time.Time, n int) ([]notify.Notice, error) {
	at, err := instant(now)
	if err != nil {
		return nil, err
	}
	return collect(t, qDueNotices, []any{channel, at, int64(n)}, scanNotice)
}

// NoticeCounts implements broker.Tx.
func (t *tx) NoticeCounts() ([]notify.Count, error) {
	type row struct {
		channel, state string
		n              int
		first          int64
	}
	rows, err := collect(t, qNoticeCounts, nil, func(s scanner) (r row, err error) {
		return r, s.Scan(&r.channel, &r.state, &r.n, &r.first)
	})
	if err != nil {
		return nil, err
	}
	var out []notify.Count
	for _, r := range rows {
		if len(out) == 0 || out[len(out)-1].Channel != r.channel {
			out = append(out, notify.Count{Channel: r.channel})
		}
		c := &out[len(out)-1]
		switch notify.State(r.state) {
		case notify.Sent:
			c.Sent = r.n
		case notify.Dead:
			c.Dead = r.n
		default:
			n, err := scanNotice(t.row(qNoticeAt, r.first))
			if err != nil {
				return nil, t.driver(err)
			}
			c.Waiting, c.Oldest = r.n, n.CreatedAt
		}
	}
	return out, nil
}

// ForgetNotices implements broker.Tx.
func (t *tx) ForgetNotices(before time.Time) error {
	at, err := instant(before)
	if err != nil {
		return err
	}
	_, err = t.exec(qForgetNotices, at)
	return t.unexpected(err)
}

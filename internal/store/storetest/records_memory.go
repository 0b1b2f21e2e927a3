package storetest

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

func (t *memoryTx) PutRecord(r broker.Record) error {
	if err := t.writable(); err != nil {
		return err
	}
	if r.Kind == "" || r.ID == "" || !json.Valid(r.Doc) {
		return code(access.CodeInternal)
	}
	r.Owner, r.Doc, r.Expires = strings.ToLower(r.Owner), slices.Clone(r.Doc), r.Expires.UTC()
	i := slices.IndexFunc(t.records, func(o broker.Record) bool { return o.Kind == r.Kind && o.ID == r.ID })
	switch {
	case r.Version == 0 && i >= 0, r.Version != 0 && i >= 0 && t.records[i].Version != r.Version:
		return code(access.CodeConflict)
	case r.Version != 0 && i < 0:
		return code(access.CodeNotFound)
	}
	r.Version++
	if i < 0 {
		t.records = append(t.records, r)
	} else {
		t.records[i] = r
	}
	return nil
}

func (t *memoryTx) Record(kind, id string) (broker.Record, error) {
	return find(t.records, func(r broker.Record) bool { return r.Kind == kind && r.ID == id })
}

func (t *memoryTx) Records(kind, owner string) ([]broker.Record, error) {
	return pick(t.records, func(r broker.Record) bool {
		return r.Kind == kind && (owner == "" || strings.EqualFold(r.Owner, owner))
	})
}

func (t *memoryTx) DropRecord(kind, id string) error {
	if err := t.writable(); err != nil {
		return err
	}
	t.records = slices.DeleteFunc(t.records, func(r broker.Record) bool { return r.Kind == kind && r.ID == id })
	return nil
}

func (t *memoryTx) ForgetRecords(now time.Time) error {
	if err := t.writable(); err != nil {
		return err
	}
	t.records = slices.DeleteFunc(t.records, func(r broker.Record) bool { return !r.Expires.IsZero() && !r.Expires.After(now) })
	return nil
}

func (t *memoryTx) InsertNotice(n notify.Notice) error {
	n.Version = 1
	return insert(t, &t.notices, n, func(o notify.Notice) bool { return o.ID == n.ID })
}

func (t *memoryTx) UpdateNotice(n notify.Notice) error {
	version := n.Version
	n.Version++
	return update(t, t.notices, n, func(o notify.Notice) bool { return o.ID == n.ID }, func(o notify.Notice) bool { return o.Version == version })
}

func (t *memoryTx) Notice(id string) (notify.Notice, error) {
	return find(t.notices, func(n notify.Notice) bool { return n.ID == id })
}

func (t *memoryTx) Notices(f broker.NoticeFilter) ([]notify.Notice, string, error) {
	return page(t.notices, f.Page, func(n notify.Notice) string { return n.ID }, func(n notify.Notice) bool {
		return (len(f.States) == 0 || slices.Contains(f.States, n.State)) && (f.Channel == "" || f.Channel == n.Channel) && (f.Subject == "" || f.Subject == n.Subject)
	})
}

func (t *memoryTx) DueNotices(channel string, now time.Time, limit int) ([]notify.Notice, error) {
	first := map[string]bool{}
	out, err := pick(t.notices, func(n notify.Notice) bool {
		if n.State != notify.Waiting || n.Channel != channel || first[n.Subject] {
			return false
		}
		first[n.Subject] = true
		return !n.NextAt.After(now)
	})
	slices.SortStableFunc(out, func(a, b notify.Notice) int { return a.NextAt.Compare(b.NextAt) })
	return out[:min(limit, len(out))], err
}

func (t *memoryTx) NoticeCounts() ([]notify.Count, error) {
	by := map[string]*notify.Count{}
	if _, err := pick(t.notices, func(n notify.Notice) bool {
		c := by[n.Channel]
		if c == nil {
			c = &notify.Count{Channel: n.Channel}
			by[n.Channel] = c
		}
		switch n.State {
		case notify.Sent:
			c.Sent++
		case notify.Dead:
			c.Dead++
		default:
			if c.Waiting++; c.Waiting == 1 {
				c.Oldest = n.CreatedAt
			}
		}
		return false
	}); err != nil {
		return nil, err
	}
	var out []notify.Count
	for _, name := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[name])
	}
	return out, nil
}

func (t *memoryTx) ForgetNotices(before time.Time) error {
	if err := t.writable(); err != nil {
		return err
	}
	t.notices = slices.DeleteFunc(t.notices, func(n notify.Notice) bool { return n.State == notify.Sent && n.SentAt.Before(before) })
	return nil
}

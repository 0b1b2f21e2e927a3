package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// grantRow is what stands in the columns of a grant.
type grantRow struct {
	notBefore, endsAt sql.NullInt64
	doc               string
}

func makeGrantRow(g access.Grant) (r grantRow, err error) {
	if g.ID == "" {
		return r, access.Errorf(access.CodeInternal, "a grant without an id cannot be stored")
	}
	if r.doc, err = encode("grant", string(g.ID), g); err != nil {
		return r, err
	}
	if r.notBefore, err = instant(g.NotBefore); err != nil {
		return r, err
	}
	r.endsAt, err = instant(g.EndsAt)
	return r, err
}

// InsertGrant implements broker.Tx. The version is stored as it is given.
func (t *tx) InsertGrant(g access.Grant) error {
	r, err := makeGrantRow(g)
	if err != nil {
		return err
	}
	seq, err := t.returning(qInsertGrant, string(g.ID), string(g.Request), fold(g.Requester), fold(g.Target.VM.ID), string(g.State),
		r.notBefore, r.endsAt, g.Version, r.doc)
	if isUnique(err) {
		return exists("grant", string(g.ID))
	}
	if err != nil {
		return t.unexpected(err)
	}
	return t.setGrantPlaces(seq, g.Places)
}

// UpdateGrant implements broker.Tx.
func (t *tx) UpdateGrant(g access.Grant) error {
	version := g.Version
	g.Version++
	r, err := makeGrantRow(g)
	if err != nil {
		return err
	}
	seq, err := t.returning(qUpdateGrant, string(g.Request), fold(g.Requester), fold(g.Target.VM.ID), string(g.State),
		r.notBefore, r.endsAt, g.Version, r.doc, string(g.ID), version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t.refusal("grant", string(g.ID), qGrantState, version, string(g.State), nil)
	case isRefused(err):
		return t.refusal("grant", string(g.ID), qGrantState, version, string(g.State), err)
	case err != nil:
		return t.unexpected(err)
	}
	return t.setGrantPlaces(seq, g.Places)
}

func (t *tx) setGrantPlaces(seq int64, places []access.Place) error {
	return t.unexpected(t.setKeys(seq, placeKeys(places), qGrantPlaces, qDeleteGrantPlaces, qInsertGrantPlace))
}

func placeKeys(places []access.Place) []string {
	var keys []string
	for _, p := range places {
		keys = append(keys, fold(p.ID))
	}
	return keys
}

func scanGrant(row scanner) (access.Grant, error) {
	var id, state, doc string
	var version int64
	var notBefore, endsAt sql.NullInt64
	if err := row.Scan(&id, &state, &version, &notBefore, &endsAt, &doc); err != nil {
		return access.Grant{}, err
	}
	var g access.Grant
	if err := json.Unmarshal([]byte(doc), &g); err != nil {
		return g, damaged("grant", id, "its document is not readable", err)
	}
	if string(g.ID) != id || string(g.State) != state || g.Version != version || !sameInstant(notBefore, g.NotBefore) ||
		!sameInstant(endsAt, g.EndsAt) {
		return g, damaged("grant", id, "its columns and its document differ", nil)
	}
	return g, nil
}

// Grant implements broker.Tx.
func (t *tx) Grant(id access.GrantID) (access.Grant, error) {
	g, err := scanGrant(t.row(qGrant, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return g, notFound("grant", string(id))
	}
	return g, t.driver(err)
}

// Grants implements broker.Tx.
func (t *tx) Grants(f broker.GrantFilter) ([]access.Grant, string, error) {
	n, err := limit(f.Page.Limit, 500)
	if err != nil {
		return nil, "", err
	}
	var w where
	if err := t.after(&w, "g.seq", qGrantSeq, f.Page.After); err != nil {
		return nil, "", err
	}
	if f.Requester != "" {
		w.and("g.requester_key = %s", fold(f.Requester))
	}
	if len(f.States) > 0 {
		w.in("g.state", texts(f.States)...)
	}
	if f.VM != "" {
		w.and("g.vm_key = %s", fold(f.VM))
	}
	if f.Request != "" {
		w.and("g.request_id = %s", string(f.Request))
	}
	q, args := w.query(qGrantColumns, "g.seq DESC", n+1)
	list, err := collect(t, q, args, scanGrant)
	if err != nil || len(list) <= n {
		return list, "", err
	}
	return list[:n], string(list[n-1].ID), nil
}

// LiveGrants implements broker.Tx, oldest first.
func (t *tx) LiveGrants() ([]access.Grant, error) { return collect(t, qLiveGrants, nil, scanGrant) }

// LiveGrantsAt implements broker.Tx, oldest first.
func (t *tx) LiveGrantsAt(place string) ([]access.Grant, error) {
	return collect(t, qLiveGrantsAt, []any{fold(place)}, scanGrant)
}

// DueGrants implements broker.Tx: what was due first comes first.
func (t *tx) DueGrants(now time.Time, n int) ([]access.Grant, error) {
	return t.grantsBy(qDueGrants, now, n)
}

// OverGrants implements broker.Tx: what was over first comes first.
func (t *tx) OverGrants(now time.Time, n int) ([]access.Grant, error) {
	return t.grantsBy(qOverGrants, now, n)
}

func (t *tx) grantsBy(query string, now time.Time, n int) ([]access.Grant, error) {
	at, err := instant(now)
	if err != nil {
		return nil, err
	}
	return collect(t, query, []any{at, int64(n)}, scanGrant)
}

// Due implements broker.Tx.
func (t *tx) Due() (broker.Due, error) {
	var d broker.Due
	for _, q := range []struct {
		into  *time.Time
		query string
		args  []any
	}{
		{&d.Opening, qEarliestOpening, nil},
		{&d.Closing, qEarliestClosingOf, []any{string(access.Activating)}},
		{&d.Closing, qEarliestClosingOf, []any{string(access.Active)}},
		{&d.Expiry, qEarliestExpiry, nil},
		{&d.Notice, qEarliestNotice, nil},
	} {
		var at sql.NullInt64
		if err := t.driver(t.row(q.query, q.args...).Scan(&at)); err != nil {
			return broker.Due{}, err
		}
		if !at.Valid {
			continue
		}
		if v := time.Unix(0, at.Int64).UTC(); q.into.IsZero() || v.Before(*q.into) {
			*q.into = v
		}
	}
	return d, nil
}

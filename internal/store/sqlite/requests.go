package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// InsertRequest implements broker.Tx. The version is stored as it is given.
func (t *tx) InsertRequest(r access.Request) error {
	doc, err := encode("request", string(r.ID), r)
	if err != nil {
		return err
	}
	expires, err := instant(r.ExpiresAt)
	if err != nil {
		return err
	}
	if r.ID == "" {
		return access.Errorf(access.CodeInternal, "a request without an id cannot be stored")
	}
	seq, err := t.returning(qInsertRequest, string(r.ID), fold(r.Requester), string(r.State), expires, r.Version, doc)
	if isUnique(err) {
		return exists("request", string(r.ID))
	}
	if err != nil {
		return t.unexpected(err)
	}
	return t.setRequestVMs(seq, r)
}

// UpdateRequest implements broker.Tx.
func (t *tx) UpdateRequest(r access.Request) error {
	version := r.Version
	r.Version++
	doc, err := encode("request", string(r.ID), r)
	if err != nil {
		return err
	}
	expires, err := instant(r.ExpiresAt)
	if err != nil {
		return err
	}
	seq, err := t.returning(qUpdateRequest, fold(r.Requester), string(r.State), expires, r.Version, doc, string(r.ID), version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return t.refusal("request", string(r.ID), qRequestState, version, string(r.State), nil)
	case isRefused(err):
		return t.refusal("request", string(r.ID), qRequestState, version, string(r.State), err)
	case err != nil:
		return t.unexpected(err)
	}
	return t.setRequestVMs(seq, r)
}

func (t *tx) setRequestVMs(seq int64, r access.Request) error {
	var keys []string
	for _, target := range append(r.Asked.Targets[:len(r.Asked.Targets):len(r.Asked.Targets)], r.Terms.Targets...) {
		keys = append(keys, fold(target.VM.ID))
	}
	return t.unexpected(t.setKeys(seq, keys, qRequestVMs, qDeleteRequestVMs, qInsertRequestVM))
}

func scanRequest(row scanner) (access.Request, error) {
	var id, state, doc string
	var version int64
	var expires sql.NullInt64
	if err := row.Scan(&id, &state, &version, &expires, &doc); err != nil {
		return access.Request{}, err
	}
	var r access.Request
	if err := json.Unmarshal([]byte(doc), &r); err != nil {
		return r, damaged("request", id, "its document is not readable", err)
	}
	if string(r.ID) != id || string(r.State) != state || r.Version != version || !sameInstant(expires, r.ExpiresAt) {
		return r, damaged("request", id, "its columns and its document differ", nil)
	}
	return r, nil
}

// Request implements broker.Tx.
func (t *tx) Request(id access.RequestID) (access.Request, error) {
	r, err := scanRequest(t.row(qRequest, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return r, notFound("request", string(id))
	}
	return r, t.driver(err)
}

// Requests implements broker.Tx.
func (t *tx) Requests(f broker.RequestFilter) ([]access.Request, string, error) {
	n, err := limit(f.Page.Limit, 500)
	if err != nil {
		return nil, "", err
	}
	var w where
	if err := t.after(&w, "r.seq", qRequestSeq, f.Page.After); err != nil {
		return nil, "", err
	}
	if f.Requester != "" {
		w.and("r.requester_key = %s", fold(f.Requester))
	}
	if len(f.States) > 0 {
		w.in("r.state", texts(f.States)...)
	}
	if f.VM != "" {
		w.and("r.seq IN (SELECT request_seq FROM request_vms WHERE vm_key = %s)", fold(f.VM))
	}
	q, args := w.query(qRequestColumns, "r.seq DESC", n+1)
	list, err := collect(t, q, args, scanRequest)
	if err != nil || len(list) <= n {
		return list, "", err
	}
	return list[:n], string(list[n-1].ID), nil
}

// PendingExpired implements broker.Tx: those that expired first come first.
func (t *tx) PendingExpired(now time.Time, n int) ([]access.Request, error) {
	at, err := instant(now)
	if err != nil {
		return nil, err
	}
	return collect(t, qPendingExpired, []any{at, int64(n)}, scanRequest)
}

// texts makes arguments of values of a string type.
func texts[S ~string](list []S) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

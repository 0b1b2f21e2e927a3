package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// tx implements broker.Tx. It is used by one goroutine, and not after the function that got it has returned.
type tx struct {
	s        *Store
	tx       *sql.Tx
	ctx      context.Context      // of a View; nil in Update, whose statements are not interrupted
	prepared map[string]*sql.Stmt // of the same connections
	readOnly bool
	wrote    bool
	over     bool
	// broken is the first error of the driver that is no constraint. SQLite may have rolled the transaction back on its own then
	// (disk full, I/O), and further statements would each be stored by themselves: none is run, and Update fails.
	broken error
}

var _ broker.Tx = (*tx)(nil)

// usable refuses statements after the end, after a failure, and writing in a View.
func (t *tx) usable(op string) error {
	switch {
	case t.over:
		return access.Errorf(access.CodeInternal, "a transaction was used after its end")
	case t.broken != nil:
		return t.broken
	case op == "write" && t.readOnly:
		return access.Errorf(access.CodeInternal, "writing in a transaction that only reads")
	}
	if err := t.s.fault(op); err != nil {
		return t.driver(err)
	}
	return nil
}

// driver turns an error of the driver into one that callers understand, and remembers that the transaction is lost. Constraints
// and missing rows are answers, not failures, and stay as they are.
func (t *tx) driver(err error) error {
	var known *access.Error
	if err == nil || errors.Is(err, sql.ErrNoRows) || isConstraint(err) || errors.As(err, &known) {
		return err
	}
	if t.ctx != nil {
		err = t.s.contextOr(t.ctx, err)
	} else {
		err = unavailable(t.s.opts.Path, err)
	}
	if t.broken == nil {
		t.broken = err
	}
	return err
}

func (t *tx) context() context.Context {
	if t.ctx != nil {
		return t.ctx
	}
	return context.Background()
}

// The three ways to run a statement, prepared if it is among the hot ones.

func (t *tx) execContext(query string, args []any) (sql.Result, error) {
	if st := t.prepared[query]; st != nil {
		return t.tx.StmtContext(t.context(), st).ExecContext(t.context(), args...)
	}
	return t.tx.ExecContext(t.context(), query, args...)
}

func (t *tx) queryRow(query string, args []any) *sql.Row {
	if st := t.prepared[query]; st != nil {
		return t.tx.StmtContext(t.context(), st).QueryRowContext(t.context(), args...)
	}
	return t.tx.QueryRowContext(t.context(), query, args...)
}

func (t *tx) query(query string, args []any) (*sql.Rows, error) {
	if st := t.prepared[query]; st != nil {
		return t.tx.StmtContext(t.context(), st).QueryContext(t.context(), args...)
	}
	return t.tx.QueryContext(t.context(), query, args...)
}

// exec runs a statement that changes rows and returns how many.
func (t *tx) exec(query string, args ...any) (int64, error) {
	if err := t.usable("write"); err != nil {
		return 0, err
	}
	t.wrote = true
	res, err := t.execContext(query, args)
	if err != nil {
		return 0, t.driver(err)
	}
	n, err := res.RowsAffected()
	return n, t.driver(err)
}

// returning runs a statement that changes at most one row and returns one of its numbers; no row is sql.ErrNoRows.
func (t *tx) returning(query string, args ...any) (n int64, err error) {
	if err := t.usable("write"); err != nil {
		return 0, err
	}
	t.wrote = true
	return n, t.driver(t.queryRow(query, args).Scan(&n))
}

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

type result struct {
	row *sql.Row
	err error
}

func (r result) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.row.Scan(dest...)
}

// row reads one row; the error of its Scan goes through driver.
func (t *tx) row(query string, args ...any) scanner {
	if err := t.usable("read"); err != nil {
		return result{err: err}
	}
	return result{row: t.queryRow(query, args)}
}

// rows reads rows; scan is called for each.
func (t *tx) rows(query string, args []any, scan func(scanner) error) error {
	if err := t.usable("read"); err != nil {
		return err
	}
	rows, err := t.query(query, args)
	if err != nil {
		return t.driver(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return t.driver(err)
		}
	}
	return t.driver(rows.Err())
}

// collect reads rows into a list; it is never nil, so that an empty list is written as one.
func collect[T any](t *tx, query string, args []any, scan func(scanner) (T, error)) ([]T, error) {
	out := []T{}
	err := t.rows(query, args, func(r scanner) error {
		v, err := scan(r)
		out = append(out, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// setKeys makes the rows of a side table (places, machines) equal to keys.
func (t *tx) setKeys(owner any, keys []string, read, remove, insert string) error {
	have, err := collect(t, read, []any{owner}, func(r scanner) (k string, err error) { return k, r.Scan(&k) })
	if err != nil {
		return err
	}
	slices.Sort(keys)
	if keys = slices.Compact(keys); slices.Equal(have, keys) {
		return nil
	}
	if len(have) > 0 {
		if _, err := t.exec(remove, owner); err != nil {
			return err
		}
	}
	for _, k := range keys {
		if _, err := t.exec(insert, k, owner); err != nil {
			return err
		}
	}
	return nil
}

// refusal explains why a change of a thing touched no row: it is not there, somebody else changed it, or its state forbids it.
func (t *tx) refusal(kind, id, query string, version int64, next string, cause error) error {
	var state string
	var have int64
	switch err := t.driver(t.row(query, id).Scan(&state, &have)); {
	case errors.Is(err, sql.ErrNoRows):
		return notFound(kind, id)
	case err != nil:
		return err
	case have != version:
		return access.Errorf(access.CodeConflict, "%s %s was changed by somebody else in the meantime; it is %s now", kind, id, state).
			WithHint("look at it again, and repeat what you wanted if it still applies")
	case cause != nil:
		return access.Errorf(access.CodeConflict, "%s %s is %s and cannot become %s", kind, id, state, next).Wrap(cause)
	}
	return access.Errorf(access.CodeInternal, "%s %s was not changed, for no reason that the store knows", kind, id)
}

func notFound(kind, id string) error {
	return access.Errorf(access.CodeNotFound, "there is no %s %s", kind, id)
}

func exists(kind, id string) error {
	return access.Errorf(access.CodeConflict, "%s %s exists already", kind, id)
}

func damaged(kind, id, why string, err error) error {
	return access.Errorf(access.CodeUnavailable, "%s %s cannot be read from the database: %s", kind, id, why).Wrap(err).
		WithHint("the file is damaged or was edited: curfew audit verify says more; restore it from a backup")
}

// encode returns the document of v. What could not be read back is refused here, before it is stored.
func encode[T any](kind, id string, v T) (string, error) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, new(T))
	}
	if err != nil {
		return "", access.Errorf(access.CodeInvalid, "%s %s cannot be stored as it is", kind, id).Wrap(err)
	}
	return string(b), nil
}

// instant returns the column value of t: nanoseconds in UTC, NULL for the zero time.
func instant(t time.Time) (sql.NullInt64, error) {
	if t.IsZero() {
		return sql.NullInt64{}, nil
	}
	n := t.UnixNano() // undefined outside of what it can hold
	if !time.Unix(0, n).Equal(t) {
		return sql.NullInt64{}, access.Errorf(access.CodeInvalid, "the instant %s is out of range: the years 1678 to 2261 can be stored", t)
	}
	return sql.NullInt64{Int64: n, Valid: true}, nil
}

func sameInstant(col sql.NullInt64, t time.Time) bool {
	want, err := instant(t)
	return err == nil && want == col
}

// fold returns one spelling for all that differ in case only, as strings.EqualFold compares; lower case for ASCII.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		if 'A' <= least && least <= 'Z' { // K and S have relatives outside ASCII
			least += 'a' - 'A'
		}
		return least
	}, s)
}

// limit checks the length of a page: 0 is the default of 100.
func limit(n, most int) (int, error) {
	switch {
	case n == 0:
		return 100, nil
	case n < 0 || n > most:
		return 0, (&access.Error{Code: access.CodeInvalid, Field: "limit", Message: fmt.Sprintf("limit %d is out of range", n)}).
			WithHint("ask for 1 to %d", most)
	}
	return n, nil
}

// after adds the condition of a page after the thing with that id.
func (t *tx) after(w *where, column, query, id string) error {
	if id == "" {
		return nil
	}
	var seq int64
	switch err := t.driver(t.row(query, id).Scan(&seq)); {
	case errors.Is(err, sql.ErrNoRows):
		return (&access.Error{Code: access.CodeInvalid, Field: "after", Message: fmt.Sprintf("there is nothing after %q: it does not exist", id)}).
			WithHint("start from the first page")
	case err != nil:
		return err
	}
	w.and(column+" < %s", seq)
	return nil
}

// Remembered implements broker.Tx.
func (t *tx) Remembered(caller, key, bodyHash string) (string, bool, error) {
	var hash, id string
	switch err := t.driver(t.row(qRemembered, caller, key).Scan(&hash, &id)); {
	case errors.Is(err, sql.ErrNoRows):
		return "", false, nil
	case err != nil:
		return "", false, err
	case hash != bodyHash:
		return "", false, access.Errorf(access.CodeConflict, "idempotency key %q was used for another request, which made %s", key, id).
			WithHint("use a new key for each thing that you ask for")
	}
	return id, true, nil
}

// Remember implements broker.Tx. A key is remembered once: again is a conflict.
func (t *tx) Remember(caller, key, bodyHash, id string, now time.Time) error {
	at, err := instant(now)
	if err != nil {
		return err
	}
	if !at.Valid {
		return access.Errorf(access.CodeInternal, "idempotency key %q has no instant", key)
	}
	if _, err := t.exec(qRemember, caller, key, bodyHash, id, at); err != nil {
		if isUnique(err) {
			return access.Errorf(access.CodeConflict, "idempotency key %q was used already", key)
		}
		return t.unexpected(err)
	}
	return nil
}

// Forget implements broker.Tx.
func (t *tx) Forget(before time.Time) error {
	at, err := instant(before)
	if err != nil {
		return err
	}
	if !at.Valid {
		return nil
	}
	if _, err := t.exec(qForget, at); err != nil {
		return t.unexpected(err)
	}
	return nil
}

// Meta implements broker.Tx.
func (t *tx) Meta(key string) (string, error) {
	var v string
	err := t.driver(t.row(qMeta, key).Scan(&v))
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

// SetMeta implements broker.Tx.
func (t *tx) SetMeta(key, value string) error {
	_, err := t.exec(qSetMeta, key, value)
	return t.unexpected(err)
}

// unexpected names a constraint that a caller should not be able to hit.
func (t *tx) unexpected(err error) error {
	var known *access.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return access.Errorf(access.CodeInvalid, "the database does not take this value").Wrap(err)
}

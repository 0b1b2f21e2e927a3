package sqlite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
)

// Append implements broker.Tx: record, hashes and size of the log change in this transaction. An entry without an instant gets
// the store's.
func (t *tx) Append(e audit.Entry) (audit.Entry, error) {
	size, err := t.LogSize()
	if err != nil {
		return e, err
	}
	if e.At.IsZero() {
		e.At = t.s.opts.Clock.Now()
	}
	e.Index, e.At = size, e.At.UTC().Round(0) // without the monotonic reading, as it will be read back
	at, err := instant(e.At)
	if err != nil {
		return e, err
	}
	record, err := e.Record()
	if err != nil {
		return e, access.Errorf(access.CodeInvalid, "entry %d of the audit log cannot be written", size).Wrap(err)
	}
	if _, err := t.exec(qInsertEntry, size, at, fold(e.Actor), e.Action, fold(e.Object), fold(e.VM), record); err != nil {
		return e, t.logBroken(size, err)
	}
	if err := audit.Append(hashes{t}, size, record); err != nil {
		return e, t.logBroken(size, err)
	}
	if n, err := t.exec(qGrowLog, size+1, size); err != nil || n != 1 {
		return e, t.logBroken(size, err)
	}
	return e, nil
}

// logBroken spoils the transaction: a log that does not take the next entry must not let anything else be stored (P7).
func (t *tx) logBroken(index int64, err error) error {
	var known *access.Error
	if !errors.As(err, &known) {
		err = damaged("entry", fmt.Sprint(index), "the log does not take it", err)
	}
	if t.broken == nil && !t.readOnly {
		t.broken = err
	}
	return err
}

// LogSize implements broker.Tx.
func (t *tx) LogSize() (n int64, err error) {
	return n, t.driver(t.row(qLogSize).Scan(&n))
}

// Entries implements broker.Tx.
func (t *tx) Entries(f broker.AuditFilter) ([]audit.Entry, error) {
	n, err := limit(f.Limit, 10_000)
	if err != nil {
		return nil, err
	}
	var w where
	order := "l.idx DESC"
	switch {
	case f.Ascending:
		order = "l.idx"
		w.and("l.idx > %s", f.After)
	case f.After > 0:
		w.and("l.idx < %s", f.After)
	}
	for column, value := range map[string]string{"l.actor_key": fold(f.Actor), "l.action": f.Action, "l.object_key": fold(f.Object), "l.vm_key": fold(f.VM)} {
		if value != "" {
			w.and(column+" = %s", value)
		}
	}
	for cond, at := range map[string]time.Time{"l.at >= %s": f.Since, "l.at < %s": f.Until} {
		if at.IsZero() {
			continue
		}
		v, err := instant(at)
		if err != nil {
			return nil, err
		}
		w.and(cond, v)
	}
	q, args := w.query(qEntryColumns, order, n)
	return collect(t, q, args, func(r scanner) (audit.Entry, error) {
		e, _, err := scanEntry(r)
		return e, err
	})
}

// scanEntry reads an entry with its record, and compares the columns that are searched with what the record says: an entry cannot
// be hidden from a filter without that being noticed.
func scanEntry(row scanner) (audit.Entry, []byte, error) {
	var e audit.Entry
	var index, at int64
	var actor, action, object, vm string
	var record []byte
	if err := row.Scan(&index, &at, &actor, &action, &object, &vm, &record); err != nil {
		return e, nil, err
	}
	if err := json.Unmarshal(record, &e); err != nil {
		return audit.Entry{Index: index}, record, damaged("entry", fmt.Sprint(index), "its record is not readable", err)
	}
	if e.Index != index || e.At.UnixNano() != at || fold(e.Actor) != actor || e.Action != action || fold(e.Object) != object || fold(e.VM) != vm {
		return audit.Entry{Index: index}, record, damaged("entry", fmt.Sprint(index), "its columns and its record differ", nil)
	}
	return e, record, nil
}

// hashes implements audit.HashStore on a transaction.
type hashes struct{ t *tx }

// ReadHashes implements tlog.HashReader.
func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	got := make(map[int64]tlog.Hash, len(indexes))
	for rest := indexes; len(rest) > 0; {
		class := min(bits.Len(uint(len(rest)-1)), len(qHashesIn)-1)
		n := min(len(rest), 1<<class)
		args := make([]any, 1<<class)
		for i := range args {
			args[i] = rest[min(i, n-1)]
		}
		if err := h.t.rows(qHashesIn[class], args, func(r scanner) error {
			x, hash, err := scanHash(r)
			got[x] = hash
			return err
		}); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	for i, x := range indexes {
		hash, ok := got[x]
		if !ok {
			return nil, damaged("hash", fmt.Sprint(x), "it is missing from the audit log", nil)
		}
		out[i] = hash
	}
	return out, nil
}

func scanHash(r scanner) (index int64, hash tlog.Hash, err error) {
	var b []byte
	if err := r.Scan(&index, &b); err != nil {
		return index, hash, err
	}
	if len(b) != tlog.HashSize {
		return index, hash, damaged("hash", fmt.Sprint(index), "it has the wrong length", nil)
	}
	return index, tlog.Hash(b), nil
}

// PutHashes implements audit.HashStore.
func (h hashes) PutHashes(first int64, list []tlog.Hash) error {
	for i, hash := range list {
		if _, err := h.t.exec(qInsertHash, first+int64(i), bytes.Clone(hash[:])); err != nil {
			return err
		}
	}
	return nil
}

// Checkpoint implements broker.Tx.
func (t *tx) Checkpoint() (audit.Checkpoint, error) {
	c, _, err := t.checkpoint()
	return c, err
}

// Checkpoint returns the checkpoint of the log as it is stored now.
func (s *Store) Checkpoint(ctx context.Context) (c audit.Checkpoint, err error) {
	err = s.View(ctx, func(t broker.Tx) error {
		c, err = t.Checkpoint()
		return err
	})
	return c, err
}

// installationRow is the row of the installation.
type installationRow struct {
	origin, epoch    string
	commits, logSize int64
}

func (t *tx) checkpoint() (audit.Checkpoint, installationRow, error) {
	var in installationRow
	if err := t.driver(t.row(qInstallation).Scan(&in.origin, &in.epoch, &in.commits, &in.logSize)); err != nil {
		return audit.Checkpoint{}, in, err
	}
	c, err := audit.MakeCheckpoint(in.origin, in.logSize, hashes{t})
	return c, in, err
}

// Prove returns the record of an entry with the proof that it is in the log of that size.
func (s *Store) Prove(ctx context.Context, index, size int64) (record []byte, proof tlog.RecordProof, err error) {
	err = s.View(ctx, func(b broker.Tx) error {
		t := b.(*tx)
		if err := t.within(size); err != nil {
			return err
		}
		if proof, err = audit.Inclusion(index, size, hashes{t}); err != nil {
			return err
		}
		return t.rows(qEntriesFrom, []any{index, int64(1)}, func(r scanner) error {
			_, record, err = scanEntry(r)
			return err
		})
	})
	return record, proof, err
}

// ProveConsistency returns the proof that the log of that size begins with the log at older.
func (s *Store) ProveConsistency(ctx context.Context, older, size int64) (proof tlog.TreeProof, err error) {
	err = s.View(ctx, func(b broker.Tx) error {
		t := b.(*tx)
		if err := t.within(size); err != nil {
			return err
		}
		proof, err = audit.Consistency(older, size, hashes{t})
		return err
	})
	return proof, err
}

func (t *tx) within(size int64) error {
	n, err := t.LogSize()
	if err == nil && (size < 0 || size > n) {
		err = access.Errorf(access.CodeInvalid, "the audit log has %d entries, not %d", n, size)
	}
	return err
}

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// LogReader reads the audit log of a database file without changing it, without its lock, and while a server runs on it or not.
// It sees one state: the one when it was opened. It implements audit.Reader.
type LogReader struct {
	db *sql.DB
	t  *tx
	in installationRow
}

var _ audit.Reader = (*LogReader)(nil)

// OpenLog opens the log in the database at path for reading.
func OpenLog(ctx context.Context, path string) (_ *LogReader, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, access.Errorf(access.CodeNotFound, "there is no database %s", path).WithHint("name the server's database file, or a copy of it")
	}
	real, err := realPath(path)
	if err != nil {
		return nil, err
	}
	if err := checkHeader(real); err != nil {
		return nil, err
	}
	r, err := openLog(ctx, real, map[string]string{"mode": "ro"})
	if code := access.CodeOf(err); code == access.CodeUnavailable && noWAL(real) {
		// A reader of a WAL database needs its side files, and cannot make them in a directory that it may not write. Without a
		// WAL the file is the whole database, and may be read as one that nobody changes.
		if alone, aerr := openLog(ctx, real, map[string]string{"mode": "ro", "immutable": "1"}); aerr == nil {
			return alone, nil
		}
	}
	return r, err
}

func noWAL(path string) bool {
	st, err := os.Stat(path + "-wal")
	return errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0
}

func openLog(ctx context.Context, path string, params map[string]string) (_ *LogReader, err error) {
	db, err := sql.Open("sqlite", readDSN(path, params))
	if err != nil {
		return nil, unavailable(path, err)
	}
	db.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			_ = db.Close() // the first error is the one that matters
		}
	}()
	var id int64
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return nil, unavailable(path, err)
	}
	if id != applicationID {
		return nil, access.Errorf(access.CodeInvalid, "%s is not a database of Curfew", path).WithHint("name the server's database file, or a copy of it")
	}
	st, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, unavailable(path, err)
	}
	r := &LogReader{db: db, t: &tx{s: &Store{opts: Options{Path: path}}, tx: st, readOnly: true, ctx: ctx}}
	row := r.t.row(qInstallation)
	if err := r.t.driver(row.Scan(&r.in.origin, &r.in.epoch, &r.in.commits, &r.in.logSize)); errors.Is(err, sql.ErrNoRows) {
		return nil, damaged("the installation", "", "its row is missing", nil)
	} else if err != nil {
		return nil, err
	}
	return r, nil
}

// Close ends the reading.
func (r *LogReader) Close() error { return errors.Join(r.t.tx.Rollback(), r.db.Close()) }

// Checkpoint returns the checkpoint that the database claims, computed from its stored hashes. Hashes that are missing make it an
// error; Verify then says more.
func (r *LogReader) Checkpoint() (audit.Checkpoint, error) {
	return audit.MakeCheckpoint(r.in.origin, r.in.logSize, hashes{r.t})
}

// Verify runs audit.Verify on what the database claims to be. Older checkpoints come from elsewhere: whoever can write the
// database can rewrite all of it.
func (r *LogReader) Verify(ctx context.Context, older ...audit.Checkpoint) (audit.Report, error) {
	now, err := r.Checkpoint()
	if err != nil {
		// The tree has holes: the entries are gone through all the same, to say which is the first without its hashes.
		now = audit.Checkpoint{Origin: r.in.origin, Size: r.in.logSize}
		rep, verr := audit.Verify(ctx, r, now, older...)
		var t *audit.TamperError
		if errors.As(verr, &t) && t.Index >= 0 {
			return rep, verr
		}
		return rep, &audit.TamperError{Index: -1, Why: err.Error()}
	}
	return audit.Verify(ctx, r, now, older...)
}

// readBatch is how many entries are held in memory at a time.
const readBatch = 1000

// Entries implements audit.Reader.
func (r *LogReader) Entries(ctx context.Context, fn func(audit.Stored) error) error {
	r.t.ctx = ctx
	for from := int64(-1 << 62); ; {
		var batch []audit.Stored
		if err := r.t.rows(qEntriesFrom, []any{from, int64(readBatch)}, func(row scanner) error {
			e, record, err := scanEntry(row)
			if err != nil && record == nil {
				return err
			}
			batch = append(batch, audit.Stored{Index: e.Index, Record: record, Damaged: err})
			return nil
		}); err != nil {
			return err
		}
		if len(batch) == 0 {
			return nil
		}
		if err := r.addHashes(batch); err != nil {
			return err
		}
		for _, s := range batch {
			if err := fn(s); err != nil {
				return err
			}
			from = s.Index + 1
		}
	}
}

// addHashes gives each entry the hashes that are stored for it. Where one is missing there are fewer, which Verify notices.
func (r *LogReader) addHashes(batch []audit.Stored) error {
	first, last := batch[0].Index, batch[len(batch)-1].Index
	if first < 0 || last-first >= 2*readBatch {
		for i := range batch { // there are no such indexes, or holes: Verify stops at the first of them
			batch[i].Hashes = []tlog.Hash{}
		}
		return nil
	}
	have := map[int64]tlog.Hash{}
	from, to := tlog.StoredHashIndex(0, first), tlog.StoredHashIndex(0, last+1)
	if err := r.t.rows(qHashesBetween, []any{from, to}, func(row scanner) error {
		i, h, err := scanHash(row)
		if err == nil {
			have[i] = h
		}
		return nil // one of the wrong length counts as missing
	}); err != nil {
		return err
	}
	for i := range batch {
		list := []tlog.Hash{}
		for x, end := tlog.StoredHashIndex(0, batch[i].Index), tlog.StoredHashIndex(0, batch[i].Index+1); x < end; x++ {
			if h, ok := have[x]; ok {
				list = append(list, h)
			}
		}
		batch[i].Hashes = list
	}
	return nil
}

func readDSN(path string, params map[string]string) string {
	return fileDSN(path, params, fmt.Sprintf("busy_timeout(%d)", (5*time.Second).Milliseconds()), "query_only(1)")
}

package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

func verifyFile(t testing.TB, path string, older []audit.Checkpoint) (audit.Report, error) {
	t.Helper()
	r, err := sqlite.OpenLog(t.Context(), path)
	must(t, err)
	defer r.Close()
	return r.Verify(t.Context(), older...)
}

func verify(t testing.TB, path string, older []audit.Checkpoint) audit.Report {
	t.Helper()
	rep, err := verifyFile(t, path, older)
	if err != nil {
		t.Fatalf("%v (%+v)", err, rep)
	}
	return rep
}

// P7: verified offline, while the server runs and after, with proofs that agree.
func TestVerifyWhileRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	verify(t, path, nil) // empty
	var older []audit.Checkpoint
	for range 4 {
		appendN(t, s, 7)
		c, err := s.Checkpoint(t.Context())
		must(t, err)
		older = append(older, c)
	}
	rep := verify(t, path, older)
	last := older[3]
	if rep.Size != 28 || rep.Root != last.Root || len(rep.Against) != 4 || rep.Origin != last.Origin {
		t.Errorf("got %+v, want size 28 and root %s", rep, last.Root)
	}
	for _, c := range older {
		p, err := s.ProveConsistency(t.Context(), c.Size, last.Size)
		must(t, err)
		must(t, audit.CheckConsistency(p, last, c))
	}
	for i := range int64(28) {
		record, p, err := s.Prove(t.Context(), i, 28)
		must(t, err)
		must(t, audit.CheckInclusion(p, last, i, record))
		if err := audit.CheckInclusion(p, last, i, append(record, ' ')); err == nil {
			t.Errorf("the proof of entry %d holds for another record", i)
		}
	}
	if _, _, err := s.Prove(t.Context(), 28, 29); access.CodeOf(err) != access.CodeInvalid {
		t.Errorf("got %v", err)
	}
	must(t, s.Close())
	verify(t, path, older)
	open(t, sqlite.Options{Path: path}) // reading left nothing behind that is in the way
}

// P7: each way to change the past is found, and the first wrong entry is named.
func TestTampering(t *testing.T) {
	const n = 40
	source := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: source})
	var older []audit.Checkpoint
	for range 4 {
		appendN(t, s, n/4)
		c, err := s.Checkpoint(t.Context())
		must(t, err)
		older = append(older, c)
	}
	must(t, s.Close())
	whole, err := os.ReadFile(source)
	must(t, err)
	const unlock = `DROP TRIGGER log_stays; DROP TRIGGER log_unchanged; DROP TRIGGER log_hashes_stay; DROP TRIGGER log_hashes_unchanged;`
	for _, c := range []struct {
		name, sql string
		older     []audit.Checkpoint
		index     int64
		words     string
	}{
		{name: "one byte of a record", sql: `UPDATE log SET record = CAST(replace(CAST(record AS TEXT), 'entry 3,', 'entry 4,') AS BLOB) WHERE idx = 13`, index: 13, words: "hash"},
		{name: "the last record", sql: `UPDATE log SET record = CAST(replace(CAST(record AS TEXT), 'done', 'dome') AS BLOB) WHERE idx = 39`, index: 39, words: "hash"},
		{name: "a record that is no JSON", sql: `UPDATE log SET record = x'00' WHERE idx = 7`, index: 7, words: "not readable"},
		{name: "a column that filters use", sql: `UPDATE log SET actor_key = 'bo' WHERE idx = 21`, index: 21, words: "columns"},
		{name: "a column of time", sql: `UPDATE log SET at = at + 1 WHERE idx = 22`, index: 22, words: "columns"},
		{name: "an entry removed", sql: `DELETE FROM log WHERE idx = 5`, index: 5, words: "missing"},
		{name: "an entry removed and the rest moved up", sql: `DELETE FROM log WHERE idx = 5; UPDATE log SET idx = idx - 1 WHERE idx > 5`, index: 5, words: "columns"},
		{name: "an entry put in at the end", sql: `INSERT INTO log SELECT 40, at, actor_key, action, object_key, vm_key, CAST(replace(CAST(record AS TEXT), '"index":3,', '"index":40,') AS BLOB) FROM log WHERE idx = 3`, index: 40, words: "put in"},
		{name: "an entry before the first", sql: `INSERT INTO log SELECT -1, at, actor_key, action, object_key, vm_key, record FROM log WHERE idx = 3`, index: -1, words: "second time"},
		{name: "two entries exchanged", sql: `UPDATE log SET idx = -5 WHERE idx = 5; UPDATE log SET idx = 5 WHERE idx = 6; UPDATE log SET idx = 6 WHERE idx = -5`, index: 5, words: "columns"},
		{name: "another inner hash", sql: `UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = (SELECT MIN(idx) FROM log_hashes WHERE idx > 20)`, index: 11, words: "hash"},
		{name: "an inner hash", sql: `UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 2`, index: 1, words: "hash"},
		{name: "a hash removed", sql: `DELETE FROM log_hashes WHERE idx = 2`, index: 1, words: "hash"},
		{name: "all hashes removed", sql: `DELETE FROM log_hashes`, index: 0, words: "hash"},
		{name: "the size", sql: `UPDATE installation SET log_size = 41`, index: 40, words: "claims to have 41"},
		{name: "truncated, without a trace", sql: `DELETE FROM log WHERE idx >= 35; DELETE FROM log_hashes WHERE idx >= 67; UPDATE installation SET log_size = 35`, older: older, index: 35, words: "had 40 entries"},
		{name: "truncated to a checkpoint", sql: `DELETE FROM log WHERE idx >= 30; DELETE FROM log_hashes WHERE idx >= 56; UPDATE installation SET log_size = 30`, older: older, index: 30, words: "had 40 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "curfew.db")
			must(t, os.WriteFile(path, whole, 0o600))
			db := raw(t, path)
			sqlExec(t, db, unlock)
			sqlExec(t, db, c.sql)
			must(t, db.Close())
			rep, err := verifyFile(t, path, c.older)
			var e *audit.TamperError
			if !errors.As(err, &e) || e.Index != c.index || !strings.Contains(e.Why, c.words) {
				t.Errorf("got %v (%+v), want entry %d and %q", err, rep, c.index, c.words)
			}
		})
	}

	// Somebody rewrote one record and then everything that follows from it. Only an older checkpoint tells, and says between which.
	t.Run("all rewritten", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "curfew.db")
		must(t, os.WriteFile(path, whole, 0o600))
		db := raw(t, path)
		sqlExec(t, db, unlock)
		sqlExec(t, db, `UPDATE log SET record = CAST(replace(CAST(record AS TEXT), 'entry 3,', 'entry 4,') AS BLOB) WHERE idx = 13`)
		rehash(t, path)
		verify(t, path, nil) // nothing to see for who holds nothing
		_, err := verifyFile(t, path, older)
		var e *audit.TamperError
		if !errors.As(err, &e) || !strings.Contains(e.Why, "from 10 to 19") {
			t.Errorf("got %v, want entries 10 to 19", err)
		}
	})
	t.Run("the log of another installation", func(t *testing.T) {
		foreign := older[0]
		foreign.Origin = "curfew/audit/other"
		var e *audit.ForeignError
		if _, err := verifyFile(t, source, []audit.Checkpoint{foreign}); !errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
	})
}

// rehash computes the hashes of a database anew, as a forger would.
func rehash(t *testing.T, path string) {
	t.Helper()
	db := raw(t, path)
	sqlExec(t, db, "DELETE FROM log_hashes")
	rows, err := db.Query("SELECT record FROM log ORDER BY idx")
	must(t, err)
	var records [][]byte
	for rows.Next() {
		var b []byte
		must(t, rows.Scan(&b))
		records = append(records, b)
	}
	must(t, errors.Join(rows.Err(), rows.Close()))
	all := []tlog.Hash{}
	for i, r := range records {
		hs, err := tlog.StoredHashes(int64(i), r, tlog.HashReaderFunc(func(list []int64) (out []tlog.Hash, err error) {
			for _, x := range list {
				out = append(out, all[x])
			}
			return out, nil
		}))
		must(t, err)
		all = append(all, hs...)
	}
	for i, h := range all {
		sqlExec(t, db, "INSERT INTO log_hashes (idx, hash) VALUES ($1, $2)", i, h[:])
	}
}

func TestOpenLogRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "text"), []byte("this is my shopping list, not a database at all"), 0o600))
	sqlExec(t, raw(t, filepath.Join(dir, "other")), "CREATE TABLE t (x)")
	for name, code := range map[string]access.Code{"missing": access.CodeNotFound, "text": access.CodeUnavailable, "other": access.CodeInvalid} {
		_, err := sqlite.OpenLog(t.Context(), filepath.Join(dir, name))
		wantError(t, err, code, name)
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); err == nil {
		t.Error("reading made a database")
	}
}

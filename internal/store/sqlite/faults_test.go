package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError checks that err says what, why and what next (P8).
func wantError(t testing.TB, err error, code access.Code, words string) {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, words) || e.Hint == "" {
		t.Fatalf("got %#v (%v), want %s with %q and a hint", e, err, code, words)
	}
}

func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	must(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func sqlExec(t testing.TB, db *sql.DB, q string, args ...any) {
	t.Helper()
	if _, err := db.Exec(q, args...); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
}

func entry(i int) audit.Entry {
	return audit.Entry{At: storetest.Epoch.Add(time.Duration(i) * time.Second), Actor: "ana", Action: "grant.open", Object: "g-1", VM: "web-01",
		Outcome: audit.Done, Message: fmt.Sprintf("entry %d, %s", i, strings.Repeat("x", 200))}
}

func appendN(t testing.TB, s *sqlite.Store, n int) {
	t.Helper()
	for i := range n {
		must(t, s.Update(t.Context(), func(tx broker.Tx) error { _, err := tx.Append(entry(i)); return err }))
	}
}

func size(t testing.TB, s *sqlite.Store) (n int64) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx broker.Tx) (err error) { n, err = tx.LogSize(); return err }))
	return n
}

// Who asked for what, from where and why is nobody else's to read, whatever the umask is.
func TestFilesAreTheServersOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	must(t, err)
	defer s.Close()
	files, err := filepath.Glob(path + "*")
	must(t, err)
	for _, f := range files {
		info, err := os.Stat(f)
		must(t, err)
		if m := info.Mode().Perm(); m&0o077 != 0 {
			t.Errorf("%s has mode %o", filepath.Base(f), m)
		}
	}
}

// A full disk is said in words, loses nothing, and is over as soon as there is space.
func TestDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	sqlExec(t, sqlite.WriteDB(s), "PRAGMA max_page_count = 80")
	n := 0
	var err error
	for ; err == nil && n < 10_000; n++ {
		err = s.Update(t.Context(), func(tx broker.Tx) error { _, err := tx.Append(entry(n)); return err })
	}
	wantError(t, err, access.CodeUnavailable, "disk is full")
	if got := size(t, s); got != int64(n-1) {
		t.Errorf("the log has %d entries, want %d", got, n-1)
	}
	sqlExec(t, sqlite.WriteDB(s), "PRAGMA max_page_count = 100000")
	appendN(t, s, 1)
	verify(t, path, nil)
}

// Whatever fails at whatever point of a transaction: nothing of it is stored, also when the function swallows the error, and the
// next one works.
func TestFaultsAtEveryOperation(t *testing.T) {
	for _, f := range []struct {
		fault sqlite.Fault
		words string
	}{{sqlite.FaultFull, "disk is full"}, {sqlite.FaultBusy, "locked"}, {sqlite.FaultIO, "disk reports an error"}, {sqlite.FaultCorrupt, "damaged"}, {sqlite.FaultRead, "cannot be written"}} {
		armed, countdown := false, 0
		s := open(t, sqlite.Options{Path: sqlite.Memory, BusyTimeout: time.Millisecond, Hooks: sqlite.Hooks{Fault: func(string) error {
			if countdown--; armed && countdown < 0 {
				armed = false
				return f.fault
			}
			return nil
		}}})
		failed := 0
		for at := 0; ; at++ {
			armed, countdown = true, at
			err := s.Update(t.Context(), func(tx broker.Tx) error {
				_ = tx.SetMeta("k", "v") // swallowed
				_ = tx.InsertGrant(storetest.LiveGrant("g-1", "w", storetest.Epoch, storetest.NSG("a")))
				_, _ = tx.Append(entry(1))
				_, _ = tx.Grant("g-1")
				return nil
			})
			if armed { // beyond the last operation
				must(t, err)
				break
			}
			failed++
			wantError(t, err, access.CodeUnavailable, f.words)
			must(t, s.View(t.Context(), func(tx broker.Tx) error {
				v, err := tx.Meta("k")
				must(t, err)
				_, gerr := tx.Grant("g-1")
				n, err := tx.LogSize()
				must(t, err)
				if v != "" || access.CodeOf(gerr) != access.CodeNotFound || n != 0 {
					t.Errorf("fault at operation %d: meta %q, grant %v, %d entries were stored", at, v, gerr, n)
				}
				return nil
			}))
		}
		if failed < 8 {
			t.Errorf("only %d operations could fail", failed)
		}
	}
}

// A program that holds the file makes writing wait, then fail in words; reading goes on.
func TestLockedByAnotherProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path, BusyTimeout: 300 * time.Millisecond})
	appendN(t, s, 1)
	other := raw(t, path)
	sqlExec(t, other, "BEGIN IMMEDIATE")
	add := func(ctx context.Context) error {
		return s.Update(ctx, func(tx broker.Tx) error { _, err := tx.Append(entry(1)); return err })
	}
	wantError(t, add(t.Context()), access.CodeUnavailable, "locked by another program")
	if size(t, s) != 1 {
		t.Error("reading did not go on")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := add(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
	sqlExec(t, other, "ROLLBACK")
	must(t, add(t.Context()))
}

func TestRefusedFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("text"), []byte("this is my shopping list, not a database at all"), 0o600))
	sqlExec(t, raw(t, at("other")), "CREATE TABLE t (x)")
	must(t, os.Mkdir(at("folder"), 0o700))

	s := open(t, sqlite.Options{Path: at("newer")})
	must(t, s.Close())
	sqlExec(t, raw(t, at("newer")), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)")

	s = open(t, sqlite.Options{Path: at("cut")})
	appendN(t, s, 50)
	must(t, s.Close())
	must(t, os.Truncate(at("cut"), 30_000))

	s = open(t, sqlite.Options{Path: at("torn")})
	appendN(t, s, 50)
	must(t, s.Close())
	b, err := os.ReadFile(at("torn"))
	must(t, err)
	copy(b[100:], strings.Repeat("\xa5", 8000))
	must(t, os.WriteFile(at("torn"), b, 0o600))

	for name, words := range map[string]string{
		"text": "is not a database", "other": "another program", "folder": "cannot be read", "newer": "newer version", "cut": "damaged", "torn": "damaged",
		"missing/x": "directory",
	} {
		_, err := sqlite.Open(t.Context(), sqlite.Options{Path: at(name)})
		var e *access.Error
		if !errors.As(err, &e) || e.Code != access.CodeUnavailable || !strings.Contains(e.Message, words) || e.Hint == "" {
			t.Errorf("%s: got %v, want %q", name, err, words)
		}
	}
	if b, err := os.ReadFile(at("text")); err != nil || !strings.HasPrefix(string(b), "this is my shopping list") {
		t.Errorf("the file that is no database was changed: %q, %v", b, err)
	}
	must(t, os.WriteFile(at("empty"), nil, 0o600))
	open(t, sqlite.Options{Path: at("empty")})
	odd := at("a b%3f?#é.db")
	open(t, sqlite.Options{Path: odd})
	if _, err := os.Stat(odd); err != nil {
		t.Errorf("the database is not where it was asked for: %v", err)
	}
}

// What cannot be read is an error: never a zero time that would leave a grant without an end, and never half a thing.
func TestDamagedRows(t *testing.T) {
	for _, c := range []struct{ name, sql string }{
		{"instant", `UPDATE grants SET doc = replace(doc, '2026-11-22T10:30:00.123456789Z', 'tomorrow')`},
		{"no document", `UPDATE grants SET doc = ''`},
		{"another end", `UPDATE grants SET ends_at = ends_at + 1`},
		{"no end", `UPDATE grants SET ends_at = NULL`},
		{"end removed from the document", `UPDATE grants SET doc = replace(doc, '"ends_at":"2026-11-22T10:30:00.123456789Z",', '')`},
		{"another state", `UPDATE grants SET doc = replace(doc, '"state":"active"', '"state":"ended"')`},
		{"another version", `UPDATE grants SET version = 5`},
		{"end as text", `UPDATE grants SET ends_at = 'tomorrow'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, sqlite.Options{Path: sqlite.Memory})
			must(t, s.Update(t.Context(), func(tx broker.Tx) error {
				return tx.InsertGrant(storetest.LiveGrant("g-1", "w", storetest.Epoch.Add(time.Hour), storetest.NSG("a")))
			}))
			sqlExec(t, sqlite.WriteDB(s), c.sql)
			must(t, s.View(t.Context(), func(tx broker.Tx) error {
				if g, err := tx.Grant("g-1"); access.CodeOf(err) != access.CodeUnavailable {
					t.Errorf("got %+v, %v", g, err)
				}
				if list, err := tx.LiveGrants(); err == nil {
					t.Errorf("got %+v without an error", list)
				}
				return nil
			}))
		})
	}
}

// The moves hold in the database itself, whoever writes to it.
func TestMovesAreConstraints(t *testing.T) {
	s := open(t, sqlite.Options{Path: sqlite.Memory})
	must(t, s.Update(t.Context(), func(tx broker.Tx) error {
		for _, from := range access.GrantStates {
			for _, to := range access.GrantStates {
				g := storetest.Grant(fmt.Sprintf("%s-%s", from, to), "w")
				g.State = from
				must(t, tx.InsertGrant(g))
			}
		}
		for _, from := range access.RequestStates {
			for _, to := range access.RequestStates {
				r := storetest.Request(fmt.Sprintf("%s-%s", from, to))
				r.State = from
				must(t, tx.InsertRequest(r))
			}
		}
		return nil
	}))
	db := sqlite.WriteDB(s)
	check := func(table, from, to string, allowed bool) {
		t.Helper()
		_, err := db.Exec("UPDATE "+table+" SET state = $1 WHERE id = $2", to, from+"-"+to)
		if (err == nil) != (allowed || from == to) {
			t.Errorf("%s: %s → %s: got %v, allowed %v", table, from, to, err, allowed)
		}
	}
	for _, from := range access.GrantStates {
		for _, to := range access.GrantStates {
			check("grants", string(from), string(to), from.CanMove(to))
		}
	}
	for _, from := range access.RequestStates {
		for _, to := range access.RequestStates {
			check("requests", string(from), string(to), from.CanMove(to))
		}
	}
	for _, q := range []string{"DELETE FROM grants", "DELETE FROM requests", "UPDATE grants SET state = 'open'"} {
		if _, err := db.Exec(q); err == nil {
			t.Errorf("%s was allowed", q)
		}
	}
	appendN(t, s, 1)
	for _, q := range []string{"DELETE FROM log", "UPDATE log SET actor_key = 'x'", "DELETE FROM log_hashes", "UPDATE log_hashes SET hash = zeroblob(32)"} {
		if _, err := db.Exec(q); err == nil {
			t.Errorf("%s was allowed", q)
		}
	}
}

// No query that sweeps use reads a whole table.
func TestHotQueriesUseIndexes(t *testing.T) {
	s := open(t, sqlite.Options{Path: sqlite.Memory})
	for name, q := range sqlite.HotQueries {
		args := make([]any, 12)
		for i := range args {
			args[i] = int64(1)
		}
		rows, err := sqlite.WriteDB(s).Query("EXPLAIN QUERY PLAN "+q, args[:strings.Count(q, "$")]...)
		must(t, err)
		for rows.Next() {
			var id, parent, unused int
			var detail string
			must(t, rows.Scan(&id, &parent, &unused, &detail))
			if strings.HasPrefix(detail, "SCAN") {
				t.Errorf("%s: %s", name, detail)
			}
		}
		must(t, rows.Err())
		_ = rows.Close()
	}
}

func TestFold(t *testing.T) {
	words := []string{"", "a", "A", "k", "K", "\u212a", "s", "ſ", "straße", "STRASSE", "Σ", "σ", "ς", "é", "É", "İ", "i", "ı", "web-01", "WEB-01"}
	for _, a := range words {
		for _, b := range words {
			if got, want := sqlite.Fold(a) == sqlite.Fold(b), strings.EqualFold(a, b); got != want {
				t.Errorf("%q and %q: folded equal %v, EqualFold %v", a, b, got, want)
			}
		}
	}
	if got := sqlite.Fold("/Subscriptions/K/S"); got != "/subscriptions/k/s" {
		t.Errorf("got %q", got)
	}
}

// A store in memory runs in a bubble of testing/synctest: hours pass at once, and several goroutines use it.
func TestSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: sqlite.Memory})
		must(t, err)
		start := time.Now()
		done := make(chan error)
		for range 3 {
			go func() {
				for range 50 {
					time.Sleep(10 * time.Minute)
					if err := s.Update(context.Background(), func(tx broker.Tx) error { _, err := tx.Append(audit.Entry{Actor: "a"}); return err }); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 3 {
			must(t, <-done)
		}
		if size(t, s) != 150 || time.Since(start) != 500*time.Minute {
			t.Errorf("%d entries in %s", size(t, s), time.Since(start))
		}
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			list, err := tx.Entries(broker.AuditFilter{Limit: 1})
			if err == nil && !list[0].At.Equal(time.Now()) { // undated entries get the clock's instant
				t.Errorf("the last entry is of %s, now is %s", list[0].At, time.Now())
			}
			return err
		}))
		must(t, s.Close())
	})
}

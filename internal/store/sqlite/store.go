// Package sqlite keeps the state of one installation in one SQLite file: requests, grants, protections and the audit log, changed
// together in serialised transactions that are on disk when Update returns.
//
// Trusted: the file system to keep what was synced, and the directory to be writable by the server's account alone. Not trusted:
// that the file is the one that was there yesterday (Store.Restored), whole, ours, or of this version, and that a caller moves a
// thing only where its state table allows it.
package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite", without cgo

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
)

//go:embed schema/*.sql
var schema embed.FS

// applicationID marks a file as Curfew's ("CRFW"), so that a database of some other program is not taken over.
const applicationID = 0x43524657

// Memory is the Path of a store that lives in this process alone and is gone with Close.
const Memory = ":memory:"

// Options of Open.
type Options struct {
	// Path of the database file; its directory must exist. Beside it stand Path-wal and Path-shm (SQLite's), Path.lock and
	// Path.head. Memory for none.
	Path string
	// Log gets what happens outside a caller's transaction, such as a head file that cannot be written. Nil discards it.
	Log *slog.Logger
	// Clock is the system's if nil. It dates entries that come without an instant, and paces the head file.
	Clock clock.Clock
	// BusyTimeout is how long Update waits for a lock that another program holds on the file. Zero: 5 s.
	BusyTimeout time.Duration
	// HeadEvery is the shortest time between two writes of the head file. Zero: 200 ms.
	HeadEvery time.Duration
	// Hooks are for tests.
	Hooks Hooks
}

// Hooks let tests crash and fault the store at chosen points. The zero value does nothing.
type Hooks struct {
	// BeforeCommit is called when a transaction has written all it wants, and AfterCommit when that is durable, before the caller
	// hears of it. A crash test ends the process in them.
	BeforeCommit, AfterCommit func()
	// Fault is asked before each operation ("begin", "read", "write", "commit") and its error, if any, is treated as the
	// driver's: see Fault.
	Fault func(op string) error
}

// Store implements broker.Store. It is safe for concurrent use.
//
// Under testing/synctest, Open and Close a Memory store inside the bubble. It then starts no goroutine that waits for anything
// but channels and timers of the bubble, and a transaction never waits for time: waiting for another's transaction does not block
// durably only while that one runs. Do not let fn of Update or View sleep.
type Store struct {
	opts   Options
	write  *sql.DB // one connection
	read   *sql.DB // the same as write for Memory
	stmts  map[*sql.DB]map[string]*sql.Stmt
	turn   chan struct{} // held by the one that uses the write connection
	origin string
	unlock func() error
	head   *headKeeper // nil for Memory

	closing  sync.Once
	closed   chan struct{}
	closeErr error
}

var _ broker.Store = (*Store)(nil)

// Open opens the database, creates it if the file does not exist, and brings its schema up to date. It refuses, with
// CodeUnavailable and words, a file that another process has open, that is no database, not Curfew's, damaged, or of a newer
// version of this program.
func Open(ctx context.Context, opts Options) (_ *Store, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if opts.Clock == nil {
		opts.Clock = clock.System{}
	}
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 5 * time.Second
	}
	if opts.HeadEvery == 0 {
		opts.HeadEvery = 200 * time.Millisecond
	}
	s := &Store{opts: opts, turn: make(chan struct{}, 1), closed: make(chan struct{}), unlock: func() error { return nil }}
	defer func() {
		if err != nil {
			_ = s.shut() // the first error is the one that matters
		}
	}()
	path := opts.Path
	if path == "" {
		return nil, access.Errorf(access.CodeInvalid, "the store has no path").WithHint("name the database file in the configuration")
	}
	if path != Memory {
		if path, err = realPath(path); err != nil {
			return nil, err
		}
		unlock, err := lockFile(path+".lock", path)
		if err != nil {
			return nil, err
		}
		s.unlock = unlock
		if err := checkHeader(path); err != nil {
			return nil, err
		}
		// SQLite would make the file, and those beside it, readable for everybody whom the umask lets. Where this fails it says why.
		if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			_ = f.Close()
		}
	}
	s.opts.Path = path
	if s.write, err = sql.Open("sqlite", dsn(path, map[string]string{"_txlock": "immediate"}, busyStep)); err != nil {
		return nil, unavailable(path, err)
	}
	s.write.SetMaxOpenConns(1)
	s.write.SetMaxIdleConns(1)
	if err := s.migrate(ctx); err != nil {
		return nil, err
	}
	s.read = s.write
	if path != Memory {
		if s.read, err = sql.Open("sqlite", dsn(path, nil, opts.BusyTimeout, "query_only(1)")); err != nil {
			return nil, unavailable(path, err)
		}
		s.read.SetMaxOpenConns(readers)
		s.read.SetMaxIdleConns(readers)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.install(ctx); err != nil {
		return nil, err
	}
	if path != Memory {
		if s.head, err = s.openHead(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

const (
	readers = 4
	// busyStep is how long SQLite itself waits for a lock; Update repeats it up to BusyTimeout and hears its context in between.
	busyStep = 250 * time.Millisecond
)

// dsn builds the driver's name of the database.
func dsn(path string, params map[string]string, busy time.Duration, pragmas ...string) string {
	// busy_timeout comes first: switching to WAL may itself have to wait.
	all := append([]string{fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}, pragmas...)
	return fileDSN(path, params, all...)
}

// fileDSN escapes every special character of the path.
func fileDSN(path string, params map[string]string, pragmas ...string) string {
	q := url.Values{"_dqs": {"0"}, "_pragma": pragmas}
	for k, v := range params {
		q.Set(k, v)
	}
	if path == Memory {
		return "file::memory:?" + q.Encode()
	}
	slashed := filepath.ToSlash(path)
	if filepath.VolumeName(path) != "" {
		slashed = "/" + slashed // file:/C:/…
	}
	return "file:" + (&url.URL{Path: slashed}).EscapedPath() + "?" + q.Encode()
}

// realPath resolves links, so that one file has one lock whatever it is called by.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", access.Errorf(access.CodeUnavailable, "the path %s of the database cannot be resolved", path).Wrap(err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", access.Errorf(access.CodeUnavailable, "the database %s cannot be reached", path).Wrap(err).
			WithHint("check the rights on its directory")
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", access.Errorf(access.CodeUnavailable, "the directory of the database %s cannot be reached", path).Wrap(err).
			WithHint("create it, writable by the account of the server alone")
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// checkHeader refuses what is no SQLite file before SQLite is asked, which would try to recover it with whatever journal lies
// beside it. (https://www.sqlite.org/fileformat.html#the_database_header)
func checkHeader(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return access.Errorf(access.CodeUnavailable, "the database %s cannot be read", path).Wrap(err).
			WithHint("check the rights on the file: it must be readable and writable by the account of the server")
	}
	defer f.Close()
	head := make([]byte, 16)
	n, err := io.ReadFull(f, head)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil // an empty file is an empty database
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return access.Errorf(access.CodeUnavailable, "the database %s cannot be read", path).Wrap(err).WithHint("is it a file, on a healthy disk?")
	}
	if string(head[:n]) != "SQLite format 3\x00" {
		return access.Errorf(access.CodeUnavailable, "%s is not a database", path).
			WithHint("name Curfew's database file, or one that does not exist yet; restore it from a backup if it was overwritten")
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	path := s.opts.Path
	var id, tables int64
	if err := s.write.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return unavailable(path, err)
	}
	if err := s.write.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master").Scan(&tables); err != nil {
		return unavailable(path, err)
	}
	if id != applicationID && tables > 0 {
		return access.Errorf(access.CodeUnavailable, "%s is a database of another program", path).
			WithHint("name Curfew's database file, or one that does not exist yet")
	}
	if id != applicationID {
		if _, err := s.write.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return unavailable(path, err)
		}
	}
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return access.Errorf(access.CodeInternal, "the schema is missing from the program").Wrap(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write, files, goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return unavailable(path, err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return unavailable(path, err)
	}
	if current > target {
		return access.Errorf(access.CodeUnavailable, "the database %s is from a newer version of Curfew: its schema is %d, this program knows %d",
			path, current, target).WithHint("start the newer version, or restore the backup that was made before the upgrade")
	}
	if _, err := p.Up(ctx); err != nil {
		return unavailable(path, fmt.Errorf("migrating the schema from %d to %d: %w", current, target, err))
	}
	return nil
}

// prepare prepares the hot statements. It comes before any transaction, which would hold the only connection for writing.
func (s *Store) prepare(ctx context.Context) error {
	s.stmts = map[*sql.DB]map[string]*sql.Stmt{}
	for _, db := range []*sql.DB{s.write, s.read} {
		if s.stmts[db] != nil {
			continue
		}
		s.stmts[db] = make(map[string]*sql.Stmt, len(hot))
		for _, q := range hot {
			st, err := db.PrepareContext(ctx, q) // closed with db
			if err != nil {
				return unavailable(s.opts.Path, err)
			}
			s.stmts[db][q] = st
		}
	}
	return nil
}

// install makes the row of the installation on first use, and reads it.
func (s *Store) install(ctx context.Context) error {
	return s.Update(ctx, func(b broker.Tx) error {
		t := b.(*tx)
		err := t.row(qInstallation).Scan(&s.origin, new(string), new(int64), new(int64))
		if !errors.Is(err, sql.ErrNoRows) {
			return t.driver(err)
		}
		s.origin = "curfew/audit/" + random()
		_, err = t.exec(qInsertInstallation, s.origin, random())
		return err
	})
}

func random() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// Close writes the head file and closes the database. It waits for a transaction that runs; those that come later fail. It may be
// repeated, and then returns what the first one did.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		s.turn <- struct{}{} // never given back
		s.closeErr = s.shut()
	})
	return s.closeErr
}

func (s *Store) shut() error {
	var errs []error
	if s.head != nil {
		errs = append(errs, s.head.close())
	}
	if s.read != nil && s.read != s.write {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	return errors.Join(append(errs, s.unlock())...)
}

// Update implements broker.Store. The context ends the wait for other writers; a transaction that has begun is short and runs to
// its end, so that a caller who hangs up does not decide whether it is stored.
func (s *Store) Update(ctx context.Context, fn func(broker.Tx) error) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	st, err := s.begin(ctx)
	if err != nil {
		return err
	}
	t := &tx{s: s, tx: st, prepared: s.stmts[s.write]}
	defer func() { // also when fn panics; after Commit it does nothing
		t.over = true
		_ = st.Rollback()
	}()
	if err := fn(t); err != nil {
		return err
	}
	if t.broken != nil { // fn swallowed it, and SQLite may have rolled back already
		return t.broken
	}
	if !t.wrote {
		return nil
	}
	if _, err := t.exec(qCountCommit); err != nil {
		return err
	}
	if s.opts.Hooks.BeforeCommit != nil {
		s.opts.Hooks.BeforeCommit()
	}
	if err := s.fault("commit"); err != nil {
		return t.driver(err)
	}
	if err := st.Commit(); err != nil {
		return t.driver(err)
	}
	if s.opts.Hooks.AfterCommit != nil {
		s.opts.Hooks.AfterCommit()
	}
	if s.head != nil {
		s.head.kick()
	}
	return nil
}

// View implements broker.Store.
func (s *Store) View(ctx context.Context, fn func(broker.Tx) error) error {
	if s.read == s.write {
		if err := s.take(ctx); err != nil {
			return err
		}
		defer s.give()
	}
	if err := s.fault("begin"); err != nil {
		return unavailable(s.opts.Path, err)
	}
	st, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s.contextOr(ctx, err)
	}
	t := &tx{s: s, tx: st, prepared: s.stmts[s.read], readOnly: true, ctx: ctx}
	defer func() {
		t.over = true
		_ = st.Rollback()
	}()
	return fn(t)
}

func (s *Store) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-s.closed:
		return access.Errorf(access.CodeUnavailable, "the store is closed").WithHint("the server is shutting down: try again when it is back")
	case <-ctx.Done():
		return access.Errorf(access.CodeUnavailable, "gave up waiting for the store, which others are writing to").Wrap(ctx.Err()).
			WithHint("try again")
	}
}

func (s *Store) give() { <-s.turn }

// begin starts a write transaction. It holds SQLite's write lock from the start (_txlock=immediate), so that what follows cannot
// find the database busy.
func (s *Store) begin(ctx context.Context) (*sql.Tx, error) {
	for waited := busyStep; ; waited += busyStep {
		if err := s.fault("begin"); err != nil {
			return nil, unavailable(s.opts.Path, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, s.contextOr(ctx, err)
		}
		st, err := s.write.BeginTx(context.WithoutCancel(ctx), nil)
		if err == nil {
			return st, nil
		}
		if !isBusy(err) || waited >= s.opts.BusyTimeout {
			return nil, unavailable(s.opts.Path, err)
		}
	}
}

func (s *Store) contextOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return access.Errorf(access.CodeUnavailable, "gave up waiting for the store").Wrap(ctx.Err()).WithHint("try again")
	}
	return unavailable(s.opts.Path, err)
}

func (s *Store) fault(op string) error {
	if s.opts.Hooks.Fault == nil {
		return nil
	}
	return s.opts.Hooks.Fault(op)
}

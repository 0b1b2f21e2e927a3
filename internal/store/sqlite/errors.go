package sqlite

import (
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/curfew-jit/curfew/internal/access"
)

// Fault is an error that the store treats as the driver's own with that result code (https://www.sqlite.org/rescode.html). It is
// for Hooks.Fault.
type Fault int

// Faults for tests.
const (
	FaultBusy    Fault = sqlite3.SQLITE_BUSY
	FaultFull    Fault = sqlite3.SQLITE_FULL
	FaultIO      Fault = sqlite3.SQLITE_IOERR_FSYNC
	FaultCorrupt Fault = sqlite3.SQLITE_CORRUPT
	FaultRead    Fault = sqlite3.SQLITE_READONLY
)

// Error implements error.
func (f Fault) Error() string { return fmt.Sprintf("injected fault: result code %d", int(f)) }

// Code returns the result code.
func (f Fault) Code() int { return int(f) }

// codeOf returns the primary result code, and the whole one. Errors are told apart by them alone: texts change with versions.
func codeOf(err error) (primary, extended int) {
	var e interface {
		error
		Code() int
	}
	if !errors.As(err, &e) {
		return 0, 0
	}
	return e.Code() & 0xff, e.Code()
}

func isBusy(err error) bool {
	code, _ := codeOf(err)
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}

// isUnique tells whether something of that key exists; isRefused whether a constraint of ours, such as the moves, forbids it.
func isUnique(err error) bool {
	_, code := codeOf(err)
	return code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}

func isRefused(err error) bool {
	_, code := codeOf(err)
	return code == sqlite3.SQLITE_CONSTRAINT_TRIGGER
}

func isConstraint(err error) bool {
	code, _ := codeOf(err)
	return code == sqlite3.SQLITE_CONSTRAINT
}

// unavailable says what, why and what next for an error that the driver gave. Errors that say it already stay as they are.
func unavailable(path string, err error) error {
	var known *access.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	why, hint := "failed", "see the server's log; curfew serve can be restarted at any time"
	switch code, _ := codeOf(err); code {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		why, hint = "is locked by another program", "end what has it open, such as a backup or a database tool, and try again"
	case sqlite3.SQLITE_FULL:
		why, hint = "cannot grow: the disk is full", "free space on its disk; nothing was lost, and nothing opens until then"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		why, hint = "cannot be written", "make the file and its directory writable for the account of the server, and nobody else"
	case sqlite3.SQLITE_CANTOPEN:
		why, hint = "cannot be opened", "check that the directory exists and that the account of the server may use it"
	case sqlite3.SQLITE_NOTADB:
		why, hint = "is not a database", "name Curfew's database file, or restore it from a backup"
	case sqlite3.SQLITE_CORRUPT:
		why, hint = "is damaged", "stop the server, keep a copy of the file, and restore it from a backup; curfew sweep shuts what is over without it"
	case sqlite3.SQLITE_IOERR:
		why, hint = "cannot be read or written: the disk reports an error", "check the disk and the system's log"
	case sqlite3.SQLITE_NOMEM:
		why, hint = "could not be used: memory ran out", "give the server more memory"
	}
	return access.Errorf(access.CodeUnavailable, "the database %s %s", path, why).Wrap(err).WithHint("%s", hint)
}

// inUse is the refusal of a database that another process has open.
func inUse(db string) error {
	return access.Errorf(access.CodeUnavailable, "the database %s is in use by another curfew process", db).
		WithHint("end the other server first; one database serves one server")
}

package sqlite

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"

	"github.com/curfew-jit/curfew/internal/access"
)

// lockFile takes the lock of the database at once or not at all; the system gives it back when the process ends.
func lockFile(path, db string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the lock file %s cannot be opened", path).Wrap(err).
			WithHint("create the directory of the database, writable for the account of the server alone")
	}
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if err != nil {
		_ = f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, inUse(db)
		}
		return nil, access.Errorf(access.CodeUnavailable, "the lock file %s cannot be locked", path).Wrap(err).
			WithHint("keep the database on a local disk")
	}
	return f.Close, nil
}

// syncDir does nothing: Windows does not sync directories, and orders the rename itself.
func syncDir(string) error { return nil }

//go:build unix

package sqlite

import (
	"errors"
	"os"
	"syscall"

	"github.com/curfew-jit/curfew/internal/access"
)

// lockFile takes the lock of the database at once or not at all. The kernel gives it back when the process ends, however it does,
// so that a killed server can be started again at once. The file stays: removing it would let two processes each lock "it".
func lockFile(path, db string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // Go opens with O_CLOEXEC: children do not inherit the lock
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the lock file %s cannot be opened", path).Wrap(err).
			WithHint("create the directory of the database, writable for the account of the server alone")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, inUse(db)
		}
		return nil, access.Errorf(access.CodeUnavailable, "the lock file %s cannot be locked", path).Wrap(err).
			WithHint("keep the database on a local disk")
	}
	return f.Close, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

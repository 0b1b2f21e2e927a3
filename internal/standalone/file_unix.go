//go:build unix

package standalone

import (
	"errors"
	"os"
	"syscall"

	"github.com/curfew-jit/curfew/internal/access"
)

// lockFile keeps a second run from writing the same undo file. The kernel gives it back when the process ends, however it does. It
// is a file of its own because the undo file is replaced with each write.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, unusable(path, err)
		}
		return nil, access.Errorf(access.CodeConflict, "another run of curfew is using this undo file").WithHint("wait until it has ended, then run this again")
	}
	return func() { _ = f.Close() }, nil
}

// syncDir makes a rename in the folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

//go:build unix

package demo

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/curfew-jit/curfew/internal/access"
)

// lock keeps a second simulator from writing to the same estate. The kernel gives it back when the process ends, however it does.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "azure.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the directory %s cannot be used: %v", dir, err).WithHint("name another one with --dir")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, access.Errorf(access.CodeConflict, "the directory %s is in use by another demo or simulator", dir).WithHint("end that one, or name another directory with --dir")
	}
	return func() { _ = f.Close() }, nil
}

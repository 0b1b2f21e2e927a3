//go:build unix

package fix

import (
	"os"
	"syscall"
)

// lockFile keeps a second run from the same undo file. The kernel gives it back with the file, also after a crash.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

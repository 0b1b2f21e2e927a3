//go:build unix

package collect

import (
	"os"
	"syscall"
)

// lockState keeps a second scan from appending to the same state. The kernel gives it back with the file.
func lockState(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

package fix

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile keeps a second run from the same undo file. Windows gives it back with the file, also after a crash. The byte that is locked
// lies far behind the end, because what is locked cannot be read.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
}

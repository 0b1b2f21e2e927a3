//go:build unix

package credential

import (
	"os"
	"syscall"

	"github.com/curfew-jit/curfew/internal/access"
)

// private refuses a file that is not its user's alone.
func private(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return access.Errorf(access.CodeDenied, "the session in %s cannot be looked at: %v", f.Name(), err)
	}
	if !st.Mode().IsRegular() {
		return access.Errorf(access.CodeDenied, "%s is no plain file", f.Name()).WithHint("remove it, and sign in again with: curfew login")
	}
	if p := st.Mode().Perm(); p&0o077 != 0 {
		return access.Errorf(access.CodeDenied, "the session in %s can be read or written by others (mode %#o), and is not used", f.Name(), p).
			WithHint("shut it with: chmod 600 '%s'; if others use this machine, end the session too: curfew logout", f.Name())
	}
	if own, ok := st.Sys().(*syscall.Stat_t); ok && int(own.Uid) != os.Geteuid() {
		return access.Errorf(access.CodeDenied, "the session in %s belongs to another account of this machine, and is not used", f.Name()).
			WithHint("remove it, and sign in again with: curfew login")
	}
	return nil
}

//go:build unix

package app

import (
	"os"
	"syscall"
)

// hangup is the signal that has the policy read again.
var hangup = []os.Signal{syscall.SIGHUP}

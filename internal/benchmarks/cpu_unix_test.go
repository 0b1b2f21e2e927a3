//go:build unix

package benchmarks_test

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// maxMB is the most memory that a process which has ended ever held. Linux counts what this process held when it started that one, too:
// benchmarks that ask keep small.
func maxMB(p *os.ProcessState) float64 {
	u, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return float64(u.Maxrss) / 1e6 // bytes there
	}
	return float64(u.Maxrss) * 1024 / 1e6
}

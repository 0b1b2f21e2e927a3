package benchmarks_test

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// machine is the processor time that everything on this machine has used; ok is false where that cannot be read. What remains of it
// after this process's own says how much of the machine a figure was taken on.
func machine() (used time.Duration, ok bool) {
	b, err := os.ReadFile("/proc/stat") // proc_stat(5): user nice system idle iowait irq softirq steal, in hundredths of a second
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, false
	}
	for i, s := range f[1:9] {
		if i == 3 || i == 4 { // idle, iowait
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, false
		}
		used += time.Duration(n) * 10 * time.Millisecond
	}
	return used, true
}

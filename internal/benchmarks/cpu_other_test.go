//go:build !unix

package benchmarks_test

import (
	"os"
	"time"
)

// cpu is not known here; the figures that need it are 0.
func cpu() time.Duration { return 0 }

// maxMB is not known here either.
func maxMB(*os.ProcessState) float64 { return 0 }

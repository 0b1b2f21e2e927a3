//go:build !unix

package benchmarks_test

import "time"

// cpu is not known here; the figures that need it are 0.
func cpu() time.Duration { return 0 }

package remedy_test

import (
	"testing"

	"github.com/curfew-jit/curfew/internal/scan/remedy"
)

// A scan of 100,000 machines may have as many failures: what one costs counts.
func BenchmarkFor(b *testing.B) {
	e := world(b)
	w := remedy.New(e)
	for _, name := range []string{"exposed", "jit-missing", "terminate-off"} {
		f := findings(e)[name]
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w.For(f)
			}
		})
	}
}

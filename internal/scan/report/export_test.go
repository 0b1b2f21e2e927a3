package report

import (
	"bufio"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Together is how many parts are one piece of work.
const Together = together

// Encode is encode.
func Encode(v any, prefix, indent string) ([]byte, error) { return encode(v, prefix, indent) }

// Parts is parts, of texts.
func Parts(w *bufio.Writer, n int, part func(i int) (string, error)) error {
	return parts(&out{w}, n, func(w *out, i int) error {
		s, err := part(i)
		w.put(s)
		return err
	})
}

// Finding is appendFinding.
func Finding(f *scan.Finding) ([]byte, error) {
	return appendFinding(nil, f, appendControls(nil, f.Compliance))
}

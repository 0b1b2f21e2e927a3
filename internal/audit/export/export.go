// Package export writes entries of the audit log for other systems: as JSON lines, which can be verified again, as CEF and as OCSF
// events. One entry is one line, always.
//
// It trusts nothing in an entry but its shape. Reasons, names and messages come from people: nothing of them ends a line, begins a
// field, or reorders what a reader sees. Each CEF and OCSF event carries the entry's index and Merkle leaf hash, by which it is tied to
// the log. The package is pure: no I/O but the reader or writer that it is given, no clock, no store; it holds one entry at a time.
package export

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/audit"
)

// Format names a form of an export. The zero value is none.
type Format string

// The formats.
const (
	JSONL Format = "jsonl" // the records themselves, one JSON object a line: audit verify --file reads it
	CEF   Format = "cef"   // ArcSight Common Event Format, version 0
	CEF1  Format = "cef1"  // the same, version 1: an IPv6 source stands in src
	OCSF  Format = "ocsf"  // OCSF 1.8.0 events, one JSON object a line
)

// Formats lists every format, in the order in which they are told.
var Formats = []Format{JSONL, CEF, CEF1, OCSF}

// Options say what stands in every event beside the entry.
type Options struct {
	Version string // of Curfew
	Origin  string // the name of the log, as its checkpoints say it; "" if it is not known
}

// Writer writes entries in one format.
type Writer struct {
	w     *bufio.Writer
	one   func(audit.Entry, []byte, string) ([]byte, error)
	count int64
}

// New returns a Writer. A format that does not exist is an error.
func New(w io.Writer, f Format, o Options) (*Writer, error) {
	out := &Writer{w: bufio.NewWriterSize(w, 64<<10)}
	switch f {
	case JSONL:
		out.one = func(_ audit.Entry, record []byte, _ string) ([]byte, error) { return line(record), nil }
	case CEF, CEF1:
		out.one = func(e audit.Entry, _ []byte, leaf string) ([]byte, error) { return cefLine(e, leaf, f == CEF1, o), nil }
	case OCSF:
		out.one = func(e audit.Entry, _ []byte, leaf string) ([]byte, error) { return ocsfLine(e, leaf, o) }
	default:
		names := make([]string, len(Formats))
		for i, f := range Formats {
			names[i] = string(f)
		}
		return nil, fmt.Errorf("no export format %q; there are %s", f, strings.Join(names, ", "))
	}
	return out, nil
}

// Write writes one entry as one line. An error is of the writer below, or says that the entry has no record.
func (w *Writer) Write(e audit.Entry) error {
	record, err := e.Record()
	if err != nil {
		return fmt.Errorf("writing entry %d of the audit log: %w", e.Index, err)
	}
	b, err := w.one(e, record, Leaf(record))
	if err != nil {
		return fmt.Errorf("writing entry %d of the audit log: %w", e.Index, err)
	}
	w.count++
	_, _ = w.w.Write(b) // bufio keeps the first error, and the next write returns it
	return w.w.WriteByte('\n')
}

// Flush writes what is buffered. It is called at the end, and may be repeated.
func (w *Writer) Flush() error { return w.w.Flush() }

// Count is the number of entries written.
func (w *Writer) Count() int64 { return w.count }

// Leaf is the hash of a record as a leaf of the log's Merkle tree (RFC 6962, 2.1: SHA-256 over a zero byte and the record), in
// hexadecimal.
func Leaf(record []byte) string {
	h := tlog.RecordHash(record)
	return hex.EncodeToString(h[:])
}

// list splits the value of a detail that holds several names.
func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return strings.TrimSpace(s) == "" })
}

package export

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/curfew-jit/curfew/internal/audit"
)

// longest bounds a line of an export: no entry comes near it.
const longest = 16 << 20

// Lines reads an export of JSON lines. It implements audit.Reader, and holds one line at a time.
//
// A line counts only if it is, byte for byte, what Writer makes of the entry that it says: with a key that stands twice, or one that
// is not known, two readers could see two different entries in a line whose hash is right. One that is not is handed out as damaged.
type Lines struct{ R io.Reader }

var _ audit.Reader = Lines{}

// Entries implements audit.Reader.
func (l Lines) Entries(ctx context.Context, fn func(audit.Stored) error) error {
	in := bufio.NewReaderSize(l.R, 64<<10)
	for n := int64(0); ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		text, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading line %d of the export: %w", n+1, err)
		}
		s := audit.Stored{Index: n}
		if e, record, err := parse(text); err != nil {
			s.Damaged = fmt.Errorf("line %d of the export is not as an export writes it: %w", n+1, err)
		} else {
			s.Index, s.Record = e.Index, record
		}
		if err := fn(s); err != nil {
			return err
		}
	}
}

// readLine returns the next line without its end; io.EOF after the last.
func readLine(in *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		text = append(text, part...)
		switch {
		case len(text) > longest:
			return nil, fmt.Errorf("it is longer than %d bytes", longest)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(text) > 0, err == nil:
			return bytes.TrimSuffix(text, []byte("\n")), nil
		default:
			return nil, err
		}
	}
}

func parse(text []byte) (e audit.Entry, record []byte, err error) {
	if err := json.Unmarshal(text, &e); err != nil {
		return e, nil, errors.New("it is not the JSON of an entry")
	}
	if record, err = e.Record(); err != nil {
		return e, nil, err
	}
	if !bytes.Equal(line(record), text) {
		return e, nil, errors.New("it holds more than the entry that it says, or says it in another way")
	}
	return e, record, nil
}

package fix

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

const recordVersion = 1

// maxRecord bounds what is read as an undo file.
const maxRecord = 256 << 20

func invalid(field, format, hint string, args ...any) error {
	e := access.Errorf(access.CodeInvalid, format, args...).WithHint("%s", hint)
	e.Field = field
	return e
}

// The kinds of entries.
const (
	kindRule    = "rule"    // a rule of a group: before or after is absent where it was added or removed
	kindEvents  = "events"  // scheduledEventsProfile of a set's model or a machine
	kindPolicy  = "policy"  // a machine in a just-in-time policy: Name is the machine; before is absent where it was not in it
	kindProtect = "protect" // machines that were protected
	kindMade    = "made"    // a group that was made: After lists the interfaces that it may be put on
)

// entry is one change, written down before it is sent. Before and After are texts of Azure's, byte for byte.
type entry struct {
	N        int       `json:"n"`
	At       time.Time `json:"at"`
	By       string    `json:"by,omitempty"`
	Kind     string    `json:"kind"`
	Resource string    `json:"resource"`
	Name     string    `json:"name,omitempty"`
	Before   string    `json:"before,omitempty"`
	After    string    `json:"after,omitempty"`
	Undone   int       `json:"undone,omitempty"` // this line says that entry N was undone, and is no change itself
}

type header struct {
	Note    string `json:"note"`
	Version int    `json:"curfew_fix_undo"`
}

const recordNote = "Undo file of curfew fix: what was changed, with the originals, one line each. Give it to curfew fix --undo-from."

// record is the undo file: lines that are only added, each on the disk before the change that it tells of is sent.
type record struct {
	path string
	by   string
	now  func() time.Time

	mu   sync.Mutex
	open bool
	n    int
	held *os.File // locked for this run, until release
}

// hold takes the undo file for this run alone.
func (r *record) hold(flags int) error {
	if r.held != nil {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_APPEND|flags, 0o600)
	if err != nil {
		return err
	}
	if err := lockFile(f); err != nil {
		e := access.Errorf(access.CodeConflict, "another run of curfew fix is using the undo file %s", r.path).WithHint("wait until it is done, or name another file")
		e.Field = "undo"
		return errors.Join(e, f.Close())
	}
	r.held, r.open = f, false
	return nil
}

// release gives the file back. The next entry takes it again.
func (r *record) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != nil {
		_ = r.held.Close() // each entry was synced
		r.held = nil
	}
}

func recordError(path string, err error) error {
	e := access.Errorf(access.CodeUnavailable, "the undo file %s cannot be written: %v", path, err).
		WithHint("what was not written down was not sent; name a file in a folder that you may write to, with --undo")
	e.Field = "undo"
	return e
}

// keep writes entries down, durably. Without a path it keeps nothing.
func (r *record) keep(es ...entry) error {
	if r.path == "" || len(es) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.keepLocked(es); err != nil {
		var busy *access.Error
		if errors.As(err, &busy) {
			return busy
		}
		return recordError(r.path, err)
	}
	return nil
}

func (r *record) keepLocked(es []entry) (err error) {
	var b bytes.Buffer
	if err := r.hold(os.O_CREATE); err != nil {
		return err
	}
	if !r.open {
		old, torn, err := readRecord(r.path)
		if st, serr := r.held.Stat(); serr == nil && st.Size() == 0 {
			err = fs.ErrNotExist // it was made just now
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			b.Write(line(header{recordNote, recordVersion}))
		case err != nil:
			return err
		}
		if torn {
			b.WriteByte('\n') // what a crash broke off was never sent
		}
		for _, e := range old {
			r.n = max(r.n, e.N)
		}
	}
	for i := range es {
		if es[i].Undone == 0 {
			r.n++
			es[i].N = r.n
		}
		es[i].At, es[i].By = r.now().UTC().Truncate(time.Second), r.by
		b.Write(line(es[i]))
	}
	if _, err := r.held.Write(b.Bytes()); err != nil {
		return err
	}
	if err := r.held.Sync(); err != nil {
		return err
	}
	if !r.open {
		if d, err := os.Open(filepath.Dir(r.path)); err == nil {
			_ = d.Sync() // where folders can be synced: the file's name must outlive a crash too
			_ = d.Close()
		}
	}
	r.open = true
	return nil
}

func line(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings, numbers and times alone
	return b.Bytes()
}

// readRecord reads all entries. A last line that was broken off is torn: its change was not sent.
func readRecord(path string) (es []entry, torn bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, false, err
	} else if !st.Mode().IsRegular() || st.Size() > maxRecord {
		return nil, false, errors.New("it is not a file, or too large for an undo file")
	}
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if n == 1 && len(text) == 0 {
				return nil, false, errors.New("it is empty")
			}
			return es, len(text) > 0, nil
		}
		if err != nil {
			return nil, false, err
		}
		if n == 1 {
			var h header
			if json.Unmarshal(text, &h) != nil || h.Version == 0 {
				return nil, false, errors.New("it is not an undo file of curfew fix")
			}
			if h.Version != recordVersion {
				return nil, false, fmt.Errorf("its form is %d, and this program knows %d", h.Version, recordVersion)
			}
			continue
		}
		var e entry
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if err := json.Unmarshal(text, &e); err != nil {
			if next, _ := in.Peek(1); len(next) > 0 { // a torn line that a later run ended
				continue
			}
			return nil, false, fmt.Errorf("line %d cannot be read: %w", n, err)
		}
		es = append(es, e)
	}
}

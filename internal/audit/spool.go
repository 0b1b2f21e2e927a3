package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// Spool keeps entries that could not be recorded, so that closing never waits for the log (P7): in memory, and in an append-only
// file of JSON lines that survives a crash. When even the file cannot be written it goes on in memory, and catches up with the
// file as soon as that can be written again. Safe for concurrent use; Add does not wait for Drain's callback.
//
// Each entry has a key, in Detail[SpoolKey]. Draining hands an entry out again when the process died after it was recorded and
// before the file was shortened; RecordSpooled recognises it.
type Spool struct {
	path     string
	draining sync.Mutex

	mu      sync.Mutex
	gen     string // random for each Open, so that no key is given twice
	seq     int64
	waiting []spooled
	saved   int // the first so many of waiting stand in the file
	f       *os.File
	offset  int64 // end of the last whole line
	stale   bool  // the file holds lines of entries that are recorded, because it could not be shortened
	unread  error // the file could not be read: it is left alone
}

// SpoolKey is the detail under which a spooled entry carries its key. It stays in the record, and tells which entries came late
// by way of the spool.
const SpoolKey = "spooled"

type spooled struct {
	Key   string `json:"key"`
	Entry Entry  `json:"entry"`
}

// OpenSpool opens the spool in the file at path, which need not exist; "" is a spool in memory alone. The spool is never nil:
// together with an error it works in memory alone, leaves the file untouched, and what waits in the file is not lost but not
// handed out either. A last line that a crash cut off is dropped: its Add never returned. Other lines that are not readable are
// kept aside in path.damaged, and reported as an error that does not keep the rest from being drained.
func OpenSpool(path string) (*Spool, error) {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	s := &Spool{path: path, gen: hex.EncodeToString(b)}
	if path == "" {
		return s, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		s.unread = err
		return s, fmt.Errorf("reading the spool of the audit log: %w", err)
	}
	damaged := 0
	for line := range bytes.Lines(content) {
		var e spooled
		whole := line[len(line)-1] == '\n'
		if err := json.Unmarshal(line, &e); err != nil || e.Key == "" {
			if whole {
				damaged++
			}
			continue
		}
		s.waiting = append(s.waiting, e)
	}
	if damaged > 0 {
		err = fmt.Errorf("%d lines of the spool %s are not readable; they are kept in %s.damaged", damaged, path, path)
		if werr := os.WriteFile(path+".damaged", content, 0o600); werr != nil {
			s.unread = werr
			return s, fmt.Errorf("%w, which cannot be written: %w", err, werr)
		}
	}
	// Written anew when it is not exactly the lines that wait; if that fails now, it is tried again with the next entry.
	s.saved, s.stale = len(s.waiting), damaged > 0 || len(content) > 0 && content[len(content)-1] != '\n'
	s.offset = int64(len(content))
	if s.stale {
		_ = s.rewriteLocked()
	}
	return s, err
}

// Add keeps an entry. It is kept whatever is returned: an error says that it is in memory alone for now, and how many are.
func (s *Spool) Add(e Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	key := s.gen + "-" + strconv.FormatInt(s.seq, 10)
	e.Late = true
	detail := maps.Clone(e.Detail)
	if detail == nil {
		detail = map[string]string{}
	}
	detail[SpoolKey] = key
	e.Detail = detail
	s.waiting = append(s.waiting, spooled{Key: key, Entry: e})
	if s.path == "" {
		return nil
	}
	if err := s.saveLocked(); err != nil {
		return fmt.Errorf("%d entries of the audit log wait in memory alone, because the spool %s cannot be written: %w", len(s.waiting)-s.saved, s.path, err)
	}
	return nil
}

// Len returns how many entries wait to be recorded.
func (s *Spool) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// Unsaved returns how many of them are in memory alone, and would be lost if the process died now.
func (s *Spool) Unsaved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) - s.saved
}

// drainBatch bounds what one transaction has to record.
const drainBatch = 200

// Drain hands all that waits, oldest first and in groups, to record, and forgets each group for which record returns nil. It
// stops at the first error and keeps the rest. Record should use RecordSpooled in its transaction. A returned error may also say
// that all was recorded but the file could not be shortened; RecordSpooled makes that harmless.
func (s *Spool) Drain(record func([]Entry) error) error {
	s.draining.Lock()
	defer s.draining.Unlock()
	for {
		s.mu.Lock()
		n := min(len(s.waiting), drainBatch)
		group := make([]Entry, n)
		for i, w := range s.waiting[:n] {
			group[i] = w.Entry
		}
		s.mu.Unlock()
		if n == 0 {
			return nil
		}
		if err := record(group); err != nil {
			return err
		}
		s.mu.Lock()
		s.waiting = append([]spooled(nil), s.waiting[n:]...)
		onFile := s.saved > 0
		s.saved = max(0, s.saved-n)
		s.stale = s.stale || onFile
		var err error
		if s.stale {
			err = s.rewriteLocked()
		}
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("shortening the spool %s: %w", s.path, err)
		}
	}
}

// Recorder is what recording needs of a transaction; broker.Tx has it.
type Recorder interface {
	Append(Entry) (Entry, error)
	Meta(key string) (string, error)
	SetMeta(key, value string) error
}

// RecordSpooled appends entries from Drain to the log, and remembers in the same transaction how far it got, so that each is
// recorded exactly once however often it is handed out.
func RecordSpooled(tx Recorder, entries []Entry) error {
	for _, e := range entries {
		gen, number, ok := strings.Cut(e.Detail[SpoolKey], "-")
		seq, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return fmt.Errorf("an entry of the spool has no key: %q", e.Detail[SpoolKey])
		}
		meta := "audit.spool." + gen
		v, err := tx.Meta(meta)
		if err != nil {
			return err
		}
		if v != "" {
			last, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return fmt.Errorf("reading how far the spool was recorded: %w", err)
			}
			if seq <= last {
				continue
			}
		}
		if _, err := tx.Append(e); err != nil {
			return err
		}
		if err := tx.SetMeta(meta, strconv.FormatInt(seq, 10)); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the file; what waits stays in it.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeLocked()
}

func (s *Spool) closeLocked() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

// saveLocked brings the file up to date with what waits.
func (s *Spool) saveLocked() error {
	if s.unread != nil {
		return s.unread
	}
	if s.stale {
		return s.rewriteLocked()
	}
	lines, err := encodeLines(s.waiting[s.saved:])
	if err != nil {
		return err
	}
	if s.f == nil {
		f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		s.f = f
		if s.offset == 0 {
			if err := syncDir(filepath.Dir(s.path)); err != nil {
				return errors.Join(err, s.closeLocked())
			}
		}
	}
	// At the end of the last whole line: a part that an earlier attempt left behind is overwritten.
	_, err = io.NewOffsetWriter(s.f, s.offset).Write(lines)
	if err == nil {
		err = s.f.Truncate(s.offset + int64(len(lines)))
	}
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// What is behind the offset is nobody's now; the handle is opened anew, because after a failed sync it proves nothing.
		return errors.Join(err, s.f.Truncate(s.offset), s.closeLocked())
	}
	s.offset += int64(len(lines))
	s.saved = len(s.waiting)
	return nil
}

// rewriteLocked replaces the file by what waits.
func (s *Spool) rewriteLocked() error {
	if s.unread != nil {
		return s.unread
	}
	lines, err := encodeLines(s.waiting)
	if err != nil {
		return err
	}
	_ = s.closeLocked() // it was synced line by line
	tmp := s.path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(lines)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return err
	}
	s.offset, s.saved, s.stale = int64(len(lines)), len(s.waiting), false
	return syncDir(filepath.Dir(s.path))
}

func encodeLines(list []spooled) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range list {
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // directories are not synced there
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

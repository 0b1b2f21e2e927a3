package collect

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// State keeps the pages of a scan in a file until the scan is done, so that one that was interrupted goes on after the last full page.
//
// The file holds what Azure answered, which is nobody's business: it is made readable for its owner alone. It begins with a line of
// JSON that names format, version, the question that was asked and when; then comes a record for each page: a line of JSON that says
// which page of which part it is, how long and what its checksum is, and the rows. Records are appended whole; one that an interruption
// cut short at the end is dropped. Anything else that is wrong is refused: a scan must not rest on it.
type State struct {
	path string
	age  time.Duration

	mu      sync.Mutex
	file    *os.File
	size    int64
	started time.Time
	kept    map[int]*keptPart
}

// keptPart is what is at hand of one part.
type keptPart struct {
	pages int
	next  string // token of the next page, "" after the last
	whole bool
	at    []span
}

type span struct {
	from, size int64
	sum        uint32
}

// StateAge is how old a state may be by default: the estate goes on changing, and a report of old and new pages mixed says less.
const StateAge = time.Hour

// NewState returns a state in a file that need not exist; the directory must. A state older than age is begun anew (0: StateAge). It
// is for one collection.
func NewState(path string, age time.Duration) *State {
	if age <= 0 {
		age = StateAge
	}
	return &State{path: path, age: age, kept: map[int]*keptPart{}}
}

const (
	stateFormat  = "curfew-scan"
	stateVersion = 1
	maxHeader    = 32 << 20 // of 10,000s of subscriptions
	maxRecord    = 1 << 30
)

type stateHeader struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	Question string    `json:"question"` // where, what and of which subscriptions, as text
	Started  time.Time `json:"started"`
	Parts    []part    `json:"parts"`
	Sum      uint32    `json:"sum"` // of this line with a sum of 0
}

type stateRecord struct {
	Part  int    `json:"part"`
	Page  int    `json:"page"` // from 0
	Next  string `json:"next"`
	Whole bool   `json:"whole,omitempty"`
	Size  int64  `json:"size"`
	Sum   uint32 `json:"sum"`  // of the rows
	Head  uint32 `json:"head"` // of this line with a head of 0
}

// stateError stops the scan: the state cannot be used or written.
type stateError struct{ error }

func (e *stateError) Unwrap() error { return e.error }

func (s *State) refuse(code access.Code, why string, err error) error {
	return &stateError{(&access.Error{Code: code, Message: fmt.Sprintf("the state of an interrupted scan in %s cannot be used: %s", s.path, why),
		Hint: fmt.Sprintf("begin anew by removing it: rm %s", s.path)}).Wrap(err)}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// question is what a state answers. Another cloud, other subscriptions or another query is another question.
func (r *run) question() string {
	if r.ViaARM {
		b, err := json.Marshal(map[string]any{"endpoint": r.Endpoint, "subscriptions": r.visible, "types": types, "via": "arm"})
		if err != nil {
			return "" // strings always encode
		}
		return string(b)
	}
	b, err := json.Marshal(map[string]any{"endpoint": r.Endpoint, "subscriptions": r.visible, "types": graphTypes, "query": query(graphTypes, false)})
	if err != nil {
		return "" // strings always encode
	}
	return string(b)
}

// open reads what an interrupted scan left; nil parts say that there is nothing of use, and that begin is next.
func (s *State) open(question string, now time.Time) ([]part, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.refuse(access.CodeUnavailable, "it cannot be opened", err)
	}
	fail := func(code access.Code, why string, err error) ([]part, error) {
		return nil, errors.Join(s.refuse(code, why, err), f.Close())
	}
	if err := lockState(f); err != nil {
		_ = f.Close() // nothing was written
		return nil, &stateError{access.Errorf(access.CodeConflict, "another scan is using the state %s", s.path).WithHint("wait for it, or name another state").Wrap(err)}
	}
	in := bufio.NewReaderSize(f, 1<<16)
	line, err := readLine(in, maxHeader)
	var h stateHeader
	if err != nil || json.Unmarshal(line, &h) != nil || h.Format != stateFormat {
		if err == io.EOF && len(line) == 0 { // interrupted before the first byte
			return nil, f.Close()
		}
		return fail(access.CodeInvalid, "it is not the state of a scan", err)
	}
	if h.Version != stateVersion {
		return fail(access.CodeInvalid, fmt.Sprintf("it is of version %d, and this is version %d", h.Version, stateVersion), nil)
	}
	want := h.Sum
	if h.Sum = 0; headSum(h) != want {
		return fail(access.CodeInvalid, "its first line is damaged", nil)
	}
	if age := now.Sub(h.Started); age > s.age || age < -time.Minute {
		return nil, f.Close() // begin writes over it: old pages are of no use to anybody
	}
	if h.Question != question {
		return fail(access.CodeConflict, "it is of a scan of other subscriptions, of another cloud or by another version", nil)
	}
	at := int64(len(line)) + 1
	for {
		line, err := readLine(in, 1<<20)
		if err == io.EOF { // the end, or a record that was cut off in its first line
			break
		}
		var rec stateRecord
		if err != nil || json.Unmarshal(line, &rec) != nil {
			return fail(access.CodeInvalid, fmt.Sprintf("it is damaged at byte %d", at), err)
		}
		want := rec.Head
		if rec.Head = 0; headSum(rec) != want || rec.Size < 0 || rec.Size > maxRecord || rec.Part < 0 || rec.Part >= len(h.Parts) {
			return fail(access.CodeInvalid, fmt.Sprintf("it is damaged at byte %d", at), nil)
		}
		body := at + int64(len(line)) + 1
		check := crc32.New(castagnoli)
		n, err := io.CopyN(check, in, rec.Size+1) // with the line's end, which is part of the sum
		if n < rec.Size+1 && errors.Is(err, io.EOF) {
			break // cut off in its rows
		}
		if err != nil || check.Sum32() != rec.Sum {
			return fail(access.CodeInvalid, fmt.Sprintf("the page at byte %d is damaged", at), err)
		}
		k := s.kept[rec.Part]
		if k == nil || rec.Page == 0 { // a first page takes the place of those that were given up
			k = &keptPart{}
			s.kept[rec.Part] = k
		}
		if rec.Page != k.pages || k.pages > 0 && k.next == "" {
			return fail(access.CodeInvalid, fmt.Sprintf("the page at byte %d does not follow the one before", at), nil)
		}
		k.pages, k.next, k.whole = k.pages+1, rec.Next, rec.Whole
		k.at = append(k.at, span{body, rec.Size, rec.Sum})
		at = body + rec.Size + 1
	}
	if err := f.Truncate(at); err != nil {
		return fail(access.CodeUnavailable, "it cannot be written", err)
	}
	s.file, s.size, s.started = f, at, h.Started
	return h.Parts, nil
}

func headSum(v any) uint32 {
	b, err := json.Marshal(v)
	if err != nil {
		return 0
	}
	return sum(b)
}

// readLine reads up to a line's end and leaves that out. io.EOF is a line without an end.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		b, err := in.ReadSlice('\n')
		line = append(line, b...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return line, err
		case len(line) > limit:
			return nil, errors.New("a line is too long")
		}
	}
}

// begin writes the header of a new state over whatever was there.
func (s *State) begin(question string, parts []part, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fail := func(err error) error {
		return &stateError{access.Errorf(access.CodeUnavailable, "the state of the scan cannot be kept in %s", s.path).Wrap(err).
			WithHint("name another file, or scan without one")}
	}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := lockState(f); err != nil {
		return errors.Join(fail(err), f.Close())
	}
	h := stateHeader{Format: stateFormat, Version: stateVersion, Question: question, Started: now.UTC().Truncate(time.Second), Parts: parts}
	h.Sum = headSum(h)
	line, err := json.Marshal(h)
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Truncate(0))
	}
	if err == nil {
		_, err = f.WriteAt(append(line, '\n'), 0)
	}
	if err != nil {
		return errors.Join(fail(err), f.Close())
	}
	s.file, s.size, s.started, s.kept = f, int64(len(line))+1, h.Started, map[int]*keptPart{}
	return nil
}

// of tells what is at hand of a part.
func (s *State) of(number int) keptPart {
	if s == nil {
		return keptPart{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kept[number]; k != nil {
		return *k
	}
	return keptPart{}
}

func (s *State) pages() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		n += k.pages
	}
	return n
}

// forget gives up what is at hand of a part.
func (s *State) forget(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, number)
}

// read hands over the pages of a part, in order, each an array of rows.
func (s *State) read(number int, f func(rows []byte) error) error {
	k := s.of(number)
	for _, at := range k.at {
		rows := make([]byte, at.size+1)
		if _, err := s.file.ReadAt(rows, at.from); err != nil {
			return s.refuse(access.CodeUnavailable, "it cannot be read", err)
		}
		if sum(rows) != at.sum || !json.Valid(rows[:at.size]) {
			return s.refuse(access.CodeInvalid, fmt.Sprintf("the page at byte %d is damaged", at.from), nil)
		}
		if err := f(rows[:at.size]); err != nil {
			return err
		}
	}
	return nil
}

// append keeps a page. The record is written at once; the system writes it to disk in its own time, and a page that did not get there
// is a page to read again.
func (s *State) append(number int, rows []json.RawMessage, next string, whole bool) error {
	if s == nil {
		return nil
	}
	var body bytes.Buffer
	body.WriteByte('[')
	for i, row := range rows {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(row)
	}
	body.WriteString("]\n")
	rec := stateRecord{Part: number, Next: next, Whole: whole, Size: int64(body.Len() - 1), Sum: sum(body.Bytes())}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[number]
	if k == nil {
		k = &keptPart{}
		s.kept[number] = k
	}
	rec.Page = k.pages
	rec.Head = headSum(rec)
	line, err := json.Marshal(rec)
	if err == nil {
		_, err = s.file.WriteAt(append(append(line, '\n'), body.Bytes()...), s.size)
	}
	if err != nil {
		return &stateError{access.Errorf(access.CodeUnavailable, "the state of the scan cannot be kept in %s", s.path).Wrap(err).
			WithHint("make room, name another file, or scan without one")}
	}
	k.at = append(k.at, span{s.size + int64(len(line)) + 1, rec.Size, rec.Sum})
	k.pages, k.next, k.whole = k.pages+1, next, whole
	s.size += int64(len(line)) + 1 + int64(body.Len())
	return nil
}

// close lets go of the file and leaves it for the next scan.
func (s *State) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close() // what was not written is read again
		s.file = nil
	}
}

// remove ends a state: the scan is done.
func (s *State) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = os.Remove(s.path) // one that stays is resumed or too old: both are harmless
	}
}

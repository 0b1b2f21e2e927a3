package audit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/audit"
)

func openSpool(t testing.TB, path string) *audit.Spool {
	t.Helper()
	s, err := audit.OpenSpool(path)
	must(t, err)
	return s
}

func add(t testing.TB, s *audit.Spool, messages ...string) {
	t.Helper()
	for _, m := range messages {
		must(t, s.Add(audit.Entry{At: time.Unix(1, 2).UTC(), Actor: "curfew", Message: m, Detail: map[string]string{"a": "b"}}))
	}
}

// ledger is a log that records with RecordSpooled; it may fail, and a failed group leaves nothing.
type ledger struct {
	messages []string
	meta     map[string]string
	fail     error
}

func (l *ledger) Append(e audit.Entry) (audit.Entry, error) {
	if !e.Late || e.Detail["a"] != "b" {
		return e, fmt.Errorf("entry %+v is not as it was, and late", e)
	}
	l.messages = append(l.messages, e.Message)
	return e, nil
}
func (l *ledger) Meta(k string) (string, error) { return l.meta[k], nil }
func (l *ledger) SetMeta(k, v string) error     { l.meta[k] = v; return nil }

func (l *ledger) record(es []audit.Entry) error {
	next := &ledger{messages: append([]string(nil), l.messages...), meta: map[string]string{}}
	for k, v := range l.meta {
		next.meta[k] = v
	}
	if err := audit.RecordSpooled(next, es); err != nil {
		return err
	}
	if l.fail != nil {
		return l.fail
	}
	l.messages, l.meta = next.messages, next.meta
	return nil
}

func want(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// P7: what is spooled survives the process, and is recorded in order.
func TestSpoolSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	s := openSpool(t, path)
	add(t, s, "1", "2")
	s = openSpool(t, path) // the first was killed: not closed
	add(t, s, "3")
	if s.Len() != 3 || s.Unsaved() != 0 {
		t.Errorf("%d wait, %d unsaved", s.Len(), s.Unsaved())
	}
	l := &ledger{fail: errors.New("no")}
	if err := s.Drain(l.record); !errors.Is(err, l.fail) || s.Len() != 3 {
		t.Errorf("got %v, %d wait", err, s.Len())
	}
	l.fail = nil
	must(t, s.Drain(l.record))
	want(t, l.messages, "1", "2", "3")
	if b, err := os.ReadFile(path); err != nil || len(b) != 0 || s.Len() != 0 {
		t.Errorf("left behind: %q, %v", b, err)
	}
	add(t, s, "4")
	must(t, s.Close())
	must(t, openSpool(t, path).Drain(l.record))
	want(t, l.messages, "1", "2", "3", "4")
}

// P7: a crash after the entries were recorded, and before the file was shortened, duplicates nothing.
func TestSpoolCrashBeforeShortening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	l := &ledger{}
	s := openSpool(t, path)
	add(t, s, "1", "2", "3")
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, s.Drain(l.record))
	must(t, os.WriteFile(path, before, 0o600))
	s = openSpool(t, path)
	add(t, s, "4")
	must(t, s.Drain(l.record))
	want(t, l.messages, "1", "2", "3", "4")
}

func TestSpoolTornAndDamagedLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	add(t, openSpool(t, path), "1", "2")
	whole, err := os.ReadFile(path)
	must(t, err)
	lines := strings.SplitAfter(string(whole), "\n")
	for cut := 0; cut <= len(lines[1]); cut++ { // a crash in the middle of the last line
		must(t, os.WriteFile(path, whole[:len(lines[0])+cut], 0o600))
		s := openSpool(t, path)
		add(t, s, "3")
		l := &ledger{}
		must(t, openSpool(t, path).Drain(l.record))
		if cut >= len(lines[1])-1 { // only its line feed is missing, or nothing
			want(t, l.messages, "1", "2", "3")
		} else {
			want(t, l.messages, "1", "3")
		}
	}
	must(t, os.WriteFile(path, []byte(lines[0]+"garbage\n"+lines[1]), 0o600))
	s, err := audit.OpenSpool(path)
	if err == nil || !strings.Contains(err.Error(), "1 lines") {
		t.Errorf("got %v", err)
	}
	l := &ledger{}
	must(t, s.Drain(l.record))
	want(t, l.messages, "1", "2")
	if b, err := os.ReadFile(path + ".damaged"); err != nil || !strings.Contains(string(b), "garbage") {
		t.Errorf("the damaged line is not kept: %q, %v", b, err)
	}
}

// P7: with no file to write to, it goes on in memory, says how many wait, and catches up when the file can be written.
func TestSpoolWithoutFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	s := openSpool(t, filepath.Join(dir, "spool"))
	for i := 1; i <= 3; i++ {
		err := s.Add(audit.Entry{Message: fmt.Sprint(i), Detail: map[string]string{"a": "b"}})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d entries", i)) {
			t.Errorf("got %v", err)
		}
	}
	if s.Len() != 3 || s.Unsaved() != 3 {
		t.Errorf("%d wait, %d unsaved", s.Len(), s.Unsaved())
	}
	must(t, os.Mkdir(dir, 0o700))
	add(t, s, "4")
	if s.Unsaved() != 0 {
		t.Errorf("%d unsaved", s.Unsaved())
	}
	l := &ledger{}
	must(t, openSpool(t, filepath.Join(dir, "spool")).Drain(l.record))
	want(t, l.messages, "1", "2", "3", "4")

	unreadable := t.TempDir() // a directory is no file
	s, err := audit.OpenSpool(unreadable)
	if err == nil || s == nil {
		t.Fatalf("got %v, %v", s, err)
	}
	if s.Add(audit.Entry{Message: "5", Detail: map[string]string{"a": "b"}}) == nil || s.Unsaved() != 1 {
		t.Error("nothing was said of an entry that is in memory alone")
	}
	must(t, s.Drain(l.record))
	want(t, l.messages, "1", "2", "3", "4", "5")
}

// P9: adding does not wait for a log that hangs.
func TestSpoolAddsWhileDraining(t *testing.T) {
	s := openSpool(t, filepath.Join(t.TempDir(), "spool"))
	add(t, s, "1")
	l := &ledger{}
	hang, hanging := make(chan struct{}), make(chan struct{})
	var once sync.Once
	done := make(chan error)
	go func() {
		done <- s.Drain(func(es []audit.Entry) error {
			once.Do(func() { close(hanging); <-hang })
			return l.record(es)
		})
	}()
	<-hanging
	add(t, s, "2", "3")
	close(hang)
	must(t, <-done)
	want(t, l.messages, "1", "2", "3")
}

// Random histories: what was added is recorded once and in order, except what was in memory alone when the process died.
func TestSpoolHistories(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n), "spool")
		must(t, os.Mkdir(filepath.Dir(path), 0o700))
		s := openSpool(t, path)
		l := &ledger{}
		var added []string
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(*rapid.T) {
				added = append(added, fmt.Sprint(len(added)))
				add(t, s, added[len(added)-1])
			},
			"drain": func(*rapid.T) { must(t, s.Drain(l.record)) },
			"drain, die before shortening": func(*rapid.T) {
				before, err := os.ReadFile(path)
				if err != nil {
					return
				}
				must(t, s.Drain(l.record))
				must(t, os.WriteFile(path, before, 0o600))
				s = openSpool(t, path)
			},
			"drain fails": func(*rapid.T) {
				l.fail = errors.New("no")
				_ = s.Drain(l.record)
				l.fail = nil
			},
			"die": func(*rapid.T) { s = openSpool(t, path) },
			"die in a line": func(rt *rapid.T) {
				f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
				must(t, err)
				_, err = f.WriteString(`{"key":"x-1","en`)
				must(t, errors.Join(err, f.Close()))
				s = openSpool(t, path)
			},
		})
		must(t, s.Drain(l.record))
		if len(added) != len(l.messages) || len(added) > 0 && !reflect.DeepEqual(added, l.messages) {
			rt.Fatalf("got %q, want %q", l.messages, added)
		}
		must(t, s.Close())
	})
}

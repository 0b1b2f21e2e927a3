package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a folder with a key, a file for checkpoints, and databases.
type place struct {
	t   testing.TB
	dir string
	key string
	pub note.Verifiers
}

func newPlace(t testing.TB) *place {
	p := &place{t: t, dir: t.TempDir()}
	p.newKey()
	return p
}

func (p *place) newKey() {
	p.t.Helper()
	private, key, err := audit.GenerateKey(audit.KeyName)
	must(p.t, err)
	p.key, p.pub = filepath.Join(p.dir, "audit.key"), note.VerifierList(key.Verifier)
	must(p.t, os.WriteFile(p.key, []byte(private+"\n"), 0o600))
}

func (p *place) file() string { return filepath.Join(p.dir, "log.checkpoints") }

func (p *place) open(name string) *sqlite.Store {
	p.t.Helper()
	s, err := sqlite.Open(p.t.Context(), sqlite.Options{Path: filepath.Join(p.dir, name), Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	must(p.t, err)
	p.t.Cleanup(func() { _ = s.Close() }) // closing twice does no harm
	return s
}

func grow(t testing.TB, s *sqlite.Store, n int, word string) {
	t.Helper()
	must(t, s.Update(t.Context(), func(tx broker.Tx) error {
		for i := range n {
			if _, err := tx.Append(audit.Entry{At: time.Unix(int64(i), 0), Actor: "ana", Action: "grant.open", Outcome: audit.Done, Message: word + fmt.Sprint(i)}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// notary compares, as a start does, and returns what it found.
func (p *place) notary(s *sqlite.Store) (*notary, string, *bytes.Buffer) {
	p.t.Helper()
	cfg, err := LoadSigning(p.key, p.file(), "test", time.Hour)
	must(p.t, err)
	var out bytes.Buffer
	n, err := newNotary(*cfg, s, clock.System{}, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
	must(p.t, err)
	why, err := n.compare(p.t.Context())
	must(p.t, err)
	n.hold(why)
	return n, why, &out
}

// sizes are those of the checkpoints in the file, each with its signature checked.
func (p *place) sizes() (out []int64) {
	p.t.Helper()
	b, err := os.ReadFile(p.file())
	must(p.t, err)
	msgs, _ := audit.SplitCheckpoints(b)
	for _, m := range msgs {
		c, err := audit.OpenCheckpoint(m, p.pub)
		must(p.t, err)
		out = append(out, c.Size)
	}
	return out
}

func wantSizes(t testing.TB, got []int64, want ...int64) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("checkpoints of sizes %v, want %v", got, want)
	}
}

// A log that goes on is signed as it grows, and fits at the next start; the same size is not signed twice.
func TestSigningGoesOn(t *testing.T) {
	p := newPlace(t)
	s := p.open("a.db")
	n, why, out := p.notary(s)
	if why != "" {
		t.Fatal(why)
	}
	must(t, n.sign(t.Context(), false))
	wantSizes(t, p.sizes()) // an empty log proves nothing
	for i := int64(3); i <= 9; i += 3 {
		grow(t, s, 3, "x")
		must(t, n.sign(t.Context(), false))
		must(t, n.sign(t.Context(), false))
	}
	wantSizes(t, p.sizes(), 3, 6, 9)
	must(t, s.Close())
	s = p.open("a.db")
	n, why, out = p.notary(s)
	if why != "" || out.Len() > 0 {
		t.Errorf("the same log: %q %s", why, out)
	}
	must(t, n.sign(t.Context(), false))
	wantSizes(t, p.sizes(), 3, 6, 9)
	c, err := s.Checkpoint(t.Context())
	must(t, err)
	text, unsigned, err := n.text(c)
	must(t, err)
	if got, err := audit.OpenCheckpoint([]byte(text), p.pub); err != nil || got != c || unsigned != "" {
		t.Errorf("served: %v %v %q", got, err, unsigned)
	}
}

// P7: a start tells a log that was cut off, rewritten, or is another one; nothing is signed until somebody accepts it, and from then on it
// is the right one.
func TestStartTellsAnotherLog(t *testing.T) {
	for name, c := range map[string]struct {
		other func(p *place, s *sqlite.Store) *sqlite.Store // what is there at the next start
		why   string
	}{
		"cut off": {func(p *place, s *sqlite.Store) *sqlite.Store {
			must(p.t, os.Rename(filepath.Join(p.dir, "backup.db"), filepath.Join(p.dir, "a.db")))
			must(p.t, os.Remove(filepath.Join(p.dir, "a.db.head"))) // the attacker knows of it
			return p.open("a.db")
		}, "has 4 entries, and had 9 when"},
		"rewritten": {func(p *place, s *sqlite.Store) *sqlite.Store {
			must(p.t, os.Rename(filepath.Join(p.dir, "backup.db"), filepath.Join(p.dir, "a.db")))
			must(p.t, os.Remove(filepath.Join(p.dir, "a.db.head")))
			s = p.open("a.db")
			grow(p.t, s, 7, "another")
			return s
		}, "the first 9 entries of its audit log are not those"},
		"another installation's": {func(p *place, s *sqlite.Store) *sqlite.Store {
			s = p.open("b.db")
			grow(p.t, s, 20, "x")
			return s
		}, "the newest signed checkpoint in"},
		"another key": {func(p *place, s *sqlite.Store) *sqlite.Store { p.newKey(); return p.open("a.db") }, "cannot be trusted: the checkpoint is signed by curfew/audit+"},
		"changed checkpoint": {func(p *place, s *sqlite.Store) *sqlite.Store {
			b, err := os.ReadFile(p.file())
			must(p.t, err)
			must(p.t, os.WriteFile(p.file(), []byte(strings.Replace(string(b), "\n9\n", "\n8\n", 1)), 0o600))
			return p.open("a.db")
		}, "was changed after it was signed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			s := p.open("a.db")
			grow(t, s, 4, "x")
			must(t, s.Close())
			b, err := os.ReadFile(filepath.Join(p.dir, "a.db"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(p.dir, "backup.db"), b, 0o600))
			s = p.open("a.db")
			grow(t, s, 5, "x")
			n, _, _ := p.notary(s)
			n.close()
			wantSizes(t, p.sizes(), 9)
			must(t, s.Close())
			for _, side := range []string{"-wal", "-shm"} {
				_ = os.Remove(filepath.Join(p.dir, "a.db"+side)) // they may be gone already
			}

			s = c.other(p, s)
			before, err := os.ReadFile(p.file())
			must(t, err)
			n, why, _ := p.notary(s)
			if !strings.Contains(why, c.why) {
				t.Fatalf("got %q, want %q", why, c.why)
			}
			grow(t, s, 1, "late")
			must(t, n.sign(t.Context(), false))
			n.close()
			if now, err := os.ReadFile(p.file()); err != nil || !bytes.Equal(now, before) {
				t.Errorf("something was signed: %s, %v", now, err)
			}
			cp, err := s.Checkpoint(t.Context())
			must(t, err)
			if text, unsigned, err := n.text(cp); err != nil || text != cp.String() || !strings.Contains(unsigned, c.why) {
				t.Errorf("served %q, %q, %v", text, unsigned, err)
			}
			// The next start finds the same.
			if _, again, _ := p.notary(s); again == "" {
				t.Error("the next start finds nothing")
			}
			must(t, n.accept(t.Context()))
			if _, why, _ = p.notary(s); why != "" {
				t.Errorf("after it was accepted: %s", why)
			}
		})
	}
}

// What cannot be accepted durably is not accepted.
func TestAcceptNeedsTheFile(t *testing.T) {
	p := newPlace(t)
	s := p.open("a.db")
	grow(t, s, 4, "x")
	n, _, _ := p.notary(s)
	n.hold("a doubt")
	n.File = filepath.Join(p.dir, "no", "such", "folder")
	if err := n.accept(t.Context()); access.CodeOf(err) != access.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	c, err := s.Checkpoint(t.Context())
	must(t, err)
	if _, unsigned, _ := n.text(c); unsigned == "" {
		t.Error("it signs all the same")
	}
}

// On the interval, and at the end; a file that cannot be written is told once, and written again when it can.
func TestSigningOnTheInterval(t *testing.T) {
	p := newPlace(t)
	s := p.open("a.db")
	grow(t, s, 1, "x")
	n, _, out := p.notary(s)
	log := &fixedLog{}
	log.at.Store(1)
	n.log = log
	good := n.File
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.run(ctx) }()
		synctest.Wait()
		log.at.Store(2)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		wantSizes(t, p.sizes(), 1)
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		wantSizes(t, p.sizes(), 1, 2)
		log.at.Store(3)
		n.mu.Lock()
		n.File = filepath.Join(p.dir, "no", "file")
		n.mu.Unlock()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		n.mu.Lock()
		n.File = good
		told := out.String() // it logs under its lock
		n.mu.Unlock()
		if strings.Count(told, "could be cut off unseen") != 1 {
			t.Errorf("told: %s", told)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		wantSizes(t, p.sizes(), 1, 2, 3)
		cancel()
		<-done
		log.at.Store(4)
		n.close()
		wantSizes(t, p.sizes(), 1, 2, 3, 4)
	})
}

// A server that was told to sign does not start without what it needs.
func TestSigningNeedsItsKey(t *testing.T) {
	p := newPlace(t)
	bad := filepath.Join(p.dir, "bad.key")
	must(t, os.WriteFile(bad, []byte("PRIVATE+KEY+curfew/audit+00000000+SECRETSECRET"), 0o600))
	for _, c := range []struct{ key, file, words string }{
		{filepath.Join(p.dir, "absent.key"), "", "cannot be read"},
		{p.dir, "", "cannot be read"},
		{bad, "", "holds no signing key"},
		{p.key, filepath.Join(p.dir, "no", "folder", "file"), "cannot be appended to"},
	} {
		_, err := LoadSigning(c.key, c.file, "test", 0)
		var e *access.Error
		if !errors.As(err, &e) || e.Code != access.CodeInvalid || !strings.Contains(e.Message, c.words) || strings.Contains(e.Error(), "SECRET") {
			t.Errorf("%s %s: got %v", c.key, c.file, err)
		}
	}
	s, err := LoadSigning(p.key, p.dir, "test", 0)
	if err != nil || s.File != filepath.Join(p.dir, "curfew-test.checkpoints") {
		t.Errorf("a folder: %+v, %v", s, err)
	}
}

// fixedLog is a log that stands at a size, without a store's own goroutines.
type fixedLog struct{ at atomic.Int64 }

func (l *fixedLog) Checkpoint(context.Context) (audit.Checkpoint, error) {
	return audit.Checkpoint{Origin: "curfew/audit/fixed", Size: l.at.Load(), Root: tlog.RecordHash([]byte(fmt.Sprint(l.at.Load())))}, nil
}

func (l *fixedLog) ProveConsistency(context.Context, int64, int64) (tlog.TreeProof, error) {
	return nil, errors.New("not asked for")
}

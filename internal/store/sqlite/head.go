package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
)

// The head file remembers, outside the database, how far it had come. A database that is behind its head was put back from a
// backup: it may say that access is granted which was revoked since. The head is written after commits are durable, at most every
// HeadEvery and at Close, so that it is never ahead of its own database, whatever crashes; being behind means nothing.
//
// Its text is the checkpoint of the log (C2SP tlog-checkpoint) with extension lines: the epoch, the number of commits, and, from when
// that is found until somebody accepts it, why the database is taken for a restored one. That must not depend on comparing again:
// closing goes on meanwhile, and takes the database past what the head remembers.

// headState is what a head file says.
type headState struct {
	checkpoint audit.Checkpoint
	epoch      string
	commits    int64
	restored   string // one line; "" if the database is the right one
}

const (
	epochLine    = "curfew-epoch "
	commitsLine  = "curfew-commits "
	restoredLine = "curfew-restored "
)

func (h headState) text() string {
	text := h.checkpoint.String() + epochLine + h.epoch + "\n" + commitsLine + strconv.FormatInt(h.commits, 10) + "\n"
	if h.restored != "" {
		text += restoredLine + strings.ReplaceAll(h.restored, "\n", " ") + "\n"
	}
	return text
}

func parseHead(b []byte) (h headState, err error) {
	if h.checkpoint, err = audit.ParseCheckpoint(b); err != nil {
		return h, err
	}
	lines := strings.Split(string(b), "\n")
	if n := len(lines); n < 6 || n > 7 || lines[n-1] != "" {
		return h, errors.New("it is not whole")
	}
	if len(lines) == 7 {
		reason, ok := strings.CutPrefix(lines[5], restoredLine)
		if !ok || reason == "" {
			return h, errors.New("its last line is not understood")
		}
		h.restored = reason
	}
	epoch, ok := strings.CutPrefix(lines[3], epochLine)
	commits, ok2 := strings.CutPrefix(lines[4], commitsLine)
	if !ok || !ok2 || epoch == "" {
		return h, errors.New("its epoch or its number of commits is missing")
	}
	h.epoch = epoch
	h.commits, err = strconv.ParseInt(commits, 10, 64)
	return h, err
}

// headKeeper writes the head file behind commits.
type headKeeper struct {
	s    *Store
	path string
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex // serialises writes of the file, and guards what follows
	last    headState  // as last written; last.restored is why the database is taken for a restored one
	failing bool       // the last write failed, and was logged
	known   bool       // there was a head when the database was opened
}

// openHead compares the head file with the database. The first head of a new database is on disk before anything is committed.
func (s *Store) openHead(ctx context.Context) (*headKeeper, error) {
	k := &headKeeper{s: s, path: s.opts.Path + ".head", wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	var now headState
	err := s.View(ctx, func(b broker.Tx) (err error) {
		t := b.(*tx)
		if now, err = t.head(); err != nil {
			return err
		}
		if k.last, err = t.compareHead(k.path, now); err == nil {
			_, serr := os.Stat(k.path)
			k.known = serr == nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := k.put(k.last); err != nil && k.known && k.last.restored == "" {
		k.note(err) // the head that is there is only older, which is safe; without room for one more, reading and closing go on
		k.last = headState{}
	} else if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the file %s cannot be written; without it a restored backup would not be noticed", k.path).
			Wrap(err).WithHint("make the directory of the database writable for the account of the server, and free space on its disk")
	}
	go k.run()
	return k, nil
}

// head returns what the head file of this state would say.
func (t *tx) head() (headState, error) {
	c, in, err := t.checkpoint()
	return headState{checkpoint: c, epoch: in.epoch, commits: in.commits}, err
}

// compareHead returns what the head file has to say from now on: the present state, or, where the database is behind the file or
// beside it, what the file said and why that does not fit.
func (t *tx) compareHead(path string, now headState) (headState, error) {
	no := func(h headState, why string, args ...any) (headState, error) {
		h.restored = fmt.Sprintf(why, args...)
		return h, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if now.checkpoint.Size == 0 {
			return now, nil
		}
		return no(now, "the file %s is missing, although the audit log has %d entries", path, now.checkpoint.Size)
	}
	var h headState
	if err == nil {
		h, err = parseHead(b)
	}
	if err != nil {
		return no(now, "the file %s cannot be read (%v)", path, err)
	}
	switch was := h.checkpoint; {
	case h.restored != "":
		return h, nil
	case was.Origin != now.checkpoint.Origin:
		return no(h, "this is the database of another installation")
	case now.checkpoint.Size < was.Size:
		return no(h, "its audit log has %d entries, and had %d before", now.checkpoint.Size, was.Size)
	case now.commits < h.commits:
		return no(h, "it is %d changes behind what it had seen before", h.commits-now.commits)
	case h.epoch != now.epoch:
		return no(h, "it is from before the last time that a restored database was accepted")
	default:
		then, err := audit.MakeCheckpoint(was.Origin, was.Size, hashes{t})
		if err != nil {
			return h, err
		}
		if then.Root != was.Root {
			return no(h, "the first %d entries of its audit log are not those that it had before", was.Size)
		}
		// The hashes may be there without the entries. Only the end is looked at here, where a log is cut off; the rest is for audit verify.
		var last int64
		if err := t.driver(t.row(qLastEntry).Scan(&last)); err != nil {
			return h, err
		}
		if last != now.checkpoint.Size-1 {
			return no(h, "its audit log counts %d entries, and the newest that is there is number %d", now.checkpoint.Size, last)
		}
	}
	return now, nil
}

// Restored tells that the database is not the one that was here last, but an older state of it or another one, and why: it was
// restored from a backup. Nothing may be opened until an admin has looked; see AcceptHead. The finding survives restarts.
func (s *Store) Restored() (reason string, restored bool) {
	if s.head == nil {
		return "", false
	}
	s.head.mu.Lock()
	defer s.head.mu.Unlock()
	return s.head.last.restored, s.head.last.restored != ""
}

// AcceptHead takes the database as it is for the right one from now on. It may be repeated. If it fails half-way, the database is
// still taken for restored.
func (s *Store) AcceptHead(ctx context.Context) error {
	if s.head == nil {
		return nil
	}
	if err := s.Update(ctx, func(b broker.Tx) error {
		_, err := b.(*tx).exec(qSetEpoch, random()) // the states before this one are told apart from now on, however far they go
		return err
	}); err != nil {
		return err
	}
	if err := s.head.write(true); err != nil {
		return access.Errorf(access.CodeUnavailable, "the file %s cannot be written, so the database is still taken for a restored one", s.head.path).
			Wrap(err).WithHint("free space on its disk, or check the rights on its directory, and try again")
	}
	return nil
}

// kick asks for the head to be written soon. It never waits.
func (k *headKeeper) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *headKeeper) run() {
	defer close(k.done)
	for {
		select {
		case <-k.wake:
		case <-k.stop:
			return
		}
		k.note(k.write(false))
		select {
		case <-(clock.System{}).After(k.s.opts.HeadEvery): // the pace of a file, not of the domain: a manual clock does not stop it
		case <-k.stop:
			return
		}
	}
}

// note logs the first of a row of failures. The next commit tries again; meanwhile the head is older, which is safe.
func (k *headKeeper) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil && !k.failing {
		k.s.opts.Log.Warn("the head file of the database cannot be written; a backup restored now might not be noticed", "file", k.path, "error", err)
	}
	k.failing = err != nil
}

func (k *headKeeper) close() error {
	close(k.stop)
	<-k.done
	return k.write(false)
}

// write brings the file up to date. While the database is taken for restored it stays as it is, unless accept is set.
func (k *headKeeper) write(accept bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last.restored != "" && !accept {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var now headState
	if err := k.s.View(ctx, func(b broker.Tx) (err error) {
		now, err = b.(*tx).head()
		return err
	}); err != nil {
		return err
	}
	if now == k.last && !accept {
		return nil
	}
	return k.put(now)
}

// put replaces the file atomically and durably.
func (k *headKeeper) put(h headState) error {
	if err := replaceFile(k.path, []byte(h.text())); err != nil {
		return err
	}
	k.last = h
	return nil
}

func replaceFile(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

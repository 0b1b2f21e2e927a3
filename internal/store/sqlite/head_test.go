package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// files of a database: what a backup of the whole would copy.
func snapshot(t *testing.T, path string, suffixes ...string) (restore func()) {
	t.Helper()
	saved := map[string][]byte{}
	for _, x := range suffixes {
		b, err := os.ReadFile(path + x)
		must(t, err)
		saved[path+x] = b
	}
	return func() {
		for p, b := range saved {
			must(t, os.WriteFile(p, b, 0o600))
		}
	}
}

func wantRestored(t *testing.T, s *sqlite.Store, words string) {
	t.Helper()
	reason, ok := s.Restored()
	if words == "" && ok {
		t.Errorf("false alarm: %s", reason)
	}
	if words != "" && (!ok || !strings.Contains(reason, words)) {
		t.Errorf("got %q, %v, want %q", reason, ok, words)
	}
}

func reopen(t *testing.T, s *sqlite.Store, path string, between func()) *sqlite.Store {
	t.Helper()
	must(t, s.Close())
	if between != nil {
		between()
	}
	return open(t, sqlite.Options{Path: path})
}

// A database that was put back from a backup is noticed, until somebody accepts it (P1: nothing opens meanwhile).
func TestRestoredBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	wantRestored(t, s, "")
	appendN(t, s, 3)
	s = reopen(t, s, path, nil)
	wantRestored(t, s, "")
	must(t, s.Close())
	backup := snapshot(t, path, "")
	s = open(t, sqlite.Options{Path: path})
	appendN(t, s, 2)

	s = reopen(t, s, path, backup)
	wantRestored(t, s, "has 3 entries, and had 5 before")
	appendN(t, s, 4) // closing goes on; it does not make the finding go away
	s = reopen(t, s, path, nil)
	wantRestored(t, s, "has 3 entries, and had 5 before")
	must(t, s.AcceptHead(t.Context()))
	wantRestored(t, s, "")
	appendN(t, s, 1)
	s = reopen(t, s, path, nil)
	wantRestored(t, s, "")

	// The old backup again, grown past everything that was seen: its epoch is an old one.
	must(t, s.Close())
	head := snapshot(t, path, ".head")
	backup()
	s = open(t, sqlite.Options{Path: path})
	appendN(t, s, 20)
	s = reopen(t, s, path, head) // as if it had grown elsewhere
	wantRestored(t, s, "from before the last time")
	must(t, s.AcceptHead(t.Context()))
	s = reopen(t, s, path, nil)
	wantRestored(t, s, "")
}

func TestRestoredOtherWays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	head := path + ".head"
	s := open(t, sqlite.Options{Path: path})
	appendN(t, s, 2)
	for _, c := range []struct {
		words string
		do    func()
	}{
		{"is missing", func() { must(t, os.Remove(head)) }},
		{"cannot be read", func() { must(t, os.WriteFile(head, []byte("x"), 0o600)) }},
		{"cannot be read", func() { // torn
			b, err := os.ReadFile(head)
			must(t, err)
			must(t, os.WriteFile(head, b[:len(b)-2], 0o600))
		}},
		{"another installation", func() {
			other := filepath.Join(t.TempDir(), "o.db")
			o := open(t, sqlite.Options{Path: other})
			appendN(t, o, 5)
			must(t, o.Close())
			b, err := os.ReadFile(other)
			must(t, err)
			must(t, os.WriteFile(path, b, 0o600))
		}},
	} {
		s = reopen(t, s, path, c.do)
		wantRestored(t, s, c.words)
		s = reopen(t, s, path, nil)
		wantRestored(t, s, c.words)
		must(t, s.AcceptHead(t.Context()))
		wantRestored(t, s, "")
		s = reopen(t, s, path, nil)
		wantRestored(t, s, "")
	}
	// Entries were cut off, and what counts them was left as it is. Once that was accepted, and the log has gone on, it is told no more.
	s = reopen(t, s, path, func() {
		db, err := sql.Open("sqlite", path)
		must(t, err)
		defer db.Close()
		sqlExec(t, db, "DROP TRIGGER log_stays; DELETE FROM log WHERE idx >= 3")
	})
	wantRestored(t, s, "counts 5 entries, and the newest that is there is number 2")
	must(t, s.AcceptHead(t.Context()))
	appendN(t, s, 1)
	s = reopen(t, s, path, nil)
	wantRestored(t, s, "")

	// It grew elsewhere, and by other entries.
	must(t, s.Close())
	backup := snapshot(t, path, "")
	s = open(t, sqlite.Options{Path: path})
	appendN(t, s, 1)
	must(t, s.Close())
	head2 := snapshot(t, path, ".head")
	backup()
	s = open(t, sqlite.Options{Path: path})
	must(t, s.Update(t.Context(), func(tx broker.Tx) error { _, err := tx.Append(entry(77)); return err }))
	s = reopen(t, s, path, head2)
	wantRestored(t, s, "not those that it had before")
	must(t, s.AcceptHead(t.Context()))

	// Changes that are not in the log count as well.
	must(t, s.Close())
	backup = snapshot(t, path, "")
	s = open(t, sqlite.Options{Path: path})
	must(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.SetMeta("k", "v") }))
	s = reopen(t, s, path, backup)
	wantRestored(t, s, "1 changes behind")
}

// A head that is behind is what a crash leaves: no alarm.
func TestHeadBehindIsNormal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	old := snapshot(t, path, ".head") // of the empty log
	appendN(t, s, 9)
	s = reopen(t, s, path, old)
	wantRestored(t, s, "")
}

// The head follows the commits without being closed, and at most every HeadEvery.
func TestHeadFollows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path, HeadEvery: 20 * time.Millisecond})
	for i := 1; i < 4; i++ {
		appendN(t, s, 1)
		want := fmt.Sprintf("\n%d\n", i)
		deadline := time.Now().Add(20 * time.Second)
		for {
			b, err := os.ReadFile(path + ".head")
			must(t, err)
			if strings.Contains(string(b), want) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the head is still %q, want size %d", b, i)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

const childEnv = "CURFEW_STORE_TEST_CHILD"

// A server must start on a full disk, to shut what is over: a head that is there and cannot be written anew is only older. Without
// any, a database that is older than it seems would never be noticed, and none is opened.
func TestNoRoomForHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	must(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.SetMeta("a", "1") }))
	must(t, s.Close())
	before, err := os.ReadFile(path + ".head")
	must(t, err)
	blocked := path + ".head.new" // what the new head is written to first
	must(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o700))

	s = open(t, sqlite.Options{Path: path, HeadEvery: time.Millisecond})
	wantRestored(t, s, "")
	must(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.SetMeta("a", "2") }))
	must(t, os.RemoveAll(blocked))
	must(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.SetMeta("a", "3") }))
	for range 1000 {
		if after, err := os.ReadFile(path + ".head"); err == nil && string(after) != string(before) {
			before = nil
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if before != nil {
		t.Error("the head is not written once there is room again")
	}
	must(t, s.Close())

	must(t, os.MkdirAll(filepath.Join(blocked, "x"), 0o700))
	must(t, os.Remove(path+".head"))
	_, err = sqlite.Open(t.Context(), sqlite.Options{Path: path})
	wantError(t, err, access.CodeUnavailable, "cannot be written")
}

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		child(mode, os.Getenv(childEnv+"_DB"))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// child appends entries until it is killed: mode is "before N", "after N" (at that commit, counted from the start), or "hold".
func child(mode, path string) {
	when, at, _ := strings.Cut(mode, " ")
	n, _ := strconv.Atoi(at)
	commits := 0
	die := func() {
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		select {} // until the signal arrives
	}
	hooks := sqlite.Hooks{
		BeforeCommit: func() {
			if commits++; when == "before" && commits == n {
				die()
			}
		},
		AfterCommit: func() {
			if when == "after" && commits == n {
				die()
			}
		},
	}
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path, Hooks: hooks})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("open")
	if when == "hold" {
		select {}
	}
	for i := 0; ; i++ {
		if err := s.Update(context.Background(), func(tx broker.Tx) error { _, err := tx.Append(entry(i)); return err }); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("stored")
	}
}

func startChild(t *testing.T, mode, path string) (cmd *exec.Cmd, lines *bufio.Scanner) {
	t.Helper()
	cmd = exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+mode, childEnv+"_DB="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewScanner(out)
}

// Killed at a commit: what the caller heard of is there, the log is whole, and there is no false alarm (P7, P8).
func TestKilledAtCommit(t *testing.T) {
	for _, mode := range []string{"before 1", "after 1", "before 2", "after 2", "before 5", "after 5"} {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "curfew.db")
			cmd, lines := startChild(t, mode, path)
			heard := int64(0)
			for lines.Scan() {
				switch lines.Text() {
				case "stored":
					heard++
				case "open":
				default:
					t.Fatal(lines.Text())
				}
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() == 3 {
				t.Fatalf("the child was not killed: %v", err)
			}
			s := open(t, sqlite.Options{Path: path})
			wantRestored(t, s, "")
			got := size(t, s)
			if strings.HasPrefix(mode, "before") && got != heard || strings.HasPrefix(mode, "after") && got != heard+1 && mode != "after 1" {
				t.Errorf("%d entries are stored, %d were confirmed", got, heard)
			}
			appendN(t, s, 3)
			must(t, s.Close())
			if rep := verify(t, path, nil); rep.Size != got+3 {
				t.Errorf("verified %d entries, want %d", rep.Size, got+3)
			}
		})
	}
}

// One database serves one process, refused at once; a killed one leaves nothing behind that would keep the next from starting (P2).
func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	cmd, lines := startChild(t, "hold", path)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatalf("the child says %q", lines.Text())
	}
	_, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	wantError(t, err, access.CodeUnavailable, "in use by another curfew process")
	link := filepath.Join(t.TempDir(), "link.db")
	must(t, os.Symlink(path, link))
	_, err = sqlite.Open(t.Context(), sqlite.Options{Path: link})
	wantError(t, err, access.CodeUnavailable, "in use by another curfew process")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s := open(t, sqlite.Options{Path: path})
	_, err = sqlite.Open(t.Context(), sqlite.Options{Path: path}) // in one process as well
	wantError(t, err, access.CodeUnavailable, "in use by another curfew process")
	appendN(t, s, 1)
}

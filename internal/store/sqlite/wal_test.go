package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// A backup put back beside the WAL that a killed server left: SQLite lays the newer changes over it. Whatever comes of that, it is
// the database as it was, or it is noticed; it is never an older state that passes for the right one.
func TestRestoredBesideAnOldWAL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "curfew.db")
	s := open(t, sqlite.Options{Path: path})
	appendN(t, s, 3)
	must(t, s.Close())
	backup := snapshot(t, path, "")

	cmd, lines := startChild(t, "after 7", path) // leaves a WAL
	heard := int64(3)
	for lines.Scan() {
		if lines.Text() == "stored" {
			heard++
		}
	}
	_ = cmd.Wait()
	backup()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		return // refused
	}
	defer s.Close()
	if reason, restored := s.Restored(); !restored {
		if got := size(t, s); got < heard {
			t.Errorf("%d entries, %d were confirmed, and nothing was noticed (%q)", got, heard, reason)
		}
		must(t, s.Close())
		verify(t, path, nil)
	}
}

package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

func TestSmoke(t *testing.T) {
	for _, path := range []string{sqlite.Memory, filepath.Join(t.TempDir(), "a b%3f?.db")} {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if err := s.Update(t.Context(), func(tx broker.Tx) error {
				e, err := tx.Append(audit.Entry{At: time.Now(), Actor: "a", Action: "b", Message: "m"})
				if e.Index != int64(i) {
					t.Errorf("got %d, want %d", e.Index, i)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		t.Log(s.Restored())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

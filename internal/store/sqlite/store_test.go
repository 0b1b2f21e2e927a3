package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

func open(t testing.TB, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestFile(t *testing.T) {
	storetest.Run(t, func(t *testing.T) broker.Store {
		return open(t, sqlite.Options{Path: filepath.Join(t.TempDir(), "curfew.db")})
	})
}

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) broker.Store { return open(t, sqlite.Options{Path: sqlite.Memory}) })
}

func long() bool { return os.Getenv("CURFEW_LONG") != "" }

package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// BenchmarkUpdateWithAudit is one change with its entry in one durable transaction: what every move of a grant costs.
func BenchmarkUpdateWithAudit(b *testing.B) {
	for _, path := range []string{"file", sqlite.Memory} {
		b.Run(path, func(b *testing.B) {
			opts := sqlite.Options{Path: path}
			if path == "file" {
				opts.Path = filepath.Join(b.TempDir(), "curfew.db")
			}
			s := open(b, opts)
			g := storetest.LiveGrant("g-1", "web-01", storetest.Epoch.Add(time.Hour), storetest.NSG("a"))
			must(b, s.Update(b.Context(), func(tx broker.Tx) error { return tx.InsertGrant(g) }))
			b.ResetTimer()
			for i := range b.N {
				must(b, s.Update(b.Context(), func(tx broker.Tx) error {
					g, err := tx.Grant("g-1")
					if err != nil {
						return err
					}
					if err := tx.UpdateGrant(g); err != nil {
						return err
					}
					_, err = tx.Append(entry(i))
					return err
				}))
			}
		})
	}
}

// fill stores 10,000 live grants on 500 NSGs, and finished ones.
func fill(b *testing.B, finished int) *sqlite.Store {
	b.Helper()
	s := open(b, sqlite.Options{Path: filepath.Join(b.TempDir(), "curfew.db")})
	for from := 0; from < finished; from += 10_000 {
		must(b, s.Update(b.Context(), func(tx broker.Tx) error {
			for i := from; i < from+10_000; i++ {
				g := storetest.LiveGrant(fmt.Sprint("f-", i), fmt.Sprint("vm-", i%2000), storetest.Epoch.Add(-time.Duration(i)*time.Second))
				g.State = access.Ended
				if err := tx.InsertGrant(g); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	must(b, s.Update(b.Context(), func(tx broker.Tx) error {
		for i := range 10_000 {
			g := storetest.LiveGrant(fmt.Sprint("g-", i), fmt.Sprint("vm-", i%2000), storetest.Epoch.Add(time.Duration(i)*time.Second), storetest.NSG(fmt.Sprint(i%500)))
			if err := tx.InsertGrant(g); err != nil {
				return err
			}
		}
		return nil
	}))
	return s
}

// BenchmarkSweep reads what a sweep reads, with 10,000 live grants on 500 NSGs. CURFEW_LONG puts a million finished ones beside them.
func BenchmarkSweep(b *testing.B) {
	finished := 20_000
	if long() {
		finished = 1_000_000
	}
	s := fill(b, finished)
	for name, read := range map[string]func(broker.Tx, int) (int, error){
		"LiveGrantsAt/20": func(tx broker.Tx, i int) (int, error) {
			l, err := tx.LiveGrantsAt(storetest.NSG(fmt.Sprint(i % 500)).ID)
			return len(l), err
		},
		"LiveGrants/10000": func(tx broker.Tx, _ int) (int, error) { l, err := tx.LiveGrants(); return len(l), err },
		"OverGrants/100": func(tx broker.Tx, _ int) (int, error) {
			l, err := tx.OverGrants(storetest.Epoch.Add(time.Hour), 100)
			return len(l), err
		},
		"Due": func(tx broker.Tx, _ int) (int, error) { d, err := tx.Due(); return min(1, d.Closing.Nanosecond()), err },
	} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				must(b, s.View(b.Context(), func(tx broker.Tx) error {
					n, err := read(tx, i)
					if n == 0 {
						b.Fatal("nothing was read")
					}
					return err
				}))
			}
		})
	}
}

// BenchmarkVerify verifies 200,000 entries offline, an operation each.
func BenchmarkVerify(b *testing.B) {
	const n = 200_000
	path := filepath.Join(b.TempDir(), "curfew.db")
	s := open(b, sqlite.Options{Path: path})
	var older []audit.Checkpoint
	for i := 0; i < n; i += 10_000 {
		must(b, s.Update(b.Context(), func(tx broker.Tx) error {
			for j := range 10_000 {
				if _, err := tx.Append(entry(i + j)); err != nil {
					return err
				}
			}
			c, err := tx.Checkpoint()
			older = append(older, c)
			return err
		}))
	}
	b.ResetTimer()
	for range b.N {
		if rep := verify(b, path, older); rep.Size != n {
			b.Fatalf("verified %d entries", rep.Size)
		}
	}
}

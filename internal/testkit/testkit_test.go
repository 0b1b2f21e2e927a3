package testkit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/testkit"
)

// recorder stands for a test that Require ends.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Fatal(args ...any)         { r.failed = fmt.Sprint(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.failed = fmt.Sprintf(f, a...); runtime.Goexit() }
func (r *recorder) Skip(args ...any)          { r.skipped = fmt.Sprint(args...); runtime.Goexit() }
func (r *recorder) Skipf(f string, a ...any)  { r.skipped = fmt.Sprintf(f, a...); runtime.Goexit() }

// run calls fn as a test of its own would be, and returns what became of it.
func run(t *testing.T, fn func(testing.TB)) *recorder {
	r, done := &recorder{TB: t}, make(chan struct{})
	go func() {
		defer close(done)
		fn(r)
	}()
	<-done
	return r
}

func TestRequire(t *testing.T) {
	for _, c := range []struct {
		required     string
		ok           bool
		skips, fails bool
	}{
		{"", true, false, false}, {"1", true, false, false}, {"", false, true, false}, {"1", false, false, true}, {"0", false, true, false},
	} {
		t.Setenv("CURFEW_REQUIRE", c.required)
		r := run(t, func(tb testing.TB) { testkit.Require(tb, "zsh", c.ok) })
		if (r.skipped != "") != c.skips || (r.failed != "") != c.fails {
			t.Errorf("CURFEW_REQUIRE=%q ok=%v: skipped %q, failed %q", c.required, c.ok, r.skipped, r.failed)
		}
		if !c.ok && !strings.Contains(r.skipped+r.failed, "zsh") {
			t.Errorf("the thing that is missing is not named: %q%q", r.skipped, r.failed)
		}
	}
}

func TestRequireLong(t *testing.T) {
	for _, c := range []struct{ required, long, want string }{
		{"", "1", ""}, {"1", "1", ""}, {"", "", "skip"}, {"1", "", "fail"},
	} {
		t.Setenv("CURFEW_REQUIRE", c.required)
		t.Setenv("CURFEW_LONG", c.long)
		r := run(t, testkit.RequireLong)
		got := ""
		if r.skipped != "" {
			got = "skip"
		}
		if r.failed != "" {
			got += "fail"
		}
		if got != c.want {
			t.Errorf("CURFEW_REQUIRE=%q CURFEW_LONG=%q: %q, want %q", c.required, c.long, got, c.want)
		}
	}
}

func TestShared(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CURFEW_SHARED", dir)
	t.Setenv("CURFEW_REQUIRE", "")
	got := ""
	r := run(t, func(tb testing.TB) { got = testkit.Shared(tb, "there") })
	if got != filepath.Join(dir, "there") || r.skipped != "" {
		t.Errorf("got %s, skipped %q", got, r.skipped)
	}
	r = run(t, func(tb testing.TB) { testkit.Shared(tb, "absent") })
	if !strings.Contains(r.skipped, "absent") {
		t.Errorf("skipped %q, want it to name what is absent", r.skipped)
	}
}

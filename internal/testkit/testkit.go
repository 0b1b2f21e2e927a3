// Package testkit is what tests of several packages share: how a check that needs something of its surroundings is skipped, and
// where the reference data lies. It is imported by tests alone.
package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// Required tells whether a skipped check counts as a failure: CURFEW_REQUIRE=1, which .ci/run sets after it has installed what
// the wider checks need.
func Required() bool { return os.Getenv("CURFEW_REQUIRE") == "1" }

// Long tells whether the long campaigns are asked for: CURFEW_LONG=1.
func Long() bool { return os.Getenv("CURFEW_LONG") == "1" }

// Require ends the test unless ok: what names the thing that is missing ("zsh", "the shared reference data"). The test is
// skipped under that name, or fails where every check is required. Every skip in the project goes through here, so that no
// check falls away unseen.
func Require(t testing.TB, what string, ok bool) {
	t.Helper()
	if ok {
		return
	}
	if Required() {
		t.Fatalf("%s is missing, and CURFEW_REQUIRE=1 lets no check be skipped", what)
	}
	t.Skipf("skipped: %s is missing", what)
}

// RequireLong ends the test unless the long campaigns are asked for. It does not count as a check that went missing: the
// campaigns are larger bounds of checks that always run, and .ci/run asks for them.
func RequireLong(t testing.TB) {
	t.Helper()
	if Long() {
		return
	}
	if Required() {
		t.Fatal("CURFEW_REQUIRE=1 without CURFEW_LONG=1: the long campaigns are among the required checks")
	}
	t.Skip("skipped: a long campaign; CURFEW_LONG=1 runs it")
}

// Count returns short, or long where the long campaigns are asked for.
func Count(short, long int) int {
	if Long() {
		return long
	}
	return short
}

// Shared returns the path of a file or folder of the shared reference data (specs and recordings of Azure): in the folder that
// CURFEW_SHARED names, or else in a folder called shared beside the checkout. A test without it ends by Require.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	root := os.Getenv("CURFEW_SHARED")
	if root == "" {
		root = filepath.Join(filepath.Dir(Module(t)), "shared")
	}
	path := filepath.Join(append([]string{root}, elem...)...)
	_, err := os.Stat(path)
	Require(t, "the shared reference data ("+filepath.Join(elem...)+"; CURFEW_SHARED names its folder)", err == nil)
	return path
}

// Module returns the folder of the module: the nearest one upwards from the test's that holds a go.mod.
func Module(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = up
	}
}

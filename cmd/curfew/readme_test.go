package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// The tour in the README is walked as it stands there.
func TestReadmeTour(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.Module(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	for _, command := range []string{"go run ./cmd/curfew demo\n", "go test ./...\n"} {
		if !strings.Contains(readme, command) {
			t.Errorf("the README lacks %s", command)
		}
	}
	var tour []string
	for _, m := range regexp.MustCompile("(?s)```tour\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		tour = append(tour, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	if len(tour) < 10 {
		t.Fatalf("the tour has only %d commands", len(tour))
	}
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	ids := map[string]string{}
	var out string
	for _, line := range tour {
		rest, ok := strings.CutPrefix(line, "go run ./cmd/curfew ")
		if !ok {
			t.Fatalf("not a command of ours: %s", line)
		}
		var args []string
		for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(rest, -1) {
			arg := m[1] + m[2]
			if id, ok := ids[arg]; ok {
				arg = id
			}
			args = append(args, arg)
		}
		out = r.must(0, args...)
		for name, pattern := range map[string]string{"REQUEST": `r-[0-9a-z]{10}`, "GRANT": `g-[0-9a-z]{10}`} {
			if id := regexp.MustCompile(pattern).FindString(out); id != "" {
				ids[name] = id
			}
		}
	}
	if !strings.Contains(out, "nothing was changed, removed or put in between") {
		t.Errorf("the tour does not end with a log that proves itself: %s", out)
	}
	if strings.Contains(r.estate(), "curfew-allow-") {
		t.Error("something stays open after the tour")
	}
}

// The scan in the README is what the demo's scan says, but for the instant.
func TestReadmeScan(t *testing.T) {
	file := filepath.Join(testkit.Module(t), "README.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- output: scan -->\n```\n(.*?)```")
	m := block.FindSubmatch(b)
	if m == nil {
		t.Fatal("the README holds no scan of the demo")
	}
	instant := regexp.MustCompile(`judged for \S+ \S+ UTC`)
	at := instant.FindString(string(m[1]))
	r := startDemo(t, clock.NewManual(now()), t.TempDir())
	code, out, errs := r.main(t.Context(), "", "--as", "admin", "scan")
	if code != 0 || at == "" {
		t.Fatalf("scan: exit code %d, %s", code, errs)
	}
	if want := instant.ReplaceAllLiteralString(out, at); want != string(m[1]) {
		if os.Getenv("CURFEW_UPDATE") != "" {
			b = []byte(strings.Replace(string(b), string(m[1]), want, 1))
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("the scan in the README is not what the demo's says; run this test with CURFEW_UPDATE=1. It says:\n%s", out)
	}
}

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

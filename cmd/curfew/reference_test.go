package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/testkit"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// docs/cli.md is the program's own help.
func TestReference(t *testing.T) {
	e := environment()
	e.Program = "curfew"
	want := cli.Reference(e)
	file := filepath.Join(testkit.Module(t), "docs", "cli.md")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/cli.md is not what the program says: go test ./cmd/curfew -run Reference -update")
	}
}

// Every command that stands in help has a sentence, and none has words that we do not use (as in the portal).
func TestWords(t *testing.T) {
	text := strings.ToLower(cli.Reference(environment()))
	for _, word := range []string{"please", "successfully", "oops", "sorry", "!"} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, word) && !strings.Contains(line, "${") {
				t.Errorf("%q in: %s", word, line)
			}
		}
	}
	for _, command := range []string{
		"demo",
		"sim",
		"serve",
		"vm list",
		"vm show",
		"protect",
		"unprotect",
		"request create",
		"request list",
		"request show",
		"request cancel",
		"request comment",
		"request remind",
		"approve",
		"deny",
		"delegation create",
		"delegation list",
		"delegation end",
		"break-glass",
		"break-glass list",
		"break-glass review",
		"grant list",
		"grant show",
		"grant extend",
		"grant close",
		"grant revoke",
		"ensure",
		"plan request",
		"plan protect",
		"ssh",
		"reconcile",
		"sweep",
		"audit list",
		"audit export",
		"audit verify",
		"audit keygen",
		"azure role",
		"azure check",
		"link slack",
		"link list",
		"link remove",
		"policy lint",
		"policy test",
		"policy who",
		"policy diff",
		"policy replay",
		"policy show",
		"policy schema",
		"notify list",
		"notify retry",
		"notify test",
		"scan",
		"fix",
		"login",
		"logout",
		"whoami",
		"account list",
		"account release",
		"session list",
		"session end",
		"token create",
		"token list",
		"token revoke",
		"completion",
		"version",
	} {
		if !strings.Contains(text, "\n## curfew "+command+"\n") {
			t.Errorf("the reference lacks %s", command)
		}
	}
	for _, missing := range []string{"rdp", "run", "doctor", "agent"} {
		if strings.Contains(text, "\n## curfew "+missing) {
			t.Errorf("%s stands in the reference and does not exist", missing)
		}
	}
}

// Package az_test drives the simulator with the Azure CLI, unmodified, as Debian 12 ships it. That package's default profile wants
// API versions that it does not contain, so the cloud is registered with the profile of 2020; docs/conformance.md has the details.
package az_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/conformance/simtest"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func TestMain(m *testing.M) { simtest.Main(m) }

// cli runs az with a configuration of its own and writes everything down.
type cli struct {
	t   *testing.T
	env []string
	dir string
	log *transcript
}

type transcript struct {
	mu   sync.Mutex
	file *os.File
}

func (x *transcript) add(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	fmt.Fprintf(x.file, format, args...)
}

func newCLI(t *testing.T, a *simtest.Azure, log *transcript) *cli {
	t.Helper()
	_, err := exec.LookPath("az")
	testkit.Require(t, "az (azure-cli)", err == nil)
	dir := t.TempDir()
	return &cli{t: t, dir: dir, log: log, env: append(os.Environ(), "AZURE_CONFIG_DIR="+dir, "REQUESTS_CA_BUNDLE="+a.CA, "AZURE_CORE_COLLECT_TELEMETRY=false",
		"AZURE_CORE_NO_COLOR=true", "AZURE_CORE_DISABLE_PROGRESS_BAR=true", "AZURE_CORE_SURVEY_MESSAGE=false", "AZURE_EXTENSION_USE_DYNAMIC_INSTALL=no",
		"AZURE_CORE_LOGIN_EXPERIENCE_V2=off", "PYTHONWARNINGS=ignore", "NO_PROXY=*", "no_proxy=*")}
}

func newTranscript(t *testing.T, name string) *transcript {
	t.Helper()
	f, err := os.Create(filepath.Join(simtest.Artefacts(t, name), "transcript.txt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &transcript{file: f}
}

var secrets = regexp.MustCompile(`("accessToken": ")[^"]*`)

// run returns stdout, stderr and the exit code.
func (c *cli) run(args ...string) (string, string, int) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), "az", args...)
	cmd.Env = c.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		c.t.Fatalf("az: %v", err)
	}
	c.log.add("$ az %s\n%s%s[exit %d, %s]\n\n", strings.Join(args, " "), secrets.ReplaceAllString(stdout.String(), "${1}…"), stderr.String(), code, time.Since(began).Round(10*time.Millisecond))
	return stdout.String(), stderr.String(), code
}

// ok requires exit code 0 and returns what was printed, decoded.
func (c *cli) ok(args ...string) any {
	c.t.Helper()
	out, errs, code := c.run(args...)
	if code != 0 {
		c.t.Fatalf("az %s: exit %d\n%s", strings.Join(args, " "), code, errs)
	}
	if strings.TrimSpace(out) == "" {
		return nil
	}
	var v any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("az %s printed %q", strings.Join(args, " "), out)
	}
	return v
}

// fails requires another exit code than 0, and a word on stderr.
func (c *cli) fails(code int, word string, args ...string) {
	c.t.Helper()
	_, errs, got := c.run(args...)
	if got != code || !strings.Contains(errs, word) {
		c.t.Errorf("az %s: exit %d, want %d and %q\n%s", strings.Join(args, " "), got, code, word, errs)
	}
}

// signIn registers the cloud and signs in as the simulator's service principal. The authority ends in /adfs: that kind of authority
// needs no discovery at Microsoft, and keeps its port.
func (c *cli) signIn(a *simtest.Azure) {
	c.t.Helper()
	c.ok("cloud", "register", "-n", "SimCloud", "--profile", "2020-09-01-hybrid", "--endpoint-resource-manager", a.URL, "--endpoint-active-directory", a.URL+"/adfs",
		"--endpoint-active-directory-resource-id", a.URL+"/", "--endpoint-active-directory-graph-resource-id", a.URL+"/graph")
	c.ok("cloud", "set", "-n", "SimCloud", "-o", "json")
	list := c.ok("login", "--service-principal", "-u", simtest.ClientID, "-p", simtest.ClientSecret, "--tenant", simtest.Tenant)
	if got := texts(list, "id"); len(got) != 2 || !has(got, simtest.Shop) || !has(got, simtest.Lab) {
		c.t.Fatalf("signed in to the subscriptions %v", got)
	}
	c.ok("account", "set", "-s", simtest.Shop)
}

// copied is the same sign-in with a configuration of its own, for commands that run beside others.
func (c *cli) copied(t *testing.T) *cli {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "az"), os.DirFS(c.dir)); err != nil {
		t.Fatal(err)
	}
	return &cli{t: t, dir: dir, log: c.log, env: append(c.env, "AZURE_CONFIG_DIR="+filepath.Join(dir, "az"))}
}

// at walks into decoded JSON: a string names a field, a number an element.
func at(v any, path ...any) any {
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}

// texts gathers a field of each element.
func texts(list any, field string) []string {
	var out []string
	elements, _ := list.([]any)
	for _, e := range elements {
		out = append(out, fmt.Sprint(at(e, field)))
	}
	return out
}

func has(list []string, want string) bool {
	for _, s := range list {
		if strings.EqualFold(s, want) {
			return true
		}
	}
	return false
}

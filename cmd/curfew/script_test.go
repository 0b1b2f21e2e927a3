package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"curfew": main, "ssh": fakeSSH, "choose": fakeBrowser})
}

// fakeSSH stands for the system's ssh: it shows its arguments and what it was sent, and ends with a code of its own.
func fakeSSH() {
	fmt.Printf("ssh %q\n", os.Args[1:])
	os.Exit(42)
}

// The scripts in test/ run the real main against a real demo or server. Besides testscript's own commands they have:
//
//	start NAME PROGRAM ARGS…   starts a server and waits until it is ready: its line of --json becomes variables NAME_server, NAME_azure…
//	end NAME [SIGNAL]         ends it (INT if none is named) and requires exit code 0, unless it was killed
//	exits CODE PROGRAM ARGS…   requires this exit code
//	eventually REGEXP PROGRAM ARGS…   repeats the program until it succeeds and its stdout matches
//	capture VAR REGEXP         puts the first group found in the last stdout into a variable
//	rules NSG [!]REGEXP        waits until a rule name (and what it says) in the simulator's NSG matches, or none does
//	outside NSG JSON           an outside hand edits an NSG
//	fault JSON                arms a fault of the simulator
//	slack …                    a stand-in for Slack: see slack_test.go
//	hostport VAR URL           puts the host and port of a URL into a variable
//	device ACCOUNT PROGRAM ARGS…   runs a sign-in by device code and chooses the account in a browser; what it printed is in device.out and device.err
//	mode MODE FILE            requires a file's permissions, in octal; where files have none it passes
//	issuer NAME JSON          changes an account at the issuer of a demo that was started
//
// The program choose is a browser: BROWSER=choose opens the issuer's page, chooses the account in CHOOSE, and writes the page at which it
// ended into the file PAGE.
func TestScript(t *testing.T) { testscript.Run(t, params("../../test", func(*testscript.Env) {})) }

// params are those of the scripts in a folder, with more of an environment.
func params(dir string, more func(*testscript.Env)) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(2 * time.Minute), // a command that waits for what never comes ends with its output shown
		Setup: func(e *testscript.Env) error {
			p := &processes{byName: map[string]*process{}}
			e.Values[processKey{}] = p
			e.Values[slackKey{}] = &slackState{}
			e.Defer(p.killAll)
			e.Setenv("TZ", "UTC")
			e.Setenv("NO_PROXY", "*")
			// Sign-ins are kept below the script's own folder, and no keyring of the machine is asked.
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("CURFEW_KEYRING", "off")
			e.Setenv("CURFEW_SERVER", "http://127.0.0.1:1") // where nothing is: a script that forgets to start a server must not find somebody's
			more(e)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "end": end, "exits": exits, "eventually": eventually, "capture": capture, "rules": rules, "outside": outside, "fault": fault, "hostport": hostport, "device": device, "issuer": atIssuer, "mode": mode,
			"slack": slack,
		},
	}
}

type processKey struct{}

type processes struct {
	mu     sync.Mutex
	byName map[string]*process
}

type process struct {
	cmd    *exec.Cmd
	stderr *safeBuffer
	done   chan struct{}
	err    error
}

func (p *processes) killAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.byName {
		_ = x.cmd.Process.Kill()
		<-x.done
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM ARGS...")
	}
	name, program := args[0], args[1]
	path := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		ts.Fatalf("no program %s", program)
	}
	cmd := exec.Command(path, args[2:]...)
	cmd.Args[0] = program
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "TMPDIR", "TMP", "SYSTEMROOT", "TZ"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	x := &process{cmd: cmd, stderr: &safeBuffer{}, done: make(chan struct{})}
	cmd.Stderr = x.stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ps := ts.Value(processKey{}).(*processes)
	ps.mu.Lock()
	ps.byName[name] = x
	ps.mu.Unlock()
	first := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		first <- line
		rest, _ := io.ReadAll(r)
		if strings.HasPrefix(line, "{") && len(bytes.TrimSpace(rest)) > 0 {
			fmt.Fprintf(x.stderr, "more than one line of --json: %s", rest)
		}
	})
	go func() {
		reading.Wait()
		x.err = cmd.Wait()
		close(x.done)
	}()
	served := regexp.MustCompile(`msg=serving url=(\S+)`)
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line := <-first:
			var values map[string]any
			if json.Unmarshal([]byte(line), &values) != nil {
				<-x.done
				ts.Fatalf("%s printed %q and ended: %v\n%s", name, line, x.err, x.stderr)
			}
			for k, v := range values {
				if s, ok := v.(string); ok {
					ts.Setenv(name+"_"+k, s)
					if k == "server" {
						ts.Setenv("CURFEW_SERVER", s)
					}
					if k == "azure" || k == "ca" {
						ts.Setenv("SIM_"+k, s)
					}
				}
			}
			return
		case <-time.After(10 * time.Millisecond):
			if m := served.FindStringSubmatch(x.stderr.String()); m != nil {
				ts.Setenv(name+"_server", m[1])
				ts.Setenv("CURFEW_SERVER", m[1])
				return
			}
		case <-deadline:
			ts.Fatalf("%s is not ready:\n%s", name, x.stderr)
		}
	}
}

func end(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: end NAME [SIGNAL]")
	}
	ps := ts.Value(processKey{}).(*processes)
	ps.mu.Lock()
	x := ps.byName[args[0]]
	delete(ps.byName, args[0])
	ps.mu.Unlock()
	if x == nil {
		ts.Fatalf("nothing called %s runs", args[0])
	}
	sig := os.Signal(os.Interrupt)
	if len(args) == 2 {
		sig = map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}[args[1]]
	}
	if runtime.GOOS == "windows" {
		sig = os.Kill
	}
	ts.Check(x.cmd.Process.Signal(sig))
	select {
	case <-x.done:
	case <-time.After(20 * time.Second):
		_ = x.cmd.Process.Kill()
		<-x.done
		ts.Fatalf("%s did not end:\n%s", args[0], x.stderr)
	}
	if sig != os.Kill && x.err != nil {
		ts.Fatalf("%s ended with %v:\n%s", args[0], x.err, x.stderr)
	}
	if s := x.stderr.String(); strings.Contains(s, "more than one line") || strings.Contains(s, "panic") {
		ts.Fatalf("%s: %s", args[0], s)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code: got %d, want %d", got, want)
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP PROGRAM ARGS...")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err = ts.Exec(args[1], args[2:]...)
		if err == nil && re.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: never matched %s (%v)", strings.Join(args[1:], " "), args[0], err)
		}
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	m := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("nothing matches %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

// simulator calls the control API of the simulator that was started last.
func simulator(ts *testscript.TestScript, method, path, body string) []byte {
	pem, err := os.ReadFile(ts.Getenv("SIM_ca"))
	ts.Check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	req, err := http.NewRequest(method, ts.Getenv("SIM_azure")+"/_sim/"+path, strings.NewReader(body))
	ts.Check(err)
	res, err := hc.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	ts.Check(err)
	if res.StatusCode != http.StatusOK {
		ts.Fatalf("%s %s: %s %s", method, path, res.Status, b)
	}
	return b
}

type group struct {
	ID         string `json:"id"`
	Type       string `json:"type"`
	Properties struct {
		SecurityRules []struct {
			Name       string          `json:"name"`
			Properties json.RawMessage `json:"properties"`
		} `json:"securityRules"`
	} `json:"properties"`
}

func findNSG(ts *testscript.TestScript, name string) group {
	var estate struct {
		Resources []json.RawMessage `json:"resources"`
	}
	ts.Check(json.Unmarshal(simulator(ts, "GET", "estate", ""), &estate))
	for _, raw := range estate.Resources {
		var n group
		if json.Unmarshal(raw, &n) == nil && strings.EqualFold(n.Type, "Microsoft.Network/networkSecurityGroups") && strings.HasSuffix(n.ID, "/"+name) {
			return n
		}
	}
	ts.Fatalf("the simulator has no NSG %s", name)
	return group{}
}

func rules(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: rules NSG [!]REGEXP")
	}
	pattern, none := strings.CutPrefix(args[1], "!")
	re, err := regexp.Compile(pattern)
	ts.Check(err)
	var seen string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		n, found := findNSG(ts, args[0]), false
		seen = ""
		for _, r := range n.Properties.SecurityRules {
			line := r.Name + " " + string(r.Properties)
			seen += line + "\n"
			found = found || re.MatchString(line)
		}
		if found != none {
			return
		}
	}
	ts.Fatalf("rules of %s never came to match %s:\n%s", args[0], args[1], seen)
}

func outside(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: outside NSG JSON")
	}
	simulator(ts, "POST", "resource?id="+findNSG(ts, args[0]).ID, args[1])
}

func fault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fault JSON")
	}
	simulator(ts, "POST", "faults", args[0])
}

func hostport(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hostport VAR URL")
	}
	_, rest, _ := strings.Cut(args[1], "://")
	ts.Setenv(args[0], rest)
}

func device(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: device ACCOUNT PROGRAM ARGS...")
	}
	path, err := exec.LookPath(filepath.Join(strings.Split(ts.Getenv("PATH"), string(filepath.ListSeparator))[0], args[1]))
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "CURFEW_KEYRING", "CURFEW_SERVER", "NO_PROXY", "TMPDIR", "SYSTEMROOT", "TZ"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	var out, errs safeBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	address := regexp.MustCompile(`or both in one: (\S+)\n`)
	chosen := false
	deadline := time.After(60 * time.Second)
	for {
		select {
		case err = <-done:
			ts.Check(os.WriteFile(ts.MkAbs("device.out"), []byte(out.String()), 0o600))
			ts.Check(os.WriteFile(ts.MkAbs("device.err"), []byte(errs.String()), 0o600))
			if err != nil {
				ts.Fatalf("%v: %v\n%s%s", args[1:], err, &out, &errs)
			}
			return
		case <-deadline:
			_ = cmd.Process.Kill()
			<-done
			ts.Fatalf("%v does not end:\n%s%s", args[1:], &out, &errs)
		case <-time.After(20 * time.Millisecond):
			if m := address.FindStringSubmatch(errs.String()); m != nil && !chosen {
				chosen = true
				if _, err := choose(context.Background(), m[1], args[0]); err != nil {
					ts.Logf("the browser: %v", err)
				}
			}
		}
	}
}

func atIssuer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: issuer NAME JSON")
	}
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := hc.Post(ts.Getenv(args[0]+"_issuer")+"/_dev/accounts", "application/json", strings.NewReader(args[1]))
	ts.Check(err)
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s %s", args[1], res.Status, b)
	}
}

func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	st, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(st.Mode().Perm()), 8); got != args[0] && runtime.GOOS != "windows" {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

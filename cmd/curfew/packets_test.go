//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/sim/packets"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// systemPath leads to the real ssh: the scripts' tests have one of their own before it.
const systemPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// TestDemoPackets: in a demo with real packets curfew ssh is on the machine, without a grant nobody is, and nothing is left behind.
func TestDemoPackets(t *testing.T) {
	err := packets.Missing()
	testkit.Require(t, fmt.Sprintf("what real packets need (%v)", err), err == nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	curfew := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Args[0] = "curfew" // the test's binary is the program under this name
		cmd.Env = append(os.Environ(), "CURFEW_PACKETS=", "TMPDIR="+t.TempDir(), systemPath)
		return cmd
	}
	demo := curfew("demo", "--packets", "--json", "--listen", "127.0.0.1:0", "--azure-listen", "127.0.0.1:0")
	var said bytes.Buffer
	demo.Stderr = &said
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	defer demo.Process.Kill() //nolint:errcheck // gone already, when all went well
	var ready struct{ Server, Dir, Packets string }
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &ready) != nil || ready.Packets == "" {
		t.Fatalf("the demo is not ready: %v, %q, %s", err, line, said.String())
	}
	run := func(args ...string) string {
		t.Helper()
		b, err := curfew(append([]string{"--server", ready.Server}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curfew %v: %v\n%s", args, err, b)
		}
		return string(b)
	}
	run("--as", "admin", "protect", "web-01", "--yes")
	ssh := curfew("--server", ready.Server, "--as", "requester", "ssh", "web-01", "--for", "30m", "--reason", "INC-4711", "--keep", "--", "hostname; exit 7")
	var stdout, stderr bytes.Buffer
	ssh.Stdout, ssh.Stderr = &stdout, &stderr
	if err := ssh.Start(); err != nil {
		t.Fatal(err)
	}
	asked := ""
	for range 100 {
		if asked = regexp.MustCompile(`r-[0-9a-z]+`).FindString(run("--as", "approver", "request", "list", "--state", "pending")); asked != "" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	run("--as", "approver", "approve", asked)
	_ = ssh.Wait()
	if got := ssh.ProcessState.ExitCode(); got != 7 || stdout.String() != "web-01\n" {
		t.Errorf("curfew ssh: exit code %d, stdout %q; want 7 and the machine's name\n%s", got, stdout.String(), stderr.String())
	}
	// Somebody else's address does not get in.
	peer, err := packets.Find(t.Context(), ready.Server, "")
	if err != nil || peer == nil {
		t.Fatalf("the run is not found: %v", err)
	}
	for _, p := range []struct {
		address string
		want    bool
	}{{"203.0.113.9", true}, {"203.0.113.10", false}} {
		a, err := peer.Client(t.Context(), netip.MustParseAddr(p.address))
		if err != nil {
			t.Fatal(err)
		}
		argv := append(append(append([]string{}, a.Prefix...), "ssh"), a.SSH...)
		argv = append(argv, "-o", "ConnectTimeout=1", "-l", a.User, "198.51.100.11", "true")
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), systemPath)
		b, err := cmd.CombinedOutput()
		if (err == nil) != p.want {
			t.Errorf("%s got in: %v, want %v\n%s", p.address, err == nil, p.want, b)
		}
	}
	if err := demo.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("the demo ended with %v\n%s", err, said.String())
	}
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		if strings.Contains(e.Name(), ready.Packets) {
			t.Errorf("the namespace %s was left behind", e.Name())
		}
	}
	for _, place := range []string{"/run/curfew-packets/" + ready.Packets, ready.Dir} {
		if _, err := os.Stat(place); err == nil {
			t.Errorf("%s was left behind", place)
		}
	}
}

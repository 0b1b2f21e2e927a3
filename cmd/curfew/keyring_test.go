//go:build linux

package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/curfew-jit/curfew/internal/testkit"
)

// Sign-ins with GNOME's keyring, on a message bus of the test's own: nothing of the user's is touched. Besides what scripts have, these have:
//
//	keyring freeze|thaw|end   stops the keyring so that it does not answer, lets it go on, ends it
func TestKeyring(t *testing.T) {
	bus, err := exec.LookPath("dbus-daemon")
	testkit.Require(t, "dbus-daemon", err == nil)
	ring, err := exec.LookPath("gnome-keyring-daemon")
	testkit.Require(t, "gnome-keyring-daemon", err == nil)
	dir, err := os.MkdirTemp("", "keyring") // short: the path of a socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // after the scripts, which run beside one another
	address := "unix:path=" + filepath.Join(dir, "bus")
	env := append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_RUNTIME_DIR="+dir, "DBUS_SESSION_BUS_ADDRESS="+address)

	start := func(stdin, wait string, argv ...string) *exec.Cmd {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGCONT)
			_ = cmd.Process.Kill()
			<-ended
		})
		if wait != "" {
			said := make(chan string, 1)
			go func() { s, _ := bufio.NewReader(out).ReadString('\n'); said <- s }()
			select {
			case s := <-said:
				if !strings.Contains(s, wait) {
					t.Fatalf("%s says %q", argv[0], s)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s does not start", argv[0])
			}
		}
		return cmd
	}
	start("", "unix:path", bus, "--session", "--nofork", "--nopidfile", "--address="+address, "--print-address=1")
	daemon := start("a password of the test's", "", ring, "--unlock", "--components=secrets", "--foreground")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ask := exec.Command("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.secrets")
		ask.Env = env
		if out, err := ask.CombinedOutput(); err == nil && strings.Contains(string(out), "true") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the keyring does not come: %v\n%s", err, out)
		}
	}
	p := params("../../test/keyring", func(e *testscript.Env) {
		e.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
		e.Setenv("CURFEW_KEYRING", "")
	})
	p.Cmds["keyring"] = func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: keyring freeze|thaw|end")
		}
		ts.Check(daemon.Process.Signal(map[string]os.Signal{"freeze": syscall.SIGSTOP, "thaw": syscall.SIGCONT, "end": syscall.SIGKILL}[args[0]]))
	}
	testscript.Run(t, p)
}

// Command curfew is just-in-time access for Azure virtual machines: server, command line, simulator and demo in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/credential"
)

// version is set by the linker for releases.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends the program as if it had not been caught.
	context.AfterFunc(ctx, stop)
	code := cli.Main(ctx, os.Args[1:], environment())
	stop()
	os.Exit(code)
}

func environment() cli.Env {
	e := cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, ReadFile: os.ReadFile,
		Clock: clock.System{}, Location: time.Local,
		Find: exec.LookPath, Run: run, Open: show, System: runtime.GOOS, Reach: reach,
		Program: program(), Version: buildVersion(),
	}
	e.Terminal.In = term.IsTerminal(int(os.Stdin.Fd()))
	e.Terminal.Out = term.IsTerminal(int(os.Stdout.Fd()))
	e.Terminal.Err = term.IsTerminal(int(os.Stderr.Fd()))
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && e.Terminal.Out {
		e.Width = w
	}
	e.WriteFile = replaceFile
	if dir, err := os.UserConfigDir(); err == nil {
		e.Sessions = &credential.Store{Dir: filepath.Join(dir, "curfew", "sessions"), Keyring: credential.System(os.Getenv), Clock: clock.System{},
			Waiting: func() {
				fmt.Fprintln(os.Stderr, "waiting for the system's keyring; is it locked? (CURFEW_KEYRING=off does without it)")
			}}
	}
	e.Local = local(e)
	return e
}

// show starts a program that has a window of its own, such as a browser, and returns once it runs. It outlives this one, hears no Ctrl-C
// that is meant for it, writes nothing between our lines, and gets no token of ours.
func show(argv []string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	apart(cmd)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CURFEW_TOKEN=") })
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select { // one that cannot show anything, as xdg-open without a browser, says so soon
	case err := <-ended:
		return err
	case <-time.After(time.Second):
		return nil
	}
}

// run runs a program on this process's streams. Signals of the terminal reach it by themselves, as it is in the same group; it is
// not killed with our context, because a session is its user's to end.
func run(_ context.Context, argv []string) (int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

func reach(ctx context.Context, address string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// program is how the user started us, so that the commands that we show can be pasted.
func program() string {
	name := os.Args[0]
	if exe, err := os.Executable(); err == nil && strings.Contains(filepath.ToSlash(exe), "/go-build") {
		return "go run ./cmd/curfew"
	}
	if strings.ContainsRune(name, filepath.Separator) {
		if found, err := exec.LookPath("curfew"); err == nil {
			if a, err := os.Stat(found); err == nil {
				if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
					return "curfew"
				}
			}
		}
		return name
	}
	return "curfew"
}

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += "+" + s.Value[:12]
			}
		}
	}
	return v
}

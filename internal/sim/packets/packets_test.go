//go:build linux

package packets_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/packets"
	"github.com/curfew-jit/curfew/internal/sim/packets/frame"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// require ends the test where no real packets can flow.
func require(t *testing.T) {
	t.Helper()
	err := packets.Missing()
	testkit.Require(t, fmt.Sprintf("what real packets need (%v)", err), err == nil)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// world starts the packets of a simulator, for two people.
func world(t *testing.T, s *sim.Sim, cfg packets.Config) *packets.World {
	t.Helper()
	require(t)
	cfg.Dir = t.TempDir()
	w, err := packets.Start(t.Context(), s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		run := w.Info().Run
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		for _, place := range []string{"/run/netns", "/run/curfew-packets", cfg.Dir} {
			entries, _ := os.ReadDir(place)
			for _, e := range entries {
				if strings.Contains(e.Name(), run) {
					t.Errorf("%s/%s was left behind", place, e.Name())
				}
			}
		}
	})
	return w
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// opens tells whether a TCP connection comes about, from a namespace; from is the source address, "" the usual one. Where one is
// expected it has more time, as the machine may be busy.
func opens(t *testing.T, namespace, from, to string, want bool) bool {
	t.Helper()
	d := net.Dialer{Timeout: 300 * time.Millisecond}
	if want {
		d.Timeout = 3 * time.Second
	}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr(from), 0))
	}
	err := frame.In(namespace, func() error {
		c, err := d.Dial("tcp", to)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	if err == nil {
		return true
	}
	if n, ok := err.(net.Error); !ok || !n.Timeout() {
		t.Errorf("from %s to %s: %v; want a connection, or silence", namespace, to, err)
	}
	return false
}

// session is an ssh that stays, with cat at the other end.
type session struct {
	t    *testing.T
	in   io.WriteCloser
	out  *bufio.Reader
	cmd  *exec.Cmd
	over chan struct{}
}

func ssh(t *testing.T, a packets.Access, args ...string) *exec.Cmd {
	argv := append(append(append([]string{}, a.Prefix...), "ssh"), a.SSH...)
	argv = append(append(argv, "-o", "BatchMode=yes", "-l", a.User), args...)
	return exec.CommandContext(t.Context(), argv[0], argv[1:]...)
}

func dial(t *testing.T, a packets.Access, host string) *session {
	t.Helper()
	s := &session{t: t, cmd: ssh(t, a, host, "cat"), over: make(chan struct{})}
	s.in = must(s.cmd.StdinPipe())(t)
	s.out = bufio.NewReader(must(s.cmd.StdoutPipe())(t))
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !s.lives(5 * time.Second) {
		t.Fatal("no session")
	}
	return s
}

// lives sends a line and waits until it comes back.
func (s *session) lives(within time.Duration) bool {
	got := make(chan bool, 1)
	go func() {
		if _, err := io.WriteString(s.in, "are you there\n"); err != nil {
			got <- false
			return
		}
		line, err := s.out.ReadString('\n')
		got <- err == nil && line == "are you there\n"
	}()
	select {
	case ok := <-got:
		return ok
	case <-time.After(within):
		return false
	}
}

// ends waits until ssh itself has ended.
func (s *session) ends(within time.Duration) bool {
	go func() { _ = s.cmd.Wait(); close(s.over) }()
	select {
	case <-s.over:
		return true
	case <-time.After(within):
		return false
	}
}

// running is a manual clock that runs by itself, and can be moved on.
func running(t *testing.T) *clock.Manual {
	c := clock.NewManual(time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		last := time.Now()
		for ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
			now := time.Now()
			c.Advance(now.Sub(last))
			last = now
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

const webNSG = "web-01-nsg"

func nsgID(t *testing.T, s *sim.Sim, name string) string {
	t.Helper()
	for _, id := range s.IDs("Microsoft.Network/networkSecurityGroups") {
		if strings.HasSuffix(id, "/"+name) {
			return id
		}
	}
	t.Fatalf("no NSG %s", name)
	return ""
}

// TestStory is the whole product with real packets: refused, asked, approved, in by ssh; neighbour and other source refused; the window
// over: new connections refused, the old session still there as on Azure; with flushConnection it is cut, and nobody else's.
func TestStory(t *testing.T) { // P1, P2, P4, P5
	require(t)
	c := running(t)
	st := brokertest.New(t, brokertest.Options{Clock: c})
	w := world(t, st.Sim, packets.Config{Clients: []netip.Addr{addr("203.0.113.9"), addr("203.0.113.10")}})
	ctx := t.Context()
	asker, other := must(w.Client(ctx, addr("203.0.113.9")))(t), must(w.Client(ctx, addr("203.0.113.10")))(t)
	neighbour := must(w.Inside(st.Machine("web-02").ID))(t)
	sync := func() {
		t.Helper()
		if err := w.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	const public, private = "198.51.100.11", "10.10.1.11"
	began := time.Now()
	reach := func(when string, asks, others, near bool) {
		t.Helper()
		t.Logf("%5.1f s: %s", time.Since(began).Seconds(), when)
		sync()
		tryAll(t, []way{{when + ": the asker", asker.Namespace, public + ":22", asks}, {when + ": the other source", other.Namespace, public + ":22", others},
			{when + ": the neighbour", neighbour.Namespace, private + ":22", near}})
	}
	reach("unprotected", true, true, true)
	st.Protect("web-01")
	reach("protected", false, false, false)

	req := st.Ask(brokertest.Requester, "web-01", time.Hour)
	reach("asked", false, false, false)
	req, err := st.Broker.Approve(ctx, brokertest.Approver, req.ID, broker.ReviewInput{})
	if err != nil {
		t.Fatal(err)
	}
	g := st.WaitGrant(req.Grants[0], func(g access.Grant) bool { return g.Ready() })
	reach("approved", true, false, false)
	if out, err := ssh(t, asker, public, "hostname; echo $SSH_CONNECTION").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "web-01\n203.0.113.9 ") || !strings.HasSuffix(string(out), " 10.10.1.11 22\n") {
		t.Errorf("ssh: %v, %q", err, out)
	}
	old := dial(t, asker, public)

	c.Advance(61 * time.Minute)
	st.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Ended })
	reach("over", false, false, false)
	if !old.lives(5 * time.Second) {
		t.Error("the open session did not survive the end of the window")
	}

	// The hard close is opted into on the group, and judges what is open there anew: the old session ends at once.
	if err := st.Sim.Edit(nsgID(t, st.Sim, webNSG), func(b map[string]any) error {
		b["properties"].(map[string]any)["flushConnection"] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	sync()
	if !old.ends(5 * time.Second) {
		t.Error("the session did not end when flushConnection was switched on")
	}
	g = st.Open(brokertest.Requester, "web-01", time.Hour)
	longer := st.Open(brokertest.Requester2, "web-01", 3*time.Hour)
	reach("approved for two", true, true, false)
	mine, others := dial(t, asker, public), dial(t, other, public)
	c.Advance(61 * time.Minute)
	st.WaitGrant(g.ID, func(g access.Grant) bool { return g.State == access.Ended })
	reach("over for one", false, true, false)
	if !mine.ends(5 * time.Second) {
		t.Error("the session was not cut at the end of its window")
	}
	if !others.lives(5 * time.Second) {
		t.Error("the session of somebody whose window is open was cut")
	}
	if n, err := w.HardClose(ctx, st.Machine("web-01").ID); err != nil || n != 1 {
		t.Errorf("hard close cut %d sessions (%v), want 1", n, err)
	}
	if !others.ends(5 * time.Second) {
		t.Error("the hard close left a session")
	}
	if s := st.Grant(longer.ID).State; s != access.Active {
		t.Errorf("the longer grant is %s", s)
	}
}

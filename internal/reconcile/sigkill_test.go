//go:build unix

package reconcile_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// fast runs faster than the machine's clock, the same in every process that knows when it began.
type fast struct {
	began time.Time
	scale int
}

func (f fast) Now() time.Time {
	return f.began.Add(time.Since(f.began) * time.Duration(f.scale)).UTC().Round(0)
}

func (f fast) After(d time.Duration) <-chan time.Time {
	return clock.System{}.After(d / time.Duration(f.scale))
}

// What a child process is told, in its environment.
const (
	envRole  = "CURFEW_CHILD" // story or check
	envDir   = "CURFEW_CHILD_DIR"
	envURL   = "CURFEW_CHILD_AZURE"
	envCA    = "CURFEW_CHILD_CA"
	envBegan = "CURFEW_CHILD_BEGAN"
	envPoint = "CURFEW_CHILD_POINT"
)

const scale = 120

// TestSIGKILL is the same as TestKilledAtEveryWrite with processes that really die, a database that nobody closed, and an Azure
// over real TLS: P1, P2, P4, P5, P7.
func TestSIGKILL(t *testing.T) {
	if os.Getenv(envRole) != "" {
		child(t)
		return
	}
	t.Parallel()
	points := 1
	if os.Getenv("CURFEW_LONG") != "" {
		points = 5
	}
	for range points {
		n := 2 + rand.IntN(75)
		t.Run(fmt.Sprintf("point-%03d", n), func(t *testing.T) {
			t.Parallel() // they mostly wait
			estate, _, _ := shared()
			az, err := sim.New(sim.Config{Estate: estate})
			if err != nil {
				t.Fatal(err)
			}
			srv, err := az.Serve(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			dir := t.TempDir()
			env := append(os.Environ(), envDir+"="+dir, envURL+"="+srv.URL, envCA+"="+string(srv.CAPEM), envBegan+"="+strconv.FormatInt(time.Now().UnixNano(), 10))
			run := func(role string, point int) (string, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSIGKILL$", "-test.timeout=110s")
				cmd.Env = append(env, envRole+"="+role, envPoint+"="+strconv.Itoa(point))
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			out, err := run("story", n)
			if err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the first process was to be killed at point %d: %v\n%s", n, err, out)
			}
			if out, err := run("check", 0); err != nil {
				t.Errorf("killed at point %d: %v\n%s", n, err, out)
			}
		})
	}
}

func child(t *testing.T) {
	nanos, err := strconv.ParseInt(os.Getenv(envBegan), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	point, err := strconv.Atoi(os.Getenv(envPoint))
	if err != nil {
		t.Fatal(err)
	}
	k := newKiller(point)
	die := func(what string) {
		if k.hit(what) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it comes at once
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(os.Getenv(envCA))) {
		t.Fatal("no certificate of the simulator")
	}
	base, err := url.Parse(os.Getenv(envURL))
	if err != nil {
		t.Fatal(err)
	}
	wire := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	rt := roundTripper(func(r *http.Request) (*http.Response, error) {
		write := r.Method == http.MethodPut || r.Method == http.MethodDelete
		if write {
			die("before " + r.Method)
		}
		r = r.Clone(r.Context())
		r.URL.Host = base.Host // the client knows Azure by a name; it lives here
		resp, err := wire.RoundTrip(r)
		if write {
			die("after " + r.Method)
		}
		return resp, err
	})
	s := bt.New(t, bt.Options{Remote: rt, Dir: os.Getenv(envDir), Clock: fast{time.Unix(0, nanos), scale},
		StoreHooks: sqlite.Hooks{BeforeCommit: func() { die("before a commit") }, AfterCommit: func() { die("after a commit") }}})
	if os.Getenv(envRole) == "story" {
		tell(s, k)
		t.Fatalf("the story came to its end after %d points", k.n)
	}
	check(t, s, nil, 4*time.Minute)
	if t.Failed() {
		t.Log("\n" + s.Dump())
	}
}

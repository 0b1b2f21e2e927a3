package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

var errDead = errors.New("the process is dead")

// killer ends a stack at its nth write point: before or after a write leaves for Azure, before or after a transaction commits.
// From then on nothing that the stack does reaches Azure or the store, as after SIGKILL; only what had left goes on.
type killer struct {
	mu    sync.Mutex
	at    int // the point to die at; 0: never
	n     int
	dead  bool
	point string
	died  chan struct{}
}

func newKiller(at int) *killer { return &killer{at: at, died: make(chan struct{})} }

// hit counts a point and tells whether the process is dead now.
func (k *killer) hit(point string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return true
	}
	k.n++
	if k.n == k.at {
		k.dead, k.point = true, point
		close(k.died)
	}
	return k.dead
}

func (k *killer) isDead() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead
}

func (k *killer) hooks() sqlite.Hooks {
	return sqlite.Hooks{
		AfterCommit: func() { k.hit("after a commit") },
		Fault: func(op string) error {
			if op == "commit" && k.hit("before a commit") || k.isDead() {
				return errDead
			}
			return nil
		},
	}
}

func (k *killer) transport(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		write := r.Method == http.MethodPut || r.Method == http.MethodDelete
		if write && k.hit("before "+r.Method) || k.isDead() {
			return nil, errDead
		}
		resp, err := next.RoundTrip(r)
		if write && k.hit("after "+r.Method) || k.isDead() {
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			return nil, errDead
		}
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// P1, P2, P3, P4, P5, P7, P9: the server dies at every point where it is about to write to Azure or to the store, and just after, on
// protecting, opening, extending, closing, and when time is over; another is started on what it left.
func TestKilledAtEveryWrite(t *testing.T) {
	step := 9
	if testing.Short() {
		step = 31
	}
	if os.Getenv("CURFEW_LONG") != "" {
		step = 1
	}
	for n := 1; ; n += step {
		reached, point := false, ""
		ok := t.Run(fmt.Sprintf("point-%03d", n), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { reached, point = killAt(t, dir, n) })
		})
		if !ok {
			t.Fatalf("killed %s", point)
		}
		if !reached {
			if n < 30 {
				t.Fatalf("the story has only %d write points: the test does not see them", n-1)
			}
			return
		}
	}
}

func killAt(t *testing.T, dir string, n int) (reached bool, point string) {
	estate, _, _ := shared()
	az, err := sim.New(sim.Config{Estate: estate, OperationDelay: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	k := newKiller(n)
	var told []access.GrantID // what a caller was told is open
	s, err := bt.Start(t, bt.Options{Sim: az, Dir: dir, Transport: k.transport, StoreHooks: k.hooks()})
	if err == nil {
		told = tell(s, k)
	} else if !k.isDead() {
		t.Fatal(err)
	}
	if !k.isDead() {
		k.mu.Lock()
		k.dead = true // the story went through: what remains is to shut down
		k.mu.Unlock()
	} else {
		reached, point = true, k.point
	}
	if s != nil {
		s.Stop()
	}
	time.Sleep(7 * time.Second) // what had left arrives meanwhile
	second := bt.New(t, bt.Options{Sim: az, Dir: dir})
	defer second.Stop()
	defer func() {
		if t.Failed() {
			t.Logf("killed at point %d, %s\n%s", n, point, second.Dump())
		}
	}()
	check(t, second, told, 40*time.Second)
	return reached, point
}

// tell runs the story until the process dies, and returns the grants that somebody was told are ready.
func tell(s *bt.Stack, k *killer) (told []access.GrantID) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-k.died:
			cancel()
		case <-ctx.Done():
		}
	}()
	b := s.Broker
	if _, err := b.Protect(ctx, bt.Admin, broker.ProtectInput{VMs: []string{"b"}}); err != nil {
		return nil
	}
	wait := func(id access.GrantID, ok func(access.Grant) bool) bool {
		for !k.isDead() {
			g, err := b.Grant(ctx, bt.Auditor, id)
			if err == nil && ok(g) && !k.isDead() {
				return true
			}
			s.Sleep(100 * time.Millisecond)
		}
		return false
	}
	open := func(c access.Caller, d time.Duration) (access.GrantID, bool) {
		r, err := b.CreateRequest(ctx, c, broker.RequestInput{VMs: []string{"b"}, Duration: d, Reason: "story"})
		if err != nil {
			return "", false
		}
		if r, err = b.Approve(ctx, bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
			return "", false
		}
		if !wait(r.Grants[0], func(g access.Grant) bool { return g.Ready() }) {
			return r.Grants[0], false
		}
		told = append(told, r.Grants[0])
		return r.Grants[0], true
	}
	first, ok := open(bt.Requester, 5*time.Minute)
	if !ok {
		return told
	}
	r, err := b.Extend(ctx, bt.Requester, first, 5*time.Minute, "", "")
	if err != nil {
		return told
	}
	if _, err := b.Approve(ctx, bt.Approver, r.ID, broker.ReviewInput{}); err != nil {
		return told
	}
	second, ok := open(bt.Requester2, 30*time.Minute)
	if !ok {
		return told
	}
	if _, err := b.Close(ctx, bt.Requester2, second); err != nil {
		return told
	}
	wait(second, func(g access.Grant) bool { return g.State.Final() })
	wait(first, func(g access.Grant) bool { return g.State.Final() })
	return told
}

// check asserts the promises after a restart, once settle has passed: a sweep's time, longer where a fast clock makes a busy machine slow.
func check(t *testing.T, s *bt.Stack, told []access.GrantID, settle time.Duration) {
	t.Helper()
	ctx := t.Context()
	groups := s.Machine("b").NSGs()
	if len(groups) != 2 {
		t.Fatalf("the path has the groups %v, want two", groups)
	}
	s.Sleep(settle)
	live := map[string]access.Grant{}
	all, _, err := s.Broker.Grants(ctx, bt.Auditor, broker.GrantFilter{})
	if err != nil {
		t.Fatal(err)
	}
	now := s.Clock.Now()
	for _, g := range all {
		if g.Wanted(now) {
			live[strings.TrimPrefix(string(g.ID), "g-")] = g
		} else if !g.State.Final() && g.State != access.Scheduled {
			t.Errorf("P2: after the restart and a sweep %s is %s with its end at %s (%s)", g.ID, g.State, g.EndsAt, g.LastError)
		}
		if g.State == access.Active && !g.Ready() {
			t.Errorf("P5: %s is active and not ready: %s", g.ID, g.NotReady)
		}
	}
	for _, group := range groups {
		seen := 0
		for _, name := range s.Allows(group) {
			id := strings.Split(name, "-")[3]
			if _, ok := live[id]; !ok {
				t.Errorf("P1, P2: %s stands, and no live grant wants it", name)
			}
			seen++
		}
		if seen != len(live) {
			t.Errorf("P5: %d grants are live and %d rules stand", len(live), seen)
		}
	}
	for _, id := range told {
		if _, err := s.Broker.Grant(ctx, bt.Auditor, id); err != nil {
			t.Errorf("P7: somebody was told of %s, and it is lost: %v", id, err)
		}
	}
	// P4: whatever was said to be protected is.
	s.Sleep(2 * time.Minute)
	for _, p := range s.Broker.Protections() {
		if p.State != access.ProtectionOn {
			t.Errorf("P4: %s is %s after two minutes: %s", p.VM.Name, p.State, p.Why)
		}
		for _, group := range groups {
			deny := false
			for name := range s.Rules(group) {
				deny = deny || strings.HasPrefix(name, "curfew-deny-")
			}
			if !deny {
				t.Errorf("P4: no deny stands in %s", group)
			}
		}
	}
	// Each end comes, and nothing is left.
	s.Sleep(35 * time.Minute)
	for _, group := range groups {
		if n := s.Allows(group); len(n) != 0 {
			t.Errorf("P2: after all ends there is %v", n)
		}
	}
	all, _, err = s.Broker.Grants(ctx, bt.Auditor, broker.GrantFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if !g.State.Final() {
			t.Errorf("P2: %s is still %s", g.ID, g.State)
		}
	}
	// P7: the log is whole, and tells of every opening that Azure saw.
	cp, err := s.Broker.Checkpoint(ctx, bt.Auditor)
	if err != nil {
		t.Fatal(err)
	}
	entries := s.Log()
	if int64(len(entries)) != cp.Size {
		t.Errorf("P7: %d entries, and the checkpoint says %d", len(entries), cp.Size)
	}
	intents := map[string]bool{}
	for _, e := range entries {
		if e.Action == "grant.open" && e.Outcome == audit.Intent {
			intents[strings.TrimPrefix(e.Object, "g-")] = true
		}
	}
	for _, g := range all {
		if !g.StartsAt.IsZero() && !intents[strings.TrimPrefix(string(g.ID), "g-")] {
			t.Errorf("P7: %s was opened without an entry", g.ID)
		}
	}
	// P3: a foreign rule is as it was.
	for group, rule := range map[string]string{"subnet-nsg": "allow-https", "b-nsg": "allow-ssh"} {
		for _, id := range groups {
			if _, ok := s.Rules(id)[rule]; !ok && strings.HasSuffix(id, group) {
				t.Errorf("P3: %s/%s is gone", group, rule)
			}
		}
	}
}

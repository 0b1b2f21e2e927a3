package reconcile_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
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

// lines is a log for tests.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// of counts the lines with some words.
func (l *lines) of(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), words)
}

// P1, P2, P7: a server that starts on a full disk shuts what is over and answers what it can; nothing opens, and the log says so now and
// then, not once a second. When there is room again, what happened is recorded.
func TestStartsOnFullDisk(t *testing.T) {
	estate, sub, nic := shared()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		az, err := sim.New(sim.Config{Estate: estate})
		if err != nil {
			t.Fatal(err)
		}
		s := bt.New(t, bt.Options{Sim: az, Dir: dir})
		s.Protect("b")
		over, going := s.Open(bt.Requester, "b", 10*time.Minute), s.Open(bt.Requester2, "b", time.Hour)
		waiting := s.Ask(bt.Both, "b", time.Hour)
		s.Stop()
		time.Sleep(15 * time.Minute)
		// A rule of ours, past its end, where the store knows of nothing.
		const stray = "curfew-allow-test01-zzzz-19991231T000000Z"
		if err := az.Edit(sub, func(m map[string]any) error {
			p := m["properties"].(map[string]any)
			p["securityRules"] = append(p["securityRules"].([]any), map[string]any{"name": stray, "properties": map[string]any{"priority": 310, "direction": "Inbound",
				"access": "Allow", "protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22", "sourceAddressPrefix": "*", "destinationAddressPrefix": "10.1.0.6"}})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		denies := denyText(s, sub) + denyText(s, nic)

		var full atomic.Bool
		full.Store(true)
		log := &lines{}
		s, err = bt.Start(t, bt.Options{Sim: az, Dir: dir, Log: slog.New(slog.NewTextHandler(log, nil)), StoreHooks: sqlite.Hooks{Fault: func(op string) error {
			if full.Load() && (op == "write" || op == "commit") {
				return sqlite.FaultFull
			}
			return nil
		}}})
		if err != nil {
			t.Fatalf("it does not start: %v", err)
		}
		defer s.Stop()
		time.Sleep(10 * time.Minute)
		for _, group := range []string{sub, nic} {
			if until := lets(s, group, over.Source.Addr().String()); !until.IsZero() {
				t.Errorf("P2: what is over stands in %s", group)
			}
			if until := lets(s, group, going.Source.Addr().String()); until.IsZero() {
				t.Errorf("P5: what is not over is gone from %s", group)
			}
			if _, ok := s.Rules(group)[stray]; ok {
				t.Errorf("P2: %s stands", stray)
			}
		}
		if d := denyText(s, sub) + denyText(s, nic); d != denies {
			t.Errorf("P7: the shields became %s, they were %s", d, denies)
		}
		if _, err := s.Broker.Approve(t.Context(), bt.Approver, waiting.ID, broker.ReviewInput{}); access.CodeOf(err) != access.CodeUnavailable || !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("approving: %v", err)
		}
		if _, err := s.Broker.Grant(t.Context(), bt.Requester2, going.ID); err != nil {
			t.Errorf("reading: %v", err)
		}
		if st := s.Broker.Status(t.Context()); st.Ready || !strings.Contains(st.Store, "disk is full") {
			t.Errorf("status: %+v", st)
		}
		for _, words := range []string{"what is over could not be stored", "what became of a place could not be stored", "msg=housekeeping"} {
			if n := log.of(words); n > 8 || words != "what became of a place could not be stored" && n == 0 {
				t.Errorf("in ten minutes %q is logged %d times", words, n)
			}
		}
		full.Store(false)
		time.Sleep(time.Minute)
		if g := s.Grant(over.ID); g.State != access.Ended || !s.Has("grant.shut", audit.Done, string(over.ID)) {
			t.Errorf("with room again: %s\n%s", g.State, s.Dump())
		}
		r, err := s.Broker.Approve(t.Context(), bt.Approver, waiting.ID, broker.ReviewInput{})
		if err != nil {
			t.Fatalf("with room again: %v", err)
		}
		s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
	})
}

package broker_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// P1, P2: what is decided while everything is read again is neither held up by the reading nor undone by it.
func TestReloadKeepsWhatIsDecidedMeanwhile(t *testing.T) {
	var reads atomic.Int32
	var meanwhile func()
	hooks := sqlite.Hooks{Fault: func(op string) error {
		// The first read of a transaction fixes what it sees; the second still sees that.
		if op == "read" && reads.Load() > 0 && reads.Add(-1) == 1 {
			reads.Store(0)
			meanwhile()
		}
		return nil
	}}
	s := bt.New(t, bt.Options{Dir: t.TempDir(), StoreHooks: hooks, SweepEvery: time.Hour})
	s.Protect("web-01")
	later := func(c access.Caller) access.Request {
		r, err := s.Broker.CreateRequest(t.Context(), c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, StartAt: time.Now().Add(time.Hour), Reason: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	approved := func(r access.Request) access.GrantID {
		r, err := s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Grants[0]
	}
	shut, stays := approved(later(bt.Requester)), approved(later(bt.Requester2))
	r := later(bt.Both)
	var made access.GrantID
	met := false
	meanwhile = func() {
		met = true
		if _, err := s.Broker.Close(t.Context(), bt.Requester, shut); err != nil {
			t.Error(err)
		}
		made = approved(r)
	}
	reads.Store(3)
	if err := s.Broker.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !met {
		t.Fatal("nothing was decided between two reads of the reload")
	}
	for id, want := range map[access.GrantID]bool{shut: false, stays: true, made: true} {
		if _, live := s.Broker.LiveGrant(id); live != want {
			t.Errorf("%s: live %t, want %t (shut %s, stays %s, made %s)", id, live, want, shut, stays, made)
		}
	}
}

package reconcile_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// P1, P2, P4, P5: a port opens on request, for the asker's address alone, and shuts by itself.
func TestStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{OpDelay: time.Second})
		plan := s.Protect("web-01")
		if !plan.Applied || plan.VMs[0].State != string(access.ProtectionOn) {
			t.Fatalf("protect: %+v", plan)
		}
		group := s.Machine("web-01").NSGs()[0]
		if n := len(s.Rules(group)); n < 3 {
			t.Errorf("rules after protect: %v", s.Rules(group))
		}
		g := s.Open(bt.Requester, "web-01", 30*time.Minute)
		if got := s.Allows(group); len(got) != 1 || !strings.Contains(got[0], strings.TrimPrefix(string(g.ID), "g-")) {
			t.Fatalf("allow rules: got %v, want one with the name of %s", got, g.ID)
		}
		if d := g.EndsAt.Sub(g.StartsAt); d != 30*time.Minute {
			t.Errorf("the window is %s long, want 30m", d)
		}
		time.Sleep(time.Until(g.EndsAt) - time.Millisecond)
		if len(s.Allows(group)) != 1 {
			t.Error("shut before its end")
		}
		g = s.WaitGrant(g.ID, func(g access.Grant) bool { return g.State.Final() })
		if g.State != access.Ended || len(s.Allows(group)) != 0 {
			t.Errorf("after the end: state %s, allows %v", g.State, s.Allows(group))
		}
		if late := g.EndedAt.Sub(g.EndsAt); late > 4*time.Second {
			t.Errorf("seen shut %s after the end", late)
		}
		for _, want := range []string{"request.create", "request.approve", "grant.open", "grant.ready", "grant.shut"} {
			if !s.Has(want, audit.Done, "") {
				t.Errorf("the log has no %s", want)
			}
		}
		if t.Failed() {
			t.Log(s.Dump())
		}
		s.Stop()
	})
}

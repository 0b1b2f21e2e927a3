package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// P6: nobody decides on what their own token asked, and no program decides on anything.
func TestNobodyDecidesOnWhatTheirTokenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{})
		defer s.Stop()
		s.Protect("web-01")
		b := s.Broker
		sponsor := access.Caller{Name: "Both", Roles: []access.Role{access.Requester, access.Approver, access.Admin}} // one of the stack's people, in another case
		tok, secret, err := b.CreateToken(t.Context(), sponsor, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Requester}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.TokenCaller(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.CreateRequest(t.Context(), c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "x", Source: "198.51.100.1"})
		if err != nil {
			t.Fatal(err)
		}
		if r.Sponsor != sponsor.Name || r.Kind != access.APIToken || r.Requester != "token:"+tok.Name {
			t.Errorf("the request: %+v", r)
		}
		everything := []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin}
		for _, who := range []access.Caller{sponsor, bt.Both, {Name: " BOTH", Roles: everything}, {Name: "workload:deploy", Kind: access.Workload, Roles: everything},
			{Name: "token:other", Kind: access.APIToken, Roles: everything}} {
			if _, err := b.Approve(t.Context(), who, r.ID, broker.ReviewInput{}); access.CodeOf(err) != access.CodeDenied {
				t.Errorf("%q (%s) approves: %v", who.Name, who.Kind, err)
			}
			if _, err := b.Deny(t.Context(), who, r.ID, ""); access.CodeOf(err) != access.CodeDenied {
				t.Errorf("%q (%s) denies: %v", who.Name, who.Kind, err)
			}
		}
		if r, err = b.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil || r.State != access.Approved {
			t.Errorf("another approver: %+v, %v", r.State, err)
		}
	})
}

// A backup holds sessions that were ended since: none of them comes back to life. Those of after the restart are others.
func TestARestoredDatabaseHasNoSessions(t *testing.T) {
	dir, backup := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		open := func(s *bt.Stack, id string) {
			t.Helper()
			if _, err := s.Broker.OpenSession(t.Context(), broker.HashSecret(id), broker.Session{Name: "dora", Key: "k", Roles: bt.Requester.Roles, EndsAt: s.Broker.Now().Add(12 * time.Hour)}, nil); err != nil {
				t.Fatal(err)
			}
		}
		live := func(s *bt.Stack, id string) bool {
			_, err := s.Broker.SessionByHash(t.Context(), broker.HashSecret(id))
			return err == nil
		}
		start := func() *bt.Stack { return bt.New(t, bt.Options{Dir: dir, NoStart: true}) }
		s := start()
		open(s, "lost laptop")
		s.Stop()
		copyDB(t, dir, backup)
		s = start()
		if !live(s, "lost laptop") {
			t.Error("a session did not survive a plain restart")
		}
		if _, err := s.Broker.EndSessions(t.Context(), bt.Admin, broker.EndSessionsInput{Person: "dora"}); err != nil {
			t.Fatal(err)
		}
		s.Stop()
		copyDB(t, backup, dir)
		s = start()
		if h := s.Broker.Hold(); !strings.Contains(h, "restored from a backup") {
			t.Fatalf("hold %q", h)
		}
		if live(s, "lost laptop") {
			t.Error("a session that was ended is back")
		}
		open(s, "admin")
		s.Stop()
		s = start()
		if !live(s, "admin") {
			t.Error("a session of after the restore ended with a restart")
		}
		s.Stop()
	})
}

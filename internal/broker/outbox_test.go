package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

func TestTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{NoStart: true, Routes: []notify.Route{{Name: "ops"}}})
		defer s.Stop()
		b, ctx, o := s.Broker, t.Context(), s.Broker.Outbox()
		test := func() notify.Notice {
			n, err := b.TestChannel(ctx, bt.Admin, "ops")
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if _, err := b.TestChannel(ctx, bt.Admin, "nowhere"); access.CodeOf(err) != access.CodeNotFound {
			t.Errorf("a channel that there is not: %v", err)
		}
		changed := o.Changed()
		n := test()
		select {
		case <-changed:
		default:
			t.Error("whoever delivers is not woken")
		}
		due, err := o.Due(ctx, "ops", 10)
		if err != nil || len(due) != 1 || due[0].ID != n.ID {
			t.Fatalf("due are %v, %v", due, err)
		}
		dead := due[0]
		dead.State, dead.Attempts, dead.LastError = notify.Dead, 3, "it answered 410 Gone"
		size := len(s.Log())
		if err := o.Settle(ctx, []notify.Notice{dead}); err != nil {
			t.Fatal(err)
		}
		log := s.Log()[size:]
		if len(log) != 1 || log[0].Action != "notify.dead" || log[0].Outcome != audit.Failed || log[0].Object != n.ID || log[0].Detail["channel"] != "ops" ||
			log[0].Message != "ops was not told of test: it answered 410 Gone" {
			t.Errorf("the entry of a dead letter: %+v", log)
		}
		// Whoever holds an older state of a notice does not overwrite the newer one, and the rest of the batch is stored.
		m := test()
		m.State, m.SentAt = notify.Sent, s.Clock.Now()
		if err := o.Settle(ctx, []notify.Notice{due[0], m}); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Notice(ctx, bt.Auditor, n.ID); err != nil || got.State != notify.Dead {
			t.Errorf("the dead letter is %v, %v", got, err)
		}
		list, _, err := b.Notices(ctx, bt.Auditor, broker.NoticeFilter{States: []notify.State{notify.Dead}})
		if err != nil || len(list) != 1 || list[0].ID != n.ID {
			t.Errorf("dead letters %v, %v", list, err)
		}
		if _, err := b.RetryNotice(ctx, bt.Admin, m.ID); access.CodeOf(err) != access.CodeConflict {
			t.Errorf("sending again what was sent: %v", err)
		}
		if _, err := b.RetryNotice(ctx, bt.Admin, "n-none"); access.CodeOf(err) != access.CodeNotFound {
			t.Errorf("a notice that there is not: %v", err)
		}
		again, err := b.RetryNotice(ctx, bt.Admin, n.ID)
		if err != nil || again.State != notify.Waiting || again.Attempts != 0 || again.RetriedAt.IsZero() {
			t.Errorf("tried again: %+v, %v", again, err)
		}
		if due, err = o.Due(ctx, "ops", 10); err != nil || len(due) != 1 || due[0].ID != n.ID {
			t.Errorf("due are %v, %v", due, err)
		}
		due[0].State, due[0].SentAt = notify.Sent, s.Clock.Now()
		if err := o.Settle(ctx, due); err != nil {
			t.Fatal(err)
		}
		// What was delivered is forgotten after a week, when something else is settled.
		time.Sleep(8 * 24 * time.Hour)
		last := test()
		last.State, last.SentAt = notify.Sent, s.Clock.Now()
		if err := o.Settle(ctx, []notify.Notice{last}); err != nil {
			t.Fatal(err)
		}
		if list, _, err = b.Notices(ctx, bt.Auditor, broker.NoticeFilter{}); err != nil || len(list) != 1 || list[0].ID != last.ID {
			t.Errorf("kept are %v, %v", list, err)
		}
		counts, err := o.Counts(ctx)
		if err != nil || len(counts) != 1 || counts[0] != (notify.Count{Channel: "ops", Sent: 1}) {
			t.Errorf("counts %v, %v", counts, err)
		}
	})
}

func TestAddressees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{NoStart: true, Policy: &policy.Document{Groups: map[string]policy.Group{"dba": {Members: []string{"both", "AUDITOR"}}}, Rules: []policy.Rule{{Name: "all"}}}})
		defer s.Stop()
		for _, c := range []struct{ to, want []string }{
			{nil, nil},
			{[]string{"requester", "Requester", "nobody@example.com"}, []string{"requester", "nobody@example.com"}},
			{[]string{"role:admin", "role:auditor", "role:none", "group:none"}, []string{"admin", "auditor"}},
			{[]string{"auditor", "group:DBA"}, []string{"auditor", "both"}},
			{[]string{"role:approver"}, []string{"approver", "approver-2", "both", "both-3"}},
		} {
			if got := s.Broker.Addressees(t.Context(), c.to); !slices.Equal(got, c.want) {
				t.Errorf("%v means %v, want %v", c.to, got, c.want)
			}
		}
	})
}

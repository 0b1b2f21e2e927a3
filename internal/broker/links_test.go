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

func TestLinkCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{NoStart: true})
		defer s.Stop()
		b, ctx := s.Broker, t.Context()
		who := broker.Identity{Kind: "slack", Team: "T1", User: "U1", Name: "the boss"}
		code := func(i broker.Identity) string {
			c, err := b.NewLinkCode(ctx, i)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		link := func(c access.Caller, code, confirm string) (broker.Link, error) {
			return b.LinkIdentity(ctx, c, broker.LinkInput{Kind: "slack", Code: code, Confirm: confirm})
		}
		want := func(what string, err error, code access.Code) {
			t.Helper()
			if access.CodeOf(err) != code {
				t.Errorf("%s: got %v, want %q", what, err, code)
			}
		}
		person := func() string {
			p, err := b.LinkedPerson(ctx, who)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		first := code(who)
		second := code(who)
		_, err := link(bt.Approver, first, who.Key())
		want("a code after which another was made", err, access.CodeNotFound)
		l, err := link(bt.Approver, " "+strings.ToUpper(strings.ReplaceAll(second, "-", ""))+" ", "")
		want("looking whose code it is", err, ok)
		if l.ID != who.Key() || l.Name != "the boss" || !l.Created.IsZero() || person() != "" {
			t.Errorf("looking makes a link: %+v, %q", l, person())
		}
		_, err = link(bt.Approver, second, "slack:T1:U2")
		want("confirming another identity", err, access.CodePlanChanged)
		time.Sleep(11 * time.Minute)
		_, err = link(bt.Approver, second, who.Key())
		want("a code that is too old", err, access.CodeNotFound)
		third := code(who)
		if _, err = link(bt.Approver, third, who.Key()); err != nil || person() != bt.Approver.Name {
			t.Fatalf("linking: %v, %q", err, person())
		}
		_, err = link(bt.Requester, third, who.Key())
		want("the same code again", err, access.CodeNotFound)
		fourth := code(who)
		_, err = link(bt.Requester, fourth, who.Key())
		want("an identity that is somebody else's", err, access.CodeConflict)
		_, err = link(bt.Approver, fourth, who.Key())
		want("one's own once more", err, access.CodeConflict)
		if person() != bt.Approver.Name {
			t.Errorf("the identity went to %q", person())
		}
		other := who
		other.Team = "T2"
		if p, err := b.LinkedPerson(ctx, other); p != "" || err != nil {
			t.Errorf("the same user id of another workspace is %q, %v", p, err)
		}
		want("somebody else takes it away", b.Unlink(ctx, bt.Requester, who.Key()), access.CodeNotFound)
		want("an admin takes it away", b.Unlink(ctx, bt.Admin, who.Key()), ok)
		if person() != "" {
			t.Errorf("it is still %q", person())
		}
		if _, err := b.NewLinkCode(ctx, broker.Identity{Kind: "pigeon", Team: "x", User: "y"}); err == nil {
			t.Error("an identity of another kind gets a code")
		}
		for _, e := range s.Log() {
			for _, c := range []string{first, second, third, fourth} {
				if strings.Contains(e.Message, c) || strings.Contains(e.Message, strings.ReplaceAll(c, "-", "")) {
					t.Errorf("a code stands in the log: %v", e)
				}
			}
		}
	})
}

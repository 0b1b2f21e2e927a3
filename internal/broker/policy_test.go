package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Another policy is tried with the requests of the last 90 days: with who asked, the groups and roles they had, and nothing is changed.
func TestReplayPolicy(t *testing.T) {
	rules := policy.Document{Groups: map[string]policy.Group{"dba": {Members: []string{"requester"}}}, Rules: []policy.Rule{{Name: "all", MaxTotal: access.Duration(8 * time.Hour)}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		s.Protect("web-02")
		long := s.Ask(bt.Requester, "web-01", 3*time.Hour)
		short := s.Ask(bt.Requester, "web-01", 20*time.Minute)
		other := s.Ask(bt.Requester2, "web-02", time.Hour)
		g := s.Open(bt.Requester, "web-02", 30*time.Minute)
		must[access.Request](t)(s.Broker.Extend(t.Context(), bt.Requester, g.ID, 30*time.Minute, "", ""))
		size := len(s.Log())

		text := `groups: {dba: {members: [somebody]}}
rules:
  - {name: short, vms: ["WEB-*"], max_duration: 1h, extensions: false, auto_approve: {max_duration: 20m, when: "'dba' in requester.groups"}}
  - {name: second, vms: ["*-02"], approvals: 2}
`
		r := must[policy.ReplayReport](t)(s.Broker.ReplayPolicy(t.Context(), bt.Auditor, text))
		got := map[string]string{}
		for _, x := range r.Changed {
			got[x.ID] = string(x.Outcome) + ": " + x.Text
		}
		for id, want := range map[access.RequestID]string{long.ID: "refused: 3h is over the limit: rule short allows 1h", short.ID: "by_itself: ", other.ID: "others: after approval by 2 of anybody"} {
			if !strings.HasPrefix(got[string(id)], want) {
				t.Errorf("%s: %q, want %q", id, got[string(id)], want)
			}
		}
		extension := false
		for _, text := range got {
			extension = extension || strings.Contains(text, "lets no grant be extended")
		}
		if !extension || r.Requests != 5 || r.Same != 0 || len(r.Changed) != 5 || r.Digest == "" || r.Cut {
			t.Errorf("%+v", r)
		}
		if r = must[policy.ReplayReport](t)(s.Broker.ReplayPolicy(t.Context(), bt.Admin, "rules: [{name: another, max_total: 8h}]")); r.Same != 5 || len(r.Changed) != 0 {
			t.Errorf("one that says the same changes %+v", r.Changed)
		}
		_, err := s.Broker.ReplayPolicy(t.Context(), bt.Admin, "rules: [{nam: x}]")
		wants(t, err, access.CodeInvalid, "there is no key nam", "policy lint")
		if len(s.Log()) != size || s.Broker.Status(t.Context()).Policy != "" {
			t.Error("a dry run left something")
		}
	})
}

// Who can get into a machine: its tags are known, the rules for others are not named.
func TestPolicyWho(t *testing.T) {
	rules := policy.Document{Rules: []policy.Rule{{Name: "web", VMs: []string{"web-*"}, Approvals: 2}, {Name: "db", VMs: []string{"db-*"}}, {Name: "never", Deny: true, Tags: map[string]policy.List{"no": {"such"}}}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		w := must[policy.WhoReport](t)(s.Broker.PolicyWho(t.Context(), bt.Auditor, "WEB-01"))
		if len(w.Ways) != 1 || w.Ways[0].Rule != "web" || w.Ways[0].Needs != "2 of everybody who may approve" || w.Machine.Name != "web-01" || w.ID != s.Machine("web-01").ID {
			t.Errorf("%+v", w)
		}
		_, err := s.Broker.PolicyWho(t.Context(), bt.Auditor, "nothing")
		wants(t, err, access.CodeNotFound)
		info := must[policy.Info](t)(s.Broker.Policy(t.Context(), bt.Approver))
		if set, err := policy.Load([]byte(info.Text), ""); err != nil || set.Digest() != info.Digest || info.Rules != 3 {
			t.Errorf("%+v, %v", info, err)
		}
	})
}

// What a rule says of groups, windows and reasons holds where it is asked and where it is approved (P6).
func TestPolicyOfARequest(t *testing.T) {
	rules := policy.Document{Groups: map[string]policy.Group{"web": {Claims: []string{"11-22"}}},
		Rules: []policy.Rule{{Name: "web", Requesters: []string{"group:web"}, Ticket: &policy.Text{Required: true, Pattern: "INC-[0-9]+"}, DefaultDuration: access.Duration(20 * time.Minute)}}}
	bubble(t, bt.Options{Policy: &rules}, func(t *testing.T, s *bt.Stack) {
		s.Protect("web-01")
		in := broker.RequestInput{VMs: []string{"web-01"}, Reason: "x", Ticket: "INC-1"}
		_, err := s.Broker.CreateRequest(t.Context(), bt.Requester, in)
		wants(t, err, access.CodeDenied, "no policy rule lets requester ask for web-01")
		member := bt.Requester
		member.Groups = []string{"11-22"}
		r := must[access.Request](t)(s.Broker.CreateRequest(t.Context(), member, in))
		if r.Terms.Duration != 20*time.Minute {
			t.Errorf("it lasts %s", r.Terms.Duration)
		}
		in.Ticket = "INC"
		_, err = s.Broker.CreateRequest(t.Context(), member, in)
		wants(t, err, access.CodeInvalid, "INC-[0-9]+")
		rules.Rules[0].Windows = []policy.Window{{From: "03:00", To: "03:06"}} // changed while it waits
		_, err = s.Broker.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{Digest: r.Digest()})
		wants(t, err, access.CodeDenied, "does not lie within every day 03:00 to 03:06 UTC")
	})
}

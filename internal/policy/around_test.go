package policy_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// P6: a stricter rule is not got around by asking for a little more than it is about, or for what it cannot judge.
func TestStricterRuleIsNotGotAround(t *testing.T) {
	hour := access.Duration(time.Hour)
	ssh := []access.Ports{access.Port(22)}
	for _, c := range []struct {
		name      string
		strict    policy.Rule // two approvals
		ask       access.Ask
		approvals int
	}{
		{"its port alone", policy.Rule{Ports: ssh}, ask(nil), 2},
		{"a range with its port", policy.Rule{Ports: ssh}, ask(func(a *access.Ask) { a.Terms.Targets[0].Ports = access.Ports{First: 22, Last: 23} }), 2},
		{"a range beside it", policy.Rule{Ports: ssh}, ask(func(a *access.Ask) { a.Terms.Targets[0].Ports = access.Ports{First: 23, Last: 24} }), 1},
		{"a source that is wider", policy.Rule{Sources: []netip.Prefix{home}}, ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("198.51.100.0/28") }), 2},
		{"another source", policy.Rule{Sources: []netip.Prefix{home}}, ask(func(a *access.Ask) { a.Terms.Source = netip.MustParsePrefix("198.51.100.8/32") }), 1},
		{"into its hours", policy.Rule{Windows: []policy.Window{{From: "09:30", To: "17:00"}}}, ask(nil), 2},
		{"out of its hours", policy.Rule{Windows: []policy.Window{{From: "01:00", To: "09:30"}}}, ask(nil), 2},
		{"beside its hours", policy.Rule{Windows: []policy.Window{{From: "10:00", To: "17:00"}}}, ask(nil), 1},
		{"tags that are not known", policy.Rule{Tags: map[string]policy.List{"env": {"prod"}}}, ask(nil), 2},
		{"a condition on tags that are not known", policy.Rule{When: "'env' in target.tags && target.tags['env'] == 'prod'"}, ask(nil), 2},
		{"a condition on tags that are known", policy.Rule{When: "'env' in target.tags && target.tags['env'] == 'prod'"}, ask(func(a *access.Ask) { a.Tags = map[string]string{} }), 1},
		{"a condition that costs too much for what is asked", policy.Rule{When: "request.ports.exists(p, p == 65000)"},
			ask(func(a *access.Ask) { a.Terms.Targets[0].Ports = access.Ports{First: 1, Last: 65535} }), 2},
	} {
		c.strict.Approvals, c.strict.WidestIPv4 = 2, 24
		l, err := compiled(t, policyOf(policy.Rule{WidestIPv4: 24}, c.strict)).Decide(c.ask, t0)
		if err != nil || l.Approvals() != c.approvals {
			t.Errorf("%s: %d approvals (%v), want %d", c.name, l.Approvals(), err, c.approvals)
		}
		// Alone, what is about a part permits nothing.
		if _, err := compiled(t, policyOf(c.strict)).Decide(c.ask, t0); (err == nil) != (c.name == "its port alone") {
			t.Errorf("%s: alone: %v", c.name, err)
		}
	}
	// Its other limits hold as well.
	p := policyOf(policy.Rule{}, policy.Rule{Ports: ssh, MaxDuration: hour / 2})
	wide := ask(func(a *access.Ask) {
		a.Terms.Targets = []access.Target{web}
		a.Terms.Targets[0].Ports = access.Ports{First: 22, Last: 23}
	})
	if _, err := compiled(t, p).Decide(wide, t0); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("over the limit of the rule for port 22: %v", err)
	}
	if d := compiled(t, p).DefaultDuration(wide, t0); d != 30*time.Minute {
		t.Errorf("default %s", d)
	}
	// What cannot be judged is denied by a rule that denies.
	deny := policyOf(policy.Rule{}, policy.Rule{Deny: true, When: "'env' in target.tags && target.tags['env'] == 'prod'"})
	if _, err := compiled(t, deny).Decide(ask(nil), t0); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("tags that are not known: %v", err)
	}
}

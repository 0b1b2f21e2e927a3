package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// load compiles a text.
func load(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Load([]byte(text), "p.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// outcome says a decision in one line: "deny: …" or the rules with what they need.
func outcome(s *policy.Set, a access.Ask, now time.Time) string {
	l, err := s.Decide(a, now)
	var e *access.Error
	if errors.As(err, &e) {
		return "deny: " + e.Message + " | " + e.Hint
	}
	if err != nil {
		return "deny: " + err.Error()
	}
	out := strings.Join(l.Rules, "+")
	if len(l.Auto) > 0 {
		out += " auto=" + strings.Join(l.Auto, "+")
	}
	for _, n := range l.Needs {
		for _, st := range n.Steps {
			out += " [" + st.Words() + "]"
		}
	}
	return out
}

// Each feature of a rule: what matches, what does not, and what the refusal says (P1, P6, P8).
func TestRules(t *testing.T) {
	tagged := func(kv ...string) func(*access.Ask) {
		return func(a *access.Ask) {
			a.Tags = map[string]string{}
			for i := 0; i+1 < len(kv); i += 2 {
				a.Tags[kv[i]] = kv[i+1]
			}
		}
	}
	for _, c := range []struct {
		name, text string
		edit       func(*access.Ask)
		want       string // a part of the outcome
	}{
		{"tag", "rules: [{name: r, tags: {env: prod}}]", tagged("ENV", "Prod"), "r [anybody"},
		{"another value", "rules: [{name: r, tags: {env: prod}}]", tagged("env", "production"), "deny: no policy rule"},
		{"one of two values, with a stroke", "rules: [{name: r, tags: {app: [x, 'shop/*']}}]", tagged("app", "shop/web/1"), "r [anybody"},
		{"all tags must match", "rules: [{name: r, tags: {env: prod, app: x}}]", tagged("env", "prod"), "deny:"},
		{"tags that are not known permit nothing", "rules: [{name: r, tags: {env: '*'}}]", nil, "deny:"},
		{"and forbid", "rules: [{name: all}, {name: no, deny: true, tags: {env: prod}}]", nil, "deny: rule no forbids web-01:22/tcp"},
		{"tags known to be absent do not", "rules: [{name: all}, {name: no, deny: true, tags: {env: prod}}]", tagged(), "all [anybody"},
		{"nested: both count", "rules: [{name: web, vms: ['web-*'], max_duration: 4h, rules: [{name: one, vms: [web-01], approvals: 2}]}]", nil, "web+one [2 of anybody"},
		{"nested: narrowed only", "rules: [{name: db, vms: ['db-*'], rules: [{name: any}]}]", nil, "deny:"},
		{"nested: a stranger to the parent asks the child", "rules: [{name: p, vms: ['web-*'], requesters: [bob], rules: [{name: c, requesters: [alice]}]}]", nil, "c [anybody"},
		{"nested deny in a scope that is not known", "rules: [{name: all}, {name: p, tags: {env: prod}, requesters: [bob], rules: [{name: c, deny: true}]}]", nil, "deny: rule c forbids"},
		{"nested permission in one", "rules: [{name: p, tags: {env: prod}, rules: [{name: c, vms: [web-01]}]}]", nil, "deny: no policy rule"},
		{"group by its member", "groups: {dba: {members: [ALICE]}}\nrules: [{name: r, requesters: ['group:DBA']}]", nil, "r [anybody"},
		{"group within a group", "groups: {all: {includes: [dba]}, dba: {members: [alice]}}\nrules: [{name: r, requesters: ['group:all']}]", nil, "r [anybody"},
		{"not the other way round", "groups: {all: {includes: [dba], members: [alice]}, dba: {members: [bob]}}\nrules: [{name: r, requesters: ['group:dba']}]", nil, "deny:"},
		{"group by name, in another case", "groups: {dba: {claims: [x]}}\nrules: [{name: r, requesters: ['group:dba']}]", func(a *access.Ask) { a.Groups = []string{"DBA"} }, "r [anybody"},
		{"a group that the policy does not know", "groups: {dba: {claims: [x]}}\nrules: [{name: r, requesters: ['group:dba']}]", func(a *access.Ask) { a.Groups = []string{"x", "group:dba"} }, "deny:"},
		{"protocol", "rules: [{name: r, protocol: udp}]", nil, "deny: no policy rule lets alice ask for web-01:22/tcp from 198.51.100.7/32; rule r comes nearest: it is for udp, not tcp | ask for udp"},
		{"port", "rules: [{name: r, ports: [443, 8000-8010]}]", nil, "rule r comes nearest: it is for port 443, 8000-8010, not 22 | ask for port 443"},
		{"source", "rules: [{name: r, sources: [10.0.0.0/8]}]", nil, "rule r comes nearest: source 198.51.100.7/32 does not lie in 10.0.0.0/8 | ask from an address in 10.0.0.0/8"},
		{"the nearest lacks least", "rules: [{name: far, ports: [443], sources: [10.0.0.0/8]}, {name: near, ports: [443]}]", nil, "rule near comes nearest"},
		{"rules for others are not told of", "rules: [{name: secret, requesters: [bob], ports: [443]}]", nil, "deny: no policy rule lets alice ask for web-01:22/tcp from 198.51.100.7/32 | an admin"},
		{"nor rules for other machines", "rules: [{name: secret, vms: [db-01]}]", nil, "from 198.51.100.7/32 | an admin"},
		{"window", "rules: [{name: r, windows: [{days: [mon-fri], from: '08:00', to: '18:00', zone: Europe/Berlin}]}]", nil,
			"does not lie within mon-fri 08:00 to 18:00 Europe/Berlin | ask with --at 2026-11-23T07:00Z"},
		{"in the window", "rules: [{name: r, windows: [{days: [sun], from: '10:00', to: '11:00', zone: Europe/Berlin}]}]", nil, "r [anybody"},
		{"not to its end", "rules: [{name: r, windows: [{days: [sun], from: '10:00', to: '10:59', zone: Europe/Berlin}]}]", nil, "deny:"},
		{"two windows that touch", "rules: [{name: r, windows: [{from: '08:00', to: '09:30'}, {from: '09:30', to: '12:00'}]}]", nil, "r [anybody"},
		{"a prohibition touches its window", "rules: [{name: r}, {name: freeze, deny: true, message: 'year end', windows: [{days: [sun], from: '09:59', to: '10:01'}]}]", nil,
			"deny: rule freeze forbids web-01:22/tcp: year end | it holds sun 09:59 to 10:01 UTC"},
		{"before its window", "rules: [{name: r}, {name: freeze, deny: true, windows: [{days: [sun], from: '10:00', to: '12:00'}]}]", nil, "r [anybody"},
		{"an extension counts from the grant's end", "rules: [{name: r, max_total: 8h, windows: [{from: '08:00', to: '12:00'}]}]",
			func(a *access.Ask) {
				a.Extension, a.Held, a.StartAt = true, time.Hour, t0.Add(2*time.Hour+30*time.Minute)
			}, "deny:"},
		{"or from the latest that it can be", "rules: [{name: r, max_total: 8h, windows: [{from: '08:00', to: '12:00'}]}]",
			func(a *access.Ask) { a.Extension, a.Held = true, 2*time.Hour+30*time.Minute }, "deny:"},
		{"within", "rules: [{name: r, max_total: 8h, windows: [{from: '08:00', to: '12:00'}]}]",
			func(a *access.Ask) { a.Extension, a.Held, a.StartAt = true, time.Hour, t0.Add(time.Hour) }, "r [anybody"},
		{"reason's form", "rules: [{name: r, reason: {pattern: 'INC-[0-9]+', message: 'write INC and a number'}}]", func(a *access.Ask) { a.Reason = "INC-x" },
			"deny: the reason \"INC-x\" has not the form that rule r asks for | write INC and a number"},
		{"the whole of it", "rules: [{name: r, reason: {pattern: 'INC-[0-9]+|CHG-[0-9]+'}}]", func(a *access.Ask) { a.Reason = "INC-1 x" }, "deny: the reason"},
		{"the form of what may be left out", "rules: [{name: r, ticket: {required: false, pattern: 'INC-[0-9]+'}}]", nil, "r [anybody"},
		{"if given", "rules: [{name: r, ticket: {required: false, pattern: 'INC-[0-9]+'}}]", func(a *access.Ask) { a.Ticket = "x" }, "deny: the ticket \"x\""},
		{"a ticket's own message", "rules: [{name: r, ticket: {message: 'open one in the desk'}}]", nil, "rule r asks for a ticket, and none was given | open one in the desk"},
		{"condition", "rules: [{name: r, when: \"request.ports == [22] && target.name == 'web-01' && requester.name == 'alice'\"}]", nil, "r [anybody"},
		{"condition that does not hold", "rules: [{name: r, message: 'ask for less', when: \"request.duration < duration('1h')\"}]", nil,
			"its condition does not hold: request.duration < duration('1h') | ask for less"},
		{"condition on a tag that is absent", "rules: [{name: r, when: \"target.tags['env'] == 'prod'\"}]", tagged(), "its condition could not be judged: no such key: env"},
		{"and of a prohibition", "rules: [{name: all}, {name: no, deny: true, when: \"target.tags['env'] == 'prod'\"}]", tagged(),
			"deny: rule no forbids web-01:22/tcp: its condition could not be judged (no such key: env), and what cannot be judged is refused"},
		{"condition in another case", "groups: {DBA: {members: [alice]}}\nrules: [{name: r, when: \"'Dba' in requester.groups && target.tags['ENV'] == 'prod' && 'eNv' in target.tags\"}]", tagged("Env", "prod"), "r [anybody"},
		{"source in a network", "rules: [{name: r, when: \"cidr('198.51.100.0/24').containsCIDR(request.source) && request.source.prefixLength() == 32\"}]", nil, "r [anybody"},
		{"time", "rules: [{name: r, when: \"now.getDayOfWeek('Europe/Berlin') == 0 && request.start == now\"}]", nil, "r [anybody"},
		{"roles", "rules: [{name: r, when: \"'requester' in requester.roles\"}]", func(a *access.Ask) { a.Roles = []access.Role{access.Requester} }, "r [anybody"},
		{"too many steps", "rules: [{name: r, when: 'request.ports.all(p, p > 0)'}]",
			func(a *access.Ask) {
				a.Terms.Targets = []access.Target{{VM: web.VM, Ports: access.Ports{First: 1, Last: 60000}, Protocol: access.TCP}}
			}, "its condition could not be judged: it takes more than 10000 steps"},
		{"auto", "rules: [{name: r, auto_approve: {max_duration: 1h}}]", nil, "r auto=r"},
		{"over its cap", "rules: [{name: r, auto_approve: {max_duration: 59m}}]", nil, "r [anybody"},
		{"its cap counts extensions", "rules: [{name: r, max_total: 8h, auto_approve: {max_duration: 1h}}]", func(a *access.Ask) { a.Extension, a.Held, a.Terms.Duration = true, 40*time.Minute, 21*time.Minute }, "r [anybody"},
		{"its condition", "rules: [{name: r, auto_approve: {max_duration: 1h, when: \"request.ticket != ''\"}}]", nil, "r [anybody"},
		{"its condition cannot be judged", "rules: [{name: r, auto_approve: {max_duration: 1h, when: \"target.tags['x'] == ''\"}}]", tagged(), "r [anybody"},
		{"its sources", "rules: [{name: r, auto_approve: {max_duration: 1h, sources: [10.0.0.0/8]}}]", nil, "r [anybody"},
		{"one that is about a part needs somebody", "rules: [{name: r, auto_approve: {max_duration: 1h}}, {name: s, ports: [22], auto_approve: {max_duration: 1h}}]",
			func(a *access.Ask) { a.Terms.Targets[0].Ports.Last = 23 }, "r+s auto=r [anybody"},
		{"one that cannot be judged needs somebody", "rules: [{name: r, auto_approve: {max_duration: 1h}}, {name: s, tags: {a: b}, auto_approve: {max_duration: 1h}}]", nil, "r+s auto=r [anybody"},
		{"another rule needs somebody", "rules: [{name: r, auto_approve: {max_duration: 1h}}, {name: s, approvers: [bob]}]", nil, "r+s auto=r [bob]"},
		{"no extensions", "rules: [{name: a}, {name: r, extensions: false}]", func(a *access.Ask) { a.Extension, a.Held = true, time.Hour }, "deny: rule r lets no grant be extended"},
		{"extended often", "rules: [{name: r, extensions: {max: 2}}]", func(a *access.Ask) { a.Extension, a.Held, a.Extensions = true, time.Hour, 2 }, "deny: the grant was extended 2 times, which is as often as rule r allows"},
		{"extended by much", "rules: [{name: r, extensions: {each: 30m}}]", func(a *access.Ask) { a.Extension, a.Held = true, time.Hour }, "deny: 1h is over the limit: rule r allows 30m at a time | ask for 30m instead"},
		{"the rule that refuses is named", "rules: [{name: wide, max_duration: 8h}, {name: tight, max_duration: 30m}]", nil, "deny: 1h is over the limit: rule tight allows 30m"},
		{"steps", "rules: [{name: r, in_order: true, steps: [{name: owner, approvers: [bob]}, {name: second, approvers: ['carol', 'dan'], count: 2}]}]", nil, "r [owner: bob] [second: 2 of carol, dan]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(c.edit)
			if got := outcome(load(t, c.text), a, t0); !strings.Contains(got, c.want) {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
			if _, err := load(t, c.text).Decide(a, t0); err != nil {
				wellSaid(t, err)
			}
		})
	}
}

// Break-glass: only those whom a rule lists, within the strictest cap, and never against a prohibition.
func TestBreakGlass(t *testing.T) {
	const text = `groups: {sre: {members: [alice]}}
rules:
  - {name: everyone, max_duration: 8h}
  - {name: web, vms: ['web-*'], requesters: [bob], windows: [{days: [mon]}], notify: [ops], hard_close: true, break_glass: {requesters: ['group:sre'], max_duration: 2h}}
  - {name: all, approvers: [dan], break_glass: {requesters: [alice], max_duration: 90m, ticket: true}}
  - {name: vault, vms: ['vault-*'], deny: true}
`
	s := load(t, text)
	glass := func(f func(*access.Ask)) access.Ask {
		a := ask(f)
		a.BreakGlass = true
		return a
	}
	ticket := func(a *access.Ask) { a.Ticket = "INC-1" }
	l, err := s.Decide(glass(ticket), t0)
	if err != nil || len(l.Needs) != 0 || len(l.Auto) != 0 || l.MaxDuration != 90*time.Minute || !l.NoExtensions || !slices.Equal(l.Rules, []string{"web", "all"}) ||
		!l.HardClose || !slices.Equal(l.Notify, []string{"ops"}) || !l.Reason || !l.Ticket {
		t.Errorf("%+v, %v", l, err)
	}
	for name, c := range map[string]struct {
		ask  access.Ask
		want string
	}{
		"not listed": {glass(func(a *access.Ask) { a.Requester = "bob" }), "no policy rule lets bob break the glass for web-01:22/tcp"},
		"too long":   {glass(func(a *access.Ask) { ticket(a); a.Terms.Duration = 91 * time.Minute }), "1h31m is over the limit: rule all allows 1h30m"},
		"no ticket":  {glass(nil), "rule all asks for a ticket"},
		"no reason":  {glass(func(a *access.Ask) { ticket(a); a.Reason = "" }), "asks for a reason"},
		"forbidden": {glass(func(a *access.Ask) {
			ticket(a)
			a.Terms.Targets = []access.Target{{VM: access.VM{ID: "vault-1", Name: "vault-1"}, Ports: access.Port(22), Protocol: access.TCP}}
		}), "rule vault forbids"},
		"later":    {glass(func(a *access.Ask) { ticket(a); a.StartAt = t0.Add(time.Hour) }), "break-glass opens at once"},
		"extended": {glass(func(a *access.Ask) { ticket(a); a.Extension, a.Held = true, time.Minute }), "is not extended"},
	} {
		_, err := s.Decide(c.ask, t0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		} else {
			wellSaid(t, err)
		}
	}
}

func TestDefaultDuration(t *testing.T) {
	s := load(t, `rules:
  - {name: a, default_duration: 2h}
  - {name: b, vms: [web-01], max_duration: 45m}
  - {name: c, requesters: [bob], default_duration: 10m, break_glass: {requesters: [alice], max_duration: 5m}}
  - {name: none, vms: [db-01], deny: true}
`)
	for _, c := range []struct {
		edit func(*access.Ask)
		want time.Duration
	}{
		{nil, 45 * time.Minute}, {func(a *access.Ask) { a.Requester = "bob" }, 10 * time.Minute}, {func(a *access.Ask) { a.BreakGlass = true }, 5 * time.Minute},
		{func(a *access.Ask) { a.Terms.Targets[0].VM.Name = "x" }, 2 * time.Hour}, {func(a *access.Ask) { a.Terms.Targets[0].VM.Name = "db-01" }, 0}, {func(a *access.Ask) { a.Terms.Targets = nil }, 0},
	} {
		a := ask(c.edit)
		a.Terms.Duration = 0
		if got := s.DefaultDuration(a, t0); got != c.want {
			t.Errorf("%+v: %s, want %s", a, got, c.want)
		}
	}
	if got := load(t, "rules: [{name: a}]").DefaultDuration(ask(nil), t0); got != policy.UsualDuration {
		t.Errorf("a policy that says nothing gives %s", got)
	}
}

func TestGroupsOf(t *testing.T) {
	s := load(t, `groups:
  all: {includes: [group:DBA, sre]}
  dba: {members: [" Carol"], claims: [8F1C]}
  sre: {claims: [sre-team]}
  none: {}
rules: []
`)
	for _, c := range []struct {
		caller access.Caller
		want   string
	}{
		{access.Caller{Name: "carol"}, "[all dba]"}, {access.Caller{Name: "x", Groups: []string{"8f1c"}}, "[all dba]"}, {access.Caller{Name: "CAROL", Groups: []string{"SRE-team"}}, "[all dba sre]"},
		{access.Caller{Name: "x", Groups: []string{"dba", "all"}}, "[]"}, // a claim of the name of a group does not put anybody into it
		{access.Caller{}, "[]"},
	} {
		if got := fmt.Sprint(s.GroupsOf(c.caller)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.caller, got, c.want)
		}
	}
}

// Many may ask one Set at once.
func TestDecideAtOnce(t *testing.T) {
	s := compiled(t, large(100))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 100 {
				a := largeAsk()
				a.Terms.Source = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i*20 + n%20)}), 32)
				if l, err := s.Decide(a, t0); err != nil || len(l.Rules) != 5 {
					t.Errorf("%+v, %v", l, err)
				}
			}
		})
	}
	wg.Wait()
}

// The zero Set denies everything.
func TestZeroSet(t *testing.T) {
	var s policy.Set
	if _, err := s.Decide(ask(nil), t0); access.CodeOf(err) != access.CodeDenied {
		t.Errorf("%v", err)
	}
	if g := s.GroupsOf(access.Caller{Name: "alice", Groups: []string{"x"}}); g != nil {
		t.Errorf("%v", g)
	}
}

package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// large is a policy of n rules for teams' machines, five of which are about web-01 with a condition each.
func large(n int) policy.Document {
	d := policy.Document{Groups: map[string]policy.Group{"web": {Members: []string{"alice", "bob"}}, "dba": {Members: []string{"carol"}}}}
	for i := range n {
		r := policy.Rule{Name: fmt.Sprintf("team-%d", i), Groups: []string{fmt.Sprintf("rg-team%d-*", i)}, VMs: []string{fmt.Sprintf("vm%d-*", i)},
			Requesters: []string{"group:dba", fmt.Sprintf("person-%d", i)}, Tags: map[string]policy.List{"team": {fmt.Sprint(i)}},
			MaxDuration: access.Duration(2 * time.Hour), Approvers: []string{"bob"}}
		if i%(n/5) == n/10 {
			r.Groups, r.VMs, r.Tags, r.Requesters = []string{"rg-web"}, []string{"web-*"}, map[string]policy.List{"env": {"prod", "test"}}, []string{"group:web"}
			r.When = []string{
				"request.duration <= duration('1h') || 'dba' in requester.groups",
				"cidr('198.51.100.0/24').containsCIDR(request.source)",
				"target.tags['env'] == 'prod' && request.ports.all(p, p in [22, 3389])",
				"request.ticket.matches('^INC-[0-9]+$') || request.reason.startsWith('INC')",
				"now.getHours('Europe/Berlin') >= 6 && requester.name != 'mallory'",
			}[i/(n/5)%5]
		}
		d.Rules = append(d.Rules, r)
	}
	return d
}

func largeAsk() access.Ask {
	return access.Ask{Requester: "alice", Terms: terms(time.Hour), Reason: "INC-4711 disk full", Ticket: "INC-4711", Tags: map[string]string{"env": "prod", "team": "web", "Owner": "x"},
		OS: "linux", Location: "westeurope", Roles: []access.Role{access.Requester}}
}

// A decision over 1,000 rules, five of them in scope with a condition each: at most 100 µs.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			s, err := policy.New(large(n))
			if err != nil {
				b.Fatal(err)
			}
			a := largeAsk()
			if l, err := s.Decide(a, t0); err != nil || len(l.Rules) != 5 {
				b.Fatal(l, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Decide(a, t0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Reading and compiling a policy, every tenth rule with a condition of its own.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			d := large(n)
			for i := range d.Rules {
				if i%10 == 0 {
					d.Rules[i].When = fmt.Sprintf("request.duration < duration('%dm') && request.ports.all(p, p != %d)", 60+i, i)
				}
			}
			text, err := d.Print()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := policy.Load(text, "p.yaml"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

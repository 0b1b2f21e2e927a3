package storetest

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
)

// testModel runs random histories on the store and on the reference, and compares every answer.
func testModel(t *testing.T, open func(t *testing.T) broker.Store) {
	// Opening a store is slow, and a full one makes the reference slow: a few histories share one, each with ids of its own.
	var store, model broker.Store
	history := 0
	if f := flag.Lookup("rapid.checks"); os.Getenv("CURFEW_LONG") == "" && f.Value.String() == f.DefValue {
		must(t, f.Value.Set("30"))
		defer func() { _ = f.Value.Set(f.DefValue) }() // its own default, which it takes
	}
	rapid.Check(t, func(rt *rapid.T) {
		if history%10 == 0 {
			store, model = open(t), &Memory{}
		}
		history++
		g := gen{prefix: fmt.Sprintf("%d.", history)}
		rt.Repeat(map[string]func(*rapid.T){
			"transaction": func(rt *rapid.T) {
				ops := rapid.SliceOfN(rapid.Custom(g.op), 1, 5).Draw(rt, "ops")
				abort := rapid.IntRange(0, 4).Draw(rt, "abort") == 0
				run := func(s broker.Store) (out []string) {
					err := s.Update(t.Context(), func(tx broker.Tx) error {
						for _, op := range ops {
							out = append(out, op.run(tx))
						}
						if abort {
							return errStop
						}
						return nil
					})
					return append(out, outcome(nil, err))
				}
				compare(rt, ops, run(store), run(model))
			},
			"": func(rt *rapid.T) {
				all := g.reads(rt)
				var reads []op
				for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)-1), 5, 5, rapid.ID).Draw(rt, "reads") {
					reads = append(reads, all[i])
				}
				run := func(s broker.Store) (out []string) {
					if err := s.View(t.Context(), func(tx broker.Tx) error {
						for _, op := range reads {
							out = append(out, op.run(tx))
						}
						return nil
					}); err != nil {
						rt.Fatal(err)
					}
					return out
				}
				compare(rt, reads, run(store), run(model))
			},
		})
	})
}

func compare(rt *rapid.T, ops []op, got, want []string) {
	if reflect.DeepEqual(got, want) {
		return
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			name := "commit"
			if i < len(ops) {
				name = ops[i].name
			}
			rt.Fatalf("%s:\n got %s\nwant %s", name, got[i], want[i])
		}
	}
}

// op is something done in a transaction; its answer is compared as text.
type op struct {
	name string
	run  func(broker.Tx) string
}

func (o op) String() string { return o.name }

func outcome(v any, err error) string {
	if err != nil {
		if err == errStop { // the function's own error comes back as it is
			return "stopped"
		}
		return "error " + string(access.CodeOf(err))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

type gen struct{ prefix string }

func (g gen) grantID(rt *rapid.T) access.GrantID {
	return access.GrantID(g.prefix + rapid.SampledFrom([]string{"g1", "g2", "g3"}).Draw(rt, "grant"))
}

func (g gen) requestID(rt *rapid.T) access.RequestID {
	return access.RequestID(g.prefix + rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(rt, "request"))
}

func (g gen) vm(rt *rapid.T) access.VM {
	return VM(g.prefix + rapid.SampledFrom([]string{"web", "WEB", "db", "Kelvin", "\u212aelvin"}).Draw(rt, "vm"))
}

func (g gen) person(rt *rapid.T) string {
	return g.prefix + rapid.SampledFrom([]string{"ana", "Ana", "bo", "straße", "STRASSE", "Σ", "ς"}).Draw(rt, "person")
}

func (g gen) places(rt *rapid.T) []access.Place {
	var out []access.Place
	for _, n := range rapid.SliceOfN(rapid.SampledFrom([]string{"nsg", "NSG", "other"}), 0, 3).Draw(rt, "places") {
		out = append(out, NSG(g.prefix+n))
	}
	return out
}

func instantOf(rt *rapid.T) time.Time {
	n := rapid.IntRange(-2, 4).Draw(rt, "instant")
	if n == -2 {
		return time.Time{}
	}
	return Epoch.Add(time.Duration(n))
}

func (g gen) grant(rt *rapid.T) access.Grant {
	v := Grant(string(g.grantID(rt)), "x")
	v.Target.VM, v.Requester, v.Places, v.NotBefore, v.EndsAt = g.vm(rt), g.person(rt), g.places(rt), instantOf(rt), instantOf(rt)
	v.State, v.Version = rapid.SampledFrom(access.GrantStates).Draw(rt, "state"), rapid.Int64Range(0, 3).Draw(rt, "version")
	return v
}

func (g gen) request(rt *rapid.T) access.Request {
	v := Request(string(g.requestID(rt)))
	v.Asked.Targets[0].VM, v.Requester, v.ExpiresAt = g.vm(rt), g.person(rt), instantOf(rt)
	v.State, v.Version = rapid.SampledFrom(access.RequestStates).Draw(rt, "state"), rapid.Int64Range(0, 3).Draw(rt, "version")
	return v
}

func (g gen) op(rt *rapid.T) op {
	switch rapid.IntRange(0, 9).Draw(rt, "kind") {
	case 0:
		v := g.request(rt)
		return op{"insert " + string(v.ID), func(tx broker.Tx) string { return outcome(nil, tx.InsertRequest(v)) }}
	case 1, 2: // what is stored, changed: so that versions often fit
		id, to, mine := g.requestID(rt), rapid.SampledFrom(access.RequestStates).Draw(rt, "to"), g.request(rt)
		return op{fmt.Sprintf("move %s to %s", id, to), func(tx broker.Tx) string {
			v, err := tx.Request(id)
			if err != nil {
				return outcome(nil, err)
			}
			mine.ID, mine.State, mine.Version = id, to, v.Version
			return outcome(nil, tx.UpdateRequest(mine))
		}}
	case 3:
		v := g.grant(rt)
		return op{"insert " + string(v.ID), func(tx broker.Tx) string { return outcome(nil, tx.InsertGrant(v)) }}
	case 4, 5:
		id, to, mine := g.grantID(rt), rapid.SampledFrom(access.GrantStates).Draw(rt, "to"), g.grant(rt)
		return op{fmt.Sprintf("move %s to %s", id, to), func(tx broker.Tx) string {
			v, err := tx.Grant(id)
			if err != nil {
				return outcome(nil, err)
			}
			mine.ID, mine.State, mine.Version = id, to, v.Version
			return outcome(nil, tx.UpdateGrant(mine))
		}}
	case 6:
		v := g.grant(rt)
		return op{fmt.Sprintf("put %s in version %d", v.ID, v.Version), func(tx broker.Tx) string { return outcome(nil, tx.UpdateGrant(v)) }}
	case 7:
		v := Protection("x", g.places(rt)...)
		v.VM, v.Version = g.vm(rt), rapid.Int64Range(0, 3).Draw(rt, "version")
		v.State = rapid.SampledFrom([]access.ProtectionState{access.ProtectionOn, access.ProtectionPending, access.ProtectionFailed, access.ProtectionRemoved}).Draw(rt, "state")
		return op{fmt.Sprintf("protect %s in version %d", v.VM.Name, v.Version), func(tx broker.Tx) string { return outcome(nil, tx.PutProtection(v)) }}
	case 8:
		e := audit.Entry{At: Epoch, Actor: g.person(rt), Action: "a", Object: string(g.grantID(rt)), VM: "w", Message: "m"}
		return op{"append", func(tx broker.Tx) string { return outcome(tx.Append(e)) }}
	default:
		caller, key, body := g.person(rt), rapid.SampledFrom([]string{"k", "l"}).Draw(rt, "key"), rapid.SampledFrom([]string{"b", "c"}).Draw(rt, "body")
		return op{"remember " + key, func(tx broker.Tx) string {
			id, ok, err := tx.Remembered(caller, key, body)
			return outcome([]any{id, ok}, err) + outcome(nil, tx.Remember(caller, key, body, "id", Epoch)) + outcome(nil, tx.SetMeta(key, body))
		}}
	}
}

// reads asks for everything in every way.
func (g gen) reads(rt *rapid.T) []op {
	now, n := Epoch.Add(time.Duration(rapid.IntRange(-1, 4).Draw(rt, "now"))), rapid.IntRange(1, 3).Draw(rt, "limit")
	vm, person, place, rid, gid := g.vm(rt), g.person(rt), NSG(g.prefix+rapid.SampledFrom([]string{"nsg", "Nsg", "other"}).Draw(rt, "place")).ID, g.requestID(rt), g.grantID(rt)
	rs, gs := rapid.SampledFrom(access.RequestStates).Draw(rt, "rstate"), rapid.SampledFrom(access.GrantStates).Draw(rt, "gstate")
	pages := func(more func(broker.Page) (any, string, error)) string {
		out, after := "", ""
		for {
			list, next, err := more(broker.Page{After: after, Limit: n})
			if out += outcome(list, err); next == "" {
				return out
			}
			after = next
		}
	}
	return []op{
		{"request", func(tx broker.Tx) string { return outcome(tx.Request(rid)) }},
		{"grant", func(tx broker.Tx) string { return outcome(tx.Grant(gid)) }},
		{"protection", func(tx broker.Tx) string { return outcome(tx.Protection(vm.ID)) }},
		{"requests of a person", func(tx broker.Tx) string {
			return pages(func(p broker.Page) (any, string, error) {
				return tx.Requests(broker.RequestFilter{Requester: person, Page: p})
			})
		}},
		{"requests for a machine", func(tx broker.Tx) string {
			return pages(func(p broker.Page) (any, string, error) {
				return tx.Requests(broker.RequestFilter{VM: vm.ID, States: []access.RequestState{rs, access.Pending}, Page: p})
			})
		}},
		{"grants of a person", func(tx broker.Tx) string {
			return pages(func(p broker.Page) (any, string, error) {
				return tx.Grants(broker.GrantFilter{Requester: person, Page: p})
			})
		}},
		{"grants for a machine", func(tx broker.Tx) string {
			return pages(func(p broker.Page) (any, string, error) {
				return tx.Grants(broker.GrantFilter{VM: vm.ID, States: []access.GrantState{gs, access.Active, access.Scheduled}, Page: p})
			})
		}},
		{"live grants at a place", func(tx broker.Tx) string { return outcome(tx.LiveGrantsAt(place)) }},
		{"protections at a place", func(tx broker.Tx) string { return outcome(tx.ProtectionsAt(place)) }},
		{"number of live grants", func(tx broker.Tx) string { l, err := tx.LiveGrants(); return outcome(len(l), err) }},
		{"number of protections", func(tx broker.Tx) string { l, err := tx.Protections(); return outcome(len(l), err) }},
		{"expired", func(tx broker.Tx) string { return outcome(tx.PendingExpired(now, n)) }},
		{"due", func(tx broker.Tx) string { return outcome(tx.DueGrants(now, n)) }},
		{"over", func(tx broker.Tx) string { return outcome(tx.OverGrants(now, n)) }},
		{"next", func(tx broker.Tx) string { return outcome(tx.Due()) }},
		{"log", func(tx broker.Tx) string {
			return outcome(tx.Entries(broker.AuditFilter{Actor: person, Limit: n}))
		}},
		{"checkpoint", func(tx broker.Tx) string {
			c, err := tx.Checkpoint()
			return outcome([]any{c.Size, c.Root}, err)
		}},
	}
}

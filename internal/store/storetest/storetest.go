package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
)

// Epoch is an instant that tests count from; its nanoseconds have to survive.
var Epoch = time.Date(2026, 11, 22, 9, 30, 0, 123456789, time.UTC)

// Run runs the whole suite. Open returns a new, empty store and closes it when the test is over.
func Run(t *testing.T, open func(t *testing.T) broker.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, broker.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"MissingAndTwice", testMissingAndTwice},
		{"EveryRequestMove", testRequestMoves},
		{"EveryGrantMove", testGrantMoves},
		{"StaleVersions", testStale},
		{"ConcurrentMoves", testConcurrentMoves},
		{"TwoWriters", testTwoWriters},
		{"Rollback", testRollback},
		{"Panic", testPanic},
		{"ViewsDoNotWrite", testViewsDoNotWrite},
		{"ViewIsOneState", testViewIsOneState},
		{"Paging", testPaging},
		{"Filters", testFilters},
		{"Sweeps", testSweeps},
		{"Protections", testProtections},
		{"Log", testLog},
		{"LogFilters", testLogFilters},
		{"Scans", testScans},
		{"Records", testRecords},
		{"Notices", testNotices},
		{"Idempotency", testIdempotency},
		{"SpooledOnce", testSpooledOnce},
		{"Unstorable", testUnstorable},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
	if _, reference := open(t).(*Memory); reference {
		return // it does not guard against misuse, and is not compared with itself
	}
	t.Run("UseAfterEnd", func(t *testing.T) { testUseAfterEnd(t, open(t)) })
	t.Run("Model", func(t *testing.T) { testModel(t, open) })
}

// VM returns a machine for tests.
func VM(name string) access.VM {
	return access.VM{ID: "/subscriptions/0000/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/" + name, Name: name, VMID: "vmid-" + name}
}

// NSG returns a place for tests.
func NSG(name string) access.Place {
	return access.Place{ID: "/subscriptions/0000/resourceGroups/Prod/providers/Microsoft.Network/networkSecurityGroups/" + name,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("fd00::4")}}
}

func target(vm string) access.Target {
	return access.Target{VM: VM(vm), Ports: access.Port(22), Protocol: access.TCP}
}

// Request returns a pending request with everything set.
func Request(id string) access.Request {
	terms := access.Terms{Targets: []access.Target{target("web-01"), target("Web-02")}, Source: netip.MustParsePrefix("203.0.113.7/32"), Duration: time.Hour}
	return access.Request{ID: access.RequestID(id), Requester: "Ana@example.com", Asked: terms, Terms: terms, StartAt: Epoch.Add(time.Minute), Reason: "INC-4711 „Platte“",
		Ticket: "INC-4711", Extends: "g-aaaaaaaaaa", Needs: []access.Need{{Rule: "prod", Steps: []access.Step{{Count: 2}}}}, Rules: []string{"prod"}, State: access.Pending, CreatedAt: Epoch, ExpiresAt: Epoch.Add(24 * time.Hour),
		Reviews: []access.Review{{Reviewer: "bo", Decision: access.Approve, Comment: "ok", Narrowed: &terms, At: Epoch.Add(time.Second)}}, Grants: []access.GrantID{"g-bbbbbbbbbb"}}
}

// Grant returns a scheduled grant.
func Grant(id, vm string) access.Grant {
	return access.Grant{ID: access.GrantID(id), Request: "r-1", Requester: "ana@example.com", Target: target(vm), Source: netip.MustParsePrefix("2001:db8::/64"),
		Duration: time.Hour, NotBefore: Epoch, State: access.Scheduled, CreatedAt: Epoch}
}

// LiveGrant returns an active grant at a place.
func LiveGrant(id, vm string, ends time.Time, places ...access.Place) access.Grant {
	g := Grant(id, vm)
	g.State, g.StartsAt, g.EndsAt, g.ReadyAt, g.Places = access.Active, Epoch, ends, Epoch.Add(time.Second), places
	return g
}

// Protection returns a protection that is on.
func Protection(vm string, places ...access.Place) access.Protection {
	return access.Protection{VM: VM(vm), Ports: []access.ProtectedPort{{Ports: access.Ports{First: 8000, Last: 8010}, Protocol: access.TCP, Max: time.Hour,
		Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}}, Exemptions: []access.Exemption{{Name: "bastion", Source: "10.1.0.0/26"}},
		Replaced: []access.Replacement{{NSG: "nsg", Rule: "allow-ssh", Original: []byte(`{"name":"allow-ssh"}`), By: "ana"}}, State: access.ProtectionOn, Why: "because",
		By: "ana", At: Epoch, CheckedAt: Epoch.Add(time.Minute), Places: places}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, s broker.Store, fn func(broker.Tx) error) {
	t.Helper()
	must(t, s.Update(t.Context(), fn))
}

func wantCode(t *testing.T, err error, want access.Code) {
	t.Helper()
	if got := access.CodeOf(err); got != want {
		t.Errorf("got code %q (%v), want %q", got, err, want)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func ids[T any](list []T, id func(T) string) []string {
	out := []string{}
	for _, v := range list {
		out = append(out, id(v))
	}
	return out
}

func grantIDs(list []access.Grant) []string {
	return ids(list, func(g access.Grant) string { return string(g.ID) })
}

func requestIDs(list []access.Request) []string {
	return ids(list, func(r access.Request) string { return string(r.ID) })
}

func testRoundTrip(t *testing.T, s broker.Store) {
	r, g := Request("r-1"), LiveGrant("g-1", "web-01", Epoch.Add(time.Hour+1), NSG("a"), NSG("B"))
	g.NotReady, g.Drifted, g.Restored, g.BreakGlass, g.EndReason, g.EndedBy, g.EndedAt, g.LastError = "x", true, 1, true, access.ReasonDone, "ana", Epoch, "e"
	bare := access.Grant{ID: "g-2", State: access.Scheduled, Target: target("w")} // every instant zero
	do(t, s, func(tx broker.Tx) error {
		return errors.Join(tx.InsertRequest(r), tx.InsertGrant(g), tx.InsertGrant(bare))
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		r2, err := tx.Request("r-1")
		must(t, err)
		equal(t, "request", r2, r)
		g2, err := tx.Grant("g-1")
		must(t, err)
		equal(t, "grant", g2, g)
		b2, err := tx.Grant("g-2")
		must(t, err)
		equal(t, "bare grant", b2, bare)
		if !b2.EndsAt.IsZero() || !b2.NotBefore.IsZero() {
			t.Errorf("instants that were zero are not: %+v", b2)
		}
		return nil
	}))
	r.Reason, r.Version = "other", 0
	do(t, s, func(tx broker.Tx) error { return tx.UpdateRequest(r) })
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		r2, err := tx.Request("r-1")
		must(t, err)
		r.Version = 1
		equal(t, "changed request", r2, r)
		return nil
	}))
}

func testMissingAndTwice(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		_, err := tx.Request("r-1")
		wantCode(t, err, access.CodeNotFound)
		_, err = tx.Grant("g-1")
		wantCode(t, err, access.CodeNotFound)
		_, err = tx.Protection("vm")
		wantCode(t, err, access.CodeNotFound)
		wantCode(t, tx.UpdateRequest(Request("r-1")), access.CodeNotFound)
		wantCode(t, tx.UpdateGrant(Grant("g-1", "w")), access.CodeNotFound)
		p := Protection("w")
		p.Version = 1
		wantCode(t, tx.PutProtection(p), access.CodeNotFound)
		_, _, err = tx.Requests(broker.RequestFilter{Page: broker.Page{After: "r-9"}})
		wantCode(t, err, access.CodeInvalid)
		_, _, err = tx.Grants(broker.GrantFilter{Page: broker.Page{Limit: 501}})
		wantCode(t, err, access.CodeInvalid)
		_, err = tx.Entries(broker.AuditFilter{Limit: -1})
		wantCode(t, err, access.CodeInvalid)
		must(t, tx.InsertRequest(Request("r-1")))
		wantCode(t, tx.InsertRequest(Request("r-1")), access.CodeConflict)
		must(t, tx.InsertGrant(Grant("g-1", "w")))
		wantCode(t, tx.InsertGrant(Grant("g-1", "w")), access.CodeConflict)
		must(t, tx.PutProtection(Protection("w")))
		wantCode(t, tx.PutProtection(Protection("W")), access.CodeConflict) // ids are compared without case
		return nil
	})
}

func testRequestMoves(t *testing.T, s broker.Store) {
	for i, from := range access.RequestStates {
		for j, to := range access.RequestStates {
			r := Request(fmt.Sprintf("r-%d-%d", i, j))
			r.State = from
			do(t, s, func(tx broker.Tx) error { return tx.InsertRequest(r) })
			r.State = to
			checkMove(t, fmt.Sprintf("request %s → %s", from, to), from == to || from.CanMove(to),
				s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateRequest(r) }), func() (string, int64) {
					var got access.Request
					must(t, s.View(t.Context(), func(tx broker.Tx) (err error) { got, err = tx.Request(r.ID); return err }))
					return string(got.State), got.Version
				}, string(from), string(to))
			// The same move again, by somebody who read the same version.
			wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateRequest(r) }), access.CodeConflict)
		}
	}
}

func testGrantMoves(t *testing.T, s broker.Store) {
	for i, from := range access.GrantStates {
		for j, to := range access.GrantStates {
			g := Grant(fmt.Sprintf("g-%d-%d", i, j), "web-01")
			g.State = from
			do(t, s, func(tx broker.Tx) error { return tx.InsertGrant(g) })
			g.State = to
			checkMove(t, fmt.Sprintf("grant %s → %s", from, to), from == to || from.CanMove(to),
				s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateGrant(g) }), func() (string, int64) {
					var got access.Grant
					must(t, s.View(t.Context(), func(tx broker.Tx) (err error) { got, err = tx.Grant(g.ID); return err }))
					return string(got.State), got.Version
				}, string(from), string(to))
			wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.UpdateGrant(g) }), access.CodeConflict)
		}
	}
}

func checkMove(t *testing.T, what string, allowed bool, err error, read func() (string, int64), from, to string) {
	t.Helper()
	state, version := read()
	if allowed && (err != nil || state != to || version != 1) {
		t.Errorf("%s: allowed, but got %v; it is %s in version %d", what, err, state, version)
	}
	if !allowed && (access.CodeOf(err) != access.CodeConflict || state != from || version != 0) {
		t.Errorf("%s: forbidden, but got %v; it is %s in version %d", what, err, state, version)
	}
}

// A refused change changes nothing, and the transaction that met it may go on.
func testStale(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		return errors.Join(tx.InsertRequest(Request("r-1")), tx.InsertGrant(Grant("g-1", "w")), tx.PutProtection(Protection("w", NSG("a"))))
	})
	do(t, s, func(tx broker.Tx) error {
		r, g, p := Request("r-1"), Grant("g-1", "w"), Protection("w", NSG("b"))
		r.Version, g.Version, p.Version = 7, 7, 7
		g.Places = []access.Place{NSG("a")}
		wantCode(t, tx.UpdateRequest(r), access.CodeConflict)
		wantCode(t, tx.UpdateGrant(g), access.CodeConflict)
		wantCode(t, tx.PutProtection(p), access.CodeConflict)
		at, err := tx.ProtectionsAt(NSG("b").ID)
		must(t, err)
		if len(at) != 0 {
			t.Errorf("the places of a refused protection are stored: %v", at)
		}
		return tx.SetMeta("went", "on")
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		if v, err := tx.Meta("went"); v != "on" {
			t.Errorf("got %q, %v", v, err)
		}
		return nil
	}))
}

// P6, P8: of two who move the same thing at the same instant, one wins and the other is told.
func testConcurrentMoves(t *testing.T, s broker.Store) {
	for _, from := range access.GrantStates {
		for _, to := range access.GrantStates {
			if !from.CanMove(to) {
				continue
			}
			g := Grant("g-"+string(from)+"-"+string(to), "w")
			g.State = from
			do(t, s, func(tx broker.Tx) error { return tx.InsertGrant(g) })
			g.State = to
			race(t, s, func(tx broker.Tx) error { return tx.UpdateGrant(g) })
		}
	}
	for _, to := range access.RequestStates[1:] {
		r := Request("r-" + string(to))
		do(t, s, func(tx broker.Tx) error { return tx.InsertRequest(r) })
		r.State = to
		race(t, s, func(tx broker.Tx) error { return tx.UpdateRequest(r) })
	}
	do(t, s, func(tx broker.Tx) error { return tx.PutProtection(Protection("w")) })
	p := Protection("w")
	p.Version = 1
	race(t, s, func(tx broker.Tx) error { return tx.PutProtection(p) })
}

func race(t *testing.T, s broker.Store, fn func(broker.Tx) error) {
	t.Helper()
	const n = 4
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = s.Update(context.Background(), fn) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if access.CodeOf(err) != access.CodeConflict {
			t.Errorf("got %v, want a conflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d won the same move", won, n)
	}
}

func testTwoWriters(t *testing.T, s broker.Store) {
	const writers, each = 6, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				err := s.Update(context.Background(), func(tx broker.Tx) error {
					v, err := tx.Meta("n")
					if err != nil {
						return err
					}
					n := 0
					if v != "" {
						if _, err := fmt.Sscan(v, &n); err != nil {
							return err
						}
					}
					e, err := tx.Append(audit.Entry{At: Epoch, Actor: fmt.Sprint(w), Action: "count", Message: "m"})
					if err != nil {
						return err
					}
					if e.Index != int64(n) {
						return fmt.Errorf("entry %d in transaction %d", e.Index, n)
					}
					return tx.SetMeta("n", fmt.Sprint(n+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		v, err := tx.Meta("n")
		must(t, err)
		size, err := tx.LogSize()
		must(t, err)
		if v != fmt.Sprint(writers*each) || size != writers*each {
			t.Errorf("got %s and %d entries, want %d: changes were lost", v, size, writers*each)
		}
		return nil
	}))
}

var errStop = errors.New("stop")

// everything writes one of each.
func everything(tx broker.Tx) error {
	_, err := tx.Append(audit.Entry{At: Epoch, Actor: "ana", Action: "test", Message: "m"})
	return errors.Join(err, tx.InsertRequest(Request("r-1")), tx.InsertGrant(LiveGrant("g-1", "w", Epoch, NSG("a"))), tx.PutProtection(Protection("w", NSG("a"))),
		tx.Remember("ana", "k", "h", "r-1", Epoch), tx.SetMeta("k", "v"))
}

func wantNothing(t *testing.T, s broker.Store, before audit.Checkpoint) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		_, err := tx.Request("r-1")
		wantCode(t, err, access.CodeNotFound)
		_, err = tx.Grant("g-1")
		wantCode(t, err, access.CodeNotFound)
		_, err = tx.Protection(VM("w").ID)
		wantCode(t, err, access.CodeNotFound)
		_, known, err := tx.Remembered("ana", "k", "h")
		must(t, err)
		v, err := tx.Meta("k")
		must(t, err)
		live, err := tx.LiveGrantsAt(NSG("a").ID)
		must(t, err)
		entries, err := tx.Entries(broker.AuditFilter{})
		must(t, err)
		after, err := tx.Checkpoint()
		must(t, err)
		if known || v != "" || len(live) != 0 || len(entries) != int(before.Size) || after != before {
			t.Errorf("something stayed: key %v, meta %q, %d grants, %d entries, checkpoint %v, want %v", known, v, len(live), len(entries), after, before)
		}
		return nil
	}))
}

func checkpoint(t *testing.T, s broker.Store) (c audit.Checkpoint) {
	t.Helper()
	must(t, s.View(t.Context(), func(tx broker.Tx) (err error) { c, err = tx.Checkpoint(); return err }))
	return c
}

// P7: what is rolled back leaves nothing, the log included.
func testRollback(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		_, err := tx.Append(audit.Entry{At: Epoch, Actor: "a", Action: "b"})
		return err
	})
	before := checkpoint(t, s)
	if err := s.Update(t.Context(), func(tx broker.Tx) error {
		must(t, everything(tx))
		return errStop
	}); !errors.Is(err, errStop) {
		t.Errorf("got %v, want the error of the function as it is", err)
	}
	wantNothing(t, s, before)
	do(t, s, everything)
}

func testPanic(t *testing.T, s broker.Store) {
	before := checkpoint(t, s)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = s.Update(t.Context(), func(tx broker.Tx) error {
			must(t, everything(tx))
			panic("stop")
		})
	}()
	wantNothing(t, s, before)
	do(t, s, everything)
}

func testViewsDoNotWrite(t *testing.T, s broker.Store) {
	before := checkpoint(t, s)
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		for name, err := range map[string]error{
			"InsertRequest": tx.InsertRequest(Request("r-1")), "InsertGrant": tx.InsertGrant(Grant("g-1", "w")), "PutProtection": tx.PutProtection(Protection("w")),
			"Remember": tx.Remember("ana", "k", "h", "r-1", Epoch), "Forget": tx.Forget(Epoch), "SetMeta": tx.SetMeta("k", "v"),
			"InsertScan": tx.InsertScan(Scan("s-1", Epoch)), "ForgetScans": tx.ForgetScans(0, Epoch),
			"UpdateRequest": tx.UpdateRequest(Request("r-1")), "UpdateGrant": tx.UpdateGrant(Grant("g-1", "w")),
		} {
			if err == nil {
				t.Errorf("%s wrote in a View", name)
			}
		}
		if _, err := tx.Append(audit.Entry{At: Epoch}); err == nil {
			t.Error("Append wrote in a View")
		}
		return nil
	}))
	wantNothing(t, s, before)
	if err := s.View(t.Context(), func(broker.Tx) error { return errStop }); !errors.Is(err, errStop) {
		t.Errorf("got %v, want the error of the function as it is", err)
	}
}

func testViewIsOneState(t *testing.T, s broker.Store) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Update(context.Background(), func(tx broker.Tx) error {
				_, err := tx.Append(audit.Entry{At: Epoch, Actor: "a"})
				return errors.Join(err, tx.SetMeta("n", "x"))
			}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			a, err := tx.LogSize()
			must(t, err)
			list, err := tx.Entries(broker.AuditFilter{Limit: 1})
			must(t, err)
			c, err := tx.Checkpoint()
			must(t, err)
			b, err := tx.LogSize()
			must(t, err)
			if a != b || c.Size != a || len(list) > 0 && list[0].Index != a-1 {
				t.Errorf("one view saw sizes %d, %d, %d", a, c.Size, b)
			}
			return nil
		}))
	}
	close(stop)
	wg.Wait()
}

func testUseAfterEnd(t *testing.T, s broker.Store) {
	var kept broker.Tx
	do(t, s, func(tx broker.Tx) error { kept = tx; return tx.SetMeta("k", "v") })
	wantCode(t, kept.SetMeta("k", "w"), access.CodeInternal)
	_, err := kept.Meta("k")
	wantCode(t, err, access.CodeInternal)
}

func testUnstorable(t *testing.T, s broker.Store) {
	before := checkpoint(t, s)
	g := Grant("g-1", "w")
	g.Target.Ports = access.Ports{First: 9, Last: 3} // is written, and cannot be read back
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.InsertGrant(g) }), access.CodeInvalid)
	if _, ok := s.(*Memory); !ok {
		far := Grant("g-1", "w")
		far.EndsAt = time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC)
		wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.InsertGrant(far) }), access.CodeInvalid)
		for _, bad := range []access.GrantState{"", "open"} {
			g := Grant("g-1", "w")
			g.State = bad
			wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.InsertGrant(g) }), access.CodeInvalid)
		}
	}
	wantNothing(t, s, before)
}

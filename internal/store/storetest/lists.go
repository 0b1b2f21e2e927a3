package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
)

// Pages do not shift when something is inserted between them, also when the clock goes back.
func testPaging(t *testing.T, s broker.Store) {
	add := func(from, to int) {
		do(t, s, func(tx broker.Tx) error {
			for i := from; i < to; i++ {
				r, g := Request(fmt.Sprintf("r-%03d", i)), Grant(fmt.Sprintf("g-%03d", i), "web-01")
				r.CreatedAt, g.CreatedAt = Epoch.Add(-time.Duration(i)*time.Hour), Epoch.Add(-time.Duration(i)*time.Hour)
				must(t, tx.InsertRequest(r))
				must(t, tx.InsertGrant(g))
			}
			return nil
		})
	}
	add(0, 25)
	var requests, grants []string
	after, afterGrant := "", ""
	for pages := 0; ; pages++ {
		if pages > 10 {
			t.Fatal("paging does not end")
		}
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			list, next, err := tx.Requests(broker.RequestFilter{Page: broker.Page{After: after, Limit: 7}})
			must(t, err)
			requests, after = append(requests, requestIDs(list)...), next
			glist, gnext, err := tx.Grants(broker.GrantFilter{Page: broker.Page{After: afterGrant, Limit: 7}})
			must(t, err)
			grants, afterGrant = append(grants, grantIDs(glist)...), gnext
			return nil
		}))
		if after == "" {
			break
		}
		add(100+pages*3, 100+pages*3+3)
	}
	var wantR, wantG []string
	for i := 24; i >= 0; i-- {
		wantR, wantG = append(wantR, fmt.Sprintf("r-%03d", i)), append(wantG, fmt.Sprintf("g-%03d", i))
	}
	equal(t, "requests over all pages", requests, wantR)
	equal(t, "grants over all pages", grants, wantG)
	must(t, s.View(t.Context(), func(tx broker.Tx) error { // a page that is just full is the last one
		_, next, err := tx.Requests(broker.RequestFilter{Page: broker.Page{After: "r-007", Limit: 7}})
		must(t, err)
		equal(t, "where to go on after the last", next, "")
		return nil
	}))
}

func testFilters(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		for i, vm := range []string{"web-01", "web-01", "db-01"} {
			r, g := Request(fmt.Sprint("r-", i)), Grant(fmt.Sprint("g-", i), vm)
			r.Asked.Targets, r.Terms.Targets = []access.Target{target(vm)}, []access.Target{target(vm)}
			r.State, g.State = access.RequestStates[i], access.GrantStates[i]
			if i == 1 {
				r.Requester, g.Requester = "Bo", "Bo"
			}
			g.Request = r.ID
			must(t, tx.InsertRequest(r))
			must(t, tx.InsertGrant(g))
		}
		return nil
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		for _, c := range []struct {
			f    broker.RequestFilter
			want []string
		}{
			{broker.RequestFilter{}, []string{"r-2", "r-1", "r-0"}},
			{broker.RequestFilter{Requester: "bO"}, []string{"r-1"}},
			{broker.RequestFilter{VM: VM("WEB-01").ID}, []string{"r-1", "r-0"}},
			{broker.RequestFilter{States: []access.RequestState{access.Pending, access.Denied}}, []string{"r-2", "r-0"}},
			{broker.RequestFilter{VM: VM("web-01").ID, Requester: "ana@EXAMPLE.com", States: []access.RequestState{access.Pending}}, []string{"r-0"}},
			{broker.RequestFilter{Requester: "nobody"}, []string{}},
		} {
			list, _, err := tx.Requests(c.f)
			must(t, err)
			equal(t, fmt.Sprintf("%+v", c.f), requestIDs(list), c.want)
		}
		for _, c := range []struct {
			f    broker.GrantFilter
			want []string
		}{
			{broker.GrantFilter{}, []string{"g-2", "g-1", "g-0"}},
			{broker.GrantFilter{Requester: "BO"}, []string{"g-1"}},
			{broker.GrantFilter{VM: VM("Web-01").ID}, []string{"g-1", "g-0"}},
			{broker.GrantFilter{Request: "r-2"}, []string{"g-2"}},
			{broker.GrantFilter{States: []access.GrantState{access.Scheduled, access.Active}}, []string{"g-2", "g-0"}},
			{broker.GrantFilter{States: []access.GrantState{access.Scheduled}, VM: VM("db-01").ID}, []string{}},
		} {
			list, _, err := tx.Grants(c.f)
			must(t, err)
			equal(t, fmt.Sprintf("%+v", c.f), grantIDs(list), c.want)
		}
		return nil
	}))
}

// P1, P2: what is due and over is found by its instants, to the nanosecond, in every state that counts and in no other.
func testSweeps(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		for i, st := range access.GrantStates {
			g := LiveGrant(fmt.Sprint("g-", st), "web-01", Epoch.Add(time.Duration(10-i)*time.Minute), NSG("A"), NSG("a"), NSG("b"))
			g.State = st
			must(t, tx.InsertGrant(g))
		}
		late := Grant("g-late", "web-01")
		late.NotBefore = Epoch.Add(1)
		must(t, tx.InsertGrant(late))
		for i, st := range access.RequestStates {
			r := Request(fmt.Sprint("r-", i))
			r.State = st
			must(t, tx.InsertRequest(r))
		}
		never := Request("r-never")
		never.ExpiresAt = time.Time{}
		return tx.InsertRequest(never)
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		live := []string{"g-activating", "g-active", "g-closing", "g-close_failed"}
		list, err := tx.LiveGrants()
		must(t, err)
		equal(t, "live", grantIDs(list), live)
		for _, place := range []string{NSG("a").ID, NSG("B").ID} {
			list, err = tx.LiveGrantsAt(place)
			must(t, err)
			equal(t, "live at "+place, grantIDs(list), live)
		}
		list, err = tx.LiveGrantsAt(NSG("c").ID)
		must(t, err)
		equal(t, "live elsewhere", grantIDs(list), []string{})

		for _, c := range []struct {
			now  time.Time
			n    int
			want []string
		}{{Epoch.Add(-1), 9, []string{}}, {Epoch, 9, []string{"g-scheduled"}}, {Epoch.Add(1), 9, []string{"g-scheduled", "g-late"}}, {Epoch.Add(1), 1, []string{"g-scheduled"}}} {
			list, err = tx.DueGrants(c.now, c.n)
			must(t, err)
			equal(t, fmt.Sprint("due at ", c.now), grantIDs(list), c.want)
		}
		for _, c := range []struct {
			now  time.Time
			n    int
			want []string
		}{{Epoch.Add(8*time.Minute - 1), 9, []string{}}, {Epoch.Add(8 * time.Minute), 9, []string{"g-active"}},
			{Epoch.Add(time.Hour), 9, []string{"g-active", "g-activating"}}, {Epoch.Add(time.Hour), 1, []string{"g-active"}}} {
			list, err = tx.OverGrants(c.now, c.n)
			must(t, err)
			equal(t, fmt.Sprint("over at ", c.now), grantIDs(list), c.want)
		}
		for _, c := range []struct {
			now  time.Time
			want []string
		}{{Epoch.Add(24*time.Hour - 1), []string{}}, {Epoch.Add(24 * time.Hour), []string{"r-0"}}} {
			rs, err := tx.PendingExpired(c.now, 5)
			must(t, err)
			equal(t, fmt.Sprint("expired at ", c.now), requestIDs(rs), c.want)
		}
		due, err := tx.Due()
		must(t, err)
		equal(t, "due", due, broker.Due{Opening: Epoch, Closing: Epoch.Add(8 * time.Minute), Expiry: Epoch.Add(24 * time.Hour)})
		return nil
	}))
	// A grant that is over leaves its places.
	do(t, s, func(tx broker.Tx) error {
		g, err := tx.Grant("g-closing")
		must(t, err)
		g.State, g.Places = access.Ended, nil
		return tx.UpdateGrant(g)
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		list, err := tx.LiveGrantsAt(NSG("a").ID)
		must(t, err)
		equal(t, "live after one ended", grantIDs(list), []string{"g-activating", "g-active", "g-close_failed"})
		return nil
	}))
}

func testProtections(t *testing.T, s broker.Store) {
	names := func(list []access.Protection) []string {
		return ids(list, func(p access.Protection) string { return p.VM.Name })
	}
	want := Protection("b", NSG("x"), NSG("y"))
	do(t, s, func(tx broker.Tx) error {
		must(t, tx.PutProtection(want))
		must(t, tx.PutProtection(Protection("A", NSG("x"))))
		off := Protection("c", NSG("x"))
		off.State = access.ProtectionRemoved
		return tx.PutProtection(off)
	})
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		p, err := tx.Protection(VM("B").ID)
		must(t, err)
		want.Version = 1
		equal(t, "protection", p, want)
		list, err := tx.Protections()
		must(t, err)
		equal(t, "all that are not off", names(list), []string{"A", "b"})
		list, err = tx.ProtectionsAt(NSG("X").ID)
		must(t, err)
		equal(t, "at x", names(list), []string{"A", "b"})
		list, err = tx.ProtectionsAt(NSG("y").ID)
		must(t, err)
		equal(t, "at y", names(list), []string{"b"})
		off, err := tx.Protection(VM("c").ID)
		must(t, err)
		equal(t, "the one that is off", off.State, access.ProtectionRemoved)
		return nil
	}))
	want.Places, want.State = []access.Place{NSG("z")}, access.ProtectionFailed
	do(t, s, func(tx broker.Tx) error { return tx.PutProtection(want) })
	wantCode(t, s.Update(t.Context(), func(tx broker.Tx) error { return tx.PutProtection(want) }), access.CodeConflict)
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		list, err := tx.ProtectionsAt(NSG("y").ID)
		must(t, err)
		equal(t, "at y after it moved", names(list), []string{})
		list, err = tx.ProtectionsAt(NSG("z").ID)
		must(t, err)
		equal(t, "at z", names(list), []string{"b"})
		return nil
	}))
}

// P7: the checkpoint is that of the records, computed here by another way.
func testLog(t *testing.T, s broker.Store) {
	var records [][]byte
	empty := checkpoint(t, s)
	for i := range 70 {
		do(t, s, func(tx broker.Tx) error {
			e, err := tx.Append(audit.Entry{Index: 99, At: Epoch.Add(time.Duration(i)).In(time.FixedZone("x", 3600)), Actor: "ana", Action: "grant.open", Outcome: audit.Done,
				Message: fmt.Sprintf("entry %d <„>", i), Detail: map[string]string{"b": "2", "a": "1"}})
			must(t, err)
			if e.Index != int64(i) || e.At.Location() != time.UTC {
				t.Errorf("got entry %d at %s, want %d in UTC", e.Index, e.At, i)
			}
			b, err := e.Record()
			records = append(records, b)
			return err
		})
	}
	all := map[int64]tlog.Hash{}
	read := tlog.HashReaderFunc(func(list []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range list {
			out = append(out, all[i])
		}
		return out, nil
	})
	for i, r := range records {
		hs, err := tlog.StoredHashes(int64(i), r, read)
		must(t, err)
		for j, h := range hs {
			all[tlog.StoredHashIndex(0, int64(i))+int64(j)] = h
		}
	}
	got := checkpoint(t, s)
	root, err := tlog.TreeHash(70, read)
	must(t, err)
	equal(t, "checkpoint", got, audit.Checkpoint{Origin: got.Origin, Size: 70, Root: root})
	if empty.Size != 0 || got.Origin == "" || empty.Origin != got.Origin {
		t.Errorf("the checkpoint of the empty log is %+v", empty)
	}
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		list, err := tx.Entries(broker.AuditFilter{Ascending: true, After: -1})
		must(t, err)
		for i, e := range list {
			b, err := e.Record()
			must(t, err)
			if string(b) != string(records[i]) {
				t.Errorf("entry %d reads back as %s, want %s", i, b, records[i])
			}
		}
		equal(t, "entries", len(list), 70)
		return nil
	}))
}

func testLogFilters(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		for i := range 12 {
			e := audit.Entry{At: Epoch.Add(time.Duration(i) * time.Minute), Actor: "Ana", Action: "grant.open", Object: fmt.Sprint("g-", i%3), VM: "Web-01", Message: "m"}
			if i%2 == 1 {
				e.Actor, e.Action, e.VM = "curfew", "grant.shut", "db-01"
			}
			if _, err := tx.Append(e); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range []struct {
		name string
		f    broker.AuditFilter
		want []int64
	}{
		{"newest first", broker.AuditFilter{Limit: 3}, []int64{11, 10, 9}},
		{"before 9", broker.AuditFilter{Limit: 3, After: 9}, []int64{8, 7, 6}},
		{"from the start", broker.AuditFilter{Limit: 3, Ascending: true, After: -1}, []int64{0, 1, 2}},
		{"after 0", broker.AuditFilter{Limit: 3, Ascending: true}, []int64{1, 2, 3}},
		{"actor, action", broker.AuditFilter{Actor: "ANA", Action: "grant.open", Limit: 2}, []int64{10, 8}},
		{"action as a whole", broker.AuditFilter{Action: "grant"}, nil},
		{"object", broker.AuditFilter{Object: "G-1"}, []int64{10, 7, 4, 1}},
		{"vm", broker.AuditFilter{VM: "web-01", Limit: 2}, []int64{10, 8}},
		{"since is in, until is out", broker.AuditFilter{Since: Epoch.Add(3 * time.Minute), Until: Epoch.Add(5 * time.Minute)}, []int64{4, 3}},
		{"all of it", broker.AuditFilter{Actor: "curfew", Action: "grant.shut", Object: "g-1", VM: "DB-01", Since: Epoch, Until: Epoch.Add(time.Hour), Ascending: true}, []int64{1, 7}},
	} {
		must(t, s.View(t.Context(), func(tx broker.Tx) error {
			list, err := tx.Entries(c.f)
			must(t, err)
			var got []int64
			for _, e := range list {
				got = append(got, e.Index)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
			return nil
		}))
	}
}

func testIdempotency(t *testing.T, s broker.Store) {
	do(t, s, func(tx broker.Tx) error {
		_, ok, err := tx.Remembered("ana", "k", "h")
		must(t, err)
		equal(t, "known before", ok, false)
		must(t, tx.Remember("ana", "k", "h", "r-1", Epoch))
		wantCode(t, tx.Remember("ana", "k", "h", "r-2", Epoch), access.CodeConflict)
		return nil
	})
	do(t, s, func(tx broker.Tx) error {
		id, ok, err := tx.Remembered("ana", "k", "h")
		must(t, err)
		equal(t, "what it made", id, "r-1")
		equal(t, "known", ok, true)
		_, _, err = tx.Remembered("ana", "k", "other body")
		wantCode(t, err, access.CodeConflict)
		_, ok, err = tx.Remembered("bo", "k", "h")
		must(t, err)
		equal(t, "another caller's key", ok, false)
		return tx.Remember("bo", "k", "h", "r-3", Epoch)
	})
	do(t, s, func(tx broker.Tx) error {
		must(t, tx.Remember("ana", "late", "h", "r-4", Epoch.Add(time.Hour)))
		must(t, tx.Forget(Epoch.Add(time.Hour)))
		_, ok, err := tx.Remembered("ana", "k", "h")
		must(t, err)
		equal(t, "a forgotten key", ok, false)
		_, ok, err = tx.Remembered("ana", "late", "h")
		must(t, err)
		equal(t, "a key that is not old enough", ok, true)
		return tx.Remember("ana", "k", "another body", "r-5", Epoch.Add(time.Hour))
	})
	do(t, s, func(tx broker.Tx) error {
		must(t, tx.SetMeta("a", "1"))
		must(t, tx.SetMeta("a", "2"))
		v, err := tx.Meta("a")
		must(t, err)
		equal(t, "meta", v, "2")
		v, err = tx.Meta("b")
		must(t, err)
		equal(t, "unset meta", v, "")
		return nil
	})
}

// P7: what was spooled is recorded once, however often it is handed out.
func testSpooledOnce(t *testing.T, s broker.Store) {
	spool, err := audit.OpenSpool("")
	must(t, err)
	for i := range 5 {
		must(t, spool.Add(audit.Entry{At: Epoch, Actor: "curfew", Action: "grant.shut", Message: fmt.Sprint(i)}))
	}
	must(t, spool.Drain(func(es []audit.Entry) error {
		for range 3 { // as after crashes between the commit and the shortening of the file
			do(t, s, func(tx broker.Tx) error { return audit.RecordSpooled(tx, es) })
		}
		return nil
	}))
	must(t, s.View(t.Context(), func(tx broker.Tx) error {
		list, err := tx.Entries(broker.AuditFilter{Ascending: true, After: -1})
		must(t, err)
		equal(t, "recorded", ids(list, func(e audit.Entry) string { return e.Message }), []string{"0", "1", "2", "3", "4"})
		for _, e := range list {
			if !e.Late {
				t.Errorf("entry %d is not marked as late", e.Index)
			}
		}
		return nil
	}))
}

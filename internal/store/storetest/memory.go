// Package storetest is the suite that every implementation of broker.Store passes, and a reference store that is as dumb as it can
// be: whole copies, linear searches, nothing on disk.
package storetest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Memory is the reference store. Its zero value is empty and ready.
type Memory struct {
	mu    sync.Mutex
	state state
}

type state struct {
	requests    []access.Request // in the order of insertion
	grants      []access.Grant
	protections []access.Protection
	scans       []broker.ScanRecord
	records     []broker.Record
	notices     []notify.Notice
	log         []audit.Entry
	hashes      []tlog.Hash
	remembered  map[[2]string][2]string
	keysAt      map[[2]string]time.Time
	meta        map[string]string
}

func (s state) clone() state {
	s.requests, s.grants, s.protections = slices.Clone(s.requests), slices.Clone(s.grants), slices.Clone(s.protections)
	s.scans, s.records, s.notices = slices.Clone(s.scans), slices.Clone(s.records), slices.Clone(s.notices)
	s.log, s.hashes = slices.Clip(s.log), slices.Clip(s.hashes)
	s.remembered, s.keysAt, s.meta = maps.Clone(s.remembered), maps.Clone(s.keysAt), maps.Clone(s.meta)
	if s.meta == nil {
		s.remembered, s.keysAt, s.meta = map[[2]string][2]string{}, map[[2]string]time.Time{}, map[string]string{}
	}
	return s
}

// Update implements broker.Store.
func (m *Memory) Update(_ context.Context, fn func(broker.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &memoryTx{state: m.state.clone()}
	if err := fn(t); err != nil {
		return err
	}
	m.state = t.state
	return nil
}

// View implements broker.Store.
func (m *Memory) View(_ context.Context, fn func(broker.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fn(&memoryTx{state: m.state.clone(), readOnly: true})
}

type memoryTx struct {
	state
	readOnly bool
}

func (t *memoryTx) writable() error {
	if t.readOnly {
		return access.Errorf(access.CodeInternal, "writing in a transaction that only reads")
	}
	return nil
}

// copied returns v as it comes back from a store, sharing nothing with it.
func copied[T any](v T) (T, error) {
	var out T
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return out, access.Errorf(access.CodeInvalid, "this cannot be stored").Wrap(err)
	}
	return out, nil
}

func code(c access.Code) error { return access.Errorf(c, "%s", c) }

// The three kinds of thing differ in their keys and moves only.
func insert[T any](t *memoryTx, list *[]T, v T, same func(T) bool) error {
	if err := t.writable(); err != nil {
		return err
	}
	v, err := copied(v)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(*list, same) {
		return code(access.CodeConflict)
	}
	*list = append(*list, v)
	return nil
}

func update[T any](t *memoryTx, list []T, v T, same, allowed func(T) bool) error {
	if err := t.writable(); err != nil {
		return err
	}
	v, err := copied(v)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, same)
	if i < 0 {
		return code(access.CodeNotFound)
	}
	if !allowed(list[i]) {
		return code(access.CodeConflict)
	}
	list[i] = v
	return nil
}

func find[T any](list []T, same func(T) bool) (T, error) {
	i := slices.IndexFunc(list, same)
	if i < 0 {
		var zero T
		return zero, code(access.CodeNotFound)
	}
	return copied(list[i])
}

func pick[T any](list []T, want func(T) bool) ([]T, error) {
	out := []T{}
	for _, v := range list {
		if want(v) {
			c, err := copied(v)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// page cuts what is newest first.
func page[T any](list []T, p broker.Page, id func(T) string, want func(T) bool) ([]T, string, error) {
	n := p.Limit
	if n == 0 {
		n = 100
	}
	if n < 0 || n > 500 {
		return nil, "", code(access.CodeInvalid)
	}
	list = slices.Clone(list)
	slices.Reverse(list)
	if p.After != "" {
		i := slices.IndexFunc(list, func(v T) bool { return id(v) == p.After })
		if i < 0 {
			return nil, "", code(access.CodeInvalid)
		}
		list = list[i+1:]
	}
	out, err := pick(list, want)
	if err != nil || len(out) <= n {
		return out, "", err
	}
	return out[:n], id(out[n-1]), nil
}

func (t *memoryTx) InsertRequest(r access.Request) error {
	return insert(t, &t.requests, r, func(o access.Request) bool { return o.ID == r.ID })
}

func (t *memoryTx) UpdateRequest(r access.Request) error {
	version := r.Version
	r.Version++
	return update(t, t.requests, r, func(o access.Request) bool { return o.ID == r.ID }, func(o access.Request) bool {
		return o.Version == version && (o.State == r.State || o.State.CanMove(r.State))
	})
}

func (t *memoryTx) Request(id access.RequestID) (access.Request, error) {
	return find(t.requests, func(r access.Request) bool { return r.ID == id })
}

func (t *memoryTx) Requests(f broker.RequestFilter) ([]access.Request, string, error) {
	return page(t.requests, f.Page, func(r access.Request) string { return string(r.ID) }, func(r access.Request) bool {
		about := func(x access.Target) bool { return strings.EqualFold(x.VM.ID, f.VM) }
		return (f.Requester == "" || strings.EqualFold(f.Requester, r.Requester)) &&
			(len(f.States) == 0 || slices.Contains(f.States, r.State)) &&
			(f.VM == "" || slices.ContainsFunc(r.Asked.Targets, about) || slices.ContainsFunc(r.Terms.Targets, about))
	})
}

// first returns the n first by an instant; those of the same instant in the order of insertion.
func first[T any](list []T, n int, at func(T) time.Time, want func(T) bool) ([]T, error) {
	out, err := pick(list, want)
	slices.SortStableFunc(out, func(a, b T) int { return at(a).Compare(at(b)) })
	return out[:min(n, len(out))], err
}

func (t *memoryTx) PendingExpired(now time.Time, n int) ([]access.Request, error) {
	return first(t.requests, n, func(r access.Request) time.Time { return r.ExpiresAt }, func(r access.Request) bool {
		return r.State == access.Pending && !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt)
	})
}

func (t *memoryTx) InsertGrant(g access.Grant) error {
	return insert(t, &t.grants, g, func(o access.Grant) bool { return o.ID == g.ID })
}

func (t *memoryTx) UpdateGrant(g access.Grant) error {
	version := g.Version
	g.Version++
	return update(t, t.grants, g, func(o access.Grant) bool { return o.ID == g.ID }, func(o access.Grant) bool {
		return o.Version == version && (o.State == g.State || o.State.CanMove(g.State))
	})
}

func (t *memoryTx) Grant(id access.GrantID) (access.Grant, error) {
	return find(t.grants, func(g access.Grant) bool { return g.ID == id })
}

func (t *memoryTx) Grants(f broker.GrantFilter) ([]access.Grant, string, error) {
	return page(t.grants, f.Page, func(g access.Grant) string { return string(g.ID) }, func(g access.Grant) bool {
		return (f.Requester == "" || strings.EqualFold(f.Requester, g.Requester)) &&
			(len(f.States) == 0 || slices.Contains(f.States, g.State)) &&
			(f.VM == "" || strings.EqualFold(f.VM, g.Target.VM.ID)) && (f.Request == "" || f.Request == g.Request)
	})
}

func (t *memoryTx) LiveGrants() ([]access.Grant, error) {
	return pick(t.grants, func(g access.Grant) bool { return g.State.Live() })
}

func at(places []access.Place, id string) bool {
	return slices.ContainsFunc(places, func(p access.Place) bool { return strings.EqualFold(p.ID, id) })
}

func (t *memoryTx) LiveGrantsAt(place string) ([]access.Grant, error) {
	return pick(t.grants, func(g access.Grant) bool { return g.State.Live() && at(g.Places, place) })
}

func (t *memoryTx) DueGrants(now time.Time, n int) ([]access.Grant, error) {
	return first(t.grants, n, func(g access.Grant) time.Time { return g.NotBefore }, func(g access.Grant) bool {
		return g.State == access.Scheduled && !g.NotBefore.IsZero() && !now.Before(g.NotBefore)
	})
}

func (t *memoryTx) OverGrants(now time.Time, n int) ([]access.Grant, error) {
	return first(t.grants, n, func(g access.Grant) time.Time { return g.EndsAt }, func(g access.Grant) bool {
		return (g.State == access.Activating || g.State == access.Active) && !g.EndsAt.IsZero() && !now.Before(g.EndsAt)
	})
}

func (t *memoryTx) PutProtection(p access.Protection) error {
	version := p.Version
	p.Version++
	same := func(o access.Protection) bool { return strings.EqualFold(o.VM.ID, p.VM.ID) }
	if version == 0 {
		return insert(t, &t.protections, p, same)
	}
	return update(t, t.protections, p, same, func(o access.Protection) bool { return o.Version == version })
}

func (t *memoryTx) Protection(vmID string) (access.Protection, error) {
	return find(t.protections, func(p access.Protection) bool { return strings.EqualFold(p.VM.ID, vmID) })
}

func (t *memoryTx) protectionsWhere(want func(access.Protection) bool) ([]access.Protection, error) {
	out, err := pick(t.protections, func(p access.Protection) bool { return p.State != access.ProtectionRemoved && want(p) })
	slices.SortFunc(out, func(a, b access.Protection) int {
		return cmp.Compare(strings.ToLower(a.VM.ID), strings.ToLower(b.VM.ID))
	})
	return out, err
}

func (t *memoryTx) Protections() ([]access.Protection, error) {
	return t.protectionsWhere(func(access.Protection) bool { return true })
}

func (t *memoryTx) ProtectionsAt(place string) ([]access.Protection, error) {
	return t.protectionsWhere(func(p access.Protection) bool { return at(p.Places, place) })
}

func (t *memoryTx) Due() (d broker.Due, err error) {
	earliest := func(into *time.Time, v time.Time) {
		if !v.IsZero() && (into.IsZero() || v.Before(*into)) {
			*into = v.UTC()
		}
	}
	for _, r := range t.requests {
		if r.State == access.Pending {
			earliest(&d.Expiry, r.ExpiresAt)
		}
	}
	for _, g := range t.grants {
		switch g.State {
		case access.Scheduled:
			earliest(&d.Opening, g.NotBefore)
		case access.Activating, access.Active:
			earliest(&d.Closing, g.EndsAt)
		}
	}
	for _, n := range t.notices {
		if n.State == notify.Waiting {
			earliest(&d.Notice, n.NextAt)
		}
	}
	return d, nil
}

// ReadHashes implements tlog.HashReader.
func (t *memoryTx) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("there is no hash %d", x)
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

// PutHashes implements audit.HashStore.
func (t *memoryTx) PutHashes(at int64, list []tlog.Hash) error {
	if at != int64(len(t.hashes)) {
		return fmt.Errorf("hash %d is not the next one", at)
	}
	t.hashes = append(t.hashes, list...)
	return nil
}

func (t *memoryTx) Append(e audit.Entry) (audit.Entry, error) {
	if err := t.writable(); err != nil {
		return e, err
	}
	e.Index, e.At = int64(len(t.log)), e.At.UTC().Round(0)
	record, err := e.Record()
	if err != nil {
		return e, code(access.CodeInvalid)
	}
	if err := audit.Append(t, e.Index, record); err != nil {
		return e, err
	}
	t.log = append(t.log, e)
	return e, nil
}

func (t *memoryTx) Entries(f broker.AuditFilter) ([]audit.Entry, error) {
	n := f.Limit
	if n == 0 {
		n = 100
	}
	if n < 0 || n > 10_000 {
		return nil, code(access.CodeInvalid)
	}
	out, err := pick(t.log, func(e audit.Entry) bool {
		return (!f.Ascending || e.Index > f.After) && (f.Ascending || f.After <= 0 || e.Index < f.After) &&
			(f.Actor == "" || strings.EqualFold(f.Actor, e.Actor)) && (f.Action == "" || f.Action == e.Action) &&
			(f.Object == "" || strings.EqualFold(f.Object, e.Object)) && (f.VM == "" || strings.EqualFold(f.VM, e.VM)) &&
			(f.Since.IsZero() || !e.At.Before(f.Since)) && (f.Until.IsZero() || e.At.Before(f.Until))
	})
	if !f.Ascending {
		slices.Reverse(out)
	}
	return out[:min(n, len(out))], err
}

func (t *memoryTx) LogSize() (int64, error) { return int64(len(t.log)), nil }

func (t *memoryTx) Checkpoint() (audit.Checkpoint, error) {
	return audit.MakeCheckpoint("curfew/audit/memory", int64(len(t.log)), t)
}

func (t *memoryTx) Remembered(caller, key, bodyHash string) (string, bool, error) {
	v, ok := t.remembered[[2]string{caller, key}]
	if ok && v[0] != bodyHash {
		return "", false, code(access.CodeConflict)
	}
	return v[1], ok, nil
}

func (t *memoryTx) Remember(caller, key, bodyHash, id string, now time.Time) error {
	if err := t.writable(); err != nil {
		return err
	}
	k := [2]string{caller, key}
	if _, ok := t.remembered[k]; ok {
		return code(access.CodeConflict)
	}
	t.remembered[k] = [2]string{bodyHash, id}
	t.keysAt[k] = now
	return nil
}

func (t *memoryTx) Forget(before time.Time) error {
	if err := t.writable(); err != nil {
		return err
	}
	for k, at := range t.keysAt {
		if at.Before(before) {
			delete(t.remembered, k)
			delete(t.keysAt, k)
		}
	}
	return nil
}

func (t *memoryTx) Meta(key string) (string, error) { return t.meta[key], nil }

func (t *memoryTx) SetMeta(key, value string) error {
	if err := t.writable(); err != nil {
		return err
	}
	t.meta[key] = value
	return nil
}

func (t *memoryTx) InsertScan(r broker.ScanRecord) error {
	if err := t.writable(); err != nil {
		return err
	}
	if slices.ContainsFunc(t.scans, func(o broker.ScanRecord) bool { return o.ID == r.ID }) {
		return code(access.CodeConflict)
	}
	c, err := copied(r)
	if err == nil {
		t.scans = append(t.scans, c)
	}
	return err
}

func (t *memoryTx) Scan(id string) (broker.ScanRecord, error) {
	return find(t.scans, func(r broker.ScanRecord) bool { return r.ID == id })
}

func (t *memoryTx) Scans(p broker.Page) ([]scan.Head, string, error) {
	list, next, err := page(t.scans, p, func(r broker.ScanRecord) string { return r.ID }, func(broker.ScanRecord) bool { return true })
	out := []scan.Head{}
	for _, r := range list {
		out = append(out, r.Head)
	}
	return out, next, err
}

func (t *memoryTx) ForgetScans(keep int, before time.Time) error {
	if err := t.writable(); err != nil {
		return err
	}
	n := len(t.scans)
	var left []broker.ScanRecord
	for i, r := range t.scans {
		if !r.At.Before(before) || i >= n-keep {
			left = append(left, r)
		}
	}
	t.scans = left
	return nil
}

package server_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/scan"
)

// fake is a broker.Service that keeps its state in memory and moves it by the rules of package access; the broker's own behaviour
// is tested there. What a test needs to provoke stands in fail and hook.
type fake struct {
	mu       sync.Mutex
	clock    clock.Clock
	vms      map[string]broker.VMInfo // by lower-case name
	requests map[access.RequestID]access.Request
	grants   map[access.GrantID]access.Grant
	keys     map[string]access.RequestID
	log      []audit.Entry
	wake     chan struct{}
	fail     map[string]error                                     // by method name
	hook     map[string]func(context.Context, access.Caller, any) // called first
	calls    map[string]int
	status   broker.Status
	lent     []broker.Delegation
	n        int
}

const sub = "/subscriptions/aaaaaaaa-0000-0000-0000-000000000001"

func vmID(name string) string {
	return sub + "/resourceGroups/rg-web/providers/Microsoft.Compute/virtualMachines/" + name
}

func newFake(c clock.Clock) *fake {
	f := &fake{clock: c, vms: map[string]broker.VMInfo{}, requests: map[access.RequestID]access.Request{}, grants: map[access.GrantID]access.Grant{},
		keys: map[string]access.RequestID{}, wake: make(chan struct{}), fail: map[string]error{}, calls: map[string]int{},
		hook:   map[string]func(context.Context, access.Caller, any){},
		status: broker.Status{Ready: true, Version: "test", LastSweep: c.Now()}}
	for i, name := range []string{"web-01", "web-02"} {
		f.vms[name] = broker.VMInfo{VM: access.VM{ID: vmID(name), Name: name, VMID: "11111111-0000-0000-0000-00000000000" + fmt.Sprint(i)},
			Group: "rg-web", Subscription: "aaaaaaaa-0000-0000-0000-000000000001", Location: "westeurope", OS: "linux", State: "unprotected",
			PrivateIPs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", 4+i))}, PublicIPs: []netip.Addr{netip.MustParseAddr("203.0.113.5")},
			Connect: []string{"203.0.113.5:22", "198.51.100.7:50001 → 3389"}, ReadAt: c.Now()}
	}
	return f
}

func (f *fake) enter(ctx context.Context, c access.Caller, method string, in any) (func(), error) {
	f.mu.Lock()
	hook := f.hook[method]
	f.calls[method]++
	f.mu.Unlock()
	if hook != nil {
		hook(ctx, c, in)
	}
	f.mu.Lock()
	if err := f.fail[method]; err != nil {
		f.mu.Unlock()
		return nil, err
	}
	return f.mu.Unlock, nil
}

func (f *fake) set(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[method] = err
}

func (f *fake) record(c access.Caller, action, object, message string) {
	f.log = append(f.log, audit.Entry{Index: int64(len(f.log)), At: f.clock.Now(), Actor: c.Name, Action: action, Outcome: audit.Done, Object: object, Message: message})
	close(f.wake)
	f.wake = make(chan struct{})
}

// note adds an entry from outside.
func (f *fake) note(message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record(access.Caller{Name: "curfew"}, "test.note", "", message)
}

func (f *fake) find(ref string) (broker.VMInfo, error) {
	for _, v := range f.vms {
		if strings.EqualFold(ref, v.VM.Name) || strings.EqualFold(ref, v.Group+"/"+v.VM.Name) || strings.EqualFold(ref, v.VM.ID) {
			return v, nil
		}
	}
	return broker.VMInfo{}, access.Errorf(access.CodeNotFound, "there is no VM %s", ref).WithHint("see: curfew vm list")
}

func (f *fake) VMs(ctx context.Context, c access.Caller, q string) ([]broker.VMInfo, error) {
	done, err := f.enter(ctx, c, "VMs", q)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []broker.VMInfo
	for _, name := range slices.Sorted(maps.Keys(f.vms)) {
		if strings.Contains(name, q) {
			out = append(out, f.vms[name])
		}
	}
	return out, nil
}

func (f *fake) VM(ctx context.Context, c access.Caller, ref string) (broker.VMInfo, error) {
	done, err := f.enter(ctx, c, "VM", ref)
	if err != nil {
		return broker.VMInfo{}, err
	}
	defer done()
	return f.find(ref)
}

func (f *fake) plan(in broker.ProtectInput) (broker.ProtectPlan, error) {
	p := broker.ProtectPlan{Digest: fmt.Sprintf("d-%v-%v", in.VMs, in.Off)}
	for _, ref := range in.VMs {
		v, err := f.find(ref)
		if err != nil {
			return p, err
		}
		p.VMs = append(p.VMs, broker.VMPlan{VM: v.VM, Group: v.Group, Ports: in.Ports, Exemptions: in.Exemptions})
		kind := enforce.Add
		if in.Off {
			kind = enforce.Remove
		}
		p.Changes = append(p.Changes, enforce.Change{Place: "nsg-1", Kind: kind, Rule: "curfew-deny-test-1", Priority: 200, Access: "Deny", Summary: "deny tcp 22"})
	}
	if in.Digest != "" && in.Digest != p.Digest {
		return p, access.Errorf(access.CodePlanChanged, "the plan has changed").WithHint("look at it again")
	}
	return p, nil
}

func (f *fake) PlanProtect(ctx context.Context, c access.Caller, in broker.ProtectInput) (broker.ProtectPlan, error) {
	done, err := f.enter(ctx, c, "PlanProtect", in)
	if err != nil {
		return broker.ProtectPlan{}, err
	}
	defer done()
	return f.plan(in)
}

func (f *fake) Protect(ctx context.Context, c access.Caller, in broker.ProtectInput) (broker.ProtectPlan, error) {
	done, err := f.enter(ctx, c, "Protect", in)
	if err != nil {
		return broker.ProtectPlan{}, err
	}
	defer done()
	p, err := f.plan(in)
	if err != nil {
		return p, err
	}
	for _, v := range p.VMs {
		i := f.vms[v.VM.Name]
		i.State, i.Protection = "protected", &access.Protection{VM: v.VM, Ports: in.Ports, State: access.ProtectionOn, By: c.Name, At: f.clock.Now()}
		if in.Off {
			i.State, i.Protection = "unprotected", nil
		}
		f.vms[v.VM.Name] = i
	}
	p.Applied = true
	f.record(c, "protection.on", "", "protected")
	return p, nil
}

func (f *fake) terms(c access.Caller, in broker.RequestInput) (access.Terms, error) {
	t := access.Terms{Duration: in.Duration}
	src := in.Source
	if src == "" || src == "my-ip" {
		if !c.Address.IsValid() {
			return t, access.Errorf(access.CodeInvalid, "your address is not known")
		}
		src = c.Address.String()
	}
	var err error
	if t.Source, err = access.ParseSource(src); err != nil {
		return t, err
	}
	if len(in.Ports) == 0 {
		in.Ports = []access.Ports{access.Port(22)}
	}
	for _, ref := range in.VMs {
		v, err := f.find(ref)
		if err != nil {
			return t, err
		}
		for _, p := range in.Ports {
			t.Targets = append(t.Targets, access.Target{VM: v.VM, Ports: p, Protocol: cmp.Or(in.Protocol, access.TCP)})
		}
	}
	if t.Duration < access.MinDuration {
		return t, access.Errorf(access.CodeInvalid, "too short")
	}
	return t, nil
}

func (f *fake) PlanRequest(ctx context.Context, c access.Caller, in broker.RequestInput) (broker.RequestPlan, error) {
	done, err := f.enter(ctx, c, "PlanRequest", in)
	if err != nil {
		return broker.RequestPlan{}, err
	}
	defer done()
	t, err := f.terms(c, in)
	return broker.RequestPlan{Terms: t, WillGetIn: true, Approvers: []string{"bob"}, Limits: access.Limits{Rules: []string{"r1"}, MaxDuration: time.Hour, Needs: []access.Need{{Rule: "r1", Steps: []access.Step{{Count: 1}}}}}}, err
}

func (f *fake) CreateRequest(ctx context.Context, c access.Caller, in broker.RequestInput) (access.Request, error) {
	done, err := f.enter(ctx, c, "CreateRequest", in)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	if id, ok := f.keys[c.Name+"\x00"+in.Key]; ok && in.Key != "" {
		return f.requests[id], nil
	}
	t, err := f.terms(c, in)
	if err != nil {
		return access.Request{}, err
	}
	return f.add(c, t, in, ""), nil
}

func (f *fake) add(c access.Caller, t access.Terms, in broker.RequestInput, extends access.GrantID) access.Request {
	f.n++
	now := f.clock.Now()
	r := access.Request{ID: access.RequestID(fmt.Sprintf("r-%010d", f.n)), Requester: c.Name, Asked: t, Terms: t, StartAt: in.StartAt, Reason: in.Reason,
		Ticket: in.Ticket, Needs: []access.Need{{Rule: "r1", Steps: []access.Step{{Count: 1}}}}, Rules: []string{"r1"}, State: access.Pending, CreatedAt: now, ExpiresAt: now.Add(24 * time.Hour), Extends: extends}
	f.requests[r.ID] = r
	f.keys[c.Name+"\x00"+in.Key] = r.ID
	f.record(c, "request.create", string(r.ID), "asked")
	return r
}

func (f *fake) request(id access.RequestID) (access.Request, error) {
	r, ok := f.requests[id]
	if !ok {
		return r, access.Errorf(access.CodeNotFound, "there is no request %s", id)
	}
	return r, nil
}

func (f *fake) Request(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error) {
	done, err := f.enter(ctx, c, "Request", id)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	return f.request(id)
}

func page[T any](all []T, id func(T) string, p broker.Page) ([]T, string) {
	if p.After != "" {
		i := slices.IndexFunc(all, func(v T) bool { return id(v) == p.After })
		all = all[i+1:]
	}
	if p.Limit > 0 && len(all) > p.Limit {
		return all[:p.Limit], id(all[p.Limit-1])
	}
	return all, ""
}

func (f *fake) Requests(ctx context.Context, c access.Caller, q broker.RequestFilter) ([]access.Request, string, error) {
	done, err := f.enter(ctx, c, "Requests", q)
	if err != nil {
		return nil, "", err
	}
	defer done()
	var all []access.Request
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(f.requests))) {
		r := f.requests[id]
		if q.Requester != "" && !access.SamePerson(q.Requester, r.Requester) || len(q.States) > 0 && !slices.Contains(q.States, r.State) ||
			q.VM != "" && !access.SameVM(q.VM, r.Terms.Targets[0].VM.ID) {
			continue
		}
		all = append(all, r)
	}
	out, next := page(all, func(r access.Request) string { return string(r.ID) }, q.Page)
	return out, next, nil
}

func (f *fake) step(c access.Caller, id access.RequestID, ev access.Event, action string) (access.Request, error) {
	r, err := f.request(id)
	if err != nil {
		return r, err
	}
	r, effects, err := r.Step(ev, f.clock.Now())
	if err != nil {
		return r, err
	}
	for _, e := range effects {
		if e, ok := e.(access.CreateGrants); ok {
			for _, t := range e.Terms.Targets {
				f.n++
				g := access.Grant{ID: access.GrantID(fmt.Sprintf("g-%010d", f.n)), Request: r.ID, Requester: r.Requester, Target: t, Source: e.Terms.Source,
					Duration: e.Terms.Duration, NotBefore: f.clock.Now(), State: access.Scheduled, CreatedAt: f.clock.Now()}
				f.grants[g.ID] = g
				r.Grants = append(r.Grants, g.ID)
			}
		}
	}
	f.requests[id] = r
	f.record(c, action, string(id), action)
	return r, nil
}

func (f *fake) Approve(ctx context.Context, c access.Caller, id access.RequestID, in broker.ReviewInput) (access.Request, error) {
	done, err := f.enter(ctx, c, "Approve", in)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	ev := access.ReviewEvent{By: c.Name, Decision: access.Approve, Comment: in.Comment}
	if in.Duration > 0 {
		n := f.requests[id].Terms
		n.Duration = in.Duration
		ev.Narrowed = &n
	}
	return f.step(c, id, ev, "request.approve")
}

func (f *fake) Deny(ctx context.Context, c access.Caller, id access.RequestID, comment string) (access.Request, error) {
	done, err := f.enter(ctx, c, "Deny", comment)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	return f.step(c, id, access.ReviewEvent{By: c.Name, Decision: access.Deny, Comment: comment}, "request.deny")
}

func (f *fake) Cancel(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error) {
	done, err := f.enter(ctx, c, "Cancel", id)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	return f.step(c, id, access.CancelEvent{By: c.Name}, "request.cancel")
}

func (f *fake) Comment(ctx context.Context, c access.Caller, id access.RequestID, text string) (access.Request, error) {
	done, err := f.enter(ctx, c, "Comment", text)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	r, ok := f.requests[id]
	if !ok {
		return r, access.Errorf(access.CodeNotFound, "there is no request %s", id)
	}
	r.Comments = append(r.Comments, access.Comment{By: c.Name, At: f.clock.Now(), Text: text})
	f.requests[id] = r
	return r, nil
}

func (f *fake) Remind(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error) {
	done, err := f.enter(ctx, c, "Remind", id)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	r, ok := f.requests[id]
	if !ok {
		return r, access.Errorf(access.CodeNotFound, "there is no request %s", id)
	}
	r.RemindedAt = f.clock.Now()
	f.requests[id] = r
	return r, nil
}

func (f *fake) BreakGlass(ctx context.Context, c access.Caller, in broker.RequestInput) (access.Request, error) {
	r, err := f.CreateRequest(ctx, c, in)
	if err != nil {
		return r, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r.BreakGlass = true
	f.requests[r.ID] = r
	return f.step(c, r.ID, access.BreakGlassEvent{}, "request.break_glass")
}

func (f *fake) Aftermath(ctx context.Context, c access.Caller) ([]access.Request, error) {
	done, err := f.enter(ctx, c, "Aftermath", nil)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []access.Request
	for _, r := range f.requests {
		if r.Aftermath != nil && r.Aftermath.Open() {
			out = append(out, r)
		}
	}
	return out, nil
}

func (f *fake) CloseAftermath(ctx context.Context, c access.Caller, id access.RequestID, comment string) (access.Request, error) {
	done, err := f.enter(ctx, c, "CloseAftermath", comment)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	r, err := f.requests[id].LookBack(c.Name, comment, f.clock.Now())
	if err == nil {
		f.requests[id] = r
	}
	return r, err
}

func (f *fake) Delegate(ctx context.Context, c access.Caller, in broker.DelegateInput) (broker.Delegation, error) {
	done, err := f.enter(ctx, c, "Delegate", in)
	if err != nil {
		return broker.Delegation{}, err
	}
	defer done()
	d := broker.Delegation{ID: "d-0000000001", From: c.Name, To: in.To, Until: in.Until, Reason: in.Reason, Created: f.clock.Now()}
	f.lent = append(f.lent, d)
	return d, nil
}

func (f *fake) Delegations(ctx context.Context, c access.Caller) ([]broker.Delegation, error) {
	done, err := f.enter(ctx, c, "Delegations", nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return f.lent, nil
}

func (f *fake) EndDelegation(ctx context.Context, c access.Caller, id string) error {
	done, err := f.enter(ctx, c, "EndDelegation", id)
	if err != nil {
		return err
	}
	defer done()
	f.lent = slices.DeleteFunc(f.lent, func(d broker.Delegation) bool { return d.ID == id })
	return nil
}

// move takes a grant on, as the reconciler would.
func (f *fake) move(id access.GrantID, evs ...access.GrantEvent) (access.Grant, error) {
	g, ok := f.grants[id]
	if !ok {
		return g, access.Errorf(access.CodeNotFound, "there is no grant %s", id)
	}
	for _, ev := range evs {
		var err error
		if g, err = g.Step(ev, f.clock.Now()); err != nil {
			return g, err
		}
	}
	f.grants[id] = g
	return g, nil
}

func (f *fake) Move(id access.GrantID, evs ...access.GrantEvent) (access.Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.move(id, evs...)
}

func (f *fake) Grant(ctx context.Context, c access.Caller, id access.GrantID) (access.Grant, error) {
	done, err := f.enter(ctx, c, "Grant", id)
	if err != nil {
		return access.Grant{}, err
	}
	defer done()
	return f.move(id)
}

func (f *fake) Grants(ctx context.Context, c access.Caller, q broker.GrantFilter) ([]access.Grant, string, error) {
	done, err := f.enter(ctx, c, "Grants", q)
	if err != nil {
		return nil, "", err
	}
	defer done()
	var all []access.Grant
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(f.grants))) {
		g := f.grants[id]
		if q.Requester != "" && !access.SamePerson(q.Requester, g.Requester) || len(q.States) > 0 && !slices.Contains(q.States, g.State) ||
			q.VM != "" && !access.SameVM(q.VM, g.Target.VM.ID) || q.Request != "" && q.Request != g.Request {
			continue
		}
		all = append(all, g)
	}
	out, next := page(all, func(g access.Grant) string { return string(g.ID) }, q.Page)
	return out, next, nil
}

func (f *fake) Extend(ctx context.Context, c access.Caller, id access.GrantID, by time.Duration, reason, key string) (access.Request, error) {
	done, err := f.enter(ctx, c, "Extend", key)
	if err != nil {
		return access.Request{}, err
	}
	defer done()
	g, err := f.move(id)
	if err != nil {
		return access.Request{}, err
	}
	return f.add(c, access.Terms{Targets: []access.Target{g.Target}, Source: g.Source, Duration: by}, broker.RequestInput{Reason: reason, Key: key}, id), nil
}

func (f *fake) Close(ctx context.Context, c access.Caller, id access.GrantID) (access.Grant, error) {
	done, err := f.enter(ctx, c, "Close", id)
	if err != nil {
		return access.Grant{}, err
	}
	defer done()
	return f.move(id, access.ShutEvent{Reason: access.ReasonDone, By: c.Name})
}

func (f *fake) Revoke(ctx context.Context, c access.Caller, id access.GrantID, comment string) (access.Grant, error) {
	done, err := f.enter(ctx, c, "Revoke", comment)
	if err != nil {
		return access.Grant{}, err
	}
	defer done()
	return f.move(id, access.ShutEvent{Reason: access.ReasonRevoked, By: c.Name})
}

func (f *fake) Entries(ctx context.Context, c access.Caller, q broker.AuditFilter) ([]audit.Entry, error) {
	done, err := f.enter(ctx, c, "Entries", q)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []audit.Entry
	all := slices.Clone(f.log)
	if !q.Ascending {
		slices.Reverse(all)
	}
	for _, e := range all {
		if q.Ascending && e.Index <= q.After || !q.Ascending && q.After > 0 && e.Index >= q.After || q.Action != "" && q.Action != e.Action ||
			!q.Since.IsZero() && e.At.Before(q.Since) {
			continue
		}
		if out = append(out, e); len(out) == q.Limit {
			break
		}
	}
	return out, nil
}

func (f *fake) Watch(ctx context.Context, c access.Caller, after int64) (<-chan audit.Entry, error) {
	done, err := f.enter(ctx, c, "Watch", after)
	if err != nil {
		return nil, err
	}
	next := after + 1
	if after < 0 {
		next = int64(len(f.log))
	}
	done()
	out := make(chan audit.Entry)
	go func() {
		defer close(out)
		for {
			f.mu.Lock()
			wake, page := f.wake, slices.Clone(f.log[min(next, int64(len(f.log))):])
			f.mu.Unlock()
			for _, e := range page {
				next = e.Index + 1
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *fake) Checkpoint(ctx context.Context, c access.Caller) (audit.Checkpoint, error) {
	done, err := f.enter(ctx, c, "Checkpoint", nil)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	defer done()
	return audit.Checkpoint{Origin: "curfew.test", Size: int64(len(f.log)), Root: tlog.RecordHash([]byte("x"))}, nil
}

func (f *fake) Reconcile(ctx context.Context, c access.Caller) (broker.SweepReport, error) {
	done, err := f.enter(ctx, c, "Reconcile", nil)
	if err != nil {
		return broker.SweepReport{}, err
	}
	defer done()
	return broker.SweepReport{At: f.clock.Now(), Places: 3, Closed: []string{"nsg/curfew-allow"}}, nil
}

func (f *fake) Resume(ctx context.Context, c access.Caller, comment string) error {
	done, err := f.enter(ctx, c, "Resume", comment)
	if err != nil {
		return err
	}
	defer done()
	f.status.Hold = ""
	return nil
}

func (f *fake) Status(context.Context) broker.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

var _ broker.Service = (*fake)(nil)

func (f *fake) scans() []broker.ScanRecord {
	rec := broker.ScanRecord{Head: scan.Head{ID: "s-0000000001", At: f.clock.Now(), By: "curfew", Took: 1.5}}
	rec.Report = scan.Report{ID: rec.ID, At: rec.At, Findings: []scan.Finding{{ID: "f-1", Rule: scan.VMPortExposed, Resource: vmID("web-01"), Status: scan.Fail, Severity: scan.High}}}
	return []broker.ScanRecord{rec}
}

func (f *fake) RunScan(ctx context.Context, c access.Caller) (scan.Head, error) {
	done, err := f.enter(ctx, c, "RunScan", nil)
	if err != nil {
		return scan.Head{}, err
	}
	defer done()
	return f.scans()[0].Head, nil
}

func (f *fake) Scans(ctx context.Context, c access.Caller, p broker.Page) ([]scan.Head, string, error) {
	done, err := f.enter(ctx, c, "Scans", p)
	if err != nil {
		return nil, "", err
	}
	defer done()
	return []scan.Head{f.scans()[0].Head}, "", nil
}

func (f *fake) Scan(ctx context.Context, c access.Caller, id string) (broker.ScanRecord, error) {
	done, err := f.enter(ctx, c, "Scan", id)
	if err != nil {
		return broker.ScanRecord{}, err
	}
	defer done()
	if rec := f.scans()[0]; id == rec.ID || id == broker.Latest {
		return rec, nil
	}
	return broker.ScanRecord{}, access.Errorf(access.CodeNotFound, "there is no scan %s", id)
}

func (f *fake) Explain(ctx context.Context, c access.Caller, in broker.ExplainInput) (scan.Explanation, error) {
	done, err := f.enter(ctx, c, "Explain", in)
	if err != nil {
		return scan.Explanation{}, err
	}
	defer done()
	return scan.Explanation{Name: in.VM, Port: in.Port, Protocol: string(in.Protocol), Source: in.From.String(), Access: "deny", Ways: []scan.Way{}}, nil
}

func (f *fake) DiffScans(ctx context.Context, c access.Caller, from, to string) (scan.Difference, error) {
	done, err := f.enter(ctx, c, "DiffScans", [2]string{from, to})
	if err != nil {
		return scan.Difference{}, err
	}
	defer done()
	return scan.Diff(scan.Report{}, f.scans()[0].Report), nil
}

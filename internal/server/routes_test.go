package server_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/client"
)

func TestWhoami(t *testing.T) {
	r := start(t, nil)
	me, err := r.as("root").Whoami(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if me.Name != "root" || strings.Join(me.Roles, " ") != "admin auditor" || me.Address != netip.MustParseAddr("127.0.0.1") || me.Demo || me.Installation != "test" {
		t.Errorf("got %+v", me)
	}
}

func TestMachines(t *testing.T) {
	r := start(t, nil)
	c := r.as("alice")
	l, err := c.VMs(t.Context(), "web-01")
	if err != nil || len(l.Items) != 1 || l.Items[0].Name != "web-01" {
		t.Fatalf("list: got %+v, %v", l, err)
	}
	// Each way to name a machine reaches the broker as it was written, slashes and all.
	for _, ref := range []string{"web-01", "rg-web/web-01", vmID("web-01"), strings.ToUpper(vmID("web-01"))} {
		v, err := c.VM(t.Context(), ref)
		if err != nil || v.ID != vmID("web-01") || v.State != "unprotected" || len(v.PrivateIPs) != 1 {
			t.Errorf("%s: got %+v, %v", ref, v, err)
		}
	}
	_, err = c.VM(t.Context(), "no such/../thing?#%")
	e := code(t, err, access.CodeNotFound)
	if e.Hint != "see: curfew vm list" || !strings.Contains(e.Message, "no such/../thing?#%") {
		t.Errorf("got %q, hint %q", e.Message, e.Hint)
	}
}

func TestProtection(t *testing.T) {
	r := start(t, nil)
	c := r.as("root")
	in := api.ProtectInput{VMs: []string{"web-01"}, Ports: []api.ProtectedPort{{Port: access.Ports{First: 8000, Last: 8010}, Protocol: access.UDP,
		Max: api.Duration(90 * time.Minute), Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}},
		Exemptions: []api.Exemption{{Name: "bastion", Source: "10.9.0.0/26"}}}
	var got broker.ProtectInput
	r.svc.hook["Protect"] = func(_ context.Context, _ access.Caller, in any) { got = in.(broker.ProtectInput) }
	plan, err := c.PlanProtection(t.Context(), in)
	if err != nil || plan.Applied || len(plan.Changes) != 1 || plan.Changes[0].Kind != "add" || plan.Problems == nil {
		t.Fatalf("plan: got %+v, %v", plan, err)
	}
	in.Digest = plan.Digest
	if plan, err = c.Protect(t.Context(), in); err != nil || !plan.Applied {
		t.Fatalf("protect: got %+v, %v", plan, err)
	}
	p := got.Ports[0]
	if p.Ports != (access.Ports{First: 8000, Last: 8010}) || p.Protocol != access.UDP || p.Max != 90*time.Minute || p.Sources[0].String() != "198.51.100.0/24" ||
		got.Exemptions[0].Name != "bastion" || got.Digest != plan.Digest {
		t.Errorf("the broker was given %+v", got)
	}
	v, err := c.VM(t.Context(), "web-01")
	if err != nil || v.State != "protected" || v.Protection == nil || v.Protection.Ports[0].Max != api.Duration(90*time.Minute) {
		t.Errorf("afterwards: got %+v, %v", v, err)
	}
	in.Digest = "of another plan"
	_, err = c.Protect(t.Context(), in)
	code(t, err, access.CodePlanChanged)
	off, err := c.Protect(t.Context(), api.ProtectInput{VMs: []string{"web-01"}, Off: true})
	if err != nil || !off.Applied || off.Changes[0].Kind != "remove" {
		t.Errorf("off: got %+v, %v", off, err)
	}
}

func ask() api.RequestInput {
	return api.RequestInput{VMs: []string{"web-01"}, Duration: api.Duration(time.Hour), Reason: "INC-4711", Source: "198.51.100.7"}
}

func TestARequestFromAskingToShutting(t *testing.T) {
	r := start(t, nil)
	alice, bob := r.as("alice"), r.as("bob")
	plan, err := alice.PlanRequest(t.Context(), ask())
	if err != nil || !plan.WillGetIn || plan.Limits.MaxDuration != api.Duration(time.Hour) || plan.Terms.Source.String() != "198.51.100.7/32" {
		t.Fatalf("plan: got %+v, %v", plan, err)
	}
	req, err := alice.CreateRequest(t.Context(), ask(), "")
	if err != nil || req.State != access.Pending || req.Missing != 1 || req.Needed != 1 || req.Terms.Duration != api.Duration(time.Hour) || !req.StartAt.IsZero() {
		t.Fatalf("create: got %+v, %v", req, err)
	}
	// P6, as the caller of the API sees it.
	_, err = alice.Approve(t.Context(), req.ID, api.ReviewInput{Digest: req.Digest})
	if e := code(t, err, access.CodeDenied); !strings.Contains(e.Hint, "curfew approve "+req.ID) {
		t.Errorf("hint %q", e.Hint)
	}
	req, err = bob.Approve(t.Context(), req.ID, api.ReviewInput{Digest: req.Digest, Comment: "half will do", Duration: api.Duration(30 * time.Minute)})
	if err != nil || req.State != access.Approved || len(req.Grants) != 1 || req.Terms.Duration != api.Duration(30*time.Minute) ||
		req.Asked.Duration != api.Duration(time.Hour) || len(req.Reviews) != 1 || req.Reviews[0].Narrowed == nil || req.Missing != 0 {
		t.Fatalf("approve: got %+v, %v", req, err)
	}
	id := req.Grants[0]
	g, err := alice.Grant(t.Context(), id)
	if err != nil || g.State != access.Scheduled || g.Ready || !g.StartsAt.IsZero() || len(g.Connect) != 0 {
		t.Fatalf("grant: got %+v, %v", g, err)
	}
	if _, err := r.svc.Move(access.GrantID(id), access.OpeningEvent{Places: []access.Place{{ID: "nsg-1"}}}, access.OpenedEvent{}, access.ReadyEvent{}); err != nil {
		t.Fatal(err)
	}
	g, err = alice.WaitGrant(t.Context(), id, nil)
	if err != nil || !g.Ready || g.EndsAt.Sub(g.StartsAt) != 30*time.Minute || strings.Join(g.Connect, " ") != "203.0.113.5:22" || g.NSGs[0] != "nsg-1" {
		t.Fatalf("open grant: got %+v, %v", g, err)
	}
	more, err := alice.Extend(t.Context(), id, api.ExtendInput{Duration: api.Duration(15 * time.Minute), Reason: "nearly done"}, "key-1")
	if err != nil || more.Extends != id || more.State != access.Pending || more.Reason != "nearly done" {
		t.Fatalf("extend: got %+v, %v", more, err)
	}
	if d, err := bob.Deny(t.Context(), more.ID, "no"); err != nil || d.State != access.Denied || d.Reviews[0].Comment != "no" {
		t.Fatalf("deny: got %+v, %v", d, err)
	}
	if g, err = alice.Close(t.Context(), id); err != nil || g.State != access.Closing || g.EndReason != "done" || g.EndedBy != "alice" {
		t.Fatalf("close: got %+v, %v", g, err)
	}
	_, err = bob.Revoke(t.Context(), id, "late")
	code(t, err, access.CodeConflict)
	req, err = alice.CreateRequest(t.Context(), ask(), "")
	if err != nil {
		t.Fatal(err)
	}
	if req, err = alice.Cancel(t.Context(), req.ID); err != nil || req.State != access.Cancelled {
		t.Fatalf("cancel: got %+v, %v", req, err)
	}
}

func TestListsFilterAndPage(t *testing.T) {
	r := start(t, nil)
	alice := r.as("alice")
	for range 5 {
		if _, err := alice.CreateRequest(t.Context(), ask(), ""); err != nil {
			t.Fatal(err)
		}
	}
	other := ask()
	other.VMs = []string{"web-02"}
	if _, err := r.as("root").CreateRequest(t.Context(), other, ""); err != nil {
		t.Fatal(err)
	}
	var ids []string
	f := client.RequestFilter{Mine: true, Page: client.Page{Limit: 2}}
	for n := 0; ; n++ {
		l, err := alice.Requests(t.Context(), f)
		if err != nil || n > 5 {
			t.Fatal(n, err)
		}
		for _, q := range l.Items {
			ids = append(ids, q.ID)
		}
		if f.Page.After = l.Next; l.Next == "" {
			break
		}
	}
	if len(ids) != 5 || ids[0] < ids[4] {
		t.Errorf("got %v", ids)
	}
	if _, err := r.as("bob").Approve(t.Context(), ids[0], api.ReviewInput{Digest: r.read(ids[0]).Digest}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    client.RequestFilter
		want int
	}{
		{client.RequestFilter{}, 6}, {client.RequestFilter{VM: "web-02"}, 1}, {client.RequestFilter{VM: vmID("web-01")}, 5},
		{client.RequestFilter{States: []access.RequestState{access.Approved}}, 1},
		{client.RequestFilter{States: []access.RequestState{access.Approved, access.Pending}}, 6},
	} {
		l, err := alice.Requests(t.Context(), c.f)
		if err != nil || len(l.Items) != c.want {
			t.Errorf("%+v: got %d items, %v, want %d", c.f, len(l.Items), err, c.want)
		}
	}
	gs, err := alice.Grants(t.Context(), client.GrantFilter{Request: ids[0], Mine: true, VM: "web-01", States: []access.GrantState{access.Scheduled}})
	if err != nil || len(gs.Items) != 1 || gs.Items[0].Request != ids[0] {
		t.Errorf("grants: got %+v, %v", gs, err)
	}
	gs, err = alice.Grants(t.Context(), client.GrantFilter{Request: ids[1]})
	if err != nil || len(gs.Items) != 0 || gs.Items == nil {
		t.Errorf("no grants: got %+v, %v", gs, err)
	}
	_, err = alice.Requests(t.Context(), client.RequestFilter{VM: "nowhere"})
	code(t, err, access.CodeNotFound)
	_, err = alice.Requests(t.Context(), client.RequestFilter{States: []access.RequestState{"open"}})
	if e := code(t, err, access.CodeInvalid); e.Field != "state" || !strings.Contains(e.Hint, "pending") {
		t.Errorf("got %+v", e)
	}
	_, err = alice.Requests(t.Context(), client.RequestFilter{Page: client.Page{Limit: 501}})
	if e := code(t, err, access.CodeInvalid); e.Field != "limit" {
		t.Errorf("got %+v", e)
	}
}

func TestAuditPagesBothWays(t *testing.T) {
	r := start(t, nil)
	for _, m := range []string{"a", "b", "c", "d", "e"} {
		r.svc.note(m)
	}
	root := r.as("root")
	for _, up := range []bool{true, false} {
		var got string
		f := client.AuditFilter{Ascending: up, Page: client.Page{Limit: 2}}
		for n := 0; ; n++ {
			l, err := root.Audit(t.Context(), f)
			if err != nil || n > 5 {
				t.Fatal(n, err)
			}
			for _, e := range l.Items {
				got += e.Message
			}
			if f.Page.After = l.Next; l.Next == "" {
				break
			}
		}
		if want := map[bool]string{true: "abcde", false: "edcba"}[up]; got != want {
			t.Errorf("ascending %v: got %s, want %s", up, got, want)
		}
	}
	l, err := root.Audit(t.Context(), client.AuditFilter{Since: time.Now().Add(time.Hour)})
	if err != nil || len(l.Items) != 0 {
		t.Errorf("since: got %+v, %v", l, err)
	}
	cp, err := root.Checkpoint(t.Context())
	if err != nil || cp.Size != 5 || !strings.HasPrefix(cp.Text, "curfew.test\n5\n"+cp.Root) {
		t.Errorf("checkpoint: got %+v, %v", cp, err)
	}
}

func TestSystem(t *testing.T) {
	r := start(t, nil)
	root := r.as("root")
	rep, err := root.Reconcile(t.Context())
	if err != nil || rep.Places != 3 || len(rep.Closed) != 1 || rep.Failed == nil {
		t.Errorf("reconcile: got %+v, %v", rep, err)
	}
	r.svc.status.Hold = "restored"
	if st, err := root.Status(t.Context()); err != nil || st.Hold != "restored" || !st.Ready {
		t.Errorf("status: got %+v, %v", st, err)
	}
	if st, err := root.Resume(t.Context(), "looked"); err != nil || st.Hold != "" {
		t.Errorf("resume: got %+v, %v", st, err)
	}
}

func TestAbsentInstantsAreAbsentOnTheWire(t *testing.T) {
	r := start(t, nil)
	q, err := r.as("alice").CreateRequest(t.Context(), ask(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/requests/" + q.ID, "/v1/requests", "/v1/vms", "/v1/status", "/v1/audit", "/v1/grants"} {
		res, body := r.raw("GET", path, "")
		if res.StatusCode != http.StatusOK || strings.Contains(body, "0001-01-01") || strings.Contains(body, "null") {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
}

// The same key and the same input make one request, however often they are sent.
func TestIdempotencyKey(t *testing.T) {
	r := start(t, nil)
	alice := r.as("alice")
	a, err := alice.CreateRequest(t.Context(), ask(), "k-1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := alice.CreateRequest(t.Context(), ask(), "k-1")
	if err != nil || a.ID != b.ID {
		t.Errorf("got %s and %s, %v", a.ID, b.ID, err)
	}
	if c, err := alice.CreateRequest(t.Context(), ask(), "k-2"); err != nil || c.ID == a.ID {
		t.Errorf("another key: got %s, %v", c.ID, err)
	}
	_, err = alice.CreateRequest(t.Context(), ask(), "with blank")
	code(t, err, access.CodeInvalid)
	_, err = alice.CreateRequest(t.Context(), ask(), strings.Repeat("k", 201))
	code(t, err, access.CodeInvalid)
}

func TestOpenPaths(t *testing.T) {
	r := start(t, nil)
	if res, body := r.raw("GET", "/healthz", "", "Authorization", ""); res.StatusCode != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %q", res.StatusCode, body)
	}
	if res, body := r.raw("GET", "/readyz", "", "Authorization", ""); res.StatusCode != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("readyz: %d %q", res.StatusCode, body)
	}
	r.svc.mu.Lock()
	r.svc.status.Ready, r.svc.status.Store = false, "disk full"
	r.svc.mu.Unlock()
	if res, body := r.raw("GET", "/readyz", "", "Authorization", ""); res.StatusCode != 503 || !strings.Contains(body, "disk full") {
		t.Errorf("readyz of a broken server: %d %q", res.StatusCode, body)
	}
	if _, err := r.as("alice").Whoami(t.Context()); err != nil {
		t.Fatal(err)
	}
	res, body := r.raw("GET", "/metrics", "", "Authorization", "")
	for _, want := range []string{`curfew_http_requests_total{method="GET",route="/v1/whoami",status="200"} 1`,
		`curfew_http_request_duration_seconds_count{method="GET",route="/v1/whoami"} 1`} {
		if res.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics lack %s: %d", want, res.StatusCode)
		}
	}
}

func TestScans(t *testing.T) {
	r := start(t, nil)
	root := r.as("root")
	h, err := root.RunScan(t.Context())
	if err != nil || h.ID != "s-0000000001" || h.Took != 1.5 {
		t.Errorf("run: got %+v, %v", h, err)
	}
	l, err := root.Scans(t.Context(), client.Page{})
	if err != nil || len(l.Items) != 1 || l.Items[0].ID != h.ID {
		t.Errorf("list: got %+v, %v", l, err)
	}
	rep, err := root.Scan(t.Context(), "latest")
	if err != nil || rep.ID != h.ID || len(rep.Findings) != 1 || rep.Findings[0].Resource != vmID("web-01") {
		t.Errorf("report: got %+v, %v", rep, err)
	}
	x, err := root.Explain(t.Context(), api.ExplainInput{VM: "web-01", Port: 22, From: "203.0.113.9"})
	if err != nil || x.Name != "web-01" || x.Source != "203.0.113.9" || x.Protocol != "tcp" {
		t.Errorf("explain: got %+v, %v", x, err)
	}
	if _, err := root.Explain(t.Context(), api.ExplainInput{VM: "web-01", From: "somewhere"}); access.CodeOf(err) != access.CodeInvalid {
		t.Errorf("explain from nowhere: %v", err)
	}
	d, err := root.DiffScans(t.Context(), "", h.ID)
	if err != nil || len(d.Appeared) != 1 || d.Gone == nil {
		t.Errorf("diff: got %+v, %v", d, err)
	}
	if _, err := root.Scan(t.Context(), "s-9"); access.CodeOf(err) != access.CodeNotFound {
		t.Errorf("a scan that there is not: %v", err)
	}
}

// read returns a request as an approver sees it.
func (r *running) read(id string) api.Request {
	r.t.Helper()
	q, err := r.as("bob").Request(r.t.Context(), id)
	if err != nil {
		r.t.Fatal(err)
	}
	return q
}

// An approval names what was shown, comments decide nothing, and the rest of the ways about a request.
func TestReviewRoutes(t *testing.T) {
	r := start(t, nil)
	alice, bob := r.as("alice"), r.as("bob")
	req, err := alice.CreateRequest(t.Context(), ask(), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = bob.Approve(t.Context(), req.ID, api.ReviewInput{})
	if e := code(t, err, access.CodeInvalid); !strings.Contains(e.Message, "digest") {
		t.Errorf("without a digest: %v", e)
	}
	if req, err = bob.Comment(t.Context(), req.ID, "which disk?"); err != nil || len(req.Comments) != 1 || req.Comments[0].By != "bob" || req.State != access.Pending {
		t.Errorf("comment: %+v, %v", req, err)
	}
	if req, err = alice.Remind(t.Context(), req.ID); err != nil || req.State != access.Pending || len(req.Waiting) != 1 || req.Waiting[0].Rule != "r1" {
		t.Errorf("remind: %+v, %v", req, err)
	}
	g, err := alice.BreakGlass(t.Context(), ask(), "key-glass")
	if err != nil || !g.BreakGlass || g.State != access.Approved || g.Aftermath == nil || !g.Aftermath.Open || len(g.Grants) != 1 {
		t.Fatalf("break glass: %+v, %v", g, err)
	}
	if l, err := bob.Aftermath(t.Context()); err != nil || len(l.Items) != 1 || l.Items[0].ID != g.ID {
		t.Errorf("aftermath: %+v, %v", l, err)
	}
	_, err = alice.CloseAftermath(t.Context(), g.ID, "fine")
	code(t, err, access.CodeDenied)
	if g, err = bob.CloseAftermath(t.Context(), g.ID, "it was needed"); err != nil || g.Aftermath.Open || g.Aftermath.ClosedBy != "bob" {
		t.Errorf("close: %+v, %v", g, err)
	}
	d, err := bob.Delegate(t.Context(), api.DelegationInput{To: "carol", Until: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)})
	if err != nil || d.From != "bob" || d.To != "carol" || !d.Until.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Fatalf("delegate: %+v, %v", d, err)
	}
	if l, err := bob.Delegations(t.Context()); err != nil || len(l.Items) != 1 {
		t.Errorf("delegations: %+v, %v", l, err)
	}
	if err := bob.EndDelegation(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
}

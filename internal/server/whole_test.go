package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/demo"
)

// The same API over the real broker, store and reconciler on the simulator: nothing on the way between client and broker loses
// or changes what the one says to the other. P5, P6 and P7 as a caller of the API sees them.
func TestTheWholeOverTheRealBroker(t *testing.T) {
	dir := t.TempDir() // before the clean-up below, so that it is removed after it
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := demo.Run(ctx, demo.Options{Listen: "127.0.0.1:0", AzureListen: "127.0.0.1:0", Dir: dir, JSON: true, Program: "curfew",
			Version: "test", Out: in, Err: io.Discard, Clock: clock.System{}})
		in.Close()
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the demo did not end")
		}
	})
	var ready struct{ Server string }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err, <-ended)
	}
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatal(err, line)
	}
	as := func(name string) *client.Client {
		c, err := client.New(client.Options{Server: ready.Server, As: name})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	call, stop := context.WithTimeout(t.Context(), 60*time.Second)
	defer stop()
	admin, asker, approver, auditor := as("admin"), as("requester"), as("approver"), as("auditor")

	events := make(chan api.AuditEntry, 1000)
	watching, unwatch := context.WithCancel(call)
	defer unwatch()
	go func() {
		for e, err := range auditor.Events(watching, 0) {
			if err != nil {
				return
			}
			events <- e
		}
	}()

	ask := api.RequestInput{VMs: []string{"web-01"}, Ports: []access.Ports{access.Port(22)}, Duration: api.Duration(time.Hour), Reason: "INC-4711"}
	_, err = asker.CreateRequest(call, ask, "")
	code(t, err, access.CodeNotProtected)
	plan, err := admin.PlanProtection(call, api.ProtectInput{VMs: []string{"web-01"}})
	if err != nil || plan.Digest == "" || len(plan.Changes) == 0 {
		t.Fatalf("plan: %+v, %v", plan, err)
	}
	if done, err := admin.Protect(call, api.ProtectInput{VMs: []string{"web-01"}, Digest: plan.Digest}); err != nil || !done.Applied {
		t.Fatalf("protect: %+v, %v", done, err)
	}
	vm, err := admin.VM(call, "web-01")
	if err != nil || vm.State != "protected" || vm.Protection == nil || vm.Protection.State != access.ProtectionOn {
		t.Fatalf("vm: %+v, %v", vm, err)
	}
	if byID, err := admin.VM(call, strings.ToUpper(vm.ID)); err != nil || byID.ID != vm.ID {
		t.Errorf("by its id: %+v, %v", byID, err)
	}
	dry, err := asker.PlanRequest(call, ask)
	if err != nil || dry.Terms.Source.String() != "203.0.113.9/32" || len(dry.Limits.Rules) == 0 {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	req, err := asker.CreateRequest(call, ask, "key-1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := asker.CreateRequest(call, ask, "key-1"); err != nil || again.ID != req.ID {
		t.Errorf("the same key: %s and %s, %v", again.ID, req.ID, err)
	}
	other := ask
	other.Reason = "another"
	_, err = asker.CreateRequest(call, other, "key-1")
	code(t, err, access.CodeConflict)
	_, err = asker.Approve(call, req.ID, api.ReviewInput{Digest: req.Digest})
	code(t, err, access.CodeDenied)
	_, err = as("requester-2").Request(call, req.ID)
	code(t, err, access.CodeNotFound)
	if req, err = approver.Approve(call, req.ID, api.ReviewInput{Digest: req.Digest, Comment: "ok"}); err != nil || req.State != access.Approved || len(req.Grants) != 1 {
		t.Fatalf("approve: %+v, %v", req, err)
	}
	grant, err := asker.WaitGrant(call, req.Grants[0], nil)
	if err != nil || !grant.Ready || grant.EndsAt.Sub(grant.StartsAt) != time.Hour || len(grant.Connect) == 0 {
		t.Fatalf("grant: %+v, %v", grant, err)
	}
	list, err := asker.Grants(call, client.GrantFilter{Mine: true, VM: "web-01", Request: req.ID, States: []access.GrantState{access.Active}})
	if err != nil || len(list.Items) != 1 || list.Items[0].ID != grant.ID {
		t.Errorf("grants: %+v, %v", list, err)
	}
	if _, err = asker.Close(call, grant.ID); err != nil {
		t.Fatal(err)
	}
	if grant, err = asker.WaitShut(call, grant.ID, nil); err != nil || grant.State != access.Closed {
		t.Fatalf("shut: %+v, %v", grant, err)
	}

	_, err = asker.Audit(call, client.AuditFilter{})
	code(t, err, access.CodeDenied)
	var log []api.AuditEntry
	for f := (client.AuditFilter{Ascending: true, Page: client.Page{Limit: 3}}); ; {
		l, err := auditor.Audit(call, f)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, l.Items...)
		if f.Page.After = l.Next; l.Next == "" {
			break
		}
	}
	cp, err := auditor.Checkpoint(call)
	if err != nil || cp.Size < int64(len(log)) {
		t.Errorf("checkpoint: %+v, %v, %d entries", cp, err, len(log))
	}
	seen := map[int64]bool{}
	for i, e := range log {
		if e.Index != int64(i) {
			t.Fatalf("entry %d has index %d", i, e.Index)
		}
	}
	// What the stream told is what stands in the log, in order and without a gap.
	for want := int64(1); want < int64(len(log)); want++ {
		select {
		case e := <-events:
			if e.Index != want || e.Message != log[want].Message || seen[e.Index] {
				t.Fatalf("event %+v, want %+v", e, log[want])
			}
			seen[e.Index] = true
		case <-call.Done():
			t.Fatalf("event %d did not come", want)
		}
	}
	if st, err := asker.Status(call); err != nil || !st.Ready || !st.Demo {
		t.Errorf("status: %+v, %v", st, err)
	}
	_, err = asker.Reconcile(call)
	code(t, err, access.CodeDenied)
	if rep, err := admin.Reconcile(call); err != nil || len(rep.Unread)+len(rep.Failed) > 0 {
		t.Errorf("reconcile: %+v, %v", rep, err)
	}
}

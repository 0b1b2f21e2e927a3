package fix_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// workshop has one of each that fix writes to: a group, a Uniform set and a machine of a Flexible one.
func workshop(t *testing.T, more ...map[string]any) *world {
	t.Helper()
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("ssh", 300, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
	e.ScaleSet("workers", estates.ScaleSet{Subnet: subnet(e, "web"), PrivateIPs: []string{"10.0.1.200", "10.0.1.201"}})
	set := e.ScaleSet("flex", estates.ScaleSet{Subnet: subnet(e, "web"), Terminate: "PT5M"})
	vm := e.VM("flex_0", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.210"})
	for _, m := range more {
		e.Add(m)
	}
	w := newWorld(t, e.JSON())
	w.flexible(set, vm)
	return w
}

// flexible makes a set a Flexible one with these machines.
func (w *world) flexible(set string, vms ...string) {
	w.t.Helper()
	edit := func(id string, change func(props map[string]any)) {
		if err := w.sim.Edit(id, func(body map[string]any) error { change(body["properties"].(map[string]any)); return nil }); err != nil {
			w.t.Fatal(err)
		}
	}
	edit(set, func(props map[string]any) { props["orchestrationMode"] = "Flexible" })
	for _, vm := range vms {
		edit(vm, func(props map[string]any) { props["virtualMachineScaleSet"] = map[string]any{"id": set} })
	}
}

// What Azure refuses is not counted as written, and there is nothing to give back; what it took although the reply was lost is.
func TestRefusedWritesAreNotCounted(t *testing.T) {
	for _, c := range []struct {
		rule    scan.RuleID
		options fix.Options
		method  string
		path    string
	}{
		{scan.VMPortExposed, fix.Options{}, "PUT", "/web-nsg$"},
		{scan.VMJITMissing, fix.Options{}, "PUT", "/web-nsg$"},
		{scan.VMJITMissing, fix.Options{Backend: fix.Defender}, "PUT", "/jitNetworkAccessPolicies/"},
		{scan.VMSSTerminateOff, fix.Options{}, "PATCH", "/workers$"},
		{scan.VMSSTerminateOff, fix.Options{}, "PATCH", "/virtualMachines/"},
	} {
		for _, f := range []sim.Fault{
			{Kind: "error", Status: 409, Code: "ScopeLocked", Message: "The scope cannot perform write operation because following scope(s) are locked"},
			{Kind: "error", Status: 403, Code: "AuthorizationFailed", Message: "The client does not have authorization to perform action"},
			{Kind: "error", Status: 400, Code: "Refused", Message: "Not like this"},
			{Kind: "lost-request", Count: 1}, {Kind: "lost-reply", Count: 1},
		} {
			name := fmt.Sprintf("%s %s%s %s%s", c.rule, c.options.Backend, c.path, f.Kind, f.Code)
			t.Run(name, func(t *testing.T) {
				w := workshop(t, plan2)
				f.Method, f.PathPattern = c.method, c.path
				if _, err := w.sim.Fault(f); err != nil {
					t.Fatal(err)
				}
				fs := slices.DeleteFunc(w.scan(c.rule), func(x scan.Finding) bool {
					return c.rule == scan.VMSSTerminateOff && strings.Contains(x.Resource, "/virtualMachines/") != (c.path == "/virtualMachines/") ||
						c.rule == scan.VMSSTerminateOff && c.path == "/workers$" && !strings.HasSuffix(x.Resource, "/workers")
				})
				if len(fs) != 1 {
					t.Fatalf("findings: %s", show(fs))
				}
				before := w.plain()
				_, out := w.fix(fs, c.options)
				if f.Status == 0 {
					if out.Writes != 1 || out.Steps[0].State != fix.StepDone || out.Undo == "" {
						t.Errorf("%s", show(out))
					}
					return
				}
				if w.plain() != before {
					t.Fatal("it was written: nothing is shown")
				}
				s := out.Steps[0]
				if out.Writes != 0 || s.State != fix.StepFailed || s.Unsure || s.Error == "" || s.Hint == "" || out.Undo != "" || len(out.Open) != 1 {
					t.Errorf("%s", show(out))
				}
			})
		}
	}
}

// Without Defender's plan on the subscription the policy is refused: nothing was written.
func TestDefenderPlanMissing(t *testing.T) {
	w := workshop(t)
	_, out := w.fix(w.scan(scan.VMJITMissing), fix.Options{Backend: fix.Defender})
	if out.Writes != 0 || out.Undo != "" || out.Steps[0].State != fix.StepFailed || out.Steps[0].Hint == "" {
		t.Errorf("%s", show(out))
	}
}

// Of two groups that protect writes, one is refused: one write, and it is partly done, and can be given back.
func TestProtectionWrittenInPart(t *testing.T) {
	e := shop()
	for i := range 3 {
		g := e.NSG(fmt.Sprintf("nsg%d", i), estates.Allow("ssh", 300, "22", "*"))
		e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), NSG: g})
	}
	w := newWorld(t, e.JSON())
	before := w.plain()
	if _, err := w.sim.Fault(sim.Fault{Kind: "error", Status: 409, Code: "ScopeLocked", Method: "PUT", PathPattern: "/nsg1$"}); err != nil {
		t.Fatal(err)
	}
	_, out := w.fix(w.scan(scan.VMJITMissing), fix.Options{})
	if out.Writes != 2 || out.Undo == "" || out.Steps[0].State != fix.StepPartly || !strings.Contains(out.Steps[0].Error, "nsg1") || len(out.Fixed) != 2 || len(out.Open) != 1 {
		t.Errorf("%s", show(out))
	}
	w.sim.ClearFaults()
	if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Failed) > 0 || w.plain() != before {
		t.Errorf("%v, %s", err, show(u))
	}
}

// stopper ends a context when the nth matching request is answered, or is about to leave.
type stopper struct {
	next   http.RoundTripper
	method string
	after  int
	before bool
	stop   context.CancelFunc
}

func (s *stopper) RoundTrip(r *http.Request) (*http.Response, error) {
	mine := r.Method == s.method
	if mine {
		s.after--
	}
	if mine && s.after == 0 && s.before {
		s.stop()
		return nil, r.Context().Err()
	}
	resp, err := s.next.RoundTrip(r)
	if mine && s.after == 0 {
		s.stop()
	}
	return resp, err
}

// Interrupted at any moment, it says that it was, what was written, of what that is not known, and what to do next; the next run goes on,
// and what was written can be given back (P8).
func TestInterrupted(t *testing.T) {
	for _, before := range []bool{true, false} {
		for after := 1; after <= 4; after++ {
			e := shop()
			for i := range 3 {
				g := e.NSG(fmt.Sprintf("nsg%d", i), estates.Allow("ssh", 300, "22", "*"))
				e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: g})
			}
			w := newWorld(t, e.JSON())
			plain := w.plain()
			fs := w.scan(scan.VMPortExposed)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			w.http = &stopper{next: w.http, method: "PUT", after: after, before: before, stop: stop}
			f := w.fixer()
			p, err := f.Plan(ctx, fs, fix.Options{Parallel: 1})
			if err != nil {
				t.Fatal(err)
			}
			out, err := f.Apply(ctx, p, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.http = w.http.(*stopper).next
			if after == 4 {
				if out.Interrupted || !out.Complete() {
					t.Errorf("not interrupted: %s", show(out))
				}
				continue
			}
			text := show(out)
			wrote := 3 - len(w.scan(scan.VMPortExposed))
			unsure := 0
			for i, s := range out.Steps {
				want := fix.StepSkipped
				switch {
				case i < after-1:
					want = fix.StepDone
				case i == after-1:
					want = fix.StepUnknown
				}
				if s.Unsure {
					unsure++
				}
				if s.State != want && !(i == after-1 && before && s.State == fix.StepSkipped) {
					t.Errorf("%d, %v: step %d is %s, want %s: %s", after, before, i, s.State, want, text)
				}
			}
			if !out.Interrupted || out.Judged || out.Writes > wrote || out.Writes+unsure < wrote || len(out.Open) != 3 || strings.Contains(text, "internal error") {
				t.Errorf("%d, %v: %d are written: %s", after, before, wrote, text)
			}
			for _, l := range out.Open {
				if l.Why == "" || l.Next == "" {
					t.Errorf("%d, %v: no reason or no next step: %+v", after, before, l)
				}
			}
			if (out.Undo != "") != (out.Writes+unsure > 0) {
				t.Errorf("%d, %v: undo %q: %s", after, before, out.Undo, text)
			}
			if _, out := w.fix(fs, fix.Options{}); !out.Complete() {
				t.Errorf("%d, %v: the next run: %s", after, before, show(out))
			}
			if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Failed)+len(u.Kept) > 0 || w.plain() != plain {
				t.Errorf("%d, %v: undo: %v, %s", after, before, err, show(u))
			}
		}
	}
}

// An interrupted plan is none: what could not be read any more is not told as left.
func TestInterruptedPlan(t *testing.T) {
	w := workshop(t)
	fs := w.scan()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w.http = &stopper{next: w.http, method: "GET", after: 2, stop: stop}
	if p, err := w.fixer().Plan(ctx, fs, fix.Options{}); err == nil || len(p.Left) > 0 {
		t.Errorf("%v, %s", err, show(p))
	}
}

// Interrupted while it gives back: what was given back is noted, the rest is told and given back by the next run.
func TestInterruptedUndo(t *testing.T) {
	e := shop()
	for i := range 3 {
		g := e.NSG(fmt.Sprintf("nsg%d", i), estates.Allow("ssh", 300, "22", "*"))
		e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: g})
	}
	w := newWorld(t, e.JSON())
	plain := w.plain()
	if _, out := w.fix(w.scan(scan.VMPortExposed), fix.Options{}); !out.Complete() {
		t.Fatal(show(out))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w.http = &stopper{next: w.http, method: "PUT", after: 2, stop: stop}
	u, err := w.fixer().Undo(ctx, false)
	if text := show(u); err != nil || !u.Interrupted || len(u.Done) != 1 || len(u.Failed) != 2 || strings.Contains(text, "internal error") || !strings.Contains(text, "not known whether it was given back") {
		t.Errorf("%v, %s", err, text)
	}
	w.http = w.http.(*stopper).next
	if u, err = w.fixer().Undo(t.Context(), false); err != nil || len(u.Failed)+len(u.Kept) > 0 || w.plain() != plain {
		t.Errorf("%v, %s", err, show(u))
	}
}

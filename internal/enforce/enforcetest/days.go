package enforcetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/sim"
)

// The bad days: what Azure, other writers and time do while a back end is at work.

const puts = "networkSecurityGroups/[^/]+$"

func outsideHand(w *World) {
	// Somebody writes between our read and our write, twice.
	w.fault(sim.Fault{Kind: "edit", Method: "PUT", PathPattern: puts, Count: 2, Edit: &sim.Edit{Merge: map[string]any{"tags": map[string]any{"touched": "yes"}}}})
	decided := 0
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg", func(s *enforce.Sync) {
		inner := s.Decide
		s.Decide = func(ctx context.Context, h enforce.Held) (enforce.Wanted, error) { decided++; return inner(ctx, h) }
	})
	w.open(client, "web-01")
	if decided != 3 {
		w.t.Errorf("decided %d times, want 3: after each refusal again", decided)
	}
	if body := w.foreignBytes("web-nsg"); !strings.Contains(body, "touched") {
		w.t.Errorf("what the other wrote is lost: %s", body)
	}
}

func lostReply(w *World) {
	w.fault(sim.Fault{Kind: "lost-reply", Method: "PUT", PathPattern: puts, Count: 1})
	res := w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	if !res.Wrote || w.writes("web-nsg") != 1 || res.Before[grantID("1")] {
		w.t.Errorf("wrote %v, %d writes, before %v", res.Wrote, w.writes("web-nsg"), res.Before)
	}
	w.open(client, "web-01")
}

// P1: what arrives after it was given up is found and removed by the next look.
func lateWrite(w *World) {
	w.mustSync(w.protect("web-01"), "web-nsg")
	w.fault(sim.Fault{Kind: "late", Method: "PUT", PathPattern: puts, Delay: 40 * time.Second})
	want := w.grant(w.protect("web-01"), "1", "web-01", client, 20*time.Second)
	_, err := w.sync(want, "web-nsg")
	w.Sim.ClearFaults()
	if err == nil {
		w.t.Fatal("a write that did not arrive succeeded")
	}
	w.shut(client, "web-01")
	time.Sleep(41 * time.Second) // it is carried out now, after the window
	w.open(client, "web-01")
	w.mustSync(want, "web-nsg")
	w.shut(client, "web-01")
}

func busy(w *World) {
	w.fault(sim.Fault{Kind: "another-operation", Method: "PUT", PathPattern: puts, Count: 4})
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
}

func superseded(w *World) {
	w.fault(sim.Fault{Kind: "superseded", Method: "PUT", PathPattern: puts, Count: 1})
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	w.fault(sim.Fault{Kind: "superseded", Applied: true, Method: "PUT", PathPattern: puts, Count: 1})
	w.mustSync(w.protect("web-01"), "web-nsg")
	w.shut(client, "web-01")
}

func operationFailed(w *World) {
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.fault(sim.Fault{Kind: "operation-failed", Method: "PUT", PathPattern: puts, Code: "InternalServerError"})
	// The closing goes by itself all the same.
	if res, _ := w.sync(w.protect("web-01"), "web-nsg"); !res.Clean || len(res.Leftover) > 0 {
		w.t.Errorf("result %+v", res)
	}
	w.shut(client, "web-01")
}

// P9: throttling delays, and loses nothing.
func throttled(w *World) {
	w.fault(sim.Fault{Kind: "throttle", Method: "PUT", PathPattern: puts, Count: 3, RetryAfter: 7 * time.Second})
	start := time.Now()
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	if d := time.Since(start); d < 21*time.Second {
		w.t.Errorf("done after %v, Azure asked for three times 7 s", d)
	}
}

func locked(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	unlock := w.lock("CanNotDelete") // a whole-group write passes it, FACTS 2.5
	w.mustSync(want.without("1"), "web-nsg")
	w.shut(client, "web-01")
	w.mustSync(want, "web-nsg")
	unlock()
	unlock = w.lock("ReadOnly")
	res, err := w.sync(want.without("1"), "web-nsg")
	if azure.Classify(err) != azure.Locked || res.Clean || res.Leftover[grantID("1")] == nil {
		w.t.Errorf("result %+v, %v", res, err)
	}
	w.open(client, "web-01") // nothing can be done, and nothing else is said
	res, err = w.sync(w.grant(want, "2", "web-01", colleague, long), "web-nsg")
	if err == nil || res.After[grantID("2")] || !res.After[grantID("1")] || !res.Clean {
		w.t.Errorf("result %+v, %v", res, err)
	}
	unlock()
	w.mustSync(w.protect("web-01"), "web-nsg")
	w.shut(client, "web-01")
}

func groupDeleted(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	fixed := w.at(want, w.nsg("web-nsg"))
	decide := func(s *enforce.Sync) {
		s.Decide = func(context.Context, enforce.Held) (enforce.Wanted, error) { return fixed, nil }
	}
	if err := w.Sim.Delete(w.nsg("web-nsg")); err != nil {
		w.t.Fatal(err)
	}
	res, err := w.sync(want, "web-nsg", decide)
	if err != nil || res.After[grantID("1")] || res.Shields || !res.Clean || len(res.Held.Rules) > 0 {
		w.t.Errorf("result %+v, %v", res, err)
	}
	if len(res.Problems) != 1 || len(res.Problems[0].Grants) != 1 || res.Problems[0].Grants[0] != grantID("1") { // P8: the grant can say why
		w.t.Errorf("problems %+v, want one that names the grant", res.Problems)
	}
	if err := w.Backend.Shut(w.t.Context(), w.nsg("web-nsg"), []string{"curfew-allow-acme-0000000001-20260101T000000Z"}); err != nil {
		w.t.Errorf("shutting in a group that is gone: %v", err)
	}
}

func serverErrors(w *World) {
	w.fault(sim.Fault{Kind: "error", Status: 503, Method: "PUT", PathPattern: puts, Count: 2})
	w.fault(sim.Fault{Kind: "error", Status: 500, Method: "GET", PathPattern: puts, Count: 2})
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	less := w.protect("web-01")
	w.fault(sim.Fault{Kind: "error", Status: 403, Method: "GET"})
	if res, err := w.sync(less, "web-nsg"); err == nil || res.Clean {
		w.t.Errorf("nothing could be read, and yet: %+v, %v", res, err) // unknown is not gone
	}
	w.Sim.ClearFaults()
	w.open(client, "web-01")
}

func garbage(w *World) {
	for _, kind := range []string{"truncated", "not-json"} {
		for _, method := range []string{"GET", "PUT"} {
			w.fault(sim.Fault{Kind: kind, Method: method, PathPattern: puts, Count: 1})
		}
	}
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	for try := 0; ; try++ {
		if _, err := w.sync(want, "web-nsg"); err == nil {
			break
		} else if try == 5 {
			w.t.Fatal(err)
		}
	}
	w.mustSync(want, "web-nsg")
	w.open(client, "web-01")
}

// P1: a write that waited past the end of one of its windows does not carry it.
func overWhileWaiting(w *World) {
	w.fault(sim.Fault{Kind: "throttle", Method: "PUT", PathPattern: puts, Count: 1, RetryAfter: 30 * time.Second})
	want := w.grant(w.grant(w.protect("web-01"), "1", "web-01", client, 10*time.Second), "2", "web-01", colleague, long)
	w.onWrite = func() { w.shut(client, "web-01") }
	res := w.mustSync(want, "web-nsg")
	w.onWrite = nil
	w.open(colleague, "web-01")
	w.shut(client, "web-01")
	if res.After[grantID("1")] {
		w.t.Errorf("result %+v", res)
	}
	// And all alone.
	w.fault(sim.Fault{Kind: "throttle", Method: "PUT", PathPattern: puts, Count: 1, RetryAfter: 30 * time.Second})
	n := w.writes("web-nsg")
	w.mustSync(w.grant(want, "3", "web-01", stranger, 5*time.Second), "web-nsg")
	w.shut(stranger, "web-01")
	if got := w.writes("web-nsg"); got != n {
		w.t.Errorf("%d writes for a window that was over", got-n)
	}
}

// P2, P9: when the group cannot be written, closings go one by one, and openings are reported as failed.
func closeSingly(w *World) {
	want := w.grant(w.grant(w.protect("web-01"), "1", "web-01", client, long), "2", "web-01", colleague, long)
	w.mustSync(want, "web-nsg")
	w.fault(sim.Fault{Kind: "edit", Method: "PUT", PathPattern: puts, Edit: &sim.Edit{Merge: map[string]any{"tags": map[string]any{"touched": "again"}}}})
	res, err := w.sync(w.grant(want.without("1"), "3", "web-01", stranger, long), "web-nsg")
	if azure.Classify(err) != azure.Precondition {
		w.t.Errorf("err %v", err)
	}
	if !res.Clean || len(res.Leftover) > 0 || res.After[grantID("3")] || !res.After[grantID("2")] {
		w.t.Errorf("result %+v", res)
	}
	w.shut(client, "web-01")
	w.open(colleague, "web-01")
	w.shut(stranger, "web-01")
}

// P7: what may not be sent is not, and closing goes on.
func refusedSending(w *World) {
	want := w.grant(w.grant(w.protect("web-01"), "1", "web-01", client, long), "2", "web-01", colleague, long)
	w.mustSync(want, "web-nsg")
	held := errors.New("openings are on hold")
	res, err := w.sync(w.grant(want.without("1"), "3", "web-01", stranger, long), "web-nsg", func(s *enforce.Sync) {
		s.Sending = func(opening bool) error {
			if opening {
				return held
			}
			return nil
		}
	})
	if !errors.Is(err, held) || !res.Clean {
		w.t.Errorf("result %+v, %v", res, err)
	}
	w.shut(client, "web-01")
	w.shut(stranger, "web-01")
	// A write that only closes is no opening.
	w.mustSync(want.without("1").without("2"), "web-nsg", func(s *enforce.Sync) {
		s.Sending = func(opening bool) error {
			if opening {
				return held
			}
			return nil
		}
	})
	w.shut(colleague, "web-01")
}

// P2: nothing but the names is needed.
func sweep(w *World) {
	want := w.grant(w.grant(w.protect("web-01"), "1", "web-01", client, time.Minute), "2", "web-01", colleague, long)
	w.mustSync(want, "web-nsg")
	w.editRules("web-nsg", func(rules []map[string]any) []map[string]any { // whatever else was done to the rule
		for _, r := range rules {
			if name := r["name"].(string); strings.Contains(name, "0000000001") {
				p := r["properties"].(map[string]any)
				p["sourceAddressPrefix"], p["description"] = "*", "mine now"
			}
		}
		return rules
	})
	w.open(stranger, "web-01")
	time.Sleep(time.Until(want.windows[0].End.Add(-time.Second)))
	sub := []string{subscription}
	if found, err := w.h.Sweep(w.t.Context(), w.Backend, sub, false); err != nil || len(found) > 0 {
		w.t.Errorf("swept too early: %v, %v", found, err)
	}
	time.Sleep(time.Second)
	found, err := w.h.Sweep(w.t.Context(), w.Backend, sub, false)
	if err != nil || len(found) != 1 || !strings.Contains(found[0], "0000000001") {
		w.t.Errorf("swept %v, %v", found, err)
	}
	w.shut(stranger, "web-01")
	w.open(colleague, "web-01")
	// Nothing can be written for now: said, and done the next time.
	time.Sleep(long)
	unlock := w.lock("ReadOnly")
	if found, err := w.h.Sweep(w.t.Context(), w.Backend, sub, false); err == nil || len(found) != 1 {
		w.t.Errorf("under a lock: %v, %v", found, err)
	}
	unlock()
	if _, err := w.h.Sweep(w.t.Context(), w.Backend, sub, false); err != nil {
		w.t.Error(err)
	}
	w.shut(colleague, "web-01")
	w.shut("10.0.0.9", "web-01") // the protection stays
}

func drift(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, hour)
	w.mustSync(want, "web-nsg")
	known := map[string]bool{}
	for _, r := range w.raw(w.nsg("web-nsg")) {
		known[r.Name] = true
	}
	expect := func(s *enforce.Sync) { s.Expected = func(name string) bool { return known[name] } }
	if res := w.mustSync(want, "web-nsg", expect); len(res.Missing)+len(res.Altered) > 0 {
		w.t.Errorf("nothing happened: missing %v, altered %v", res.Missing, res.Altered)
	}
	deny := ""
	w.editRules("web-nsg", func(rules []map[string]any) []map[string]any {
		var out []map[string]any
		for _, r := range rules {
			if strings.HasPrefix(r["name"].(string), "curfew-deny-") {
				deny = r["name"].(string)
				continue
			}
			out = append(out, r)
		}
		return out
	})
	w.open("10.0.0.9", "web-01")
	if res := w.mustSync(want, "web-nsg", expect); len(res.Missing) != 1 || res.Missing[0] != deny {
		w.t.Errorf("missing %v, want %s", res.Missing, deny)
	}
	w.shut("10.0.0.9", "web-01")
	w.editRules("web-nsg", func(rules []map[string]any) []map[string]any {
		for _, r := range rules {
			if strings.HasPrefix(r["name"].(string), "curfew-allow-") {
				r["properties"].(map[string]any)["sourceAddressPrefix"] = "203.0.113.0/24"
			}
		}
		return rules
	})
	w.open(colleague, "web-01")
	res := w.mustSync(want, "web-nsg", expect)
	if len(res.Altered) != 1 || res.Before[grantID("1")] {
		w.t.Errorf("altered %v, before %v", res.Altered, res.Before)
	}
	w.shut(colleague, "web-01")
	w.open(client, "web-01")
	// An allow that somebody removed was wanted and did not stand: whether it is put back is for others to decide.
	if err := w.Backend.Shut(w.t.Context(), w.nsg("web-nsg"), allowsOf(res.Held)); err != nil {
		w.t.Fatal(err)
	}
	w.shut(client, "web-01")
	if res := w.mustSync(want, "web-nsg", expect); res.Before[grantID("1")] || len(res.Missing) > 0 {
		w.t.Errorf("before %v, missing %v", res.Before, res.Missing)
	}
	w.open(client, "web-01")
	// A wish that changes is no drift.
	want.shields = append(want.shields, enforce.Shield{VM: w.vm("web-02"), Ports: access.Port(22), Protocol: access.TCP})
	if res := w.mustSync(want, "web-nsg", expect); len(res.Altered)+len(res.Missing) > 0 {
		w.t.Errorf("altered %v, missing %v", res.Altered, res.Missing)
	}
}

func allowsOf(h enforce.Held) []string {
	var out []string
	for _, r := range h.Rules {
		if r.Kind == enforce.KindAllow {
			out = append(out, r.Name)
		}
	}
	return out
}

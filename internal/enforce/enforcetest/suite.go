package enforcetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/sim"
)

// Harness makes the back end under test.
type Harness struct {
	// New returns a back end on a client of the simulator.
	New func(c *azure.Client, installation string, clk clock.Clock, log *slog.Logger) (enforce.Backend, error)
	// Sweep removes what is past its end by name alone, in the subscriptions, also of other installations with others; it returns
	// the names of the rules that it found, and an error when one could not be removed.
	Sweep func(ctx context.Context, b enforce.Backend, subscriptions []string, others bool) ([]string, error)
}

// Run holds a back end to the contract. Each case has a world and a clock of its own.
func Run(t *testing.T, h Harness) {
	cases := []struct {
		name string
		run  func(*World)
	}{
		{"open", open}, {"reopen writes nothing", reopen}, {"close and close again", closeTwice}, {"extend without a gap", extend},
		{"overlapping grants", overlapping}, {"a shared group opens no neighbour", neighbour}, {"what is not ours stays", untouched},
		{"subnet and interface", both}, {"IPv6", ipv6}, {"hundreds at once", hundreds}, {"exemptions", exemptions}, {"dry run", dryRun},
		{"bypass and consent", consent}, {"originals are kept first", keepFirst}, {"another installation", otherInstallation},
		{"no group", noGroup}, {"survey", survey},
		{"outside hand", outsideHand}, {"lost reply", lostReply}, {"late write", lateWrite}, {"busy", busy}, {"superseded", superseded},
		{"operation failed", operationFailed}, {"throttled", throttled}, {"locked", locked}, {"group deleted", groupDeleted},
		{"server errors", serverErrors}, {"truncated and not JSON", garbage}, {"over while waiting", overWhileWaiting},
		{"closing without a conditional write", closeSingly}, {"refused at the last moment", refusedSending}, {"sweep", sweep},
		{"drift", drift},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.run(newWorld(t, h)) })
		})
	}
}

const (
	hour = time.Hour
	long = 10 * time.Minute
)

func (w *World) writes(nsg string) int { return w.Sim.Writes(w.nsg(nsg)) }

// P1, P4: protecting shuts the port to the Internet and to the network, a grant lets in one address.
func open(w *World) {
	w.open("10.0.0.9", "web-01") // before: AllowVnetInBound
	want := w.protect("web-01")
	w.mustSync(want, "web-nsg")
	w.shut("10.0.0.9", "web-01")
	w.shut(client, "web-01")
	res := w.mustSync(w.grant(want, "1", "web-01", client, long), "web-nsg")
	if res.Before[grantID("1")] || !res.After[grantID("1")] || !res.Wrote {
		w.t.Errorf("before %v, after %v, wrote %v", res.Before, res.After, res.Wrote)
	}
	w.open(client, "web-01")
	for _, src := range []string{colleague, stranger, "10.0.0.9"} {
		w.shut(src, "web-01")
	}
	n, _ := w.snapshot().NSG(w.nsg("web-nsg"))
	told, _ := res.Snapshot(w.snapshot()).NSG(w.nsg("web-nsg"))
	if len(n.Rules) != len(told.Rules) {
		w.t.Errorf("the result's snapshot has %d rules, the group %d", len(told.Rules), len(n.Rules))
	}
}

func reopen(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	n := w.writes("web-nsg")
	for range 3 {
		if res := w.mustSync(want, "web-nsg"); !res.Before[grantID("1")] || res.Wrote || len(res.Changes)+len(res.Altered) > 0 {
			w.t.Errorf("a second opening: %+v", res)
		}
	}
	if got := w.writes("web-nsg"); got != n {
		w.t.Errorf("%d writes, want none after the first %d", got, n)
	}
}

// P2
func closeTwice(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	w.mustSync(want.without("1"), "web-nsg")
	w.shut(client, "web-01")
	n := w.writes("web-nsg")
	w.mustSync(want.without("1"), "web-nsg")
	if got := w.writes("web-nsg"); got != n {
		w.t.Errorf("closing again wrote")
	}
	w.mustSync(&Wanted{}, "web-nsg") // unprotected: nothing of ours is left
	if got := w.dump(w.nsg("web-nsg")); strings.Contains(got, "curfew-") {
		w.t.Errorf("left over:\n%s", got)
	}
	w.open("10.0.0.9", "web-01")
	if err := w.Backend.Shut(w.t.Context(), w.nsg("web-nsg"), []string{"curfew-allow-acme-0000000001-20260101T000000Z"}); err != nil {
		w.t.Errorf("removing what is gone: %v", err)
	}
	if err := w.Backend.Shut(w.t.Context(), w.nsg("web-nsg"), []string{"web"}); access.CodeOf(err) != access.CodeInvalid {
		w.t.Errorf("removing what is not ours: %v", err) // P3
	}
}

// The port is open in every state that the group goes through.
func extend(w *World) {
	want := w.grant(w.protect("web-01"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	states := 0
	w.onWrite = func() {
		states++
		w.open(client, "web-01")
		w.shut(colleague, "web-01")
	}
	time.Sleep(5 * time.Minute)
	want.windows[0].End = want.windows[0].End.Add(7 * time.Minute)
	first := want.windows[0].End.Add(-7 * time.Minute)
	res := w.mustSync(want, "web-nsg")
	if w.onWrite = nil; states == 0 || !res.Wrote {
		w.t.Fatalf("%d writes were seen", states)
	}
	if got := res.Until[grantID("1")]; res.Before[grantID("1")] || !got.Equal(first.Truncate(time.Second)) {
		w.t.Errorf("before it was lengthened: stands as wanted %v, until %s; want its first end, %s", res.Before[grantID("1")], got, first)
	}
	time.Sleep(6 * time.Minute) // past the first end
	if found, err := w.h.Sweep(w.t.Context(), w.Backend, []string{subscription}, true); err != nil || len(found) > 0 {
		w.t.Errorf("a sweep found %v, %v: the rule's name must carry the new end", found, err)
	}
	w.open(client, "web-01")
}

func overlapping(w *World) {
	want := w.grant(w.grant(w.protect("web-01"), "1", "web-01", client, 5*time.Minute), "2", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	time.Sleep(5 * time.Minute)
	w.mustSync(want, "web-nsg")
	w.open(client, "web-01")
	w.mustSync(want.without("1"), "web-nsg")
	w.open(client, "web-01")
	w.mustSync(want.without("1").without("2"), "web-nsg")
	w.shut(client, "web-01")
}

func neighbour(w *World) {
	w.edit("web-nsg", func(body map[string]any) {
		props := body["properties"].(map[string]any)
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": "ssh-02", "properties": map[string]any{"priority": 500, "direction": "Inbound", "access": "Allow",
			"protocol": "Tcp", "sourcePortRange": "*", "destinationPortRange": "22", "sourceAddressPrefix": stranger, "destinationAddressPrefix": "10.0.0.5"}})
	})
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	w.shut(client, "web-02")
	w.open(stranger, "web-02")   // as before
	w.open("10.0.0.9", "web-02") // as before
	w.shut(stranger, "web-01")
}

// P3
func untouched(w *World) {
	before := w.foreignBytes("web-nsg")
	want := w.grant(w.protect("web-01", "web-02"), "1", "web-01", client, long)
	w.mustSync(want, "web-nsg")
	w.mustSync(want.without("1"), "web-nsg")
	if after := w.foreignBytes("web-nsg"); after != before {
		w.t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	w.mustSync(&Wanted{}, "web-nsg")
	if after := w.foreignBytes("web-nsg"); after != before {
		w.t.Errorf("before:\n%s\nafter unprotecting:\n%s", before, after)
	}
	for _, field := range []string{"futureField", "futureRuleField", "web team"} {
		if !strings.Contains(before, field) {
			w.t.Errorf("the test is blind: no %s", field)
		}
	}
}

func both(w *World) {
	places, err := w.Backend.Locate(w.machine("app-01"), access.Port(22), access.TCP)
	if err != nil || len(places) != 2 {
		w.t.Fatalf("places %v, %v", places, err)
	}
	want := w.grant(w.protect("app-01"), "1", "app-01", client, long)
	w.mustSync(want, "back-nsg")
	w.shut(client, "app-01")
	w.mustSync(want, "app-nsg")
	w.open(client, "app-01")
	w.shut("10.0.0.9", "app-01")
	w.shut(client, "app-02")
	w.open("10.0.0.9", "app-02")
	w.mustSync(want.without("1"), "back-nsg")
	w.shut(client, "app-01")
}

func ipv6(w *World) {
	want := w.protect("dual-01")
	w.mustSync(want, "dual-nsg")
	w.shut("fd00:10::9", "dual-01")
	w.shut("10.0.0.9", "dual-01")
	w.mustSync(w.grant(w.grant(want, "1", "dual-01", "2001:db8::7", long), "2", "dual-01", client, long), "dual-nsg")
	w.open("2001:db8::7", "dual-01")
	w.open(client, "dual-01")
	w.shut("2001:db8::8", "dual-01")
	// A source of a family that the machine does not have is a problem and opens nothing.
	bad := w.grant(w.protect("web-01"), "3", "web-01", "2001:db8::7", long)
	if res, err := w.sync(bad, "web-nsg"); err != nil || len(res.Problems) != 1 || res.After[grantID("3")] {
		w.t.Errorf("result %+v, %v", res, err)
	}
}

func hundreds(w *World) {
	want := w.protect("web-01", "web-02")
	for i := range 600 {
		vm := []string{"web-01", "web-02"}[i%2]
		w.grantAt(want, fmt.Sprint(i), vm, fmt.Sprintf("203.0.%d.%d", i/250, i%250+1), time.Duration(i%7+10)*time.Minute)
	}
	n := w.writes("web-nsg")
	w.mustSync(want, "web-nsg")
	if got := w.writes("web-nsg") - n; got != 1 {
		w.t.Errorf("%d writes, want 1", got)
	}
	w.open("203.0.0.1", "web-01")
	w.shut("203.0.0.1", "web-02")
	w.open("203.0.0.2", "web-02")
	w.shut("203.0.0.2", "web-01")
	w.shut(stranger, "web-01")
	w.mustSync(want.without("0"), "web-nsg")
	w.shut("203.0.0.1", "web-01")
	w.open("203.0.0.3", "web-01")
}

// grantAt is grant without reading the machine each time.
func (w *World) grantAt(want *Wanted, id, vm, src string, d time.Duration) {
	for _, s := range want.shields {
		if s.VM.Name == vm {
			p, _ := access.ParseSource(src)
			want.windows = append(want.windows, enforce.Window{Grant: grantID(id), VM: s.VM, Ports: s.Ports, Protocol: s.Protocol, Source: p, End: time.Now().UTC().Add(d).Truncate(time.Second)})
		}
	}
}

func exemptions(w *World) {
	want := w.protect("web-01")
	want.shields[0].Exemptions = []access.Exemption{{Name: "AzureBastionSubnet", Source: "10.0.250.0/26"}, {Name: "probe", Source: "AzureLoadBalancer"}}
	w.mustSync(want, "web-nsg")
	w.open("10.0.250.4", "web-01")
	w.shut("10.0.0.9", "web-01")
	want.shields[0].Exemptions = nil
	w.mustSync(want, "web-nsg")
	w.shut("10.0.250.4", "web-01")
}

func dryRun(w *World) {
	before := w.dump(w.nsg("web-nsg"))
	res := w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg", func(s *enforce.Sync) { s.DryRun = true })
	if len(res.Changes) == 0 || res.Wrote || w.writes("web-nsg") > 0 || w.dump(w.nsg("web-nsg")) != before {
		w.t.Errorf("a dry run: %+v", res)
	}
	n, ok := res.Snapshot(w.snapshot()).NSG(w.nsg("web-nsg"))
	if !ok || len(n.Rules) != len(w.raw(w.nsg("web-nsg")))+len(res.Changes) {
		w.t.Errorf("the snapshot of a dry run holds %d rules", len(n.Rules))
	}
}

// P3, P4
func consent(w *World) {
	w.edit("web-nsg", func(body map[string]any) {
		props := body["properties"].(map[string]any)
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": "everything", "properties": map[string]any{"priority": 100, "direction": "Inbound", "access": "Allow",
			"protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*", "sourceAddressPrefix": "*", "destinationAddressPrefix": "*", "futureRuleField": "kept"}})
	})
	before := w.foreignBytes("web-nsg")
	want := w.protect("web-01")
	res, err := w.sync(want, "web-nsg")
	if err != nil || res.Shields || len(res.Problems) == 0 || res.Problems[0].Rule != "everything" || !strings.Contains(res.Problems[0].Hint, "--replace-rule web-nsg/everything") {
		w.t.Fatalf("without consent: %+v, %v", res, err)
	}
	if after := w.foreignBytes("web-nsg"); after != before {
		w.t.Fatalf("changed without consent:\n%s", after)
	}
	want.consents = []string{"everything"}
	var kept []access.Replacement
	w.fault(sim.Fault{Kind: "lost-reply", Method: "PUT", PathPattern: puts, Count: 1})
	w.mustSync(want, "web-nsg", func(s *enforce.Sync) {
		s.Keep = func(_ context.Context, r []access.Replacement) error { kept = append(kept, r...); return nil }
	})
	if len(kept) != 1 || kept[0].Rule != "everything" {
		w.t.Fatalf("kept %v", kept)
	}
	w.shut(stranger, "web-01")
	w.open(stranger, "web-02")
	if !w.Reaches(stranger, "web-01", 3389) {
		w.t.Errorf("the rule's other ports do not go on")
	}
	want.replaced = kept
	n := w.writes("web-nsg")
	w.mustSync(w.grant(want, "1", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	w.shut(stranger, "web-01")
	if got := w.writes("web-nsg") - n; got != 1 {
		w.t.Errorf("%d writes", got)
	}
	w.mustSync(&Wanted{restore: kept}, "web-nsg")
	if after := w.foreignBytes("web-nsg"); after != before {
		w.t.Errorf("before:\n%s\nafter restoring:\n%s", before, after)
	}
}

// P3
func keepFirst(w *World) {
	w.edit("web-nsg", func(body map[string]any) {
		props := body["properties"].(map[string]any)
		props["securityRules"] = append(props["securityRules"].([]any), map[string]any{"name": "everything", "properties": map[string]any{"priority": 100, "direction": "Inbound", "access": "Allow",
			"protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*", "sourceAddressPrefix": "*", "destinationAddressPrefix": "*"}})
	})
	want := w.protect("web-01")
	want.consents = []string{"everything"}
	full := errors.New("disk full")
	res, err := w.sync(want, "web-nsg", func(s *enforce.Sync) {
		s.Keep = func(context.Context, []access.Replacement) error { return full }
	})
	if !errors.Is(err, full) || res.Wrote || w.writes("web-nsg") > 0 {
		w.t.Errorf("result %+v, %v", res, err)
	}
}

// DESIGN 5: one installation leaves another's rules alone until they are past their end.
func otherInstallation(w *World) {
	other, err := w.h.New(w.Azure, "other", clock.System{}, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ours := w.Backend
	w.Backend = other
	theirs := w.grant(w.protect("web-02"), "1", "web-02", client, 5*time.Minute)
	end := theirs.windows[0].End
	w.mustSync(theirs, "web-nsg")
	w.Backend = ours
	w.mustSync(w.grant(w.protect("web-01"), "2", "web-01", client, long), "web-nsg")
	w.open(client, "web-01")
	w.open(client, "web-02")
	time.Sleep(time.Until(end.Add(25 * time.Second)))
	w.mustSync(w.grant(w.protect("web-01"), "3", "web-01", client, long), "web-nsg")
	w.open(client, "web-02")
	time.Sleep(time.Until(end.Add(30 * time.Second)))
	w.mustSync(w.protect("web-01"), "web-nsg")
	w.shut(client, "web-02") // the other's deny stands
}

func noGroup(w *World) {
	m := w.machine("web-01")
	for i := range m.Endpoints {
		m.Endpoints[i].NICNSG, m.Endpoints[i].SubnetNSG = "", ""
	}
	if _, err := w.Backend.Locate(m, access.Port(22), access.TCP); access.CodeOf(err) != access.CodeUnprotectable {
		w.t.Errorf("got %v, want unprotectable", err)
	}
}

func survey(w *World) {
	w.mustSync(w.grant(w.protect("web-01"), "1", "web-01", client, long), "web-nsg")
	w.mustSync(w.protect("app-01"), "app-nsg")
	held, err := w.Backend.Survey(w.t.Context(), subscription)
	if err != nil || len(held) != 2 {
		w.t.Fatalf("held %v, %v", held, err)
	}
	found := false
	for _, h := range held {
		for _, r := range h.Rules {
			found = found || r.Kind == enforce.KindAllow && r.Grant == grantID("1") && r.Installation == installation && r.End.After(time.Now())
		}
	}
	if !found {
		w.t.Errorf("the allow is not in %+v", held)
	}
	w.fault(sim.Fault{Kind: "error", Status: 403, Method: "GET"})
	if _, err := w.Backend.Survey(w.t.Context(), subscription); err == nil {
		w.t.Errorf("a survey that could read nothing succeeded")
	}
}

package sim_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
)

func TestScheduleForms(t *testing.T) {
	yaml := "seed: 7\nfaults:\n  - kind: throttle\n    method: PUT\n    retryAfter: 2s\n    after: 1m\n    for: 30s\n  - {kind: slow, delay: 0.5, probability: 0.25}\n"
	lines := `{"kind":"throttle","method":"PUT","retryAfter":2,"after":60,"for":"30s"}` + "\n" + `{"kind":"slow","delay":"500ms","probability":0.25}`
	for name, in := range map[string]string{"yaml": yaml, "json lines": lines, "json": `{"faults":[` + strings.ReplaceAll(lines, "\n", ",") + `]}`, "list": `[` + strings.ReplaceAll(lines, "\n", ",") + `]`} {
		sch, err := sim.ParseSchedule([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(sch.Faults) != 2 || sch.Faults[0].After != time.Minute || sch.Faults[0].For != 30*time.Second || sch.Faults[0].RetryAfter != 2*time.Second || sch.Faults[1].Delay != 500*time.Millisecond || sch.Faults[1].Probability != 0.25 {
			t.Errorf("%s: got %+v", name, sch)
		}
		if (name == "yaml") != (sch.Seed == 7) {
			t.Errorf("%s: got seed %d", name, sch.Seed)
		}
	}
	if sch, err := sim.ParseSchedule([]byte(`{"kind":"throttle"}`)); err != nil || len(sch.Faults) != 1 {
		t.Errorf("a single line: %v %v", sch, err)
	}
	for in, want := range map[string]string{
		"faults:\n  - kind: explode\n": `fault 1: unknown fault kind "explode"`, "faults: []": "holds none", "": "holds none", "faults:\n  - kind: slow\n    dealy: 1s\n": "dealy",
		"faults:\n  - {kind: slow}\n  - {kind: slow, probability: 2}": "fault 2: probability", "a: 1": "want {seed, faults: [...]}", "faults:\n  - {kind: clock-skew}": "needs a skew", "\t": "reading the faults",
	} {
		if _, err := sim.ParseSchedule([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

func TestSchedule(t *testing.T) {
	clk := clock.NewManual(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC))
	a := newAz(t, sim.Config{Now: clk.Now})
	a.do(201, "PUT", nsgID, nsgBody(rule("mine", 200)))
	arm := func(text string) {
		t.Helper()
		sch, err := sim.ParseSchedule([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.s.Arm(sch); err != nil {
			t.Fatal(err)
		}
	}
	status := func() int {
		t.Helper()
		r, err := a.try("GET", nsgID, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r.status
	}
	// A window, and again every ten minutes; the count begins anew in each.
	arm("faults:\n  - {kind: error, status: 503, method: GET, after: 1m, for: 1m, every: 10m, count: 2}")
	var got []int
	for _, d := range []time.Duration{0, 61 * time.Second, time.Second, time.Second, 2 * time.Minute, 8 * time.Minute, time.Second, time.Second} {
		clk.Advance(d)
		got = append(got, status())
	}
	if want := "[200 503 503 200 200 503 503 200]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	a.s.ClearFaults()

	// The outside hand at its time, without any request; a disarmed one stays away.
	arm("faults:\n  - kind: edit\n    after: 5m\n    every: 5m\n    count: 2\n    edit:\n      resource: " + nsgID + "\n      addRules:\n        - {name: hand, properties: {priority: 300, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '22'}}")
	has := func() bool {
		raw, _ := a.s.Get(nsgID)
		return strings.Contains(string(raw), `"hand"`)
	}
	if clk.Advance(4 * time.Minute); has() {
		t.Error("the outside hand came early")
	}
	if clk.Advance(2 * time.Minute); !has() {
		t.Error("the outside hand did not come")
	}
	a.do(200, "PUT", nsgID, nsgBody(rule("mine", 200)))
	if clk.Advance(5 * time.Minute); !has() {
		t.Error("the outside hand did not come again")
	}
	a.do(200, "PUT", nsgID, nsgBody(rule("mine", 200)))
	if clk.Advance(20 * time.Minute); has() {
		t.Error("the outside hand came a third time")
	}
	a.s.ClearFaults()

	// Chance: the same seed meets the same requests.
	var runs []string
	for _, seed := range []int{1, 1, 2} {
		arm(fmt.Sprintf("seed: %d\nfaults:\n  - {kind: error, status: 500, method: GET, probability: 0.3}", seed))
		var run strings.Builder
		for range 200 {
			fmt.Fprint(&run, status()/100)
		}
		runs = append(runs, run.String())
		a.s.ClearFaults()
	}
	if n := strings.Count(runs[0], "5"); runs[0] != runs[1] || runs[0] == runs[2] || n < 35 || n > 90 {
		t.Errorf("200 requests with probability 0.3: %d errors, repeatable: %v, other seed differs: %v", n, runs[0] == runs[1], runs[0] != runs[2])
	}

	// A clock that is off: in Date, and in the tokens of a sign-in.
	arm(`{"kind":"clock-skew","skew":"-2h"}`)
	r := a.do(200, "GET", nsgID, nil)
	if d, err := http.ParseTime(r.header.Get("Date")); err != nil || !d.Equal(clk.Now().Add(-2*time.Hour).Truncate(time.Second)) {
		t.Errorf("got Date %s at %v", r.header.Get("Date"), clk.Now())
	}
	late := a.as(sim.ClientID)
	late.fails(401, "ExpiredAuthenticationToken", "GET", nsgID, nil)
	a.do(200, "GET", nsgID, nil)
}

func TestThrottlePerSubscription(t *testing.T) {
	clk := clock.NewManual(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC))
	a := newAz(t, sim.Config{Now: clk.Now, Throttle: true})
	for i, id := range []string{reader, network} { // a bucket for each principal
		if err := a.s.Edit(fmt.Sprintf("%s/providers/Microsoft.Authorization/roleAssignments/0000000%d-0000-0000-0000-000000000000", sub, i), func(b map[string]any) error {
			b["properties"] = map[string]any{"principalId": id, "roleDefinitionId": roleID + "acdd72a7-3385-48ef-bd42-f606fba81ae7"}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	one, two := a.as(reader), a.as(network)
	for range 250 {
		one.do(200, "GET", group, nil)
	}
	r := one.fails(429, "SubscriptionRequestsThrottled", "GET", group, nil)
	if r.header.Get("Retry-After") != "1" || r.header.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads") != "0" {
		t.Errorf("got %v", r.header)
	}
	r = two.do(200, "GET", group, nil)
	if r.header.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads") != "249" || r.header.Get("X-Ms-Ratelimit-Remaining-Subscription-Global-Reads") != "3499" {
		t.Errorf("got %v", r.header)
	}
	clk.Advance(time.Second)
	for range 25 {
		one.do(200, "GET", group, nil)
	}
	one.do(429, "GET", group, nil)
}

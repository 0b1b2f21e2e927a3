package fix_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/standalone"
)

// world is a simulated Azure, and runs of fix against it, each a new one as it is a new process.
type world struct {
	t    testing.TB
	sim  *sim.Sim
	dir  string
	undo string
	http http.RoundTripper
	last *standalone.Session

	least time.Duration // notice of termination that is asked for; 0: the judge's
}

func newWorld(t testing.TB, estate []byte) *world {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: estate})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &world{t: t, sim: s, dir: dir, undo: filepath.Join(dir, "fix.undo"), http: unmetered{s.Transport()}}
	t.Cleanup(func() {
		if w.last != nil {
			w.last.Close()
		}
	})
	return w
}

// unmetered takes the count of requests left out of replies: a bucket holds for minutes what these tests ask in one, and the client waits
// when it runs low. What a refusal does is tested with faults.
type unmetered struct{ next http.RoundTripper }

func (u unmetered) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := u.next.RoundTrip(r)
	if err == nil {
		for k := range resp.Header {
			if strings.HasPrefix(strings.ToLower(k), "x-ms-ratelimit-remaining-") {
				delete(resp.Header, k)
			}
		}
	}
	return resp, err
}

func (w *world) client() *azure.Client {
	w.t.Helper()
	c, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(w.sim.Token()), Transport: &http.Client{Transport: w.http},
		PollInterval: 2 * time.Millisecond, Backoff: time.Millisecond, Clock: simClock{w.sim}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) judge(e *estate.Estate) []scan.Finding {
	var out []scan.Finding
	scan.Judge(e, scan.Options{Now: w.sim.Now(), All: true, LeastDelay: w.least}, func(f scan.Finding) { out = append(out, f) })
	return out
}

func (w *world) read(context.Context, []string) (*estate.Estate, error) {
	return estate.Read(bytes.NewReader(w.sim.Dump()))
}

// scan returns what fails, of these rules or of all.
func (w *world) scan(rules ...scan.RuleID) []scan.Finding {
	w.t.Helper()
	e, err := w.read(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return slices.DeleteFunc(w.judge(e), func(f scan.Finding) bool {
		return f.Status != scan.Fail || len(rules) > 0 && !slices.Contains(rules, f.Rule)
	})
}

type simClock struct{ s *sim.Sim }

func (c simClock) Now() time.Time { return c.s.Now() }
func (c simClock) After(d time.Duration) <-chan time.Time {
	return time.After(min(d, time.Millisecond))
}

// fixer is a new run.
func (w *world) fixer() *fix.Fixer {
	w.t.Helper()
	c := w.client()
	if w.last != nil {
		w.last.Close()
	}
	session, err := standalone.Open(w.t.Context(), standalone.Config{Azure: c, Undo: filepath.Join(w.dir, "protect.undo")})
	if err != nil {
		w.t.Fatal(err)
	}
	w.last = session
	f, err := fix.New(fix.Config{Azure: c, Read: w.read, Judge: w.judge, Protect: session, Undo: w.undo, By: "test", Clock: simClock{w.sim}})
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) plan(fs []scan.Finding, o fix.Options) fix.Plan {
	w.t.Helper()
	p, err := w.fixer().Plan(w.t.Context(), fs, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// fix plans and applies in one run.
func (w *world) fix(fs []scan.Finding, o fix.Options) (fix.Plan, fix.Outcome) {
	w.t.Helper()
	f := w.fixer()
	p, err := f.Plan(w.t.Context(), fs, o)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := f.Apply(w.t.Context(), p, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return p, out
}

func show(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}

// rules are the inbound rules of a group, by priority.
func (w *world) rules(id string) string {
	w.t.Helper()
	n, err := w.client().NSG(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(n.Rules, func(a, b azure.SecurityRule) int { return a.Priority - b.Priority })
	var out []string
	for _, r := range n.Rules {
		out = append(out, fmt.Sprintf("%d %s", r.Priority, r.Name))
	}
	return strings.Join(out, ", ")
}

// plain is an estate without what Azure computes at each write, to compare what people set.
func (w *world) plain() string {
	var d struct{ Resources []map[string]any }
	if err := json.Unmarshal(w.sim.Dump(), &d); err != nil {
		w.t.Fatal(err)
	}
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range []string{"etag", "provisioningState", "latestModelApplied"} {
				delete(v, k)
			}
			for _, e := range v {
				strip(e)
			}
		case []any:
			slices.SortStableFunc(v, func(a, b any) int {
				x, _ := a.(map[string]any)
				y, _ := b.(map[string]any)
				return strings.Compare(fmt.Sprint(x["name"]), fmt.Sprint(y["name"]))
			})
			for _, e := range v {
				strip(e)
			}
		}
	}
	strip(any(d.Resources))
	for _, r := range d.Resources {
		strip(r)
	}
	return show(d.Resources)
}

// shop is a small estate with one of each.
func shop() *estates.Estate {
	e := estates.New()
	e.Subscription(estates.DemoShop, "Shop")
	e.Group("net", "westeurope")
	e.VNet("vnet", []string{"10.0.0.0/16"}, estates.Subnet{Name: "web", Prefix: "10.0.1.0/24"}, estates.Subnet{Name: "AzureBastionSubnet", Prefix: "10.0.250.0/26"})
	return e
}

func subnet(e *estates.Estate, name string) string {
	return "/subscriptions/" + estates.DemoShop + "/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/vnet/subnets/" + name
}

// Hundreds of machines behind one group are shut in one write, their neighbours' rules as they were, and a second run writes nothing
// (P3, P8).
func TestManyMachinesInOneWrite(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("allow-https", 200, "443", "Internet"), estates.Allow("allow-ssh", 300, "22", "*"))
	for i := range 150 {
		e.VM(fmt.Sprintf("web-%03d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: g})
	}
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	if len(fs) != 150 {
		t.Fatalf("%d machines are exposed, want 150", len(fs))
	}
	before := w.sim.Writes(g)
	_, out := w.fix(fs, fix.Options{})
	if !out.Complete() || len(out.Fixed) != 150 || w.sim.Writes(g)-before != 1 {
		t.Fatalf("%d of 150 are fixed in %d writes: %s", len(out.Fixed), w.sim.Writes(g)-before, show(out.Open))
	}
	if got, want := w.rules(g), "200 allow-https, 299 curfew-fix-deny-tcp-22, 300 allow-ssh"; got != want {
		t.Errorf("rules: %s, want %s", got, want)
	}
	p, out := w.fix(fs, fix.Options{})
	if len(p.Steps) != 0 || out.Writes != 0 || len(p.Passes) != 150 || w.sim.Writes(g)-before != 1 {
		t.Errorf("a second run plans %s and writes %d", show(p.Steps), out.Writes)
	}
}

// Two groups of the same name in two resource groups are told apart by id.
func TestGroupsOfOneName(t *testing.T) {
	e := shop()
	e.Group("a", "westeurope")
	a := e.NSG("same-nsg", estates.Allow("ssh", 300, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: a})
	e.Group("b", "westeurope")
	b := e.NSG("same-nsg", estates.Allow("ssh", 100, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.5", PublicIP: "198.51.100.5", NSG: b})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	// Consent for the one in group a is none for the one in group b.
	p, out := w.fix(fs, fix.Options{ReplaceRules: []string{"a/same-nsg/ssh"}})
	if len(out.Fixed) != 1 || len(p.Left) != 1 || !strings.Contains(p.Left[0].Next, "--replace-rule b/same-nsg/ssh") {
		t.Fatalf("fixed %v, left %s", out.Fixed, show(p.Left))
	}
	if got := w.rules(a) + "; " + w.rules(b); got != "299 curfew-fix-deny-tcp-22, 300 ssh; 100 ssh" {
		t.Errorf("rules: %s", got)
	}
	if _, out = w.fix(fs, fix.Options{ReplaceRules: []string{b + "/securityRules/ssh"}}); !out.Complete() {
		t.Fatalf("with consent: %s", show(out))
	}
	if got, want := w.rules(b), "101 curfew-fix-deny-tcp-22, 102 ssh"; got != want {
		t.Errorf("rules: %s, want %s", got, want)
	}
}

// Without an undo file no rule of others is narrowed (P3).
func TestNarrowingNeedsAnUndoFile(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("ssh", 100, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
	w := newWorld(t, e.JSON())
	w.undo = ""
	f := w.fixer()
	p, err := f.Plan(t.Context(), w.scan(scan.VMPortExposed), fix.Options{ReplaceRules: []string{"web-nsg/ssh"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Apply(t.Context(), p, nil); err == nil || !strings.Contains(err.Error(), "undo file") {
		t.Errorf("got %v", err)
	}
	if got := w.rules(g); got != "100 ssh" {
		t.Errorf("rules: %s", got)
	}
}

// What Azure and others do while it is written: read again, decide again, nothing of theirs is lost (P3, P8).
func TestFaults(t *testing.T) {
	put := func(f sim.Fault) sim.Fault {
		f.Method, f.PathPattern, f.Count = "PUT", "networkSecurityGroups/web-nsg$", max(f.Count, 1)
		return f
	}
	other := map[string]any{"name": "theirs", "properties": map[string]any{"priority": 299, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
		"sourcePortRange": "*", "sourceAddressPrefix": "10.0.9.0/24", "destinationAddressPrefix": "*", "destinationPortRange": "8080"}}
	for _, c := range []struct {
		name  string
		fault sim.Fault
		want  string
		fails string
	}{
		{name: "somebody writes at the same time (412)", fault: put(sim.Fault{Kind: "edit", Edit: &sim.Edit{AddRules: []map[string]any{other}}}), want: "298 curfew-fix-deny-tcp-22, 299 theirs, 300 ssh"},
		{name: "throttled", fault: put(sim.Fault{Kind: "throttle", RetryAfter: time.Second}), want: "299 curfew-fix-deny-tcp-22, 300 ssh"},
		{name: "another operation", fault: put(sim.Fault{Kind: "another-operation", Count: 3}), want: "299 curfew-fix-deny-tcp-22, 300 ssh"},
		{name: "superseded", fault: put(sim.Fault{Kind: "superseded"}), want: "299 curfew-fix-deny-tcp-22, 300 ssh"},
		{name: "the reply is lost", fault: put(sim.Fault{Kind: "lost-reply"}), want: "299 curfew-fix-deny-tcp-22, 300 ssh"},
		{name: "the request is lost", fault: put(sim.Fault{Kind: "lost-request"}), want: "299 curfew-fix-deny-tcp-22, 300 ssh"},
		{name: "the operation fails", fault: put(sim.Fault{Kind: "operation-failed", Count: 9}), want: "300 ssh", fails: "usefully"},
		{name: "refused", fault: put(sim.Fault{Kind: "error", Status: 403, Count: 9}), want: "300 ssh", fails: "refused"},
		{name: "locked", fault: put(sim.Fault{Kind: "error", Status: 409, Code: "ScopeLocked", Count: 9}), want: "300 ssh", fails: "lock"},
		{name: "always somebody else", fault: put(sim.Fault{Kind: "error", Status: 412, Count: 99}), want: "300 ssh", fails: "same time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := shop()
			g := e.NSG("web-nsg", estates.Allow("ssh", 300, "22", "*"))
			e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
			w := newWorld(t, e.JSON())
			if _, err := w.sim.Fault(c.fault); err != nil {
				t.Fatal(err)
			}
			fs := w.scan(scan.VMPortExposed)
			_, out := w.fix(fs, fix.Options{})
			if got := w.rules(g); got != c.want {
				t.Errorf("rules: %s, want %s", got, c.want)
			}
			if out.Complete() != (c.fails == "") {
				t.Errorf("complete %v: %s", out.Complete(), show(out))
			}
			if c.fails != "" {
				if len(out.Open) != 1 || !strings.Contains(out.Open[0].Why, c.fails) || out.Open[0].Next == "" {
					t.Errorf("still open: %s, want %q and a next step", show(out.Open), c.fails)
				}
				w.sim.ClearFaults()
				if _, out = w.fix(fs, fix.Options{}); !out.Complete() { // P8
					t.Errorf("the next run: %s", show(out))
				}
			}
		})
	}
}

// A run that is broken off says so, and the next one goes on (P8).
func TestBrokenOff(t *testing.T) {
	e := shop()
	for i := range 6 {
		e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: e.NSG(fmt.Sprintf("nsg%d", i), estates.Allow("ssh", 300, "22", "*"))})
	}
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	f := w.fixer()
	p, err := f.Plan(t.Context(), fs, fix.Options{Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	n := 0
	out, err := f.Apply(ctx, p, func(fix.StepOutcome) {
		if n++; n == 2 {
			stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	skipped := 0
	for _, s := range out.Steps {
		if s.State == fix.StepSkipped {
			skipped++
		}
	}
	if out.Complete() || out.Judged || skipped < 3 || len(out.Open) != 6 {
		t.Errorf("%d steps are skipped: %s", skipped, show(out))
	}
	if left := len(w.scan(scan.VMPortExposed)); left < 3 || left > 4 {
		t.Errorf("%d are open, want 3 or 4", left)
	}
	if _, out := w.fix(fs, fix.Options{}); !out.Complete() || len(out.Fixed) != 6 {
		t.Errorf("the next run: %s", show(out))
	}
}

// The undo file gives back what stands as it was written, and leaves what somebody has changed since (P3).
func TestUndo(t *testing.T) {
	e := shop()
	a := e.NSG("a-nsg", estates.Allow("ssh", 100, "22", "*"), estates.Allow("https", 101, "443", "*"))
	b := e.NSG("b-nsg", estates.Allow("all", 300, "*", "*"))
	for i, g := range []string{a, a, b} {
		e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: g})
	}
	w := newWorld(t, e.JSON())
	before := w.plain()
	fs := w.scan(scan.VMPortExposed)
	if _, out := w.fix(fs[:1], fix.Options{ReplaceRules: []string{"a-nsg/ssh"}}); !out.Complete() {
		t.Fatalf("%s", show(out))
	}
	if _, out := w.fix(fs, fix.Options{ReplaceRules: []string{"a-nsg/ssh"}}); !out.Complete() { // extends the rule
		t.Fatalf("%s", show(out))
	}
	after := w.plain()
	u, err := w.fixer().Undo(t.Context(), true)
	if err != nil || len(u.Done) != 6 || w.plain() != after {
		t.Fatalf("a dry run: %v, %s", err, show(u))
	}
	u, err = w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Kept)+len(u.Failed) > 0 {
		t.Fatalf("%v, %s", err, show(u))
	}
	if got := w.plain(); got != before {
		t.Errorf("the estate is not as it was:\n%s\nwas\n%s", got, before)
	}
	if u, err = w.fixer().Undo(t.Context(), false); err != nil || len(u.Done)+u.Writes != 0 {
		t.Errorf("a second time: %v, %s", err, show(u))
	}
	// Somebody changes what was written: that one stays, the other goes back.
	if _, out := w.fix(fs, fix.Options{ReplaceRules: []string{"a-nsg/ssh"}}); !out.Complete() {
		t.Fatalf("%s", show(out))
	}
	if err := w.sim.Edit(b, func(body map[string]any) error {
		for _, r := range body["properties"].(map[string]any)["securityRules"].([]any) {
			if r := r.(map[string]any); r["name"] == "curfew-fix-deny-tcp-22" {
				r["properties"].(map[string]any)["protocol"] = "*"
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	u, err = w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Kept) != 1 || u.Kept[0].Name != "curfew-fix-deny-tcp-22" || len(u.Failed) > 0 {
		t.Errorf("%v, %s", err, show(u))
	}
	if got := w.rules(a) + "; " + w.rules(b); !strings.HasPrefix(got, "100 ssh, 101 https; 299 curfew-fix-deny-tcp-22, ") {
		t.Errorf("rules: %s", got)
	}
}

// A last line that a crash broke off tells of nothing that was sent; a file that is none is refused, and nothing is written.
func TestDamagedUndoFile(t *testing.T) {
	e := shop()
	g := e.NSG("web-nsg", estates.Allow("ssh", 300, "22", "*"))
	e.VM("vm", estates.VM{Subnet: subnet(e, "web"), PrivateIP: "10.0.1.4", PublicIP: "198.51.100.4", NSG: g})
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	if err := os.WriteFile(w.undo, []byte("my shopping list\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out := w.fix(fs, fix.Options{}); out.Complete() || w.rules(g) != "300 ssh" || !strings.Contains(out.Open[0].Why, "undo file") {
		t.Errorf("%s, rules %s", show(out), w.rules(g))
	}
	if err := os.Remove(w.undo); err != nil {
		t.Fatal(err)
	}
	if _, out := w.fix(fs, fix.Options{}); !out.Complete() {
		t.Fatalf("%s", show(out))
	}
	f, err := os.OpenFile(w.undo, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":9,"kind":"rule","resou`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	u, err := w.fixer().Undo(t.Context(), false)
	if err != nil || len(u.Done) != 1 || w.rules(g) != "300 ssh" {
		t.Errorf("%v, %s, rules %s", err, show(u), w.rules(g))
	}
	if u, err = w.fixer().Undo(t.Context(), false); err != nil || len(u.Done) != 0 {
		t.Errorf("after a torn line that was ended: %v, %s", err, show(u))
	}
}

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Two runs do not use one undo file at once: the second is refused before it sends anything (P3, P8).
func TestUndoFileOfAnotherRun(t *testing.T) {
	e := shop()
	var groups []string
	for i := range 2 {
		groups = append(groups, e.NSG(fmt.Sprintf("nsg%d", i), estates.Allow("ssh", 300, "22", "*")))
		e.VM(fmt.Sprintf("vm%d", i), estates.VM{Subnet: subnet(e, "web"), PrivateIP: fmt.Sprintf("10.0.1.%d", 10+i), PublicIP: fmt.Sprintf("198.51.100.%d", 10+i), NSG: groups[i]})
	}
	w := newWorld(t, e.JSON())
	fs := w.scan(scan.VMPortExposed)
	f := w.fixer()
	p, err := f.Plan(t.Context(), fs[:1], fix.Options{})
	if err != nil {
		t.Fatal(err)
	}
	busy := "another run of curfew fix is using the undo file"
	if _, err := f.Apply(t.Context(), p, func(fix.StepOutcome) { // while the first run goes on
		p, out := w.fix(fs[1:], fix.Options{})
		if len(out.Open) != 1 || !strings.Contains(out.Open[0].Why, busy) || out.Open[0].Next == "" || w.rules(groups[1]) != "300 ssh" {
			t.Errorf("%s\n%s", show(p), show(out))
		}
		if _, err := w.fixer().Undo(t.Context(), false); err == nil || !strings.Contains(err.Error(), busy) {
			t.Errorf("undo: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, out := w.fix(fs[1:], fix.Options{}); !out.Complete() {
		t.Errorf("afterwards: %s", show(out))
	}
	if u, err := w.fixer().Undo(t.Context(), false); err != nil || len(u.Done) != 2 {
		t.Errorf("undo: %v, %s", err, show(u))
	}
}

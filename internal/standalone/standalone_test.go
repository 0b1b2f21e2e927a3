package standalone_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/standalone"
)

// world is a simulated Azure with runs of curfew against it, each a new session as it is a new process.
type world struct {
	t    *testing.T
	sim  *sim.Sim
	mu   sync.Mutex
	puts int                                                            // whole-group writes that were sent
	send func(*http.Request, http.RoundTripper) (*http.Response, error) // instead of the simulator, if set
	inst string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, sim: s}
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && strings.Contains(strings.ToLower(r.URL.Path), "/networksecuritygroups/") {
		w.mu.Lock()
		w.puts++
		w.mu.Unlock()
		if w.send != nil {
			return w.send(r, w.sim.Transport())
		}
	}
	return w.sim.Transport().RoundTrip(r)
}

func (w *world) open(undo string) *standalone.Session {
	w.t.Helper()
	s, err := w.tryOpen(undo)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// look opens a session that only reads.
func (w *world) look(undo string) *standalone.Session {
	w.t.Helper()
	s, err := standalone.Open(w.t.Context(), standalone.Config{Azure: azureFor(w.t, w), Undo: undo, Installation: w.inst, ReadOnly: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) tryOpen(undo string) (*standalone.Session, error) {
	w.t.Helper()
	az := azureFor(w.t, w)
	return standalone.Open(w.t.Context(), standalone.Config{Azure: az, Undo: undo, Installation: w.inst, By: "tester"})
}

// run plans and applies as the command does, in a session of its own.
func (w *world) run(undo string, in api.ProtectInput) (api.ProtectPlan, []string, error) {
	w.t.Helper()
	s := w.open(undo)
	defer s.Close()
	plan, err := s.PlanProtection(w.t.Context(), in)
	if err != nil {
		return plan, s.Notes(), err
	}
	in.Digest = plan.Digest
	done, err := s.Protect(w.t.Context(), in)
	return done, s.Notes(), err
}

func (w *world) protect(undo, vm string, replace ...string) (api.ProtectPlan, []string, error) {
	w.t.Helper()
	return w.run(undo, api.ProtectInput{VMs: []string{vm}, Replace: replace})
}

func (w *world) unprotect(undo string, vms ...string) (api.ProtectPlan, []string, error) {
	w.t.Helper()
	return w.run(undo, api.ProtectInput{VMs: vms, Off: true})
}

func (w *world) must(p api.ProtectPlan, notes []string, err error) api.ProtectPlan {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("got error %v; notes %q", err, notes)
	}
	return p
}

var etag = regexp.MustCompile(`"etag":"[^,]*",`)

type rule struct {
	Name       string         `json:"name"`
	Properties map[string]any `json:"properties"`
	raw        json.RawMessage
}

const (
	web    = "/subscriptions/" + estates.DemoShop + "/resourceGroups/shop-web/providers/Microsoft.Network/networkSecurityGroups/"
	orders = "/subscriptions/" + estates.DemoShop + "/resourceGroups/shop-orders/providers/Microsoft.Network/networkSecurityGroups/orders-nsg"
	web01  = web + "web-01-nsg"
	web03  = web + "web-03-nsg"
)

func (w *world) rules(nsg string) map[string]rule {
	w.t.Helper()
	body, ok := w.sim.Get(nsg)
	if !ok {
		w.t.Fatalf("there is no %s", nsg)
	}
	var n struct {
		Properties struct {
			SecurityRules []json.RawMessage `json:"securityRules"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(body, &n); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]rule{}
	for _, raw := range n.Properties.SecurityRules {
		r := rule{raw: etag.ReplaceAll(raw, nil)} // Azure makes a new one with each write of the group
		if err := json.Unmarshal(raw, &r); err != nil {
			w.t.Fatal(err)
		}
		out[r.Name] = r
	}
	return out
}

func names(rules map[string]rule) string {
	var out []string
	for n := range rules {
		out = append(out, n)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// outside changes a group as somebody else's hand does.
func (w *world) outside(nsg string, change func(props map[string]any)) {
	w.t.Helper()
	err := w.sim.Edit(nsg, func(body map[string]any) error { change(body["properties"].(map[string]any)); return nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

func code(err error) access.Code { return access.CodeOf(err) }

func undoFile(t *testing.T) string { return filepath.Join(t.TempDir(), "undo.json") }

func TestProtectAndUnprotect(t *testing.T) {
	for _, undo := range []string{"", undoFile(t)} {
		w := newWorld(t)
		before := w.rules(web01)
		done := w.must(w.protect(undo, "web-01"))
		if got := done.VMs[0].State; got != "on" || !done.Applied {
			t.Errorf("got state %q, applied %v", got, done.Applied)
		}
		if _, ok := w.rules(web01)["curfew-deny-local-tcp-22"]; !ok {
			t.Errorf("no deny stands: %s", names(w.rules(web01)))
		}
		// The second run finds everything as it should be, and writes nothing.
		puts := w.puts
		if done = w.must(w.protect(undo, "web-01")); w.puts != puts || len(done.Changes) != 0 || done.VMs[0].State != "on" {
			t.Errorf("second run: got %d writes and changes %+v", w.puts-puts, done.Changes)
		}
		w.must(w.unprotect(undo, "web-01"))
		after := w.rules(web01)
		if names(after) != names(before) {
			t.Errorf("after unprotect: got %s, want %s", names(after), names(before))
		}
		for n := range before {
			if !bytes.Equal(before[n].raw, after[n].raw) {
				t.Errorf("rule %s changed:\n%s\n%s", n, before[n].raw, after[n].raw)
			}
		}
		if _, _, err := w.unprotect(undo, "web-01"); code(err) != access.CodeNotProtected {
			t.Errorf("unprotect again: got %v", err)
		}
	}
}

// P3: a rule of somebody else's is replaced with consent and an undo file, and comes back byte for byte.
func TestReplaceAndRestore(t *testing.T) {
	w, undo := newWorld(t), undoFile(t)
	before := w.rules(web03)
	if _, _, err := w.protect(undo, "web-03"); code(err) != access.CodeConflict && code(err) != access.CodeUnprotectable {
		t.Fatalf("without consent: got %v", err)
	}
	if _, err := os.Stat(undo); w.puts != 0 || !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a refusal wrote: %d writes, undo file %v", w.puts, err)
	}
	// The original is on the disk before the write leaves.
	kept := false
	w.send = func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		b, _ := os.ReadFile(undo)
		kept = bytes.Contains(b, []byte(`"rule": "allow-all-admin"`)) && bytes.Contains(b, []byte(`\"priority\":100`))
		return next.RoundTrip(r)
	}
	w.must(w.protect(undo, "web-03", "web-03-nsg/allow-all-admin"))
	w.send = nil
	if !kept {
		t.Error("the write left before the original was in the undo file")
	}
	if bytes.Equal(w.rules(web03)["allow-all-admin"].raw, before["allow-all-admin"].raw) {
		t.Fatal("nothing was replaced: this test shows nothing")
	}
	if st, err := os.Stat(undo); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("undo file: got %v, %v", st, err)
	}
	puts := w.puts
	w.must(w.protect(undo, "web-03")) // consent was given once
	if w.puts != puts {
		t.Errorf("second run: %d writes", w.puts-puts)
	}
	w.must(w.unprotect(undo, "web-03"))
	after := w.rules(web03)
	if names(after) != names(before) || !bytes.Equal(after["allow-all-admin"].raw, before["allow-all-admin"].raw) {
		t.Errorf("got back %s\n%s\nwant %s\n%s", names(after), after["allow-all-admin"].raw, names(before), before["allow-all-admin"].raw)
	}
	// An original never leaves the file.
	b, err := os.ReadFile(undo)
	var d struct {
		Protections, Originals []any
		Past                   []struct{ Original string }
	}
	if err != nil || json.Unmarshal(b, &d) != nil || len(d.Protections)+len(d.Originals) != 0 || len(d.Past) != 1 || !strings.Contains(d.Past[0].Original, "allow-all-admin") {
		t.Errorf("undo file after the end: %v\n%s", err, b)
	}
}

// P3: without an undo file nothing of somebody else's is replaced, consent or not.
func TestReplaceWithoutUndoRefused(t *testing.T) {
	w := newWorld(t)
	s := w.open("")
	plan, err := s.PlanProtection(t.Context(), api.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/allow-all-admin"}})
	if err != nil || !slices.ContainsFunc(plan.Changes, func(c api.Change) bool { return c.Kind == "set_aside" }) {
		t.Errorf("a plan may be seen: got %+v, %v", plan.Changes, err)
	}
	if n := strings.Join(s.Notes(), "\n"); !strings.Contains(n, "--undo") {
		t.Errorf("notes do not say it: %q", n)
	}
	_, err = s.Protect(t.Context(), api.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/allow-all-admin"}})
	var ae *access.Error
	if !errors.As(err, &ae) || ae.Code != access.CodeInvalid || !strings.Contains(ae.Hint, "--undo") || w.puts != 0 {
		t.Errorf("got %v, %d writes", err, w.puts)
	}
	// An undo file that cannot be written is as good as none.
	dir := filepath.Join(t.TempDir(), "gone")
	if s, err := w.tryOpen(filepath.Join(dir, "undo.json")); err == nil {
		s.Close()
		t.Error("an undo file in a folder that does not exist was accepted")
	}
	if w.puts != 0 {
		t.Errorf("%d writes", w.puts)
	}
}

// P4: what an admin rule bypasses is refused, and nothing is written.
func TestAdminRuleRefused(t *testing.T) {
	w, undo := newWorld(t), undoFile(t)
	_, _, err := w.protect(undo, "sensor-hub")
	if err == nil || !strings.Contains(err.Error(), "always-allow-partner") || w.puts != 0 {
		t.Errorf("got %v, %d writes", err, w.puts)
	}
	if _, err := os.Stat(undo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("undo file: %v", err)
	}
}

// Two machines behind one group, each protected by a run that knows nothing of the other.
func TestTwoMachinesOnOneGroup(t *testing.T) {
	for _, undo := range []string{"", undoFile(t)} {
		w := newWorld(t)
		before := names(w.rules(orders))
		dsts := func() string {
			var out []string
			for n, r := range w.rules(orders) {
				if strings.HasPrefix(n, "curfew-deny-local-") {
					if one, _ := r.Properties["destinationAddressPrefix"].(string); one != "" {
						out = append(out, one)
					}
					many, _ := r.Properties["destinationAddressPrefixes"].([]any)
					for _, d := range many {
						out = append(out, d.(string))
					}
				}
			}
			slices.Sort(out)
			return strings.Join(out, " ")
		}
		w.must(w.protect(undo, "orders-01"))
		w.must(w.protect("", "orders-02")) // another run, without that file
		if got := dsts(); got != "10.10.1.21 10.10.1.22" {
			t.Fatalf("both are shut: got %q", got)
		}
		puts := w.puts
		w.must(w.protect(undo, "orders-01"))
		w.must(w.protect("", "orders-02"))
		if w.puts != puts {
			t.Errorf("again: %d writes", w.puts-puts)
		}
		w.must(w.unprotect(undo, "orders-01"))
		if got := dsts(); got != "10.10.1.22" {
			t.Errorf("the other stays shut: got %q", got)
		}
		w.must(w.unprotect("", "orders-02"))
		if got := names(w.rules(orders)); got != before {
			t.Errorf("got %s, want %s", got, before)
		}
	}
}

// P8: a run that dies between keeping the original and writing, or after writing, is repaired by the next one.
func TestKilledInBetween(t *testing.T) {
	input := api.ProtectInput{VMs: []string{"web-03"}, Replace: []string{"web-03-nsg/allow-all-admin"}}
	for _, at := range []string{"before the write", "after the write"} {
		for _, next := range []string{"protect", "unprotect"} {
			t.Run(at+", "+next, func(t *testing.T) {
				w, undo := newWorld(t), undoFile(t)
				before := w.rules(web03)
				w.send = func(r *http.Request, rt http.RoundTripper) (*http.Response, error) {
					if at == "after the write" {
						res, err := rt.RoundTrip(r)
						if err == nil {
							res.Body.Close()
						}
					}
					panic("killed")
				}
				func() {
					s := w.open(undo)
					defer s.Close() // the kernel gives the lock back
					defer func() {
						if recover() == nil {
							t.Fatal("it was not killed")
						}
					}()
					_, _ = s.Protect(t.Context(), input)
				}()
				w.send = nil
				if b, err := os.ReadFile(undo); err != nil || !bytes.Contains(b, []byte("allow-all-admin")) {
					t.Fatalf("the original was not kept: %v\n%s", err, b)
				}
				if next == "protect" {
					if done := w.must(w.protect(undo, "web-03")); done.VMs[0].State != "on" {
						t.Errorf("got %+v", done.VMs[0])
					}
				}
				w.must(w.unprotect(undo, "web-03"))
				after := w.rules(web03)
				if names(after) != names(before) || !bytes.Equal(after["allow-all-admin"].raw, before["allow-all-admin"].raw) {
					t.Errorf("got back %s\n%s", names(after), after["allow-all-admin"].raw)
				}
			})
		}
	}
}

// P8: an unprotection that was killed is finished by the next run, also by one that was asked about another machine there.
func TestUnprotectKilled(t *testing.T) {
	for _, next := range []string{"unprotect orders-01", "protect orders-02"} {
		w, undo := newWorld(t), undoFile(t)
		w.must(w.protect(undo, "orders-01"))
		w.send = func(*http.Request, http.RoundTripper) (*http.Response, error) { panic("killed") }
		func() {
			s := w.open(undo)
			defer s.Close()
			defer func() { _ = recover() }()
			_, _ = s.Protect(t.Context(), api.ProtectInput{VMs: []string{"orders-01"}, Off: true})
		}()
		w.send = nil
		if _, ok := w.rules(orders)["curfew-deny-local-tcp-22"]; !ok {
			t.Fatal("it was not killed before the write")
		}
		if next == "unprotect orders-01" {
			w.must(w.unprotect(undo, "orders-01"))
			if n := names(w.rules(orders)); strings.Contains(n, "curfew") {
				t.Errorf("left: %s", n)
			}
			continue
		}
		w.must(w.protect(undo, "orders-02"))
		b, err := os.ReadFile(undo)
		if err != nil || bytes.Contains(b, []byte("10.10.1.21")) {
			t.Errorf("orders-01 is still in the undo file: %v\n%s", err, b)
		}
		if d := w.rules(orders)["curfew-deny-local-tcp-22"].Properties["destinationAddressPrefix"]; d != "10.10.1.22" {
			t.Errorf("got %v", d)
		}
	}
}

// A write whose answer is lost or that Azure refuses is an error with the next step, and the next run goes on.
func TestAzureRefuses(t *testing.T) {
	w, undo := newWorld(t), undoFile(t)
	w.send = func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		rec := `{"error":{"code":"AuthorizationFailed","message":"The client does not have authorization to perform action 'Microsoft.Network/networkSecurityGroups/write'"}}`
		return &http.Response{StatusCode: 403, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: body(rec)}, nil
	}
	_, _, err := w.protect(undo, "web-01")
	var ae *access.Error
	if !errors.As(err, &ae) || ae.Code != access.CodeAzureForbidden || !strings.Contains(ae.Hint, "run the same command again") || strings.Contains(ae.Error(), "server goes on") {
		t.Fatalf("got %v, hint %q", err, ae.Hint)
	}
	w.send = nil
	w.must(w.protect(undo, "web-01"))
	w.send = func(*http.Request, http.RoundTripper) (*http.Response, error) {
		return nil, errors.New("connection reset")
	}
	if _, _, err = w.unprotect(undo, "web-01"); err == nil || strings.Contains(err.Error(), "server goes on") {
		t.Fatalf("got %v", err)
	}
	w.send = nil
	w.must(w.unprotect(undo, "web-01"))
}

func TestOtherInstallationLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.inst = "prod1"
	w.must(w.protect("", "web-01"))
	w.inst = ""
	theirs := w.rules(web01)["curfew-deny-prod1-tcp-22"].raw
	_, notes, err := w.protect("", "web-01")
	if err != nil || !strings.Contains(strings.Join(notes, "\n"), "installation prod1") {
		t.Errorf("got %v, notes %q", err, notes)
	}
	_, notes, err = w.unprotect("", "web-01")
	if err != nil || !strings.Contains(strings.Join(notes, "\n"), "installation prod1") {
		t.Errorf("got %v, notes %q", err, notes)
	}
	if now := w.rules(web01); !bytes.Equal(now["curfew-deny-prod1-tcp-22"].raw, theirs) || strings.Contains(names(now), "-local-") {
		t.Errorf("got %s", names(now))
	}
}

// Live openings of our own name are another program's work: protect refuses, unprotect lists and removes those of the machine alone.
func TestLiveOpenings(t *testing.T) {
	w := newWorld(t)
	w.must(w.protect("", "orders-01"))
	allow := "curfew-allow-local-0123456789-" + time.Now().Add(time.Hour).UTC().Format("20060102T150405Z")
	set := func(dst string) {
		w.outside(orders, func(p map[string]any) {
			rules := slices.DeleteFunc(p["securityRules"].([]any), func(r any) bool { return r.(map[string]any)["name"] == allow })
			p["securityRules"] = append(rules, map[string]any{"name": allow, "properties": map[string]any{"priority": 250, "direction": "Inbound", "access": "Allow",
				"protocol": "Tcp", "sourceAddressPrefix": "203.0.113.9", "sourcePortRange": "*", "destinationAddressPrefix": dst, "destinationPortRange": "22"}})
		})
	}
	set("10.10.1.22")
	for _, off := range []bool{false, true} {
		if _, _, err := w.run("", api.ProtectInput{VMs: []string{"orders-01"}, Off: off}); code(err) != access.CodeConflict || !strings.Contains(err.Error(), allow) {
			t.Errorf("off %v, another machine's: got %v", off, err)
		}
	}
	if _, ok := w.rules(orders)[allow]; !ok {
		t.Fatal("another machine's opening was removed")
	}
	set("10.10.1.21")
	s := w.open("")
	plan, err := s.PlanProtection(t.Context(), api.ProtectInput{VMs: []string{"orders-01"}, Off: true})
	if err != nil || !slices.Contains(plan.VMs[0].Grants, "g-0123456789") || !strings.Contains(strings.Join(s.Notes(), "\n"), allow) {
		t.Fatalf("it is not listed: %+v, %v", plan.VMs, err)
	}
	w.must(w.unprotect("", "orders-01"))
	if n := names(w.rules(orders)); strings.Contains(n, "curfew") {
		t.Errorf("left: %s", n)
	}
}

// Without the undo file the end of a protection leaves what goes on for a replaced rule, and says so.
func TestUnprotectWithoutItsUndoFile(t *testing.T) {
	w, undo := newWorld(t), undoFile(t)
	w.must(w.protect(undo, "web-03", "web-03-nsg/allow-all-admin"))
	rest := map[string]rule{}
	for n, r := range w.rules(web03) {
		if strings.Contains(n, "-rest-") || n == "allow-all-admin" {
			rest[n] = r
		}
	}
	if len(rest) < 2 {
		t.Fatalf("nothing goes on beside the rule: %s", names(w.rules(web03)))
	}
	_, notes, err := w.unprotect("", "web-03")
	if err != nil || !strings.Contains(strings.Join(notes, "\n"), "cannot be put back") {
		t.Fatalf("got %v, notes %q", err, notes)
	}
	now := w.rules(web03)
	if strings.Contains(names(now), "-deny-") {
		t.Errorf("left: %s", names(now))
	}
	for n, r := range rest {
		if !bytes.Equal(now[n].raw, r.raw) {
			t.Errorf("%s changed:\n%s\n%s", n, r.raw, now[n].raw)
		}
	}
}

func TestUndoFileOfSomebodyElse(t *testing.T) {
	w, undo := newWorld(t), undoFile(t)
	for text, want := range map[string]access.Code{
		"": access.CodeInvalid, "{": access.CodeInvalid, `{"version":2}`: access.CodeInvalid, `{"version":1,"installation":"local","more":1}`: access.CodeInvalid,
		`{"version":1,"installation":"prod1"}`: access.CodeConflict, `{"version":1,"installation":"local","protections":[{}]}`: access.CodeInvalid,
		`{"version":1,"installation":"local","originals":[{"vm":"x","nsg":"y","rule":"z","original":"{}"}]}`: access.CodeInvalid,
	} {
		if err := os.WriteFile(undo, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := w.tryOpen(undo); code(err) != want || err == nil {
			t.Errorf("%q: got %v, want %s", text, err, want)
			if err == nil {
				s.Close()
			}
		}
		if b, _ := os.ReadFile(undo); string(b) != text {
			t.Errorf("%q was overwritten", text)
		}
	}
	_ = os.Remove(undo)
	s := w.open(undo)
	if _, err := w.tryOpen(undo); code(err) != access.CodeConflict {
		t.Errorf("two runs at once: got %v", err)
	}
	// Changed by a hand meanwhile: not overwritten, and nothing is written to Azure.
	if err := os.WriteFile(undo, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Protect(t.Context(), api.ProtectInput{VMs: []string{"web-01"}}); code(err) != access.CodeConflict || w.puts != 0 {
		t.Errorf("got %v, %d writes", err, w.puts)
	}
}

func TestPlanChanged(t *testing.T) {
	w := newWorld(t)
	s := w.open("")
	in := api.ProtectInput{VMs: []string{"web-01"}}
	plan, err := s.PlanProtection(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	w.outside(web01, func(p map[string]any) {
		p["securityRules"] = append(p["securityRules"].([]any), map[string]any{"name": "new", "properties": map[string]any{"priority": 310, "direction": "Inbound", "access": "Allow",
			"protocol": "Tcp", "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "22"}})
	})
	in.Digest = plan.Digest
	if _, err := s.Protect(t.Context(), in); code(err) != access.CodePlanChanged || w.puts != 0 {
		t.Errorf("got %v, %d writes", err, w.puts)
	}
}

func TestMachines(t *testing.T) {
	w := newWorld(t)
	w.must(w.protect("", "web-01"))
	s := w.open("")
	l, err := s.VMs(t.Context(), "web-0")
	if err != nil || len(l.Items) != 3 {
		t.Fatalf("got %d machines, %v", len(l.Items), err)
	}
	states := map[string]string{}
	for _, v := range l.Items {
		states[v.Name] = v.State
	}
	if states["web-01"] != "protected" || states["web-02"] != "exposed" {
		t.Errorf("got %v", states)
	}
	v, err := s.VM(t.Context(), "web-01")
	if err != nil || v.State != "protected" || v.Protection == nil || len(v.Protection.Exemptions) == 0 {
		t.Errorf("got %+v, %v", v, err)
	}
	if _, err := s.VM(t.Context(), "build-01"); code(err) != access.CodeAmbiguous {
		t.Errorf("got %v", err)
	}
}

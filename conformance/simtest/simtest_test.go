package simtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// failing stands for a test that may fail.
type failing struct {
	testing.TB
	said []string
}

func (f *failing) Helper()                   {}
func (f *failing) Errorf(s string, a ...any) { f.said = append(f.said, fmt.Sprintf(s, a...)) }
func (f *failing) Failed() bool              { return len(f.said) > 0 }

// The validator sees what it has to see: a request without a required field, an answer with a status that the spec does not have, a
// field that it does not have, and an operation that no spec describes.
func TestValidatorSees(t *testing.T) {
	dir := t.TempDir()
	const policy = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default?api-version=2020-01-01"
	for name, x := range map[string]string{
		"bad.json": `{"liveRequest":{"headers":{"content-type":"application/json"},"method":"PUT","url":"` + policy + `","body":{"kind":"Basic","properties":{}}},
			"liveResponse":{"statusCode":"201","headers":{},"body":{}}}`,
		"more.json": `{"liveRequest":{"headers":{},"method":"GET","url":"` + policy + `"},"liveResponse":{"statusCode":"200","headers":{},
			"body":{"etag":"x","properties":{"virtualMachines":[]}}}}`,
		"none.json": `{"liveRequest":{"headers":{},"method":"GET","url":"/subscriptions/s/providers/Microsoft.Security/nonsense?api-version=2020-01-01"},
			"liveResponse":{"statusCode":"200","headers":{},"body":{}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(x), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := examine(t, dir)
	found := map[string]bool{}
	for _, f := range r.Differences {
		found[f.File+" "+f.Side+" "+f.Code] = true
	}
	for _, want := range []string{"bad.json request OBJECT_MISSING_REQUIRED_PROPERTY", "bad.json response INVALID_RESPONSE_CODE", "more.json response OBJECT_ADDITIONAL_PROPERTIES"} {
		if !found[want] {
			t.Errorf("not found: %s; found %v", want, found)
		}
	}
	if len(r.Undescribed) != 1 || r.Undescribed[0].File != "none.json" {
		t.Errorf("undescribed: %+v", r.Undescribed)
	}
	f := &failing{TB: t}
	judge(f, r, "")
	if len(f.said) < 4 {
		t.Errorf("the judge found only %q", f.said)
	}
	// Nothing at all differs: then the known differences have gone, and their entries are to go too.
	f = &failing{TB: t}
	judge(f, report{}, "go")
	if len(f.said) == 0 {
		t.Error("entries of the list that no longer occur are not noticed")
	}
}

// The observer's own reading of rules.
func TestDecides(t *testing.T) {
	any1 := []string{"*"}
	rule := func(priority int, allow bool, source, ports string) Rule {
		return Rule{Name: fmt.Sprint(priority), Priority: priority, Inbound: true, Allow: allow, Protocol: "Tcp", Sources: []string{source}, Destinations: any1, Ports: []string{ports}}
	}
	end := Rule{Name: "end", Priority: 65500, Inbound: true, Protocol: "*", Sources: any1, Destinations: any1, Ports: any1}
	out := rule(100, true, "*", "*")
	out.Inbound = false
	udp := rule(110, true, "*", "*")
	udp.Protocol = "Udp"
	other := rule(120, true, "*", "*")
	other.Destinations = []string{"10.10.1.12"}
	rules := []Rule{end, rule(400, true, "Internet", "20-30"), rule(300, false, "203.0.113.0/24", "22"), rule(200, true, "203.0.113.9", "22"), rule(500, true, "VirtualNetwork", "*"), out, udp, other}
	for _, c := range []struct {
		from string
		port int
		want string
	}{{"203.0.113.9", 22, "true 200"}, {"203.0.113.10", 22, "false 300"}, {"198.51.100.1", 22, "true 400"}, {"198.51.100.1", 31, "false end"}, {"10.10.1.21", 22, "true 500"}} {
		ok, by := decides(t, rules, netip.MustParseAddr(c.from), c.port)
		if got := fmt.Sprint(ok, " ", by); got != c.want {
			t.Errorf("%s to %d: %s, want %s", c.from, c.port, got, c.want)
		}
	}
}

// Every official example of an operation that the simulator serves, as the main module's test of that name sends them, is put before the
// validator that nobody here wrote: requests and answers.
func TestOfficialExamples(t *testing.T) {
	Modules(t)
	shared := filepath.Dir(filepath.Dir(specs(t)))
	dir := Artefacts(t, "examples")
	cmd := exec.Command("go", "test", "-count=1", "-run", "^TestOfficialExamplesSent$", "./internal/sim")
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "CURFEW_EXAMPLES="+dir, "CURFEW_SHARED="+shared)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sending the examples: %v\n%s", err, out)
	}
	r := examine(t, dir)
	t.Logf("%d exchanges, %d validated, %d that no spec describes", r.Exchanges, r.Validated, len(r.Undescribed))
	if r.Validated < 390 || len(r.Undescribed) > 0 {
		t.Errorf("%d of %d exchanges were validated", r.Validated, r.Exchanges)
	}
	judge(t, r, "examples")
}

package fix_test

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// sentences are all texts of a value as it is shown, but for ids and what Azure wrote itself.
func sentences(t *testing.T, v any) (out []string) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var any any
	if err := json.Unmarshal(b, &any); err != nil {
		t.Fatal(err)
	}
	var walk func(v interface{})
	walk = func(v interface{}) {
		switch v := v.(type) {
		case map[string]interface{}:
			for _, e := range v {
				walk(e)
			}
		case []interface{}:
			for _, e := range v {
				walk(e)
			}
		case string:
			if !strings.HasPrefix(v, "/subscriptions/") {
				out = append(out, v)
			}
		}
	}
	walk(any)
	return out
}

// What no text may hold: signs of a value that was missing, of Go's own words, of rules in the provider's words, of a port range that is all.
var unplain = regexp.MustCompile(`  |\n|^ | $|%!|<nil>|\bnil\b|internal error|1-65535|\b0m0s|\d+h0m| from \*| to \*|\(\)|: +:|, *,|for from|\bset_aside\b|port \*|nothing,|: nothing$|\b1 (instances|writes|steps|changes|findings)\b`)

// Every text of a plan, an outcome and an undo, for everything that the demo has and for each way to put it right, is plain: nothing is
// missing in it, and nothing is called twice or by halves.
func TestWordsArePlain(t *testing.T) {
	consent := []string{"web-03-nsg/allow-all-admin"}
	legacy := []string{"legacy-nsg/SecurityCenter-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C370"}
	for name, o := range map[string]fix.Options{
		"as it is":               {},
		"with consents":          {ReplaceRules: consent, RemoveDefender: legacy, Upgrade: true, JITMax: 3 * time.Hour, JITFrom: prefixes("203.0.113.0/24")},
		"the virtual network":    {ShutVirtualNetwork: true, ReplaceRules: consent},
		"Defender":               {Backend: fix.Defender, JITFrom: prefixes("203.0.113.0/24"), Delay: 10 * time.Minute},
		"Defender, limits alone": {Backend: fix.Defender, JITMax: 90 * time.Minute, RemoveDefender: legacy},
	} {
		w := newWorld(t, estates.Demo())
		fs := w.scan()
		p, out := w.fix(fs, o)
		u, err := w.fixer().Undo(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		texts := sentences(t, p)
		if texts = append(append(texts, sentences(t, out)...), sentences(t, u)...); len(texts) < 100 {
			t.Fatalf("%s: %d texts", name, len(texts))
		}
		for _, s := range texts {
			if bad := unplain.FindString(s); bad != "" {
				t.Errorf("%s: %q in %q", name, bad, s)
			}
		}
		for _, l := range slices.Concat(p.Left, out.Open) {
			if l.Why == "" || l.Name == "" || l.Next == "" && !strings.Contains(l.Why, "--") {
				t.Errorf("%s: no name, reason or next step: %+v", name, l)
			}
		}
		for _, s := range p.Steps {
			if len(s.Writes) == 0 && len(s.Notes) == 0 && len(s.Findings) > 0 && s.Kind != fix.GroupStep {
				t.Errorf("%s: a step without words: %s", name, show(s))
			}
		}
	}
}

// What Azure refuses is told in the words of what was done, to what, and with the next step.
func TestWordsOfRefusals(t *testing.T) {
	for _, f := range []sim.Fault{
		{Kind: "error", Status: 403, Code: "AuthorizationFailed", Message: "The client does not have authorization to perform action"},
		{Kind: "error", Status: 403, Code: "RequestDisallowedByPolicy", Message: "Resource was disallowed by policy"},
		{Kind: "error", Status: 409, Code: "ScopeLocked", Message: "The scope is locked"},
		{Kind: "error", Status: 409, Code: "MissingSubscriptionRegistration", Message: "The subscription is not registered"},
		{Kind: "error", Status: 400, Code: "SecurityRuleConflict", Message: "Rules cannot have the same Priority and Direction"},
		{Kind: "error", Status: 404, Code: "ResourceGroupNotFound", Message: "Resource group could not be found"},
	} {
		for _, method := range []string{"PUT", "PATCH"} {
			w := newWorld(t, estates.Demo())
			f.Method, f.Count = method, 200
			if _, err := w.sim.Fault(f); err != nil {
				t.Fatal(err)
			}
			_, out := w.fix(w.scan(), fix.Options{})
			for _, s := range out.Steps {
				if (s.State == fix.StepFailed || s.State == fix.StepPartly || s.State == fix.StepUnknown) && (s.Error == "" || s.Hint == "") {
					t.Errorf("%s %s%d %s: %s is %s: %q (%q)", method, f.Kind, f.Status, f.Code, s.Title, s.State, s.Error, s.Hint)
				}
			}
			for _, s := range sentences(t, out) {
				if bad := unplain.FindString(s); bad != "" {
					t.Errorf("%s %s%d %s: %q in %q", method, f.Kind, f.Status, f.Code, bad, s)
				}
			}
		}
	}
}

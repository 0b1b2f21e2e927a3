package triage_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/triage"
)

func port(n uint16, e scan.Exposure, by string) scan.PortEvidence {
	return scan.PortEvidence{Port: n, Protocol: "Tcp", Exposure: e, ProtectedBy: by}
}

// What is known is a failure of that extent. One that grew is not.
func TestBaselineKnowsNoMoreThanItSaw(t *testing.T) {
	was := vm(subA, "g", "a", ports(port(22, scan.ExposedSome, ""), port(3389, scan.ExposedVirtualNetwork, "curfew")), exposed(scan.ExposedSome), groupRules("ssh"))
	b, _ := triage.Baseline{}.Update([]scan.Finding{was}, triage.Scope{Complete: true}, now)
	for _, c := range []struct {
		name  string
		now   scan.Finding
		known bool
		why   string
	}{
		{"as it was", was, true, ""},
		{"id and protocol in other case", vm(strings.ToUpper(subA), "G", "A", ports(scan.PortEvidence{Port: 22, Protocol: "TCP", Exposure: scan.ExposedSome}), exposed(scan.ExposedSome)), true, ""},
		{"less", vm(subA, "g", "a", ports(port(22, scan.ExposedVirtualNetwork, "")), exposed(scan.ExposedVirtualNetwork), severe(scan.Medium)), true, ""},
		{"more severe", vm(subA, "g", "a", ports(), exposed(scan.ExposedSome), severe(scan.Critical)), false, "it was high and is critical"},
		{"wider", vm(subA, "g", "a", ports()), false, "exposure was some_addresses and is internet"},
		{"exposure not known now", vm(subA, "g", "a", ports(), exposed(scan.ExposureUnknown)), false, "is unknown"},
		{"another port", vm(subA, "g", "a", ports(port(22, scan.ExposedSome, ""), port(5985, scan.ExposedSome, "")), exposed(scan.ExposedSome)), false, "port 5985/tcp"},
		{"another port, shut and protected", vm(subA, "g", "a", ports(port(22, scan.ExposedSome, ""), port(5985, scan.ExposedNothing, "curfew")), exposed(scan.ExposedSome)), true, ""},
		{"the port wider", vm(subA, "g", "a", ports(port(22, scan.ExposedInternet, "")), exposed(scan.ExposedSome)), false, "port 22/tcp"},
		{"protection lost", vm(subA, "g", "a", ports(port(3389, scan.ExposedVirtualNetwork, "")), exposed(scan.ExposedSome)), false, "port 3389/tcp"},
		{"another rule", vm(subA, "g", "a", ports(), exposed(scan.ExposedSome), groupRules("ssh", "rdp")), false, "the rule /nsg/rdp"},
		{"of another rule of the scanner", vm(subA, "g", "a", rule(scan.VMNoNSG)), false, ""},
		{"P10 unknown", vm(subA, "g", "a", unread), false, ""},
	} {
		all := []scan.Finding{c.now}
		out := b.Apply(all, triage.Scope{Complete: true})
		if all[0].Known != c.known || (out.Known == 1) != c.known {
			t.Errorf("%s: known %t (%d), want %t", c.name, all[0].Known, out.Known, c.known)
		}
		if c.why != "" && (len(out.Worse) != 1 || !strings.Contains(out.Worse[0].Why, c.why)) {
			t.Errorf("%s: %+v, want %q", c.name, out.Worse, c.why)
		}
	}
}

func names(entries []triage.Entry) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Resource[strings.LastIndex(e.Resource, "/")+1:])
	}
	return strings.Join(out, " ")
}

func TestBaselineTellsWhatIsGone(t *testing.T) {
	b, left := triage.Baseline{}.Update([]scan.Finding{
		vm(subA, "g", "fixed"), vm(subA, "g", "deleted"), vm(subA, "g", "unsure"), vm(subA, "g", "still"), vm(subB, "g", "elsewhere"),
		vm(subA, "g", "unread", unread), vm(subA, "g", "passing", status(scan.Pass)),
		vm(subA, "g", "lived-with", func(f *scan.Finding) { f.Suppressed = &scan.Suppression{Owner: "a"} }),
	}, triage.Scope{Complete: true}, now)
	if got := names(b.Entries); got != "deleted fixed still unsure elsewhere" || left != 1 {
		t.Fatalf("the baseline holds %q and leaves out %d unknown", got, left)
	}
	scanned := []scan.Finding{vm(subA, "g", "fixed", status(scan.Pass)), vm(subA, "g", "unsure", unread), vm(subA, "g", "still"), vm(subA, "g", "new")}
	only := triage.Scope{Subscriptions: []string{strings.ToUpper(subA)}, Complete: true}
	for _, c := range []struct {
		name                  string
		scope                 triage.Scope
		gone, unsure, updated string
	}{
		{"all of it", triage.Scope{Complete: true}, "deleted fixed elsewhere", "unsure", "new still unsure"},
		{"one subscription", only, "deleted fixed", "unsure", "new still unsure elsewhere"},
		{"P10 something was hidden", triage.Scope{}, "fixed", "deleted unsure elsewhere", "deleted new still unsure elsewhere"},
	} {
		out := b.Apply(scanned, c.scope)
		if g, u := names(out.Gone), names(out.Unsure); g != c.gone || u != c.unsure || out.Known != 1 {
			t.Errorf("%s: gone %q, unsure %q, %d known; want %q, %q, 1", c.name, g, u, out.Known, c.gone, c.unsure)
		}
		next, _ := b.Update(scanned, c.scope, now)
		if got := names(next.Entries); got != c.updated {
			t.Errorf("%s: updated to %q, want %q", c.name, got, c.updated)
		}
	}
	if !scanned[2].Known {
		t.Error("still fails and is not marked")
	}
	(triage.Baseline{}).Apply(scanned, only)
	if scanned[2].Known {
		t.Error("the mark of an earlier call stays under another baseline")
	}
}

func TestBaselineFile(t *testing.T) {
	hostile := "a\"\\\n</script>\u2028=cmd|'!A1"
	var findings []scan.Finding
	for _, n := range []string{"b", "a", hostile, "C"} {
		findings = append(findings, vm(subA, "g", n), vm(subA, "g", n, rule(scan.VMNoNSG), severe(scan.Critical)))
	}
	b, _ := triage.Baseline{}.Update(findings, triage.Scope{Complete: true}, now)
	data, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := triage.ParseBaseline("b.json", data)
	if err != nil || !reflect.DeepEqual(back, b) {
		t.Fatalf("got %+v, %v; want %+v", back, err, b)
	}
	again, _ := back.Marshal()
	if !bytes.Equal(again, data) {
		t.Errorf("got\n%s\nwant\n%s", again, data)
	}
	// One failure more is one line more.
	b2, _ := b.Update(append(findings, vm(subA, "g", "aa")), triage.Scope{Complete: true}, now)
	more, _ := b2.Marshal()
	old := map[string]bool{}
	for _, l := range strings.Split(string(data), "\n") {
		old[strings.TrimSuffix(l, ",")] = true
	}
	added := 0
	for _, l := range strings.Split(string(more), "\n") {
		if !old[strings.TrimSuffix(l, ",")] {
			added++
		}
	}
	if added != 1 {
		t.Errorf("%d lines differ:\n%s\n%s", added, data, more)
	}
	want := "{\n\"version\": 1,\n\"made\": \"2026-11-26T12:00:00Z\",\n\"findings\": [\n" +
		`{"rule":"vm-management-port-exposed","resource":"/subscriptions/` + subA + `/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/a","severity":"high","exposure":"internet","ports":[{"port":22,"protocol":"tcp","exposure":"internet"}]},` + "\n"
	if !strings.HasPrefix(string(data), want) {
		t.Errorf("got\n%s\nwant it to begin\n%s", data, want)
	}
	empty, err := (triage.Baseline{Made: now}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := triage.ParseBaseline("", empty); err != nil || len(e.Entries) != 0 {
		t.Errorf("%+v, %v\n%s", e, err, empty)
	}
}

func TestBaselineFileFaults(t *testing.T) {
	entry := `{"rule":"vm-no-nsg","resource":"/a","severity":"low"}`
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ":1: it is no JSON object"},
		{"no object", "[]", ":1: it is no JSON object"},
		{"torn", "{\"version\":1,\n\"findings\":[\n" + entry + ",\n", ": it is no JSON from here on, or ends too early"},
		{"torn in an entry", "{\"version\":1,\n\"findings\":[\n{\"rule\":\"vm-no", ":3: it is no JSON"},
		{"conflict of a merge", "{\"version\":1,\n\"findings\":[\n<<<<<<< HEAD\n" + entry + "]}", ":3: it is no JSON"},
		{"newer", "{\n\"version\": 2,\n\"shape\": {}}", ":2: it is of version 2, and this program reads up to 1"},
		{"version 0", `{"version":0,"findings":[]}`, ":1: version is no number from 1"},
		{"version text", `{"version":"1","findings":[]}`, "version is no number"},
		{"no version", `{"findings":[]}`, `the key "version" is missing`},
		{"no findings", `{"version":1}`, `the key "findings" is missing`},
		{"a key twice", "{\"version\":1,\"findings\":[],\n\"findings\":[]}", `:2: the key "findings" stands there twice`},
		{"another key", `{"version":1,"finding":[]}`, `there is no key "finding"`},
		{"no list", `{"version":1,"findings":{}}`, "findings is no list"},
		{"null", `{"version":1,"findings":null}`, "findings is no list"},
		{"behind its end", "{\"version\":1,\"findings\":[]}\n{}", ":2: something stands behind its end"},
		{"bad time", `{"version":1,"made":"today","findings":[]}`, "made is no time"},
		{"entry of another kind", `{"version":1,"findings":[1]}`, "it is no entry"},
		{"null entry", `{"version":1,"findings":[null]}`, `there is no rule ""`},
		{"unknown key in an entry", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"/a","severity":"low","status":"unknown"}]}`, `unknown field "status"`},
		{"a key twice in an entry", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"/a","severity":"low","Severity":"critical"}]}`, `"Severity" stands twice`},
		{"deep inside", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"/a","severity":"low","ports":[{"port":1,"protocol":"tcp"},{"port":1,"port":2,"protocol":"tcp"}]}]}`, `"port" stands twice`},
		{"unknown rule", `{"version":1,"findings":[{"rule":"vm-none","resource":"/a","severity":"low"}]}`, `there is no rule "vm-none"`},
		{"no id", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"a","severity":"low"}]}`, "is no resource id"},
		{"no severity", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"/a"}]}`, `the severity "" is none of`},
		{"port too high", `{"version":1,"findings":[{"rule":"vm-no-nsg","resource":"/a","severity":"low","ports":[{"port":70000}]}]}`, "it is no entry"},
		{"an entry twice", "{\"version\":1,\"findings\":[" + entry + ",\n" + strings.Replace(entry, "/a", "/A", 1) + "]}", ":2: vm-no-nsg of /A stands there twice"},
	} {
		b, err := triage.ParseBaseline("b.json", []byte(c.text))
		var fe *triage.FileError
		if !errors.As(err, &fe) || fe.Hint == "" || len(b.Entries) > 0 {
			t.Errorf("%s: got %+v, %v", c.name, b, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "the baseline is wrong:\nb.json:") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	// All faulty entries are told, each with its line.
	_, err := triage.ParseBaseline("b.json", []byte("{\"version\":1,\"findings\":[\n1,\n"+entry+",\n\"x\"\n]}"))
	if err == nil || !strings.Contains(err.Error(), "b.json:2:") || !strings.Contains(err.Error(), "b.json:4:") || strings.Contains(err.Error(), "b.json:3:") {
		t.Errorf("%v", err)
	}
}

func FuzzParseBaseline(f *testing.F) {
	b, _ := triage.Baseline{}.Update([]scan.Finding{vm(subA, "g", "a", groupRules("r")), vm(subA, "g", "b")}, triage.Scope{}, now)
	data, err := b.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for i := 0; i < len(data); i += 37 {
		f.Add(data[:i])
	}
	for _, s := range []string{"{}", `{"version":1,"findings":[{}]}`, `{"version":1e0,"findings":[]}`, strings.Repeat("[", 100), `{"version":1,"findings":[{"rule":{"a":[{"a":1,"a":2}]}}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := triage.ParseBaseline("f", data)
		if err != nil {
			return
		}
		out, err := b.Marshal()
		if err != nil {
			if y := b.Made.Year(); y < 0 || y > 9999 {
				return
			}
			t.Fatal(err)
		}
		back, err := triage.ParseBaseline("f", out)
		if err != nil || !back.Made.Equal(b.Made) || fmt.Sprint(back.Entries) != fmt.Sprint(b.Entries) {
			t.Fatalf("got %+v, %v; want %+v", back, err, b)
		}
	})
}

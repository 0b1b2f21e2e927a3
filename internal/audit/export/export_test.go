package export_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/audit/export"
	"github.com/curfew-jit/curfew/internal/testkit"
	"github.com/curfew-jit/curfew/internal/testkit/ocsftest"
)

var outcomes = []audit.Outcome{audit.Intent, audit.Done, audit.Refused, audit.Failed}

// source finds the actions that the program writes: literals of the form object.verb where an entry is made, or its right looked at.
func source(t *testing.T) []string {
	t.Helper()
	form := regexp.MustCompile(`"((?:request|grant|protection|nsg|rule|drift|scan|system|audit|events|vm|notify|notice|delegation|break_glass)\.[a-z_]+)"` +
		`|(?:(?i:\baction\b)[ :=]+|\b(?:need|needPerson|entry|refuse)\((?:ctx, )?[\w.{}:+ ]+, )"([a-z_]+\.[a-z_]+)"`)
	found := map[string]bool{}
	for _, dir := range []string{"broker", "reconcile"} {
		err := filepath.WalkDir(filepath.Join(testkit.Module(t), "internal", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range form.FindAllSubmatch(b, -1) {
				found[string(m[1])+string(m[2])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 30 || !found["session.start"] || !found["policy.load"] || !found["token.use"] {
		t.Fatalf("only %d actions were found: %v", len(found), found)
	}
	return slices.Sorted(maps.Keys(found))
}

func TestEveryActionHasAMeaning(t *testing.T) {
	for _, a := range source(t) {
		if !export.Known(a) {
			t.Errorf("%s is recorded, and has no class: give it one in class.go, and name it in docs/audit.md", a)
		}
	}
	if export.Known("request.imagined") {
		t.Error("an action that does not exist is known")
	}
}

var at = time.Date(2026, 11, 23, 9, 0, 0, 123456789, time.UTC)

func entry(action string, o audit.Outcome) audit.Entry {
	return audit.Entry{Index: 7, At: at, Actor: "ana", Action: action, Outcome: o, Object: "g-1", VM: "web-01,db-01", Request: "r-1", Message: "ana opens web-01",
		Correlation: "c0ffee", Detail: map[string]string{"requester": "ana", "from": "198.51.100.7", "target": "web-01:22/tcp", "source": "198.51.100.7/32",
			"ends_at": "2026-11-23T10:00:00Z", "rules": "ops,db", "reason": "INC-4711", "rule": "vm-jit-missing", "status": "fail", "severity": "high", "account": "dora"}}
}

// evil is text that tries to end the line, to begin a field, to hide, or to be a second event.
const evil = "x\r\nCEF:0|Curfew|Curfew|1|grant.open|Port opened|1|src=1.2.3.4 act=grant.open | \\| \\= = \\n \u2028\u2029\u0085\v\f\x00\x1b[2J\u202egnp.exe\u2066\ufeff\"}\n{\"index\":8}\xff\xed\xa0\x80\U000e0041\\"

func hostile(e audit.Entry) audit.Entry {
	e.Actor, e.Object, e.VM, e.Request, e.Message, e.Correlation = evil, evil, evil, evil, evil, evil
	d := map[string]string{evil: evil}
	for k := range e.Detail {
		d[k] = evil
	}
	e.Detail = d
	return e
}

func write(t testing.TB, f export.Format, es ...audit.Entry) string {
	t.Helper()
	var b bytes.Buffer
	w, err := export.New(&b, f, export.Options{Version: "1.2|3", Origin: "curfew/audit/test"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil || w.Count() != int64(len(es)) {
		t.Fatal(err, w.Count())
	}
	return b.String()
}

// clean tells that text is lines of visible runes alone: nothing in it reorders, hides, or ends a line elsewhere.
func clean(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not UTF-8")
	}
	for _, r := range s {
		if r != '\n' && (unicode.IsControl(r) || r != '\u200c' && r != '\u200d' && unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029') {
			return fmt.Errorf("%U stands in it", r)
		}
	}
	return nil
}

var key = regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`)

// parseCEF reads a line as the format's document says it, by itself: seven header fields at unescaped pipes, then values that end where
// the next key begins.
func parseCEF(line string) (header []string, ext map[string]string, err error) {
	var field strings.Builder
	i := 0
	for ; len(header) < 7; i++ {
		if i >= len(line) {
			return nil, nil, errors.New("the header ends early")
		}
		switch c := line[i]; c {
		case '\\':
			i++
			if i >= len(line) || line[i] != '\\' && line[i] != '|' {
				return nil, nil, fmt.Errorf("a bad escape in the header at %d", i)
			}
			field.WriteByte(line[i])
		case '|':
			header = append(header, field.String())
			field.Reset()
		default:
			field.WriteByte(c)
		}
	}
	rest := line[i:]
	ext = map[string]string{}
	for rest != "" {
		m := key.FindStringSubmatchIndex(rest)
		if m == nil || m[0] != 0 {
			return nil, nil, fmt.Errorf("no key at %.40q", rest)
		}
		name := rest[m[2]:m[3]]
		rest = rest[m[1]:]
		end := len(rest)
		if next := key.FindStringIndex(rest); next != nil {
			end = next[0]
		}
		var v strings.Builder
		for j := 0; j < end; j++ {
			if rest[j] == '=' {
				return nil, nil, fmt.Errorf("an equals sign that is not escaped in %s", name)
			}
			if rest[j] != '\\' {
				v.WriteByte(rest[j])
				continue
			}
			j++
			if j >= end {
				return nil, nil, fmt.Errorf("a lone backslash ends %s", name)
			}
			switch rest[j] {
			case '\\', '=':
				v.WriteByte(rest[j])
			case 'n':
				v.WriteByte('\n')
			case 'r':
				v.WriteByte('\r')
			default:
				return nil, nil, fmt.Errorf("a bad escape in %s", name)
			}
		}
		if _, twice := ext[name]; twice {
			return nil, nil, fmt.Errorf("%s stands twice", name)
		}
		ext[name] = v.String()
		rest = rest[end:]
	}
	return header, ext, nil
}

func leaf(t testing.TB, e audit.Entry) string {
	t.Helper()
	r, err := e.Record()
	if err != nil {
		t.Fatal(err)
	}
	h := tlog.RecordHash(r)
	return fmt.Sprintf("%x", h[:])
}

func TestCEF(t *testing.T) {
	e := entry("grant.open", audit.Done)
	got := strings.TrimSuffix(write(t, export.CEF, e), "\n")
	header, ext, err := parseCEF(got)
	if err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if want := []string{"CEF:0", "Curfew", "Curfew", "1.2|3", "grant.open", "Port opened", "1"}; !reflect.DeepEqual(header, want) {
		t.Errorf("got %q, want %q", header, want)
	}
	want := map[string]string{"rt": strconv.FormatInt(at.UnixMilli(), 10), "externalId": "7", "act": "grant.open", "outcome": "done", "cat": "Entity Management", "suser": "ana",
		"src": "198.51.100.7", "duser": "ana", "dhost": "web-01,db-01", "reason": "INC-4711", "end": "1795428000000", "cs1": leaf(t, e), "cs1Label": "Merkle leaf hash",
		"cs2": "c0ffee", "cs2Label": "Correlation", "cs3": "g-1", "cs3Label": "Object", "cs4": "ops,db", "cs4Label": "Policy rules", "cs5": "r-1", "cs5Label": "Request",
		"cs6": ext["cs6"], "cs6Label": "Detail", "deviceFacility": "audit", "deviceExternalId": "curfew/audit/test", "msg": "ana opens web-01"}
	if !reflect.DeepEqual(ext, want) {
		t.Errorf("got  %q\nwant %q", ext, want)
	}
	var detail map[string]string
	if err := json.Unmarshal([]byte(ext["cs6"]), &detail); err != nil || !reflect.DeepEqual(detail, e.Detail) {
		t.Errorf("the detail is %q, %v", detail, err)
	}
	// An IPv6 source stands in src from version 1 on.
	e.Detail["from"] = "2001:db8::7"
	_, ext, _ = parseCEF(strings.TrimSuffix(write(t, export.CEF, e), "\n"))
	if ext["src"] != "" || ext["c6a2"] != "2001:db8::7" || ext["c6a2Label"] != "Source IPv6 Address" {
		t.Errorf("got %q", ext)
	}
	header, ext, _ = parseCEF(strings.TrimSuffix(write(t, export.CEF1, e), "\n"))
	if header[0] != "CEF:1" || ext["src"] != "2001:db8::7" || ext["c6a2"] != "" {
		t.Errorf("got %q %q", header, ext)
	}
	// Long values are cut at the end of a rune.
	e.Message = strings.Repeat("ü", 2000)
	_, ext, err = parseCEF(strings.TrimSuffix(write(t, export.CEF, e), "\n"))
	if err != nil || len(ext["msg"]) > 1023 || !strings.HasSuffix(ext["msg"], "ü…") || !utf8.ValidString(ext["msg"]) {
		t.Errorf("%d bytes, %v", len(ext["msg"]), err)
	}
}

// Hostile text stays within its own field, of its own line, in every format.
func TestHostileText(t *testing.T) {
	for _, f := range export.Formats {
		for i, action := range append(source(t), evil) {
			checkOne(t, f, hostile(entry(action, outcomes[i%len(outcomes)])))
		}
	}
}

// checkOne writes an entry between two others and reads all three back.
func checkOne(t testing.TB, f export.Format, e audit.Entry) {
	t.Helper()
	first, last := entry("vm.read", audit.Refused), entry("vm.read", audit.Refused)
	first.Index, last.Index = e.Index-1, e.Index+1
	text := write(t, f, first, e, last)
	if err := clean(text); err != nil {
		t.Fatalf("%s: %v in %q", f, err, text)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%s: %d lines of 3 entries: %q", f, len(lines), text)
	}
	for i, line := range lines {
		want := []audit.Entry{first, e, last}[i]
		switch f {
		case export.CEF, export.CEF1:
			header, ext, err := parseCEF(line)
			if err != nil {
				t.Fatalf("%s: %v in %q", f, err, line)
			}
			if ext["externalId"] != fmt.Sprint(want.Index) || ext["cs1"] != leaf(t, want) || len(header) != 7 || header[1] != "Curfew" {
				t.Fatalf("%s: got %q %q", f, header, ext)
			}
			for k := range ext {
				if !slices.Contains([]string{"rt", "externalId", "act", "outcome", "cat", "suser", "src", "c6a2", "c6a2Label", "duser", "dhost", "reason", "end", "cs1", "cs2", "cs3",
					"cs4", "cs5", "cs6", "cs1Label", "cs2Label", "cs3Label", "cs4Label", "cs5Label", "cs6Label", "flexString1", "flexString1Label", "deviceFacility",
					"deviceExternalId", "msg"}, k) {
					t.Fatalf("%s: a field %s in %q", f, k, line)
				}
			}
		case export.OCSF:
			var ev struct {
				Metadata struct {
					UID      string
					Sequence int64
				}
				Unmapped struct{ Entry map[string]any }
			}
			if err := json.Unmarshal([]byte(line), &ev); err != nil || ev.Metadata.Sequence != want.Index || ev.Metadata.UID != leaf(t, want) ||
				ev.Unmapped.Entry["leaf_hash"] != leaf(t, want) || ev.Unmapped.Entry["index"] != float64(want.Index) {
				t.Fatalf("%s: %v, %+v", f, err, ev)
			}
		case export.JSONL:
			n := 0
			err := export.Lines{R: strings.NewReader(line)}.Entries(t.Context(), func(s audit.Stored) error {
				n++
				r, _ := want.Record()
				if s.Damaged != nil || s.Index != want.Index || !bytes.Equal(s.Record, r) {
					return fmt.Errorf("got %d %v %q, want %q", s.Index, s.Damaged, s.Record, r)
				}
				return nil
			})
			if err != nil || n != 1 {
				t.Fatalf("%v, %d entries", err, n)
			}
		}
	}
}

func FuzzOneEntryIsOneEvent(f *testing.F) {
	f.Add("ana", "grant.open", "web-01", "message", "reason")
	f.Add(evil, evil, evil, evil, evil)
	f.Add("a=b", "a|b", "c\\", "d\\\\= e=f", " \u202e")
	f.Fuzz(func(t *testing.T, actor, action, vm, message, reason string) {
		e := entry(action, outcomes[len(actor)%len(outcomes)])
		e.Actor, e.VM, e.Message, e.Detail["reason"], e.Detail["requester"], e.Detail[actor] = actor, vm, message, reason, reason, vm
		for _, format := range export.Formats {
			checkOne(t, format, e)
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add(`{"index":0}`)
	f.Add(write(f, export.JSONL, entry("vm.read", audit.Done), hostile(entry("vm.read", audit.Done))))
	f.Fuzz(func(t *testing.T, text string) {
		var again strings.Builder
		good := true
		err := export.Lines{R: strings.NewReader(text)}.Entries(t.Context(), func(s audit.Stored) error {
			if good = good && s.Damaged == nil; good {
				var e audit.Entry
				if err := json.Unmarshal(s.Record, &e); err != nil {
					return err
				}
				again.WriteString(write(t, export.JSONL, e))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if good && strings.TrimSuffix(again.String(), "\n") != strings.TrimSuffix(text, "\n") {
			t.Errorf("%q was read as %q", text, again.String())
		}
	})
}

// A line that two readers could read in two ways is no line of an export.
func TestLinesAreOfOneReading(t *testing.T) {
	good := strings.TrimSuffix(write(t, export.JSONL, entry("vm.read", audit.Done)), "\n")
	for _, bad := range []string{
		strings.Replace(good, `"actor":"ana"`, `"actor":"mallory","actor":"ana"`, 1),
		strings.Replace(good, `"actor":"ana"`, `"Actor":"mallory","actor":"ana"`, 1),
		strings.Replace(good, `{`, `{"note":"x",`, 1), " " + good, good + " ", good + "\r", strings.Replace(good, "ana", `\u0061na`, 1), "", "null", "[]", good[:len(good)-1],
	} {
		seen := 0
		if err := (export.Lines{R: strings.NewReader(bad + "\n")}).Entries(t.Context(), func(s audit.Stored) error {
			if seen++; s.Damaged == nil {
				t.Errorf("%q was taken", bad)
			}
			return nil
		}); err != nil || seen != 1 {
			t.Errorf("%q: %v, %d", bad, err, seen)
		}
	}
}

func TestNoSuchFormat(t *testing.T) {
	if _, err := export.New(nil, "leef", export.Options{}); err == nil || !strings.Contains(err.Error(), "jsonl, cef, cef1, ocsf") {
		t.Errorf("got %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrorsAreTold(t *testing.T) {
	w, err := export.New(full{}, export.JSONL, export.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Write(entry("vm.read", audit.Done)) // buffered
	if err := w.Flush(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
}

// Every entry is a valid event of the class that it says, by the published metadata: each action with each outcome, whole and bare,
// plain and hostile, by a person and by the program.
func TestOCSF(t *testing.T) {
	paths := map[float64]string{0: "events/base_event.json", 3002: "events/iam/authentication.json", 3004: "events/iam/entity_management.json", 3005: "events/iam/user_access.json",
		6003: "events/application/api_activity.json", 6007: "events/application/scan_activity.json", 2003: "events/findings/compliance_finding.json"}
	o := ocsftest.New(t)
	var categories struct {
		Attributes map[string]struct {
			UID     int
			Caption string
		}
	}
	o.Read(&categories, "categories.json")
	captions := map[int]string{0: "Uncategorized"}
	for _, c := range categories.Attributes {
		captions[c.UID] = c.Caption
	}
	used := map[float64]bool{}
	for _, action := range append(source(t), "request.imagined") {
		for _, outcome := range outcomes {
			whole := entry(action, outcome)
			bare := audit.Entry{Index: 1, At: at, Actor: "curfew", Action: action, Outcome: outcome, Message: "m"}
			nobody := audit.Entry{At: at, Action: action, Outcome: outcome}
			for _, e := range []audit.Entry{whole, bare, nobody, hostile(whole)} {
				var ev map[string]any
				if err := json.Unmarshal([]byte(write(t, export.OCSF, e)), &ev); err != nil {
					t.Fatal(err)
				}
				class := ev["class_uid"].(float64)
				used[class] = true
				path := paths[class]
				if path == "" {
					t.Fatalf("%s is of class %v", action, class)
				}
				var published struct {
					UID     int
					Caption string
				}
				o.Read(&published, strings.Split(path, "/")...)
				category := int(class) / 1000
				if int(class) != category*1000+published.UID || ev["class_name"] != published.Caption || ev["category_uid"] != float64(category) ||
					ev["category_name"] != captions[category] || ev["type_uid"] != class*100+ev["activity_id"].(float64) {
					t.Errorf("%s: class %v %v, category %v %v, type %v", action, class, ev["class_name"], ev["category_uid"], ev["category_name"], ev["type_uid"])
				}
				for _, derived := range []string{"class_uid", "type_uid", "category_uid"} { // the schema's own lists for these are filled in by its compiler
					delete(ev, derived)
				}
				for _, w := range o.Check("event", ev, path, nil) {
					if !strings.HasSuffix(w, "_uid is required") || strings.Count(w, ".") > 1 {
						t.Errorf("%s %s: %.300s", action, outcome, w)
					}
				}
				if e.Outcome == audit.Refused && action != "request.imagined" && action != "session.start" && class != 6003 {
					t.Errorf("a refused %s is of class %v", action, class)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
	if len(used) != len(paths) {
		t.Errorf("only the classes %v were used", used)
	}
}

// What a SIEM's rule would look at, for entries as the broker writes them.
func TestOCSFMapping(t *testing.T) {
	for _, c := range []struct {
		action  string
		outcome audit.Outcome
		want    map[string]any
	}{
		{"grant.create", audit.Done, map[string]any{"class_uid": 3005., "activity_id": 1., "status_id": 1., "user.name": "ana",
			"privileges.0": "connect to web-01:22/tcp from 198.51.100.7/32 until 2026-11-23T10:00:00Z", "resources.1.name": "web-01", "severity_id": 1.}},
		{"grant.revoke", audit.Done, map[string]any{"class_uid": 3005., "activity_id": 2., "severity_id": 2., "actor.user.name": "ana", "src_endpoint.ip": "198.51.100.7"}},
		{"grant.shut", audit.Failed, map[string]any{"class_uid": 3004., "activity_id": 11., "status_id": 2., "status_code": "failed", "severity_id": 4.}},
		{"grant.open", audit.Intent, map[string]any{"class_uid": 3004., "activity_id": 10., "status_id": 99., "status": "Intent"}},
		{"request.create", audit.Done, map[string]any{"class_uid": 3004., "activity_id": 1., "comment": "INC-4711", "actor.authorizations.1.policy.name": "db",
			"actor.authorizations.0.decision": "allowed", "entity.uid": "g-1", "metadata.correlation_uid": "c0ffee", "metadata.sequence": 7.}},
		{"request.approve", audit.Refused, map[string]any{"class_uid": 6003., "activity_id": 3., "api.operation": "request.approve", "status_id": 2., "severity_id": 3.}},
		{"session.start", audit.Done, map[string]any{"class_uid": 3002., "activity_id": 1., "status_id": 1., "user.name": "ana", "session.uid": "g-1", "src_endpoint.ip": "198.51.100.7"}},
		{"session.start", audit.Refused, map[string]any{"class_uid": 3002., "activity_id": 1., "status_id": 2., "severity_id": 3., "service.name": "Curfew"}},
		{"session.end", audit.Done, map[string]any{"class_uid": 3002., "activity_id": 2., "user.name": "dora", "actor.user.name": "ana"}},
		{"policy.load", audit.Done, map[string]any{"class_uid": 3004., "activity_id": 3., "severity_id": 2.}},
		{"policy.who", audit.Done, map[string]any{"class_uid": 6003., "activity_id": 2.}},
		{"token.create", audit.Refused, map[string]any{"class_uid": 6003., "activity_id": 1., "api.operation": "token.create"}},
		{"protection.off", audit.Done, map[string]any{"class_uid": 3004., "activity_id": 9., "entity.type_id": 5., "entity.policy.is_applied": false}},
		{"scan.appeared", audit.Done, map[string]any{"class_uid": 2003., "activity_id": 1., "finding_info.uid": "g-1", "severity_id": 4., "compliance.status_id": 3.}},
		{"scan.done", audit.Failed, map[string]any{"class_uid": 6007., "activity_id": 6., "status_id": 2.}},
	} {
		var ev any
		if err := json.Unmarshal([]byte(write(t, export.OCSF, entry(c.action, c.outcome))), &ev); err != nil {
			t.Fatal(err)
		}
		for path, want := range c.want {
			if got := lookup(ev, path); got != want {
				t.Errorf("%s %s: %s is %v, want %v", c.action, c.outcome, path, got, want)
			}
		}
	}
}

func lookup(v any, path string) any {
	for _, p := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[p]
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

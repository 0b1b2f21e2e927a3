package report_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// ocsfAttribute is an attribute of a class, an object, a profile or the dictionary.
type ocsfAttribute struct {
	Requirement string
	Type        string
	IsArray     bool `json:"is_array"`
	Sibling     string
	Enum        map[string]struct{ Caption string }
	Profile     *string
	Deprecated  json.RawMessage `json:"@deprecated"`
}

// ocsf reads the published metadata and judges events by them: nothing about our events is written here.
type ocsf struct {
	t testing.TB

	dictionary map[string]ocsfAttribute
	types      map[string]struct {
		Type       string
		Caption    string
		Observable int
		Regex      string
		MaxLen     int `json:"max_len"`
		Range      []float64
	}
	shapes map[string]*ocsfShape
}

// ocsfShape is a class or an object with all that it extends and includes.
type ocsfShape struct {
	attributes  map[string]ocsfAttribute
	constraints map[string][]string
}

func (o *ocsf) read(v any, elem ...string) {
	o.t.Helper()
	b, err := os.ReadFile(testkit.Shared(o.t, append([]string{"formats", "ocsf"}, elem...)...))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		o.t.Fatalf("%v: %v", elem, err)
	}
}

func newOCSF(t testing.TB) *ocsf {
	o := &ocsf{t: t, shapes: map[string]*ocsfShape{}}
	var d struct {
		Attributes map[string]ocsfAttribute
		Types      struct{ Attributes json.RawMessage }
	}
	o.read(&d, "dictionary.json")
	o.dictionary = d.Attributes
	if err := json.Unmarshal(d.Types.Attributes, &o.types); err != nil {
		t.Fatal(err)
	}
	return o
}

// shape gathers the attributes of a file: what it extends first, then what it includes of the profiles that are applied, then its own.
func (o *ocsf) shape(path string, profiles []string) *ocsfShape {
	o.t.Helper()
	if s := o.shapes[path]; s != nil {
		return s
	}
	var raw struct {
		Extends     string
		Attributes  map[string]json.RawMessage
		Constraints map[string][]string
	}
	o.read(&raw, strings.Split(path, "/")...)
	s := &ocsfShape{map[string]ocsfAttribute{}, map[string][]string{}}
	switch raw.Extends {
	case "", "object":
	default:
		parent := path[:strings.LastIndexByte(path, '/')+1] + raw.Extends + ".json"
		if raw.Extends == "base_event" {
			parent = "events/base_event.json"
		}
		p := o.shape(parent, profiles)
		maps.Copy(s.attributes, p.attributes)
		maps.Copy(s.constraints, p.constraints)
	}
	var included []string
	if inc, ok := raw.Attributes["$include"]; ok {
		if err := json.Unmarshal(inc, &included); err != nil {
			o.t.Fatal(err)
		}
	}
	own := func(attributes map[string]json.RawMessage) {
		for name, b := range attributes {
			if name == "$include" {
				continue
			}
			var a ocsfAttribute
			if err := json.Unmarshal(b, &a); err != nil {
				o.t.Fatalf("%s %s: %v", path, name, err)
			}
			d, before := o.dictionary[name], s.attributes[name]
			a.Type, a.Sibling = first(a.Type, before.Type, d.Type), first(a.Sibling, before.Sibling, d.Sibling)
			a.Requirement, a.IsArray = first(a.Requirement, before.Requirement), a.IsArray || d.IsArray
			enum := maps.Clone(d.Enum)
			if enum == nil {
				enum = map[string]struct{ Caption string }{}
			}
			maps.Copy(enum, before.Enum)
			maps.Copy(enum, a.Enum)
			a.Enum = enum
			s.attributes[name] = a
		}
	}
	for _, inc := range included {
		if name := strings.TrimSuffix(strings.TrimPrefix(inc, "profiles/"), ".json"); slices.Contains(profiles, name) {
			var p struct{ Attributes map[string]json.RawMessage }
			o.read(&p, "profiles", name+".json")
			own(p.Attributes)
		}
	}
	own(raw.Attributes)
	maps.Copy(s.constraints, raw.Constraints)
	o.shapes[path] = s
	return s
}

func first(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// check returns what is wrong with v as a value of the shape.
func (o *ocsf) check(at string, v any, path string, profiles []string) []string {
	obj, ok := v.(map[string]any)
	if !ok {
		return []string{at + " is no object"}
	}
	s := o.shape(path, profiles)
	var wrong []string
	for name, a := range s.attributes {
		if _, ok := obj[name]; !ok && a.Requirement == "required" {
			wrong = append(wrong, at+"."+name+" is required")
		}
	}
	for rule, names := range s.constraints {
		n := 0
		for _, name := range names {
			if _, ok := obj[name]; ok {
				n++
			}
		}
		if rule == "at_least_one" && n == 0 || rule == "just_one" && n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s has %d of %v (%s)", at, n, names, rule))
		}
	}
	for name, val := range obj {
		a, ok := s.attributes[name]
		if !ok {
			wrong = append(wrong, at+"."+name+" is no attribute of "+path)
			continue
		}
		if a.Deprecated != nil {
			wrong = append(wrong, at+"."+name+" is deprecated")
		}
		list := []any{val}
		if a.IsArray {
			if list, ok = val.([]any); !ok {
				wrong = append(wrong, at+"."+name+" is no list")
				continue
			}
		}
		for i, x := range list {
			where := at + "." + name
			if a.IsArray {
				where += fmt.Sprintf("[%d]", i)
			}
			wrong = append(wrong, o.value(where, x, a, profiles)...)
			if path == "objects/observable.json" && name == "type_id" {
				// The list of this attribute is what types have as their number.
				for _, typ := range o.types {
					if typ.Observable != 0 {
						a.Enum[fmt.Sprint(typ.Observable)] = struct{ Caption string }{typ.Caption}
					}
				}
			}
			if id, ok := x.(float64); ok && len(a.Enum) > 0 {
				e, known := a.Enum[fmt.Sprint(id)]
				if !known {
					wrong = append(wrong, fmt.Sprintf("%s: %v is not in its list", where, id))
				}
				// The word beside a number is the number's caption, unless the number says "other".
				if word, has := obj[a.Sibling]; has && known && id != 99 && word != e.Caption {
					wrong = append(wrong, fmt.Sprintf("%s is %v (%s), and %s says %v", where, id, e.Caption, a.Sibling, word))
				}
			}
		}
	}
	return wrong
}

func (o *ocsf) value(at string, v any, a ocsfAttribute, profiles []string) []string {
	typ, simple := o.types[a.Type]
	if !simple {
		if a.Type == "object" {
			if _, ok := v.(map[string]any); !ok {
				return []string{at + " is no object"}
			}
			return nil
		}
		return o.check(at, v, "objects/"+a.Type+".json", profiles)
	}
	base := a.Type
	for o.types[base].Type != "" {
		base = o.types[base].Type
	}
	ok := true
	switch base {
	case "string_t":
		s, is := v.(string)
		ok = is && (typ.MaxLen == 0 || len(s) <= typ.MaxLen)
		if ok && typ.Regex != "" {
			ok = regexp.MustCompile(typ.Regex).MatchString(s)
		}
	case "integer_t", "long_t":
		n, is := v.(float64)
		ok = is && n == float64(int64(n)) && (len(typ.Range) < 2 || n >= typ.Range[0] && n <= typ.Range[1])
	case "boolean_t":
		_, ok = v.(bool)
	case "float_t":
		_, ok = v.(float64)
	case "json_t":
	default:
		return []string{at + " is of type " + a.Type + ", which is not understood"}
	}
	if !ok {
		return []string{fmt.Sprintf("%s: %v is no %s", at, v, a.Type)}
	}
	return nil
}

const complianceFinding = "events/findings/compliance_finding.json"

// Every event is a Compliance Finding of OCSF 1.8.0: its attributes, types, lists of values, required ones and constraints.
func TestOCSF(t *testing.T) {
	o := newOCSF(t)
	var version struct{ Version string }
	o.read(&version, "version.json")
	var categories struct{ Attributes map[string]struct{ UID int } }
	o.read(&categories, "categories.json")
	var class struct {
		UID     int
		Caption string
	}
	o.read(&class, strings.Split(complianceFinding, "/")...)
	category := categories.Attributes["findings"].UID
	for name, r := range samples() {
		lines := strings.Split(strings.TrimSuffix(write(t, report.OCSF, r, report.Options{Version: "1.2.3"}), "\n"), "\n")
		if len(r.Findings)+len(r.Gaps) == 0 {
			continue
		}
		if len(lines) != len(r.Findings)+len(r.Gaps) {
			t.Errorf("%s: %d events of %d findings and %d gaps", name, len(lines), len(r.Findings), len(r.Gaps))
		}
		uids := map[any]bool{}
		for i, line := range lines {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			meta := e["metadata"].(map[string]any)
			if uids[meta["uid"]] {
				t.Errorf("%s: two events are called %v", name, meta["uid"])
			}
			if uids[meta["uid"]] = true; strings.HasPrefix(name, "hostile") && i >= len(r.Findings) {
				uids = map[any]bool{} // hostile gaps may be equal
			}
			// class_uid, type_uid and category_uid are derived from where the class stands.
			uid := category*1000 + class.UID
			for k, want := range map[string]any{"class_uid": uid, "class_name": class.Caption, "category_uid": category, "time": r.At.UnixMilli(),
				"type_uid": uid*100 + int(e["activity_id"].(float64))} {
				if got := e[k]; fmt.Sprint(got) != fmt.Sprint(want) && got != toFloat(want) {
					t.Errorf("%s: %s is %v, want %v", name, k, got, want)
				}
			}
			if meta["version"] != version.Version {
				t.Errorf("%s: of version %v", name, meta["version"])
			}
			delete(e, "class_uid") // the schema's own list for these three is filled in by its compiler
			delete(e, "type_uid")
			delete(e, "category_uid")
			for _, w := range o.check("event", e, complianceFinding, []string{"cloud"}) {
				if strings.HasSuffix(w, "event.class_uid is required") || strings.HasSuffix(w, "event.type_uid is required") || strings.HasSuffix(w, "event.category_uid is required") {
					continue
				}
				t.Errorf("%s: %.300s", name, w)
			}
		}
		if t.Failed() {
			t.Log(lines[0])
			break
		}
	}
}

func toFloat(v any) any {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	}
	return v
}

// The checker finds what is wrong.
func TestOCSFCheckerFinds(t *testing.T) {
	o := newOCSF(t)
	line, _, _ := strings.Cut(write(t, report.OCSF, fixture(), report.Options{}), "\n")
	for _, c := range []struct {
		want  string
		spoil func(e map[string]any)
	}{
		{"event.finding_info is required", func(e map[string]any) { delete(e, "finding_info") }},
		{"event.severity_id: 7 is not in its list", func(e map[string]any) { e["severity_id"] = 7.0 }},
		{"status says Fine", func(e map[string]any) { e["compliance"].(map[string]any)["status"] = "Fine" }},
		{"event.message: 3 is no string_t", func(e map[string]any) { e["message"] = 3.0 }},
		{"event.verdict is no attribute", func(e map[string]any) { e["verdict"] = "x" }},
		{"event.resource is deprecated", func(e map[string]any) { e["resource"] = map[string]any{"uid": "x"} }},
		{"event.cloud is required", func(e map[string]any) { delete(e, "cloud") }},
		{"(at_least_one)", func(e map[string]any) { e["resources"] = []any{map[string]any{"role_id": 3.0}} }},
		{"event.resources is no list", func(e map[string]any) { e["resources"] = map[string]any{} }},
	} {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		c.spoil(e)
		got := o.check("event", e, complianceFinding, []string{"cloud"})
		found := slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, c.want) })
		if !found {
			t.Errorf("%q is not found in %q", c.want, got)
		}
	}
}

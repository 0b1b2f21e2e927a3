// Package ocsftest judges OCSF events by the published metadata of OCSF 1.8.0, which lies among the shared reference data. It is for
// tests; nothing about our own events is written here.
package ocsftest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/testkit"
)

// attribute is an attribute of a class, an object, a profile or the dictionary.
type attribute struct {
	Requirement string
	Type        string
	IsArray     bool `json:"is_array"`
	Sibling     string
	Enum        map[string]struct{ Caption string }
	Profile     *string
	Deprecated  json.RawMessage `json:"@deprecated"`
}

// Schema reads the metadata and judges events by them.
type Schema struct {
	t testing.TB

	dictionary map[string]attribute
	types      map[string]struct {
		Type       string
		Caption    string
		Observable int
		Regex      string
		MaxLen     int `json:"max_len"`
		Range      []float64
	}
	shapes map[string]*shapeOf
}

// shapeOf is a class or an object with all that it extends and includes.
type shapeOf struct {
	attributes  map[string]attribute
	constraints map[string][]string
}

// Read reads one file of the metadata.
func (o *Schema) Read(v any, elem ...string) {
	o.t.Helper()
	b, err := os.ReadFile(testkit.Shared(o.t, append([]string{"formats", "ocsf"}, elem...)...))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		o.t.Fatalf("%v: %v", elem, err)
	}
}

// New reads the dictionary. Without the reference data the test ends by testkit.Require.
func New(t testing.TB) *Schema {
	t.Helper()
	o := &Schema{t: t, shapes: map[string]*shapeOf{}}
	var d struct {
		Attributes map[string]attribute
		Types      struct{ Attributes json.RawMessage }
	}
	o.Read(&d, "dictionary.json")
	o.dictionary = d.Attributes
	if err := json.Unmarshal(d.Types.Attributes, &o.types); err != nil {
		t.Fatal(err)
	}
	return o
}

// shape gathers the attributes of a file: what it extends first, then what it includes of the profiles that are applied, then its own.
func (o *Schema) shape(path string, profiles []string) *shapeOf {
	o.t.Helper()
	if s := o.shapes[path]; s != nil {
		return s
	}
	var raw struct {
		Extends     string
		Attributes  map[string]json.RawMessage
		Constraints map[string][]string
	}
	o.Read(&raw, strings.Split(path, "/")...)
	s := &shapeOf{map[string]attribute{}, map[string][]string{}}
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
			var a attribute
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
			o.Read(&p, "profiles", name+".json")
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

// Check returns what is wrong with v as a value of the shape.
func (o *Schema) Check(at string, v any, path string, profiles []string) []string {
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

func (o *Schema) value(at string, v any, a attribute, profiles []string) []string {
	typ, simple := o.types[a.Type]
	if !simple {
		if a.Type == "object" {
			if _, ok := v.(map[string]any); !ok {
				return []string{at + " is no object"}
			}
			return nil
		}
		return o.Check(at, v, "objects/"+a.Type+".json", profiles)
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

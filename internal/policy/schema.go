package policy

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/access"
)

// Schema returns the JSON Schema (draft 2020-12) of a policy file, for editors. It is made from the types that read the file.
func Schema() []byte { return schema() }

var schema = sync.OnceValue(func() []byte {
	defs := map[string]any{}
	root := object(reflect.TypeFor[Document](), defs)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Curfew policy"
	root["description"] = "Who may ask for access to which machines, within which limits, and who must agree"
	root["$defs"] = defs
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil // a test reads it
	}
	return append(b, '\n')
})

// required lists the keys that must be there, by type.
var required = map[string][]string{
	"Document": {"rules"}, "Rule": {"name"}, "AutoApprove": {"max_duration"}, "BreakGlass": {"requesters", "max_duration"},
}

// ranges lists the numbers that a key may have.
var ranges = map[string][2]int{
	"version": {1, 1}, "widest_ipv4": {0, 32}, "widest_ipv6": {0, 128}, "approvals": {0, 10}, "count": {0, 10}, "max": {0, 100},
}

func object(t reflect.Type, defs map[string]any) map[string]any {
	props := map[string]any{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		p := form(f.Type, defs)
		if r, ok := ranges[name]; ok && p["type"] == "integer" {
			p["minimum"], p["maximum"] = r[0], r[1]
		}
		if _, ref := p["$ref"]; ref {
			p = map[string]any{"allOf": []any{p}}
		}
		if doc := f.Tag.Get("doc"); doc != "" {
			p["description"] = doc
		}
		props[name] = p
	}
	out := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if r := required[t.Name()]; r != nil {
		out["required"] = r
	}
	return out
}

// form returns the schema of a type; structures stand once, under $defs.
func form(t reflect.Type, defs map[string]any) map[string]any {
	switch t {
	case reflect.TypeFor[access.Duration]():
		return map[string]any{"type": "string", "pattern": `^\s*([0-9]+[dD])?([0-9]+[hH])?([0-9]+[mM])?([0-9]+[sS])?\s*$`, "minLength": 2, "examples": []string{"30m", "2h", "1d"}}
	case reflect.TypeFor[access.Ports]():
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "integer", "minimum": 1, "maximum": 65535},
			map[string]any{"type": "string", "pattern": `^\s*[0-9]+\s*(-\s*[0-9]+\s*)?$`, "examples": []string{"8000-8010"}},
		}}
	case reflect.TypeFor[netip.Prefix]():
		return map[string]any{"type": "string", "pattern": `^[0-9a-fA-F:.]+/[0-9]{1,3}$`, "examples": []string{"198.51.100.0/24"}}
	case reflect.TypeFor[access.Protocol]():
		return map[string]any{"type": "string", "enum": []string{"tcp", "udp", "TCP", "UDP"}}
	case reflect.TypeFor[List]():
		one := map[string]any{"type": "string"}
		return map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one}}}
	case reflect.TypeFor[Text](), reflect.TypeFor[Extensions]():
		return map[string]any{"anyOf": []any{map[string]any{"type": "boolean"}, structure(t, defs)}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return form(t.Elem(), defs)
	case reflect.Struct:
		return structure(t, defs)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": form(t.Elem(), defs)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": form(t.Elem(), defs)}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	}
	return map[string]any{"type": "string"}
}

func structure(t reflect.Type, defs map[string]any) map[string]any {
	name := strings.ToLower(t.Name())
	if _, ok := defs[name]; !ok {
		defs[name] = nil // so that a rule within a rule ends
		defs[name] = object(t, defs)
	}
	return map[string]any{"$ref": "#/$defs/" + name}
}

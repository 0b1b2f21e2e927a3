package config

import (
	_ "embed" // the example
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Example is a configuration to begin with, commented. It is read without a fault.
//
//go:embed example.yaml
var Example string

// Keys lists every key of the file by its path: "people[].name".
func Keys() []string {
	var out []string
	walk(reflect.TypeFor[Config](), "", func(key string, _ reflect.StructField) { out = append(out, key) })
	return out
}

// Reference renders the table of all keys that docs/configuration.md holds; a test compares them.
func Reference() string {
	var b strings.Builder
	b.WriteString("| key | value | default | environment | meaning |\n| --- | --- | --- | --- | --- |\n")
	walk(reflect.TypeFor[Config](), "", func(key string, f reflect.StructField) {
		doc, env, def := f.Tag.Get("doc"), "", f.Tag.Get("default")
		if i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key }); i >= 0 {
			env = "`" + settings[i].env + "`"
		}
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", key, kindName(f.Type), def, env, doc)
	})
	return b.String()
}

// walk calls f for each key that holds a value, in the order of the types.
func walk(t reflect.Type, path string, f func(string, reflect.StructField)) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name == "" || name == "-" || field.Type == reflect.TypeFor[[]policy.Rule]() && strings.HasSuffix(path, "rules[]") {
			continue // a rule's own rules have the same keys
		}
		key := name
		if path != "" {
			key = path + "." + name
		}
		inner := field.Type
		if inner.Kind() == reflect.Slice && kindName(inner) == "" && kindOf(inner.Elem()) == "" {
			inner, key = inner.Elem(), key+"[]"
		}
		if kindName(field.Type) != "" {
			f(key, field)
			continue
		}
		walk(inner, key, f)
	}
}

// kindName names the form of a value for the reference. What a policy holds within its rules is described in docs/policy.md.
func kindName(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[policy.Text](), reflect.TypeFor[policy.Extensions]():
		return "true, false or mapping"
	case reflect.TypeFor[policy.AutoApprove](), reflect.TypeFor[policy.BreakGlass](), reflect.TypeFor[map[string]policy.Group](), reflect.TypeFor[map[string]policy.List]():
		return "mapping"
	case reflect.TypeFor[[]policy.Window](), reflect.TypeFor[[]policy.Step]():
		return "list of mappings"
	}
	return kindOf(t)
}

// kindOf names the form of a value, "" for a mapping or a list of mappings.
func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return "network"
	case reflect.TypeFor[access.Duration]():
		return "duration"
	case reflect.TypeFor[access.Ports]():
		return "port or range"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "true or false"
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Slice:
		if k := kindOf(t.Elem()); k != "" {
			return "list of " + map[string]string{"text": "texts", "network": "networks", "port or range": "ports or ranges"}[k]
		}
	}
	return ""
}

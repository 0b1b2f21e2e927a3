package config

import (
	_ "embed" // the example
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
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

// ruleDocs describes the keys of a policy rule, whose type belongs to package access.
var ruleDocs = map[string]string{
	"name":          "Name of the rule, in messages and the audit log. Required",
	"vms":           "Patterns for VM names, as db-*; none: every VM",
	"groups":        "Patterns for resource groups",
	"subscriptions": "Ids of subscriptions",
	"requesters":    "Names of people; none: everybody with the role",
	"ports":         "Ports or ranges that may be asked for; none: every port",
	"sources":       "Networks in which a source must lie; none: anywhere",
	"deny":          "Refuse what matches, whatever else matches",
	"max_duration":  "Longest access time, 5m to 24h; absent: " + access.Duration(access.DefaultMaxDuration).String(),
	"max_total":     "Longest access time with extensions; absent: max_duration",
	"max_ahead":     "How far in the future a start may lie; absent: " + access.Duration(access.DefaultMaxAhead).String(),
	"widest_ipv4":   fmt.Sprintf("Shortest prefix of an IPv4 source; absent: %d", access.DefaultWidestIPv4),
	"widest_ipv6":   fmt.Sprintf("Shortest prefix of an IPv6 source; absent: %d", access.DefaultWidestIPv6),
	"approvals":     "How many must approve, 1 to 10; absent: 1",
	"approvers":     "Names of people; none: everybody with the role",
	"reason":        "Ask for a reason; absent: true",
	"ticket":        "Ask for a ticket",
}

// Reference renders the table of all keys that docs/configuration.md holds; a test compares them.
func Reference() string {
	var b strings.Builder
	b.WriteString("| key | value | default | environment | meaning |\n| --- | --- | --- | --- | --- |\n")
	walk(reflect.TypeFor[Config](), "", func(key string, f reflect.StructField) {
		doc, env, def := f.Tag.Get("doc"), "", f.Tag.Get("default")
		if name, ok := strings.CutPrefix(key, "policy.rules[]."); ok {
			doc = ruleDocs[name]
		}
		if i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key }); i >= 0 {
			env = "`" + settings[i].env + "`"
		}
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", key, kindOf(f.Type), def, env, doc)
	})
	return b.String()
}

// walk calls f for each key that holds a value, in the order of the types.
func walk(t reflect.Type, path string, f func(string, reflect.StructField)) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		key := name
		if path != "" {
			key = path + "." + name
		}
		inner := field.Type
		if inner.Kind() == reflect.Slice && kindOf(inner.Elem()) == "" {
			inner, key = inner.Elem(), key+"[]"
		}
		if kindOf(field.Type) == "" {
			walk(inner, key, f)
			continue
		}
		f(key, field)
	}
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

package policy

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// What a text may hold at most. A policy of ten thousand rules is about two megabytes.
const (
	maxText    = 16 << 20
	maxDepth   = 40
	maxAliased = 100_000 // nodes read by way of aliases, so that a few lines cannot become millions
)

// Parse reads a policy: one YAML document, of which every fault is reported at once with its line and column. The name stands in
// messages. It checks the form alone; New checks what is said.
func Parse(text []byte, name string) (Document, error) {
	d := parse(text, name)
	return d, d.faults.err()
}

func parse(text []byte, name string) Document {
	wrong := func(line, col int, format string, args ...any) Document {
		return Document{faults: Faults{{File: name, Line: line, Column: col, Text: fmt.Sprintf(format, args...)}}}
	}
	if len(text) > maxText {
		return wrong(0, 0, "the file is larger than %d bytes", maxText)
	}
	l, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return wrong(0, 0, "%v", err)
	}
	var doc, second yaml.Node
	switch err := l.Load(&doc); {
	case errors.Is(err, io.EOF):
		return wrong(1, 1, "the file is empty; a policy without rules is written rules: []")
	case err != nil:
		return Document{faults: syntax(err, name)}
	}
	if err := l.Load(&second); err == nil {
		return wrong(second.Line, second.Column, "a second document begins here, and it would not be read")
	} else if !errors.Is(err, io.EOF) {
		return Document{faults: syntax(err, name)}
	}
	n := &doc
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	return decode(n, name)
}

func syntax(err error, name string) Faults {
	var many *yaml.LoadErrors
	if errors.As(err, &many) {
		var out Faults
		for _, e := range many.Errors {
			out = append(out, Fault{File: name, Line: e.Mark.Line, Column: e.Mark.Column, Text: e.Message})
		}
		return out
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		return Faults{{File: name, Line: one.Mark.Line, Column: one.Mark.Column, Text: one.Message}}
	}
	return Faults{{File: name, Line: 1, Column: 1, Text: err.Error()}}
}

// decode fills a Document from a mapping node. A document without the key rules is one without rules.
func decode(n *yaml.Node, file string) Document {
	var d Document
	r := &reader{file: file}
	r.value(n, reflect.ValueOf(&d).Elem(), "", 0)
	d.faults, d.broken = r.faults, r.over
	return d
}

type reader struct {
	file    string
	faults  Faults
	aliased int
	inAlias int
	over    bool
}

func (r *reader) bad(n *yaml.Node, format string, args ...any) {
	r.faults = append(r.faults, Fault{File: r.file, Line: n.Line, Column: n.Column, Text: fmt.Sprintf(format, args...)})
}

var (
	marksType = reflect.TypeFor[marks]()
	textType  = reflect.TypeFor[Text]()
	extType   = reflect.TypeFor[Extensions]()
	listType  = reflect.TypeFor[List]()
)

// value reads a node into a Go value by its type. path names the place in messages.
func (r *reader) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if r.over {
		return
	}
	if depth > maxDepth {
		r.bad(n, "%s is nested deeper than %d levels", path, maxDepth)
		r.over = true
		return
	}
	if n.Kind == yaml.AliasNode {
		r.inAlias++
		defer func() { r.inAlias-- }()
		r.value(n.Alias, v, path, depth+1)
		return
	}
	if r.inAlias > 0 {
		if r.aliased++; r.aliased > maxAliased {
			r.bad(n, "aliases repeat more than %d values; write them out", maxAliased)
			r.over = true
			return
		}
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" { // as if the key were not there
		return
	}
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		p := reflect.New(t.Elem())
		r.value(n, p.Elem(), path, depth)
		v.Set(p)
		return
	}
	switch {
	case t == textType:
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
			r.scalar(n, v.FieldByName("Required"), path)
			r.mark(v, n)
			return
		}
		v.FieldByName("Required").SetBool(true)
		if n.Kind != yaml.MappingNode {
			r.bad(n, "%s is true, false, or a mapping with required, pattern and message", path)
			return
		}
	case t == extType:
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" {
			r.scalar(n, v.FieldByName("Allowed"), path)
			r.mark(v, n)
			return
		}
		v.FieldByName("Allowed").SetBool(true)
		if n.Kind != yaml.MappingNode {
			r.bad(n, "%s is true, false, or a mapping with max, each and allowed", path)
			return
		}
	case t == listType && n.Kind == yaml.ScalarNode:
		var s string
		r.scalar(n, reflect.ValueOf(&s).Elem(), path)
		v.Set(reflect.ValueOf(List{s}))
		return
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		r.scalar(n, v, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		r.mapping(n, v, path, depth)
	case reflect.Map:
		r.entries(n, v, path, depth)
	case reflect.Slice:
		r.items(n, v, path, depth)
	default:
		r.scalar(n, v, path)
	}
}

func (r *reader) items(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.SequenceNode {
		r.bad(n, "%s is a list: write [%s], or one entry a line after a dash", path, short(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		name := path
		if item.Kind == yaml.ScalarNode && item.ShortTag() == "!!null" {
			r.bad(item, "an entry of %s is empty", name)
			continue
		}
		r.value(item, out.Index(i), name, depth+1)
	}
	v.Set(out)
}

func (r *reader) entries(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		r.bad(n, "%s is a mapping of names to values", path)
		return
	}
	m := reflect.MakeMap(v.Type())
	for _, p := range r.pairs(n, path, depth) {
		item := reflect.New(v.Type().Elem()).Elem()
		r.value(p.value, item, path+"."+p.name, depth+1)
		m.SetMapIndex(reflect.ValueOf(p.name), item)
	}
	v.Set(m)
}

func (r *reader) mark(v reflect.Value, n *yaml.Node, pairs ...pair) {
	for i := range v.NumField() {
		if v.Type().Field(i).Type != marksType {
			continue
		}
		m := marks{file: r.file, at: make([]mark, 0, 1+len(pairs))}
		m.at = append(m.at, mark{"", int32(n.Line), int32(n.Column)})
		for _, p := range pairs {
			m.at = append(m.at, mark{p.name, int32(p.key.Line), int32(p.key.Column)})
		}
		setMarks(v.Addr().Interface(), m)
	}
}

// setMarks sets what reflection may not.
func setMarks(p any, m marks) {
	switch p := p.(type) {
	case *Document:
		p.marks = m
	case *Group:
		p.marks = m
	case *Rule:
		p.marks = m
	case *Extensions:
		p.marks = m
	case *Window:
		p.marks = m
	case *Text:
		p.marks = m
	case *Step:
		p.marks = m
	case *AutoApprove:
		p.marks = m
	case *BreakGlass:
		p.marks = m
	}
}

func (r *reader) mapping(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		if path == "" {
			r.bad(n, "a policy is a mapping with the key rules")
		} else {
			r.bad(n, "%s is a mapping of keys to values", path)
		}
		return
	}
	pairs := r.pairs(n, path, depth)
	r.mark(v, n, pairs...)
	known := fieldsOf(v.Type())
	for _, p := range pairs {
		i, ok := known[p.name]
		if !ok {
			r.bad(p.key, "there is no key %s%s%s", p.name, inside(path), meant(p.name, known))
			continue
		}
		r.value(p.value, v.Field(i), p.name, depth+1)
	}
}

func inside(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

type pair struct {
	name       string
	key, value *yaml.Node
}

// pairs returns the entries of a mapping, with those that << merges in behind its own; a key that stands twice is a fault.
func (r *reader) pairs(n *yaml.Node, path string, depth int) []pair {
	var out []pair
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			r.bad(n.Content[i], "a key%s is not a text", inside(path))
			continue
		}
		if k.ShortTag() == "!!merge" {
			merged = append(merged, val)
			continue
		}
		if j := slices.IndexFunc(out, func(p pair) bool { return p.name == k.Value }); j >= 0 {
			r.bad(k, "the key %s stands here for the second time; first in line %d", k.Value, out[j].key.Line)
			continue
		}
		out = append(out, pair{k.Value, k, val})
	}
	for _, m := range merged {
		for _, from := range r.mergeable(m) {
			r.aliased += 1 + len(from.Content)/2
			if r.over || r.aliased > maxAliased || depth > maxDepth {
				if !r.over {
					r.bad(m, "<< merges too much, or what it stands in; write it out")
				}
				r.over = true
				return out
			}
			for _, p := range r.pairs(from, path, depth+1) {
				if !slices.ContainsFunc(out, func(o pair) bool { return o.name == p.name }) {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

func (r *reader) mergeable(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		return []*yaml.Node{n}
	case yaml.SequenceNode:
		var out []*yaml.Node
		for _, c := range n.Content {
			if c.Kind == yaml.AliasNode {
				c = c.Alias
			}
			if c.Kind != yaml.MappingNode {
				r.bad(n, "<< merges mappings alone")
				return nil
			}
			out = append(out, c)
		}
		return out
	}
	r.bad(n, "<< merges mappings alone")
	return nil
}

func (r *reader) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		r.bad(n, "%s is a single value, not a list or a mapping", path)
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			r.bad(n, "%s: %s", path, plainError(err, n.Value))
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Int:
		i, err := strconv.Atoi(n.Value)
		if err != nil || n.ShortTag() != "!!int" {
			r.bad(n, "%s is %q, and must be a number", path, clip(n.Value))
			return
		}
		v.SetInt(int64(i))
	case reflect.Bool:
		if n.ShortTag() != "!!bool" {
			r.bad(n, "%s is %q, and must be true or false", path, clip(n.Value))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	}
}

// plainError takes the names of Go's functions out of a message.
func plainError(err error, value string) string {
	s := err.Error()
	if strings.HasPrefix(s, "netip.") {
		return fmt.Sprintf("%q is not a network, as 198.51.100.0/24", clip(value))
	}
	return s
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

func short(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return clip(n.Value)
	}
	return "…"
}

// fieldsOf maps the keys of a type to its fields.
func fieldsOf(t reflect.Type) map[string]int {
	out := map[string]int{}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" && name != "-" {
			out[name] = i
		}
	}
	return out
}

// meant names the known key that is nearest to one that is not, if any is near.
func meant(name string, known map[string]int) string {
	best, least := "", 3
	for k := range known {
		if d := distance(strings.ToLower(name), k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; is " + best + " meant?"
}

// distance is the number of letters to change, add or take away between two words.
func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 99
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost++
			}
			prev = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

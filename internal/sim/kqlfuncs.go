package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// function of Kusto: how many arguments it takes (max -1: any number), and whether its value is dynamic.
type function struct {
	min, max int
	dyn      bool
	call     func(args []any) any
}

func one(f func(any) any) function {
	return function{1, 1, false, func(a []any) any { return f(a[0]) }}
}

func toLower(v any) any { return lower(v) }

var functions = map[string]function{
	"tolower": one(toLower), "toupper": one(func(v any) any { return strings.ToUpper(str(v)) }), "tostring": one(func(v any) any { return str(v) }),
	"not": one(func(v any) any { return !truth(v) }), "isempty": one(func(v any) any { return str(v) == "" }), "isnotempty": one(func(v any) any { return str(v) != "" }),
	"notempty": one(func(v any) any { return str(v) != "" }), "isnull": one(func(v any) any { return v == nil }), "isnotnull": one(func(v any) any { return v != nil }),
	"notnull": one(func(v any) any { return v != nil }), "toint": one(toInt), "tolong": one(toInt),
	"todouble": one(func(v any) any {
		if f, ok := numeric(v); ok {
			return number(strconv.FormatFloat(f, 'f', -1, 64))
		}
		return nil
	}),
	"tobool":   one(func(v any) any { return truth(v) || strings.EqualFold(str(v), "true") }),
	"strlen":   one(func(v any) any { return len([]rune(str(v))) }),
	"trim_end": {2, 2, false, func(a []any) any { return strings.TrimSuffix(str(a[1]), str(a[0])) }},
	"array_length": one(func(v any) any {
		if l, ok := v.([]any); ok {
			return len(l)
		}
		return nil
	}),
	"parse_json": {1, 1, true, func(a []any) any { return parseDynamic(a[0]) }}, "todynamic": {1, 1, true, func(a []any) any { return parseDynamic(a[0]) }},
	"bag_keys": {1, 1, true, func(a []any) any {
		m, ok := a[0].(map[string]any)
		if !ok {
			return nil
		}
		out := []any{}
		for k := range sortedFields(m) {
			out = append(out, k)
		}
		return out
	}},
	"iff": {min: 3, max: 3}, "iif": {min: 3, max: 3}, "case": {min: 3, max: -1}, // see choice
	"bag_pack": {min: 2, max: -1}, "pack": {min: 2, max: -1}, // see bag
	"coalesce": {2, -1, false, func(a []any) any {
		for _, v := range a {
			if v != nil && v != "" {
				return v
			}
		}
		return nil
	}},
	"strcat": {1, -1, false, func(a []any) any {
		var b strings.Builder
		for _, v := range a {
			b.WriteString(str(v))
		}
		return b.String()
	}},
	"strcat_array": {2, 2, false, func(a []any) any {
		l, _ := a[0].([]any)
		var out []string
		for _, v := range l {
			out = append(out, str(v))
		}
		return strings.Join(out, str(a[1]))
	}},
	"split": {2, 2, true, func(a []any) any {
		out := []any{}
		for _, v := range strings.Split(str(a[0]), str(a[1])) {
			out = append(out, v)
		}
		return out
	}},
	"substring": {2, 3, false, func(a []any) any {
		text := []rune(str(a[0]))
		from, _ := toInt(a[1]).(int)
		from = min(max(from, 0), len(text))
		to := len(text)
		if n, ok := 0, false; len(a) == 3 {
			if n, ok = toInt(a[2]).(int); ok && n >= 0 {
				to = min(from+n, to)
			}
		}
		return string(text[from:to])
	}},
	"replace_string": {3, 3, false, func(a []any) any { return strings.ReplaceAll(str(a[0]), str(a[1]), str(a[2])) }},
	"array_index_of": {2, 2, false, func(a []any) any {
		l, ok := a[0].([]any)
		if !ok {
			return nil
		}
		return slices.IndexFunc(l, func(v any) bool { return str(v) == str(a[1]) })
	}},
	"set_has_element": {2, 2, false, func(a []any) any {
		l, _ := a[0].([]any)
		return slices.ContainsFunc(l, func(v any) bool { return str(v) == str(a[1]) })
	}},
	"pack_array": {1, -1, true, func(a []any) any { return slices.Clone(a) }},
}

// parseDynamic reads text as JSON; what is dynamic already, and text that is no JSON, stays.
func parseDynamic(v any) any {
	t, ok := v.(string)
	if !ok {
		return v
	}
	dec := json.NewDecoder(strings.NewReader(t))
	dec.UseNumber()
	var out any
	if dec.Decode(&out) != nil {
		return t
	}
	return out
}

func toInt(v any) any {
	if n, err := strconv.Atoi(str(v)); err == nil {
		return n
	}
	return nil
}

// aggregate of summarize: the default name's prefix, and how values become one.
var aggregates = map[string]struct {
	args   int
	prefix string
	dyn    bool
	of     func(vals []any) any
}{
	"count": {0, "count", false, func(v []any) any { return len(v) }},
	"countif": {1, "countif", false, func(v []any) any {
		return len(slices.DeleteFunc(slices.Clone(v), func(e any) bool { return !truth(e) }))
	}},
	"dcount": {1, "dcount", false, func(v []any) any { return len(unique(v)) }},
	"sum": {1, "sum", false, func(v []any) any {
		var total any = number("0")
		for _, e := range v {
			if _, ok := numeric(e); ok {
				total = calculate("+", total, e)
			}
		}
		return total
	}},
	"avg": {1, "avg", false, func(v []any) any {
		sum, n := 0.0, 0
		for _, e := range v {
			if f, ok := numeric(e); ok {
				sum, n = sum+f, n+1
			}
		}
		if n == 0 {
			return nil
		}
		return number(strconv.FormatFloat(sum/float64(n), 'f', -1, 64))
	}},
	"min":       {1, "min", false, func(v []any) any { return extreme(v, -1) }},
	"max":       {1, "max", false, func(v []any) any { return extreme(v, 1) }},
	"make_list": {1, "list", true, func(v []any) any { return withoutNull(v) }},
	"make_set":  {1, "set", true, func(v []any) any { return unique(withoutNull(v)) }},
	"any":       {1, "any", false, first}, "take_any": {1, "", false, first},
}

func first(v []any) any {
	for _, e := range v {
		if e != nil && e != "" {
			return e
		}
	}
	return nil
}

func withoutNull(v []any) []any {
	out := slices.DeleteFunc(slices.Clone(v), func(e any) bool { return e == nil })
	if out == nil {
		out = []any{}
	}
	return out
}

func unique(v []any) []any {
	seen, out := map[string]bool{}, []any{}
	for _, e := range v {
		if k := string(mustJSON(e)); !seen[k] {
			seen[k] = true
			out = append(out, e)
		}
	}
	return out
}

func extreme(v []any, sign int) (best any) {
	for _, e := range v {
		if e != nil && (best == nil || compare(e, best)*sign > 0) {
			best = e
		}
	}
	return best
}

func (p *parser) summarize(out *query) error {
	type agg struct {
		name string
		e    expr
		of   func([]any) any
	}
	var aggs []agg
	var cols []column
	names := map[string]int{}
	name := func(want string) string {
		if names[want]++; names[want] > 1 {
			return want + strconv.Itoa(names[want]-1)
		}
		return want
	}
	for !p.is("by") && p.peek().kind == "ident" {
		given := ""
		if p.toks[p.pos+1].text == "=" && p.toks[p.pos+1].kind == "op" {
			given = p.next().text
			p.next()
		}
		fn := p.next()
		a, known := aggregates[strings.ToLower(fn.text)]
		if !known {
			p.pos--
			return p.errorf("the simulator knows the aggregates count, countif, dcount, sum, avg, min, max, make_list, make_set and take_any")
		}
		start := p.pos + 1
		args, err := p.list()
		if err != nil {
			return err
		}
		if len(args) != a.args {
			return fmt.Errorf("%s(): wrong number of arguments: %d", fn.text, len(args))
		}
		one := agg{given, expr{f: func(row) any { return true }}, a.of}
		arg := ""
		if len(args) == 1 {
			one.e = args[0]
			var b []string
			for _, t := range p.toks[start : p.pos-1] {
				if t.kind == "ident" {
					b = append(b, t.text)
				}
			}
			arg = strings.Join(b, "_")
		}
		if one.name == "" {
			one.name = strings.TrimPrefix(a.prefix+"_"+arg, "_")
		}
		one.name = name(one.name)
		aggs = append(aggs, one)
		cols = append(cols, column{one.name, a.dyn || a.of != nil && a.prefix == "" && one.e.dyn})
		if !p.accept(",") {
			break
		}
	}
	var keys []expr
	var keyCols []column
	if p.accept("by") {
		for {
			n, e, err := p.named()
			if err != nil {
				return err
			}
			if n == "" {
				n = "Column" + strconv.Itoa(len(keys)+1)
			}
			if err := key(e, n, "summarize"); err != nil {
				return err
			}
			keys, keyCols = append(keys, e), append(keyCols, column{name: name(n)})
			if !p.accept(",") {
				break
			}
		}
	}
	if len(aggs) == 0 && len(keys) == 0 {
		return p.errorf("expected an aggregate")
	}
	out.cols = append(slices.Clone(keyCols), cols...)
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		type group struct {
			keys []any
			vals [][]any
		}
		index := map[string]*group{}
		var order []*group
		for _, r := range rows {
			k := make([]any, len(keys))
			for i, e := range keys {
				k[i] = e.f(r)
			}
			id := string(mustJSON(k))
			g := index[id]
			if g == nil {
				g = &group{k, make([][]any, len(aggs))}
				index[id] = g
				order = append(order, g)
			}
			for i, a := range aggs {
				g.vals[i] = append(g.vals[i], a.e.f(r))
			}
		}
		if len(order) == 0 && len(keys) == 0 {
			order = append(order, &group{nil, make([][]any, len(aggs))})
		}
		result := make([]row, 0, len(order))
		for _, g := range order {
			n := row{cols: make(map[string]any, len(keys)+len(aggs))}
			for i, c := range keyCols {
				n.cols[c.name] = g.keys[i]
			}
			for i, a := range aggs {
				n.cols[a.name] = a.of(g.vals[i])
			}
			result = append(result, n)
		}
		return result
	})
	return nil
}

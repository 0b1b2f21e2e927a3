package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func (p *parser) or() (expr, error) {
	left, err := p.and()
	for err == nil && p.accept("or") {
		var right expr
		l := left
		if right, err = p.and(); err == nil {
			left = expr{f: func(r row) any { return truth(l.f(r)) || truth(right.f(r)) }}
		}
	}
	return left, err
}

func (p *parser) and() (expr, error) {
	left, err := p.comparison()
	for err == nil && p.accept("and") {
		var right expr
		l := left
		if right, err = p.comparison(); err == nil {
			left = expr{f: func(r row) any { return truth(l.f(r)) && truth(right.f(r)) }}
		}
	}
	return left, err
}

var comparisons = map[string]func(a, b any) bool{
	"==": func(a, b any) bool { return str(a) == str(b) && (a == nil) == (b == nil) },
	"!=": func(a, b any) bool { return str(a) != str(b) },
	"=~": func(a, b any) bool { return strings.EqualFold(str(a), str(b)) },
	"!~": func(a, b any) bool { return !strings.EqualFold(str(a), str(b)) },
	"<":  func(a, b any) bool { return compare(a, b) < 0 }, "<=": func(a, b any) bool { return compare(a, b) <= 0 },
	">": func(a, b any) bool { return compare(a, b) > 0 }, ">=": func(a, b any) bool { return compare(a, b) >= 0 },
	"contains_cs": func(a, b any) bool { return strings.Contains(str(a), str(b)) },
	"contains":    func(a, b any) bool { return strings.Contains(lower(a), lower(b)) },
	"!contains":   func(a, b any) bool { return !strings.Contains(lower(a), lower(b)) },
	"has":         func(a, b any) bool { return hasTerm(lower(a), lower(b)) },
	"!has":        func(a, b any) bool { return !hasTerm(lower(a), lower(b)) },
	"startswith":  func(a, b any) bool { return strings.HasPrefix(lower(a), lower(b)) },
	"!startswith": func(a, b any) bool { return !strings.HasPrefix(lower(a), lower(b)) },
	"endswith":    func(a, b any) bool { return strings.HasSuffix(lower(a), lower(b)) },
	"!endswith":   func(a, b any) bool { return !strings.HasSuffix(lower(a), lower(b)) },
}

// hasTerm finds b in a between characters that are neither letters nor digits.
func hasTerm(a, b string) bool {
	word := func(i int) bool {
		return i >= 0 && i < len(a) && (a[i] >= 'a' && a[i] <= 'z' || a[i] >= '0' && a[i] <= '9')
	}
	for at := 0; ; {
		i := strings.Index(a[at:], b)
		if i < 0 || b == "" {
			return b == ""
		}
		i += at
		if !word(i-1) && !word(i+len(b)) {
			return true
		}
		at = i + 1
	}
}

func (p *parser) list() ([]expr, error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var list []expr
	for !p.is(")") {
		e, err := p.or()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if !p.accept(",") {
			break
		}
	}
	return list, p.expect(")")
}

// values of a list of expressions; an array among them stands for its elements.
func values(list []expr, r row) (out []any) {
	for _, e := range list {
		if v, ok := e.f(r).([]any); ok {
			out = append(out, v...)
		} else {
			out = append(out, e.f(r))
		}
	}
	return out
}

func (p *parser) comparison() (expr, error) {
	left, err := p.sum()
	if err != nil {
		return expr{}, err
	}
	if p.peek().kind == "string" {
		return left, nil
	}
	op := strings.ToLower(p.peek().text)
	if cmp, ok := comparisons[op]; ok {
		p.next()
		right, err := p.sum()
		if err != nil {
			return expr{}, err
		}
		return expr{f: func(r row) any { return cmp(left.f(r), right.f(r)) }}, nil
	}
	switch op {
	case "in", "in~", "!in", "!in~", "has_any", "has_all":
		p.next()
		list, err := p.list()
		if err != nil {
			return expr{}, err
		}
		same := comparisons["=="]
		if strings.HasSuffix(op, "~") {
			same = comparisons["=~"]
		}
		return expr{f: func(r row) any {
			v := left.f(r)
			all := values(list, r)
			switch op {
			case "has_any":
				return slices.ContainsFunc(all, func(e any) bool { return hasTerm(lower(v), lower(e)) })
			case "has_all":
				return !slices.ContainsFunc(all, func(e any) bool { return !hasTerm(lower(v), lower(e)) })
			}
			return slices.ContainsFunc(all, func(e any) bool { return same(v, e) }) != strings.HasPrefix(op, "!")
		}}, nil
	case "matches":
		p.next()
		if err := p.expect("regex"); err != nil {
			return expr{}, err
		}
		t := p.next()
		re, err := regexp.Compile(t.text)
		if t.kind != "string" || err != nil {
			p.pos--
			return expr{}, p.errorf("expected a regular expression")
		}
		return expr{f: func(r row) any { return re.MatchString(str(left.f(r))) }}, nil
	}
	return left, nil
}

func numeric(v any) (float64, bool) {
	f, err := strconv.ParseFloat(str(v), 64)
	return f, err == nil
}

func calculate(op string, a, b any) any {
	x, ok1 := numeric(a)
	y, ok2 := numeric(b)
	if !ok1 || !ok2 {
		return nil
	}
	var v float64
	switch op {
	case "+":
		v = x + y
	case "-":
		v = x - y
	case "*":
		v = x * y
	case "/", "%":
		if y == 0 {
			return nil
		}
		if v = x / y; op == "%" {
			v = math.Mod(x, y)
		} else if x == math.Trunc(x) && y == math.Trunc(y) {
			v = math.Trunc(v) // integers divide to an integer
		}
	}
	return number(strconv.FormatFloat(v, 'f', -1, 64))
}

func (p *parser) sum() (expr, error)     { return p.binary(p.product, "+", "-") }
func (p *parser) product() (expr, error) { return p.binary(p.value, "*", "/", "%") }

func (p *parser) binary(of func() (expr, error), ops ...string) (expr, error) {
	left, err := of()
	for err == nil && p.peek().kind == "op" && slices.Contains(ops, p.peek().text) {
		op, l := p.next().text, left
		var right expr
		if right, err = of(); err == nil {
			left = expr{f: func(r row) any { return calculate(op, l.f(r), right.f(r)) }}
		}
	}
	return left, err
}

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
	"iff": {3, 3, false, choose}, "iif": {3, 3, false, choose},
	"case": {3, -1, false, func(a []any) any {
		for i := 0; i+1 < len(a); i += 2 {
			if truth(a[i]) {
				return a[i+1]
			}
		}
		return a[len(a)-1]
	}},
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

func choose(a []any) any {
	if truth(a[0]) {
		return a[1]
	}
	return a[2]
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

// literal is what stands in dynamic(...): JSON, with either kind of quotes.
func (p *parser) literal() (any, error) {
	t := p.next()
	switch {
	case t.kind == "string":
		return t.text, nil
	case t.kind == "number":
		return number(t.text), nil
	case t.kind == "ident" && (t.text == "true" || t.text == "false"):
		return t.text == "true", nil
	case t.kind == "ident" && t.text == "null":
		return nil, nil
	case t.text == "[":
		list := []any{}
		for !p.accept("]") {
			v, err := p.literal()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			if !p.accept(",") && !p.is("]") {
				return nil, p.errorf("expected \",\" or \"]\"")
			}
		}
		return list, nil
	}
	p.pos--
	return nil, p.errorf("the simulator knows arrays and plain values in dynamic()")
}

func (p *parser) value() (expr, error) {
	e, err := p.primary()
	if err != nil {
		return expr{}, err
	}
	return p.steps(e)
}

func (p *parser) primary() (expr, error) {
	t := p.next()
	switch t.kind {
	case "string":
		return expr{f: func(row) any { return t.text }}, nil
	case "number":
		return expr{f: func(row) any { return number(t.text) }}, nil
	case "op":
		switch t.text {
		case "(":
			e, err := p.or()
			if err != nil {
				return expr{}, err
			}
			return e, p.expect(")")
		case "-":
			e, err := p.value()
			return expr{f: func(r row) any { return calculate("-", number("0"), e.f(r)) }}, err
		}
	case "ident":
		name := strings.ToLower(t.text)
		switch name {
		case "true", "false":
			return expr{f: func(row) any { return name == "true" }}, nil
		case "null":
			p.pos--
			return expr{}, p.errorf("null has no literal here, use isnull()")
		}
		if !p.is("(") {
			for _, c := range p.q.cols {
				if c.name == t.text {
					return expr{func(r row) any { return r.get(t.text) }, c.dyn}, nil
				}
			}
			return expr{}, fmt.Errorf("failed to resolve column or scalar expression named '%s'", t.text)
		}
		if name == "dynamic" {
			p.next()
			v, err := p.literal()
			if err != nil {
				return expr{}, err
			}
			return expr{func(row) any { return v }, true}, p.expect(")")
		}
		fn, ok := functions[name]
		if !ok {
			return expr{}, fmt.Errorf("unknown function: '%s'", t.text)
		}
		args, err := p.list()
		if err != nil {
			return expr{}, err
		}
		if len(args) < fn.min || fn.max >= 0 && len(args) > fn.max || name == "case" && len(args)%2 == 0 {
			return expr{}, fmt.Errorf("%s(): wrong number of arguments: %d", t.text, len(args))
		}
		dyn := fn.dyn
		if name == "iff" || name == "iif" {
			dyn = args[1].dyn || args[2].dyn
		}
		return expr{func(r row) any {
			vals := make([]any, len(args))
			for i, a := range args {
				vals[i] = a.f(r)
			}
			return fn.call(vals)
		}, dyn}, nil
	}
	p.pos--
	return expr{}, p.errorf("expected a value")
}

// steps go into a dynamic value: properties.a['b'][0].
func (p *parser) steps(e expr) (expr, error) {
	for {
		var step any
		switch {
		case p.accept("."):
			t := p.next()
			if t.kind != "ident" {
				p.pos--
				return expr{}, p.errorf("expected a name")
			}
			step = t.text
		case p.accept("["):
			minus := p.accept("-")
			t := p.next()
			n, err := strconv.Atoi(t.text)
			switch {
			case t.kind == "number" && err == nil && minus:
				step = -n
			case t.kind == "number" && err == nil:
				step = n
			case t.kind == "string" && !minus:
				step = t.text
			default:
				p.pos--
				return expr{}, p.errorf("expected an index or a name")
			}
			if err := p.expect("]"); err != nil {
				return expr{}, err
			}
		default:
			return e, nil
		}
		from := e
		if !from.dyn {
			return expr{}, p.errorf("only dynamic values have parts")
		}
		e = expr{func(r row) any {
			v := from.f(r)
			switch at := step.(type) {
			case int:
				l, _ := v.([]any)
				if at < 0 {
					at += len(l)
				}
				if at < 0 || at >= len(l) {
					return nil
				}
				return l[at]
			case string:
				m, _ := v.(map[string]any)
				return m[at]
			}
			return nil
		}, true}
	}
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

type number string

func (n number) MarshalJSON() ([]byte, error) { return []byte(n), nil }

func str(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		return string(mustJSON(v))
	}
	return fmt.Sprint(v)
}

func lower(v any) string { return strings.ToLower(str(v)) }

func truth(v any) bool {
	b, _ := v.(bool)
	return b
}

func compare(a, b any) int {
	x, e1 := strconv.ParseFloat(str(a), 64)
	y, e2 := strconv.ParseFloat(str(b), 64)
	if e1 == nil && e2 == nil {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	return strings.Compare(str(a), str(b))
}

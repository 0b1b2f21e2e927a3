package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A small part of the Kusto query language: what Resource Graph queries of inventories use. Everything else is refused, so that a query
// never succeeds here by being misunderstood.

type token struct {
	kind string // ident, string, number, op, end
	text string
	at   int
}

func lex(q string) ([]token, error) {
	var out []token
	for i := 0; i < len(q); {
		c := q[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case strings.HasPrefix(q[i:], "//"):
			for i < len(q) && q[i] != '\n' {
				i++
			}
		case c == '\'' || c == '"':
			var b strings.Builder
			j := i + 1
			for ; j < len(q) && q[j] != c; j++ {
				if q[j] == '\\' && j+1 < len(q) {
					j++
				}
				b.WriteByte(q[j])
			}
			if j >= len(q) {
				return nil, fmt.Errorf("string at %d does not end", i)
			}
			out = append(out, token{"string", b.String(), i})
			i = j + 1
		case c >= '0' && c <= '9':
			j := i
			for j < len(q) && (q[j] >= '0' && q[j] <= '9' || q[j] == '.') {
				j++
			}
			out = append(out, token{"number", q[i:j], i})
			i = j
		case identByte(c):
			j := i
			for j < len(q) && (identByte(q[j]) || q[j] >= '0' && q[j] <= '9') {
				j++
			}
			word := q[i:j]
			if (word == "in" || word == "has" || word == "contains") && j < len(q) && q[j] == '~' {
				j++
				word += "~"
			}
			if word == "project" && strings.HasPrefix(q[j:], "-") {
				k := j + 1
				for k < len(q) && identByte(q[k]) {
					k++
				}
				word, j = q[i:k], k
			}
			out = append(out, token{"ident", word, i})
			i = j
		default:
			op := string(c)
			for _, two := range []string{"==", "!=", "=~", "!~", "<=", ">="} {
				if strings.HasPrefix(q[i:], two) {
					op = two
				}
			}
			if c == '!' && op == "!" { // !in, !in~, !has, !contains, !startswith
				j := i + 1
				for j < len(q) && identByte(q[j]) {
					j++
				}
				if j < len(q) && q[j] == '~' {
					j++
				}
				op = q[i:j]
			}
			if !strings.Contains("|(),.=[]<>-*", op) && len(op) == 1 {
				return nil, fmt.Errorf("unexpected %q at %d", op, i)
			}
			out = append(out, token{"op", op, i})
			i += len(op)
		}
	}
	return append(out, token{"end", "", len(q)}), nil
}

func identByte(c byte) bool {
	return c == '_' || c == '$' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// row is one line of a result: a resource seen through columns.
type row struct {
	base func(column string) (any, bool) // nil after project
	cols map[string]any
	keys []string // of cols, in order
}

// thunk is a column that is computed when somebody looks: most rows of a long result are never shown.
type thunk func() any

func (r row) get(name string) any {
	if v, ok := r.cols[name]; ok {
		if f, later := v.(thunk); later {
			v = f()
			r.cols[name] = v
		}
		return v
	}
	if r.base != nil {
		if v, ok := r.base(name); ok {
			return v
		}
	}
	return nil
}

type expr func(row) any

type stage func([]row) []row

type query struct {
	table  string
	stages []stage
	hasID  bool     // id is still a column: the result can be paged
	cols   []string // after project; nil: all columns of the table
}

type parser struct {
	toks []token
	pos  int
}

func (p *parser) peek() token { return p.toks[p.pos] }
func (p *parser) next() token {
	t := p.toks[p.pos]
	if t.kind != "end" {
		p.pos++
	}
	return t
}
func (p *parser) is(text string) bool {
	t := p.peek()
	return t.kind != "string" && strings.EqualFold(t.text, text) && t.kind != "end"
}
func (p *parser) accept(text string) bool {
	if p.is(text) {
		p.pos++
		return true
	}
	return false
}
func (p *parser) expect(text string) error {
	if !p.accept(text) {
		return p.errorf("expected %q", text)
	}
	return nil
}
func (p *parser) errorf(format string, args ...any) error {
	t := p.peek()
	found := "the end"
	if t.kind != "end" {
		found = strconv.Quote(t.text)
	}
	return fmt.Errorf("%s, found %s at position %d", fmt.Sprintf(format, args...), found, t.at)
}

func parseQuery(q string) (*query, error) {
	toks, err := lex(q)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	out := &query{table: "resources", hasID: true}
	if t := p.peek(); t.kind == "ident" && (p.toks[1].text == "|" || p.toks[1].kind == "end") {
		out.table = strings.ToLower(p.next().text)
		if p.peek().kind == "end" {
			return out, nil
		}
		if err := p.expect("|"); err != nil {
			return nil, err
		}
	}
	for {
		if err := p.stage(out); err != nil {
			return nil, err
		}
		if p.peek().kind == "end" {
			return out, nil
		}
		if err := p.expect("|"); err != nil {
			return nil, err
		}
	}
}

func (p *parser) stage(out *query) error {
	switch op := p.next(); strings.ToLower(op.text) {
	case "where":
		e, err := p.or()
		if err != nil {
			return err
		}
		out.stages = append(out.stages, func(rows []row) []row {
			return slices.DeleteFunc(rows, func(r row) bool { return !truth(e(r)) })
		})
	case "project", "extend":
		project := strings.EqualFold(op.text, "project")
		var names []string
		var exprs []expr
		for {
			name := ""
			if p.peek().kind == "ident" && p.toks[p.pos+1].text == "=" && p.toks[p.pos+1].kind == "op" {
				name = p.next().text
				p.next()
			}
			start := p.pos
			e, err := p.or()
			if err != nil {
				return err
			}
			if name == "" { // properties.a.b is called properties_a_b
				var b []string
				for _, t := range p.toks[start:p.pos] {
					if t.kind == "ident" {
						b = append(b, t.text)
					} else if t.text != "." {
						return p.errorf("a computed column needs a name")
					}
				}
				name = strings.Join(b, "_")
			}
			names, exprs = append(names, name), append(exprs, e)
			if !p.accept(",") {
				break
			}
		}
		if project {
			out.hasID = slices.Contains(names, "id")
			out.cols = names
		} else if out.cols != nil {
			out.cols = append(out.cols, names...)
		}
		out.stages = append(out.stages, func(rows []row) []row {
			for i, r := range rows {
				n := row{cols: map[string]any{}}
				if !project {
					n = row{base: r.base, cols: map[string]any{}, keys: slices.Clone(r.keys)}
					for k, v := range r.cols {
						n.cols[k] = v
					}
				}
				for j, name := range names {
					if _, dup := n.cols[name]; !dup {
						n.keys = append(n.keys, name)
					}
					n.cols[name] = thunk(func() any { return exprs[j](r) })
				}
				rows[i] = n
			}
			return rows
		})
	case "project-away":
		var names []string
		for {
			names = append(names, p.next().text)
			if !p.accept(",") {
				break
			}
		}
		if slices.Contains(names, "id") {
			out.hasID = false
		}
		if out.cols == nil {
			out.cols = slices.Clone(tableColumns)
		}
		out.cols = slices.DeleteFunc(out.cols, func(c string) bool { return slices.Contains(names, c) })
		cols := slices.Clone(out.cols)
		out.stages = append(out.stages, func(rows []row) []row {
			for i, r := range rows {
				n := row{cols: map[string]any{}, keys: cols}
				for _, c := range cols {
					n.cols[c] = r.get(c)
				}
				rows[i] = n
			}
			return rows
		})
	case "order", "sort":
		if err := p.expect("by"); err != nil {
			return err
		}
		return p.order(out, -1)
	case "top":
		n, err := p.number()
		if err != nil {
			return err
		}
		if err := p.expect("by"); err != nil {
			return err
		}
		return p.order(out, n)
	case "limit", "take":
		n, err := p.number()
		if err != nil {
			return err
		}
		out.stages = append(out.stages, func(rows []row) []row { return rows[:min(n, len(rows))] })
	case "count":
		out.hasID = false
		out.cols = []string{"Count"}
		out.stages = append(out.stages, func(rows []row) []row {
			return []row{{cols: map[string]any{"Count": len(rows)}, keys: []string{"Count"}}}
		})
	default:
		p.pos--
		return p.errorf("the simulator knows where, project, project-away, extend, order by, top, limit, take and count")
	}
	return nil
}

func (p *parser) number() (int, error) {
	n, err := strconv.Atoi(p.peek().text)
	if err != nil || n < 0 {
		return 0, p.errorf("expected a number")
	}
	p.next()
	return n, nil
}

func (p *parser) order(out *query, limit int) error {
	type by struct {
		e   expr
		asc bool
	}
	var list []by
	for {
		e, err := p.value()
		if err != nil {
			return err
		}
		b := by{e: e} // Kusto's default is descending
		if p.accept("asc") {
			b.asc = true
		} else {
			p.accept("desc")
		}
		list = append(list, b)
		if !p.accept(",") {
			break
		}
	}
	out.stages = append(out.stages, func(rows []row) []row {
		slices.SortStableFunc(rows, func(x, y row) int {
			for _, b := range list {
				c := compare(b.e(x), b.e(y))
				if !b.asc {
					c = -c
				}
				if c != 0 {
					return c
				}
			}
			return 0
		})
		if limit >= 0 {
			rows = rows[:min(limit, len(rows))]
		}
		return rows
	})
	return nil
}

func (p *parser) or() (expr, error) {
	left, err := p.and()
	for err == nil && p.accept("or") {
		var right expr
		l := left
		if right, err = p.and(); err == nil {
			left = func(r row) any { return truth(l(r)) || truth(right(r)) }
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
			left = func(r row) any { return truth(l(r)) && truth(right(r)) }
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

func (p *parser) comparison() (expr, error) {
	left, err := p.value()
	if err != nil {
		return nil, err
	}
	op := strings.ToLower(p.peek().text)
	if p.peek().kind == "string" {
		return left, nil
	}
	if cmp, ok := comparisons[op]; ok {
		p.next()
		right, err := p.value()
		if err != nil {
			return nil, err
		}
		return func(r row) any { return cmp(left(r), right(r)) }, nil
	}
	switch op {
	case "in", "in~", "!in", "!in~":
		p.next()
		if err := p.expect("("); err != nil {
			return nil, err
		}
		var list []expr
		for !p.is(")") {
			e, err := p.value()
			if err != nil {
				return nil, err
			}
			list = append(list, e)
			if !p.accept(",") {
				break
			}
		}
		if err := p.expect(")"); err != nil {
			return nil, err
		}
		same := comparisons["=="]
		if strings.HasSuffix(op, "~") {
			same = comparisons["=~"]
		}
		return func(r row) any {
			v := left(r)
			found := slices.ContainsFunc(list, func(e expr) bool { return same(v, e(r)) })
			return found != strings.HasPrefix(op, "!")
		}, nil
	}
	return left, nil
}

var functions = map[string]func(any) any{
	"tolower": func(v any) any { return lower(v) }, "toupper": func(v any) any { return strings.ToUpper(str(v)) },
	"tostring": func(v any) any { return str(v) }, "not": func(v any) any { return !truth(v) },
	"isempty": func(v any) any { return str(v) == "" }, "isnotempty": func(v any) any { return str(v) != "" },
	"isnull": func(v any) any { return v == nil }, "isnotnull": func(v any) any { return v != nil },
	"toint": toInt, "tobool": func(v any) any { return truth(v) || strings.EqualFold(str(v), "true") },
	"array_length": func(v any) any {
		if l, ok := v.([]any); ok {
			return len(l)
		}
		return nil
	},
}

func toInt(v any) any {
	if n, err := strconv.Atoi(str(v)); err == nil {
		return n
	}
	return nil
}

func (p *parser) value() (expr, error) {
	t := p.next()
	switch t.kind {
	case "string":
		return func(row) any { return t.text }, nil
	case "number":
		return func(row) any { return number(t.text) }, nil
	case "op":
		if t.text == "(" {
			e, err := p.or()
			if err != nil {
				return nil, err
			}
			return e, p.expect(")")
		}
	case "ident":
		switch strings.ToLower(t.text) {
		case "true", "false":
			v := strings.EqualFold(t.text, "true")
			return func(row) any { return v }, nil
		}
		if p.is("(") {
			fn, ok := functions[strings.ToLower(t.text)]
			if !ok {
				p.pos--
				return nil, p.errorf("unknown function %s", t.text)
			}
			p.next()
			arg, err := p.or()
			if err != nil {
				return nil, err
			}
			return func(r row) any { return fn(arg(r)) }, p.expect(")")
		}
		return p.path(t.text)
	}
	p.pos--
	return nil, p.errorf("expected a value")
}

// path is a column and what lies below it: properties.a['b'][0].
func (p *parser) path(column string) (expr, error) {
	var steps []any
	for {
		switch {
		case p.accept("."):
			t := p.next()
			if t.kind != "ident" {
				p.pos--
				return nil, p.errorf("expected a name")
			}
			steps = append(steps, t.text)
		case p.accept("["):
			t := p.next()
			if t.kind == "number" {
				n, err := strconv.Atoi(t.text)
				if err != nil {
					return nil, p.errorf("expected an index")
				}
				steps = append(steps, n)
			} else if t.kind == "string" {
				steps = append(steps, t.text)
			} else {
				p.pos--
				return nil, p.errorf("expected an index or a name")
			}
			if err := p.expect("]"); err != nil {
				return nil, err
			}
		default:
			return func(r row) any {
				v := r.get(column)
				for _, s := range steps {
					switch at := s.(type) {
					case int:
						l, _ := v.([]any)
						if at >= len(l) {
							return nil
						}
						v = l[at]
					case string:
						m, _ := v.(map[string]any)
						v = m[at]
					}
				}
				return v
			}, nil
		}
	}
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

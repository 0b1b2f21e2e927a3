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
			if word == "in" && j < len(q) && q[j] == '~' {
				j++
				word += "~"
			}
			if (word == "project" || word == "mv") && strings.HasPrefix(q[j:], "-") {
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
			if !strings.Contains("|(),.=[]<>-*+/%;", op) && len(op) == 1 {
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
	table *table    // nil after project, and of rows that are made up
	res   *resource // in it
	cols  map[string]any
	shape *shape // after project: how columns come out of from
	from  *row
}

// table shows resources as rows. There are hundreds of thousands of rows, so that none has more of its own than a resource.
type table struct {
	base func(r *resource, column string) (any, bool)
	text func(dst []byte, r *resource, column string, steps []string) ([]byte, bool) // nil: there is none
}

// shape is a projection, shared by all rows of a result: hundreds of thousands, most of which are never shown.
type shape struct {
	index map[string]int
	exprs []expr
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
	if r.shape != nil {
		if i, ok := r.shape.index[name]; ok {
			return r.shape.exprs[i].f(*r.from)
		}
	}
	if r.table != nil {
		if v, ok := r.table.base(r.res, name); ok {
			return v
		}
	}
	return nil
}

// append appends a column, or what steps lead to in it, as JSON.
func (r row) append(dst []byte, name string, steps []string) []byte {
	if _, ok := r.cols[name]; !ok {
		if r.shape != nil {
			if i, ok := r.shape.index[name]; ok && len(steps) == 0 {
				return r.shape.exprs[i].append(dst, *r.from)
			}
		} else if r.table != nil && r.table.text != nil {
			if out, ok := r.table.text(dst, r.res, name, steps); ok {
				return out
			}
		}
	}
	v := r.get(name)
	for _, s := range steps {
		m, _ := v.(map[string]any)
		v = m[s]
	}
	return append(dst, mustJSON(v)...)
}

// with is the row with more columns; the old ones stay as they are.
func (r row) with(n int) row {
	out := row{table: r.table, res: r.res, shape: r.shape, from: r.from, cols: make(map[string]any, len(r.cols)+n)}
	for k, v := range r.cols {
		out.cols[k] = v
	}
	return out
}

// expr is an expression. dyn marks Kusto's type dynamic (what lies in properties, tags and the like), which cannot be a key of order by,
// summarize, distinct or join without a cast.
type expr struct {
	f   func(row) any
	dyn bool

	write func(dst []byte, r row) []byte // the value as JSON, where that is had without the value
	lit   []byte                         // of a constant text: it as JSON
	col   string                         // of a column, or of what steps lead to in it
	steps []string
}

// append appends the value as JSON.
func (e expr) append(dst []byte, r row) []byte {
	switch {
	case e.write != nil:
		return e.write(dst, r)
	case e.col != "":
		return r.append(dst, e.col, e.steps)
	}
	return append(dst, mustJSON(e.f(r))...)
}

// env is where a query finds its tables.
type env struct {
	rows func(table string) []row
}

type stage func(*env, []row) []row

// column of a result.
type column struct {
	name string
	dyn  bool
}

type query struct {
	table  string
	stages []stage
	cols   []column
}

func (q *query) run(e *env) []row {
	rows := e.rows(q.table)
	for _, st := range q.stages {
		rows = st(e, rows)
	}
	return rows
}

func (q *query) names() []string {
	out := make([]string, len(q.cols))
	for i, c := range q.cols {
		out[i] = c.name
	}
	return out
}

func (q *query) has(name string) bool {
	return slices.ContainsFunc(q.cols, func(c column) bool { return c.name == name })
}

// set adds a column, or replaces the one of that name.
func (q *query) set(c column) {
	for i, have := range q.cols {
		if have.name == c.name {
			q.cols[i] = c
			return
		}
	}
	q.cols = append(q.cols, c)
}

var dynamicColumns = map[string]bool{"sku": true, "plan": true, "properties": true, "tags": true, "identity": true, "zones": true, "extendedLocation": true}

// maxJoins in one query, unions included; mv-expand gives expandRows rows for each unless limit says otherwise, at most maxExpand
// (documentation of Resource Graph).
const (
	maxJoins   = 3
	expandRows = 128
	maxExpand  = 2000
)

type parser struct {
	toks  []token
	pos   int
	q     *query // whose columns are known at this point
	joins int
	depth int
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
	out, err := p.query()
	if err != nil {
		return nil, err
	}
	p.accept(";")
	if p.peek().kind != "end" {
		return nil, p.errorf("expected \"|\"")
	}
	return out, nil
}

// query is a table and its stages, of the whole text or in parentheses.
func (p *parser) query() (*query, error) {
	outer := p.q
	defer func() { p.q = outer }()
	if p.depth++; p.depth > 20 {
		return nil, p.errorf("the query is nested too deeply")
	}
	defer func() { p.depth-- }()
	out := &query{table: "resources"}
	p.q = out
	for _, c := range tableColumns {
		out.cols = append(out.cols, column{c, dynamicColumns[c]})
	}
	named := false
	if t := p.peek(); t.kind == "ident" && (slices.Contains([]string{"|", ")", ";"}, p.toks[p.pos+1].text) || p.toks[p.pos+1].kind == "end") {
		named = true
		out.table = strings.ToLower(p.next().text)
		if tables[out.table] == nil {
			return nil, fmt.Errorf("the simulator has no table %q", out.table)
		}
	}
	if named {
		if !p.accept("|") {
			return out, nil
		}
	}
	for {
		if err := p.stage(out); err != nil {
			return nil, err
		}
		if !p.accept("|") {
			return out, nil
		}
	}
}

// named reads "name = expression" or an expression that names itself: properties.a.b is called properties_a_b.
func (p *parser) named() (string, expr, error) {
	name := ""
	if p.peek().kind == "ident" && p.toks[p.pos+1].text == "=" && p.toks[p.pos+1].kind == "op" {
		name = p.next().text
		p.next()
	}
	start := p.pos
	e, err := p.or()
	if err != nil || name != "" {
		return name, e, err
	}
	var b []string
	for _, t := range p.toks[start:p.pos] {
		switch {
		case t.kind == "ident" || t.kind == "number" || t.kind == "string" && p.pos-start > 1:
			b = append(b, t.text)
		case t.text != "." && t.text != "[" && t.text != "]" || t.kind == "string":
			return "", e, nil
		}
	}
	if p.toks[start].kind != "ident" {
		return "", e, nil
	}
	return strings.Join(b, "_"), e, nil
}

func (p *parser) columnName(what string) (string, error) {
	t := p.peek()
	if t.kind != "ident" {
		return "", p.errorf("expected the name of a column after %s", what)
	}
	if !p.q.has(t.text) {
		return "", fmt.Errorf("failed to resolve column or scalar expression named '%s'", t.text)
	}
	p.next()
	return t.text, nil
}

func (p *parser) columnNames(what string) ([]string, error) {
	var names []string
	for {
		n, err := p.columnName(what)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
		if !p.accept(",") {
			return names, nil
		}
	}
}

// keep restricts rows to the columns of q.
func keep(q *query) stage {
	cols := q.names()
	return func(_ *env, rows []row) []row {
		for i, r := range rows {
			n := row{cols: make(map[string]any, len(cols))}
			for _, c := range cols {
				n.cols[c] = thunk(func() any { return r.get(c) })
			}
			rows[i] = n
		}
		return rows
	}
}

func (p *parser) stage(out *query) error {
	switch op := p.next(); strings.ToLower(op.text) {
	case "where", "filter":
		e, err := p.or()
		if err != nil {
			return err
		}
		out.stages = append(out.stages, func(_ *env, rows []row) []row {
			return slices.DeleteFunc(rows, func(r row) bool { return !truth(e.f(r)) })
		})
	case "project", "extend":
		return p.project(out, strings.EqualFold(op.text, "project"))
	case "project-away":
		names, err := p.columnNames("project-away")
		if err != nil {
			return err
		}
		out.cols = slices.DeleteFunc(slices.Clone(out.cols), func(c column) bool { return slices.Contains(names, c.name) })
		out.stages = append(out.stages, keep(out))
	case "project-keep":
		names, err := p.columnNames("project-keep")
		if err != nil {
			return err
		}
		out.cols = slices.DeleteFunc(slices.Clone(out.cols), func(c column) bool { return !slices.Contains(names, c.name) })
		out.stages = append(out.stages, keep(out))
	case "project-rename":
		return p.rename(out)
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
		out.stages = append(out.stages, func(_ *env, rows []row) []row { return rows[:min(n, len(rows))] })
	case "count":
		out.cols = []column{{name: "Count"}}
		out.stages = append(out.stages, func(_ *env, rows []row) []row {
			return []row{{cols: map[string]any{"Count": len(rows)}}}
		})
	case "mv-expand", "mvexpand":
		return p.expand(out)
	case "summarize":
		return p.summarize(out)
	case "distinct":
		return p.distinct(out)
	case "join":
		return p.join(out)
	case "union":
		return p.union(out)
	default:
		p.pos--
		return p.errorf("the simulator knows where, project, project-away, project-keep, project-rename, extend, order by, top, limit, take, count, mv-expand, summarize, distinct, join and union")
	}
	return nil
}

func (p *parser) project(out *query, only bool) error {
	var names []string
	var exprs []expr
	var cols []column
	for {
		name, e, err := p.named()
		if err != nil {
			return err
		}
		if name == "" {
			name = "Column" + strconv.Itoa(len(names)+1)
		}
		names, exprs, cols = append(names, name), append(exprs, e), append(cols, column{name, e.dyn})
		if !p.accept(",") {
			break
		}
	}
	if only {
		out.cols = nil
	}
	for _, c := range cols {
		out.set(c)
	}
	if only {
		sh := &shape{map[string]int{}, exprs}
		for i, n := range names {
			sh.index[n] = i
		}
		out.stages = append(out.stages, func(_ *env, rows []row) []row {
			before := slices.Clone(rows)
			for i := range rows {
				rows[i] = row{shape: sh, from: &before[i]}
			}
			return rows
		})
		return nil
	}
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		for i, r := range rows {
			n := r.with(len(names))
			for j, name := range names {
				n.cols[name] = thunk(func() any { return exprs[j].f(r) })
			}
			rows[i] = n
		}
		return rows
	})
	return nil
}

func (p *parser) rename(out *query) error {
	from := map[string]string{}
	for {
		name := p.next().text
		if err := p.expect("="); err != nil {
			return err
		}
		old, err := p.columnName("project-rename")
		if err != nil {
			return err
		}
		from[old] = name
		if !p.accept(",") {
			break
		}
	}
	before := out.names()
	cols := slices.Clone(out.cols)
	for i, c := range cols {
		if n := from[c.name]; n != "" {
			cols[i].name = n
		}
	}
	out.cols = cols
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		for i, r := range rows {
			n := row{cols: make(map[string]any, len(before))}
			for _, c := range before {
				to := c
				if x := from[c]; x != "" {
					to = x
				}
				n.cols[to] = thunk(func() any { return r.get(c) })
			}
			rows[i] = n
		}
		return rows
	})
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

// key refuses dynamic values where Kusto wants a plain type.
func key(e expr, name, where string) error {
	if e.dyn {
		return fmt.Errorf("%s: key '%s' is of a 'dynamic' type. Please use an explicit cast, such as tostring(), as %s by a 'dynamic' type is not supported", where, name, where)
	}
	return nil
}

func (p *parser) order(out *query, limit int) error {
	type by struct {
		e   expr
		asc bool
	}
	var list []by
	for {
		name := p.peek().text
		e, err := p.value()
		if err != nil {
			return err
		}
		if err := key(e, name, "order"); err != nil {
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
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		type line struct {
			row
			keys []any
		}
		lines := make([]line, len(rows))
		keys := make([]any, len(rows)*len(list))
		for i, r := range rows {
			lines[i] = line{r, keys[i*len(list) : (i+1)*len(list)]}
			for j, b := range list {
				lines[i].keys[j] = b.e.f(r)
			}
		}
		slices.SortStableFunc(lines, func(x, y line) int {
			for i, b := range list {
				c := compare(x.keys[i], y.keys[i])
				if !b.asc {
					c = -c
				}
				if c != 0 {
					return c
				}
			}
			return 0
		})
		for i, l := range lines {
			rows[i] = l.row
		}
		if limit >= 0 {
			rows = rows[:min(limit, len(rows))]
		}
		return rows
	})
	return nil
}

package sim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// expand is mv-expand: a row for each element of an array (or field of a bag). Null stays one row of null, an empty array leaves none.
func (p *parser) expand(out *query) error {
	name, e, err := p.named()
	if err != nil {
		return err
	}
	if name == "" {
		return p.errorf("an expanded expression needs a name")
	}
	if !e.dyn {
		return fmt.Errorf("mv-expand: expected a dynamic value, '%s' is none", name)
	}
	col := column{name, true}
	if p.accept("to") {
		if err := p.expect("typeof"); err != nil {
			return err
		}
		if err := p.expect("("); err != nil {
			return err
		}
		col.dyn = strings.EqualFold(p.next().text, "dynamic")
		if err := p.expect(")"); err != nil {
			return err
		}
	}
	n := expandRows
	if p.accept("limit") {
		if n, err = p.number(); err != nil {
			return err
		}
		if n > maxExpand {
			return fmt.Errorf("mv-expand: the limit %d is above %d", n, maxExpand)
		}
	}
	if p.is(",") {
		return p.errorf("the simulator expands one column at a time")
	}
	out.cols = slices.Clone(out.cols)
	out.set(col)
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		var all []row
		for _, r := range rows {
			var list []any
			switch v := e.f(r).(type) {
			case []any:
				list = v
			case map[string]any:
				for _, k := range slices.Sorted(maps.Keys(v)) {
					list = append(list, map[string]any{k: v[k]})
				}
			default:
				list = []any{v}
			}
			for _, v := range list[:min(n, len(list))] {
				x := r.with(1)
				x.cols[name] = v
				all = append(all, x)
			}
		}
		return all
	})
	return nil
}

func (p *parser) distinct(out *query) error {
	if p.accept("*") {
		for _, c := range out.cols {
			if err := key(expr{dyn: c.dyn}, c.name, "distinct"); err != nil {
				return err
			}
		}
	} else {
		var cols []column
		var exprs []expr
		for {
			name, e, err := p.named()
			if err != nil {
				return err
			}
			if name == "" {
				name = "Column" + strconv.Itoa(len(cols)+1)
			}
			if err := key(e, name, "distinct"); err != nil {
				return err
			}
			cols, exprs = append(cols, column{name: name}), append(exprs, e)
			if !p.accept(",") {
				break
			}
		}
		out.cols = cols
		out.stages = append(out.stages, func(_ *env, rows []row) []row {
			for i, r := range rows {
				n := row{cols: make(map[string]any, len(cols))}
				for j, c := range cols {
					n.cols[c.name] = exprs[j].f(r)
				}
				rows[i] = n
			}
			return rows
		})
	}
	names := out.names()
	out.stages = append(out.stages, func(_ *env, rows []row) []row {
		seen := map[string]bool{}
		return slices.DeleteFunc(rows, func(r row) bool {
			var k []any
			for _, n := range names {
				k = append(k, r.get(n))
			}
			id := string(mustJSON(k))
			if seen[id] {
				return true
			}
			seen[id] = true
			return false
		})
	})
	return nil
}

var joinKinds = []string{"inner", "innerunique", "leftouter", "rightouter", "fullouter"}

func (p *parser) join(out *query) error {
	if p.joins++; p.joins > maxJoins {
		return fmt.Errorf("a query may have at most %d join and union operators", maxJoins)
	}
	kind := "innerunique"
	if p.accept("kind") {
		if err := p.expect("="); err != nil {
			return err
		}
		kind = strings.ToLower(p.next().text)
		if !slices.Contains(joinKinds, kind) {
			p.pos--
			return p.errorf("the simulator knows the joins %s", strings.Join(joinKinds, ", "))
		}
	}
	if err := p.expect("("); err != nil {
		return err
	}
	right, err := p.query()
	if err != nil {
		return err
	}
	if err := p.expect(")"); err != nil {
		return err
	}
	if err := p.expect("on"); err != nil {
		return err
	}
	side := func(q *query, name string) error {
		for _, c := range q.cols {
			if c.name == name {
				return key(expr{dyn: c.dyn}, name, "join")
			}
		}
		return fmt.Errorf("failed to resolve column or scalar expression named '%s'", name)
	}
	var left, rights []string
	for {
		l := p.next().text
		r := l
		if l == "$left" || l == "$right" {
			first := l
			if err := p.expect("."); err != nil {
				return err
			}
			l = p.next().text
			if err := p.expect("=="); err != nil {
				return err
			}
			if second := p.next().text; second == first || second != "$left" && second != "$right" {
				p.pos--
				return p.errorf("a join compares $left with $right")
			}
			if err := p.expect("."); err != nil {
				return err
			}
			r = p.next().text
			if first == "$right" {
				l, r = r, l
			}
		}
		if err := side(out, l); err != nil {
			return err
		}
		if err := side(right, r); err != nil {
			return err
		}
		left, rights = append(left, l), append(rights, r)
		if !p.accept(",") && !p.accept("and") {
			break
		}
	}
	leftNames, rightNames := out.names(), right.names()
	as := map[string]string{} // right columns whose name the left has get a number
	out.cols = slices.Clone(out.cols)
	for _, c := range right.cols {
		name := c.name
		for n := 1; out.has(name); n++ {
			name = c.name + strconv.Itoa(n)
		}
		as[c.name] = name
		out.cols = append(out.cols, column{name, c.dyn})
	}
	out.stages = append(out.stages, func(e *env, rows []row) []row {
		keyOf := func(r row, names []string) string {
			var k []string
			for _, n := range names {
				k = append(k, str(r.get(n)))
			}
			return strings.Join(k, "\x00")
		}
		found := right.run(e)
		index := map[string][]int{}
		for i, r := range found {
			k := keyOf(r, rights)
			index[k] = append(index[k], i)
		}
		pair := func(l, r *row) row {
			n := row{cols: make(map[string]any, len(leftNames)+len(rightNames))}
			for _, c := range leftNames {
				if l != nil {
					n.cols[c] = thunk(func() any { return l.get(c) })
				}
			}
			for _, c := range rightNames {
				if r != nil {
					n.cols[as[c]] = thunk(func() any { return r.get(c) })
				}
			}
			return n
		}
		var all []row
		seen, matched := map[string]bool{}, make([]bool, len(found))
		for i := range rows {
			k := keyOf(rows[i], left)
			if kind == "innerunique" && seen[k] {
				continue
			}
			seen[k] = true
			hits := index[k]
			for _, j := range hits {
				matched[j] = true
				all = append(all, pair(&rows[i], &found[j]))
			}
			if len(hits) == 0 && (kind == "leftouter" || kind == "fullouter") {
				all = append(all, pair(&rows[i], nil))
			}
		}
		if kind == "rightouter" || kind == "fullouter" {
			for j := range found {
				if !matched[j] {
					all = append(all, pair(nil, &found[j]))
				}
			}
		}
		return all
	})
	return nil
}

func (p *parser) union(out *query) error {
	var legs []*query
	for {
		if p.joins++; p.joins > maxJoins {
			return fmt.Errorf("a query may have at most %d join and union operators", maxJoins)
		}
		var leg *query
		var err error
		if p.accept("(") {
			if leg, err = p.query(); err == nil {
				err = p.expect(")")
			}
		} else {
			name := strings.ToLower(p.next().text)
			if tables[name] == nil {
				return fmt.Errorf("the simulator has no table %q", name)
			}
			leg = &query{table: name}
			for _, c := range tableColumns {
				leg.cols = append(leg.cols, column{c, dynamicColumns[c]})
			}
		}
		if err != nil {
			return err
		}
		legs = append(legs, leg)
		if !p.accept(",") {
			break
		}
	}
	out.cols = slices.Clone(out.cols)
	narrow := keep(&query{cols: slices.Clone(out.cols)})
	for _, leg := range legs {
		for _, c := range leg.cols {
			if !out.has(c.name) {
				out.cols = append(out.cols, c)
			}
		}
	}
	out.stages = append(out.stages, func(e *env, rows []row) []row {
		rows = narrow(e, rows)
		for _, leg := range legs {
			rows = append(rows, keep(leg)(e, leg.run(e))...)
		}
		return rows
	})
	return nil
}

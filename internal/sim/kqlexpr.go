package sim

import (
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
		return expr{f: func(row) any { return t.text }, lit: mustJSON(t.text)}, nil
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
					return expr{f: func(r row) any { return r.get(t.text) }, dyn: c.dyn, col: t.text}, nil
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
			return expr{f: func(row) any { return v }, dyn: true}, p.expect(")")
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
		switch name {
		case "case", "iff", "iif":
			return choice(args), nil
		case "bag_pack", "pack":
			return bag(t.text, args)
		}
		return expr{f: func(r row) any {
			vals := make([]any, len(args))
			for i, a := range args {
				vals[i] = a.f(r)
			}
			return fn.call(vals)
		}, dyn: dyn}, nil
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
		e = expr{f: func(r row) any {
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
		}, dyn: true}
		if name, ok := step.(string); ok && from.col != "" {
			e.col, e.steps = from.col, append(slices.Clone(from.steps), name)
		}
	}
}

// choice is case(): conditions and values in turn, and a value for what is left. Only the value that is chosen is computed.
func choice(args []expr) expr {
	pick := func(r row) expr {
		for i := 0; i+1 < len(args); i += 2 {
			if truth(args[i].f(r)) {
				return args[i+1]
			}
		}
		return args[len(args)-1]
	}
	dyn := args[len(args)-1].dyn
	for i := 1; i < len(args); i += 2 {
		dyn = dyn || args[i].dyn
	}
	return expr{dyn: dyn, f: func(r row) any { return pick(r).f(r) }, write: func(dst []byte, r row) []byte { return pick(r).append(dst, r) }}
}

// bag is bag_pack(): names and values in turn. A value of null stays as such.
func bag(name string, args []expr) (expr, error) {
	if len(args)%2 != 0 {
		return expr{}, fmt.Errorf("%s(): wrong number of arguments: %d", name, len(args))
	}
	return expr{dyn: true, f: func(r row) any {
		m := make(map[string]any, len(args)/2)
		for i := 0; i < len(args); i += 2 {
			m[str(args[i].f(r))] = args[i+1].f(r)
		}
		return m
	}, write: func(dst []byte, r row) []byte {
		dst = append(dst, '{')
		for i := 0; i < len(args); i += 2 {
			if i > 0 {
				dst = append(dst, ',')
			}
			if args[i].lit != nil {
				dst = append(dst, args[i].lit...)
			} else {
				dst = append(dst, mustJSON(str(args[i].f(r)))...)
			}
			dst = append(dst, ':')
			dst = args[i+1].append(dst, r)
		}
		return append(dst, '}')
	}}, nil
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
	if x, ok := a.(string); ok && len(x) > 0 && x[0] == '/' { // an id, which is no number: most comparisons are of those
		if y, ok := b.(string); ok {
			return strings.Compare(x, y)
		}
	}
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

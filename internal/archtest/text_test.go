package archtest_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// comesLater lists promises whose part is not built yet, with the package that has to exist before they are held to a test.
var comesLater = map[string]string{"P10": "internal/scan"}

// Every promise of DESIGN 4 is cited by a test that guards it.
func TestEveryPromiseIsCited(t *testing.T) {
	by, names := goFiles(t)
	cited := map[string][]string{}
	mention := regexp.MustCompile(`\bP([1-9][0-9]?)\b`)
	for _, n := range names {
		for _, f := range by[n] {
			if !f.test() || n == "internal/archtest" {
				continue
			}
			for _, m := range mention.FindAllString(string(f.data), -1) {
				if !slices.Contains(cited[m], n) {
					cited[m] = append(cited[m], n)
				}
			}
		}
	}
	for i := 1; i <= 10; i++ {
		p := fmt.Sprint("P", i)
		switch later := comesLater[p]; {
		case len(cited[p]) > 0:
			t.Logf("%s is cited in %s", p, strings.Join(cited[p], ", "))
		case later != "" && len(by[later]) == 0:
			t.Logf("%s comes with %s", p, later)
		default:
			t.Errorf("%s is cited by no test", p)
		}
	}
}

func TestGofmt(t *testing.T) {
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		got, err := format.Source(f.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(got, f.data) {
			t.Errorf("%s is not gofmt-ed", name)
		}
	}
}

// Files whose tests would never run, because their name does not end as the go command wants it.
func TestFileNames(t *testing.T) {
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		base := path.Base(name)
		if strings.HasSuffix(base, "_tests.go") {
			t.Errorf("%s never runs: a test's name ends in _test.go", name)
		}
		if slices.Contains([]string{"util", "utils", "common", "helpers", "models", "misc"}, path.Base(f.pkg())) {
			t.Errorf("%s: the package's name says nothing", name)
		}
		if f.ast == nil || strings.HasSuffix(base, "_test.go") {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && isTest(fn) {
				t.Errorf("%s: %s never runs outside a file ending in _test.go", at(fn), fn.Name.Name)
			}
		}
	}
}

func isTest(fn *ast.FuncDecl) bool {
	if len(fn.Type.Params.List) != 1 {
		return false
	}
	star, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	s, _ := selector(star.X)
	return s == "testing.T"
}

// Paths and hosts of the machine that the project happened to be written on. The pattern is put together so that it does not
// find itself.
var machine = regexp.MustCompile(`(^|[^A-Za-z0-9._~-])/(` + strings.Join([]string{"work", "farm", "root"}, "|") + `)/|` +
	`/tmp/` + `brief|` + `(proxy|sum)\.` + `golang\.org|registry\.` + `npmjs|files\.` + `pythonhosted`)

func TestNoPathsOfOneMachine(t *testing.T) {
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range all {
		if name == "go.sum" || bytes.IndexByte(f.data[:min(len(f.data), 8000)], 0) >= 0 {
			continue
		}
		for i, line := range bytes.Split(f.data, []byte("\n")) {
			if m := machine.Find(line); m != nil {
				t.Errorf("%s:%d: %q", name, i+1, m)
			}
		}
	}
	for s, want := range map[string]bool{"see /wo" + "rk/main": true, `"/ro` + `ot/x"`: true, "network/wo" + "rk/x": false, "/wo" + "rkers/": false} {
		if got := machine.MatchString(s); got != want {
			t.Errorf("the pattern finds %q: %v", s, got)
		}
	}
}

// The check of skips is shown one of each kind.
func TestSkipsSees(t *testing.T) {
	const src = `package p
func TestA(t *testing.T) {
	t.Skip("1")
	rapid.Check(t, func(t *rapid.T) {
		t.Skip("not one")
		func(t *testing.T) { t.SkipNow() }(nil)
		func() { t.Skipf("nor this") }()
	})
	t.Run("x", func(u *testing.T) { u.Skipf("3") })
	f.t.Skip()
}`
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	skips(f, func(ast.Node) { n++ })
	if n != 4 {
		t.Errorf("%d skips, want 4", n)
	}
}

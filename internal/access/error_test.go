package access_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
)

func fields(s string) []string { return strings.Fields(s) }

// wellSaid holds an error to what P8 promises: what, why, and what to do next. Errors that are our own fault have no next step.
func wellSaid(t *testing.T, err error) {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T (%v) is not an *access.Error", err, err)
	}
	if !slices.Contains(access.Codes, e.Code) {
		t.Errorf("code %q is not in the list", e.Code)
	}
	if len(strings.Fields(e.Message)) < 3 {
		t.Errorf("message %q does not say what and why", e.Message)
	}
	if first, _ := utf8.DecodeRuneInString(e.Message); unicode.IsUpper(first) || strings.HasSuffix(e.Message, ".") {
		t.Errorf("message %q: lower case and no full stop", e.Message)
	}
	for _, s := range []string{e.Message, e.Hint} {
		if strings.Contains(s, "%!") || strings.Contains(s, "0001-01-01") {
			t.Errorf("%q: badly formatted", s)
		}
	}
	if e.Code == access.CodeInvalid && e.Field == "" && !strings.HasPrefix(e.Message, "the policy is wrong") {
		t.Errorf("%q does not name the field at fault", e.Message)
	}
	if e.Hint == "" && e.Code != access.CodeInternal {
		t.Errorf("%q has no next step", e.Message)
	}
}

// P8: every error that this package makes gets its next step where it is made, internal faults aside; read from the source, so
// that an error which no test provokes is held to it too.
func TestEveryErrorHasANextStep(t *testing.T) {
	fset := token.NewFileSet()
	pkgs, err := parser.ParseDir(fset, ".", func(i fs.FileInfo) bool { return !strings.HasSuffix(i.Name(), "_test.go") }, 0)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, f := range pkgs["access"].Files {
		hinted := map[*ast.CallExpr]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "WithHint" {
				if inner, ok := sel.X.(*ast.CallExpr); ok {
					hinted[inner] = true
				}
			}
			name, ok := call.Fun.(*ast.Ident)
			if !ok || name.Name != "Errorf" && name.Name != "invalid" {
				return true
			}
			made++
			if code, ok := call.Args[0].(*ast.Ident); ok && code.Name == "CodeInternal" {
				return true
			}
			if !hinted[call] {
				t.Errorf("%s: an error without WithHint", fset.Position(call.Pos()))
			}
			return true
		})
	}
	if made < 20 {
		t.Errorf("only %d errors found: this test looks in the wrong place", made)
	}
}

// Codes is complete: it holds each constant of type Code, once.
func TestCodesComplete(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Code" {
				s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				declared = append(declared, s)
			}
		}
		return true
	})
	var listed []string
	for _, c := range access.Codes {
		listed = append(listed, string(c))
	}
	slices.Sort(declared)
	slices.Sort(listed)
	if len(declared) == 0 || !slices.Equal(declared, listed) {
		t.Errorf("declared %v, listed %v", declared, listed)
	}
}

func TestCodeOf(t *testing.T) {
	if got := access.CodeOf(nil); got != "" {
		t.Errorf("nil: %q", got)
	}
	for _, err := range []error{io.EOF, &access.Error{Message: "no code"}, fmt.Errorf("x: %w", io.EOF)} {
		if got := access.CodeOf(err); got != access.CodeInternal {
			t.Errorf("%v: %q, want internal", err, got)
		}
	}
	for _, c := range access.Codes {
		e := access.Errorf(c, "a %s", "thing")
		if got := access.CodeOf(fmt.Errorf("doing: %w", e)); got != c {
			t.Errorf("%s: %q", c, got)
		}
		w := e.WithHint("do %d", 1).Wrap(io.EOF)
		if e.Hint != "" || e.Err != nil {
			t.Errorf("%s: the original was changed: %+v", c, e)
		}
		if w.Hint != "do 1" || !errors.Is(w, io.EOF) || w.Error() != "a thing: EOF" || e.Error() != "a thing" {
			t.Errorf("%s: %+v", c, w)
		}
	}
}

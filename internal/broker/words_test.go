package broker_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// P8: every error that this package makes gets its next step where it is made, internal faults aside; read from the source, so that
// an error which no test provokes is held to it too.
func TestEveryErrorHasANextStep(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset, made := token.NewFileSet(), 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		hinted := map[*ast.CallExpr]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			call, isCall := n.(*ast.CallExpr)
			if !isCall {
				return true
			}
			var fn string
			switch x := call.Fun.(type) {
			case *ast.Ident:
				fn = x.Name
			case *ast.SelectorExpr:
				fn = x.Sel.Name
				if inner, chained := x.X.(*ast.CallExpr); chained && (fn == "WithHint" || hinted[call]) {
					hinted[inner] = true // also through Wrap
				}
			}
			if fn != "Errorf" && fn != "invalid" || len(call.Args) == 0 {
				return true
			}
			if sel, isSel := call.Fun.(*ast.SelectorExpr); isSel {
				if pkg, isID := sel.X.(*ast.Ident); !isID || pkg.Name != "access" {
					return true
				}
			}
			made++
			if code, isSel := call.Args[0].(*ast.SelectorExpr); isSel && code.Sel.Name == "CodeInternal" {
				return true
			}
			if !hinted[call] {
				t.Errorf("%s: an error without a next step", fset.Position(call.Pos()))
			}
			return true
		})
	}
	if made < 30 {
		t.Errorf("only %d errors found: this test looks in the wrong place", made)
	}
}

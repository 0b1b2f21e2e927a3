package archtest_test

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// clockCalls read the machine's clock, or wait for it. Pure code takes an instant, services take a clock.Clock.
var clockCalls = []string{"time.Now", "time.Since", "time.Until", "time.Sleep"}

func TestOnlyClockReadsTheClock(t *testing.T) {
	perPackage(t, func(t *testing.T, pkg string, files []*file) {
		if within(pkg, "internal/clock") || within(pkg, "cmd") {
			return
		}
		for _, f := range files {
			if f.test() {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if s, ok := selector(e); ok && slices.Contains(clockCalls, s) {
						t.Errorf("%s: %s; take the instant as an argument, or a clock.Clock", at(n), s)
					}
				}
				return true
			})
		}
	})
}

// endings end the program without a word to the caller.
var endings = []string{"os.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf", "log.Panicln", "syscall.Exit"}

// mayPanic lists the functions (or with a star, packages) that may panic, with the reason. All others return an error. A Must
// function, which is for constants of the program, is listed too.
var mayPanic = map[string]string{
	"internal/netsec.set":         "joins ranges that are valid already; a set without one of them would be a wrong verdict",
	"internal/sim.run":            "passes on a panic of the handler that it runs",
	"internal/sim.mustJSON":       "encodes what was decoded from JSON",
	"internal/standalone.SyncNow": "passes on a panic of a write, to the caller who gives the undo file back",
	"internal/sim.treeLocked":     "decodes what the simulator itself encoded",
	"internal/sim.doc":            "decodes what the simulator itself encoded",
	"internal/sim/estates.*":      "builds estates from constants of the program; a fault there is one of the source",
}

func TestNothingEndsTheProgramBelowCmd(t *testing.T) {
	used := map[string]bool{}
	perPackage(t, func(t *testing.T, pkg string, files []*file) {
		if within(pkg, "cmd") {
			return
		}
		for _, f := range files {
			if f.test() {
				continue
			}
			for _, d := range f.ast.Decls {
				name := pkg + "."
				if fn, ok := d.(*ast.FuncDecl); ok {
					name += fn.Name.Name
				}
				ast.Inspect(d, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if !ok {
						return true
					}
					if s, ok := selector(call.Fun); ok && slices.Contains(endings, s) {
						t.Errorf("%s: %s below cmd; return an error", at(n), s)
					}
					if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" && !passesOn(call) {
						used[name], used[pkg+".*"] = true, true
						if mayPanic[name]+mayPanic[pkg+".*"] == "" {
							t.Errorf("%s: panic in %s, which is not on the list of those that may; return an error", at(n), name)
						}
					}
					return true
				})
			}
		}
	})
	for name := range mayPanic {
		if !used[name] {
			t.Errorf("%s is on the list of those that may panic, and does not", name)
		}
	}
}

// passesOn tells whether a panic is net/http's own way to drop a connection.
func passesOn(call *ast.CallExpr) bool {
	s, ok := selector(call.Args[0])
	return ok && s == "http.ErrAbortHandler"
}

// Every skip goes through testkit, which turns it into a failure where every check is required. rapid's Skip throws a drawn case
// away and is none.
func TestSkipsGoThroughTestkit(t *testing.T) {
	perPackage(t, func(t *testing.T, pkg string, files []*file) {
		if pkg == "internal/testkit" {
			return
		}
		for _, f := range files {
			if f.test() {
				skips(f.ast, func(n ast.Node) {
					t.Errorf("%s: a skip that .ci/run would not notice; use testkit.Require(t, what, ok)", at(n))
				})
			}
		}
	})
}

// skips calls found for each Skip, Skipf or SkipNow on something that is not a *rapid.T.
func skips(f *ast.File, found func(ast.Node)) {
	var walk func(n ast.Node, rapids map[string]bool)
	walk = func(n ast.Node, rapids map[string]bool) {
		ast.Inspect(n, func(m ast.Node) bool {
			if m == nil || m == n {
				return true
			}
			var params *ast.FieldList
			switch fn := m.(type) {
			case *ast.FuncDecl:
				params = fn.Type.Params
			case *ast.FuncLit:
				params = fn.Type.Params
			case *ast.CallExpr:
				s, ok := fn.Fun.(*ast.SelectorExpr)
				if !ok || s.Sel.Name != "Skip" && s.Sel.Name != "Skipf" && s.Sel.Name != "SkipNow" {
					return true
				}
				if x, ok := s.X.(*ast.Ident); ok && rapids[x.Name] {
					return true
				}
				found(m)
				return true
			default:
				return true
			}
			inner := map[string]bool{}
			for k, v := range rapids {
				inner[k] = v
			}
			for _, p := range params.List {
				star, _ := p.Type.(*ast.StarExpr)
				is := false
				if star != nil {
					s, _ := selector(star.X)
					is = s == "rapid.T"
				}
				for _, name := range p.Names {
					inner[name.Name] = is
				}
			}
			walk(m, inner)
			return false
		})
	}
	walk(f, map[string]bool{})
}

// A script of the command line skips in its own words, and leaves out a line where a program is missing: .ci/run needs those.
func TestScriptsDoNotSkip(t *testing.T) {
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	var needed []string
	for _, line := range strings.Split(string(all[".ci/run"].data), "\n") {
		if list, ok := strings.CutPrefix(line, "need=("); ok {
			needed = strings.Fields(strings.TrimSuffix(list, ")"))
		}
	}
	if len(needed) == 0 {
		t.Fatal(".ci/run has no line need=(…)")
	}
	for _, f := range all {
		if !strings.HasSuffix(f.name, ".txtar") {
			continue
		}
		script, _, _ := strings.Cut(string(f.data), "\n-- ")
		for i, line := range strings.Split(script, "\n") {
			for strings.HasPrefix(line, "[") {
				condition, rest, ok := strings.Cut(line, "]")
				if !ok {
					break
				}
				if program, ok := strings.CutPrefix(condition, "[exec:"); ok && !slices.Contains(needed, program) {
					t.Errorf("%s:%d: left out without %s, which .ci/run does not need", f.name, i+1, program)
				}
				line = strings.TrimSpace(rest)
			}
			if line == "skip" || strings.HasPrefix(line, "skip ") {
				t.Errorf("%s:%d: a skip that .ci/run would not notice; use a condition or command of the script's that goes through testkit", f.name, i+1)
			}
		}
	}
}

package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/curfew-jit/curfew/"

// file is a file of the tree; ast is nil for what is not Go.
type file struct {
	name    string // from the module's folder, with slashes
	data    []byte
	ast     *ast.File
	imports []string
}

// pkg is the folder, which is also the package's path in the module.
func (f *file) pkg() string { return path.Dir(f.name) }

// test tells whether the file belongs to tests: _test.go, or a published helper of tests (enforcetest, testkit).
func (f *file) test() bool { return strings.HasSuffix(f.name, "_test.go") || testPackage(f.pkg()) }

func testPackage(pkg string) bool {
	base := path.Base(pkg)
	return base == "testkit" || strings.HasSuffix(base, "test") && base != "test"
}

var (
	fset = token.NewFileSet()
	tree = sync.OnceValues(readTree)
)

// readTree reads every file that git knows or would take; without git, every file.
func readTree() (map[string]*file, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	var names []string
	out, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err == nil && len(out) > 0 {
		names = strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	} else {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == ".git" {
				return filepath.SkipDir
			}
			if !d.IsDir() {
				rel, err := filepath.Rel(root, p)
				if err != nil {
					return err
				}
				names = append(names, filepath.ToSlash(rel))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	files := map[string]*file{}
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(n)))
		if os.IsNotExist(err) {
			continue // deleted and not yet committed
		}
		if err != nil {
			return nil, err
		}
		f := &file{name: n, data: data}
		if strings.HasSuffix(n, ".go") && !strings.Contains(n, "testdata/") {
			if f.ast, err = parser.ParseFile(fset, n, data, parser.ParseComments); err != nil {
				f.ast = nil // being written; TestGofmt reports it
			} else {
				for _, i := range f.ast.Imports {
					p, err := strconv.Unquote(i.Path.Value)
					if err != nil {
						return nil, err
					}
					f.imports = append(f.imports, p)
				}
			}
		}
		files[n] = f
	}
	return files, nil
}

// goFiles returns the Go files by package, the packages in order.
func goFiles(t *testing.T) (map[string][]*file, []string) {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	by := map[string][]*file{}
	for _, f := range all {
		if f.ast != nil {
			by[f.pkg()] = append(by[f.pkg()], f)
		}
	}
	if len(by) < 5 {
		t.Fatalf("only %d packages found: this test looks in the wrong place", len(by))
	}
	var names []string
	for n, fs := range by {
		slices.SortFunc(fs, func(a, b *file) int { return strings.Compare(a.name, b.name) })
		names = append(names, n)
	}
	slices.Sort(names)
	return by, names
}

// perPackage runs check on each package as a subtest of its own.
func perPackage(t *testing.T, check func(t *testing.T, pkg string, files []*file)) {
	t.Helper()
	by, names := goFiles(t)
	for _, n := range names {
		t.Run(n, func(t *testing.T) { check(t, n, by[n]) })
	}
}

// within tells whether pkg is at or below prefix.
func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// selector returns "time.Now" for a use of that name through an import, and the receiver's name for methods.
func selector(e ast.Expr) (string, bool) {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := s.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return x.Name + "." + s.Sel.Name, true
}

func at(n ast.Node) string { return fset.Position(n.Pos()).String() }

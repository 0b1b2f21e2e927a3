package archtest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// standard tells whether an import path is of the standard library: its first element has no dot.
func standard(p string) bool { return !strings.Contains(strings.Split(p, "/")[0], ".") }

// only lists the packages that import the standard library and nothing else but what stands here.
var only = map[string][]string{
	"internal/access": nil,
	"internal/clock":  nil,
	"internal/netsec": {"go4.org/netipx"},
	"internal/inert":  {},
	"internal/policy": {module + "internal/access", "go.yaml.in/yaml/v4", "cel.dev/cel-go/cel", "cel.dev/cel-go/common/cost", "cel.dev/cel-go/common/types",
		"cel.dev/cel-go/common/types/ref", "cel.dev/cel-go/common/types/traits", "cel.dev/cel-go/ext"},
}

// never lists what a package may not import, directly or by way of others of ours (DESIGN 9). A package that does not exist yet is
// held to its rule from its first day.
var never = map[string][]string{
	"internal/broker":    {"internal/server", "internal/web", "internal/cli", "internal/reconcile", "internal/client", "internal/sim"},
	"internal/scan":      {"internal/enforce", "internal/broker", "internal/fix", "internal/standalone"},
	"internal/fix":       {"internal/cli", "internal/reconcile", "internal/sim", "internal/store"},
	"internal/sim":       {"internal/netsec", "internal/scan", "internal/enforce", "internal/azure", "internal/broker", "internal/inventory"},
	"internal/cli":       {"internal/broker", "internal/server", "internal/store", "internal/azure"},
	"internal/client":    {"internal/broker", "internal/server", "internal/store", "internal/azure", "internal/cli"},
	"internal/enforce":   {"internal/broker", "internal/server", "internal/store", "internal/reconcile", "internal/sim"},
	"internal/audit":     {"internal/broker", "internal/server", "internal/store", "internal/azure"},
	"internal/azure":     {"internal/broker", "internal/server", "internal/store", "internal/enforce", "internal/netsec", "internal/sim"},
	"internal/reconcile": {"internal/server", "internal/cli", "internal/client", "internal/sim"},
	"internal/policy":    {"internal/broker", "internal/server", "internal/store", "internal/azure", "internal/sim", "internal/cli"},
	"internal/notify":    {"internal/broker", "internal/server", "internal/store", "internal/azure", "internal/cli", "internal/enforce"},
	"internal/slacksim":  {"internal/notify", "internal/broker", "internal/server", "internal/access"},
	"internal/identity":  {"internal/server", "internal/store", "internal/cli", "internal/client", "internal/enforce/nsg", "internal/sim", "internal/devissuer"},
	"internal/devissuer": {"internal/identity", "internal/server", "internal/broker", "internal/access", "internal/store", "internal/cli", "internal/client", "internal/azure"},
	"internal/server":    {"internal/cli", "internal/client", "internal/reconcile", "internal/sim", "internal/store"},
	"internal/store":     {"internal/server", "internal/cli", "internal/reconcile", "internal/enforce/nsg", "internal/sim"},
	"api":                {"internal/broker", "internal/server", "internal/client", "internal/cli", "internal/store", "internal/azure"},
}

// azureSDK may be imported by internal/azure alone; internal/deps keeps the module graph whole while packages are being written.
const azureSDK = "github.com/Azure/azure-sdk-for-go"

// The standard library alone, for the pure core.
func TestImportsOfTheCore(t *testing.T) {
	by, _ := goFiles(t)
	for pkg, extra := range only {
		t.Run(pkg, func(t *testing.T) {
			if len(by[pkg]) == 0 {
				t.Fatal("no such package")
			}
			for _, f := range by[pkg] {
				if f.test() {
					continue
				}
				for _, i := range f.imports {
					if !standard(i) && !slices.Contains(extra, i) {
						t.Errorf("%s imports %s; allowed are the standard library and %v", f.name, i, extra)
					}
				}
			}
		})
	}
}

func TestImportArrows(t *testing.T) {
	by, names := goFiles(t)
	direct := map[string][]string{}
	for pkg, files := range by {
		for _, f := range files {
			if f.test() {
				continue
			}
			for _, i := range f.imports {
				if own, ok := strings.CutPrefix(i, module); ok && !slices.Contains(direct[pkg], own) {
					direct[pkg] = append(direct[pkg], own)
				}
			}
		}
		slices.Sort(direct[pkg])
	}
	for _, pkg := range names {
		t.Run(pkg, func(t *testing.T) {
			for rule, forbidden := range never {
				if !within(pkg, rule) || testPackage(pkg) {
					continue
				}
				for _, bad := range forbidden {
					if way := find(direct, []string{pkg}, bad); way != nil {
						t.Errorf("%s may never import %s: %s", rule, bad, strings.Join(way, " imports "))
					}
				}
			}
			for _, f := range by[pkg] {
				for _, i := range f.imports {
					if own, ok := strings.CutPrefix(i, module); ok && testPackage(own) && !f.test() {
						t.Errorf("%s is shipped, and imports %s, which is for tests", f.name, own)
					}
					if within(i, azureSDK) && !within(pkg, "internal/azure") && pkg != "internal/deps" && !f.test() {
						t.Errorf("%s imports %s: only internal/azure knows the Azure SDK", f.name, i)
					}
				}
			}
		})
	}
}

// find returns the shortest chain of imports from the end of way to target or below it.
func find(direct map[string][]string, way []string, target string) []string {
	type step struct {
		pkg string
		way []string
	}
	seen := map[string]bool{}
	queue := []step{{way[0], way}}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, i := range direct[s.pkg] {
			if seen[i] {
				continue
			}
			seen[i] = true
			next := append(slices.Clone(s.way), i)
			if within(i, target) {
				return next
			}
			queue = append(queue, step{i, next})
		}
	}
	return nil
}

// The checks above would pass if they saw nothing; here they are shown what they must see.
func TestFindSees(t *testing.T) {
	g := map[string][]string{"a": {"b", "c"}, "b": {"c"}, "c": {"d/e", "a"}}
	for _, c := range []struct{ from, to, want string }{
		{"a", "d", "[a c d/e]"}, {"a", "d/e", "[a c d/e]"}, {"b", "b", "[b c a b]"}, {"d/e", "a", "[]"}, {"a", "x", "[]"},
	} {
		if got := fmt.Sprint(find(g, []string{c.from}, c.to)); got != c.want {
			t.Errorf("from %s to %s: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}

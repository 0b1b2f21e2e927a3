package azure_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/azure"
)

// Wildcards as Azure has them: any text, also across slashes, in any case. The slow reference is a regular expression.
func TestPermits(t *testing.T) {
	for pattern, c := range map[string]struct{ yes, no string }{
		"*":                        {"Microsoft.Network/x/read", ""},
		"*/read":                   {"Microsoft.Network/a/b/READ", "Microsoft.Network/a/readx"},
		"Microsoft.Network/*":      {"microsoft.network/a/write", "Microsoft.NetworkX/a/write"},
		"Microsoft.Network/*/read": {"Microsoft.Network/a/b/read", "Microsoft.Network/read"},
		"Microsoft.Network/a/read": {"microsoft.network/A/read", "Microsoft.Network/a/read/"},
	} {
		p := azure.Permission{Actions: []string{pattern}}
		if !p.Permits(c.yes) || c.no != "" && p.Permits(c.no) {
			t.Errorf("%s: %t for %s, %t for %s", pattern, p.Permits(c.yes), c.yes, p.Permits(c.no), c.no)
		}
	}
	if (azure.Permission{}).Permits("a/read") || (azure.Permission{Actions: []string{"*"}, NotActions: []string{"A/*"}}).Permits("a/read") {
		t.Error("what no role permits is permitted")
	}
	rapid.Check(t, func(rt *rapid.T) {
		text := func(label, signs string) string {
			return rapid.StringOfN(rapid.SampledFrom([]rune(signs)), 0, 9, -1).Draw(rt, label)
		}
		pattern, action := text("pattern", "aB/*"), text("action", "Ab/")
		re := regexp.MustCompile("(?i)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + "$")
		if got := (azure.Permission{Actions: []string{pattern}}).Permits(action); got != re.MatchString(action) {
			rt.Errorf("%q permits %q: %t", pattern, action, got)
		}
	})
}

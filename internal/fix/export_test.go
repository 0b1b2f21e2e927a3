package fix

import (
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// TestNeed is a need for tests of the pure part.
type TestNeed struct {
	Dest netip.Addr
	Port uint16
	Path netsec.Path
}

// Place puts denies for needs into a group, and says what is in the way of each that was not met.
func Place(n azure.NSG, needs []TestNeed, consents map[string]bool, now time.Time) (rules []azure.SecurityRule, changes []Change, why []string, gone []string) {
	g := newGroup(n, azure.IDName(n.ID), nil, consents, now)
	gs := groups{azure.Key(n.ID): g}
	for _, x := range needs {
		nd := need{what: "port", dest: x.Dest, port: x.Port, checks: []check{{x.Dest, x.Path, "a way"}}}
		o := gs.place(azure.Key(n.ID), nd)
		if o == nil {
			why = append(why, "")
		} else {
			why = append(why, o.why+" | "+o.next)
		}
	}
	return g.rules, g.changes(), why, g.gone
}

package az_test

import (
	"fmt"
	"testing"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

// observer sees Azure through az.
type observer struct{ c *cli }

func (o observer) on(t *testing.T) *cli {
	own := *o.c
	own.t = t
	return &own
}

func (o observer) Rules(t *testing.T) []simtest.Rule {
	t.Helper()
	list, _ := o.on(t).ok("network", "nsg", "rule", "list", "-g", "shop-web", "--nsg-name", "web-01-nsg", "--include-default").([]any)
	var out []simtest.Rule
	for _, r := range list {
		either := func(one, many string) (all []string) {
			if s, _ := at(r, one).(string); s != "" {
				all = append(all, s)
			}
			more, _ := at(r, many).([]any)
			for _, s := range more {
				all = append(all, fmt.Sprint(s))
			}
			return all
		}
		priority, _ := at(r, "priority").(float64)
		out = append(out, simtest.Rule{Name: fmt.Sprint(at(r, "name")), Priority: int(priority), Inbound: at(r, "direction") == "Inbound", Allow: at(r, "access") == "Allow",
			Protocol: fmt.Sprint(at(r, "protocol")), Sources: either("sourceAddressPrefix", "sourceAddressPrefixes"),
			Destinations: either("destinationAddressPrefix", "destinationAddressPrefixes"), Ports: either("destinationPortRange", "destinationPortRanges")})
	}
	return out
}

func (o observer) Etags(t *testing.T) map[string]string {
	t.Helper()
	list, _ := o.on(t).ok("network", "nsg", "list").([]any)
	out := map[string]string{}
	for _, g := range list {
		out[fmt.Sprint(at(g, "name"))] = fmt.Sprint(at(g, "etag"))
	}
	return out
}

// The story of the demo, seen by az: what Curfew says is open az sees, and nothing else (P1, P4). az talks to the demo's Azure itself,
// without a recorder between.
func TestStory(t *testing.T) {
	log := newTranscript(t, "az-story")
	d := simtest.StartDemo(t)
	c := newCLI(t, d.Azure, log)
	c.signIn(d.Azure)
	simtest.Story(t, d, observer{c})
}

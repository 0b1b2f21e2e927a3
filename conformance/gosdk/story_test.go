package gosdk_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/curfew-jit/curfew/conformance/simtest"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// observer sees Azure through the SDK.
type observer struct {
	groups *armnetwork.SecurityGroupsClient
}

func newObserver(t *testing.T, d *simtest.Demo) observer {
	s := signIn(t, d.Azure, nil)
	return observer{must[*armnetwork.SecurityGroupsClient](t)(armnetwork.NewSecurityGroupsClient(simtest.Shop, s.cred, s.options("")))}
}

func (o observer) Rules(t *testing.T) []simtest.Rule {
	t.Helper()
	g := must[armnetwork.SecurityGroupsClientGetResponse](t)(o.groups.Get(t.Context(), "shop-web", "web-01-nsg", nil))
	var out []simtest.Rule
	for _, r := range append(g.Properties.SecurityRules, g.Properties.DefaultSecurityRules...) {
		p := r.Properties
		either := func(one *string, many []*string) []string {
			var list []string
			if one != nil && *one != "" {
				list = append(list, *one)
			}
			for _, v := range many {
				list = append(list, *v)
			}
			return list
		}
		out = append(out, simtest.Rule{Name: *r.Name, Priority: int(*p.Priority), Inbound: *p.Direction == armnetwork.SecurityRuleDirectionInbound,
			Allow: *p.Access == armnetwork.SecurityRuleAccessAllow, Protocol: string(*p.Protocol), Sources: either(p.SourceAddressPrefix, p.SourceAddressPrefixes),
			Destinations: either(p.DestinationAddressPrefix, p.DestinationAddressPrefixes), Ports: either(p.DestinationPortRange, p.DestinationPortRanges)})
	}
	return out
}

func (o observer) Etags(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, g := range all(t, o.groups.NewListAllPager(nil), func(p armnetwork.SecurityGroupsClientListAllResponse) []*armnetwork.SecurityGroup { return p.Value }) {
		out[*g.Name] = *g.Etag
	}
	return out
}

// The story of the demo, seen by a client that Curfew knows nothing of (P1, P4).
func TestStory(t *testing.T) {
	t.Parallel()
	d := simtest.StartDemo(t)
	simtest.Story(t, d, newObserver(t, d))
}

// A window to its end (P2).
func TestWindow(t *testing.T) {
	testkit.RequireLong(t)
	t.Parallel()
	d := simtest.StartDemo(t)
	simtest.Window(t, d, newObserver(t, d))
}

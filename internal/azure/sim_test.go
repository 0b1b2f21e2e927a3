package azure_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

const (
	subID = "00000000-0000-0000-0000-00000000000a"
	group = "/subscriptions/" + subID + "/resourceGroups/Shop"
	nsgID = group + "/providers/Microsoft.Network/networkSecurityGroups/web-nsg"
	nicID = group + "/providers/Microsoft.Network/networkInterfaces/web-nic"
)

// estate holds one group with members that our types do not know, in the group, its properties, a rule and its properties.
const estate = `{"resources":[
 {"id":"` + group + `","location":"westeurope"},
 {"id":"` + nsgID + `","type":"Microsoft.Network/networkSecurityGroups","name":"web-nsg","location":"westeurope",
  "tags":{"owner":"shop","cost center":"<4711> & more"},
  "properties":{"flushConnection":true,"futureSetting":{"a":[1,2.50,"x"],"b":null},
   "securityRules":[
    {"name":"AllowWeb","properties":{"priority":300,"direction":"Inbound","access":"Allow","protocol":"Tcp","sourcePortRange":"*",
      "sourceAddressPrefix":"Internet","destinationAddressPrefix":"*","destinationPortRanges":["80","443"],"futureRuleField":"kept"}},
    {"name":"AllowOffice","properties":{"priority":310,"direction":"Inbound","access":"Allow","protocol":"*","sourcePortRange":"*",
      "sourceAddressPrefixes":["198.51.100.0/24","203.0.113.7"],"destinationAddressPrefix":"10.0.0.4","destinationPortRange":"8080"}}]}},
 {"id":"` + group + `/providers/Microsoft.Network/virtualNetworks/net","name":"net","location":"westeurope",
  "properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},"subnets":[{"name":"default","properties":{"addressPrefix":"10.0.0.0/24"}}]}},
 {"id":"` + nicID + `","type":"Microsoft.Network/networkInterfaces","name":"web-nic","location":"westeurope",
  "properties":{"enableAcceleratedNetworking":true,"futureNIC":{"x":1},"ipConfigurations":[{"name":"ipconfig1","properties":{"primary":true,
   "privateIPAddress":"10.0.0.4","privateIPAllocationMethod":"Static","subnet":{"id":"` + group + `/providers/Microsoft.Network/virtualNetworks/net/subnets/default"}}}]}}
]}`

func newSim(t *testing.T, cfg sim.Config) *sim.Sim {
	t.Helper()
	if cfg.Estate == nil {
		cfg.Estate = []byte(estate)
	}
	s, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// transport is an http.RoundTripper as a function.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// attempts records the writes that left.
type attempts struct {
	mu  sync.Mutex
	all []string
}

func (a *attempts) add(method, url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, method+" "+url[strings.LastIndexByte(url, '/')+1:])
}

func (a *attempts) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.all, ", ")
}

func newClient(t *testing.T, token string, rt http.RoundTripper, change ...func(*azure.Options)) *azure.Client {
	t.Helper()
	o := azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(token), Transport: &http.Client{Transport: rt}}
	for _, f := range change {
		f(&o)
	}
	c, err := azure.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func simClient(t *testing.T, s *sim.Sim, change ...func(*azure.Options)) *azure.Client {
	t.Helper()
	return newClient(t, s.Token(), s.Transport(), change...)
}

func fault(t *testing.T, s *sim.Sim, f sim.Fault) {
	t.Helper()
	if _, err := s.Fault(f); err != nil {
		t.Fatal(err)
	}
}

func readNSG(t *testing.T, c *azure.Client) azure.NSG {
	t.Helper()
	n, err := c.NSG(t.Context(), nsgID)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func allow(name string, priority int) azure.SecurityRule {
	return azure.SecurityRule{Name: name, Priority: priority, Direction: "Inbound", Access: "Allow", Protocol: "Tcp",
		SourcePrefixes: []string{"198.51.100.7"}, DestinationPrefixes: []string{"10.0.0.4"}, DestinationPorts: []string{"22"}}
}

// plus is the group with one more rule.
func plus(n azure.NSG, name string, priority int) azure.NSG {
	return n.WithRules(append(append([]azure.SecurityRule{}, n.Rules...), allow(name, priority)))
}

func ruleNames(t *testing.T, s *sim.Sim) string {
	t.Helper()
	body, ok := s.Get(nsgID)
	if !ok {
		t.Fatal("the group is gone")
	}
	var n azure.NSG
	if err := json.Unmarshal(body, &n); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range n.Rules {
		names = append(names, r.Name)
	}
	return strings.Join(names, " ")
}

func wantClass(t *testing.T, err error, want azure.Class) {
	t.Helper()
	if got := azure.Classify(err); got != want {
		t.Fatalf("got class %q, want %q: %v", got, want, err)
	}
}

func wantIn(t *testing.T, what string, got fmt.Stringer, want string) {
	t.Helper()
	if got.String() != want {
		t.Fatalf("%s: got %s, want %s", what, got, want)
	}
}

const slack = 50 * time.Millisecond

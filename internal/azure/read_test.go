package azure_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

func manyVMs(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"resources":[{"id":"` + group + `","location":"westeurope"}`)
	for i := range n {
		fmt.Fprintf(&b, `,{"id":"%s/providers/Microsoft.Compute/virtualMachines/vm-%04d","name":"vm-%04d","type":"Microsoft.Compute/virtualMachines",
"location":"westeurope","properties":{"vmId":"id-%d","storageProfile":{"osDisk":{"osType":"Linux"}},"networkProfile":{"networkInterfaces":[]}}}`, group, i, i, i)
	}
	b.WriteString("]}")
	return []byte(b.String())
}

func TestListsReadEveryPage(t *testing.T) {
	s := newSim(t, sim.Config{Estate: manyVMs(7), PageSize: 2})
	c := simClient(t, s)
	vms, err := c.ListVMs(t.Context(), subID)
	if err != nil || len(vms) != 7 {
		t.Fatalf("got %d, %v", len(vms), err)
	}
	subs, err := c.Subscriptions(t.Context())
	if err != nil || len(subs) != 1 || subs[0].SubscriptionID != subID {
		t.Fatalf("got %+v, %v", subs, err)
	}
	vm, err := c.VM(t.Context(), strings.ToUpper(vms[0].ID))
	if err != nil || vm.PowerState() == "" || vm.Properties.VMID == "" {
		t.Fatalf("got %+v, %v", vm, err)
	}
}

func TestGraphReadsEveryPageWithinItsQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{Estate: manyVMs(15_500), GraphQuota: true})
		c := simClient(t, s)
		start, ids := time.Now(), map[string]bool{}
		for row, err := range c.Graph(t.Context(), []string{subID}, "resources | project id, name | order by id asc") {
			if err != nil {
				t.Fatal(err)
			}
			var v struct{ ID string }
			if err := json.Unmarshal(row, &v); err != nil {
				t.Fatal(err)
			}
			ids[v.ID] = true
		}
		if len(ids) != 15_500 {
			t.Errorf("got %d rows", len(ids))
		}
		if took := time.Since(start); took < 5*time.Second || took > 12*time.Second { // 16 pages, 15 in five seconds
			t.Errorf("took %s", took)
		}
		for _, r := range s.Requests() {
			if r.Status == http.StatusTooManyRequests {
				t.Fatal("the quota was overrun, although its header said so")
			}
		}
	})
}

func TestGraphWaitsWhenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{Estate: manyVMs(3), GraphQuota: true})
		other, c := simClient(t, s), simClient(t, s)
		run := func(c *azure.Client) {
			t.Helper()
			for _, err := range c.Graph(t.Context(), nil, "resources | project id") {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 15 { // somebody else under the same identity uses the quota up
			run(other)
		}
		start := time.Now()
		run(c)
		if took := time.Since(start); took < 4*time.Second || took > 8*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// P10: an answer that was cut off is no short list.
func TestGraphThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, body := range map[string]string{
			"truncated": `{"data":[{"id":"/a"}],"resultTruncated":"true"}`,
			"same page": `{"data":[{"id":"/a"}],"$skipToken":"x"}`,
		} {
			c := newClient(t, "t", answer(200, body))
			failed := false
			for _, err := range c.Graph(t.Context(), nil, "resources") {
				failed = failed || err != nil
			}
			if !failed {
				t.Errorf("%s: no error", name)
			}
		}
		c := newClient(t, "t", answer(200, `{"data":[]}`, "x-ms-tenant-subscription-limit-hit", "true"))
		for _, err := range c.Graph(t.Context(), nil, "resources") {
			if err == nil {
				t.Error("an answer over part of the tenant was taken for the whole")
			}
		}
	})
}

// The token goes to Azure alone.
func TestLinksStayAtAzure(t *testing.T) {
	for _, link := range []string{"https://evil.example/next", "http://management.azure.com/next", "https://management.azure.com.evil.example/",
		"https://evilmanagement.azure.com/", "https://management.azure.com:444/", "//evil.example/x"} {
		synctest.Test(t, func(t *testing.T) {
			hosts := map[string]bool{}
			rt := transport(func(r *http.Request) (*http.Response, error) {
				hosts[r.URL.Host] = true
				if r.Method == http.MethodDelete {
					return answer(202, "", "Location", link)(r)
				}
				return answer(200, `{"value":[],"nextLink":"`+link+`"}`)(r)
			})
			c := newClient(t, "t", rt)
			if _, err := c.ListVMs(t.Context(), subID); err == nil {
				t.Errorf("%s was followed", link)
			}
			if err := c.DeleteRule(t.Context(), nsgID, "x"); azure.Classify(err) != azure.UnknownOutcome {
				t.Errorf("%s: %v", link, err)
			}
			if len(hosts) != 1 || !hosts["management.azure.com"] {
				t.Errorf("sent to %v", hosts)
			}
		})
	}
	c := newClient(t, "t", transport(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/page2" {
			return answer(200, `{"value":[]}`)(r)
		}
		return answer(200, `{"value":[],"nextLink":"https://westeurope.management.azure.com/page2"}`)(r)
	}))
	if _, err := c.ListVMs(t.Context(), subID); err != nil {
		t.Errorf("a regional name of Azure's was refused: %v", err)
	}
}

func TestAdminRulesOfANetworkWithoutAManager(t *testing.T) {
	s := newSim(t, sim.Config{})
	c := simClient(t, s)
	for _, id := range []string{group + "/providers/Microsoft.Network/virtualNetworks/net", group + "/providers/Microsoft.Network/virtualNetworks/gone"} {
		if rules, err := c.AdminRules(t.Context(), id); err != nil || len(rules) != 0 {
			t.Errorf("%s: %v, %v", id, rules, err)
		}
	}
}

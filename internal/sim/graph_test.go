package sim_test

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const graphPath = "/providers/Microsoft.ResourceGraph/resources"

func TestGraphQueries(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo()})
	for query, want := range map[string]string{
		"Resources | where type =~ 'Microsoft.Network/bastionHosts' | project name":                                                                                                   "shop-bastion",
		"resources | where type in~ ('microsoft.network/bastionhosts', 'Microsoft.Network/loadBalancers') | project id, name | order by name asc":                                     "reports-lb shop-bastion",
		"Resources | where type == 'microsoft.compute/virtualmachines' and name startswith 'WEB-' | order by name | project name":                                                     "web-03 web-02 web-01",
		"Resources | where type == 'Microsoft.Compute/virtualMachines' | project name":                                                                                                "",
		"Resources | where type =~ 'microsoft.compute/virtualmachines' and (name == 'payroll' or name contains 'FAX') | sort by name asc | project name":                              "fax-gateway payroll",
		"Resources | where type =~ 'microsoft.compute/virtualmachines' | where properties.storageProfile.osDisk.osType =~ 'windows' | project name":                                   "payroll",
		"Resources | where type =~ 'microsoft.compute/virtualmachines' and properties.extended.instanceView.powerState.code !~ 'PowerState/running' | project name, rg=resourceGroup": "build-01",
		"Resources | where type =~ 'microsoft.compute/virtualmachines' and isnotempty(managedBy) | project name":                                                                      "aks-system-31582749-0",
		"Resources | where tags.shows has 'windows' // a comment\n| extend n = tolower(name) | project name = n":                                                                      "payroll",
		"Resources | where type =~ 'microsoft.network/networkinterfaces' and properties.ipConfigurations[0].properties.privateIPAddress == '10.10.1.11' | project name":               "web-01-nic",
		"resourcecontainers | where type == 'microsoft.resources/subscriptions' | order by name asc | project name":                                                                   "Contoso Lab Contoso Shop",
		"resourcecontainers | where type =~ 'Microsoft.Resources/subscriptions/resourceGroups' and name !has 'shop' | top 2 by name asc | project name":                               "MC_lab_field_northeurope back-office", // order is by bytes
		"computeresources | project name | order by name asc":                                                                                                                         "render_0 render_1",
	} {
		r := a.do(200, "POST", graphPath, map[string]any{"query": query})
		var names []string
		for _, row := range list(r.body["data"]) {
			names = append(names, fmt.Sprint(at(row, "name")))
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", query, got, want)
		}
	}
	r := a.do(200, "POST", graphPath, map[string]any{"query": "Resources | where type =~ 'microsoft.compute/virtualmachines' | count"})
	if got := at(r.body, "data", 0, "Count"); got != float64(len(a.s.IDs("Microsoft.Compute/virtualMachines"))) {
		t.Errorf("got %v machines", got)
	}
	r = a.do(200, "POST", graphPath, map[string]any{"query": "Resources | where name == 'web-01'", "subscriptions": []string{estates.DemoShop}})
	row, _ := at(r.body, "data", 0).(map[string]any)
	var columns []string
	for c := range row {
		columns = append(columns, c)
	}
	sort.Strings(columns)
	if got, want := strings.Join(columns, " "), "extendedLocation id identity kind location managedBy name plan properties resourceGroup sku subscriptionId tags tenantId type zones"; got != want {
		t.Errorf("got columns %q, want %q", got, want)
	}
	if row["type"] != "microsoft.compute/virtualmachines" || row["resourceGroup"] != "shop-web" || row["subscriptionId"] != estates.DemoShop {
		t.Errorf("got %v", row)
	}
	if r := a.do(200, "POST", graphPath, map[string]any{"query": "Resources | where name == 'web-01'", "subscriptions": []string{estates.DemoLab}}); r.body["count"] != 0.0 {
		t.Errorf("got %s from the other subscription", r.raw)
	}
	for _, bad := range []string{"Resources | join (x) on id", "Resources | where", "Resources | where name ==", "NoSuchTable | project id", "Resources | summarize count()",
		"Resources | where nosuch(name)", "Resources | where name == 'a", "Resources | project", "Resources | take many", "Resources; drop"} {
		a.fails(400, "BadRequest", "POST", graphPath, map[string]any{"query": bad})
	}
	a.fails(400, "BadRequest", "POST", graphPath, map[string]any{"query": "Resources", "options": map[string]any{"$top": 1001}})
}

func TestGraphPaging(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo()})
	query := func(q string, options map[string]any) reply {
		return a.do(200, "POST", graphPath, map[string]any{"query": q, "options": options})
	}
	vms := "Resources | where type =~ 'microsoft.compute/virtualmachines' | order by id asc"
	seen := map[string]bool{}
	token, pages := "", 0
	for {
		o := map[string]any{"$top": 4}
		if token != "" {
			o["$skipToken"] = token
		}
		r := query(vms, o)
		pages++
		for _, row := range list(r.body["data"]) {
			seen[at(row, "id").(string)] = true
		}
		token, _ = r.body["$skipToken"].(string)
		if token == "" {
			break
		}
	}
	if n := len(a.s.IDs("Microsoft.Compute/virtualMachines")); len(seen) != n || pages != (n+3)/4 {
		t.Errorf("got %d machines on %d pages, want %d", len(seen), pages, n)
	}
	r := query(vms+" | project name", map[string]any{"$top": 4})
	if _, ok := r.body["$skipToken"]; ok || r.body["resultTruncated"] != "true" {
		t.Errorf("got %s: without id there is no token, and the result is cut", r.raw)
	}
}

func TestGraphQuota(t *testing.T) {
	a := newAz(t, sim.Config{GraphQuota: true})
	body := map[string]any{"query": "Resources | project id"}
	for i := range 15 {
		if got := a.do(200, "POST", graphPath, body).header.Get("X-Ms-User-Quota-Remaining"); got != fmt.Sprint(14-i) {
			t.Errorf("query %d: got %q left", i, got)
		}
	}
	r := a.do(429, "POST", graphPath, body)
	if got := r.header.Get("X-Ms-User-Quota-Resets-After"); !strings.HasPrefix(got, "00:00:0") {
		t.Errorf("got resets-after %q", got)
	}
	if r.header.Get(http.CanonicalHeaderKey("X-Ms-User-Quota-Remaining")) != "0" {
		t.Errorf("got %v", r.header)
	}
}

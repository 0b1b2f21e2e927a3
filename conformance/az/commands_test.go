package az_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

// Every command that works with Debian's azure-cli on the profile of 2020. Operations are over at once, except where that is the point:
// az looks again only after half a minute.
func TestCommands(t *testing.T) {
	log := newTranscript(t, "az")
	rec := simtest.NewRecorder(t, filepath.Join(filepath.Dir(log.file.Name()), "traffic"))
	a := rec.Between(simtest.Sim(t))
	a.Settle("0s")
	c := newCLI(t, a, log)

	c.signIn(a)
	// The poll of an operation that takes a while runs beside all the rest.
	a.Control("POST", "faults", `{"method":"PUT","pathPattern":"networkSecurityGroups/patient-nsg$","count":1,"kind":"operation-stuck","delay":"5s"}`)
	slow := make(chan string, 1)
	go func(c *cli) {
		began := time.Now()
		out, errs, code := c.run("network", "nsg", "create", "-g", "shop-web", "-n", "patient-nsg", "-l", "westeurope")
		if code != 0 || !strings.Contains(out, `"Succeeded"`) {
			slow <- fmt.Sprintf("exit %d after %s: %s%s", code, time.Since(began), out, errs)
		}
		close(slow)
	}(c.copied(t))

	for _, part := range []struct {
		name string
		run  func(*cli)
	}{{"account", account}, {"vm", machines}, {"network", network}, {"vmss", scaleSets}, {"resources", resources}, {"jit and rest", func(c *cli) { rest(c, a) }}} {
		t.Run(part.name, func(t *testing.T) {
			own := *c
			own.t = t
			part.run(&own)
		})
	}
	if failed := <-slow; failed != "" {
		t.Error("a group whose creation takes five seconds: ", failed)
	}
	t.Run("wrong secret", func(t *testing.T) {
		other := newCLI(t, a, log)
		other.ok("cloud", "register", "-n", "SimCloud", "--profile", "2020-09-01-hybrid", "--endpoint-resource-manager", a.URL, "--endpoint-active-directory", a.URL+"/adfs",
			"--endpoint-active-directory-resource-id", a.URL+"/", "--endpoint-active-directory-graph-resource-id", a.URL+"/graph")
		other.ok("cloud", "set", "-n", "SimCloud")
		other.fails(1, "AADSTS7000215", "login", "--service-principal", "-u", simtest.ClientID, "-p", "not-it", "--tenant", simtest.Tenant)
	})
	t.Run("oav", func(t *testing.T) { simtest.Validate(t, rec.Dir(), "az") })
}

func account(c *cli) {
	if got := c.ok("account", "show"); at(got, "id") != simtest.Shop || at(got, "user", "name") != simtest.ClientID || at(got, "tenantId") != simtest.Tenant {
		c.t.Errorf("account: %v", got)
	}
	if got := texts(c.ok("account", "list"), "name"); !has(got, "Contoso Shop") || !has(got, "Contoso Lab") {
		c.t.Errorf("accounts: %v", got)
	}
	if got := texts(c.ok("account", "list-locations"), "name"); !has(got, "westeurope") {
		c.t.Errorf("locations: %v", got)
	}
	if got := c.ok("account", "get-access-token"); at(got, "accessToken") == nil || at(got, "tenant") != simtest.Tenant {
		c.t.Errorf("no access token for %s", at(got, "tenant"))
	}
}

func machines(c *cli) {
	web := []string{"-g", "shop-web", "-n", "web-01"}
	vm := func(args ...string) any { c.t.Helper(); return c.ok(append([]string{"vm"}, args...)...) }
	if got := texts(vm("list"), "name"); len(got) < 10 || !has(got, "web-01") {
		c.t.Errorf("machines: %v", got)
	}
	got := vm(append([]string{"show", "-d"}, web...)...)
	if at(got, "powerState") != "VM running" || at(got, "publicIps") != "198.51.100.11" || at(got, "privateIps") != "10.10.1.11" {
		c.t.Errorf("web-01: %v %v %v", at(got, "powerState"), at(got, "publicIps"), at(got, "privateIps"))
	}
	c.fails(3, "ResourceNotFound", "vm", "show", "-g", "shop-web", "-n", "nobody")
	if got := vm(append([]string{"get-instance-view"}, web...)...); !strings.Contains(fmt.Sprint(at(got, "instanceView", "statuses")), "PowerState/running") {
		c.t.Errorf("instance view: %v", got)
	}
	if got := vm(append([]string{"list-ip-addresses"}, web...)...); at(got, 0, "virtualMachine", "network", "publicIpAddresses", 0, "ipAddress") != "198.51.100.11" {
		c.t.Errorf("addresses: %v", got)
	}
	if got := vm(append([]string{"update", "--set", "tags.team=web"}, web...)...); at(got, "tags", "team") != "web" {
		c.t.Errorf("updated: %v", at(got, "tags"))
	}
	for _, s := range [][2]string{{"deallocate", "VM deallocated"}, {"start", "VM running"}} {
		vm(append([]string{s[0]}, web...)...)
		if got := vm(append([]string{"show", "-d"}, web...)...); at(got, "powerState") != s[1] {
			c.t.Errorf("after %s: %v", s[0], at(got, "powerState"))
		}
	}
	if got := vm(append([]string{"run-command", "invoke", "--command-id", "RunShellScript", "--scripts", "id"}, web...)...); at(got, "value", 0, "code") == nil {
		c.t.Errorf("run-command: %v", got)
	}
	// This one sends "allow" and "inbound" in lower case.
	vm(append([]string{"open-port", "--port", "8080", "--priority", "910"}, web...)...)
	if got := ruleOf(c, "web-01-nsg", "open-port-8080"); at(got, "access") != "Allow" || at(got, "direction") != "Inbound" || at(got, "destinationPortRange") != "8080" {
		c.t.Errorf("the opened port's rule: %v", got)
	}
}

func ruleOf(c *cli, group, name string) any {
	c.t.Helper()
	list, _ := c.ok("network", "nsg", "rule", "list", "-g", "shop-web", "--nsg-name", group).([]any)
	for _, r := range list {
		if at(r, "name") == name {
			return r
		}
	}
	return nil
}

func network(c *cli) {
	nsg := func(args ...string) any { c.t.Helper(); return c.ok(append([]string{"network", "nsg"}, args...)...) }
	if got := nsg("create", "-g", "shop-web", "-n", "by-az", "-l", "westeurope", "--tags", "a=b"); at(got, "NewNSG", "provisioningState") != "Succeeded" || at(got, "NewNSG", "tags", "a") != "b" {
		c.t.Errorf("made: %v", got)
	}
	if got := texts(nsg("list", "-g", "shop-web"), "name"); !has(got, "by-az") || !has(got, "web-01-nsg") {
		c.t.Errorf("groups: %v", got)
	}
	made := nsg("rule", "create", "-g", "shop-web", "--nsg-name", "by-az", "-n", "ssh", "--priority", "300", "--access", "Allow", "--protocol", "Tcp",
		"--source-address-prefixes", "203.0.113.9", "203.0.113.64/26", "--destination-port-ranges", "22", "8022")
	if at(made, "priority") != 300.0 || at(made, "provisioningState") != "Succeeded" || fmt.Sprint(at(made, "sourceAddressPrefixes")) != "[203.0.113.9 203.0.113.64/26]" {
		c.t.Errorf("rule: %v", made)
	}
	nsg("rule", "create", "-g", "shop-web", "--nsg-name", "by-az", "-n", "ssh", "--priority", "310", "--access", "Deny", "--protocol", "Tcp", "--destination-port-ranges", "22")
	if got := ruleOf(c, "by-az", "ssh"); at(got, "priority") != 310.0 || at(got, "access") != "Deny" {
		c.t.Errorf("the rule after it was put again: %v", got)
	}
	c.fails(1, "SecurityRuleConflict", "network", "nsg", "rule", "create", "-g", "shop-web", "--nsg-name", "by-az", "-n", "other", "--priority", "310", "--access", "Allow", "--destination-port-ranges", "22")
	nsg("rule", "delete", "-g", "shop-web", "--nsg-name", "by-az", "-n", "ssh")
	if got := ruleOf(c, "by-az", "ssh"); got != nil {
		c.t.Errorf("the rule after it was deleted: %v", got)
	}
	nsg("rule", "delete", "-g", "shop-web", "--nsg-name", "by-az", "-n", "ssh") // gone is gone
	c.fails(1, "InUseNetworkSecurityGroupCannotBeDeleted", "network", "nsg", "delete", "-g", "shop-web", "-n", "web-01-nsg")
	nsg("delete", "-g", "shop-web", "-n", "by-az")
	if got := texts(nsg("list", "-g", "shop-web"), "name"); has(got, "by-az") {
		c.t.Errorf("groups after one was deleted: %v", got)
	}
	if got := texts(c.ok("network", "nic", "list", "-g", "shop-web"), "name"); len(got) < 3 {
		c.t.Errorf("interfaces: %v", got)
	}
	if got := texts(c.ok("network", "public-ip", "list", "-g", "shop-web"), "ipAddress"); !has(got, "198.51.100.11") {
		c.t.Errorf("public addresses: %v", got)
	}
	if got := texts(c.ok("network", "vnet", "list", "-g", "shop-network"), "name"); !has(got, "shop-vnet") {
		c.t.Errorf("networks: %v", got)
	}
}

func scaleSets(c *cli) {
	set := []string{"-g", "shop-orders", "-n", "render"}
	if got := texts(c.ok("vmss", "list"), "name"); !has(got, "render") {
		c.t.Errorf("scale sets: %v", got)
	}
	before := c.ok(append([]string{"vmss", "show"}, set...)...)
	if got := texts(c.ok(append([]string{"vmss", "list-instances"}, set...)...), "instanceId"); len(got) != 2 {
		c.t.Errorf("instances: %v", got)
	}
	// This is a PUT of the whole model, without what az does not know of it.
	c.ok(append([]string{"vmss", "update", "--enable-terminate-notification", "true", "--terminate-notification-time", "10"}, set...)...)
	after := c.ok(append([]string{"vmss", "show"}, set...)...)
	notice := at(after, "virtualMachineProfile", "scheduledEventsProfile", "terminateNotificationProfile")
	if at(notice, "enable") != true || at(notice, "notBeforeTimeout") != "PT10M" {
		c.t.Errorf("notification: %v", notice)
	}
	for _, kept := range [][]any{{"uniqueId"}, {"sku", "capacity"}, {"virtualMachineProfile", "storageProfile", "imageReference", "sku"}, {"virtualMachineProfile", "networkProfile", "networkInterfaceConfigurations", 0, "name"}} {
		if b, a := at(before, kept...), at(after, kept...); fmt.Sprint(b) != fmt.Sprint(a) || b == nil {
			c.t.Errorf("%v: %v, then %v", kept, b, a)
		}
	}
}

func resources(c *cli) {
	id := "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-web/providers/Microsoft.Network/networkSecurityGroups/web-01-nsg"
	if got := texts(c.ok("resource", "list", "--resource-type", "Microsoft.Compute/virtualMachines"), "name"); !has(got, "web-01") {
		c.t.Errorf("resources: %v", got)
	}
	if got := c.ok("resource", "show", "--ids", id); at(got, "name") != "web-01-nsg" || at(got, "properties", "securityRules") == nil {
		c.t.Errorf("resource: %v", got)
	}
	if got := texts(c.ok("group", "list"), "name"); !has(got, "shop-web") {
		c.t.Errorf("groups: %v", got)
	}
	if got := c.ok("group", "show", "-n", "shop-web"); at(got, "location") != "westeurope" {
		c.t.Errorf("group: %v", got)
	}
	c.fails(3, "ResourceGroupNotFound", "group", "show", "-n", "nowhere")
}

// Just-in-time access, which az can list but neither configure nor ask for, and Resource Graph, whose extension is not installed.
func rest(c *cli, a *simtest.Azure) {
	file := func(name, body string) string {
		f := filepath.Join(c.t.TempDir(), name)
		if err := os.WriteFile(f, []byte(body), 0o600); err != nil {
			c.t.Fatal(err)
		}
		return "@" + f
	}
	vm := "/subscriptions/" + simtest.Shop + "/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines/web-01"
	policy := "/subscriptions/{subscriptionId}/resourceGroups/shop-web/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"
	if got := texts(c.ok("security", "jit-policy", "list"), "resourceGroup"); has(got, "shop-web") {
		c.t.Errorf("policies: %v", got)
	}
	c.ok("rest", "-m", "put", "-u", "/subscriptions/{subscriptionId}/providers/Microsoft.Security/pricings/VirtualMachines?api-version=2024-01-01",
		"-b", file("plan.json", `{"properties":{"pricingTier":"Standard","subPlan":"P2"}}`))
	put := c.ok("rest", "-m", "put", "-u", policy+"?api-version=2020-01-01", "-b", file("policy.json", `{"kind":"Basic","properties":{"virtualMachines":[{"id":"`+vm+
		`","ports":[{"number":22,"protocol":"*","allowedSourceAddressPrefix":"*","maxRequestAccessDuration":"PT3H"}]}]}}`))
	if at(put, "properties", "provisioningState") != "Succeeded" {
		c.t.Errorf("policy: %v", put)
	}
	if got := texts(c.ok("security", "jit-policy", "list"), "resourceGroup"); !has(got, "shop-web") {
		c.t.Errorf("policies: %v", got)
	}
	if got := c.ok("security", "jit-policy", "show", "-g", "shop-web", "-l", "westeurope", "-n", "default"); at(got, "virtualMachines", 0, "ports", 0, "number") != 22.0 {
		c.t.Errorf("policy: %v", got)
	}
	asked := c.ok("rest", "-m", "post", "-u", policy+"/initiate?api-version=2020-01-01", "-b", file("ask.json", `{"justification":"INC-4711","virtualMachines":[{"id":"`+vm+
		`","ports":[{"number":22,"allowedSourceAddressPrefix":"203.0.113.9","endTimeUtc":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}]}]}`))
	if at(asked, "virtualMachines", 0, "ports", 0, "status") != "Initiated" {
		c.t.Errorf("asked: %v", asked)
	}
	open := 0
	rules, _ := c.ok("network", "nsg", "rule", "list", "-g", "shop-web", "--nsg-name", "web-01-nsg").([]any)
	for _, r := range rules {
		if at(r, "access") == "Allow" && at(r, "sourceAddressPrefix") == "203.0.113.9" {
			open++
		}
	}
	if open != 1 {
		c.t.Errorf("%d rules open the port to the address that asked", open)
	}
	graph := c.ok("rest", "-m", "post", "-u", a.URL+"/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01",
		"-b", file("query.json", `{"subscriptions":["`+simtest.Shop+`"],"query":"Resources | where type =~ 'microsoft.compute/virtualmachines' | project id, name"}`))
	if got := texts(at(graph, "data"), "name"); !has(got, "web-01") || float64(len(got)) != at(graph, "count") {
		c.t.Errorf("Resource Graph: %v", graph)
	}
	if got := c.ok("rest", "-u", "/subscriptions/{subscriptionId}/resourceGroups?api-version=2021-04-01"); !has(texts(at(got, "value"), "name"), "shop-web") {
		c.t.Errorf("groups by rest: %v", got)
	}
}

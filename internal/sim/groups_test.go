package sim_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/sim"
)

func TestDeleteGroup(t *testing.T) {
	a := newAz(t, sim.Config{OperationDelay: time.Minute, RetryAfter: 2 * time.Second})
	a.net()
	other := sub + "/resourceGroups/Other"
	a.do(201, "PUT", other, map[string]any{"location": "westeurope"})
	inside := group + "/providers/Microsoft.Network/publicIPAddresses/p1"
	a.do(201, "PUT", inside, map[string]any{"location": "westeurope"})
	outside := other + "/providers/Microsoft.Network/publicIPAddresses/p2"
	a.do(201, "PUT", outside, map[string]any{"location": "westeurope"})
	a.s.Advance(time.Minute)

	// A lock on anything in it refuses at once, and nothing is gone.
	lock := inside + "/providers/Microsoft.Authorization/locks/keep"
	a.do(201, "PUT", lock, map[string]any{"properties": map[string]any{"level": "CanNotDelete"}})
	a.fails(409, "ScopeLocked", "DELETE", group, nil)
	a.do(200, "DELETE", lock, nil)

	r := a.do(202, "DELETE", strings.ToUpper(group[:15])+group[15:], nil)
	poll := r.header.Get("Location")
	if !strings.HasPrefix(poll, "https://management.azure.com/subscriptions/") || r.header.Get("Azure-AsyncOperation") != "" {
		t.Fatalf("got headers %v", r.header)
	}
	if got := a.do(200, "GET", group, nil); at(got.body, "properties", "provisioningState") != "Deleting" {
		t.Errorf("got %s", got.raw)
	}
	if got := a.do(202, "GET", poll, nil); got.header.Get("Retry-After") != "2" || got.header.Get("Location") == "" || len(got.raw) > 0 {
		t.Errorf("got headers %v, body %s", got.header, got.raw)
	}
	a.do(404, "GET", strings.Replace(poll, "&s=", "&s=0", 1), nil)
	a.s.Advance(time.Minute)
	if got := a.do(200, "GET", poll, nil); len(got.raw) > 0 {
		t.Errorf("got %s", got.raw)
	}
	a.fails(404, "ResourceGroupNotFound", "GET", group, nil)
	a.fails(404, "ResourceGroupNotFound", "DELETE", group, nil)
	a.do(404, "GET", inside, nil)
	a.do(200, "GET", outside, nil)
	if strings.Contains(string(a.s.Dump()), "/resourceGroups/Shop") {
		t.Error("the dump still holds things of the group")
	}
}

// A group that holds what others use is not deleted; it goes on as it was.
func TestDeleteGroupInUse(t *testing.T) {
	a := newAz(t, sim.Config{})
	other := sub + "/resourceGroups/Other"
	a.do(201, "PUT", other, map[string]any{"location": "westeurope"})
	v := other + "/providers/Microsoft.Network/virtualNetworks/v"
	a.do(201, "PUT", nsgID, nsgBody())
	a.do(201, "PUT", v, map[string]any{"location": "westeurope", "properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []any{"10.0.0.0/16"}},
		"subnets": []any{map[string]any{"name": "s", "properties": map[string]any{"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": map[string]any{"id": nsgID}}}}}})
	poll := a.do(202, "DELETE", group, nil).header.Get("Location")
	a.fails(409, "ResourceGroupDeletionBlocked", "GET", poll, nil)
	if got := a.do(200, "GET", group, nil); at(got.body, "properties", "provisioningState") != "Succeeded" {
		t.Errorf("got %s", got.raw)
	}
	a.do(200, "GET", nsgID, nil)
}

// Passwords and the like are taken and never shown, by no read and in no dump.
func TestSecretsAreNotShown(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	vm := group + "/providers/Microsoft.Compute/virtualMachines/m1"
	os := map[string]any{"adminUsername": "ops", "adminPassword": "hunter2-secret", "customData": "c2VjcmV0LWRhdGE="}
	a.do(201, "PUT", vm, map[string]any{"location": "westeurope", "identity": map[string]any{"type": "None"}, "properties": map[string]any{"osProfile": os, "userData": "c2VjcmV0LWRhdGE=",
		"storageProfile": map[string]any{"imageReference": map[string]any{"publisher": "MicrosoftWindowsServer", "offer": "WindowsServer", "sku": "2022", "version": "latest"}, "osDisk": map[string]any{"createOption": "FromImage", "name": "d1", "managedDisk": map[string]any{}}}}})
	set := group + "/providers/Microsoft.Compute/virtualMachineScaleSets/s1"
	body := setBody(1, "Uniform", "Manual")
	profile(body)["osProfile"] = os
	a.do(201, "PUT", set, body)
	got := a.do(200, "GET", vm, nil)
	if at(got.body, "properties", "storageProfile", "osDisk", "osType") != "Windows" || at(got.body, "properties", "storageProfile", "osDisk", "managedDisk", "id") == nil || got.body["identity"] != nil || got.body["etag"] != `"2"` {
		t.Errorf("got %s", got.raw)
	}
	for name, raw := range map[string][]byte{"dump": a.s.Dump(), "vm": got.raw, "set": a.do(200, "GET", set, nil).raw, "instances": a.do(200, "GET", set+"/virtualMachines", nil).raw} {
		for _, secret := range []string{"hunter2", "c2VjcmV0"} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s shows %s: %s", name, secret, raw)
			}
		}
	}
	// The second PUT changes nothing: Updating, the etag counts, no operation to poll.
	r := a.do(200, "PUT", vm, at(got.body))
	if r.header.Get("Azure-AsyncOperation") != "" || at(r.body, "properties", "provisioningState") != "Updating" || r.body["etag"] != `"3"` {
		t.Errorf("got %s, headers %v", r.raw, r.header)
	}
	r = a.do(200, "PUT", set+"/virtualMachines/0", map[string]any{"tags": map[string]any{"k": "v"}})
	if r.body["tags"] != nil || r.body["name"] != "s1_0" || r.body["etag"] != `"1"` {
		t.Errorf("got %s", r.raw)
	}
	if e := a.do(http.StatusBadRequest, "GET", set+"/virtualMachines/zero", nil); at(e.body, "error", "target") != "instanceId" {
		t.Errorf("got %s", e.raw)
	}
}

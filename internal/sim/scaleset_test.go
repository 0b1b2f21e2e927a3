package sim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
)

const (
	setID    = group + "/providers/Microsoft.Compute/virtualMachineScaleSets/farm"
	vnetID   = group + "/providers/Microsoft.Network/virtualNetworks/net"
	subnetID = vnetID + "/subnets/apps"
)

func (a *az) net() {
	a.t.Helper()
	a.do(201, "PUT", vnetID, map[string]any{"location": "westeurope", "properties": map[string]any{"addressSpace": map[string]any{"addressPrefixes": []string{"10.7.0.0/16"}},
		"subnets": []any{map[string]any{"name": "apps", "properties": map[string]any{"addressPrefix": "10.7.1.0/24"}}}}})
}

// setBody is a scale set as a client writes it: n machines with one interface each.
func setBody(n int, orchestration, mode string) map[string]any {
	return map[string]any{"location": "westeurope", "sku": map[string]any{"name": "Standard_D2s_v5", "capacity": n}, "properties": map[string]any{
		"orchestrationMode": orchestration, "upgradePolicy": map[string]any{"mode": mode}, "virtualMachineProfile": map[string]any{
			"osProfile":      map[string]any{"computerNamePrefix": "farm", "adminUsername": "operator"},
			"storageProfile": map[string]any{"imageReference": map[string]any{"publisher": "Canonical", "offer": "UbuntuServer", "sku": "22_04-lts", "version": "latest"}},
			"networkProfile": map[string]any{"networkInterfaceConfigurations": []any{map[string]any{"name": "nic", "properties": map[string]any{"primary": true,
				"ipConfigurations": []any{map[string]any{"name": "ipc", "properties": map[string]any{"subnet": map[string]any{"id": subnetID},
					"publicIPAddressConfiguration": map[string]any{"name": "pub", "properties": map[string]any{"idleTimeoutInMinutes": 15}}}}}}}}}}}}
}

func profile(body map[string]any) map[string]any {
	return at(body, "properties", "virtualMachineProfile").(map[string]any)
}

func terminate(enable any, after string) map[string]any {
	t := map[string]any{}
	if enable != nil {
		t["enable"] = enable
	}
	if after != "" {
		t["notBeforeTimeout"] = after
	}
	return map[string]any{"terminateNotificationProfile": t}
}

func TestUniformScaleSet(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	b := setBody(3, "Uniform", "Manual")
	r := a.do(201, "PUT", setID, b)
	if at(r.body, "properties", "provisioningState") != "Creating" || at(r.body, "properties", "uniqueId") == nil {
		t.Errorf("got %s", r.raw)
	}
	op := a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil)
	if op.body["status"] != "Succeeded" || op.body["name"] == nil || op.body["startTime"] == nil || op.body["endTime"] == nil {
		t.Errorf("got operation %s", op.raw)
	}
	vms := list(a.do(200, "GET", setID+"/virtualMachines", nil).body["value"])
	if len(vms) != 3 || at(vms[2], "instanceId") != "2" || at(vms[2], "name") != "farm_2" || at(vms[0], "properties", "latestModelApplied") != true ||
		at(vms[0], "properties", "osProfile", "computerName") != "farm000000" || at(vms[0], "type") != "Microsoft.Compute/virtualMachineScaleSets/virtualMachines" {
		t.Fatalf("got instances %v", vms)
	}
	nics := list(a.do(200, "GET", setID+"/networkInterfaces", nil).body["value"])
	seen := map[any]bool{}
	for _, n := range nics {
		seen[at(n, "properties", "ipConfigurations", 0, "properties", "privateIPAddress")] = true
	}
	if len(nics) != 3 || len(seen) != 3 || !seen["10.7.1.4"] || at(nics[0], "properties", "virtualMachine", "id") != at(vms[0], "id") {
		t.Fatalf("got interfaces %v", nics)
	}
	if pips := list(a.do(200, "GET", setID+"/publicIPAddresses", nil).body["value"]); len(pips) != 3 || at(pips[0], "properties", "ipAddress") == nil {
		t.Errorf("got addresses %v", pips)
	}
	if got := list(at(a.do(200, "GET", vnetID, nil).body, "properties", "subnets", 0, "properties", "ipConfigurations")); len(got) != 3 {
		t.Errorf("the subnet knows of %d interfaces", len(got))
	}

	// A new model reaches nobody until it is applied.
	patch := map[string]any{"properties": map[string]any{"virtualMachineProfile": map[string]any{"scheduledEventsProfile": terminate(true, "PT10M")}}}
	a.do(200, "PATCH", setID, patch)
	latest := func() (out []any) {
		for _, vm := range list(a.do(200, "GET", setID+"/virtualMachines", nil).body["value"]) {
			out = append(out, at(vm, "properties", "latestModelApplied"))
		}
		return out
	}
	if got := latest(); !slices.Equal(got, []any{false, false, false}) {
		t.Errorf("got latestModelApplied %v after a change of the model", got)
	}
	a.fails(400, "InvalidParameter", "POST", setID+"/manualupgrade", map[string]any{})
	a.fails(400, "InvalidParameter", "POST", setID+"/manualupgrade", map[string]any{"instanceIds": []string{"9"}})
	r = a.do(202, "POST", setID+"/manualupgrade", map[string]any{"instanceIds": []string{"1"}})
	a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil)
	if got := latest(); !slices.Equal(got, []any{false, true, false}) {
		t.Errorf("got latestModelApplied %v after one upgrade", got)
	}
	if got := at(a.do(200, "GET", setID+"/virtualMachines/1", nil).body, "properties", "scheduledEventsProfile", "terminateNotificationProfile", "notBeforeTimeout"); got != "PT10M" {
		t.Errorf("got %v in the upgraded instance", got)
	}
	a.do(202, "POST", setID+"/manualupgrade", map[string]any{"instanceIds": []string{"*"}})
	if got := latest(); !slices.Equal(got, []any{true, true, true}) {
		t.Errorf("got latestModelApplied %v after all were upgraded", got)
	}
	// Tags are no model.
	a.do(200, "PATCH", setID, map[string]any{"tags": map[string]string{"a": "b"}})
	if got := latest(); !slices.Equal(got, []any{true, true, true}) {
		t.Errorf("got latestModelApplied %v after a change of tags", got)
	}
	// With Automatic it reaches all.
	a.do(200, "PATCH", setID, map[string]any{"properties": map[string]any{"upgradePolicy": map[string]any{"mode": "automatic"},
		"virtualMachineProfile": map[string]any{"scheduledEventsProfile": terminate(false, "")}}})
	r = a.do(200, "GET", setID, nil)
	if got := profile(r.body)["scheduledEventsProfile"]; fmt.Sprint(got) != "map[]" || at(r.body, "properties", "upgradePolicy", "mode") != "Automatic" {
		t.Errorf("got profile %v, want {} (FACTS 4.1), and mode Automatic: %s", got, r.raw)
	}
	if got := at(a.do(200, "GET", setID+"/virtualMachines/0", nil).body, "properties", "scheduledEventsProfile"); fmt.Sprint(got) != "map[]" {
		t.Errorf("got %v in an instance", got)
	}

	// Power, instance view, and machines that go.
	a.do(202, "POST", setID+"/deallocate", map[string]any{"instanceIds": []string{"0"}})
	a.do(202, "POST", setID+"/virtualMachines/1/poweroff", nil)
	summary := list(at(a.do(200, "GET", setID+"/instanceView", nil).body, "virtualMachine", "statusesSummary"))
	if !strings.Contains(fmt.Sprint(summary), "map[code:PowerState/deallocated count:1]") || !strings.Contains(fmt.Sprint(summary), "map[code:PowerState/stopped count:1]") {
		t.Errorf("got summary %v", summary)
	}
	if got := a.do(200, "GET", setID+"/virtualMachines/0/instanceView", nil).body; !strings.Contains(fmt.Sprint(got), "PowerState/deallocated") {
		t.Errorf("got %v", got)
	}
	if got := a.do(200, "GET", setID+"/virtualMachines/0?$expand=instanceView", nil).body; at(got, "properties", "instanceView") == nil {
		t.Errorf("got %v", got)
	}
	a.do(202, "POST", setID+"/delete", map[string]any{"instanceIds": []string{"0"}})
	a.do(202, "DELETE", setID+"/virtualMachines/1", nil)
	if got := at(a.do(200, "GET", setID, nil).body, "sku", "capacity"); got != 1.0 {
		t.Errorf("got capacity %v after two of three were deleted", got)
	}
	if n := len(list(a.do(200, "GET", setID+"/networkInterfaces", nil).body["value"])); n != 1 {
		t.Errorf("got %d interfaces", n)
	}
	a.do(200, "PATCH", setID, map[string]any{"sku": map[string]any{"capacity": 2}})
	vms = list(a.do(200, "GET", setID+"/virtualMachines", nil).body["value"])
	if len(vms) != 2 || at(vms[1], "instanceId") != "3" {
		t.Errorf("got %v, want the ids 2 and 3: ids are not given twice", vms)
	}
	a.do(202, "DELETE", setID, nil)
	a.fails(404, "ResourceNotFound", "GET", setID+"/virtualMachines/3", nil)
	if ids := a.s.IDs("Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces"); len(ids) != 0 {
		t.Errorf("left: %v", ids)
	}
}

func TestFlexibleScaleSet(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	b := setBody(2, "Flexible", "Manual")
	profile(b)["scheduledEventsProfile"] = terminate(true, "")
	a.do(201, "PUT", setID, b)
	vms := list(a.do(200, "GET", group+"/providers/Microsoft.Compute/virtualMachines", nil).body["value"])
	if len(vms) != 2 || at(vms[0], "properties", "virtualMachineScaleSet", "id") != setID || !strings.HasPrefix(at(vms[0], "name").(string), "farm_") ||
		at(vms[0], "properties", "hardwareProfile", "vmSize") != "Standard_D2s_v5" ||
		at(vms[0], "properties", "scheduledEventsProfile", "terminateNotificationProfile", "notBeforeTimeout") != "PT5M" {
		t.Fatalf("got %v", vms)
	}
	nic := at(vms[0], "properties", "networkProfile", "networkInterfaces", 0, "id").(string)
	if got := at(a.do(200, "GET", nic, nil).body, "properties", "virtualMachine", "id"); got != at(vms[0], "id") {
		t.Errorf("the interface belongs to %v", got)
	}
	if got := list(a.do(200, "GET", setID+"/virtualMachines", nil).body["value"]); len(got) != 2 || at(got[0], "instanceId") != at(vms[0], "name") {
		t.Errorf("got %v", got)
	}
	a.do(202, "DELETE", at(vms[0], "id").(string), nil)
	a.fails(404, "ResourceNotFound", "GET", nic, nil)
	if got := at(a.do(200, "GET", setID, nil).body, "sku", "capacity"); got != 1.0 {
		t.Errorf("got capacity %v", got)
	}
	if pips := a.s.IDs("Microsoft.Network/publicIPAddresses"); len(pips) != 1 {
		t.Errorf("got addresses %v, want one to have gone with its machine", pips)
	}
	a.do(202, "DELETE", setID, nil)
	if n := len(a.s.IDs("Microsoft.Compute/virtualMachines")) + len(a.s.IDs("Microsoft.Network/networkInterfaces")); n != 0 {
		t.Errorf("%d machines and interfaces are left", n)
	}
}

func TestScaleSetRefusals(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	for name, change := range map[string]func(b map[string]any){
		"four minutes":    func(b map[string]any) { profile(b)["scheduledEventsProfile"] = terminate(true, "PT4M") },
		"sixteen minutes": func(b map[string]any) { profile(b)["scheduledEventsProfile"] = terminate(true, "PT16M") },
		"no duration":     func(b map[string]any) { profile(b)["scheduledEventsProfile"] = terminate(true, "10m") },
		"spot": func(b map[string]any) {
			profile(b)["priority"] = "spot"
			profile(b)["scheduledEventsProfile"] = terminate(true, "PT5M")
		},
		"image notification": func(b map[string]any) {
			profile(b)["scheduledEventsProfile"] = map[string]any{"osImageNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": "PT10M"}}
		},
		"no policy": func(b map[string]any) { delete(b["properties"].(map[string]any), "upgradePolicy") },
		"no sku":    func(b map[string]any) { delete(b, "sku") },
		"capacity":  func(b map[string]any) { b["sku"] = map[string]any{"name": "x", "capacity": 1001} },
		"unknown mode": func(b map[string]any) {
			b["properties"].(map[string]any)["upgradePolicy"] = map[string]any{"mode": "Sometimes"}
		},
	} {
		b := setBody(1, "Uniform", "Manual")
		change(b)
		t.Log(name)
		a.fails(400, "InvalidParameter", "PUT", setID, b)
	}
	b := setBody(1, "Uniform", "Manual")
	nics := profile(b)["networkProfile"].(map[string]any)["networkInterfaceConfigurations"].([]any)
	at(nics[0], "properties", "ipConfigurations", 0, "properties").(map[string]any)["subnet"] = map[string]any{"id": vnetID + "/subnets/none"}
	a.fails(400, "InvalidResourceReference", "PUT", setID, b)
	a.fails(404, "ResourceNotFound", "PUT", setID+"/virtualMachines/0", map[string]any{"location": "westeurope", "properties": map[string]any{}})

	a.do(201, "PUT", setID, setBody(1, "Uniform", "Manual"))
	a.fails(409, "PropertyChangeNotAllowed", "PUT", setID, setBody(1, "Flexible", "Manual"))
	// az leaves out the image, the orchestration mode and the capacity.
	b = setBody(1, "Uniform", "Manual")
	delete(b["properties"].(map[string]any), "orchestrationMode")
	delete(b["sku"].(map[string]any), "capacity")
	profile(b)["storageProfile"] = map[string]any{}
	before := a.do(200, "GET", setID, nil)
	r := a.do(200, "PUT", setID, b)
	if at(r.body, "properties", "orchestrationMode") != "Uniform" || at(r.body, "sku", "capacity") != 1.0 || at(profile(r.body), "storageProfile", "imageReference", "offer") != "UbuntuServer" ||
		at(r.body, "properties", "uniqueId") != at(before.body, "properties", "uniqueId") {
		t.Errorf("got %s", r.raw)
	}
	// A write that never takes effect changes no machine.
	a.fault(sim.Fault{Kind: "operation-failed", Method: "PATCH", Count: 1})
	a.do(200, "PATCH", setID, map[string]any{"sku": map[string]any{"capacity": 5}})
	if n := len(list(a.do(200, "GET", setID+"/virtualMachines", nil).body["value"])); n != 1 {
		t.Errorf("got %d machines", n)
	}
}

func TestMachineActions(t *testing.T) {
	a := newAz(t, sim.Config{})
	a.net()
	nic := group + "/providers/Microsoft.Network/networkInterfaces/n"
	vm := group + "/providers/Microsoft.Compute/virtualMachines/m"
	a.do(201, "PUT", nic, map[string]any{"location": "westeurope", "properties": map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": map[string]any{"id": subnetID}}}}}})
	body := map[string]any{"location": "westeurope", "properties": map[string]any{"hardwareProfile": map[string]any{"vmSize": "Standard_B1s"},
		"scheduledEventsProfile": terminate(true, "PT15M"),
		"networkProfile":         map[string]any{"networkInterfaces": []any{map[string]any{"id": nic, "properties": map[string]any{"deleteOption": "Delete"}}}}}}
	a.do(201, "PUT", vm, body)
	for _, act := range []struct{ verb, power string }{{"powerOff", "stopped"}, {"start", "running"}, {"deallocate", "deallocated"}, {"restart", "running"}, {"redeploy", "running"}, {"reapply", "running"}} {
		r := a.do(202, "POST", vm+"/"+act.verb, nil)
		a.do(200, "GET", r.header.Get("Location"), nil)
		if got := fmt.Sprint(a.do(200, "GET", vm+"/instanceView", nil).body); !strings.Contains(got, "PowerState/"+act.power) {
			t.Errorf("%s: got %s", act.verb, got)
		}
	}
	r := a.do(202, "POST", vm+"/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{"id"}})
	if got := a.do(200, "GET", r.header.Get("Location"), nil).body; !strings.Contains(fmt.Sprint(at(got, "value", 0, "message")), "[stdout]\nid\n[stderr]") {
		t.Errorf("got %v", got)
	}
	if got := a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil).body; at(got, "properties", "output", "value", 0, "code") != "ProvisioningState/succeeded" {
		t.Errorf("got %v", got)
	}
	a.fails(404, "NotFound", "POST", vm+"/explode", nil)
	a.fails(409, "OperationNotAllowed", "POST", vm+"/simulateEviction", nil)
	a.fails(400, "InvalidParameter", "PATCH", vm, map[string]any{"properties": map[string]any{"scheduledEventsProfile": terminate(true, "PT1H")}})
	a.do(200, "PATCH", vm, map[string]any{"properties": map[string]any{"scheduledEventsProfile": terminate(false, "")}})
	if got := at(a.do(200, "GET", vm, nil).body, "properties", "scheduledEventsProfile"); fmt.Sprint(got) != "map[]" {
		t.Errorf("got %v, want {}", got)
	}
	a.fails(400, "NicInUse", "DELETE", nic, nil)
	a.do(202, "DELETE", vm, nil)
	a.fails(404, "ResourceNotFound", "GET", nic, nil)
}

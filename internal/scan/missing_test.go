package scan_test

import (
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// P10: a scan of which a verdict needs what is not there, or what stands twice with different content, is not complete, whatever its gaps
// say. What is unknown although everything was read leaves it complete, and so does what is missing and no verdict needs.
func TestMissingIsNotComplete(t *testing.T) {
	const (
		group = "/subscriptions/11111111-1111-4111-8111-111111111111/resourceGroups/g/providers/"
		vm    = `{"id":"` + group + `Microsoft.Compute/virtualMachines/v","type":"Microsoft.Compute/virtualMachines","properties":{"storageProfile":{"osDisk":{"osType":"Linux"}},
			"networkProfile":{"networkInterfaces":[{"id":"` + group + `Microsoft.Network/networkInterfaces/n"}]}}}`
		nic = `{"id":"` + group + `Microsoft.Network/networkInterfaces/n","type":"Microsoft.Network/networkInterfaces","properties":{"networkSecurityGroup":{"id":"` + group + `Microsoft.Network/networkSecurityGroups/s"},
			"ipConfigurations":[{"name":"i","properties":{"privateIPAddress":"10.0.0.4","subnet":{"id":"` + group + `Microsoft.Network/virtualNetworks/w/subnets/a"},
			"publicIPAddress":{"id":"` + group + `Microsoft.Network/publicIPAddresses/p"}}}]}}`
		net = `{"id":"` + group + `Microsoft.Network/virtualNetworks/w","type":"Microsoft.Network/virtualNetworks","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]},
			"subnets":[{"name":"a","id":"` + group + `Microsoft.Network/virtualNetworks/w/subnets/a","properties":{"addressPrefix":"10.0.0.0/24"}}]}}`
		ip    = `{"id":"` + group + `Microsoft.Network/publicIPAddresses/p","type":"Microsoft.Network/publicIPAddresses","sku":{"name":"Standard"},"properties":{"ipAddress":"198.51.100.4"}}`
		shut  = `{"id":"` + group + `Microsoft.Network/networkSecurityGroups/s","type":"Microsoft.Network/networkSecurityGroups","properties":{"securityRules":[]}}`
		other = `{"id":"` + group + `Microsoft.Network/networkSecurityGroups/S","type":"Microsoft.Network/networkSecurityGroups","properties":{"securityRules":[{"name":"r","properties":{
			"priority":100,"direction":"Inbound","access":"Allow","protocol":"*","sourceAddressPrefix":"*","sourcePortRange":"*","destinationAddressPrefix":"*","destinationPortRange":"*"}}]}}`
		dim = `{"id":"` + group + `Microsoft.Compute/virtualMachineScaleSets/f","type":"Microsoft.Compute/virtualMachineScaleSets","properties":{"orchestrationMode":"Uniform",
			"virtualMachineProfile":{"scheduledEventsProfile":{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"five"}}}}}`
	)
	for _, c := range []struct {
		name      string
		resources []string
		complete  bool
		unknown   bool
	}{
		{"whole", []string{vm, nic, net, ip, shut}, true, false},
		{"no interface", []string{vm, net, ip, shut}, false, true},
		{"no group", []string{vm, nic, net, ip}, false, true},
		{"no subnet, which no verdict needs behind a group that is shut", []string{vm, nic, ip, shut}, true, false},
		{"a group twice, in other case and with other rules", []string{vm, nic, net, ip, shut, other}, false, true},
		{"a time that nobody can read", []string{vm, nic, net, ip, shut, dim}, true, true},
	} {
		e, err := estate.Read(strings.NewReader(`{"resources":[` + strings.Join(c.resources, ",") + `]}`))
		if err != nil {
			t.Fatal(c.name, err)
		}
		s := scan.Scan(e, scan.Options{Now: noon}).Summary
		if s.Complete != c.complete || s.Statuses[scan.Unknown] > 0 != c.unknown {
			t.Errorf("%s: complete %v, %d unknown", c.name, s.Complete, s.Statuses[scan.Unknown])
		}
	}
}

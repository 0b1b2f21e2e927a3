package collect

import "strings"

// pick is what a scan needs of the properties of each type. A machine's or interface's body is several kilobytes, of which a scan
// needs a few hundred bytes, and a page holds a thousand. Types that are not here come whole: there are few of them.
var pick = map[string][]string{
	vmType: {"storageProfile.osDisk.osType", "networkProfile.networkInterfaces", "virtualMachineScaleSet", "priority", "scheduledEventsProfile",
		"extended.instanceView.powerState"},
	nicType:                               {"networkSecurityGroup", "ipConfigurations"},
	nsgType:                               {"securityRules", "networkInterfaces", "subnets"},
	vnetType:                              {"addressSpace", "subnets", "virtualNetworkPeerings"},
	"microsoft.network/publicipaddresses": {"ipAddress"},
	"microsoft.network/loadbalancers":     {"frontendIPConfigurations", "backendAddressPools", "loadBalancingRules", "inboundNatRules", "inboundNatPools"},
}

// query is the question for the resources of some types. Resource Graph gives a second page only of what projects id and is ordered
// (FACTS 3). It asks for bodies as ARM spells them, cut down to what pick says unless whole is set.
func query(kinds []string, whole bool) string {
	properties := "properties"
	if !whole {
		var b strings.Builder
		b.WriteString("properties = case(")
		n := 0
		for _, kind := range kinds {
			if fields := pick[kind]; fields != nil {
				b.WriteString("\n  type =~ '" + kind + "', " + pack(fields) + ",")
				n++
			}
		}
		b.WriteString("\n  properties)")
		if n > 0 {
			properties = b.String()
		}
	}
	return "resources\n| where " + ofTypes(kinds) + "\n| project id, name, type, location, tags, managedBy, sku, " + properties + "\n| order by id asc"
}

// countQuery asks how many resources each subscription has.
func countQuery(kinds []string) string {
	return "resources\n| where " + ofTypes(kinds) + "\n| summarize resources = count() by subscriptionId"
}

func ofTypes(kinds []string) string { return "type in~ ('" + strings.Join(kinds, "', '") + "')" }

// pack is the expression for an object that has these fields of properties alone, nested as they are.
func pack(paths []string) string {
	var b strings.Builder
	b.WriteString("bag_pack(")
	for i, p := range paths {
		if i > 0 {
			b.WriteString(", ")
		}
		parts := strings.Split(p, ".")
		for _, outer := range parts[:len(parts)-1] {
			b.WriteString("'" + outer + "', bag_pack(")
		}
		b.WriteString("'" + parts[len(parts)-1] + "', properties." + p + strings.Repeat(")", len(parts)-1))
	}
	b.WriteString(")")
	return b.String()
}

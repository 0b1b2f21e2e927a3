package sim

import (
	"encoding/json"
	"strings"
)

// hideSecrets removes what Azure takes and never shows again (recorded: passwords; the specification marks the others as write-only).
func hideSecrets(holder map[string]any) {
	delete(object(holder, "osProfile"), "adminPassword")
	delete(object(holder, "osProfile"), "customData")
	delete(holder, "userData")
}

// fillMachine gives a machine, or the profile of a scale set, what Azure fills in (recorded for Windows images). The size of the disk and the
// version of the image come from the catalogue of images, which is not here.
func fillMachine(holder map[string]any, set bool) {
	storage, os := object(holder, "storageProfile"), object(holder, "osProfile")
	image := object(storage, "imageReference")
	windows := strings.Contains(strings.ToLower(text(image, "publisher")+"/"+text(image, "offer")), "windows")
	if storage != nil && image != nil {
		if set {
			fill(storage, "osDisk", map[string]any{"createOption": "FromImage"})
		} else {
			fill(storage, "dataDisks", []any{})
		}
		if disk := object(storage, "osDisk"); disk != nil {
			if how := text(disk, "createOption"); oneOf("createOption", &how, "FromImage", "Empty", "Attach", "Copy", "Restore") == nil {
				disk["createOption"] = how
			}
		}
		if disk := object(storage, "osDisk"); disk != nil && text(image, "publisher") != "" {
			kind := "Linux"
			if windows {
				kind = "Windows"
			}
			fill(disk, "osType", kind)
			if set {
				fill(disk, "caching", "None")
				fill(disk, "managedDisk", map[string]any{"storageAccountType": "Premium_LRS"})
			} else {
				fill(disk, "deleteOption", "Detach")
			}
		}
	}
	if os == nil {
		return
	}
	fill(os, "secrets", []any{})
	fill(os, "allowExtensionOperations", true)
	fill(os, "requireGuestProvisionSignal", true)
	if windows {
		fill(os, "windowsConfiguration", map[string]any{})
		w := object(os, "windowsConfiguration")
		fill(w, "provisionVMAgent", true)
		fill(w, "enableAutomaticUpdates", true)
		if !set {
			fill(w, "patchSettings", map[string]any{"patchMode": "AutomaticByOS", "assessmentMode": "ImageDefault"})
			fill(w, "enableVMAgentPlatformUpdates", true)
		}
	}
}

// fillScaleSet does the same for a set (recorded for Uniform ones).
func fillScaleSet(props map[string]any) {
	profile := object(props, "virtualMachineProfile")
	if profile == nil {
		return
	}
	hideSecrets(profile)
	fillMachine(profile, true)
	if !strings.EqualFold(text(props, "orchestrationMode"), "Uniform") {
		return
	}
	fill(props, "singlePlacementGroup", true)
	fill(props, "doNotRunExtensionsOnOverprovisionedVMs", false)
	fill(props, "platformFaultDomainCount", json.Number("5"))
	if auto := object(object(props, "upgradePolicy"), "automaticOSUpgradePolicy"); auto != nil {
		fill(auto, "useRollingUpgradePolicy", false)
	}
	for _, c := range objects(object(profile, "networkProfile"), "networkInterfaceConfigurations") {
		p := object(c, "properties")
		if p == nil {
			continue
		}
		fill(p, "enableAcceleratedNetworking", false)
		fill(p, "disableTcpStateTracking", false)
		fill(p, "dnsSettings", map[string]any{"dnsServers": []any{}})
		for _, ip := range objects(p, "ipConfigurations") {
			if q := object(ip, "properties"); q != nil {
				fill(q, "privateIPAddressVersion", "IPv4")
			}
		}
	}
}

// diskMadeLocked names the managed disk of a machine that has come up (recorded).
func (s *Sim) diskMadeLocked(vm *resource) {
	body, _ := cloneJSON(vm.doc()).(map[string]any)
	disk := object(object(object(body, "properties"), "storageProfile"), "osDisk")
	managed := object(disk, "managedDisk")
	if managed == nil || managed["id"] != nil || text(disk, "name") == "" {
		return
	}
	managed["id"] = strings.TrimSuffix(vm.t.scope, "/") + "/providers/Microsoft.Compute/disks/" + text(disk, "name")
	s.setBodyLocked(vm, body, nil, vm.kept)
}

// fillBalancer gives the parts of a load balancer what Azure fills in (recorded).
func fillBalancer(props map[string]any) {
	for _, f := range []string{"loadBalancingRules", "inboundNatRules"} {
		for _, c := range objects(props, f) {
			p := object(c, "properties")
			if p == nil {
				continue
			}
			for _, b := range []string{"enableFloatingIP", "enableTcpReset", "allowBackendPortConflict", "enableDestinationServiceEndpoint"} {
				fill(p, b, false)
			}
			fill(p, "idleTimeoutInMinutes", json.Number("4"))
			if f == "loadBalancingRules" {
				fill(p, "loadDistribution", "Default")
				how := text(p, "loadDistribution")
				if oneOf("loadDistribution", &how, "Default", "SourceIP", "SourceIPProtocol") == nil {
					p["loadDistribution"] = how
				}
			}
		}
	}
	for _, c := range objects(props, "probes") {
		if p := object(c, "properties"); p != nil {
			fill(p, "intervalInSeconds", json.Number("15"))
			fill(p, "numberOfProbes", json.Number("2"))
		}
	}
	for _, c := range objects(props, "backendAddressPools") {
		if c["properties"] == nil {
			c["properties"] = map[string]any{}
		}
		if p := object(c, "properties"); p != nil {
			fill(p, "loadBalancerBackendAddresses", []any{})
		}
	}
}

// balancerUses are the back-references inside a load balancer: which rules a frontend and a pool serve (recorded).
func balancerUses(lb *resource, props map[string]any) {
	uses := map[string]map[string][]any{}
	add := func(id, field, rule string) {
		if id == "" {
			return
		}
		key := strings.ToLower(id)
		if uses[key] == nil {
			uses[key] = map[string][]any{}
		}
		uses[key][field] = append(uses[key][field], map[string]any{"id": rule})
	}
	for _, f := range []string{"loadBalancingRules", "inboundNatRules", "outboundRules"} {
		for _, c := range objects(props, f) {
			p, rule := object(c, "properties"), lb.id+"/"+f+"/"+text(c, "name")
			add(refID(p, "frontendIPConfiguration"), f, rule)
			add(refID(p, "backendAddressPool"), f, rule)
			add(refID(p, "probe"), f, rule)
			for _, o := range objects(p, "frontendIPConfigurations") {
				add(text(o, "id"), f, rule)
			}
		}
	}
	for _, f := range []string{"frontendIPConfigurations", "backendAddressPools", "probes"} {
		for _, c := range objects(props, f) {
			p := object(c, "properties")
			if p == nil {
				continue
			}
			for _, g := range []string{"loadBalancingRules", "inboundNatRules", "outboundRules"} {
				delete(p, g)
			}
			for g, list := range uses[strings.ToLower(lb.id+"/"+f+"/"+text(c, "name"))] {
				p[g] = list
			}
		}
	}
}

// instantLocked tells whether a write of a kind that may be instant is: an interface without a machine, a group, a pool or a NAT rule, a load
// balancer whose pools are empty (recorded: with them they are Updating at first).
func (s *Sim) instantLocked(res *resource, before *snapshot) bool {
	if !res.kind.instant {
		return false
	}
	if res.typeKey == typeLB {
		for _, c := range objects(object(res.doc(), "properties"), "backendAddressPools") {
			for o := range s.refs[res.key+"/backendaddresspools/"+strings.ToLower(text(c, "name"))] {
				if o.field == "backendIPConfigurations" {
					return false
				}
			}
		}
		return true
	}
	for o := range s.refs[res.key] {
		if o.field == "virtualMachine" {
			return false
		}
	}
	plain := func(body map[string]any) bool {
		for _, c := range objects(object(body, "properties"), "ipConfigurations") {
			for _, f := range []string{"applicationSecurityGroups", "loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"} {
				if len(objects(object(c, "properties"), f)) > 0 {
					return false
				}
			}
		}
		return true
	}
	return plain(res.doc()) && (before == nil || plain(before.body))
}

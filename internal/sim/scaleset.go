package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	typeVMSSNIC = typeVMSSVM + "/networkinterfaces"
	typeVMSSPIP = typeVMSSNIC + "/ipconfigurations/publicipaddresses"
	nameVMSSVM  = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
	nameVMSSNIC = nameVMSSVM + "/networkInterfaces"
	nameVMSSPIP = nameVMSSNIC + "/ipConfigurations/publicIPAddresses"

	maxCapacity = 1000
)

func flexible(set *resource) bool {
	return strings.EqualFold(text(object(set.doc(), "properties"), "orchestrationMode"), "Flexible")
}

func capacity(set map[string]any) int {
	n, _ := strconv.Atoi(str(object(set, "sku")["capacity"]))
	return n
}

// model is what instances are made from: the profile and the size. A change of capacity or tags leaves it as it is.
func model(set map[string]any) []byte {
	return mustJSON([]any{object(set, "properties")["virtualMachineProfile"], object(set, "sku")["name"]})
}

// validateScaleSet checks a set that a client wrote, and keeps what Azure keeps when it is left out (az leaves out the image, the
// orchestration mode and the capacity of what it updates).
func validateScaleSet(r *resource, body map[string]any) *armError {
	props := object(body, "properties")
	profile := object(props, "virtualMachineProfile")
	eventsPolicy(props, object(r.doc(), "properties"))
	var old, oldProps map[string]any
	if r.doc() != nil {
		old, oldProps = r.doc(), object(r.doc(), "properties")
	}
	mode := text(props, "orchestrationMode")
	if mode == "" {
		mode = text(oldProps, "orchestrationMode")
	}
	if mode == "" {
		mode = "Uniform"
	}
	if ae := oneOf("properties.orchestrationMode", &mode, "Uniform", "Flexible"); ae != nil {
		return ae
	}
	if was := text(oldProps, "orchestrationMode"); was != "" && was != mode {
		return &armError{Status: 409, Code: "PropertyChangeNotAllowed", Message: "Changing property 'orchestrationMode' is not allowed."}
	}
	props["orchestrationMode"] = mode
	if object(body, "sku") == nil && object(old, "sku") != nil {
		body["sku"] = maps.Clone(object(old, "sku"))
	}
	if sku := object(body, "sku"); sku != nil {
		if sku["capacity"] == nil && old != nil {
			sku["capacity"] = json.Number(strconv.Itoa(capacity(old)))
		}
		if sku["capacity"] != nil {
			n, err := strconv.Atoi(str(sku["capacity"]))
			if err != nil || n < 0 || n > maxCapacity {
				return badRequest("InvalidParameter", "The value '%v' of parameter 'sku.capacity' is invalid: 0 to %d.", sku["capacity"], maxCapacity)
			}
		}
		fill(sku, "tier", "Standard")
	} else if mode == "Uniform" {
		return badRequest("InvalidParameter", "Required parameter 'sku' is missing (null).")
	}
	policy := object(props, "upgradePolicy")
	if policy == nil && object(oldProps, "upgradePolicy") != nil {
		props["upgradePolicy"] = oldProps["upgradePolicy"]
	} else if policy == nil && mode == "Flexible" {
		props["upgradePolicy"] = map[string]any{"mode": "Manual"}
	} else if policy == nil {
		return badRequest("InvalidParameter", "Required parameter 'upgradePolicy' is missing (null).")
	} else if m := text(policy, "mode"); m != "" {
		if ae := oneOf("properties.upgradePolicy.mode", &m, "Automatic", "Manual", "Rolling"); ae != nil {
			return ae
		}
		policy["mode"] = m
	}
	if profile == nil {
		if mode == "Uniform" && old == nil {
			return badRequest("InvalidParameter", "Required parameter 'virtualMachineProfile' is missing (null).")
		}
		if p := object(oldProps, "virtualMachineProfile"); p != nil {
			props["virtualMachineProfile"] = p
		}
		return nil
	}
	if v := text(profile, "priority"); v != "" {
		if ae := oneOf("properties.virtualMachineProfile.priority", &v, "Regular", "Low", "Spot"); ae != nil {
			return ae
		}
		profile["priority"] = v
	}
	keepImage(profile, object(oldProps, "virtualMachineProfile"))
	fillScaleSet(props)
	return scheduledEvents(profile, object(oldProps, "virtualMachineProfile"))
}

// keepImage: az leaves the image out of what it updates.
func keepImage(profile, old map[string]any) {
	if to, from := object(profile, "storageProfile"), object(old, "storageProfile"); to != nil && to["imageReference"] == nil && from["imageReference"] != nil {
		to["imageReference"] = from["imageReference"]
	}
}

// oneOf puts *v into Azure's spelling.
func oneOf(field string, v *string, values ...string) *armError {
	for _, w := range values {
		if strings.EqualFold(*v, w) {
			*v = w
			return nil
		}
	}
	return badRequest("InvalidParameter", "The value '%s' of parameter '%s' is invalid. Allowed values: %s.", *v, field, strings.Join(values, ", "))
}

// scaleSetWrittenLocked is what follows when a write of a set has come to its end: instances are made or removed, and the new model
// reaches them as the upgrade policy says.
func (s *Sim) scaleSetWrittenLocked(set *resource, before map[string]any) {
	if before == nil || capacity(before) != capacity(set.doc()) {
		s.scaleLocked(set)
	}
	if before == nil || bytes.Equal(model(before), model(set.doc())) {
		return
	}
	mode := text(object(object(set.doc(), "properties"), "upgradePolicy"), "mode")
	for _, vm := range s.instancesLocked(set) {
		if mode == "Manual" || mode == "" {
			s.latestLocked(vm, false)
		} else { // Rolling goes through all at once here
			s.applyModelLocked(set, vm)
		}
	}
}

// instancesLocked are the machines of a set, in order of creation.
func (s *Sim) instancesLocked(set *resource) (out []*resource) {
	if flexible(set) {
		for o := range s.refs[set.key] {
			if vm := s.all[strings.ToLower(o.id)]; vm != nil && o.field == "virtualMachines" {
				out = append(out, vm)
			}
		}
		slices.SortFunc(out, func(a, b *resource) int { return int(a.seq) - int(b.seq) })
		return out
	}
	for _, r := range s.byType[typeVMSSVM] {
		if !r.gone && strings.HasPrefix(r.key, set.key+"/virtualmachines/") {
			out = append(out, r)
		}
	}
	return out
}

func (s *Sim) scaleLocked(set *resource) {
	vms, want := s.instancesLocked(set), capacity(set.doc())
	for _, vm := range slices.Backward(vms) {
		if len(vms) <= want {
			break
		}
		s.removeMachineLocked(vm)
		vms = vms[:len(vms)-1]
	}
	next := s.instanceSeq[set.key]
	for _, vm := range vms {
		if n, err := strconv.Atoi(vm.t.name()); err == nil && n >= next {
			next = n + 1
		}
	}
	for n := len(vms); n < want; n++ {
		s.addInstanceLocked(set, next)
		next++
	}
	s.instanceSeq[set.key] = next // Azure does not give an id twice
}

// addInstanceLocked makes a machine from the model: number n of a Uniform set, or a machine of its own with a made-up name.
func (s *Sim) addInstanceLocked(set *resource, n int) {
	props := object(set.doc(), "properties")
	profile := object(props, "virtualMachineProfile")
	suffix := strconv.FormatInt(int64(n), 36)
	name := set.t.name() + "_" + strconv.Itoa(n)
	base, nicType := set.id, nameVMSSNIC
	id := base + "/virtualMachines/" + strconv.Itoa(n)
	flex := flexible(set)
	if flex {
		suffix = s.uuidLocked()[:8]
		name = set.t.name() + "_" + suffix
		group := strings.TrimSuffix(set.t.scope, "/")
		id, nicType = group+"/providers/Microsoft.Compute/virtualMachines/"+name, "Microsoft.Network/networkInterfaces"
		base = group + "/providers/Microsoft.Network/networkInterfaces/"
	}
	prefix := text(object(profile, "osProfile"), "computerNamePrefix")
	if prefix == "" {
		prefix = set.t.name()
	}
	vm := map[string]any{"location": set.doc()["location"], "name": name}
	p := map[string]any{"timeCreated": s.nowLocked().Format(time.RFC3339Nano), "instanceView": instanceView("running", s.nowLocked())}
	vm["properties"] = p
	for _, f := range []string{"tags", "zones"} {
		if v := set.doc()[f]; v != nil {
			vm[f] = cloneJSON(v)
		}
	}
	if z, _ := vm["zones"].([]any); len(z) > 1 {
		vm["zones"] = []any{z[n%len(z)]}
	}
	size := object(set.doc(), "sku")["name"]
	if flex {
		vm["managedBy"] = set.id
		p["virtualMachineScaleSet"] = map[string]any{"id": set.id}
		p["hardwareProfile"] = map[string]any{"vmSize": size}
	} else {
		vm["instanceId"] = strconv.Itoa(n)
		vm["sku"] = map[string]any{"name": size, "tier": "Standard"}
		p["latestModelApplied"], p["modelDefinitionApplied"] = true, "VirtualMachineScaleSet"
		p["hardwareProfile"], p["vmId"] = map[string]any{"vmSize": size}, s.uuidLocked()
	}
	fillFromModel(p, profile, flex)
	if os := object(p, "osProfile"); os != nil {
		delete(os, "computerNamePrefix")
		os["computerName"] = prefix + fmt.Sprintf("%06s", suffix)
	}
	var nics []any
	for i, c := range objects(object(profile, "networkProfile"), "networkInterfaceConfigurations") {
		nicID := id + "/networkInterfaces/" + text(c, "name")
		if flex {
			nicID = base + text(c, "name") + "-" + suffix
		}
		one := map[string]any{"id": nicID}
		if flex {
			one["properties"] = map[string]any{"primary": i == 0 || truth(object(c, "properties")["primary"]), "deleteOption": "Delete"}
		}
		nics = append(nics, one)
		s.addInstanceNICLocked(set, nicID, nicType, id, c, suffix)
	}
	if nics != nil {
		p["networkProfile"] = map[string]any{"networkInterfaces": nics}
	}
	if storage := object(p, "storageProfile"); storage != nil { // as recorded
		fill(storage, "dataDisks", []any{})
		if disk := object(storage, "osDisk"); disk != nil {
			fill(disk, "name", name+"_OsDisk_1_"+strings.ReplaceAll(s.uuidLocked(), "-", ""))
			if managed := object(disk, "managedDisk"); managed != nil {
				fill(managed, "id", strings.TrimSuffix(set.t.scope, "/")+"/providers/Microsoft.Compute/disks/"+text(disk, "name"))
			}
		}
	}
	if t, err := parsePath(id); err == nil {
		s.storeServerLocked(t, vm)
	}
}

// fillFromModel copies what an instance takes over from the profile.
func fillFromModel(p, profile map[string]any, flex bool) {
	for _, f := range []string{"storageProfile", "osProfile", "securityProfile", "diagnosticsProfile", "licenseType", "scheduledEventsProfile", "userData"} {
		if v := profile[f]; v != nil {
			p[f] = cloneJSON(v)
		} else if f != "osProfile" && f != "storageProfile" {
			delete(p, f)
		}
	}
	if flex {
		for _, f := range []string{"priority", "evictionPolicy", "billingProfile"} {
			if v := profile[f]; v != nil {
				p[f] = cloneJSON(v)
			}
		}
		return
	}
	if c := object(profile, "networkProfile")["networkInterfaceConfigurations"]; c != nil {
		p["networkProfileConfiguration"] = map[string]any{"networkInterfaceConfigurations": cloneJSON(c)}
	}
}

func cloneJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = cloneJSON(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = cloneJSON(e)
		}
		return out
	}
	return v
}

func (s *Sim) addInstanceNICLocked(set *resource, nicID, typ, vmID string, config map[string]any, suffix string) {
	flex := flexible(set)
	cp := object(config, "properties")
	props := map[string]any{"primary": truth(cp["primary"]), "enableAcceleratedNetworking": truth(cp["enableAcceleratedNetworking"]), "enableIPForwarding": truth(cp["enableIPForwarding"])}
	if dns := object(cp, "dnsSettings"); dns != nil {
		props["dnsSettings"] = cloneJSON(dns)
	}
	if id := refID(cp, "networkSecurityGroup"); id != "" {
		props["networkSecurityGroup"] = map[string]any{"id": id}
	}
	if !flex {
		props["virtualMachine"] = map[string]any{"id": vmID}
		props["provisioningState"], props["resourceGuid"] = "Succeeded", s.uuidLocked()
	}
	var list []any
	taken := map[string]bool{}
	for i, c := range objects(cp, "ipConfigurations") {
		from := object(c, "properties")
		version := text(from, "privateIPAddressVersion")
		if version == "" {
			version = "IPv4"
		}
		p := map[string]any{"privateIPAllocationMethod": "Dynamic", "privateIPAddressVersion": version, "primary": i == 0 || truth(from["primary"])}
		if id := refID(from, "subnet"); id != "" {
			p["subnet"] = map[string]any{"id": id}
			if a := s.freeAddressLocked(id, version == "IPv6", taken); a != "" {
				p["privateIPAddress"] = a
				taken[a] = true
			}
		}
		for _, f := range []string{"applicationSecurityGroups", "loadBalancerBackendAddressPools", "loadBalancerInboundNatPools"} {
			if v, ok := from[f].([]any); ok && len(v) > 0 {
				p[f] = cloneJSON(v)
			}
		}
		name := text(c, "name")
		if pip := object(from, "publicIPAddressConfiguration"); pip != nil {
			pipID := nicID + "/ipConfigurations/" + name + "/publicIPAddresses/" + text(pip, "name")
			if flex {
				pipID = strings.TrimSuffix(set.t.scope, "/") + "/providers/Microsoft.Network/publicIPAddresses/" + text(pip, "name") + "-" + suffix
			}
			p["publicIPAddress"] = map[string]any{"id": pipID}
			pp := map[string]any{"publicIPAddressVersion": "IPv4", "publicIPAllocationMethod": "Dynamic", "ipAddress": s.publicAddressLocked(),
				"idleTimeoutInMinutes": json.Number("4"), "ipTags": []any{}}
			body := map[string]any{"name": text(pip, "name"), "properties": pp}
			if sku := object(pip, "sku"); sku != nil {
				body["sku"] = cloneJSON(sku)
			}
			if flex {
				delete(body, "name")
				pp["publicIPAllocationMethod"], body["location"] = "Static", set.doc()["location"]
			} else {
				pp["provisioningState"], pp["resourceGuid"] = "Succeeded", s.uuidLocked()
				pp["ipConfiguration"] = map[string]any{"id": nicID + "/ipConfigurations/" + name}
			}
			if t, err := parsePath(pipID); err == nil {
				s.storeServerLocked(t, body)
			}
		}
		one := map[string]any{"name": name, "properties": p}
		if !flex {
			one["id"] = nicID + "/ipConfigurations/" + name
			p["provisioningState"] = "Succeeded"
		}
		list = append(list, one)
	}
	props["ipConfigurations"] = list
	body := map[string]any{"properties": props}
	if flex {
		body["location"] = set.doc()["location"]
	} else {
		body["name"] = text(config, "name")
	}
	if t, err := parsePath(nicID); err == nil {
		s.storeServerLocked(t, body)
	}
}

// storeServerLocked stores what Azure itself makes. It is made from validated parts, so that a refusal would be a mistake of ours.
func (s *Sim) storeServerLocked(t target, body map[string]any) *resource {
	r, ae := s.storeLocked(t, body, storeOutside)
	if ae != nil {
		s.log.Error("the simulator made an invalid resource", "id", t.id(), "error", ae)
		return nil
	}
	if r.kind.name == "" && r.t.ns != "" && strings.Contains(r.typeKey, "/networkinterfaces") {
		body["etag"] = r.etag
		r.setDoc(body)
	}
	return r
}

// removeMachineLocked removes a machine with what goes with it: an instance's interfaces, and interfaces and addresses with deleteOption Delete.
func (s *Sim) removeMachineLocked(vm *resource) {
	var nics []*resource
	if vm.typeKey == typeVMSSVM {
		for _, tk := range []string{typeVMSSPIP, typeVMSSNIC} {
			for _, r := range slices.Clone(s.byType[tk]) {
				if !r.gone && strings.HasPrefix(r.key, vm.key+"/") {
					s.removeLocked(r)
				}
			}
		}
	} else {
		for _, n := range objects(object(object(vm.doc(), "properties"), "networkProfile"), "networkInterfaces") {
			if nic := s.all[strings.ToLower(text(n, "id"))]; nic != nil && strings.EqualFold(text(object(n, "properties"), "deleteOption"), "Delete") {
				nics = append(nics, nic)
			}
		}
	}
	flexSet := refID(object(vm.doc(), "properties"), "virtualMachineScaleSet")
	s.removeLocked(vm)
	for _, nic := range nics {
		var pips []string
		for _, c := range objects(object(nic.doc(), "properties"), "ipConfigurations") {
			ref := object(object(c, "properties"), "publicIPAddress")
			if flexSet != "" || strings.EqualFold(text(object(ref, "properties"), "deleteOption"), "Delete") {
				pips = append(pips, text(ref, "id"))
			}
		}
		s.removeLocked(nic)
		for _, id := range pips {
			if pip := s.all[strings.ToLower(id)]; pip != nil {
				s.removeLocked(pip)
			}
		}
	}
}

// removedLocked follows the DELETE of a set or of a machine: a set's machines go with it, and the capacity falls with each of them.
func (s *Sim) removedLocked(res *resource) {
	switch res.typeKey {
	case typeVMSS:
		for _, vm := range s.instancesLocked(res) {
			s.removeMachineLocked(vm)
		}
		s.removeLocked(res)
	case typeVM, typeVMSSVM:
		set := s.setOfLocked(res)
		s.removeMachineLocked(res)
		if set != nil {
			s.lowerCapacityLocked(set, 1)
		}
	default:
		s.removeLocked(res)
		if res.typeKey == typeVNet {
			s.peersChangedLocked(res, nil)
		}
	}
}

func (s *Sim) setOfLocked(vm *resource) *resource {
	if vm.typeKey == typeVMSSVM {
		return s.all[vm.t.top().key()]
	}
	return s.all[strings.ToLower(refID(object(vm.doc(), "properties"), "virtualMachineScaleSet"))]
}

func (s *Sim) lowerCapacityLocked(set *resource, by int) {
	sku := object(set.doc(), "sku")
	if sku == nil || sku["capacity"] == nil {
		return
	}
	s.remember(set)
	body, sku := maps.Clone(set.doc()), maps.Clone(sku)
	sku["capacity"] = json.Number(strconv.Itoa(max(0, capacity(set.doc())-by)))
	body["sku"] = sku
	s.setBodyLocked(set, body, nil, set.kept)
	set.etag = s.nextEtagLocked(set)
}

func (s *Sim) latestLocked(vm *resource, latest bool) {
	props := object(vm.doc(), "properties")
	if vm.typeKey != typeVMSSVM || props["latestModelApplied"] == latest {
		return
	}
	s.remember(vm)
	body, p := maps.Clone(vm.doc()), maps.Clone(props)
	p["latestModelApplied"] = latest
	body["properties"] = p
	s.setBodyLocked(vm, body, nil, vm.kept)
	vm.etag = s.nextEtagLocked(vm)
}

// applyModelLocked brings a machine to the set's model. Network interfaces keep what they have.
func (s *Sim) applyModelLocked(set, vm *resource) {
	s.remember(vm)
	body, p := maps.Clone(vm.doc()), maps.Clone(object(vm.doc(), "properties"))
	was := object(p, "osProfile")["computerName"]
	profile, flex := object(object(set.doc(), "properties"), "virtualMachineProfile"), flexible(set)
	fillFromModel(p, profile, flex)
	if os := object(p, "osProfile"); os != nil {
		delete(os, "computerNamePrefix")
		if was != nil {
			os["computerName"] = was
		}
	}
	if size := object(set.doc(), "sku")["name"]; flex {
		p["hardwareProfile"] = map[string]any{"vmSize": size}
	} else {
		p["latestModelApplied"] = true
		body["sku"] = map[string]any{"name": size, "tier": "Standard"}
	}
	body["properties"] = p
	s.setBodyLocked(vm, body, nil, vm.kept)
	vm.etag = s.nextEtagLocked(vm)
}

// scaleSetActionLocked serves the POST actions of a set: on the instances that the body names, on all where it names none.
func (s *Sim) scaleSetActionLocked(r *request, set *resource, t target, verb string) *answer {
	var in struct {
		InstanceIDs []string `json:"instanceIds"`
	}
	if len(bytes.TrimSpace(r.body)) > 0 {
		if err := json.Unmarshal(r.body, &in); err != nil {
			return invalidContent(err).answer()
		}
	}
	all := s.instancesLocked(set)
	chosen := all
	if len(in.InstanceIDs) > 0 && !slices.Equal(in.InstanceIDs, []string{"*"}) {
		chosen = nil
		for _, id := range in.InstanceIDs {
			i := slices.IndexFunc(all, func(vm *resource) bool { return strings.EqualFold(vm.t.name(), id) })
			if i < 0 {
				return badRequest("InvalidParameter", "The provided instanceId %s is not an active Virtual Machine Scale Set VM instanceId.", id).answer()
			}
			chosen = append(chosen, all[i])
		}
	} else if len(in.InstanceIDs) == 0 && (verb == "delete" || verb == "manualupgrade") {
		return badRequest("InvalidParameter", "Required parameter 'instanceIds' is missing (null).").answer()
	}
	if ae := s.lockedLocked(set.key, "write", verb == "delete"); ae != nil {
		return ae.answer()
	}
	if ae := s.busyLocked(set); ae != nil {
		return ae.answer()
	}
	op := s.beginLocked(r, set, set.t, t.types[len(t.types)-1], false)
	op.result = []byte{}
	power := powerActions[verb]
	op.after = func() {
		for _, vm := range chosen {
			switch {
			case vm.gone:
			case verb == "delete":
				s.removeMachineLocked(vm)
				s.lowerCapacityLocked(set, 1)
			case verb == "manualupgrade":
				s.applyModelLocked(set, vm)
			case power != "":
				s.setPowerLocked(vm, power)
			}
		}
	}
	s.countLocked(set.key)
	a := ok(202, nil)
	s.opHeaders(op, r, a.header, true, true)
	return a
}

// setInstanceViewLocked summarises the states of a set's machines.
func (s *Sim) setInstanceViewLocked(set *resource) map[string]any {
	count := map[string]int{}
	for _, vm := range s.instancesLocked(set) {
		for _, st := range objects(s.instanceViewLocked(vm), "statuses") {
			count[text(st, "code")]++
		}
	}
	summary := []any{}
	for _, code := range slices.Sorted(maps.Keys(count)) {
		summary = append(summary, map[string]any{"code": code, "count": count[code]})
	}
	return map[string]any{"virtualMachine": map[string]any{"statusesSummary": summary}, "statuses": []any{map[string]any{
		"code": "ProvisioningState/" + strings.ToLower(set.state), "level": "Info", "displayStatus": "Provisioning " + strings.ToLower(set.state), "time": s.nowLocked().Format(time.RFC3339)}}}
}

// flexInstancesLocked lists the machines of a Flexible set under the set, as newer api-versions do; Uniform ones are resources of their own.
func (s *Sim) flexInstancesLocked(set *resource, expand bool) []byte {
	value := []any{}
	for _, vm := range s.instancesLocked(set) {
		props := maps.Clone(object(s.treeLocked(vm), "properties"))
		delete(props, "virtualMachineScaleSet")
		if expand {
			props["instanceView"] = s.instanceViewLocked(vm)
		}
		value = append(value, map[string]any{"id": set.id + "/virtualMachines/" + vm.t.name(), "name": vm.t.name(), "instanceId": vm.t.name(),
			"type": nameVMSSVM, "location": vm.doc()["location"], "properties": props})
	}
	return mustJSON(map[string]any{"value": value})
}

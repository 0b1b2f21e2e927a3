package sim

import (
	"encoding/json"
	"strings"
)

// powerActions and the state that they end in; quietActions are accepted operations after which everything is as it was.
var (
	powerActions = map[string]string{"start": "running", "restart": "running", "poweroff": "stopped", "deallocate": "deallocated"}
	quietActions = map[string]bool{"redeploy": true, "reapply": true, "reimage": true, "reimageall": true, "performmaintenance": true}
)

// machineActionLocked serves the POST actions of a machine or an instance.
func (s *Sim) machineActionLocked(r *request, res *resource, t target, verb string) *answer {
	power, run := powerActions[verb], verb == "runcommand"
	if power == "" && !run && !quietActions[verb] && verb != "generalize" && verb != "simulateeviction" {
		return noAction(res, t).answer()
	}
	if ae := s.lockedLocked(res.key, "write", false); ae != nil {
		return ae.answer()
	}
	if ae := s.busyLocked(res); ae != nil {
		return ae.answer()
	}
	props := object(res.body, "properties")
	switch verb {
	case "generalize":
		return ok(200, nil)
	case "simulateeviction":
		if !strings.EqualFold(text(props, "priority"), "Spot") {
			return (&armError{Status: 409, Code: "OperationNotAllowed", Message: "Operation 'simulateEviction' is not allowed on VM '" + res.t.name() + "' since it is not a Spot VM."}).answer()
		}
		s.setPowerLocked(res, "deallocated")
		return ok(204, nil)
	}
	var output []byte
	if run {
		var in struct {
			CommandID string   `json:"commandId"`
			Script    []string `json:"script"`
		}
		if err := json.Unmarshal(r.body, &in); err != nil {
			return invalidContent(err).answer()
		}
		if in.CommandID == "" {
			return badRequest("InvalidParameter", "Required parameter 'commandId' is missing (null).").answer()
		}
		if powerCode(s.instanceViewLocked(res)) != "PowerState/running" {
			return (&armError{Status: 409, Code: "OperationNotAllowed", Message: "Cannot modify extensions in the VM when the VM is not running."}).answer()
		}
		output = mustJSON(map[string]any{"value": []any{map[string]any{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded",
			"message": "Enable succeeded: \n[stdout]\n" + strings.Join(in.Script, "\n") + "\n[stderr]\n"}}})
	}
	op := s.beginLocked(r, res, res.t, t.types[len(t.types)-1], false)
	op.result, op.output = []byte{}, run
	if run {
		op.result = output
	}
	if power != "" && !r.unapplied() {
		s.setPowerLocked(res, power)
	}
	s.countLocked(res.key)
	a := ok(202, nil)
	s.opHeaders(op, r, a.header, true, true)
	return a
}

func noAction(res *resource, t target) *armError {
	return &armError{Status: 404, Code: "NotFound", Message: "The simulator serves no action '" + t.types[len(t.types)-1] + "' on " + res.typ + "."}
}

// actionLocked serves the POST actions.
func (s *Sim) actionLocked(r *request, t target) *answer {
	if !t.collection() || len(t.types) < 2 {
		return methodNotAllowed(r).answer()
	}
	verb := strings.ToLower(t.types[len(t.types)-1])
	on := t.parent()
	res := s.all[on.key()]
	if res == nil {
		return notFound(on).answer()
	}
	switch {
	case res.typeKey == typeVNet && verb == "listnetworkmanagereffectivesecurityadminrules":
		return ok(200, s.adminRulesLocked(res))
	case res.typeKey == typeNIC && verb == "effectivenetworksecuritygroups":
		return s.effectiveLocked(r, res)
	case res.typeKey == typeVMSS && (powerActions[verb] != "" || quietActions[verb] || verb == "delete" || verb == "manualupgrade"):
		return s.scaleSetActionLocked(r, res, t, verb)
	case res.typeKey == typeVM || res.typeKey == typeVMSSVM:
		return s.machineActionLocked(r, res, t, verb)
	}
	return noAction(res, t).answer()
}

// adminRulesLocked is what Virtual Network Manager says of a VNet: the children of that type in the estate, one after another.
func (s *Sim) adminRulesLocked(vnet *resource) []byte {
	value := []any{}
	for _, r := range s.byType[typeAdmin] {
		if r.gone || !strings.HasPrefix(r.key, vnet.key+"/") {
			continue
		}
		list, _ := object(r.body, "properties")["value"].([]any)
		value = append(value, list...)
	}
	return mustJSON(map[string]any{"value": value, "skipToken": ""})
}

// effectiveLocked is effectiveNetworkSecurityGroups: 202, then the groups of the NIC and of its subnets with their rules in the spelling
// of that call (FACTS 2.3). Tags are listed with the few prefixes that do not change; the others are left unexpanded.
func (s *Sim) effectiveLocked(r *request, nic *resource) *answer {
	props := object(s.treeLocked(nic), "properties")
	vm := s.all[strings.ToLower(refID(props, "virtualMachine"))]
	if vm == nil || powerCode(s.instanceViewLocked(vm)) != "PowerState/running" {
		return badRequest("NetworkInterfaceNotAttachedToRunningVirtualMachine", "Network interface %s must be attached to a running virtual machine to compute its effective network security groups.", nic.id).answer()
	}
	var value []any
	add := func(id string, association map[string]any) {
		nsg := s.all[strings.ToLower(id)]
		if id == "" || nsg == nil {
			return
		}
		list := make([]any, 0, len(nsg.rules)+len(defaultRules))
		for _, x := range nsg.rules {
			list = append(list, effectiveRule("securityRules/"+x.name, x.props))
		}
		for _, x := range defaultRules {
			list = append(list, effectiveRule("defaultSecurityRules/"+x.name, x.props))
		}
		value = append(value, map[string]any{"networkSecurityGroup": map[string]any{"id": nsg.id}, "association": association, "effectiveSecurityRules": list})
	}
	seen := map[string]bool{}
	for _, c := range objects(props, "ipConfigurations") {
		id := refID(object(c, "properties"), "subnet")
		if id == "" || seen[strings.ToLower(id)] {
			continue
		}
		seen[strings.ToLower(id)] = true
		t, err := parsePath(id)
		if err != nil {
			continue
		}
		vnet := s.all[t.top().key()]
		if vnet == nil {
			continue
		}
		for _, sub := range objects(object(vnet.body, "properties"), "subnets") {
			if strings.EqualFold(text(sub, "name"), t.name()) {
				add(refID(object(sub, "properties"), "networkSecurityGroup"), map[string]any{"subnet": map[string]any{"id": id}})
			}
		}
	}
	add(refID(props, "networkSecurityGroup"), map[string]any{"networkInterface": map[string]any{"id": nic.id}})
	if value == nil {
		value = []any{}
	}
	op := s.newOperationLocked(r, nic, nic.t, "GetEffective")
	op.result = mustJSON(map[string]any{"value": value})
	s.atLocked(s.nowLocked().Add(s.cfg.OperationDelay), func() { s.endLocked(op, "Succeeded", nil) })
	a := ok(202, nil)
	s.opHeaders(op, r, a.header, false, true)
	return a
}

func effectiveRule(name string, p map[string]any) map[string]any {
	out := map[string]any{"name": name, "access": p["access"], "priority": p["priority"], "direction": p["direction"], "protocol": p["protocol"]}
	if p["protocol"] == "*" {
		out["protocol"] = "All"
	}
	for _, side := range []string{"source", "destination"} {
		ports := stringList(p, side+"PortRanges")
		if one := text(p, side+"PortRange"); one != "" {
			ports = []string{one}
		}
		for i, v := range ports {
			switch {
			case v == "*":
				ports[i] = "0-65535"
			case !strings.Contains(v, "-"):
				ports[i] = v + "-" + v
			}
		}
		out[side+"PortRanges"] = ports
		if len(ports) == 1 {
			out[side+"PortRange"] = ports[0]
		}
		addrs := stringList(p, side+"AddressPrefixes")
		if one := text(p, side+"AddressPrefix"); one != "" {
			addrs = []string{one}
		}
		for i, v := range addrs {
			if v == "*" {
				addrs[i] = "0.0.0.0/0"
			}
		}
		if len(addrs) > 0 {
			out[side+"AddressPrefixes"] = addrs
			if len(addrs) == 1 {
				out[side+"AddressPrefix"] = addrs[0]
			}
			if len(addrs) == 1 && addrs[0] == "AzureLoadBalancer" {
				title := strings.ToUpper(side[:1]) + side[1:]
				out["expanded"+title+"AddressPrefix"] = []string{"168.63.129.16/32"}
			}
		}
		if asgs, ok := p[side+"ApplicationSecurityGroups"]; ok {
			out[side+"ApplicationSecurityGroups"] = asgs
		}
	}
	return out
}

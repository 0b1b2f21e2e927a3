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
	props := object(res.doc(), "properties")
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
		if _, owner, found := s.lookLocked(on, view{}); found {
			return noAction(owner, t).answer()
		}
		if s.unknownType(on) {
			return noType(on, r.api).answer()
		}
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
		list, _ := object(r.doc(), "properties")["value"].([]any)
		value = append(value, list...)
	}
	return mustJSON(map[string]any{"value": value, "skipToken": ""})
}

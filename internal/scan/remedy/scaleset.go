package remedy

import (
	"fmt"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

const computeAPI = "2024-07-01"

// namedInstances bounds how many instances are named one by one; more are brought to the model as "*", which passes over those that are
// on it.
const namedInstances = 50

// announce switches the announcement of termination on, or puts its time right. az vmss update would replace the whole
// scheduledEventsProfile and drop the announcement of image updates beside it (FACTS 4.1), so that the profile is read, changed in its
// one part and sent back.
func (p *plan) announce(minutes int, what string) {
	x, ok := refOf(p.f.Resource)
	if !ok {
		return
	}
	set := p.index().sets[strings.ToLower(p.f.Resource)]
	isSet := strings.EqualFold(p.f.Type, "Microsoft.Compute/virtualMachineScaleSets") || set != nil
	timeout := fmt.Sprintf("PT%dM", minutes)
	profile := map[string]any{"terminateNotificationProfile": map[string]any{"enable": true, "notBeforeTimeout": timeout}}
	at, kind := "properties", "machine"
	if isSet {
		at, kind = "properties.virtualMachineProfile", "scale set"
	}
	behind := p.f.Rule == scan.VMSSTerminateOff && set != nil && announced(set.Terminate)
	if behind {
		p.say("The model of the scale set announces termination: bring the instances that are not on the latest model to it.")
	} else {
		p.sayf("Let the %s %s, and keep what else stands in its scheduledEventsProfile.", kind, what)
		p.mind(p.f.Resource)
		query := "merge(" + at + ".scheduledEventsProfile || " + jmes(map[string]any{}) + ", " + jmes(profile) + ")"
		query = "{properties: {scheduledEventsProfile: " + query + "}}"
		if isSet {
			query = strings.Replace(query, "properties: {", "properties: {virtualMachineProfile: {", 1) + "}"
		}
		url := sh(p.f.Resource + "?api-version=" + computeAPI)
		p.shell("az rest --method get --url " + url + " --query " + sh(query) + " --output json >profile.json &&")
		p.shell("az rest --method patch --url " + url + " --body @profile.json")
		p.bicep = append(p.bicep, fmt.Sprintf(`// For %s: in its resource, under %s.scheduledEventsProfile, beside what stands there.
var terminateNotificationProfile = {
  enable: true
  notBeforeTimeout: '%s'
}

output terminateNotificationProfile object = terminateNotificationProfile
`, plain(p.f.Resource), at, timeout))
		p.hcl = append(p.hcl, fmt.Sprintf(`# For %s: this block belongs in its resource.
termination_notification {
  enabled = true
  timeout = "%s"
}
`, plain(p.f.Resource), timeout))
		p.stepf("Open the %s %s (subscription %s, resource group %s), Configuration, Instance termination notification: On, delay %d minutes. Save.", kind, x.name, x.sub, x.group, minutes)
	}
	if set == nil || set.Flexible {
		return
	}
	if !behind && !strings.EqualFold(set.UpgradeMode, "Manual") {
		p.sayf("Its upgrade policy (%s) brings the instances to the new model.", orUnknown(set.UpgradeMode))
		return
	}
	if strings.EqualFold(set.UpgradeMode, "Manual") {
		p.choose("--upgrade-instances")
	}
	ids := []string{"*"}
	if behind {
		ids = nil
		for _, in := range set.Instances {
			if in.Latest == nil || !*in.Latest {
				ids = append(ids, in.InstanceID)
			}
		}
		if len(ids) > namedInstances || len(ids) == 0 {
			ids = []string{"*"}
		}
	} else {
		p.say("Its upgrade policy is Manual: bring the instances to the new model afterwards.")
	}
	line := "az vmss update-instances" + p.in(x) + opt("--name", x.name) + " --instance-ids"
	for _, id := range ids {
		p.mind(id)
		line += " " + sh(id)
	}
	if len(p.az) > 0 {
		p.az[len(p.az)-1] += " &&"
	}
	p.shell(line)
	p.stepf("Open the scale set %s, Instances, select those whose Latest model is No, and choose Upgrade.", x.name)
}

func announced(t estate.Terminate) bool {
	return t.Profile && t.Present && t.Enable != nil && *t.Enable && inRange(t.NotBefore)
}

// inRange tells whether a time is one that Azure takes. The spellings that Azure itself writes are enough here: of another one the model
// is written anew, which is harmless.
func inRange(s string) bool {
	if s == "" {
		return true // Azure's default
	}
	for m := 5; m <= 15; m++ {
		if strings.EqualFold(s, fmt.Sprintf("PT%dM", m)) {
			return true
		}
	}
	return false
}

func orUnknown(s string) string {
	if s == "" {
		return "not told"
	}
	return s
}

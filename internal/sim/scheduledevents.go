package sim

import (
	"strings"
	"time"
)

// scheduledEvents checks and normalises the scheduledEventsProfile in holder: properties of a machine, or the virtualMachineProfile of a
// set; old is the holder before the write. What is switched off is not echoed, so that a profile with nothing on reads back as {}; a profile
// that gives the time alone keeps what was on (recorded, FACTS 4.1). Spot machines get Preempt events and may not ask for Terminate.
func scheduledEvents(holder, old map[string]any) *armError {
	p := object(holder, "scheduledEventsProfile")
	if p == nil {
		delete(holder, "scheduledEventsProfile") // null is the same as nothing
		return nil
	}
	for _, n := range []struct {
		field    string
		min, max time.Duration
		standard string
	}{
		{"terminateNotificationProfile", 5 * time.Minute, 15 * time.Minute, "PT5M"},
		{"osImageNotificationProfile", 15 * time.Minute, 15 * time.Minute, "PT15M"},
	} {
		was := object(object(old, "scheduledEventsProfile"), n.field)
		now := object(p, n.field)
		if now == nil {
			delete(p, n.field)
			continue
		}
		if after := text(now, "notBeforeTimeout"); now["notBeforeTimeout"] != nil {
			if d, ok := isoDuration(after); !ok || d < n.min || d > n.max {
				return badRequest("InvalidParameter", "The value '%v' of parameter '%s.notBeforeTimeout' is invalid. It must be an ISO 8601 duration from %s to %s.", now["notBeforeTimeout"], n.field, iso(n.min), iso(n.max))
			}
		}
		on, said := now["enable"].(bool)
		if !said {
			on = truth(was["enable"])
		}
		if !on {
			delete(p, n.field)
			continue
		}
		if n.field == "terminateNotificationProfile" && (strings.EqualFold(text(holder, "priority"), "Spot") || strings.EqualFold(text(holder, "priority"), "Low")) {
			return badRequest("InvalidParameter", "Terminate notification is not supported for virtual machines of priority '%s'.", text(holder, "priority"))
		}
		now["enable"] = true
		fill(now, "notBeforeTimeout", n.standard)
	}
	return nil
}

func iso(d time.Duration) string { return "PT" + decimal(int64(d/time.Minute)) + "M" }

// eventsPolicy keeps of scheduledEventsPolicy what a write leaves out, calls off what was never said, and shows no policy that has nothing
// on (recorded).
func eventsPolicy(props, old map[string]any) {
	sent, was := object(props, "scheduledEventsPolicy"), object(old, "scheduledEventsPolicy")
	policy, _ := cloneJSON(was).(map[string]any)
	if policy == nil {
		policy = map[string]any{}
	}
	merge(policy, sent)
	if !anyOn(policy) {
		delete(props, "scheduledEventsPolicy")
		return
	}
	for _, f := range []string{"userInitiatedRedeploy", "userInitiatedReboot"} {
		if o := object(policy, f); o != nil {
			fill(o, "automaticallyApprove", false)
		}
	}
	if o := object(object(policy, "scheduledEventsAdditionalPublishingTargets"), "eventGridAndResourceGraph"); o != nil {
		fill(o, "enable", false)
	}
	props["scheduledEventsPolicy"] = policy
}

func anyOn(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return truth(v)
	}
	for _, e := range m {
		if anyOn(e) {
			return true
		}
	}
	return false
}

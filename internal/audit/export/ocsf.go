package export

import (
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/audit"
)

const ocsfVersion = "1.8.0"

// object is a JSON object: encoding/json sorts its keys, so that an entry is always the same bytes.
type object = map[string]any

// statusOf is the outcome as the base event's status; an intent is neither success nor failure.
func statusOf(o audit.Outcome) (int, string) {
	switch o {
	case audit.Done:
		return 1, "Success"
	case audit.Refused, audit.Failed:
		return 2, "Failure"
	case audit.Intent:
		return 99, "Intent"
	}
	return 0, "Unknown"
}

// ocsfLine is an entry as one OCSF event. What the class has no attribute for stands in unmapped, so that nothing of the entry is lost.
func ocsfLine(e audit.Entry, leaf string, o Options) ([]byte, error) {
	m := meant(e)
	sev := severity(e)
	status, word := statusOf(e.Outcome)
	product := object{"name": "Curfew", "vendor_name": "Curfew", "feature": object{"name": "audit"}}
	if o.Version != "" {
		product["version"] = safe(o.Version)
	}
	meta := object{"version": ocsfVersion, "product": product, "uid": leaf, "sequence": e.Index, "event_code": safe(e.Action), "log_name": "curfew audit",
		"original_time": e.At.UTC().Format(time.RFC3339Nano)}
	if e.Correlation != "" {
		meta["correlation_uid"] = safe(e.Correlation)
	}
	entry := object{"index": e.Index, "leaf_hash": leaf, "action": safe(e.Action), "outcome": safe(string(e.Outcome)), "late": e.Late}
	for key, v := range map[string]string{"origin": o.Origin, "object": e.Object, "vm": e.VM, "request": e.Request, "correlation": e.Correlation} {
		if v != "" {
			entry[key] = safe(v)
		}
	}
	if len(e.Detail) > 0 {
		d := object{}
		for k, v := range e.Detail {
			d[safe(k)] = safe(v)
		}
		entry["detail"] = d
	}
	ev := object{"activity_id": m.activity, "activity_name": safe(m.activityName()), "category_uid": m.class.uid / 1000, "category_name": m.class.category,
		"class_uid": m.class.uid, "class_name": m.class.name, "type_uid": m.class.uid*100 + m.activity, "type_name": m.class.name + ": " + safe(m.activityName()),
		"time": e.At.UnixMilli(), "severity_id": sev, "severity": severityNames[sev], "status_id": status, "status": word, "status_code": safe(string(e.Outcome)),
		"status_detail": safe(e.Message), "message": safe(e.Message), "metadata": meta, "unmapped": object{"entry": entry}}
	from, err := netip.ParseAddr(e.Detail["from"])
	if err == nil {
		ev["observables"] = []object{{"name": "unmapped.entry.detail.from", "type": "IP Address", "type_id": 2, "value": from.String()}}
	}
	switch m.class.uid {
	case userAccess.uid:
		ev["actor"], ev["src_endpoint"] = actor(e, m), endpoint(e, from)
		ev["user"] = object{"name": safe(e.Detail["requester"]), "type": "User", "type_id": 1}
		ev["privileges"] = []string{safe(privilege(e))}
		ev["resources"] = resources(e, m)
	case signIn.uid:
		name := e.Actor
		if of := e.Detail["account"]; of != "" && m.activity == 2 { // whose session an admin, or the program, has ended
			name = of
		}
		if name == "" {
			name = "unknown"
		}
		ev["actor"], ev["src_endpoint"] = actor(e, m), endpoint(e, from)
		ev["user"], ev["service"] = object{"name": safe(name), "type": "User", "type_id": 1}, object{"name": "Curfew"}
		if e.Object != "" && e.Object != name { // all of somebody's sessions are ended under their name
			ev["session"] = object{"uid": safe(e.Object)}
		}
	case entity.uid:
		ev["actor"], ev["src_endpoint"] = actor(e, m), endpoint(e, from)
		ev["entity"] = managed(e, m)
		if c := comment(e); c != "" {
			ev["comment"] = safe(c)
		}
	case apiCall.uid:
		call := object{"operation": safe(e.Action), "service": object{"name": "Curfew"}}
		if e.Correlation != "" {
			call["request"] = object{"uid": safe(e.Correlation)}
		}
		ev["actor"], ev["src_endpoint"], ev["api"] = actor(e, m), endpoint(e, from), call
		if r := resources(e, m); len(r) > 0 {
			ev["resources"] = r
		}
	case scanRun.uid:
		kind, word := 1, "Manual"
		if service(e) {
			kind, word = 2, "Scheduled"
		}
		scan := object{"name": "curfew scan", "type_id": kind, "type": word}
		if e.Object != "" {
			scan["uid"] = safe(e.Object)
		}
		ev["scan"] = scan
	case compliance.uid:
		finding(ev, e)
	}
	b, err := json.Marshal(ev)
	if err != nil {
		return nil, err
	}
	return line(b), nil
}

// actor is who did it, and the policy rules by which it was judged.
func actor(e audit.Entry, m meaning) object {
	a := object{}
	if service(e) {
		a["app_name"] = "Curfew"
		a["user"] = object{"name": safe(e.Actor), "type": "Service", "type_id": 4}
	} else {
		name := safe(e.Actor)
		if name == "" {
			name = "unknown"
		}
		a["user"] = object{"name": name, "type": "User", "type_id": 1}
	}
	decision := map[audit.Outcome]string{audit.Done: "allowed", audit.Refused: "denied"}[e.Outcome]
	if rules := list(e.Detail["rules"]); len(rules) > 0 && decision != "" {
		var auths []object
		for _, r := range rules {
			auths = append(auths, object{"decision": decision, "policy": object{"name": safe(r), "type": "access policy rule"}})
		}
		a["authorizations"] = auths
	}
	return a
}

// endpoint is where the call came from. The program's own acts come from the program; a caller whose address was not noted is unknown.
func endpoint(e audit.Entry, from netip.Addr) object {
	switch {
	case from.IsValid():
		return object{"ip": from.String()}
	case service(e):
		return object{"svc_name": "curfew"}
	}
	return object{"name": "unknown"}
}

// privilege is what a grant lets its user do.
func privilege(e audit.Entry) string {
	target, source := e.Detail["target"], e.Detail["source"]
	if target == "" {
		target = e.VM
	}
	p := "connect to " + target
	if source != "" {
		p += " from " + source
	}
	if end := e.Detail["ends_at"]; end != "" {
		p += " until " + end
	}
	return p
}

func comment(e audit.Entry) string {
	if c := e.Detail["comment"]; c != "" {
		return c
	}
	return e.Detail["reason"]
}

// managed is the entity that the entry is about.
func managed(e audit.Entry, m meaning) object {
	out := object{"type_id": 99, "type": m.kind}
	if e.Object != "" {
		out["uid"] = safe(e.Object)
	}
	switch {
	case m.kind == "JIT Protection": // a policy of a machine's
		name := safe(e.VM)
		if name == "" {
			name = "a machine"
		}
		policy := object{"name": "JIT protection of " + name, "type": "JIT protection"}
		if e.Outcome == audit.Done && m.activity != 2 {
			policy["is_applied"] = m.activity == 8
		}
		if e.Object != "" {
			policy["uid"] = safe(e.Object)
		}
		out["type_id"], out["type"], out["policy"], out["name"] = 5, "Policy", policy, policy["name"]
	case e.VM != "":
		out["name"] = m.kind + " for " + safe(e.VM)
	default:
		out["name"] = m.kind
	}
	return out
}

// resources are the machine and, where it is another thing, the object.
func resources(e audit.Entry, m meaning) []object {
	var out []object
	if e.Object != "" {
		out = append(out, object{"uid": safe(e.Object), "type": m.kind, "role_id": 1, "role": "Target"})
	}
	for _, vm := range list(e.VM) {
		out = append(out, object{"name": safe(vm), "type": "Virtual Machine", "role_id": 3, "role": "Affected"})
	}
	return out
}

// finding fills in what a Compliance Finding needs. Its uid is that of the scan's own export, so that both are one finding to a SIEM.
func finding(ev object, e audit.Entry) {
	rule := safe(e.Detail["rule"])
	info := object{"uid": safe(e.Object), "title": rule, "desc": safe(e.Message), "types": []string{rule}}
	if e.Object == "" {
		info["uid"] = rule
	}
	status, word := 1, "New"
	if e.Action == "scan.gone" {
		status, word = 4, "Resolved"
	}
	verdict, verdictWord := 0, "Unknown"
	switch strings.ToLower(e.Detail["status"]) {
	case "pass":
		verdict, verdictWord = 1, "Pass"
	case "fail":
		verdict, verdictWord = 3, "Fail"
	case "not_applicable":
		verdict, verdictWord = 99, "Not Applicable"
	}
	ev["finding_info"], ev["status_id"], ev["status"] = info, status, word
	ev["compliance"] = object{"control": rule, "status_id": verdict, "status": verdictWord, "status_details": []string{safe(e.Message)}}
	if e.VM != "" {
		ev["resources"] = []object{{"name": safe(e.VM), "type": "Virtual Machine", "role_id": 3, "role": "Affected"}}
	}
}

package sim

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

const typePricing = "microsoft.security/pricings"

// securityLocked serves Microsoft.Security: locations, plans (pricings) and just-in-time policies. nil means that the generic code may try.
func (s *Sim) securityLocked(r *request, t target) *answer {
	if !strings.EqualFold(t.ns, "Microsoft.Security") {
		return nil
	}
	t.ns = "Microsoft.Security"
	switch first := strings.ToLower(t.types[0]); {
	case first == "locations" && len(t.types) == 1 && r.method == http.MethodGet:
		return s.securityLocationsLocked(t)
	case first == "pricings" && len(t.types) == 1:
		return s.pricingsLocked(r, t)
	case first == "jitnetworkaccesspolicies" && len(t.types) == 1 && t.collection() && r.method == http.MethodGet:
		return s.listJITLocked(r, t, "")
	case first == "locations" && len(t.types) >= 2 && strings.EqualFold(t.types[1], "jitNetworkAccessPolicies"):
		return s.jitLocked(r, t)
	}
	return nil
}

// homeLocked is the region where Defender keeps a subscription: that of its first group.
func (s *Sim) homeLocked(sub string) string {
	for _, g := range s.byType[typeGroup] {
		if !g.gone && strings.EqualFold(g.t.sub, sub) {
			return regionName(text(g.doc(), "location"))
		}
	}
	return "westeurope"
}

func regionName(l string) string { return strings.ToLower(strings.ReplaceAll(l, " ", "")) }

func (s *Sim) securityLocationsLocked(t target) *answer {
	one := func(name string) map[string]any {
		return map[string]any{"id": "/subscriptions/" + t.sub + "/providers/Microsoft.Security/locations/" + name, "name": name, "type": "Microsoft.Security/locations",
			"properties": map[string]any{"homeRegionName": name}}
	}
	home := s.homeLocked(t.sub)
	if t.collection() {
		return ok(200, mustJSON(map[string]any{"value": []any{one(home)}}))
	}
	if !sameLocation(t.name(), home) {
		return notFound(t).answer()
	}
	return ok(200, mustJSON(one(home)))
}

// plans of Defender, as recorded, in that order.
var plans = []string{"VirtualMachines", "SqlServers", "AppServices", "StorageAccounts", "SqlServerVirtualMachines", "KubernetesService", "ContainerRegistry", "KeyVaults",
	"Dns", "Arm", "OpenSourceRelationalDatabases", "CosmosDbs", "Containers", "CloudPosture", "Api"}

// deprecated plans and what replaces them.
var replacedPlans = map[string]string{"KubernetesService": "Containers", "ContainerRegistry": "Containers", "Dns": "VirtualMachines"}

func planName(name string) string {
	for _, p := range plans {
		if strings.EqualFold(p, name) {
			return p
		}
	}
	return ""
}

func pricingTarget(scope, sub, plan string) target {
	return target{scope: scope, sub: sub, ns: "Microsoft.Security", types: []string{"pricings"}, names: []string{plan}}
}

// pricingLocked is one plan at a scope: what was set there, what a resource inherits from its subscription, or Free.
func (s *Sim) pricingLocked(scope, sub, plan string) map[string]any {
	t := pricingTarget(scope, sub, plan)
	props := map[string]any{"pricingTier": "Free", "freeTrialRemainingTime": "PT0S"}
	resourceLevel := !strings.EqualFold(scope, "/subscriptions/"+sub)
	if res := s.all[t.key()]; res != nil {
		props = maps.Clone(object(res.doc(), "properties"))
		if resourceLevel {
			props["inherited"] = "False"
		}
	} else if resourceLevel {
		parent := s.pricingLocked("/subscriptions/"+sub, sub, plan)
		props = maps.Clone(object(parent, "properties"))
		delete(props, "enforce")
		props["inherited"], props["inheritedFrom"] = "True", "/subscriptions/"+sub
	}
	if by := replacedPlans[plan]; by != "" {
		props["deprecated"], props["replacedBy"] = true, []any{by}
	}
	return map[string]any{"id": t.id(), "name": plan, "type": "Microsoft.Security/pricings", "properties": props}
}

var planFilter = regexp.MustCompile(`(?i)^\s*name\s+in\s*\(([^)]*)\)\s*$`)

func (s *Sim) pricingsLocked(r *request, t target) *answer {
	sub := "/subscriptions/" + t.sub
	resourceLevel := !strings.EqualFold(t.scope, sub)
	if resourceLevel {
		on, err := parsePath(t.scope)
		if err != nil || on.ns == "" || s.all[on.key()] == nil {
			return notFound(on).answer()
		}
	}
	if t.collection() {
		if r.method != http.MethodGet {
			return methodNotAllowed(r).answer()
		}
		want := plans
		if resourceLevel {
			want = plans[:1]
		}
		if f := r.query.Get("$filter") + r.query.Get("$Filter"); f != "" {
			m := planFilter.FindStringSubmatch(f)
			if m == nil {
				return badRequest("InvalidFilter", "The simulator knows the filter \"name in (...)\", not '%s'.", f).answer()
			}
			var chosen []string
			for n := range strings.SplitSeq(m[1], ",") {
				if p := planName(strings.TrimSpace(n)); p != "" && slices.Contains(want, p) {
					chosen = append(chosen, p)
				}
			}
			want = chosen
		}
		value := []any{}
		for _, p := range want {
			value = append(value, s.pricingLocked(t.scope, t.sub, p))
		}
		return ok(200, mustJSON(map[string]any{"value": value}))
	}
	plan := planName(t.name())
	if plan == "" || resourceLevel && plan != "VirtualMachines" {
		return notFound(t).answer()
	}
	key := pricingTarget(t.scope, t.sub, plan).key()
	switch r.method {
	case http.MethodGet:
		return ok(200, mustJSON(s.pricingLocked(t.scope, t.sub, plan)))
	case http.MethodDelete:
		if !resourceLevel {
			return methodNotAllowed(r).answer()
		}
		if s.all[key] == nil {
			return ok(204, nil)
		}
		s.removeLocked(s.all[key])
		return ok(200, nil)
	case http.MethodPut:
	default:
		return methodNotAllowed(r).answer()
	}
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	props := object(body, "properties")
	tier, subPlan := text(props, "pricingTier"), text(props, "subPlan")
	if ae := oneOf("properties.pricingTier", &tier, "Free", "Standard"); ae != nil {
		return ae.answer()
	}
	out := map[string]any{"pricingTier": tier, "freeTrialRemainingTime": "PT0S"}
	if tier == "Standard" {
		if plan == "VirtualMachines" {
			if subPlan == "" {
				subPlan = "P2" // recorded
			}
			if ae := oneOf("properties.subPlan", &subPlan, "P1", "P2"); ae != nil {
				return ae.answer()
			}
			if resourceLevel && subPlan != "P1" {
				return badRequest("InvalidParameter", "The sub plan '%s' is not supported at resource level: only P1 is.", subPlan).answer()
			}
		}
		if subPlan != "" {
			out["subPlan"] = subPlan
		}
		out["enablementTime"] = s.nowLocked().Format(time.RFC3339Nano)
		if old := s.all[key]; old != nil {
			if since := text(object(old.doc(), "properties"), "enablementTime"); since != "" {
				out["enablementTime"] = since
			}
		}
		if e, ok := props["extensions"].([]any); ok {
			out["extensions"] = e
		}
		if e := text(props, "enforce"); e != "" && !resourceLevel {
			out["enforce"] = e
		}
	}
	s.storeServerLocked(pricingTarget(t.scope, t.sub, plan), map[string]any{"properties": out})
	s.countLocked(key)
	shown, _ := cloneJSON(s.pricingLocked(t.scope, t.sub, plan)).(map[string]any)
	for _, e := range objects(object(shown, "properties"), "extensions") { // recorded: the reply to the PUT says how it went
		if strings.EqualFold(text(e, "isEnabled"), "True") {
			e["operationStatus"] = map[string]any{"code": "Succeeded", "message": "Successfully enabled extension"}
		}
	}
	return ok(200, mustJSON(shown))
}

// plan2Locked tells whether just-in-time access is paid for: Defender for Servers Plan 2 on the subscription; a Standard tier without a sub
// plan is the full plan (FACTS 1.2).
func (s *Sim) plan2Locked(sub string) bool {
	p := object(s.pricingLocked("/subscriptions/"+sub, sub, "VirtualMachines"), "properties")
	plan := text(p, "subPlan")
	return text(p, "pricingTier") == "Standard" && (plan == "" || plan == "P2")
}

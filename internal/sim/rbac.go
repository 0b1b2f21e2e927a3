package sim

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	typeRole       = "microsoft.authorization/roledefinitions"
	typeAssignment = "microsoft.authorization/roleassignments"
	typePermission = "microsoft.authorization/permissions"
)

// role is a role definition: actions with * for any text, less the notActions.
type role struct {
	guid, name, description string
	actions, notActions     []string
}

// builtInRoles have Azure's ids. Their action lists are Azure's where the simulator's types are concerned.
var builtInRoles = []role{
	{"8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", "Grants full access to manage all resources, including the ability to assign roles in Azure RBAC.", []string{"*"}, nil},
	{"b24988ac-6180-42a0-ab88-20f7382dd24c", "Contributor", "Grants full access to manage all resources, but does not allow you to assign roles in Azure RBAC.", []string{"*"},
		[]string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"}},
	{"acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", "View all resources, but does not allow you to make any changes.", []string{"*/read"}, nil},
	{"4d97b98b-1d4f-4787-a291-c67834d212e7", "Network Contributor", "Lets you manage networks, but not access to them.", []string{"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*",
		"Microsoft.Network/*", "Microsoft.ResourceHealth/availabilityStatuses/read", "Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read"}, nil},
	{"9980e02c-c2be-4d73-94e8-173b1dc7cf3c", "Virtual Machine Contributor", "Lets you manage virtual machines, but not access to them, and not the virtual network or storage account they are connected to.",
		[]string{"Microsoft.Authorization/*/read", "Microsoft.Compute/virtualMachines/*", "Microsoft.Compute/virtualMachineScaleSets/*", "Microsoft.Compute/locations/*",
			"Microsoft.Network/applicationGateways/backendAddressPools/join/action", "Microsoft.Network/loadBalancers/backendAddressPools/join/action", "Microsoft.Network/loadBalancers/inboundNatPools/join/action",
			"Microsoft.Network/loadBalancers/inboundNatRules/join/action", "Microsoft.Network/loadBalancers/probes/join/action", "Microsoft.Network/loadBalancers/read", "Microsoft.Network/locations/*",
			"Microsoft.Network/networkInterfaces/*", "Microsoft.Network/networkSecurityGroups/join/action", "Microsoft.Network/networkSecurityGroups/read", "Microsoft.Network/publicIPAddresses/join/action",
			"Microsoft.Network/publicIPAddresses/read", "Microsoft.Network/virtualNetworks/read", "Microsoft.Network/virtualNetworks/subnets/join/action", "Microsoft.Resources/deployments/*",
			"Microsoft.Resources/subscriptions/resourceGroups/read"}, nil},
	{"39bc4728-0917-49c7-9d2c-d95423bc2eb4", "Security Reader", "Security Reader Role", []string{"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/read", "Microsoft.operationalInsights/workspaces/*/read",
		"Microsoft.Resources/deployments/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Security/*/read", "Microsoft.Security/iotDefenderSettings/packageDownloads/action"}, nil},
	{"fb1c8493-542b-48eb-b624-b4c8fea62acd", "Security Admin", "Security Admin Role", []string{"Microsoft.Authorization/*/read", "Microsoft.Authorization/policyAssignments/*", "Microsoft.Insights/alertRules/*",
		"Microsoft.Resources/deployments/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Security/*"}, nil},
}

func matchAction(pattern, action string) bool {
	pattern, action = strings.ToLower(pattern), strings.ToLower(action)
	segs := strings.Split(pattern, "*")
	if len(segs) == 1 {
		return pattern == action
	}
	if !strings.HasPrefix(action, segs[0]) {
		return false
	}
	action = action[len(segs[0]):]
	for _, m := range segs[1 : len(segs)-1] {
		i := strings.Index(action, m)
		if i < 0 {
			return false
		}
		action = action[i+len(m):]
	}
	return strings.HasSuffix(action, segs[len(segs)-1])
}

func (r role) permits(action string) bool {
	hit := func(list []string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return matchAction(p, action) })
	}
	return hit(r.actions) && !hit(r.notActions)
}

// rolesOn tells whether roles are checked: they are when the estate has an assignment. The fixed client that has none itself may do
// everything, so that a demo is not locked out by the first assignment it makes.
func (s *Sim) rolesOn(principal string) bool {
	on, own := false, false
	for _, a := range s.byType[typeAssignment] {
		if !a.gone {
			on = true
			own = own || strings.EqualFold(text(object(a.doc(), "properties"), "principalId"), principal)
		}
	}
	return on && (own || !strings.EqualFold(principal, ClientID))
}

// knownLocked: the fixed client, and every principal that has a role.
func (s *Sim) knownLocked(principal string) bool {
	if strings.EqualFold(principal, ClientID) {
		return true
	}
	return slices.ContainsFunc(s.byType[typeAssignment], func(a *resource) bool {
		return !a.gone && strings.EqualFold(text(object(a.doc(), "properties"), "principalId"), principal)
	})
}

func within(key, scope string) bool {
	scope = strings.TrimSuffix(strings.ToLower(scope), "/")
	return scope == "" || key == scope || strings.HasPrefix(key, scope+"/")
}

func (s *Sim) roleLocked(id string) (role, bool) {
	guid := strings.ToLower(id[strings.LastIndex(id, "/")+1:])
	for _, b := range builtInRoles {
		if b.guid == guid {
			return b, true
		}
	}
	for _, d := range s.byType[typeRole] {
		if !d.gone && strings.EqualFold(d.t.name(), guid) {
			props := object(d.doc(), "properties")
			out := role{guid: guid, name: text(props, "roleName"), description: text(props, "description")}
			for _, p := range objects(props, "permissions") {
				out.actions = append(out.actions, stringList(p, "actions")...)
				out.notActions = append(out.notActions, stringList(p, "notActions")...)
			}
			return out, true
		}
	}
	return role{}, false
}

// mayLocked tells whether a principal may do something at a scope (an id in lower case).
func (s *Sim) mayLocked(principal, action, scope string) bool {
	for _, a := range s.byType[typeAssignment] {
		props := object(a.doc(), "properties")
		if a.gone || !strings.EqualFold(text(props, "principalId"), principal) || !within(scope, a.t.scope) {
			continue
		}
		if r, ok := s.roleLocked(text(props, "roleDefinitionId")); ok && r.permits(action) {
			return true
		}
	}
	return false
}

// seesLocked: a subscription or group is listed to whom anything is assigned at it, above it or below it.
func (s *Sim) seesLocked(principal, key string) bool {
	return slices.ContainsFunc(s.byType[typeAssignment], func(a *resource) bool {
		return !a.gone && strings.EqualFold(text(object(a.doc(), "properties"), "principalId"), principal) &&
			(within(key, a.t.scope) || within(strings.ToLower(a.t.scope), key))
	})
}

// authorizeLocked refuses what the principal's roles do not permit, before anything else is looked at: also what does not exist.
func (s *Sim) authorizeLocked(r *request, t target) *armError {
	if !s.rolesOn(r.principal) {
		return nil
	}
	action := actionOf(r.method, t.canonical())
	if t.ns == "" && t.sub != "" && strings.HasSuffix(strings.ToLower(strings.TrimRight(r.path, "/")), "/resources") {
		action = "Microsoft.Resources/subscriptions/resources/read"
	}
	if t.typeKey() == "microsoft.security/jitnetworkaccesspolicies" { // the list of a subscription; Azure has no action of that name (FACTS 1.3)
		action = "Microsoft.Security/locations/jitNetworkAccessPolicies/read"
	}
	polling := strings.Contains(strings.ToLower(action), "/locations/operation") // whoever has the signed URL may poll
	if !polling {
		s.useLocked(r.principal, action)
	}
	scope := t
	if t.collection() {
		scope = t.parent()
		if len(t.types) == 1 {
			scope = target{scope: t.scope}
		}
	}
	key := scope.key()
	if t.ns == "" && t.sub != "" && r.method == http.MethodGet { // subscriptions, groups and the lists in them are cut to what is seen
		at := "/subscriptions/" + strings.ToLower(t.sub)
		if !s.seesLocked(r.principal, at) {
			return noSubscription(t.sub)
		}
		if t.group == "" || s.seesLocked(r.principal, at+"/resourcegroups/"+strings.ToLower(t.group)) {
			return nil
		}
	}
	if t.sub == "" {
		return nil
	}
	if polling {
		return nil
	}
	if s.mayLocked(r.principal, action, key) {
		return s.linkedLocked(r, t, action)
	}
	return &armError{Status: 403, Code: "AuthorizationFailed", Message: fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		r.principal, r.principal, action, scope.id())}
}

// linkedLocked checks the join actions on what a network resource or machine refers to.
func (s *Sim) linkedLocked(r *request, t target, action string) *armError {
	if r.method != http.MethodPut || !strings.HasPrefix(t.typeKey(), "microsoft.network/") && !strings.HasPrefix(t.typeKey(), "microsoft.compute/") {
		return nil
	}
	body, err := decodeObject(r.body)
	if err != nil {
		return nil // refused later, as what it is
	}
	var actions, scopes []string
	var walk func(field string, v any)
	walk = func(field string, v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(field, e)
			}
		case map[string]any:
			if join := joinActions[field]; join != "" && text(v, "id") != "" {
				s.useLocked(r.principal, join)
				if !s.mayLocked(r.principal, join, strings.ToLower(text(v, "id"))) {
					actions, scopes = append(actions, join), append(scopes, text(v, "id"))
				}
				return
			}
			for f, e := range v {
				walk(f, e)
			}
		}
	}
	walk("", body["properties"])
	if len(actions) == 0 {
		return nil
	}
	return &armError{Status: 403, Code: "LinkedAuthorizationFailed", Message: fmt.Sprintf("The client '%s' with object id '%s' has permission to perform action '%s' on scope '%s'; however, it does not have permission to perform action(s) '%s' on the linked scope(s) '%s' (respectively) or the linked scope(s) are invalid.",
		r.principal, r.principal, action, t.id(), strings.Join(actions, ","), strings.Join(scopes, ","))}
}

// joinActions are the actions that a reference in the field needs on what it names.
var joinActions = map[string]string{
	"networkSecurityGroup":                 "Microsoft.Network/networkSecurityGroups/join/action",
	"subnet":                               "Microsoft.Network/virtualNetworks/subnets/join/action",
	"publicIPAddress":                      "Microsoft.Network/publicIPAddresses/join/action",
	"routeTable":                           "Microsoft.Network/routeTables/join/action",
	"natGateway":                           "Microsoft.Network/natGateways/join/action",
	"networkInterfaces":                    "Microsoft.Network/networkInterfaces/join/action",
	"loadBalancerBackendAddressPools":      "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
	"loadBalancerInboundNatRules":          "Microsoft.Network/loadBalancers/inboundNatRules/join/action",
	"applicationSecurityGroups":            "Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action",
	"sourceApplicationSecurityGroups":      "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
	"destinationApplicationSecurityGroups": "Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action",
	"remoteVirtualNetwork":                 "Microsoft.Network/virtualNetworks/peer/action",
}

func roleBody(scope string, b role) map[string]any {
	list := func(v []string) []any {
		out := []any{}
		for _, s := range v {
			out = append(out, s)
		}
		return out
	}
	return map[string]any{"id": strings.TrimSuffix(scope, "/") + "/providers/Microsoft.Authorization/roleDefinitions/" + b.guid, "name": b.guid, "type": "Microsoft.Authorization/roleDefinitions",
		"properties": map[string]any{"roleName": b.name, "type": "BuiltInRole", "description": b.description, "assignableScopes": []any{"/"}, "permissions": []any{
			map[string]any{"actions": list(b.actions), "notActions": list(b.notActions), "dataActions": []any{}, "notDataActions": []any{}}}}}
}

var roleFilter = regexp.MustCompile(`(?i)^(roleName|type)\s+eq\s+'([^']*)'$`)

// rolesLocked serves Microsoft.Authorization's role definitions and assignments; nil for its other types.
func (s *Sim) rolesLocked(r *request, t target) *answer {
	switch t.typeKey() {
	case typeRole:
		t.ns, t.types = "Microsoft.Authorization", []string{"roleDefinitions"}
		return s.roleDefinitionsLocked(r, t)
	case typeAssignment:
		t.ns, t.types = "Microsoft.Authorization", []string{"roleAssignments"}
		return s.roleAssignmentsLocked(r, t)
	case typePermission:
		if !t.collection() || r.method != http.MethodGet {
			return methodNotAllowed(r).answer()
		}
		return ok(200, s.permissionsLocked(r.principal, strings.ToLower(t.scope)))
	}
	return nil
}

// permissionsLocked is what a principal's roles permit at a scope, a set of actions for each role that was given there or above.
func (s *Sim) permissionsLocked(principal, scope string) []byte {
	value := []any{}
	add := func(r role) {
		body := roleBody("", r)
		value = append(value, objects(object(body, "properties"), "permissions")[0])
	}
	if !s.rolesOn(principal) {
		add(builtInRoles[0])
	} else {
		for _, a := range s.byType[typeAssignment] {
			props := object(a.doc(), "properties")
			if a.gone || !strings.EqualFold(text(props, "principalId"), principal) || !within(scope, a.t.scope) {
				continue
			}
			if r, ok := s.roleLocked(text(props, "roleDefinitionId")); ok {
				add(r)
			}
		}
	}
	return mustJSON(map[string]any{"value": value})
}

func subScope(t target) string {
	if t.sub == "" {
		return ""
	}
	return "/subscriptions/" + t.sub
}

func (s *Sim) roleDefinitionsLocked(r *request, t target) *answer {
	get := r.method == http.MethodGet
	if t.collection() {
		if !get {
			return methodNotAllowed(r).answer()
		}
		name, kind := "", ""
		if f := r.query.Get("$filter"); f != "" && !strings.EqualFold(f, "atScope()") && !strings.EqualFold(f, "atScopeAndBelow()") {
			for term := range strings.SplitSeq(f, " and ") {
				m := roleFilter.FindStringSubmatch(strings.TrimSpace(term))
				if m == nil {
					return badRequest("UnsupportedQuery", "The simulator knows filters by roleName and type, not '%s'.", f).answer()
				}
				if strings.EqualFold(m[1], "type") {
					kind = m[2]
				} else {
					name = m[2]
				}
			}
		}
		value := []any{}
		for _, b := range builtInRoles {
			if (name == "" || b.name == name) && !strings.EqualFold(kind, "CustomRole") {
				value = append(value, roleBody(subScope(t), b))
			}
		}
		for _, d := range s.byType[typeRole] {
			if !d.gone && d.t.sub == t.sub && (name == "" || text(object(d.doc(), "properties"), "roleName") == name) && !strings.EqualFold(kind, "BuiltInRole") {
				value = append(value, s.treeLocked(d))
			}
		}
		return ok(200, mustJSON(map[string]any{"value": value}))
	}
	for _, b := range builtInRoles {
		if strings.EqualFold(b.guid, t.name()) {
			if !get {
				return (&armError{Status: 403, Code: "RoleDefinitionUpdateNotAllowed", Message: "Built-in roles cannot be changed."}).answer()
			}
			return ok(200, mustJSON(roleBody(subScope(t), b)))
		}
	}
	t.scope = subScope(t)
	res := s.all[t.key()]
	switch {
	case get && res == nil:
		return (&armError{Status: 404, Code: "RoleDefinitionDoesNotExist", Message: "The specified role definition with ID '" + t.name() + "' does not exist."}).answer()
	case get:
		return ok(200, s.rawLocked(res))
	case r.method == http.MethodDelete:
		if res == nil {
			return ok(204, nil)
		}
		if slices.ContainsFunc(s.byType[typeAssignment], func(a *resource) bool {
			return !a.gone && strings.HasSuffix(strings.ToLower(text(object(a.doc(), "properties"), "roleDefinitionId")), "/"+strings.ToLower(t.name()))
		}) {
			return badRequest("RoleDefinitionHasAssignments", "There are existing role assignments referencing role (code: RoleDefinitionHasAssignments).").answer()
		}
		raw := s.rawLocked(res)
		s.removeLocked(res)
		return ok(200, raw)
	case r.method != http.MethodPut:
		return methodNotAllowed(r).answer()
	}
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	props := object(body, "properties")
	if text(props, "roleName") == "" || len(objects(props, "permissions")) == 0 {
		return badRequest("InvalidRoleDefinition", "A role definition needs properties.roleName and properties.permissions.").answer()
	}
	props["type"] = "CustomRole"
	fill(props, "assignableScopes", []any{subScope(t)})
	status := 201
	if res != nil {
		status = 200
	}
	res = s.storeServerLocked(t, map[string]any{"properties": props})
	s.countLocked(t.key())
	return ok(status, s.rawLocked(res))
}

var assignmentFilter = regexp.MustCompile(`(?i)^(?:principalId\s+eq\s+'([^']*)'|assignedTo\('([^']*)'\))$`)

func (s *Sim) roleAssignmentsLocked(r *request, t target) *answer {
	get := r.method == http.MethodGet
	here := strings.ToLower(t.scope)
	if t.collection() {
		if !get {
			return methodNotAllowed(r).answer()
		}
		only, principal := false, ""
		if f := r.query.Get("$filter"); f != "" {
			for term := range strings.SplitSeq(f, " and ") {
				term = strings.TrimSpace(term)
				if strings.EqualFold(term, "atScope()") {
					only = true
				} else if m := assignmentFilter.FindStringSubmatch(term); m != nil {
					principal = m[1] + m[2]
				} else {
					return badRequest("UnsupportedQuery", "The simulator knows the filters atScope(), principalId eq '...' and assignedTo('...'), not '%s'.", f).answer()
				}
			}
		}
		return s.pageWhereLocked(r, []string{typeAssignment}, "", view{}, func(a *resource) bool {
			up, down := within(here, a.t.scope), within(strings.ToLower(a.t.scope), here)
			return (up || down && !only) && (principal == "" || strings.EqualFold(text(object(a.doc(), "properties"), "principalId"), principal))
		})
	}
	res := s.all[t.key()]
	switch {
	case get && res == nil:
		return (&armError{Status: 404, Code: "RoleAssignmentNotFound", Message: "The role assignment '" + t.name() + "' is not found."}).answer()
	case get:
		return ok(200, s.rawLocked(res))
	case r.method == http.MethodDelete:
		if res == nil {
			return ok(204, nil)
		}
		raw := s.rawLocked(res)
		s.removeLocked(res)
		s.countLocked(t.key())
		return ok(200, raw)
	case r.method != http.MethodPut:
		return methodNotAllowed(r).answer()
	}
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	props := object(body, "properties")
	who, what := text(props, "principalId"), text(props, "roleDefinitionId")
	if who == "" || what == "" {
		return badRequest("InvalidRoleAssignment", "A role assignment needs properties.principalId and properties.roleDefinitionId.").answer()
	}
	if _, known := s.roleLocked(what); !known {
		return badRequest("RoleDefinitionDoesNotExist", "The specified role definition with ID '%s' does not exist.", what[strings.LastIndex(what, "/")+1:]).answer()
	}
	if res != nil {
		return (&armError{Status: 409, Code: "RoleAssignmentUpdateNotPermitted", Message: "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."}).answer()
	}
	for _, a := range s.byType[typeAssignment] {
		p := object(a.doc(), "properties")
		if !a.gone && strings.EqualFold(a.t.scope, t.scope) && strings.EqualFold(text(p, "principalId"), who) && lastSegment(text(p, "roleDefinitionId")) == lastSegment(what) {
			return (&armError{Status: 409, Code: "RoleAssignmentExists", Message: "The role assignment already exists."}).answer()
		}
	}
	now := s.nowLocked().Format(time.RFC3339Nano)
	props["scope"], props["createdOn"], props["updatedOn"], props["createdBy"], props["updatedBy"] = t.scope, now, now, r.principal, r.principal
	fill(props, "principalType", "ServicePrincipal")
	res = s.storeServerLocked(t, map[string]any{"properties": props})
	s.countLocked(t.key())
	return ok(201, s.rawLocked(res))
}

func lastSegment(id string) string { return strings.ToLower(id[strings.LastIndex(id, "/")+1:]) }

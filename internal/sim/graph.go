package sim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// tableColumns of Resource Graph's resources table.
var tableColumns = []string{"id", "name", "type", "tenantId", "kind", "location", "resourceGroup", "subscriptionId", "managedBy", "sku", "plan",
	"properties", "tags", "identity", "zones", "extendedLocation"}

// tables say which types a table holds.
var tables = map[string]func(typeKey string) bool{
	"resources": func(t string) bool {
		return strings.Count(t, "/") == 1 && !strings.HasPrefix(t, "microsoft.resources/") && !strings.HasPrefix(t, "microsoft.authorization/") &&
			!strings.HasPrefix(t, "microsoft.security/")
	},
	"resourcecontainers": func(t string) bool { return t == typeSub || t == typeGroup },
	"computeresources":   func(t string) bool { return t == typeVMSSVM },
	"securityresources":  func(t string) bool { return strings.HasPrefix(t, "microsoft.security/") },
}

func (s *Sim) graphRowLocked(r *resource, v view) (row, bool) {
	tree := s.stampedLocked // no detour over text; an NSG's rules are not in its body
	if r.typeKey == typeNSG {
		tree = s.treeLocked
	}
	if v.stale > 0 || !v.asOf.IsZero() {
		raw := s.readLocked(r, v)
		if raw == nil {
			return row{}, false
		}
		tree = func(*resource) map[string]any { m, _ := decodeObject(raw); return m }
	}
	return row{base: func(c string) (any, bool) {
		switch c {
		case "id":
			return r.id, true
		case "name":
			if r.typeKey == typeSub {
				return r.doc()["displayName"], true
			}
			if r.typeKey != typeVMSSVM && r.t.ns != "" { // most, and without a look at the body
				return r.t.name(), true
			}
			return tree(r)["name"], true
		case "type":
			return r.typeKey, true
		case "tenantId":
			return TenantID, true
		case "resourceGroup":
			return strings.ToLower(r.t.group), true
		case "subscriptionId":
			return r.t.sub, true
		case "kind", "managedBy", "location":
			v, ok := tree(r)[c]
			if !ok {
				v = ""
			}
			return v, true
		case "properties":
			p := tree(r)["properties"]
			switch r.typeKey {
			case typeSub:
				m := tree(r)
				p = map[string]any{"state": m["state"], "managedByTenants": m["managedByTenants"], "subscriptionPolicies": m["subscriptionPolicies"]}
				if chain := object(m, "properties")["managementGroupAncestorsChain"]; chain != nil {
					p.(map[string]any)["managementGroupAncestorsChain"] = chain
				}
			case typeVMSSVM:
				p = object(withoutInstanceView(tree(r)), "properties")
			case typeVM:
				if m, ok := p.(map[string]any); ok {
					m = maps.Clone(m)
					delete(m, "instanceView")
					code := powerCode(s.instanceViewLocked(r))
					m["extended"] = map[string]any{"instanceView": map[string]any{"powerState": map[string]any{"code": code,
						"displayStatus": "VM " + strings.TrimPrefix(code, "PowerState/"), "level": "Info"}}}
					p = m
				}
			}
			return p, true
		}
		if slices.Contains(tableColumns, c) {
			return tree(r)[c], true
		}
		return nil, false
	}}, true
}

// maxGraphSubscriptions in one query (FACTS 3).
const maxGraphSubscriptions = 1000

// graphScopeLocked resolves what a query is asked of; nil means everything. The tenant's id is the root management group; others are
// known from the managementGroupAncestorsChain of the estate's subscriptions.
func (s *Sim) graphScopeLocked(subscriptions, groups []string) (map[string]bool, *armError) {
	if len(subscriptions) > maxGraphSubscriptions {
		return nil, badRequest("InvalidSubscriptionCount", "A query may name at most %d subscriptions, not %d.", maxGraphSubscriptions, len(subscriptions))
	}
	if len(subscriptions) == 0 && len(groups) == 0 {
		return nil, nil
	}
	subs := map[string]bool{}
	for _, id := range subscriptions {
		if s.all["/subscriptions/"+strings.ToLower(id)] != nil {
			subs[strings.ToLower(id)] = true
		}
	}
	for _, mg := range groups {
		known := strings.EqualFold(mg, TenantID)
		for _, sub := range s.byType[typeSub] {
			in := strings.EqualFold(mg, TenantID)
			for _, a := range objects(object(sub.doc(), "properties"), "managementGroupAncestorsChain") {
				in = in || strings.EqualFold(text(a, "name"), mg)
			}
			if in && !sub.gone {
				subs[strings.ToLower(sub.t.sub)], known = true, true
			}
		}
		if !known {
			return nil, badRequest("ManagementGroupNotFound", "The management group '%s' was not found.", mg)
		}
	}
	if len(subs) == 0 {
		return nil, badRequest("NoValidSubscriptionsInQueryRequest", "There must be at least one subscription that is eligible to contain resources. Given: '%s'.", strings.Join(subscriptions, ","))
	}
	return subs, nil
}

// graphLocked answers POST /providers/Microsoft.ResourceGraph/resources (FACTS 3).
func (s *Sim) graphLocked(r *request) *answer {
	if r.method != http.MethodPost {
		return methodNotAllowed(r).answer()
	}
	remaining, resets, allowed := s.graphQuotaLocked(r.principal)
	quota := func(a *answer) *answer {
		a.header.Set("X-Ms-User-Quota-Remaining", strconv.Itoa(remaining))
		a.header.Set("X-Ms-User-Quota-Resets-After", resets)
		return a
	}
	if !allowed {
		return quota((&armError{Status: 429, Code: "RateLimiting", Message: "Please provide below info when asking for support.", Details: []armError{{Code: "RateLimiting",
			Message: "Client application has been throttled and should not attempt to repeat the request until an amount of time has elapsed. Please see https://aka.ms/resourcegraph-throttling for help."}}}).answer())
	}
	bad := func(code, format string, args ...any) *answer {
		return quota((&armError{Status: 400, Code: "BadRequest", Message: "Please provide below info when asking for support.", Details: []armError{
			{Code: code, Message: fmt.Sprintf(format, args...)}}}).answer())
	}
	var in struct {
		Subscriptions    []string `json:"subscriptions"`
		ManagementGroups []string `json:"managementGroups"`
		Query            string   `json:"query"`
		Facets           []any    `json:"facets"`
		Options          struct {
			Top          *int   `json:"$top"`
			Skip         int    `json:"$skip"`
			SkipToken    string `json:"$skipToken"`
			ResultFormat string `json:"resultFormat"`
		} `json:"options"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return bad("InvalidRequestContent", "The request body is no query: %v", err)
	}
	if len(in.Facets) > 0 {
		return bad("InvalidFacets", "the simulator computes no facets")
	}
	top := 100
	if in.Options.Top != nil {
		top = *in.Options.Top
	}
	if top < 1 || top > 1000 {
		return bad("InvalidOptions", "$top must be 1 to 1000, got %d", top)
	}
	q, err := parseQuery(in.Query)
	if err != nil {
		return bad("InvalidQuery", "Query is invalid: %v", err)
	}
	skip := in.Options.Skip
	if in.Options.SkipToken != "" {
		b, err := base64.RawURLEncoding.DecodeString(in.Options.SkipToken)
		if err == nil {
			skip, err = strconv.Atoi(strings.TrimPrefix(string(b), "skip:"))
		}
		if err != nil || skip < 0 {
			return bad("InvalidSkipToken", "the skip token is invalid")
		}
	}
	subs, ae := s.graphScopeLocked(in.Subscriptions, in.ManagementGroups)
	if ae != nil {
		return bad(ae.Code, "%s", ae.Message)
	}
	roles := s.rolesOn(r.principal)
	v := view{stale: r.stale()}
	if s.cfg.GraphLag > 0 {
		v.asOf = s.nowLocked().Add(-s.cfg.GraphLag)
	}
	rows := q.run(&env{rows: func(table string) []row {
		var found []*resource
		for t, list := range s.byType {
			if !tables[table](t) {
				continue
			}
			for _, res := range list {
				if (!res.gone || !v.asOf.IsZero()) && (subs == nil || subs[strings.ToLower(res.t.sub)]) && (!roles || s.mayLocked(r.principal, res.typ+"/read", res.key)) {
					found = append(found, res)
				}
			}
		}
		slices.SortFunc(found, func(a, b *resource) int { return int(a.seq) - int(b.seq) })
		rows := make([]row, 0, len(found))
		for _, res := range found {
			if row, ok := s.graphRowLocked(res, v); ok {
				rows = append(rows, row)
			}
		}
		return rows
	}})
	total := len(rows)
	page := rows[min(skip, total):min(skip+top, total)]
	more := skip+top < total
	data := make([]map[string]any, len(page))
	for i, r := range page {
		m := make(map[string]any, len(q.cols))
		for _, c := range q.cols {
			m[c.name] = r.get(c.name)
		}
		data[i] = m
	}
	out := map[string]any{"totalRecords": total, "count": len(data), "facets": []any{}, "resultTruncated": "false", "data": data}
	if more && q.has("id") {
		out["$skipToken"] = base64.RawURLEncoding.EncodeToString([]byte("skip:" + strconv.Itoa(skip+top)))
	} else if more {
		out["resultTruncated"] = "true" // without id in the columns there is no way on
	}
	if strings.EqualFold(in.Options.ResultFormat, "table") {
		cols := q.names()
		table := map[string]any{"columns": []any{}, "rows": []any{}}
		var heads, lines []any
		for _, c := range cols {
			heads = append(heads, map[string]any{"name": c, "type": "object"})
		}
		for _, d := range data {
			var line []any
			for _, c := range cols {
				line = append(line, d[c])
			}
			lines = append(lines, line)
		}
		if heads != nil {
			table["columns"] = heads
		}
		if lines != nil {
			table["rows"] = lines
		}
		out["data"] = table
	}
	return quota(ok(200, mustJSON(out)))
}

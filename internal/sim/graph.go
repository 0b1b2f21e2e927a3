package sim

import (
	"cmp"
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
	"networkresources":   func(t string) bool { return t == typeAdminRules }, // seen as memberships
}

// graphTableLocked shows resources as Resource Graph does.
func (s *Sim) graphTableLocked(v view) *table {
	out := &table{base: func(r *resource, c string) (any, bool) {
		tree := s.stampedLocked // no detour over text; an NSG's rules are not in its body
		if r.typeKey == typeNSG {
			tree = s.treeLocked
		}
		if v.stale > 0 || !v.asOf.IsZero() {
			tree = func(*resource) map[string]any { m, _ := decodeObject(s.readLocked(r, v)); return m }
		}
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
					m["extended"] = map[string]any{"instanceView": extendedView(code)}
					p = m
				}
			}
			return p, true
		}
		if slices.Contains(tableColumns, c) {
			return tree(r)[c], true
		}
		return nil, false
	}}
	if v.stale == 0 && v.asOf.IsZero() {
		out.text = s.graphTextLocked
	}
	return out
}

// extendedView is the power state as Resource Graph shows it.
func extendedView(code string) map[string]any {
	return map[string]any{"powerState": map[string]any{"code": code, "displayStatus": "VM " + strings.TrimPrefix(code, "PowerState/"), "level": "Info"}}
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

// descendantsLocked answers GET /providers/Microsoft.Management/managementGroups/{name}/descendants: the subscriptions alone, since no
// estate has management groups of its own.
func (s *Sim) descendantsLocked(r *request, group string) *answer {
	if r.method != http.MethodGet {
		return methodNotAllowed(r).answer()
	}
	subs, ae := s.graphScopeLocked(nil, []string{group})
	if ae != nil {
		return (&armError{Status: 404, Code: "NotFound", Message: "The management group '" + group + "' cannot be found."}).answer()
	}
	value := []any{}
	for _, sub := range s.byType[typeSub] {
		if !sub.gone && (subs == nil || subs[strings.ToLower(sub.t.sub)]) {
			value = append(value, map[string]any{"id": sub.id, "name": sub.t.sub, "type": "/subscriptions",
				"properties": map[string]any{"displayName": text(sub.doc(), "displayName"), "parent": map[string]any{"id": "/providers/Microsoft.Management/managementGroups/" + group}}})
		}
	}
	return ok(200, mustJSON(map[string]any{"value": value}))
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
		a.header.Set("X-Ms-Ratelimit-Remaining-Tenant-Resource-Requests", strconv.Itoa(remaining)) // as recorded
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
	if s.cfg.GraphPage > 0 {
		top = min(top, s.cfg.GraphPage)
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
	answerTo := graphKey{in.Query, strings.Join(in.Subscriptions, ","), strings.Join(in.ManagementGroups, ","), r.principal}
	lasting := v == view{} && len(s.due) == 0
	rows, had := s.graphKept[answerTo].at(s.revision)
	if !lasting || !had {
		rows = q.run(s.graphEnvLocked(subs, roles, r.principal, v))
	}
	total := len(rows)
	page := rows[min(skip, total):min(skip+top, total)]
	more := skip+top < total
	if lasting {
		s.keepGraphLocked(answerTo, rows, more)
	}
	if !strings.EqualFold(in.Options.ResultFormat, "table") {
		return quota(ok(200, q.page(&s.pageSize, page, total, skip, top)))
	}
	data := make([]map[string]any, len(page))
	for i, r := range page {
		m := make(map[string]any, len(q.cols))
		for _, c := range q.cols {
			m[c.name] = r.get(c.name)
		}
		data[i] = m
	}
	out := map[string]any{"totalRecords": total, "count": len(data), "facets": []any{}, "resultTruncated": "false"}
	if more && q.has("id") {
		out["$skipToken"] = skipToken(skip + top)
	} else if more {
		out["resultTruncated"] = "true"
	}
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
	return quota(ok(200, mustJSON(out)))
}

func skipToken(n int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("skip:" + strconv.Itoa(n)))
}

// page is an answer of objects. Rows are written one by one: text that lies ready is not decoded.
func (q *query) page(room *int, rows []row, total, skip, top int) []byte {
	names := make([][]byte, len(q.cols))
	for i, c := range q.cols {
		names[i] = append(mustJSON(c.name), ':')
	}
	b := append(make([]byte, 0, 1024+*room*len(rows)), `{"totalRecords":`...)
	b = strconv.AppendInt(b, int64(total), 10)
	b = append(b, `,"count":`...)
	b = strconv.AppendInt(b, int64(len(rows)), 10)
	b = append(b, `,"data":[`...)
	for i, r := range rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		for j, c := range q.cols {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(b, names[j]...)
			b = r.append(b, c.name, nil)
		}
		b = append(b, '}')
	}
	b = append(b, `],"facets":[],"resultTruncated":"`...)
	switch more := skip+top < total; {
	case more && q.has("id"):
		b = append(append(append(b, `false","$skipToken":"`...), skipToken(skip+top)...), `"}`...)
	case more:
		b = append(b, `true"}`...) // without id in the columns there is no way on
	default:
		b = append(b, `false"}`...)
	}
	if len(rows) > 100 {
		*room = len(b)*5/4/len(rows) + 1 // the next page will be about as large
	}
	return b
}

// graphEnvLocked is where a query finds its tables.
func (s *Sim) graphEnvLocked(subs map[string]bool, roles bool, principal string, v view) *env {
	return &env{rows: func(table string) []row {
		var found []*resource
		for t, list := range s.byType {
			if !tables[table](t) {
				continue
			}
			for _, res := range list {
				if (!res.gone || !v.asOf.IsZero()) && (subs == nil || subs[strings.ToLower(res.t.sub)]) && (!roles || s.mayLocked(principal, res.typ+"/read", res.key)) {
					found = append(found, res)
				}
			}
		}
		slices.SortFunc(found, func(a, b *resource) int { return cmp.Compare(a.seq, b.seq) })
		rows := make([]row, 0, len(found))
		seen := s.graphTableLocked(v)
		for _, res := range found {
			switch {
			case table == "networkresources":
				if row, ok := s.membershipLocked(res, v); ok {
					rows = append(rows, row)
				}
			case v == view{} || s.readLocked(res, v) != nil:
				rows = append(rows, row{table: seen, res: res})
			}
		}
		return rows
	}}
}

// membershipLocked is the membership of a network in the groups of its network manager: an estate says of a network which rules are in
// force on it, and each rule which groups it applies to.
func (s *Sim) membershipLocked(rules *resource, v view) (row, bool) {
	raw := s.readLocked(rules, v)
	if raw == nil {
		return row{}, false
	}
	tree, err := decodeObject(raw)
	if err != nil {
		return row{}, false
	}
	groups := []any{}
	seen := map[string]bool{}
	for _, rule := range objects(object(tree, "properties"), "value") {
		for _, g := range objects(rule, "ruleCollectionAppliesToGroups") {
			if id := text(g, "networkGroupId"); id != "" && !seen[strings.ToLower(id)] {
				seen[strings.ToLower(id)] = true
				groups = append(groups, map[string]any{"NetworkGroupId": id})
			}
		}
	}
	id := rules.t.parent().id() + "/providers/Microsoft.Network/networkGroupMemberships/default"
	return row{cols: map[string]any{"id": id, "name": "default", "type": "microsoft.network/networkgroupmemberships", "tenantId": TenantID, "kind": "",
		"location": "", "resourceGroup": strings.ToLower(rules.t.group), "subscriptionId": rules.t.sub, "managedBy": "",
		"properties": map[string]any{"GroupMemberships": groups}}}, true
}

// graphKey is what an answer depends on besides the resources.
type graphKey struct{ query, subscriptions, groups, principal string }

// graphAnswer is a whole answer, of which pages are left to ask for.
type graphAnswer struct {
	revision uint64
	rows     []row
}

const graphAnswers = 64 // that are kept

func (a *graphAnswer) at(revision uint64) ([]row, bool) {
	if a == nil || a.revision != revision {
		return nil, false
	}
	return a.rows, true
}

// keepGraphLocked keeps an answer until its last page was asked for or something changes: to select and order everything anew for each
// page takes longer than the page.
func (s *Sim) keepGraphLocked(k graphKey, rows []row, more bool) {
	if !more {
		delete(s.graphKept, k)
		return
	}
	for other, a := range s.graphKept {
		if a.revision != s.revision || len(s.graphKept) >= graphAnswers && other != k {
			delete(s.graphKept, other)
		}
	}
	s.graphKept[k] = &graphAnswer{s.revision, rows}
}

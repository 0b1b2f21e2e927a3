package sim

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// activity is an entry of the activity log: a write that was decided, or the end of its operation.
type activity struct {
	at          time.Time
	id          string
	correlation string
	operation   string // of the long-running one, or the request
	caller      string
	action      string
	target      target
	method      string
	remote      string
	status      string // Accepted, Succeeded, Failed
	sub         string // substatus, e.g. Created
	code        int
	message     string
	begin       bool
}

const activitiesKept = 20000

// actionOf names what a request does as roles and the activity log do: Microsoft.Network/networkSecurityGroups/securityRules/write.
func actionOf(method string, t target) string {
	types, name := t.types, t.ns
	switch {
	case t.ns == "" && t.group != "":
		name = "Microsoft.Resources/subscriptions/resourceGroups"
	case t.ns == "":
		name = "Microsoft.Resources/subscriptions"
	}
	verb := "read"
	switch method {
	case http.MethodPut, http.MethodPatch:
		verb = "write"
	case http.MethodDelete:
		verb = "delete"
	case http.MethodPost:
		if t.collection() && len(types) > 0 {
			verb, types = types[len(types)-1]+"/action", types[:len(types)-1]
		}
	}
	for _, x := range types {
		name += "/" + x
	}
	return name + "/" + verb
}

// logActivityLocked remembers a write that was decided. Reads, and what no subscription is concerned with, leave no trace.
func (s *Sim) logActivityLocked(r *request, a *answer) {
	if r.method == http.MethodGet || r.method == http.MethodHead || a == nil || r.principal == "" {
		return
	}
	t, err := parsePath(r.path)
	if err != nil || t.sub == "" {
		return
	}
	e := activity{at: s.nowLocked(), id: s.uuidLocked(), operation: a.header.Get("X-Ms-Request-Id"), correlation: a.header.Get("X-Ms-Correlation-Request-Id"), caller: r.principal, action: actionOf(r.method, t.canonical()),
		target: t, method: r.method, remote: r.remote, status: "Succeeded", code: a.status, begin: r.started != nil}
	switch {
	case a.status > 399:
		e.status, e.message = "Failed", a.code
	case r.started != nil:
		e.status = "Accepted"
		op := r.started
		op.logEnd = func(op *operation) {
			end := e
			end.at, end.id, end.begin, end.status, end.code = s.nowLocked(), s.uuidLocked(), false, op.status, 200
			if op.err != nil {
				end.status, end.message, end.code = "Failed", op.err.Code, 409
			}
			s.keepActivityLocked(end)
		}
		defer func() {
			if op.status != "InProgress" { // it had ended already
				op.logEnd(op)
				op.logEnd = nil
			}
		}()
	}
	if a.status == 201 {
		e.sub = "Created"
	} else {
		e.sub = strings.ReplaceAll(http.StatusText(a.status), " ", "")
	}
	s.keepActivityLocked(e)
}

func (s *Sim) keepActivityLocked(e activity) {
	s.activities = append(s.activities, e)
	if len(s.activities) > activitiesKept {
		s.activities = append(s.activities[:0:0], s.activities[len(s.activities)-activitiesKept/2:]...)
	}
}

func word(v string) map[string]any { return map[string]any{"value": v, "localizedValue": v} }

func (e activity) body() map[string]any {
	level, event := "Informational", "EndRequest"
	if e.status == "Failed" {
		level = "Error"
	}
	if e.begin {
		event = "BeginRequest"
	}
	res := e.target
	if e.method == http.MethodPost && res.collection() {
		res = res.parent()
	}
	b := map[string]any{
		"authorization": map[string]any{"action": e.action, "scope": res.id()}, "caller": e.caller, "channels": "Operation",
		"claims":        map[string]any{"appid": e.caller, "http://schemas.microsoft.com/identity/claims/objectidentifier": e.caller, "ipaddr": e.remote},
		"correlationId": e.correlation, "description": "", "eventDataId": e.id, "eventName": word(event), "category": word("Administrative"),
		"eventTimestamp": e.at.Format(time.RFC3339Nano), "submissionTimestamp": e.at.Format(time.RFC3339Nano),
		"id":    fmt.Sprintf("%s/events/%s/ticks/%d", res.id(), e.id, e.at.UnixNano()/100+621355968000000000),
		"level": level, "operationId": e.operation, "operationName": word(e.action), "resourceGroupName": e.target.group, "resourceId": res.id(),
		"status": word(e.status), "subStatus": word(e.sub), "subscriptionId": e.target.sub, "tenantId": TenantID,
		"httpRequest": map[string]any{"clientRequestId": e.operation, "clientIpAddress": e.remote, "method": e.method},
		"properties":  map[string]any{"statusCode": http.StatusText(e.code), "entity": res.id(), "message": e.action, "hierarchy": e.target.sub},
	}
	if e.target.ns != "" {
		b["resourceProviderName"], b["resourceType"] = word(e.target.ns), word(res.typ())
	}
	if e.message != "" {
		b["properties"].(map[string]any)["statusMessage"] = e.message
	}
	return b
}

var activityTerm = regexp.MustCompile(`(?i)^\s*(\w+)\s+(eq|ge|le)\s+'([^']*)'\s*$`)

// activitiesLocked is the activity log of a subscription: GET …/providers/Microsoft.Insights/eventtypes/management/values. Like Azure's it
// wants a time to begin with in its filter, and lists the newest first.
func (s *Sim) activitiesLocked(r *request, sub string) *answer {
	if r.method != http.MethodGet {
		return methodNotAllowed(r).answer()
	}
	bad := func(format string, args ...any) *answer { return badRequest("BadRequest", format, args...).answer() }
	keep := []func(activity) bool{func(e activity) bool { return strings.EqualFold(e.target.sub, sub) }}
	from := false
	if f := strings.TrimSpace(r.query.Get("$filter")); f != "" {
		for term := range strings.SplitSeq(regexp.MustCompile(`(?i)\s+and\s+`).ReplaceAllString(f, "\x00"), "\x00") {
			m := activityTerm.FindStringSubmatch(term)
			if m == nil {
				return bad("The filter '%s' is not understood: the simulator knows terms with eq, ge, le and a text, joined by and.", term)
			}
			field, op, v := strings.ToLower(m[1]), strings.ToLower(m[2]), m[3]
			switch {
			case field == "eventtimestamp" && op != "eq":
				at, err := time.Parse(time.RFC3339Nano, v)
				if err != nil {
					at, err = time.Parse("2006-01-02T15:04:05.999999999", v)
				}
				if err != nil {
					return bad("'%s' is not a time.", v)
				}
				if op == "ge" {
					from = true
					keep = append(keep, func(e activity) bool { return !e.at.Before(at) })
				} else {
					keep = append(keep, func(e activity) bool { return !e.at.After(at) })
				}
			case op == "eq":
				get := map[string]func(activity) string{
					"resourcegroupname": func(e activity) string { return e.target.group }, "correlationid": func(e activity) string { return e.correlation },
					"resourceprovider": func(e activity) string { return e.target.ns }, "caller": func(e activity) string { return e.caller },
					"status": func(e activity) string { return e.status }, "resourceuri": func(e activity) string { return text(e.body(), "resourceId") },
					"resourceid": func(e activity) string { return text(e.body(), "resourceId") }, "eventchannels": func(activity) string { return v },
				}[field]
				if get == nil {
					return bad("The simulator does not filter by %s.", m[1])
				}
				keep = append(keep, func(e activity) bool { return strings.EqualFold(get(e), v) })
			default:
				return bad("The simulator does not filter by %s %s.", m[1], m[2])
			}
		}
	}
	if !from {
		return bad("The filter must contain eventTimestamp ge '...'.")
	}
	var fields []string
	if sel := r.query.Get("$select"); sel != "" {
		fields = strings.Split(sel, ",")
	}
	value := []any{}
list:
	for i := len(s.activities) - 1; i >= 0; i-- {
		e := s.activities[i]
		for _, k := range keep {
			if !k(e) {
				continue list
			}
		}
		b := e.body()
		if fields != nil {
			only := map[string]any{}
			for _, f := range fields {
				for k, v := range b {
					if strings.EqualFold(k, strings.TrimSpace(f)) {
						only[k] = v
					}
				}
			}
			b = only
		}
		value = append(value, b)
	}
	return ok(200, mustJSON(map[string]any{"value": value}))
}

package sim

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// request is one call, read completely before anything is decided.
type request struct {
	method    string
	path      string
	query     url.Values
	rawQuery  string
	header    http.Header
	body      []byte
	base      string // scheme and host that the client used, for absolute URLs
	api       string
	principal string
	remote    string     // the caller's address
	started   *operation // what the request began
	struck    []*fault   // faults that shape how a write proceeds or a read looks
}

// answer is what goes back, before faults mangle it.
type answer struct {
	status int
	header http.Header
	body   []byte
	code   string // of an error, for the log
}

func ok(status int, body []byte) *answer {
	return &answer{status: status, header: http.Header{}, body: body}
}

const (
	maxBody   = 8 << 20
	maxEstate = 512 << 20
)

// Handler serves ARM, sign-in, Resource Graph and the control API under /_sim/.
func (s *Sim) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Sim) serve(w http.ResponseWriter, hr *http.Request) {
	limit := int64(maxBody)
	if strings.HasPrefix(hr.URL.Path, "/_sim/") {
		limit = maxEstate
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, hr.Body, limit))
	if err != nil {
		(&armError{Status: 413, Code: "RequestEntityTooLarge", Message: "The request body cannot be read: " + err.Error()}).answer().write(w)
		return
	}
	scheme := hr.URL.Scheme // the in-process transport leaves it there
	if scheme == "" {
		scheme = "http"
		if hr.TLS != nil {
			scheme = "https"
		}
	}
	path := hr.URL.Path
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	r := &request{method: hr.Method, path: path, query: hr.URL.Query(), rawQuery: hr.URL.RawQuery, header: hr.Header, body: body,
		base: scheme + "://" + hr.Host}
	r.api = r.query.Get("api-version")
	r.remote, _, _ = net.SplitHostPort(hr.RemoteAddr)
	if path == "/_sim" || strings.HasPrefix(path, "/_sim/") {
		s.control(r, hr.RemoteAddr).write(w)
		return
	}
	s.exchange(hr.Context(), w, r)
}

func (a *answer) write(w http.ResponseWriter) {
	h := w.Header()
	for k, v := range a.header {
		h[k] = v
	}
	if len(a.body) > 0 && h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json; charset=utf-8")
	}
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that has gone away hears nothing
}

// exchange runs one request through the faults that match it.
func (s *Sim) exchange(ctx context.Context, w http.ResponseWriter, r *request) {
	a, f, rec, delay := s.decide(r)
	cut := a == nil || f != nil && f.Kind == "lost-reply"
	s.log.Debug("request", "method", r.method, "path", r.path, "status", rec.Status, "code", rec.Code, "fault", rec.Fault)

	if f != nil && f.Hang {
		<-ctx.Done()
		cut = true
	}
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			cut = true
		}
	}
	if cut {
		panic(http.ErrAbortHandler) // the server drops the connection without a word
	}
	if f != nil && f.Kind == "truncated" && len(a.body) > 1 {
		h := w.Header()
		for k, v := range a.header {
			h[k] = v
		}
		h.Set("Content-Type", "application/json; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body[:len(a.body)/2])
		panic(http.ErrAbortHandler)
	}
	if f != nil && f.Kind == "not-json" {
		a.header.Set("Content-Type", "text/html")
		a.body = []byte(f.Body)
		if f.Body == "" {
			a.body = []byte("<html><head><title>Service unavailable</title></head><body>The service is unavailable.</body></html>")
		}
		if f.Status != 0 {
			a.status = f.Status
		}
	}
	a.write(w)
}

// decide lets the state change and answers; everything that waits comes after it.
func (s *Sim) decide(r *request) (a *answer, f *fault, rec RequestRecord, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	received := s.nowLocked()
	r.principal, _ = s.principalLocked(r)
	f = s.strikeLocked(r)
	rec = RequestRecord{Time: received, Method: r.method, Path: r.path, Query: r.rawQuery, APIVersion: r.api, IfMatch: r.header.Get("If-Match"),
		Principal: r.principal, RequestID: s.uuidLocked()}
	var refused *armError
	if f != nil {
		rec.Fault = f.Kind
		refused = f.refusal(s, r)
	} else if len(r.struck) > 0 {
		rec.Fault = r.struck[0].Kind
	}
	switch {
	case f != nil && f.Kind == "lost-request":
	case f != nil && f.Kind == "late":
		s.atLocked(received.Add(f.Delay), func() { s.serveLocked(r) })
	case refused != nil:
		if f.Applied {
			s.serveLocked(r)
		}
		a = refused.answer()
	default:
		a = s.serveLocked(r)
	}
	if a != nil {
		s.finishLocked(r, a, rec.RequestID, received)
		if f == nil || f.Applied || refused == nil {
			s.logActivityLocked(r, a)
		}
		if f == nil || f.Kind != "lost-reply" {
			rec.Status, rec.Code = a.status, a.code
		}
	}
	s.recordLocked(rec)
	return a, f, rec, r.slow()
}

// finishLocked adds the headers that ARM puts on everything.
func (s *Sim) finishLocked(r *request, a *answer, id string, now time.Time) {
	a.header.Set("X-Ms-Request-Id", id)
	corr := r.header.Get("X-Ms-Correlation-Request-Id")
	if corr == "" {
		corr = id
	}
	a.header.Set("X-Ms-Correlation-Request-Id", corr)
	if c := r.header.Get("X-Ms-Client-Request-Id"); c != "" && strings.EqualFold(r.header.Get("X-Ms-Return-Client-Request-Id"), "true") {
		a.header.Set("X-Ms-Client-Request-Id", c)
	}
	a.header.Set("X-Ms-Routing-Request-Id", "WESTEUROPE:"+now.Format("20060102T150405Z")+":"+id)
	a.header.Set("Cache-Control", "no-cache")
	a.header.Set("Date", now.Add(r.skew()).Format(http.TimeFormat))
	if strings.HasPrefix(strings.ToLower(r.path), "/subscriptions/") {
		s.limitHeadersLocked(r, a, now)
	}
}

var apiVersion = regexp.MustCompile(`^20(1[4-9]|2[0-9])-\d\d-\d\d(-[a-z]+)?$`)

// serveLocked answers a request from the state alone.
func (s *Sim) serveLocked(r *request) *answer {
	lower := strings.ToLower(strings.Trim(r.path, "/"))
	if a := s.login(r, lower); a != nil {
		return a
	}
	principal, ae := s.principalLocked(r)
	if ae != nil {
		return ae.answer()
	}
	r.principal = principal
	if r.api == "" {
		return badRequest("MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.").answer()
	}
	if !apiVersion.MatchString(r.api) {
		return badRequest("InvalidApiVersionParameter", "The api-version '%s' is invalid. The supported versions are dates from 2015 on.", r.api).answer()
	}
	switch lower {
	case "providers/microsoft.resourcegraph/resources":
		return s.graphLocked(r)
	case "batch":
		return s.batchLocked(r)
	case "tenants":
		if r.method != http.MethodGet {
			return methodNotAllowed(r).answer()
		}
		return ok(200, tenants())
	}
	if group, ok := strings.CutPrefix(lower, "providers/microsoft.management/managementgroups/"); ok {
		if group, ok = strings.CutSuffix(group, "/descendants"); ok && !strings.Contains(group, "/") {
			return s.descendantsLocked(r, group)
		}
	}
	if ae := s.throttleLocked(r); ae != nil {
		return ae.answer()
	}
	if a := s.providersLocked(r, lower); a != nil {
		return a
	}
	t, err := parsePath(r.path)
	if err != nil || (t.sub == "" && !(t.ns == "" && strings.EqualFold(lower, "subscriptions"))) {
		return (&armError{Status: 404, Code: "NotFound", Message: "The simulator serves nothing at '" + r.path + "'."}).answer()
	}
	if t.sub != "" && s.all["/subscriptions/"+strings.ToLower(t.sub)] == nil {
		return noSubscription(t.sub).answer()
	}
	if ae := s.authorizeLocked(r, t); ae != nil {
		return ae.answer()
	}
	if t.ns == "" {
		return s.containersLocked(r, t, lower)
	}
	if len(t.types) == 0 {
		return (&armError{Status: 404, Code: "NotFound", Message: "The simulator serves nothing at '" + r.path + "'."}).answer()
	}
	if a := s.rolesLocked(r, t); a != nil {
		return a
	}
	if len(t.types) == 3 && strings.EqualFold(t.types[0], "locations") && len(t.names) == 2 &&
		(strings.EqualFold(t.types[1], "operations") || strings.EqualFold(t.types[1], "operationResults")) {
		t.types = t.types[:2]
	}
	if len(t.types) == 2 && len(t.names) == 2 && strings.EqualFold(t.types[0], "locations") && r.method == http.MethodGet {
		if strings.EqualFold(t.types[1], "operations") || strings.EqualFold(t.types[1], "operationResults") {
			return s.operationLocked(r, t.names[1], strings.EqualFold(t.types[1], "operationResults"))
		}
	}
	if t.typeKey() == "microsoft.insights/eventtypes/values" && t.group == "" {
		return s.activitiesLocked(r, t.sub)
	}
	if a := s.securityLocked(r, t); a != nil {
		return a
	}
	if tk := t.typeKey(); (tk == "microsoft.compute/locations/virtualmachines" || tk == "microsoft.compute/locations/virtualmachinescalesets") && t.group == "" && len(t.names) == 1 {
		if r.method != http.MethodGet {
			return methodNotAllowed(r).answer()
		}
		return s.pageWhereLocked(r, []string{"microsoft.compute/" + strings.ToLower(t.types[1])}, strings.ToLower(t.scope)+"/", view{stale: r.stale()},
			func(x *resource) bool { return sameLocation(text(x.doc(), "location"), t.names[0]) })
	}
	if len(t.names) > 1 && t.target2() == typeVMSSVM {
		if _, err := strconv.Atoi(t.names[1]); err != nil && s.all[t.top().key()] != nil && s.all[t.top().key()+"/virtualmachines/"+strings.ToLower(t.names[1])] == nil { // recorded
			return (&armError{Status: 400, Code: "InvalidParameter", Message: "Virtual Machine Scale Set VM instanceId must be a number.", Target: "instanceId"}).answer()
		}
	}
	if t.group != "" && r.method != http.MethodDelete && s.all[strings.ToLower("/subscriptions/"+t.sub+"/resourceGroups/"+t.group)] == nil {
		return noGroup(t.group).answer()
	}
	switch r.method {
	case http.MethodGet, http.MethodHead:
		return s.readARMLocked(r, t)
	case http.MethodPut:
		return s.putLocked(r, t)
	case http.MethodPatch:
		return s.patchLocked(r, t)
	case http.MethodDelete:
		return s.deleteLocked(r, t)
	case http.MethodPost:
		return s.actionLocked(r, t)
	}
	return methodNotAllowed(r).answer()
}

func methodNotAllowed(r *request) *armError {
	return &armError{Status: 405, Code: "MethodNotAllowed", Message: "The requested resource does not support http method '" + r.method + "'."}
}

func noType(t target, api string) *armError {
	return &armError{Status: 404, Code: "InvalidResourceType", Message: "The resource type '" + strings.Join(t.types, "/") + "' could not be found in the namespace '" + t.ns + "' for api version '" + api + "'."}
}

func (s *Sim) readARMLocked(r *request, t target) *answer {
	v := view{stale: r.stale()}
	if t.collection() {
		return s.listLocked(r, t, v)
	}
	raw, res, found := s.lookLocked(t, v)
	if !found && v.stale > 0 && res == nil {
		if old := s.ghostLocked(t, v); old != nil {
			raw, found = old, true
		}
	}
	if !found {
		if s.all[t.key()] == nil && s.unknownType(t) {
			return noType(t, r.api).answer()
		}
		if res != nil && len(t.types) == 2 {
			return partNotFound(t.id()).answer()
		}
		if len(t.types) == 2 && !s.unknownType(t) {
			return notFound(t.top()).answer()
		}
		return notFound(t).answer()
	}
	if res != nil && res.key == t.key() && (res.typeKey == typeVM || res.typeKey == typeVMSSVM) && strings.Contains(strings.ToLower(r.query.Get("$expand")), "instanceview") {
		raw = s.withInstanceViewLocked(res)
	}
	a := ok(200, raw)
	if res != nil && res.kind.etag && v.stale == 0 {
		a.header.Set("Etag", res.etag)
	}
	return a
}

// ghostLocked finds a deleted resource for a stale read.
func (s *Sim) ghostLocked(t target, v view) []byte {
	list := s.byType[strings.ToLower(canonicalType(t.typ()))]
	for i := len(list) - 1; i >= 0; i-- {
		if r := list[i]; r.gone && r.key == t.key() && len(r.older) > 0 {
			return r.older[max(0, len(r.older)-v.stale)].raw
		}
	}
	return nil
}

func (s *Sim) unknownType(t target) bool {
	tk := t.typeKey()
	if _, ok := kinds[tk]; ok || len(s.byType[tk]) > 0 {
		return false
	}
	if len(t.types) == 2 {
		_, ok := parts[strings.ToLower(t.ns+"/"+t.types[0])][strings.ToLower(t.types[1])]
		return !ok
	}
	return true
}

// listed are collections that clients list although no estate may hold one.
var listed = map[string]bool{
	"microsoft.compute/virtualmachinescalesets": true,
}

func (s *Sim) listLocked(r *request, t target, v view) *answer {
	last := strings.ToLower(t.types[len(t.types)-1])
	if len(t.types) >= 2 {
		p := t.parent()
		if res := s.all[p.key()]; res != nil {
			switch {
			case last == "instanceview" && (res.typeKey == typeVM || res.typeKey == typeVMSSVM):
				return ok(200, mustJSON(s.instanceViewLocked(res)))
			case last == "instanceview" && res.typeKey == typeVMSS:
				return ok(200, mustJSON(s.setInstanceViewLocked(res)))
			case last == "virtualmachines" && res.typeKey == typeVMSS && flexible(res):
				return ok(200, s.flexInstancesLocked(res, strings.Contains(strings.ToLower(r.query.Get("$expand")), "instanceview")))
			}
			if part, known := parts[res.typeKey][last]; known {
				tree, err := decodeObject(s.readLocked(res, v))
				if err != nil {
					return notFound(p).answer()
				}
				list, _ := object(tree, "properties")[part.field].([]any)
				if list == nil {
					list = []any{}
				}
				return ok(200, mustJSON(map[string]any{"value": list}))
			}
		} else if _, _, part := s.lookLocked(p, v); part {
			return noType(t, r.api).answer()
		} else if s.unknownType(p) {
			return noType(t, r.api).answer()
		} else if t.group != "" {
			return notFound(p).answer()
		}
	}
	tk := t.typeKey()
	if s.unknownType(target{ns: t.ns, types: t.types}) && !listed[tk] && !(strings.HasPrefix(tk, typeVMSS+"/") && (last == "networkinterfaces" || last == "publicipaddresses")) {
		return noType(t, r.api).answer()
	}
	prefix := strings.ToLower(t.scope) + "/"
	if len(t.types) > 1 {
		prefix = t.parent().key() + "/"
	}
	types := []string{tk}
	switch {
	case tk == typeVMSS+"/networkinterfaces":
		types = []string{typeVMSSNIC}
	case tk == typeVMSS+"/publicipaddresses":
		types = []string{typeVMSSPIP}
	}
	if filter := r.query.Get("$filter"); tk == typeVM && filter != "" {
		m := ofSet.FindStringSubmatch(filter)
		if m == nil {
			return badRequest("BadRequest", "The simulator knows the filter \"'virtualMachineScaleSet/id' eq '...'\", not \"%s\".", filter).answer()
		}
		return s.pageWhereLocked(r, types, prefix, v, func(x *resource) bool {
			return strings.EqualFold(refID(object(x.doc(), "properties"), "virtualMachineScaleSet"), m[1])
		})
	}
	return s.pageLocked(r, types, prefix, v)
}

// ofSet is the one filter that lists of machines take.
var ofSet = regexp.MustCompile(`(?i)^\s*'?virtualMachineScaleSet/id'?\s+eq\s+'([^']*)'\s*$`)

// pageLocked lists the resources of types whose id starts with prefix, in order of creation; the token is where to go on.
func (s *Sim) pageLocked(r *request, types []string, prefix string, v view) *answer {
	return s.pageWhereLocked(r, types, prefix, v, nil)
}

func (s *Sim) pageWhereLocked(r *request, types []string, prefix string, v view, only func(*resource) bool) *answer {
	var after uint64
	if tok := r.query.Get("$skiptoken") + r.query.Get("$skipToken"); tok != "" {
		b, err := base64.RawURLEncoding.DecodeString(tok)
		if err == nil {
			after, err = strconv.ParseUint(string(b), 10, 64)
		}
		if err != nil {
			return badRequest("InvalidSkipToken", "The skip token '%s' is invalid.", tok).answer()
		}
	}
	size := s.cfg.PageSize
	if n, err := strconv.Atoi(r.query.Get("$top")); err == nil && n > 0 && n < size {
		size = n
	}
	expand := v.stale == 0 && (strings.Contains(strings.ToLower(r.query.Get("$expand")), "instanceview") || strings.EqualFold(r.query.Get("statusOnly"), "true"))
	lists := make([][]*resource, len(types))
	for i, t := range types {
		l := s.byType[t]
		start, _ := slices.BinarySearchFunc(l, after, func(r *resource, seq uint64) int {
			if r.seq <= seq {
				return -1
			}
			return 1
		})
		lists[i] = l[start:]
	}
	var buf bytes.Buffer
	buf.WriteString(`{"value":[`)
	n, last, more := 0, uint64(0), false
	for {
		var next *resource
		pick := -1
		for i, l := range lists { // merge by seq
			if len(l) > 0 && (next == nil || l[0].seq < next.seq) {
				next, pick = l[0], i
			}
		}
		if next == nil {
			break
		}
		lists[pick] = lists[pick][1:]
		if next.gone && v.stale == 0 || !strings.HasPrefix(next.key, prefix) || only != nil && !only(next) {
			continue
		}
		if n == size {
			more = true
			break
		}
		raw := s.readLocked(next, v)
		if next.gone && len(next.older) > 0 {
			raw = next.older[len(next.older)-1].raw
		}
		if raw == nil {
			continue
		}
		if expand && !next.gone && (next.typeKey == typeVM || next.typeKey == typeVMSSVM) {
			raw = s.withInstanceViewLocked(next)
		}
		if n > 0 {
			buf.WriteByte(',')
		}
		buf.Write(raw)
		n++
		last = next.seq
	}
	buf.WriteByte(']')
	if more {
		q := url.Values{}
		for k, vs := range r.query {
			if !strings.EqualFold(k, "$skiptoken") {
				q[k] = vs
			}
		}
		q.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatUint(last, 10))))
		buf.WriteString(`,"nextLink":`)
		buf.Write(mustJSON(r.base + r.path + "?" + q.Encode()))
	}
	buf.WriteByte('}')
	return ok(200, buf.Bytes())
}

// containersLocked serves subscriptions, groups, locations and the resources lists.
func (s *Sim) containersLocked(r *request, t target, lower string) *answer {
	segs := strings.Split(lower, "/")
	get := r.method == http.MethodGet
	var seen func(*resource) bool
	if s.rolesOn(r.principal) {
		seen = func(x *resource) bool {
			if x.typeKey == typeSub || x.typeKey == typeGroup {
				return s.seesLocked(r.principal, x.key)
			}
			return s.mayLocked(r.principal, x.typ+"/read", x.key)
		}
	}
	switch {
	case len(segs) == 1 && get:
		return s.pageWhereLocked(r, []string{typeSub}, "/subscriptions/", view{}, seen)
	case len(segs) == 2 && get:
		return ok(200, s.rawLocked(s.all["/"+lower]))
	case len(segs) == 3 && segs[2] == "resourcegroups" && get:
		return s.pageWhereLocked(r, []string{typeGroup}, "/"+segs[0]+"/"+segs[1]+"/", view{}, seen)
	case len(segs) == 3 && segs[2] == "locations" && get:
		return ok(200, s.locationsLocked(t.sub))
	case len(segs) == 3 && segs[2] == "resources" && get:
		return s.resourcesLocked(r, "/"+segs[0]+"/"+segs[1]+"/", seen)
	case len(segs) == 5 && segs[4] == "resources" && get:
		if s.all["/"+strings.Join(segs[:4], "/")] == nil {
			return noGroup(t.group).answer()
		}
		return s.resourcesLocked(r, "/"+strings.Join(segs[:4], "/")+"/", seen)
	case len(segs) == 4 && segs[2] == "operationresults" && get:
		return s.groupResultLocked(r, segs[3])
	case len(segs) == 4 && segs[2] == "resourcegroups":
		g := s.all["/"+lower]
		switch {
		case r.method == http.MethodPut:
			return s.putGroupLocked(r, t, g)
		case g == nil && r.method == http.MethodHead:
			return ok(404, nil)
		case g == nil:
			return noGroup(t.group).answer()
		case r.method == http.MethodHead:
			return ok(204, nil)
		case get:
			return ok(200, s.rawLocked(g))
		case r.method == http.MethodDelete:
			return s.deleteGroupLocked(r, t, g)
		}
		return methodNotAllowed(r).answer()
	}
	return (&armError{Status: 404, Code: "NotFound", Message: "The simulator serves no " + r.method + " at '" + r.path + "'."}).answer()
}

func (s *Sim) putGroupLocked(r *request, t target, g *resource) *answer {
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	if text(body, "location") == "" {
		return badRequest("LocationRequired", "The location property is required for this definition.").answer()
	}
	if ae := s.lockedLocked(t.key(), "write", false); ae != nil {
		return ae.answer()
	}
	status := 200
	if g == nil {
		status = 201
	} else if !sameLocation(text(g.doc(), "location"), text(body, "location")) {
		return (&armError{Status: 409, Code: "InvalidResourceGroupLocation", Message: "Invalid resource group location '" + text(body, "location") + "'. The Resource group already exists in location '" + text(g.doc(), "location") + "'."}).answer()
	}
	g = s.containerLocked(t.canonical(), body)
	s.writes[g.key]++
	return ok(status, s.rawLocked(g))
}

var resourceFilter = regexp.MustCompile(`(?i)^\s*(resourceType|resourceGroup|name)\s+eq\s+'([^']*)'\s*$`)

var andWord = regexp.MustCompile(`(?i)\s+and\s+`)

// resourcesLocked is the generic list: ids, types, places and tags of the top-level resources, without their properties.
func (s *Sim) resourcesLocked(r *request, prefix string, seen func(*resource) bool) *answer {
	want, only := "", seen
	if f := r.query.Get("$filter"); f != "" {
		terms := map[string]string{}
		for _, term := range andWord.Split(f, -1) {
			m := resourceFilter.FindStringSubmatch(term)
			if m == nil {
				return badRequest("InvalidFilterInQueryString", "The simulator knows the filters resourceType, resourceGroup and name eq '...', joined by and, not '%s'.", f).answer()
			}
			terms[strings.ToLower(m[1])] = m[2]
		}
		want = strings.ToLower(terms["resourcetype"])
		group, byGroup := terms["resourcegroup"]
		name, byName := terms["name"]
		only = func(x *resource) bool {
			return (!byGroup || strings.EqualFold(x.t.group, group)) && (!byName || strings.EqualFold(x.t.name(), name)) && (seen == nil || seen(x))
		}
	}
	var types []string
	for tk := range s.byType {
		if strings.Count(tk, "/") == 1 && tk != typeSub && !strings.HasPrefix(tk, "microsoft.authorization/") && tk != typePricing && (want == "" || tk == want) {
			types = append(types, tk)
		}
	}
	page := s.pageWhereLocked(r, types, prefix, view{}, only)
	if page.status != 200 {
		return page
	}
	tree, err := decodeObject(page.body)
	if err != nil {
		return page
	}
	for _, o := range objects(tree, "value") {
		delete(o, "properties")
		delete(o, "etag")
	}
	page.body = mustJSON(tree)
	return page
}

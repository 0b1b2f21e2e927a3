package sim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// swagger reads specification files and follows references between them.
type swagger struct {
	t     *testing.T
	files map[string]map[string]any
}

func (w *swagger) load(file string) map[string]any {
	if w.files[file] == nil {
		data, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(data, &v); err != nil {
			w.t.Fatalf("%s: %v", file, err)
		}
		w.files[file] = v
	}
	return w.files[file]
}

// resolve follows $ref; the file is where further references start from.
func (w *swagger) resolve(v map[string]any, file string) (map[string]any, string) {
	for {
		ref, _ := v["$ref"].(string)
		if ref == "" {
			return v, file
		}
		path, pointer, _ := strings.Cut(ref, "#")
		if path != "" {
			file = filepath.Join(filepath.Dir(file), path)
		}
		var at any = w.load(file)
		for _, seg := range strings.Split(strings.Trim(pointer, "/"), "/") {
			if seg == "" {
				continue
			}
			m, _ := at.(map[string]any)
			at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(seg)]
		}
		next, ok := at.(map[string]any)
		if !ok {
			w.t.Fatalf("%s: nothing at %s", file, ref)
		}
		v = next
	}
}

// check compares a value with a schema: types and required fields, all the way down. What a schema does not mention is let pass.
func (w *swagger) check(report func(where, what string), where string, schema map[string]any, file string, v any, depth int) {
	if schema == nil || depth > 30 || v == nil {
		return
	}
	schema, file = w.resolve(schema, file)
	for _, part := range list(schema["allOf"]) {
		if p, ok := part.(map[string]any); ok {
			w.check(report, where, p, file, v, depth+1)
		}
	}
	typ, _ := schema["type"].(string)
	props, _ := schema["properties"].(map[string]any)
	if typ == "" && props != nil {
		typ = "object"
	}
	ok := true
	switch typ {
	case "object":
		m, is := v.(map[string]any)
		if ok = is; !is {
			break
		}
		for _, r := range list(schema["required"]) {
			if _, has := m[r.(string)]; !has {
				report(where, "the required field "+r.(string)+" is missing")
			}
		}
		for k, e := range m {
			if p, known := props[k].(map[string]any); known {
				w.check(report, where+"."+k, p, file, e, depth+1)
			} else if extra, is := schema["additionalProperties"].(map[string]any); is {
				w.check(report, where+"."+k, extra, file, e, depth+1)
			}
		}
	case "array":
		l, is := v.([]any)
		ok = is
		items, _ := schema["items"].(map[string]any)
		for _, e := range l {
			w.check(report, where+"[]", items, file, e, depth+1)
		}
	case "string":
		s, is := v.(string)
		ok = is
		if enum := list(schema["enum"]); is && enum != nil {
			if x, _ := schema["x-ms-enum"].(map[string]any); x["modelAsString"] != true && !slices.Contains(enum, any(s)) {
				report(where, fmt.Sprintf("%q is none of %v", s, enum))
			}
		}
	case "integer":
		f, is := v.(float64)
		ok = is && f == float64(int64(f))
	case "number":
		_, ok = v.(float64)
	case "boolean":
		_, ok = v.(bool)
	}
	if !ok {
		report(where, fmt.Sprintf("got %v, want %s", v, typ))
	}
}

// plain takes the braces out of the examples' placeholders, which are no names.
func plain(v any) any {
	switch v := v.(type) {
	case string:
		return strings.NewReplacer("{", "", "}", "").Replace(v)
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

var resourceID = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.(Network|Compute)/[^/]+/[^/]+`)

// exists makes the resource that an id in an example names, with as little in it as will do.
func (a *az) exists(id string) {
	a.t.Helper()
	if _, ok := a.s.Get(id); ok {
		return
	}
	top := resourceID.FindString(id)
	if top == "" {
		return
	}
	rest := strings.Split(strings.Trim(strings.TrimPrefix(id, top), "/"), "/")
	lower := strings.ToLower(top)
	err := a.s.Edit(top, func(b map[string]any) error {
		if b["location"] == nil {
			b["location"] = "westus"
		}
		p, _ := b["properties"].(map[string]any)
		if p == nil {
			p = map[string]any{}
			b["properties"] = p
		}
		fill := func(field string, v any) {
			if p[field] == nil {
				p[field] = v
			}
		}
		switch {
		case strings.Contains(lower, "/virtualnetworks/"):
			space := "10.0.0.0/8"
			if strings.HasSuffix(lower, "2") || strings.Contains(lower, "remote") {
				space = "12.0.0.0/8" // networks of one example can be peered
			}
			fill("addressSpace", map[string]any{"addressPrefixes": []any{space}})
		case strings.Contains(lower, "/virtualmachinescalesets/"):
			fill("orchestrationMode", "Uniform")
			fill("upgradePolicy", map[string]any{"mode": "Manual"})
			if b["sku"] == nil {
				b["sku"] = map[string]any{"name": "Standard_D1_v2", "tier": "Standard", "capacity": 3}
			}
		case strings.Contains(lower, "/networkinterfaces/"):
			fill("ipConfigurations", []any{map[string]any{"name": "c", "properties": map[string]any{"primary": true}}})
		}
		if len(rest) >= 2 && !strings.Contains(lower, "/virtualmachine") {
			child := map[string]any{"name": rest[1], "properties": map[string]any{}}
			switch strings.ToLower(rest[0]) {
			case "securityrules":
				child["properties"] = rule("x", 150)["properties"]
			case "loadbalancingrules":
				child["properties"] = map[string]any{"protocol": "Tcp", "frontendPort": 80, "backendPort": 80}
			case "probes":
				child["properties"] = map[string]any{"protocol": "Tcp", "port": 80}
			case "outboundrules":
				child["properties"] = map[string]any{"protocol": "All", "backendAddressPool": map[string]any{"id": "x"}, "frontendIPConfigurations": []any{}}
			case "routes":
				child["properties"] = map[string]any{"addressPrefix": "10.9.0.0/16", "nextHopType": "None"}
			}
			have, _ := p[rest[0]].([]any)
			p[rest[0]] = append(have, child)
		}
		return nil
	})
	if err != nil {
		a.t.Logf("%s: %v", id, err)
	}
	if len(rest) >= 2 && strings.Contains(lower, "/virtualmachinescalesets/") {
		instance := top + "/virtualMachines/" + rest[1]
		_ = a.s.Edit(instance, func(b map[string]any) error {
			b["location"], b["instanceId"], b["properties"] = "westus", rest[1], map[string]any{"latestModelApplied": true, "hardwareProfile": map[string]any{}}
			return nil
		})
	}
}

// idsIn collects the ids that a body refers to.
func idsIn(v any, out map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if s, ok := e.(string); ok && k == "id" && resourceID.MatchString(s) {
				out[s] = true
			}
			idsIn(e, out)
		}
	case []any:
		for _, e := range v {
			idsIn(e, out)
		}
	}
}

// Every official example of an operation that the simulator serves is sent, and answered with a status that the specification has and a body that
// fits the schema; what is sent is checked against its schema too. operationsNotServed are the operations that it refuses, and says so; known are the answers that differ, with reasons.
func TestOfficialExamplesSent(t *testing.T) {
	specs := testkit.Shared(t, "azure", "specs")
	known := map[string]string{
		"InitiateJitNetworkAccessPolicy_example":       "sends duration, which the schema does not have, and no endTimeUtc, which it requires",
		"VirtualMachineScaleSet_Update_MaximumSet_Gen": "refers to a snapshot as the network security group, by a relative id",
		"VirtualMachine_List_MaximumSet_Gen":           "filters by a text that is no filter, which is refused",
		"VirtualMachine_ListAll_MaximumSet_Gen":        "the same",
		"BastionHost":                                  "three PUTs leave out the location, which Azure requires of every regional resource",
		"GetSubscriptions":                             "the schema requires nextLink, which Azure leaves out on the last page",
		"GetTenants":                                   "the schema requires nextLink, which Azure leaves out on the last page",
		"ResourcesNextPageQuery":                       "sends a page token of Azure's",
		"ResourcesFacetQuery":                          "facets are refused here",
		"Resources":                                    "the schema calls data an object, and the default format objectArray is an array",
	}
	w := &swagger{t: t, files: map[string]map[string]any{}}
	compared, refused := map[string]int{}, map[string]int{}
	var files []string
	_ = filepath.WalkDir(specs, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".json") && !strings.Contains(path, "/examples/") && !strings.Contains(path, "common-types") {
			files = append(files, path)
		}
		return nil
	})
	bodies := 0
	seenKnown, used := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		paths, _ := w.load(file)["paths"].(map[string]any)
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			for method, o := range paths[path].(map[string]any) {
				op, _ := o.(map[string]any)
				if op == nil { // parameters of all operations on the path
					continue
				}
				if common := list(paths[path].(map[string]any)["parameters"]); common != nil {
					op["parameters"] = append(slices.Clone(list(op["parameters"])), common...)
				}
				examples, _ := op["x-ms-examples"].(map[string]any)
				for _, title := range slices.Sorted(maps.Keys(examples)) {
					ref := at(examples[title], "$ref").(string)
					data, err := os.ReadFile(filepath.Join(filepath.Dir(file), ref))
					if err != nil {
						continue // left out of the reference data
					}
					var ex struct {
						Parameters map[string]any
						Responses  map[string]map[string]any
					}
					if json.Unmarshal(data, &ex) != nil {
						continue
					}
					used[filepath.Join(filepath.Dir(file), ref)] = true
					name := strings.TrimSuffix(filepath.Base(ref), ".json")
					status, answer, body := send(t, w, file, path, method, op, ex.Parameters, ex.Responses)
					area := regexp.MustCompile(`Microsoft\.\w+/\w+`).FindString(path)
					if status == 0 {
						refused[strings.ToUpper(method)+" "+path]++
						continue
					}
					compared[area]++
					report := func(format string, args ...any) {
						for k := range known {
							if strings.HasPrefix(name, k) && (k != "Resources" || strings.Contains(format+fmt.Sprint(args...), ".data")) {
								seenKnown[k] = true
								return
							}
						}
						t.Errorf("%s: %s %s: %s", name, strings.ToUpper(method), path, fmt.Sprintf(format, args...))
					}
					for _, p := range list(op["parameters"]) {
						if m, from := w.resolve(p.(map[string]any), file); m["in"] == "body" && ex.Parameters[fmt.Sprint(m["name"])] != nil {
							schema, _ := m["schema"].(map[string]any)
							bodies++
							w.check(func(where, what string) { report("request%s: %s", where, what) }, "", schema, from, ex.Parameters[fmt.Sprint(m["name"])], 0)
						}
					}
					if _, ok := ex.Responses[strconv.Itoa(status)]; !ok {
						if _, ok := op["responses"].(map[string]any)[strconv.Itoa(status)]; !ok {
							report("got status %d, want one of %v: %.300s", status, slices.Sorted(maps.Keys(ex.Responses)), answer)
							continue
						}
					}
					spec, _ := at(op, "responses", strconv.Itoa(status)).(map[string]any)
					spec, from := w.resolve(spec, file)
					schema, _ := spec["schema"].(map[string]any)
					if schema != nil && body != nil {
						w.check(func(where, what string) { report("%s: %s", where, what) }, "", schema, from, body, 0)
					}
				}
			}
		}
	}
	total := 0
	for _, n := range compared {
		total += n
	}
	t.Logf("%d examples sent; %v", total, compared)
	passed, needed := 0, make([]bool, len(operationsNotServed))
	for _, op := range slices.Sorted(maps.Keys(refused)) {
		passed += refused[op]
		i := slices.IndexFunc(operationsNotServed, func(n struct {
			operation *regexp.Regexp
			reason    string
		}) bool {
			return n.operation.MatchString(op)
		})
		if i < 0 {
			t.Errorf("%s is not served, and not on the list of such operations", op)
			continue
		}
		needed[i] = true
	}
	for i, n := range operationsNotServed {
		if !needed[i] {
			t.Errorf("%s (%s) is listed as not served, and no example needs it", n.operation, n.reason)
		}
	}
	all := 0
	_ = filepath.WalkDir(specs, func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".json") && strings.Contains(path, "/examples/") {
			all++
			if !used[path] {
				t.Errorf("no operation refers to the example %s", path)
			}
		}
		return nil
	})
	if bodies < 100 {
		t.Errorf("only %d bodies of requests were checked", bodies)
	}
	t.Logf("%d bodies of requests checked", bodies)
	t.Logf("of %d examples %d of operations that are not served", all, passed)
	if total < 390 || total+passed < all {
		t.Errorf("%d examples were sent and %d passed over, of %d", total, passed, all)
	}
	for k := range known {
		if !seenKnown[k] {
			t.Errorf("the accepted difference %q does not occur", k)
		}
	}
}

// send puts what an example needs into a simulator of its own and sends it. Status 0: the operation is not served.
func send(t *testing.T, w *swagger, file, path, method string, op map[string]any, params map[string]any, responses map[string]map[string]any) (int, []byte, any) {
	t.Helper()
	for k, v := range params {
		params[k] = plain(v)
	}
	query := url.Values{}
	var body any
	for _, p := range list(op["parameters"]) {
		m, _ := p.(map[string]any)
		m, _ = w.resolve(m, file)
		name, _ := m["name"].(string)
		switch v := params[name]; m["in"] {
		case "path":
			path = strings.ReplaceAll(path, "{"+name+"}", fmt.Sprint(v))
		case "query":
			if v != nil && name != "api-version" {
				query.Set(name, fmt.Sprint(v))
			}
		case "body":
			body = v
		}
	}
	query.Set("api-version", fmt.Sprint(params["api-version"]))
	if params["api-version"] == nil {
		query.Set("api-version", "2020-01-01")
	}
	path = "/" + strings.TrimLeft(path, "/")
	if strings.Contains(path, "{") {
		return 0, nil, nil
	}
	sub := "00000000-0000-0000-0000-000000000001"
	if m := regexp.MustCompile(`(?i)^/subscriptions/([^/]+)`).FindStringSubmatch(path); m != nil {
		sub = m[1]
	}
	scope := `{"id":"/subscriptions/` + sub + `"}`
	if m := regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+`).FindString(path); m != "" {
		scope = `{"id":"` + m + `","location":"westus"}`
	}
	a := newAz(t, sim.Config{Estate: []byte(`{"resources":[` + scope + `]}`)})
	ids := map[string]bool{}
	idsIn(body, ids)
	self := path
	if strings.EqualFold(method, "post") {
		self = path[:strings.LastIndex(path, "/")]
	}
	if !strings.EqualFold(method, "put") {
		ids[self] = true
		if got := responses["200"]["body"]; strings.EqualFold(method, "get") { // what the example shows is there to be shown
			if shown, ok := plain(got).(map[string]any); ok && shown["id"] != nil && shown["properties"] != nil && resourceID.MatchString(self) && len(strings.Split(self, "/")) == 9 {
				_ = a.s.Edit(self, func(b map[string]any) error {
					maps.Copy(b, shown)
					delete(b, "etag")
					return nil
				})
			}
		}
	} else if parent := resourceID.FindString(path); parent != "" && !strings.EqualFold(parent, path) {
		ids[parent] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if !strings.EqualFold(method, "put") || !strings.HasPrefix(strings.ToLower(id), strings.ToLower(path)) {
			a.exists(id)
		}
	}
	instances := list(at(body, "instanceIds"))
	if i := strings.Index(strings.ToLower(path), "/virtualmachines/"); i > 0 && strings.Contains(path, "/virtualMachineScaleSets/") {
		self, instances = path[:i], []any{strings.Split(path[i+1:], "/")[1]}
	}
	for _, n := range instances {
		a.exists(fmt.Sprint(self, "/virtualMachines/", n))
	}
	if i := strings.Index(path, "/networkInterfaces/"); i > 0 && strings.Contains(path, "/virtualMachineScaleSets/") {
		nic := path[:i] + "/networkInterfaces/" + strings.Split(path[i:], "/")[2]
		_ = a.s.Edit(nic, func(b map[string]any) error {
			b["properties"] = map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"primary": true}}}}
			return nil
		})
	}
	var subs []any
	for _, s := range append(list(at(body, "subscriptions")), list(at(body, "managementGroups"))...) {
		subs = append(subs, map[string]any{"id": fmt.Sprint("/subscriptions/", s), "properties": map[string]any{"managementGroupAncestorsChain": []any{map[string]any{"name": s}}}})
	}
	if data, err := json.Marshal(map[string]any{"resources": subs}); err != nil || subs != nil && a.s.Load(data) != nil {
		t.Fatal("the scope of a query cannot be made")
	}
	if strings.Contains(path, "jitNetworkAccessPolicies") || strings.Contains(path, "Microsoft.Security") {
		prepareJIT(a, path, method, ids)
	}
	if strings.Contains(path, "effectiveNetworkSecurityGroups") {
		vm := self[:strings.Index(self, "/providers/")] + "/providers/Microsoft.Compute/virtualMachines/v"
		_ = a.s.Edit(vm, func(b map[string]any) error {
			b["location"], b["properties"] = "westus", map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": self}}}}
			return nil
		})
	}
	r, err := a.try(strings.ToUpper(method), (&url.URL{Path: path}).EscapedPath()+"?"+query.Encode(), body)
	if err != nil {
		t.Fatal(err)
	}
	if code := fmt.Sprint(at(r.body, "error", "code")); r.status == 405 || r.status == 404 && (code == "InvalidResourceType" || code == "NotFound" && strings.Contains(string(r.raw), "The simulator serves")) {
		return 0, nil, nil
	}
	var decoded any
	_ = json.Unmarshal(r.raw, &decoded)
	if dir := os.Getenv("CURFEW_EXAMPLES"); dir != "" {
		keepExchange(t, dir, strings.ToUpper(method), (&url.URL{Path: path}).EscapedPath()+"?"+query.Encode(), body, r, decoded)
	}
	return r.status, r.raw, decoded
}

// keepExchange writes what was sent and answered into a folder, in the form that oav validates, for the conformance module to have it judged.
func keepExchange(t *testing.T, dir, method, target string, body any, r reply, answer any) {
	t.Helper()
	headers := map[string]string{}
	for k, v := range r.header {
		headers[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	request := map[string]any{"method": method, "url": target, "headers": map[string]string{"content-type": "application/json"}}
	if body != nil {
		request["body"] = body
	}
	response := map[string]any{"statusCode": strconv.Itoa(r.status), "headers": headers}
	if len(r.raw) > 0 {
		response["body"] = answer
	}
	data, err := json.MarshalIndent(map[string]any{"liveRequest": request, "liveResponse": response}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d-%s.json", len(kept), method)), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func prepareJIT(a *az, path, method string, ids map[string]bool) {
	sub := path[:strings.Index(path[1:]+"/", "/")+1]
	if m := regexp.MustCompile(`(?i)^/subscriptions/[^/]+`).FindString(path); m != "" {
		sub = m
	}
	if !strings.Contains(path, "/pricings") {
		a.do(200, "PUT", sub+"/providers/Microsoft.Security/pricings/VirtualMachines", map[string]any{"properties": map[string]any{"pricingTier": "Standard"}})
	}
	vms := []any{}
	for id := range ids {
		if !strings.Contains(strings.ToLower(id), "/virtualmachines/") || strings.Contains(id, "/pricings") {
			continue
		}
		base := id[:strings.Index(id, "/providers/")]
		nsg, nic := base+"/providers/Microsoft.Network/networkSecurityGroups/n", base+"/providers/Microsoft.Network/networkInterfaces/i"
		_ = a.s.Edit(nsg, func(b map[string]any) error { b["location"] = "westeurope"; return nil })
		_ = a.s.Edit(nic, func(b map[string]any) error {
			b["location"], b["properties"] = "westeurope", map[string]any{"networkSecurityGroup": map[string]any{"id": nsg}, "ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"privateIPAddress": "10.0.0.4"}}}}
			return nil
		})
		_ = a.s.Edit(id, func(b map[string]any) error {
			b["location"], b["properties"] = "westeurope", map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": nic}}}}
			return nil
		})
		vms = append(vms, map[string]any{"id": id, "ports": []any{jitPort(22, "*")}})
	}
	if i := strings.Index(path, "/jitNetworkAccessPolicies/"); i >= 0 && !strings.EqualFold(method, "put") {
		name := strings.Split(path[i+len("/jitNetworkAccessPolicies/"):], "/")[0]
		a.do(200, "PUT", path[:i]+"/jitNetworkAccessPolicies/"+name, map[string]any{"properties": map[string]any{"virtualMachines": vms}})
	}
}

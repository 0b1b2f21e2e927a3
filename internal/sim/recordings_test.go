package sim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/testkit"
)

type cassette struct {
	Interactions []struct {
		Request struct {
			Method  string              `yaml:"method"`
			URI     string              `yaml:"uri"`
			URL     string              `yaml:"url"`
			Body    any                 `yaml:"body"`
			Headers map[string][]string `yaml:"headers"`
		} `yaml:"request"`
		Response struct {
			Status  any                 `yaml:"status"` // {code: 200}, or "200 OK" beside code
			Code    int                 `yaml:"code"`
			Headers map[string][]string `yaml:"headers"`
			Body    any                 `yaml:"body"`
		} `yaml:"response"`
	} `yaml:"interactions"`
}

func bodyText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any:
		return bodyText(v["string"])
	}
	return ""
}

var (
	guidLike  = regexp.MustCompile(`[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`)
	timeLike  = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)`)
	opsPath   = regexp.MustCompile(`(?i)/providers/microsoft\.(network|compute)/locations/[^/]+/(operations|operationresults)/|/subscriptions/[^/]+/operationresults/`)
	groupPath = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+$`)
	topPath   = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.[^/]+/[^/]+/[^/]+`)
)

// notServed are the recorded operations that the simulator does not have: they are passed over. Each must occur in the recordings, and the
// simulator must refuse it.
var notServed = []struct {
	path   *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`(?i)/providers/microsoft\.resources/deployments/`), "template deployments have a language of their own; what they made is loaded as the recording shows it later"},
	{regexp.MustCompile(`(?i)^/Azure/azure-rest-api-specs/`), "no Azure: a file that the client fetches from elsewhere"},
	{regexp.MustCompile(`(?i)/locations/[^/]+/publishers/`), "the catalogue of images"},
	{regexp.MustCompile(`(?i)/providers/microsoft\.compute/(galleries|images)/|/locations/[^/]+/(communityGalleries|capsOperations)/`), "galleries and images"},
	{regexp.MustCompile(`(?i)/vmSizes$`), "the catalogue of sizes"},
	{regexp.MustCompile(`(?i)/effectiveRouteTable$`), "effective routes: nothing here needs them"},
}

// exchange is one recorded call.
type exchange struct {
	i       int
	method  string
	url     *url.URL
	headers map[string][]string
	body    string
	status  int
	reply   http.Header
	text    string
	json    any // of text
}

func readCassette(t *testing.T, file string) []exchange {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c cassette
	if err := yaml.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	out := []exchange{}
	for i, x := range c.Interactions {
		uri := x.Request.URI
		if uri == "" {
			uri = x.Request.URL
		}
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		e := exchange{i: i, method: x.Request.Method, url: u, headers: x.Request.Headers, body: bodyText(x.Request.Body), status: x.Response.Code, reply: http.Header{}, text: bodyText(x.Response.Body)}
		if e.status == 0 {
			e.status, _ = at(x.Response.Status, "code").(int)
		}
		for k, v := range x.Response.Headers {
			e.reply[http.CanonicalHeaderKey(k)] = v
		}
		_ = json.Unmarshal([]byte(e.text), &e.json)
		out = append(out, e)
	}
	return out
}

// replay sends a recording's requests and compares each answer with the recorded one: the status, the headers that a client acts upon,
// every field and every value that is not an id or a time of the moment. The simulated operations take as long as the recorded ones: the
// clock moves on when the recording shows that an operation has ended. known names the differences that are accepted, by the end of their
// path, with the reason; passed counts what is not served.
func replay(t *testing.T, file string, known map[string]string, passed map[string]int) {
	t.Helper()
	xs := readCassette(t, file)
	a := newAz(t, sim.Config{Estate: []byte(`{"resources":[{"id":"/subscriptions/00000000-0000-0000-0000-000000000000"}]}`), OperationDelay: time.Minute})
	r := &replayer{t: t, a: a, xs: xs, known: known, seen: map[string]bool{}, groups: map[string]bool{}, last: http.Header{}}
	r.before()
	for _, x := range xs {
		if reason := unserved(x.url.Path); reason != "" {
			passed[reason]++
			r.last, r.passing = http.Header{}, true
			if x.url.Host == "management.azure.com" {
				if got, err := a.try(x.method, x.url.Path+"?api-version="+x.url.Query().Get("api-version"), nil); err != nil || got.status < 400 {
					t.Errorf("exchange %d: %s is served, and listed as not served: %s", x.i, x.url.Path, got.raw)
				}
			}
			if strings.Contains(strings.ToLower(x.url.Path), "/deployments/") && x.method == "PUT" {
				a.s.Advance(time.Hour)
				r.adopt(x.i)
			}
			continue
		}
		r.send(x)
	}
	for k := range known {
		if !r.seen[k] {
			t.Errorf("the accepted difference %q does not occur", k)
		}
	}
	if r.compared == 0 {
		t.Error("nothing was compared")
	}
	t.Logf("%d of %d exchanges compared", r.compared, len(xs))
}

func unserved(path string) string {
	for _, n := range notServed {
		if n.path.MatchString(path) {
			return n.reason
		}
	}
	return ""
}

type replayer struct {
	t        *testing.T
	a        *az
	xs       []exchange
	known    map[string]string
	seen     map[string]bool // accepted differences
	groups   map[string]bool
	last     http.Header // of the last write
	passing  bool        // the last write is not served, and so are its polls
	compared int
}

func (r *replayer) report(i int, where, format string, args ...any) {
	for n := range everywhere {
		if everywhere[n].where.MatchString(where + " " + format) {
			everywhere[n].seen++
			return
		}
	}
	for end, reason := range r.known {
		if strings.HasSuffix(where, end) {
			if !r.seen[end] {
				r.t.Logf("accepted: %s: %s", where, reason)
			}
			r.seen[end] = true
			return
		}
	}
	r.t.Errorf("exchange %d, %s: %s", i, where, fmt.Sprintf(format, args...))
}

func (r *replayer) send(x exchange) {
	r.t.Helper()
	a := r.a
	running := x.status == 202 || at(x.json, "status") == "InProgress" || at(x.json, "properties", "provisioningState") == "Updating" || at(x.json, "properties", "provisioningState") == "Creating"
	if x.method != "GET" || !running {
		a.s.Advance(time.Hour)
	}
	q := x.url.Query()
	for _, noise := range []string{"t", "c", "s", "h", "p"} {
		q.Del(noise)
	}
	path := x.url.Path + "?" + q.Encode()
	name := x.method + " " + regexp.MustCompile(`(?i)^.*/(providers|resourcegroups)/`).ReplaceAllString(x.url.Path, "")
	isGroup, isPoll := groupPath.MatchString(x.url.Path), opsPath.MatchString(x.url.Path)
	switch {
	case isPoll:
		header := "Azure-AsyncOperation"
		if strings.Contains(strings.ToLower(x.url.Path), "operationresults") {
			header = "Location"
		}
		name = x.method + " operation"
		if path = r.last.Get(header); path == "" && r.passing {
			return
		} else if path == "" {
			r.report(x.i, name, "polled, but the write before it gave no %s", header)
			return
		}
	case isGroup:
		r.groups[strings.ToLower(x.url.Path)] = true
	}
	var body any
	if x.body != "" {
		body = x.body
	}
	var headers []string
	for k, v := range x.headers {
		if strings.EqualFold(k, "If-Match") {
			headers = append(headers, "If-Match", v[0])
		}
	}
	if code, _ := at(x.json, "error", "details", 0, "code").(string); x.status == 429 && code == "RetryableErrorDueToAnotherOperation" { // Azure was at work inside
		if _, err := a.s.Fault(sim.Fault{Kind: "another-operation", Count: 1}); err != nil {
			r.t.Fatal(err)
		}
	}
	got, err := a.try(x.method, path, body, headers...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.compared++
	if x.method != "GET" && got.status < 300 {
		r.passing = false
		r.last = got.header
	}
	if got.status != x.status {
		r.report(x.i, name+" status", "got %d, want %d: %s", got.status, x.status, got.raw)
		return
	}
	if x.method != "GET" {
		for _, h := range []string{"Azure-AsyncOperation", "Location", "Retry-After"} {
			if recorded := x.reply.Get(h) != ""; recorded != (got.header.Get(h) != "") {
				r.report(x.i, name+" header "+h, "got %q, recorded: %v", got.header.Get(h), recorded)
			}
		}
	}
	if x.text == "" || x.text == "null" {
		if len(got.raw) > 0 && string(got.raw) != "null" {
			r.report(x.i, name+" body", "got %s, want none", got.raw)
		}
		return
	}
	if x.json == nil {
		return
	}
	if values := list(at(x.json, "value")); values != nil && x.method == "GET" { // the recorded account had other things too
		mine := []any{}
		for _, v := range values {
			id, _ := at(v, "id").(string)
			if segs := strings.Split(id, "/"); len(segs) < 5 || !strings.EqualFold(segs[3], "resourceGroups") || r.groups[strings.ToLower(strings.Join(segs[:5], "/"))] {
				mine = append(mine, v)
			}
		}
		x.json.(map[string]any)["value"] = mine
	}
	diff(func(where, format string, args ...any) { r.report(x.i, name+" "+where, format, args...) }, "", x.json, got.body)
}

// before loads what stood before the recording began: the groups, and what the first list of each kind in Microsoft.Security shows.
func (r *replayer) before() {
	r.t.Helper()
	var estate estateFile
	made, groups := map[string]bool{}, map[string]bool{}
	add := func(body map[string]any) {
		id, _ := body["id"].(string)
		if g := groupOf.FindString(id); g != "" && !groups[strings.ToLower(g)] {
			groups[strings.ToLower(g)] = true
			estate.Resources = append(estate.Resources, map[string]any{"id": g, "location": "westus"})
		}
		if id != "" && topPath.MatchString(id) || strings.Contains(id, "/pricings/") {
			estate.Resources = append(estate.Resources, copied(body))
		}
	}
	for _, x := range r.xs {
		path := strings.ToLower(x.url.Path)
		if g := groupOf.FindString(x.url.Path); g != "" {
			if x.method == "PUT" && strings.EqualFold(g, x.url.Path) {
				made[strings.ToLower(g)] = true
			}
			if own, ok := x.json.(map[string]any); ok && x.method == "GET" && strings.EqualFold(g, x.url.Path) && !groups[strings.ToLower(g)] && !made[strings.ToLower(g)] {
				groups[strings.ToLower(g)] = true
				estate.Resources = append(estate.Resources, copied(own))
			}
			if x.status != 404 && !made[strings.ToLower(g)] && !groups[strings.ToLower(g)] || x.status == 404 && strings.Contains(x.text, "ResourceNotFound") && !groups[strings.ToLower(g)] && !made[strings.ToLower(g)] {
				groups[strings.ToLower(g)] = true
				estate.Resources = append(estate.Resources, map[string]any{"id": g, "location": "westus"})
			}
		}
		if home, _ := at(x.json, "value", 0, "properties", "homeRegionName").(string); home != "" { // Defender keeps a subscription where its first group is
			estate.Resources = append(estate.Resources, map[string]any{"id": x.url.Path[:strings.Index(path, "/providers/")] + "/resourceGroups/first", "location": home})
		}
		if x.method == "GET" && strings.Contains(path, "/microsoft.security/") && x.i == 0 {
			for _, v := range list(at(x.json, "value")) {
				add(v.(map[string]any))
			}
		}
	}
	estate.Resources = append(estate.Resources, map[string]any{"id": "/subscriptions/00000000-0000-0000-0000-000000000000"})
	r.load(estate)
	for g := range groups {
		r.groups[g] = true
	}
}

var groupOf = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+`)

type estateFile struct {
	Resources []map[string]any `json:"resources"`
}

func (r *replayer) load(estate estateFile) {
	r.t.Helper()
	data, err := json.Marshal(estate)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.a.s.Load(data); err != nil {
		r.t.Fatal(err)
	}
}

func copied(body map[string]any) (own map[string]any) {
	data, err := json.Marshal(body)
	if err != nil || json.Unmarshal(data, &own) != nil {
		panic("a recorded body does not copy")
	}
	return own
}

// adopt loads what a deployment made and the recording shows from exchange i on, and what that refers to: the earliest whole body of each resource, or
// as much of it as is shown.
func (r *replayer) adopt(i int) {
	r.t.Helper()
	var estate estateFile
	if err := json.Unmarshal(r.a.s.Dump(), &estate); err != nil {
		r.t.Fatal(err)
	}
	have := map[string]bool{}
	for _, e := range estate.Resources {
		have[strings.ToLower(e["id"].(string))] = true
	}
	created := map[string]bool{}                    // by a later request
	parts := map[string]map[string]map[string]any{} // by the thing they are in and by id: as much as is known of it
	part := func(id string, body map[string]any) {
		top := topPath.FindString(id)
		if top == "" || top == id {
			return
		}
		if parts[strings.ToLower(top)] == nil {
			parts[strings.ToLower(top)] = map[string]map[string]any{}
		}
		if known := parts[strings.ToLower(top)][strings.ToLower(id)]; known == nil || len(known) < len(body) {
			parts[strings.ToLower(top)][strings.ToLower(id)] = body
		}
	}
	tops := map[string]string{}
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if id, ok := v["id"].(string); ok && topPath.MatchString(id) {
				tops[strings.ToLower(topPath.FindString(id))] = topPath.FindString(id)
				part(id, map[string]any{"id": id})
			}
			for _, e := range v {
				refs(e)
			}
		case []any:
			for _, e := range v {
				refs(e)
			}
		}
	}
	add := func(body map[string]any) {
		id, _ := body["id"].(string)
		if key := strings.ToLower(id); id != "" && !have[key] && !created[key] {
			have[key] = true
			own := copied(body)
			if props, ok := own["properties"].(map[string]any); ok {
				for k, v := range props {
					if l, isList := v.([]any); isList {
						props[k] = slices.DeleteFunc(l, func(e any) bool { eid, _ := at(e, "id").(string); return created[strings.ToLower(eid)] })
					}
				}
			}
			estate.Resources = append(estate.Resources, own)
			refs(own)
		}
	}
	for _, x := range r.xs[i+1:] {
		if strings.Contains(strings.ToLower(x.url.Path), "/deployments/") && x.method == "PUT" {
			break
		}
		top := topPath.FindString(x.url.Path)
		body, _ := x.json.(map[string]any)
		switch {
		case groupOf.FindString(x.url.Path) == "" || unserved(x.url.Path) != "" || x.status > 299 || body == nil && x.method != "DELETE" || x.method == "POST":
		case x.method == "PUT" && x.status == 201:
			created[strings.ToLower(x.url.Path)] = true
			if top != "" {
				tops[strings.ToLower(top)] = top
			}
		case x.method == "DELETE" && top == x.url.Path:
			tops[strings.ToLower(top)] = top
		case x.method == "GET" && body["value"] != nil:
			for _, v := range list(body["value"]) {
				if id, _ := at(v, "id").(string); topPath.FindString(id) == id {
					add(v.(map[string]any))
				}
			}
		case x.method == "GET" && top == x.url.Path:
			add(body)
		case x.method == "GET" && !created[strings.ToLower(x.url.Path)]:
			tops[strings.ToLower(top)] = top
			part(x.url.Path, copied(body))
		}
	}
	for len(tops) > 0 { // what is referred to and never shown whole
		key := slices.Min(slices.Collect(maps.Keys(tops)))
		id := tops[key]
		delete(tops, key)
		if have[key] || created[key] || unserved(id+"/") != "" {
			continue
		}
		props := map[string]any{}
		if strings.Contains(key, "/virtualnetworks/") { // az's own default
			props["addressSpace"] = map[string]any{"addressPrefixes": []any{"10.0.0.0/16"}}
		}
		for _, c := range slices.Sorted(maps.Keys(parts[key])) {
			body := parts[key][c]
			segs := strings.Split(body["id"].(string), "/")
			if len(segs) != 11 || created[c] {
				continue
			}
			if body["properties"] == nil && segs[9] == "subnets" {
				body["properties"] = map[string]any{"addressPrefix": "10.0.0.0/24"}
			}
			body["name"] = segs[10]
			l, _ := props[segs[9]].([]any)
			props[segs[9]] = append(l, body)
		}
		add(map[string]any{"id": id, "location": "westus", "properties": props})
	}
	r.load(estate)
}

func (a *az) do2xx(method, path string, body any) {
	a.t.Helper()
	if r, err := a.try(method, path, body); err != nil || r.status > 299 {
		a.t.Fatalf("%s %s: %v %s", method, path, err, r.raw)
	}
}

func diff(report func(where, format string, args ...any), where string, want, got any) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			report(where, "got %v, want an object", got)
			return
		}
		keys := make([]string, 0, len(w))
		for k := range w {
			keys = append(keys, k)
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		for _, k := range keys {
			p := where + "." + k
			gv, inGot := g[k]
			wv, inWant := w[k]
			switch {
			case !inGot:
				report(p, "missing, want %v", wv)
			case !inWant:
				report(p, "got %v, not in the recording", gv)
			default:
				diff(report, p, wv, gv)
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			report(where, "got %v, want %v", got, want)
			return
		}
		for i := range w {
			diff(report, where+"[]", w[i], g[i])
		}
	case string:
		g, ok := got.(string)
		if !ok || timeLike.ReplaceAllString(guidLike.ReplaceAllString(g, "*"), "*") != timeLike.ReplaceAllString(guidLike.ReplaceAllString(w, "*"), "*") {
			report(where, "got %v, want %v", got, want)
		}
	default:
		if fmt.Sprint(want) != fmt.Sprint(got) {
			report(where, "got %v, want %v", got, want)
		}
	}
}

// everywhere are the differences that are accepted in all recordings; each must occur.
var everywhere = []struct {
	where  *regexp.Regexp // of the path, and of what is said
	reason string
	seen   int
}{
	{regexp.MustCompile(`(GET|PUT) .*\.(privateEndpointVNetPolicies|ipamPoolPrefixAllocations|ddosSettings|nicAuxiliarySkuBillingNotificationType|resilientVMDeletionStatus|virtualMachineProfile\.timeCreated) missing`),
		"fields of some api-versions: the simulator has one shape for all", 0},
	{regexp.MustCompile(`networkInterfaces\S* (\.kind|\.properties\.(allowPort25Out|auxiliaryMode|auxiliarySku|defaultOutboundConnectivityEnabled|disableTcpStateTracking|enableAcceleratedNetworking|nicType|vnetEncryptionSupported)) got %v, not in`),
		"the same: older api-versions do not show what newer ones do", 0},
	{regexp.MustCompile(`(loadBalancers\S* (\.sku\.tier|\.properties\.outboundRules|\S*\.loadBalancerBackendAddresses)|(virtualMachines|virtualMachineScaleSets)/\S* (\.etag|\.properties\.timeCreated)|private(Endpoint|LinkService)NetworkPolicies) got %v, not in`),
		"the same, of other types", 0},
	{regexp.MustCompile(`\.properties\.enableVmProtection got %v, not in`), "sent by the client, dropped by newer api-versions; the simulator keeps fields that it does not know", 0},
	{regexp.MustCompile(`\.(dnsSettings\.internalDomainNameSuffix|storageProfile\.osDisk\.(name|managedDisk\.id)) got %v, want`), "names that Azure makes up", 0},
	{regexp.MustCompile(`publicIPAddresses/\S* \.properties\.ipAddress got`), "from documentation space; a static one is given at once", 0},
	{regexp.MustCompile(`\.(imageReference\.exactVersion|osDisk\.diskSizeGB) missing`), "known from the catalogue of images, which is not here", 0},
	{regexp.MustCompile(`^(GET|PUT) [^/ ]+ \.tags(\.Creator|\.DateCreated)? missing`), "a policy of the recorded subscription tags new groups", 0},
	{regexp.MustCompile(`^GET Microsoft\.(Network|Compute) \.(authorizations missing|resourceTypes)`), "a provider lists what the simulator serves, and Microsoft's own applications are left out", 0},
	{regexp.MustCompile(`(subnets\S* |subnets\[\])\.properties\.ipConfigurations(\[\]\.id got|\ missing)|availabilitySets/\S* \.properties\.virtualMachines got`), "Azure writes back-references in capitals, and the recording leaves the true name of the group in them", 0},
}

const (
	guest   = "what the guest's agent and the host report"
	gateway = "a gateway is a body alone, apart from what is behind it"
)

// accepted are the differences that stand, for each recording, by the end of their path.
var accepted = map[string]map[string]string{
	"cloud-provider-azure/interfaceclient__AZURECLOUD.yaml": {
		"DELETE Microsoft.Network/networkInterfaces/testResource status": "recorded as 200 here and as 202 in virtualmachineclient; both with the headers of an operation",
	},
	"cloud-provider-azure/virtualnetworkclient__AZURECLOUD.yaml": {
		"PUT Microsoft.Network/virtualNetworks/testResource status": "recorded as 201 for a VNet that existed; every other type answers 200",
	},
	"cloud-provider-azure/virtualmachinescalesetvmclient__AZURECLOUD.yaml": {
		"/instanceView .computerName":         guest,
		"/instanceView .disks":                guest,
		"/instanceView .hyperVGeneration":     guest,
		"/instanceView .osName":               guest,
		"/instanceView .osVersion":            guest,
		"/instanceView .vmAgent":              guest,
		"/instanceView .placementGroupId":     guest,
		"/instanceView .platformFaultDomain":  guest,
		"/instanceView .platformUpdateDomain": guest,
	},
	"network/test_network_nic_convenience_commands.yaml": {
		".effectiveSecurityRules[].expandedDestinationAddressPrefix": "of the tag Internet: ours is all public space, Azure's a list of the day that leaves out more",
		".tagMap.Internet": "the same",
	},
	"network/test_network_nic_subresources.yaml": {
		".properties.ipConfigurations[].properties.privateIPAddress": "Azure gave a dynamic address anew two writes after it had ceased to be static",
	},
	"network/test_network_vpn_connection_nat_rule.yaml": {
		".properties.bgpSettings":                  gateway,
		".properties.packetCaptureDiagnosticState": gateway,
		".properties.vpnClientConfiguration":       gateway,
		".properties.vpnGatewayGeneration":         gateway,
		".properties.sku.capacity":                 gateway,
	},
	"security/test_security_pricings.yaml": {
		".additionalExtensionProperties": "the recorded subscription had excluded machines by tags before",
	},
	"vm/hybrid_2020_09_01__test_vm_lb_integration.yaml": {
		"PUT Microsoft.Network/loadBalancers/lb1 status": "429 ReferencedResourceNotProvisioned once: an internal operation of Azure on the availability set was still running",
	},
	"vm/test_community_gallery_operations.yaml": {
		"virtualMachines/vm000002 .etag":                                                            "counts the deallocation and what Azure did inside",
		"virtualMachines/vm000002 .properties.storageProfile.osDisk.diskSizeGB":                     "hidden while a machine is deallocated",
		"virtualMachines/vm000002 .properties.storageProfile.osDisk.managedDisk.storageAccountType": "the same",
		"POST Microsoft.ResourceGraph/resources status":                                             "a table of galleries, refused with its name",
	},
	"vm/test_vm_show_list_sizes_list_ip_addresses.yaml": {
		"GET Microsoft.Network/networkInterfaces .value": "shown with the true name of the group, which the rest of the recording hides",
	},
}

func TestRecordings(t *testing.T) {
	shared := testkit.Shared(t, "azure", "recordings")
	files, err := filepath.Glob(filepath.Join(shared, "*", "*.yaml"))
	if err != nil || len(files) != 30 {
		t.Fatalf("found %d recordings, want 30: %v", len(files), err)
	}
	passed := map[string]int{}
	replayed := 0
	for _, f := range files {
		name, _ := filepath.Rel(shared, f)
		t.Run(name, func(t *testing.T) { replay(t, f, accepted[name], passed); replayed++ })
	}
	for name := range accepted {
		if _, err := os.Stat(filepath.Join(shared, name)); err != nil {
			t.Errorf("differences are accepted for %s, which is no recording", name)
		}
	}
	for _, e := range everywhere {
		if replayed == len(files) && e.seen == 0 {
			t.Errorf("%s (%s) is accepted, and does not occur", e.where, e.reason)
		}
		t.Logf("accepted, %d times: %s", e.seen, e.reason)
	}
	for _, n := range notServed {
		if replayed == len(files) && passed[n.reason] == 0 {
			t.Errorf("%s (%s) is listed as not served, and no recording has it", n.path, n.reason)
		}
		t.Logf("not served, %d times: %s", passed[n.reason], n.reason)
	}
}

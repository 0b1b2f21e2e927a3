package simtest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/testkit"
)

// difference is something that the validator finds and that is known. Every entry says why it stands, and one that no longer occurs in
// the traffic of a client it names fails that client's run.
type difference struct {
	clients   string // in whose traffic it has to occur; "" where it depends on what the client chooses to send
	side      string
	operation string // regular expressions, matched against the whole
	code      string
	path      string
	reason    string
}

var differences = []difference{
	{"go", "request", ".*", "READONLY_PROPERTY_NOT_ALLOWED_IN_REQUEST", ".*",
		"clients send back what they read, read-only fields included; Azure ignores them, and so does the simulator"},
	{"az", "request", "SecurityRules_CreateOrUpdate", "ENUM_CASE_MISMATCH", "/properties/(access|direction)",
		"az vm open-port sends allow and inbound in lower case; Azure takes them, and so does the simulator"},
	{"examples", "request", "VirtualMachineScaleSets_CreateOrUpdate", "ENUM_CASE_MISMATCH", "/properties/virtualMachineProfile/(priority|storageProfile/osDisk/createOption)",
		"an official example writes spot and fromImage; Azure takes them, and so does the simulator"},
	{"examples", "request", "JitNetworkAccessPolicies_Initiate", "OBJECT_(ADDITIONAL_PROPERTIES|MISSING_REQUIRED_PROPERTY)", "/virtualMachines\\[\\]/ports\\[\\]/(duration|endTimeUtc)",
		"the official example sends duration instead of endTimeUtc; the simulator refuses it"},
	{"examples", "response", "(LoadBalancers|InboundNatRules|LoadBalancerLoadBalancingRules)_.*", "OBJECT_ADDITIONAL_PROPERTIES", ".*/(allowBackendPortConflict|enableDestinationServiceEndpoint)",
		"recorded answers of Azure have them, the spec does not"},
	{"examples", "response", "Tenants_List", "OBJECT_MISSING_REQUIRED_PROPERTY", "/nextLink",
		"as with subscriptions"},
	{"go examples", "response", "Subscriptions_List", "OBJECT_MISSING_REQUIRED_PROPERTY", "/nextLink",
		"the spec requires a nextLink, which the last page of a list cannot have"},
	{"go", "response", "NetworkInterfaces_.*", "OBJECT_ADDITIONAL_PROPERTIES", ".*/(kind|allowPort25Out|defaultOutboundConnectivityEnabled)",
		"recorded answers of Azure have them, the spec does not"},
	{"go", "response", "JitNetworkAccessPolicies_.*", "OBJECT_ADDITIONAL_PROPERTIES", ".*/properties/appendMode",
		"recorded in Azure's answers, absent from the spec"},
	{"go", "response", "VirtualMachineScaleSetVMs_.*", "OBJECT_ADDITIONAL_PROPERTIES", ".*/properties/scheduledEventsProfile",
		"the simulator's own: it shows which model an instance was given"},
}

// undescribed are the exchanges that none of the specs at hand describes.
var undescribed = []struct{ path, reason string }{
	{`/providers/Microsoft\.[A-Za-z]+/locations/[^/]+/(operations|operationResults)/[^/]+`, "URLs of operations are the service's own affair; clients take them from headers"},
	{`/subscriptions/[^/]+/resourcegroups(/[^/]+)?`, "the spec of resource groups is not in the reference data"},
	{`/subscriptions/[^/]+/resources`, "the spec of generic resources is not in the reference data"},
	{`/subscriptions/[^/]+/providers(/[^/]+)?`, "the spec of providers is not in the reference data"},
	{`.*/virtualMachines/[^/]+/runCommand`, "the spec of run-command is not in the reference data"},
}

type finding struct {
	File      string   `json:"file"`
	Side      string   `json:"side"`
	Operation string   `json:"operation"`
	Status    string   `json:"status"`
	Code      string   `json:"code"`
	Paths     []string `json:"paths"`
	Message   string   `json:"message"`
}

type report struct {
	Exchanges     int            `json:"exchanges"`
	Validated     int            `json:"validated"`
	OtherVersions map[string]int `json:"otherVersions"`
	Undescribed   []struct {
		File   string `json:"file"`
		Method string `json:"method"`
		Path   string `json:"path"`
		Code   string `json:"code"`
	} `json:"undescribed"`
	Differences []finding `json:"differences"`
}

// Modules requires what package.json of the js folder names, installed by npm ci, and returns the folder.
func Modules(t testing.TB) string {
	t.Helper()
	_, err := exec.LookPath("node")
	testkit.Require(t, "node", err == nil)
	dir := Folder(t, "js")
	_, err = os.Stat(filepath.Join(dir, "node_modules", "oav"))
	testkit.Require(t, "the JavaScript packages (npm ci in conformance/js)", err == nil)
	return dir
}

// specs is the folder of the official specs.
func specs(t testing.TB) string {
	t.Helper()
	if os.Getenv("CURFEW_SHARED") == "" {
		t.Setenv("CURFEW_SHARED", filepath.Join(filepath.Dir(root(t)), "shared")) // beside the checkout, not beside this module
	}
	return testkit.Shared(t, "azure", "specs")
}

// Validate puts the traffic in dir before oav with the official specs. What it finds in requests and answers has to be on the list of
// differences. The report stays beside the traffic.
func Validate(t *testing.T, dir, client string) {
	t.Helper()
	r := examine(t, dir)
	t.Logf("%d exchanges, %d validated, %d that no spec describes; asked in versions other than the specs': %v", r.Exchanges, r.Validated, len(r.Undescribed), r.OtherVersions)
	if r.Validated == 0 {
		t.Fatal("nothing was validated")
	}
	judge(t, r, client)
}

// examine runs the validator.
func examine(t testing.TB, dir string) report {
	t.Helper()
	modules, specs := Modules(t), specs(t)
	file := filepath.Clean(dir) + "-oav.json"
	cmd := exec.Command("node", filepath.Join(modules, "validate.mjs"), specs, dir, file)
	cmd.Dir = modules
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("oav: %v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatalf("oav's report: %v", err)
	}
	return r
}

func judge(t testing.TB, r report, client string) {
	t.Helper()
	for _, u := range r.Undescribed {
		if !slices.ContainsFunc(undescribed, func(k struct{ path, reason string }) bool {
			return matches("(?i).*"+k.path, strings.TrimSuffix(u.Path, "/"))
		}) {
			t.Errorf("%s: no spec describes %s %s (%s)", u.File, u.Method, u.Path, u.Code)
		}
	}
	seen := make([]bool, len(differences))
	for _, f := range r.Differences {
		var unknown []string
		for _, p := range f.Paths {
			i := slices.IndexFunc(differences, func(d difference) bool {
				return d.side == f.Side && matches(d.code, f.Code) && matches(d.operation, f.Operation) && matches(d.path, p)
			})
			if i < 0 {
				unknown = append(unknown, p)
			} else {
				seen[i] = true
			}
		}
		if len(unknown) > 0 || len(f.Paths) == 0 {
			t.Errorf("%s: %s of %s, status %s: %s %s: %s", f.File, f.Side, f.Operation, f.Status, f.Code, strings.Join(unknown, " "), f.Message)
		}
	}
	if t.Failed() {
		return // what was not asked cannot differ
	}
	for i, d := range differences {
		if !seen[i] && slices.Contains(strings.Fields(d.clients), client) {
			t.Errorf("a known difference no longer occurs and should leave the list: %s", fmt.Sprintf("%+v", d))
		}
	}
}

func matches(pattern, s string) bool {
	return regexp.MustCompile("^(?:" + pattern + ")$").MatchString(s)
}

package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// routes is the API: what stands here is promised to scripts.
const routes = `GET /v1/accounts
POST /v1/accounts/{name}/end
POST /v1/accounts/{name}/release
GET /v1/audit
GET /v1/audit/checkpoint
GET /v1/break-glass
POST /v1/break-glass
POST /v1/break-glass/{id}/close
POST /v1/channels/{name}/test
GET /v1/delegations
POST /v1/delegations
POST /v1/delegations/{id}/end
GET /v1/events
POST /v1/explanations
GET /v1/grants
GET /v1/grants/{id}
POST /v1/grants/{id}/close
POST /v1/grants/{id}/extend
POST /v1/grants/{id}/revoke
GET /v1/links
POST /v1/links
POST /v1/links/{id}/remove
GET /v1/login
POST /v1/login/device
POST /v1/login/device/token
POST /v1/login/start
POST /v1/login/token
POST /v1/logout
GET /v1/notices
GET /v1/notices/{id}
POST /v1/notices/{id}/retry
POST /v1/plans/protection
POST /v1/plans/request
GET /v1/policy
POST /v1/policy/replay
GET /v1/policy/who
POST /v1/protections
POST /v1/reconcile
GET /v1/requests
POST /v1/requests
GET /v1/requests/{id}
POST /v1/requests/{id}/approve
POST /v1/requests/{id}/cancel
POST /v1/requests/{id}/comments
POST /v1/requests/{id}/deny
POST /v1/requests/{id}/remind
POST /v1/resume
GET /v1/scans
POST /v1/scans
GET /v1/scans/{id}
GET /v1/scans/{id}/diff
GET /v1/sessions
GET /v1/status
GET /v1/tokens
POST /v1/tokens
POST /v1/tokens/{id}/revoke
GET /v1/vms
GET /v1/vms/{ref}
GET /v1/whoami`

type operation struct {
	OperationID string                    `json:"operationId"`
	Summary     string                    `json:"summary"`
	Tags        []string                  `json:"tags"`
	Security    []map[string][]string     `json:"security"`
	Parameters  []map[string]any          `json:"parameters"`
	Responses   map[string]map[string]any `json:"responses"`
	RequestBody map[string]any            `json:"requestBody"`
}

func document(t *testing.T) (map[string]any, map[string]map[string]operation, string) {
	t.Helper()
	r := start(t, nil)
	res, body := r.raw("GET", "/openapi.json", "", "Authorization", "")
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/openapi+json" {
		t.Fatalf("got %d %v", res.StatusCode, res.Header)
	}
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	var typed struct {
		Paths map[string]map[string]operation `json:"paths"`
	}
	if err := json.Unmarshal([]byte(body), &typed); err != nil {
		t.Fatal(err)
	}
	res, text := r.raw("GET", "/openapi.yaml", "", "Authorization", "")
	var same map[string]any
	if err := yaml.Load([]byte(text), &same); err != nil || res.StatusCode != 200 || same["openapi"] != doc["openapi"] {
		t.Errorf("the YAML form: %d, %v", res.StatusCode, err)
	}
	return doc, typed.Paths, body
}

func TestOpenAPIHasEveryRoute(t *testing.T) {
	doc, paths, body := document(t)
	if v, _ := doc["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		t.Errorf("OpenAPI version %v", doc["openapi"])
	}
	var got []string
	ids := map[string]bool{}
	for path, ops := range paths {
		for method, op := range ops {
			at := strings.ToUpper(method) + " " + path
			got = append(got, at)
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) == 0 || len(op.Security) == 0 {
				t.Errorf("%s: id %q, summary %q", at, op.OperationID, op.Summary)
			}
			ids[op.OperationID] = true
			def, _ := json.Marshal(op.Responses["default"])
			if len(op.Responses) < 2 || !strings.Contains(string(def), api.ProblemType) || !strings.Contains(string(def), "#/components/schemas/Problem") {
				t.Errorf("%s: responses %v", at, op.Responses)
			}
			for _, name := range parametersIn(path) {
				if !slices.ContainsFunc(op.Parameters, func(p map[string]any) bool { return p["name"] == name && p["in"] == "path" && p["required"] == true }) {
					t.Errorf("%s: the parameter %s is not described", at, name)
				}
			}
			if method == "get" && op.RequestBody != nil {
				t.Errorf("%s has a body", at)
			}
		}
	}
	slices.SortFunc(got, func(a, b string) int {
		_, pa, _ := strings.Cut(a, " ")
		_, pb, _ := strings.Cut(b, " ")
		return strings.Compare(pa+"\x00"+a, pb+"\x00"+b)
	})
	if s := strings.Join(got, "\n"); s != routes {
		t.Errorf("the routes are\n%s", s)
	}
	for _, bad := range []string{"$schema", `"null"`, "internal/"} {
		if strings.Contains(body, bad) {
			t.Errorf("the document holds %s", bad)
		}
	}
}

func parametersIn(path string) (out []string) {
	for _, part := range strings.Split(path, "/") {
		if strings.HasPrefix(part, "{") {
			out = append(out, strings.Trim(part, "{}"))
		}
	}
	return out
}

// Every reference leads somewhere, and every schema that is there is used.
func TestOpenAPIReferencesResolve(t *testing.T) {
	doc, _, body := document(t)
	refs := 0
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				refs++
				if !resolves(doc, ref) {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			if kind, ok := v["type"].(string); ok && kind == "array" && v["items"] == nil {
				t.Errorf("an array without items: %v", v)
			}
			for _, c := range v {
				walk(c)
			}
		case []any:
			for _, c := range v {
				walk(c)
			}
		}
	}
	walk(doc)
	if refs < 20 {
		t.Errorf("only %d references", refs)
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	for name, s := range schemas {
		if !strings.Contains(body, `"#/components/schemas/`+name+`"`) {
			t.Errorf("schema %s is not used", name)
		}
		props, _ := s.(map[string]any)["properties"].(map[string]any)
		for p := range props {
			if p != strings.ToLower(p) {
				t.Errorf("%s.%s is not in snake_case", name, p)
			}
		}
	}
	for _, want := range []string{"VM", "Request", "Grant", "ProtectInput", "RequestInput", "Problem", "AuditEntry", "ListGrant"} {
		if schemas[want] == nil {
			t.Errorf("there is no schema %s", want)
		}
	}
}

func resolves(doc map[string]any, ref string) bool {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return false
	}
	var at any = doc
	for _, part := range strings.Split(rest, "/") {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return at != nil
}

// docs/api.md lists every route and every code.
func TestAPIDocumentation(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(testkit.Module(t), "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(routes) {
		method, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(string(b), "| `"+method+" "+path+"` |") {
			t.Errorf("docs/api.md lacks %s %s", method, path)
		}
	}
	for _, row := range codeRows() {
		if !strings.Contains(string(b), row) {
			t.Errorf("docs/api.md lacks %s", row)
		}
	}
}

func codeRows() (out []string) {
	for _, c := range access.Codes {
		out = append(out, fmt.Sprintf("| `%s` | %d | %d | %s |", c, api.StatusOf(c), api.Exit(c), api.TitleOf(c)))
	}
	return out
}

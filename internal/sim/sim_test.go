package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
)

const (
	sub   = "/subscriptions/00000000-0000-0000-0000-00000000000a"
	group = sub + "/resourceGroups/Shop"
	nsgID = group + "/providers/Microsoft.Network/networkSecurityGroups/web-nsg"
	api   = "2024-03-01"
)

// az is a bare HTTP client of one simulator.
type az struct {
	t   *testing.T
	s   *sim.Sim
	hc  *http.Client
	tok string
}

type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    []byte
}

func newAz(t *testing.T, cfg sim.Config) *az {
	t.Helper()
	if cfg.Estate == nil {
		cfg.Estate = []byte(`{"resources":[{"id":"` + group + `","location":"westeurope"}]}`)
	}
	s, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &az{t: t, s: s, hc: &http.Client{Transport: s.Transport()}, tok: s.Token()}
}

func (a *az) try(method, path string, body any, headers ...string) (reply, error) {
	a.t.Helper()
	if !strings.Contains(path, "api-version=") {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		path += sep + "api-version=" + api
	}
	if !strings.HasPrefix(path, "https://") {
		path = "https://management.azure.com" + path
	}
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			a.t.Fatal(err)
		}
		rd = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, path, rd)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+a.tok)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.hc.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	out := reply{status: resp.StatusCode, header: resp.Header, raw: raw}
	if err != nil {
		return out, err
	}
	_ = json.Unmarshal(raw, &out.body)
	return out, nil
}

// do expects an answer with the status.
func (a *az) do(want int, method, path string, body any, headers ...string) reply {
	a.t.Helper()
	r, err := a.try(method, path, body, headers...)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	if r.status != want {
		a.t.Fatalf("%s %s: got status %d, want %d: %s", method, path, r.status, want, r.raw)
	}
	return r
}

// fails expects an ARM error with the code.
func (a *az) fails(status int, code, method, path string, body any, headers ...string) reply {
	a.t.Helper()
	r := a.do(status, method, path, body, headers...)
	if got := at(r.body, "error", "code"); got != code {
		a.t.Fatalf("%s %s: got code %v, want %s: %s", method, path, got, code, r.raw)
	}
	if at(r.body, "error", "message") == nil {
		a.t.Fatalf("%s %s: error without a message: %s", method, path, r.raw)
	}
	return r
}

// at walks maps by name and lists by index.
func at(v any, path ...any) any {
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func rule(name string, priority int, more ...string) map[string]any {
	p := map[string]any{"priority": priority, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*",
		"sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "22"}
	for i := 0; i+1 < len(more); i += 2 {
		if more[i+1] == "" {
			delete(p, more[i])
		} else {
			p[more[i]] = more[i+1]
		}
	}
	return map[string]any{"name": name, "properties": p}
}

func nsgBody(rules ...map[string]any) map[string]any {
	if rules == nil {
		rules = []map[string]any{}
	}
	return map[string]any{"location": "westeurope", "properties": map[string]any{"securityRules": rules}}
}

func TestNSGLifeCycle(t *testing.T) {
	a := newAz(t, sim.Config{})
	r := a.do(201, "PUT", nsgID, nsgBody(rule("ssh", 200)))
	if got := at(r.body, "properties", "provisioningState"); got != "Updating" {
		t.Errorf("got state %v in the reply, want Updating", got)
	}
	first := at(r.body, "etag")
	op := r.header.Get("Azure-AsyncOperation")
	if !strings.HasPrefix(op, "https://management.azure.com/subscriptions/") {
		t.Fatalf("got Azure-AsyncOperation %q, want an absolute URL on the client's host", op)
	}
	if r.header.Get("Retry-After") != "" {
		t.Error("got Retry-After, recorded replies have none")
	}
	if got := a.do(200, "GET", op, nil).body["status"]; got != "Succeeded" {
		t.Errorf("got status %v, want Succeeded", got)
	}
	r = a.do(200, "GET", strings.ToUpper(nsgID), nil)
	if r.body["id"] != nsgID {
		t.Errorf("got id %v, want the case it was created with", r.body["id"])
	}
	second := r.body["etag"]
	if first == second || r.header.Get("Etag") != second {
		t.Errorf("got etags %v then %v (header %q), want a new one when the operation is done", first, second, r.header.Get("Etag"))
	}
	if at(r.body, "properties", "securityRules", 0, "etag") != second {
		t.Error("a rule does not share its NSG's etag")
	}
	if n := len(list(at(r.body, "properties", "defaultSecurityRules"))); n != 6 {
		t.Errorf("got %d default rules, want 6", n)
	}
	a.fails(412, "PreconditionFailed", "PUT", nsgID, nsgBody(), "If-Match", first.(string))
	r = a.do(200, "PUT", nsgID, nsgBody(rule("rdp", 300)), "If-Match", fmt.Sprint(second))
	if rules := list(at(r.body, "properties", "securityRules")); len(rules) != 1 || at(rules[0], "name") != "rdp" {
		t.Errorf("got rules %v, want the set replaced by rdp", rules)
	}
	if n := a.s.Writes(nsgID); n != 2 {
		t.Errorf("got %d writes, want 2", n)
	}
	r = a.do(202, "DELETE", nsgID, nil)
	a.do(200, "GET", r.header.Get("Azure-AsyncOperation"), nil)
	a.do(204, "GET", r.header.Get("Location"), nil)
	a.fails(404, "ResourceNotFound", "GET", nsgID, nil)
	a.do(204, "DELETE", nsgID, nil)
}

func jsonInto(r io.Reader, into any) error { return json.NewDecoder(r).Decode(into) }

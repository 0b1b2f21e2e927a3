package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/server"
)

func problemOf(t *testing.T, res *http.Response, body string) api.Problem {
	t.Helper()
	var p api.Problem
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || res.Header.Get("Content-Type") != api.ProblemType || p.Status != res.StatusCode ||
		p.Correlation == "" || p.Correlation != res.Header.Get(server.CorrelationHeader) || p.Title == "" || p.Type != "urn:curfew:problem:"+string(p.Code) {
		t.Fatalf("not a problem: %d %s %s (%v)", res.StatusCode, res.Header, body, err)
	}
	return p
}

// Each code crosses the wire unchanged, with message, hint and field, under the status of the table.
func TestEveryCodeCrossesTheWire(t *testing.T) {
	r := start(t, nil)
	for _, c := range access.Codes {
		e := access.Errorf(c, "what and why").WithHint("what next").Wrap(errors.New("secret cause"))
		e.Field = "duration"
		r.svc.set("CreateRequest", e)
		res, body := r.raw("POST", "/v1/requests", `{"vms":["web-01"]}`)
		p := problemOf(t, res, body)
		if p.Code != c || p.Status != api.StatusOf(c) || p.Hint != "what next" || strings.Contains(body, "secret cause") {
			t.Errorf("%s: got %s", c, body)
		}
		_, err := r.as("alice").CreateRequest(t.Context(), ask(), "")
		var got *access.Error
		if !errors.As(err, &got) || got.Code != c || got.Hint != "what next" || api.ExitOf(err) != api.Exit(c) {
			t.Errorf("%s: the client got %#v", c, err)
		} else if c != access.CodeInternal && (got.Message != "what and why" || got.Field != "duration") {
			t.Errorf("%s: the client got %q, field %q", c, got.Message, got.Field)
		}
	}
}

// Of an unknown error nothing is shown but where the log holds it.
func TestUnknownErrorsStandInTheLogAlone(t *testing.T) {
	r := start(t, nil)
	r.svc.set("VMs", errors.New("pq: password of root is hunter2"))
	res, body := r.raw("GET", "/v1/vms", "")
	p := problemOf(t, res, body)
	if p.Status != 500 || p.Detail != "internal error" || strings.Contains(body, "hunter2") || !strings.Contains(p.Hint, p.Correlation) {
		t.Errorf("got %s", body)
	}
	r.stop()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	r.done <- nil
	found := false
	for line := range strings.Lines(r.log.String()) {
		found = found || strings.Contains(line, p.Correlation) && strings.Contains(line, "hunter2") && strings.Contains(line, `"level":"ERROR"`)
	}
	if !found {
		t.Errorf("the log does not hold it: %s", r.log)
	}
}

func TestPanicsBecome500AndAreCounted(t *testing.T) {
	r := start(t, nil)
	r.svc.hook["VMs"] = func(context.Context, access.Caller, any) { panic("boom") }
	res, body := r.raw("GET", "/v1/vms", "")
	if p := problemOf(t, res, body); p.Status != 500 || p.Code != access.CodeInternal || strings.Contains(body, "boom") {
		t.Errorf("got %s", body)
	}
	if _, body := r.raw("GET", "/metrics", ""); !strings.Contains(body, "curfew_http_panics_total 1") || !strings.Contains(body, "curfew_http_requests_in_flight 1") {
		t.Error("the panic was not counted, or its call is still in flight")
	}
	if _, err := r.as("alice").Whoami(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestBadInput(t *testing.T) {
	r := start(t, nil)
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		status             int
		code               access.Code
		field, want        string
	}{
		"unknown field":       {"POST", "/v1/requests", `{"vms":["a"],"durration":"1h"}`, nil, 422, access.CodeInvalid, "durration", "durration: there is no such field"},
		"two unknown":         {"POST", "/v1/requests", `{"vms":["a"],"x":1,"y":2}`, nil, 422, access.CodeInvalid, "", "y: there is no such field"},
		"unknown inner":       {"POST", "/v1/protections", `{"vms":["a"],"ports":[{"port":"22","mx":"1h"}]}`, nil, 422, access.CodeInvalid, "ports[0].mx", "no such field"},
		"field in capitals":   {"POST", "/v1/requests", `{"VMS":["a"]}`, nil, 422, access.CodeInvalid, "", "VMS: there is no such field"},
		"missing field":       {"POST", "/v1/requests", `{}`, nil, 422, access.CodeInvalid, "", "vms"},
		"null list":           {"POST", "/v1/requests", `{"vms":null}`, nil, 422, access.CodeInvalid, "vms", "expected array"},
		"wrong type":          {"POST", "/v1/requests", `{"vms":["a"],"duration":3600}`, nil, 422, access.CodeInvalid, "duration", "duration: expected string"},
		"bad duration":        {"POST", "/v1/requests", `{"vms":["a"],"duration":"1.5h"}`, nil, 422, access.CodeInvalid, "duration", "not understood"},
		"bad port":            {"POST", "/v1/requests", `{"vms":["a"],"ports":["0"]}`, nil, 422, access.CodeInvalid, "port", "out of range"},
		"bad instant":         {"POST", "/v1/requests", `{"vms":["a"],"start_at":"tomorrow"}`, nil, 422, access.CodeInvalid, "start_at", "RFC 3339"},
		"bad prefix":          {"POST", "/v1/protections", `{"vms":["a"],"ports":[{"port":"22","sources":["here"]}]}`, nil, 422, access.CodeInvalid, "", "ParsePrefix"},
		"field twice":         {"POST", "/v1/requests", `{"vms":["a"],"reason":"x","reason":"y"}`, nil, 400, access.CodeInvalid, "", `"reason" stands there twice`},
		"malformed":           {"POST", "/v1/requests", `{"vms":[`, nil, 400, access.CodeInvalid, "", "unexpected EOF"},
		"more after it":       {"POST", "/v1/requests", `{"vms":["a"]} {}`, nil, 400, access.CodeInvalid, "", "after the JSON value"},
		"nested":              {"POST", "/v1/requests", strings.Repeat(`[`, 100), nil, 400, access.CodeInvalid, "", "nested too deeply"},
		"not an object":       {"POST", "/v1/requests", `["a"]`, nil, 422, access.CodeInvalid, "", "object"},
		"no body":             {"POST", "/v1/requests", ``, nil, 400, access.CodeInvalid, "", "body is required"},
		"oversize":            {"POST", "/v1/requests", `{"vms":["` + strings.Repeat("a", 300<<10) + `"]}`, nil, 413, access.CodeInvalid, "", "larger than"},
		"text":                {"POST", "/v1/requests", `{"vms":["a"]}`, []string{"Content-Type", "text/plain"}, 415, access.CodeInvalid, "", "not marked as JSON"},
		"no content type":     {"POST", "/v1/requests", `{"vms":["a"]}`, []string{"Content-Type", ""}, 415, access.CodeInvalid, "", "not marked as JSON"},
		"form":                {"POST", "/v1/requests/r-1/cancel", `a=b`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, access.CodeInvalid, "", ""},
		"unknown query":       {"GET", "/v1/requests?sate=open", "", nil, 422, access.CodeInvalid, "sate", "unknown query parameter"},
		"bad limit":           {"GET", "/v1/requests?limit=many", "", nil, 422, access.CodeInvalid, "limit", ""},
		"limit 0":             {"GET", "/v1/requests?limit=0", "", nil, 422, access.CodeInvalid, "limit", ""},
		"bad audit position":  {"GET", "/v1/audit?after=x", "", nil, 422, access.CodeInvalid, "after", ""},
		"bad event position":  {"GET", "/v1/events", "", []string{"Last-Event-ID", "x"}, 422, access.CodeInvalid, "after", ""},
		"unknown id":          {"GET", "/v1/requests/r-9999999999", "", nil, 404, access.CodeNotFound, "", "r-9999999999"},
		"strange id":          {"GET", "/v1/grants/%2e%2e%2f%00", "", nil, 404, access.CodeNotFound, "", ""},
		"endless id":          {"GET", "/v1/grants/" + strings.Repeat("g", 65), "", nil, 422, access.CodeInvalid, "id", ""},
		"unknown path":        {"GET", "/v2/vms", "", nil, 404, access.CodeNotFound, "", "no such path"},
		"slashes in a name":   {"GET", "/v1/vms/rg-web/web-01", "", nil, 404, access.CodeNotFound, "", "no such path"},
		"wrong method":        {"DELETE", "/v1/vms", "", nil, 405, access.CodeInvalid, "", "DELETE"},
		"wrong method at one": {"GET", "/v1/requests/r-1/approve", "", nil, 405, access.CodeInvalid, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			res, body := r.raw(c.method, c.path, c.body, c.header...)
			p := problemOf(t, res, body)
			if p.Status != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.want) || c.field != "" && p.Field != c.field {
				t.Errorf("got %s", body)
			}
			if p.Code == access.CodeInvalid && p.Hint == "" && c.status != 413 {
				t.Errorf("no hint: %s", body)
			}
		})
	}
	for method, n := range r.svc.calls {
		if method != "Request" && method != "Grant" && n > 0 {
			t.Errorf("%s was called %d times", method, n)
		}
	}
}

// What was sent may be a secret in the wrong place: it comes back neither in the answer nor in the log.
func TestValuesAreNotEchoed(t *testing.T) {
	r := start(t, nil)
	for _, c := range [][3]string{
		{"POST", "/v1/requests", `{"vms":["a"],"token":"s3cr3t-value"}`}, {"POST", "/v1/requests", `{"vms":"s3cr3t-value"}`},
		{"POST", "/v1/requests", `{"vms":["a"],"start_at":"s3cr3t-value"}`}, {"POST", "/v1/requests", `s3cr3t-value`},
		{"GET", "/v1/requests?limit=s3cr3t-value", ""}, {"GET", "/v1/audit?since=s3cr3t-value", ""}, {"GET", "/v1/vms?q=x&token=s3cr3t-value", ""},
	} {
		res, body := r.raw(c[0], c[1], c[2])
		if res.StatusCode/100 != 4 || strings.Contains(body, "s3cr3t") {
			t.Errorf("%v: %d %s", c, res.StatusCode, body)
		}
	}
	r.raw("GET", "/v1/whoami?access_token=s3cr3t-value", "", "Authorization", "Bearer s3cr3t-token")
	if log := r.log.String(); strings.Contains(log, "s3cr3t") || strings.Contains(log, tokens["alice"]) || !strings.Contains(log, `"route":"/v1/requests"`) {
		t.Errorf("the log: %s", log)
	}
}

func TestSignIn(t *testing.T) {
	r := start(t, nil)
	for name, header := range map[string][]string{
		"nothing":       {"Authorization", ""},
		"unknown":       {"Authorization", "Bearer nobody"},
		"empty":         {"Authorization", "Bearer "},
		"basic":         {"Authorization", "Basic YWxpY2U6eA=="},
		"the hash":      {"Authorization", "Bearer " + hash(tokens["alice"])},
		"almost":        {"Authorization", "Bearer " + tokens["alice"] + "x"},
		"of nobody":     {"Authorization", "Bearer"},
		"in the scheme": {"Authorization", tokens["alice"]},
	} {
		res, body := r.raw("GET", "/v1/whoami", "", header...)
		p := problemOf(t, res, body)
		if p.Status != 401 || p.Code != access.CodeUnauthenticated || p.Hint == "" || !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), `Bearer realm="curfew"`) {
			t.Errorf("%s: got %d %v %s", name, res.StatusCode, res.Header, body)
		}
	}
	// Every route but the open ones asks who is there, whatever the method.
	for _, path := range []string{"/v1/vms", "/v1/status", "/v1/events", "/v1/audit"} {
		if res, _ := r.raw("GET", path, "", "Authorization", ""); res.StatusCode != 401 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if res, _ := r.raw("POST", "/v1/reconcile", "", "Authorization", ""); res.StatusCode != 401 || r.svc.calls["Reconcile"] != 0 {
		t.Errorf("reconcile: %d", res.StatusCode)
	}
	if _, err := server.New(server.Options{Service: r.svc, People: []server.Person{{Name: "x", TokenSHA256: "abc"}}}); err == nil {
		t.Error("a malformed hash was taken")
	}
}

func TestAsWorksInTheDemoAlone(t *testing.T) {
	r := start(t, nil)
	res, body := r.raw("GET", "/v1/whoami", "", server.AsHeader, "admin")
	if p := problemOf(t, res, body); p.Status != 403 || !strings.Contains(p.Detail, "--as works only with curfew demo") {
		t.Errorf("got %s", body)
	}
	d := start(t, func(o *server.Options) {
		o.Demo = map[string][]access.Role{"requester": {access.Requester}, "admin": {access.Admin}}
		o.MyIPs = map[string]netip.Addr{"requester": netip.MustParseAddr("198.51.100.23")}
	})
	c, err := client.New(client.Options{Server: d.url, As: "Requester"})
	if err != nil {
		t.Fatal(err)
	}
	me, err := c.Whoami(t.Context())
	if err != nil || me.Name != "requester" || !me.Demo || me.Address.String() != "198.51.100.23" || strings.Join(me.Roles, "") != "requester" {
		t.Fatalf("got %+v, %v", me, err)
	}
	req, err := c.CreateRequest(t.Context(), api.RequestInput{VMs: []string{"web-01"}, Duration: api.Duration(time.Hour)}, "")
	if err != nil || req.Terms.Source.String() != "198.51.100.23/32" {
		t.Errorf("my-ip: got %+v, %v", req, err)
	}
	if _, body := d.raw("GET", "/v1/whoami", "", "Authorization", "", server.AsHeader, "admin"); !strings.Contains(body, `"address":"127.0.0.1"`) {
		t.Errorf("an account without an address of its own: %s", body)
	}
	res, body = d.raw("GET", "/v1/whoami", "", "Authorization", "", server.AsHeader, "nobody")
	if p := problemOf(t, res, body); p.Status != 401 || !strings.Contains(p.Hint, "admin, requester") {
		t.Errorf("got %s", body)
	}
	res, body = d.raw("GET", "/v1/whoami", "", "Authorization", "")
	if p := problemOf(t, res, body); p.Status != 401 || !strings.Contains(p.Hint, "--as") {
		t.Errorf("got %s", body)
	}
}

// A name of somebody else's that leads to this machine (DNS rebinding) gets nothing of the demo, and nobody gets it from elsewhere.
func TestTheDemoAnswersThisMachineAlone(t *testing.T) {
	d := start(t, func(o *server.Options) { o.Demo = map[string][]access.Role{"admin": {access.Admin}} })
	for host, want := range map[string]int{"evil.example": 403, "evil.example:80": 403, "127.0.0.1": 200, "localhost:7447": 200, "LOCALHOST": 200, "[::1]:1": 200, "127.0.0.1.evil.example": 403, "10.0.0.1": 403} {
		res, body := d.raw("GET", "/v1/whoami", "", "Authorization", "", server.AsHeader, "admin", "Host", host)
		if res.StatusCode != want {
			t.Errorf("%s: got %d %s", host, res.StatusCode, body)
		}
	}
	if res, _ := d.raw("GET", "/healthz", "", "Host", "evil.example"); res.StatusCode != 403 {
		t.Errorf("healthz by another name: %d", res.StatusCode)
	}
	s, err := server.New(server.Options{Service: newFake(d.svc.clock), Demo: map[string][]access.Role{"admin": {access.Admin}}})
	if err != nil {
		t.Fatal(err)
	}
	req, rec := newRequest("GET", "http://127.0.0.1/v1/whoami"), newRecorder()
	req.RemoteAddr = "203.0.113.9:4000"
	req.Header.Set(server.AsHeader, "admin")
	if s.ServeHTTP(rec, req); rec.Code != 403 {
		t.Errorf("from elsewhere: got %d %s", rec.Code, rec.Body)
	}
}

func TestBrowsersOfOtherSitesAreRefused(t *testing.T) {
	r := start(t, nil)
	for name, c := range map[string]struct {
		method string
		header []string
		want   int
	}{
		"cross-site read":  {"GET", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"same-site read":   {"GET", []string{"Sec-Fetch-Site", "same-site"}, 403},
		"cross-site write": {"POST", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"foreign origin":   {"POST", []string{"Origin", "https://evil.example"}, 403},
		"a program":        {"POST", nil, 200},
		"typed address":    {"GET", []string{"Sec-Fetch-Site", "none"}, 200},
	} {
		path := map[string]string{"GET": "/v1/status", "POST": "/v1/reconcile"}[c.method]
		res, body := r.raw(c.method, path, "", c.header...)
		if res.StatusCode != c.want || res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: got %d %s", name, res.StatusCode, body)
		}
	}
	res, _ := r.raw("OPTIONS", "/v1/requests", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST", "Authorization", "")
	if res.StatusCode/100 == 2 || res.Header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("a preflight passed: %d %v", res.StatusCode, res.Header)
	}
	for h, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
		if res.Header.Get(h) != want {
			t.Errorf("%s is %q", h, res.Header.Get(h))
		}
	}
}

func TestAddressBehindATrustedProxy(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/24")}
	trusting := start(t, func(o *server.Options) { o.TrustedProxies = proxies })
	plain := start(t, nil)
	for forwarded, want := range map[string]string{
		"203.0.113.9":                       "203.0.113.9",
		"6.6.6.6, 203.0.113.9":              "203.0.113.9", // the client wrote the first itself
		"203.0.113.9, 10.1.0.7":             "203.0.113.9",
		"203.0.113.9:5555":                  "203.0.113.9",
		"::ffff:203.0.113.9":                "203.0.113.9",
		"2001:db8::1":                       "2001:db8::1",
		"10.1.0.7":                          "10.1.0.7",
		"6.6.6.6, unknown":                  "", // what the proxy cannot tell is unknown, and never somebody else's word
		"":                                  "",
		"203.0.113.9, , 10.1.0.7, 10.1.0.8": "203.0.113.9",
	} {
		var me api.Me
		_, body := trusting.raw("GET", "/v1/whoami", "", "X-Forwarded-For", forwarded)
		if err := json.Unmarshal([]byte(body), &me); err != nil {
			t.Fatal(err, body)
		}
		if got := me.Address; got.IsValid() != (want != "") || got.IsValid() && got.String() != want {
			t.Errorf("%q: got %s, want %s", forwarded, got, want)
		}
		if _, body := plain.raw("GET", "/v1/whoami", "", "X-Forwarded-For", forwarded); !strings.Contains(body, `"address":"127.0.0.1"`) {
			t.Errorf("%q was believed of a stranger: %s", forwarded, body)
		}
	}
}

func TestRateLimits(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{PerPerson: 1, PerAddress: 1000} })
	last := 0
	for range 8 {
		res, body := r.raw("GET", "/v1/whoami", "")
		if last = res.StatusCode; last == 429 {
			p := problemOf(t, res, body)
			if p.Code != access.CodeRateLimited || res.Header.Get("Retry-After") != "1" {
				t.Errorf("got %s", body)
			}
		}
	}
	if last != 429 {
		t.Errorf("the sixth call of one person was answered with %d", last)
	}
	if _, err := r.as("bob").Whoami(t.Context()); err != nil {
		t.Errorf("another person: %v", err)
	}
	g := start(t, func(o *server.Options) { o.Limits = server.Limits{FailedSignIns: 0.2} })
	for range 3 {
		g.raw("GET", "/v1/whoami", "", "Authorization", "Bearer guess")
	}
	if res, _ := g.raw("GET", "/v1/whoami", "", "Authorization", "Bearer guess"); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("after too many guesses the address may go on guessing: %d", res.StatusCode)
	}
	if res, _ := g.raw("GET", "/v1/whoami", "", "Authorization", ""); res.StatusCode != 429 {
		t.Errorf("after too many guesses the address may call without a token: %d", res.StatusCode)
	}
	if res, _ := g.raw("GET", "/v1/whoami", ""); res.StatusCode != 200 { // or whoever shares an address with others could keep them all out
		t.Errorf("guesses of somebody else at their address keep out a person with a good token: %d", res.StatusCode)
	}
	if res, _ := g.raw("GET", "/healthz", "", "Authorization", ""); res.StatusCode != 200 {
		t.Errorf("healthz: %d", res.StatusCode)
	}
}

func TestSlowAndBrokenBodies(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{BodyTime: 200 * time.Millisecond} })
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tokens["alice"]+
		"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "HTTP/1.1 408 ") {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

// The deadline of a body must not end the call that it belongs to: a plan or a sweep may take long.
func TestALongCallOutlivesTheDeadlineOfItsBody(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Limits = server.Limits{BodyTime: 100 * time.Millisecond} })
	var during error
	r.svc.hook["PlanProtect"] = func(ctx context.Context, _ access.Caller, _ any) {
		select {
		case <-ctx.Done():
			during = ctx.Err()
		case <-time.After(600 * time.Millisecond):
		}
	}
	if _, err := r.as("root").PlanProtection(t.Context(), api.ProtectInput{VMs: []string{"web-01"}}); err != nil || during != nil {
		t.Errorf("got %v, and in the call %v", err, during)
	}
}

func TestTheCallerReachesTheBroker(t *testing.T) {
	r := start(t, nil)
	var got access.Caller
	r.svc.hook["Approve"] = func(_ context.Context, c access.Caller, _ any) { got = c }
	_, _ = r.as("bob").Approve(t.Context(), "r-1", api.ReviewInput{Digest: "x"})
	if got.Name != "bob" || !got.Has(access.Approver) || got.Has(access.Admin) || got.Service || got.Address.String() != "127.0.0.1" {
		t.Errorf("got %+v", got)
	}
	r.svc.hook["Requests"] = func(_ context.Context, _ access.Caller, f any) {
		if f.(broker.RequestFilter).Requester != "bob" {
			t.Errorf("mine: got %+v", f)
		}
	}
	_, _ = r.as("bob").Requests(t.Context(), client.RequestFilter{Mine: true})
}

func TestListening(t *testing.T) {
	for _, a := range []string{"0.0.0.0:0", ":0", "[::]:0", "203.0.113.1:0"} {
		_, err := server.Listen(t.Context(), a, nil, false)
		if e := code(t, err, access.CodeInvalid); !strings.Contains(e.Hint, "--insecure-listen") {
			t.Errorf("%s: hint %q", a, e.Hint)
		}
	}
	l, err := server.Listen(t.Context(), "0.0.0.0:0", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, err = server.Listen(t.Context(), "127.0.0.1:"+port, nil, false)
	code(t, err, access.CodeUnavailable)
	l.Close()
	_, err = server.LoadTLS("absent.crt", "absent.key")
	code(t, err, access.CodeInvalid)
}

package sim_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/curfew-jit/curfew/internal/sim"
)

func TestMetadataEndpoints(t *testing.T) {
	a := newAz(t, sim.Config{})
	get := func(base, version string) any {
		a.t.Helper()
		req, err := http.NewRequest("GET", base+"/metadata/endpoints?api-version="+version, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := a.hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s %s: %v %d", base, version, err, resp.StatusCode)
		}
		return v
	}
	const own = "https://127.0.0.1:8443"
	if got := get(own, "2015-01-01"); at(got, "authentication", "loginEndpoint") != own+"/" || at(got, "graphEndpoint") == nil {
		t.Errorf("2015: got %v", got)
	}
	if got := get(own+"/", "2019-05-01"); at(got, 0, "resourceManager") != own+"/" || at(got, 0, "authentication", "identityProvider") != "AAD" {
		t.Errorf("2019 is an array: got %v", got)
	}
	// What the azurerm provider demands.
	if got := get(own, "2022-09-01"); at(got, "name") == nil || at(got, "resourceManager") != own+"/" || at(got, "microsoftGraphResourceId") == nil ||
		at(got, "authentication", "identityProvider") != "AAD" || at(got, "authentication", "tenant") != "common" {
		t.Errorf("2022: got %v", got)
	}
	// Behind the proxy it is the public cloud.
	if got := get("https://management.azure.com", "2022-09-01"); at(got, "authentication", "loginEndpoint") != "https://login.microsoftonline.com/" || at(got, "name") != "AzureCloud" {
		t.Errorf("public: got %v", got)
	}
}

func TestProvidersTenantsLocations(t *testing.T) {
	a := newAz(t, sim.Config{})
	all := list(a.do(200, "GET", sub+"/providers", nil).body["value"])
	found := false
	for _, p := range all {
		found = found || at(p, "namespace") == "Microsoft.Compute" && at(p, "registrationState") == "Registered"
	}
	if !found {
		t.Errorf("got %v", all)
	}
	types := map[any]bool{}
	for _, ty := range list(a.do(200, "GET", sub+"/providers/microsoft.network", nil).body["resourceTypes"]) {
		types[at(ty, "resourceType")] = len(list(at(ty, "apiVersions"))) > 0
	}
	if !types["networkSecurityGroups"] || !types["networkSecurityGroups/securityRules"] {
		t.Errorf("got %v", types)
	}
	a.do(200, "POST", sub+"/providers/Microsoft.Network/register", nil)
	a.do(200, "GET", "/providers/Microsoft.Network", nil)
	a.fails(404, "InvalidResourceNamespace", "GET", sub+"/providers/Microsoft.Nothing", nil)
	a.fails(404, "NotFound", "GET", group+"/providers/Microsoft.Network", nil)
	if got := list(a.do(200, "GET", "/tenants", nil).body["value"]); at(got, 0, "tenantId") != sim.TenantID {
		t.Errorf("got %v", got)
	}
	if got := list(a.do(200, "GET", sub+"/locations", nil).body["value"]); at(got, 0, "displayName") != "West Europe" || at(got, 0, "metadata", "pairedRegion", 0, "name") != "northeurope" {
		t.Errorf("got %v", got)
	}
}

func TestBatch(t *testing.T) {
	a := newAz(t, sim.Config{})
	r := a.do(200, "POST", "/batch", map[string]any{"requests": []any{
		map[string]any{"name": "put", "httpMethod": "PUT", "url": nsgID + "?api-version=" + api, "content": nsgBody(rule("ssh", 200))},
		map[string]any{"name": "get", "httpMethod": "GET", "url": "https://management.azure.com" + nsgID + "?api-version=" + api},
		map[string]any{"httpMethod": "GET", "relativeUrl": sub + "x?api-version=" + api},
		map[string]any{"httpMethod": "GET", "url": "/_sim/token"},
	}})
	got := list(r.body["responses"])
	if at(got, 0, "name") != "put" || at(got, 0, "httpStatusCode") != 201.0 || at(got, 0, "headers", "Azure-Asyncoperation") == nil ||
		at(got, 1, "content", "properties", "securityRules", 0, "name") != "ssh" || at(got, 2, "content", "error", "code") != "SubscriptionNotFound" || at(got, 3, "httpStatusCode") != 400.0 {
		t.Errorf("got %s", r.raw)
	}
	a.fails(400, "InvalidBatchRequest", "POST", "/batch", map[string]any{"requests": []any{}})
}

func TestActivityLog(t *testing.T) {
	a := newAz(t, sim.Config{OperationDelay: time.Minute})
	path := sub + "/providers/Microsoft.Insights/eventtypes/management/values"
	a.do(201, "PUT", nsgID, nsgBody(), "X-Ms-Correlation-Request-Id", "c0ffee00-0000-0000-0000-000000000001")
	a.s.Advance(2 * time.Minute)
	a.fails(400, "SecurityRuleInvalidPriority", "PUT", nsgID+"/securityRules/x", rule("x", 7))
	a.do(200, "GET", nsgID, nil)
	a.fails(400, "BadRequest", "GET", path, nil)
	q := func(more string) []any {
		f := "eventTimestamp ge '" + a.s.Now().Add(-time.Hour).Format(time.RFC3339) + "'" + more
		return list(a.do(200, "GET", path+"?$filter="+url.QueryEscape(f), nil).body["value"])
	}
	var got []string
	for _, e := range q("") {
		got = append(got, fmt.Sprint(at(e, "operationName", "value"), " ", at(e, "status", "value"), " ", at(e, "caller") == sim.ClientID))
	}
	want := []string{"Microsoft.Network/networkSecurityGroups/securityRules/write Failed true", "Microsoft.Network/networkSecurityGroups/write Succeeded true", "Microsoft.Network/networkSecurityGroups/write Accepted true"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want the newest first: %q", got, want)
	}
	if got := q(" and correlationId eq 'C0FFEE00-0000-0000-0000-000000000001'"); len(got) != 2 || at(got, 0, "resourceId") != nsgID {
		t.Errorf("got %v", got)
	}
	if got := q(" and status eq 'Failed'"); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	if got := q(" and eventTimestamp le '2020-01-01T00:00:00Z'"); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	a.fails(400, "BadRequest", "GET", path+"?$filter="+url.QueryEscape("eventTimestamp ge '2020-01-01T00:00:00Z' and colour eq 'red'"), nil)
}

func TestIdentityEndpoint(t *testing.T) {
	a := newAz(t, sim.Config{})
	srv, err := a.s.ServeIdentity(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	form := func() (map[string]any, int) {
		resp, err := http.PostForm(srv.URL+"/msi/token", url.Values{"resource": {"https://management.azure.com/"}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b map[string]any
		_ = json.NewDecoder(resp.Body).Decode(&b)
		return b, resp.StatusCode
	}
	b, status := form()
	if _, text := b["expires_on"].(string); status != 200 || !text || b["access_token"] == nil {
		t.Errorf("got %d %v", status, b)
	}
	a.tok = b["access_token"].(string)
	a.do(200, "GET", "/subscriptions", nil)
	imds := srv.URL + "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x"
	for _, want := range []int{400, 200} {
		req, _ := http.NewRequest("GET", imds, nil)
		if want == 200 {
			req.Header.Set("Metadata", "true")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != want {
			t.Errorf("got %v %v, want %d", resp, err, want)
		}
		resp.Body.Close()
	}
	resp, err := http.Get(srv.URL + "/subscriptions")
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("plain HTTP serves more than tokens: %v %v", resp, err)
	}
	resp.Body.Close()
	t.Setenv("IDENTITY_ENDPOINT", srv.URL+"/msi/token")
	t.Setenv("IDENTITY_HEADER", "x")
	cred, err := azidentity.NewManagedIdentityCredential(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A resource of its own: the library keeps tokens by resource for the whole process.
	if _, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://graph.microsoft.com//.default"}}); err != nil {
		t.Error(err)
	}
	if _, err := a.s.ServeIdentity(t.Context(), "0.0.0.0:0"); err == nil {
		t.Error("public credentials were offered to the network")
	}
}

// A client with the public hosts compiled in, and nothing but a proxy and an authority set.
func TestProxy(t *testing.T) {
	a := newAz(t, sim.Config{})
	srv, err := a.s.ServeProxy(t.Context(), "127.0.0.1:0", sim.ProxyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(srv.CAPEM) {
		t.Fatal("no CA")
	}
	proxy, _ := url.Parse(srv.URL)
	hc := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	cred, err := azidentity.NewClientSecretCredential(sim.TenantID, sim.ClientID, sim.ClientSecret, &azidentity.ClientSecretCredentialOptions{ClientOptions: azcore.ClientOptions{Transport: hc}}) // with instance discovery
	if err != nil {
		t.Fatal(err)
	}
	tok, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.core.windows.net//.default"}})
	if err != nil {
		t.Fatal(err)
	}
	req := mustRequest(t, "PUT", "https://management.azure.com"+nsgID+"?api-version="+api, tok.Token)
	data, _ := json.Marshal(nsgBody())
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if op := resp.Header.Get("Azure-AsyncOperation"); resp.StatusCode != 201 || !strings.HasPrefix(op, "https://management.azure.com/") {
		t.Errorf("got %d, operation %q: want it on the host that the client used", resp.StatusCode, op)
	}
	if resp.Proto != "HTTP/2.0" {
		t.Errorf("got %s", resp.Proto)
	}
	for _, where := range []string{"https://example.com/", "http://management.azure.com/", "https://management.azure.com:8443/", "https://login.microsoftonline.us/"} {
		resp, err := hc.Get(where)
		if err == nil {
			if resp.StatusCode != 403 {
				t.Errorf("%s: got %d", where, resp.StatusCode)
			}
			resp.Body.Close()
		} else if !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("%s: got %v, want 403", where, err)
		}
	}
	srv.Close()
	hc.CloseIdleConnections()
	if _, err := hc.Get("https://management.azure.com/subscriptions"); err == nil {
		t.Error("the proxy answers after Close")
	}
}

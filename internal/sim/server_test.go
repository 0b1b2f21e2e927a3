package sim_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// The official SDK core, which knows nothing of us: sign-in, pipeline and poller over HTTPS.
func TestSDKOverHTTPS(t *testing.T) {
	a := newAz(t, sim.Config{OperationDelay: 10 * time.Millisecond, RetryAfter: time.Second})
	srv, err := a.s.Serve(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(srv.CAPEM) {
		t.Fatal("no CA")
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	opts := azcore.ClientOptions{Transport: hc, Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: srv.URL + "/",
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: srv.URL, Audience: srv.URL + "/"}}}}
	opts.Retry.MaxRetries = -1
	client := func(secret string) *arm.Client {
		cred, err := azidentity.NewClientSecretCredential(sim.TenantID, sim.ClientID, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: opts, DisableInstanceDiscovery: true})
		if err != nil {
			t.Fatal(err)
		}
		c, err := arm.NewClient("simtest", "v1.0.0", cred, &arm.ClientOptions{ClientOptions: opts, DisableRPRegistration: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	put := func(c *arm.Client) (*http.Response, error) {
		req, err := runtime.NewRequest(t.Context(), "PUT", srv.URL+nsgID+"?api-version="+api)
		if err != nil {
			t.Fatal(err)
		}
		if err := runtime.MarshalAsJSON(req, nsgBody(rule("ssh", 200))); err != nil {
			t.Fatal(err)
		}
		return c.Pipeline().Do(req)
	}
	if _, err := put(client("wrong")); err == nil || !strings.Contains(err.Error(), "AADSTS7000215") {
		t.Errorf("got %v, want a refused secret", err)
	}
	c := client(sim.ClientSecret)
	resp, err := put(c)
	if err != nil {
		t.Fatal(err)
	}
	poller, err := runtime.NewPoller[map[string]any](resp, c.Pipeline(), nil)
	if err != nil {
		t.Fatal(err)
	}
	done, err := poller.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if at(done, "properties", "provisioningState") != "Succeeded" || at(done, "properties", "securityRules", 0, "name") != "ssh" {
		t.Errorf("got %v", done)
	}
	if got := a.s.Requests()[len(a.s.Requests())-1]; got.Principal != sim.ClientID {
		t.Errorf("got principal %q", got.Principal)
	}
	// Cut connections are seen by real clients too.
	a.fault(sim.Fault{Kind: "lost-reply", Method: "PUT", Count: 1})
	if _, err := put(c); err == nil {
		t.Error("a lost reply was not noticed")
	}
	a.fault(sim.Fault{Kind: "truncated", Method: "GET", Count: 1})
	resp, err = hc.Do(mustRequest(t, "GET", srv.URL+nsgID+"?api-version="+api, a.tok))
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("a truncated body was not noticed")
	}
}

func TestManagedIdentity(t *testing.T) {
	a := newAz(t, sim.Config{})
	t.Setenv("IDENTITY_ENDPOINT", "http://127.0.0.1/msi/token")
	t.Setenv("IDENTITY_HEADER", "x")
	cred, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: azcore.ClientOptions{Transport: a.hc}})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com//.default"}})
	if err != nil {
		t.Fatal(err)
	}
	a.tok = tok.Token
	a.do(200, "GET", "/subscriptions", nil)
}

func mustRequest(t *testing.T, method, url, token string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

func TestServeRefusesTheWorld(t *testing.T) {
	s, err := sim.New(sim.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if srv, err := s.Serve(t.Context(), "0.0.0.0:0"); err == nil {
		srv.Close()
		t.Error("the simulator listened on every interface")
	}
	ctx, cancel := context.WithCancel(t.Context())
	srv, err := s.Serve(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	srv.Close()
	srv.Close()
}

func TestTokens(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	a := newAz(t, sim.Config{Now: now.Now})
	good := a.tok
	for tok, code := range map[string]string{"": "InvalidAuthenticationToken", "a.b.c": "InvalidAuthenticationToken", good + "x": "InvalidAuthenticationToken"} {
		a.tok = tok
		if r := a.fails(401, code, "GET", "/subscriptions", nil); !strings.HasPrefix(r.header.Get("Www-Authenticate"), "Bearer ") {
			t.Errorf("got challenge %q", r.header.Get("Www-Authenticate"))
		}
	}
	resp, err := a.hc.Get("https://management.azure.com/subscriptions?api-version=" + api)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("got %d without a token", resp.StatusCode)
	}
	a.tok = good
	a.s.Advance(48 * time.Hour) // the simulated clock does not age tokens
	a.do(200, "GET", "/subscriptions", nil)
	now.Advance(time.Hour)
	a.fails(401, "ExpiredAuthenticationToken", "GET", "/subscriptions", nil)
}

func TestVersionsAndPaths(t *testing.T) {
	a := newAz(t, sim.Config{})
	resp, err := a.hc.Do(mustRequest(t, "GET", "https://management.azure.com/subscriptions", a.tok))
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 || at(body, "error", "code") != "MissingApiVersionParameter" {
		t.Errorf("got %d %v", resp.StatusCode, body)
	}
	for _, v := range []string{"2015-06-15", "2019-11-01", "2026-01-01", "2021-03-01-preview"} {
		a.do(200, "GET", "/subscriptions?api-version="+v, nil)
	}
	a.fails(400, "InvalidApiVersionParameter", "GET", "/subscriptions?api-version=latest", nil)
	a.fails(404, "SubscriptionNotFound", "GET", "/subscriptions/nope/resourceGroups", nil)
	a.fails(404, "ResourceGroupNotFound", "GET", sub+"/resourceGroups/nope", nil)
	a.fails(404, "ResourceGroupNotFound", "PUT", sub+"/resourceGroups/nope/providers/Microsoft.Network/networkSecurityGroups/x", nsgBody())
	a.fails(404, "InvalidResourceType", "PUT", group+"/providers/Microsoft.Storage/storageAccounts/x", map[string]any{"location": "westeurope"})
	a.fails(400, "LocationRequired", "PUT", nsgID, map[string]any{})
	a.fails(400, "InvalidRequestContent", "PUT", nsgID, "{")
	a.do(201, "PUT", strings.ToLower(nsgID), nsgBody())
	if got := a.do(200, "GET", nsgID, nil).body["id"]; got != sub+"/resourceGroups/shop/providers/Microsoft.Network/networkSecurityGroups/web-nsg" {
		t.Errorf("got id %v, want Azure's spelling of the fixed words", got)
	}
	a.fails(409, "InvalidResourceLocation", "PUT", nsgID, map[string]any{"location": "eastus"})
	a.do(200, "PUT", nsgID, map[string]any{"location": "West Europe"})
	a.do(200, "GET", "//"+strings.TrimPrefix(group, "/")+"/", nil)
	r := a.do(200, "GET", "/subscriptions", nil)
	for _, h := range []string{"X-Ms-Request-Id", "X-Ms-Correlation-Request-Id"} {
		if r.header.Get(h) == "" {
			t.Errorf("no %s", h)
		}
	}
	if got := a.do(200, "GET", group, nil).header.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads"); got == "" {
		t.Error("no rate limit header")
	}
}

func TestThrottling(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	a := newAz(t, sim.Config{Now: now.Now, Throttle: true})
	for range 250 { // the bucket of reads, FACTS 3
		a.do(200, "GET", group, nil)
	}
	if got := a.fails(429, "SubscriptionRequestsThrottled", "GET", group, nil).header.Get("Retry-After"); got != "1" {
		t.Errorf("got Retry-After %q", got)
	}
	a.do(201, "PUT", nsgID, nsgBody()) // writes have their own
	now.Advance(time.Second)
	for range 25 {
		a.do(200, "GET", group, nil)
	}
	a.fails(429, "SubscriptionRequestsThrottled", "GET", group, nil)
}

func TestPaging(t *testing.T) {
	a := newAz(t, sim.Config{PageSize: 3})
	for i := range 8 {
		a.do(201, "PUT", fmt.Sprintf("%s-%d", nsgID, i), nsgBody())
	}
	for _, scope := range []string{sub, group} {
		next := scope + "/providers/Microsoft.Network/networkSecurityGroups"
		seen, pages := map[string]bool{}, 0
		for next != "" {
			r := a.do(200, "GET", next, nil)
			pages++
			for _, v := range list(r.body["value"]) {
				seen[at(v, "name").(string)] = true
			}
			next, _ = r.body["nextLink"].(string)
			if next != "" && !strings.HasPrefix(next, "https://management.azure.com/") {
				t.Fatalf("got nextLink %q, want an absolute one", next)
			}
			if pages == 1 && scope == sub { // what is created or deleted meanwhile does not disturb the rest
				if err := a.s.Delete(nsgID + "-0"); err != nil {
					t.Fatal(err)
				}
				a.do(201, "PUT", nsgID+"-8", nsgBody())
			}
		}
		if want := map[string]int{sub: 9, group: 8}[scope]; len(seen) != want || pages != 3 {
			t.Errorf("%s: got %d NSGs on %d pages, want %d on 3", scope, len(seen), pages, want)
		}
	}
	a.fails(400, "InvalidSkipToken", "GET", sub+"/resourceGroups?$skiptoken=%21", nil)
}

func TestLoadAndDump(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo(), Seed: 7})
	dump := a.s.Dump()
	b := newAz(t, sim.Config{Estate: dump, Seed: 8})
	if !bytes.Equal(b.s.Dump(), dump) {
		t.Error("a loaded dump dumps something else")
	}
	for _, bad := range []string{`{`, `{"resources":[{"id":"x"}]}`, `{"resources":[{"id":"/subscriptions/a"},{"id":"/subscriptions/A"}]}`,
		`{"resources":[{"id":"` + nsgID + `/securityRules/lonely","properties":{}}]}`,
		`{"resources":[{"id":"` + nsgID + `","properties":{"securityRules":[{"name":"x","properties":{"priority":1}}]}}]}`} {
		if err := b.s.Load([]byte(bad)); err == nil {
			t.Errorf("%s was loaded", bad)
		}
	}
	if !bytes.Equal(b.s.Dump(), dump) {
		t.Error("a refused estate changed something")
	}
	// Parts may stand apart; Resource Graph's columns and lower case are taken.
	data, _ := json.Marshal(map[string]any{"resources": []any{
		map[string]any{"id": strings.ToLower(nsgID), "type": "microsoft.network/networksecuritygroups", "resourceGroup": "shop", "kind": "", "zones": nil, "location": "westeurope", "properties": map[string]any{}},
		map[string]any{"id": nsgID + "/securityRules/ssh", "properties": rule("ssh", 200)["properties"]},
	}})
	if err := b.s.Load(data); err != nil {
		t.Fatal(err)
	}
	r := b.do(200, "GET", nsgID, nil)
	if at(r.body, "properties", "securityRules", 0, "name") != "ssh" || r.body["resourceGroup"] != nil || r.body["id"] != strings.ToLower(nsgID) {
		t.Errorf("got %s", r.raw)
	}
}

func TestMachines(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo()})
	shop := "/subscriptions/" + estates.DemoShop
	vm := shop + "/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines/web-01"
	r := a.do(200, "GET", vm, nil)
	if at(r.body, "properties", "instanceView") != nil {
		t.Error("the instance view is shown without being asked for")
	}
	first := at(r.body, "properties", "vmId")
	power := func() any {
		return at(a.do(200, "GET", vm+"?$expand=instanceView", nil).body, "properties", "instanceView", "statuses", 1, "code")
	}
	if got := power(); got != "PowerState/running" {
		t.Errorf("got %v", got)
	}
	op := a.do(202, "POST", vm+"/deallocate", nil).header.Get("Azure-AsyncOperation")
	a.do(200, "GET", op, nil)
	unsigned, _, _ := strings.Cut(op, "&")
	a.fails(404, "NotFound", "GET", unsigned, nil)
	if got := power(); got != "PowerState/deallocated" {
		t.Errorf("got %v", got)
	}
	if got := at(a.do(200, "GET", vm+"/instanceView", nil).body, "statuses", 1, "code"); got != "PowerState/deallocated" {
		t.Errorf("got %v", got)
	}
	body := r.body
	delete(body["properties"].(map[string]any), "vmId")
	if got := at(a.do(200, "PUT", vm, body).body, "properties", "vmId"); got != first {
		t.Errorf("got vmId %v after an update, want %v", got, first)
	}
	if err := a.s.Edit(vm, func(b map[string]any) error {
		b["properties"].(map[string]any)["vmId"] = "another"
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := at(a.do(200, "GET", vm, nil).body, "properties", "vmId"); got != "another" || power() != "PowerState/deallocated" {
		t.Errorf("got vmId %v, power %v: an outside hand makes another machine, in the same state", got, power())
	}
	nic := shop + "/resourceGroups/shop-web/providers/Microsoft.Network/networkInterfaces/web-01-nic"
	a.fails(400, "NicInUse", "DELETE", nic, nil)
	a.do(202, "DELETE", vm, nil)
	a.fails(404, "ResourceNotFound", "GET", vm, nil)
	if got := at(a.do(200, "GET", nic, nil).body, "properties", "virtualMachine"); got != nil {
		t.Errorf("the NIC still belongs to %v", got)
	}
	r = a.do(201, "PUT", vm, body)
	if got := at(r.body, "properties", "vmId"); got == first || got == nil {
		t.Errorf("got vmId %v, want a new machine's", got)
	}
	if got := at(r.body, "properties", "provisioningState"); got != "Creating" {
		t.Errorf("got %v, want Creating", got)
	}
	if got := at(a.do(200, "GET", nic, nil).body, "properties", "virtualMachine", "id"); got != vm {
		t.Errorf("got %v, want the NIC back on its machine", got)
	}
	set := shop + "/resourceGroups/shop-orders/providers/Microsoft.Compute/virtualMachineScaleSets/render"
	if n := len(list(a.do(200, "GET", set+"/virtualMachines", nil).body["value"])); n != 2 {
		t.Errorf("got %d instances, want 2", n)
	}
	for _, path := range []string{"/networkInterfaces", "/virtualMachines/1/networkInterfaces"} {
		want := 2
		if strings.Contains(path, "/1/") {
			want = 1
		}
		if n := len(list(a.do(200, "GET", set+path, nil).body["value"])); n != want {
			t.Errorf("%s: got %d NICs, want %d", path, n, want)
		}
	}
	if n := len(list(a.do(200, "GET", shop+"/providers/Microsoft.Compute/virtualMachines", nil).body["value"])); n != 14 {
		t.Errorf("got %d machines in the subscription, want 14", n)
	}
	if n := len(list(a.do(200, "GET", shop+"/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines", nil).body["value"])); n != 3 {
		t.Errorf("got %d machines in the group, want 3", n)
	}
	for _, v := range list(a.do(200, "GET", shop+"/resources?$filter=resourceType%20eq%20'Microsoft.Network/bastionHosts'", nil).body["value"]) {
		if at(v, "name") != "shop-bastion" || at(v, "properties") != nil {
			t.Errorf("got %v", v)
		}
	}
	if got := a.do(200, "GET", shop+"/resources?$filter=resourceGroup%20eq%20'Shop-Web'%20and%20name%20eq%20'WEB-01'%20and%20resourceType%20eq%20'Microsoft.Compute/virtualMachines'", nil); len(list(got.body["value"])) != 1 {
		t.Errorf("got %s", got.raw)
	}
	web := shop + "/resourceGroups/shop-web/providers/Microsoft.Compute/virtualMachines"
	for _, how := range []string{"$expand=instanceView", "statusOnly=true"} {
		for _, v := range list(a.do(200, "GET", web+"?"+how, nil).body["value"]) {
			if at(v, "properties", "instanceView", "statuses") == nil {
				t.Errorf("%s: no instance view of %v", how, at(v, "name"))
			}
		}
	}
	if at(list(a.do(200, "GET", web, nil).body["value"])[0], "properties", "instanceView") != nil {
		t.Error("an instance view that nobody asked for")
	}
	if n := len(list(a.do(200, "GET", web+"?$filter='virtualMachineScaleSet/id'%20eq%20'/nothing'", nil).body["value"])); n != 0 {
		t.Errorf("got %d machines of a set that is not there", n)
	}
	a.fails(400, "BadRequest", "GET", web+"?$filter=name%20eq%20'x'", nil)
	a.fails(400, "InvalidFilterInQueryString", "GET", shop+"/resources?$filter=tagName%20eq%20'x'", nil)
}

func TestEffectiveRules(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo()})
	shop := "/subscriptions/" + estates.DemoShop + "/resourceGroups/"
	nic := shop + "shop-orders/providers/Microsoft.Network/networkInterfaces/app-01-nic"
	r := a.do(202, "POST", nic+"/effectiveNetworkSecurityGroups", nil)
	if r.header.Get("Azure-AsyncOperation") != "" {
		t.Error("recorded replies have Location alone")
	}
	r = a.do(200, "GET", r.header.Get("Location"), nil)
	groups := list(r.body["value"])
	if len(groups) != 2 || at(groups[0], "association", "subnet", "id") == nil || at(groups[1], "association", "networkInterface", "id") != nic {
		t.Fatalf("got %s, want the subnet's NSG and the NIC's", r.raw)
	}
	ssh := at(groups[1], "effectiveSecurityRules", 1)
	if at(ssh, "name") != "securityRules/allow-ssh" || at(ssh, "destinationPortRange") != "22-22" || at(ssh, "protocol") != "Tcp" || at(ssh, "sourceAddressPrefix") != "0.0.0.0/0" {
		t.Errorf("got %v", ssh)
	}
	if n := len(list(at(groups[1], "effectiveSecurityRules"))); n != 8 {
		t.Errorf("got %d rules, want 2 and the 6 default ones", n)
	}
	lab := "/subscriptions/" + estates.DemoLab + "/resourceGroups/lab/providers/Microsoft.Network/"
	a.do(400, "POST", lab+"networkInterfaces/build-01-nic/effectiveNetworkSecurityGroups", nil)
	r = a.do(200, "POST", lab+"virtualNetworks/lab-vnet/listNetworkManagerEffectiveSecurityAdminRules", map[string]any{})
	if at(r.body, "value", 0, "properties", "access") != "Deny" {
		t.Errorf("got %s", r.raw)
	}
	if r = a.do(200, "POST", shop+"shop-network/providers/Microsoft.Network/virtualNetworks/shop-vnet/listNetworkManagerEffectiveSecurityAdminRules", nil); len(list(r.body["value"])) != 0 {
		t.Errorf("got %s, want none", r.raw)
	}
}

func TestControl(t *testing.T) {
	a := withNSG(t, sim.Config{})
	ctl := func(want int, method, path string, body any) reply {
		t.Helper()
		tok := a.tok
		a.tok = ""
		defer func() { a.tok = tok }()
		return a.do(want, method, "/_sim/"+path, body)
	}
	if r := ctl(200, "GET", "", nil); !strings.Contains(string(r.raw), "POST   /_sim/faults") {
		t.Errorf("got %s", r.raw)
	}
	id := ctl(200, "POST", "faults", `{"kind":"throttle","method":"GET","retryAfter":"7s","count":1}`).body["id"]
	if got := a.fails(429, "SubscriptionRequestsThrottled", "GET", nsgID, nil).header.Get("Retry-After"); got != "7" {
		t.Errorf("got Retry-After %q", got)
	}
	if r := ctl(200, "GET", "faults", nil); at(r.body, "items", 0, "id") != id || at(r.body, "items", 0, "retryAfter") != "7s" || at(r.body, "items", 0, "struck") != 1.0 {
		t.Errorf("got %s", r.raw)
	}
	ctl(200, "DELETE", "faults/"+id.(string), nil)
	ctl(404, "DELETE", "faults/"+id.(string), nil)
	ctl(400, "POST", "faults", `{"kind":"throttle","typo":1}`)
	ctl(400, "POST", "faults", `{"kind":"no"}`)
	before := a.s.Now()
	ctl(200, "POST", "clock", `{"advance":"90m"}`)
	if d := a.s.Now().Sub(before); d < 90*time.Minute || d > 91*time.Minute {
		t.Errorf("the clock moved by %v", d)
	}
	q := "resource?id=" + url.QueryEscape(nsgID)
	ctl(200, "POST", q, map[string]any{"removeRules": "old", "addRules": []any{rule("theirs", 333)}, "merge": map[string]any{"tags": map[string]any{"a": "b"}}})
	if r := ctl(200, "GET", q, nil); at(r.body, "properties", "securityRules", 0, "name") != "theirs" || at(r.body, "tags", "a") != "b" {
		t.Errorf("got %s", r.raw)
	}
	if r := ctl(200, "GET", "writes?id="+url.QueryEscape(nsgID), nil); r.body["writes"] != 1.0 {
		t.Errorf("got %s", r.raw)
	}
	dump := ctl(200, "GET", "estate", nil).raw
	ctl(200, "DELETE", q, nil)
	ctl(404, "GET", q, nil)
	ctl(200, "PUT", "estate", string(dump))
	ctl(200, "GET", q, nil)
	ctl(200, "POST", "settings", `{"operationDelay":"1h","concurrency":"supersede"}`)
	a.do(200, "PUT", nsgID, nsgBody())
	a.do(200, "PUT", nsgID, nsgBody(rule("a", 200)))
	reqs := list(ctl(200, "GET", "requests", nil).body["items"])
	last := reqs[len(reqs)-1]
	if at(last, "method") != "PUT" || at(last, "status") != 200.0 || at(last, "apiVersion") != api || at(last, "principal") != sim.ClientID {
		t.Errorf("got %v", last)
	}
	a.tok = ctl(200, "GET", "token", nil).body["accessToken"].(string)
	a.do(200, "GET", nsgID, nil)
	ctl(404, "GET", "nothing", nil)

	req, _ := http.NewRequest("GET", "http://localhost/_sim/estate", nil)
	req.Header.Set("Origin", "https://evil.example")
	if resp, err := a.hc.Do(req); err != nil || resp.StatusCode != 403 {
		t.Errorf("a page in a browser got %v %v", resp, err)
	}
}

func TestRequestLogIsARing(t *testing.T) {
	a := newAz(t, sim.Config{RequestLog: 4})
	for range 6 {
		a.do(200, "GET", group, nil)
	}
	if r := a.s.Requests(); len(r) != 4 || r[0].Seq != 2 || r[3].Seq != 5 {
		t.Errorf("got %+v", r)
	}
}

func TestConcurrentUse(t *testing.T) {
	a := newAz(t, sim.Config{Estate: estates.Demo()})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 10 {
				id := fmt.Sprintf("%s-%d", "/subscriptions/"+estates.DemoLab+"/resourceGroups/lab/providers/Microsoft.Network/networkSecurityGroups/c", i)
				if _, err := a.try("PUT", id, nsgBody(rule("r", 100+n))); err != nil {
					t.Error(err)
				}
				_, _ = a.try("GET", "/subscriptions/"+estates.DemoLab+"/providers/Microsoft.Network/networkSecurityGroups", nil)
				_, _ = a.try("POST", graphPath, map[string]any{"query": "Resources | where properties.securityRules[0].name == 'r' | project id, properties"})
				a.s.Dump()
			}
		})
	}
	wg.Wait()
}

package roles_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/roles"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/setup"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/standalone"
)

const (
	subscription = "/subscriptions/" + estates.DemoShop
	principal    = "eeeeeeee-0000-0000-0000-000000000001"
)

// world is a simulated Azure in which the program acts as somebody who holds the printed roles, and nothing else.
type world struct {
	t   testing.TB
	sim *sim.Sim
	dir string
	tok string
}

// world1 has one of everything that the program looks at.
func world1() *estates.Estate {
	e := estates.New()
	e.Subscription(estates.DemoShop, "Shop")
	e.Group("rg", "westeurope")
	data := e.NSG("subnet-nsg", estates.Allow("ssh", 300, "22", "203.0.113.64/26"))
	vnet := e.VNet("net", []string{"10.0.0.0/16"}, estates.Subnet{Name: "web", Prefix: "10.0.1.0/24"}, estates.Subnet{Name: "data", Prefix: "10.0.2.0/24", NSG: data},
		estates.Subnet{Name: "AzureBastionSubnet", Prefix: "10.0.250.0/26"}, estates.Subnet{Name: "GatewaySubnet", Prefix: "10.0.251.0/26"})
	e.AdminRules(vnet, estates.AdminRule{Name: "partner", Priority: 20, Access: "AlwaysAllow", Source: "203.0.113.128/25", Port: "8443"})
	e.Bastion("bastion", vnet+"/subnets/AzureBastionSubnet", "203.0.113.20")
	asg := e.ASG("web")
	web := vnet + "/subnets/web"
	lb := e.LB("lb", "198.51.100.50", "Standard", []estates.NATRule{{Name: "ssh", FrontendPort: 50001, BackendPort: 22}}, estates.LBRule{Name: "https", FrontendPort: 443, BackendPort: 443, ProbePort: 443})
	group := e.NSG("web-nsg", estates.Allow("https", 300, "443", "Internet"), estates.Allow("ssh", 1000, "22", "Internet"),
		estates.Rule{Name: "to-web", Priority: 400, Source: "Internet", DestinationASGs: []string{asg}, Ports: []string{"8443"}})
	e.VM("web-01", estates.VM{Subnet: web, PrivateIP: "10.0.1.11", PublicIP: "198.51.100.11", NSG: group})
	e.VM("db-01", estates.VM{Subnet: vnet + "/subnets/data", PrivateIP: "10.0.2.10"})
	e.VM("bare", estates.VM{Subnet: web, PrivateIP: "10.0.1.21", PublicIP: "198.51.100.21", PublicSKU: "Basic", ASGs: []string{asg}, NATRules: []string{lb + "/inboundNatRules/ssh"},
		Pools: []string{lb + "/backendAddressPools/pool"}})
	vault := e.VM("vault", estates.VM{Subnet: web, PrivateIP: "10.0.1.31", NSG: e.NSG("vault-nsg")})
	e.JITPolicy("default", estates.JITPort{VM: vault, Number: 22, Source: "203.0.113.64/26", Longest: "PT1H"})
	e.Group("rg2", "westeurope")
	e.VM("fresh", estates.VM{Subnet: web, PrivateIP: "10.0.1.41", NSG: e.NSG("fresh-nsg")}) // in a group without a just-in-time policy
	e.Group("rg", "westeurope")
	e.Add(map[string]any{"id": subscription + "/providers/Microsoft.Security/pricings/VirtualMachines", "name": "VirtualMachines", "type": "Microsoft.Security/pricings",
		"properties": map[string]any{"pricingTier": "Standard", "subPlan": "P2"}})
	e.ScaleSet("workers", estates.ScaleSet{Subnet: web, PrivateIPs: []string{"10.0.1.100", "10.0.1.101"}, NSG: group})
	e.ScaleSet("told", estates.ScaleSet{Subnet: web, PrivateIPs: []string{"10.0.1.110"}, NSG: group, Terminate: "PT5M"})
	net := func(kind, name string, props map[string]any) string {
		id := e.ID("Microsoft.Network/"+kind, name)
		e.Add(map[string]any{"id": id, "name": name, "type": "Microsoft.Network/" + kind, "location": "westeurope", "properties": props})
		return id
	}
	policy := net("firewallPolicies", "hub", map[string]any{})
	e.Add(map[string]any{"id": policy + "/ruleCollectionGroups/nat", "name": "nat", "type": "Microsoft.Network/firewallPolicies/ruleCollectionGroups", "properties": map[string]any{"priority": 100, "ruleCollections": []any{}}})
	gw := net("virtualNetworkGateways", "gw", map[string]any{"gatewayType": "Vpn", "ipConfigurations": []any{map[string]any{"name": "i", "properties": map[string]any{"subnet": map[string]any{"id": vnet + "/subnets/GatewaySubnet"}}}}})
	site := net("localNetworkGateways", "site", map[string]any{"localNetworkAddressSpace": map[string]any{"addressPrefixes": []any{"192.168.7.0/24"}}})
	net("connections", "c", map[string]any{"connectionType": "IPsec", "virtualNetworkGateway1": map[string]any{"id": gw}, "localNetworkGateway2": map[string]any{"id": site}})
	return e
}

// newWorld gives the principal the roles of these duties, from what the command prints for az.
func newWorld(t testing.TB, duties ...roles.Duty) *world {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: world1().JSON(), RequestLog: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, sim: s, dir: t.TempDir()}
	for i, d := range duties {
		r, err := roles.New("", []roles.Duty{d}, []string{subscription})
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		w.assign(b, fmt.Sprintf("cccccccc-0000-0000-0000-%012d", i+1))
	}
	resp := w.call(http.MethodPost, "https://login.microsoftonline.com/"+sim.TenantID+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", "", []byte(url.Values{
		"grant_type": {"client_credentials"}, "client_id": {principal}, "client_secret": {sim.ClientSecret}, "scope": {"https://management.azure.com/.default"}}.Encode()))
	w.tok, _ = resp["access_token"].(string)
	if w.tok == "" {
		t.Fatalf("no token: %v", resp)
	}
	return w
}

func (w *world) call(method, url, kind, token string, body []byte) map[string]any {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := w.sim.Transport().RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode >= 300 {
		w.t.Fatalf("%s %s: %d %v %v", method, url, resp.StatusCode, out, err)
	}
	return out
}

// assign does what az role definition create and az role assignment create do with the printed file.
func (w *world) assign(printed []byte, id string) {
	w.t.Helper()
	var d struct {
		Name, Description                                                  string
		IsCustom                                                           bool
		Actions, NotActions, DataActions, NotDataActions, AssignableScopes []string
	}
	dec := json.NewDecoder(bytes.NewReader(printed))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil || !d.IsCustom {
		w.t.Fatalf("%v: %s", err, printed)
	}
	put := func(path string, props map[string]any) {
		b, err := json.Marshal(map[string]any{"properties": props})
		if err != nil {
			w.t.Fatal(err)
		}
		w.call(http.MethodPut, "https://management.azure.com"+path+"?api-version=2022-04-01", "application/json", w.sim.Token(), b)
	}
	role := subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + id
	put(role, map[string]any{"roleName": d.Name, "description": d.Description, "assignableScopes": d.AssignableScopes, "permissions": []any{map[string]any{
		"actions": d.Actions, "notActions": d.NotActions, "dataActions": d.DataActions, "notDataActions": d.NotDataActions}}})
	put(d.AssignableScopes[0]+"/providers/Microsoft.Authorization/roleAssignments/"+strings.Replace(id, "cccccccc", "dddddddd", 1), map[string]any{"principalId": principal, "roleDefinitionId": role})
}

// RoundTrip sends everything as the principal.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("Authorization") != "" {
		r.Header.Set("Authorization", "Bearer "+w.tok)
	}
	resp, err := w.sim.Transport().RoundTrip(r)
	if err == nil {
		for k := range resp.Header { // the client waits when a bucket runs low
			if strings.HasPrefix(strings.ToLower(k), "x-ms-ratelimit-remaining-") {
				delete(resp.Header, k)
			}
		}
	}
	return resp, err
}

func (w *world) client() *azure.Client {
	w.t.Helper()
	c, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(w.tok), Transport: &http.Client{Transport: w}, PollInterval: 2 * time.Millisecond, Backoff: time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func judge(e *estate.Estate, now time.Time) (out []scan.Finding) {
	scan.Judge(e, scan.Options{Now: now, All: true, SingleVMs: true}, func(f scan.Finding) { out = append(out, f) })
	return out
}

func (w *world) collect(viaARM bool) *estate.Estate {
	w.t.Helper()
	e, _, err := collect.Collect(w.t.Context(), collect.Config{Client: w.client(), ViaARM: viaARM})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, g := range e.Gaps() {
		w.t.Errorf("not read: %+v", g)
	}
	return e
}

// fix plans and applies what fails of a rule, and takes it back again.
func (w *world) fix(rule scan.RuleID, o fix.Options) {
	w.t.Helper()
	c := w.client()
	session, err := standalone.Open(w.t.Context(), standalone.Config{Azure: c, Undo: filepath.Join(w.dir, string(rule)+".protect")})
	if err != nil {
		w.t.Fatal(err)
	}
	defer session.Close()
	read := func(ctx context.Context, subs []string) (*estate.Estate, error) {
		e, _, err := collect.Collect(ctx, collect.Config{Client: c, Subscriptions: subs, ViaARM: true})
		return e, err
	}
	f, err := fix.New(fix.Config{Azure: c, Read: read, Judge: func(e *estate.Estate) []scan.Finding { return judge(e, w.sim.Now()) }, Protect: session,
		Undo: filepath.Join(w.dir, string(rule)+".undo"), By: "test"})
	if err != nil {
		w.t.Fatal(err)
	}
	fs := slices.DeleteFunc(judge(w.collect(true), w.sim.Now()), func(f scan.Finding) bool { return f.Status != scan.Fail || f.Rule != rule })
	p, err := f.Plan(w.t.Context(), fs, o)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := f.Apply(w.t.Context(), p, nil)
	if err != nil || len(p.Steps) == 0 {
		w.t.Fatalf("%s: %d steps, %v", rule, len(p.Steps), err)
	}
	for _, s := range out.Steps {
		if s.Error != "" {
			w.t.Errorf("%s: %s", rule, s.Error)
		}
	}
	if u, err := f.Undo(w.t.Context(), false); err != nil || len(u.Failed) > 0 || len(u.Done) == 0 {
		w.t.Errorf("taking %s back: %+v, %v", rule, u, err)
	}
}

// refused tells which calls the roles did not permit.
func (w *world) refused() {
	w.t.Helper()
	for _, r := range w.sim.Requests() {
		if strings.EqualFold(r.Principal, principal) && (r.Status == http.StatusForbidden || r.Status == http.StatusUnauthorized) && r.Fault == "" {
			w.t.Errorf("%s %s: %d %s", r.Method, r.Path, r.Status, r.Code)
		}
	}
}

// reading is what a scan and the inventory do, by Resource Graph and by lists.
func reading(w *world) {
	plain, lists := judge(w.collect(false), time.Unix(0, 0)), judge(w.collect(true), time.Unix(0, 0))
	owner, err := estate.Read(bytes.NewReader(w.sim.Dump()))
	if err != nil {
		w.t.Fatal(err)
	}
	all := judge(owner, time.Unix(0, 0))
	for name, got := range map[string][]scan.Finding{"Resource Graph": plain, "lists": lists} {
		key := func(fs []scan.Finding) (out []string) {
			for _, f := range fs {
				out = append(out, fmt.Sprint(f.Rule, " ", strings.ToLower(f.Resource), " ", f.Status))
			}
			slices.Sort(out)
			return out
		}
		if a, b := key(got), key(all); !slices.Equal(a, b) {
			w.t.Errorf("by %s the role sees another estate:\n%s\nwant\n%s", name, strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	}
}

func over(g access.Grant) bool { return g.State.Final() }

// story is a server's day: protect, ask, approve, open, shut, sweep, scan; and a shutting that has to go by the single rule.
func story(w *world) {
	s := brokertest.New(w.t, brokertest.Options{Sim: w.sim, Transport: func(http.RoundTripper) http.RoundTripper { return w }, SweepEvery: time.Hour})
	s.Protect("web-01")
	s.Protect("db-01")
	g := s.Open(brokertest.Requester, "web-01", 10*time.Minute)
	if _, err := s.Broker.Close(w.t.Context(), brokertest.Requester, g.ID); err != nil {
		w.t.Fatal(err)
	}
	s.WaitGrant(g.ID, over)
	g = s.Open(brokertest.Requester, "web-01", 10*time.Minute)
	if _, err := w.sim.Fault(sim.Fault{Kind: "error", Method: "PUT", PathPattern: "(?i)/networkSecurityGroups/web-nsg$", Status: 412, Code: "PreconditionFailed", Count: 6}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.Broker.Close(w.t.Context(), brokertest.Requester, g.ID); err != nil {
		w.t.Fatal(err)
	}
	s.WaitGrant(g.ID, over)
	w.sim.ClearFaults()
	if _, err := s.Broker.Reconcile(w.t.Context(), brokertest.Admin); err != nil {
		w.t.Fatal(err)
	}
}

// alone protects a machine that has no group, from a laptop, and takes it back.
func alone(w *world) {
	for _, in := range []api.ProtectInput{{VMs: []string{"bare"}, CreateNSG: true}, {VMs: []string{"bare"}, Off: true}} {
		session, err := standalone.Open(w.t.Context(), standalone.Config{Azure: w.client(), Undo: filepath.Join(w.dir, "protect.undo")})
		if err != nil {
			w.t.Fatal(err)
		}
		plan, err := session.PlanProtection(w.t.Context(), in)
		if err == nil {
			in.Digest = plan.Digest
			_, err = session.Protect(w.t.Context(), in)
		}
		session.Close()
		if err != nil {
			w.t.Fatalf("%+v: %v", in, err)
		}
	}
}

// checking is azure check: who holds the roles is told so.
func checking(d roles.Duty) func(*world) {
	return func(w *world) {
		items, err := setup.Check(w.t.Context(), w.client(), []string{subscription}, []roles.Duty{d})
		if err != nil || len(items) < 3 {
			w.t.Fatalf("%+v, %v", items, err)
		}
		for _, it := range items {
			if it.State != setup.Right {
				w.t.Errorf("%+v", it)
			}
		}
	}
}

// ways is what each duty does, all of it as the program does it.
var ways = map[roles.Duty][]func(*world){
	roles.Read: {reading, checking(roles.Read)},
	roles.NSG:  {story, alone, func(w *world) { w.fix(scan.VMNoNSG, fix.Options{}) }},
	roles.Defender: {checking(roles.Defender), func(w *world) {
		w.fix(scan.VMJITMissing, fix.Options{Backend: fix.Defender, JITFrom: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}})
	}},
	roles.ScaleSets: {func(w *world) { w.fix(scan.VMSSTerminateOff, fix.Options{Upgrade: true}) }},
}

// Every call is covered by the role of its duty and by Read, and no role holds an action that no call needs, but for those that say why.
func TestRolesAreWhatIsCalled(t *testing.T) {
	seen := map[roles.Duty][]string{}
	for _, d := range roles.Duties {
		for i, way := range ways[d] {
			t.Run(fmt.Sprint(d, i), func(t *testing.T) {
				duties := []roles.Duty{roles.Read}
				if d != roles.Read {
					duties = append(duties, d)
				}
				w := newWorld(t, duties...)
				way(w)
				w.refused()
				seen[d] = append(seen[d], w.sim.Actions(principal)...)
			})
		}
	}
	if t.Failed() {
		return
	}
	has := func(list []string, name string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, name) })
	}
	for _, a := range roles.Actions {
		calls := seen[a.Duty]
		switch used := has(calls, a.Name); {
		case a.For == "":
			t.Errorf("%s does not say what it is for", a.Name)
		case !used && a.Unseen == "":
			t.Errorf("%s is in the role %s, and nothing needs it", a.Name, a.Duty)
		case used && a.Unseen != "":
			t.Errorf("%s of %s is needed by a call, and says that it is not: %s", a.Name, a.Duty, a.Unseen)
		}
	}
	for d, calls := range seen {
		for _, name := range calls {
			if !slices.ContainsFunc(roles.Actions, func(a roles.Action) bool {
				return strings.EqualFold(a.Name, name) && (a.Duty == d || a.Duty == roles.Read)
			}) {
				t.Errorf("a call of %s needs %s", d, name)
			}
		}
	}
}

package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

func start(t testing.TB, estate []byte) (*sim.Sim, *azure.Client) {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: estate})
	if err != nil {
		t.Fatal(err)
	}
	c, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(s.Token()), Transport: &http.Client{Transport: s.Transport()}})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func collect(t testing.TB, c *azure.Client, arm bool) *inventory.Snapshot {
	t.Helper()
	s, err := inventory.Collect(context.Background(), c, inventory.CollectOptions{ViaARM: arm, Now: time.Unix(1000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func find(t *testing.T, s *inventory.Snapshot, ref string) inventory.Machine {
	t.Helper()
	m, err := s.Find(ref)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fromInternet is the verdict for a client on the Internet.
func fromInternet(s *inventory.Snapshot, m inventory.Machine, port uint16) netsec.Access {
	worst := netsec.Deny
	for _, e := range s.Netsec(m) {
		for _, a := range e.Addrs {
			src := netip.MustParseAddr("203.0.113.9")
			if a.Is6() {
				src = netip.MustParseAddr("2a01::9")
			}
			v := e.Path.Decide(netsec.Packet{Src: src, SrcPort: 50000, Dst: a, DstPort: port, Protocol: netsec.TCP, Inbound: true})
			if v.Access == netsec.Allow || v.Access == netsec.Unknown && worst == netsec.Deny {
				worst = v.Access
			}
		}
	}
	return worst
}

func TestDemoEstate(t *testing.T) {
	_, c := start(t, estates.Demo())
	s := collect(t, c, false)
	if len(s.Problems) > 0 {
		t.Fatalf("problems: %v", s.Problems)
	}
	for _, m := range s.Machines() {
		if len(m.Problems) > 0 {
			t.Errorf("%s: %v", m.Name, m.Problems)
		}
		if m.VMID == "" || m.OS == "" || m.Power == "" || m.Location == "" || m.Subscription == "" || m.Group == "" || len(m.Endpoints) == 0 {
			t.Errorf("%s is not complete: %+v", m.Name, m)
		}
	}
	for ref, want := range map[string]netsec.Access{"web-01": netsec.Allow, "db-01": netsec.Deny, "app-01": netsec.Allow, "fax-gateway": netsec.Allow,
		"reports-01": netsec.Allow, "payroll": netsec.Deny, "batch-01": netsec.Deny, "sensor-hub": netsec.Deny, "lab/build-01": netsec.Deny} {
		if got := fromInternet(s, find(t, s, ref), 22); got != want {
			t.Errorf("%s: SSH from the Internet is %s, want %s", ref, got, want)
		}
	}
	// The partner's network is let in by a security admin rule before any NSG is asked.
	hub := find(t, s, "sensor-hub")
	if v := s.Netsec(hub)[0].Path.Decide(netsec.Packet{Src: netip.MustParseAddr("203.0.113.200"), SrcPort: 1, Dst: hub.Addrs()[0], DstPort: 22, Protocol: netsec.TCP, Inbound: true}); v.Access != netsec.Allow {
		t.Errorf("sensor-hub from the partner: %+v", v)
	}
	// Application security groups: the office reaches api-01 by membership.
	api := find(t, s, "api-01")
	if v := s.Netsec(api)[0].Path.Decide(netsec.Packet{Src: netip.MustParseAddr("203.0.113.70"), SrcPort: 1, Dst: api.Addrs()[0], DstPort: 22, Protocol: netsec.TCP, Inbound: true}); v.Access != netsec.Allow {
		t.Errorf("api-01 from the office: %+v", v)
	}
	for ref, want := range map[string]string{"web-01": "", "fax-gateway": "neither network interface", "aks-system-31582749-0": "managed by field"} {
		if got := s.UnprotectableReason(find(t, s, ref)); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	reports := find(t, s, "reports-01")
	var nat inventory.PublicAddr
	for _, p := range reports.Endpoints[0].Public {
		if strings.HasPrefix(p.Via, "nat") {
			nat = p
		}
	}
	if nat.Addr.String() != "198.51.100.50" || nat.FrontendPort != 50001 || nat.FrontendLast != 50001 || nat.BackendPort != 22 || nat.SKU != "Standard" || nat.Protocol != "tcp" {
		t.Errorf("reports-01 is reached by %+v", reports.Endpoints[0].Public)
	}
	if !s.Probed(reports, 443) || s.Probed(reports, 22) || s.Probed(find(t, s, "web-01"), 443) {
		t.Error("probed ports are wrong")
	}
	if got := fmt.Sprint(s.Bastions(find(t, s, "db-01"))); got != "[10.10.250.0/26]" {
		t.Errorf("bastions of db-01: %s", got)
	}
	if got := s.Bastions(find(t, s, "batch-01")); len(got) != 0 {
		t.Errorf("bastions of batch-01: %v", got)
	}
	app := find(t, s, "app-01")
	if got := app.NSGs(); len(got) != 2 || !strings.HasSuffix(got[0], "app-subnet-nsg") || !strings.HasSuffix(got[1], "app-01-nsg") {
		t.Errorf("groups of app-01: %v", got)
	}
	if got := fmt.Sprint(find(t, s, "search-01").Destinations(find(t, s, "search-01").NSGs()[0], access.Port(22), access.TCP)); got != "[10.10.1.31 fd00:10:10:1::31]" {
		t.Errorf("destinations of search-01: %s", got)
	}
	orders := find(t, s, "orders-01")
	if got := s.OwnersOf(orders.Addrs()[0], orders.NSGs()[0]); len(got) != 1 || got[0].Name != "orders-01" {
		t.Errorf("owners: %v", got)
	}
	if lab := find(t, s, "lab/build-01"); lab.Power != "deallocated" {
		t.Errorf("the lab's build-01 is %s", lab.Power)
	}
	// A row of Resource Graph cannot be written back.
	n, _ := s.NSG(app.NSGs()[0])
	if _, err := c.PutNSG(t.Context(), n, nil); azure.Classify(err) != azure.Invalid {
		t.Errorf("a group of Resource Graph was written: %v", err)
	}
}

func TestGraphAndARMAgree(t *testing.T) {
	_, c := start(t, estates.Demo())
	graph, arm := collect(t, c, false), collect(t, c, true)
	a, b := graph.Machines(), arm.Machines()
	if len(a) != len(b) {
		t.Fatalf("%d and %d machines", len(a), len(b))
	}
	for i := range a {
		x, y := a[i], b[i]
		x.Power = "" // the lists of the resource provider do not have it
		if !reflect.DeepEqual(x, y) {
			t.Errorf("got\n%+v\nand\n%+v", x, y)
		}
		for port := range map[uint16]bool{22: true, 443: true, 3389: true, 8883: true} {
			if g, r := fromInternet(graph, a[i], port), fromInternet(arm, b[i], port); g != r {
				t.Errorf("%s port %d: %s by Resource Graph, %s by the providers", x.Name, port, g, r)
			}
		}
	}
	if len(graph.NSGs()) == 0 || len(graph.NSGs()) != len(arm.NSGs()) {
		t.Errorf("%d and %d groups", len(graph.NSGs()), len(arm.NSGs()))
	}
}

func TestConfirmAgreesWithCollect(t *testing.T) {
	s, c := start(t, estates.Demo())
	base := collect(t, c, false)
	for _, m := range base.Machines() {
		for _, b := range []*inventory.Snapshot{base, nil} {
			before := len(s.Requests())
			fresh, err := inventory.Confirm(t.Context(), c, strings.ToUpper(m.ID), b, time.Unix(1000, 0))
			if err != nil {
				t.Fatal(err)
			}
			got := fresh.Machines()
			if len(got) != 1 {
				t.Fatalf("%s: %d machines", m.Name, len(got))
			}
			if !reflect.DeepEqual(clean(got[0]), clean(m)) {
				t.Errorf("got\n%+v\nwant\n%+v", got[0], m)
			}
			if sent := len(s.Requests()) - before; sent > 12 {
				t.Errorf("%s: %d requests", m.Name, sent)
			}
			for _, port := range []uint16{22, 443} {
				want := fromInternet(base, m, port)
				if m.Name == "api-01" && b == nil {
					want = netsec.Unknown // without a base nobody knows who is in the group
					if port == 22 {
						want = netsec.Deny // the office alone is let in
					}
				}
				if v := fromInternet(fresh, got[0], port); v != want {
					t.Errorf("%s port %d with base %v: %s, want %s", m.Name, port, b != nil, v, want)
				}
			}
			if fmt.Sprint(fresh.Bastions(got[0])) != fmt.Sprint(base.Bastions(m)) || fresh.UnprotectableReason(got[0]) != base.UnprotectableReason(m) ||
				fresh.Probed(got[0], 443) != base.Probed(m, 443) {
				t.Errorf("%s: bastions, reason or probes differ", m.Name)
			}
			for _, id := range m.NSGs() {
				if n, ok := fresh.NSG(id); !ok || n.Etag == "" {
					t.Errorf("%s: group %s has no etag", m.Name, id)
				}
			}
			if b != nil {
				for _, e := range m.Endpoints {
					for _, a := range e.Addrs {
						if o := fresh.OwnersOf(a, e.VNet); len(o) != 1 || o[0].ID != m.ID {
							t.Errorf("owners of %s: %v", a, o)
						}
					}
				}
			}
		}
	}
}

// clean drops what a reading without its surroundings cannot know, and what no test compares.
func clean(m inventory.Machine) inventory.Machine {
	m.Endpoints = slices.Clone(m.Endpoints)
	for i := range m.Endpoints {
		m.Endpoints[i] = inventory.Endpoint{NIC: m.Endpoints[i].NIC, IPConfig: m.Endpoints[i].IPConfig, VNet: m.Endpoints[i].VNet,
			Subnet: m.Endpoints[i].Subnet, SubnetNSG: m.Endpoints[i].SubnetNSG, NICNSG: m.Endpoints[i].NICNSG, Addrs: m.Endpoints[i].Addrs,
			Floating: m.Endpoints[i].Floating, Public: m.Endpoints[i].Public, ASGs: m.Endpoints[i].ASGs}
	}
	return m
}

func TestFind(t *testing.T) {
	_, c := start(t, estates.Demo())
	s := collect(t, c, false)
	id := find(t, s, "web-01").ID
	for _, ref := range []string{"WEB-01", "shop-web/web-01", "Shop-Web/Web-01", id, strings.ToUpper(id), id + "/", " web-01 "} {
		if m := find(t, s, ref); m.ID != id {
			t.Errorf("%q is %s", ref, m.ID)
		}
	}
	for _, c := range []struct {
		ref  string
		code access.Code
		hint string
	}{
		{"web-1", access.CodeNotFound, "Closest: web-01"},
		{"wen-01", access.CodeNotFound, "Closest: web-01"},
		{"orders", access.CodeNotFound, "orders-01, orders-02"},
		{"lab/web-01", access.CodeNotFound, "web-01"},
		{"qqqqqqqqqqqq", access.CodeNotFound, ""},
		{"build-01", access.CodeAmbiguous, "back-office/build-01, lab/build-01"},
		{"", access.CodeInvalid, ""},
		{"a/b/c", access.CodeInvalid, ""},
		{"/web-01", access.CodeInvalid, ""},
		{"/x/y", access.CodeInvalid, ""},
		{strings.Replace(id, "virtualMachines", "disks", 1), access.CodeInvalid, ""},
		{strings.Replace(id, "virtualMachines/web-01", "virtualMachineScaleSets/render/virtualMachines/0", 1), access.CodeUnprotectable, ""},
		{strings.Replace(id, "virtualMachines/web-01", "virtualMachineScaleSets/render", 1), access.CodeUnprotectable, "by hand"},
		{"render", access.CodeUnprotectable, "by hand"},
		{"RENDER_1", access.CodeUnprotectable, "by hand"},
		{"shop-orders/render", access.CodeUnprotectable, "by hand"},
		{"nowhere/render", access.CodeNotFound, ""},
		{"render_x", access.CodeNotFound, ""},
		{id + "0", access.CodeNotFound, "web-01"},
	} {
		_, err := s.Find(c.ref)
		e, ok := err.(*access.Error)
		if !ok || e.Code != c.code || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%q: %#v", c.ref, err)
		}
	}
}

func TestFindNamesIDsWhereGroupsAreEqualToo(t *testing.T) {
	e := estates.New()
	for _, sub := range []string{"00000000-0000-0000-0000-0000000000a1", "00000000-0000-0000-0000-0000000000a2"} {
		e.Subscription(sub, "same")
		e.Group("g", "westeurope")
		v := e.VNet("net", []string{"10.0.0.0/16"}, estates.Subnet{Name: "default", Prefix: "10.0.0.0/24"})
		e.VM("twin", estates.VM{Subnet: v + "/subnets/default", PrivateIP: "10.0.0.4", NSG: e.NSG("n")})
	}
	_, c := start(t, e.JSON())
	s := collect(t, c, false)
	_, err := s.Find("g/twin")
	if e, ok := err.(*access.Error); !ok || e.Code != access.CodeAmbiguous || strings.Count(e.Hint, "/subscriptions/") != 2 {
		t.Errorf("got %#v", err)
	}
	// The same private address in two networks that do not know of one another.
	addr := netip.MustParseAddr("10.0.0.4")
	if got := s.OwnersOf(addr, ""); len(got) != 2 {
		t.Errorf("owners anywhere: %v", got)
	}
	m := s.Machines()[0]
	for _, within := range []string{m.Endpoints[0].VNet, m.NSGs()[0]} {
		if got := s.OwnersOf(addr, within); len(got) != 1 || got[0].ID != m.ID {
			t.Errorf("owners within %s: %v", within, got)
		}
	}
	if s.OwnersOf(netip.MustParseAddr("10.0.0.5"), "") != nil {
		t.Error("an address that nobody has has an owner")
	}
}

func TestWithJudgesAPlanWithoutTouchingTheSnapshot(t *testing.T) {
	_, c := start(t, estates.Demo())
	s := collect(t, c, false)
	m := find(t, s, "web-01")
	n, _ := s.NSG(m.NSGs()[0])
	deny := azure.SecurityRule{Name: "d", Priority: 100, Direction: "Inbound", Access: "Deny", Protocol: "Tcp", SourcePrefixes: []string{"*"}, SourcePorts: []string{"*"},
		DestinationPrefixes: []string{m.Addrs()[0].String()}, DestinationPorts: []string{"22"}}
	shut := s.With(n.WithRules(append([]azure.SecurityRule{deny}, n.Rules...)))
	if a, b := fromInternet(s, m, 22), fromInternet(shut, m, 22); a != netsec.Allow || b != netsec.Deny {
		t.Errorf("before %s, with the rule %s", a, b)
	}
	again := shut.With(n)
	if a, b := fromInternet(again, m, 22), fromInternet(shut, m, 22); a != netsec.Allow || b != netsec.Deny {
		t.Errorf("put back %s, with the rule %s", a, b)
	}
	if len(shut.NSGs()) != len(s.NSGs()) {
		t.Error("a group was added")
	}
}

// P10: what could not be read is told and judged as unknown, never as absent.
func TestPartialReadings(t *testing.T) {
	type result struct {
		s   *inventory.Snapshot
		err error
	}
	with := func(t *testing.T, arm bool, faults ...sim.Fault) result {
		s, c := start(t, estates.Demo())
		for _, f := range faults {
			if _, err := s.Fault(f); err != nil {
				t.Fatal(err)
			}
		}
		snap, err := inventory.Collect(t.Context(), c, inventory.CollectOptions{ViaARM: arm})
		return result{snap, err}
	}
	forbidden := func(pattern string) sim.Fault {
		return sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", Message: "no role", PathPattern: pattern}
	}
	synctest.Test(t, func(t *testing.T) {
		r := with(t, false, sim.Fault{Kind: "error", Status: 500, PathPattern: "ResourceGraph"})
		if r.err != nil || len(r.s.Problems) != 1 || len(r.s.Machines()) < 15 {
			t.Fatalf("without Resource Graph: %v %+v", r.err, r.s)
		}
		if got := fromInternet(r.s, find(t, r.s, "web-01"), 22); got != netsec.Allow {
			t.Errorf("by the providers: %s", got)
		}
		if r := with(t, true, forbidden("providers/Microsoft")); r.err == nil {
			t.Fatal("an inventory of nothing")
		} else if azure.Classify(r.err) != azure.Forbidden {
			t.Errorf("class of %v", r.err)
		}
	})
	for _, c := range []struct {
		what    string
		machine string
		port    uint16
		want    netsec.Access
	}{
		{"networkSecurityGroups$", "web-01", 22, netsec.Unknown},
		{"networkSecurityGroups$", "db-01", 22, netsec.Unknown},
		{"virtualNetworks$", "db-01", 22, netsec.Unknown},
		{"virtualNetworks$", "fax-gateway", 22, netsec.Unknown},
		{"publicIPAddresses$", "fax-gateway", 22, netsec.Unknown},
		{"EffectiveSecurityAdminRules", "web-01", 22, netsec.Unknown},
		{"EffectiveSecurityAdminRules", "sensor-hub", 22, netsec.Unknown},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := with(t, true, forbidden(c.what))
			if r.err != nil {
				t.Fatal(r.err)
			}
			if len(r.s.Problems) == 0 {
				t.Errorf("%s: no problem is told", c.what)
			}
			m := find(t, r.s, c.machine)
			if got := fromInternet(r.s, m, c.port); got != c.want {
				t.Errorf("without %s, %s is %s, want %s (problems %v)", c.what, c.machine, got, c.want, m.Problems)
			}
			if !strings.Contains(c.what, "Admin") && len(m.Problems) == 0 {
				t.Errorf("without %s, %s has no problem", c.what, c.machine)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r := with(t, true, forbidden("networkInterfaces$"))
		m := find(t, r.s, "web-01")
		if len(m.Problems) == 0 || len(m.Endpoints) != 0 || !strings.Contains(r.s.UnprotectableReason(m), "could not be read") {
			t.Errorf("without interfaces: %+v: %s", m, r.s.UnprotectableReason(m))
		}
	})
}

func TestConfirmOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := start(t, estates.Demo())
		base := collect(t, c, false)
		m := find(t, base, "app-01")
		if _, err := s.Fault(sim.Fault{Kind: "error", Status: 404, Code: "ResourceNotFound", PathPattern: "app-subnet-nsg"}); err != nil {
			t.Fatal(err)
		}
		_, err := inventory.Confirm(t.Context(), c, m.ID, base, time.Unix(1, 0))
		if err == nil || azure.Classify(err) == azure.NotFound {
			t.Errorf("a group that is gone reads as a machine that is gone: %v", err)
		}
		s.ClearFaults()
		if err := s.Delete(m.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := inventory.Confirm(t.Context(), c, m.ID, base, time.Unix(1, 0)); azure.Classify(err) != azure.NotFound {
			t.Errorf("got %v", err)
		}
	})
}

const (
	subID = "/subscriptions/00000000-0000-0000-0000-0000000000f1"
	rg    = subID + "/resourceGroups/RG"
	net   = rg + "/providers/Microsoft.Network/"
)

// wild is an estate as Azure may tell it: cases that differ, floating IP, a pool by address, peerings of all kinds, a scale set.
func wild() []byte {
	upper := strings.ToUpper
	lb := net + "loadBalancers/lb"
	res := []map[string]any{
		{"id": net + "publicIPAddresses/front", "name": "front", "type": "Microsoft.Network/publicIPAddresses", "location": "westeurope", "sku": map[string]any{"name": "Standard"},
			"properties": map[string]any{"ipAddress": "198.51.100.80"}},
		{"id": net + "networkSecurityGroups/n", "name": "n", "type": "Microsoft.Network/networkSecurityGroups", "location": "westeurope", "properties": map[string]any{}},
		{"id": net + "virtualNetworks/hub", "name": "hub", "type": "Microsoft.Network/virtualNetworks", "location": "westeurope", "properties": map[string]any{
			"addressSpace": map[string]any{"addressPrefixes": []any{"10.9.0.0/16"}},
			"subnets":      []any{map[string]any{"name": "AzureBastionSubnet", "properties": map[string]any{"addressPrefix": "10.9.250.0/26"}}}}},
		{"id": net + "virtualNetworks/net", "name": "net", "type": "Microsoft.Network/virtualNetworks", "location": "westeurope", "properties": map[string]any{
			"addressSpace": map[string]any{"addressPrefixes": []any{"10.1.0.0/16", "fd00:1::/48"}},
			"subnets": []any{map[string]any{"name": "s", "properties": map[string]any{"addressPrefixes": []any{"10.1.0.0/24", "fd00:1::/64"},
				"networkSecurityGroup": map[string]any{"id": upper(net + "networkSecurityGroups/n")}}}},
			"virtualNetworkPeerings": []any{
				peering("a", net+"virtualNetworks/hub", "Connected", true, "10.8.0.0/16"),
				peering("b", net+"virtualNetworks/off", "Disconnected", true, "10.7.0.0/16"),
				peering("c", net+"virtualNetworks/shy", "Connected", false, "10.6.0.0/16"),
				peering("d", subID+"9/resourceGroups/x/providers/Microsoft.Network/virtualNetworks/far", "Connected", true, "10.5.0.0/16")}}},
		{"id": lb, "name": "lb", "type": "Microsoft.Network/loadBalancers", "location": "westeurope", "sku": map[string]any{"name": "Standard"}, "properties": map[string]any{
			"frontendIPConfigurations": []any{
				map[string]any{"name": "pub", "id": lb + "/frontendIPConfigurations/pub", "properties": map[string]any{"publicIPAddress": map[string]any{"id": upper(net + "publicIPAddresses/front")}}},
				map[string]any{"name": "priv", "id": lb + "/frontendIPConfigurations/priv", "properties": map[string]any{"privateIPAddress": "10.1.0.200", "subnet": map[string]any{"id": net + "virtualNetworks/net/subnets/s"}}}},
			"backendAddressPools": []any{
				map[string]any{"name": "nic", "id": lb + "/backendAddressPools/nic", "properties": map[string]any{}},
				map[string]any{"name": "ip", "id": lb + "/backendAddressPools/ip", "properties": map[string]any{"loadBalancerBackendAddresses": []any{
					map[string]any{"name": "x", "properties": map[string]any{"ipAddress": "10.1.0.5", "virtualNetwork": map[string]any{"id": net + "virtualNetworks/NET"}}}}}}},
			"probes": []any{map[string]any{"name": "p", "id": lb + "/probes/p", "properties": map[string]any{"protocol": "Tcp", "port": 8888}}},
			"loadBalancingRules": []any{
				rule(lb, "sql", "priv", "nic", "Tcp", 1433, 1433, true), rule(lb, "ha", "priv", "ip", "All", 0, 0, true), rule(lb, "web", "pub", "nic", "Tcp", 80, 8080, false),
				rule(lb, "udp", "pub", "nic", "Udp", 53, 53, true)},
			"inboundNatRules": []any{map[string]any{"name": "pool", "id": lb + "/inboundNatRules/pool", "properties": map[string]any{"protocol": "Tcp", "frontendPortRangeStart": 5000,
				"frontendPortRangeEnd": 5010, "backendPort": 22, "backendAddressPool": map[string]any{"id": lb + "/backendAddressPools/nic"},
				"frontendIPConfiguration": map[string]any{"id": lb + "/frontendIPConfigurations/pub"}}}}}},
		nic("one", "10.1.0.4", lb+"/backendAddressPools/NIC"), nic("two", "10.1.0.5", ""), vm("one", ""), vm("two", ""), vm("set_1", rg+"/providers/Microsoft.Compute/virtualMachineScaleSets/set"), nic("set_1", "10.1.0.6", ""),
		{"id": rg + "/providers/Microsoft.Compute/virtualMachineScaleSets/set", "name": "set", "type": "Microsoft.Compute/virtualMachineScaleSets", "location": "westeurope",
			"properties": map[string]any{"orchestrationMode": "Flexible", "platformFaultDomainCount": 1}},
	}
	b, err := json.Marshal(map[string]any{"resources": res})
	if err != nil {
		panic(err)
	}
	return b
}

func peering(name, remote, state string, allow bool, space string) map[string]any {
	return map[string]any{"name": name, "id": net + "virtualNetworks/net/virtualNetworkPeerings/" + name, "properties": map[string]any{"peeringState": state,
		"allowVirtualNetworkAccess": allow, "remoteVirtualNetwork": map[string]any{"id": remote}, "remoteAddressSpace": map[string]any{"addressPrefixes": []any{space}}}}
}

func rule(lb, name, front, pool, proto string, fp, bp int, floating bool) map[string]any {
	return map[string]any{"name": name, "id": lb + "/loadBalancingRules/" + name, "properties": map[string]any{
		"frontendIPConfiguration": map[string]any{"id": lb + "/frontendIPConfigurations/" + front}, "backendAddressPool": map[string]any{"id": lb + "/backendAddressPools/" + pool},
		"protocol": proto, "frontendPort": fp, "backendPort": bp, "enableFloatingIP": floating, "probe": map[string]any{"id": lb + "/probes/p"}}}
}

func nic(name, addr, pool string) map[string]any {
	c := map[string]any{"primary": true, "privateIPAddress": addr, "subnet": map[string]any{"id": strings.ToLower(net) + "virtualNetworks/net/subnets/S"}}
	if pool != "" {
		c["loadBalancerBackendAddressPools"] = []any{map[string]any{"id": pool}}
	}
	return map[string]any{"id": net + "networkInterfaces/" + name, "name": name, "type": "Microsoft.Network/networkInterfaces", "location": "westeurope",
		"properties": map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "id": net + "networkInterfaces/" + name + "/ipConfigurations/c", "properties": c}}}}
}

func vm(name, set string) map[string]any {
	p := map[string]any{"vmId": "v-" + name, "storageProfile": map[string]any{"osDisk": map[string]any{"osType": "Linux"}},
		"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": strings.ToUpper(net + "networkInterfaces/" + name)}}}}
	if set != "" {
		p["virtualMachineScaleSet"] = map[string]any{"id": set}
	}
	return map[string]any{"id": rg + "/providers/Microsoft.Compute/virtualMachines/" + name, "name": name, "type": "Microsoft.Compute/virtualMachines", "location": "westeurope", "properties": p}
}

func TestWildEstate(t *testing.T) {
	_, c := start(t, wild())
	for _, arm := range []bool{false, true} {
		s := collect(t, c, arm)
		one, two := find(t, s, "one"), find(t, s, "two")
		if got := fmt.Sprint(s.VNetPrefixes(one.Endpoints[0].VNet)); got != "[10.1.0.0/16 10.5.0.0/16 10.8.0.0/16 10.9.0.0/16 fd00:1::/48]" {
			t.Errorf("the network holds %s", got)
		}
		if got := fmt.Sprint(s.Bastions(one)); got != "[10.9.250.0/26]" {
			t.Errorf("bastions %s", got)
		}
		group := one.NSGs()[0]
		dest := func(m inventory.Machine, port uint16, p access.Protocol) string {
			return fmt.Sprint(m.Destinations(strings.ToLower(group), access.Port(port), p))
		}
		for _, c := range []struct{ got, want string }{
			{dest(one, 22, access.TCP), "[10.1.0.4]"},
			{dest(one, 1433, access.TCP), "[10.1.0.4 10.1.0.200]"},
			{dest(one, 1433, access.UDP), "[10.1.0.4]"},
			{dest(one, 53, access.UDP), "[10.1.0.4 198.51.100.80]"},
			{dest(one, 8080, access.TCP), "[10.1.0.4]"}, // no floating IP: the machine sees its own address
			{dest(two, 22, access.TCP), "[10.1.0.5 10.1.0.200]"},
			{dest(two, 22, access.UDP), "[10.1.0.5 10.1.0.200]"},
			{fmt.Sprint(one.Destinations(group, access.Ports{First: 1000, Last: 2000}, access.TCP)), "[10.1.0.4 10.1.0.200]"},
			{fmt.Sprint(one.Destinations("other", access.Port(22), access.TCP)), "[]"},
		} {
			if c.got != c.want {
				t.Errorf("got %s, want %s", c.got, c.want)
			}
		}
		var via []string
		for _, p := range one.Endpoints[0].Public {
			via = append(via, fmt.Sprintf("%s %s %d-%d>%d %s", p.Via, p.Addr, p.FrontendPort, p.FrontendLast, p.BackendPort, p.Protocol))
		}
		slices.Sort(via)
		if got := strings.Join(via, "; "); got != "lb rule udp 198.51.100.80 53-53>53 udp; lb rule web 198.51.100.80 80-80>8080 tcp; nat rule pool 198.51.100.80 5000-5010>22 tcp" {
			t.Errorf("public: %s", got)
		}
		if !s.Probed(one, 8888) || !s.Probed(two, 8888) || s.Probed(one, 1433) {
			t.Error("probes are wrong")
		}
		if got := s.UnprotectableReason(find(t, s, "set_1")); !strings.Contains(got, "scale set set") {
			t.Errorf("an instance of a scale set: %q", got)
		}
		if addrs := s.Netsec(one)[0].Addrs; len(addrs) != 3 {
			t.Errorf("judged addresses: %v", addrs)
		}
		fresh, err := inventory.Confirm(t.Context(), c, two.ID, s, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if got := dest(find(t, fresh, "two"), 22, access.TCP); got != "[10.1.0.5 10.1.0.200]" {
			t.Errorf("confirmed: %s", got)
		}
	}
}

// rows is a Reader that has its rows in memory, so that the join is measured and not the simulator.
type rows struct {
	inventory.Reader
	rows []json.RawMessage
}

func (r rows) Graph(context.Context, []string, string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for _, row := range r.rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

func (rows) AdminRules(context.Context, string) ([]azure.AdminRule, error) { return nil, nil }

// BenchmarkCollect decodes and joins 10,000 machines with 10,000 interfaces and 300 groups of 100 rules.
func BenchmarkCollect(b *testing.B) {
	var file struct{ Resources []json.RawMessage }
	if err := json.Unmarshal(estates.Large(10_000, 300, 5), &file); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := inventory.Collect(b.Context(), rows{rows: file.Resources}, inventory.CollectOptions{Subscriptions: []string{"x"}})
		if err != nil || len(s.Machines()) != 10_000 {
			b.Fatalf("%v", err)
		}
	}
}

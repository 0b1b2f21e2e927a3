package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/inventory"
)

// The tag VirtualNetwork holds what is behind gateways: the network's own and, where the peering says so, a peer's (FACTS 2.1). The simulator's
// effective rules, which are worked out apart, name the same prefixes.
func TestGatewaysWidenTheNetwork(t *testing.T) {
	const base = "/subscriptions/11111111-0000-0000-0000-000000000001/resourceGroups/net/providers/"
	id := func(typ, name string) string { return base + "Microsoft.Network/" + typ + "/" + name }
	ref := func(id string) map[string]any { return map[string]any{"id": id} }
	spaceOf := func(p ...string) map[string]any { return map[string]any{"addressPrefixes": p} }
	var list []any
	put := func(typ, name string, props map[string]any) string {
		list = append(list, map[string]any{"id": id(typ, name), "location": "westeurope", "properties": props})
		return id(typ, name)
	}
	vnet := func(name, prefix string, peers ...any) string {
		return put("virtualNetworks", name, map[string]any{"addressSpace": spaceOf(prefix + ".0.0/16"), "virtualNetworkPeerings": peers, "subnets": []any{
			map[string]any{"name": "default", "properties": map[string]any{"addressPrefix": prefix + ".1.0/24"}}, map[string]any{"name": "GatewaySubnet", "properties": map[string]any{"addressPrefix": prefix + ".0.0/27"}}}})
	}
	peering := func(to string, use bool) any {
		return map[string]any{"name": "to-" + to, "properties": map[string]any{"peeringState": "Connected", "allowVirtualNetworkAccess": true, "useRemoteGateways": use, "remoteVirtualNetwork": ref(id("virtualNetworks", to))}}
	}
	gateway := func(name, in string, clients ...string) string {
		p := map[string]any{"ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": ref(id("virtualNetworks", in) + "/subnets/GatewaySubnet")}}}}
		if clients != nil {
			p["vpnClientConfiguration"] = map[string]any{"vpnClientAddressPool": spaceOf(clients...)}
		}
		return put("virtualNetworkGateways", name, p)
	}
	vnet("hub", "10.0", peering("spoke", false), peering("apart", false))
	vnet("spoke", "10.1", peering("hub", true))
	vnet("apart", "10.2", peering("hub", false))
	vnet("far", "10.3")
	vnet("alone", "10.4")
	hub, far := gateway("hub-gw", "hub", "172.16.9.0/24"), gateway("far-gw", "far")
	site := put("localNetworkGateways", "site", map[string]any{"localNetworkAddressSpace": spaceOf("192.168.7.0/24", "192.168.8.0/24")})
	put("connections", "to-site", map[string]any{"virtualNetworkGateway1": ref(hub), "localNetworkGateway2": ref(site)})
	put("connections", "to-far", map[string]any{"virtualNetworkGateway1": ref(hub), "virtualNetworkGateway2": ref(far)})
	onPremises := " 172.16.9.0/24 192.168.7.0/24 192.168.8.0/24"
	want := map[string]string{"hub": "10.0.0.0/16 10.1.0.0/16 10.2.0.0/16 10.3.0.0/16" + onPremises, "spoke": "10.0.0.0/16 10.1.0.0/16 10.3.0.0/16" + onPremises,
		"apart": "10.0.0.0/16 10.2.0.0/16", "far": "10.0.0.0/16 10.3.0.0/16", "alone": "10.4.0.0/16"}
	for name := range want {
		nsg := put("networkSecurityGroups", name, map[string]any{})
		nic := put("networkInterfaces", name, map[string]any{"networkSecurityGroup": ref(nsg), "ipConfigurations": []any{map[string]any{"name": "c", "properties": map[string]any{"subnet": ref(id("virtualNetworks", name) + "/subnets/default"), "privateIPAddress": fmt.Sprintf("10.%d.1.4", slices.Index([]string{"hub", "spoke", "apart", "far", "alone"}, name))}}}})
		list = append(list, map[string]any{"id": base + "Microsoft.Compute/virtualMachines/" + name, "location": "westeurope", "properties": map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{ref(nic)}}}})
	}
	data, err := json.Marshal(map[string]any{"resources": list})
	if err != nil {
		t.Fatal(err)
	}
	az, c := start(t, data)
	whole := collect(t, c, false)
	hc := &http.Client{Transport: az.Transport()}
	ask := func(method, url string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+az.Token())
		res, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for name, want := range want {
		one, err := inventory.Confirm(context.Background(), c, base+"Microsoft.Compute/virtualMachines/"+name, whole, time.Unix(1000, 0))
		if err != nil {
			t.Fatal(err)
		}
		for what, s := range map[string]*inventory.Snapshot{"collected": whole, "confirmed": one} {
			var got []string
			for _, p := range s.VNetPrefixes(id("virtualNetworks", name)) {
				got = append(got, p.String())
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s, %s: got %v, want %s", name, what, got, want)
			}
		}
		res := ask("POST", "https://management.azure.com"+id("networkInterfaces", name)+"/effectiveNetworkSecurityGroups?api-version=2024-03-01")
		var body struct {
			Value []struct {
				TagMap map[string][]string `json:"tagMap"`
			} `json:"value"`
		}
		if err := json.NewDecoder(ask("GET", res.Header.Get("Location")).Body).Decode(&body); err != nil || len(body.Value) != 1 {
			t.Fatalf("%v, %v", body, err)
		}
		got := slices.DeleteFunc(body.Value[0].TagMap["VirtualNetwork"], func(p string) bool { return p == "168.63.129.16/32" })
		slices.Sort(got)
		if strings.Join(slices.Compact(got), " ") != want {
			t.Errorf("%s, effective rules: got %v, want %s", name, got, want)
		}
	}
	// The lists of the resource providers do not tell of gateways; the snapshot says so (P10).
	if n := len(collect(t, c, true).Problems); n != len(want) {
		t.Errorf("got %d problems, want %d", n, len(want))
	}
}

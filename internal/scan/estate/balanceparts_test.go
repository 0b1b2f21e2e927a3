package estate_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// apart takes parts out of load balancers and gives them as resources of their own, which DESIGN 6 allows; all where r is nil.
func (w *world) apart(r *rand.Rand) *world {
	for _, b := range slices.Clone(w.bodies) {
		id := b["id"].(string)
		if !strings.Contains(strings.ToLower(id), "/loadbalancers/") {
			continue
		}
		p := b["properties"].(m)
		for _, list := range []string{"frontendIPConfigurations", "backendAddressPools", "loadBalancingRules", "inboundNatRules"} {
			var kept l
			for _, x := range slices.Clone(asList(p[list])) {
				part := x.(m)
				if r != nil && r.IntN(3) > 0 {
					kept = append(kept, part)
					continue
				}
				own, _ := part["id"].(string)
				if own == "" {
					own = id + "/" + list + "/" + part["name"].(string)
				}
				w.add(own, part["properties"].(m))
				if r != nil && r.IntN(3) == 0 { // told twice, and alike
					kept = append(kept, part)
				}
			}
			p[list] = kept
		}
	}
	return w
}

func asList(v any) l {
	x, _ := v.(l)
	return x
}

// balanced is a machine without a public address of its own, behind each kind of rule.
func balanced() *world {
	w := basic()
	c := config("10.0.0.4", "")
	lb := net + "loadBalancers/b"
	c["properties"].(m)["loadBalancerBackendAddressPools"] = l{ref(lb + "/backendAddressPools/pool")}
	w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{c}
	nic := net + "networkInterfaces/n/ipConfigurations/" + c["name"].(string)
	return w.add(lb, m{
		"frontendIPConfigurations": l{m{"name": "f", "properties": m{"publicIPAddress": ref(net + "publicIPAddresses/p")}}},
		"backendAddressPools": l{m{"name": "pool", "properties": m{"backendIPConfigurations": l{ref(nic)}}},
			m{"name": "byaddress", "properties": m{"virtualNetwork": ref(net + "virtualNetworks/v"), "loadBalancerBackendAddresses": l{m{"name": "x", "properties": m{"ipAddress": "10.0.0.4"}}}}}},
		"loadBalancingRules": l{m{"name": "all", "properties": m{"frontendIPConfiguration": ref(lb + "/frontendIPConfigurations/f"), "backendAddressPool": ref(lb + "/backendAddressPools/pool"),
			"protocol": "Tcp", "frontendPort": 2201, "backendPort": 22}},
			m{"name": "addr", "properties": m{"frontendIPConfiguration": ref(lb + "/frontendIPConfigurations/f"), "backendAddressPools": l{ref(lb + "/backendAddressPools/byaddress")},
				"protocol": "Tcp", "frontendPort": 2202, "backendPort": 22}}},
		"inboundNatRules": l{m{"name": "one", "properties": m{"frontendIPConfiguration": ref(lb + "/frontendIPConfigurations/f"), "backendIPConfiguration": ref(nic),
			"protocol": "Tcp", "frontendPort": 2203, "backendPort": 22}},
			m{"name": "range", "properties": m{"frontendIPConfiguration": ref(lb + "/frontendIPConfigurations/f"), "backendAddressPool": ref(lb + "/backendAddressPools/pool"),
				"protocol": "Tcp", "frontendPortRangeStart": 3000, "frontendPortRangeEnd": 3009, "backendPort": 22}}},
	}, m{"sku": m{"name": "Standard"}})
}

// Parts of a balancer lead to a machine wherever they stand; what is missing of it is told, and never nothing.
func TestBalancerPartsApart(t *testing.T) {
	want := told(read(t, balanced().file()), 22)
	if len(want) != 4 || strings.Contains(strings.Join(want, ""), "?") {
		t.Fatalf("within: %q", want)
	}
	same := func(what string, w *world, want []string) {
		t.Helper()
		got := told(read(t, w.file()), 22)
		slices.Sort(got)
		want = slices.Clone(want)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	same("apart", balanced().apart(nil), want)
	for seed := range uint64(50) {
		same("some apart", balanced().apart(rand.New(rand.NewPCG(seed, 1))), want)
	}
	says := func(what string, w *world, text string) {
		t.Helper()
		e := read(t, w.file())
		ways := told(e, 22)
		if len(ways) == 0 || !slices.ContainsFunc(ways, func(s string) bool { return strings.Contains(s, text) }) {
			t.Errorf("%s: got %q, want %q", what, ways, text)
		}
	}
	lb := net + "loadBalancers/b"
	says("no balancer", balanced().apart(nil).drop(lb), "the load balancer "+lb+" was not read, only parts of it")
	says("no balancer", balanced().apart(nil).drop(lb), "! load balancer "+lb+" does not exist, or was not read")
	says("no frontend", balanced().apart(nil).drop(lb+"/frontendIPConfigurations/f"), "? the rule's frontend is not at the load balancer")
	other := balanced().apart(nil)
	other.add(lb+"/loadBalancingRules/ALL", m{"protocol": "Udp"})
	says("told twice", other, "the load balancer stands twice with different content")
	bare := balanced().apart(nil)
	for _, b := range bare.bodies {
		if b["id"] == lb+"/inboundNatRules/one" {
			delete(b, "properties")
		}
	}
	if g := read(t, bare.file()).Gaps(); len(g) != 1 || !strings.Contains(g[0].Reason, "without its properties") {
		t.Errorf("a rule without properties: %+v", g)
	}
	says("a rule without properties", bare, "load balancers could not be read: "+lb+"/inboundNatRules/one")
}

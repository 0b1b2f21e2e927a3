package estate_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

type m = map[string]any

type l = []any

func ref(id string) m { return m{"id": id} }

// world composes bodies by hand, so that every field is in sight.
type world struct{ bodies []m }

func (w *world) add(id string, properties m, more ...m) *world {
	b := m{"id": id, "properties": properties}
	for _, x := range more {
		for k, v := range x {
			b[k] = v
		}
	}
	w.bodies = append(w.bodies, b)
	return w
}

func (w *world) file() []byte {
	b, err := json.Marshal(m{"resources": w.bodies})
	if err != nil {
		panic(err)
	}
	return b
}

func rule(name string, prio int, access, src, dst, port string) m {
	return m{"name": name, "properties": m{"priority": prio, "direction": "Inbound", "access": access, "protocol": "Tcp", "sourceAddressPrefix": src, "destinationAddressPrefix": dst,
		"sourcePortRange": "*", "destinationPortRange": port}}
}

func config(addr, more string) m {
	c := m{"privateIPAddress": addr, "subnet": ref(net + "virtualNetworks/v/subnets/s")}
	if more != "" {
		c["publicIPAddress"] = ref(net + "publicIPAddresses/" + more)
	}
	return m{"name": "ip-" + strings.NewReplacer(".", "-", ":", "-").Replace(addr), "properties": c}
}

// basic is a machine with one interface (10.0.0.4), a group that lets the Internet at port 22, and public address 20.0.0.4.
func basic() *world {
	w := &world{}
	w.add(net+"virtualNetworks/v", m{"addressSpace": m{"addressPrefixes": l{"10.0.0.0/16", "fd00::/48"}}, "subnets": l{m{"name": "s", "properties": m{"addressPrefix": "10.0.0.0/24"}}}})
	w.add(net+"networkSecurityGroups/g", m{"securityRules": l{rule("ssh", 100, "Allow", "Internet", "*", "22")}})
	w.add(net+"publicIPAddresses/p", m{"ipAddress": "20.0.0.4"}, m{"sku": m{"name": "Standard"}})
	w.add(net+"networkInterfaces/n", m{"networkSecurityGroup": ref(net + "networkSecurityGroups/g"), "ipConfigurations": l{config("10.0.0.4", "p")}})
	w.add(cmp+"a", m{"networkProfile": m{"networkInterfaces": l{ref(net + "networkInterfaces/n")}}})
	return w
}

// props are the properties of the body of an id.
func (w *world) props(id string) m {
	for _, b := range w.bodies {
		if b["id"] == id {
			return b["properties"].(m)
		}
	}
	panic("no " + id)
}

func (w *world) drop(id string) *world {
	w.bodies = slices.DeleteFunc(w.bodies, func(b m) bool { return b["id"] == id })
	return w
}

// told puts ways and problems into words.
func told(e *estate.Estate, port uint16) []string {
	var out []string
	for _, v := range e.VMs() {
		for _, w := range e.Ways(v, netsec.TCP, port) {
			z := w.Reach.Internet
			if w.Kind == estate.VirtualNetwork {
				if w.Via == "" {
					continue
				}
				z = w.Reach.VirtualNetwork
			}
			s := fmt.Sprintf("%s %s:%d", w.Kind, w.Address, w.FrontendPort)
			if w.FrontendLast != 0 {
				s += fmt.Sprintf("-%d", w.FrontendLast)
			}
			s += fmt.Sprintf(" %s:%d %s", w.Dest, w.Port, strings.ToLower(z.Access().String()))
			if w.Unknown != "" {
				s += " ? " + w.Unknown
			}
			out = append(out, s)
		}
		for _, p := range v.Problems {
			out = append(out, "! "+p.What)
		}
	}
	return out
}

func TestTraps(t *testing.T) {
	lb := func(w *world, sku string, props m) *world {
		props["frontendIPConfigurations"] = l{m{"name": "f", "properties": m{"publicIPAddress": ref(net + "publicIPAddresses/q")}},
			m{"name": "i", "properties": m{"privateIPAddress": "10.0.0.100", "subnet": ref(net + "virtualNetworks/v/subnets/s")}}}
		more := m{}
		if sku != "" {
			more["sku"] = m{"name": sku}
		}
		w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{config("10.0.0.4", "")}
		return w.add(net+"publicIPAddresses/q", m{"ipAddress": "20.0.0.9"}, m{"sku": m{"name": "Standard"}}).add(net+"loadBalancers/b", props, more)
	}
	front, inner := ref(net+"loadBalancers/b/frontendIPConfigurations/f"), ref(net+"loadBalancers/B/frontendIPConfigurations/I")
	pool := net + "loadBalancers/b/backendAddressPools/p"
	inPool := l{m{"name": "p", "properties": m{"backendIPConfigurations": l{ref(net + "networkInterfaces/N/ipConfigurations/ip-10-0-0-4")}}}}
	byAddr := l{m{"name": "p", "properties": m{"loadBalancerBackendAddresses": l{m{"name": "x", "properties": m{"ipAddress": "10.0.0.4", "virtualNetwork": ref(strings.ToUpper(net + "virtualNetworks/v"))}}}}}}
	for _, c := range []struct {
		name string
		w    *world
		want []string
	}{
		{"public", basic(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 allow"}},
		{"second configuration and second interface", func() *world {
			w := basic()
			w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{config("10.0.0.4", ""), config("10.0.0.5", "p")}
			w.add(net+"publicIPAddresses/p2", m{"ipAddress": "20.0.0.6"}, m{"sku": m{"name": "Basic"}}).add(net+"networkInterfaces/n2", m{"ipConfigurations": l{config("10.0.0.6", "p2")}})
			w.props(cmp + "a")["networkProfile"] = m{"networkInterfaces": l{ref(net + "networkInterfaces/n"), ref(strings.ToUpper(net + "networkInterfaces/n2"))}}
			return w
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.5:22 allow", "public_ip 20.0.0.6:22 10.0.0.6:22 allow"}},
		{"no group, Standard", func() *world {
			w := basic()
			delete(w.props(net+"networkInterfaces/n"), "networkSecurityGroup")
			return w
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 deny"}},
		{"no group, no SKU", func() *world {
			w := basic().drop(net+"publicIPAddresses/p").add(net+"publicIPAddresses/p", m{"ipAddress": "20.0.0.4"})
			delete(w.props(net+"networkInterfaces/n"), "networkSecurityGroup")
			return w
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown"}},
		{"group gone", basic().drop(net + "networkSecurityGroups/g"), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown", "! network security group " + net + "networkSecurityGroups/g does not exist, or was not read"}},
		{"address gone", basic().drop(net + "publicIPAddresses/p"), []string{"public_ip invalid IP:22 10.0.0.4:22 allow ? the public address was not read", "! public address " + net + "publicIPAddresses/p does not exist, or was not read"}},
		{"network gone", basic().drop(net + "virtualNetworks/v"), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown", "! subnet " + net + "virtualNetworks/v/subnets/s does not exist, or was not read"}},
		{"interface gone", basic().drop(net + "networkInterfaces/n"), []string{"! network interface " + net + "networkInterfaces/n does not exist, or was not read"}},
		{"no private address", func() *world {
			w := basic()
			c := config("10.0.0.4", "p")
			delete(c["properties"].(m), "privateIPAddress")
			w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{c}
			return w
		}(), []string{"public_ip 20.0.0.4:22 invalid IP:22 deny ? the private address behind it is not known", "! ip configuration " + net + "networkInterfaces/n/ipConfigurations/ip-10-0-0-4 has no private address"}},
		{"twice, same", func() *world {
			w := basic()
			return w.add(strings.ToUpper(net+"networkSecurityGroups/g"), w.props(net+"networkSecurityGroups/g")).add(strings.ToLower(cmp+"a"), w.props(cmp+"a"))
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 allow"}},
		{"twice, other rules", basic().add(strings.ToUpper(net+"networkSecurityGroups/g"), m{"securityRules": l{}}),
			[]string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown", "! network security group " + net + "networkSecurityGroups/g stands twice with different content"}},
		{"twice, other interface", basic().add(strings.ToUpper(net+"networkInterfaces/n"), m{"ipConfigurations": l{}}),
			[]string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown", "! network interface " + net + "networkInterfaces/n stands twice with different content"}},
		{"a rule apart", basic().drop(net+"networkSecurityGroups/g").add(net+"networkSecurityGroups/g", m{"securityRules": nil}).
			add(net+"networkSecurityGroups/G/securityRules/ssh", rule("", 100, "Allow", "0.0.0.0/0", "10.0.0.4", "20-30")["properties"].(m)), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 allow"}},
		{"a rule apart says another thing", basic().add(net+"networkSecurityGroups/g/securityRules/SSH", rule("", 200, "Deny", "*", "*", "22")["properties"].(m)), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 unknown"}},
		{"a subnet apart", func() *world {
			w := basic()
			delete(w.props(net+"virtualNetworks/v"), "subnets")
			return w.add(net+"virtualNetworks/v/subnets/S", m{"addressPrefix": "10.0.0.0/24", "networkSecurityGroup": ref(net + "networkSecurityGroups/deny")}).
				add(net+"networkSecurityGroups/deny", m{"securityRules": l{}})
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 deny"}},
		{"plural fields", func() *world {
			w := basic()
			p := w.props(net + "networkSecurityGroups/g")["securityRules"].(l)[0].(m)["properties"].(m)
			delete(p, "sourceAddressPrefix")
			delete(p, "destinationPortRange")
			p["sourceAddressPrefixes"], p["destinationPortRanges"], p["protocol"] = l{"0.0.0.0/1", "128.0.0.0/1"}, l{"443", "20-25"}, "TCP"
			return w
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 allow"}},
		{"balancer's rule", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool), "backendAddressPools": l{ref(pool)},
			"protocol": "Tcp", "frontendPort": 2022, "backendPort": 22}}}}), []string{"lb_rule 20.0.0.9:2022 10.0.0.4:22 allow"}},
		{"balancer's rule for another port", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool),
			"protocol": "Tcp", "frontendPort": 22, "backendPort": 80}}}}), nil},
		{"balancer's rule for UDP", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool),
			"protocol": "Udp", "frontendPort": 22, "backendPort": 22}}}}), nil},
		{"all ports, by address", lb(basic(), "Standard", m{"backendAddressPools": byAddr, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(strings.ToLower(pool)),
			"protocol": "All", "frontendPort": 0, "backendPort": 0}}}}), []string{"lb_rule 20.0.0.9:22 10.0.0.4:22 allow"}},
		{"NAT", lb(basic(), "Standard", m{"inboundNatRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendIPConfiguration": ref(strings.ToUpper(net + "networkInterfaces/n/ipConfigurations/ip-10-0-0-4")),
			"protocol": "Tcp", "frontendPort": 50000, "backendPort": 22}}}}), []string{"nat_rule 20.0.0.9:50000 10.0.0.4:22 allow"}},
		{"NAT of a range", lb(basic(), "Standard", m{"backendAddressPools": inPool, "inboundNatRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool),
			"protocol": "Tcp", "frontendPortRangeStart": 500, "frontendPortRangeEnd": 600, "backendPort": 22}}}}), []string{"nat_rule 20.0.0.9:500-600 10.0.0.4:22 allow"}},
		{"floating, outside", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool),
			"protocol": "Tcp", "frontendPort": 22, "backendPort": 22, "enableFloatingIP": true}}}}), []string{"lb_rule 20.0.0.9:22 20.0.0.9:22 allow"}},
		{"floating, inside", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": inner, "backendAddressPool": ref(pool),
			"protocol": "Tcp", "frontendPort": 22, "backendPort": 22, "enableFloatingIP": true}}}}), []string{"virtual_network invalid IP:22 10.0.0.100:22 allow"}},
		{"balancer without a group", func() *world {
			w := lb(basic(), "", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": front, "backendAddressPool": ref(pool), "protocol": "Tcp", "frontendPort": 22, "backendPort": 22}}}})
			delete(w.props(net+"networkInterfaces/n"), "networkSecurityGroup")
			return w
		}(), []string{"lb_rule 20.0.0.9:22 10.0.0.4:22 allow"}},
		{"balancer gone", func() *world {
			w := basic()
			w.props(net + "networkInterfaces/n")["ipConfigurations"].(l)[0].(m)["properties"].(m)["loadBalancerBackendAddressPools"] = l{ref(pool)}
			return w
		}(), []string{"public_ip 20.0.0.4:22 10.0.0.4:22 allow", "lb_rule invalid IP:22 10.0.0.4:22 allow ? the load balancer was not read", "! load balancer " + net + "loadBalancers/b does not exist, or was not read"}},
		{"frontend gone", lb(basic(), "Standard", m{"backendAddressPools": inPool, "loadBalancingRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": ref("/x"), "backendAddressPool": ref(pool), "protocol": "Tcp", "frontendPort": 22, "backendPort": 22}}}}),
			[]string{"lb_rule invalid IP:22 10.0.0.4:22 allow ? the rule's frontend is not at the load balancer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := told(read(t, c.w.file()), 22)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// The tag VirtualNetwork: peers, sites behind gateways, dial-in clients and routes belong to it, and what lies beyond does not. FACTS 2.1.
func TestVirtualNetworkTag(t *testing.T) {
	w := basic()
	v := w.props(net + "virtualNetworks/v")
	v["virtualNetworkPeerings"] = l{
		m{"name": "p", "properties": m{"peeringState": "Connected", "remoteVirtualNetwork": ref(net + "virtualNetworks/r"), "remoteAddressSpace": m{"addressPrefixes": l{"10.1.0.0/16"}}, "useRemoteGateways": true}},
		m{"name": "q", "properties": m{"peeringState": "Disconnected", "remoteVirtualNetwork": ref(net + "virtualNetworks/x"), "remoteAddressSpace": m{"addressPrefixes": l{"10.9.0.0/16"}}}},
		m{"name": "z", "properties": m{"peeringState": "Connected", "allowVirtualNetworkAccess": false, "remoteVirtualNetwork": ref(net + "virtualNetworks/x"), "remoteAddressSpace": m{"addressPrefixes": l{"10.8.0.0/16"}}}}}
	v["subnets"].(l)[0].(m)["properties"].(m)["routeTable"] = ref(net + "routeTables/t")
	w.add(net+"virtualNetworks/r", m{"addressSpace": m{"addressPrefixes": l{"10.1.0.0/16", "10.2.0.0/16"}}})
	w.add(net+"routeTables/T", m{"routes": l{m{"name": "a", "properties": m{"addressPrefix": "10.3.0.0/16", "nextHopType": "VirtualAppliance"}}, m{"name": "b", "properties": m{"addressPrefix": "Storage", "nextHopType": "Internet"}}}})
	w.add(net+"virtualNetworkGateways/g", m{"ipConfigurations": l{m{"name": "i", "properties": m{"subnet": ref(net + "virtualNetworks/R/subnets/GatewaySubnet")}}}, "vpnClientConfiguration": m{"vpnClientAddressPool": m{"addressPrefixes": l{"10.4.0.0/16"}}}})
	w.add(net+"localNetworkGateways/o", m{"localNetworkAddressSpace": m{"addressPrefixes": l{"10.5.0.0/16"}}})
	w.add(net+"connections/c", m{"virtualNetworkGateway1": ref(net + "virtualNetworkGateways/G"), "localNetworkGateway2": ref(net + "localNetworkGateways/o")})
	e := read(t, w.file())
	vm := find(t, e, "a")
	if len(vm.Problems) > 0 {
		t.Errorf("got %v", vm.Problems)
	}
	way := e.Ways(vm, netsec.TCP, 22)[0]
	for i := range 10 {
		src := netip.AddrFrom4([4]byte{10, byte(i), 0, 7})
		if got, want := way.Reach.VirtualNetwork.Allowed.Contains(src), i < 6; got != want {
			t.Errorf("%s: got %v, want %v", src, got, want)
		}
	}
	w.drop(net + "routeTables/T")
	if ps := find(t, read(t, w.file()), "a").Problems; len(ps) != 1 || !strings.Contains(ps[0].What, "route table") {
		t.Errorf("got %v", ps)
	}
}

// Scale sets and policies: what is absent, null, or spelt otherwise.
func TestScaleSetsAndPolicies(t *testing.T) {
	w := &world{}
	set := rg + "/providers/Microsoft.Compute/virtualMachineScaleSets/s"
	w.add(set, m{"orchestrationMode": "Uniform", "upgradePolicy": m{"mode": "Manual"}, "virtualMachineProfile": m{"priority": "Spot", "scheduledEventsProfile": m{"terminateNotificationProfile": m{"enable": true, "notBeforeTimeout": "PT5M"}}}})
	w.add(set+"/virtualMachines/10", m{"latestModelApplied": false}, m{"instanceId": "10"})
	w.add(strings.ToUpper(set)+"/virtualMachines/9", m{})
	w.add(rg+"/providers/Microsoft.Compute/virtualMachineScaleSets/t", m{"orchestrationMode": "Flexible", "virtualMachineProfile": m{"scheduledEventsProfile": m{}}})
	w.add(cmp+"f", m{"virtualMachineScaleSet": ref(set), "priority": "Low", "scheduledEventsProfile": m{"osImageNotificationProfile": m{}}, "osProfile": m{"windowsConfiguration": m{}}})
	w.add(rg+"/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default", m{"provisioningState": "Succeeded",
		"virtualMachines": l{m{"id": "/X", "ports": l{m{"number": 22, "protocol": "*", "allowedSourceAddressPrefix": "*", "maxRequestAccessDuration": "PT3H"}}}, m{"id": "/ghost", "ports": nil}},
		"requests":        l{m{"startTimeUtc": "2026-01-02T03:04:05.1234567Z", "requestor": "a@b", "virtualMachines": l{m{"ports": l{m{"number": 22, "endTimeUtc": "2026-01-02T04:04:05Z", "status": "Initiated", "allowedSourceAddressPrefixes": l{"1.2.3.4"}}, m{"number": 23, "endTimeUtc": "soon"}}, "id": "/x"}}}}})
	e := read(t, w.file())
	s := e.ScaleSets()
	if len(s) != 2 || !s[0].HasProfile || !s[0].Spot || s[0].Flexible || s[0].UpgradeMode != "Manual" || !s[0].Terminate.Present || !*s[0].Terminate.Enable || s[0].Terminate.NotBefore != "PT5M" || !s[0].InstancesRead {
		t.Errorf("got %+v", s[0])
	}
	if i := s[0].Instances; len(i) != 2 || i[0].InstanceID != "10" || *i[0].Latest || i[1].InstanceID != "9" || i[1].Latest != nil {
		t.Errorf("got %+v", i)
	}
	if s[1].Terminate.Profile || s[1].Terminate.Present || !s[1].Flexible {
		t.Errorf("got %+v", s[1])
	}
	v := find(t, e, "f")
	if v.ScaleSet != set || !v.Spot || v.OS != "windows" || !v.Terminate.Profile || v.Terminate.Present {
		t.Errorf("got %+v", v)
	}
	p := e.Policies()[0]
	if len(p.VMs) != 2 || p.VMs[0].Ports[0].Sources[0] != "*" || p.VMs[1].Ports != nil || len(p.Requests) != 2 {
		t.Fatalf("got %+v", p)
	}
	if r := p.Requests; r[0].VM != "/x" || r[0].Requestor != "a@b" || r[0].Start.Year() != 2026 || r[0].End.IsZero() || !r[1].End.IsZero() {
		t.Errorf("got %+v", r)
	}
}

// P10: a subscription whose interfaces are hidden has unknown group members, and its load balancers may lead anywhere.
func TestHidden(t *testing.T) {
	add := func(b *estate.Builder, w *world) {
		for _, x := range w.bodies {
			body, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Add(body); err != nil {
				t.Fatal(err)
			}
		}
	}
	asg := net + "applicationSecurityGroups/web"
	w := basic()
	r := rule("ssh", 100, "Allow", "Internet", "*", "22")
	delete(r["properties"].(m), "destinationAddressPrefix")
	r["properties"].(m)["destinationApplicationSecurityGroups"] = l{ref(strings.ToUpper(asg))}
	w.props(net + "networkSecurityGroups/g")["securityRules"] = l{r}
	if got := told(read(t, w.file()), 22)[0]; !strings.HasSuffix(got, "deny") {
		t.Errorf("no members: %s", got)
	}
	b := estate.NewBuilder()
	add(b, w)
	b.Hide(estate.Gap{Source: "network interfaces", Subscription: strings.ToUpper(strings.TrimPrefix(sub, "/subscriptions/")), Type: "Microsoft.Network/networkInterfaces", Reason: "403", NotAuthorized: true})
	if got := told(b.Build(), 22)[0]; !strings.HasSuffix(got, "unknown") {
		t.Errorf("hidden members: %s", got)
	}
	w.props(net + "networkInterfaces/n")["ipConfigurations"].(l)[0].(m)["properties"].(m)["applicationSecurityGroups"] = l{ref(asg)}
	if got := told(read(t, w.file()), 22)[0]; !strings.HasSuffix(got, "allow") {
		t.Errorf("a member: %s", got)
	}
	b = estate.NewBuilder()
	add(b, basic().drop(net+"networkSecurityGroups/g"))
	b.Hide(estate.Gap{Source: "groups", Resource: strings.ToLower(net + "networkSecurityGroups/g"), Reason: "404"})
	e := b.Build()
	if p := find(t, e, "a").Problems; len(p) != 1 || !p[0].Hidden {
		t.Errorf("got %+v", p)
	}
	if _, hidden := e.Hidden(strings.TrimPrefix(sub, "/subscriptions/"), "Microsoft.Network/networkSecurityGroups"); hidden {
		t.Error("a gap about one group hides all of them")
	}
}

func TestBastions(t *testing.T) {
	w := basic()
	v := w.props(net + "virtualNetworks/v")
	v["subnets"] = append(v["subnets"].(l), m{"name": "azurebastionsubnet", "properties": m{"addressPrefix": "10.0.9.0/26"}}, m{"name": "other", "properties": m{"addressPrefix": "10.0.8.0/26"}})
	w.add(net+"bastionHosts/b", m{"ipConfigurations": l{m{"name": "i", "properties": m{"subnet": ref(strings.ToUpper(net + "virtualNetworks/v/subnets/other"))}}}})
	e := read(t, w.file())
	if got := fmt.Sprint(e.Bastions(find(t, e, "a"))); got != "[10.0.8.0/26 10.0.9.0/26]" {
		t.Errorf("got %s", got)
	}
}

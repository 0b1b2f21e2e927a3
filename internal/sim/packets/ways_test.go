//go:build linux

package packets_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/sim/packets"
	"github.com/curfew-jit/curfew/internal/sim/packets/frame"
)

// way is one attempt to connect, and what is expected of it.
type way struct {
	name, from, to string
	want           bool
}

// tryAll makes all attempts at once.
func tryAll(t *testing.T, ways []way) {
	t.Helper()
	var wg sync.WaitGroup
	for _, w := range ways {
		wg.Go(func() {
			local := ""
			if strings.HasPrefix(w.name, "the host") {
				local = "168.63.129.16"
			}
			if got := opens(t, w.from, local, w.to, w.want); got != w.want {
				t.Errorf("%s: connected %v, want %v", w.name, got, w.want)
			}
		})
	}
	wg.Wait()
}

// peerOf returns from which address a listener in one namespace sees a connection from another.
func peerOf(t *testing.T, at string, listen string, from, to string) string {
	t.Helper()
	var l net.Listener
	if err := frame.In(at, func() (err error) { l, err = net.Listen("tcp", listen); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(3 * time.Second))
	go func() {
		_ = frame.In(from, func() error {
			c, err := net.DialTimeout("tcp", to, 2*time.Second)
			if err == nil {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1))
			}
			return err
		})
	}()
	c, err := l.Accept()
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return c.RemoteAddr().(*net.TCPAddr).IP.String() + " to " + c.LocalAddr().String()
}

// several is an estate with every kind of way in.
func several() []byte {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "Ways")
	e.Group("net", "westeurope")
	open := e.NSG("open-nsg", estates.Allow("ssh", 200, "22", "Internet"), estates.Allow("odd", 210, "8022", "*"), estates.Allow("ssh-host", 220, "22", "AzureLoadBalancer"))
	from9 := e.NSG("from9-nsg", estates.Allow("ssh", 200, "22", "203.0.113.9"), estates.Deny("no-more", 300, "*", "*"))
	six := e.NSG("six-nsg", estates.Allow("ssh", 200, "22", "2001:db8:9::9"))
	hub := e.VNet("hub", []string{"10.1.0.0/16", "fd00:1::/48"}, estates.Subnet{Name: "s", Prefix: "10.1.0.0/24", Prefix6: "fd00:1::/64"})
	spoke := e.VNet("spoke", []string{"10.2.0.0/16"}, estates.Subnet{Name: "s", Prefix: "10.2.0.0/24"})
	twin := e.VNet("twin", []string{"10.1.0.0/16"}, estates.Subnet{Name: "s", Prefix: "10.1.0.0/24"}) // the same addresses as the hub
	e.Peer(hub, spoke)
	e.VM("plain", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.10", PublicIP: "198.51.100.10", NSG: from9})
	e.VM("bare", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.11", PublicIP: "198.51.100.11"})
	e.VM("basic", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.12", PublicIP: "198.51.100.12", PublicSKU: "Basic"})
	lb := e.LB("lb", "198.51.100.50", "", []estates.NATRule{{Name: "one", FrontendPort: 50001, BackendPort: 22}, {Name: "float", FrontendPort: 8022, BackendPort: 8022, FloatingIP: true}},
		estates.LBRule{Name: "all", FrontendPort: 22, BackendPort: 22})
	e.VM("behind-1", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.21", NSG: open, NATRules: []string{lb + "/inboundNatRules/one"}, Pools: []string{lb + "/backendAddressPools/pool"}})
	e.VM("behind-2", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.22", NSG: open, NATRules: []string{lb + "/inboundNatRules/float"}, Pools: []string{lb + "/backendAddressPools/pool"}})
	e.VM("far", estates.VM{Subnet: spoke + "/subnets/s", PrivateIP: "10.2.0.10", NSG: e.NSG("far-nsg")})
	e.VM("double", estates.VM{Subnet: twin + "/subnets/s", PrivateIP: "10.1.0.10", PublicIP: "198.51.100.70", NSG: open})
	e.VM("off", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.30", PublicIP: "198.51.100.30", PublicSKU: "Basic", Power: "deallocated"})
	e.VM("six", estates.VM{Subnet: hub + "/subnets/s", PrivateIP: "10.1.0.40", PrivateIPv6: "fd00:1::40", NSG: six})
	guarded := e.VNet("guarded", []string{"10.3.0.0/16"}, estates.Subnet{Name: "s", Prefix: "10.3.0.0/24"})
	e.AdminRules(guarded, estates.AdminRule{Name: "never", Priority: 5, Access: "Deny", Source: "203.0.113.10", Port: "22"},
		estates.AdminRule{Name: "always", Priority: 6, Access: "AlwaysAllow", Source: "203.0.113.9", Port: "22"},
		estates.AdminRule{Name: "perhaps", Priority: 7, Access: "Allow", Source: "Internet", Port: "22"})
	e.VM("admin-open", estates.VM{Subnet: guarded + "/subnets/s", PrivateIP: "10.3.0.10", PublicIP: "198.51.100.80", NSG: open})
	e.VM("admin-shut", estates.VM{Subnet: guarded + "/subnets/s", PrivateIP: "10.3.0.11", PublicIP: "198.51.100.81", NSG: e.NSG("shut-nsg")})
	return e.JSON()
}

// TestWays: every kind of way to a machine leads there, and nowhere else.
func TestWays(t *testing.T) {
	require(t)
	s := must(sim.New(sim.Config{Estate: several()}))(t)
	if err := s.Edit(pipOfSix(t, s)); err != nil {
		t.Fatal(err)
	}
	six := addr("2001:db8:9::9")
	w := world(t, s, packets.Config{Clients: addrs("203.0.113.9 203.0.113.10 2001:db8:9::9")})
	if p := w.Info().Problems; len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
	ns := map[string]string{}
	router := map[string]string{}
	for _, m := range w.Info().Machines {
		ns[m.Name], router[m.Name] = m.Namespace, m.Router
	}
	c9, c10, c6 := must(w.Client(t.Context(), addr("203.0.113.9")))(t).Namespace, must(w.Client(t.Context(), addr("203.0.113.10")))(t).Namespace, must(w.Client(t.Context(), six))(t).Namespace
	tryAll(t, []way{
		{"a public address", c9, "198.51.100.10:22", true},
		{"the same, another source", c10, "198.51.100.10:22", false},
		{"the same, from the network", ns["bare"], "10.1.0.10:22", false},
		{"a Standard address without an NSG", c9, "198.51.100.11:22", false},
		{"the same machine, from its network", ns["basic"], "10.1.0.11:22", true},
		{"a Basic address without an NSG", c9, "198.51.100.12:22", true},
		{"a private address from the Internet", c9, "10.1.0.12:22", false},
		{"a NAT rule", c9, "198.51.100.50:50001", true},
		{"a port that no NAT rule has", c9, "198.51.100.50:50002", false},
		{"a load-balancing rule", c10, "198.51.100.50:22", true},
		{"a peered network", ns["far"], "10.1.0.12:22", true},
		{"a peered network, the other way", ns["basic"], "10.2.0.10:22", true},
		{"a network that is not peered", ns["double"], "10.2.0.10:22", false},
		{"the same private address in another network", c10, "198.51.100.70:22", true},
		{"a machine that is off", c9, "198.51.100.30:22", false},
		{"IPv6, by public address", c6, "[2603:1000::40]:22", true},
		{"IPv6, within the network", ns["basic"], "10.1.0.40:22", true},
		{"IPv4 of a machine whose rule is for IPv6", c9, "198.51.100.40:22", false},
		{"a public address of the own network", ns["basic"], "198.51.100.70:22", true},
		{"admin rule Deny before an open NSG", c10, "198.51.100.80:22", false},
		{"admin rule AlwaysAllow before a shut NSG", c9, "198.51.100.81:22", true},
		{"admin rule Allow before an open NSG", must(w.Client(t.Context(), addr("203.0.113.77")))(t).Namespace, "198.51.100.80:22", true},
		{"admin rule Allow before a shut NSG", must(w.Client(t.Context(), addr("203.0.113.77")))(t).Namespace, "198.51.100.81:22", false},
		{"the host's own address", router["far"], "10.2.0.10:22", true},
	})
	// What machines see of who comes: the client itself behind load balancers, the frontend with floating IP, a public address outward.
	for _, x := range []struct{ name, at, listen, from, to, want string }{
		{"floating IP", ns["behind-2"], "0.0.0.0:8022", c9, "198.51.100.50:8022", "203.0.113.9 to 198.51.100.50:8022"},
		{"out by one's own public address", c9, "203.0.113.9:9000", ns["plain"], "203.0.113.9:9000", "198.51.100.10 to 203.0.113.9:9000"},
		{"out without one", c9, "203.0.113.9:9001", ns["far"], "203.0.113.9:9001", "203.0.113.199 to 203.0.113.9:9001"},
		{"to the own network's public address", ns["behind-1"], "0.0.0.0:8022", ns["plain"], "198.51.100.50:8022", ""},
	} {
		got := peerOf(t, x.at, x.listen, x.from, x.to)
		if x.want == "" {
			continue
		}
		if strings.HasPrefix(x.want, "203.0.113.199") { // which one the simulation takes does not matter
			if !strings.HasPrefix(got, "203.0.113.1") {
				t.Errorf("%s: %s", x.name, got)
			}
			continue
		}
		if got != x.want {
			t.Errorf("%s: the listener sees %s, want %s", x.name, got, x.want)
		}
	}
}

// pipOfSix gives the IPv6 configuration of a machine a public address.
func pipOfSix(t *testing.T, s *sim.Sim) (string, func(map[string]any) error) {
	var nic string
	for _, id := range s.IDs("Microsoft.Network/networkInterfaces") {
		if strings.HasSuffix(id, "/six-nic") {
			nic = id
		}
	}
	pip := strings.Replace(nic, "networkInterfaces/six-nic", "publicIPAddresses/six-ip6", 1)
	if err := s.Edit(pip, func(b map[string]any) error {
		b["location"], b["sku"] = "westeurope", map[string]any{"name": "Standard"}
		b["properties"] = map[string]any{"ipAddress": "2603:1000::40", "publicIPAddressVersion": "IPv6", "publicIPAllocationMethod": "Static"}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return nic, func(b map[string]any) error {
		for _, c := range b["properties"].(map[string]any)["ipConfigurations"].([]any) {
			if p := c.(map[string]any)["properties"].(map[string]any); p["privateIPAddress"] == "fd00:1::40" {
				p["publicIPAddress"] = map[string]any{"id": pip}
			}
		}
		return nil
	}
}

// TestDemoEstate: what the product says of each machine of the demo, from the Internet and from its network, is what packets do.
func TestDemoEstate(t *testing.T) { // P4: the verdicts that protect relies on
	require(t)
	st := brokertest.New(t, brokertest.Options{NoStart: true})
	w := world(t, st.Sim, packets.Config{})
	clients := addrs("203.0.113.9 203.0.113.70 203.0.113.130") // anybody; the office; the partner
	snap := must(st.Inventory.Refresh(t.Context()))(t)
	off := map[string]bool{}
	for _, m := range w.Info().Machines {
		off[strings.ToLower(m.ID)] = !m.Running
	}
	var ways []way
	verdicts := map[netsec.Access]int{}
	add := func(name, from, to string, p netsec.Path, src, dst netip.Addr) {
		a := p.Decide(netsec.Packet{Src: src, Dst: dst, SrcPort: 40000, DstPort: 22, Protocol: netsec.TCP, Inbound: true}).Access
		verdicts[a]++
		if a != netsec.Unknown {
			ways = append(ways, way{name, from, to, a == netsec.Allow})
		}
	}
	for _, m := range snap.Machines() {
		if off[strings.ToLower(m.ID)] {
			continue
		}
		for _, e := range m.Endpoints {
			p := snap.Path(e)
			for _, public := range e.Public {
				port := uint16(22)
				if public.FrontendPort != 0 { // a load balancer's
					if port = public.FrontendPort; public.BackendPort != 22 {
						continue
					}
				}
				for _, c := range clients {
					add(fmt.Sprintf("%s from %s", m.Name, c), must(w.Client(t.Context(), c))(t).Namespace, netip.AddrPortFrom(public.Addr, port).String(), p, c, e.Addrs[0])
				}
			}
			for _, n := range snap.Machines() { // the first neighbours in its network
				if len(n.Endpoints) > 0 && n.Endpoints[0].VNet == e.VNet && n.ID != m.ID && slices.Contains([]string{"web-01", "web-02", "app-01", "sensor-hub"}, n.Name) {
					add(fmt.Sprintf("%s from %s", m.Name, n.Name), must(w.Inside(n.ID))(t).Namespace, netip.AddrPortFrom(e.Addrs[0], 22).String(), p, n.Endpoints[0].Addrs[0], e.Addrs[0])
				}
			}
		}
	}
	t.Logf("%v", verdicts)
	if verdicts[netsec.Allow] < 10 || verdicts[netsec.Deny] < 10 {
		t.Errorf("the cases say little: %v", verdicts)
	}
	tryAll(t, ways)
}

// TestFollows: a change in the simulator is in the namespaces at once, whatever it is; what is added appears, what is removed goes.
func TestFollows(t *testing.T) {
	require(t)
	s := must(sim.New(sim.Config{Estate: several()}))(t)
	w := world(t, s, packets.Config{Clients: addrs("203.0.113.9")})
	client := must(w.Client(t.Context(), addr("203.0.113.9")))(t)
	id := func(typ, name string) string {
		t.Helper()
		for _, id := range s.IDs(typ) {
			if strings.HasSuffix(id, "/"+name) {
				return id
			}
		}
		t.Fatalf("no %s", name)
		return ""
	}
	var took []time.Duration
	change := func(id string, f func(p map[string]any)) {
		t.Helper()
		began := time.Now()
		if err := s.Edit(id, func(b map[string]any) error { f(b["properties"].(map[string]any)); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := w.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	see := func(when, to string, want bool) {
		t.Helper()
		if got := opens(t, client.Namespace, "", to, want); got != want {
			t.Errorf("%s: connected %v, want %v", when, got, want)
		}
	}
	from9 := id("Microsoft.Network/networkSecurityGroups", "from9-nsg")
	see("at first", "198.51.100.10:22", true)
	setAccess := func(a string) {
		change(from9, func(p map[string]any) {
			p["securityRules"].([]any)[0].(map[string]any)["properties"].(map[string]any)["access"] = a
		})
	}
	setAccess("Deny")
	see("rule denies", "198.51.100.10:22", false)
	setAccess("Allow")
	see("rule allows", "198.51.100.10:22", true)
	nic := id("Microsoft.Network/networkInterfaces", "plain-nic")
	change(nic, func(p map[string]any) { delete(p, "networkSecurityGroup") })
	see("no NSG behind a Standard address", "198.51.100.10:22", false)
	change(nic, func(p map[string]any) { p["networkSecurityGroup"] = map[string]any{"id": from9} })
	see("the NSG back", "198.51.100.10:22", true)
	change(nic, func(p map[string]any) {
		p["ipConfigurations"].([]any)[0].(map[string]any)["properties"].(map[string]any)["privateIPAddress"] = "10.1.0.99"
	})
	see("another private address", "198.51.100.10:22", true)
	change(id("Microsoft.Network/publicIPAddresses", "plain-ip"), func(p map[string]any) { p["ipAddress"] = "198.51.100.99" })
	see("the old public address", "198.51.100.10:22", false)
	see("the new public address", "198.51.100.99:22", true)
	change(id("Microsoft.Network/loadBalancers", "lb"), func(p map[string]any) {
		p["inboundNatRules"].([]any)[0].(map[string]any)["properties"].(map[string]any)["frontendPort"] = 50007
	})
	see("the NAT rule's old port", "198.51.100.50:50001", false)
	see("the NAT rule's new port", "198.51.100.50:50007", true)
	shut := map[string]any{"id": id("Microsoft.Network/networkSecurityGroups", "far-nsg")}
	change(id("Microsoft.Network/virtualNetworks", "hub"), func(p map[string]any) {
		p["subnets"].([]any)[0].(map[string]any)["properties"].(map[string]any)["networkSecurityGroup"] = shut
	})
	see("an NSG on the subnet that allows nothing", "198.51.100.99:22", false)
	slices.Sort(took)
	t.Logf("changes took %v", took)
	if took[0] > 500*time.Millisecond {
		t.Errorf("the fastest change took %v, want about 100 ms", took[0])
	}
	spaces := len(w.Info().Machines)
	if err := s.Delete(id("Microsoft.Compute/virtualMachines", "plain")); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Info().Machines); n != spaces-1 {
		t.Errorf("%d machines after one of %d was deleted", n, spaces)
	}
	see("the machine is gone", "198.51.100.99:22", false)
}

// TestDeadRuns: what a killed run has left is removed by its own marks; what lives, and what is not ours, stays.
func TestDeadRuns(t *testing.T) {
	require(t)
	s := must(sim.New(sim.Config{}))(t)
	living := world(t, s, packets.Config{Clients: addrs("203.0.113.9")})
	dir := t.TempDir()
	keys := filepath.Join(dir, "packets-0dead0")
	mark := "/run/curfew-packets/0dead0"
	for _, d := range []string{keys, mark} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(mark+"/mark.json", []byte(`{"dir":"`+keys+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := fmt.Sprintf("curfew-%d", os.Getpid())
	for _, n := range []string{"curfew-0dead0-vm-1", foreign} {
		command(t, "", "ip", "netns", "add", n)
	}
	defer command(t, "", "ip", "netns", "del", foreign)
	removed, err := packets.Clean(t.Context())
	if err != nil || !slices.Equal(removed, []string{"0dead0"}) {
		t.Errorf("removed %v (%v), want 0dead0", removed, err)
	}
	for place, want := range map[string]bool{"/run/netns/curfew-0dead0-vm-1": false, keys: false, mark: false, "/run/netns/" + foreign: true,
		"/run/netns/" + must(living.Client(t.Context(), addr("203.0.113.9")))(t).Namespace: true} {
		if _, err := os.Stat(place); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", place, err == nil, want)
		}
	}
}

// TestPeers: another process finds the run by its server, and gets its clients there.
func TestPeers(t *testing.T) {
	require(t)
	w := world(t, must(sim.New(sim.Config{}))(t), packets.Config{Server: "http://127.0.0.1:45911"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := packets.Find(ctx, "http://127.0.0.1:45911/", "")
	if err != nil || p == nil || p.Run != w.Info().Run {
		t.Fatalf("found %v (%v), want run %s", p, err, w.Info().Run)
	}
	c, err := p.Client(ctx, addr("203.0.113.44"))
	if err != nil || c.Prefix[len(c.Prefix)-1] != c.Namespace {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := os.Stat("/run/netns/" + c.Namespace); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"192.0.2.7", "127.0.0.1", "169.254.169.254", "168.63.129.16"} {
		if _, err := p.Client(ctx, addr(bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s became a client: %v", bad, err)
		}
	}
	if p, err := packets.Find(ctx, "http://127.0.0.1:1", ""); p != nil || err != nil {
		t.Errorf("found %v, %v where nothing runs", p, err)
	}
}

package scan_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

var updateExplain = flag.Bool("update-explain", false, "write the golden files of explanations anew")

func readEstate(t testing.TB, file []byte) *estate.Estate {
	t.Helper()
	e, err := estate.Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func machine(t testing.TB, e *estate.Estate, name string) *estate.VM {
	t.Helper()
	for _, v := range e.VMs() {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no machine %s", name)
	return nil
}

func from(t testing.TB, s string) scan.From {
	t.Helper()
	f, err := scan.ParseFrom(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// explainEstate has the ways that the demo has not.
func explainEstate() []byte {
	e := estates.New()
	e.Subscription("11111111-2222-4333-8444-555555555555", "Explain")
	e.Group("net", "westeurope")
	fwSubnet := estates.Subnet{Name: "AzureFirewallSubnet", Prefix: "10.1.0.0/26"}
	guard := e.NSG("guard", estates.Allow("ssh-from-office", 300, "22", "203.0.113.0/24"), estates.Deny("no-ssh", 400, "22", "*"),
		estates.Allow("sql", 500, "1433", "Sql.WestEurope"))
	hub := e.VNet("hub", []string{"10.1.0.0/16"}, fwSubnet)
	spoke := e.VNet("spoke", []string{"10.2.0.0/16"}, estates.Subnet{Name: "apps", Prefix: "10.2.0.0/24", NSG: guard}, estates.Subnet{Name: "bare", Prefix: "10.2.1.0/24"})
	e.Peer(hub, spoke)
	e.VM("guarded", estates.VM{Subnet: spoke + "/subnets/apps", PrivateIP: "10.2.0.4", PublicIP: "198.51.100.7"})
	e.VM("bare-standard", estates.VM{Subnet: spoke + "/subnets/bare", PrivateIP: "10.2.1.4", PublicIP: "198.51.100.8"})
	lb := e.LB("front", "198.51.100.20", "Standard", []estates.NATRule{{Name: "ssh-guarded", FrontendPort: 50022, BackendPort: 22}})
	open := e.NSG("open", estates.Allow("all", 100, "22", "*"))
	e.VM("behind", estates.VM{Subnet: spoke + "/subnets/bare", PrivateIP: "10.2.1.9", NSG: open, NATRules: []string{lb + "/inboundNatRules/ssh-guarded"}})
	fw := e.ID("Microsoft.Network/azureFirewalls", "edge")
	e.Add(map[string]any{"id": fw, "name": "edge", "type": "Microsoft.Network/azureFirewalls", "properties": map[string]any{
		"ipConfigurations": []any{map[string]any{"name": "ip", "properties": map[string]any{"privateIPAddress": "10.1.0.4", "subnet": map[string]any{"id": hub + "/subnets/AzureFirewallSubnet"}}}},
		"natRuleCollections": []any{map[string]any{"name": "admin", "properties": map[string]any{"priority": 100, "action": map[string]any{"type": "Dnat"}, "rules": []any{
			map[string]any{"name": "ssh-bare", "protocols": []any{"TCP"}, "sourceAddresses": []any{"203.0.113.0/24"}, "destinationAddresses": []any{"198.51.100.30"},
				"destinationPorts": []any{"2222"}, "translatedAddress": "10.2.1.4", "translatedPort": "22"}}}}}}})
	e.Add(map[string]any{"id": e.ID("Microsoft.Compute/virtualMachines", "ghostly"), "name": "ghostly", "type": "Microsoft.Compute/virtualMachines",
		"properties": map[string]any{"networkProfile": map[string]any{"networkInterfaces": []any{map[string]any{"id": e.ID("Microsoft.Network/networkInterfaces", "gone")}}}}})
	return e.JSON()
}

func TestExplain(t *testing.T) {
	demo, own := readEstate(t, estates.Demo()), readEstate(t, explainEstate())
	for _, c := range []struct {
		file   string
		e      *estate.Estate
		vm     string
		port   uint16
		from   string
		access string
	}{
		{"public", demo, "web-01", 22, "internet", "allow"},
		{"address", demo, "web-01", 22, "203.0.113.9", "allow"},
		{"inside", demo, "web-01", 22, "virtual-network", "allow"},
		{"neighbour", demo, "web-01", 22, "10.10.1.12", "allow"},
		{"nat", demo, "reports-01", 22, "internet", "allow"},
		{"admin-deny", demo, "batch-01", 22, "198.51.100.1", "deny"},
		{"admin-always", demo, "sensor-hub", 22, "203.0.113.200", "allow"},
		{"basic", demo, "fax-gateway", 22, "internet", "allow"},
		{"no-way", demo, "db-01", 22, "internet", "deny"},
		{"office", own, "guarded", 22, "203.0.113.9", "allow"},
		{"stranger", own, "guarded", 22, "198.51.100.200", "deny"},
		{"narrow", own, "guarded", 22, "internet", "allow"},
		{"tag", own, "guarded", 1433, "8.8.8.8", "unknown"},
		{"standard", own, "bare-standard", 3389, "internet", "deny"},
		{"firewall", own, "bare-standard", 22, "203.0.113.9", "allow"},
		{"firewall-stranger", own, "bare-standard", 22, "198.51.100.200", "deny"},
		{"frontend", own, "behind", 22, "8.8.8.8", "allow"},
		{"unread", own, "ghostly", 22, "internet", "unknown"},
	} {
		t.Run(c.file, func(t *testing.T) {
			x := scan.Explain(c.e, machine(t, c.e, c.vm), scan.Question{Protocol: netsec.TCP, Port: c.port, From: from(t, c.from)})
			if x.Access != c.access {
				t.Errorf("got %s, want %s", x.Access, c.access)
			}
			got := x.Text(100) + "\n" + x.ASCII(60)
			name := filepath.Join("testdata", "explain", c.file+".txt")
			if *updateExplain {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			for line := range strings.Lines(x.ASCII(60)) {
				if strings.ContainsFunc(line, func(r rune) bool { return r >= utf8.RuneSelf }) {
					t.Errorf("not ASCII: %s", line)
				}
			}
			body, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			var back scan.Explanation
			if err := json.Unmarshal(body, &back); err != nil || back.Text(100) != x.Text(100) {
				t.Errorf("JSON does not hold the whole explanation: %v", err)
			}
		})
	}
}

// P10: an explanation of what was not read never says deny.
func TestExplainHidden(t *testing.T) {
	for _, c := range []struct{ typ, vm string }{
		{"Microsoft.Network/networkSecurityGroups", "guarded"},
		{"Microsoft.Network/loadBalancers", "bare-standard"},
		{"Microsoft.Network/azureFirewalls", "guarded"},
		{"Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules", "guarded"},
	} {
		t.Run(c.typ, func(t *testing.T) {
			b := estate.NewBuilder()
			var file struct{ Resources []json.RawMessage }
			if err := json.Unmarshal(explainEstate(), &file); err != nil {
				t.Fatal(err)
			}
			for _, r := range file.Resources {
				var head struct{ Type string }
				if err := json.Unmarshal(r, &head); err != nil {
					t.Fatal(err)
				}
				if strings.EqualFold(head.Type, c.typ) {
					continue
				}
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
			b.Hide(estate.Gap{Source: c.typ, Type: c.typ, Reason: "403"})
			e := b.Build()
			x := scan.Explain(e, machine(t, e, c.vm), scan.Question{Protocol: netsec.TCP, Port: 22, From: from(t, "198.51.100.200")})
			if x.Access != "unknown" {
				t.Errorf("got %s: %s", x.Access, x.Text(100))
			}
		})
	}
}

func TestExplainHostileNames(t *testing.T) {
	x := scan.Explanation{Name: "web\x1b[31m\u202e01\n", Access: "deny", Summary: "x", Ways: []scan.Way{{Kind: "public_ip", Hops: []scan.Hop{{Layer: "nic", Rule: "\x07", Why: "a\x1b]0;b"}}}}}
	for _, text := range []string{x.Text(80), x.ASCII(80)} {
		if strings.ContainsAny(text, "\x1b\x07\u202e") {
			t.Errorf("control characters in %q", text)
		}
	}
}

// Explain and the rules agree about a rule that asks for a source port: whoever wants in sends from it.
func TestExplainSourcePort(t *testing.T) {
	w := newWorld()
	w.vm("web", 4, w.nsg("web-nsg", "dns 300 Allow Tcp * * 22", "no 400 Deny Tcp * * 22"), "20.1.2.3")
	rule := props(w.at["Microsoft.Network/networkSecurityGroups/web-nsg"])["securityRules"].([]obj)[0]["properties"].(obj)
	rule["sourcePortRange"] = "53"
	w.vm("high", 5, w.nsg("high-nsg", "high 300 Allow Tcp * * 22"), "20.1.2.4")
	props(w.at["Microsoft.Network/networkSecurityGroups/high-nsg"])["securityRules"].([]obj)[0]["properties"].(obj)["sourcePortRange"] = "1024-65535"
	e := w.estate(t)
	fails := map[string]string{}
	scan.Judge(e, scan.Options{Now: noon}, func(f scan.Finding) {
		if f.Rule == scan.VMPortExposed {
			fails[f.Name] = f.Reason
		}
	})
	if !strings.Contains(fails["web"], "from source port 53") || !strings.Contains(fails["high"], "from source port 1024-65535") {
		t.Errorf("the scan says %q", fails)
	}
	for _, c := range []struct {
		vm, from     string
		port         uint16
		access, says string
	}{
		{"web", "8.8.8.8", 0, "allow", "sending from source port 53 alone, gets to TCP port 22 of web: rule dns (priority 300) lets it in: Tcp from any, source port 53 to any, port 22"},
		{"web", "internet", 0, "allow", "sending from source port 53 alone, gets to"},
		{"web", "10.0.0.77", 0, "allow", "sending from source port 53 alone"},
		{"web", "virtual-network", 0, "allow", "sending from source port 53 alone"},
		{"web", "8.8.8.8", 53, "allow", "8.8.8.8 (from source port 53) gets to"},
		{"web", "8.8.8.8", 50000, "deny", "8.8.8.8 (from source port 50000) does not get to TCP port 22 of web: rule no (priority 400) denies it"},
		{"web", "internet", 50000, "deny", "The Internet (from source port 50000) does not get to"},
		{"high", "8.8.8.8", 0, "allow", "8.8.8.8 gets to"},
		{"high", "internet", 0, "allow", "sending from source port 1024-65535 alone"},
		{"high", "8.8.8.8", 53, "deny", "does not get to"},
	} {
		x := scan.Explain(e, machine(t, e, c.vm), scan.Question{Protocol: netsec.TCP, Port: 22, From: from(t, c.from), SourcePort: c.port})
		if x.Access != c.access || !strings.Contains(x.Summary, c.says) {
			t.Errorf("%+v: %s: %s", c, x.Access, x.Summary)
		}
	}
}

func TestParseFrom(t *testing.T) {
	for in, want := range map[string]string{"internet": "internet", "Internet": "internet", "VIRTUAL-NETWORK": "virtual-network", "VirtualNetwork": "virtual-network",
		"203.0.113.9": "203.0.113.9", "::ffff:203.0.113.9": "203.0.113.9", "2001:db8::1": "2001:db8::1"} {
		if f, err := scan.ParseFrom(in); err != nil || f.String() != want {
			t.Errorf("%s: got %v, %v", in, f, err)
		}
	}
	for _, in := range []string{"10.0.0.0/8", "fe80::1%eth0", "nobody", "1.2.3"} {
		if f, err := scan.ParseFrom(in); err == nil {
			t.Errorf("%s: got %v", in, f)
		}
	}
}

// A way that is shut whatever could not be read of it is shut, as the verdict says; a part of the machine that is missing keeps it open.
func TestExplainUnreadBehindShut(t *testing.T) {
	for name, c := range map[string]struct {
		rules []string
		gone  bool
		want  string
	}{"shut": {nil, false, "deny"}, "open": {[]string{"allow-ssh 300 Allow Tcp * * 22"}, false, "unknown"}, "an interface is missing": {nil, true, "unknown"}} {
		w := newWorld()
		m := w.vm("web", 4, w.nsg("web-nsg", c.rules...), "")
		w.config("web")["publicIPAddress"] = obj{"id": root + "Microsoft.Network/publicIPAddresses/gone"}
		if c.gone {
			nics := props(m)["networkProfile"].(obj)
			nics["networkInterfaces"] = []obj{nics["networkInterfaces"].([]obj)[0], {"id": root + "Microsoft.Network/networkInterfaces/gone"}}
		}
		e := w.estate(t)
		x := scan.Explain(e, machine(t, e, "web"), scan.Question{Protocol: netsec.TCP, Port: 22, From: from(t, "8.8.8.8")})
		if x.Access != c.want || len(x.Problems) == 0 {
			t.Errorf("%s: %s, want %s: %s %q", name, x.Access, c.want, x.Summary, x.Problems)
		}
	}
}

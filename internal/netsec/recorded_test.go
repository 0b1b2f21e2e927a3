package netsec_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/testkit"
	"go.yaml.in/yaml/v4"
)

// shared returns the folder of reference data.
func shared(t *testing.T) string { return testkit.Shared(t, "azure") }

type armRule struct {
	Name       string
	Properties struct {
		Protocol, Access, Direction, SourceAddressPrefix, DestinationAddressPrefix, SourcePortRange, DestinationPortRange string
		SourceAddressPrefixes, DestinationAddressPrefixes, SourcePortRanges, DestinationPortRanges                        []string
		SourceApplicationSecurityGroups, DestinationApplicationSecurityGroups                                             []struct{ ID string }
		Priority                                                                                                          int
	}
}

func (a armRule) rule(asgs map[string][]netip.Addr) netsec.Rule {
	p := a.Properties
	merge := func(one string, many []string) []string {
		if one != "" {
			many = append([]string{one}, many...)
		}
		return many
	}
	r := netsec.Rule{Name: a.Name, Priority: p.Priority, Inbound: p.Direction == "Inbound", Protocol: p.Protocol,
		Sources: merge(p.SourceAddressPrefix, p.SourceAddressPrefixes), Destinations: merge(p.DestinationAddressPrefix, p.DestinationAddressPrefixes),
		SourcePorts: merge(p.SourcePortRange, p.SourcePortRanges), DestinationPorts: merge(p.DestinationPortRange, p.DestinationPortRanges)}
	r.Access, _ = netsec.ParseAccess(p.Access)
	for _, g := range p.SourceApplicationSecurityGroups {
		r.SourceASGs = append(r.SourceASGs, g.ID)
		asgs[strings.ToLower(g.ID)] = addrs("10.0.0.4")
	}
	for _, g := range p.DestinationApplicationSecurityGroups {
		r.DestinationASGs = append(r.DestinationASGs, g.ID)
		asgs[strings.ToLower(g.ID)] = addrs("10.0.0.4")
	}
	return r
}

// TestObservedDefenderRules: rules that Defender wrote are understood, but for the one whose source was redacted.
func TestObservedDefenderRules(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(shared(t), "observed", "defender-jit-nsg-rules.json"))
	testkit.Require(t, "the rules that Defender was seen to write", err == nil)
	var file struct{ Rules []armRule }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Rules) < 4 {
		t.Fatalf("only %d rules", len(file.Rules))
	}
	for _, a := range file.Rules {
		r := a.rule(nil)
		if strings.Contains(r.Sources[0], "redacted") {
			r.Sources = []string{client}
		}
		if err := r.Validate(); err != nil {
			t.Error(err)
		}
		dst := netip.MustParseAddr(r.Destinations[0])
		env := netsec.Env{VirtualNetwork: []netip.Prefix{netip.PrefixFrom(dst, 16).Masked()}}
		port, err := netsec.ParsePortRange(r.DestinationPorts[0])
		if err != nil {
			t.Fatal(err)
		}
		c := netsec.Compile(group(r), env)
		d := c.Decide(netsec.Packet{Src: netip.MustParseAddr(client), Dst: dst, DstPort: port.First, Protocol: netsec.TCP, Inbound: true})
		if d.Access != r.Access || d.Rule.Name != r.Name {
			t.Errorf("%s: %+v", r.Name, d)
		}
	}
}

// TestRecordedGroups compiles every NSG of the recordings: every rule is understood, and no verdict is
// Unknown, two named oddities aside. The default rules of the recordings are those that are implied.
func TestRecordedGroups(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(shared(t), "recordings", "network", "*.yaml"))
	testkit.Require(t, "a recording of the network API", len(files) > 0)
	groups, rules, defaults := 0, 0, 0
	visit := func(v map[string]any) {
		props, _ := v["properties"].(map[string]any)
		custom, ok := props["securityRules"].([]any)
		if !ok || props["defaultSecurityRules"] == nil {
			return
		}
		groups++
		asgs := map[string][]netip.Addr{}
		read := func(in any) (out []netsec.Rule) {
			data, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var arm []armRule
			if err := json.Unmarshal(data, &arm); err != nil {
				t.Fatal(err)
			}
			for _, a := range arm {
				out = append(out, a.rule(asgs))
			}
			return out
		}
		g := group(read(custom)...)
		for _, r := range g.Rules {
			rules++
			// One rule was recorded with "789" and "1234" as addresses, which ARM took and returned.
			if err := r.Validate(); err != nil && !(r.Sources[0] == "789" && r.Destinations[0] == "1234") {
				t.Error(err)
			}
		}
		c := netsec.Compile(g, netsec.Env{VirtualNetwork: vnetEnv.VirtualNetwork, ASGs: asgs})
		for _, src := range []string{client, "10.0.0.9", "168.63.129.16", "192.168.0.1"} {
			for _, port := range []uint16{22, 80, 443, 3389, 5000} {
				for _, pk := range []netsec.Packet{packet(src, vm, port), outbound(packet(vm, src, port))} {
					// CorpNetPublic is a tag of Microsoft's own networks; no list gives its addresses.
					if d := c.Decide(pk); d.Access == netsec.Unknown && !strings.Contains(d.Why, "CorpNetPublic") {
						t.Errorf("%v: %+v", pk, d)
					}
				}
			}
		}
		for _, r := range read(props["defaultSecurityRules"]) {
			src, dst := "192.168.0.1", "192.168.0.2"
			place := func(s, not string) string {
				switch s {
				case "VirtualNetwork":
					return "10.0.0.9"
				case "Internet":
					return client
				case "AzureLoadBalancer":
					return "168.63.129.16"
				}
				return not
			}
			src, dst = place(r.Sources[0], src), place(r.Destinations[0], dst)
			pk := packet(src, dst, 9)
			pk.Inbound = r.Inbound
			d := netsec.Compile(group(), vnetEnv).Decide(pk)
			if d.Rule == nil || !d.Rule.Default || d.Rule.Name != r.Name || d.Rule.Priority != r.Priority || d.Access != r.Access {
				t.Errorf("default rule %+v, implied %+v", r, d.Rule)
			}
			defaults++
		}
	}
	for _, f := range files {
		for _, body := range bodies(t, f) {
			walk(body, visit)
		}
	}
	if groups == 0 || rules == 0 || defaults == 0 {
		t.Errorf("%d groups, %d rules, %d default rules found", groups, rules, defaults)
	}
	t.Logf("%d groups, %d rules, %d default rules", groups, rules, defaults)
}

// TestRecordedTagMap compares the tags with the expansion that Azure gave for a network card (FACTS 2.3).
func TestRecordedTagMap(t *testing.T) {
	file := filepath.Join(shared(t), "recordings", "network", "test_network_nic_convenience_commands.yaml")
	_, err := os.Stat(file)
	testkit.Require(t, "the recording of effective rules", err == nil)
	found := false
	for _, body := range bodies(t, file) {
		walk(body, func(v map[string]any) {
			tags, ok := v["tagMap"].(map[string]any)
			if !ok || tags["Internet"] == nil || found {
				return
			}
			found = true
			sizes := map[string]int{}
			for tag, list := range tags {
				c := netsec.Compile(group(rule("t", 100, deny, tag, "*", "22"), rule("rest", 200, allow, "*", "*", "22")), netsec.Env{VirtualNetwork: prefixes("10.0.0.0/16")})
				for _, p := range list.([]any) {
					x := netip.MustParsePrefix(p.(string))
					sizes[tag]++
					dst := vm
					if x.Addr().Is6() {
						dst = "fd00::4"
					}
					for _, pc := range c.Sources(netip.MustParseAddr(dst), netsec.TCP, netsec.Port(22)) {
						if pc.Rule.Name == "rest" && pc.IPs.OverlapsPrefix(x) && !(tag == "Internet" && pc.IPs.Contains(netip.MustParseAddr("168.63.129.16")) && x.Contains(netip.MustParseAddr("168.63.129.16"))) {
							t.Errorf("%s holds %v in Azure, not here", tag, x)
						}
					}
				}
			}
			if sizes["Internet"] < 100 || sizes["VirtualNetwork"] != 2 || sizes["AzureLoadBalancer"] != 2 {
				t.Errorf("tags %v", sizes)
			}
		})
	}
	if !found {
		t.Error("no tagMap found")
	}
}

func bodies(t *testing.T, file string) (out []any) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		Interactions []struct {
			Response struct {
				Body struct {
					String string `yaml:"string"`
				} `yaml:"body"`
			} `yaml:"response"`
		} `yaml:"interactions"`
	}
	if err := yaml.Unmarshal(data, &rec); err != nil {
		t.Fatal(err)
	}
	for _, i := range rec.Interactions {
		var v any
		if json.Unmarshal([]byte(i.Response.Body.String), &v) == nil {
			out = append(out, v)
		}
	}
	return out
}

func walk(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, x := range v {
			walk(x, f)
		}
	case []any:
		for _, x := range v {
			walk(x, f)
		}
	}
}

package estate_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// effective is a rule as effectiveNetworkSecurityGroups tells it: tags are expanded by the simulator, which knows nothing of this code.
type effective struct {
	Name, Access, Protocol, Direction                       string
	Priority                                                int
	SourceAddressPrefixes, DestinationAddressPrefixes       []string
	ExpandedSourceAddressPrefix                             []string
	ExpandedDestinationAddressPrefix, DestinationPortRanges []string
	SourceApplicationSecurityGroups                         []struct{ ID string }
	DestinationApplicationSecurityGroups                    []struct{ ID string }
}

func among(a netip.Addr, expanded, plain []string) bool {
	if len(expanded) > 0 {
		plain = expanded
	}
	return slices.ContainsFunc(plain, func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && p.Contains(a) || s == a.String()
	})
}

func (r *effective) matches(src, dst netip.Addr, port int, asgs []string) bool {
	if r.Direction != "Inbound" || r.Protocol != "All" && !strings.EqualFold(r.Protocol, "Tcp") {
		return false
	}
	if !slices.ContainsFunc(r.DestinationPortRanges, func(s string) bool {
		from, to, _ := strings.Cut(s, "-")
		a, _ := strconv.Atoi(from)
		b, _ := strconv.Atoi(to)
		return a <= port && port <= b
	}) {
		return false
	}
	if len(r.DestinationApplicationSecurityGroups) > 0 {
		if !slices.ContainsFunc(r.DestinationApplicationSecurityGroups, func(g struct{ ID string }) bool {
			return slices.ContainsFunc(asgs, func(a string) bool { return strings.EqualFold(a, g.ID) })
		}) {
			return false
		}
	} else if !among(dst, r.ExpandedDestinationAddressPrefix, r.DestinationAddressPrefixes) {
		return false
	}
	return len(r.SourceApplicationSecurityGroups) == 0 && among(src, r.ExpandedSourceAddressPrefix, r.SourceAddressPrefixes)
}

// The groups of the demo's machines against the effective rules that the simulator answers for each interface.
func TestAgainstEffectiveRules(t *testing.T) {
	s, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	e := read(t, s.Dump())
	hc := &http.Client{Transport: s.Transport()}
	call := func(method, url string, into any) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.Token())
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if into != nil {
			if err := json.NewDecoder(bytes.NewReader(body)).Decode(into); err != nil {
				t.Fatalf("%s: %v in %s", url, err, body)
			}
		}
		return resp
	}
	verdicts := map[netsec.Access]int{}
	for _, v := range e.VMs() {
		if v.Power != "running" {
			continue
		}
		for _, p := range v.Endpoints {
			if !p.Addrs[0].Is4() {
				continue // the simulator expands IPv4 alone, as recorded
			}
			var nic struct {
				Properties struct {
					IPConfigurations []struct {
						Properties struct{ ApplicationSecurityGroups []struct{ ID string } }
					}
				}
			}
			call("GET", "https://management.azure.com"+p.NIC+"?api-version=2024-03-01", &nic)
			var asgs []string
			for _, c := range nic.Properties.IPConfigurations {
				for _, g := range c.Properties.ApplicationSecurityGroups {
					asgs = append(asgs, g.ID)
				}
			}
			resp := call("POST", "https://management.azure.com"+p.NIC+"/effectiveNetworkSecurityGroups?api-version=2024-03-01", nil)
			var answer struct {
				Value []struct{ EffectiveSecurityRules []effective }
			}
			call("GET", resp.Header.Get("Location"), &answer)
			if want := (p.SubnetNSG != "") != (p.NICNSG != ""); len(answer.Value) == 1 != want && len(answer.Value) != 2 && len(answer.Value) != 0 {
				t.Errorf("%s: got %d groups", v.Name, len(answer.Value))
			}
			for _, port := range []int{22, 443, 3389} {
				for _, w := range e.Ways(v, netsec.TCP, uint16(port)) {
					if w.Kind != estate.VirtualNetwork || w.Dest != p.Addrs[0] || len(answer.Value) == 0 {
						continue
					}
					for _, src := range []string{"203.0.113.9", "198.51.100.77", "8.8.8.8", "203.0.113.200", "10.10.1.12", "10.20.0.10", "10.30.0.5", "192.168.7.7", "172.16.0.9", "168.63.129.16"} {
						a := netip.MustParseAddr(src)
						want := netsec.Allow
						for _, g := range answer.Value {
							slices.SortStableFunc(g.EffectiveSecurityRules, func(x, y effective) int { return x.Priority - y.Priority })
							at := slices.IndexFunc(g.EffectiveSecurityRules, func(r effective) bool { return r.matches(a, w.Dest, port, asgs) })
							if at < 0 || g.EffectiveSecurityRules[at].Access != "Allow" {
								want = netsec.Deny
							}
						}
						groups := netsec.Path{Subnet: w.Path.Subnet, NIC: w.Path.NIC} // the call does not tell of admin rules
						got := groups.Decide(netsec.Packet{Src: a, Dst: w.Dest, SrcPort: 50000, DstPort: uint16(port), Protocol: netsec.TCP, Inbound: true})
						verdicts[want]++
						if got.Access != want {
							t.Errorf("%s port %d from %s: got %s (%v), want %s", v.Name, port, src, got.Access, got.Rule(), want)
						}
					}
				}
			}
		}
	}
	if verdicts[netsec.Allow] < 50 || verdicts[netsec.Deny] < 50 {
		t.Errorf("the cases say little: %v", verdicts)
	}
}

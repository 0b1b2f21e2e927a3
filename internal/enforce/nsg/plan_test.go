package nsg_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/netsec"
)

const place = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/networkSecurityGroups/web-nsg"

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func vm(name string) access.VM {
	return access.VM{ID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/" + name, Name: name}
}

// foreign makes a rule as Azure gives it, with a field that nobody knows.
func foreign(name string, prio int, acc, proto, src, dst, port string) azure.SecurityRule {
	body := fmt.Sprintf(`{"name":%q,"id":%q,"etag":"W/\"1\"","properties":{"provisioningState":"Succeeded","mystery":{"a":[1]},"protocol":%q,"sourcePortRange":"*",`+
		`"destinationPortRange":%q,"sourceAddressPrefix":%q,"destinationAddressPrefix":%q,"access":%q,"priority":%d,"direction":"Inbound","sourceAddressPrefixes":[]}}`,
		name, place+"/securityRules/"+name, proto, port, src, dst, acc, prio)
	var r azure.SecurityRule
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		panic(err)
	}
	return r
}

func shield(name, ip, port string, ex ...access.Exemption) enforce.Shield {
	p, err := access.ParsePorts(port)
	if err != nil {
		panic(err)
	}
	return enforce.Shield{VM: vm(name), Destinations: []netip.Addr{addr(ip)}, Ports: p, Protocol: access.TCP, Exemptions: ex}
}

func window(grant, name, ip, port, src string, end time.Duration) enforce.Window {
	p, _ := access.ParsePorts(port)
	s, err := access.ParseSource(src)
	if err != nil {
		panic(err)
	}
	return enforce.Window{Grant: access.GrantID("g-" + grant), VM: vm(name), Destinations: []netip.Addr{addr(ip)}, Ports: p, Protocol: access.TCP,
		Source: s, End: now.Add(end)}
}

var env = netsec.Env{VirtualNetwork: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}

func input(rules []azure.SecurityRule, w enforce.Wanted) nsg.Input {
	if w.Env.VirtualNetwork == nil {
		w.Env = env
	}
	return nsg.Input{Place: place, Rules: rules, Wanted: w, Installation: "acme", Now: now}
}

// roundTrip is what Azure gives back for what was sent.
func roundTrip(rules []azure.SecurityRule) []azure.SecurityRule {
	out := make([]azure.SecurityRule, len(rules))
	for i, r := range rules {
		b, err := r.MarshalJSON()
		if err != nil {
			panic(err)
		}
		if err := json.Unmarshal(b, &out[i]); err != nil {
			panic(err)
		}
	}
	return out
}

func dump(rules []azure.SecurityRule) string {
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "%5d %-60s %s %s %v -> %v %v | %s\n", r.Priority, r.Name, r.Access, r.Protocol, r.SourcePrefixes, r.DestinationPrefixes, r.DestinationPorts, r.Description)
	}
	return b.String()
}

func find(t *testing.T, rules []azure.SecurityRule, name string) azure.SecurityRule {
	t.Helper()
	i := slices.IndexFunc(rules, func(r azure.SecurityRule) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("no rule %s in\n%s", name, dump(rules))
	}
	return rules[i]
}

func TestPlainOpening(t *testing.T) {
	web := foreign("web", 400, "Allow", "Tcp", "*", "*", "443")
	w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22", access.Exemption{Name: "AzureBastionSubnet", Source: "10.0.9.0/26"})},
		Windows: []enforce.Window{window("aaaaaaaaaa", "web-01", "10.0.0.4", "22", "203.0.113.7", time.Hour)}}
	p := nsg.NewPlan(input([]azure.SecurityRule{web}, w))
	t.Log("\n" + dump(p.Rules))
	for _, c := range p.Changes {
		t.Log(c)
	}
	deny := find(t, p.Rules, "curfew-deny-acme-tcp-22")
	allow := find(t, p.Rules, "curfew-allow-acme-aaaaaaaaaa-20260301T130000Z")
	exempt := find(t, p.Rules, "curfew-exempt-acme-azurebastionsubnet-tcp-22")
	if deny.Priority != 1299 || allow.Priority != 300 || exempt.Priority != 1298 {
		t.Errorf("priorities: deny %d, allow %d, exempt %d, want 1299, 300, 1298", deny.Priority, allow.Priority, exempt.Priority)
	}
	if !p.After.Shields || !p.After.Windows["g-aaaaaaaaaa"] || p.Before.Windows["g-aaaaaaaaaa"] || len(p.Problems) > 0 {
		t.Errorf("before %+v, after %+v, problems %v", p.Before, p.After, p.Problems)
	}
	again := nsg.NewPlan(input(roundTrip(p.Rules), w))
	if len(again.Changes) > 0 || !again.Before.Windows["g-aaaaaaaaaa"] || len(again.Altered)+len(again.Absent) > 0 {
		t.Errorf("a second plan changes %v, altered %v, absent %v", again.Changes, again.Altered, again.Absent)
	}
}

func TestBypassMovesTheDenyBeforeIt(t *testing.T) {
	rules := []azure.SecurityRule{foreign("ssh", 200, "Allow", "Tcp", "*", "*", "22"), foreign("bad", 150, "Deny", "*", "203.0.113.0/24", "*", "*")}
	w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22")},
		Windows: []enforce.Window{window("aaaaaaaaaa", "web-01", "10.0.0.4", "22", "203.0.113.7", time.Hour), window("bbbbbbbbbb", "web-01", "10.0.0.4", "22", "198.51.100.7", time.Hour)}}
	p := nsg.NewPlan(input(rules, w))
	t.Log("\n"+dump(p.Rules), p.Problems)
	if d := find(t, p.Rules, "curfew-deny-acme-tcp-22"); d.Priority != 199 {
		t.Errorf("deny at %d, want 199", d.Priority)
	}
	if !p.After.Shields || len(p.Problems) > 0 {
		t.Errorf("after %+v, problems %v", p.After, p.Problems)
	}
}

func TestConsentSetsAside(t *testing.T) {
	rules := []azure.SecurityRule{foreign("ssh", 100, "Allow", "*", "*", "*", "20-30")}
	w := enforce.Wanted{Shields: []enforce.Shield{shield("web-01", "10.0.0.4", "22")},
		Windows: []enforce.Window{window("aaaaaaaaaa", "web-01", "10.0.0.4", "22", "203.0.113.7", time.Hour)}}
	p := nsg.NewPlan(input(rules, w))
	if len(p.Problems) == 0 || p.Problems[0].Rule != "ssh" || p.Problems[0].Hint != "--replace-rule web-nsg/ssh" || p.After.Shields {
		t.Fatalf("problems %+v", p.Problems)
	}
	w.Consents = []string{"SSH"}
	p = nsg.NewPlan(input(rules, w))
	t.Log("\n"+dump(p.Rules), p.Problems)
	for _, c := range p.Changes {
		t.Log(c)
	}
	if len(p.Problems) > 0 || !p.After.Shields || len(p.Keep) != 1 || string(p.Keep[0].Original) != string(rules[0].Raw) {
		t.Fatalf("problems %+v, after %+v, keep %v", p.Problems, p.After, p.Keep)
	}
	w.Replaced = p.Keep
	stood := roundTrip(p.Rules)
	if again := nsg.NewPlan(input(stood, w)); len(again.Changes)+len(again.Keep) > 0 {
		t.Errorf("a second plan changes %v", again.Changes)
	}
	back := nsg.NewPlan(input(stood, enforce.Wanted{Restore: p.Keep}))
	if len(back.Rules) != 1 || string(back.Rules[0].Raw) != string(rules[0].Raw) || len(back.Problems) > 0 {
		t.Errorf("not restored:\n%s%v", dump(back.Rules), back.Problems)
	}
	stood[0].DestinationPorts = []string{"99"}
	back = nsg.NewPlan(input(stood, enforce.Wanted{Restore: p.Keep}))
	if len(back.Problems) != 1 || back.Problems[0].Rule != "ssh" || find(t, back.Rules, "ssh").DestinationPorts[0] != "99" {
		t.Errorf("a rule that somebody changed was put back:\n%s%v", dump(back.Rules), back.Problems)
	}
}

// crowd is 2,000 grants on one group: 40 machines, 50 sources, ten ends. DESIGN 5.
func crowd() enforce.Wanted {
	var w enforce.Wanted
	for m := range 40 {
		ip := fmt.Sprintf("10.0.1.%d", m+1)
		w.Shields = append(w.Shields, shield(fmt.Sprintf("vm-%02d", m), ip, "22"))
		for s := range 50 {
			w.Windows = append(w.Windows, window(fmt.Sprintf("%010d", m*50+s), fmt.Sprintf("vm-%02d", m), ip, "22", fmt.Sprintf("203.0.113.%d", s+1), time.Hour+time.Duration((m+s)%10)*7*time.Minute))
		}
	}
	return w
}

// More grants than priorities, among fifty rules of others.
func TestTwoThousandGrants(t *testing.T) {
	var rules []azure.SecurityRule
	for i := range 50 {
		rules = append(rules, foreign(fmt.Sprintf("theirs-%d", i), 200+i*7, []string{"Allow", "Deny"}[i%2], "Tcp", "10.9.0.0/16", "*", "8000-9000"))
	}
	w := crowd()
	p := nsg.NewPlan(input(rules, w))
	t.Logf("%d rules", len(p.Rules))
	if len(p.Problems) > 0 || len(p.Rules) > 1000 {
		t.Fatalf("%d rules, problems %v", len(p.Rules), p.Problems)
	}
	for g, ok := range p.After.Windows {
		if !ok {
			t.Errorf("%s does not stand", g)
		}
	}
	stood := roundTrip(p.Rules)
	if again := nsg.NewPlan(input(stood, w)); len(again.Changes) > 0 {
		t.Errorf("a second plan changes %d rules", len(again.Changes))
	}
	w.Windows = w.Windows[1:] // one is closed: its rule alone is written again
	if next := nsg.NewPlan(input(stood, w)); len(next.Changes) == 0 || len(next.Changes) > 2 || next.Before.Windows[w.Windows[0].Grant] != true {
		t.Errorf("closing one of 2,000 changes %d rules", len(next.Changes))
	}
}

func BenchmarkPlanTwoThousandGrants(b *testing.B) {
	w := crowd()
	in := input(nil, w)
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			nsg.NewPlan(in)
		}
	})
	in.Rules = roundTrip(nsg.NewPlan(in).Rules)
	b.Run("standing", func(b *testing.B) {
		for b.Loop() {
			nsg.NewPlan(in)
		}
	})
}

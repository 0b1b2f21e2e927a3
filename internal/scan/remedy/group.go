package remedy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Priorities of rules. FACTS 2.1.
const (
	leastPriority    = 100
	greatestPriority = 4096
)

// deny is a rule that is proposed.
type deny struct {
	nsg      *estate.NSG
	name     string
	priority int
	source   string // Internet or VirtualNetwork
	dests    []string
	ports    []string
	text     string // description, at most 140 characters
}

func (d deny) rule() netsec.Rule {
	return netsec.Rule{Name: d.name, Priority: d.priority, Inbound: true, Access: netsec.Deny, Protocol: "Tcp", Sources: []string{d.source}, Destinations: d.dests,
		SourcePorts: []string{"*"}, DestinationPorts: d.ports}
}

// window tells by a rule's name whether it may hold a grant or a request of Defender open. FACTS 1.4, DESIGN 5. Of a machine the evidence
// says which rules do.
func window(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"curfew-allow-", "microsoftdefenderforcloud-jitrule-", "securitycenter-jitrule-"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

func inbound(n *estate.NSG) []estate.NSGRule {
	var out []estate.NSGRule
	for _, r := range n.Rules {
		if r.Inbound {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b estate.NSGRule) int { return a.Priority - b.Priority })
	return out
}

// slot returns the greatest free priority before one, and the rules that it would stand before besides: those that fill the priorities
// between. It is 0 where none is free.
func slot(n *estate.NSG, before int, taken []deny) (int, []estate.NSGRule) {
	used := map[int]estate.NSGRule{}
	for _, r := range inbound(n) {
		used[r.Priority] = r
	}
	for _, d := range taken {
		if d.nsg == n {
			used[d.priority] = estate.NSGRule{Rule: d.rule()}
		}
	}
	var over []estate.NSGRule
	for p := min(before-1, greatestPriority); p >= leastPriority; p-- {
		r, ok := used[p]
		if !ok {
			return p, over
		}
		over = append(over, r)
	}
	return 0, nil
}

// freeName returns a name for a rule that the group does not hold yet, within what Azure takes as one. FACTS 2.1.
func freeName(n *estate.NSG, base string, taken []deny) string {
	base = strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.') {
			return r
		}
		return '_'
	}, base)
	base = strings.TrimRight(base[:min(len(base), 70)], "-.")
	for i := 1; ; i++ {
		name := base
		if i > 1 {
			name += "-" + strconv.Itoa(i)
		}
		if !slices.ContainsFunc(n.Rules, func(r estate.NSGRule) bool { return strings.EqualFold(r.Name, name) }) &&
			!slices.ContainsFunc(taken, func(d deny) bool { return d.nsg == n && strings.EqualFold(d.name, name) }) {
			return name
		}
	}
}

// shut is a way that must be shut, and from where.
type shut struct {
	way    estate.Way
	source string
	held   []string // names of the rules that hold live windows open, which must survive
}

func (s shut) holds(name string) bool {
	return slices.ContainsFunc(s.held, func(h string) bool { return strings.EqualFold(h, name) })
}

// spares tells whether who gets in by a rule is meant to: by a live window or, from the network, by an exemption of ours.
func (s shut) spares(r *netsec.RuleRef) bool {
	return r != nil && (s.holds(r.Name) || s.source == "VirtualNetwork" && strings.HasPrefix(strings.ToLower(r.Name), "curfew-exempt-"))
}

// open tells whether somebody still gets in on the way with more rules in its groups, live windows aside, and by which rules.
func (s shut) open(extra []deny) (bool, []*netsec.RuleRef) {
	path, changed := s.way.Path, false
	for _, c := range []**netsec.Compiled{&path.Subnet, &path.NIC} {
		if *c == nil {
			continue
		}
		var rules []netsec.Rule
		for _, d := range extra {
			if strings.EqualFold(d.nsg.ID, (*c).ID) {
				if rules == nil {
					for _, r := range d.nsg.Rules {
						rules = append(rules, r.Rule)
					}
				}
				rules = append(rules, d.rule())
			}
		}
		if rules != nil {
			*c, changed = (*c).With(rules), true
		}
	}
	reach := s.way.Reach
	if changed {
		reach = path.Reachable(s.way.Dest, netsec.TCP, netsec.Port(s.way.Port))
	}
	reach = reach.Except(func(p *netsec.PathPiece) bool {
		return slices.ContainsFunc(p.Hops, func(h netsec.Hop) bool {
			return s.spares(h.Rule)
		})
	})
	zone, still := reach.Internet, reach.Internet.Exposed()
	if s.source == "VirtualNetwork" {
		zone, still = reach.VirtualNetwork, reach.VirtualNetwork.Access() != netsec.Deny
	}
	var by []*netsec.RuleRef
	for _, p := range zone.Open {
		for _, h := range p.Hops {
			if p.Access == netsec.Allow && h.Rule != nil {
				by = append(by, h.Rule)
			}
		}
	}
	return still, by
}

// place looks for a deny in one group that shuts the way on top of those proposed already: as late as it can stand, so that narrower rules
// before it go on. It says what else would stand behind it.
func (p *plan) place(s shut, n *estate.NSG, have []deny) (deny, []estate.NSGRule, bool) {
	_, by := s.open(have)
	var before []int
	for _, r := range by {
		if strings.EqualFold(r.GroupID, n.ID) {
			before = append(before, r.Priority)
		}
	}
	slices.Sort(before)
	before = slices.Compact(before)
	slices.Reverse(before)
	d := deny{nsg: n, source: s.source, dests: []string{s.way.Dest.String()}, ports: []string{strconv.Itoa(int(s.way.Port))},
		text: "The Internet does not reach this port; the virtual network does."}
	if s.source == "VirtualNetwork" {
		d.text = "The virtual network reaches this port by a just-in-time request alone."
	}
	d.name = freeName(n, "deny-"+strings.ToLower(s.source)+"-tcp-"+d.ports[0]+"-"+p.f.Name, have)
	for _, b := range before {
		var over []estate.NSGRule
		if d.priority, over = slot(n, b, have); d.priority == 0 || slices.ContainsFunc(over, func(r estate.NSGRule) bool { return s.holds(r.Name) }) {
			continue
		}
		if still, _ := s.open(append(slices.Clone(have), d)); !still {
			return d, over, true
		}
	}
	return deny{}, nil, false
}

// shutAll proposes denies for every way, and says of each that none shuts what else to do.
func (p *plan) shutAll(ways []shut) {
	var denies []deny
	var stuck []shut
	behind := map[string]bool{}
	for _, s := range ways {
		if still, _ := s.open(denies); !still {
			continue // one deny shuts several ways to one address
		}
		done := false
		// The interface's own group first: it is less often shared. One of the two is enough, since both must let a packet in.
		for _, c := range []*netsec.Compiled{s.way.Path.NIC, s.way.Path.Subnet} {
			if c == nil || done {
				continue
			}
			n, ok := p.e.NSG(c.ID)
			if !ok {
				continue
			}
			var d deny
			var over []estate.NSGRule
			if d, over, done = p.place(s, n, denies); done {
				denies = append(denies, d)
				for _, r := range over {
					if r.Access == netsec.Allow {
						behind[r.Name] = true
					}
				}
			}
		}
		if !done {
			stuck = append(stuck, s)
		}
	}
	for _, d := range denies {
		p.sayf("Deny port %s of %s from %s in %s, at the free priority %d, before the rule that lets it in.", strings.Join(d.ports, ", "), strings.Join(d.dests, ", "), d.source, d.nsg.Name, d.priority)
		p.addDeny(d)
	}
	for _, name := range slices.Sorted(maps.Keys(behind)) {
		p.sayf("The rule %s stands behind it then, since no later priority is free; move it before the deny if somebody needs it.", name)
	}
	for _, s := range stuck {
		p.cannot(s)
	}
}

// cannot says what to do about a way that no deny in a group shuts.
func (p *plan) cannot(s shut) {
	if s.way.Path.NIC == nil && s.way.Path.Subnet == nil {
		p.sayf("No network security group stands in the way to %s.", s.way.Dest)
		p.noGroup()
		return
	}
	if s.way.Kind == estate.FirewallDNAT {
		name := s.way.Rule
		if name == "" {
			name = "that leads to " + s.way.Dest.String()
		}
		p.sayf("The NAT rule %s of an Azure Firewall (%s) leads to port %d: narrow its source addresses there, or remove it.", name, s.way.Via, s.way.Port)
		p.stepf("Open the firewall of %s, Rules, NAT rule collection, and narrow the source of the rule %s.", s.way.Via, name)
		return
	}
	_, by := s.open(nil)
	done := map[string]bool{}
	for _, r := range by {
		n, ok := p.e.NSG(r.GroupID)
		if !ok || r.Default {
			if !ok && !r.Default {
				p.sayf("The security admin rule %s lets it in before any group is asked: whoever runs the network manager must narrow it.", r.Name)
			}
			continue
		}
		i := slices.IndexFunc(n.Rules, func(x estate.NSGRule) bool { return strings.EqualFold(x.Name, r.Name) && x.Inbound })
		if i < 0 || s.holds(r.Name) || done[strings.ToLower(n.ID+"/"+r.Name)] || !wide(n.Rules[i]) {
			continue
		}
		done[strings.ToLower(n.ID+"/"+r.Name)] = true
		p.narrow(n, n.Rules[i])
	}
	if len(done) == 0 {
		p.sayf("No rule of a group that may be changed shuts port %d of %s: see the hops in the evidence.", s.way.Port, s.way.Dest)
	}
}

// wide tells whether a rule by itself lets in more than named addresses.
func wide(r estate.NSGRule) bool {
	return slices.ContainsFunc(r.Sources, func(s string) bool {
		x, ok := netsec.ParsePrefix(s)
		return !ok || x.Addr().Is4() && x.Bits() <= 8 || x.Addr().Is6() && x.Bits() <= 16
	})
}

// narrow proposes to lower the reach of a rule before which no priority is free.
func (p *plan) narrow(n *estate.NSG, r estate.NSGRule) {
	p.sayf("No priority is free before the rule %s (priority %d) of %s where a deny would help: narrow the sources of that rule to the addresses that need it, or remove it.", r.Name, r.Priority, n.Name)
	p.stepf("Open the network security group %s (resource group %s), Inbound security rules, %s, and set Source to the addresses that need it.", n.Name, n.Group, r.Name)
	if x, ok := refOf(n.ID); ok {
		p.mind(r.Name)
		p.needs = true
		p.shell("az network nsg rule update" + p.in(x) + opt("--nsg-name", x.name) + opt("--name", r.Name) + ` --source-address-prefixes "$NETWORK"`)
	}
}

// addDeny adds the ways to write a rule.
func (p *plan) addDeny(d deny) {
	x, ok := refOf(d.nsg.ID)
	if !ok {
		return
	}
	p.mind(d.dests...)
	words := func(values []string) string {
		var b strings.Builder
		for _, v := range values {
			b.WriteString(" " + sh(v))
		}
		return b.String()
	}
	p.shell("az network nsg rule create" + p.in(x) + opt("--nsg-name", x.name) + opt("--name", d.name) + " --priority " + strconv.Itoa(d.priority) +
		" --direction Inbound --access Deny --protocol Tcp --source-address-prefixes " + d.source + " --source-port-ranges '*' --destination-address-prefixes" + words(d.dests) +
		" --destination-port-ranges" + words(d.ports) + opt("--description", d.text))
	n := len(p.bicep) + 1
	pad := " "
	// "*" is no address: it goes in the singular field alone.
	bicepDest, hclDest := "destinationAddressPrefixes: "+list(bicep, d.dests), "destination_address_prefixes = "+list(hcl, d.dests)
	if slices.Equal(d.dests, []string{"*"}) {
		bicepDest, hclDest, pad = "destinationAddressPrefix: '*'", `destination_address_prefix  = "*"`, ""
	}
	p.bicep = append(p.bicep, fmt.Sprintf(`// az deployment group create --subscription %s --resource-group %s
resource group%d 'Microsoft.Network/networkSecurityGroups@2024-03-01' existing = {
  name: %s
}

resource deny%d 'Microsoft.Network/networkSecurityGroups/securityRules@2024-03-01' = {
  parent: group%d
  name: %s
  properties: {
    description: %s
    priority: %d
    direction: 'Inbound'
    access: 'Deny'
    protocol: 'Tcp'
    sourceAddressPrefix: '%s'
    sourcePortRange: '*'
    %s
    destinationPortRanges: %s
  }
}
`, plain(x.sub), plain(x.group), n, bicep(x.name), n, n, bicep(d.name), bicep(d.text), d.priority, d.source, bicepDest, list(bicep, d.ports)))
	p.hcl = append(p.hcl, fmt.Sprintf(strings.ReplaceAll(`# In subscription %s. A group whose rules stand in its own resource takes this as a security_rule block there.
resource "azurerm_network_security_rule" "deny%d" {
  name                        PAD= %s
  description                 PAD= %s
  resource_group_name         PAD= %s
  network_security_group_name PAD= %s
  priority                    PAD= %d
  direction                   PAD= "Inbound"
  access                      PAD= "Deny"
  protocol                    PAD= "Tcp"
  source_address_prefix       PAD= "%s"
  source_port_range           PAD= "*"
  %s
  destination_port_ranges     PAD= %s
}
`, "PAD", pad), plain(x.sub), n, hcl(d.name), hcl(d.text), hcl(x.group), hcl(x.name), d.priority, d.source, hclDest, list(hcl, d.ports)))
	p.stepf("Open the network security group %s (subscription %s, resource group %s), Inbound security rules, Add.", x.name, x.sub, x.group)
	p.stepf("Source: Service Tag, %s. Source port ranges: *. Destination: IP Addresses, %s. Destination port ranges: %s. Protocol: TCP. Action: Deny. Priority: %d. Name: %s.",
		d.source, strings.Join(d.dests, ","), strings.Join(d.ports, ","), d.priority, d.name)
}

// waysOf returns the ways to a port on which somebody gets in: from outside, or with a zone from the network too.
func (p *plan) waysOf(vm *estate.VM, e scan.PortEvidence, network bool) (out []shut) {
	var held []string
	for _, h := range e.Open {
		held = append(held, h.Rule)
	}
	for _, w := range p.e.Ways(vm, netsec.TCP, e.Port) {
		if !w.Dest.IsValid() {
			continue
		}
		if w.Kind != estate.VirtualNetwork {
			out = append(out, shut{w, "Internet", held})
		} else if network {
			out = append(out, shut{w, "VirtualNetwork", held})
		}
	}
	return out
}

func (p *plan) exposed() {
	vm, ok := p.machine()
	if !ok {
		return
	}
	var ways []shut
	for _, e := range p.f.Evidence.Ports {
		if e.Exposure == scan.ExposedInternet {
			ways = append(ways, p.waysOf(vm, e, false)...)
		}
	}
	p.shutAll(ways)
}

// ineffective shuts a protected port against those whom the deny of its protection does not keep out.
func (p *plan) ineffective() {
	vm, ok := p.machine()
	if !ok {
		return
	}
	var ways []shut
	network := false
	for _, e := range p.f.Evidence.Ports {
		if e.ProtectedBy == "" || e.Exposure == scan.ExposedNothing {
			continue
		}
		inside := e.Exposure != scan.ExposedInternet || slices.ContainsFunc(e.Ways, func(w scan.Way) bool { return w.Zone == "virtual_network" && w.Access == "allow" })
		network = network || inside
		ways = append(ways, p.waysOf(vm, e, inside)...)
	}
	p.shutAll(ways)
	if network {
		p.say("Who comes through Azure Bastion comes from the virtual network: add an allow for the range of AzureBastionSubnet before the deny, or let curfew protect do it.")
	}
}

// broadRules puts a deny before the first rule of a group that lets the Internet at a management port.
func (p *plan) broadRules() {
	var denies []deny
	byGroup := map[string][]scan.RuleEvidence{}
	var order []string
	for _, r := range p.f.Evidence.Rules {
		if k := strings.ToLower(r.NSG); byGroup[k] == nil {
			order = append(order, k)
		}
		byGroup[strings.ToLower(r.NSG)] = append(byGroup[strings.ToLower(r.NSG)], r)
	}
	for _, k := range order {
		n, ok := p.e.NSG(k)
		if !ok {
			continue
		}
		var rules []estate.NSGRule
		for _, ev := range byGroup[k] {
			for _, r := range n.Rules {
				if r.Inbound && r.Access == netsec.Allow && strings.EqualFold(r.Name, ev.Rule) {
					rules = append(rules, r)
				}
			}
		}
		if len(rules) == 0 {
			continue
		}
		// Where single rules are wide the narrow ones before them go on; where only all together are, the deny stands before the first.
		if slices.ContainsFunc(rules, wide) {
			rules = slices.DeleteFunc(rules, func(r estate.NSGRule) bool { return !wide(r) })
		}
		first := slices.MinFunc(rules, func(a, b estate.NSGRule) int { return a.Priority - b.Priority })
		d := deny{nsg: n, source: "Internet", dests: []string{"*"}, ports: managementPorts(rules), text: "The Internet does not reach management ports; the virtual network does."}
		d.name = freeName(n, "deny-internet-management", denies)
		var over []estate.NSGRule
		d.priority, over = slot(n, first.Priority, denies)
		if d.priority == 0 || slices.ContainsFunc(over, func(r estate.NSGRule) bool { return window(r.Name) }) {
			for _, r := range rules {
				p.narrow(n, r)
			}
			continue
		}
		denies = append(denies, d)
		ports := "port " + d.ports[0]
		if len(d.ports) > 1 {
			ports = "the ports " + strings.Join(d.ports, ", ")
		}
		p.sayf("Deny %s from the Internet in %s at the free priority %d, before the rule %s; or narrow that rule.", ports, n.Name, d.priority, first.Name)
		p.addDeny(d)
	}
}

// managementPorts returns which management ports the rules let somebody at; of rules that let at none of those that are known by default,
// what they say themselves.
func managementPorts(rules []estate.NSGRule) []string {
	var out, own []string
	for _, port := range []uint16{22, 3389, 5985, 5986} {
		for _, r := range rules {
			if slices.ContainsFunc(r.DestinationPorts, func(s string) bool { x, err := netsec.ParsePortRange(s); return err == nil && x.Contains(port) }) {
				out = append(out, strconv.Itoa(int(port)))
				break
			}
		}
	}
	for _, r := range rules {
		own = append(own, r.DestinationPorts...)
	}
	if len(out) == 0 {
		slices.Sort(own)
		return slices.Compact(own)
	}
	return out
}

// remove deletes rules of a limited time that have no owner any more.
func (p *plan) remove(why string) {
	for _, r := range p.f.Evidence.Rules {
		x, ok := refOf(r.NSG)
		if !ok {
			continue
		}
		p.sayf("Delete the rule %s of %s: %s.", r.Rule, x.name, why)
		if window(r.Rule) && !strings.HasPrefix(strings.ToLower(r.Rule), "curfew-") {
			p.choose("--remove-defender-rule " + sh(x.group+"/"+x.name+"/"+r.Rule))
		}
		p.mind(r.Rule)
		p.shell("az network nsg rule delete" + p.in(x) + opt("--nsg-name", x.name) + opt("--name", r.Rule))
		p.stepf("Open the network security group %s (subscription %s, resource group %s), Inbound security rules, and delete %s.", x.name, x.sub, x.group, r.Rule)
	}
}

// noGroup makes a group for each interface of a machine that has none in its way.
func (p *plan) noGroup() {
	vm, ok := p.machine()
	if !ok || p.grouped {
		return
	}
	p.grouped = true
	p.say("Make a network security group and attach it to the network interface. Without rules of its own it lets in the virtual network and load-balancer probes alone: add what the machine serves to the Internet first.")
	p.curfew = "curfew protect " + sh(vm.ID) + " --create-nsg"
	done := map[string]bool{}
	made := false
	x := ref{vm.Subscription, vm.Group, vm.Name + "-nsg"}
	id := func() string {
		return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Network/networkSecurityGroups/%s", x.sub, x.group, x.name)
	}
	for i := 2; ; i++ {
		if _, taken := p.e.NSG(id()); !taken {
			break
		}
		x.name = fmt.Sprintf("%s-nsg-%d", vm.Name, i)
	}
	for _, ep := range vm.Endpoints {
		n, ok := refOf(ep.NIC)
		if ep.SubnetNSG != "" || ep.NICNSG != "" || done[strings.ToLower(ep.NIC)] || !ok {
			continue
		}
		done[strings.ToLower(ep.NIC)] = true
		if !made {
			made = true
			p.mind(vm.Location)
			p.shell("az network nsg create" + p.in(x) + opt("--name", x.name) + opt("--location", vm.Location))
			p.bicep = append(p.bicep, fmt.Sprintf(`// az deployment group create --subscription %s --resource-group %s
// Then set in the resource of each network interface: networkSecurityGroup: { id: group.id }
resource group 'Microsoft.Network/networkSecurityGroups@2024-03-01' = {
  name: %s
  location: %s
}
`, plain(x.sub), plain(x.group), bicep(x.name), bicep(vm.Location)))
			p.hcl = append(p.hcl, fmt.Sprintf(`# In subscription %s.
resource "azurerm_network_security_group" "group" {
  name                = %s
  resource_group_name = %s
  location            = %s
}
`, plain(x.sub), hcl(x.name), hcl(x.group), hcl(vm.Location)))
			p.stepf("Create a network security group %s in subscription %s, resource group %s, region %s.", x.name, x.sub, x.group, vm.Location)
		}
		p.shell("az network nic update" + p.in(n) + opt("--name", n.name) + opt("--network-security-group", id()))
		p.hcl = append(p.hcl, fmt.Sprintf(`resource "azurerm_network_interface_security_group_association" "nic%d" {
  network_interface_id      = %s
  network_security_group_id = azurerm_network_security_group.group.id
}
`, len(done), hcl(ep.NIC)))
		p.stepf("Open its Network interfaces, Associate, and choose %s.", n.name)
	}
}

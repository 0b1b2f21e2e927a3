package standalone

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// What stands in Azure is as much a part of the state here as the undo file is: a machine that was protected by another run, without
// an undo file or with another one, must not lose its denies because this run knows nothing of it. A back end removes what is ours
// and not wanted, so that everything of this installation that a run was not asked about is put among what is wanted as it stands.

var (
	denyForm   = regexp.MustCompile(`(?i)^curfew-deny-[a-z0-9]+-(tcp|udp)-([0-9]+(?:-[0-9]+)?)(?:-n[0-9]+)?$`)
	exemptForm = regexp.MustCompile(`(?i)^curfew-exempt-[a-z0-9]+-([a-z0-9-]+?)-(tcp|udp)-([0-9]+(?:-[0-9]+)?)(?:-n[0-9]+)?$`)
	restForm   = regexp.MustCompile(`(?i)^curfew-exempt-[a-z0-9]+-rest-`)
	restOf     = regexp.MustCompile(` of rule (.+?)(?: #[0-9a-f]{8})?$`) // in the description of such a rule, perhaps cut off
)

// unrecorded marks, in the name alone, a rule that goes on for what a replaced rule of somebody else's still allows, where this run
// does not have the original: the back end then takes it for a foreign rule and sends it back byte for byte.
const unrecorded = "unrecorded-"

// client is Azure as the back end sees it. It remembers what was read last of each group.
type client struct {
	*azure.Client
	installation string
	record       *record

	mu   sync.Mutex
	last map[string]azure.NSG
}

var _ nsg.Client = (*client)(nil)

// NSG implements nsg.Client.
func (c *client) NSG(ctx context.Context, id string) (azure.NSG, error) {
	n, err := c.Client.NSG(ctx, id)
	if err == nil {
		n = c.took(id, n)
	}
	return n, err
}

// PutNSG implements nsg.Client. Rules go out as their Raw says, so that a name that took has changed is the old one again.
func (c *client) PutNSG(ctx context.Context, n azure.NSG, guard func() error) (azure.NSG, error) {
	out, err := c.Client.PutNSG(ctx, n, guard)
	if err == nil {
		out = c.took(n.ID, out)
	}
	return out, err
}

func (c *client) took(id string, n azure.NSG) azure.NSG {
	rules := slices.Clone(n.Rules)
	for i, r := range rules {
		if h, ok := nsg.Parse(r.Name); ok && h.Installation == c.installation && restForm.MatchString(r.Name) && !c.recorded(id, r) {
			rules[i].Name = unrecorded + r.Name
		}
	}
	n = n.WithRules(rules)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[key(id)] = n
	return n
}

func (c *client) seen(id string) azure.NSG {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[key(id)]
}

// recorded tells whether a record holds the original of the rule whose remainder this is.
func (c *client) recorded(place string, rest azure.SecurityRule) bool {
	for _, p := range c.record.at(place) {
		for _, rep := range p.Replaced {
			if key(rep.NSG) == key(place) && remainsOf(rest, rep.Rule) {
				return true
			}
		}
	}
	return false
}

// remainsOf tells whether a rule goes on for a part of another that was replaced. Its description names that one, as far as there
// was room; where somebody changed it, it may be any.
func remainsOf(rest azure.SecurityRule, rule string) bool {
	m := restOf.FindStringSubmatch(rest.Description)
	return m == nil || strings.HasPrefix(strings.ToLower(rule), strings.ToLower(m[1]))
}

// standing is one address with a port that a deny of ours shuts at a place.
type standing struct {
	addr   netip.Addr
	ports  access.Ports
	proto  access.Protocol
	exempt []access.Exemption
}

// standingAt reads what of an installation's stands in a list of rules.
func standingAt(installation string, rules []azure.SecurityRule) []standing {
	var out []standing
	for _, r := range rules {
		m := denyForm.FindStringSubmatch(r.Name)
		if h, ok := nsg.Parse(r.Name); !ok || h.Installation != installation || m == nil || !r.Inbound() || !strings.EqualFold(r.Access, "Deny") {
			continue
		}
		ports, err := access.ParsePorts(m[2])
		if err != nil {
			continue
		}
		proto := access.Protocol(strings.ToLower(m[1]))
		for _, text := range r.DestinationPrefixes {
			if p, ok := netsec.ParsePrefix(text); ok && p.IsSingleIP() {
				out = append(out, standing{addr: p.Addr(), ports: ports, proto: proto, exempt: exemptions(installation, rules, p.Addr(), ports, proto)})
			}
		}
	}
	return out
}

func exemptions(installation string, rules []azure.SecurityRule, addr netip.Addr, ports access.Ports, proto access.Protocol) []access.Exemption {
	var out []access.Exemption
	for _, r := range rules {
		m := exemptForm.FindStringSubmatch(r.Name)
		if h, ok := nsg.Parse(r.Name); !ok || h.Installation != installation || m == nil || restForm.MatchString(r.Name) || !strings.EqualFold(r.Access, "Allow") {
			continue
		}
		p, err := access.ParsePorts(m[3])
		if err != nil || p != ports || access.Protocol(strings.ToLower(m[2])) != proto || len(r.SourcePrefixes) != 1 ||
			!slices.ContainsFunc(r.DestinationPrefixes, func(t string) bool { d, ok := netsec.ParsePrefix(t); return ok && d.IsSingleIP() && d.Addr() == addr }) {
			continue
		}
		name := strings.ToLower(m[1])
		if strings.HasPrefix(name, "x-rest-") { // what the back end made of a name that looks like a remainder's
			name = name[2:]
		}
		e := access.Exemption{Name: name, Source: r.SourcePrefixes[0]}
		if src, err := access.ParseSource(e.Source); err == nil {
			e.Source = src.String()
		} else if !strings.EqualFold(e.Source, "AzureLoadBalancer") {
			continue // somebody changed it: it is not carried on
		}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// reconstruct makes of what stands for a machine, in the groups of a snapshot, the protection that it came from; false if nothing does.
func reconstruct(installation string, s *inventory.Snapshot, m inventory.Machine) (access.Protection, bool) {
	p := access.Protection{VM: access.VM{ID: m.ID, Name: m.Name, VMID: m.VMID}, State: access.ProtectionOn, By: "an earlier run"}
	var all []standing
	for _, id := range m.NSGs() {
		n, ok := s.NSG(id)
		if !ok {
			continue
		}
		stands := false
		for _, st := range standingAt(installation, n.Rules) {
			if !slices.Contains(m.Destinations(id, st.ports, st.proto), st.addr) {
				continue
			}
			stands = true
			all = append(all, st)
			i := slices.IndexFunc(p.Ports, func(q access.ProtectedPort) bool { return q.Ports == st.ports && q.Protocol == st.proto })
			if i < 0 {
				i = len(p.Ports)
				p.Ports = append(p.Ports, access.ProtectedPort{Ports: st.ports, Protocol: st.proto})
			}
			q := &p.Ports[i]
			if j := slices.IndexFunc(q.Places, func(pl access.Place) bool { return key(pl.ID) == key(id) }); j >= 0 {
				q.Places[j].Addresses = append(q.Places[j].Addresses, st.addr)
			} else {
				q.Places = append(q.Places, access.Place{ID: id, Addresses: []netip.Addr{st.addr}})
			}
		}
		if stands {
			p.Places = append(p.Places, access.Place{ID: id})
		}
	}
	// An exemption belongs to the machine: one that does not stand for all of it is not taken over, which would widen it.
	for _, st := range all {
		for _, e := range st.exempt {
			if !slices.Contains(p.Exemptions, e) && !slices.ContainsFunc(all, func(o standing) bool { return concerns(e, o.addr) && !slices.Contains(o.exempt, e) }) {
				p.Exemptions = append(p.Exemptions, e)
			}
		}
	}
	return p, len(p.Ports) > 0
}

// concerns tells whether an exemption can stand for an address: its source is of the same family.
func concerns(e access.Exemption, addr netip.Addr) bool {
	src, err := access.ParseSource(e.Source)
	return err != nil || src.Addr().Is4() == addr.Is4()
}

// adopted are the shields of a place that stand and that no record accounts for.
func adopted(installation string, s *inventory.Snapshot, n azure.NSG, known map[netip.Addr]bool) []enforce.Shield {
	var out []enforce.Shield
	for _, st := range standingAt(installation, n.Rules) {
		if known[st.addr] {
			continue
		}
		sh := enforce.Shield{Destinations: []netip.Addr{st.addr}, Ports: st.ports, Protocol: st.proto, Exemptions: st.exempt,
			VM: access.VM{ID: "address " + st.addr.String()}} // until a machine is found that has it
		if s != nil {
			for _, m := range s.Machines() {
				if slices.Contains(m.Destinations(n.ID, st.ports, st.proto), st.addr) {
					sh.VM = access.VM{ID: m.ID, Name: m.Name, VMID: m.VMID}
					break
				}
			}
		}
		out = append(out, sh)
	}
	return out
}

// open is an allow rule of this installation that is not past its end: a server that writes under the same name made it.
type open struct {
	place, rule string
	grant       access.GrantID
	end         time.Time
	vms         []string // keys of the machines of whom alone it speaks; nil: it speaks of others too
}

// openAt returns what of an installation's is open at a place. mine are the addresses there of the machines that are asked about, by
// machine key.
func openAt(installation string, n azure.NSG, now time.Time, mine map[string][]netip.Addr) []open {
	var out []open
	for _, r := range n.Rules {
		h, ok := nsg.Parse(r.Name)
		if !ok || h.Installation != installation || h.Kind != enforce.KindAllow || !now.Before(h.End) {
			continue
		}
		o := open{place: n.ID, rule: r.Name, grant: h.Grant, end: h.End}
		for _, text := range r.DestinationPrefixes {
			p, ok := netsec.ParsePrefix(text)
			vm := ""
			for k, addrs := range mine {
				if ok && p.IsSingleIP() && slices.Contains(addrs, p.Addr()) {
					vm = k
				}
			}
			if vm == "" {
				o.vms = nil
				break
			}
			if !slices.Contains(o.vms, vm) {
				o.vms = append(o.vms, vm)
			}
		}
		if len(r.DestinationASGs) > 0 {
			o.vms = nil
		}
		out = append(out, o)
	}
	return out
}

func (o open) String() string {
	return fmt.Sprintf("%s/%s, until %s", lastPart(o.place), o.rule, access.Clock(o.end))
}

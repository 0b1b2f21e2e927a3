package estate

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Estate is what was read, joined. It is immutable and safe for concurrent use; nothing that its methods return may be changed.
type Estate struct {
	b      *Builder
	gaps   []Gap
	counts Counts

	vms      []*VM
	byVM     map[key]*VM
	sets     []*ScaleSet
	nsgs     []*NSG
	byNSG    map[key]*NSG
	policies []*JITPolicy
	byAddr   map[netip.Addr][]*VM

	subnets  map[key]*rawSubnet
	members  map[key][]netip.Addr // of application security groups, sorted
	balancer balancing
	forwards forwards
	bastions map[key][]netip.Prefix // ranges of Bastion hosts, by network
	gateways map[key][]netip.Prefix // ranges behind gateways, by network

	paths map[pathKey]*path
	mu    sync.Mutex
	envs  map[envKey]*env
	comps map[compKey]*compiled
}

// Counts says how much was read.
type Counts struct {
	Resources     int            // bodies, of every type
	Subscriptions int            // that these name
	Others        map[string]int // bodies of types that decide nothing, by type in lower case
}

// Counts returns how much was read.
func (e *Estate) Counts() Counts { return e.counts }

// VMs returns the virtual machines in order of their ids, without regard to case.
func (e *Estate) VMs() []*VM { return e.vms }

// ScaleSets returns the scale sets in order of their ids.
func (e *Estate) ScaleSets() []*ScaleSet { return e.sets }

// NSGs returns the network security groups in order of their ids.
func (e *Estate) NSGs() []*NSG { return e.nsgs }

// Policies returns the just-in-time policies in order of their ids.
func (e *Estate) Policies() []*JITPolicy { return e.policies }

// VM returns the machine of an id in whatever case.
func (e *Estate) VM(id string) (*VM, bool) {
	v, ok := e.byVM[e.b.ids.look(id)]
	return v, ok
}

// NSG returns the network security group of an id in whatever case.
func (e *Estate) NSG(id string) (*NSG, bool) {
	n, ok := e.byNSG[e.b.ids.look(id)]
	return n, ok
}

// Gaps returns what could not be read, in a fixed order.
func (e *Estate) Gaps() []Gap { return e.gaps }

// Hidden tells whether resources of a type (in whatever case) could not be read in a subscription, and by which gap. Gaps that are
// about one resource alone do not count.
func (e *Estate) Hidden(subscription, fullType string) (Gap, bool) {
	for _, g := range e.gaps {
		if g.Resource == "" && (g.Subscription == "" || strings.EqualFold(g.Subscription, subscription)) && (g.Type == "" || strings.EqualFold(g.Type, fullType)) {
			return g, true
		}
	}
	return Gap{}, false
}

// Incomplete is Hidden, and counts gaps about one resource too: where whoever is not named may be meant.
func (e *Estate) Incomplete(subscription, fullType string) (Gap, bool) {
	if g, hidden := e.Hidden(subscription, fullType); hidden {
		return g, true
	}
	for _, g := range e.gaps {
		if g.Resource != "" && strings.EqualFold(g.Type, fullType) && strings.EqualFold(g.Subscription, subscription) {
			g.Reason = g.Resource + ": " + g.Reason
			return g, true
		}
	}
	return Gap{}, false
}

// Unread is what there is to say, after a colon, of a resource that could not be read by itself; "" where there is nothing.
func (e *Estate) Unread(id string) string {
	if x, ok := e.b.spoilt[e.b.ids.look(id)]; ok && x.kind != kindAdmin {
		return ": " + x.why
	}
	return ""
}

// hides tells whether a resource of a type could not be read, by itself or with its kind.
func (e *Estate) hides(id, typ string) bool {
	if len(e.gaps) == 0 {
		return false
	}
	for _, g := range e.gaps {
		if g.Resource == "" || g.Type != "" && g.Type != typ {
			continue
		}
		if len(id) >= len(g.Resource) && strings.EqualFold(id[:len(g.Resource)], g.Resource) && (len(id) == len(g.Resource) || id[len(g.Resource)] == '/') {
			return true
		}
	}
	_, hidden := e.Hidden(metaOf(id).Subscription, typ)
	return hidden
}

// Owners returns the machines that have a private address behind a group; with group "" wherever it is. The same address may exist
// in networks that do not know of one another.
func (e *Estate) Owners(addr netip.Addr, nsgID string) []*VM {
	group := e.b.ids.look(nsgID)
	if nsgID != "" && group == 0 {
		return nil
	}
	var out []*VM
	for _, v := range e.byAddr[addr.Unmap()] {
		if slices.ContainsFunc(v.Endpoints, func(p Endpoint) bool {
			return slices.Contains(p.Addrs, addr.Unmap()) && (nsgID == "" || p.in.path.subnetNSG == group || p.in.path.nicNSG == group)
		}) {
			out = append(out, v)
		}
	}
	return out
}

func (e *Estate) id(k key) string { return e.b.ids.text(k) }

// Bastions returns the ranges from which Bastion hosts reach a machine: subnets called AzureBastionSubnet, and those that a host stands
// in, of its networks and of connected peers. FACTS 2.6.
func (e *Estate) Bastions(vm *VM) []netip.Prefix {
	var out []netip.Prefix
	seen := map[key]bool{}
	visit := func(k key) {
		v := e.b.vnets.get(k)
		if v == nil || seen[k] {
			return
		}
		seen[k] = true
		out = append(out, e.bastions[k]...)
	}
	for i := range vm.Endpoints {
		if p := vm.Endpoints[i].in.path; p != nil {
			visit(p.vnet)
			if v := e.b.vnets.get(p.vnet); v != nil {
				for _, r := range v.peers {
					if r.connected && !r.noAccess {
						visit(r.remote)
					}
				}
			}
		}
	}
	sortPrefixes(out)
	return slices.Compact(out)
}

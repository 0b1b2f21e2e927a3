package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/azure"
)

// Reader is what is read of Azure; azure.Client is one.
type Reader interface {
	Subscriptions(ctx context.Context) ([]azure.Subscription, error)
	Graph(ctx context.Context, subscriptions []string, query string) iter.Seq2[json.RawMessage, error]
	ListVMs(ctx context.Context, subscription string) ([]azure.VM, error)
	ListNICs(ctx context.Context, subscription string) ([]azure.NIC, error)
	ListVNets(ctx context.Context, subscription string) ([]azure.VNet, error)
	ListPublicIPs(ctx context.Context, subscription string) ([]azure.PublicIP, error)
	ListLoadBalancers(ctx context.Context, subscription string) ([]azure.LoadBalancer, error)
	ListNSGs(ctx context.Context, subscription string) ([]azure.NSG, error)
	ListBastions(ctx context.Context, subscription string) ([]azure.Bastion, error)
	VM(ctx context.Context, id string) (azure.VM, error)
	NIC(ctx context.Context, id string) (azure.NIC, error)
	VNet(ctx context.Context, id string) (azure.VNet, error)
	PublicIP(ctx context.Context, id string) (azure.PublicIP, error)
	LoadBalancer(ctx context.Context, id string) (azure.LoadBalancer, error)
	NSG(ctx context.Context, id string) (azure.NSG, error)
	AdminRules(ctx context.Context, vnetID string) ([]azure.AdminRule, error)
}

var _ Reader = (*azure.Client)(nil)

// CollectOptions says what to read.
type CollectOptions struct {
	Subscriptions []string // ids; none is every enabled one that the identity sees
	ViaARM        bool     // read from the resource providers and not from Resource Graph: slower, and up to date
	Now           time.Time
}

// types maps Resource Graph's types to the kinds of resources.
var types = map[string]string{
	"microsoft.compute/virtualmachines":         kindVM,
	"microsoft.network/networkinterfaces":       kindNIC,
	"microsoft.network/virtualnetworks":         kindVNet,
	"microsoft.network/publicipaddresses":       kindPIP,
	"microsoft.network/loadbalancers":           kindLB,
	"microsoft.network/networksecuritygroups":   kindNSG,
	"microsoft.network/bastionhosts":            kindBastion,
	"microsoft.compute/virtualmachinescalesets": kindSet,
	"microsoft.network/virtualnetworkgateways":  kindGateway,
	"microsoft.network/localnetworkgateways":    kindLocal,
	"microsoft.network/connections":             kindConnection,
}

// Query is the Resource Graph query of Collect. It projects id and orders by it, without which Azure gives no second page.
// FACTS 3.
const Query = `resources
| where type in~ ('microsoft.compute/virtualmachines', 'microsoft.network/networkinterfaces', 'microsoft.network/virtualnetworks', 'microsoft.network/publicipaddresses', 'microsoft.network/loadbalancers', 'microsoft.network/networksecuritygroups', 'microsoft.network/bastionhosts', 'microsoft.compute/virtualmachinescalesets', 'microsoft.network/virtualnetworkgateways', 'microsoft.network/localnetworkgateways', 'microsoft.network/connections')
| project id, name, type, location, tags, managedBy, sku, properties
| order by id asc`

const parallel = 8 // calls in flight of one collection

// Collect reads everything: by Resource Graph, and by lists of the resource providers when that fails or ViaARM is set. A
// source that could not be read is recorded in the snapshot's Problems, and Collect fails only when no machine could be read at
// all. Groups of a Resource Graph snapshot have rules and neither etag nor body: they cannot be written.
func Collect(ctx context.Context, r Reader, o CollectOptions) (*Snapshot, error) {
	subs := o.Subscriptions
	if len(subs) == 0 {
		all, err := r.Subscriptions(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if s.State == "" || strings.EqualFold(s.State, "Enabled") || strings.EqualFold(s.State, "Warned") ||
				strings.EqualFold(s.State, "PastDue") {
				subs = append(subs, s.SubscriptionID)
			}
		}
		if len(subs) == 0 {
			return nil, &azure.Error{Op: "list subscriptions", Class: azure.NotFound, Message: "the identity sees no enabled subscription"}
		}
	}
	raw := newResources()
	var problems []Problem
	if !o.ViaARM {
		if err := fromGraph(ctx, r, subs, &raw); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			problems = append(problems, Problem{"Resource Graph (resource providers were asked instead)", err})
			o.ViaARM, raw = true, newResources()
		}
	}
	if o.ViaARM {
		failed := fromARM(ctx, r, subs, &raw)
		problems = append(problems, failed...)
		read := false
		for _, s := range subs {
			read = read || raw.read[whole(s, kindVM)]
		}
		if !read {
			return nil, fmt.Errorf("reading machines: %w", problems[len(problems)-1].Err)
		}
	}
	problems = append(problems, adminRules(ctx, r, &raw)...)
	return newSnapshot(raw, o.Now, problems, nil), nil
}

func fromGraph(ctx context.Context, r Reader, subs []string, raw *resources) error {
	for row, err := range r.Graph(ctx, subs, Query) {
		if err != nil {
			return err
		}
		if err := raw.addRow(row); err != nil {
			return fmt.Errorf("a row of Resource Graph: %w", err)
		}
	}
	raw.gates.read = true
	for _, s := range subs {
		for _, k := range kinds {
			raw.read[whole(s, k)] = true
		}
	}
	return nil
}

func (raw *resources) addRow(row json.RawMessage) error {
	var head struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}
	if err := json.Unmarshal(row, &head); err != nil {
		return err
	}
	if head.ID == "" {
		return errors.New("it has no id")
	}
	switch kind := types[strings.ToLower(head.Type)]; kind {
	case kindGateway, kindLocal, kindConnection:
		return raw.gates.add(kind, head.ID, row)
	case kindVM:
		return put(raw.vms, head.ID, row)
	case kindNIC:
		return put(raw.nics, head.ID, row)
	case kindVNet:
		return put(raw.vnets, head.ID, row)
	case kindPIP:
		return put(raw.pips, head.ID, row)
	case kindLB:
		return put(raw.lbs, head.ID, row)
	case kindBastion:
		return put(raw.bastions, head.ID, row)
	case kindSet:
		raw.sets[azure.Key(head.ID)] = head.ID
	case kindNSG:
		var n azure.NSG
		if err := n.UnmarshalJSON(row); err != nil { // by way of json.Unmarshal it would go over the text twice more
			return err
		}
		n.Etag, n.Raw = "", nil // a cache's row must not be written back
		for i := range n.Rules {
			n.Rules[i].Raw = nil
		}
		raw.nsgs[azure.Key(n.ID)] = n
	}
	return nil
}

func put[T any](m map[string]*T, id string, row []byte) error {
	v := new(T)
	if err := json.Unmarshal(row, v); err != nil {
		return err
	}
	m[azure.Key(id)] = v
	return nil
}

func fromARM(ctx context.Context, r Reader, subs []string, raw *resources) []Problem {
	var mu sync.Mutex
	var problems []Problem
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, s := range subs {
		source := func(kind string, read func() error) {
			g.Go(func() error {
				err := read()
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					problems = append(problems, Problem{kind + " of subscription " + s, err})
				} else {
					raw.read[whole(s, kind)] = true
				}
				return nil
			})
		}
		source(kindVM, func() error { return gather(ctx, &mu, r.ListVMs, s, raw.vms, func(v *azure.VM) string { return v.ID }) })
		source(kindNIC, func() error {
			return gather(ctx, &mu, r.ListNICs, s, raw.nics, func(v *azure.NIC) string { return v.ID })
		})
		source(kindVNet, func() error {
			return gather(ctx, &mu, r.ListVNets, s, raw.vnets, func(v *azure.VNet) string { return v.ID })
		})
		source(kindPIP, func() error {
			return gather(ctx, &mu, r.ListPublicIPs, s, raw.pips, func(v *azure.PublicIP) string { return v.ID })
		})
		source(kindLB, func() error {
			return gather(ctx, &mu, r.ListLoadBalancers, s, raw.lbs, func(v *azure.LoadBalancer) string { return v.ID })
		})
		source(kindBastion, func() error {
			return gather(ctx, &mu, r.ListBastions, s, raw.bastions, func(v *azure.Bastion) string { return v.ID })
		})
		source(kindNSG, func() error {
			list, err := r.ListNSGs(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			for _, n := range list {
				raw.nsgs[azure.Key(n.ID)] = n
			}
			return err
		})
	}
	_ = g.Wait() // no function returns an error: each is recorded
	return append(problems, raw.unreadGateways()...)
}

func gather[T any](ctx context.Context, mu *sync.Mutex, list func(context.Context, string) ([]T, error), s string, into map[string]*T, id func(*T) string) error {
	all, err := list(ctx, s)
	if err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range all {
		into[azure.Key(id(&all[i]))] = &all[i]
	}
	return nil
}

// adminRules reads the security admin rules of every network that a machine is in.
func adminRules(ctx context.Context, r Reader, raw *resources) []Problem {
	needed := map[string]string{}
	for _, vm := range raw.vms {
		for _, ref := range vm.Properties.NetworkProfile.NetworkInterfaces {
			if nic := raw.nics[azure.Key(ref.ID)]; nic != nil {
				for _, c := range nic.Properties.IPConfigurations {
					if c.Properties.Subnet != nil {
						id := azure.ParentID(c.Properties.Subnet.ID)
						needed[azure.Key(id)] = id
					}
				}
			}
		}
	}
	var mu sync.Mutex
	var problems []Problem
	var g errgroup.Group
	g.SetLimit(parallel)
	for key, id := range needed {
		g.Go(func() error {
			rules, err := r.AdminRules(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems = append(problems, Problem{"security admin rules of virtual network " + id, err})
			} else {
				raw.admin[key] = rules
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error: each is recorded
	return problems
}

// Confirm reads one machine from the resource providers themselves, before something is changed: the machine, its interfaces,
// their networks with admin rules, the groups in the path, public addresses and the load balancers that the interfaces name. It
// takes four round trips. Members of application security groups, Bastion hosts, and load balancers that name the machine's
// address alone, come from base, which may be nil.
//
// A machine that is gone is an error of class azure.NotFound, and nothing else is. What belongs to the path and could not be read is an
// error: a plan is not made from half of it. What decides less (a public address, a balancer) is recorded in Problems.
func Confirm(ctx context.Context, r Reader, vmID string, base *Snapshot, now time.Time) (*Snapshot, error) {
	r = togetherOf(ctx, r)
	raw := newResources()
	vm, err := r.VM(ctx, vmID)
	if err != nil {
		return nil, err
	}
	raw.vms[azure.Key(vm.ID)] = &vm
	c := confirmation{raw: &raw}

	c.begin(ctx)
	for _, ref := range vm.Properties.NetworkProfile.NetworkInterfaces {
		fetch(&c, r.NIC, ref.ID, true, "network interface", func(v azure.NIC) { raw.nics[azure.Key(v.ID)] = &v })
	}
	if err := c.end(); err != nil {
		return nil, err
	}

	vnets, nsgs, pips, lbs := set{}, set{}, set{}, set{}
	for _, nic := range raw.nics {
		if g := nic.Properties.NetworkSecurityGroup; g != nil {
			nsgs.add(g.ID)
		}
		for _, ip := range nic.Properties.IPConfigurations {
			p := ip.Properties
			if p.Subnet != nil {
				vnets.add(azure.ParentID(p.Subnet.ID))
			}
			if p.PublicIPAddress != nil {
				pips.add(p.PublicIPAddress.ID)
			}
			for _, ref := range append(append([]azure.SubResource{}, p.LoadBalancerBackendAddressPools...), p.LoadBalancerInboundNatRules...) {
				if lb := azure.ParentID(ref.ID); strings.Contains(strings.ToLower(lb), "/loadbalancers/") {
					lbs.add(lb)
				}
			}
		}
	}
	if base != nil {
		for _, lb := range base.balancersOf(vmID) {
			lbs.add(lb)
		}
	}
	c.begin(ctx)
	for _, id := range vnets {
		fetch(&c, r.VNet, id, true, "virtual network", func(v azure.VNet) { raw.vnets[azure.Key(v.ID)] = &v })
		fetch(&c, r.AdminRules, id, false, "security admin rules of virtual network", func(v []azure.AdminRule) { raw.admin[azure.Key(id)] = v })
	}
	readNSG := func(id string) {
		fetch(&c, r.NSG, id, true, "network security group", func(v azure.NSG) { raw.nsgs[azure.Key(v.ID)] = v })
	}
	readPIP := func(id string) {
		fetch(&c, r.PublicIP, id, false, "public address", func(v azure.PublicIP) { raw.pips[azure.Key(v.ID)] = &v })
	}
	for _, id := range nsgs {
		readNSG(id)
	}
	for _, id := range pips {
		readPIP(id)
	}
	for _, id := range lbs {
		fetch(&c, r.LoadBalancer, id, false, "load balancer", func(v azure.LoadBalancer) { raw.lbs[azure.Key(v.ID)] = &v })
	}
	if err := c.end(); err != nil {
		return nil, err
	}

	c.begin(ctx)
	used := set{}
	for _, nic := range raw.nics {
		for _, ip := range nic.Properties.IPConfigurations {
			if ip.Properties.Subnet != nil {
				used.add(ip.Properties.Subnet.ID)
			}
		}
	}
	for _, v := range raw.vnets {
		for _, sn := range v.Properties.Subnets {
			if g := sn.Properties.NetworkSecurityGroup; g != nil && used.has(sn.ID) && !nsgs.has(g.ID) {
				nsgs.add(g.ID)
				readNSG(g.ID)
			}
		}
		for _, p := range v.Properties.Peerings {
			if remote := p.Properties.RemoteVirtualNetwork; remote != nil && !vnets.has(remote.ID) && (base == nil || base.vnet(remote.ID) == nil) {
				vnets.add(remote.ID)
				fetch(&c, r.VNet, remote.ID, false, "peered virtual network", func(v azure.VNet) { c.peers = append(c.peers, &v) })
			}
		}
	}
	for _, lb := range raw.lbs {
		for _, f := range lb.Properties.FrontendIPConfigurations {
			if p := f.Properties.PublicIPAddress; p != nil && !pips.has(p.ID) {
				pips.add(p.ID)
				readPIP(p.ID)
			}
		}
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	for _, v := range c.peers {
		raw.vnets[azure.Key(v.ID)] = v
	}
	return newSnapshot(raw, now, c.problems, base), nil
}

// confirmation reads a round of resources at once.
type confirmation struct {
	raw      *resources
	peers    []*azure.VNet
	problems []Problem
	mu       sync.Mutex
	g        *errgroup.Group
	ctx      context.Context
}

func (c *confirmation) begin(ctx context.Context) {
	c.g, c.ctx = errgroup.WithContext(ctx)
	c.g.SetLimit(parallel)
}

func (c *confirmation) end() error { return c.g.Wait() }

// fetch reads one resource in this round. One that is needed fails the whole; another is recorded as a problem.
func fetch[T any](c *confirmation, read func(context.Context, string) (T, error), id string, needed bool, what string, keep func(T)) {
	ctx := c.ctx
	c.g.Go(func() error {
		v, err := read(ctx, id)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case err == nil:
			keep(v)
		case needed && azure.Classify(err) == azure.NotFound:
			// The machine is there and what it names is not: it is being changed, and NotFound would say that the machine is gone.
			return &azure.Error{Op: "read " + what, Resource: id, Class: azure.Transient, Err: err}
		case needed:
			return err
		default:
			c.problems = append(c.problems, Problem{what + " " + id, err})
		}
		return nil
	})
}

// balancersOf returns the load balancers that bring traffic to a machine, as this snapshot has it.
func (s *Snapshot) balancersOf(vmID string) []string {
	at, ok := s.byID[azure.Key(vmID)]
	if !ok {
		return nil
	}
	ids := set{}
	for _, e := range s.machines[at].Endpoints {
		for _, p := range s.poolsFor(e) {
			ids.add(azure.ParentID(p))
		}
		for _, p := range e.Public {
			if p.LoadBalancer != "" {
				ids.add(p.LoadBalancer)
			}
		}
	}
	var out []string
	for _, id := range ids {
		out = append(out, id)
	}
	return out
}

// set holds ids as Azure spelt them first, by key.
type set map[string]string

func (s set) add(id string) {
	if k := azure.Key(id); s[k] == "" {
		s[k] = id
	}
}
func (s set) has(id string) bool { return s[azure.Key(id)] != "" }

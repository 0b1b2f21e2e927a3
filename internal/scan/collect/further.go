package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/azure"
)

// What Resource Graph does not hold, as far as is known: just-in-time policies (FACTS 3), effective admin rules, the rules of firewall
// policies, and whether instances are on their set's latest model.

// each calls f for all items within the calls that may be in flight, and waits.
func each[T any](ctx context.Context, r *run, items []T, f func(T)) {
	r.count(func(p *Progress) { p.CallsAll += len(items) })
	var wg sync.WaitGroup
	for _, item := range items {
		if !r.slot(ctx) {
			break // the collection fails as a whole
		}
		wg.Go(func() {
			defer r.done()
			f(item)
			r.count(func(p *Progress) { p.Calls++ })
		})
	}
	wg.Wait()
}

// policies reads the just-in-time policies: one list for each subscription.
func (r *run) policies(ctx context.Context) {
	each(ctx, r, r.visible, func(s string) {
		if err := r.Client.ListBodies(ctx, s, jitListType, func(b []byte) error { r.hand(b, s); return nil }); err != nil && ctx.Err() == nil {
			r.sink.Hide(r.gap(azure.Plural(jitListType), s, "", jitType, err))
		}
	})
}

// scaleSet is what tells whether its instances must be read.
type scaleSet struct {
	ID         string `json:"id"`
	Properties struct {
		OrchestrationMode     string          `json:"orchestrationMode"`
		VirtualMachineProfile json.RawMessage `json:"virtualMachineProfile"`
	} `json:"properties"`
}

func (r *run) noteSet(body []byte) {
	var s scaleSet
	if json.Unmarshal(body, &s) != nil || s.ID == "" {
		return // the sink refuses it too, and that is a gap
	}
	if !s.needsInstances() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = append(r.sets, s)
}

// needsInstances tells whether a verdict may depend on the instances: of a Uniform set whose model announces termination, an instance
// that is not on the model does not. That holds for every upgrade mode: automatic ones take their time, and may fail. Instances of
// a Flexible set are machines of their own. A set whose model is silent fails whatever its instances do, and none is on a Spot set.
func (s scaleSet) needsInstances() bool {
	if strings.EqualFold(s.Properties.OrchestrationMode, "Flexible") {
		return false
	}
	var profile struct {
		Priority               string `json:"priority"`
		ScheduledEventsProfile struct {
			TerminateNotificationProfile struct {
				Enable json.RawMessage `json:"enable"`
			} `json:"terminateNotificationProfile"`
		} `json:"scheduledEventsProfile"`
	}
	if len(s.Properties.VirtualMachineProfile) == 0 || bytes.Equal(s.Properties.VirtualMachineProfile, []byte("null")) {
		return false
	}
	if json.Unmarshal(s.Properties.VirtualMachineProfile, &profile) != nil {
		return true // of another shape than is known: more is read rather than less
	}
	switch string(profile.ScheduledEventsProfile.TerminateNotificationProfile.Enable) {
	case "", "null", "false":
		return false
	}
	return !strings.EqualFold(profile.Priority, "Spot") && !strings.EqualFold(profile.Priority, "Low")
}

// memberships returns the networks that are in a group of a network manager, by key; nil when that is not known. Azure keeps the
// memberships below the network itself, so that those of a manager that this identity does not see are found too; admin rules reach
// a network by its groups alone. (Documentation of Virtual Network Manager, "View configurations applied".)
func (r *run) memberships(ctx context.Context) map[string]bool {
	const query = "networkresources | where type == 'microsoft.network/networkgroupmemberships' | project id, type | order by id asc"
	out := map[string]bool{}
	for batch := range chunks(r.visible, azure.GraphSubscriptions) {
		for token, more := "", true; more; more = token != "" {
			p, err := r.Client.GraphPage(ctx, azure.GraphQuery{Query: query, Subscriptions: batch}, token)
			if err != nil {
				if ctx.Err() == nil {
					r.note("Resource Graph does not tell which networks are under a network manager, so that each is asked: %v", err)
				}
				return nil
			}
			for _, row := range p.Rows {
				id := strings.ToLower(azure.Peek(row, "id"))
				vnet, _, ok := strings.Cut(id, "/providers/microsoft.network/networkgroupmemberships")
				if !ok {
					r.note("Resource Graph names a membership of a network group that is none (%s), so that each network is asked", id)
					return nil
				}
				out[vnet] = true
			}
			token = p.Next
		}
	}
	return out
}

// further reads what depends on what was found: admin rules of networks under a manager, and instances of scale sets.
func (r *run) further(ctx context.Context, members map[string]bool) {
	if len(members) == 0 && r.managers > 0 {
		members = nil // a manager without a network is possible; a role that may not read memberships is likelier
		r.note("there is a network manager and no network seems to be under it, so that each network is asked")
	}
	var calls []func()
	for _, id := range r.policed {
		calls = append(calls, func() {
			r.children(ctx, id, "rules of firewall policy", rulesType, "the firewall policy is gone since it was read: scan again", r.Client.ListRuleCollections)
		})
	}
	for _, id := range r.vnets {
		if members == nil || members[azure.Key(id)] {
			calls = append(calls, func() { r.adminRules(ctx, id) })
		}
	}
	for _, s := range r.sets {
		calls = append(calls, func() {
			// Of a set that is gone since it was read nobody knows whether its instances were on the model.
			r.children(ctx, s.ID, "instances of", instanceType, "the scale set is gone since it was read: scan again", r.Client.ListInstances)
		})
	}
	each(ctx, r, calls, func(f func()) { f() })
}

func (r *run) adminRules(ctx context.Context, vnet string) {
	rules, err := r.Client.AdminRuleBodies(ctx, vnet)
	if azure.Classify(err) == azure.NotFound {
		return // gone since, or no manager can be in its region
	}
	subscription := subscriptionOf(vnet)
	id := vnet + "/networkManagerEffectiveSecurityAdminRules/default"
	if err != nil {
		if ctx.Err() == nil {
			r.sink.Hide(r.gap("security admin rules of "+azure.IDName(vnet), subscription, vnet, adminType, err))
		}
		return
	}
	if len(rules) == 0 {
		return
	}
	type properties struct {
		Value []json.RawMessage `json:"value"`
	}
	body, err := json.Marshal(struct {
		ID         string     `json:"id"`
		Name       string     `json:"name"`
		Type       string     `json:"type"`
		Properties properties `json:"properties"`
	}{id, "default", "Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules", properties{rules}})
	if err != nil {
		r.sink.Hide(r.gap("security admin rules of "+azure.IDName(vnet), subscription, vnet, adminType, err))
		return
	}
	r.hand(body, subscription)
}

// children lists what stands below a resource and is read apart.
func (r *run) children(ctx context.Context, id, what, kind, gone string, list func(context.Context, string, func([]byte) error) error) {
	subscription := subscriptionOf(id)
	err := list(ctx, id, func(b []byte) error { r.hand(b, subscription); return nil })
	if err == nil || ctx.Err() != nil {
		return
	}
	g := r.gap(what+" "+azure.IDName(id), subscription, id, kind, err)
	if azure.Classify(err) == azure.NotFound {
		g.Reason = gone
	}
	r.sink.Hide(g)
}

func subscriptionOf(id string) string {
	if p, err := azure.ParseID(id); err == nil {
		return p.Subscription
	}
	return ""
}

// Package setup says what is missing in Azure before the program can do its duties there: actions of roles, resource providers, Defender's
// plan. It only reads, and what it could not read is unknown, never right.
package setup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/roles"
)

// Client is what is asked of Azure; azure.Client is one.
type Client interface {
	Subscriptions(ctx context.Context) ([]azure.Subscription, error)
	Permissions(ctx context.Context, scope string) ([]azure.Permission, error)
	ProviderState(ctx context.Context, subscription, namespace string) (string, error)
	DefenderForServers(ctx context.Context, subscription string) (azure.ServersPlan, error)
}

var _ Client = (*azure.Client)(nil)

// State is how a thing stands. The zero value is none of them.
type State string

// The states.
const (
	Right   State = "ok"
	Missing State = "missing"
	Unknown State = "unknown" // it could not be read
)

// Item is one thing that was looked at.
type Item struct {
	Scope  string
	Check  string // "role read-only", "provider Microsoft.Network", "Defender for Servers"
	State  State
	Detail string
	Lacks  []string // actions that are missing
	Next   string   // what to do about it
}

// providers are needed by duty.
var providers = map[roles.Duty][]string{
	roles.Read:      {"Microsoft.Compute", "Microsoft.Network"},
	roles.Defender:  {"Microsoft.Security"},
	roles.ScaleSets: nil,
	roles.NSG:       nil,
}

// Check looks at scopes (ids of subscriptions and resource groups) for these duties; without scopes at every subscription that the identity
// sees, without duties for all. Read is needed for every duty, and looked at with each. An error means that it could not begin.
func Check(ctx context.Context, c Client, scopes []string, duties []roles.Duty) ([]Item, error) {
	if len(duties) == 0 {
		duties = roles.Duties
	}
	if !slices.Contains(duties, roles.Read) {
		duties = append([]roles.Duty{roles.Read}, duties...)
	}
	if len(scopes) == 0 {
		all, err := c.Subscriptions(ctx)
		if err != nil {
			return nil, azure.UserError(err)
		}
		for _, s := range all {
			if !strings.EqualFold(s.State, "Disabled") && !strings.EqualFold(s.State, "Deleted") {
				scopes = append(scopes, "/subscriptions/"+s.SubscriptionID)
			}
		}
	}
	var out []Item
	asked := map[string]bool{}
	for _, scope := range scopes {
		out = append(out, permissions(ctx, c, scope, duties)...)
		id := subscriptionOf(scope)
		if key := strings.ToLower(id); id == "" || asked[key] {
			continue
		} else {
			asked[key] = true
		}
		for _, d := range roles.Duties {
			if !slices.Contains(duties, d) {
				continue
			}
			for _, ns := range providers[d] {
				out = append(out, provider(ctx, c, id, ns))
			}
			if d == roles.Defender {
				out = append(out, plan(ctx, c, id))
			}
		}
	}
	return out, ctx.Err()
}

func permissions(ctx context.Context, c Client, scope string, duties []roles.Duty) (out []Item) {
	have, err := c.Permissions(ctx, scope)
	for _, d := range roles.Duties {
		if !slices.Contains(duties, d) {
			continue
		}
		it := Item{Scope: scope, Check: "role " + string(d), State: Right}
		n := 0
		for _, a := range roles.Actions {
			if a.Duty != d {
				continue
			}
			n++
			if !slices.ContainsFunc(have, func(p azure.Permission) bool { return p.Permits(a.Name) }) {
				it.Lacks = append(it.Lacks, a.Name)
			}
		}
		switch {
		case err != nil:
			it.State, it.Lacks, it.Detail = Unknown, nil, azure.UserError(err).Message
			it.Next = "give the identity Microsoft.Authorization/permissions/read there; the role of curfew azure role --duty read-only has it"
		case len(it.Lacks) > 0:
			it.State, it.Detail = Missing, fmt.Sprintf("%d of %d actions are not permitted there; a role that was given further down is not seen from here", len(it.Lacks), n)
			it.Next = fmt.Sprintf("curfew azure role --duty %s --scope %s > role.json, then az role definition create --role-definition role.json and az role assignment create", d, scope)
		default:
			it.Detail = fmt.Sprintf("all %d actions", n)
		}
		out = append(out, it)
	}
	return out
}

func provider(ctx context.Context, c Client, subscription, ns string) Item {
	it := Item{Scope: "/subscriptions/" + subscription, Check: "provider " + ns, State: Right}
	state, err := c.ProviderState(ctx, subscription, ns)
	switch {
	case err != nil:
		it.State, it.Detail = Unknown, azure.UserError(err).Message
		it.Next = "give the identity Microsoft.Resources/subscriptions/providers/read there"
	case !strings.EqualFold(state, "Registered"):
		it.State, it.Detail = Missing, "it is "+state
		it.Next = fmt.Sprintf("az provider register --namespace %s --subscription %s", ns, subscription)
	default:
		it.Detail = "registered"
	}
	return it
}

func plan(ctx context.Context, c Client, subscription string) Item {
	it := Item{Scope: "/subscriptions/" + subscription, Check: "Defender for Servers", State: Right}
	p, err := c.DefenderForServers(ctx, subscription)
	switch name := strings.TrimSpace(p.Tier + " " + p.SubPlan); {
	case err != nil:
		it.State, it.Detail = Unknown, azure.UserError(err).Message
		it.Next = "give the identity Microsoft.Security/pricings/read there"
	case !p.JIT():
		it.State, it.Detail = Missing, "the plan is "+name+", and just-in-time policies need Plan 2"
		it.Next = fmt.Sprintf("az security pricing create --name VirtualMachines --tier standard --subplan P2 --subscription %s, which costs per server; the back end nsg needs no plan", subscription)
	default:
		it.Detail = name
	}
	return it
}

func subscriptionOf(scope string) string {
	segs := strings.Split(strings.TrimPrefix(scope, "/"), "/")
	if len(segs) >= 2 && strings.EqualFold(segs[0], "subscriptions") {
		return segs[1]
	}
	return ""
}

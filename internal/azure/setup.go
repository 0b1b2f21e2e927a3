package azure

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

const (
	permissionsVersion = "2022-04-01"
	pricingsVersion    = "2024-01-01"
)

// Permission is what one role of the identity permits at a scope: its actions, less its notActions. * stands for any text.
type Permission struct {
	Actions    []string `json:"actions"`
	NotActions []string `json:"notActions"`
}

// Permits tells whether an action is permitted, by Azure's rules for wildcards and case.
func (p Permission) Permits(action string) bool {
	return anyMatches(p.Actions, action) && !anyMatches(p.NotActions, action)
}

func anyMatches(patterns []string, action string) bool {
	for _, p := range patterns {
		if matchesAction(strings.ToLower(p), strings.ToLower(action)) {
			return true
		}
	}
	return false
}

// matchesAction goes through the pattern with one place to come back to: the last star.
func matchesAction(p, s string) bool {
	star, back := -1, 0
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, back = i, j
			i++
		case i < len(p) && p[i] == s[j]:
			i++
			j++
		case star >= 0:
			back++
			i, j = star+1, back
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}

// Permissions lists what the identity's roles permit at a subscription or resource group: roles that were given there or above. What was
// given below it, deny assignments and conditions are not told by Azure.
func (c *Client) Permissions(ctx context.Context, scope string) ([]Permission, error) {
	const op = "list permissions at"
	out := []Permission{}
	scope = strings.TrimSuffix(scope, "/")
	err := c.bodies(ctx, op, subscriptionIn(scope), scope+"/providers/Microsoft.Authorization/permissions", permissionsVersion, func(b []byte) error {
		var p Permission
		if err := json.Unmarshal(b, &p); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ProviderState reads whether a resource provider is registered in a subscription: Registered, NotRegistered, Registering….
func (c *Client) ProviderState(ctx context.Context, subscription, namespace string) (string, error) {
	var p struct {
		State string `json:"registrationState"`
	}
	err := c.small(ctx, "read resource provider", subscription, sub(subscription)+"/providers/"+namespace, resourcesVersion, &p)
	if err == nil && p.State == "" {
		err = &Error{Op: "read resource provider", Resource: namespace, Class: Transient, Status: http.StatusOK, Err: errors.New("the reply has no registration state")}
	}
	return p.State, err
}

// ServersPlan is the plan of Defender for Servers in a subscription. Just-in-time access needs Standard with P2, or without a sub-plan,
// which is the whole plan (FACTS 1.1).
type ServersPlan struct {
	Tier    string // Free or Standard
	SubPlan string // P1, P2 or ""
}

// JIT tells whether the plan has just-in-time access.
func (p ServersPlan) JIT() bool {
	return strings.EqualFold(p.Tier, "Standard") && !strings.EqualFold(p.SubPlan, "P1")
}

// DefenderForServers reads the plan of a subscription.
func (c *Client) DefenderForServers(ctx context.Context, subscription string) (ServersPlan, error) {
	var p struct {
		Properties struct {
			Tier    string `json:"pricingTier"`
			SubPlan string `json:"subPlan"`
		} `json:"properties"`
	}
	err := c.small(ctx, "read Defender's plan of", subscription, sub(subscription)+securityProvider+"pricings/VirtualMachines", pricingsVersion, &p)
	if err == nil && p.Properties.Tier == "" {
		err = &Error{Op: "read Defender's plan of", Resource: subscription, Class: Transient, Status: http.StatusOK, Err: errors.New("the reply has no tier")}
	}
	return ServersPlan{p.Properties.Tier, p.Properties.SubPlan}, err
}

// small reads one object that has no id of a resource.
func (c *Client) small(ctx context.Context, op, subscription, path, version string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
	defer cancel()
	r, err := c.do(ctx, &call{op: op, resource: path, subscription: subscription, method: http.MethodGet, url: c.url(path, version)})
	if err != nil {
		return err
	}
	if err := decode(r.body, out); err != nil {
		return &Error{Op: op, Resource: path, Class: Transient, Status: r.status, Err: err}
	}
	return nil
}

// subscriptionIn is the id of the subscription that a scope lies in; "" for a management group.
func subscriptionIn(scope string) string {
	segs := strings.Split(strings.TrimPrefix(scope, "/"), "/")
	if len(segs) >= 2 && strings.EqualFold(segs[0], "subscriptions") {
		return segs[1]
	}
	return ""
}

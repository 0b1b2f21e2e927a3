package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// listed is where the resources of a type are listed in a subscription, and by which version of the API.
var listed = map[string]struct{ what, path, version string }{ // keys in lower case
	"microsoft.compute/virtualmachines":           {"virtual machines", computeProvider + "virtualMachines", computeVersion},
	"microsoft.compute/virtualmachinescalesets":   {"scale sets", computeProvider + "virtualMachineScaleSets", computeVersion},
	"microsoft.network/networkinterfaces":         {"network interfaces", networkProvider + "networkInterfaces", networkVersion},
	"microsoft.network/networksecuritygroups":     {"network security groups", networkProvider + "networkSecurityGroups", networkVersion},
	"microsoft.network/virtualnetworks":           {"virtual networks", networkProvider + "virtualNetworks", networkVersion},
	"microsoft.network/publicipaddresses":         {"public addresses", networkProvider + "publicIPAddresses", networkVersion},
	"microsoft.network/loadbalancers":             {"load balancers", networkProvider + "loadBalancers", networkVersion},
	"microsoft.network/azurefirewalls":            {"firewalls", networkProvider + "azureFirewalls", networkVersion},
	"microsoft.network/ipgroups":                  {"IP groups", networkProvider + "ipGroups", networkVersion},
	"microsoft.network/routetables":               {"route tables", networkProvider + "routeTables", networkVersion},
	"microsoft.network/bastionhosts":              {"Bastion hosts", networkProvider + "bastionHosts", networkVersion},
	"microsoft.network/firewallpolicies":          {"firewall policies", networkProvider + "firewallPolicies", networkVersion},
	"microsoft.network/virtualnetworkgateways":    {"virtual network gateways", networkProvider + "virtualNetworkGateways", networkVersion},
	"microsoft.network/localnetworkgateways":      {"local network gateways", networkProvider + "localNetworkGateways", networkVersion},
	"microsoft.network/connections":               {"connections of gateways", networkProvider + "connections", networkVersion},
	"microsoft.security/jitnetworkaccesspolicies": {"just-in-time policies", securityProvider + "jitNetworkAccessPolicies", jitVersion},
}

const (
	securityProvider = "/providers/Microsoft.Security/"
	jitVersion       = "2020-01-01" // FACTS 1.1
	groupsVersion    = "2020-05-01"
	resourcesVersion = "2021-04-01"
)

// byGroup are the types that have a list in a resource group alone. Which groups have any is asked of the list of all resources, which
// has no properties.
var byGroup = map[string]bool{"microsoft.network/virtualnetworkgateways": true, "microsoft.network/localnetworkgateways": true,
	"microsoft.network/connections": true}

// Plural names a type for people, "network security groups" for Microsoft.Network/networkSecurityGroups; the type itself where it
// is none that ListBodies knows.
func Plural(fullType string) string {
	if l, ok := listed[strings.ToLower(fullType)]; ok {
		return l.what
	}
	return fullType
}

// ListBodies lists the resources of a full type (in any case) in a subscription and calls each with their bodies as Azure sent them,
// page by page; a body is valid during the call alone. An error ends the list, and what was handed over before is then not the whole.
// It may be repeated. A subscription whose provider is not registered has none.
func (c *Client) ListBodies(ctx context.Context, subscription, fullType string, each func(body []byte) error) error {
	l, ok := listed[strings.ToLower(fullType)]
	if !ok {
		return &Error{Op: "list " + fullType, Class: Invalid, Err: errors.New("no such type is known")}
	}
	op := "list " + l.what
	if !byGroup[strings.ToLower(fullType)] {
		return c.bodies(ctx, op, subscription, sub(subscription)+l.path, l.version, each)
	}
	var groups []string
	seen := map[string]bool{}
	full := strings.TrimPrefix(l.path, "/providers/")
	err := c.bodies(ctx, op, subscription, sub(subscription)+"/resources", resourcesVersion, func(b []byte) error {
		id, err := ParseID(Peek(b, "id"))
		if err != nil {
			return err
		}
		if k := strings.ToLower(id.Group); !seen[k] {
			seen[k] = true
			groups = append(groups, id.Group)
		}
		return nil
	}, "$filter", "resourceType eq '"+full+"'")
	for _, g := range groups {
		if err == nil {
			err = c.bodies(ctx, op, subscription, sub(subscription)+"/resourceGroups/"+g+l.path, l.version, each)
		}
		if Classify(err) == NotFound {
			err = nil // the group is gone since
		}
	}
	return err
}

// ListRuleCollections is ListBodies for the groups of rule collections of a firewall policy, which hold its rules.
func (c *Client) ListRuleCollections(ctx context.Context, policy string, each func(body []byte) error) error {
	const op = "list rule collections of"
	id, err := ParseID(policy)
	if err == nil && !id.Is("Microsoft.Network/firewallPolicies") {
		err = fmt.Errorf("resource id %q is not that of a firewall policy", policy)
	}
	if err != nil {
		return &Error{Op: op, Resource: policy, Class: Invalid, Err: err}
	}
	return c.bodies(ctx, op, id.Subscription, policy+"/ruleCollectionGroups", networkVersion, each)
}

// ListInstances is ListBodies for the instances of a scale set, which tell whether they are on its latest model. FACTS 4.1.
func (c *Client) ListInstances(ctx context.Context, scaleSet string, each func(body []byte) error) error {
	const op = "list instances of"
	id, err := ParseID(scaleSet)
	if err == nil && !id.Is("Microsoft.Compute/virtualMachineScaleSets") {
		err = fmt.Errorf("resource id %q is not that of a scale set", scaleSet)
	}
	if err != nil {
		return &Error{Op: op, Resource: scaleSet, Class: Invalid, Err: err}
	}
	return c.bodies(ctx, op, id.Subscription, scaleSet+"/virtualMachines", computeVersion, each)
}

// bodies reads all pages of a list.
func (c *Client) bodies(ctx context.Context, op, subscription, path, version string, each func([]byte) error, more ...string) error {
	seen := map[string]bool{}
	for next := c.url(path, version, more...); next != ""; {
		fail := func(err error) error {
			return &Error{Op: op, Resource: path, Class: Transient, Status: http.StatusOK, Err: err}
		}
		if seen[next] {
			return fail(errors.New("the next page is one that was read before"))
		}
		seen[next] = true
		r, err := func() (*reply, error) {
			ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
			defer cancel()
			return c.do(ctx, &call{op: op, resource: path, subscription: subscription, method: http.MethodGet, url: next})
		}()
		if unregistered(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var value []byte
		link := ""
		var inner error
		err = fieldsOf(r.body, func(name, v []byte) {
			switch string(name) {
			case "value":
				value = v
			case "nextLink":
				inner = json.Unmarshal(v, &link)
			}
		})
		if err = errors.Join(err, inner); err != nil {
			return fail(err)
		}
		if value == nil {
			return fail(errors.New("the reply has no value"))
		}
		var refused error
		if err := elementsOf(value, func(body []byte) error {
			refused = each(body)
			return refused
		}); err != nil {
			if refused != nil {
				return refused
			}
			return fail(err)
		}
		if next, err = c.link(link); err != nil {
			return fail(err)
		}
	}
	return nil
}

// unregistered tells whether a list failed because its provider was never used in the subscription: it then has no resources there.
func unregistered(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range e.Codes {
		if strings.EqualFold(code, "MissingSubscriptionRegistration") || strings.EqualFold(code, "SubscriptionNotRegistered") {
			return true
		}
	}
	return false
}

// AdminRuleBodies is AdminRules with the rules as Azure sent them. A network that is gone is an error of class NotFound.
func (c *Client) AdminRuleBodies(ctx context.Context, vnetID string) ([]json.RawMessage, error) {
	const op = "read effective security admin rules of"
	parsed, err := ParseID(vnetID)
	if err != nil {
		return nil, &Error{Op: op, Resource: vnetID, Class: Invalid, Err: err}
	}
	fail := func(err error) error {
		return &Error{Op: op, Resource: vnetID, Class: Transient, Status: http.StatusOK, Err: err}
	}
	out := []json.RawMessage{}
	token := ""
	for range 1000 {
		body := []byte("{}")
		if token != "" {
			body, _ = json.Marshal(map[string]string{"skipToken": token})
		}
		r, err := func() (*reply, error) {
			ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
			defer cancel()
			return c.do(ctx, &call{op: op, resource: vnetID, subscription: parsed.Subscription, method: http.MethodPost,
				url: c.url(vnetID+"/listNetworkManagerEffectiveSecurityAdminRules", networkVersion), body: body})
		}()
		if err != nil {
			return nil, err
		}
		var p struct {
			Value     []json.RawMessage `json:"value"`
			SkipToken string            `json:"skipToken"`
		}
		if err := decode(r.body, &p); err != nil {
			return nil, fail(err)
		}
		out = append(out, p.Value...)
		if p.SkipToken == "" {
			return out, nil
		}
		if p.SkipToken == token {
			return nil, fail(errors.New("the next page is the one that was read"))
		}
		token = p.SkipToken
	}
	return nil, &Error{Op: op, Resource: vnetID, Class: Permanent, Err: errors.New("the answer has no end")}
}

// ManagementGroupSubscriptions lists the ids of the subscriptions in a management group and in those below it, as far as the identity
// may see them.
func (c *Client) ManagementGroupSubscriptions(ctx context.Context, group string) ([]string, error) {
	const op = "list subscriptions of management group"
	if group == "" || strings.ContainsAny(group, "/?#%\\\r\n") {
		return nil, &Error{Op: op, Resource: group, Class: Invalid, Err: errors.New("that is no name of a management group")}
	}
	var out []string
	err := c.bodies(ctx, op, "", "/providers/Microsoft.Management/managementGroups/"+group+"/descendants", groupsVersion, func(b []byte) error {
		if strings.HasSuffix(strings.ToLower(Peek(b, "type")), "/subscriptions") {
			out = append(out, Peek(b, "name"))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

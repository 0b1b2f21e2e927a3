package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Subscription is one that the identity sees.
type Subscription struct {
	ID             string `json:"id"` // /subscriptions/…
	SubscriptionID string `json:"subscriptionId"`
	DisplayName    string `json:"displayName"`
	State          string `json:"state"` // Enabled, Disabled, Warned…
	TenantID       string `json:"tenantId"`
}

// get reads one resource of a full type into out, and returns the body.
func (c *Client) get(ctx context.Context, what, id, fullType, version string, out any, query ...string) ([]byte, error) {
	op := "read " + what
	parsed, err := ParseID(id)
	if err == nil && fullType != "" && !parsed.Is(fullType) {
		err = fmt.Errorf("resource id %q is not of type %s", id, fullType)
	}
	if err != nil {
		return nil, &Error{Op: op, Resource: id, Class: Invalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
	defer cancel()
	r, err := c.do(ctx, &call{op: op, resource: id, subscription: parsed.Subscription, method: http.MethodGet,
		url: c.url(id, version, query...)})
	if err != nil {
		return nil, err
	}
	if err := decode(r.body, out); err != nil {
		return nil, &Error{Op: op, Resource: id, Class: Transient, Status: r.status, Err: err}
	}
	return r.body, nil
}

// decode reads a body that must be an object.
func decode(body []byte, out any) error {
	if len(body) == 0 || body[0] != '{' && json.Valid(body) {
		return errors.New("the reply is not a JSON object")
	}
	return unmarshal(body, out)
}

// unmarshal is json.Unmarshal without the two passes over the text that it makes before it calls an Unmarshaler, which checks the
// text itself: groups are read by the thousand.
func unmarshal(body []byte, out any) error {
	if u, ok := out.(json.Unmarshaler); ok {
		return u.UnmarshalJSON(body)
	}
	return json.Unmarshal(body, out)
}

// one reads a resource and checks that the reply is one: a body without id is not Azure's answer.
func one[T any](ctx context.Context, c *Client, what, id, fullType, version string, idOf func(*T) string, query ...string) (T, []byte, error) {
	var v T
	body, err := c.get(ctx, what, id, fullType, version, &v, query...)
	if err == nil && idOf(&v) == "" {
		err = &Error{Op: "read " + what, Resource: id, Class: Transient, Status: http.StatusOK, Err: errors.New("the reply has no id")}
	}
	if err != nil {
		var zero T
		return zero, nil, err
	}
	return v, body, nil
}

// page is one page of a list. Value is a pointer so that a reply without it is no empty list.
type page struct {
	Value    *[]json.RawMessage `json:"value"`
	NextLink string             `json:"nextLink"`
}

// list reads all pages. A page that cannot be read fails the whole list: half a list would be taken for the whole.
func list[T any](ctx context.Context, c *Client, what, subscription, path, version string) ([]T, error) {
	op := "list " + what
	next := c.url(path, version)
	seen := map[string]bool{}
	out := []T{}
	for next != "" {
		fail := func(err error) error {
			return &Error{Op: op, Resource: path, Class: Transient, Status: http.StatusOK, Err: err}
		}
		if seen[next] {
			return nil, fail(errors.New("the next page is one that was read before"))
		}
		seen[next] = true
		p, err := func() (*page, error) {
			ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
			defer cancel()
			r, err := c.do(ctx, &call{op: op, resource: path, subscription: subscription, method: http.MethodGet, url: next})
			if err != nil {
				return nil, err
			}
			var p page
			if err := decode(r.body, &p); err != nil {
				return nil, fail(err)
			}
			if p.Value == nil {
				return nil, fail(errors.New("the reply has no value"))
			}
			return &p, nil
		}()
		if err != nil {
			return nil, err
		}
		for _, raw := range *p.Value {
			var v T
			if err := unmarshal(raw, &v); err != nil {
				return nil, fail(err)
			}
			out = append(out, v)
		}
		if next, err = c.link(p.NextLink); err != nil {
			return nil, fail(err)
		}
	}
	return out, nil
}

// link checks a URL that an answer named, relative or absolute; "" stays "".
func (c *Client) link(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	base, err := url.Parse(c.o.Cloud.Endpoint)
	if err != nil {
		return "", err
	}
	u, err := base.Parse(s)
	if err != nil {
		return "", errors.New("the reply names a URL that is none")
	}
	if !c.o.Cloud.sameService(u) {
		return "", fmt.Errorf("the reply names a URL at another host (%s); the token is not sent there", u.Host)
	}
	return u.String(), nil
}

const (
	computeProvider = "/providers/Microsoft.Compute/"
	networkProvider = "/providers/Microsoft.Network/"
)

// Subscriptions lists the subscriptions that the identity sees.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return list[Subscription](ctx, c, "subscriptions", "", "/subscriptions", subscriptionsVersion)
}

// VM reads a machine with its instance view, so that its power state is known.
func (c *Client) VM(ctx context.Context, id string) (VM, error) {
	v, _, err := one(ctx, c, "virtual machine", id, "Microsoft.Compute/virtualMachines", computeVersion,
		func(v *VM) string { return v.ID }, "$expand", "instanceView")
	return v, err
}

// NIC reads a network interface and keeps its body in Raw, for SetNICNSG.
func (c *Client) NIC(ctx context.Context, id string) (NIC, error) {
	v, body, err := one(ctx, c, "network interface", id, "Microsoft.Network/networkInterfaces", networkVersion,
		func(v *NIC) string { return v.ID })
	v.Raw = body
	return v, err
}

// VNet reads a virtual network with its subnets and peerings.
func (c *Client) VNet(ctx context.Context, id string) (VNet, error) {
	v, _, err := one(ctx, c, "virtual network", id, "Microsoft.Network/virtualNetworks", networkVersion,
		func(v *VNet) string { return v.ID })
	return v, err
}

// PublicIP reads a public address.
func (c *Client) PublicIP(ctx context.Context, id string) (PublicIP, error) {
	v, _, err := one(ctx, c, "public address", id, "Microsoft.Network/publicIPAddresses", networkVersion,
		func(v *PublicIP) string { return v.ID })
	return v, err
}

// LoadBalancer reads a load balancer.
func (c *Client) LoadBalancer(ctx context.Context, id string) (LoadBalancer, error) {
	v, _, err := one(ctx, c, "load balancer", id, "Microsoft.Network/loadBalancers", networkVersion,
		func(v *LoadBalancer) string { return v.ID })
	return v, err
}

// NSG reads a network security group with its etag and its body, so that it can be written back.
func (c *Client) NSG(ctx context.Context, id string) (NSG, error) {
	v, _, err := one(ctx, c, "network security group", id, nsgType, networkVersion, func(v *NSG) string { return v.ID })
	return v, err
}

// ListVMs lists the machines of a subscription, without instance views.
func (c *Client) ListVMs(ctx context.Context, subscription string) ([]VM, error) {
	return list[VM](ctx, c, "virtual machines", subscription, sub(subscription)+computeProvider+"virtualMachines", computeVersion)
}

// ListNICs lists the network interfaces of a subscription.
func (c *Client) ListNICs(ctx context.Context, subscription string) ([]NIC, error) {
	return list[NIC](ctx, c, "network interfaces", subscription, sub(subscription)+networkProvider+"networkInterfaces", networkVersion)
}

// ListVNets lists the virtual networks of a subscription.
func (c *Client) ListVNets(ctx context.Context, subscription string) ([]VNet, error) {
	return list[VNet](ctx, c, "virtual networks", subscription, sub(subscription)+networkProvider+"virtualNetworks", networkVersion)
}

// ListPublicIPs lists the public addresses of a subscription.
func (c *Client) ListPublicIPs(ctx context.Context, subscription string) ([]PublicIP, error) {
	return list[PublicIP](ctx, c, "public addresses", subscription, sub(subscription)+networkProvider+"publicIPAddresses", networkVersion)
}

// ListLoadBalancers lists the load balancers of a subscription.
func (c *Client) ListLoadBalancers(ctx context.Context, subscription string) ([]LoadBalancer, error) {
	return list[LoadBalancer](ctx, c, "load balancers", subscription, sub(subscription)+networkProvider+"loadBalancers", networkVersion)
}

// ListNSGs lists the network security groups of a subscription, with their rules and etags.
func (c *Client) ListNSGs(ctx context.Context, subscription string) ([]NSG, error) {
	return list[NSG](ctx, c, "network security groups", subscription, sub(subscription)+networkProvider+"networkSecurityGroups", networkVersion)
}

// ListBastions lists the Bastion hosts of a subscription.
func (c *Client) ListBastions(ctx context.Context, subscription string) ([]Bastion, error) {
	return list[Bastion](ctx, c, "bastion hosts", subscription, sub(subscription)+networkProvider+"bastionHosts", networkVersion)
}

func sub(subscription string) string { return "/subscriptions/" + subscription }

// AdminRules reads the security admin rules of Virtual Network Manager that are in force on a virtual network. A network
// without a manager, and one that is gone, has none. The call is a POST that changes nothing, so that it is repeated like a
// read. SPEC-AVNM.
func (c *Client) AdminRules(ctx context.Context, vnetID string) ([]AdminRule, error) {
	const op = "read effective security admin rules of"
	parsed, err := ParseID(vnetID)
	if err != nil {
		return nil, &Error{Op: op, Resource: vnetID, Class: Invalid, Err: err}
	}
	out := []AdminRule{}
	token := ""
	for range 1000 {
		body := []byte("{}")
		if token != "" {
			body, _ = json.Marshal(map[string]string{"skipToken": token})
		}
		p, err := func() (*adminPage, error) {
			ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
			defer cancel()
			r, err := c.do(ctx, &call{op: op, resource: vnetID, subscription: parsed.Subscription, method: http.MethodPost,
				url: c.url(vnetID+"/listNetworkManagerEffectiveSecurityAdminRules", networkVersion), body: body})
			if err != nil {
				return nil, err
			}
			var p adminPage
			if err := decode(r.body, &p); err != nil {
				return nil, &Error{Op: op, Resource: vnetID, Class: Transient, Status: r.status, Err: err}
			}
			return &p, nil
		}()
		if Classify(err) == NotFound {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p.Value...)
		if p.SkipToken == "" || p.SkipToken == token {
			return out, nil
		}
		token = p.SkipToken
	}
	return nil, &Error{Op: op, Resource: vnetID, Class: Permanent, Err: errors.New("the answer has no end")}
}

type adminPage struct {
	Value     []AdminRule `json:"value"`
	SkipToken string      `json:"skipToken"`
}

// graphQuota remembers what Resource Graph said about the user's quota: 15 queries in five seconds, told in headers. FACTS 3.
type graphQuota struct {
	clock clock.Clock

	mu      sync.Mutex
	size    int       // of a window, as far as it was seen; 0: nothing was told yet, and one query goes ahead alone
	left    int       // what the window has left
	flying  int       // queries that are on their way: they may or may not be counted in left
	reset   time.Time // when the window ends at the latest
	known   bool      // left and reset are of one window, as a reply told them
	changed chan struct{}
}

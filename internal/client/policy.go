package client

import (
	"context"
	"net/url"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Policy returns the policy that is in force.
func (c *Client) Policy(ctx context.Context) (policy.Info, error) {
	return get[policy.Info](ctx, c, "/v1/policy", nil)
}

// PolicyWho says who can get into a machine, within what, and who must agree.
func (c *Client) PolicyWho(ctx context.Context, vm string) (policy.WhoReport, error) {
	return get[policy.WhoReport](ctx, c, "/v1/policy/who", url.Values{"vm": {vm}})
}

// ReplayPolicy decides the requests of the last 90 days again, by the text of another policy. It changes nothing.
func (c *Client) ReplayPolicy(ctx context.Context, text string) (policy.ReplayReport, error) {
	return post[policy.ReplayReport](ctx, c, "/v1/policy/replay", api.PolicyText{Text: text}, "")
}

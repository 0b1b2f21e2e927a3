package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// maxPolicy bounds the text of a policy that is sent; ten thousand rules are about three megabytes.
const maxPolicy = 8 << 20

// largeBodies are the routes whose body may be larger than others.
var largeBodies = map[string]int64{"/v1/policy/replay": maxPolicy}

type policyWhoIn struct {
	VM string `query:"vm" required:"true" maxLength:"500" doc:"The machine, by name, group/name or resource id"`
}

func (s *Server) policyRoutes(a huma.API) {
	register(a, op("get-policy", "GET", "/v1/policy", "policy", "The policy that is in force", "Its schema is at /schema/policy.json."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[policy.Info], error) {
			return reply(same[policy.Info])(s.svc.Policy(ctx, c))
		})
	register(a, op("who-may", "GET", "/v1/policy/who", "policy", "Who can get into a machine, and who must agree", ""),
		func(ctx context.Context, c access.Caller, in *policyWhoIn) (*answer[policy.WhoReport], error) {
			w, err := s.svc.PolicyWho(ctx, c, in.VM)
			if err == nil && w.Ways == nil {
				w.Ways = []policy.RuleView{}
			}
			return reply(same[policy.WhoReport])(w, err)
		})
	replay := op("replay-policy", "POST", "/v1/policy/replay", "policy", "Decide the requests of the last 90 days again, by another policy",
		"Changes nothing. Says which would now be refused, approved by themselves, or need others.")
	replay.MaxBodyBytes = maxPolicy
	register(a, replay, func(ctx context.Context, c access.Caller, in *body[api.PolicyText]) (*answer[policy.ReplayReport], error) {
		v, err := in.Body.read()
		if err != nil {
			return nil, err
		}
		return reply(same[policy.ReplayReport])(s.svc.ReplayPolicy(ctx, c, v.Text))
	})
}

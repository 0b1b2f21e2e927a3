package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// reviewRoutes are what people do about requests besides answering them, the answering in another's place, and broken glass.
func (s *Server) reviewRoutes(a huma.API) {
	register(a, op("comment-request", "POST", "/v1/requests/{id}/comments", "requests", "Say something about a request", "Decides nothing."),
		func(ctx context.Context, c access.Caller, in *decide[api.CommentInput]) (*answer[api.Request], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			return reply(request)(s.svc.Comment(ctx, c, access.RequestID(in.ID), v.Comment))
		})
	register(a, op("remind-request", "POST", "/v1/requests/{id}/remind", "requests", "Have those for whom a request waits told again",
		"At most every five minutes."),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.Request], error) {
			return reply(request)(s.svc.Remind(ctx, c, access.RequestID(in.ID)))
		})
	glass := op("break-glass", "POST", "/v1/break-glass", "break-glass", "Open before anybody agrees",
		"For those whom a rule lists for it. Everybody who was not asked is told, and somebody else looks back at it.")
	glass.DefaultStatus = http.StatusCreated
	register(a, glass, func(ctx context.Context, c access.Caller, in *Keyed[api.RequestInput]) (*answer[api.Request], error) {
		v, err := in.Body.read()
		if err == nil {
			err = checkKey(in.Key)
		}
		if err != nil {
			return nil, err
		}
		return reply(request)(s.svc.BreakGlass(ctx, c, requestInput(v, in.Key)))
	})
	register(a, op("list-break-glass", "GET", "/v1/break-glass", "break-glass", "Accesses behind broken glass at which nobody has looked back yet", ""),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.List[api.Request]], error) {
			rs, err := s.svc.Aftermath(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(rs, "", request), nil
		})
	register(a, op("close-break-glass", "POST", "/v1/break-glass/{id}/close", "break-glass", "Close the look back at one", "Never by its user."),
		func(ctx context.Context, c access.Caller, in *decide[api.CommentInput]) (*answer[api.Request], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			return reply(request)(s.svc.CloseAftermath(ctx, c, access.RequestID(in.ID), v.Comment))
		})
	create := op("create-delegation", "POST", "/v1/delegations", "delegations", "Have another approver answer in your place", "Until an instant.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, func(ctx context.Context, c access.Caller, in *body[api.DelegationInput]) (*answer[api.Delegation], error) {
		v, err := in.Body.read()
		if err != nil {
			return nil, err
		}
		return reply(delegation)(s.svc.Delegate(ctx, c, broker.DelegateInput{To: v.To, Until: utc(v.Until), Reason: v.Reason}))
	})
	register(a, op("list-delegations", "GET", "/v1/delegations", "delegations", "Who answers in whose place", ""),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.List[api.Delegation]], error) {
			ds, err := s.svc.Delegations(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(ds, "", delegation), nil
		})
	register(a, op("end-delegation", "POST", "/v1/delegations/{id}/end", "delegations", "End a delegation", "Answers with those that are left."),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.List[api.Delegation]], error) {
			if err := s.svc.EndDelegation(ctx, c, in.ID); err != nil {
				return nil, err
			}
			ds, err := s.svc.Delegations(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(ds, "", delegation), nil
		})
}

func delegation(d broker.Delegation) api.Delegation {
	return api.Delegation{ID: d.ID, From: d.From, Groups: some(d.Groups, same), To: d.To, Until: utc(d.Until), Reason: d.Reason, CreatedAt: utc(d.Created)}
}

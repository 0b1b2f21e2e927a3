package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

type linkID struct {
	ID string `path:"id" maxLength:"120" doc:"For example slack:T0123456789:U0123456789"`
}

func link(l broker.Link) api.Link {
	return api.Link{ID: l.ID, Kind: l.Kind, Team: l.Team, User: l.User, Name: l.Name, Person: l.Person, CreatedAt: utc(l.Created)}
}

func (s *Server) linkRoutes(a huma.API) {
	register(a, op("list-links", "GET", "/v1/links", "links", "List identities elsewhere", "One's own; auditors and admins see all."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.List[api.Link]], error) {
			ls, err := s.svc.Links(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(ls, "", link), nil
		})
	register(a, op("create-link", "POST", "/v1/links", "links", "Claim an identity elsewhere",
		"With a code that was shown to it there. Without confirm it only says whose code it is; with the id of that link it makes it."),
		func(ctx context.Context, c access.Caller, in *body[api.LinkInput]) (*answer[api.Link], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			return reply(link)(s.svc.LinkIdentity(ctx, c, broker.LinkInput{Kind: v.Kind, Code: v.Code, Confirm: v.Confirm}))
		})
	register(a, op("remove-link", "POST", "/v1/links/{id}/remove", "links", "Take an identity elsewhere away", "One's own; an admin everybody's. Answers with those that are left."),
		func(ctx context.Context, c access.Caller, in *linkID) (*answer[api.List[api.Link]], error) {
			if err := s.svc.Unlink(ctx, c, in.ID); err != nil {
				return nil, err
			}
			ls, err := s.svc.Links(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(ls, "", link), nil
		})
}

package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

type (
	ByName struct {
		Name string `path:"name" maxLength:"200" doc:"A person's name; slashes are written %2F"`
	}
	releaseIn struct {
		ByName
		Body *wire[api.CommentInput]
	}
	endIn struct {
		ByName
		Body *wire[api.EndInput]
	}
	sessionsIn struct {
		All bool `query:"all" doc:"Everybody's, for an admin; default: your own"`
	}
)

func account(a broker.Account) api.Account {
	return api.Account{Name: a.Name, Key: a.Key, Roles: each(a.Roles, text), Groups: each(a.Groups, same), FirstAt: utc(a.FirstAt), LastAt: utc(a.LastAt),
		BarredAt: utc(a.BarredAt), BarredBy: a.BarredBy, Why: a.BarredWhy}
}

func token(t broker.APIToken) api.APIToken {
	return api.APIToken{ID: t.ID, Name: t.Name, Caller: broker.TokenPrefix + t.Name, Roles: each(t.Roles, text), Sponsor: t.Sponsor, CreatedAt: utc(t.CreatedAt),
		ExpiresAt: utc(t.ExpiresAt), FirstUsed: utc(t.FirstUsed), LastUsed: utc(t.LastUsed)}
}

func (s *Server) accountRoutes(a huma.API) {
	register(a, op("list-accounts", "GET", "/v1/accounts", "sign-in", "List who has signed in through the issuer", "And whose each name is."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.List[api.Account]], error) {
			as, err := s.svc.Accounts(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(as, "", account), nil
		})
	register(a, op("release-account", "POST", "/v1/accounts/{name}/release", "sign-in", "Free a name",
		"Whoever signs in with it next has it. Its sessions end, and nobody is kept out by it any more."),
		func(ctx context.Context, c access.Caller, in *releaseIn) (*answer[api.Ended], error) {
			v, err := in.Body.read()
			if err == nil {
				err = s.svc.ReleaseAccount(ctx, c, in.Name, v.Comment)
			}
			if err != nil {
				return nil, err
			}
			return ok(api.Ended{}), nil
		})
	register(a, op("end-sessions", "POST", "/v1/accounts/{name}/end", "sign-in", "End somebody's sessions at once", "With bar they do not come in again."),
		func(ctx context.Context, c access.Caller, in *endIn) (*answer[api.Ended], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			n, err := s.svc.EndSessions(ctx, c, broker.EndSessionsInput{Person: in.Name, Comment: v.Comment, Bar: v.Bar})
			return reply(func(n int) api.Ended { return api.Ended{Sessions: n} })(n, err)
		})
	register(a, op("list-sessions", "GET", "/v1/sessions", "sign-in", "List sessions", ""),
		func(ctx context.Context, c access.Caller, in *sessionsIn) (*answer[api.List[api.Session]], error) {
			ss, err := s.svc.Sessions(ctx, c, in.All)
			if err != nil {
				return nil, err
			}
			return list(ss, "", func(v broker.Session) api.Session {
				return api.Session{ID: v.ShortID(), Name: v.Name, Roles: each(v.Roles, text), Via: v.Via, From: v.From, StartedAt: utc(v.StartedAt),
					ConfirmedAt: utc(v.ConfirmedAt), EndsAt: utc(v.EndsAt), Current: c.Session != "" && v.ID == c.Session}
			}), nil
		})
	register(a, op("list-tokens", "GET", "/v1/tokens", "sign-in", "List the tokens of programs", ""),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.List[api.APIToken]], error) {
			ts, err := s.svc.Tokens(ctx, c)
			if err != nil {
				return nil, err
			}
			return list(ts, "", token), nil
		})
	create := op("create-token", "POST", "/v1/tokens", "sign-in", "Make a token for a program",
		"The secret is told this once. You answer for what is done with it, and do not decide on what it asks for.")
	create.DefaultStatus = http.StatusCreated
	register(a, create, func(ctx context.Context, c access.Caller, in *body[api.TokenInput]) (*answer[api.NewToken], error) {
		v, err := in.Body.read()
		if err != nil {
			return nil, err
		}
		t, secret, err := s.svc.CreateToken(ctx, c, broker.TokenInput{Name: v.Name, Roles: each(v.Roles, func(r string) access.Role { return access.Role(r) }), Life: time.Duration(v.Life)})
		if err != nil {
			return nil, err
		}
		return ok(api.NewToken{APIToken: token(t), Secret: secret}), nil
	})
	register(a, op("revoke-token", "POST", "/v1/tokens/{id}/revoke", "sign-in", "End a program's token at once", "Named by id or name."),
		func(ctx context.Context, c access.Caller, in *decide[api.CommentInput]) (*answer[api.Ended], error) {
			v, err := in.Body.read()
			if err == nil {
				err = s.svc.RevokeToken(ctx, c, in.ID, v.Comment)
			}
			if err != nil {
				return nil, err
			}
			return ok(api.Ended{}), nil
		})
}

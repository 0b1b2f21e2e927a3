package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/curfew-jit/curfew/api"
)

// LoginMethods returns how one signs in at the server. Nobody needs to be signed in for it.
func (c *Client) LoginMethods(ctx context.Context) (api.LoginMethods, error) {
	return get[api.LoginMethods](ctx, c, "/v1/login", nil)
}

// StartLogin begins a sign-in that ends in a browser on this machine, and returns where the browser goes.
func (c *Client) StartLogin(ctx context.Context, in api.LoginStartInput) (api.LoginStart, error) {
	return post[api.LoginStart](ctx, c, "/v1/login/start", in, "")
}

// FinishLogin fetches the session that a browser's code stands for, once.
func (c *Client) FinishLogin(ctx context.Context, in api.LoginTokenInput) (api.SignedIn, error) {
	return post[api.SignedIn](ctx, c, "/v1/login/token", in, "")
}

// StartDevice begins a sign-in that is completed in a browser on any machine.
func (c *Client) StartDevice(ctx context.Context) (api.DeviceStart, error) {
	return post[api.DeviceStart](ctx, c, "/v1/login/device", nil, "")
}

// DeviceLogin asks whether a sign-in that StartDevice began is complete. While it is not, wait says when to ask again: above zero.
func (c *Client) DeviceLogin(ctx context.Context, handle string) (_ api.SignedIn, wait time.Duration, err error) {
	a, err := post[api.DeviceToken](ctx, c, "/v1/login/device/token", api.DeviceTokenInput{Handle: handle}, "")
	if err != nil {
		return api.SignedIn{}, 0, err
	}
	if a.Session == nil {
		return api.SignedIn{}, max(time.Duration(a.Interval)*time.Second, time.Second), nil
	}
	return *a.Session, 0, nil
}

// Logout ends the session whose token the client has.
func (c *Client) Logout(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/logout"}, nil)
}

// Sessions lists the caller's own sessions, or everybody's for an admin.
func (c *Client) Sessions(ctx context.Context, all bool) (api.List[api.Session], error) {
	q := url.Values{}
	if all {
		q.Set("all", "true")
	}
	return get[api.List[api.Session]](ctx, c, "/v1/sessions", q)
}

// EndSessions ends all sessions of a person at once.
func (c *Client) EndSessions(ctx context.Context, person string, in api.EndInput) (api.Ended, error) {
	return post[api.Ended](ctx, c, "/v1/accounts/"+url.PathEscape(person)+"/end", in, "")
}

// Accounts lists who has signed in through the issuer.
func (c *Client) Accounts(ctx context.Context) (api.List[api.Account], error) {
	return get[api.List[api.Account]](ctx, c, "/v1/accounts", nil)
}

// ReleaseAccount frees a name for whoever signs in with it next.
func (c *Client) ReleaseAccount(ctx context.Context, person, comment string) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/accounts/" + url.PathEscape(person) + "/release", body: api.CommentInput{Comment: comment}}, nil)
}

// Tokens lists the tokens of programs, without their secrets.
func (c *Client) Tokens(ctx context.Context) (api.List[api.APIToken], error) {
	return get[api.List[api.APIToken]](ctx, c, "/v1/tokens", nil)
}

// CreateToken makes a token for a program. Its secret is told this once.
func (c *Client) CreateToken(ctx context.Context, in api.TokenInput) (api.NewToken, error) {
	return post[api.NewToken](ctx, c, "/v1/tokens", in, "")
}

// RevokeToken ends a program's token at once, by id or name.
func (c *Client) RevokeToken(ctx context.Context, id, comment string) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/tokens/" + url.PathEscape(id) + "/revoke", body: api.CommentInput{Comment: comment}}, nil)
}

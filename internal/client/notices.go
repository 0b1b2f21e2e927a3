package client

import (
	"context"
	"net/url"

	"github.com/curfew-jit/curfew/api"
)

// NoticeFilter selects notices. Empty fields match everything.
type NoticeFilter struct {
	States           []string
	Channel, Subject string
	Page             Page
}

// Notices lists what channels are told, newest first.
func (c *Client) Notices(ctx context.Context, f NoticeFilter) (api.List[api.Notice], error) {
	q := f.Page.put(url.Values{})
	for _, s := range f.States {
		q.Add("state", s)
	}
	if f.Channel != "" {
		q.Set("channel", f.Channel)
	}
	if f.Subject != "" {
		q.Set("subject", f.Subject)
	}
	return get[api.List[api.Notice]](ctx, c, "/v1/notices", q)
}

// Notice returns one notice.
func (c *Client) Notice(ctx context.Context, id string) (api.Notice, error) {
	return get[api.Notice](ctx, c, "/v1/notices/"+url.PathEscape(id), nil)
}

// RetryNotice has a dead letter tried again.
func (c *Client) RetryNotice(ctx context.Context, id string) (api.Notice, error) {
	return post[api.Notice](ctx, c, "/v1/notices/"+url.PathEscape(id)+"/retry", nil, "")
}

// TestChannel sends a channel a notice that says nothing but that it works.
func (c *Client) TestChannel(ctx context.Context, name string) (api.Notice, error) {
	return post[api.Notice](ctx, c, "/v1/channels/"+url.PathEscape(name)+"/test", nil, "")
}

// Links lists identities elsewhere: one's own, or all for auditors and admins.
func (c *Client) Links(ctx context.Context) (api.List[api.Link], error) {
	return get[api.List[api.Link]](ctx, c, "/v1/links", nil)
}

// Link claims an identity elsewhere; without Confirm it only says whose code it is.
func (c *Client) Link(ctx context.Context, in api.LinkInput) (api.Link, error) {
	return post[api.Link](ctx, c, "/v1/links", in, "")
}

// Unlink takes one away, and returns those that are left.
func (c *Client) Unlink(ctx context.Context, id string) (api.List[api.Link], error) {
	return post[api.List[api.Link]](ctx, c, "/v1/links/"+url.PathEscape(id)+"/remove", nil, "")
}

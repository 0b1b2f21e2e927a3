package client

import (
	"context"
	"errors"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// The pace of waiting: quick at first, when an opening is a matter of seconds, then sparing.
const (
	waitFirst = 200 * time.Millisecond
	waitMost  = 2 * time.Second
)

// WaitRequest returns the request as soon as it is no longer pending. When ctx ends first, it returns the request as last read
// with access.CodeTimeout (a deadline) or ctx's error. seen, if not nil, is called with each state that was read.
func (c *Client) WaitRequest(ctx context.Context, id string, seen func(api.Request)) (api.Request, error) {
	return wait(ctx, c, func(ctx context.Context) (api.Request, error) { return c.Request(ctx, id) }, func(r api.Request) bool {
		if seen != nil {
			seen(r)
		}
		return r.State.Final()
	}, func(r api.Request) *access.Error {
		return access.Errorf(access.CodeTimeout, "request %s is still %s", id, r.State).
			WithHint("an approver answers it with: curfew approve %s", id)
	})
}

// WaitGrant returns the grant as soon as it is ready, or over. When ctx ends first, it returns the grant as last read with
// access.CodeTimeout (a deadline) or ctx's error. seen, if not nil, is called with each state that was read.
func (c *Client) WaitGrant(ctx context.Context, id string, seen func(api.Grant)) (api.Grant, error) {
	return c.waitGrant(ctx, id, seen, func(g api.Grant) bool { return g.Ready || g.State.Final() })
}

// WaitShut returns the grant as soon as it is seen to be shut, with the same rules.
func (c *Client) WaitShut(ctx context.Context, id string, seen func(api.Grant)) (api.Grant, error) {
	return c.waitGrant(ctx, id, seen, func(g api.Grant) bool { return g.State.Final() })
}

func (c *Client) waitGrant(ctx context.Context, id string, seen func(api.Grant), done func(api.Grant) bool) (api.Grant, error) {
	return wait(ctx, c, func(ctx context.Context) (api.Grant, error) { return c.Grant(ctx, id) }, func(g api.Grant) bool {
		if seen != nil {
			seen(g)
		}
		return done(g)
	}, func(g api.Grant) *access.Error {
		e := access.Errorf(access.CodeTimeout, "grant %s is still %s", id, g.State)
		if g.NotReady != "" {
			e = access.Errorf(access.CodeTimeout, "grant %s is %s but does not let you in: %s", id, g.State, g.NotReady)
		} else if g.LastError != "" {
			e = access.Errorf(access.CodeTimeout, "grant %s is still %s: %s", id, g.State, g.LastError)
		}
		return e.WithHint("see it with: curfew grant show %s", id)
	})
}

// wait reads until done. An outage of the server is waited out: the state outlives it.
func wait[T any](ctx context.Context, c *Client, read func(context.Context) (T, error), done func(T) bool, late func(T) *access.Error) (T, error) {
	var last T
	have := false
	end := func(err error) (T, error) {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && have {
			return last, late(last).Wrap(ctx.Err())
		}
		if ctx.Err() != nil && !have && err != nil {
			return last, err
		}
		return last, ctx.Err()
	}
	for pause := waitFirst; ; pause = min(pause*3/2, waitMost) {
		v, err := read(ctx)
		switch {
		case err == nil:
			last, have = v, true
			if done(v) {
				return v, nil
			}
		case ctx.Err() != nil:
			return end(err)
		case !have:
			return v, err
		default:
			switch access.CodeOf(err) {
			case access.CodeUnavailable, access.CodeRateLimited, access.CodeTimeout:
			default:
				return last, err
			}
		}
		select {
		case <-ctx.Done():
			return end(nil)
		case <-c.clock.After(pause):
		}
	}
}

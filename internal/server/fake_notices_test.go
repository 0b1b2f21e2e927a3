package server_test

import (
	"context"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

func (f *fake) notice(state notify.State) notify.Notice {
	return notify.Notice{ID: "n-0000000001", Channel: "ops", Subject: "r-0000000001", State: state, Attempts: 1, CreatedAt: f.clock.Now(), NextAt: f.clock.Now(),
		Event: notify.Event{Kind: notify.RequestCreated, At: f.clock.Now(), Actor: "requester", Message: "requester asks"}}
}

func (f *fake) Notices(ctx context.Context, c access.Caller, in broker.NoticeFilter) ([]notify.Notice, string, error) {
	done, err := f.enter(ctx, c, "Notices", in)
	if err != nil {
		return nil, "", err
	}
	defer done()
	return []notify.Notice{f.notice(notify.Dead)}, "", nil
}

func (f *fake) Notice(ctx context.Context, c access.Caller, id string) (notify.Notice, error) {
	done, err := f.enter(ctx, c, "Notice", id)
	if err != nil {
		return notify.Notice{}, err
	}
	defer done()
	return f.notice(notify.Sent), nil
}

func (f *fake) RetryNotice(ctx context.Context, c access.Caller, id string) (notify.Notice, error) {
	done, err := f.enter(ctx, c, "RetryNotice", id)
	if err != nil {
		return notify.Notice{}, err
	}
	defer done()
	return f.notice(notify.Waiting), nil
}

func (f *fake) TestChannel(ctx context.Context, c access.Caller, channel string) (notify.Notice, error) {
	done, err := f.enter(ctx, c, "TestChannel", channel)
	if err != nil {
		return notify.Notice{}, err
	}
	defer done()
	return f.notice(notify.Waiting), nil
}

func (f *fake) LinkIdentity(ctx context.Context, c access.Caller, in broker.LinkInput) (broker.Link, error) {
	done, err := f.enter(ctx, c, "LinkIdentity", in)
	if err != nil {
		return broker.Link{}, err
	}
	defer done()
	id := broker.Identity{Kind: "slack", Team: "T1", User: "U1"}
	return broker.Link{ID: id.Key(), Identity: id, Person: c.Name}, nil
}

func (f *fake) Links(ctx context.Context, c access.Caller) ([]broker.Link, error) {
	done, err := f.enter(ctx, c, "Links", nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return nil, nil
}

func (f *fake) Unlink(ctx context.Context, c access.Caller, id string) error {
	done, err := f.enter(ctx, c, "Unlink", id)
	if err == nil {
		done()
	}
	return err
}

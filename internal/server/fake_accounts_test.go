package server_test

import (
	"context"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

func (f *fake) Accounts(ctx context.Context, c access.Caller) ([]broker.Account, error) {
	done, err := f.enter(ctx, c, "Accounts", nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return []broker.Account{{Name: "dora", Key: "tid=1 oid=2", Roles: []access.Role{access.Approver}, FirstAt: f.clock.Now(), LastAt: f.clock.Now()}}, nil
}

func (f *fake) ReleaseAccount(ctx context.Context, c access.Caller, person, comment string) error {
	done, err := f.enter(ctx, c, "ReleaseAccount", []string{person, comment})
	if err != nil {
		return err
	}
	done()
	return nil
}

func (f *fake) Sessions(ctx context.Context, c access.Caller, all bool) ([]broker.Session, error) {
	done, err := f.enter(ctx, c, "Sessions", all)
	if err != nil {
		return nil, err
	}
	defer done()
	return []broker.Session{{ID: broker.HashSecret("x"), Name: c.Name, Roles: c.Roles, Via: "browser", EndsAt: f.clock.Now().Add(time.Hour)}}, nil
}

func (f *fake) EndSessions(ctx context.Context, c access.Caller, in broker.EndSessionsInput) (int, error) {
	done, err := f.enter(ctx, c, "EndSessions", in)
	if err != nil {
		return 0, err
	}
	defer done()
	return 2, nil
}

func (f *fake) CreateToken(ctx context.Context, c access.Caller, in broker.TokenInput) (broker.APIToken, string, error) {
	done, err := f.enter(ctx, c, "CreateToken", in)
	if err != nil {
		return broker.APIToken{}, "", err
	}
	defer done()
	return broker.APIToken{ID: "t-0000000001", Name: in.Name, Roles: in.Roles, Sponsor: c.Name, ExpiresAt: f.clock.Now().Add(in.Life)}, "curfew_secret", nil
}

func (f *fake) Tokens(ctx context.Context, c access.Caller) ([]broker.APIToken, error) {
	done, err := f.enter(ctx, c, "Tokens", nil)
	if err != nil {
		return nil, err
	}
	defer done()
	return []broker.APIToken{{ID: "t-0000000001", Name: "ci", Roles: []access.Role{access.Requester}, Sponsor: "root"}}, nil
}

func (f *fake) RevokeToken(ctx context.Context, c access.Caller, id, comment string) error {
	done, err := f.enter(ctx, c, "RevokeToken", []string{id, comment})
	if err != nil {
		return err
	}
	done()
	return nil
}

package server_test

import (
	"context"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

func (f *fake) Policy(ctx context.Context, c access.Caller) (policy.Info, error) {
	done, err := f.enter(ctx, c, "Policy", nil)
	if err != nil {
		return policy.Info{}, err
	}
	defer done()
	return policy.Info{Digest: "d1", Rules: 1, Text: "rules:\n- name: all\n"}, nil
}

func (f *fake) PolicyWho(ctx context.Context, c access.Caller, vm string) (policy.WhoReport, error) {
	done, err := f.enter(ctx, c, "PolicyWho", vm)
	if err != nil {
		return policy.WhoReport{}, err
	}
	defer done()
	return policy.WhoReport{ID: vm, Machine: policy.Machine{Name: vm}, Digest: "d1", Ways: []policy.RuleView{{Rule: "all", Ports: "every port"}}}, nil
}

func (f *fake) ReplayPolicy(ctx context.Context, c access.Caller, text string) (policy.ReplayReport, error) {
	done, err := f.enter(ctx, c, "ReplayPolicy", text)
	if err != nil {
		return policy.ReplayReport{}, err
	}
	defer done()
	return policy.ReplayReport{Digest: "d2", Since: f.clock.Now(), Requests: 1, Changed: []policy.Replayed{{ID: "r-0000000001", Outcome: policy.Refused, Text: "no"}}}, nil
}

package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/policy"
)

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// entries returns the log's entries of an action.
func entries(s *bt.Stack, action string) (out []audit.Entry) {
	for _, e := range s.Log() {
		if e.Action == action {
			out = append(out, e)
		}
	}
	return out
}

// A policy is taken when its text changed, was read twice alike and is right; a wrong one is refused loudly, and the old one stays.
func TestPolicyIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "10-a.yaml"), filepath.Join(dir, "20-b.yaml")
	put(t, a, "rules: [{name: all, max_duration: 2h}]\n")
	put(t, filepath.Join(dir, ".hidden.yaml"), "nonsense")
	put(t, filepath.Join(dir, "notes.txt"), "nonsense")
	var log bytes.Buffer
	r, err := newRuler(policy.Document{}, dir, clock.System{}, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{Rules: r.policy})
		defer s.Stop()
		ctx := t.Context()
		r.begin(ctx, s.Broker)
		r.begin(ctx, s.Broker)
		if got := entries(s, "policy.load"); len(got) != 1 || got[0].Detail["digest"] == "" {
			t.Fatalf("%v", got)
		}
		most := func() time.Duration {
			t.Helper()
			p, err := s.Broker.PlanRequest(ctx, bt.Requester, broker.RequestInput{VMs: []string{"web-01"}, Duration: 10 * time.Minute, Reason: "x"})
			if err != nil {
				t.Fatal(err)
			}
			return p.Limits.MaxDuration
		}
		s.Protect("web-01")
		look := func(n int) {
			for range n {
				r.look(ctx, s.Broker, false)
			}
		}
		look(3)
		if got := most(); got != 2*time.Hour || len(entries(s, "policy.load")) != 1 {
			t.Errorf("%s", got)
		}

		put(t, b, "rules: [{name: web, vms: ['web-*'], max_duration: 1h}]\n")
		look(1)
		if got := most(); got != 2*time.Hour {
			t.Errorf("taken at first sight: %s", got)
		}
		look(1)
		if got := most(); got != time.Hour {
			t.Errorf("not taken at the second: %s", got)
		}
		got := entries(s, "policy.load")
		if len(got) != 2 || !strings.Contains(got[1].Detail["changes"], "rule web: is new") || got[1].Detail["was"] != got[0].Detail["digest"] || got[1].Actor != "curfew" {
			t.Errorf("%+v", got)
		}

		put(t, b, "rules: [{name: web, vms: ['web-*'], max_duration: 3h, approvers: ['group:x']}]\n")
		look(5)
		st := s.Broker.Status(ctx)
		if most() != time.Hour || len(entries(s, "policy.load")) != 2 || !strings.Contains(st.Policy, "there is no such group") || !st.Ready {
			t.Errorf("%s, %+v", most(), st)
		}
		ref := entries(s, "policy.refuse")
		if len(ref) != 1 || ref[0].Outcome != audit.Refused || !strings.Contains(ref[0].Detail["error"], "20-b.yaml:1:55") {
			t.Errorf("%+v", ref)
		}
		if testutil.ToFloat64(r.refused) != 1 || !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("not loud: %s", log.String())
		}
		info, err := s.Broker.Policy(ctx, bt.Admin)
		if err != nil || info.Rules != 2 || info.Refused == "" || !strings.Contains(info.Text, "max_duration: 1h") {
			t.Errorf("%+v, %v", info, err)
		}

		if err := os.Remove(a); err != nil { // another fault
			t.Fatal(err)
		}
		if err := os.Remove(b); err != nil {
			t.Fatal(err)
		}
		look(3)
		if ref := entries(s, "policy.refuse"); most() != time.Hour || len(ref) != 2 || !strings.Contains(ref[1].Detail["error"], "no *.yaml") {
			t.Errorf("%+v", ref)
		}

		put(t, a, "rules: [{name: all, max_duration: 4h}]\n")
		r.look(ctx, s.Broker, true) // by a signal: at once
		if most() != 4*time.Hour || s.Broker.Status(ctx).Policy != "" || testutil.ToFloat64(r.refused) != 0 || testutil.ToFloat64(r.rules) != 1 {
			t.Errorf("%s", most())
		}
	})
}

// P7: a policy that cannot be recorded is not taken; it is tried again.
func TestPolicyThatCannotBeRecordedIsNotTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	put(t, file, "rules: [{name: all}]\n")
	r, err := newRuler(policy.Document{}, file, clock.System{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{Rules: r.policy})
		defer s.Stop()
		was := r.now.Load().Digest()
		put(t, file, "rules: [{name: all}, {name: more}]\n")
		broken, err := broker.New(t.Context(), broker.Config{Installation: bt.Installation, Store: mute{s.Store}, Spool: s.Spool, Clock: s.Clock, Inventory: s.Inventory,
			Backend: s.Backend, Policy: r.policy})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r.look(t.Context(), broken, false)
		}
		if r.now.Load().Digest() != was {
			t.Error("taken without an entry")
		}
		r.look(t.Context(), s.Broker, false)
		if r.now.Load().Digest() == was {
			t.Error("not tried again")
		}
	})
}

// mute is a store that takes no changes once it is set up.
type mute struct{ broker.Store }

func (m mute) Update(ctx context.Context, fn func(broker.Tx) error) error {
	return m.Store.Update(ctx, func(tx broker.Tx) error { return fn(silent{tx}) })
}

type silent struct{ broker.Tx }

func (silent) Append(audit.Entry) (audit.Entry, error) {
	return audit.Entry{}, access.Errorf(access.CodeUnavailable, "the log cannot be written").WithHint("try again")
}

// The first policy must be right.
func TestFirstPolicyMustBeRight(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	for _, text := range []string{"", "rules: [{nam: x}]", "rulez: []"} {
		put(t, file, text)
		if _, err := newRuler(policy.Document{}, file, clock.System{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); access.CodeOf(err) != access.CodeInvalid {
			t.Errorf("%q: %v", text, err)
		}
	}
	_, err := newRuler(policy.Document{}, file+"x", clock.System{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if e := new(access.Error); !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("%v", err)
	}
}

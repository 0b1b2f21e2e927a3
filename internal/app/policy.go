package app

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/policy"
)

// policyPoll is how often the text of a policy is looked at. What is new is taken once it was read twice alike: a file that is being
// written is not one.
const policyPoll = 2 * time.Second

// ruler holds the policy that is in force, and puts another one in its place when the text changes and is right. Those that are wrong
// are refused loudly, and the one in force stays.
type ruler struct {
	path  string // "": the policy stands in the configuration and does not change
	clock clock.Clock
	log   *slog.Logger
	now   atomic.Pointer[policy.Set]

	tried, seen string // sums of the text that was judged last, and that was read last

	rules   prometheus.Gauge
	refused prometheus.Gauge
	loads   *prometheus.CounterVec
}

// newRuler reads the policy. The first one must be right.
func newRuler(d policy.Document, path string, clk clock.Clock, log *slog.Logger, reg prometheus.Registerer) (*ruler, error) {
	r := &ruler{path: path, clock: clk, log: log,
		rules:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_policy_rules", Help: "Rules of the policy in force."}),
		refused: prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_policy_refused", Help: "1 while the newest text of the policy is wrong, and the one before is in force."}),
		loads:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_policy_loads_total", Help: "New texts of the policy, by what became of them."}, []string{"outcome"})}
	for _, c := range []prometheus.Collector{r.rules, r.refused, r.loads} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	if path != "" {
		text, err := config.ReadPolicy(path)
		if err != nil {
			return nil, err
		}
		d, r.tried = text.Document(), text.Sum
	}
	set, err := policy.New(d)
	if err != nil {
		return nil, err
	}
	r.put(set)
	return r, nil
}

func (r *ruler) put(s *policy.Set) {
	r.now.Store(s)
	r.rules.Set(float64(s.Count()))
	r.refused.Set(0)
}

// policy is what the broker asks.
func (r *ruler) policy() broker.Policy { return r.now.Load() }

// from says where the policy is from.
func (r *ruler) from() string {
	if r.path == "" {
		return "the configuration"
	}
	return r.path
}

// begin records the policy that the server starts with. Where that cannot be done nothing may open anyway (P7).
func (r *ruler) begin(ctx context.Context, b *broker.Broker) {
	if err := b.NotePolicy(ctx, r.now.Load(), r.from(), nil); err != nil {
		r.log.Error("the policy that is in force could not be recorded", "error", err)
	}
}

// run looks at the text every now and then, and at once when asked by a signal, until ctx ends.
func (r *ruler) run(ctx context.Context, b *broker.Broker) {
	if r.path == "" {
		return
	}
	hup := make(chan os.Signal, 1)
	if len(hangup) > 0 {
		signal.Notify(hup, hangup...)
		defer signal.Stop(hup)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.log.Info("asked to read the policy again", "policy", r.path)
			r.look(ctx, b, true)
		case <-r.clock.After(policyPoll):
			r.look(ctx, b, false)
		}
	}
}

// look reads the text once, and takes it when it is new, was read so before or need not be, and is right.
func (r *ruler) look(ctx context.Context, b *broker.Broker, atOnce bool) {
	text, err := config.ReadPolicy(r.path)
	sum := text.Sum
	if err != nil {
		sum = "unreadable: " + err.Error()
	}
	again := sum == r.seen
	r.seen = sum
	if sum == r.tried || !again && !atOnce {
		return
	}
	var set *policy.Set
	if err == nil {
		set, err = policy.New(text.Document())
	}
	if err != nil {
		r.tried = sum
		r.refused.Set(1)
		r.loads.WithLabelValues("refused").Inc()
		r.log.Error("the new policy is not taken, and the one in force stays", "policy", r.path, "error", err)
		b.RefusePolicy(ctx, r.path, err)
		return
	}
	changes := policy.Diff(r.now.Load(), set, r.clock.Now())
	if err := b.NotePolicy(ctx, set, r.path, changes); err != nil { // tried again at the next look
		r.log.Error("the new policy could not be recorded, and so is not taken", "policy", r.path, "code", access.CodeOf(err), "error", err)
		return
	}
	r.tried = sum
	r.put(set)
	r.loads.WithLabelValues("taken").Inc()
	r.log.Info("a new policy is in force", "policy", r.path, "rules", set.Count(), "digest", set.Digest(), "changes", len(changes))
	for _, c := range changes {
		r.log.Info("policy change", "effect", c.Effect, "about", c.About, "what", c.Text)
	}
}

package notify

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Metrics count deliveries, and read from the outbox what waits.
type Metrics struct {
	attempts *prometheus.CounterVec
	took     *prometheus.HistogramVec
	open     *prometheus.GaugeVec
}

var (
	waitingDesc = prometheus.NewDesc("curfew_notify_waiting", "Notices that are not delivered yet.", []string{"channel"}, nil)
	deadDesc    = prometheus.NewDesc("curfew_notify_dead", "Notices that were given up: curfew notify list --state dead.", []string{"channel"}, nil)
	oldestDesc  = prometheus.NewDesc("curfew_notify_oldest_seconds", "Age of the oldest notice that is not delivered yet.", []string{"channel"}, nil)
)

// NewMetrics registers the metrics; with a nil registry they are counted for nobody.
func NewMetrics(reg prometheus.Registerer, counts func(context.Context) ([]Count, error), c clock.Clock) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_notify_attempts_total",
			Help: "Attempts to deliver a notice, by what became of it: sent, failed and tried again, or dead."}, []string{"channel", "result"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "curfew_notify_attempt_seconds", Help: "How long an attempt took.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10}}, []string{"channel"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "curfew_notify_circuit_open", Help: "1 while a channel is left alone because it does not work."},
			[]string{"channel"}),
	}
	if reg != nil {
		reg.MustRegister(m.attempts, m.took, m.open, outboxCollector{counts, c})
	}
	return m
}

func (m *Metrics) attempt(channel, result string, took time.Duration) {
	m.attempts.WithLabelValues(channel, result).Inc()
	if took > 0 {
		m.took.WithLabelValues(channel).Observe(took.Seconds())
	}
}

func (m *Metrics) circuit(channel string, open bool) {
	v := 0.0
	if open {
		v = 1
	}
	m.open.WithLabelValues(channel).Set(v)
}

// outboxCollector asks the outbox when somebody looks.
type outboxCollector struct {
	counts func(context.Context) ([]Count, error)
	clock  clock.Clock
}

// Describe implements prometheus.Collector.
func (outboxCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- deadDesc
	ch <- oldestDesc
}

// Collect implements prometheus.Collector. A store that cannot be read leaves the figures out: none is better than a wrong one.
func (o outboxCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	counts, err := o.counts(ctx)
	if err != nil {
		return
	}
	now := o.clock.Now()
	for _, c := range counts {
		age := 0.0
		if !c.Oldest.IsZero() {
			age = max(now.Sub(c.Oldest).Seconds(), 0)
		}
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(c.Waiting), c.Channel)
		ch <- prometheus.MustNewConstMetric(deadDesc, prometheus.GaugeValue, float64(c.Dead), c.Channel)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age, c.Channel)
	}
}

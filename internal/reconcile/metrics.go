package reconcile

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
)

// Metrics is what operators watch. All durations are in seconds.
type Metrics struct {
	Writes    *prometheus.CounterVec // by kind (opening, closing) and outcome
	OpenDelay prometheus.Histogram   // approval to ready
	Lateness  prometheus.Histogram   // end of the window to seen shut
	Drift     *prometheus.CounterVec // by kind
	Sweeps    prometheus.Counter
	Panics    prometheus.Counter
	Retries   prometheus.Counter
	grants    *grantGauges
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Writes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_writes_total", Help: "Changes of places in Azure."}, []string{"kind", "outcome"}),
		OpenDelay: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "curfew_open_seconds", Help: "From the start of an opening until it was verified.", Buckets: []float64{.1, .5, 1, 2, 5, 10, 30, 60, 300}}),
		Lateness:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "curfew_close_lateness_seconds", Help: "From the end of a window until it was seen shut.", Buckets: []float64{.1, .5, 1, 2, 5, 10, 30, 60, 300, 3600}}),
		Drift:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_drift_total", Help: "Rules of ours that somebody else changed or removed."}, []string{"kind"}),
		Sweeps:    prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_sweeps_total", Help: "Whole sweeps."}),
		Panics:    prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_panics_total", Help: "Faults of our own that were caught."}),
		grants:    &grantGauges{},
		Retries:   prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_place_retries_total", Help: "Runs of a place that have to be tried again."}),
	}
	if reg != nil {
		reg.MustRegister(m.Writes, m.OpenDelay, m.Lateness, m.grants, m.Drift, m.Sweeps, m.Panics, m.Retries)
	}
	return m
}

// grantGauges counts grants when it is asked, so that what is overdue is seen in the next scrape and not after the next sweep.
type grantGauges struct {
	from atomic.Pointer[func() ([]access.Grant, time.Time)] // what is live, and the time by which that is judged; nil before a reconciler has it
}

var (
	overdueDesc = prometheus.NewDesc("curfew_grants_overdue", "Grants whose time is over and that are not seen to be shut.", nil, nil)
	liveDesc    = prometheus.NewDesc("curfew_grants_live", "Grants that are opening or open.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *grantGauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- overdueDesc
	ch <- liveDesc
}

// Collect implements prometheus.Collector.
func (c *grantGauges) Collect(ch chan<- prometheus.Metric) {
	live, overdue := 0, 0
	if from := c.from.Load(); from != nil {
		grants, now := (*from)()
		for _, g := range grants {
			if g.State == access.Active || g.State == access.Activating {
				live++
			}
			if g.Overdue(now) {
				overdue++
			}
		}
	}
	ch <- prometheus.MustNewConstMetric(overdueDesc, prometheus.GaugeValue, float64(overdue))
	ch <- prometheus.MustNewConstMetric(liveDesc, prometheus.GaugeValue, float64(live))
}

package reconcile

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what operators watch. All durations are in seconds.
type Metrics struct {
	Writes    *prometheus.CounterVec // by kind (opening, closing) and outcome
	OpenDelay prometheus.Histogram   // approval to ready
	Lateness  prometheus.Histogram   // end of the window to seen shut
	Overdue   prometheus.Gauge
	Live      prometheus.Gauge
	Drift     *prometheus.CounterVec // by kind
	Sweeps    prometheus.Counter
	Panics    prometheus.Counter
	Retries   prometheus.Counter
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Writes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_writes_total", Help: "Changes of places in Azure."}, []string{"kind", "outcome"}),
		OpenDelay: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "curfew_open_seconds", Help: "From the start of an opening until it was verified.", Buckets: []float64{.1, .5, 1, 2, 5, 10, 30, 60, 300}}),
		Lateness:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "curfew_close_lateness_seconds", Help: "From the end of a window until it was seen shut.", Buckets: []float64{.1, .5, 1, 2, 5, 10, 30, 60, 300, 3600}}),
		Overdue:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_grants_overdue", Help: "Grants whose time is over and that are not seen to be shut."}),
		Live:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_grants_live", Help: "Grants that are opening or open."}),
		Drift:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_drift_total", Help: "Rules of ours that somebody else changed or removed."}, []string{"kind"}),
		Sweeps:    prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_sweeps_total", Help: "Whole sweeps."}),
		Panics:    prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_panics_total", Help: "Faults of our own that were caught."}),
		Retries:   prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_place_retries_total", Help: "Runs of a place that have to be tried again."}),
	}
	if reg != nil {
		reg.MustRegister(m.Writes, m.OpenDelay, m.Lateness, m.Overdue, m.Live, m.Drift, m.Sweeps, m.Panics, m.Retries)
	}
	return m
}

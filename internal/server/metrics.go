package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own. Labels are routes as they stand in the API, never paths, so that their number is bounded.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	streams  prometheus.Gauge
	panics   prometheus.Counter
	signIns  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_http_requests_total",
			Help: "Calls answered, by method, route and status."}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "curfew_http_request_duration_seconds",
			Help:    "Time to answer a call, event streams aside.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120}}, []string{"method", "route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_http_requests_in_flight", Help: "Calls being answered."}),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_http_event_streams", Help: "Event streams that are open."}),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_http_panics_total", Help: "Calls that ended in a panic."}),
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "curfew_http_refused_total",
			Help: "Calls refused before they reached a handler, by reason."}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.inFlight, m.streams, m.panics, m.signIns} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(method, route, status string, took time.Duration, stream bool) {
	m.requests.WithLabelValues(method, route, status).Inc()
	if !stream {
		m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
	}
}

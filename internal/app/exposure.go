package app

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/scan"
)

// exposure turns the newest scan into metrics. What it counts begins anew with the process, as counters may.
type exposure struct {
	clock clock.Clock

	mu    sync.Mutex
	last  *scan.Head
	finds map[[3]string]int  // rule, severity, status
	open  map[door]time.Time // ports that the Internet reaches, and since when they are counted
	hours map[door]float64   // of what was counted before
	gaps  int
}

// door is a port of a machine that the Internet reaches.
type door struct{ vm, port string }

var (
	findingsDesc = prometheus.NewDesc("curfew_scan_findings", "Findings of the newest scan that fail or could not be judged.", []string{"rule", "severity", "status"}, nil)
	openDesc     = prometheus.NewDesc("curfew_exposed_ports", "Management ports that the Internet reaches, by the newest scan.", nil, nil)
	hoursDesc    = prometheus.NewDesc("curfew_exposed_port_hours_total", "Hours for which a management port stood open to the Internet, as scans saw it.", []string{"vm", "port"}, nil)
	scanAtDesc   = prometheus.NewDesc("curfew_scan_timestamp_seconds", "When the newest scan was made.", nil, nil)
	scanTookDesc = prometheus.NewDesc("curfew_scan_duration_seconds", "How long the newest scan took.", nil, nil)
	scanGapsDesc = prometheus.NewDesc("curfew_scan_gaps", "Sources that the newest scan could not read.", nil, nil)
)

func newExposure(c clock.Clock) *exposure {
	return &exposure{clock: c, open: map[door]time.Time{}, hours: map[door]float64{}}
}

// note takes a scan in. A port that is seen open counts from now on; one that is not seen any more counts until now, because nobody
// knows when it was shut in between.
func (x *exposure) note(rec broker.ScanRecord) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.clock.Now()
	head := rec.Head
	x.last, x.finds, x.gaps = &head, map[[3]string]int{}, len(rec.Report.Gaps)
	seen, unsure := map[door]bool{}, map[string]bool{}
	for _, f := range rec.Report.Findings {
		if f.Status == scan.Fail || f.Status == scan.Unknown {
			x.finds[[3]string{string(f.Rule), string(f.Severity), string(f.Status)}]++
		}
		if f.Rule != scan.VMPortExposed {
			continue
		}
		unsure[f.Resource] = f.Status == scan.Unknown
		for _, p := range f.Evidence.Ports {
			if p.Exposure == scan.ExposedInternet {
				seen[door{f.Resource, strconv.Itoa(int(p.Port))}] = true
			}
		}
	}
	for d, since := range x.open {
		if !seen[d] && !unsure[d.vm] { // what could not be judged is not taken for shut
			x.hours[d] += now.Sub(since).Hours()
			delete(x.open, d)
		}
	}
	for d := range seen {
		if _, counted := x.open[d]; !counted {
			x.open[d] = now
		}
	}
}

// Describe implements prometheus.Collector.
func (x *exposure) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{findingsDesc, openDesc, hoursDesc, scanAtDesc, scanTookDesc, scanGapsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Before the first scan there is nothing to tell, and no zero that would look like good news.
func (x *exposure) Collect(ch chan<- prometheus.Metric) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.last == nil {
		return
	}
	now := x.clock.Now()
	for k, n := range x.finds {
		ch <- prometheus.MustNewConstMetric(findingsDesc, prometheus.GaugeValue, float64(n), k[0], k[1], k[2])
	}
	ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(len(x.open)))
	all := map[door]float64{}
	for d, h := range x.hours {
		all[d] = h
	}
	for d, since := range x.open {
		all[d] += now.Sub(since).Hours()
	}
	for d, h := range all {
		ch <- prometheus.MustNewConstMetric(hoursDesc, prometheus.CounterValue, h, d.vm, d.port)
	}
	ch <- prometheus.MustNewConstMetric(scanAtDesc, prometheus.GaugeValue, float64(x.last.At.UnixNano())/1e9)
	ch <- prometheus.MustNewConstMetric(scanTookDesc, prometheus.GaugeValue, x.last.Took)
	ch <- prometheus.MustNewConstMetric(scanGapsDesc, prometheus.GaugeValue, float64(x.gaps))
}

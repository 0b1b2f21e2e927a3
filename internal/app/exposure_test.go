package app

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/scan"
)

func seen(status scan.Status, vm string, ports ...uint16) scan.Finding {
	f := scan.Finding{Rule: scan.VMPortExposed, Severity: scan.High, Status: status, Resource: vm}
	for _, p := range ports {
		f.Evidence.Ports = append(f.Evidence.Ports, scan.PortEvidence{Port: p, Exposure: scan.ExposedInternet})
	}
	return f
}

// P10: hours go on counting for what could not be judged, and nothing is told before there was a scan.
func TestExposureMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExposure(clock.System{})
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(x)
		if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
			t.Errorf("before the first scan: %d, %v", n, err)
		}
		note := func(fs ...scan.Finding) {
			x.note(broker.ScanRecord{Head: scan.Head{At: time.Now(), Took: 2}, Report: scan.Report{Findings: fs}})
		}
		note(seen(scan.Fail, "a", 22, 3389), seen(scan.Fail, "b", 22))
		time.Sleep(2 * time.Hour)
		note(seen(scan.Fail, "a", 22), seen(scan.Unknown, "b"))
		time.Sleep(time.Hour)
		want := `# HELP curfew_exposed_port_hours_total Hours for which a management port stood open to the Internet, as scans saw it.
# TYPE curfew_exposed_port_hours_total counter
curfew_exposed_port_hours_total{port="22",vm="a"} 3
curfew_exposed_port_hours_total{port="22",vm="b"} 3
curfew_exposed_port_hours_total{port="3389",vm="a"} 2
# HELP curfew_exposed_ports Management ports that the Internet reaches, by the newest scan.
# TYPE curfew_exposed_ports gauge
curfew_exposed_ports 2
# HELP curfew_scan_findings Findings of the newest scan that fail or could not be judged.
# TYPE curfew_scan_findings gauge
curfew_scan_findings{rule="vm-management-port-exposed",severity="high",status="fail"} 1
curfew_scan_findings{rule="vm-management-port-exposed",severity="high",status="unknown"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "curfew_exposed_port_hours_total", "curfew_exposed_ports", "curfew_scan_findings"); err != nil {
			t.Error(err)
		}
	})
}

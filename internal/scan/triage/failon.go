package triage

import (
	"fmt"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Threshold is the severity from which on findings fail a run. The zero value never does.
type Threshold struct{ severity scan.Severity }

// ParseThreshold reads the value of --fail-on: a severity, or none.
func ParseThreshold(s string) (Threshold, error) {
	if s == "none" {
		return Threshold{}, nil
	}
	for _, v := range scan.Severities {
		if s == string(v) {
			return Threshold{v}, nil
		}
	}
	return Threshold{}, fmt.Errorf("--fail-on is %q: it may be %s or none", s, join(scan.Severities))
}

// String returns what ParseThreshold reads.
func (t Threshold) String() string {
	if t.severity == "" {
		return "none"
	}
	return string(t.severity)
}

// Fails tells whether exit code 3 applies: a finding that fails or is unknown, at or above the threshold, and neither suppressed nor
// known. Unknown counts, since it may be a failure (promise P10).
func (t Threshold) Fails(findings []scan.Finding) bool {
	for _, f := range findings {
		if t.severity != "" && f.Counts() && (f.Status == scan.Fail || f.Status == scan.Unknown) && !Worse(t.severity, f.Severity) {
			return true
		}
	}
	return false
}

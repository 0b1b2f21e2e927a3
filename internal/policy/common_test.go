package policy_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

var t0 = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC) // a Sunday

var web = access.Target{VM: access.VM{ID: "/subscriptions/s1/resourceGroups/rg-web/providers/Microsoft.Compute/virtualMachines/web-01", Name: "web-01", VMID: "v1"},
	Ports: access.Port(22), Protocol: access.TCP}

var otherVM = access.VM{ID: "/subscriptions/s1/resourceGroups/rg-db/providers/Microsoft.Compute/virtualMachines/db-01", Name: "db-01", VMID: "v2"}

var home = netip.MustParsePrefix("198.51.100.7/32")

func terms(d time.Duration) access.Terms {
	return access.Terms{Targets: []access.Target{web}, Source: home, Duration: d}
}

// wellSaid: an error says what, why and what to do next (P8).
func wellSaid(t *testing.T, err error) {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T (%v) is not an *access.Error", err, err)
	}
	if !slices.Contains(access.Codes, e.Code) || len(strings.Fields(e.Message)) < 3 || strings.HasSuffix(e.Message, ".") || e.Hint == "" ||
		strings.Contains(e.Message+e.Hint, "%!") || strings.Contains(e.Message+e.Hint, "0001-01-01") {
		t.Errorf("%s: %q, hint %q", e.Code, e.Message, e.Hint)
	}
	if e.Code == access.CodeInvalid && e.Field == "" && !strings.HasPrefix(e.Message, "the policy is wrong") {
		t.Errorf("%q does not name the field at fault", e.Message)
	}
}

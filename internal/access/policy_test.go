package access_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

func TestZeroLimitsAllowNobody(t *testing.T) {
	if (access.Limits{}).MayApprove(access.Authority{Name: "bob"}, t0, t0) {
		t.Error("limits that no policy set let somebody approve")
	}
	if (access.Caller{Roles: []access.Role{access.Admin}}).Has(access.Admin) || (access.Caller{Name: "a"}).Has(access.Admin) {
		t.Error("a caller without a name, or without the role, has it")
	}
}

func TestProtection(t *testing.T) {
	p := access.Protection{VM: web.VM, State: access.ProtectionOn, Ports: []access.ProtectedPort{
		{Ports: access.Ports{First: 20, Last: 30}, Protocol: access.TCP, Max: 3 * time.Hour},
		{Ports: access.Port(22), Protocol: access.TCP, Max: time.Hour, Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
		{Ports: access.Port(53), Protocol: access.UDP},
	}}
	at := func(ports access.Ports, proto access.Protocol) access.Target {
		return access.Target{VM: web.VM, Ports: ports, Protocol: proto}
	}
	far := netip.MustParsePrefix("203.0.113.9/32")
	for _, c := range []struct {
		name   string
		target access.Target
		source netip.Prefix
		d      time.Duration
		code   access.Code
	}{
		{"within", at(access.Port(22), access.TCP), home, time.Hour, ""},
		{"the stricter of two that cover it", at(access.Port(22), access.TCP), home, 2 * time.Hour, access.CodeDenied},
		{"its sources", at(access.Port(22), access.TCP), far, time.Hour, access.CodeDenied},
		{"next to it", at(access.Port(23), access.TCP), far, 3 * time.Hour, ""},
		{"too long", at(access.Port(23), access.TCP), far, 3*time.Hour + 1, access.CodeDenied},
		{"no limit of its own", at(access.Port(53), access.UDP), far, 24 * time.Hour, ""},
		{"other protocol", at(access.Port(22), access.UDP), home, time.Hour, access.CodeNotProtected},
		{"partly protected", at(access.Ports{First: 30, Last: 31}, access.TCP), home, time.Hour, access.CodeNotProtected},
		{"no port", at(access.Ports{}, access.TCP), home, time.Hour, access.CodeNotProtected},
		{"no source", at(access.Port(22), access.TCP), netip.Prefix{}, time.Hour, access.CodeDenied},
	} {
		err := p.Check(c.target, c.source, c.d)
		if access.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if err != nil {
			wellSaid(t, err)
		}
	}
	// P1: only a protection that is to stand is one.
	for s, want := range map[access.ProtectionState]bool{access.ProtectionOn: true, access.ProtectionPending: true, access.ProtectionFailed: true,
		access.ProtectionRemoving: false, access.ProtectionRemoved: false, "": false, "ON": false} {
		q := p
		q.State = s
		err := q.Check(at(access.Port(22), access.TCP), home, time.Hour)
		if (err == nil) != want || q.Shields() != want {
			t.Errorf("%q: %v, want covered: %v", s, err, want)
		}
		if err != nil {
			wellSaid(t, err)
		}
	}
}

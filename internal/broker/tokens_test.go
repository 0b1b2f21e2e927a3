package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// P6: nobody decides on what their own token asked, and no program decides on anything.
func TestNobodyDecidesOnWhatTheirTokenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{})
		defer s.Stop()
		s.Protect("web-01")
		b := s.Broker
		sponsor := access.Caller{Name: "Both", Roles: []access.Role{access.Requester, access.Approver, access.Admin}} // one of the stack's people, in another case
		tok, secret, err := b.CreateToken(t.Context(), sponsor, broker.TokenInput{Name: "ci", Roles: []access.Role{access.Requester}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.TokenCaller(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.CreateRequest(t.Context(), c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "x", Source: "198.51.100.1"})
		if err != nil {
			t.Fatal(err)
		}
		if r.Sponsor != sponsor.Name || r.Kind != access.APIToken || r.Requester != "token:"+tok.Name {
			t.Errorf("the request: %+v", r)
		}
		everything := []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin}
		for _, who := range []access.Caller{sponsor, bt.Both, {Name: " BOTH", Roles: everything}, {Name: "workload:deploy", Kind: access.Workload, Roles: everything},
			{Name: "token:other", Kind: access.APIToken, Roles: everything}} {
			if _, err := b.Approve(t.Context(), who, r.ID, broker.ReviewInput{}); access.CodeOf(err) != access.CodeDenied {
				t.Errorf("%q (%s) approves: %v", who.Name, who.Kind, err)
			}
			if _, err := b.Deny(t.Context(), who, r.ID, ""); access.CodeOf(err) != access.CodeDenied {
				t.Errorf("%q (%s) denies: %v", who.Name, who.Kind, err)
			}
		}
		if r, err = b.Approve(t.Context(), bt.Approver, r.ID, broker.ReviewInput{}); err != nil || r.State != access.Approved {
			t.Errorf("another approver: %+v, %v", r.State, err)
		}
	})
}

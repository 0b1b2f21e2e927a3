package azure_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func answer(status int, body string, header ...string) transport {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{"Content-Type": {"application/json"}}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: h, Request: r,
			Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

// Real bodies, as they were recorded or quoted; the class of each by its most specific code.
func TestClassesOfRealBodies(t *testing.T) {
	raw, err := os.ReadFile(testkit.Shared(t, "azure", "observed", "arm-error-bodies.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Errors []struct {
			HTTP   int             `json:"http"`
			Where  string          `json:"where"`
			Source string          `json:"source"`
			Body   json.RawMessage `json:"body"`
		} `json:"errors"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	want := map[string]azure.Class{
		"RetryableErrorDueToAnotherOperation": azure.Busy, "ReferencedResourceNotProvisioned": azure.Busy,
		"PreconditionFailedEtagMismatch": azure.Precondition, "ResourceNotFound": azure.NotFound, "ResourceGroupNotFound": azure.NotFound,
		"CanceledAndSupersededDueToAnotherOperation": azure.Superseded, "SecurityRuleConflict": azure.Invalid,
		"SubscriptionRequestsThrottled": azure.Throttled,
	}
	seen := map[string]bool{}
	for _, e := range file.Errors {
		synctest.Test(t, func(t *testing.T) {
			rt := answer(e.HTTP, string(e.Body))
			if e.HTTP == 200 { // the poll of an operation
				rt = func(r *http.Request) (*http.Response, error) {
					if r.Method == http.MethodDelete {
						return answer(202, "", "Azure-AsyncOperation", "https://management.azure.com/subscriptions/x/operations/y?api-version=1&s=SIGNED")(r)
					}
					return answer(200, string(e.Body))(r)
				}
			}
			c := newClient(t, "t", rt, func(o *azure.Options) { o.OperationTimeout = 10*time.Minute + time.Second })
			ctx := t.Context()
			n := azure.NSG{}
			if err := json.Unmarshal([]byte(`{"id":"`+nsgID+`","etag":"W/\"1\"","properties":{}}`), &n); err != nil {
				t.Fatal(err)
			}
			_, err := c.PutNSG(ctx, n, nil)
			if e.HTTP == 200 {
				err = c.DeleteRule(ctx, nsgID, "x")
			}
			var got *azure.Error
			if !errors.As(err, &got) {
				t.Fatalf("%s: got %v", e.Source, err)
			}
			seen[got.Code] = true
			if want[got.Code] == "" || got.Class != want[got.Code] {
				t.Errorf("%s: code %s is %q, want %q", e.Source, got.Code, got.Class, want[got.Code])
			}
			if got.Message == "" || strings.Contains(err.Error(), "SIGNED") {
				t.Errorf("%s: %v", e.Source, err)
			}
			if got.Code == "RetryableErrorDueToAnotherOperation" && azure.RetryAfter(err) != 11*time.Second {
				t.Errorf("the wait in the message was not read: %s", azure.RetryAfter(err))
			}
		})
	}
	for code := range want {
		if !seen[code] {
			t.Errorf("no body with code %s among the real ones", code)
		}
	}
}

func TestClassesByStatus(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   azure.Class
		shown  access.Code
	}{
		{400, "InvalidRequestFormat", azure.Invalid, access.CodeInternal},
		{401, "InvalidAuthenticationToken", azure.Unauthenticated, access.CodeAzureForbidden},
		{403, "AuthorizationFailed", azure.Forbidden, access.CodeAzureForbidden},
		{403, "RequestDisallowedByPolicy", azure.Forbidden, access.CodeAzureForbidden},
		{404, "ResourceNotFound", azure.NotFound, access.CodeNotFound},
		{409, "InUseNetworkSecurityGroupCannotBeDeleted", azure.Conflict, access.CodeConflict},
		{409, "ScopeLocked", azure.Locked, access.CodeAzureForbidden},
		{409, "ReadOnlyDisabledSubscription", azure.Locked, access.CodeAzureForbidden},
		{409, "AnotherOperationInProgress", azure.Busy, access.CodeAzureUnavailable},
		{412, "PreconditionFailed", azure.Precondition, access.CodeConflict},
		{429, "TooManyRequests", azure.Throttled, access.CodeAzureUnavailable},
		{429, "RetryableError", azure.Busy, access.CodeAzureUnavailable},
		{429, "AnotherOperationInProgress", azure.Busy, access.CodeAzureUnavailable},
		{500, "InternalServerError", azure.Transient, access.CodeAzureUnavailable},
		{503, "", azure.Transient, access.CodeAzureUnavailable},
		{504, "GatewayTimeout", azure.Transient, access.CodeAzureUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			body := fmt.Sprintf(`{"error":{"code":%q,"message":"because"}}`, c.code)
			if c.code == "" {
				body = "<html>"
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := newClient(t, "t", answer(c.status, body, "x-ms-request-id", "r-1")).NSG(ctx, nsgID)
			wantClass(t, err, c.want)
			shown := azure.UserError(fmt.Errorf("opening: %w", err))
			if shown.Code != c.shown || shown.Message == "" || shown.Hint == "" {
				t.Errorf("%d %s is shown as %+v", c.status, c.code, shown)
			}
			for _, part := range []string{"read network security group", nsgID} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
	if azure.UserError(nil) != nil || azure.Classify(nil) != "" {
		t.Error("nil is an error")
	}
	own := access.Errorf(access.CodeDenied, "no")
	if azure.UserError(fmt.Errorf("x: %w", own)) != own {
		t.Error("an error that is for people already was replaced")
	}
}

func TestReadsRetryWhatPasses(t *testing.T) {
	for _, f := range []sim.Fault{
		{Kind: "error", Status: 500}, {Kind: "error", Status: 503, RetryAfter: 7 * time.Second}, {Kind: "throttle", RetryAfter: 9 * time.Second},
		{Kind: "truncated"}, {Kind: "not-json"}, {Kind: "lost-reply"}, {Kind: "lost-request"}, {Kind: "another-operation"},
	} {
		t.Run(f.Kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSim(t, sim.Config{})
				c := simClient(t, s)
				f.Count = 2
				fault(t, s, f)
				start := time.Now()
				n := readNSG(t, c)
				if len(n.Rules) != 2 {
					t.Errorf("read %+v", n)
				}
				if took := time.Since(start); took < 2*f.RetryAfter || took < time.Second {
					t.Errorf("took %s with Retry-After %s", took, f.RetryAfter)
				}
				f.Count = 0 // for ever: it ends in an error of the right class, and never in an empty answer
				fault(t, s, f)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				_, err := c.ListNSGs(ctx, subID)
				want := azure.Transient
				switch f.Kind {
				case "throttle":
					want = azure.Throttled
				case "another-operation":
					want = azure.Busy
				}
				wantClass(t, err, want)
			})
		})
	}
}

func TestRepliesThatAreNoAnswer(t *testing.T) {
	for name, rt := range map[string]transport{
		"empty object":  answer(200, `{}`),
		"array":         answer(200, `[]`),
		"nothing":       answer(200, ``),
		"no properties": answer(200, `{"id":"`+nsgID+`"}`),
		"redirect":      answer(302, ``, "Location", "https://evil.example/"),
		"bad rule":      answer(200, `{"id":"`+nsgID+`","properties":{"securityRules":[{"name":"x"}]}}`),
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, "t", rt)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if n, err := c.NSG(ctx, nsgID); err == nil {
				t.Errorf("%s: read as %+v", name, n)
			}
			if l, err := c.ListVMs(ctx, subID); err == nil {
				t.Errorf("%s: listed as %+v", name, l)
			}
			for _, err := range c.Graph(ctx, []string{subID}, "resources | project id") {
				if err == nil {
					t.Errorf("%s: taken for rows", name)
				}
			}
		})
	}
}

func TestContextEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, sim.Config{})
		c := simClient(t, s)
		n := readNSG(t, c)
		fault(t, s, sim.Fault{Kind: "throttle", RetryAfter: time.Hour})
		for range 2 { // the second one waits in the queue that the first one's refusal made
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			start := time.Now()
			_, err := c.PutNSG(ctx, n, nil)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second+slack {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
		}
		if s.Writes(nsgID) != 0 {
			t.Error("something was written")
		}
	})
}

// Package gosdk_test drives the simulator with the official Azure SDK for Go, unmodified.
package gosdk_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

func TestMain(m *testing.M) { simtest.Main(m) }

// The validator has the specs of these versions. The clients are asked to speak them, so that what is recorded is what the specs say;
// TestNewestVersions leaves the clients their own.
var specVersions = map[string]string{"network": "2024-03-01", "compute": "2024-07-01", "graph": "2022-10-01", "security": "2020-01-01"}

// session is a sign-in at one simulated Azure.
type session struct {
	t        *testing.T
	sim      *simtest.Azure
	cred     azcore.TokenCredential
	co       azcore.ClientOptions
	versions map[string]string // by provider; without one the client speaks its own
}

func signIn(t *testing.T, a *simtest.Azure, rec *simtest.Recorder) *session {
	t.Helper()
	s := &session{t: t, sim: a, co: azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: a.URL + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: a.URL, Audience: a.URL + "/"}}},
		Transport: simtest.HTTPClient(t, a.CA, rec),
	}}
	cred, err := azidentity.NewClientSecretCredential(simtest.Tenant, simtest.ClientID, simtest.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: s.co, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	s.cred = cred
	return s
}

// options for the clients of one provider; "" leaves them their own version.
func (s *session) options(version string, policies ...policy.Policy) *arm.ClientOptions {
	o := &arm.ClientOptions{ClientOptions: s.co, DisableRPRegistration: true}
	o.APIVersion = version
	o.PerCallPolicies = policies
	return o
}

// must returns v; the client has been made with options that cannot fail otherwise.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// done polls to the end as often as the SDK lets it.
func done[T any](t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// all gathers the pages of a list.
func all[P, T any](t *testing.T, pager *runtime.Pager[P], values func(P) []T) []T {
	t.Helper()
	var out []T
	for pager.More() {
		p, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, values(p)...)
	}
	return out
}

// refused requires an error of the service with this status and code.
func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	var re *azcore.ResponseError
	if !errors.As(err, &re) || re.StatusCode != status || re.ErrorCode != code {
		t.Errorf("got %v, want %d %s", err, status, code)
	}
}

func contains[T any](list []T, name func(T) *string, want string) bool {
	for _, v := range list {
		if n := name(v); n != nil && strings.EqualFold(*n, want) {
			return true
		}
	}
	return false
}

// ifMatch makes a write conditional: the SDK offers no field for it.
type ifMatch struct{ etag string }

func (p ifMatch) Do(req *policy.Request) (*http.Response, error) {
	if p.etag != "" && req.Raw().Method != "GET" {
		req.Raw().Header.Set("If-Match", p.etag)
	}
	return req.Next()
}

// sshRule is an allow of SSH from one address.
func sshRule(priority int32, source string) armnetwork.SecurityRule {
	return armnetwork.SecurityRule{Properties: &armnetwork.SecurityRulePropertiesFormat{
		Access: to.Ptr(armnetwork.SecurityRuleAccessAllow), Direction: to.Ptr(armnetwork.SecurityRuleDirectionInbound), Protocol: to.Ptr(armnetwork.SecurityRuleProtocolTCP),
		Priority: to.Ptr(priority), SourceAddressPrefix: &source, SourcePortRange: to.Ptr("*"), DestinationAddressPrefix: to.Ptr("*"), DestinationPortRange: to.Ptr("22")}}
}

func power(view *armcompute.VirtualMachineInstanceView) string {
	if view != nil {
		for _, s := range view.Statuses {
			if code, ok := strings.CutPrefix(*s.Code, "PowerState/"); ok {
				return code
			}
		}
	}
	return ""
}

// The SDK's clients at the versions that the specs have. What they and the simulator said to each other is then put before oav.
func TestGoSDK(t *testing.T) {
	t.Parallel()
	rec := simtest.NewRecorder(t, simtest.Artefacts(t, "go"))
	s := signIn(t, simtest.Sim(t), rec)
	s.versions = specVersions
	for _, part := range []struct {
		name string
		run  func(*testing.T, *session)
	}{
		{"Subscriptions", subscriptions}, {"Resources", resources}, {"Machines", machines}, {"Interfaces", interfaces}, {"Groups", groups}, {"Rules", rules},
		{"ConditionalPut", conditionalPut}, {"ScaleSets", scaleSets}, {"JIT", justInTime}, {"ResourceGraph", resourceGraph}, {"Refusals", refusals},
	} {
		t.Run(part.name, func(t *testing.T) {
			own := *s
			own.t = t
			part.run(t, &own)
		})
	}
	t.Run("oav", func(t *testing.T) { simtest.Validate(t, rec.Dir(), "go") })
}

// The versions that the SDK asks for by itself are newer than the specs at hand.
func TestNewestVersions(t *testing.T) {
	t.Parallel()
	s := signIn(t, simtest.Sim(t), nil)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *session)
	}{{"Machines", machines}, {"Rules", rules}, {"ScaleSets", scaleSets}, {"JIT", justInTime}, {"ResourceGraph", resourceGraph}} {
		t.Run(part.name, func(t *testing.T) {
			own := *s
			own.t = t
			part.run(t, &own)
		})
	}
}

// A wrong secret is refused as Entra refuses it, and a wrong host's certificate is not believed.
func TestSignIn(t *testing.T) {
	t.Parallel()
	a := simtest.Sim(t)
	s := signIn(t, a, nil)
	wrong, err := azidentity.NewClientSecretCredential(simtest.Tenant, simtest.ClientID, "not-it", &azidentity.ClientSecretCredentialOptions{ClientOptions: s.co, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	var failed *azidentity.AuthenticationFailedError
	if _, err := wrong.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{a.URL + "/.default"}}); !errors.As(err, &failed) || !strings.Contains(err.Error(), "AADSTS7000215") {
		t.Errorf("a wrong secret: %v", err)
	}
	tok, err := s.cred.GetToken(context.Background(), policy.TokenRequestOptions{Scopes: []string{a.URL + "//.default"}})
	if err != nil || tok.Token == "" || time.Until(tok.ExpiresOn) < 30*time.Minute {
		t.Errorf("token %+v: %v", tok, err)
	}
}

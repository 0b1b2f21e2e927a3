package azure

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

// CredentialConfig says who Curfew is towards Azure.
type CredentialConfig struct {
	// Kind is default, client-secret, workload-identity, managed-identity or cli; empty is default. The default chain tries them
	// in the SDK's order and suits a laptop; in production name the one that is meant (FACTS 5).
	Kind         string
	Cloud        Cloud
	TenantID     string
	ClientID     string
	ClientSecret string
	TokenFile    string             // of workload identity; empty: from the environment
	Transport    policy.Transporter // nil: the SDK's
}

// CredentialKinds lists what Kind may be.
var CredentialKinds = []string{"default", "client-secret", "workload-identity", "managed-identity", "cli"}

// NewCredential makes a credential. It sends nothing; a credential that does not work shows at the first call, as
// Unauthenticated. An authority of one's own is not looked up at Microsoft's.
func NewCredential(o CredentialConfig) (azcore.TokenCredential, error) {
	if err := o.Cloud.check(); err != nil {
		return nil, err
	}
	opts := azcore.ClientOptions{Cloud: o.Cloud.configuration(), Transport: o.Transport}
	if u, err := url.Parse(o.Cloud.Authority); err == nil && u.Scheme == "http" {
		if opts.Transport == nil {
			opts.Transport = newTransport()
		}
		opts.Transport = loopbackTransport{host: u.Host, next: opts.Transport}
	}
	own := o.Cloud.Name == "custom"
	cred, err := func() (azcore.TokenCredential, error) {
		switch o.Kind {
		case "", "default":
			return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: opts,
				TenantID: o.TenantID, DisableInstanceDiscovery: own})
		case "client-secret":
			return azidentity.NewClientSecretCredential(o.TenantID, o.ClientID, o.ClientSecret,
				&azidentity.ClientSecretCredentialOptions{ClientOptions: opts, DisableInstanceDiscovery: own})
		case "workload-identity":
			return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: opts,
				TenantID: o.TenantID, ClientID: o.ClientID, TokenFilePath: o.TokenFile, DisableInstanceDiscovery: own})
		case "managed-identity":
			mi := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: opts}
			if o.ClientID != "" {
				mi.ID = azidentity.ClientID(o.ClientID)
			}
			return azidentity.NewManagedIdentityCredential(mi)
		case "cli":
			return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: o.TenantID})
		}
		return nil, fmt.Errorf("unknown kind %q: use one of %s", o.Kind, strings.Join(CredentialKinds, ", "))
	}()
	if err != nil {
		return nil, fmt.Errorf("azure credential: %w", err)
	}
	return cred, nil
}

// StaticToken is a credential whose token never changes: for the simulator and tests.
type StaticToken string

// GetToken implements azcore.TokenCredential.
func (t StaticToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(t), ExpiresOn: time.Unix(1<<40, 0)}, nil
}

// loopbackTransport lets the SDK, which insists on https and on an issuer that is named so, sign in at a loopback authority over
// plain HTTP: requests are put back to http, and the authority's description of itself to https.
type loopbackTransport struct {
	host string
	next policy.Transporter
}

// Do implements policy.Transporter.
func (t loopbackTransport) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || !strings.EqualFold(req.URL.Host, t.host) {
		return t.next.Do(req)
	}
	req = req.Clone(req.Context())
	req.URL.Scheme = "http"
	resp, err := t.next.Do(req)
	if err != nil || !strings.HasSuffix(req.URL.Path, "/.well-known/openid-configuration") {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	body = bytes.ReplaceAll(body, []byte("http://"+t.host), []byte("https://"+t.host))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Del("Content-Length")
	return resp, nil
}

package azure_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

// scopes is a credential that remembers for what it was asked.
type scopes struct{ asked []string }

func (s *scopes) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	s.asked = append(s.asked, o.Scopes...)
	return azcore.AccessToken{Token: "t", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// FACTS 5.
func TestClouds(t *testing.T) {
	for _, c := range []struct{ names, endpoint, scope, authority string }{
		{"public AzureCloud azurecloud", "https://management.azure.com", "https://management.core.windows.net//.default", "https://login.microsoftonline.com/"},
		{"government AzureUSGovernment", "https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net//.default", "https://login.microsoftonline.us/"},
		{"china AzureChinaCloud", "https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn//.default", "https://login.chinacloudapi.cn/"},
	} {
		for _, name := range strings.Fields(c.names) {
			cloud, err := azure.ParseCloud(name)
			if err != nil {
				t.Fatal(err)
			}
			if cloud.Authority != c.authority {
				t.Errorf("%s signs in at %s", name, cloud.Authority)
			}
			cred, host := &scopes{}, ""
			o := azure.Options{Cloud: cloud, Credential: cred, Transport: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				host = r.URL.Scheme + "://" + r.URL.Host
				return answer(200, `{"value":[]}`)(r)
			})}}
			cl, err := azure.New(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Subscriptions(t.Context()); err != nil {
				t.Fatal(err)
			}
			if host != c.endpoint || len(cred.asked) != 1 || cred.asked[0] != c.scope {
				t.Errorf("%s: asked %s for scope %v", name, host, cred.asked)
			}
		}
	}
	for _, name := range []string{"", "AzureGermanCloud", "pubic"} {
		if c, err := azure.ParseCloud(name); err == nil {
			t.Errorf("%q is taken for %s", name, c.Name)
		}
	}
	for _, bad := range [][3]string{
		{"http://azure.example", "", "https://login.example"}, {"https://azure.example", "", "http://login.example"},
		{"", "a", "https://login.example"}, {"ftp://azure.example", "", "https://login.example"}, {"https://azure.example", "", ""},
	} {
		if _, err := azure.CustomCloud(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if _, err := azure.New(azure.Options{Credential: azure.StaticToken("t")}); err == nil {
		t.Error("no cloud is taken for one")
	}
	if _, err := azure.New(azure.Options{Cloud: azure.Public}); err == nil {
		t.Error("no credential is taken for one")
	}
}

func TestClientSecretAgainstTheSimulator(t *testing.T) {
	s := newSim(t, sim.Config{})
	for _, endpoint := range []string{"http://127.0.0.1:4711", "https://azure.example"} {
		cloud, err := azure.CustomCloud(endpoint, "https://management.azure.com/", endpoint)
		if err != nil {
			t.Fatal(err)
		}
		hc := &http.Client{Transport: s.Transport()}
		for secret, want := range map[string]azure.Class{sim.ClientSecret: "", "wrong": azure.Unauthenticated} {
			cred, err := azure.NewCredential(azure.CredentialConfig{Kind: "client-secret", Cloud: cloud, TenantID: sim.TenantID, ClientID: sim.ClientID,
				ClientSecret: secret, Transport: hc})
			if err != nil {
				t.Fatal(err)
			}
			c, err := azure.New(azure.Options{Cloud: cloud, Credential: cred, Transport: hc})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.NSG(t.Context(), nsgID)
			wantClass(t, err, want)
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		}
	}
	if _, err := azure.NewCredential(azure.CredentialConfig{Kind: "magic", Cloud: azure.Public}); err == nil {
		t.Error("an unknown kind is taken")
	}
}

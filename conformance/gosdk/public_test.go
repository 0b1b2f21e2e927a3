package gosdk_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

// The public cloud as the SDK has it built in, discovery of the instance included, through the simulator's proxy; by a secret, a
// federated token, and the managed identity.
func TestPublicCloud(t *testing.T) {
	p := simtest.StartPublic(t)
	hc := simtest.HTTPClient(t, p.CA, nil)
	via, err := url.Parse(p.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	direct, ok := hc.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("transport %T", hc.Transport)
	}
	direct.Proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme == "http" { // the managed identity's endpoint is on the machine
			return nil, nil
		}
		return via, nil
	}
	co := azcore.ClientOptions{Cloud: cloud.AzurePublic, Transport: hc}
	assertion := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(assertion, []byte("x.y.z"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IDENTITY_ENDPOINT", p.Identity+"/msi/token")
	t.Setenv("IDENTITY_HEADER", "anything")
	for name, make := range map[string]func() (azcore.TokenCredential, error){
		"secret": func() (azcore.TokenCredential, error) {
			return azidentity.NewClientSecretCredential(simtest.Tenant, simtest.ClientID, simtest.ClientSecret, &azidentity.ClientSecretCredentialOptions{ClientOptions: co})
		},
		"workload identity": func() (azcore.TokenCredential, error) {
			return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: co, ClientID: simtest.ClientID, TenantID: simtest.Tenant, TokenFilePath: assertion})
		},
		"managed identity": func() (azcore.TokenCredential, error) {
			return azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: co})
		},
	} {
		t.Run(name, func(t *testing.T) {
			cred, err := make()
			if err != nil {
				t.Fatal(err)
			}
			c := must[*armcompute.VirtualMachinesClient](t)(armcompute.NewVirtualMachinesClient(simtest.Shop, cred, &arm.ClientOptions{ClientOptions: co}))
			vms := all(t, c.NewListAllPager(nil), func(p armcompute.VirtualMachinesClientListAllResponse) []*armcompute.VirtualMachine { return p.Value })
			if !contains(vms, func(v *armcompute.VirtualMachine) *string { return v.Name }, "web-01") {
				t.Errorf("%d machines, without web-01", len(vms))
			}
			d, err := c.BeginDeallocate(t.Context(), "shop-web", "web-02", nil)
			done(t, d, err)
		})
	}
	if res, err := hc.Get("https://example.com/"); err == nil {
		_ = res.Body.Close()
		t.Error("the proxy let a foreign host through")
	}
}

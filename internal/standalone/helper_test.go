package standalone_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// azureFor returns a client of the simulator that looks at operations more often than one would at Azure.
func azureFor(t *testing.T, rt http.RoundTripper) *azure.Client {
	t.Helper()
	cloud, err := azure.CustomCloud("https://management.simulated.example", "", "https://login.simulated.example/")
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: rt}
	cred, err := azure.NewCredential(azure.CredentialConfig{Kind: "client-secret", Cloud: cloud, TenantID: sim.TenantID, ClientID: sim.ClientID, ClientSecret: sim.ClientSecret, Transport: hc})
	if err != nil {
		t.Fatal(err)
	}
	c, err := azure.New(azure.Options{Cloud: cloud, Credential: cred, Transport: hc, PollInterval: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

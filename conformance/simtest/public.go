package simtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// Public is a simulated Azure under the public cloud's own host names, behind a proxy.
type Public struct {
	Proxy    string // http://127.0.0.1:port, for HTTPS_PROXY
	CA       string // file of the authority that signed the hosts' certificate
	Identity string // http://127.0.0.1:port, the managed identity's endpoints
}

// StartPublic starts the simulator in this process, for clients that know no other hosts than management.azure.com and
// login.microsoftonline.com. Nothing leaves the machine: the proxy refuses every other host.
func StartPublic(t testing.TB) Public {
	t.Helper()
	s, err := sim.New(sim.Config{Estate: estates.Demo()})
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := s.ServeProxy(t.Context(), "127.0.0.1:0", sim.ProxyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	identity, err := s.ServeIdentity(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(identity.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, proxy.CAPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return Public{Proxy: proxy.URL, CA: ca, Identity: identity.URL}
}

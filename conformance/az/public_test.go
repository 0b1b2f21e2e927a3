package az_test

import (
	"testing"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

// The public cloud as az has it built in, through the simulator's proxy; by a secret and by the managed identity.
func TestPublicCloud(t *testing.T) {
	log := newTranscript(t, "az-public")
	p := simtest.StartPublic(t)
	for name, login := range map[string][]string{
		"secret":           {"login", "--service-principal", "-u", simtest.ClientID, "-p", simtest.ClientSecret, "--tenant", simtest.Tenant},
		"managed identity": {"login", "--identity"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t, &simtest.Azure{CA: p.CA}, log)
			c.env = append(c.env, "HTTPS_PROXY="+p.Proxy, "https_proxy="+p.Proxy, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "MSI_ENDPOINT="+p.Identity+"/msi/token")
			c.ok("cloud", "set", "-n", "AzureCloud", "--profile", "2020-09-01-hybrid")
			c.ok(login...)
			c.ok("account", "set", "-s", simtest.Shop)
			if got := texts(c.ok("vm", "list"), "name"); !has(got, "web-01") {
				t.Errorf("machines: %v", got)
			}
			if got := ruleOf(c, "web-01-nsg", "allow-ssh"); at(got, "access") != "Allow" {
				t.Errorf("rule: %v", got)
			}
		})
	}
}

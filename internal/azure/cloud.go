package azure

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
)

// Cloud says where an Azure is. The zero value is no cloud, and New refuses it.
type Cloud struct {
	Name      string // as az spells it; "custom" for one's own
	Endpoint  string // of Azure Resource Manager, without a slash at the end
	Audience  string // for which tokens are asked
	Authority string // that signs people and services in
}

// The clouds that Microsoft runs. FACTS 5; the same values as `az cloud list`.
var (
	Public = Cloud{"AzureCloud", "https://management.azure.com",
		"https://management.core.windows.net/", "https://login.microsoftonline.com/"}
	Government = Cloud{"AzureUSGovernment", "https://management.usgovcloudapi.net",
		"https://management.core.usgovcloudapi.net/", "https://login.microsoftonline.us/"}
	China = Cloud{"AzureChinaCloud", "https://management.chinacloudapi.cn",
		"https://management.core.chinacloudapi.cn/", "https://login.chinacloudapi.cn/"}
)

// ParseCloud returns the cloud of a name: public, government, china, or az's names AzureCloud, AzureUSGovernment,
// AzureChinaCloud, in any case. An unknown name, and an empty one, is an error and never the public cloud.
func ParseCloud(name string) (Cloud, error) {
	switch strings.ToLower(name) {
	case "public", "azurecloud", "azurepublic":
		return Public, nil
	case "government", "usgovernment", "azureusgovernment", "azuregovernment":
		return Government, nil
	case "china", "azurechinacloud", "azurechina":
		return China, nil
	}
	return Cloud{}, fmt.Errorf("unknown cloud %q: use public, government or china, "+
		"or give endpoint, audience and authority of your own", name)
}

// CustomCloud describes an Azure of one's own, or the simulator. Plain HTTP is accepted for loopback addresses alone, because
// tokens travel there. An empty audience is the endpoint.
func CustomCloud(endpoint, audience, authority string) (Cloud, error) {
	c := Cloud{Name: "custom", Endpoint: strings.TrimRight(endpoint, "/"), Audience: audience, Authority: authority}
	if c.Audience == "" {
		c.Audience = c.Endpoint
	}
	return c, c.check()
}

func (c Cloud) check() error {
	if c == (Cloud{}) {
		return fmt.Errorf("no cloud was given: use public, government or china")
	}
	for what, s := range map[string]string{"endpoint": c.Endpoint, "authority": c.Authority} {
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Host == "":
			return fmt.Errorf("cloud %s: the %s %q is not a URL", c.Name, what, s)
		case u.Scheme == "http" && !loopback(u):
			return fmt.Errorf("cloud %s: the %s %s would carry tokens in the clear: use https", c.Name, what, s)
		case u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("cloud %s: the %s %s is neither https nor loopback http", c.Name, what, s)
		}
	}
	if c.Audience == "" {
		return fmt.Errorf("cloud %s: no audience was given", c.Name)
	}
	return nil
}

// plainHTTP tells whether the cloud's resource manager is reached without TLS, which check allows on loopback alone.
func (c Cloud) plainHTTP() bool { return strings.HasPrefix(c.Endpoint, "http:") }

// authority is what azidentity accepts: it refuses plain HTTP, so that a loopback authority is named as https here and its
// requests are put back by loopbackTransport.
func (c Cloud) authority() string {
	if rest, ok := strings.CutPrefix(c.Authority, "http://"); ok {
		return "https://" + rest
	}
	return c.Authority
}

func (c Cloud) configuration() cloud.Configuration {
	return cloud.Configuration{
		ActiveDirectoryAuthorityHost: c.authority(),
		Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: c.Endpoint, Audience: c.Audience},
		},
	}
}

func loopback(u *url.URL) bool {
	host := u.Hostname()
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// sameService tells whether an absolute URL that an answer named (a next page, an operation to poll) lies at the resource
// manager that we talk to, or at a regional name below it: our token goes nowhere else.
func (c Cloud) sameService(u *url.URL) bool {
	e, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != e.Scheme {
		return false
	}
	host, base := strings.ToLower(u.Host), strings.ToLower(e.Host)
	if host == base {
		return true
	}
	if _, _, err := net.SplitHostPort(base); err == nil { // a port names one service, not a region's
		return false
	}
	return strings.HasSuffix(host, "."+base)
}

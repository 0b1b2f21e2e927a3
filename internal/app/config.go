package app

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/server"
)

// FromConfig is what Start needs of a configuration file. It makes the data folder if there is none.
func FromConfig(c config.Config, version string) (Config, error) {
	out := Config{
		Installation: c.Installation, Database: filepath.Join(c.DataDir, "curfew.db"), Subscriptions: c.Azure.Subscriptions, Policy: c.Policy, PolicyFile: c.PolicyFile,
		Listen: c.Listen, TrustedProxies: c.TrustedProxies,
		RequestExpiry: time.Duration(c.RequestExpiry), KeyRetention: time.Duration(c.KeyRetention), SweepEvery: time.Duration(c.SweepInterval),
		ScanEvery: time.Duration(c.ScanInterval), ScanRetention: time.Duration(c.ScanRetention), Cloud: c.Azure.Cloud, Notify: c.Notify,
		Band: nsg.Band{Start: c.Band.First, End: c.Band.Last}, Version: version,
	}
	out.Emails = map[string]string{}
	for _, p := range c.People {
		if p.Email != "" {
			out.Emails[p.Name] = p.Email
		}
		out.People = append(out.People, server.Person{Name: p.Name, Roles: p.Roles, TokenSHA256: p.TokenSHA256, Subject: p.Subject})
	}
	if err := signInConfig(c, &out); err != nil {
		return out, err
	}
	if c.TLS.Cert != "" {
		var err error
		if out.TLS, err = server.LoadTLS(c.TLS.Cert, c.TLS.Key); err != nil {
			return out, err
		}
	}
	if k := c.Audit.SigningKeyFile; k != "" {
		var err error
		if out.Signing, err = LoadSigning(k, c.Audit.CheckpointFile, c.Installation, time.Duration(c.Audit.CheckpointInterval)); err != nil {
			return out, err
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return out, access.Errorf(access.CodeUnavailable, "the data folder %s cannot be used", c.DataDir).Wrap(err).
			WithHint("make it, writable for the server's account alone, or name another one under data_dir")
	}
	return out, nil
}

// AzureClient makes the client that a configuration asks for. It sends nothing.
func AzureClient(c config.Azure, clk clock.Clock, log *slog.Logger) (*azure.Client, error) {
	invalid := func(field string, err error) error {
		e := access.Errorf(access.CodeInvalid, "the Azure of the configuration cannot be used: %v", err)
		e.Field = field
		return e.WithHint("look at azure in the configuration; docs/configuration.md describes each key")
	}
	cloud, err := azure.ParseCloud(c.Cloud)
	if strings.EqualFold(c.Cloud, "custom") {
		cloud, err = azure.CustomCloud(c.Endpoint, c.Audience, c.Authority)
	}
	if err != nil {
		return nil, invalid("azure.cloud", err)
	}
	o := azure.Options{Cloud: cloud, Clock: clk, Log: log, UserAgent: "curfew"}
	cred := azure.CredentialConfig{Kind: c.Credential.Kind, Cloud: cloud, TenantID: c.Tenant, ClientID: c.Credential.ClientID, TokenFile: c.Credential.TokenFile}
	if c.CA != "" {
		hc, err := trusting(c.CA)
		if err != nil {
			return nil, invalid("azure.ca", err)
		}
		o.Transport, cred.Transport = hc, hc
	}
	if f := c.Credential.ClientSecretFile; f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, invalid("azure.credential.client_secret_file", err)
		}
		cred.ClientSecret = strings.TrimSpace(string(b))
	}
	if o.Credential, err = azure.NewCredential(cred); err != nil {
		return nil, invalid("azure.credential", err)
	}
	return azure.New(o)
}

func trusting(file string) (*http.Client, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, access.Errorf(access.CodeInvalid, "%s holds no certificate in PEM form", file)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

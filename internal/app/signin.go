package app

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/identity"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// signIn makes what signs callers in. It asks no issuer anything yet.
func signIn(cfg Config, deps Deps, b *broker.Broker, url string) (*identity.Manager, error) {
	key := make([]byte, identity.KeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand
	if cfg.KeyFile == "" && cfg.Database != sqlite.Memory {
		cfg.KeyFile = strings.TrimSuffix(cfg.Database, ".db") + ".key"
	}
	if cfg.KeyFile != "" && cfg.SignIn != nil {
		var err error
		if key, err = identity.LoadKey(cfg.KeyFile); err != nil {
			return nil, err
		}
	}
	c := identity.Config{Accounts: b, Clock: deps.Clock, Workloads: cfg.Workloads, Key: key, Log: deps.Log}
	if cfg.SignIn != nil {
		i := *cfg.SignIn
		if i.PublicURL == "" {
			i.PublicURL = url
		}
		c.Issuer = &i
	}
	for _, p := range cfg.People {
		c.People = append(c.People, identity.Person{Name: p.Name, Roles: p.Roles, Subject: p.Subject})
	}
	for name := range cfg.Demo { // theirs without a sign-in, and nobody else's
		c.People = append(c.People, identity.Person{Name: name, Roles: cfg.Demo[name], Groups: cfg.DemoGroups[name]})
		if sub := cfg.DemoSubjects[name]; sub != "" { // or with one, as that account, with the roles that the issuer tells
			c.People = append(c.People, identity.Person{Name: name, Subject: sub})
		}
	}
	if cfg.SignInCA != nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{RootCAs: cfg.SignInCA, MinVersion: tls.VersionTLS12}
		c.Transport = t
	}
	return identity.New(c)
}

// signInConfig takes sign-in over from a configuration file.
func signInConfig(c config.Config, out *Config) error {
	unusable := func(field string, err error) error {
		e := access.Errorf(access.CodeInvalid, "the sign-in of the configuration cannot be used: %v", err)
		e.Field = field
		return e.WithHint("look at sign_in in the configuration; docs/sign-in.md says how to set it up")
	}
	for _, w := range c.Workloads {
		claims := map[string]string{}
		for _, v := range w.Claims {
			claims[v.Claim] = v.Value
		}
		out.Workloads = append(out.Workloads, identity.Workload{Name: w.Name, Issuer: w.Issuer, Audience: w.Audience, Subject: w.Subject, Claims: claims,
			Roles: w.Roles, Sponsor: w.Sponsor})
	}
	s := c.SignIn
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return unusable("sign_in.ca", err)
		}
		if out.SignInCA, err = x509.SystemCertPool(); err != nil {
			out.SignInCA = x509.NewCertPool()
		}
		if !out.SignInCA.AppendCertsFromPEM(pem) {
			return unusable("sign_in.ca", access.Errorf(access.CodeInvalid, "%s holds no certificate in PEM form", s.CA))
		}
	}
	if s.Issuer == "" {
		return nil
	}
	i := identity.Issuer{URL: s.Issuer, ClientID: s.ClientID, Tenants: s.Tenanted(), PublicURL: s.PublicURL, Scopes: s.Scopes, NameClaim: s.NameClaim,
		GroupsClaim: s.GroupsClaim, RolesClaim: s.RolesClaim, GroupNames: map[string]string{}, Graph: s.Graph, NoDevice: !s.Device,
		SessionLife: time.Duration(s.SessionLife), ConfirmAfter: time.Duration(s.ConfirmAfter)}
	for _, g := range s.GroupNames {
		i.GroupNames[g.ID] = g.Name
	}
	for _, r := range s.Roles {
		i.Roles = append(i.Roles, identity.RoleRule{Role: r.Role, AppRoles: r.AppRoles, Groups: r.Groups})
	}
	if f := s.ClientSecretFile; f != "" {
		b, err := os.ReadFile(f)
		if err != nil {
			return unusable("sign_in.client_secret_file", err)
		}
		if i.ClientSecret = strings.TrimSpace(string(b)); i.ClientSecret == "" {
			return unusable("sign_in.client_secret_file", access.Errorf(access.CodeInvalid, "%s is empty", f))
		}
	}
	out.SignIn = &i
	if out.KeyFile = s.KeyFile; out.KeyFile == "" {
		out.KeyFile = filepath.Join(c.DataDir, "curfew.key")
	}
	return nil
}

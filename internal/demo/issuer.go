package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/devissuer"
	"github.com/curfew-jit/curfew/internal/identity"
	"github.com/curfew-jit/curfew/internal/sim"
)

// issuerFile keeps the issuer's key and sign-ins in the directory of a demo.
const issuerFile = "issuer.json"

// DefaultIssuerListen is where the demo's issuer listens, unless the server takes any free port: then so does the issuer.
const DefaultIssuerListen = "127.0.0.1:7449"

// appRoles are what the issuer calls the roles, as an application's roles are called at Entra.
var appRoles = map[access.Role]string{access.Requester: "Curfew.Requester", access.Approver: "Curfew.Approver", access.Auditor: "Curfew.Auditor", access.Admin: "Curfew.Admin"}

// issuing is the demo's issuer, listening.
type issuing struct {
	URL    string // of its front page and control API
	issuer *devissuer.Issuer
	secret string
	srv    *http.Server
	done   chan struct{}
}

// startIssuer listens with an issuer that knows the demo's accounts, for a server at the given URL.
func startIssuer(ctx context.Context, listen, dir, server string, clk clock.Clock, log *slog.Logger) (*issuing, error) {
	l, err := loopback(ctx, listen, "issuer-listen")
	if err != nil {
		return nil, err
	}
	out := &issuing{URL: "http://" + l.Addr().String(), secret: rand.Text(), done: make(chan struct{})}
	cfg := devissuer.Config{URL: out.URL, Tenant: sim.TenantID, Clock: clk, File: filepath.Join(dir, issuerFile),
		Clients: []devissuer.Client{{ID: clientID, Secret: out.secret, Redirects: []string{server + identity.CallbackPath}}}}
	for _, a := range Accounts() {
		d := devissuer.Account{Name: a.Name, Groups: a.Groups}
		for _, r := range a.Roles {
			d.Roles = append(d.Roles, appRoles[r])
		}
		cfg.Accounts = append(cfg.Accounts, d)
	}
	if out.issuer, err = devissuer.New(cfg); err != nil {
		_ = l.Close()
		return nil, access.Errorf(access.CodeInvalid, "%v", err).WithHint("remove the file: everybody signs in again")
	}
	out.srv = &http.Server{Handler: out.issuer.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go func(l net.Listener) {
		defer close(out.done)
		if err := out.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the issuer ended", "error", err)
		}
	}(l)
	return out, nil
}

// clientID is the server's application at the issuer.
const clientID = "curfew-demo"

// signIn is how the demo's server signs people in through it.
func (i *issuing) signIn() *identity.Issuer {
	out := &identity.Issuer{URL: i.issuer.URL(), ClientID: clientID, ClientSecret: i.secret, Tenants: []string{sim.TenantID}}
	for _, r := range []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin} {
		out.Roles = append(out.Roles, identity.RoleRule{Role: r, AppRoles: []string{appRoles[r]}})
	}
	return out
}

func (i *issuing) close() {
	_ = i.srv.Close()
	<-i.done
}

// beside is where something of the demo listens that was not told: at its usual address, or at any free port where the server takes one.
func beside(named, server, usual string) string {
	if named != "" {
		return named
	}
	if host, port, err := net.SplitHostPort(server); err == nil && port == "0" {
		return net.JoinHostPort(host, "0")
	}
	return usual
}

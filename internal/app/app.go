// Package app puts a whole server together: Azure client, inventory, NSG back end, store, audit spool, broker, reconciler and REST
// server. serve, demo and whole-program tests start one, and nothing else wires these parts.
package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/identity"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/reconcile"
	"github.com/curfew-jit/curfew/internal/server"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// Config says what a server is to be. Installation and Database are needed.
type Config struct {
	Installation  string
	Database      string // path; the spool of the audit log stands beside it. sqlite.Memory keeps nothing
	Subscriptions []string
	Policy        policy.Document
	PolicyFile    string // file or folder, read again when it changes; in place of Policy
	People        []server.Person
	SignIn        *identity.Issuer // through whom people sign in; nil: through nobody. Without a PublicURL it is where the server listens
	Workloads     []identity.Workload
	SignInCA      *x509.CertPool // for issuers; nil: the system's
	KeyFile       string         // of what is encrypted in the database; "": beside it

	Listen         string // address, where Deps names no listener
	TLS            *tls.Config
	InsecureListen bool // something in front does TLS
	TrustedProxies []netip.Prefix
	Limits         server.Limits

	RequestExpiry time.Duration     // 0: the broker's default
	KeyRetention  time.Duration     // of idempotency keys; 0: the broker's default
	SweepEvery    time.Duration     // 0: 30 s
	InventoryAge  time.Duration     // how old the inventory may be; 0: one minute
	Band          nsg.Band          // zero: the back end's default
	ScanEvery     time.Duration     // between scans of everything; 0: only when somebody asks
	ScanRetention time.Duration     // 0: the broker's default
	Cloud         string            // for reports of scans
	Signing       *Signing          // of the audit log's checkpoints; nil: they are not signed
	Emails        map[string]string // of people, by name
	Notify        config.Notify     // whom the server tells of what happens

	// Demo are the accounts of a demo, nil anywhere else; MyIPs say where their calls seem to come from, DemoGroups which groups they
	// are in, and DemoSubjects who they are at the issuer of SignIn.
	Demo         map[string][]access.Role
	MyIPs        map[string]netip.Addr
	DemoGroups   map[string][]string
	DemoSubjects map[string]string

	Version string
}

// Deps are what a server stands on. Azure is needed.
type Deps struct {
	Azure    *azure.Client
	Clock    clock.Clock  // nil: the system's
	Log      *slog.Logger // nil: none
	Listener net.Listener // nil: made from Config.Listen
	Registry *prometheus.Registry
}

// App is a server that runs.
type App struct {
	URL        string
	Broker     *broker.Broker
	Reconciler *reconcile.Reconciler
	Identity   *identity.Manager

	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Start opens the store, begins to reconcile and to serve, and returns once calls are accepted. The server runs until ctx ends or
// Stop; Wait tells when it is over. When Start fails nothing is left behind but the database.
func Start(ctx context.Context, cfg Config, deps Deps) (_ *App, err error) {
	if deps.Azure == nil {
		return nil, errors.New("a server needs a client for Azure")
	}
	if deps.Clock == nil {
		deps.Clock = clock.System{}
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Registry == nil {
		deps.Registry = prometheus.NewRegistry()
	}
	if cfg.InventoryAge <= 0 {
		cfg.InventoryAge = time.Minute
	}
	rules, err := newRuler(cfg.Policy, cfg.PolicyFile, deps.Clock, deps.Log, deps.Registry)
	if err != nil {
		return nil, err
	}
	var undo []func() error
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				_ = undo[i]()
			}
		}
	}()
	l := deps.Listener
	if l == nil {
		if l, err = server.Listen(ctx, cfg.Listen, cfg.TLS, cfg.InsecureListen); err != nil {
			return nil, err
		}
	}
	undo = append(undo, l.Close)

	backend, err := nsg.New(nsg.Config{Client: deps.Azure, Installation: cfg.Installation, Band: cfg.Band, Clock: deps.Clock, Log: deps.Log})
	if err != nil {
		return nil, err
	}
	store, err := sqlite.Open(ctx, sqlite.Options{Path: cfg.Database, Log: deps.Log, Clock: deps.Clock})
	if err != nil {
		return nil, storeError{err}
	}
	undo = append(undo, store.Close)
	spoolPath := ""
	if cfg.Database != sqlite.Memory {
		spoolPath = cfg.Database + ".spool"
	}
	spool, err := audit.OpenSpool(spoolPath)
	if err != nil { // it works in memory: closing does not wait for the log (P7)
		deps.Log.Error("the spool of the audit log", "error", err)
	}
	undo = append(undo, spool.Close)

	restored, was := store.Restored()
	if !was {
		restored = ""
	}
	var sign *notary
	accept := store.AcceptHead
	if cfg.Signing != nil {
		if sign, err = newNotary(*cfg.Signing, store, deps.Clock, deps.Log, deps.Registry); err != nil {
			return nil, err
		}
		why, err := sign.compare(ctx)
		if err != nil {
			return nil, err
		}
		if why != "" {
			deps.Log.Error("the audit log is not the one that was signed: it was cut off or rewritten, or an older database was put back", "why", why)
			if restored == "" {
				restored = why
			}
		}
		sign.hold(restored)
		accept = func(ctx context.Context) error {
			if err := store.AcceptHead(ctx); err != nil {
				return err
			}
			return sign.accept(ctx)
		}
	}
	exposed := newExposure(deps.Clock)
	if err := deps.Registry.Register(exposed); err != nil {
		return nil, err
	}
	live := inventory.NewLive(deps.Azure, deps.Clock, cfg.Subscriptions, cfg.InventoryAge)
	b, err := broker.New(ctx, broker.Config{
		Installation: cfg.Installation, Store: store, Spool: spool, Clock: deps.Clock, Inventory: live, Backend: backend,
		Policy: rules.policy, People: func() []access.Caller { return people(cfg) },
		RequestExpiry: cfg.RequestExpiry, KeyRetention: cfg.KeyRetention, Restored: restored, AcceptStore: accept,
		Scanner: &scanner{az: deps.Azure, cloud: cfg.Cloud, subscriptions: cfg.Subscriptions, clock: deps.Clock, log: deps.Log},
		OnScan:  exposed.note, ScanRetention: cfg.ScanRetention, Routes: routes(cfg.Notify),
		Log: deps.Log, Demo: cfg.Demo != nil, Version: cfg.Version,
	})
	if err != nil {
		return nil, err
	}
	rules.begin(ctx, b)
	rec := reconcile.New(reconcile.Config{
		Installation: cfg.Installation, Broker: b, Backend: backend, Inventory: live,
		Subscriptions: func(ctx context.Context) ([]string, error) {
			return Subscriptions(ctx, deps.Azure, cfg.Subscriptions)
		},
		Clock: deps.Clock, SweepEvery: cfg.SweepEvery, Log: deps.Log, Metrics: reconcile.NewMetrics(deps.Registry),
	})
	b.SetEnforcer(rec)
	var signed func(audit.Checkpoint) (string, string, error)
	if sign != nil {
		signed = sign.text
	}
	outbox := b.Outbox()
	chs, err := channels(cfg.Notify, addressBook(cfg, b), outbox, deps.Clock)
	if err != nil {
		return nil, err
	}
	tell, err := deliver(outbox, chs, deps.Clock, deps.Log, deps.Registry)
	if err != nil {
		return nil, err
	}
	scheme := "http://"
	if cfg.TLS != nil {
		scheme = "https://"
	}
	ids, err := signIn(cfg, deps, b, scheme+l.Addr().String())
	if err != nil {
		return nil, err
	}
	slack, err := presses(cfg.Notify, b, ids.Current)
	if err != nil {
		return nil, err
	}
	srv, err := server.New(server.Options{
		Sign: signed, SignIn: ids, Slack: slack,
		Service: b, People: cfg.People, Installation: cfg.Installation, Version: cfg.Version, TrustedProxies: cfg.TrustedProxies,
		Demo: cfg.Demo, MyIPs: cfg.MyIPs, DemoGroups: cfg.DemoGroups, Registry: deps.Registry, Log: deps.Log, Clock: deps.Clock, Limits: cfg.Limits,
	})
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(ctx)
	a := &App{URL: scheme + l.Addr().String(), Broker: b, Reconciler: rec, Identity: ids, cancel: cancel, done: make(chan struct{})}
	// The reconciler goes on until the last call was answered: a call may wait for it.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() {
		if err := rec.Run(work); err != nil && work.Err() == nil {
			deps.Log.Error("the reconciler ended", "error", err)
		}
	})
	if sign != nil {
		running.Go(func() { sign.run(work) })
	}
	running.Go(func() { tell(work) })
	running.Go(func() { rules.run(work, b) })
	if cfg.ScanEvery > 0 {
		running.Go(func() { b.ScanOnSchedule(work, cfg.ScanEvery) })
	}
	go func() {
		defer close(a.done)
		err := srv.Run(ctx, l)
		cancel()
		stopWork()
		running.Wait()
		if sign != nil {
			sign.close()
		}
		a.err = errors.Join(err, spool.Close(), store.Close())
	}()
	return a, nil
}

// storeError says that there is no store to work with.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// Stop ends the server; it may be called more than once. Wait returns what it ended with.
func (a *App) Stop() { a.cancel() }

// Wait returns when the server is over: nil after its context ended or Stop.
func (a *App) Wait() error {
	<-a.done
	return a.err
}

// Ready waits until the first sweep is done and the server would say that it is ready, or ctx ends; then it returns why not.
func (a *App) Ready(ctx context.Context) error {
	for {
		st := a.Broker.Status(ctx)
		if st.Ready {
			return nil
		}
		select {
		case <-a.done:
			return fmt.Errorf("the server ended: %w", a.err)
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %s", strings.Trim(st.Store+" "+st.Azure, " "))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// people are those whom the broker may name as approvers.
func people(cfg Config) []access.Caller {
	var out []access.Caller
	for _, p := range cfg.People {
		out = append(out, access.Caller{Name: p.Name, Roles: p.Roles})
	}
	for name, roles := range cfg.Demo {
		out = append(out, access.Caller{Name: name, Roles: roles})
	}
	return out
}

// Subscriptions returns the ids that were named or, where none were, of every subscription that is not disabled.
func Subscriptions(ctx context.Context, c *azure.Client, named []string) ([]string, error) {
	if len(named) > 0 {
		return named, nil
	}
	all, err := c.Subscriptions(ctx)
	if err != nil {
		return nil, azure.UserError(err)
	}
	var out []string
	for _, s := range all {
		if !strings.EqualFold(s.State, "Disabled") && !strings.EqualFold(s.State, "Deleted") {
			out = append(out, s.SubscriptionID)
		}
	}
	return out, nil
}

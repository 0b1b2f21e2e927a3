// Package server serves the REST API: it signs callers in, limits and decodes what they send, calls broker.Service, and renders
// what comes back, errors as problem+json. It decides nothing about access.
//
// Trusted: the configuration. Not trusted: everything that arrives on a connection. A caller's name comes from a token that was
// compared with stored hashes, or, in the demo alone, from a header; its address from the connection, or from a proxy that the
// configuration names.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
)

// Person is somebody who may sign in with a token.
type Person struct {
	Name  string
	Roles []access.Role
	// TokenSHA256 is the hash of a token of high entropy, in hexadecimal. Empty: the person cannot sign in.
	TokenSHA256 string
	// Subject is their account at the issuer through which people sign in. Empty: they have none there.
	Subject string
}

// Options are what a server needs.
type Options struct {
	Service      broker.Service
	People       []Person
	SignIn       Authenticator // nil: only People's tokens are known
	Installation string
	Version      string
	// TrustedProxies may say in X-Forwarded-For where a call came from.
	TrustedProxies []netip.Prefix
	// Demo are the accounts that anybody on this machine may act as, with the header Curfew-As. Nil: this is no demo, and the
	// header is refused.
	Demo map[string][]access.Role
	// MyIPs say, by account in lower case, where the demo's calls seem to come from: all of them come from this machine. Ignored elsewhere.
	MyIPs map[string]netip.Addr
	// DemoGroups are the groups of the demo's accounts.
	DemoGroups map[string][]string
	// Registry collects metrics and is what /metrics shows; others register theirs with it too. Nil: one of its own.
	Registry *prometheus.Registry
	// Sign returns a checkpoint of the audit log as it is served: signed, or as it is with the reason. Nil: there is no key.
	Sign   func(audit.Checkpoint) (text, unsigned string, err error)
	Log    *slog.Logger // nil: nothing is logged
	Clock  clock.Clock  // by which grants are judged; nil: the machine's. Limits and heartbeats follow the machine's in any case
	Limits Limits       // zero fields: the defaults
	Slack  *Slack       // nil: no presses of buttons are taken
}

// Limits bound what one caller may take.
type Limits struct {
	Body          int64         // bytes of a body; default 256 KiB
	BodyTime      time.Duration // to send it; default 15 s
	PerPerson     float64       // calls a second; default 100, in bursts of five times as many
	PerAddress    float64       // calls a second; default 200
	FailedSignIns float64       // a second from one address; default 2
	SignIns       float64       // begun a second from one address; default 1, in bursts of twenty
	Recheck       time.Duration // after which the caller of an event stream is looked at again; default 30 s
	Addresses     int           // how many addresses and people are remembered; default 10,000
	Streams       int           // event streams of one person; default 20
	Heartbeat     time.Duration // between comments on an idle event stream; default 15 s
	Shutdown      time.Duration // how long handlers may go on after the end; default 10 s
}

func (l Limits) withDefaults() Limits {
	or := func(v *float64, d float64) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&l.PerPerson, 100)
	or(&l.PerAddress, 200)
	or(&l.FailedSignIns, 2)
	or(&l.SignIns, 1)
	dur := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	dur(&l.BodyTime, 15*time.Second)
	dur(&l.Heartbeat, 15*time.Second)
	dur(&l.Recheck, 30*time.Second)
	dur(&l.Shutdown, 10*time.Second)
	if l.Body <= 0 {
		l.Body = 256 << 10
	}
	if l.Addresses <= 0 {
		l.Addresses = 10_000
	}
	if l.Streams <= 0 {
		l.Streams = 20
	}
	return l
}

// Server serves the API. Make one with New.
type Server struct {
	opt     Options
	svc     broker.Service
	log     *slog.Logger
	clock   clock.Clock
	people  []signedIn
	metrics *metrics
	mux     *http.ServeMux
	handler http.Handler

	perPerson, perAddress, failures, signIns *limiters

	stopping chan struct{} // closed when the server begins to stop
	stopOnce sync.Once

	presses    chan struct{} // of buttons elsewhere that are worked on
	background sync.WaitGroup
	streams    streamCount
}

// New makes a server. It listens to nothing yet.
func New(o Options) (*Server, error) {
	if o.Service == nil {
		return nil, errors.New("a server needs a service")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	o.Limits = o.Limits.withDefaults()
	s := &Server{opt: o, svc: o.Service, log: o.Log, clock: o.Clock, stopping: make(chan struct{}), presses: make(chan struct{}, slackPresses),
		perPerson:  newLimiters(o.Limits.PerPerson, 5, o.Limits.Addresses),
		perAddress: newLimiters(o.Limits.PerAddress, 5, o.Limits.Addresses),
		failures:   newLimiters(o.Limits.FailedSignIns, 10, o.Limits.Addresses),
		signIns:    newLimiters(o.Limits.SignIns, 20, o.Limits.Addresses),
		streams:    streamCount{by: map[string]int{}},
	}
	var err error
	if s.people, err = readPeople(o.People); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(o.Registry); err != nil {
		return nil, fmt.Errorf("registering the server's metrics: %w", err)
	}
	s.mux = http.NewServeMux()
	if err := s.routes(); err != nil {
		return nil, err
	}
	s.handler = s.outer(http.HandlerFunc(s.dispatch))
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Listen opens a listener on address. Without TLS only a loopback address is accepted, because tokens travel on it, unless
// insecure says that something in front takes care of it.
func Listen(ctx context.Context, address string, cert *tls.Config, insecure bool) (net.Listener, error) {
	if cert == nil && !insecure && !loopbackAddress(address) {
		return nil, access.Errorf(access.CodeInvalid, "refusing to listen on %s without TLS: tokens would travel in the clear", address).
			WithHint("name a certificate under tls in the configuration, listen on 127.0.0.1, or, behind a proxy that does TLS, give --insecure-listen")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "cannot listen on %s", address).
			WithHint("is another server running there? choose another address with --listen").Wrap(err)
	}
	// What was resolved is what counts: a name may have led elsewhere.
	if cert == nil && !insecure {
		if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().Unmap().IsLoopback() {
			l.Close()
			return nil, access.Errorf(access.CodeInvalid, "refusing to listen on %s without TLS: %s is not loopback", l.Addr(), address)
		}
	}
	if cert == nil {
		return l, nil
	}
	return tls.NewListener(l, cert), nil
}

// LoadTLS reads a certificate and its key from files in PEM form.
func LoadTLS(certFile, keyFile string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, access.Errorf(access.CodeInvalid, "the certificate in %s and the key in %s cannot be used", certFile, keyFile).Wrap(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}, nil
}

func loopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackName(host)
}

func loopbackName(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// Run serves on the listeners until ctx ends. Then it accepts nothing more, ends event streams, and waits for the other calls up
// to Limits.Shutdown, after which it cuts them off and says so. It closes the listeners.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("a server needs a listener")
	}
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		// Bodies and streams have deadlines of their own: a plan or a sweep may take minutes.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- srv.Serve(l) }()
	}
	var failed error
	waiting := len(listeners)
	select {
	case <-ctx.Done():
	case err := <-served:
		waiting--
		failed = fmt.Errorf("serving: %w", err)
	}
	s.Stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opt.Limits.Shutdown)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		srv.Close()
		err = fmt.Errorf("calls were cut off %s after the end", s.opt.Limits.Shutdown)
	}
	for range waiting {
		<-served
	}
	s.background.Wait() // their contexts have ended with s.stopping
	return errors.Join(failed, err)
}

// Stop ends event streams and makes /readyz say that the server is going. It may be called more than once.
func (s *Server) Stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

func (s *Server) stopped() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

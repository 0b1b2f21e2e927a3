// Package demo is the whole product on a simulated Azure, in one process, and the simulator alone. It is not for production: its
// credentials are public, and anybody on the machine may act as any of its accounts.
package demo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// Files in the directory of a demo.
const (
	estateFile = "azure.json"
	caFile     = "ca.pem"
	caKeyFile  = "ca.key"
	tokenFile  = "token.key" // so that a server that lives on need not sign in again
)

// operationDelay is how long the simulated Azure works on a write: long enough to be seen, short enough to be tried often.
const operationDelay = 300 * time.Millisecond

// simulated is the simulator, listening, with its estate in a file.
type simulated struct {
	URL   string
	CA    string // file
	caPEM []byte
	cert  tls.Certificate
	srv   *http.Server
	keep  *keeper
	done  chan struct{}
	stop  chan struct{}
}

// startAzure listens with HTTPS. The estate is read from dir, where a simulator kept it before, or else is the given one; each change is
// in the file before the caller hears of it, so that a process that was killed goes on where it was.
func startAzure(ctx context.Context, listen, option, dir string, estate []byte, clk clock.Clock, log *slog.Logger) (*simulated, error) {
	return startLarge(ctx, listen, option, dir, estate, 0, estates.LargeOptions{}, clk, log)
}

// startLarge is startAzure with a seed, and with a large estate that is made up instead of read, and not kept: a file of it
// would be written anew with each change.
func startLarge(ctx context.Context, listen, option, dir string, estate []byte, seed uint64, large estates.LargeOptions, clk clock.Clock, log *slog.Logger) (_ *simulated, err error) {
	file := filepath.Join(dir, estateFile)
	kept, err := os.ReadFile(file)
	if large.VMs > 0 {
		file, kept, estate = "", nil, nil
	} else if err == nil {
		estate = kept
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, access.Errorf(access.CodeUnavailable, "the estate cannot be read: %v", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil || len(key) < 16 {
		key = []byte(rand.Text())
		if err := writeFile(filepath.Join(dir, tokenFile), key, 0o600); err != nil {
			return nil, access.Errorf(access.CodeUnavailable, "the directory %s cannot be written: %v", dir, err).WithHint("name another one with --dir")
		}
	}
	s, err := sim.New(sim.Config{Now: clk.Now, Estate: estate, OperationDelay: operationDelay, TokenKey: key, Seed: seed, Log: log})
	if err == nil && large.VMs > 0 {
		from, to := io.Pipe()
		go func() { _ = to.CloseWithError(estates.WriteLarge(to, large)) }()
		err = s.LoadFrom(from)
		_ = from.Close()
	}
	if err != nil {
		return nil, access.Errorf(access.CodeInvalid, "the estate in %s is not understood: %v", file, err).WithHint("remove the directory to begin anew")
	}
	l, err := loopback(ctx, listen, option)
	if err != nil {
		return nil, err
	}
	caPEM, cert, err := certificate(dir, clk.Now())
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	out := &simulated{URL: "https://" + l.Addr().String(), CA: filepath.Join(dir, caFile), caPEM: caPEM, cert: cert, done: make(chan struct{}), stop: make(chan struct{}),
		keep: &keeper{sim: s, file: file, last: kept, log: log}}
	if err := out.keep.save(); err != nil {
		_ = l.Close()
		return nil, access.Errorf(access.CodeUnavailable, "the estate cannot be kept: %v", err)
	}
	out.srv = &http.Server{Handler: out.keep.handler(s.Handler()), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	var running sync.WaitGroup
	running.Go(func() {
		if err := out.srv.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the simulator ended", "error", err)
		}
	})
	running.Go(func() { // what the simulator does by itself, as when an operation ends, has no caller to wait for
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-out.stop:
				return
			case <-t.C:
				_ = out.keep.save()
			}
		}
	})
	go func() { running.Wait(); close(out.done) }()
	return out, nil
}

func (s *simulated) close() {
	_ = s.srv.Close()
	close(s.stop)
	<-s.done
	_ = s.keep.save()
}

// client signs in to the simulated Azure as a service would.
func (s *simulated) client(clk clock.Clock, log *slog.Logger) (*azure.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.caPEM) {
		return nil, errors.New("the simulator's authority is not readable")
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.MaxIdleConnsPerHost = 32
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	hc := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	cloud, err := azure.CustomCloud(s.URL, "https://management.azure.com/", s.URL)
	if err != nil {
		return nil, err
	}
	cred, err := azure.NewCredential(azure.CredentialConfig{Kind: "client-secret", Cloud: cloud, TenantID: sim.TenantID, ClientID: sim.ClientID,
		ClientSecret: sim.ClientSecret, Transport: hc})
	if err != nil {
		return nil, err
	}
	return azure.New(azure.Options{Cloud: cloud, Credential: cred, Transport: hc, Clock: clk, Log: log, UserAgent: "curfew-demo", PollInterval: 100 * time.Millisecond})
}

// keeper writes the estate to its file when it has changed.
type keeper struct {
	sim  *sim.Sim
	file string
	log  *slog.Logger

	mu   sync.Mutex
	last []byte
}

func (k *keeper) save() error {
	if k.file == "" {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.sim.Dump()
	if bytes.Equal(now, k.last) {
		return nil
	}
	if err := writeFile(k.file, now, 0o600); err != nil {
		k.log.Error("the estate could not be kept", "error", err)
		return err
	}
	k.last = now
	return nil
}

// handler saves before the first byte of an answer to anything that may have changed the estate, and also when no answer comes.
func (k *keeper) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead || strings.HasSuffix(r.URL.Path, "/token") {
			next.ServeHTTP(w, r)
			return
		}
		kw := &keepWriter{ResponseWriter: w, keep: k}
		defer kw.once()
		next.ServeHTTP(kw, r)
	})
}

type keepWriter struct {
	http.ResponseWriter
	keep *keeper
	kept bool
}

func (w *keepWriter) once() {
	if !w.kept {
		w.kept = true
		_ = w.keep.save()
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *keepWriter) WriteHeader(status int) {
	w.once()
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *keepWriter) Write(b []byte) (int, error) {
	w.once()
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *keepWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// writeFile replaces a file so that a crash leaves the old one or the new one.
func writeFile(name string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already once it was renamed
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// loopback listens, and says which option to change when that cannot be.
func loopback(ctx context.Context, address, option string) (net.Listener, error) {
	invalid := func(format string, args ...any) error {
		e := access.Errorf(access.CodeInvalid, format, args...)
		e.Field = option
		return e.WithHint("write it like --%s 127.0.0.1:0, where 0 picks a free port", option)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, invalid("--%s %q is not an address with a port", option, address)
	}
	if ip := net.ParseIP(host); !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
		return nil, invalid("--%s %s is not on the loopback interface, and the demo's credentials are public", option, address)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "cannot listen on %s: %s", address, reason(err)).
			WithHint("is another demo running? choose another port with --%s, for example --%s 127.0.0.1:0", option, option)
	}
	return l, nil
}

func reason(err error) string {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err.Error()
	}
	return err.Error()
}

// certificate returns the directory's authority, made at first use, and a fresh server certificate of it. The authority is kept so that
// clients that were told of it go on trusting a simulator that was started again.
func certificate(dir string, now time.Time) ([]byte, tls.Certificate, error) {
	fail := func(err error) ([]byte, tls.Certificate, error) {
		return nil, tls.Certificate{}, fmt.Errorf("making the simulator's certificate: %w", err)
	}
	caPEM, ca, caKey, err := readAuthority(dir, now)
	if err != nil {
		if caPEM, ca, caKey, err = newAuthority(dir, now); err != nil {
			return fail(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fail(err)
	}
	leaf := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "management.azure.com", "login.microsoftonline.com", "graph.microsoft.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return fail(err)
	}
	return caPEM, tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: key}, nil
}

func readAuthority(dir string, now time.Time) ([]byte, *x509.Certificate, *ecdsa.PrivateKey, error) {
	caPEM, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, nil, nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, nil, nil, err
	}
	block, _ := pem.Decode(caPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if block == nil || keyBlock == nil {
		return nil, nil, nil, errors.New("not in PEM form")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, nil, nil, err
	}
	if now.Before(ca.NotBefore) || now.After(ca.NotAfter.AddDate(0, 0, -1)) || !key.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, nil, errors.New("not usable any more")
	}
	return caPEM, ca, key, nil
}

func newAuthority(dir string, now time.Time) ([]byte, *x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Curfew simulator CA"}, NotBefore: now.Add(-24 * time.Hour),
		NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, nil, err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := writeFile(filepath.Join(dir, caKeyFile), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, nil, nil, err
	}
	return caPEM, ca, key, writeFile(filepath.Join(dir, caFile), caPEM, 0o644)
}

// estate is what a simulator begins with: a file, or the demo's.
func estate(file string) ([]byte, error) {
	if file == "" {
		return estates.Demo(), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, access.Errorf(access.CodeInvalid, "the estate cannot be read: %v", err)
	}
	return b, nil
}

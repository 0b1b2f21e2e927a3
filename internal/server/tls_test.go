package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/server"
)

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "curfew test"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}, &x509.Certificate{SerialNumber: big.NewInt(1),
		Subject: pkix.Name{CommonName: "curfew test"}}, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")
	for file, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Over TLS the whole goes by HTTP/2: events flow, long calls and shutdown work as they do without.
func TestTLSAndHTTP2(t *testing.T) {
	cert, key := certificate(t)
	cfg, err := server.LoadTLS(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(t.Context(), "127.0.0.1:0", cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	svc := newFake(clock.System{})
	s, err := server.New(server.Options{Service: svc, Limits: server.Limits{BodyTime: 100 * time.Millisecond, Heartbeat: 50 * time.Millisecond},
		People: []server.Person{{Name: "root", Roles: []access.Role{access.Admin}, TokenSHA256: hash(tokens["root"])}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	c, err := client.New(client.Options{Server: "https://" + l.Addr().String(), Token: tokens["root"], CA: cert})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Whoami(t.Context()); err != nil {
		t.Fatal(err)
	}
	slept := false
	svc.hook["Resume"] = func(ctx context.Context, _ access.Caller, _ any) {
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
			slept = true
		}
	}
	if _, err := c.Resume(t.Context(), "looked"); err != nil || !slept {
		t.Errorf("a long call: %v, finished %v", err, slept)
	}
	svc.note("0")
	go func() {
		time.Sleep(200 * time.Millisecond) // some heartbeats
		svc.note("1")
	}()
	watch, unwatch := context.WithTimeout(t.Context(), 10*time.Second)
	defer unwatch()
	for e, err := range c.Events(watch, 0) {
		if err != nil || e.Message != "1" {
			t.Errorf("got %+v, %v", e, err)
		}
		break
	}
	// It is HTTP/2 that was spoken, and the browser is told to stay with TLS.
	pool := x509.NewCertPool()
	b, err := os.ReadFile(cert)
	if err != nil || !pool.AppendCertsFromPEM(b) {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true}}
	hc.Transport.(*http.Transport).TLSClientConfig.RootCAs = pool
	res, err := hc.Get("https://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.ProtoMajor != 2 || !strings.HasPrefix(res.Header.Get("Strict-Transport-Security"), "max-age=") {
		t.Errorf("got %s, %v", res.Proto, res.Header)
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the server did not stop")
	}
}

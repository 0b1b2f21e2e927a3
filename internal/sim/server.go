package sim

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
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Server is a simulator that listens.
type Server struct {
	URL   string // https://127.0.0.1:port
	CAPEM []byte // the authority that signed its certificate, fresh for each simulator; nil where there is none
	srv   *http.Server
	more  func() // what else to stop
	done  chan struct{}
}

func (s *Server) stop() {
	_ = s.srv.Close()
	if s.more != nil {
		s.more()
	}
}

// Close stops listening and cuts the connections. It may be called more than once.
func (s *Server) Close() {
	s.stop()
	<-s.done
}

// Serve listens on a loopback address ("127.0.0.1:0" picks a port) with HTTPS and a certificate of an authority of its own, until ctx ends or
// Close. Other addresses are refused: the simulator's credentials are public.
func (s *Sim) Serve(ctx context.Context, listen string) (*Server, error) {
	ln, err := listenLoopback(ctx, listen, "the simulator")
	if err != nil {
		return nil, err
	}
	caPEM, cert, err := s.certificate()
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	srv := &http.Server{Handler: s.Handler(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	out := &Server{URL: "https://" + ln.Addr().String(), CAPEM: caPEM, srv: srv, done: make(chan struct{})}
	go func() {
		defer close(out.done)
		if err := srv.ServeTLS(ln, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the simulator stopped serving", "error", err)
		}
	}()
	context.AfterFunc(ctx, out.stop)
	return out, nil
}

// certificate is that of everything which this simulator serves, made once.
func (s *Sim) certificate() ([]byte, tls.Certificate, error) {
	s.certOnce.Do(func() { s.caPEM, s.cert, s.certErr = newCertificate(s.cfg.Now()) })
	return s.caPEM, s.cert, s.certErr
}

func newCertificate(now time.Time) ([]byte, tls.Certificate, error) {
	fail := func(err error) ([]byte, tls.Certificate, error) {
		return nil, tls.Certificate{}, fmt.Errorf("making the simulator's certificate: %w", err)
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fail(err)
	}
	ca := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "Curfew simulator CA"}, NotBefore: now.Add(-24 * time.Hour),
		NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return fail(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	leaf := &x509.Certificate{SerialNumber: new(big.Int).Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: ca.NotBefore,
		NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost"}, proxied...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return fail(err)
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return caPEM, tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, nil
}

// Transport calls the handler directly, for any host and without sockets. It works inside testing/synctest: the only waiting is on
// timers and on the request's context. Cut connections appear as ECONNRESET, or as an unexpected EOF inside a body.
func (s *Sim) Transport() http.RoundTripper { return transport{s} }

type transport struct{ s *Sim }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in := req.Clone(ctx)
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	in.RemoteAddr = "127.0.0.1:0"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := &recorder{header: http.Header{}}
	cut := rec.run(t.s.Handler(), in)
	_ = in.Body.Close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cut && rec.status == 0 {
		return nil, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	var body io.Reader = &rec.body
	if cut {
		body = io.MultiReader(&rec.body, brokenReader{})
	}
	resp := &http.Response{Status: fmt.Sprintf("%d %s", rec.status, http.StatusText(rec.status)), StatusCode: rec.status, Proto: "HTTP/1.1",
		ProtoMajor: 1, ProtoMinor: 1, Header: rec.header, Body: io.NopCloser(body), ContentLength: int64(rec.body.Len()), Request: req}
	if cut {
		resp.ContentLength = -1
	}
	if req.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	return resp, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}
func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(200)
	return r.body.Write(b)
}

func (r *recorder) run(h http.Handler, req *http.Request) (cut bool) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			cut = true
		}
	}()
	h.ServeHTTP(r, req)
	return false
}

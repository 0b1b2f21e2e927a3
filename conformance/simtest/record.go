package simtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Recorder keeps each exchange with the resource manager in a file of its own, in the form that oav validates. Sign-in, cloud metadata
// and the control API are not kept, nor are tokens.
type Recorder struct {
	t   testing.TB
	dir string

	mu sync.Mutex
	n  int
}

// NewRecorder keeps the traffic in the folder.
func NewRecorder(t testing.TB, dir string) *Recorder {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &Recorder{t: t, dir: dir}
}

// Dir is where the traffic lies.
func (r *Recorder) Dir() string { return r.dir }

type liveRequest struct {
	Headers map[string]string `json:"headers"`
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Body    json.RawMessage   `json:"body,omitempty"`
}

type liveResponse struct {
	StatusCode string            `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Body       json.RawMessage   `json:"body,omitempty"`
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Transport passes requests on and keeps what was asked and answered.
func (r *Recorder) Transport(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if !manager(req.URL.Path) {
			return next.RoundTrip(req)
		}
		var sent []byte
		if req.Body != nil {
			b, err := io.ReadAll(req.Body)
			_ = req.Body.Close()
			if err != nil {
				return nil, err
			}
			sent = b
			req = req.Clone(req.Context())
			req.Body = io.NopCloser(bytes.NewReader(b))
		}
		res, err := next.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			return nil, err
		}
		res.Body = io.NopCloser(bytes.NewReader(got))
		r.keep(req, sent, res, got)
		return res, nil
	})
}

// manager tells whether the path is one of the resource manager's.
func manager(path string) bool {
	path = strings.ToLower(strings.TrimLeft(path, "/"))
	return strings.HasPrefix(path, "subscriptions") || strings.HasPrefix(path, "providers")
}

func headers(h http.Header) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		if k != "Authorization" {
			out[strings.ToLower(k)] = strings.Join(v, ", ")
		}
	}
	return out
}

// asJSON keeps a body that is JSON; another one is kept as a string.
func asJSON(b []byte) json.RawMessage {
	if len(b) == 0 {
		return nil
	}
	if json.Valid(b) {
		return b
	}
	s, err := json.Marshal(string(b))
	if err != nil {
		return nil
	}
	return s
}

func (r *Recorder) keep(req *http.Request, sent []byte, res *http.Response, got []byte) {
	payload, err := json.MarshalIndent(map[string]any{
		"liveRequest":  liveRequest{headers(req.Header), req.Method, req.URL.RequestURI(), asJSON(sent)},
		"liveResponse": liveResponse{fmt.Sprint(res.StatusCode), headers(res.Header), asJSON(got)},
	}, "", " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if err == nil {
		err = os.WriteFile(filepath.Join(r.dir, fmt.Sprintf("%04d-%s.json", r.n, req.Method)), payload, 0o644)
	}
	if err != nil {
		r.t.Errorf("keeping the traffic: %v", err)
	}
}

// Between puts the recorder between Azure and clients that cannot be given a transport: an HTTPS server that passes everything on as it
// came, the host that the client named included, so that the URLs in Azure's answers lead back through it.
func (r *Recorder) Between(a *Azure) *Azure {
	r.t.Helper()
	target, err := url.Parse(a.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
		},
		Transport: r.Transport(a.client.Transport),
		ErrorLog:  log.New(io.Discard, "", 0), // a client that goes away is no fault
	}
	caPEM, cert := authority(r.t)
	file := filepath.Join(r.t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, caPEM, 0o644); err != nil {
		r.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(proxy)
	srv.Config.ErrorLog = proxy.ErrorLog
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	r.t.Cleanup(srv.Close)
	out := *a
	out.URL, out.CA = srv.URL, file
	out.client = HTTPClient(r.t, file, nil)
	return &out
}

// authority makes a certificate for the loopback interface and the authority that vouches for it.
func authority(t testing.TB) ([]byte, tls.Certificate) {
	t.Helper()
	now := time.Now()
	sign := func(tmpl, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Curfew conformance CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 1, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER := sign(ca, ca, &caKey.PublicKey, caKey)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der := sign(leaf, ca, &key.PublicKey, caKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}
}

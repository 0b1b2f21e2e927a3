package sim

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// proxied are the public hosts that the proxy answers for. Every other host is refused, so that nothing leaves the machine.
var proxied = []string{"management.azure.com", "login.microsoftonline.com", "graph.microsoft.com"}

// ProxyOptions of ServeProxy. The zero value uses the certificate of Serve, and the simulator's own handler.
type ProxyOptions struct {
	Certificate *tls.Certificate // for the public hosts; nil: one of the simulator's own authority
	Handler     http.Handler     // what answers; nil: Handler
}

// ServeProxy listens on a loopback address as an HTTP proxy, for clients with hard-coded hosts (HTTPS_PROXY=URL, and the authority in
// the client's trust): it ends the TLS of management.azure.com, login.microsoftonline.com and graph.microsoft.com itself and answers as
// they would. Other hosts, and requests that are not CONNECT to port 443, are refused with 403. It stops when ctx ends or by Close.
func (s *Sim) ServeProxy(ctx context.Context, listen string, o ProxyOptions) (*Server, error) {
	ln, err := listenLoopback(ctx, listen, "the proxy")
	if err != nil {
		return nil, err
	}
	out := &Server{URL: "http://" + ln.Addr().String(), done: make(chan struct{})}
	cert := o.Certificate
	if cert == nil {
		pem, own, err := s.certificate()
		if err != nil {
			_ = ln.Close()
			return nil, err
		}
		out.CAPEM, cert = pem, &own
	}
	h := o.Handler
	if h == nil {
		h = s.Handler()
	}
	errorLog := slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	tunnels := &tunnelListener{conns: make(chan net.Conn), closed: make(chan struct{}), addr: ln.Addr()}
	inner := &http.Server{Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: 10 * time.Second, ErrorLog: errorLog}
	out.srv = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.tunnel(w, r, tunnels) }), ReadHeaderTimeout: 10 * time.Second, ErrorLog: errorLog}
	out.more = func() { _ = tunnels.Close(); _ = inner.Close() }
	var running sync.WaitGroup
	running.Go(func() {
		if err := out.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the proxy stopped serving", "error", err)
		}
	})
	running.Go(func() {
		if err := inner.ServeTLS(tunnels, "", ""); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.log.Error("the proxy stopped serving", "error", err)
		}
	})
	go func() { running.Wait(); close(out.done) }()
	context.AfterFunc(ctx, out.stop)
	return out, nil
}

func (s *Sim) tunnel(w http.ResponseWriter, r *http.Request, to *tunnelListener) {
	host, port, err := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || port != "443" || !slices.Contains(proxied, strings.ToLower(host)) {
		s.log.Debug("refused by the proxy", "method", r.Method, "host", r.Host)
		http.Error(w, fmt.Sprintf("the simulator's proxy serves CONNECT to %s on port 443, and not %s %s", strings.Join(proxied, ", "), r.Method, r.Host), http.StatusForbidden)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "the connection cannot be taken over", http.StatusInternalServerError)
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	select {
	case to.conns <- bufferedConn{conn, buf.Reader}:
	case <-to.closed:
		_ = conn.Close()
	}
}

// bufferedConn gives back what the proxy had read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// tunnelListener hands the tunnels to an http.Server.
type tunnelListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

func (l *tunnelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *tunnelListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *tunnelListener) Addr() net.Addr { return l.addr }

// ServeIdentity listens on a loopback address with plain HTTP for the managed-identity endpoints alone, as machines and App Service have
// them: /msi/token for MSI_ENDPOINT and IDENTITY_ENDPOINT, and /metadata/identity/oauth2/token for AZURE_POD_IDENTITY_AUTHORITY_HOST.
func (s *Sim) ServeIdentity(ctx context.Context, listen string) (*Server, error) {
	ln, err := listenLoopback(ctx, listen, "the managed identity")
	if err != nil {
		return nil, err
	}
	h := s.Handler()
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p := strings.Trim(r.URL.Path, "/"); p != "msi/token" && p != "metadata/identity/oauth2/token" {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})}
	out := &Server{URL: "http://" + ln.Addr().String(), srv: srv, done: make(chan struct{})}
	go func() {
		defer close(out.done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the managed identity stopped serving", "error", err)
		}
	}()
	context.AfterFunc(ctx, out.stop)
	return out, nil
}

func listenLoopback(ctx context.Context, listen, what string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", what, err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		_ = ln.Close()
		return nil, fmt.Errorf("listening for %s: %s is not a loopback address, and the simulator's credentials are public", what, listen)
	}
	return ln, nil
}

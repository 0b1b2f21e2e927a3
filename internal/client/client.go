// Package client speaks the REST API of a Curfew server. Every method returns an *access.Error for whatever the server refused,
// with the code, message and hint that the server gave, so that a program decides by the code and never by the text. A server
// that cannot be reached is access.CodeUnavailable.
//
// What may be repeated without harm is: reads, and creations with an idempotency key, are tried again when the connection fails.
// Decisions are not: they come back as an error, and the state tells what became of them.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

// AsHeader names the account of the demo that a call acts as. Any other server refuses a call that carries it.
const AsHeader = "Curfew-As"

// KeyHeader carries the idempotency key of a creation.
const KeyHeader = "Idempotency-Key"

// DefaultServer is where the demo listens.
const DefaultServer = "http://127.0.0.1:7447"

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

// Options say where the server is and who is calling.
type Options struct {
	Server     string       // URL; "" means DefaultServer
	Token      string       // bearer token; never sent over plain HTTP to anything but loopback
	As         string       // account of the demo
	Private    bool         // secrets will travel although there is no token yet: plain HTTP is refused as with one
	CA         string       // file of certificates to trust besides the system's
	HTTPClient *http.Client // nil: one of its own
	UserAgent  string
	Clock      clock.Clock // nil: the machine's; paces retries and waiting
}

// Client calls one server. It is safe for use by several goroutines.
type Client struct {
	base  *url.URL
	opt   Options
	http  *http.Client
	clock clock.Clock
}

// New checks the options and makes a client. It does not call the server.
func New(o Options) (*Client, error) {
	if o.Server == "" {
		o.Server = DefaultServer
	}
	base, err := url.Parse(strings.TrimRight(o.Server, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, usage("server", "%q is not the URL of a server", o.Server).WithHint("write it like https://curfew.example.com, in --server or CURFEW_SERVER")
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, usage("server", "the URL of a server carries no user, query or fragment")
	}
	if base.Scheme == "http" && (o.Token != "" || o.Private) && !loopback(base.Hostname()) {
		return nil, usage("server", "the token would travel in the clear to %s", base.Host).WithHint("use https, or a server on this machine")
	}
	if strings.ContainsFunc(o.Token+o.As, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, usage("token", "the token or account holds control characters")
	}
	c := &Client{base: base, opt: o, http: o.HTTPClient, clock: o.Clock}
	if c.clock == nil {
		c.clock = clock.System{}
	}
	if c.http == nil {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if o.CA != "" {
			if tr.TLSClientConfig.RootCAs, err = roots(o.CA); err != nil {
				return nil, err
			}
		}
		c.http = &http.Client{Transport: tr}
	}
	// A redirect would carry the token elsewhere, and the API sends none.
	hc := *c.http
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &hc
	return c, nil
}

func roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("ca", "the certificates in %s cannot be read", file).Wrap(err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usage("ca", "%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

func usage(field, format string, args ...any) *access.Error {
	e := access.Errorf(access.CodeInvalid, format, args...)
	e.Field = field
	return e
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// Server returns the URL that the client calls.
func (c *Client) Server() string { return c.base.String() }

// call is one exchange with the server.
type call struct {
	method string
	path   string // escaped, from /v1 on
	query  url.Values
	body   any
	key    string
}

// repeatable tells whether the call may be sent again when it is not known whether it arrived.
func (k call) repeatable() bool { return k.method == http.MethodGet || k.key != "" }

// tries and pause bound the retries of one call: three tries within about a second.
const (
	tries = 3
	pause = 250 * time.Millisecond
)

func (c *Client) do(ctx context.Context, k call, out any) error {
	var err error
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return c.ctxError(ctx, k)
			case <-c.clock.After(pause << (try - 1)):
			}
		}
		var lost bool
		if lost, err = c.once(ctx, k, out); err == nil || !lost || !k.repeatable() || ctx.Err() != nil {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return c.ctxError(ctx, k)
	}
	return err
}

// once sends the call; lost tells that there was no answer, so that it may be sent again.
func (c *Client) once(ctx context.Context, k call, out any) (lost bool, err error) {
	res, err := c.send(ctx, k)
	if err != nil {
		return true, c.unreachable(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return true, access.Errorf(access.CodeUnavailable, "the answer of %s broke off", c.base).
			WithHint("look at what became of it before you try again").Wrap(err)
	}
	if res.StatusCode/100 != 2 {
		return false, c.refusal(res, body)
	}
	if out == nil {
		return false, nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return false, access.Errorf(access.CodeInternal, "the answer of %s to %s %s is not understood", c.base, k.method, k.path).
			WithHint("is there a Curfew server, of this version? see: curfew whoami --server %s", c.base).Wrap(err)
	}
	return false, nil
}

func (c *Client) send(ctx context.Context, k call) (*http.Response, error) {
	var body io.Reader
	if k.body != nil {
		b, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("writing the body of %s: %w", k.path, err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base.String() + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("making %s %s: %w", k.method, k.path, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if k.key != "" {
		req.Header.Set(KeyHeader, k.key)
	}
	c.sign(req)
	return c.http.Do(req)
}

func (c *Client) sign(req *http.Request) {
	if c.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	}
	if c.opt.As != "" {
		req.Header.Set(AsHeader, c.opt.As)
	}
	if c.opt.UserAgent != "" {
		req.Header.Set("User-Agent", c.opt.UserAgent)
	}
}

// refusal turns an answer that is no success into an error. What does not come from a Curfew server is said so.
func (c *Client) refusal(res *http.Response, body []byte) error {
	ct, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var p api.Problem
	if ct != api.ProblemType || json.Unmarshal(body, &p) != nil || p.Code == "" {
		e := access.Errorf(codeOf(res.StatusCode), "%s answered %s, and not as a Curfew server does", c.base, res.Status)
		return e.WithHint("check --server, and what stands between here and there")
	}
	e := &access.Error{Code: p.Code, Message: p.Error(), Hint: p.Hint, Field: p.Field}
	if !api.Known(p.Code) { // of a newer server
		e.Code = codeOf(res.StatusCode)
	}
	if e.Code == access.CodeInternal && p.Correlation != "" && e.Hint == "" {
		e.Hint = "the server's log says more under correlation " + p.Correlation
	}
	return e
}

func codeOf(status int) access.Code {
	switch status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return access.CodeUnauthenticated
	case http.StatusForbidden:
		return access.CodeDenied
	case http.StatusNotFound, http.StatusGone:
		return access.CodeNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return access.CodeConflict
	case http.StatusTooManyRequests:
		return access.CodeRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return access.CodeUnavailable
	}
	if status/100 == 4 {
		return access.CodeInvalid
	}
	return access.CodeInternal
}

func (c *Client) unreachable(err error) error {
	var e *access.Error
	if errors.As(err, &e) {
		return e
	}
	what, hint := "cannot be reached", "start one with: curfew demo   (or: curfew serve), or name one with --server"
	var ua x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	switch {
	case errors.As(err, &ua):
		what, hint = "has a certificate of an authority that is not trusted here", "name the authority's certificate with --ca"
	case errors.As(err, &host):
		what, hint = "has a certificate for another name", "name the server in --server as its certificate does"
	case errors.As(err, &dns):
		what, hint = "has a name that cannot be resolved", "check --server or CURFEW_SERVER"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		what, hint = "does not speak TLS", "write the server's URL with http:, if it is on this machine"
	}
	return access.Errorf(access.CodeUnavailable, "the server at %s %s", c.base, what).WithHint("%s", hint).Wrap(err)
}

// ctxError is the caller's own end: its deadline is a timeout, its cancelling stays what it is.
func (c *Client) ctxError(ctx context.Context, k call) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return access.Errorf(access.CodeTimeout, "%s did not answer %s %s in time", c.base, k.method, k.path).
			WithHint("look at what became of it before you try again").Wrap(ctx.Err())
	}
	return ctx.Err()
}

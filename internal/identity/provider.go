package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

const (
	maxAnswer   = 4 << 20 // of an issuer; Graph's pages are the largest
	requestTime = 10 * time.Second
	tryAgain    = 3 * time.Second // after a failed discovery
)

// newClient makes the client for issuers and Graph. It follows no redirect: a secret would go along.
func newClient(rt http.RoundTripper) *http.Client {
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = requestTime
		rt = t
	}
	return &http.Client{Transport: rt, Timeout: requestTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// down says that an issuer could not be asked; what it would have said is not known.
func down(who string, err error) *access.Error {
	return access.Errorf(access.CodeUnavailable, "%s does not answer, so that nobody can be signed in through it now", who).
		WithHint("try again in a minute; sessions that are open go on").Wrap(err)
}

// isDown tells whether an error says that the issuer could not be asked.
func isDown(err error) bool { return access.CodeOf(err) == access.CodeUnavailable }

// metadata is what an issuer says about itself (OpenID Connect Discovery 1.0, 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Device        string   `json:"device_authorization_endpoint"`
	JWKS          string   `json:"jwks_uri"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
}

// tenantIn stands, in the name of an issuer that serves several tenants, for the tenant.
const tenantIn = "{tenantid}"

// provider is an issuer: found when it is first needed, and tried again while it does not answer.
type provider struct {
	url     string
	tenants bool // its name may hold the tenant
	client  *http.Client
	clock   clock.Clock
	flight  singleflight.Group

	mu       sync.Mutex
	doc      *metadata
	keys     *keySet
	failed   error
	failedAt time.Time
}

func newProvider(issuer string, client *http.Client, clk clock.Clock, tenants bool) *provider {
	return &provider{url: strings.TrimRight(issuer, "/"), client: client, clock: clk, tenants: tenants}
}

func (p *provider) name() string { return "the issuer " + p.url }

// get returns the issuer's description and keys. While it does not answer, it is asked again every few seconds and not for every caller.
func (p *provider) get(ctx context.Context) (metadata, *keySet, error) {
	p.mu.Lock()
	doc, keys, failed, at := p.doc, p.keys, p.failed, p.failedAt
	p.mu.Unlock()
	if doc != nil {
		return *doc, keys, nil
	}
	if failed != nil && p.clock.Now().Sub(at) < tryAgain && !p.clock.Now().Before(at) {
		return metadata{}, nil, failed
	}
	ch := p.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
		defer cancel()
		d, err := p.discover(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.failed, p.failedAt = err, p.clock.Now()
			return nil, err
		}
		p.doc, p.keys, p.failed = &d, newKeySet(d.JWKS, p.client, p.clock), nil
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return metadata{}, nil, down(p.name(), ctx.Err())
	case r := <-ch:
		if r.Err != nil {
			return metadata{}, nil, r.Err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.doc, p.keys, nil
}

func (p *provider) discover(ctx context.Context) (metadata, error) {
	var d metadata
	if err := getJSON(ctx, p.client, p.url+"/.well-known/openid-configuration", "", &d); err != nil {
		return d, down(p.name(), err)
	}
	// Microsoft's description of an issuer for several tenants holds a place for the tenant instead of its name.
	if strings.TrimRight(d.Issuer, "/") != p.url && !(p.tenants && strings.Contains(d.Issuer, tenantIn) && sameHost(d.Issuer, p.url)) {
		return d, down(p.name(), fmt.Errorf("it calls itself %q", d.Issuer))
	}
	for what, u := range map[string]string{"authorization_endpoint": d.Authorization, "token_endpoint": d.Token, "jwks_uri": d.JWKS, "device_authorization_endpoint": d.Device} {
		if u == "" && what != "jwks_uri" {
			continue
		}
		if err := CheckIssuerURL(u); err != nil {
			return d, down(p.name(), fmt.Errorf("its %s %q: %w", what, u, err))
		}
	}
	return d, nil
}

func sameHost(a, b string) bool {
	ua, erra := url.Parse(a)
	ub, errb := url.Parse(b)
	return erra == nil && errb == nil && ua.Scheme == ub.Scheme && strings.EqualFold(ua.Host, ub.Host)
}

// CheckIssuerURL refuses a URL over which secrets would travel in the clear: http is for this machine alone.
func CheckIssuerURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("it is no URL like https://login.example.com/tenant")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("its scheme is %q and not https", u.Scheme)
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback() {
		return nil
	}
	return errors.New("http is for addresses of this machine alone: use https")
}

// getJSON reads one answer, within limits.
func getJSON(ctx context.Context, c *http.Client, u, bearer string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := readAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return &statusError{status: res.StatusCode, text: shorten(string(b))}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the answer is not the JSON that was expected: %w", err)
	}
	return nil
}

type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("it answered %d: %s", e.status, e.text) }

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return b, err
}

func shorten(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return strings.Join(strings.Fields(s), " ")
}

// tokens is what a token endpoint gives.
type tokens struct {
	Access  string `json:"access_token"`
	ID      string `json:"id_token"`
	Refresh string `json:"refresh_token"`
}

// oauthError is a refusal by an issuer (RFC 6749, 5.2).
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func (e *oauthError) Error() string {
	return fmt.Sprintf("the issuer refused: %s (%s)", shorten(e.Code), shorten(e.Description))
}

// notThePerson are refusals that say nothing about the person: the issuer is troubled, or does not like us.
var notThePerson = []string{"temporarily_unavailable", "server_error", "invalid_client", "unauthorized_client"}

// disliked says what such a refusal means.
func (m *Manager) disliked(oe *oauthError) *access.Error {
	if oe.Code == "invalid_client" || oe.Code == "unauthorized_client" {
		return access.Errorf(access.CodeUnavailable, "%s does not take this server for its application (%s), so that nobody can be signed in through it now", m.provider.name(), oe.Code).
			WithHint("an admin looks at client_id and the secret under sign_in, which may be over; sessions that are open go on").Wrap(oe)
	}
	return down(m.provider.name(), oe)
}

// post sends a form to an endpoint of the issuer, as its client. An issuer that is down is an error by isDown, a refusal an *oauthError.
func (m *Manager) post(ctx context.Context, d metadata, endpoint string, form url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, nil)
	if err != nil {
		return err
	}
	form.Set("client_id", m.issuer.ClientID)
	if m.issuer.ClientSecret != "" {
		if len(d.TokenAuth) == 0 || slices.Contains(d.TokenAuth, "client_secret_basic") {
			req.SetBasicAuth(url.QueryEscape(m.issuer.ClientID), url.QueryEscape(m.issuer.ClientSecret))
		} else {
			form.Set("client_secret", m.issuer.ClientSecret)
		}
	}
	body := form.Encode()
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	res, err := m.client.Do(req)
	if err != nil {
		return down(m.provider.name(), plainError(err))
	}
	defer res.Body.Close()
	b, err := readAll(res.Body)
	if err != nil {
		return down(m.provider.name(), err)
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, into); err != nil {
			return down(m.provider.name(), fmt.Errorf("its answer is not JSON: %w", err))
		}
		return nil
	}
	var oe oauthError
	ct, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || ct != "application/json" || json.Unmarshal(b, &oe) != nil || oe.Code == "" {
		return down(m.provider.name(), &statusError{status: res.StatusCode, text: shorten(string(b))})
	}
	if slices.Contains(notThePerson, oe.Code) {
		return m.disliked(&oe)
	}
	return &oe
}

// plainError takes the URL out of a client's error: there may be a secret in it.
func plainError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return errors.New("it took too long")
	}
	return err
}

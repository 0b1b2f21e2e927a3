package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Guard decides which addresses a channel may connect to. It is asked when a connection is made, with the address that it goes to,
// so that a name which resolves to something else by then changes nothing. It goes for every target: an address in a configuration
// file is often somebody else's wish.
type Guard struct {
	Allow    []netip.Prefix // networks that are refused otherwise and that the channel needs
	Resolver *net.Resolver  // nil: the system's
	CA       *x509.CertPool // nil: the system's
}

// refusedNets are networks that lead inside, to one's own machine, to a cloud's metadata, or nowhere; what each is stands in the
// IANA special-purpose address registries.
var refusedNets = func() (out []refusedNet) {
	for _, l := range strings.Split(`0.0.0.0/8 this network
10.0.0.0/8 private
100.64.0.0/10 shared by a provider's customers
127.0.0.0/8 loopback
168.63.129.16/32 Azure's own service address
169.254.0.0/16 link-local, where clouds keep their metadata
172.16.0.0/12 private
192.0.0.0/24 for protocols
192.0.2.0/24 documentation
192.88.99.0/24 a 6to4 relay
192.168.0.0/16 private
198.18.0.0/15 for benchmarks
198.51.100.0/24 documentation
203.0.113.0/24 documentation
224.0.0.0/4 multicast
240.0.0.0/4 reserved
::/96 unspecified, loopback or an old form of IPv4
100::/64 a black hole
2001:db8::/32 documentation
3fff::/20 documentation
5f00::/16 for segment routing
fc00::/7 private
fe80::/10 link-local
fec0::/10 site-local
ff00::/8 multicast`, "\n") {
		p, what, _ := strings.Cut(l, " ")
		out = append(out, refusedNet{netip.MustParsePrefix(p), what})
	}
	return out
}()

type refusedNet struct {
	netip.Prefix
	what string
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
	special6   = netip.MustParsePrefix("2001::/23")
	global6    = netip.MustParsePrefix("2000::/3")        // all that is given out (RFC 3587)
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // stateless translation, RFC 7915
)

// Check refuses an address, and says what it is.
func (g Guard) Check(a netip.Addr) error {
	if !a.IsValid() {
		return errors.New("it is no address")
	}
	if a.Zone() != "" {
		return fmt.Errorf("%s has a zone: it is of this machine's own network", a)
	}
	a = a.Unmap()
	if slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	for _, n := range refusedNets {
		if n.Contains(a) {
			return fmt.Errorf("%s is %s", a, n.what)
		}
	}
	if inner, form, ok := embedded(a); ok {
		if inner.IsValid() {
			if err := g.Check(inner); err != nil {
				return fmt.Errorf("%s is %s for an address of which: %w", a, form, err)
			}
		}
		return fmt.Errorf("%s is %s", a, form) // whoever runs the translator decides where it leads
	}
	switch {
	case a.Is6() && special6.Contains(a):
		return fmt.Errorf("%s is for protocols", a)
	case a.Is6() && !global6.Contains(a):
		return fmt.Errorf("%s is no public address", a)
	}
	return nil
}

// embedded returns the IPv4 address that an IPv6 address of a transition mechanism leads to. Teredo's is that of its server's client,
// which lies in the last bits, inverted.
func embedded(a netip.Addr) (inner netip.Addr, form string, ok bool) {
	if !a.Is6() {
		return inner, "", false
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case nat64.Contains(a):
		return at(12), "a NAT64 form", true
	case nat64Local.Contains(a):
		return inner, "a NAT64 form of a local network", true
	case sixToFour.Contains(a):
		return at(2), "a 6to4 form", true
	case translated.Contains(a):
		return at(12), "a translated form", true
	case teredo.Contains(a):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), "a Teredo form", true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe:
		return at(12), "an ISATAP form", true
	}
	return inner, "", false
}

// refusedError says that a connection was not made because of where it leads. It is final: only the configuration changes it.
type refusedError struct{ error }

// Dialer connects only to where the guard lets it. The address is checked again by the socket's own hook, which sees what the kernel
// is asked for, whoever resolved it.
func (g Guard) Dialer() *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Resolver: g.Resolver,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return refusedError{fmt.Errorf("refusing to connect over %s", network)}
			}
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return refusedError{fmt.Errorf("refusing to connect to what is no address: %w", err)}
			}
			if err := g.Check(ap.Addr()); err != nil {
				return refusedError{fmt.Errorf("refusing to connect: %w", err)}
			}
			return nil
		}}
}

// Client makes HTTP calls through the guard: no proxy, no redirects, no cookies, bounded headers.
func (g Guard) Client() *http.Client {
	d := g.Dialer()
	return &http.Client{
		Transport: &http.Transport{
			Proxy: nil, // a proxy would connect in our place, where no guard looks
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return d.DialContext(ctx, network, address)
			},
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: g.CA},
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  10 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConnsPerHost:    8,
			MaxConnsPerHost:        16,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ParseTarget reads the URL of a channel: https, or http to a loopback address that the guard allows; no user, no fragment, no
// blank or control character, a host that is a plain name or address.
func (g Guard) ParseTarget(raw string) (*url.URL, error) {
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == '\\' || r > '~' }) {
		return nil, errors.New("it holds a blank, a backslash or a character that is not ASCII")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("it is not a URL") // the error would repeat it, and a secret may stand in it
	}
	host := u.Hostname()
	a, aerr := netip.ParseAddr(host)
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Opaque != "":
		return nil, errors.New("it must begin with https://")
	case u.User != nil:
		return nil, errors.New("it holds a user name or password; the signature tells the receiver who is calling")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, errors.New("it holds a fragment")
	case host == "" || strings.Contains(host, "%"):
		return nil, errors.New("it names no host, or one with a zone")
	case aerr != nil && !plainName(host):
		return nil, errors.New("its host is neither a name nor an address in their usual form")
	}
	if p := u.Port(); p != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, errors.New("its port is not a number from 1 to 65535")
		}
	}
	if aerr == nil {
		if err := g.Check(a); err != nil {
			return nil, fmt.Errorf("%w; if it is meant, name its network under allow_private", err)
		}
	}
	if u.Scheme == "http" && !(aerr == nil && a.Unmap().IsLoopback()) {
		return nil, errors.New("it must begin with https://: over http everybody on the way could read and change what is sent")
	}
	return u, nil
}

// plainName tells whether a host is a name by its letters, and not a number in one of the forms that some resolvers take for an
// address: 2130706433, 0x7f.1, 017700000001.
func plainName(host string) bool {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		for _, r := range l {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	last := labels[len(labels)-1] // of an address in any notation it begins with a digit; of a name never (RFC 3696, 2)
	return len(host) <= 253 && (last[0] < '0' || last[0] > '9')
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// answerBody reads an answer as far as it is of interest; the rest stays where it is.
func answerBody(r *http.Response) []byte {
	defer r.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(r.Body, maxAnswer)) // half an answer says as much as none
	return b
}

// retryAfter reads the header in both of its forms.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// callFailure puts into words why an HTTP call came to nothing. Neither URL nor host stands in it: a URL may be a secret.
func callFailure(err error) *Failure {
	f := &Failure{Err: withoutURL(err)}
	var refused refusedError
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var ne net.Error
	switch {
	case errors.As(err, &refused):
		f.Message, f.Final = refused.Error()+"; if it is meant, name its network under allow_private", true
	case errors.As(err, &cert):
		f.Message = "its certificate is not trusted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		f.Message = "no answer in time"
	case errors.As(err, &dns):
		f.Message = "its name cannot be resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Message = "it refuses connections"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.Message = "the connection was cut"
	default:
		f.Message = "the call failed"
	}
	return f
}

// withoutURL takes the URL out of an error of net/http.
func withoutURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// statusFailure puts an answer that is no success into words. Those that say that the notice itself is at fault are final.
func statusFailure(code int, h http.Header, now time.Time) *Failure {
	f := &Failure{Message: fmt.Sprintf("it answered %d %s", code, http.StatusText(code)), After: retryAfter(h, now)}
	switch {
	case code >= 300 && code < 400:
		f.Message += "; redirects are not followed: give the URL that it leads to"
	case code == http.StatusGone, code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		f.Final = true
	}
	return f
}

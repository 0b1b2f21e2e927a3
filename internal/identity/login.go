package identity

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// CallbackPath is where the issuer sends browsers back to; with the server's own URL before it, it is what is registered there.
const CallbackPath = "/login/callback"

// login is a sign-in under way, kept under the hash of its state. What is sent to the issuer follows from the state and the server's
// key, so that nothing in the store helps whoever reads it.
type login struct {
	Redirect  string `json:"redirect,omitempty"` // of the command line
	Challenge string `json:"challenge,omitempty"`
	State     string `json:"state,omitempty"`   // the command line's own
	Next      string `json:"next,omitempty"`    // of the portal
	Binding   string `json:"binding,omitempty"` // hash of what the browser that began holds in a cookie
}

// fetch is a person who was verified and whose session waits for the command line.
type fetch struct {
	Challenge string `json:"challenge"`
	Person    person `json:"person"`
	Refresh   []byte `json:"refresh"`
	From      string `json:"from"`
}

func (m *Manager) noIssuer() error {
	if m.issuer != nil {
		return nil
	}
	return access.Errorf(access.CodeNotFound, "nobody signs in through an issuer at this server").
		WithHint("use the token that an admin gave you: the command line reads it from CURFEW_TOKEN")
}

// Methods says how people sign in.
func (m *Manager) Methods() api.LoginMethods {
	if m.issuer == nil {
		return api.LoginMethods{}
	}
	return api.LoginMethods{Issuer: m.issuer.URL, Browser: true, Device: !m.issuer.NoDevice}
}

func invalid(field, format string, args ...any) *access.Error {
	return &access.Error{Code: access.CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// checkLoopback refuses addresses that are not this caller's own machine: a code that ends elsewhere is somebody else's.
func checkLoopback(s string) error {
	bad := invalid("redirect_uri", "the address that the browser ends at is not one of the caller's own machine").
		WithHint("use http://127.0.0.1:PORT/ or http://[::1]:PORT/")
	u, err := url.Parse(s)
	if err != nil || len(s) > 200 || u.Scheme != "http" || u.User != nil || u.Fragment != "" || u.RawQuery != "" || u.Opaque != "" || strings.ContainsFunc(s, notPlain) {
		return bad
	}
	a, err := netip.ParseAddr(u.Hostname())
	port, perr := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || perr != nil || port == 0 || a.Zone() != "" || a != netip.MustParseAddr("127.0.0.1") && a != netip.IPv6Loopback() {
		return bad
	}
	return nil
}

func notPlain(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }

// CheckNext returns where the portal goes on after a sign-in: a path of this server, or "/" for anything else.
func CheckNext(next string) string {
	if len(next) > 1000 || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsFunc(next, notPlain) {
		return "/"
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(u.Path, `\`) {
		return "/"
	}
	if u.Path == "/login" || u.Path == "/logout" || strings.HasPrefix(u.Path, "/login/") {
		return "/" // round in a circle
	}
	return next
}

// Start begins a sign-in for the command line.
func (m *Manager) Start(ctx context.Context, in api.LoginStartInput) (api.LoginStart, error) {
	if err := m.noIssuer(); err != nil {
		return api.LoginStart{}, err
	}
	if err := checkLoopback(in.RedirectURI); err != nil {
		return api.LoginStart{}, err
	}
	if b, err := base64.RawURLEncoding.DecodeString(in.Challenge); err != nil || len(b) != 32 {
		return api.LoginStart{}, invalid("challenge", "the challenge is no SHA-256 in base64url").WithHint("PKCE with S256 (RFC 7636) is needed")
	}
	if len(in.State) < 8 || len(in.State) > 200 || strings.ContainsFunc(in.State, notPlain) {
		return api.LoginStart{}, invalid("state", "the state is not 8 to 200 printable ASCII signs without blanks").WithHint("a random one of 32 signs does well")
	}
	u, err := m.authorize(ctx, login{Redirect: in.RedirectURI, Challenge: in.Challenge, State: in.State})
	return api.LoginStart{URL: u, ExpiresIn: int(loginLife / time.Second)}, err
}

// Portal begins a sign-in in a browser that goes on at next. The binding is for a cookie: only the browser that has it can finish.
func (m *Manager) Portal(ctx context.Context, next string) (to, binding string, err error) {
	if err := m.noIssuer(); err != nil {
		return "", "", err
	}
	binding = broker.NewSecret("")
	to, err = m.authorize(ctx, login{Next: CheckNext(next), Binding: broker.HashSecret(binding)})
	return to, binding, err
}

// authorize returns the issuer's address for a sign-in.
func (m *Manager) authorize(ctx context.Context, l login) (string, error) {
	d, _, err := m.provider.get(ctx)
	if err != nil {
		m.acc.NoteIssuer(err)
		return "", err
	}
	u, err := url.Parse(d.Authorization)
	if err != nil || d.Authorization == "" {
		return "", down(m.provider.name(), errors.New("it names no authorization endpoint"))
	}
	state := broker.NewSecret("")
	if err := m.acc.KeepOnce(ctx, broker.RecordLogin, broker.HashSecret(state), m.acc.Now().Add(loginLife), l); err != nil {
		return "", err
	}
	q := u.Query()
	for k, v := range map[string]string{"response_type": "code", "client_id": m.issuer.ClientID, "redirect_uri": m.issuer.PublicURL + CallbackPath,
		"scope": m.scope(), "state": state, "nonce": m.seal.from("nonce", state), "code_challenge": challenge(m.seal.from("verifier", state)),
		"code_challenge_method": "S256"} {
		q.Set(k, v)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (m *Manager) scope() string {
	return strings.Join(append([]string{"openid"}, m.issuer.Scopes...), " ")
}

// Landing is where a browser goes when the issuer has sent it back.
type Landing struct {
	URL     string    // a path of this server, or the command line's address
	Session string    // token of a new session for the browser's cookie, where the portal signed in
	Expires time.Time // of the session
}

// Callback takes a browser that comes back from the issuer. With an error the landing may still have a URL: the command line waits
// there to hear of it.
func (m *Manager) Callback(ctx context.Context, from netip.Addr, q url.Values, binding string) (Landing, error) {
	if err := m.noIssuer(); err != nil {
		return Landing{}, err
	}
	unknown := access.Errorf(access.CodeUnauthenticated, "this sign-in is not known here: it took too long, was finished before, or was begun elsewhere").
		WithHint("begin again: curfew login, or the portal's own page")
	state := q.Get("state")
	if len(state) != 43 || len(q["state"]) != 1 {
		return Landing{}, unknown
	}
	var l login
	if err := m.acc.TakeOnce(ctx, broker.RecordLogin, broker.HashSecret(state), &l); access.CodeOf(err) == access.CodeNotFound {
		return Landing{}, unknown
	} else if err != nil {
		return Landing{}, err
	}
	if l.Binding != "" && subtle.ConstantTimeCompare([]byte(broker.HashSecret(binding)), []byte(l.Binding)) != 1 {
		m.acc.NoteRefusal(ctx, "", addr(from), "a sign-in that was begun in another browser was refused")
		return Landing{}, access.Errorf(access.CodeUnauthenticated, "this sign-in was begun in another browser").WithHint("begin again in this one")
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	p, t, err := m.exchange(ctx, q, state)
	if err == nil {
		err = m.admit(p)
	}
	if err == nil {
		var to Landing
		if to, err = m.land(ctx, l, p, t, from); err == nil {
			return to, nil
		}
	}
	m.refused(ctx, p.Name, from, err)
	return Landing{URL: l.failed(err)}, err
}

// refused records who was not let in. That the issuer or the store is down is nobody's refusal.
func (m *Manager) refused(ctx context.Context, name string, from netip.Addr, err error) {
	if isDown(err) {
		m.acc.NoteIssuer(err)
		m.log.Warn("a sign-in failed", "error", err)
		return
	}
	m.log.Info("a sign-in was refused", "person", name, "error", err)
	m.acc.NoteRefusal(ctx, name, addr(from), "a sign-in was refused: "+words(err))
}

func words(err error) string {
	var e *access.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return "internal error"
}

func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// exchange takes the code to the issuer.
func (m *Manager) exchange(ctx context.Context, q url.Values, state string) (person, tokens, error) {
	if code := q.Get("error"); code != "" {
		return person{}, tokens{}, access.Errorf(access.CodeDenied, "the issuer did not sign you in: %s", shorten(code)).
			WithHint("%s", shorten("it says: "+q.Get("error_description")))
	}
	code := q.Get("code")
	if code == "" || len(code) > 8<<10 || len(q["code"]) != 1 {
		return person{}, tokens{}, access.Errorf(access.CodeUnauthenticated, "the issuer sent no code").WithHint("begin again")
	}
	if iss := q.Get("iss"); iss != "" && strings.TrimRight(iss, "/") != m.provider.url && len(m.issuer.Tenants) == 0 { // RFC 9207
		return person{}, tokens{}, access.Errorf(access.CodeUnauthenticated, "the answer is of another issuer").WithHint("begin again")
	}
	p, t, err := m.ask(ctx, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {m.issuer.PublicURL + CallbackPath},
		"code_verifier": {m.seal.from("verifier", state)}}, m.seal.from("nonce", state))
	return p, t, refusal(err)
}

// refusal turns an issuer's refusal into words for the person.
func refusal(err error) error {
	var oe *oauthError
	if !isDown(err) && errors.As(err, &oe) {
		return access.Errorf(access.CodeDenied, "the issuer did not sign you in: %s", shorten(oe.Code)).WithHint("%s", "it says: "+shorten(oe.Description)).Wrap(err)
	}
	return err
}

// land ends a sign-in: with a session for the portal, with a code for the command line.
func (m *Manager) land(ctx context.Context, l login, p person, t tokens, from netip.Addr) (Landing, error) {
	m.noteUp()
	if l.Redirect == "" {
		s, token, err := m.begin(ctx, p, t.Refresh, "portal", from)
		return Landing{URL: l.Next, Session: token, Expires: s.EndsAt}, err
	}
	code := broker.NewSecret("")
	hash := broker.HashSecret(code)
	f := fetch{Challenge: l.Challenge, Person: p, Refresh: m.seal.close(t.Refresh, "code:"+hash), From: addr(from)}
	if err := m.acc.KeepOnce(ctx, broker.RecordLoginCode, hash, m.acc.Now().Add(codeLife), f); err != nil {
		return Landing{}, err
	}
	return Landing{URL: l.with(url.Values{"code": {code}})}, nil
}

func (l login) with(q url.Values) string {
	u, err := url.Parse(l.Redirect)
	if err != nil || l.Redirect == "" {
		return ""
	}
	q.Set("state", l.State)
	u.RawQuery = q.Encode()
	return u.String()
}

// failed is the command line's address with what went wrong, or "".
func (l login) failed(err error) string {
	code := "access_denied"
	if isDown(err) {
		code = "temporarily_unavailable"
	}
	q := url.Values{"error": {code}, "error_description": {words(err)}}
	var e *access.Error
	if errors.As(err, &e) && e.Hint != "" {
		q.Set("hint", e.Hint)
	}
	return l.with(q)
}

// Redeem gives the command line its session, once, if it is the one that began.
func (m *Manager) Redeem(ctx context.Context, from netip.Addr, in api.LoginTokenInput) (api.SignedIn, error) {
	if err := m.noIssuer(); err != nil {
		return api.SignedIn{}, err
	}
	hash := broker.HashSecret(in.Code)
	var f fetch
	err := m.acc.TakeOnce(ctx, broker.RecordLoginCode, hash, &f)
	if access.CodeOf(err) == access.CodeNotFound {
		return api.SignedIn{}, access.Errorf(access.CodeUnauthenticated, "the code is not known here: it was used before, or is over").WithHint("sign in again with: curfew login")
	}
	if err != nil {
		return api.SignedIn{}, err
	}
	if subtle.ConstantTimeCompare([]byte(challenge(in.Verifier)), []byte(f.Challenge)) != 1 {
		m.acc.NoteRefusal(ctx, f.Person.Name, addr(from), "a sign-in's code came with another verifier than it was begun with")
		return api.SignedIn{}, access.Errorf(access.CodeUnauthenticated, "the code is of a sign-in that somebody else began").WithHint("sign in again with: curfew login")
	}
	refresh := ""
	if len(f.Refresh) > 0 {
		if refresh, err = m.seal.open(f.Refresh, "code:"+hash); err != nil {
			return api.SignedIn{}, err
		}
	}
	out, err := m.signedIn(m.begin(ctx, f.Person, refresh, "browser", from))
	if err != nil {
		m.refused(ctx, f.Person.Name, from, err)
	}
	return out, err
}

func (m *Manager) signedIn(s broker.Session, token string, err error) (api.SignedIn, error) {
	if err != nil {
		return api.SignedIn{}, err
	}
	out := api.SignedIn{Token: token, Name: s.Name, Roles: []string{}, Groups: append([]string{}, s.Groups...), ExpiresAt: s.EndsAt.UTC()}
	for _, r := range s.Roles {
		out.Roles = append(out.Roles, string(r))
	}
	return out, nil
}

package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// AsHeader names the account of the demo that a call acts as.
const AsHeader = "Curfew-As"

type signedIn struct {
	name  string
	roles []access.Role
	hash  [sha256.Size]byte
}

func readPeople(people []Person) ([]signedIn, error) {
	var out []signedIn
	for _, p := range people {
		if p.TokenSHA256 == "" {
			continue
		}
		b, err := hex.DecodeString(p.TokenSHA256)
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("the token hash of %s is not a SHA-256 in hexadecimal", p.Name)
		}
		out = append(out, signedIn{name: p.Name, roles: p.Roles, hash: [sha256.Size]byte(b)})
	}
	return out, nil
}

// bearer finds the person of a token. It compares with every hash there is, whatever it has found, so that the time that it
// takes tells nothing.
func (s *Server) bearer(token string) (access.Caller, bool) {
	sum := sha256.Sum256([]byte(token))
	found := -1
	for i := range s.people {
		if subtle.ConstantTimeCompare(sum[:], s.people[i].hash[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return access.Caller{}, false
	}
	p := s.people[found]
	return access.Caller{Name: p.name, Roles: p.roles}, true
}

// signIn says who is calling and, for an account of the demo, from where. Its error says what to do about it.
func (s *Server) signIn(r *http.Request) (access.Caller, error) {
	as := r.Header.Values(AsHeader)
	if len(as) > 0 {
		if s.opt.Demo == nil {
			return access.Caller{}, access.Errorf(access.CodeDenied, "nobody acts as somebody else here: --as works only with curfew demo").
				WithHint("leave --as out and sign in with your own token")
		}
		return s.demoAccount(r, as)
	}
	auth := r.Header.Get("Authorization")
	if auth == "" {
		if c, err := r.Cookie(sessionCookie); err == nil && s.opt.SignIn != nil {
			return s.cookieSession(r, c.Value)
		}
		e := access.Errorf(access.CodeUnauthenticated, "nobody is signed in")
		if s.opt.Demo != nil {
			hint := fmt.Sprintf("act as one of the demo's accounts: curfew --as requester … (%s)", s.accounts())
			if s.opt.SignIn != nil && s.opt.SignIn.Methods().Issuer != "" {
				hint += "; or sign in with: curfew login"
			}
			return access.Caller{}, e.WithHint("%s", hint)
		}
		if s.opt.SignIn != nil && s.opt.SignIn.Methods().Issuer != "" {
			return access.Caller{}, e.WithHint("sign in with: curfew login")
		}
		return access.Caller{}, e.WithHint("send the token that an admin gave you, as Authorization: Bearer TOKEN; the command line reads it from CURFEW_TOKEN")
	}
	scheme, token, ok := strings.Cut(auth, " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(r.Header.Values("Authorization")) != 1 {
		return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the Authorization header carries no bearer token").
			WithHint("write it as: Authorization: Bearer TOKEN")
	}
	if c, ok := s.bearer(token); ok {
		return c, nil
	}
	if s.opt.SignIn != nil {
		return s.verified(r, token)
	}
	return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the token is not known here").
		WithHint("check that it is whole and meant for this server; an admin can give you another")
}

// verified asks the authenticator, and remembers how to ask it again: a call may last longer than the caller's rights.
func (s *Server) verified(r *http.Request, token string) (access.Caller, error) {
	c, err := s.opt.SignIn.Bearer(r.Context(), token)
	if err == nil {
		if s.opt.Demo != nil { // as with AsHeader: whoever signed in to a demo sits at this machine too
			c.Address = s.opt.MyIPs[strings.ToLower(c.Name)]
		}
		exchangeOf(r.Context()).again = func(ctx context.Context) (access.Caller, error) { return s.opt.SignIn.Bearer(ctx, token) }
	}
	return c, err
}

func (s *Server) demoAccount(r *http.Request, as []string) (access.Caller, error) {
	peer, ok := peerAddress(r)
	if !ok || !peer.IsLoopback() {
		return access.Caller{}, access.Errorf(access.CodeDenied, "the demo's accounts can be used from this machine alone, and the call came from %s", peer)
	}
	if len(as) != 1 {
		return access.Caller{}, access.Errorf(access.CodeInvalid, "the header %s stands there more than once", AsHeader)
	}
	for name, roles := range s.opt.Demo {
		if access.SamePerson(name, strings.TrimSpace(as[0])) {
			return access.Caller{Name: name, Roles: roles, Groups: s.opt.DemoGroups[name], Address: s.opt.MyIPs[strings.ToLower(name)]}, nil
		}
	}
	return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the demo has no such account").
		WithHint("its accounts are %s", s.accounts())
}

func (s *Server) accounts() string {
	return strings.Join(slices.Sorted(maps.Keys(s.opt.Demo)), ", ")
}

func peerAddress(r *http.Request) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap().WithZone(""), err == nil
}

// callerAddress says where a call came from: the connection's other end or, if that is a proxy that we trust, the last address
// in X-Forwarded-For that is not one. What a client wrote there itself stands further left and is not looked at. An address that
// cannot be read, or that the proxy does not tell, is unknown, the zero Addr: never the proxy's own, for which nothing should open.
func (s *Server) callerAddress(r *http.Request) netip.Addr {
	peer, ok := peerAddress(r)
	if !ok {
		return netip.Addr{}
	}
	if !s.trusted(peer) {
		return peer
	}
	var last netip.Addr // where all are trusted, the call began at the leftmost
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		if hop == "" {
			continue
		}
		a, err := netip.ParseAddr(hop)
		if err != nil { // some proxies write the port too
			ap, err := netip.ParseAddrPort(hop)
			if err != nil {
				return netip.Addr{}
			}
			a = ap.Addr()
		}
		if a = a.Unmap().WithZone(""); !s.trusted(a) {
			return a
		}
		last = a
	}
	return last
}

func (s *Server) trusted(a netip.Addr) bool {
	return slices.ContainsFunc(s.opt.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

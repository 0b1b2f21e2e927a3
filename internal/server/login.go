package server

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/identity"
)

// Authenticator signs people and programs in. *identity.Manager implements it.
type Authenticator interface {
	// Bearer says who calls with a token. Its error is access.CodeUnauthenticated where the token is worth nothing, and
	// access.CodeUnavailable where that cannot be told now.
	Bearer(ctx context.Context, token string) (access.Caller, error)
	Methods() api.LoginMethods
	Start(ctx context.Context, in api.LoginStartInput) (api.LoginStart, error)
	Redeem(ctx context.Context, from netip.Addr, in api.LoginTokenInput) (api.SignedIn, error)
	Device(ctx context.Context) (api.DeviceStart, error)
	DeviceToken(ctx context.Context, from netip.Addr, handle string) (api.DeviceToken, error)
	Portal(ctx context.Context, next string) (to, binding string, err error)
	Callback(ctx context.Context, from netip.Addr, q url.Values, binding string) (identity.Landing, error)
	Logout(ctx context.Context, c access.Caller) error
}

// Cookies of the portal. The prefix makes browsers refuse one that another host or an unencrypted page has set.
const (
	sessionCookie = "__Host-curfew"
	bindingCookie = "__Host-curfew-login"
)

const (
	loginPath  = "/login"
	logoutPath = "/logout"
)

// beforeSignIn are the routes of those who are about to sign in; beginSignIn are those of them that begin something.
var (
	beforeSignIn = []string{"/v1/login", "/v1/login/start", "/v1/login/token", "/v1/login/device", "/v1/login/device/token", loginPath, identity.CallbackPath}
	beginSignIn  = []string{"/v1/login/start", "/v1/login/device", loginPath}
)

// unknown registers an operation for those who are not signed in. What they did wrong counts as a failed sign-in.
func unknown[I, O any](s *Server, a huma.API, op huma.Operation, h func(context.Context, access.Caller, *I) (*O, error)) {
	register(a, op, func(ctx context.Context, c access.Caller, in *I) (*O, error) {
		out, err := h(ctx, c, in)
		if err != nil {
			s.countFailure(c, err)
		}
		return out, err
	})
	path := a.OpenAPI().Paths[op.Path]
	for _, o := range []*huma.Operation{path.Get, path.Post} {
		if o != nil {
			o.Security = []map[string][]string{{}}
		}
	}
}

func (s *Server) countFailure(c access.Caller, err error) {
	switch access.CodeOf(err) {
	case access.CodeUnauthenticated, access.CodeDenied, access.CodeInvalid:
		s.failures.allow(addressKey(c.Address), wall.Now())
		s.metrics.signIns.WithLabelValues("sign_in").Inc()
	}
}

// signInOr returns the authenticator, or an error where there is none.
func (s *Server) signInOr() (Authenticator, error) {
	if s.opt.SignIn == nil {
		return nil, access.Errorf(access.CodeNotFound, "nobody signs in through an issuer at this server").
			WithHint("use the token that an admin gave you: the command line reads it from CURFEW_TOKEN")
	}
	return s.opt.SignIn, nil
}

func (s *Server) loginRoutes(a huma.API) {
	unknown(s, a, op("login-methods", "GET", "/v1/login", "sign-in", "How one signs in here", ""),
		func(context.Context, access.Caller, *none) (*answer[api.LoginMethods], error) {
			var m api.LoginMethods
			if s.opt.SignIn != nil {
				m = s.opt.SignIn.Methods()
			}
			m.Token, m.Demo = len(s.people) > 0, s.opt.Demo != nil
			return ok(m), nil
		})
	unknown(s, a, op("login-start", "POST", "/v1/login/start", "sign-in", "Begin a sign-in through a browser on the caller's machine",
		"Listen at redirect_uri, open the url, and take the code that comes there with your state to /v1/login/token. Where it fails, error, error_description and hint come instead of a code."),
		func(ctx context.Context, _ access.Caller, in *body[api.LoginStartInput]) (*answer[api.LoginStart], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			m, err := s.signInOr()
			if err != nil {
				return nil, err
			}
			return reply(same[api.LoginStart])(m.Start(ctx, v))
		})
	unknown(s, a, op("login-token", "POST", "/v1/login/token", "sign-in", "Fetch the session of a sign-in through a browser", "A code is good once, for two minutes, with the verifier of its challenge."),
		func(ctx context.Context, c access.Caller, in *body[api.LoginTokenInput]) (*answer[api.SignedIn], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			m, err := s.signInOr()
			if err != nil {
				return nil, err
			}
			return reply(same[api.SignedIn])(m.Redeem(ctx, c.Address, v))
		})
	unknown(s, a, op("login-device", "POST", "/v1/login/device", "sign-in", "Begin a sign-in by device code",
		"For a terminal without a browser: the person opens verification_uri elsewhere and gives the user_code there."),
		func(ctx context.Context, _ access.Caller, _ *none) (*answer[api.DeviceStart], error) {
			m, err := s.signInOr()
			if err != nil {
				return nil, err
			}
			return reply(same[api.DeviceStart])(m.Device(ctx))
		})
	unknown(s, a, op("login-device-token", "POST", "/v1/login/device/token", "sign-in", "Is the sign-in by device code done",
		"Answers pending with the interval to wait, or the session. Asking sooner is answered and changes nothing."),
		func(ctx context.Context, c access.Caller, in *body[api.DeviceTokenInput]) (*answer[api.DeviceToken], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			m, err := s.signInOr()
			if err != nil {
				return nil, err
			}
			return reply(same[api.DeviceToken])(m.DeviceToken(ctx, c.Address, v.Handle))
		})
	register(a, op("logout", "POST", "/v1/logout", "sign-in", "End the session of this call", ""),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.Ended], error) {
			m, err := s.signInOr()
			if err == nil {
				err = m.Logout(ctx, c)
			}
			if err != nil {
				return nil, err
			}
			return ok(api.Ended{Sessions: 1}), nil
		})
	s.mux.HandleFunc("GET "+loginPath, s.portalLogin)
	s.mux.HandleFunc("GET "+identity.CallbackPath, s.callback)
	s.mux.HandleFunc("POST "+logoutPath, s.portalLogout)
}

// cookieSession signs in by the portal's cookie. A browser sends it with whatever a page makes it send, so that what changes
// something must prove that it comes from a page of ours: a browser that says nothing of where it comes from is not believed.
func (s *Server) cookieSession(r *http.Request, token string) (access.Caller, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		site := r.Header.Get("Sec-Fetch-Site")
		if site != "same-origin" && (site != "" || r.Header.Get("Origin") == "") || crossOrigin.Check(r) != nil {
			return access.Caller{}, access.Errorf(access.CodeDenied, "this call does not come from a page of this server").
				WithHint("reload the page and try again; programs send a token instead of a cookie")
		}
	}
	return s.verified(r, token)
}

func (s *Server) cookie(w http.ResponseWriter, name, value string, expires time.Time) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, Expires: expires}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// portalLogin sends a browser to the issuer.
func (s *Server) portalLogin(w http.ResponseWriter, r *http.Request) {
	m, err := s.signInOr()
	var to, binding string
	if err == nil {
		to, binding, err = m.Portal(r.Context(), r.URL.Query().Get("next"))
	}
	if err != nil {
		s.page(w, r, err)
		return
	}
	s.cookie(w, bindingCookie, binding, wall.Now().Add(10*time.Minute))
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// callback takes a browser that comes back from the issuer.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	m, err := s.signInOr()
	if err != nil {
		s.page(w, r, err)
		return
	}
	binding := ""
	if c, err := r.Cookie(bindingCookie); err == nil {
		binding = c.Value
	}
	to, err := m.Callback(r.Context(), x.caller.Address, r.URL.Query(), binding)
	if err != nil {
		s.countFailure(x.caller, err)
		if to.URL == "" {
			s.page(w, r, err)
			return
		}
		problem(r.Context(), err) // for the log; the command line tells it
	}
	if to.Session != "" {
		// What the browser was signed in as before is over: nobody who knows that session comes to share the new one.
		if c, err := r.Cookie(sessionCookie); err == nil {
			if old, err := m.Bearer(r.Context(), c.Value); err == nil && old.Session != "" {
				_ = m.Logout(r.Context(), old)
			}
		}
		s.cookie(w, sessionCookie, to.Session, to.Expires)
		s.cookie(w, bindingCookie, "", time.Time{})
	}
	w.Header().Set("Location", to.URL)
	w.WriteHeader(http.StatusSeeOther)
}

// portalLogout ends the session of the cookie.
func (s *Server) portalLogout(w http.ResponseWriter, r *http.Request) {
	m, err := s.signInOr()
	if err == nil {
		err = m.Logout(r.Context(), exchangeOf(r.Context()).caller)
	}
	if err != nil && access.CodeOf(err) != access.CodeUnauthenticated && access.CodeOf(err) != access.CodeConflict {
		s.page(w, r, err)
		return
	}
	s.cookie(w, sessionCookie, "", time.Time{})
	w.Header().Set("Location", "/")
	w.WriteHeader(http.StatusSeeOther)
}

// page tells a person in a browser what went wrong. It needs nothing but itself.
func (s *Server) page(w http.ResponseWriter, r *http.Request, err error) {
	p := problem(r.Context(), err)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(p.Status)
	fmt.Fprintf(w, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Curfew: %s</title>\n<h1>You are not signed in</h1>\n<p>%s.</p>\n<p>%s.</p>\n<p><small>Correlation %s</small></p>\n</html>\n",
		html.EscapeString(p.Title), html.EscapeString(p.Detail), html.EscapeString(p.Hint), html.EscapeString(p.Correlation))
}

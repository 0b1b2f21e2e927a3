package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/identity"
)

// CorrelationHeader tells the caller under which name the log holds the call.
const CorrelationHeader = "Curfew-Correlation"

// wall is the machine's clock, by which connections live, whatever time it is for grants.
var wall clock.System

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// outer surrounds every call: correlation, security headers, metrics, the log line, and what becomes of a panic.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := wall.Now()
		x := &exchange{correlation: newCorrelation(), path: r.URL.EscapedPath(), route: "none", caller: access.Caller{Address: s.callerAddress(r)}}
		r = r.WithContext(audit.WithCorrelation(context.WithValue(r.Context(), exchangeKey{}, x), x.correlation))
		rec := &recorder{ResponseWriter: w}
		h := w.Header()
		h.Set(CorrelationHeader, x.correlation)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		s.metrics.inFlight.Inc()
		aborted := false
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // it is this very value
					aborted = true
				} else {
					s.metrics.panics.Inc()
					s.log.LogAttrs(r.Context(), slog.LevelError, "panic while answering", slog.String("correlation", x.correlation),
						slog.String("route", x.route), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
					err := fmt.Errorf("panic: %v", p)
					if rec.status == 0 {
						writeProblem(rec, r, err, 0)
					} else {
						x.code, x.err, aborted = access.CodeInternal, err, true
					}
				}
			}
			s.metrics.inFlight.Dec()
			s.finish(r, rec, x, wall.Now().Sub(start))
			if aborted { // half an answer must not look like a whole one
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// finish counts the call and writes its one line. Neither query nor header stands in it: a secret may.
func (s *Server) finish(r *http.Request, rec *recorder, x *exchange, took time.Duration) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	method := r.Method
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, method) {
		method = "other"
	}
	s.metrics.observe(method, x.route, strconv.Itoa(rec.status), took, x.stream)
	level := slog.LevelInfo
	switch {
	case rec.status >= 500:
		level = slog.LevelError
	case x.route == "/healthz" || x.route == "/readyz" || x.route == "/metrics":
		level = slog.LevelDebug
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("method", method), slog.String("route", x.route), slog.Int("status", rec.status),
		slog.Duration("duration", took), slog.Int64("bytes", rec.bytes), slog.String("caller", x.caller.Name), slog.String("correlation", x.correlation)}
	if x.caller.Address.IsValid() {
		attrs = append(attrs, slog.String("address", x.caller.Address.String()))
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", string(x.code)))
	}
	if x.err != nil && rec.status >= 500 {
		attrs = append(attrs, slog.String("error", x.err.Error()))
	}
	s.log.LogAttrs(r.Context(), level, "call", attrs...)
}

func newCorrelation() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	return hex.EncodeToString(b[:])
}

// open are the routes that need no sign-in.
var open = []string{"/healthz", "/readyz", "/metrics", "/openapi.json", "/openapi.yaml", "/schema/event.json", "/schema/policy.json", slackPath}

// dispatch finds the route, and lets only those calls at it that may come so far.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	h, pattern := s.mux.Handler(r)
	if _, path, ok := strings.Cut(pattern, " "); ok {
		x.route = path
	}
	if err := s.refuseBrowsers(r); err != nil {
		s.metrics.signIns.WithLabelValues("browser").Inc()
		writeProblem(w, r, err, 0)
		return
	}
	if pattern == "" {
		s.noRoute(w, r, h)
		return
	}
	switch {
	case slices.Contains(open, x.route):
	case slices.Contains(beforeSignIn, x.route):
		if r = s.admitUnknown(w, r, x); r == nil {
			return
		}
	default:
		if r = s.admit(w, r, x); r == nil {
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

// noRoute says what is wrong with the path or the method; h is what the mux would have answered.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request, h http.Handler) {
	probe := &recorder{ResponseWriter: discard{http.Header{}}}
	h.ServeHTTP(probe, r)
	if allow := probe.Header().Get("Allow"); probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow)
		writeProblem(w, r, access.Errorf(access.CodeInvalid, "%s is not what this path is for", r.Method).
			WithHint("it takes %s", allow), http.StatusMethodNotAllowed)
		return
	}
	e := access.Errorf(access.CodeNotFound, "there is no such path in the API")
	if strings.HasPrefix(r.URL.Path, "/v1/vms/") {
		e = e.WithHint("the slashes of a group/name or a resource id are written %%2F in a path")
	} else {
		e = e.WithHint("all paths are described in /openapi.yaml")
	}
	writeProblem(w, r, e, 0)
}

// discard is a ResponseWriter to nowhere.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// refuseBrowsers keeps pages of other origins away: they could make calls with a reader's network position, and in the demo a name
// that was re-bound to this machine could even read the answers.
func (s *Server) refuseBrowsers(r *http.Request) error {
	if s.opt.Demo != nil && !demoHost(r.Host) {
		return access.Errorf(access.CodeDenied, "the demo answers on this machine's own names alone, and the call was for another").
			WithHint("call it as 127.0.0.1 or localhost")
	}
	if r.Method == http.MethodGet && (r.URL.Path == loginPath || r.URL.Path == identity.CallbackPath) {
		return nil // the issuer's page leads here, and so may a link; what they do is bound to a cookie
	}
	// CrossOriginProtection lets reads pass; nothing here is for the pages of others, so they are refused as well.
	site := r.Header.Get("Sec-Fetch-Site")
	if site == "cross-site" || site == "same-site" || crossOrigin.Check(r) != nil {
		return access.Errorf(access.CodeDenied, "the API does not answer to pages of other sites").
			WithHint("use the command line, or a program that sends no Origin")
	}
	return nil
}

var crossOrigin = http.NewCrossOriginProtection()

func demoHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return loopbackName(host)
}

// admit signs the caller in, applies limits and reads the body. It answers itself, and returns nil, where the call ends.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, x *exchange) *http.Request {
	now := wall.Now()
	from := addressKey(x.caller.Address)
	refuse := func(reason string, err error, status int) *http.Request {
		s.metrics.signIns.WithLabelValues(reason).Inc()
		writeProblem(w, r, err, status)
		return nil
	}
	slow := access.Errorf(access.CodeRateLimited, "too many calls at once").WithHint("try again in a second")
	if !s.perAddress.allow(from, now) {
		return refuse("rate_address", slow, 0)
	}
	who, err := s.signIn(r)
	if err != nil {
		if access.CodeOf(err) == access.CodeUnauthenticated {
			// Looked at only now: whoever is signed in must not be kept out by what others at their address, a proxy's for one, get wrong.
			if s.failures.spent(from, now) {
				return refuse("rate_sign_in", access.Errorf(access.CodeRateLimited, "too many failed sign-ins from your address").
					WithHint("wait a minute, and check the token"), 0)
			}
			if r.Header.Get("Authorization") != "" {
				s.failures.allow(from, now)
			}
		}
		return refuse("sign_in", err, 0)
	}
	if !who.Address.IsValid() {
		who.Address = x.caller.Address
	}
	x.caller = who
	if !s.perPerson.allow(strings.ToLower(who.Name), now) {
		return refuse("rate_person", slow, 0)
	}
	return s.withBody(w, r)
}

// admitUnknown applies limits to those who are about to sign in, and reads the body.
func (s *Server) admitUnknown(w http.ResponseWriter, r *http.Request, x *exchange) *http.Request {
	now, from := wall.Now(), addressKey(x.caller.Address)
	refuse := func(reason, message string) *http.Request {
		s.metrics.signIns.WithLabelValues(reason).Inc()
		writeProblem(w, r, access.Errorf(access.CodeRateLimited, "%s", message).WithHint("wait a minute"), 0)
		return nil
	}
	switch {
	case !s.perAddress.allow(from, now):
		return refuse("rate_address", "too many calls at once")
	case s.failures.spent(from, now):
		return refuse("rate_sign_in", "too many failed sign-ins from your address")
	case slices.Contains(beginSignIn, x.route) && !s.signIns.allow(from, now):
		return refuse("rate_sign_in", "too many sign-ins were begun from your address")
	}
	return s.withBody(w, r)
}

// withBody reads the body. It answers itself, and returns nil, where that cannot be done.
func (s *Server) withBody(w http.ResponseWriter, r *http.Request) *http.Request {
	body, status, err := s.readBody(w, r)
	if err != nil {
		s.metrics.signIns.WithLabelValues("body").Inc()
		writeProblem(w, r, err, status)
		return nil
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return r
}

// readBody takes in the whole body, within limits of size and time, before anything is done for the call. Its deadline is lifted
// again, because net/http would end a long call by it.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, int, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, 0, nil
	}
	most := s.opt.Limits.Body
	if n, ok := largeBodies[exchangeOf(r.Context()).route]; ok {
		most = max(most, n)
	}
	tooLarge := access.Errorf(access.CodeInvalid, "the body is larger than %d bytes", most)
	if r.ContentLength > most {
		w.Header().Set("Connection", "close")
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(wall.Now().Add(s.opt.Limits.BodyTime)) // a connection without deadlines is a test's
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
	} else { // or net/http would wait for the rest before it answers
		w.Header().Set("Connection", "close")
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, http.StatusRequestEntityTooLarge, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, http.StatusRequestTimeout, access.Errorf(access.CodeInvalid, "the body did not arrive within %s", s.opt.Limits.BodyTime).Wrap(err)
	case err != nil:
		return nil, http.StatusBadRequest, access.Errorf(access.CodeInvalid, "the body could not be read").Wrap(err)
	}
	if len(body) == 0 {
		return nil, 0, nil
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		return nil, http.StatusUnsupportedMediaType, access.Errorf(access.CodeInvalid, "the body is not marked as JSON").
			WithHint("send the header Content-Type: application/json")
	}
	return body, 0, nil
}

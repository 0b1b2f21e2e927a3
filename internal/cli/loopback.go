package cli

import (
	"context"
	"crypto/subtle"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// landing is where a browser ends after a sign-in: a listener on this machine that takes one code, for the state that it was made with,
// and nothing afterwards. Everything on this machine can reach it, so what carries another state is turned away and changes nothing.
type landing struct {
	URL string

	state  string
	srv    *http.Server
	landed chan arrival // of the one that counts
	once   sync.Once
}

// arrival is what the browser brought.
type arrival struct {
	code string
	err  error
}

const landingPath = "/curfew"

func listenForCode(ctx context.Context, state string) (*landing, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "nothing can listen on 127.0.0.1 for the end of the sign-in: %v", err).
			WithHint("sign in with a code instead: curfew login --device")
	}
	ld := &landing{URL: "http://" + l.Addr().String() + landingPath, state: state, landed: make(chan arrival, 1)}
	host := l.Addr().String()
	ld.srv = &http.Server{ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ld.serve(w, r, host) })}
	go func() { _ = ld.srv.Serve(l) }() // ends with close
	return ld, nil
}

// close lets the page that is being written go out.
func (ld *landing) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if ld.srv.Shutdown(ctx) != nil {
		_ = ld.srv.Close()
	}
}

func (ld *landing) serve(w http.ResponseWriter, r *http.Request, host string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	page := func(status int, title, text string) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>" + title + "</title></head>\n<body><main><h1>" + title +
			"</h1>\n<p>" + text + "</p></main></body></html>\n"))
	}
	switch {
	case r.Host != host || r.URL.Path != landingPath:
		page(http.StatusNotFound, "Nothing here", "This is where a sign-in on the command line ends.")
		return
	case r.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		page(http.StatusMethodNotAllowed, "Nothing here", "This is where a sign-in on the command line ends.")
		return
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(ld.state)) != 1 {
		page(http.StatusBadRequest, "Not this sign-in", "This does not belong to the sign-in that waits here. Begin again on the command line.")
		return
	}
	a := arrival{code: q.Get("code")}
	if a.code == "" {
		a.err = refusedSignIn(q.Get("error"), q.Get("error_description"), q.Get("hint"))
	}
	first := false
	ld.once.Do(func() { first = true })
	switch {
	case !first:
		page(http.StatusGone, "Over", "This sign-in has ended already. You may close this window.")
		return
	case a.err != nil:
		page(http.StatusOK, "Not signed in", "The command line says why. You may close this window.")
	default:
		page(http.StatusOK, "Signed in", "The command line goes on. You may close this window.")
	}
	ld.landed <- a
}

// refusedSignIn is why there is no code, in the words of the server.
func refusedSignIn(code, description, hint string) error {
	if code+description == "" {
		return access.Errorf(access.CodeDenied, "the sign-in ended without a code").WithHint("try again, or sign in with a code: curfew login --device")
	}
	if description == "" {
		description = "the sign-in was refused: " + code
	}
	e := access.Errorf(access.CodeDenied, "%s", description)
	if code == "temporarily_unavailable" || code == "server_error" {
		e.Code = access.CodeUnavailable
	}
	return e.WithHint("%s", hint)
}

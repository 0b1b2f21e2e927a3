package notify_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
)

// mailServer is a mail server that nobody here wrote, with TLS.
type mailServer struct {
	addr, tlsAddr string
	ca            *x509.CertPool

	mu    sync.Mutex
	got   []received
	auth  bool
	rcpt  func(to string) error
	data  func() error
	plain bool // it offers LOGIN only, if not
}

type received struct{ from, to, text string }

func startMail(t *testing.T, withTLS bool) *mailServer {
	t.Helper()
	m := &mailServer{ca: x509.NewCertPool(), plain: true}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := clock.System{}.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true,
		BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	m.ca.AddCert(cert)
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	serve := func(l net.Listener, starttls bool) string {
		s := smtp.NewServer(m)
		s.Domain, s.ReadTimeout, s.WriteTimeout, s.MaxMessageBytes, s.MaxRecipients = "mail.test", 5*time.Second, 5*time.Second, 1<<20, 50
		s.ErrorLog = discardLog{}
		if starttls {
			s.TLSConfig = conf
		}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		return l.Addr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = serve(l, withTLS)
	if l, err = tls.Listen("tcp", "127.0.0.1:0", conf); err != nil {
		t.Fatal(err)
	}
	m.tlsAddr = serve(l, false)
	return m
}

type discardLog struct{}

func (discardLog) Printf(string, ...any) {}
func (discardLog) Println(...any)        {}

func (m *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{m: m}, nil }

type mailSession struct {
	m        *mailServer
	from, to string
}

func (s *mailSession) AuthMechanisms() []string {
	if s.m.plain {
		return []string{sasl.Plain}
	}
	return []string{sasl.Login}
}

func (s *mailSession) Auth(mech string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "curfew" || password != "hunter2" {
			return errors.New("wrong password")
		}
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		s.m.auth = true
		return nil
	}
	if mech == sasl.Plain {
		return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
	}
	return &loginServer{check: check}, nil
}

// loginServer is the server's half of LOGIN, which the library has no more.
type loginServer struct {
	check func(user, password string) error
	user  string
	step  int
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	l.step++
	switch l.step {
	case 1:
		return []byte("Username:"), false, nil
	case 2:
		l.user = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(l.user, string(response))
}

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error { s.from = from; return nil }
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	if s.m.rcpt != nil {
		return s.m.rcpt(to)
	}
	return nil
}
func (s *mailSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.m.data != nil {
		if err := s.m.data(); err != nil {
			return err
		}
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.got = append(s.m.got, received{s.from, s.to, string(b)})
	return nil
}
func (s *mailSession) Reset()        {}
func (s *mailSession) Logout() error { return nil }

func (m *mailServer) take() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	got := m.got
	m.got = nil
	return got
}

func emailTo(t *testing.T, m *mailServer, change func(*notify.EmailOptions)) *notify.Email {
	t.Helper()
	o := notify.EmailOptions{Name: "mail", Server: m.addr, User: "curfew", Password: secretFile(t, "hunter2"), From: "Curfew <curfew@example.com>", To: []string{"Ops <ops@example.com>"}, Words: words(t),
		Guard: notify.Guard{Allow: loopback, CA: m.ca}, Clock: clock.System{}}
	if change != nil {
		change(&o)
	}
	e, err := notify.NewEmail(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// parts returns the header and the two forms of the body.
func parts(t *testing.T, r received) (h mail.Header, text, html string) {
	t.Helper()
	msg, err := mail.ReadMessage(strings.NewReader(r.text))
	if err != nil {
		t.Fatalf("%v\n%s", err, r.text)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(msg.Body, params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err != nil {
			return msg.Header, text, html
		}
		b, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(p.Header.Get("Content-Type"), "text/html") {
			html = string(b)
		} else {
			text = string(b)
		}
	}
}

func TestEmail(t *testing.T) {
	m := startMail(t, true)
	e := emailTo(t, m, nil)
	send(t, e, story(notify.RequestCreated, 1, nil))
	got := m.take()
	if len(got) != 1 || got[0].from != "curfew@example.com" || got[0].to != "ops@example.com" || !m.auth {
		t.Fatalf("got %+v", got)
	}
	h, text, html := parts(t, got[0])
	root := h.Get("Message-ID")
	if !strings.Contains(root, "r-1") || h.Get("Auto-Submitted") != "auto-generated" || h.Get("From") != `"Curfew" <curfew@example.com>` {
		t.Errorf("header %v", h)
	}
	for _, want := range []string{"asks for", "For: 2h", "curfew approve r-1", "https://curfew.example.com/requests/r-1"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	if !strings.Contains(html, `<a href="https://curfew.example.com/requests/r-1">`) {
		t.Errorf("the HTML: %s", html)
	}
	send(t, e, story(notify.RequestApproved, 2, approved))
	h, text, _ = parts(t, m.take()[0])
	if h.Get("In-Reply-To") != root || h.Get("References") != root || h.Get("Message-ID") == root || !strings.Contains(text, "approved by bob") {
		t.Errorf("the reply: %v\n%s", h, text)
	}
	first := story(notify.RequestApproved, 2, approved)
	send(t, e, first)
	if again, _, _ := parts(t, m.take()[0]); again.Get("Message-ID") != h.Get("Message-ID") {
		t.Errorf("a repetition has another id: %s, %s", again.Get("Message-ID"), h.Get("Message-ID"))
	}
	send(t, emailTo(t, m, func(o *notify.EmailOptions) { o.Server, o.TLS = m.tlsAddr, notify.ImplicitTLS }), first)
	if len(m.take()) != 1 {
		t.Error("nothing came over implicit TLS")
	}
	m.plain = false
	send(t, e, first)
	if len(m.take()) != 1 {
		t.Error("nothing came with LOGIN")
	}
}

func TestEmailIsNeverSentInTheClear(t *testing.T) {
	m := startMail(t, false) // it offers no STARTTLS
	fails := func(what string, e *notify.Email) {
		t.Helper()
		_, err := e.Send(t.Context(), story(notify.RequestCreated, 1, nil))
		var f *notify.Failure
		if !errors.As(err, &f) || len(m.take()) > 0 || m.auth || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, signed in %v", what, err, m.auth)
		}
	}
	fails("a server without STARTTLS", emailTo(t, m, nil))
	fails("a server without STARTTLS, and nobody who signs in", emailTo(t, m, func(o *notify.EmailOptions) { o.User = "" }))
	fails("a certificate that nobody trusts", emailTo(t, startMail(t, true), func(o *notify.EmailOptions) { o.Guard.CA = nil }))
	fails("a wrong password", emailTo(t, startMail(t, true), func(o *notify.EmailOptions) { o.Password = secretFile(t, "wrong") }))
	send(t, emailTo(t, m, func(o *notify.EmailOptions) { o.TLS, o.User = notify.NoTLS, "" }), story(notify.RequestCreated, 1, nil))
	if len(m.take()) != 1 {
		t.Error("nothing came to loopback without TLS, which was asked for")
	}
	for _, change := range []func(*notify.EmailOptions){
		func(o *notify.EmailOptions) { o.TLS = notify.NoTLS },
		func(o *notify.EmailOptions) { o.TLS, o.User, o.Server = notify.NoTLS, "", "mail.example.com:25" },
		func(o *notify.EmailOptions) { o.TLS = "perhaps" },
		func(o *notify.EmailOptions) { o.Server = "10.0.0.1:587" },
		func(o *notify.EmailOptions) { o.Server = "mail.example.com" },
		func(o *notify.EmailOptions) { o.Server = "0x7f.1:587" },
		func(o *notify.EmailOptions) { o.From = "curfew@example.com\r\nBcc: x@example.com" },
		func(o *notify.EmailOptions) { o.From = "nobody" },
		func(o *notify.EmailOptions) { o.To = []string{"a@example.com, b@example.com"} },
		func(o *notify.EmailOptions) { o.To = nil },
		func(o *notify.EmailOptions) { o.Password = "/nowhere" },
	} {
		o := notify.EmailOptions{Name: "x", Server: m.addr, User: "u", Password: secretFile(t, "p"), From: "c@example.com", To: []string{"a@example.com"}, Words: words(t), Guard: notify.Guard{Allow: loopback}, Clock: clock.System{}}
		change(&o)
		if _, err := notify.NewEmail(o); err == nil {
			t.Errorf("taken: %+v", o)
		}
	}
}

func TestHeadersCannotBeInjected(t *testing.T) {
	m := startMail(t, true)
	n := story(notify.RequestCreated, 1, func(r *access.Request) {
		r.Requester = "alice\r\nBcc: evil@example.com\r\n\r\n<script>alert(1)</script>"
		r.Reason = hostile + "\r\n.\r\nMAIL FROM:<evil@example.com>"
	})
	n.Subject = "r-1>\r\nX-Evil: 1\r\n <"
	n.Event.Installation = "x>\r\nX-Evil: 2"
	send(t, emailTo(t, m, func(o *notify.EmailOptions) {
		o.Words = words(t, notify.Template{Title: "{{.Who}}\r\nX-Evil: 3", Body: "{{.Reason}}"})
	}), n)
	got := m.take()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	h, _, html := parts(t, got[0])
	for k := range h {
		if k == "Bcc" || k == "X-Evil" {
			t.Errorf("header %s: %v", k, h[k])
		}
	}
	if strings.Contains(html, "<script") || strings.Contains(html, "<https:") || strings.ContainsAny(html, "\u202E\u200B\x1b") {
		t.Errorf("the HTML holds what others wrote: %s", html)
	}
}

func TestRecipients(t *testing.T) {
	m := startMail(t, true)
	addresses, unknown := []string{"bob@example.com", "OPS@example.com", "x@example.com\r\nBcc: y@example.com"}, []string{"dave"}
	people := func(_ context.Context, to []string) ([]string, []string) {
		same(t, "whom it concerns", to, []string{"bob", "dave"})
		return addresses, unknown
	}
	e := emailTo(t, m, func(o *notify.EmailOptions) { o.People = people })
	n := story(notify.RequestCreated, 1, nil)
	n.Event.To = []string{"bob", "dave"}
	to := func() (out []string) {
		for _, r := range m.take() {
			out = append(out, r.to)
		}
		slices.Sort(out)
		return out
	}
	same(t, "who could not be reached is named", send(t, e, n), "no address is known for dave")
	same(t, "each a message of their own", to(), []string{"bob@example.com", "ops@example.com"})
	// One who is refused for good does not keep the others from theirs; one who is refused for now is tried again alone.
	addresses = []string{"bob@example.com", "gone@example.com", "full@example.com"}
	full := true
	m.rcpt = func(to string) error {
		switch {
		case to == "gone@example.com":
			return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
		case to == "full@example.com" && full:
			return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "mailbox full"}
		}
		return nil
	}
	n.ID = "n-2"
	_, err := e.Send(t.Context(), n)
	var f *notify.Failure
	if !errors.As(err, &f) || f.Final {
		t.Fatalf("a full mailbox: %v", err)
	}
	same(t, "the others have theirs", to(), []string{"bob@example.com", "ops@example.com"})
	full = false
	send(t, e, n)
	same(t, "nobody gets it twice", to(), []string{"full@example.com"})
	// Nobody at all.
	e = emailTo(t, m, func(o *notify.EmailOptions) { o.People, o.To = people, nil })
	addresses = []string{"gone@example.com"}
	n.ID = "n-3"
	if _, err = e.Send(t.Context(), n); !errors.As(err, &f) || !f.Final || !strings.Contains(f.Message, "refuses gone@example.com") {
		t.Errorf("all refused: %v", err)
	}
	addresses = nil
	if _, err = e.Send(t.Context(), n); !errors.As(err, &f) || !f.Final || f.Message != "no address is known for dave" {
		t.Errorf("nobody known: %v", err)
	}
	unknown = nil
	if note := send(t, e, n); note == "" {
		t.Error("nobody concerned: no note says so")
	}
}

func TestAMailServerThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept() // and says nothing
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	m := startMail(t, true)
	m.data = func() error { time.Sleep(2 * time.Second); return nil }
	for name, e := range map[string]*notify.Email{"from the start": emailTo(t, m, func(o *notify.EmailOptions) { o.Server = l.Addr().String() }), "in the middle": emailTo(t, m, nil)} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		began := clock.System{}.Now()
		_, err := e.Send(ctx, story(notify.RequestCreated, 1, nil))
		cancel()
		if took := (clock.System{}).Now().Sub(began); err == nil || took > time.Second {
			t.Errorf("%s: %v after %s", name, err, took)
		}
	}
}

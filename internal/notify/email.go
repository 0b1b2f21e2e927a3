package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"net"
	"net/mail"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/curfew-jit/curfew/internal/clock"
)

// The ways in which a mail server is spoken to.
const (
	StartTLS    = "starttls" // the default: nothing is sent before the connection is encrypted
	ImplicitTLS = "implicit"
	NoTLS       = "none" // to an allowed loopback address alone, and without a password
)

// EmailOptions are what an e-mail channel needs.
type EmailOptions struct {
	Name     string
	Server   string // host:port
	TLS      string
	User     string
	Password SecretFile
	From     string
	To       []string // who gets everything
	// People returns the addresses of those whom an event concerns, and the names of those who have none. Nil: they get nothing.
	People func(ctx context.Context, to []string) (addresses, unknown []string)
	Words  *Words
	Guard  Guard
	Clock  clock.Clock
}

// Email sends events by SMTP, to each recipient a message of its own.
type Email struct {
	opt  EmailOptions
	host string
	port int
	from *mail.Address
	to   []string

	mu   sync.Mutex
	done map[string][]string // by notice: who has it already, while others could not be reached
}

// NewEmail makes an e-mail channel, or says what is wrong with its options.
func NewEmail(o EmailOptions) (*Email, error) {
	host, port, err := net.SplitHostPort(o.Server)
	if err != nil {
		return nil, fmt.Errorf("the server %q is not a host and a port, as mail.example.com:587", o.Server)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	a, aerr := netip.ParseAddr(host)
	switch {
	case err != nil || n == 0:
		return nil, fmt.Errorf("the port of server %q is not a number from 1 to 65535", o.Server)
	case aerr != nil && !plainName(host):
		return nil, fmt.Errorf("the host of server %q is neither a name nor an address in their usual form", o.Server)
	case aerr == nil:
		if err := o.Guard.Check(a); err != nil {
			return nil, fmt.Errorf("the server: %w; if it is meant, name its network under allow_private", err)
		}
	}
	switch o.TLS {
	case "":
		o.TLS = StartTLS
	case StartTLS, ImplicitTLS:
	case NoTLS:
		if aerr != nil || !a.Unmap().IsLoopback() || o.User != "" {
			return nil, errors.New("without TLS mail goes to an allowed loopback address alone, and without a user")
		}
	default:
		return nil, fmt.Errorf("tls is %q: it may be starttls, implicit or none", o.TLS)
	}
	if o.User != "" {
		if _, err := o.Password.One(); err != nil {
			return nil, fmt.Errorf("the password: %w", err)
		}
	}
	e := &Email{opt: o, host: host, port: int(n), done: map[string][]string{}}
	if e.from, err = mail.ParseAddress(o.From); err != nil || !goodAddress(e.from.Address) {
		return nil, fmt.Errorf("the sender %q is not an address", o.From)
	}
	for _, s := range o.To {
		a, err := mail.ParseAddress(s)
		if err != nil || !goodAddress(a.Address) {
			return nil, fmt.Errorf("the recipient %q is not an address", s)
		}
		e.to = append(e.to, a.Address)
	}
	if len(e.to) == 0 && o.People == nil {
		return nil, errors.New("nobody is to get mail: name recipients under to, or set people")
	}
	return e, nil
}

// goodAddress tells whether a bare address is one that can stand in a command and a header as it is.
func goodAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && len(s) <= 254 && plainName(domain) &&
		!strings.ContainsFunc(local, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"(),:;<>@[\]`, r) })
}

// ParseEmailAddress returns the bare address, or an error if it is none that mail can be sent to.
func ParseEmailAddress(s string) (string, error) {
	a, err := mail.ParseAddress(s)
	if err != nil || !goodAddress(a.Address) {
		return "", errors.New("it is not an e-mail address")
	}
	return a.Address, nil
}

// Name implements Channel.
func (e *Email) Name() string { return e.opt.Name }

// Send implements Channel. Recipients whom the server refuses for good are left out, and named in the note; while others could not be
// served for now the notice is tried again for them alone, unless the process is another by then.
func (e *Email) Send(ctx context.Context, n Notice) (string, error) {
	to, unknown := slices.Clone(e.to), []string(nil)
	if e.opt.People != nil {
		var more []string
		more, unknown = e.opt.People(ctx, n.Event.To)
		for _, a := range more {
			if a, err := ParseEmailAddress(a); err == nil && !slices.ContainsFunc(to, func(o string) bool { return strings.EqualFold(o, a) }) {
				to = append(to, a)
			}
		}
	}
	note := ""
	if len(unknown) > 0 {
		note = "no address is known for " + plain(strings.Join(unknown, ", "), texts)
	}
	if len(to) == 0 {
		if note == "" {
			return "it concerns nobody in particular, and the channel has no recipients of its own", nil
		}
		return "", &Failure{Message: note, Final: true}
	}
	e.mu.Lock()
	done := slices.Clone(e.done[n.ID])
	e.mu.Unlock()
	to = slices.DeleteFunc(to, func(a string) bool { return slices.Contains(done, a) })
	var refused []string
	var failed *Failure
	c, err := e.dial(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }() // it has been served, or is beyond help
	for _, a := range to {
		m, err := e.message(n, a)
		if err != nil {
			return "", &Failure{Message: "the message cannot be written", Final: true, Err: err}
		}
		err = c.Send(m)
		var se *gomail.SendError
		switch {
		case err == nil:
			done = append(done, a)
		case ctx.Err() != nil:
			failed = &Failure{Message: "no answer in time", Err: err}
		case errors.As(err, &se) && se.ErrorCode() >= 500 && !se.IsTemp():
			refused = append(refused, a)
			done = append(done, a)
			_ = c.Reset()
		default:
			failed = &Failure{Message: "the mail server could not take it", Err: err}
			if errors.As(err, &se) && se.ErrorCode() > 0 {
				failed.Message += fmt.Sprintf(": %d", se.ErrorCode())
			}
			_ = c.Reset()
		}
		if ctx.Err() != nil {
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if failed != nil {
		if len(done) > 0 && len(e.done) < 10_000 {
			e.done[n.ID] = done
		}
		return "", failed
	}
	delete(e.done, n.ID)
	if len(refused) > 0 {
		if note != "" {
			note += "; "
		}
		note += "the mail server refuses " + plain(strings.Join(refused, ", "), texts)
		if len(refused) == len(to) && len(done) == len(refused) {
			return "", &Failure{Message: note, Final: true}
		}
	}
	return note, nil
}

// dial connects, encrypts and signs in. The connection is cut when ctx ends, whatever the server is doing.
func (e *Email) dial(ctx context.Context) (*gomail.Client, error) {
	password := ""
	if e.opt.User != "" {
		var err error
		if password, err = e.opt.Password.One(); err != nil {
			return nil, secretFailure(err)
		}
	}
	conf := &tls.Config{ServerName: e.host, MinVersion: tls.VersionTLS12, RootCAs: e.opt.Guard.CA}
	policy := gomail.TLSMandatory
	if e.opt.TLS != StartTLS {
		policy = gomail.NoTLS // it is encrypted from the start, or not at all
	}
	connect := func(dctx context.Context, network, address string) (net.Conn, error) {
		c, err := e.opt.Guard.Dialer().DialContext(dctx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = c.Close() })
		if e.opt.TLS != ImplicitTLS {
			return c, nil
		}
		t := tls.Client(c, conf)
		if err := t.HandshakeContext(dctx); err != nil {
			_ = c.Close()
			return nil, err
		}
		return t, nil
	}
	try := func(auth gomail.SMTPAuthType) (*gomail.Client, error) {
		opts := []gomail.Option{gomail.WithPort(e.port), gomail.WithTLSPolicy(policy), gomail.WithTLSConfig(conf), gomail.WithDialContextFunc(connect), gomail.WithHELO(e.domain()),
			gomail.WithTimeout(30 * time.Second), gomail.WithoutNoop()}
		if e.opt.User != "" {
			opts = append(opts, gomail.WithSMTPAuth(auth), gomail.WithUsername(e.opt.User), gomail.WithPassword(password))
		}
		c, err := gomail.NewClient(e.host, opts...)
		if err != nil {
			return nil, err
		}
		return c, c.DialWithContext(ctx)
	}
	c, err := try(gomail.SMTPAuthPlain)
	if errors.Is(err, gomail.ErrPlainAuthNotSupported) {
		c, err = try(gomail.SMTPAuthLogin)
	}
	if err == nil {
		return c, nil
	}
	f := callFailure(err)
	if f.Message == "the call failed" {
		f.Message = "the mail server does not let us in: the connection, STARTTLS or the sign-in failed"
	}
	return nil, f
}

func (e *Email) domain() string {
	_, domain, _ := strings.Cut(e.from.Address, "@")
	return domain
}

// message writes a message to one recipient. What there is to say stands in the body: a header holds one line of title, encoded.
func (e *Email) message(n Notice, to string) (*gomail.Msg, error) {
	title, body, v := e.opt.Words.Write(n.Event)
	m := gomail.NewMsg()
	if err := m.FromFormat(e.from.Name, e.from.Address); err != nil {
		return nil, err
	}
	if err := m.To(to); err != nil {
		return nil, err
	}
	m.Subject(plain(title, 150))
	m.SetDateWithValue(n.Event.At)
	root := plain(n.Subject, 64) + ".curfew." + plain(n.Event.Installation, 20) + "@" + e.domain()
	if n.Event.Kind == RequestCreated {
		m.SetMessageIDWithValue(root)
	} else {
		m.SetMessageIDWithValue(plain(n.ID, 64) + ".curfew@" + e.domain())
		m.SetGenHeader(gomail.HeaderInReplyTo, "<"+root+">")
		m.SetGenHeader(gomail.HeaderReferences, "<"+root+">")
	}
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	m.SetGenHeader("X-Auto-Response-Suppress", "All")
	m.SetBodyString(gomail.TypeTextPlain, emailText(title, body, v))
	m.AddAlternativeString(gomail.TypeTextHTML, emailHTML(title, body, v))
	return m, nil
}

func emailText(title, body string, v View) string {
	var b strings.Builder
	b.WriteString(title + "\n\n" + body + "\n\n")
	for _, f := range v.Facts() {
		fmt.Fprintf(&b, "%s: %s\n", f.Label, f.Value)
	}
	if v.Command != "" {
		b.WriteString("\nApprove with: " + v.Command + "\n")
	}
	if v.Link != "" {
		b.WriteString("\n" + v.Link + "\n")
	}
	return b.String()
}

func emailHTML(title, body string, v View) string {
	esc := html.EscapeString
	var b strings.Builder
	b.WriteString("<!DOCTYPE html><html><body style=\"font-family:sans-serif\"><h3>" + esc(title) + "</h3>")
	for line := range strings.Lines(body) {
		b.WriteString("<p>" + esc(strings.TrimSpace(line)) + "</p>")
	}
	b.WriteString("<table>")
	for _, f := range v.Facts() {
		b.WriteString("<tr><td style=\"color:#666;padding-right:1em;vertical-align:top\">" + esc(f.Label) + "</td><td>" + esc(f.Value) + "</td></tr>")
	}
	b.WriteString("</table>")
	if v.Command != "" {
		b.WriteString("<p>Approve with: <code>" + esc(v.Command) + "</code></p>")
	}
	if v.Link != "" {
		b.WriteString("<p><a href=\"" + esc(v.Link) + "\">Open</a></p>")
	}
	b.WriteString("</body></html>\n")
	return b.String()
}

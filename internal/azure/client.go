package azure

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	armpolicy "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm/policy"
	armruntime "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/curfew-jit/curfew/internal/clock"
)

// The versions of the provider APIs that are spoken, as the official specs have them. NSG fields are the same in later ones
// (FACTS 2.1); a whole-group PUT in an older version could reset what that version does not know.
const (
	networkVersion       = "2024-03-01"
	computeVersion       = "2024-07-01"
	graphVersion         = "2022-10-01"
	subscriptionsVersion = "2022-12-01"
)

// Options of a client. Cloud and Credential are needed.
type Options struct {
	Cloud      Cloud
	Credential azcore.TokenCredential
	Transport  policy.Transporter // nil: a client of its own with connection reuse
	Clock      clock.Clock        // nil: the system's
	Log        *slog.Logger       // nil: none
	UserAgent  string             // put before the SDK's own; at most 24 characters are sent

	// PollInterval is how often an operation is looked at when Azure names no interval: NSG replies name none (FACTS 2.5).
	// 0 is one second.
	PollInterval time.Duration
	// AttemptTimeout bounds one request and its reply; 0 is one minute.
	AttemptTimeout time.Duration
	// ReadTimeout bounds a read with all its waits and retries; 0 is five minutes.
	ReadTimeout time.Duration
	// OperationTimeout bounds a write with all its waits, retries and polls; 0 is ten minutes.
	OperationTimeout time.Duration
	// ReadConcurrency bounds reads in flight, those of closings aside; 0 is 32.
	ReadConcurrency int
	// Backoff is the first wait after an error that names none; it doubles, up to 30 times itself. 0 is one second.
	Backoff time.Duration

	// BeforeWrite runs when an attempt of a write is about to leave, after the guard let it; url has no query.
	BeforeWrite func(method, url string)
	// AfterWrite runs when an attempt of a write was answered or failed.
	AfterWrite func(method, url string)
	// OnAttempt runs before each attempt of any call.
	OnAttempt func(method, url string)
	// OnReply runs after each attempt, for metrics; status is 0 when there was no reply.
	OnReply func(method, url string, status int, took time.Duration)
}

// Client speaks to Azure Resource Manager. All its methods may be used concurrently. Errors are *Error.
type Client struct {
	o     Options
	pl    runtime.Pipeline
	clock clock.Clock
	log   *slog.Logger
	gates gates
	reads chan struct{}
	graph graphQuota
}

// New returns a client. It sends nothing.
func New(o Options) (*Client, error) {
	if err := o.Cloud.check(); err != nil {
		return nil, err
	}
	if o.Credential == nil {
		return nil, errors.New("azure: no credential was given")
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	for d, def := range map[*time.Duration]time.Duration{&o.PollInterval: time.Second, &o.AttemptTimeout: time.Minute,
		&o.ReadTimeout: 5 * time.Minute, &o.OperationTimeout: 10 * time.Minute, &o.Backoff: time.Second} {
		if *d <= 0 {
			*d = def
		}
	}
	if o.ReadConcurrency <= 0 {
		o.ReadConcurrency = 32
	}
	c := &Client{o: o, clock: o.Clock, log: o.Log, reads: make(chan struct{}, o.ReadConcurrency)}
	c.gates = gates{clock: o.Clock, all: map[gateKey]*gate{}}
	c.graph.clock = o.Clock
	opts := &armpolicy.ClientOptions{DisableRPRegistration: true}
	opts.Cloud = o.Cloud.configuration()
	opts.Transport = o.Transport
	opts.InsecureAllowCredentialWithHTTP = o.Cloud.plainHTTP() // loopback alone: Cloud.check
	opts.Telemetry.ApplicationID = o.UserAgent
	// One retry loop, ours: it knows what may be sent again, who goes first, and asks the guard each time.
	opts.Retry.MaxRetries = -1
	// After the token was fetched, so that nothing slow stands between the guard and the wire.
	opts.PerRetryPolicies = []policy.Policy{lastPolicy{}}
	var err error
	c.pl, err = armruntime.NewPipeline("curfew", "v1", o.Credential, runtime.PipelineOptions{}, opts)
	if err != nil {
		return nil, fmt.Errorf("azure: %w", err)
	}
	return c, nil
}

func newTransport() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	t.TLSHandshakeTimeout = 15 * time.Second
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type kind uint8

const (
	read kind = iota
	write
	remove
)

// call is one request with what may be done about its failure.
type call struct {
	op, resource string
	subscription string
	kind         kind
	method       string
	url          string
	body         []byte
	header       map[string]string
	guard        func() error
	accept       []int // statuses that are a success; none: 200
	quota        *graphQuota
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// url returns the address of a resource or of something below it.
func (c *Client) url(path, version string, query ...string) string {
	q := url.Values{"api-version": {version}}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	return c.o.Cloud.Endpoint + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// bare is a URL without its query, for people and logs.
func bare(u string) string {
	u, _, _ = strings.Cut(u, "?")
	return u
}

type sendKey struct{}

// sending is what lastPolicy needs to know, and what it saw.
type sending struct {
	c     *Client
	call  *call
	guard error // what the guard said last
	sent  bool  // a request was handed to the transport
}

// lastPolicy is the last of our code before the transport. It runs for every attempt, also for the second one that the token
// policy makes by itself after a challenge.
type lastPolicy struct{}

func (lastPolicy) Do(req *policy.Request) (*http.Response, error) {
	s, ok := req.Raw().Context().Value(sendKey{}).(*sending)
	if !ok {
		return req.Next()
	}
	raw := req.Raw()
	if err := raw.Context().Err(); err != nil {
		return nil, err
	}
	if s.call.guard != nil {
		if s.guard = s.call.guard(); s.guard != nil {
			return nil, guardError{s.guard}
		}
		if raw.Body != nil {
			// net/http may wait for a connection, or send again by itself when one was lost. The guard is asked once more when the
			// body is wanted, and without GetBody nothing is sent twice.
			raw.Body = &guardedBody{ReadCloser: raw.Body, s: s}
			raw.GetBody = nil
		}
	}
	target := bare(s.call.url)
	if s.c.o.OnAttempt != nil {
		s.c.o.OnAttempt(s.call.method, target)
	}
	if s.call.kind != read && s.c.o.BeforeWrite != nil {
		s.c.o.BeforeWrite(s.call.method, target)
	}
	s.sent = true
	resp, err := req.Next()
	if s.call.kind != read && s.c.o.AfterWrite != nil {
		s.c.o.AfterWrite(s.call.method, target)
	}
	return resp, err
}

// guardError is not retried and says why nothing was sent.
type guardError struct{ error }

func (e guardError) Unwrap() error { return e.error }

// guardedBody asks the guard before the first byte of a body leaves. A refusal breaks the request off: headers may have left,
// and a request without its body is not carried out.
type guardedBody struct {
	io.ReadCloser
	s     *sending
	asked atomic.Bool
}

func (b *guardedBody) Read(p []byte) (int, error) {
	if !b.asked.Swap(true) {
		if err := b.s.call.guard(); err != nil {
			b.s.guard = err
			return 0, guardError{err}
		}
	}
	return b.ReadCloser.Read(p)
}

type readSeekNopCloser struct{ *bytes.Reader }

func (readSeekNopCloser) Close() error { return nil }

// attempt sends once. The error's class says what is known: UnknownOutcome for a write whose reply is missing or unreadable.
func (c *Client) attempt(ctx context.Context, call *call) (*reply, *Error) {
	s := &sending{c: c, call: call}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, sendKey{}, s), c.o.AttemptTimeout)
	defer cancel()
	fail := func(class Class, err error) *Error {
		return &Error{Op: call.op, Resource: call.resource, Class: class, Err: err}
	}
	req, err := runtime.NewRequest(ctx, call.method, call.url)
	if err != nil {
		return nil, fail(Permanent, cause(err))
	}
	req.Raw().Header.Set("Accept", "application/json")
	for k, v := range call.header {
		req.Raw().Header.Set(k, v)
	}
	if call.body != nil {
		if err := req.SetBody(readSeekNopCloser{bytes.NewReader(call.body)}, "application/json"); err != nil {
			return nil, fail(Permanent, err)
		}
	}
	start := c.clock.Now()
	resp, err := c.pl.Do(req)
	took := c.clock.Now().Sub(start)
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	if c.o.OnReply != nil && s.sent {
		c.o.OnReply(call.method, bare(call.url), status, took)
	}
	c.log.DebugContext(ctx, "azure", "op", call.op, "method", call.method, "url", bare(call.url), "status", status, "took", took)
	var body []byte
	if err == nil {
		body, err = runtime.Payload(resp)
	}
	if err != nil {
		return nil, c.sendError(call, s, err, fail)
	}
	r := &reply{status: resp.StatusCode, header: resp.Header, body: body}
	if !accepts(call, r.status) {
		e := c.responseError(call, r)
		if r.status < 400 { // a success that the call does not know, a redirect: not Azure's voice
			e.Class = Transient
			if call.kind != read {
				e.Class = UnknownOutcome
			}
			e.Err = fmt.Errorf("unexpected reply")
		}
		return nil, e
	}
	if len(r.body) > 0 && !json.Valid(r.body) {
		class := Transient
		if call.kind != read {
			class = UnknownOutcome
		}
		e := fail(class, errors.New("the reply is cut off or is not JSON"))
		e.Status = r.status
		return nil, e
	}
	return r, nil
}

func accepts(call *call, status int) bool {
	if len(call.accept) == 0 {
		return status == http.StatusOK
	}
	for _, s := range call.accept {
		if s == status {
			return true
		}
	}
	return false
}

// sendError classifies an attempt that has no reply.
func (c *Client) sendError(call *call, s *sending, err error, fail func(Class, error) *Error) *Error {
	var failed *azidentity.AuthenticationFailedError
	var unavailable interface{ NonRetriable() }
	var cert *tls.CertificateVerificationError
	switch {
	case s.guard != nil:
		return fail(Aborted, s.guard)
	case errors.As(err, &cert):
		return fail(Permanent, cert) // nothing was sent, and waiting does not make it trusted
	case errors.As(err, &failed) && !s.sent:
		if r := failed.RawResponse; r == nil || r.StatusCode >= 500 || r.StatusCode == http.StatusTooManyRequests {
			return fail(Transient, cause(err))
		}
		return fail(Unauthenticated, err)
	case !s.sent && errors.As(err, &unavailable):
		return fail(Unauthenticated, cause(err))
	case call.kind == read, !s.sent, neverSent(err):
		return fail(Transient, cause(err))
	}
	return fail(UnknownOutcome, cause(err))
}

const (
	transientAttempts = 4
	busyAttempts      = 10
	maxBackoffs       = 30 // times Options.Backoff
)

// do sends, waits as Azure asks, and sends again where that is safe: reads and deletes after anything that may pass, a
// conditional PUT only where Azure said that it did not take it (429) or answered 5xx; never after a conflict, a failed
// precondition or a lost reply. Once an attempt may have been carried out, a later failure is UnknownOutcome: the 412 that our
// own first attempt caused must not be taken for somebody else's write.
func (c *Client) do(ctx context.Context, call *call) (*reply, error) {
	if call.kind == read && priorityOf(ctx) != Closing {
		select {
		case c.reads <- struct{}{}:
			defer func() { <-c.reads }()
		case <-ctx.Done():
			return nil, &Error{Op: call.op, Resource: call.resource, Class: Transient, Err: ctx.Err()}
		}
	}
	bucket := call.kind
	if call.method == http.MethodPost {
		bucket = write // Azure counts an action so, whatever it does
	}
	g, p := c.gates.of(call.subscription, bucket), priorityOf(ctx)
	var last *Error
	mayBeDone := false
	finish := func(e *Error) error {
		if mayBeDone && e.Class != UnknownOutcome {
			return &Error{Op: call.op, Resource: call.resource, Class: UnknownOutcome, Status: e.Status, Err: e}
		}
		return e
	}
	transient, busy := 0, 0
	for {
		if err := g.enter(ctx, p); err != nil {
			if last == nil {
				last = &Error{Op: call.op, Resource: call.resource, Class: Transient, Err: err}
			} else if last.Err == nil {
				last.Err = err
			}
			return nil, finish(last)
		}
		r, e := c.withQuota(ctx, call)
		if e != nil && last != nil && ctx.Err() != nil && e.Status == 0 && e.Class == Transient {
			g.leave(p, false, 0, nil)
			last.Err = ctx.Err() // time ran out while waiting for what last says
			return nil, finish(last)
		}
		switch {
		case e == nil:
			if call.quota != nil {
				g.leave(p, false, 0, http.Header{}) // what is left of the quota is no bucket of ARM's, and always few
			} else {
				g.leave(p, false, 0, r.header)
			}
			return r, nil
		case e.Class == Throttled:
			g.leave(p, true, e.After, nil)
		case e.Status != 0:
			g.leave(p, false, 0, http.Header{})
		default:
			g.leave(p, false, 0, nil)
		}
		last = e
		var wait time.Duration
		switch e.Class {
		case Throttled: // the gate waits
		case Busy:
			if busy++; busy >= busyAttempts {
				return nil, finish(e)
			}
			wait = c.backoff(busy, e.After)
		case Transient, UnknownOutcome:
			if call.kind == write && e.Class == UnknownOutcome {
				return nil, finish(e)
			}
			if call.kind != read && e.Status != 0 || e.Class == UnknownOutcome {
				mayBeDone = true
			}
			if transient++; transient >= transientAttempts {
				return nil, finish(e)
			}
			wait = c.backoff(transient, e.After)
		default:
			return nil, finish(e)
		}
		c.log.InfoContext(ctx, "azure: trying again", "op", call.op, "resource", call.resource, "class", e.Class, "code", e.Code,
			"wait", max(wait, e.After))
		if wait > 0 {
			select {
			case <-c.clock.After(wait):
			case <-ctx.Done():
				if last.Err == nil {
					last.Err = ctx.Err()
				}
				return nil, finish(last)
			}
		}
	}
}

// withQuota is attempt within the quota of Resource Graph, where the call counts in it.
func (c *Client) withQuota(ctx context.Context, call *call) (*reply, *Error) {
	if call.quota == nil {
		return c.attempt(ctx, call)
	}
	if err := call.quota.enter(ctx); err != nil {
		return nil, &Error{Op: call.op, Resource: call.resource, Class: Transient, Err: err}
	}
	r, e := c.attempt(ctx, call)
	switch {
	case r != nil:
		call.quota.leave(r.header)
	case e != nil && e.header != nil:
		call.quota.leave(e.header)
	default:
		call.quota.leave(nil)
	}
	return r, e
}

// backoff is the wait before try n+1: what Azure asked for, else 1, 2, 4 ... times the configured step.
func (c *Client) backoff(n int, asked time.Duration) time.Duration {
	if asked > 0 {
		return asked
	}
	return min(c.o.Backoff<<(n-1), maxBackoffs*c.o.Backoff)
}

package azure

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Class says what an error of Azure asks of the caller.
type Class string

// The classes. FACTS 2.5 and 3.
const (
	NotFound        Class = "not found"
	Conflict        Class = "conflict"            // 409: the state does not allow it
	Precondition    Class = "precondition failed" // 412: somebody else wrote; read again, decide again
	Throttled       Class = "throttled"           // 429: wait RetryAfter
	Busy            Class = "busy"                // another operation holds the resource; not throttling, though it may come as 429
	Superseded      Class = "superseded"          // the operation was cancelled or superseded; read again, decide again
	Locked          Class = "locked"              // a lock or a read-only subscription forbids the write
	Forbidden       Class = "forbidden"           // a role or an Azure Policy forbids it
	Unauthenticated Class = "unauthenticated"     // no token, or one that Azure does not take
	Invalid         Class = "invalid"             // Azure does not accept what was sent
	Transient       Class = "transient"           // 5xx, network, timeouts, bodies cut off or not JSON: the same may work later
	UnknownOutcome  Class = "outcome unknown"     // a write may or may not have been carried out; read again, decide again
	Aborted         Class = "aborted"             // the caller's guard refused; nothing was sent
	Permanent       Class = "permanent"           // anything else; trying again does not help
)

// Classes lists every class, for tables that must be complete.
var Classes = []Class{NotFound, Conflict, Precondition, Throttled, Busy, Superseded, Locked, Forbidden, Unauthenticated,
	Invalid, Transient, UnknownOutcome, Aborted, Permanent}

// Error is what any call of this package fails with.
type Error struct {
	Op       string // what was being done, for example "write network security group"
	Resource string // to which resource; may be empty
	Class    Class
	Status   int      // HTTP status; 0 when there was no reply
	Code     string   // Azure's code, the most specific one
	Codes    []string // all codes, outermost first
	Message  string   // Azure's message, the most specific one
	After    time.Duration
	Request  string // x-ms-request-id, for Microsoft's support
	Err      error  // cause; may be nil

	header http.Header // of the reply, nil when there was none
}

// Error implements error. It names what was done, to what, and why it failed; it never holds a URL's query.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Resource != "" {
		b.WriteString(" " + e.Resource)
	}
	b.WriteString(": " + string(e.Class))
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Classify returns the class of the first Error in err's chain, and "" for nil. A context that ended is Transient; any other
// error is Permanent.
func Classify(err error) Class {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Class
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Transient
	}
	return Permanent
}

// RetryAfter returns how long Azure asked to wait, 0 when it did not.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.After
	}
	return 0
}

// armError is the shape of ARM's errors: common-types v5 ErrorResponse.
type armError struct {
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Details []armError `json:"details"`
}

// codes returns all codes, outermost first, and the innermost message that says something.
func (a armError) codes() (codes []string, message string) {
	if a.Code != "" {
		codes = append(codes, a.Code)
	}
	message = a.Message
	for _, d := range a.Details {
		c, m := d.codes()
		codes = append(codes, c...)
		if m != "" {
			message = m
		}
	}
	return codes, message
}

// parseError reads an error body, wrapped as ARM has it or bare as some providers and gateways do. A body that is neither gives
// a zero value: the status alone decides then.
func parseError(body []byte) armError {
	var wrapped struct {
		Error *armError `json:"error"`
		armError
	}
	if json.Unmarshal(body, &wrapped) != nil {
		return armError{}
	}
	if wrapped.Error != nil {
		return *wrapped.Error
	}
	return wrapped.armError
}

// classOf decides by Azure's codes first, because one status stands for several things (429 for throttling and for "another
// operation is running", FACTS 2.5), and by status then.
func classOf(status int, codes []string) Class {
	for _, code := range codes {
		c := strings.ToLower(code)
		switch {
		case c == "canceledandsupersededduetoanotheroperation", c == "canceled" && status < 400, c == "operationpreempted":
			return Superseded
		case c == "scopelocked", c == "readonlydisabledsubscription":
			return Locked
		case strings.HasPrefix(c, "retryableerror"), c == "referencedresourcenotprovisioned", c == "anotheroperationinprogress":
			return Busy
		case c == "preconditionfailed", c == "preconditionfailedetagmismatch":
			return Precondition
		}
	}
	switch {
	case status == http.StatusUnauthorized:
		return Unauthenticated
	case status == http.StatusForbidden:
		return Forbidden
	case status == http.StatusNotFound, status == http.StatusGone:
		return NotFound
	case status == http.StatusConflict:
		return Conflict
	case status == http.StatusPreconditionFailed:
		return Precondition
	case status == http.StatusTooManyRequests:
		return Throttled
	case status == http.StatusRequestTimeout, status >= 500:
		return Transient
	case status >= 400:
		return Invalid
	}
	for _, code := range codes { // an operation that ended Failed has no status of its own
		switch strings.ToLower(code) {
		case "internalservererror", "servererror", "serviceunavailable", "gatewaytimeout", "operationtimedout":
			return Transient
		}
	}
	return Permanent
}

// secondsInMessage finds the wait that Microsoft.Network writes into the text of its 429s alone: "The call can be retried in 11
// seconds." FACTS 2.5.
var secondsInMessage = regexp.MustCompile(`(?i)retried (?:in|after) '?(\d{1,4})'? seconds?`)

func (c *Client) responseError(call *call, r *reply) *Error {
	arm := parseError(r.body)
	codes, message := arm.codes()
	e := &Error{Op: call.op, Resource: call.resource, Status: r.status, Codes: codes, Message: message,
		Class: classOf(r.status, codes), After: retryAfter(r.header, c.clock.Now()), Request: r.header.Get("x-ms-request-id"),
		header: r.header}
	if len(codes) > 0 {
		e.Code = codes[len(codes)-1]
	}
	if wait, err := clockDuration(r.header.Get("x-ms-user-quota-resets-after")); e.Class == Throttled && e.After == 0 && err == nil {
		e.After = wait // Resource Graph says it here
	}
	if e.Class == Busy && e.After == 0 {
		if m := secondsInMessage.FindStringSubmatch(message); m != nil {
			n, _ := strconv.Atoi(m[1])
			e.After = time.Duration(n) * time.Second
		}
	}
	return e
}

// retryAfter reads how long to wait: milliseconds in Azure's own headers, else seconds or a date. A date is compared with the
// reply's own Date where it has one, so that a clock of ours that is wrong does not matter.
func retryAfter(h http.Header, now time.Time) time.Duration {
	for _, name := range []string{"x-ms-retry-after-ms", "retry-after-ms"} {
		if n, err := strconv.ParseInt(h.Get(name), 10, 32); err == nil && n > 0 {
			return time.Duration(n) * time.Millisecond
		}
	}
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0)
}

// cause takes the URL out of an error: net/http puts the whole of it into the text, and the query of an operation's URL is a
// signature.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// neverSent tells whether a failed attempt certainly put no byte of the request on a wire: no name, no connection.
func neverSent(err error) bool {
	var dns *net.DNSError
	var op *net.OpError
	return errors.As(err, &dns) || errors.As(err, &op) && op.Op == "dial"
}

// UserError returns err as an error to show: what, why, what next. An access.Error in err's chain is returned as it is, and nil
// for nil.
func UserError(err error) *access.Error {
	if err == nil {
		return nil
	}
	var shown *access.Error
	if errors.As(err, &shown) {
		return shown
	}
	var e *Error
	if !errors.As(err, &e) {
		return access.Errorf(access.CodeInternal, "internal error").Wrap(err)
	}
	where := e.Op
	if name := IDName(e.Resource); name != "" && !strings.HasSuffix(where, " "+name) {
		where += " " + name
	}
	why := e.Message
	if why == "" {
		why = string(e.Class)
	}
	say := func(code access.Code, what, hint string) *access.Error {
		return (&access.Error{Code: code, Message: where + ": " + what, Hint: hint}).Wrap(err)
	}
	switch e.Class {
	case NotFound:
		return say(access.CodeNotFound, "it does not exist in Azure", "check the name and the subscription, then try again")
	case Conflict, Precondition, Superseded:
		return say(access.CodeConflict, "somebody else changed it at the same time, or its state does not allow it: "+why,
			"try again; if it persists, look at the resource's activity log")
	case Throttled:
		hint := "try again later"
		if e.After > 0 {
			hint = fmt.Sprintf("try again in %s", e.After.Round(time.Second))
		}
		return say(access.CodeAzureUnavailable, "Azure has had too many requests from this identity", hint)
	case Busy:
		return say(access.CodeAzureUnavailable, "another operation is running on it: "+why, "try again in a minute")
	case Locked:
		return say(access.CodeAzureForbidden, "a lock forbids the change: "+why,
			"remove the lock, or ask who set it: az lock list --resource "+quoted(e.Resource))
	case Forbidden:
		return say(access.CodeAzureForbidden, "Azure refused Curfew's identity: "+why,
			"give the identity a role with that action at that scope, or an exemption from the policy that is named")
	case Unauthenticated:
		return say(access.CodeAzureForbidden, "Azure did not accept Curfew's credentials",
			"check the identity in the configuration; with the az credential, run az login")
	case Invalid:
		return say(access.CodeInternal, "Azure did not accept what was sent: "+why,
			"look at the resource for a setting that conflicts; report this if there is none")
	case UnknownOutcome:
		what := "the reply was lost"
		if e.Status >= 500 {
			what = fmt.Sprintf("Azure answered with an error of its own (%d)", e.Status)
		}
		return say(access.CodeAzureUnavailable, what+", so that it is not known whether it was done",
			"look whether it was before you try again; a server does so by itself")
	case Transient:
		return say(access.CodeAzureUnavailable, "Azure did not answer, or not usefully", "try again in a minute")
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return say(access.CodeAzureUnavailable, "Azure's certificate is not trusted: "+cert.Err.Error(),
			"check the endpoint; for an Azure of one's own, name its certificate authority in the configuration (azure.ca) or with --azure-ca")
	}
	return say(access.CodeInternal, why, "")
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

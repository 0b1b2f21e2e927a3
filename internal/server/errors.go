package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// exchange is what is known of one call while it is answered; the log line is made of it.
type exchange struct {
	correlation string
	path        string
	route       string
	caller      access.Caller
	code        access.Code
	err         error // for the log alone
	stream      bool
	again       func(context.Context) (access.Caller, error) // who calls, asked anew; nil where that cannot change
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

// problem renders an error for a caller, and notes it for the log. Of an error that is not an access.Error nothing is shown but
// the correlation under which the log holds it.
func problem(ctx context.Context, err error) *api.Problem {
	x := exchangeOf(ctx)
	var e *access.Error
	switch {
	case errors.As(err, &e) && api.Known(e.Code):
	case errors.Is(err, context.DeadlineExceeded):
		e = access.Errorf(access.CodeTimeout, "it took too long").WithHint("look at what became of it before you try again")
	case errors.Is(err, context.Canceled):
		e = access.Errorf(access.CodeUnavailable, "the call was broken off").WithHint("look at what became of it before you try again")
	default:
		e = access.Errorf(access.CodeInternal, "internal error").WithHint("the server's log says more under correlation %s", x.correlation)
	}
	p := &api.Problem{Type: "urn:curfew:problem:" + string(e.Code), Title: api.TitleOf(e.Code), Status: api.StatusOf(e.Code),
		Detail: e.Message, Instance: x.path, Code: e.Code, Hint: e.Hint, Field: e.Field, Correlation: x.correlation}
	if e.Code == access.CodeInternal { // whoever made the message may not have meant it for this caller
		p.Detail, p.Field = "internal error", ""
		if p.Hint == "" {
			p.Hint = "the server's log says more under correlation " + x.correlation
		}
	}
	x.code, x.err = e.Code, err
	return p
}

// writeProblem answers with an error, outside huma.
func writeProblem(w http.ResponseWriter, r *http.Request, err error, status int) {
	p := problem(r.Context(), err)
	if status != 0 {
		p.Status = status
	}
	switch p.Status {
	case http.StatusUnauthorized:
		challenge := `Bearer realm="curfew"`
		if r.Header.Get("Authorization") != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", api.ProblemType)
	w.WriteHeader(p.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) // the caller is gone: there is nobody to tell
}

func init() {
	// huma keeps these for the whole program; they concern no other package, because this is the only one that imports it.
	huma.DefaultArrayNullable = false // a list is never null
	huma.ValidateStrictCasing = true  // encoding/json would take REASON for reason
	huma.NewError = validationProblem // its type is what the OpenAPI document describes
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return validationProblemIn(ctx.Context(), status, msg, errs...)
	}
}

func validationProblem(status int, msg string, errs ...error) huma.StatusError {
	return validationProblemIn(context.Background(), status, msg, errs...)
}

// validationProblemIn renders what huma found wrong with an input: every fault with its place, never the value that was sent, which
// may be a secret that ended up in the wrong place.
func validationProblemIn(ctx context.Context, status int, msg string, errs ...error) huma.StatusError {
	var faults []string
	field := ""
	for _, err := range errs {
		if err == nil {
			continue
		}
		d, ok := err.(huma.ErrorDetailer)
		if !ok {
			if status >= 500 {
				return problem(ctx, err)
			}
			continue
		}
		detail := d.ErrorDetail()
		at := strings.TrimPrefix(strings.TrimPrefix(detail.Location, "body"), ".")
		at = strings.TrimPrefix(strings.TrimPrefix(at, "query."), "path.")
		what := detail.Message
		if what == "unexpected property" {
			what = "there is no such field"
		}
		if field == "" {
			field = at
		}
		if at != "" {
			what = at + ": " + what
		}
		faults = append(faults, what)
	}
	if status >= 500 {
		return problem(ctx, errors.New(msg))
	}
	text := "the input is wrong"
	switch {
	case len(faults) > 0:
		text += ": " + strings.Join(faults, "; ")
	case msg != "":
		text += ": " + msg
	}
	e := access.Errorf(access.CodeInvalid, "%s", text).WithHint("the fields of this call are described in /openapi.yaml")
	e.Field = field
	p := problem(ctx, e)
	if status != 0 {
		p.Status = status
	}
	return p
}

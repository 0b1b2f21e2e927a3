package access

import (
	"errors"
	"fmt"
)

// Code classifies an error for callers; one table maps it to an HTTP status and an exit code.
type Code string

// The codes. An error without one is CodeInternal.
const (
	CodeInvalid          Code = "invalid"           // the input is wrong, whatever the state
	CodeUnauthenticated  Code = "unauthenticated"   // nobody we know is asking
	CodeDenied           Code = "denied"            // policy or role forbids it
	CodeNotFound         Code = "not_found"         // there is no such thing, or the caller may not know of it
	CodeAmbiguous        Code = "ambiguous"         // a name matches several things
	CodeConflict         Code = "conflict"          // the state does not allow it, or another was first
	CodeNotProtected     Code = "not_protected"     // the port is not protected, so that a grant would mean nothing
	CodeUnprotectable    Code = "unprotectable"     // the machine cannot be protected as it stands
	CodePlanChanged      Code = "plan_changed"      // what was confirmed is not what would be done now
	CodeHeld             Code = "held"              // openings are on hold until an admin confirms
	CodeRateLimited      Code = "rate_limited"      // too much at once; try later
	CodeTimeout          Code = "timeout"           // waited long enough
	CodeAzureForbidden   Code = "azure_forbidden"   // Azure refused us: role or lock
	CodeAzureUnavailable Code = "azure_unavailable" // Azure did not answer, or not usefully
	CodeUnavailable      Code = "unavailable"       // our own store or log cannot be used
	CodeInternal         Code = "internal"
)

// Codes lists every code, for tables that must be complete.
var Codes = []Code{CodeInvalid, CodeUnauthenticated, CodeDenied, CodeNotFound, CodeAmbiguous, CodeConflict, CodeNotProtected,
	CodeUnprotectable, CodePlanChanged, CodeHeld, CodeRateLimited, CodeTimeout, CodeAzureForbidden, CodeAzureUnavailable,
	CodeUnavailable, CodeInternal}

// Error is an error that a person may see. Message says what and why and is safe to show; Hint is the next step; Err is for logs.
type Error struct {
	Code    Code
	Message string
	Hint    string
	Field   string // the input field at fault, if one is
	Err     error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// WithHint returns a copy of e with the next step.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Wrap returns a copy of e with its cause, which is logged and never shown.
func (e *Error) Wrap(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Errorf makes an error with a code and a message that is safe to show.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first Error in err's chain, CodeInternal for any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	return CodeInternal
}

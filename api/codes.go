package api

import (
	"net/http"

	"github.com/curfew-jit/curfew/internal/access"
)

// Code classifies an error; it stands in Problem.Code.
type Code = access.Code

// The exit codes of the command line (DESIGN 7). ExitFindings (3) is the scanner's and belongs to no error code.
const (
	ExitDone     = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitFindings = 3
	ExitDenied   = 4
	ExitNotFound = 5
	ExitConflict = 6
	ExitTimeout  = 7
)

// codes is the one table from code to HTTP status, exit code and the title of a problem. A test holds it complete.
var codes = map[Code]struct {
	status int
	exit   int
	title  string
}{
	access.CodeInvalid:          {http.StatusUnprocessableEntity, ExitUsage, "the input is wrong"},
	access.CodeUnauthenticated:  {http.StatusUnauthorized, ExitDenied, "not signed in"},
	access.CodeDenied:           {http.StatusForbidden, ExitDenied, "not allowed"},
	access.CodeNotFound:         {http.StatusNotFound, ExitNotFound, "not found"},
	access.CodeAmbiguous:        {http.StatusConflict, ExitUsage, "the name matches several things"},
	access.CodeConflict:         {http.StatusConflict, ExitConflict, "the state does not allow it"},
	access.CodeNotProtected:     {http.StatusConflict, ExitConflict, "the port is not protected"},
	access.CodeUnprotectable:    {http.StatusConflict, ExitConflict, "the machine cannot be protected as it stands"},
	access.CodePlanChanged:      {http.StatusConflict, ExitConflict, "the plan has changed"},
	access.CodeHeld:             {http.StatusConflict, ExitConflict, "openings are on hold"},
	access.CodeRateLimited:      {http.StatusTooManyRequests, ExitFailed, "too many calls"},
	access.CodeTimeout:          {http.StatusGatewayTimeout, ExitTimeout, "waited long enough"},
	access.CodeAzureForbidden:   {http.StatusBadGateway, ExitFailed, "Azure refused"},
	access.CodeAzureUnavailable: {http.StatusBadGateway, ExitFailed, "Azure did not answer"},
	access.CodeUnavailable:      {http.StatusServiceUnavailable, ExitFailed, "not available"},
	access.CodeInternal:         {http.StatusInternalServerError, ExitFailed, "internal error"},
}

// Known tells whether the code stands in the table.
func Known(c Code) bool { _, ok := codes[c]; return ok }

// StatusOf returns the HTTP status of a code; an unknown one is 500.
func StatusOf(c Code) int {
	if e, ok := codes[c]; ok {
		return e.status
	}
	return http.StatusInternalServerError
}

// TitleOf returns the summary of a code, the same for each of its errors.
func TitleOf(c Code) string {
	if e, ok := codes[c]; ok {
		return e.title
	}
	return codes[access.CodeInternal].title
}

// Exit returns the exit code of a code: ExitFailed for an unknown one, ExitDone for "".
func Exit(c Code) int {
	if c == "" {
		return ExitDone
	}
	if e, ok := codes[c]; ok {
		return e.exit
	}
	return ExitFailed
}

// ExitOf returns the exit code for an error: ExitDone for nil.
func ExitOf(err error) int { return Exit(access.CodeOf(err)) }

package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// Every code has its own row: a code that is added without one fails here.
func TestEveryCodeHasStatusExitAndTitle(t *testing.T) {
	for _, c := range access.Codes {
		if !api.Known(c) {
			t.Errorf("code %s has no row", c)
			continue
		}
		if s := api.StatusOf(c); s < 400 || s > 599 || http.StatusText(s) == "" {
			t.Errorf("code %s has status %d", c, s)
		}
		if e := api.Exit(c); e < api.ExitFailed || e > api.ExitTimeout || e == api.ExitFindings {
			t.Errorf("code %s has exit code %d", c, e)
		}
		if c != access.CodeInternal && api.TitleOf(c) == api.TitleOf(access.CodeInternal) {
			t.Errorf("code %s has the title of an internal error", c)
		}
	}
}

// DESIGN 7 promises these exit codes to scripts.
func TestExitCodesAreThoseOfTheContract(t *testing.T) {
	for c, want := range map[access.Code]int{
		access.CodeInvalid: 2, access.CodeDenied: 4, access.CodeNotFound: 5, access.CodeConflict: 6, access.CodeNotProtected: 6,
		access.CodeTimeout: 7, access.CodeInternal: 1, access.CodeUnavailable: 1, access.CodeAzureUnavailable: 1,
	} {
		if got := api.Exit(c); got != want {
			t.Errorf("exit of %s: got %d, want %d", c, got, want)
		}
	}
	for err, want := range map[error]int{
		nil:                0,
		errors.New("what"): 1,
		fmt.Errorf("asking: %w", access.Errorf(access.CodeDenied, "no")): 4,
		&access.Error{Code: "from-the-future", Message: "?"}:             1,
	} {
		if got := api.ExitOf(err); got != want {
			t.Errorf("exit of %v: got %d, want %d", err, got, want)
		}
	}
}

package azure_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
)

// A certificate that is not trusted does not become so by waiting: it is said at once, with what to do.
func TestUntrustedCertificate(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	cloud, err := azure.CustomCloud(srv.URL, "", srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := azure.New(azure.Options{Cloud: cloud, Credential: azure.StaticToken("token"), Backoff: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Subscriptions(t.Context())
	if azure.Classify(err) != azure.Permanent {
		t.Fatalf("got class %q of %v", azure.Classify(err), err)
	}
	u := azure.UserError(err)
	if u.Code != access.CodeAzureUnavailable || !strings.Contains(u.Message, "not trusted") || u.Hint == "" {
		t.Errorf("got %s %q, hint %q", u.Code, u.Message, u.Hint)
	}
}

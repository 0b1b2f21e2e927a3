package identity_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/identity"
)

func (w *world) poll(handle string) (api.DeviceToken, error) {
	return w.m.DeviceToken(w.t.Context(), here, handle)
}

func TestDeviceCode(t *testing.T) {
	w := open(t, nil)
	d, err := w.m.Device(t.Context())
	if err != nil || d.UserCode != "ABCD-EFGH" || d.Interval != 5 || d.ExpiresIn != 900 || d.Handle == "dc-1" || d.VerificationURI == "" {
		t.Fatalf("got %+v, %v", d, err)
	}
	pending := func(code string) { w.iss.set(func() { w.iss.answer = refuse(code) }) }
	asked := func() (n int) { w.iss.set(func() { n = len(w.iss.asked) }); return n }
	pending("authorization_pending")
	if got, err := w.poll(d.Handle); err != nil || got.State != "pending" || got.Interval != 5 || asked() != 0 {
		t.Errorf("at once: %+v, %v, the issuer was asked %d times", got, err, asked())
	}
	w.clk.Advance(5 * time.Second)
	if got, err := w.poll(d.Handle); err != nil || got.State != "pending" || got.Session != nil || asked() != 1 {
		t.Errorf("got %+v, %v, asked %d times", got, err, asked())
	}
	w.clk.Advance(5 * time.Second)
	pending("slow_down")
	if got, err := w.poll(d.Handle); err != nil || got.State != "pending" || got.Interval != 10 {
		t.Errorf("slow down: %+v, %v", got, err)
	}
	w.clk.Advance(9 * time.Second)
	if got, err := w.poll(d.Handle); err != nil || got.Interval != 1 || asked() != 2 {
		t.Errorf("too soon: %+v, %v, asked %d times", got, err, asked())
	}
	w.clk.Advance(time.Second)
	w.iss.set(func() { w.iss.down = func(rw http.ResponseWriter) bool { rw.WriteHeader(503); return true } })
	_, err = w.poll(d.Handle)
	wantCode(t, err, access.CodeUnavailable, "does not answer")
	w.iss.set(func() { w.iss.down, w.iss.answer = nil, nil })
	w.restart() // the handle is in the store
	w.iss.say(object{"nonce": nil})
	got, err := w.poll(d.Handle)
	if err != nil || got.State != "signed_in" || got.Session == nil || got.Session.Name != "dora@example.com" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if c, err := w.bearer(got.Session.Token); err != nil || c.Name != "dora@example.com" {
		t.Errorf("the session: %+v, %v", c, err)
	}
	if f := w.iss.asked[len(w.iss.asked)-1]; f.Get("device_code") != "dc-1" {
		t.Errorf("asked with %v", f)
	}
	_, err = w.poll(d.Handle)
	wantCode(t, err, access.CodeUnauthenticated, "finished before")
	_, err = w.poll("somebody else's")
	wantCode(t, err, access.CodeUnauthenticated, "not known")
}

func TestDeviceCodeThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		issuer func(*issuer)
		code   access.Code
		words  string
	}{
		"declined":    {func(i *issuer) { i.answer = refuse("access_denied") }, access.CodeDenied, "access_denied"},
		"over":        {func(i *issuer) { i.answer = refuse("expired_token") }, access.CodeDenied, "expired_token"},
		"no role":     {func(i *issuer) { i.claims = object{"groups": nil} }, access.CodeDenied, "no role"},
		"unsigned":    {func(i *issuer) { i.sign = unsigned }, access.CodeUnauthenticated, "cannot be believed"},
		"of a tenant": {func(i *issuer) { i.claims = object{"tid": "x"} }, access.CodeUnauthenticated, "tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			d, err := w.m.Device(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w.iss.set(func() { test.issuer(w.iss) })
			w.clk.Advance(5 * time.Second)
			_, err = w.poll(d.Handle)
			wantCode(t, err, test.code, test.words)
			w.iss.set(func() { w.iss.answer, w.iss.claims = nil, nil })
			w.clk.Advance(time.Minute)
			_, err = w.poll(d.Handle)
			wantCode(t, err, access.CodeUnauthenticated, "not known")
		})
	}
	t.Run("never answered", func(t *testing.T) {
		w := open(t, nil)
		d, err := w.m.Device(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.clk.Advance(16 * time.Minute)
		_, err = w.poll(d.Handle)
		wantCode(t, err, access.CodeUnauthenticated, "took too long")
	})
	t.Run("switched off", func(t *testing.T) {
		w := open(t, func(c *identity.Config) { c.Issuer.NoDevice = true })
		_, err := w.m.Device(t.Context())
		wantCode(t, err, access.CodeDenied, "switched off")
		_, err = w.poll("x")
		wantCode(t, err, access.CodeDenied, "switched off")
		if w.m.Methods().Device {
			t.Error("it is offered")
		}
	})
	t.Run("not known to the issuer", func(t *testing.T) {
		w := open(t, nil)
		w.iss.set(func() { w.iss.doc = func(d object) { delete(d, "device_authorization_endpoint") } })
		_, err := w.m.Device(t.Context())
		wantCode(t, err, access.CodeNotFound, "no device codes")
	})
}

// Of many who ask with one handle at once, one gets a session.
func TestDeviceCodeGivesOneSession(t *testing.T) {
	w := open(t, nil)
	d, err := w.m.Device(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.clk.Advance(5 * time.Second)
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a, err := w.poll(d.Handle); err == nil && a.Session != nil {
				mu.Lock()
				got = append(got, a.Session.Token)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	asked := 0
	w.iss.set(func() { asked = len(w.iss.asked) })
	if len(got) != 1 || asked != 1 {
		t.Errorf("%d sessions were given, and the issuer was asked %d times", len(got), asked)
	}
}

// page is an answer of Graph with these groups and, if it is not empty, a next page.
func page(next string, ids ...string) object {
	list := []object{}
	for _, id := range ids {
		kind := "#microsoft.graph.group"
		if strings.HasPrefix(id, "role-") {
			kind = "#microsoft.graph.directoryRole"
		}
		list = append(list, object{"@odata.type": kind, "id": id, "displayName": "platform"})
	}
	out := object{"value": list}
	if next != "" {
		out["@odata.nextLink"] = next
	}
	return out
}

var overage = object{"groups": nil, "_claim_names": object{"groups": "src1"}, "_claim_sources": object{"src1": object{"endpoint": "https://graph.windows.net/x"}}}

func TestMoreGroupsThanATokenHolds(t *testing.T) {
	for name, test := range map[string]struct {
		claims object
		pages  func(w *world, r *http.Request) (int, any)
		groups string // "": sign-in fails
	}{
		"by pages": {pages: func(w *world, r *http.Request) (int, any) {
			if r.Header.Get("Authorization") != "Bearer at-1" || r.URL.Path != "/v1.0/me/transitiveMemberOf" {
				return 401, object{}
			}
			switch r.URL.Query().Get("page") {
			case "":
				return 200, page(w.iss.srv.URL+"/v1.0/me/transitiveMemberOf?page=2", "g-1", "role-1")
			case "2":
				return 200, page(w.iss.srv.URL + "/v1.0/me/transitiveMemberOf?page=3")
			}
			return 200, page("", "g-platform")
		}, groups: "g-1 g-platform platform"},
		"hasgroups":             {claims: object{"groups": nil, "hasgroups": true}, pages: func(*world, *http.Request) (int, any) { return 200, page("", "g-platform") }, groups: "g-platform platform"},
		"Graph forbids":         {pages: func(*world, *http.Request) (int, any) { return 403, object{} }},
		"Graph is down":         {pages: func(*world, *http.Request) (int, any) { return 503, object{} }},
		"Graph throttles":       {pages: func(*world, *http.Request) (int, any) { return 429, object{} }},
		"no list":               {pages: func(*world, *http.Request) (int, any) { return 200, object{"values": []int{}} }},
		"no JSON":               {pages: func(*world, *http.Request) (int, any) { return 200, "x" }},
		"a group without an id": {pages: func(*world, *http.Request) (int, any) { return 200, page("", "g-platform", "") }},
		"a page elsewhere": {pages: func(w *world, _ *http.Request) (int, any) {
			other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				w.t.Errorf("the access token was taken to another host: %s", r.Header.Get("Authorization"))
				writeJSON(rw, 200, page("", "g-platform"))
			}))
			w.t.Cleanup(other.Close)
			return 200, page(other.URL+"/v1.0/me?x", "g-platform")
		}},
		"the second page fails": {pages: func(w *world, r *http.Request) (int, any) {
			if r.URL.Query().Get("page") != "" {
				return 500, object{}
			}
			return 200, page(w.iss.srv.URL+"/v1.0/me/transitiveMemberOf?page=2", "g-platform")
		}},
		"round in a circle": {pages: func(w *world, r *http.Request) (int, any) {
			return 200, page(w.iss.srv.URL+"/v1.0/me/transitiveMemberOf?page=2", "g-platform")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, nil)
			w.iss.set(func() {
				w.iss.graph = func(rw http.ResponseWriter, r *http.Request) {
					status, v := test.pages(w, r)
					writeJSON(rw, status, v)
				}
			})
			c := test.claims
			if c == nil {
				c = overage
			}
			w.iss.say(c)
			got, err := w.tryIn()
			if test.groups != "" {
				if err != nil || strings.Join(got.Groups, " ") != test.groups {
					t.Errorf("got %v, %v", got.Groups, err)
				}
				return
			}
			wantCode(t, err, access.CodeUnavailable, "Microsoft Graph")
		})
	}
}

// A session goes on while Graph does not answer, and the refresh token that came before is not lost.
func TestGraphFailsAtAConfirmation(t *testing.T) {
	w := open(t, nil)
	status := 200
	w.iss.set(func() {
		w.iss.graph = func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, status, page("", "g-platform")) }
	})
	w.iss.say(overage)
	got, err := w.tryIn()
	if err != nil {
		t.Fatal(err)
	}
	w.iss.set(func() { status = 500 })
	w.clk.Advance(4 * time.Minute)
	if _, err := w.bearer(got.Token); err != nil {
		t.Errorf("while Graph does not answer: %v", err)
	}
	w.iss.set(func() { status = 200 })
	w.clk.Advance(time.Minute)
	if c, err := w.bearer(got.Token); err != nil || !slices.Contains(c.Groups, "platform") {
		t.Errorf("afterwards: %+v, %v", c, err)
	}
	if n := w.refreshes(); n != 2 {
		t.Errorf("asked %d times, want twice", n)
	}
}

func TestAnIssuerWithoutTenants(t *testing.T) {
	w := open(t, func(c *identity.Config) { c.Issuer.Tenants, c.Issuer.ClientSecret = nil, "" })
	got := w.in(object{"tid": "anything", "oid": nil})
	if got.Name != "dora@example.com" {
		t.Errorf("got %+v", got)
	}
	// The key is issuer and subject: an address that moves to somebody else does not take the account along.
	w.iss.say(object{"oid": nil, "sub": "s-other"})
	_, err := w.tryIn()
	wantCode(t, err, access.CodeDenied, "belongs to another account")
	w.iss.say(with(overage, object{"oid": nil}))
	_, err = w.tryIn()
	wantCode(t, err, access.CodeUnauthenticated, "not Entra")
	var f url.Values
	w.iss.set(func() { f = w.iss.asked[0] })
	if f.Has("client_secret") || f.Get("client_id") != client {
		t.Errorf("a public client asks with %v", f)
	}
}

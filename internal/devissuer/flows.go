package devissuer

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// refused is an error of the token endpoint, as RFC 6749 5.2 writes it.
func refused(w http.ResponseWriter, code, description string) {
	status := http.StatusBadRequest
	if code == "invalid_client" {
		status = http.StatusUnauthorized
	}
	answer(w, status, map[string]string{"error": code, "error_description": description})
}

func (i *Issuer) client(id string) (Client, bool) {
	at := slices.IndexFunc(i.cfg.Clients, func(c Client) bool { return c.ID == id && id != "" })
	if at < 0 {
		return Client{}, false
	}
	return i.cfg.Clients[at], true
}

// authorize shows whom one may be. What is wrong with the client or its address is said here: nothing may be sent to that address.
func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c, ok := i.client(q.Get("client_id"))
	if !ok {
		i.failure(w, http.StatusBadRequest, "There is no application "+q.Get("client_id")+" here.")
		return
	}
	to := q.Get("redirect_uri")
	if !slices.Contains(c.Redirects, to) {
		i.failure(w, http.StatusBadRequest, "The application may not ask for a sign-in that ends at "+to+".")
		return
	}
	back := func(code, description string) {
		http.Redirect(w, r, with(to, url.Values{"error": {code}, "error_description": {description}, "state": {q.Get("state")}}), http.StatusSeeOther)
	}
	scopes := strings.Fields(q.Get("scope"))
	switch {
	case q.Get("response_type") != "code":
		back("unsupported_response_type", "only code")
	case !slices.Contains(scopes, "openid"):
		back("invalid_scope", "openid is missing")
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		back("invalid_request", "a code_challenge by S256 is required")
	case q.Get("prompt") == "none":
		back("interaction_required", "nobody is ever signed in here without choosing")
	default:
		i.mu.Lock()
		defer i.mu.Unlock()
		i.tidyLocked()
		if len(i.pages) >= maxPending {
			back("temporarily_unavailable", "too many sign-ins wait for somebody to choose")
			return
		}
		id := rand.Text()
		i.pages[id] = &asked{client: c.ID, redirect: to, state: q.Get("state"), nonce: q.Get("nonce"), challenge: q.Get("code_challenge"),
			offline: slices.Contains(scopes, "offline_access"), until: i.cfg.Clock.Now().Add(pageLife)}
		i.chooserLocked(w, "Sign in to "+c.ID, "", "page", id)
	}
}

// choose ends an authorization with the account that was chosen.
func (i *Issuer) choose(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tidyLocked()
	a, ok := i.pages[r.PostFormValue("page")]
	if !ok {
		i.failure(w, http.StatusBadRequest, "This sign-in is over. Begin again where you came from.")
		return
	}
	name := r.PostFormValue("account")
	account, known := i.accounts[name]
	if name != "" && !known {
		i.failure(w, http.StatusBadRequest, "There is no account "+name+" here.")
		return
	}
	delete(i.pages, r.PostFormValue("page"))
	values := url.Values{}
	switch {
	case name == "":
		values = url.Values{"error": {"access_denied"}, "error_description": {"the sign-in was cancelled"}}
	case account.Disabled:
		values = url.Values{"error": {"access_denied"}, "error_description": {"AADSTS50057: The user account is disabled."}}
	default:
		code := rand.Text() + rand.Text()
		s := &signIn{asked: *a, account: name}
		s.until = i.cfg.Clock.Now().Add(codeLife)
		i.codes[code] = s
		values.Set("code", code)
	}
	if a.state != "" {
		values.Set("state", a.state)
	}
	http.Redirect(w, r, with(a.redirect, values), http.StatusSeeOther)
}

// with adds parameters to an address that may have some.
func with(address string, v url.Values) string {
	sep := "?"
	if strings.Contains(address, "?") {
		sep = "&"
	}
	return address + sep + v.Encode()
}

// tidyLocked forgets what is over. A used code is kept for a while, so that its second use is noticed.
func (i *Issuer) tidyLocked() {
	now := i.cfg.Clock.Now()
	for id, a := range i.pages {
		if !now.Before(a.until) {
			delete(i.pages, id)
		}
	}
	for code, s := range i.codes {
		if !now.Before(s.until.Add(pageLife)) {
			delete(i.codes, code)
		}
	}
	for code, d := range i.devices {
		if !now.Before(d.until.Add(pageLife)) {
			delete(i.devices, code)
		}
	}
}

// authenticated is the client of a call to the token endpoint, by secret in the header or in the form.
func (i *Issuer) authenticated(w http.ResponseWriter, r *http.Request) (Client, bool) {
	id, secret, basic := r.BasicAuth()
	if basic { // both are encoded as in a form (RFC 6749 2.3.1)
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	c, ok := i.client(id)
	if !ok || c.Secret == "" || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		refused(w, "invalid_client", "the client is not known, or its secret is wrong")
		return c, false
	}
	return c, true
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	c, ok := i.authenticated(w, r)
	if !ok {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tidyLocked()
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		i.byCodeLocked(w, r, c)
	case "refresh_token":
		i.byRefreshLocked(w, r, c)
	case deviceGrant:
		i.byDeviceLocked(w, r, c)
	default:
		refused(w, "unsupported_grant_type", "authorization_code, refresh_token and device_code are served here")
	}
}

func (i *Issuer) byCodeLocked(w http.ResponseWriter, r *http.Request, c Client) {
	s := i.codes[r.PostFormValue("code")]
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case s == nil || s.client != c.ID:
		refused(w, "invalid_grant", "the code is not known")
	case s.used: // somebody has got hold of it: what it gave ends (RFC 6749 4.1.2)
		delete(i.kept.Families, s.family)
		_ = i.saveLocked()
		refused(w, "invalid_grant", "the code was used before")
	case !i.cfg.Clock.Now().Before(s.until):
		refused(w, "invalid_grant", "the code is too old")
	case s.redirect != r.PostFormValue("redirect_uri"):
		refused(w, "invalid_grant", "redirect_uri is not the one of the authorization")
	case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(s.challenge)) != 1:
		s.used = true
		refused(w, "invalid_grant", "code_verifier does not fit the challenge")
	default:
		s.used = true
		if s.offline {
			s.family = rand.Text()
		}
		i.giveLocked(w, s.account, c.ID, s.nonce, s.family)
	}
}

func (i *Issuer) byRefreshLocked(w http.ResponseWriter, r *http.Request, c Client) {
	id, _, _ := strings.Cut(r.PostFormValue("refresh_token"), ".")
	f, ok := i.kept.Families[id]
	switch {
	case !ok || f.Client != c.ID:
		refused(w, "invalid_grant", "AADSTS70000: the refresh token is not known, or its sign-in was ended")
	case subtle.ConstantTimeCompare([]byte(f.Newest), []byte(hash(r.PostFormValue("refresh_token")))) != 1:
		delete(i.kept.Families, id)
		_ = i.saveLocked()
		refused(w, "invalid_grant", "AADSTS70000: the refresh token was used before; its sign-in is ended")
	default:
		i.giveLocked(w, f.Account, c.ID, "", id)
	}
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// giveLocked answers with tokens: an id_token for what the account is now, and the next refresh token of the family, if there is one.
func (i *Issuer) giveLocked(w http.ResponseWriter, account, client, nonce, fam string) {
	if i.accounts[account].Disabled || i.accounts[account].Name == "" {
		refused(w, "invalid_grant", "AADSTS50057: The user account is disabled.")
		return
	}
	id, err := i.idTokenLocked(account, client, nonce)
	out := map[string]any{"token_type": "Bearer", "scope": "openid profile", "expires_in": int(i.cfg.TokenLife / time.Second), "access_token": rand.Text() + rand.Text(), "id_token": id}
	if err == nil && fam != "" {
		next := fam + "." + rand.Text() + rand.Text()
		f, had := i.kept.Families[fam]
		if !had {
			f = family{Account: account, Client: client, Since: i.cfg.Clock.Now()}
		}
		f.Newest = hash(next)
		i.kept.Families[fam] = f
		out["refresh_token"], out["scope"] = next, "openid profile offline_access"
		err = i.saveLocked()
	}
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"error": "server_error", "error_description": err.Error()})
		return
	}
	answer(w, http.StatusOK, out)
}

// letters of user codes: without vowels, so that no words come out (RFC 8628 6.1).
const letters = "BCDFGHJKLMNPQRSTVWXZ"

func userCode() string {
	var b strings.Builder
	for b.Len() < 8 {
		var one [1]byte
		_, _ = rand.Read(one[:]) // never fails
		if n := int(one[0]); n < 240 {
			b.WriteByte(letters[n%len(letters)])
		}
	}
	return b.String()[:4] + "-" + b.String()[4:]
}

func (i *Issuer) deviceCode(w http.ResponseWriter, r *http.Request) {
	c, ok := i.authenticated(w, r)
	if !ok {
		return
	}
	scopes := strings.Fields(r.PostFormValue("scope"))
	if !slices.Contains(scopes, "openid") {
		refused(w, "invalid_scope", "openid is missing")
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tidyLocked()
	if len(i.devices) >= maxPending {
		refused(w, "temporarily_unavailable", "too many sign-ins wait for somebody to choose")
		return
	}
	d := &device{client: c.ID, userCode: userCode(), offline: slices.Contains(scopes, "offline_access"), until: i.cfg.Clock.Now().Add(pageLife), every: pollEvery}
	code := rand.Text() + rand.Text()
	i.devices[code] = d
	page := strings.TrimSuffix(i.issuer, "/v2.0") + "/device"
	answer(w, http.StatusOK, map[string]any{"device_code": code, "user_code": d.userCode, "verification_uri": page,
		"verification_uri_complete": page + "?user_code=" + d.userCode, "interval": int(pollEvery / time.Second), "expires_in": int(pageLife / time.Second),
		"message": "To sign in, open " + page + " and enter the code " + d.userCode + "."})
}

// byDeviceLocked answers a device that asks whether somebody has chosen. Who asks too often is told to, and has to wait longer.
func (i *Issuer) byDeviceLocked(w http.ResponseWriter, r *http.Request, c Client) {
	code := r.PostFormValue("device_code")
	d, now := i.devices[code], i.cfg.Clock.Now()
	if d == nil || d.client != c.ID {
		refused(w, "invalid_grant", "the device code is not known")
		return
	}
	soon := !d.lastAsked.IsZero() && now.Sub(d.lastAsked) < d.every-500*time.Millisecond // clocks and networks waver
	d.lastAsked = now
	switch {
	case !now.Before(d.until):
		refused(w, "expired_token", "nobody has chosen in time")
	case d.denied:
		delete(i.devices, code)
		refused(w, "access_denied", "the sign-in was cancelled")
	case soon:
		d.every += 5 * time.Second
		refused(w, "slow_down", "asked too often")
	case d.account == "":
		refused(w, "authorization_pending", "nobody has chosen yet")
	default:
		delete(i.devices, code)
		fam := ""
		if d.offline {
			fam = rand.Text()
		}
		i.giveLocked(w, d.account, c.ID, "", fam)
	}
}

// byUserCodeLocked finds a device that still waits. People type codes as they like.
func (i *Issuer) byUserCodeLocked(typed string) *device {
	bare := func(s string) string { return strings.NewReplacer("-", "", " ", "").Replace(strings.ToUpper(s)) }
	i.tidyLocked()
	for _, d := range i.devices {
		if bare(d.userCode) == bare(typed) && d.account == "" && !d.denied && i.cfg.Clock.Now().Before(d.until) {
			return d
		}
	}
	return nil
}

func (i *Issuer) devicePage(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("user_code")
	i.mu.Lock()
	defer i.mu.Unlock()
	if code == "" {
		i.enterCode(w, "")
		return
	}
	d := i.byUserCodeLocked(code)
	if d == nil {
		i.enterCode(w, "No device waits with the code "+code+".")
		return
	}
	i.chooserLocked(w, "Sign in to "+d.client+" on a device", "The device shows the code "+d.userCode+". If it does not, cancel: somebody else began this.", "user_code", d.userCode)
}

func (i *Issuer) deviceChoose(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.byUserCodeLocked(r.PostFormValue("user_code"))
	if d == nil {
		i.enterCode(w, "No device waits with this code any more.")
		return
	}
	name := r.PostFormValue("account")
	a, known := i.accounts[name]
	switch {
	case name == "":
		d.denied = true
		i.page(w, http.StatusOK, view{Title: "Cancelled", Note: "Nobody is signed in. You may close this window."})
	case !known:
		i.failure(w, http.StatusBadRequest, "There is no account "+name+" here.")
	case a.Disabled:
		i.failure(w, http.StatusForbidden, "AADSTS50057: The user account is disabled.")
	default:
		d.account = name
		i.page(w, http.StatusOK, view{Title: "Signed in", Note: "The device is signed in as " + name + ". You may close this window."})
	}
}

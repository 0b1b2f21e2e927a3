// Package devissuer is an OpenID Connect issuer for the demo and for tests: discovery, signing keys, authorization code with PKCE, device
// code, refresh tokens that are good once, and id_tokens shaped as Microsoft Entra shapes them. Nobody proves who they are: whoever opens
// its page picks an account. It therefore answers on the loopback interface alone, and says so on each page.
//
// It is also a witness for the server's sign-in, so it shares nothing with it.
package devissuer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Account is somebody whom anybody may sign in as.
type Account struct {
	Name   string   `json:"name"` // preferred_username, and the name on the page
	Groups []string `json:"groups"`
	Roles  []string `json:"roles"`
	// Disabled accounts neither sign in nor have their tokens refreshed.
	Disabled bool `json:"disabled"`
}

// Client is an application that may ask for sign-ins.
type Client struct {
	ID, Secret string
	// Redirects are the addresses that a sign-in may end at, compared whole.
	Redirects []string
}

// Config of an issuer. URL, Tenant and Clock are needed.
type Config struct {
	URL      string // where the handler is served: http://127.0.0.1:PORT
	Tenant   string // tid, a part of the issuer's name
	Clients  []Client
	Accounts []Account
	Clock    clock.Clock
	// File keeps the key, the refresh tokens and what was changed by the control API over a restart; "" keeps nothing.
	File string
	// TokenLife is how long id_tokens and access tokens are good for; 0 is an hour.
	TokenLife time.Duration
}

// How long a person may take over the pages, and a client over its code.
const (
	pageLife   = 10 * time.Minute
	codeLife   = time.Minute
	pollEvery  = 5 * time.Second
	maxPending = 1000
)

// Issuer answers for its accounts. It is safe for use by several goroutines.
type Issuer struct {
	cfg    Config
	issuer string

	mu       sync.Mutex
	key      *rsa.PrivateKey
	kept     kept
	pages    map[string]*asked  // authorizations that wait for somebody to choose an account
	codes    map[string]*signIn // by code
	devices  map[string]*device // by device code
	accounts map[string]Account // by name
}

// kept is what File holds.
type kept struct {
	Key      []byte             `json:"key"` // PKCS #8
	Accounts map[string]Account `json:"accounts"`
	Families map[string]family  `json:"families"`
}

// family are the refresh tokens of one sign-in, of which the newest is good, once.
type family struct {
	Account string    `json:"account"`
	Client  string    `json:"client"`
	Newest  string    `json:"newest"` // its hash
	Since   time.Time `json:"since"`
}

// asked is an authorization request.
type asked struct {
	client, redirect, state, nonce, challenge string
	offline                                   bool
	until                                     time.Time
}

// signIn is what a code stands for.
type signIn struct {
	asked
	account string
	family  string // once the code was used: a second use ends it
	used    bool
}

type device struct {
	client, userCode string
	offline          bool
	until, lastAsked time.Time
	every            time.Duration
	account          string
	denied           bool
}

// New makes an issuer. The key is made at first use, or read from the file; a file that is not readable is an error.
func New(cfg Config) (*Issuer, error) {
	if cfg.URL == "" || cfg.Tenant == "" || cfg.Clock == nil {
		return nil, errors.New("an issuer needs a URL, a tenant and a clock")
	}
	if cfg.TokenLife <= 0 {
		cfg.TokenLife = time.Hour
	}
	i := &Issuer{cfg: cfg, issuer: strings.TrimRight(cfg.URL, "/") + "/" + cfg.Tenant + "/v2.0", pages: map[string]*asked{}, codes: map[string]*signIn{},
		devices: map[string]*device{}, accounts: map[string]Account{}, kept: kept{Accounts: map[string]Account{}, Families: map[string]family{}}}
	for _, a := range cfg.Accounts {
		i.accounts[a.Name] = a
	}
	if cfg.File == "" {
		return i, nil
	}
	b, err := os.ReadFile(cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &i.kept)
	}
	if err != nil {
		return nil, fmt.Errorf("the issuer's file %s cannot be read: %w", cfg.File, err)
	}
	if i.kept.Families == nil {
		i.kept.Families = map[string]family{}
	}
	if i.kept.Accounts == nil {
		i.kept.Accounts = map[string]Account{}
	}
	for name, a := range i.kept.Accounts {
		if _, known := i.accounts[name]; known {
			i.accounts[name] = a
		}
	}
	if len(i.kept.Key) > 0 {
		k, err := x509.ParsePKCS8PrivateKey(i.kept.Key)
		rk, ok := k.(*rsa.PrivateKey)
		if err != nil || !ok {
			return nil, fmt.Errorf("the issuer's file %s holds no usable key", cfg.File)
		}
		i.key = rk
	}
	return i, nil
}

// URL is the issuer's name: what a client is configured with, and what stands in iss.
func (i *Issuer) URL() string { return i.issuer }

// Handler serves the issuer, its pages and its control API, to callers on this machine alone.
func (i *Issuer) Handler() http.Handler {
	base := "/" + i.cfg.Tenant
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base+"/v2.0/.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET "+base+"/discovery/v2.0/keys", i.keys)
	mux.HandleFunc("GET "+base+"/oauth2/v2.0/authorize", i.authorize)
	mux.HandleFunc("POST "+base+"/oauth2/v2.0/authorize", i.choose)
	mux.HandleFunc("POST "+base+"/oauth2/v2.0/token", i.token)
	mux.HandleFunc("POST "+base+"/oauth2/v2.0/devicecode", i.deviceCode)
	mux.HandleFunc("GET "+base+"/device", i.devicePage)
	mux.HandleFunc("POST "+base+"/device", i.deviceChoose)
	mux.HandleFunc("GET /_dev/accounts", i.listAccounts)
	mux.HandleFunc("POST /_dev/accounts", i.changeAccount)
	mux.HandleFunc("GET /{$}", i.front)
	// The pages' forms and the control API act without a password: a page of another origin must not use them.
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !peer.Addr().Unmap().IsLoopback() || !loopbackHost(r.Host) {
			http.Error(w, "this issuer asks nobody for a password, and answers callers on this machine alone", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src '"+styleHash+"'; base-uri 'none'; frame-ancestors 'none'")
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		guarded.ServeHTTP(w, r)
	})
}

// loopbackHost keeps out a name that somebody else's DNS points at this machine.
func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	root := strings.TrimSuffix(i.issuer, "/v2.0")
	answer(w, http.StatusOK, map[string]any{
		"issuer": i.issuer, "jwks_uri": root + "/discovery/v2.0/keys",
		"authorization_endpoint": root + "/oauth2/v2.0/authorize", "token_endpoint": root + "/oauth2/v2.0/token",
		"device_authorization_endpoint": root + "/oauth2/v2.0/devicecode",
		"response_types_supported":      []string{"code"}, "response_modes_supported": []string{"query"}, "subject_types_supported": []string{"pairwise"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token", deviceGrant},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
		"scopes_supported":                      []string{"openid", "profile", "email", "offline_access"},
		"claims_supported":                      []string{"sub", "iss", "aud", "exp", "iat", "nonce", "name", "preferred_username", "oid", "tid", "groups", "roles"},
	})
}

func (i *Issuer) keys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	k, id, err := i.keyLocked()
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"error": "server_error", "error_description": err.Error()})
		return
	}
	answer(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: id, Algorithm: string(jose.RS256), Use: "sig"}}})
}

// keyLocked makes the key at first use: it takes a moment, and most demos end without a sign-in.
func (i *Issuer) keyLocked() (*rsa.PrivateKey, string, error) {
	if i.key == nil {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, "", fmt.Errorf("making the issuer's key: %w", err)
		}
		if i.kept.Key, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
			return nil, "", fmt.Errorf("making the issuer's key: %w", err)
		}
		i.key = k
		if err := i.saveLocked(); err != nil {
			i.key = nil
			return nil, "", err
		}
	}
	jwk := jose.JSONWebKey{Key: i.key.Public()}
	print, err := jwk.Thumbprint(crypto.SHA256)
	return i.key, base64.RawURLEncoding.EncodeToString(print), err
}

// saveLocked replaces the file, so that a crash leaves the old one or the new one.
func (i *Issuer) saveLocked() error {
	if i.cfg.File == "" {
		return nil
	}
	b, err := json.Marshal(i.kept)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(i.cfg.File), filepath.Base(i.cfg.File)+".new-*") // readable by its owner alone
	if err != nil {
		return fmt.Errorf("keeping the issuer's state: %w", err)
	}
	defer os.Remove(f.Name()) // gone already once it was renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), i.cfg.File)
	}
	if err != nil {
		return fmt.Errorf("keeping the issuer's state: %w", err)
	}
	return nil
}

// ObjectID is an account's oid, a UUID that stays the same: made from tenant and name.
func (i *Issuer) ObjectID(account string) string {
	sum := sha256.Sum256([]byte(i.cfg.Tenant + "/" + account))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// subject is pairwise, as Entra's: another client sees another one.
func (i *Issuer) subject(account, client string) string {
	sum := sha256.Sum256([]byte(i.cfg.Tenant + "/" + client + "/" + account))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// idToken signs what the account is now; Disabled was looked at before.
func (i *Issuer) idTokenLocked(account, client, nonce string) (string, error) {
	k, id, err := i.keyLocked()
	if err != nil {
		return "", err
	}
	a, now := i.accounts[account], i.cfg.Clock.Now()
	claims := map[string]any{
		"ver": "2.0", "iss": i.issuer, "aud": client, "sub": i.subject(account, client), "oid": i.ObjectID(account), "tid": i.cfg.Tenant,
		"name": account, "preferred_username": account, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(i.cfg.TokenLife).Unix(), "uti": rand.Text(),
	}
	// Entra leaves a claim out where it has nothing to say.
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if len(a.Groups) > 0 {
		claims["groups"] = a.Groups
	}
	if len(a.Roles) > 0 {
		claims["roles"] = a.Roles
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k, KeyID: id}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	sig, err := signer.Sign(b)
	if err != nil {
		return "", err
	}
	return sig.CompactSerialize()
}

// Change replaces an account's groups, roles and whether it is disabled, from now on; it says whether there is such an account.
// A disabled account's refresh tokens are refused while it is, as Entra does.
func (i *Issuer) Change(a Account) (bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, known := i.accounts[a.Name]; !known {
		return false, nil
	}
	i.accounts[a.Name], i.kept.Accounts[a.Name] = a, a
	return true, i.saveLocked()
}

// Accounts returns those there are, by name.
func (i *Issuer) Accounts() []Account {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []Account
	for _, a := range i.cfg.Accounts { // in the order in which they were given
		out = append(out, i.accounts[a.Name])
	}
	return out
}

func (i *Issuer) listAccounts(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"accounts": i.Accounts()})
}

// changeAccount changes the fields that are named and leaves the others.
func (i *Issuer) changeAccount(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name          string
		Disabled      *bool
		Groups, Roles *[]string
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": `send {"name":NAME} with "disabled", "groups" or "roles": ` + err.Error()})
		return
	}
	all := i.Accounts()
	at := slices.IndexFunc(all, func(a Account) bool { return a.Name == in.Name })
	if at < 0 {
		answer(w, http.StatusNotFound, map[string]string{"error": "there is no such account; GET lists them"})
		return
	}
	a := all[at]
	if in.Disabled != nil {
		a.Disabled = *in.Disabled
	}
	if in.Groups != nil {
		a.Groups = *in.Groups
	}
	if in.Roles != nil {
		a.Roles = *in.Roles
	}
	if _, err := i.Change(a); err != nil {
		answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, a)
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

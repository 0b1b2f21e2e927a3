package sim

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

func newTokenKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

const tokenLife = time.Hour

// issue makes a token: a JWT in shape (clients decode tid from it), signed with a key of this process.
func (s *Sim) issue(principal, audience string) string {
	now := s.cfg.Now() // unshifted, see SetTimeOffset
	b64 := base64.RawURLEncoding.EncodeToString
	head := b64([]byte(`{"typ":"JWT","alg":"HS256"}`))
	claims := b64(mustJSON(map[string]any{
		"aud": audience, "iss": "https://sts.windows.net/" + TenantID + "/", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLife).Unix(),
		"appid": principal, "oid": principal, "sub": principal, "tid": TenantID, "idtyp": "app", "ver": "1.0",
	}))
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(head + "." + claims))
	return head + "." + claims + "." + b64(mac.Sum(nil))
}

// Token returns a bearer token that the simulator accepts for an hour, for callers without a sign-in.
func (s *Sim) Token() string { return s.issue(ClientID, "https://management.azure.com/") }

// principalLocked says who asks, by the bearer token.
func (s *Sim) principalLocked(r *request) (string, *armError) {
	refuse := func(code, message, kind string) *armError {
		return &armError{Status: 401, Code: code, Message: message, Header: http.Header{"Www-Authenticate": {
			`Bearer authorization_uri="` + r.base + "/" + TenantID + `", error="` + kind + `", error_description="` + message + `"`}}}
	}
	auth := r.header.Get("Authorization")
	if auth == "" {
		return "", refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", "invalid_token")
	}
	scheme, token, _ := strings.Cut(auth, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", refuse("AuthenticationFailedInvalidHeader", "Authentication failed. The 'Authorization' header is provided in an invalid format.", "invalid_token")
	}
	partsOf := strings.Split(strings.TrimSpace(token), ".")
	invalid := refuse("InvalidAuthenticationToken", "The access token is invalid.", "invalid_token")
	if len(partsOf) != 3 {
		return "", invalid
	}
	sig, err := base64.RawURLEncoding.DecodeString(partsOf[2])
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(partsOf[0] + "." + partsOf[1]))
	if err != nil || !hmac.Equal(sig, mac.Sum(nil)) {
		return "", invalid
	}
	claims, err := base64.RawURLEncoding.DecodeString(partsOf[1])
	var c struct {
		Exp   int64  `json:"exp"`
		AppID string `json:"appid"`
	}
	if err != nil || json.Unmarshal(claims, &c) != nil {
		return "", invalid
	}
	if !s.cfg.Now().Before(time.Unix(c.Exp, 0)) {
		return "", refuse("ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time.", "invalid_token")
	}
	return c.AppID, nil
}

// login answers sign-in and discovery paths; nil means that the path is none of them.
func (s *Sim) login(r *request, lower string) *answer {
	switch {
	case strings.HasSuffix(lower, ".well-known/openid-configuration"):
		root := r.base + strings.TrimSuffix(strings.TrimSuffix(r.path, "/.well-known/openid-configuration"), "/v2.0")
		path := "/oauth2/v2.0/"
		if strings.HasPrefix(lower, "adfs/") {
			path = "/oauth2/"
		}
		issuer := root + "/v2.0"
		return ok(200, mustJSON(map[string]any{
			"issuer": issuer, "authorization_endpoint": root + path + "authorize", "token_endpoint": root + path + "token",
			"device_authorization_endpoint": root + path + "devicecode", "jwks_uri": root + "/discovery/v2.0/keys",
			"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
			"response_types_supported":              []string{"code"}, "subject_types_supported": []string{"pairwise"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
			"tenant_region_scope":                   "EU", "cloud_instance_name": "simulated",
		}))
	case lower == "common/discovery/instance" || lower == "adfs/discovery/instance":
		host := strings.TrimPrefix(strings.TrimPrefix(r.base, "https://"), "http://")
		return ok(200, mustJSON(map[string]any{
			"tenant_discovery_endpoint": r.base + "/" + TenantID + "/v2.0/.well-known/openid-configuration", "api-version": "1.1",
			"metadata": []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}}},
		}))
	case strings.HasSuffix(lower, "/oauth2/v2.0/token") || strings.HasSuffix(lower, "/oauth2/token"):
		return s.tokenByPassword(r)
	case lower == "msi/token" || lower == "metadata/identity/oauth2/token":
		resource := r.query.Get("resource")
		if form, err := url.ParseQuery(string(r.body)); resource == "" && err == nil {
			resource = form.Get("resource")
		}
		if resource == "" {
			return (&armError{Status: 400, Code: "invalid_request", Message: "The resource parameter is required."}).answer()
		}
		expires := s.cfg.Now().Add(tokenLife)
		return ok(200, mustJSON(map[string]any{ // strings, and expires_on, as real answers have them
			"access_token": s.issue(ClientID, resource), "client_id": ClientID, "expires_in": "3600",
			"expires_on": decimal(expires.Unix()), "not_before": decimal(s.cfg.Now().Unix()), "resource": resource, "token_type": "Bearer",
		}))
	case lower == "metadata/endpoints":
		return ok(200, s.endpoints(r))
	}
	return nil
}

func decimal(n int64) string { return string(mustJSON(n)) }

func (s *Sim) tokenByPassword(r *request) *answer {
	form, err := url.ParseQuery(string(r.body))
	refuse := func(status int, code, text string) *answer {
		return &answer{status: status, header: http.Header{}, code: code, body: mustJSON(map[string]any{"error": code, "error_description": text,
			"error_codes": []int{}, "timestamp": s.cfg.Now().UTC().Format("2006-01-02 15:04:05Z"), "trace_id": "", "correlation_id": ""})}
	}
	if r.method != http.MethodPost || err != nil {
		return refuse(400, "invalid_request", "AADSTS900144: The request body must be a form sent by POST.")
	}
	if g := form.Get("grant_type"); g != "client_credentials" {
		return refuse(400, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type '"+g+"'. The simulator knows client_credentials.")
	}
	id := form.Get("client_id")
	if !strings.EqualFold(id, ClientID) {
		return refuse(400, "unauthorized_client", "AADSTS700016: Application with identifier '"+id+"' was not found in the directory '"+TenantID+"'.")
	}
	switch {
	case form.Get("client_assertion") != "": // federated token or certificate: taken on trust, nothing here is secret
	case form.Get("client_secret") != ClientSecret:
		return refuse(401, "invalid_client", "AADSTS7000215: Invalid client secret provided for app '"+id+"'.")
	}
	audience := form.Get("resource")
	if scope := form.Get("scope"); audience == "" {
		audience = strings.TrimSuffix(strings.Fields(scope + " .default")[0], ".default")
	}
	audience = strings.TrimRight(audience, "/") + "/"
	return ok(200, mustJSON(map[string]any{"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": s.issue(ClientID, audience)}))
}

// endpoints is the cloud metadata document: an array up to 2019-05-01, one object from 2022-09-01 on.
func (s *Sim) endpoints(r *request) []byte {
	host := strings.TrimPrefix(strings.TrimPrefix(r.base, "https://"), "http://")
	doc := map[string]any{
		"name": "SimCloud", "portal": r.base + "/portal",
		"authentication":  map[string]any{"loginEndpoint": r.base + "/", "audiences": []string{r.base + "/", r.base}, "tenant": "common", "identityProvider": "AAD"},
		"resourceManager": r.base + "/", "microsoftGraphResourceId": r.base + "/graph/", "graph": r.base + "/graph/", "graphAudience": r.base + "/graph/",
		"activeDirectoryDataLake": r.base + "/datalake/", "batch": r.base + "/batch/", "media": r.base + "/media/", "gallery": r.base + "/gallery/",
		"suffixes": map[string]any{"storage": "storage." + host, "keyVaultDns": "vault." + host, "sqlServerHostname": "database." + host, "acrLoginServer": "acr." + host},
	}
	switch {
	case strings.HasPrefix(r.api, "2015"):
		return mustJSON(map[string]any{"galleryEndpoint": r.base + "/gallery/", "graphEndpoint": r.base + "/graph/", "portalEndpoint": r.base + "/portal",
			"authentication": map[string]any{"loginEndpoint": r.base + "/", "audiences": []string{r.base + "/"}}})
	case r.api < "2022":
		return mustJSON([]any{doc})
	}
	return mustJSON(doc)
}

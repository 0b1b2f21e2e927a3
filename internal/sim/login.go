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
func (s *Sim) issue(principal, audience string, skew time.Duration) string {
	now := s.cfg.Now().Add(skew) // unshifted, see SetTimeOffset
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
func (s *Sim) Token() string { return s.issue(ClientID, "https://management.azure.com/", 0) }

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
		aliases := []string{host}
		if host == "login.microsoftonline.com" {
			aliases = []string{host, "login.windows.net", "login.microsoft.com", "sts.windows.net"}
		}
		return ok(200, mustJSON(map[string]any{
			"tenant_discovery_endpoint": r.base + "/" + TenantID + "/v2.0/.well-known/openid-configuration", "api-version": "1.1",
			"metadata": []any{map[string]any{"preferred_network": host, "preferred_cache": host, "aliases": aliases}},
		}))
	case lower == "msi/token" || lower == "metadata/identity/oauth2/token":
		return s.identityToken(r, lower != "msi/token")
	case strings.HasSuffix(lower, "/oauth2/v2.0/token") || strings.HasSuffix(lower, "/oauth2/token"):
		return s.tokenByPassword(r)
	case lower == "metadata/endpoints":
		return ok(200, s.endpoints(r))
	}
	return nil
}

// identityToken is the managed identity: of App Service and the older MSI endpoint, by GET or a form, or of a machine (IMDS), which wants the
// header Metadata. client_id names a user-assigned one: any principal that has a role.
func (s *Sim) identityToken(r *request, imds bool) *answer {
	refuse := func(code, message string) *answer {
		return &answer{status: 400, header: http.Header{}, code: code, body: mustJSON(map[string]any{"error": code, "error_description": message})}
	}
	if imds && !strings.EqualFold(r.header.Get("Metadata"), "true") {
		return refuse("bad_request_102", "Required metadata header not specified")
	}
	param := func(name string) string {
		v := r.query.Get(name)
		if form, err := url.ParseQuery(string(r.body)); v == "" && err == nil {
			v = form.Get(name)
		}
		return v
	}
	resource, id := param("resource"), param("client_id")
	if resource == "" {
		return refuse("invalid_request", "The resource parameter is required.")
	}
	if id == "" {
		id = ClientID
	}
	if !s.knownLocked(id) {
		return refuse("invalid_request", "Identity not found")
	}
	expires := s.cfg.Now().Add(r.skew() + tokenLife)
	return ok(200, mustJSON(map[string]any{ // strings, and expires_on, as real answers have them
		"access_token": s.issue(strings.ToLower(id), resource, r.skew()), "client_id": id, "expires_in": "3600", "ext_expires_in": "3600",
		"expires_on": decimal(expires.Unix()), "not_before": decimal(s.cfg.Now().Unix()), "resource": resource, "token_type": "Bearer",
	}))
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
	if !s.knownLocked(id) {
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
	return ok(200, mustJSON(map[string]any{"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": s.issue(strings.ToLower(id), audience, r.skew())}))
}

// endpoints is the cloud metadata document: an array up to 2019-05-01, one object from 2022-09-01 on.
func (s *Sim) endpoints(r *request) []byte {
	host := strings.TrimPrefix(strings.TrimPrefix(r.base, "https://"), "http://")
	if host == "management.azure.com" { // asked through the proxy: the public cloud
		return publicEndpoints(r.api)
	}
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

// publicEndpoints is the metadata document of the public cloud, which the proxy plays.
func publicEndpoints(api string) []byte {
	auth := map[string]any{"loginEndpoint": "https://login.microsoftonline.com/", "audiences": []string{"https://management.core.windows.net/", "https://management.azure.com/"}}
	if strings.HasPrefix(api, "2015") {
		return mustJSON(map[string]any{"galleryEndpoint": "https://gallery.azure.com/", "graphEndpoint": "https://graph.windows.net/", "portalEndpoint": "https://portal.azure.com/", "authentication": auth})
	}
	auth["tenant"], auth["identityProvider"] = "common", "AAD"
	doc := map[string]any{
		"name": "AzureCloud", "portal": "https://portal.azure.com", "authentication": auth, "resourceManager": "https://management.azure.com/",
		"microsoftGraphResourceId": "https://graph.microsoft.com/", "graph": "https://graph.windows.net/", "graphAudience": "https://graph.windows.net/",
		"batch": "https://batch.core.windows.net/", "gallery": "https://gallery.azure.com/",
		"suffixes": map[string]any{"storage": "core.windows.net", "keyVaultDns": "vault.azure.net", "sqlServerHostname": "database.windows.net", "acrLoginServer": "azurecr.io"},
	}
	if api < "2022" {
		return mustJSON([]any{doc})
	}
	return mustJSON(doc)
}

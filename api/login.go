package api

import "time"

// LoginMethods says how one signs in at a server.
type LoginMethods struct {
	Issuer  string `json:"issuer,omitempty" doc:"Through which issuer people sign in; absent: through none"`
	Browser bool   `json:"browser" doc:"Authorization code with PKCE: start at /v1/login/start, or /login in a browser"`
	Device  bool   `json:"device" doc:"Device code, for terminals without a browser"`
	Token   bool   `json:"token" doc:"Tokens that an admin gives out"`
	Demo    bool   `json:"demo" doc:"The accounts of the demo, with the header Curfew-As"`
}

// LoginStartInput begins a sign-in through a browser on the caller's machine.
type LoginStartInput struct {
	RedirectURI string `json:"redirect_uri" maxLength:"200" doc:"Where the browser ends: http on 127.0.0.1 or [::1], with a port" example:"http://127.0.0.1:53124/"`
	Challenge   string `json:"challenge" minLength:"43" maxLength:"43" doc:"PKCE, S256: base64url(SHA-256(verifier)) without padding"`
	State       string `json:"state" minLength:"8" maxLength:"200" doc:"Comes back to redirect_uri as it is"`
}

// LoginStart is where the browser goes.
type LoginStart struct {
	URL       string `json:"url"`
	ExpiresIn int    `json:"expires_in" doc:"Seconds that the sign-in may take"`
}

// LoginTokenInput fetches the session of a sign-in that ended at redirect_uri with ?code=…&state=….
type LoginTokenInput struct {
	Code     string `json:"code" minLength:"1" maxLength:"200"`
	Verifier string `json:"verifier" minLength:"43" maxLength:"128" doc:"Of which the challenge was made"`
}

// SignedIn is a new session. The token is told this once.
type SignedIn struct {
	Token     string    `json:"token" doc:"Sent as Authorization: Bearer TOKEN"`
	Name      string    `json:"name"`
	Roles     []string  `json:"roles"`
	Groups    []string  `json:"groups"`
	ExpiresAt time.Time `json:"expires_at" doc:"When the session ends at the latest"`
}

// DeviceStart is a sign-in that a person completes on another device.
type DeviceStart struct {
	Handle                  string `json:"handle" doc:"Secret: whoever has it gets the session"`
	UserCode                string `json:"user_code"`
	VerificationURI         string `json:"verification_uri"`
	VerificationURIComplete string `json:"verification_uri_complete,omitempty" doc:"With the code in it"`
	Interval                int    `json:"interval" doc:"Seconds to wait between two questions"`
	ExpiresIn               int    `json:"expires_in"`
}

// DeviceTokenInput asks whether the person is done.
type DeviceTokenInput struct {
	Handle string `json:"handle" minLength:"1" maxLength:"200"`
}

// DeviceToken is the answer: pending, or the session.
type DeviceToken struct {
	State    string    `json:"state" enum:"pending,signed_in"`
	Interval int       `json:"interval,omitempty" doc:"While pending: seconds until the next question"`
	Session  *SignedIn `json:"session,omitempty" doc:"Once signed in"`
}

// Account is somebody who has signed in through the issuer, and whose name it is.
type Account struct {
	Name     string    `json:"name"`
	Key      string    `json:"key" doc:"By which the issuer knows them"`
	Roles    []string  `json:"roles" doc:"As of last_at"`
	Groups   []string  `json:"groups"`
	FirstAt  time.Time `json:"first_at"`
	LastAt   time.Time `json:"last_at" doc:"When the issuer last vouched for them"`
	BarredAt time.Time `json:"barred_at,omitzero" doc:"Since when an admin keeps them out"`
	BarredBy string    `json:"barred_by,omitempty"`
	Why      string    `json:"why,omitempty" doc:"What the admin said to it"`
}

// EndInput ends somebody's sessions.
type EndInput struct {
	Bar     bool   `json:"bar,omitempty" doc:"Keep them out, and the tokens that they answer for too, until the account is released"`
	Comment string `json:"comment,omitempty"`
}

// Ended says how many sessions ended.
type Ended struct {
	Sessions int `json:"sessions"`
}

// Session is one sign-in.
type Session struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Roles       []string  `json:"roles"`
	Via         string    `json:"via" doc:"browser, device or portal"`
	From        string    `json:"from,omitempty" doc:"Address of the sign-in"`
	StartedAt   time.Time `json:"started_at"`
	ConfirmedAt time.Time `json:"confirmed_at" doc:"When the issuer last vouched for them"`
	EndsAt      time.Time `json:"ends_at"`
	Current     bool      `json:"current" doc:"It is the one that this call was made with"`
}

// APIToken is a token for a program.
type APIToken struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Caller    string    `json:"caller" doc:"Under which name it asks and stands in the log"`
	Roles     []string  `json:"roles"`
	Sponsor   string    `json:"sponsor" doc:"Who made it and answers for it: they do not decide on what it asks for"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	FirstUsed time.Time `json:"first_used,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero" doc:"To the hour"`
}

// TokenInput asks for a token for a program.
type TokenInput struct {
	Name  string   `json:"name" maxLength:"40" doc:"1 to 40 of a-z, 0-9, dot, dash and underscore" example:"ci-deploy"`
	Roles []string `json:"roles" doc:"Of those that you have: requester, auditor, admin; never approver"`
	Life  Duration `json:"life,omitempty" doc:"How long it is good for: default 30d, at most 365d"`
}

// NewToken is a token that was just made. The secret is told this once.
type NewToken struct {
	APIToken
	Secret string `json:"secret"`
}

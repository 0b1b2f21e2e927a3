// Package identity says who is calling: people who signed in through an OpenID Connect issuer, programs with a federated token, and
// programs with a token of ours. The server is the issuer's only client; command line and browser get a session of ours.
//
// Trusted: the issuers that the configuration names, for whom they vouch for and in which groups they are, once a signature, audience,
// tenant and time were checked; the accounts in the store. Not trusted: everything that a caller or a browser brings, claims that a
// person can choose for themself (a name or an address is never a key), and an issuer's silence: who cannot be confirmed goes on only
// as long as a session lasts, and nobody new comes in.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
)

// SessionPrefix begins the token of a session.
const SessionPrefix = "curfews_"

// maxToken bounds a token before anything of it is read.
const maxToken = 16 << 10

// Times that are no setting.
const (
	leeway       = time.Minute      // that clocks may differ by
	freshness    = 15 * time.Minute // how long ago an issuer may say that it made a token that it has just given; Entra dates them back by five minutes
	loginLife    = 10 * time.Minute // that a person may take to sign in
	codeLife     = 2 * time.Minute  // that the command line may take to fetch its session
	unrefreshed  = 5 * time.Minute  // how long a session lasts that cannot be confirmed again
	renewTime    = 5 * time.Second  // that an issuer may take to confirm somebody who waits for an answer
	downFor      = 15 * time.Second // how long an issuer that did not answer is not asked about sessions again
	exchangeTime = 15 * time.Second // that a sign-in may take at the issuer and Graph
)

// Accounts keeps accounts, sessions and tokens. *broker.Broker implements it.
type Accounts interface {
	Now() time.Time
	OpenSession(ctx context.Context, hash string, s broker.Session, reserved func(name string) bool) (broker.Session, error)
	SessionByHash(ctx context.Context, hash string) (broker.Session, error)
	SessionsOf(ctx context.Context, name string) ([]broker.Session, error)
	ConfirmSession(ctx context.Context, s broker.Session, confirmed bool) (broker.Session, error)
	DropSession(ctx context.Context, c access.Caller, s broker.Session, rightsLost bool, why string) error
	TokenCaller(ctx context.Context, secret string) (access.Caller, error)
	NoteRefusal(ctx context.Context, name, from, message string)
	NoteIssuer(err error)
	KeepOnce(ctx context.Context, kind, id string, expires time.Time, doc any) error
	TakeOnce(ctx context.Context, kind, id string, doc any) error
	LookAt(ctx context.Context, kind, id string, doc any) error
}

// Person is somebody of the configuration. Their name is theirs: nobody else gets it by signing in.
type Person struct {
	Name    string
	Roles   []access.Role
	Groups  []string // of somebody who does not sign in at the issuer
	Subject string   // oid, tenant/oid or sub of the account that is theirs at the issuer; "": they do not sign in there
}

// RoleRule gives a role to whoever has one of the application's roles or is in one of the groups.
type RoleRule struct {
	Role     access.Role
	AppRoles []string
	Groups   []string // as the issuer names them, or a name of Issuer.GroupNames
}

// Issuer says through whom people sign in.
type Issuer struct {
	URL          string
	ClientID     string
	ClientSecret string   // "": a public client
	Tenants      []string // ids; empty: the issuer is not Entra, and no tenant is looked at
	PublicURL    string   // of this server, without a slash at the end
	Scopes       []string // besides openid; default profile and offline_access
	NameClaim    string   // default preferred_username, then upn, email, sub
	GroupsClaim  string   // default groups
	RolesClaim   string   // default roles
	GroupNames   map[string]string
	Roles        []RoleRule
	Graph        string // base URL of Microsoft Graph; default the public cloud's
	NoDevice     bool
	SessionLife  time.Duration // default 12 h
	ConfirmAfter time.Duration // default 4 min, at most 5
}

// Config is what a manager needs.
type Config struct {
	Accounts  Accounts
	Clock     clock.Clock
	Issuer    *Issuer // nil: nobody signs in through one
	People    []Person
	Workloads []Workload
	Key       []byte            // 32 bytes: what secrets in the store are encrypted with
	Transport http.RoundTripper // to issuers and Graph; nil: the default
	Log       *slog.Logger
}

// Manager signs callers in. Make one with New.
type Manager struct {
	cfg       Config
	acc       Accounts
	log       *slog.Logger
	clock     clock.Clock
	seal      *sealer
	client    *http.Client
	issuer    *Issuer
	provider  *provider // nil without an issuer
	workloads map[string]*trusted

	flights singleflight.Group
	mu      sync.Mutex
	down    time.Time        // until when the issuer is not asked about sessions
	polls   map[string]*poll // device sign-ins under way
}

// New makes a manager. It asks nobody anything yet: an issuer that is down does not keep a server from starting.
func New(cfg Config) (*Manager, error) {
	if cfg.Accounts == nil {
		return nil, errors.New("sign-in needs accounts")
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, acc: cfg.Accounts, log: cfg.Log, clock: cfg.Clock, seal: seal, client: newClient(cfg.Transport), polls: map[string]*poll{},
		workloads: map[string]*trusted{}}
	if cfg.Issuer != nil {
		i := *cfg.Issuer
		if err := i.complete(); err != nil {
			return nil, err
		}
		m.issuer = &i
		m.provider = newProvider(i.URL, m.client, m.clock, len(i.Tenants) > 0)
	}
	for _, w := range cfg.Workloads {
		if err := w.check(); err != nil {
			return nil, err
		}
		if m.workloads[w.Issuer] == nil {
			m.workloads[w.Issuer] = &trusted{provider: newProvider(w.Issuer, m.client, m.clock, false)}
		}
		t := m.workloads[w.Issuer]
		t.workloads = append(t.workloads, w)
	}
	return m, nil
}

func (i *Issuer) complete() error {
	or := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	if i.URL == "" || i.ClientID == "" || i.PublicURL == "" {
		return errors.New("an issuer needs a URL, a client id and the server's own URL")
	}
	i.PublicURL = strings.TrimRight(i.PublicURL, "/")
	or(&i.GroupsClaim, "groups")
	or(&i.RolesClaim, "roles")
	or(&i.Graph, "https://graph.microsoft.com")
	if len(i.Scopes) == 0 {
		i.Scopes = []string{"profile", "offline_access"}
	}
	if i.SessionLife <= 0 {
		i.SessionLife = 12 * time.Hour
	}
	if i.ConfirmAfter <= 0 {
		i.ConfirmAfter = 4 * time.Minute
	}
	if i.ConfirmAfter > 5*time.Minute {
		return fmt.Errorf("a session cannot go unconfirmed for %s: five minutes are the most", i.ConfirmAfter)
	}
	return nil
}

// Bearer says who calls with a token: of a session, of the API, or federated. Its error is an *access.Error: CodeUnauthenticated where
// the token is worth nothing, CodeUnavailable where that cannot be told now.
func (m *Manager) Bearer(ctx context.Context, token string) (access.Caller, error) {
	switch {
	case len(token) > maxToken:
		return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the token is larger than %d bytes", maxToken).
			WithHint("a token that carries this many groups cannot be used here")
	case strings.HasPrefix(token, SessionPrefix):
		s, err := m.use(ctx, broker.HashSecret(token))
		if err != nil {
			return access.Caller{}, err
		}
		return callerOf(s), nil
	case strings.HasPrefix(token, broker.SecretPrefix):
		return m.acc.TokenCaller(ctx, token)
	case strings.HasPrefix(token, "eyJ") && strings.Count(token, ".") == 2 && len(m.workloads) > 0:
		return m.workload(ctx, token)
	}
	return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the token is not known here").
		WithHint("check that it is whole and meant for this server; sign in with: curfew login")
}

func callerOf(s broker.Session) access.Caller {
	return access.Caller{Name: s.Name, Roles: s.Roles, Groups: s.Groups, Session: s.ID}
}

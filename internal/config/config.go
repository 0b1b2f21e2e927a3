// Package config reads the server's configuration: one YAML file, of which every fault is reported at once with its line, over
// which some keys can be set by the environment and by flags. The order is flag, environment, file, default.
//
// A file that is not understood in full is refused: an unknown key, a key that stands twice, a second document. Secrets do not
// stand in it: of a token its hash, of a client secret the name of a file.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Config is the configuration of a server, complete and checked.
type Config struct {
	Installation   string            `yaml:"installation" doc:"Name of this installation, 4 to 12 of a-z and 0-9. It stands in the name of every rule: never change it, never use it twice in a tenant. Required"`
	Listen         string            `yaml:"listen" default:"127.0.0.1:7447" doc:"Address of the API. Without tls only a loopback address is accepted"`
	TLS            TLS               `yaml:"tls"`
	TrustedProxies []netip.Prefix    `yaml:"trusted_proxies" doc:"Networks of proxies that may say, in X-Forwarded-For, where a call came from"`
	DataDir        string            `yaml:"data_dir" default:"/var/lib/curfew" doc:"Folder of the database, the audit log and its spool"`
	Azure          Azure             `yaml:"azure"`
	Band           Band              `yaml:"band"`
	People         []Person          `yaml:"people"`
	Policy         policy.Document   `yaml:"policy"`
	PolicyFile     string            `yaml:"policy_file" doc:"File with the policy, or a folder whose *.yaml together are it, in place of policy. It is read again when it changes; docs/policy.md describes it"`
	SignIn         SignIn            `yaml:"sign_in"`
	Workloads      []Workload        `yaml:"workloads"`
	RequestExpiry  access.Duration   `yaml:"request_expiry" default:"24h" doc:"How long a request waits for an answer: 5m to 30d"`
	KeyRetention   access.Duration   `yaml:"idempotency_retention" default:"24h" doc:"How long idempotency keys are remembered: 1h to 30d"`
	SweepInterval  access.Duration   `yaml:"sweep_interval" default:"30s" doc:"Time between sweeps over everything: 1s to 30s, the longest that a late opening may stand"`
	ScanInterval   access.Duration   `yaml:"scan_interval" default:"6h" doc:"Time between scans of everything: 5m to 7d, or 0s for none"`
	ScanRetention  access.Duration   `yaml:"scan_retention" default:"90d" doc:"How long reports of scans are kept: 1d to 1000d; the newest fifty stay in any case"`
	Audit          Audit             `yaml:"audit"`
	Notify         Notify            `yaml:"notify"`
	Log            Log               `yaml:"log"`
	Warnings       []string          `yaml:"-"` // what is allowed and probably not meant
	sources        map[string]string // key -> where it was set, for messages
}

// TLS names the server's certificate.
type TLS struct {
	Cert string `yaml:"cert" doc:"File with the certificate and its chain, PEM"`
	Key  string `yaml:"key" doc:"File with its key, PEM"`
}

// Azure says which Azure, and as whom.
type Azure struct {
	Cloud         string     `yaml:"cloud" default:"public" doc:"public, government, china, or custom"`
	Endpoint      string     `yaml:"endpoint" doc:"Of a custom cloud: URL of Azure Resource Manager"`
	Audience      string     `yaml:"audience" doc:"Of a custom cloud: for which tokens are asked; default the endpoint"`
	Authority     string     `yaml:"authority" doc:"Of a custom cloud: URL of what signs in"`
	CA            string     `yaml:"ca" doc:"File with certificates to trust besides the system's, PEM"`
	Tenant        string     `yaml:"tenant" doc:"Id of the tenant"`
	Subscriptions []string   `yaml:"subscriptions" doc:"Ids of the subscriptions to look after; absent: every one that the identity sees"`
	Credential    Credential `yaml:"credential"`
}

// Credential says as whom the server acts.
type Credential struct {
	Kind             string `yaml:"kind" default:"default" doc:"default, client-secret, workload-identity, managed-identity or cli. In production name the one that is meant"`
	ClientID         string `yaml:"client_id" doc:"Id of the application or of a user-assigned identity"`
	ClientSecretFile string `yaml:"client_secret_file" doc:"File with the secret of client-secret"`
	TokenFile        string `yaml:"token_file" doc:"File with the token of workload-identity; default as the environment says"`
}

// Band is the range of priorities in which rules of ours stand.
type Band struct {
	First int `yaml:"first" default:"300" doc:"First priority of ours: 100 to 4095"`
	Last  int `yaml:"last" default:"1299" doc:"Last priority of ours: to 4096"`
}

// Person is somebody who may sign in.
type Person struct {
	Name        string        `yaml:"name" doc:"Name, compared without case"`
	Roles       []access.Role `yaml:"roles" doc:"requester, approver, auditor, admin; they do not imply one another"`
	Email       string        `yaml:"email" doc:"Address for e-mail channels that write to people"`
	Subject     string        `yaml:"subject" doc:"Their account at the issuer of sign_in: Entra's object id, TENANT/OBJECT-ID where there are several tenants, or another issuer's sub. They sign in there and have these roles besides those of their groups"`
	TokenSHA256 string        `yaml:"token_sha256" doc:"SHA-256 of the person's token, in hexadecimal. Make a token with: openssl rand -hex 32"`
}

// Audit says how checkpoints of the audit log are signed and kept.
type Audit struct {
	SigningKeyFile     string          `yaml:"signing_key_file" doc:"File with the key that signs checkpoints, as audit keygen writes it, outside data_dir; absent: they are not signed"`
	CheckpointFile     string          `yaml:"checkpoint_file" doc:"File that signed checkpoints are appended to, or a folder for it, outside data_dir; best where the server may append and nothing else"`
	CheckpointInterval access.Duration `yaml:"checkpoint_interval" default:"1h" doc:"Time between signed checkpoints: 1m to 24h; nothing is appended where nothing was written"`
}

// SignIn says through which issuer people sign in.
type SignIn struct {
	Issuer           string          `yaml:"issuer" doc:"URL of an OpenID Connect issuer, for Entra https://login.microsoftonline.com/TENANT/v2.0; absent: people have tokens only"`
	ClientID         string          `yaml:"client_id" doc:"Id of this server's application there"`
	ClientSecretFile string          `yaml:"client_secret_file" doc:"File with the application's secret; absent: a public client"`
	Tenants          []string        `yaml:"tenants" doc:"Ids of the Entra tenants whose people may sign in; absent: the one that the issuer names, or, where the issuer is not Entra, no tenant is looked at"`
	PublicURL        string          `yaml:"public_url" doc:"URL of this server as browsers reach it; with /login/callback behind it, the redirect URI that is registered at the issuer"`
	CA               string          `yaml:"ca" doc:"File with certificates to trust at issuers besides the system's, PEM"`
	Scopes           []string        `yaml:"scopes" doc:"What is asked for besides openid; absent: profile, offline_access"`
	NameClaim        string          `yaml:"name_claim" doc:"Claim that people are named by; absent: preferred_username, else upn, email, sub"`
	GroupsClaim      string          `yaml:"groups_claim" default:"groups" doc:"Claim with the groups"`
	RolesClaim       string          `yaml:"roles_claim" default:"roles" doc:"Claim with the application's roles"`
	GroupNames       []GroupName     `yaml:"group_names"`
	Roles            []RoleRule      `yaml:"roles"`
	Graph            string          `yaml:"graph" default:"https://graph.microsoft.com" doc:"Microsoft Graph of the cloud, asked where somebody is in more groups than a token holds"`
	Device           bool            `yaml:"device" default:"true" doc:"Allow device codes, for terminals without a browser"`
	SessionLife      access.Duration `yaml:"session_life" default:"12h" doc:"After which people sign in again: 5m to 7d"`
	ConfirmAfter     access.Duration `yaml:"confirm_after" default:"4m" doc:"After which a session that is used is confirmed by the issuer: 10s to 5m. Who has lost their rights there is out after it"`
	KeyFile          string          `yaml:"key_file" doc:"File with the key that refresh tokens in the database are encrypted with; absent: curfew.key in the data folder, made at the first start"`
}

// GroupName names a group that the issuer knows by an id.
type GroupName struct {
	ID   string `yaml:"id" doc:"As the issuer's tokens name the group: with Entra an object id"`
	Name string `yaml:"name" doc:"What the policy and sign_in.roles call it"`
}

// RoleRule gives a role to people.
type RoleRule struct {
	Role     access.Role `yaml:"role" doc:"requester, approver, auditor or admin"`
	AppRoles []string    `yaml:"app_roles" doc:"Values of the application's roles that give it, compared exactly"`
	Groups   []string    `yaml:"groups" doc:"Groups that give it, by id or by a name of group_names, compared without case"`
}

// Workload is a program that calls with a token of an issuer of its own.
type Workload struct {
	Name     string        `yaml:"name" doc:"It asks, and stands in the log, as workload:NAME"`
	Issuer   string        `yaml:"issuer" doc:"URL of the issuer of its tokens, exactly as they name it"`
	Audience string        `yaml:"audience" doc:"For whom its tokens must be made"`
	Subject  string        `yaml:"subject" doc:"Subject of its tokens, compared exactly"`
	Claims   []ClaimValue  `yaml:"claims"`
	Roles    []access.Role `yaml:"roles" doc:"requester, auditor, admin; a program never approves"`
	Sponsor  string        `yaml:"sponsor" doc:"The person who answers for it, and does not decide on what it asks for"`
}

// ClaimValue is a claim that a token must have.
type ClaimValue struct {
	Claim string `yaml:"claim" doc:"Name of a claim that its tokens must have"`
	Value string `yaml:"value" doc:"Its value, compared exactly"`
}

// Log says what is logged, and how.
type Log struct {
	Level  string `yaml:"level" default:"info" doc:"debug, info, warn or error"`
	Format string `yaml:"format" default:"text" doc:"text or json"`
}

// SlogLevel returns the level for log/slog.
func (l Log) SlogLevel() slog.Level {
	var out slog.Level
	if out.UnmarshalText([]byte(l.Level)) != nil {
		return slog.LevelInfo
	}
	return out
}

// Default returns the configuration where nothing is set. It is not complete: Installation has no default.
func Default() Config {
	return Config{
		Listen: "127.0.0.1:7447", DataDir: "/var/lib/curfew",
		Azure:         Azure{Cloud: "public", Credential: Credential{Kind: "default"}},
		Band:          Band{First: 300, Last: 1299},
		RequestExpiry: access.Duration(24 * time.Hour), KeyRetention: access.Duration(24 * time.Hour), SweepInterval: access.Duration(30 * time.Second),
		ScanInterval: access.Duration(6 * time.Hour), ScanRetention: access.Duration(90 * 24 * time.Hour),
		Audit: Audit{CheckpointInterval: access.Duration(time.Hour)},
		SignIn: SignIn{GroupsClaim: "groups", RolesClaim: "roles", Graph: "https://graph.microsoft.com", Device: true,
			SessionLife: access.Duration(12 * time.Hour), ConfirmAfter: access.Duration(4 * time.Minute)},
		Log: Log{Level: "info", Format: "text"},
	}
}

// setting is a key that the environment and flags can set too.
type setting struct {
	key, env string
	at       func(*Config) *string
}

var settings = []setting{
	{"installation", "CURFEW_INSTALLATION", func(c *Config) *string { return &c.Installation }},
	{"listen", "CURFEW_LISTEN", func(c *Config) *string { return &c.Listen }},
	{"data_dir", "CURFEW_DATA_DIR", func(c *Config) *string { return &c.DataDir }},
	{"tls.cert", "CURFEW_TLS_CERT", func(c *Config) *string { return &c.TLS.Cert }},
	{"tls.key", "CURFEW_TLS_KEY", func(c *Config) *string { return &c.TLS.Key }},
	{"log.level", "CURFEW_LOG_LEVEL", func(c *Config) *string { return &c.Log.Level }},
	{"log.format", "CURFEW_LOG_FORMAT", func(c *Config) *string { return &c.Log.Format }},
}

package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

// CredentialKinds lists what azure.credential.kind may be.
var CredentialKinds = []string{"default", "client-secret", "workload-identity", "managed-identity", "cli"}

// Clouds lists what azure.cloud may be.
var Clouds = []string{"public", "government", "china", "custom"}

// Roles lists the roles that a person may have.
var Roles = []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin}

var (
	installationForm = regexp.MustCompile(`^[a-z0-9]{4,12}$`)
	guidForm         = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// Reserved is the name under which the program itself stands in the audit log.
const Reserved = "curfew"

type checker struct {
	c      *Config
	lines  lineIndex
	faults []fault
}

// bad notes a fault of a key. What was set outside the file is named by where it was.
func (k *checker) bad(key, format string, args ...any) {
	f := fault{line: k.lines.of(key), text: key + " " + fmt.Sprintf(format, args...)}
	if from := k.c.sources[key]; from != "" {
		f = fault{text: from + ": " + f.text}
	}
	k.faults = append(k.faults, f)
}

func (k *checker) oneOf(key, v string, known []string) {
	if !slices.Contains(known, v) {
		k.bad(key, "is %q: it may be %s", v, strings.Join(known, ", "))
	}
}

func (k *checker) between(key string, v access.Duration, low, high time.Duration) {
	if d := time.Duration(v); d < low || d > high {
		k.bad(key, "is %s: it may be %s to %s", v, access.Duration(low), access.Duration(high))
	}
}

// check reports every fault of the values, and fills Warnings.
func check(c *Config, lines lineIndex) []fault {
	k := &checker{c: c, lines: lines}
	switch {
	case c.Installation == "":
		k.bad("installation", "is missing: 4 to 12 of a-z and 0-9")
	case !installationForm.MatchString(c.Installation):
		k.bad("installation", "is %q: it must be 4 to 12 of a-z and 0-9", c.Installation)
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil {
		k.bad("listen", "is %q: it must be an address and a port, as 127.0.0.1:7447", c.Listen)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		k.bad("listen", "is %q: its port is not a number up to 65535", c.Listen)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		k.bad("tls", "needs both cert and key")
	}
	for i, p := range c.TrustedProxies {
		switch key := fmt.Sprintf("trusted_proxies[%d]", i); {
		case !p.IsValid():
			k.bad(key, "is not a network")
		case p.Masked() != p:
			k.bad(key, "is %s, which has bits set behind its prefix; is %s meant?", p, p.Masked())
		case p.Bits() == 0:
			k.bad(key, "is %s: then everybody could say where they come from", p)
		}
	}
	if c.DataDir == "" {
		k.bad("data_dir", "is empty")
	}
	k.azure(c.Azure)
	if b := c.Band; b.First < 100 || b.Last > 4096 || b.First >= b.Last {
		k.bad("band", "is %d to %d: it must be a range of at least two priorities from 100 to 4096", b.First, b.Last)
	}
	k.people(c.People)
	k.signIn(c.SignIn)
	k.workloads(c.Workloads)
	k.policy(c.Policy)
	k.between("request_expiry", c.RequestExpiry, 5*time.Minute, 30*24*time.Hour)
	k.between("idempotency_retention", c.KeyRetention, time.Hour, 30*24*time.Hour)
	k.between("sweep_interval", c.SweepInterval, time.Second, 30*time.Second)
	if c.ScanInterval != 0 {
		k.between("scan_interval", c.ScanInterval, 5*time.Minute, 7*24*time.Hour)
	}
	k.between("scan_retention", c.ScanRetention, 24*time.Hour, 1000*24*time.Hour)
	k.audit(c.Audit)
	k.notify(c.Notify)
	k.oneOf("log.level", c.Log.Level, []string{"debug", "info", "warn", "error"})
	k.oneOf("log.format", c.Log.Format, []string{"text", "json"})
	return k.faults
}

// audit keeps what proves the log apart from the log: whoever can put back the one must not put back the other with it.
func (k *checker) audit(a Audit) {
	if a.CheckpointFile != "" && a.SigningKeyFile == "" {
		k.bad("audit.checkpoint_file", "needs audit.signing_key_file: only signed checkpoints are kept")
	}
	for key, file := range map[string]string{"audit.signing_key_file": a.SigningKeyFile, "audit.checkpoint_file": a.CheckpointFile} {
		if file == "" || k.c.DataDir == "" {
			continue
		}
		if rel, err := filepath.Rel(k.c.DataDir, file); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			k.bad(key, "is %s, within data_dir: whoever changes the database there would change it too", file)
		}
	}
	k.between("audit.checkpoint_interval", a.CheckpointInterval, time.Minute, 24*time.Hour)
}

func (k *checker) azure(a Azure) {
	k.oneOf("azure.cloud", a.Cloud, Clouds)
	k.oneOf("azure.credential.kind", a.Credential.Kind, CredentialKinds)
	for key, v := range map[string]string{"azure.endpoint": a.Endpoint, "azure.authority": a.Authority} {
		if a.Cloud != "custom" {
			if v != "" {
				k.bad(key, "is for the custom cloud alone, and azure.cloud is %s", a.Cloud)
			}
			continue
		}
		if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			k.bad(key, "is %q: a custom cloud needs a URL there", v)
		}
	}
	if a.Audience != "" && a.Cloud != "custom" {
		k.bad("azure.audience", "is for the custom cloud alone, and azure.cloud is %s", a.Cloud)
	}
	seen := map[string]bool{}
	for i, s := range a.Subscriptions {
		key := fmt.Sprintf("azure.subscriptions[%d]", i)
		if !guidForm.MatchString(s) {
			k.bad(key, "is %q: a subscription is named by its id, as 00000000-0000-0000-0000-000000000000", s)
		} else if seen[strings.ToLower(s)] {
			k.bad(key, "stands there twice")
		}
		seen[strings.ToLower(s)] = true
	}
	cr := a.Credential
	if cr.Kind == "client-secret" && (a.Tenant == "" || cr.ClientID == "" || cr.ClientSecretFile == "") {
		k.bad("azure.credential", "of kind client-secret needs azure.tenant, client_id and client_secret_file")
	}
	if cr.ClientSecretFile != "" && cr.Kind != "client-secret" {
		k.bad("azure.credential.client_secret_file", "is for kind client-secret alone")
	}
	if cr.TokenFile != "" && cr.Kind != "workload-identity" {
		k.bad("azure.credential.token_file", "is for kind workload-identity alone")
	}
}

func (k *checker) people(people []Person) {
	names, hashes, subjects := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, p := range people {
		at := fmt.Sprintf("people[%d]", i)
		low := strings.ToLower(p.Name)
		switch {
		case p.Name == "":
			k.bad(at+".name", "is missing")
		case strings.TrimSpace(p.Name) != p.Name || len(p.Name) > 100 || strings.ContainsFunc(p.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
			k.bad(at+".name", "is %q: it must be up to 100 printable bytes without blanks around it", p.Name)
		case low == Reserved:
			k.bad(at+".name", "is %q, the name under which the program itself stands in the audit log", p.Name)
		case names[low]:
			k.bad(at+".name", "is %q, which is somebody's already: names are compared without case", p.Name)
		}
		names[low] = true
		if p.Email != "" {
			if _, err := notify.ParseEmailAddress(p.Email); err != nil {
				k.bad(at+".email", "is %q: %v", p.Email, err)
			}
		}
		if len(p.Roles) == 0 {
			k.bad(at+".roles", "is missing: %s may do nothing", p.Name)
		}
		for j, r := range p.Roles {
			if !slices.Contains(Roles, r) {
				k.bad(fmt.Sprintf("%s.roles[%d]", at, j), "is %q: it may be requester, approver, auditor or admin", r)
			}
		}
		if p.Subject != "" && subjects[strings.ToLower(p.Subject)] {
			k.bad(at+".subject", "is another person's too")
		}
		subjects[strings.ToLower(p.Subject)] = true
		if p.TokenSHA256 == "" && p.Subject != "" {
			if k.c.SignIn.Issuer == "" {
				k.bad(at+".subject", "is of an account at an issuer, and sign_in names none")
			}
			continue
		}
		b, err := hex.DecodeString(p.TokenSHA256)
		switch {
		case p.TokenSHA256 == "":
			k.bad(at+".token_sha256", "is missing, and subject too: %s could not sign in", p.Name)
		case err != nil || len(b) != 32:
			k.bad(at+".token_sha256", "is not a SHA-256: 64 hexadecimal digits, from: printf %%s TOKEN | sha256sum")
		case hashes[strings.ToLower(p.TokenSHA256)]:
			k.bad(at+".token_sha256", "is another person's too: a token must tell who is calling")
		}
		hashes[strings.ToLower(p.TokenSHA256)] = true
	}
}

// policy reports the faults of the policy, and warns of names that nobody has.
func (k *checker) policy(p policy.Document) {
	for _, f := range p.Check() {
		line := f.Line
		if line == 0 {
			line = k.lines.of("policy")
		}
		f.File, f.Line, f.Column = "", 0, 0
		k.faults = append(k.faults, fault{line: line, text: "policy: " + f.String()})
	}
	for at, r := range p.All() {
		at = "policy." + at
		for j, s := range r.Subscriptions {
			if !guidForm.MatchString(s) {
				k.bad(fmt.Sprintf("%s.subscriptions[%d]", at, j), "is %q: a subscription is named by its id", s)
			}
		}
		k.known(at, "requesters", r.Requesters, access.Requester)
		k.known(at, "approvers", r.Approvers, access.Approver)
		for _, step := range r.Steps {
			k.known(at, "steps", append(slices.Clone(step.Approvers), step.EscalateTo...), access.Approver)
		}
		if r.BreakGlass != nil {
			k.known(at, "break_glass", r.BreakGlass.Requesters, access.Requester)
		}
	}
	if len(p.Rules) == 0 && k.c.PolicyFile == "" {
		k.c.Warnings = append(k.c.Warnings, "the policy has no rules: every request is denied")
	}
	if k.c.PolicyFile != "" && (len(p.Rules) > 0 || len(p.Groups) > 0) {
		k.bad("policy_file", "stands beside policy: write the policy in one place")
	}
}

// known warns of names that nobody has who could use them: a spelling, most likely.
func (k *checker) known(at, key string, names []string, role access.Role) {
	for _, n := range names {
		if policy.IsGroup(n) {
			continue // known to the policy, or its fault
		}
		i := slices.IndexFunc(k.c.People, func(p Person) bool { return access.SamePerson(p.Name, n) })
		switch {
		case i < 0 && k.c.SignIn.Issuer != "": // somebody who signs in
		case i < 0:
			k.c.Warnings = append(k.c.Warnings, fmt.Sprintf("%s.%s names %q, and nobody under people is called so", at, key, n))
		case !slices.Contains(k.c.People[i].Roles, role):
			k.c.Warnings = append(k.c.Warnings, fmt.Sprintf("%s.%s names %q, who has not the role %s", at, key, n, role))
		}
	}
}

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// entraHosts are those of Entra's issuers, in all of its clouds.
var entraHosts = []string{"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn", "login.windows.net", "sts.windows.net"}

// graphs are where Microsoft Graph is, in the clouds where it is elsewhere than by default.
var graphs = map[string]string{"login.microsoftonline.us": "https://graph.microsoft.us", "login.partner.microsoftonline.cn": "https://microsoftgraph.chinacloudapi.cn",
	"login.microsoftonline.com": "https://graph.microsoft.com"}

// plainURL refuses what is no https URL; http is for addresses of this machine alone.
func plainURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return errors.New("it must be a URL like https://login.example.com")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("it must begin with https://")
	}
	if a, err := netip.ParseAddr(u.Hostname()); strings.EqualFold(u.Hostname(), "localhost") || err == nil && a.Unmap().IsLoopback() {
		return nil
	}
	return errors.New("it must begin with https://, because tokens travel there; http is for addresses of this machine alone")
}

// Tenanted returns the tenants whose people may sign in: those that are named, or the one that stands in Entra's name of the issuer.
func (s SignIn) Tenanted() []string {
	if len(s.Tenants) > 0 {
		return s.Tenants
	}
	if u, err := url.Parse(s.Issuer); err == nil && slices.Contains(entraHosts, strings.ToLower(u.Hostname())) {
		if t, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/"); guidForm.MatchString(t) {
			return []string{t}
		}
	}
	return nil
}

func (k *checker) signIn(s SignIn) {
	if s.Issuer == "" {
		if s.ClientID != "" || s.PublicURL != "" || len(s.Roles) > 0 || s.ClientSecretFile != "" {
			k.bad("sign_in.issuer", "is missing, and the rest of sign_in means nothing without it")
		}
		return
	}
	for key, v := range map[string]string{"sign_in.issuer": s.Issuer, "sign_in.public_url": s.PublicURL, "sign_in.graph": s.Graph} {
		if v == "" {
			k.bad(key, "is missing")
		} else if err := plainURL(v); err != nil {
			k.bad(key, "is %q: %v", v, err)
		}
	}
	if u, err := url.Parse(s.PublicURL); err == nil && strings.Trim(u.Path, "/") != "" {
		k.bad("sign_in.public_url", "is %q: this server answers at the root of its host", s.PublicURL)
	}
	if s.ClientID == "" {
		k.bad("sign_in.client_id", "is missing: which application is this server at the issuer?")
	}
	if u, err := url.Parse(s.Issuer); err == nil && slices.Contains(entraHosts, strings.ToLower(u.Hostname())) {
		if len(s.Tenanted()) == 0 {
			k.bad("sign_in.tenants", "is missing, and the issuer names no tenant: anybody with an account at Microsoft could come")
		}
		if !strings.HasSuffix(strings.TrimRight(s.Issuer, "/"), "/v2.0") {
			k.bad("sign_in.issuer", "is %q: Entra's issuers end in /v2.0", s.Issuer)
		}
	}
	for host, graph := range graphs {
		if u, err := url.Parse(s.Issuer); err == nil && strings.EqualFold(u.Hostname(), host) && strings.TrimRight(s.Graph, "/") != graph {
			k.c.Warnings = append(k.c.Warnings, fmt.Sprintf("sign_in.graph is %s, and the Graph of %s is %s: people in more groups than a token holds could not sign in", s.Graph, host, graph))
		}
	}
	for i, t := range s.Tenants {
		if !guidForm.MatchString(t) {
			k.bad(fmt.Sprintf("sign_in.tenants[%d]", i), "is %q: a tenant is named by its id", t)
		}
	}
	if s.GroupsClaim == "" || s.RolesClaim == "" {
		k.bad("sign_in", "needs groups_claim and roles_claim")
	}
	ids := map[string]bool{}
	for i, g := range s.GroupNames {
		at := fmt.Sprintf("sign_in.group_names[%d]", i)
		if g.ID == "" || g.Name == "" {
			k.bad(at, "needs id and name")
		} else if ids[strings.ToLower(g.ID)] {
			k.bad(at+".id", "is %q, which has a name already", g.ID)
		}
		ids[strings.ToLower(g.ID)] = true
	}
	for i, r := range s.Roles {
		at := fmt.Sprintf("sign_in.roles[%d]", i)
		if !slices.Contains(Roles, r.Role) {
			k.bad(at+".role", "is %q: it may be requester, approver, auditor or admin", r.Role)
		}
		if len(r.AppRoles)+len(r.Groups) == 0 || slices.Contains(slices.Concat(r.AppRoles, r.Groups), "") {
			k.bad(at, "needs app_roles or groups, none of them empty")
		}
	}
	if len(s.Roles) == 0 && !slices.ContainsFunc(k.c.People, func(p Person) bool { return p.Subject != "" }) {
		k.c.Warnings = append(k.c.Warnings, "sign_in gives no role to anybody: nobody can sign in")
	}
	if len(s.Scopes) > 0 && !slices.Contains(s.Scopes, "offline_access") {
		k.c.Warnings = append(k.c.Warnings, "sign_in.scopes lacks offline_access: sessions will end after five minutes, because they cannot be confirmed")
	}
	k.between("sign_in.session_life", s.SessionLife, 5*time.Minute, 7*24*time.Hour)
	k.between("sign_in.confirm_after", s.ConfirmAfter, 10*time.Second, 5*time.Minute)
}

func (k *checker) workloads(ws []Workload) {
	names := map[string]bool{}
	for i, w := range ws {
		at := fmt.Sprintf("workloads[%d]", i)
		for key, v := range map[string]string{"name": w.Name, "issuer": w.Issuer, "audience": w.Audience, "sponsor": w.Sponsor} {
			if v == "" {
				k.bad(at+"."+key, "is missing")
			}
		}
		if w.Issuer != "" {
			if err := plainURL(w.Issuer); err != nil {
				k.bad(at+".issuer", "is %q: %v", w.Issuer, err)
			}
		}
		if names[strings.ToLower(w.Name)] {
			k.bad(at+".name", "is %q, which another workload is called already", w.Name)
		}
		names[strings.ToLower(w.Name)] = true
		if w.Subject == "" && len(w.Claims) == 0 {
			k.bad(at, "needs subject or claims: any token of its issuer would do")
		}
		for j, c := range w.Claims {
			if c.Claim == "" || c.Value == "" {
				k.bad(fmt.Sprintf("%s.claims[%d]", at, j), "needs claim and value")
			}
		}
		if len(w.Roles) == 0 {
			k.bad(at+".roles", "is missing: %s may do nothing", w.Name)
		}
		for j, r := range w.Roles {
			if r == access.Approver {
				k.bad(fmt.Sprintf("%s.roles[%d]", at, j), "is approver: a program never approves")
			} else if !slices.Contains(Roles, r) {
				k.bad(fmt.Sprintf("%s.roles[%d]", at, j), "is %q: it may be requester, auditor or admin", r)
			}
		}
	}
}

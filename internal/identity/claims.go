package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// claims are those of a token whose signature was checked.
type claims map[string]json.RawMessage

// text returns a claim that must be a text where it is there.
func (c claims) text(name string) (string, error) {
	raw, ok := c[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", fmt.Errorf("its claim %s is no text", name)
	}
	return s, nil
}

// texts returns a claim that must be a text or a list of texts where it is there.
func (c claims) texts(name string) ([]string, error) {
	raw, ok := c[name]
	if !ok || string(raw) == "null" {
		return nil, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return list, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	return nil, fmt.Errorf("its claim %s is neither a text nor a list of texts", name)
}

func (c claims) instant(name string) (time.Time, error) {
	raw, ok := c[name]
	if !ok {
		return time.Time{}, nil
	}
	var n float64
	if json.Unmarshal(raw, &n) != nil || n < 0 || n > 1e11 {
		return time.Time{}, fmt.Errorf("its claim %s is no time", name)
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

// times checks exp, nbf and iat against the clock. A token that was given just now must have been made just now: otherwise one of
// the clocks is wrong, and nothing that either says about time can be believed.
func (c claims) times(now time.Time, fresh bool) error {
	exp, err := c.instant("exp")
	if err != nil {
		return err
	}
	nbf, err := c.instant("nbf")
	if err != nil {
		return err
	}
	iat, err := c.instant("iat")
	if err != nil {
		return err
	}
	clocks := "one of the clocks is wrong, the issuer's or this server's"
	ahead := iat
	if nbf.After(ahead) {
		ahead = nbf
	}
	switch {
	case exp.IsZero():
		return errors.New("it has no end")
	case ahead.After(now.Add(leeway)):
		return fmt.Errorf("it is good only in %s: %s", ahead.Sub(now).Round(time.Second), clocks)
	case !now.Before(exp.Add(leeway)) && fresh:
		return fmt.Errorf("it was over %s ago when the issuer gave it: %s", now.Sub(exp).Round(time.Second), clocks)
	case !now.Before(exp.Add(leeway)):
		return fmt.Errorf("it was over %s ago", now.Sub(exp).Round(time.Second))
	case fresh && iat.IsZero():
		return errors.New("it does not say when it was made")
	case fresh && now.Sub(iat) > freshness:
		return fmt.Errorf("it was made %s ago and given now: %s", now.Sub(iat).Round(time.Second), clocks)
	}
	return nil
}

// person is somebody whom the issuer vouches for.
type person struct {
	Key    string        `json:"key"`
	Name   string        `json:"name"`
	Given  bool          `json:"given,omitempty"` // the configuration gives the name to this subject
	Roles  []access.Role `json:"roles"`
	Groups []string      `json:"groups"`
}

// untrusted says that a token of the issuer's cannot be believed. The caller learns why: it helps whoever set the server up, and
// tells nobody anything about anybody else.
func untrusted(why error) error {
	if isDown(why) {
		return why
	}
	return access.Errorf(access.CodeUnauthenticated, "the issuer's token cannot be believed: %s", shorten(why.Error())).
		WithHint("sign in again; if that does not help, an admin looks at sign_in in the configuration")
}

// verify checks an id_token that the issuer has just given and returns whom it is about. nonce is "" where the flow has none.
func (m *Manager) verify(ctx context.Context, d metadata, keys *keySet, t tokens, nonce string) (person, error) {
	if t.ID == "" {
		return person{}, untrusted(errors.New("there is none: the answer holds no id_token"))
	}
	if len(t.ID) > maxAnswer {
		return person{}, untrusted(errors.New("it is too large"))
	}
	v := oidc.NewVerifier(d.Issuer, keys, &oidc.Config{ClientID: m.issuer.ClientID, SupportedSigningAlgs: algorithmNames(),
		SkipExpiryCheck: true, SkipIssuerCheck: true}) // both below: with a leeway of our own, and the tenant in the name
	idt, err := v.Verify(ctx, t.ID)
	if err != nil {
		var down *access.Error
		if errors.As(err, &down) {
			return person{}, down
		}
		return person{}, untrusted(err)
	}
	var c claims
	if err := idt.Claims(&c); err != nil {
		return person{}, untrusted(err)
	}
	tenant, err := m.checkIssuer(d, idt, c)
	if err == nil {
		err = c.times(m.clock.Now(), true)
	}
	if err == nil && nonce != "" && idt.Nonce != nonce {
		err = errors.New("it is for another sign-in: its nonce is not the one that was sent")
	}
	if err == nil {
		err = m.checkParty(idt, c)
	}
	if err != nil {
		return person{}, untrusted(err)
	}
	p := person{Key: "iss=" + idt.Issuer + " sub=" + idt.Subject}
	subjects := []string{idt.Subject}
	if tenant != "" {
		oid, err := c.text("oid")
		if err != nil || oid == "" {
			return person{}, untrusted(errors.New("it has no oid, by which Entra's accounts are known"))
		}
		p.Key = "tid=" + strings.ToLower(tenant) + " oid=" + strings.ToLower(oid)
		subjects = []string{tenant + "/" + oid}
		if len(m.issuer.Tenants) == 1 {
			subjects = append(subjects, oid)
		}
	}
	if idt.Subject == "" {
		return person{}, untrusted(errors.New("it does not say whom it is about"))
	}
	if p.Name, err = m.name(c); err != nil {
		return person{}, untrusted(err)
	}
	roles, err := c.texts(m.issuer.RolesClaim)
	if err != nil {
		return person{}, untrusted(err)
	}
	groups, err := m.groups(ctx, c, t.Access)
	if err != nil {
		return person{}, err
	}
	p.Groups = m.named(groups)
	m.assign(&p, roles, subjects, tenant != "")
	return p, nil
}

// checkIssuer checks who made the token and, for Entra, for which tenant, which it returns.
func (m *Manager) checkIssuer(d metadata, idt *oidc.IDToken, c claims) (string, error) {
	tid, err := c.text("tid")
	if err != nil {
		return "", err
	}
	want := d.Issuer
	if len(m.issuer.Tenants) > 0 {
		if tid == "" {
			return "", errors.New("it does not say of which tenant it is")
		}
		if !slices.ContainsFunc(m.issuer.Tenants, func(t string) bool { return strings.EqualFold(t, tid) }) {
			return "", fmt.Errorf("it is of tenant %.64q, which is not among those that may sign in here", tid)
		}
		want = strings.ReplaceAll(want, tenantIn, tid)
	} else {
		tid = ""
	}
	if idt.Issuer != want {
		return "", fmt.Errorf("it is of another issuer, %.200q", idt.Issuer)
	}
	return tid, nil
}

// checkParty checks that the token was made for us and nobody else (OpenID Connect Core 1.0, 3.1.3.7).
func (m *Manager) checkParty(idt *oidc.IDToken, c claims) error {
	azp, err := c.text("azp")
	switch {
	case err != nil:
		return err
	case azp != "" && azp != m.issuer.ClientID:
		return fmt.Errorf("it was made for another application, %.100q", azp)
	case azp == "" && len(idt.Audience) != 1:
		return errors.New("it is for several applications and does not say for which it was made")
	}
	return nil
}

// name returns what the person is called by the issuer. It is a name and no key.
func (m *Manager) name(c claims) (string, error) {
	from := []string{"preferred_username", "upn", "email", "sub"}
	if m.issuer.NameClaim != "" {
		from = []string{m.issuer.NameClaim}
	}
	for _, claim := range from {
		s, err := c.text(claim)
		if err != nil {
			return "", err
		}
		if s = strings.TrimSpace(s); s != "" {
			return s, nil
		}
	}
	return "", fmt.Errorf("it has no claim %s, from which a name could be taken", strings.Join(from, ", "))
}

// named adds to groups the names that the configuration has for them. What the issuer itself calls by one of these names is left out:
// the name means the group of the configuration, and in many directories anybody can make a group of any name.
func (m *Manager) named(groups []string) []string {
	var out []string
	for _, g := range groups {
		if g == "" || slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, g) }) {
			continue
		}
		alias := ""
		taken := false
		for id, name := range m.issuer.GroupNames {
			if strings.EqualFold(id, g) {
				alias = name
			} else if strings.EqualFold(name, g) {
				taken = true
			}
		}
		if taken {
			continue
		}
		out = append(out, g)
		if alias != "" && !strings.EqualFold(alias, g) {
			out = append(out, alias)
		}
	}
	return out
}

// assign gives the person their roles, and their name if the configuration has one for them.
func (m *Manager) assign(p *person, appRoles, subjects []string, fold bool) {
	has := map[access.Role]bool{}
	in := func(list []string, of string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, of) })
	}
	for _, r := range m.issuer.Roles {
		if slices.ContainsFunc(r.AppRoles, func(s string) bool { return slices.Contains(appRoles, s) }) ||
			slices.ContainsFunc(r.Groups, func(g string) bool { return in(p.Groups, g) }) {
			has[r.Role] = true
		}
	}
	for _, q := range m.cfg.People {
		if q.Subject != "" && (slices.Contains(subjects, q.Subject) || fold && in(subjects, q.Subject)) {
			p.Name, p.Given = q.Name, true
			for _, r := range q.Roles {
				has[r] = true
			}
		}
	}
	p.Roles = []access.Role{}
	for _, r := range []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin} {
		if has[r] {
			p.Roles = append(p.Roles, r)
		}
	}
}

// admit tells whether the person may come in.
func (m *Manager) admit(p person) error {
	if !p.Given {
		if m.reserved(p.Name) {
			return access.Errorf(access.CodeDenied, "the name %s is somebody's of the configuration", p.Name).
				WithHint("if that is you, an admin adds your account's subject to the entry under people")
		}
		if err := broker.CheckPersonName(p.Name); err != nil {
			return err
		}
	}
	if len(p.Roles) == 0 {
		return access.Errorf(access.CodeDenied, "%s has no role here: none of the groups and application roles that the issuer tells gives one", p.Name).
			WithHint("an admin gives roles to groups and application roles under sign_in.roles")
	}
	return nil
}

// reserved tells whether a name is of the configuration.
func (m *Manager) reserved(name string) bool {
	return slices.ContainsFunc(m.cfg.People, func(q Person) bool { return access.SamePerson(q.Name, name) })
}

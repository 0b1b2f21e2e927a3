package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// Workload is a program that calls with a token of an issuer of its own: a pipeline, a pod, a managed identity.
type Workload struct {
	Name     string
	Issuer   string
	Audience string
	Subject  string            // exactly; "": not looked at, then Claims must say who it is
	Claims   map[string]string // each exactly
	Roles    []access.Role     // never approver
	Sponsor  string            // the person who answers for it, and does not decide on what it asks for (P6)
}

func (w Workload) check() error {
	switch {
	case w.Name == "" || w.Issuer == "" || w.Audience == "" || w.Sponsor == "":
		return fmt.Errorf("the workload %q needs a name, an issuer, an audience and a sponsor", w.Name)
	case w.Subject == "" && len(w.Claims) == 0:
		return fmt.Errorf("the workload %q needs a subject or claims: every token of its issuer would do", w.Name)
	case len(w.Roles) == 0 || slices.Contains(w.Roles, access.Approver):
		return fmt.Errorf("the workload %q needs roles, and approver is none: a program never approves", w.Name)
	}
	return CheckIssuerURL(w.Issuer)
}

// trusted is an issuer of workloads' tokens.
type trusted struct {
	provider  *provider
	workloads []Workload
}

// workload says which program calls with a federated token.
func (m *Manager) workload(ctx context.Context, raw string) (access.Caller, error) {
	refused := func(why error) (access.Caller, error) {
		return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the federated token is not taken: %s", shorten(why.Error())).
			WithHint("it must be of an issuer, for the audience and about the subject of an entry under workloads, and not be over")
	}
	// Who made it is read before it is checked, to know whose keys to check it with: nothing else is believed yet.
	iss, err := issuerOf(raw)
	if err != nil {
		return refused(err)
	}
	t := m.workloads[iss]
	if t == nil {
		return refused(errors.New("its issuer is not among those of workloads"))
	}
	d, keys, err := t.provider.get(ctx)
	if err != nil {
		return access.Caller{}, err
	}
	idt, err := oidc.NewVerifier(d.Issuer, keys, &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: algorithmNames(), SkipExpiryCheck: true}).Verify(ctx, raw)
	if err != nil {
		var unreachable *access.Error
		if errors.As(err, &unreachable) {
			return access.Caller{}, unreachable
		}
		return refused(err)
	}
	var c claims
	if err := idt.Claims(&c); err != nil {
		return refused(err)
	}
	if err := c.times(m.clock.Now(), false); err != nil {
		return refused(err)
	}
	var found []Workload
	audience := false
	for _, w := range t.workloads {
		if !slices.Contains(idt.Audience, w.Audience) {
			continue
		}
		audience = true
		if w.matches(idt.Subject, c) {
			found = append(found, w)
		}
	}
	switch {
	case !audience:
		return refused(errors.New("it is for another audience"))
	case len(found) == 0:
		return refused(errors.New("no workload has its subject and claims"))
	case len(found) > 1:
		return refused(fmt.Errorf("it is of several workloads, %s and %s", found[0].Name, found[1].Name))
	}
	w := found[0]
	var roles []access.Role
	for _, r := range w.Roles {
		if r != access.Approver {
			roles = append(roles, r)
		}
	}
	return access.Caller{Name: broker.WorkloadPrefix + w.Name, Roles: roles, Kind: access.Workload, Sponsor: w.Sponsor}, nil
}

func (w Workload) matches(subject string, c claims) bool {
	if w.Subject != "" && w.Subject != subject {
		return false
	}
	for name, want := range w.Claims {
		if got, err := c.text(name); err != nil || got != want || got == "" {
			return false
		}
	}
	return w.Subject != "" || len(w.Claims) > 0
}

func issuerOf(raw string) (string, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return "", errors.New("it is no signed token")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("it is not readable")
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(b, &c) != nil {
		return "", errors.New("it is not readable")
	}
	return c.Issuer, nil
}

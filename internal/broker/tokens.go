package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"slices"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// SecretPrefix begins every API token, so that secret scanners find one that was left somewhere.
const SecretPrefix = "curfew_"

// How long an API token may be good for.
const (
	DefaultTokenLife = 30 * 24 * time.Hour
	MaxTokenLife     = 365 * 24 * time.Hour
)

// APIToken is a token for a program. Its secret is not kept, only its hash, which is its id in the store.
type APIToken struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Roles      []access.Role `json:"roles"`
	Sponsor    string        `json:"sponsor"`               // the person who made it and answers for it
	SponsorKey string        `json:"sponsor_key,omitempty"` // of their account; "": somebody of the configuration
	CreatedAt  time.Time     `json:"created_at"`
	ExpiresAt  time.Time     `json:"expires_at"`
	FirstUsed  time.Time     `json:"first_used"`
	LastUsed   time.Time     `json:"last_used"` // to the hour
}

// TokenInput asks for an API token.
type TokenInput struct {
	Name  string        // [a-z0-9._-], up to 40
	Roles []access.Role // of those that the creator has; never approver: a program never approves
	Life  time.Duration // default 30 days
}

var tokenName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,39}$`)

// HashSecret is how secrets of high entropy are kept.
func HashSecret(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

// NewSecret returns a secret with 256 random bits.
func NewSecret(prefix string) string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand
	return prefix + base64.RawURLEncoding.EncodeToString(raw[:])
}

// CreateToken implements Service.
func (b *Broker) CreateToken(ctx context.Context, c access.Caller, in TokenInput) (tok APIToken, secret string, err error) {
	const action = "token.create"
	if err := b.needPerson(ctx, c, action, in.Name, access.Admin); err != nil { // a program would have nobody answer for its token
		return tok, "", err
	}
	if in.Life == 0 {
		in.Life = DefaultTokenLife
	}
	switch {
	case !tokenName.MatchString(in.Name):
		return tok, "", invalid("name", "a token's name is 1 to 40 of a-z, 0-9, dot, dash and underscore").WithHint("name it after what uses it, as ci-deploy")
	case len(in.Roles) == 0:
		return tok, "", invalid("roles", "a token without a role may do nothing").WithHint("name its roles: requester, auditor or admin")
	case in.Life < time.Minute || in.Life > MaxTokenLife:
		return tok, "", invalid("expires", "a token is good for a minute to %s", access.Duration(MaxTokenLife)).WithHint("leave it out for %s", access.Duration(DefaultTokenLife))
	}
	for _, r := range in.Roles {
		switch {
		case r == access.Approver:
			return tok, "", b.refuse(ctx, c, action, in.Name, access.Errorf(access.CodeDenied, "a token cannot have the role approver: a program never approves").
				WithHint("let a person approve, or let a rule of the policy do without approval"))
		case !slices.Contains(anyRole, r):
			return tok, "", invalid("roles", "there is no role %.40q", r).WithHint("the roles of tokens are requester, auditor and admin")
		case !c.Has(r):
			return tok, "", b.refuse(ctx, c, action, in.Name, access.Errorf(access.CodeDenied, "%s has not the role %s, and cannot give it to a token", c.Name, r).
				WithHint("an admin who has it can make the token"))
		}
	}
	now := b.Now()
	roles := slices.Clone(in.Roles)
	slices.Sort(roles)
	tok = APIToken{ID: "t-" + newID(), Name: in.Name, Roles: slices.Compact(roles), Sponsor: c.Name, CreatedAt: now, ExpiresAt: now.Add(in.Life)}
	secret = NewSecret(SecretPrefix)
	err = b.update(ctx, func(tx Tx) error {
		all, err := tx.Records(RecordToken, "")
		if err != nil {
			return err
		}
		for _, r := range all {
			o, err := readDoc[APIToken](r)
			if err != nil {
				return err
			}
			if o.Name == tok.Name && now.Before(o.ExpiresAt) {
				return access.Errorf(access.CodeConflict, "there is a token %s already, %s of %s", o.Name, o.ID, o.Sponsor).
					WithHint("revoke it first, with: curfew token revoke %s; or choose another name", o.ID)
			}
		}
		if len(all) >= 1000 {
			return access.Errorf(access.CodeRateLimited, "there are %d tokens, which is as many as there may be", len(all)).WithHint("revoke some with: curfew token revoke ID")
		}
		if c.Session != "" {
			acc, _, ok, err := accountByName(tx, c.Name)
			if err != nil {
				return err
			}
			if !ok {
				return access.Errorf(access.CodeConflict, "your account was released").WithHint("sign in again with: curfew login")
			}
			tok.SponsorKey = acc.Key
		}
		if err := putDoc(tx, Record{Kind: RecordToken, ID: HashSecret(secret), Owner: foldName(c.Name), Expires: tok.ExpiresAt}, tok); err != nil {
			return err
		}
		_, err = tx.Append(detail(b.entry(c, action, audit.Done, tok.ID, "%s makes the token %s as %s, good until %s", c.Name, tok.Name, roleWords(tok.Roles),
			access.Clock(tok.ExpiresAt)), "sponsor", c.Name))
		return err
	})
	if err != nil {
		return APIToken{}, "", err
	}
	return tok, secret, nil
}

// Tokens implements Service.
func (b *Broker) Tokens(ctx context.Context, c access.Caller) (out []APIToken, err error) {
	if err := b.need(ctx, c, "token.read", "", access.Auditor, access.Admin); err != nil {
		return nil, err
	}
	now := b.Now()
	err = b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordToken, "")
		for _, r := range rs {
			t, derr := readDoc[APIToken](r)
			if derr != nil {
				return derr
			}
			if now.Before(t.ExpiresAt) {
				out = append(out, t)
			}
		}
		return err
	})
	return out, err
}

// RevokeToken implements Service.
func (b *Broker) RevokeToken(ctx context.Context, c access.Caller, id, comment string) error {
	const action = "token.revoke"
	if err := b.need(ctx, c, action, id, access.Admin); err != nil {
		return err
	}
	comment, err := checkComment(comment)
	if err != nil {
		return err
	}
	return b.update(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordToken, "")
		if err != nil {
			return err
		}
		for _, r := range rs {
			t, err := readDoc[APIToken](r)
			if err != nil {
				return err
			}
			if t.ID != id && t.Name != id {
				continue
			}
			if err := tx.DropRecord(RecordToken, r.ID); err != nil {
				return err
			}
			_, err = tx.Append(detail(b.entry(c, action, audit.Done, t.ID, "%s revokes the token %s of %s", c.Name, t.Name, t.Sponsor), "comment", comment))
			return err
		}
		return notFound("token", short(id))
	})
}

// TokenCaller says who calls with an API token, or access.CodeUnauthenticated. The token has no role that its sponsor has not, as far
// as is known: of somebody who was kept out, released or is no longer in the configuration, it is worth nothing.
func (b *Broker) TokenCaller(ctx context.Context, secret string) (access.Caller, error) {
	hash, now := HashSecret(secret), b.Now()
	refused := access.Errorf(access.CodeUnauthenticated, "the API token is not known here, or was revoked or is over").WithHint("an admin makes another with: curfew token create NAME")
	var tok APIToken
	var roles []access.Role
	err := b.view(ctx, func(tx Tx) error {
		r, err := tx.Record(RecordToken, hash)
		if err != nil {
			return err
		}
		if tok, err = readDoc[APIToken](r); err != nil {
			return err
		}
		roles, err = b.sponsored(tx, tok)
		return err
	})
	switch {
	case access.CodeOf(err) == access.CodeNotFound, err == nil && !now.Before(tok.ExpiresAt):
		return access.Caller{}, refused
	case err != nil:
		return access.Caller{}, err
	case len(roles) == 0:
		return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "the API token %s is worth nothing: %s, who answers for it, has no such role any more", tok.Name, tok.Sponsor).
			WithHint("another admin makes a new one with: curfew token create %s", tok.Name)
	}
	if tok.FirstUsed.IsZero() || now.Sub(tok.LastUsed) >= time.Hour {
		if err := b.tokenUsed(ctx, hash, now); err != nil {
			return access.Caller{}, err // P7: what is not recorded has no effect
		}
	}
	return access.Caller{Name: TokenPrefix + tok.Name, Roles: roles, Kind: access.APIToken, Sponsor: tok.Sponsor}, nil
}

// sponsored returns those of a token's roles that its sponsor has too.
func (b *Broker) sponsored(tx Tx, t APIToken) ([]access.Role, error) {
	var has []access.Role
	if t.SponsorKey != "" {
		acc, _, ok, err := accountByName(tx, t.Sponsor)
		if err != nil || !ok || acc.Key != t.SponsorKey || acc.Barred() {
			return nil, err
		}
		has = acc.Roles
	} else if b.cfg.People != nil {
		for _, p := range b.cfg.People() {
			if access.SamePerson(p.Name, t.Sponsor) {
				has = p.Roles
			}
		}
	}
	var out []access.Role
	for _, r := range t.Roles {
		if r != access.Approver && slices.Contains(has, r) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (b *Broker) tokenUsed(ctx context.Context, hash string, now time.Time) error {
	return b.update(ctx, func(tx Tx) error {
		r, err := tx.Record(RecordToken, hash)
		if err != nil {
			return err
		}
		t, err := readDoc[APIToken](r)
		if err != nil {
			return err
		}
		first := t.FirstUsed.IsZero()
		if first {
			t.FirstUsed = now
		}
		t.LastUsed = now
		if err := putDoc(tx, Record{Kind: r.Kind, ID: r.ID, Owner: r.Owner, Expires: r.Expires, Version: r.Version}, t); err != nil || !first {
			return err
		}
		_, err = tx.Append(b.entry(access.Caller{Name: TokenPrefix + t.Name}, "token.use", audit.Done, t.ID, "the token %s of %s is used for the first time", t.Name, t.Sponsor))
		return err
	})
}

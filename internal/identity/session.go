package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// justNow is how old a confirmation may be that Current passes on.
const justNow = 30 * time.Second

// begin opens a session of a person who has just been verified, and returns it with its token, which exists nowhere else.
func (m *Manager) begin(ctx context.Context, p person, refresh, via string, from netip.Addr) (broker.Session, string, error) {
	token := broker.NewSecret(SessionPrefix)
	hash := broker.HashSecret(token)
	now := m.acc.Now()
	s := broker.Session{Name: p.Name, Key: p.Key, Roles: p.Roles, Groups: p.Groups, Given: p.Given, Via: via, EndsAt: now.Add(m.issuer.SessionLife), Refresh: m.seal.close(refresh, hash)}
	if from.IsValid() {
		s.From = from.String()
	}
	if refresh == "" {
		s.EndsAt = now.Add(unrefreshed)
		m.log.Warn("the issuer gave no refresh token, so that a session ends after five minutes: the application needs offline_access", "person", p.Name)
	}
	s, err := m.acc.OpenSession(ctx, hash, s, m.reserved)
	if err != nil {
		return broker.Session{}, "", err
	}
	return s, token, nil
}

// use returns the session of a token, confirmed by the issuer no longer ago than the configuration allows. While the issuer does not
// answer it goes on as it was.
func (m *Manager) use(ctx context.Context, hash string) (broker.Session, error) {
	if m.issuer == nil {
		return broker.Session{}, access.Errorf(access.CodeUnauthenticated, "nobody signs in through an issuer here any more").
			WithHint("send the token that an admin gave you")
	}
	s, err := m.acc.SessionByHash(ctx, hash)
	if err != nil {
		return s, err
	}
	if !s.Given && m.reserved(s.Name) { // it is given to somebody else since, and two people of one name are one to every rule
		return broker.Session{}, access.Errorf(access.CodeUnauthenticated, "your session is over: the name %s is now somebody's of the configuration", s.Name).
			WithHint("an admin releases the name that you had; then sign in again with: curfew login")
	}
	if m.confirmed(s, m.issuer.ConfirmAfter) || len(s.Refresh) == 0 || m.isDownNow() {
		return s, nil
	}
	out, err := m.confirm(ctx, hash, m.issuer.ConfirmAfter)
	if isDown(err) {
		return m.acc.SessionByHash(ctx, hash) // it may have been ended meanwhile
	}
	return out, err
}

func (m *Manager) confirmed(s broker.Session, within time.Duration) bool {
	age := m.acc.Now().Sub(s.ConfirmedAt)
	return age >= 0 && age < within
}

func (m *Manager) isDownNow() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock.Now().Before(m.down)
}

// confirm asks the issuer about the person of a session, once for all who wait for it. It goes on when they do not: the answer
// may hold the only good refresh token.
func (m *Manager) confirm(ctx context.Context, hash string, within time.Duration) (broker.Session, error) {
	ch := m.flights.DoChan(hash, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exchangeTime)
		defer cancel()
		s, err := m.acc.SessionByHash(ctx, hash)
		if err != nil || m.confirmed(s, within) {
			return s, err
		}
		return m.renew(ctx, s)
	})
	select {
	case <-ctx.Done():
		return broker.Session{}, down(m.provider.name(), ctx.Err())
	case <-m.clock.After(renewTime):
		err := down(m.provider.name(), errors.New("it takes long"))
		m.noteDown(err)
		return broker.Session{}, err
	case r := <-ch:
		s, _ := r.Val.(broker.Session)
		return s, r.Err
	}
}

// renew asks the issuer anew. Where it says no, or says nothing that gives a role, the session is over.
func (m *Manager) renew(ctx context.Context, s broker.Session) (broker.Session, error) {
	over := func(rightsLost bool, why string, shown error) (broker.Session, error) {
		if err := m.acc.DropSession(ctx, broker.System(), s, rightsLost, fmt.Sprintf("the session of %s is over: %s", s.Name, why)); err != nil {
			return broker.Session{}, err
		}
		m.log.Info("a session is over", "person", s.Name, "session", s.ShortID(), "why", why)
		return broker.Session{}, shown
	}
	signIn := func(format string, args ...any) error {
		return access.Errorf(access.CodeUnauthenticated, format, args...).WithHint("sign in again with: curfew login")
	}
	refresh, err := m.seal.open(s.Refresh, s.ID)
	if err != nil {
		return over(false, "it cannot be confirmed: the key of the server has changed", signIn("your session cannot be confirmed: the server's key has changed"))
	}
	p, t, err := m.ask(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, "")
	switch {
	case isDown(err):
		m.noteDown(err)
		if t.Refresh != "" { // what came before Graph or the keys failed is the only token that is still good
			s.Refresh = m.seal.close(t.Refresh, s.ID)
			if _, kerr := m.acc.ConfirmSession(ctx, s, false); kerr != nil {
				return broker.Session{}, kerr
			}
		}
		return broker.Session{}, err
	case err != nil:
		m.noteUp()
		var oe *oauthError
		if errors.As(err, &oe) {
			return over(false, "the issuer does not confirm it: "+shorten(oe.Code), signIn("the issuer does not confirm your sign-in any more"))
		}
		return over(false, "what the issuer says of it cannot be believed: "+shorten(err.Error()), err)
	}
	m.noteUp()
	if p.Key != s.Key {
		return over(false, "the issuer speaks of somebody else", signIn("the issuer speaks of somebody else"))
	}
	if len(p.Roles) == 0 {
		return over(true, "the issuer tells no group or application role any more that gives a role", signIn("you have no role here any more"))
	}
	s.Roles, s.Groups, s.Given = p.Roles, p.Groups, p.Given && access.SamePerson(p.Name, s.Name)
	if t.Refresh != "" {
		s.Refresh = m.seal.close(t.Refresh, s.ID)
	}
	return m.acc.ConfirmSession(ctx, s, true)
}

// ask sends a grant to the issuer's token endpoint and verifies what it says of whom.
func (m *Manager) ask(ctx context.Context, form url.Values, nonce string) (person, tokens, error) {
	d, keys, err := m.provider.get(ctx)
	if err != nil {
		return person{}, tokens{}, err
	}
	var t tokens
	if err := m.post(ctx, d, d.Token, form, &t); err != nil {
		return person{}, t, err
	}
	p, err := m.verify(ctx, d, keys, t, nonce)
	return p, t, err
}

func (m *Manager) noteDown(err error) {
	m.mu.Lock()
	m.down = m.clock.Now().Add(downFor)
	m.mu.Unlock()
	m.acc.NoteIssuer(err)
	m.log.Warn("sessions could not be confirmed and go on until their end", "error", err)
}

func (m *Manager) noteUp() {
	m.mu.Lock()
	m.down = time.Time{}
	m.mu.Unlock()
	m.acc.NoteIssuer(nil)
}

// Current returns who a person is by their newest live session, which the issuer has confirmed within the last half minute or confirms
// now: for acting upon what they say elsewhere. Somebody of the configuration is current as long as they stand there. An error says
// that they must sign in, or that the issuer cannot be asked.
func (m *Manager) Current(ctx context.Context, name string) (access.Caller, error) {
	for _, p := range m.cfg.People {
		if access.SamePerson(p.Name, name) && p.Subject == "" {
			return access.Caller{Name: p.Name, Roles: p.Roles, Groups: p.Groups}, nil
		}
	}
	if m.issuer == nil {
		return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "%.100q is nobody's name here", name).WithHint("an admin can add them under people")
	}
	list, err := m.acc.SessionsOf(ctx, name)
	if err != nil {
		return access.Caller{}, err
	}
	for _, s := range list {
		if !s.Given && m.reserved(s.Name) {
			continue
		}
		if !m.confirmed(s, justNow) {
			if len(s.Refresh) == 0 {
				continue
			}
			id := s.ID
			s, err = m.confirm(ctx, id, justNow)
			if err == nil && !m.confirmed(s, justNow) { // it was somebody else's question that was answered, who is content with less
				s, err = m.confirm(ctx, id, justNow)
			}
			if access.CodeOf(err) == access.CodeUnauthenticated {
				continue // this one is over; another may not be
			}
			if err != nil {
				return access.Caller{}, err
			}
		}
		return callerOf(s), nil
	}
	return access.Caller{}, access.Errorf(access.CodeUnauthenticated, "%.100s is not signed in", name).WithHint("sign in with curfew login, and try again")
}

// Logout ends the session of a caller. Somebody without one has nothing to end, which is an error.
func (m *Manager) Logout(ctx context.Context, c access.Caller) error {
	if c.Session == "" {
		return access.Errorf(access.CodeConflict, "%s has no session: the token itself signs in", c.Name).
			WithHint("take CURFEW_TOKEN out of the environment; an admin can take the token away")
	}
	s, err := m.acc.SessionByHash(ctx, c.Session)
	if err != nil {
		return err
	}
	return m.acc.DropSession(ctx, c, s, false, c.Name+" signed out")
}

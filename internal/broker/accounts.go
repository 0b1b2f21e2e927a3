package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// Names that begin so belong to programs; a person cannot be called so.
const (
	TokenPrefix    = "token:"
	WorkloadPrefix = "workload:"
)

// Unknown stands in the log for somebody who did not get so far as to have a name.
const Unknown = "unknown"

// Account is who a name belongs to, and what was last known of them. The first who signs in with a name keeps it: whoever else
// comes with it is refused, so that requests, reviews and the log mean one person (P6).
type Account struct {
	Name      string        `json:"name"`
	Key       string        `json:"key"` // of the person at the issuer; compared exactly
	Roles     []access.Role `json:"roles"`
	Groups    []string      `json:"groups,omitempty"`
	FirstAt   time.Time     `json:"first_at"`
	LastAt    time.Time     `json:"last_at"` // when the issuer last confirmed them
	BarredAt  time.Time     `json:"barred_at"`
	BarredBy  string        `json:"barred_by,omitempty"`
	BarredWhy string        `json:"barred_why,omitempty"`
}

// Barred tells whether an admin keeps the person out.
func (a Account) Barred() bool { return !a.BarredAt.IsZero() }

// Session is one sign-in of a person. It is found by the hash of its token, which nobody but its holder has.
type Session struct {
	Name        string        `json:"name"`
	Key         string        `json:"key"`
	Roles       []access.Role `json:"roles"`
	Groups      []string      `json:"groups,omitempty"`
	Given       bool          `json:"given,omitempty"` // the configuration gives the name to this very key
	Via         string        `json:"via"`             // browser, device, portal
	From        string        `json:"from,omitempty"`  // address of the sign-in
	StartedAt   time.Time     `json:"started_at"`
	ConfirmedAt time.Time     `json:"confirmed_at"` // when the issuer last vouched for the person
	EndsAt      time.Time     `json:"ends_at"`
	Refresh     []byte        `json:"refresh,omitempty"` // encrypted; empty: the issuer cannot be asked again
	ID          string        `json:"-"`                 // hash of the token
	Version     int64         `json:"-"`
}

// ShortID is how a session is named where people read.
func (s Session) ShortID() string { return sessionID(s.ID) }

func sessionID(hash string) string { return "s-" + hash[:min(len(hash), 12)] }

// EndSessionsInput says whose sessions end.
type EndSessionsInput struct {
	Person  string
	Comment string
	Bar     bool // keep them out, and what they answer for too, until an admin releases the account
}

func foldName(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, strings.TrimSpace(s))
}

// CheckPersonName refuses names that a person cannot have: too long, not printable, or those of programs.
func CheckPersonName(name string) error {
	low := foldName(name)
	switch {
	case name == "" || strings.TrimSpace(name) != name || len(name) > 100 || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return access.Errorf(access.CodeDenied, "the name %.120q cannot be used here: it must be up to 100 printable bytes without blanks around it", name).
			WithHint("an admin can choose another claim with sign_in.name_claim, or name the subject under people")
	case low == foldName(system.Name) || low == foldName(Unknown):
		return access.Errorf(access.CodeDenied, "the name %q is the program's own", name).WithHint("an admin can name the subject under people, with another name")
	}
	for _, p := range []string{TokenPrefix, WorkloadPrefix, access.GroupPrefix} {
		if strings.HasPrefix(low, foldName(p)) {
			return access.Errorf(access.CodeDenied, "the name %q begins as those of programs and groups do", name).
				WithHint("an admin can name the subject under people, with another name")
		}
	}
	return nil
}

func readDoc[T any](r Record) (T, error) {
	var v T
	if err := json.Unmarshal(r.Doc, &v); err != nil {
		return v, access.Errorf(access.CodeUnavailable, "a stored %s is not readable", r.Kind).WithHint("an admin looks at the server's log").Wrap(err)
	}
	return v, nil
}

func putDoc(tx Tx, r Record, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing a %s: %w", r.Kind, err)
	}
	r.Doc = b
	return tx.PutRecord(r)
}

func sessionOf(r Record) (Session, error) {
	s, err := readDoc[Session](r)
	s.ID, s.Version = r.ID, r.Version
	return s, err
}

// Accounts are stored by their key, and belong to their name.

// accountByName returns the account with its version, and false where nobody has the name.
func accountByName(tx Tx, name string) (Account, int64, bool, error) {
	rs, err := tx.Records(RecordAccount, foldName(name))
	if err != nil || len(rs) == 0 || foldName(name) == "" {
		return Account{}, 0, false, err
	}
	a, err := readDoc[Account](rs[0])
	return a, rs[0].Version, err == nil, err
}

// accountByKey returns the account of a person of the issuer, with its version, and false where they have none.
func accountByKey(tx Tx, key string) (Account, int64, bool, error) {
	r, err := tx.Record(RecordAccount, HashSecret(key))
	if access.CodeOf(err) == access.CodeNotFound {
		return Account{}, 0, false, nil
	}
	if err != nil {
		return Account{}, 0, false, err
	}
	a, err := readDoc[Account](r)
	return a, r.Version, err == nil && a.Key == key, err
}

func putAccount(tx Tx, a Account, version int64) error {
	return putDoc(tx, Record{Kind: RecordAccount, ID: HashSecret(a.Key), Owner: foldName(a.Name), Version: version}, a)
}

func dropAccount(tx Tx, a Account) error { return tx.DropRecord(RecordAccount, HashSecret(a.Key)) }

// maxSessions is how many sessions a person may have; the oldest makes room.
const maxSessions = 50

// OpenSession begins a session of somebody whom the issuer has just vouched for, under the hash of its token. The name that they come
// with is theirs if nobody else has it, and it is not reserved unless Given says that the configuration gives it to this very key; a
// name that they were bound to before is kept. It returns the session as it was stored.
func (b *Broker) OpenSession(ctx context.Context, hash string, s Session, reserved func(name string) bool) (Session, error) {
	now := b.Now()
	s.StartedAt, s.ConfirmedAt, s.ID = now, now, hash
	err := b.update(ctx, func(tx Tx) error {
		acc, version, known, err := accountByKey(tx, s.Key)
		if err != nil {
			return err
		}
		if known && acc.Barred() {
			return access.Errorf(access.CodeDenied, "%s has been kept out by an admin since %s", acc.Name, access.Clock(acc.BarredAt)).
				WithHint("an admin can let you in again")
		}
		if known && !s.Given {
			s.Name = acc.Name
		}
		if err := CheckPersonName(s.Name); err != nil {
			return err
		}
		if !s.Given && reserved != nil && reserved(s.Name) { // the name that they are bound to may have been given away since
			return access.Errorf(access.CodeDenied, "the name %s is somebody's of the configuration", s.Name).
				WithHint("if that is you, an admin adds your account's subject to the entry under people; if not, they release the name that you had before")
		}
		other, _, taken, err := accountByName(tx, s.Name)
		if err != nil {
			return err
		}
		if taken && other.Key != s.Key {
			return access.Errorf(access.CodeDenied, "the name %s belongs to another account of the issuer", s.Name).
				WithHint("if that person is gone, an admin can release the name with: curfew account release %s", s.Name)
		}
		if known && foldName(acc.Name) != foldName(s.Name) { // the configuration calls them otherwise now
			if err := dropSessions(tx, acc.Name); err != nil {
				return err
			}
		}
		if !known {
			acc = Account{Key: s.Key, FirstAt: now}
		}
		acc.Name, acc.Roles, acc.Groups, acc.LastAt = s.Name, s.Roles, s.Groups, now
		if err := putAccount(tx, acc, version); err != nil {
			return err
		}
		if err := makeRoom(tx, s.Name); err != nil {
			return err
		}
		if err := putDoc(tx, Record{Kind: RecordSession, ID: hash, Owner: foldName(s.Name), Expires: s.EndsAt}, s); err != nil {
			return err
		}
		_, err = tx.Append(detail(b.entry(access.Caller{Name: s.Name}, "session.start", audit.Done, s.ShortID(), "%s signed in (%s) as %s until %s",
			s.Name, s.Via, roleWords(s.Roles), access.Clock(s.EndsAt)), "from", s.From, "key", s.Key))
		return err
	})
	s.Version = 1
	return s, err
}

func roleWords(roles []access.Role) string {
	var s []string
	for _, r := range roles {
		s = append(s, string(r))
	}
	return strings.Join(s, ", ")
}

func makeRoom(tx Tx, name string) error {
	rs, err := tx.Records(RecordSession, foldName(name))
	if err != nil {
		return err
	}
	for len(rs) >= maxSessions {
		if err := tx.DropRecord(RecordSession, rs[0].ID); err != nil {
			return err
		}
		rs = rs[1:]
	}
	return nil
}

func dropSessions(tx Tx, name string) error {
	rs, err := tx.Records(RecordSession, foldName(name))
	for _, r := range rs {
		if err == nil {
			err = tx.DropRecord(RecordSession, r.ID)
		}
	}
	return err
}

// SessionByHash returns a live session, or access.CodeUnauthenticated.
func (b *Broker) SessionByHash(ctx context.Context, hash string) (s Session, err error) {
	err = b.view(ctx, func(tx Tx) error {
		r, err := tx.Record(RecordSession, hash)
		if err == nil {
			s, err = sessionOf(r)
		}
		return err
	})
	if access.CodeOf(err) == access.CodeNotFound || err == nil && !b.Now().Before(s.EndsAt) { // its end is looked at whatever has been tidied away
		return Session{}, access.Errorf(access.CodeUnauthenticated, "your session is over").WithHint("sign in again with: curfew login")
	}
	return s, err
}

// SessionsOf returns the live sessions of a person, the newest first.
func (b *Broker) SessionsOf(ctx context.Context, name string) (out []Session, err error) {
	now := b.Now()
	err = b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordSession, foldName(name))
		for _, r := range slices.Backward(rs) {
			s, derr := sessionOf(r)
			if derr != nil {
				return derr
			}
			if now.Before(s.EndsAt) {
				out = append(out, s)
			}
		}
		return err
	})
	return out, err
}

// ConfirmSession stores what the issuer has just said of the person of a session: from now on they have these roles and groups. A
// session that ended in the meantime stays over. Unconfirmed, only what the issuer is asked with next is stored.
func (b *Broker) ConfirmSession(ctx context.Context, s Session, confirmed bool) (Session, error) {
	now := b.Now()
	err := b.update(ctx, func(tx Tx) error {
		r, err := tx.Record(RecordSession, s.ID)
		if access.CodeOf(err) == access.CodeNotFound {
			return access.Errorf(access.CodeUnauthenticated, "your session is over").WithHint("sign in again with: curfew login")
		}
		if err != nil {
			return err
		}
		was, err := sessionOf(r)
		if err != nil {
			return err
		}
		if !confirmed {
			was.Refresh = s.Refresh
			s = was
		} else {
			s.ConfirmedAt = now
		}
		s.Version = r.Version
		if err := putDoc(tx, Record{Kind: RecordSession, ID: s.ID, Owner: foldName(s.Name), Expires: s.EndsAt, Version: r.Version}, s); err != nil || !confirmed {
			return err
		}
		acc, version, ok, err := accountByName(tx, s.Name)
		if err != nil {
			return err
		}
		if !ok || acc.Key != s.Key || acc.Barred() { // released or kept out meanwhile
			return access.Errorf(access.CodeUnauthenticated, "your session is over").WithHint("sign in again with: curfew login")
		}
		acc.Roles, acc.Groups, acc.LastAt = s.Roles, s.Groups, now
		if err := putAccount(tx, acc, version); err != nil {
			return err
		}
		if slices.Equal(was.Roles, s.Roles) {
			return nil
		}
		_, err = tx.Append(b.entry(system, "session.change", audit.Done, s.ShortID(), "the issuer says that %s is now %s; before: %s", s.Name, roleWords(s.Roles), roleWords(was.Roles)))
		return err
	})
	s.Version++
	return s, err
}

// DropSession ends a session and says why. Lost rights, where the issuer takes them all, are noted with the account, so that what
// the person answers for ends as well.
func (b *Broker) DropSession(ctx context.Context, c access.Caller, s Session, rightsLost bool, why string) error {
	return b.update(ctx, func(tx Tx) error {
		if _, err := tx.Record(RecordSession, s.ID); access.CodeOf(err) == access.CodeNotFound {
			return nil
		} else if err != nil {
			return err
		}
		if err := tx.DropRecord(RecordSession, s.ID); err != nil {
			return err
		}
		if rightsLost {
			acc, version, ok, err := accountByName(tx, s.Name)
			if err != nil {
				return err
			}
			if ok && acc.Key == s.Key {
				acc.Roles, acc.Groups = nil, nil
				if err := putAccount(tx, acc, version); err != nil {
					return err
				}
			}
		}
		_, err := tx.Append(detail(b.entry(c, "session.end", audit.Done, s.ShortID(), "%s", short(why)), "account", s.Name))
		return err
	})
}

// System is the caller under which the program itself acts, for the parts that sign people in.
func System() access.Caller { return system }

// refusalsPerMinute bounds how much of the log those can fill who have not signed in.
const refusalsPerMinute = 30

// NoteRefusal records that a sign-in was refused. Of a flood only so many are recorded a minute; how many were left out stands in
// the next one.
func (b *Broker) NoteRefusal(ctx context.Context, name, from, message string) {
	now := b.Now()
	b.mu.Lock()
	if minute := now.Truncate(time.Minute); !minute.Equal(b.refusals.minute) {
		b.refusals.minute, b.refusals.n = minute, 0
	}
	b.refusals.n++
	drop := b.refusals.n > refusalsPerMinute
	if drop {
		b.refusals.left++
	}
	left := b.refusals.left
	if !drop {
		b.refusals.left = 0
	}
	b.mu.Unlock()
	if drop {
		return
	}
	if name = short(name); name == "" {
		name = Unknown
	}
	e := detail(b.entry(access.Caller{Name: name}, "session.start", audit.Refused, "", "%s", short(message)), "from", from)
	if left > 0 {
		e = detail(e, "not_recorded", fmt.Sprint(left))
	}
	if err := b.update(ctx, func(tx Tx) error { _, err := tx.Append(e); return err }); err != nil {
		b.log.Error("a refused sign-in could not be recorded", "error", err)
	}
}

// KeepOnce keeps a document that will be taken once, until it expires.
func (b *Broker) KeepOnce(ctx context.Context, kind, id string, expires time.Time, doc any) error {
	return b.update(ctx, func(tx Tx) error { return putDoc(tx, Record{Kind: kind, ID: id, Expires: expires}, doc) })
}

// TakeOnce takes what KeepOnce kept: of two who come with the same id one gets it, the other access.CodeNotFound, as does whoever
// comes too late.
func (b *Broker) TakeOnce(ctx context.Context, kind, id string, doc any) error {
	return b.update(ctx, func(tx Tx) error {
		r, err := tx.Record(kind, id)
		if err != nil {
			return err
		}
		if err := tx.DropRecord(kind, id); err != nil {
			return err
		}
		return b.open(r, doc)
	})
}

// LookAt reads what KeepOnce kept, and leaves it there.
func (b *Broker) LookAt(ctx context.Context, kind, id string, doc any) error {
	return b.view(ctx, func(tx Tx) error {
		r, err := tx.Record(kind, id)
		if err != nil {
			return err
		}
		return b.open(r, doc)
	})
}

func (b *Broker) open(r Record, doc any) error {
	if !r.Expires.IsZero() && !b.Now().Before(r.Expires) {
		return access.Errorf(access.CodeNotFound, "it is too late").WithHint("begin again")
	}
	if err := json.Unmarshal(r.Doc, doc); err != nil {
		return access.Errorf(access.CodeUnavailable, "a stored %s is not readable", r.Kind).WithHint("an admin looks at the server's log").Wrap(err)
	}
	return nil
}

// NoteIssuer records whether the issuer of people's tokens answers, for Status.
func (b *Broker) NoteIssuer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issuerErr = ""
	if err != nil {
		b.issuerErr = words(err)
	}
}

// dropAllSessions ends everybody's sessions: a database that was restored from a backup holds some that were ended since.
func dropAllSessions(tx Tx) error {
	rs, err := tx.Records(RecordSession, "")
	for _, r := range rs {
		if err == nil {
			err = tx.DropRecord(RecordSession, r.ID)
		}
	}
	return err
}

// people are those whom the configuration names and those who have signed in: for naming approvers, not for deciding.
func (b *Broker) people(ctx context.Context) []access.Caller {
	var out []access.Caller
	if b.cfg.People != nil {
		out = b.cfg.People()
	}
	list, err := b.accounts(ctx)
	if err != nil {
		b.log.Warn("reading accounts", "error", err)
	}
	for _, a := range list {
		if !a.Barred() && !slices.ContainsFunc(out, func(p access.Caller) bool { return access.SamePerson(p.Name, a.Name) }) {
			out = append(out, access.Caller{Name: a.Name, Roles: a.Roles, Groups: a.Groups})
		}
	}
	return out
}

// Accounts implements Service.
func (b *Broker) Accounts(ctx context.Context, c access.Caller) (out []Account, err error) {
	if err := b.need(ctx, c, "account.read", "", access.Auditor, access.Admin); err != nil {
		return nil, err
	}
	return b.accounts(ctx)
}

func (b *Broker) accounts(ctx context.Context) (out []Account, err error) {
	err = b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordAccount, "")
		for _, r := range rs {
			a, derr := readDoc[Account](r)
			if derr != nil {
				return derr
			}
			out = append(out, a)
		}
		return err
	})
	return out, err
}

// ReleaseAccount implements Service.
func (b *Broker) ReleaseAccount(ctx context.Context, c access.Caller, person, comment string) error {
	const action = "account.release"
	if err := b.needPerson(ctx, c, action, person, access.Admin); err != nil { // a program would hand somebody's name on
		return err
	}
	comment, err := checkComment(comment)
	if err != nil {
		return err
	}
	return b.update(ctx, func(tx Tx) error {
		acc, _, ok, err := accountByName(tx, person)
		if err != nil {
			return err
		}
		if !ok {
			return notFound("account", short(person))
		}
		if err := dropSessions(tx, acc.Name); err != nil {
			return err
		}
		if err := dropLinks(tx, acc.Name); err != nil { // or what they are elsewhere would be the next holder's
			return err
		}
		if err := dropAccount(tx, acc); err != nil {
			return err
		}
		_, err = tx.Append(detail(b.entry(c, action, audit.Done, acc.Name, "%s releases the name %s; whoever signs in with it next has it", c.Name, acc.Name),
			"key", acc.Key, "comment", comment))
		return err
	})
}

// Sessions implements Service.
func (b *Broker) Sessions(ctx context.Context, c access.Caller, all bool) (out []Session, err error) {
	if err := b.need(ctx, c, "session.read", "", anyRole...); err != nil {
		return nil, err
	}
	owner := foldName(c.Name)
	if all {
		if err := b.need(ctx, c, "session.read", "", access.Admin); err != nil {
			return nil, err
		}
		owner = ""
	}
	now := b.Now()
	err = b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordSession, owner)
		for _, r := range rs {
			s, derr := sessionOf(r)
			if derr != nil {
				return derr
			}
			if now.Before(s.EndsAt) {
				s.Refresh = nil
				out = append(out, s)
			}
		}
		return err
	})
	return out, err
}

// EndSessions implements Service.
func (b *Broker) EndSessions(ctx context.Context, c access.Caller, in EndSessionsInput) (ended int, err error) {
	const action = "session.end"
	if err := b.need(ctx, c, action, in.Person, access.Admin); err != nil {
		return 0, err
	}
	comment, err := checkComment(in.Comment)
	if err != nil {
		return 0, err
	}
	err = b.update(ctx, func(tx Tx) error {
		acc, version, ok, err := accountByName(tx, in.Person)
		if err != nil {
			return err
		}
		if !ok {
			return notFound("account", short(in.Person))
		}
		rs, err := tx.Records(RecordSession, foldName(acc.Name))
		if err != nil {
			return err
		}
		if ended = len(rs); ended == 0 && !in.Bar {
			return access.Errorf(access.CodeConflict, "%s has no session", acc.Name).WithHint("keep them out altogether with: curfew session end %s --bar", acc.Name)
		}
		if err := dropSessions(tx, acc.Name); err != nil {
			return err
		}
		what := "ends the sessions of"
		if in.Bar {
			what = "keeps out"
			acc.BarredAt, acc.BarredBy, acc.BarredWhy = b.Now(), c.Name, comment
			if err := putAccount(tx, acc, version); err != nil {
				return err
			}
		}
		_, err = tx.Append(detail(b.entry(c, action, audit.Done, acc.Name, "%s %s %s", c.Name, what, acc.Name), "comment", comment, "sessions", fmt.Sprint(ended), "account", acc.Name))
		return err
	})
	if err == nil && in.Bar {
		err = b.shutOut(ctx, c, in.Person)
	}
	return ended, err
}

// shutOut revokes whatever a person who is kept out has open or ahead of them, and what programs have for which they answer.
func (b *Broker) shutOut(ctx context.Context, c access.Caller, person string) error {
	var live []access.Grant
	b.index.each(func(g access.Grant) { live = append(live, g) })
	var moves []Move
	err := b.view(ctx, func(tx Tx) error {
		for _, g := range live {
			theirs := access.SamePerson(g.Requester, person)
			if !theirs {
				r, err := tx.Request(g.Request)
				if err != nil && access.CodeOf(err) != access.CodeNotFound {
					return err
				}
				theirs = err == nil && access.SamePerson(r.Sponsor, person)
			}
			if theirs {
				moves = append(moves, Move{ID: g.ID, Event: access.ShutEvent{Reason: access.ReasonRevoked, By: c.Name}, Action: "grant.revoke", Outcome: audit.Done,
					Message: fmt.Sprintf("%s keeps %s out: %s to %s is revoked", c.Name, person, g.ID, g.Target), By: &c})
			}
		}
		return nil
	})
	if err == nil {
		_, err = b.Apply(ctx, moves)
	}
	if err != nil {
		return access.Errorf(access.CodeOf(err), "%s is kept out, and what they have open could not be revoked: %s", person, words(err)).
			WithHint("revoke it with: curfew grant list, curfew grant revoke ID").Wrap(err)
	}
	b.enf.Wake()
	return nil
}

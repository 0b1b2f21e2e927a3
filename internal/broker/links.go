package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
)

// Identity is somebody elsewhere: a user of a Slack workspace. Name is what they are called there; nothing is decided by it.
type Identity struct {
	Kind string `json:"kind"` // slack
	Team string `json:"team"`
	User string `json:"user"`
	Name string `json:"name,omitempty"`
}

// Key identifies an identity among all.
func (i Identity) Key() string { return i.Kind + ":" + i.Team + ":" + i.User }

// Link says that an identity elsewhere is a person here. The person made it, signed in, with a code that the identity was given
// there; no name and no address was compared.
type Link struct {
	ID string `json:"id"`
	Identity
	Person  string    `json:"person"`
	Created time.Time `json:"created_at"` // zero: it is not made yet
}

// LinkInput claims an identity. Without Confirm it only says whose code it is; with the id of that link it makes it.
type LinkInput struct {
	Kind    string `json:"kind"`
	Code    string `json:"code"`
	Confirm string `json:"confirm"`
}

// codeLife is how long a code can be used.
const codeLife = 10 * time.Minute

// LinkedPerson returns the name of the person that an identity belongs to, "" if it is nobody's. It is the program's own question.
func (b *Broker) LinkedPerson(ctx context.Context, i Identity) (person string, err error) {
	err = b.view(ctx, func(tx Tx) error {
		l, err := linkOf(tx, i.Key())
		if access.CodeOf(err) == access.CodeNotFound {
			return nil
		}
		person = l.Person
		return err
	})
	return person, err
}

func linkOf(tx Tx, id string) (l Link, err error) {
	r, err := tx.Record(RecordLink, id)
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(r.Doc, &l); err != nil || l.ID != id || l.Key() != id || l.Person == "" {
		return Link{}, access.Errorf(access.CodeInternal, "the link of an identity is not readable").Wrap(err)
	}
	return l, nil
}

// NewLinkCode makes the code with which a signed-in person claims an identity, and forgets the one before.
func (b *Broker) NewLinkCode(ctx context.Context, i Identity) (string, error) {
	if i.Kind != "slack" || i.Team == "" || i.User == "" || len(i.Key()) > 100 {
		return "", access.Errorf(access.CodeInvalid, "this is no identity that can be linked").WithHint("the kinds are: slack")
	}
	doc, err := json.Marshal(i)
	if err != nil {
		return "", err
	}
	code := newID()
	err = b.update(ctx, func(tx Tx) error {
		old, err := tx.Records(RecordLinkCode, i.Key())
		if err != nil {
			return err
		}
		for _, r := range old {
			if err := tx.DropRecord(RecordLinkCode, r.ID); err != nil {
				return err
			}
		}
		return tx.PutRecord(Record{Kind: RecordLinkCode, ID: codeHash(code), Owner: i.Key(), Expires: b.Now().Add(codeLife), Doc: doc})
	})
	return code[:5] + "-" + code[5:], err
}

// codeHash is under what a code is kept; blanks, dashes and case do not count.
func codeHash(code string) string {
	code = strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(code))
	sum := sha256.Sum256([]byte("link code " + code))
	return hex.EncodeToString(sum[:])
}

// dropLinks takes away all that somebody is elsewhere.
func dropLinks(tx Tx, person string) error {
	rs, err := tx.Records(RecordLink, foldName(person))
	if err != nil {
		return err
	}
	for _, r := range rs {
		if err := tx.DropRecord(RecordLink, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// LinkIdentity implements Service.
func (b *Broker) LinkIdentity(ctx context.Context, c access.Caller, in LinkInput) (l Link, err error) {
	const action = "link.create"
	if err := b.needPerson(ctx, c, action, in.Kind, anyRole...); err != nil {
		return l, err
	}
	if in.Kind != "slack" {
		return l, invalid("kind", "there are no links of the kind %q", short(in.Kind)).WithHint("the kind is slack")
	}
	err = b.update(ctx, func(tx Tx) error {
		now := b.Now()
		unknown := access.Errorf(access.CodeNotFound, "this code is not known, was used already, or is older than %s", access.Duration(codeLife)).
			WithHint("press the button again: each press shows a new code")
		r, err := tx.Record(RecordLinkCode, codeHash(in.Code))
		if access.CodeOf(err) == access.CodeNotFound || err == nil && !now.Before(r.Expires) {
			return unknown
		}
		if err != nil {
			return err
		}
		var i Identity
		if err := json.Unmarshal(r.Doc, &i); err != nil || i.Kind != in.Kind {
			return unknown
		}
		l = Link{ID: i.Key(), Identity: i, Person: c.Name}
		switch old, err := linkOf(tx, l.ID); {
		case err == nil && access.SamePerson(old.Person, c.Name):
			return access.Errorf(access.CodeConflict, "%s is linked to you already", l.ID).WithHint("there is nothing to do")
		case err == nil:
			return access.Errorf(access.CodeConflict, "%s is linked to somebody else", l.ID).WithHint("they, or an admin, take that away with: curfew link remove %s", l.ID)
		case access.CodeOf(err) != access.CodeNotFound:
			return err
		}
		if in.Confirm == "" {
			return nil
		}
		if in.Confirm != l.ID {
			return access.Errorf(access.CodePlanChanged, "the code belongs to %s, and %s was confirmed", l.ID, short(in.Confirm)).WithHint("look again whose code it is")
		}
		if err := tx.DropRecord(RecordLinkCode, r.ID); err != nil {
			return err
		}
		l.Created = now
		doc, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if err := tx.PutRecord(Record{Kind: RecordLink, ID: l.ID, Owner: foldName(c.Name), Doc: doc}); err != nil {
			return err
		}
		e := b.entry(c, action, audit.Done, l.ID, "%s is %s from now on", l.ID, c.Name)
		_, err = tx.Append(detail(e, "kind", i.Kind, "team", i.Team, "user", i.User, "called", i.Name))
		return err
	})
	if err != nil {
		return Link{}, err
	}
	return l, nil
}

// Links implements Service: one's own, and an admin sees all.
func (b *Broker) Links(ctx context.Context, c access.Caller) (out []Link, err error) {
	if err := b.need(ctx, c, "link.read", "", anyRole...); err != nil {
		return nil, err
	}
	owner := foldName(c.Name)
	if c.Has(access.Admin) || c.Has(access.Auditor) {
		owner = ""
	}
	err = b.view(ctx, func(tx Tx) error {
		out = nil
		rs, err := tx.Records(RecordLink, owner)
		for _, r := range rs {
			var l Link
			if err := json.Unmarshal(r.Doc, &l); err != nil {
				return access.Errorf(access.CodeInternal, "a link is not readable").Wrap(err)
			}
			out = append(out, l)
		}
		return err
	})
	return out, err
}

// Unlink implements Service.
func (b *Broker) Unlink(ctx context.Context, c access.Caller, id string) error {
	const action = "link.remove"
	if err := b.need(ctx, c, action, id, anyRole...); err != nil {
		return err
	}
	return b.update(ctx, func(tx Tx) error {
		l, err := linkOf(tx, id)
		if access.CodeOf(err) == access.CodeNotFound || err == nil && !access.SamePerson(l.Person, c.Name) && !c.Has(access.Admin) {
			return access.Errorf(access.CodeNotFound, "there is no link %q, or it is not yours", short(id)).WithHint("list yours with: curfew link list")
		}
		if err != nil && !c.Has(access.Admin) { // an admin clears away what is damaged
			return err
		}
		if err := tx.DropRecord(RecordLink, id); err != nil {
			return err
		}
		e := b.entry(c, action, audit.Done, id, "%s is nobody here any more", id)
		_, err = tx.Append(detail(e, "person", l.Person))
		return err
	})
}

// messagesKept is how long it is remembered where a channel has the message about a request.
const messagesKept = 90 * 24 * time.Hour

var _ notify.Memory = (*Outbox)(nil)

// Remembered implements notify.Memory.
func (o *Outbox) Remembered(ctx context.Context, channel, subject string) (doc json.RawMessage, err error) {
	err = o.b.view(ctx, func(tx Tx) error {
		r, err := tx.Record(RecordMessage, channel+"/"+subject)
		if access.CodeOf(err) == access.CodeNotFound {
			return nil
		}
		doc = r.Doc
		return err
	})
	return doc, err
}

// Remember implements notify.Memory.
func (o *Outbox) Remember(ctx context.Context, channel, subject string, doc json.RawMessage) error {
	return o.b.commit(ctx, func(tx Tx) error {
		rec := Record{Kind: RecordMessage, ID: channel + "/" + subject, Expires: o.b.Now().Add(messagesKept), Doc: doc}
		switch old, err := tx.Record(rec.Kind, rec.ID); access.CodeOf(err) {
		case "":
			rec.Version = old.Version
		case access.CodeNotFound:
		default:
			return fmt.Errorf("reading where a message is: %w", err)
		}
		return tx.PutRecord(rec)
	})
}

package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// Delegation lets an approver answer in another one's place until an instant. It lends the place in the steps of a policy, not the
// role: who has it must be an approver in their own right, and decides on nothing that either of the two asked for.
type Delegation struct {
	ID      string    `json:"id"`
	From    string    `json:"from"`
	Groups  []string  `json:"groups,omitempty"` // of From, as the policy named them then
	To      string    `json:"to"`
	Until   time.Time `json:"until"`
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created_at"`
}

// longestDelegation is how long one may last: longer than a leave is a change of the policy.
const longestDelegation = 60 * 24 * time.Hour

// DelegateInput asks for a delegation.
type DelegateInput struct {
	To     string    `json:"to"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// delegations returns those that hold at an instant.
func delegations(tx Tx, now time.Time) ([]Delegation, error) {
	rs, err := tx.Records(RecordDelegation, "")
	var out []Delegation
	for _, r := range rs {
		var d Delegation
		if json.Unmarshal(r.Doc, &d) == nil && now.Before(d.Until) { // one that cannot be read lends nothing
			out = append(out, d)
		}
	}
	return out, err
}

// Delegate implements Service.
func (b *Broker) Delegate(ctx context.Context, c access.Caller, in DelegateInput) (Delegation, error) {
	const action = "delegation.create"
	if err := b.needPerson(ctx, c, action, in.To, access.Approver); err != nil {
		return Delegation{}, err
	}
	now := b.Now()
	to, reason := clean(in.To), clean(in.Reason)
	switch {
	case to == "" || len(to) > 200:
		return Delegation{}, invalid("to", "nobody was named who is to answer in your place").WithHint("name an approver: curfew delegation create bob --until 5d")
	case strings.HasPrefix(strings.ToLower(to), access.GroupPrefix):
		return Delegation{}, invalid("to", "%s is a group: a delegation is to one person, who answers for what they decide", to).WithHint("name an approver")
	case access.SamePerson(to, c.Name):
		return Delegation{}, invalid("to", "%s is yourself", to).WithHint("name another approver")
	case !in.Until.After(now):
		return Delegation{}, invalid("until", "the end %s is not in the future", access.Clock(in.Until)).WithHint("say until when, like --until 2026-12-01 or --until 5d")
	case in.Until.Sub(now) > longestDelegation:
		return Delegation{}, invalid("until", "the end %s is more than %s ahead", access.Clock(in.Until), access.Duration(longestDelegation)).
			WithHint("delegate for less, or have the policy changed")
	case len(reason) > 500:
		return Delegation{}, invalid("reason", "the reason is longer than 500 bytes").WithHint("say it shorter")
	}
	var other access.Caller
	if err := b.view(ctx, func(tx Tx) (err error) { other, _, err = b.standing(tx, to); return err }); err != nil {
		return Delegation{}, err
	}
	if !other.Has(access.Approver) {
		return Delegation{}, access.Errorf(access.CodeNotFound, "%s is not known here as an approver", to).WithHint("they must have signed in once, and have the role approver")
	}
	d := Delegation{ID: "d-" + newID(), From: c.Name, Groups: b.cfg.Policy().GroupsOf(c), To: to, Until: in.Until.UTC(), Reason: reason, Created: now}
	doc, err := json.Marshal(d)
	if err != nil {
		return Delegation{}, err
	}
	err = b.update(ctx, func(tx Tx) error {
		all, err := delegations(tx, now)
		if err != nil {
			return err
		}
		mine := 0
		for _, o := range all {
			if access.SamePerson(o.From, c.Name) {
				mine++
				if access.SamePerson(o.To, to) {
					return access.Errorf(access.CodeConflict, "you have delegated to %s already, until %s: %s", o.To, access.Clock(o.Until), o.ID).
						WithHint("end that one first with: curfew delegation end %s", o.ID)
				}
			}
		}
		if mine >= 5 {
			return access.Errorf(access.CodeConflict, "you have delegated to %d people, which is as many as may be", mine).WithHint("end one with: curfew delegation end ID")
		}
		if err := tx.PutRecord(Record{Kind: RecordDelegation, ID: d.ID, Owner: c.Name, Expires: d.Until, Doc: doc}); err != nil {
			return err
		}
		e := b.entry(c, action, audit.Done, d.ID, "%s has %s answer in their place until %s", d.From, d.To, access.Clock(d.Until))
		_, err = tx.Append(detail(e, "to", d.To, "until", d.Until.Format(time.RFC3339), "groups", strings.Join(d.Groups, ","), "reason", d.Reason))
		return err
	})
	return d, err
}

// standing returns a person as they stand now, and whether anything is known of them: what sign-in last saw, or else the configuration.
// Somebody who is kept out has no role.
func (b *Broker) standing(tx Tx, name string) (c access.Caller, known bool, err error) {
	acc, _, ok, err := accountByName(tx, name)
	switch {
	case err != nil:
		return c, false, err
	case ok && acc.Barred():
		return access.Caller{Name: acc.Name}, true, nil
	case ok:
		return access.Caller{Name: acc.Name, Roles: acc.Roles, Groups: acc.Groups}, true, nil
	case b.cfg.People == nil:
		return c, false, nil
	}
	people := b.cfg.People()
	i := slices.IndexFunc(people, func(p access.Caller) bool { return access.SamePerson(p.Name, name) })
	if i < 0 {
		return c, false, nil
	}
	return people[i], true, nil
}

// Delegations implements Service.
func (b *Broker) Delegations(ctx context.Context, c access.Caller) ([]Delegation, error) {
	if err := b.need(ctx, c, "delegation.read", "", access.Approver, access.Auditor, access.Admin); err != nil {
		return nil, err
	}
	out := []Delegation{}
	err := b.view(ctx, func(tx Tx) error {
		all, err := delegations(tx, b.Now())
		out = append(out, all...)
		return err
	})
	return out, err
}

// EndDelegation implements Service.
func (b *Broker) EndDelegation(ctx context.Context, c access.Caller, id string) error {
	const action = "delegation.end"
	if err := b.need(ctx, c, action, id, access.Approver, access.Admin); err != nil {
		return err
	}
	err := b.update(ctx, func(tx Tx) error {
		all, err := delegations(tx, b.Now())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(d Delegation) bool { return d.ID == id })
		if i < 0 {
			return access.Errorf(access.CodeNotFound, "there is no delegation %.80q", id).WithHint("list them with: curfew delegation list")
		}
		d := all[i]
		if !access.SamePerson(d.From, c.Name) && !access.SamePerson(d.To, c.Name) && !c.Has(access.Admin) {
			return access.Errorf(access.CodeDenied, "delegation %s is from %s to %s: they end it, or an admin", d.ID, d.From, d.To).WithHint("ask one of them")
		}
		if err := tx.DropRecord(RecordDelegation, d.ID); err != nil {
			return err
		}
		_, err = tx.Append(b.entry(c, action, audit.Done, d.ID, "%s ends that %s answers in the place of %s", c.Name, d.To, d.From))
		return err
	})
	if err != nil {
		return b.refuse(ctx, c, action, id, err)
	}
	return nil
}

// needPerson is need for what no program may do.
func (b *Broker) needPerson(ctx context.Context, c access.Caller, action, object string, roles ...access.Role) error {
	if err := b.need(ctx, c, action, object, roles...); err != nil {
		return err
	}
	if c.Kind == access.Person {
		return nil
	}
	return b.refuse(ctx, c, action, object, access.Errorf(access.CodeDenied, "%s is a program (%s): decisions are for people", c.Name, fmt.Sprint(c.Kind)).
		WithHint("sign in yourself: curfew login"))
}

package broker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/notify"
)

// Approve implements Service.
func (b *Broker) Approve(ctx context.Context, c access.Caller, id access.RequestID, in ReviewInput) (access.Request, error) {
	return b.review(ctx, c, id, access.Approve, in)
}

// Deny implements Service.
func (b *Broker) Deny(ctx context.Context, c access.Caller, id access.RequestID, comment string) (access.Request, error) {
	return b.review(ctx, c, id, access.Deny, ReviewInput{Comment: comment})
}

func (b *Broker) review(ctx context.Context, c access.Caller, id access.RequestID, d access.Decision, in ReviewInput) (access.Request, error) {
	action := "request." + string(d)
	if err := b.needPerson(ctx, c, action, string(id), access.Approver); err != nil {
		return access.Request{}, err
	}
	snap, err := b.snapshot(ctx)
	if err != nil && d == access.Approve {
		return access.Request{}, err
	}
	comment, err := checkComment(in.Comment)
	if err != nil {
		return access.Request{}, err
	}
	var out access.Request
	var grants []access.Grant
	now := b.Now()
	err = b.change(ctx, func(tx Tx) ([]access.Grant, []access.Protection, error) {
		grants = nil
		fail := func(err error) ([]access.Grant, []access.Protection, error) { return nil, nil, err }
		r, err := b.visibleRequest(tx, c, id)
		if err != nil {
			return fail(err)
		}
		asked := r
		as, err := b.authorities(tx, c, r, now)
		if err != nil {
			return fail(err)
		}
		ev := access.ReviewEvent{By: c.Name, As: as, Decision: d, Comment: comment, Digest: in.Digest, Via: cmp.Or(in.Via, c.Via)}
		if d == access.Approve && r.State == access.Pending {
			if ev.Narrowed, err = narrow(r, in); err != nil {
				return fail(err)
			}
		}
		switch mine := access.SamePerson(c.Name, r.Requester); {
		case r.State != access.Pending || !now.Before(r.ExpiresAt) || mine: // Step refuses it, in the right words
		case d == access.Deny && !access.Concerned(r.Needs, as):
			return fail(notAmong(r))
		case d == access.Approve:
			terms := r.Terms
			if ev.Narrowed != nil && ev.Narrowed.Within(terms) {
				terms = *ev.Narrowed // what would open is judged: for less, other rules may hold
			}
			if r, err = b.recheck(tx, r, terms, snap); err != nil {
				return fail(err)
			}
		}
		var effects []access.Effect
		out, effects, err = r.Step(ev, now)
		if err != nil {
			return fail(err)
		}
		if len(effects) > 0 && b.Hold() != "" {
			return fail(b.heldError())
		}
		verb := map[access.Decision]string{access.Approve: "approves", access.Deny: "denies"}[d]
		msg := fmt.Sprintf("%s %s %s of %s", c.Name, verb, out.ID, out.Requester)
		if n := out.Missing(); n > 0 {
			msg += fmt.Sprintf("; %d more must agree", n)
		}
		e := requestEntry(b.entry(c, action, audit.Done, "", "%s", msg), out)
		e = detail(e, "comment", ev.Comment, "source", out.Terms.Source.String(), "for", access.Duration(out.Terms.Duration).String())
		if ev.Narrowed != nil {
			e = detail(e, "narrowed", "yes", "targets", targetsText(out.Terms.Targets))
		}
		if n := access.Approvals(out.Needs); n != access.Approvals(asked.Needs) {
			e = detail(e, "needed", fmt.Sprint(n))
		}
		if for_ := lent(out.Reviews[len(out.Reviews)-1]); for_ != "" {
			e = detail(e, "in_place_of", for_)
		}
		if e, err = tx.Append(detail(e, "rules", strings.Join(out.Rules, ","), "via", ev.Via)); err != nil {
			return fail(err)
		}
		if grants, err = b.effects(tx, c, &out, effects, now); err != nil {
			return fail(err)
		}
		if err := tx.UpdateRequest(out); err != nil {
			return fail(err)
		}
		out.Version++
		kind := notify.RequestReviewed
		switch {
		case out.State == access.Approved:
			kind = notify.RequestApproved
		case out.State == access.Denied:
			kind = notify.RequestDenied
		case ev.Narrowed != nil:
			kind = notify.RequestNarrowed
		}
		return grants, nil, b.tellRequest(tx, kind, e, out)
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	b.opened(out, grants)
	return out, nil
}

// limitsOf asks the policy again about a request, as things are now.
func (b *Broker) limitsOf(tx Tx, r access.Request, s *inventory.Snapshot) (access.Limits, error) {
	if s == nil {
		return access.Limits{}, access.Errorf(access.CodeAzureUnavailable, "the machines could not be read").WithHint("try again in a minute")
	}
	var held time.Duration
	extensions := 0
	if r.Extends != "" {
		g, err := tx.Grant(r.Extends)
		if err != nil {
			return access.Limits{}, err
		}
		held, extensions, r.StartAt = g.Duration, g.Extensions, g.EndsAt
	}
	start := r.StartAt
	if start.Before(b.Now()) {
		start = time.Time{} // it was fine when it was asked; the opening is then due at once
	}
	ask := access.Ask{Requester: r.Requester, Groups: r.Groups, Roles: r.Roles, Terms: r.Terms, StartAt: start, Reason: r.Reason, Ticket: r.Ticket,
		Held: held, Extension: r.Extends != "", Extensions: extensions, BreakGlass: r.BreakGlass}
	l, err := b.decide(ask, s)
	if err != nil || r.Kind != access.Person {
		return l, err
	}
	// What they were when they asked counts, and what they are now.
	now, known, err := b.standing(tx, r.Requester)
	if err != nil || !known {
		return l, err
	}
	ask.Groups, ask.Roles = b.cfg.Policy().GroupsOf(now), now.Roles
	if slices.Equal(ask.Groups, r.Groups) && slices.Equal(ask.Roles, r.Roles) {
		return l, nil
	}
	as, err := b.decide(ask, s)
	return l.Strictest(as), err
}

// stillMayAsk refuses what somebody asked for who may not ask any more, or for whom nobody answers any more.
func (b *Broker) stillMayAsk(tx Tx, r access.Request) error {
	who, lost := r.Requester, func(c access.Caller) bool { return !c.Has(access.Requester) }
	if r.Kind != access.Person {
		who, lost = r.Sponsor, func(c access.Caller) bool { return len(c.Roles) == 0 }
	}
	c, known, err := b.standing(tx, who)
	if err != nil || !known || !lost(c) {
		return err
	}
	return access.Errorf(access.CodeDenied, "%s has no right to ask any more, so that %s opens nothing", who, r.ID).WithHint("deny it with: curfew deny %s", r.ID)
}

// recheck asks policy and protection again about the terms that would be granted, as things are now: what changed since the asking counts,
// and only for the stricter.
func (b *Broker) recheck(tx Tx, r access.Request, terms access.Terms, s *inventory.Snapshot) (access.Request, error) {
	if err := b.stillMayAsk(tx, r); err != nil {
		return r, err
	}
	of := r
	of.Terms = terms
	l, err := b.limitsOf(tx, of, s)
	if err != nil {
		return r, err
	}
	joined := access.Limits{Rules: r.Rules, Needs: r.Needs, Notify: r.Notify, HardClose: r.HardClose, WarnBefore: r.WarnBefore}.Strictest(l)
	r.Rules, r.Needs, r.Notify, r.HardClose, r.WarnBefore = joined.Rules, joined.Needs, joined.Notify, joined.HardClose, joined.WarnBefore
	total := terms.Duration
	if r.Extends != "" { // several may have been asked for side by side
		g, err := tx.Grant(r.Extends)
		if err != nil {
			return r, err
		}
		total += g.Duration
	}
	for _, t := range terms.Targets {
		p, _ := b.index.protection(t.VM.ID)
		if err := p.Check(t, terms.Source, total); err != nil {
			return r, err
		}
	}
	return r, nil
}

func notAmong(r access.Request) *access.Error {
	var names []string
	for _, n := range r.Needs {
		for _, s := range n.Steps {
			names = append(names, s.Words())
		}
	}
	return access.Errorf(access.CodeDenied, "you are not among the approvers that rule %s names", strings.Join(r.Rules, ", ")).
		WithHint("ask one of these: %s", strings.Join(names, "; and of "))
}

// authorities returns in whose right the caller decides on a request: their own, and those of people who have delegated to them, as these
// stand now. Who lost the role lends nothing, and neither does who asked for it, or answers for who did (P6).
func (b *Broker) authorities(tx Tx, c access.Caller, r access.Request, now time.Time) ([]access.Authority, error) {
	out := []access.Authority{{Name: c.Name, Groups: b.cfg.Policy().GroupsOf(c)}}
	ds, err := delegations(tx, now)
	if err != nil {
		return nil, err
	}
	for _, d := range ds {
		if !access.SamePerson(d.To, c.Name) || access.SamePerson(d.From, r.Requester) || access.SamePerson(d.From, r.Sponsor) {
			continue
		}
		from, _, err := b.standing(tx, d.From)
		if err != nil {
			return nil, err
		}
		if from.Has(access.Approver) {
			out = append(out, access.Authority{Name: d.From, Groups: b.cfg.Policy().GroupsOf(from)})
		}
	}
	return out, nil
}

// lent names those in whose place a review was given, besides the reviewer.
func lent(v access.Review) string {
	var names []string
	for _, a := range v.Authorities {
		if !access.SamePerson(a.Name, v.Reviewer) {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, ",")
}

func narrow(r access.Request, in ReviewInput) (*access.Terms, error) {
	if in.Duration == 0 && in.Source == "" && len(in.Ports) == 0 {
		return nil, nil
	}
	if r.Extends != "" && (in.Source != "" || len(in.Ports) > 0) {
		return nil, invalid("narrow", "request %s extends %s as it stands: its time can be narrowed, not its ports or its source", r.ID, r.Extends).
			WithHint("approve it for less time, or deny it and let them ask for a new grant")
	}
	t := r.Terms
	if in.Duration != 0 {
		t.Duration = in.Duration
	}
	if in.Source != "" {
		src, err := access.ParseSource(in.Source)
		if err != nil {
			return nil, err
		}
		t.Source = src
	}
	if len(in.Ports) > 0 {
		var keep []access.Target
		for _, p := range in.Ports {
			found := false
			for _, o := range r.Terms.Targets {
				if o.Ports.Contains(p) {
					found = true
					o.Ports = p
					keep = append(keep, o)
				}
			}
			if !found {
				return nil, invalid("narrow", "request %s does not ask for port %s", r.ID, p).WithHint("it asks for %s", targetsText(r.Terms.Targets))
			}
		}
		t.Targets = keep
	}
	return &t, nil
}

// effect stores what an approval brings about.
func (b *Broker) effect(tx Tx, c access.Caller, r access.Request, ef access.Effect, now time.Time) ([]access.Grant, error) {
	switch ef := ef.(type) {
	case access.CreateGrants:
		start := ef.StartAt
		if start.Before(now) {
			start = now
		}
		var out []access.Grant
		for _, t := range ef.Terms.Targets {
			g := access.Grant{ID: access.GrantID("g-" + newID()), Request: r.ID, Requester: r.Requester, Target: t, Source: ef.Terms.Source,
				Duration: ef.Terms.Duration, NotBefore: start, State: access.Scheduled, CreatedAt: now, BreakGlass: r.BreakGlass, HardClose: r.HardClose,
				WarnBefore: r.WarnBefore, Notify: r.Notify}
			if err := tx.InsertGrant(g); err != nil {
				return nil, err
			}
			g.Version = 1
			if _, err := tx.Append(grantEntry(b.entry(system, "grant.create", audit.Done, "", "%s may reach %s from %s for %s", g.Requester, g.Target, g.Source, access.Duration(g.Duration)), g)); err != nil {
				return nil, err
			}
			out = append(out, g)
		}
		return out, nil
	case access.ExtendGrant:
		g, err := tx.Grant(ef.Grant)
		if err != nil {
			return nil, err
		}
		if g, err = g.Step(access.ExtendEvent{By: ef.By}, now); err != nil {
			return nil, err
		}
		g.HardClose = g.HardClose || r.HardClose
		if err := tx.UpdateGrant(g); err != nil {
			return nil, err
		}
		g.Version++
		_, err = tx.Append(grantEntry(b.entry(system, "grant.extend", audit.Done, "", "%s lasts until %s", g.ID, access.Clock(g.EndsAt)), g))
		return []access.Grant{g}, err
	}
	return nil, access.Errorf(access.CodeInternal, "unknown effect %T", ef)
}

package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// snapshot returns what is known of all machines.
func (b *Broker) snapshot(ctx context.Context) (*inventory.Snapshot, error) {
	s, err := b.cfg.Inventory.Snapshot(ctx)
	if err != nil {
		return nil, access.Errorf(access.CodeAzureUnavailable, "the machines could not be read from Azure").
			WithHint("try again in a minute; curfew whoami shows whether the server reaches Azure").Wrap(err)
	}
	return s, nil
}

// find resolves a reference, reading everything again once if it is not known.
func (b *Broker) find(ctx context.Context, ref string) (*inventory.Snapshot, inventory.Machine, error) {
	s, err := b.snapshot(ctx)
	if err != nil {
		return nil, inventory.Machine{}, err
	}
	m, err := s.Find(ref)
	if access.CodeOf(err) == access.CodeNotFound && strings.TrimSpace(ref) != "" {
		if fresh, rerr := b.cfg.Inventory.Refresh(ctx); rerr == nil {
			s = fresh
			m, err = s.Find(ref)
		}
	}
	return s, m, err
}

// DefaultPorts is the management port that a machine has by its operating system.
func DefaultPorts(os string) access.Ports {
	if strings.EqualFold(os, "windows") {
		return access.Port(3389)
	}
	return access.Port(22)
}

func invalid(field, format string, args ...any) *access.Error {
	return &access.Error{Code: access.CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// checkComment cleans what a person says about a decision, and bounds it.
func checkComment(s string) (string, error) {
	if len(s) > 500 {
		return "", invalid("comment", "the comment is longer than 500 bytes").WithHint("say it shorter")
	}
	return clean(s), nil
}

func vmOf(m inventory.Machine) access.VM { return access.VM{ID: m.ID, Name: m.Name, VMID: m.VMID} }

// draft is a request that has been checked against everything but the store.
type draft struct {
	terms    access.Terms
	limits   access.Limits
	snapshot *inventory.Snapshot
	machines []inventory.Machine
}

func (b *Broker) draft(ctx context.Context, c access.Caller, in RequestInput) (draft, error) {
	var d draft
	if len(in.VMs) == 0 {
		return d, invalid("vm", "no machine was named").WithHint("name it by name, group/name or resource id")
	}
	if len(in.VMs) > 50 || len(in.Ports) > 20 {
		return d, invalid("vm", "a request holds at most 50 machines and 20 ports each").WithHint("ask in several requests")
	}
	src, err := callerSource(in.Source, c.Address)
	if err != nil {
		return d, err
	}
	proto := in.Protocol
	if proto == "" {
		proto = access.TCP
	}
	if proto != access.TCP && proto != access.UDP {
		return d, invalid("protocol", "protocol %.80q is neither tcp nor udp", proto).WithHint("leave it out for tcp")
	}
	d.terms = access.Terms{Source: src, Duration: in.Duration}
	for _, ref := range in.VMs {
		s, m, err := b.find(ctx, ref)
		if err != nil {
			return d, err
		}
		d.snapshot = s
		if why := s.UnprotectableReason(m); why != "" {
			return d, access.Errorf(access.CodeUnprotectable, "%s cannot be opened just in time: %s", m.Name, why).
				WithHint("see how it is reached with: curfew vm show %s", m.Name)
		}
		if slices.ContainsFunc(d.machines, func(x inventory.Machine) bool { return access.SameVM(x.ID, m.ID) }) {
			return d, invalid("vm", "%s is named twice", m.Name).WithHint("name each machine once")
		}
		if src.Addr().Is6() && !hasIPv6(m) {
			return d, invalid("source", "%s is an IPv6 source, and %s has no IPv6 address", src, m.Name).WithHint("name an IPv4 address with --from")
		}
		if src.Addr().Is4() && !hasIPv4(m) {
			return d, invalid("source", "%s is an IPv4 source, and %s has no IPv4 address", src, m.Name).WithHint("name an IPv6 address with --from")
		}
		d.machines = append(d.machines, m)
		ports := in.Ports
		if len(ports) == 0 {
			ports = []access.Ports{DefaultPorts(m.OS)}
		}
		for _, p := range ports {
			if !p.Valid() {
				return d, invalid("port", "a port is missing or out of range: ports run from 1 to 65535").WithHint("name a port like 22, or a range like 8000-8010")
			}
			t := access.Target{VM: vmOf(m), Ports: p, Protocol: proto}
			if slices.ContainsFunc(d.terms.Targets, func(o access.Target) bool { return access.SameVM(o.VM.ID, t.VM.ID) && o.Ports.Overlaps(p) }) {
				return d, invalid("port", "port %s of %s is named twice", p, m.Name).WithHint("name each port once")
			}
			d.terms.Targets = append(d.terms.Targets, t)
		}
	}
	for _, t := range d.terms.Targets {
		prot, _ := b.index.protection(t.VM.ID)
		if err := prot.Check(t, src, in.Duration); err != nil {
			return d, err
		}
	}
	d.limits, err = b.decide(c.Name, d.terms, in.StartAt, in.Reason, in.Ticket, 0, d.snapshot)
	return d, err
}

// decide asks the policy for all targets of the terms, the strictest of them.
func (b *Broker) decide(who string, t access.Terms, start time.Time, reason, ticket string, held time.Duration, s *inventory.Snapshot) (access.Limits, error) {
	var out access.Limits
	for i, target := range t.Targets {
		group, sub := "", ""
		if m, err := s.Find(target.VM.ID); err == nil {
			group, sub = m.Group, m.Subscription
		}
		one := t
		one.Targets = []access.Target{target}
		l, err := b.cfg.Policy().Decide(access.Ask{Requester: who, Subscription: sub, Group: group, Terms: one, StartAt: start, Reason: reason,
			Ticket: ticket, Held: held, Extension: held > 0}, b.Now())
		if err != nil {
			return l, err
		}
		if i == 0 {
			out = l
		} else {
			out = out.Strictest(l)
		}
	}
	return out, nil
}

func hasIPv6(m inventory.Machine) bool {
	for _, e := range m.Endpoints {
		for _, a := range e.Addrs {
			if a.Is6() {
				return true
			}
		}
	}
	return false
}

func hasIPv4(m inventory.Machine) bool {
	for _, e := range m.Endpoints {
		for _, a := range e.Addrs {
			if a.Is4() {
				return true
			}
		}
	}
	return false
}

// CreateRequest implements Service.
func (b *Broker) CreateRequest(ctx context.Context, c access.Caller, in RequestInput) (access.Request, error) {
	const action = "request.create"
	if err := b.need(ctx, c, action, strings.Join(in.VMs, ","), access.Requester); err != nil {
		return access.Request{}, err
	}
	hash := bodyHash(in)
	if r, ok, err := b.remembered(ctx, c, in.Key, hash); ok || err != nil {
		return r, err
	}
	d, err := b.draft(ctx, c, in)
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, strings.Join(in.VMs, ","), err)
	}
	now := b.Now()
	r := access.Request{ID: access.RequestID("r-" + newID()), Requester: c.Name, Asked: d.terms, Terms: d.terms, StartAt: in.StartAt.UTC(), Reason: clean(in.Reason),
		Ticket: clean(in.Ticket), Needs: d.limits.Needs, Rules: d.limits.Rules, State: access.Pending, CreatedAt: now, ExpiresAt: now.Add(b.cfg.RequestExpiry)}
	if in.StartAt.IsZero() || in.StartAt.Before(now) {
		r.StartAt = time.Time{}
	} else if r.StartAt.After(r.ExpiresAt) {
		r.ExpiresAt = r.StartAt // a far start may be answered until it comes
	}
	return b.insertRequest(ctx, c, r, in.Key, hash)
}

func (b *Broker) insertRequest(ctx context.Context, c access.Caller, r access.Request, idem, hash string) (access.Request, error) {
	defer b.time.expires(r.ExpiresAt) // at worst it is looked at once too often
	err := b.update(ctx, func(tx Tx) error {
		f := RequestFilter{Requester: r.Requester, States: []access.RequestState{access.Pending}, Page: Page{Limit: 500}}
		pending, _, err := tx.Requests(f)
		if err != nil {
			return err
		}
		for _, p := range pending {
			if p.ExpiresAt.After(r.CreatedAt) && p.Extends == r.Extends && p.StartAt.Equal(r.StartAt) && sameTerms(p.Asked, r.Asked) {
				return access.Errorf(access.CodeConflict, "you have asked for exactly this already: request %s is pending", p.ID).
					WithHint("wait for it with: curfew request show %s --wait, or take it back with: curfew request cancel %s", p.ID, p.ID)
			}
		}
		if len(pending) >= 100 {
			return access.Errorf(access.CodeRateLimited, "you have %d pending requests, which is as many as one person may", len(pending)).WithHint("cancel some with: curfew request cancel ID")
		}
		if err := tx.InsertRequest(r); err != nil {
			return err
		}
		if idem != "" {
			if err := tx.Remember(c.Name, idem, hash, string(r.ID), r.CreatedAt); err != nil {
				return err
			}
		}
		what := "asks for"
		if r.Extends != "" {
			what = "asks to extend " + string(r.Extends) + " on"
		}
		e := requestEntry(b.entry(c, "request.create", audit.Done, "", "%s %s %s from %s for %s", c.Name, what, targetsText(r.Terms.Targets), r.Terms.Source, access.Duration(r.Terms.Duration)), r)
		_, err = tx.Append(detail(e, "reason", r.Reason, "ticket", r.Ticket, "rules", strings.Join(r.Rules, ","), "source", r.Terms.Source.String(), "for", access.Duration(r.Terms.Duration).String()))
		return err
	})
	if access.CodeOf(err) == access.CodeConflict && idem != "" {
		// Two calls with one key at the same instant: the second gets what the first made.
		if prev, ok, rerr := b.remembered(ctx, c, idem, hash); ok || rerr != nil {
			return prev, rerr
		}
	}
	if err != nil {
		return access.Request{}, err
	}
	r.Version = 1
	return r, nil
}

func sameTerms(a, b access.Terms) bool { return a.Within(b) && b.Within(a) }

func targetsText(ts []access.Target) string {
	var s []string
	for _, t := range ts {
		s = append(s, t.String())
	}
	return strings.Join(s, ", ")
}

// clean makes one line of printable text out of what a person typed.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return ' '
		}
		return r
	}, s))
}

func bodyHash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func (b *Broker) remembered(ctx context.Context, c access.Caller, key, hash string) (r access.Request, found bool, err error) {
	if key == "" {
		return r, false, nil
	}
	if len(key) > 200 {
		return r, false, invalid("key", "the idempotency key is longer than 200 bytes").WithHint("use a random one, such as a UUID")
	}
	err = b.view(ctx, func(tx Tx) error {
		id, ok, err := tx.Remembered(c.Name, key, hash)
		if err != nil || !ok {
			return err
		}
		found = true
		r, err = tx.Request(access.RequestID(id))
		return err
	})
	return r, found, err
}

// Request implements Service.
func (b *Broker) Request(ctx context.Context, c access.Caller, id access.RequestID) (r access.Request, err error) {
	if err := b.need(ctx, c, "request.read", string(id), anyRole...); err != nil {
		return r, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { r, err = b.visibleRequest(tx, c, id); return err })
	return r, err
}

func (b *Broker) visibleRequest(tx Tx, c access.Caller, id access.RequestID) (access.Request, error) {
	r, err := tx.Request(id)
	if access.CodeOf(err) == access.CodeNotFound || err == nil && !isPrivileged(c) && !access.SamePerson(r.Requester, c.Name) {
		return access.Request{}, notFound("request", string(id)) // the same words for both
	}
	return r, err
}

// Requests implements Service.
func (b *Broker) Requests(ctx context.Context, c access.Caller, f RequestFilter) (out []access.Request, next string, err error) {
	if err := b.need(ctx, c, "request.read", "", anyRole...); err != nil {
		return nil, "", err
	}
	if !isPrivileged(c) {
		f.Requester = c.Name
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, next, err = tx.Requests(f); return err })
	return out, next, err
}

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
	if err := b.need(ctx, c, action, string(id), access.Approver); err != nil {
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
		if r.State == access.Pending && now.Before(r.ExpiresAt) {
			if d == access.Approve {
				if r, err = b.recheck(tx, c, r, snap); err != nil {
					return fail(err)
				}
			} else if l, lerr := b.limitsOf(tx, r, snap); lerr == nil && !l.MayApprove(access.Authority{Name: c.Name}, r.CreatedAt, now) {
				return fail(notAmong(l))
			}
		}
		ev := access.ReviewEvent{By: c.Name, Decision: d, Comment: comment}
		if d == access.Approve && r.State == access.Pending {
			if ev.Narrowed, err = narrow(r, in); err != nil {
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
		for _, ef := range effects {
			gs, err := b.effect(tx, c, out, ef, now)
			if err != nil {
				return fail(err)
			}
			grants = append(grants, gs...)
			for _, g := range gs {
				if out.Extends == "" {
					out.Grants = append(out.Grants, g.ID)
				}
			}
		}
		if err := tx.UpdateRequest(out); err != nil {
			return fail(err)
		}
		out.Version++
		verb := map[access.Decision]string{access.Approve: "approves", access.Deny: "denies"}[d]
		msg := fmt.Sprintf("%s %s %s of %s", c.Name, verb, out.ID, out.Requester)
		if n := out.Missing(); n > 0 {
			msg += fmt.Sprintf("; %d more must agree", n)
		}
		e := requestEntry(b.entry(c, action, audit.Done, "", "%s", msg), out)
		e = detail(e, "comment", ev.Comment, "rules", strings.Join(out.Rules, ","), "source", out.Terms.Source.String(), "for", access.Duration(out.Terms.Duration).String())
		if ev.Narrowed != nil {
			e = detail(e, "narrowed", "yes", "targets", targetsText(out.Terms.Targets))
		}
		if n := access.Approvals(out.Needs); n != access.Approvals(asked.Needs) {
			e = detail(e, "needed", fmt.Sprint(n))
		}
		_, err = tx.Append(e)
		return grants, nil, err
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	if len(grants) > 0 {
		// Whoever goes by the rule's name, a sweep without a database for one, shuts it at the end that stands there.
		if out.Extends != "" {
			b.mu.Lock()
			for _, g := range grants {
				for _, p := range g.Places {
					b.renewed = append(b.renewed, p.ID)
				}
			}
			b.mu.Unlock()
		}
		b.enf.Wake()
	}
	return out, nil
}

// limitsOf asks the policy again about a request, as things are now.
func (b *Broker) limitsOf(tx Tx, r access.Request, s *inventory.Snapshot) (access.Limits, error) {
	if s == nil {
		return access.Limits{}, access.Errorf(access.CodeAzureUnavailable, "the machines could not be read").WithHint("try again in a minute")
	}
	var held time.Duration
	if r.Extends != "" {
		g, err := tx.Grant(r.Extends)
		if err != nil {
			return access.Limits{}, err
		}
		held = g.Duration
	}
	start := r.StartAt
	if start.Before(b.Now()) {
		start = time.Time{} // it was fine when it was asked; the opening is then due at once
	}
	return b.decide(r.Requester, r.Terms, start, r.Reason, r.Ticket, held, s)
}

// recheck asks policy and protection again before an approval: what changed since the asking counts, and only for the stricter.
func (b *Broker) recheck(tx Tx, c access.Caller, r access.Request, s *inventory.Snapshot) (access.Request, error) {
	if access.SamePerson(c.Name, r.Requester) {
		return r, nil // Step refuses it, in the right words
	}
	l, err := b.limitsOf(tx, r, s)
	if err != nil {
		return r, err
	}
	r.Needs = access.Needs(r.Needs, l.Needs)
	total := r.Terms.Duration
	if r.Extends != "" { // several may have been asked for side by side
		g, err := tx.Grant(r.Extends)
		if err != nil {
			return r, err
		}
		total += g.Duration
	}
	for _, t := range r.Terms.Targets {
		p, _ := b.index.protection(t.VM.ID)
		if err := p.Check(t, r.Terms.Source, total); err != nil {
			return r, err
		}
	}
	return r, nil
}

func notAmong(l access.Limits) *access.Error {
	var names []string
	for _, n := range l.Needs {
		for _, s := range n.Steps {
			names = append(names, s.Words())
		}
	}
	return access.Errorf(access.CodeDenied, "you are not among the approvers that rule %s names", strings.Join(l.Rules, ", ")).
		WithHint("ask one of these: %s", strings.Join(names, "; and of "))
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
				Duration: ef.Terms.Duration, NotBefore: start, State: access.Scheduled, CreatedAt: now}
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
		if err := tx.UpdateGrant(g); err != nil {
			return nil, err
		}
		g.Version++
		_, err = tx.Append(grantEntry(b.entry(system, "grant.extend", audit.Done, "", "%s lasts until %s", g.ID, access.Clock(g.EndsAt)), g))
		return []access.Grant{g}, err
	}
	return nil, access.Errorf(access.CodeInternal, "unknown effect %T", ef)
}

// Cancel implements Service.
func (b *Broker) Cancel(ctx context.Context, c access.Caller, id access.RequestID) (out access.Request, err error) {
	const action = "request.cancel"
	if err := b.need(ctx, c, action, string(id), anyRole...); err != nil {
		return out, err
	}
	err = b.update(ctx, func(tx Tx) error {
		r, err := b.visibleRequest(tx, c, id)
		if err != nil {
			return err
		}
		if out, _, err = r.Step(access.CancelEvent{By: c.Name}, b.Now()); err != nil {
			return err
		}
		if err := tx.UpdateRequest(out); err != nil {
			return err
		}
		out.Version++
		_, err = tx.Append(requestEntry(b.entry(c, action, audit.Done, "", "%s takes %s back", c.Name, out.ID), out))
		return err
	})
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	return out, nil
}

// Extend implements Service.
func (b *Broker) Extend(ctx context.Context, c access.Caller, id access.GrantID, by time.Duration, reason, idem string) (access.Request, error) {
	const action = "grant.extend"
	if err := b.need(ctx, c, action, string(id), access.Requester); err != nil {
		return access.Request{}, err
	}
	hash := bodyHash([]any{id, by, reason})
	if r, ok, err := b.remembered(ctx, c, idem, hash); ok || err != nil {
		return r, err
	}
	g, err := b.Grant(ctx, c, id)
	if err != nil {
		return access.Request{}, err
	}
	if !access.SamePerson(g.Requester, c.Name) {
		return access.Request{}, b.refuse(ctx, c, action, string(id), access.Errorf(access.CodeDenied, "grant %s is not yours: only its requester asks for more time", id).
			WithHint("its requester does, with: curfew grant extend %s", id))
	}
	now := b.Now()
	if _, err := g.Step(access.ExtendEvent{By: by}, now); err != nil {
		return access.Request{}, err
	}
	snap, err := b.snapshot(ctx)
	if err != nil {
		return access.Request{}, err
	}
	terms := access.Terms{Targets: []access.Target{g.Target}, Source: g.Source, Duration: by}
	prot, _ := b.index.protection(g.Target.VM.ID)
	if err := prot.Check(g.Target, g.Source, g.Duration+by); err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	// Its ticket is the first request's, and so is its reason where none is given.
	var first access.Request
	if err := b.view(ctx, func(tx Tx) (err error) { first, err = tx.Request(g.Request); return err }); err != nil {
		return access.Request{}, err
	}
	if strings.TrimSpace(reason) == "" {
		reason = first.Reason
	}
	l, err := b.decide(c.Name, terms, time.Time{}, reason, first.Ticket, g.Duration, snap)
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	r := access.Request{ID: access.RequestID("r-" + newID()), Requester: c.Name, Asked: terms, Terms: terms, Reason: clean(reason), Ticket: first.Ticket, Extends: g.ID, Needs: l.Needs,
		Rules: l.Rules, State: access.Pending, CreatedAt: now, ExpiresAt: g.EndsAt}
	return b.insertRequest(ctx, c, r, idem, hash)
}

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
	"github.com/curfew-jit/curfew/internal/notify"
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
	ask      access.Ask
	terms    access.Terms
	limits   access.Limits
	snapshot *inventory.Snapshot
	machines []inventory.Machine
}

// draft checks what is asked for. glass is whether it is to be opened before anybody agrees.
func (b *Broker) draft(ctx context.Context, c access.Caller, in RequestInput, glass bool) (draft, error) {
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
	d.ask = access.Ask{Requester: c.Name, Groups: b.cfg.Policy().GroupsOf(c), Roles: c.Roles, StartAt: in.StartAt, Reason: in.Reason, Ticket: in.Ticket, BreakGlass: glass}
	if in.Duration == 0 {
		d.terms.Duration = time.Hour // so that a refusal is for what matters
		if p, ok := b.cfg.Policy().(interface {
			DefaultDuration(access.Ask, time.Time) time.Duration
		}); ok {
			if v := b.eachTarget(d.with(d.terms), d.snapshot, func(a access.Ask) time.Duration { return p.DefaultDuration(a, b.Now()) }); v > 0 {
				d.terms.Duration = v
			}
		}
	}
	for _, t := range d.terms.Targets {
		prot, _ := b.index.protection(t.VM.ID)
		if err := prot.Check(t, src, d.terms.Duration); err != nil {
			return d, err
		}
	}
	d.ask.Terms = d.terms
	d.limits, err = b.decide(d.ask, d.snapshot)
	return d, err
}

// eachTarget returns the shortest that ask says for a target, those aside for which it says nothing.
func (b *Broker) eachTarget(a access.Ask, s *inventory.Snapshot, ask func(access.Ask) time.Duration) (out time.Duration) {
	for _, t := range a.Terms.Targets {
		if d := ask(about(a, t, s)); d > 0 && (out == 0 || d < out) {
			out = d
		}
	}
	return out
}

func (d draft) with(t access.Terms) access.Ask {
	a := d.ask
	a.Terms = t
	return a
}

// about narrows an ask to one of its targets, with what is known of the machine.
func about(a access.Ask, t access.Target, s *inventory.Snapshot) access.Ask {
	a.Terms.Targets = []access.Target{t}
	a.Group, a.Subscription, a.Tags, a.OS, a.Location = "", "", nil, "", ""
	if m, err := s.Find(t.VM.ID); err == nil {
		a.Group, a.Subscription, a.Tags, a.OS, a.Location = m.Group, m.Subscription, m.Tags, m.OS, m.Location
		if a.Tags == nil {
			a.Tags = map[string]string{} // known to have none
		}
	}
	return a
}

// decide asks the policy for all targets of the ask, the strictest of them.
func (b *Broker) decide(a access.Ask, s *inventory.Snapshot) (access.Limits, error) {
	var out access.Limits
	if len(a.Terms.Targets) == 0 {
		return out, a.Terms.Check()
	}
	for i, target := range a.Terms.Targets {
		l, err := b.cfg.Policy().Decide(about(a, target, s), b.Now())
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
	d, err := b.draft(ctx, c, in, false)
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, strings.Join(in.VMs, ","), err)
	}
	now := b.Now()
	r := newRequest(c, d.ask, d.limits, now)
	r.ExpiresAt = now.Add(b.cfg.RequestExpiry)
	r.StartAt = in.StartAt.UTC()
	if in.StartAt.IsZero() || in.StartAt.Before(now) {
		r.StartAt = time.Time{}
	} else if r.StartAt.After(r.ExpiresAt) {
		r.ExpiresAt = r.StartAt // a far start may be answered until it comes
	}
	return b.insertRequest(ctx, c, r, d.snapshot, in.Key, hash)
}

// newRequest is a request of the caller by these limits, pending.
func newRequest(c access.Caller, a access.Ask, l access.Limits, now time.Time) access.Request {
	return access.Request{ID: access.RequestID("r-" + newID()), Requester: c.Name, Kind: c.Kind, Sponsor: c.Sponsor, Groups: a.Groups, Roles: a.Roles,
		Asked: a.Terms, Terms: a.Terms, Reason: clean(a.Reason), Ticket: clean(a.Ticket), Needs: l.Needs, Auto: l.Auto, Rules: l.Rules, Notify: l.Notify,
		HardClose: l.HardClose, WarnBefore: l.WarnBefore, BreakGlass: a.BreakGlass, State: access.Pending, CreatedAt: now}
}

func (b *Broker) insertRequest(ctx context.Context, c access.Caller, r access.Request, s *inventory.Snapshot, idem, hash string) (access.Request, error) {
	defer b.time.expires(r.ExpiresAt) // at worst it is looked at once too often
	asked := r
	var made access.Request
	var grants []access.Grant
	err := b.change(ctx, func(tx Tx) (_ []access.Grant, _ []access.Protection, err error) {
		grants = nil
		if err := b.checkPending(tx, asked); err != nil {
			return nil, nil, err
		}
		r = asked
		if !r.BreakGlass && len(r.Needs) == 0 { // what nobody has to agree to is judged in the transaction that opens it: two may be asked for side by side
			if r, err = b.recheck(tx, r, r.Terms, s); err != nil {
				return nil, nil, err
			}
		}
		r, effects, err := b.atOnce(r)
		if err != nil {
			return nil, nil, err
		}
		kind, e, err := b.noteRequest(tx, c, r) // before what it brings about
		if err != nil {
			return nil, nil, err
		}
		if grants, err = b.effects(tx, c, &r, effects, r.CreatedAt); err != nil {
			return nil, nil, err
		}
		if r.BreakGlass {
			if err := putAftermath(tx, r, r.CreatedAt); err != nil {
				return nil, nil, err
			}
		}
		if err := tx.InsertRequest(r); err != nil {
			return nil, nil, err
		}
		made = r
		if idem != "" {
			if err := tx.Remember(c.Name, idem, hash, string(r.ID), r.CreatedAt); err != nil {
				return nil, nil, err
			}
		}
		return grants, nil, b.tellRequest(tx, kind, e, r)
	})
	if access.CodeOf(err) == access.CodeConflict && idem != "" {
		// Two calls with one key at the same instant: the second gets what the first made.
		if prev, ok, rerr := b.remembered(ctx, c, idem, hash); ok || rerr != nil {
			return prev, rerr
		}
	}
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, requestAction(asked), string(asked.ID), err)
	}
	b.opened(made, grants)
	made.Version = 1
	return made, nil
}

// checkPending refuses what is asked for already, and more than one person may ask for at a time.
func (b *Broker) checkPending(tx Tx, r access.Request) error {
	f := RequestFilter{Requester: r.Requester, States: []access.RequestState{access.Pending}, Page: Page{Limit: 500}}
	if r.BreakGlass { // who breaks the glass may have asked in the ordinary way, and not been heard
		unseen, err := tx.Records(RecordAftermath, r.Requester)
		if err == nil && len(unseen) >= maxUnseen {
			return access.Errorf(access.CodeRateLimited, "nobody has looked back yet at %d accesses of %s behind broken glass, which is as many as may be", len(unseen), r.Requester).
				WithHint("have an approver look back at them: curfew break-glass list; or ask in the usual way: curfew request create")
		}
		return err
	}
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
	return nil
}

// atOnce approves what needs nobody: what breaks the glass, and what the policy approves by itself.
func (b *Broker) atOnce(r access.Request) (access.Request, []access.Effect, error) {
	var ev access.Event
	switch {
	case r.BreakGlass:
		ev = access.BreakGlassEvent{}
	case len(r.Needs) == 0 && len(r.Auto) > 0:
		ev = access.AutoEvent{}
	default:
		return r, nil, nil
	}
	if b.Hold() != "" {
		return r, nil, b.heldError()
	}
	return r.Step(ev, r.CreatedAt)
}

// effects stores what an approval brings about, and names it in the request.
func (b *Broker) effects(tx Tx, c access.Caller, r *access.Request, effects []access.Effect, now time.Time) (out []access.Grant, err error) {
	for _, ef := range effects {
		gs, err := b.effect(tx, c, *r, ef, now)
		if err != nil {
			return nil, err
		}
		out = append(out, gs...)
		for _, g := range gs {
			if r.Extends == "" {
				r.Grants = append(r.Grants, g.ID)
			}
		}
	}
	return out, nil
}

// opened has what an approval brought about done.
func (b *Broker) opened(r access.Request, grants []access.Grant) {
	if len(grants) == 0 {
		return
	}
	// Whoever goes by the rule's name, a sweep without a database for one, shuts it at the end that stands there.
	if r.Extends != "" {
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

func requestAction(r access.Request) string {
	switch {
	case r.BreakGlass:
		return "request.break_glass"
	case r.Extends != "":
		return "grant.extend"
	}
	return "request.create"
}

// noteRequest records a new request, and returns what is to be told of it.
func (b *Broker) noteRequest(tx Tx, c access.Caller, r access.Request) (notify.Kind, audit.Entry, error) {
	what, action := "asks for", "request.create"
	switch {
	case r.BreakGlass:
		what, action = "BREAKS THE GLASS for", "request.break_glass"
	case r.Extends != "":
		what = "asks to extend " + string(r.Extends) + " on"
	}
	e := requestEntry(b.entry(c, action, audit.Done, "", "%s %s %s from %s for %s", c.Name, what, targetsText(r.Terms.Targets), r.Terms.Source, access.Duration(r.Terms.Duration)), r)
	e = detail(e, "reason", r.Reason, "ticket", r.Ticket, "rules", strings.Join(r.Rules, ","), "source", r.Terms.Source.String(), "for", access.Duration(r.Terms.Duration).String(),
		"sponsor", r.Sponsor)
	e, err := tx.Append(e)
	switch {
	case err != nil:
		return "", e, err
	case r.BreakGlass:
		return notify.BreakGlass, e, nil
	case r.State == access.Approved:
		e, err := tx.Append(detail(requestEntry(b.entry(system, "request.approve", audit.Done, "", "rule %s approves %s of %s by itself", strings.Join(r.Auto, ", "), r.ID, r.Requester), r),
			"rules", strings.Join(r.Rules, ","), "auto", strings.Join(r.Auto, ",")))
		return notify.RequestApproved, e, err
	}
	return notify.RequestCreated, e, nil
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
		e, err := tx.Append(requestEntry(b.entry(c, action, audit.Done, "", "%s takes %s back", c.Name, out.ID), out))
		if err != nil {
			return err
		}
		return b.tellRequest(tx, notify.RequestCancelled, e, out)
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
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
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
	ask := access.Ask{Requester: c.Name, Groups: b.cfg.Policy().GroupsOf(c), Roles: c.Roles, Terms: terms, Reason: reason, Ticket: first.Ticket,
		StartAt: g.EndsAt, Held: g.Duration, Extension: true, Extensions: g.Extensions}
	l, err := b.decide(ask, snap)
	if err != nil {
		return access.Request{}, b.refuse(ctx, c, action, string(id), err)
	}
	r := newRequest(c, ask, l, now)
	r.Extends, r.ExpiresAt = g.ID, g.EndsAt
	return b.insertRequest(ctx, c, r, snap, idem, hash)
}

package server

import (
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// each converts a list. The result is never nil: on the wire a list is [], not null.
func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, 0, len(in))
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

// some is each for lists that are left out when they are empty.
func some[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	return each(in, f)
}

func same[T any](v T) T { return v }

func text[T ~string](v T) string { return string(v) }

func list[A, B any](in []A, next string, f func(A) B) *answer[api.List[B]] {
	return &answer[api.List[B]]{Body: api.List[B]{Items: each(in, f), Next: next}}
}

// utc makes instants the same on the wire wherever they come from; zero stays zero, and is left out there.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func vmRef(v access.VM) api.VMRef { return api.VMRef{ID: v.ID, Name: v.Name, VMID: v.VMID} }

func exposure(e broker.Exposure) api.Exposure {
	return api.Exposure{Port: e.Ports, Protocol: e.Proto, From: e.From, Rule: e.Rule, Allowed: e.Allowed, Unknown: e.Unknown}
}

func protectedPort(p access.ProtectedPort) api.ProtectedPort {
	return api.ProtectedPort{Port: p.Ports, Protocol: p.Protocol, Max: api.Duration(p.Max), Sources: p.Sources}
}

func exemption(e access.Exemption) api.Exemption {
	return api.Exemption{Name: e.Name, Source: e.Source}
}

func places(in []access.Place) []string {
	return some(in, func(p access.Place) string { return p.ID })
}

func protection(p access.Protection) api.Protection {
	return api.Protection{VM: vmRef(p.VM), State: p.State, Why: p.Why, Ports: each(p.Ports, protectedPort), Exemptions: each(p.Exemptions, exemption),
		Replaced: some(p.Replaced, func(r access.Replacement) api.Replacement { return api.Replacement{NSG: r.NSG, Rule: r.Rule, By: r.By} }),
		By:       p.By, At: utc(p.At), CheckedAt: utc(p.CheckedAt), NSGs: places(p.Places)}
}

func (s *Server) vm(v broker.VMInfo) api.VM {
	out := api.VM{VMRef: vmRef(v.VM), State: v.State, Why: v.Why, Group: v.Group, Subscription: v.Subscription, Location: v.Location, OS: v.OS, Tags: v.Tags,
		PrivateIPs: each(v.PrivateIPs, same), PublicIPs: each(v.PublicIPs, same), Connect: v.Connect, NSGs: each(v.NSGs, same),
		Exposures: some(v.Exposures, exposure), Grants: some(v.Grants, s.grant), ReadAt: utc(v.ReadAt)}
	if v.Protection != nil {
		p := protection(*v.Protection)
		out.Protection = &p
	}
	return out
}

func protectInput(in api.ProtectInput) broker.ProtectInput {
	return broker.ProtectInput{VMs: in.VMs, Off: in.Off, NoExempt: in.NoExempt, CreateNSG: in.CreateNSG, Replace: in.Replace, Digest: in.Digest,
		Ports: some(in.Ports, func(p api.ProtectedPort) access.ProtectedPort {
			return access.ProtectedPort{Ports: p.Port, Protocol: p.Protocol, Max: time.Duration(p.Max), Sources: p.Sources}
		}),
		Exemptions: some(in.Exemptions, func(e api.Exemption) access.Exemption { return access.Exemption{Name: e.Name, Source: e.Source} })}
}

func protectPlan(p broker.ProtectPlan) api.ProtectPlan {
	return api.ProtectPlan{Digest: p.Digest, VMs: each(p.VMs, vmPlan), Changes: each(p.Changes, change), Problems: each(p.Problems, trouble), Applied: p.Applied}
}

func vmPlan(p broker.VMPlan) api.VMPlan {
	return api.VMPlan{VM: vmRef(p.VM), Group: p.Group, Ports: each(p.Ports, protectedPort), Exemptions: each(p.Exemptions, exemption),
		Before: each(p.Before, exposure), After: each(p.After, exposure), Loses: each(p.Loses, exposure), Grants: some(p.Grants, text),
		Error: p.Error, Hint: p.Hint, State: p.State}
}

func change(c enforce.Change) api.Change {
	return api.Change{Place: c.Place, Kind: string(c.Kind), Rule: c.Rule, Priority: c.Priority, Access: c.Access, Summary: c.Summary, Why: c.Why}
}

func trouble(p enforce.Problem) api.Trouble {
	return api.Trouble{Place: p.Place, VM: p.VM, Grants: some(p.Grants, text), Rule: p.Rule, Message: p.Message, Hint: p.Hint}
}

func terms(t access.Terms) api.Terms {
	return api.Terms{Source: t.Source, Duration: api.Duration(t.Duration), Targets: each(t.Targets, func(t access.Target) api.Target {
		return api.Target{VM: vmRef(t.VM), Port: t.Ports, Protocol: t.Protocol}
	})}
}

func request(r access.Request) api.Request {
	return api.Request{ID: string(r.ID), State: r.State, Requester: r.Requester, Asked: terms(r.Asked), Terms: terms(r.Terms), Reason: r.Reason,
		Ticket: r.Ticket, Extends: string(r.Extends), Needed: access.Approvals(r.Needs), Missing: r.Missing(), Rules: each(r.Rules, same),
		Reviews: each(r.Reviews, review), Grants: each(r.Grants, text), StartAt: utc(r.StartAt), CreatedAt: utc(r.CreatedAt),
		ExpiresAt: utc(r.ExpiresAt), DecidedAt: utc(r.DecidedAt), Waiting: waiting(r), Digest: r.Digest(), Auto: some(r.Auto, same),
		Comments: some(r.Comments, func(c access.Comment) api.Comment { return api.Comment{By: c.By, At: utc(c.At), Text: c.Text} }), Sponsor: r.Sponsor,
		BreakGlass: r.BreakGlass, Aftermath: aftermath(r.Aftermath)}
}

func waiting(r access.Request) []api.Waiting {
	if r.State != access.Pending {
		return nil
	}
	return some(access.Outstanding(r.Needs, r.Reviews, r.CreatedAt), func(w access.Waiting) api.Waiting {
		return api.Waiting{Rule: w.Rule, Step: w.Step.Name, Approvers: w.Step.Approvers, Missing: w.Missing}
	})
}

func aftermath(a *access.Aftermath) *api.Aftermath {
	if a == nil {
		return nil
	}
	return &api.Aftermath{Open: a.Open(), ClosedBy: a.ClosedBy, ClosedAt: utc(a.ClosedAt), Comment: a.Comment}
}

func review(v access.Review) api.Review {
	out := api.Review{Reviewer: v.Reviewer, Decision: string(v.Decision), Comment: v.Comment, At: utc(v.At), Via: v.Via}
	for _, a := range v.Authorities {
		if !access.SamePerson(a.Name, v.Reviewer) {
			out.InPlaceOf = append(out.InPlaceOf, a.Name)
		}
	}
	if v.Narrowed != nil {
		n := terms(*v.Narrowed)
		out.Narrowed = &n
	}
	return out
}

func requestInput(in api.RequestInput, key string) broker.RequestInput {
	return broker.RequestInput{VMs: in.VMs, Ports: in.Ports, Protocol: in.Protocol, Source: in.Source, Duration: time.Duration(in.Duration),
		StartAt: utc(in.StartAt), Reason: in.Reason, Ticket: in.Ticket, Key: key}
}

func requestPlan(p broker.RequestPlan) api.RequestPlan {
	l := p.Limits
	return api.RequestPlan{Terms: terms(p.Terms), Approvers: each(p.Approvers, same), WillGetIn: p.WillGetIn, Why: p.Why, Changes: each(p.Changes, change),
		Also: each(p.Also, same), Limits: api.Limits{Rules: each(l.Rules, same), MaxDuration: api.Duration(l.MaxDuration), MaxTotal: api.Duration(l.MaxTotal),
			MaxAhead: api.Duration(l.MaxAhead), WidestIPv4: l.WidestIPv4, WidestIPv6: l.WidestIPv6, Approvals: l.Approvals(), Reason: l.Reason, Ticket: l.Ticket}}
}

func (s *Server) grant(g access.Grant) api.Grant {
	return api.Grant{ID: string(g.ID), State: g.State, Request: string(g.Request), Requester: g.Requester, VM: vmRef(g.Target.VM), Port: g.Target.Ports,
		Protocol: g.Target.Protocol, Source: g.Source, Duration: api.Duration(g.Duration), Ready: g.Ready(), Overdue: g.Overdue(s.clock.Now()),
		Drifted: g.Drifted, BreakGlass: g.BreakGlass, Extensions: g.Extensions, HardClose: g.HardClose, NotBefore: utc(g.NotBefore), StartsAt: utc(g.StartsAt), EndsAt: utc(g.EndsAt), ReadyAt: utc(g.ReadyAt),
		NotReady: g.NotReady, EndReason: string(g.EndReason), EndedBy: g.EndedBy, EndedAt: utc(g.EndedAt), CreatedAt: utc(g.CreatedAt),
		LastError: g.LastError, Restored: g.Restored, NSGs: places(g.Places)}
}

// connectTo picks, of the ways to reach a machine ("203.0.113.5:22", "198.51.100.7:50001 → 22"), those that lead to these ports.
func connectTo(ways []string, ports access.Ports) []string {
	var out []string
	for _, way := range ways {
		_, last, ok := strings.Cut(way, "→")
		if !ok {
			last = way[strings.LastIndex(way, ":")+1:]
		}
		n, err := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if err == nil && ports.Contains(access.Port(uint16(n))) {
			out = append(out, way)
		}
	}
	return out
}

func entry(e audit.Entry) api.AuditEntry {
	return api.AuditEntry{Index: e.Index, At: utc(e.At), Actor: e.Actor, Action: e.Action, Outcome: string(e.Outcome), Object: e.Object, VM: e.VM,
		Request: e.Request, Message: e.Message, Detail: e.Detail, Correlation: e.Correlation, Late: e.Late}
}

func sweepReport(r broker.SweepReport) api.SweepReport {
	return api.SweepReport{At: utc(r.At), Places: r.Places, Live: r.Live, Closed: each(r.Closed, same), Repaired: each(r.Repaired, same),
		Failed: each(r.Failed, same), Unread: each(r.Unread, same)}
}

func status(s broker.Status) api.Status {
	return api.Status{Ready: s.Ready, Hold: s.Hold, Store: s.Store, Azure: s.Azure, SignIn: s.SignIn, Policy: s.Policy, LastSweep: utc(s.LastSweep), Spooled: s.Spooled, Live: s.Live,
		Overdue: s.Overdue, Demo: s.Demo, Version: s.Version}
}

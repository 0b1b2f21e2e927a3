package broker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// ManagementPorts are what an attacker looks for (DESIGN 6).
var ManagementPorts = []access.Ports{access.Port(22), access.Port(3389), access.Port(5985), access.Port(5986)}

func protocolOf(p access.Protocol) netsec.Protocol {
	if p == access.UDP {
		return netsec.UDP
	}
	return netsec.TCP
}

// exposures says what reaches the ports from the Internet and from the virtual network, what exemptions and live grants let in
// aside.
func (b *Broker) exposures(s *inventory.Snapshot, m inventory.Machine, ports []access.ProtectedPort, exempt []access.Exemption) []Exposure {
	nm := s.Netsec(m)
	var out []Exposure
	for _, q := range ports {
		reach, _ := nm.Reachable(protocolOf(q.Protocol), netsec.PortRange{First: q.Ports.First, Last: q.Ports.Last})
		out = append(out, exposuresOf(q, reach.Except(b.accounted(m, q, exempt)), "the virtual network")...)
	}
	return out
}

// exposuresOf puts a reach into words, one for each rule and zone.
func exposuresOf(q access.ProtectedPort, reach netsec.Reach, network string) []Exposure {
	var out []Exposure
	for _, z := range []struct {
		name string
		zone netsec.Zone
	}{{"the Internet", reach.Internet}, {network, reach.VirtualNetwork}, {"other private networks", reach.Other}} {
		seen := map[string]int{}
		for _, piece := range z.zone.Open {
			if z.name == "other private networks" && piece.Access != netsec.Allow {
				continue
			}
			rule := ruleName(piece.Rule)
			if rule == "" {
				rule = "the lack of any network security group"
			}
			k := rule + "|" + piece.Access.String()
			e := Exposure{Ports: q.Ports, Proto: q.Protocol, From: z.name, Rule: rule, Allowed: piece.Access == netsec.Allow}
			if piece.Tag != "" {
				e.From = "service tag " + piece.Tag
				k += piece.Tag
			} else if z.name == "the Internet" && !z.zone.Exposed() {
				e.From = rangesText(piece.IPs)
			}
			if piece.Access == netsec.Unknown {
				if e.Unknown = piece.Why; e.Unknown == "" {
					e.Unknown = "the rules do not settle it"
				}
			}
			if i, ok := seen[k]; ok {
				if out[i].From != e.From && !strings.Contains(out[i].From, e.From) && len(out[i].From) < 120 {
					out[i].From += ", " + e.From
				}
				continue
			}
			seen[k] = len(out)
			out = append(out, e)
		}
	}
	return out
}

// accounted returns what tells whether a piece is let in by a rule of ours, and is no more than what a named exemption or a live
// grant on the machine lets in. The name alone says nothing: anybody who may write rules can give it to one of his own (P4).
func (b *Broker) accounted(m inventory.Machine, q access.ProtectedPort, exempt []access.Exemption) func(*netsec.PathPiece) bool {
	granted := sync.OnceValue(func() (out []netip.Prefix) {
		b.index.holding(m.ID, b.Now(), func(g access.Grant) {
			if g.Target.Protocol == q.Protocol && g.Target.Ports.Overlaps(q.Ports) {
				out = append(out, g.Source)
			}
		})
		return out
	})
	return func(p *netsec.PathPiece) bool {
		h, ok := enforce.ParseName(p.Rule.Name)
		if !ok || h.Installation != b.cfg.Installation || p.IPs == nil || p.Tag != "" {
			return false
		}
		var in []netip.Prefix
		switch h.Kind {
		case enforce.KindAllow:
			in = granted()
		case enforce.KindExempt:
			for _, e := range exempt {
				if src, err := netip.ParsePrefix(e.Source); err == nil {
					in = append(in, src)
				}
			}
		}
		var left netipx.IPSetBuilder
		left.AddSet(p.IPs)
		for _, x := range in {
			left.RemovePrefix(x)
		}
		rest, err := left.IPSet()
		return err == nil && len(rest.Ranges()) == 0
	}
}

func ruleName(r *netsec.RuleRef) string {
	if r == nil {
		return ""
	}
	if g := lastPart(r.GroupID); g != "" {
		return g + "/" + r.Name
	}
	return r.Name
}

func rangesText(s *netipx.IPSet) string {
	if s == nil {
		return "nowhere"
	}
	ps := s.Prefixes()
	var out []string
	for i, p := range ps {
		if i == 3 {
			out = append(out, fmt.Sprintf("%d more ranges", len(ps)-3))
			break
		}
		if p.IsSingleIP() {
			out = append(out, p.Addr().String())
		} else {
			out = append(out, p.String())
		}
	}
	return strings.Join(out, ", ")
}

// loses says who gets in to the ports before and does not after, at any address of the machine. Who is exempt or holds a live grant
// does not lose; the platform's own address, from which probes come, is left out.
func loses(before, after netsec.Machine, ports []access.ProtectedPort) []Exposure {
	var out []Exposure
	for _, q := range ports {
		had, _ := before.Reachable(protocolOf(q.Protocol), netsec.PortRange{First: q.Ports.First, Last: q.Ports.Last})
		lost := lostBy(before, after, q)
		network := "the virtual network"
		for _, r := range had.VirtualNetwork.Allowed.Ranges() {
			if !lost.VirtualNetwork.Allowed.ContainsRange(r) {
				network = "the rest of the virtual network"
			}
		}
		out = append(out, exposuresOf(q, lost, network)...)
	}
	return out
}

// lostBy is the reach that was, at any address of the machine, and is no more.
func lostBy(before, after netsec.Machine, q access.ProtectedPort) netsec.Reach {
	var lost netsec.Reach
	for _, e := range before {
		i := slices.IndexFunc(after, func(x netsec.Endpoint) bool { return key(x.NIC) == key(e.NIC) && x.IPConfig == e.IPConfig })
		if i < 0 {
			continue // it is the same machine, but for groups
		}
		for _, a := range e.Addrs {
			l := netsec.Lost(e.Path, after[i].Path, a, protocolOf(q.Protocol), netsec.PortRange{First: q.Ports.First, Last: q.Ports.Last})
			lost.Internet.Open = append(lost.Internet.Open, l.Internet.Open...)
			lost.VirtualNetwork.Open = append(lost.VirtualNetwork.Open, l.VirtualNetwork.Open...)
			lost.Other.Open = append(lost.Other.Open, l.Other.Open...)
		}
	}
	return lost.Except(func(*netsec.PathPiece) bool { return false })
}

// VMs implements Service.
func (b *Broker) VMs(ctx context.Context, c access.Caller, query string) ([]VMInfo, error) {
	if err := b.need(ctx, c, "vm.read", "", anyRole...); err != nil {
		return nil, err
	}
	s, err := b.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	byVM := b.grantsByVM(c)
	var out []VMInfo
	q := strings.ToLower(strings.TrimSpace(query))
	for _, m := range s.Machines() {
		if q != "" && !strings.Contains(strings.ToLower(m.Name), q) && !strings.Contains(strings.ToLower(m.Group+"/"+m.Name), q) && !strings.Contains(key(m.ID), q) {
			continue
		}
		out = append(out, b.info(s, m, byVM[key(m.ID)]))
	}
	rank := map[string]int{"ineffective": 0, "exposed": 1, "unknown": 2, "unprotected": 3, "unprotectable": 4, "protecting": 5, "protected": 6}
	slices.SortStableFunc(out, func(a, b VMInfo) int {
		if d := rank[a.State] - rank[b.State]; d != 0 {
			return d
		}
		return strings.Compare(strings.ToLower(a.VM.Name+a.VM.ID), strings.ToLower(b.VM.Name+b.VM.ID))
	})
	return out, nil
}

func (b *Broker) grantsByVM(c access.Caller) map[string][]access.Grant {
	out := map[string][]access.Grant{}
	b.index.each(func(g access.Grant) {
		if isPrivileged(c) || access.SamePerson(g.Requester, c.Name) {
			out[key(g.Target.VM.ID)] = append(out[key(g.Target.VM.ID)], g)
		}
	})
	for _, gs := range out {
		slices.SortFunc(gs, func(a, b access.Grant) int { return a.CreatedAt.Compare(b.CreatedAt) })
	}
	return out
}

// VM implements Service. It reads the machine from Azure itself.
func (b *Broker) VM(ctx context.Context, c access.Caller, ref string) (VMInfo, error) {
	if err := b.need(ctx, c, "vm.read", ref, anyRole...); err != nil {
		return VMInfo{}, err
	}
	s, m, err := b.find(ctx, ref)
	if err != nil {
		return VMInfo{}, err
	}
	if fresh, cerr := b.cfg.Inventory.Confirm(ctx, m.ID); cerr == nil {
		if fm, ferr := fresh.Find(m.ID); ferr == nil {
			s, m = fresh, fm
		}
	} else if access.CodeOf(cerr) == access.CodeNotFound {
		return VMInfo{}, cerr
	} // otherwise what was read before is shown with its age
	return b.info(s, m, b.grantsByVM(c)[key(m.ID)]), nil
}

func (b *Broker) info(s *inventory.Snapshot, m inventory.Machine, grants []access.Grant) VMInfo {
	v := VMInfo{VM: vmOf(m), Group: m.Group, Subscription: m.Subscription, Location: m.Location, OS: m.OS, Tags: m.Tags, NSGs: m.NSGs(), Grants: grants, ReadAt: s.Taken}
	prot, have := b.index.protection(m.ID)
	ways := []access.Ports{DefaultPorts(m.OS)}
	for _, q := range prot.Ports {
		if !slices.Contains(ways, q.Ports) {
			ways = append(ways, q.Ports)
		}
	}
	for _, e := range m.Endpoints {
		for _, a := range e.Addrs {
			if !slices.Contains(v.PrivateIPs, a) {
				v.PrivateIPs = append(v.PrivateIPs, a)
			}
		}
		for _, p := range e.Public {
			if !p.Addr.IsValid() {
				continue // Azure has assigned none, or it could not be read
			}
			if !slices.Contains(v.PublicIPs, p.Addr) {
				v.PublicIPs = append(v.PublicIPs, p.Addr)
			}
			for _, port := range ways {
				if line := connectLine(p, port); line != "" && !slices.Contains(v.Connect, line) {
					v.Connect = append(v.Connect, line)
				}
			}
		}
	}
	ports := []access.ProtectedPort{}
	if have {
		v.Protection = &prot
		ports = append(ports, prot.Ports...)
	}
	for _, p := range ManagementPorts {
		if !slices.ContainsFunc(ports, func(q access.ProtectedPort) bool { return q.Protocol == access.TCP && q.Ports.Overlaps(p) }) {
			ports = append(ports, access.ProtectedPort{Ports: p, Protocol: access.TCP})
		}
	}
	v.Exposures = b.exposures(s, m, ports, prot.Exemptions)
	why := s.UnprotectableReason(m)
	switch {
	case len(m.Problems) > 0:
		v.State, v.Why = "unknown", strings.Join(m.Problems, "; ")
	case have && prot.State == access.ProtectionOn:
		v.State = "protected"
		if prot.CheckedAt.After(s.Taken) { // it was seen to be shut since this was read
			v.Exposures = slices.DeleteFunc(v.Exposures, func(e Exposure) bool { _, ok := prot.Covers(e.Ports, e.Proto); return ok })
		}
		for _, e := range v.Exposures { // what is read now outranks what was noted
			if _, ok := prot.Covers(e.Ports, e.Proto); ok {
				v.State, v.Why = "ineffective", fmt.Sprintf("port %s is reachable from %s by %s", e.Ports, e.From, e.Rule)
				break
			}
		}
	case have && prot.State == access.ProtectionPending:
		v.State, v.Why = "protecting", prot.Why
	case have && prot.State == access.ProtectionFailed:
		v.State, v.Why = "ineffective", prot.Why
	case why != "":
		v.State, v.Why = "unprotectable", why
	default:
		v.State = "unprotected"
		for _, e := range v.Exposures {
			if e.Allowed && e.From == "the Internet" && (len(v.PublicIPs) > 0) {
				v.State, v.Why = "exposed", fmt.Sprintf("port %s is open to the Internet by %s", e.Ports, e.Rule)
				break
			}
		}
	}
	return v
}

// connectLine says where a client connects to for a port of the machine.
func connectLine(p inventory.PublicAddr, port access.Ports) string {
	switch {
	case p.Via == "nic":
		return netip.AddrPortFrom(p.Addr, port.First).String()
	case p.BackendPort == port.First && p.FrontendPort != 0:
		line := netip.AddrPortFrom(p.Addr, p.FrontendPort).String()
		if p.FrontendPort != p.BackendPort {
			line += fmt.Sprintf(" → %d", p.BackendPort)
		}
		return line
	}
	return ""
}

// PlanRequest implements Service.
func (b *Broker) PlanRequest(ctx context.Context, c access.Caller, in RequestInput) (RequestPlan, error) {
	if err := b.need(ctx, c, "request.plan", strings.Join(in.VMs, ","), access.Requester); err != nil {
		return RequestPlan{}, err
	}
	d, err := b.draft(ctx, c, in, false)
	if err != nil {
		return RequestPlan{}, err
	}
	plan := RequestPlan{Terms: d.terms, Limits: d.limits, WillGetIn: true}
	for _, p := range b.people(ctx) {
		if p.Has(access.Approver) && !access.SamePerson(p.Name, c.Name) && d.limits.MayApprove(access.Authority{Name: p.Name, Groups: b.cfg.Policy().GroupsOf(p)}, b.Now(), b.Now()) {
			plan.Approvers = append(plan.Approvers, p.Name)
		}
	}
	now := b.Now()
	after := map[string]*inventory.Snapshot{}
	byPlace := map[string][]access.Grant{}
	ids := map[string]string{}
	env := map[string]*inventory.Snapshot{}
	for i, t := range d.terms.Targets {
		k := key(t.VM.ID)
		if after[k] == nil {
			s, err := b.cfg.Inventory.Confirm(ctx, t.VM.ID)
			if err != nil {
				return plan, err
			}
			after[k] = s
		}
		m, err := after[k].Find(t.VM.ID)
		if err != nil {
			return plan, err
		}
		pls, err := b.cfg.Backend.Locate(m, t.Ports, t.Protocol)
		if err != nil {
			return plan, err
		}
		g := access.Grant{ID: access.GrantID(fmt.Sprintf("g-plan%06d", i)), Target: t, Source: d.terms.Source, HardClose: d.limits.HardClose, State: access.Active, StartsAt: now, EndsAt: now.Add(d.terms.Duration), Places: pls}
		for _, pl := range pls {
			byPlace[key(pl.ID)] = append(byPlace[key(pl.ID)], g)
			ids[key(pl.ID)], env[key(pl.ID)] = pl.ID, after[k]
			for _, a := range pl.Addresses {
				for _, o := range d.snapshot.OwnersOf(a, pl.ID) {
					line := fmt.Sprintf("%s has address %s too and is opened with it", o.Name, a)
					if !access.SameVM(o.ID, t.VM.ID) && !slices.Contains(plan.Also, line) {
						plan.Also = append(plan.Also, line)
					}
				}
			}
		}
	}
	for _, k := range sortedKeys(byPlace) {
		res, err := b.cfg.Backend.Sync(ctx, ids[k], enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			open, _, prots := b.WantedAt(ids[k])
			w := Wanted(ids[k], append(open, byPlace[k]...), prots)
			w.Env, w.KeepShields, w.Flush = env[k].EnvOf(ids[k]), b.Hold() != "", b.Flush(ids[k])
			if d.limits.HardClose {
				w.Flush = enforce.FlushOn
			}
			return w, nil
		}})
		if err != nil {
			return plan, b.explain(err)
		}
		plan.Changes = append(plan.Changes, res.Changes...)
		for _, p := range res.Problems {
			plan.WillGetIn, plan.Why = false, p.Message
		}
		for vk, s := range after {
			if res.Snapshot != nil {
				after[vk] = res.Snapshot(s)
			}
		}
	}
	for _, t := range d.terms.Targets {
		m, err := after[key(t.VM.ID)].Find(t.VM.ID)
		if err != nil {
			return plan, err
		}
		if why := b.LetIn(after[key(t.VM.ID)], m, t, d.terms.Source); why != "" && plan.WillGetIn {
			plan.WillGetIn, plan.Why = false, why
		}
	}
	if h := b.Hold(); h != "" {
		plan.WillGetIn, plan.Why = false, b.heldError().Message
	}
	return plan, nil
}

// LetIn judges whether the effective rules let the source in to every port of the target, on at least one of the machine's
// addresses of its family; it returns why not, or "" (P5).
func (b *Broker) LetIn(s *inventory.Snapshot, m inventory.Machine, t access.Target, source netip.Prefix) string {
	why := "the machine has no address of that family"
	var set netipx.IPSetBuilder
	set.AddPrefix(source)
	src, err := set.IPSet()
	if err != nil {
		return err.Error()
	}
	for _, e := range s.Netsec(m) {
		for _, dst := range e.Addrs {
			if dst.Is4() != source.Addr().Is4() {
				continue
			}
			w := b.letInAt(e, dst, t, src)
			if w == "" {
				return ""
			}
			why = w
		}
	}
	return why
}

func (b *Broker) letInAt(e netsec.Endpoint, dst netip.Addr, t access.Target, src *netipx.IPSet) string {
	for _, piece := range e.Path.Sources(dst, protocolOf(t.Protocol), netsec.PortRange{First: t.Ports.First, Last: t.Ports.Last}) {
		if piece.Access == netsec.Allow || !piece.IPs.Overlaps(src) {
			continue
		}
		if piece.Access == netsec.Unknown {
			return fmt.Sprintf("it could not be judged whether %s lets this source in: %s", ruleName(piece.Rule), piece.Why)
		}
		if piece.Decider >= 0 && piece.Decider < len(piece.Hops) {
			h := piece.Hops[piece.Decider]
			if h.Rule != nil {
				return fmt.Sprintf("%s (%s) denies port %s at priority %d", ruleName(h.Rule), h.Layer, t.Ports, h.Rule.Priority)
			}
			return fmt.Sprintf("the %s layer denies port %s", h.Layer, t.Ports)
		}
		return fmt.Sprintf("%s denies port %s", ruleName(piece.Rule), t.Ports)
	}
	return ""
}

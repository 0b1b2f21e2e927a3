package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// creator is what a back end can that makes a place where there is none.
type creator interface {
	// PlanPlace says what CreatePlace would make for the machine; attach puts it, empty, into a snapshot.
	PlanPlace(m inventory.Machine) (place string, lines []enforce.Change, attach func(*inventory.Snapshot) *inventory.Snapshot, err error)
	// PlanNew is the dry run of Sync at a place that is not there yet.
	PlanNew(place string, w enforce.Wanted) enforce.Result
	// CreatePlace makes it, and lets in nobody who did not get in before. It may be repeated.
	CreatePlace(ctx context.Context, m inventory.Machine) (string, error)
}

// explain returns an error of the back end as one that a person may see.
func (b *Broker) explain(err error) error {
	if x, ok := b.cfg.Backend.(interface{ Explain(error) error }); ok {
		return x.Explain(err)
	}
	return err
}

// change is a protection change that has been planned.
type change struct {
	plan   ProtectPlan
	prots  []access.Protection // as they shall be stored
	places []string
	create []inventory.Machine
}

// item is one machine of a change.
type item struct {
	m, before       inventory.Machine // as it would be with a group that is yet to be made, and as it is
	snap, untouched *inventory.Snapshot
	old             access.Protection
	have            bool
	newPlace        string
}

// PlanProtect implements Service.
func (b *Broker) PlanProtect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error) {
	if err := b.need(ctx, c, protectAction(in), strings.Join(in.VMs, ","), access.Admin); err != nil {
		return ProtectPlan{}, err
	}
	ch, err := b.planChange(ctx, c, in)
	return ch.plan, err
}

func protectAction(in ProtectInput) string {
	if in.Off {
		return "protection.off"
	}
	return "protection.on"
}

// machine resolves a reference; with off also one of a machine that is gone, and still protected.
func (b *Broker) machine(ctx context.Context, ref string, off bool) (inventory.Machine, error) {
	_, m, err := b.find(ctx, ref)
	if err == nil || !off || access.CodeOf(err) != access.CodeNotFound {
		return m, err
	}
	var found []inventory.Machine
	for _, p := range b.index.protections() {
		_, group := p.VM.Scope()
		if access.SameVM(p.VM.ID, ref) || strings.EqualFold(p.VM.Name, ref) || strings.EqualFold(group+"/"+p.VM.Name, ref) {
			found = append(found, inventory.Machine{ID: p.VM.ID, Name: p.VM.Name, Group: group, VMID: p.VM.VMID})
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return m, err
}

func (b *Broker) checkPorts(in []access.ProtectedPort) ([]access.ProtectedPort, error) {
	out := slices.Clone(in)
	for i := range out {
		p := &out[i]
		if p.Protocol == "" {
			p.Protocol = access.TCP
		}
		switch {
		case p.Protocol != access.TCP && p.Protocol != access.UDP:
			return nil, invalid("protocol", "protocol %.80q is neither tcp nor udp", p.Protocol).WithHint("leave it out for tcp")
		case !p.Ports.Valid():
			return nil, invalid("port", "a port is missing or out of range: ports run from 1 to 65535").WithHint("name a port like 22, or a range like 8000-8010")
		case p.Max != 0 && (p.Max < access.MinDuration || p.Max > access.AbsoluteMax):
			return nil, invalid("max", "longest access time %s is not between %s and %s", access.Duration(p.Max), access.Duration(access.MinDuration), access.Duration(access.AbsoluteMax)).
				WithHint("name one like 3h, or leave it out for the policy's alone")
		}
		for _, s := range p.Sources {
			if _, err := access.CheckSource(s); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// items reads the machines of a change, confirmed with the resource providers before anything is planned.
func (b *Broker) items(ctx context.Context, in ProtectInput) ([]item, error) {
	if len(in.VMs) == 0 {
		return nil, invalid("vm", "no machine was named").WithHint("name it by name, group/name or resource id")
	}
	items := make([]item, len(in.VMs))
	for i, ref := range in.VMs {
		m, err := b.machine(ctx, ref, in.Off)
		if err != nil {
			return nil, err
		}
		for j := range i {
			if access.SameVM(items[j].m.ID, m.ID) {
				return nil, invalid("vm", "%s is named twice", m.Name).WithHint("name each machine once")
			}
		}
		items[i].m = m
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range items {
		it := &items[i]
		it.old, it.have = b.index.protection(it.m.ID)
		g.Go(func() error {
			s, err := b.cfg.Inventory.Confirm(gctx, it.m.ID)
			if in.Off && access.CodeOf(err) == access.CodeNotFound {
				return nil
			}
			if err != nil {
				return err
			}
			m, err := s.Find(it.m.ID)
			it.m, it.snap = m, s
			it.before, it.untouched = m, s
			return err
		})
	}
	return items, g.Wait()
}

func (b *Broker) planChange(ctx context.Context, c access.Caller, in ProtectInput) (change, error) {
	var ch change
	var err error
	if in.Ports, err = b.checkPorts(in.Ports); err != nil {
		return ch, err
	}
	items, err := b.items(ctx, in)
	if err != nil {
		return ch, err
	}
	if !in.Off {
		if err := checkReplace(items, in.Replace); err != nil {
			return ch, err
		}
	}
	wanted := map[string]access.Protection{} // VM key -> as it would be
	places := map[string]string{}
	created := map[string]bool{}
	envs := map[string]*inventory.Snapshot{}
	for i := range items {
		it := &items[i]
		vp := VMPlan{VM: vmOf(it.m), Group: it.m.Group}
		var p access.Protection
		if in.Off {
			p, err = b.planOff(it, &vp)
		} else {
			p, err = b.planOn(it, in, &vp, &ch)
		}
		if err != nil {
			var ae *access.Error
			if !errors.As(err, &ae) {
				return ch, err
			}
			vp.Error, vp.Hint, vp.code = ae.Message, ae.Hint, ae.Code
			ch.plan.VMs = append(ch.plan.VMs, vp)
			if len(items) == 1 {
				return ch, err
			}
			continue
		}
		p.By, p.At, p.VM = c.Name, b.Now(), vmOf(it.m)
		wanted[key(it.m.ID)] = p
		ch.prots = append(ch.prots, p)
		for _, pl := range slices.Concat(p.Places, it.old.Places) {
			places[key(pl.ID)] = pl.ID
		}
		if it.newPlace != "" {
			created[key(it.newPlace)] = true
		}
		if it.snap != nil {
			for _, id := range it.m.NSGs() {
				envs[key(id)] = it.snap
			}
		}
		ch.plan.VMs = append(ch.plan.VMs, vp)
	}
	results := map[string]enforce.Result{}
	for _, k := range sortedKeys(places) {
		id := places[k]
		ch.places = append(ch.places, id)
		var res enforce.Result
		if created[k] {
			res = b.cfg.Backend.(creator).PlanNew(id, b.wantedWith(id, wanted, envs[k]))
		} else if res, err = b.cfg.Backend.Sync(ctx, id, enforce.Sync{DryRun: true, Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) {
			return b.wantedWith(id, wanted, envs[k]), nil
		}}); err != nil {
			return ch, b.explain(err)
		}
		results[k] = res
		ch.plan.Changes = append(ch.plan.Changes, res.Changes...)
		ch.plan.Problems = append(ch.plan.Problems, res.Problems...)
	}
	for i := range ch.plan.VMs {
		if vp := &ch.plan.VMs[i]; items[i].snap != nil && vp.Error == "" {
			if err := b.judge(vp, &items[i], in.Off, results, ch.plan.Problems); err != nil {
				return ch, err
			}
		}
	}
	if !in.Off {
		if err := b.judgeNeighbours(ctx, &ch, wanted, envs, results); err != nil {
			return ch, err
		}
	}
	// The digest binds a confirmation to what was shown: machines, changes and what stays reachable, not when it was computed.
	raw, err := json.Marshal(struct {
		Off bool
		V   []VMPlan
		C   []enforce.Change
		P   []enforce.Problem
	}{in.Off, ch.plan.VMs, ch.plan.Changes, ch.plan.Problems})
	if err != nil {
		return ch, err
	}
	sum := sha256.Sum256(raw)
	ch.plan.Digest = hex.EncodeToString(sum[:8])
	return ch, nil
}

// judgeNeighbours refuses what would take its exemptions from a machine that is protected already and is not asked about: a group is
// laid out as a whole, and a rule that let the exempt in may have to make room.
func (b *Broker) judgeNeighbours(ctx context.Context, ch *change, wanted map[string]access.Protection, groups map[string]*inventory.Snapshot, results map[string]enforce.Result) error {
	var others []access.Protection
	changed := func(p access.Protection) bool {
		return slices.ContainsFunc(p.Places, func(pl access.Place) bool {
			r, ok := results[key(pl.ID)]
			return ok && r.Snapshot != nil && len(r.Changes) > 0
		})
	}
	for _, p := range b.index.protections() {
		if _, asked := wanted[key(p.VM.ID)]; !asked && p.Shields() && len(p.Exemptions) > 0 && changed(p) {
			others = append(others, p)
		}
	}
	if len(others) == 0 {
		return nil
	}
	now, err := b.cfg.Inventory.Snapshot(ctx)
	if err != nil {
		return err
	}
	after := now
	for k, r := range results {
		fresh, ok := groups[k]
		if !ok || r.Snapshot == nil {
			continue
		}
		if n, ok := fresh.NSG(r.Place); ok { // as it was read just now
			now = now.With(n)
			after = r.Snapshot(after)
		}
	}
	for _, p := range others {
		m, err := now.Find(p.VM.ID)
		if err != nil {
			continue // nobody reaches what is gone
		}
		why, hint := exemptLoses(now.Netsec(m), after.Netsec(m), &VMPlan{Ports: p.Ports, Exemptions: p.Exemptions})
		if why == "" {
			continue
		}
		for i := range ch.plan.VMs {
			if vp := &ch.plan.VMs[i]; vp.Error == "" {
				vp.Error, vp.Hint = fmt.Sprintf("it would take from %s, which is protected already: %s", p.VM.Name, why), hint
			}
		}
	}
	return nil
}

// judge says what the planned rules would mean for one machine: who reaches it now, who would still, and who would not (P4).
func (b *Broker) judge(vp *VMPlan, it *item, off bool, results map[string]enforce.Result, problems []enforce.Problem) error {
	after := it.snap
	for _, id := range it.m.NSGs() {
		if r, ok := results[key(id)]; ok && r.Snapshot != nil {
			after = r.Snapshot(after)
		}
	}
	am, err := after.Find(vp.VM.ID)
	if err != nil {
		return err
	}
	vp.Before, vp.After = b.exposures(it.untouched, it.before, vp.Ports, it.old.Exemptions), b.exposures(after, am, vp.Ports, vp.Exemptions)
	was, will := it.untouched.Netsec(it.before), after.Netsec(am)
	vp.Loses = loses(was, will, vp.Ports)
	if it.newPlace != "" { // a group where there was none shuts every other port to the Internet as well
		whole := []access.ProtectedPort{{Ports: access.Ports{First: 1, Last: 65535}, Protocol: access.TCP}, {Ports: access.Ports{First: 1, Last: 65535}, Protocol: access.UDP}}
		vp.Loses = append(vp.Loses, loses(was, will, whole)...)
	}
	if off {
		for _, pr := range problems {
			if r, ok := keptAside(it.old, pr); ok && !pr.Theirs {
				vp.Error, vp.Hint = fmt.Sprintf("%s/%s, which was set aside for it, could not be put back: %s", lastPart(r.NSG), r.Rule, pr.Message), pr.Hint
			}
		}
	}
	if off {
		return nil
	}
	if len(vp.After) == 0 {
		// Shut, but not as it was shown: who is named as exempt would be shut out too.
		vp.Error, vp.Hint = exemptLoses(was, will, vp)
		for _, pr := range problems {
			if pr.Exempt != "" && access.SameVM(pr.VM, vp.VM.ID) {
				vp.Error, vp.Hint = pr.Message, pr.Hint
				break
			}
		}
		return nil
	}
	vp.Error = stillReachable(vp.After[0])
	for _, pr := range problems {
		if pr.Hint != "" && (pr.VM == "" || access.SameVM(pr.VM, vp.VM.ID)) {
			vp.Hint = pr.Hint
		}
	}
	if vp.Hint == "" {
		vp.Hint = "change that rule, or its security admin configuration, and protect again"
	}
	return nil
}

// exemptLoses says which exemption would be one in name alone: a rule lets it in now, which comes to stand behind, or to be set aside
// for, a deny of somebody else's.
func exemptLoses(was, will netsec.Machine, vp *VMPlan) (why, hint string) {
	for _, q := range vp.Ports {
		lost := lostBy(was, will, q)
		for _, piece := range slices.Concat(lost.Internet.Open, lost.VirtualNetwork.Open, lost.Other.Open) {
			for _, e := range vp.Exemptions {
				src, err := netip.ParsePrefix(e.Source)
				if err != nil || piece.Tag != "" || !piece.IPs.OverlapsPrefix(src) {
					continue
				}
				return fmt.Sprintf("exemption %s (%s) of port %s would not keep its way in: it gets in by %s, and behind that another rule denies it", e.Name, e.Source, q.Ports, ruleName(piece.Rule)),
					"move the rule that denies it behind what lets it in, or leave the exemption out"
			}
		}
	}
	return "", ""
}

// keptAside returns the rule that a problem is about, if the protection keeps its original.
func keptAside(p access.Protection, pr enforce.Problem) (access.Replacement, bool) {
	for _, r := range p.Replaced {
		if key(r.NSG) == key(pr.Place) && strings.EqualFold(r.Rule, pr.Rule) {
			return r, true
		}
	}
	return access.Replacement{}, false
}

func stillReachable(e Exposure) string {
	if e.Unknown != "" {
		return fmt.Sprintf("port %s could not be judged from %s: %s", e.Ports, e.From, e.Unknown)
	}
	return fmt.Sprintf("port %s is reachable from %s by %s, before or beside any rule of Curfew's", e.Ports, e.From, e.Rule)
}

func (b *Broker) planOff(it *item, vp *VMPlan) (access.Protection, error) {
	if !it.have {
		return it.old, access.Errorf(access.CodeNotProtected, "%s is not protected", it.m.Name).WithHint("see what is with: curfew vm list")
	}
	vp.Ports, vp.Exemptions = it.old.Ports, it.old.Exemptions
	b.index.each(func(g access.Grant) {
		if access.SameVM(g.Target.VM.ID, it.m.ID) && g.EndReason == "" {
			vp.Grants = append(vp.Grants, g.ID)
		}
	})
	slices.Sort(vp.Grants)
	p := it.old
	p.State, p.Why = access.ProtectionRemoving, ""
	return p, nil
}

func (b *Broker) planOn(it *item, in ProtectInput, vp *VMPlan, ch *change) (access.Protection, error) {
	old := it.old
	if in.CreateNSG && len(it.m.Problems) == 0 && len(it.m.Bare()) > 0 {
		if err := b.planPlace(it, ch); err != nil {
			return old, err
		}
	}
	m, s := it.m, it.snap
	if why := s.UnprotectableReason(m); why != "" {
		e := access.Errorf(access.CodeUnprotectable, "%s cannot be protected as it stands: %s", m.Name, why).WithHint("see how it is reached with: curfew vm show %s", m.Name)
		if len(m.Bare()) > 0 && m.ManagedBy == "" && m.ScaleSet == "" {
			e = e.WithHint("add --create-nsg to make a network security group for it; the plan shows it first")
		}
		return old, e
	}
	p := access.Protection{State: access.ProtectionPending, Consents: slices.Clone(old.Consents), Replaced: old.Replaced, Version: old.Version, Ports: slices.Clone(in.Ports)}
	if !old.Shields() && len(p.Ports) == 0 {
		p.Ports = []access.ProtectedPort{{Ports: DefaultPorts(m.OS), Protocol: access.TCP}}
	}
	fresh := p.Ports
	if old.Shields() { // what is protected stays so, with its limits; what is named anew has new ones
		for _, q := range old.Ports {
			if !slices.ContainsFunc(in.Ports, func(n access.ProtectedPort) bool { return n.Protocol == q.Protocol && n.Ports.Contains(q.Ports) }) {
				p.Ports = append(p.Ports, q)
			}
		}
	}
	if err := exempt(s, m, &p, old, fresh, in); err != nil {
		return old, err
	}
	for _, ref := range in.Replace {
		r, ok, err := consent(it, ref)
		if err != nil {
			return old, err
		}
		if ok && !slices.ContainsFunc(p.Consents, func(o access.RuleRef) bool { return sameRule(o, r) }) {
			p.Consents = append(p.Consents, r)
		}
	}
	if err := b.locate(m, &p); err != nil {
		return old, err
	}
	vp.Ports, vp.Exemptions = p.Ports, p.Exemptions
	return p, nil
}

// planPlace plans a group for a machine that has none, and goes on with the machine as it would be then.
func (b *Broker) planPlace(it *item, ch *change) error {
	cr, ok := b.cfg.Backend.(creator)
	if !ok || it.m.ManagedBy != "" || it.m.ScaleSet != "" {
		return nil // it is said why it cannot be protected
	}
	place, lines, attach, err := cr.PlanPlace(it.m)
	if err != nil {
		return err
	}
	s := attach(it.snap)
	m, err := s.Find(it.m.ID)
	if err != nil {
		return err
	}
	if s.UnprotectableReason(m) != "" {
		return nil // a group would not help
	}
	ch.create = append(ch.create, it.m)
	ch.plan.Changes = append(ch.plan.Changes, lines...)
	it.m, it.snap, it.newPlace = m, s, place
	return nil
}

// widest are the shortest prefixes that an exemption may have: a wider one would leave open what the protection is to shut.
const (
	widestExemptIPv4 = 8
	widestExemptIPv6 = 16
)

// exempt decides which standing ways in protect leaves: those that were named, those of before, and, unless told otherwise, the
// Bastion subnets in reach and the probes of load balancers on what is newly protected.
func exempt(s *inventory.Snapshot, m inventory.Machine, p *access.Protection, old access.Protection, fresh []access.ProtectedPort, in ProtectInput) error {
	add := func(name, source string) {
		if !slices.ContainsFunc(p.Exemptions, func(e access.Exemption) bool { return strings.EqualFold(e.Source, source) }) {
			p.Exemptions = append(p.Exemptions, access.Exemption{Name: name, Source: source})
		}
	}
	for _, e := range in.Exemptions {
		if strings.TrimSpace(e.Name) == "" {
			return invalid("exempt", "the exemption of %.80q has no name", e.Source).WithHint("name it for what it is, for example monitoring=10.0.9.0/28")
		}
		if strings.EqualFold(e.Source, "AzureLoadBalancer") {
			add(e.Name, "AzureLoadBalancer")
			continue
		}
		src, err := access.ParseSource(e.Source)
		if err != nil {
			return invalid("exempt", "exemption %.80q: source %.80q is neither an address, a prefix nor AzureLoadBalancer", e.Name, e.Source).WithHint("name an address or a network, for example 10.0.9.0/28")
		}
		if src.Addr().Is4() && src.Bits() < widestExemptIPv4 || src.Addr().Is6() && src.Bits() < widestExemptIPv6 {
			return invalid("exempt", "exemption %.80q: %s is so wide that the port would not be protected", e.Name, src).
				WithHint("exempt at most a /%d of IPv4 or a /%d of IPv6", widestExemptIPv4, widestExemptIPv6)
		}
		add(e.Name, src.String())
	}
	if in.NoExempt {
		return nil
	}
	if old.Shields() {
		for _, e := range old.Exemptions {
			add(e.Name, e.Source)
		}
	} else {
		for _, bastion := range s.Bastions(m) {
			add("bastion", bastion.String())
		}
	}
	for _, q := range fresh {
		for port := int(q.Ports.First); q.Protocol == access.TCP && port <= int(q.Ports.Last); port++ {
			if s.Probed(m, uint16(port)) {
				add("probe", "AzureLoadBalancer")
				break
			}
		}
	}
	return nil
}

func sameRule(a, b access.RuleRef) bool {
	return key(a.NSG) == key(b.NSG) && strings.EqualFold(a.Rule, b.Rule)
}

// splitRule takes NSG/RULE, or a rule's resource id, apart.
func splitRule(ref string) (nsg, rule string, err error) {
	i := strings.LastIndex(ref, "/")
	if i > 0 {
		nsg, rule = ref[:i], ref[i+1:]
		if j := len(nsg) - len("/securityRules"); strings.HasPrefix(nsg, "/") && j > 0 && strings.EqualFold(nsg[j:], "/securityRules") {
			nsg = nsg[:j]
		}
	}
	if nsg == "" || rule == "" || !strings.HasPrefix(nsg, "/") && strings.Contains(nsg, "/") {
		return "", "", invalid("replace", "%.200q does not name a rule", ref).WithHint("write it as NSG/RULE, for example --replace-rule web-nsg/allow-ssh")
	}
	return nsg, rule, nil
}

// groupsNamed returns which of a machine's groups a name or id means.
func groupsNamed(m inventory.Machine, nsg string) (ids []string) {
	for _, id := range m.NSGs() {
		if key(id) == key(nsg) || strings.EqualFold(lastPart(id), nsg) {
			ids = append(ids, id)
		}
	}
	return ids
}

// checkReplace refuses consents that none of the machines has a group for.
func checkReplace(items []item, refs []string) error {
	for _, ref := range refs {
		nsg, _, err := splitRule(ref)
		if err != nil {
			return err
		}
		var all []string
		found := false
		for _, it := range items {
			found = found || len(groupsNamed(it.m, nsg)) > 0
			for _, id := range it.m.NSGs() {
				all = append(all, lastPart(id))
			}
		}
		if !found {
			return (&access.Error{Code: access.CodeNotFound, Field: "replace", Message: fmt.Sprintf("no network security group %.200q is in the path of what is to be protected", nsg)}).
				WithHint("these are: %s", strings.Join(slices.Compact(all), ", "))
		}
	}
	return nil
}

// consent finds the foreign rule that a person agrees to have replaced (P3); ok is false where it concerns another machine.
func consent(it *item, ref string) (r access.RuleRef, ok bool, err error) {
	nsg, rule, err := splitRule(ref)
	if err != nil {
		return r, false, err
	}
	ids := groupsNamed(it.m, nsg)
	switch {
	case len(ids) == 0:
		return r, false, nil
	case len(ids) > 1:
		return r, false, (&access.Error{Code: access.CodeAmbiguous, Field: "replace", Message: fmt.Sprintf("several groups in the path of %s are called %s", it.m.Name, nsg)}).
			WithHint("name one of: %s", strings.Join(ids, ", "))
	}
	r = access.RuleRef{NSG: ids[0], Rule: rule}
	if strings.HasPrefix(strings.ToLower(rule), "curfew-") {
		return r, false, invalid("replace", "%s is a rule of Curfew's", rule).WithHint("consent is needed for the rules of others alone")
	}
	if slices.ContainsFunc(it.old.Consents, func(o access.RuleRef) bool { return sameRule(o, r) }) {
		return r, true, nil // set aside already, perhaps wholly
	}
	group, read := it.snap.NSG(r.NSG)
	if !read {
		return r, true, nil // nothing is planned for a group that was not read
	}
	have, stands := group.Rule(rule)
	if !stands {
		var names []string
		for _, o := range group.Rules {
			if o.Inbound() {
				names = append(names, o.Name)
			}
		}
		return r, false, (&access.Error{Code: access.CodeNotFound, Field: "replace", Message: fmt.Sprintf("%s has no rule %.100q", lastPart(r.NSG), rule)}).
			WithHint("its inbound rules are: %s", strings.Join(names, ", "))
	}
	r.Rule = have.Name
	return r, true, nil
}

// locate fills in where a protection stands. The groups of rules that it keeps aside are among them, also when the machine has
// moved away from them: what was set aside there is to be put back one day (P3).
func (b *Broker) locate(m inventory.Machine, p *access.Protection) error {
	union := map[string]string{}
	p.Ports = slices.Clone(p.Ports)
	for i := range p.Ports {
		pls, err := b.cfg.Backend.Locate(m, p.Ports[i].Ports, p.Ports[i].Protocol)
		if err != nil {
			return err
		}
		p.Ports[i].Places = pls
		for _, pl := range pls {
			union[key(pl.ID)] = pl.ID
		}
	}
	for _, r := range p.Replaced {
		if union[key(r.NSG)] == "" {
			union[key(r.NSG)] = r.NSG
		}
	}
	p.Places = nil
	for _, k := range sortedKeys(union) {
		p.Places = append(p.Places, access.Place{ID: union[k]})
	}
	return nil
}

func lastPart(id string) string { return id[strings.LastIndex(id, "/")+1:] }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

package fix

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// StepKind says what a step writes to.
type StepKind string

// The kinds of steps, in the order in which they are carried out.
const (
	Protection    StepKind = "protection"     // just-in-time access is switched on, by protect
	JITPolicyStep StepKind = "jit_policy"     // a policy of Defender
	GroupStep     StepKind = "security_group" // one network security group
	ScaleSetStep  StepKind = "scale_set"      // the model of a set, then its instances
	MachineStep   StepKind = "machine"        // one machine's own scheduled events
)

// Step is what is done to one resource, in words that a person confirms.
type Step struct {
	ID       string   `json:"id"`
	Kind     StepKind `json:"kind"`
	Resource string   `json:"resource"` // id of what is written; of a protection, of its first machine
	Title    string   `json:"title"`
	Findings []string `json:"findings"` // ids of what it puts right
	Changes  []Change `json:"changes,omitempty"`
	Writes   []string `json:"writes"`          // what is written, in words
	Keeps    []string `json:"keeps,omitempty"` // what stays reachable
	Loses    []string `json:"loses,omitempty"` // who loses access
	Notes    []string `json:"notes,omitempty"` // what it does not do, and what else is to be known

	name     string // what Resource is called in words
	needs    []need
	removing map[string]bool
	consents map[string]bool
	protect  api.ProtectInput
	planned  []api.Change    // of a protection: what protect would write as everything stands
	bare     []string        // of a protection that makes groups: interfaces without one
	first    bool            // a group that is written before the protections: they find room in what it leaves
	spare    int             // as of a group
	taken    map[int]bool    // the same
	already  map[string]bool // machines that were protected before, by key
	policy   *policyWork
	events   *eventsWork
}

// Left is a finding that is not put right, with the reason and the next step.
type Left struct {
	Finding  string      `json:"finding"`
	Rule     scan.RuleID `json:"rule"`
	Resource string      `json:"resource"`
	Name     string      `json:"name"` // what the resource is called, with its group where it is not the only one of that name
	Why      string      `json:"why"`
	Next     string      `json:"next,omitempty"`
}

// Plan is everything that would be done, decided before anything is.
type Plan struct {
	At     time.Time `json:"at"`
	Steps  []Step    `json:"steps"`
	Left   []Left    `json:"left,omitempty"`   // what no step puts right
	Passes []string  `json:"passes,omitempty"` // ids of findings that hold no more: there is nothing to do
	Notes  []string  `json:"notes,omitempty"`
	Digest string    `json:"digest"` // of the steps: two plans that would do the same have the same

	asked         map[string]scan.Finding
	names         names
	subscriptions []string
	options       Options
}

// builder gathers a plan.
type builder struct {
	f          *Fixer
	o          Options
	now        time.Time
	e          *estate.Estate
	plan       *Plan
	names      names
	overdue    map[string]bool // rules of Defender's that are past their end
	bypasses   []scan.Finding  // bypassed just-in-time access that protect is not asked for
	groups     groups
	steps      map[string]*Step // of groups, by key
	order      []*Step
	nsgErr     map[string]error
	protecting map[string]map[uint16]bool // ports that protections of the plan shut, by machine
}

// Plan decides what would put the findings right, on what the resource providers say now. It writes nothing. Its error means that
// nothing could be decided; what cannot be put right is in the plan, with the reason.
func (f *Fixer) Plan(ctx context.Context, findings []scan.Finding, o Options) (Plan, error) {
	o, err := o.normal()
	if err != nil {
		return Plan{}, err
	}
	p := Plan{At: f.c.Clock.Now(), Steps: []Step{}, asked: map[string]scan.Finding{}, options: o}
	for _, x := range findings {
		if x.Status != scan.Fail {
			continue
		}
		p.asked[x.ID] = x
		if !slices.ContainsFunc(p.subscriptions, func(s string) bool { return strings.EqualFold(s, x.Subscription) }) {
			p.subscriptions = append(p.subscriptions, x.Subscription)
		}
	}
	slices.Sort(p.subscriptions)
	b := &builder{f: f, o: o, now: p.At, plan: &p, groups: groups{}, steps: map[string]*Step{}, nsgErr: map[string]error{}, protecting: map[string]map[uint16]bool{}}
	if len(p.asked) > 0 {
		if b.e, err = f.c.Read(ctx, p.subscriptions); err != nil {
			return Plan{}, err
		}
		if err := b.build(ctx); err != nil {
			return Plan{}, err
		}
		if err := ctx.Err(); err != nil { // what could not be read any more would be left for the wrong reason
			return Plan{}, err
		}
	}
	p.Digest, p.names = digest(p.Steps), b.names
	return p, nil
}

func digest(steps []Step) string {
	b, _ := json.Marshal(steps) // strings, numbers and lists of them
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

func (b *builder) left(x scan.Finding, next, format string, args ...any) {
	l := Left{Finding: x.ID, Rule: x.Rule, Resource: x.Resource, Name: b.names.of(x.Resource), Why: fmt.Sprintf(format, args...), Next: next}
	if !slices.Contains(b.plan.Left, l) { // of several ports or ways it is said once
		b.plan.Left = append(b.plan.Left, l)
	}
}

func (b *builder) build(ctx context.Context) error {
	fresh := map[string]scan.Finding{}
	for _, x := range b.f.c.Judge(b.e) {
		fresh[x.ID] = x
	}
	b.names, b.overdue = namesIn(b.e), overdueRules(fresh)
	if err := errors.Join(b.exact("replace-rule", b.o.ReplaceRules), b.exact("remove-defender-rule", b.o.RemoveDefender)); err != nil {
		return err
	}
	var todo []scan.Finding
	for id, was := range b.plan.asked {
		x, ok := fresh[id]
		switch {
		case !ok || x.Status == scan.Pass || x.Status == scan.NotApplicable:
			b.plan.Passes = append(b.plan.Passes, id)
		case x.Status == scan.Unknown:
			b.left(was, "make it readable, and run fix again", "it cannot be decided on what Azure says now: %s", x.Reason)
		default:
			todo = append(todo, x)
		}
	}
	slices.Sort(b.plan.Passes)
	slices.SortFunc(todo, func(x, y scan.Finding) int {
		return cmp.Or(cmp.Compare(azure.Key(x.Resource), azure.Key(y.Resource)), cmp.Compare(x.Rule, y.Rule))
	})
	by := map[scan.RuleID][]scan.Finding{}
	for _, x := range todo {
		by[x.Rule] = append(by[x.Rule], x)
	}
	// What is removed first, so that its priorities count as free; then what shuts a whole group, which may be enough for its machines.
	for _, r := range []scan.RuleID{scan.RuleOverdue, scan.RuleOrphaned} {
		for _, x := range by[r] {
			b.removal(ctx, x)
		}
	}
	covered, err := b.protections(ctx, by)
	if err != nil {
		return err
	}
	for key, g := range b.groups {
		g.taken = b.takenBy(key)
	}
	for _, x := range b.bypasses {
		b.bypass(ctx, x)
	}
	for _, x := range by[scan.NSGRuleBroad] {
		b.wholeGroup(ctx, x)
	}
	for _, x := range by[scan.VMPortExposed] {
		if !covered[x.ID] {
			b.machine(ctx, x)
		}
	}
	b.policies(ctx, by[scan.JITPolicyBroad])
	b.sets(ctx, slices.Concat(by[scan.VMSSTerminateOff], by[scan.VMSSTerminateShort]))
	b.together()
	b.finish(todo)
	return nil
}

// group reads a group from its provider, once in a plan.
func (b *builder) group(ctx context.Context, id string) (*Step, *group, error) {
	key := azure.Key(id)
	if err := b.nsgErr[key]; err != nil {
		return nil, nil, err
	}
	if s := b.steps[key]; s != nil {
		return s, b.groups[key], nil
	}
	n, err := b.f.c.Azure.NSG(ctx, id)
	if err != nil {
		b.nsgErr[key] = err
		return nil, nil, err
	}
	s := &Step{Kind: GroupStep, Resource: n.ID, name: b.names.of(n.ID), removing: map[string]bool{}, consents: consents(b.o.ReplaceRules, id)}
	g := newGroup(n, s.name, s.removing, s.consents, b.now)
	g.taken = b.takenBy(key)
	b.steps[key], b.groups[key] = s, g
	b.order = append(b.order, s)
	return s, b.groups[key], nil
}

func (s *Step) finding(id string) {
	if !slices.Contains(s.Findings, id) {
		s.Findings = append(s.Findings, id)
	}
}

// wholeGroup shuts the management ports of a group to the Internet, whatever is behind it.
func (b *builder) wholeGroup(ctx context.Context, x scan.Finding) {
	s, g, err := b.group(ctx, x.Resource)
	if err != nil {
		b.unread(x, err)
		return
	}
	for _, port := range b.portsOf(x) {
		n := need{findings: []string{x.ID}, what: fmt.Sprintf("port %d of anything behind %s", port, s.name), port: port, checks: g.whole()}
		if why := b.groups.place(azure.Key(s.Resource), n); why != nil {
			b.left(x, why.next, "%s", why.why)
			return
		}
		s.needs = append(s.needs, n)
		s.finding(x.ID)
	}
}

// whole are the ways that stand for everything behind a group, judged by its own rules.
func (g *group) whole() []check {
	c := netsec.Compile(netsec.Group{ID: g.read.ID, Name: g.read.Name}, netsec.Env{})
	var out []check
	for _, d := range representatives(g) {
		out = append(out, check{dest: d, path: netsec.Path{NIC: c}, name: "the rules of " + g.name})
	}
	return out
}

// representatives are addresses that stand for every destination which the group's rules tell apart: the first of each that is named,
// the one behind its end, and one that no rule names.
func representatives(g *group) []netip.Addr {
	out := []netip.Addr{netip.MustParseAddr("10.254.253.252"), netip.MustParseAddr("fd00:cafe::4")}
	add := func(a netip.Addr) {
		if a.IsValid() && len(out) < 1024 && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, r := range g.rules {
		if !r.Inbound() {
			continue
		}
		for _, d := range r.DestinationPrefixes {
			if p, ok := netsec.ParsePrefix(d); ok && p.Bits() > 0 {
				add(p.Masked().Addr())
				add(netipx.PrefixLastIP(p).Next())
			}
		}
	}
	return out
}

// portsOf are the ports that a finding is about.
func (b *builder) portsOf(x scan.Finding) []uint16 {
	var out []uint16
	for _, p := range x.Evidence.Ports {
		if (p.Exposure == scan.ExposedInternet || p.Exposure == "") && !slices.Contains(out, p.Port) {
			out = append(out, p.Port)
		}
	}
	if len(out) == 0 {
		out = b.o.Ports
	}
	return out
}

func (b *builder) unread(x scan.Finding, err error) {
	e := azure.UserError(err)
	b.left(x, e.Hint, "%s", e.Message)
}

// machine shuts exposed ports of one machine to the Internet, at each address by which they are reached.
func (b *builder) machine(ctx context.Context, x scan.Finding) {
	vm, ok := b.e.VM(x.Resource)
	if !ok {
		b.left(x, "scan again", "the machine is not there any more")
		return
	}
	for _, port := range b.portsOf(x) {
		if b.protecting[azure.Key(x.Resource)][port] {
			continue // protect shuts it
		}
		needs := map[netip.Addr]*need{}
		var addrs []netip.Addr
		for _, w := range b.e.Ways(vm, netsec.TCP, port) {
			if w.Kind == estate.VirtualNetwork || !w.Reach.Exposed() {
				continue
			}
			if w.Kind == estate.FirewallDNAT {
				b.left(x, "take the rule out, or narrow its sources: "+w.Via, "port %d of %s is reached through a DNAT rule of Azure Firewall, behind which its security groups see the firewall and not the Internet", port, b.names.of(vm.ID))
				continue
			}
			n := needs[w.Dest]
			if n == nil {
				n = &need{findings: []string{x.ID}, what: fmt.Sprintf("port %d of %s (%s)", w.Port, b.names.of(vm.ID), w.Dest), dest: w.Dest, port: w.Port}
				needs[w.Dest] = n
				addrs = append(addrs, w.Dest)
			}
			n.checks = append(n.checks, check{dest: w.Dest, path: w.Path, name: wayWords(w)})
		}
		for _, a := range addrs {
			b.shut(ctx, x, *needs[a]) // where one cannot be, the others are shut all the same
		}
	}
}

func wayWords(w estate.Way) string {
	switch w.Kind {
	case estate.PublicIP:
		return "its public address " + w.Address.String()
	case estate.LBRule, estate.NATRule:
		return fmt.Sprintf("load balancer rule %s (%s:%d)", azure.IDName(w.Via), w.Address, w.FrontendPort)
	}
	return string(w.Kind)
}

// shut places a need in one of the groups on its way: where one does without consent, else where a person consented.
func (b *builder) shut(ctx context.Context, x scan.Finding, n need) {
	var ids []string
	for _, c := range n.checks {
		for _, l := range []*netsec.Compiled{c.path.Subnet, c.path.NIC} {
			if l != nil && !slices.ContainsFunc(ids, func(id string) bool { return azure.EqualID(id, l.ID) }) {
				ids = append(ids, l.ID)
			}
		}
	}
	if len(ids) == 0 {
		b.left(x, fmt.Sprintf("make one, with just-in-time access: curfew fix --rule %s", scan.VMNoNSG), "%s has no network security group in which a deny could stand", b.names.of(x.Resource))
		return
	}
	var why []*obstacle
	for _, id := range ids {
		if _, _, err := b.group(ctx, id); err != nil {
			e := azure.UserError(err)
			why = append(why, &obstacle{e.Message, e.Hint})
		}
	}
	for _, withConsent := range []bool{false, true} {
		for _, id := range ids {
			key := azure.Key(id)
			g, s := b.groups[key], b.steps[key]
			if g == nil {
				continue
			}
			if !withConsent {
				g.consents = nil
			}
			o := b.groups.place(key, n)
			if g.consents = s.consents; o == nil {
				s.needs = append(s.needs, n)
				s.finding(x.ID)
				return
			}
			if withConsent {
				why = append(why, o)
			}
		}
	}
	if len(why) == 0 {
		why = append(why, &obstacle{"no group on its way could be read", "run fix again"})
	}
	b.left(x, why[0].next, "%s", why[0].why)
}

// takenBy are the inbound priorities of a group that protections of the plan take.
func (b *builder) takenBy(key string) map[int]bool {
	out := map[int]bool{}
	for _, s := range b.order {
		for _, c := range s.planned {
			if azure.Key(c.Place) == key && c.Priority > 0 && c.Kind != string(enforce.Remove) {
				out[c.Priority] = strings.EqualFold(c.Access, "Deny")
			}
		}
	}
	return out
}

// together plans groups in which protect sets a rule aside and a deny needs one narrowed: what protect carries on of it would stand
// before any place of the deny. There the deny is written first, with room behind the narrowed rule, in which protect then has its own
// rules and sets nothing aside.
func (b *builder) together() {
	for _, s := range b.order {
		key := azure.Key(s.Resource)
		g := b.groups[key]
		if s.Kind != GroupStep || g == nil || !slices.ContainsFunc(g.changes(), func(c Change) bool { return c.Kind == "narrow" || c.Kind == "move" }) {
			continue
		}
		adds, aside := 0, false
		for _, o := range b.order {
			for _, c := range o.planned {
				if azure.Key(c.Place) == key {
					aside = aside || c.Kind == string(enforce.SetAside)
					adds++
				}
			}
		}
		if !aside {
			continue
		}
		for _, windows := range []int{20, 8, 1} {
			again := newGroup(g.read, s.name, s.removing, s.consents, b.now)
			again.spare, again.taken = adds+windows, b.takenBy(key)
			b.groups[key] = again
			met := true
			for _, n := range s.needs {
				met = met && b.groups.place(key, n) == nil
			}
			if met {
				s.first, s.taken = true, again.taken
				break
			}
			b.groups[key] = g
		}
		for _, o := range b.order {
			if o.Kind == Protection && s.first {
				b.afterwards(o, s)
			}
		}
	}
}

// afterwards puts into words what a protection writes in a group that another step has narrowed before.
func (b *builder) afterwards(o, s *Step) {
	kept := slices.DeleteFunc(slices.Clone(o.planned), func(c api.Change) bool {
		return azure.EqualID(c.Place, s.Resource) && (c.Kind == string(enforce.SetAside) || strings.Contains(c.Rule, "-rest-"))
	})
	if len(kept) == len(o.planned) {
		return
	}
	o.planned, o.Writes = kept, b.protectWrites(kept)
	o.Notes = appendNew(o.Notes, fmt.Sprintf("%s is narrowed by the step before, and left as that leaves it", s.name))
}

// finish turns what was gathered for groups into words, sorts the steps, and leaves none of the findings without a word.
func (b *builder) finish(todo []scan.Finding) {
	for _, x := range todo {
		if !slices.ContainsFunc(b.order, func(s *Step) bool { return slices.Contains(s.Findings, x.ID) }) &&
			!slices.ContainsFunc(b.plan.Left, func(l Left) bool { return l.Finding == x.ID }) {
			b.left(x, "see what decides with: curfew scan explain "+x.Resource, "nothing that fix may write puts it right: %s", x.Reason)
		}
	}
	for _, s := range b.order {
		g := b.groups[azure.Key(s.Resource)]
		if s.Kind == GroupStep && g != nil {
			s.Changes, s.spare = g.changes(), g.spare
			if len(s.Changes) == 0 && len(s.Findings) == 0 {
				continue
			}
			s.Title = "network security group " + s.name
			adds := false
			for _, c := range s.Changes {
				s.Writes = append(s.Writes, fmt.Sprintf("%s rule %s (priority %d): %s", c.Kind, c.Rule, c.Priority, c.Summary))
				adds = adds || c.Kind != "remove"
			}
			if adds {
				s.Keeps = append(s.Keeps, "the virtual network and what is connected to it, Bastion, and load balancer probes: the deny names the Internet alone",
					"every other port, and what rules before the deny let in")
				for _, r := range g.rules {
					if g.live(r) {
						s.Keeps = append(s.Keeps, fmt.Sprintf("the window that %s holds open", r.Name))
					}
				}
			}
			s.Loses = append(s.Loses, g.gone...)
		}
		slices.Sort(s.Findings)
		b.plan.Steps = append(b.plan.Steps, *s)
	}
	rank := func(s Step) int {
		if s.first {
			return -1
		}
		return slices.Index([]StepKind{Protection, JITPolicyStep, GroupStep, ScaleSetStep, MachineStep}, s.Kind)
	}
	slices.SortStableFunc(b.plan.Steps, func(x, y Step) int {
		return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(azure.Key(x.Resource), azure.Key(y.Resource)))
	})
	for i := range b.plan.Steps {
		b.plan.Steps[i].ID = fmt.Sprintf("s%d", i+1)
	}
	slices.SortFunc(b.plan.Left, func(x, y Left) int {
		return cmp.Or(cmp.Compare(azure.Key(x.Resource), azure.Key(y.Resource)), cmp.Compare(x.Rule, y.Rule), cmp.Compare(x.Why, y.Why))
	})
}

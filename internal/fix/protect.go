package fix

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
)

// job is what protect, or a policy of Defender, is to do for one machine.
type job struct {
	findings []scan.Finding
	ports    map[uint16]bool
	create   bool // it has no group: one is made
}

// jobs gathers which machines need just-in-time access on which ports. Bypassed ones that have a window are put aside, for protect would
// shut it, and with Defender's policies all that are bypassed: a policy does not shut what an earlier allow lets in.
func (b *builder) jobs(by map[scan.RuleID][]scan.Finding) map[string]*job {
	jobs := map[string]*job{}
	for _, r := range []scan.RuleID{scan.VMJITMissing, scan.VMJITIneffective, scan.VMNoNSG, scan.VMPortExposed} {
		for _, x := range by[r] {
			window := func(p scan.PortEvidence) bool { return len(b.windows(x.Resource, p)) > 0 }
			if r == scan.VMJITIneffective && (b.o.Backend == Defender || slices.ContainsFunc(x.Evidence.Ports, window)) {
				b.bypasses = append(b.bypasses, x)
				continue
			}
			key := azure.Key(x.Resource)
			j := jobs[key]
			if r == scan.VMPortExposed && j == nil && !b.o.ShutVirtualNetwork {
				continue // a deny to the Internet alone is enough
			}
			if j == nil {
				j = &job{ports: map[uint16]bool{}}
				jobs[key] = j
			}
			j.findings = append(j.findings, x)
			j.create = j.create || r == scan.VMNoNSG
			for _, p := range x.Evidence.Ports {
				needed := true
				switch {
				case strings.EqualFold(p.Protocol, "udp"):
					b.left(x, fmt.Sprintf("curfew protect %s --port %d/udp", x.Resource, p.Port), "port %d of it is one of UDP, and fix shuts TCP alone", p.Port)
					needed = false
				case r == scan.VMPortExposed:
					needed = p.Exposure == scan.ExposedInternet && !window(p) // a deny to the Internet stands behind a window
				case r == scan.VMNoNSG:
					needed = p.Exposure == scan.ExposedInternet
				case r == scan.VMJITMissing:
					needed = p.ProtectedBy == ""
				}
				if needed {
					j.ports[p.Port] = true
				}
			}
		}
	}
	return jobs
}

// protections plans just-in-time access: for machines that lack it, for those where it is bypassed, and for those without a group. It
// returns the findings that are covered by it.
func (b *builder) protections(ctx context.Context, by map[scan.RuleID][]scan.Finding) (map[string]bool, error) {
	jobs, covered := b.jobs(by), map[string]bool{}
	inputs := map[string]*api.ProtectInput{}
	of := map[string][]scan.Finding{}
	for _, key := range slices.Sorted(maps.Keys(jobs)) {
		j := jobs[key]
		ports := slices.Sorted(maps.Keys(j.ports))
		if len(ports) == 0 && !j.create {
			continue
		}
		if b.o.Backend == Defender && !j.create {
			for _, x := range j.findings {
				if x.Rule == scan.VMPortExposed {
					continue // a policy does not shut what an earlier allow lets in: a deny does
				}
				if len(ports) > 0 && b.defender(x, ports) {
					covered[x.ID] = true
				}
			}
			continue
		}
		if b.f.c.Protect == nil {
			for _, x := range j.findings {
				switch {
				case x.Rule == scan.VMPortExposed:
				case b.o.Backend == Defender:
					b.left(x, fmt.Sprintf("curfew fix --rule %s, without --backend defender", x.Rule), "a policy of Defender makes no network security group, and there is none")
				default:
					b.left(x, "curfew protect "+x.Resource, "just-in-time access is switched on by protect, which this run cannot use")
				}
			}
			continue
		}
		in := api.ProtectInput{CreateNSG: j.create}
		for _, p := range ports {
			in.Ports = append(in.Ports, api.ProtectedPort{Port: api.Ports{First: p, Last: p}, Protocol: api.Protocol(access.TCP)})
		}
		if !b.o.ShutVirtualNetwork {
			for _, p := range b.network(j.findings[0].Resource) {
				in.Exemptions = append(in.Exemptions, api.Exemption{Name: networkExempt, Source: p.String()})
			}
		}
		in.Replace = b.consented(j.findings[0].Resource)
		k := fmt.Sprintf("%v %v %v %v", in.Ports, in.Exemptions, in.CreateNSG, in.Replace)
		if inputs[k] == nil {
			inputs[k] = &in
		}
		inputs[k].VMs = append(inputs[k].VMs, j.findings[0].Resource)
		of[key] = j.findings
	}
	for _, k := range slices.Sorted(maps.Keys(inputs)) {
		if err := b.protection(ctx, *inputs[k], of, covered); err != nil {
			return nil, err
		}
	}
	return covered, nil
}

// network is what the virtual network of a machine holds, itself and what is connected to it.
func (b *builder) network(vmID string) []netip.Prefix {
	vm, ok := b.e.VM(vmID)
	if !ok {
		return nil
	}
	var out []netip.Prefix
	for _, w := range b.e.Ways(vm, netsec.TCP, 22) {
		for _, ps := range [][]netip.Prefix{w.Path.VirtualNetwork, layerEnv(w.Path.Subnet).VirtualNetwork, layerEnv(w.Path.NIC).VirtualNetwork} {
			for _, p := range ps {
				if p = p.Masked(); p.Bits() > 0 && !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Compare(b) })
	return out
}

// consented returns the rules in front of a machine that may be narrowed, as protect takes them: it refuses those of other groups.
func (b *builder) consented(vmID string) []string {
	var out []string
	for _, id := range b.pathGroups(vmID) {
		n, ok := b.e.NSG(id)
		if !ok {
			continue
		}
		may := consents(b.o.ReplaceRules, n.ID)
		for _, r := range n.Rules {
			if may[strings.ToLower(r.Name)] {
				out = appendNew(out, n.ID+"/"+r.Name) // by id: another group of the same name may be in the path
			}
		}
	}
	slices.Sort(out)
	return out
}

func layerEnv(c *netsec.Compiled) netsec.Env {
	if c == nil {
		return netsec.Env{}
	}
	return c.Env()
}

// protection plans one call of protect, without the machines that it cannot protect.
func (b *builder) protection(ctx context.Context, in api.ProtectInput, of map[string][]scan.Finding, covered map[string]bool) error {
	for len(in.VMs) > 0 {
		plan, err := b.f.c.Protect.PlanProtection(ctx, in)
		if err != nil && len(in.VMs) > 1 { // one may spoil it for all
			for _, vm := range in.VMs {
				one := in
				one.VMs = []string{vm}
				if err := b.protection(ctx, one, of, covered); err != nil {
					return err
				}
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		bad := map[string][2]string{}
		if err != nil {
			e := azure.UserError(err)
			bad[azure.Key(in.VMs[0])] = [2]string{b.spelled(e.Message, in.VMs[0], ""), b.spelled(e.Hint, in.VMs[0], "")}
		}
		for _, v := range plan.VMs {
			if v.Error != "" {
				place := "" // of the rule that the hint is about
				for _, p := range plan.Problems {
					if p.Hint == v.Hint && (p.VM == "" || azure.EqualID(p.VM, v.VM.ID)) {
						place = p.Place
					}
				}
				bad[azure.Key(v.VM.ID)] = [2]string{b.spelled(v.Error, v.VM.ID, ""), b.spelled(v.Hint, v.VM.ID, place)}
			}
		}
		for _, p := range plan.Problems {
			for _, vm := range in.VMs {
				// A problem of a whole group is one of each machine behind it: protect would go no further either.
				if p.VM != "" && azure.EqualID(p.VM, vm) || p.VM == "" && slices.ContainsFunc(b.pathGroups(vm), func(id string) bool { return azure.EqualID(id, p.Place) }) {
					if _, told := bad[azure.Key(vm)]; !told {
						bad[azure.Key(vm)] = [2]string{b.spelled(p.Message, vm, p.Place), b.spelled(p.Hint, vm, p.Place)}
					}
				}
			}
		}
		var good []string
		for _, vm := range in.VMs {
			why, is := bad[azure.Key(vm)]
			if !is {
				good = append(good, vm)
				continue
			}
			if some := b.portsAlone(ctx, in, vm); len(some) > 0 { // a deny may do for the others
				one := in
				one.VMs, one.Ports = []string{vm}, some
				if err := b.protection(ctx, one, of, covered); err != nil {
					return err
				}
			}
			for _, x := range of[azure.Key(vm)] {
				if x.Rule != scan.VMPortExposed { // a deny may still do for that one
					b.left(x, b.wayOn(why[0], why[1]), "protect cannot do it: %s", why[0])
				}
			}
		}
		if len(good) < len(in.VMs) {
			in.VMs = good
			continue
		}
		b.order = append(b.order, b.protectStep(in, plan, of, covered))
		return nil
	}
	return nil
}

// portsAlone are the ports of several on which protect can do by itself what it cannot do on all of them.
func (b *builder) portsAlone(ctx context.Context, in api.ProtectInput, vm string) (out []api.ProtectedPort) {
	if len(in.Ports) < 2 {
		return nil
	}
	can := func(ports []api.ProtectedPort) bool {
		one := in
		one.VMs, one.Ports = []string{vm}, ports
		plan, err := b.f.c.Protect.PlanProtection(ctx, one)
		return err == nil && len(plan.Problems) == 0 && !slices.ContainsFunc(plan.VMs, func(v api.VMPlan) bool { return v.Error != "" })
	}
	for _, p := range in.Ports {
		if try := append(slices.Clone(out), p); len(try) < len(in.Ports) && can(try) {
			out = try
		}
	}
	return out
}

// pathGroups are the groups in front of a machine.
func (b *builder) pathGroups(vmID string) (out []string) {
	vm, ok := b.e.VM(vmID)
	if !ok {
		return nil
	}
	for _, ep := range vm.Endpoints {
		for _, id := range []string{ep.SubnetNSG, ep.NICNSG} {
			if id != "" {
				out = appendNew(out, id)
			}
		}
	}
	return out
}

// wayOn makes a next step of a hint that is only an option to add.
func (b *builder) wayOn(why, hint string) string {
	network := !b.o.ShutVirtualNetwork && strings.HasPrefix(why, "exemption "+networkExempt+" ") // and not of a neighbour
	switch {
	case strings.HasPrefix(hint, "--") && network:
		return "consent to it: " + hint + ", or shut the virtual network too: --shut-virtual-network"
	case strings.HasPrefix(hint, "--"):
		return "consent to it: " + hint
	case network:
		return hint + ": --shut-virtual-network"
	}
	return hint
}

// networkExempt is the name of the exemption that keeps the virtual network in.
const networkExempt = "virtual-network"

func (b *builder) protectStep(in api.ProtectInput, plan api.ProtectPlan, of map[string][]scan.Finding, covered map[string]bool) *Step {
	s := &Step{Kind: Protection, Resource: in.VMs[0], protect: in, already: map[string]bool{}, Title: "just-in-time access for " + b.machines(in.VMs, 4)}
	if in.CreateNSG {
		s.bare = b.bareNICs(in.VMs)
	}
	s.planned, s.Writes = plan.Changes, b.protectWrites(plan.Changes)
	s.Keeps, s.Loses = b.protectKeeps(plan.VMs), b.protectLoses(plan.VMs)
	s.Notes = append(s.Notes, "curfew unprotect ends it, and so does giving back what the undo file tells of")
	for _, vm := range in.VMs {
		if b.protecting[azure.Key(vm)] == nil {
			b.protecting[azure.Key(vm)] = map[uint16]bool{}
		}
		for _, p := range in.Ports {
			b.protecting[azure.Key(vm)][p.Port.First] = true
		}
		for _, x := range of[azure.Key(vm)] {
			s.finding(x.ID)
			covered[x.ID] = covered[x.ID] || !slices.ContainsFunc(x.Evidence.Ports, func(p scan.PortEvidence) bool {
				return p.Exposure == scan.ExposedInternet && !slices.ContainsFunc(in.Ports, func(q api.ProtectedPort) bool { return q.Port.First == p.Port })
			})
			for _, p := range x.Evidence.Ports {
				s.already[azure.Key(vm)] = s.already[azure.Key(vm)] || p.ProtectedBy == "curfew"
			}
		}
	}
	return s
}

// machines are the names of machines in their order; the first of many, and how many more.
func (b *builder) machines(ids []string, most int) string {
	var out []string
	for _, id := range ids {
		out = append(out, b.names.of(id))
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	if len(out) == most+1 { // "and 1 more" is no shorter than its name
		most++
	}
	return list(out, most)
}

// protectWrites puts what protect writes into words.
func (b *builder) protectWrites(changes []api.Change) (out []string) {
	for _, c := range changes {
		place := b.names.of(c.Place)
		if c.Access == "" { // not a rule: a group that is made, an interface that it is put on
			out = append(out, place+": "+c.Summary)
			continue
		}
		verb, aside := c.Kind, ""
		switch enforce.ChangeKind(c.Kind) {
		case enforce.SetAside:
			verb, aside = "set aside", " with consent, its original kept"
			if _, left, ok := strings.Cut(c.Why, "; "); ok {
				aside += "; " + left
			}
		case enforce.Restore:
			verb = "put back"
		}
		out = append(out, fmt.Sprintf("%s: %s rule %s (priority %d)%s: %s", place, verb, c.Rule, c.Priority, aside, c.Summary))
	}
	return out
}

// protectKeeps says who keeps a way in, machines with the same exemptions together.
func (b *builder) protectKeeps(vms []api.VMPlan) (out []string) {
	by := map[string][]string{}
	var order []string
	for _, v := range vms {
		var names []string
		sources := map[string][]string{}
		for _, e := range v.Exemptions {
			names = appendNew(names, e.Name)
			sources[e.Name] = append(sources[e.Name], e.Source)
		}
		for i, n := range names {
			names[i] = fmt.Sprintf("%s (%s)", strings.Join(sources[n], ", "), n)
		}
		from := strings.Join(names, ", ")
		if from == "" {
			continue
		}
		order = appendNew(order, from)
		by[from] = append(by[from], v.VM.ID)
	}
	for _, from := range order {
		to := b.machines(by[from], 4)
		if n := len(by[from]); n == len(vms) && n > 1 {
			to = "each of these machines"
		}
		out = append(out, fmt.Sprintf("the way in to %s from %s", to, from))
	}
	return out
}

// protectLoses says who loses access, a port or a rule once for all from whom it is.
func (b *builder) protectLoses(vms []api.VMPlan) (out []string) {
	for _, v := range vms {
		whole := func(l api.Exposure) bool { return l.Port.First <= 1 && l.Port.Last == 65535 }
		type what struct{ port, rule string }
		var order []what
		from := map[what][]string{}
		for _, l := range v.Loses {
			if !whole(l) && slices.ContainsFunc(v.Loses, func(o api.Exposure) bool {
				return whole(o) && o.From == l.From && o.Rule == l.Rule && o.Protocol == l.Protocol
			}) {
				continue // said of all ports
			}
			port := fmt.Sprintf("port %s", l.Port)
			switch {
			case whole(l):
				port = "all ports"
			case l.Port.First != l.Port.Last:
				port = fmt.Sprintf("ports %s", l.Port)
			}
			w := what{port, b.spelled(l.Rule, v.VM.ID, "")}
			if from[w] == nil {
				order = append(order, w)
			}
			from[w] = appendNew(from[w], l.From)
		}
		for _, w := range order {
			out = append(out, fmt.Sprintf("%s on %s of %s, by %s", strings.Join(from[w], " and "), w.port, b.names.of(v.VM.ID), w.rule))
		}
	}
	return out
}

// applyProtection asks protect to do what was planned.
func (f *Fixer) applyProtection(ctx context.Context, s *Step, t *tally) error {
	plan, err := f.c.Protect.PlanProtection(ctx, s.protect)
	if err != nil {
		return err
	}
	if err := refusedBy(plan); err != nil { // what steps before this one wrote may be in its way: nothing is sent, and nothing is to be undone
		return err
	}
	if len(plan.Changes) == 0 {
		return nil
	}
	es, err := f.made(ctx, s, plan)
	if err != nil {
		return err
	}
	for _, vm := range s.protect.VMs {
		if s.already[azure.Key(vm)] {
			continue // undoing is not to end what stood before
		}
		es = append(es, entry{Kind: kindProtect, Resource: vm})
	}
	if err := f.rec.keep(es...); err != nil {
		return err
	}
	in := s.protect
	in.Digest = plan.Digest
	done, err := f.c.Protect.Protect(ctx, in)
	if err == nil {
		err = refusedBy(done)
	}
	writes := writesOf(plan)
	if err != nil { // what it would still write, it has not written
		still, perr := f.c.Protect.PlanProtection(ctx, s.protect)
		if perr != nil {
			t.unsure = true
			return err
		}
		maps.DeleteFunc(writes, func(w string, _ bool) bool { return writesOf(still)[w] })
	}
	t.writes = len(writes)
	return err
}

// refusedBy is what protect refuses of a plan.
func refusedBy(plan api.ProtectPlan) error {
	for _, v := range plan.VMs {
		if v.Error != "" {
			return access.Errorf(access.CodeConflict, "%s: %s", v.VM.Name, v.Error).WithHint("%s", v.Hint)
		}
	}
	for _, p := range plan.Problems {
		return access.Errorf(access.CodeConflict, "%s", p.Message).WithHint("%s", p.Hint)
	}
	return nil
}

// writesOf are the writes of a plan of protect: one for all rules of a group, one for each group that is made and each interface that it is put on.
func writesOf(p api.ProtectPlan) map[string]bool {
	out := map[string]bool{}
	for _, c := range p.Changes {
		what := azure.Key(c.Place)
		if c.Access == "" {
			what += " " + c.Summary
		}
		out[what] = true
	}
	return out
}

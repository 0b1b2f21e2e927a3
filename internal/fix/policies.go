package fix

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// maxPolicyName is what the names of a policy and of a machine in it may have together. FACTS 1.1.
const maxPolicyName = 56

// policyWork is what a step for a just-in-time policy needs to be decided again.
type policyWork struct {
	add    map[string][]int // machines by id, with their ports, that are to be in it
	narrow bool             // machines in it are to be narrowed
	max    time.Duration
	from   []string
}

// ports merges one machine into what a policy says of it. It returns nil where nothing changes.
func (w *policyWork) machine(vmID string, raw json.RawMessage, m azure.JITMachine) (json.RawMessage, error) {
	var body map[string]any
	if raw == nil {
		body = map[string]any{"id": vmID, "ports": []any{}}
	} else if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	ports, _ := body["ports"].([]any)
	changed := raw == nil
	if w.narrow {
		for _, p := range ports {
			po, _ := p.(map[string]any)
			if po == nil {
				continue
			}
			s, _ := po["maxRequestAccessDuration"].(string)
			if d, err := scan.ParseDuration(s); w.max > 0 && (err != nil || d > w.max) {
				po["maxRequestAccessDuration"] = durationText(w.max)
				changed = true
			}
			if len(w.from) > 0 && anySource(po) {
				setSources(po, w.from)
				changed = true
			}
		}
	}
	for _, n := range w.add[azure.Key(vmID)] {
		if slices.ContainsFunc(m.Ports, func(p azure.JITPort) bool { return p.Number == n && !strings.EqualFold(p.Protocol, "UDP") }) {
			continue
		}
		longest := w.max
		if longest == 0 {
			longest = scan.DefaultLongestJIT
		}
		po := map[string]any{"number": n, "protocol": "TCP", "maxRequestAccessDuration": durationText(longest)}
		from := w.from
		if len(from) == 0 {
			from = []string{"*"}
		}
		setSources(po, from)
		ports, changed = append(ports, po), true
	}
	if !changed {
		return nil, nil
	}
	body["ports"] = ports
	return json.Marshal(body)
}

func setSources(po map[string]any, from []string) {
	delete(po, "allowedSourceAddressPrefix")
	delete(po, "allowedSourceAddressPrefixes")
	if len(from) == 1 {
		po["allowedSourceAddressPrefix"] = from[0]
	} else {
		po["allowedSourceAddressPrefixes"] = from
	}
}

// anySource tells whether a port of a policy lets any source ask: *, everything, or nothing said.
func anySource(po map[string]any) bool {
	one, _ := po["allowedSourceAddressPrefix"].(string)
	many, _ := po["allowedSourceAddressPrefixes"].([]any)
	all := []string{}
	if one != "" {
		all = append(all, one)
	}
	for _, m := range many {
		s, _ := m.(string)
		all = append(all, s)
	}
	return len(all) == 0 || slices.ContainsFunc(all, func(s string) bool {
		return s == "*" || strings.EqualFold(s, "any") || strings.EqualFold(s, "internet") || strings.HasSuffix(s, "/0")
	})
}

func durationText(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("PT%dH", d/time.Hour)
	}
	return isoText(d)
}

// planNeeded is what Azure refuses to write a policy without: the plan is not read beforehand, which a login may not be allowed to.
const planNeeded = "Defender for Servers Plan 2 is needed on the subscription"

// policies plans the narrowing of policies, which is done only to what a person chose.
func (b *builder) policies(ctx context.Context, xs []scan.Finding) {
	for _, x := range xs {
		if b.o.JITMax == 0 && len(b.o.JITFrom) == 0 {
			b.left(x, "choose the limits: curfew fix --rule jit-policy-broad --max 3h --from CIDR", "who may ask, and for how long, is for a person to say")
			continue
		}
		p, err := b.f.c.Azure.JITPolicy(ctx, x.Resource)
		if err != nil {
			b.unread(x, err)
			continue
		}
		s := b.policyStep(p.ID)
		s.policy.narrow = true
		s.finding(x.ID)
		for _, raw := range p.Properties.VirtualMachines {
			var m azure.JITMachine
			if json.Unmarshal(raw, &m) != nil {
				continue
			}
			if next, err := s.policy.machine(m.ID, raw, m); err == nil && next != nil {
				s.Writes = append(s.Writes, fmt.Sprintf("%s: %s", b.names.of(m.ID), s.policy.limits()))
			}
		}
		s.Keeps = append(s.Keeps, "open requests until their end, other machines of the policy, and the history of requests")
		s.Notes = appendNew(s.Notes, planNeeded)
		if len(s.policy.from) > 0 {
			s.Loses = append(s.Loses, "whoever asks from elsewhere from now on")
		}
		if s.policy.max > 0 {
			s.Loses = append(s.Loses, "whoever asks for longer from now on")
		}
	}
}

func (w *policyWork) limits() string {
	out := "requests"
	if w.max > 0 {
		out += " for at most " + access.Duration(w.max).String()
	}
	if len(w.from) > 0 {
		out += " from " + list(w.from, 4) + " alone"
	}
	return out
}

// policyStep returns the step of a policy, a new one where there is none yet.
func (b *builder) policyStep(id string) *Step {
	for _, s := range b.order {
		if s.Kind == JITPolicyStep && azure.EqualID(s.Resource, id) {
			return s
		}
	}
	w := &policyWork{add: map[string][]int{}, max: b.o.JITMax}
	for _, p := range b.o.JITFrom {
		w.from = append(w.from, p.String())
	}
	s := &Step{Kind: JITPolicyStep, Resource: id, Title: "just-in-time policy " + b.names.of(id), policy: w}
	if parsed, err := azure.ParseID(id); err == nil { // most are called default, and some are yet to be
		if !strings.Contains(b.names.of(id), "/") {
			s.Title = fmt.Sprintf("just-in-time policy %s/%s", parsed.Group, parsed.Name())
		}
	}
	if !slices.ContainsFunc(b.e.Policies(), func(p *estate.JITPolicy) bool { return azure.EqualID(p.ID, id) }) {
		s.Title = "new " + s.Title
	}
	b.order = append(b.order, s)
	return s
}

// defender plans a machine into a policy of its group and region: one that stands, before a new one.
func (b *builder) defender(x scan.Finding, ports []uint16) bool {
	vm, ok := b.e.VM(x.Resource)
	if !ok {
		b.left(x, "scan again", "the machine is not there any more")
		return false
	}
	id, err := azure.ParseID(x.Resource)
	if err != nil {
		b.left(x, "scan again", "%v", err)
		return false
	}
	region := strings.ToLower(strings.ReplaceAll(vm.Location, " ", ""))
	own := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Security/locations/%s/jitNetworkAccessPolicies/default", id.Subscription, id.Group, region)
	policy, holds := own, false
	for _, p := range b.e.Policies() {
		pid, err := azure.ParseID(p.ID)
		if err != nil || !strings.EqualFold(pid.Group, id.Group) || !strings.EqualFold(pid.Subscription, id.Subscription) || len(pid.Names) != 2 ||
			!strings.EqualFold(strings.ReplaceAll(pid.Names[0], " ", ""), region) {
			continue
		}
		for _, m := range p.VMs {
			if azure.EqualID(m.VM, x.Resource) {
				policy, holds = p.ID, true
			}
		}
		if !holds && azure.EqualID(p.ID, own) {
			policy = p.ID
		}
	}
	if n := len(azure.IDName(policy)) + len(id.Name()); n > maxPolicyName {
		b.left(x, "use Curfew's own protection: leave --backend defender out", "the names of policy %s and machine %s have %d characters together, and Defender takes %d at most", azure.IDName(policy), id.Name(), n, maxPolicyName)
		return false
	}
	s := b.policyStep(policy)
	var words []string
	for _, p := range ports {
		s.policy.add[azure.Key(x.Resource)] = append(s.policy.add[azure.Key(x.Resource)], int(p))
		words = append(words, fmt.Sprint(p))
	}
	s.finding(x.ID)
	longest, from := s.policy.max, "any source"
	if longest == 0 {
		longest = scan.DefaultLongestJIT
	}
	if len(s.policy.from) > 0 {
		from = list(s.policy.from, 4)
	}
	s.Writes = append(s.Writes, fmt.Sprintf("%s is added with port %s: requests for at most %s, from %s", b.names.of(x.Resource), strings.Join(words, ", "), access.Duration(longest), from))
	s.Loses = append(s.Loses, fmt.Sprintf("Defender denies port %s of %s to everybody, the virtual network and Bastion too, behind the rules that stand before", strings.Join(words, ", "), b.names.of(x.Resource)))
	s.Notes = appendNew(s.Notes, planNeeded, "Defender's deny stands behind the allows that are there: whether the port is shut is judged after the write")
	return true
}

func appendNew(ss []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(ss, m) {
			ss = append(ss, m)
		}
	}
	return ss
}

// applyPolicy merges machines into a policy: it is read, changed and written whole, because a PUT replaces the list, and read again,
// because there is no etag and another writer may have come in between.
func (f *Fixer) applyPolicy(ctx context.Context, s *Step, t *tally) error {
	w := s.policy
	return f.again(ctx, t, func() (bool, error) {
		p, err := f.c.Azure.JITPolicy(ctx, s.Resource)
		if azure.Classify(err) == azure.NotFound && len(w.add) > 0 {
			p, err = azure.JITPolicy{Resource: azure.Resource{ID: s.Resource}}, nil
		}
		if err != nil {
			return false, err
		}
		var es []entry
		machines := p.Properties.VirtualMachines
		change := func(id string) error {
			raw, m, _ := p.Machine(id)
			next, err := w.machine(id, raw, m)
			if err != nil || next == nil {
				return err
			}
			es = append(es, entry{Kind: kindPolicy, Resource: s.Resource, Name: id, Before: string(raw), After: string(next)})
			p.Properties.VirtualMachines = p.WithMachine(id, next)
			return nil
		}
		for _, raw := range machines {
			var m azure.JITMachine
			if w.narrow && json.Unmarshal(raw, &m) == nil {
				if err := change(m.ID); err != nil {
					return false, err
				}
			}
		}
		for _, id := range sortedKeys(w.add) {
			if err := change(id); err != nil {
				return false, err
			}
		}
		if len(es) == 0 {
			return false, nil
		}
		if err := f.rec.keep(es...); err != nil {
			return false, err
		}
		return true, f.c.Azure.PutJITPolicy(ctx, p, p.Properties.VirtualMachines, ctx.Err)
	})
}

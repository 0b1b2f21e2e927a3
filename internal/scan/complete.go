package scan

import (
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Complete returns what gives a finding of a lean judgement all of its evidence. It takes the estate and the options that were judged
// by, judges the finding's resource by its rule again, or the ports that fail, and changes nothing but Evidence: with it the finding is
// what a judgement that is not lean gives, to the last byte. A finding that the estate does not give, or not with this verdict, is left as it is. What is
// returned may be called from several goroutines, and for a finding again.
//
// It costs about what judging the resource cost. What is shown of a report is far less than what is found, and evidence is most of its size.
func Complete(e *estate.Estate, o Options) func(*Finding) {
	o.Lean, o.All, o.Rules = false, true, nil
	all := newJudge(e, o)
	alone := make(map[RuleID]*judge, len(Rules))
	for _, r := range Rules {
		j := *all
		j.want = map[RuleID]bool{r.ID: true}
		alone[r.ID] = &j
	}
	policies := make(map[string]*estate.JITPolicy, len(e.Policies()))
	for _, p := range e.Policies() {
		policies[strings.ToLower(p.ID)] = p
	}
	hidden := sync.OnceValue(func() map[string]Finding {
		var b batch
		all.gaps(&b)
		found := make(map[string]Finding, len(b.findings))
		for _, f := range b.findings {
			found[f.ID] = f
		}
		return found
	})
	return func(f *Finding) {
		j := alone[f.Rule]
		if j == nil || j.tell(f) {
			return
		}
		if j.again(&batch{into: f}, f, policies) {
			return
		}
		if h, ok := hidden()[f.ID]; ok && f.Status == h.Status && f.Reason == h.Reason {
			f.Evidence = h.Evidence
		}
	}
}

// tell adds to the ports of an open machine, of which most findings are, what a lean judgement leaves out, without judging by the rule
// again. It returns false, and changes nothing, where it cannot tell or where the ports are not as they were judged.
func (j *judge) tell(f *Finding) bool {
	if f.Status != Fail || f.Type != typeVM || f.Rule != VMJITMissing && f.Rule != VMPortExposed || len(f.Evidence.Ports) == 0 || f.ID != FindingID(f.Rule, f.Resource) {
		return false
	}
	v, ok := j.e.VM(f.Resource)
	if !ok {
		return false
	}
	m := machine{VM: v, id: strings.ToLower(v.ID)}
	room := j.rooms.Get().(*room)
	defer j.rooms.Put(room)
	views := room.of(1)
	ports := make([]PortEvidence, len(f.Evidence.Ports))
	for i, p := range f.Evidence.Ports {
		views[0] = j.viewInto(views[0].ways[:0], v, m.id, netsec.TCP, p.Port, false)
		if ports[i] = p; views[0].exposure != p.Exposure {
			return false
		}
		j.portWays(&m, &views[0], &ports[i])
	}
	f.Evidence = Evidence{Ports: ports, Rules: f.Evidence.Rules, Facts: j.portFacts(&m)}
	return true
}

// again judges the resource of a finding. It returns false where the resource was not read.
func (j *judge) again(b *batch, f *Finding, policies map[string]*estate.JITPolicy) bool {
	switch f.Type {
	case typeVM:
		if v, ok := j.e.VM(f.Resource); ok {
			j.vm(b, v)
			return true
		}
	case typeScaleSet:
		if s := j.sets[strings.ToLower(f.Resource)]; s != nil {
			j.scaleSet(b, s)
			return true
		}
	case typePolicy:
		if p := policies[strings.ToLower(f.Resource)]; p != nil {
			j.policyBroad(b, p)
			return true
		}
	case typeNSG:
		if n, ok := j.e.NSG(f.Resource); ok {
			j.nsg(b, n)
			return true
		}
	}
	return false
}

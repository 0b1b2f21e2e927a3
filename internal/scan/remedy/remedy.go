// Package remedy says how to put a failure right: as our command, with az, as Bicep and Terraform, and by steps in the portal, each with
// the ids, addresses and priorities of what was scanned. It is pure and promises no more than it knows: what is written holds for the
// estate as it was read, and a way that would be wrong or cannot be told is left out.
//
// A deny that is proposed comes from the tag Internet, so that Azure Bastion and the virtual network go on working, is free at its
// priority, stands before the rule that lets the Internet in and behind narrower rules and live windows wherever it can, and is checked
// against the evaluator before it is proposed.
package remedy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Writer writes remediations for the findings of one estate. It is safe for concurrent use.
type Writer struct {
	e         *estate.Estate
	index     func() *index
	templates sync.Map // of just-in-time access, by the ports
}

// index finds what the estate itself does not by an id in lower case.
type index struct {
	sets        map[string]*estate.ScaleSet
	policies    map[string]*estate.JITPolicy
	byMachine   map[string]*estate.JITPolicy // the first policy that names a machine
	policyNames map[string]bool              // subscription/group/name
}

// New returns a writer for an estate. What it has to look up is gathered when it is first needed.
func New(e *estate.Estate) *Writer {
	return &Writer{e: e, index: sync.OnceValue(func() *index {
		x := &index{map[string]*estate.ScaleSet{}, map[string]*estate.JITPolicy{}, map[string]*estate.JITPolicy{}, map[string]bool{}}
		for _, s := range e.ScaleSets() {
			x.sets[strings.ToLower(s.ID)] = s
		}
		for _, j := range e.Policies() {
			x.policies[strings.ToLower(j.ID)] = j
			x.policyNames[strings.ToLower(j.Subscription+"/"+j.Group+"/"+j.Name)] = true
			for _, m := range j.VMs {
				if id := strings.ToLower(m.VM); x.byMachine[id] == nil {
					x.byMachine[id] = j
				}
			}
		}
		return x
	})}
}

// For is New(e).For(f), for one finding.
func For(f scan.Finding, e *estate.Estate) *scan.Remediation { return New(e).For(f) }

// For returns how to put a failure right, nil of a finding that does not fail. The estate is the one that was judged. The same finding
// has always the same remediation.
func (w *Writer) For(f scan.Finding) *scan.Remediation {
	if f.Status != scan.Fail {
		return nil
	}
	p := &plan{f: f, e: w.e, index: w.index, templates: &w.templates}
	switch f.Rule {
	case scan.VMPortExposed:
		p.exposed()
	case scan.VMJITMissing:
		p.jitMissing()
	case scan.VMJITIneffective:
		p.ineffective()
	case scan.VMNoNSG:
		p.noGroup()
	case scan.VMSSTerminateOff:
		p.announce(10, "announce termination ten minutes before it happens")
	case scan.VMSSTerminateShort:
		p.announce(15, "announce termination fifteen minutes before it happens, the longest that Azure takes")
	case scan.JITPolicyBroad:
		p.narrowPolicy()
	case scan.NSGRuleBroad:
		p.broadRules()
	case scan.RuleOverdue:
		p.remove("its end is over, and nobody's access depends on it by right")
	case scan.RuleOrphaned:
		p.remove("what it was written for is gone")
	}
	if p.done != nil {
		return p.done
	}
	return p.render()
}

// plan gathers the ways of one finding.
type plan struct {
	f scan.Finding
	e *estate.Estate

	index     func() *index
	templates *sync.Map
	done      *scan.Remediation // of a template; nothing else is gathered then

	summary   []string // sentences
	curfew    string
	az        []string // lines of a shell
	bicep     []string // blocks
	hcl       []string // blocks
	portal    []string // steps
	needs     bool     // az needs NETWORK
	grouped   bool     // a group is proposed
	unsayable bool     // a name that az would read a file for
}

func (p *plan) say(text string) {
	if s := plain(text); !slices.Contains(p.summary, s) {
		p.summary = append(p.summary, s)
	}
}
func (p *plan) sayf(format string, args ...any) { p.say(fmt.Sprintf(format, args...)) }

func (p *plan) step(text string)                 { p.portal = append(p.portal, plain(text)) }
func (p *plan) stepf(format string, args ...any) { p.step(fmt.Sprintf(format, args...)) }
func (p *plan) shell(line string)                { p.az = append(p.az, line) }

// choose adds to our command what fix does not do without: a choice, or a consent.
func (p *plan) choose(option string) {
	if p.f.ID == "" {
		return
	}
	if p.curfew == "" {
		p.curfew = "curfew fix " + sh(p.f.ID)
	}
	p.curfew += " " + option
}

func (p *plan) render() *scan.Remediation {
	if len(p.summary) == 0 {
		p.sayf("No remedy is known for this version of the rule %s: read its reason and evidence.", p.f.Rule)
	}
	r := &scan.Remediation{Summary: strings.Join(p.summary, " "), Curfew: p.curfew}
	if rule, ok := scan.RuleOf(p.f.Rule); ok && rule.Fixable && r.Curfew == "" && p.f.ID != "" {
		r.Curfew = "curfew fix " + sh(p.f.ID)
	}
	if !p.unsayable && slices.ContainsFunc(p.az, func(l string) bool { return !strings.HasPrefix(l, "#") }) {
		lines := p.az
		if p.needs {
			lines = append([]string{": \"${NETWORK:?set NETWORK to the addresses that need this, for example 203.0.113.0/24}\""}, lines...)
		}
		r.AzureCLI = strings.Join(append(lines, ""), "\n")
	}
	if len(p.bicep) > 0 {
		r.Bicep = strings.Join(p.bicep, "\n")
	}
	if len(p.hcl) > 0 {
		r.Terraform = strings.Join(p.hcl, "\n")
	}
	var steps strings.Builder
	for i, s := range p.portal {
		steps.WriteString(strconv.Itoa(i+1) + ". " + s + "\n")
	}
	r.Portal = steps.String()
	return r
}

// ref is a resource id taken apart.
type ref struct{ sub, group, name string }

// refOf reads the id of a top-level resource of a group, or of a child: its name is the last segment. It is false for what is none.
func refOf(id string) (ref, bool) {
	s := strings.Split(id, "/")
	if len(s) < 9 || s[0] != "" || !strings.EqualFold(s[1], "subscriptions") || !strings.EqualFold(s[3], "resourceGroups") || slices.Contains(s[1:], "") {
		return ref{}, false
	}
	return ref{s[2], s[4], s[len(s)-1]}, true
}

// in returns the options of az that say where a resource is.
func (p *plan) in(r ref) string {
	p.mind(r.sub, r.group, r.name)
	return opt("--subscription", r.sub) + opt("--resource-group", r.group)
}

// mind notes texts that az would not take as they are.
func (p *plan) mind(texts ...string) {
	p.unsayable = p.unsayable || slices.ContainsFunc(texts, expands)
}

// machine returns the machine that a finding is about.
func (p *plan) machine() (*estate.VM, bool) {
	return p.e.VM(p.f.Resource)
}

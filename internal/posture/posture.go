// Package posture makes one scan out of its parts: the verdicts on an estate, then what a person decided about them (suppressions, the
// baseline, filters), then what helps (controls and remediation). It is pure: callers collect, read files and write reports. The
// command line and the server make their reports here, so that one scan says the same in both.
package posture

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/compliance"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/scan/remedy"
	"github.com/curfew-jit/curfew/internal/scan/triage"
)

// Options say how an estate is judged and what is told of it.
type Options struct {
	Judge        scan.Options
	Filter       triage.Options
	Names        map[string]string // of subscriptions, by id
	AllNames     bool              // Names holds every subscription that was scanned
	Suppressions triage.Suppressions
	Baseline     *triage.Baseline
}

// Outcome is a report with what there is to say beside it.
type Outcome struct {
	Report scan.Report
	Notes  []string // sentences for people
	// Findings are all of them, before any filter, marked; nil where nobody needed them.
	Findings []scan.Finding
	Scope    triage.Scope
}

// Judge judges an estate. The report lists what fails and what is unknown, or everything with Judge.All. What is suppressed or in the
// baseline is listed, marked and counted apart. With a filter the sums are those of what it picks. With Judge.Lean, which a baseline
// does not mind, the evidence of each finding is short until Fill completes it.
func Judge(e *estate.Estate, src scan.Source, o Options) (Outcome, error) {
	f, err := triage.NewFilter(o.Filter, o.Names, o.AllNames)
	if err != nil {
		return Outcome{}, err
	}
	filtered := picks(o.Filter)
	judge := o.Judge
	judge.All = judge.All || filtered || o.Baseline != nil
	out := Outcome{Report: scan.Scan(e, judge)}
	if err := astray(o.Filter, out.Report, o.Names); err != nil {
		return Outcome{}, err
	}
	out.Report.Source = src
	out.Report.Source.Picked = picked(o.Filter)
	for i := range out.Report.Findings {
		if f := &out.Report.Findings[i]; f.Status == scan.Fail {
			f.Compliance = compliance.Of(f.Rule) // one list for all of a rule
		}
	}
	out.triage(o)
	if filtered {
		out.Report.Findings = f.Apply(out.Report.Findings)
		out.count()
	} else if o.Baseline != nil || len(o.Suppressions) > 0 {
		out.deduct()
	}
	if !o.Judge.All && judge.All {
		out.Report.Findings = slices.DeleteFunc(out.Report.Findings, func(f scan.Finding) bool { return f.Status != scan.Fail && f.Status != scan.Unknown })
	}
	return out, nil
}

// Again applies suppressions, a baseline and a filter to a report that was made elsewhere, and that holds what fails and is unknown.
func Again(r scan.Report, o Options) (Outcome, error) {
	if o.Names == nil && len(r.Source.Subscriptions) > 0 {
		o.Names, o.AllNames = map[string]string{}, true
		for _, s := range r.Source.Subscriptions {
			o.Names[s] = ""
		}
	}
	f, err := triage.NewFilter(o.Filter, o.Names, o.AllNames)
	if err != nil {
		return Outcome{}, err
	}
	r.Findings = slices.Clone(r.Findings)
	r.Source.Picked = picked(o.Filter)
	out := Outcome{Report: r}
	out.triage(o)
	if picks(o.Filter) {
		if out.Report.Findings = f.Apply(out.Report.Findings); len(out.Report.Findings) == 0 {
			out.note("nothing in the report matches the filter; it holds what fails and what is unknown, so that a name that is misspelt looks the same")
		}
		out.count()
	} else {
		out.deduct()
	}
	return out, nil
}

// astray refuses a filter by a place that nothing judged is in: a slip that would look like a clean scan (promise P10). Where something
// could not be read nobody can tell, and what is unknown is listed.
func astray(o triage.Options, r scan.Report, names map[string]string) error {
	if !r.Summary.Complete {
		return nil
	}
	for _, kind := range []struct {
		values []string
		where  string
		alone  func(v string) triage.Options
	}{
		{o.Subscriptions, "subscription", func(v string) triage.Options { return triage.Options{Subscriptions: []string{v}} }},
		{o.Groups, "resource group", func(v string) triage.Options { return triage.Options{Groups: []string{v}} }},
		{o.Tags, "tag", func(v string) triage.Options { return triage.Options{Tags: []string{v}} }},
		{o.Resources, "resource", func(v string) triage.Options { return triage.Options{Resources: []string{v}} }},
	} {
		for _, v := range kind.values {
			f, err := triage.NewFilter(kind.alone(v), names, false)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(r.Findings, f.Match) {
				return fmt.Errorf("the %s %q fits nothing that was judged: is it spelt right?", kind.where, v)
			}
		}
	}
	return nil
}

func picks(o triage.Options) bool {
	return len(o.Subscriptions)+len(o.Groups)+len(o.Tags)+len(o.Rules)+len(o.Severities)+len(o.Statuses)+len(o.Resources) > 0
}

// picked is a filter in words.
func picked(o triage.Options) string {
	var parts []string
	for _, kind := range []struct {
		name   string
		values []string
		among  string
	}{
		{"subscription", o.Subscriptions, " or "}, {"resource group", o.Groups, " or "}, {"tag", o.Tags, " and "}, {"resource", o.Resources, " or "},
		{"rule", o.Rules, " or "}, {"severity", o.Severities, " or "}, {"status", o.Statuses, " or "},
	} {
		if len(kind.values) > 0 {
			parts = append(parts, kind.name+" "+strings.Join(kind.values, kind.among))
		}
	}
	return strings.Join(parts, ", ")
}

// triage marks what is suppressed and what is known.
func (o *Outcome) triage(opt Options) {
	r := &o.Report
	o.Scope = triage.Scope{Subscriptions: r.Source.Subscriptions, Complete: r.Summary.Complete}
	if len(opt.Suppressions) > 0 {
		s := opt.Suppressions.Apply(r.Findings, r.At)
		for _, x := range s.Expired {
			o.note("the suppression of %s is over since %s: what it matches counts again", x, x.Until.Format(time.DateOnly))
		}
		for _, x := range s.Refused {
			o.note("the suppression of %s does not cover what could not be judged: only one that names rule and resource does", x)
		}
		for _, x := range s.Unused {
			o.note("the suppression of %s matches nothing that fails", x)
		}
	}
	if opt.Baseline != nil {
		k := opt.Baseline.Apply(r.Findings, o.Scope)
		for i, w := range k.Worse {
			if i == 5 {
				o.note("%d more findings are worse than the baseline knows them", len(k.Worse)-5)
				break
			}
			o.note("%s of %s is worse than the baseline knows it: %s", w.Entry.Rule, w.Entry.Resource, w.Why)
		}
		if n := len(k.Gone); n > 0 {
			o.note("%d findings of the baseline are gone; --update-baseline takes them out", n)
		}
	}
	o.Findings = r.Findings
}

func (o *Outcome) note(format string, args ...any) {
	o.Notes = append(o.Notes, fmt.Sprintf(format, args...))
}

// deduct takes what is marked out of sums that hold everything.
func (o *Outcome) deduct() {
	s := &o.Report.Summary
	s.Statuses, s.Severities = maps.Clone(s.Statuses), maps.Clone(s.Severities)
	rules := map[scan.RuleID]map[scan.Status]int{}
	for r, n := range s.Rules {
		rules[r] = maps.Clone(n)
	}
	s.Rules, s.Suppressed, s.Known = rules, 0, 0
	for _, f := range o.Report.Findings {
		switch {
		case f.Suppressed != nil:
			s.Suppressed++
		case f.Known:
			s.Known++
		default:
			continue
		}
		s.Statuses[f.Status]--
		if f.Status == scan.Fail {
			s.Severities[f.Severity]--
		}
		if s.Rules[f.Rule] != nil {
			s.Rules[f.Rule][f.Status]--
		}
	}
}

// count makes the sums anew from what is listed. What was scanned stays as it was.
func (o *Outcome) count() {
	s := &o.Report.Summary
	s.Statuses, s.Severities, s.Rules = map[scan.Status]int{}, map[scan.Severity]int{}, map[scan.RuleID]map[scan.Status]int{}
	s.Suppressed, s.Known = 0, 0
	for _, st := range scan.Statuses {
		s.Statuses[st] = 0
	}
	for _, sv := range scan.Severities {
		s.Severities[sv] = 0
	}
	for _, f := range o.Report.Findings {
		switch {
		case f.Suppressed != nil:
			s.Suppressed++
			continue
		case f.Known:
			s.Known++
			continue
		}
		s.Statuses[f.Status]++
		if f.Status == scan.Fail {
			s.Severities[f.Severity]++
		}
		if s.Rules[f.Rule] == nil {
			s.Rules[f.Rule] = map[scan.Status]int{}
		}
		s.Rules[f.Rule][f.Status]++
	}
}

// UpdateBaseline returns the baseline that knows what fails now, and what is to be said of it.
func (o Outcome) UpdateBaseline(old triage.Baseline, now time.Time) (triage.Baseline, string) {
	b, unknown := old.Update(o.Findings, o.Scope, now)
	say := fmt.Sprintf("the baseline knows %d findings", len(b.Entries))
	if unknown > 0 {
		say += fmt.Sprintf("; %d that could not be judged are not in it, because nobody can know them", unknown)
	}
	return b, say
}

// Find returns the machine that a person named: name, group/name, or resource id, without regard to case.
func Find(e *estate.Estate, ref string) (*estate.VM, error) {
	if strings.HasPrefix(ref, "/") {
		if v, ok := e.VM(ref); ok {
			return v, nil
		}
		return nil, access.Errorf(access.CodeNotFound, "there is no machine %s in what was read", ref).WithHint("is its subscription among those that were scanned?")
	}
	group, name, both := strings.Cut(ref, "/")
	if !both {
		group, name = "", ref
	}
	var found []*estate.VM
	var close []string
	for _, v := range e.VMs() {
		if strings.EqualFold(v.Name, name) && (group == "" || strings.EqualFold(v.Group, group)) {
			found = append(found, v)
		} else if len(close) < 5 && strings.Contains(strings.ToLower(v.Name), strings.ToLower(name)) {
			close = append(close, v.Group+"/"+v.Name)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		e := access.Errorf(access.CodeNotFound, "there is no machine %q in what was read", ref)
		if len(close) > 0 {
			return nil, e.WithHint("similar names: %s", strings.Join(close, ", "))
		}
		return nil, e.WithHint("name it as NAME, GROUP/NAME or by its resource id")
	}
	var ids []string
	for _, v := range found {
		ids = append(ids, v.ID)
	}
	return nil, access.Errorf(access.CodeAmbiguous, "%d machines are called %s", len(found), ref).WithHint("name one of them: %s", strings.Join(ids, ", "))
}

// Fill returns what completes a finding of a judgement by o: with its evidence where that was lean, and with its remediation. It is
// called as late as possible, because evidence and texts of many findings are large. It may be called from several goroutines.
func Fill(e *estate.Estate, o scan.Options) func(*scan.Finding) {
	evidence := func() func(*scan.Finding) { return func(*scan.Finding) {} }
	if o.Lean {
		evidence = func() func(*scan.Finding) { return scan.Complete(e, o) }
	}
	// What all findings need is looked up once, and not at all for a report that shows none of it.
	evidence = sync.OnceValue(evidence)
	r := remedy.New(e)
	return func(f *scan.Finding) {
		evidence()(f)
		if f.Status == scan.Fail && f.Remediation == nil {
			f.Remediation = r.For(*f)
		}
	}
}

// Explain finds the machine, fills in the port that its system is managed by where none is named, and says whether the source gets there.
func Explain(e *estate.Estate, ref string, q scan.Question) (scan.Explanation, error) {
	vm, err := Find(e, ref)
	if err != nil {
		return scan.Explanation{}, err
	}
	if q.Port == 0 {
		switch vm.OS {
		case "windows":
			q.Port = 3389
		case "linux":
			q.Port = 22
		default:
			err := access.Errorf(access.CodeInvalid, "it is not told whether %s runs Linux or Windows", vm.Name).WithHint("name the port with --port")
			err.Field = "port"
			return scan.Explanation{}, err
		}
	}
	return scan.Explain(e, vm, q), nil
}

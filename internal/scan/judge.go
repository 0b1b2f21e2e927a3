package scan

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Options of a judgement. The zero value judges by all rules with the defaults, for the year 1: Now is needed.
type Options struct {
	Now   time.Time // the instant that is judged for: what is past its end, what is live
	All   bool      // list also what passes and what a rule does not apply to
	Rules []RuleID  // judge by these alone; none: by all
	// Ports are the management ports, TCP. None: DefaultPorts.
	Ports []uint16
	// LongestJIT is the longest time that a Defender policy may allow. 0: DefaultLongestJIT.
	LongestJIT time.Duration
	// LeastDelay is how long before it happens termination must be announced at least. 0: DefaultLeastDelay.
	LeastDelay time.Duration
	// SingleVMs asks machines outside scale sets for announced termination too.
	SingleVMs bool
	// Lean keeps of the evidence what is short: of what fails or is unknown the ports and the rules, without ways, grants and facts, and
	// of the rest nothing. Complete puts it right, one finding after another. What is found and how it is worded is the same.
	Lean bool
}

// The defaults of Options.
const (
	// DefaultLongestJIT is what Defender itself sets for a machine. FACTS 1.2.
	DefaultLongestJIT = 3 * time.Hour
	// DefaultLeastDelay is the least that Azure takes, and what it takes where no time is given. FACTS 4.1.
	DefaultLeastDelay = 5 * time.Minute
)

// DefaultPorts are the management ports that Defender suggests: SSH, RDP and WinRM. FACTS 1.2.
func DefaultPorts() []uint16 { return []uint16{22, 3389, 5985, 5986} }

func (o Options) normal() Options {
	if len(o.Ports) == 0 {
		o.Ports = DefaultPorts()
	}
	o.Ports = slices.Clone(o.Ports)
	slices.Sort(o.Ports)
	o.Ports = slices.Compact(o.Ports)
	o.LongestJIT = cmp.Or(o.LongestJIT, DefaultLongestJIT)
	o.LeastDelay = cmp.Or(o.LeastDelay, DefaultLeastDelay)
	o.Now = o.Now.UTC()
	return o
}

// Judge judges an estate and gives each finding to emit, one after another, in an order that depends on the estate and the options
// alone: machines, scale sets, policies, security groups, and last what is hidden. Without All, what passes and what a rule does not
// apply to is counted and not emitted. It does no I/O and changes nothing; the estate may be judged several times at once.
//
// What could not be read is never a pass (promise P10): a verdict that needs it is Unknown, and what a gap hides altogether gives a
// finding of its own for each rule, on the resource or the subscription that the gap is about.
func Judge(e *estate.Estate, o Options, emit func(Finding)) Summary {
	return judgeAll(e, o, func(fs []Finding) {
		for i := range fs {
			emit(fs[i])
		}
	})
}

// judgeAll is Judge with several findings at a time.
func judgeAll(e *estate.Estate, o Options, emit func([]Finding)) Summary {
	j := newJudge(e, o)
	sum, unread := emptySummary(), 0
	add := func(b batch) {
		for k, n := range b.counts {
			sum.count(k.rule, k.status, k.severity, n)
		}
		sum.Exposed += b.exposed
		unread += b.unread
		emit(b.findings)
	}
	vms, sets, policies, nsgs := e.VMs(), e.ScaleSets(), e.Policies(), e.NSGs()
	if j.wantsVMs() {
		each(vms, 128, missed(j.vm, func(v *estate.VM) bool { return len(v.Problems) > 0 }), add)
	}
	if j.want[VMSSTerminateOff] || j.want[VMSSTerminateShort] {
		each(sets, 128, missed(j.scaleSet, func(s *estate.ScaleSet) bool { return len(s.Problems) > 0 }), add)
	}
	if j.want[JITPolicyBroad] {
		each(policies, 64, missed(j.policyBroad, func(p *estate.JITPolicy) bool { return p.ProvisioningState == contradictory }), add)
	}
	if j.want[NSGRuleBroad] || j.want[RuleOverdue] || j.want[RuleOrphaned] {
		each(nsgs, 64, missed(j.nsg, func(n *estate.NSG) bool { return len(n.Problems) > 0 }), add)
	}
	var hidden batch
	j.gaps(&hidden)
	add(hidden)
	counts := e.Counts()
	sum.Subscriptions, sum.Resources = counts.Subscriptions, counts.Resources
	sum.VMs, sum.ScaleSets, sum.NSGs = len(vms), len(sets), len(nsgs)
	sum.Complete = len(e.Gaps()) == 0 && unread == 0
	return sum
}

// Scan judges an estate and reports: findings worst first, the gaps, and the sums. It is as pure as Judge. Source is left to the caller.
func Scan(e *estate.Estate, o Options) Report {
	r := Report{At: o.Now.UTC(), Gaps: slices.Clone(e.Gaps())}
	var found [][]Finding
	r.Summary = judgeAll(e, o, func(fs []Finding) { found = append(found, fs) })
	// A finding is large: each is moved once, to where it belongs.
	var order []*Finding
	for _, fs := range found {
		for i := range fs {
			order = append(order, &fs[i])
		}
	}
	r.Findings = inOrder(order)
	return r
}

// Sort puts findings in the order in which they are told: what fails before what is unknown, then by severity, exposure, name, and at
// last by rule and resource.
func Sort(fs []Finding) {
	order := make([]*Finding, len(fs))
	for i := range fs {
		order[i] = &fs[i]
	}
	copy(fs, inOrder(order))
}

// inOrder sorts and copies.
func inOrder(order []*Finding) []Finding {
	slices.SortStableFunc(order, compare)
	out := make([]Finding, len(order))
	for i, f := range order {
		out[i] = *f
	}
	return out
}

func compare(a, b *Finding) int {
	if a.Status != b.Status {
		return cmp.Compare(rank(Statuses, a.Status), rank(Statuses, b.Status))
	}
	if a.Severity != b.Severity {
		return cmp.Compare(rank(Severities, a.Severity), rank(Severities, b.Severity))
	}
	if a.Exposure != b.Exposure {
		return cmp.Compare(rank(exposures, a.Exposure), rank(exposures, b.Exposure))
	}
	if c := cmp.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	if a.Rule != b.Rule {
		return cmp.Compare(ruleAt(a.Rule), ruleAt(b.Rule))
	}
	return cmp.Compare(a.Resource, b.Resource)
}

// exposures in the order of Sort: what may be open to the Internet stands right after what is.
var exposures = []Exposure{ExposedInternet, ExposureUnknown, ExposedSome, ExposedVirtualNetwork, ExposedNothing}

// rank is the place of v, after the last where it has none.
func rank[T comparable](all []T, v T) int {
	if i := slices.Index(all, v); i >= 0 {
		return i
	}
	return len(all)
}

func ruleAt(id RuleID) int {
	for i := range Rules {
		if Rules[i].ID == id {
			return i
		}
	}
	return len(Rules)
}

var findingID = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// FindingID is the id of the finding of a rule on a resource. It is the same in every scan and for every spelling of the resource's id.
func FindingID(rule RuleID, resource string) string {
	var room [256]byte
	b := append(append(room[:0], rule...), 0)
	sum := sha256.Sum256(append(b, strings.ToLower(resource)...))
	return "f-" + findingID.EncodeToString(sum[:7])[:10]
}

// emptySummary has every status, severity counted 0.
func emptySummary() Summary {
	s := Summary{Statuses: map[Status]int{}, Severities: map[Severity]int{}, Rules: map[RuleID]map[Status]int{}}
	for _, x := range Statuses {
		s.Statuses[x] = 0
	}
	for _, x := range Severities {
		s.Severities[x] = 0
	}
	return s
}

func (s *Summary) count(rule RuleID, status Status, severity Severity, n int) {
	s.Statuses[status] += n
	if s.Rules[rule] == nil {
		s.Rules[rule] = map[Status]int{}
	}
	s.Rules[rule][status] += n
	if status == Fail {
		s.Severities[severity] += n
	}
}

type countKey struct {
	rule     RuleID
	status   Status
	severity Severity
}

// batch is what the judgement of some resources comes to.
type batch struct {
	findings []Finding
	counts   map[countKey]int
	exposed  int
	unknowns int      // verdicts that are unknown
	unread   int      // resources with such, and of which something that was named is not there
	into     *Finding // where one finding alone is to be completed: nothing else is gathered then
}

// judge holds what all verdicts share. It is not changed after newJudge but for caches that are safe for concurrent use.
type judge struct {
	e        *estate.Estate
	o        Options
	want     map[RuleID]bool
	severity map[RuleID]Severity
	jit      map[string][]jitEntry    // by machine, lower case
	live     map[string][]liveRequest // by machine, lower case
	murky    map[string]bool          // machines with a request whose end could not be read, lower case
	nsgs     map[string]*nsgFacts     // by the id as it is spelt, and in lower case
	sets     map[string]*estate.ScaleSet
	sources  *sync.Map  // of *netipx.IPSet: how it is told
	rooms    *sync.Pool // of *room
}

func newJudge(e *estate.Estate, o Options) *judge {
	j := &judge{e: e, o: o.normal(), want: map[RuleID]bool{}, severity: map[RuleID]Severity{}, sets: map[string]*estate.ScaleSet{}, sources: &sync.Map{},
		rooms: &sync.Pool{New: func() any { return &room{} }}}
	for _, r := range Rules {
		j.severity[r.ID] = r.Severity
		j.want[r.ID] = len(o.Rules) == 0 || slices.Contains(o.Rules, r.ID)
	}
	for _, s := range e.ScaleSets() {
		j.sets[strings.ToLower(s.ID)] = s
	}
	j.indexPolicies()
	j.indexNSGs()
	return j
}

func (j *judge) wantsVMs() bool {
	for _, r := range []RuleID{VMPortExposed, VMJITMissing, VMJITIneffective, VMNoNSG, VMSSTerminateOff, VMSSTerminateShort} {
		if j.want[r] {
			return true
		}
	}
	return false
}

// verdict is what a rule comes to; evidence is asked for only where the finding is listed.
type verdict struct {
	status   Status
	severity Severity // "" is the rule's own
	exposure Exposure
	reason   func() string
	evidence func() Evidence
}

// listed tells whether a finding of the status is emitted.
func (j *judge) listed(s Status) bool { return j.o.All || s == Fail || s == Unknown }

func (j *judge) found(b *batch, rule RuleID, m *estate.Meta, typ string, v verdict) {
	if !j.want[rule] {
		return
	}
	if b.into != nil {
		if f := b.into; f.Rule == rule && f.Status == v.status && f.ID == FindingID(rule, m.ID) && f.Reason == v.reason() {
			f.Evidence = Evidence{}
			if v.evidence != nil {
				f.Evidence = v.evidence()
			}
		}
		return
	}
	severity := cmp.Or(v.severity, j.severity[rule])
	if b.counts == nil {
		b.counts = map[countKey]int{}
	}
	b.counts[countKey{rule, v.status, severity}]++
	if v.status == Unknown {
		b.unknowns++
	}
	if !j.listed(v.status) {
		return
	}
	f := Finding{ID: FindingID(rule, m.ID), Rule: rule, Resource: m.ID, Status: v.status, Severity: severity, Exposure: v.exposure, Reason: v.reason(),
		Name: m.Name, Type: typ, Subscription: m.Subscription, Group: m.Group, Location: m.Location, Tags: m.Tags}
	if v.evidence != nil && (!j.o.Lean || v.status == Fail || v.status == Unknown) {
		if f.Evidence = v.evidence(); j.o.Lean {
			f.Evidence.Facts = nil
		}
	}
	b.findings = append(b.findings, f)
}

// missed counts the resources of which a verdict is unknown and something that they name is not there, or contradicts itself: a scan that
// needs it is not complete. What is unknown although everything was read (a tag whose addresses nobody tells) does not count.
func missed[T any](judge func(*batch, T), problem func(T) bool) func(*batch, T) {
	return func(b *batch, x T) {
		before := b.unknowns
		if judge(b, x); b.unknowns > before && problem(x) {
			b.unread++
		}
	}
}

func say(s string) func() string { return func() string { return s } }

// each judges resources in parallel and hands on what comes out in the order of the resources.
func each[T any](all []T, size int, one func(*batch, T), done func(batch)) {
	workers := runtime.GOMAXPROCS(0)
	if len(all) <= size || workers == 1 {
		for len(all) > 0 {
			n := min(size, len(all))
			var b batch
			for _, x := range all[:n] {
				one(&b, x)
			}
			done(b)
			all = all[n:]
		}
		return
	}
	type job struct {
		of  []T
		out chan batch
	}
	jobs, order := make(chan job), make(chan chan batch, 4*workers) // order bounds what waits for its turn
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for k := range jobs {
				var b batch
				for _, x := range k.of {
					one(&b, x)
				}
				k.out <- b
			}
		})
	}
	go func() {
		for len(all) > 0 {
			n := min(size, len(all))
			k := job{all[:n], make(chan batch, 1)}
			order <- k.out
			jobs <- k
			all = all[n:]
		}
		close(jobs)
		close(order)
	}()
	for out := range order {
		done(<-out)
	}
	wg.Wait()
}

// The full types of what rules are about.
const (
	typeVM       = "Microsoft.Compute/virtualMachines"
	typeScaleSet = "Microsoft.Compute/virtualMachineScaleSets"
	typeNSG      = "Microsoft.Network/networkSecurityGroups"
	typePolicy   = "Microsoft.Security/locations/jitNetworkAccessPolicies"
	typeNIC      = "Microsoft.Network/networkInterfaces"
	typeVNet     = "Microsoft.Network/virtualNetworks"
)

// subjects are the rules about resources of a type.
var subjects = []struct {
	typ   string
	word  string
	rules []RuleID
}{
	{typeVM, "virtual machines", []RuleID{VMPortExposed, VMJITMissing, VMJITIneffective, VMNoNSG}},
	{typeScaleSet, "scale sets", []RuleID{VMSSTerminateOff, VMSSTerminateShort}},
	{typePolicy, "just-in-time policies", []RuleID{JITPolicyBroad}},
	{typeNSG, "network security groups", []RuleID{NSGRuleBroad, RuleOverdue, RuleOrphaned}},
}

// gaps makes findings of what is hidden altogether, so that no rule is silent about it.
func (j *judge) gaps(b *batch) {
	type place struct {
		rule     RuleID
		resource string
	}
	done := map[place]bool{}
	for _, g := range j.e.Gaps() {
		for _, s := range subjects {
			if g.Type != "" && !strings.EqualFold(g.Type, s.typ) {
				continue
			}
			where, what := g.Resource, s.word
			switch {
			case where != "":
				what = "it"
			case g.Subscription != "":
				where, what = "/subscriptions/"+g.Subscription, s.word+" of the subscription"
			default:
				where = "/"
			}
			m := estate.Meta{ID: where, Name: where[strings.LastIndexByte(where, '/')+1:], Subscription: g.Subscription}
			typ := "Microsoft.Resources/subscriptions"
			if g.Resource != "" {
				typ = s.typ
				m.Group = groupOf(where)
			}
			if m.Name == "" {
				m.Name = where
			}
			for _, rule := range s.rules {
				if at := (place{rule, strings.ToLower(where)}); done[at] || g.Resource != "" && j.judged(s.typ, where) {
					continue
				} else {
					done[at] = true
				}
				exposure := Exposure("")
				if s.typ == typeVM {
					exposure = ExposureUnknown
				}
				j.found(b, rule, &m, typ, verdict{status: Unknown, exposure: exposure, reason: say(what + " could not be read: " + cmp.Or(g.Reason, "no reason is known")),
					evidence: func() Evidence { return Evidence{Facts: []Fact{{"source", g.Source}}} }})
			}
		}
	}
}

// judged tells whether the resource itself was read, so that it has a finding of its own.
func (j *judge) judged(typ, id string) bool {
	switch typ {
	case typeVM:
		_, ok := j.e.VM(id)
		return ok
	case typeNSG:
		_, ok := j.e.NSG(id)
		return ok
	case typeScaleSet:
		return j.sets[strings.ToLower(id)] != nil
	}
	return slices.ContainsFunc(j.e.Policies(), func(p *estate.JITPolicy) bool { return strings.EqualFold(p.ID, id) })
}

func groupOf(id string) string {
	parts := strings.Split(id, "/")
	for i := 0; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], "resourceGroups") {
			return parts[i+1]
		}
	}
	return ""
}

// managed says whose a resource is, "" where it is its owner's own: what something else made and keeps cannot be put right here.
func managed(m *estate.Meta) string {
	if m.ManagedBy != "" && !strings.Contains(strings.ToLower(m.ManagedBy), "/virtualmachinescalesets/") {
		return "it is managed by " + m.ManagedBy
	}
	if len(m.Group) > 3 && strings.EqualFold(m.Group[:3], "MC_") {
		return "its resource group " + m.Group + " belongs to a cluster of AKS"
	}
	return ""
}

func sortedKeys[M ~map[string]V, V any](m M) []string { return slices.Sorted(maps.Keys(m)) }

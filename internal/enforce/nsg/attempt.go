package nsg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// unit is one address with a protected port: what bounds the place of its deny is found for each alone, so that a rule that
// concerns one machine moves nothing of the others.
type unit struct {
	addr   netip.Addr
	ports  access.Ports
	proto  access.Protocol
	vms    []access.VM
	exempt []access.Exemption
}

func unitsOf(shields []enforce.Shield) []unit {
	type key struct {
		a netip.Addr
		p access.Ports
		t access.Protocol
	}
	at := map[key]int{}
	var out []unit
	for _, s := range shields {
		for _, a := range s.Destinations {
			a = a.Unmap().WithZone("")
			if !a.IsValid() || !s.Ports.Valid() {
				continue
			}
			k := key{a, s.Ports, s.Protocol}
			i, ok := at[k]
			if !ok {
				i = len(out)
				at[k] = i
				out = append(out, unit{addr: a, ports: s.Ports, proto: s.Protocol})
			}
			u := &out[i]
			if s.VM.ID != "" && !slices.ContainsFunc(u.vms, func(v access.VM) bool { return access.SameVM(v.ID, s.VM.ID) }) {
				u.vms = append(u.vms, s.VM)
			}
			for _, e := range s.Exemptions {
				if !slices.Contains(u.exempt, e) {
					u.exempt = append(u.exempt, e)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b unit) int {
		return cmp.Or(comparePorts(a.proto, a.ports, b.proto, b.ports), a.addr.Compare(b.addr))
	})
	return out
}

func comparePorts(p access.Protocol, a access.Ports, q access.Protocol, b access.Ports) int {
	return cmp.Or(strings.Compare(string(p), string(q)), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

func (u unit) exemptSet() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, e := range u.exempt {
		if ps, ok := sourcePrefixes(e.Source); ok {
			for _, p := range ps {
				b.AddPrefix(p)
			}
		}
	}
	s, _ := b.IPSet()
	return s
}

// shield is one deny rule to be.
type shield struct {
	bundle
	ports   access.Ports
	proto   access.Protocol
	bound   int    // its priority must be lower than this
	blocker string // the foreign rule that sets the bound; empty: the band does
	prio    int    // 0: no place
}

// opener is one allow or exempt rule to be.
type opener struct {
	bundle
	kind     enforce.Kind
	source   []string // as it will stand in the rule
	prefixes []netip.Prefix
	asgs     []string
	ports    access.Ports
	proto    access.Protocol
	protocol string   // Azure's word, for what is not TCP or UDP
	allPorts []string // as they will stand in the rule, where not one range
	sports   []string // source ports, where not all
	grants   []access.GrantID
	vm       string
	vms      []access.VM // of an exemption: whose it is
	exempts  string      // its name
	lo, hi   int         // its priority must lie between, both excluded
	blocker  string
	stopper  string // the foreign deny that sets lo
	near     int    // a remainder stands as close to this as it can
	prio     int
}

// bundle is what a rule to be has in common.
type bundle struct {
	base     string // name without number
	name     string
	lead     string // of the description
	machines []string
	dsts     []netip.Addr
	dstText  []string // instead of dsts
}

func (o *opener) rule() azure.SecurityRule {
	r := azure.SecurityRule{Name: o.name, Priority: o.prio, Direction: "Inbound", Access: "Allow", Protocol: o.protocol,
		Description: describe(o.lead, o.machines), SourcePrefixes: o.source, SourceASGs: o.asgs, SourcePorts: []string{"*"},
		DestinationPrefixes: o.dstText, DestinationPorts: o.allPorts}
	if o.protocol == "" {
		r.Protocol = azureProtocol(o.proto)
	}
	if len(o.dstText) == 0 {
		r.DestinationPrefixes = addrTexts(o.dsts)
	}
	if len(o.sports) > 0 {
		r.SourcePorts = o.sports
	}
	if len(o.allPorts) == 0 {
		r.DestinationPorts = []string{o.ports.String()}
	}
	return sealed(r)
}

func (s *shield) rule() azure.SecurityRule {
	return sealed(azure.SecurityRule{Name: s.name, Priority: s.prio, Direction: "Inbound", Access: "Deny", Protocol: azureProtocol(s.proto),
		Description: describe(s.lead, s.machines), SourcePrefixes: []string{"*"}, SourcePorts: []string{"*"},
		DestinationPrefixes: addrTexts(s.dsts), DestinationPorts: []string{s.ports.String()}})
}

func azureProtocol(p access.Protocol) string {
	if p == access.UDP {
		return "Udp"
	}
	return "Tcp"
}

// attempt is one try to find a place for everything.
type attempt struct {
	pl       *planner
	layout   layout
	others   []azure.SecurityRule
	reaches  []reach // of the inbound ones
	taken    map[int]bool
	shields  []*shield
	at       map[netip.Addr][]*shield
	openers  []*opener
	problems []enforce.Problem
	failures int             // rules without a place
	blockers map[string]bool // foreign rules, lower case, that leave no place before them
	refuse   string          // a rule that is set aside and cannot be, because what is left of it has no place
}

func (pl *planner) attempt(l layout) *attempt {
	t := &attempt{pl: pl, layout: l, others: pl.foreign(), taken: map[int]bool{}, at: map[netip.Addr][]*shield{}, blockers: map[string]bool{}}
	for _, r := range t.others {
		if r.Inbound() {
			t.taken[r.Priority] = true
			t.reaches = append(t.reaches, reachOf(r, pl.in.Wanted.Env))
		}
	}
	slices.SortStableFunc(t.reaches, func(a, b reach) int { return cmp.Compare(a.prio, b.prio) })
	for _, a := range pl.aside { // its place stays free for the day when it is put back
		if a.original.Inbound() {
			t.taken[a.original.Priority] = true
		}
	}
	if t.remainders(); t.refuse != "" {
		return t
	}
	t.placeShields()
	t.exemptions()
	t.windows()
	return t
}

func (t *attempt) problem(p enforce.Problem) {
	p.Place = t.pl.in.Place
	t.problems = append(t.problems, p)
}

func (t *attempt) fail(p enforce.Problem) {
	t.failures++
	t.problem(p)
}

func (t *attempt) replaceHint(rule string) string {
	if t.pl.refused[strings.ToLower(rule)] { // with consent, and in vain
		return narrowHint
	}
	return fmt.Sprintf("--replace-rule %s/%s", azure.IDName(t.pl.in.Place), rule)
}

// rules returns the list: others', then ours that have a place.
func (t *attempt) rules() []azure.SecurityRule {
	out := slices.Clone(t.others)
	for _, s := range t.shields {
		if s.prio > 0 {
			out = append(out, s.rule())
		}
	}
	for _, o := range t.openers {
		if o.prio > 0 {
			out = append(out, o.rule())
		}
	}
	return out
}

// absent returns the denies and exemptions that should stand and do not.
func (t *attempt) absent() []string {
	var out []string
	for _, s := range t.shields {
		if _, ok := t.pl.ours[strings.ToLower(s.name)]; !ok && s.prio > 0 {
			out = append(out, s.name)
		}
	}
	for _, o := range t.openers {
		if _, ok := t.pl.ours[strings.ToLower(o.name)]; !ok && o.prio > 0 && o.kind == enforce.KindExempt {
			out = append(out, o.name)
		}
	}
	return out
}

// kept returns the priority of a rule of ours that stands as it was written, 0 otherwise.
func (t *attempt) kept(name string) int {
	r, ok := t.pl.ours[strings.ToLower(name)]
	if !ok || !t.layout.keep || !intact(r) || !r.Inbound() || r.Priority < minPriority || r.Priority > maxPriority || t.taken[r.Priority] {
		return 0
	}
	return r.Priority
}

// bypasses returns, by priority, the foreign allows that let somebody at a protected address, exemptions aside.
func (t *attempt) bypasses(u unit, candidates []*reach) []*reach {
	var out []*reach
	var exempt *netipx.IPSet
	for _, x := range candidates {
		if !x.reaches(u.addr) {
			continue
		}
		if exempt == nil {
			exempt = u.exemptSet()
		}
		if !x.excused(exempt, u.addr) {
			out = append(out, x)
		}
	}
	return out
}

// placeShields finds the places of the denies: as late in the band as there is one, and before every foreign allow that would
// bypass them. A rule that leaves no place before it is passed over, and named.
func (t *attempt) placeShields() {
	end := t.pl.in.Band.End
	candidates := map[string][]*reach{}
	by := make([][]*reach, len(t.pl.units))
	guests := map[string]bool{}
	for i, u := range t.pl.units {
		k := string(u.proto) + u.ports.String()
		c, ok := candidates[k]
		if !ok {
			for j := range t.reaches {
				x := &t.reaches[j]
				if !x.allow || !x.touches(u.ports, u.proto) {
					continue
				}
				if h, ours := Parse(x.name); ours && h.Kind == enforce.KindAllow { // a window of another installation's
					if !guests[x.name] && x.reaches(u.addr) {
						guests[x.name] = true
						t.problem(enforce.Problem{Rule: x.name, Message: fmt.Sprintf("rule %s: installation %s holds port %s/%s open to a source of its own until %s",
							x.name, h.Installation, u.ports, u.proto, h.End.Format("2006-01-02 15:04:05Z")), Hint: "protect a machine from one installation only"})
					}
					continue
				}
				c = append(c, x)
			}
			candidates[k] = c
		}
		by[i] = t.bypasses(u, c)
	}
	passed := map[*reach]bool{}
	for {
		type key struct {
			ports access.Ports
			proto access.Protocol
			v4    bool
			bound int
		}
		groups := map[key]*shield{}
		var order []*shield
		blockers := map[*shield][]*reach{}
		for i, u := range t.pl.units {
			k := key{u.ports, u.proto, u.addr.Is4(), end + 1}
			var blocker *reach
			for _, x := range by[i] {
				if !passed[x] {
					if x.prio <= end {
						k.bound, blocker = x.prio, x
					}
					break
				}
			}
			g := groups[k]
			if g == nil || len(g.dsts) == maxAddresses {
				g = &shield{ports: u.ports, proto: u.proto, bound: k.bound}
				g.base = denyName(t.pl.in.Installation, u.proto, u.ports)
				g.lead = fmt.Sprintf("Curfew %s: shut unless granted, %s %s", t.pl.in.Installation, u.proto, u.ports)
				groups[k] = g
				order = append(order, g)
			}
			if blocker != nil && !slices.Contains(blockers[g], blocker) {
				blockers[g] = append(blockers[g], blocker)
				g.blocker = blocker.name
			}
			g.dsts = append(g.dsts, u.addr)
			for _, v := range u.vms {
				g.machines = append(g.machines, v.Name)
			}
		}
		slices.SortStableFunc(order, func(a, b *shield) int { return cmp.Compare(a.bound, b.bound) })
		var bs []*bundle
		for _, g := range order {
			bs = append(bs, &g.bundle)
		}
		t.number(bs, enforce.KindDeny)
		used := map[int]bool{}
		for _, g := range order {
			if p := t.kept(g.name); p > 0 && p < g.bound && p <= end && !used[p] {
				g.prio = p
				used[p] = true
			}
		}
		again := false
		for _, g := range order {
			for p := min(g.bound-1, end); p >= minPriority && g.prio == 0; p-- {
				if !t.taken[p] && !used[p] {
					g.prio = p
					used[p] = true
				}
			}
			if g.prio == 0 && g.bound <= end {
				for _, x := range blockers[g] {
					passed[x], again = true, true
				}
				break
			}
		}
		if again {
			continue
		}
		for p := range used {
			t.taken[p] = true
		}
		t.shields = order
		break
	}
	t.bypassed(by, passed)
	for _, g := range t.shields {
		if g.prio == 0 {
			t.fail(enforce.Problem{Message: fmt.Sprintf("no priority up to %d is free for the deny of port %s/%s", end, g.ports, g.proto),
				Hint: "set a later end for the priority band"})
			continue
		}
		for _, a := range g.dsts {
			t.at[a] = append(t.at[a], g)
		}
		t.room(g)
	}
}

// bypassed reports the rules that could not be passed, once for each machine. P4.
func (t *attempt) bypassed(by [][]*reach, passed map[*reach]bool) {
	type key struct{ rule, vm string }
	said := map[key]bool{}
	for i, u := range t.pl.units {
		for _, x := range by[i] {
			if !passed[x] {
				continue
			}
			t.blockers[strings.ToLower(x.name)] = true
			for _, v := range u.vms {
				if k := (key{x.name, strings.ToLower(v.ID)}); !said[k] {
					said[k] = true
					t.fail(enforce.Problem{VM: v.ID, Rule: x.name, Hint: t.replaceHint(x.name),
						Message: fmt.Sprintf("rule %s (priority %d) lets others at port %s/%s of %s, and no priority before it is free", x.name, x.prio, u.ports, u.proto, v.Name)})
				}
			}
		}
	}
}

// room reports a deny before which no window could ever stand.
func (t *attempt) room(g *shield) {
	if g.blocker == "" {
		return
	}
	for p := minPriority; p < g.prio; p++ {
		if !t.taken[p] {
			return
		}
	}
	t.blockers[strings.ToLower(g.blocker)] = true
	t.fail(enforce.Problem{Rule: g.blocker, Hint: t.replaceHint(g.blocker),
		Message: fmt.Sprintf("port %s/%s can be shut before rule %s, but no priority is left there to open it for anybody", g.ports, g.proto, g.blocker)})
}

// number gives each rule to be the name under which most of it stands already, or the first free number of its base.
func (t *attempt) number(bs []*bundle, kind enforce.Kind) {
	type old struct {
		name string
		dsts map[string]bool
	}
	standing := map[string][]old{}
	for _, r := range t.pl.ours {
		if h, _ := Parse(r.Name); h.Kind == kind {
			o := old{strings.ToLower(r.Name), map[string]bool{}}
			for _, d := range r.DestinationPrefixes {
				o.dsts[spelled([]string{d})] = true
			}
			standing[baseOf(r.Name)] = append(standing[baseOf(r.Name)], o)
		}
	}
	used := map[string]bool{}
	for _, b := range bs {
		best, most := "", 0
		for _, o := range standing[b.base] {
			n := 0
			for _, d := range b.destinations() {
				if o.dsts[d] {
					n++
				}
			}
			if !used[o.name] && (n > most || n == most && n > 0 && (len(o.name) < len(best) || len(o.name) == len(best) && o.name < best)) {
				best, most = o.name, n
			}
		}
		if best != "" {
			b.name, used[best] = best, true
		}
	}
	for _, b := range bs {
		for n := 1; b.name == ""; n++ {
			if name := numbered(b.base, n); !used[name] {
				b.name, used[name] = name, true
			}
		}
	}
}

func (b *bundle) destinations() []string {
	texts := b.dstText
	if len(texts) == 0 {
		texts = addrTexts(b.dsts)
	}
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = spelled([]string{t})
	}
	return out
}

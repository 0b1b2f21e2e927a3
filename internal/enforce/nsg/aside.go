package nsg

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// restSlug begins what stands for the exemption's name in the rules that carry on parts of a rule that was set aside.
const restSlug = "rest-"

// aside is a foreign rule that is set aside with consent: what is left of it goes on, the first part under its own name and
// priority, the others in rules of ours beside it.
type aside struct {
	original azure.SecurityRule
	head     *azure.SecurityRule // what stands under its name; nil: nothing
	rest     []azure.SecurityRule
	fresh    bool // not yet in Replaced
}

func (a *aside) first() (azure.SecurityRule, bool) {
	if a.head == nil {
		return azure.SecurityRule{}, false
	}
	return *a.head, true
}

// remainder is the rule less every protected address and port, as rules without name and priority but for the first, which has
// the original's and is nil when nothing is left. It fails when what the rule reaches is not exactly known.
func remainder(r azure.SecurityRule, units []unit, env netsec.Env) (head *azure.SecurityRule, rest []azure.SecurityRule, err error) {
	x := reachOf(r, env)
	type shut struct{ tcp, udp []netsec.PortRange }
	by := map[netip.Addr]*shut{}
	for _, u := range units {
		if !x.touches(u.ports, u.proto) || !x.reaches(u.addr) {
			continue
		}
		if by[u.addr] == nil {
			by[u.addr] = &shut{}
		}
		p := netsec.PortRange{First: u.ports.First, Last: u.ports.Last}
		if u.proto == access.TCP {
			by[u.addr].tcp = append(by[u.addr].tcp, p)
		} else {
			by[u.addr].udp = append(by[u.addr].udp, p)
		}
	}
	if len(by) == 0 {
		return &r, nil, nil
	}
	dst, exact := addresses(r.DestinationPrefixes, r.DestinationASGs, env)
	if !exact {
		return nil, nil, errors.New("the addresses of its destination are not known")
	}
	proto, err := netsec.ParseProtocol(r.Protocol)
	if err != nil {
		return nil, nil, err
	}
	var ports []netsec.PortRange
	for _, t := range r.DestinationPorts {
		p, err := netsec.ParsePortRange(t)
		if err != nil {
			return nil, nil, err
		}
		ports = append(ports, p)
	}
	all := slices.Contains(ports, netsec.AllPorts)
	var out []azure.SecurityRule
	family := 0 // where the rules of the present address family begin: Azure takes one family in a rule
	add := func(protocol string, dsts, ports []string) {
		if len(dsts) == 0 || len(ports) == 0 {
			return
		}
		for i := family; i < len(out); i++ {
			if out[i].Protocol == protocol && slices.Equal(out[i].DestinationPorts, ports) {
				out[i].DestinationPrefixes = append(slices.Clone(out[i].DestinationPrefixes), dsts...)
				return
			}
		}
		c := r
		c.Raw, c.Protocol, c.DestinationPrefixes, c.DestinationASGs, c.DestinationPorts = nil, protocol, dsts, nil, ports
		out = append(out, c)
	}
	for _, v4 := range []bool{true, false} {
		if !sourcesOf(r, v4) {
			continue
		}
		family = len(out)
		var b netipx.IPSetBuilder
		b.AddSet(dst)
		if onlyTags(r.DestinationPrefixes) {
			for _, h := range hostAddrs { // part of the tag VirtualNetwork, and never a machine
				b.RemovePrefix(h)
			}
		}
		classes := map[string][]netip.Addr{}
		for a, s := range by {
			if a.Is4() == v4 {
				b.Remove(a)
				k := fmt.Sprint(minusPorts(ports, s.tcp), "|", minusPorts(ports, s.udp))
				classes[k] = append(classes[k], a)
			}
		}
		set, err := b.IPSet()
		if err != nil {
			return nil, nil, err
		}
		var texts []string
		for _, p := range set.Prefixes() {
			if p.Addr().Is4() == v4 {
				texts = append(texts, prefixText(p))
			}
		}
		add(r.Protocol, texts, r.DestinationPorts)
		for _, k := range slices.Sorted(maps.Keys(classes)) {
			as := classes[k]
			slices.SortFunc(as, netip.Addr.Compare)
			d, s := addrTexts(as), by[as[0]]
			tcp, udp := minusPorts(ports, s.tcp), minusPorts(ports, s.udp)
			switch {
			case proto == netsec.TCP:
				add(r.Protocol, d, tcp)
			case proto == netsec.UDP:
				add(r.Protocol, d, udp)
			case slices.Equal(tcp, udp):
				add("*", d, tcp)
			default:
				add("Tcp", d, tcp)
				add("Udp", d, udp)
			}
			if proto == netsec.Any && all { // a rule that names ports does not match protocols without ports
				for _, p := range []string{"Icmp", "Esp", "Ah"} {
					add(p, d, []string{"*"})
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, nil, nil
	}
	for _, r := range out {
		if len(r.DestinationPrefixes) > maxAddresses {
			return nil, nil, fmt.Errorf("what is left of it takes %d address ranges, and one rule may hold %d", len(r.DestinationPrefixes), maxAddresses)
		}
	}
	first := out[0]
	first.Raw = r.Raw
	if first, err = first.Edited(); err != nil {
		return nil, nil, err
	}
	return &first, out[1:], nil
}

func onlyTags(texts []string) bool {
	return !slices.ContainsFunc(texts, func(t string) bool {
		_, ok := netsec.ParsePrefix(t)
		return ok || t == "*"
	})
}

// sourcesOf tells whether the rule can have a source of the family.
func sourcesOf(r azure.SecurityRule, v4 bool) bool {
	if len(r.SourceASGs) > 0 {
		return true
	}
	return slices.ContainsFunc(r.SourcePrefixes, func(t string) bool {
		p, ok := netsec.ParsePrefix(t)
		return !ok || p.Addr().Is4() == v4
	})
}

func minusPorts(from, what []netsec.PortRange) []string {
	var left []netsec.PortRange
	left = append(left, from...)
	for _, w := range what {
		left = minusRanges(left, w)
	}
	slices.SortFunc(left, func(a, b netsec.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	var out []string
	for _, p := range slices.Compact(left) {
		out = append(out, p.String())
	}
	return out
}

func minusRanges(from []netsec.PortRange, w netsec.PortRange) []netsec.PortRange {
	var left []netsec.PortRange
	for _, p := range from {
		if !p.Overlaps(w) {
			left = append(left, p)
			continue
		}
		if p.First < w.First {
			left = append(left, netsec.PortRange{First: p.First, Last: w.First - 1})
		}
		if p.Last > w.Last {
			left = append(left, netsec.PortRange{First: w.Last + 1, Last: p.Last})
		}
	}
	return left
}

// equalRule compares what two rules of somebody else's say.
func equalRule(a, b azure.SecurityRule) bool {
	return a.Description == b.Description && contentOf(a) == contentOf(b)
}

func parseOriginal(r access.Replacement) (azure.SecurityRule, error) {
	var out azure.SecurityRule
	err := json.Unmarshal(r.Original, &out)
	return out, err
}

// written returns the protected addresses and ports as our standing denies have them: what the last write was based on.
func (pl *planner) written() []unit { return unitsOf(pl.standingShields()) }

// standingShields returns what our denies hold. Ports are taken from the names, which nobody can change without making another
// rule of it.
func (pl *planner) standingShields() []enforce.Shield {
	var shields []enforce.Shield
	for _, name := range slices.Sorted(maps.Keys(pl.ours)) {
		h, _ := Parse(name)
		if h.Kind != enforce.KindDeny {
			continue
		}
		proto, ports, _ := strings.Cut(h.Shuts, "-")
		p, err := access.ParsePorts(ports)
		dsts, ok := exactAddrs(pl.ours[name])
		if ok && err == nil {
			shields = append(shields, enforce.Shield{Destinations: dsts, Ports: p, Protocol: access.Protocol(proto)})
		}
	}
	return shields
}

// keepShields adds what our denies hold, and is not wanted, to what is wanted.
func (pl *planner) keepShields() {
	wanted := map[string]bool{}
	at := func(u unit) string { return fmt.Sprint(u.addr, u.ports, u.proto) }
	for _, u := range unitsOf(pl.in.Wanted.Shields) {
		wanted[at(u)] = true
	}
	all := slices.Clone(pl.in.Wanted.Shields)
	for _, u := range pl.written() {
		if !wanted[at(u)] {
			all = append(all, enforce.Shield{Destinations: []netip.Addr{u.addr}, Ports: u.ports, Protocol: u.proto})
		}
	}
	pl.in.Wanted.Shields = all
}

// resume keeps aside what stands aside.
func (pl *planner) resume(rep access.Replacement) {
	key := strings.ToLower(rep.Rule)
	original, err := parseOriginal(rep)
	if err != nil || !strings.EqualFold(original.Name, rep.Rule) {
		pl.problem(enforce.Problem{Rule: rep.Rule, Message: fmt.Sprintf("the kept original of rule %s cannot be read", rep.Rule), Hint: "report this"})
		return
	}
	env := pl.in.Wanted.Env
	head, rest, err := remainder(original, pl.units, env)
	if err != nil {
		pl.problem(enforce.Problem{Rule: rep.Rule, Message: fmt.Sprintf("rule %s stays as it is: %v", rep.Rule, err), Hint: "report this"})
		return
	}
	then, _, err := remainder(original, pl.written(), env)
	present, stands := pl.present(rep.Rule)
	a := &aside{original: original, head: head, rest: rest}
	switch {
	case !stands && (head == nil || err == nil && then == nil):
	case !stands: // whoever owns it has removed it since: what was left of it goes too
		a.head, a.rest = nil, nil
	case head != nil && equalRule(present, *head):
		a.head = &present
	case equalRule(present, original), err == nil && then != nil && equalRule(present, *then):
	default:
		a.head = &present
		pl.problem(enforce.Problem{Rule: rep.Rule, Message: fmt.Sprintf("rule %s, which was set aside with consent, has been changed by somebody since; it is left as it is", rep.Rule),
			Hint: "protect again with " + pl.replaceHint(rep.Rule)})
	}
	pl.aside[key] = a
}

func (pl *planner) replaceHint(rule string) string {
	return fmt.Sprintf("--replace-rule %s/%s", azure.IDName(pl.in.Place), rule)
}

// restore puts back what was set aside, where what stands is still what was left of it. It returns what could be put back and has
// no place.
func (pl *planner) restore() (blocked []access.Replacement) {
	for _, rep := range pl.in.Wanted.Restore {
		key := strings.ToLower(rep.Rule)
		original, err := parseOriginal(rep)
		if err != nil || !strings.EqualFold(original.Name, rep.Rule) {
			pl.problem(enforce.Problem{Rule: rep.Rule, Message: fmt.Sprintf("the kept original of rule %s cannot be read", rep.Rule), Hint: "write the rule again by hand"})
			continue
		}
		present, stands := pl.present(rep.Rule)
		ours, known := false, false
		for _, units := range [][]unit{pl.written(), pl.units} {
			head, _, err := remainder(original, units, pl.in.Wanted.Env)
			if err != nil {
				continue
			}
			known = true
			ours = ours || head == nil && !stands || head != nil && stands && equalRule(present, *head)
		}
		switch {
		case stands && equalRule(present, original):
		case !known || !ours:
			what := "has been changed by somebody since"
			if !stands {
				what = "has been removed by somebody since"
			}
			pl.problem(enforce.Problem{Rule: rep.Rule, Theirs: true, Message: fmt.Sprintf("rule %s, which was set aside with consent, %s; it is not put back", rep.Rule, what),
				Hint: "look at the rule, and write it by hand if it should be as it was; its original is kept"})
		case stands:
			pl.restored[key] = original
		case slices.ContainsFunc(pl.in.Rules, func(r azure.SecurityRule) bool {
			_, mine := pl.ours[strings.ToLower(r.Name)]
			return !mine && r.Priority == original.Priority && strings.EqualFold(r.Direction, original.Direction)
		}):
			pl.problem(enforce.Problem{Rule: rep.Rule, Message: fmt.Sprintf("rule %s cannot be put back: its priority %d is taken", rep.Rule, original.Priority),
				Hint: "free that priority, then unprotect again; its original is kept"})
			blocked = append(blocked, rep)
		default:
			pl.restored[key] = original
			pl.returned = append(pl.returned, original)
		}
	}
	return blocked
}

// setAside sets those of the rules in the way aside that a person consented to, and tells whether there were any.
func (pl *planner) setAside(blockers map[string]bool) bool {
	any := false
	for _, key := range slices.Sorted(maps.Keys(blockers)) {
		_, restored := pl.restored[key]
		r, ok := pl.present(key)
		if !pl.consents[key] || pl.aside[key] != nil || pl.refused[key] || restored || !ok {
			continue
		}
		head, rest, err := remainder(r, pl.units, pl.in.Wanted.Env)
		if err != nil {
			pl.refuse(key, err)
			continue
		}
		pl.aside[key] = &aside{original: r, head: head, rest: rest, fresh: true}
		any = true
	}
	return any
}

// refuse leaves a rule as it is, or puts it back as it was: that others lose what was promised to go on is worse than a bypass
// that is known and named.
func (pl *planner) refuse(key string, err error) {
	pl.refused[key] = true
	if a := pl.aside[key]; a != nil && !a.fresh {
		a.head, a.rest = &a.original, nil
		if present, ok := pl.present(key); ok && equalRule(present, a.original) {
			a.head = &present
		}
	} else {
		delete(pl.aside, key)
	}
	pl.problem(enforce.Problem{Rule: key, Message: fmt.Sprintf("rule %s cannot be set aside: %v", key, err),
		Hint: narrowHint})
}

const narrowHint = "narrow the rule by hand, so that it does not reach the protected ports"

// keep returns the originals of what is newly set aside.
func (pl *planner) keep() []access.Replacement {
	var out []access.Replacement
	for _, key := range slices.Sorted(maps.Keys(pl.aside)) {
		if a := pl.aside[key]; a.fresh {
			out = append(out, access.Replacement{NSG: pl.in.Place, Rule: a.original.Name, Original: slices.Clone([]byte(a.original.Raw))})
		}
	}
	return out
}

// remainders finds places for what goes on of rules that are set aside: no deny of somebody else's may come to stand between
// such a part and its old place if it would stop some of it, nor the other way round.
func (t *attempt) remainders() {
	var bs []*bundle
	var all []*opener
	of := map[*opener]string{}
	for _, key := range slices.Sorted(maps.Keys(t.pl.aside)) {
		a := t.pl.aside[key]
		for _, r := range a.rest {
			word := strings.ToLower(r.Protocol)
			if word == "*" {
				word = "any"
			}
			o := &opener{kind: enforce.KindExempt, source: r.SourcePrefixes, asgs: r.SourceASGs, protocol: r.Protocol, allPorts: r.DestinationPorts,
				sports: r.SourcePorts, near: a.original.Priority, lo: minPriority - 1, hi: maxPriority + 1}
			o.dstText = r.DestinationPrefixes
			o.base = exemptName(t.pl.in.Installation, restSlug+slug(a.original.Name), word, "some")
			o.lead = fmt.Sprintf("Curfew %s: goes on for what is not protected of rule %s", t.pl.in.Installation, a.original.Name)
			x := reachOf(r, t.pl.in.Wanted.Env)
			for i := range t.reaches {
				d := &t.reaches[i]
				if !d.deny || !d.src.Overlaps(x.src) || !d.dst.Overlaps(x.dst) {
					continue
				}
				if d.prio < o.near {
					o.lo = max(o.lo, d.prio)
				} else {
					o.hi = min(o.hi, d.prio)
				}
			}
			of[o] = key
			all = append(all, o)
			bs = append(bs, &o.bundle)
		}
	}
	t.number(bs, enforce.KindExempt)
	for _, o := range all {
		if p := t.kept(o.name); p > o.lo && p < o.hi {
			o.prio = p
			t.taken[p] = true
		}
	}
	for _, o := range all {
		for p := o.near + 1; p < o.hi && o.prio == 0; p++ {
			if !t.taken[p] {
				o.prio = p
			}
		}
		for p := o.near - 1; p > o.lo && o.prio == 0; p-- {
			if !t.taken[p] {
				o.prio = p
			}
		}
		if o.prio == 0 {
			t.refuse = of[o]
			return
		}
		t.taken[o.prio] = true
		t.openers = append(t.openers, o)
	}
}

package scan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// jitEntry is what one policy says of one machine.
type jitEntry struct {
	policy  *estate.JITPolicy
	machine *estate.JITMachine
}

// liveRequest is a request of Defender that is running.
type liveRequest struct {
	port    int
	sources []string
	end     time.Time
}

// indexPolicies finds policies by machine: whichever policy of whichever group names it, in whatever case. What a policy says of a machine
// that is gone is found by nobody. FACTS 1.1.
func (j *judge) indexPolicies() {
	j.jit, j.live, j.murky = map[string][]jitEntry{}, map[string][]liveRequest{}, map[string]bool{}
	for _, p := range j.e.Policies() {
		for i := range p.VMs {
			id := strings.ToLower(p.VMs[i].VM)
			j.jit[id] = append(j.jit[id], jitEntry{p, &p.VMs[i]})
		}
		for i := range p.Requests {
			r := &p.Requests[i]
			id := strings.ToLower(r.VM)
			switch {
			case strings.EqualFold(r.Status, "Revoked"):
			case r.End.IsZero():
				j.murky[id] = true
			case r.End.After(j.o.Now) && !r.Start.After(j.o.Now):
				j.live[id] = append(j.live[id], liveRequest{r.Port, r.Sources, r.End})
			}
		}
	}
}

// askedFor tells whether the running requests for a port of a machine cover sources, all of them. Of a rule that lets in more than was asked
// for somebody has changed the rule, and the policy does not show it (FACTS 1.6). A request that names no source says nothing of it.
func (j *judge) askedFor(vmID string, port uint16, sources []string) bool {
	var b netipx.IPSetBuilder
	asked := false
	for _, q := range j.live[vmID] {
		if q.port != int(port) {
			continue
		}
		prefixes, every := prefixesOf(q.sources)
		if every || len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
			return true
		}
		asked = true
		for _, p := range prefixes {
			b.AddPrefix(p)
		}
	}
	set, err := b.IPSet()
	if !asked || err != nil {
		return false
	}
	prefixes, every := prefixesOf(sources)
	return !every && len(prefixes) > 0 && len(prefixes) == len(sources) &&
		!slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !set.ContainsPrefix(p) })
}

// contradictory is the state of a policy that was read twice with different content.
const contradictory = "contradictory"

// provisioned tells whether a policy protects at all. The state is read-only and always told by the API; where an export leaves it out, the
// policy counts, and vm-jit-ineffective says whether it works. Of a state that is neither good nor bad (no document lists them) it is
// not known, and doubt says why: what a policy did before goes on while it is changed, for all that is known.
func provisioned(p *estate.JITPolicy) (on bool, doubt string) {
	switch s := strings.ToLower(p.ProvisioningState); s {
	case "", "succeeded":
		return true, ""
	case "failed", "canceled":
		return false, ""
	case contradictory:
		return false, "the just-in-time policy " + p.Name + " stands twice with different content"
	}
	return false, "the provisioning state of the just-in-time policy " + p.Name + " is " + p.ProvisioningState + ", and whether it protects meanwhile is not known"
}

// protects tells whether an entry protects a port. A policy's protocol is TCP, UDP or *; without one it protects nothing.
func protects(p *estate.JITPort, proto netsec.Protocol, port uint16) bool {
	q, err := netsec.ParseProtocol(p.Protocol)
	return err == nil && p.Number == int(port) && (q == netsec.Any || q == proto)
}

// protection is what protects a port of a machine.
type protection struct {
	by     string // curfew or defender, "" is nothing
	policy string // id of the policy, or name of our rule
	nsg    string // id of the group with our rule
	// near says what looks like a protection and is none, for the reason.
	near string
	// unread is why it is not known, "" when it is.
	unread string
}

// protectionOf looks for what protects a port. Defender's policy counts for what it says; ours where a deny rule of some installation in
// front of every address of the machine covers the port.
func (j *judge) protectionOf(v *estate.VM, vmID string, proto netsec.Protocol, port uint16) protection {
	var out protection
	for _, x := range j.jit[vmID] {
		for i := range x.machine.Ports {
			if !protects(&x.machine.Ports[i], proto, port) {
				continue
			}
			on, doubt := provisioned(x.policy)
			if on {
				return protection{by: "defender", policy: x.policy.ID}
			}
			if doubt != "" {
				out.unread = doubt
				continue
			}
			out.near = fmt.Sprintf("the policy %s names it, but its provisioning state is %s, so it protects nothing", x.policy.Name, x.policy.ProvisioningState)
		}
	}
	own := j.ownProtection(v, proto, port)
	if own.by != "" {
		return own
	}
	if own.near != "" {
		out.near = own.near
	}
	if g, hidden := j.e.Incomplete(v.Subscription, typePolicy); hidden {
		out.unread = "just-in-time policies could not be read: " + g.Reason
	} else if own.unread != "" {
		out.unread = own.unread
	}
	if out.near == "" {
		if other := j.otherPorts(vmID); other != "" {
			out.near = other
		}
	}
	return out
}

func (j *judge) otherPorts(vmID string) string {
	for _, x := range j.jit[vmID] {
		var ports []string
		for i := range x.machine.Ports {
			ports = append(ports, fmt.Sprint(x.machine.Ports[i].Number))
		}
		if len(ports) == 0 {
			return fmt.Sprintf("the policy %s names the machine without a port", x.policy.Name)
		}
		return fmt.Sprintf("the policy %s protects other ports of it: %s", x.policy.Name, few(ports, 4))
	}
	return ""
}

func (j *judge) ownProtection(v *estate.VM, proto netsec.Protocol, port uint16) protection {
	var out protection
	covered, bare := 0, netip.Addr{}
	for i := range v.Endpoints {
		ep := &v.Endpoints[i]
		subnet, sure1 := j.facts(ep.SubnetNSG)
		nic, sure2 := j.facts(ep.NICNSG)
		if !sure1 || !sure2 || subnet.doubtful() || nic.doubtful() {
			out.unread = "what a network security group before it says is not known"
		}
		if subnet.denies() == nil && nic.denies() == nil {
			if len(ep.Addrs) > 0 && !bare.IsValid() {
				bare = ep.Addrs[0]
			}
			continue
		}
		for _, a := range ep.Addrs {
			name, nsg := denyOver(subnet, a, proto, port, "")
			if name == "" {
				name, nsg = denyOver(nic, a, proto, port, "")
			}
			if name == "" {
				if !bare.IsValid() {
					bare = a
				}
				continue
			}
			if covered++; out.policy == "" {
				out.policy, out.nsg = name, nsg
			}
		}
	}
	if covered == 0 {
		return protection{unread: out.unread}
	}
	if bare.IsValid() {
		return protection{unread: out.unread, near: fmt.Sprintf("rule %s of Curfew does not cover its address %s", out.policy, bare)}
	}
	out.by, out.unread = "curfew", ""
	return out
}

// denyOver finds a deny rule of ours in a group over a port of an address; of one installation, or with "" of any.
func denyOver(f *nsgFacts, a netip.Addr, proto netsec.Protocol, port uint16, of string) (rule, nsg string) {
	for i := range f.denies() {
		d := &f.deny[i]
		if (of == "" || d.of == of) && (d.proto == netsec.Any || d.proto == proto) && slices.ContainsFunc(d.ports, func(r netsec.PortRange) bool { return r.Contains(port) }) &&
			(d.every || d.addrs.Contains(a)) {
			return d.name, f.nsg.ID
		}
	}
	return "", ""
}

// guarded is a port, or range of ports, that something protects.
type guarded struct {
	proto netsec.Protocol
	ports netsec.PortRange
	protection
}

// guardedPorts lists everything that is protected on a machine, whatever the port, policies before rules of ours.
func (j *judge) guardedPorts(v *estate.VM, vmID string) []guarded {
	var out []guarded
	add := func(g guarded) {
		for i, x := range out {
			if x.proto == g.proto && x.ports.Covers(g.ports) {
				if x.ports == g.ports && x.unread != "" && g.unread == "" {
					out[i] = g // one that is known says more
				}
				return
			}
		}
		out = append(out, g)
	}
	for _, x := range j.jit[vmID] {
		on, doubt := provisioned(x.policy)
		if !on && doubt == "" {
			continue
		}
		for i := range x.machine.Ports {
			p := &x.machine.Ports[i]
			q, err := netsec.ParseProtocol(p.Protocol)
			if err != nil || p.Number < 0 || p.Number > 65535 {
				continue
			}
			for _, proto := range []netsec.Protocol{netsec.TCP, netsec.UDP} {
				if q == proto || q == netsec.Any {
					add(guarded{proto, netsec.Port(uint16(p.Number)), protection{by: "defender", policy: x.policy.ID, unread: doubt}})
				}
			}
		}
	}
	for i := range v.Endpoints {
		for _, id := range [2]string{v.Endpoints[i].SubnetNSG, v.Endpoints[i].NICNSG} {
			f, _ := j.facts(id)
			for k := range f.denies() {
				d := &f.deny[k]
				if !d.every && !slices.ContainsFunc(v.Endpoints[i].Addrs, d.addrs.Contains) {
					continue
				}
				for _, proto := range []netsec.Protocol{netsec.TCP, netsec.UDP} {
					if d.proto != proto && d.proto != netsec.Any {
						continue
					}
					for _, r := range d.ports {
						add(guarded{proto, r, protection{by: "curfew", policy: d.name, nsg: id}})
					}
				}
			}
		}
	}
	return out
}

// policyBroad judges what a policy allows to be asked for, also of machines that are gone: who comes back under the name gets it.
func (j *judge) policyBroad(b *batch, p *estate.JITPolicy) {
	var broad, unclear []string
	ports := 0
	for i := range p.VMs {
		m := &p.VMs[i]
		name := nameOf(m.VM)
		for k := range m.Ports {
			ports++
			x := &m.Ports[k]
			if s, all := anySource(x.Sources); all {
				broad = append(broad, fmt.Sprintf("any source may ask for port %d of %s (%s)", x.Number, name, s))
			} else if len(x.Sources) == 0 {
				unclear = append(unclear, fmt.Sprintf("port %d of %s names no source", x.Number, name))
			} else if s != "" {
				unclear = append(unclear, fmt.Sprintf("the source %q of port %d of %s is not understood", s, x.Number, name))
			}
			switch d, err := ParseDuration(x.MaxDuration); {
			case err != nil:
				unclear = append(unclear, fmt.Sprintf("the longest time for port %d of %s could not be read: %v", x.Number, name, err))
			case d > j.o.LongestJIT:
				broad = append(broad, fmt.Sprintf("port %d of %s may be open for %s, more than the configured %s", x.Number, name, durationText(d), durationText(j.o.LongestJIT)))
			}
		}
	}
	v := verdict{evidence: func() Evidence {
		e := Evidence{Facts: []Fact{{"machines", fmt.Sprint(len(p.VMs))}, {"ports", fmt.Sprint(ports)}, {"provisioningState", p.ProvisioningState}}}
		for i, s := range append(slices.Clone(broad), unclear...) {
			if i == 20 {
				e.Facts = append(e.Facts, Fact{"more", fmt.Sprint(len(broad) + len(unclear) - i)})
				break
			}
			e.Facts = append(e.Facts, Fact{"found", s})
		}
		return e
	}}
	switch {
	case p.ProvisioningState == contradictory:
		v.status, v.reason = Unknown, say("it stands twice with different content")
	case len(broad) > 0:
		v.status, v.reason = Fail, say(withMore(broad))
	case len(unclear) > 0:
		v.status, v.reason = Unknown, say(withMore(unclear))
	case ports == 0:
		v.status, v.reason = NotApplicable, say("it protects no port of any machine")
	default:
		v.status, v.reason = Pass, say(fmt.Sprintf("every port may be asked for from named addresses alone, for at most %s", durationText(j.o.LongestJIT)))
	}
	j.found(b, JITPolicyBroad, &p.Meta, typePolicy, v)
}

// withMore is the first of several statements, and how many there are besides.
func withMore(all []string) string {
	switch len(all) {
	case 1:
		return all[0]
	case 2:
		return all[0] + "; and 1 more"
	}
	return fmt.Sprintf("%s; and %d more", all[0], len(all)-1)
}

// anySource tells whether sources are, one by one or together, more of the Internet than DESIGN 6 tolerates, and which says so. Where
// they are not, it returns the first that it does not understand.
func anySource(sources []string) (which string, any bool) {
	var b netipx.IPSetBuilder
	strange := ""
	for _, s := range sources {
		t := strings.TrimSpace(s)
		if t == "*" || strings.EqualFold(t, "any") || netsec.AnyTenant(t) {
			return s, true
		}
		p, ok := netsec.ParsePrefix(t)
		if !ok {
			if strange == "" {
				strange = s
			}
			continue
		}
		if p.Bits() == 0 {
			return s, true
		}
		b.AddPrefix(p)
	}
	if set, err := b.IPSet(); err == nil && netsec.Exposed(set, nil) {
		return few(sources, 3) + " together", true
	}
	return strange, false
}

// few lists the first n of several, and how many there are besides.
func few(all []string, n int) string {
	if len(all) <= n {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:n], ", "), len(all)-n)
}

func nameOf(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

package packets

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

var (
	hostAddr  = netip.MustParseAddr("168.63.129.16")        // the host: health probes; an address inside the simulation alone
	hostAddr6 = netip.MustParseAddr("fe80::1234:5678:9abc") // its IPv6 form, recorded in a tagMap (FACTS 2.3)
	global6   = netip.MustParsePrefix("2000::/3")           // what IPv6 addresses the Internet can have
	reserved  = prefixList("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3") // IPv4 that the tag Internet does not hold: a recorded expansion leaves these out
)

func prefixList(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		out[i] = netip.MustParsePrefix(t)
	}
	return out
}

// ruleset collects the chains and sets of one nftables table.
type ruleset struct {
	e       *estate
	tags    map[string][]netip.Prefix
	sets    map[string][]netip.Prefix // by name without the family
	order   []string
	chains  strings.Builder
	aliases map[string]string
	unknown map[string]bool
	place   string // virtual network whose tags are meant
}

func newRuleset(e *estate, tags map[string][]netip.Prefix) *ruleset {
	return &ruleset{e: e, tags: tags, sets: map[string][]netip.Prefix{}, unknown: map[string]bool{}, aliases: map[string]string{}}
}

// set names the pair of sets (IPv4, IPv6) that hold the prefixes.
func (r *ruleset) set(name string, prefixes func() []netip.Prefix) string {
	if _, ok := r.sets[name]; !ok {
		r.sets[name] = prefixes()
		r.order = append(r.order, name)
	}
	return name
}

func word(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToLower(s))
}

// family of an nft expression.
type family struct {
	digit, proto, ip, icmp string
	six                    bool
}

var families = []family{{"4", "ipv4", "ip", "icmp", false}, {"6", "ipv6", "ip6", "ipv6-icmp", true}}

// side gives the alternatives for one side of a rule in a family: expressions of which any may match; "" matches everything.
func (r *ruleset) side(f family, field string, texts, asgs []string) []string {
	var out, plain []string
	var prefixes []netip.Prefix
	for _, t := range texts {
		at := f.ip + " " + field
		switch lower := strings.ToLower(t); {
		case t == "*":
			return []string{""}
		case lower == "virtualnetwork":
			out = append(out, at+" @"+r.vnet()+"_"+f.digit)
		case lower == "internet": // outside the virtual network and reachable by the public Internet
			if f.six {
				out = append(out, fmt.Sprintf("%s %s %s != @%s_6", at, global6, at, r.vnet()))
			} else {
				out = append(out, fmt.Sprintf("%s != @%s_4 %s != @%s_4", at, r.vnet(), at, r.set("reserved", func() []netip.Prefix { return reserved })))
			}
		case lower == "azureloadbalancer":
			if f.six {
				prefixes = append(prefixes, netip.PrefixFrom(hostAddr6, 128))
			} else {
				prefixes = append(prefixes, netip.PrefixFrom(hostAddr, 32))
			}
		default:
			if p, ok := address(t); ok {
				if p.Addr().Is6() == f.six {
					prefixes = append(prefixes, p)
				}
				continue
			}
			known, ok := r.tags[lower]
			if !ok {
				r.unknown[t] = true
				continue
			}
			out = append(out, at+" @"+r.set("tag_"+word(lower), func() []netip.Prefix { return known })+"_"+f.digit)
		}
	}
	for _, a := range asgs {
		out = append(out, f.ip+" "+field+" @"+r.set(r.alias("asg", a), func() []netip.Prefix { return r.e.members(a) })+"_"+f.digit)
	}
	for _, p := range widest(prefixes) {
		if p.Bits() == 0 {
			return []string{""}
		}
		plain = append(plain, p.String())
	}
	if len(plain) > 0 {
		out = append(out, f.ip+" "+field+" "+braces(plain))
	}
	return out
}

func (r *ruleset) vnet() string {
	return r.set(r.alias("vnet", r.place), func() []netip.Prefix { return r.e.tagVNet(r.place) })
}

// alias is a short name for an id, the same for the same id.
func (r *ruleset) alias(kind, id string) string {
	name, ok := r.aliases[id]
	if !ok {
		name = fmt.Sprintf("%s%d", kind, len(r.aliases))
		r.aliases[id] = name
	}
	return name
}

// widest leaves out the prefixes that lie in others; nft refuses overlapping elements.
func widest(ps []netip.Prefix) []netip.Prefix {
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range ps {
		if n := len(out); n > 0 && out[n-1].Contains(p.Addr()) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func braces(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return "{ " + strings.Join(list, ", ") + " }"
}

// ports gives the ranges as nft reads them; ok is false where one is not understood. With all every port is meant, and packets without
// ports too: ranges that only together make up all ports are not taken for that (nobody has verified what Azure does there).
func ports(texts []string) (list string, all, ok bool) {
	type span struct{ from, to int }
	var spans []span
	for _, t := range texts {
		if t == "*" {
			return "", true, true
		}
		a, b, ranged := strings.Cut(t, "-")
		if !ranged {
			b = a
		}
		from, err1 := strconv.Atoi(strings.TrimSpace(a))
		to, err2 := strconv.Atoi(strings.TrimSpace(b))
		if err1 != nil || err2 != nil || from < 0 || to > 65535 || from > to {
			return "", false, false
		}
		if from == 0 && to == 65535 {
			return "", true, true
		}
		spans = append(spans, span{from, to})
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= out[n-1].to+1 {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	var words []string
	for _, s := range out {
		if s.from == s.to {
			words = append(words, strconv.Itoa(s.from))
		} else {
			words = append(words, fmt.Sprintf("%d-%d", s.from, s.to))
		}
	}
	return braces(words), false, len(out) > 0
}

var verdicts = map[verdict]string{deny: "drop", goOn: "return", always: "accept"}

// add writes one security rule as nft rules: one for each family and each alternative of its sides. The first that matches decides, so
// that together they are the one rule.
func (r *ruleset) add(x rule) {
	protocols := map[string]string{"*": "", "any": "", "all": "", "tcp": "meta l4proto tcp", "udp": "meta l4proto udp", "icmp": "meta l4proto icmp", "esp": "meta l4proto esp", "ah": "meta l4proto ah"}
	proto, ok := protocols[strings.ToLower(x.protocol)]
	sports, anySport, ok1 := ports(x.sports)
	dports, anyDport, ok2 := ports(x.dports)
	if !ok || !ok1 || !ok2 {
		r.e.problem("rule %s is not carried over: protocol %q, ports %v and %v", x.name, x.protocol, x.sports, x.dports)
		return
	}
	if !anySport || !anyDport {
		switch proto { // a range of ports matches nothing that has no ports
		case "":
			proto = "meta l4proto { tcp, udp }"
		case "meta l4proto tcp", "meta l4proto udp":
		default:
			return
		}
		if !anySport {
			proto += " th sport " + sports
		}
		if !anyDport {
			proto += " th dport " + dports
		}
	}
	for _, f := range families {
		p := proto
		if p == "meta l4proto icmp" {
			p = "meta l4proto " + f.icmp
		}
		for _, src := range r.side(f, "saddr", x.src, x.srcASG) {
			for _, dst := range r.side(f, "daddr", x.dst, x.dstASG) {
				fmt.Fprintf(&r.chains, "\t\t%s counter %s comment %q\n", strings.Join(strings.Fields("meta nfproto "+f.proto+" "+src+" "+dst+" "+p), " "), verdicts[x.verdict], r.comment(x))
			}
		}
	}
}

func (r *ruleset) comment(x rule) string {
	name := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '_'
		}
		return c
	}, x.name)
	return fmt.Sprintf("%d %s", x.priority, name[:min(len(name), 100)])
}

// list writes the rules of one direction as a chain; what no rule decides returns (an NSG ends with a rule that denies all).
func (r *ruleset) list(chain string, rules []rule, inbound bool) string {
	fmt.Fprintf(&r.chains, "\tchain %s {\n", chain)
	for _, x := range rules {
		if x.inbound == inbound {
			r.add(x)
		}
	}
	r.chains.WriteString("\t}\n")
	return chain
}

// layers are what traffic of one ipConfiguration passes.
type layers struct {
	vnet        string
	subnet, nic string // ids of NSGs; "" is none
}

// config writes the chains of one ipConfiguration and returns their names: inward admin rules, subnet, interface; outward the interface
// before the subnet (FACTS 2.3). Each must let the packet go on; where no NSG is, everything goes on.
func (r *ruleset) config(name string, l layers) (in, out string) {
	for i, dir := range []string{"in", "out"} {
		var jumps []string
		inbound := i == 0
		if rules := r.e.admin[l.vnet]; len(rules) > 0 {
			jumps = append(jumps, r.list(name+"_admin_"+dir, rules, inbound))
		}
		order := []struct{ what, id string }{{"subnet", l.subnet}, {"nic", l.nic}}
		if !inbound {
			slices.Reverse(order)
		}
		for _, o := range order {
			if o.id == "" {
				continue
			}
			g, ok := r.e.nsgs[o.id]
			if !ok {
				r.e.problem("%s is not there: nothing passes", o.id)
				g = nsg{rules: []rule{{name: "missing-nsg", inbound: inbound, protocol: "*", src: []string{"*"}, dst: []string{"*"}, sports: []string{"*"}, dports: []string{"*"}}}}
			}
			jumps = append(jumps, r.list(name+"_"+o.what+"_"+dir, g.rules, inbound))
		}
		fmt.Fprintf(&r.chains, "\tchain %s_%s {\n", name, dir)
		for _, j := range jumps {
			fmt.Fprintf(&r.chains, "\t\tjump %s\n", j)
		}
		r.chains.WriteString("\t\taccept\n\t}\n")
	}
	return name + "_in", name + "_out"
}

// definitions are the sets that the chains name, in nft's words.
func (r *ruleset) definitions() string {
	var b strings.Builder
	for _, name := range r.order {
		for _, f := range families {
			var list []string
			for _, p := range widest(r.sets[name]) {
				if p.Addr().Is6() != f.six {
					continue
				}
				if p.Bits() == 0 { // two halves: not every nft takes the whole in a set
					half := netip.PrefixFrom(p.Addr(), 1)
					list = append(list, half.String(), map[bool]string{false: "128.0.0.0/1", true: "8000::/1"}[f.six])
					continue
				}
				list = append(list, p.String())
			}
			fmt.Fprintf(&b, "\tset %s_%s {\n\t\ttype %s_addr\n\t\tflags interval\n\t\tauto-merge\n", name, f.digit, f.proto)
			if len(list) > 0 {
				fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(list, ", "))
			}
			b.WriteString("\t}\n")
		}
	}
	return b.String()
}

// table replaces a table as a whole: one transaction, so that no packet meets half of it.
func table(name, body string) string {
	return fmt.Sprintf("table inet %s\ndelete table inet %s\ntable inet %s {\n%s}\n", name, name, name, body)
}

// entry is an ipConfiguration of a machine, as its own ruleset sees it.
type entry struct {
	addrs  []netip.Addr // the private address, and frontends with floating IP
	layers layers
}

// machineTable is the ruleset of a machine. With flush (flushConnection of an NSG in its way) the packets of established connections are
// judged like new ones, in the direction in which the connection was opened, and those that pass are noted in the sets live4
// and live6: by them cut finds what does not pass any more. Without it an open session survives a rule that was closed (FACTS 2.3).
func (r *ruleset) machineTable(entries []entry, flush bool) string {
	var in, out strings.Builder
	for i, c := range entries {
		r.place = c.layers.vnet
		cin, cout := r.config(fmt.Sprintf("cfg%d", i), c.layers)
		for _, f := range families {
			var list []string
			for _, a := range c.addrs {
				if a.Is6() == f.six {
					list = append(list, a.String())
				}
			}
			if len(list) > 0 {
				fmt.Fprintf(&in, "\t\t%s daddr %s goto %s\n", f.ip, braces(list), cin)
				fmt.Fprintf(&out, "\t\t%s saddr %s goto %s\n", f.ip, braces(list), cout)
			}
		}
	}
	established := "\t\tct state established,related accept\n"
	noted := ""
	if flush {
		established = "\t\tct state related accept\n\t\tct state established ct direction reply accept\n"
		for _, f := range families {
			noted += fmt.Sprintf("\tset live%s {\n\t\ttypeof %s saddr . tcp sport . %s daddr . tcp dport\n\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 10s\n\t}\n", f.digit, f.ip, f.ip)
		}
		noted += "\tchain noted {\n\t\ttype filter hook input priority filter + 10; policy accept;\n"
		for _, f := range families {
			noted += fmt.Sprintf("\t\tct state established ct direction original meta nfproto %s update @live%s { %s saddr . tcp sport . %s daddr . tcp dport }\n", f.proto, f.digit, f.ip, f.ip)
		}
		noted += "\t}\n"
	}
	neighbours := "\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept\n" // as ARP, below what NSGs see
	base := fmt.Sprintf("\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tiif lo accept\n%s%s\t\tct state invalid drop\n%s\t\tcounter\n\t}\n"+
		"\tchain output {\n\t\ttype filter hook output priority filter; policy drop;\n\t\toif lo accept\n%s%s\t\tct state invalid drop\n%s\t\tcounter\n\t}\n",
		neighbours, established, in.String(), neighbours, established, out.String())
	return table("nsg", r.definitions()+noted+r.chains.String()+base)
}

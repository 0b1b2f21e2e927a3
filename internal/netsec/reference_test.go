package netsec_test

import (
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// The dumb reference: it walks every rule for one packet in one world at a time. Whatever is not known is a choice, and
// every combination of choices is one world. The verdict is certain where all worlds agree. It shares no code with the
// package.

// worlds calls f once for every combination of the choices that f asks for, and returns every result. fixed choices are
// not varied.
func worlds(fixed map[string]bool, f func(choose func(string) bool) string) map[string]bool {
	results := map[string]bool{}
	var script []bool
	for {
		at, memo, tags := 0, map[string]bool{}, map[string]bool{}
		choose := func(key string) bool {
			if v, ok := fixed[key]; ok {
				return v
			}
			if v, ok := memo[key]; ok {
				return v
			}
			if at == len(script) {
				script = append(script, false)
			}
			v := script[at]
			at++
			memo[key] = v
			if t, ok := strings.CutPrefix(key, "srctag:"); ok {
				tags[t] = v
			}
			return v
		}
		r := f(choose)
		ok := true
		for t, v := range tags { // a part of a tag cannot hold what the whole does not
			if whole, _, dotted := strings.Cut(t, "."); dotted && v {
				if w, asked := tags[whole]; asked && !w {
					ok = false
				}
				if w, is := fixed["srctag:"+whole]; is && !w {
					ok = false
				}
			}
		}
		if ok {
			results[r] = true
		}
		script = script[:at]
		for len(script) > 0 && script[len(script)-1] {
			script = script[:len(script)-1]
		}
		if len(script) == 0 {
			return results
		}
		script[len(script)-1] = true
	}
}

var refReserved = []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "168.63.129.16/32"}

func refPublic(a netip.Addr) bool {
	if a.Is6() {
		return netip.MustParsePrefix("2000::/3").Contains(a)
	}
	for _, r := range refReserved {
		if netip.MustParsePrefix(r).Contains(a) {
			return false
		}
	}
	return true
}

func refPlatform(a netip.Addr) bool {
	return a == netip.MustParseAddr("168.63.129.16") || a == netip.MustParseAddr("fe80::1234:5678:9abc")
}

// refAddr says whether the text of a rule holds the address. near: the address is that of the machine itself.
func refAddr(text string, a netip.Addr, env netsec.Env, side string, near bool, choose func(string) bool) bool {
	lower := strings.ToLower(text)
	inVnet, byRoute := false, false
	for _, p := range env.VirtualNetwork {
		if p.Contains(a) {
			if p.Bits() == 0 {
				byRoute = true
			} else {
				inVnet = true
			}
		}
	}
	switch lower {
	case "*":
		return true
	case "virtualnetwork":
		if a == netip.MustParseAddr("168.63.129.16") || inVnet {
			return true
		}
		if byRoute {
			return near || choose(side+"route:virtualnetwork")
		}
		if len(env.VirtualNetwork) == 0 && !refPublic(a) && !refPlatform(a) {
			return near || choose(side+"tag:virtualnetwork")
		}
		return false
	case "internet":
		if !refPublic(a) || inVnet {
			return false
		}
		return !byRoute || choose(side+"tag:internet")
	case "azureloadbalancer":
		return refPlatform(a)
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains(a)
	}
	if x, err := netip.ParseAddr(text); err == nil {
		return x == a
	}
	if ps, ok := env.Tags[lower]; ok {
		for _, p := range ps {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	if strings.ContainsAny(text, " !/?") {
		return choose(side + "text:" + lower)
	}
	return refPublic(a) && choose(side+"tag:"+lower)
}

func refASG(id string, a netip.Addr, env netsec.Env, side string, near bool, choose func(string) bool) bool {
	members, ok := env.ASGs[strings.ToLower(id)]
	if ok {
		for _, m := range members {
			if m == a {
				return true
			}
		}
		return false
	}
	if !near && len(env.VirtualNetwork) > 0 {
		inVnet := false
		for _, p := range env.VirtualNetwork {
			inVnet = inVnet || p.Contains(a)
		}
		if refPublic(a) && !inVnet {
			return false
		}
		if a == netip.MustParseAddr("fe80::1234:5678:9abc") && !inVnet {
			return false
		}
	}
	return choose(side + "asg:" + strings.ToLower(id))
}

// refRule is a rule of an NSG or of the admin rules.
type refRule struct {
	id       string
	name     string
	prio     int
	in       bool
	outcomes []string // more than one: not known which
	protocol string
	src, dst []string
	sasg     []string
	dasg     []string
	sp, dp   []string
}

func refPorts(ranges []string, port uint16, ported bool, key string, choose func(string) bool) bool {
	dim := len(ranges) == 0
	for _, r := range ranges {
		if r == "*" || r == "0-65535" {
			return true
		}
		a, b, is := strings.Cut(r, "-")
		if !is {
			b = a
		}
		x, err1 := strconv.Atoi(a)
		y, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || x > y || y > 65535 || x < 0 {
			dim = true
			continue
		}
		if ported && x <= int(port) && int(port) <= y {
			return true
		}
	}
	return dim && choose(key)
}

func (r refRule) matches(p netsec.Packet, env netsec.Env, choose func(string) bool) bool {
	switch strings.ToLower(r.protocol) {
	case "*", "all", "any":
	case "tcp", "udp", "icmp", "esp", "ah":
		if !strings.EqualFold(r.protocol, p.Protocol.String()) {
			return false
		}
	default:
		if !choose("protocol:" + r.id) {
			return false
		}
	}
	ported := p.Protocol == netsec.TCP || p.Protocol == netsec.UDP
	if !refPorts(r.dp, p.DstPort, ported, "dport:"+r.id, choose) || !refPorts(r.sp, p.SrcPort, ported, "sport:"+r.id, choose) {
		return false
	}
	side := func(texts, asgs []string, a netip.Addr, s string, near bool) bool {
		hit := false
		for _, t := range texts { // no short cut: every tag is asked for
			hit = refAddr(t, a, env, s, near, choose) || hit
		}
		for _, g := range asgs {
			hit = refASG(g, a, env, s, near, choose) || hit
		}
		if len(texts)+len(asgs) == 0 {
			hit = choose(s + "none:" + r.id)
		}
		return hit
	}
	return side(r.dst, r.dasg, p.Dst, "dst", p.Inbound) && side(r.src, r.sasg, p.Src, "src", !p.Inbound)
}

// refList walks one list; it returns an outcome and the name of the rule.
func refList(rules []refRule, p netsec.Packet, env netsec.Env, lo, hi int, end string, choose func(string) bool) (string, string) {
	var rs, stray []refRule
	for _, r := range rules {
		if r.in != p.Inbound {
			continue
		}
		if r.prio < lo || r.prio > hi {
			stray = append(stray, r)
		} else {
			rs = append(rs, r)
		}
	}
	sort.SliceStable(rs, func(i, j int) bool {
		if rs[i].prio != rs[j].prio {
			return rs[i].prio < rs[j].prio
		}
		return rs[i].id < rs[j].id != choose("order:"+rs[i].id+rs[j].id)
	})
	for _, s := range stray { // anywhere: before the first rule for which "here" is chosen
		var with []refRule
		placed := false
		for _, r := range rs {
			if !placed && choose("here:"+s.id+r.id) {
				with, placed = append(with, s), true
			}
			with = append(with, r)
		}
		if !placed {
			with = append(with, s)
		}
		rs = with
	}
	for _, r := range rs {
		if r.matches(p, env, choose) {
			for i, o := range r.outcomes {
				if i == len(r.outcomes)-1 || choose(fmt.Sprint("access:", i, r.id)) {
					return o, r.name
				}
			}
		}
	}
	return end, ""
}

var star = []string{"*"}

func refNSG(g netsec.Group, layer string, p netsec.Packet, env netsec.Env, choose func(string) bool) (string, string) {
	var rs []refRule
	for i, r := range g.Rules {
		o := []string{"allow", "deny"}
		switch r.Access {
		case netsec.Allow:
			o = []string{"allow"}
		case netsec.Deny:
			o = []string{"deny"}
		}
		rs = append(rs, refRule{id: fmt.Sprintf("%s%03d", layer, i), name: r.Name, prio: r.Priority, in: r.Inbound, outcomes: o,
			protocol: r.Protocol, src: r.Sources, dst: r.Destinations, sasg: r.SourceASGs, dasg: r.DestinationASGs,
			sp: r.SourcePorts, dp: r.DestinationPorts})
	}
	if o, name := refList(rs, p, env, 100, 4096, "", choose); o != "" {
		return o, name
	}
	def := func(name, access, src, dst string) refRule {
		return refRule{id: layer + name, name: name, prio: 65000, in: p.Inbound, outcomes: []string{access}, protocol: "*",
			src: []string{src}, dst: []string{dst}, sp: star, dp: star}
	}
	rs = []refRule{def("AllowVnetInBound", "allow", "VirtualNetwork", "VirtualNetwork"),
		def("AllowAzureLoadBalancerInBound", "allow", "AzureLoadBalancer", "*"), def("DenyAllInBound", "deny", "*", "*")}
	if !p.Inbound {
		rs = []refRule{def("AllowVnetOutBound", "allow", "VirtualNetwork", "VirtualNetwork"),
			def("AllowInternetOutBound", "allow", "*", "Internet"), def("DenyAllOutBound", "deny", "*", "*")}
	}
	for _, r := range rs {
		if r.matches(p, env, choose) {
			return r.outcomes[0], r.name
		}
	}
	panic("no default rule matched")
}

// refPath is a path before compiling.
type refPath struct {
	admin       []netsec.AdminRule
	subnet, nic *netsec.Group
	env         netsec.Env
	public      netsec.PublicDefault
}

func (r refPath) compile() netsec.Path {
	p := netsec.Path{PublicWithoutNSG: r.public, VirtualNetwork: r.env.VirtualNetwork}
	if r.admin != nil {
		p.Admin = netsec.CompileAdmin(r.admin, r.env)
	}
	if r.subnet != nil {
		p.Subnet = netsec.Compile(*r.subnet, r.env)
	}
	if r.nic != nil {
		p.NIC = netsec.Compile(*r.nic, r.env)
	}
	return p
}

// world judges the packet in one world: "allow" or "deny", and the deciding rule as layer/name.
func (r refPath) world(p netsec.Packet, choose func(string) bool) (string, string) {
	bare := func(always bool) string {
		inVnet := false
		for _, x := range r.env.VirtualNetwork {
			inVnet = inVnet || x.Bits() > 0 && x.Contains(p.Src)
		}
		if !p.Inbound || !refPublic(p.Src) || inVnet || r.public == netsec.Open {
			return "allow"
		}
		if r.public == netsec.Closed && !always {
			return "deny"
		}
		if choose("bare") {
			return "allow"
		}
		return "deny"
	}
	decider := ""
	if r.admin != nil {
		var rs []refRule
		for i, a := range r.admin {
			o := []string{"pass", "always", "deny"}
			switch a.Access {
			case netsec.AdminAllow:
				o = []string{"pass"}
			case netsec.AdminAlwaysAllow:
				o = []string{"always"}
			case netsec.AdminDeny:
				o = []string{"deny"}
			}
			texts := func(as []netsec.AdminAddress) []string {
				if len(as) == 0 {
					return star
				}
				var ss []string
				for _, a := range as {
					ss = append(ss, a.Prefix)
				}
				return ss
			}
			ports := func(ss []string) []string {
				if len(ss) == 0 {
					return star
				}
				return ss
			}
			rs = append(rs, refRule{id: fmt.Sprintf("admin%03d", i), name: a.Name, prio: a.Priority, in: a.Inbound, outcomes: o,
				protocol: a.Protocol, src: texts(a.Sources), dst: texts(a.Destinations), sp: ports(a.SourcePorts), dp: ports(a.DestinationPorts)})
		}
		o, name := refList(rs, p, r.env, 1, 4096, "pass", choose)
		switch o {
		case "deny":
			return "deny", "admin/" + name
		case "always":
			if r.subnet == nil && r.nic == nil {
				return bare(true), "admin/" + name
			}
			return "allow", "admin/" + name
		}
	}
	type layer struct {
		name string
		g    *netsec.Group
	}
	layers := []layer{{"subnet", r.subnet}, {"nic", r.nic}}
	if !p.Inbound {
		layers[0], layers[1] = layers[1], layers[0]
	}
	for _, l := range layers {
		if l.g == nil {
			continue
		}
		o, name := refNSG(*l.g, l.name, p, r.env, choose)
		decider = l.name + "/" + name
		if o == "deny" {
			return "deny", decider
		}
	}
	if decider == "" {
		return bare(false), "none/"
	}
	return "allow", decider
}

// decide returns every outcome that some world has. fixed choices are taken as given.
func (r refPath) decide(p netsec.Packet, fixed map[string]bool) map[string]bool {
	return worlds(fixed, func(choose func(string) bool) string {
		o, _ := r.world(p, choose)
		return o
	})
}

func (r refPath) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vnet %v public %d\n", r.env.VirtualNetwork, r.public)
	for _, a := range r.admin {
		fmt.Fprintf(&b, "  admin %+v\n", a)
	}
	for _, g := range []*netsec.Group{r.subnet, r.nic} {
		if g != nil {
			fmt.Fprintf(&b, "  %s:\n", g.Name)
			for _, x := range g.Rules {
				fmt.Fprintf(&b, "    %+v\n", x)
			}
		}
	}
	return b.String()
}

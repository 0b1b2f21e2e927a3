package report

import (
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// step is one line of a drawn path, in words.
type step struct {
	Mark    string // exposed, closed, unknown, open or pip: the door that is drawn
	Layer   string // what the line is about
	What    string // the verdict, in words
	Rule    string // the rule that gave it
	Where   string // the group that holds the rule
	Full    string // its whole id
	Decides bool
}

func layerWord(l string) string {
	switch l {
	case "firewall":
		return "Azure Firewall"
	case "load_balancer":
		return "Load balancer"
	case "public_ip":
		return "Public address"
	case "admin":
		return "Security admin rule"
	case "subnet":
		return "Subnet NSG"
	case "nic":
		return "Interface NSG"
	case "none":
		return "No NSG"
	}
	return safe(l)
}

func kindWord(k string) string {
	switch k {
	case "public_ip":
		return "Public address"
	case "lb_rule":
		return "Load-balancing rule"
	case "nat_rule":
		return "Inbound NAT rule"
	case "firewall_dnat":
		return "Firewall DNAT rule"
	case "virtual_network":
		return "Virtual network"
	}
	return safe(k)
}

func accessWord(a string) string {
	switch a {
	case "allow":
		return "lets in"
	case "deny":
		return "denies"
	case "unknown":
		return "not known"
	}
	return safe(a)
}

func accessMark(a string) string {
	switch a {
	case "allow":
		return "exposed"
	case "deny":
		return "closed"
	}
	return "unknown"
}

// hopSteps are the layers of a way, in the order in which traffic meets them.
func hopSteps(w scan.Way, group string) []step {
	steps := make([]step, 0, len(w.Hops))
	for i, h := range w.Hops {
		s := step{Mark: accessMark(h.Access), Layer: layerWord(h.Layer), What: accessWord(h.Access), Decides: i == w.Decider}
		if h.Rule != "" {
			s.Rule = safe(h.Rule)
			if h.Priority != 0 {
				s.Rule += ", priority " + strconv.Itoa(h.Priority)
			}
		}
		if h.Group != "" {
			s.Where, s.Full = short(h.Group, group), safe(h.Group)
		}
		if h.Why != "" {
			s.What += ": " + safe(h.Why)
		}
		steps = append(steps, s)
	}
	return steps
}

// wayHead is how traffic comes: "203.0.113.7, port 50022, by inbound NAT rule ssh-0".
func wayHead(w scan.Way, group string) (head, via string) {
	var b strings.Builder
	b.WriteString(kindWord(w.Kind))
	if w.Address != "" {
		b.WriteString(" " + safe(w.Address))
	} else if w.Kind != "virtual_network" {
		b.WriteString(" (none assigned yet)")
	}
	if w.FrontendPort != 0 {
		b.WriteString(", port " + strconv.Itoa(int(w.FrontendPort)))
	}
	if w.Via != "" {
		via = short(w.Via, group)
	}
	return b.String(), via
}

// wayEnd is where traffic gets: "nic-web-01, ipconfig1, 10.0.1.4".
func wayEnd(w scan.Way, group string) string {
	var parts []string
	if w.NIC != "" {
		parts = append(parts, short(w.NIC, group))
	}
	for _, s := range []string{lastPart(w.IPConfig), w.Destination} {
		if s != "" {
			parts = append(parts, safe(s))
		}
	}
	return strings.Join(parts, ", ")
}

func lastPart(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// sources is who gets in, or who was asked for.
func sources(w scan.Way) string {
	if len(w.Sources) == 0 && w.MoreSources == 0 {
		return ""
	}
	s := make([]string, len(w.Sources))
	for i, src := range w.Sources {
		s[i] = sourceWord(src)
	}
	if w.MoreSources > 0 {
		s = append(s, strconv.Itoa(w.MoreSources)+" more")
	}
	return strings.Join(s, ", ")
}

func sourceWord(s string) string {
	switch s {
	case "*", "0.0.0.0/0":
		return "any address (" + s + ")"
	case "::/0":
		return "any IPv6 address (::/0)"
	}
	return safe(s)
}

func zoneWord(z string) string {
	switch z {
	case "internet":
		return "from the Internet"
	case "virtual_network":
		return "from the virtual network"
	}
	return safe(z)
}

func portWord(p scan.PortEvidence) string {
	return strconv.Itoa(int(p.Port)) + "/" + strings.ToUpper(safe(p.Protocol))
}

// protectedWord says what protects a port; "" where nothing does.
func protectedWord(p scan.PortEvidence, group string) string {
	switch p.ProtectedBy {
	case "":
		return ""
	case "curfew":
		return "JIT by Curfew" + withPolicy(p.Policy, group)
	case "defender":
		return "JIT by Defender for Cloud" + withPolicy(p.Policy, group)
	}
	return "JIT by " + safe(p.ProtectedBy) + withPolicy(p.Policy, group)
}

func withPolicy(policy, group string) string {
	if policy == "" {
		return ""
	}
	return " (" + short(policy, group) + ")"
}

func holdWord(h scan.Hold) string {
	s := make([]string, len(h.Sources))
	for i, src := range h.Sources {
		s[i] = sourceWord(src)
	}
	by := "a grant of Curfew"
	if h.Grant != "" {
		by = "grant " + safe(h.Grant) + " of Curfew's installation " + safe(h.Installation)
	}
	if h.By == "defender" {
		by = "a request of Defender"
	} else if h.By != "curfew" {
		by = safe(h.By)
	}
	return "open by " + by + " to " + strings.Join(s, ", ") + " until " + instant(h.End) + " (" + safe(h.Rule) + believed(h) + "); no exposure"
}

// believed says what speaks for a grant where only the rule's name does.
func believed(h scan.Hold) string {
	if h.ByName {
		return ", believed by its name"
	}
	return ""
}

func ruleWord(e scan.RuleEvidence) string {
	from := make([]string, len(e.Sources))
	for i, s := range e.Sources {
		from[i] = sourceWord(s)
	}
	ports := make([]string, len(e.Ports))
	for i, p := range e.Ports {
		ports[i] = safe(p)
	}
	b := accessWord(e.Access)
	if len(from) > 0 {
		b += " " + strings.Join(from, ", ")
	}
	if len(ports) > 0 {
		b += " to port " + strings.Join(ports, ", ")
	}
	if e.Protocol != "" {
		b += " (" + safe(e.Protocol) + ")"
	}
	if e.Why != "" {
		b += ": " + safe(e.Why)
	}
	return b
}

// pathLines tells the evidence of a finding in plain lines, indented by two spaces a level.
func pathLines(f *scan.Finding) []string {
	var lines []string
	add := func(level int, s string) { lines = append(lines, strings.Repeat("  ", level)+s) }
	for _, p := range f.Evidence.Ports {
		head := "port " + portWord(p) + ": " + exposureWord(p.Exposure)
		if by := protectedWord(p, f.Group); by != "" {
			head += "; " + by
		}
		add(0, head)
		for _, w := range p.Ways {
			way, via := wayHead(w, f.Group)
			if via != "" {
				way += " (" + via + ")"
			}
			if end := wayEnd(w, f.Group); end != "" {
				way += " to " + end
			}
			add(1, way+": "+accessWord(w.Access)+" "+zoneWord(w.Zone))
			for _, s := range hopSteps(w, f.Group) {
				l := s.Layer
				if s.Where != "" {
					l += " " + s.Where
				}
				l += ": " + s.What
				if s.Rule != "" {
					l += " by " + s.Rule
				}
				if s.Decides {
					l += " [decides]"
				}
				add(2, l)
			}
			if from := sources(w); from != "" {
				add(2, "sources: "+from)
			}
			if w.Why != "" {
				add(2, safe(w.Why))
			}
		}
		for _, h := range p.Open {
			add(1, holdWord(h))
		}
	}
	for _, e := range f.Evidence.Rules {
		add(0, "rule "+safe(e.Rule)+" of "+short(e.NSG, f.Group)+", priority "+strconv.Itoa(e.Priority)+": "+ruleWord(e))
	}
	for _, x := range f.Evidence.Facts {
		add(0, safe(x.Name)+": "+safe(x.Value))
	}
	return lines
}

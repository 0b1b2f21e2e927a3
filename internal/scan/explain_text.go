package scan

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/inert"
)

// lines are the characters of a drawn tree.
type lines struct{ fork, last, down, none string }

var (
	boxLines   = lines{"├── ", "└── ", "│   ", "    "}
	asciiLines = lines{"|-- ", "`-- ", "|   ", "    "}
)

// Text draws the explanation: one sentence, then a tree of the ways with their hops, in box characters. Lines are at most width
// characters long where words allow it; width below 40 counts as 40. Names are shown without control characters.
func (x Explanation) Text(width int) string { return x.draw(width, boxLines) }

// ASCII is Text for terminals and mails without box characters.
func (x Explanation) ASCII(width int) string { return x.draw(width, asciiLines) }

type drawing struct {
	b     strings.Builder
	width int
	l     lines
	zone  bool // a part of the world was asked about
}

func (x Explanation) draw(width int, l lines) string {
	d := drawing{width: max(width, 40), l: l, zone: x.Source == "internet" || x.Source == "virtual-network"}
	d.line("", "", accessTitle[x.Access]+": "+x.Summary)
	d.b.WriteByte('\n')
	d.line("", "", x.Name)
	n := len(x.Ways) + len(x.Problems)
	for i, w := range x.Ways {
		d.way(&w, i == n-1)
	}
	for i, p := range x.Problems {
		d.node("", len(x.Ways)+i == n-1, "not read: "+p)
	}
	if n == 0 {
		d.node("", true, "no way leads from there to this port")
	}
	return d.b.String()
}

var accessTitle = map[string]string{"allow": "ALLOWED", "deny": "DENIED", "unknown": "NOT KNOWN"}

var wayTitle = map[string]string{
	"public_ip":       "by a public address",
	"lb_rule":         "by a load balancer",
	"nat_rule":        "by a load balancer's inbound NAT",
	"firewall_dnat":   "by a firewall's NAT",
	"virtual_network": "from the virtual network",
}

var layerTitle = map[string]string{
	"firewall":      "firewall",
	"load_balancer": "load balancer",
	"public_ip":     "public address",
	"admin":         "security admin rules",
	"subnet":        "group of the subnet",
	"nic":           "group of the network interface",
	"none":          "no group",
}

func (d *drawing) way(w *Way, last bool) {
	title := wayTitle[w.Kind]
	if w.Destination != "" {
		title += " to " + w.Destination
	}
	d.node("", last, title+": "+strings.ToLower(accessTitle[w.Access]))
	under := d.l.down
	if last {
		under = d.l.none
	}
	for i, h := range w.Hops {
		t := layerTitle[h.Layer]
		if h.Group != "" {
			t += " " + lastPart(h.Group)
		}
		mark := ""
		if i == w.Decider {
			mark = " (decides)"
		}
		d.node(under, i == len(w.Hops)-1 && !d.tellsSources(w), t+": "+strings.ToLower(accessTitle[h.Access])+mark+"; "+h.Why)
	}
	if d.tellsSources(w) {
		s := strings.Join(w.Sources, ", ")
		if w.SourcePorts != "" {
			s += " (source port " + w.SourcePorts + ")"
		}
		if w.MoreSources > 0 {
			s += " and " + plural(w.MoreSources, "range") + " more"
		}
		d.node(under, true, "lets in "+s)
	}
}

func (d *drawing) tellsSources(w *Way) bool {
	return d.zone && w.Access == "allow" && len(w.Sources) > 0
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func (d *drawing) node(under string, last bool, text string) {
	first, rest := under+d.l.fork, under+d.l.down
	if last {
		first, rest = under+d.l.last, under+d.l.none
	}
	d.line(first, rest, text)
}

// line writes a text, broken at spaces; first stands before the first line and rest before those that follow.
func (d *drawing) line(first, rest, text string) {
	room := max(20, d.width-utf8.RuneCountInString(first))
	at := 0
	d.b.WriteString(first)
	for _, word := range strings.Fields(text) {
		word = inert.Text(word)
		n := utf8.RuneCountInString(word)
		if at > 0 && at+1+n > room {
			d.b.WriteByte('\n')
			d.b.WriteString(rest)
			at = 0
		}
		if at > 0 {
			d.b.WriteByte(' ')
			at++
		}
		d.b.WriteString(word)
		at += n
	}
	d.b.WriteByte('\n')
}

package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// The colours of a terminal (ECMA-48 SGR).
const (
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	loud   = "\x1b[1;31m"
	plain  = "\x1b[0m"
)

// tableGroup is one group of the table.
type tableGroup struct {
	head     string // what stands out
	rest     string // what follows it
	findings []*scan.Finding
}

// writeTable writes groups, worst first, with one line a finding. Within a width, reasons are cut at their end and names in their
// middle, both with an ellipsis; without one (a pipe) nothing is cut.
func writeTable(w *out, r *scan.Report, o Options) error {
	if o.Width > 0 {
		o.Width = max(o.Width, 40)
	}
	ink := func(colour, s string) string {
		if !o.Color || s == "" {
			return s
		}
		return colour + s + plain
	}
	line := func(colour, s string) {
		for _, l := range fold(s, o.Width) {
			w.put(ink(colour, l), "\n")
		}
	}
	line(headColour(r), headline(r)+".")
	line("", capital(scope(r))+".")
	line("", capital(tally(r))+".")
	notComplete(r, func(s string) { line(loud, s) })
	groups := grouped(worstFirst(r), o.GroupBy)
	for _, g := range groups {
		w.put("\n")
		n := counted(g.findings)
		head := fit(g.head, max(o.Width, width(g.head)*unlimited(o.Width)))
		w.put(ink(bold, head))
		if rest := g.rest + "  " + n; o.Width == 0 || width(head)+2+width(rest) <= o.Width {
			w.put("  ", rest, "\n")
		} else {
			w.put("\n")
			line("", rest)
		}
		rows(w, g.findings, o, ink)
	}
	w.put("\n")
	switch {
	case len(r.Findings) == 0 && complete(r):
		line("", "Nothing to report: e"+strings.TrimPrefix(nothing(r), "E"))
	case len(r.Findings) == 0:
		line("", nothing(r))
	default:
		line("", headline(r)+": "+tally(r)+".")
	}
	if !complete(r) {
		line(loud, "NOT complete: "+gapsIn(r)+". What they hide is unknown, not safe.")
	}
	return w.err()
}

// unlimited is 1 without a width, else 0.
func unlimited(width int) int {
	if width == 0 {
		return 1
	}
	return 0
}

func headColour(r *scan.Report) string {
	if r.Summary.Exposed > 0 {
		return loud
	}
	return bold
}

// notComplete tells the gaps, each in a line of its own.
func notComplete(r *scan.Report, line func(string)) {
	if complete(r) {
		return
	}
	for _, g := range gaps(r) {
		line("NOT complete: " + gapText(g) + ".")
	}
}

func grouped(all []*scan.Finding, by Group) []tableGroup {
	var groups []tableGroup
	index := map[string]int{}
	for _, f := range all {
		var key string
		switch by {
		case ByResource:
			key = strings.ToLower(f.Resource) // Azure's ids are equal without regard to case. FACTS 1.
		case BySubscription:
			key = strings.ToLower(f.Subscription)
		default:
			key = string(f.Rule)
		}
		i, ok := index[key]
		if !ok {
			i = len(groups)
			index[key] = i
			g := tableGroup{head: safe(string(f.Rule)), rest: title(f.Rule)}
			switch by {
			case ByResource:
				g.head, g.rest = name(f), typeWord(f.Type)+" in "+safe(f.Group)+", subscription "+safe(f.Subscription)
			case BySubscription:
				g.head, g.rest = "subscription "+safe(f.Subscription), ""
			}
			groups = append(groups, g)
		}
		groups[i].findings = append(groups[i].findings, f)
	}
	// The findings come worst first, so that groups stand by their worst one. Where several groups have an equal one, more is worse.
	slices.SortStableFunc(groups, func(a, b tableGroup) int {
		return cmp.Or(rank(a.findings[0])-rank(b.findings[0]), same(b.findings)-same(a.findings))
	})
	return groups
}

// rank is how bad a finding is, without its name.
func rank(f *scan.Finding) int {
	n := place(scan.Statuses, f.Status)*10 + place(scan.Severities, f.Severity)
	if !f.Counts() {
		n += 100
	}
	return n
}

// same is how many findings are as bad as the first.
func same(all []*scan.Finding) int {
	n := 0
	for n < len(all) && rank(all[n]) == rank(all[0]) {
		n++
	}
	return n
}

// counted is the verdicts of a group: "3 fail, 1 unknown, 1 set aside".
func counted(all []*scan.Finding) string {
	n := map[scan.Status]int{}
	set := 0
	for _, f := range all {
		if f.Counts() {
			n[f.Status]++
		} else {
			set++
		}
	}
	var parts []string
	for _, s := range scan.Statuses {
		if n[s] > 0 {
			parts = append(parts, strconv.Itoa(n[s])+" "+statusWord(s))
		}
	}
	if set > 0 {
		parts = append(parts, strconv.Itoa(set)+" set aside")
	}
	return strings.Join(parts, ", ")
}

// verdict is the first column: how severe where it fails, and the status where not.
func verdict(f *scan.Finding) string {
	switch f.Status {
	case scan.Fail:
		return safe(string(f.Severity))
	case scan.NotApplicable:
		return "n/a"
	}
	return safe(string(f.Status))
}

func verdictColour(f *scan.Finding) string {
	switch {
	case !f.Counts(), f.Status == scan.Pass, f.Status == scan.NotApplicable:
		return dim
	case f.Status == scan.Unknown, f.Severity == scan.Medium:
		return yellow
	case f.Severity == scan.Critical:
		return loud
	case f.Severity == scan.High:
		return red
	}
	return ""
}

// rows writes the findings of a group, one a line.
func rows(w *out, all []*scan.Finding, o Options, ink func(colour, s string) string) {
	cells := make([][]string, len(all))
	widths := make([]int, 4)
	for i, f := range all {
		c := []string{verdict(f), name(f), safe(f.Group), ""}
		switch o.GroupBy {
		case ByResource:
			c[1], c[2] = safe(string(f.Rule)), ""
		case BySubscription:
			c[3] = safe(string(f.Rule))
		}
		for j := range c {
			widths[j] = max(widths[j], width(c[j]))
		}
		cells[i] = c
	}
	if o.Width > 0 {
		narrow(widths, o.Width)
	}
	for i, f := range all {
		var b strings.Builder
		used := 2
		b.WriteString("  ")
		for j, c := range cells[i] {
			if widths[j] == 0 {
				continue
			}
			if o.Width > 0 {
				c = fitName(c, widths[j])
			}
			c = pad(c, widths[j])
			if j == 0 {
				c = ink(verdictColour(f), c)
			}
			b.WriteString(c + "  ")
			used += widths[j] + 2
		}
		reason := safe(f.Reason)
		if a := aside(f); a != "" {
			reason = "[" + a + "] " + reason
		}
		if o.Width > 0 {
			reason = fit(reason, max(0, o.Width-used))
			if o.Width-used < 8 {
				reason = ""
			}
		}
		w.put(strings.TrimRight(b.String()+reason, " "), "\n")
	}
}

// narrow makes columns narrower, the widest first, until they leave half of the line for the reason, or are as narrow as they may be.
func narrow(widths []int, line int) {
	least := []int{widths[0], 12, 8, 10}
	for {
		sum, worst := 2, -1
		for j, n := range widths {
			if n > 0 {
				sum += n + 2
			}
			if n > least[j] && (worst < 0 || n > widths[worst]) {
				worst = j
			}
		}
		if sum <= line/2 || worst < 0 {
			// Columns that are as narrow as they may be and yet too wide for the line give up the group, then the rule.
			for _, j := range []int{2, 3} {
				if sum > line && widths[j] > 0 {
					sum -= widths[j] + 2
					widths[j] = 0
				}
			}
			return
		}
		widths[worst]--
	}
}

// fold breaks a safe text into lines of at most n cells, at blanks where it can; n 0 is without limit.
func fold(s string, n int) []string {
	if n <= 0 || width(s) <= n {
		return []string{s}
	}
	var lines []string
	cur := ""
	for _, word := range strings.Split(s, " ") {
		for width(word) > n {
			room := n
			if cur != "" {
				lines, cur = append(lines, cur), ""
			}
			cut, used := 0, 0
			for i, r := range word {
				if used+cells(r) > room {
					break
				}
				used += cells(r)
				cut = i + len(string(r))
			}
			lines, word = append(lines, word[:cut]), word[cut:]
		}
		switch {
		case cur == "":
			cur = word
		case width(cur)+1+width(word) <= n:
			cur += " " + word
		default:
			lines, cur = append(lines, cur), word
		}
	}
	if cur != "" {
		lines = append(lines, cur)
	}
	return lines
}

// typeWord is a type for people: "virtual machine".
func typeWord(t string) string {
	switch strings.ToLower(t) {
	case "microsoft.compute/virtualmachines":
		return "virtual machine"
	case "microsoft.compute/virtualmachinescalesets":
		return "scale set"
	case "microsoft.network/networksecuritygroups":
		return "network security group"
	case "microsoft.security/locations/jitnetworkaccesspolicies":
		return "JIT policy"
	}
	return safe(t)
}

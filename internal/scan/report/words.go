package report

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/inert"
	"github.com/curfew-jit/curfew/internal/scan"
)

// safe is a text of others on one line.
func safe(s string) string { return inert.Text(s) }

// safeLines is safe for text of several lines, such as a script.
func safeLines(s string) string { return inert.Lines(s) }

func width(s string) int { return inert.Width(s) }

func cells(r rune) int { return inert.Cells(r) }

// fit cuts a safe string to n cells at its end, with an ellipsis in place of what is cut.
func fit(s string, n int) string {
	if len(s) <= n || width(s) <= n {
		return s
	}
	used := 0
	for i, r := range s {
		if used+cells(r) > n-1 {
			return s[:i] + "…"
		}
		used += cells(r)
	}
	return s
}

// fitName cuts a safe name to n cells in its middle: machines of one set differ at the end of their names.
func fitName(s string, n int) string {
	if len(s) <= n || width(s) <= n {
		return s
	}
	tail := []rune(s)
	used, i := 0, len(tail)
	for i > 0 && used+cells(tail[i-1]) <= (n-1)/2 {
		i--
		used += cells(tail[i])
	}
	return strings.TrimSuffix(fit(s, n-used), "…") + "…" + string(tail[i:])
}

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-width(s))) }

// count is "1 machine", "2 machines".
func count(n int, one string) string {
	switch {
	case n == 1:
		return "1 " + one
	case strings.HasSuffix(one, "y"):
		return strconv.Itoa(n) + " " + strings.TrimSuffix(one, "y") + "ies"
	}
	return strconv.Itoa(n) + " " + one + "s"
}

// instant is how an instant is told to people.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func statusWord(s scan.Status) string {
	if s == scan.NotApplicable {
		return "not applicable"
	}
	return safe(string(s))
}

func exposureWord(e scan.Exposure) string {
	switch e {
	case scan.ExposedInternet:
		return "reachable from the Internet"
	case scan.ExposedSome:
		return "reachable from some public addresses"
	case scan.ExposedVirtualNetwork:
		return "reachable from the virtual network"
	case scan.ExposedNothing:
		return "reachable from nowhere"
	case scan.ExposureUnknown:
		return "reachability not known"
	}
	return safe(string(e))
}

// capital is s with its first letter as a capital.
func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 || r == utf8.RuneError {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

func title(id scan.RuleID) string {
	if r, ok := scan.RuleOf(id); ok {
		return r.Title
	}
	return safe(string(id))
}

// place is the index of v in a list that runs from worst to best; what is not listed comes after all that is.
func place[T comparable](all []T, v T) int {
	if i := slices.Index(all, v); i >= 0 {
		return i
	}
	return len(all)
}

var exposures = []scan.Exposure{scan.ExposedInternet, scan.ExposureUnknown, scan.ExposedSome, scan.ExposedVirtualNetwork, scan.ExposedNothing}

// worse orders findings: what counts, then what fails, then severity and exposure; names and ids make the order total.
func worse(a, b *scan.Finding) int {
	aside := func(f *scan.Finding) int {
		if f.Counts() {
			return 0
		}
		return 1
	}
	return cmp.Or(
		aside(a)-aside(b),
		place(scan.Statuses, a.Status)-place(scan.Statuses, b.Status),
		place(scan.Severities, a.Severity)-place(scan.Severities, b.Severity),
		place(exposures, a.Exposure)-place(exposures, b.Exposure),
		rulePlace(a.Rule)-rulePlace(b.Rule),
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Resource, b.Resource),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.ID, b.ID),
	)
}

func rulePlace(id scan.RuleID) int {
	return place(ruleIDs, id)
}

var ruleIDs = func() []scan.RuleID {
	ids := make([]scan.RuleID, len(scan.Rules))
	for i, r := range scan.Rules {
		ids[i] = r.ID
	}
	return ids
}()

// worstFirst returns pointers to the findings of r, worst first.
func worstFirst(r *scan.Report) []*scan.Finding {
	all := make([]*scan.Finding, len(r.Findings))
	for i := range r.Findings {
		all[i] = &r.Findings[i]
	}
	slices.SortStableFunc(all, worse)
	return all
}

// headline is the one sentence of a report, without a full stop: how many machines, how many of them open to the Internet.
func headline(r *scan.Report) string {
	s := r.Summary
	switch {
	case s.VMs == 0 && !complete(r):
		return "No machine could be read"
	case s.VMs == 0:
		return "No machines"
	case s.Exposed == 0 && !complete(r):
		return count(s.VMs, "machine") + ", none seen open to the Internet, but not everything could be read"
	case s.Exposed == 0:
		return count(s.VMs, "machine") + ", none open to the Internet"
	}
	return count(s.VMs, "machine") + ", " + strconv.Itoa(s.Exposed) + " open to the Internet"
}

// complete tells whether nothing was hidden. A report with gaps is not complete whatever its summary says.
func complete(r *scan.Report) bool { return r.Summary.Complete && len(r.Gaps) == 0 }

// tally is the verdicts in one line: "4 fail (1 critical, 3 high), 2 unknown, 20 pass, 1 not applicable, 1 suppressed, 1 in the baseline".
func tally(r *scan.Report) string {
	s := r.Summary
	var parts []string
	for _, st := range scan.Statuses {
		n := s.Statuses[st]
		if n == 0 && st != scan.Fail {
			continue
		}
		p := strconv.Itoa(n) + " " + statusWord(st)
		if st == scan.Fail {
			if by := severities(s.Severities); by != "" {
				p += " (" + by + ")"
			}
		}
		parts = append(parts, p)
	}
	if s.Suppressed > 0 {
		parts = append(parts, strconv.Itoa(s.Suppressed)+" suppressed")
	}
	if s.Known > 0 {
		parts = append(parts, strconv.Itoa(s.Known)+" in the baseline")
	}
	return strings.Join(parts, ", ")
}

func severities(n map[scan.Severity]int) string {
	var parts []string
	for _, s := range scan.Severities {
		if n[s] > 0 {
			parts = append(parts, strconv.Itoa(n[s])+" "+string(s))
		}
	}
	return strings.Join(parts, ", ")
}

// scope says what was scanned, when.
func scope(r *scan.Report) string {
	var b strings.Builder
	switch r.Source.Kind {
	case "graph":
		b.WriteString("Resource Graph")
	case "arm":
		b.WriteString("Azure Resource Manager")
	case "file":
		b.WriteString("file " + safe(r.Source.File))
	default:
		b.WriteString(safe(r.Source.Kind))
	}
	if c := r.Source.Cloud; c != "" {
		b.WriteString(" (" + safe(c) + ")")
	}
	if n := r.Summary.Subscriptions; n > 0 {
		b.WriteString(", " + count(n, "subscription"))
	}
	b.WriteString(", judged for " + instant(r.At))
	if p := r.Source.Picked; p != "" {
		b.WriteString("; listed and counted is only " + safe(p))
	}
	return b.String()
}

// gapText is one gap as a sentence without a full stop.
func gapText(g scan.Gap) string {
	var b strings.Builder
	b.WriteString(safe(g.Source))
	if g.Resource != "" {
		b.WriteString(" of " + safe(g.Resource))
	} else if g.Subscription != "" {
		b.WriteString(" in subscription " + safe(g.Subscription))
	}
	if g.NotAuthorized {
		b.WriteString(" may not be read")
	} else {
		b.WriteString(" could not be read")
	}
	if g.Reason != "" {
		b.WriteString(": " + strings.TrimSuffix(safe(g.Reason), "."))
	}
	if g.Type != "" && g.Resource == "" {
		b.WriteString(" (hides every " + safe(g.Type) + ")")
	}
	return b.String()
}

// gapsIn is what is not complete, in a few words.
func gapsIn(r *scan.Report) string {
	if len(r.Gaps) == 0 {
		return "something that a verdict needs is not there"
	}
	return count(len(r.Gaps), "source") + " could not be read"
}

// nothing says that a report lists nothing. What a filter left out may fail.
func nothing(r *scan.Report) string {
	switch picked := r.Source.Picked != ""; {
	case complete(r) && picked:
		return "Everything that was asked for was read, and nothing of it fits the filter."
	case complete(r):
		return "Everything that was asked for was read, and nothing of it fails."
	case picked:
		return "Nothing of what could be read fits the filter."
	}
	return "Nothing fails of what could be read."
}

// aside says why a finding does not count; "" when it does.
func aside(f *scan.Finding) string {
	var parts []string
	if s := f.Suppressed; s != nil {
		p := "suppressed"
		if s.Owner != "" {
			p += " by " + safe(s.Owner)
		}
		if !s.Until.IsZero() {
			p += " until " + s.Until.UTC().Add(-1).Format(time.DateOnly) // the last day, as it was written
		}
		parts = append(parts, p)
	}
	if f.Known {
		parts = append(parts, "in the baseline")
	}
	return strings.Join(parts, ", ")
}

// short is the last part of a resource id, with the resource group before it where that is not the group given.
func short(id, group string) string {
	parts := strings.Split(strings.TrimSuffix(id, "/"), "/")
	name := parts[len(parts)-1]
	for i := 1; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], "resourceGroups") && !strings.EqualFold(parts[i+1], group) {
			return safe(parts[i+1]) + "/" + safe(name)
		}
	}
	return safe(name)
}

// name is how a finding's resource is called.
func name(f *scan.Finding) string {
	if f.Name != "" {
		return safe(f.Name)
	}
	return short(f.Resource, f.Group)
}

// remedies are the ways of a remediation that there are, each with the word for it.
type remedy struct{ Word, Lang, Text string }

func remedies(m *scan.Remediation) []remedy {
	if m == nil {
		return nil
	}
	var all []remedy
	for _, w := range []remedy{{"Curfew", "sh", m.Curfew}, {"Azure CLI", "sh", m.AzureCLI}, {"Bicep", "bicep", m.Bicep},
		{"Terraform", "hcl", m.Terraform}, {"Portal", "", m.Portal}} {
		if strings.TrimSpace(w.Text) != "" {
			w.Text = strings.TrimRight(safeLines(w.Text), "\n ")
			all = append(all, w)
		}
	}
	return all
}

// sortedTags is the tags as name=value, by name.
func sortedTags(tags map[string]string) []string {
	s := make([]string, 0, len(tags))
	for k, v := range tags {
		s = append(s, safe(k)+"="+safe(v))
	}
	slices.Sort(s)
	return s
}

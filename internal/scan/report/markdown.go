package report

import (
	"html"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// worstRows is how many findings stand in the table at the top; all that are shown stand below, folded up by rule.
const worstRows = 15

// writeMarkdown writes GitHub's dialect of Markdown, for a comment of a pull request: the sentence, what is missing, a table of the
// worst, and everything by rule in sections that fold open. What comes from Azure stands in code spans, or with every character escaped
// that means something: no HTML, no link, no mention of a person or an issue comes out of a name.
func writeMarkdown(w *out, r *scan.Report, o Options) error {
	w.put("## Curfew: ", mdText(headline(r)), "\n\n", mdText(capital(tally(r))), ". ", mdText(capital(scope(r))), ".\n\n")
	if !complete(r) {
		w.put("> [!WARNING]\n> **NOT complete.** What could not be read is unknown, not safe.\n")
		for _, g := range gaps(r) {
			w.put(">\n> - ", mdText(gapText(g)), "\n")
		}
		w.put("\n")
	}
	all := worstFirst(r)
	var counting []*scan.Finding
	for _, f := range all {
		if f.Counts() && (f.Status == scan.Fail || f.Status == scan.Unknown) {
			counting = append(counting, f)
		}
	}
	switch {
	case len(counting) == 0 && complete(r):
		w.put("Nothing fails.\n\n")
	case len(counting) == 0:
		w.put("Nothing fails of what could be read.\n\n")
	default:
		w.put("| | Resource | Finding | Why |\n| --- | --- | --- | --- |\n")
		for _, f := range counting[:min(worstRows, len(counting))] {
			w.put("| ", mdVerdict(f), " | ", mdCell(mdCode(fitName(name(f), 60))), " | ", mdCell(mdText(title(f.Rule))), " | ", mdCell(mdText(fit(safe(f.Reason), 240))), " |\n")
		}
		if n := len(counting) - worstRows; n > 0 {
			w.put("\n", strconv.Itoa(n), " more that count, below.\n")
		}
		w.put("\n")
	}
	limit := o.limit(MarkdownLimit)
	shown, rest := all[:min(limit, len(all))], max(0, len(all)-limit)
	for _, g := range grouped(shown, ByRule) {
		w.put("<details>\n<summary>", mdHTML(g.rest), " (", mdHTML(counted(g.findings)), ")</summary>\n\n")
		for _, f := range g.findings {
			mdFinding(w, o.full(f))
		}
		w.put("</details>\n\n")
	}
	if rest > 0 {
		w.put("**", count(rest, "more finding"), "** not shown here: see the JSON report.\n\n")
	}
	return w.err()
}

func mdVerdict(f *scan.Finding) string {
	s := "**" + mdText(capital(verdict(f))) + "**"
	if !f.Counts() {
		s = mdText(capital(verdict(f)))
	}
	return s
}

// mdFinding writes one finding as an item of a section.
func mdFinding(w *out, f *scan.Finding) {
	w.put("#### ", mdCode(fitName(name(f), 120)), "\n\n", mdVerdict(f))
	if a := aside(f); a != "" {
		w.put(", ", mdText(a))
		if f.Suppressed != nil && f.Suppressed.Reason != "" {
			w.put(" (", mdText(f.Suppressed.Reason), ")")
		}
	}
	w.put(". ", mdText(f.Reason), "\n\n", mdCode(safe(f.Resource)), "\n\n")
	if lines := pathLines(f); len(lines) > 0 {
		w.put(mdFence("text", strings.Join(lines, "\n")), "\n\n")
	}
	if m := f.Remediation; m != nil {
		if m.Summary != "" {
			w.put("Fix: ", mdText(m.Summary), "\n\n")
		}
		for _, x := range remedies(m) {
			w.put("<details>\n<summary>", mdHTML(x.Word), "</summary>\n\n", mdFence(x.Lang, x.Text), "\n\n</details>\n\n")
		}
	}
	if len(f.Compliance) > 0 {
		s := make([]string, len(f.Compliance))
		for i, c := range f.Compliance {
			s[i] = mdText(c.Framework + " " + c.Control)
		}
		w.put("Compliance: ", strings.Join(s, ", "), "\n\n")
	}
}

// mdText is a line of text in which nothing means anything to Markdown or to a code host. Punctuation is escaped by a backslash; behind
// what begins a mention, an issue or an address stands a zero-width space, because those are looked for after the escapes are gone.
func mdText(s string) string {
	s = safe(s)
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case strings.ContainsRune("\\`*_{}[]()#+!|~$\"'^=", r):
			b.WriteString("\\" + string(r))
		case (r == '-' || r == '.' || r == ':') && i == 0:
			b.WriteString("\\" + string(r))
		default:
			b.WriteRune(r)
		}
		switch rest := s[i:]; {
		case r == '@', r == '#', strings.HasPrefix(rest, "://"):
			b.WriteString("&#8203;")
		case r == '.' && i >= 3 && strings.EqualFold(s[i-3:i], "www"):
			b.WriteString("&#8203;")
		case r == '-' && i >= 2 && strings.EqualFold(s[i-2:i], "gh"):
			b.WriteString("&#8203;")
		}
	}
	t := b.String()
	// Digits before a full stop at the begin of a line would be a list.
	if n := len(t) - len(strings.TrimLeft(t, "0123456789")); n > 0 && n < len(t) && t[n] == '.' {
		t = t[:n] + "\\" + t[n:]
	}
	return t
}

// mdHTML is a line of text inside of HTML, where Markdown is not read.
func mdHTML(s string) string {
	s = html.EscapeString(safe(s))
	return strings.NewReplacer("@", "@&#8203;", "#", "&#35;&#8203;").Replace(strings.NewReplacer("&#34;", "&quot;", "&#39;", "&apos;").Replace(s))
}

// mdCode is s in a code span whose fence is longer than any run of backticks in it.
func mdCode(s string) string {
	s = safe(s)
	if s == "" {
		return ""
	}
	fence := strings.Repeat("`", longest(s, '`')+1)
	if s[0] == '`' || s[len(s)-1] == '`' || strings.TrimSpace(s) != s {
		s = " " + s + " "
	}
	return fence + s + fence
}

// mdCell is a piece of Markdown for a cell of a table, where a bar ends the cell even in a code span unless it is escaped.
func mdCell(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '|' {
			back := 0
			for j := i - 1; j >= 0 && s[j] == '\\'; j-- {
				back++
			}
			if back%2 == 0 {
				b.WriteByte('\\')
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mdFence is a block of code.
func mdFence(lang, s string) string {
	s = safeLines(s)
	fence := strings.Repeat("`", max(3, longest(s, '`')+1))
	return fence + lang + "\n" + s + "\n" + fence
}

// longest is the length of the longest run of c in s.
func longest(s string, c byte) int {
	most, n := 0, 0
	for i := 0; i < len(s); i++ {
		if s[i] != c {
			n = 0
			continue
		}
		n++
		most = max(most, n)
	}
	return most
}

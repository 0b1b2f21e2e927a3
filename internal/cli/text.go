package cli

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// safe returns s with everything that could move the cursor, change colours or reorder text written out as an escape: names come
// from Azure and from other people, and a terminal obeys what it is sent.
func safe(s string) string {
	clean := true
	for _, r := range s {
		if hostile(r) {
			clean = false
			break
		}
	}
	if clean && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case hostile(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// safeLines is safe for text of several lines that we composed from safe parts: line ends stay.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = safe(lines[i])
	}
	return strings.Join(lines, "\n")
}

// hostile tells whether a rune must not reach a terminal: controls (C0, C1, DEL), line and paragraph separators, and format characters
// such as the bidirectional overrides, of which only the joiners that scripts need are let through.
func hostile(r rune) bool {
	switch {
	case r == utf8.RuneError, unicode.IsControl(r), r == '\u2028', r == '\u2029':
		return true
	case r == '\u200c', r == '\u200d':
		return false
	}
	return unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r)
}

// width is the number of terminal cells of a safe string: none for combining marks and joiners, two for East Asian wide characters.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

// wide covers the blocks that Unicode's East Asian Width (UAX #11) gives as W or F, taken as whole blocks.
func wide(r rune) bool {
	return r >= 0x1100 && (r <= 0x115f || r >= 0x2e80 && r <= 0x303e || r >= 0x3041 && r <= 0x4dbf || r >= 0x4e00 && r <= 0xa4cf ||
		r >= 0xa960 && r <= 0xa97f || r >= 0xac00 && r <= 0xd7a3 || r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f ||
		r >= 0xff00 && r <= 0xff60 || r >= 0xffe0 && r <= 0xffe6 || r >= 0x1f300 && r <= 0x1f64f || r >= 0x1f900 && r <= 0x1f9ff ||
		r >= 0x20000 && r <= 0x3fffd)
}

// table lays out rows in columns two spaces apart. Nothing is cut off: a name that is not shown whole is another name.
type table struct {
	head []string
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// String renders the table. Columns without any content are left out.
func (t *table) String() string {
	widths := make([]int, len(t.head))
	for _, r := range t.rows {
		for i := range r {
			r[i] = safe(r[i])
			widths[i] = max(widths[i], width(r[i]))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		var l strings.Builder
		pad := 0
		for i, c := range cells {
			if widths[i] == 0 {
				continue
			}
			l.WriteString(strings.Repeat(" ", pad))
			l.WriteString(c)
			pad = max(widths[i], width(t.head[i])) - width(c) + 2
		}
		b.WriteString(strings.TrimRight(l.String(), " "))
		b.WriteByte('\n')
	}
	line(t.head)
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

// fields lays out names and values, one a line; empty values are left out, values of several lines are indented.
type fields struct{ rows [][2]string }

func (f *fields) add(name, value string) {
	if value != "" {
		f.rows = append(f.rows, [2]string{name, value})
	}
}

func (f *fields) String() string {
	w := 0
	for _, r := range f.rows {
		w = max(w, width(r[0]))
	}
	var b strings.Builder
	for _, r := range f.rows {
		for i, line := range strings.Split(r[1], "\n") {
			name := r[0]
			if i > 0 {
				name = ""
			}
			b.WriteString(name + strings.Repeat(" ", w-width(name)+2) + safe(line) + "\n")
		}
	}
	return b.String()
}

// count is "1 rule", "2 rules".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") {
		return strconv.Itoa(n) + " " + strings.TrimSuffix(one, "y") + "ies"
	}
	return strconv.Itoa(n) + " " + one + "s"
}

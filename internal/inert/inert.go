// Package inert makes text of others harmless to show: names come from Azure and from other people, and terminals, browsers and XML obey
// what they are sent. It is pure, and knows nothing of where the text goes.
package inert

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with controls, line ends and what reorders text written out as escapes, so that a name of several lines or of hidden
// characters is seen as what it is. Bytes that are no UTF-8 become \xNN. What it returns it returns unchanged.
func Text(s string) string {
	clean := utf8.ValidString(s)
	for _, r := range s {
		if !clean {
			break
		}
		clean = !Hostile(r)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case Hostile(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// Lines is Text for text of several lines, such as a script or a page of ours with names in it: line ends and tabs stay.
func Lines(s string) string {
	var b strings.Builder
	for i, l := range strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		for j, part := range strings.Split(l, "\t") {
			if j > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(Text(part))
		}
	}
	return b.String()
}

// Hostile tells whether a rune is written out: controls (C0, C1, DEL), line and paragraph separators, format characters such as the
// bidirectional overrides (of which the joiners that scripts need stay), private use, and what is no character of XML.
func Hostile(r rune) bool {
	switch {
	case r < ' ', r == utf8.RuneError, unicode.IsControl(r), r == '\u2028', r == '\u2029', r&0xfffe == 0xfffe:
		return true
	case r == '\u200c', r == '\u200d':
		return false
	}
	return r >= 0x80 && (unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r))
}

// Width is the number of terminal cells of a text that is inert.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += Cells(r)
	}
	return n
}

// Cells is the number of terminal cells of a rune: none for combining marks and joiners, two for the blocks that Unicode's East Asian
// Width (UAX #11) gives as wide, taken as whole blocks.
func Cells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0x4dbf, r >= 0x4e00 && r <= 0xa4cf,
		r >= 0xa960 && r <= 0xa97f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f,
		r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f900 && r <= 0x1f9ff,
		r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

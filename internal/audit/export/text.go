package export

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hostile tells whether a rune may not stand in an export as it is: controls of both ranges, line and paragraph separators, format
// characters such as the bidirectional overrides (of which the joiners that scripts need stay), private use, and non-characters.
func hostile(r rune) bool {
	switch {
	case r < ' ', r == utf8.RuneError, unicode.IsControl(r), r == '\u2028', r == '\u2029', r&0xfffe == 0xfffe:
		return true
	case r == '\u200c', r == '\u200d':
		return false
	}
	return r >= 0x80 && (unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r))
}

// safe writes hostile runes out as escapes, so that they are seen as what they are; bytes that are no UTF-8 become \xNN.
func safe(s string) string { return escape(s, "") }

// escape is safe, except for the runes of keep.
func escape(s, keep string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case hostile(r) && !strings.ContainsRune(keep, r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// cut shortens s to at most n bytes, at the end of a rune, with an ellipsis in place of what is cut.
func cut(s string, n int) string {
	const dots = "…"
	if len(s) <= n {
		return s
	}
	for n -= len(dots); n > 0 && !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + dots
}

// line is a record with hostile runes as JSON escapes. A record is JSON, where those stand within strings alone: it means the same.
func line(record []byte) []byte {
	out := make([]byte, 0, len(record))
	for i := 0; i < len(record); {
		r, n := utf8.DecodeRune(record[i:])
		switch {
		case !hostile(r) || r == utf8.RuneError && n == 1: // encoding/json writes no bytes that are not UTF-8
			out = append(out, record[i:i+n]...)
		case r > 0xffff:
			a, b := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, a, b)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	return out
}

package remedy

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// Names come from whoever may create resources, and from files; what is written here is pasted into shells and deployed. Each language
// therefore has one function that every foreign text goes through. None gives up: a text that no resource can be called is written so
// that it means itself.

// set is a set of bytes.
type set [256]bool

// withLetters returns the letters and digits of ASCII and some other characters.
func withLetters(others string) *set {
	t := &set{}
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" + others) {
		t[c] = true
	}
	return t
}

// only tells whether a text consists of nothing else.
func only(s string, of *set) bool {
	for i := range len(s) {
		if !of[s[i]] {
			return false
		}
	}
	return true
}

var (
	// harmless are characters that mean themselves in comments and in strings of Bicep, HCL and JSON.
	harmless = withLetters(" -_./:,;()*@")
	// bare are those that a shell takes without quotes, leading those that begin such a word.
	bare, leading = withLetters("_./:,=-"), withLetters("_./:")
)

// sh returns one word of a POSIX shell.
func sh(s string) string {
	if s != "" && leading[s[0]] && only(s, bare) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// opt returns an option of az with its value. A value that begins with a dash would be taken for an option, so that it is joined.
func opt(name, value string) string {
	if strings.HasPrefix(value, "-") {
		return " " + name + "=" + sh(value)
	}
	return " " + name + " " + sh(value)
}

// expands tells whether az would not take a text as it is: it reads a file in place of a value that begins with @, and trims nothing.
func expands(s string) bool { return strings.HasPrefix(s, "@") }

// bicep returns a string literal of Bicep. A backslash, a quote and an interpolation are escaped, and what does not print.
func bicep(s string) string {
	if only(s, harmless) {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('\'')
	for i, r := range s {
		switch {
		case r == '\\' || r == '\'':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '$' && strings.HasPrefix(s[i:], "${"):
			b.WriteString(`\$`)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// hcl returns a string literal of HCL. ${ and %{ begin templates there, and are doubled.
func hcl(s string) string {
	if only(s, harmless) {
		return `"` + s + `"`
	}
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case (r == '$' || r == '%') && strings.HasPrefix(s[i+1:], "{"):
			b.WriteRune(r)
			b.WriteRune(r)
		case r > 0xffff && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func list(quote func(string) string, values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = quote(v)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// jmes returns a JSON literal of JMESPath, the language of az --query.
func jmes(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "`null`" // of strings, maps and lists of them: does not happen
	}
	return jmesJSON(string(b))
}

// jmesJSON is jmes of what is JSON already.
func jmesJSON(s string) string { return "`" + strings.ReplaceAll(s, "`", "\\`") + "`" }

// jsonText returns a string of JSON.
func jsonText(s string) string {
	if only(s, harmless) {
		return `"` + s + `"`
	}
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // of a string: does not happen
	}
	return string(b)
}

// plain returns a text for one line of prose or of a comment: a name must not begin a new one.
func plain(s string) string {
	if only(s, harmless) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}

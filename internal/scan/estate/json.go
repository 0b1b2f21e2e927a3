package estate

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A large tenant's export is hundreds of megabytes of which a scan needs a twentieth. decoder walks a body once, hands over the values
// that are asked for, and checks and passes over the rest; nothing is built that is not kept.

// maxDepth bounds how deep values may be nested. ARM bodies stay below twenty.
const maxDepth = 512

// syntaxError is a fault of a body. At is where, in bytes from its start.
type syntaxError struct {
	At  int
	Why string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("at byte %d: %s", e.At, e.Why) }

// decoder reads one JSON value. The first fault of the language is kept, and nothing is read after it. A value that is not what belongs
// in its place is noted, and passed over: one such field must not keep the rest of an export from being read.
type decoder struct {
	b     []byte
	i     int
	depth int
	err   *syntaxError
	wrong *syntaxError // the first value that does not belong where it stands
	key   [64]byte

	words map[string]string   // what is said again and again is kept once
	lists map[string][]string // lists of one word
	tags  map[string]map[string]string
	subs  map[string]bool   // subscriptions that were counted
	lows  map[string]string // words in lower case
	typ   []byte            // a buffer
	ids   *idTable
}

func (d *decoder) reset(b []byte) { d.b, d.i, d.depth, d.err, d.wrong = b, 0, 0, nil, nil }

// note says of a value at a place that it does not belong there.
func (d *decoder) note(at int, format string, args ...any) {
	if d.wrong == nil && d.err == nil {
		d.wrong = &syntaxError{at, fmt.Sprintf(format, args...)}
	}
}

// mistake notes that the value that begins here is none of the kind that belongs here, and passes over it.
func (d *decoder) mistake(what, wanted string) {
	if c := d.next(); c != '{' && c != '[' && c != '"' && c != 't' && c != 'f' && c != 'n' && c != '-' && (c < '0' || c > '9') {
		d.fail("%s is %s, not %s", what, d.kind(), wanted)
		return
	}
	d.note(d.i, "%s is %s, not %s", what, d.kind(), wanted)
	d.skip()
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = &syntaxError{min(d.i, len(d.b)), fmt.Sprintf(format, args...)}
	}
	d.i = len(d.b)
}

// next passes over white space and returns the byte that follows, 0 at the end.
func (d *decoder) next() byte {
	for d.i < len(d.b) {
		switch c := d.b[d.i]; c {
		case ' ', '\t', '\n', '\r':
			d.i++
		default:
			return c
		}
	}
	return 0
}

// kind says in words what value begins here.
func (d *decoder) kind() string {
	switch c := d.next(); {
	case c == '{':
		return "an object"
	case c == '[':
		return "a list"
	case c == '"':
		return "a text"
	case d.begins("true") || d.begins("false"):
		return "true or false"
	case d.begins("null"):
		return "null"
	case c == '-' || c >= '0' && c <= '9':
		return "a number"
	case c == 0 && d.i >= len(d.b):
		return "cut off"
	}
	word := d.b[d.i:]
	if end := bytes.IndexAny(word, " \t\r\n,]}"); end > 0 {
		word = word[:end]
	}
	return fmt.Sprintf("no JSON value (%q)", clip(word))
}

func (d *decoder) begins(word string) bool { return bytes.HasPrefix(d.b[d.i:], []byte(word)) }

// null takes a null, if there is one.
func (d *decoder) null() bool {
	if d.next() != 'n' {
		return false
	}
	d.literal("null")
	return true
}

func (d *decoder) literal(word string) {
	if !bytes.HasPrefix(d.b[d.i:], []byte(word)) {
		d.fail("%q is no JSON value", clip(d.b[d.i:]))
		return
	}
	d.i += len(word)
}

func clip(b []byte) string {
	if len(b) > 20 {
		b = b[:20]
	}
	return string(b)
}

// object hands each key, in lower case, to f, which must read or skip the value. It returns the number of keys, -1 for null. What
// names the value in errors.
func (d *decoder) object(what string, f func(key []byte)) int {
	if d.err != nil || d.null() {
		return -1
	}
	if d.next() != '{' {
		d.mistake(what, "an object")
		return 0
	}
	if d.depth++; d.depth > maxDepth {
		d.fail("values are nested deeper than %d", maxDepth)
		return 0
	}
	d.i++
	n := 0
	if d.next() == '}' {
		d.i++
		d.depth--
		return 0
	}
	for d.err == nil {
		if d.next() != '"' {
			d.fail("%s: a name was expected, here is %s", what, d.kind())
			return n
		}
		raw, escaped := d.quoted()
		if escaped {
			raw = unescape(raw)
		}
		if d.next() != ':' {
			d.fail("%s: a colon was expected after %q", what, clip(raw))
			return n
		}
		d.i++
		n++
		key := raw
		if len(raw) <= len(d.key) {
			for i, c := range raw {
				if 'A' <= c && c <= 'Z' {
					c += 'a' - 'A'
				}
				d.key[i] = c
			}
			key = d.key[:len(raw)]
		}
		f(key)
		switch d.next() {
		case ',':
			d.i++
		case '}':
			d.i++
			d.depth--
			return n
		default:
			d.fail("%s: a comma or the end of the object was expected, here is %s", what, d.kind())
		}
	}
	return n
}

// list calls f for each element, which must read or skip it. A null is an empty list.
func (d *decoder) list(what string, f func()) {
	if d.err != nil || d.null() {
		return
	}
	if d.next() != '[' {
		d.mistake(what, "a list")
		return
	}
	if d.depth++; d.depth > maxDepth {
		d.fail("values are nested deeper than %d", maxDepth)
		return
	}
	d.i++
	if d.next() == ']' {
		d.i++
		d.depth--
		return
	}
	for d.err == nil {
		f()
		switch d.next() {
		case ',':
			d.i++
		case ']':
			d.i++
			d.depth--
			return
		default:
			d.fail("%s: a comma or the end of the list was expected, here is %s", what, d.kind())
		}
	}
}

// quoted takes a text and returns what stands between the quotation marks.
func (d *decoder) quoted() (raw []byte, escaped bool) {
	start := d.i + 1
	b := d.b
	for i := start; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			d.i = i + 1
			return b[start:i], escaped
		case c == '\\':
			escaped = true
			i++
			if i >= len(b) {
				break
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for k := 1; k <= 4; k++ {
					if i+k >= len(b) || !hex(b[i+k]) {
						d.i = i
						d.fail("\\u is not followed by four hexadecimal digits")
						return nil, false
					}
				}
				i += 4
			default:
				d.i = i
				d.fail("\\%c is no escape", b[i])
				return nil, false
			}
		case c < ' ':
			d.i = i
			d.fail("a control character stands in a text")
			return nil, false
		}
	}
	d.i = len(b)
	d.fail("a text is cut off")
	return nil, false
}

func hex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// unescape takes what quoted has checked.
func unescape(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		switch raw[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := rune16(raw[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				if i+6 < len(raw)+0 && raw[i+1] == '\\' && raw[i+2] == 'u' {
					if both := utf16.DecodeRune(r, rune16(raw[i+3:])); both != utf8.RuneError {
						out = utf8.AppendRune(out, both)
						i += 6
						continue
					}
				}
				r = utf8.RuneError
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, raw[i])
		}
	}
	return out
}

func rune16(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 32) // quoted has checked the digits
	return rune(n)
}

// bytes takes a text, nil for null. The result is valid until the body is given back.
func (d *decoder) bytes(what string) []byte {
	if d.err != nil || d.null() {
		return nil
	}
	if d.next() != '"' {
		d.mistake(what, "a text")
		return nil
	}
	raw, escaped := d.quoted()
	if escaped {
		raw = unescape(raw)
	}
	for _, c := range raw {
		if c >= utf8.RuneSelf {
			if !utf8.Valid(raw) {
				raw = bytes.ToValidUTF8(raw, []byte("\uFFFD"))
			}
			break
		}
	}
	return raw
}

func (d *decoder) text(what string) string { return string(d.bytes(what)) }

// word is text for values of which there are few.
func (d *decoder) word(what string) string { return d.keep(d.bytes(what)) }

// The words that are kept are bounded, so that an export with a million of them does not grow the table without end.
const (
	maxWord  = 64
	maxWords = 1 << 15
)

func (d *decoder) keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := d.words[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) <= maxWord && len(d.words) < maxWords {
		d.words[s] = s
	}
	return s
}

// add appends a word to a list; a list of one word is shared, and has no room to grow.
func (d *decoder) add(list []string, b []byte) []string {
	if list != nil {
		return append(list, d.keep(b))
	}
	if l, ok := d.lists[string(b)]; ok {
		return l
	}
	s := d.keep(b)
	l := []string{s}
	if len(b) <= maxWord && len(d.lists) < maxWords {
		d.lists[s] = l
	}
	return l
}

// texts takes a list of texts into list.
func (d *decoder) texts(what string, list *[]string) {
	d.list(what, func() {
		if b := d.bytes(what); b != nil {
			*list = d.add(*list, b)
		}
	})
}

// number takes a whole number, or a text that holds one, as some providers send them. Null leaves v alone.
func (d *decoder) number(what string, v *int) {
	if d.err != nil || d.null() {
		return
	}
	if d.next() == '"' {
		at := d.i
		b := d.bytes(what)
		if len(b) == 0 {
			return
		}
		n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
		if err != nil {
			d.note(at, "%s is %q, not a number", what, clip(b))
			return
		}
		*v = n
		return
	}
	at := d.i
	if c := d.next(); c != '-' && (c < '0' || c > '9') {
		d.mistake(what, "a number")
		return
	}
	d.digits()
	if d.err != nil {
		return
	}
	f, err := strconv.ParseFloat(string(d.b[at:d.i]), 64)
	if err != nil || f != float64(int(f)) {
		d.note(at, "%s is %s, not a whole number", what, clip(d.b[at:d.i]))
		return
	}
	*v = int(f)
}

// digits takes a number.
func (d *decoder) digits() {
	b, i := d.b, d.i
	if i < len(b) && b[i] == '-' {
		i++
	}
	run := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	zero := i < len(b) && b[i] == '0'
	from := i
	ok := run() && (!zero || i == from+1)
	if ok && i < len(b) && b[i] == '.' {
		i++
		ok = run()
	}
	if ok && i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		ok = run()
	}
	if !ok {
		d.fail("%q is no number", clip(b[d.i:]))
		return
	}
	d.i = i
}

// boolean takes true or false, also as a text. Null leaves v alone.
func (d *decoder) boolean(what string, v *bool) {
	if d.err != nil {
		return
	}
	switch d.next() {
	case 'n':
		d.literal("null")
	case 't':
		d.literal("true")
		*v = d.err == nil
	case 'f':
		d.literal("false")
		*v = false
	case '"':
		at := d.i
		b := d.text(what)
		switch {
		case strings.EqualFold(b, "true"):
			*v = true
		case strings.EqualFold(b, "false"):
			*v = false
		default:
			d.note(at, "%s is %q, neither true nor false", what, clip([]byte(b)))
		}
	default:
		d.mistake(what, "true or false")
	}
}

// skip passes over a value and checks it.
func (d *decoder) skip() {
	if d.err != nil {
		return
	}
	switch c := d.next(); {
	case c == '"':
		d.quoted()
	case c == '{':
		d.object("a value", d.pass)
	case c == '[':
		d.list("a value", d.skip)
	case c == 't':
		d.literal("true")
	case c == 'f':
		d.literal("false")
	case c == 'n':
		d.literal("null")
	case c == '-' || c >= '0' && c <= '9':
		d.digits()
	case d.i >= len(d.b):
		d.fail("a value is cut off")
	default:
		d.fail("%q is no JSON value", clip(d.b[d.i:]))
	}
}

func (d *decoder) pass([]byte) { d.skip() }

package remedy_test

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

func netipAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

// bicepTexts reads the part of Bicep that remedies use: declarations of resources, variables and outputs whose values are objects, lists,
// strings without interpolation, numbers, booleans and names. It returns the strings. It follows the language: members of an object end
// with their line, items of a list on one line are parted by commas.
func bicepTexts(src string) ([]string, error) {
	p := &bicepParser{s: src, names: map[string]bool{}}
	for p.err == nil {
		p.space(true)
		if p.s == "" {
			break
		}
		p.declaration()
	}
	return p.texts, p.err
}

type bicepParser struct {
	s     string
	texts []string
	names map[string]bool
	err   error
}

func (p *bicepParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format+" before %.40q", append(args, p.s)...)
	}
	p.s = ""
}

func (p *bicepParser) space(lines bool) (newline bool) {
	for p.s != "" {
		switch c := p.s[0]; {
		case c == ' ' || c == '\t':
			p.s = p.s[1:]
		case c == '\n' && lines:
			newline, p.s = true, p.s[1:]
		case strings.HasPrefix(p.s, "//"):
			_, rest, _ := strings.Cut(p.s, "\n")
			p.s = "\n" + rest
			if !lines {
				return newline
			}
		default:
			return newline
		}
	}
	return newline
}

func (p *bicepParser) word() string {
	i := 0
	for i < len(p.s) && (p.s[i] == '_' || p.s[i] >= 'a' && p.s[i] <= 'z' || p.s[i] >= 'A' && p.s[i] <= 'Z' || i > 0 && p.s[i] >= '0' && p.s[i] <= '9') {
		i++
	}
	w := p.s[:i]
	p.s = p.s[i:]
	if w == "" {
		p.fail("a name is missing")
	}
	p.space(false)
	return w
}

func (p *bicepParser) take(s string) bool {
	if !strings.HasPrefix(p.s, s) {
		return false
	}
	p.s = p.s[len(s):]
	p.space(false)
	return true
}

func (p *bicepParser) declaration() {
	if p.take("@description(") {
		p.text()
		if !p.take(")") || !p.space(true) {
			p.fail("a decorator does not end")
		}
	}
	kind := p.word()
	name := p.word()
	if kind != "output" {
		if p.names[name] {
			p.fail("%s is declared twice", name)
		}
		p.names[name] = true
	}
	switch kind {
	case "resource":
		before := len(p.texts)
		p.text()
		if len(p.texts) == before || strings.Count(p.texts[before], "@") != 1 {
			p.fail("no type with a version")
		}
		p.take("existing")
	case "param":
		p.word()
		return
	case "output":
		p.word()
	case "var":
	default:
		p.fail("%s declares nothing", kind)
	}
	if !p.take("=") {
		p.fail("no = ")
	}
	p.value()
	if p.s != "" && !p.space(true) {
		p.fail("a declaration goes on")
	}
}

func (p *bicepParser) value() {
	switch {
	case p.s == "":
		p.fail("a value is missing")
	case p.s[0] == '\'':
		p.text()
	case p.take("{"):
		for !p.take("}") {
			if !p.space(true) {
				p.fail("a member does not begin on a line of its own")
				return
			}
			if p.take("}") {
				return
			}
			p.word()
			if !p.take(":") {
				p.fail("no colon")
			}
			p.value()
			if p.err != nil {
				return
			}
		}
	case p.take("["):
		for first := true; ; first = false {
			line := p.space(true)
			if p.take("]") {
				return
			}
			if !first && !line {
				if !p.take(",") {
					p.fail("no comma between items")
					return
				}
			}
			p.value()
			if p.err != nil {
				return
			}
		}
	case p.s[0] >= '0' && p.s[0] <= '9':
		p.s = strings.TrimLeft(p.s, "0123456789")
		p.space(false)
	default:
		p.word()
		for p.take(".") {
			p.word()
		}
	}
}

func (p *bicepParser) text() {
	if p.s == "" || p.s[0] != '\'' {
		p.fail("a string is missing")
		return
	}
	p.s = p.s[1:]
	var b strings.Builder
	for {
		r, n := utf8.DecodeRuneInString(p.s)
		switch {
		case n == 0 || r == '\n' || r == '\r':
			p.fail("a string does not end")
			return
		case r == '\'':
			p.s = p.s[1:]
			p.texts = append(p.texts, b.String())
			p.space(false)
			return
		case strings.HasPrefix(p.s, "${"):
			p.fail("an interpolation")
			return
		case r == '\\':
			rest := p.s[1:]
			switch {
			case strings.HasPrefix(rest, "u{"):
				hex, after, ok := strings.Cut(rest[2:], "}")
				v, err := strconv.ParseUint(hex, 16, 32)
				if !ok || err != nil || v > utf8.MaxRune {
					p.fail("an escape of no character")
					return
				}
				b.WriteRune(rune(v))
				p.s = after
			case rest != "" && strings.IndexByte("\\'$nrt", rest[0]) >= 0:
				b.WriteByte(map[byte]byte{'\\': '\\', '\'': '\'', '$': '$', 'n': '\n', 'r': '\r', 't': '\t'}[rest[0]])
				p.s = rest[1:]
			default:
				p.fail("an escape that is none")
				return
			}
		default:
			b.WriteString(p.s[:n])
			p.s = p.s[n:]
		}
	}
}

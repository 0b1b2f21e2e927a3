package policy

import (
	"path"
	"strings"
	"unicode"
)

// fold brings a name into the one form in which names are compared: without blanks around it, and the same for all spellings that
// strings.EqualFold takes for one.
func fold(s string) string {
	s = strings.TrimSpace(s)
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return strings.Map(foldRune, s)
		}
	}
	return strings.ToLower(s)
}

func foldRune(r rune) rune {
	least := r
	for n := unicode.SimpleFold(r); n != r; n = unicode.SimpleFold(n) {
		least = min(least, n)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}

// glob is a compiled pattern over folded names.
type glob struct {
	kind globKind
	text string
}

type globKind uint8

const (
	globAny globKind = iota
	globExact
	globPrefix
	globSuffix
	globPattern
)

// separator stands for / in patterns and names: in path.Match no pattern but itself matches one, and tags hold them.
const separator = "\x00"

func newGlob(pattern string) (glob, error) {
	p := strings.ReplaceAll(fold(pattern), "/", separator)
	if _, err := path.Match(p, ""); err != nil {
		return glob{}, err
	}
	body := strings.Trim(p, "*")
	special := strings.ContainsAny(body, `*?[\`)
	stars := strings.HasPrefix(p, "*")
	switch {
	case special:
		return glob{globPattern, p}, nil
	case body == "" && p != "":
		return glob{globAny, ""}, nil
	case body == p:
		return glob{globExact, p}, nil
	case !stars:
		return glob{globPrefix, body}, nil
	case !strings.HasSuffix(p, "*"):
		return glob{globSuffix, body}, nil
	}
	return glob{globPattern, p}, nil
}

// match tells whether a folded name, its / replaced, matches.
func (g glob) match(name string) bool {
	switch g.kind {
	case globAny:
		return true
	case globExact:
		return name == g.text
	case globPrefix:
		return strings.HasPrefix(name, g.text)
	case globSuffix:
		return strings.HasSuffix(name, g.text)
	}
	ok, err := path.Match(g.text, name)
	return ok && err == nil
}

func anyGlob(gs []glob, name string) bool {
	for i := range gs {
		if gs[i].match(name) {
			return true
		}
	}
	return false
}

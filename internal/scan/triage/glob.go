package triage

import "strings"

// Glob matches resources, without case. A star stands for any characters, none and slashes included; every other character for
// itself. A pattern with a slash is matched against the whole resource id, one without against the resource's name.
type Glob struct {
	text  string
	parts []string // what stands between the stars, lower case
}

// NewGlob makes a glob of any text; the empty one matches nothing.
func NewGlob(text string) Glob {
	return Glob{text: text, parts: strings.Split(strings.ToLower(text), "*")}
}

// String returns the pattern as it was written.
func (g Glob) String() string { return g.text }

// Literal tells whether the pattern holds no star.
func (g Glob) Literal() bool { return len(g.parts) == 1 }

// WholeID tells whether the pattern is one resource id, spelt out.
func (g Glob) WholeID() bool { return g.Literal() && strings.HasPrefix(g.text, "/") }

// everything tells whether the pattern fits whatever a resource is called, whatever its type and wherever it is.
func (g Glob) everything() bool {
	return g.Match("/subscriptions/\x00/resourceGroups/\x00/providers/\x00/\x00/\x00", "\x00")
}

// Match tells whether a resource of this id and name is meant.
func (g Glob) Match(id, name string) bool {
	return g.matchLower(strings.ToLower(id), strings.ToLower(name))
}

// matchLower is Match for an id and name in lower case.
func (g Glob) matchLower(id, name string) bool {
	if strings.Contains(g.text, "/") {
		return g.match(id)
	}
	return g.match(name)
}

// match takes each part at the first place where it fits. With stars alone that needs no way back: an earlier place leaves more room
// for what follows. Its time is the product of the lengths at most, whatever the pattern.
func (g Glob) match(s string) bool {
	if g.text == "" {
		return false
	}
	first, last := g.parts[0], g.parts[len(g.parts)-1]
	if g.Literal() {
		return s == first
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, p := range g.parts[1 : len(g.parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return true
}

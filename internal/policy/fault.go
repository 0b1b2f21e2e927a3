package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// Fault is one thing that is wrong with a policy, and where. Line 0 is unknown: the policy was not read from a text.
type Fault struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Text   string `json:"text"`
}

// Place returns "file:line:column", as far as it is known.
func (f Fault) Place() string {
	at := f.File
	if f.Line > 0 {
		if at == "" {
			at = "line "
		} else {
			at += ":"
		}
		at += fmt.Sprintf("%d:%d", f.Line, f.Column)
	}
	return at
}

// String returns the fault with its place.
func (f Fault) String() string {
	text := f.Text
	if f.Rule != "" {
		text = "rule " + f.Rule + ": " + text
	}
	if at := f.Place(); at != "" {
		text = at + ": " + text
	}
	return text
}

// Faults are all that is wrong.
type Faults []Fault

// Error implements error: how many there are. An access.Error that wraps them names each.
func (fs Faults) Error() string { return fmt.Sprintf("%d faults", len(fs)) }

// String returns them one a line.
func (fs Faults) String() string {
	var out []string
	for _, f := range fs {
		out = append(out, f.String())
	}
	return strings.Join(out, "\n")
}

// maxFaults bounds what is told of a text that is wrong all over.
const maxFaults = 100

// err makes the error that people see, nil where nothing is wrong.
func (fs Faults) err() error {
	if len(fs) == 0 {
		return nil
	}
	fs = slices.Clone(fs)
	slices.SortStableFunc(fs, func(a, b Fault) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	fs = slices.CompactFunc(fs, func(a, b Fault) bool { return a == b })
	shown := fs
	more := ""
	if len(fs) > maxFaults {
		shown, more = fs[:maxFaults], fmt.Sprintf("\nand %d faults more", len(fs)-maxFaults)
	}
	return access.Errorf(access.CodeInvalid, "the policy is wrong:\n%s%s", shown.String(), more).
		WithHint("every key is described in docs/policy.md; try it with: curfew policy lint FILE").Wrap(fs)
}

// marks tell where the keys of a mapping stand; the key "" is the mapping itself.
type marks struct {
	file string
	at   []mark
}

type mark struct {
	key       string
	line, col int32
}

// of returns the place of a key, or of the mapping where the key is not there.
func (m marks) of(key string) (line, col int) {
	for _, k := range []string{key, ""} {
		for _, x := range m.at {
			if x.key == k {
				return int(x.line), int(x.col)
			}
		}
	}
	return 0, 0
}

func (m marks) fault(key, rule, format string, args ...any) Fault {
	line, col := m.of(key)
	return Fault{File: m.file, Line: line, Column: col, Rule: rule, Text: fmt.Sprintf(format, args...)}
}

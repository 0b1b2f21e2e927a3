// Package triage decides which findings of a scan are shown and which of them count: filters, the baseline of what is known already,
// suppressions with an owner and an end, and the threshold of --fail-on. It is pure; callers read and write the files.
//
// Nothing here may make a scan look cleaner than it is (promise P10). A finding that is suppressed or known stays in the report,
// marked. A verdict that could not be made (status unknown) is never known from a baseline, is suppressed only by an entry that names
// its rule and its very resource, and a filter drops it only where it is certain that it lies outside.
//
// What is not understood in full is refused: the files are small programs that hide things, and a slip in one must not hide more.
package triage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Fault is one thing that is wrong in a file. Line 0 is not known.
type Fault struct {
	Line int
	Text string
}

// FileError says everything that is wrong in a baseline or a suppressions file, in the order of its lines.
type FileError struct {
	What   string // "baseline" or "suppressions file"
	File   string // as the caller named it, "" when it did not
	Faults []Fault
	More   int    // faults beyond those listed
	Hint   string // what to do next
}

// maxFaults bounds what is told of one file. Somebody who sees that many at once has the wrong file.
const maxFaults = 50

// Error has a line for each fault: file, line, what is wrong.
func (e *FileError) Error() string {
	file := e.File
	if file == "" {
		file = e.What
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the %s is wrong:", e.What)
	for _, f := range e.Faults {
		b.WriteString("\n" + file)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": " + f.Text)
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\n… and %d more", e.More)
	}
	return b.String()
}

func fileError(what, file, hint string, faults []Fault) *FileError {
	slices.SortStableFunc(faults, func(a, b Fault) int { return a.Line - b.Line })
	e := &FileError{What: what, File: file, Hint: hint, Faults: faults}
	if len(faults) > maxFaults {
		e.Faults, e.More = faults[:maxFaults], len(faults)-maxFaults
	}
	return e
}

// rank is 0 for the worst severity. One that nobody knows is taken for the worst: it must not slip under a threshold.
func rank(s scan.Severity) int { return max(slices.Index(scan.Severities, s), 0) }

// Worse tells whether a is worse than b.
func Worse(a, b scan.Severity) bool { return rank(a) < rank(b) }

// join lists values for people.
func join[T ~string](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}

func ruleIDs() []scan.RuleID {
	var out []scan.RuleID
	for _, r := range scan.Rules {
		out = append(out, r.ID)
	}
	return out
}

// subscriptionOf returns the subscription of a resource id in lower case, "" when it has none.
func subscriptionOf(id string) string {
	parts := strings.Split(strings.ToLower(id), "/")
	if len(parts) > 2 && parts[0] == "" && parts[1] == "subscriptions" {
		return parts[2]
	}
	return ""
}

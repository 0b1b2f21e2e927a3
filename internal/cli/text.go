package cli

import (
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/inert"
)

// safe is a name of others as a terminal may be sent it.
func safe(s string) string { return inert.Text(s) }

// safeLines is safe for text of several lines.
func safeLines(s string) string { return inert.Lines(s) }

func hostile(r rune) bool { return inert.Hostile(r) }

func width(s string) int { return inert.Width(s) }

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

// Package report writes a scan's report for people and for programs: a terminal table, JSON, CSV, SARIF, OCSF, JUnit, Markdown, and an
// HTML page that needs nothing else.
//
// It trusts nothing in a report but its shape. Names, tags, rules and reasons come from Azure and from other people, and every format
// shows them as text: nothing of them is obeyed by a terminal, a spreadsheet, a browser, or a code host. What could not be read is
// told in every format and never left out (promise P10). It is pure: no I/O but the writer, no clock; the same report and options
// give the same bytes.
package report

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// Format names a way to write a report. The zero value is none.
type Format string

// The formats.
const (
	Table    Format = "table"    // for a terminal
	JSON     Format = "json"     // everything, as the types of package scan marshal
	CSV      Format = "csv"      // RFC 4180, one row a finding or gap
	SARIF    Format = "sarif"    // SARIF 2.1.0, one run
	OCSF     Format = "ocsf"     // OCSF 1.8.0 Compliance Findings, one JSON object a line
	JUnit    Format = "junit"    // JUnit XML, one suite a rule
	HTML     Format = "html"     // one self-contained page
	Markdown Format = "markdown" // GitHub's dialect, for pull requests
)

// Formats lists every format, in the order in which they are told.
var Formats = []Format{Table, JSON, CSV, SARIF, OCSF, JUnit, HTML, Markdown}

// Extension is the usual end of a file's name in the format, with its dot; ".txt" where there is none.
func (f Format) Extension() string {
	switch f {
	case JSON:
		return ".json"
	case CSV:
		return ".csv"
	case SARIF:
		return ".sarif"
	case OCSF:
		return ".jsonl"
	case JUnit:
		return ".xml"
	case HTML:
		return ".html"
	case Markdown:
		return ".md"
	}
	return ".txt"
}

// Group says by what the terminal's table is grouped. The zero value means ByRule.
type Group string

// The groups.
const (
	ByRule         Group = "rule"
	ByResource     Group = "resource"
	BySubscription Group = "subscription"
)

// Groups lists every group.
var Groups = []Group{ByRule, ByResource, BySubscription}

// Options say how a report is written. The zero value suits a pipe.
type Options struct {
	Version string // of Curfew, told where the format has a place for it

	Width   int   // cells of the terminal, for Table; 0 is without limit. Below 40 it is taken as 40.
	Color   bool  // whether Table may use colours
	GroupBy Group // for Table

	// Limit is the number of findings that HTML and Markdown show; further ones are counted there in words. 0 means HTMLLimit or
	// MarkdownLimit. All other formats hold every finding.
	Limit int

	// Fill completes a finding just before it is written, in a copy that is dropped afterwards: what is long and the same for all of a
	// kind, remediation above all, need not be held for each of many findings. It is called from several goroutines, and by those formats
	// alone that show what it fills in: not by Table. Nil: findings are complete.
	Fill func(*scan.Finding)
}

// full is a finding as it is to be written.
func (o Options) full(f *scan.Finding) *scan.Finding {
	if o.Fill == nil {
		return f
	}
	c := *f
	o.Fill(&c)
	return &c
}

// The limits that Options.Limit 0 stands for. A page of
// 2,000 findings, each with its paths and fixes, is 15 MB and opens in seconds, while one of 5,000 takes three times that and nobody reads it;
// the worst come first. A comment of a pull request
// may hold 65,536 characters.
const (
	HTMLLimit     = 2000
	MarkdownLimit = 100
)

// limit is the number of findings to show in a format whose own limit is given.
func (o Options) limit(own int) int {
	if o.Limit > 0 {
		return o.Limit
	}
	return own
}

// Write writes r to w. It changes nothing in r, and reads it as the judge left it: with remediation, compliance, baseline and
// suppressions filled in. Findings that are many are written one by one, as they are. It returns an error of w, or one that names a format or group
// that does not exist, before anything is written. It may be repeated.
func Write(w io.Writer, format Format, r *scan.Report, o Options) error {
	write := writers[format]
	if write == nil {
		return fmt.Errorf("no report format %q; there are %s", format, list(Formats))
	}
	if o.GroupBy == "" {
		o.GroupBy = ByRule
	}
	if !slices.Contains(Groups, o.GroupBy) {
		return fmt.Errorf("no report is grouped by %q; choose from %s", o.GroupBy, list(Groups))
	}
	b := bufio.NewWriterSize(w, 64<<10)
	if err := write(&out{Writer: b}, r, o); err != nil {
		return fmt.Errorf("writing the report as %s: %w", format, err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing the report as %s: %w", format, err)
	}
	return nil
}

var writers = map[Format]func(*out, *scan.Report, Options) error{
	Table: writeTable, JSON: writeJSON, CSV: writeCSV, SARIF: writeSARIF, OCSF: writeOCSF, JUnit: writeJUnit, HTML: writeHTML,
	Markdown: writeMarkdown,
}

// out is a writer that remembers its first error, so that the many small writes of a format need no check each. bufio keeps to the
// same rule: after an error nothing more is written.
type out struct{ *bufio.Writer }

func (w *out) put(parts ...string) {
	for _, s := range parts {
		_, _ = w.WriteString(s)
	}
}

// err is the first error of any write so far.
func (w *out) err() error {
	_, err := w.WriteString("")
	return err
}

func list[T ~string](all []T) string {
	s := make([]string, len(all))
	for i, a := range all {
		s[i] = string(a)
	}
	return strings.Join(s, ", ")
}

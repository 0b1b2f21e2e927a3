package report

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/scan"
)

// csvColumns are the columns of the CSV form. New ones are added at the end. kind is finding or gap: a gap is a row of its own, with
// status unknown, so that a table without its gaps cannot be mistaken for a clean one.
var csvColumns = []string{"kind", "id", "status", "severity", "counts", "rule", "title", "name", "type", "subscription", "group", "location",
	"resource", "exposure", "reason", "ports", "deciding_rules", "sources", "tags", "controls", "remediation", "fix", "suppressed_by",
	"suppressed_reason", "suppressed_until", "in_baseline", "judged_at"}

// writeCSV writes RFC 4180: a head, CRLF, cells quoted where they must be, UTF-8 without a byte order mark. Controls and line ends in
// names are written out as escapes (\n), so that a row is always one line.
//
// A spreadsheet takes a cell that begins with = + - @ (also in full width), a tab or a line end for a formula. Such a cell gets an
// apostrophe before it, which a spreadsheet takes as "this is text"; so does a cell that begins with an apostrophe itself. A program
// that reads the file takes one leading apostrophe away from each cell that has one, and has the value again.
func writeCSV(w *out, r *scan.Report, o Options) error {
	row(w, csvColumns)
	at := r.At.UTC().Format(time.RFC3339)
	err := parts(w, len(r.Findings), func(w *out, i int) error {
		f := o.full(&r.Findings[i])
		var ports, deciders, from, controls []string
		for _, p := range f.Evidence.Ports {
			ports = append(ports, portWord(p)+" "+string(p.Exposure))
			for _, way := range p.Ways {
				if way.Access != "deny" {
					if s := sources(way); s != "" {
						from = add(from, s)
					}
				}
				if way.Decider >= 0 && way.Decider < len(way.Hops) {
					h := way.Hops[way.Decider]
					deciders = add(deciders, strings.TrimSpace(layerWord(h.Layer)+" "+short(h.Group, f.Group)+" "+safe(h.Rule)))
				}
			}
		}
		for _, e := range f.Evidence.Rules {
			deciders = add(deciders, short(e.NSG, f.Group)+" "+safe(e.Rule))
		}
		for _, c := range f.Compliance {
			controls = add(controls, safe(c.Framework)+" "+safe(c.Control))
		}
		var remediation, fix, by, why, until string
		if m := f.Remediation; m != nil {
			remediation, fix = safe(m.Summary), safe(m.Curfew)
		}
		if s := f.Suppressed; s != nil {
			by, why, until = safe(s.Owner), safe(s.Reason), s.Until.UTC().Format(time.RFC3339)
		}
		row(w, []string{"finding", f.ID, string(f.Status), string(f.Severity), strconv.FormatBool(f.Counts()), string(f.Rule), title(f.Rule), f.Name, f.Type,
			f.Subscription, f.Group, f.Location, f.Resource, string(f.Exposure), f.Reason, strings.Join(ports, "; "), strings.Join(deciders, "; "),
			strings.Join(from, "; "), strings.Join(sortedTags(f.Tags), "; "), strings.Join(controls, "; "), remediation, fix, by, why, until,
			strconv.FormatBool(f.Known), at})
		return w.err()
	})
	if err != nil {
		return err
	}
	for _, g := range gaps(r) {
		cells := make([]string, len(csvColumns))
		for i, c := range csvColumns {
			switch c {
			case "kind":
				cells[i] = "gap"
			case "status":
				cells[i] = string(scan.Unknown)
			case "counts":
				cells[i] = "true"
			case "title":
				cells[i] = "NOT complete"
			case "name":
				cells[i] = g.Source
			case "type":
				cells[i] = g.Type
			case "subscription":
				cells[i] = g.Subscription
			case "resource":
				cells[i] = g.Resource
			case "reason":
				cells[i] = gapText(g)
			case "judged_at":
				cells[i] = at
			}
		}
		row(w, cells)
	}
	return w.err()
}

// gaps are the gaps of a report. One that is not complete and names none lacks what a verdict needs: the first that is unknown says what.
func gaps(r *scan.Report) []scan.Gap {
	if len(r.Gaps) > 0 || r.Summary.Complete {
		return r.Gaps
	}
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Status == scan.Unknown {
			return []scan.Gap{{Source: "what a verdict about " + f.Name + " needs", Reason: f.Reason}}
		}
	}
	return []scan.Gap{{Source: "what a verdict needs", Reason: "no verdict that is unknown for it is among those listed"}}
}

// add appends s unless it is there already.
func add(all []string, s string) []string {
	for _, a := range all {
		if a == s {
			return all
		}
	}
	return append(all, s)
}

// row writes one record.
func row(w *out, cells []string) {
	for i, c := range cells {
		if i > 0 {
			w.put(",")
		}
		c = guard(safe(c))
		if strings.ContainsAny(c, "\",\r\n") || c != strings.TrimSpace(c) {
			c = `"` + strings.ReplaceAll(c, `"`, `""`) + `"`
		}
		w.put(c)
	}
	w.put("\r\n")
}

// guard puts an apostrophe before a cell that a spreadsheet could run, blanks before it or not.
func guard(c string) string {
	r, _ := utf8.DecodeRuneInString(strings.TrimLeft(c, " \u00a0\u3000"))
	if strings.ContainsRune("=+-@\t\r\n'＝＋－＠", r) {
		return "'" + c
	}
	return c
}

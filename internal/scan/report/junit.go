package report

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
)

// writeJUnit writes one suite a rule, one case a resource: failure where it fails, error where it is not known, skipped where it is not
// applicable, suppressed or in the baseline. The case is called by the resource's id, which is what makes it the same case in the next
// run. JUnit has no norm: this is the part that GitHub's, GitLab's and Jenkins's readers share. Gaps are errors of a suite of their own.
func writeJUnit(w *out, r *scan.Report, o Options) error {
	at := r.At.UTC().Format("2006-01-02T15:04:05")
	suites := map[scan.RuleID][]int{}
	for i := range r.Findings {
		suites[r.Findings[i].Rule] = append(suites[r.Findings[i].Rule], i)
	}
	hidden := gaps(r)
	if complete(r) {
		hidden = nil
	}
	var all junitCounts
	each := map[scan.RuleID]junitCounts{}
	for i := range r.Findings {
		f := &r.Findings[i]
		c := each[f.Rule]
		c.add(f)
		each[f.Rule] = c
		all.add(f)
	}
	all.tests += max(1, len(hidden))
	all.errors += len(hidden)
	w.put(`<?xml version="1.0" encoding="UTF-8"?>`, "\n<testsuites name=\"curfew scan\"", all.attributes(), ">\n")
	for _, id := range ruleOrder(r) {
		if len(suites[id]) == 0 {
			continue
		}
		w.put("  <testsuite name=\"", attr(string(id)), "\"", each[id].attributes(), " timestamp=\"", at, "\">\n    <properties>\n")
		rule, _ := scan.RuleOf(id)
		for _, p := range [][2]string{{"title", title(id)}, {"fails when", rule.Fails}, {"risk", rule.Risk}, {"severity", string(rule.Severity)}, {"curfew", o.Version}} {
			property(w, "      ", p[0], p[1])
		}
		w.put("    </properties>\n")
		suite := suites[id]
		err := parts(w, len(suite), func(w *out, i int) error {
			junitCase(w, o.full(&r.Findings[suite[i]]))
			return w.err()
		})
		if err != nil {
			return err
		}
		w.put("  </testsuite>\n")
	}
	c := junitCounts{tests: max(1, len(hidden)), errors: len(hidden)}
	w.put("  <testsuite name=\"complete\"", c.attributes(), " timestamp=\"", at, "\">\n")
	if len(hidden) == 0 {
		w.put("    <testcase name=\"everything that was asked for was read\" classname=\"curfew.complete\" time=\"0\"/>\n")
	}
	seen := map[string]int{}
	for _, g := range hidden {
		text := gapText(g)
		if seen[text]++; seen[text] > 1 {
			text += " (" + strconv.Itoa(seen[text]) + ")"
		}
		w.put("    <testcase name=\"", attr(text), "\" classname=\"curfew.complete\" time=\"0\">\n      <error message=\"", attr("NOT complete: "+text),
			"\" type=\"not-complete\"/>\n    </testcase>\n")
	}
	w.put("  </testsuite>\n</testsuites>\n")
	return w.err()
}

type junitCounts struct{ tests, failures, errors, skipped int }

func (c *junitCounts) add(f *scan.Finding) {
	c.tests++
	switch junitElement(f) {
	case "failure":
		c.failures++
	case "error":
		c.errors++
	case "skipped":
		c.skipped++
	}
}

func (c junitCounts) attributes() string {
	return ` tests="` + strconv.Itoa(c.tests) + `" failures="` + strconv.Itoa(c.failures) + `" errors="` + strconv.Itoa(c.errors) + `" skipped="` + strconv.Itoa(c.skipped) + `" time="0"`
}

// junitElement is the element that a finding's case holds; "" where it passes. A status that is none of ours is an error: never a pass.
func junitElement(f *scan.Finding) string {
	switch {
	case f.Status == scan.Pass:
		return ""
	case f.Status == scan.NotApplicable, !f.Counts():
		return "skipped"
	case f.Status == scan.Fail:
		return "failure"
	}
	return "error"
}

func junitCase(w *out, f *scan.Finding) {
	w.put("    <testcase name=\"", attr(f.Resource), "\" classname=\"curfew.", attr(string(f.Rule)), "\" time=\"0\">\n      <properties>\n")
	for _, p := range [][2]string{{"id", f.ID}, {"status", string(f.Status)}, {"severity", string(f.Severity)}, {"exposure", string(f.Exposure)}, {"name", name(f)},
		{"type", f.Type}, {"subscription", f.Subscription}, {"resource group", f.Group}, {"location", f.Location}} {
		property(w, "        ", p[0], p[1])
	}
	for _, c := range f.Compliance {
		property(w, "        ", "control", c.Framework+" "+c.Control)
	}
	w.put("      </properties>\n")
	text := strings.Join(junitText(f), "\n")
	message := name(f) + ": " + safe(f.Reason)
	switch el := junitElement(f); el {
	case "":
		w.put("      <system-out>", attr(text), "</system-out>\n")
	case "skipped":
		if a := aside(f); a != "" {
			message = a + ": " + message
		} else {
			message = statusWord(f.Status) + ": " + message
		}
		w.put("      <skipped message=\"", attr(message), "\"/>\n      <system-out>", attr(text), "</system-out>\n")
	default:
		w.put("      <", el, " message=\"", attr(message), "\" type=\"", attr(string(f.Severity)), "\">", attr(text), "</", el, ">\n")
	}
	w.put("    </testcase>\n")
}

func junitText(f *scan.Finding) []string {
	lines := []string{safe(f.Resource), safe(f.Reason)}
	lines = append(lines, pathLines(f)...)
	if m := f.Remediation; m != nil {
		lines = append(lines, "Fix: "+safe(m.Summary))
		for _, x := range remedies(m) {
			lines = append(lines, x.Word+":", x.Text)
		}
	}
	return lines
}

func property(w *out, indent, name, value string) {
	if value != "" {
		w.put(indent, "<property name=\"", attr(name), "\" value=\"", attr(value), "\"/>\n")
	}
}

// attr is s for an attribute or the text of an element. Line ends that the caller made stay where the text is of several lines.
func attr(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(safeLines(s))); err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.ReplaceAll(b.String(), "&#xA;", "\n"), "&#x9;", "\t")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

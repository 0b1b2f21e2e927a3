package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/report"
	"github.com/curfew-jit/curfew/internal/testkit"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// samples are the reports that each format must stand.
func samples() map[string]*scan.Report {
	all := map[string]*scan.Report{"fixture": fixture(), "clean": clean(), "many": many(40)}
	for i, h := range hostile {
		all[fmt.Sprintf("hostile %d", i)] = poisoned(h)
	}
	return all
}

func TestSARIFSchema(t *testing.T) {
	raw, err := os.Open(testkit.Shared(t, "formats", "sarif", "sarif-schema-2.1.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	doc, err := jsonschema.UnmarshalJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("sarif.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range samples() {
		got := write(t, report.SARIF, r, report.Options{Version: "1.2.3"})
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(got))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The check is one that can fail.
	bad := strings.Replace(write(t, report.SARIF, fixture(), report.Options{}), `"kind": "open"`, `"kind": "perhaps"`, 1)
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(bad))
	if err != nil || schema.Validate(v) == nil {
		t.Errorf("the schema lets a wrong kind through (%v)", err)
	}
}

// What the schema does not ask for and readers of SARIF do: the norm's rules on kind and level, and what GitHub needs of a result.
func TestSARIFRules(t *testing.T) {
	for name, r := range samples() {
		var doc struct {
			Runs []struct {
				Tool struct {
					Driver struct {
						Rules []struct {
							ID         string
							Help       struct{ Text, Markdown string }
							Properties struct {
								Tags             []string
								SecuritySeverity string `json:"security-severity"`
							}
						}
					}
				}
				AutomationDetails struct{ ID string }
				Invocations       []struct {
					ExecutionSuccessful        bool
					ToolExecutionNotifications []struct{ Level string }
				}
				Results []struct {
					RuleID              string
					RuleIndex           int
					Kind, Level         string
					BaselineState       string
					Message             struct{ Text string }
					PartialFingerprints map[string]string
					Suppressions        []struct{ Kind, Status string }
					Locations           []struct {
						PhysicalLocation struct {
							ArtifactLocation struct{ URI string }
							Region           struct{ StartLine int }
						}
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(write(t, report.SARIF, r, report.Options{})), &doc); err != nil || len(doc.Runs) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		run := doc.Runs[0]
		if len(run.Results) != len(r.Findings) {
			t.Fatalf("%s: %d results of %d findings", name, len(run.Results), len(r.Findings))
		}
		for _, rule := range run.Tool.Driver.Rules {
			if s, err := strconv.ParseFloat(rule.Properties.SecuritySeverity, 64); err != nil || s <= 0 || s > 10 || rule.Help.Text == "" || rule.Help.Markdown == "" || len(rule.Properties.Tags) > 20 {
				t.Errorf("%s: rule %+v", name, rule)
			}
		}
		inv := run.Invocations[0]
		if inv.ExecutionSuccessful != (len(r.Gaps) == 0) || len(inv.ToolExecutionNotifications) != len(r.Gaps) {
			t.Errorf("%s: invocation %+v", name, inv)
		}
		for i, res := range run.Results {
			f := r.Findings[i]
			if (res.Kind == "fail") != (f.Status == scan.Fail) || (res.Kind != "fail" && res.Level != "none") || (res.Kind == "fail" && res.Level == "none") {
				t.Errorf("%s: %s is kind %q, level %q", name, f.Status, res.Kind, res.Level)
			}
			if run.Tool.Driver.Rules[res.RuleIndex].ID != res.RuleID || res.Message.Text == "" || res.PartialFingerprints["primaryLocationLineHash"] != f.ID+":1" {
				t.Errorf("%s: result %+v", name, res)
			}
			if (len(res.Suppressions) == 1) != (f.Suppressed != nil) || res.Suppressions == nil {
				t.Errorf("%s: suppressions %+v of %+v", name, res.Suppressions, f.Suppressed)
			}
			if want := map[bool]string{true: "unchanged", false: "new"}[f.Known]; r.Summary.Known > 0 && res.BaselineState != want {
				t.Errorf("%s: baselineState %q, want %q", name, res.BaselineState, want)
			}
			u, err := url.Parse(res.Locations[0].PhysicalLocation.ArtifactLocation.URI)
			if err != nil || u.IsAbs() || u.Host != "" || u.Path == "" || strings.HasPrefix(u.Path, "/") || u.RawQuery != "" || u.Fragment != "" || res.Locations[0].PhysicalLocation.Region.StartLine < 1 {
				t.Errorf("%s: location %+v: %v", name, res.Locations, err)
			}
			if slices.Contains(strings.Split(u.EscapedPath(), "/"), "..") {
				t.Errorf("%s: %s steps up", name, u)
			}
		}
	}
}

// records reads RFC 4180 and nothing else: CRLF ends a record, a quotation mark inside a quoted cell is doubled.
func records(t testing.TB, s string) [][]string {
	t.Helper()
	var all [][]string
	var rec []string
	for len(s) > 0 {
		var cell strings.Builder
		if s[0] == '"' {
			s = s[1:]
			for {
				i := strings.IndexByte(s, '"')
				if i < 0 {
					t.Fatal("a quoted cell without an end")
				}
				cell.WriteString(s[:i])
				s = s[i+1:]
				if !strings.HasPrefix(s, `"`) {
					break
				}
				cell.WriteByte('"')
				s = s[1:]
			}
		} else {
			i := strings.IndexAny(s, ",\r\n\"")
			if i < 0 || s[i] == '"' {
				t.Fatalf("a bare cell with a quotation mark or without an end: %.60q", s)
			}
			cell.WriteString(s[:i])
			s = s[i:]
		}
		rec = append(rec, cell.String())
		switch {
		case strings.HasPrefix(s, ","):
			s = s[1:]
		case strings.HasPrefix(s, "\r\n"):
			all, rec, s = append(all, rec), nil, s[2:]
		default:
			t.Fatalf("after a cell: %.20q", s)
		}
	}
	return all
}

func checkCSV(t testing.TB, r *scan.Report) [][]string {
	t.Helper()
	got := write(t, report.CSV, r, report.Options{})
	rows := records(t, got)
	std, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	if err != nil || len(std) != len(rows) || len(rows) != 1+len(r.Findings)+len(r.Gaps) {
		t.Fatalf("%d rows, encoding/csv %d, %d findings and %d gaps: %v", len(rows), len(std), len(r.Findings), len(r.Gaps), err)
	}
	for i, row := range rows {
		if !slices.Equal(row, std[i]) || len(row) != len(rows[0]) {
			t.Fatalf("row %d: %q and %q", i, row, std[i])
		}
		for _, c := range row {
			first, _ := utf8.DecodeRuneInString(strings.TrimLeft(c, " "))
			if strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) || strings.ContainsAny(c, "\r\n\x00\x1b") || !utf8.ValidString(c) {
				t.Errorf("cell %.40q would be run or breaks the line", c)
			}
		}
	}
	return rows
}

// Every value comes back as it was, but for controls, which are written out; formulas are disarmed.
func TestCSV(t *testing.T) {
	for name, r := range samples() {
		rows := checkCSV(t, r)
		col := slices.Index(rows[0], "name")
		for i, f := range r.Findings {
			if strings.ContainsAny(f.Name, "\t\r\n\x00\x1b\u202e\ufffe\ue000") || !utf8.ValidString(f.Name) || f.Name == "" {
				continue
			}
			if got := strings.TrimPrefix(rows[i+1][col], "'"); got != f.Name {
				t.Errorf("%s: %.60q came back as %.60q", name, f.Name, got)
			}
		}
	}
}

type junitSuites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Errors   int      `xml:"errors,attr"`
	Skipped  int      `xml:"skipped,attr"`
	Suites   []struct {
		Name      string `xml:"name,attr"`
		Tests     int    `xml:"tests,attr"`
		Failures  int    `xml:"failures,attr"`
		Errors    int    `xml:"errors,attr"`
		Skipped   int    `xml:"skipped,attr"`
		Timestamp string `xml:"timestamp,attr"`
		Cases     []struct {
			Name      string `xml:"name,attr"`
			Classname string `xml:"classname,attr"`
			Failure   []struct {
				Message string `xml:"message,attr"`
				Type    string `xml:"type,attr"`
			} `xml:"failure"`
			Error   []struct{} `xml:"error"`
			Skipped []struct {
				Message string `xml:"message,attr"`
			} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// children says which elements may stand in which, in the part of JUnit that GitHub's, GitLab's and Jenkins's readers share.
var children = map[string][]string{"": {"testsuites"}, "testsuites": {"testsuite"}, "testsuite": {"properties", "testcase"}, "properties": {"property"}, "property": {},
	"testcase": {"properties", "skipped", "error", "failure", "system-out"}, "skipped": {}, "error": {}, "failure": {}, "system-out": {}}

func checkJUnit(t testing.TB, r *scan.Report) {
	t.Helper()
	got := write(t, report.JUnit, r, report.Options{Version: "1"})
	d := xml.NewDecoder(strings.NewReader(got))
	stack := []string{""}
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if !slices.Contains(children[stack[len(stack)-1]], tok.Name.Local) {
				t.Fatalf("%s in %s", tok.Name.Local, stack[len(stack)-1])
			}
			stack = append(stack, tok.Name.Local)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		}
	}
	var s junitSuites
	if err := xml.Unmarshal([]byte(got), &s); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"tests": len(r.Findings) + max(1, len(r.Gaps)), "errors": len(r.Gaps)}
	for _, f := range r.Findings {
		switch {
		case f.Status == scan.Pass:
		case f.Status == scan.NotApplicable, !f.Counts():
			want["skipped"]++
		case f.Status == scan.Fail:
			want["failures"]++
		default:
			want["errors"]++
		}
	}
	all, names := [4]int{}, map[string]bool{}
	for _, suite := range s.Suites {
		n := [4]int{len(suite.Cases)}
		for _, c := range suite.Cases {
			n[1], n[2], n[3] = n[1]+len(c.Failure), n[2]+len(c.Error), n[3]+len(c.Skipped)
			names[c.Classname+"\x00"+c.Name] = true
			if len(c.Failure)+len(c.Error)+len(c.Skipped) > 1 || c.Classname == "" {
				t.Errorf("case %+v", c)
			}
		}
		if n != [4]int{suite.Tests, suite.Failures, suite.Errors, suite.Skipped} || suite.Name == "" || suite.Timestamp == "" {
			t.Errorf("suite %s says %d %d %d %d and holds %v", suite.Name, suite.Tests, suite.Failures, suite.Errors, suite.Skipped, n)
		}
		for i := range all {
			all[i] += n[i]
		}
	}
	if all != [4]int{want["tests"], want["failures"], want["errors"], want["skipped"]} || all != [4]int{s.Tests, s.Failures, s.Errors, s.Skipped} {
		t.Errorf("the suites hold %v, say %d %d %d %d, want %v", all, s.Tests, s.Failures, s.Errors, s.Skipped, want)
	}
}

func TestJUnit(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) { checkJUnit(t, r) })
	}
}

// checkTable: a terminal is sent printable text in lines that fit, and colours only when they were asked for.
func checkTable(t testing.TB, r *scan.Report) {
	t.Helper()
	for _, g := range report.Groups {
		for _, w := range []int{0, 40, 77, 200} {
			got := write(t, report.Table, r, report.Options{Width: w, GroupBy: g})
			for _, c := range got {
				if c < ' ' && c != '\n' || c >= 0x7f && c < 0xa0 || c == '\u202e' || c == utf8.RuneError {
					t.Fatalf("%U reaches the terminal", c)
				}
			}
			for line := range strings.Lines(got) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); w > 0 && n > w {
					t.Fatalf("by %s, width %d: %d cells in %q", g, w, n, line)
				}
			}
		}
	}
	plain, colour := write(t, report.Table, r, report.Options{Width: 90}), write(t, report.Table, r, report.Options{Width: 90, Color: true})
	for _, c := range []string{"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[1;31m", "\x1b[0m"} {
		colour = strings.ReplaceAll(colour, c, "")
	}
	if colour != plain {
		t.Error("with colours the table says something else")
	}
}

func TestTable(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) { checkTable(t, r) })
	}
	by := map[report.Group]int{}
	for _, g := range report.Groups {
		got := write(t, report.Table, fixture(), report.Options{GroupBy: g})
		by[g] = strings.Count(got, "\n\n")
		for _, f := range fixture().Findings {
			if !strings.Contains(got, f.Reason) {
				t.Errorf("by %s: %q is missing", g, f.Reason)
			}
		}
	}
	if by[report.ByRule] != 10 || by[report.ByResource] != 11 || by[report.BySubscription] != 3 {
		t.Errorf("groups %v", by)
	}
}

// checkMarkdown: outside of code nothing is left that Markdown or a code host obeys.
func checkMarkdown(t testing.TB, r *scan.Report) {
	t.Helper()
	got := write(t, report.Markdown, r, report.Options{})
	fence, details := "", 0
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if fence != "" {
			if line == fence {
				fence = ""
			}
			continue
		}
		if n := len(line) - len(strings.TrimLeft(line, "`")); n >= 3 && !strings.Contains(line[n:], "`") {
			fence = line[:n]
			continue
		}
		switch line {
		case "<details>":
			details++
			continue
		case "</details>":
			details--
			continue
		}
		line = strings.TrimSuffix(strings.TrimPrefix(line, "<summary>"), "</summary>")
		text, bars := prose(line)
		if strings.HasPrefix(line, "| ") && bars != 5 {
			t.Errorf("a row of %d bars: %.200q", bars, line)
		}
		for _, bad := range []string{"<", "@o", "@S", "@e", "#1", "://", "www.e", "](", "![", "GH-7"} {
			if strings.Contains(text, bad) {
				t.Errorf("%q in %.200q", bad, line)
			}
		}
	}
	if fence != "" || details != 0 {
		t.Errorf("a fence %q or %d details are left open", fence, details)
	}
}

// prose is a line without its code spans and escaped characters, and the number of bars that part cells.
func prose(line string) (string, int) {
	var b strings.Builder
	bars := 0
	for i := 0; i < len(line); {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			if b.WriteByte(' '); line[i+1] == '#' || line[i+1] == '@' {
				b.WriteByte(line[i+1]) // a mention is looked for after escapes are gone
			}
			i += 2
		case line[i] == '`':
			n := len(line[i:]) - len(strings.TrimLeft(line[i:], "`"))
			run, end := line[i:i+n], -1
			for j := i + n; j < len(line); {
				k := strings.IndexByte(line[j:], '`')
				if k < 0 {
					break
				}
				j += k
				m := len(line[j:]) - len(strings.TrimLeft(line[j:], "`"))
				if m == n {
					end = j
					break
				}
				j += m
			}
			if end < 0 {
				b.WriteString(run)
				i += n
				continue
			}
			for j := i; j < end; j++ {
				if line[j] == '|' && line[j-1] != '\\' {
					bars++
				}
			}
			i = end + n
		default:
			if line[i] == '|' {
				bars++
			}
			b.WriteByte(line[i])
			i++
		}
	}
	return b.String(), bars
}

func TestMarkdown(t *testing.T) {
	for name, r := range samples() {
		t.Run(name, func(t *testing.T) { checkMarkdown(t, r) })
	}
	if got := write(t, report.Markdown, many(140), report.Options{}); !strings.Contains(got, "40 more findings") || !strings.Contains(got, "125 more that count") {
		t.Error("what is not shown is not counted")
	}
}

// FuzzWrite puts hostile text everywhere and reads each format back.
func FuzzWrite(f *testing.F) {
	for _, h := range hostile {
		if len(h) < 1000 {
			f.Add(h)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 4000 {
			s = s[:4000]
		}
		r := poisoned(s)
		checkCSV(t, r)
		checkJUnit(t, r)
		checkPage(t, r)
		got := write(t, report.Table, r, report.Options{Width: 80})
		if strings.ContainsAny(got, "\x1b\r\x07\u202e") {
			t.Error("a control reaches the terminal")
		}
		for _, format := range []report.Format{report.JSON, report.SARIF} {
			if got := write(t, format, r, report.Options{}); !json.Valid([]byte(got)) {
				t.Errorf("%s is no JSON", format)
			}
		}
		for line := range bytes.Lines([]byte(write(t, report.OCSF, r, report.Options{}))) {
			if !json.Valid(line) {
				t.Errorf("a line is no JSON: %s", line)
			}
		}
		fence := strings.Count(write(t, report.Markdown, r, report.Options{}), "\n<details>\n")
		if fence == 0 {
			t.Error("Markdown without its sections")
		}
	})
}

package report

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

// The SARIF form is one run. SARIF 2.1.0 section numbers stand in brackets. GitHub reads a part of it: a result must have a location
// with a relative uri and a line; of a rule it shows the help, at most 20 tags, and security-severity.
const sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

type sarifText struct {
	Text     string `json:"text"`
	Markdown string `json:"markdown,omitempty"`
}

type sarifRule struct {
	ID               string         `json:"id"`
	Name             string         `json:"name"`
	ShortDescription sarifText      `json:"shortDescription"`
	FullDescription  sarifText      `json:"fullDescription"`
	Help             sarifText      `json:"help"`
	Configuration    sarifConfig    `json:"defaultConfiguration"`
	Properties       map[string]any `json:"properties"`
}

type sarifConfig struct {
	Level string  `json:"level"`
	Rank  float64 `json:"rank"`
}

type sarifDescriptor struct {
	ID               string    `json:"id"`
	ShortDescription sarifText `json:"shortDescription"`
}

type sarifComponent struct {
	Name             string            `json:"name"`
	Organization     string            `json:"organization,omitempty"`
	Version          string            `json:"version,omitempty"`
	ShortDescription *sarifText        `json:"shortDescription,omitempty"`
	Rules            []sarifRule       `json:"rules,omitempty"`
	Notifications    []sarifDescriptor `json:"notifications,omitempty"`
	Taxa             []sarifID         `json:"taxa,omitempty"`
	SupportedTaxa    []sarifTaxonomy   `json:"supportedTaxonomies,omitempty"`
}

type sarifTaxonomy struct {
	Name  string `json:"name"`
	Index int    `json:"index"`
}

type sarifID struct {
	ID string `json:"id"`
}

type sarifTaxon struct {
	ID        string        `json:"id"`
	Index     int           `json:"index"`
	Component sarifTaxonomy `json:"toolComponent"`
}

type sarifURI struct {
	URI string `json:"uri"`
}

type sarifRegion struct {
	StartLine int `json:"startLine"`
}

type sarifPhysical struct {
	Artifact sarifURI    `json:"artifactLocation"`
	Region   sarifRegion `json:"region"`
}

type sarifLogical struct {
	Name          string `json:"name,omitempty"`
	QualifiedName string `json:"fullyQualifiedName"`
	Kind          string `json:"kind"`
}

type sarifLocation struct {
	ID       *int           `json:"id,omitempty"`
	Physical sarifPhysical  `json:"physicalLocation"`
	Logical  []sarifLogical `json:"logicalLocations"`
	Message  *sarifText     `json:"message,omitempty"`
}

type sarifSuppression struct {
	Kind          string         `json:"kind"`
	Status        string         `json:"status"`
	Justification string         `json:"justification"`
	Properties    map[string]any `json:"properties"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Kind         string             `json:"kind"`
	Level        string             `json:"level"`
	Rank         float64            `json:"rank"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations"`
	Related      []sarifLocation    `json:"relatedLocations,omitempty"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Baseline     string             `json:"baselineState,omitempty"`
	Suppressions []sarifSuppression `json:"suppressions"`
	Taxa         []sarifTaxon       `json:"taxa,omitempty"`
	Properties   map[string]any     `json:"properties"`
}

type sarifNotification struct {
	Descriptor sarifID         `json:"descriptor"`
	Level      string          `json:"level"`
	Message    sarifText       `json:"message"`
	Locations  []sarifLocation `json:"locations,omitempty"`
	Properties map[string]any  `json:"properties,omitempty"`
}

type sarifInvocation struct {
	Successful    bool                `json:"executionSuccessful"`
	Start         string              `json:"startTimeUtc,omitempty"`
	Notifications []sarifNotification `json:"toolExecutionNotifications"`
}

// sarifLevel and sarifRank say how bad a severity is; the score is GitHub's security-severity, whose bands are those of CVSS.
func sarifLevel(s scan.Severity) (level string, rank float64, score string) {
	switch s {
	case scan.Critical:
		return "error", 95, "9.5"
	case scan.High:
		return "error", 80, "8.0"
	case scan.Medium:
		return "warning", 50, "5.5"
	}
	return "note", 20, "2.5"
}

// sarifKind is the kind of a result [3.27.9]: "open" is for what could not be decided for want of information.
func sarifKind(s scan.Status) string {
	switch s {
	case scan.Fail:
		return "fail"
	case scan.Pass:
		return "pass"
	case scan.NotApplicable:
		return "notApplicable"
	}
	return "open"
}

func writeSARIF(w *out, r *scan.Report, o Options) error {
	ids := ruleOrder(r)
	rules := make([]sarifRule, len(ids))
	ruleIndex := map[scan.RuleID]int{}
	for i, id := range ids {
		rules[i], ruleIndex[id] = sarifRuleOf(id), i
	}
	taxonomies, taxa := sarifTaxonomies(r)
	driver := sarifComponent{Name: "Curfew", Organization: "Curfew", Version: safe(o.Version), Rules: rules,
		Notifications: []sarifDescriptor{{"not-complete", sarifText{Text: "Something that was asked for could not be read, so that the scan is not complete."}}}}
	for i, t := range taxonomies {
		driver.SupportedTaxa = append(driver.SupportedTaxa, sarifTaxonomy{t.Name, i})
	}
	run := []field{
		{"tool", map[string]any{"driver": driver}},
		{"automationDetails", map[string]any{"id": automationID(r), "description": sarifText{Text: "curfew scan of " + scope(r)}}},
		{"invocations", []sarifInvocation{sarifInvocationOf(r)}},
		{"columnKind", "unicodeCodePoints"},
		{"properties", map[string]any{"summary": r.Summary, "source": r.Source, "judged_at": r.At.UTC().Format(time.RFC3339Nano), "headline": headline(r)}},
	}
	if len(taxonomies) > 0 {
		run = append(run, field{"taxonomies", taxonomies})
	}
	w.put("{\n  \"$schema\": \"", sarifSchema, "\",\n  \"version\": \"2.1.0\",\n  \"runs\": [\n    {")
	for _, f := range run {
		b, err := encode(f.value, "      ", "  ")
		if err != nil {
			return err
		}
		w.put("\n      \"", f.name, "\": ", string(b), ",")
	}
	w.put("\n      \"results\": ")
	baseline := r.Summary.Known > 0 || slices.ContainsFunc(r.Findings, func(f scan.Finding) bool { return f.Known })
	err := each(w, len(r.Findings), "        ", "  ", func(i int) any { return sarifResultOf(o.full(&r.Findings[i]), ruleIndex, taxa, baseline) })
	if err != nil {
		return err
	}
	w.put("\n    }\n  ]\n}\n")
	return w.err()
}

type field struct {
	name  string
	value any
}

// ruleOrder is every rule, and after them those that only the report knows, in the order of its findings.
func ruleOrder(r *scan.Report) []scan.RuleID {
	ids := slices.Clone(ruleIDs)
	seen := map[scan.RuleID]bool{}
	for _, id := range ids {
		seen[id] = true
	}
	for i := range r.Findings {
		if id := r.Findings[i].Rule; !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

func sarifRuleOf(id scan.RuleID) sarifRule {
	r, ok := scan.RuleOf(id)
	if !ok {
		r = scan.Rule{ID: id, Severity: scan.Medium, Title: title(id), Fails: "the rule is not described", Risk: "Not described."}
	}
	level, rank, score := sarifLevel(r.Severity)
	fails := "Fails when " + r.Fails + "."
	fix := "curfew fix does not change this; the finding says what to change."
	if r.Fixable {
		fix = "`curfew fix` shows the change as a plan, and makes it when confirmed."
	}
	return sarifRule{
		ID: safe(string(r.ID)), Name: pascal(safe(string(r.ID))), ShortDescription: sarifText{Text: r.Title},
		FullDescription: sarifText{Text: fails + " " + r.Risk},
		Help: sarifText{
			Text:     r.Title + "\n\n" + fails + "\n\n" + r.Risk + "\n\n" + strings.ReplaceAll(fix, "`", ""),
			Markdown: "## " + mdText(r.Title) + "\n\n" + mdText(fails) + "\n\n**Why it matters.** " + mdText(r.Risk) + "\n\n" + fix,
		},
		Configuration: sarifConfig{level, rank},
		Properties:    map[string]any{"tags": []string{"security", "azure", "network"}, "precision": "very-high", "problem.severity": problem(level), "security-severity": score},
	}
}

// problem is GitHub's word for a level.
func problem(level string) string {
	if level == "note" {
		return "recommendation"
	}
	return level
}

// pascal is vm-jit-missing as VmJitMissing: a rule's name is an identifier that people understand [3.49.7].
func pascal(id string) string {
	var b strings.Builder
	for _, p := range strings.FieldsFunc(id, func(r rune) bool { return r == '-' || r == ' ' }) {
		b.WriteString(capital(p))
	}
	return b.String()
}

// automationID names what was scanned, so that runs over the same are compared with each other and not with others [3.17.3].
func automationID(r *scan.Report) string {
	scopes := append(slices.Clone(r.Source.ManagementGroups), r.Source.Subscriptions...)
	slices.Sort(scopes)
	id := "curfew-scan/" + segment(r.Source.Kind)
	if r.Source.Kind == "file" {
		id += "/" + segment(r.Source.File)
	} else if len(scopes) == 1 {
		id += "/" + segment(scopes[0])
	} else if len(scopes) > 1 {
		id += "/" + segment(scopes[0]) + "+" + strconv.Itoa(len(scopes)-1)
	}
	return id + "/" + segment(r.ID)
}

func segment(s string) string { return url.PathEscape(safe(s)) }

func sarifInvocationOf(r *scan.Report) sarifInvocation {
	inv := sarifInvocation{Successful: complete(r), Notifications: []sarifNotification{}}
	if !complete(r) {
		for _, g := range gaps(r) {
			n := sarifNotification{Descriptor: sarifID{"not-complete"}, Level: "error", Message: sarifText{Text: "NOT complete: " + gapText(g) + "."},
				Properties: map[string]any{"gap": g}}
			if id := g.Resource; id != "" {
				n.Locations = []sarifLocation{sarifPlace(id, "", "resource")}
			} else if g.Subscription != "" {
				n.Locations = []sarifLocation{sarifPlace("/subscriptions/"+g.Subscription, "", "subscription")}
			}
			inv.Notifications = append(inv.Notifications, n)
		}
	}
	return inv
}

func sarifTaxonomies(r *scan.Report) ([]sarifComponent, map[scan.Control]sarifTaxon) {
	var all []sarifComponent
	taxa, index := map[scan.Control]sarifTaxon{}, map[string]int{}
	for i := range r.Findings {
		for _, c := range r.Findings[i].Compliance {
			key := scan.Control{Framework: c.Framework, Control: c.Control}
			if _, ok := taxa[key]; ok {
				continue
			}
			n, ok := index[c.Framework]
			if !ok {
				n = len(all)
				index[c.Framework] = n
				all = append(all, sarifComponent{Name: safe(c.Framework)})
			}
			taxa[key] = sarifTaxon{safe(c.Control), len(all[n].Taxa), sarifTaxonomy{safe(c.Framework), n}}
			all[n].Taxa = append(all[n].Taxa, sarifID{safe(c.Control)})
		}
	}
	return all, taxa
}

// artifactURI is a resource id as a relative uri: GitHub takes locations as files of a repository.
func artifactURI(id string) string {
	parts := strings.Split(strings.Trim(safe(id), "/"), "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
		if strings.Trim(p, ".") == "" && p != "" {
			parts[i] = strings.Repeat("%2E", len(p)) // not a step up
		}
	}
	if u := strings.Join(parts, "/"); u != "" {
		return strings.ReplaceAll(u, ":", "%3A") // a colon in the first part would begin a scheme
	}
	return "azure"
}

func sarifPlace(id, name, kind string) sarifLocation {
	return sarifLocation{Physical: sarifPhysical{sarifURI{artifactURI(id)}, sarifRegion{1}},
		Logical: []sarifLogical{{Name: safe(name), QualifiedName: safe(id), Kind: kind}}}
}

func sarifResultOf(f *scan.Finding, rules map[scan.RuleID]int, taxa map[scan.Control]sarifTaxon, baseline bool) sarifResult {
	level, rank, score := sarifLevel(f.Severity)
	if f.Status != scan.Fail {
		level = "none" // [3.27.10]
	}
	text := name(f) + ": " + safe(f.Reason)
	md := mdCode(name(f)) + ": " + mdText(f.Reason)
	if lines := pathLines(f); len(lines) > 0 {
		text += "\n" + strings.Join(lines, "\n")
		md += "\n\n" + mdFence("text", strings.Join(lines, "\n"))
	}
	if m := f.Remediation; m != nil {
		text += "\nFix: " + safe(m.Summary)
		md += "\n\n**Fix.** " + mdText(m.Summary)
		for _, x := range remedies(m) {
			md += "\n\n" + x.Word + "\n\n" + mdFence(x.Lang, x.Text)
		}
	}
	res := sarifResult{RuleID: safe(string(f.Rule)), RuleIndex: rules[f.Rule], Kind: sarifKind(f.Status), Level: level, Rank: rank,
		Message: sarifText{text, md}, Locations: []sarifLocation{sarifPlace(f.Resource, name(f), "resource")},
		Fingerprints: map[string]string{"curfewFinding/v1": f.ID, "primaryLocationLineHash": f.ID + ":1"},
		Suppressions: []sarifSuppression{}, Properties: map[string]any{"status": f.Status, "severity": f.Severity, "security-severity": score}}
	if baseline {
		res.Baseline = "new"
		if f.Known {
			res.Baseline = "unchanged"
		}
	}
	if s := f.Suppressed; s != nil {
		res.Suppressions = append(res.Suppressions, sarifSuppression{"external", "accepted", safe(s.Reason),
			map[string]any{"owner": safe(s.Owner), "until": s.Until.UTC().Format(time.RFC3339)}})
	}
	seen := map[sarifTaxon]bool{}
	for _, c := range f.Compliance {
		if t := taxa[scan.Control{Framework: c.Framework, Control: c.Control}]; !seen[t] {
			seen[t] = true
			res.Taxa = append(res.Taxa, t)
		}
	}
	res.Related = sarifRelated(f)
	if f.Exposure != "" {
		res.Properties["exposure"] = f.Exposure
	}
	if len(f.Evidence.Ports)+len(f.Evidence.Rules)+len(f.Evidence.Facts) > 0 {
		res.Properties["evidence"] = f.Evidence
	}
	if len(f.Tags) > 0 {
		res.Properties["azureTags"] = f.Tags
	}
	return res
}

// sarifRelated are the places that decide: the group of each way's deciding hop, and the rules that the finding is about.
func sarifRelated(f *scan.Finding) []sarifLocation {
	var all []sarifLocation
	put := func(id, rule, message string) {
		if id == "" {
			return
		}
		l := sarifPlace(id, rule, "resource")
		n := len(all)
		l.ID, l.Message = &n, &sarifText{Text: message}
		all = append(all, l)
	}
	for _, p := range f.Evidence.Ports {
		for _, w := range p.Ways {
			if w.Decider >= 0 && w.Decider < len(w.Hops) {
				h := w.Hops[w.Decider]
				put(h.Group, h.Rule, "decides for port "+portWord(p)+": "+layerWord(h.Layer)+" "+accessWord(h.Access))
			}
		}
	}
	for _, e := range f.Evidence.Rules {
		put(e.NSG, e.Rule, "rule "+safe(e.Rule)+", priority "+strconv.Itoa(e.Priority)+": "+ruleWord(e))
	}
	return all
}

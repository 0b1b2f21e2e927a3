package report

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

//go:embed page.tmpl
var pageTemplate string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

// chartRows is how many bars a chart holds; the others are told in one.
const chartRows = 8

// The page holds everything it shows. Its own policy allows nothing but the sheet and the script of this package, by their hashes.
type page struct {
	CSS         template.CSS
	JS          template.JS
	CSSHash     string
	JSHash      string
	Version     string
	Headline    string
	Scope       string
	Nothing     string // what is said where no finding is listed
	Tally       string
	At, AtISO   string
	ID          string
	Complete    bool
	GapsIn      string
	Gaps        []string
	Figures     []figure
	Charts      []chart
	Rules       []choice
	Subs        []choice
	Severities  []choice
	Statuses    []choice
	Findings    int
	Shown, More int
	List        iter.Seq[view]
	Table       []ruleRow
	All         bool // findings of every status are listed
}

type figure struct {
	N     int
	Word  string
	Class string
}

type chart struct {
	ID, Title, Sub, Text string
	Height               int
	Bars                 []bar
}

type bar struct {
	Label, Full, Count     string
	TextY, BarY            int
	Width, Second, SecondX string // in percent; "" for none
	Class                  string
}

type choice struct{ Value, Word string }

type ruleRow struct {
	ID, Title, Severity, Fails      string
	Fail, Unknown, Pass, Applicable int
}

// view is one finding as the template shows it.
type view struct {
	ID, Rule, Title, Status, StatusWord, Severity, Verdict string
	Bars                                                   []sevBar
	Name, Type, Subscription, Group, Location, Resource    string
	Reason, Fails, Risk, Exposure, Aside, AsideWhy         string
	Ports                                                  []portView
	Evidence                                               []ruleView
	Facts                                                  []scan.Fact
	Tags                                                   []string
	Summary                                                string
	Remedies                                               []remedy
	Controls                                               []string
	Counts                                                 bool
}

type sevBar struct {
	X   string
	Y   int
	H   int
	Off bool
}

type portView struct {
	Port, Exposure, Protected, Mark string
	Ways                            []wayView
	Open                            []string
}

type wayView struct {
	Mark, Head, Via, End, Access, Sources, Why string
	Steps                                      []step
}

type ruleView struct{ Mark, Rule, NSG, Full, Priority, What string }

var parsed = sync.OnceValues(func() (*template.Template, error) { return template.New("page").Parse(pageTemplate) })

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// writeHTML writes one page that works from a file, without network and without script; the script only filters and copies. Findings
// are made into views one by one while the template writes them.
func writeHTML(w *out, r *scan.Report, o Options) error {
	t, err := parsed()
	if err != nil {
		return err
	}
	all := worstFirst(r)
	shown := all[:min(o.limit(HTMLLimit), len(all))]
	p := page{CSS: template.CSS(pageCSS), JS: template.JS(pageJS), CSSHash: hash(pageCSS), JSHash: hash(pageJS), Version: safe(o.Version),
		Headline: headline(r), Scope: scope(r), Nothing: nothing(r), Tally: tally(r), At: instant(r.At), AtISO: r.At.UTC().Format(time.RFC3339), ID: safe(r.ID),
		Complete: complete(r), GapsIn: capital(gapsIn(r)), Findings: len(all), Shown: len(shown), More: len(all) - len(shown)}
	if !p.Complete {
		for _, g := range gaps(r) {
			p.Gaps = append(p.Gaps, gapText(g))
		}
	}
	p.Figures = figures(r)
	p.Charts = []chart{severityChart(r), ruleChart(r), subscriptionChart(all)}
	p.choices(shown)
	p.rules(r)
	p.List = func(yield func(view) bool) {
		for _, f := range shown {
			if !yield(viewOf(o.full(f))) {
				return
			}
		}
	}
	return t.Execute(w, p)
}

func figures(r *scan.Report) []figure {
	s := r.Summary
	all := []figure{{s.Exposed, "open to the Internet", "exposed"}, {s.Statuses[scan.Fail], "fail", ""}, {s.Statuses[scan.Unknown], "unknown", ""},
		{s.Statuses[scan.Pass], "pass", ""}, {s.Statuses[scan.NotApplicable], "not applicable", ""}}
	if s.Exposed == 0 {
		all[0].Class = ""
	}
	if s.Suppressed > 0 {
		all = append(all, figure{s.Suppressed, "suppressed", ""})
	}
	if s.Known > 0 {
		all = append(all, figure{s.Known, "in the baseline", ""})
	}
	return all
}

// amount is one bar before it is drawn: what fails, and what is not known.
type amount struct {
	label, full, class string
	fail, unknown      int
}

// draw makes bars of amounts. Where there are more than the chart holds, the last bar is all the others together.
func draw(id, title, sub, one string, rows []amount) chart {
	if len(rows) > chartRows {
		rest := amount{label: count(len(rows)-chartRows+1, "other"), class: "s-low"}
		for _, a := range rows[chartRows-1:] {
			rest.fail, rest.unknown = rest.fail+a.fail, rest.unknown+a.unknown
		}
		rows = append(slices.Clone(rows[:chartRows-1]), rest)
	}
	c := chart{ID: id, Title: title, Sub: sub, Height: 36*len(rows) + 4}
	most := 1
	for _, a := range rows {
		most = max(most, a.fail+a.unknown)
	}
	var text []string
	for i, a := range rows {
		b := bar{Label: fitName(a.label, 28), Full: a.full, Count: strconv.Itoa(a.fail), TextY: 36*i + 14, BarY: 36*i + 21, Class: a.class}
		if a.unknown > 0 {
			b.Count += " + " + strconv.Itoa(a.unknown) + " unknown"
			b.Second, b.SecondX = percent(a.unknown, most), percent(a.fail, most)
		}
		if a.fail > 0 {
			b.Width = percent(a.fail, most)
		}
		c.Bars = append(c.Bars, b)
		text = append(text, a.label+" "+b.Count)
	}
	c.Text = title + ": " + strings.Join(text, ", ")
	if len(rows) == 0 {
		c.Text = title + ": no " + one
	}
	return c
}

func percent(n, of int) string {
	return strconv.FormatFloat(float64(n)*100/float64(of), 'f', 2, 64) + "%"
}

func severityChart(r *scan.Report) chart {
	rows := make([]amount, len(scan.Severities))
	for i, s := range scan.Severities {
		rows[i] = amount{label: capital(string(s)), class: "s-" + string(s), fail: r.Summary.Severities[s]}
	}
	return draw("c-sev", "By severity", "failing, and counted", "severity", rows)
}

func ruleChart(r *scan.Report) chart {
	var rows []amount
	for id, n := range r.Summary.Rules {
		if n[scan.Fail]+n[scan.Unknown] > 0 {
			rule, _ := scan.RuleOf(id)
			rows = append(rows, amount{safe(string(id)), title(id), "s-" + string(rule.Severity), n[scan.Fail], n[scan.Unknown]})
		}
	}
	return draw("c-rule", "By rule", "failing, and what could not be read", "rule fails", mostFirst(rows))
}

func subscriptionChart(all []*scan.Finding) chart {
	index := map[string]int{}
	var rows []amount
	for _, f := range all {
		if !f.Counts() || f.Status != scan.Fail && f.Status != scan.Unknown {
			continue
		}
		key := strings.ToLower(f.Subscription)
		i, ok := index[key]
		if !ok {
			i = len(rows)
			index[key] = i
			rows = append(rows, amount{label: safe(f.Subscription), full: safe(f.Subscription), class: "s-high"})
			if f.Subscription == "" {
				rows[i].label = "no subscription"
			}
		}
		if f.Status == scan.Fail {
			rows[i].fail++
		} else {
			rows[i].unknown++
		}
	}
	return draw("c-sub", "By subscription", "failing, and what could not be read", "subscription", mostFirst(rows))
}

func mostFirst(rows []amount) []amount {
	slices.SortFunc(rows, func(a, b amount) int {
		return cmp.Or(b.fail-a.fail, b.unknown-a.unknown, cmp.Compare(a.label, b.label))
	})
	return rows
}

// choices are what the filters offer: what there is among the findings that are shown.
func (p *page) choices(shown []*scan.Finding) {
	rules, subs, sevs, stats := map[string]bool{}, map[string]bool{}, map[scan.Severity]bool{}, map[scan.Status]bool{}
	for _, f := range shown {
		rules[safe(string(f.Rule))], subs[safe(f.Subscription)], sevs[f.Severity], stats[f.Status] = true, true, true, true
	}
	for id := range rules {
		p.Rules = append(p.Rules, choice{id, id})
	}
	for s := range subs {
		p.Subs = append(p.Subs, choice{s, s})
	}
	byValue := func(a, b choice) int { return cmp.Compare(a.Value, b.Value) }
	slices.SortFunc(p.Rules, byValue)
	slices.SortFunc(p.Subs, byValue)
	for _, s := range scan.Severities {
		if sevs[s] {
			p.Severities = append(p.Severities, choice{string(s), capital(string(s))})
		}
	}
	for _, s := range scan.Statuses {
		if stats[s] {
			p.Statuses = append(p.Statuses, choice{string(s), capital(statusWord(s))})
		}
	}
	p.All = stats[scan.Pass] || stats[scan.NotApplicable]
}

func (p *page) rules(r *scan.Report) {
	for _, id := range ruleOrder(r) {
		rule, _ := scan.RuleOf(id)
		n := r.Summary.Rules[id]
		p.Table = append(p.Table, ruleRow{safe(string(id)), title(id), capital(string(rule.Severity)), capital(rule.Fails), n[scan.Fail], n[scan.Unknown], n[scan.Pass], n[scan.NotApplicable]})
	}
}

func viewOf(f *scan.Finding) view {
	rule, _ := scan.RuleOf(f.Rule)
	v := view{ID: safe(f.ID), Rule: safe(string(f.Rule)), Title: title(f.Rule), Status: safe(string(f.Status)), StatusWord: capital(statusWord(f.Status)),
		Severity: safe(string(f.Severity)), Name: name(f), Type: typeWord(f.Type), Subscription: safe(f.Subscription), Group: safe(f.Group),
		Location: safe(f.Location), Resource: safe(f.Resource), Reason: safe(f.Reason), Fails: rule.Fails, Risk: rule.Risk, Aside: capital(aside(f)),
		Tags: sortedTags(f.Tags), Remedies: remedies(f.Remediation), Counts: f.Counts()}
	v.Verdict = capital(verdict(f))
	if f.Status == scan.Fail {
		v.Bars = sevBars(f.Severity)
	}
	if f.Exposure != "" {
		v.Exposure = capital(exposureWord(f.Exposure))
	}
	if f.Suppressed != nil {
		v.AsideWhy = safe(f.Suppressed.Reason)
	}
	if f.Remediation != nil {
		v.Summary = safe(f.Remediation.Summary)
	}
	for _, c := range f.Compliance {
		v.Controls = append(v.Controls, safe(c.Framework)+" "+safe(c.Control))
	}
	for _, x := range f.Evidence.Facts {
		v.Facts = append(v.Facts, scan.Fact{Name: safe(x.Name), Value: safe(x.Value)})
	}
	for _, e := range f.Evidence.Rules {
		v.Evidence = append(v.Evidence, ruleView{accessMark(e.Access), safe(e.Rule), short(e.NSG, f.Group), safe(e.NSG), strconv.Itoa(e.Priority), ruleWord(e)})
	}
	for _, p := range f.Evidence.Ports {
		pv := portView{Port: portWord(p), Exposure: exposureWord(p.Exposure), Protected: protectedWord(p, f.Group), Mark: exposureMark(p.Exposure)}
		for _, w := range p.Ways {
			wv := wayView{Mark: accessMark(w.Access), End: wayEnd(w, f.Group), Access: accessWord(w.Access) + " " + zoneWord(w.Zone), Sources: sources(w), Why: safe(w.Why),
				Steps: hopSteps(w, f.Group)}
			wv.Head, wv.Via = wayHead(w, f.Group)
			pv.Ways = append(pv.Ways, wv)
		}
		for _, h := range p.Open {
			pv.Open = append(pv.Open, capital(holdWord(h)))
		}
		v.Ports = append(v.Ports, pv)
	}
	return v
}

func exposureMark(e scan.Exposure) string {
	switch e {
	case scan.ExposedInternet, scan.ExposedSome:
		return "exposed"
	case scan.ExposedNothing, scan.ExposedVirtualNetwork:
		return "closed"
	}
	return "unknown"
}

// sevBars is severity as a signal of one to four bars.
func sevBars(s scan.Severity) []sevBar {
	on := len(scan.Severities) - place(scan.Severities, s)
	bars := make([]sevBar, 4)
	for i, x := range []string{"0", "4.7", "9.4", "14.1"} {
		bars[i] = sevBar{x, 10 - 3*i, 4 + 3*i, i >= on}
	}
	return bars
}

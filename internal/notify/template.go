package notify

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Template is what a configuration says of the words of some kinds of event. Both are text/template over View.
type Template struct {
	Kinds       []Kind // none: every kind
	Title, Body string // empty: the built-in one
}

// badge stands behind what is told of an access that was opened before anybody agreed.
const badge = "{{if .BreakGlass}} (break-glass){{end}}"

// titles are the built-in titles. The body is the event's message.
var titles = map[Kind]string{
	RequestCreated:   "{{.Who}} asks for {{.What}}",
	RequestReviewed:  "{{.Actor}} agrees to {{.ID}} of {{.Who}}; {{.Missing}} more must",
	RequestNarrowed:  "{{.Actor}} agrees to {{.ID}} of {{.Who}} for less; {{.Missing}} more must",
	RequestCommented: "{{.Actor}} says something about {{.ID}} of {{.Who}}" + badge,
	RequestReminder:  "{{.ID}} of {{.Who}} still waits for an answer: {{.What}}",
	RequestEscalated: "{{.ID}} of {{.Who}} waits for you now: {{.What}}",
	RequestApproved:  "{{.ID}} of {{.Who}} is {{or .Decided .State}}: {{.What}}",
	RequestDenied:    "{{.ID}} of {{.Who}} is {{or .Decided .State}}: {{.What}}",
	RequestCancelled: "{{.Who}} takes {{.ID}} back: {{.What}}",
	RequestExpired:   "Nobody answered {{.ID}} of {{.Who}}: {{.What}}",
	GrantReady:       "{{.What}} is open for {{.Who}}" + badge,
	GrantFailed:      "{{.What}} was not opened for {{.Who}}" + badge,
	GrantEnding:      "{{.What}} is shut soon for {{.Who}}: {{.End}}" + badge,
	GrantOver:        "{{.What}} is shut for {{.Who}}" + badge,
	GrantRevoked:     "{{.What}} was revoked from {{.Who}}" + badge,
	GrantOverdue:     "{{.What}} should be shut for {{.Who}}, and is not seen to be" + badge,
	BreakGlass:       "{{.Who}} broke the glass: {{.What}}",
	BreakGlassOpen:   "Nobody has looked back at {{.ID}} yet: {{.Who}} broke the glass",
	BreakGlassSeen:   "{{.Actor}} looked back at {{.ID}} of {{.Who}}" + badge,
	ScanChanged:      "A scan found something new",
	SystemHold:       "Nothing opens until an admin has looked",
	Test:             "This channel works",
}

const builtInBody = "{{.Message}}"

// bodies are the built-in bodies that say more: what to do next.
var bodies = map[Kind]string{
	GrantEnding: builtInBody + "; for more time: curfew grant extend {{.Grant}} --for 30m; if you are done: curfew grant close {{.Grant}}",
}

// functions are what templates can use beside text/template's own. None of them reads or writes anything.
var functions = template.FuncMap{
	"upper": strings.ToUpper,
	"lower": strings.ToLower,
	"clip":  func(n int, s string) string { return plain(s, min(max(n, 0), texts)) },
}

// Words are the templates of one channel, checked.
type Words struct {
	links  string
	escape func(string) string
	title  map[Kind]*template.Template
	body   map[Kind]*template.Template
}

// NewWords reads templates. Links is the URL of the portal, or "". Every template is tried with every kind, with all that an event
// can hold and with nothing: one that fails then is refused.
func NewWords(links string, own []Template) (*Words, error) {
	w := &Words{links: links, escape: func(s string) string { return s }, title: map[Kind]*template.Template{}, body: map[Kind]*template.Template{}}
	kinds := append(slices.Clone(Kinds), Test)
	for _, k := range kinds {
		w.title[k] = template.Must(parse(titles[k]))
		body, ok := bodies[k]
		if !ok {
			body = builtInBody
		}
		w.body[k] = template.Must(parse(body))
	}
	var errs []error
	for i, t := range own {
		if t.Title == "" && t.Body == "" {
			errs = append(errs, fmt.Errorf("template %d has neither title nor body", i+1))
		}
		for part, text := range map[string]string{"title": t.Title, "body": t.Body} {
			if text == "" {
				continue
			}
			p, err := parse(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("the %s of template %d: %w", part, i+1, err))
				continue
			}
			for _, k := range kinds {
				if len(t.Kinds) > 0 && !slices.Contains(t.Kinds, k) {
					continue
				}
				if part == "title" {
					w.title[k] = p
				} else {
					w.body[k] = p
				}
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, k := range kinds {
		for _, e := range samples(k) {
			v := viewOf(e, links, w.escape)
			for part, t := range map[string]*template.Template{"title": w.title[k], "body": w.body[k]} {
				if _, err := execute(t, v); err != nil {
					errs = append(errs, fmt.Errorf("the %s for %s: %w", part, k, err))
				}
			}
		}
	}
	return w, errors.Join(errs...)
}

// escaping returns the same words with another way of writing values down.
func (w *Words) escaping(escape func(string) string) *Words {
	c := *w
	c.escape = escape
	return &c
}

func parse(text string) (*template.Template, error) {
	return template.New("").Option("missingkey=error").Funcs(functions).Parse(text)
}

// longestText bounds what a template writes.
const longestText = 8 << 10

// execute runs a template; what it writes past the bound is an error, so that a loop has an end.
func execute(t *template.Template, v View) (string, error) {
	var b bytes.Buffer
	if err := t.Execute(&bounded{&b}, v); err != nil {
		return "", err
	}
	return b.String(), nil
}

type bounded struct{ b *bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	if w.b.Len()+len(p) > longestText {
		return 0, fmt.Errorf("it writes more than %d bytes", longestText)
	}
	return w.b.Write(p)
}

// Write returns title and body of an event. A template that fails for it all the same gives way to the built-in one: people are
// told in any case.
func (w *Words) Write(e Event) (title, body string, v View) {
	v = viewOf(e, w.links, w.escape)
	run := func(t *template.Template, built string) string {
		if t != nil {
			if s, err := execute(t, v); err == nil && strings.TrimSpace(s) != "" {
				return s
			}
		}
		if s, err := execute(template.Must(parse(built)), v); err == nil {
			return s
		}
		return v.Message
	}
	built := titles[e.Kind]
	if built == "" {
		built = "{{.Kind}}"
	}
	return strings.TrimSpace(strings.ReplaceAll(run(w.title[e.Kind], built), "\n", " ")), strings.TrimSpace(run(w.body[e.Kind], builtInBody)), v
}

// samples are events of a kind: one with all that there can be, and one with nothing.
func samples(k Kind) []Event {
	at := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	target := access.Target{VM: access.VM{ID: "/subscriptions/x", Name: "web-01"}, Ports: access.Port(22), Protocol: access.TCP}
	source := netip.MustParsePrefix("203.0.113.9/32")
	terms := access.Terms{Targets: []access.Target{target}, Source: source, Duration: time.Hour}
	r := access.Request{ID: "r-0123456789", Requester: "alice", Asked: terms, Terms: terms, Reason: "INC-4711", Ticket: "INC-4711", State: access.Pending, CreatedAt: at,
		ExpiresAt: at.Add(time.Hour), StartAt: at.Add(time.Minute), Needs: []access.Need{{Rule: "all", Steps: []access.Step{{Count: 2}}}},
		Reviews:  []access.Review{{Reviewer: "bob", Decision: access.Approve, Comment: "fine", Narrowed: &terms, At: at}},
		Comments: []access.Comment{{By: "bob", At: at, Text: "why"}}}
	g := access.Grant{ID: "g-0123456789", Request: r.ID, Requester: "alice", Target: target, Source: source, Duration: time.Hour, State: access.Active, StartsAt: at, EndsAt: at.Add(time.Hour)}
	full := Event{Kind: k, At: at, Installation: "acme", Actor: "bob", Message: "bob does something", Request: &r, Grant: &g}
	return []Event{full, {Kind: k, At: at, Installation: "acme", Actor: "curfew", Message: "something happened"}}
}

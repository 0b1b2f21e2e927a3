package triage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

// BaselineVersion is the version of the format that is written. Older ones are read, newer ones refused.
const BaselineVersion = 1

// MaxBaseline bounds a baseline file in bytes; one of 300,000 findings is a third of it.
const MaxBaseline = 256 << 20

const baselineHint = "restore the file, or write it anew with --update-baseline after reading what is then known"

// Baseline is what was known to fail when somebody drew the line. What could not be evaluated, and what is suppressed, is not in it:
// the former may be worse than it looks, the latter has an end after which it must come back.
type Baseline struct {
	Made    time.Time // when it was written last
	Entries []Entry   // sorted by resource and rule, each pair once
}

// Entry is one failure as it was known.
type Entry struct {
	Rule     scan.RuleID   `json:"rule"`
	Resource string        `json:"resource"`
	Severity scan.Severity `json:"severity"`
	Exposure scan.Exposure `json:"exposure,omitempty"`
	Ports    []EntryPort   `json:"ports,omitempty"`
	Rules    []string      `json:"rules,omitempty"` // of security groups: NSG id, a slash, the rule's name
}

// EntryPort is what was known of one port.
type EntryPort struct {
	Port      uint16        `json:"port"`
	Protocol  string        `json:"protocol"`
	Exposure  scan.Exposure `json:"exposure,omitempty"`
	Protected bool          `json:"protected,omitempty"`
}

type key struct {
	rule     scan.RuleID
	resource string // lower case
}

func keyOf(rule scan.RuleID, resource string) key { return key{rule, strings.ToLower(resource)} }

// entryOf returns what a baseline keeps of a failure.
func entryOf(f scan.Finding) Entry {
	e := Entry{Rule: f.Rule, Resource: f.Resource, Severity: f.Severity, Exposure: f.Exposure}
	for _, p := range f.Evidence.Ports {
		e.Ports = append(e.Ports, EntryPort{p.Port, strings.ToLower(p.Protocol), p.Exposure, p.ProtectedBy != ""})
	}
	for _, r := range f.Evidence.Rules {
		e.Rules = append(e.Rules, r.NSG+"/"+r.Rule)
	}
	slices.SortFunc(e.Ports, comparePorts)
	e.Ports = slices.Compact(e.Ports)
	slices.Sort(e.Rules)
	e.Rules = slices.Compact(e.Rules)
	return e
}

func comparePorts(a, b EntryPort) int {
	if a.Port != b.Port {
		return int(a.Port) - int(b.Port)
	}
	if c := strings.Compare(a.Protocol, b.Protocol); c != 0 {
		return c
	}
	return strings.Compare(string(a.Exposure), string(b.Exposure))
}

// exposures from the most harmless to the worst. One that nobody knows, and one that could not be told, may be the worst.
func exposureRank(e scan.Exposure) int {
	switch e {
	case "", scan.ExposedNothing:
		return 0
	case scan.ExposedVirtualNetwork:
		return 1
	case scan.ExposedSome:
		return 2
	case scan.ExposedInternet:
		return 3
	}
	return 4
}

// Covers tells whether a failure is no worse than what is known: no higher severity, no wider exposure, no other port, no port less
// protected, no other rule of a security group. It says what is new where it is not so.
func (e Entry) Covers(f scan.Finding) (bool, string) {
	now := entryOf(f)
	if Worse(now.Severity, e.Severity) {
		return false, fmt.Sprintf("it was %s and is %s", e.Severity, now.Severity)
	}
	if exposureRank(now.Exposure) > exposureRank(e.Exposure) {
		return false, fmt.Sprintf("its exposure was %s and is %s", orNone(e.Exposure), orNone(now.Exposure))
	}
	for _, p := range now.Ports {
		known := slices.ContainsFunc(e.Ports, func(q EntryPort) bool {
			return p.Port == q.Port && p.Protocol == strings.ToLower(q.Protocol) && exposureRank(p.Exposure) <= exposureRank(q.Exposure) && (p.Protected || !q.Protected)
		})
		if !known && (exposureRank(p.Exposure) > 0 || !p.Protected) {
			return false, fmt.Sprintf("port %d/%s was not known to stand as it does now (%s)", p.Port, p.Protocol, orNone(p.Exposure))
		}
	}
	for _, r := range now.Rules {
		if !slices.ContainsFunc(e.Rules, func(k string) bool { return strings.EqualFold(k, r) }) {
			return false, fmt.Sprintf("the rule %s was not known", r)
		}
	}
	return true, ""
}

func orNone(e scan.Exposure) scan.Exposure {
	if e == "" {
		return scan.ExposedNothing
	}
	return e
}

// Scope says what a scan looked at, so that what lies outside is not taken for gone.
type Scope struct {
	Subscriptions []string // ids, in any case; nil is everything that a baseline may name
	Complete      bool     // nothing in it was hidden
}

func (s Scope) holds(resource string) bool {
	return s.Subscriptions == nil || slices.ContainsFunc(s.Subscriptions, func(id string) bool { return strings.EqualFold(id, subscriptionOf(resource)) })
}

// Known is what a baseline says of a scan.
type Known struct {
	Known int     // findings that were marked
	Worse []Worst // known by name, but worse than known: they count
	Gone  []Entry // entries whose failure is over: the rule passes or does not apply now, or the resource is gone
	// Unsure are entries in scope of which nothing can be said: the verdict is unknown now, or the finding is missing from a scan that
	// was not complete.
	Unsure []Entry
}

// Worst is a failure that is worse than its entry.
type Worst struct {
	Entry Entry
	Why   string
}

// Apply marks what is known among the findings, in place, and tells what became of the entries. It wants every finding of the scan,
// those that pass too, before any filter.
func (b Baseline) Apply(findings []scan.Finding, s Scope) Known {
	var out Known
	entries := make(map[key]int, len(b.Entries))
	for i, e := range b.Entries {
		entries[keyOf(e.Rule, e.Resource)] = i
	}
	const (
		missing = iota
		failing
		unsure
		over
	)
	state := make([]int, len(b.Entries))
	for i := range findings {
		f := &findings[i]
		f.Known = false
		j, ok := entries[keyOf(f.Rule, f.Resource)]
		if !ok {
			continue
		}
		switch f.Status {
		case scan.Fail:
			state[j] = failing
			if ok, why := b.Entries[j].Covers(*f); ok {
				f.Known = true
				out.Known++
			} else {
				out.Worse = append(out.Worse, Worst{b.Entries[j], why})
			}
		case scan.Pass, scan.NotApplicable:
			state[j] = over
		default:
			state[j] = unsure
		}
	}
	for i, e := range b.Entries {
		switch {
		case state[i] == failing || state[i] == missing && !s.holds(e.Resource):
		case state[i] == over || state[i] == missing && s.Complete:
			out.Gone = append(out.Gone, e)
		default:
			out.Unsure = append(out.Unsure, e)
		}
	}
	return out
}

// Update returns the baseline that knows what fails now, and how many unknown findings it leaves out because nobody can know them.
// Entries out of scope, and those of which nothing can be said, stay as they are. Suppressions must be applied before.
func (b Baseline) Update(findings []scan.Finding, s Scope, now time.Time) (Baseline, int) {
	out := Baseline{Made: now.UTC().Truncate(time.Second)}
	unknown := 0
	has := map[key]bool{}
	for _, f := range findings {
		switch {
		case f.Status == scan.Unknown:
			unknown++
		case f.Status == scan.Fail:
			if k := keyOf(f.Rule, f.Resource); f.Suppressed == nil && !has[k] {
				out.Entries = append(out.Entries, entryOf(f))
				has[k] = true
			}
		}
	}
	judged := slices.Clone(findings) // Apply marks
	for _, e := range b.Apply(judged, s).Unsure {
		out.Entries = append(out.Entries, e)
		has[keyOf(e.Rule, e.Resource)] = true
	}
	for _, e := range b.Entries {
		if k := keyOf(e.Rule, e.Resource); !has[k] && !s.holds(e.Resource) {
			out.Entries = append(out.Entries, e)
		}
	}
	slices.SortFunc(out.Entries, compareEntries)
	return out, unknown
}

func compareEntries(a, b Entry) int {
	if c := strings.Compare(strings.ToLower(a.Resource), strings.ToLower(b.Resource)); c != 0 {
		return c
	}
	return strings.Compare(string(a.Rule), string(b.Rule))
}

// Marshal writes the file: sorted, one entry a line, so that a difference between two of them reads as what appeared and went. The
// same baseline is always the same bytes, and ParseBaseline reads it back.
func (b Baseline) Marshal() ([]byte, error) {
	var out bytes.Buffer
	made, err := json.Marshal(b.Made.UTC())
	if err != nil {
		return nil, fmt.Errorf("writing a baseline: %w", err)
	}
	fmt.Fprintf(&out, "{\n\"version\": %d,\n\"made\": %s,\n\"findings\": [", BaselineVersion, made)
	entries := slices.Clone(b.Entries)
	slices.SortFunc(entries, compareEntries)
	for i, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("writing a baseline: %w", err)
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(line)
	}
	out.WriteString("\n]\n}\n")
	return out.Bytes(), nil
}

// ParseBaseline reads a file that Marshal wrote and a person may have edited or merged. Its error is a *FileError that names every
// fault with its line: a damaged baseline must not hide anything, so that not even its sound entries are used.
func ParseBaseline(file string, data []byte) (Baseline, error) {
	p := baselineParser{data: data}
	b := p.parse()
	if len(p.faults) > 0 {
		hint := baselineHint
		if p.newer {
			hint = "bring this program up to date, or write the baseline anew with --update-baseline"
		}
		return Baseline{}, fileError("baseline", file, hint, p.faults)
	}
	return b, nil
}

type baselineParser struct {
	data   []byte
	faults []Fault
	newer  bool
}

func (p *baselineParser) bad(offset int64, format string, args ...any) {
	line := 1 + bytes.Count(p.data[:min(max(offset, 0), int64(len(p.data)))], []byte("\n"))
	p.faults = append(p.faults, Fault{line, fmt.Sprintf(format, args...)})
}

// parse reads the outer object key by key, since the decoder of a whole would take the last of two keys of one name.
func (p *baselineParser) parse() Baseline {
	var b Baseline
	if len(p.data) > MaxBaseline {
		p.bad(0, "it is larger than %d bytes", MaxBaseline)
		return b
	}
	d := json.NewDecoder(bytes.NewReader(p.data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		p.bad(d.InputOffset(), "it is no JSON object")
		return b
	}
	seen := map[string]bool{}
	for d.More() {
		at := p.skip(d.InputOffset())
		t, err := d.Token()
		if err != nil {
			p.syntax(d, err)
			return b
		}
		name, _ := t.(string)
		if seen[name] {
			p.bad(at, "the key %q stands there twice", name)
			return b
		}
		seen[name] = true
		switch name {
		case "version":
			var v int
			if err := d.Decode(&v); err != nil || v < 1 {
				p.bad(at, "version is no number from 1 to %d", BaselineVersion)
				return b
			} else if v > BaselineVersion {
				p.newer = true
				p.bad(at, "it is of version %d, and this program reads up to %d", v, BaselineVersion)
				return b
			}
		case "made":
			if err := d.Decode(&b.Made); err != nil {
				p.bad(at, "made is no time as 2026-11-26T12:00:00Z")
				return b
			}
		case "findings":
			if !p.entries(d, &b) {
				return b
			}
		default:
			p.bad(at, "there is no key %q", name)
			return b
		}
	}
	if _, err := d.Token(); err != nil {
		p.syntax(d, err)
		return b
	}
	if _, err := d.Token(); err != io.EOF {
		p.bad(p.skip(d.InputOffset()), "something stands behind its end")
	}
	for _, name := range []string{"version", "findings"} {
		if !seen[name] {
			p.bad(0, "the key %q is missing", name)
		}
	}
	return b
}

// skip returns the offset of the next value: behind blanks, commas and colons.
func (p *baselineParser) skip(offset int64) int64 {
	for offset < int64(len(p.data)) && strings.IndexByte(" \t\r\n,:", p.data[offset]) >= 0 {
		offset++
	}
	return offset
}

func (p *baselineParser) syntax(d *json.Decoder, err error) {
	p.bad(p.skip(d.InputOffset()), "it is no JSON from here on, or ends too early (%v)", err)
}

func (p *baselineParser) entries(d *json.Decoder, b *Baseline) bool {
	at := p.skip(d.InputOffset())
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		p.bad(at, "findings is no list")
		return false
	}
	first := map[key]int64{}
	for d.More() {
		at := p.skip(d.InputOffset())
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			p.syntax(d, err)
			return false
		}
		e, err := parseEntry(raw)
		if err != nil {
			p.bad(at, "%v", err)
			continue
		}
		k := keyOf(e.Rule, e.Resource)
		if _, twice := first[k]; twice {
			p.bad(at, "%s of %s stands there twice", e.Rule, e.Resource)
			continue
		}
		first[k] = at
		b.Entries = append(b.Entries, e)
	}
	if _, err := d.Token(); err != nil {
		p.syntax(d, err)
		return false
	}
	slices.SortFunc(b.Entries, compareEntries)
	return true
}

func parseEntry(raw []byte) (Entry, error) {
	var e Entry
	if name := twice(raw); name != "" {
		return e, fmt.Errorf("the key %q stands twice in one entry", name)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("it is no entry: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	switch _, ok := scan.RuleOf(e.Rule); {
	case !ok:
		return e, fmt.Errorf("there is no rule %q", e.Rule)
	case !strings.HasPrefix(e.Resource, "/"):
		return e, fmt.Errorf("the resource %q is no resource id", e.Resource)
	case !slices.Contains(scan.Severities, e.Severity):
		return e, fmt.Errorf("the severity %q is none of %s", e.Severity, join(scan.Severities))
	}
	return e, nil
}

// twice returns a key that one of the objects in raw holds twice, without case since the decoder compares so too. raw is valid JSON.
func twice(raw []byte) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		keys map[string]bool // nil in a list
		want bool            // a key comes next
	}
	var stack []level
	value := func() {
		if n := len(stack); n > 0 && stack[n-1].keys != nil {
			stack[n-1].want = true
		}
	}
	for {
		t, err := d.Token()
		if err != nil {
			return ""
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
			continue
		case json.Delim('['):
			stack = append(stack, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
			value()
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].want {
			name, _ := t.(string)
			low := strings.ToLower(name)
			if stack[n-1].keys[low] {
				return name
			}
			stack[n-1].keys[low] = true
			stack[n-1].want = false
			continue
		}
		value()
	}
}

package report

import (
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/scan"
)

// A report may hold a hundred thousand findings of ten kilobytes each, and reflection over each of them, and a second pass that indents,
// cost more than all of judging. What is written here is what encoding/json makes of a finding, indented as an element of the list of a
// report, but that facts and controls, of which there are many, stand in a line each.
// TestFindingIsWhatItMarshals holds the two against each other for every field of every type.

// lines begin a member or an element at each depth: 2 is the finding itself in a report's list.
const (
	line2  = "\n    "
	line3  = line2 + "  "
	line4  = line3 + "  "
	line5  = line4 + "  "
	line6  = line5 + "  "
	line7  = line6 + "  "
	line8  = line7 + "  "
	line9  = line8 + "  "
	line10 = line9 + "  "
)

// appendFinding appends a finding. controls is what appendControls makes of its controls. It fails where a time has no form in JSON.
func appendFinding(b []byte, f *scan.Finding, controls []byte) ([]byte, error) {
	b = appendText(append(b, "{"+line3+`"id": `...), f.ID)
	b = appendText(append(b, ","+line3+`"rule": `...), f.Rule)
	b = appendText(append(b, ","+line3+`"resource": `...), f.Resource)
	b = appendText(append(b, ","+line3+`"status": `...), f.Status)
	b = appendText(append(b, ","+line3+`"severity": `...), f.Severity)
	b = member(b, ","+line3+`"exposure": `, f.Exposure)
	b = appendText(append(b, ","+line3+`"reason": `...), f.Reason)
	b = appendText(append(b, ","+line3+`"name": `...), f.Name)
	b = appendText(append(b, ","+line3+`"type": `...), f.Type)
	b = appendText(append(b, ","+line3+`"subscription": `...), f.Subscription)
	b = appendText(append(b, ","+line3+`"group": `...), f.Group)
	b = member(b, ","+line3+`"location": `, f.Location)
	if len(f.Tags) > 0 {
		b = append(b, ","+line3+`"tags": {`...)
		for i, k := range slices.Sorted(maps.Keys(f.Tags)) {
			b = append(appendText(append(next(b, i), line4...), k), ": "...)
			b = appendText(b, f.Tags[k])
		}
		b = append(b, line3+"}"...)
	}
	b, err := appendEvidence(append(b, ","+line3+`"evidence": `...), &f.Evidence)
	if err != nil {
		return nil, err
	}
	if m := f.Remediation; m != nil {
		b = appendText(append(b, ","+line3+`"remediation": {`+line4+`"summary": `...), m.Summary)
		b = member(b, ","+line4+`"curfew": `, m.Curfew)
		b = member(b, ","+line4+`"az": `, m.AzureCLI)
		b = member(b, ","+line4+`"bicep": `, m.Bicep)
		b = member(b, ","+line4+`"terraform": `, m.Terraform)
		b = member(b, ","+line4+`"portal": `, m.Portal)
		b = append(b, line3+"}"...)
	}
	if len(f.Compliance) > 0 {
		b = append(append(b, ","+line3+`"compliance": `...), controls...)
	}
	if s := f.Suppressed; s != nil {
		b = appendText(append(b, ","+line3+`"suppressed": {`+line4+`"owner": `...), s.Owner)
		b = appendText(append(b, ","+line4+`"reason": `...), s.Reason)
		if b, err = appendTime(append(b, ","+line4+`"until": `...), s.Until); err != nil {
			return nil, err
		}
		b = append(b, line3+"}"...)
	}
	if f.Known {
		b = append(b, ","+line3+`"known": true`...)
	}
	return append(b, line2+"}"...), nil
}

func appendEvidence(b []byte, e *scan.Evidence) (_ []byte, err error) {
	b = append(b, '{')
	n := 0
	if len(e.Ports) > 0 {
		b = append(b, line4+`"ports": [`...)
		for i := range e.Ports {
			if b, err = appendPort(append(next(b, i), line5...), &e.Ports[i]); err != nil {
				return nil, err
			}
		}
		b = append(b, line4+"]"...)
		n++
	}
	if len(e.Rules) > 0 {
		b = append(next(b, n), line4+`"rules": [`...)
		for i := range e.Rules {
			b = appendRule(append(next(b, i), line5...), &e.Rules[i])
		}
		b = append(b, line4+"]"...)
		n++
	}
	if len(e.Facts) > 0 {
		b = append(next(b, n), line4+`"facts": [`...)
		for i := range e.Facts {
			b = appendText(append(next(b, i), line5+`{"name": `...), e.Facts[i].Name)
			b = append(appendText(append(b, `, "value": `...), e.Facts[i].Value), '}')
		}
		b = append(b, line4+"]"...)
		n++
	}
	if n > 0 {
		b = append(b, line3...)
	}
	return append(b, '}'), nil
}

func appendPort(b []byte, p *scan.PortEvidence) (_ []byte, err error) {
	b = strconv.AppendUint(append(b, "{"+line6+`"port": `...), uint64(p.Port), 10)
	b = appendText(append(b, ","+line6+`"protocol": `...), p.Protocol)
	b = appendText(append(b, ","+line6+`"exposure": `...), p.Exposure)
	b = member(b, ","+line6+`"protected_by": `, p.ProtectedBy)
	b = member(b, ","+line6+`"policy": `, p.Policy)
	if len(p.Ways) > 0 {
		b = append(b, ","+line6+`"ways": [`...)
		for i := range p.Ways {
			b = appendWay(append(next(b, i), line7...), &p.Ways[i])
		}
		b = append(b, line6+"]"...)
	}
	if len(p.Open) > 0 {
		b = append(b, ","+line6+`"open": [`...)
		for i := range p.Open {
			h := &p.Open[i]
			b = appendText(append(next(b, i), line7+"{"+line8+`"by": `...), h.By)
			b = appendText(append(b, ","+line8+`"rule": `...), h.Rule)
			b = appendTexts(append(b, ","+line8+`"sources": `...), h.Sources, line9, line8)
			if b, err = appendTime(append(b, ","+line8+`"end": `...), h.End); err != nil {
				return nil, err
			}
			b = member(b, ","+line8+`"installation": `, h.Installation)
			b = member(b, ","+line8+`"grant": `, h.Grant)
			if h.ByName {
				b = append(b, ","+line8+`"by_name": true`...)
			}
			b = append(b, line7+"}"...)
		}
		b = append(b, line6+"]"...)
	}
	return append(b, line5+"}"...), nil
}

func appendWay(b []byte, w *scan.Way) []byte {
	b = appendText(append(b, "{"+line8+`"kind": `...), w.Kind)
	b = member(b, ","+line8+`"via": `, w.Via)
	b = member(b, ","+line8+`"address": `, w.Address)
	if w.FrontendPort != 0 {
		b = strconv.AppendUint(append(b, ","+line8+`"frontend_port": `...), uint64(w.FrontendPort), 10)
	}
	b = appendText(append(b, ","+line8+`"nic": `...), w.NIC)
	b = appendText(append(b, ","+line8+`"ip_config": `...), w.IPConfig)
	b = appendText(append(b, ","+line8+`"destination": `...), w.Destination)
	b = appendText(append(b, ","+line8+`"zone": `...), w.Zone)
	b = appendText(append(b, ","+line8+`"access": `...), w.Access)
	if len(w.Sources) > 0 {
		b = appendTexts(append(b, ","+line8+`"sources": `...), w.Sources, line9, line8)
	}
	if w.MoreSources != 0 {
		b = strconv.AppendInt(append(b, ","+line8+`"more_sources": `...), int64(w.MoreSources), 10)
	}
	b = member(b, ","+line8+`"source_ports": `, w.SourcePorts)
	switch {
	case w.Hops == nil:
		b = append(b, ","+line8+`"hops": null`...)
	case len(w.Hops) == 0:
		b = append(b, ","+line8+`"hops": []`...)
	default:
		b = append(b, ","+line8+`"hops": [`...)
		for i := range w.Hops {
			h := &w.Hops[i]
			b = appendText(append(next(b, i), line9+"{"+line10+`"layer": `...), h.Layer)
			b = member(b, ","+line10+`"group": `, h.Group)
			b = member(b, ","+line10+`"rule": `, h.Rule)
			if h.Priority != 0 {
				b = strconv.AppendInt(append(b, ","+line10+`"priority": `...), int64(h.Priority), 10)
			}
			b = appendText(append(b, ","+line10+`"access": `...), h.Access)
			b = member(b, ","+line10+`"why": `, h.Why)
			b = append(b, line9+"}"...)
		}
		b = append(b, line8+"]"...)
	}
	b = strconv.AppendInt(append(b, ","+line8+`"decider": `...), int64(w.Decider), 10)
	b = member(b, ","+line8+`"why": `, w.Why)
	return append(b, line7+"}"...)
}

func appendRule(b []byte, r *scan.RuleEvidence) []byte {
	b = appendText(append(b, "{"+line6+`"nsg": `...), r.NSG)
	b = appendText(append(b, ","+line6+`"rule": `...), r.Rule)
	b = strconv.AppendInt(append(b, ","+line6+`"priority": `...), int64(r.Priority), 10)
	b = appendText(append(b, ","+line6+`"access": `...), r.Access)
	b = appendText(append(b, ","+line6+`"protocol": `...), r.Protocol)
	if len(r.Sources) > 0 {
		b = appendTexts(append(b, ","+line6+`"sources": `...), r.Sources, line7, line6)
	}
	if len(r.Ports) > 0 {
		b = appendTexts(append(b, ","+line6+`"ports": `...), r.Ports, line7, line6)
	}
	b = member(b, ","+line6+`"why": `, r.Why)
	return append(b, line5+"}"...)
}

func appendControls(b []byte, cs []scan.Control) []byte {
	b = append(b, '[')
	for i := range cs {
		b = appendText(append(next(b, i), line4+`{"framework": `...), cs[i].Framework)
		b = appendText(append(b, `, "control": `...), cs[i].Control)
		b = append(appendText(append(b, `, "policy": `...), cs[i].Policy), '}')
	}
	return append(b, line3+"]"...)
}

// next parts an element from the one before it.
func next(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// member appends a member that is left out when it is empty.
func member[T ~string](b []byte, name string, value T) []byte {
	if value == "" {
		return b
	}
	return appendText(append(b, name...), value)
}

func appendTexts(b []byte, texts []string, line, end string) []byte {
	switch {
	case texts == nil:
		return append(b, "null"...)
	case len(texts) == 0:
		return append(b, "[]"...)
	}
	b = append(b, '[')
	for i, s := range texts {
		b = appendText(append(next(b, i), line...), s)
	}
	return append(append(b, end...), ']')
}

type textAppender interface{ AppendText([]byte) ([]byte, error) }

func appendTime(b []byte, t textAppender) ([]byte, error) {
	b, err := t.AppendText(append(b, '"'))
	return append(b, '"'), err
}

// appendText appends a string as encoding/json does that is not asked for the escapes of HTML.
func appendText[T ~string](b []byte, s T) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainByte[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, `\b`...)
			case '\f':
				b = append(b, `\f`...)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, `\u00`...)
				b = append(b, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(append(b, s[from:i]...), `\ufffd`...)
			from = i + n
		case r == '\u2028' || r == '\u2029':
			b = append(append(b, s[from:i]...), `\u202`...)
			b = append(b, "0123456789abcdef"[r&15])
			from = i + n
		}
		i += n
	}
	return append(append(b, s[from:]...), '"')
}

// plainByte are the bytes that stand for themselves in a string of JSON.
var plainByte = func() (t [256]bool) {
	for c := range utf8.RuneSelf {
		t[c] = c >= ' ' && c != '"' && c != '\\'
	}
	return t
}()

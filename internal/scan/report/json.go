package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/scan"
)

// encode is v as JSON without the escapes that only HTML needs: a reader of the report sees the names as they are.
func encode(v any, prefix, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if prefix+indent == "" {
		return text, nil
	}
	return indented(nil, text, prefix, indent), nil
}

// coder encodes one value after another, in room that it keeps.
type coder struct {
	compact bytes.Buffer
	wide    []byte
	enc     *json.Encoder
}

var coders = sync.Pool{New: func() any {
	c := &coder{}
	c.enc = json.NewEncoder(&c.compact)
	c.enc.SetEscapeHTML(false)
	return c
}}

// encodeTo writes what encode returns.
func encodeTo(w *out, v any, prefix, indent string) error {
	c := coders.Get().(*coder)
	defer coders.Put(c)
	c.compact.Reset()
	if err := c.enc.Encode(v); err != nil {
		return err
	}
	text := bytes.TrimSuffix(c.compact.Bytes(), []byte("\n"))
	if prefix+indent != "" {
		c.wide = indented(c.wide[:0], text, prefix, indent)
		text = c.wide
	}
	_, err := w.Write(text)
	return err
}

// indented appends what json.Indent makes of JSON that has no blanks outside its strings, as an encoder writes it. That nothing need be
// checked makes it some times as fast.
func indented(dst, text []byte, prefix, indent string) []byte {
	depth := 0
	line := func() {
		dst = append(append(dst, '\n'), prefix...)
		for range depth {
			dst = append(dst, indent...)
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '"':
			end := i + 1
			for text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			dst = append(dst, text[i:end+1]...)
			i = end
		case '{', '[':
			dst = append(dst, c)
			if next := text[i+1]; next == '}' || next == ']' {
				dst = append(dst, next)
				i++
				continue
			}
			depth++
			line()
		case '}', ']':
			depth--
			line()
			dst = append(dst, c)
		case ',':
			dst = append(dst, c)
			line()
		case ':':
			dst = append(dst, c, ' ')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// each writes the findings as the elements of a JSON list: n of them, each as at(i) gives it.
func each(w *out, n int, prefix, indent string, at func(int) any) error {
	w.put("[")
	err := parts(w, n, func(w *out, i int) error {
		if i > 0 {
			w.put(",")
		}
		if indent != "" {
			w.put("\n", prefix)
		}
		return encodeTo(w, at(i), prefix, indent)
	})
	if err != nil {
		return err
	}
	if n > 0 && indent != "" {
		w.put("\n", prefix[len(indent):])
	}
	w.put("]")
	return w.err()
}

// writeJSON writes the report as its type marshals, with findings that are never null. The frame is marshalled without findings, and
// they are written into it one by one: a report of many is not held in memory twice.
func writeJSON(w *out, r *scan.Report, o Options) error {
	// Inside a JSON string a line end is escaped, so that these bytes stand only where the field is.
	before, after, err := frame(r, "\n  \"findings\": []", func(b []byte) ([]byte, error) { return b, nil })
	if err != nil {
		return err
	}
	w.put(before, "\n  \"findings\": ")
	w.put("[")
	controls := sharedControls(r.Findings)
	err = appended(w, len(r.Findings), func(b []byte, i int) ([]byte, error) {
		f := o.full(&r.Findings[i])
		return appendFinding(append(next(b, i), line2...), f, controls(f.Compliance))
	})
	if err != nil {
		return err
	}
	if len(r.Findings) > 0 {
		w.put("\n  ")
	}
	w.put("]", after, "\n")
	return w.err()
}

// frame is what stands before and after the field of the findings, which the report without any is parted at.
func frame(r *scan.Report, field string, as func([]byte) ([]byte, error)) (before, after string, err error) {
	empty := *r
	empty.Findings = []scan.Finding{}
	b, err := encode(empty, "", "  ")
	if err == nil {
		b, err = as(b)
	}
	if err != nil {
		return "", "", err
	}
	before, after, ok := strings.Cut(string(b), field)
	if !ok {
		return "", "", fmt.Errorf("the report has no findings field")
	}
	return before, after, nil
}

// WriteYAML writes what JSON holds as YAML, one finding after another. convert makes YAML of a JSON object: in block style, indented by
// two, with bare names. It fails as Write does, or as convert.
func WriteYAML(w io.Writer, r *scan.Report, o Options, convert func([]byte) ([]byte, error)) error {
	b := bufio.NewWriterSize(w, 64<<10)
	if err := writeYAML(&out{Writer: b}, r, o, convert); err != nil {
		return fmt.Errorf("writing the report as yaml: %w", err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing the report as yaml: %w", err)
	}
	return nil
}

func writeYAML(w *out, r *scan.Report, o Options, convert func([]byte) ([]byte, error)) error {
	const field = "\nfindings: []\n" // no text of the frame holds a line end: they are quoted
	before, after, err := frame(r, field, convert)
	if err != nil {
		return err
	}
	if len(r.Findings) == 0 {
		w.put(before, field, after)
		return w.err()
	}
	w.put(before, "\nfindings:\n")
	err = parts(w, len(r.Findings), func(w *out, i int) error {
		f := o.full(&r.Findings[i])
		b, err := appendFinding(nil, f, appendControls(nil, f.Compliance))
		if err == nil {
			b, err = convert(b)
		}
		if err != nil {
			return err
		}
		lead := "  - "
		for line := range strings.Lines(string(b)) {
			w.put(lead, line)
			lead = "    "
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.put(after)
	return w.err()
}

// sharedControls returns what makes the text of a list of controls. All findings of a rule share one list, and it is the longest part of
// many: its text is made once. Lists that are nobody else's, in a report that was read, are too many to be kept.
func sharedControls(fs []scan.Finding) func([]scan.Control) []byte {
	type text struct {
		n    int
		text []byte
	}
	made := map[*scan.Control]text{}
	for i := range fs {
		if c := fs[i].Compliance; len(c) > 0 && made[&c[0]].n == 0 {
			if len(made) == 2*len(scan.Rules) {
				made = nil
				break
			}
			made[&c[0]] = text{len(c), appendControls(nil, c)}
		}
	}
	return func(c []scan.Control) []byte {
		if len(c) == 0 {
			return nil
		}
		if t := made[&c[0]]; t.n == len(c) {
			return t.text
		}
		return appendControls(nil, c)
	}
}

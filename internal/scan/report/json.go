package report

import (
	"bytes"
	"encoding/json"
	"fmt"
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
	frame := *r
	frame.Findings = []scan.Finding{}
	b, err := encode(frame, "", "  ")
	if err != nil {
		return err
	}
	// Inside a JSON string a quotation mark is escaped, so that these bytes stand only where the field is.
	field := []byte("\n  \"findings\": []")
	i := bytes.Index(b, field)
	if i < 0 {
		return fmt.Errorf("the report has no findings field")
	}
	i += len(field) - len("[]")
	w.put(string(b[:i]))
	if err := each(w, len(r.Findings), "    ", "  ", func(i int) any { return o.full(&r.Findings[i]) }); err != nil {
		return err
	}
	w.put(string(b[i+len("[]"):]), "\n")
	return w.err()
}

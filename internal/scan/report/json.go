package report

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/curfew-jit/curfew/internal/scan"
)

// encode is v as JSON without the escapes that only HTML needs: a reader of the report sees the names as they are.
func encode(v any, prefix, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if prefix+indent != "" {
		e.SetIndent(prefix, indent)
	}
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// each writes the findings as the elements of a JSON list, one at a time: n of them, each as at(i) gives it.
func each(w *out, n int, prefix, indent string, at func(int) any) error {
	w.put("[")
	for i := range n {
		if i > 0 {
			w.put(",")
		}
		if indent != "" {
			w.put("\n", prefix)
		}
		b, err := encode(at(i), prefix, indent)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
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

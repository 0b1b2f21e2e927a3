package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendTree writes a decoded JSON value just as encoding/json does with sorted keys and without escaping HTML, without reflection: bodies are
// packed and unpacked all the time. Values of other types than a decoder makes are left to encoding/json.
func appendTree(b []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendText(b, v)
	case json.Number:
		if v != "" && plainNumber(string(v)) {
			return append(b, v...), nil
		}
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case map[string]any:
		if v == nil {
			return append(b, "null"...), nil
		}
		var few [24]string
		keys := few[:0]
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b = append(b, '{')
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendText(b, k); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendTree(b, v[k]); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case []any:
		if v == nil {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendTree(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	}
	return appendOther(b, v)
}

func appendOther(b []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), nil
}

// plainNumber: digits alone need no second look.
func plainNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) == 1 || s[0] != '0'
}

func appendText(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendOther(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

var errTree = errors.New("not a JSON object")

// treeReader decodes JSON that is known to be valid: what appendTree wrote, or what a decoder has let pass. Numbers stay as they stand.
type treeReader struct {
	in  []byte
	at  int
	few [64]string // names of fields seen last, so that they are made once
}

// decodeTree decodes a valid JSON object.
func decodeTree(data []byte) (m map[string]any, err error) {
	r := &treeReader{in: data}
	v, ok := r.value()
	m, is := v.(map[string]any)
	r.space()
	if !ok || !is || r.at != len(data) {
		return nil, errTree
	}
	return m, nil
}

func (r *treeReader) space() {
	for r.at < len(r.in) && (r.in[r.at] == ' ' || r.in[r.at] == '\n' || r.in[r.at] == '\t' || r.in[r.at] == '\r') {
		r.at++
	}
}

// is passes over c.
func (r *treeReader) is(c byte) bool {
	r.space()
	if r.at < len(r.in) && r.in[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *treeReader) word(w string) bool {
	if len(r.in)-r.at >= len(w) && string(r.in[r.at:r.at+len(w)]) == w {
		r.at += len(w)
		return true
	}
	return false
}

func (r *treeReader) value() (any, bool) {
	r.space()
	if r.at >= len(r.in) {
		return nil, false
	}
	switch c := r.in[r.at]; c {
	case '{':
		r.at++
		m := map[string]any{}
		if r.is('}') {
			return m, true
		}
		for {
			r.space()
			k, ok := r.text(true)
			if !ok || !r.is(':') {
				return nil, false
			}
			v, ok := r.value()
			if !ok {
				return nil, false
			}
			m[k] = v
			if r.is('}') {
				return m, true
			}
			if !r.is(',') {
				return nil, false
			}
		}
	case '[':
		r.at++
		l := []any{}
		if r.is(']') {
			return l, true
		}
		for {
			v, ok := r.value()
			if !ok {
				return nil, false
			}
			l = append(l, v)
			if r.is(']') {
				return l, true
			}
			if !r.is(',') {
				return nil, false
			}
		}
	case '"':
		return r.text(false)
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	default:
		start := r.at
		for r.at < len(r.in) && (r.in[r.at] >= '0' && r.in[r.at] <= '9' || r.in[r.at] == '-' || r.in[r.at] == '+' || r.in[r.at] == '.' || r.in[r.at] == 'e' || r.in[r.at] == 'E') {
			r.at++
		}
		return json.Number(r.in[start:r.at]), r.at > start
	}
}

func (r *treeReader) text(name bool) (string, bool) {
	if r.at >= len(r.in) || r.in[r.at] != '"' {
		return "", false
	}
	for i := r.at + 1; i < len(r.in); i++ {
		switch c := r.in[i]; {
		case c == '"':
			raw := r.in[r.at+1 : i]
			r.at = i + 1
			if !name || len(raw) == 0 {
				return string(raw), true
			}
			slot := &r.few[(len(raw)*7+int(raw[0])+int(raw[len(raw)-1])*3)%len(r.few)]
			if *slot != string(raw) {
				*slot = string(raw)
			}
			return *slot, true
		case c == '\\' || c >= utf8.RuneSelf || c < ' ': // let encoding/json read it
			end := i
			for end < len(r.in) && r.in[end] != '"' {
				if r.in[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(r.in) {
				return "", false
			}
			var s string
			if json.Unmarshal(r.in[r.at:end+1], &s) != nil {
				return "", false
			}
			r.at = end + 1
			return s, true
		}
	}
	return "", false
}

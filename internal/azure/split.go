package azure

import (
	"bytes"
	"encoding/json"
	"errors"
)

// Pages hold up to a thousand bodies that are decoded elsewhere, or not at all. Finding where each begins and ends needs one pass
// that allocates nothing, where json.RawMessage takes two and a copy. What comes here was found to be valid JSON before.

var errShape = errors.New("the reply has another shape than expected")

// fieldsOf calls f with the fields of an object, in order. Names are as they stand in the text, without their quotes.
func fieldsOf(obj []byte, f func(name, value []byte)) error {
	i := blank(obj, 0)
	if i >= len(obj) || obj[i] != '{' {
		return errShape
	}
	for i = blank(obj, i+1); i < len(obj) && obj[i] != '}'; {
		end := valueEnd(obj, i)
		if obj[i] != '"' || end < 0 {
			return errShape
		}
		name := obj[i+1 : end-1]
		if i = blank(obj, end); i >= len(obj) || obj[i] != ':' {
			return errShape
		}
		i = blank(obj, i+1)
		if end = valueEnd(obj, i); end < 0 {
			return errShape
		}
		f(name, obj[i:end])
		if i = blank(obj, end); i < len(obj) && obj[i] == ',' {
			i = blank(obj, i+1)
		}
	}
	if i >= len(obj) {
		return errShape
	}
	return nil
}

// elementsOf calls f with the elements of an array, in order, until it fails.
func elementsOf(arr []byte, f func(value []byte) error) error {
	i := blank(arr, 0)
	if i >= len(arr) || arr[i] != '[' {
		return errShape
	}
	for i = blank(arr, i+1); i < len(arr) && arr[i] != ']'; {
		end := valueEnd(arr, i)
		if end < 0 {
			return errShape
		}
		if err := f(arr[i:end]); err != nil {
			return err
		}
		if i = blank(arr, end); i < len(arr) && arr[i] == ',' {
			i = blank(arr, i+1)
		}
	}
	if i >= len(arr) {
		return errShape
	}
	return nil
}

func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// valueEnd is the index after the value that begins at i, -1 when the text ends before.
func valueEnd(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return stringEnd(b, i)
	case '{', '[':
		for depth := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				if i = stringEnd(b, i) - 1; i < 0 {
					return -1
				}
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return -1
	case ',', ':', '}', ']':
		return -1
	}
	for i < len(b) && bytes.IndexByte([]byte(",}] \n\r\t"), b[i]) < 0 {
		i++
	}
	return i
}

func stringEnd(b []byte, i int) int {
	for i++; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		end, slashes := i+n, 0
		for k := end - 1; k >= i && b[k] == '\\'; k-- {
			slashes++
		}
		if i = end + 1; slashes%2 == 0 {
			return i
		}
	}
	return -1
}

// Peek returns a text field of the outermost object of a body that is valid JSON, "" where it has none. It decodes nothing else.
func Peek(body []byte, field string) string {
	out := ""
	_ = fieldsOf(body, func(name, value []byte) { // what is no object has no field
		if string(name) == field && len(value) > 1 && value[0] == '"' {
			if json.Unmarshal(value, &out) != nil {
				out = ""
			}
		}
	})
	return out
}

// Elements calls f with the elements of a JSON array that is valid, in order, until it fails.
func Elements(array []byte, f func(element []byte) error) error { return elementsOf(array, f) }

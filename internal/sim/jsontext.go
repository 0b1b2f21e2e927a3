package sim

import "bytes"

// Resource Graph shows a few fields of very many bodies, which lie packed as JSON. These find a field in the text without decoding the
// rest. The text comes from mustJSON: valid, and without white space.

// textField is the text of an object's field, nil where there is none. Names with escapes are not found: none that Azure has needs any.
func textField(obj []byte, name string) []byte {
	var found []byte
	textFields(obj, func(_, field, value []byte) bool {
		if string(field) == name {
			found = value
			return false
		}
		return true
	})
	return found
}

// textFields goes through an object's fields until f has enough; whole is `"name":value`.
func textFields(obj []byte, f func(whole, name, value []byte) bool) {
	if len(obj) < 2 || obj[0] != '{' {
		return
	}
	for i := 1; i < len(obj) && obj[i] == '"'; {
		nameEnd := textEnd(obj, i)
		if nameEnd >= len(obj) {
			return
		}
		end := textEnd(obj, nameEnd+1)
		if !f(obj[i:end], obj[i+1:nameEnd-1], obj[nameEnd+1:end]) {
			return
		}
		i = end + 1 // past the comma
	}
}

// textElements goes through an array.
func textElements(arr []byte, f func(value []byte)) {
	if len(arr) < 2 || arr[0] != '[' {
		return
	}
	for i := 1; i < len(arr) && arr[i] != ']'; {
		end := textEnd(arr, i)
		f(arr[i:end])
		i = end + 1
	}
}

// textEnd is the index after the value that begins at i.
func textEnd(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		for i++; i < len(b); {
			n := bytes.IndexByte(b[i:], '"')
			if n < 0 {
				return len(b)
			}
			end, slashes := i+n, 0
			for k := end - 1; k >= i && b[k] == '\\'; k-- {
				slashes++
			}
			if i = end + 1; slashes%2 == 0 {
				return i
			}
		}
		return len(b)
	case '{', '[':
		for depth := 0; i < len(b); {
			switch b[i] {
			case '"':
				i = textEnd(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return len(b)
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
		i++
	}
	return i
}

// textPath follows names into a text, nil where they lead nowhere.
func textPath(text []byte, steps []string) []byte {
	for _, s := range steps {
		if text = textField(text, s); text == nil {
			return nil
		}
	}
	return text
}

package sim

import (
	"slices"
	"strconv"
)

// The columns of a row as text, where they can be had without a tree. What treeLocked would show is shown, and a test holds the two
// against each other.

// packedLocked is the body as text, without what render adds or with what it once added.
func (r *resource) packedText() []byte {
	if r.packed == nil && r.live != nil {
		r.packed = fit(mustJSON(r.live))
	}
	return r.packed
}

// running is what Resource Graph adds to a machine that is said to be nothing else.
var running = mustJSON(map[string]any{"instanceView": extendedView("PowerState/running")})

// graphTextLocked appends a column, or what steps lead to in it, as JSON. It says false where it does not know how.
func (s *Sim) graphTextLocked(dst []byte, r *resource, column string, steps []string) ([]byte, bool) {
	if r.t.ns == "" || r.typeKey == typeVMSSVM {
		return dst, false
	}
	put := func(text []byte) ([]byte, bool) {
		if text == nil {
			return append(dst, "null"...), true
		}
		return append(dst, text...), true
	}
	switch column {
	case "id":
		return strconv.AppendQuote(dst, r.id), len(steps) == 0 && plain(r.id)
	case "type":
		return strconv.AppendQuote(dst, r.typeKey), len(steps) == 0 && plain(r.typeKey)
	case "tags", "sku", "zones", "identity", "plan", "extendedLocation":
		return put(textPath(textField(r.packedText(), column), steps))
	case "kind", "managedBy", "location":
		if v := textField(r.packedText(), column); v != nil && len(steps) == 0 {
			return append(dst, v...), true
		}
		return append(dst, `""`...), len(steps) == 0
	case "properties":
	default:
		return dst, false
	}
	if len(steps) == 0 {
		return dst, false
	}
	if r.typeKey == typeNSG {
		return put(textPath(textField(s.rawLocked(r), "properties"), steps))
	}
	props := textField(r.packedText(), "properties")
	known := r.kind.name != "" && r.typeKey != typeLock
	switch top := steps[0]; {
	case r.typeKey == typeVM && top == "instanceView":
		return append(dst, "null"...), true
	case r.typeKey == typeVM && top == "extended":
		if textField(props, "instanceView") != nil || textField(props, "extended") != nil {
			return dst, false
		}
		return put(textPath(running, steps[1:]))
	case known && top == "provisioningState":
		return strconv.AppendQuote(dst, r.state), len(steps) == 1
	case known && slices.Contains(backFields[r.typeKey], top):
		found := map[string]any{}
		s.backRefsLocked(r, r.key, found, top)
		return put(textPath(mustJSON(found), steps))
	case r.typeKey == typeNIC && top == "ipConfigurations" && len(steps) == 1:
		return s.ipConfigurationsText(dst, r, textField(props, top))
	}
	for _, p := range parts[r.typeKey] {
		if p.field == steps[0] {
			return dst, false
		}
	}
	return put(textPath(props, steps))
}

// ipConfigurationsText puts in what stampedLocked puts into the parts of an interface.
func (s *Sim) ipConfigurationsText(dst []byte, r *resource, list []byte) ([]byte, bool) {
	if list == nil {
		return append(dst, "null"...), true
	}
	fine := plain(r.id) && plain(r.typ)
	dst = append(dst, '[')
	n := 0
	textElements(list, func(c []byte) {
		name := textField(c, "name")
		if len(name) < 2 || !plain(string(name[1:len(name)-1])) {
			fine = false
			return
		}
		if n++; n > 1 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"etag":`...)
		dst = strconv.AppendQuote(dst, r.etag) // printable, with quotes
		dst = append(dst, `,"id":"`...)
		dst = append(append(append(dst, r.id...), "/ipConfigurations/"...), name[1:len(name)-1]...)
		dst = append(dst, `","type":"`...)
		dst = append(append(dst, r.typ...), `/ipConfigurations"`...)
		seen := false
		properties := func(fields []byte) {
			seen = true
			dst = append(dst, `,"properties":{"provisioningState":`...)
			dst = strconv.AppendQuote(dst, r.state)
			textFields(fields, func(whole, name, _ []byte) bool {
				if string(name) != "provisioningState" {
					dst = append(append(dst, ','), whole...)
				}
				return true
			})
			dst = append(dst, '}')
		}
		textFields(c, func(whole, name, value []byte) bool {
			switch string(name) {
			case "etag", "id", "type":
			case "properties":
				properties(value)
			default:
				dst = append(append(dst, ','), whole...)
			}
			return true
		})
		if !seen {
			properties(nil)
		}
		dst = append(dst, '}')
	})
	return append(dst, ']'), fine
}

// plain tells whether a text is the same in JSON.
func plain(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			return false
		}
	}
	return true
}

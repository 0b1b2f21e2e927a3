package sim

import (
	"maps"
	"strings"
)

// withoutInstanceView is what GET of a VM shows unless instanceView is expanded. "extended" is a column of Resource Graph.
func withoutInstanceView(body map[string]any) map[string]any {
	props := object(body, "properties")
	if props["instanceView"] == nil && props["extended"] == nil {
		return body
	}
	b, p := maps.Clone(body), maps.Clone(props)
	delete(p, "instanceView")
	delete(p, "extended")
	b["properties"] = p
	return b
}

// instanceViewLocked is the VM's stored instance view, or one made from the power state that Resource Graph reported; a VM of which
// nothing is known runs.
func (s *Sim) instanceViewLocked(r *resource) map[string]any {
	props := object(r.doc(), "properties")
	if v := object(props, "instanceView"); v != nil {
		return v
	}
	power := strings.TrimPrefix(text(object(object(object(props, "extended"), "instanceView"), "powerState"), "code"), "PowerState/")
	if power == "" {
		power = "running"
	}
	return instanceView(power, s.nowLocked())
}

func powerCode(view map[string]any) string {
	for _, st := range objects(view, "statuses") {
		if c := text(st, "code"); strings.HasPrefix(c, "PowerState/") {
			return c
		}
	}
	return ""
}

func (s *Sim) withInstanceViewLocked(r *resource) []byte {
	b := maps.Clone(withoutInstanceView(s.stampedLocked(r)))
	p := maps.Clone(object(b, "properties"))
	p["instanceView"] = s.instanceViewLocked(r)
	b["properties"] = p
	return mustJSON(b)
}

func (s *Sim) setPowerLocked(r *resource, power string) {
	body := maps.Clone(r.doc())
	props := maps.Clone(object(body, "properties"))
	delete(props, "extended")
	props["instanceView"] = instanceView(power, s.nowLocked())
	body["properties"] = props
	s.remember(r)
	s.setBodyLocked(r, body, nil, r.kept)
}

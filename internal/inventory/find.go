package inventory

import (
	"cmp"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
)

// Find returns the machine that a person named: name, group/name, or resource id, without regard to case. Errors are
// access.Error: CodeNotFound with the closest names, CodeAmbiguous with the candidates, CodeInvalid.
func (s *Snapshot) Find(ref string) (Machine, error) {
	ref = strings.TrimSpace(ref)
	switch {
	case ref == "":
		return Machine{}, &access.Error{Code: access.CodeInvalid, Field: "vm", Message: "no machine was named"}
	case strings.HasPrefix(ref, "/"):
		return s.findID(ref)
	}
	group, name, both := strings.Cut(ref, "/")
	if !both {
		group, name = "", ref
	}
	if name == "" || strings.Contains(name, "/") || both && group == "" {
		return Machine{}, &access.Error{Code: access.CodeInvalid, Field: "vm", Message: "machine " + quote(ref) + " is none of name, group/name and resource id"}
	}
	var found []Machine
	for _, at := range s.byName[strings.ToLower(name)] {
		if m := s.machines[at]; !both || strings.EqualFold(m.Group, group) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Machine{}, s.notFound(ref, name)
	}
	return Machine{}, &access.Error{Code: access.CodeAmbiguous, Field: "vm", Message: "several machines are called " + quote(ref),
		Hint: "name one of: " + strings.Join(candidates(found), ", ")}
}

func (s *Snapshot) findID(ref string) (Machine, error) {
	id, err := azure.ParseID(ref)
	if err != nil {
		return Machine{}, &access.Error{Code: access.CodeInvalid, Field: "vm", Message: err.Error()}
	}
	switch {
	case id.Is("Microsoft.Compute/virtualMachineScaleSets/virtualMachines"):
		return Machine{}, setRefused(ref, "an instance of a scale set")
	case id.Is("Microsoft.Compute/virtualMachineScaleSets"):
		return Machine{}, setRefused(ref, "a scale set")
	case !id.Is("Microsoft.Compute/virtualMachines"):
		return Machine{}, &access.Error{Code: access.CodeInvalid, Field: "vm", Message: ref + " is not the id of a virtual machine"}
	}
	if at, ok := s.byID[azure.Key(ref)]; ok {
		return s.machines[at], nil
	}
	return Machine{}, s.notFound(ref, id.Name())
}

// setRefused says that scale sets come later. An access to one that cannot be given must not look like a mistyped name.
func setRefused(ref, what string) error {
	return &access.Error{Code: access.CodeUnprotectable, Field: "vm", Message: quote(ref) + " is " + what + ", and Curfew does not handle scale sets yet",
		Hint: "its network security group can be narrowed by hand; list the machines that Curfew handles with: curfew vm list"}
}

// setNamed tells what a name is that no machine has: a scale set, or an instance as Azure names them, SET_3.
func (s *Snapshot) setNamed(group, name string) (what string) {
	set, instance := name, false
	if i := strings.LastIndexByte(name, '_'); i > 0 && i+1 < len(name) && strings.Trim(name[i+1:], "0123456789") == "" {
		set, instance = name[:i], true
	}
	for _, id := range s.raw.sets {
		if at, err := azure.ParseID(id); group != "" && (err != nil || !strings.EqualFold(at.Group, group)) {
			continue
		}
		switch have := azure.IDName(id); {
		case strings.EqualFold(have, name):
			return "a scale set"
		case instance && strings.EqualFold(have, set):
			what = "an instance of scale set " + have
		}
	}
	return what
}

func (s *Snapshot) notFound(ref, name string) error {
	group, _, both := strings.Cut(ref, "/")
	if !both || group == "" {
		group = ""
	}
	if what := s.setNamed(group, name); what != "" && !strings.HasPrefix(ref, "/") {
		return setRefused(ref, what)
	}
	e := &access.Error{Code: access.CodeNotFound, Field: "vm", Message: "there is no machine " + quote(ref)}
	if near := s.near(name); len(near) > 0 {
		e.Hint = "Closest: " + strings.Join(near, ", ")
	} else if len(s.Problems) > 0 {
		e.Hint = "not everything could be read: " + s.Problems[0].String()
	} else if len(s.machines) == 0 {
		e.Hint = "no machine was found in the subscriptions that are read: check them, and the identity's role"
	} else {
		e.Hint = "list those that there are with: curfew vm list"
	}
	return e
}

// candidates names machines as group/name, or by id where that is not enough.
func candidates(ms []Machine) []string {
	count := map[string]int{}
	for _, m := range ms {
		count[strings.ToLower(m.Group+"/"+m.Name)]++
	}
	var out []string
	for _, m := range ms {
		if short := m.Group + "/" + m.Name; count[strings.ToLower(short)] == 1 {
			out = append(out, short)
		} else {
			out = append(out, m.ID)
		}
	}
	slices.Sort(out)
	return out
}

// near returns up to three names that a person may have meant.
func (s *Snapshot) near(name string) []string {
	type hit struct {
		name string
		far  int
	}
	name = strings.ToLower(name)
	limit := max(2, len(name)/3)
	var hits []hit
	for _, n := range s.byName { // one entry each, whatever the number of machines of that name
		m := s.machines[n[0]].Name
		far := distance(name, strings.ToLower(m), limit)
		if far > limit && len(name) >= 3 && strings.Contains(strings.ToLower(m), name) {
			far = limit
		}
		if far <= limit {
			hits = append(hits, hit{m, far})
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.far, b.far), strings.Compare(a.name, b.name)) })
	var out []string
	for _, h := range hits[:min(3, len(hits))] {
		out = append(out, h.name)
	}
	return out
}

// distance is Levenshtein's, or more than limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal, row[j] = row[j], min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

func quote(s string) string { return `"` + s + `"` }

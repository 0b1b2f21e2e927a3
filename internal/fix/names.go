package fix

import (
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// names are what resources are called in words and in consents, by key: the name alone where only one of its type has it, GROUP/NAME where
// that tells them apart, SUBSCRIPTION/GROUP/NAME or the id where that does not either.
type names map[string]string

func namesOf(ids []string) names {
	out := names{}
	forms := []func(azure.ID) string{
		azure.ID.Name,
		func(i azure.ID) string { return i.Group + "/" + i.Name() },
		func(i azure.ID) string { return i.Subscription + "/" + i.Group + "/" + i.Name() },
	}
	parsed := map[string]azure.ID{}
	for _, id := range ids {
		if p, err := azure.ParseID(id); err == nil && p.Group != "" {
			parsed[azure.Key(id)] = p
			out[azure.Key(id)] = id
		}
	}
	left := parsed
	for _, form := range forms {
		by := map[string][]string{}
		for k, p := range left {
			word := strings.ToLower(p.Type() + " " + form(p))
			by[word] = append(by[word], k)
		}
		next := map[string]azure.ID{}
		for _, keys := range by {
			for _, k := range keys {
				if len(keys) == 1 {
					out[k] = form(left[k])
				} else {
					next[k] = left[k]
				}
			}
		}
		left = next
	}
	return out
}

func namesIn(e *estate.Estate) names {
	var ids []string
	for _, x := range e.VMs() {
		ids = append(ids, x.ID)
	}
	for _, x := range e.NSGs() {
		ids = append(ids, x.ID)
	}
	for _, x := range e.ScaleSets() {
		ids = append(ids, x.ID)
	}
	for _, x := range e.Policies() {
		ids = append(ids, x.ID)
	}
	return namesOf(ids)
}

// of is what a resource is called; one that is not known by its own name.
func (n names) of(id string) string {
	if s := n[azure.Key(id)]; s != "" {
		return s
	}
	return azure.IDName(id)
}

// in writes the names of groups in somebody else's words, alone or before a slash and a rule, as this plan writes them. Of several groups of one
// name it is the one that holds the rule; where that does not tell, the words stay as they are.
func (n names) in(text string, groups []string, holds func(group, rule string) bool) string {
	short := map[string][]string{}
	for _, id := range groups {
		if name := azure.IDName(id); name != n.of(id) {
			short[name] = append(short[name], id)
		}
	}
	for _, name := range sortedKeys(short) {
		ids := short[name]
		var b strings.Builder
		for rest := text; ; {
			before, after, found := strings.Cut(rest, name)
			if b.WriteString(before); !found {
				break
			}
			rest = after
			rule := ""
			if r, ok := strings.CutPrefix(after, "/"); ok {
				rule = r[:wordEnd(r)]
			}
			meant := ids
			if rule != "" {
				meant = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !holds(id, rule) })
			}
			if len(meant) != 1 || before != "" && partOfName(before[len(before)-1]) || after != "" && after[0] != '/' && partOfName(after[0]) {
				b.WriteString(name)
				continue
			}
			b.WriteString(n.of(meant[0]))
		}
		text = b.String()
	}
	return text
}

func partOfName(c byte) bool {
	return strings.IndexByte("-_./", c) >= 0 || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func wordEnd(s string) int {
	if i := strings.IndexFunc(s, func(r rune) bool { return r == '/' || r > 127 || !partOfName(byte(r)) }); i >= 0 {
		return i
	}
	return len(s)
}

// splitRule takes NSG/RULE, GROUP/NSG/RULE, SUBSCRIPTION/GROUP/NSG/RULE or a rule's resource id apart.
func splitRule(s string) (nsg, rule string) {
	s = strings.TrimRight(s, "/")
	i := strings.LastIndexByte(s, '/')
	if i <= 0 {
		return "", ""
	}
	nsg, rule = s[:i], s[i+1:]
	if strings.HasPrefix(s, "/") {
		if j := strings.LastIndexByte(nsg, '/'); strings.EqualFold(nsg[j+1:], "securityRules") {
			nsg = nsg[:j]
		}
	}
	return nsg, rule
}

// namesGroup tells whether a reference means the group of this id.
func namesGroup(ref, id string) bool {
	if strings.HasPrefix(ref, "/") {
		return azure.EqualID(ref, id)
	}
	p, err := azure.ParseID(id)
	if err != nil {
		return false
	}
	parts := []string{p.Subscription, p.Group, p.Name()}
	n := 1 + strings.Count(ref, "/")
	return n <= len(parts) && strings.EqualFold(ref, strings.Join(parts[len(parts)-n:], "/"))
}

// consents returns the lower-case names of the rules of one group among references.
func consents(refs []string, nsgID string) map[string]bool {
	out := map[string]bool{}
	for _, s := range refs {
		if nsg, rule := splitRule(s); namesGroup(nsg, nsgID) {
			out[strings.ToLower(rule)] = true
		}
	}
	return out
}

// exact refuses a consent that means a rule in each of several groups: it is to that very rule, or it is none (P3).
func (b *builder) exact(option string, refs []string) error {
	for _, s := range refs {
		nsg, rule := splitRule(s)
		var meant []string
		for _, n := range b.e.NSGs() {
			if namesGroup(nsg, n.ID) && b.holds(n.ID, rule) {
				meant = append(meant, "--"+option+" "+b.names.of(n.ID)+"/"+rule)
			}
		}
		if len(meant) > 1 {
			e := access.Errorf(access.CodeAmbiguous, "--%s %s means a rule in each of %d network security groups", option, s, len(meant)).WithHint("name the one: %s", strings.Join(meant, ", or "))
			e.Field = option
			return e
		}
	}
	return nil
}

// holds tells whether a group has a rule of this name.
func (b *builder) holds(group, rule string) bool {
	n, ok := b.e.NSG(group)
	if !ok {
		return false
	}
	for i := range n.Rules {
		if strings.EqualFold(n.Rules[i].Name, rule) {
			return true
		}
	}
	return false
}

// spelled is somebody else's text about a machine, or about one place, with groups named as in this plan.
func (b *builder) spelled(text, vmID, place string) string {
	groups := b.pathGroups(vmID)
	if place != "" {
		groups = []string{place}
	}
	return b.names.in(text, groups, b.holds)
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

package scan

// NameOf is what the name of a rule says, for tests: kind, installation, grant and end.
func NameOf(name string) (kind, installation, grant, end string) {
	n := parseRuleName(name)
	kind = [...]string{"foreign", "allow", "deny", "exempt", "defender-allow", "defender-deny"}[n.kind]
	if !n.end.IsZero() {
		end = n.end.Format(endLayout)
	}
	return kind, n.installation, n.grant, end
}

package scan

import (
	"regexp"
	"strings"
	"time"
)

// What the name of a rule says of it. A name proves nothing: anybody who may write rules can give one. So a verdict takes from the name
// what it cannot have from elsewhere (whose rule it is, when it ends), and from the rule itself what it does.

type ruleKind uint8

const (
	foreign       ruleKind = iota
	ourAllow               // a grant
	ourDeny                // a protection
	ourExempt              // a named exemption from a protection
	defenderAllow          // a request, FACTS 1.4
	defenderDeny           // a policy
)

// ruleName is what a name says.
type ruleName struct {
	kind         ruleKind
	installation string    // of ours, lower case
	grant        string    // of ourAllow, lower case
	end          time.Time // of ourAllow
	udp          bool      // of ourDeny: what it is there to shut
}

func (n ruleName) ours() bool { return n.kind == ourAllow || n.kind == ourDeny || n.kind == ourExempt }

var (
	// The grammar of DESIGN 5. ARM compares names without case.
	ourNames = regexp.MustCompile(`(?i)^curfew-(?:` +
		`allow-([a-z0-9]{4,12})-([a-z0-9]{1,20})-([0-9]{8}T[0-9]{6}Z)` +
		`|deny-([a-z0-9]{4,12})-(tcp|udp)-[0-9]{1,5}(?:-[0-9]{1,5})?(?:-n[0-9]{1,4})?` +
		`|exempt-([a-z0-9]{4,12})-[a-z0-9]+(?:-[a-z0-9]+)*-(?:tcp|udp|any|icmp|esp|ah)-(?:[0-9]{1,5}(?:-[0-9]{1,5})?|some)(?:-n[0-9]{1,4})?` +
		`)$`)
	// FACTS 1.4: a hyphen after JITRule is a request's allow, an underscore a policy's deny. Its number may be negative.
	defenderNames = regexp.MustCompile(`(?i)^(?:MicrosoftDefenderForCloud|SecurityCenter)-JITRule([-_])-?[0-9]{1,10}[-_][0-9a-f]{32}$`)
)

const endLayout = "20060102T150405Z"

// parseRuleName reads a name; what is neither ours nor Defender's is foreign, also where it only begins like one of theirs.
func parseRuleName(name string) ruleName {
	switch {
	case len(name) > 7 && strings.EqualFold(name[:7], "curfew-"):
		m := ourNames.FindStringSubmatch(name)
		switch {
		case m == nil:
		case m[1] != "":
			end, err := time.Parse(endLayout, strings.ToUpper(m[3]))
			if err != nil {
				break
			}
			return ruleName{kind: ourAllow, installation: strings.ToLower(m[1]), grant: strings.ToLower(m[2]), end: end}
		case m[4] != "":
			return ruleName{kind: ourDeny, installation: strings.ToLower(m[4]), udp: strings.EqualFold(m[5], "udp")}
		default:
			return ruleName{kind: ourExempt, installation: strings.ToLower(m[6])}
		}
	case len(name) > 40:
		if m := defenderNames.FindStringSubmatch(name); m != nil {
			if m[1] == "-" {
				return ruleName{kind: defenderAllow}
			}
			return ruleName{kind: defenderDeny}
		}
	}
	return ruleName{}
}

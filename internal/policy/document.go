package policy

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/access"
)

// Document is a policy as it is written. The zero value has no rules and denies everything.
type Document struct {
	Version int              `yaml:"version,omitempty" json:"version,omitempty" doc:"Version of this format: 1"`
	Groups  map[string]Group `yaml:"groups,omitempty" json:"groups,omitempty" doc:"Groups of people by name; in lists of people they are written group:NAME"`
	Rules   []Rule           `yaml:"rules" json:"rules" doc:"The rules. Of those that match the strictest wins; where none matches, nobody may"`

	faults Faults // found while it was read
	broken bool   // it was not read to its end
	marks  marks
}

// Group is a set of people.
type Group struct {
	Members  []string `yaml:"members,omitempty" json:"members,omitempty" doc:"Names of people"`
	Claims   []string `yaml:"claims,omitempty" json:"claims,omitempty" doc:"Ids or names of groups, as the issuer of a token says them"`
	Includes []string `yaml:"includes,omitempty" json:"includes,omitempty" doc:"Other groups of the policy, whose people belong to this one too"`

	marks marks
}

// Rule says who may ask for what, within which limits, and who must agree. Empty lists match everything, except Approvers, where
// empty means every person with the role.
type Rule struct {
	Name            string          `yaml:"name" json:"name" doc:"Name of the rule, in messages and the audit log. Required"`
	VMs             []string        `yaml:"vms,omitempty" json:"vms,omitempty" doc:"Patterns for VM names, as db-*; none: every VM"`
	Groups          []string        `yaml:"groups,omitempty" json:"groups,omitempty" doc:"Patterns for resource groups"`
	Subscriptions   []string        `yaml:"subscriptions,omitempty" json:"subscriptions,omitempty" doc:"Ids of subscriptions"`
	Tags            map[string]List `yaml:"tags,omitempty" json:"tags,omitempty" doc:"Tags that the VM must have: name to pattern, or to several of which one must match"`
	Requesters      []string        `yaml:"requesters,omitempty" json:"requesters,omitempty" doc:"People and groups of them (group:NAME); none: everybody with the role"`
	Ports           []access.Ports  `yaml:"ports,omitempty" json:"ports,omitempty" doc:"Ports or ranges that may be asked for; none: every port"`
	Protocol        access.Protocol `yaml:"protocol,omitempty" json:"protocol,omitempty" doc:"tcp or udp; absent: both"`
	Sources         []netip.Prefix  `yaml:"sources,omitempty" json:"sources,omitempty" doc:"Networks in which a source must lie; none: anywhere"`
	Deny            bool            `yaml:"deny,omitempty" json:"deny,omitempty" doc:"Refuse what matches, whatever else matches"`
	Message         string          `yaml:"message,omitempty" json:"message,omitempty" doc:"What a rule that denies tells those whom it refuses"`
	MaxDuration     access.Duration `yaml:"max_duration,omitempty" json:"max_duration,omitempty" doc:"Longest access time, 5m to 24h; absent: 8h"`
	DefaultDuration access.Duration `yaml:"default_duration,omitempty" json:"default_duration,omitempty" doc:"Access time where none is asked for"`
	MaxTotal        access.Duration `yaml:"max_total,omitempty" json:"max_total,omitempty" doc:"Longest access time with extensions; absent: max_duration"`
	MaxAhead        access.Duration `yaml:"max_ahead,omitempty" json:"max_ahead,omitempty" doc:"How far in the future a start may lie; absent: 720h"`
	WidestIPv4      int             `yaml:"widest_ipv4,omitempty" json:"widest_ipv4,omitempty" doc:"Shortest prefix of an IPv4 source; absent: 32"`
	WidestIPv6      int             `yaml:"widest_ipv6,omitempty" json:"widest_ipv6,omitempty" doc:"Shortest prefix of an IPv6 source; absent: 64"`
	Extensions      *Extensions     `yaml:"extensions,omitempty" json:"extensions,omitempty" doc:"Whether, how often and by how much a grant may be extended; absent: within max_total"`
	Windows         []Window        `yaml:"windows,omitempty" json:"windows,omitempty" doc:"Times in which the whole access must lie; none: any time"`
	Reason          *Text           `yaml:"reason,omitempty" json:"reason,omitempty" doc:"Ask for a reason; absent: true"`
	Ticket          *Text           `yaml:"ticket,omitempty" json:"ticket,omitempty" doc:"Ask for a ticket"`
	When            string          `yaml:"when,omitempty" json:"when,omitempty" doc:"Condition in CEL that must hold for the rule to match"`
	Approvals       int             `yaml:"approvals,omitempty" json:"approvals,omitempty" doc:"How many must approve, 1 to 10; absent: 1"`
	Approvers       []string        `yaml:"approvers,omitempty" json:"approvers,omitempty" doc:"People and groups who may approve; none: everybody with the role"`
	Steps           []Step          `yaml:"steps,omitempty" json:"steps,omitempty" doc:"Several steps of approval, in place of approvals and approvers. Each person serves one of them"`
	InOrder         bool            `yaml:"in_order,omitempty" json:"in_order,omitempty" doc:"A step is answered once those before it are"`
	AutoApprove     *AutoApprove    `yaml:"auto_approve,omitempty" json:"auto_approve,omitempty" doc:"Approve without a person what the condition allows"`
	BreakGlass      *BreakGlass     `yaml:"break_glass,omitempty" json:"break_glass,omitempty" doc:"Who may open at once in an emergency, to be reviewed afterwards"`
	HardClose       bool            `yaml:"hard_close,omitempty" json:"hard_close,omitempty" doc:"End open connections when the access is over, where the back end can"`
	WarnBefore      access.Duration `yaml:"warn_before,omitempty" json:"warn_before,omitempty" doc:"How long before the end the requester is told"`
	Notify          []string        `yaml:"notify,omitempty" json:"notify,omitempty" doc:"Names of channels that hear of requests under the rule"`
	Rules           []Rule          `yaml:"rules,omitempty" json:"rules,omitempty" doc:"Rules for a part of this rule's machines: its scope (vms, groups, subscriptions, tags) holds for them too"`

	marks marks
}

// Extensions says whether and how a grant may be extended.
type Extensions struct {
	Allowed bool            `yaml:"allowed" json:"allowed" doc:"May be extended at all; absent: true"`
	Max     int             `yaml:"max,omitempty" json:"max,omitempty" doc:"How often; absent: as max_total allows"`
	Each    access.Duration `yaml:"each,omitempty" json:"each,omitempty" doc:"By how much at a time; absent: as max_total allows"`

	marks marks
}

// Window is a time that comes again: on days of the week, from a time of day to another, by the clocks of a zone.
type Window struct {
	Days []string `yaml:"days,omitempty" json:"days,omitempty" doc:"Days on which it begins: mon to sun, mon-fri; none: every day"`
	From string   `yaml:"from,omitempty" json:"from,omitempty" doc:"Time of day at which it begins, as 08:00; absent: 00:00"`
	To   string   `yaml:"to,omitempty" json:"to,omitempty" doc:"Time of day at which it ends, up to 24:00; not after from: on the next day; absent: 24:00"`
	Zone string   `yaml:"zone,omitempty" json:"zone,omitempty" doc:"Time zone, as Europe/Berlin; absent: UTC"`

	marks marks
}

// Text says what a reason or a ticket must be. It is written true, false, or as a mapping.
type Text struct {
	Required bool   `yaml:"required" json:"required" doc:"It must be given; absent: true"`
	Pattern  string `yaml:"pattern,omitempty" json:"pattern,omitempty" doc:"Regular expression (RE2) that the whole text must match, if it is given"`
	Message  string `yaml:"message,omitempty" json:"message,omitempty" doc:"What is told to those whose text is missing or does not match"`

	marks marks
}

// Step is who must approve, and how many.
type Step struct {
	Name          string          `yaml:"name,omitempty" json:"name,omitempty" doc:"Name of the step, in messages"`
	Approvers     []string        `yaml:"approvers,omitempty" json:"approvers,omitempty" doc:"People and groups who may approve; none: everybody with the role"`
	Count         int             `yaml:"count,omitempty" json:"count,omitempty" doc:"How many different people, 1 to 10; absent: 1"`
	RemindAfter   access.Duration `yaml:"remind_after,omitempty" json:"remind_after,omitempty" doc:"How long after the asking they are reminded"`
	EscalateAfter access.Duration `yaml:"escalate_after,omitempty" json:"escalate_after,omitempty" doc:"How long after the asking others may answer too"`
	EscalateTo    []string        `yaml:"escalate_to,omitempty" json:"escalate_to,omitempty" doc:"Those others: people and groups"`

	marks marks
}

// AutoApprove says what is approved without a person.
type AutoApprove struct {
	When        string          `yaml:"when,omitempty" json:"when,omitempty" doc:"Condition in CEL; absent: whatever the rule matches"`
	MaxDuration access.Duration `yaml:"max_duration" json:"max_duration" doc:"Longest access time that is approved so, extensions included. Required"`
	Sources     []netip.Prefix  `yaml:"sources,omitempty" json:"sources,omitempty" doc:"Networks in which the source must lie for it; none: as the rule says"`

	marks marks
}

// BreakGlass says who may open at once.
type BreakGlass struct {
	Requesters  []string        `yaml:"requesters" json:"requesters" doc:"People and groups who may. Required: nobody may where it is empty"`
	MaxDuration access.Duration `yaml:"max_duration" json:"max_duration" doc:"Longest access time, 5m to 4h. Required"`
	Reason      *Text           `yaml:"reason,omitempty" json:"reason,omitempty" doc:"Ask for a reason; absent: true"`
	Ticket      *Text           `yaml:"ticket,omitempty" json:"ticket,omitempty" doc:"Ask for a ticket; absent: false"`

	marks marks
}

// List is one text or several.
type List []string

// MarshalYAML implements yaml.Marshaler.
func (l List) MarshalYAML() (any, error) {
	if len(l) == 1 {
		return l[0], nil
	}
	return []string(l), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *List) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*l = List{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(l))
}

type textMapping Text

// MarshalYAML implements yaml.Marshaler.
func (t Text) MarshalYAML() (any, error) {
	if t.Pattern == "" && t.Message == "" {
		return t.Required, nil
	}
	return textMapping(t), nil
}

// UnmarshalYAML implements yaml.Unmarshaler. It never fails: what is wrong is kept with its place, and New reports it.
func (d *Document) UnmarshalYAML(n *yaml.Node) error {
	*d = decode(n, "")
	return nil
}

// Print writes the policy so that Parse reads the same.
func (d Document) Print() ([]byte, error) { return yaml.Dump(d) }

// each calls f for every rule of the tree, a parent before its children, with the rules around it. The rule may be changed.
func each(rules []Rule, around []*Rule, f func(r *Rule, around []*Rule)) {
	for i := range rules {
		f(&rules[i], around)
		each(rules[i].Rules, append(slices.Clip(around), &rules[i]), f)
	}
}

// Count returns the number of rules, nested ones included.
func (d Document) Count() int {
	n := 0
	each(d.Rules, nil, func(*Rule, []*Rule) { n++ })
	return n
}

// All goes through every rule with its place in the document: "rules[0].rules[1]".
func (d Document) All() iter.Seq2[string, Rule] {
	return func(yield func(string, Rule) bool) { all(d.Rules, "", yield) }
}

func all(rules []Rule, path string, yield func(string, Rule) bool) bool {
	for i, r := range rules {
		at := fmt.Sprintf("%srules[%d]", path, i)
		if !yield(at, r) || !all(r.Rules, at+".", yield) {
			return false
		}
	}
	return true
}

// IsGroup tells whether an entry of a list of people is a group: group:NAME.
func IsGroup(s string) bool { return isGroup(s) }

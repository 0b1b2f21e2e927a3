package access

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Role is what a person may do. Roles do not imply one another.
type Role string

// The roles of people (DESIGN 2).
const (
	Requester Role = "requester"
	Approver  Role = "approver"
	Auditor   Role = "auditor"
	Admin     Role = "admin"
)

// Kind is what sort of account a caller has.
type Kind string

// The kinds of account.
const (
	Person   Kind = ""         // somebody who signed in
	Workload Kind = "workload" // a program with a federated token
	APIToken Kind = "token"    // a program with a token of ours
)

// Caller is who is asking, as sign-in established it. The zero value may nothing.
type Caller struct {
	Name  string
	Roles []Role
	// Groups are those that the issuer of the caller's token, or the configuration, says they are in. Compared without case.
	Groups []string
	// Kind tells people from programs. A program never approves.
	Kind Kind
	// Sponsor is the person who answers for a program. They do not decide on what it asks for (P6).
	Sponsor string
	// Session identifies the sign-in, for ending it. Empty if there is none.
	Session string
	// Address is where the call came from, for my-ip and for the log. Invalid if unknown.
	Address netip.Addr
	// Service marks the program itself: timers and the reconciler.
	Service bool
}

// Has tells whether the caller has the role.
func (c Caller) Has(r Role) bool { return c.Name != "" && slices.Contains(c.Roles, r) }

// Rule says who may ask for what, within which limits, and how many must approve. Empty lists match everything, except
// Approvers, where empty means every person with the role.
type Rule struct {
	Name          string         `yaml:"name" json:"name"`
	VMs           []string       `yaml:"vms,omitempty" json:"vms,omitempty"`                     // globs over the VM's name
	Groups        []string       `yaml:"groups,omitempty" json:"groups,omitempty"`               // globs over the resource group
	Subscriptions []string       `yaml:"subscriptions,omitempty" json:"subscriptions,omitempty"` // ids
	Requesters    []string       `yaml:"requesters,omitempty" json:"requesters,omitempty"`
	Ports         []Ports        `yaml:"ports,omitempty" json:"ports,omitempty"`
	Sources       []netip.Prefix `yaml:"sources,omitempty" json:"sources,omitempty"` // a source must lie in one of them
	Deny          bool           `yaml:"deny,omitempty" json:"deny,omitempty"`       // matches are refused, whatever else matches
	MaxDuration   Duration       `yaml:"max_duration,omitempty" json:"max_duration,omitempty"`
	MaxTotal      Duration       `yaml:"max_total,omitempty" json:"max_total,omitempty"` // with extensions; zero: MaxDuration
	MaxAhead      Duration       `yaml:"max_ahead,omitempty" json:"max_ahead,omitempty"` // how far in the future a start may lie
	WidestIPv4    int            `yaml:"widest_ipv4,omitempty" json:"widest_ipv4,omitempty"`
	WidestIPv6    int            `yaml:"widest_ipv6,omitempty" json:"widest_ipv6,omitempty"`
	Approvals     int            `yaml:"approvals,omitempty" json:"approvals,omitempty"`
	Approvers     []string       `yaml:"approvers,omitempty" json:"approvers,omitempty"`
	Reason        *bool          `yaml:"reason,omitempty" json:"reason,omitempty"` // a justification is required; unset: yes
	Ticket        bool           `yaml:"ticket,omitempty" json:"ticket,omitempty"`
}

// Policy is the list of rules. Of several that match the strictest wins; none means denied (P6).
type Policy struct {
	Rules []Rule `yaml:"rules" json:"rules"`
}

// The limits where a rule says nothing.
const (
	DefaultMaxDuration = 8 * time.Hour
	DefaultMaxAhead    = 30 * 24 * time.Hour
	AbsoluteMax        = 24 * time.Hour // as Defender's JIT (FACTS 1.1): a day is not just in time any more
	DefaultWidestIPv4  = 32
	DefaultWidestIPv6  = 64 // what one client's network commonly is
)

// Ask is what a policy is asked about.
type Ask struct {
	Requester    string
	Subscription string // of targets whose id does not name it
	Group        string // likewise
	Terms        Terms
	StartAt      time.Time
	Reason       string
	Ticket       string
	Held         time.Duration // for an extension: the duration of the grant so far, its extensions included
	Extension    bool
	Extensions   int               // for an extension: how many the grant has had
	BreakGlass   bool              // opens at once, for those whom a rule lists
	Groups       []string          // of the requester, as the policy names them
	Roles        []Role            // of the requester
	Tags         map[string]string // of the machine; nil: none, or not known
	OS, Location string            // of the machine
}

// Limits is the strictest of what the matching rules allow.
type Limits struct {
	Rules       []string      `json:"rules"`
	MaxDuration time.Duration `json:"max_duration"`
	MaxTotal    time.Duration `json:"max_total"`
	MaxAhead    time.Duration `json:"max_ahead"`
	WidestIPv4  int           `json:"widest_ipv4"`
	WidestIPv6  int           `json:"widest_ipv6"`
	Reason      bool          `json:"reason"`
	Ticket      bool          `json:"ticket"`
	// Needs is who must approve: what each matching rule asks for. A rule that approves by itself has none.
	Needs []Need `json:"needs,omitempty"`
	// Auto names the rules that approve by themselves; the request is approved at once only where no rule needs anybody.
	Auto []string `json:"auto,omitempty"`
	// MaxExtensions is how often a grant may be extended, MaxExtension by how much at a time; zero: as MaxTotal allows.
	MaxExtensions int           `json:"max_extensions,omitempty"`
	NoExtensions  bool          `json:"no_extensions,omitempty"`
	MaxExtension  time.Duration `json:"max_extension,omitempty"`
	// WarnBefore is how long before the end the requester is told; zero: the broker's default.
	WarnBefore time.Duration `json:"warn_before,omitempty"`
	// HardClose ends connections that are open when the grant is over, where the back end can.
	HardClose bool `json:"hard_close,omitempty"`
	// Notify names the channels that hear of the request.
	Notify []string `json:"notify,omitempty"`
}

// Approvals returns how many people must approve at least.
func (l Limits) Approvals() int { return Approvals(l.Needs) }

// GroupsOf returns the caller's groups: this form of policy has none of its own.
func (p Policy) GroupsOf(c Caller) []string { return c.Groups }

// Validate reports every fault of the policy at once.
func (p Policy) Validate() error {
	var faults []string
	seen := map[string]bool{}
	for i, r := range p.Rules {
		at := fmt.Sprintf("rule %d (%s)", i+1, r.Name)
		if r.Name == "" {
			faults = append(faults, fmt.Sprintf("rule %d has no name", i+1))
		} else if seen[r.Name] {
			faults = append(faults, at+": the name is used twice")
		}
		seen[r.Name] = true
		for _, list := range [][]string{r.VMs, r.Groups, r.Subscriptions, r.Requesters, r.Approvers} {
			if slices.ContainsFunc(list, func(s string) bool { return strings.TrimSpace(s) == "" }) {
				faults = append(faults, at+": a list holds an empty entry, which would match nothing")
			}
		}
		for _, g := range slices.Concat(r.VMs, r.Groups) {
			if _, err := path.Match(g, ""); err != nil {
				faults = append(faults, fmt.Sprintf("%s: pattern %q is malformed", at, g))
			}
		}
		for _, ports := range r.Ports {
			if !ports.Valid() {
				faults = append(faults, fmt.Sprintf("%s: port %s is not a port", at, ports))
			}
		}
		for _, s := range r.Sources {
			if !s.IsValid() || s.Masked() != s || s.Addr().Is4In6() {
				faults = append(faults, fmt.Sprintf("%s: source %s is not a prefix", at, s))
			}
		}
		if r.MaxDuration != 0 && r.MaxTotal != 0 && r.MaxTotal < r.MaxDuration {
			faults = append(faults, fmt.Sprintf("%s: max_total %s is less than max_duration %s", at, r.MaxTotal, r.MaxDuration))
		}
		if n := people(r.Approvers); n > 0 && n < r.Approvals {
			faults = append(faults, fmt.Sprintf("%s: %d approvals of %d approvers can never be had", at, r.Approvals, n))
		}
		for _, d := range []Duration{r.MaxDuration, r.MaxTotal} {
			if d != 0 && (time.Duration(d) < MinDuration || time.Duration(d) > AbsoluteMax) {
				faults = append(faults, fmt.Sprintf("%s: duration %s is not between %s and %s", at, d, Duration(MinDuration), Duration(AbsoluteMax)))
			}
		}
		if r.MaxAhead < 0 || r.WidestIPv4 < 0 || r.WidestIPv4 > 32 || r.WidestIPv6 < 0 || r.WidestIPv6 > 128 || r.Approvals < 0 || r.Approvals > 10 {
			faults = append(faults, at+": max_ahead, widest_ipv4 (0-32), widest_ipv6 (0-128) or approvals (0-10) is out of range")
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return Errorf(CodeInvalid, "the policy is wrong: %s", strings.Join(faults, "; ")).WithHint("correct it and load it again")
}

func people(names []string) int {
	n := 0
	for i, a := range names {
		if !slices.ContainsFunc(names[:i], func(b string) bool { return SamePerson(a, b) }) {
			n++
		}
	}
	return n
}

// Decide returns the limits within which the ask is allowed, or why it is not. Each target is judged by all rules that match it;
// the limits of all of them are combined so that the strictest wins (P6). The limits come with the error where it is the limits
// that refuse.
func (p Policy) Decide(a Ask, now time.Time) (Limits, error) {
	if strings.TrimSpace(a.Requester) == "" {
		return Limits{}, Errorf(CodeUnauthenticated, "nobody is asking").WithHint("sign in first: curfew login")
	}
	if err := a.Terms.Check(); err != nil {
		return Limits{}, err
	}
	var all []Limits
	for _, t := range a.Terms.Targets {
		n := len(all)
		for _, r := range p.Rules {
			if !r.matches(a, t) {
				continue
			}
			if r.Deny {
				return Limits{}, Errorf(CodeDenied, "rule %s forbids %s", r.Name, t).WithHint("ask an admin why")
			}
			all = append(all, r.limits())
		}
		if len(all) == n {
			return Limits{}, Errorf(CodeDenied, "no policy rule lets %s ask for %s from %s", a.Requester, t, a.Terms.Source).
				WithHint("an admin can add a rule to the policy")
		}
	}
	l := all[0]
	for _, o := range all[1:] {
		l = l.Strictest(o)
	}
	return l, l.check(a, now)
}

// matches tells whether the rule is about the target. What cannot be judged does not match a permission, and matches a
// prohibition.
func (r Rule) matches(a Ask, t Target) bool {
	sub, group := t.VM.Scope()
	if sub == "" {
		sub, group = a.Subscription, a.Group
	}
	if len(r.VMs) > 0 && !r.matchAny(r.VMs, t.VM.Name) || len(r.Groups) > 0 && !r.matchAny(r.Groups, group) {
		return false
	}
	if len(r.Subscriptions) > 0 && !(sub == "" && r.Deny) && !slices.ContainsFunc(r.Subscriptions, func(s string) bool {
		return sub != "" && strings.EqualFold(s, sub)
	}) {
		return false
	}
	if len(r.Requesters) > 0 && !slices.ContainsFunc(r.Requesters, func(s string) bool { return SamePerson(s, a.Requester) }) {
		return false
	}
	if r.Deny { // a prohibition touches whatever overlaps; a permission must cover the whole
		return (len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, t.Ports.Overlaps)) &&
			(len(r.Sources) == 0 || slices.ContainsFunc(r.Sources, a.Terms.Source.Overlaps))
	}
	if len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.Contains(t.Ports) }) {
		return false
	}
	return len(r.Sources) == 0 || slices.ContainsFunc(r.Sources, func(s netip.Prefix) bool { return PrefixWithin(a.Terms.Source, s) })
}

func (r Rule) matchAny(globs []string, name string) bool {
	if name == "" {
		return r.Deny
	}
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, err := path.Match(strings.ToLower(g), strings.ToLower(name))
		return ok || err != nil && r.Deny
	})
}

func (r Rule) limits() Limits {
	l := Limits{Rules: []string{r.Name}, MaxDuration: time.Duration(r.MaxDuration), MaxTotal: time.Duration(r.MaxTotal), MaxAhead: time.Duration(r.MaxAhead),
		WidestIPv4: r.WidestIPv4, WidestIPv6: r.WidestIPv6, Reason: r.Reason == nil || *r.Reason, Ticket: r.Ticket,
		Needs: []Need{{Rule: r.Name, Steps: []Step{{Approvers: r.Approvers, Count: max(r.Approvals, 1)}}}}}
	if l.MaxDuration == 0 {
		l.MaxDuration = DefaultMaxDuration
	}
	if l.MaxTotal == 0 {
		l.MaxTotal = l.MaxDuration
	}
	l.MaxTotal = min(l.MaxTotal, AbsoluteMax)
	l.MaxDuration = min(l.MaxDuration, l.MaxTotal)
	if l.MaxAhead == 0 {
		l.MaxAhead = DefaultMaxAhead
	}
	if l.WidestIPv4 == 0 {
		l.WidestIPv4 = DefaultWidestIPv4
	}
	if l.WidestIPv6 == 0 {
		l.WidestIPv6 = DefaultWidestIPv6
	}
	return l
}

// Strictest combines two sets of limits so that both are kept.
func (l Limits) Strictest(o Limits) Limits {
	return Limits{
		Rules:       union(l.Rules, o.Rules),
		MaxDuration: min(l.MaxDuration, o.MaxDuration), MaxTotal: min(l.MaxTotal, o.MaxTotal), MaxAhead: min(l.MaxAhead, o.MaxAhead),
		WidestIPv4: max(l.WidestIPv4, o.WidestIPv4), WidestIPv6: max(l.WidestIPv6, o.WidestIPv6),
		Reason: l.Reason || o.Reason, Ticket: l.Ticket || o.Ticket,
		Needs: Needs(l.Needs, o.Needs), Auto: union(l.Auto, o.Auto),
		MaxExtensions: least(l.MaxExtensions, o.MaxExtensions), NoExtensions: l.NoExtensions || o.NoExtensions, MaxExtension: least(l.MaxExtension, o.MaxExtension),
		WarnBefore: max(l.WarnBefore, o.WarnBefore), HardClose: l.HardClose || o.HardClose, Notify: union(l.Notify, o.Notify),
	}
}

// least returns the smaller one, where zero means that there is none.
func least[T int | time.Duration](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// MayApprove tells whether a first approval by the person would serve. By limits that no policy set, nobody's does.
func (l Limits) MayApprove(a Authority, asked, now time.Time) bool {
	return a.Name != "" && len(l.Needs) > 0 && Serves(l.Needs, nil, a.Name, []Authority{a}, asked, now)
}

func (l Limits) check(a Ask, now time.Time) error {
	d, rules := a.Terms.Duration, strings.Join(l.Rules, ", ")
	switch {
	case d < MinDuration:
		return tooShort(d)
	case a.Extension && d > l.MaxTotal-a.Held: // so written that nothing overflows
		hint := "ask for a new grant when this one is over"
		if rest := l.MaxTotal - a.Held; rest >= MinDuration {
			hint = fmt.Sprintf("ask for %s instead", Duration(rest))
		}
		return Errorf(CodeDenied, "the grant lasts %s; with %s more it would be longer than the %s in total that rule %s allows",
			Duration(a.Held), Duration(d), Duration(l.MaxTotal), rules).WithHint("%s", hint)
	case !a.Extension && d > l.MaxDuration:
		return Errorf(CodeDenied, "%s is over the limit: rule %s allows %s", Duration(d), rules, Duration(l.MaxDuration)).
			WithHint("ask for %s instead", Duration(l.MaxDuration))
	case l.Reason && strings.TrimSpace(a.Reason) == "":
		return invalid("reason", "rule %s asks for a reason, and none was given", rules).WithHint("add --reason, for example --reason \"INC-4711 disk full\"")
	case l.Ticket && strings.TrimSpace(a.Ticket) == "":
		return invalid("ticket", "rule %s asks for a ticket, and none was given", rules).WithHint("add --ticket")
	case len(a.Reason) > 500:
		return invalid("reason", "the reason is longer than 500 bytes").WithHint("say it shorter, and name a ticket for the rest")
	case len(a.Ticket) > 100:
		return invalid("ticket", "the ticket is longer than 100 bytes").WithHint("name its number alone")
	case !plain(a.Reason):
		return invalid("reason", "the reason holds control characters, which could hide what an approver reads").WithHint("write it as plain text")
	case !plain(a.Ticket):
		return invalid("ticket", "the ticket holds control characters").WithHint("write it as plain text")
	}
	widest := l.WidestIPv4
	if a.Terms.Source.Addr().Is6() {
		widest = l.WidestIPv6
	}
	if a.Terms.Source.Bits() < widest {
		return Errorf(CodeDenied, "source %s is wider than rule %s allows: /%d at most", a.Terms.Source, rules, widest).
			WithHint("ask from your own address: leave --from out, or name a narrower prefix")
	}
	if !a.StartAt.IsZero() {
		if a.StartAt.Before(now.Add(-time.Minute)) {
			return invalid("start", "start %s is in the past; it is %s now", Clock(a.StartAt), Clock(now)).WithHint("leave --at out to start as soon as it is approved")
		}
		if a.StartAt.Sub(now) > l.MaxAhead {
			return Errorf(CodeDenied, "start %s is too far ahead: rule %s allows %s", Clock(a.StartAt), rules, Duration(l.MaxAhead)).
				WithHint("ask for a start before %s", Clock(now.Add(l.MaxAhead)))
		}
	}
	return nil
}

func tooShort(d time.Duration) *Error {
	return invalid("duration", "%s is shorter than the least duration, %s", Duration(d), Duration(MinDuration)).
		WithHint("ask for %s", Duration(MinDuration))
}

// plain tells whether a terminal shows s as it is: valid UTF-8 without control characters, line ends and tabs aside, and without
// those that turn the direction of writing.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) || unicode.Is(unicode.Bidi_Control, r)
	})
}

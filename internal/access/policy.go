package access

import (
	"net/netip"
	"slices"
	"time"
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
	// Via is where they act, if not through the API: "slack", for example.
	Via string
	// Service marks the program itself: timers and the reconciler.
	Service bool
}

// Has tells whether the caller has the role.
func (c Caller) Has(r Role) bool { return c.Name != "" && slices.Contains(c.Roles, r) }

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

func tooShort(d time.Duration) *Error {
	return invalid("duration", "%s is shorter than the least duration, %s", Duration(d), Duration(MinDuration)).
		WithHint("ask for %s", Duration(MinDuration))
}

package broker

import (
	"context"
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Service is what a caller can do. *Broker implements it; the server serves it. Each method checks the caller, records what it
// does before it does it, and returns an *access.Error for whatever it refuses.
type Service interface {
	// VMs lists the machines that the caller may see, sorted by need; query matches names.
	VMs(ctx context.Context, c access.Caller, query string) ([]VMInfo, error)
	// VM returns one machine with its protection, what reaches it, and who is in.
	VM(ctx context.Context, c access.Caller, ref string) (VMInfo, error)

	// PlanProtect computes what protect (or, with Off, unprotect) would write, and what it would mean. It changes nothing.
	PlanProtect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error)
	// Protect does what was planned: with a Digest, only if the plan is still the same. It reports success only when the effective
	// verdict for each port is deny (P4).
	Protect(ctx context.Context, c access.Caller, in ProtectInput) (ProtectPlan, error)

	// PlanRequest is the dry run of a request: would it be allowed, who must approve, would the caller get in, what else changes.
	PlanRequest(ctx context.Context, c access.Caller, in RequestInput) (RequestPlan, error)
	CreateRequest(ctx context.Context, c access.Caller, in RequestInput) (access.Request, error)
	Request(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error)
	Requests(ctx context.Context, c access.Caller, f RequestFilter) ([]access.Request, string, error)
	Approve(ctx context.Context, c access.Caller, id access.RequestID, in ReviewInput) (access.Request, error)
	Deny(ctx context.Context, c access.Caller, id access.RequestID, comment string) (access.Request, error)
	Cancel(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error)
	// Comment says something about a request without deciding on it.
	Comment(ctx context.Context, c access.Caller, id access.RequestID, text string) (access.Request, error)
	// Remind tells those for whom a request waits once more, at most every five minutes.
	Remind(ctx context.Context, c access.Caller, id access.RequestID) (access.Request, error)
	// BreakGlass opens at once, for those whom a rule lists for it, and tells everybody who was not asked. The review that follows
	// stays open until somebody other than the user closes it.
	BreakGlass(ctx context.Context, c access.Caller, in RequestInput) (access.Request, error)
	// Aftermath lists the accesses behind broken glass at which nobody has looked back yet.
	Aftermath(ctx context.Context, c access.Caller) ([]access.Request, error)
	CloseAftermath(ctx context.Context, c access.Caller, id access.RequestID, comment string) (access.Request, error)
	// Delegate has another approver answer in the caller's place until an instant.
	Delegate(ctx context.Context, c access.Caller, in DelegateInput) (Delegation, error)
	Delegations(ctx context.Context, c access.Caller) ([]Delegation, error)
	EndDelegation(ctx context.Context, c access.Caller, id string) error

	Grant(ctx context.Context, c access.Caller, id access.GrantID) (access.Grant, error)
	Grants(ctx context.Context, c access.Caller, f GrantFilter) ([]access.Grant, string, error)
	// Extend asks for more time on a live grant: a request that needs its own review.
	Extend(ctx context.Context, c access.Caller, id access.GrantID, by time.Duration, reason, key string) (access.Request, error)
	// Close shuts one's own grant early; Revoke somebody else's. Both go on when the store or the log cannot be written (P7, P9).
	Close(ctx context.Context, c access.Caller, id access.GrantID) (access.Grant, error)
	Revoke(ctx context.Context, c access.Caller, id access.GrantID, comment string) (access.Grant, error)

	Entries(ctx context.Context, c access.Caller, f AuditFilter) ([]audit.Entry, error)
	// Watch returns entries as they are written, from after on, filtered to what the caller may see; it ends with ctx.
	Watch(ctx context.Context, c access.Caller, after int64) (<-chan audit.Entry, error)
	Checkpoint(ctx context.Context, c access.Caller) (audit.Checkpoint, error)

	// Reconcile runs a whole sweep now and says what it found and did.
	Reconcile(ctx context.Context, c access.Caller) (SweepReport, error)
	// RunScan scans everything now, keeps the report and returns once it stands. Callers at the same time share one scan.
	RunScan(ctx context.Context, c access.Caller) (scan.Head, error)
	// Explain says whether a source gets to a port of a machine, on which way, and which rule decides at each hop.
	Explain(ctx context.Context, c access.Caller, in ExplainInput) (scan.Explanation, error)
	// Scans lists the scans that are kept, newest first.
	Scans(ctx context.Context, c access.Caller, p Page) ([]scan.Head, string, error)
	// Scan returns a kept scan with its report; Latest, or "", names the newest.
	Scan(ctx context.Context, c access.Caller, id string) (ScanRecord, error)
	// DiffScans says what appeared, went and changed from one scan to another; "" for from is the scan before.
	DiffScans(ctx context.Context, c access.Caller, from, to string) (scan.Difference, error)

	// Notices lists what channels are told, newest first; dead letters are those that nobody got.
	Notices(ctx context.Context, c access.Caller, f NoticeFilter) ([]notify.Notice, string, error)
	Notice(ctx context.Context, c access.Caller, id string) (notify.Notice, error)
	// RetryNotice has a dead letter tried again.
	RetryNotice(ctx context.Context, c access.Caller, id string) (notify.Notice, error)
	// TestChannel sends a channel a notice that says nothing but that it works.
	TestChannel(ctx context.Context, c access.Caller, channel string) (notify.Notice, error)
	// Accounts lists the people who have signed in through the issuer, and whom their names belong to.
	Accounts(ctx context.Context, c access.Caller) ([]Account, error)
	// ReleaseAccount frees a name, ends its sessions and lifts what kept its owner out: whoever signs in with it next has it.
	ReleaseAccount(ctx context.Context, c access.Caller, person, comment string) error
	// Sessions lists the caller's own sessions, or everybody's for an admin.
	Sessions(ctx context.Context, c access.Caller, all bool) ([]Session, error)
	// EndSessions ends the sessions of a person at once, and returns how many there were.
	EndSessions(ctx context.Context, c access.Caller, in EndSessionsInput) (int, error)
	// CreateToken makes a token for a program; its secret is returned this once. The caller answers for what is done with it.
	CreateToken(ctx context.Context, c access.Caller, in TokenInput) (APIToken, string, error)
	Tokens(ctx context.Context, c access.Caller) ([]APIToken, error)
	// RevokeToken ends a token, by id or name, at once.
	RevokeToken(ctx context.Context, c access.Caller, id, comment string) error

	// LinkIdentity makes an identity elsewhere the caller's own, with a code that was shown to it there; without a confirmation it only
	// says whose code it is.
	LinkIdentity(ctx context.Context, c access.Caller, in LinkInput) (Link, error)
	Links(ctx context.Context, c access.Caller) ([]Link, error)
	Unlink(ctx context.Context, c access.Caller, id string) error

	// Policy returns the policy that is in force.
	Policy(ctx context.Context, c access.Caller) (policy.Info, error)
	// PolicyWho says who can get into a machine, within what, and who must agree.
	PolicyWho(ctx context.Context, c access.Caller, vm string) (policy.WhoReport, error)
	// ReplayPolicy decides the requests of the last 90 days again, by the text of another policy. It changes nothing.
	ReplayPolicy(ctx context.Context, c access.Caller, text string) (policy.ReplayReport, error)

	// Resume ends a hold on openings (restored database, clock gone back) once an admin has looked.
	Resume(ctx context.Context, c access.Caller, comment string) error
	Status(ctx context.Context) Status
}

// VMInfo is a machine as people see it.
type VMInfo struct {
	VM           access.VM          `json:"vm"`
	Group        string             `json:"group"`
	Subscription string             `json:"subscription"`
	Location     string             `json:"location"`
	OS           string             `json:"os"`
	Tags         map[string]string  `json:"tags,omitempty"`
	State        string             `json:"state"` // protected, unprotected, exposed, ineffective, unprotectable, unknown
	Why          string             `json:"why,omitempty"`
	PrivateIPs   []netip.Addr       `json:"private_ips"`
	PublicIPs    []netip.Addr       `json:"public_ips"`
	Connect      []string           `json:"connect,omitempty"` // where a client connects to: "203.0.113.5:22", a load balancer's "198.51.100.7:50001 → 22"
	NSGs         []string           `json:"nsgs"`
	Protection   *access.Protection `json:"protection,omitempty"`
	Exposures    []Exposure         `json:"exposures,omitempty"`
	Grants       []access.Grant     `json:"grants,omitempty"` // live and scheduled, of those that the caller may see
	ReadAt       time.Time          `json:"read_at"`
}

// Exposure is a way in to a management port, grants and named exemptions aside.
type Exposure struct {
	Ports   access.Ports    `json:"port"`
	Proto   access.Protocol `json:"protocol"`
	From    string          `json:"from"` // Internet, virtual network, or ranges
	Rule    string          `json:"rule"` // the deciding rule, as NSG/RULE
	Allowed bool            `json:"allowed"`
	Unknown string          `json:"unknown,omitempty"` // why it could not be evaluated (P10)
}

// ProtectInput asks for protection of machines, or for its end.
type ProtectInput struct {
	VMs        []string               `json:"vms"` // references
	Off        bool                   `json:"off"`
	Ports      []access.ProtectedPort `json:"ports"` // empty: 22 on Linux, 3389 on Windows
	Exemptions []access.Exemption     `json:"exemptions"`
	NoExempt   bool                   `json:"no_exempt"` // do not exempt Bastion subnets and probes by default
	CreateNSG  bool                   `json:"create_nsg"`
	Replace    []string               `json:"replace"` // consents: "NSG/RULE"
	Digest     string                 `json:"digest"`  // of the plan that was shown
}

// ProtectPlan is what protect would do, or did.
type ProtectPlan struct {
	Digest   string            `json:"digest"`
	VMs      []VMPlan          `json:"vms"`
	Changes  []enforce.Change  `json:"changes"`
	Problems []enforce.Problem `json:"problems"`
	Applied  bool              `json:"applied"`
}

// VMPlan is a plan's meaning for one machine.
type VMPlan struct {
	VM         access.VM              `json:"vm"`
	Group      string                 `json:"group"`
	Ports      []access.ProtectedPort `json:"ports"`
	Exemptions []access.Exemption     `json:"exemptions"`
	Before     []Exposure             `json:"before"` // what reaches it now
	After      []Exposure             `json:"after"`  // what would still
	Loses      []Exposure             `json:"loses"`  // what got in before and would not
	Grants     []access.GrantID       `json:"grants"` // live grants that unprotect would revoke
	Error      string                 `json:"error,omitempty"`
	Hint       string                 `json:"hint,omitempty"`
	State      string                 `json:"state,omitempty"` // after it was applied

	code access.Code // of Error
}

// RequestInput asks for access.
type RequestInput struct {
	VMs      []string        `json:"vms"`
	Ports    []access.Ports  `json:"ports"` // empty: 22 on Linux, 3389 on Windows
	Protocol access.Protocol `json:"protocol"`
	Source   string          `json:"source"` // "" or "my-ip": the caller's address
	Duration time.Duration   `json:"duration"`
	StartAt  time.Time       `json:"start_at"`
	Reason   string          `json:"reason"`
	Ticket   string          `json:"ticket"`
	Key      string          `json:"key"` // idempotency key
}

// RequestPlan is the answer to a dry run.
type RequestPlan struct {
	Terms     access.Terms     `json:"terms"`
	Limits    access.Limits    `json:"limits"`
	Approvers []string         `json:"approvers"` // who may approve, of those known
	WillGetIn bool             `json:"will_get_in"`
	Why       string           `json:"why"`
	Changes   []enforce.Change `json:"changes"`
	Also      []string         `json:"also"` // what else the opening touches
}

// ReviewInput is an approver's answer; what is set narrows.
type ReviewInput struct {
	Digest   string         `json:"digest"` // of the request as it was shown: access.Request.Digest; empty: not compared
	Via      string         `json:"via"`    // where the answer was given, if not through the API
	Comment  string         `json:"comment"`
	Duration time.Duration  `json:"duration"`
	Source   string         `json:"source"`
	Ports    []access.Ports `json:"ports"`
}

// SweepReport says what a sweep found and did.
type SweepReport struct {
	At       time.Time `json:"at"`
	Places   int       `json:"places"`   // places read
	Live     int       `json:"live"`     // grants that should be open
	Closed   []string  `json:"closed"`   // rules removed that were over or nobody's
	Repaired []string  `json:"repaired"` // drift put right
	Failed   []string  `json:"failed"`   // what could not be done, with the reason
	Unread   []string  `json:"unread"`   // what could not be read (P10)
}

// Status is the server's own state.
type Status struct {
	Ready     bool      `json:"ready"`
	Hold      string    `json:"hold,omitempty"`    // why nothing opens, if so
	Store     string    `json:"store,omitempty"`   // what is wrong with the store
	Azure     string    `json:"azure,omitempty"`   // what is wrong with Azure
	SignIn    string    `json:"sign_in,omitempty"` // what is wrong with the issuer of people's tokens
	Policy    string    `json:"policy,omitempty"`  // why the newest policy is not in force
	LastSweep time.Time `json:"last_sweep"`
	Spooled   int       `json:"spooled"` // entries that wait to be recorded
	Live      int       `json:"live"`
	Overdue   int       `json:"overdue"`
	Demo      bool      `json:"demo"`
	Version   string    `json:"version"`
}

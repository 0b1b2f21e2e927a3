// Package scan finds what is not protected and what can really be reached. It judges an estate (internal/scan/estate) by rules that
// are data: each says what it is about, when it fails and how bad that is. It is pure: no I/O and no clock, and it imports nothing
// that writes to Azure, so that it also catches the faults of what does.
//
// What could not be read is a finding of status Unknown and never a pass (promise P10).
package scan

import (
	"time"

	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Status is the verdict of one rule on one resource. The zero value is no verdict.
type Status string

// The statuses.
const (
	Pass          Status = "pass"
	Fail          Status = "fail"
	NotApplicable Status = "not_applicable" // with the reason; decided before anything else
	Unknown       Status = "unknown"        // something that the verdict needs could not be read or is contradictory
)

// Statuses lists every status, worst first.
var Statuses = []Status{Fail, Unknown, Pass, NotApplicable}

// Severity is how bad a failure is.
type Severity string

// The severities.
const (
	Critical Severity = "critical"
	High     Severity = "high"
	Medium   Severity = "medium"
	Low      Severity = "low"
)

// Severities lists every severity, worst first.
var Severities = []Severity{Critical, High, Medium, Low}

// Exposure says who reaches what a finding is about. The zero value means that reachability does not come into it.
type Exposure string

// The exposures, worst first.
const (
	ExposedInternet       Exposure = "internet"        // more of the Internet than DESIGN 6 tolerates
	ExposedSome           Exposure = "some_addresses"  // named public addresses, narrower than that
	ExposedVirtualNetwork Exposure = "virtual_network" // the virtual network and what is connected to it
	ExposedNothing        Exposure = "none"
	ExposureUnknown       Exposure = "unknown"
)

// RuleID names a rule, for example vm-jit-missing.
type RuleID string

// The rules of DESIGN 6.
const (
	VMJITMissing       RuleID = "vm-jit-missing"
	VMPortExposed      RuleID = "vm-management-port-exposed"
	VMJITIneffective   RuleID = "vm-jit-ineffective"
	VMNoNSG            RuleID = "vm-no-nsg"
	VMSSTerminateOff   RuleID = "vmss-terminate-notification-off"
	VMSSTerminateShort RuleID = "vmss-terminate-delay-short"
	JITPolicyBroad     RuleID = "jit-policy-broad"
	NSGRuleBroad       RuleID = "nsg-rule-broad"
	RuleOverdue        RuleID = "rule-overdue"
	RuleOrphaned       RuleID = "rule-orphaned"
)

// Finding is the verdict of one rule on one resource: at most one for each pair.
type Finding struct {
	ID       string   `json:"id"` // stable over scans: of rule and resource alone
	Rule     RuleID   `json:"rule"`
	Resource string   `json:"resource"` // resource id, as Azure spells it
	Status   Status   `json:"status"`
	Severity Severity `json:"severity"` // of the rule, raised where the rule says so; also where it passes
	Exposure Exposure `json:"exposure,omitempty"`
	Reason   string   `json:"reason"` // one sentence, plain text, what and why

	Name         string            `json:"name"` // of the resource
	Type         string            `json:"type"` // full type, for example Microsoft.Compute/virtualMachines
	Subscription string            `json:"subscription"`
	Group        string            `json:"group"`
	Location     string            `json:"location,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`

	Evidence    Evidence     `json:"evidence"`
	Remediation *Remediation `json:"remediation,omitempty"` // of what fails
	Compliance  []Control    `json:"compliance,omitempty"`

	Suppressed *Suppression `json:"suppressed,omitempty"` // by whom and until when; it does not count then
	Known      bool         `json:"known,omitempty"`      // it stands in the baseline; it does not count then
}

// Counts tells whether the finding counts for --fail-on.
func (f Finding) Counts() bool { return f.Suppressed == nil && !f.Known }

// Evidence is what a verdict rests on.
type Evidence struct {
	Ports []PortEvidence `json:"ports,omitempty"`
	Rules []RuleEvidence `json:"rules,omitempty"` // rules of security groups that the finding is about
	Facts []Fact         `json:"facts,omitempty"` // what was read, name and value, in the order in which it is told
}

// Fact is a value that was read or derived.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PortEvidence is what was found of one port of a machine.
type PortEvidence struct {
	Port        uint16   `json:"port"` // at the machine
	Protocol    string   `json:"protocol"`
	Exposure    Exposure `json:"exposure"`
	ProtectedBy string   `json:"protected_by,omitempty"` // curfew or defender
	Policy      string   `json:"policy,omitempty"`       // id of the JIT policy, or name of our deny rule
	Ways        []Way    `json:"ways,omitempty"`
	Open        []Hold   `json:"open,omitempty"` // live grants and live Defender requests that hold it open: no exposure
}

// Hold is a live grant or a live request of Defender.
type Hold struct {
	By      string    `json:"by"` // curfew or defender
	Rule    string    `json:"rule"`
	Sources []string  `json:"sources"`
	End     time.Time `json:"end"`
	// Of a grant of ours: what the rule's name carries. ByName tells that the name is all that speaks for it: no request in a policy does,
	// and the server that has the grant was not asked.
	Installation string `json:"installation,omitempty"`
	Grant        string `json:"grant,omitempty"`
	ByName       bool   `json:"by_name,omitempty"`
}

// Way is one path by which traffic comes to a port, and how it is judged.
type Way struct {
	Kind         string   `json:"kind"`                    // public_ip, lb_rule, nat_rule, firewall_dnat, virtual_network
	Via          string   `json:"via,omitempty"`           // id of the public address, the load balancer's rule, the firewall's rule collection
	Address      string   `json:"address,omitempty"`       // public address; "" where Azure has assigned none
	FrontendPort uint16   `json:"frontend_port,omitempty"` // what a client connects to, where it is not the machine's port
	NIC          string   `json:"nic"`
	IPConfig     string   `json:"ip_config"`
	Destination  string   `json:"destination"` // private address
	Zone         string   `json:"zone"`        // internet or virtual_network
	Access       string   `json:"access"`      // allow, deny or unknown
	Sources      []string `json:"sources,omitempty"`
	MoreSources  int      `json:"more_sources,omitempty"` // sources beyond those listed
	SourcePorts  string   `json:"source_ports,omitempty"` // the ports that a client must send from, where not any will do
	Hops         []Hop    `json:"hops"`
	Decider      int      `json:"decider"` // index in Hops of the one that decides
	Why          string   `json:"why,omitempty"`
}

// Hop is the verdict of one layer of a way.
type Hop struct {
	Layer    string `json:"layer"`           // firewall, load_balancer, public_ip, admin, subnet, nic, none
	Group    string `json:"group,omitempty"` // id of the security group, rule collection, balancer
	Rule     string `json:"rule,omitempty"`
	Priority int    `json:"priority,omitempty"`
	Access   string `json:"access"` // allow, deny or unknown
	Why      string `json:"why,omitempty"`
}

// RuleEvidence is one rule of a security group.
type RuleEvidence struct {
	NSG      string   `json:"nsg"`
	Rule     string   `json:"rule"`
	Priority int      `json:"priority"`
	Access   string   `json:"access"`
	Protocol string   `json:"protocol"`
	Sources  []string `json:"sources,omitempty"`
	Ports    []string `json:"ports,omitempty"`
	Why      string   `json:"why,omitempty"`
}

// Remediation is how to put a failure right, each way with the real ids filled in. Empty ways are left out.
type Remediation struct {
	Summary   string `json:"summary"`
	Curfew    string `json:"curfew,omitempty"`    // command line
	AzureCLI  string `json:"az,omitempty"`        // shell lines with az or az rest
	Bicep     string `json:"bicep,omitempty"`     // a fragment that compiles
	Terraform string `json:"terraform,omitempty"` // HCL
	Portal    string `json:"portal,omitempty"`    // steps
}

// Control is a control of a compliance framework that a built-in policy of Azure maps to.
type Control struct {
	Framework string `json:"framework"`
	Control   string `json:"control"`
	Policy    string `json:"policy"` // id of the built-in policy definition that carries the mapping
}

// Suppression is a person's decision to live with a finding for a time.
type Suppression struct {
	Owner  string    `json:"owner"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`
}

// Gap is something that could not be read, and what it hides. A scan with gaps is not complete, and says so.
type Gap = estate.Gap

// Report is the outcome of one scan.
type Report struct {
	ID       string    `json:"id,omitempty"` // of a scan that a server keeps
	At       time.Time `json:"at"`           // the instant that was judged for
	Source   Source    `json:"source"`
	Findings []Finding `json:"findings"` // worst first; fail and unknown alone, unless all were asked for
	Gaps     []Gap     `json:"gaps,omitempty"`
	Summary  Summary   `json:"summary"`
}

// Head is a kept scan without its findings.
type Head struct {
	ID      string    `json:"id"`
	At      time.Time `json:"at"`           // the instant that was judged for
	By      string    `json:"by"`           // who asked; curfew for the schedule
	Took    float64   `json:"took_seconds"` // from the first read to the report
	Summary Summary   `json:"summary"`
}

// Source says what was scanned.
type Source struct {
	Kind             string   `json:"kind"` // graph, arm or file
	Cloud            string   `json:"cloud,omitempty"`
	File             string   `json:"file,omitempty"`
	Subscriptions    []string `json:"subscriptions,omitempty"`
	ManagementGroups []string `json:"management_groups,omitempty"`

	Picked string `json:"-"` // in words, the filter by which findings are listed and counted; "" is all of them
}

// Summary counts. Findings that are suppressed or in the baseline are counted apart and nowhere else.
type Summary struct {
	Subscriptions int `json:"subscriptions"`
	Resources     int `json:"resources"`
	VMs           int `json:"vms"`
	ScaleSets     int `json:"scale_sets"`
	NSGs          int `json:"nsgs"`

	Statuses   map[Status]int            `json:"statuses"`   // all findings, also those that are not listed
	Severities map[Severity]int          `json:"severities"` // of fail
	Rules      map[RuleID]map[Status]int `json:"rules"`
	Exposed    int                       `json:"exposed_vms"` // machines with a management port that the Internet reaches
	Suppressed int                       `json:"suppressed"`
	Known      int                       `json:"known"`    // in the baseline
	Complete   bool                      `json:"complete"` // nothing that was asked for was hidden, and nothing that a verdict needs is missing
}

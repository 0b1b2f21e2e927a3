package api

import (
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// Duration is a length of time, written "45m", "1h30m", "1d".
type Duration = access.Duration

// Ports is a port or a range of ports, written "22" or "8000-8010".
type Ports = access.Ports

// Protocol is "tcp" or "udp".
type Protocol = access.Protocol

// List is a part of a list. Next, given as after, fetches the following part; it is absent at the end.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Goes into the after parameter of the next call; absent at the end"`
}

// VMRef names a machine.
type VMRef struct {
	ID   string `json:"id" doc:"Azure resource id, compared without case"`
	Name string `json:"name"`
	VMID string `json:"vm_id,omitempty" doc:"The unique id that Azure gave the machine when it was created"`
}

// VM is a machine as people see it. State is protected, unprotected, exposed, ineffective, unprotectable or unknown; Why says why.
type VM struct {
	VMRef
	State        string            `json:"state" doc:"protected, unprotected, exposed, ineffective, unprotectable or unknown"`
	Why          string            `json:"why,omitempty"`
	Group        string            `json:"group" doc:"Resource group"`
	Subscription string            `json:"subscription"`
	Location     string            `json:"location"`
	OS           string            `json:"os" doc:"linux or windows"`
	Tags         map[string]string `json:"tags,omitempty"`
	PrivateIPs   []netip.Addr      `json:"private_ips"`
	PublicIPs    []netip.Addr      `json:"public_ips"`
	Connect      []string          `json:"connect,omitempty" doc:"Where a client connects to, for example 203.0.113.5:22"`
	NSGs         []string          `json:"nsgs"`
	Protection   *Protection       `json:"protection,omitempty"`
	Exposures    []Exposure        `json:"exposures,omitempty"`
	Grants       []Grant           `json:"grants,omitempty" doc:"Live and scheduled, of those that the caller may see"`
	ReadAt       time.Time         `json:"read_at,omitzero" doc:"When Azure was read"`
}

// Exposure is a way in to a port, grants and named exemptions aside, and the rule that decides it.
type Exposure struct {
	Port     Ports    `json:"port"`
	Protocol Protocol `json:"protocol"`
	From     string   `json:"from" doc:"Internet, virtual network, or ranges"`
	Rule     string   `json:"rule" doc:"The deciding rule, as NSG/RULE"`
	Allowed  bool     `json:"allowed"`
	Unknown  string   `json:"unknown,omitempty" doc:"Why it could not be evaluated"`
}

// ProtectedPort is a port that is shut unless granted, with the limits that its protection sets.
type ProtectedPort struct {
	Port     Ports          `json:"port"`
	Protocol Protocol       `json:"protocol,omitempty" doc:"tcp if absent"`
	Max      Duration       `json:"max,omitempty" doc:"Longest access time; absent: the policy's"`
	Sources  []netip.Prefix `json:"sources,omitempty" doc:"Allowed sources; absent: the policy's"`
}

// Exemption is a standing way in that protect leaves, named and shown in the plan.
type Exemption struct {
	Name   string `json:"name"`
	Source string `json:"source" doc:"A prefix, or the tag AzureLoadBalancer"`
}

// Replacement names a rule of somebody else's that a person consented to replace; unprotect restores it.
type Replacement struct {
	NSG  string `json:"nsg"`
	Rule string `json:"rule"`
	By   string `json:"by"`
}

// Protection is JIT switched on for a machine.
type Protection struct {
	VM         VMRef                  `json:"vm"`
	State      access.ProtectionState `json:"state" doc:"on, pending, failed or off"`
	Why        string                 `json:"why,omitempty"`
	Ports      []ProtectedPort        `json:"ports"`
	Exemptions []Exemption            `json:"exemptions"`
	Replaced   []Replacement          `json:"replaced,omitempty"`
	By         string                 `json:"by"`
	At         time.Time              `json:"at,omitzero"`
	CheckedAt  time.Time              `json:"checked_at,omitzero" doc:"When the effective verdict was last read"`
	NSGs       []string               `json:"nsgs,omitempty" doc:"Where its rules stand"`
}

// ProtectInput asks for protection of machines or, with Off, for its end.
type ProtectInput struct {
	VMs        []string        `json:"vms" doc:"Names, group/name, or resource ids"`
	Off        bool            `json:"off,omitempty" doc:"Unprotect"`
	Ports      []ProtectedPort `json:"ports,omitempty" doc:"Absent: 22 on Linux, 3389 on Windows"`
	Exemptions []Exemption     `json:"exemptions,omitempty"`
	NoExempt   bool            `json:"no_exempt,omitempty" doc:"Do not exempt Bastion subnets and probes by default"`
	CreateNSG  bool            `json:"create_nsg,omitempty" doc:"Make a network security group where none stands"`
	Replace    []string        `json:"replace,omitempty" doc:"Consent to replace these rules of others: NSG/RULE"`
	Digest     string          `json:"digest,omitempty" doc:"Of the plan that was shown: refused if the plan has changed"`
}

// ProtectPlan is what protect would do, or did.
type ProtectPlan struct {
	Digest   string    `json:"digest"`
	VMs      []VMPlan  `json:"vms"`
	Changes  []Change  `json:"changes"`
	Problems []Trouble `json:"problems"`
	Applied  bool      `json:"applied"`
}

// VMPlan is a plan's meaning for one machine.
type VMPlan struct {
	VM         VMRef           `json:"vm"`
	Group      string          `json:"group"`
	Ports      []ProtectedPort `json:"ports"`
	Exemptions []Exemption     `json:"exemptions"`
	Before     []Exposure      `json:"before" doc:"What reaches it now"`
	After      []Exposure      `json:"after" doc:"What still would"`
	Loses      []Exposure      `json:"loses" doc:"What got in before and would not"`
	Grants     []string        `json:"grants,omitempty" doc:"Live grants that unprotect would revoke"`
	Error      string          `json:"error,omitempty"`
	Hint       string          `json:"hint,omitempty"`
	State      string          `json:"state,omitempty" doc:"After it was applied"`
}

// Change is one line of a plan: a rule that would be written or removed.
type Change struct {
	Place    string `json:"place" doc:"Where, for example the resource id of an NSG"`
	Kind     string `json:"kind" doc:"add, remove, rewrite, set_aside or restore"`
	Rule     string `json:"rule"`
	Priority int    `json:"priority,omitempty"`
	Access   string `json:"access,omitempty"`
	Summary  string `json:"summary" doc:"What the rule says, in words"`
	Why      string `json:"why,omitempty"`
}

// Trouble is something that a place cannot hold, with the rule that is in the way and what would help.
type Trouble struct {
	Place   string   `json:"place"`
	VM      string   `json:"vm,omitempty" doc:"Resource id, if it concerns one machine"`
	Grants  []string `json:"grants,omitempty"`
	Rule    string   `json:"rule,omitempty" doc:"The rule in the way"`
	Message string   `json:"message"`
	Hint    string   `json:"hint,omitempty"`
}

// ExplainInput asks whether a source gets to a port of a machine.
type ExplainInput struct {
	VM       string `json:"vm" maxLength:"1000" doc:"Name, group/name, or resource id"`
	Port     uint16 `json:"port,omitempty" doc:"Absent: 22 on Linux, 3389 on Windows"`
	Protocol string `json:"protocol,omitempty" doc:"tcp (default) or udp"`
	From     string `json:"from,omitempty" doc:"An address, internet (default) or virtual-network"`
	FromPort uint16 `json:"source_port,omitempty" doc:"The port that the source sends from. Absent: whichever gets it in"`
}

// Package estate is what a scan looks at: the resources of one or many subscriptions, as ARM and Resource Graph return them, reduced
// to what decides who reaches which machine and joined. It is pure; whoever collects hands it bodies.
//
// Bodies are not trusted to be well formed, current or complete. A body that is no resource is an error that names it. A reference
// to what is not there is a Problem of the machine that needs it. What a collector says is hidden (Builder.Hide) is unknown and never
// absent (promise P10). Ids are compared without case.
package estate

import (
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// Meta is what all resources have.
type Meta struct {
	ID           string // as Azure spells it
	Name         string
	Subscription string
	Group        string
	Location     string
	ManagedBy    string
	Tags         map[string]string
}

// VM is a virtual machine with every way to it.
type VM struct {
	Meta
	OS        string // linux, windows, or "" when it is not told
	Power     string // running, deallocated…; "" when it is not told
	ScaleSet  string // id of the scale set that it is an instance of
	Spot      bool
	Terminate Terminate
	Endpoints []Endpoint
	Problems  []Problem // what a verdict about it may need and could not be read
}

// Problem is something that is missing for a verdict.
type Problem struct {
	What     string // in words: "network interface …/nic1 was not read"
	Resource string // id of what is missing, "" when it has none
	Hidden   bool   // a collector could not read it; else it dangles
}

// Endpoint is one ipConfiguration of a machine.
type Endpoint struct {
	NIC, IPConfig     string // ids
	VNet, Subnet      string // ids, "" when not known
	SubnetNSG, NICNSG string // ids, "" is none
	Addrs             []netip.Addr

	in inlet
}

// Terminate is a terminateNotificationProfile as it was read. FACTS 4.1: off reads back as {}.
type Terminate struct {
	Profile   bool   // scheduledEventsProfile is an object with something in it
	Present   bool   // terminateNotificationProfile is there
	Enable    *bool  // nil: not told
	NotBefore string // as spelt; "" is not told
}

// ScaleSet is a virtual machine scale set.
type ScaleSet struct {
	Meta
	Flexible   bool
	HasProfile bool // it has a virtualMachineProfile; a Flexible set may have none
	Spot       bool
	Terminate  Terminate
	// UpgradeMode is Automatic, Manual or Rolling, "" when not told.
	UpgradeMode string
	Instances   []Instance
	// InstancesRead tells whether Instances is complete.
	InstancesRead bool
	Problems      []Problem
}

// Instance is an instance of a Uniform scale set.
type Instance struct {
	ID         string
	InstanceID string
	Latest     *bool // latestModelApplied; nil: not told
}

// NSG is a network security group.
type NSG struct {
	Meta
	Rules []NSGRule
	// NICs and Subnets name what it is attached to, by what those say and by what it says itself.
	NICs, Subnets []string
	Problems      []Problem // why what it says is not certain
}

// NSGRule is a rule as netsec judges it, with what else it says.
type NSGRule struct {
	netsec.Rule
	Description string
}

// JITPolicy is a just-in-time policy of Defender for Cloud. FACTS 1.1.
type JITPolicy struct {
	Meta
	ProvisioningState string
	VMs               []JITMachine
	Requests          []JITRequest
}

// JITMachine is what a policy says of one machine.
type JITMachine struct {
	VM    string // id, in whatever case
	Ports []JITPort
}

// JITPort is a port that a policy protects.
type JITPort struct {
	Number      int
	Protocol    string // TCP, UDP or *
	Sources     []string
	MaxDuration string // ISO 8601, as spelt
}

// JITRequest is one opening of one port that was asked for, live or past.
type JITRequest struct {
	VM        string
	Port      int
	Sources   []string
	Start     time.Time
	End       time.Time // zero when it could not be read: it then counts as live for nothing, and as past for nothing
	Status    string
	Requestor string
}

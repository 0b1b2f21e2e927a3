// Package roles knows which actions of Azure's roles the program needs, for what, and writes custom role definitions of them. The table is
// proven against what the program really calls: the tests run it on the simulator, as somebody who holds these roles and no other.
//
// People who ask for access need no Azure role at all: the server acts for them.
package roles

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Duty is a part of what the program does that may be given apart. The zero value is none.
type Duty string

// The duties. Read is needed for every other: each of those adds to it.
const (
	Read      Duty = "read-only"  // inventory, scans, effective rules: nothing is changed
	NSG       Duty = "nsg"        // protect, open and shut through network security groups
	Defender  Duty = "defender"   // just-in-time policies of Defender for Cloud
	ScaleSets Duty = "scale-sets" // termination notices, and instances brought to the model that has them
)

// Duties lists every duty, in the order in which they are told.
var Duties = []Duty{Read, NSG, Defender, ScaleSets}

// Title says what a duty is for.
func (d Duty) Title() string {
	switch d {
	case Read:
		return "read machines, networks and policies"
	case NSG:
		return "protect machines, open and shut ports in network security groups"
	case Defender:
		return "write just-in-time policies of Defender for Cloud"
	case ScaleSets:
		return "switch on termination notices and upgrade instances"
	}
	return ""
}

// Action is one action of a role.
type Action struct {
	Name string
	Duty Duty
	For  string // what needs it
	// Unseen says why it is in a role although no call on the simulator is checked for it; "" for all that is.
	Unseen string
}

// Actions is everything that is needed. An action stands under each duty that needs it and cannot rely on Read for it.
var Actions = []Action{
	{"Microsoft.Resources/subscriptions/read", Read, "which subscriptions there are", ""},
	{"Microsoft.Authorization/permissions/read", Read, "azure check: what the identity may do", ""},
	{"Microsoft.Resources/subscriptions/providers/read", Read, "azure check: whether providers are registered", "the simulator tells it to everybody"},
	{"Microsoft.Resources/subscriptions/resources/read", Read, "groups that hold VPN gateways, which are listed by group alone", ""},
	{"Microsoft.ResourceGraph/resources/read", Read, "the inventory and scans, page by page", "Azure lists it as the action of a query; the simulator, as its documentation says, goes by the read actions of what is asked for"},
	{"Microsoft.Compute/virtualMachines/read", Read, "machines", ""},
	{"Microsoft.Compute/virtualMachineScaleSets/read", Read, "scale sets and their termination notices", ""},
	{"Microsoft.Compute/virtualMachineScaleSets/virtualMachines/read", Read, "whether instances are on the model", ""},
	{"Microsoft.Network/networkInterfaces/read", Read, "addresses and groups of machines", ""},
	{"Microsoft.Network/networkSecurityGroups/read", Read, "effective rules, and what stands before anything is written", ""},
	{"Microsoft.Network/virtualNetworks/read", Read, "subnets, their groups and peerings", ""},
	{"Microsoft.Network/virtualNetworks/listNetworkManagerEffectiveSecurityAdminRules/action", Read, "admin rules of Virtual Network Manager, which decide before any group", ""},
	{"Microsoft.Network/networkGroupMemberships/read", Read, "which networks are under a network manager", "it is read from Resource Graph alone, which leaves out what may not be read"},
	{"Microsoft.Network/networkManagers/read", Read, "whether there is a network manager", "it is read from Resource Graph alone, which leaves out what may not be read"},
	{"Microsoft.Network/publicIPAddresses/read", Read, "what is reachable from the Internet", ""},
	{"Microsoft.Network/loadBalancers/read", Read, "ports that come in through load balancers, and probes", ""},
	{"Microsoft.Network/bastionHosts/read", Read, "Bastion, which keeps its way in", ""},
	{"Microsoft.Network/azureFirewalls/read", Read, "ports that come in through firewalls", ""},
	{"Microsoft.Network/firewallPolicies/read", Read, "their policies", ""},
	{"Microsoft.Network/firewallPolicies/ruleCollectionGroups/read", Read, "the rules of those policies", ""},
	{"Microsoft.Network/ipGroups/read", Read, "addresses that firewall rules name by group", ""},
	{"Microsoft.Network/routeTables/read", Read, "networks whose traffic goes through an appliance", ""},
	{"Microsoft.Network/virtualNetworkGateways/read", Read, "networks that are reached by VPN or ExpressRoute", ""},
	{"Microsoft.Network/localNetworkGateways/read", Read, "address ranges behind a VPN", ""},
	{"Microsoft.Network/connections/read", Read, "which gateways are connected", ""},
	{"Microsoft.Security/locations/jitNetworkAccessPolicies/read", Read, "just-in-time policies of Defender", ""},

	{"Microsoft.Network/networkSecurityGroups/write", NSG, "rules: the whole group is written, on condition that nobody wrote it meanwhile; and a new group where a machine has none", ""},
	{"Microsoft.Network/networkSecurityGroups/securityRules/delete", NSG, "shutting a port where the group cannot be written", ""},
	{"Microsoft.Network/networkSecurityGroups/delete", NSG, "taking back a group that was made", ""},
	{"Microsoft.Network/networkSecurityGroups/join/action", NSG, "putting a new group on a machine's interface", ""},
	{"Microsoft.Network/networkInterfaces/write", NSG, "the same", ""},
	{"Microsoft.Network/virtualNetworks/subnets/join/action", NSG, "an interface that is written names its subnet", ""},
	{"Microsoft.Network/publicIPAddresses/join/action", NSG, "an interface that is written names its public address", ""},
	{"Microsoft.Network/loadBalancers/backendAddressPools/join/action", NSG, "an interface that is written names its pools", ""},
	{"Microsoft.Network/loadBalancers/inboundNatRules/join/action", NSG, "an interface that is written names its NAT rules", ""},
	{"Microsoft.Network/applicationSecurityGroups/joinIpConfiguration/action", NSG, "an interface that is written names its application security groups", ""},
	{"Microsoft.Network/applicationSecurityGroups/joinNetworkSecurityRule/action", NSG, "a group that is written may hold rules of others that name application security groups", ""},

	{"Microsoft.Security/locations/jitNetworkAccessPolicies/write", Defender, "policies", ""},
	{"Microsoft.Security/locations/jitNetworkAccessPolicies/delete", Defender, "taking back a policy that was made", ""},
	{"Microsoft.Security/pricings/read", Defender, "azure check: whether the plan has just-in-time access", ""},
	{"Microsoft.Compute/virtualMachines/write", Defender, "Defender asks it of whoever writes a policy", "Defender's documentation asks for it on the machine; the simulator does not check it"},

	{"Microsoft.Compute/virtualMachineScaleSets/write", ScaleSets, "the notice in the model of a set", ""},
	{"Microsoft.Compute/virtualMachineScaleSets/manualUpgrade/action", ScaleSets, "instances of sets that upgrade by hand", ""},
	{"Microsoft.Compute/virtualMachines/write", ScaleSets, "the notice of machines that stand by themselves, or in Flexible sets", ""},
}

// ParseDuty reads a duty's name.
func ParseDuty(s string) (Duty, error) {
	if d := Duty(strings.ToLower(strings.TrimSpace(s))); slices.Contains(Duties, d) {
		return d, nil
	}
	names := make([]string, len(Duties))
	for i, d := range Duties {
		names[i] = string(d)
	}
	return "", fmt.Errorf("there is no duty %.80q; there are %s", s, strings.Join(names, ", "))
}

// Role is a custom role.
type Role struct {
	Name        string
	Description string
	Actions     []Action // each once, in the table's order
	Scopes      []string // where it may be assigned
}

var (
	guid      = `[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`
	scopeForm = regexp.MustCompile(`^(?i:/subscriptions/` + guid + `(?:/resourceGroups/[-\w.()]{0,89}[-\w()])?|/providers/Microsoft\.Management/managementGroups/[-\w.()]{1,90})$`)
	guidForm  = regexp.MustCompile(`^` + guid + `$`)
)

// ParseScope reads where a role may be assigned: the id of a subscription, with or without /subscriptions/ before it, of a resource group,
// or of a management group.
func ParseScope(s string) (string, error) {
	s = strings.TrimRight(strings.TrimSpace(s), "/")
	if guidForm.MatchString(s) {
		s = "/subscriptions/" + s
	}
	if !scopeForm.MatchString(s) {
		return "", fmt.Errorf("%.200q is no scope of a role: it is the id of a subscription, of a resource group or of a management group", s)
	}
	return s, nil
}

// New makes the role of these duties; none are all of them. Scopes have to be those of ParseScope; of a management group Azure takes one
// alone. The name defaults to one that says the duties.
func New(name string, duties []Duty, scopes []string) (Role, error) {
	all := len(duties) == 0
	if all {
		duties = Duties
	}
	r := Role{Name: strings.TrimSpace(name)}
	var words []string
	for _, d := range Duties { // in their own order, each once
		if !slices.Contains(duties, d) {
			continue
		}
		words = append(words, d.Title())
		for _, a := range Actions {
			if a.Duty == d && !slices.ContainsFunc(r.Actions, func(b Action) bool { return strings.EqualFold(a.Name, b.Name) }) {
				r.Actions = append(r.Actions, a)
			}
		}
	}
	if len(r.Actions) == 0 {
		return r, fmt.Errorf("no such duty: %v", duties)
	}
	if r.Name == "" {
		r.Name = "Curfew"
		if !all {
			var names []string
			for _, d := range Duties {
				if slices.Contains(duties, d) {
					names = append(names, string(d))
				}
			}
			r.Name += " " + strings.Join(names, ", ")
		}
	}
	if len(r.Name) > 128 || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || strings.ContainsRune(`<>%&\?/`, c) }) {
		return r, fmt.Errorf("a role cannot be called %.150q: at most 128 characters, and none of <>%%&\\?/", r.Name)
	}
	r.Description = "Curfew: " + strings.Join(words, "; ") + "."
	for _, s := range scopes {
		if _, err := ParseScope(s); err != nil {
			return r, err
		}
		if !slices.ContainsFunc(r.Scopes, func(b string) bool { return strings.EqualFold(s, b) }) {
			r.Scopes = append(r.Scopes, s)
		}
	}
	groups := 0
	for _, s := range r.Scopes {
		if strings.HasPrefix(strings.ToLower(s), "/providers/") {
			groups++
		}
	}
	if groups > 1 {
		return r, fmt.Errorf("a custom role may name one management group, and these are %d", groups)
	}
	if len(r.Scopes) == 0 {
		return r, fmt.Errorf("a custom role needs a scope in which it may be assigned")
	}
	return r, nil
}

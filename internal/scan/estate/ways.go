package estate

import (
	"net/netip"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// Gap is something that could not be read, and what it hides.
type Gap struct {
	Source        string `json:"source"`                   // for example "network security groups"
	Subscription  string `json:"subscription,omitempty"`   // where it is missing; "" is everywhere
	Resource      string `json:"resource,omitempty"`       // the one resource that it is about
	Type          string `json:"type,omitempty"`           // full type of what is hidden, lower case; "" is every type
	Reason        string `json:"reason"`                   // why, for people
	NotAuthorized bool   `json:"not_authorized,omitempty"` // Azure refused it (401 or 403)
}

// WayKind says how traffic comes to a machine.
type WayKind string

// The kinds of ways.
const (
	PublicIP       WayKind = "public_ip"       // a public address on the ipConfiguration
	LBRule         WayKind = "lb_rule"         // a load balancer's rule
	NATRule        WayKind = "nat_rule"        // a load balancer's inbound NAT rule
	FirewallDNAT   WayKind = "firewall_dnat"   // a NAT rule of an Azure Firewall
	VirtualNetwork WayKind = "virtual_network" // from the network itself and what is connected to it
)

// Way is one path by which traffic comes to a port of an ipConfiguration, and who gets in on it.
type Way struct {
	Kind         WayKind
	Via          string     // id of the public address, the balancer's rule, the firewall's rule collection
	Address      netip.Addr // public address; invalid where none is assigned or it was not read
	FrontendPort uint16     // what a client connects to; the machine's port where nothing translates
	NIC          string
	IPConfig     string
	Dest         netip.Addr // the address that the rules see
	Port         uint16     // the machine's port
	// Reach says who gets in through the rules. Of a way from outside the Internet zone counts, cut to what a firewall's DNAT rule
	// lets through; of VirtualNetwork the virtual network's zone.
	Reach netsec.Reach
	// Path is what traffic passes, to explain a verdict.
	Path netsec.Path
	// Unknown says why the way itself is not certain, "" when it is.
	Unknown string
}

// Package packets carries real packets for the simulated Azure: each machine is a network namespace with nftables in it, made from the
// rules that the simulator lists, one by one, and an sshd behind them. It is a witness for the packages that judge rules and
// for the ones that write them, so it imports neither: what it knows of Azure stands in FACTS 2 and in docs/simulator.md.
//
// It works on Linux as root. Everything is in namespaces whose names carry the id of the run, linked to each other and not to the
// machine: the root namespace gets no address, no route, no rule and no interface. The layout:
//
//	client 203.0.113.9 ─┐                    ┌─ router of a virtual network ─┬─ machine (eth0, eth1, …)
//	client …           ─┴─ the Internet ─────┴─ …                            └─ machine
//
// The router of a virtual network translates public addresses, inbound NAT rules and load-balancer rules; a machine's own namespace
// judges what then arrives: security admin rules, the NSG of the subnet, the NSG of the interface.
package packets

import (
	"log/slog"
	"net/netip"
	"time"
)

// Config of Start. The zero value is a run without clients, with its files in a temporary directory.
type Config struct {
	// Dir is where keys, logs and known_hosts of the run go, in a folder of their own that is removed at the end; "" is a temporary one.
	Dir string
	// Clients are addresses on the Internet that get a namespace at once. Others get one when Client asks for it.
	Clients []netip.Addr
	// Tags are the addresses of service tags, by name in any case. VirtualNetwork, Internet and AzureLoadBalancer are always known; a tag
	// that is not known matches nothing, and stands in Info.UnknownTags.
	Tags map[string][]netip.Prefix
	// Server is the URL of the Curfew server that uses this simulator, if it is known; Find finds the run by it.
	Server string
	// MaxMachines is how many machines are accepted; 0 is 200. A namespace with an sshd takes about 2 MB and 50 ms.
	MaxMachines int
	Log         *slog.Logger
}

// Machine is one simulated machine as it stands.
type Machine struct {
	ID        string       `json:"id"`
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Router    string       `json:"router"` // namespace of its virtual network's router
	Ports     []string     `json:"ports"`  // its interfaces' other ends, in the router
	Addresses []netip.Addr `json:"addresses"`
	Running   bool         `json:"running"`
}

// Info is what a run is made of.
type Info struct {
	Run         string    `json:"run"`
	Server      string    `json:"server,omitempty"`
	Dir         string    `json:"dir"`
	Machines    []Machine `json:"machines"`
	UnknownTags []string  `json:"unknown_tags,omitempty"`
	// Problems are what could not be carried over, each with its reason.
	Problems []string `json:"problems,omitempty"`
}

// Access is how a command is run from an address, and how ssh is told of the run's keys.
type Access struct {
	Namespace string   `json:"namespace"`
	Prefix    []string `json:"prefix"` // before the command: ip netns exec NAMESPACE
	SSH       []string `json:"ssh"`    // options of ssh
	User      string   `json:"user"`   // who can sign in on the machines
}

const (
	defaultMax = 200
	// settle is how long changes are collected before they are rendered.
	settle = 5 * time.Millisecond
)

// Package azure is the only importer of the Azure SDK: credentials, clouds, the few calls that Curfew makes, the types of what
// they answer, and one classification of what can go wrong.
//
// What Azure answers is trusted to be Azure's, not to be complete, current or well formed: bodies are checked, every page is
// read, ids are compared without case, and whatever could not be read is an error and never an empty answer.
package azure

import (
	"encoding/json"
	"strings"
)

// Resource is the envelope that every ARM body has. Raw holds the whole body as it was read, so that a read-modify-write
// returns every field that these types do not know.
type Resource struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Type      string            `json:"type"`
	Location  string            `json:"location"`
	Etag      string            `json:"etag"`
	Tags      map[string]string `json:"tags"`
	ManagedBy string            `json:"managedBy"`
	Raw       json.RawMessage   `json:"-"`
}

// SubResource is a reference to another resource by id.
type SubResource struct {
	ID string `json:"id"`
}

// VM is a virtual machine, with the fields that Curfew reads.
type VM struct {
	Resource
	Properties struct {
		VMID              string `json:"vmId"` // changes when a machine is re-created under its id
		ProvisioningState string `json:"provisioningState"`
		StorageProfile    struct {
			OSDisk struct {
				OSType string `json:"osType"` // Linux or Windows
			} `json:"osDisk"`
		} `json:"storageProfile"`
		NetworkProfile struct {
			NetworkInterfaces []struct {
				ID         string `json:"id"`
				Properties struct {
					Primary bool `json:"primary"`
				} `json:"properties"`
			} `json:"networkInterfaces"`
		} `json:"networkProfile"`
		VirtualMachineScaleSet *SubResource `json:"virtualMachineScaleSet"`
		InstanceView           *struct {
			Statuses []struct {
				Code string `json:"code"`
			} `json:"statuses"`
		} `json:"instanceView"`
		Extended struct { // Resource Graph keeps the power state here; ARM does not send it
			InstanceView struct {
				PowerState struct {
					Code string `json:"code"`
				} `json:"powerState"`
			} `json:"instanceView"`
		} `json:"extended"`
	} `json:"properties"`
}

// PowerState returns "running", "deallocated" and the like, or "" when the machine was read without its instance view.
func (v VM) PowerState() string {
	if v.Properties.InstanceView != nil {
		for _, s := range v.Properties.InstanceView.Statuses {
			if p, ok := strings.CutPrefix(s.Code, "PowerState/"); ok {
				return strings.ToLower(p)
			}
		}
	}
	return strings.ToLower(strings.TrimPrefix(v.Properties.Extended.InstanceView.PowerState.Code, "PowerState/"))
}

// NIC is a network interface.
type NIC struct {
	Resource
	Properties struct {
		VirtualMachine       *SubResource      `json:"virtualMachine"`
		NetworkSecurityGroup *SubResource      `json:"networkSecurityGroup"`
		IPConfigurations     []IPConfiguration `json:"ipConfigurations"`
	} `json:"properties"`
}

// IPConfiguration is one address of a network interface.
type IPConfiguration struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Properties struct {
		Primary                         bool          `json:"primary"`
		PrivateIPAddress                string        `json:"privateIPAddress"`
		PrivateIPAddressVersion         string        `json:"privateIPAddressVersion"`
		Subnet                          *SubResource  `json:"subnet"`
		PublicIPAddress                 *SubResource  `json:"publicIPAddress"`
		ApplicationSecurityGroups       []SubResource `json:"applicationSecurityGroups"`
		LoadBalancerBackendAddressPools []SubResource `json:"loadBalancerBackendAddressPools"`
		LoadBalancerInboundNatRules     []SubResource `json:"loadBalancerInboundNatRules"`
	} `json:"properties"`
}

// PublicIP is a public address.
type PublicIP struct {
	Resource
	SKU struct {
		Name string `json:"name"` // Basic or Standard: FACTS 2.3
	} `json:"sku"`
	Properties struct {
		IPAddress       string       `json:"ipAddress"`
		IPConfiguration *SubResource `json:"ipConfiguration"`
	} `json:"properties"`
}

// VNet is a virtual network with its subnets inline.
type VNet struct {
	Resource
	Properties struct {
		AddressSpace struct {
			AddressPrefixes []string `json:"addressPrefixes"`
		} `json:"addressSpace"`
		Subnets  []Subnet `json:"subnets"`
		Peerings []struct {
			ID         string `json:"id"`
			Properties struct {
				PeeringState              string       `json:"peeringState"`
				AllowVirtualNetworkAccess *bool        `json:"allowVirtualNetworkAccess"`
				UseRemoteGateways         bool         `json:"useRemoteGateways"`
				RemoteVirtualNetwork      *SubResource `json:"remoteVirtualNetwork"`
				RemoteAddressSpace        struct {
					AddressPrefixes []string `json:"addressPrefixes"`
				} `json:"remoteAddressSpace"`
				// What the remote network has now; the field above is what it had when the peering was last synchronised.
				RemoteVirtualNetworkAddressSpace struct {
					AddressPrefixes []string `json:"addressPrefixes"`
				} `json:"remoteVirtualNetworkAddressSpace"`
			} `json:"properties"`
		} `json:"virtualNetworkPeerings"`
	} `json:"properties"`
}

// Subnet is one subnet of a VNet.
type Subnet struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Properties struct {
		AddressPrefix        string       `json:"addressPrefix"`
		AddressPrefixes      []string     `json:"addressPrefixes"`
		NetworkSecurityGroup *SubResource `json:"networkSecurityGroup"`
		RouteTable           *SubResource `json:"routeTable"`
	} `json:"properties"`
}

// LoadBalancer is a load balancer with what decides where a frontend port ends.
type LoadBalancer struct {
	Resource
	SKU struct {
		Name string `json:"name"`
	} `json:"sku"`
	Properties struct {
		FrontendIPConfigurations []struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				PrivateIPAddress string       `json:"privateIPAddress"`
				PublicIPAddress  *SubResource `json:"publicIPAddress"`
			} `json:"properties"`
		} `json:"frontendIPConfigurations"`
		BackendAddressPools []struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				BackendIPConfigurations      []SubResource `json:"backendIPConfigurations"`
				LoadBalancerBackendAddresses []struct {
					Properties struct {
						IPAddress                       string       `json:"ipAddress"`
						VirtualNetwork                  *SubResource `json:"virtualNetwork"`
						Subnet                          *SubResource `json:"subnet"`
						NetworkInterfaceIPConfiguration *SubResource `json:"networkInterfaceIPConfiguration"`
					} `json:"properties"`
				} `json:"loadBalancerBackendAddresses"`
			} `json:"properties"`
		} `json:"backendAddressPools"`
		LoadBalancingRules []struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				FrontendIPConfiguration *SubResource  `json:"frontendIPConfiguration"`
				BackendAddressPool      *SubResource  `json:"backendAddressPool"`
				BackendAddressPools     []SubResource `json:"backendAddressPools"`
				Probe                   *SubResource  `json:"probe"`
				Protocol                string        `json:"protocol"`
				FrontendPort            int           `json:"frontendPort"`
				BackendPort             int           `json:"backendPort"`
				EnableFloatingIP        bool          `json:"enableFloatingIP"`
			} `json:"properties"`
		} `json:"loadBalancingRules"`
		InboundNatRules []struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				FrontendIPConfiguration *SubResource `json:"frontendIPConfiguration"`
				BackendIPConfiguration  *SubResource `json:"backendIPConfiguration"`
				BackendAddressPool      *SubResource `json:"backendAddressPool"`
				Protocol                string       `json:"protocol"`
				FrontendPort            int          `json:"frontendPort"`
				FrontendPortRangeStart  int          `json:"frontendPortRangeStart"`
				FrontendPortRangeEnd    int          `json:"frontendPortRangeEnd"`
				BackendPort             int          `json:"backendPort"`
				EnableFloatingIP        bool         `json:"enableFloatingIP"`
			} `json:"properties"`
		} `json:"inboundNatRules"`
		Probes []struct {
			ID         string `json:"id"`
			Name       string `json:"name"`
			Properties struct {
				Protocol string `json:"protocol"`
				Port     int    `json:"port"`
			} `json:"properties"`
		} `json:"probes"`
	} `json:"properties"`
}

// Bastion is a Bastion host; its subnet must keep its way to the machines.
type Bastion struct {
	Resource
	Properties struct {
		IPConfigurations []struct {
			Properties struct {
				Subnet *SubResource `json:"subnet"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
	} `json:"properties"`
}

// AdminRule is one effective security admin rule of a VNet (Virtual Network Manager), as
// listNetworkManagerEffectiveSecurityAdminRules answers it. SPEC-AVNM.
type AdminRule struct {
	ID         string `json:"id"`
	Kind       string `json:"kind"`
	Properties struct {
		Priority              int             `json:"priority"`
		Direction             string          `json:"direction"`
		Access                string          `json:"access"` // Allow, Deny, AlwaysAllow
		Protocol              string          `json:"protocol"`
		Sources               []AddressPrefix `json:"sources"`
		Destinations          []AddressPrefix `json:"destinations"`
		SourcePortRanges      []string        `json:"sourcePortRanges"`
		DestinationPortRanges []string        `json:"destinationPortRanges"`
	} `json:"properties"`
}

// AddressPrefix is a prefix or a service tag of an admin rule.
type AddressPrefix struct {
	AddressPrefix     string `json:"addressPrefix"`
	AddressPrefixType string `json:"addressPrefixType"` // IPPrefix or ServiceTag
}

// NSG is a network security group. Rules are its custom rules, in the order in which they were read.
type NSG struct {
	Resource
	ProvisioningState string
	FlushConnection   bool
	Rules             []SecurityRule
	NICs              []string // ids of the interfaces that name this group
	Subnets           []string // ids of the subnets that name this group
}

// SecurityRule is one rule of an NSG. Raw is the rule as it was read: a rule that was not changed is sent back as Raw, byte
// for byte, so that fields that these types do not know survive.
type SecurityRule struct {
	Name                string
	Priority            int
	Direction           string // Inbound, Outbound
	Access              string // Allow, Deny
	Protocol            string // Tcp, Udp, Icmp, Esp, Ah, *
	Description         string
	SourcePrefixes      []string // singular and plural fields merged
	DestinationPrefixes []string
	SourcePorts         []string
	DestinationPorts    []string
	SourceASGs          []string // resource ids
	DestinationASGs     []string
	Raw                 json.RawMessage
}

// Inbound tells whether the rule looks at traffic towards the machines.
func (r SecurityRule) Inbound() bool { return strings.EqualFold(r.Direction, "Inbound") }

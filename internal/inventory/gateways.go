package inventory

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/azure"
)

const (
	kindGateway    = "virtual network gateways" // these are not among kinds: nothing is concluded from their absence
	kindLocal      = "local network gateways"
	kindConnection = "connections"
)

// space is an address space in a body.
type space struct {
	AddressPrefixes []string `json:"addressPrefixes"`
}

type gateway struct {
	Properties struct {
		IPConfigurations []struct {
			Properties struct {
				Subnet *azure.SubResource `json:"subnet"`
			} `json:"properties"`
		} `json:"ipConfigurations"`
		VPNClientConfiguration *struct {
			VPNClientAddressPool space `json:"vpnClientAddressPool"`
		} `json:"vpnClientConfiguration"`
	} `json:"properties"`
}

type local struct {
	Properties struct {
		LocalNetworkAddressSpace space `json:"localNetworkAddressSpace"`
	} `json:"properties"`
}

type connection struct {
	Properties struct {
		From  *azure.SubResource `json:"virtualNetworkGateway1"`
		To    *azure.SubResource `json:"virtualNetworkGateway2"`
		Local *azure.SubResource `json:"localNetworkGateway2"`
	} `json:"properties"`
}

// gateways are what Resource Graph says of them, by key. Azure lists gateways and connections by resource group alone, so that a snapshot made
// from the lists of a subscription has none.
type gateways struct {
	gateways    map[string]*gateway
	locals      map[string]*local
	connections map[string]*connection
	read        bool
}

func newGateways() gateways {
	return gateways{gateways: map[string]*gateway{}, locals: map[string]*local{}, connections: map[string]*connection{}}
}

func (g *gateways) add(kind, id string, row json.RawMessage) error {
	switch kind {
	case kindGateway:
		return put(g.gateways, id, row)
	case kindLocal:
		return put(g.locals, id, row)
	case kindConnection:
		return put(g.connections, id, row)
	}
	return nil
}

// behind are the ranges behind the gateways of each network, by key: clients that dial in, sites, and networks that a connection joins. What is
// learned by BGP or through ExpressRoute stands in no body.
func (raw *resources) behind() map[string][]string {
	out, at := map[string][]string{}, map[string]string{}
	for key, g := range raw.gates.gateways {
		for _, c := range g.Properties.IPConfigurations {
			if c.Properties.Subnet == nil {
				continue
			}
			vnet := azure.Key(azure.ParentID(c.Properties.Subnet.ID))
			if at[key] != vnet && g.Properties.VPNClientConfiguration != nil {
				out[vnet] = append(out[vnet], g.Properties.VPNClientConfiguration.VPNClientAddressPool.AddressPrefixes...)
			}
			at[key] = vnet
		}
	}
	join := func(from, to string) {
		if v := raw.vnets[to]; from != "" && v != nil {
			out[from] = append(out[from], v.Properties.AddressSpace.AddressPrefixes...)
		}
	}
	for _, c := range raw.gates.connections {
		if c.Properties.From == nil {
			continue
		}
		vnet := at[azure.Key(c.Properties.From.ID)]
		if c.Properties.Local != nil && vnet != "" {
			if l := raw.gates.locals[azure.Key(c.Properties.Local.ID)]; l != nil {
				out[vnet] = append(out[vnet], l.Properties.LocalNetworkAddressSpace.AddressPrefixes...)
			}
		}
		if c.Properties.To != nil {
			if other := at[azure.Key(c.Properties.To.ID)]; other != "" && other != vnet {
				join(vnet, other)
				join(other, vnet)
			}
		}
	}
	return out
}

// behindOf is what is behind the gateways of a network, as this snapshot or the one beneath it knows.
func (s *Snapshot) behindOf(vnetID string) []string {
	if s.raw.gates.read || s.base == nil {
		return s.beyond[azure.Key(vnetID)]
	}
	return s.base.behindOf(vnetID)
}

// onPremises widens the tag of a network by what is behind its own gateways, and behind those of connected peers that it uses.
func (s *Snapshot) onPremises(v *azure.VNet) []string {
	out := s.behindOf(v.ID)
	for _, p := range v.Properties.Peerings {
		if p.Properties.UseRemoteGateways && p.Properties.RemoteVirtualNetwork != nil && strings.EqualFold(p.Properties.PeeringState, "Connected") {
			out = append(out[:len(out):len(out)], s.behindOf(p.Properties.RemoteVirtualNetwork.ID)...)
		}
	}
	return out
}

// unreadGateways are the networks with a subnet for a gateway, of a snapshot that does not know what is behind it.
func (raw *resources) unreadGateways() (out []Problem) {
	for _, key := range slices.Sorted(maps.Keys(raw.vnets)) {
		v := raw.vnets[key]
		for _, sn := range v.Properties.Subnets {
			if strings.EqualFold(azure.IDName(sn.ID), "GatewaySubnet") {
				out = append(out, Problem{"what is behind the gateway of virtual network " + v.ID, errors.New("gateways are read from Resource Graph alone")})
			}
		}
	}
	return out
}

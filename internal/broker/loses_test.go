package broker_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// A plan lists under loses who really gets in before and not after: not who is exempt, nor a family of addresses that the machine has
// none of; of a network that is exempt in part the rest.
func TestLoses(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	open := e.NSG("open-nsg", estates.Allow("ssh", 300, "22", "*"))
	office := e.NSG("office-nsg", estates.Allow("office", 300, "22", "203.0.113.0/24"))
	vnet := e.VNet("net", []string{"10.1.0.0/16", "fd00:1::/48"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24"}, estates.Subnet{Name: "AzureBastionSubnet", Prefix: "10.1.250.0/26"})
	e.Bastion("bastion", vnet+"/subnets/AzureBastionSubnet", "198.51.100.250")
	e.VM("open", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.4", PublicIP: "198.51.100.4", NSG: open})
	e.VM("office", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.1.0.5", PublicIP: "198.51.100.5", NSG: office})
	network := []access.Exemption{{Name: "virtual-network", Source: "10.1.0.0/16"}}
	for _, c := range []struct {
		name, vm string
		in       broker.ProtectInput
		want     []string
	}{
		{"Bastion alone is exempt", "open", broker.ProtectInput{}, []string{
			"the Internet by open-nsg/ssh", "the rest of the virtual network by open-nsg/ssh", "other private networks by open-nsg/ssh"}},
		{"the network is exempt", "open", broker.ProtectInput{Exemptions: network}, []string{"the Internet by open-nsg/ssh", "other private networks by open-nsg/ssh"}},
		{"nobody is exempt", "office", broker.ProtectInput{NoExempt: true}, []string{"203.0.113.0/24 by office-nsg/office", "the virtual network by office-nsg/AllowVnetInBound"}},
		{"an office loses its way", "office", broker.ProtectInput{Exemptions: network}, []string{"203.0.113.0/24 by office-nsg/office"}},
		{"nobody loses", "office", broker.ProtectInput{Exemptions: append(slices.Clone(network), access.Exemption{Name: "office", Source: "203.0.113.0/24"})}, nil},
	} {
		bubble(t, bt.Options{Estate: e.JSON()}, func(t *testing.T, s *bt.Stack) {
			c.in.VMs = []string{c.vm}
			plan := must[broker.ProtectPlan](t)(s.Broker.PlanProtect(t.Context(), bt.Admin, c.in))
			var got []string
			for _, x := range plan.VMs[0].Loses {
				got = append(got, x.From+" by "+x.Rule)
				if x.Ports != access.Port(22) || !x.Allowed {
					t.Errorf("%s: %+v", c.name, x)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: loses\n %s\nwant\n %s", c.name, strings.Join(got, "\n "), strings.Join(c.want, "\n "))
			}
		})
	}
}

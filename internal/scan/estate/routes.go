package estate

import (
	"net/netip"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// What widens the tag VirtualNetwork beyond the network and its peers. FACTS 2.1.

type rawRoutes struct {
	common
	prefixes []netip.Prefix
}

type rawGateway struct {
	common
	subnets []key
	clients []netip.Prefix // addresses of point-to-site clients
}

type rawLocal struct {
	common
	prefixes []netip.Prefix
}

type rawConnection struct {
	common
	from, to, local key
}

const (
	typeRoutes     = "microsoft.network/routetables"
	typeGateway    = "microsoft.network/virtualnetworkgateways"
	typeLocal      = "microsoft.network/localnetworkgateways"
	typeConnection = "microsoft.network/connections"
)

func (v *rawRoutes) field(d *decoder) func([]byte) {
	return d.only("routes", func() {
		d.list("routes", func() {
			d.part("a route", v.id, "routes", d.only("addressprefix", func() {
				// A service tag may stand here too; it is no part of the network.
				if b := d.bytes("addressPrefix"); strings.ContainsRune(string(b), '/') {
					if p, ok := netsec.ParsePrefix(string(b)); ok {
						v.prefixes = append(v.prefixes, p)
					}
				}
			}))
		})
	})
}

func (v *rawGateway) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "ipconfigurations":
			d.list("ipConfigurations", func() {
				d.part("an ip configuration", v.id, "ipConfigurations", d.only("subnet", func() {
					if s := d.ref("subnet"); s != 0 {
						v.subnets = append(v.subnets, s)
					}
				}))
			})
		case "vpnclientconfiguration":
			d.object("vpnClientConfiguration", d.only("vpnclientaddresspool", func() { d.object("vpnClientAddressPool", d.space(&v.clients)) }))
		default:
			d.skip()
		}
	}
}

// space reads {"addressPrefixes": […]}.
func (d *decoder) space(list *[]netip.Prefix) func([]byte) {
	return d.only("addressprefixes", func() { d.prefixes("addressPrefixes", list) })
}

func (v *rawLocal) field(d *decoder) func([]byte) {
	return d.only("localnetworkaddressspace", func() { d.object("localNetworkAddressSpace", d.space(&v.prefixes)) })
}

func (v *rawConnection) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "virtualnetworkgateway1":
			v.from = d.ref("virtualNetworkGateway1")
		case "virtualnetworkgateway2":
			v.to = d.ref("virtualNetworkGateway2")
		case "localnetworkgateway2":
			v.local = d.ref("localNetworkGateway2")
		default:
			d.skip()
		}
	}
}

// joinGateways finds the ranges behind the gateways of each network: clients that dial in, sites, and networks that another gateway
// connects. What is learned by BGP or ExpressRoute stands in no body.
func (e *Estate) joinGateways() {
	e.gateways = map[key][]netip.Prefix{}
	at := map[key]key{} // networks by gateway
	for _, g := range e.b.gateways.m {
		for _, s := range g.subnets {
			vnet := e.b.ids.of([]byte(parent(e.id(s))))
			at[g.key] = vnet
			e.gateways[vnet] = append(e.gateways[vnet], g.clients...)
		}
	}
	for _, c := range e.b.connections.m {
		vnet := at[c.from]
		if vnet == 0 {
			continue
		}
		if l := e.b.locals.get(c.local); l != nil {
			e.gateways[vnet] = append(e.gateways[vnet], l.prefixes...)
		}
		if other := at[c.to]; other != 0 && other != vnet {
			for _, pair := range [][2]key{{vnet, other}, {other, vnet}} {
				if v := e.b.vnets.get(pair[1]); v != nil {
					e.gateways[pair[0]] = append(e.gateways[pair[0]], v.prefixes...)
				}
			}
		}
	}
}

package estate

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// outline is where the parts of a body stand.
type outline struct {
	id, name                             []byte // parts of the body, or unescaped
	typ, location, managedBy, instanceID string
	tags, properties, sku                int // offsets, -1 where absent
}

func (d *decoder) outline(o *outline) {
	o.tags, o.properties, o.sku = -1, -1, -1
	if d.next() != '{' && d.next() != 'n' {
		d.fail("the resource is %s, not an object", d.kind())
		return
	}
	n := d.object("the resource", func(k []byte) {
		switch string(k) {
		case "id":
			o.id = plainID(d.bytes("id"))
		case "type":
			o.typ = d.word("type")
		case "name":
			o.name = d.bytes("name")
		case "location":
			o.location = d.word("location")
		case "managedby":
			o.managedBy = d.text("managedBy")
		case "instanceid":
			o.instanceID = d.word("instanceId")
		case "tags":
			d.next()
			o.tags = d.i
			d.skip()
		case "properties":
			d.next()
			if o.properties >= 0 {
				d.note(d.i, "properties stands twice in the resource")
			}
			o.properties = d.i
			d.skip()
		case "sku":
			d.next()
			o.sku = d.i
			d.skip()
		default:
			d.skip()
		}
	})
	if n < 0 {
		d.fail("the resource is null")
	}
	if d.err == nil && d.next() != 0 {
		d.fail("something follows after the resource: %q", clip(d.b[d.i:]))
	}
}

// scalar takes a text, or what else may stand for one.
func (d *decoder) scalar(what string) string {
	switch c := d.next(); {
	case c == '"' || c == 'n':
		return d.word(what)
	case c == '{' || c == '[':
		d.mistake(what, "a text")
		return ""
	}
	at := d.i
	d.skip()
	return d.keep(d.b[at:d.i])
}

// ref takes {"id": …}; null is none.
func (d *decoder) ref(what string) (k key) {
	d.object(what, func(name []byte) {
		if string(name) == "id" {
			k = d.ids.of(d.bytes("an id"))
			return
		}
		d.skip()
	})
	return k
}

func (d *decoder) refs(what string, list *[]key) {
	d.list(what, func() {
		if k := d.ref(what); k != 0 {
			*list = append(*list, k)
		}
	})
}

// meta is what all bodies say of themselves. An id is divided, so that one copy of it serves all.
func (d *decoder) meta(o *outline, id string) Meta {
	m := metaOf(id)
	if o.name != nil && string(o.name) != m.Name && strings.EqualFold(string(o.name), m.Name) {
		m.Name = string(o.name)
	}
	m.Location, m.ManagedBy, m.Tags = o.location, o.managedBy, d.readTags(o.tags)
	return m
}

// part reads an element of a list of a resource's parts: {id, name, properties}. Without an id it gets that which Azure would give it.
func (d *decoder) part(what, parentID, typ string, properties func(k []byte)) (id key, name string) {
	d.object(what, func(k []byte) {
		switch string(k) {
		case "id":
			id = d.ids.of(d.bytes("an id"))
		case "name":
			name = d.word("a name")
		case "properties":
			d.object("properties", properties)
		default:
			d.skip()
		}
	})
	if id == 0 && name != "" {
		id = d.ids.of([]byte(parentID + "/" + typ + "/" + name))
	}
	return id, name
}

func (d *decoder) prefixes(what string, list *[]netip.Prefix) {
	d.list(what, func() { d.prefix(what, list) })
}

func (d *decoder) prefix(what string, list *[]netip.Prefix) {
	at := d.i
	b := d.bytes(what)
	if len(b) == 0 {
		return
	}
	p, ok := netsec.ParsePrefix(string(b))
	if !ok {
		d.note(at, "%s: %q is no address range", what, clip(b))
		return
	}
	*list = append(*list, p)
}

// port takes a port.
func (d *decoder) port(what string, v *uint16) {
	at, n := d.i, 0
	d.number(what, &n)
	if d.err == nil && (n < 0 || n > 65535) {
		d.note(at, "%s is %d, not a port from 0 to 65535", what, n)
		return
	}
	*v = uint16(n)
}

func (d *decoder) address(what string, a *netip.Addr) {
	if b := d.bytes(what); len(b) > 0 {
		*a = parseAddr(string(b))
	}
}

// readTags reads the tags of a resource. Many resources have the same, and share them.
func (d *decoder) readTags(at int) map[string]string {
	if at < 0 || d.err != nil {
		return nil
	}
	d.i, d.depth = at, 1
	d.skip()
	text := d.b[at:d.i]
	if m, ok := d.tags[string(text)]; ok {
		return m
	}
	d.i = at
	var m map[string]string
	d.object("tags", func(k []byte) {
		name := d.tagName(k)
		v := d.scalar("a tag")
		if m == nil {
			m = map[string]string{}
		}
		m[name] = v
	})
	if len(text) <= 1024 && len(d.tags) < maxWords {
		d.tags[string(text)] = m
	}
	return m
}

// keep reads the properties of a resource into v, and puts it into the table of its type.
func keep[T any, P interface {
	*T
	field(*decoder) func(k []byte)
}](d *decoder, o *outline, t *table[T], v P) {
	d.at(o.properties, "properties", v.field(d))
	add(d, t, (*T)(v))
}

// at reads an object that stands at an offset, if there is one.
func (d *decoder) at(off int, what string, f func(k []byte)) {
	if off >= 0 && d.err == nil {
		d.i, d.depth = off, 1
		d.object(what, f)
	}
}

// only hands the value of one member to f, which must read it; the others are passed over.
func (d *decoder) only(name string, f func()) func(k []byte) {
	return func(k []byte) {
		if string(k) == name {
			f()
			return
		}
		d.skip()
	}
}

// sku reads the name of a sku.
func (d *decoder) sku(o *outline, v *string) {
	d.at(o.sku, "sku", d.only("name", func() { *v = d.word("the sku's name") }))
}

// decode reads the properties of a resource of a type that decides something.
func (b *Builder) decode(d *decoder, o *outline, t kind, c common) {
	m := func() Meta { return d.meta(o, c.id) }
	switch t {
	case kindVM:
		keep(d, o, &b.vms, &rawVM{common: c, vm: &VM{Meta: m()}})
	case kindNIC, kindSetNIC:
		keep(d, o, &b.nics, &rawNIC{common: c})
	case kindVNet:
		keep(d, o, &b.vnets, &rawVNet{common: c})
	case kindSubnet:
		keep(d, o, &b.subnets, &rawSubnetBody{common: c, rawSubnet: rawSubnet{id: c.key, vnet: d.ids.of([]byte(parent(c.id)))}})
	case kindNSG:
		keep(d, o, &b.nsgs, &rawNSG{common: c, nsg: &NSG{Meta: m()}})
	case kindRule:
		v := &rawRuleBody{common: c, nsg: d.ids.of([]byte(parent(c.id)))}
		v.rule.Name = lastName(c.id)
		var said ruleSaid
		d.at(o.properties, "properties", v.rule.read(d, &said))
		said.finish(&v.rule)
		add(d, &b.rules, v)
	case kindPIP:
		v := &rawPIP{common: c}
		d.sku(o, &v.sku)
		keep(d, o, &b.pips, v)
	case kindLB:
		v := &rawLB{common: c}
		d.sku(o, &v.sku)
		keep(d, o, &b.lbs, v)
	case kindLBPart:
		v, f := d.lbPart(c, idType(c.id))
		d.at(o.properties, "properties", f)
		v.finish()
		add(d, &b.lbParts, v)
	case kindBastion:
		keep(d, o, &b.bastions, &rawBastion{common: c})
	case kindSet:
		keep(d, o, &b.sets, &rawSet{common: c, set: &ScaleSet{Meta: m()}})
	case kindInstance:
		v := &rawInstance{common: c, set: d.ids.of([]byte(parent(c.id))), Instance: Instance{InstanceID: o.instanceID}}
		if v.InstanceID == "" {
			v.InstanceID = lastName(c.id)
		}
		keep(d, o, &b.instances, v)
	case kindJIT:
		keep(d, o, &b.jits, &rawJIT{common: c, policy: &JITPolicy{Meta: m()}})
	case kindFirewall:
		keep(d, o, &b.firewalls, &rawFirewall{common: c})
	case kindPolicy:
		keep(d, o, &b.policies, &rawPolicy{common: c})
	case kindCollections:
		keep(d, o, &b.collections, &rawCollections{common: c, policy: d.ids.of([]byte(parent(c.id)))})
	case kindIPGroup:
		keep(d, o, &b.ipGroups, &rawIPGroup{common: c})
	case kindRoutes:
		keep(d, o, &b.routes, &rawRoutes{common: c})
	case kindGateway:
		keep(d, o, &b.gateways, &rawGateway{common: c})
	case kindLocal:
		keep(d, o, &b.locals, &rawLocal{common: c})
	case kindConnection:
		keep(d, o, &b.connections, &rawConnection{common: c})
	case kindAdmin:
		v := &rawAdmin{common: c}
		if vnet := idType(c.id); vnet == typeAdmin {
			v.key = d.ids.of([]byte(parent(c.id)))
		}
		seen := false
		d.at(o.properties, "properties", v.field(d, &seen))
		if !seen {
			d.note(max(o.properties, 0), "the effective security admin rules have no list called value")
		}
		add(d, &b.admins, v)
	}
}

func add[T any](d *decoder, t *table[T], v *T) {
	if d.err == nil && d.wrong == nil {
		t.put(v)
	}
}

// tagName is the key of a tag as it is spelt: object gives keys in lower case.
func (d *decoder) tagName(k []byte) string {
	// The colon is before d.i, the name before it.
	end := d.i - 1
	for end > 0 && d.b[end] != '"' {
		end--
	}
	start := end - len(k)
	if start >= 0 && strings.EqualFold(string(d.b[start:end]), string(k)) {
		return d.keep(d.b[start:end])
	}
	return d.keep(k)
}

func (v *rawVM) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "storageprofile":
			d.object("storageProfile", d.only("osdisk", func() {
				d.object("osDisk", d.only("ostype", func() { v.vm.OS = strings.ToLower(d.word("osType")) }))
			}))
		case "osprofile":
			d.object("osProfile", func(k []byte) {
				found := ""
				switch string(k) {
				case "linuxconfiguration":
					found = "linux"
				case "windowsconfiguration":
					found = "windows"
				}
				if d.next() == '{' && found != "" && v.vm.OS == "" {
					v.vm.OS = found
				}
				d.skip()
			})
		case "networkprofile":
			d.object("networkProfile", d.only("networkinterfaces", func() {
				if v.listed = !d.null(); v.listed {
					d.refs("networkInterfaces", &v.nics)
				}
			}))
		case "virtualmachinescaleset":
			v.scaleSet = d.ref("virtualMachineScaleSet")
		case "priority":
			v.vm.Spot = spot(d.bytes("priority"))
		case "scheduledeventsprofile":
			v.vm.Terminate.read(d)
		case "instanceview":
			d.object("instanceView", d.only("statuses", func() {
				d.list("statuses", func() {
					d.object("a status", d.only("code", func() { v.power(d, true) }))
				})
			}))
		case "extended": // Resource Graph keeps the power state here
			d.object("extended", d.only("instanceview", func() {
				d.object("instanceView", d.only("powerstate", func() {
					d.object("powerState", d.only("code", func() { v.power(d, false) }))
				}))
			}))
		default:
			d.skip()
		}
	}
}

// power takes a status that may be one of power. What the instance view says of it goes before what Resource Graph says.
func (v *rawVM) power(d *decoder, view bool) {
	if p, ok := cutFold(d.word("code"), "PowerState/"); ok && (view || v.vm.Power == "") {
		v.vm.Power = strings.ToLower(p)
	}
}

// spot tells the priorities of machines that Azure may take back: Low is what Spot was called first.
func spot(b []byte) bool {
	return strings.EqualFold(string(b), "spot") || strings.EqualFold(string(b), "low")
}

func (t *Terminate) read(d *decoder) {
	n := d.object("scheduledEventsProfile", d.only("terminatenotificationprofile", func() {
		t.Present = d.object("terminateNotificationProfile", func(k []byte) {
			switch string(k) {
			case "enable":
				if !d.null() {
					t.Enable = new(bool)
					d.boolean("enable", t.Enable)
				}
			case "notbeforetimeout":
				t.NotBefore = d.word("notBeforeTimeout")
			default:
				d.skip()
			}
		}) >= 0
	}))
	t.Profile = n > 0
}

func (v *rawNIC) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "networksecuritygroup":
			v.nsg = d.ref("networkSecurityGroup")
		case "ipconfigurations":
			d.list("ipConfigurations", func() {
				var c rawConfig
				c.id, _ = d.part("an ip configuration", v.id, "ipConfigurations", func(k []byte) {
					switch string(k) {
					case "privateipaddress":
						if b := d.bytes("privateIPAddress"); len(b) > 0 {
							if c.addr = parseAddr(string(b)); !c.addr.IsValid() {
								c.badAddr = string(b)
							}
						}
					case "subnet":
						c.subnet = d.ref("subnet")
					case "publicipaddress":
						c.pip = d.ref("publicIPAddress")
					case "applicationsecuritygroups":
						d.refs("applicationSecurityGroups", &c.asgs)
					case "loadbalancerbackendaddresspools":
						d.refs("loadBalancerBackendAddressPools", &c.pools)
					case "loadbalancerinboundnatrules":
						d.refs("loadBalancerInboundNatRules", &c.nats)
					default:
						d.skip()
					}
				})
				v.configs = append(v.configs, c)
			})
		default:
			d.skip()
		}
	}
}

func (v *rawPIP) field(d *decoder) func([]byte) {
	return d.only("ipaddress", func() { d.address("ipAddress", &v.addr) })
}

func (v *rawBastion) field(d *decoder) func([]byte) {
	return d.only("ipconfigurations", func() {
		d.list("ipConfigurations", func() {
			d.part("an ip configuration", v.id, "bastionHostIpConfigurations", d.only("subnet", func() { v.subnets = append(v.subnets, d.ref("subnet")) }))
		})
	})
}

func (v *rawInstance) field(d *decoder) func([]byte) {
	return d.only("latestmodelapplied", func() {
		if !d.null() {
			v.Latest = new(bool)
			d.boolean("latestModelApplied", v.Latest)
		}
	})
}

func (v *rawVNet) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "addressspace":
			d.object("addressSpace", d.space(&v.prefixes))
		case "subnets":
			d.list("subnets", func() {
				s := rawSubnet{vnet: v.key}
				s.id, _ = d.part("a subnet", v.id, "subnets", s.field(d))
				if s.id != 0 {
					v.subnets = append(v.subnets, s)
				}
			})
		case "virtualnetworkpeerings":
			d.list("virtualNetworkPeerings", func() {
				var p rawPeer
				d.part("a peering", v.id, "virtualNetworkPeerings", func(k []byte) {
					switch string(k) {
					case "peeringstate":
						p.connected = strings.EqualFold(d.word("peeringState"), "Connected")
					case "allowvirtualnetworkaccess":
						if d.null() {
							return
						}
						allow := true
						d.boolean("allowVirtualNetworkAccess", &allow)
						p.noAccess = !allow
					case "useremotegateways":
						d.boolean("useRemoteGateways", &p.useGateway)
					case "remotevirtualnetwork":
						p.remote = d.ref("remoteVirtualNetwork")
					case "remoteaddressspace":
						d.object("remoteAddressSpace", d.space(&p.prefixes))
					case "remotevirtualnetworkaddressspace":
						d.object("remoteVirtualNetworkAddressSpace", d.space(&p.prefixes))
					default:
						d.skip()
					}
				})
				v.peers = append(v.peers, p)
			})
		default:
			d.skip()
		}
	}
}

func (s *rawSubnet) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "addressprefix":
			d.prefix("addressPrefix", &s.prefixes)
		case "addressprefixes":
			d.prefixes("addressPrefixes", &s.prefixes)
		case "networksecuritygroup":
			s.nsg = d.ref("networkSecurityGroup")
		case "routetable":
			s.routes = d.ref("routeTable")
		default:
			d.skip()
		}
	}
}

func (v *rawSet) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "orchestrationmode":
			v.set.Flexible = strings.EqualFold(d.word("orchestrationMode"), "Flexible")
		case "upgradepolicy":
			d.object("upgradePolicy", d.only("mode", func() { v.set.UpgradeMode = d.word("mode") }))
		case "virtualmachineprofile":
			v.set.HasProfile = d.object("virtualMachineProfile", func(k []byte) {
				switch string(k) {
				case "priority":
					v.set.Spot = spot(d.bytes("priority"))
				case "scheduledeventsprofile":
					v.set.Terminate.read(d)
				default:
					d.skip()
				}
			}) >= 0 // {} is one without anything in it
		default:
			d.skip()
		}
	}
}

func (v *rawAdmin) field(d *decoder, seen *bool) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "skiptoken", "nextlink":
			v.partial = len(d.bytes("skipToken")) > 0
		case "value":
			*seen = d.next() == '['
			d.list("value", func() {
				var r netsec.AdminRule
				inbound := ""
				id, name := d.part("a security admin rule", v.id, "rules", func(k []byte) {
					switch string(k) {
					case "access":
						r.Access, _ = netsec.ParseAdminAccess(d.word("access"))
					case "direction":
						inbound = d.word("direction")
					case "protocol":
						r.Protocol = d.word("protocol")
					case "priority":
						d.number("priority", &r.Priority)
					case "sources":
						d.adminAddrs("sources", &r.Sources)
					case "destinations":
						d.adminAddrs("destinations", &r.Destinations)
					case "sourceportranges":
						d.texts("sourcePortRanges", &r.SourcePorts)
					case "destinationportranges":
						d.texts("destinationPortRanges", &r.DestinationPorts)
					default:
						d.skip()
					}
				})
				r.Name = name
				if id != 0 {
					text := d.ids.text(id)
					r.Name, r.Collection = lastName(text), parent(text)
				}
				switch {
				case strings.EqualFold(inbound, "Outbound"):
				case strings.EqualFold(inbound, "Inbound"):
					r.Inbound = true
				default:
					r.Inbound, r.Access = true, netsec.AdminUnknown
				}
				v.rules = append(v.rules, r)
			})
		default:
			d.skip()
		}
	}
}

func (d *decoder) adminAddrs(what string, list *[]netsec.AdminAddress) {
	d.list(what, func() {
		var a netsec.AdminAddress
		d.object("an address", func(k []byte) {
			switch string(k) {
			case "addressprefix":
				a.Prefix = d.word("addressPrefix")
			case "addressprefixtype":
				a.Type = d.word("addressPrefixType")
			default:
				d.skip()
			}
		})
		*list = append(*list, a)
	})
}

// faultOf says which body a fault is in.
func faultOf(id string, e *syntaxError) error {
	if id == "" {
		return fmt.Errorf("a resource without an id is wrong %w", e)
	}
	return fmt.Errorf("resource %s is wrong %w", id, e)
}

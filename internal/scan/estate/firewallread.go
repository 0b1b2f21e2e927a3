package estate

import (
	"strconv"
	"strings"
)

func (v *rawFirewall) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "firewallpolicy":
			v.policy = d.ref("firewallPolicy")
		case "virtualhub":
			v.hub = d.ref("virtualHub") != 0
		case "ipconfigurations":
			d.list("ipConfigurations", func() {
				d.part("an ip configuration", v.id, "azureFirewallIpConfigurations", func(k []byte) {
					switch string(k) {
					case "subnet":
						if s := d.ref("subnet"); s != 0 {
							v.subnets = append(v.subnets, s)
						}
					case "publicipaddress":
						if p := d.ref("publicIPAddress"); p != 0 {
							v.pips = append(v.pips, p)
						}
					default:
						d.skip()
					}
				})
			})
		case "natrulecollections":
			d.list("natRuleCollections", func() { d.natCollection(v.id, &v.rules) })
		case "networkrulecollections":
			d.list("networkRuleCollections", func() {
				action := ""
				var rules []rawDeny
				d.part("a collection of network rules", v.id, "networkRuleCollections", func(k []byte) {
					switch string(k) {
					case "action":
						action = d.action()
					case "rules":
						d.list("rules", func() {
							_, _, r := d.rule()
							rules = append(rules, r)
						})
					default:
						d.skip()
					}
				})
				if strings.EqualFold(action, "Deny") {
					v.denies = append(v.denies, rules...)
				}
			})
		default:
			d.skip()
		}
	}
}

// action takes {"type": …}.
func (d *decoder) action() (typ string) {
	d.object("action", d.only("type", func() { typ = d.word("type") }))
	return typ
}

// natCollection reads a collection of NAT rules of a firewall itself.
func (d *decoder) natCollection(firewall string, into *[]rawDNAT) {
	var rules []rawDNAT
	action := ""
	id, name := d.part("a collection of NAT rules", firewall, "natRuleCollections", func(k []byte) {
		switch string(k) {
		case "action":
			action = d.action()
		case "rules":
			d.list("rules", func() {
				_, r, _ := d.rule()
				rules = append(rules, r)
			})
		default:
			d.skip()
		}
	})
	if strings.EqualFold(action, "Snat") {
		return
	}
	for i := range rules {
		if rules[i].collection = d.ids.text(id); id == 0 {
			rules[i].collection = firewall + "/natRuleCollections/" + name
		}
	}
	*into = append(*into, rules...)
}

// rule reads one rule of a firewall or a policy: what it says if it is one of NAT, and if it is one that denies. What kind it is stands
// at its collection, and may come after it. The protocols of a policy's are called ipProtocols; those of application rules are objects.
func (d *decoder) rule() (typ string, nat rawDNAT, deny rawDeny) {
	var names []string // IP groups and names of hosts among destinations
	d.object("a rule", func(k []byte) {
		switch string(k) {
		case "name":
			nat.name = d.word("name")
		case "ruletype":
			typ = d.word("ruleType")
		case "sourceaddresses":
			d.texts("sourceAddresses", &nat.sources)
		case "sourceipgroups":
			d.list("sourceIpGroups", func() {
				if g := d.ids.of(d.bytes("an id")); g != 0 {
					nat.groups = append(nat.groups, g)
				}
			})
		case "destinationaddresses":
			d.texts("destinationAddresses", &nat.dests)
		case "destinationipgroups", "destinationfqdns":
			d.texts(string(k), &names)
		case "destinationports":
			d.texts("destinationPorts", &nat.ports)
		case "protocols", "ipprotocols":
			d.list("protocols", func() {
				if d.next() == '{' {
					d.skip()
					return
				}
				nat.protocols = d.add(nat.protocols, d.bytes("a protocol"))
			})
		case "translatedaddress":
			if b := d.bytes("translatedAddress"); len(b) > 0 {
				if nat.to = parseAddr(string(b)); !nat.to.IsValid() {
					nat.toName = string(b)
				}
			}
		case "translatedfqdn":
			nat.toName = d.text("translatedFqdn")
		case "translatedport": // a text; where it says no port, the destination's own stays
			switch b := d.scalar("translatedPort"); b {
			case "", "*":
			default:
				n, err := strconv.ParseUint(b, 10, 16)
				if nat.toPort = uint16(n); err != nil {
					nat.toPort, nat.badPort = 0, b
				}
			}
		default:
			d.skip()
		}
	})
	deny = rawDeny{sources: nat.sources, dests: nat.dests, sourceGroups: len(nat.groups) > 0, destGroups: len(names) > 0, ports: nat.ports, protocols: nat.protocols}
	return typ, nat, deny
}

func (v *rawIPGroup) field(d *decoder) func([]byte) {
	return d.only("ipaddresses", func() { d.texts("ipAddresses", &v.addrs) })
}

func (v *rawPolicy) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "basepolicy":
			v.base = d.ref("basePolicy")
		case "rulecollectiongroups":
			d.refs("ruleCollectionGroups", &v.groups)
		default:
			d.skip()
		}
	}
}

func (v *rawCollections) field(d *decoder) func([]byte) {
	return func(k []byte) {
		if string(k) != "rulecollections" {
			d.skip()
			return
		}
		d.list("ruleCollections", func() {
			name, action := "", ""
			var rules []rawDNAT
			var denies []rawDeny
			filter := false
			d.object("a collection", func(k []byte) {
				switch string(k) {
				case "name":
					name = d.word("name")
				case "action":
					action = d.action()
				case "rulecollectiontype":
					filter = strings.EqualFold(d.word("ruleCollectionType"), "FirewallPolicyFilterRuleCollection")
				case "rules":
					d.list("rules", func() {
						typ, r, deny := d.rule()
						rules = append(rules, r)
						if !strings.EqualFold(typ, "ApplicationRule") { // those are asked of what leaves
							denies = append(denies, deny)
						}
					})
				default:
					d.skip()
				}
			})
			switch {
			case strings.EqualFold(action, "Deny"):
				v.denies = append(v.denies, denies...)
			case filter || strings.EqualFold(action, "Snat"):
			default:
				for i := range rules {
					rules[i].collection = v.id + "/ruleCollections/" + name
				}
				v.rules = append(v.rules, rules...)
			}
		})
	}
}

package estate

import (
	"net/netip"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// rawSubnetBody and rawRuleBody are children that were read apart.
type rawSubnetBody struct {
	common
	rawSubnet
}

type rawRuleBody struct {
	common
	nsg  key
	rule NSGRule
}

func (v *rawNSG) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "securityrules":
			d.list("securityRules", func() {
				var r NSGRule
				var said ruleSaid
				properties := r.read(d, &said)
				var id []byte
				d.object("a rule", func(k []byte) {
					switch string(k) {
					case "id":
						id = d.bytes("id")
					case "name":
						r.Name = d.word("name")
					case "properties":
						d.object("properties", properties)
					default:
						d.skip()
					}
				})
				if r.Name == "" {
					r.Name = d.keep([]byte(lastName(string(plainID(id)))))
				}
				said.finish(&r)
				v.nsg.Rules = append(v.nsg.Rules, r)
			})
		case "networkinterfaces":
			d.refs("networkInterfaces", &v.nics)
		case "subnets":
			d.refs("subnets", &v.subnets)
		default:
			d.skip()
		}
	}
}

// ruleSaid is what decides only when the whole rule has been read.
type ruleSaid struct{ direction, access string }

func (s *ruleSaid) finish(r *NSGRule) {
	r.Access, _ = netsec.ParseAccess(s.access)
	switch {
	case strings.EqualFold(s.direction, "Outbound"):
	case strings.EqualFold(s.direction, "Inbound"):
		r.Inbound = true
	default: // it may be one that lets in, or not
		r.Inbound, r.Access = true, netsec.Unknown
	}
}

// read reads singular and plural fields alike. FACTS 2.1.
func (r *NSGRule) read(d *decoder, said *ruleSaid) func([]byte) {
	one := func(what string, list *[]string) {
		if b := d.bytes(what); len(b) > 0 {
			*list = d.add(*list, b)
		}
	}
	asgs := func(what string, list *[]string) {
		d.list(what, func() {
			if k := d.ref(what); k != 0 {
				*list = append(*list, d.ids.text(k))
			}
		})
	}
	return func(k []byte) {
		switch string(k) {
		case "priority":
			d.number("priority", &r.Priority)
		case "direction":
			said.direction = d.word("direction")
		case "access":
			said.access = d.word("access")
		case "protocol":
			r.Protocol = d.word("protocol")
		case "description":
			r.Description = d.word("description")
		case "sourceaddressprefix":
			one("sourceAddressPrefix", &r.Sources)
		case "sourceaddressprefixes":
			d.texts("sourceAddressPrefixes", &r.Sources)
		case "destinationaddressprefix":
			one("destinationAddressPrefix", &r.Destinations)
		case "destinationaddressprefixes":
			d.texts("destinationAddressPrefixes", &r.Destinations)
		case "sourceportrange":
			one("sourcePortRange", &r.SourcePorts)
		case "sourceportranges":
			d.texts("sourcePortRanges", &r.SourcePorts)
		case "destinationportrange":
			one("destinationPortRange", &r.DestinationPorts)
		case "destinationportranges":
			d.texts("destinationPortRanges", &r.DestinationPorts)
		case "sourceapplicationsecuritygroups":
			asgs("sourceApplicationSecurityGroups", &r.SourceASGs)
		case "destinationapplicationsecuritygroups":
			asgs("destinationApplicationSecurityGroups", &r.DestinationASGs)
		default:
			d.skip()
		}
	}
}

func (v *rawLB) field(d *decoder) func([]byte) {
	id := v.id
	return func(k []byte) {
		switch string(k) {
		case "frontendipconfigurations":
			d.list("frontendIPConfigurations", func() {
				var f rawFront
				f.id, _ = d.part("a frontend", id, "frontendIPConfigurations", f.field(d))
				v.fronts = append(v.fronts, f)
			})
		case "backendaddresspools":
			d.list("backendAddressPools", func() { v.pools = append(v.pools, d.pool(id)) })
		case "loadbalancingrules":
			d.list("loadBalancingRules", func() { v.rules = append(v.rules, d.lbRule(id, "loadBalancingRules", false)) })
		case "inboundnatrules":
			d.list("inboundNatRules", func() { v.rules = append(v.rules, d.lbRule(id, "inboundNatRules", true)) })
		case "inboundnatpools":
			d.list("inboundNatPools", func() { v.rules = append(v.rules, d.lbRule(id, "inboundNatPools", true)) })
		default:
			d.skip()
		}
	}
}

func (d *decoder) pool(lb string) (p rawPool) {
	p.id, _ = d.part("a backend pool", lb, "backendAddressPools", p.field(d, lb))
	p.finish()
	return p
}

func (d *decoder) lbRule(lb, typ string, nat bool) (r rawLBRule) {
	r.nat = nat
	r.id, _ = d.part("a rule of a load balancer", lb, typ, r.field(d))
	r.finish()
	return r
}

func (v *rawJIT) field(d *decoder) func([]byte) {
	return func(k []byte) {
		switch string(k) {
		case "provisioningstate":
			v.policy.ProvisioningState = d.word("provisioningState")
		case "virtualmachines":
			d.list("virtualMachines", func() {
				var m JITMachine
				d.object("a machine of the policy", func(k []byte) {
					switch string(k) {
					case "id":
						m.VM = d.text("id")
					case "ports":
						d.list("ports", func() { m.Ports = append(m.Ports, d.jitPort()) })
					default:
						d.skip()
					}
				})
				v.policy.VMs = append(v.policy.VMs, m)
			})
		case "requests":
			d.list("requests", func() { v.requests(d) })
		default:
			d.skip()
		}
	}
}

func (d *decoder) jitPort() (p JITPort) {
	d.object("a port of the policy", func(k []byte) {
		switch string(k) {
		case "number":
			d.number("number", &p.Number)
		case "protocol":
			p.Protocol = d.word("protocol")
		case "allowedsourceaddressprefix":
			if b := d.bytes("allowedSourceAddressPrefix"); len(b) > 0 {
				p.Sources = d.add(p.Sources, b)
			}
		case "allowedsourceaddressprefixes":
			d.texts("allowedSourceAddressPrefixes", &p.Sources)
		case "maxrequestaccessduration":
			p.MaxDuration = d.word("maxRequestAccessDuration")
		default:
			d.skip()
		}
	})
	return p
}

// requests reads one request: an opening for each of its machines and ports.
func (v *rawJIT) requests(d *decoder) {
	var start time.Time
	requestor := ""
	from := len(v.policy.Requests)
	d.object("a request", func(k []byte) {
		switch string(k) {
		case "starttimeutc":
			start = when(d.bytes("startTimeUtc"))
		case "requestor":
			requestor = d.word("requestor")
		case "virtualmachines":
			d.list("virtualMachines", func() {
				vm, first := "", len(v.policy.Requests)
				d.object("a machine of the request", func(k []byte) {
					switch string(k) {
					case "id":
						vm = d.text("id")
					case "ports":
						d.list("ports", func() {
							var r JITRequest
							d.object("a port of the request", func(k []byte) {
								switch string(k) {
								case "number":
									d.number("number", &r.Port)
								case "status":
									r.Status = d.word("status")
								case "endtimeutc":
									r.End = when(d.bytes("endTimeUtc"))
								case "allowedsourceaddressprefix":
									if b := d.bytes("allowedSourceAddressPrefix"); len(b) > 0 {
										r.Sources = d.add(r.Sources, b)
									}
								case "allowedsourceaddressprefixes":
									d.texts("allowedSourceAddressPrefixes", &r.Sources)
								default:
									d.skip()
								}
							})
							v.policy.Requests = append(v.policy.Requests, r)
						})
					default:
						d.skip()
					}
				})
				for i := first; i < len(v.policy.Requests); i++ {
					v.policy.Requests[i].VM = vm
				}
			})
		default:
			d.skip()
		}
	})
	for i := from; i < len(v.policy.Requests); i++ {
		v.policy.Requests[i].Start, v.policy.Requests[i].Requestor = start, requestor
	}
}

// when reads a time as Azure writes it, zero where it cannot.
func when(b []byte) time.Time {
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

func validAddr(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return []netip.Addr{a}
}

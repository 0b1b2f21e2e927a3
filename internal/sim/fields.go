package sim

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

func fill(m map[string]any, field string, v any) {
	if m[field] == nil {
		m[field] = v
	}
}

func fillSKU(body map[string]any) {
	fill(body, "sku", map[string]any{"name": "Basic"})
	if sku := object(body, "sku"); sku != nil {
		fill(sku, "tier", "Regional")
	}
}

// publicAddressLocked gives addresses from the upper half of 203.0.113.0/24, which is documentation space, and repeats them only after
// all are used.
func (s *Sim) publicAddressLocked() string {
	used := map[any]bool{}
	for _, r := range s.byType[typePIP][max(0, len(s.byType[typePIP])-1000):] { // in a large estate all are used anyway
		if !r.gone {
			used[object(r.doc(), "properties")["ipAddress"]] = true
		}
	}
	for i := 200; i < 255; i++ {
		if a := fmt.Sprintf("203.0.113.%d", i); !used[a] {
			return a
		}
	}
	return fmt.Sprintf("203.0.113.%d", 200+s.rng.IntN(55))
}

func oldAddress(oldProps map[string]any, config string) string {
	for _, c := range objects(oldProps, "ipConfigurations") {
		if strings.EqualFold(text(c, "name"), config) {
			return text(object(c, "properties"), "privateIPAddress")
		}
	}
	return ""
}

// privateAddressLocked gives the first free address of a subnet, after the four that Azure keeps; one that the NIC had, it keeps.
func (s *Sim) privateAddressLocked(subnet, had string, v6 bool) string {
	if _, found := s.subnetLocked(subnet); !found {
		return ""
	}
	if had != "" {
		return had
	}
	return s.freeAddressLocked(subnet, v6, nil)
}

// freeAddressLocked gives the first address of a subnet that nobody has, after the four that Azure keeps. Taken ones are about to be given.
func (s *Sim) freeAddressLocked(subnet string, v6 bool, taken map[string]bool) string {
	raw, found := s.subnetLocked(subnet)
	if !found {
		return ""
	}
	used := map[string]bool{}
	for o := range s.refs[strings.ToLower(subnet)] {
		nic, _, _ := strings.Cut(strings.ToLower(o.id), "/ipconfigurations/")
		if r := s.all[nic]; r != nil {
			for _, c := range objects(object(r.doc(), "properties"), "ipConfigurations") {
				used[text(object(c, "properties"), "privateIPAddress")] = true
			}
		}
	}
	props := object(raw, "properties")
	for _, p := range append(stringList(props, "addressPrefixes"), text(props, "addressPrefix")) {
		prefix, err := netip.ParsePrefix(p)
		if err != nil || prefix.Addr().Is6() != v6 {
			continue
		}
		a := prefix.Masked().Addr()
		for range 4 {
			a = a.Next()
		}
		for prefix.Contains(a) {
			if !used[a.String()] && !taken[a.String()] {
				return a.String()
			}
			a = a.Next()
		}
	}
	return ""
}

func (s *Sim) subnetLocked(id string) (map[string]any, bool) {
	t, err := parsePath(id)
	if err != nil {
		return nil, false
	}
	raw, _, found := s.lookLocked(t, view{})
	if !found {
		return nil, false
	}
	m, err := decodeObject(raw)
	return m, err == nil
}

// serverFieldsLocked fills in what Azure owns and clients leave out or send back.
func (s *Sim) serverFieldsLocked(probe, old *resource, body map[string]any, mode storeMode) {
	props := object(body, "properties")
	if props == nil {
		return
	}
	var oldProps map[string]any
	if old != nil {
		oldProps = object(old.doc(), "properties")
	}
	own := func(field string, fresh func() any) {
		_, sent := props[field]
		if v, ok := oldProps[field]; ok && !(sent && mode == storeOutside) { // an outside hand may make it another machine
			props[field] = v
		} else if _, ok := props[field]; (!ok || mode == storeWrite) && fresh != nil {
			props[field] = fresh()
		} else if mode == storeWrite {
			delete(props, field)
		}
	}
	if probe.kind.guid {
		own("resourceGuid", func() any { return s.uuidLocked() })
	}
	switch probe.typeKey {
	case typeVM:
		own("vmId", func() any { return s.uuidLocked() })
		own("timeCreated", func() any { return s.nowLocked().Format(time.RFC3339Nano) })
		if mode == storeWrite { // the server's own name for the disk
			disk := func(p map[string]any) map[string]any { return object(object(p, "storageProfile"), "osDisk") }
			if now, was := disk(props), disk(oldProps); now != nil && text(now, "name") == text(was, "name") && refID(was, "managedDisk") != "" && object(now, "managedDisk") != nil {
				fill(object(now, "managedDisk"), "id", refID(was, "managedDisk"))
			}
		}
		if mode != storeLoad { // GET does not show them, so writers do not send them back
			own("instanceView", nil)
			own("extended", nil)
			if old == nil && props["instanceView"] == nil {
				props["instanceView"] = instanceView("running", s.nowLocked())
			}
		}
	case typeVMSS:
		own("uniqueId", func() any { return s.uuidLocked() })
		own("timeCreated", func() any { return s.nowLocked().Format(time.RFC3339Nano) })
	case typeGateway: // as recorded
		for _, f := range []string{"enablePrivateIpAddress", "isMigrateToCSES", "enableBgpRouteTranslationForNat", "disableIPSecReplayProtection", "enableBgp", "activeActive", "allowRemoteVnetTraffic", "allowVirtualWanTraffic"} {
			fill(props, f, false)
		}
		for _, f := range []string{"natRules", "virtualNetworkGatewayPolicyGroups"} {
			fill(props, f, []any{})
		}
		for _, c := range objects(props, "natRules") {
			if p := object(c, "properties"); p != nil {
				fill(p, "type", "Static")
			}
		}
	case typeVNet: // as recorded
		fill(props, "virtualNetworkPeerings", []any{})
		if mode == storeWrite {
			s.fillPeerings(probe, props)
		}
		fill(props, "enableDdosProtection", false)
		fill(props, "subnets", []any{})
		for _, c := range objects(props, "subnets") {
			p := object(c, "properties")
			if p == nil {
				p = map[string]any{}
				c["properties"] = p
			}
			fill(p, "delegations", []any{})
			fill(p, "privateEndpointNetworkPolicies", "Disabled")
			fill(p, "privateLinkServiceNetworkPolicies", "Enabled")
		}
	case typePIP:
		fill(props, "publicIPAllocationMethod", "Dynamic")
		fill(props, "publicIPAddressVersion", "IPv4")
		fill(props, "idleTimeoutInMinutes", json.Number("4"))
		fill(props, "ipTags", []any{})
		fillSKU(body)
		if mode == storeWrite && oldProps["ipAddress"] != nil {
			fill(props, "ipAddress", oldProps["ipAddress"])
		} else if mode == storeWrite && props["publicIPAllocationMethod"] == "Static" {
			fill(props, "ipAddress", s.publicAddressLocked())
		}
	case typeLB:
		for _, f := range []string{"frontendIPConfigurations", "backendAddressPools", "loadBalancingRules", "probes", "inboundNatRules", "outboundRules", "inboundNatPools"} {
			fill(props, f, []any{})
		}
		for _, c := range objects(props, "frontendIPConfigurations") {
			if p := object(c, "properties"); p != nil {
				fill(p, "privateIPAllocationMethod", "Dynamic")
			}
		}
		fillBalancer(props)
		fillSKU(body)
	case typeNIC:
		if mode == storeWrite { // recorded: the primary one stands first
			if list, ok := props["ipConfigurations"].([]any); ok {
				slices.SortStableFunc(list, func(a, b any) int {
					first := func(c any) int {
						m, _ := c.(map[string]any)
						if truth(object(m, "properties")["primary"]) {
							return 0
						}
						return 1
					}
					return first(a) - first(b)
				})
			}
		}
		for i, c := range objects(props, "ipConfigurations") {
			p := object(c, "properties")
			if p == nil {
				continue
			}
			fill(p, "privateIPAddressVersion", "IPv4")
			if mode != storeWrite {
				continue
			}
			fill(p, "primary", i == 0)
			fill(p, "privateIPAllocationMethod", "Dynamic")
			if p["privateIPAddress"] == nil {
				if a := s.privateAddressLocked(refID(p, "subnet"), oldAddress(oldProps, text(c, "name")), p["privateIPAddressVersion"] == "IPv6"); a != "" {
					p["privateIPAddress"] = a
				}
			}
		}
		if mode == storeWrite { // as recorded
			fill(body, "kind", "Regular")
			fill(props, "dnsSettings", map[string]any{})
			if dns := object(props, "dnsSettings"); dns != nil {
				fill(dns, "dnsServers", []any{})
				fill(dns, "appliedDnsServers", []any{})
				fill(dns, "internalDomainNameSuffix", "simulated.bx.internal.cloudapp.net")
			}
			for _, f := range []string{"enableAcceleratedNetworking", "enableIPForwarding", "disableTcpStateTracking", "vnetEncryptionSupported", "defaultOutboundConnectivityEnabled"} {
				fill(props, f, false)
			}
			fill(props, "allowPort25Out", true)
			fill(props, "nicType", "Standard")
			fill(props, "auxiliaryMode", "None")
			fill(props, "auxiliarySku", "None")
			fill(props, "hostedWorkloads", []any{})
			fill(props, "tapConfigurations", []any{})
		}
	}
}

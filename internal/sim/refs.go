package sim

import (
	"slices"
	"strings"
)

// backFields are the read-only back-references by type, in the resource and in its parts ("subnets.ipConfigurations").
var backFields = map[string][]string{
	typeNSG:                         {"networkInterfaces", "subnets"},
	typeNIC:                         {"virtualMachine"},
	typePIP:                         {"ipConfiguration"},
	typeVNet:                        {"subnets.ipConfigurations"},
	typeLB:                          {"backendAddressPools.backendIPConfigurations", "inboundNatRules.backendIPConfiguration"},
	"microsoft.network/routetables": {"subnets"},
	"microsoft.network/natgateways": {"subnets"},
}

// takeBackRefs removes the back-references from a body that was sent or loaded, and returns their ids by (part) key and field.
func takeBackRefs(r *resource, body map[string]any) map[string]map[string][]string {
	var kept map[string]map[string][]string
	take := func(key string, props map[string]any, field string) {
		var ids []string
		switch v := props[field].(type) {
		case map[string]any:
			ids = append(ids, text(v, "id"))
		case []any:
			for _, o := range objects(props, field) {
				ids = append(ids, text(o, "id"))
			}
		default:
			return
		}
		delete(props, field)
		if len(ids) == 0 {
			return
		}
		if kept == nil {
			kept = map[string]map[string][]string{}
		}
		if kept[key] == nil {
			kept[key] = map[string][]string{}
		}
		kept[key][field] = ids
	}
	props := object(body, "properties")
	for _, path := range backFields[r.typeKey] {
		part, field, nested := strings.Cut(path, ".")
		if !nested {
			take(r.key, props, path)
			continue
		}
		for _, p := range objects(props, part) {
			take(r.key+"/"+strings.ToLower(part+"/"+text(p, "name")), object(p, "properties"), field)
		}
	}
	return kept
}

// collectRefs lists what r refers to, as back-references of the others.
func collectRefs(r *resource) []outRef {
	var out []outRef
	add := func(id, field string, plural bool, self string) {
		if id != "" {
			out = append(out, outRef{strings.ToLower(id), ref{field, plural, self}})
		}
	}
	props := object(r.doc(), "properties")
	switch {
	case strings.HasSuffix(r.typeKey, "/networkinterfaces"):
		add(refID(props, "networkSecurityGroup"), "networkInterfaces", true, r.id)
		for _, c := range objects(props, "ipConfigurations") {
			self, p := r.id+"/ipConfigurations/"+text(c, "name"), object(c, "properties")
			add(refID(p, "subnet"), "ipConfigurations", true, self)
			add(refID(p, "publicIPAddress"), "ipConfiguration", false, self)
			for _, o := range objects(p, "loadBalancerBackendAddressPools") {
				add(text(o, "id"), "backendIPConfigurations", true, self)
			}
			for _, o := range objects(p, "loadBalancerInboundNatRules") {
				add(text(o, "id"), "backendIPConfiguration", false, self)
			}
		}
	case r.typeKey == typeVNet:
		for _, c := range objects(props, "subnets") {
			self, p := r.id+"/subnets/"+text(c, "name"), object(c, "properties")
			for _, f := range []string{"networkSecurityGroup", "routeTable", "natGateway"} {
				add(refID(p, f), "subnets", true, self)
			}
		}
	case r.typeKey == typeVM:
		add(refID(props, "virtualMachineScaleSet"), "virtualMachines", true, r.id)
		for _, n := range objects(object(props, "networkProfile"), "networkInterfaces") {
			add(text(n, "id"), "virtualMachine", false, r.id)
		}
	case r.typeKey == typeLB:
		for _, c := range objects(props, "frontendIPConfigurations") {
			add(refID(object(c, "properties"), "publicIPAddress"), "ipConfiguration", false, r.id+"/frontendIPConfigurations/"+text(c, "name"))
		}
	case r.typeKey == "microsoft.network/bastionhosts" || r.typeKey == typeFirewall || r.typeKey == typeGateway:
		part := "bastionHostIpConfigurations"
		switch r.typeKey {
		case typeFirewall:
			part = "azureFirewallIpConfigurations"
		case typeGateway:
			part = "ipConfigurations"
		}
		for _, c := range objects(props, "ipConfigurations") {
			self, p := r.id+"/"+part+"/"+text(c, "name"), object(c, "properties")
			add(refID(p, "publicIPAddress"), "ipConfiguration", false, self)
			add(refID(p, "subnet"), "ipConfigurations", true, self)
		}
	}
	return out
}

func (s *Sim) addRefsLocked(r *resource) {
	for _, o := range r.out {
		if s.refs[o.target] == nil {
			s.refs[o.target] = map[ref]struct{}{}
		}
		s.refs[o.target][o.ref] = struct{}{}
		s.touchLocked(o.target)
	}
}

// backRefsLocked writes the back-references of a (part's) key into its properties.
func (s *Sim) backRefsLocked(r *resource, key string, props map[string]any, fields ...string) {
	found := map[string][]string{}
	for field, ids := range r.kept[key] {
		found[field] = append(found[field], ids...)
	}
	single := map[string]bool{}
	for o := range s.refs[key] {
		found[o.field] = append(found[o.field], o.id)
		single[o.field] = !o.plural
	}
	for _, field := range fields {
		ids := found[field]
		delete(props, field)
		if len(ids) == 0 {
			continue
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
		if single[field] || field == "virtualMachine" || field == "ipConfiguration" || field == "backendIPConfiguration" {
			props[field] = map[string]any{"id": ids[0]}
			continue
		}
		list := make([]any, len(ids))
		for i, id := range ids {
			list[i] = map[string]any{"id": id}
		}
		props[field] = list
	}
}

var refFields = map[string]bool{"networkSecurityGroup": true, "subnet": true, "publicIPAddress": true, "routeTable": true, "natGateway": true,
	"applicationSecurityGroups": true, "remoteVirtualNetwork": true, "loadBalancerBackendAddressPools": true, "loadBalancerInboundNatRules": true,
	"frontendIPConfiguration": true, "backendAddressPool": true, "probe": true}

// trimRefs reduces references to their ids: clients send whole resources in those places, Azure keeps and shows the id.
func trimRefs(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			trimRefs(e)
		}
	case map[string]any:
		for k, e := range v {
			if !refFields[k] {
				trimRefs(e)
				continue
			}
			list, _ := e.([]any)
			for _, o := range append(list, e) {
				if m, ok := o.(map[string]any); ok && m["id"] != nil {
					for f := range m {
						if f != "id" {
							delete(m, f)
						}
					}
				}
			}
		}
	}
}

package sim

import (
	"fmt"
	"strings"
)

// target is what a path names: a resource, a collection of resources, or an action on one.
type target struct {
	scope string // path before the last /providers/, without a trailing slash; "" for tenant level
	sub   string
	group string
	ns    string   // provider namespace, "" for subscriptions and groups themselves
	types []string // type segments
	names []string // one shorter than types for a collection (or an action: the last type segment)
}

// parsePath reads a path or resource id. Segments keep their case; doubled and trailing slashes are dropped, because clients that join
// a base URL with a path send them.
func parsePath(p string) (target, error) {
	segs := strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
	var t target
	last := -1
	for i, s := range segs {
		if strings.EqualFold(s, "providers") {
			last = i
		}
	}
	scope := segs
	if last >= 0 {
		scope = segs[:last]
	}
	if len(scope) > 0 {
		t.scope = "/" + strings.Join(scope, "/")
	}
	if len(scope) >= 1 && strings.EqualFold(scope[0], "subscriptions") {
		if len(scope) >= 2 {
			t.sub = scope[1]
		}
		if len(scope) >= 4 && strings.EqualFold(scope[2], "resourceGroups") {
			t.group = scope[3]
		}
	}
	if last < 0 {
		return t, nil
	}
	rest := segs[last+1:]
	if len(rest) < 1 {
		return t, fmt.Errorf("path %q ends at providers: a namespace and a type must follow", p)
	}
	t.ns = rest[0]
	for i, s := range rest[1:] {
		if i%2 == 0 {
			t.types = append(t.types, s)
		} else {
			t.names = append(t.names, s)
		}
	}
	return t, nil
}

func (t target) collection() bool { return len(t.types) == len(t.names)+1 }

func (t target) typ() string { return t.ns + "/" + strings.Join(t.types, "/") }

func (t target) typeKey() string { return strings.ToLower(t.typ()) }

func (t target) name() string {
	if len(t.names) == 0 {
		return ""
	}
	return t.names[len(t.names)-1]
}

func (t target) id() string {
	var b strings.Builder
	b.WriteString(t.scope)
	if t.ns == "" {
		return b.String()
	}
	b.WriteString("/providers/")
	b.WriteString(t.ns)
	for i, s := range t.types {
		b.WriteByte('/')
		b.WriteString(s)
		if i < len(t.names) {
			b.WriteByte('/')
			b.WriteString(t.names[i])
		}
	}
	return b.String()
}

// canonical spells the fixed words and the type as Azure does, whatever the client sent; names keep their case.
func (t target) canonical() target {
	segs := strings.Split(strings.TrimPrefix(t.scope, "/"), "/")
	for i, word := range map[int]string{0: "subscriptions", 2: "resourceGroups"} {
		if len(segs) > i && strings.EqualFold(segs[i], word) {
			segs[i] = word
		}
	}
	t.scope = "/" + strings.Join(segs, "/")
	if k, ok := kinds[t.typeKey()]; ok {
		words := strings.Split(k.name, "/")
		t.ns, t.types = words[0], words[1:]
	}
	return t
}

func (t target) key() string { return strings.ToLower(t.id()) }

// parent is the resource that t is a part of: the NSG of a rule, also for a collection of rules or an action.
func (t target) parent() target {
	p := t
	if t.collection() {
		p.types = t.types[:len(t.types)-1]
		return p
	}
	p.types, p.names = t.types[:len(t.types)-1], t.names[:len(t.names)-1]
	return p
}

// top is the outermost resource of t, which carries its parts.
func (t target) top() target {
	p := t
	if len(t.names) > 0 {
		p.types, p.names = t.types[:1], t.names[:1]
	}
	return p
}

// target2 is the lower-case type of the first two segments.
func (t target) target2() string {
	if len(t.types) < 2 {
		return ""
	}
	return strings.ToLower(t.ns + "/" + t.types[0] + "/" + t.types[1])
}

// kind is a resource type that clients may write.
type kind struct {
	name  string
	async bool // long-running writes
	etag  bool // the body carries an etag: W/"guid" of network, a counter of compute resources (recorded)
	guid  bool // properties.resourceGuid
	// instant: the write is done when it is answered (Succeeded), as recorded for NICs and load balancers; the operation is
	// mentioned for the latter alone.
	instant bool
}

var kinds = func() map[string]kind {
	m := map[string]kind{}
	for _, k := range []kind{
		{"Microsoft.Compute/virtualMachines", true, true, false, false},
		{"Microsoft.Compute/virtualMachineScaleSets", true, true, false, false},
		{"Microsoft.Compute/virtualMachineScaleSets/virtualMachines", true, true, false, false},
		{"Microsoft.Network/networkInterfaces", true, true, true, true},
		{"Microsoft.Network/networkSecurityGroups", true, true, true, false},
		{"Microsoft.Network/publicIPAddresses", true, true, true, false},
		{"Microsoft.Network/virtualNetworks", true, true, true, false},
		{"Microsoft.Network/loadBalancers", true, true, true, true},
		{"Microsoft.Network/applicationSecurityGroups", true, true, false, false},
		{"Microsoft.Network/bastionHosts", true, true, false, false},
		{"Microsoft.Network/azureFirewalls", true, true, false, false},
		{"Microsoft.Network/routeTables", true, true, true, false},
		{"Microsoft.Network/natGateways", true, true, true, false},
		{"Microsoft.Network/virtualNetworkGateways", true, true, true, false},
		{"Microsoft.Network/localNetworkGateways", true, true, true, false},
		{"Microsoft.Network/connections", true, true, true, false},
		{"Microsoft.Network/applicationGateways", true, true, true, false},
		{"Microsoft.Network/firewallPolicies", true, true, false, false},
		{"Microsoft.Network/ipGroups", true, true, false, false},
		{"Microsoft.Network/publicIPPrefixes", true, true, true, false},
		{"Microsoft.Authorization/locks", false, false, false, false},
	} {
		m[strings.ToLower(k.name)] = k
	}
	return m
}()

const (
	typeNSG        = "microsoft.network/networksecuritygroups"
	typeNIC        = "microsoft.network/networkinterfaces"
	typePIP        = "microsoft.network/publicipaddresses"
	typeVNet       = "microsoft.network/virtualnetworks"
	typeLB         = "microsoft.network/loadbalancers"
	typeVM         = "microsoft.compute/virtualmachines"
	typeVMSS       = "microsoft.compute/virtualmachinescalesets"
	typeVMSSVM     = "microsoft.compute/virtualmachinescalesets/virtualmachines"
	typeLock       = "microsoft.authorization/locks"
	typeAdminRules = "microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules"
	typeSub        = "microsoft.resources/subscriptions"
	typeGroup      = "microsoft.resources/subscriptions/resourcegroups"
	typeAdmin      = "microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules"
)

// parts are children that stand inside their parent's body: parent type -> lower-case child segment -> name of the array in properties.
// The ones marked writable have their own PUT and DELETE.
var parts = map[string]map[string]struct {
	field    string
	writable bool
}{
	typeNSG:                         {"securityrules": {"securityRules", true}, "defaultsecurityrules": {"defaultSecurityRules", false}},
	typeVNet:                        {"subnets": {"subnets", true}, "virtualnetworkpeerings": {"virtualNetworkPeerings", true}},
	"microsoft.network/routetables": {"routes": {"routes", true}},
	typeNIC:                         {"ipconfigurations": {"ipConfigurations", false}},
	typeGateway:                     {"ipconfigurations": {"ipConfigurations", false}, "natrules": {"natRules", false}},
	typeLB: {"inboundnatrules": {"inboundNatRules", true}, "backendaddresspools": {"backendAddressPools", true},
		"frontendipconfigurations": {"frontendIPConfigurations", false}, "loadbalancingrules": {"loadBalancingRules", false},
		"probes": {"probes", false}, "outboundrules": {"outboundRules", false}},
}

// canonicalType gives the spelling that Azure uses for types that we know, and t as it stands for others.
func canonicalType(t string) string {
	t1 := strings.ToLower(t)
	if k, ok := kinds[t1]; ok {
		return k.name
	}
	if name := otherNames[t1]; name != "" {
		return name
	}
	return t
}

// otherNames spell the types that have no generic writes.
var otherNames = map[string]string{
	typeVMSSNIC: nameVMSSNIC, typeVMSSPIP: nameVMSSPIP, typePricing: "Microsoft.Security/pricings", typeJIT: "Microsoft.Security/locations/jitNetworkAccessPolicies",
	typeRole: "Microsoft.Authorization/roleDefinitions", typeAssignment: "Microsoft.Authorization/roleAssignments",
}

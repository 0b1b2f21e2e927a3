package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rule is a security rule. It is immutable once stored: an NSG's list is replaced, never edited.
type rule struct {
	name     string
	props    map[string]any
	priority int
	inbound  bool
	tail     []byte // properties after provisioningState, up to and with the closing brace
}

const (
	maxRules       = 1000 // per NSG, FACTS 2.4
	maxAddresses   = 4000 // per rule and side, FACTS 2.4
	maxRuleASGs    = 10   // per rule and side, FACTS 2.4
	maxDescription = 140  // FACTS 2.1
)

var ruleName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$`) // FACTS 2.1

// newRule checks and normalises one rule as it was sent. ID is the rule's resource id, for messages.
func newRule(id, name string, props map[string]any, mode storeMode) (*rule, *armError) {
	r := &rule{name: name, props: props}
	if !ruleName.MatchString(name) {
		return nil, badRequest("InvalidResourceName", "Resource name %s is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.", name)
	}
	canon := func(field string, values ...string) *armError {
		got := text(props, field)
		if got == "" {
			return badRequest("SecurityRuleInvalid"+strings.ToUpper(field[:1])+field[1:], "Security rule %s has no %s. Allowed values: %s.", id, field, strings.Join(values, ", "))
		}
		for _, v := range values {
			if strings.EqualFold(got, v) {
				props[field] = v // clients send any case; Azure answers its own
				return nil
			}
		}
		return badRequest("InvalidRequestFormat", "Cannot parse the request: security rule %s has the %s '%s'. Allowed values: %s.", id, field, got, strings.Join(values, ", "))
	}
	for _, ae := range []*armError{canon("access", "Allow", "Deny"), canon("direction", "Inbound", "Outbound"), canon("protocol", "*", "Tcp", "Udp", "Icmp", "Esp", "Ah")} {
		if ae != nil {
			return nil, ae
		}
	}
	r.inbound = props["direction"] == "Inbound"
	p, err := strconv.Atoi(fmt.Sprint(props["priority"]))
	if err != nil || p < 100 || p > 4096 {
		return nil, badRequest("SecurityRuleInvalidPriority", "Security rule has invalid Priority. Value provided: %v Allowed range 100-4096.", props["priority"])
	}
	r.priority = p
	if len([]rune(text(props, "description"))) > maxDescription {
		return nil, badRequest("SecurityRuleDescriptionTooLong", "Security rule %s has a description of %d characters. At most %d are allowed.", id, len([]rune(text(props, "description"))), maxDescription)
	}
	var families [2]bool // IPv4, IPv6
	for _, side := range []string{"source", "destination"} {
		if ae := checkPorts(id, side, props); ae != nil {
			return nil, ae
		}
		if ae := checkAddresses(id, side, props, &families, mode); ae != nil {
			return nil, ae
		}
	}
	if families[0] && families[1] {
		return nil, badRequest("ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies", "Resource %s contains IP addresses or prefixes that belong to different address families. All IP addresses or prefixes in the resource should belong to the same address family.", id)
	}
	delete(props, "provisioningState")
	raw := mustJSON(props)
	r.tail = raw[1:]
	return r, nil
}

func stringList(props map[string]any, field string) []string {
	list, _ := props[field].([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// single and plural fields: what is unused is omitted in the singular and [] in the plural, as recorded NSG replies show (FACTS 2.1).
func oneOrMany(props map[string]any, one, many string) (single string, list []string) {
	if v, ok := props[one]; ok && v != nil && fmt.Sprint(v) != "" {
		single = fmt.Sprint(v)
		props[one] = single
	} else {
		delete(props, one)
	}
	list = stringList(props, many)
	if len(list) == 0 {
		props[many] = []any{}
	}
	return single, list
}

func checkPorts(id, side string, props map[string]any) *armError {
	one, many := oneOrMany(props, side+"PortRange", side+"PortRanges")
	title := strings.ToUpper(side[:1]) + side[1:] + "PortRange"
	if one == "" && len(many) == 0 {
		return badRequest("SecurityRuleMissing"+title, "Security rule %s must specify either %s or %ss.", id, title, title)
	}
	if one != "" && len(many) > 0 {
		return badRequest("SecurityRuleParameterConflict", "Security rule %s cannot specify both %s and %ss.", id, title, title)
	}
	if one == "*" {
		return nil
	}
	if one != "" {
		many = []string{one}
	}
	for _, p := range many {
		lo, hi, ranged := strings.Cut(p, "-")
		if !ranged {
			hi = lo
		}
		l, e1 := strconv.ParseUint(lo, 10, 16)
		h, e2 := strconv.ParseUint(hi, 10, 16)
		if e1 != nil || e2 != nil || l > h {
			return badRequest("SecurityRuleInvalidPortRange", "Security rule has invalid Port range. Value provided: %s. Value should be an integer OR integer range with '-' delimiter. Valid range 0-65535.", p)
		}
	}
	return nil
}

var serviceTag = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(\.[A-Za-z0-9]+)*$`)

// checkAddresses accepts addresses, prefixes, * and service tags. Names of tags are not checked against a list, because Azure adds to
// it; the old spellings with an underscore are refused as Azure refuses them. A bare number is an IPv4 address to Azure (recorded:
// "789" and "1234" were accepted).
func checkAddresses(id, side string, props map[string]any, families *[2]bool, mode storeMode) *armError {
	prefix := side + "AddressPrefix"
	one, many := oneOrMany(props, prefix, prefix+"es")
	title := strings.ToUpper(side[:1]) + side[1:] + "AddressPrefix"
	asgField := side + "ApplicationSecurityGroups"
	asgs := objects(props, asgField)
	if len(asgs) == 0 {
		delete(props, asgField)
	}
	used := 0
	for _, u := range []bool{one != "", len(many) > 0, len(asgs) > 0} {
		if u {
			used++
		}
	}
	if used == 0 {
		return badRequest("SecurityRuleMissing"+title, "Security rule %s must specify %s, %ses or application security groups.", id, title, title)
	}
	if used > 1 && mode != storeLoad {
		return badRequest("SecurityRuleParameterConflict", "Security rule %s cannot specify more than one of %s, %ses and application security groups.", id, title, title)
	}
	if len(asgs) > maxRuleASGs {
		return badRequest("SecurityRuleMaxApplicationSecurityGroups", "Security rule %s has %d application security groups as %s. At most %d are allowed.", id, len(asgs), side, maxRuleASGs)
	}
	if len(many) > maxAddresses {
		return badRequest("SecurityRuleMaxAddressPrefixes", "Security rule %s has %d %ses. At most %d are allowed.", id, len(many), title, maxAddresses)
	}
	check := func(v string, plural bool) *armError {
		if v == "*" {
			if plural && len(many) > 1 || plural && mode == storeWrite {
				return unsupported(title, id, v)
			}
			return nil
		}
		if p, err := netip.ParsePrefix(v); err == nil {
			families[family(p.Addr())] = true
			return nil
		}
		if a, err := netip.ParseAddr(v); err == nil && a.Zone() == "" {
			families[family(a)] = true
			return nil
		}
		if _, err := strconv.ParseUint(v, 10, 32); err == nil {
			families[0] = true
			return nil
		}
		if !serviceTag.MatchString(v) {
			return badRequest("SecurityRuleInvalidAddressPrefix", "Security rule has invalid Address prefix. Value provided: %s.", v)
		}
		if plural && mode == storeWrite { // seen in public reports, also for a list of one (docs/simulator.md)
			return unsupported(title, id, v)
		}
		return nil
	}
	if one != "" {
		return check(one, false)
	}
	for _, v := range many {
		if ae := check(v, true); ae != nil {
			return ae
		}
	}
	return nil
}

func unsupported(title, id, v string) *armError {
	return badRequest("SecurityRuleParameterContainsUnsupportedValue", "Security rule parameter %s for rule with Id %s cannot specify existing VIRTUALNETWORK, INTERNET, AZURELOADBALANCER, '*' or system tags. Unsupported value used: %s.", title, id, v)
}

func family(a netip.Addr) int {
	if a.Is4() || a.Is4In6() {
		return 0
	}
	return 1
}

// parseRules reads properties.securityRules. What Azure refuses is refused in every mode, apart from details that exports are known to
// carry (checkAddresses).
func parseRules(nsgID string, props map[string]any, mode storeMode) ([]*rule, *armError) {
	list := objects(props, "securityRules")
	rules := make([]*rule, 0, len(list))
	for _, o := range list {
		name := text(o, "name")
		p := object(o, "properties")
		if p == nil {
			return nil, badRequest("InvalidRequestFormat", "Cannot parse the request: security rule %s of %s has no properties.", name, nsgID)
		}
		r, ae := newRule(nsgID+"/securityRules/"+name, name, p, mode)
		if ae != nil {
			return nil, ae
		}
		rules = append(rules, r)
	}
	return rules, checkRuleSet(nsgID, rules)
}

func checkRuleSet(nsgID string, rules []*rule) *armError {
	if len(rules) > maxRules {
		return badRequest("MaxSecurityRulesPerNetworkSecurityGroupReached", "Network security group %s has %d security rules. At most %d are allowed.", nsgID, len(rules), maxRules)
	}
	type slot struct {
		priority int
		inbound  bool
	}
	taken := make(map[slot]string, len(rules))
	names := make(map[string]bool, len(rules))
	for _, r := range rules {
		key := strings.ToLower(r.name)
		if names[key] {
			return badRequest("InvalidRequestFormat", "Cannot parse the request: security rule %s appears twice in %s.", r.name, nsgID)
		}
		names[key] = true
		k := slot{r.priority, r.inbound}
		if other, ok := taken[k]; ok {
			return badRequest("SecurityRuleConflict", "Security rule %s conflicts with rule %s. Rules cannot have the same Priority and Direction. To learn more, see aka.ms/nsgrules.", r.name, other)
		}
		taken[k] = r.name
	}
	return nil
}

func (r *resource) ruleIndex(name string) int {
	return slices.IndexFunc(r.rules, func(x *rule) bool { return strings.EqualFold(x.name, name) })
}

func appendRule(b *bytes.Buffer, nsgID, etag, state, collection, name string, tail []byte) {
	b.WriteString(`{"name":`)
	b.Write(mustJSON(name))
	b.WriteString(`,"id":`)
	b.Write(mustJSON(nsgID + "/" + collection + "/" + name))
	b.WriteString(`,"etag":`)
	b.Write(mustJSON(etag))
	b.WriteString(`,"type":"Microsoft.Network/networkSecurityGroups/` + collection + `","properties":{"provisioningState":"` + state + `",`)
	b.Write(tail)
	b.WriteByte('}')
}

// renderRule is one rule as its own GET shows it: an NSG and its rules share etag and state (FACTS 2.5).
func (r *resource) renderRule(x *rule) []byte {
	var b bytes.Buffer
	appendRule(&b, r.id, r.etag, r.state, "securityRules", x.name, x.tail)
	return b.Bytes()
}

func (s *Sim) renderNSGLocked(r *resource) []byte {
	props := object(r.doc(), "properties")
	delete(props, "provisioningState")
	s.backRefsLocked(r, r.key, props, backFields[typeNSG]...)
	var b bytes.Buffer
	b.Grow(2048 + 700*len(r.rules))
	b.WriteByte('{')
	for _, f := range []string{"name", "id", "type", "location", "tags"} {
		if v, ok := r.doc()[f]; ok {
			fmt.Fprintf(&b, "%q:%s,", f, mustJSON(v))
		}
	}
	for f, v := range sortedFields(r.doc()) {
		switch f {
		case "name", "id", "type", "location", "tags", "etag", "properties":
		default:
			fmt.Fprintf(&b, "%s:%s,", mustJSON(f), mustJSON(v))
		}
	}
	fmt.Fprintf(&b, `"etag":%s,"properties":{"provisioningState":%q`, mustJSON(r.etag), r.state)
	for f, v := range sortedFields(props) {
		fmt.Fprintf(&b, ",%s:%s", mustJSON(f), mustJSON(v))
	}
	b.WriteString(`,"securityRules":[`)
	for i, x := range r.rules {
		if i > 0 {
			b.WriteByte(',')
		}
		appendRule(&b, r.id, r.etag, r.state, "securityRules", x.name, x.tail)
	}
	b.WriteString(`],"defaultSecurityRules":[`)
	for i, x := range defaultRules {
		if i > 0 {
			b.WriteByte(',')
		}
		appendRule(&b, r.id, r.etag, r.state, "defaultSecurityRules", x.name, x.tail)
	}
	b.WriteString("]}}")
	return b.Bytes()
}

func sortedFields(m map[string]any) func(yield func(string, any) bool) {
	return func(yield func(string, any) bool) {
		keys := make([]string, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// defaultRules are the six that every NSG ends with (FACTS 2.2; names, order and descriptions as recorded).
var defaultRules = func() []*rule {
	mk := func(name, description, source, destination, access, direction string, priority int) *rule {
		props := map[string]any{
			"description": description, "protocol": "*", "sourcePortRange": "*", "destinationPortRange": "*",
			"sourceAddressPrefix": source, "destinationAddressPrefix": destination, "access": access,
			"priority": json.Number(strconv.Itoa(priority)), "direction": direction,
			"sourcePortRanges": []any{}, "destinationPortRanges": []any{}, "sourceAddressPrefixes": []any{}, "destinationAddressPrefixes": []any{},
		}
		return &rule{name: name, props: props, priority: priority, inbound: direction == "Inbound", tail: mustJSON(props)[1:]}
	}
	return []*rule{
		mk("AllowVnetInBound", "Allow inbound traffic from all VMs in VNET", "VirtualNetwork", "VirtualNetwork", "Allow", "Inbound", 65000),
		mk("AllowAzureLoadBalancerInBound", "Allow inbound traffic from azure load balancer", "AzureLoadBalancer", "*", "Allow", "Inbound", 65001),
		mk("DenyAllInBound", "Deny all inbound traffic", "*", "*", "Deny", "Inbound", 65500),
		mk("AllowVnetOutBound", "Allow outbound traffic from all VMs to all VMs in VNET", "VirtualNetwork", "VirtualNetwork", "Allow", "Outbound", 65000),
		mk("AllowInternetOutBound", "Allow outbound traffic from all VMs to Internet", "*", "Internet", "Allow", "Outbound", 65001),
		mk("DenyAllOutBound", "Deny all outbound traffic", "*", "*", "Deny", "Outbound", 65500),
	}
}()

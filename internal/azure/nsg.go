package azure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// member is one name and value of a JSON object; value is a part of the text that was read, byte for byte.
type member struct {
	name  string
	value json.RawMessage
}

// members takes a JSON object apart in its own order. The values share memory with body.
func members(body []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, fmt.Errorf("expected a JSON object, found %v", t)
	}
	var out []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		start := int(dec.InputOffset())
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			return nil, err
		}
		v := bytes.TrimLeft(body[start:dec.InputOffset()], " \t\r\n:")
		out = append(out, member{t.(string), v})
	}
	_, err := dec.Token()
	return out, err
}

// elements takes a JSON array apart; null and nothing are an empty array.
func elements(body []byte) ([]json.RawMessage, error) {
	if len(body) == 0 || string(body) == "null" {
		return nil, nil
	}
	var out []json.RawMessage
	err := json.Unmarshal(body, &out)
	return out, err
}

func writeObject(b *bytes.Buffer, ms []member) {
	b.WriteByte('{')
	for i, m := range ms {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(m.name)
		b.Write(name)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
}

// The members of a group that Azure computes. They are left out of what is sent: Azure takes them neither as a wish nor amiss,
// and default rules alone are five kilobytes of each request. SPEC-NSG marks them read-only.
var (
	computedNSG           = map[string]bool{"etag": true}
	computedNSGProperties = map[string]bool{"defaultSecurityRules": true, "networkInterfaces": true, "subnets": true,
		"provisioningState": true}
)

type nsgProperties struct {
	ProvisioningState string            `json:"provisioningState"`
	FlushConnection   bool              `json:"flushConnection"`
	SecurityRules     []json.RawMessage `json:"securityRules"`
	NetworkInterfaces []SubResource     `json:"networkInterfaces"`
	Subnets           []SubResource     `json:"subnets"`
}

// UnmarshalJSON reads a group as ARM or Resource Graph send it, and keeps the whole text in Raw.
func (n *NSG) UnmarshalJSON(body []byte) error {
	var wire struct {
		Resource
		Properties *nsgProperties `json:"properties"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return err
	}
	if wire.ID == "" || wire.Properties == nil {
		return errors.New("network security group without id or properties")
	}
	out := NSG{Resource: wire.Resource, ProvisioningState: wire.Properties.ProvisioningState,
		FlushConnection: wire.Properties.FlushConnection, Rules: make([]SecurityRule, 0, len(wire.Properties.SecurityRules))}
	for _, raw := range wire.Properties.SecurityRules {
		var r SecurityRule
		if err := r.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("network security group %s: %w", wire.ID, err)
		}
		out.Rules = append(out.Rules, r)
	}
	for _, s := range wire.Properties.NetworkInterfaces {
		out.NICs = append(out.NICs, s.ID)
	}
	for _, s := range wire.Properties.Subnets {
		out.Subnets = append(out.Subnets, s.ID)
	}
	out.Raw = bytes.Clone(body)
	*n = out
	return nil
}

// MarshalJSON writes the group as it was read, with its present rules in place of those that it was read with. What Azure
// computes (default rules, back-references, the etag, which travels in If-Match) is left out; every other member, known to
// us or not, goes back byte for byte. A group without Raw is written from its fields.
func (n NSG) MarshalJSON() ([]byte, error) {
	rules, err := marshalRules(n.Rules)
	if err != nil {
		return nil, fmt.Errorf("network security group %s: %w", n.ID, err)
	}
	if len(n.Raw) == 0 {
		body := map[string]any{"location": n.Location}
		if n.Tags != nil {
			body["tags"] = n.Tags
		}
		props := map[string]any{"securityRules": json.RawMessage(rules)}
		if n.FlushConnection {
			props["flushConnection"] = true
		}
		body["properties"] = props
		return json.Marshal(body)
	}
	top, err := members(n.Raw)
	if err != nil {
		return nil, fmt.Errorf("network security group %s: %w", n.ID, err)
	}
	var keep []member
	for _, m := range top {
		if computedNSG[m.name] {
			continue
		}
		if m.name == "properties" {
			if m.value, err = replaceRules(m.value, rules, n.FlushConnection); err != nil {
				return nil, fmt.Errorf("network security group %s: %w", n.ID, err)
			}
		}
		keep = append(keep, m)
	}
	var b bytes.Buffer
	writeObject(&b, keep)
	return b.Bytes(), nil
}

func replaceRules(properties, rules []byte, flush bool) ([]byte, error) {
	ms, err := members(properties)
	if err != nil {
		return nil, err
	}
	keep, found, flushes := ms[:0], false, false
	for _, m := range ms {
		switch {
		case computedNSGProperties[m.name]:
			continue
		case m.name == "securityRules":
			m.value, found = rules, true
		case m.name == "flushConnection":
			flushes = true
			if was := bytes.Equal(bytes.TrimSpace(m.value), []byte("true")); was != flush {
				m.value = strconv.AppendBool(nil, flush)
			}
		}
		keep = append(keep, m)
	}
	if !found {
		keep = append(keep, member{"securityRules", rules})
	}
	if flush && !flushes {
		keep = append(keep, member{"flushConnection", []byte("true")})
	}
	var b bytes.Buffer
	writeObject(&b, keep)
	return b.Bytes(), nil
}

func marshalRules(rules []SecurityRule) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, r := range rules {
		if i > 0 {
			b.WriteByte(',')
		}
		raw := []byte(r.Raw)
		if len(raw) == 0 {
			var err error
			if raw, err = r.MarshalJSON(); err != nil {
				return nil, err
			}
		}
		b.Write(raw)
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}

// WithRules returns a copy of the group with these rules in place of its own. Rules whose Raw is set go back byte for byte,
// others are written from their fields. The slice is not copied.
func (n NSG) WithRules(rules []SecurityRule) NSG {
	n.Rules = rules
	return n
}

// Rule returns the rule of a name, which ARM compares without case.
func (n NSG) Rule(name string) (SecurityRule, bool) {
	for _, r := range n.Rules {
		if strings.EqualFold(r.Name, name) {
			return r, true
		}
	}
	return SecurityRule{}, false
}

type ruleProperties struct {
	Description                          string        `json:"description,omitempty"`
	Protocol                             string        `json:"protocol"`
	SourcePortRange                      string        `json:"sourcePortRange,omitempty"`
	SourcePortRanges                     []string      `json:"sourcePortRanges,omitempty"`
	DestinationPortRange                 string        `json:"destinationPortRange,omitempty"`
	DestinationPortRanges                []string      `json:"destinationPortRanges,omitempty"`
	SourceAddressPrefix                  string        `json:"sourceAddressPrefix,omitempty"`
	SourceAddressPrefixes                []string      `json:"sourceAddressPrefixes,omitempty"`
	SourceApplicationSecurityGroups      []SubResource `json:"sourceApplicationSecurityGroups,omitempty"`
	DestinationAddressPrefix             string        `json:"destinationAddressPrefix,omitempty"`
	DestinationAddressPrefixes           []string      `json:"destinationAddressPrefixes,omitempty"`
	DestinationApplicationSecurityGroups []SubResource `json:"destinationApplicationSecurityGroups,omitempty"`
	Access                               string        `json:"access"`
	Priority                             int           `json:"priority"`
	Direction                            string        `json:"direction"`
}

// UnmarshalJSON reads a rule, custom or default, and merges singular and plural fields. FACTS 2.1.
func (r *SecurityRule) UnmarshalJSON(body []byte) error {
	var wire struct {
		Name       string          `json:"name"`
		Properties *ruleProperties `json:"properties"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return fmt.Errorf("security rule: %w", err)
	}
	if wire.Name == "" || wire.Properties == nil {
		return errors.New("security rule without name or properties")
	}
	p := wire.Properties
	*r = SecurityRule{Name: wire.Name, Priority: p.Priority, Direction: p.Direction, Access: p.Access, Protocol: p.Protocol,
		Description: p.Description, Raw: bytes.Clone(body),
		SourcePrefixes:      merge(p.SourceAddressPrefix, p.SourceAddressPrefixes),
		DestinationPrefixes: merge(p.DestinationAddressPrefix, p.DestinationAddressPrefixes),
		SourcePorts:         merge(p.SourcePortRange, p.SourcePortRanges),
		DestinationPorts:    merge(p.DestinationPortRange, p.DestinationPortRanges),
		SourceASGs:          idsOf(p.SourceApplicationSecurityGroups),
		DestinationASGs:     idsOf(p.DestinationApplicationSecurityGroups)}
	return nil
}

// MarshalJSON writes the rule from its fields, or as it was read when Raw is set. A rule without ports, or without a source or
// destination, is an error: Azure's way to say "any" is "*", and nothing here turns a gap into it. No source port is "*".
func (r SecurityRule) MarshalJSON() ([]byte, error) {
	if len(r.Raw) > 0 {
		return r.Raw, nil
	}
	p, err := r.properties()
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Name       string         `json:"name"`
		Properties ruleProperties `json:"properties"`
	}{r.Name, p})
}

func (r SecurityRule) properties() (ruleProperties, error) {
	p := ruleProperties{Description: r.Description, Protocol: r.Protocol, Access: r.Access, Priority: r.Priority,
		Direction: r.Direction, SourceApplicationSecurityGroups: subResources(r.SourceASGs),
		DestinationApplicationSecurityGroups: subResources(r.DestinationASGs)}
	ports := r.SourcePorts
	if len(ports) == 0 {
		ports = []string{"*"}
	}
	p.SourcePortRange, p.SourcePortRanges = split(ports)
	p.DestinationPortRange, p.DestinationPortRanges = split(r.DestinationPorts)
	p.SourceAddressPrefix, p.SourceAddressPrefixes = split(r.SourcePrefixes)
	p.DestinationAddressPrefix, p.DestinationAddressPrefixes = split(r.DestinationPrefixes)
	for _, need := range []struct {
		what    string
		missing bool
	}{
		{"name", r.Name == ""}, {"priority", r.Priority == 0}, {"direction", r.Direction == ""}, {"access", r.Access == ""},
		{"protocol", r.Protocol == ""}, {"destination port", len(r.DestinationPorts) == 0},
		{"source", len(r.SourcePrefixes)+len(r.SourceASGs) == 0},
		{"destination", len(r.DestinationPrefixes)+len(r.DestinationASGs) == 0},
	} {
		if need.missing {
			return p, fmt.Errorf("security rule %q has no %s", r.Name, need.what)
		}
	}
	return p, nil
}

// ruleMembers are the members of a rule's properties that these types know; Edited replaces them and keeps all others.
var ruleMembers = map[string]bool{"description": true, "protocol": true, "sourcePortRange": true, "sourcePortRanges": true,
	"destinationPortRange": true, "destinationPortRanges": true, "sourceAddressPrefix": true, "sourceAddressPrefixes": true,
	"sourceApplicationSecurityGroups": true, "destinationAddressPrefix": true, "destinationAddressPrefixes": true,
	"destinationApplicationSecurityGroups": true, "access": true, "priority": true, "direction": true,
	"provisioningState": true}

// Edited returns the rule with Raw rebuilt: the fields as they are now, and every member of the old Raw that these types do
// not know. Use it after changing fields of a rule that was read; without it the old Raw would go back unchanged.
func (r SecurityRule) Edited() (SecurityRule, error) {
	p, err := r.properties()
	if err != nil {
		return r, err
	}
	known, err := json.Marshal(p)
	if err != nil {
		return r, err
	}
	props, err := members(known)
	if err != nil {
		return r, err
	}
	name, err := json.Marshal(r.Name)
	if err != nil {
		return r, err
	}
	top := []member{{"name", name}}
	if len(r.Raw) > 0 {
		old, err := members(r.Raw)
		if err != nil {
			return r, fmt.Errorf("security rule %q: %w", r.Name, err)
		}
		for _, m := range old {
			switch m.name {
			case "properties":
				rest, err := members(m.value)
				if err != nil {
					return r, fmt.Errorf("security rule %q: %w", r.Name, err)
				}
				for _, o := range rest {
					if !ruleMembers[o.name] {
						props = append(props, o)
					}
				}
			case "name", "id", "etag", "type": // the id may carry an old name; Azure computes all of them
			default:
				top = append(top, m)
			}
		}
	}
	var b bytes.Buffer
	writeObject(&b, props)
	top = append(top, member{"properties", b.Bytes()})
	var whole bytes.Buffer
	writeObject(&whole, top)
	r.Raw = whole.Bytes()
	return r, nil
}

func merge(one string, many []string) []string {
	if one == "" {
		return many
	}
	return append([]string{one}, many...)
}

// split is how Azure wants a list: one value in the singular field, several in the plural one.
func split(v []string) (string, []string) {
	if len(v) == 1 {
		return v[0], nil
	}
	return "", v
}

func idsOf(s []SubResource) []string {
	var out []string
	for _, r := range s {
		out = append(out, r.ID)
	}
	return out
}

func subResources(ids []string) []SubResource {
	var out []SubResource
	for _, id := range ids {
		out = append(out, SubResource{ID: id})
	}
	return out
}

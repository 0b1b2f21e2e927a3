package azure

import (
	"fmt"
	"strings"
)

// ID is a resource id, taken apart. Names and types keep the case in which Azure spelt them.
type ID struct {
	Subscription string
	Group        string   // resource group; "" for what lies in a subscription or tenant directly
	Provider     string   // for example Microsoft.Network
	Types        []string // for example [networkSecurityGroups securityRules]
	Names        []string // as many as Types
}

// ParseID takes a resource id apart. It reads /subscriptions/S[/resourceGroups/G][/providers/P/type/name/...]; of an
// extension resource, it keeps the last provider.
func ParseID(id string) (ID, error) {
	bad := func(why string) (ID, error) { return ID{}, fmt.Errorf("resource id %q: %s", id, why) }
	if !strings.HasPrefix(id, "/") {
		return bad("does not start with a slash")
	}
	parts := strings.Split(strings.Trim(id, "/"), "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "?#%\\\r\n") {
			return bad("has an empty part or a character that no resource name has")
		}
	}
	if len(parts)%2 != 0 {
		return bad("has a type without a name, or a name without a type")
	}
	var out ID
	for i := 0; i < len(parts); i += 2 {
		key, name := parts[i], parts[i+1]
		switch {
		case i == 0 && strings.EqualFold(key, "subscriptions"):
			out.Subscription = name
		case i == 2 && strings.EqualFold(key, "resourceGroups"):
			out.Group = name
		case strings.EqualFold(key, "providers"):
			out.Provider, out.Types, out.Names = name, nil, nil
		case out.Provider == "":
			return bad("is not below a subscription, resource group or provider")
		default:
			out.Types, out.Names = append(out.Types, key), append(out.Names, name)
		}
	}
	if out.Subscription == "" {
		return bad("names no subscription")
	}
	if out.Provider != "" && len(out.Types) == 0 {
		return bad("names a provider and no resource")
	}
	return out, nil
}

// Name returns the last name of the id.
func (i ID) Name() string {
	if len(i.Names) == 0 {
		return ""
	}
	return i.Names[len(i.Names)-1]
}

// Type returns the full type, for example Microsoft.Network/networkSecurityGroups/securityRules.
func (i ID) Type() string { return i.Provider + "/" + strings.Join(i.Types, "/") }

// Is tells whether the id is of a full type, without regard to case.
func (i ID) Is(fullType string) bool { return strings.EqualFold(i.Type(), fullType) }

// IDName returns the last part of a resource id, "" for an empty one. It does not validate.
func IDName(id string) string {
	id = strings.TrimRight(id, "/")
	return id[strings.LastIndexByte(id, '/')+1:]
}

// ParentID returns the id without its last type and name: the network interface of an ip configuration, the VNet of a subnet.
// It returns "" when there is no parent.
func ParentID(id string) string {
	id = strings.TrimRight(id, "/")
	for range 2 {
		i := strings.LastIndexByte(id, '/')
		if i < 0 {
			return ""
		}
		id = id[:i]
	}
	return id
}

// EqualID compares two resource ids as ARM does: without regard to case, and to a slash at the end.
func EqualID(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

// Key returns the form of a resource id that is used as a map key: lower case, no slash at the end.
func Key(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

package sim

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// regions that subscriptions have, and what clients show of them.
var regions = []struct{ name, display, geography, group, paired string }{
	{"westeurope", "West Europe", "Europe", "Europe", "northeurope"},
	{"northeurope", "North Europe", "Europe", "Europe", "westeurope"},
	{"germanywestcentral", "Germany West Central", "Germany", "Europe", "germanynorth"},
	{"francecentral", "France Central", "France", "Europe", "francesouth"},
	{"uksouth", "UK South", "United Kingdom", "Europe", "ukwest"},
	{"eastus", "East US", "United States", "US", "westus"},
	{"eastus2", "East US 2", "United States", "US", "centralus"},
	{"centralus", "Central US", "United States", "US", "eastus2"},
	{"westus", "West US", "United States", "US", "eastus"},
	{"westcentralus", "West Central US", "United States", "US", "westus2"},
}

func (s *Sim) locationsLocked(sub string) []byte {
	var list []any
	for _, l := range regions {
		list = append(list, map[string]any{"id": "/subscriptions/" + sub + "/locations/" + l.name, "name": l.name, "type": "Region", "displayName": l.display,
			"regionalDisplayName": "(" + l.group + ") " + l.display, "metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended",
				"geography": l.geography, "geographyGroup": l.group, "pairedRegion": []any{map[string]any{"name": l.paired, "id": "/subscriptions/" + sub + "/locations/" + l.paired}}}})
	}
	return mustJSON(map[string]any{"value": list})
}

// providerVersions are api-versions that the providers' lists name, newest first; the simulator accepts any.
var providerVersions = map[string][]string{
	"Microsoft.Compute":         {"2024-11-01", "2024-07-01", "2024-03-01", "2023-09-01", "2022-11-01", "2021-07-01", "2020-06-01", "2019-12-01"},
	"Microsoft.Network":         {"2025-05-01", "2024-05-01", "2024-03-01", "2023-11-01", "2022-07-01", "2022-01-01", "2020-11-01", "2018-11-01"},
	"Microsoft.Security":        {"2024-01-01", "2020-01-01", "2015-06-01-preview"},
	"Microsoft.Authorization":   {"2022-04-01", "2020-05-01", "2018-07-01", "2016-09-01"},
	"Microsoft.Resources":       {"2024-03-01", "2022-12-01", "2022-09-01", "2021-04-01", "2019-11-01", "2016-06-01"},
	"Microsoft.ResourceGraph":   {"2024-04-01", "2022-10-01", "2021-03-01", "2019-04-01"},
	"Microsoft.Insights":        {"2015-04-01"},
	"Microsoft.ManagedIdentity": {"2023-01-31"},
}

// providerTypes are the types by namespace that this simulator serves.
func providerTypes() map[string][]string {
	out := map[string][]string{
		"Microsoft.Security": {"locations", "pricings", "jitNetworkAccessPolicies", "locations/jitNetworkAccessPolicies"}, "Microsoft.ResourceGraph": {"resources"},
		"Microsoft.Insights": {"eventtypes/values"}, "Microsoft.Resources": {"subscriptions", "resourceGroups", "resources", "tenants", "providers"},
		"Microsoft.Authorization": {"permissions", "roleAssignments", "roleDefinitions"}, "Microsoft.ManagedIdentity": {"identities"},
	}
	for tk, k := range kinds {
		ns, typ, _ := strings.Cut(k.name, "/")
		out[ns] = append(out[ns], typ)
		for _, p := range parts[tk] {
			out[ns] = append(out[ns], typ+"/"+p.field)
		}
	}
	for ns, list := range out {
		slices.Sort(list)
		out[ns] = slices.Compact(list)
	}
	return out
}

func provider(ns, sub string, types []string) map[string]any {
	places := make([]any, len(regions))
	for i, l := range regions {
		places[i] = l.display
	}
	list := []any{}
	for _, t := range types {
		list = append(list, map[string]any{"resourceType": t, "locations": places, "apiVersions": providerVersions[ns], "defaultApiVersion": providerVersions[ns][0],
			"capabilities": "CrossResourceGroupResourceMove, CrossSubscriptionResourceMove, SupportsTags, SupportsLocation"})
	}
	out := map[string]any{"namespace": ns, "resourceTypes": list}
	if sub != "" {
		out["id"], out["registrationState"], out["registrationPolicy"] = "/subscriptions/"+sub+"/providers/"+ns, "Registered", "RegistrationRequired"
	} else {
		out["id"] = "/providers/" + ns
	}
	return out
}

// providersLocked serves the list of providers and single ones, of a subscription or of the tenant; nil for other paths. Everything is
// registered, so that registering changes nothing.
func (s *Sim) providersLocked(r *request, lower string) *answer {
	segs := strings.Split(lower, "/")
	sub := ""
	if len(segs) > 2 && segs[0] == "subscriptions" {
		sub, segs = segs[1], segs[2:]
	}
	if segs[0] != "providers" || len(segs) > 3 || len(segs) == 3 && !(segs[2] == "register" && r.method == http.MethodPost) {
		return nil
	}
	all := providerTypes()
	if sub != "" && s.all["/subscriptions/"+sub] == nil {
		return noSubscription(sub).answer()
	}
	if len(segs) < 3 && r.method != http.MethodGet {
		return methodNotAllowed(r).answer()
	}
	if len(segs) == 1 {
		value := []any{}
		for _, ns := range slices.Sorted(maps.Keys(all)) {
			value = append(value, provider(ns, sub, all[ns]))
		}
		return ok(200, mustJSON(map[string]any{"value": value}))
	}
	for ns, types := range all {
		if strings.EqualFold(ns, segs[1]) {
			return ok(200, mustJSON(provider(ns, sub, types)))
		}
	}
	return (&armError{Status: 404, Code: "InvalidResourceNamespace", Message: fmt.Sprintf("The resource namespace '%s' is invalid.", segs[1])}).answer()
}

func tenants() []byte {
	return mustJSON(map[string]any{"value": []any{map[string]any{"id": "/tenants/" + TenantID, "tenantId": TenantID, "countryCode": "DE", "displayName": "Simulated",
		"defaultDomain": "simulated.example", "domains": []any{"simulated.example"}, "tenantCategory": "Home", "tenantType": "AAD"}}})
}

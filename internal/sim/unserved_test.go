package sim_test

import "regexp"

// operationsNotServed are the operations of the official specifications, among those that have examples, which the simulator refuses with an
// error that says so. An operation that is refused and not here, and an entry that no operation needs any more, fail the test.
var operationsNotServed = []struct {
	operation *regexp.Regexp // of "METHOD path"
	reason    string
}{
	{regexp.MustCompile(`(GET|PUT|PATCH) .*/extensions(/\{\w+\})?$`), "VM extensions"},
	{regexp.MustCompile(`/securityAdminConfigurations|/listActive\w+Configurations$|/listActiveSecurityAdminRules$|/listNetworkManagerEffectiveConnectivityConfigurations$`), "Network Manager: only what is in force in a network is here"},
	{regexp.MustCompile(`/Microsoft\.Security/assessments`), "recommendations of Defender: ours come from the scanner"},
	{regexp.MustCompile(`(osUpgradeHistory|rollingUpgrades/(latest|cancel)|[aA]pproveRollingUpgrade|RollingUpgrade|setOrchestrationServiceState)$`), "rolling upgrades go through at once here"},
	{regexp.MustCompile(`(/skus|/vmSizes|/usages|/serviceTags|/serviceTagDetails)$`), "catalogues and quotas of a region"},
	{regexp.MustCompile(`/providers/Microsoft\.\w+/operations$|/checkResourceName$|/checkZonePeers/$`), "lists of operations, checks of names and zones"},
	{regexp.MustCompile(`(attachDetachDataDisks|retrieveBootDiagnosticsData)$`), "disks"},
	{regexp.MustCompile(`/(learnedIPPrefixes|packetCapture|disconnectActiveSessions|getActiveSessions|ddosProtectionStatus)$`), "what a firewall, a Bastion host or DDoS protection sees: nothing runs there"},
	{regexp.MustCompile(`/effectiveRouteTable$`), "effective routes: nothing here needs them"},
	{regexp.MustCompile(`/(CheckIPAddressAvailability|ResourceNavigationLinks|ServiceAssociationLinks|PrepareNetworkPolicies|UnprepareNetworkPolicies)$`), "services inside subnets"},
	{regexp.MustCompile(`/tapConfigurations(/\{\w+\})?$`), "network taps"},
	{regexp.MustCompile(`/(setLoadBalancerFrontendPublicIpAddresses|queryInboundNatRulePortMapping|migrateToIpBased)$|loadBalancers/\{\w+\}/networkInterfaces$|networkInterfaces/\{\w+\}/loadBalancers$`), "views of load balancers that their bodies give as well"},
	{regexp.MustCompile(`(?i)virtualMachines/\{\w+\}/networkInterfaces/\{\w+\}/ipConfigurations`), "parts of an instance's interface, which its body shows"},
}

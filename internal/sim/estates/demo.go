package estates

import "fmt"

// Ids of the demo estate that walk-throughs name.
const (
	DemoShop = "5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01"
	DemoLab  = "c2d94b77-83a5-4f7e-a0d6-2e9a5b8f4c02"
)

// Demo is an estate of fewer than twenty machines in two subscriptions. Each shows one situation; the tag "shows" names it. 203.0.113.9 and
// 203.0.113.10 are left free: they are clients.
//
//	web-01         NIC NSG with 443 and SSH open to the Internet: can be protected as it stands
//	web-02         a foreign allow of SSH at 110, with free priorities before it
//	web-03         a foreign allow of SSH at 100, where no priority is left before it
//	orders-01/02   one NSG shared by two NICs
//	db-01          NSG on the subnet alone, no public address
//	app-01         NSGs on NIC and subnet
//	fax-gateway    no NSG at all, on a Basic public address
//	reports-01     SSH through the NAT rule 50001 of a Standard load balancer
//	payroll        Windows, RDP open
//	search-01      IPv4 and IPv6
//	api-01         rules by application security group
//	build-01       twice, in two groups: an ambiguous name; the one of the lab is deallocated
//	batch-01       a security admin rule denies SSH before any NSG is asked
//	sensor-hub     a security admin rule always allows SSH from a partner's network
//	aks-…          owned by AKS, in its MC_ group
//	render         a scale set of two that does not announce termination
//	encode         a scale set that announces it ten minutes before
//	thumbnails     a scale set that announces it three minutes before, less than Azure takes today
//	vault-01       a just-in-time policy of Defender that is narrow and holds
//	legacy-01      a just-in-time policy of Defender that is broad and bypassed, and an opening of it that was left behind
//	archive-nsg    attached to nothing, with a rule of another Curfew for a machine that is gone
func Demo() []byte {
	e := New()
	shows := func(what string) map[string]string { return map[string]string{"shows": what} }

	e.Subscription(DemoShop, "Contoso Shop")
	e.Group("shop-network", "westeurope")
	data := e.NSG("data-subnet-nsg",
		Rule{Name: "allow-postgres-from-app", Priority: 200, Source: "10.10.3.0/24", Port: "5432"},
		Rule{Name: "allow-ssh-from-office", Priority: 300, Source: "203.0.113.64/26", Port: "22"})
	app := e.NSG("app-subnet-nsg",
		Allow("allow-https", 200, "443", "Internet"),
		Allow("allow-ssh", 1000, "22", "Internet"))
	apiGroup := e.ASG("api-servers")
	apiNSG := e.NSG("api-subnet-nsg",
		Rule{Name: "allow-https-to-api", Priority: 200, Source: "Internet", DestinationASGs: []string{apiGroup}, Ports: []string{"443", "8443"}},
		Rule{Name: "allow-ssh-to-api", Priority: 400, Sources: []string{"203.0.113.64/26", "198.51.100.192/27"}, DestinationASGs: []string{apiGroup}, Port: "22"})
	vnet := e.VNet("shop-vnet", []string{"10.10.0.0/16", "fd00:10:10::/48"},
		Subnet{Name: "web", Prefix: "10.10.1.0/24", Prefix6: "fd00:10:10:1::/64"},
		Subnet{Name: "data", Prefix: "10.10.2.0/24", NSG: data},
		Subnet{Name: "app", Prefix: "10.10.3.0/24", NSG: app},
		Subnet{Name: "api", Prefix: "10.10.4.0/24", NSG: apiNSG},
		Subnet{Name: "AzureBastionSubnet", Prefix: "10.10.250.0/26"})
	e.Bastion("shop-bastion", vnet+"/subnets/AzureBastionSubnet", "203.0.113.20")
	web := vnet + "/subnets/web"

	e.Group("shop-web", "westeurope")
	e.VM("web-01", VM{Subnet: web, PrivateIP: "10.10.1.11", PublicIP: "198.51.100.11", Tags: shows("can be protected as it stands"),
		NSG: e.NSG("web-01-nsg", Allow("allow-https", 300, "443", "Internet"), Allow("allow-ssh", 1000, "22", "Internet"))})
	e.VM("web-02", VM{Subnet: web, PrivateIP: "10.10.1.12", PublicIP: "198.51.100.12", Tags: shows("an early allow with room before it"),
		NSG: e.NSG("web-02-nsg", Rule{Name: "vendor-access", Priority: 110, Source: "*", Port: "22", Description: "Opened for the vendor, ticket SHOP-118"}, Allow("allow-https", 300, "443", "Internet"))})
	e.VM("web-03", VM{Subnet: web, PrivateIP: "10.10.1.13", PublicIP: "198.51.100.13", Tags: shows("an early allow with no room before it"),
		NSG: e.NSG("web-03-nsg", Rule{Name: "allow-all-admin", Priority: 100, Source: "Internet", Ports: []string{"22", "443"}})})

	e.Group("shop-orders", "westeurope")
	orders := e.NSG("orders-nsg", Allow("allow-https", 300, "443", "VirtualNetwork"), Allow("ssh-from-anywhere", 500, "22", "*"))
	e.VM("orders-01", VM{Subnet: web, PrivateIP: "10.10.1.21", PublicIP: "198.51.100.21", NSG: orders, Tags: shows("an NSG shared with orders-02")})
	e.VM("orders-02", VM{Subnet: web, PrivateIP: "10.10.1.22", NSG: orders, Tags: shows("an NSG shared with orders-01")})
	e.VM("db-01", VM{Subnet: vnet + "/subnets/data", PrivateIP: "10.10.2.10", Size: "Standard_E8s_v5", Tags: shows("NSG on the subnet alone")})
	e.VM("app-01", VM{Subnet: vnet + "/subnets/app", PrivateIP: "10.10.3.10", PublicIP: "198.51.100.31", Tags: shows("NSGs on NIC and subnet"),
		NSG: e.NSG("app-01-nsg", Allow("allow-https", 200, "443", "*"), Allow("allow-ssh", 1000, "22", "*"))})
	e.VM("api-01", VM{Subnet: vnet + "/subnets/api", PrivateIP: "10.10.4.10", PublicIP: "198.51.100.41", ASGs: []string{apiGroup}, Tags: shows("rules by application security group")})
	e.VM("search-01", VM{Subnet: web, PrivateIP: "10.10.1.31", PrivateIPv6: "fd00:10:10:1::31", PublicIP: "198.51.100.32", Tags: shows("IPv4 and IPv6"),
		NSG: e.NSG("search-01-nsg", Allow("allow-https", 300, "443", "*"), Allow("allow-ssh", 900, "22", "Internet"))})
	e.ScaleSet("render", ScaleSet{Subnet: vnet + "/subnets/app", PrivateIPs: []string{"10.10.3.100", "10.10.3.101"}, NSG: e.NSG("render-nsg", Allow("allow-ssh", 1000, "22", "VirtualNetwork"))})

	e.ScaleSet("encode", ScaleSet{Subnet: vnet + "/subnets/app", PrivateIPs: []string{"10.10.3.110"}, Terminate: "PT10M"})
	e.ScaleSet("thumbnails", ScaleSet{Subnet: vnet + "/subnets/app", PrivateIPs: []string{"10.10.3.120"}, Terminate: "PT3M"})

	e.Group("back-office", "westeurope")
	lb := e.LB("reports-lb", "198.51.100.50", "Standard", []NATRule{{Name: "ssh-reports-01", FrontendPort: 50001, BackendPort: 22}},
		LBRule{Name: "https", FrontendPort: 443, BackendPort: 443, ProbePort: 443})
	e.VM("reports-01", VM{Subnet: web, PrivateIP: "10.10.1.41", NATRules: []string{lb + "/inboundNatRules/ssh-reports-01"}, Pools: []string{lb + "/backendAddressPools/pool"},
		Tags: shows("SSH through a load balancer"), NSG: e.NSG("reports-nsg", Allow("allow-https", 300, "443", "Internet"), Allow("allow-ssh", 400, "22", "Internet"))})
	e.VM("payroll", VM{OS: "Windows", Subnet: web, PrivateIP: "10.10.1.51", PublicIP: "198.51.100.51", Tags: shows("Windows"),
		NSG: e.NSG("payroll-nsg", Allow("allow-rdp", 1000, "3389", "Internet"), Rule{Name: "allow-winrm", Priority: 1010, Source: "10.10.0.0/16", Ports: []string{"5985", "5986"}})})
	e.VM("fax-gateway", VM{Subnet: web, PrivateIP: "10.10.1.61", PublicIP: "198.51.100.61", PublicSKU: "Basic", Size: "Standard_B2s", Tags: shows("no NSG at all")})
	e.VM("build-01", VM{Subnet: web, PrivateIP: "10.10.1.71", Tags: shows("a name that exists twice"), NSG: e.NSG("build-nsg", Allow("allow-ssh", 1000, "22", "VirtualNetwork"))})

	vault := e.VM("vault-01", VM{Subnet: web, PrivateIP: "10.10.1.81", Tags: shows("just-in-time access by Defender"),
		NSG: e.NSG("vault-nsg", defenderRule("MicrosoftDefenderForCloud-JITRule_-1151891693_545C5DBC675443D3BF179EFD1EF8254D", "MDC", "vault-01", "10.10.1.81", 1000, "Deny", "*"))})
	e.JITPolicy("default", JITPort{VM: vault, Number: 22, Source: "203.0.113.64/26", Longest: "PT1H"})
	e.NSG("archive-nsg", Rule{Name: "curfew-deny-archive-tcp-22", Priority: 200, Access: "Deny", Protocol: "*", Destination: "10.10.1.199", Port: "22",
		Description: "Shuts port 22 of archive-01"})

	e.Subscription(DemoLab, "Contoso Lab")
	e.Group("lab", "northeurope")
	labNSG := e.NSG("lab-nsg", Allow("allow-ssh", 1000, "22", "Internet"))
	quiet := e.VNet("lab-vnet", []string{"10.20.0.0/16"}, Subnet{Name: "default", Prefix: "10.20.0.0/24", NSG: labNSG})
	e.AdminRules(quiet, AdminRule{Name: "deny-ssh-from-internet", Priority: 10, Access: "Deny", Source: "Internet", Port: "22"})
	e.VM("batch-01", VM{Subnet: quiet + "/subnets/default", PrivateIP: "10.20.0.10", PublicIP: "203.0.113.30", Tags: shows("an admin rule denies")})
	e.VM("build-01", VM{Subnet: quiet + "/subnets/default", PrivateIP: "10.20.0.11", Power: "deallocated", Tags: shows("a name that exists twice; deallocated")})
	field := e.VNet("field-vnet", []string{"10.30.0.0/16"}, Subnet{Name: "default", Prefix: "10.30.0.0/24"}, Subnet{Name: "aks", Prefix: "10.30.8.0/22"})
	e.AdminRules(field, AdminRule{Name: "always-allow-partner", Priority: 20, Access: "AlwaysAllow", Source: "203.0.113.128/25", Port: "22"})
	e.VM("sensor-hub", VM{Subnet: field + "/subnets/default", PrivateIP: "10.30.0.10", PublicIP: "203.0.113.31", Tags: shows("an admin rule always allows"),
		NSG: e.NSG("sensor-hub-nsg", Allow("allow-mqtt", 300, "8883", "Internet"))})
	legacy := e.VM("legacy-01", VM{Subnet: quiet + "/subnets/default", PrivateIP: "10.20.0.12", Tags: shows("just-in-time access by Defender that is bypassed"),
		NSG: e.NSG("legacy-nsg", Allow("allow-ssh-inside", 300, "22", "VirtualNetwork"),
			defenderRule("SecurityCenter-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C370", "ASC", "legacy-01", "10.20.0.12", 100, "Allow", "203.0.113.77"),
			defenderRule("SecurityCenter-JITRule_-1282941078_D94F68C391F84FFFB715F439EA7EBF4E", "ASC", "legacy-01", "10.20.0.12", 4096, "Deny", "*"))})
	e.JITPolicy("default", JITPort{VM: legacy, Number: 22, Source: "*", Longest: "PT8H"})
	cluster := e.ID("Microsoft.ContainerService/managedClusters", "field")
	e.Group("MC_lab_field_northeurope", "northeurope")
	e.VM("aks-system-31582749-0", VM{Subnet: field + "/subnets/aks", PrivateIP: "10.30.8.4", ManagedBy: cluster, Tags: shows("owned by AKS"), NSG: e.NSG("aks-agentpool-31582749-nsg")})
	return e.JSON()
}

// defenderRule is a rule as Defender writes it: a policy's deny, or the allow of a request. FACTS 1.4.
func defenderRule(name, product, vm, address string, priority int, access, source string) Rule {
	text := " JIT Network Access rule for policy 'default' of VM '"
	if access == "Allow" {
		text = " JIT Network Access rule created by an initiation request for policy 'default' of VM '"
	}
	return Rule{Name: name, Priority: priority, Access: access, Protocol: "*", Source: source, Destination: address, Port: "22", Description: product + text + vm + "'."}
}

// Large is an estate for measurements: machines spread evenly over NSGs (on the NIC, 100 rules each) and subscriptions, a virtual network
// of up to 200 machines each, every fourth machine with a public address.
func Large(vms, nsgs, subscriptions int) []byte {
	e := New()
	for s := range max(1, subscriptions) {
		e.Subscription(guid(fmt.Sprint("large", s)), fmt.Sprintf("Large %d", s+1))
		e.Group("large", "westeurope")
		var groups []string
		for n := s; n < nsgs; n += max(1, subscriptions) {
			rules := make([]Rule, 0, 100)
			for i := range 100 {
				rules = append(rules, Rule{Name: fmt.Sprintf("rule-%03d", i), Priority: 1000 + 10*i, Port: fmt.Sprint(8000 + i), Source: fmt.Sprintf("10.%d.%d.0/24", i, n%250)})
			}
			groups = append(groups, e.NSG(fmt.Sprintf("nsg-%04d", n), rules...))
		}
		vnet := ""
		for i, n := 0, s; n < vms; i, n = i+1, n+max(1, subscriptions) {
			if i%200 == 0 {
				k := i / 200
				prefix := fmt.Sprintf("10.%d.0.0/16", k%250)
				vnet = e.VNet(fmt.Sprintf("vnet-%03d", k), []string{prefix}, Subnet{Name: "default", Prefix: fmt.Sprintf("10.%d.0.0/22", k%250)})
			}
			v := VM{Subnet: vnet + "/subnets/default", PrivateIP: fmt.Sprintf("10.%d.%d.%d", i/200%250, i%200/100, i%100+10)}
			if len(groups) > 0 {
				v.NSG = groups[i%len(groups)]
			}
			if i%4 == 0 {
				v.PublicIP = fmt.Sprintf("198.51.100.%d", i%250+1) // not unique: there are not that many documentation addresses
			}
			e.VM(fmt.Sprintf("vm-%05d", n), v)
		}
	}
	return e.JSON()
}

package estates

import (
	"bufio"
	"fmt"
	"io"
)

// LargeOptions of WriteLarge. VMs is how many machines there are; the rest follows from it where it is 0.
type LargeOptions struct {
	VMs           int
	NSGs          int // 0: one for every 200 machines
	Rules         int // in each NSG; 0: 20
	Subscriptions int // 0: one for every 20,000 machines
	PublicEvery   int // one machine in so many has a public address; 0: 4
}

func (o LargeOptions) filled() LargeOptions {
	if o.NSGs == 0 {
		o.NSGs = max(1, o.VMs/200)
	}
	if o.Rules == 0 {
		o.Rules = 20
	}
	if o.Subscriptions == 0 {
		o.Subscriptions = max(1, (o.VMs+19999)/20000)
	}
	if o.PublicEvery == 0 {
		o.PublicEvery = 4
	}
	return o
}

// Bytes is about how much memory a simulator of the estate needs, with room for its collector and for what is asked of it: measured.
func (o LargeOptions) Bytes() int64 {
	o = o.filled()
	resources := 2*o.VMs + o.VMs/o.PublicEvery + o.NSGs
	return int64(resources)*5300 + int64(o.NSGs)*int64(o.Rules)*4000
}

// WriteLarge writes an estate of many machines, one after another, so that none but the reader's need be in memory: each machine with its
// interface, some with a public address, up to 200 in a network. What is where depends on the options alone.
func WriteLarge(w io.Writer, o LargeOptions) error {
	o = o.filled()
	b := bufio.NewWriterSize(w, 1<<20)
	fmt.Fprint(b, `{"resources":[`)
	sep := "\n"
	put := func(format string, args ...any) {
		b.WriteString(sep)
		sep = ",\n"
		fmt.Fprintf(b, format, args...)
	}
	for s := range o.Subscriptions {
		sub := "/subscriptions/" + guid(fmt.Sprint("large", s))
		group := sub + "/resourceGroups/large"
		put(`{"id":%q,"displayName":"Large %d","state":"Enabled"}`, sub, s+1)
		put(`{"id":%q,"location":"westeurope"}`, group)
		network := group + "/providers/Microsoft.Network/"
		var nsgs []string
		for n := s; n < o.NSGs; n += o.Subscriptions {
			id := fmt.Sprintf("%snetworkSecurityGroups/nsg-%04d", network, n)
			nsgs = append(nsgs, id)
			put(`{"id":%q,"location":"westeurope","properties":{"securityRules":[`, id)
			for i := range o.Rules {
				if i > 0 {
					b.WriteByte(',')
				}
				fmt.Fprintf(b, `{"name":"rule-%03d","properties":{"priority":%d,"direction":"Inbound","access":"Allow","protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"%d","sourceAddressPrefix":"10.%d.%d.0/24","destinationAddressPrefix":"*"}}`,
					i, 1000+10*(i%300)+i/300, 8000+i%50000, i%250, n%250)
			}
			b.WriteString(`]}}`)
		}
		vnet := ""
		for i, n := 0, s; n < o.VMs; i, n = i+1, n+o.Subscriptions {
			k := i / 200
			net := fmt.Sprintf("10.%d", k%250)
			if i%200 == 0 {
				vnet = fmt.Sprintf("%svirtualNetworks/vnet-%03d", network, k)
				put(`{"id":%q,"location":"westeurope","properties":{"addressSpace":{"addressPrefixes":["%s.0.0/16"]},"subnets":[{"name":"default","properties":{"addressPrefix":"%s.0.0/22"}}]}}`, vnet, net, net)
			}
			name := fmt.Sprintf("vm-%05d", n)
			public := ""
			if i%o.PublicEvery == 0 {
				id := network + "publicIPAddresses/" + name + "-ip"
				put(`{"id":%q,"location":"westeurope","sku":{"name":"Standard","tier":"Regional"},"properties":{"ipAddress":"198.51.100.%d","publicIPAddressVersion":"IPv4","publicIPAllocationMethod":"Static","idleTimeoutInMinutes":4,"ipTags":[]}}`, id, i%250+1)
				public = fmt.Sprintf(`,"publicIPAddress":{"id":%q}`, id) // not unique: there are not that many documentation addresses
			}
			nic := network + "networkInterfaces/" + name + "-nic"
			put(`{"id":%q,"location":"westeurope","properties":{"primary":true,"enableAcceleratedNetworking":false,"enableIPForwarding":false,"networkSecurityGroup":{"id":%q},"ipConfigurations":[{"name":"ipconfig1","properties":{"primary":true,"privateIPAddress":"%s.%d.%d","privateIPAllocationMethod":"Static","privateIPAddressVersion":"IPv4","subnet":{"id":"%s/subnets/default"}%s}}]}}`,
				nic, nsgs[i%len(nsgs)], net, i%200/100, i%100+10, vnet, public)
			put(`{"id":"%s/providers/Microsoft.Compute/virtualMachines/%s","location":"westeurope","properties":{"vmId":%q,"timeCreated":"2026-03-02T08:15:27.482193+00:00","hardwareProfile":{"vmSize":"Standard_D2s_v5"},`+
				`"storageProfile":{"imageReference":{"publisher":"Canonical","offer":"ubuntu-24_04-lts","sku":"server","version":"latest"},"osDisk":{"osType":"Linux","name":"%s-os","createOption":"FromImage","caching":"ReadWrite","managedDisk":{"storageAccountType":"Premium_LRS"},"diskSizeGB":30}},`+
				`"osProfile":{"computerName":%q,"adminUsername":"operator","linuxConfiguration":{"disablePasswordAuthentication":true}},"networkProfile":{"networkInterfaces":[{"id":%q,"properties":{"primary":true}}]}}}`,
				group, name, guid(name), name, name, nic)
		}
	}
	fmt.Fprint(b, "\n]}\n")
	return b.Flush()
}

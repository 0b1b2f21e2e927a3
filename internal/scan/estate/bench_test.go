package estate_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// writeExport writes an export of machines, each with an interface and a public address, and one group of ten rules for every ten, in
// 200 subscriptions: 3.1 resources a machine, with the fields that Resource Graph gives.
func writeExport(w io.Writer, vms int) error {
	b := bufio.NewWriterSize(w, 1<<20)
	fmt.Fprint(b, `{"resources":[`)
	sep := "\n"
	put := func(format string, args ...any) {
		b.WriteString(sep)
		sep = ",\n"
		fmt.Fprintf(b, format, args...)
	}
	const subs = 200
	per := (vms + subs - 1) / subs
	for s, n := 0, 0; s < subs && n < vms; s++ {
		sub := fmt.Sprintf("%08x-1111-4222-8333-444455556666", s)
		rg := "/subscriptions/" + sub + "/resourceGroups/workload-" + strconv.Itoa(s)
		net := rg + "/providers/Microsoft.Network/"
		put(`{"id":"%svirtualNetworks/vnet","name":"vnet","type":"microsoft.network/virtualnetworks","location":"westeurope","properties":{"addressSpace":{"addressPrefixes":["10.%d.0.0/16"]},"subnets":[{"id":"%svirtualNetworks/vnet/subnets/default","name":"default","properties":{"addressPrefix":"10.%d.0.0/16","delegations":[],"ipConfigurations":[]}}],"virtualNetworkPeerings":[]}}`, net, s, net, s)
		nsg := ""
		for i := 0; i < per && n < vms; i, n = i+1, n+1 {
			addr := fmt.Sprintf("10.%d.%d.%d", s, i/200, i%200+10)
			if i%10 == 0 {
				nsg = fmt.Sprintf("%snetworkSecurityGroups/nsg-%d", net, i/10)
				var rules strings.Builder
				for r := range 10 {
					if r > 0 {
						rules.WriteByte(',')
					}
					src, port, access := fmt.Sprintf("203.0.%d.0/24", r), strconv.Itoa(8000+r), "Allow"
					if r == 9 {
						src, port = "*", "443"
					}
					if r == 8 && i%100 == 0 {
						src, port = "Internet", "22"
					}
					if r == 7 {
						src, port, access = "*", "3389", "Deny"
					}
					fmt.Fprintf(&rules, `{"id":"%s/securityRules/rule-%d","name":"rule-%d","etag":"W/\"00000000-0000-0000-0000-000000000000\"","type":"Microsoft.Network/networkSecurityGroups/securityRules","properties":{"provisioningState":"Succeeded","protocol":"Tcp","sourcePortRange":"*","destinationPortRange":"%s","sourceAddressPrefix":"%s","destinationAddressPrefix":"*","access":"%s","priority":%d,"direction":"Inbound","sourcePortRanges":[],"destinationPortRanges":[],"sourceAddressPrefixes":[],"destinationAddressPrefixes":[]}}`,
						nsg, r, r, port, src, access, 1000+10*r)
				}
				put(`{"id":%q,"name":"nsg-%d","type":"microsoft.network/networksecuritygroups","location":"westeurope","tags":{"env":"prod"},"properties":{"provisioningState":"Succeeded","resourceGuid":"00000000-0000-0000-0000-000000000000","securityRules":[%s],"defaultSecurityRules":[]}}`, nsg, i/10, rules.String())
			}
			name := fmt.Sprintf("vm-%05d", n)
			pip, nic := net+"publicIPAddresses/"+name+"-ip", net+"networkInterfaces/"+name+"-nic"
			put(`{"id":%q,"name":"%s-ip","type":"microsoft.network/publicipaddresses","location":"westeurope","sku":{"name":"Standard","tier":"Regional"},"properties":{"provisioningState":"Succeeded","ipAddress":"20.%d.%d.%d","publicIPAddressVersion":"IPv4","publicIPAllocationMethod":"Static","idleTimeoutInMinutes":4,"ipTags":[],"ipConfiguration":{"id":"%s/ipConfigurations/ipconfig1"}}}`,
				pip, name, n>>16, n>>8&255, n&255, nic)
			put(`{"id":%q,"name":"%s-nic","type":"microsoft.network/networkinterfaces","location":"westeurope","tags":{"env":"prod","owner":"team-%d"},"properties":{"provisioningState":"Succeeded","primary":true,"enableAcceleratedNetworking":false,"enableIPForwarding":false,"macAddress":"00-0D-3A-00-00-00","networkSecurityGroup":{"id":%q},"virtualMachine":{"id":"%s/providers/Microsoft.Compute/virtualMachines/%s"},"dnsSettings":{"dnsServers":[],"appliedDnsServers":[]},"ipConfigurations":[{"id":"%s/ipConfigurations/ipconfig1","name":"ipconfig1","etag":"W/\"x\"","type":"Microsoft.Network/networkInterfaces/ipConfigurations","properties":{"provisioningState":"Succeeded","primary":true,"privateIPAddress":"%s","privateIPAllocationMethod":"Dynamic","privateIPAddressVersion":"IPv4","subnet":{"id":"%svirtualNetworks/vnet/subnets/default"},"publicIPAddress":{"id":%q}}}]}}`,
				nic, name, s%20, nsg, rg, name, nic, addr, net, pip)
			put(`{"id":"%s/providers/Microsoft.Compute/virtualMachines/%s","name":"%s","type":"microsoft.compute/virtualmachines","location":"westeurope","tags":{"env":"prod","owner":"team-%d"},"properties":{"vmId":"00000000-0000-0000-0000-%012d","provisioningState":"Succeeded","timeCreated":"2026-03-02T08:15:27.482193+00:00","hardwareProfile":{"vmSize":"Standard_D2s_v5"},"storageProfile":{"imageReference":{"publisher":"Canonical","offer":"ubuntu-24_04-lts","sku":"server","version":"latest","exactVersion":"24.04.202602110"},"osDisk":{"osType":"Linux","name":"%s-os","createOption":"FromImage","caching":"ReadWrite","managedDisk":{"id":"%s/providers/Microsoft.Compute/disks/%s-os","storageAccountType":"Premium_LRS"},"diskSizeGB":30},"dataDisks":[]},"osProfile":{"computerName":"%s","adminUsername":"operator","linuxConfiguration":{"disablePasswordAuthentication":true,"provisionVMAgent":true},"secrets":[],"allowExtensionOperations":true},"networkProfile":{"networkInterfaces":[{"id":%q,"properties":{"primary":true}}]},"extended":{"instanceView":{"powerState":{"code":"PowerState/running","level":"Info","displayStatus":"VM running"}}}}}`,
				rg, name, name, s%20, n, name, rg, name, name, nic)
		}
	}
	fmt.Fprint(b, "\n]}\n")
	return b.Flush()
}

// export is the file of an export, made once.
func export(tb testing.TB, vms int) string {
	tb.Helper()
	name := filepath.Join(os.TempDir(), fmt.Sprintf("curfew-export-%d-%d.json", vms, os.Getpid()))
	if _, err := os.Stat(name); err != nil {
		f, err := os.Create(name)
		if err != nil {
			tb.Fatal(err)
		}
		if err := writeExport(f, vms); err != nil {
			tb.Fatal(err)
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.Remove(name) })
	}
	return name
}

func load(tb testing.TB, name string) *estate.Estate {
	tb.Helper()
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	e, err := estate.Read(f)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

var managementPorts = []uint16{22, 3389, 5985, 5986}

// judge asks for every way to every management port, as rules do, on all processors.
func judge(e *estate.Estate) (ways, exposed int) {
	vms := e.VMs()
	n := runtime.GOMAXPROCS(0)
	type sum struct{ ways, exposed int }
	sums := make(chan sum)
	for w := range n {
		go func() {
			var s sum
			for _, v := range vms[w*len(vms)/n : (w+1)*len(vms)/n] {
				for _, port := range managementPorts {
					for _, x := range e.Ways(v, netsec.TCP, port) {
						s.ways++
						if x.Kind != estate.VirtualNetwork && x.Reach.Exposed() {
							s.exposed++
						}
					}
				}
			}
			sums <- s
		}()
	}
	for range n {
		s := <-sums
		ways, exposed = ways+s.ways, exposed+s.exposed
	}
	return ways, exposed
}

// rss is the most memory that the process has held, in megabytes.
func rss() float64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
			return n / 1024
		}
	}
	return 0
}

func BenchmarkRead100k(b *testing.B) {
	name := export(b, 100_000)
	b.ResetTimer()
	for b.Loop() {
		load(b, name)
	}
	b.ReportMetric(rss(), "MB-peak")
}

func BenchmarkReadAndWays100k(b *testing.B) {
	name := export(b, 100_000)
	b.ResetTimer()
	for b.Loop() {
		if ways, exposed := judge(load(b, name)); ways != 800_000 || exposed != 10_000 {
			b.Fatalf("got %d ways, %d exposed", ways, exposed)
		}
	}
	b.ReportMetric(rss(), "MB-peak")
}

// BenchmarkHeld100k says how much memory an estate holds when it has been read, and when every way has been asked for.
func BenchmarkHeld100k(b *testing.B) {
	name := export(b, 100_000)
	held := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	for b.Loop() {
		before := held()
		e := load(b, name)
		b.ReportMetric(held()-before, "MB-read")
		judge(e)
		b.ReportMetric(held()-before, "MB-judged")
		runtime.KeepAlive(e)
	}
}

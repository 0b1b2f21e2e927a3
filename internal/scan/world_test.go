package scan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// world writes small estates in the file format: bodies with what a verdict needs and nothing else.
type world struct {
	bodies []map[string]any
	gaps   []estate.Gap
	at     map[string]map[string]any
}

type obj = map[string]any

const root = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/shop/providers/"

func newWorld() *world {
	w := &world{at: map[string]map[string]any{}}
	w.put("Microsoft.Network/virtualNetworks/net", obj{"addressSpace": obj{"addressPrefixes": []string{"10.0.0.0/16"}},
		"subnets": []obj{{"name": "a", "properties": obj{"addressPrefix": "10.0.0.0/24"}}}})
	return w
}

// put adds a body; path is its id from the provider on, or the whole id.
func (w *world) put(path string, properties obj, more ...obj) obj {
	id := path
	if path[0] != '/' {
		id = root + path
	}
	b := obj{"id": id, "location": "westeurope", "properties": properties}
	for _, m := range more {
		for k, v := range m {
			b[k] = v
		}
	}
	w.bodies = append(w.bodies, b)
	w.at[path] = b
	return b
}

func props(b obj) obj { return b["properties"].(obj) }

// nsg adds a group; each rule is "name priority access protocol sources destinations ports", lists with commas.
func (w *world) nsg(name string, rules ...string) string {
	var list []obj
	for _, r := range rules {
		f := strings.Fields(r)
		if len(f) != 7 {
			panic(r)
		}
		var prio int
		fmt.Sscan(f[1], &prio)
		p := obj{"priority": prio, "direction": "Inbound", "access": f[2], "protocol": f[3], "sourcePortRange": "*", "destinationPortRanges": strings.Split(f[6], ",")}
		for field, text := range map[string]string{"source": f[4], "destination": f[5]} {
			if asg, ok := strings.CutPrefix(text, "asg:"); ok {
				p[field+"ApplicationSecurityGroups"] = []obj{{"id": root + "Microsoft.Network/applicationSecurityGroups/" + asg}}
			} else if strings.Contains(text, ",") {
				p[field+"AddressPrefixes"] = strings.Split(text, ",")
			} else {
				p[field+"AddressPrefix"] = text
			}
		}
		list = append(list, obj{"name": f[0], "properties": p})
	}
	w.put("Microsoft.Network/networkSecurityGroups/"+name, obj{"securityRules": list})
	return root + "Microsoft.Network/networkSecurityGroups/" + name
}

// vm adds a machine with one interface at 10.0.0.addr; public is its public address, with "basic:" before it for that SKU.
func (w *world) vm(name string, addr int, nsg, public string, more ...obj) obj {
	cfg := obj{"privateIPAddress": fmt.Sprintf("10.0.0.%d", addr), "subnet": obj{"id": root + "Microsoft.Network/virtualNetworks/net/subnets/a"}}
	if public != "" {
		sku := "Standard"
		if p, ok := strings.CutPrefix(public, "basic:"); ok {
			sku, public = "Basic", p
		}
		id := "Microsoft.Network/publicIPAddresses/" + name + "-ip"
		w.put(id, obj{"ipAddress": public}, obj{"sku": obj{"name": sku}})
		cfg["publicIPAddress"] = obj{"id": root + id}
	}
	nic := obj{"ipConfigurations": []obj{{"name": "ip", "properties": cfg}}}
	if nsg != "" {
		nic["networkSecurityGroup"] = obj{"id": nsg}
	}
	w.put("Microsoft.Network/networkInterfaces/"+name+"-nic", nic)
	return w.put("Microsoft.Compute/virtualMachines/"+name, obj{"storageProfile": obj{"osDisk": obj{"osType": "Linux"}},
		"networkProfile": obj{"networkInterfaces": []obj{{"id": root + "Microsoft.Network/networkInterfaces/" + name + "-nic"}}}}, more...)
}

func (w *world) windows(vm obj) {
	props(vm)["storageProfile"] = obj{"osDisk": obj{"osType": "Windows"}}
}

// config is the only ip configuration of a machine.
func (w *world) config(vm string) obj {
	return props(w.at["Microsoft.Network/networkInterfaces/"+vm+"-nic"])["ipConfigurations"].([]obj)[0]["properties"].(obj)
}

func vmID(name string) string { return root + "Microsoft.Compute/virtualMachines/" + name }

// policy adds a policy that protects ports of a machine.
func (w *world) policy(name, vm, state string, ports ...obj) obj {
	return w.put("Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/"+name, obj{"provisioningState": state,
		"virtualMachines": []obj{{"id": vm, "ports": ports}}, "requests": nil})
}

func jitPort(number int, source, longest string) obj {
	return obj{"number": number, "protocol": "TCP", "allowedSourceAddressPrefix": source, "maxRequestAccessDuration": longest}
}

func request(vm string, port int, source, start, end, status string) []obj {
	return []obj{{"startTimeUtc": start, "requestor": "anna@contoso.example", "virtualMachines": []obj{{"id": vm, "ports": []obj{
		{"number": port, "allowedSourceAddressPrefix": source, "endTimeUtc": end, "status": status, "statusReason": "UserRequested"}}}}}}
}

func (w *world) scaleSet(name string, profile obj, more ...obj) obj {
	p := obj{"orchestrationMode": "Uniform", "upgradePolicy": obj{"mode": "Manual"}}
	if profile != nil {
		p["virtualMachineProfile"] = profile
	}
	return w.put("Microsoft.Compute/virtualMachineScaleSets/"+name, p, more...)
}

func (w *world) instance(set, n string, latest any) {
	p := obj{}
	if latest != nil {
		p["latestModelApplied"] = latest
	}
	w.put("Microsoft.Compute/virtualMachineScaleSets/"+set+"/virtualMachines/"+n, p, obj{"instanceId": n})
}

func terminate(enable any, before string) obj {
	t := obj{}
	if enable != nil {
		t["enable"] = enable
	}
	if before != "" {
		t["notBeforeTimeout"] = before
	}
	return obj{"scheduledEventsProfile": obj{"terminateNotificationProfile": t}}
}

func (w *world) file(t testing.TB) []byte {
	t.Helper()
	data, err := json.Marshal(obj{"resources": w.bodies})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (w *world) estate(t testing.TB) *estate.Estate {
	t.Helper()
	if len(w.gaps) == 0 {
		e, err := estate.Read(bytes.NewReader(w.file(t)))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	b := estate.NewBuilder()
	for _, body := range w.bodies {
		data, err := json.Marshal(body)
		if err == nil {
			err = b.Add(data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range w.gaps {
		b.Hide(g)
	}
	return b.Build()
}

// told is a finding in one line, with its open holds.
func told(f *scan.Finding) string {
	s := fmt.Sprintf("%s %s %s", f.Status, f.Severity, f.Name)
	if f.Exposure != "" {
		s += " (" + string(f.Exposure) + ")"
	}
	s += ": " + f.Reason
	for _, p := range f.Evidence.Ports {
		for _, h := range p.Open {
			s += fmt.Sprintf("\n    held open: port %d by %s, rule %s, from %s until %s", p.Port, h.By, h.Rule, strings.Join(h.Sources, ","), h.End.Format("15:04"))
			if h.ByName {
				s += fmt.Sprintf(" (grant %s of %s, by name)", h.Grant, h.Installation)
			}
		}
	}
	return s
}

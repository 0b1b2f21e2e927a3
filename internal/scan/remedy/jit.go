package remedy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan/estate"
)

const (
	jitAPI     = "2020-01-01"
	jitType    = "Microsoft.Security/locations/jitNetworkAccessPolicies"
	jitLongest = "PT3H" // what Defender suggests. FACTS 1.2
	maxJITName = 56     // name of policy and machine together. FACTS 1.1
)

// jitMissing switches just-in-time access on for the ports that nothing protects: with our own rules, or with a policy of Defender.
func (p *plan) jitMissing() {
	vm, ok := p.machine()
	if !ok {
		return
	}
	var ports []string
	var numbers []uint16
	for _, e := range p.f.Evidence.Ports {
		if e.ProtectedBy == "" && !slices.Contains(numbers, e.Port) {
			ports, numbers = append(ports, strconv.Itoa(int(e.Port))), append(numbers, e.Port)
		}
	}
	if len(ports) == 0 {
		port := 22
		if vm.OS == "windows" {
			port = 3389
		}
		ports, numbers = []string{strconv.Itoa(port)}, []uint16{uint16(port)}
	}
	list := strings.Join(ports, ", ")
	p.say("Switch just-in-time access on for port " + list + " of " + vm.Name + ". curfew protect needs no plan of Defender and checks that the port is really shut.")
	p.say("The other ways make a policy of Defender for Cloud for the addresses in NETWORK; it needs Defender for Servers Plan 2; an earlier rule that allows the port may bypass it, so scan again.")
	p.curfew = "curfew protect " + sh(vm.ID) + " --port " + strings.Join(ports, ",") + " --max 3h"
	p.step("Open the virtual machine " + vm.Name + " (subscription " + vm.Subscription + ", resource group " + vm.Group + "), Configuration, Just-in-time VM access, Enable just-in-time.")
	p.step("Open Microsoft Defender for Cloud, Workload protections, Just-in-time VM access, Configured, " + vm.Name + ", Edit: port " + list +
		", maximum request time 3 hours, allowed source IPs as narrow as they can be.")

	name, into := p.policyFor(vm)
	if into != nil {
		p.merge(vm, into, portsJSON(numbers))
		return
	}
	if name == "" || vm.Location == "" {
		return
	}
	// Of many failures most are this one: the texts are put together without formatting, which takes several times as long.
	id := "/subscriptions/" + vm.Subscription + "/resourceGroups/" + vm.Group + "/providers/Microsoft.Security/locations/" + vm.Location + "/jitNetworkAccessPolicies/" + name
	body := `{"kind":"Basic","properties":{"virtualMachines":[{"id":` + jsonText(vm.ID) + `,"ports":` + portsJSON(numbers) + `}]}}`
	p.needs = true
	p.shell("az rest --method put --url " + sh(id+"?api-version="+jitAPI) + " --body " + network(sh(body), `"`))
	b, h := "", ""
	for _, n := range ports {
		b += `          {
            number: ` + n + `
            protocol: 'TCP'
            allowedSourceAddressPrefix: network
            maxRequestAccessDuration: '` + jitLongest + `'
          }
`
		h += `            {
              number                     = ` + n + `
              protocol                   = "TCP"
              allowedSourceAddressPrefix = var.network
              maxRequestAccessDuration   = "` + jitLongest + `"
            },
`
	}
	p.bicep = append(p.bicep, `// az deployment group create --subscription `+plain(vm.Subscription)+` --resource-group `+plain(vm.Group)+`
@description('The addresses that may ask')
param network string

resource policy '`+jitType+`@`+jitAPI+`' = {
  name: `+bicep(vm.Location+"/"+name)+`
  kind: 'Basic'
  properties: {
    virtualMachines: [
      {
        id: `+bicep(vm.ID)+`
        ports: [
`+b+`        ]
      }
    ]
  }
}
`)
	p.hcl = append(p.hcl, `# In subscription `+plain(vm.Subscription)+`. The provider azurerm has no resource for these policies: the template is its way to any.
variable "network" {
  description = "The addresses that may ask"
  type        = string
}

resource "azurerm_resource_group_template_deployment" "jit" {
  name                = `+hcl("jit-"+name)+`
  resource_group_name = `+hcl(vm.Group)+`
  deployment_mode     = "Incremental"
  template_content = jsonencode({
    "$schema"      = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    contentVersion = "1.0.0.0"
    resources = [{
      type       = "`+jitType+`"
      apiVersion = "`+jitAPI+`"
      name       = `+hcl(vm.Location+"/"+name)+`
      kind       = "Basic"
      properties = {
        virtualMachines = [{
          id = `+hcl(vm.ID)+`
          ports = [
`+h+`          ]
        }]
      }
    }]
  })
}
`)
}

// portsJSON returns the ports of a policy: each for the addresses that are yet to be named.
func portsJSON(numbers []uint16) string {
	s := "["
	for i, n := range numbers {
		if i > 0 {
			s += ","
		}
		s += `{"allowedSourceAddressPrefix":"` + networkToken + `","maxRequestAccessDuration":"` + jitLongest + `","number":` + strconv.Itoa(int(n)) + `,"protocol":"TCP"}`
	}
	return s + "]"
}

// policyFor returns the policy that already names the machine, or else a name for one of its own: a policy is replaced as a whole by a
// write, so that a new one disturbs nobody. The name is "" where none fits.
func (p *plan) policyFor(vm *estate.VM) (string, *estate.JITPolicy) {
	if j := p.index().byMachine[strings.ToLower(vm.ID)]; j != nil {
		return "", j
	}
	room := maxJITName - len(vm.Name)
	for _, name := range []string{vm.Name, "jit-" + vm.Name, "jit", "jit2", "j"} {
		if len(name) <= room && !p.index().policyNames[strings.ToLower(vm.Subscription+"/"+vm.Group+"/"+name)] {
			return name, nil
		}
	}
	return "", nil
}

// spelt returns how a policy spells the id of a machine: JMESPath compares with case.
func spelt(j *estate.JITPolicy, id string) []string {
	var out []string
	for _, m := range j.VMs {
		if strings.EqualFold(m.VM, id) && !slices.Contains(out, m.VM) {
			out = append(out, m.VM)
		}
	}
	return out
}

// merge adds ports to a machine in a policy that is there. A PUT replaces the whole list (FACTS 1.1), so that the policy is read, changed
// and sent back: other machines, other ports, and the history of requests stay.
func (p *plan) merge(vm *estate.VM, j *estate.JITPolicy, ports string) {
	ids := jmes(spelt(j, vm.ID))
	p.sayf("The machine stands in the policy %s already; the ports are added to it there.", j.Name)
	query := "{kind: kind, properties: {requests: properties.requests, virtualMachines: [properties.virtualMachines[?!contains(" + ids + ", id)], properties.virtualMachines[?contains(" + ids + ", id)]." +
		"merge(@, {ports: [ports, " + jmesJSON(ports) + "][]})][]}}"
	p.needs = true
	p.rewrite(j, network(sh(query), `"`))
}

// networkToken stands for the addresses that may ask, which only people know, until the shell puts them in.
const networkToken = "@NETWORK@"

// network lets the shell put the addresses into a quoted word, where the token stands between two of quote: a word in double quotes
// between two in single ones.
func network(word, quote string) string {
	return strings.ReplaceAll(word, quote+networkToken+quote, quote+`'"$NETWORK"'`+quote)
}

// rewrite reads a policy, changes it and writes it back. The query is a word of the shell.
func (p *plan) rewrite(j *estate.JITPolicy, query string) {
	url := sh(j.ID + "?api-version=" + jitAPI)
	p.mind(j.ID)
	p.shell("az rest --method get --url " + url + " --query " + query + " --output json >policy.json &&")
	p.shell("az rest --method put --url " + url + " --body @policy.json")
}

// narrowPolicy takes any source, and times above three hours, out of a policy. Whose addresses may ask instead is for people to say.
func (p *plan) narrowPolicy() {
	j := p.index().policies[strings.ToLower(p.f.Resource)]
	if j == nil {
		return
	}
	var any, long []string
	for _, m := range j.VMs {
		for _, port := range m.Ports {
			for _, s := range port.Sources {
				if everybody(s) && !slices.Contains(any, s) {
					any = append(any, s)
				}
			}
			if !within3h(port.MaxDuration) && !slices.Contains(long, port.MaxDuration) {
				long = append(long, port.MaxDuration)
			}
		}
	}
	p.say("Let only the addresses that need it ask, for three hours at most.")
	p.stepf("Open Microsoft Defender for Cloud, Workload protections, Just-in-time VM access, Configured, and edit each machine of the policy %s: narrow Allowed source IPs, and set Max request time to what is needed.", j.Name)
	p.needs = len(any) > 0
	p.narrowQuery(j, any, long)
}

// narrowQuery rewrites each port by itself: those that let anybody ask get NETWORK, those that are too long three hours, in two passes.
func (p *plan) narrowQuery(j *estate.JITPolicy, any, long []string) {
	if len(any) == 0 && len(long) == 0 {
		return
	}
	ports, open := "ports", "contains("+jmes(any)+", not_null(allowedSourceAddressPrefix, `\"\"`)) || length(not_null(allowedSourceAddressPrefixes, `[]`)[?contains("+jmes(any)+", @)]) > `0`"
	if len(any) > 0 {
		ports = "[" + ports + "[?!(" + open + ")], " + ports + "[?" + open + "].merge(@, {allowedSourceAddressPrefix: '" + networkToken + "', allowedSourceAddressPrefixes: `null`})][]"
	}
	if len(long) > 0 {
		late := "contains(" + jmes(long) + ", not_null(maxRequestAccessDuration, `\"\"`))"
		ports = ports + " | [@[?!" + late + "], @[?" + late + "].merge(@, `{\"maxRequestAccessDuration\":\"" + jitLongest + "\"}`)][]"
	}
	query := "{kind: kind, properties: {requests: properties.requests, virtualMachines: properties.virtualMachines[].merge(@, {ports: (" + ports + ")})}}"
	word := sh(query)
	if len(any) > 0 {
		word = network(word, `'\''`)
	}
	p.rewrite(j, word)
}

func everybody(s string) bool {
	return s == "*" || s == "0.0.0.0/0" || s == "::/0" || strings.EqualFold(s, "Internet") || strings.EqualFold(s, "Any")
}

// within3h tells whether a spelling is one of three hours or less that Azure writes; another one is shortened, which harms nobody for long.
func within3h(s string) bool {
	var h, m int
	if n, err := fmt.Sscanf(s, "PT%dH%dM", &h, &m); err == nil && n == 2 {
		return h*60+m <= 180
	}
	if rest, ok := strings.CutPrefix(s, "PT"); ok {
		if v, ok := strings.CutSuffix(rest, "H"); ok {
			n, err := strconv.Atoi(v)
			return err == nil && n <= 3
		}
		if v, ok := strings.CutSuffix(rest, "M"); ok {
			n, err := strconv.Atoi(v)
			return err == nil && n <= 180
		}
	}
	return false
}

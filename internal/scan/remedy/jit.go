package remedy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/internal/scan"
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
	for _, e := range p.f.Evidence.Ports {
		if port := strconv.Itoa(int(e.Port)); e.ProtectedBy == "" && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	if len(ports) == 0 {
		ports = []string{"22"}
		if vm.OS == "windows" {
			ports[0] = "3389"
		}
	}
	m := unprotected{vm.Subscription, vm.Group, vm.Name, vm.ID, vm.Location, "", ports}
	name, into := p.policyFor(vm)
	m.policy = name
	switch {
	case into != nil:
		p.jitSwitch(m)
		p.merge(vm, into, portsJSON(ports))
	case name == "" || vm.Location == "":
		p.jitSwitch(m)
	case m.plain():
		p.done = p.jit(m)
	default:
		p.jitSwitch(m)
		p.jitPolicy(m)
	}
}

// unprotected is a machine for whose ports just-in-time access is missing.
type unprotected struct {
	sub, group, name, id, location string
	policy                         string // the name of a policy of its own
	ports                          []string
}

func (m *unprotected) values() [6]string {
	return [...]string{m.sub, m.group, m.name, m.id, m.location, m.policy}
}

// plain tells whether every text stands as it is in each language, alone and within others.
func (m *unprotected) plain() bool {
	for _, v := range m.values() {
		if v == "" || !leading[v[0]] || !only(v, bare) || !only(v, harmless) {
			return false
		}
	}
	return true
}

// template is a remediation with gaps for the values of a machine: of each text the pieces between them, and which value follows.
type template [6][]gap

type gap struct {
	before string
	value  int // that follows; -1 at the end
}

const mark = "Zq" // around the number of a value: stands in no text of ours

// jit returns the remediation of a machine whose texts are plain. Of many failures most are this one, so that the texts for some ports
// are made once, by the same functions as any other, and the values put in.
func (p *plan) jit(m unprotected) *scan.Remediation {
	key := strings.Join(m.ports, ",")
	t, ok := p.templates.Load(key)
	if !ok {
		q := &plan{f: scan.Finding{Rule: scan.VMJITMissing}, index: p.index}
		v := func(n string) string { return mark + n + mark }
		of := unprotected{v("0"), v("1"), v("2"), v("3"), v("4"), v("5"), m.ports}
		q.jitSwitch(of)
		q.jitPolicy(of)
		r := q.render()
		made := &template{}
		for i, text := range []string{r.Summary, r.Curfew, r.AzureCLI, r.Bicep, r.Terraform, r.Portal} {
			parts := strings.Split(text, mark) // text, number, text, …, text
			for k := 0; k < len(parts); k += 2 {
				g := gap{parts[k], -1}
				if k+1 < len(parts) {
					g.value = int(parts[k+1][0] - '0')
				}
				made[i] = append(made[i], g)
			}
		}
		t, _ = p.templates.LoadOrStore(key, made)
	}
	values := m.values()
	var out [6]string
	for i, gaps := range t.(*template) {
		n := 0
		for _, g := range gaps {
			if n += len(g.before); g.value >= 0 {
				n += len(values[g.value])
			}
		}
		var b strings.Builder
		b.Grow(n)
		for _, g := range gaps {
			if b.WriteString(g.before); g.value >= 0 {
				b.WriteString(values[g.value])
			}
		}
		out[i] = b.String()
	}
	return &scan.Remediation{Summary: out[0], Curfew: out[1], AzureCLI: out[2], Bicep: out[3], Terraform: out[4], Portal: out[5]}
}

// jitSwitch says what to do, and by which command of ours and steps.
func (p *plan) jitSwitch(m unprotected) {
	list := strings.Join(m.ports, ", ")
	p.say("Switch just-in-time access on for port " + list + " of " + m.name + ". curfew protect needs no plan of Defender and checks that the port is really shut.")
	p.say("The other ways make a policy of Defender for Cloud for the addresses in NETWORK; it needs Defender for Servers Plan 2; an earlier rule that allows the port may bypass it, so scan again.")
	p.curfew = "curfew protect " + sh(m.id) + " --port " + strings.Join(m.ports, ",") + " --max 3h"
	p.step("Open the virtual machine " + m.name + " (subscription " + m.sub + ", resource group " + m.group + "), Configuration, Just-in-time VM access, Enable just-in-time.")
	p.step("Open Microsoft Defender for Cloud, Workload protections, Just-in-time VM access, Configured, " + m.name + ", Edit: port " + list +
		", maximum request time 3 hours, allowed source IPs as narrow as they can be.")
}

// jitPolicy adds the ways to make a policy of the machine's own.
func (p *plan) jitPolicy(m unprotected) {
	id := "/subscriptions/" + m.sub + "/resourceGroups/" + m.group + "/providers/Microsoft.Security/locations/" + m.location + "/jitNetworkAccessPolicies/" + m.policy
	body := `{"kind":"Basic","properties":{"virtualMachines":[{"id":` + jsonText(m.id) + `,"ports":` + portsJSON(m.ports) + `}]}}`
	p.needs = true
	p.shell("az rest --method put --url " + sh(id+"?api-version="+jitAPI) + " --body " + network(sh(body), `"`))
	b, h := "", ""
	for _, n := range m.ports {
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
	p.bicep = append(p.bicep, `// az deployment group create --subscription `+plain(m.sub)+` --resource-group `+plain(m.group)+`
@description('The addresses that may ask')
param network string

resource policy '`+jitType+`@`+jitAPI+`' = {
  name: `+bicep(m.location+"/"+m.policy)+`
  kind: 'Basic'
  properties: {
    virtualMachines: [
      {
        id: `+bicep(m.id)+`
        ports: [
`+b+`        ]
      }
    ]
  }
}
`)
	p.hcl = append(p.hcl, `# In subscription `+plain(m.sub)+`. The provider azurerm has no resource for these policies: the template is its way to any.
variable "network" {
  description = "The addresses that may ask"
  type        = string
}

resource "azurerm_resource_group_template_deployment" "jit" {
  name                = `+hcl("jit-"+m.policy)+`
  resource_group_name = `+hcl(m.group)+`
  deployment_mode     = "Incremental"
  template_content = jsonencode({
    "$schema"      = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    contentVersion = "1.0.0.0"
    resources = [{
      type       = "`+jitType+`"
      apiVersion = "`+jitAPI+`"
      name       = `+hcl(m.location+"/"+m.policy)+`
      kind       = "Basic"
      properties = {
        virtualMachines = [{
          id = `+hcl(m.id)+`
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
func portsJSON(ports []string) string {
	s := "["
	for i, n := range ports {
		if i > 0 {
			s += ","
		}
		s += `{"allowedSourceAddressPrefix":"` + networkToken + `","maxRequestAccessDuration":"` + jitLongest + `","number":` + n + `,"protocol":"TCP"}`
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
	if len(long) > 0 {
		p.choose("--max 3h")
	}
	if len(any) > 0 {
		p.choose("--from CIDR")
	}
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

package sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	typeJIT = "microsoft.security/locations/jitnetworkaccesspolicies"

	jitPrefix      = "MicrosoftDefenderForCloud-JITRule" // since June 2023 (FACTS 1.4)
	jitDescription = "MDC JIT Network Access rule"
	maxJITName     = 56 // policy name and VM name together (FACTS 1.1)
)

func jitTarget(t target) target {
	t = t.canonical()
	t.ns, t.types = "Microsoft.Security", []string{"locations", "jitNetworkAccessPolicies"}
	t.names = t.names[:2]
	return t
}

func (s *Sim) jitLocked(r *request, t target) *answer {
	if t.collection() && len(t.types) == 2 {
		if r.method != http.MethodGet {
			return methodNotAllowed(r).answer()
		}
		return s.listJITLocked(r, t, t.names[0])
	}
	if t.group == "" {
		return notFound(t).answer()
	}
	if s.all[strings.ToLower("/subscriptions/"+t.sub+"/resourceGroups/"+t.group)] == nil {
		return noGroup(t.group).answer()
	}
	p := jitTarget(t)
	res := s.all[p.key()]
	switch {
	case len(t.types) == 3 && t.collection() && strings.EqualFold(t.types[2], "initiate"):
		if r.method != http.MethodPost {
			return methodNotAllowed(r).answer()
		}
		if res == nil {
			return notFound(p).answer()
		}
		return s.initiateLocked(r, res)
	case len(t.types) != 2:
		return notFound(t).answer()
	case r.method == http.MethodGet:
		if res == nil {
			return notFound(p).answer()
		}
		return ok(200, s.rawLocked(res))
	case r.method == http.MethodPut:
		return s.putJITLocked(r, p, res)
	case r.method == http.MethodDelete:
		if ae := s.lockedLocked(p.key(), "delete", true); ae != nil {
			return ae.answer()
		}
		if res == nil {
			return ok(204, nil)
		}
		s.syncDeniesLocked(res, nil)
		for _, q := range objects(object(res.doc(), "properties"), "requests") {
			for _, vm := range objects(q, "virtualMachines") {
				for _, port := range objects(vm, "ports") {
					s.dropAllowLocked(res, text(vm, "id"), port)
				}
			}
		}
		s.removeLocked(res)
		s.countLocked(p.key())
		return ok(200, nil)
	}
	return methodNotAllowed(r).answer()
}

// listJITLocked lists policies of a subscription or group, of one region where it is given.
func (s *Sim) listJITLocked(r *request, t target, region string) *answer {
	if t.group != "" && s.all[strings.ToLower("/subscriptions/"+t.sub+"/resourceGroups/"+t.group)] == nil {
		return noGroup(t.group).answer()
	}
	var only func(*resource) bool
	if region != "" {
		only = func(p *resource) bool { return sameLocation(p.t.names[0], region) }
	}
	return s.pageWhereLocked(r, []string{typeJIT}, strings.ToLower(t.scope)+"/", view{stale: r.stale()}, only)
}

// jitPort is one port of a policy's machine, checked.
type jitPort struct {
	number   int
	protocol string
	longest  time.Duration
	sources  []string
}

func jitNumber(v any) (int, bool) {
	n, err := strconv.Atoi(str(v))
	return n, err == nil && v != nil && n >= 0 && n <= 65535
}

func jitSources(p map[string]any, what string) ([]string, *armError) {
	one, many := text(p, "allowedSourceAddressPrefix"), stringList(p, "allowedSourceAddressPrefixes")
	if one != "" && len(many) > 0 {
		return nil, badRequest("InvalidInputJson", "%s gives both allowedSourceAddressPrefix and allowedSourceAddressPrefixes: they are mutually exclusive.", what)
	}
	if one != "" {
		many = []string{one}
	}
	for _, v := range many {
		_, e1 := netip.ParseAddr(v)
		_, e2 := netip.ParsePrefix(v)
		if v != "*" && e1 != nil && e2 != nil {
			return nil, badRequest("InvalidInputJson", "%s has the source '%s': it must be an address, a prefix or *.", what, v)
		}
	}
	return many, nil
}

func readJITPort(vm string, p map[string]any) (jitPort, *armError) {
	what := fmt.Sprintf("port %v of %s", p["number"], vm)
	n, good := jitNumber(p["number"])
	if !good {
		return jitPort{}, badRequest("InvalidInputJson", "%s: number must be 0 to 65535.", what)
	}
	proto := text(p, "protocol")
	if oneOf("protocol", &proto, "TCP", "UDP", "*") != nil {
		return jitPort{}, badRequest("InvalidInputJson", "%s: protocol '%s' must be TCP, UDP or *.", what, proto)
	}
	p["protocol"] = proto
	d, good := isoDuration(text(p, "maxRequestAccessDuration"))
	if !good || d < 5*time.Minute || d > 24*time.Hour {
		return jitPort{}, badRequest("InvalidInputJson", "%s: maxRequestAccessDuration '%v' must be an ISO 8601 duration from PT5M to P1D.", what, p["maxRequestAccessDuration"])
	}
	sources, ae := jitSources(p, what)
	return jitPort{n, proto, d, sources}, ae
}

// putJITLocked replaces a policy's machines, synchronously (SPEC-JIT: 200 alone). The history of requests is the server's: what a client
// sends back of it changes nothing (assumed).
func (s *Sim) putJITLocked(r *request, t target, res *resource) *answer {
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	if ae := s.lockedLocked(t.key(), "write", false); ae != nil {
		return ae.answer()
	}
	if !s.plan2Locked(t.sub) {
		return badRequest("SubscriptionNotInStandardTier", "Just-in-time network access needs Microsoft Defender for Servers Plan 2 on subscription %s.", t.sub).answer()
	}
	props := object(body, "properties")
	list, given := props["virtualMachines"].([]any)
	if !given {
		return badRequest("InvalidInputJson", "The policy has no properties.virtualMachines.").answer()
	}
	var nsgs []*resource
	for _, e := range list {
		vm, _ := e.(map[string]any)
		id := text(vm, "id")
		vt, err := parsePath(id)
		if err != nil || vt.typeKey() != typeVM || vt.collection() {
			return badRequest("InvalidInputJson", "'%s' is not the id of a virtual machine.", id).answer()
		}
		m := s.all[vt.key()]
		if m == nil {
			return badRequest("VirtualMachineNotFound", "The virtual machine '%s' was not found.", id).answer()
		}
		if !sameLocation(text(m.doc(), "location"), t.names[0]) {
			return badRequest("InvalidInputJson", "The virtual machine '%s' is in '%s', the policy in '%s'.", id, text(m.doc(), "location"), t.names[0]).answer()
		}
		if len(t.name())+len(vt.name()) > maxJITName {
			return badRequest("InvalidInputJson", "The names of policy '%s' and virtual machine '%s' are longer than %d characters together.", t.name(), vt.name(), maxJITName).answer()
		}
		ports, _ := vm["ports"].([]any)
		if len(ports) == 0 {
			return badRequest("InvalidInputJson", "The virtual machine '%s' has no ports.", id).answer()
		}
		for _, p := range ports {
			po, _ := p.(map[string]any)
			if po == nil {
				return badRequest("InvalidInputJson", "The virtual machine '%s' has a port that is no object.", id).answer()
			}
			if _, ae := readJITPort(id, po); ae != nil {
				return ae.answer()
			}
		}
		own, _ := s.pathOfLocked(m)
		if len(own) == 0 {
			return badRequest("VirtualMachineNotSupported", "The virtual machine '%s' has no network security group on its interface or subnet.", id).answer()
		}
		nsgs = append(nsgs, own...)
	}
	for _, g := range nsgs {
		if ae := s.lockedLocked(g.key, "write", false); ae != nil {
			return ae.answer()
		}
	}
	requests := []any{}
	if res != nil {
		requests, _ = object(res.doc(), "properties")["requests"].([]any)
	}
	kind := text(body, "kind")
	if kind == "" {
		kind = "Basic"
	}
	res = s.storeServerLocked(t, map[string]any{"kind": kind, "location": regionName(t.names[0]), "properties": map[string]any{
		"virtualMachines": list, "requests": requests, "provisioningState": "Succeeded", "appendMode": false}})
	if ae := s.syncDeniesLocked(res, objects(props, "virtualMachines")); ae != nil {
		return ae.answer()
	}
	s.countLocked(t.key())
	return ok(200, s.rawLocked(res))
}

// pathOfLocked are the NSGs in front of a machine, on its interfaces and their subnets, and its private IPv4 addresses.
func (s *Sim) pathOfLocked(vm *resource) (nsgs []*resource, addresses []string) {
	add := func(id string) {
		if g := s.all[strings.ToLower(id)]; id != "" && g != nil && !slices.Contains(nsgs, g) {
			nsgs = append(nsgs, g)
		}
	}
	for _, n := range objects(object(object(vm.doc(), "properties"), "networkProfile"), "networkInterfaces") {
		nic := s.all[strings.ToLower(text(n, "id"))]
		if nic == nil {
			continue
		}
		props := object(nic.doc(), "properties")
		add(refID(props, "networkSecurityGroup"))
		for _, c := range objects(props, "ipConfigurations") {
			p := object(c, "properties")
			if a := text(p, "privateIPAddress"); a != "" && !strings.Contains(a, ":") {
				addresses = append(addresses, a)
			}
			if sub := s.subnetOfLocked(refID(p, "subnet")); sub != nil {
				add(refID(object(sub, "properties"), "networkSecurityGroup"))
			}
		}
	}
	return nsgs, addresses
}

// subnetOfLocked is a subnet as it is stored in its network, not rendered; nil when there is none.
func (s *Sim) subnetOfLocked(id string) map[string]any {
	t, err := parsePath(id)
	if err != nil || len(t.names) != 2 {
		return nil
	}
	vnet := s.all[t.top().key()]
	if vnet == nil {
		return nil
	}
	for _, sub := range objects(object(vnet.doc(), "properties"), "subnets") {
		if strings.EqualFold(text(sub, "name"), t.name()) {
			return sub
		}
	}
	return nil
}

func jitProtocol(p string) string {
	return map[string]string{"TCP": "Tcp", "UDP": "Udp", "*": "*"}[p]
}

func (s *Sim) jitRuleName(sep string) string {
	return fmt.Sprintf("%s%s%d%s%s", jitPrefix, sep, int32(s.rng.Uint32()), sep, strings.ToUpper(strings.ReplaceAll(s.uuidLocked(), "-", "")))
}

func denyText(policy, vm *resource) string {
	return fmt.Sprintf("%s for policy '%s' of VM '%s'.", jitDescription, policy.t.name(), vm.t.name())
}

func allowText(policy, vm *resource) string {
	return fmt.Sprintf("%s created by an initiation request for policy '%s' of VM '%s'.", jitDescription, policy.t.name(), vm.t.name())
}

// syncDeniesLocked makes the policy's deny rules what vms say, in every NSG in front of them: one rule for each port and private address, at
// the highest free priority number (FACTS 1.4). Rules of machines that are no longer in the policy go.
func (s *Sim) syncDeniesLocked(policy *resource, vms []map[string]any) *armError {
	type wanted struct{ port, address, protocol, text string }
	want := map[*resource]map[wanted]bool{}
	for _, v := range vms {
		vm := s.all[strings.ToLower(text(v, "id"))]
		if vm == nil {
			continue
		}
		nsgs, addresses := s.pathOfLocked(vm)
		for _, g := range nsgs {
			if want[g] == nil {
				want[g] = map[wanted]bool{}
			}
			for _, p := range objects(v, "ports") {
				for _, a := range addresses {
					want[g][wanted{str(p["number"]), a, jitProtocol(text(p, "protocol")), denyText(policy, vm)}] = true
				}
			}
		}
	}
	ours := fmt.Sprintf("%s for policy '%s' of VM '", jitDescription, policy.t.name())
	for _, g := range slices.Clone(s.byType[typeNSG]) {
		if g.gone || !strings.EqualFold(g.t.sub, policy.t.sub) {
			continue
		}
		missing := maps.Clone(want[g])
		stale := map[*rule]bool{}
		for _, x := range g.rules {
			if !strings.HasPrefix(text(x.props, "description"), ours) || !s.ofPolicyLocked(policy, x) {
				continue
			}
			w := wanted{text(x.props, "destinationPortRange"), text(x.props, "destinationAddressPrefix"), text(x.props, "protocol"), text(x.props, "description")}
			if missing[w] {
				delete(missing, w)
			} else {
				stale[x] = true
			}
		}
		var add []map[string]any
		keys := slices.SortedFunc(maps.Keys(missing), func(a, b wanted) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		for _, w := range keys {
			add = append(add, map[string]any{"description": w.text, "protocol": w.protocol, "sourcePortRange": "*", "destinationPortRange": w.port,
				"sourceAddressPrefix": "*", "destinationAddressPrefix": w.address, "access": "Deny", "direction": "Inbound"})
		}
		if ae := s.defenderRulesLocked(g, func(x *rule) bool { return stale[x] }, add, "_", 4096, -1); ae != nil {
			return ae
		}
	}
	return nil
}

// ofPolicyLocked: policies of one name live in many groups. A rule is this one's unless a namesake protects the address.
func (s *Sim) ofPolicyLocked(policy *resource, x *rule) bool {
	for _, other := range s.byType[typeJIT] {
		if other.gone || other == policy || !strings.EqualFold(other.t.name(), policy.t.name()) || !strings.EqualFold(other.t.sub, policy.t.sub) {
			continue
		}
		for _, v := range objects(object(other.doc(), "properties"), "virtualMachines") {
			if vm := s.all[strings.ToLower(text(v, "id"))]; vm != nil && strings.HasSuffix(text(x.props, "description"), "of VM '"+vm.t.name()+"'.") {
				if _, addresses := s.pathOfLocked(vm); slices.Contains(addresses, text(x.props, "destinationAddressPrefix")) {
					return false
				}
			}
		}
	}
	return true
}

// defenderRulesLocked is Defender's hand in an NSG: rules that drop names go, add come at free priorities from one on.
func (s *Sim) defenderRulesLocked(g *resource, drop func(*rule) bool, add []map[string]any, sep string, from, step int) *armError {
	kept := slices.DeleteFunc(slices.Clone(g.rules), drop)
	if len(kept) == len(g.rules) && len(add) == 0 {
		return nil
	}
	used := map[int]bool{}
	for _, x := range kept {
		if x.inbound {
			used[x.priority] = true
		}
	}
	at := from
	for _, props := range add {
		for used[at] {
			at += step
		}
		used[at] = true
		props["priority"] = json.Number(strconv.Itoa(at))
		name := s.jitRuleName(sep)
		x, ae := newRule(g.id+"/securityRules/"+name, name, props, storeOutside)
		if ae != nil {
			return ae
		}
		kept = append(kept, x)
	}
	if ae := checkRuleSet(g.id, kept); ae != nil {
		return ae
	}
	s.remember(g)
	g.rules = kept
	g.dirty()
	g.etag = s.nextEtagLocked(g)
	s.changedLocked()
	return nil
}

// initiateLocked opens ports: 202 with the request in the body and no operation to poll (SPEC-JIT).
func (s *Sim) initiateLocked(r *request, policy *resource) *answer {
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	if !s.plan2Locked(policy.t.sub) {
		return badRequest("SubscriptionNotInStandardTier", "Just-in-time network access needs Microsoft Defender for Servers Plan 2 on subscription %s.", policy.t.sub).answer()
	}
	now := s.nowLocked()
	type opening struct {
		vm      *resource
		port    jitPort
		sources []string
		end     time.Time
	}
	var open []opening
	vms := []any{}
	asked := objects(body, "virtualMachines")
	if len(asked) == 0 {
		return badRequest("InvalidInputJson", "The request names no virtualMachines.").answer()
	}
	for _, q := range asked {
		id := text(q, "id")
		var of map[string]any
		for _, v := range objects(object(policy.doc(), "properties"), "virtualMachines") {
			if strings.EqualFold(text(v, "id"), id) {
				of = v
			}
		}
		vm := s.all[strings.ToLower(id)]
		if of == nil || vm == nil {
			return badRequest("VirtualMachineNotInPolicy", "The virtual machine '%s' is not in the policy '%s'.", id, policy.t.name()).answer()
		}
		ports := []any{}
		if len(objects(q, "ports")) == 0 {
			return badRequest("InvalidInputJson", "The request names no ports of '%s'.", id).answer()
		}
		for _, p := range objects(q, "ports") {
			n, _ := jitNumber(p["number"])
			what := fmt.Sprintf("port %v of %s", p["number"], id)
			var limit *jitPort
			for _, pp := range objects(of, "ports") {
				if m, good := jitNumber(pp["number"]); good && m == n && p["number"] != nil {
					if l, ae := readJITPort(id, maps.Clone(pp)); ae == nil {
						limit = &l
					}
				}
			}
			if limit == nil {
				return badRequest("PortNotInPolicy", "%s is not in the policy '%s'.", what, policy.t.name()).answer()
			}
			end, err := time.Parse(time.RFC3339Nano, text(p, "endTimeUtc"))
			switch {
			case err != nil:
				return badRequest("InvalidInputJson", "%s: endTimeUtc '%v' must be a time in UTC.", what, p["endTimeUtc"]).answer()
			case !end.After(now):
				return badRequest("InvalidEndTime", "%s: endTimeUtc '%s' is in the past.", what, text(p, "endTimeUtc")).answer()
			case end.Sub(now) > limit.longest+time.Minute: // the clocks of client and server
				return badRequest("RequestedDurationTooLong", "%s: the policy allows %v at most.", what, limit.longest).answer()
			}
			sources, ae := jitSources(p, what)
			if ae != nil {
				return ae.answer()
			}
			if len(sources) == 0 {
				sources = []string{r.remote} // the caller's own address (FACTS 1.1)
			}
			for _, src := range sources {
				// An address inside an allowed range was reported to be refused, the range itself alone passed (FACTS 1.1).
				if len(limit.sources) > 0 && !slices.Contains(limit.sources, "*") && !slices.Contains(limit.sources, src) {
					return badRequest("SourceAddressNotAllowed", "%s: the source '%s' is not allowed by the policy.", what, src).answer()
				}
			}
			open = append(open, opening{vm, *limit, sources, end})
			shown := map[string]any{"number": n, "endTimeUtc": end.UTC().Format(time.RFC3339Nano), "status": "Initiated", "statusReason": "UserRequested"}
			if len(sources) == 1 {
				shown["allowedSourceAddressPrefix"] = sources[0]
			} else {
				shown["allowedSourceAddressPrefixes"] = sources
			}
			ports = append(ports, shown)
		}
		vms = append(vms, map[string]any{"id": id, "ports": ports})
	}
	for _, o := range open {
		nsgs, _ := s.pathOfLocked(o.vm)
		for _, g := range nsgs {
			if ae := s.lockedLocked(g.key, "write", false); ae != nil {
				return ae.answer()
			}
		}
	}
	request := map[string]any{"virtualMachines": vms, "startTimeUtc": now.Format(time.RFC3339Nano), "requestor": r.principal}
	if j := text(body, "justification"); j != "" {
		request["justification"] = j
	}
	request, err = decodeObject(mustJSON(request)) // one shape for what is stored and what is shown
	if err != nil {
		return invalidContent(err).answer()
	}
	for _, o := range open {
		s.endRequestsLocked(policy, func(vm string, p map[string]any) string {
			n, _ := jitNumber(p["number"])
			if strings.EqualFold(vm, o.vm.id) && n == o.port.number && sameSources(p, o.sources) {
				return "NewerRequestInitiated"
			}
			return ""
		})
		nsgs, addresses := s.pathOfLocked(o.vm)
		for _, g := range nsgs {
			var add []map[string]any
			for _, a := range addresses {
				for _, src := range o.sources {
					add = append(add, map[string]any{"description": allowText(policy, o.vm), "protocol": jitProtocol(o.port.protocol), "sourcePortRange": "*",
						"destinationPortRange": strconv.Itoa(o.port.number), "sourceAddressPrefix": src, "destinationAddressPrefix": a, "access": "Allow", "direction": "Inbound"})
				}
			}
			if ae := s.defenderRulesLocked(g, func(*rule) bool { return false }, add, "-", 100, 1); ae != nil {
				return ae.answer()
			}
		}
	}
	s.changePolicyLocked(policy, func(props map[string]any) {
		list, _ := props["requests"].([]any)
		props["requests"] = append(slices.Clone(list), request)
	})
	for _, o := range open {
		s.expireAtLocked(policy.key, o.end)
	}
	s.countLocked(policy.key)
	return ok(202, mustJSON(request))
}

func sameSources(p map[string]any, sources []string) bool {
	have, _ := jitSources(p, "")
	return slices.Equal(have, sources)
}

// changePolicyLocked gives a policy new properties; nested values must be replaced, not changed.
func (s *Sim) changePolicyLocked(policy *resource, change func(props map[string]any)) {
	s.remember(policy)
	body, props := maps.Clone(policy.doc()), maps.Clone(object(policy.doc(), "properties"))
	change(props)
	body["properties"] = props
	s.setBodyLocked(policy, body, nil, policy.kept)
}

// endRequestsLocked revokes the open ports for which reason gives one, and closes what they had opened.
func (s *Sim) endRequestsLocked(policy *resource, reason func(vm string, port map[string]any) string) {
	props, _ := cloneJSON(object(policy.doc(), "properties")).(map[string]any)
	ended := false
	for _, q := range objects(props, "requests") {
		for _, vm := range objects(q, "virtualMachines") {
			for _, p := range objects(vm, "ports") {
				if text(p, "status") != "Initiated" {
					continue
				}
				if why := reason(text(vm, "id"), p); why != "" && s.dropAllowLocked(policy, text(vm, "id"), p) {
					p["status"], p["statusReason"] = "Revoked", why
					ended = true
				}
			}
		}
	}
	if ended {
		s.changePolicyLocked(policy, func(now map[string]any) { now["requests"] = props["requests"] })
	}
}

// dropAllowLocked removes the allow rules of one port of a request; false when a lock is in the way.
func (s *Sim) dropAllowLocked(policy *resource, vmID string, port map[string]any) bool {
	vm := s.all[strings.ToLower(vmID)]
	if vm == nil {
		return true
	}
	n, _ := jitNumber(port["number"])
	sources, _ := jitSources(port, "")
	_, addresses := s.pathOfLocked(vm)
	done := true
	for _, g := range slices.Clone(s.byType[typeNSG]) {
		if g.gone {
			continue
		}
		drop := func(x *rule) bool {
			return strings.HasPrefix(x.name, jitPrefix+"-") && text(x.props, "description") == allowText(policy, vm) &&
				text(x.props, "destinationPortRange") == strconv.Itoa(n) && slices.Contains(sources, text(x.props, "sourceAddressPrefix")) &&
				slices.Contains(addresses, text(x.props, "destinationAddressPrefix"))
		}
		if !slices.ContainsFunc(g.rules, drop) {
			continue
		}
		if s.lockedLocked(g.key, "write", false) != nil {
			done = false
			continue
		}
		if ae := s.defenderRulesLocked(g, drop, nil, "-", 100, 1); ae != nil {
			s.log.Warn("a just-in-time rule could not be removed", "nsg", g.id, "error", ae)
		}
	}
	return done
}

// expireAtLocked lets what ends at a time end then, on the simulated clock. Where a lock keeps the rule, it is tried again every minute.
func (s *Sim) expireAtLocked(policyKey string, end time.Time) {
	s.atLocked(end, func() {
		policy := s.all[policyKey]
		if policy == nil {
			return
		}
		left := false
		s.endRequestsLocked(policy, func(_ string, p map[string]any) string {
			if t, err := time.Parse(time.RFC3339Nano, text(p, "endTimeUtc")); err != nil || t.After(end) {
				return ""
			}
			return "Expired"
		})
		for _, q := range objects(object(policy.doc(), "properties"), "requests") {
			for _, vm := range objects(q, "virtualMachines") {
				for _, p := range objects(vm, "ports") {
					t, err := time.Parse(time.RFC3339Nano, text(p, "endTimeUtc"))
					left = left || text(p, "status") == "Initiated" && err == nil && !t.After(end)
				}
			}
		}
		if left {
			s.expireAtLocked(policyKey, s.nowLocked().Add(time.Minute))
		}
	})
}

// resumeJITLocked schedules the ends of the requests that an estate holds.
func (s *Sim) resumeJITLocked() {
	for _, policy := range s.byType[typeJIT] {
		for _, q := range objects(object(policy.doc(), "properties"), "requests") {
			for _, vm := range objects(q, "virtualMachines") {
				for _, p := range objects(vm, "ports") {
					if t, err := time.Parse(time.RFC3339Nano, text(p, "endTimeUtc")); err == nil && text(p, "status") == "Initiated" {
						s.expireAtLocked(policy.key, t)
					}
				}
			}
		}
	}
}

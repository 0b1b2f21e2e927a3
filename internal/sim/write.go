package sim

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

func invalidContent(err error) *armError {
	return badRequest("InvalidRequestContent", "The request content was invalid and could not be deserialized: '%v'.", err)
}

func sameLocation(a, b string) bool {
	norm := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }
	return norm(a) == norm(b)
}

// lockedLocked finds the locks that stand in the way: CanNotDelete of a delete, ReadOnly of every write, on the resource or above it.
func (s *Sim) lockedLocked(key, verb string, remove bool) *armError {
	var scopes []string
	for lk, l := range s.locks {
		scope, _, _ := strings.Cut(lk, "/providers/microsoft.authorization/locks/")
		if key != scope && !strings.HasPrefix(key, scope+"/") {
			continue
		}
		if level := text(object(l.doc(), "properties"), "level"); strings.EqualFold(level, "ReadOnly") || remove && strings.EqualFold(level, "CanNotDelete") {
			scopes = append(scopes, l.t.scope)
		}
	}
	if len(scopes) == 0 {
		return nil
	}
	slices.Sort(scopes)
	return &armError{Status: 409, Code: "ScopeLocked", Message: fmt.Sprintf("The scope '%s' cannot perform %s operation because following scope(s) are locked: '%s'. Please remove the lock and try again.",
		key, verb, strings.Join(scopes, ","))}
}

func bareEtag(e string) string {
	return strings.Trim(strings.TrimPrefix(strings.TrimSpace(e), "W/"), `"`)
}

// matchLocked is If-Match (FACTS 2.5; the recorded body shows the sent value normalised to W/"...").
func matchLocked(r *request, res *resource, id string) *armError {
	want := r.header.Get("If-Match")
	if want == "" || want == "*" && res != nil {
		return nil
	}
	have := ""
	if res != nil {
		have = res.etag
		if bareEtag(want) == bareEtag(have) {
			return nil
		}
		id = res.id
	}
	if res != nil && strings.HasPrefix(res.typeKey, "microsoft.compute/") { // recorded: no details, another message
		return &armError{Status: 412, Code: "PreconditionFailed", Message: fmt.Sprintf(`Etag provided in if-match header "%s" does not match etag %s of resource.`, bareEtag(want), have)}
	}
	return &armError{Status: 412, Code: "PreconditionFailed", Message: "Precondition failed.", Details: []armError{{
		Code: "PreconditionFailedEtagMismatch",
		Message: fmt.Sprintf(`Etag provided in if-match header W/"%s" does not match etag %s of resource %s in NRP data store.`,
			bareEtag(want), have, id),
	}}}
}

// guid is how the network provider's messages call a resource.
func (r *resource) guid() string {
	if g := text(object(r.doc(), "properties"), "resourceGuid"); g != "" {
		return g
	}
	return r.id
}

// busyLocked applies Config.Concurrency to a write on a resource that has one running.
func (s *Sim) busyLocked(res *resource) *armError {
	if res == nil || res.op == nil {
		return nil
	}
	if s.cfg.Concurrency == Supersede && res.state != "Deleting" {
		return nil
	}
	return anotherOperation(res.op.name, res.op.id, res.guid())
}

// beginLocked starts the operation of a write that has just been applied to res. A running one is superseded.
func (s *Sim) beginLocked(r *request, res *resource, t target, verb string, created bool) *operation {
	op := s.newOperationLocked(r, res, t, verb)
	r.started = op
	if old := res.op; old != nil {
		s.endLocked(old, "Canceled", superseded(old.name, old.id, op.name, op.id))
	}
	res.op = op
	res.state = "Updating"
	if created && strings.HasPrefix(res.typeKey, "microsoft.compute/") {
		res.state = "Creating"
	}
	if verb == "Delete" && res.key == t.key() {
		res.state = "Deleting"
	}
	res.dirty()
	f := r.outcome()
	undo := func() { // a resource that was not there; what was is already put back (hideLocked)
		if created && !f.Applied {
			s.removeLocked(res)
		}
	}
	end := "Succeeded"
	var failure *armError
	if f != nil {
		switch f.Kind {
		case "superseded":
			end, failure = "Canceled", superseded(op.name, op.id, op.name, s.uuidLocked())
		case "operation-failed":
			end, failure = "Failed", f.armError(&armError{Code: "InternalServerError", Message: "An error occurred."})
		case "operation-stuck":
			op.stuck = f.ID
		}
	}
	op.finish = func() {
		if res.gone || s.all[res.key] != res {
			return
		}
		switch {
		case op.status == "Succeeded" && verb == "Delete" && res.key == t.key():
			s.removedLocked(res)
			return
		case op.status == "Failed":
			undo()
			res.state = "Failed"
		case op.status == "Canceled" && f != nil && f.Kind == "superseded":
			undo()
			res.state = "Succeeded"
		case op.status == "Succeeded":
			res.state = "Succeeded"
		default:
			return // superseded by a write that is itself running
		}
		if !res.gone && !strings.HasPrefix(res.typeKey, "microsoft.compute/") { // recorded: a set keeps the etag of the PUT's reply
			res.etag = s.nextEtagLocked(res) // it changes again when the operation ends, FACTS 2.5
		}
		res.dirty()
		if op.after != nil && op.status == "Succeeded" {
			op.after()
		}
	}
	switch {
	case f != nil && f.Kind == "operation-stuck" && f.Delay == 0:
	case f != nil && f.Kind == "operation-stuck":
		s.atLocked(s.nowLocked().Add(f.Delay), func() { s.endLocked(op, "Succeeded", nil) })
	default:
		s.atLocked(s.nowLocked().Add(s.cfg.OperationDelay), func() { s.endLocked(op, end, failure) })
	}
	return op
}

func (s *Sim) countLocked(keys ...string) {
	for _, k := range keys {
		s.writes[k]++
	}
}

func (s *Sim) uncountLocked(keys ...string) {
	for _, k := range keys {
		s.writes[k]--
	}
}

func (s *Sim) putLocked(r *request, t target) *answer {
	if t.collection() {
		return methodNotAllowed(r).answer()
	}
	body, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	if k, ok := kinds[t.typeKey()]; ok {
		return s.putResourceLocked(r, t.canonical(), k, body)
	}
	if len(t.types) == 2 {
		if part, ok := parts[strings.ToLower(t.ns+"/"+t.types[0])][strings.ToLower(t.types[1])]; ok && part.writable {
			return s.putChildLocked(r, t, body)
		}
	}
	return noType(t, r.api).answer()
}

func (s *Sim) putResourceLocked(r *request, t target, k kind, body map[string]any) *answer {
	res := s.all[t.key()]
	if t.typeKey() == typeVMSSVM { // sets make them
		if res == nil {
			return notFound(t).answer()
		}
		body = mergedInstance(res, body)
	}
	if ae := s.lockedLocked(t.key(), "write", false); ae != nil && t.typeKey() != typeLock {
		return ae.answer()
	}
	if t.typeKey() != typeLock {
		loc := text(body, "location")
		switch {
		case res == nil && loc == "" && len(t.types) == 1:
			return badRequest("LocationRequired", "The location property is required for this definition.").answer()
		case res != nil && loc != "" && !sameLocation(loc, text(res.doc(), "location")):
			return (&armError{Status: 409, Code: "InvalidResourceLocation", Message: fmt.Sprintf("The resource '%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'. Please select a new resource name.",
				t.name(), text(res.doc(), "location"), t.group, loc)}).answer()
		case res != nil && loc == "":
			body["location"] = res.doc()["location"]
		}
	}
	if k.etag {
		if ae := matchLocked(r, res, t.id()); ae != nil {
			return ae.answer()
		}
	}
	if ae := s.busyLocked(res); ae != nil {
		return ae.answer()
	}
	var before *snapshot
	if res != nil {
		b := res.snapshot()
		before = &b
	}
	created := res == nil
	res, ae := s.storeLocked(t, body, storeWrite)
	if ae != nil {
		return ae.answer()
	}
	s.countLocked(res.key)
	status := 200
	if created {
		status = 201
	}
	if !k.async {
		return ok(status, s.rawLocked(res))
	}
	// Recorded: a PUT that changes tags alone, or nothing, answers Succeeded with the etag that stays.
	same := before != nil && sameSettings(res, *before)
	unchanged := same && strings.HasPrefix(res.typeKey, "microsoft.network/")
	if same && (res.typeKey == typeVMSS || res.typeKey == typeVMSSVM) && r.outcome() == nil { // recorded; a machine's counts all the same
		res.etag = before.etag
		res.dirty()
	}
	if (unchanged || s.instantLocked(res, before)) && res.op == nil && r.outcome() == nil {
		return s.doneLocked(r, res, res.t, status, s.rawLocked(res))
	}
	op := s.beginLocked(r, res, res.t, "Put", created)
	if res.typeKey == typeVMSS && !r.unapplied() {
		var old map[string]any
		if before != nil {
			old = before.body
		}
		op.after = func() { s.scaleSetWrittenLocked(res, old) }
	}
	if res.typeKey == typeVM && created && !r.unapplied() { // recorded: it counts to 2 when the machine is there
		op.after = func() {
			s.diskMadeLocked(res)
			res.etag = s.nextEtagLocked(res)
			res.dirty()
		}
	}
	a := ok(status, s.rawLocked(res))
	if res.typeKey != typeVM || !same { // recorded: Updating, and no operation to poll
		s.opHeaders(op, r, a.header, true, false)
	}
	if r.unapplied() {
		s.uncountLocked(res.key)
		if !created { // a new one stays visible as Updating until the operation ends
			s.hideLocked(res, *before)
		}
	}
	return a
}

// mergedInstance is what PUT of an instance makes of it: what is left out stays, and tags and place are those of the set (recorded).
func mergedInstance(vm *resource, body map[string]any) map[string]any {
	old, _ := cloneJSON(vm.doc()).(map[string]any)
	for _, f := range []string{"tags", "name", "location", "instanceId", "sku", "zones"} {
		delete(body, f)
	}
	merge(old, body)
	hideSecrets(object(old, "properties"))
	return old
}

// doneLocked answers a write that needs no time. Its operation, where the type mentions one, is over.
func (s *Sim) doneLocked(r *request, res *resource, t target, status int, raw []byte) *answer {
	a := ok(status, raw)
	if res.typeKey != typeNIC || r.api < "2025" { // recorded: 2022 and before mention one, 2025-05-01 does not
		op := s.newOperationLocked(r, res, t, "Put")
		op.status = "Succeeded"
		s.opHeaders(op, r, a.header, true, false)
	}
	return a
}

// hideLocked puts the old state back at once, while the operation that will fail is still running: the write never takes effect.
func (s *Sim) hideLocked(res *resource, before snapshot) {
	s.restoreLocked(res, before)
	res.state = "Updating"
	res.etag = s.nextEtagLocked(res)
}

func (s *Sim) putPartLocked(owner *resource, t target, part map[string]any, mode storeMode) (created bool, ae *armError) {
	spec := parts[owner.typeKey][strings.ToLower(t.types[1])]
	name := t.names[1]
	props := object(part, "properties")
	if props == nil {
		props = map[string]any{}
	}
	if spec.field == "defaultSecurityRules" {
		return false, nil // the same six everywhere
	}
	if owner.typeKey == typeNSG {
		x, ae := newRule(owner.id+"/securityRules/"+name, name, props, mode)
		if ae != nil {
			return false, ae
		}
		rules := slices.Clone(owner.rules)
		i := owner.ruleIndex(name)
		if i >= 0 {
			x.name = rules[i].name
			rules[i] = x
		} else {
			rules = append(rules, x)
		}
		if ae := checkRuleSet(owner.id, rules); ae != nil {
			return false, ae
		}
		if mode == storeWrite {
			if ae := s.checkASGsLocked(owner.id, []*rule{x}); ae != nil {
				return false, ae
			}
		}
		s.remember(owner)
		owner.rules = rules
		owner.dirty()
		s.changedLocked()
		owner.etag = s.etagLocked()
		return i < 0, nil
	}
	body, err := decodeObject(s.rawLocked(owner))
	if err != nil {
		return false, invalidContent(err)
	}
	op := object(body, "properties")
	list, _ := op[spec.field].([]any)
	part["name"], part["properties"] = name, props
	created = true
	for i, e := range list {
		if o, _ := e.(map[string]any); strings.EqualFold(text(o, "name"), name) {
			part["name"] = o["name"]
			list[i] = part
			created = false
		}
	}
	if created {
		list = append(list, part)
	}
	op[spec.field] = list
	keep := mode
	if mode == storeLoad {
		keep = storeOutside
	}
	_, ae = s.storeLocked(owner.t, body, keep)
	return created, ae
}

// putChildLocked writes a rule, subnet or other part: one long-running write of its owner.
func (s *Sim) putChildLocked(r *request, t target, body map[string]any) *answer {
	owner := s.all[t.top().key()]
	if owner == nil {
		return (&armError{Status: 404, Code: "ParentResourceNotFound", Message: fmt.Sprintf("Failed to perform 'write' on resource(s) of type '%s', because the parent resource '%s' could not be found.",
			strings.Join(t.types, "/"), t.top().id())}).answer()
	}
	if ae := s.lockedLocked(t.key(), "write", false); ae != nil {
		return ae.answer()
	}
	if s.cfg.RuleIfMatch {
		if ae := matchLocked(r, owner, t.id()); ae != nil {
			return ae.answer()
		}
	}
	if ae := s.busyLocked(owner); ae != nil {
		return ae.answer()
	}
	before := owner.snapshot()
	created, ae := s.putPartLocked(owner, t, body, storeWrite)
	if ae != nil {
		return ae.answer()
	}
	s.countLocked(owner.key, t.key())
	if owner.op == nil && r.outcome() == nil && sameSettings(owner, before) {
		raw, _, _ := s.lookLocked(t, view{})
		return s.doneLocked(r, owner, t, 200, raw)
	}
	op := s.beginLocked(r, owner, t, "Put", false)
	raw, _, _ := s.lookLocked(t, view{})
	a := ok(200, raw)
	if created {
		a.status = 201
	}
	s.opHeaders(op, r, a.header, true, false)
	if r.unapplied() {
		s.uncountLocked(owner.key, t.key())
		s.hideLocked(owner, before)
	}
	return a
}

func (s *Sim) deleteLocked(r *request, t target) *answer {
	if t.collection() {
		return methodNotAllowed(r).answer()
	}
	res := s.all[t.key()]
	child := false
	if res == nil && len(t.types) == 2 {
		_, owner, found := s.lookLocked(t, view{})
		if owner != nil {
			if spec, known := parts[owner.typeKey][strings.ToLower(t.types[1])]; known && !spec.writable {
				return methodNotAllowed(r).answer()
			}
		}
		if found {
			res, child = owner, true
		}
	}
	if ae := s.lockedLocked(t.key(), "delete", true); ae != nil && t.typeKey() != typeLock {
		return ae.answer() // ARM refuses before it asks the provider, so also where nothing is
	}
	if res == nil {
		return ok(204, nil)
	}
	if child && s.cfg.RuleIfMatch || !child && res.kind.etag {
		if ae := matchLocked(r, res, t.id()); ae != nil {
			return ae.answer()
		}
	}
	if ae := s.busyLocked(res); ae != nil {
		return ae.answer()
	}
	if !child {
		if ae := s.inUseLocked(res); ae != nil {
			return ae.answer()
		}
	} else if ae := s.childInUseLocked(t); ae != nil {
		return ae.answer()
	}
	if !child && !res.kind.async {
		s.removeLocked(res)
		s.countLocked(t.key())
		return ok(200, nil)
	}
	before := res.snapshot()
	if child {
		if err := s.removeChildLocked(res, t); err != nil {
			return badRequest("InvalidRequestContent", "%v", err).answer()
		}
		s.countLocked(res.key, t.key())
	} else {
		s.countLocked(res.key)
	}
	op := s.beginLocked(r, res, t, "Delete", false)
	a := ok(202, nil)
	s.opHeaders(op, r, a.header, true, true)
	if r.unapplied() && child {
		s.uncountLocked(res.key, t.key())
		s.hideLocked(res, before)
	}
	return a
}

// inUseLocked refuses to delete what others refer to.
func (s *Sim) inUseLocked(res *resource) *armError {
	if res.typeKey == typeVNet {
		return s.vnetInUseLocked(res)
	}
	var users []string
	for o := range s.refs[res.key] {
		users = append(users, o.id)
	}
	slices.Sort(users)
	if len(users) == 0 {
		return nil
	}
	list := strings.Join(users, ", ")
	switch res.typeKey {
	case typeNSG:
		return badRequest("InUseNetworkSecurityGroupCannotBeDeleted", "Network security group %s cannot be deleted because it is in use by the following resources: %s. In order to delete the Network security group, remove the association with the resource(s). To learn how to do this, see aka.ms/deletensg.", res.id, list)
	case typeNIC:
		return badRequest("NicInUse", "Network Interface %s is used by existing resource %s. In order to delete the network interface, it must be dissociated from the resource. To learn more, see aka.ms/deletenic.", res.id, list)
	case typePIP:
		return badRequest("PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s. In order to delete the public IP, disassociate/detach the Public IP address from the resource. To learn how to do this, see aka.ms/deletepublicip.", res.id, list)
	case "microsoft.network/routetables":
		return badRequest("InUseRouteTableCannotBeDeleted", "Route table %s is in use and cannot be deleted.", res.id)
	case "microsoft.network/natgateways":
		return badRequest("InUseNatGatewayCannotBeDeleted", "Nat Gateway %s is in use and cannot be deleted.", res.id)
	}
	return nil
}

func (s *Sim) childInUseLocked(t target) *armError {
	if !strings.EqualFold(t.types[1], "subnets") {
		return nil
	}
	for o := range s.refs[t.key()] {
		return badRequest("InUseSubnetCannotBeDeleted", "Subnet %s is in use by %s and cannot be deleted. In order to delete the subnet, delete all the resources within the subnet. See aka.ms/deletesubnet.", t.name(), o.id)
	}
	return nil
}

// patchLocked merges tags into any resource, and properties into compute resources; the network provider's PATCH takes tags alone.
func (s *Sim) patchLocked(r *request, t target) *answer {
	res := s.all[t.key()]
	if res == nil {
		if s.unknownType(t) {
			return noType(t, r.api).answer()
		}
		return notFound(t).answer()
	}
	patch, err := decodeObject(r.body)
	if err != nil {
		return invalidContent(err).answer()
	}
	body, err := decodeObject(s.rawLocked(res))
	if err != nil {
		return invalidContent(err).answer()
	}
	delete(body, "etag")
	if strings.HasPrefix(res.typeKey, "microsoft.compute/") {
		merge(body, patch)
	} else if tags, ok := patch["tags"]; ok {
		body["tags"] = tags
	}
	return s.putResourceLocked(r, res.t, res.kind, body)
}

func merge(into, patch map[string]any) {
	for k, v := range patch {
		if m, ok := v.(map[string]any); ok {
			if old := object(into, k); old != nil {
				merge(old, m)
				continue
			}
		}
		into[k] = v
	}
}

var resourceName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.()-]{0,78}[A-Za-z0-9_)])?$`)

// validateLocked checks what Azure refuses in the types other than NSGs.
func (s *Sim) validateLocked(r *resource, body map[string]any) *armError {
	if name := r.t.name(); !resourceName.MatchString(name) && r.typeKey != typeVMSSVM {
		return badRequest("InvalidResourceName", "Resource name %s is invalid. The name can be up to 80 characters long. It must begin with a word character, and it must end with a word character or with '_'. The name may contain word characters or '.', '-', '_'.", name)
	}
	props := object(body, "properties")
	var oldProps map[string]any
	if r.doc() != nil {
		oldProps = object(r.doc(), "properties")
	}
	switch r.typeKey {
	case typeVM:
		hideSecrets(props)
		fillMachine(props, false)
		if strings.EqualFold(text(object(body, "identity"), "type"), "None") {
			delete(body, "identity")
		}
		eventsPolicy(props, oldProps)
		return scheduledEvents(props, oldProps)
	case typeVMSS:
		return validateScaleSet(r, body)
	case typeLock:
		level := text(props, "level")
		for _, l := range []string{"CanNotDelete", "ReadOnly"} {
			if strings.EqualFold(level, l) {
				props["level"] = l
				return nil
			}
		}
		return badRequest("InvalidLockLevel", "The lock level '%s' is invalid: use CanNotDelete or ReadOnly.", level)
	case typeNIC:
		if len(objects(props, "ipConfigurations")) == 0 {
			return badRequest("NetworkInterfaceMustHaveIpConfigurations", "Network interface %s must have one or more IP configurations.", r.id)
		}
		return s.validateAddresses(r, props)
	case typeVNet:
		return s.validateVNet(r, props)
	case typeRT:
		return validateRoutes(r, props)
	case typeFirewall, typeGateway:
		return validateFirewall(r, props)
	}
	return nil
}

// checkReferencesLocked refuses references to what does not exist.
func (s *Sim) checkReferencesLocked(r *resource, body map[string]any, rules []*rule) *armError {
	props := object(body, "properties")
	missing := func(id string) *armError {
		if id == "" {
			return nil
		}
		t, err := parsePath(id)
		if err == nil {
			if _, _, found := s.lookLocked(t, view{}); found {
				return nil
			}
		}
		return badRequest("InvalidResourceReference", "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", id, r.id)
	}
	var ids []string
	switch {
	case r.typeKey == typeFirewall || r.typeKey == typeGateway || r.typeKey == "microsoft.network/bastionhosts":
		for _, c := range objects(props, "ipConfigurations") {
			ids = append(ids, refID(object(c, "properties"), "subnet"), refID(object(c, "properties"), "publicIPAddress"))
		}
	case r.typeKey == typeConn:
		ids = append(ids, refID(props, "virtualNetworkGateway1"), refID(props, "virtualNetworkGateway2"), refID(props, "localNetworkGateway2"))
	case r.typeKey == typeNSG:
		return s.checkASGsLocked(r.id, rules)
	case r.typeKey == typeNIC:
		ids = append(ids, refID(props, "networkSecurityGroup"))
		for _, c := range objects(props, "ipConfigurations") {
			p := object(c, "properties")
			ids = append(ids, refID(p, "subnet"), refID(p, "publicIPAddress"))
			for _, f := range []string{"applicationSecurityGroups", "loadBalancerBackendAddressPools", "loadBalancerInboundNatRules"} {
				for _, o := range objects(p, f) {
					ids = append(ids, text(o, "id"))
				}
			}
		}
	case r.typeKey == typeVNet:
		for _, c := range objects(props, "subnets") {
			for _, f := range []string{"networkSecurityGroup", "routeTable", "natGateway"} {
				ids = append(ids, refID(object(c, "properties"), f))
			}
		}
		had := map[string]bool{}
		if r.doc() != nil {
			for _, p := range peerings(r) {
				had[strings.ToLower(refID(object(p, "properties"), "remoteVirtualNetwork"))] = true
			}
		}
		for _, p := range objects(props, "virtualNetworkPeerings") {
			if id := refID(object(p, "properties"), "remoteVirtualNetwork"); !had[strings.ToLower(id)] {
				ids = append(ids, id)
			}
		}
	case r.typeKey == typeVM:
		for _, n := range objects(object(props, "networkProfile"), "networkInterfaces") {
			ids = append(ids, text(n, "id"))
		}
	case r.typeKey == typeVMSS:
		for _, n := range objects(object(object(props, "virtualMachineProfile"), "networkProfile"), "networkInterfaceConfigurations") {
			ids = append(ids, refID(object(n, "properties"), "networkSecurityGroup"))
			for _, c := range objects(object(n, "properties"), "ipConfigurations") {
				p := object(c, "properties")
				ids = append(ids, refID(p, "subnet"))
				for _, f := range []string{"applicationSecurityGroups", "loadBalancerBackendAddressPools"} {
					for _, o := range objects(p, f) {
						ids = append(ids, text(o, "id"))
					}
				}
			}
		}
	case r.typeKey == typeLB:
		for _, c := range objects(props, "frontendIPConfigurations") {
			ids = append(ids, refID(object(c, "properties"), "publicIPAddress"), refID(object(c, "properties"), "subnet"))
		}
	}
	for _, id := range ids {
		if ae := missing(id); ae != nil {
			return ae
		}
	}
	return nil
}

func (s *Sim) checkASGsLocked(nsgID string, rules []*rule) *armError {
	for _, x := range rules {
		for _, f := range []string{"sourceApplicationSecurityGroups", "destinationApplicationSecurityGroups"} {
			for _, o := range objects(x.props, f) {
				if s.all[strings.ToLower(text(o, "id"))] == nil {
					return badRequest("InvalidResourceReference", "Resource %s referenced by resource %s was not found. Please make sure that the referenced resource exists, and that both resources are in the same region.", text(o, "id"), nsgID+"/securityRules/"+x.name)
				}
			}
		}
	}
	return nil
}

func instanceView(power string, now time.Time) map[string]any {
	return map[string]any{"statuses": []any{
		map[string]any{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded", "time": now.Format(time.RFC3339)},
		map[string]any{"code": "PowerState/" + power, "level": "Info", "displayStatus": "VM " + power},
	}}
}

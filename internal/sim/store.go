package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resource is one ARM resource. Its body is the GET view without what render adds: etags, provisioning states and back-references.
// Bodies are replaced, never shared, so that a snapshot of the struct is a snapshot of the state.
type resource struct {
	t       target
	id      string // as first written
	key     string
	typ     string // Azure's spelling
	typeKey string
	kind    kind
	seq     uint64
	gone    bool

	caches *caches
	live   map[string]any // the body, or
	packed []byte         // the body as JSON
	rules  []*rule        // of an NSG, instead of properties.securityRules
	etag   string
	state  string // provisioningState
	kept   map[string]map[string][]string
	out    []outRef

	raw     []byte         // rendered body, nil when stale; never changed in place
	decoded map[string]any // raw as a tree, for queries; nil when stale
	older   []version      // what stale reads show, oldest first
	op      *operation     // the running write
}

// version is an earlier state of a resource; a nil raw means that it did not exist.
type version struct {
	raw   []byte
	until time.Time // when it was replaced
}

const olderKept = 8

// ref is a back-reference: the resource that owns the target shows id in field.
type ref struct {
	field  string
	plural bool
	id     string
}

type outRef struct {
	target string // lower-case id, possibly of a part
	ref    ref
}

type storeMode int

const (
	storeLoad    storeMode = iota // an estate: references may dangle, etags and states are taken over
	storeOutside                  // an outside hand: valid, at once
	storeWrite                    // a client
)

func decodeObject(data []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // unknown fields go back digit for digit
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("want a JSON object, got null")
	}
	return m, nil
}

func mustJSON(v any) []byte {
	b, err := appendTree(nil, v)
	if err != nil {
		panic(fmt.Sprintf("sim: a decoded JSON value does not encode: %v", err)) // only values that came from JSON get here
	}
	return b
}

func object(m map[string]any, field string) map[string]any {
	o, _ := m[field].(map[string]any)
	return o
}

func objects(m map[string]any, field string) []map[string]any {
	list, _ := m[field].([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		if o, ok := e.(map[string]any); ok {
			out = append(out, o)
		}
	}
	return out
}

func text(m map[string]any, field string) string {
	v, _ := m[field].(string)
	return v
}

func refID(m map[string]any, field string) string { return text(object(m, field), "id") }

// insertLocked makes an empty resource for t and files it.
func (s *Sim) insertLocked(t target) *resource {
	s.seq++
	t = s.internLocked(t)
	r := &resource{t: t, id: t.id(), key: t.key(), typ: canonicalType(t.typ()), seq: s.seq, state: "Succeeded", caches: s.caches}
	switch {
	case t.ns == "" && t.group != "":
		r.typ = "Microsoft.Resources/resourceGroups"
		r.typeKey = typeGroup
	case t.ns == "":
		r.typ = "Microsoft.Resources/subscriptions"
		r.typeKey = typeSub
	default:
		r.typeKey = strings.ToLower(r.typ)
		if list := s.byType[r.typeKey]; len(list) > 0 {
			r.typ, r.typeKey = list[0].typ, list[0].typeKey // the same text for all
		}
	}
	r.kind = kinds[r.typeKey]
	s.all[r.key] = r
	s.byType[r.typeKey] = append(s.byType[r.typeKey], r)
	if r.typeKey == typeLock {
		s.locks[r.key] = r
	}
	return r
}

// internLocked shares the words that many ids have in common.
func (s *Sim) internLocked(t target) target {
	one := func(v string) string {
		if have, ok := s.words[v]; ok {
			return have
		}
		v = strings.Clone(v)
		s.words[v] = v
		return v
	}
	t.scope, t.sub, t.group, t.ns = one(t.scope), one(t.sub), one(t.group), one(t.ns)
	if len(t.types) > 0 {
		key := strings.Join(t.types, "/")
		if s.typeLists[key] == nil {
			s.typeLists[strings.Clone(key)] = slices.Clone(t.types)
		}
		t.types = s.typeLists[key]
	}
	names := make([]string, len(t.names))
	for i, n := range t.names {
		names[i] = strings.Clone(n)
	}
	t.names = names
	return t
}

func (s *Sim) removeLocked(r *resource) {
	s.remember(r)
	s.dropRefsLocked(r)
	r.gone, r.op = true, nil
	delete(s.all, r.key)
	delete(s.locks, r.key)
	s.gone[r.typeKey]++
	if list := s.byType[r.typeKey]; s.gone[r.typeKey] > 64 && s.gone[r.typeKey] > len(list)/2 {
		s.byType[r.typeKey] = slices.DeleteFunc(list, func(r *resource) bool { return r.gone })
		s.gone[r.typeKey] = 0
	}
	for ref := range s.refs[r.key] {
		s.touchLocked(strings.ToLower(ref.id))
	}
	s.changedLocked()
}

// remember keeps the state before a change for stale reads.
func (s *Sim) remember(r *resource) {
	v := version{until: s.nowLocked()}
	if r.doc() != nil && !r.gone {
		v.raw = s.rawLocked(r)
	}
	r.older = append(r.older, v)
	if len(r.older) > olderKept {
		r.older = slices.Delete(r.older, 0, len(r.older)-olderKept)
	}
}

func (r *resource) dirty() { r.raw, r.decoded = nil, nil }

// touchLocked marks the resource stale that a (part's) id belongs to.
func (s *Sim) touchLocked(key string) {
	if r := s.ownerLocked(key); r != nil {
		r.dirty()
	}
}

func (s *Sim) ownerLocked(key string) *resource {
	if r := s.all[key]; r != nil {
		return r
	}
	t, err := parsePath(key)
	if err != nil || t.ns == "" {
		return nil
	}
	return s.all[t.top().key()]
}

func (s *Sim) dropRefsLocked(r *resource) {
	for _, o := range r.out {
		delete(s.refs[o.target], o.ref)
		if len(s.refs[o.target]) == 0 {
			delete(s.refs, o.target)
		}
		s.touchLocked(o.target)
	}
	r.out = nil
}

// nextEtagLocked is a new etag for r: a guid for network resources, a counter for compute resources.
func (s *Sim) nextEtagLocked(r *resource) string {
	if !strings.HasPrefix(r.typeKey, "microsoft.compute/") {
		return s.etagLocked()
	}
	n, _ := strconv.Atoi(bareEtag(r.etag))
	return fmt.Sprintf(`"%d"`, n+1)
}

// setBodyLocked gives r a new body (and rules) and files its references.
func (s *Sim) setBodyLocked(r *resource, body map[string]any, rules []*rule, keep map[string]map[string][]string) {
	s.dropRefsLocked(r)
	r.setDoc(body)
	r.rules, r.kept = rules, keep
	r.out = collectRefs(r)
	s.addRefsLocked(r)
	r.dirty()
	s.changedLocked()
}

// rawLocked is the resource as GET shows it.
func (s *Sim) rawLocked(r *resource) []byte {
	if r.raw != nil {
		return r.raw
	}
	switch r.typeKey {
	case typeNSG:
		return r.keepRaw(s.renderNSGLocked(r))
	case typeVM, typeVMSSVM:
		return r.keepRaw(mustJSON(withoutInstanceView(s.stampedLocked(r))))
	}
	return r.keepRaw(mustJSON(s.stampedLocked(r)))
}

// stampedLocked is the body with what the server adds: etags, states and back-references.
func (s *Sim) stampedLocked(r *resource) map[string]any {
	b := r.doc()
	if r.kind.name == "" || r.typeKey == typeLock {
		return b
	}
	props := object(b, "properties")
	if r.kind.etag {
		b["etag"] = r.etag
	}
	props["provisioningState"] = r.state
	var own []string
	nested := map[string][]string{}
	for _, path := range backFields[r.typeKey] {
		if part, field, ok := strings.Cut(path, "."); ok {
			nested[part] = append(nested[part], field)
		} else {
			own = append(own, path)
		}
	}
	s.backRefsLocked(r, r.key, props, own...)
	if r.typeKey == typeLB {
		balancerUses(r, props)
	}
	for segment, part := range parts[r.typeKey] {
		for _, c := range objects(props, part.field) {
			name := text(c, "name")
			c["id"] = r.id + "/" + part.field + "/" + name
			c["type"] = r.typ + "/" + part.field
			c["etag"] = r.etag
			cp := object(c, "properties")
			if cp == nil {
				cp = map[string]any{}
				c["properties"] = cp
			}
			cp["provisioningState"] = r.state
			if f := nested[part.field]; f != nil {
				s.backRefsLocked(r, r.key+"/"+segment+"/"+strings.ToLower(name), cp, f...)
			}
		}
	}
	return b
}

// treeLocked is rawLocked, decoded; it must not be changed.
func (s *Sim) treeLocked(r *resource) map[string]any {
	if r.decoded == nil {
		m, err := decodeTree(s.rawLocked(r))
		if err != nil {
			panic(fmt.Sprintf("sim: %s does not decode: %v", r.id, err))
		}
		r.decoded = m
		r.caches.decoded.add(r)
	}
	return r.decoded
}

// view is how a read looks at the store.
type view struct {
	stale int       // how many versions back
	asOf  time.Time // what stood then, as far as it is remembered
}

func (s *Sim) readLocked(r *resource, v view) []byte {
	if !v.asOf.IsZero() {
		for _, old := range r.older {
			if old.until.After(v.asOf) {
				return old.raw
			}
		}
		if r.gone {
			return nil
		}
	}
	if v.stale > 0 && len(r.older) > 0 {
		return r.older[max(0, len(r.older)-v.stale)].raw
	}
	return s.rawLocked(r)
}

// lookLocked finds a resource or a part of one; owner is the resource that holds it.
func (s *Sim) lookLocked(t target, v view) (raw []byte, owner *resource, ok bool) {
	if r := s.all[t.key()]; r != nil {
		raw = s.readLocked(r, v)
		return raw, r, raw != nil
	}
	if len(t.names) != 2 || len(t.types) != 2 {
		return nil, nil, false
	}
	owner = s.all[t.top().key()]
	if owner == nil {
		return nil, nil, false
	}
	part, known := parts[owner.typeKey][strings.ToLower(t.types[1])]
	if !known {
		return nil, owner, false
	}
	if owner.typeKey == typeNSG && v.stale == 0 && part.field == "securityRules" {
		if i := owner.ruleIndex(t.names[1]); i >= 0 {
			return owner.renderRule(owner.rules[i]), owner, true
		}
		return nil, owner, false
	}
	raw = s.readLocked(owner, v)
	if raw == nil {
		return nil, owner, false
	}
	tree, err := decodeObject(raw)
	if err != nil {
		return nil, owner, false
	}
	for _, c := range objects(object(tree, "properties"), part.field) {
		if strings.EqualFold(text(c, "name"), t.names[1]) {
			return mustJSON(c), owner, true
		}
	}
	return nil, owner, false
}

// removeChildLocked takes a rule, subnet or other part out of its owner, with a new etag.
func (s *Sim) removeChildLocked(owner *resource, t target) error {
	part, ok := parts[owner.typeKey][strings.ToLower(t.types[1])]
	if !ok || !part.writable {
		return fmt.Errorf("deleting %s: not a part that can be removed", t.id())
	}
	s.remember(owner)
	name := t.names[1]
	if owner.typeKey == typeNSG {
		i := owner.ruleIndex(name)
		if i < 0 {
			return fmt.Errorf("deleting %s: no such rule", t.id())
		}
		owner.rules = slices.Delete(slices.Clone(owner.rules), i, i+1)
		owner.dirty()
		s.changedLocked()
	} else {
		body, err := decodeObject(s.rawLocked(owner))
		if err != nil {
			return err
		}
		takeBackRefs(owner, body)
		props := object(body, "properties")
		list, _ := props[part.field].([]any)
		props[part.field] = slices.DeleteFunc(slices.Clone(list), func(e any) bool {
			o, _ := e.(map[string]any)
			return strings.EqualFold(text(o, "name"), name)
		})
		before := owner.doc()
		s.setBodyLocked(owner, body, nil, owner.kept)
		if owner.typeKey == typeVNet {
			s.peersChangedLocked(owner, before)
		}
	}
	owner.etag = s.nextEtagLocked(owner)
	return nil
}

// snapshot of what a write changes in a resource, to take it back.
type snapshot struct {
	body  map[string]any
	rules []*rule
	kept  map[string]map[string][]string
	etag  string
	state string
}

func (r *resource) snapshot() snapshot { return snapshot{r.doc(), r.rules, r.kept, r.etag, r.state} }

func (s *Sim) restoreLocked(r *resource, v snapshot) {
	s.setBodyLocked(r, v.body, v.rules, v.kept)
	r.etag, r.state = v.etag, v.state
}

// sameSettings tells whether a write changed nothing that has to be provisioned. The server's own marks do not count.
func sameSettings(r *resource, before snapshot) bool {
	if len(r.rules) != len(before.rules) {
		return false
	}
	for i, x := range r.rules {
		if y := before.rules[i]; x.name != y.name || !bytes.Equal(x.tail, y.tail) {
			return false
		}
	}
	return bytes.Equal(settings(r, r.doc()), settings(r, before.body))
}

func settings(r *resource, body map[string]any) []byte {
	copied, err := decodeObject(mustJSON(object(body, "properties")))
	if err != nil {
		return nil
	}
	takeBackRefs(r, map[string]any{"properties": copied})
	delete(copied, "provisioningState")
	for _, part := range parts[r.typeKey] {
		for _, c := range objects(copied, part.field) {
			for _, f := range []string{"id", "etag", "type"} {
				delete(c, f)
			}
			delete(object(c, "properties"), "provisioningState")
		}
	}
	return mustJSON(copied)
}

// storeLocked validates a body and makes it the resource's. The etag is new, the state Succeeded; a client's write changes that later.
func (s *Sim) storeLocked(t target, body map[string]any, mode storeMode) (*resource, *armError) {
	r := s.all[t.key()]
	created := r == nil
	probe := r
	if created {
		probe = &resource{t: t, id: t.id(), key: t.key(), typ: canonicalType(t.typ())}
		probe.typeKey = strings.ToLower(probe.typ)
		if t.ns == "" {
			probe.typeKey = ""
		}
		probe.kind = kinds[probe.typeKey]
	}
	if t.ns != "" && object(body, "properties") == nil {
		body["properties"] = map[string]any{}
	}
	props := object(body, "properties")
	kept := takeBackRefs(probe, body)
	if probe.typeKey == typeNIC || probe.typeKey == typeVNet || probe.typeKey == typeLB {
		trimRefs(props)
	}
	if mode != storeLoad {
		kept = probe.kept
	}
	var rules []*rule
	if probe.typeKey == typeNSG {
		var ae *armError
		if rules, ae = parseRules(probe.id, props, mode); ae != nil {
			return nil, ae
		}
		delete(props, "securityRules")
		delete(props, "defaultSecurityRules")
	} else if mode == storeWrite {
		if ae := s.validateLocked(probe, body); ae != nil {
			return nil, ae
		}
	}
	if mode == storeWrite {
		if ae := s.checkReferencesLocked(probe, body, rules); ae != nil {
			return nil, ae
		}
	}
	etag, state := "", "Succeeded"
	if mode == storeLoad {
		etag = text(body, "etag")
		if st := text(props, "provisioningState"); st == "Failed" || st == "Canceled" {
			state = st
		}
	}
	if r != nil && r.op != nil && mode == storeOutside {
		state = r.state // the running write goes on
	}
	s.serverFieldsLocked(probe, r, body, mode)
	if created {
		r = s.insertLocked(t)
		r.older = append(r.older, version{until: s.nowLocked()})
	} else {
		s.remember(r)
	}
	if mode == storeLoad {
		r.older = nil
	}
	body["id"], body["type"] = r.id, r.typ
	if name, _ := body["name"].(string); name == "" || r.typeKey != typeVMSSVM { // instance 0 of a scale set is called set_0
		body["name"] = t.name()
	}
	before := r.doc()
	s.setBodyLocked(r, body, rules, kept)
	if r.typeKey == typeVNet && mode != storeLoad {
		s.peersChangedLocked(r, before)
	}
	if etag == "" {
		etag = s.nextEtagLocked(r)
	}
	r.etag, r.state = etag, state
	if refs := s.refs[r.key]; created && len(refs) > 0 {
		r.dirty()
	}
	return r, nil
}

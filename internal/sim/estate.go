package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
)

// Load replaces the whole estate by {"resources":[...]}: ARM bodies as GET or Resource Graph return them. Rules and subnets may stand
// apart, under their own ids; subscriptions and groups that no resource describes are made up from the ids. Operations, request counts
// and quotas start anew, faults and the clock stay. On an error nothing has changed. A resource that was dumped while a write was
// running is loaded as Succeeded.
func (s *Sim) Load(estate []byte) error { return s.LoadFrom(bytes.NewReader(estate)) }

// LoadFrom is Load of what in gives, resource by resource: of a large estate nothing but the estate itself need be in memory.
func (s *Sim) LoadFrom(in io.Reader) error {
	dec := json.NewDecoder(in)
	dec.UseNumber()
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.world
	s.world = newWorld()
	if err := s.loadLocked(ahead(resourcesOf(dec))); err != nil {
		s.world = old
		return err
	}
	s.changedLocked()
	return nil
}

// ahead reads a sequence some way ahead of who asks, on another core.
func ahead(in iter.Seq2[map[string]any, error]) iter.Seq2[map[string]any, error] {
	type one struct {
		body map[string]any
		err  error
	}
	return func(yield func(map[string]any, error) bool) {
		read, enough := make(chan []one, 4), make(chan struct{})
		over := make(chan struct{})
		go func() {
			defer close(over)
			defer close(read)
			batch := make([]one, 0, 64)
			pass := func() bool {
				select {
				case read <- batch:
					batch = make([]one, 0, 64)
					return true
				case <-enough:
					return false
				}
			}
			for body, err := range in {
				if batch = append(batch, one{body, err}); len(batch) == cap(batch) && !pass() {
					return
				}
			}
			pass()
		}()
		defer func() { close(enough); <-over }() // nobody reads from in any more when this returns
		for batch := range read {
			for _, o := range batch {
				if !yield(o.body, o.err) {
					return
				}
			}
		}
	}
}

// resourcesOf are the elements of the field resources, or the error in the way.
func resourcesOf(dec *json.Decoder) iter.Seq2[map[string]any, error] {
	return func(yield func(map[string]any, error) bool) {
		fail := func(err error) { yield(nil, fmt.Errorf("reading the estate: %w", err)) }
		want := func(d json.Delim) bool {
			t, err := dec.Token()
			if err == nil && t != d {
				err = fmt.Errorf("want {\"resources\":[...]}, got %v", t)
			}
			if err != nil {
				fail(err)
			}
			return err == nil
		}
		if !want('{') {
			return
		}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				fail(err)
				return
			}
			if name != "resources" {
				var skip json.RawMessage
				if err := dec.Decode(&skip); err != nil {
					fail(err)
					return
				}
				continue
			}
			if !want('[') {
				return
			}
			for dec.More() {
				var raw json.RawMessage
				if err := dec.Decode(&raw); err != nil {
					fail(err)
					return
				}
				body, err := decodeTree(raw)
				if err != nil {
					fail(err)
					return
				}
				if !yield(body, nil) {
					return
				}
			}
			if !want(']') {
				return
			}
		}
		want('}')
	}
}

func (s *Sim) loadLocked(bodies iter.Seq2[map[string]any, error]) error {
	type part struct {
		t    target
		body map[string]any
	}
	i := -1
	var apart []part
	for body, err := range bodies {
		if err != nil {
			return err
		}
		i++
		id := text(body, "id")
		t, err := parsePath(id)
		if err != nil || id == "" || (t.ns != "" && t.collection()) || t.sub == "" {
			return fmt.Errorf("reading the estate: resource %d has the id %q, want /subscriptions/...", i, id)
		}
		for k, v := range body { // columns that only Resource Graph has
			if v == nil || t.ns != "" && (k == "resourceGroup" || k == "subscriptionId" || k == "tenantId" || k == "kind" && v == "") {
				delete(body, k)
			}
		}
		if t.ns != "" && len(t.types) == 2 {
			top := strings.ToLower(t.ns + "/" + t.types[0])
			if _, ok := parts[top][strings.ToLower(t.types[1])]; ok {
				apart = append(apart, part{t, body})
				continue
			}
		}
		if s.all[t.key()] != nil {
			return fmt.Errorf("reading the estate: %s appears twice", id)
		}
		if t.ns == "" {
			s.containerLocked(t, body)
			continue
		}
		if _, ae := s.storeLocked(t, body, storeLoad); ae != nil {
			return fmt.Errorf("reading the estate: %s: %w", id, ae)
		}
	}
	for _, p := range apart {
		owner := s.all[p.t.top().key()]
		if owner == nil {
			return fmt.Errorf("reading the estate: %s stands without %s", p.t.id(), p.t.top().id())
		}
		if _, ae := s.putPartLocked(owner, p.t, p.body, storeLoad); ae != nil {
			return fmt.Errorf("reading the estate: %s: %w", p.t.id(), ae)
		}
	}
	for _, r := range s.orderedLocked() {
		s.containersOfLocked(r)
		for key, fields := range r.kept { // what stands in the store is known by its own references
			for field, ids := range fields {
				fields[field] = slices.DeleteFunc(ids, func(id string) bool { return s.ownerLocked(strings.ToLower(id)) != nil })
			}
			r.kept[key] = fields
		}
		r.dirty()
	}
	s.resumeJITLocked()
	return nil
}

func (s *Sim) orderedLocked() []*resource {
	list := make([]*resource, 0, len(s.all))
	for _, r := range s.all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *resource) int { return int(a.seq) - int(b.seq) })
	return list
}

// containersOfLocked makes up the subscription and the group of a resource where nothing describes them.
func (s *Sim) containersOfLocked(r *resource) {
	sub := target{scope: "/subscriptions/" + r.t.sub, sub: r.t.sub}
	if s.all[sub.key()] == nil {
		s.containerLocked(sub, map[string]any{})
	}
	if r.t.group == "" {
		return
	}
	group := target{scope: sub.scope + "/resourceGroups/" + r.t.group, sub: r.t.sub, group: r.t.group}
	if s.all[group.key()] == nil {
		body := map[string]any{}
		if loc := text(r.doc(), "location"); loc != "" {
			body["location"] = loc
		}
		s.containerLocked(group, body)
	}
}

func (s *Sim) containerLocked(t target, body map[string]any) *resource {
	r := s.all[t.key()]
	if r == nil {
		r = s.insertLocked(t)
	}
	if t.group != "" {
		body["id"], body["name"], body["type"] = t.id(), t.group, r.typ
		if body["location"] == nil {
			body["location"] = "westeurope"
		}
		props := object(body, "properties")
		if props == nil {
			props = map[string]any{}
			body["properties"] = props
		}
		props["provisioningState"] = "Succeeded"
	} else {
		name := text(body, "displayName")
		if name == "" {
			name = text(body, "name")
		}
		if name == "" {
			name = t.sub
		}
		state := text(body, "state")
		if state == "" {
			state = "Enabled"
		}
		chain := object(body, "properties")["managementGroupAncestorsChain"]
		body = map[string]any{
			"id": t.id(), "authorizationSource": "RoleBased", "managedByTenants": []any{}, "subscriptionId": t.sub, "tenantId": TenantID,
			"displayName": name, "state": state, "tags": body["tags"],
			"subscriptionPolicies": map[string]any{"locationPlacementId": "Internal_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"},
		}
		if body["tags"] == nil {
			delete(body, "tags")
		}
		if chain != nil {
			body["properties"] = map[string]any{"managementGroupAncestorsChain": chain}
		}
	}
	r.setDoc(body)
	return r
}

// Dump is the whole estate in the format of Load. Loading it gives the same state, etags included, apart from running operations.
func (s *Sim) Dump() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	var buf bytes.Buffer
	buf.WriteString(`{"resources":[`)
	n := 0
	for _, r := range s.orderedLocked() {
		if n++; n > 1 {
			buf.WriteByte(',')
		}
		buf.WriteByte('\n')
		var raw []byte
		if r.typeKey == typeVM || r.typeKey == typeVMSSVM {
			raw = mustJSON(s.stampedLocked(r)) // with the instance view
		} else {
			raw = s.rawLocked(r)
		}
		buf.Write(raw)
	}
	buf.WriteString("\n]}\n")
	return buf.Bytes()
}

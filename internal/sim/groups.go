package sim

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// deleteGroupLocked is DELETE of a resource group: 202 with a Location alone, whose poll answers 202 and then 200 without a body (recorded). At
// the end everything in it is gone. Locks in it or above it refuse at once; what others refer to makes it fail, as reported.
func (s *Sim) deleteGroupLocked(r *request, t target, g *resource) *answer {
	if ae := s.lockedLocked(t.key(), "delete", true); ae != nil {
		return ae.answer()
	}
	inside := t.key() + "/"
	for lk := range s.locks {
		if strings.HasPrefix(lk, inside) {
			scope, _, _ := strings.Cut(lk, "/providers/microsoft.authorization/locks/")
			if ae := s.lockedLocked(scope, "delete", true); ae != nil {
				return ae.answer()
			}
		}
	}
	op := &operation{id: s.uuidLocked(), sign: s.uuidLocked(), name: "DeleteResourceGroupOperation", sub: t.sub, api: r.api, start: s.nowLocked(), target: t, status: "InProgress", remove: true, result: []byte{}}
	s.keepOperationLocked(op)
	g.setDoc(withState(g.doc(), "Deleting"))
	g.dirty()
	s.countLocked(g.key)
	s.atLocked(s.nowLocked().Add(s.cfg.OperationDelay), func() {
		if s.all[g.key] != g {
			s.endLocked(op, "Succeeded", nil)
			return
		}
		if users := s.usersOfGroupLocked(inside); len(users) > 0 {
			g.setDoc(withState(g.doc(), "Succeeded"))
			g.dirty()
			s.endLocked(op, "Failed", &armError{Status: 409, Code: "ResourceGroupDeletionBlocked", Message: "Deletion of resource group '" + t.group + "' failed as resources with identifiers '" + strings.Join(users, ",") + "' could not be deleted. The provisioning state of the resource group will be rolled back."})
			return
		}
		for _, res := range s.orderedLocked() {
			if strings.HasPrefix(res.key, inside) && s.all[res.key] == res {
				s.removeLocked(res)
			}
		}
		s.removeLocked(g)
		s.endLocked(op, "Succeeded", nil)
	})
	a := ok(202, nil)
	a.header.Set("Location", s.groupPoll(r, op))
	if s.cfg.RetryAfter > 0 {
		a.header.Set("Retry-After", seconds(s.cfg.RetryAfter))
	}
	return a
}

func (s *Sim) groupPoll(r *request, op *operation) string {
	return r.base + "/subscriptions/" + op.sub + "/operationresults/" + op.id + "?api-version=" + url.QueryEscape(op.api) + "&t=639000000000000000&c=simulated&s=" + op.sign + "&h=simulated"
}

// groupResultLocked answers the poll of a group's DELETE.
func (s *Sim) groupResultLocked(r *request, id string) *answer {
	a := s.operationLocked(r, id, true)
	if a.status == 202 {
		a.header = http.Header{}
		a.header.Set("Location", s.groupPoll(r, s.ops[id]))
		if s.cfg.RetryAfter > 0 {
			a.header.Set("Retry-After", seconds(s.cfg.RetryAfter))
		}
	}
	return a
}

// usersOfGroupLocked are the things in a group that something outside refers to, where Azure refuses to delete such a thing.
func (s *Sim) usersOfGroupLocked(inside string) (used []string) {
	for key, from := range s.refs {
		owner := s.ownerLocked(key)
		if owner == nil || !strings.HasPrefix(key, inside) || owner.typeKey == typeVNet && !strings.Contains(key, "/subnets/") {
			continue
		}
		for o := range from {
			if !strings.HasPrefix(strings.ToLower(o.id), inside) && !slices.Contains(used, owner.id) {
				used = append(used, owner.id)
			}
		}
	}
	slices.Sort(used)
	return used
}

func withState(body map[string]any, state string) map[string]any {
	out, _ := cloneJSON(body).(map[string]any)
	props := object(out, "properties")
	if props == nil {
		props = map[string]any{}
		out["properties"] = props
	}
	props["provisioningState"] = state
	return out
}

package sim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// operation is a long-running write. Its end is an event on the simulated clock.
type operation struct {
	id       string
	sign     string // signs the poll URL, as in newer api-versions: clients must use it verbatim (FACTS 2.5)
	name     string // as Azure's messages call it, e.g. PutNetworkSecurityGroupOperation
	sub      string
	provider string
	location string
	api      string
	resource string // key
	target   target // what the write was about: the NSG or the rule
	remove   bool
	start    time.Time
	end      time.Time
	status   string // InProgress, Succeeded, Failed, Canceled
	err      *armError
	stuck    string // id of the fault that keeps it running
	result   []byte // answer of operationResults where it is not the resource; empty, not nil: none
	output   bool   // the result is shown by the status too
	finish   func()
	logEnd   func(*operation)
	after    func() // what else follows success
}

const opsKept = 20000

func (s *Sim) newOperationLocked(r *request, res *resource, t target, verb string) *operation {
	loc := "westeurope"
	if res != nil {
		if l := text(res.doc(), "location"); l != "" {
			loc = strings.ToLower(strings.ReplaceAll(l, " ", ""))
		}
	}
	last := t.types[len(t.types)-1]
	op := &operation{id: s.uuidLocked(), sign: s.uuidLocked(), name: verb + singular(last) + "Operation", sub: t.sub, provider: t.ns, location: loc, api: r.api,
		start: s.nowLocked(), target: t, status: "InProgress", remove: verb == "Delete"}
	if k, ok := kinds[strings.ToLower(t.ns+"/"+t.types[0])]; ok {
		op.provider, _, _ = strings.Cut(k.name, "/")
	}
	if res != nil {
		op.resource = res.key
	}
	s.keepOperationLocked(op)
	return op
}

func (s *Sim) keepOperationLocked(op *operation) {
	s.ops[op.id] = op
	s.opOrder = append(s.opOrder, op.id)
	if len(s.opOrder) > opsKept {
		delete(s.ops, s.opOrder[0])
		s.opOrder = s.opOrder[1:]
	}
}

func singular(segment string) string {
	s := strings.ToUpper(segment[:1]) + segment[1:]
	if strings.HasSuffix(s, "sses") {
		return strings.TrimSuffix(s, "es")
	}
	return strings.TrimSuffix(s, "s")
}

// endLocked ends an operation once.
func (s *Sim) endLocked(op *operation, status string, err *armError) {
	if op.status != "InProgress" {
		return
	}
	op.status, op.err, op.stuck, op.end = status, err, "", s.nowLocked()
	if r := s.all[op.resource]; r != nil && r.op == op {
		r.op = nil
	}
	if op.finish != nil {
		op.finish()
		op.finish = nil
	}
	if op.logEnd != nil {
		op.logEnd(op)
		op.logEnd = nil
	}
}

// headers of the reply that started op; result adds Location. URLs are absolute, with the host that the client used.
func (s *Sim) opHeaders(op *operation, r *request, h http.Header, async, location bool) {
	u := r.base + "/subscriptions/" + op.sub + "/providers/" + op.provider + "/locations/" + url.PathEscape(op.location)
	q := "?api-version=" + url.QueryEscape(op.api) + "&t=639000000000000000&c=simulated&s=" + op.sign + "&h=simulated"
	h.Set("Azure-AsyncNotification", "Enabled")
	if async {
		h.Set("Azure-AsyncOperation", u+"/operations/"+op.id+q)
	}
	if location {
		h.Set("Location", u+"/operationResults/"+op.id+q)
	}
	if s.cfg.RetryAfter > 0 {
		h.Set("Retry-After", seconds(s.cfg.RetryAfter))
	}
}

func seconds(d time.Duration) string {
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}

// operationLocked answers polls: /subscriptions/S/providers/NS/locations/L/{operations|operationResults}/ID.
func (s *Sim) operationLocked(r *request, id string, result bool) *answer {
	op := s.ops[id]
	if op == nil || r.query.Get("s") != op.sign {
		return (&armError{Status: 404, Code: "NotFound", Message: "Operation " + id + " not found, or its poll URL was changed."}).answer()
	}
	a := &answer{status: 200, header: http.Header{}}
	if op.status == "InProgress" && s.cfg.RetryAfter > 0 {
		a.header.Set("Retry-After", seconds(s.cfg.RetryAfter))
	}
	if !result {
		body := map[string]any{"status": op.status}
		if op.provider == "Microsoft.Compute" { // as recorded; the network provider says no more than the status
			body["name"], body["startTime"] = op.id, op.start.Format(time.RFC3339Nano)
			if op.status != "InProgress" {
				body["endTime"] = op.end.Format(time.RFC3339Nano)
			}
		}
		if op.err != nil {
			body["error"] = op.err.body()
		}
		if op.output && op.status == "Succeeded" {
			body["properties"] = map[string]any{"output": json.RawMessage(op.result)}
		}
		a.body = mustJSON(body)
		return a
	}
	switch {
	case op.status == "InProgress":
		a.status = 202
		s.opHeaders(op, r, a.header, true, true)
	case op.err != nil:
		e := *op.err
		if e.Status == 0 {
			e.Status = 409
		}
		return e.answer()
	case op.result != nil:
		a.body = op.result
	case op.remove:
		a.status = 204
	default:
		raw, _, ok := s.lookLocked(op.target, view{})
		if !ok {
			return notFound(op.target).answer()
		}
		a.body = raw
	}
	return a
}

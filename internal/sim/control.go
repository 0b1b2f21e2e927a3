package sim

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const controlHelp = `Control API of the Azure simulator. Loopback only, no token. Bodies are JSON, durations "90s" or seconds.

GET    /_sim/                      this text
GET    /_sim/faults                armed faults, with how often each matched and struck
POST   /_sim/faults                arm one: {"method","pathPattern","count","skip","kind",...}; answers {"id"}
POST   /_sim/schedule              arm many: {"seed","faults":[...]}, YAML or JSON lines
DELETE /_sim/faults                disarm all; DELETE /_sim/faults/ID one
GET    /_sim/clock                 {"now","offset"}
POST   /_sim/clock                 {"advance":"1h"} or {"offset":"-5m"}
GET    /_sim/estate                dump: {"resources":[...]}
PUT    /_sim/estate                load, replaces everything
GET    /_sim/resource?id=ID        one resource as it stands
POST   /_sim/resource?id=ID        an outside hand: {"removeRules":"regexp","addRules":[...],"merge":{...},"replace":{...},"delete":true}
DELETE /_sim/resource?id=ID        an outside hand deletes it at once
GET    /_sim/requests[?since=SEQ]  the last requests
GET    /_sim/writes?id=ID          {"writes":N} by clients to a resource and its parts
POST   /_sim/settings              {"operationDelay":"2s","retryAfter":"1s","concurrency":"retry"|"supersede","throttle":true,"graphQuota":true,"graphLag":"30s"}
GET    /_sim/token                 {"accessToken"} for curl

Fault kinds: error, throttle, another-operation, superseded, operation-failed, operation-stuck, lost-reply, lost-request, slow, late,
stale-read, truncated, not-json, edit, clock-skew. Fields: id, method, pathPattern, bodyPattern, count, skip, status, code, message, retryAfter, delay, applied,
versions, body, hang, after, for, every, probability, skew, edit{resource, delete, removeRules, addRules, merge, replace}.
`

// control answers the control API. It is open to the loopback interface, and closed to pages in a browser, which name their origin.
func (s *Sim) control(r *request, remote string) *answer {
	host, _, err := net.SplitHostPort(remote)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() || r.header.Get("Origin") != "" {
		return (&armError{Status: 403, Code: "Forbidden", Message: "The control API answers programs on this machine only."}).answer()
	}
	say := func(v any) *answer { return ok(200, mustJSON(v)) }
	refuse := func(err error) *answer { return badRequest("BadRequest", "%v", err).answer() }
	id := r.query.Get("id")
	path := strings.Trim(strings.TrimPrefix(r.path, "/_sim"), "/")
	what, rest, _ := strings.Cut(path, "/")
	switch r.method + " " + what {
	case "GET ":
		a := ok(200, []byte(controlHelp))
		a.header.Set("Content-Type", "text/plain; charset=utf-8")
		return a
	case "GET faults":
		list := []any{}
		for _, f := range s.Faults() {
			list = append(list, struct {
				faultJSON
				Matched int `json:"matched"`
				Struck  int `json:"struck"`
			}{encodeFault(&f.Fault), f.Matched, f.Struck})
		}
		return say(map[string]any{"items": list})
	case "POST faults":
		f, err := decodeFault(r.body)
		if err != nil {
			return refuse(err)
		}
		id, err := s.Fault(f)
		if err != nil {
			return refuse(err)
		}
		return say(map[string]any{"id": id})
	case "POST schedule":
		sch, err := ParseSchedule(r.body)
		if err == nil {
			err = s.Arm(sch)
		}
		if err != nil {
			return refuse(err)
		}
		return say(map[string]any{"armed": len(sch.Faults)})
	case "DELETE faults":
		if rest == "" {
			s.ClearFaults()
		} else if !s.ClearFault(rest) {
			return (&armError{Status: 404, Code: "NotFound", Message: "No fault has the id " + rest + "."}).answer()
		}
		return say(map[string]any{})
	case "POST clock":
		var in struct {
			Advance *jsonDuration `json:"advance"`
			Offset  *jsonDuration `json:"offset"`
		}
		if err := strict(r.body, &in); err != nil {
			return refuse(err)
		}
		if in.Offset != nil {
			s.SetTimeOffset(time.Duration(*in.Offset))
		}
		if in.Advance != nil {
			s.Advance(time.Duration(*in.Advance))
		}
		fallthrough
	case "GET clock":
		s.mu.Lock()
		defer s.mu.Unlock()
		return say(map[string]any{"now": s.nowLocked(), "offset": s.offset.String()})
	case "GET estate":
		return ok(200, s.Dump())
	case "PUT estate", "POST estate":
		if err := s.Load(r.body); err != nil {
			return refuse(err)
		}
		return say(map[string]any{})
	case "GET resource":
		raw, found := s.Get(id)
		if !found {
			return (&armError{Status: 404, Code: "NotFound", Message: "No resource has the id " + id + "."}).answer()
		}
		return ok(200, raw)
	case "POST resource", "DELETE resource":
		e := Edit{Delete: r.method == http.MethodDelete}
		if !e.Delete {
			if err := strict(r.body, &e); err != nil {
				return refuse(err)
			}
		}
		if e.Resource == "" {
			e.Resource = id
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settleLocked()
		if err := s.applyEditLocked(&e, id); err != nil {
			return refuse(err)
		}
		return say(map[string]any{})
	case "GET requests":
		since, _ := strconv.Atoi(r.query.Get("since"))
		list := []RequestRecord{}
		for _, rec := range s.Requests() {
			if rec.Seq >= since {
				list = append(list, rec)
			}
		}
		return say(map[string]any{"items": list})
	case "GET writes":
		return say(map[string]any{"writes": s.Writes(id)})
	case "POST settings":
		var in struct {
			OperationDelay *jsonDuration `json:"operationDelay"`
			Concurrency    *Concurrency  `json:"concurrency"`
			RetryAfter     *jsonDuration `json:"retryAfter"`
			Throttle       *bool         `json:"throttle"`
			GraphQuota     *bool         `json:"graphQuota"`
			GraphLag       *jsonDuration `json:"graphLag"`
		}
		if err := strict(r.body, &in); err != nil {
			return refuse(err)
		}
		if in.Concurrency != nil {
			if err := s.SetConcurrency(*in.Concurrency); err != nil {
				return refuse(err)
			}
		}
		if in.OperationDelay != nil {
			s.SetOperationDelay(time.Duration(*in.OperationDelay))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if in.RetryAfter != nil {
			s.cfg.RetryAfter = time.Duration(*in.RetryAfter)
		}
		if in.Throttle != nil {
			s.cfg.Throttle = *in.Throttle
		}
		if in.GraphQuota != nil {
			s.cfg.GraphQuota = *in.GraphQuota
		}
		if in.GraphLag != nil {
			s.cfg.GraphLag = time.Duration(*in.GraphLag)
		}
		return say(map[string]any{})
	case "GET token":
		return say(map[string]any{"accessToken": s.Token()})
	}
	return (&armError{Status: 404, Code: "NotFound", Message: "No such control: " + r.method + " " + r.path + ". GET /_sim/ lists them."}).answer()
}

func strict(data []byte, into any) error {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

package sim

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

const maxBatch = 500

// batchLocked carries out several requests in one, one after another: POST /batch. The parts run as if they had been sent alone, with the
// batch's token, apart from faults, which see the batch as a whole.
func (s *Sim) batchLocked(r *request) *answer {
	if r.method != http.MethodPost {
		return methodNotAllowed(r).answer()
	}
	var in struct {
		Requests []struct {
			Name    string            `json:"name"`
			Method  string            `json:"httpMethod"`
			URL     string            `json:"url"`
			Rel     string            `json:"relativeUrl"`
			Content json.RawMessage   `json:"content"`
			Header  map[string]string `json:"requestHeaders"`
		} `json:"requests"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return invalidContent(err).answer()
	}
	if len(in.Requests) == 0 || len(in.Requests) > maxBatch {
		return badRequest("InvalidBatchRequest", "A batch holds 1 to %d requests, not %d.", maxBatch, len(in.Requests)).answer()
	}
	responses := []any{}
	for _, q := range in.Requests {
		where := q.URL
		if where == "" {
			where = q.Rel
		}
		u, err := url.Parse(where)
		if err != nil {
			return badRequest("InvalidBatchRequest", "The url '%s' cannot be read.", where).answer()
		}
		h := http.Header{"Authorization": r.header["Authorization"]}
		for k, v := range q.Header {
			if !strings.EqualFold(k, "Authorization") {
				h.Set(k, v)
			}
		}
		path := "/" + strings.Trim(u.Path, "/")
		one := &request{method: strings.ToUpper(q.Method), path: path, query: u.Query(), rawQuery: u.RawQuery, header: h, body: q.Content, base: r.base, remote: r.remote}
		if one.method == "" {
			one.method = http.MethodGet
		}
		one.api = one.query.Get("api-version")
		var a *answer
		if strings.EqualFold(path, "/batch") || strings.HasPrefix(path, "/_sim") {
			a = badRequest("InvalidBatchRequest", "A batch cannot hold %s.", path).answer()
		} else {
			a = s.serveLocked(one)
		}
		s.finishLocked(one, a, s.uuidLocked(), s.nowLocked())
		s.logActivityLocked(one, a)
		headers := map[string]string{}
		for k, v := range a.header {
			headers[k] = v[0]
		}
		out := map[string]any{"httpStatusCode": a.status, "headers": headers, "contentLength": len(a.body)}
		if q.Name != "" {
			out["name"] = q.Name
		}
		if len(a.body) > 0 {
			out["content"] = json.RawMessage(a.body)
		}
		responses = append(responses, out)
	}
	return ok(200, mustJSON(map[string]any{"responses": responses}))
}

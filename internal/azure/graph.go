package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	graphRows          = 1000 // a page at most
	graphSubscriptions = 300  // a query; larger groups are answered slowly. FACTS 3
	// GraphSubscriptions is how many subscriptions one query may name. FACTS 3.
	GraphSubscriptions = 1000
)

// Graph runs a Resource Graph query over subscriptions, or over the whole tenant when there are none, and yields its rows page
// by page. The query must project id and order by it, else Azure gives no further page; an answer that was cut off is an error
// and never a short list. When the quota is used up the next page waits for it. An error ends the rows.
//
// Resource Graph is a cache: confirm with the resource provider before anything is changed.
func (c *Client) Graph(ctx context.Context, subscriptions []string, query string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		rest := subscriptions
		for first := true; first || len(rest) > 0; first = false {
			n := min(len(rest), graphSubscriptions)
			ask := GraphQuery{Query: query, Subscriptions: rest[:n]}
			rest = rest[n:]
			for token, more := "", true; more; more = token != "" {
				p, err := c.GraphPage(ctx, ask, token)
				if err == nil && p.Limited {
					err = graphError(Permanent, errors.New("more subscriptions than one query covers: name them"))
				}
				if err != nil {
					yield(nil, err)
					return
				}
				for _, r := range p.Rows {
					if !yield(r, nil) {
						return
					}
				}
				token = p.Next
			}
		}
	}
}

// GraphQuery is one question to Resource Graph, over at most GraphSubscriptions subscriptions, or over management groups, or over
// all that the identity sees when it names neither.
type GraphQuery struct {
	Query            string
	Subscriptions    []string
	ManagementGroups []string
}

// GraphPage is one page of an answer.
type GraphPage struct {
	Rows  []json.RawMessage // parts of one text: a row that is kept keeps the page
	Total int               // rows of the whole answer, 0 when it was not told
	Next  string            // token of the next page, "" after the last
	// Limited tells that the scope has more subscriptions than Azure looked into. FACTS 3.
	Limited bool
}

// GraphPage asks for one page of at most 1,000 rows, the first where token is "". An answer that was cut off, and a page that names
// itself as the next, is an error. It waits for the quota rather than be refused, and calls may overlap: no more are on their way
// than the quota has left. It may be repeated.
func (c *Client) GraphPage(ctx context.Context, q GraphQuery, token string) (GraphPage, error) {
	options := map[string]any{"$top": graphRows, "resultFormat": "objectArray"}
	if token != "" {
		options["$skipToken"] = token
	}
	ask := map[string]any{"query": q.Query, "options": options}
	if len(q.Subscriptions) > 0 {
		ask["subscriptions"] = q.Subscriptions
	}
	if len(q.ManagementGroups) > 0 {
		ask["managementGroups"] = q.ManagementGroups
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return GraphPage{}, graphError(Invalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
	defer cancel()
	r, err := c.do(ctx, &call{op: "query Resource Graph", subscription: "resource graph", method: http.MethodPost, body: body,
		url: c.url("/providers/Microsoft.ResourceGraph/resources", graphVersion), quota: &c.graph})
	if err != nil {
		return GraphPage{}, err
	}
	p := GraphPage{Limited: strings.EqualFold(r.header.Get("x-ms-tenant-subscription-limit-hit"), "true")}
	cut, data := false, false
	var inner error
	err = fieldsOf(r.body, func(name, value []byte) {
		switch string(name) {
		case "data":
			p.Rows = make([]json.RawMessage, 0, graphRows)
			data = true
			inner = elementsOf(value, func(row []byte) error {
				p.Rows = append(p.Rows, row)
				return nil
			})
		case "$skipToken":
			if json.Unmarshal(value, &p.Next) != nil {
				inner = errShape
			}
		case "resultTruncated":
			cut = strings.EqualFold(strings.Trim(string(value), `"`), "true")
		case "totalRecords":
			p.Total, _ = strconv.Atoi(string(value)) // for an estimate alone
		}
	})
	switch {
	case err != nil:
		return GraphPage{}, graphError(Transient, err)
	case !data:
		return GraphPage{}, graphError(Transient, errors.New("the reply has no data"))
	case inner != nil:
		return GraphPage{}, graphError(Transient, inner)
	case p.Next == "" && cut:
		return GraphPage{}, graphError(Permanent, errors.New("the result was cut off and has no next page"))
	case p.Next != "" && p.Next == token:
		return GraphPage{}, graphError(Transient, errors.New("the next page is the one that was read"))
	}
	return p, nil
}

func graphError(class Class, err error) *Error {
	return &Error{Op: "query Resource Graph", Class: class, Status: http.StatusOK, Err: err}
}

// enter waits until a query may leave, or ctx is over. Each success must be followed by leave.
func (q *graphQuota) enter(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		wait := q.reset.Sub(q.clock.Now())
		if wait <= 0 && q.known {
			q.left, q.known = max(q.size, 1), false // a new window, of which nothing was told yet
		}
		if q.size == 0 && q.flying == 0 || q.size > 0 && q.flying < q.left {
			q.flying++
			return nil
		}
		if q.changed == nil {
			q.changed = make(chan struct{})
		}
		changed := q.changed
		q.mu.Unlock()
		var timer <-chan time.Time
		if wait > 0 {
			timer = q.clock.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		}
		q.mu.Lock()
	}
}

// leave records what a reply told, nil where there was none. When the window ends is told in whole seconds, and by each reply: the
// earliest of what they say is the nearest.
func (q *graphQuota) leave(h http.Header) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying--
	now := q.clock.Now()
	left, err := strconv.Atoi(h.Get("x-ms-user-quota-remaining"))
	switch {
	case err != nil && q.size == 0 && h != nil:
		q.size, q.left = graphQueries, graphQueries // it is not told: the documented one, and refusals say the rest
	case err == nil && left >= 0:
		wait, err := clockDuration(h.Get("x-ms-user-quota-resets-after"))
		if err != nil {
			wait = graphWindow
		}
		at := now.Add(wait)
		if !q.known || !now.Before(q.reset) {
			q.reset, q.left = at, left
		} else {
			if at.Before(q.reset) {
				q.reset = at
			}
			q.left = min(q.left, left)
		}
		q.known = true
		q.size = max(q.size, left+1)
	}
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

// The documented quota: 15 queries of a user in five seconds. FACTS 3.
const (
	graphQueries = 15
	graphWindow  = 5 * time.Second
)

// clockDuration reads hh:mm:ss.
func clockDuration(s string) (time.Duration, error) {
	var h, m, sec int
	if n, err := fmt.Sscanf(s, "%d:%d:%d", &h, &m, &sec); err != nil || n != 3 || h < 0 || m < 0 || sec < 0 {
		return 0, fmt.Errorf("%q is not hh:mm:ss", s)
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(sec)*time.Second, nil
}

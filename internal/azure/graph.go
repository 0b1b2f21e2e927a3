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
			batch := rest[:n]
			rest = rest[n:]
			for token, more := "", true; more; more = token != "" {
				rows, next, err := c.graphPage(ctx, batch, query, token)
				if err == nil && next != "" && next == token {
					err = graphError(Transient, errors.New("the next page is the one that was read"))
				}
				if err != nil {
					yield(nil, err)
					return
				}
				for _, r := range rows {
					if !yield(r, nil) {
						return
					}
				}
				token = next
			}
		}
	}
}

func graphError(class Class, err error) *Error {
	return &Error{Op: "query Resource Graph", Class: class, Status: http.StatusOK, Err: err}
}

func (c *Client) graphPage(ctx context.Context, subscriptions []string, query, token string) ([]json.RawMessage, string, error) {
	options := map[string]any{"$top": graphRows, "resultFormat": "objectArray"}
	if token != "" {
		options["$skipToken"] = token
	}
	ask := map[string]any{"query": query, "options": options}
	if len(subscriptions) > 0 {
		ask["subscriptions"] = subscriptions
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, "", graphError(Invalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.ReadTimeout)
	defer cancel()
	if err := c.awaitGraphQuota(ctx); err != nil {
		return nil, "", graphError(Transient, err)
	}
	r, err := c.do(ctx, &call{op: "query Resource Graph", subscription: "resource graph", method: http.MethodPost, body: body,
		url: c.url("/providers/Microsoft.ResourceGraph/resources", graphVersion)})
	if err != nil {
		return nil, "", err
	}
	c.noteGraphQuota(r.header)
	if strings.EqualFold(r.header.Get("x-ms-tenant-subscription-limit-hit"), "true") {
		return nil, "", graphError(Permanent, errors.New("more subscriptions than one query covers: name them"))
	}
	var p struct {
		Data            *[]json.RawMessage `json:"data"`
		SkipToken       string             `json:"$skipToken"`
		ResultTruncated string             `json:"resultTruncated"`
	}
	if err := decode(r.body, &p); err != nil {
		return nil, "", graphError(Transient, err)
	}
	if p.Data == nil {
		return nil, "", graphError(Transient, errors.New("the reply has no data"))
	}
	if p.SkipToken == "" && strings.EqualFold(p.ResultTruncated, "true") {
		return nil, "", graphError(Permanent, errors.New("the result was cut off and has no next page"))
	}
	return *p.Data, p.SkipToken, nil
}

func (c *Client) awaitGraphQuota(ctx context.Context) error {
	for {
		c.graph.mu.Lock()
		wait := c.graph.until.Sub(c.clock.Now())
		c.graph.mu.Unlock()
		if wait <= 0 {
			return ctx.Err()
		}
		select {
		case <-c.clock.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// noteGraphQuota holds the next query back once the quota is used up.
func (c *Client) noteGraphQuota(h http.Header) {
	left, err := strconv.Atoi(h.Get("x-ms-user-quota-remaining"))
	if err != nil || left > 0 {
		return
	}
	wait, err := clockDuration(h.Get("x-ms-user-quota-resets-after"))
	if err != nil {
		wait = 5 * time.Second // the documented window
	}
	c.graph.mu.Lock()
	defer c.graph.mu.Unlock()
	if at := c.clock.Now().Add(wait); at.After(c.graph.until) {
		c.graph.until = at
	}
}

// clockDuration reads hh:mm:ss.
func clockDuration(s string) (time.Duration, error) {
	var h, m, sec int
	if n, err := fmt.Sscanf(s, "%d:%d:%d", &h, &m, &sec); err != nil || n != 3 || h < 0 || m < 0 || sec < 0 {
		return 0, fmt.Errorf("%q is not hh:mm:ss", s)
	}
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(sec)*time.Second, nil
}
